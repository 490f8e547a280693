//! One moment of the store, for one read.
//!
//! A view is the overlay and the B-trees as they were when it was taken, so a
//! read that takes several steps sees no commit come in between. Turns that are
//! in both count once: the summary row says how far the trees go.

use std::collections::{BTreeMap, HashMap};
use std::ops::Bound;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use redb::{ReadOnlyTable, ReadTransaction};

use super::error::Doing;
use super::fold::{advance, unfolded};
use super::index;
use super::overlay::Overlay;
use super::payloads::Reader;
use super::tables::{self, CREATED, HISTORY, INSTANCES, RUNNING, SNAPSHOTS, corrupt};
use crate::core::ids::{ExecutionNumber, Hash, InstanceId, TimestampMs};
use crate::core::namespace::Namespace;
use crate::core::summary::{Status, Summary};
use crate::core::turn::TurnRecord;
use crate::store::codec::Codec;
use crate::store::snapshot::Snapshot;
use crate::store::{Filter, History, StoreError, Tail};

/// See the module's page.
pub(super) struct View {
    pub(super) overlay: Overlay,
    /// Begun when the overlay was copied, under the same lock.
    pub(super) trees: ReadTransaction,
    pub(super) codec: Arc<Codec>,
    pub(super) recent: Arc<Recent>,
}

/// Rows of instances of which the overlay holds many turns, as of one of them: none of
/// those is decoded again and again.
#[derive(Debug, Default)]
pub(super) struct Recent(Mutex<HashMap<InstanceId, Summary>>);

impl Recent {
    /// A row that took so many turns is remembered.
    const WORTH: usize = 64;
    /// Rows remembered: few instances have that many turns that are not folded.
    const MOST: usize = 256;

    fn get(&self, instance: &InstanceId) -> Option<Summary> {
        self.rows().get(instance).cloned()
    }

    fn put(&self, row: &Summary) {
        let mut rows = self.rows();
        if rows.len() >= Self::MOST {
            rows.clear();
        }
        rows.insert(row.instance.clone(), row.clone());
    }

    fn rows(&self) -> MutexGuard<'_, HashMap<InstanceId, Summary>> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// Which instances [`View::scan`] goes through.
#[derive(Clone, Copy, PartialEq, Eq)]
pub(super) enum Among {
    All,
    /// Those that had not ended when they were folded last, and all unfolded ones.
    Unfinished,
}

impl View {
    /// The row of an instance's folded turns.
    fn folded(&self, instance: &InstanceId) -> Result<Option<Summary>, StoreError> {
        let instances = self.trees.open_table(INSTANCES).doing("open the instances")?;
        match instances.get(instance.as_str()).doing("read an instance")? {
            Some(row) => tables::decode_summary(&self.codec, instance, row.value()).map(Some),
            None => Ok(None),
        }
    }

    /// Where instances end, for a writer.
    pub(super) fn positions(&self) -> Positions<'_> {
        Positions { view: self, instances: None }
    }

    pub(super) fn summary(&self, instance: &InstanceId) -> Result<Option<Summary>, StoreError> {
        let folded = self.folded(instance)?;
        self.with_overlay(instance, folded)
    }

    fn with_overlay(&self, instance: &InstanceId, folded: Option<Summary>) -> Result<Option<Summary>, StoreError> {
        let position = folded.as_ref().map_or((0, 0), |row| (row.execution, row.turns));
        let is_later = |row: &Summary| (row.execution, row.turns) > position;
        let recent = self.recent.get(instance).filter(is_later);
        let from = recent.as_ref().map(|recent| (recent.execution, recent.turns));
        let mut entries = self.overlay.entries_from(instance.as_str(), from.unwrap_or((position.0, position.1 + 1)));
        // Whether it is the row of this history, and of a moment that is not after this one.
        let is_of_this = |recent: &Summary| entries.first().is_some_and(|at| Hash::of(&at.bytes) == recent.head);
        let (row, known) = match recent {
            Some(recent) if is_of_this(&recent) => (Some(recent), 1),
            Some(_) => {
                entries = self.overlay.entries_from(instance.as_str(), (position.0, position.1 + 1));
                (folded, 0)
            }
            None => (folded, 0),
        };
        let entries = &entries[known..];
        let row = advance(instance, row, entries)?;
        if let Some(row) = row.as_ref().filter(|_| entries.len() > Recent::WORTH) {
            self.recent.put(row);
        }
        Ok(row)
    }

    pub(super) fn history(
        &self,
        instance: &InstanceId,
        execution: Option<ExecutionNumber>,
    ) -> Result<Option<History>, StoreError> {
        let folded = self.folded(instance)?;
        let entries = self.overlay.entries(instance.as_str());
        let entries = unfolded(folded.as_ref(), &entries);
        let current = entries.last().map(|entry| entry.execution).or(folded.as_ref().map(|row| row.execution));
        let Some(execution) = execution.or(current) else { return Ok(None) };

        let mut history = self.folded_history(instance, execution)?;
        check_against_row(&history, folded.as_ref())?;
        for entry in entries.iter().filter(|entry| entry.execution == execution) {
            if entry.turn as usize != history.turns.len() + 1 {
                return Err(missing_turns(&history, entry.turn));
            }
            history.turns.push(entry.bytes.clone());
        }
        Ok((!history.turns.is_empty()).then_some(history))
    }

    /// The folded turns of an execution; their rows follow one another.
    fn folded_history(&self, instance: &InstanceId, execution: ExecutionNumber) -> Result<History, StoreError> {
        let mut history = History { instance: instance.clone(), execution, turns: Vec::new() };
        let rows = self.trees.open_table(HISTORY).doing("open the histories")?;
        let first = tables::history_key(instance, execution, 0);
        let last = tables::history_key(instance, execution, u32::MAX);
        let mut payloads = Reader::new(&self.trees, &self.codec);
        for row in rows.range(first.as_slice()..=last.as_slice()).doing("read a history")? {
            let (key, value) = row.doing("read a history")?;
            let first_turn = tables::first_turn_of_key(key.value()).unwrap_or_default();
            if first_turn as usize != history.turns.len() + 1 {
                return Err(missing_turns(&history, first_turn));
            }
            let what = || format!("history of {instance} execution {execution} from turn {first_turn}");
            let mut lost = false;
            let fetch = &mut |hash| payloads.get(instance, hash).inspect_err(|_| lost = true);
            let read =
                tables::decode_history_row(&self.codec, key.value(), value.value(), 0, &mut history.turns, fetch, what);
            read.map_err(|error| if lost { in_turn(error, &history) } else { error })?;
        }
        Ok(history)
    }

    /// See [`Store::history_from`](crate::store::Store::history_from).
    pub(super) fn history_from(
        &self,
        instance: &InstanceId,
        execution: ExecutionNumber,
        turn: u32,
    ) -> Result<Option<Tail>, StoreError> {
        let row = self.folded(instance)?.filter(|row| row.execution >= execution);
        // Of an execution before the current one all is folded, and no row says how much.
        let known = row.as_ref().filter(|row| row.execution == execution).map(|row| row.turns);
        let mut turns = Vec::new();
        if row.is_some() && known.is_none_or(|last| turn <= last) {
            self.folded_turns(instance, execution, turn, &mut turns)?;
        }
        let found = turn - 1 + turns.len() as u32;
        if let Some(last) = known.filter(|last| turn <= *last && found != *last) {
            let what = format!("history of {instance} execution {execution} at turn {found}");
            return Err(corrupt(what, format!("{last} turns were expected")));
        }
        let held_from = if known.is_some() || row.is_none() { turn.max(known.unwrap_or(0) + 1) } else { u32::MAX };
        turns.extend(self.overlay.turns_from(instance.as_str(), (execution, held_from)));
        let tail = Tail { instance: instance.clone(), execution, turns };
        Ok((!tail.turns.is_empty()).then_some(tail))
    }

    /// The folded turns of an execution from `turn` on.
    fn folded_turns(
        &self,
        instance: &InstanceId,
        execution: ExecutionNumber,
        turn: u32,
        turns: &mut Vec<Arc<[u8]>>,
    ) -> Result<(), StoreError> {
        let rows = self.trees.open_table(HISTORY).doing("open the histories")?;
        let key = |turn| tables::history_key(instance, execution, turn);
        let upto = rows.range(key(0).as_slice()..=key(turn).as_slice()).doing("read a history")?.next_back();
        let Some(row) = upto.transpose().doing("read a history")? else { return Ok(()) };
        let first = tables::first_turn_of_key(row.0.value()).unwrap_or_default();
        let mut payloads = Reader::new(&self.trees, &self.codec);
        let mut next = first;
        for row in rows.range(key(first).as_slice()..=key(u32::MAX).as_slice()).doing("read a history")? {
            let (row_key, value) = row.doing("read a history")?;
            let first = tables::first_turn_of_key(row_key.value()).unwrap_or_default();
            let what = || format!("history of {instance} execution {execution} from turn {first}");
            if first != next {
                return Err(corrupt(what(), format!("turn {next} was expected")));
            }
            let (skipped, before) = (turn.saturating_sub(first), turns.len());
            let fetch = &mut |hash| payloads.get(instance, hash);
            tables::decode_history_row(&self.codec, row_key.value(), value.value(), skipped, turns, fetch, what)?;
            next = first + skipped + (turns.len() - before) as u32;
        }
        Ok(())
    }

    /// See [`Store::snapshot`](crate::store::Store::snapshot).
    pub(super) fn snapshot(&self, instance: &InstanceId) -> Result<Option<Snapshot>, StoreError> {
        let snapshots = self.trees.open_table(SNAPSHOTS).doing("open the snapshots")?;
        let row = snapshots.get(instance.as_str()).doing("read a snapshot")?;
        row.map(|row| tables::decode_snapshot(&self.codec, instance, row.value())).transpose()
    }

    /// See [`Store::counts`](crate::store::Store::counts).
    pub(super) fn counts(&self, namespace: Option<&Namespace>) -> Result<BTreeMap<Status, u64>, StoreError> {
        let is_asked_for = |space: &str| namespace.is_none_or(|namespace| namespace.key() == space);
        let mut counts = BTreeMap::new();
        for ((space, status), count) in index::counts(&self.trees)? {
            if is_asked_for(&space) {
                *counts.entry(status).or_default() += count;
            }
        }
        for id in self.overlay.ids().into_iter().filter(|id| is_asked_for(id.space())) {
            let folded = self.folded(&id)?;
            let before = folded.as_ref().map(|row| row.status);
            let after = self.with_overlay(&id, folded)?.map(|row| row.status);
            if before != after {
                before.into_iter().for_each(|status| *counts.entry(status).or_default() -= 1);
                after.into_iter().for_each(|status| *counts.entry(status).or_default() += 1);
            }
        }
        counts.retain(|_, count| *count > 0);
        Ok(counts)
    }

    /// See [`Store::newest`](crate::store::Store::newest).
    pub(super) fn newest(
        &self,
        filter: &Filter,
        before: Option<&(TimestampMs, InstanceId)>,
        limit: usize,
    ) -> Result<Vec<Summary>, StoreError> {
        let created = self.trees.open_table(CREATED).doing("open the index by creation")?;
        let (first, end) = index::created_keys_of(&filter.namespace);
        let end = before.map_or(end, |(at, id)| index::created_key(*at, id));
        let range = created.range::<&[u8]>(first.as_slice()..end.as_slice());
        let mut folded = range.doing("list the newest instances")?.rev();
        let mut next_folded = || -> Result<Option<(TimestampMs, InstanceId)>, StoreError> {
            let Some(row) = folded.next() else { return Ok(None) };
            index::read_created_key(row.doing("list the newest instances")?.0.value()).map(Some)
        };
        let born = self.born_in_overlay(&filter.namespace)?;
        let mut held = born.iter().rev().filter(|(key, _)| before.is_none_or(|before| *key < before)).peekable();
        let (mut folded, mut found) = (next_folded()?, Vec::new());
        while found.len() < limit {
            let is_held = match (&folded, held.peek()) {
                (Some(folded), Some((held, _))) => *held > folded,
                (None, Some(_)) => true,
                (Some(_), None) => false,
                (None, None) => break,
            };
            if is_held {
                found.extend(held.next().map(|(_, row)| row.clone()).filter(|row| filter.matches(row)));
                continue;
            }
            let Some((at, id)) = std::mem::replace(&mut folded, next_folded()?) else { break };
            let row = self.summary(&id)?;
            // One that has another life by now stands elsewhere.
            found.extend(row.filter(|row| row.created_at == at && filter.matches(row)));
        }
        Ok(found)
    }

    /// Instances that began where nothing is folded yet, by when that was.
    fn born_in_overlay(
        &self,
        namespace: &Namespace,
    ) -> Result<BTreeMap<(TimestampMs, InstanceId), Summary>, StoreError> {
        let mut born = BTreeMap::new();
        for id in self.overlay.ids().into_iter().filter(|id| namespace.has(id.as_str())) {
            if !self.overlay.entries(id.as_str()).iter().any(|entry| entry.turn == 1) {
                continue;
            }
            let folded = self.folded(&id)?;
            let was_at = folded.as_ref().map(|row| row.created_at);
            if let Some(row) = self.with_overlay(&id, folded)?.filter(|row| Some(row.created_at) != was_at) {
                born.insert((row.created_at, id), row);
            }
        }
        Ok(born)
    }

    /// Ids from `from` on, by their keys alone.
    pub(super) fn ids(&self, from: Bound<&str>, limit: usize) -> Result<Vec<InstanceId>, StoreError> {
        let instances = self.trees.open_table(INSTANCES).doing("open the instances")?;
        let rows = instances.range::<&str>((from, Bound::Unbounded)).doing("list the instances")?;
        let mut ids = std::collections::BTreeSet::new();
        for row in rows.take(limit) {
            ids.insert(id_of_key(row.doing("list the instances")?.0.value())?);
        }
        let mut held = self.overlay.first_from(from);
        for _ in 0..limit {
            let Some(id) = held else { break };
            held = self.overlay.first_from(Bound::Excluded(id.as_str()));
            ids.insert(id);
        }
        Ok(ids.into_iter().take(limit).collect())
    }

    /// Summaries by id from `from` on, until `limit` of them were `wanted` or
    /// `within` says that an id is past the end.
    pub(super) fn scan(
        &self,
        among: Among,
        from: Bound<&str>,
        within: impl Fn(&str) -> bool,
        wanted: impl Fn(&Summary) -> bool,
        limit: usize,
    ) -> Result<Vec<Summary>, StoreError> {
        let instances = self.trees.open_table(INSTANCES).doing("open the instances")?;
        let running = self.trees.open_table(RUNNING).doing("open the running instances")?;
        let range = (from, Bound::Unbounded);
        let mut folded: Box<dyn Iterator<Item = Result<InstanceId, StoreError>>> = match among {
            Among::All => {
                let rows = instances.range::<&str>(range).doing("list the instances")?;
                Box::new(rows.map(|row| id_of_key(row.doing("list the instances")?.0.value())))
            }
            Among::Unfinished => {
                let rows = running.range::<&str>(range).doing("list the running instances")?;
                Box::new(rows.map(|row| id_of_key(row.doing("list the running instances")?.0.value())))
            }
        };
        let mut next_folded = folded.next().transpose()?;
        let mut next_held = self.overlay.first_from(from);
        let mut found = Vec::new();
        while found.len() < limit {
            let id = match (&next_folded, &next_held) {
                (Some(folded), Some(held)) => folded.min(held).clone(),
                (Some(only), None) | (None, Some(only)) => only.clone(),
                (None, None) => break,
            };
            if !within(id.as_str()) {
                break;
            }
            if next_folded.as_ref() == Some(&id) {
                next_folded = folded.next().transpose()?;
            }
            if next_held.as_ref() == Some(&id) {
                next_held = self.overlay.first_from(Bound::Excluded(id.as_str()));
            }
            let row = instances.get(id.as_str()).doing("read an instance")?;
            let row = row.map(|row| tables::decode_summary(&self.codec, &id, row.value())).transpose()?;
            if let Some(summary) = self.with_overlay(&id, row)?
                && wanted(&summary)
            {
                found.push(summary);
            }
        }
        Ok(found)
    }
}

/// See [`View::positions`].
pub(super) struct Positions<'v> {
    view: &'v View,
    /// Opened for the first instance that is not held, and for most batches never.
    instances: Option<ReadOnlyTable<&'static str, &'static [u8]>>,
}

impl Positions<'_> {
    /// The last turn of an instance before those of the active generation.
    pub(super) fn before_active(&mut self, instance: &InstanceId) -> Result<(ExecutionNumber, u32), StoreError> {
        let frozen = self.view.overlay.frozen.as_ref();
        if let Some(position) = frozen.and_then(|frozen| frozen.position(instance)) {
            return Ok(position);
        }
        let instances = match &mut self.instances {
            Some(instances) => instances,
            none => none.insert(self.view.trees.open_table(INSTANCES).doing("open the instances")?),
        };
        match instances.get(instance.as_str()).doing("read an instance")? {
            Some(row) => tables::decode_summary(&self.view.codec, instance, row.value())
                .map(|summary| (summary.execution, summary.turns)),
            None => Ok((0, 0)),
        }
    }
}

fn id_of_key(key: &str) -> Result<InstanceId, StoreError> {
    InstanceId::stored(key).map_err(|error| corrupt("the key of an instance", error))
}

/// Says of a payload that cannot be read where it belongs: after what was read so far.
fn in_turn(error: StoreError, read: &History) -> StoreError {
    let StoreError::Corrupt { what, why } = error else { return error };
    let events = read.turns.iter().filter_map(|bytes| TurnRecord::decode(bytes).ok()).map(|turn| turn.events.len());
    let (turn, event) = (read.turns.len() + 1, events.sum::<usize>() + 1);
    corrupt(format!("{what} in turn {turn} (from event {event}) of its execution {}", read.execution), why)
}

fn missing_turns(history: &History, found: u32) -> StoreError {
    let History { instance, execution, turns } = history;
    let expected = turns.len() + 1;
    corrupt(
        format!("history of {instance} execution {execution} at turn {expected}"),
        format!("the next turn that is stored is {found}"),
    )
}

/// What the trees hold of an execution must be what the summary row says.
fn check_against_row(history: &History, row: Option<&Summary>) -> Result<(), StoreError> {
    let History { instance, execution, turns } = history;
    let what = || format!("history of {instance} execution {execution} at turn {}", turns.len());
    let Some(row) = row.filter(|row| row.execution >= *execution) else {
        let unknown = || corrupt(what(), "the row of its instance does not know of it");
        return if turns.is_empty() { Ok(()) } else { Err(unknown()) };
    };
    if row.execution > *execution {
        return Ok(());
    }
    if turns.len() != row.turns as usize {
        return Err(corrupt(what(), format!("{} turns were expected", row.turns)));
    }
    let head = history.turns.last().map_or(Hash::ZERO, |bytes| Hash::of(bytes));
    if head != row.head {
        let (expected, found) = (row.head.short(), head.short());
        return Err(corrupt(what(), format!("its hash is {found}, expected {expected}")));
    }
    Ok(())
}
