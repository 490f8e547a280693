//! What was done, told to whoever draws it: one trace for each instance.
//!
//! The spans of a trace are the instance from its creation to its end, each of its turns
//! once it is durable, and each attempt of an activity once it has ended. Their ids
//! follow from the instance ([`crate::core::trace`]), so a trace goes on after a
//! restart. An attempt that dies with its host has no span; the one that repeats it has.

use std::fmt;
use std::sync::Arc;

use super::activities::Run;
use super::commit::Outbound;
use crate::core::event::{Event, Origin};
use crate::core::execution::Execution;
use crate::core::ids::{InstanceId, TimestampMs};
use crate::core::payload::Outcome;
use crate::core::summary::Status;
use crate::core::task::Task;
use crate::core::trace::{SpanId, TraceId, parse, traceparent};
use crate::core::turn::TurnRecord;

/// The tag that holds the `traceparent` of whoever started an instance.
pub const CALLER_TAG: &str = "traceparent";

/// What a span is about.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum SpanKind {
    /// An instance, from its creation to its end.
    Instance,
    /// A turn, until it was durable.
    Turn,
    /// An attempt of an activity.
    Attempt,
}

/// Something that was done, and when.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Span {
    /// In which trace.
    pub trace: TraceId,
    /// Which one.
    pub id: SpanId,
    /// The one that it is a part of; none: the instance's own.
    pub parent: Option<SpanId>,
    /// Who started the instance, in their trace.
    pub caller: Option<(TraceId, SpanId)>,
    /// What it is about.
    pub kind: SpanKind,
    /// Of the orchestration or the activity; `turn`.
    pub name: String,
    /// Since when.
    pub from: TimestampMs,
    /// Until when.
    pub to: TimestampMs,
    /// Why it failed, if it did.
    pub error: Option<String>,
    /// More about it; the names are in `host/docs/tracing.md`.
    pub attributes: Vec<(&'static str, String)>,
}

type Told = Arc<dyn Fn(Span) + Send + Sync>;

/// Who is told of spans. Called on threads of the engine, so it is not to block.
#[derive(Clone, Default)]
pub struct Spans(Option<Told>);

impl fmt::Debug for Spans {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(if self.is_on() { "Spans(on)" } else { "Spans(off)" })
    }
}

/// What a turn's span says of its instance.
#[derive(Default)]
pub(super) struct About {
    pub(super) birth: u64,
    created_at: TimestampMs,
    /// Its orchestration, and the `traceparent` that it was started with; where it ends.
    ended: Option<(String, Option<String>)>,
}

impl About {
    pub(super) fn of(execution: &Execution, record: &TurnRecord) -> Self {
        let started = &execution.started;
        let ended = ends(record).then(|| (started.orchestration.clone(), execution.tags.get(CALLER_TAG).cloned()));
        Self { birth: started.birth, created_at: started.created_at, ended }
    }
}

impl Spans {
    /// Tells `told`.
    pub fn to(told: impl Fn(Span) + Send + Sync + 'static) -> Self {
        Self(Some(Arc::new(told)))
    }

    /// Whether anybody is told.
    pub fn is_on(&self) -> bool {
        self.0.is_some()
    }

    /// The `traceparent` of what is done in an attempt, if anybody is told.
    pub(super) fn of_attempt(&self, task: &Task) -> Option<String> {
        let (trace, span) = self.is_on().then(|| attempt(task))?;
        Some(traceparent(trace, span))
    }

    /// A turn is durable.
    pub(super) fn turn(&self, turn: &Outbound, now: TimestampMs) {
        // What another instance did is in that one's trace.
        let (Some(tell), None) = (&self.0, &turn.adopted) else { return };
        let record = &turn.sealed.record;
        let (trace, about) = (TraceId::of(&turn.instance, turn.about.birth), &turn.about);
        let mut attributes = of_instance(&turn.instance, turn.execution);
        attributes.push(("dacapo.turn", turn.turn.to_string()));
        attributes.push(("dacapo.events", record.events.len().to_string()));
        tell(Span {
            trace,
            id: trace.turn(turn.execution, turn.turn),
            parent: Some(trace.root()),
            caller: None,
            kind: SpanKind::Turn,
            name: "turn".to_owned(),
            from: record.at,
            to: now.max(record.at),
            error: None,
            attributes,
        });
        if let Some((orchestration, caller)) = &about.ended {
            let (status, error) = verdict(record);
            let mut attributes = of_instance(&turn.instance, turn.execution);
            attributes.push(("dacapo.status", status.to_string()));
            tell(Span {
                trace,
                id: trace.root(),
                parent: None,
                caller: caller.as_deref().and_then(parse),
                kind: SpanKind::Instance,
                name: orchestration.clone(),
                from: about.created_at,
                to: now.max(about.created_at),
                error,
                attributes,
            });
        }
    }

    /// An attempt has ended.
    pub(super) fn attempt(&self, run: &Run, now: TimestampMs, outcome: &Outcome) {
        let Some(tell) = &self.0 else { return };
        let task = &run.task;
        let (trace, id) = attempt(task);
        let mut attributes = of_instance(&task.instance, task.execution);
        attributes.push(("dacapo.operation", task.operation.to_string()));
        attributes.push(("dacapo.attempt", task.attempt.to_string()));
        attributes.push(("dacapo.queue", task.queue().to_owned()));
        attributes.push(("dacapo.idempotency_key", task.idempotency_key()));
        attributes.extend(run.place.worker().map(|worker| ("dacapo.worker", worker.to_owned())));
        tell(Span {
            trace,
            id,
            parent: Some(trace.root()),
            caller: None,
            kind: SpanKind::Attempt,
            name: task.name.clone(),
            from: run.started_at,
            to: now.max(run.started_at),
            error: outcome.as_ref().err().map(ToString::to_string),
            attributes,
        });
    }
}

fn attempt(task: &Task) -> (TraceId, SpanId) {
    let trace = TraceId::of(&task.instance, task.birth);
    (trace, trace.attempt(task.execution, task.operation, task.attempt))
}

fn of_instance(instance: &InstanceId, execution: u32) -> Vec<(&'static str, String)> {
    let mut named = vec![("dacapo.instance", instance.to_string()), ("dacapo.execution", execution.to_string())];
    if !instance.space().is_empty() {
        named.push(("dacapo.namespace", instance.space().to_owned()));
    }
    named
}

/// Whether the instance ends with that turn.
fn ends(record: &TurnRecord) -> bool {
    let last = record.events.last();
    last.is_some_and(|event| event.origin() == Origin::Outcome && !matches!(event, Event::ContinuedAsNew { .. }))
}

fn verdict(record: &TurnRecord) -> (Status, Option<String>) {
    match record.events.last() {
        Some(Event::Failed { failure, .. }) => (Status::Failed, Some(failure.to_string())),
        Some(Event::Terminated { reason }) => (Status::Terminated, Some(format!("terminated: {reason}"))),
        _ => (Status::Completed, None),
    }
}
