//! An instance in one row: what lists show and what start-up needs.
//!
//! Like [`super::execution::Execution`] it is derived from events, but it keeps
//! no payloads of operations, so that a million rows are cheap to read.

use std::collections::{BTreeMap, BTreeSet};
use std::fmt;
use std::str::FromStr;

use serde::{Deserialize, Serialize};

use super::calls::{Caller, ParentClose};
use super::event::{Event, START};
use super::ids::{ExecutionNumber, Hash, InstanceId, ModuleHash, OperationId, TimestampMs};
use super::mail::{MailKey, Source};
use super::payload::Payload;
use super::turn::TurnRecord;

/// Where an instance stands.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum Status {
    /// It runs or waits.
    Running,
    /// It returned.
    Completed,
    /// It failed.
    Failed,
    /// Somebody ended it.
    Terminated,
    /// Somebody holds it until it is resumed.
    Suspended,
}

impl Status {
    /// Every status, as lists show them.
    pub const ALL: [Self; 5] = [Self::Running, Self::Completed, Self::Failed, Self::Terminated, Self::Suspended];

    /// Whether nothing more will happen.
    pub fn is_final(self) -> bool {
        !matches!(self, Self::Running | Self::Suspended)
    }
}

impl fmt::Display for Status {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.pad(match self {
            Self::Running => "running",
            Self::Completed => "completed",
            Self::Failed => "failed",
            Self::Terminated => "terminated",
            Self::Suspended => "suspended",
        })
    }
}

impl FromStr for Status {
    type Err = String;
    fn from_str(text: &str) -> Result<Self, String> {
        let found = Self::ALL.into_iter().find(|s| s.to_string() == text);
        found.ok_or_else(|| {
            format!("unknown status {text:?}: expected running, suspended, completed, failed or terminated")
        })
    }
}

/// What an incomplete operation waits for.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub enum Waits {
    /// An activity that runs.
    Activity,
    /// An activity whose next attempt starts then.
    Retry(TimestampMs),
    /// A timer that fires then.
    Timer(TimestampMs),
    /// A sub-orchestration.
    Orchestration {
        /// When it is given up.
        until: Option<TimestampMs>,
        /// When its next attempt starts, if none runs.
        starts_at: Option<TimestampMs>,
        /// Whether it goes on when this execution ends.
        abandon: bool,
    },
}

/// The row.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct Summary {
    /// The instance.
    pub instance: InstanceId,
    /// Its orchestration.
    pub orchestration: String,
    /// The module it is pinned to.
    pub module: ModuleHash,
    /// Where it stands.
    pub status: Status,
    /// Its current execution.
    pub execution: ExecutionNumber,
    /// When its first execution was recorded.
    pub created_at: TimestampMs,
    /// When its last turn was recorded.
    pub updated_at: TimestampMs,
    /// Events in the current execution.
    pub events: u32,
    /// Turns in the current execution.
    pub turns: u32,
    /// Hash of the last turn.
    pub head: Hash,
    /// What the guest wants people to see.
    pub custom_status: Option<Payload>,
    /// Tags as they stand.
    pub tags: BTreeMap<String, String>,
    /// Incomplete activities and timers.
    pub waits: BTreeMap<OperationId, Waits>,
    /// Something is recorded that the guest was not told yet.
    pub untold: bool,
    /// The failure's or termination's text, once there is one.
    pub error: Option<String>,
    /// Tells it from all others of its id, see [`super::mail::birth`].
    pub birth: u64,
    /// Its letters to other instances that have no answer yet.
    pub outbox: BTreeSet<MailKey>,
    /// The call that this instance is the answer to.
    pub caller: Option<Caller>,
    /// Whether its caller went without it.
    pub caller_left: bool,
    /// Whether it took letters that may come again.
    pub took_mail: bool,
}

impl Summary {
    /// The row after a history's first turn; none if that is no first turn.
    pub fn of_first(record: &TurnRecord, hash: Hash) -> Option<Self> {
        let Some(Event::ExecutionStarted(started)) = record.events.first() else {
            return None;
        };
        let mut summary = Self {
            instance: started.instance.clone(),
            orchestration: started.orchestration.clone(),
            module: started.module,
            status: Status::Running,
            execution: started.execution,
            created_at: started.created_at,
            updated_at: record.at,
            events: 0,
            turns: 0,
            head: Hash::ZERO,
            custom_status: None,
            tags: started.tags.iter().cloned().collect(),
            waits: BTreeMap::new(),
            untold: false,
            error: None,
            birth: started.birth,
            outbox: started.outbox.iter().map(|(key, _)| *key).collect(),
            caller: started.caller.clone(),
            caller_left: false,
            took_mail: !started.seen.is_empty(),
        };
        if let Some(at) = started.start_at {
            summary.waits.insert(START, Waits::Timer(at));
        }
        summary.apply(record, hash);
        Some(summary)
    }

    /// Takes the next turn of the current execution into the row.
    pub fn apply(&mut self, record: &TurnRecord, hash: Hash) {
        self.updated_at = record.at;
        self.events += record.events.len() as u32;
        self.turns += 1;
        self.head = hash;
        record.events.iter().for_each(|event| self.take(event));
        let may_be_told = !self.status.is_final() && !self.waits.contains_key(&START);
        self.untold = may_be_told && !record.ran && (self.untold || self.turns == 1 || tells(record));
    }

    /// Whether a host that takes the store over has to look after it: it runs, or
    /// has ended with letters that nobody has answered.
    pub fn is_open(&self) -> bool {
        !self.status.is_final() || !self.outbox.is_empty()
    }

    /// Whether somebody still has to do with it: it is open, or `caller`, the row of
    /// whoever called it, waits for what it ended with and may ask again, or does not
    /// know yet that it began.
    pub fn is_needed(&self, caller: Option<&Self>) -> bool {
        let waits = |of: &Caller| {
            caller.filter(|row| row.birth == of.birth).is_some_and(|row| {
                row.execution == of.execution && row.waits.contains_key(&of.operation)
                    || row.outbox.contains(&(of.execution, of.operation))
            })
        };
        self.is_open() || self.caller.as_ref().is_some_and(waits)
    }

    /// Whether it may send that letter again: it has no answer yet.
    pub fn may_send_again(&self, letter: &Source) -> bool {
        self.birth == letter.birth && self.outbox.contains(&letter.key())
    }

    /// The earliest time at which something is due without anybody's doing.
    pub fn next_due(&self) -> Option<TimestampMs> {
        let due = |waits: &Waits| match waits {
            Waits::Retry(_) if self.status == Status::Suspended => None,
            Waits::Timer(at) | Waits::Retry(at) => Some(*at),
            Waits::Orchestration { until, .. } if self.status == Status::Suspended => *until,
            Waits::Orchestration { until, starts_at, .. } => until.iter().chain(starts_at).min().copied(),
            Waits::Activity => None,
        };
        self.waits.values().filter_map(due).min()
    }

    /// Whether an activity is to be run again when a host takes the instance over.
    pub fn has_running_activity(&self) -> bool {
        self.waits.values().any(|waits| *waits == Waits::Activity)
    }

    /// Whether a sub-orchestration may be to be told again that it is called.
    pub fn has_running_call(&self) -> bool {
        self.waits.values().any(|waits| matches!(waits, Waits::Orchestration { .. }))
    }

    fn take(&mut self, event: &Event) {
        match event {
            Event::ActivityScheduled(call) => {
                self.waits.insert(call.operation, Waits::Activity);
            }
            Event::ActivityAttemptFailed { operation, retry_at, .. } => {
                self.waits.insert(*operation, Waits::Retry(*retry_at));
            }
            Event::TimerScheduled { operation, fire_at } => {
                self.waits.insert(*operation, Waits::Timer(*fire_at));
            }
            Event::ActivityCompleted { operation, .. }
            | Event::ActivityFailed { operation, .. }
            | Event::TimerFired { operation }
            | Event::OrchestrationCompleted { operation, .. }
            | Event::OrchestrationFailed { operation, .. }
            | Event::OperationCancelled { operation } => {
                self.waits.remove(operation);
            }
            Event::CustomStatusSet { status } => self.custom_status = Some(status.clone()),
            Event::TagSet { name, value } if value.is_empty() => {
                self.tags.remove(name);
            }
            Event::TagSet { name, value } => {
                self.tags.insert(name.clone(), value.clone());
            }
            Event::Completed { .. } => self.finish(Status::Completed, None),
            Event::Failed { failure, .. } => self.finish(Status::Failed, Some(failure.to_string())),
            Event::Terminated { reason } => self.finish(Status::Terminated, Some(reason.clone())),
            Event::Suspended { .. } => self.status = Status::Suspended,
            Event::Resumed { .. } => self.status = Status::Running,
            Event::ModuleMigrated { to, .. } => self.module = *to,
            Event::Rewound(from) => {
                for operation in &from.operations {
                    match self.waits.get_mut(operation) {
                        // What is recorded beside says when it is tried again.
                        Some(Waits::Orchestration { .. }) | None => {}
                        Some(waits) => *waits = Waits::Activity,
                    }
                }
            }
            // The next execution's first turn is in the same commit and replaces this row.
            Event::ContinuedAsNew { .. } => self.waits.clear(),
            Event::OrchestrationScheduled(call) => {
                let until = call.options.timeout_ms.map(|timeout| self.updated_at.plus(timeout));
                let abandon = call.options.parent_close == ParentClose::Abandon;
                self.waits.insert(call.operation, Waits::Orchestration { until, starts_at: None, abandon });
            }
            Event::OrchestrationAttemptFailed { operation, retry_at, .. } => {
                if let Some(Waits::Orchestration { starts_at, .. }) = self.waits.get_mut(operation) {
                    *starts_at = Some(*retry_at);
                }
            }
            Event::CallerLeft { .. } => self.caller_left = true,
            Event::SignalReceived { .. }
            | Event::OperationReceived { .. }
            | Event::LockRequested { .. }
            | Event::LockReleased { .. } => self.took_mail = true,
            Event::OrchestrationAbandoned { call } => {
                self.outbox.remove(call);
            }
            Event::SignalSent(signal) => {
                self.outbox.insert((self.execution, signal.operation));
            }
            Event::SignalDelivered { signal } | Event::SignalFailed { signal, .. } => {
                self.outbox.remove(signal);
            }
            Event::EntityCalled(call) => {
                self.outbox.insert((self.execution, call.operation));
            }
            // A letter to lock and one to free, for each.
            Event::LockAsked { operation, entities } => {
                let letters = (0..2 * entities.len() as OperationId).map(|n| (self.execution, operation + n));
                self.outbox.extend(letters);
            }
            Event::EntityAnswered { letter, .. } => {
                self.outbox.remove(letter);
            }
            Event::ExecutionStarted(_)
            | Event::LockFreed { .. }
            | Event::GateCarried(_)
            | Event::OperationAborted { .. }
            | Event::EventRaised { .. }
            | Event::EventRaisedOnce { .. }
            | Event::CancelRequested { .. }
            | Event::NowRead { .. }
            | Event::RandomDrawn { .. }
            | Event::GuidGenerated { .. }
            | Event::ValueRecorded { .. }
            | Event::Patched { .. }
            | Event::EventAwaited { .. }
            | Event::OperationRefused { .. }
            | Event::RequestReceived(_)
            | Event::RequestsCarried(_)
            | Event::Responded { .. } => {}
        }
    }

    fn finish(&mut self, status: Status, error: Option<String>) {
        self.status = status;
        self.error = error;
        // As in `Execution`: what is to go on is kept until it is known to.
        let kept = self.waits.iter().filter(|(_, waits)| {
            matches!(waits, Waits::Orchestration { starts_at, abandon: true, .. }
                if starts_at.is_none_or(|at| at <= self.updated_at))
        });
        self.outbox.extend(kept.map(|(operation, _)| (self.execution, *operation)));
        self.waits.clear();
    }
}

fn tells(record: &TurnRecord) -> bool {
    record.events.iter().any(|event| {
        matches!(
            event,
            Event::ActivityCompleted { .. }
                | Event::ActivityFailed { .. }
                | Event::TimerFired { .. }
                | Event::EventRaised { .. }
                | Event::EventRaisedOnce { .. }
                | Event::CancelRequested { .. }
                | Event::RequestReceived(_)
                | Event::RequestsCarried(_)
                | Event::OrchestrationCompleted { .. }
                | Event::OrchestrationFailed { .. }
                | Event::CallerLeft { .. }
                | Event::SignalReceived { .. }
                | Event::SignalDelivered { .. }
                | Event::SignalFailed { .. }
                | Event::EntityAnswered { .. }
                | Event::OperationReceived { .. }
                | Event::OperationAborted { .. }
                | Event::LockReleased { .. }
                | Event::GateCarried(_)
        )
    })
}
