//! From the log into rows by instance.
//!
//! Folding moves a generation's turns, a slice of instances at a time, into
//! `history`, `instances` and `running`. Invariant: an instance's summary row
//! says how far it is folded and changes in the same transaction as its history
//! rows, so folding the same turns again does nothing. That makes it safe to stop
//! anywhere, and to fold the whole log once more when the store is opened.

use std::ops::Bound;

use redb::{Database, ReadableTable, ReadableTableMetadata as _, Table, WriteTransaction};

use super::Options;
use super::error::Doing;
use super::index::{Indexes, Place};
use super::overlay::{Entry, Held, follows};
use super::payloads::Shelf;
use super::tables::{self, HISTORY, INSTANCES, RUNNING, SNAPSHOTS, Stored, corrupt};
use crate::core::ids::{Hash, InstanceId};
use crate::core::summary::Summary;
use crate::core::turn::TurnRecord;
use crate::store::StoreError;
use crate::store::codec::Codec;

/// Turns in one transaction.
const TURNS_AT_ONCE: usize = 16 << 10;

/// Folds all of `held`, in transactions of bounded size; `at_end` writes into the last one.
/// `rest` is told how many turns are folded, after each instance.
pub(super) fn fold_all(
    database: &Database,
    options: &Options,
    held: &Held,
    at_end: impl Fn(&WriteTransaction) -> Result<(), StoreError>,
    rest: &mut dyn FnMut(usize),
) -> Result<(), StoreError> {
    let (mut after, mut folded) = (None, 0);
    loop {
        let transaction = database.begin_write().doing("fold the log")?;
        let last = fold_slice(&transaction, options, held, after.as_ref(), |turns| {
            folded += turns;
            rest(folded);
        })?;
        if last.is_none() {
            at_end(&transaction)?;
        }
        transaction.commit().doing("fold the log")?;
        match last {
            Some(last) => after = Some(last),
            None => return Ok(()),
        }
    }
}

/// Folds instances after `after`, by id, until [`TURNS_AT_ONCE`] turns are done. Returns
/// the last instance folded; none when nothing is left. Tells `folded` how many turns each had.
fn fold_slice(
    transaction: &WriteTransaction,
    options: &Options,
    held: &Held,
    after: Option<&InstanceId>,
    mut folded: impl FnMut(usize),
) -> Result<Option<InstanceId>, StoreError> {
    let mut rows = Rows {
        history: transaction.open_table(HISTORY).doing("open the histories")?,
        instances: transaction.open_table(INSTANCES).doing("open the instances")?,
        running: transaction.open_table(RUNNING).doing("open the running instances")?,
        shelf: Shelf::new(transaction, options),
        indexes: Indexes::open(transaction)?,
        snapshots: Some(transaction.open_table(SNAPSHOTS).doing("open the snapshots")?),
    };
    if rows.snapshots.as_ref().map(|table| table.is_empty()).transpose().doing("open the snapshots")? == Some(true) {
        rows.snapshots = None;
    }
    let mut last = None;
    let mut turns_done = 0;
    let from = after.map_or(Bound::Unbounded, |id| Bound::Excluded(id.as_str()));
    for (instance, entries) in held.range(from) {
        fold_instance(&mut rows, &options.codec, instance, entries)?;
        folded(entries.len());
        turns_done += entries.len();
        if turns_done >= TURNS_AT_ONCE {
            last = Some(instance.clone());
            break;
        }
    }
    rows.indexes.finish()?;
    Ok(last)
}

struct Rows<'t> {
    history: Table<'t, &'static [u8], &'static [u8]>,
    instances: Table<'t, &'static str, &'static [u8]>,
    running: Table<'t, &'static str, ()>,
    shelf: Shelf<'t>,
    indexes: Indexes<'t>,
    /// None: there is none.
    snapshots: Option<Table<'t, &'static str, &'static [u8]>>,
}

fn fold_instance(
    rows: &mut Rows<'_>,
    codec: &Codec,
    instance: &InstanceId,
    entries: &[Entry],
) -> Result<(), StoreError> {
    let id = instance.as_str();
    let folded = match rows.instances.get(id).doing("read an instance")? {
        Some(row) => Some(tables::decode_summary(codec, instance, row.value())?),
        None => None,
    };
    let entries = unfolded(folded.as_ref(), entries);
    if entries.is_empty() {
        return Ok(());
    }
    for run in entries.chunk_by(|a, b| a.execution == b.execution) {
        let key = tables::history_key(instance, run[0].execution, run[0].turn);
        let cuts = run.iter().map(|entry| rows.shelf.cut(instance, &entry.bytes)).collect::<Result<Vec<_>, _>>()?;
        let turns = run.iter().zip(&cuts).enumerate().map(|(at, (entry, cut))| match (cut, at) {
            (Some(cut), _) => Stored::Cut(cut),
            (None, 0) => Stored::Whole(&entry.bytes),
            (None, _) => Stored::after(&run[at - 1].bytes, &entry.bytes),
        });
        let turns: Vec<_> = turns.collect();
        let row = tables::encode_history_row(codec, &key, &turns);
        rows.history.insert(key.as_slice(), row.as_slice()).doing("write a history")?;
    }
    let first_execution = entries[0].execution;
    let ran = folded.as_ref().map(|row| (row.execution, row.module));
    let was_running = folded.as_ref().is_some_and(Summary::is_open);
    let was_at = folded.as_ref().map(Place::of);
    let Some(summary) = advance(instance, folded, entries)? else { return Ok(()) };
    let is_running = summary.is_open();
    rows.instances.insert(id, tables::encode_summary(codec, &summary).as_slice()).doing("write an instance")?;
    rows.indexes.replace(instance, was_at, Some(Place::of(&summary)))?;
    let bytes: usize = entries.iter().map(|entry| entry.bytes.len()).sum();
    rows.indexes.resize(instance.space(), bytes as i64);
    if let Some(snapshots) = &mut rows.snapshots
        && (summary.status.is_final()
            || summary.execution > first_execution
            || ran.is_some_and(|ran| ran != (summary.execution, summary.module)))
    {
        // It is of no use any more.
        snapshots.remove(id).doing("remove a snapshot")?;
    }
    if is_running && !was_running {
        rows.running.insert(id, ()).doing("write a running instance")?;
    } else if was_running && !is_running {
        rows.running.remove(id).doing("remove a running instance")?;
    }
    Ok(())
}

/// The entries that `folded` does not contain yet.
pub(super) fn unfolded<'a>(folded: Option<&Summary>, entries: &'a [Entry]) -> &'a [Entry] {
    let position = folded.map_or((0, 0), |summary| (summary.execution, summary.turns));
    let done = entries.iter().take_while(|entry| entry.position() <= position).count();
    &entries[done..]
}

/// The summary after `entries`, which begin where it ends.
pub(super) fn advance(
    instance: &InstanceId,
    mut summary: Option<Summary>,
    entries: &[Entry],
) -> Result<Option<Summary>, StoreError> {
    for (index, entry) in entries.iter().enumerate() {
        let what = || format!("history of {instance} execution {} at turn {}", entry.execution, entry.turn);
        let position = summary.as_ref().map_or((0, 0), |s| (s.execution, s.turns));
        if !follows(position, entry.position()) {
            let (execution, turn) = position;
            return Err(corrupt(what(), format!("it follows turn {turn} of execution {execution}")));
        }
        let record = TurnRecord::decode(&entry.bytes).map_err(|why| corrupt(what(), why))?;
        // Only the last turn's hash stays in the row.
        let last = index + 1 == entries.len();
        let hash = if last { Hash::of(&entry.bytes) } else { Hash::ZERO };
        match &mut summary {
            Some(summary) if entry.turn > 1 => summary.apply(&record, hash),
            _ => {
                let first = Summary::of_first(&record, hash);
                summary = Some(first.ok_or_else(|| corrupt(what(), "a first turn that does not start an execution"))?);
            }
        }
    }
    Ok(summary)
}
