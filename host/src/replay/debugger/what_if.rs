//! What if that had been answered otherwise? A history that goes on from an event
//! of another one, in the real guest and without any effect.
//!
//! It keeps the id and the randomness of the instance, so what differs follows
//! from the answer that was replaced and from nothing else. What comes in is what
//! the recording has: what the same calls, sub-orchestrations and signals came back
//! with and the events that were raised, each at its recorded time, and timers when
//! they are due. What is asked for and not in the recording has no answer: it waits
//! for whoever debugs ([`WhatIf::answer`]), and no time passes meanwhile.

use std::collections::{BTreeSet, HashMap, VecDeque};
use std::sync::Arc;

use super::Session;
use crate::core::event::{EntityCalled, Event, SignalSent};
use crate::core::execution::{End, Pending};
use crate::core::fork::what_if;
use crate::core::ids::{InstanceId, OperationId, TimestampMs};
use crate::core::mail::{Content, MailKey};
use crate::core::payload::{Outcome, Payload};
use crate::core::turn::TurnRecord;
use crate::replay::life::{Inbound, Life};
use crate::sandbox::OrchestrationModule;
use crate::sandbox::guest::Guest;

/// A history that is made up as one goes. See the module's page.
#[derive(Debug)]
pub struct WhatIf {
    life: Life,
    guest: Option<Guest>,
    module: Arc<OrchestrationModule>,
    clock: TimestampMs,
    /// What the recording asked others for, with the outcomes after the cut.
    recorded: Vec<Recorded>,
    /// Which of them stands for an operation.
    stands_for: HashMap<OperationId, usize>,
    /// What else came from outside after the cut.
    outside: VecDeque<(When, Event)>,
    /// The execution that continues as new is another history.
    renewed: bool,
}

/// When it was recorded, and as which event: of two at one time the first one first.
type When = (TimestampMs, usize);

#[derive(Debug)]
struct Recorded {
    asked: Asked,
    /// When each attempt ended, and how.
    outcomes: VecDeque<(When, Event)>,
    taken: bool,
}

/// What an operation asks somebody else for: the same again has the same outcomes.
#[derive(Clone, Debug, PartialEq)]
enum Asked {
    Activity(String, Payload),
    Orchestration(String, Payload),
    Signal(InstanceId, String, Payload),
    Entity(InstanceId, String, Payload),
}

impl Asked {
    fn by(event: &Event) -> Option<(OperationId, Self)> {
        Some(match event {
            Event::ActivityScheduled(call) => (call.operation, Self::Activity(call.name.clone(), call.input.clone())),
            Event::OrchestrationScheduled(call) => {
                (call.operation, Self::Orchestration(call.name.clone(), call.input.clone()))
            }
            Event::SignalSent(s) => (s.operation, Self::Signal(s.to.clone(), s.name.clone(), s.value.clone())),
            Event::EntityCalled(c) => (c.operation, Self::Entity(c.to.clone(), c.name.clone(), c.input.clone())),
            _ => return None,
        })
    }
}

/// How a history went on.
#[derive(Debug)]
pub enum WentOn {
    /// By this turn.
    Turn(Arc<TurnRecord>),
    /// Not by itself: what it waits for, and what can be done.
    Waits(String),
    /// It has ended.
    Ended(String),
}

/// What comes next by itself.
enum Coming {
    Outside,
    Result(OperationId),
    Time,
}

impl WhatIf {
    /// The history of `turns` up to event `at`, that event with `edit`, in `module`.
    ///
    /// # Errors
    /// Says why it cannot be cut there, or does not replay in that module.
    pub(super) fn of(
        turns: &[TurnRecord],
        at: u32,
        edit: Option<Outcome>,
        module: Arc<OrchestrationModule>,
    ) -> Result<(Self, Vec<TurnRecord>), String> {
        let sealed = what_if(turns, at, edit).map_err(|error| error.to_string())?;
        let records: Vec<_> = sealed.iter().map(|turn| turn.record.clone()).collect();
        let shared = records.iter().map(|record| record.events.len()).sum();
        let life = Life::of_history(sealed)?;
        let guest = life.guest(&module).map_err(|error| error.to_string())?;
        let mut future = Self {
            clock: life.execution.now,
            life,
            guest: Some(guest),
            module,
            recorded: Vec::new(),
            stands_for: HashMap::new(),
            outside: VecDeque::new(),
            renewed: false,
        };
        future.remember(turns, shared);
        Ok((future, records))
    }

    /// Takes what the recording has behind its first `shared` events.
    fn remember(&mut self, turns: &[TurnRecord], shared: usize) {
        let mut by_operation: HashMap<OperationId, usize> = HashMap::new();
        // What is asked of entities in the part that is shared; locks, that is.
        let of_entities: BTreeSet<MailKey> = self.life.execution.outbox.letters().map(|(key, _)| key).collect();
        let timed = turns.iter().flat_map(|turn| turn.events.iter().map(move |event| (turn.at, event)));
        for (index, (at, event)) in timed.enumerate() {
            if let Some((operation, asked)) = Asked::by(event) {
                by_operation.insert(operation, self.recorded.len());
                // Asked for in the part that is shared: the very same operation.
                if index < shared {
                    self.stands_for.insert(operation, self.recorded.len());
                }
                self.recorded.push(Recorded { asked, outcomes: VecDeque::new(), taken: index < shared });
            }
            if index < shared {
                continue;
            }
            let outcome_of = self.outcome_of(event).and_then(|operation| by_operation.get(&operation));
            match (outcome_of, event) {
                (Some(recorded), _) => self.recorded[*recorded].outcomes.push_back(((at, index), event.clone())),
                (
                    None,
                    Event::EventRaised { .. }
                    | Event::EventRaisedOnce { .. }
                    | Event::CancelRequested { .. }
                    | Event::Suspended { .. }
                    | Event::Resumed { .. }
                    | Event::SignalReceived { .. }
                    | Event::SignalDelivered { .. }
                    | Event::SignalFailed { .. }
                    | Event::OrchestrationAbandoned { .. }
                    | Event::CallerLeft { .. }
                    | Event::OperationReceived { .. }
                    | Event::LockRequested { .. }
                    | Event::LockReleased { .. }
                    | Event::RequestReceived(_),
                ) => self.outside.push_back(((at, index), event.clone())),
                (None, Event::EntityAnswered { letter, .. }) if of_entities.contains(letter) => {
                    self.outside.push_back(((at, index), event.clone()));
                }
                _ => {}
            }
        }
    }

    /// The operation of this execution of which `event` is an outcome.
    fn outcome_of(&self, event: &Event) -> Option<OperationId> {
        match event {
            Event::ActivityCompleted { operation, .. }
            | Event::ActivityFailed { operation, .. }
            | Event::ActivityAttemptFailed { operation, .. }
            | Event::OrchestrationCompleted { operation, .. }
            | Event::OrchestrationFailed { operation, .. }
            | Event::OrchestrationAttemptFailed { operation, .. } => Some(*operation),
            // An earlier execution's letters are nothing that is asked for here.
            Event::SignalDelivered { signal } | Event::SignalFailed { signal, .. } => {
                (signal.0 == self.life.execution.started.execution).then_some(signal.1)
            }
            Event::EntityAnswered { letter, .. } => {
                (letter.0 == self.life.execution.started.execution).then_some(letter.1)
            }
            _ => None,
        }
    }

    /// Goes on by one turn, if anything comes by itself.
    pub(super) fn go_on(&mut self) -> WentOn {
        loop {
            if let Some(end) = self.end() {
                return WentOn::Ended(end);
            }
            if self.life.has_turn(self.clock) {
                return self.turn(Vec::new());
            }
            let inbound = match self.coming() {
                Err(waits) => return WentOn::Waits(waits),
                Ok((at, Coming::Time)) => {
                    self.clock = at;
                    continue;
                }
                Ok((at, coming)) => {
                    self.clock = self.clock.max(at);
                    match coming {
                        Coming::Result(operation) => self.recorded_outcome(operation),
                        _ => self.outside.pop_front().map(|(_, event)| Inbound::Fact(event)),
                    }
                }
            };
            if let WentOn::Turn(turn) = self.turn(inbound.into_iter().collect()) {
                return WentOn::Turn(turn);
            }
        }
    }

    /// What comes next, and when; or what is missing.
    fn coming(&mut self) -> Result<(TimestampMs, Coming), String> {
        self.take_recorded_calls();
        let outside = self.outside.front().map(|(at, _)| (*at, Coming::Outside));
        let results = self.under_way().filter_map(|(operation, _)| {
            let (at, _) = self.recorded[*self.stands_for.get(&operation)?].outcomes.front()?;
            Some((*at, Coming::Result(operation)))
        });
        let due = self.life.due_after(self.clock).map(|at| ((at, usize::MAX), Coming::Time));
        let unanswered: Vec<_> = self.unanswered();
        let next = outside.into_iter().chain(results).chain(due).min_by_key(|(at, _)| *at);
        match next {
            Some(((at, _), Coming::Time)) if !unanswered.is_empty() => Err(format!(
                "nothing in the recording answers {}; `answer N RESULT`, `answer N fail MESSAGE`, or `time` to let it be \
                 {at}",
                unanswered.join(", ")
            )),
            Some(((at, _), coming)) => Ok((at, coming)),
            None if !unanswered.is_empty() => Err(format!(
                "nothing in the recording answers {}; `answer N RESULT` or `answer N fail MESSAGE`",
                unanswered.join(", ")
            )),
            None if self.life.execution.suspended => Err("it is suspended, and nothing resumes it".to_owned()),
            None => Err(self.waits_for_events()),
        }
    }

    /// What somebody else is to answer now, with the attempt.
    fn under_way(&self) -> impl Iterator<Item = (OperationId, u32)> {
        self.life.execution.pending.iter().filter_map(|(operation, pending)| match pending {
            Pending::Activity { attempt, retry, .. } if retry.as_deref().is_none_or(|(at, _)| *at <= self.clock) => {
                Some((*operation, *attempt))
            }
            Pending::Orchestration { attempt, starts_at, .. } if starts_at.is_none_or(|at| at <= self.clock) => {
                Some((*operation, *attempt))
            }
            Pending::Signal { .. } | Pending::Entity { .. } => Some((*operation, 1)),
            _ => None,
        })
    }

    /// The event that asked for it, as it would be recorded.
    fn asking(&self, operation: OperationId) -> Option<Event> {
        let execution = &self.life.execution;
        Some(match execution.pending.get(&operation)? {
            Pending::Activity { call, .. } => Event::ActivityScheduled(call.clone()),
            Pending::Orchestration { call, .. } => Event::OrchestrationScheduled(Box::new((**call).clone())),
            Pending::Signal { to, name } => {
                let value = match &execution.outbox.get((execution.started.execution, operation))?.content {
                    Content::Signal { value, .. } => value.clone(),
                    _ => return None,
                };
                Event::SignalSent(Box::new(SignalSent { operation, to: to.clone(), name: name.clone(), value }))
            }
            Pending::Entity { to, name } => {
                let content = &execution.outbox.get((execution.started.execution, operation))?.content;
                let Content::EntityOperation { input, one_way, .. } = content else { return None };
                let (to, name, input, one_way) = (to.clone(), name.clone(), input.clone(), *one_way);
                Event::EntityCalled(Box::new(EntityCalled { operation, to, name, input, one_way }))
            }
            Pending::Timer { .. } | Pending::Event { .. } | Pending::Lock { .. } => return None,
        })
    }

    /// Gives each new call the first recorded one that asked for the same and that
    /// no other has.
    fn take_recorded_calls(&mut self) {
        let new = |operation: &&OperationId| !self.stands_for.contains_key(*operation);
        let new: Vec<OperationId> = self.life.execution.pending.keys().filter(new).copied().collect();
        for operation in new {
            let Some((_, asked)) = self.asking(operation).as_ref().and_then(Asked::by) else { continue };
            let same = |recorded: &Recorded| !recorded.taken && recorded.asked == asked;
            if let Some(index) = self.recorded.iter().position(same) {
                self.recorded[index].taken = true;
                self.stands_for.insert(operation, index);
            }
        }
    }

    /// The end of an attempt as it was recorded, for the operation that the call is
    /// here: a back-off is as long as it was, whatever policy decided it.
    fn recorded_outcome(&mut self, operation: OperationId) -> Option<Inbound> {
        let (_, attempt) = self.under_way().find(|(found, _)| *found == operation)?;
        let ((at, _), event) = self.recorded[*self.stands_for.get(&operation)?].outcomes.pop_front()?;
        let again = |retry_at: TimestampMs| self.clock.plus(retry_at.since(at));
        let signal = (self.life.execution.started.execution, operation);
        Some(Inbound::Fact(match event {
            Event::ActivityAttemptFailed { failure, retry_at, progress, .. } => {
                Event::ActivityAttemptFailed { operation, attempt, failure, retry_at: again(retry_at), progress }
            }
            Event::ActivityFailed { failure, .. } => Event::ActivityFailed { operation, attempt, failure },
            Event::ActivityCompleted { result, .. } => Event::ActivityCompleted { operation, attempt, result },
            Event::OrchestrationAttemptFailed { failure, retry_at, .. } => {
                Event::OrchestrationAttemptFailed { operation, attempt, failure, retry_at: again(retry_at) }
            }
            Event::OrchestrationFailed { failure, .. } => Event::OrchestrationFailed { operation, attempt, failure },
            Event::OrchestrationCompleted { result, .. } => {
                Event::OrchestrationCompleted { operation, attempt, result }
            }
            Event::SignalDelivered { .. } => Event::SignalDelivered { signal },
            Event::SignalFailed { failure, .. } => Event::SignalFailed { signal, failure },
            Event::EntityAnswered { answer, .. } => Event::EntityAnswered { letter: signal, answer },
            other => other,
        }))
    }

    fn unanswered(&self) -> Vec<String> {
        let answered = |operation: &OperationId| {
            self.stands_for.get(operation).is_some_and(|index| !self.recorded[*index].outcomes.is_empty())
        };
        let without = self.under_way().filter(|(operation, _)| !answered(operation));
        without.filter_map(|(operation, _)| Some(self.asking(operation)?.summary(120))).collect()
    }

    fn waits_for_events(&self) -> String {
        let mut names: Vec<&str> = Vec::new();
        for pending in self.life.execution.pending.values() {
            if let Pending::Event { name } = pending
                && !names.contains(&name.as_str())
            {
                names.push(name);
            }
        }
        match names.as_slice() {
            [] if self.life.execution.pending.values().any(|pending| matches!(pending, Pending::Lock { .. })) => {
                "it waits for entities, which are not there to be locked".to_owned()
            }
            [] => "it waits for nothing that could come".to_owned(),
            [first, ..] => format!("it waits for {}; `raise {first} VALUE`", names.join(", ")),
        }
    }

    fn end(&self) -> Option<String> {
        if self.renewed {
            return Some("it continues as new; what the next execution does is another history".to_owned());
        }
        let end = self.life.execution.end.as_ref()?;
        Some(match end {
            End::Completed(_) | End::ContinuedAsNew(_) => "it has completed".to_owned(),
            End::Failed(_) => "it has failed".to_owned(),
            End::Terminated(_) => "it was terminated".to_owned(),
        })
    }

    /// One turn with what came in.
    fn turn(&mut self, inbound: Vec<Inbound>) -> WentOn {
        let guest = match self.guest.take() {
            Some(guest) => Ok(guest),
            None => self.life.guest(&self.module),
        };
        let mut guest = match guest {
            Ok(guest) => guest,
            Err(error) => return WentOn::Waits(format!("it cannot go on: {error}")),
        };
        let carried = self.life.carry_on(&mut guest, self.clock, inbound, &|_| None);
        self.renewed |= carried.renewed;
        self.guest = Some(guest).filter(|_| !carried.spent);
        match carried.turn {
            Some(turn) => WentOn::Turn(turn),
            None => WentOn::Waits("nothing came of it".to_owned()),
        }
    }

    // ---- what whoever debugs brings ----

    /// Answers a call, a sub-orchestration or a signal.
    ///
    /// # Errors
    /// If it is not under way.
    pub(super) fn answer(&mut self, operation: OperationId, outcome: Outcome) -> Result<WentOn, String> {
        let Some((_, attempt)) = self.under_way().find(|(found, _)| *found == operation) else {
            let open: Vec<_> = self.under_way().map(|(operation, _)| format!("#{operation}")).collect();
            let open = if open.is_empty() { "none is".to_owned() } else { open.join(", ") };
            return Err(format!("#{operation} is no call that is under way; {open}"));
        };
        // It is answered once, and not by the recording as well.
        self.stands_for.remove(&operation);
        let execution = &self.life.execution;
        let inbound = match execution.pending.get(&operation) {
            Some(Pending::Signal { .. } | Pending::Entity { .. }) => {
                Inbound::Answered((execution.started.execution, operation), outcome)
            }
            Some(Pending::Orchestration { call, .. }) => {
                let caller = execution.as_caller(operation, attempt, call.options.parent_close);
                Inbound::Returned(Box::new(caller), outcome)
            }
            _ => Inbound::Outcome(operation, attempt, outcome),
        };
        Ok(self.turn(vec![inbound]))
    }

    /// Raises an event.
    ///
    /// # Errors
    /// If it has ended.
    pub(super) fn raise(&mut self, name: &str, value: Payload) -> Result<WentOn, String> {
        match self.end() {
            Some(end) => Err(end),
            None => Ok(self.turn(vec![Inbound::Event(name.to_owned(), value)])),
        }
    }

    /// Lets time pass up to what is due next.
    ///
    /// # Errors
    /// If nothing is.
    pub(super) fn pass_time(&mut self) -> Result<WentOn, String> {
        if let Some(end) = self.end() {
            return Err(end);
        }
        let due = self.life.due_after(self.clock).ok_or("nothing is due at any time")?;
        self.clock = due;
        Ok(if self.life.has_turn(due) { self.turn(Vec::new()) } else { self.go_on() })
    }
}

impl Session {
    /// A session in what would have come of it if event `at` had brought `edit`
    /// (none: what it did bring), at that event, and what lets it go on.
    ///
    /// # Errors
    /// Says why it cannot be asked there.
    pub(super) fn what_if(&self, at: u32, edit: Option<Outcome>) -> Result<(Self, WhatIf), String> {
        let (future, records) = WhatIf::of(&self.turns, at, edit, self.module.clone())?;
        let mut session = Self::open(self.module.clone(), records, self.settings).map_err(|error| error.to_string())?;
        session.supposed_from = Some(at);
        session.step(i64::from(at));
        Ok((session, future))
    }
}
