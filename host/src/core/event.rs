//! The facts of a history: everything that ever happened to an execution.
//!
//! Events are of three origins. *Deliveries* come from outside (a start, a
//! result, a fired timer). *Answers and commands* are what the guest asked for,
//! in the order in which it asked. *Outcomes* end the execution. A turn records
//! them in this order, and nothing about an instance exists that is not derived
//! from them.
//!
//! Encoding: postcard, by position. Add cases and fields at the end only, and
//! raise [`FORMAT`] when that is not enough; recorded histories stay readable.

use std::sync::Arc;

use serde::{Deserialize, Serialize};

use super::calls::{Caller, OrchestrationScheduled};
use super::entity::Gate;
use super::fork::ForkedFrom;
#[cfg(test)]
use super::ids::Hash;
use super::ids::{ExecutionNumber, InstanceId, ModuleHash, OperationId, TimestampMs};
use super::keys::Keys;
use super::mail::{Letter, MailKey, Seen, Source, birth};
use super::payload::{Failure, Outcome, Payload};
use super::request::{Carried, Request, RequestId, readable_outcome};
use super::retry::{ALGORITHM, RetryPolicy};
use super::rewind::{Rewound, Shared};

/// Version of the encoding of turns and events.
pub const FORMAT: u8 = 1;

/// One fact.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum Event {
    // ---- deliveries ----
    /// The execution exists: everything that is needed to run it.
    ExecutionStarted(Box<Started>),
    /// An activity's result; it has no further attempt.
    ActivityCompleted {
        /// The call.
        operation: OperationId,
        /// The attempt that brought it, from 1.
        attempt: u32,
        /// What it returned.
        result: Payload,
    },
    /// An activity failed for good.
    ActivityFailed {
        /// The call.
        operation: OperationId,
        /// The last attempt, from 1.
        attempt: u32,
        /// Why.
        failure: Failure,
    },
    /// One attempt failed and another follows.
    ActivityAttemptFailed {
        /// The call.
        operation: OperationId,
        /// The attempt that failed, from 1.
        attempt: u32,
        /// Why.
        failure: Failure,
        /// When the next one starts.
        retry_at: TimestampMs,
        /// What the last heartbeat said, for the next attempt.
        progress: Option<Payload>,
    },
    /// A timer's time has come.
    TimerFired {
        /// The timer.
        operation: OperationId,
    },
    /// Somebody raised an event; it is kept until a wait takes it.
    EventRaised {
        /// Its name.
        name: String,
        /// What it carries.
        value: Payload,
    },
    /// Somebody asks the instance to end; the guest decides how.
    CancelRequested {
        /// Why.
        reason: String,
    },

    // ---- answers: values that the guest read ----
    /// `now`.
    NowRead {
        /// The answer.
        time: TimestampMs,
    },
    /// `random`.
    RandomDrawn {
        /// The answer.
        value: u64,
    },
    /// `new-guid`.
    GuidGenerated {
        /// The answer.
        guid: String,
    },
    /// `record-value`.
    ValueRecorded {
        /// The guest's name for it.
        name: String,
        /// The answer.
        value: Payload,
    },
    /// `patched`: the changed code runs from here on.
    Patched {
        /// The change's name.
        id: String,
    },

    // ---- commands: what the guest asked for ----
    /// An activity is to run.
    ActivityScheduled(Arc<ActivityScheduled>),
    /// A timer is to fire.
    TimerScheduled {
        /// Its operation.
        operation: OperationId,
        /// When.
        fire_at: TimestampMs,
    },
    /// The guest waits for an event.
    EventAwaited {
        /// Its operation.
        operation: OperationId,
        /// The event's name.
        name: String,
    },
    /// The guest no longer waits for an operation.
    OperationCancelled {
        /// Which.
        operation: OperationId,
    },
    /// An operation that the host does not run: it fails at once.
    OperationRefused {
        /// Its operation.
        operation: OperationId,
        /// What was asked for, for people and for comparison.
        asked: String,
        /// Why not; this is what the guest sees.
        failure: Failure,
    },
    /// `set-custom-status`.
    CustomStatusSet {
        /// What people see.
        status: Payload,
    },
    /// `set-tag`.
    TagSet {
        /// The tag.
        name: String,
        /// Empty: removed.
        value: String,
    },

    // ---- outcomes ----
    /// The orchestration returned.
    Completed {
        /// What.
        output: Payload,
    },
    /// The orchestration failed, or the host ended it.
    Failed {
        /// Why.
        failure: Failure,
        /// True where the host says so (a trap, an exhausted budget): what the
        /// guest asked for in this turn is not recorded.
        by_host: bool,
    },
    /// This execution ended and the next one starts.
    ContinuedAsNew {
        /// The next one's input.
        input: Payload,
    },
    /// Somebody ended the instance.
    Terminated {
        /// Why.
        reason: String,
    },

    // ---- deliveries, again: new cases stand at the end ----
    /// Somebody holds the instance: what comes in is recorded, nothing is run.
    Suspended {
        /// Why.
        reason: String,
    },
    /// Somebody lets a suspended instance go on.
    Resumed {
        /// Why.
        reason: String,
    },
    // ---- deliveries (added later: the encoding is by position) ----
    /// The execution goes on with another module, against which all of its history
    /// up to here was replayed and matched.
    ModuleMigrated {
        /// The module until now.
        from: ModuleHash,
        /// The module from here on, and at every replay.
        to: ModuleHash,
    },
    // ---- requests: a delivery and its answer ----
    /// Somebody asks for something and waits for the answer.
    RequestReceived(Arc<Request>),
    /// `respond`.
    Responded {
        /// The request.
        request: RequestId,
        /// What the caller is told.
        #[serde(serialize_with = "readable_outcome")]
        answer: Outcome,
    },
    /// What the execution before had not answered, and the answers it remembered;
    /// beside the start.
    RequestsCarried(Box<Carried>),
    /// A delivery: somebody raised an event with a key; a second one with that key is
    /// none. See [`super::keys`].
    EventRaisedOnce {
        /// The key.
        key: String,
        /// The event's name.
        name: String,
        /// What it carries.
        value: Payload,
    },
    /// The execution goes on from where another one failed: see [`super::rewind`].
    Rewound(Box<Rewound>),

    // ---- signals, see [`super::mail`] ----
    /// A delivery: another instance raised an event.
    SignalReceived {
        /// Who, and which signal of theirs.
        source: Source,
        /// The lowest of their letters that had no answer then.
        floor: MailKey,
        /// The event's name.
        name: String,
        /// What it carries.
        value: Payload,
    },
    /// A command: an event is to be raised on another instance.
    SignalSent(Box<SignalSent>),
    /// A delivery: the signal is in its receiver's journal. It may be one of an
    /// earlier execution.
    SignalDelivered {
        /// Which.
        signal: MailKey,
    },
    /// A delivery: the signal was not taken, and never will be.
    SignalFailed {
        /// Which.
        signal: MailKey,
        /// Why.
        failure: Failure,
    },

    // ---- sub-orchestrations, see [`super::calls`] ----
    /// A command: another orchestration is to run.
    OrchestrationScheduled(Box<OrchestrationScheduled>),
    /// A delivery: it returned.
    OrchestrationCompleted {
        /// The call.
        operation: OperationId,
        /// The attempt that did, from 1.
        attempt: u32,
        /// What.
        result: Payload,
    },
    /// A delivery: it failed for good, or did not end in time.
    OrchestrationFailed {
        /// The call.
        operation: OperationId,
        /// The last attempt, from 1.
        attempt: u32,
        /// Why.
        failure: Failure,
    },
    /// A delivery: one attempt failed and another follows.
    OrchestrationAttemptFailed {
        /// The call.
        operation: OperationId,
        /// The attempt that failed, from 1.
        attempt: u32,
        /// Why.
        failure: Failure,
        /// When the next one starts.
        retry_at: TimestampMs,
    },
    /// A delivery: whoever called this instance goes without it; the guest is asked
    /// to end.
    CallerLeft {
        /// Why.
        reason: String,
    },
    /// A delivery, after the end of the execution that called: a sub-orchestration
    /// that was to go on is there and does.
    OrchestrationAbandoned {
        /// The call.
        call: MailKey,
    },

    // ---- entities, see [`super::entity`] ----
    /// A command: an operation of an entity is to be run.
    EntityCalled(Box<EntityCalled>),
    /// A delivery: a letter to an entity has its answer.
    EntityAnswered {
        /// Which.
        letter: MailKey,
        /// The answer.
        #[serde(serialize_with = "readable_outcome")]
        answer: Outcome,
    },
    /// A delivery, at the entity: another instance asks for an operation.
    OperationReceived {
        /// What.
        request: Arc<Request>,
        /// The lowest of their letters that had no answer then.
        floor: MailKey,
    },
    /// A command: the guest wants these entities alone, in this order.
    LockAsked {
        /// Its operation.
        operation: OperationId,
        /// The entities.
        entities: Vec<InstanceId>,
    },
    /// A command: the guest frees what it locked.
    LockFreed {
        /// The operation that asked for the lock.
        lock: OperationId,
    },
    /// A delivery, at the entity: somebody wants it alone.
    LockRequested {
        /// Who.
        holder: Source,
        /// The lowest of their letters that had no answer then.
        floor: MailKey,
        /// The letter that will free it.
        unlock: MailKey,
    },
    /// A delivery, at the entity: it is free again.
    LockReleased {
        /// Who frees it.
        source: Source,
        /// The lowest of their letters that had no answer then.
        floor: MailKey,
        /// The letter that asked for it.
        lock: MailKey,
    },
    /// A delivery, at the entity: the host ended the guest while it ran this
    /// operation, which is thereby answered; the guest is never told of it.
    OperationAborted {
        /// The request.
        request: RequestId,
        /// What the caller is told.
        failure: Failure,
    },
    /// A delivery, at the entity: who holds it and who waits for it since the execution before; beside the start.
    GateCarried(Box<Gate>),
}

/// What an execution starts from. See [`Event::ExecutionStarted`].
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct Started {
    /// Encoding of this history.
    pub format: u8,
    /// The instance.
    pub instance: InstanceId,
    /// Which life of it.
    pub execution: ExecutionNumber,
    /// The orchestration's name in its module.
    pub orchestration: String,
    /// The module it is pinned to.
    pub module: ModuleHash,
    /// Its input.
    pub input: Payload,
    /// From which `random`, `new-guid`, WASI randomness and jitter are drawn.
    pub seed: [u8; 32],
    /// When the instance (its first execution) was created.
    pub created_at: TimestampMs,
    /// Version of the retry arithmetic, see [`super::retry`].
    pub retry_algorithm: u8,
    /// The instance that called this one.
    pub parent: Option<InstanceId>,
    /// Tags given at the start, and those that the execution before had set.
    pub tags: Vec<(String, String)>,
    /// Events that the execution before had not taken, in their order.
    pub buffered: Vec<(String, Payload)>,
    /// The guest begins then, not before; none: at once. See [`START`].
    pub start_at: Option<TimestampMs>,
    /// Where its beginning comes from, if it is a fork.
    pub forked_from: Option<Box<ForkedFrom>>,
    /// Keys of events that earlier executions took.
    pub keys: Keys,
    /// Executions with which it shares its beginning, after rewinds.
    pub shared: Vec<Shared>,
    /// Tells this instance from all others of its id, see [`super::mail::birth`].
    pub birth: u64,
    /// Letters of earlier executions that have no answer yet.
    pub outbox: Vec<(MailKey, Letter)>,
    /// Letters that earlier executions took and that may come again.
    pub seen: Seen,
    /// The call that this instance is the answer to.
    pub caller: Option<Caller>,
}

/// An event to raise on another instance. See [`Event::SignalSent`].
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct SignalSent {
    /// Its operation.
    pub operation: OperationId,
    /// The receiver.
    pub to: InstanceId,
    /// The event's name.
    pub name: String,
    /// What it carries.
    pub value: Payload,
}

/// The operation that stands for a start at a later date. Its [`Event::TimerFired`]
/// lets the guest begin; the guest's own operations are counted from 1.
pub const START: OperationId = 0;

/// An operation of an entity to run. See [`Event::EntityCalled`].
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct EntityCalled {
    /// Its operation.
    pub operation: OperationId,
    /// The entity.
    pub to: InstanceId,
    /// Which of its operations.
    pub name: String,
    /// The argument.
    pub input: Payload,
    /// The guest does not wait for what comes of it.
    pub one_way: bool,
}

/// An activity to run. See [`Event::ActivityScheduled`].
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct ActivityScheduled {
    /// Its operation.
    pub operation: OperationId,
    /// `service.method`.
    pub name: String,
    /// Its argument.
    pub input: Payload,
    /// How it is to be run.
    pub options: ActivityOptions,
}

/// How an activity is to be run. Times are milliseconds; none: without bound.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
pub struct ActivityOptions {
    /// None: a single attempt.
    pub retry: Option<RetryPolicy>,
    /// From scheduling to an attempt's start.
    pub schedule_to_start_ms: Option<u64>,
    /// One attempt.
    pub start_to_close_ms: Option<u64>,
    /// From scheduling to the end of the last attempt.
    pub schedule_to_close_ms: Option<u64>,
    /// Between two heartbeats.
    pub heartbeat_ms: Option<u64>,
    /// None: the default queue.
    pub queue: Option<String>,
    /// Higher goes first.
    pub priority: i32,
    /// Keys share a queue fairly.
    pub fairness_key: Option<String>,
}

impl ActivityOptions {
    /// Whether an attempt that runs may be given up because of its time.
    pub fn is_bounded(&self) -> bool {
        self.start_to_close_ms.or(self.schedule_to_close_ms).or(self.heartbeat_ms).is_some()
    }

    /// Says what is wrong with them, if anything is.
    pub fn fault(&self) -> Option<String> {
        let times = [
            ("schedule-to-start", self.schedule_to_start_ms),
            ("start-to-close", self.start_to_close_ms),
            ("schedule-to-close", self.schedule_to_close_ms),
            ("heartbeat", self.heartbeat_ms),
        ];
        if let Some((which, _)) = times.into_iter().find(|(_, ms)| *ms == Some(0)) {
            return Some(format!("the timeout {which} is 0, expected at least 1 ms or none"));
        }
        let names = [("queue", &self.queue), ("fairness key", &self.fairness_key)];
        let bad = |name: &str| name.is_empty() || name.len() > 200 || name.chars().any(char::is_control);
        let (what, name) = names.into_iter().find(|(_, name)| name.as_deref().is_some_and(bad))?;
        let found = super::payload::shortened(name.as_deref().unwrap_or_default(), 64);
        Some(format!("the {what} is {found:?}, expected 1 to 200 bytes without control characters"))
    }
}

/// Where an event comes from.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Origin {
    /// From outside.
    Delivery,
    /// From the guest.
    Guest,
    /// The end of the execution.
    Outcome,
}

impl Started {
    /// What a first execution starts from to which nothing else was given.
    pub fn first(
        instance: InstanceId,
        orchestration: String,
        module: ModuleHash,
        input: Payload,
        seed: [u8; 32],
        created_at: TimestampMs,
    ) -> Self {
        Self {
            format: FORMAT,
            instance,
            execution: 1,
            orchestration,
            module,
            input,
            birth: birth(&seed),
            seed,
            created_at,
            retry_algorithm: ALGORITHM,
            parent: None,
            tags: Vec::new(),
            buffered: Vec::new(),
            outbox: Vec::new(),
            seen: Seen::default(),
            start_at: None,
            forked_from: None,
            keys: Keys::default(),
            shared: Vec::new(),
            caller: None,
        }
    }

    /// A first execution of nothing in particular.
    #[cfg(test)]
    pub(crate) fn of_test(instance: &str, seed: [u8; 32]) -> Self {
        let instance = InstanceId::new(instance).expect("a valid id");
        Self::first(instance, String::new(), Hash::ZERO, Payload::null(), seed, TimestampMs(0))
    }
}

impl Event {
    /// The letter that was taken, and the lowest of its sender's that had no answer then.
    pub fn letter(&self) -> Option<(&Source, MailKey)> {
        match self {
            Self::SignalReceived { source, floor, .. }
            | Self::LockRequested { holder: source, floor, .. }
            | Self::LockReleased { source, floor, .. } => Some((source, *floor)),
            Self::OperationReceived { request, floor } => Some((request.sender()?, *floor)),
            _ => None,
        }
    }

    /// Where this event comes from.
    pub fn origin(&self) -> Origin {
        match self {
            Self::ExecutionStarted(_)
            | Self::ActivityCompleted { .. }
            | Self::ActivityFailed { .. }
            | Self::ActivityAttemptFailed { .. }
            | Self::TimerFired { .. }
            | Self::EventRaised { .. }
            | Self::EventRaisedOnce { .. }
            | Self::CancelRequested { .. }
            | Self::Suspended { .. }
            | Self::Resumed { .. }
            | Self::ModuleMigrated { .. }
            | Self::RequestReceived(_)
            | Self::RequestsCarried(_)
            | Self::Rewound(_)
            | Self::SignalReceived { .. }
            | Self::SignalDelivered { .. }
            | Self::SignalFailed { .. }
            | Self::OrchestrationCompleted { .. }
            | Self::OrchestrationFailed { .. }
            | Self::OrchestrationAttemptFailed { .. }
            | Self::CallerLeft { .. }
            | Self::OrchestrationAbandoned { .. }
            | Self::OperationReceived { .. }
            | Self::OperationAborted { .. }
            | Self::GateCarried(_)
            | Self::EntityAnswered { .. }
            | Self::LockRequested { .. }
            | Self::LockReleased { .. } => Origin::Delivery,
            Self::NowRead { .. }
            | Self::RandomDrawn { .. }
            | Self::GuidGenerated { .. }
            | Self::ValueRecorded { .. }
            | Self::Patched { .. }
            | Self::ActivityScheduled(_)
            | Self::TimerScheduled { .. }
            | Self::EventAwaited { .. }
            | Self::OperationCancelled { .. }
            | Self::OperationRefused { .. }
            | Self::CustomStatusSet { .. }
            | Self::TagSet { .. }
            | Self::Responded { .. }
            | Self::SignalSent(_)
            | Self::OrchestrationScheduled(_)
            | Self::EntityCalled(_)
            | Self::LockAsked { .. }
            | Self::LockFreed { .. } => Origin::Guest,
            Self::Completed { .. } | Self::Failed { .. } | Self::ContinuedAsNew { .. } | Self::Terminated { .. } => {
                Origin::Outcome
            }
        }
    }

    /// The event's kind, as JSON and people call it.
    pub fn kind(&self) -> &'static str {
        match self {
            Self::ExecutionStarted(_) => "execution-started",
            Self::ActivityCompleted { .. } => "activity-completed",
            Self::ActivityFailed { .. } => "activity-failed",
            Self::ActivityAttemptFailed { .. } => "activity-attempt-failed",
            Self::TimerFired { .. } => "timer-fired",
            Self::EventRaised { .. } => "event-raised",
            Self::EventRaisedOnce { .. } => "event-raised-once",
            Self::CancelRequested { .. } => "cancel-requested",
            Self::NowRead { .. } => "now-read",
            Self::RandomDrawn { .. } => "random-drawn",
            Self::GuidGenerated { .. } => "guid-generated",
            Self::ValueRecorded { .. } => "value-recorded",
            Self::Patched { .. } => "patched",
            Self::ActivityScheduled(_) => "activity-scheduled",
            Self::TimerScheduled { .. } => "timer-scheduled",
            Self::EventAwaited { .. } => "event-awaited",
            Self::OperationCancelled { .. } => "operation-cancelled",
            Self::OperationRefused { .. } => "operation-refused",
            Self::CustomStatusSet { .. } => "custom-status-set",
            Self::TagSet { .. } => "tag-set",
            Self::Completed { .. } => "completed",
            Self::Failed { .. } => "failed",
            Self::ContinuedAsNew { .. } => "continued-as-new",
            Self::Terminated { .. } => "terminated",
            Self::Suspended { .. } => "suspended",
            Self::Resumed { .. } => "resumed",
            Self::ModuleMigrated { .. } => "module-migrated",
            Self::RequestReceived(_) => "request-received",
            Self::Responded { .. } => "responded",
            Self::RequestsCarried(_) => "requests-carried",
            Self::Rewound(_) => "rewound",
            Self::SignalReceived { .. } => "signal-received",
            Self::SignalSent(_) => "signal-sent",
            Self::SignalDelivered { .. } => "signal-delivered",
            Self::SignalFailed { .. } => "signal-failed",
            Self::OrchestrationScheduled(_) => "orchestration-scheduled",
            Self::OrchestrationCompleted { .. } => "orchestration-completed",
            Self::OrchestrationFailed { .. } => "orchestration-failed",
            Self::OrchestrationAttemptFailed { .. } => "orchestration-attempt-failed",
            Self::CallerLeft { .. } => "caller-left",
            Self::OrchestrationAbandoned { .. } => "orchestration-abandoned",
            Self::OperationReceived { .. } => "operation-received",
            Self::OperationAborted { .. } => "operation-aborted",
            Self::GateCarried(_) => "gate-carried",
            Self::EntityCalled(_) => "entity-called",
            Self::EntityAnswered { .. } => "entity-answered",
            Self::LockAsked { .. } => "lock-asked",
            Self::LockFreed { .. } => "lock-freed",
            Self::LockRequested { .. } => "lock-requested",
            Self::LockReleased { .. } => "lock-released",
        }
    }

    /// One line for people: what happened, with the payload cut to `width` bytes.
    pub fn summary(&self, width: usize) -> String {
        let cut = |payload: &Payload| super::payload::shortened(&payload.to_string(), width);
        let why = |failure: &Failure| super::payload::shortened(&failure.to_string(), width);
        match self {
            Self::ExecutionStarted(s) => {
                let fork = s
                    .forked_from
                    .as_deref()
                    .map(|from| format!(", forked from {} at event {}", from.instance, from.event));
                let later = s.start_at.map(|at| format!(", to begin at {at}")).unwrap_or_default();
                format!("{} started with {}{later}{}", s.orchestration, cut(&s.input), fork.unwrap_or_default())
            }
            Self::ActivityCompleted { operation, attempt, result }
            | Self::OrchestrationCompleted { operation, attempt, result } => {
                format!("#{operation} returned {}{}", cut(result), at_attempt(*attempt))
            }
            Self::ActivityFailed { operation, attempt, failure }
            | Self::OrchestrationFailed { operation, attempt, failure } => {
                format!("#{operation} failed{}: {}", at_attempt(*attempt), why(failure))
            }
            Self::ActivityAttemptFailed { operation, attempt, failure, retry_at, progress } => {
                let reached = progress.as_ref().map(|p| format!(" (it had reported {})", cut(p))).unwrap_or_default();
                format!("#{operation} attempt {attempt} failed, next at {retry_at}: {}{reached}", why(failure))
            }
            Self::OrchestrationAttemptFailed { operation, attempt, failure, retry_at } => {
                format!("#{operation} attempt {attempt} failed, next at {retry_at}: {}", why(failure))
            }
            Self::TimerFired { operation: START } => "the start is due".to_owned(),
            Self::TimerFired { operation } => format!("#{operation} fired"),
            Self::EventRaisedOnce { key, name, value } => format!("{name:?} with {}, once for {key:?}", cut(value)),
            Self::EventRaised { name, value } => format!("{name:?} with {}", cut(value)),
            Self::CancelRequested { reason } | Self::Suspended { reason } | Self::Resumed { reason } => because(reason),
            Self::Rewound(from) => {
                let anew = from.operations.iter().map(|operation| format!(" #{operation}")).collect::<String>();
                let (execution, events) = (from.execution, from.events);
                format!("from event {events} of execution {execution}, anew:{anew}; reason: {}", from.reason)
            }
            Self::NowRead { time } => time.to_string(),
            Self::RandomDrawn { value } => value.to_string(),
            Self::GuidGenerated { guid } => guid.clone(),
            Self::ValueRecorded { name, value } => format!("{name:?} = {}", cut(value)),
            Self::Patched { id } => format!("{id:?}"),
            Self::ActivityScheduled(a) => {
                let attempts = attempts(a.options.retry.as_ref());
                format!("#{} {}({}){attempts}", a.operation, a.name, cut(&a.input))
            }
            Self::TimerScheduled { operation, fire_at } => format!("#{operation} until {fire_at}"),
            Self::EventAwaited { operation, name } => format!("#{operation} {name:?}"),
            Self::OperationCancelled { operation } => format!("#{operation}"),
            Self::OperationRefused { operation, asked, failure } => format!("#{operation} {asked}: {}", why(failure)),
            Self::CustomStatusSet { status } => cut(status),
            Self::TagSet { name, value } => format!("{name}={value}"),
            Self::Completed { output } => cut(output),
            Self::Failed { failure, .. } => why(failure),
            Self::ContinuedAsNew { input } => format!("with {}", cut(input)),
            Self::Terminated { reason } => because(reason),
            Self::ModuleMigrated { from, to } => format!("from {} to {}", from.short(), to.short()),
            Self::RequestsCarried(c) => format!("{} to answer, {} answered", c.open.len(), c.answered.len()),
            Self::RequestReceived(r) => format!("?{} {}({})", r.id, r.name, cut(&r.input)),
            Self::Responded { request, answer: Ok(output) } => format!("?{request} answered {}", cut(output)),
            Self::Responded { request, answer: Err(failure) } => format!("?{request} refused: {}", why(failure)),
            Self::SignalReceived { source, name, value, .. } => {
                format!("{name:?} from {} with {}", source.instance, cut(value))
            }
            Self::SignalSent(s) => format!("#{} {:?} to {} with {}", s.operation, s.name, s.to, cut(&s.value)),
            Self::OrchestrationScheduled(c) => {
                let attempts = attempts(c.options.retry.as_ref());
                format!("#{} {}({}) as {}{attempts}", c.operation, c.name, cut(&c.input), c.instance)
            }
            Self::CallerLeft { reason } => format!("reason: {reason}"),
            Self::OrchestrationAbandoned { call } => of_mail(*call),
            Self::SignalDelivered { signal } => of_mail(*signal),
            Self::SignalFailed { signal, failure } => format!("{}: {}", of_mail(*signal), why(failure)),
            Self::OperationReceived { request: r, .. } => {
                let from = r.sender().map(|letter| format!(" from {}", letter.instance)).unwrap_or_default();
                format!("?{} {}({}){from}", r.id, r.name, cut(&r.input))
            }
            Self::OperationAborted { request, failure } => format!("?{request} {}", why(failure)),
            Self::GateCarried(gate) => gate.to_string(),
            Self::EntityCalled(c) => format!("#{} {} of {}({})", c.operation, c.name, c.to, cut(&c.input)),
            Self::EntityAnswered { letter, answer: Ok(output) } => format!("{} {}", of_mail(*letter), cut(output)),
            Self::EntityAnswered { letter, answer: Err(failure) } => {
                format!("{} failed: {}", of_mail(*letter), why(failure))
            }
            Self::LockAsked { operation, entities } => {
                let names: Vec<_> = entities.iter().map(InstanceId::as_str).collect();
                format!("#{operation} {}", names.join(", "))
            }
            Self::LockFreed { lock } => format!("#{lock}"),
            Self::LockRequested { holder, .. } => format!("by {} {}", holder.instance, of_mail(holder.key())),
            Self::LockReleased { source, lock, .. } => format!("by {} {}", source.instance, of_mail(*lock)),
        }
    }
}

impl Event {
    /// The event as JSON: its kind beside its fields.
    pub fn to_json(&self) -> serde_json::Value {
        let mut object = serde_json::Map::new();
        object.insert("kind".into(), self.kind().into());
        if let Ok(serde_json::Value::Object(tagged)) = serde_json::to_value(self) {
            for fields in tagged.into_values() {
                if let serde_json::Value::Object(fields) = fields {
                    object.extend(fields);
                }
            }
        }
        object.into()
    }
}

fn because(reason: &str) -> String {
    if reason.is_empty() { String::new() } else { format!("reason: {reason}") }
}

fn attempts(policy: Option<&RetryPolicy>) -> String {
    match policy.map(|policy| policy.max_attempts) {
        None | Some(1) => String::new(),
        Some(0) => ", any number of attempts".to_owned(),
        Some(n) => format!(", up to {n} attempts"),
    }
}

fn of_mail((execution, operation): MailKey) -> String {
    format!("#{operation} of execution {execution}")
}

fn at_attempt(attempt: u32) -> String {
    if attempt > 1 { format!(" at attempt {attempt}") } else { String::new() }
}
