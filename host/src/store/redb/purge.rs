//! Removing instances.
//!
//! Turns of an instance can be in the log, in a generation being folded and in the
//! trees. So a purge first folds all that is left, and then removes the instance's rows
//! in one transaction. The tables say by then that nothing in the log is to be folded
//! again, so there is no moment at which a crash could bring a part of it back. Folding
//! is bounded by what generations hold.

use redb::WriteTransaction;

use super::error::Doing;
use super::index::{Indexes, Place};
use super::payloads::Shelf;
use super::tables::{self, HISTORY, INSTANCES, RUNNING, SNAPSHOTS};
use super::view::View;
use super::{Options, RedbStore, Writer};
use crate::core::ids::InstanceId;
use crate::core::mail::Seen;
use crate::store::{Store as _, StoreError};

impl RedbStore {
    /// Removes those of `instances` that nobody has to do with any more; which they were.
    pub(super) fn purge_ended(
        &self,
        writer: &mut Writer,
        instances: &[InstanceId],
    ) -> Result<Vec<InstanceId>, StoreError> {
        // What was appended counts: it may be a new life of one that has ended.
        self.sync(writer.log.last())?;
        let mut ended = Vec::new();
        {
            let view = self.view()?;
            for instance in instances {
                let Some(row) = view.summary(instance)? else { continue };
                let caller = row.caller.as_ref().map(|caller| view.summary(&caller.instance)).transpose()?.flatten();
                if row.is_needed(caller.as_ref()) || ended.contains(instance) {
                    continue;
                }
                if row.took_mail && view.may_hear_again(instance)? {
                    continue;
                }
                ended.push(instance.clone());
            }
        }
        if ended.is_empty() {
            return Ok(ended);
        }
        // First all is folded, whole and durable by itself.
        self.fold_rest(writer, writer.log.id())?;
        let transaction = self.begin_write("purge")?;
        let gone = remove(&transaction, &self.options, &ended)?;
        transaction.commit().doing("purge")?;
        self.resize(gone.iter().map(|(space, bytes)| (&**space, -*bytes)));
        Ok(ended)
    }
}

impl View {
    /// Whether a letter that the instance took could come again: its sender does not
    /// know yet that it was taken. Only what is purged is asked this, so the history is
    /// read for it rather than a list of letters kept in every row.
    fn may_hear_again(&self, instance: &InstanceId) -> Result<bool, StoreError> {
        let turns = match self.history(instance, None).and_then(|history| history.map(|of| of.decode()).transpose()) {
            Ok(turns) => turns.unwrap_or_default(),
            Err(error @ StoreError::Corrupt { .. }) => {
                tracing::warn!(%instance, %error, "not purged: what it took of others cannot be read");
                return Ok(true);
            }
            Err(error) => return Err(error),
        };
        for letter in Seen::of_history(&turns).letters() {
            if self.summary(&letter.instance)?.is_some_and(|sender| sender.may_send_again(&letter)) {
                return Ok(true);
            }
        }
        Ok(false)
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
