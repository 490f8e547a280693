//! Snapshots of running instances: one row for each that has one.
//!
//! They are written by transactions of their own that sync nothing: the next fold
//! makes them durable with it, and a death before that loses a snapshot, which nobody
//! is owed. A row goes with its instance's end, its next life or its next module, in
//! the transaction that folds that.

use redb::{Database, Durability, ReadableDatabase as _, TableError};

use super::error::{Doing, guarded};
use super::tables::{self, SNAPSHOTS};
use super::{RedbStore, StoreError};
use crate::core::ids::InstanceId;
use crate::store::Epoch;
use crate::store::snapshot::Snapshot;

impl RedbStore {
    pub(super) fn keep_snapshot(
        &self,
        epoch: Epoch,
        instance: &InstanceId,
        snapshot: &Snapshot,
    ) -> Result<bool, StoreError> {
        // Before other writes have to wait for it.
        let row = tables::encode_snapshot(&self.options.codec, instance, snapshot);
        self.shared.not_lost()?;
        guarded(|| {
            let mut transaction = self.begin_write("keep a snapshot")?;
            self.check_epoch(epoch)?;
            // Nothing is folded while this transaction is open: an end that is committed
            // from here on removes the row when it is.
            let summary = self.view()?.summary(instance)?;
            if !summary.is_some_and(|summary| snapshot.may_be_of(&summary)) {
                return Ok(false);
            }
            self.shared.write(|| {
                transaction
                    .set_durability(Durability::None)
                    .map_err(|error| StoreError::Io(format!("cannot keep a snapshot: {error}")))?;
                transaction
                    .open_table(SNAPSHOTS)
                    .doing("keep a snapshot")?
                    .insert(instance.as_str(), row.as_slice())
                    .doing("keep a snapshot")?;
                transaction.commit().doing("keep a snapshot")
            })?;
            Ok(true)
        })
    }
}

/// Makes the table in a file that was made before there was one.
pub(super) fn ensure(database: &Database) -> Result<(), StoreError> {
    let is_there = {
        let trees = database.begin_read().doing("look for the snapshots")?;
        match trees.open_table(SNAPSHOTS) {
            Err(TableError::TableDoesNotExist(_)) => false,
            snapshots => snapshots.map(|_| true).doing("look for the snapshots")?,
        }
    };
    if is_there {
        return Ok(());
    }
    let transaction = database.begin_write().doing("make the snapshots")?;
    transaction.open_table(SNAPSHOTS).doing("make the snapshots")?;
    transaction.commit().doing("make the snapshots")
}
