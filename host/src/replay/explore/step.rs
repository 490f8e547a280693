//! One step from a world to the next.

use std::rc::Rc;

use super::invariant::caught;
use super::turns::{Turned, Turns};
use super::world::{Number, State, Task, TaskKey, deadline_of};
use super::{Call, Explorer, Model, failure};
use crate::core::calls;
use crate::core::execution::Pending;
use crate::core::ids::{InstanceId, TimestampMs};
use crate::replay::life::Inbound;
use crate::replay::neighbours::News;

/// How an attempt goes.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum How {
    /// As the model says.
    Answers,
    /// It fails before it does anything.
    FailsBefore,
    /// It does everything, and its result is lost.
    FailsAfter,
    /// It takes too long: its caller is told so, and it may yet take effect.
    Expires,
}

/// One thing that an instance is told.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) enum Item {
    Result(TaskKey),
    Input(usize),
    News(News),
}

/// What can happen.
#[derive(Clone, Debug, PartialEq)]
pub(super) enum Step {
    Effect(TaskKey, How),
    /// One turn of an instance with what it is told, and with the timers due.
    Turn(Number, Rc<[Item]>),
    /// An instance that another one calls is there.
    Begin(Box<calls::Call>),
    Clock(TimestampMs),
    /// The host dies, and is there again at that time.
    Crash(TimestampMs),
}

impl<M: Model> State<M> {
    /// The world after `step`, or what is wrong on the way to it.
    pub(super) fn after(&self, step: &Step, explorer: &Explorer<M>, turns: &mut Turns) -> Result<Self, String> {
        let mut next = self.clone();
        match step {
            Step::Effect(key, how) => next.take_effect(*key, *how, explorer)?,
            Step::Turn(instance, items) => next.run_turn(*instance, items, explorer, turns)?,
            Step::Begin(call) => next.begin(call, explorer, turns)?,
            Step::Clock(to) => next.move_clock(*to),
            Step::Crash(to) => {
                next.crashes_left -= 1;
                for task in next.tasks.values_mut().filter(|task| task.outcome.is_some()) {
                    (task.outcome, task.acting) = (None, true);
                }
                next.move_clock(*to);
            }
        }
        Ok(next)
    }

    fn move_clock(&mut self, to: TimestampMs) {
        self.clock = to;
        let all: Vec<Number> = self.lives.keys().copied().collect();
        all.into_iter().for_each(|instance| self.follow(instance));
    }

    fn take_effect(&mut self, key: TaskKey, how: How, explorer: &Explorer<M>) -> Result<(), String> {
        let task = &self.tasks[&key];
        let injected = |when: &str| Err(failure("Injected", format!("a failure {when} the effect")));
        let mut outcome = match (how, &task.deadline) {
            (How::Expires, Some((_, expired))) => Err(expired.clone()),
            _ => injected("before"),
        };
        if matches!(how, How::Answers | How::FailsAfter) {
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
        let Some(task) = self.tasks.get_mut(&key) else { return Ok(()) };
        task.acting = how == How::Expires;
        // What an expired attempt brings later, nobody hears.
        task.outcome.get_or_insert(outcome);
        if task.orphan {
            self.tasks.remove(&key);
        }
        Ok(())
    }

    pub(super) fn call(&self, key: TaskKey, task: &Task) -> Call {
        Call {
            instance: self.lives[&key.instance].life.id().clone(),
            execution: key.execution,
            operation: key.operation,
            attempt: key.attempt,
            name: task.call.name.clone(),
            payload: task.call.input.clone(),
        }
    }

    fn run_turn(
        &mut self,
        instance: Number,
        items: &[Item],
        explorer: &Explorer<M>,
        turns: &mut Turns,
    ) -> Result<(), String> {
        let mut inbound = Vec::new();
        for item in items {
            inbound.push(match item {
                Item::Result(key) => {
                    let task = self.tasks.get_mut(key).expect("a step is of its world");
                    let outcome = task.outcome.take().expect("a step is of its world");
                    if !task.acting {
                        self.tasks.remove(key);
                    }
                    Inbound::Outcome(key.operation, key.attempt, outcome)
                }
                Item::Input(number) => {
                    self.given[*number] = true;
                    explorer.inputs[*number].1.clone()
                }
                Item::News(news) => {
                    let inbound = self.neighbours().inbound(&self.lives[&instance].life, news);
                    inbound.expect("a step is of its world")
                }
            });
        }
        let turned = turns.run(&self.lives[&instance], self.clock, inbound, explorer)?;
        self.lives.insert(instance, turned);
        self.follow(instance);
        self.neighbours().check().map_err(|error| error.to_string())
    }

    fn begin(&mut self, call: &calls::Call, explorer: &Explorer<M>, turns: &mut Turns) -> Result<(), String> {
        let life = self.neighbours().begin(call, &explorer.subjects).map_err(|error| error.to_string())?;
        let instance = turns.number_of(life.id());
        self.lives.insert(instance, Rc::new(Turned::new(life, explorer)));
        self.follow(instance);
        Ok(())
    }

    /// Lets the tasks be what the instance waits for.
    fn follow(&mut self, instance: Number) {
        let turned = self.lives[&instance].clone();
        let execution = &turned.life.execution;
        let number = execution.started.execution;
        let waits = |key: &TaskKey| {
            let pending = execution.pending.get(&key.operation).filter(|_| key.execution == number);
            matches!(pending, Some(Pending::Activity { attempt, .. }) if *attempt == key.attempt)
        };
        self.tasks.retain(|key, task| key.instance != instance || waits(key) || task.acting);
        for (key, task) in self.tasks.iter_mut().filter(|(key, _)| key.instance == instance) {
            task.orphan = !waits(key);
            if task.orphan {
                task.outcome = None;
            }
        }
        for (operation, pending) in &execution.pending {
            if let Pending::Activity { call, attempt, retry, scheduled_at, .. } = pending
                && retry.as_deref().is_none_or(|(at, _)| *at <= self.clock)
            {
                let begun = retry.as_deref().map_or(*scheduled_at, |(at, _)| *at);
                let deadline = deadline_of(call, *scheduled_at, begun, *attempt);
                let task = Task { call: call.clone(), deadline, outcome: None, acting: true, orphan: false };
                let key = TaskKey { instance, execution: number, operation: *operation, attempt: *attempt };
                self.tasks.entry(key).or_insert(task);
            }
        }
    }

    /// Whether `one` and `other`, both possible here, lead to the same world in
    /// either order. That neither takes the other's possibility is seen where both
    /// orders are looked up.
    pub(super) fn commute(&self, one: &Step, other: &Step) -> bool {
        let id = |instance: &Number| self.lives[instance].life.id();
        match (one, other) {
            // What one is told of the other may be another thing after its turn.
            (Step::Turn(a, of_a), Step::Turn(b, of_b)) => {
                a != b && !is_told_of(of_a, id(b)) && !is_told_of(of_b, id(a))
            }
            // An effect changes the model and its own task. Of three results or
            // more, which are all there are, one more makes another turn.
            (Step::Turn(a, items), Step::Effect(key, _)) | (Step::Effect(key, _), Step::Turn(a, items)) => {
                *a != key.instance || items.len() <= 2
            }
            (Step::Clock(_) | Step::Begin(_), Step::Effect(..))
            | (Step::Effect(..), Step::Clock(_) | Step::Begin(_)) => true,
            (Step::Begin(call), Step::Turn(a, items)) | (Step::Turn(a, items), Step::Begin(call)) => {
                let called = called(call);
                *id(a) != called && !is_told_of(items, &called)
            }
            (Step::Begin(a), Step::Begin(b)) => called(a) != called(b),
            // Two effects may touch the same part of the model: they are tried.
            _ => false,
        }
    }
}

pub(super) fn called(call: &calls::Call) -> InstanceId {
    call.scheduled.called(call.caller.attempt)
}

fn is_told_of(items: &[Item], id: &InstanceId) -> bool {
    items.iter().any(|item| matches!(item, Item::News(news) if news.of == *id))
}
