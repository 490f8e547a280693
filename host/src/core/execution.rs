//! One execution's state, derived from its events and from nothing else.
//!
//! [`Execution::apply`] is the only way in which it changes: live, at replay and
//! when a history is loaded to see what is pending. Decisions about what comes
//! from outside (is this result still wanted? is there another attempt?) are
//! questions that return the event to record, or none.

mod entities;

use std::collections::{BTreeMap, HashMap, VecDeque};
use std::sync::Arc;

use serde::{Deserialize, Serialize};

use super::calls::{Call, Caller, Leave, OrchestrationScheduled, ParentClose};
use super::event::{ActivityScheduled, Event, START, Started};
use super::ids::{Hash, InstanceId, ModuleHash, OperationId, TimestampMs};
use super::keys::Keys;
use super::mail::{Content, Letter, MailKey, Outbox, Post, Seen, Source};
use super::payload::{Failure, FailureKind, Outcome, Payload};
use super::request::{Request, RequestKind, Requests, Source as Asker};
use super::retry::{self, Attempt, RetryPolicy};
use super::summary::Status;
use super::task::Turn;

/// An operation that is not complete: all that waiting costs.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub enum Pending {
    /// An activity runs or waits for its next attempt.
    Activity {
        /// What was asked for.
        call: Arc<ActivityScheduled>,
        /// When.
        scheduled_at: TimestampMs,
        /// The attempt that runs or comes next, from 1.
        attempt: u32,
        /// When that attempt starts, if it is not yet running, and why the one before failed.
        retry: Option<Box<(TimestampMs, Failure)>>,
        /// What an attempt before reported at its last heartbeat.
        progress: Option<Payload>,
    },
    /// A timer.
    Timer {
        /// When it fires.
        fire_at: TimestampMs,
    },
    /// A wait for an event.
    Event {
        /// Its name.
        name: String,
    },
    /// A signal that its receiver has not taken yet.
    Signal {
        /// The receiver.
        to: InstanceId,
        /// The event's name.
        name: String,
    },
    /// A sub-orchestration runs or waits for its next attempt.
    Orchestration {
        /// What was asked for.
        call: Arc<OrchestrationScheduled>,
        /// When.
        scheduled_at: TimestampMs,
        /// The attempt that runs or comes next, from 1.
        attempt: u32,
        /// When that attempt starts, if it does not run.
        starts_at: Option<TimestampMs>,
        /// Why the attempt before failed.
        last_failure: Option<Box<Failure>>,
    },
    /// An operation of an entity.
    Entity {
        /// The entity.
        to: InstanceId,
        /// Which of its operations.
        name: String,
    },
    /// A lock over entities.
    Lock {
        /// They, in the order in which they are locked.
        entities: Arc<[InstanceId]>,
    },
}

// An instance that waits has a node of a tree in memory, which has room for eleven of them.
const _: () = assert!(size_of::<Pending>() <= 72);

/// What the guest is to be told, in the order recorded.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub enum Delivery {
    /// An operation's outcome.
    Completed(OperationId, Outcome),
    /// Somebody asks the instance to end.
    CancelRequested(String),
    /// Somebody waits for an answer.
    Requested(Arc<Request>),
}

/// How an execution ended.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub enum End {
    /// It returned.
    Completed(Payload),
    /// It failed.
    Failed(Failure),
    /// The next execution started with this input.
    ContinuedAsNew(Payload),
    /// Somebody ended it.
    Terminated(String),
}

#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
struct Arrived {
    order: u64,
    name: String,
    value: Payload,
}

/// The state. Its encoding stands in snapshots: a change of it raises
/// [`SAVED_FORMAT`](super::turn::SAVED_FORMAT).
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct Execution {
    /// What it started from.
    pub started: Box<Started>,
    /// The module that it runs: the one it started with, or was migrated to.
    pub module: ModuleHash,
    /// When its first turn was recorded.
    pub started_at: TimestampMs,
    /// The time of the last turn.
    pub now: TimestampMs,
    /// Events recorded.
    pub events: u32,
    /// Turns recorded.
    pub turns: u32,
    /// The hash of the last turn.
    pub head: Hash,
    /// Incomplete operations.
    pub pending: BTreeMap<OperationId, Pending>,
    /// The last value of `set-custom-status`.
    pub custom_status: Option<Payload>,
    /// Tags as they stand.
    pub tags: BTreeMap<String, String>,
    /// How it ended, once it has.
    pub end: Option<End>,
    /// Whether the guest's `start` was called.
    pub begun: bool,
    /// Whether somebody holds it: nothing is run until it is resumed.
    pub suspended: bool,
    /// What was asked of it.
    pub requests: Requests,
    /// Letters to other instances that have no answer yet; they outlast the end.
    pub outbox: Outbox,
    /// Letters of other instances that were taken.
    pub seen: Seen,
    /// What is to be let out to other instances once this turn is durable.
    #[serde(skip)]
    pub posts: Vec<Post>,
    /// Whether its caller went without it.
    pub caller_left: bool,
    /// Locks that it holds or takes, by the operation that asked.
    locks: BTreeMap<OperationId, Arc<[InstanceId]>>,
    next_operation: OperationId,
    waiters: HashMap<String, VecDeque<OperationId>>,
    /// Events that no wait has taken, by name and order of arrival.
    buffered: HashMap<String, BTreeMap<u64, Payload>>,
    /// Events lent to a wait whose guest has not yet said that it took them.
    lent: BTreeMap<OperationId, Arrived>,
    arrivals: u64,
    ready: Vec<Delivery>,
    patched: HashMap<String, bool>,
    /// The guest is to begin at a date that has not come: see [`START`].
    is_early: bool,
    /// Keys of events that were raised.
    pub keys: Keys,
}

impl Execution {
    /// The state right after `started` was recorded in its first turn.
    pub fn new(started: Box<Started>) -> Self {
        let mut execution = Self {
            started_at: TimestampMs::default(),
            now: TimestampMs::default(),
            events: 0,
            turns: 0,
            head: Hash::ZERO,
            pending: BTreeMap::new(),
            custom_status: None,
            tags: started.tags.iter().cloned().collect(),
            end: None,
            begun: false,
            suspended: false,
            requests: Requests::default(),
            outbox: Outbox::of(&started.outbox),
            seen: started.seen.clone(),
            posts: Vec::new(),
            caller_left: false,
            locks: BTreeMap::new(),
            next_operation: 1,
            waiters: HashMap::new(),
            buffered: HashMap::new(),
            lent: BTreeMap::new(),
            arrivals: 0,
            ready: Vec::new(),
            patched: HashMap::new(),
            is_early: false,
            module: started.module,
            keys: started.keys.clone(),
            started,
        };
        if let Some(fire_at) = execution.started.start_at {
            execution.pending.insert(START, Pending::Timer { fire_at });
            execution.is_early = true;
        }
        for (name, value) in execution.started.buffered.clone() {
            execution.raise(&name, &value);
        }
        execution.pass_gate();
        execution
    }

    /// Where it stands, as others see it.
    pub fn status(&self) -> Status {
        match self.end {
            None if self.suspended => Status::Suspended,
            None | Some(End::ContinuedAsNew(_)) => Status::Running,
            Some(End::Completed(_)) => Status::Completed,
            Some(End::Failed(_)) => Status::Failed,
            Some(End::Terminated(_)) => Status::Terminated,
        }
    }

    /// The id that the next operation gets.
    pub fn next_operation(&self) -> OperationId {
        self.next_operation
    }

    /// Whether a turn would do anything: the guest has not begun and may, or
    /// something is recorded that it does not know.
    pub fn wants_turn(&self) -> bool {
        self.end.is_none() && !self.suspended && !self.is_early && (!self.begun || !self.ready.is_empty())
    }

    /// Takes what the guest is to be told now.
    pub fn take_ready(&mut self) -> Vec<Delivery> {
        std::mem::take(&mut self.ready)
    }

    /// Events that came and were not taken, in their order.
    pub fn untaken_events(&self) -> Vec<(String, Payload)> {
        let buffered = self.buffered.iter().flat_map(|(name, queue)| queue.iter().map(move |(&n, v)| (n, name, v)));
        let lent = self.lent.values().map(|event| (event.order, &event.name, &event.value));
        let mut all: Vec<_> = buffered.chain(lent).collect();
        all.sort_by_key(|(order, ..)| *order);
        all.into_iter().map(|(_, name, value)| (name.clone(), value.clone())).collect()
    }

    /// Names of the events that no wait has, one for each event.
    pub fn buffered_names(&self) -> Vec<String> {
        let mut all: Vec<_> =
            self.buffered.iter().flat_map(|(name, queue)| queue.keys().map(move |n| (n, name))).collect();
        all.sort();
        all.into_iter().map(|(_, name)| name.clone()).collect()
    }

    /// The guest has taken the event of that wait into use.
    pub fn received(&mut self, operation: OperationId) {
        self.lent.remove(&operation);
    }

    /// Whether a cancellation of `operation` would change anything.
    pub fn can_cancel(&self, operation: OperationId) -> bool {
        self.pending.contains_key(&operation)
            || self.lent.contains_key(&operation)
            || self.is_ready(operation)
            || self.has_lock(operation)
    }

    /// Whether [`Event::Patched`] was answered for `id`, and how.
    pub fn patched(&self, id: &str) -> Option<bool> {
        self.patched.get(id).copied()
    }

    /// Remembers that `id` was answered with no, which is not recorded.
    pub fn not_patched(&mut self, id: &str) {
        self.patched.insert(id.to_owned(), false);
    }

    /// The earliest time at which something is due without anybody's doing. While
    /// suspended that is only timers: no attempt begins.
    pub fn next_due(&self) -> Option<TimestampMs> {
        let due = |pending: &Pending| if self.suspended { pending.due_unasked() } else { pending.due() };
        self.pending.values().filter_map(due).min()
    }

    /// Takes one event into the state.
    pub fn apply(&mut self, event: &Event) {
        if let Some((letter, floor)) = event.letter() {
            self.seen.take(letter, floor);
        }
        match event {
            Event::ExecutionStarted(_)
            | Event::NowRead { .. }
            | Event::RandomDrawn { .. }
            | Event::GuidGenerated { .. }
            | Event::ValueRecorded { .. } => {}
            Event::ActivityCompleted { operation, result, .. } => self.complete(*operation, Ok(result.clone())),
            Event::ActivityFailed { operation, failure, .. } => self.complete(*operation, Err(failure.clone())),
            Event::ActivityAttemptFailed { operation, attempt: failed, failure, retry_at, progress: reached } => {
                if let Some(Pending::Activity { attempt, retry, progress, .. }) = self.pending.get_mut(operation) {
                    *attempt = failed + 1;
                    *retry = Some(Box::new((*retry_at, failure.clone())));
                    *progress = reached.clone();
                }
            }
            Event::TimerFired { operation: START } => {
                self.pending.remove(&START);
                self.is_early = false;
            }
            Event::TimerFired { operation } => self.complete(*operation, Ok(Payload::null())),
            Event::EventRaised { name, value } => self.raise(name, value),
            Event::EventRaisedOnce { key, name, value } => {
                self.keys.take(key);
                self.raise(name, value);
            }
            Event::CancelRequested { reason } => self.ready.push(Delivery::CancelRequested(reason.clone())),
            Event::Patched { id } => {
                self.patched.insert(id.clone(), true);
            }
            Event::ActivityScheduled(call) => self.open(
                call.operation,
                Pending::Activity {
                    call: call.clone(),
                    scheduled_at: self.now,
                    attempt: 1,
                    retry: None,
                    progress: None,
                },
            ),
            Event::TimerScheduled { operation, fire_at } => self.open(*operation, Pending::Timer { fire_at: *fire_at }),
            Event::EventAwaited { operation, name } => self.await_event(*operation, name),
            Event::OperationCancelled { operation } => self.cancel(*operation),
            Event::OperationRefused { operation, failure, .. } => {
                self.next_operation = operation + 1;
                self.ready.push(Delivery::Completed(*operation, Err(failure.clone())));
            }
            Event::CustomStatusSet { status } => self.custom_status = Some(status.clone()),
            Event::TagSet { name, value } if value.is_empty() => {
                self.tags.remove(name);
            }
            Event::TagSet { name, value } => {
                self.tags.insert(name.clone(), value.clone());
            }
            Event::Completed { output } => self.finish(End::Completed(output.clone())),
            Event::Failed { failure, .. } => self.finish(End::Failed(failure.clone())),
            Event::ContinuedAsNew { input } => self.finish(End::ContinuedAsNew(input.clone())),
            Event::Terminated { reason } => self.finish(End::Terminated(reason.clone())),
            Event::Suspended { .. } => self.suspended = true,
            Event::Resumed { .. } => self.suspended = false,
            Event::ModuleMigrated { to, .. } => self.module = *to,
            Event::Rewound(from) => {
                for &operation in &from.operations {
                    let Some(pending) = self.pending.get_mut(&operation) else { continue };
                    pending.begin_anew(self.now);
                    if matches!(pending, Pending::Signal { .. } | Pending::Entity { .. }) {
                        self.posts.push(Post::Letter((self.started.execution, operation)));
                    }
                }
            }
            Event::SignalReceived { name, value, .. } => self.raise(name, value),
            Event::SignalSent(s) => {
                self.open(s.operation, Pending::Signal { to: s.to.clone(), name: s.name.clone() });
                let content = Content::Signal { name: s.name.clone(), value: s.value.clone() };
                self.send(s.operation, Letter { to: s.to.clone(), content });
            }
            Event::OrchestrationScheduled(call) => self.open_call(call),
            Event::OrchestrationCompleted { operation, result, .. } => self.complete(*operation, Ok(result.clone())),
            Event::OrchestrationFailed { operation, failure, .. } => {
                if failure.kind == FailureKind::TimedOut {
                    // It may run on; one that failed so itself does not notice.
                    self.leave(*operation, false);
                }
                self.complete(*operation, Err(failure.clone()));
            }
            Event::OrchestrationAttemptFailed { operation, attempt: failed, failure, retry_at } => {
                if let Some(Pending::Orchestration { attempt, starts_at, last_failure, .. }) =
                    self.pending.get_mut(operation)
                {
                    *attempt = failed + 1;
                    *starts_at = Some(*retry_at);
                    *last_failure = Some(Box::new(failure.clone()));
                }
            }
            Event::CallerLeft { reason } => {
                self.caller_left = true;
                self.ready.push(Delivery::CancelRequested(reason.clone()));
            }
            Event::OrchestrationAbandoned { call } => drop(self.outbox.answered(*call)),
            Event::SignalDelivered { signal } => self.answered(*signal, Ok(Payload::null())),
            Event::SignalFailed { signal, failure } => self.answered(*signal, Err(failure.clone())),
            Event::RequestsCarried(_)
            | Event::GateCarried(_)
            | Event::RequestReceived(_)
            | Event::OperationReceived { .. }
            | Event::Responded { .. }
            | Event::OperationAborted { .. }
            | Event::EntityCalled(_)
            | Event::EntityAnswered { .. }
            | Event::LockAsked { .. }
            | Event::LockFreed { .. }
            | Event::LockRequested { .. }
            | Event::LockReleased { .. } => self.apply_entity(event),
        }
    }

    // ---- questions about what comes from outside ----

    /// The event to record for an attempt's outcome, or none if nobody waits for
    /// it: it is late, a duplicate, cancelled or unknown. `default_retry` is the
    /// activity's own policy, for calls that give none. `progress` is what the
    /// attempt reported at its last heartbeat.
    pub fn activity_outcome(
        &self,
        operation: OperationId,
        attempt: u32,
        outcome: Outcome,
        progress: Option<Payload>,
        default_retry: Option<&RetryPolicy>,
        now: TimestampMs,
    ) -> Option<Event> {
        // Whether the attempt's start is noted does not matter: an execution that
        // was loaded from its history does not know of it.
        let Some(Pending::Activity { call, scheduled_at, attempt: current, .. }) = self.pending.get(&operation) else {
            return None;
        };
        if *current != attempt || self.end.is_some() {
            return None;
        }
        let failure = match outcome {
            Ok(result) => return Some(Event::ActivityCompleted { operation, attempt, result }),
            Err(failure) => failure,
        };
        let failed = self.failed_attempt(operation, attempt, *scheduled_at, now);
        let next = retry::next_attempt(call.options.retry.as_ref().or(default_retry), &failure, failed);
        // An attempt that could only begin when the call's whole time is over is none.
        let ends_at = call.options.schedule_to_close_ms.map(|ms| scheduled_at.plus(ms));
        Some(match next.filter(|next| ends_at.is_none_or(|end| *next < end)) {
            Some(retry_at) => Event::ActivityAttemptFailed { operation, attempt, failure, retry_at, progress },
            None => Event::ActivityFailed { operation, attempt, failure },
        })
    }

    /// The events to record for the timers that are due at `now`, in order of
    /// their times.
    pub fn timers_due(&self, now: TimestampMs) -> Vec<Event> {
        if self.end.is_some() {
            return Vec::new();
        }
        let mut due: Vec<_> = self
            .pending
            .iter()
            .filter_map(|(&operation, pending)| Some((pending.due_unasked().filter(|at| *at <= now)?, operation)))
            .collect();
        due.sort_unstable();
        due.into_iter().map(|(_, operation)| self.due_event(operation)).collect()
    }

    fn failed_attempt(
        &self,
        operation: OperationId,
        attempt: u32,
        scheduled_at: TimestampMs,
        failed_at: TimestampMs,
    ) -> Attempt<'_> {
        let (algorithm, seed) = (self.started.retry_algorithm, &self.started.seed);
        Attempt { algorithm, seed, operation, attempt, scheduled_at, failed_at }
    }

    /// What waited to begin until `now` or before: attempts of activities whose
    /// back-off is over, and sub-orchestrations. Marks them as running; nothing is
    /// recorded, since nothing is decided. None while suspended.
    pub fn begin_due(&mut self, now: TimestampMs) -> (Vec<(Arc<ActivityScheduled>, Turn)>, Vec<Post>) {
        let (mut attempts, mut calls) = (Vec::new(), Vec::new());
        if self.suspended {
            return (attempts, calls);
        }
        for (operation, pending) in &mut self.pending {
            match pending {
                Pending::Activity { call, scheduled_at, attempt, retry, progress } => {
                    if let Some(available_at) = retry.take_if(|waits| waits.0 <= now).map(|waits| waits.0) {
                        let (scheduled_at, attempt, last_heartbeat) = (*scheduled_at, *attempt, progress.clone());
                        let turn = Turn { attempt, scheduled_at, available_at, last_heartbeat, again: false };
                        attempts.push((call.clone(), turn));
                    }
                }
                Pending::Orchestration { starts_at, .. } => {
                    calls.extend(starts_at.take_if(|at| *at <= now).map(|_| Post::Call(*operation)));
                }
                _ => {}
            }
        }
        (attempts, calls)
    }

    /// Whether the state is what its events say and nothing else: no attempt after the
    /// first was noted as begun, see [`Self::begin_due`].
    pub fn is_as_recorded(&self) -> bool {
        self.pending.values().all(|pending| match pending {
            Pending::Activity { attempt, retry, .. } => *attempt == 1 || retry.is_some(),
            Pending::Orchestration { attempt, starts_at, .. } => *attempt == 1 || starts_at.is_some(),
            _ => true,
        })
    }

    /// The attempts that were under way when their host died, and are therefore to
    /// be run again: their turns are durable, their results are not.
    pub fn interrupted(&self) -> Vec<(Arc<ActivityScheduled>, Turn)> {
        let interrupted = |pending: &Pending| match pending {
            Pending::Activity { call, scheduled_at, attempt, retry: None, progress } => Some((
                call.clone(),
                Turn { attempt: *attempt, last_heartbeat: progress.clone(), again: true, ..Turn::first(*scheduled_at) },
            )),
            _ => None,
        };
        self.pending.values().filter_map(interrupted).collect()
    }

    /// The event to record for a letter's answer, or none if it has one.
    pub fn mail_answer(&self, key: MailKey, outcome: Outcome) -> Option<Event> {
        Some(match (&self.outbox.get(key)?.content, outcome) {
            (Content::Signal { .. }, Ok(_)) => Event::SignalDelivered { signal: key },
            (Content::Signal { .. }, Err(failure)) => Event::SignalFailed { signal: key, failure },
            (Content::Call(_), _) => Event::OrchestrationAbandoned { call: key },
            (Content::EntityOperation { .. } | Content::EntityLock { .. } | Content::EntityUnlock { .. }, answer) => {
                Event::EntityAnswered { letter: key, answer }
            }
        })
    }

    /// The event to record for a letter, or none if it was taken already.
    pub fn mail(&self, source: Source, floor: MailKey, content: Content) -> Option<Event> {
        match content {
            _ if self.seen.has(&source) => None,
            Content::Signal { name, value } => Some(Event::SignalReceived { source, floor, name, value }),
            // It is the start of an instance, not something for one.
            Content::Call(_) => None,
            Content::EntityOperation { name, input, one_way } => {
                let (id, kind) = (self.requests.next_id(), RequestKind::EntityOperation);
                let source = Asker::Instance(source);
                let request = Arc::new(Request { id, kind, name, input, source, one_way });
                Some(Event::OperationReceived { request, floor })
            }
            Content::EntityLock { unlock } => Some(Event::LockRequested { holder: source, floor, unlock }),
            Content::EntityUnlock { lock } => Some(Event::LockReleased { source, floor, lock }),
        }
    }

    /// Everything of which other instances may not have heard yet.
    pub fn posts_again(&self) -> Vec<Post> {
        let sent = self.outbox.letters().filter(|(key, _)| !self.is_held_back(*key));
        // Those that free come after what was asked of what they free.
        let (frees, others): (Vec<_>, Vec<_>) =
            sent.partition(|(_, letter)| matches!(letter.content, Content::EntityUnlock { .. }));
        let letters = others.into_iter().chain(frees).map(|(key, _)| Post::Letter(key));
        let called = |(operation, pending): (&OperationId, &Pending)| match pending {
            Pending::Orchestration { starts_at, .. } => self.has_begun(*starts_at).then_some(Post::Call(*operation)),
            _ => None,
        };
        letters.chain(self.pending.iter().filter_map(called)).collect()
    }

    /// The event to record for what a sub-orchestration ended with, or none if
    /// nobody waits for it.
    pub fn orchestration_outcome(
        &self,
        operation: OperationId,
        attempt: u32,
        outcome: Outcome,
        now: TimestampMs,
    ) -> Option<Event> {
        let Some(Pending::Orchestration { call, scheduled_at, attempt: current, .. }) = self.pending.get(&operation)
        else {
            return None;
        };
        if *current != attempt || self.end.is_some() {
            return None;
        }
        let failure = match outcome {
            Ok(result) => return Some(Event::OrchestrationCompleted { operation, attempt, result }),
            Err(failure) => failure,
        };
        let failed = self.failed_attempt(operation, attempt, *scheduled_at, now);
        Some(match retry::next_attempt(call.options.retry.as_ref(), &failure, failed) {
            Some(retry_at) => Event::OrchestrationAttemptFailed { operation, attempt, failure, retry_at },
            None => Event::OrchestrationFailed { operation, attempt, failure },
        })
    }

    /// As [`Self::orchestration_outcome`], where the call is this very execution's.
    pub fn call_outcome(&self, caller: &Caller, outcome: Outcome, now: TimestampMs) -> Option<Event> {
        let mine = (self.started.birth, self.started.execution) == (caller.birth, caller.execution);
        self.orchestration_outcome(caller.operation, caller.attempt, outcome, now).filter(|_| mine)
    }

    /// The event to record when a caller goes without what it called, or none if
    /// that is not this instance or it knows.
    pub fn leave_of_caller(&self, caller: &Caller, what: ParentClose, reason: String) -> Option<Event> {
        if self.end.is_some() || self.started.caller.as_ref() != Some(caller) {
            return None;
        }
        match what {
            ParentClose::Terminate => Some(Event::Terminated { reason }),
            ParentClose::Cancel => (!self.caller_left).then_some(Event::CallerLeft { reason }),
            ParentClose::Abandon => None,
        }
    }

    /// The call of a sub-orchestration that runs, as it is sent.
    pub fn call(&self, operation: OperationId) -> Option<Call> {
        self.call_at(operation, self.now)
    }

    /// As [`Self::call`], of one that runs at `now`.
    pub fn call_at(&self, operation: OperationId, now: TimestampMs) -> Option<Call> {
        match self.pending.get(&operation)? {
            Pending::Orchestration { call, scheduled_at, attempt, starts_at, .. } => {
                starts_at.is_none_or(|at| at <= now).then(|| Call {
                    caller: self.as_caller(operation, *attempt, call.options.parent_close),
                    module: self.module,
                    scheduled_at: *scheduled_at,
                    scheduled: (**call).clone(),
                })
            }
            _ => None,
        }
    }

    /// Whether an attempt that starts then runs. That its start was noted does not
    /// matter: an execution that was loaded from its history does not know of it.
    fn has_begun(&self, starts_at: Option<TimestampMs>) -> bool {
        starts_at.is_none_or(|at| at <= self.now)
    }

    /// This execution as the caller of others.
    pub fn as_caller(&self, operation: OperationId, attempt: u32, parent_close: ParentClose) -> Caller {
        let started = &self.started;
        let (instance, birth, execution) = (started.instance.clone(), started.birth, started.execution);
        Caller { instance, birth, execution, operation, attempt, parent_close }
    }

    /// Takes back what the guest asked for: posts from `posts_from` on, operations
    /// from `operations_from` on. The host ended its turn, and nothing of it is
    /// recorded. (That a lock of an earlier turn was freed stays: the end frees it.)
    pub fn forget_asked(&mut self, posts_from: usize, operations_from: OperationId) {
        self.requests.take_back();
        let execution = self.started.execution;
        self.outbox.retain(|key| key.0 != execution || key.1 < operations_from);
        self.locks.retain(|lock, _| *lock < operations_from);
        for post in self.posts.split_off(posts_from.min(self.posts.len())) {
            match post {
                Post::Letter(key) if self.outbox.get(key).is_some() => self.posts.push(Post::Letter(key)),
                Post::Letter(_) => {}
                Post::Call(operation) => drop(self.pending.remove(&operation)),
                // The guest let it go in vain; it is left by the end that comes now.
                Post::Leave(leave) => self.posts.push(Post::Leave(Leave { ended: true, ..leave })),
                Post::Answer(_) | Post::Return => {}
            }
        }
    }

    fn due_event(&self, operation: OperationId) -> Event {
        match self.pending.get(&operation) {
            Some(Pending::Orchestration { call, attempt, .. }) => {
                let after = call.options.timeout_ms.unwrap_or_default();
                let message = format!("{} ({}) did not end within {after} ms", call.name, call.called(*attempt));
                let failure = Failure::fatal(FailureKind::TimedOut, message);
                let failure = Failure { error_type: "schedule-to-close".to_owned(), ..failure };
                Event::OrchestrationFailed { operation, attempt: *attempt, failure }
            }
            _ => Event::TimerFired { operation },
        }
    }

    // ---- how state changes ----

    fn open_call(&mut self, call: &OrchestrationScheduled) {
        self.posts.push(Post::Call(call.operation));
        let (scheduled_at, call) = (self.now, Arc::new(call.clone()));
        self.open(
            call.operation,
            Pending::Orchestration { call, scheduled_at, attempt: 1, starts_at: None, last_failure: None },
        );
    }

    /// A sub-orchestration that runs is left alone.
    fn leave(&mut self, operation: OperationId, ended: bool) {
        if let Some(Pending::Orchestration { call, attempt, starts_at, .. }) = self.pending.get(&operation)
            && self.has_begun(*starts_at)
        {
            let (called, attempt, parent_close) = (call.called(*attempt), *attempt, call.options.parent_close);
            self.posts.push(Post::Leave(Leave { called, operation, attempt, parent_close, ended }));
        }
    }

    /// The calls of an execution that ends. One that is to go on may not have been
    /// told to begin: that it is to be is kept until it has.
    fn leave_all(&mut self) {
        let running = |(operation, pending): (&OperationId, &Pending)| {
            matches!(pending, Pending::Orchestration { .. }).then_some(*operation)
        };
        let calls: Vec<OperationId> = self.pending.iter().filter_map(running).collect();
        for operation in calls {
            match self.call(operation) {
                Some(call) if call.caller.parent_close == ParentClose::Abandon => {
                    let to = call.scheduled.called(call.caller.attempt);
                    self.send(operation, Letter { to, content: Content::Call(Box::new(call)) });
                }
                _ => self.leave(operation, true),
            }
        }
    }

    fn send(&mut self, operation: OperationId, letter: Letter) {
        let key = (self.started.execution, operation);
        self.outbox.put(key, letter);
        self.posts.push(Post::Letter(key));
    }

    fn answered(&mut self, key: MailKey, outcome: Outcome) {
        self.outbox.answered(key);
        if key.0 == self.started.execution {
            self.complete(key.1, outcome);
        }
    }

    fn open(&mut self, operation: OperationId, pending: Pending) {
        self.next_operation = operation + 1;
        self.pending.insert(operation, pending);
    }

    fn complete(&mut self, operation: OperationId, outcome: Outcome) {
        if self.pending.remove(&operation).is_some() {
            self.ready.push(Delivery::Completed(operation, outcome));
        }
    }

    fn raise(&mut self, name: &str, value: &Payload) {
        self.arrivals += 1;
        let arrived = Arrived { order: self.arrivals, name: name.to_owned(), value: value.clone() };
        match self.next_waiter(name) {
            Some(operation) => self.lend(operation, arrived),
            None => self.buffer(arrived),
        }
    }

    fn await_event(&mut self, operation: OperationId, name: &str) {
        self.open(operation, Pending::Event { name: name.to_owned() });
        let first = self.buffered.get_mut(name).and_then(BTreeMap::pop_first);
        if self.buffered.get(name).is_some_and(BTreeMap::is_empty) {
            self.buffered.remove(name);
        }
        match first {
            Some((order, value)) => self.lend(operation, Arrived { order, name: name.to_owned(), value }),
            None => self.waiters.entry(name.to_owned()).or_default().push_back(operation),
        }
    }

    fn next_waiter(&mut self, name: &str) -> Option<OperationId> {
        let queue = self.waiters.get_mut(name)?;
        let first = queue.pop_front();
        if queue.is_empty() {
            self.waiters.remove(name);
        }
        first
    }

    fn buffer(&mut self, event: Arrived) {
        self.buffered.entry(event.name).or_default().insert(event.order, event.value);
    }

    fn lend(&mut self, operation: OperationId, event: Arrived) {
        self.complete(operation, Ok(event.value.clone()));
        self.lent.insert(operation, event);
    }

    /// A cancelled operation is forgotten. If its completion is recorded but not
    /// yet handed over, it is withdrawn. An event that was not taken goes to the
    /// next wait for it, or back to where it was in the queue.
    fn cancel(&mut self, operation: OperationId) {
        self.leave(operation, false);
        if let Some(Pending::Event { name }) = self.pending.remove(&operation)
            && let Some(queue) = self.waiters.get_mut(&name)
        {
            queue.retain(|&waiter| waiter != operation);
            if queue.is_empty() {
                self.waiters.remove(&name);
            }
        }
        self.end_lock(operation);
        self.ready.retain(|delivery| !matches!(delivery, Delivery::Completed(ready, _) if *ready == operation));
        if let Some(event) = self.lent.remove(&operation) {
            match self.next_waiter(&event.name) {
                Some(waiter) => self.lend(waiter, event),
                None => self.buffer(event),
            }
        }
    }

    fn is_ready(&self, operation: OperationId) -> bool {
        self.ready.iter().any(|delivery| matches!(delivery, Delivery::Completed(ready, _) if *ready == operation))
    }

    fn finish(&mut self, end: End) {
        self.leave_all();
        if self.started.caller.is_some() && !matches!(end, End::ContinuedAsNew(_)) {
            self.posts.push(Post::Return);
        }
        self.pending.clear();
        self.waiters.clear();
        self.ready.clear();
        let goes_on = matches!(end, End::ContinuedAsNew(_));
        self.end = Some(end);
        self.end_entities(goes_on);
    }
}

impl Pending {
    /// When it proceeds by itself, if it does.
    pub fn due(&self) -> Option<TimestampMs> {
        match self {
            Self::Timer { fire_at } => Some(*fire_at),
            Self::Activity { retry, .. } => retry.as_deref().map(|(at, _)| *at),
            Self::Orchestration { starts_at, .. } => starts_at.iter().copied().chain(self.due_unasked()).min(),
            Self::Event { .. } | Self::Signal { .. } | Self::Entity { .. } | Self::Lock { .. } => None,
        }
    }

    /// When something of it is recorded by itself, whether or not anything is run.
    pub fn due_unasked(&self) -> Option<TimestampMs> {
        match self {
            Self::Timer { fire_at } => Some(*fire_at),
            Self::Orchestration { call, scheduled_at, .. } => {
                call.options.timeout_ms.map(|timeout| scheduled_at.plus(timeout))
            }
            Self::Activity { .. }
            | Self::Event { .. }
            | Self::Signal { .. }
            | Self::Entity { .. }
            | Self::Lock { .. } => None,
        }
    }

    /// Whether it is an activity's attempt that is to run now.
    pub fn is_under_way(&self) -> bool {
        matches!(self, Self::Activity { retry: None, .. })
    }
}
