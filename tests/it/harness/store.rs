//! A store that counts commits, lets a test wait for what is in it, and dies at
//! the commit where it is to die.

use std::ops::Deref;
use std::path::Path;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::sync::{Condvar, Mutex, PoisonError};

use dacapo::core::ids::{ExecutionNumber, InstanceId};
use dacapo::store::redb::{Options, RedbStore};
use dacapo::store::schedule::Schedule;
use dacapo::store::{Batch, Epoch, History, Store, StoreError};

use super::{lock, wait_for};

/// Where a host dies: at a commit, counted from 1.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Death {
    /// Nothing of that commit is written.
    Before(usize),
    /// All of that commit is written, and nobody hears of it.
    After(usize),
}

/// A store that counts commits, and fails from a given one on.
pub(crate) struct WatchedStore {
    inner: Counting,
    seen: Mutex<Seen>,
    changed: Condvar,
}

/// A store that counts how often a whole history is read.
struct Counting {
    store: RedbStore,
    histories: AtomicUsize,
}

impl Counting {
    fn history(&self, of: &InstanceId, execution: Option<ExecutionNumber>) -> Result<Option<History>, StoreError> {
        self.histories.fetch_add(1, Ordering::Relaxed);
        self.store.history(of, execution)
    }
}

impl Deref for Counting {
    type Target = RedbStore;
    fn deref(&self) -> &RedbStore {
        &self.store
    }
}

struct Seen {
    commits: usize,
    death: Option<Death>,
    is_dead: bool,
    /// Commits wait.
    is_held: bool,
}

impl WatchedStore {
    /// Opens the file at `path`.
    pub(super) fn open(path: &Path, options: Options, death: Option<Death>) -> Result<Self, StoreError> {
        let seen = Seen { commits: 0, death, is_dead: false, is_held: false };
        let inner = Counting { store: RedbStore::open_with(path, options)?, histories: AtomicUsize::new(0) };
        Ok(Self { inner, seen: Mutex::new(seen), changed: Condvar::new() })
    }

    /// Commits so far.
    pub(super) fn commits(&self) -> usize {
        lock(&self.seen).commits
    }

    /// How often the engine has read a whole history.
    pub(super) fn histories(&self) -> usize {
        self.inner.histories.load(Ordering::Relaxed)
    }

    /// One write that counts, and dies where it is to die.
    fn write<T>(&self, write: impl FnOnce() -> Result<T, StoreError>) -> Result<T, StoreError> {
        let held = |seen: &mut Seen| seen.is_held;
        let mut seen = self.changed.wait_while(lock(&self.seen), held).unwrap_or_else(PoisonError::into_inner);
        let number = seen.commits + 1;
        if seen.is_dead || seen.death == Some(Death::Before(number)) {
            seen.is_dead = true;
            self.changed.notify_all();
            return Err(died());
        }
        let written = write()?;
        seen.commits = number;
        seen.is_dead = seen.death == Some(Death::After(number));
        self.changed.notify_all();
        if seen.is_dead { Err(died()) } else { Ok(written) }
    }

    /// From now on commits wait, or go on again.
    pub(super) fn hold(&self, is_held: bool) {
        lock(&self.seen).is_held = is_held;
        self.changed.notify_all();
    }

    /// Dies now, between two commits.
    pub(super) fn die(&self) {
        lock(&self.seen).is_dead = true;
        self.changed.notify_all();
    }

    /// Waits for a state of the journal, looking after each commit.
    pub(super) fn wait<R>(&self, what: &str, mut probe: impl FnMut(&RedbStore) -> Option<R>) -> R {
        wait_for(&self.seen, &self.changed, what, |_| probe(&self.inner))
    }

    /// [`Self::wait`]; none if the host dies first.
    pub(super) fn wait_or_death<R>(&self, what: &str, mut probe: impl FnMut(&RedbStore) -> Option<R>) -> Option<R> {
        wait_for(&self.seen, &self.changed, what, |seen| match probe(&self.inner) {
            None if seen.is_dead => Some(None),
            found => found.map(Some),
        })
    }
}

fn died() -> StoreError {
    StoreError::Io("the host died".to_owned())
}

impl Store for WatchedStore {
    dacapo::hand_on_to_inner_store!();

    fn commit(&self, epoch: Epoch, batch: &Batch) -> Result<(), StoreError> {
        self.write(|| self.inner.commit(epoch, batch))
    }

    fn put_schedule(&self, epoch: Epoch, name: &str, schedule: Option<&Schedule>) -> Result<(), StoreError> {
        self.write(|| self.inner.put_schedule(epoch, name, schedule))
    }

    fn purge(&self, epoch: Epoch, instances: &[InstanceId]) -> Result<Vec<InstanceId>, StoreError> {
        self.write(|| self.inner.purge(epoch, instances))
    }
}
