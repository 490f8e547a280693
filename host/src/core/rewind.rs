//! Rewind: how a failed execution goes on from before its last failed operation.
//!
//! A history is never taken back. The instance gets a new execution, whose history
//! begins with the failed one's turns up to the one that brought the failure, then
//! says so with [`Event::Rewound`], then keeps what else had come from outside since.
//! What the guest asked for from there on is not taken along: it asks anew. So every
//! history is a whole chain of hashes that replays by itself, and the fact says with
//! which turn of which execution it can be compared.
//!
//! Nothing here runs a guest; that its turns replay is for the engine to see.

use serde::{Deserialize, Serialize};

use super::entity::is_entity;
use super::event::{Event, Origin, Started};
use super::execution::Pending;
use super::ids::{ExecutionNumber, Hash, OperationId};
use super::turn::{Limits, Recorder, TurnRecord};

/// Where an execution went on from. See [`Event::Rewound`].
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct Rewound {
    /// The execution that failed.
    pub execution: ExecutionNumber,
    /// The hash of its last turn.
    pub head: Hash,
    /// How many events from its beginning are shared with it.
    pub events: u32,
    /// The operations that had failed and begin anew, with all their attempts.
    pub operations: Vec<OperationId>,
    /// Why.
    pub reason: String,
}

/// An execution before this one, with which it shares its beginning.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Shared {
    /// Its number.
    pub execution: ExecutionNumber,
    /// The last operation that is shared with it.
    pub last_operation: OperationId,
}

impl Started {
    /// The number as the guest sees it: that of the execution in which it began,
    /// since what it was told once does not change.
    pub fn seen_execution(&self) -> ExecutionNumber {
        self.shared.first().map_or(self.execution, |shared| shared.execution)
    }

    /// The number in the idempotency key of `operation`: that of the execution in
    /// which it was asked for. A call that goes on after a rewind keeps its key; one
    /// that is asked for afterwards never gets a key that was used.
    pub fn key_execution(&self, operation: OperationId) -> ExecutionNumber {
        let shared = self.shared.iter().find(|shared| operation <= shared.last_operation);
        shared.map_or(self.execution, |shared| shared.execution)
    }
}

/// What a rewind records.
#[derive(Debug)]
pub struct Plan {
    /// The new execution's first turns.
    pub turns: Vec<TurnRecord>,
    /// Its next turn's deliveries; the first is [`Event::Rewound`].
    pub deliveries: Vec<Event>,
    /// Activities that the failed execution called from there on. The new one does
    /// not know of them, and they may have run.
    pub forgotten: Vec<String>,
}

/// Plans the rewind of a failed execution. Without a failed operation, or where the
/// host ended the last turn, it goes on from before its last turn.
///
/// # Errors
/// Says why it cannot be rewound. What other instances were told cannot be taken
/// back: an execution that sent signals or called orchestrations is not rewound.
pub fn plan(turns: &[TurnRecord], reason: &str, limits: Limits) -> Result<Plan, String> {
    if let Some(Event::ExecutionStarted(started)) = turns.first().and_then(|turn| turn.events.first())
        && is_entity(&started.instance)
    {
        return Err(
            "it is an entity, and whoever asked something of it was told that it has ended; purge it".to_owned()
        );
    }
    let told = |event: &Event| {
        use Event::{EntityCalled, LockAsked, OrchestrationScheduled, SignalSent};
        matches!(event, SignalSent(_) | OrchestrationScheduled(_) | EntityCalled(_) | LockAsked { .. })
    };
    if let Some(told) = turns.iter().flat_map(|turn| &turn.events).find(|event| told(event)) {
        let what = told.summary(40);
        return Err(format!("it told another instance something ({} {what}); restart it instead", told.kind()));
    }
    let Some((last, Event::Failed { by_host, .. })) = turns.last().and_then(|last| Some((last, last.events.last()?)))
    else {
        return Err("it has not failed".to_owned());
    };
    let of_operation = if *by_host { None } else { turns.iter().rposition(|turn| turn.events.iter().any(is_failure)) };
    let (before, since) = turns.split_at(of_operation.unwrap_or(turns.len() - 1));
    let operations = match of_operation {
        Some(_) => since.iter().flat_map(|turn| turn.events.iter().filter_map(failed_operation)).collect(),
        None => Vec::new(),
    };
    let state = absorbed(before, limits)?;
    let Some(Event::ExecutionStarted(started)) = before.first().and_then(|first| first.events.first()) else {
        return Err("it failed before it began".to_owned());
    };
    let started = next_life(started, state.execution.next_operation() - 1, before.len() as u32);
    let fact = Rewound {
        execution: started.execution - 1,
        head: Hash::of(&last.encode()),
        events: state.execution.events,
        operations,
        reason: reason.to_owned(),
    };
    let kept = since.iter().flat_map(|turn| &turn.events).filter(|event| is_kept(event, &fact, &state)).cloned();
    let kept: Vec<_> = kept.collect();
    let forgotten = since.iter().flat_map(|turn| turn.events.iter().filter_map(called)).collect();
    let deliveries = std::iter::once(Event::Rewound(Box::new(fact))).chain(kept).collect();
    Ok(Plan { turns: chained(before, started), deliveries, forgotten })
}

fn absorbed(turns: &[TurnRecord], limits: Limits) -> Result<Recorder, String> {
    let mut recorder = Recorder::of_history(turns.first().ok_or("it failed before it began")?, limits)?;
    turns.iter().try_for_each(|turn| recorder.absorb(turn))?;
    Ok(recorder)
}

fn next_life(failed: &Started, last_operation: OperationId, turns: u32) -> Box<Started> {
    let mut shared: Vec<Shared> = failed
        .shared
        .iter()
        .map(|before| Shared { last_operation: before.last_operation.min(last_operation), ..*before })
        .collect();
    shared.push(Shared { execution: failed.execution, last_operation });
    let forked_from = failed.forked_from.clone().map(|from| from.cut_at(turns));
    // Whoever called it has heard that it failed.
    Box::new(Started { execution: failed.execution + 1, shared, forked_from, caller: None, ..failed.clone() })
}

/// The same turns with another beginning: each has the hash of the one before.
fn chained(turns: &[TurnRecord], started: Box<Started>) -> Vec<TurnRecord> {
    let mut previous = Hash::ZERO;
    let mut chained = turns.to_vec();
    chained[0].events[0] = Event::ExecutionStarted(started);
    for turn in &mut chained {
        turn.previous = previous;
        previous = Hash::of(&turn.encode());
    }
    chained
}

fn failed_operation(event: &Event) -> Option<OperationId> {
    match event {
        Event::ActivityFailed { operation, .. } => Some(*operation),
        _ => None,
    }
}

fn is_failure(event: &Event) -> bool {
    failed_operation(event).is_some() || matches!(event, Event::OperationRefused { .. })
}

fn called(event: &Event) -> Option<String> {
    match event {
        Event::ActivityScheduled(call) => Some(call.name.clone()),
        _ => None,
    }
}

/// Whether something that came from outside since counts on: it was for something
/// that is asked for already, or for nobody yet. A request to end, which it has
/// answered by failing, does not.
fn is_kept(event: &Event, fact: &Rewound, state: &Recorder) -> bool {
    let is_pending = |operation: &OperationId| state.execution.pending.contains_key(operation);
    match event {
        Event::ActivityCompleted { operation, .. } | Event::TimerFired { operation } => is_pending(operation),
        Event::ActivityAttemptFailed { operation, .. } => is_pending(operation) && !fact.operations.contains(operation),
        Event::ActivityFailed { .. } | Event::CancelRequested { .. } | Event::ExecutionStarted(_) => false,
        event => event.origin() == Origin::Delivery,
    }
}

impl Pending {
    /// The operation begins anew, with all its attempts.
    pub(super) fn begin_anew(&mut self, now: super::ids::TimestampMs) {
        if let Self::Activity { scheduled_at, attempt, retry, .. } = self {
            (*scheduled_at, *attempt, *retry) = (now, 1, None);
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn calls_that_go_on_keep_their_key_and_later_ones_get_a_new_one() {
        let started = |shared: &[(u32, u32)]| Started {
            format: 1,
            instance: super::super::ids::InstanceId::new("order").unwrap(),
            execution: shared.len() as u32 + 1,
            orchestration: String::new(),
            module: Hash::ZERO,
            input: super::super::payload::Payload::null(),
            seed: [0; 32],
            created_at: super::super::ids::TimestampMs(0),
            retry_algorithm: 1,
            parent: None,
            tags: Vec::new(),
            buffered: Vec::new(),
            start_at: None,
            forked_from: None,
            keys: super::super::keys::Keys::default(),
            birth: 0,
            outbox: Vec::new(),
            seen: Default::default(),
            caller: None,
            shared: shared.iter().map(|&(execution, last_operation)| Shared { execution, last_operation }).collect(),
        };
        let third = next_life(&next_life(&started(&[]), 5, 9), 7, 9);
        assert_eq!((third.execution, third.seen_execution()), (3, 1));
        assert_eq!([5, 6, 7, 8].map(|operation| third.key_execution(operation)), [1, 2, 2, 3]);
        let earlier = next_life(&third, 3, 9);
        assert_eq!([3, 4, 6, 8].map(|operation| earlier.key_execution(operation)), [1, 4, 4, 4]);
    }
}
