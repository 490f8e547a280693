//! Who runs activities: a registry of names, and the tasks that wait or run.
//!
//! Three places to run: *native* handlers of a host used as a library, *wasm*
//! modules, and *remote* workers that fetch tasks (see [`super::remote`]). A task
//! comes here only after the turn that asked for it is durable (see
//! [`super::commit`]); its outcome goes to the instance's worker and counts once a
//! turn has recorded it. A name that nobody serves waits until somebody does, and
//! says so.
//!
//! One lock guards all of it; what runs, runs outside. A *run* is one attempt that
//! was begun: it holds a slot of its queue until it ends, also when nobody waits
//! for it any more. Whoever takes a run out of [`State::runs`] is the one who says
//! how it ended: the runner, the remote worker, or [`super::deadlines`].

use std::collections::{BTreeMap, BTreeSet, HashMap, btree_map};
use std::hash::{DefaultHasher, Hash as _, Hasher as _};
use std::panic::AssertUnwindSafe;
use std::sync::{Arc, Condvar, Mutex, MutexGuard, RwLock, Weak};
use std::task::Poll;
use std::time::{Duration, Instant};

use futures::FutureExt as _;
use futures::future::BoxFuture;
use tokio::sync::{Notify, oneshot};

use super::deadlines::Due;
use super::error::EngineError;
use super::intercept::Interceptors;
use super::queues::QueueSettings;
use super::remote::{Lease, Workers};
use super::spaces::Spaces;
use super::trace::Spans;
use super::view::{QueueView, TaskState, Whereabouts};
use super::{Clock, EngineSettings};
use crate::core::event::ActivityScheduled;
use crate::core::ids::{ExecutionNumber, InstanceId, OperationId, TimestampMs};
use crate::core::namespace::{self, Namespace};
use crate::core::panics::panic_text;
use crate::core::payload::{Failure, FailureKind, Outcome};
use crate::core::retry::RetryPolicy;
pub use crate::core::task::Task;
use crate::core::task::{DEFAULT_QUEUE, Now, Turn};
use crate::core::turn::too_large;
use crate::sandbox::activity::ActivityModule;
use crate::store::{Grants, Module};

/// A native activity: from a task to its outcome.
pub type Handler = Arc<dyn Fn(Arc<Task>) -> BoxFuture<'static, Outcome> + Send + Sync>;

/// Who wants to know whether an outcome was recorded, once that is durable.
pub(super) type Recorded = oneshot::Sender<Result<bool, EngineError>>;

/// Where outcomes go.
pub(super) type Deliver = Arc<dyn Fn(&Task, Outcome, Option<Recorded>) + Send + Sync>;

#[derive(Clone)]
pub(super) enum Runner {
    Native(Handler),
    Wasm(Arc<ActivityModule>, Arc<Grants>),
}

struct Served {
    runner: Runner,
    default_retry: Option<RetryPolicy>,
}

/// Runs that one task of the runtime begins, one after the other: enough to spare
/// most tasks.
const RUNS_AT_ONCE: usize = 16;

/// How long such a task begins runs. Where one computes for longer before its first
/// wait, those after it have tasks of their own.
const BEGINS_FOR: Duration = Duration::from_millis(1);

/// Names a task: one call of one execution. The hash of the instance comes first, so that those
/// that are compared on the way to one are told apart without their ids being read.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub(super) struct Key {
    hash: u64,
    instance: InstanceId,
    execution: ExecutionNumber,
    operation: OperationId,
}

impl Key {
    fn of(instance: &InstanceId, execution: ExecutionNumber, operation: OperationId) -> Self {
        let mut hasher = DefaultHasher::new();
        instance.hash(&mut hasher);
        Self { hash: hasher.finish(), instance: instance.clone(), execution, operation }
    }
}

pub(super) type RunId = u64;

/// What is to be run or runs, and how far it is.
pub(super) struct State {
    /// What is wanted, waiting or running; what is not here any more is not begun.
    pub(super) tasks: BTreeMap<Key, Entry>,
    pub(super) queues: Spaces,
    pub(super) runs: HashMap<RunId, Run>,
    last_run: RunId,
    /// What is due when. Watched by [`super::deadlines`].
    pub(super) due: BTreeSet<(TimestampMs, Due)>,
    /// When a rate lets something start.
    pub(super) next_start: Option<TimestampMs>,
    pub(super) workers: Workers,
    pub(super) is_stopped: bool,
    running_here: usize,
}

/// An attempt that somebody waits for.
pub(super) struct Entry {
    pub(super) task: Arc<Task>,
    /// The run that was begun for it.
    pub(super) run: Option<RunId>,
    /// When its waiting is over.
    pub(super) due: Option<TimestampMs>,
    /// Whether it was begun, and waits again.
    pub(super) was_begun: bool,
    /// Remote workers that took it and were not heard of again.
    pub(super) lost: u32,
}

/// An attempt that was begun.
pub(super) struct Run {
    pub(super) task: Arc<Task>,
    pub(super) started_at: TimestampMs,
    pub(super) due: Option<TimestampMs>,
    pub(super) place: Place,
}

/// Where a run is.
pub(super) enum Place {
    /// In this process; where its time is bounded, it stops when this is dropped.
    Here(#[allow(dead_code, reason = "acts when it is dropped")] Option<oneshot::Sender<()>>),
    /// With a remote worker.
    Remote(Lease),
}

/// A run that is to be begun, outside of the lock.
pub(super) struct Begin {
    run: RunId,
    runner: Runner,
    task: Arc<Task>,
    stopped: Option<oneshot::Receiver<()>>,
}

impl Begin {
    fn may_end_at_once(&self) -> bool {
        match &self.runner {
            Runner::Native(_) => true,
            Runner::Wasm(module, grants) => module.begins_directly(&self.task.name, grants),
        }
    }
}

/// The registry, the queues and the runs.
pub(super) struct Activities {
    served: RwLock<HashMap<String, Served>>,
    state: Mutex<State>,
    /// Something is due earlier than before, or time has moved.
    pub(super) due_changed: Condvar,
    /// Something waits that a remote worker may take.
    pub(super) available: Notify,
    runtime: tokio::runtime::Handle,
    deliver: Deliver,
    concurrency: usize,
    pub(super) worker_losses: u32,
    pub(super) interceptors: Interceptors,
    pub(super) spans: Spans,
    pub(super) payload_bytes: usize,
    pub(super) clock: Arc<dyn Clock>,
    now: Now,
}

impl Activities {
    pub(super) fn new(
        runtime: tokio::runtime::Handle,
        clock: Arc<dyn Clock>,
        settings: &EngineSettings,
        deliver: Deliver,
    ) -> Arc<Self> {
        let own = clock.clone();
        let state = State {
            tasks: BTreeMap::new(),
            queues: Spaces::new(&settings.queues, &settings.activities),
            runs: HashMap::new(),
            last_run: 0,
            due: BTreeSet::new(),
            next_start: None,
            workers: Workers::default(),
            is_stopped: false,
            running_here: 0,
        };
        let activities = Arc::new(Self {
            served: RwLock::default(),
            state: Mutex::new(state),
            due_changed: Condvar::new(),
            available: Notify::new(),
            runtime,
            deliver,
            concurrency: settings.activity_concurrency.max(1),
            worker_losses: settings.worker_losses,
            interceptors: settings.interceptors.clone(),
            spans: settings.spans.clone(),
            payload_bytes: settings.limits.payload_bytes,
            now: Arc::new(move || own.now()),
            clock,
        });
        let watched: Weak<Self> = Arc::downgrade(&activities);
        activities.clock.on_jump(Box::new(move || {
            if let Some(activities) = watched.upgrade() {
                // With the lock: whoever computes how long to sleep is not missed.
                let _state = activities.state();
                activities.due_changed.notify_all();
            }
        }));
        activities
    }

    // ---- who serves what ----

    /// Serves a name natively.
    pub(super) fn serve_native(self: &Arc<Self>, name: &str, default_retry: Option<RetryPolicy>, handler: Handler) {
        self.serve(name, Served { runner: Runner::Native(handler), default_retry });
    }

    /// Serves what a wasm module offers.
    pub(super) fn serve_module(self: &Arc<Self>, loaded: Arc<ActivityModule>, module: &Module) {
        let (grants, namespace) = (Arc::new(module.grants.clone()), Namespace::of(&module.name));
        for offer in &module.offers {
            let runner = Runner::Wasm(loaded.clone(), grants.clone());
            self.serve(&namespace.qualify(&offer.name), Served { runner, default_retry: offer.default_retry.clone() });
        }
    }

    fn serve(self: &Arc<Self>, name: &str, served: Served) {
        self.served.write().unwrap_or_else(std::sync::PoisonError::into_inner).insert(name.to_owned(), served);
        let mut state = self.state();
        let begun = self.fill(&mut state);
        drop(state);
        self.begin(begun);
    }

    /// The activity's own policy, for calls that give none.
    pub(super) fn default_retry(&self, space: &str, name: &str) -> Option<RetryPolicy> {
        if let Some(served) = served_in(&self.served(), space, name) {
            return served.default_retry.clone();
        }
        self.state().workers.default_retry(space, name)
    }

    pub(super) fn default_retry_in(&self, state: &State, space: &str, name: &str) -> Option<RetryPolicy> {
        let here = served_in(&self.served(), space, name).and_then(|served| served.default_retry.clone());
        here.or_else(|| state.workers.default_retry(space, name))
    }

    /// Whether somebody serves `name` in the default namespace.
    pub(super) fn is_served(&self, name: &str) -> bool {
        // One lock after the other: others hold the second while they take the first.
        let here = self.served().contains_key(name);
        here || self.state().workers.know("", name)
    }

    /// Whether somebody serves `name` from `queue`.
    fn is_served_from(&self, state: &State, space: &str, queue: &str, name: &str) -> bool {
        let here = || served_in(&self.served(), space, name).is_some();
        state.queues.is_served_here(queue) && here() || state.workers.serve(space, queue, name)
    }

    // ---- what people see ----

    /// Where the call of an activity is.
    pub(super) fn whereabouts(&self, instance: &InstanceId, call: &ActivityScheduled) -> Whereabouts {
        let mut state = self.state();
        self.forget_silent(&mut state);
        let queue = call.options.queue.as_deref().unwrap_or(DEFAULT_QUEUE);
        let served = self.is_served_from(&state, instance.space(), queue, &call.name);
        let of_instance = state.tasks.range(Key::of(instance, 0, 0)..).take_while(|(key, _)| key.instance == *instance);
        let entry = of_instance.map(|(_, entry)| entry).find(|entry| entry.task.operation == call.operation);
        let run = entry.and_then(|entry| entry.run);
        let worker = run.and_then(|run| state.runs.get(&run)?.place.worker().map(str::to_owned));
        let doing = match (entry, run) {
            (None, _) => TaskState::BackingOff,
            (Some(_), Some(_)) => TaskState::Running,
            (Some(_), None) => TaskState::Waiting,
        };
        Whereabouts { served, state: doing, worker }
    }

    /// Every queue of every namespace.
    pub(super) fn every_queue(&self) -> Vec<QueueView> {
        let names: Vec<String> = self.state().queues.names().map(str::to_owned).collect();
        names.iter().flat_map(|space| self.queues(space)).collect()
    }

    /// Every queue of a namespace that is in use or has bounds, by name.
    pub(super) fn queues(&self, space: &str) -> Vec<QueueView> {
        let mut state = self.state();
        self.forget_silent(&mut state);
        let view = |(name, settings, running): (&str, &QueueSettings, usize)| QueueView {
            name: name.to_owned(),
            waiting: 0,
            unserved: BTreeMap::new(),
            waiting_since: None,
            running,
            settings: settings.clone(),
        };
        let mut views: BTreeMap<&str, QueueView> = state.queues.load(space).map(|load| (load.0, view(load))).collect();
        let mut first: HashMap<&str, TimestampMs> = HashMap::new();
        for entry in state.tasks.values().filter(|entry| entry.run.is_none() && entry.task.instance.space() == space) {
            let Some(view) = views.get_mut(entry.task.queue()) else { continue };
            view.waiting += 1;
            let since = first.entry(entry.task.queue()).or_insert(entry.task.available_at);
            *since = entry.task.available_at.min(*since);
            if !self.is_served_from(&state, space, entry.task.queue(), &entry.task.name) {
                *view.unserved.entry(entry.task.name.clone()).or_default() += 1;
            }
        }
        for (name, since) in first {
            views.get_mut(name).expect("it is among them").waiting_since = Some(since.to_string());
        }
        views.into_values().collect()
    }

    // ---- tasks come and go ----

    /// A task for an attempt of `call`.
    pub(super) fn task(
        &self,
        (instance, birth): (&InstanceId, u64),
        execution: ExecutionNumber,
        key_execution: ExecutionNumber,
        call: &ActivityScheduled,
        turn: Turn,
    ) -> Arc<Task> {
        let mut task = Task::of(instance, execution, key_execution, call, turn, &self.now, self.payload_bytes);
        task.birth = birth;
        task.traceparent = self.spans.of_attempt(&task);
        Arc::new(task)
    }

    /// Takes tasks whose turns are durable. An attempt that is here already is not
    /// taken twice: its instance was loaded from the history in between.
    pub(super) fn dispatch(self: &Arc<Self>, tasks: impl IntoIterator<Item = Arc<Task>>) {
        let mut tasks = tasks.into_iter().peekable();
        if tasks.peek().is_none() {
            return;
        }
        let mut state = self.state();
        let mut begun = Vec::new();
        for task in tasks {
            let key = key(&task);
            let known = state.tasks.get(&key).is_some_and(|entry| entry.task.attempt == task.attempt);
            if !known {
                begun.extend(self.admit(&mut state, key, task));
            }
        }
        begun.extend(self.fill(&mut state));
        drop(state);
        self.begin(begun);
    }

    /// Begins a task at once if nothing else waits; else it waits.
    fn admit(&self, state: &mut State, key: Key, task: Arc<Task>) -> Option<Begin> {
        let runner = self.runner_of(state, &task);
        let is_served = matches!(runner, Ok(Some(_)));
        let begin = match runner {
            Err(failure) => {
                if let Some(replaced) = state.tasks.remove(&key) {
                    state.disarm_task(&replaced);
                }
                (self.deliver)(&task, Err(failure), None);
                return None;
            }
            Ok(Some(runner)) if state.queues.is_empty() && state.running_here < self.concurrency => {
                let now = self.clock.now();
                state.queues.admit(&task, now).then(|| self.begin_run(state, task.clone(), runner, now))
            }
            Ok(_) => None,
        };
        let run = begin.as_ref().map(|begin| begin.run);
        let entry = Entry { task: task.clone(), run, due: None, was_begun: false, lost: 0 };
        if let Some(replaced) = state.tasks.insert(key, entry) {
            state.disarm_task(&replaced);
        }
        if begin.is_some() {
            return begin;
        }
        if !is_served && !state.workers.serve(task.instance.space(), task.queue(), &task.name) {
            let (name, instance, queue) = (&task.name, &task.instance, task.queue());
            tracing::warn!(
                ?instance,
                activity = name,
                queue,
                "no worker serves this activity; it waits until one does"
            );
        }
        self.enqueue(state, task);
        None
    }

    pub(super) fn enqueue(&self, state: &mut State, task: Arc<Task>) {
        self.arm_waiting(state, &task);
        state.queues.push(task);
    }

    /// Nobody waits for this call any more: it is not begun. One that runs learns
    /// it at its next heartbeat, and its outcome is dropped.
    pub(super) fn forget(&self, instance: &InstanceId, execution: ExecutionNumber, operation: OperationId) {
        let mut state = self.state();
        state.forget(&Key::of(instance, execution, operation));
    }

    /// The execution has ended: none of its calls is begun any more.
    pub(super) fn forget_all(&self, instance: &InstanceId, execution: ExecutionNumber) {
        let mut state = self.state();
        let range = Key::of(instance, execution, 0)..=Key::of(instance, execution, OperationId::MAX);
        let keys: Vec<Key> = state.tasks.range(range).map(|(key, _)| key.clone()).collect();
        for key in keys {
            state.forget(&key);
        }
    }

    /// Begins what waits as long as there is room, and wakes remote workers for the rest.
    #[must_use = "what is returned is to be begun"]
    pub(super) fn fill(&self, state: &mut State) -> Vec<Begin> {
        let mut begun = Vec::new();
        if state.queues.is_empty() {
            state.next_start = None;
            return begun;
        }
        let now = self.clock.now();
        let served = self.served();
        while state.running_here < self.concurrency {
            let State { queues, tasks, .. } = &mut *state;
            let taken = queues.take_here(
                now,
                |space, name| served_in(&served, space, name).is_some(),
                |task| is_wanted(tasks, task),
            );
            let Some(task) = taken else { break };
            let Some(serving) = served_in(&served, task.instance.space(), &task.name) else { break };
            let runner = serving.runner.clone();
            let begin = self.begin_run(state, task, runner, now);
            state.has_begun(&begin.task, begin.run);
            begun.push(begin);
        }
        drop(served);
        self.after_filling(state, now);
        begun
    }

    fn after_filling(&self, state: &mut State, now: TimestampMs) {
        let before = state.next_start;
        state.next_start = state.queues.next_start(now);
        if state.next_start.is_some_and(|at| before.is_none_or(|before| at < before)) {
            self.due_changed.notify_all();
        }
        if !state.queues.is_empty() {
            self.available.notify_waiters();
        }
    }

    /// Who runs `task`; none if nobody serves its service, a failure if somebody
    /// does and has no such activity: that will not change by waiting.
    fn runner_of(&self, state: &State, task: &Task) -> Result<Option<Runner>, Failure> {
        if !state.queues.is_served_here(task.queue()) {
            return Ok(None);
        }
        let (space, name, served) = (task.instance.space(), &task.name, self.served());
        if let Some(served) = served_in(&served, space, name) {
            return Ok(Some(served.runner.clone()));
        }
        if task.queue() != DEFAULT_QUEUE || state.workers.know(space, name) {
            return Ok(None);
        }
        let service = name.split_once('.').map_or(name.as_str(), |(service, _)| service);
        // A host that has just opened serves its native activities one by one, and what
        // was under way before comes earlier: only a module is there as a whole.
        let is_new = task.attempt == 1 && !task.again;
        let counts = |served: &Served| is_new || matches!(served.runner, Runner::Wasm(..));
        let siblings: BTreeSet<&str> = served
            .iter()
            .map(|(known, served)| (namespace::split(known), served))
            .filter(|((of, known), served)| {
                *of == space && known.split_once('.').is_some_and(|(known, _)| known == service) && counts(served)
            })
            .map(|((_, known), _)| known)
            .collect();
        if siblings.is_empty() {
            return Ok(None);
        }
        let siblings: Vec<&str> = siblings.into_iter().collect();
        let message = format!("unknown activity {name:?}; the service has {}", siblings.join(", "));
        Err(Failure::fatal(FailureKind::NotFound, message))
    }

    // ---- runs ----

    /// A slot was taken here for `task`, whose entry is still to hear of its run.
    fn begin_run(&self, state: &mut State, task: Arc<Task>, runner: Runner, now: TimestampMs) -> Begin {
        let (stop, stopped) = task.options.is_bounded().then(oneshot::channel).unzip();
        state.running_here += 1;
        let run = self.new_run(state, task.clone(), Place::Here(stop), now);
        Begin { run, runner, task, stopped }
    }

    /// A slot was taken for `task`: its time begins.
    pub(super) fn add_run(&self, state: &mut State, task: Arc<Task>, place: Place, now: TimestampMs) -> RunId {
        let id = self.new_run(state, task.clone(), place, now);
        state.has_begun(&task, id);
        id
    }

    fn new_run(&self, state: &mut State, task: Arc<Task>, place: Place, now: TimestampMs) -> RunId {
        state.last_run += 1;
        let id = state.last_run;
        let mut run = Run { task, started_at: now, due: None, place };
        self.arm_run(state, id, &mut run);
        state.runs.insert(id, run);
        id
    }

    /// Begins runs. Those that may end at their first poll are begun a few at a time in
    /// one task of the runtime, and then cost no task of their own.
    pub(super) fn begin(self: &Arc<Self>, begun: Vec<Begin>) {
        let (mut at_once, alone): (Vec<_>, Vec<_>) = begun.into_iter().partition(Begin::may_end_at_once);
        alone.into_iter().for_each(|begin| self.begin_alone(begin));
        while !at_once.is_empty() {
            let rest = at_once.split_off(at_once.len().min(RUNS_AT_ONCE));
            self.runtime.spawn(self.clone().begin_some(at_once));
            at_once = rest;
        }
    }

    fn begin_alone(self: &Arc<Self>, begin: Begin) {
        self.end_after(self.clone().attempt(begin));
    }

    fn end_after(self: &Arc<Self>, attempt: impl Future<Output = Option<(RunId, Outcome)>> + Send + 'static) {
        let activities = self.clone();
        self.runtime.spawn(async move {
            let ended = attempt.await;
            activities.end_all(ended);
        });
    }

    /// Polls each run once; those that are not ready go on as tasks of their own.
    async fn begin_some(self: Arc<Self>, runs: Vec<Begin>) {
        let since = Instant::now();
        let mut ended = Vec::with_capacity(runs.len());
        for begin in runs {
            if since.elapsed() > BEGINS_FOR {
                // Nor do those that have ended wait.
                if !ended.is_empty() {
                    self.end_all(std::mem::take(&mut ended));
                }
                self.begin_alone(begin);
                continue;
            }
            let mut attempt = Box::pin(self.clone().attempt(begin));
            match futures::poll!(&mut attempt) {
                Poll::Ready(outcome) => ended.extend(outcome),
                Poll::Pending => self.end_after(attempt),
            }
        }
        self.end_all(ended);
    }

    /// Runs one attempt; none if its time was over before it ended.
    async fn attempt(self: Arc<Self>, begin: Begin) -> Option<(RunId, Outcome)> {
        let Begin { run, runner, task, stopped } = begin;
        let attempt = async {
            let (task, _) = self.interceptors.before(task.clone())?;
            let outcome = match runner {
                Runner::Native(handler) => handler(task.clone()).await,
                Runner::Wasm(module, grants) => module.run(task.clone(), &grants).await,
            };
            self.interceptors.after(&task, outcome)
        };
        let attempt = AssertUnwindSafe(attempt).catch_unwind();
        let outcome = match stopped {
            None => attempt.await,
            Some(stopped) => tokio::select! {
                biased;
                outcome = attempt => outcome,
                // Its time is over, and whoever found that has said so.
                _ = stopped => return None,
            },
        };
        let outcome = outcome.unwrap_or_else(|panic| Err(panicked(&task.name, panic.as_ref())));
        Some((run, outcome))
    }

    /// Runs have ended so.
    fn end_all(self: &Arc<Self>, ended: impl IntoIterator<Item = (RunId, Outcome)>) {
        let mut state = self.state();
        for (run, outcome) in ended {
            self.end_run(&mut state, run, outcome, None);
        }
        let begun = self.fill(&mut state);
        drop(state);
        self.begin(begun);
    }

    /// A run has ended with that. Nothing happens if it had ended before. True: its
    /// outcome was wanted, and is on its way to the instance.
    pub(super) fn end(self: &Arc<Self>, run: RunId, outcome: Outcome, reply: Option<Recorded>) -> bool {
        let mut state = self.state();
        let is_wanted = self.end_run(&mut state, run, outcome, reply);
        let begun = self.fill(&mut state);
        drop(state);
        self.begin(begun);
        is_wanted
    }

    fn end_run(&self, state: &mut State, run: RunId, outcome: Outcome, reply: Option<Recorded>) -> bool {
        let Some(run_of) = state.take_run(run) else { return false };
        self.spans.attempt(&run_of, self.clock.now(), &outcome);
        let task = run_of.task;
        let btree_map::Entry::Occupied(entry) = state.tasks.entry(key(&task)) else { return false };
        let is_wanted = entry.get().run == Some(run);
        if is_wanted {
            // Before it is forgotten here: who loads the instance meanwhile finds one or the other.
            (self.deliver)(&task, self.within_limits(&task.name, outcome), reply);
            entry.remove();
        }
        is_wanted
    }

    /// Tells the instance what became of a task that waits no more.
    pub(super) fn tell(&self, task: &Task, outcome: Outcome) {
        (self.deliver)(task, outcome, None);
    }

    fn within_limits(&self, name: &str, outcome: Outcome) -> Outcome {
        let output = outcome?;
        match too_large(format_args!("the result of {name}"), output.len(), self.payload_bytes) {
            Some(failure) => Err(failure),
            None => Ok(output),
        }
    }

    /// No deadline is watched any more, and what runs learns at its next heartbeat
    /// that its result comes too late: it is run again where the store is opened next.
    pub(super) fn stop(&self) {
        let mut state = self.state();
        state.is_stopped = true;
        state.runs.values().for_each(|run| run.task.cancel());
        drop(state);
        self.due_changed.notify_all();
        self.available.notify_waiters();
    }

    fn served(&self) -> std::sync::RwLockReadGuard<'_, HashMap<String, Served>> {
        self.served.read().unwrap_or_else(std::sync::PoisonError::into_inner)
    }

    pub(super) fn state(&self) -> MutexGuard<'_, State> {
        self.state.lock().unwrap_or_else(std::sync::PoisonError::into_inner)
    }
}

impl State {
    /// A task that waited is run as `run`.
    fn has_begun(&mut self, task: &Task, run: RunId) {
        let key = key(task);
        if let Some(entry) = self.tasks.get_mut(&key) {
            entry.run = Some(run);
            if let Some(due) = entry.due.take() {
                self.due.remove(&(due, Due::Task(key)));
            }
        }
    }

    /// Takes a run out, and its slot with it.
    pub(super) fn take_run(&mut self, id: RunId) -> Option<Run> {
        let run = self.runs.remove(&id)?;
        if let Some(due) = run.due {
            self.due.remove(&(due, Due::Run(id)));
        }
        match run.place {
            Place::Here(_) => self.running_here -= 1,
            Place::Remote(_) => {}
        }
        self.queues.release(&run.task);
        Some(run)
    }

    fn forget(&mut self, key: &Key) {
        if let Some(entry) = self.tasks.remove(key) {
            self.disarm_task(&entry);
            entry.task.cancel();
        }
    }

    pub(super) fn disarm_task(&mut self, entry: &Entry) {
        if let Some(due) = entry.due {
            self.due.remove(&(due, Due::Task(key(&entry.task))));
        }
    }
}

/// Who serves `name` in a namespace: a module of its own, or the host itself, whose
/// native activities are everybody's.
fn served_in<'s>(served: &'s HashMap<String, Served>, space: &str, name: &str) -> Option<&'s Served> {
    if space.is_empty() {
        return served.get(name);
    }
    let natively = || served.get(name).filter(|served| matches!(served.runner, Runner::Native(_)));
    served.get(&namespace::qualified(space, name)).or_else(natively)
}

/// Whether a task that waits is still to be begun.
pub(super) fn is_wanted(tasks: &BTreeMap<Key, Entry>, task: &Task) -> bool {
    tasks.get(&key(task)).is_some_and(|entry| entry.run.is_none() && std::ptr::eq(&*entry.task, task))
}

pub(super) fn key(task: &Task) -> Key {
    Key::of(&task.instance, task.execution, task.operation)
}

impl Place {
    /// The remote worker that has it.
    pub(super) fn worker(&self) -> Option<&str> {
        match self {
            Self::Here(_) => None,
            Self::Remote(lease) => Some(&lease.worker),
        }
    }
}

fn panicked(name: &str, panic: &(dyn std::any::Any + Send)) -> Failure {
    let message = format!("the activity {name} panicked: {}", panic_text(panic));
    Failure::retryable(FailureKind::Trapped, message)
}
