//! One execution's state, derived from its events and from nothing else.
//!
//! [`Execution::apply`] is the only way in which it changes: live, at replay and
//! when a history is loaded to see what is pending. Decisions about what comes
//! from outside (is this result still wanted? is there another attempt?) are
//! questions that return the event to record, or none.

mod entities;

use std::collections::{BTreeMap, HashMap, VecDeque};
use std::sync::Arc;

use super::event::{ActivityScheduled, Event, Started};
use super::ids::{Hash, InstanceId, OperationId, TimestampMs};
use super::mail::{Content, Letter, MailKey, Outbox, Post, Seen, Source};
use super::payload::{Failure, Outcome, Payload};
use super::request::{Request, RequestKind, Requests, Source as Asker};
use super::retry::{self, Attempt, RetryPolicy};

/// An operation that is not complete: all that waiting costs.
#[derive(Clone, Debug, PartialEq)]
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
        retry: Option<(TimestampMs, Failure)>,
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

/// What the guest is to be told, in the order recorded.
#[derive(Clone, Debug, PartialEq)]
pub enum Delivery {
    /// An operation's outcome.
    Completed(OperationId, Outcome),
    /// Somebody asks the instance to end.
    CancelRequested(String),
    /// Somebody waits for an answer.
    Requested(Arc<Request>),
}

/// How an execution ended.
#[derive(Clone, Debug, PartialEq)]
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

#[derive(Clone, Debug)]
struct Arrived {
    order: u64,
    name: String,
    value: Payload,
}

/// The state.
#[derive(Clone, Debug)]
pub struct Execution {
    /// What it started from.
    pub started: Box<Started>,
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
    /// Letters to other instances that have no answer yet; they outlast the end.
    pub outbox: Outbox,
    /// Letters of other instances that were taken.
    pub seen: Seen,
    /// What is to be let out to other instances once this turn is durable.
    pub posts: Vec<Post>,
    /// What was asked of it.
    pub requests: Requests,
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
}

impl Execution {
    /// The state right after `started` was recorded in its first turn.
    pub fn new(started: Box<Started>) -> Self {
        let (requests, open) = Requests::of(&started.requests);
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
            outbox: Outbox::of(&started.outbox),
            seen: started.seen.clone(),
            posts: Vec::new(),
            requests,
            locks: BTreeMap::new(),
            next_operation: 1,
            waiters: HashMap::new(),
            buffered: HashMap::new(),
            lent: BTreeMap::new(),
            arrivals: 0,
            ready: open.into_iter().map(Delivery::Requested).collect(),
            patched: HashMap::new(),
            started,
        };
        for (name, value) in execution.started.buffered.clone() {
            execution.raise(&name, &value);
        }
        execution.pass_gate();
        execution
    }

    /// The id that the next operation gets.
    pub fn next_operation(&self) -> OperationId {
        self.next_operation
    }

    /// Whether a turn would do anything: the guest has not begun, or something
    /// is recorded that it does not know.
    pub fn wants_turn(&self) -> bool {
        self.end.is_none() && !self.suspended && (!self.begun || !self.ready.is_empty())
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
        let held = |pending: &&Pending| self.suspended && matches!(pending, Pending::Activity { .. });
        self.pending.values().filter(|pending| !held(pending)).filter_map(Pending::due).min()
    }

    /// Takes one event into the state.
    pub fn apply(&mut self, event: &Event) {
        match event {
            Event::ExecutionStarted(_)
            | Event::NowRead { .. }
            | Event::RandomDrawn { .. }
            | Event::GuidGenerated { .. }
            | Event::ValueRecorded { .. } => {}
            Event::ActivityCompleted { operation, result, .. } => self.complete(*operation, Ok(result.clone())),
            Event::ActivityFailed { operation, failure, .. } => self.complete(*operation, Err(failure.clone())),
            Event::ActivityAttemptFailed { operation, attempt: failed, failure, retry_at } => {
                if let Some(Pending::Activity { attempt, retry, .. }) = self.pending.get_mut(operation) {
                    *attempt = failed + 1;
                    *retry = Some((*retry_at, failure.clone()));
                }
            }
            Event::TimerFired { operation } => self.complete(*operation, Ok(Payload::null())),
            Event::EventRaised { name, value } => self.raise(name, value),
            Event::CancelRequested { reason } => self.ready.push(Delivery::CancelRequested(reason.clone())),
            Event::Patched { id } => {
                self.patched.insert(id.clone(), true);
            }
            Event::ActivityScheduled(call) => self.open(
                call.operation,
                Pending::Activity { call: Arc::new((**call).clone()), scheduled_at: self.now, attempt: 1, retry: None },
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
            Event::SignalReceived { source, floor, name, value } => {
                self.seen.take(source, *floor);
                self.raise(name, value);
            }
            Event::SignalSent(s) => {
                self.open(s.operation, Pending::Signal { to: s.to.clone(), name: s.name.clone() });
                let content = Content::Signal { name: s.name.clone(), value: s.value.clone() };
                self.send(s.operation, Letter { to: s.to.clone(), content });
            }
            Event::SignalDelivered { signal } => self.answered(*signal, Ok(Payload::null())),
            Event::SignalFailed { signal, failure } => self.answered(*signal, Err(failure.clone())),
            Event::RequestReceived(_)
            | Event::Responded { .. }
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
    /// activity's own policy, for calls that give none.
    pub fn activity_outcome(
        &self,
        operation: OperationId,
        attempt: u32,
        outcome: Outcome,
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
        let failed = Attempt {
            algorithm: self.started.retry_algorithm,
            seed: &self.started.seed,
            operation,
            attempt,
            scheduled_at: *scheduled_at,
            failed_at: now,
        };
        Some(match retry::next_attempt(call.options.retry.as_ref().or(default_retry), &failure, failed) {
            Some(retry_at) => Event::ActivityAttemptFailed { operation, attempt, failure, retry_at },
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
            .filter_map(|(&operation, pending)| match pending {
                Pending::Timer { fire_at } if *fire_at <= now => Some((*fire_at, operation)),
                _ => None,
            })
            .collect();
        due.sort_unstable();
        due.into_iter().map(|(_, operation)| Event::TimerFired { operation }).collect()
    }

    /// The attempts whose back-off ends at `now` or before: they are to run.
    /// Marks them as running; nothing is recorded, since nothing is decided. None
    /// while suspended.
    pub fn attempts_due(&mut self, now: TimestampMs) -> Vec<(Arc<ActivityScheduled>, TimestampMs, u32)> {
        let mut due = Vec::new();
        if self.suspended {
            return due;
        }
        for pending in self.pending.values_mut() {
            if let Pending::Activity { call, scheduled_at, attempt, retry } = pending
                && retry.as_ref().is_some_and(|(at, _)| *at <= now)
            {
                *retry = None;
                due.push((call.clone(), *scheduled_at, *attempt));
            }
        }
        due
    }

    /// The event to record for a letter's answer, or none if it has one.
    pub fn mail_answer(&self, key: MailKey, outcome: Outcome) -> Option<Event> {
        Some(match (self.outbox.content(key)?, outcome) {
            (Content::Signal { .. }, Ok(_)) => Event::SignalDelivered { signal: key },
            (Content::Signal { .. }, Err(failure)) => Event::SignalFailed { signal: key, failure },
            (_, answer) => Event::EntityAnswered { letter: key, answer },
        })
    }

    /// The event to record for a letter, or none if it was taken already.
    pub fn mail(&self, source: Source, floor: MailKey, content: Content) -> Option<Event> {
        match content {
            _ if self.seen.has(&source) => None,
            Content::Signal { name, value } => Some(Event::SignalReceived { source, floor, name, value }),
            Content::EntityOperation { name, input, one_way } => {
                let (id, kind) = (self.requests.next_id(), RequestKind::EntityOperation);
                let source = Asker::Instance(source);
                Some(Event::RequestReceived(Arc::new(Request { id, kind, name, input, source, one_way, floor })))
            }
            Content::EntityLock { unlock } => Some(Event::LockRequested { holder: source, floor, unlock }),
            Content::EntityUnlock { lock } => Some(Event::LockReleased { source, floor, lock }),
        }
    }

    /// Everything of which other instances may not have heard yet.
    pub fn posts_again(&self) -> Vec<Post> {
        self.outbox.letters().map(|(key, _)| key).filter(|key| !self.is_held_back(*key)).map(Post::Letter).collect()
    }

    /// Takes back what the guest asked for: posts from `posts_from` on, operations
    /// from `operations_from` on. The host ended its turn, and nothing of it is
    /// recorded. (That a lock of an earlier turn was freed stays: the end frees it.)
    pub fn forget_asked(&mut self, posts_from: usize, operations_from: OperationId) {
        let execution = self.started.execution;
        self.outbox.retain(|key| key.0 != execution || key.1 < operations_from);
        self.locks.retain(|lock, _| *lock < operations_from);
        let asked = self.posts.split_off(posts_from.min(self.posts.len()));
        self.posts.extend(asked.into_iter().filter(|post| match post {
            Post::Letter(key) => self.outbox.holds(*key),
            Post::Answer(_) => false,
        }));
        self.requests.take_back();
    }

    // ---- how state changes ----

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
        self.pending.clear();
        self.waiters.clear();
        self.ready.clear();
        self.end_entities(matches!(end, End::ContinuedAsNew(_)));
        self.end = Some(end);
    }
}

impl Pending {
    /// When it proceeds by itself, if it does.
    pub fn due(&self) -> Option<TimestampMs> {
        match self {
            Self::Timer { fire_at } => Some(*fire_at),
            Self::Activity { retry, .. } => retry.as_ref().map(|(at, _)| *at),
            Self::Event { .. } | Self::Signal { .. } | Self::Entity { .. } | Self::Lock { .. } => None,
        }
    }
}
