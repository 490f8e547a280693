//! Remote workers: programs elsewhere that fetch tasks, run them and report.
//!
//! A worker says once who it is and what it serves, then claims tasks in batches.
//! What it claims is *leased* to it: the lease ends when it reports, or when it was
//! not heard of for the lease's time; each heartbeat renews it. A task whose lease
//! ran out is given out again. Where the call has a retry policy that is a failed
//! attempt of error type `worker-lost`, recorded and counted like any other, so a
//! task that kills its workers ends after its attempts; where it has none, the same
//! attempt is given out until [`super::EngineSettings::worker_losses`] workers were lost.
//!
//! Leases are in memory. A host that takes over gives out again what was leased,
//! with the same attempt number and idempotency key, and answers whoever reports a
//! lease of its predecessor that it is lost: nothing happens then, as with every
//! late report.

use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;

use tokio::sync::oneshot;

use super::Engine;
use super::activities::{Activities, Place, RunId, State, is_wanted, key};
use super::error::EngineError;
use super::turns::fresh_seed;
use super::view::{LeaseView, WorkerView};
use crate::core::ids::TimestampMs;
use crate::core::namespace::Namespace;
use crate::core::payload::{Failure, FailureKind, Outcome, Payload};
use crate::core::retry::RetryPolicy;
use crate::core::task::{DEFAULT_QUEUE, Task};

/// A worker that was silent for so long, and has nothing leased, is forgotten.
const FORGOTTEN_AFTER_MS: u64 = 60_000;
/// A lease that is not given a length: long enough for a slow network, short enough
/// that what a dead worker held is soon with another.
pub const LEASE_MS: u64 = 30_000;
/// No lease is longer without being renewed.
pub const MAX_LEASE_MS: u64 = 24 * 3600 * 1000;
/// Most tasks of one claim: an answer is held in memory as a whole.
pub const MAX_CLAIM: usize = 1000;
/// Workers that are known at the same time; a program that registers in a loop
/// must not fill the memory.
const MAX_WORKERS: usize = 10_000;

/// What a worker says of itself.
#[derive(Clone, Debug, Default)]
pub struct Registration {
    /// For people: a host and process, say.
    pub name: String,
    /// The queues that it serves; none: the default one.
    pub queues: Vec<String>,
    /// What it serves, each with its own retry policy for calls that give none.
    pub activities: BTreeMap<String, Option<RetryPolicy>>,
}

/// Remote workers, and the tokens of this engine's life.
pub(super) struct Workers {
    workers: BTreeMap<String, Worker>,
    nonce: String,
}

struct Worker {
    /// The key of its namespace: it gets tasks of no other one.
    space: String,
    registration: Registration,
    seen_at: TimestampMs,
    polling: usize,
    is_leaving: bool,
    /// The queue that it was served from last.
    turn: usize,
}

/// A lease: who has a run, and until when.
pub(super) struct Lease {
    pub(super) worker: String,
    pub(super) until: TimestampMs,
    length_ms: u64,
}

/// A task that was given to a worker.
#[derive(Clone, Debug)]
pub struct Claimed {
    /// What its reports are to name.
    pub token: String,
    /// The task, as interceptors left it.
    pub task: Arc<Task>,
    /// What interceptors gave along, and `traceparent` where spans are told.
    pub headers: BTreeMap<String, String>,
    /// Until when it is leased.
    pub lease_until: TimestampMs,
}

/// What became of a report.
#[derive(Clone, Copy, Debug, PartialEq, Eq, serde::Serialize, serde::Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum Reported {
    /// It counts, and that is durable.
    Recorded,
    /// Nobody waits for it: it came late, twice, or after a cancellation.
    Ignored,
}

/// What a worker is told of a task that it has.
#[derive(Clone, Copy, Debug, PartialEq, Eq, serde::Serialize, serde::Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum Standing {
    /// Go on; the lease was renewed.
    Continue,
    /// Nobody waits for the result any more: stop.
    Cancelled,
    /// The lease is over, and somebody else may have the task: stop.
    Lost,
}

impl Default for Workers {
    fn default() -> Self {
        Self { workers: BTreeMap::new(), nonce: fresh_name() }
    }
}

impl Workers {
    /// Whether a worker that is not gone serves `name` from `queue`.
    pub(super) fn serve(&self, space: &str, queue: &str, name: &str) -> bool {
        self.of(space).any(|worker| worker.serves(queue, name))
    }

    /// Whether a worker that is not gone serves `name` at all.
    pub(super) fn know(&self, space: &str, name: &str) -> bool {
        self.of(space).any(|worker| !worker.is_leaving && worker.registration.activities.contains_key(name))
    }

    /// The policy that a worker gave for `name`.
    pub(super) fn default_retry(&self, space: &str, name: &str) -> Option<RetryPolicy> {
        self.of(space).find_map(|worker| worker.registration.activities.get(name)?.clone())
    }

    fn of(&self, space: &str) -> impl Iterator<Item = &Worker> {
        self.workers.values().filter(move |worker| worker.space == space)
    }

    /// A worker of that namespace; those of others are unknown in it.
    fn get(&mut self, space: &str, id: &str) -> Result<&mut Worker, EngineError> {
        self.workers
            .get_mut(id)
            .filter(|worker| worker.space == space)
            .ok_or_else(|| EngineError::UnknownWorker { worker: id.to_owned() })
    }

    fn token(&self, run: RunId) -> String {
        format!("{run}.{}", self.nonce)
    }

    /// The run that a token names, if it is of this engine's life.
    fn run_of(&self, token: &str) -> Option<RunId> {
        let (run, nonce) = token.split_once('.')?;
        if nonce == self.nonce { run.parse().ok() } else { None }
    }
}

impl Worker {
    fn serves(&self, queue: &str, name: &str) -> bool {
        !self.is_leaving
            && self.registration.activities.contains_key(name)
            && self.registration.queues.iter().any(|own| own == queue)
    }
}

impl Activities {
    fn register(&self, space: &str, mut registration: Registration) -> Result<String, EngineError> {
        if registration.activities.is_empty() {
            return Err(EngineError::InvalidInput("a worker serves at least one activity; name them".to_owned()));
        }
        for (name, policy) in &registration.activities {
            if let Some(fault) = policy.as_ref().and_then(RetryPolicy::fault) {
                return Err(EngineError::InvalidInput(format!("the retry policy of {name} is not valid: {fault}")));
            }
        }
        if registration.queues.is_empty() {
            registration.queues.push(DEFAULT_QUEUE.to_owned());
        }
        let mut state = self.state();
        self.forget_silent(&mut state);
        if state.workers.workers.len() >= MAX_WORKERS {
            return Err(EngineError::InvalidInput(format!("{MAX_WORKERS} workers are registered; end some")));
        }
        let id = fresh_name();
        let seen_at = self.clock.now();
        let worker = Worker { space: space.to_owned(), registration, seen_at, polling: 0, is_leaving: false, turn: 0 };
        state.workers.workers.insert(id.clone(), worker);
        Ok(id)
    }

    /// A worker leaves: its claims are answered, what it still has is given out again.
    fn unregister(self: &Arc<Self>, space: &str, id: &str) -> Result<(), EngineError> {
        let mut state = self.state();
        state.workers.get(space, id)?.is_leaving = true;
        let of_worker = |place: &Place| matches!(place, Place::Remote(lease) if lease.worker == id);
        let runs: Vec<RunId> =
            state.runs.iter().filter(|(_, run)| of_worker(&run.place)).map(|(&run, _)| run).collect();
        for run in runs {
            self.give_back(&mut state, run);
        }
        state.workers.workers.remove(id);
        let begun = self.fill(&mut state);
        drop(state);
        self.available.notify_waiters();
        self.begin(begun);
        Ok(())
    }

    /// A leased task is not with its worker any more, and waits again.
    fn give_back(&self, state: &mut State, run: RunId) {
        let Some(task) = state.take_run(run).map(|run| run.task) else { return };
        let wanted = state.tasks.get_mut(&key(&task)).filter(|entry| entry.run == Some(run));
        if let Some(entry) = wanted {
            entry.run = None;
            entry.was_begun = true;
            self.enqueue(state, task);
        }
    }

    /// The lease of `run` is over. See the module's page.
    pub(super) fn lose(&self, state: &mut State, run: RunId) {
        let Some(lost) = state.runs.get(&run) else { return };
        let task = lost.task.clone();
        let has_policy =
            task.options.retry.is_some() || self.default_retry_in(state, task.instance.space(), &task.name).is_some();
        let losses = state.tasks.get_mut(&key(&task)).filter(|entry| entry.run == Some(run)).map_or(0, |entry| {
            entry.lost += 1;
            entry.lost
        });
        if !has_policy && losses < self.worker_losses {
            tracing::warn!(instance = ?task.instance, activity = task.name, "a worker was lost; its task is given out again");
            return self.give_back(state, run);
        }
        let message = format!("the worker that had attempt {} of {} was not heard of again", task.attempt, task.name);
        let mut failure = Failure::retryable(FailureKind::TimedOut, message);
        failure.error_type = "worker-lost".to_owned();
        self.give_up_run(state, run, failure);
    }

    /// Gives waiting tasks to a worker; nothing if there are none.
    fn claim(
        self: &Arc<Self>,
        space: &str,
        id: &str,
        most: usize,
        length_ms: u64,
    ) -> Result<Option<Vec<Claimed>>, EngineError> {
        let now = self.clock.now();
        let mut state = self.state();
        if state.is_stopped {
            return Err(EngineError::Stopped(None));
        }
        let worker = state.workers.get(space, id)?;
        if worker.is_leaving {
            return Ok(Some(Vec::new()));
        }
        worker.seen_at = now;
        worker.turn += 1;
        let (mut queues, turn) = (worker.registration.queues.clone(), worker.turn);
        let first = turn % queues.len();
        queues.rotate_left(first);
        let names: BTreeSet<String> = worker.registration.activities.keys().cloned().collect();
        let mut runs = Vec::new();
        for queue in &queues {
            while runs.len() < most {
                let State { queues, tasks, .. } = &mut *state;
                let taken = queues.take(space, queue, now, |name| names.contains(name), |task| is_wanted(tasks, task));
                let Some(task) = taken else { break };
                let lease = Lease { worker: id.to_owned(), until: now.plus(length_ms), length_ms };
                runs.push((self.add_run(&mut state, task.clone(), Place::Remote(lease), now), task));
            }
        }
        let tokens: Vec<String> = runs.iter().map(|(run, _)| state.workers.token(*run)).collect();
        drop(state);
        let mut claimed = Vec::new();
        for ((run, task), token) in runs.into_iter().zip(tokens) {
            match self.interceptors.before(task) {
                Ok((task, mut headers)) => {
                    if let Some(traceparent) = &task.traceparent {
                        headers.entry("traceparent".to_owned()).or_insert_with(|| traceparent.clone());
                    }
                    claimed.push(Claimed { token, task, headers, lease_until: now.plus(length_ms) });
                }
                Err(failure) => drop(self.end(run, Err(failure), None)),
            }
        }
        Ok(Some(claimed).filter(|claimed| !claimed.is_empty()))
    }

    /// As [`Self::claim`], waiting for tasks until `give_up`.
    async fn claim_waiting(
        self: &Arc<Self>,
        space: &str,
        id: &str,
        most: usize,
        length_ms: u64,
        give_up: impl Future<Output = ()>,
    ) -> Result<Vec<Claimed>, EngineError> {
        let mut give_up = std::pin::pin!(give_up);
        let _polling = Polling::begin(self, space, id)?;
        loop {
            let mut available = std::pin::pin!(self.available.notified());
            // Before looking: what comes in between is not missed.
            available.as_mut().enable();
            if let Some(claimed) = self.claim(space, id, most, length_ms)? {
                return Ok(claimed);
            }
            tokio::select! {
                biased;
                () = &mut give_up => return Ok(Vec::new()),
                () = available => {}
            }
        }
    }

    /// A worker's report. Answered when it is durable, or at once if nobody waits.
    async fn report(self: &Arc<Self>, space: &str, token: &str, outcome: Outcome) -> Result<Reported, EngineError> {
        let Some((run, task)) = self.leased(space, token) else { return Ok(Reported::Ignored) };
        let outcome = self.interceptors.after(&task, outcome);
        let (reply, answer) = oneshot::channel();
        if !self.end(run, outcome, Some(reply)) {
            return Ok(Reported::Ignored);
        }
        match answer.await {
            Ok(Ok(true)) => Ok(Reported::Recorded),
            Ok(Ok(false)) => Ok(Reported::Ignored),
            Ok(Err(error)) => Err(error),
            Err(_) => Err(EngineError::Stopped(None)),
        }
    }

    /// The run that a token names, if it is one of that namespace: the numbers of
    /// others are easily guessed.
    fn leased(&self, space: &str, token: &str) -> Option<(RunId, Arc<Task>)> {
        let mut state = self.state();
        let run = state.workers.run_of(token)?;
        let task = state.runs.get(&run)?.task.clone();
        if task.instance.space() != space {
            return None;
        }
        self.hear_of(&mut state, run);
        Some((run, task))
    }

    /// A worker is alive, and how far it is with a task.
    fn heartbeat(&self, space: &str, token: &str, progress: Option<Payload>) -> Result<Standing, Failure> {
        let Some((run, task)) = self.leased(space, token) else { return Ok(Standing::Lost) };
        let is_cancelled = task.heartbeat(progress)?;
        self.renew(run, None);
        Ok(if is_cancelled { Standing::Cancelled } else { Standing::Continue })
    }

    fn extend(&self, space: &str, token: &str, length_ms: u64) -> Standing {
        let Some((run, task)) = self.leased(space, token) else { return Standing::Lost };
        self.renew(run, Some(length_ms));
        if task.is_cancelled() { Standing::Cancelled } else { Standing::Continue }
    }

    /// The watcher sees the new end when it looks at the run at the old one.
    fn renew(&self, run: RunId, length_ms: Option<u64>) {
        let now = self.clock.now();
        let mut state = self.state();
        if let Some(Place::Remote(lease)) = state.runs.get_mut(&run).map(|run| &mut run.place) {
            lease.length_ms = length_ms.unwrap_or(lease.length_ms);
            lease.until = now.plus(lease.length_ms);
            self.arm_again(&mut state, run);
        }
    }

    fn hear_of(&self, state: &mut State, run: RunId) {
        let now = self.clock.now();
        if let Some(Place::Remote(lease)) = state.runs.get(&run).map(|run| &run.place)
            && let Some(worker) = state.workers.workers.get_mut(&lease.worker)
        {
            worker.seen_at = now;
        }
    }

    /// Whoever was silent for long and has nothing is not there any more.
    pub(super) fn forget_silent(&self, state: &mut State) {
        let now = self.clock.now();
        let busy: BTreeSet<String> =
            state.runs.values().filter_map(|run| run.place.worker().map(str::to_owned)).collect();
        state.workers.workers.retain(|id, worker| {
            worker.polling > 0 || busy.contains(id) || now.since(worker.seen_at) < FORGOTTEN_AFTER_MS
        });
    }

    fn worker_count(&self) -> usize {
        let mut state = self.state();
        self.forget_silent(&mut state);
        state.workers.workers.len()
    }

    /// Every worker of a namespace that is known, by name.
    fn workers(&self, space: &str) -> Vec<WorkerView> {
        let mut state = self.state();
        self.forget_silent(&mut state);
        let leases = |id: &str| {
            let leased = state.runs.values().filter_map(|run| match &run.place {
                Place::Remote(lease) if lease.worker == id => Some((run, lease)),
                _ => None,
            });
            let view = |(run, lease): (&super::activities::Run, &Lease)| LeaseView {
                task: run.task.idempotency_key(),
                activity: run.task.name.clone(),
                attempt: run.task.attempt,
                lease_until: lease.until.to_string(),
                cancelled: run.task.is_cancelled(),
            };
            leased.map(view).collect()
        };
        let view = |(id, worker): (&String, &Worker)| WorkerView {
            id: id.clone(),
            name: worker.registration.name.clone(),
            queues: worker.registration.queues.clone(),
            activities: worker.registration.activities.keys().cloned().collect(),
            seen_at: worker.seen_at.to_string(),
            waiting: worker.polling > 0,
            tasks: leases(id),
        };
        state.workers.workers.iter().filter(|(_, worker)| worker.space == space).map(view).collect()
    }
}

/// Counts a claim that waits, for as long as whoever made it is there.
struct Polling<'a> {
    activities: &'a Activities,
    space: &'a str,
    worker: &'a str,
}

impl<'a> Polling<'a> {
    fn begin(activities: &'a Activities, space: &'a str, worker: &'a str) -> Result<Self, EngineError> {
        activities.state().workers.get(space, worker)?.polling += 1;
        Ok(Self { activities, space, worker })
    }
}

impl Drop for Polling<'_> {
    fn drop(&mut self) {
        let now = self.activities.clock.now();
        if let Ok(worker) = self.activities.state().workers.get(self.space, self.worker) {
            worker.polling -= 1;
            worker.seen_at = now;
        }
    }
}

/// The workers of one namespace: they see its tasks, and whoever asks sees them alone.
#[derive(Debug)]
pub struct WorkersOf<'e> {
    engine: &'e Engine,
    space: String,
}

impl WorkersOf<'_> {
    /// A worker wants to serve activities; its id, with which it claims tasks.
    ///
    /// # Errors
    /// If it serves nothing, or one of its policies makes no sense.
    pub fn register(&self, registration: Registration) -> Result<String, EngineError> {
        self.engine.activities.register(&self.space, registration)
    }

    /// A worker leaves. What it still has is given out again at once.
    ///
    /// # Errors
    /// [`EngineError::UnknownWorker`].
    pub fn unregister(&self, worker: &str) -> Result<(), EngineError> {
        self.engine.activities.unregister(&self.space, worker)
    }

    /// At most `most` tasks for a worker, leased for `lease_ms`; waits for the first
    /// one until `give_up`.
    ///
    /// # Errors
    /// [`EngineError::UnknownWorker`]: it is to register, again perhaps.
    pub async fn claim(
        &self,
        worker: &str,
        most: usize,
        lease_ms: u64,
        give_up: impl Future<Output = ()>,
    ) -> Result<Vec<Claimed>, EngineError> {
        if !(1..=MAX_CLAIM).contains(&most) {
            return Err(EngineError::InvalidInput(format!("a claim takes 1 to {MAX_CLAIM} tasks, asked for {most}")));
        }
        check_lease(lease_ms)?;
        self.engine.activities.claim_waiting(&self.space, worker, most, lease_ms, give_up).await
    }

    /// What came of a task. Late, double and unknown reports are ignored, and
    /// answered so.
    ///
    /// # Errors
    /// If the engine stops before it is durable: then the task is given out again.
    pub async fn report(&self, token: &str, outcome: Outcome) -> Result<Reported, EngineError> {
        self.engine.activities.report(&self.space, token, outcome).await
    }

    /// A worker is still at a task, and how far it is. Renews the lease.
    ///
    /// # Errors
    /// The progress is too large.
    pub fn heartbeat(&self, token: &str, progress: Option<Payload>) -> Result<Standing, EngineError> {
        self.engine
            .activities
            .heartbeat(&self.space, token, progress)
            .map_err(|failure| EngineError::InvalidInput(failure.message))
    }

    /// Leases a task for `lease_ms` from now, without a heartbeat.
    ///
    /// # Errors
    /// If that is no length for a lease.
    pub fn extend(&self, token: &str, lease_ms: u64) -> Result<Standing, EngineError> {
        check_lease(lease_ms)?;
        Ok(self.engine.activities.extend(&self.space, token, lease_ms))
    }

    /// Every worker that was heard of lately.
    pub fn list(&self) -> Vec<WorkerView> {
        self.engine.activities.workers(&self.space)
    }
}

impl Engine {
    /// The workers of a namespace.
    pub fn workers_of(&self, namespace: &Namespace) -> WorkersOf<'_> {
        WorkersOf { engine: self, space: namespace.key().to_owned() }
    }

    /// Remote workers of every namespace that were heard of lately.
    pub fn worker_count(&self) -> usize {
        self.activities.worker_count()
    }
}

fn check_lease(lease_ms: u64) -> Result<(), EngineError> {
    if (1..=MAX_LEASE_MS).contains(&lease_ms) {
        return Ok(());
    }
    Err(EngineError::InvalidInput(format!("a lease has 1 to {MAX_LEASE_MS} ms, asked for {lease_ms}")))
}

/// A name that no other life of an engine gave.
fn fresh_name() -> String {
    fresh_seed()[..8].iter().map(|byte| format!("{byte:02x}")).collect()
}
