//! Large payloads, each in a row of its own.
//!
//! A turn with payloads over [`Options::payloads_above`](super::Options) is folded
//! without them: they are put into a table of their own in the same transaction, under
//! the instance's id and the hash of their bytes, and the turn says where each belongs.
//! So a payload stands there once, also when the instance passes it on. Readers of the store, hashes and recordings know only whole
//! turns.
//!
//! Invariant: a payload's row is there as long as a turn of its instance is; it goes
//! when the instance is purged. Two instances never share a row, so nothing is counted.

use std::sync::Arc;

use redb::{ReadOnlyTable, ReadTransaction, ReadableTable as _, Table, WriteTransaction};

use super::Options;
use super::error::Doing;
use super::tables::{self, PAYLOADS, corrupt};
use crate::core::ids::{Hash, InstanceId};
use crate::core::large;
use crate::store::StoreError;
use crate::store::codec::Codec;

/// The table, for writing; opened when the first large payload comes.
pub(super) struct Shelf<'t> {
    transaction: &'t WriteTransaction,
    options: &'t Options,
    rows: Option<Table<'t, &'static [u8], &'static [u8]>>,
}

impl<'t> Shelf<'t> {
    pub(super) fn new(transaction: &'t WriteTransaction, options: &'t Options) -> Self {
        Self { transaction, options, rows: None }
    }

    /// Keeps the large payloads of `turn`; how the turn is written without them. None:
    /// it has none, and is written as it is.
    pub(super) fn cut(&mut self, instance: &InstanceId, turn: &[u8]) -> Result<Option<Vec<u8>>, StoreError> {
        if turn.len() <= self.options.payloads_above {
            return Ok(None);
        }
        let places = large::places(turn, self.options.payloads_above);
        if places.is_empty() {
            return Ok(None);
        }
        let mut hashes = Vec::with_capacity(places.len());
        for place in &places {
            let payload = &turn[place.clone()];
            let hash = Hash::of(payload);
            self.put(instance, hash, payload)?;
            hashes.push(hash);
        }
        Ok(Some(tables::cut_turn(turn, &places, &hashes)))
    }

    fn put(&mut self, instance: &InstanceId, hash: Hash, payload: &[u8]) -> Result<(), StoreError> {
        let rows = match &mut self.rows {
            Some(rows) => rows,
            none => none.insert(self.transaction.open_table(PAYLOADS).doing("open the payloads")?),
        };
        let key = tables::payload_key(instance, hash);
        if rows.get(key.as_slice()).doing("look for a payload")?.is_none() {
            let row = tables::encode_payload_row(&self.options.codec, &key, payload);
            rows.insert(key.as_slice(), row.as_slice()).doing("keep a payload")?;
        }
        Ok(())
    }

    /// Forgets all payloads of an instance.
    pub(super) fn remove_all(&mut self, instance: &InstanceId) -> Result<(), StoreError> {
        let (first, last) =
            (tables::payload_key(instance, Hash([0; 32])), tables::payload_key(instance, Hash([255; 32])));
        let mut rows = self.transaction.open_table(PAYLOADS).doing("remove payloads")?;
        rows.retain_in(first.as_slice()..=last.as_slice(), |_, _| false).doing("remove payloads")
    }
}

/// The table, for reading; opened when the first one is asked for.
pub(super) struct Reader<'t> {
    trees: &'t ReadTransaction,
    codec: &'t Codec,
    rows: Option<ReadOnlyTable<&'static [u8], &'static [u8]>>,
}

impl<'t> Reader<'t> {
    pub(super) fn new(trees: &'t ReadTransaction, codec: &'t Codec) -> Self {
        Self { trees, codec, rows: None }
    }

    /// The bytes of a payload.
    pub(super) fn get(&mut self, instance: &InstanceId, hash: Hash) -> Result<Arc<[u8]>, StoreError> {
        let rows = match &mut self.rows {
            Some(rows) => rows,
            none => none.insert(self.trees.open_table(PAYLOADS).doing("open the payloads")?),
        };
        let key = tables::payload_key(instance, hash);
        let what = || format!("payload {} of {instance}", hash.short());
        match rows.get(key.as_slice()).doing("read a payload")? {
            Some(row) => tables::decode_payload_row(self.codec, &key, row.value(), what),
            None => Err(corrupt(what(), "it is not there")),
        }
    }
}
