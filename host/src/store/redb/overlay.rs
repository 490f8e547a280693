//! Turns that are in the log but not folded yet, by instance; those of commits after
//! [`Overlay::visible`] are not durable either.
//!
//! A *generation* is the turns of consecutive commits. New ones go to the active
//! generation; when it is large it is frozen, and folded bit by bit while the
//! next one fills, so at most two exist and memory is bounded by their size.
//! Invariant: a generation only grows. Entries carry their commit's number, and a
//! reader ignores those above the number it began with; that is how it sees a
//! batch whole or not at all while holding no lock in between.

use std::collections::{BTreeSet, HashMap};
use std::ops::Bound;
use std::sync::{Arc, PoisonError, RwLock, RwLockReadGuard, RwLockWriteGuard};
use std::time::Duration;

use super::pace::Waiting;
use crate::core::ids::{ExecutionNumber, InstanceId};
use crate::store::{StoreError, TurnCommit};

/// A turn that is not folded yet.
#[derive(Clone, Debug)]
pub(super) struct Entry {
    /// The commit it came with.
    pub(super) commit: u64,
    pub(super) execution: ExecutionNumber,
    pub(super) turn: u32,
    /// Shared with whoever committed it.
    pub(super) bytes: Arc<[u8]>,
}

impl Entry {
    fn of(commit: u64, turn: &TurnCommit) -> Self {
        Self { commit, execution: turn.execution, turn: turn.turn, bytes: Arc::clone(&turn.bytes) }
    }

    /// Execution and turn.
    pub(super) fn position(&self) -> (ExecutionNumber, u32) {
        (self.execution, self.turn)
    }
}

/// The turns of consecutive commits.
#[derive(Debug, Default)]
pub(super) struct Generation(RwLock<Held>);

/// What a generation holds.
#[derive(Debug, Default)]
pub(super) struct Held {
    instances: HashMap<InstanceId, Vec<Entry>>,
    /// Their ids, in order. Each turn looks its instance up; only the first one comes here.
    ids: BTreeSet<InstanceId>,
    pub(super) turns: usize,
    /// Bytes of turns, as the threshold counts them.
    pub(super) bytes: usize,
}

impl Held {
    /// Takes a turn of commit `number`.
    pub(super) fn push(&mut self, number: u64, turn: &TurnCommit) {
        self.turns += 1;
        self.bytes += turn.bytes.len();
        let entry = Entry::of(number, turn);
        match self.instances.get_mut(&turn.instance) {
            Some(entries) => entries.push(entry),
            None => self.insert(&turn.instance, entry),
        }
    }

    fn insert(&mut self, instance: &InstanceId, entry: Entry) {
        self.instances.insert(instance.clone(), vec![entry]);
        self.ids.insert(instance.clone());
    }

    /// An instance's turns.
    fn entries(&self, instance: &str) -> &[Entry] {
        self.instances.get(instance).map_or(&[], Vec::as_slice)
    }

    /// Instances in the order of their ids, with their turns.
    pub(super) fn range(&self, from: Bound<&str>) -> impl Iterator<Item = (&InstanceId, &[Entry])> {
        self.ids.range::<str, _>((from, Bound::Unbounded)).map(|id| (id, self.entries(id.as_str())))
    }

    /// Takes a turn of commit `number` if it follows what is held of its
    /// instance; where nothing is held, if it follows `before`.
    pub(super) fn push_next(
        &mut self,
        number: u64,
        turn: &TurnCommit,
        before: impl FnOnce() -> Result<(ExecutionNumber, u32), StoreError>,
    ) -> Result<(), StoreError> {
        let entry = Entry::of(number, turn);
        match self.instances.get_mut(&turn.instance) {
            Some(entries) => {
                let last = entries.last().map_or((0, 0), Entry::position);
                check_order(last, turn)?;
                entries.push(entry);
            }
            None => {
                check_order(before()?, turn)?;
                self.insert(&turn.instance, entry);
            }
        }
        self.turns += 1;
        self.bytes += turn.bytes.len();
        Ok(())
    }

    /// Drops what is held, instance by instance; tells `dropped` after each.
    pub(super) fn drop_slowly(self, mut dropped: impl FnMut()) {
        let Self { instances, ids, .. } = self;
        for _ in instances {
            dropped();
        }
        for _ in ids {
            dropped();
        }
    }

    /// Takes the last turn of an instance back out.
    pub(super) fn pop(&mut self, instance: &InstanceId) {
        let Some(entries) = self.instances.get_mut(instance) else { return };
        if let Some(entry) = entries.pop() {
            self.turns -= 1;
            self.bytes -= entry.bytes.len();
        }
        if entries.is_empty() {
            self.instances.remove(instance);
            self.ids.remove(instance);
        }
    }
}

impl Generation {
    /// Waits for those who look at it, for some time and unless somebody waits: nobody new does
    /// once it is not part of the overlay.
    pub(super) fn until_alone(self: &Arc<Self>, waiting: &Waiting) {
        let looks = (0..100).take_while(|_| Arc::strong_count(self) > 1 && !waiting.is_anybody());
        looks.for_each(|_| std::thread::sleep(Duration::from_millis(1)));
    }

    /// What it holds, where nobody else looks at it.
    pub(super) fn into_held(self: Arc<Self>) -> Option<Held> {
        Arc::into_inner(self).map(|generation| generation.0.into_inner().unwrap_or_else(PoisonError::into_inner))
    }

    pub(super) fn read(&self) -> RwLockReadGuard<'_, Held> {
        self.0.read().unwrap_or_else(PoisonError::into_inner)
    }

    pub(super) fn write(&self) -> RwLockWriteGuard<'_, Held> {
        self.0.write().unwrap_or_else(PoisonError::into_inner)
    }

    /// Where an instance's turns in here end: execution and turn.
    pub(super) fn position(&self, instance: &InstanceId) -> Option<(ExecutionNumber, u32)> {
        self.read().entries(instance.as_str()).last().map(Entry::position)
    }
}

/// Both generations, and the last commit that may be seen.
#[derive(Clone, Debug, Default)]
pub(super) struct Overlay {
    pub(super) active: Arc<Generation>,
    pub(super) frozen: Option<Arc<Generation>>,
    pub(super) visible: u64,
}

impl Overlay {
    /// An instance's turns, the oldest first.
    pub(super) fn entries(&self, instance: &str) -> Vec<Entry> {
        let mut found = Vec::new();
        for generation in self.frozen.iter().chain([&self.active]) {
            let held = generation.read();
            found.extend(held.entries(instance).iter().take_while(|entry| entry.commit <= self.visible).cloned());
        }
        found
    }

    /// An instance's turns at or after a position, the oldest first.
    pub(super) fn entries_from(&self, instance: &str, position: (ExecutionNumber, u32)) -> Vec<Entry> {
        let mut found = Vec::new();
        for generation in self.frozen.iter().chain([&self.active]) {
            let held = generation.read();
            let entries = held.entries(instance);
            let entries = &entries[entries.partition_point(|entry| entry.position() < position)..];
            found.extend(entries.iter().take_while(|entry| entry.commit <= self.visible).cloned());
        }
        found
    }

    /// An instance's turns of that execution from that turn on, the oldest first.
    pub(super) fn turns_from(
        &self,
        instance: &str,
        from: (ExecutionNumber, u32),
    ) -> impl Iterator<Item = Arc<[u8]>> + use<> {
        let entries = self.entries_from(instance, from).into_iter();
        entries.filter(move |entry| entry.execution == from.0).map(|entry| entry.bytes)
    }

    /// Ids of all instances that a generation knows, each once. Some may turn out to have
    /// no turn that is visible.
    pub(super) fn ids(&self) -> BTreeSet<InstanceId> {
        let mut ids = BTreeSet::new();
        for generation in self.frozen.iter().chain([&self.active]) {
            ids.extend(generation.read().ids.iter().cloned());
        }
        ids
    }

    /// The first instance in `from..` that a generation knows. It may turn out
    /// to have no turn that is visible.
    pub(super) fn first_from(&self, from: Bound<&str>) -> Option<InstanceId> {
        let first = |generation: &Arc<Generation>| {
            let held = generation.read();
            held.range(from).next().map(|(id, _)| id.clone())
        };
        self.frozen.iter().chain([&self.active]).filter_map(first).min()
    }
}

/// Whether a turn may come after a position.
pub(super) fn follows(before: (ExecutionNumber, u32), turn: (ExecutionNumber, u32)) -> bool {
    if turn.0 == before.0 { turn.1 == before.1 + 1 } else { turn.0 > before.0 && turn.1 == 1 }
}

fn check_order(before: (ExecutionNumber, u32), turn: &TurnCommit) -> Result<(), StoreError> {
    if follows(before, (turn.execution, turn.turn)) {
        return Ok(());
    }
    let TurnCommit { instance, execution, turn, .. } = turn;
    let (after_execution, after_turn) = before;
    Err(StoreError::OutOfOrder {
        instance: instance.clone(),
        execution: *execution,
        turn: *turn,
        after_execution,
        after_turn,
    })
}
