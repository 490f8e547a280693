//! An instance without a store: a history that is carried on turn by turn.
//!
//! A [`Life`] is what a store would hold of one instance, and [`Life::carry_on`]
//! does to it what a worker of the engine does: record what came in, fire the
//! timers that are due, run the guest, seal the turn. It owns no guest, no clock
//! and no effect: [`explore`](super::explore) and [`kit`](super::kit) bring them.

use std::sync::Arc;

use serde::Serialize;

use crate::core::event::{Event, FORMAT, Started};
use crate::core::execution::{End, Execution, Pending};
use crate::core::ids::{Hash, InstanceId, OperationId, TimestampMs};
use crate::core::keys::Keys;
use crate::core::payload::{Outcome, Payload};
use crate::core::retry::{ALGORITHM, RetryPolicy};
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
}

/// What a turn brought beside the history.
#[derive(Debug, Default)]
pub struct Carried {
    /// What the guest logged.
    pub logs: Vec<LogLine>,
    /// The turn; none if there was nothing to record.
    pub turn: Option<Arc<TurnRecord>>,
    /// The execution continued as new: what is next needs a new guest.
    pub renewed: bool,
}

/// A life is alone: nobody is there to be told or called.
#[derive(Debug, thiserror::Error)]
#[error("{instance} {asked}, which is not served outside a host; test it with `dacapo run`, or alone")]
pub struct NotServed {
    /// Who asked.
    instance: InstanceId,
    /// What for.
    asked: String,
}

impl Life {
    /// An instance whose start is recorded and whose guest has not begun.
    pub fn start(id: &InstanceId, orchestration: &str, module: Hash, input: Payload, at: TimestampMs) -> Self {
        let started = Box::new(Started {
            format: FORMAT,
            instance: id.clone(),
            execution: 1,
            orchestration: orchestration.to_owned(),
            module,
            input,
            seed: seed(id, 1),
            created_at: at,
            retry_algorithm: ALGORITHM,
            parent: None,
            tags: Vec::new(),
            buffered: Vec::new(),
            start_at: None,
            forked_from: None,
            keys: Keys::default(),
            shared: Vec::new(),
            birth: 0,
            outbox: Vec::new(),
            seen: Default::default(),
            caller: None,
        });
        let (recorder, first) = Recorder::start(started, Limits::default(), at);
        let mut life = Self { execution: recorder.execution, records: Vec::new(), turns: Vec::new(), past: Vec::new() };
        life.append(first);
        life
    }

    /// The life that a history leads to.
    ///
    /// # Errors
    /// Says where the history is not whole.
    pub fn of_history(turns: Vec<SealedTurn>) -> Result<Self, String> {
        let first = turns.first().ok_or("the history is empty")?;
        let mut recorder = Recorder::of_history(&first.record, Limits::default())?;
        turns.iter().try_for_each(|turn| recorder.absorb(&turn.record))?;
        let mut life = Self { execution: recorder.execution, records: Vec::new(), turns: Vec::new(), past: Vec::new() };
        turns.into_iter().for_each(|turn| life.append(turn));
        Ok(life)
    }

    /// A guest in the state that the history leads to.
    ///
    /// # Errors
    /// If the module asks for something else than the history has, or the host
    /// has no room.
    pub fn guest(&self, module: &OrchestrationModule) -> Result<Guest, ReplayError> {
        let recorder = Recorder::of_history(&self.records[0], Limits::default()).map_err(ReplayError::Broken)?;
        let mut guest = Guest::new(module, recorder).map_err(|(trouble, _)| trouble)?;
        for (index, record) in self.records.iter().enumerate() {
            guest.replay_turn(record, self.records.get(index + 1).map(|next| &**next))?;
        }
        guest.recorder_mut().logs.clear();
        Ok(guest)
    }

    /// One turn in `guest`, which is in the state of this life: `inbound` is
    /// recorded, then the timers that are due; the guest runs if it is to be told
    /// anything. What nobody waits for is dropped.
    ///
    /// # Errors
    /// If it has to do with other instances.
    pub fn carry_on(
        &mut self,
        guest: &mut Guest,
        at: TimestampMs,
        inbound: Vec<Inbound>,
        default_retry: DefaultRetry<'_>,
    ) -> Result<Carried, NotServed> {
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
        if !recorder.has_recorded() {
            return Ok(Carried { logs, ..Carried::default() });
        }
        let sealed = recorder.seal();
        check_alone(recorder, &sealed)?;
        self.execution = recorder.execution.clone();
        self.append(sealed);
        let turn = self.records.last().cloned();
        let Some(End::ContinuedAsNew(input)) = self.execution.end.clone() else {
            return Ok(Carried { logs, turn, renewed: false });
        };
        let started = recorder.next_execution(input, seed(self.id(), self.execution.started.execution + 1));
        self.renew(started, at);
        Ok(Carried { logs, turn, renewed: true })
    }

    fn renew(&mut self, started: Box<Started>, at: TimestampMs) {
        self.past.push(Arc::new(self.history()));
        let (recorder, first) = Recorder::start(started, Limits::default(), at);
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

    /// Whether a turn at `now` would do anything by itself.
    pub fn has_turn(&self, now: TimestampMs) -> bool {
        self.execution.wants_turn() || !self.execution.timers_due(now).is_empty()
    }

    /// The next time after `now` at which something is due.
    pub fn due_after(&self, now: TimestampMs) -> Option<TimestampMs> {
        self.execution.pending.values().filter_map(Pending::due).filter(|due| *due > now).min()
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

fn check_alone(recorder: &Recorder, turn: &SealedTurn) -> Result<(), NotServed> {
    let asked = turn.record.events.iter().find_map(|event| match event {
        Event::SignalSent(signal) => Some(format!("signals {}", signal.to)),
        Event::OrchestrationScheduled(call) => Some(format!("calls the orchestration {}", call.name)),
        _ => None,
    });
    let instance = recorder.execution.started.instance.clone();
    asked.map_or(Ok(()), |asked| Err(NotServed { instance, asked }))
}

/// The same at every run, and another one for each execution.
fn seed(id: &InstanceId, execution: u32) -> [u8; 32] {
    Hash::of(format!("dacapo test seed of {id} execution {execution}").as_bytes()).0
}

fn record(recorder: &mut Recorder, inbound: Inbound, default_retry: DefaultRetry<'_>) {
    if recorder.execution.end.is_some() {
        return;
    }
    match inbound {
        Inbound::Outcome(operation, attempt, outcome) => {
            let default = match recorder.execution.pending.get(&operation) {
                Some(Pending::Activity { call, .. }) => default_retry(&call.name),
                _ => None,
            };
            let now = recorder.turn_time();
            let event = recorder.execution.activity_outcome(operation, attempt, outcome, None, default.as_ref(), now);
            event.into_iter().for_each(|event| recorder.deliver(event));
        }
        Inbound::Event(name, value) => recorder.deliver(Event::EventRaised { name, value }),
        Inbound::Cancel(reason) => recorder.deliver(Event::CancelRequested { reason }),
        Inbound::Terminate(reason) => recorder.deliver(Event::Terminated { reason }),
        Inbound::Fact(event) => recorder.deliver(event),
    }
}
