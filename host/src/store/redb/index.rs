//! What lists, statistics and quotas need beside the rows: instances by the time of
//! their creation, how many there are of each status, and what their histories take;
//! each by namespace.
//!
//! All are of folded turns, like the rows, and change in the transaction that changes a
//! row. A file that has not all of them gets them when it is opened, from its rows.

use std::collections::BTreeMap;

use redb::{Database, ReadTransaction, ReadableDatabase as _, ReadableTable, Table, TableError, WriteTransaction};

use super::error::Doing;
use super::tables::{self, COUNTS, CREATED, HISTORY, INSTANCES, SIZES, corrupt};
use crate::core::ids::{InstanceId, TimestampMs};
use crate::core::namespace::{self, Namespace};
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
    sizes: Table<'t, &'static str, &'static [u8]>,
    /// By the key of the namespace.
    changes: BTreeMap<Box<str>, Change>,
}

/// What is different in a namespace.
#[derive(Default)]
struct Change {
    counts: BTreeMap<Status, i64>,
    bytes: i64,
}

impl<'t> Indexes<'t> {
    pub(super) fn open(transaction: &'t WriteTransaction) -> Result<Self, StoreError> {
        Ok(Self {
            created: transaction.open_table(CREATED).doing("open the index by creation")?,
            counts: transaction.open_table(COUNTS).doing("open the counts")?,
            sizes: transaction.open_table(SIZES).doing("open the sizes")?,
            changes: BTreeMap::new(),
        })
    }

    fn change(&mut self, space: &str) -> &mut Change {
        if !self.changes.contains_key(space) {
            self.changes.insert(space.into(), Change::default());
        }
        self.changes.get_mut(space).expect("it was put there")
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
        let change = self.change(instance.space());
        for (place, by) in [(before, -1), (after, 1)] {
            if let Some(place) = place {
                *change.counts.entry(place.status).or_default() += by;
            }
        }
        Ok(())
    }

    /// So many bytes of turns of that namespace came, or went.
    pub(super) fn resize(&mut self, space: &str, by: i64) {
        self.change(space).bytes += by;
    }

    /// Writes what has changed since [`Self::open`].
    pub(super) fn finish(mut self) -> Result<(), StoreError> {
        for (space, change) in self.changes {
            for (status, by) in change.counts {
                let name = namespace::qualified(&space, &status.to_string());
                add(&mut self.counts, "counts", &name, by)?;
            }
            add(&mut self.sizes, "sizes", size_key(&space), change.bytes)?;
        }
        Ok(())
    }
}

/// Adds to the number at `key`, and makes it if there is none.
fn add(
    table: &mut Table<'_, &'static str, &'static [u8]>,
    name: &'static str,
    key: &str,
    by: i64,
) -> Result<(), StoreError> {
    if by == 0 {
        return Ok(());
    }
    let before = match table.get(key).doing("read a number of an index")? {
        Some(row) => read_number(name, key, row.value())?,
        None => 0,
    };
    let after = before.checked_add_signed(by);
    let after = after.ok_or_else(|| corrupt(format!("{name} of {}", namespace::shown(key)), "it is too low"))?;
    let row = tables::seal_value(&Codec::plain(), name, key.as_bytes(), &after);
    table.insert(key, row.as_slice()).doing("write a number of an index")?;
    Ok(())
}

fn read_number(table: &'static str, key: &str, row: &[u8]) -> Result<u64, StoreError> {
    tables::open_value(&Codec::plain(), table, key.as_bytes(), row, || format!("{table} of {}", namespace::shown(key)))
}

/// Every number of an index.
fn numbers(
    rows: &impl ReadableTable<&'static str, &'static [u8]>,
    table: &'static str,
) -> Result<Vec<(String, u64)>, StoreError> {
    let mut found = Vec::new();
    for row in rows.iter().doing("read an index")? {
        let (key, row) = row.doing("read an index")?;
        found.push((key.value().to_owned(), read_number(table, key.value(), row.value())?));
    }
    Ok(found)
}

/// Folded instances of each status, by the key of their namespace.
pub(super) fn counts(trees: &ReadTransaction) -> Result<BTreeMap<(String, Status), u64>, StoreError> {
    let rows = trees.open_table(COUNTS).doing("open the counts")?;
    let of = |(name, count): (String, u64)| {
        let (space, status) = namespace::split(&name);
        let status = status.parse::<Status>().map_err(|why| corrupt("the counts", why))?;
        Ok(((space.to_owned(), status), count))
    };
    numbers(&rows, "counts")?.into_iter().map(of).collect()
}

/// Bytes of folded turns, by the key of their namespace.
pub(super) fn sizes(trees: &ReadTransaction) -> Result<BTreeMap<Box<str>, u64>, StoreError> {
    let rows = trees.open_table(SIZES).doing("open the sizes")?;
    let of = |(name, bytes): (String, u64)| {
        let namespace = Namespace::new(&name).map_err(|why| corrupt("the sizes", why))?;
        Ok((namespace.key().into(), bytes))
    };
    numbers(&rows, "sizes")?.into_iter().map(of).collect()
}

fn size_key(space: &str) -> &str {
    if space.is_empty() { namespace::DEFAULT } else { space }
}

/// The namespace's mark, that a time begins with in no foreseeable future.
const MARK: u8 = 0x1f;

/// The key of an instance in the index by creation; keys of a namespace stand together,
/// by time, then by id.
pub(super) fn created_key(at: TimestampMs, instance: &InstanceId) -> Vec<u8> {
    let (space, local) = instance.as_str().split_at(instance.as_str().len() - instance.local().len());
    [space.as_bytes(), &at.0.to_be_bytes(), local.as_bytes()].concat()
}

/// The keys of a namespace: from the one on and before the other.
pub(super) fn created_keys_of(namespace: &Namespace) -> (Vec<u8>, Vec<u8>) {
    let first = namespace.prefix().into_bytes();
    let mut end = first.clone();
    end.pop();
    end.push(if namespace.is_default() { MARK } else { MARK + 1 });
    (first, end)
}

/// Reads what [`created_key`] wrote.
pub(super) fn read_created_key(key: &[u8]) -> Result<(TimestampMs, InstanceId), StoreError> {
    let read = || {
        let space = match key.strip_prefix(&[MARK]) {
            Some(rest) => rest.iter().position(|byte| *byte == MARK)? + 2,
            None => 0,
        };
        let (space, rest) = key.split_at_checked(space)?;
        let (at, local) = rest.split_first_chunk()?;
        let id = [std::str::from_utf8(space).ok()?, std::str::from_utf8(local).ok()?].concat();
        Some((TimestampMs(u64::from_be_bytes(*at)), InstanceId::stored(&id).ok()?))
    };
    read().ok_or_else(|| corrupt("the index by creation", "a key that is none"))
}

/// The instance of a key in `history`, and its execution.
pub(super) fn owner_of_history(key: &[u8]) -> Option<(&str, u32)> {
    let (id, place) = key.split_at_checked(key.len().checked_sub(9)?)?;
    let execution = u32::from_be_bytes(*place.get(1..)?.first_chunk()?);
    if place[0] == 0 { Some((std::str::from_utf8(id).ok()?, execution)) } else { None }
}

/// Makes the indexes if the file has none.
pub(super) fn ensure(database: &Database, codec: &Codec) -> Result<(), StoreError> {
    let is_there = {
        let trees = database.begin_read().doing("look for the indexes")?;
        // The one that came last.
        match trees.open_table(SIZES) {
            Err(TableError::TableDoesNotExist(_)) => false,
            sizes => sizes.map(|_| true).doing("look for the indexes")?,
        }
    };
    if is_there { Ok(()) } else { make(database, codec) }
}

/// Makes the indexes from the rows.
pub(super) fn make(database: &Database, codec: &Codec) -> Result<(), StoreError> {
    let transaction = database.begin_write().doing("make the indexes")?;
    transaction.delete_table(CREATED).doing("make the indexes")?;
    transaction.delete_table(COUNTS).doing("make the indexes")?;
    transaction.delete_table(SIZES).doing("make the indexes")?;
    {
        let rows = transaction.open_table(INSTANCES).doing("open the instances")?;
        let mut indexes = Indexes::open(&transaction)?;
        for row in rows.iter().doing("list the instances")? {
            let (id, row) = row.doing("list the instances")?;
            let id = InstanceId::stored(id.value()).map_err(|error| corrupt("the key of an instance", error))?;
            let summary = tables::decode_summary(codec, &id, row.value())?;
            indexes.replace(&id, None, Some(Place::of(&summary)))?;
        }
        let histories = transaction.open_table(HISTORY).doing("open the histories")?;
        for row in histories.iter().doing("list the histories")? {
            let (key, row) = row.doing("list the histories")?;
            let bytes = tables::history_row_bytes(codec, key.value(), row.value())?;
            let owner = owner_of_history(key.value()).ok_or_else(|| corrupt("the histories", "a key that is none"))?;
            indexes.resize(namespace::split(owner.0).0, bytes as i64);
        }
        indexes.finish()?;
    }
    transaction.commit().doing("make the indexes")
}
