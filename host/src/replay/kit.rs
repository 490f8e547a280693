//! Orchestrations under test: the real guest and recorder, a clock that is moved
//! by hand, and activities that somebody else answers.
//!
//! A [`Kit`] says what is next ([`Kit::go_on`]) and is told what came of it. It
//! waits for nothing and nobody: thirty days are one [`Kit::advance`]. The test
//! kit of the SDK drives it through `dacapo testkit`.

use std::collections::BTreeSet;

use super::explore::Call;
use super::life::{Inbound, Life};
use super::neighbours::{Neighbours, NotServed};
use super::subject::{Subject, SubjectError, Subjects};
use crate::core::execution::Pending;
use crate::core::ids::{InstanceId, OperationId, TimestampMs};
use crate::core::payload::{Outcome, Payload};
use crate::core::request::{Known, Source};
use crate::core::turn::LogLine;
use crate::sandbox::guest::{Guest, ReplayError};

/// Where every test begins: 2026-01-01T00:00:00Z.
const BEGIN: TimestampMs = TimestampMs(1_767_225_600_000);

/// What happens next.
#[derive(Debug)]
pub enum Next {
    /// An attempt of an activity is to run; its outcome is delivered to the instance.
    Task(Box<Call>),
    /// Nothing until the clock has moved on by so many milliseconds.
    Due(u64),
    /// Nothing by itself: what has not ended waits for an outcome or an event.
    Idle,
}

/// Why a test cannot go on.
#[derive(Debug, thiserror::Error)]
pub enum KitError {
    /// What is asked for does not exist.
    #[error(transparent)]
    Subject(#[from] SubjectError),
    /// There is no such instance.
    #[error("there is no instance {0:?}; start it first")]
    UnknownInstance(String),
    /// It has ended.
    #[error("{0} has ended; nothing comes in for it any more")]
    Ended(String),
    /// It calls what is not under test.
    #[error(transparent)]
    NotServed(#[from] NotServed),
    /// A history does not replay: it is the module's or the sandbox's fault.
    #[error(transparent)]
    Replay(#[from] ReplayError),
}

/// See the module's page.
#[derive(Debug)]
pub struct Kit {
    subjects: Subjects,
    clock: TimestampMs,
    running: Vec<Running>,
    /// Updates so far.
    updates: u32,
    /// What guests logged, in order.
    pub logs: Vec<(InstanceId, LogLine)>,
}

#[derive(Debug)]
struct Running {
    life: Life,
    guest: Option<Guest>,
    inbox: Vec<Inbound>,
    /// Attempts that somebody runs: execution, operation, attempt.
    given_out: BTreeSet<(u32, OperationId, u32)>,
}

impl Kit {
    /// Nothing runs, and it is new year.
    pub fn new(subject: Subject) -> Self {
        Self { subjects: Subjects::new(subject), clock: BEGIN, running: Vec::new(), updates: 0, logs: Vec::new() }
    }

    /// Another module, whose orchestrations are called by its name.
    pub fn module(&mut self, name: &str, subject: Subject) {
        self.subjects.add(name, subject);
    }

    /// Starts an instance.
    ///
    /// # Errors
    /// If the module has no such orchestration, or the id is taken or not valid.
    pub fn start(&mut self, id: &str, orchestration: &str, input: Payload) -> Result<(), KitError> {
        self.subjects.own().check(orchestration)?;
        let id = InstanceId::new(id).map_err(SubjectError::from)?;
        if self.running.iter().any(|running| *running.life.id() == id) {
            return Err(SubjectError::Twice(id).into());
        }
        let life = Life::start(&id, orchestration, self.subjects.own().module.hash, input, self.clock);
        self.running.push(Running::new(life));
        Ok(())
    }

    /// Something comes in for an instance; the next turn takes it. An outcome that
    /// nobody waits for any more is dropped there.
    ///
    /// # Errors
    /// If there is no such instance, or it has ended.
    pub fn deliver(&mut self, id: &str, inbound: Inbound) -> Result<(), KitError> {
        let running = self.find(id)?;
        if running.life.execution.end.is_some() && !matches!(inbound, Inbound::Outcome(..)) {
            return Err(KitError::Ended(id.to_owned()));
        }
        running.inbox.push(inbound);
        Ok(())
    }

    /// Runs the turns that can be run now; then what is next. What instances send to
    /// each other is there at once.
    ///
    /// # Errors
    /// If a history does not replay, or an instance calls what is not under test.
    pub fn go_on(&mut self) -> Result<Next, KitError> {
        while self.begin_called()? || self.run_turn()? {
            self.neighbours().check()?;
        }
        for running in &mut self.running {
            if let Some(call) = running.give_out(self.clock) {
                return Ok(Next::Task(Box::new(call)));
            }
        }
        let due = self.running.iter().filter_map(|running| running.life.due_after(self.clock)).min();
        Ok(due.map_or(Next::Idle, |due| Next::Due(due.since(self.clock))))
    }

    fn neighbours(&self) -> Neighbours<'_> {
        Neighbours::at(self.clock, self.running.iter().map(|running| &running.life))
    }

    /// The next instance that another one calls, if there is one.
    fn begin_called(&mut self) -> Result<bool, KitError> {
        let neighbours = self.neighbours();
        let Some(call) = neighbours.to_begin().into_iter().next() else { return Ok(false) };
        let life = neighbours.begin(&call, &self.subjects)?;
        // The one that had the id makes way.
        self.running.retain(|running| running.life.id() != life.id());
        self.running.push(Running::new(life));
        Ok(true)
    }

    /// The next turn that can be run, if there is one.
    fn run_turn(&mut self) -> Result<bool, KitError> {
        let neighbours = self.neighbours();
        let due = self.running.iter().enumerate().find_map(|(number, running)| {
            let news = neighbours.news(&running.life);
            let inbound = news.iter().flatten().filter_map(|news| neighbours.inbound(&running.life, news));
            let inbound: Vec<_> = inbound.collect();
            (running.has_turn(self.clock) || !inbound.is_empty()).then_some((number, inbound))
        });
        let Some((number, news)) = due else { return Ok(false) };
        let running = &mut self.running[number];
        let mut guest = match running.guest.take() {
            Some(guest) => guest,
            None => running.life.guest(&self.subjects.of(running.life.execution.module).module)?,
        };
        let inbox = std::mem::take(&mut running.inbox).into_iter().chain(news).collect();
        let carried = running.life.carry_on(&mut guest, self.clock, inbox, &|_| None);
        if !carried.spent {
            running.guest = Some(guest);
        }
        let id = running.life.id().clone();
        self.logs.extend(carried.logs.into_iter().map(|line| (id.clone(), line)));
        Ok(true)
    }

    /// Asks an instance's code for its state.
    ///
    /// # Errors
    /// If there is no such instance, or its history does not replay.
    pub fn query(&mut self, id: &str, name: &str, input: Payload) -> Result<Outcome, KitError> {
        let life = self.life(id)?.clone();
        Ok(life.query(&self.subjects.of(life.execution.module).module, name, input)?.0)
    }

    /// An update comes in; its number.
    ///
    /// # Errors
    /// If there is no such instance, or it has ended.
    pub fn update(&mut self, id: &str, name: &str, input: Payload) -> Result<u32, KitError> {
        let number = self.updates + 1;
        self.deliver(id, Inbound::Update(number.to_string(), name.to_owned(), input))?;
        self.updates = number;
        Ok(number)
    }

    /// What an update was answered with, once it was.
    ///
    /// # Errors
    /// If there is no such instance.
    pub fn answer(&mut self, id: &str, update: u32) -> Result<Option<Outcome>, KitError> {
        let requests = &self.find(id)?.life.execution.requests;
        Ok(match requests.known(&Source::Outside(update.to_string())) {
            Some(Known::Answered(answer)) => Some(answer.clone()),
            _ => None,
        })
    }

    /// Moves the clock on.
    pub fn advance(&mut self, ms: u64) {
        self.clock = self.clock.plus(ms);
    }

    /// The host dies and another one takes over: every guest is made again by
    /// replay, and attempts that were not answered are given out again.
    pub fn crash(&mut self) {
        for running in &mut self.running {
            running.guest = None;
            running.given_out.clear();
        }
    }

    /// Replays every history in a fresh guest.
    ///
    /// # Errors
    /// The first difference.
    pub fn check(&self) -> Result<(), KitError> {
        for running in &self.running {
            running.life.guest(&self.subjects.of(running.life.execution.module).module)?;
        }
        Ok(())
    }

    /// An instance's history and state.
    ///
    /// # Errors
    /// If there is no such instance.
    pub fn life(&mut self, id: &str) -> Result<&Life, KitError> {
        self.find(id).map(|running| &running.life)
    }

    /// What was started or called, in order.
    pub fn instances(&self) -> impl Iterator<Item = &str> {
        self.running.iter().map(|running| running.life.id().as_str())
    }

    /// What is tested.
    pub fn subject(&self) -> &Subject {
        self.subjects.own()
    }

    fn find(&mut self, id: &str) -> Result<&mut Running, KitError> {
        let found = self.running.iter_mut().find(|running| running.life.id().as_str() == id);
        found.ok_or_else(|| KitError::UnknownInstance(id.to_owned()))
    }
}

impl Running {
    fn new(life: Life) -> Self {
        Self { life, guest: None, inbox: Vec::new(), given_out: BTreeSet::new() }
    }

    fn has_turn(&self, now: TimestampMs) -> bool {
        self.life.execution.end.is_none() && (!self.inbox.is_empty() || self.life.has_turn(now))
    }

    /// The first attempt that runs and is given to nobody yet.
    fn give_out(&mut self, now: TimestampMs) -> Option<Call> {
        let execution = &self.life.execution;
        let number = execution.started.execution;
        for (operation, pending) in &execution.pending {
            let Pending::Activity { call, attempt, retry, .. } = pending else { continue };
            let waits = retry.as_deref().is_some_and(|(at, _)| *at > now);
            if waits || !self.given_out.insert((number, *operation, *attempt)) {
                continue;
            }
            return Some(Call {
                instance: self.life.id().clone(),
                execution: number,
                operation: *operation,
                attempt: *attempt,
                name: call.name.clone(),
                payload: call.input.clone(),
            });
        }
        None
    }
}
