//! The table `meta`: few named numbers.

use redb::{Database, ReadableDatabase as _, TableError, WriteTransaction};
use serde::Serialize;

use super::error::Doing;
use super::tables::{
    self, META, META_EPOCH, META_FORMAT, META_KEY, META_LOG, MODULE_BYTES, MODULES, Noted, SCHEDULES, corrupt,
};
use crate::store::StoreError;
use crate::store::codec::Codec;

/// The epoch of a file in this format; none in an empty file.
pub(super) fn read_meta(database: &Database) -> Result<Option<u64>, StoreError> {
    let trees = database.begin_read().doing("read its format")?;
    let meta = match trees.open_table(META) {
        Err(TableError::TableDoesNotExist(_)) => return Ok(None),
        meta => meta.doing("read its format")?,
    };
    let number = |name: &'static str| -> Result<u64, StoreError> {
        let row = meta.get(name).doing("read its format")?;
        let row = row.ok_or_else(|| corrupt(name, "it is missing"))?;
        tables::open_value(&Codec::plain(), "meta", name.as_bytes(), row.value(), || format!("its {name}"))
    };
    match number(META_FORMAT)? {
        1..=tables::FORMAT => number(META_EPOCH).map(Some),
        found => Err(StoreError::Newer { found, known: tables::FORMAT }),
    }
}

/// What the tables know of the log. It is read whether or not they are encrypted.
pub(super) fn read_noted(database: &Database) -> Result<Noted, StoreError> {
    let trees = database.begin_read().doing("read what is folded")?;
    let meta = trees.open_table(META).doing("read what is folded")?;
    match meta.get(META_LOG).doing("read what is folded")? {
        Some(row) => {
            let what = || "what is folded of its log".to_owned();
            tables::open_value(&Codec::plain(), "meta", META_LOG.as_bytes(), row.value(), what)
        }
        None => Ok(Noted::default()),
    }
}

pub(super) fn write_noted(transaction: &WriteTransaction, noted: Noted) -> Result<(), StoreError> {
    write_meta(&mut transaction.open_table(META).doing("note what is folded")?, META_LOG, &noted)
}

/// A journal that is encrypted is opened with its keys, or not at all: what a host
/// without them wrote would stand there for all to read.
pub(super) fn check_key(database: &Database, codec: &Codec) -> Result<(), StoreError> {
    let noted: Option<String> = {
        let trees = database.begin_read().doing("read its key")?;
        let meta = trees.open_table(META).doing("read its key")?;
        match meta.get(META_KEY).doing("read its key")? {
            Some(row) => {
                Some(tables::open_value(codec, "meta", META_KEY.as_bytes(), row.value(), || "the journal".to_owned())?)
            }
            None => None,
        }
    };
    if noted.as_deref() == codec.key_id() {
        return Ok(());
    }
    let transaction = database.begin_write().doing("note its key")?;
    {
        let mut meta = transaction.open_table(META).doing("note its key")?;
        let id = codec.key_id().unwrap_or_default();
        let row = tables::seal_value(codec, "meta", META_KEY.as_bytes(), &id);
        meta.insert(META_KEY, row.as_slice()).doing("note its key")?;
    }
    transaction.commit().doing("note its key")
}

pub(super) fn create_tables(database: &Database) -> Result<u64, StoreError> {
    let making = "make its tables";
    let transaction = database.begin_write().doing(making)?;
    {
        let mut meta = transaction.open_table(META).doing(making)?;
        write_meta(&mut meta, META_FORMAT, &tables::FORMAT)?;
        write_meta(&mut meta, META_EPOCH, &0_u64)?;
        transaction.open_table(tables::LOG).doing(making)?;
        transaction.open_table(tables::HISTORY).doing(making)?;
        transaction.open_table(tables::INSTANCES).doing(making)?;
        transaction.open_table(tables::RUNNING).doing(making)?;
        transaction.open_table(MODULES).doing(making)?;
        transaction.open_table(MODULE_BYTES).doing(making)?;
        transaction.open_table(SCHEDULES).doing(making)?;
        transaction.open_table(tables::PAYLOADS).doing(making)?;
        transaction.open_table(tables::CREATED).doing(making)?;
        transaction.open_table(tables::COUNTS).doing(making)?;
        transaction.open_table(tables::SIZES).doing(making)?;
        transaction.open_table(tables::SNAPSHOTS).doing(making)?;
    }
    transaction.commit().doing(making)?;
    Ok(0)
}

pub(super) fn write_meta(
    meta: &mut redb::Table<'_, &'static str, &'static [u8]>,
    name: &str,
    value: &impl Serialize,
) -> Result<(), StoreError> {
    let row = tables::seal_value(&Codec::plain(), "meta", name.as_bytes(), value);
    meta.insert(name, row.as_slice()).doing("write its numbers")?;
    Ok(())
}
