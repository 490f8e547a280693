//! What there is to see at a position, as data: for scripts, pages and the screen.

use serde::Serialize;
use serde_json::Value;

use super::{Halt, Logged, Session, operation_of};
use crate::core::divergence::SourceLine;
use crate::core::event::{Event, Origin};
use crate::core::ids::{ExecutionNumber, OperationId};
use crate::core::payload::Payload;

/// How many log lines and pending operations are shown at most.
#[derive(Clone, Copy, Debug)]
pub struct ViewLimits {
    /// The last lines.
    pub logs: usize,
    /// The first operations; a source line is looked up for each.
    pub pending: usize,
}

impl Default for ViewLimits {
    fn default() -> Self {
        Self { logs: 50, pending: 50 }
    }
}

/// All that is known at a position.
#[derive(Clone, Debug, Serialize)]
pub struct View {
    /// Whose history it is.
    pub instance: String,
    /// Which life of it.
    pub execution: ExecutionNumber,
    /// Its orchestration.
    pub orchestration: String,
    /// Events that have happened.
    pub position: u32,
    /// Events of the history.
    pub events: u32,
    /// The turn of the last one that happened; 0: none yet.
    pub turn: u32,
    /// Turns of the history.
    pub turns: u32,
    /// When that turn ran.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub at: Option<String>,
    /// The event that happened last.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub event: Option<EventView>,
    /// The guest's source lines that asked for it, the innermost first.
    pub source: Vec<SourceLine>,
    /// What came back last to the guest.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub last_completion: Option<EventView>,
    /// Operations that are not complete.
    pub pending: Vec<PendingOperation>,
    /// How many there are beyond those.
    pub more_pending: usize,
    /// Events that came and that nobody has taken, by name.
    pub untaken_events: Vec<String>,
    /// What the guest wants people to see.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub custom_status: Option<Payload>,
    /// Tags as they stand.
    pub tags: std::collections::BTreeMap<String, String>,
    /// The guest's memory, bytes.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub memory_bytes: Option<usize>,
    /// What the guest logged up to here, the last lines.
    pub logs: Vec<Logged>,
    /// The event from which on this is not what happened but what would have.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub what_if: Option<u32>,
    /// The difference, where the position is right before it.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub divergence: Option<Value>,
    /// Why the history cannot be replayed further, where that is here.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub broken: Option<String>,
}

/// One event.
#[derive(Clone, Debug, Serialize)]
pub struct EventView {
    /// From 1.
    pub number: u32,
    /// Its turn, from 1.
    pub turn: u32,
    /// Its kind.
    pub kind: &'static str,
    /// One line for people.
    pub summary: String,
    /// All of it.
    pub fields: Value,
}

/// An operation that is not complete.
#[derive(Clone, Debug, Serialize)]
pub struct PendingOperation {
    /// Its number.
    pub operation: OperationId,
    /// The event that asked for it.
    pub event: u32,
    /// One line for people: what was asked for.
    pub what: String,
    /// When it proceeds by itself.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub due: Option<String>,
    /// The guest's source line that asked for it.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub source: Option<SourceLine>,
}

impl Session {
    /// All that is known here.
    pub fn view(&mut self, limits: ViewLimits) -> View {
        let execution = self.execution();
        let position = self.position();
        let pending = execution.pending.iter().take(limits.pending).map(|(&operation, pending)| {
            let event = self.asked_by(operation).unwrap_or_default();
            let what = self.event(event).map(|event| event.summary(200)).unwrap_or_default();
            let due = pending.due().map(|due| due.to_string());
            let source = self.source_of_operation(operation).into_iter().next();
            PendingOperation { operation, event, what, due, source }
        });
        let pending: Vec<_> = pending.collect();
        let at_halt = self.halt().is_some() && position == self.reach();
        let (divergence, broken) = match self.halt().filter(|_| at_halt) {
            Some(Halt::Diverged(divergence)) => (Some(divergence.to_json()), None),
            Some(Halt::Broken(why)) => (None, Some(why.clone())),
            None => (None, None),
        };
        let logs = self.logs();
        let logs = logs[logs.len().saturating_sub(limits.logs)..].to_vec();
        View {
            instance: execution.started.instance.to_string(),
            execution: execution.started.execution,
            orchestration: execution.started.orchestration.clone(),
            position,
            events: self.events(),
            turn: self.turn_of(position),
            turns: self.turns(),
            at: (position > 0).then(|| execution.now.to_string()),
            event: self.event_view(position),
            source: self.source(position),
            last_completion: self.last_completion(),
            more_pending: execution.pending.len() - pending.len(),
            pending,
            untaken_events: execution.buffered_names(),
            custom_status: execution.custom_status,
            tags: execution.tags,
            memory_bytes: self.memory(),
            logs,
            what_if: self.supposed_from(),
            divergence,
            broken,
        }
    }

    /// One event, by its number.
    pub fn event_view(&self, number: u32) -> Option<EventView> {
        let event = self.event(number)?;
        Some(EventView {
            number,
            turn: self.turn_of(number),
            kind: event.kind(),
            summary: event.summary(400),
            fields: event.to_json(),
        })
    }

    /// The last event up to here that brought the guest something it waited for.
    fn last_completion(&self) -> Option<EventView> {
        let brings = |event: &Event| {
            let more_follow = matches!(event, Event::ActivityAttemptFailed { .. });
            event.origin() == Origin::Delivery && !more_follow && operation_of(event).is_some()
        };
        let found = (1..=self.position()).rev().find(|number| self.event(*number).is_some_and(brings));
        found.and_then(|number| self.event_view(number))
    }
}
