//! Time travel through one history: forward and back, by event and by turn, with
//! what the guest logged, what it waited for and the line of source that asked.
//!
//! A [`Session`] is at a *position*: so many events have happened. State at a
//! position is derived from the events alone. A guest runs ahead, turn by turn and
//! once only, to see that it asks for what is recorded and to collect its log; on
//! the way the session keeps [checkpoints](checkpoints), from which any turn is at
//! hand in a moment. A source line is found by running the turn again up to the
//! very call that asked ([`Guest::source_of`]).
//!
//! No terminal here: [`command`] is the language of the command line, of scripts
//! and of whoever else asks.

mod checkpoints;
pub mod command;
mod text;
pub mod view;
pub mod what_if;

use std::collections::HashMap;
use std::sync::Arc;

use serde::Serialize;

use self::checkpoints::Checkpoints;
use crate::core::divergence::{Divergence, SourceLine};
use crate::core::event::{Event, Origin};
use crate::core::execution::Execution;
use crate::core::ids::OperationId;
use crate::core::turn::{Limits, LogLine, Recorder, TurnRecord};
use crate::sandbox::OrchestrationModule;
use crate::sandbox::guest::{Guest, ReplayError};

/// What a session may use.
#[derive(Clone, Copy, Debug)]
pub struct SessionSettings {
    /// Memory for checkpoints, bytes. With less, going back takes longer.
    pub checkpoint_bytes: usize,
}

impl Default for SessionSettings {
    fn default() -> Self {
        Self { checkpoint_bytes: 256 << 20 }
    }
}

/// A history that one moves about in. See the module's page.
#[derive(Debug)]
pub struct Session {
    module: Arc<OrchestrationModule>,
    settings: SessionSettings,
    turns: Vec<TurnRecord>,
    /// The number of each turn's first event, and one more for the end.
    firsts: Vec<u32>,
    /// Which event asked for each operation.
    asked_by: HashMap<OperationId, u32>,
    position: u32,
    /// The guest that runs ahead; none once it cannot go on.
    ahead: Option<Guest>,
    /// Turns that it has run.
    seen: usize,
    /// The guest's memory after each of them, bytes.
    memory: Vec<Option<usize>>,
    logs: Vec<Logged>,
    halt: Option<Halt>,
    checkpoints: Checkpoints,
    sources: HashMap<u32, Vec<SourceLine>>,
    /// The event from which on it is not what happened, see [`what_if`].
    supposed_from: Option<u32>,
}

/// A line that the guest logged.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
pub struct Logged {
    /// The event after which it did.
    pub event: u32,
    /// Its turn, from 1.
    pub turn: u32,
    /// The line.
    #[serde(flatten)]
    pub line: LogLine,
}

/// Why nothing can be seen beyond an event.
#[derive(Clone, Debug)]
pub enum Halt {
    /// The guest asks for something else than what is recorded.
    Diverged(Box<Divergence>),
    /// The history cannot be replayed on.
    Broken(String),
}

/// Why a history cannot be debugged.
#[derive(Debug, thiserror::Error)]
#[error("{0}")]
pub struct CannotDebug(pub String);

/// What to look for.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Target {
    /// The event of that number.
    Event(u32),
    /// The first event of that kind.
    Kind(String),
    /// The first event about that operation.
    Operation(OperationId),
    /// The first log line that has this text.
    Log(String),
    /// The last event that can be seen.
    End,
}

/// Where a move ended.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Moved {
    /// Where it was to.
    There,
    /// As far as one can go: the history's beginning or end, or a halt.
    AsFarAsPossible,
    /// What was looked for is not there; the position is as before.
    NotFound,
}

impl Session {
    /// Opens a history at its beginning. `module` comes from an inspecting sandbox
    /// (see [`Sandbox::inspecting`](crate::sandbox::Sandbox::inspecting)); with any
    /// other, going back runs the history again.
    ///
    /// # Errors
    /// [`CannotDebug`] if the history is empty, or the guest cannot be started.
    pub fn open(
        module: impl Into<Arc<OrchestrationModule>>,
        turns: Vec<TurnRecord>,
        settings: SessionSettings,
    ) -> Result<Self, CannotDebug> {
        let module = module.into();
        let first = turns.first().ok_or_else(|| CannotDebug("the history is empty".to_owned()))?;
        let mut recorder = Recorder::of_history(first, Limits::default()).map_err(CannotDebug)?;
        recorder.raw_logs = true;
        let asked_by = askers(recorder.execution.clone(), &turns);
        let mut guest = Guest::new(&module, recorder).map_err(|(trouble, _)| CannotDebug(trouble.to_string()))?;
        let mut firsts = vec![1];
        for turn in &turns {
            firsts.push(firsts[firsts.len() - 1] + turn.events.len() as u32);
        }
        let mut checkpoints = Checkpoints::new(settings.checkpoint_bytes);
        checkpoints.keep(&mut guest, 0);
        Ok(Self {
            module,
            settings,
            turns,
            firsts,
            asked_by,
            position: 0,
            ahead: Some(guest),
            seen: 0,
            memory: Vec::new(),
            logs: Vec::new(),
            halt: None,
            checkpoints,
            sources: HashMap::new(),
            supposed_from: None,
        })
    }

    /// Events that have happened; 0: none yet.
    pub fn position(&self) -> u32 {
        self.position
    }

    /// Events of the history.
    pub fn events(&self) -> u32 {
        self.firsts[self.turns.len()] - 1
    }

    /// Turns of the history.
    pub fn turns(&self) -> u32 {
        self.turns.len() as u32
    }

    /// The turn of an event, from 1; 0 for no event.
    pub fn turn_of(&self, event: u32) -> u32 {
        self.firsts[..self.turns.len()].partition_point(|first| *first <= event) as u32
    }

    /// An event by its number, from 1.
    pub fn event(&self, number: u32) -> Option<&Event> {
        let turn = (self.turn_of(number) as usize).checked_sub(1)?;
        self.turns[turn].events.get((number - self.firsts[turn]) as usize)
    }

    /// The event from which on this is not what happened; none: all of it did.
    pub fn supposed_from(&self) -> Option<u32> {
        self.supposed_from
    }

    /// Why nothing can be seen beyond the last event that can be reached.
    pub fn halt(&self) -> Option<&Halt> {
        self.halt.as_ref()
    }

    /// What the guest logged up to here.
    pub fn logs(&self) -> &[Logged] {
        let turn = self.turn_of(self.position);
        let upto = self.logs.partition_point(|line| line.event <= self.position && line.turn <= turn);
        &self.logs[..upto]
    }

    /// The guest's memory, bytes, after the last turn that is over here. None:
    /// before the first, or where the sandbox does not show it.
    pub fn memory(&self) -> Option<usize> {
        let turn = self.turn_of(self.position) as usize;
        let over = if self.position + 1 == self.firsts[turn] { turn } else { turn - 1 };
        over.checked_sub(1).and_then(|last| self.memory.get(last).copied().flatten())
    }

    // ---- moves ----

    /// Goes so many events forward or back.
    pub fn step(&mut self, by: i64) -> Moved {
        self.go_to(i64::from(self.position) + by)
    }

    /// Goes so many turns forward or back, to their ends. Back from the middle of
    /// a turn is the end of the turn before.
    pub fn step_turns(&mut self, by: i64) -> Moved {
        let mut target = self.position;
        for _ in 0..by.unsigned_abs().min(self.turns.len() as u64) {
            // A turn without events ends where the one before it did.
            target = match by > 0 {
                true => match self.firsts.get(self.firsts.partition_point(|first| *first <= target + 1)) {
                    Some(next) => next - 1,
                    None => return self.go_to(i64::MAX),
                },
                false => match self.firsts.partition_point(|first| *first < target + 1).checked_sub(1) {
                    Some(before) => self.firsts[before] - 1,
                    None => return self.go_to(-1),
                },
            };
        }
        self.go_to(i64::from(target))
    }

    /// Goes to the next, or with `back` the last, place that is looked for.
    pub fn run(&mut self, target: &Target, back: bool) -> Moved {
        let found = match target {
            Target::Event(number) => return self.go_to(i64::from(*number)),
            Target::End => {
                self.go_to(if back { 0 } else { i64::from(self.events()) });
                return Moved::There;
            }
            Target::Kind(kind) => self.find(back, |_, event| event.kind() == kind),
            Target::Operation(operation) => self.find(back, |_, event| operation_of(event) == Some(*operation)),
            Target::Log(text) if back => {
                let mut before = self.logs().iter().rev().filter(|line| line.event < self.position);
                before.find(|logged| logged.line.to_string().contains(text)).map(|logged| logged.event)
            }
            Target::Log(text) => self.find_log(text),
        };
        match found {
            None => Moved::NotFound,
            Some(event) => self.go_to(i64::from(event)),
        }
    }

    /// Whether the next place that is looked for is in the history as it is.
    pub(super) fn is_ahead(&mut self, target: &Target) -> bool {
        match target {
            Target::Event(number) => *number <= self.events(),
            Target::End => true,
            Target::Kind(kind) => self.find(false, |_, event| event.kind() == kind).is_some(),
            Target::Operation(operation) => self.find(false, |_, e| operation_of(e) == Some(*operation)).is_some(),
            Target::Log(text) => self.find_log(text).is_some(),
        }
    }

    fn go_to(&mut self, wanted: i64) -> Moved {
        let target = wanted.clamp(0, i64::from(self.events())) as u32;
        // Turns without events may follow the last one.
        let needed = if target == self.events() { self.turns.len() } else { self.turn_of(target) as usize };
        while self.seen < needed && self.halt.is_none() {
            self.see_turn();
        }
        let reach = if self.halt.is_some() { self.reach() } else { self.events() };
        self.position = target.min(reach);
        if i64::from(self.position) == wanted { Moved::There } else { Moved::AsFarAsPossible }
    }

    /// The last event that was seen to happen.
    fn reach(&self) -> u32 {
        match &self.halt {
            Some(Halt::Diverged(divergence)) => divergence.event - 1,
            _ => self.firsts[self.seen] - 1,
        }
    }

    fn find(&self, back: bool, mut wanted: impl FnMut(u32, &Event) -> bool) -> Option<u32> {
        if back {
            return (1..self.position).rev().find(|number| self.event(*number).is_some_and(|e| wanted(*number, e)));
        }
        let from = self.position + 1;
        let turn = (self.turn_of(from).max(1) - 1) as usize;
        let numbered = (self.firsts[turn]..).zip(self.turns[turn..].iter().flat_map(|turn| &turn.events));
        numbered
            .skip_while(|(number, _)| *number < from)
            .find(|(number, e)| wanted(*number, e))
            .map(|(number, _)| number)
    }

    fn find_log(&mut self, text: &str) -> Option<u32> {
        let mut looked_at = self.logs.partition_point(|line| line.event <= self.position);
        loop {
            let mut fresh = self.logs[looked_at..].iter();
            if let Some(found) = fresh.find(|logged| logged.line.to_string().contains(text)) {
                return Some(found.event);
            }
            looked_at = self.logs.len();
            if self.halt.is_some() || self.seen == self.turns.len() {
                return None;
            }
            self.see_turn();
        }
    }

    /// Runs one more turn, for the first time.
    fn see_turn(&mut self) {
        let Some(guest) = &mut self.ahead else {
            self.halt = Some(Halt::Broken("the guest has ended and more is recorded".to_owned()));
            return;
        };
        let (turn, record) = (self.seen, &self.turns[self.seen]);
        let outcome = guest.replay_turn(record, self.turns.get(turn + 1));
        let recorder = guest.recorder_mut();
        let after = std::mem::take(&mut recorder.logged_after);
        for (line, after) in std::mem::take(&mut recorder.logs).into_iter().zip(after) {
            // What a turn logs before its first event belongs to that one.
            let event = after.max(self.firsts[turn]).min(self.firsts[self.turns.len()] - 1);
            self.logs.push(Logged { event, turn: turn as u32 + 1, line });
        }
        match outcome {
            Ok(()) => {
                self.seen += 1;
                self.memory.push(guest.memory_bytes());
                if record.is_ended_by_host() {
                    // It trapped again, as recorded, and nothing follows.
                    self.ahead = None;
                } else if self.checkpoints.is_due(self.firsts[self.seen]) {
                    self.checkpoints.keep(guest, self.firsts[self.seen] - 1);
                }
            }
            Err(ReplayError::Diverged(mut divergence)) => {
                divergence.look_ahead(self.firsts[turn], &self.turns[turn..]);
                self.halt = Some(Halt::Diverged(divergence));
                self.ahead = None;
            }
            Err(error) => {
                self.halt = Some(Halt::Broken(error.to_string()));
                self.ahead = None;
            }
        }
    }

    /// One more turn at the end of the history.
    pub(super) fn append(&mut self, turn: TurnRecord) {
        let first = self.firsts[self.turns.len()];
        for (number, event) in (first..).zip(&turn.events) {
            if let Some(operation) = operation_of(event) {
                self.asked_by.entry(operation).or_insert(number);
            }
        }
        self.firsts.push(first + turn.events.len() as u32);
        self.turns.push(turn);
    }

    /// Takes in what was recorded since it was opened. False, and nothing is: `turns`
    /// is no history that goes on where this one ends.
    pub fn extend(&mut self, turns: Vec<TurnRecord>) -> bool {
        let known = self.turns.len();
        let last = self.turns.last().map(TurnRecord::encode);
        if known > turns.len() || last != turns.get(known - 1).map(TurnRecord::encode) {
            return false;
        }
        turns.into_iter().skip(known).for_each(|turn| self.append(turn));
        true
    }

    // ---- what there is to see ----

    /// The execution as it stood here, from its events alone.
    pub fn execution(&self) -> Execution {
        let turn = self.turn_of(self.position) as usize;
        let over = if self.position + 1 == self.firsts[turn] { turn } else { turn - 1 };
        let mut execution = self.recorder_after(over).execution;
        if over < turn {
            let record = &self.turns[over];
            execution.now = record.at;
            let within = (self.position + 1 - self.firsts[over]) as usize;
            record.events[..within].iter().for_each(|event| execution.apply(event));
            execution.events += within as u32;
            execution.turns += 1;
        }
        execution
    }

    /// The recorder after so many turns.
    fn recorder_after(&self, turns: usize) -> Recorder {
        let near = self.checkpoints.recorder_before(turns);
        let mut recorder = near.expect("the beginning is always kept").clone();
        for record in &self.turns[recorder.execution.turns as usize..turns] {
            recorder.absorb(record).expect("a chain that was verified when it was read");
        }
        recorder
    }

    /// Where in the guest's source `event` was asked for, the innermost line
    /// first. For what came from outside: where the operation was asked for that
    /// it is about. Empty: nobody asked, or it cannot be known.
    pub fn source(&mut self, event: u32) -> Vec<SourceLine> {
        let Some(asked) = self.event(event) else { return Vec::new() };
        let number = match asked.origin() {
            Origin::Guest => event,
            Origin::Outcome => return Vec::new(),
            Origin::Delivery => match operation_of(asked).and_then(|operation| self.asked_by.get(&operation)) {
                Some(number) => *number,
                None => return Vec::new(),
            },
        };
        if let Some(known) = self.sources.get(&number) {
            return known.clone();
        }
        let found = self.find_source(number).unwrap_or_default();
        self.sources.insert(number, found.clone());
        found
    }

    /// Where the operation was asked for.
    pub fn source_of_operation(&mut self, operation: OperationId) -> Vec<SourceLine> {
        self.asked_by.get(&operation).copied().map(|event| self.source(event)).unwrap_or_default()
    }

    /// The event that asked for an operation.
    pub fn asked_by(&self, operation: OperationId) -> Option<u32> {
        self.asked_by.get(&operation).copied()
    }

    fn find_source(&mut self, event: u32) -> Option<Vec<SourceLine>> {
        let turn = (self.turn_of(event) as usize).checked_sub(1)?;
        let guest = self.guest_after(turn)?;
        guest.source_of(&self.turns[turn], event)
    }

    /// A guest that has run so many turns: from the nearest checkpoint that any
    /// guest can take, the rest run again. Checkpoints are kept on the way, close
    /// together near the end of it: the next question is likely about a turn near by.
    fn guest_after(&mut self, turns: usize) -> Option<Guest> {
        let first = Recorder::of_history(&self.turns[0], Limits::default()).ok()?;
        let mut guest = Guest::new(&self.module, first).ok()?;
        let mut run = self.checkpoints.restore(&mut guest, turns);
        while run < turns {
            guest.replay_turn(&self.turns[run], self.turns.get(run + 1)).ok()?;
            run += 1;
            if (turns - run).is_power_of_two() || run == turns {
                self.checkpoints.keep(&mut guest, self.firsts[run] - 1);
            }
        }
        Some(guest)
    }
}

/// The operation that an event is about.
pub fn operation_of(event: &Event) -> Option<OperationId> {
    let json = event.to_json();
    json.get("operation").and_then(serde_json::Value::as_u64).map(|operation| operation as OperationId)
}

/// Which event asked for each operation: the one that gave it its number.
fn askers(mut execution: Execution, turns: &[TurnRecord]) -> HashMap<OperationId, u32> {
    let mut asked_by = HashMap::new();
    for (number, event) in (1..).zip(turns.iter().flat_map(|turn| &turn.events)) {
        let next = execution.next_operation();
        execution.apply(event);
        // Deliveries are not handed over here; they must not add up either.
        execution.take_ready();
        if execution.next_operation() > next {
            asked_by.insert(next, number);
        }
    }
    asked_by
}
