//! A world and its steps: what can happen next, and what it then is.
//!
//! A [`State`] is cheap to copy: lives and model are shared until a step changes
//! them. Guests run in [`Turns`] only, which remembers each turn it has run.

use std::collections::{BTreeMap, HashMap};
use std::hash::Hasher;
use std::rc::Rc;
use std::sync::Arc;

use serde::Serialize;

use super::invariant::{caught, fault_of_history};
use super::{Call, Explorer, Model, Reductions, failure};
use crate::core::event::ActivityScheduled;
use crate::core::execution::{Execution, Pending};
use crate::core::ids::{Hash, InstanceId, OperationId, TimestampMs};
use crate::core::payload::{Outcome, shortened};
use crate::replay::life::{Inbound, Life};
use crate::replay::subject::SubjectError;

/// The day on which every exploration begins: 2026-01-01T00:00:00Z.
pub(super) const BEGIN: TimestampMs = TimestampMs(1_767_225_600_000);

/// An instance after one of its turns.
#[derive(Debug)]
pub(super) struct Turned {
    pub(super) life: Life,
    /// By which it is recognised.
    pub(super) key: Hash,
}

impl Turned {
    fn new(life: Life) -> Self {
        let mut turned = Self { key: life.execution.head, life };
        if let Some(end) = turned.end() {
            // Nothing of it can matter any more but what others see of it.
            let Execution { custom_status, tags, .. } = &turned.life.execution;
            turned.key = hash(&(turned.life.id(), end, custom_status, tags));
        }
        turned
    }
}

/// One attempt of one call: instance, execution, operation.
pub(super) type TaskKey = (usize, u32, OperationId);

#[derive(Clone, Debug, PartialEq)]
pub(super) struct Task {
    pub(super) call: Arc<ActivityScheduled>,
    pub(super) attempt: u32,
    /// What it brought; none: it has not taken effect.
    pub(super) outcome: Option<Outcome>,
    /// Nobody waits for it; it may take effect all the same.
    pub(super) orphan: bool,
}

/// A world. See the module's page.
#[derive(Clone, Debug)]
pub(super) struct State<M> {
    pub(super) clock: TimestampMs,
    pub(super) lives: Vec<Rc<Turned>>,
    pub(super) tasks: BTreeMap<TaskKey, Task>,
    /// Which inputs have come.
    pub(super) given: Vec<bool>,
    pub(super) failures_left: u32,
    pub(super) crashes_left: u32,
    pub(super) model: Rc<M>,
}

/// How an attempt goes.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum How {
    /// As the model says.
    Answers,
    /// It fails before it does anything.
    FailsBefore,
    /// It does everything, and its result is lost.
    FailsAfter,
}

/// One thing that an instance is told.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Item {
    Result(OperationId),
    Input(usize),
}

/// What can happen.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) enum Step {
    Effect(TaskKey, How),
    /// One turn of an instance with what it is told, and with the timers due.
    Turn(usize, Rc<[Item]>),
    Clock(TimestampMs),
    Crash,
}

impl<M: Model> State<M> {
    /// The world in which all instances have been started and nothing has run.
    pub(super) fn first(explorer: &Explorer<M>, model: M) -> Result<Self, SubjectError> {
        let mut lives: Vec<Rc<Turned>> = Vec::new();
        for (id, orchestration, input) in &explorer.instances {
            explorer.subject.check(orchestration)?;
            let id = InstanceId::new(id)?;
            if lives.iter().any(|other| *other.life.id() == id) {
                return Err(SubjectError::Twice(id));
            }
            let hash = explorer.subject.module.hash;
            lives.push(Rc::new(Turned::new(Life::start(&id, orchestration, hash, input.clone(), BEGIN))));
        }
        Ok(Self {
            clock: BEGIN,
            lives,
            tasks: BTreeMap::new(),
            given: vec![false; explorer.inputs.len()],
            failures_left: explorer.bounds.failures,
            crashes_left: explorer.bounds.crashes,
            model: Rc::new(model),
        })
    }

    pub(super) fn has_ended(&self) -> bool {
        self.lives.iter().all(|turned| turned.life.execution.end.is_some())
    }

    /// By which equal worlds are recognised.
    pub(super) fn key(&self) -> Hash {
        let mut hasher = KeyHasher(blake3::Hasher::new());
        hasher.write_u64(self.clock.0);
        self.lives.iter().for_each(|turned| hasher.write(&turned.key.0));
        for (key, task) in &self.tasks {
            // Of a call nobody waits for, its argument is in no life's key.
            let forgotten = task.orphan.then_some((&task.call.name, &task.call.input));
            hasher.write(&hash(&(key, task.attempt, &task.outcome, forgotten)).0);
        }
        self.given.iter().for_each(|given| hasher.write_u8(u8::from(*given)));
        hasher.write_u32(self.failures_left);
        hasher.write_u32(self.crashes_left);
        self.model.hash(&mut hasher);
        Hash(*hasher.0.finalize().as_bytes())
    }

    // ---- what can happen ----

    pub(super) fn steps(&self, explorer: &Explorer<M>) -> Vec<Step> {
        let mut steps = Vec::new();
        for instance in 0..self.lives.len() {
            self.turns_of(instance, explorer, &mut steps);
        }
        for (key, task) in &self.tasks {
            if task.outcome.is_some() {
                continue;
            }
            steps.push(Step::Effect(*key, How::Answers));
            if !task.orphan && self.failures_left > 0 {
                steps.push(Step::Effect(*key, How::FailsBefore));
                steps.push(Step::Effect(*key, How::FailsAfter));
            }
        }
        if !self.lives.iter().any(|turned| turned.life.has_turn(self.clock))
            && let Some(to) = self.lives.iter().filter_map(|turned| turned.life.due_after(self.clock)).min()
        {
            steps.push(Step::Clock(to));
        }
        if self.crashes_left > 0 && self.tasks.values().any(|task| task.outcome.is_some()) {
            steps.push(Step::Crash);
        }
        steps
    }

    /// What comes in is told alone, in every ordered pair, and all together in
    /// both orders.
    fn turns_of(&self, instance: usize, explorer: &Explorer<M>, steps: &mut Vec<Step>) {
        let life = &self.lives[instance].life;
        if life.execution.end.is_some() {
            return;
        }
        if life.has_turn(self.clock) {
            steps.push(Step::Turn(instance, [].into()));
        }
        let mut items: Vec<Item> = self
            .tasks
            .range((instance, 0, 0)..(instance + 1, 0, 0))
            .filter(|(_, task)| task.outcome.is_some())
            .map(|((.., operation), _)| Item::Result(*operation))
            .collect();
        items.extend(self.inputs_of(instance, explorer).map(Item::Input));
        for first in &items {
            steps.push(Step::Turn(instance, [*first].into()));
            for second in items.iter().filter(|second| *second != first) {
                steps.push(Step::Turn(instance, [*first, *second].into()));
            }
        }
        if items.len() > 2 {
            steps.push(Step::Turn(instance, items.as_slice().into()));
            steps.push(Step::Turn(instance, items.iter().rev().copied().collect()));
        }
    }

    /// Inputs that can come now: of those with the same name, the first.
    fn inputs_of<'a>(&'a self, instance: usize, explorer: &'a Explorer<M>) -> impl Iterator<Item = usize> + 'a {
        let id = self.lives[instance].life.id().as_str();
        let mine = move |number: &usize| !self.given[*number] && explorer.inputs[*number].0 == id;
        let name = |number: usize| match &explorer.inputs[number].1 {
            Inbound::Event(name, _) => Some(name.as_str()),
            _ => None,
        };
        (0..self.given.len()).filter(mine).filter(move |&number| {
            !(0..number).filter(mine).any(|earlier| name(earlier).is_some() && name(earlier) == name(number))
        })
    }

    // ---- what it then is ----

    /// The world after `step`, or what is wrong on the way to it.
    pub(super) fn after(&self, step: &Step, explorer: &Explorer<M>, turns: &mut Turns) -> Result<Self, String> {
        let mut next = self.clone();
        match step {
            Step::Effect(key, how) => next.take_effect(*key, *how, explorer)?,
            Step::Turn(instance, items) => next.run_turn(*instance, items, explorer, turns)?,
            Step::Clock(to) => {
                next.clock = *to;
                (0..next.lives.len()).for_each(|instance| next.follow(instance));
            }
            Step::Crash => {
                next.crashes_left -= 1;
                next.tasks.values_mut().for_each(|task| task.outcome = None);
            }
        }
        Ok(next)
    }

    fn take_effect(&mut self, key: TaskKey, how: How, explorer: &Explorer<M>) -> Result<(), String> {
        let task = &self.tasks[&key];
        let injected = |when: &str| Err(failure("Injected", format!("a failure {when} the effect")));
        let mut outcome = injected("before");
        if how != How::FailsBefore {
            let call = self.call(key, task);
            let Some(act) = explorer.activities.get(&call.name).or(explorer.any_activity.as_ref()) else {
                let known: Vec<_> = explorer.activities.keys().map(String::as_str).collect();
                return Err(format!("the model has no activity {:?}; it has {}", call.name, known.join(", ")));
            };
            let mut model = (*self.model).clone();
            outcome = caught(|| act(&mut model, &call)).map_err(|panic| format!("{}: {panic}", call.name))?;
            self.model = Rc::new(model);
        }
        if how != How::Answers {
            self.failures_left -= 1;
        }
        if how == How::FailsAfter {
            outcome = injected("after");
        }
        match self.tasks.get_mut(&key) {
            Some(task) if task.orphan => drop(self.tasks.remove(&key)),
            Some(task) => task.outcome = Some(outcome),
            None => {}
        }
        Ok(())
    }

    pub(super) fn call(&self, key: TaskKey, task: &Task) -> Call {
        Call {
            instance: self.lives[key.0].life.id().clone(),
            execution: key.1,
            operation: key.2,
            attempt: task.attempt,
            name: task.call.name.clone(),
            payload: task.call.input.clone(),
        }
    }

    fn run_turn(
        &mut self,
        instance: usize,
        items: &[Item],
        explorer: &Explorer<M>,
        turns: &mut Turns,
    ) -> Result<(), String> {
        let execution = self.lives[instance].life.execution.started.execution;
        let mut inbound = Vec::new();
        for item in items {
            inbound.push(match item {
                Item::Result(operation) => {
                    let task = self.tasks.remove(&(instance, execution, *operation)).expect("a step is of its world");
                    Inbound::Outcome(*operation, task.attempt, task.outcome.expect("a step is of its world"))
                }
                Item::Input(number) => {
                    self.given[*number] = true;
                    explorer.inputs[*number].1.clone()
                }
            });
        }
        self.lives[instance] = turns.run(&self.lives[instance], self.clock, inbound, explorer)?;
        self.follow(instance);
        Ok(())
    }

    /// Lets the tasks be what the instance waits for.
    fn follow(&mut self, instance: usize) {
        let turned = self.lives[instance].clone();
        let execution = &turned.life.execution;
        let number = execution.started.execution;
        let waits = |key: &TaskKey| key.1 == number && execution.pending.contains_key(&key.2);
        self.tasks.retain(|key, task| key.0 != instance || waits(key) || task.outcome.is_none());
        for (key, task) in self.tasks.range_mut((instance, 0, 0)..(instance + 1, 0, 0)) {
            task.orphan = !waits(key);
        }
        for (operation, pending) in &execution.pending {
            if let Pending::Activity { call, attempt, retry, .. } = pending
                && retry.as_ref().is_none_or(|(at, _)| *at <= self.clock)
            {
                let task = Task { call: call.clone(), attempt: *attempt, outcome: None, orphan: false };
                self.tasks.entry((instance, number, *operation)).or_insert(task);
            }
        }
    }

    /// Whether `one` and `other`, both possible here, lead to the same world in
    /// either order, and neither takes the other's possibility.
    pub(super) fn commute(&self, one: &Step, other: &Step) -> bool {
        match (one, other) {
            (Step::Turn(a, _), Step::Turn(b, _)) => a != b,
            // An effect changes the model and its own task. Of three results or
            // more, which are all there are, one more makes another turn.
            (Step::Turn(a, items), Step::Effect(key, _)) | (Step::Effect(key, _), Step::Turn(a, items)) => {
                *a != key.0 || items.len() <= 2
            }
            (Step::Clock(_), Step::Effect(..)) | (Step::Effect(..), Step::Clock(_)) => true,
            // Two effects may touch the same part of the model: they are tried.
            _ => false,
        }
    }

    // ---- for people ----

    /// One line: who, what.
    pub(super) fn describe(&self, step: &Step, after: Option<&Self>, explorer: &Explorer<M>) -> String {
        match step {
            Step::Effect(key, how) => {
                let task = &self.tasks[key];
                let did = match (how, after.and_then(|after| after.tasks.get(key)?.outcome.as_ref())) {
                    (How::FailsBefore, _) => "fails before it does anything (injected)".to_owned(),
                    (How::FailsAfter, _) => "does it, and its result is lost (injected)".to_owned(),
                    (_, Some(Ok(result))) => format!("does it: {}", shortened(&result.to_string(), 60)),
                    (_, Some(Err(why))) => format!("fails: {}", shortened(&why.to_string(), 60)),
                    (_, None) if task.orphan => "does it, and nobody waits for it".to_owned(),
                    (_, None) => "stops here".to_owned(),
                };
                let attempt = if task.attempt > 1 { format!(" attempt {}", task.attempt) } else { String::new() };
                format!("{}  {}{attempt} {did}", self.lives[key.0].life.id(), named(key.2, &task.call))
            }
            Step::Turn(instance, items) => {
                let life = &self.lives[*instance].life;
                let mut news: Vec<String> = items.iter().map(|item| self.news(*instance, *item, explorer)).collect();
                news.extend(life.execution.timers_due(self.clock).iter().map(|timer| timer.summary(40)));
                let news = if news.is_empty() { "begins".to_owned() } else { format!("is told {}", news.join(", ")) };
                let end = after.and_then(|after| after.lives[*instance].end());
                let end = match end {
                    Some(Ok(output)) => format!(" and returns {}", shortened(&output.to_string(), 60)),
                    Some(Err(why)) => format!(" and fails: {}", shortened(&why.to_string(), 80)),
                    None => String::new(),
                };
                format!("{}  {news}{end}", life.id())
            }
            Step::Clock(to) => format!("clock  moves to {to}"),
            Step::Crash => {
                let done = self.tasks.iter().filter(|(_, task)| task.outcome.is_some());
                let again =
                    done.map(|(key, task)| format!("{} {}", self.lives[key.0].life.id(), named(key.2, &task.call)));
                format!(
                    "host  crashes; what it had not recorded is run again: {}",
                    again.collect::<Vec<_>>().join(", ")
                )
            }
        }
    }

    fn news(&self, instance: usize, item: Item, explorer: &Explorer<M>) -> String {
        match item {
            Item::Result(operation) => {
                let number = self.lives[instance].life.execution.started.execution;
                let outcome = self.tasks.get(&(instance, number, operation)).and_then(|task| task.outcome.as_ref());
                match outcome {
                    Some(Err(_)) => format!("#{operation} failed"),
                    _ => format!("#{operation} returned"),
                }
            }
            Item::Input(number) => match &explorer.inputs[number].1 {
                Inbound::Event(name, value) => format!("event {name:?} with {}", shortened(&value.to_string(), 40)),
                _ => "to end".to_owned(),
            },
        }
    }
}

fn named(operation: OperationId, call: &ActivityScheduled) -> String {
    format!("#{operation} {}({})", call.name, shortened(&call.input.to_string(), 40))
}

/// Runs guests. A turn depends on the history before it and on what it is told.
pub(super) struct Turns {
    remembered: HashMap<Hash, Rc<Turned>>,
    reductions: Reductions,
    /// Turns that guests ran.
    pub(super) run: u64,
    /// Turns that were known.
    pub(super) known: u64,
}

impl Turns {
    pub(super) fn new(reductions: Reductions) -> Self {
        Self { remembered: HashMap::new(), reductions, run: 0, known: 0 }
    }

    fn run<M: Model>(
        &mut self,
        before: &Turned,
        at: TimestampMs,
        inbound: Vec<Inbound>,
        explorer: &Explorer<M>,
    ) -> Result<Rc<Turned>, String> {
        let key = hash(&(before.life.execution.head, at, &inbound));
        if let Some(turned) = self.remembered.get(&key) {
            self.known += 1;
            return Ok(turned.clone());
        }
        self.run += 1;
        let mut life = before.life.clone();
        let mut guest = life.guest(&explorer.subject.module).map_err(|error| error.to_string())?;
        let default_retry = |name: &str| explorer.default_retry.get(name).cloned();
        life.carry_on(&mut guest, at, inbound, &default_retry).map_err(|error| error.to_string())?;
        let turned = Rc::new(Turned::new(life));
        if let Some(fault) = fault_of_history(explorer, &turned) {
            return Err(fault);
        }
        if self.reductions.remember_turns {
            self.remembered.insert(key, turned.clone());
        }
        Ok(turned)
    }
}

/// The hash of what postcard writes of `value`.
fn hash(value: &impl Serialize) -> Hash {
    Hash::of(&postcard::to_stdvec(value).expect("no part of it is one that postcard cannot write"))
}

/// A strong hash for keys: two different worlds must not be taken for one.
struct KeyHasher(blake3::Hasher);

impl Hasher for KeyHasher {
    fn write(&mut self, bytes: &[u8]) {
        self.0.update(bytes);
    }

    fn finish(&self) -> u64 {
        u64::from_le_bytes(self.0.finalize().as_bytes()[..8].try_into().expect("a hash has 32 bytes"))
    }
}
