//! What lists and statistics need beside the rows: instances by the time of their
//! creation, and how many there are of each status.
//!
//! Both are of folded turns, like the rows, and change in the transaction that changes a
//! row. A file that has neither gets them when it is opened, from its rows.

use std::collections::BTreeMap;

use redb::{Database, ReadTransaction, ReadableDatabase as _, ReadableTable as _, Table, TableError, WriteTransaction};

use super::error::Doing;
use super::tables::{self, COUNTS, CREATED, INSTANCES, corrupt};
use crate::core::ids::{InstanceId, TimestampMs};
use crate::core::summary::{Status, Summary};
use crate::store::StoreError;
use crate::store::codec::Codec;

/// What the indexes say of an instance.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Place {
    created_at: TimestampMs,
    status: Status,
}

impl Place {
    pub(super) fn of(summary: &Summary) -> Self {
        Self { created_at: summary.created_at, status: summary.status }
    }
}

/// The indexes, for writing.
pub(super) struct Indexes<'t> {
    created: Table<'t, &'static [u8], ()>,
    counts: Table<'t, &'static str, &'static [u8]>,
    changes: BTreeMap<Status, i64>,
}

impl<'t> Indexes<'t> {
    pub(super) fn open(transaction: &'t WriteTransaction) -> Result<Self, StoreError> {
        Ok(Self {
            created: transaction.open_table(CREATED).doing("open the index by creation")?,
            counts: transaction.open_table(COUNTS).doing("open the counts")?,
            changes: BTreeMap::new(),
        })
    }

    /// An instance's row was the one and is the other.
    pub(super) fn replace(
        &mut self,
        instance: &InstanceId,
        before: Option<Place>,
        after: Option<Place>,
    ) -> Result<(), StoreError> {
        let at = |place: Option<Place>| place.map(|place| place.created_at);
        if at(before) != at(after) {
            if let Some(at) = at(before) {
                self.created.remove(created_key(at, instance).as_slice()).doing("index an instance")?;
            }
            if let Some(at) = at(after) {
                self.created.insert(created_key(at, instance).as_slice(), ()).doing("index an instance")?;
            }
        }
        for (place, by) in [(before, -1), (after, 1)] {
            if let Some(place) = place {
                *self.changes.entry(place.status).or_default() += by;
            }
        }
        Ok(())
    }

    /// Writes what has changed since [`Self::open`].
    pub(super) fn finish(mut self) -> Result<(), StoreError> {
        for (status, by) in self.changes.into_iter().filter(|(_, by)| *by != 0) {
            let name = status.to_string();
            let before = match self.counts.get(name.as_str()).doing("read a count")? {
                Some(row) => read_count(&name, row.value())?,
                None => 0,
            };
            let after = before.checked_add_signed(by);
            let after = after.ok_or_else(|| corrupt(format!("the count of {name}"), "it is too low"))?;
            let row = tables::seal_value(&Codec::plain(), "counts", name.as_bytes(), &after);
            self.counts.insert(name.as_str(), row.as_slice()).doing("write a count")?;
        }
        Ok(())
    }
}

/// Folded instances of each status.
pub(super) fn counts(trees: &ReadTransaction) -> Result<BTreeMap<Status, u64>, StoreError> {
    let rows = trees.open_table(COUNTS).doing("open the counts")?;
    let mut counts = BTreeMap::new();
    for row in rows.iter().doing("read the counts")? {
        let (name, row) = row.doing("read the counts")?;
        let status = name.value().parse::<Status>().map_err(|why| corrupt("the counts", why))?;
        counts.insert(status, read_count(name.value(), row.value())?);
    }
    Ok(counts)
}

fn read_count(name: &str, row: &[u8]) -> Result<u64, StoreError> {
    tables::open_value(&Codec::plain(), "counts", name.as_bytes(), row, || format!("the count of {name}"))
}

/// The key of an instance in the index by creation; keys sort by time, then by id.
pub(super) fn created_key(at: TimestampMs, instance: &InstanceId) -> Vec<u8> {
    [&at.0.to_be_bytes()[..], instance.as_str().as_bytes()].concat()
}

/// Reads what [`created_key`] wrote.
pub(super) fn read_created_key(key: &[u8]) -> Result<(TimestampMs, InstanceId), StoreError> {
    let read = || {
        let (at, id) = key.split_first_chunk()?;
        Some((TimestampMs(u64::from_be_bytes(*at)), InstanceId::new(std::str::from_utf8(id).ok()?).ok()?))
    };
    read().ok_or_else(|| corrupt("the index by creation", "a key that is none"))
}

/// Makes the indexes if the file has none.
pub(super) fn ensure(database: &Database, codec: &Codec) -> Result<(), StoreError> {
    let is_there = {
        let trees = database.begin_read().doing("look for the indexes")?;
        match trees.open_table(COUNTS) {
            Err(TableError::TableDoesNotExist(_)) => false,
            counts => counts.map(|_| true).doing("look for the indexes")?,
        }
    };
    if is_there { Ok(()) } else { make(database, codec) }
}

/// Makes the indexes from the rows.
pub(super) fn make(database: &Database, codec: &Codec) -> Result<(), StoreError> {
    let transaction = database.begin_write().doing("make the indexes")?;
    transaction.delete_table(CREATED).doing("make the indexes")?;
    transaction.delete_table(COUNTS).doing("make the indexes")?;
    {
        let rows = transaction.open_table(INSTANCES).doing("open the instances")?;
        let mut indexes = Indexes::open(&transaction)?;
        for row in rows.iter().doing("list the instances")? {
            let (id, row) = row.doing("list the instances")?;
            let id = InstanceId::new(id.value()).map_err(|error| corrupt("the key of an instance", error))?;
            let summary = tables::decode_summary(codec, &id, row.value())?;
            indexes.replace(&id, None, Some(Place::of(&summary)))?;
        }
        indexes.finish()?;
    }
    transaction.commit().doing("make the indexes")
}
