//! What people and programs see of an instance, read from the store.

use serde::Serialize;

use super::EngineError;
use super::bare_recorder;
use crate::core::execution::Pending;
use crate::core::ids::{ExecutionNumber, InstanceId, ModuleHash, OperationId, TimestampMs};
use crate::core::payload::{Failure, Outcome, Payload};
use crate::core::summary::{Status, Summary};
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
    /// Incomplete operations.
    pub pending: Vec<PendingView>,
    /// Events that came and were not taken, by name and in order.
    pub untaken_events: Vec<String>,
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
        /// The attempt that runs or comes next.
        attempt: u32,
        /// Of how many; 0 is without bound.
        max_attempts: u32,
        /// When that attempt starts, if it does not run.
        #[serde(skip_serializing_if = "Option::is_none")]
        next_attempt_at: Option<String>,
        /// Why the attempt before failed.
        #[serde(skip_serializing_if = "Option::is_none")]
        last_failure: Option<String>,
        /// Whether somebody serves it; unknown without a running host.
        #[serde(skip_serializing_if = "Option::is_none")]
        served: Option<bool>,
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

/// One instance in full. `served` tells whether an activity's name is served.
///
/// # Errors
/// If it is unknown, or the store fails.
pub fn instance(
    store: &dyn Store,
    id: &InstanceId,
    served: impl Fn(&str) -> Option<bool>,
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
    let pending = execution.pending.iter().map(|(&operation, pending)| pending_view(operation, pending, &served));
    Ok(InstanceView {
        module: summary.module,
        tags: summary.tags.clone(),
        input: execution.started.input.clone(),
        output,
        failure,
        pending: pending.collect(),
        untaken_events: execution.buffered_names(),
        row: summary.into(),
    })
}

/// What an instance ended with; none while it runs or if it is unknown.
///
/// # Errors
/// If the store fails.
pub fn outcome(store: &dyn Store, id: &InstanceId) -> Result<Option<Outcome>, EngineError> {
    let Some(history) = store.history(id, None)? else { return Ok(None) };
    Ok(end_of(&history.decode()?))
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

fn pending_view(operation: OperationId, pending: &Pending, served: &impl Fn(&str) -> Option<bool>) -> PendingView {
    match pending {
        Pending::Activity { call, attempt, retry, .. } => PendingView::Activity {
            operation,
            name: call.name.clone(),
            attempt: *attempt,
            max_attempts: call.options.retry.as_ref().map_or(1, |policy| policy.max_attempts),
            next_attempt_at: retry.as_ref().map(|(at, _): &(TimestampMs, Failure)| at.to_string()),
            last_failure: retry.as_ref().map(|(_, failure)| failure.to_string()),
            served: served(&call.name),
        },
        Pending::Timer { fire_at } => PendingView::Timer { operation, fire_at: fire_at.to_string() },
        Pending::Event { name } => PendingView::Event { operation, name: name.clone() },
        Pending::Entity { to, name } => PendingView::Entity { operation, to: to.clone(), name: name.clone() },
        Pending::Lock { entities } => PendingView::Lock { operation, entities: entities.to_vec() },
        Pending::Signal { to, name } => PendingView::Signal { operation, to: to.clone(), name: name.clone() },
    }
}
