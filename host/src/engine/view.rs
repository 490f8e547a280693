//! What people and programs see of an instance, read from the store.

use serde::Serialize;

use super::EngineError;
use super::bare_recorder;
use super::queues::QueueSettings;
use crate::core::event::{ActivityScheduled, Event, START};
use crate::core::execution::Pending;
use crate::core::ids::{ExecutionNumber, InstanceId, ModuleHash, OperationId, TimestampMs};
use crate::core::payload::{Failure, Outcome, Payload};
use crate::core::retry::RetryPolicy;
use crate::core::summary::{Status, Summary};
use crate::core::task::DEFAULT_QUEUE;
use crate::core::turn::{Limits, TurnRecord, final_outcome};
use crate::store::Store;

/// An instance as lists show it.
#[derive(Clone, Debug, Serialize)]
pub struct InstanceRow {
    /// Its id.
    pub id: InstanceId,
    /// Its orchestration.
    pub orchestration: String,
    /// Where it stands.
    pub status: Status,
    /// Its current execution.
    pub execution: ExecutionNumber,
    /// When it was created.
    pub created_at: String,
    /// When its last turn was recorded.
    pub updated_at: String,
    /// Events of the current execution.
    pub events: u32,
    /// What the guest wants people to see.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub custom_status: Option<Payload>,
    /// Why it failed or was ended.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub error: Option<String>,
}

impl From<Summary> for InstanceRow {
    fn from(summary: Summary) -> Self {
        Self {
            id: summary.instance,
            orchestration: summary.orchestration,
            status: summary.status,
            execution: summary.execution,
            created_at: summary.created_at.to_string(),
            updated_at: summary.updated_at.to_string(),
            events: summary.events,
            custom_status: summary.custom_status,
            error: summary.error,
        }
    }
}

/// An instance with what it waits for.
#[derive(Clone, Debug, Serialize)]
pub struct InstanceView {
    /// As in lists.
    #[serde(flatten)]
    pub row: InstanceRow,
    /// The module it is pinned to.
    pub module: ModuleHash,
    /// Tags as they stand.
    pub tags: std::collections::BTreeMap<String, String>,
    /// Its input.
    pub input: Payload,
    /// What it returned.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub output: Option<Payload>,
    /// How it failed.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub failure: Option<Failure>,
    /// The instance that called it.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub parent: Option<InstanceId>,
    /// What this execution called, in order, each attempt on its own.
    pub children: Vec<ChildView>,
    /// Incomplete operations.
    pub pending: Vec<PendingView>,
    /// Events that came and were not taken, by name and in order.
    pub untaken_events: Vec<String>,
    /// Whose beginning it shares, if it is a fork.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub forked_from: Option<ForkView>,
}

/// Where a fork comes from.
#[derive(Clone, Debug, Serialize)]
pub struct ForkView {
    /// The instance.
    pub instance: InstanceId,
    /// Which life of it.
    pub execution: ExecutionNumber,
    /// The last event that is shared.
    pub event: u32,
}

/// A sub-orchestration, as it stands.
#[derive(Clone, Debug, Serialize)]
pub struct ChildView {
    /// The call.
    pub operation: OperationId,
    /// The called instance.
    pub id: InstanceId,
    /// Its orchestration.
    pub orchestration: String,
    /// Where it stands; none if it is not there (yet, or any more).
    #[serde(skip_serializing_if = "Option::is_none")]
    pub status: Option<Status>,
}

/// An incomplete operation.
#[derive(Clone, Debug, Serialize)]
#[serde(tag = "kind", rename_all = "kebab-case")]
pub enum PendingView {
    /// An activity.
    Activity {
        /// Its operation.
        operation: OperationId,
        /// `service.method`.
        name: String,
        /// How often it was tried.
        #[serde(flatten)]
        attempts: AttemptsView,
        /// The queue that it waits in when an attempt is due.
        queue: String,
        /// Where it is; unknown without a running host.
        #[serde(flatten)]
        whereabouts: Option<Whereabouts>,
    },
    /// The beginning, at a later date.
    Start {
        /// When.
        start_at: String,
    },
    /// A timer.
    Timer {
        /// Its operation.
        operation: OperationId,
        /// When it fires.
        fire_at: String,
    },
    /// A wait for an event.
    Event {
        /// Its operation.
        operation: OperationId,
        /// The event's name.
        name: String,
    },
    /// A sub-orchestration.
    Orchestration {
        /// Its operation.
        operation: OperationId,
        /// The orchestration.
        name: String,
        /// The called instance.
        instance: InstanceId,
        /// How often it was tried.
        #[serde(flatten)]
        attempts: AttemptsView,
    },
    /// An operation of an entity.
    Entity {
        /// Its operation.
        operation: OperationId,
        /// The entity.
        to: InstanceId,
        /// Which of its operations.
        name: String,
    },
    /// A lock over entities.
    Lock {
        /// Its operation.
        operation: OperationId,
        /// The entities.
        entities: Vec<InstanceId>,
    },
    /// A signal that its receiver has not taken yet.
    Signal {
        /// Its operation.
        operation: OperationId,
        /// The receiver.
        to: InstanceId,
        /// The event's name.
        name: String,
    },
}

/// How often a call was tried.
#[derive(Clone, Debug, Serialize)]
pub struct AttemptsView {
    /// The attempt that runs or comes next.
    pub attempt: u32,
    /// Of how many; 0 is without bound.
    pub max_attempts: u32,
    /// When that attempt starts, if it does not run.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub next_attempt_at: Option<String>,
    /// Why the attempt before failed.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub last_failure: Option<String>,
}

impl AttemptsView {
    fn new(attempt: u32, retry: Option<&RetryPolicy>, next: Option<TimestampMs>, last: Option<&Failure>) -> Self {
        Self {
            attempt,
            max_attempts: retry.map_or(1, |policy| policy.max_attempts),
            next_attempt_at: next.map(|at| at.to_string()),
            last_failure: last.map(ToString::to_string),
        }
    }
}

/// Where the call of an activity is.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
pub struct Whereabouts {
    /// Whether somebody serves it.
    pub served: bool,
    /// What it does.
    pub state: TaskState,
    /// The remote worker that has it.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub worker: Option<String>,
}

/// What an activity's call does.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize)]
#[serde(rename_all = "kebab-case")]
pub enum TaskState {
    /// It waits in its queue: for a slot, or for somebody who serves it.
    Waiting,
    /// An attempt runs.
    Running,
    /// The next attempt is not due yet.
    BackingOff,
}

/// A queue and what is in it.
#[derive(Clone, Debug, Serialize)]
pub struct QueueView {
    /// Its name.
    pub name: String,
    /// Tasks that wait in it.
    pub waiting: usize,
    /// Of these, by name: those that nobody serves.
    pub unserved: std::collections::BTreeMap<String, usize>,
    /// Since when the first of those that wait does.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub waiting_since: Option<String>,
    /// Tasks that run.
    pub running: usize,
    /// Its bounds.
    pub settings: QueueSettings,
}

/// A remote worker.
#[derive(Clone, Debug, Serialize)]
pub struct WorkerView {
    /// Its id, as the host gave it.
    pub id: String,
    /// Its name, as it says.
    pub name: String,
    /// The queues that it serves.
    pub queues: Vec<String>,
    /// What it serves.
    pub activities: Vec<String>,
    /// When it was last heard of.
    pub seen_at: String,
    /// Whether it waits for tasks at this moment.
    pub waiting: bool,
    /// What it has.
    pub tasks: Vec<LeaseView>,
}

/// A task that a remote worker has.
#[derive(Clone, Debug, Serialize)]
pub struct LeaseView {
    /// `instance/execution/operation`.
    pub task: String,
    /// `service.method`.
    pub activity: String,
    /// From 1.
    pub attempt: u32,
    /// When it is given to another, unless it is renewed.
    pub lease_until: String,
    /// Whether nobody waits for its result.
    pub cancelled: bool,
}

/// One instance in full. `whereabouts` tells where an activity's call is.
///
/// # Errors
/// If it is unknown, or the store fails.
pub fn instance(
    store: &dyn Store,
    id: &InstanceId,
    whereabouts: impl Fn(&ActivityScheduled) -> Option<Whereabouts>,
) -> Result<InstanceView, EngineError> {
    let unknown = || EngineError::UnknownInstance { id: id.clone() };
    let summary = store.summary(id)?.ok_or_else(unknown)?;
    let records = store.history(id, None)?.ok_or_else(unknown)?.decode()?;
    let recorder =
        bare_recorder(&records, Limits::default()).map_err(|why| EngineError::Blocked { id: id.clone(), why })?;
    let execution = &recorder.execution;
    let (output, failure) = match end_of(&records) {
        Some(Ok(output)) => (Some(output), None),
        Some(Err(failure)) => (None, Some(failure)),
        None => (None, None),
    };
    let pending = execution.pending.iter().map(|(&operation, pending)| pending_view(operation, pending, &whereabouts));
    Ok(InstanceView {
        module: summary.module,
        tags: summary.tags.clone(),
        input: execution.started.input.clone(),
        output,
        failure,
        pending: pending.collect(),
        parent: execution.started.parent.clone(),
        children: children(store, &records)?,
        untaken_events: execution.buffered_names(),
        forked_from: execution.started.forked_from.as_deref().map(|from| ForkView {
            instance: from.instance.clone(),
            execution: from.execution,
            event: from.event,
        }),
        row: summary.into(),
    })
}

/// What an instance ended with; none while it runs or if it is unknown.
///
/// # Errors
/// If the store fails.
pub fn outcome(store: &dyn Store, id: &InstanceId) -> Result<Option<Outcome>, EngineError> {
    let Some(row) = store.summary(id)?.filter(|row| row.status.is_final()) else { return Ok(None) };
    // The end is in the last turn, but for what its letters were answered since: so it is
    // looked for from there, in ever longer parts of a history that may be very long.
    let mut part = 1;
    loop {
        let from = row.turns.saturating_sub(part - 1).max(1);
        let Some(tail) = store.history_from(id, row.execution, from)? else { return Ok(None) };
        let end = end_of(&tail.decode()?);
        if end.is_some() || from == 1 {
            return Ok(end);
        }
        part = part.saturating_mul(8);
    }
}

fn children(store: &dyn Store, records: &[TurnRecord]) -> Result<Vec<ChildView>, EngineError> {
    let mut calls = std::collections::BTreeMap::new();
    let mut children = Vec::new();
    for event in records.iter().flat_map(|record| &record.events) {
        let (call, attempt) = match event {
            Event::OrchestrationScheduled(call) => {
                calls.insert(call.operation, call);
                (Some(call), 1)
            }
            Event::OrchestrationAttemptFailed { operation, attempt, .. } => {
                (calls.get(operation).copied(), attempt + 1)
            }
            _ => continue,
        };
        let Some(call) = call else { continue };
        let id = call.called(attempt);
        let status = store.summary(&id)?.map(|summary| summary.status);
        children.push(ChildView { operation: call.operation, id, orchestration: call.name.clone(), status });
    }
    Ok(children)
}

/// What a history ended with. Answers to its letters may follow its end.
fn end_of(records: &[TurnRecord]) -> Option<Outcome> {
    records.iter().rev().find_map(|turn| turn.events.last().and_then(final_outcome))
}

/// A history as JSON: one object per event, numbered, with its turn and time.
pub fn events_json(records: &[TurnRecord]) -> Vec<serde_json::Value> {
    let mut number = 0u32;
    let mut all = Vec::new();
    for (turn, record) in records.iter().enumerate() {
        for event in &record.events {
            number += 1;
            let mut object = serde_json::json!({ "event": number, "turn": turn + 1, "at": record.at.to_string() });
            if let (Some(object), serde_json::Value::Object(fields)) = (object.as_object_mut(), event.to_json()) {
                object.extend(fields);
            }
            all.push(object);
        }
    }
    all
}

fn pending_view(
    operation: OperationId,
    pending: &Pending,
    whereabouts: &impl Fn(&ActivityScheduled) -> Option<Whereabouts>,
) -> PendingView {
    match pending {
        Pending::Activity { call, attempt, retry, .. } => PendingView::Activity {
            operation,
            name: call.name.clone(),
            attempts: AttemptsView::new(
                *attempt,
                call.options.retry.as_ref(),
                retry.as_deref().map(|(at, _)| *at),
                retry.as_deref().map(|(_, failure)| failure),
            ),
            queue: call.options.queue.clone().unwrap_or_else(|| DEFAULT_QUEUE.to_owned()),
            whereabouts: whereabouts(call),
        },
        Pending::Timer { fire_at } if operation == START => PendingView::Start { start_at: fire_at.to_string() },
        Pending::Timer { fire_at } => PendingView::Timer { operation, fire_at: fire_at.to_string() },
        Pending::Event { name } => PendingView::Event { operation, name: name.clone() },
        Pending::Orchestration { call, attempt, starts_at, last_failure, .. } => PendingView::Orchestration {
            operation,
            name: call.name.clone(),
            instance: call.called(*attempt),
            attempts: AttemptsView::new(*attempt, call.options.retry.as_ref(), *starts_at, last_failure.as_deref()),
        },
        Pending::Entity { to, name } => PendingView::Entity { operation, to: to.clone(), name: name.clone() },
        Pending::Lock { entities } => PendingView::Lock { operation, entities: entities.to_vec() },
        Pending::Signal { to, name } => PendingView::Signal { operation, to: to.clone(), name: name.clone() },
    }
}
