//! Fork: a new history that shares the beginning of another one.
//!
//! A history is cut behind one event, and what follows is for the fork to find
//! out. What came in from outside can be cut anywhere: the turn keeps what came
//! in up to that event and the guest is told it live. What a guest asked for in
//! one turn is never cut in two: an event of it brings its whole turn along. The
//! turn that ended an execution cannot be shared.
//!
//! The fork has its own id, and so its own idempotency keys, and from the cut on
//! its own randomness; in the turns that it shares its guest is told the same as
//! the other one was, its id included (see [`ForkedFrom`]). So a fork is an
//! ordinary history: it replays, and its chain holds.

use serde::{Deserialize, Serialize};

use super::entity::is_entity;
use super::event::{Event, Origin};
use super::execution::Pending;
use super::ids::{ExecutionNumber, Hash, InstanceId, ModuleHash, TimestampMs};
use super::payload::Outcome;
use super::request::Request;
use super::turn::{Limits, Recorder, SealedTurn, TurnRecord};

/// Where a forked execution comes from. It is part of what the execution started
/// with.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct ForkedFrom {
    /// The instance whose beginning it shares.
    pub instance: InstanceId,
    /// Which life of it.
    pub execution: ExecutionNumber,
    /// The last event that is shared.
    pub event: u32,
    /// Turns that are shared. In them the guest sees the id and the parent of the
    /// other instance, which it may have used in what it asked for.
    pub turns: u32,
    /// From which randomness is drawn in the turns that are not shared.
    pub seed: [u8; 32],
    /// The instance that called the other one.
    pub parent: Option<InstanceId>,
    /// Where the other one's beginning comes from, if that is a fork too.
    pub earlier: Option<Box<ForkedFrom>>,
}

impl ForkedFrom {
    /// Whose id the guest was told in its turn after `turns` others; none: the
    /// fork's own.
    pub fn told(&self, turns: u32) -> Option<&Self> {
        let earlier = self.earlier.as_deref().and_then(|earlier| earlier.told(turns));
        earlier.or_else(|| (turns < self.turns).then_some(self))
    }

    /// The randomness that begins with the turn after `turns` others, if one does.
    pub fn begins(&self, turns: u32) -> Option<[u8; 32]> {
        let earlier = || self.earlier.as_deref().and_then(|earlier| earlier.begins(turns));
        if self.turns == turns { Some(self.seed) } else { earlier() }
    }

    /// Of a history that is cut behind its first `turns`.
    pub(super) fn cut_at(mut self: Box<Self>, turns: u32) -> Box<Self> {
        self.turns = self.turns.min(turns);
        self.earlier = self.earlier.map(|earlier| earlier.cut_at(turns));
        self
    }
}

/// A fork to make.
#[derive(Clone, Debug)]
pub struct Fork {
    /// The new instance.
    pub id: InstanceId,
    /// The last event to share, from 1.
    pub at: u32,
    /// What that event is to bring instead.
    pub edit: Option<Outcome>,
    /// What it runs; none: what the other one ran there.
    pub module: Option<ModuleHash>,
    /// Fresh randomness.
    pub seed: [u8; 32],
    /// When it is made.
    pub now: TimestampMs,
}

/// Why a history cannot be forked so.
#[derive(Debug, thiserror::Error, PartialEq, Eq)]
pub enum ForkError {
    /// There is no such event.
    #[error("there is no event {at} to fork at: the history has events 1 to {events}")]
    NoSuchEvent {
        /// The event asked for.
        at: u32,
        /// Events of the history.
        events: u32,
    },
    /// The event's turn ended the execution.
    #[error(
        "event {at} belongs to the turn that ended the execution; take event {before}, the last that came in before"
    )]
    Ended {
        /// The event asked for.
        at: u32,
        /// The last event that would do.
        before: u32,
    },
    /// The event brings nothing that could be replaced.
    #[error(
        "event {at} is {kind}, which brings no result to replace; take a result, an event, or event 1 for the input"
    )]
    NotEditable {
        /// The event asked for.
        at: u32,
        /// Its kind.
        kind: &'static str,
    },
    /// A sub-orchestration runs there, and answers to the one that called it.
    #[error(
        "after event {at} the history waits for the orchestration {name} ({called}), which belongs to {instance}; fork before it was called or where it has returned"
    )]
    Calls {
        /// The event asked for.
        at: u32,
        /// The orchestration.
        name: String,
        /// The called instance.
        called: InstanceId,
        /// Its caller.
        instance: InstanceId,
    },
    /// It is an entity, or holds some: it cannot be there twice.
    #[error("{instance} {is}; fork {instead}")]
    Alone {
        /// The instance.
        instance: InstanceId,
        /// What it is or has.
        is: &'static str,
        /// What would do.
        instead: &'static str,
    },
    /// The history is not whole.
    #[error("the history cannot be forked: {0}")]
    Broken(String),
}

/// The fork of `records`: its state, and its turns as they are to be committed.
///
/// # Errors
/// [`ForkError`].
pub fn fork(records: &[TurnRecord], fork: Fork, limits: Limits) -> Result<(Recorder, Vec<SealedTurn>), ForkError> {
    let mut kept = cut(records, fork.at, fork.edit.clone())?;
    let turns = kept.len() as u32;
    let Some(Event::ExecutionStarted(started)) = kept.first_mut().and_then(|first| first.events.first_mut()) else {
        return Err(ForkError::Broken("it does not begin with execution-started".to_owned()));
    };
    let (at, instance) = (fork.at, started.instance.clone());
    if is_entity(&instance) || is_entity(&fork.id) {
        let (is, instead) = ("is an entity, whose answers are for others", "what asks it, under an id without '@'");
        return Err(ForkError::Alone { instance: if is_entity(&instance) { instance } else { fork.id }, is, instead });
    }
    started.forked_from = Some(Box::new(ForkedFrom {
        instance: instance.clone(),
        execution: started.execution,
        event: fork.at,
        turns,
        seed: fork.seed,
        parent: started.parent.take(),
        earlier: started.forked_from.take().map(|earlier| earlier.cut_at(turns)),
    }));
    started.instance = fork.id;
    // What earlier executions sent is for the one that sent it to see to.
    started.birth = super::mail::birth(&fork.seed);
    started.outbox.clear();
    started.caller = None;
    started.created_at = fork.now;
    if let Some(module) = fork.module {
        started.module = module;
        pin_to(module, &mut kept);
    }
    let sealed = seal(kept);
    let recorder = absorbed(&sealed, limits).map_err(ForkError::Broken)?;
    if recorder.execution.has_locks() {
        let is = "holds entities there, or waits for them, which are locked for it alone";
        return Err(ForkError::Alone { instance, is, instead: "before the lock or after it" });
    }
    for pending in recorder.execution.pending.values() {
        if let Pending::Orchestration { call, attempt, .. } = pending {
            let (name, called) = (call.name.clone(), call.called(*attempt));
            return Err(ForkError::Calls { at, name, called, instance });
        }
    }
    Ok((recorder, sealed))
}

/// The turns of `records` up to event `at`, that event with `edit`, as a history of
/// the same instance: with its id and its randomness, to see how *it* would have
/// gone on. Nobody but a debugger may hold two histories of one instance.
///
/// # Errors
/// [`ForkError`].
pub fn what_if(records: &[TurnRecord], at: u32, edit: Option<Outcome>) -> Result<Vec<SealedTurn>, ForkError> {
    cut(records, at, edit).map(seal)
}

/// Of migrations in the shared part only that module is left.
fn pin_to(module: ModuleHash, turns: &mut [TurnRecord]) {
    for event in turns.iter_mut().flat_map(|turn| &mut turn.events) {
        if let Event::ModuleMigrated { from, to } = event {
            (*from, *to) = (module, module);
        }
    }
}

/// The turns up to event `at`, that event with `edit`.
fn cut(records: &[TurnRecord], at: u32, edit: Option<Outcome>) -> Result<Vec<TurnRecord>, ForkError> {
    let events = records.iter().map(|record| record.events.len() as u32).sum();
    let mut first = 1;
    for (index, record) in records.iter().enumerate() {
        let end = first + record.events.len() as u32;
        if !(first..end).contains(&at) {
            first = end;
            continue;
        }
        let within = (at - first) as usize;
        let deliveries = record.events.iter().take_while(|event| event.origin() == Origin::Delivery).count();
        let mut kept = records[..=index].to_vec();
        let last = &mut kept[index];
        if within < deliveries {
            // What the execution before left to answer is part of the beginning.
            let since = &last.events[within + 1..];
            let carried = |event: &&Event| matches!(event, Event::RequestsCarried(_) | Event::GateCarried(_));
            let begins = since.iter().take_while(carried).count();
            last.events.truncate(within + 1 + begins);
            last.ran = false;
            if let Some(outcome) = edit {
                last.events[within] = edited(at, &last.events[within], outcome)?;
            }
        } else if last.events.iter().any(|event| event.origin() == Origin::Outcome) {
            return Err(ForkError::Ended { at, before: first + deliveries as u32 - 1 });
        } else if edit.is_some() {
            return Err(ForkError::NotEditable { at, kind: last.events[within].kind() });
        }
        return Ok(kept);
    }
    Err(ForkError::NoSuchEvent { at, events })
}

/// The event with what it is to bring instead.
fn edited(at: u32, event: &Event, outcome: Outcome) -> Result<Event, ForkError> {
    Ok(match (event.clone(), outcome) {
        (
            Event::ActivityCompleted { operation, attempt, .. }
            | Event::ActivityFailed { operation, attempt, .. }
            | Event::ActivityAttemptFailed { operation, attempt, .. },
            outcome,
        ) => match outcome {
            Ok(result) => Event::ActivityCompleted { operation, attempt, result },
            Err(failure) => Event::ActivityFailed { operation, attempt, failure },
        },
        (
            Event::OrchestrationCompleted { operation, attempt, .. }
            | Event::OrchestrationFailed { operation, attempt, .. }
            | Event::OrchestrationAttemptFailed { operation, attempt, .. },
            outcome,
        ) => match outcome {
            Ok(result) => Event::OrchestrationCompleted { operation, attempt, result },
            Err(failure) => Event::OrchestrationFailed { operation, attempt, failure },
        },
        (Event::SignalDelivered { signal } | Event::SignalFailed { signal, .. }, outcome) => match outcome {
            Ok(_) => Event::SignalDelivered { signal },
            Err(failure) => Event::SignalFailed { signal, failure },
        },
        (Event::RequestReceived(request), Ok(input)) => {
            Event::RequestReceived(Request { input, ..(*request).clone() }.into())
        }
        (Event::EntityAnswered { letter, .. }, answer) => Event::EntityAnswered { letter, answer },
        (Event::SignalReceived { source, floor, name, .. }, Ok(value)) => {
            Event::SignalReceived { source, floor, name, value }
        }
        (Event::EventRaised { name, .. }, Ok(value)) => Event::EventRaised { name, value },
        (Event::EventRaisedOnce { key, name, .. }, Ok(value)) => Event::EventRaisedOnce { key, name, value },
        (Event::ExecutionStarted(mut started), Ok(input)) => {
            started.input = input;
            Event::ExecutionStarted(started)
        }
        (other, _) => return Err(ForkError::NotEditable { at, kind: other.kind() }),
    })
}

/// The turns as a chain of their own.
fn seal(records: Vec<TurnRecord>) -> Vec<SealedTurn> {
    let (mut previous, mut first_event) = (Hash::ZERO, 1);
    let seal_one = |mut record: TurnRecord| {
        record.previous = previous;
        let bytes = record.encode();
        previous = Hash::of(&bytes);
        let sealed = SealedTurn { first_event, bytes, hash: previous, record };
        first_event += sealed.record.events.len() as u32;
        sealed
    };
    records.into_iter().map(seal_one).collect()
}

fn absorbed(turns: &[SealedTurn], limits: Limits) -> Result<Recorder, String> {
    let first = turns.first().ok_or("the history is empty")?;
    let mut recorder = Recorder::of_history(&first.record, limits)?;
    turns.iter().try_for_each(|turn| recorder.absorb(&turn.record))?;
    Ok(recorder)
}

#[cfg(test)]
mod tests {
    use std::sync::Arc;

    use super::*;
    use crate::core::event::{ActivityOptions, ActivityScheduled, Started};
    use crate::core::payload::{Failure, FailureKind, Payload};

    fn record(ran: bool, events: Vec<Event>) -> TurnRecord {
        TurnRecord { previous: Hash::ZERO, at: TimestampMs(1), ran, events }
    }

    /// Two calls at once; the first result ends nothing, the second one ends it.
    fn history() -> Vec<TurnRecord> {
        let (orchestration, module, input) = ("order".into(), Hash::of(b"module"), Payload::json("1"));
        let started = Started { orchestration, module, input, ..Started::of_test("one", [1; 32]) };
        let call = |operation| {
            let (input, options) = (Payload::null(), ActivityOptions::default());
            Event::ActivityScheduled(Arc::new(ActivityScheduled { operation, name: "a.b".into(), input, options }))
        };
        let done = |operation| Event::ActivityCompleted { operation, attempt: 1, result: Payload::json("7") };
        let records = vec![
            record(false, vec![Event::ExecutionStarted(Box::new(started))]),
            record(true, vec![call(1), call(2)]),
            record(true, vec![done(1), done(2), Event::Completed { output: Payload::json("8") }]),
        ];
        seal(records).into_iter().map(|sealed| sealed.record).collect()
    }

    fn of(at: u32, edit: Option<Outcome>) -> Result<(Recorder, Vec<SealedTurn>), ForkError> {
        let id = InstanceId::new("two").unwrap();
        let fresh = Fork { id, at, edit, module: None, seed: [2; 32], now: TimestampMs(9) };
        fork(&history(), fresh, Limits::default())
    }

    fn shape(at: u32) -> Vec<usize> {
        of(at, None).unwrap().1.iter().map(|turn| turn.record.events.len()).collect()
    }

    #[test]
    fn deliveries_are_cut_anywhere_and_a_guests_turn_never() {
        assert_eq!(shape(1), [1]);
        assert_eq!(shape(2), [1, 2], "the other call of its turn comes along");
        assert_eq!(shape(3), [1, 2]);
        assert_eq!(shape(4), [1, 2, 1]);
        assert_eq!(shape(5), [1, 2, 2]);
        let (recorder, turns) = of(4, None).unwrap();
        assert!(!turns[2].record.ran, "its guest has not been told yet");
        assert_eq!(recorder.execution.pending.keys().copied().collect::<Vec<_>>(), [2]);
        assert!(recorder.execution.wants_turn());
        assert_eq!(of(6, None).unwrap_err(), ForkError::Ended { at: 6, before: 5 });
        assert_eq!(of(0, None).unwrap_err(), ForkError::NoSuchEvent { at: 0, events: 6 });
        assert_eq!(of(7, None).unwrap_err(), ForkError::NoSuchEvent { at: 7, events: 6 });
    }

    #[test]
    fn results_inputs_and_nothing_else_are_replaced() {
        let result =
            |at, edit| of(at, Some(edit)).map(|(_, turns)| turns.last().unwrap().record.events.last().cloned());
        let failure = Failure::fatal(FailureKind::Application, "no");
        assert_eq!(
            result(4, Err(failure.clone())).unwrap(),
            Some(Event::ActivityFailed { operation: 1, attempt: 1, failure: failure.clone() })
        );
        let Some(Event::ExecutionStarted(started)) = result(1, Ok(Payload::json("5"))).unwrap() else { panic!() };
        assert_eq!((started.input, started.instance.as_str()), (Payload::json("5"), "two"));
        let not_so = |at, kind| Err(ForkError::NotEditable { at, kind });
        assert_eq!(result(1, Err(failure)), not_so(1, "execution-started"));
        assert_eq!(result(2, Ok(Payload::null())), not_so(2, "activity-scheduled"));
    }

    #[test]
    fn a_fork_is_a_chain_of_its_own_that_says_where_it_comes_from() {
        let (_, turns) = of(5, None).unwrap();
        let mut previous = Hash::ZERO;
        for turn in &turns {
            assert_eq!(turn.record.previous, previous);
            previous = turn.hash;
        }
        let Event::ExecutionStarted(started) = &turns[0].record.events[0] else { panic!() };
        let from = started.forked_from.as_deref().unwrap();
        assert_eq!((from.instance.as_str(), from.event, from.turns), ("one", 5, 3));
    }
}
