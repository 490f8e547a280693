//! Removing instances.
//!
//! Turns of an instance can be in the log, in a generation being folded and in the
//! trees. So a purge folds all that is left and empties the log, and removes the
//! instance's rows, in one transaction: there is no moment at which a crash could
//! bring a part of it back. Folding is bounded by what generations hold.

use std::sync::PoisonError;
use std::sync::atomic::Ordering;

use redb::WriteTransaction;

use super::error::Doing;
use super::index::{Indexes, Place};
use super::overlay::Overlay;
use super::payloads::Shelf;
use super::tables::{self, HISTORY, INSTANCES, RUNNING, SNAPSHOTS};
use super::{Options, RedbStore, Writer};
use crate::core::ids::InstanceId;
use crate::store::StoreError;

impl RedbStore {
    /// Removes those of `instances` that nobody has to do with any more; which they were.
    pub(super) fn purge_ended(
        &self,
        writer: &mut Writer,
        instances: &[InstanceId],
    ) -> Result<Vec<InstanceId>, StoreError> {
        let (ended, held) = {
            let view = self.view()?;
            let mut ended = Vec::new();
            for instance in instances {
                let Some(row) = view.summary(instance)? else { continue };
                let caller = row.caller.as_ref().map(|caller| view.summary(&caller.instance)).transpose()?.flatten();
                if !row.is_needed(caller.as_ref()) && !ended.contains(instance) {
                    ended.push(instance.clone());
                }
            }
            (ended, view.overlay)
        };
        if ended.is_empty() {
            return Ok(ended);
        }
        let transaction = self.database.begin_write().doing("purge")?;
        writer.log.fold_rest(&transaction, &self.options, &held)?;
        let gone = remove(&transaction, &self.options, &ended)?;
        // Readers see the trees and the overlay change at once: with the old overlay
        // they would find turns whose beginning is gone.
        let mut overlay = self.overlay.write().unwrap_or_else(PoisonError::into_inner);
        transaction.commit().doing("purge")?;
        *overlay = Overlay { visible: overlay.visible, ..Overlay::default() };
        writer.log.emptied();
        self.resize(gone.iter().map(|(space, bytes)| (&**space, -*bytes)));
        self.counters.folds.fetch_add(1 + u64::from(held.frozen.is_some()), Ordering::Relaxed);
        Ok(ended)
    }
}

/// Removes their rows; how many bytes of turns that were, by the key of the namespace.
fn remove(
    transaction: &WriteTransaction,
    options: &Options,
    instances: &[InstanceId],
) -> Result<Vec<(Box<str>, i64)>, StoreError> {
    let mut history = transaction.open_table(HISTORY).doing("remove a history")?;
    let mut rows = transaction.open_table(INSTANCES).doing("remove an instance")?;
    let mut running = transaction.open_table(RUNNING).doing("remove an instance")?;
    let mut snapshots = transaction.open_table(SNAPSHOTS).doing("remove an instance")?;
    let mut shelf = Shelf::new(transaction, options);
    let mut indexes = Indexes::open(transaction)?;
    let mut gone = Vec::new();
    for instance in instances {
        shelf.remove_all(instance)?;
        let (first, last) = (tables::history_key(instance, 0, 0), tables::history_key(instance, u32::MAX, u32::MAX));
        let mut bytes = 0;
        // One that is damaged goes as well, and nobody knows how long it was: `verify` then
        // says that the sizes are wrong.
        let sum = |key: &[u8], row: &[u8]| {
            bytes += tables::history_row_bytes(&options.codec, key, row).unwrap_or(0) as i64;
            false
        };
        history.retain_in(first.as_slice()..=last.as_slice(), sum).doing("remove a history")?;
        indexes.resize(instance.space(), -bytes);
        gone.push((instance.space().into(), bytes));
        if let Some(row) = rows.remove(instance.as_str()).doing("remove an instance")? {
            let summary = tables::decode_summary(&options.codec, instance, row.value())?;
            indexes.replace(instance, Some(Place::of(&summary)), None)?;
        }
        running.remove(instance.as_str()).doing("remove an instance")?;
        snapshots.remove(instance.as_str()).doing("remove a snapshot")?;
    }
    indexes.finish()?;
    Ok(gone)
}
