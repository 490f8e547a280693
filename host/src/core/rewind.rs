//! Rewind: how a failed execution goes on from before its last failed operation.
//!
//! A history is never taken back. The instance gets a new execution, whose history
//! begins with the failed one's turns up to the one that brought the failure, then
//! says so with [`Event::Rewound`], then keeps what else had come from outside since.
//! What the guest asked for from there on is not taken along: it asks anew. So every
//! history is a whole chain of hashes that replays by itself, and the fact says with
//! which turn of which execution it can be compared.
//!
//! What it told other instances is named by its execution's number (see
//! [`super::mail`]). All of it has its answer by then, so the copy names it by the
//! new number and nobody asks.
//!
//! Nothing here runs a guest; that its turns replay is for the engine to see.

use serde::{Deserialize, Serialize};

use super::calls::{MAX_RETRIED_ID_BYTES, OrchestrationScheduled, ParentClose, is_of_taken_id};
use super::entity::is_entity;
use super::event::{Event, Origin, Started};
use super::execution::{Execution, Pending};
use super::ids::{ExecutionNumber, Hash, OperationId, TimestampMs};
use super::payload::{Failure, FailureKind};
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
    /// What the failed execution called and sent from there on. The new one does not
    /// know of it, and it may have had its effect.
    pub forgotten: Vec<String>,
}

/// Plans the rewind of a failed execution. Without a failed operation, or where the
/// host ended the last turn, it goes on from before its last turn.
///
/// What other instances were told before that point stays told, and what they
/// answered since is kept. A sub-orchestration that failed, or was ended since its
/// caller was, is called again as the next attempt of its call.
///
/// # Errors
/// Says why it cannot be rewound: others still have to answer it, it held a lock, it
/// called something that goes on without it, or an id was taken.
pub fn plan(turns: &[TurnRecord], reason: &str, limits: Limits) -> Result<Plan, String> {
    let Some(Event::ExecutionStarted(began)) = turns.first().and_then(|first| first.events.first()) else {
        return Err("it failed before it began".to_owned());
    };
    if is_entity(&began.instance) {
        return Err(
            "it is an entity, and whoever asked something of it was told that it has ended; purge it".to_owned()
        );
    }
    // What it had told others may have been answered after its end.
    let by_host = |turn: &TurnRecord| match turn.events.last()? {
        Event::Failed { by_host, .. } => Some(*by_host),
        _ => None,
    };
    let end = turns.iter().enumerate().rev().find_map(|(at, turn)| Some((at, by_host(turn)?)));
    let Some((end, by_host)) = end else { return Err("it has not failed".to_owned()) };
    if let Some((_, letter)) = absorbed(turns, limits)?.execution.outbox.letters().next() {
        return Err(format!("{} has not answered yet what it was told; ask again when it has", letter.to));
    }
    let of_operation =
        if by_host { None } else { turns[..=end].iter().rposition(|turn| turn.events.iter().any(is_failure)) };
    let (before, since) = turns.split_at(of_operation.unwrap_or(end));
    let state = absorbed(before, limits)?;
    let since: Vec<&Event> = since.iter().flat_map(|turn| &turn.events).collect();
    let anew = Anew::of(&state.execution, &since, turns[end].at, of_operation.is_some())?;
    let started = next_life(began, state.execution.next_operation() - 1, before.len() as u32);
    let (from, to) = (began.execution, started.execution);
    let fact = Rewound {
        execution: from,
        head: Hash::of(&turns[turns.len() - 1].encode()),
        events: state.execution.events,
        operations: anew.operations,
        reason: reason.to_owned(),
    };
    let kept = since.iter().filter(|event| is_kept(event, &fact, &state)).map(|event| event.of_execution(from, to));
    let kept: Vec<_> = kept.collect();
    let forgotten = since.iter().filter_map(|event| asked(event)).collect();
    let fact = Event::Rewound(Box::new(fact));
    let deliveries = std::iter::once(fact).chain(anew.attempts).chain(kept).collect();
    Ok(Plan { turns: chained(before, started, from), deliveries, forgotten })
}

/// What begins anew.
struct Anew {
    operations: Vec<OperationId>,
    /// Of calls: that their last attempt failed, and another one follows at once.
    attempts: Vec<Event>,
}

impl Anew {
    /// Of an execution as it was before `since`, which ended it then.
    fn of(state: &Execution, since: &[&Event], ended_at: TimestampMs, has_failed: bool) -> Result<Self, String> {
        if state.has_locks() {
            return Err("it held a lock there, which is free since; restart it instead".to_owned());
        }
        let failed = since.iter().filter_map(|event| failed_operation(event, state.started.execution));
        let mut operations: Vec<_> = failed.filter(|_| has_failed).collect();
        let mut attempts = Vec::new();
        for (&operation, pending) in &state.pending {
            let Pending::Orchestration { call, attempt, starts_at, .. } = pending else { continue };
            let (attempt, failure) = match since.iter().rfind(|event| event.is_of_call(operation)) {
                Some(Event::OrchestrationCompleted { .. }) => continue,
                Some(Event::OrchestrationFailed { attempt, failure, .. }) => (*attempt, Some(failure)),
                Some(Event::OrchestrationAttemptFailed { retry_at, .. }) if *retry_at > ended_at => continue,
                Some(Event::OrchestrationAttemptFailed { attempt, .. }) => (attempt + 1, None),
                _ if starts_at.is_some_and(|at| at > ended_at) => continue,
                _ => (*attempt, None),
            };
            let failure = fault_of_call(call, attempt, failure)?;
            operations.push(operation);
            let retry_at = state.now;
            attempts.push(Event::OrchestrationAttemptFailed { operation, attempt, failure, retry_at });
        }
        operations.sort_unstable();
        operations.dedup();
        Ok(Self { operations, attempts })
    }
}

/// What a call's last attempt came to, if another one may follow. It failed with
/// `failure`, or was left when its caller ended.
fn fault_of_call(call: &OrchestrationScheduled, attempt: u32, failure: Option<&Failure>) -> Result<Failure, String> {
    let called = call.called(attempt);
    match failure {
        Some(failure) if is_of_taken_id(failure) => {
            return Err(format!(
                "its call of {} failed since the id {called} was taken; restart it instead",
                call.name
            ));
        }
        None if call.options.parent_close == ParentClose::Abandon => {
            return Err(format!("it called {} ({called}), which goes on without it; restart it instead", call.name));
        }
        _ if call.instance.local().len() > MAX_RETRIED_ID_BYTES => {
            return Err(format!(
                "its call of {} would be tried again, for which the id {called} is too long: \
                 expected at most {MAX_RETRIED_ID_BYTES} bytes; restart it instead",
                call.name
            ));
        }
        _ => {}
    }
    let left = || Failure::fatal(FailureKind::Terminated, "its caller had failed".to_owned());
    Ok(failure.cloned().unwrap_or_else(left))
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
fn chained(turns: &[TurnRecord], started: Box<Started>, from: ExecutionNumber) -> Vec<TurnRecord> {
    let mut previous = Hash::ZERO;
    let mut chained = turns.to_vec();
    for event in chained.iter_mut().flat_map(|turn| &mut turn.events) {
        *event = event.of_execution(from, started.execution);
    }
    chained[0].events[0] = Event::ExecutionStarted(started);
    for turn in &mut chained {
        turn.previous = previous;
        previous = Hash::of(&turn.encode());
    }
    chained
}

/// The operation of the execution `of` that failed for good.
fn failed_operation(event: &Event, of: ExecutionNumber) -> Option<OperationId> {
    match event {
        Event::ActivityFailed { operation, .. } | Event::OrchestrationFailed { operation, .. } => Some(*operation),
        Event::SignalFailed { signal: letter, .. } | Event::EntityAnswered { letter, answer: Err(_) } => {
            (letter.0 == of).then_some(letter.1)
        }
        _ => None,
    }
}

fn is_failure(event: &Event) -> bool {
    matches!(
        event,
        Event::ActivityFailed { .. }
            | Event::OrchestrationFailed { .. }
            | Event::SignalFailed { .. }
            | Event::EntityAnswered { answer: Err(_), .. }
            | Event::OperationRefused { .. }
    )
}

/// What was asked of the world.
fn asked(event: &Event) -> Option<String> {
    match event {
        Event::ActivityScheduled(call) => Some(call.name.clone()),
        Event::OrchestrationScheduled(call) => Some(format!("{} ({})", call.name, call.instance)),
        Event::SignalSent(signal) => Some(format!("the signal {} to {}", signal.name, signal.to)),
        Event::EntityCalled(call) => Some(format!("{} of {}", call.name, call.to)),
        _ => None,
    }
}

/// Whether something that came from outside since counts on: it was for something
/// that is asked for already, or for nobody yet. A request to end, which it has
/// answered by failing, does not.
fn is_kept(event: &Event, fact: &Rewound, state: &Recorder) -> bool {
    let execution = &state.execution;
    let is_pending =
        |operation: &OperationId| execution.pending.contains_key(operation) && !fact.operations.contains(operation);
    match event {
        Event::ActivityCompleted { operation, .. }
        | Event::TimerFired { operation }
        | Event::OrchestrationCompleted { operation, .. } => execution.pending.contains_key(operation),
        Event::ActivityAttemptFailed { operation, .. } | Event::OrchestrationAttemptFailed { operation, .. } => {
            is_pending(operation)
        }
        Event::SignalDelivered { signal: letter }
        | Event::SignalFailed { signal: letter, .. }
        | Event::OrchestrationAbandoned { call: letter }
        | Event::EntityAnswered { letter, .. } => {
            let is_anew = letter.0 == fact.execution && fact.operations.contains(&letter.1);
            execution.outbox.get(*letter).is_some() && !is_anew
        }
        Event::ActivityFailed { .. }
        | Event::OrchestrationFailed { .. }
        | Event::CancelRequested { .. }
        | Event::CallerLeft { .. }
        | Event::ExecutionStarted(_) => false,
        event => event.origin() == Origin::Delivery,
    }
}

impl Event {
    /// The same where the execution has another number: letters are named by it.
    fn of_execution(&self, from: ExecutionNumber, to: ExecutionNumber) -> Self {
        let mut event = self.clone();
        if let Self::SignalDelivered { signal: letter }
        | Self::SignalFailed { signal: letter, .. }
        | Self::OrchestrationAbandoned { call: letter }
        | Self::EntityAnswered { letter, .. } = &mut event
            && letter.0 == from
        {
            letter.0 = to;
        }
        event
    }

    /// Whether an attempt of that call ended.
    fn is_of_call(&self, call: OperationId) -> bool {
        match self {
            Self::OrchestrationCompleted { operation, .. }
            | Self::OrchestrationFailed { operation, .. }
            | Self::OrchestrationAttemptFailed { operation, .. } => *operation == call,
            _ => false,
        }
    }
}

impl Pending {
    /// The operation begins anew, with all its attempts.
    pub(super) fn begin_anew(&mut self, now: TimestampMs) {
        match self {
            Self::Activity { scheduled_at, attempt, retry, .. } => {
                (*scheduled_at, *attempt, *retry) = (now, 1, None);
            }
            // Which attempt comes next is said by what is recorded beside.
            Self::Orchestration { scheduled_at, .. } => *scheduled_at = now,
            _ => {}
        }
    }
}

#[cfg(test)]
mod tests {
    use super::super::event::SignalSent;
    use super::super::ids::InstanceId;
    use super::super::payload::Payload;
    use super::*;

    #[test]
    fn it_is_rewound_when_others_have_answered_and_its_letters_have_its_new_number() {
        let turn = |events| TurnRecord { previous: Hash::ZERO, at: TimestampMs(1), ran: true, events };
        let to = InstanceId::new("ear").unwrap();
        let sent = SignalSent { operation: 1, to, name: "item".to_owned(), value: Payload::null() };
        let failure = Failure::fatal(FailureKind::Application, "as told".to_owned());
        let started = Box::new(Started::of_test("order", [0; 32]));
        let mut turns = vec![
            turn(vec![Event::ExecutionStarted(started.clone())]),
            turn(vec![Event::SignalSent(Box::new(sent))]),
            turn(vec![Event::Failed { failure, by_host: false }]),
        ];
        let plan_of = |turns: &[TurnRecord]| plan(&chained(turns, started.clone(), 1), "why", Limits::default());
        let refused = plan_of(&turns).unwrap_err();
        assert_eq!(refused, "ear has not answered yet what it was told; ask again when it has");

        turns.push(turn(vec![Event::SignalDelivered { signal: (1, 1) }]));
        let planned = plan_of(&turns).unwrap();
        assert_eq!(planned.turns.len(), 2, "up to the turn that failed");
        assert_eq!(planned.deliveries.len(), 2);
        assert_eq!(planned.deliveries[1], Event::SignalDelivered { signal: (2, 1) });
    }

    #[test]
    fn calls_that_go_on_keep_their_key_and_later_ones_get_a_new_one() {
        let third = next_life(&next_life(&Started::of_test("order", [0; 32]), 5, 9), 7, 9);
        assert_eq!((third.execution, third.seen_execution()), (3, 1));
        assert_eq!([5, 6, 7, 8].map(|operation| third.key_execution(operation)), [1, 2, 2, 3]);
        let earlier = next_life(&third, 3, 9);
        assert_eq!([3, 4, 6, 8].map(|operation| earlier.key_execution(operation)), [1, 4, 4, 4]);
    }
}
