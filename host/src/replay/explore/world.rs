//! A world, and what can happen in it next.
//!
//! A [`State`] is cheap to copy: lives and model are shared until a step changes
//! them. What a step does is in [`step`](super::step), guests run in
//! [`turns`](super::turns).

use std::collections::{BTreeMap, BTreeSet};
use std::hash::Hasher;
use std::rc::Rc;
use std::sync::Arc;

use super::step::{How, Item, Step};
use super::turns::{Turned, Turns, hash};
use super::{Explorer, Model};
use crate::core::event::ActivityScheduled;
use crate::core::ids::{ExecutionNumber, Hash, InstanceId, OperationId, TimestampMs};
use crate::core::payload::{Failure, FailureKind, Outcome};
use crate::replay::life::{Inbound, Life};
use crate::replay::neighbours::Neighbours;
use crate::replay::subject::SubjectError;

/// The day on which every exploration begins: 2026-01-01T00:00:00Z.
pub(super) const BEGIN: TimestampMs = TimestampMs(1_767_225_600_000);

/// An instance: those that are given come first, in their order, then those that
/// are called, in the order in which the exploration met them.
pub(super) type Number = usize;

/// One attempt of one call.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, serde::Serialize)]
pub(super) struct TaskKey {
    pub(super) instance: Number,
    pub(super) execution: ExecutionNumber,
    pub(super) operation: OperationId,
    pub(super) attempt: u32,
}

#[derive(Clone, Debug, PartialEq)]
pub(super) struct Task {
    pub(super) call: Arc<ActivityScheduled>,
    /// When it is given up, if it has a bound, and what its caller is told then.
    pub(super) deadline: Option<(TimestampMs, Failure)>,
    /// What its caller is to be told; none: nothing yet.
    pub(super) outcome: Option<Outcome>,
    /// It may still take effect.
    pub(super) acting: bool,
    /// Nobody waits for it; it may take effect all the same.
    pub(super) orphan: bool,
}

/// A world. See the module's page.
#[derive(Clone, Debug)]
pub(super) struct State<M> {
    pub(super) clock: TimestampMs,
    pub(super) lives: BTreeMap<Number, Rc<Turned>>,
    pub(super) tasks: BTreeMap<TaskKey, Task>,
    /// Which inputs have come.
    pub(super) given: Vec<bool>,
    pub(super) failures_left: u32,
    pub(super) crashes_left: u32,
    pub(super) model: Rc<M>,
}

impl<M: Model> State<M> {
    /// The world in which all instances have been started and nothing has run.
    pub(super) fn first(explorer: &Explorer<M>, turns: &mut Turns, model: M) -> Result<Self, SubjectError> {
        let mut lives = BTreeMap::new();
        for (id, orchestration, input) in &explorer.instances {
            explorer.subjects.own().check(orchestration)?;
            let id = InstanceId::new(id)?;
            let hash = explorer.subjects.own().module.hash;
            let life = Life::start(&id, orchestration, hash, input.clone(), BEGIN);
            if lives.insert(turns.number_of(&id), Rc::new(Turned::new(life, explorer))).is_some() {
                return Err(SubjectError::Twice(id));
            }
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
        self.lives.values().all(|turned| turned.life.execution.end.is_some())
    }

    pub(super) fn neighbours(&self) -> Neighbours<'_> {
        Neighbours::at(self.clock, self.lives.values().map(|turned| &turned.life))
    }

    /// By which equal worlds are recognised.
    pub(super) fn key(&self) -> Hash {
        let mut hasher = KeyHasher(blake3::Hasher::new());
        hasher.write_u64(self.clock.0);
        self.lives.values().for_each(|turned| hasher.write(&turned.key.0));
        for (key, task) in &self.tasks {
            // Of a call nobody waits for, its argument is in no life's key.
            let forgotten = task.orphan.then_some((&task.call.name, &task.call.input));
            hasher.write(&hash(&(key, task.acting, &task.outcome, forgotten)).0);
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
        for instance in self.lives.keys() {
            self.turns_of(*instance, explorer, &mut steps);
        }
        for call in self.neighbours().to_begin() {
            steps.push(Step::Begin(Box::new(call)));
        }
        for (key, task) in &self.tasks {
            self.effects_of(*key, task, &mut steps);
        }
        self.times(&mut steps);
        steps
    }

    /// What comes in is told alone, any two in both orders, any three of three in
    /// every order, and all together in both orders. What is in one stream comes in
    /// its order.
    fn turns_of(&self, instance: Number, explorer: &Explorer<M>, steps: &mut Vec<Step>) {
        let life = &self.lives[&instance].life;
        if life.execution.end.is_some() {
            return;
        }
        if life.has_turn(self.clock) {
            steps.push(Step::Turn(instance, [].into()));
        }
        let mut streams: Vec<Vec<Item>> = Vec::new();
        let waited_for = |(key, task): (&TaskKey, &Task)| {
            let told = key.instance == instance && task.outcome.is_some() && !task.orphan;
            told.then(|| vec![Item::Result(*key)])
        };
        streams.extend(self.tasks.iter().filter_map(waited_for));
        streams.extend(self.inputs_of(instance, explorer));
        let news = self.neighbours().news(life);
        streams.extend(news.into_iter().map(|stream| stream.into_iter().map(Item::News).collect()));
        steps.extend(arrangements(&streams).into_iter().map(|items| Step::Turn(instance, items)));
    }

    /// Inputs that have not come, in streams: those of one name come in their order.
    fn inputs_of(&self, instance: Number, explorer: &Explorer<M>) -> Vec<Vec<Item>> {
        let id = self.lives[&instance].life.id().as_str();
        let mut streams: Vec<(Option<&str>, Vec<Item>)> = Vec::new();
        for number in (0..self.given.len()).filter(|number| !self.given[*number]) {
            let (of, input) = &explorer.inputs[number];
            if of != id {
                continue;
            }
            let name = match input {
                Inbound::Event(name, _) => Some(name.as_str()),
                _ => None,
            };
            match streams.iter_mut().find(|(other, _)| name.is_some() && *other == name) {
                Some((_, stream)) => stream.push(Item::Input(number)),
                None => streams.push((name, vec![Item::Input(number)])),
            }
        }
        streams.into_iter().map(|(_, stream)| stream).collect()
    }

    fn effects_of(&self, key: TaskKey, task: &Task, steps: &mut Vec<Step>) {
        if !task.acting {
            return;
        }
        steps.push(Step::Effect(key, How::Answers));
        if task.orphan || task.outcome.is_some() || self.failures_left == 0 {
            return;
        }
        steps.push(Step::Effect(key, How::FailsBefore));
        steps.push(Step::Effect(key, How::FailsAfter));
        if self.is_late(task) {
            steps.push(Step::Effect(key, How::Expires));
        }
    }

    fn is_late(&self, task: &Task) -> bool {
        task.deadline.as_ref().is_some_and(|(at, _)| *at <= self.clock)
    }

    /// The clock moves, once all that is due now is done; a host that is down knows
    /// no such order.
    fn times(&self, steps: &mut Vec<Step>) {
        let open = |task: &&Task| task.acting && task.outcome.is_none() && !task.orphan;
        let lives = self.lives.values().flat_map(|turned| turned.life.dues_after(self.clock));
        // Without failures left, an attempt ends in time.
        let deadlines = self.tasks.values().filter(open).filter_map(|task| task.deadline.as_ref());
        let dues: BTreeSet<_> = lives.chain(deadlines.map(|(at, _)| *at)).filter(|at| *at > self.clock).collect();
        let busy = self.lives.values().any(|turned| turned.life.has_turn(self.clock))
            || self.tasks.values().filter(open).any(|task| self.is_late(task));
        let must_answer = |to: TimestampMs| {
            let by = |task: &Task| task.deadline.as_ref().is_some_and(|(at, _)| *at <= to);
            self.failures_left == 0 && self.tasks.values().filter(open).any(by)
        };
        if let Some(to) = dues.first().filter(|to| !busy && !must_answer(**to)) {
            steps.push(Step::Clock(*to));
        }
        if self.crashes_left > 0 {
            let loses = self.tasks.values().any(|task| task.outcome.is_some() && !task.orphan);
            steps.extend(loses.then_some(Step::Crash(self.clock)));
            steps.extend(dues.iter().skip(1).map(|to| Step::Crash(*to)));
        }
    }
}

/// What an expired attempt's caller is told, and when.
pub(super) fn deadline_of(
    call: &ActivityScheduled,
    scheduled: TimestampMs,
    begun: TimestampMs,
    attempt: u32,
) -> Option<(TimestampMs, Failure)> {
    let options = &call.options;
    let by = |which: &str, from: TimestampMs, ms: Option<u64>, last: bool| {
        let (name, ms) = (&call.name, ms?);
        let message = format!("attempt {attempt} of {name} did not end within {ms} ms ({which})");
        let failure = Failure::retryable(FailureKind::TimedOut, message);
        Some((from.plus(ms), Failure { error_type: which.to_owned(), non_retryable: last, ..failure }))
    };
    let all = [
        by("start-to-close", begun, options.start_to_close_ms, false),
        by("heartbeat", begun, options.heartbeat_ms, false),
        by("schedule-to-start", begun, options.schedule_to_start_ms, true),
        by("schedule-to-close", scheduled, options.schedule_to_close_ms, true),
    ];
    all.into_iter().flatten().min_by_key(|(at, _)| *at)
}

/// The ways in which what is in `streams` can come in one turn.
fn arrangements(streams: &[Vec<Item>]) -> Vec<Rc<[Item]>> {
    let all: Vec<(usize, usize)> =
        streams.iter().enumerate().flat_map(|(number, stream)| (0..stream.len()).map(move |at| (number, at))).collect();
    // Each item, once all before it in its stream are taken.
    let follows = |taken: &[(usize, usize)], next: (usize, usize)| {
        !taken.contains(&next) && taken.iter().filter(|(stream, _)| *stream == next.0).count() == next.1
    };
    let longest = if all.len() == 3 { 3 } else { 2 };
    let mut found: Vec<Vec<(usize, usize)>> = Vec::new();
    let mut ends = vec![Vec::new()];
    for _ in 0..longest {
        let longer = |taken: &Vec<(usize, usize)>| {
            let next = all.iter().filter(|next| follows(taken, **next));
            next.map(|next| [&taken[..], &[*next]].concat()).collect::<Vec<_>>()
        };
        ends = ends.iter().flat_map(longer).collect();
        found.extend(ends.iter().cloned());
    }
    if all.len() > 3 {
        let backwards =
            (0..streams.len()).rev().flat_map(|stream| (0..streams[stream].len()).map(move |at| (stream, at)));
        let backwards: Vec<_> = backwards.collect();
        found.push(all.clone());
        if streams.len() > 1 {
            found.push(backwards);
        }
    }
    found.iter().map(|taken| taken.iter().map(|(stream, at)| streams[*stream][*at].clone()).collect()).collect()
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

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_is_in_one_stream_keeps_its_order_in_every_arrangement() {
        let stream = |numbers: &[usize]| numbers.iter().map(|number| Item::Input(*number)).collect::<Vec<_>>();
        let arranged = |streams: &[Vec<Item>]| -> Vec<Vec<usize>> {
            let number = |item: &Item| match item {
                Item::Input(number) => *number,
                other => panic!("{other:?}"),
            };
            arrangements(streams).iter().map(|items| items.iter().map(number).collect()).collect()
        };
        assert_eq!(arranged(&[stream(&[1])]), [vec![1]]);
        assert_eq!(arranged(&[stream(&[1, 2])]), [vec![1], vec![1, 2]]);
        assert_eq!(arranged(&[stream(&[1]), stream(&[2])]), [vec![1], vec![2], vec![1, 2], vec![2, 1]]);
        assert_eq!(arranged(&[stream(&[1]), stream(&[2]), stream(&[3])]).len(), 3 + 6 + 6);
        // Of four: each alone, any two, all of them forward and back.
        let four = arranged(&[stream(&[1]), stream(&[2, 3]), stream(&[4])]);
        assert_eq!(four.len(), 3 + 7 + 2);
        assert!(
            four.contains(&vec![4, 2, 3, 1])
                && four.iter().all(|items| {
                    let at = |wanted: usize| items.iter().position(|number| *number == wanted);
                    at(3).is_none_or(|three| at(2).is_some_and(|two| two < three))
                })
        );
    }
}
