//! A store that tells when an instance has a new turn, so that nobody polls.

use std::collections::HashMap;
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use tokio::sync::{broadcast, watch};
use tokio::time::Instant;

use crate::core::ids::{ExecutionNumber, InstanceId};
use crate::store::schedule::Schedule;
use crate::store::{Batch, Epoch, Store, StoreError};

/// Forgotten waits are swept when there are more than so many.
const SWEEP_ABOVE: usize = 1024;

/// Changes that one who listens may be behind; beyond it they are told that they
/// missed some.
const CHANGES_BEHIND: usize = 4096;

/// A store, and who waits for its commits.
pub struct Watched {
    inner: Arc<dyn Store>,
    watchers: Mutex<HashMap<InstanceId, watch::Sender<()>>>,
    changes: broadcast::Sender<Change>,
    written: Written,
}

/// Something that has just become durable.
#[derive(Clone, Debug, PartialEq, Eq, serde::Serialize)]
#[serde(tag = "change", rename_all = "kebab-case")]
pub enum Change {
    /// A turn.
    Turn {
        /// Whose.
        id: InstanceId,
        /// Which life of it.
        execution: ExecutionNumber,
        /// Which turn of that life, from 1.
        turn: u32,
    },
    /// An instance was removed.
    Purged {
        /// Which.
        id: InstanceId,
    },
}

impl Change {
    /// Whose it is.
    pub fn instance(&self) -> &InstanceId {
        match self {
            Self::Turn { id, .. } | Self::Purged { id } => id,
        }
    }
}

/// What was written since the start, for statistics.
#[derive(Debug, Default)]
struct Written {
    commits: AtomicU64,
    turns: AtomicU64,
    bytes: AtomicU64,
    micros: AtomicU64,
    largest: AtomicU64,
}

/// See [`Watched::written`].
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, serde::Serialize)]
pub struct WrittenView {
    /// Commits.
    pub commits: u64,
    /// Turns in them.
    pub turns: u64,
    /// Their bytes, before compression.
    pub turn_bytes: u64,
    /// Time in commits, microseconds.
    pub commit_us: u64,
    /// Turns of the largest one.
    pub largest_commit: u64,
}

impl std::fmt::Debug for Watched {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str("Watched")
    }
}

impl Watched {
    /// Watches the commits that go through the returned store.
    pub fn new(inner: Arc<dyn Store>) -> Arc<Self> {
        let changes = broadcast::channel(CHANGES_BEHIND).0;
        Arc::new(Self { inner, watchers: Mutex::default(), changes, written: Written::default() })
    }

    /// Every change from here on.
    pub fn changes(&self) -> broadcast::Receiver<Change> {
        self.changes.subscribe()
    }

    /// How many listen to changes.
    pub fn listeners(&self) -> usize {
        self.changes.receiver_count()
    }

    /// What went through this store since it was made.
    pub fn written(&self) -> WrittenView {
        let of = |counter: &AtomicU64| counter.load(Ordering::Relaxed);
        let Written { commits, turns, bytes, micros, largest } = &self.written;
        WrittenView {
            commits: of(commits),
            turns: of(turns),
            turn_bytes: of(bytes),
            commit_us: of(micros),
            largest_commit: of(largest),
        }
    }

    fn count(&self, batch: &Batch, took: std::time::Duration) {
        let add = |counter: &AtomicU64, n: u64| counter.fetch_add(n, Ordering::Relaxed);
        let turns = batch.turns.len() as u64;
        add(&self.written.commits, 1);
        add(&self.written.turns, turns);
        add(&self.written.bytes, batch.turns.iter().map(|turn| turn.bytes.len() as u64).sum());
        add(&self.written.micros, u64::try_from(took.as_micros()).unwrap_or(u64::MAX));
        self.written.largest.fetch_max(turns, Ordering::Relaxed);
    }

    /// Changes whenever a turn of `instance` has become durable since this call.
    pub fn watch(&self, instance: &InstanceId) -> watch::Receiver<()> {
        let mut watchers = self.watchers();
        if watchers.len() > SWEEP_ABOVE {
            watchers.retain(|_, sender| sender.receiver_count() > 0);
        }
        watchers.entry(instance.clone()).or_insert_with(|| watch::channel(()).0).subscribe()
    }

    fn watchers(&self) -> MutexGuard<'_, HashMap<InstanceId, watch::Sender<()>>> {
        self.watchers.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn tell(&self, batch: &Batch) {
        if self.changes.receiver_count() > 0 {
            for turn in &batch.turns {
                let (id, execution, turn) = (turn.instance.clone(), turn.execution, turn.turn);
                let _ = self.changes.send(Change::Turn { id, execution, turn });
            }
        }
        let mut watchers = self.watchers();
        if watchers.is_empty() {
            return;
        }
        for turn in &batch.turns {
            if let Some(sender) = watchers.get(&turn.instance)
                && sender.send(()).is_err()
            {
                watchers.remove(&turn.instance);
            }
        }
    }
}

impl Store for Watched {
    crate::hand_on_to_inner_store!();

    fn commit(&self, epoch: Epoch, batch: &Batch) -> Result<(), StoreError> {
        let began = Instant::now();
        self.inner.commit(epoch, batch)?;
        self.count(batch, began.elapsed());
        self.tell(batch);
        Ok(())
    }

    fn purge(&self, epoch: Epoch, instances: &[InstanceId]) -> Result<Vec<InstanceId>, StoreError> {
        let gone = self.inner.purge(epoch, instances)?;
        gone.iter().for_each(|id| drop(self.changes.send(Change::Purged { id: id.clone() })));
        Ok(gone)
    }

    fn put_schedule(&self, epoch: Epoch, name: &str, schedule: Option<&Schedule>) -> Result<(), StoreError> {
        self.inner.put_schedule(epoch, name, schedule)
    }
}
