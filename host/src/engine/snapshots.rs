//! Snapshots of instances with long histories: what lets one go on without a replay
//! of all of it.
//!
//! An instance that has come to [`EngineSettings::snapshot_every`] events goes on in a
//! guest that can be looked into, and each time it has come so much further its guest's
//! state is copied out between two turns, in the worker; when it leaves the memory, already
//! after a quarter of that. When that turn is durable, the thread here writes it into the
//! store, beside the hot path. So what a wake replays is bounded, and all snapshots of an
//! instance together cost in proportion to its events.
//!
//! A snapshot is a cache. Whoever reads one compares all that it depends on (see
//! [`crate::store::snapshot`]), and reads the whole history where anything differs.
//! What the host says of such a guest (a trap, a budget) never counts: it is said again
//! of an ordinary one, since only that one is the same as when it is replayed.
//!
//! [`EngineSettings::snapshot_every`]: super::EngineSettings::snapshot_every

use std::sync::Arc;
use std::sync::mpsc::{Receiver, SyncSender, TrySendError};

use super::modules::Modules;
use crate::core::ids::{InstanceId, ModuleHash};
use crate::core::turn::Limits;
use crate::sandbox::snapshot::Snapshot;
use crate::store::{self, Epoch, Store};

/// Snapshots that wait to be written: each holds a guest's memory. Those that come
/// while so many wait are not taken; their instances come again.
pub(super) const WAITING: usize = 8;

/// Bytes of guest memory that a snapshot has at most. What is larger is replayed.
pub(super) const MOST_BYTES: usize = 32 << 20;

/// A guest's memory is copied at most once in so many events for each 100 bytes of it.
pub(super) const BYTES_PER_EVENT: usize = 100;

/// What the thread can be told.
pub(super) enum Job {
    /// Keep this.
    Keep(Box<Taken>),
    /// Make that module ready for guests that can be looked into, and say so.
    Prepare(ModuleHash, Box<dyn FnOnce() + Send>),
    /// Answer when all that came before is done.
    Barrier(SyncSender<()>),
    /// There is no more.
    Stop,
}

/// A state that was copied out, of a turn that is durable.
pub(super) struct Taken {
    pub(super) instance: InstanceId,
    pub(super) snapshot: Snapshot,
}

/// How the thread is reached.
#[derive(Clone)]
pub(super) struct Snapshots(pub(super) SyncSender<Job>);

impl Snapshots {
    /// Hands over a job; false if too many wait.
    pub(super) fn send(&self, job: Job) -> bool {
        match self.0.try_send(job) {
            Ok(()) => true,
            // There is nobody to care once the engine has stopped.
            Err(TrySendError::Full(_) | TrySendError::Disconnected(_)) => false,
        }
    }
}

/// Runs until it is told to stop.
pub(super) fn run(store: &Arc<dyn Store>, epoch: Epoch, modules: &Modules, jobs: &Receiver<Job>) {
    while let Ok(job) = jobs.recv() {
        match job {
            Job::Keep(taken) => keep(&**store, epoch, modules, &taken),
            Job::Prepare(module, ready) => {
                if modules.inspected(module).is_some() {
                    ready();
                }
            }
            Job::Barrier(done) => drop(done.send(())),
            Job::Stop => return,
        }
    }
}

fn keep(store: &dyn Store, epoch: Epoch, modules: &Modules, taken: &Taken) {
    let (Some(make), Some(state)) = (modules.make_of_snapshots(), taken.snapshot.encode()) else { return };
    let execution = &taken.snapshot.recorder().execution;
    let snapshot = store::snapshot::Snapshot {
        birth: execution.started.birth,
        execution: execution.started.execution,
        turn: execution.turns,
        events: execution.events,
        head: execution.head,
        module: execution.module,
        make,
        state,
    };
    match store.put_snapshot(epoch, &taken.instance, &snapshot) {
        Ok(true) => {}
        // It has ended, or begun anew.
        Ok(false) => tracing::debug!(instance = %taken.instance, "a snapshot came too late"),
        Err(error) => tracing::warn!(instance = %taken.instance, %error, "a snapshot could not be kept"),
    }
}

/// The snapshot of an instance with that row, if a good one is kept, with the turns
/// after it. None: read the whole history.
pub(super) fn find(
    store: &dyn Store,
    modules: &Modules,
    row: &crate::core::summary::Summary,
    limits: Limits,
) -> Option<(Snapshot, Vec<crate::core::turn::TurnRecord>)> {
    let read = || -> Result<Option<_>, String> {
        let kept = store.snapshot(&row.instance).map_err(|error| error.to_string())?;
        let Some(kept) = kept.filter(|kept| kept.may_be_of(row)) else { return Ok(None) };
        if modules.make_of_snapshots() != Some(kept.make) {
            return Ok(None);
        }
        let tail = store.history_from(&row.instance, kept.execution, kept.turn).map_err(|error| error.to_string())?;
        let tail = tail.ok_or("its turn is not there")?;
        let records = tail.decode_after(kept.head, kept.events).map_err(|error| error.to_string())?;
        let snapshot = Snapshot::decode(&kept.state, limits)?;
        let execution = &snapshot.recorder().execution;
        if (execution.head, execution.turns, execution.events) != (kept.head, kept.turn, kept.events) {
            return Err("its state is of another turn".to_owned());
        }
        Ok(Some((snapshot, records)))
    };
    read().unwrap_or_else(|why| {
        tracing::warn!(instance = %row.instance, why, "a snapshot is not used; the whole history is read");
        None
    })
}
