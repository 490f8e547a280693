//! Purge: instances that have ended are removed with everything of them, one by
//! one, by age and status, or by themselves after a time.
//!
//! The store removes a batch whole or not at all and never one that has not ended,
//! so a host that dies in between has removed some, and goes on with the rest.

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::mpsc::{Receiver, Sender, channel};
use std::thread::JoinHandle;
use std::time::Duration;

use super::turns::Message;
use super::{Clock, Engine, EngineError, thread};
use crate::core::ids::{InstanceId, TimestampMs};
use crate::core::summary::Status;
use crate::store::{Epoch, Filter, Store, StoreError};

/// Instances of one transaction: commits of turns wait for it.
const BATCH: usize = 200;

/// How long instances that have ended are kept. None: for ever.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Retention {
    /// Those that completed.
    pub completed: Option<Duration>,
    /// Those that failed.
    pub failed: Option<Duration>,
    /// Those that were terminated.
    pub terminated: Option<Duration>,
    /// How often is looked for those whose time is over.
    pub every: Duration,
}

impl Default for Retention {
    fn default() -> Self {
        Self { completed: None, failed: None, terminated: None, every: Duration::from_secs(600) }
    }
}

impl Retention {
    /// What is to be removed at `now`.
    fn over(&self, now: TimestampMs) -> Vec<Filter> {
        let kept =
            [(Status::Completed, self.completed), (Status::Failed, self.failed), (Status::Terminated, self.terminated)];
        let filter = |(status, age): (Status, Option<Duration>)| {
            let age = u64::try_from(age?.as_millis()).unwrap_or(u64::MAX);
            let before = TimestampMs(now.0.saturating_sub(age));
            Some(Filter { status: Some(status), updated_before: Some(before), ..Filter::everything() })
        };
        kept.into_iter().filter_map(filter).collect()
    }

    fn is_on(&self) -> bool {
        self.completed.or(self.failed).or(self.terminated).is_some()
    }
}

impl Engine {
    /// Removes an instance that has ended, with all its executions. Its id is free
    /// and nothing is known of it any more when this returns.
    ///
    /// # Errors
    /// If it is unknown or has not ended, or another instance has not heard yet what it
    /// sent or how it ended.
    pub fn purge(&self, id: &InstanceId) -> Result<(), EngineError> {
        let summary = self.store.summary(id)?.ok_or_else(|| EngineError::UnknownInstance { id: id.clone() })?;
        let gone = self.store.purge(self.epoch, std::slice::from_ref(id))?;
        self.forget(&gone);
        if gone.is_empty() {
            return Err(EngineError::WrongStatus {
                id: id.clone(),
                status: summary.status,
                what: if summary.status.is_final() {
                    "another instance has not heard of it yet; ask again"
                } else {
                    "only an instance that has ended can be purged; terminate it first"
                },
            });
        }
        Ok(())
    }

    /// Removes the instances that match and have ended; how many they were.
    ///
    /// # Errors
    /// If the store fails; what was removed before that stays removed.
    pub fn purge_matching(&self, filter: &Filter) -> Result<usize, EngineError> {
        let mut count = 0;
        sweep(&*self.store, self.epoch, filter, |gone| {
            count += gone.len();
            self.forget(gone);
            true
        })?;
        Ok(count)
    }

    fn forget(&self, gone: &[InstanceId]) {
        gone.iter().for_each(|id| self.worker_of(id).send(Message::Purged(id.clone())));
    }
}

/// Removes what matches, batch by batch, as long as `seen` says so.
fn sweep(
    store: &dyn Store,
    epoch: Epoch,
    filter: &Filter,
    mut seen: impl FnMut(&[InstanceId]) -> bool,
) -> Result<(), StoreError> {
    let mut after = None;
    loop {
        let page = store.list(filter, after.as_ref(), BATCH)?;
        let Some(last) = page.last() else { return Ok(()) };
        after = Some(last.instance.clone());
        let ended = page.into_iter().filter(|row| !row.is_open()).map(|row| row.instance);
        let gone = store.purge(epoch, &ended.collect::<Vec<_>>())?;
        if !seen(&gone) {
            return Ok(());
        }
    }
}

/// Stops the thread. It is woken by whatever is sent, and looks at the clock and at this.
pub(super) struct Sweeper {
    wake: Sender<()>,
    is_over: Arc<AtomicBool>,
}

impl Sweeper {
    /// Begins to remove what is kept too long, if anything ever is.
    pub(super) fn start(
        retention: &Retention,
        store: Arc<dyn Store>,
        epoch: Epoch,
        clock: Arc<dyn Clock>,
        gone: impl Fn(&[InstanceId]) + Send + 'static,
    ) -> Option<(Self, JoinHandle<()>)> {
        if !retention.is_on() {
            return None;
        }
        let (wake, woken) = channel();
        let (on_jump, is_over) = (wake.clone(), Arc::new(AtomicBool::new(false)));
        clock.on_jump(Box::new(move || {
            let _ = on_jump.send(());
        }));
        let (retention, over) = (retention.clone(), is_over.clone());
        let until = move || over.load(Ordering::Relaxed);
        let thread = thread("dacapo-retention", move || {
            if let Err(error) = run(&retention, &*store, epoch, &*clock, &woken, &until, &gone) {
                // The engine ends with its store; here is nothing more to do.
                tracing::error!(%error, "instances whose time is over could not be removed");
            }
        });
        Some((Self { wake, is_over }, thread))
    }

    pub(super) fn stop(&self) {
        self.is_over.store(true, Ordering::Relaxed);
        let _ = self.wake.send(());
    }
}

fn run(
    retention: &Retention,
    store: &dyn Store,
    epoch: Epoch,
    clock: &dyn Clock,
    woken: &Receiver<()>,
    is_over: &dyn Fn() -> bool,
    gone: &dyn Fn(&[InstanceId]),
) -> Result<(), StoreError> {
    let every = u64::try_from(retention.every.as_millis()).unwrap_or(u64::MAX).max(1);
    let mut next = clock.now();
    while !is_over() {
        let now = clock.now();
        if now < next {
            // Why it wakes does not matter: it looks again.
            let _ = woken.recv_timeout(clock.until(next));
            continue;
        }
        for filter in retention.over(now) {
            sweep(store, epoch, &filter, |ids| {
                gone(ids);
                !is_over()
            })?;
        }
        next = now.plus(every);
    }
    Ok(())
}
