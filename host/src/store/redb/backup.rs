//! Rows out into a backup and back, and the file made small again.
//!
//! A backup is made in one read transaction of redb, once all that is durable is folded:
//! it is the store as of one commit. Commits go on meanwhile; pages that they replace
//! stay until the transaction ends, so the file may grow while a backup is taken.
//!
//! A backup becomes a journal under another name. It gets its own when somebody who has
//! looked at it says so ([`Draft::keep`]), so there is never a half-restored journal.

use std::fs::File;
use std::io::{Read, Write};
use std::path::{Path, PathBuf};
use std::sync::Arc;

use redb::{
    CompactionError, Database, Durability, Key, ReadTransaction, ReadableDatabase as _, ReadableTable as _,
    TableDefinition, TableHandle as _, Value, WriteTransaction,
};

use super::error::{Doing, guarded};
use super::files::{beside, open_file, put_in_place, refuse_left_log, sync_folder_of};
use super::meta::{create_tables, read_noted, write_noted};
use super::tables::{self, EachTable, NAMES, corrupt};
use super::{Options, RedbStore, index};
use crate::store::StoreError;
use crate::store::backup::{BackupError, BackupReader, BackupWriter, Contents, Rows};
use crate::store::codec::Codec;

/// Bytes of rows in one transaction of a restore.
const BYTES_PER_TRANSACTION: u64 = 32 << 20;

impl RedbStore {
    pub(super) fn write_backup(&self, to: &mut dyn Write) -> Result<Contents, BackupError> {
        // The tables have all that is durable, and nothing is folded before they are read.
        let trees = {
            let mut writer = self.writer()?;
            let id = writer.log.id();
            if id.is_some() {
                self.shared.write(|| self.fold_rest(&mut writer, id))?;
            }
            self.database.begin_read().doing("read")?
        };
        for table in trees.list_tables().doing("list the tables")? {
            if !NAMES.contains(&table.name()) {
                let what = format!("the table {}", table.name());
                return Err(corrupt(what, "this version does not know it").into());
            }
        }
        let mut copy = Copy { trees: &trees, writer: BackupWriter::begin(to, tables::FORMAT)? };
        tables::each_table(&mut copy)?;
        copy.writer.end()
    }

    /// Moves what is in the file to its front and cuts off what is free; whether that
    /// made it smaller. A death on the way leaves a whole file.
    ///
    /// # Errors
    /// If the medium fails.
    pub fn compact(&mut self) -> Result<bool, StoreError> {
        let database = Arc::get_mut(&mut self.database);
        let database = database.ok_or_else(|| StoreError::Io("cannot compact: it is being folded".to_owned()))?;
        guarded(|| {
            database.compact().map_err(|error| match error {
                CompactionError::Storage(error) => Err::<(), _>(error).doing("compact").unwrap_err(),
                error => StoreError::Io(format!("cannot compact: {error}")),
            })
        })
    }

    /// Makes a journal of a backup beside where it is to be, for `path`.
    ///
    /// # Errors
    /// If there is a journal at `path`, another process restores one there, or the
    /// backup is not whole.
    pub fn restore(path: &Path, options: Options, from: &mut dyn Read) -> Result<Draft, BackupError> {
        if path.exists() {
            let path = path.display();
            return Err(StoreError::Io(format!("there is {path} already; restore into an empty folder")).into());
        }
        refuse_left_log(path)?;
        let draft = beside(path, ".restoring");
        clear(&draft)?;
        let filled = guarded(|| {
            let database = open_file(&draft, &options)?;
            fill(&database, &options.codec, from)?;
            database.close().doing("close the restored file")?;
            Ok::<_, BackupError>(())
        });
        let store = filled.and_then(|()| Ok(Self::open_with(&draft, options)?));
        match store {
            Ok(store) => Ok(Draft { store: Some(store), draft, path: path.to_owned() }),
            Err(error) => {
                let _ = std::fs::remove_file(&draft);
                Err(error)
            }
        }
    }
}

/// A restored journal that does not count yet; it is gone with this, unless it is kept.
#[derive(Debug)]
pub struct Draft {
    store: Option<RedbStore>,
    draft: PathBuf,
    path: PathBuf,
}

impl Draft {
    /// What was restored, to be looked at.
    ///
    /// # Panics
    /// Never: it is closed by [`Self::keep`] only.
    pub fn store(&self) -> &RedbStore {
        self.store.as_ref().expect("it is open until it is kept")
    }

    /// Makes it the journal.
    ///
    /// # Errors
    /// If it cannot be closed, or cannot get its name.
    pub fn keep(mut self) -> Result<(), StoreError> {
        if let Some(store) = self.store.take() {
            store.shut()?;
            // Makes all of it durable, and says so where it is not.
            store.change("close the restored file", None, |_| Ok(()))?;
        }
        put_in_place(&self.draft, &self.path)?;
        let _not_there_if_renamed = std::fs::remove_file(&self.draft);
        sync_folder_of(&self.path)
    }
}

impl Drop for Draft {
    fn drop(&mut self) {
        if self.store.take().is_some() {
            let _ = std::fs::remove_file(&self.draft);
        }
    }
}

/// Empties what an interrupted restore left, unless one is under way.
fn clear(draft: &Path) -> Result<(), StoreError> {
    let failed = |error: std::io::Error| StoreError::Io(format!("cannot make {}: {error}", draft.display()));
    let file = File::options().write(true).create(true).truncate(false).open(draft).map_err(failed)?;
    match file.try_lock() {
        Ok(()) => file.set_len(0).map_err(failed),
        Err(std::fs::TryLockError::WouldBlock) => Err(StoreError::InUse { path: draft.display().to_string() }),
        Err(std::fs::TryLockError::Error(error)) => Err(failed(error)),
    }
}

/// Copies every row into a backup.
struct Copy<'t, 'w> {
    trees: &'t ReadTransaction,
    writer: BackupWriter<'w>,
}

impl EachTable for Copy<'_, '_> {
    fn table<K: Key + 'static, V: Value + 'static>(
        &mut self,
        definition: TableDefinition<'static, K, V>,
    ) -> Result<(), BackupError> {
        let name = definition.name();
        let table = self.trees.open_table(definition).doing("read a table")?;
        for row in table.iter().doing("read a table")? {
            let (key, value) = row.doing("read a table")?;
            let (key, value) = (key.value(), value.value());
            let (key, value) = (K::as_bytes(&key), V::as_bytes(&value));
            tables::check_row(name, key.as_ref(), value.as_ref())?;
            self.writer.row(name, key.as_ref(), value.as_ref())?;
        }
        Ok(())
    }
}

/// Puts the rows of a backup into an empty file.
fn fill(database: &Database, codec: &Codec, from: &mut dyn Read) -> Result<(), BackupError> {
    let mut reader = BackupReader::begin(from)?;
    let found = reader.journal_format();
    if found > tables::FORMAT {
        return Err(StoreError::Newer { found, known: tables::FORMAT }.into());
    }
    create_tables(database)?;
    let (mut done, mut is_more) = (0, true);
    while is_more {
        let mut transaction = database.begin_write().doing("restore")?;
        // Only the last one must be durable: until then the file is nobody's.
        is_more = loop {
            let Some(rows) = reader.next_rows()? else { break false };
            tables::each_table(&mut Insert { transaction: &transaction, rows: &rows })?;
            if reader.contents().bytes > done + BYTES_PER_TRANSACTION {
                done = reader.contents().bytes;
                break true;
            }
        };
        if is_more {
            transaction.set_durability(Durability::None).map_err(|error| StoreError::Io(error.to_string()))?;
        }
        transaction.commit().doing("restore")?;
    }
    let noted = read_noted(database)?;
    if noted.id.is_some() {
        // The tables have all that its log had.
        let transaction = database.begin_write().doing("restore")?;
        write_noted(&transaction, tables::Noted { id: None, ..noted })?;
        transaction.commit().doing("restore")?;
    }
    if !reader.contents().rows.contains_key("sizes") {
        // It was taken before there were all the indexes, or of an empty store.
        index::make(database, codec)?;
    }
    match reader.contents().rows.keys().find(|name| !NAMES.contains(&name.as_str())) {
        Some(name) => Err(corrupt(format!("the table {name} of the backup"), "this version does not know it").into()),
        None => Ok(()),
    }
}

/// Puts rows into their table.
struct Insert<'t> {
    transaction: &'t WriteTransaction,
    rows: &'t Rows,
}

impl EachTable for Insert<'_> {
    fn table<K: Key + 'static, V: Value + 'static>(
        &mut self,
        definition: TableDefinition<'static, K, V>,
    ) -> Result<(), BackupError> {
        if definition.name() != self.rows.table {
            return Ok(());
        }
        let mut table = self.transaction.open_table(definition).doing("restore a table")?;
        for (key, value) in &self.rows.rows {
            table.insert(K::from_bytes(key), V::from_bytes(value)).doing("restore a row")?;
        }
        Ok(())
    }
}
