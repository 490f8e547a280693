//! Purge: instances that have ended are removed with everything of them, one by
//! one, by age and status, or by themselves after a time.
//!
//! The store removes a batch whole or not at all and never one that has not ended,
//! so a host that dies in between has removed some, and goes on with the rest.

use std::sync::Arc;
use std::sync::mpsc::{Receiver, RecvTimeoutError, Sender, channel};
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
            Some(Filter { status: Some(status), updated_before: Some(before), ..Filter::default() })
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
    /// If it is unknown or has not ended.
    pub fn purge(&self, id: &InstanceId) -> Result<(), EngineError> {
        let summary = self.store.summary(id)?.ok_or_else(|| EngineError::UnknownInstance { id: id.clone() })?;
        let gone = self.store.purge(self.epoch, std::slice::from_ref(id))?;
        self.forget(&gone);
        if gone.is_empty() {
            return Err(EngineError::WrongStatus {
                id: id.clone(),
                status: summary.status,
                what: "only an instance that has ended can be purged; terminate it first",
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
        let ended = page.into_iter().filter(|row| row.status.is_final()).map(|row| row.instance);
        let gone = store.purge(epoch, &ended.collect::<Vec<_>>())?;
        if !seen(&gone) {
            return Ok(());
        }
    }
}

/// What the thread is told.
enum Signal {
    Look,
    Stop,
}

/// Stops the thread.
pub(super) struct Sweeper(Sender<Signal>);

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
        let (signals, told) = channel();
        let on_jump = signals.clone();
        clock.on_jump(Box::new(move || drop(on_jump.send(Signal::Look))));
        let retention = retention.clone();
        let thread = thread("dacapo-retention", move || run(&retention, &*store, epoch, &*clock, &told, &gone));
        Some((Self(signals), thread))
    }

    pub(super) fn stop(&self) {
        let _ = self.0.send(Signal::Stop);
    }
}

fn run(
    retention: &Retention,
    store: &dyn Store,
    epoch: Epoch,
    clock: &dyn Clock,
    told: &Receiver<Signal>,
    gone: &dyn Fn(&[InstanceId]),
) {
    let every = u64::try_from(retention.every.as_millis()).unwrap_or(u64::MAX).max(1);
    let mut next = clock.now();
    loop {
        if clock.now() >= next {
            for filter in retention.over(clock.now()) {
                let mut is_over = false;
                let swept = sweep(store, epoch, &filter, |ids| {
                    gone(ids);
                    is_over = matches!(told.try_recv(), Ok(Signal::Stop));
                    !is_over
                });
                if let Err(error) = swept {
                    // The engine ends with its store; here is nothing more to do.
                    tracing::error!(%error, "instances whose time is over could not be removed");
                    return;
                }
                if is_over {
                    return;
                }
            }
            next = clock.now().plus(every);
        }
        match told.recv_timeout(clock.until(next)) {
            Ok(Signal::Look) | Err(RecvTimeoutError::Timeout) => {}
            Ok(Signal::Stop) | Err(RecvTimeoutError::Disconnected) => return,
        }
    }
}
