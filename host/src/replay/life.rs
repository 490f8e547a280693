//! An instance without a store: a history that is carried on turn by turn.
//!
//! A [`Life`] is what a store would hold of one instance, and [`Life::carry_on`]
//! does to it what a worker of the engine does: record what came in, fire the
//! timers that are due, run the guest, seal the turn. It owns no guest, no clock
//! and no effect: [`explore`](super::explore) and [`kit`](super::kit) bring them.
//! What lives have to do with each other is in [`neighbours`](super::neighbours).

use std::sync::Arc;

use serde::Serialize;

use crate::core::calls::{Call, Caller, ParentClose};
use crate::core::event::{Event, Origin, Started};
use crate::core::execution::{End, Execution, Pending};
use crate::core::ids::{Hash, InstanceId, OperationId, TimestampMs};
use crate::core::mail::{Envelope, MailKey};
use crate::core::payload::{Failure, FailureKind, Outcome, Payload};
use crate::core::retry::RetryPolicy;
use crate::core::turn::{Limits, LogLine, Recorder, SealedTurn, TurnRecord};
use crate::replay::recording::Recording;
use crate::sandbox::OrchestrationModule;
use crate::sandbox::guest::{Guest, ReplayError};
use crate::store::{History, StoreError};

/// What can come in for an instance.
#[derive(Clone, Debug, PartialEq, Serialize)]
pub enum Inbound {
    /// An attempt's outcome.
    Outcome(OperationId, u32, Outcome),
    /// An event.
    Event(String, Payload),
    /// Somebody asks the instance to end.
    Cancel(String),
    /// Somebody ends it.
    Terminate(String),
    /// Somebody asks for something and waits for the answer: by their key, the
    /// update's name and its input.
    Update(String, String, Payload),
    /// A letter of another instance.
    Letter(Box<Envelope>),
    /// A letter of its own has its answer.
    Answered(MailKey, Outcome),
    /// A sub-orchestration has ended.
    Returned(Box<Caller>, Outcome),
    /// Its caller goes without it: what that means, and why.
    Left(Box<Caller>, ParentClose, String),
    /// What another history has recorded as coming from outside.
    Fact(Event),
}

/// The policies of activities whose calls give none.
pub type DefaultRetry<'a> = &'a dyn Fn(&str) -> Option<RetryPolicy>;

/// One instance: its current execution, and those before it.
#[derive(Clone, Debug)]
pub struct Life {
    /// The state that the history leads to.
    pub execution: Execution,
    records: Vec<Arc<TurnRecord>>,
    turns: Vec<Arc<[u8]>>,
    past: Vec<Arc<History>>,
    /// Calls that earlier lives of the id were the answers to.
    answered: Vec<(Caller, Outcome)>,
}

/// What a turn brought beside the history.
#[derive(Debug, Default)]
pub struct Carried {
    /// What the guest logged.
    pub logs: Vec<LogLine>,
    /// The turn; none if there was nothing to record.
    pub turn: Option<Arc<TurnRecord>>,
    /// The execution continued as new.
    pub renewed: bool,
    /// What is next needs a new guest.
    pub spent: bool,
}

impl Life {
    /// An instance whose start is recorded and whose guest has not begun.
    pub fn start(id: &InstanceId, orchestration: &str, module: Hash, input: Payload, at: TimestampMs) -> Self {
        let started = Started::first(id.clone(), orchestration.to_owned(), module, input, seed(id, 1), at);
        Self::begin(Box::new(started), at)
    }

    /// An instance that another one calls, whose guest has not begun. The one that
    /// has its id makes way, if there is one.
    pub fn called(call: &Call, module: Hash, at: TimestampMs, before: Option<Self>) -> Self {
        let id = call.scheduled.called(call.caller.attempt);
        let execution = before.as_ref().map_or(1, |before| before.execution.started.execution + 1);
        let mut started = Box::new(call.started(module, seed(&id, execution), at));
        let Some(mut before) = before else { return Self::begin(started, at) };
        before.end_now("replaced by another start", at);
        let passed_on = before.execution.outbox.letters().map(|(key, letter)| (key, letter.clone())).collect();
        (started.execution, started.birth) = (execution, before.execution.started.birth);
        (started.outbox, started.seen) = (passed_on, before.execution.seen.clone());
        before.renew(started, Vec::new(), at);
        before
    }

    fn begin(started: Box<Started>, at: TimestampMs) -> Self {
        let (recorder, first) = Recorder::start(started, Limits::default(), at);
        let mut life = Self::empty(recorder.execution);
        life.append(first);
        life
    }

    fn empty(execution: Execution) -> Self {
        Self { execution, records: Vec::new(), turns: Vec::new(), past: Vec::new(), answered: Vec::new() }
    }

    /// The life that a history leads to.
    ///
    /// # Errors
    /// Says where the history is not whole.
    pub fn of_history(turns: Vec<SealedTurn>) -> Result<Self, String> {
        let first = turns.first().ok_or("the history is empty")?;
        let mut recorder = Recorder::of_history(&first.record, Limits::default())?;
        turns.iter().try_for_each(|turn| recorder.absorb(&turn.record))?;
        let mut life = Self::empty(recorder.execution);
        turns.into_iter().for_each(|turn| life.append(turn));
        Ok(life)
    }

    /// A guest in the state that the history leads to.
    ///
    /// # Errors
    /// If the module asks for something else than the history has, or the host
    /// has no room.
    pub fn guest(&self, module: &OrchestrationModule) -> Result<Guest, ReplayError> {
        self.guest_after(module, self.records.len())
    }

    fn guest_after(&self, module: &OrchestrationModule, turns: usize) -> Result<Guest, ReplayError> {
        let recorder = Recorder::of_history(&self.records[0], Limits::default()).map_err(ReplayError::Broken)?;
        let mut guest = Guest::new(module, recorder).map_err(|(trouble, _)| trouble)?;
        for (index, record) in self.records[..turns].iter().enumerate() {
            guest.replay_turn(record, self.records.get(index + 1).map(|next| &**next))?;
        }
        guest.recorder_mut().logs.clear();
        Ok(guest)
    }

    /// What its code says of its state, and what it logged then. After a trap it is
    /// asked as it stood before.
    ///
    /// # Errors
    /// As [`Self::guest`].
    pub fn query(
        &self,
        module: &OrchestrationModule,
        name: &str,
        input: Payload,
    ) -> Result<(Outcome, Vec<LogLine>), ReplayError> {
        let trapped = self.records.last().is_some_and(|last| last.is_ended_by_host());
        let guest = self.guest_after(module, self.records.len() - usize::from(trapped))?;
        Ok(guest.query(name, input))
    }

    /// One turn in `guest`, which is in the state of this life: `inbound` is
    /// recorded, then the timers that are due; the guest runs if it is to be told
    /// anything. What nobody waits for is dropped.
    pub fn carry_on(
        &mut self,
        guest: &mut Guest,
        at: TimestampMs,
        inbound: Vec<Inbound>,
        default_retry: DefaultRetry<'_>,
    ) -> Carried {
        let recorder = guest.recorder_mut();
        recorder.begin(at);
        inbound.into_iter().for_each(|inbound| record(recorder, inbound, default_retry));
        for fired in recorder.execution.timers_due(recorder.turn_time()) {
            recorder.deliver(fired);
        }
        if recorder.execution.wants_turn() {
            guest.run_turn().expect("this turn is live, and nobody interrupts it");
        }
        let recorder = guest.recorder_mut();
        let logs = std::mem::take(&mut recorder.logs);
        if let Some((request, failure)) = recorder.take_fault() {
            let turn = self.without(recorder.under_way(), Event::OperationAborted { request, failure });
            return Carried { logs: Vec::new(), turn, renewed: false, spent: true };
        }
        // What it has to tell others follows from its state.
        recorder.execution.posts.clear();
        if !recorder.has_recorded() {
            return Carried { logs, ..Carried::default() };
        }
        let sealed = recorder.seal();
        self.execution = recorder.execution.clone();
        self.append(sealed);
        let turn = self.records.last().cloned();
        let Some(End::ContinuedAsNew(input)) = self.execution.end.clone() else {
            return Carried { logs, turn, ..Carried::default() };
        };
        let started = recorder.next_execution(input, seed(self.id(), self.execution.started.execution + 1));
        let carried = self.execution.requests.carried_on(|_| true);
        self.renew(started, carried, at);
        Carried { logs, turn, renewed: true, spent: true }
    }

    /// Somebody ends it, whatever it does.
    fn end_now(&mut self, reason: &str, at: TimestampMs) {
        if self.execution.end.is_some() {
            return;
        }
        self.record_without_guest(at, [Event::Terminated { reason: reason.to_owned() }]);
    }

    /// An entity goes on without the operation at which its guest was ended, from the
    /// state before the turn: as in an engine.
    fn without(&mut self, (at, turn): (TimestampMs, Vec<Event>), aborted: Event) -> Option<Arc<TurnRecord>> {
        let came_in = turn.into_iter().filter(|event| event.origin() == Origin::Delivery);
        self.record_without_guest(at, came_in.chain([aborted]));
        self.records.last().cloned()
    }

    fn record_without_guest(&mut self, at: TimestampMs, events: impl IntoIterator<Item = Event>) {
        let mut recorder = Recorder::of_history(&self.records[0], Limits::default()).expect("its own beginning");
        self.records.iter().for_each(|record| recorder.absorb(record).expect("its own history"));
        recorder.begin(at);
        events.into_iter().for_each(|event| recorder.deliver(event));
        recorder.execution.posts.clear();
        let sealed = recorder.seal();
        self.execution = recorder.execution;
        self.append(sealed);
    }

    /// The next life of the id.
    fn renew(&mut self, started: Box<Started>, carried: Vec<Event>, at: TimestampMs) {
        self.past.push(Arc::new(self.history()));
        let caller = self.execution.started.caller.clone();
        self.answered.extend(caller.zip(self.outcome()));
        let (recorder, first) = Recorder::start_with(started, carried, Limits::default(), at);
        self.execution = recorder.execution;
        self.records.clear();
        self.turns.clear();
        self.append(first);
    }

    fn append(&mut self, sealed: SealedTurn) {
        self.records.push(Arc::new(sealed.record));
        self.turns.push(sealed.bytes);
    }

    /// Whose life it is.
    pub fn id(&self) -> &InstanceId {
        &self.execution.started.instance
    }

    /// How it ended, as whoever waits for it is told.
    pub fn outcome(&self) -> Option<Outcome> {
        match self.execution.end.as_ref()? {
            End::Completed(output) => Some(Ok(output.clone())),
            End::Failed(failure) => Some(Err(failure.clone())),
            End::Terminated(reason) => Some(Err(Failure::fatal(FailureKind::Terminated, reason.clone()))),
            // It goes on.
            End::ContinuedAsNew(_) => None,
        }
    }

    /// Whether it is, or an earlier life of its id was, the answer to that call; if
    /// so, what it ended with, once it has.
    pub fn answer_to(&self, caller: &Caller) -> Option<Option<Outcome>> {
        if self.execution.started.caller.as_ref() == Some(caller) {
            return Some(self.outcome());
        }
        self.answered.iter().find(|(other, _)| other == caller).map(|(_, outcome)| Some(outcome.clone()))
    }

    /// Whether a turn at `now` would do anything by itself.
    pub fn has_turn(&self, now: TimestampMs) -> bool {
        self.execution.wants_turn() || !self.execution.timers_due(now).is_empty()
    }

    /// The next time after `now` at which something is due.
    pub fn due_after(&self, now: TimestampMs) -> Option<TimestampMs> {
        self.dues_after(now).min()
    }

    /// All times after `now` at which something is due, in no order.
    pub fn dues_after(&self, now: TimestampMs) -> impl Iterator<Item = TimestampMs> {
        let due = |pending: &Pending| [pending.due(), pending.due_unasked()];
        self.execution.pending.values().flat_map(due).flatten().filter(move |due| *due > now)
    }

    /// The events of the current execution, in order.
    pub fn events(&self) -> impl Iterator<Item = &Event> {
        self.records.iter().flat_map(|record| &record.events)
    }

    /// The current execution as a store would give it.
    pub fn history(&self) -> History {
        let started = &self.execution.started;
        History { instance: started.instance.clone(), execution: started.execution, turns: self.turns.clone() }
    }

    /// The executions that continued as new, in order.
    pub fn past(&self) -> &[Arc<History>] {
        &self.past
    }

    /// The current execution as a recording that replays anywhere.
    ///
    /// # Errors
    /// None that a life could have: its history is whole.
    pub fn recording(&self, module: Option<Vec<u8>>) -> Result<Recording, StoreError> {
        Recording::of(&self.history(), module)
    }
}

/// The same at every run, and another one for each execution.
fn seed(id: &InstanceId, execution: u32) -> [u8; 32] {
    Hash::of(format!("dacapo test seed of {id} execution {execution}").as_bytes()).0
}

fn record(recorder: &mut Recorder, inbound: Inbound, default_retry: DefaultRetry<'_>) {
    let now = recorder.turn_time();
    let execution = &recorder.execution;
    if execution.end.is_some() {
        return;
    }
    let event = match inbound {
        Inbound::Outcome(operation, attempt, outcome) => {
            let default = match execution.pending.get(&operation) {
                Some(Pending::Activity { call, .. }) => default_retry(&call.name),
                _ => None,
            };
            execution.activity_outcome(operation, attempt, outcome, None, default.as_ref(), now)
        }
        Inbound::Event(name, value) => Some(Event::EventRaised { name, value }),
        Inbound::Cancel(reason) => Some(Event::CancelRequested { reason }),
        Inbound::Terminate(reason) => Some(Event::Terminated { reason }),
        Inbound::Update(key, name, input) => execution.requests.update(key, name, input).map(Event::RequestReceived),
        Inbound::Letter(envelope) => {
            let Envelope { source, floor, content } = *envelope;
            execution.mail(source, floor, content)
        }
        Inbound::Answered(key, outcome) => execution.mail_answer(key, outcome),
        Inbound::Returned(caller, outcome) => execution.call_outcome(&caller, outcome, now),
        Inbound::Left(caller, what, reason) => execution.leave_of_caller(&caller, what, reason),
        Inbound::Fact(event) => Some(event),
    };
    event.into_iter().for_each(|event| recorder.deliver(event));
}
