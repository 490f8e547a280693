//! Who runs activities: a registry of names, and a queue in front of it.
//!
//! Two places to run: *native* handlers of a host used as a library, and *wasm*
//! modules. A task comes here only after the turn that asked for it is durable
//! (see [`super::commit`]); its outcome goes to the instance's worker and counts
//! once a turn has recorded it. A name that nobody serves waits until somebody
//! does, and says so.

use std::collections::{BTreeMap, HashMap, VecDeque};
use std::panic::AssertUnwindSafe;
use std::sync::{Arc, Mutex, MutexGuard, RwLock};
use std::time::Duration;

use futures::FutureExt as _;
use futures::future::BoxFuture;

use crate::core::event::ActivityOptions;
use crate::core::ids::{ExecutionNumber, InstanceId, OperationId, TimestampMs};
use crate::core::payload::{Failure, FailureKind, Outcome};
use crate::core::retry::RetryPolicy;
use crate::core::turn::too_large;
use crate::sandbox::activity::ActivityModule;
pub use crate::sandbox::activity::Task;
use crate::store::{Grants, Offer};

/// A native activity: from a task to its outcome.
pub type Handler = Arc<dyn Fn(Arc<Task>) -> BoxFuture<'static, Outcome> + Send + Sync>;

/// Where outcomes go.
pub(super) type Deliver = Arc<dyn Fn(&Task, Outcome) + Send + Sync>;

#[derive(Clone)]
enum Runner {
    Native(Handler),
    Wasm(Arc<ActivityModule>, Arc<Grants>),
}

struct Served {
    runner: Runner,
    default_retry: Option<RetryPolicy>,
}

/// A task with how it is to be run.
#[derive(Clone, Debug)]
pub(super) struct Dispatch {
    pub(super) task: Arc<Task>,
    pub(super) options: ActivityOptions,
    pub(super) scheduled_at: TimestampMs,
}

type Key = (InstanceId, ExecutionNumber, OperationId);

#[derive(Default)]
struct Queue {
    /// In the order of their commits. Bounded by what is pending in histories.
    waiting: VecDeque<Dispatch>,
    /// Names that nobody serves yet.
    unserved: BTreeMap<String, Vec<Dispatch>>,
    /// What is wanted, waiting or running; what is not here any more is not begun.
    wanted: BTreeMap<Key, u32>,
    running: usize,
}

/// The registry and its queue.
pub(super) struct Activities {
    served: RwLock<HashMap<String, Served>>,
    queue: Mutex<Queue>,
    runtime: tokio::runtime::Handle,
    deliver: Deliver,
    concurrency: usize,
    payload_bytes: usize,
    clock: Arc<dyn super::Clock>,
}

impl Activities {
    pub(super) fn new(
        runtime: tokio::runtime::Handle,
        clock: Arc<dyn super::Clock>,
        concurrency: usize,
        payload_bytes: usize,
        deliver: Deliver,
    ) -> Arc<Self> {
        Arc::new(Self {
            served: RwLock::default(),
            queue: Mutex::default(),
            runtime,
            deliver,
            concurrency,
            payload_bytes,
            clock,
        })
    }

    /// Serves a name natively.
    pub(super) fn serve_native(self: &Arc<Self>, name: &str, default_retry: Option<RetryPolicy>, handler: Handler) {
        self.serve(name, Served { runner: Runner::Native(handler), default_retry });
    }

    /// Serves what a wasm module offers.
    pub(super) fn serve_module(self: &Arc<Self>, module: Arc<ActivityModule>, grants: Grants, offers: &[Offer]) {
        let grants = Arc::new(grants);
        for offer in offers {
            let runner = Runner::Wasm(module.clone(), grants.clone());
            self.serve(&offer.name, Served { runner, default_retry: offer.default_retry.clone() });
        }
    }

    fn serve(self: &Arc<Self>, name: &str, served: Served) {
        self.served.write().unwrap_or_else(std::sync::PoisonError::into_inner).insert(name.to_owned(), served);
        let mut queue = self.queue();
        if let Some(waiting) = queue.unserved.remove(name) {
            queue.waiting.extend(waiting);
        }
        self.fill(&mut queue);
    }

    /// The activity's own policy, for calls that give none.
    pub(super) fn default_retry(&self, name: &str) -> Option<RetryPolicy> {
        self.served().get(name).and_then(|served| served.default_retry.clone())
    }

    /// Whether somebody serves `name`.
    pub(super) fn is_served(&self, name: &str) -> bool {
        self.served().contains_key(name)
    }

    /// Takes tasks whose turns are durable. An attempt that is here already is not
    /// taken twice: its instance was loaded from the history in between.
    pub(super) fn dispatch(self: &Arc<Self>, tasks: impl IntoIterator<Item = Dispatch>) {
        let mut queue = self.queue();
        for dispatch in tasks {
            let known = queue.wanted.insert(key(&dispatch.task), dispatch.task.attempt);
            if known != Some(dispatch.task.attempt) {
                queue.waiting.push_back(dispatch);
            }
        }
        self.fill(&mut queue);
    }

    /// Nobody waits for this call any more: it is not begun. One that runs goes
    /// on, and its outcome is dropped.
    pub(super) fn forget(&self, instance: &InstanceId, execution: ExecutionNumber, operation: OperationId) {
        self.queue().wanted.remove(&(instance.clone(), execution, operation));
    }

    /// The execution has ended: none of its calls is begun any more.
    pub(super) fn forget_all(&self, instance: &InstanceId, execution: ExecutionNumber) {
        let mut queue = self.queue();
        let range = (instance.clone(), execution, 0)..=(instance.clone(), execution, OperationId::MAX);
        let keys: Vec<Key> = queue.wanted.range(range).map(|(key, _)| key.clone()).collect();
        for key in keys {
            queue.wanted.remove(&key);
        }
    }

    fn fill(self: &Arc<Self>, queue: &mut Queue) {
        while queue.running < self.concurrency {
            let Some(dispatch) = queue.waiting.pop_front() else { return };
            if queue.wanted.get(&key(&dispatch.task)) != Some(&dispatch.task.attempt) {
                continue;
            }
            match self.runner(&dispatch.task.name) {
                Ok(Some(runner)) => {
                    queue.running += 1;
                    self.runtime.spawn(self.clone().run(runner, dispatch));
                }
                Ok(None) => self.keep_unserved(queue, dispatch),
                Err(failure) => {
                    queue.wanted.remove(&key(&dispatch.task));
                    (self.deliver)(&dispatch.task, Err(failure));
                }
            }
        }
    }

    fn keep_unserved(&self, queue: &mut Queue, dispatch: Dispatch) {
        let (name, instance) = (&dispatch.task.name, &dispatch.task.instance);
        tracing::warn!(%instance, activity = name, "no worker serves this activity; it waits until one does");
        queue.unserved.entry(name.clone()).or_default().push(dispatch);
    }

    /// Who runs `name`; none if nobody serves its service, a failure if somebody
    /// does and has no such activity: that will not change by waiting.
    fn runner(&self, name: &str) -> Result<Option<Runner>, Failure> {
        let served = self.served();
        if let Some(served) = served.get(name) {
            return Ok(Some(served.runner.clone()));
        }
        let service = name.split_once('.').map_or(name, |(service, _)| service);
        let siblings: Vec<&str> = served
            .keys()
            .filter(|known| known.split_once('.').is_some_and(|(known, _)| known == service))
            .map(String::as_str)
            .collect::<std::collections::BTreeSet<_>>()
            .into_iter()
            .collect();
        if siblings.is_empty() {
            return Ok(None);
        }
        let message = format!("unknown activity {name:?}; the service has {}", siblings.join(", "));
        Err(Failure::fatal(FailureKind::NotFound, message))
    }

    async fn run(self: Arc<Self>, runner: Runner, dispatch: Dispatch) {
        let task = dispatch.task.clone();
        let attempt = async {
            match runner {
                Runner::Native(handler) => handler(task.clone()).await,
                Runner::Wasm(module, grants) => module.run(task.clone(), &grants).await,
            }
        };
        let attempt = AssertUnwindSafe(attempt).catch_unwind();
        let outcome = match self.time_left(&dispatch) {
            None => attempt.await,
            Some((left, which)) => match tokio::time::timeout(left, attempt).await {
                Ok(outcome) => outcome,
                Err(_) => Ok(Err(timed_out(&task.name, left, which))),
            },
        };
        let outcome = outcome.unwrap_or_else(|panic| Err(panicked(&task.name, panic.as_ref())));
        let outcome = self.within_limits(&task.name, outcome);
        (self.deliver)(&task, outcome);
        let mut queue = self.queue();
        queue.running -= 1;
        if queue.wanted.get(&key(&task)) == Some(&task.attempt) {
            queue.wanted.remove(&key(&task));
        }
        self.fill(&mut queue);
    }

    fn time_left(&self, dispatch: &Dispatch) -> Option<(Duration, &'static str)> {
        let attempt = dispatch.options.start_to_close_ms.map(|ms| (ms, "start-to-close"));
        let total = dispatch
            .options
            .schedule_to_close_ms
            .map(|ms| (dispatch.scheduled_at.plus(ms).since(self.clock.now()), "schedule-to-close"));
        let (ms, which) = attempt.into_iter().chain(total).min()?;
        Some((Duration::from_millis(ms), which))
    }

    fn within_limits(&self, name: &str, outcome: Outcome) -> Outcome {
        let output = outcome?;
        match too_large(&format!("the result of {name}"), output.len(), self.payload_bytes) {
            Some(failure) => Err(failure),
            None => Ok(output),
        }
    }

    fn served(&self) -> std::sync::RwLockReadGuard<'_, HashMap<String, Served>> {
        self.served.read().unwrap_or_else(std::sync::PoisonError::into_inner)
    }

    fn queue(&self) -> MutexGuard<'_, Queue> {
        self.queue.lock().unwrap_or_else(std::sync::PoisonError::into_inner)
    }
}

fn key(task: &Task) -> Key {
    (task.instance.clone(), task.execution, task.operation)
}

fn timed_out(name: &str, after: Duration, which: &str) -> Failure {
    let mut failure =
        Failure::retryable(FailureKind::TimedOut, format!("{name} did not end within {} ms", after.as_millis()));
    failure.error_type = which.to_owned();
    failure.non_retryable = which == "schedule-to-close";
    failure
}

fn panicked(name: &str, panic: &(dyn std::any::Any + Send)) -> Failure {
    let text = panic.downcast_ref::<&str>().map(|s| (*s).to_owned());
    let text = text.or_else(|| panic.downcast_ref::<String>().cloned()).unwrap_or_default();
    Failure::retryable(FailureKind::Trapped, format!("the activity {name} panicked: {text}"))
}
