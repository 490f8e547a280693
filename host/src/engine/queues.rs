//! What waits to be run, and who is next: queues by name, with limits, priorities
//! and fairness. A plain structure; [`super::activities`] locks it and acts on it.
//!
//! Within a queue a higher priority goes first. Among equals each fairness key has
//! its own virtual time: a task is stamped with the time at which its key would
//! get its turn if all keys were served evenly (by weight, where one is set), and
//! the earliest stamp goes first. So a key that floods a queue waits behind
//! itself, and one that comes rarely is served at once. Tasks without a key share
//! one. Tasks of a name that nobody serves, or whose limit is reached, are passed
//! over without being looked at one by one.
//!
//! A queue has no bound of its own: what waits in it is pending in histories.

use std::cmp::Reverse;
use std::collections::{BTreeMap, HashMap, VecDeque};
use std::sync::Arc;

use serde::{Deserialize, Serialize};

use crate::core::ids::TimestampMs;
use crate::core::task::{DEFAULT_QUEUE, Task};

/// At most so many starts in any such time, all at once if they come at once.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Rate {
    /// Starts, at least 1.
    pub tasks: u32,
    /// In so many milliseconds, at least 1.
    pub per_ms: u64,
}

/// Bounds on an activity, wherever it is queued. None: without.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields, default)]
pub struct TaskLimits {
    /// Tasks that run at the same time, here and at remote workers together.
    pub concurrency: Option<usize>,
    /// How fast tasks start.
    pub rate: Option<Rate>,
}

/// How a queue works.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields, default)]
pub struct QueueSettings {
    /// Tasks that run at the same time, here and at remote workers together.
    pub concurrency: Option<usize>,
    /// How fast tasks start.
    pub rate: Option<Rate>,
    /// Only remote workers serve it, whatever the host has.
    pub remote_only: bool,
    /// The share of a fairness key; one that is not named has 1.
    pub weights: BTreeMap<String, u32>,
}

/// All queues.
#[derive(Default)]
pub(super) struct Queues {
    queues: BTreeMap<Arc<str>, Queue>,
    /// Activities with bounds of their own.
    limited: HashMap<String, Counter>,
    /// Tasks that wait, those that nobody wants any more included.
    waiting: usize,
    sequence: u64,
    /// The queue that was served last: the next one is served next.
    served_last: Option<Arc<str>>,
}

#[derive(Default)]
struct Queue {
    settings: QueueSettings,
    is_configured: bool,
    counter: Counter,
    lanes: BTreeMap<Box<str>, Lane>,
    keys: HashMap<String, Key>,
    /// The stamp of the task that was taken last.
    time: u64,
    waiting: usize,
}

/// Tasks of one name in one queue.
#[derive(Default)]
struct Lane {
    /// Without key and priority: their stamps come in order.
    plain: VecDeque<(u64, u64, Arc<Task>)>,
    ranked: BTreeMap<Rank, Arc<Task>>,
}

/// Who goes first: priority, then stamp, then order of arrival.
type Rank = (Reverse<i32>, u64, u64);

#[derive(Default)]
struct Key {
    stamp: u64,
    waiting: usize,
}

/// What runs against what may.
#[derive(Default)]
struct Counter {
    limits: TaskLimits,
    running: usize,
    bucket: Bucket,
}

/// What a rate has let through lately: it holds as many starts as the rate allows in its time.
#[derive(Default)]
pub(super) struct Bucket {
    /// When it is full again, in thousandths of milliseconds.
    full_at: u128,
}

/// The virtual time that one task of a key with weight 1 takes.
const STEP: u64 = 1 << 16;

/// Empty lanes are kept, so that a name that comes and goes costs nothing; but
/// names are the guests' to choose.
const EMPTY_LANES: usize = 256;

impl Queues {
    pub(super) fn new(queues: &BTreeMap<String, QueueSettings>, activities: &BTreeMap<String, TaskLimits>) -> Self {
        let queue = |settings: &QueueSettings| Queue {
            settings: settings.clone(),
            is_configured: true,
            counter: Counter::new(TaskLimits { concurrency: settings.concurrency, rate: settings.rate }),
            ..Queue::default()
        };
        let mut all: BTreeMap<Arc<str>, Queue> = queues.iter().map(|(n, s)| (n.as_str().into(), queue(s))).collect();
        all.entry(DEFAULT_QUEUE.into()).or_insert_with(|| queue(&QueueSettings::default()));
        let limited = activities.iter().map(|(name, limits)| (name.clone(), Counter::new(limits.clone()))).collect();
        Self { queues: all, limited, ..Self::default() }
    }

    /// Whether nothing waits anywhere.
    pub(super) fn is_empty(&self) -> bool {
        self.waiting == 0
    }

    /// Takes a slot for a task that did not wait. False: it has to.
    pub(super) fn admit(&mut self, task: &Task, now: TimestampMs) -> bool {
        let queue = queue_of(&mut self.queues, task.queue());
        if !queue.counter.is_free(now) {
            return false;
        }
        if let Some(activity) = self.limited.get_mut(&task.name) {
            if !activity.is_free(now) {
                return false;
            }
            activity.take(now);
        }
        queue.counter.take(now);
        true
    }

    /// Puts a task in its queue.
    pub(super) fn push(&mut self, task: Arc<Task>) {
        self.sequence += 1;
        self.waiting += 1;
        let queue = queue_of(&mut self.queues, task.queue());
        queue.push(task, self.sequence);
    }

    /// The next task of any queue that the host's own activities serve, and a slot
    /// for it. Queues take turns.
    pub(super) fn take_here(
        &mut self,
        now: TimestampMs,
        is_served: impl Fn(&str) -> bool,
        is_wanted: impl Fn(&Task) -> bool,
    ) -> Option<Arc<Task>> {
        if self.waiting == 0 {
            return None;
        }
        let waits = |queue: &Queue| queue.waiting > 0 && !queue.settings.remote_only;
        let mut names: Vec<Arc<str>> =
            self.queues.iter().filter(|(_, queue)| waits(queue)).map(|(name, _)| name.clone()).collect();
        if let Some(last) = &self.served_last {
            let next = names.partition_point(|name| name <= last);
            names.rotate_left(next);
        }
        for name in names {
            if let Some(task) = self.take(&name, now, &is_served, &is_wanted) {
                self.served_last = Some(name);
                return Some(task);
            }
        }
        None
    }

    /// The next task of a queue, and a slot for it.
    pub(super) fn take(
        &mut self,
        name: &str,
        now: TimestampMs,
        is_served: impl Fn(&str) -> bool,
        is_wanted: impl Fn(&Task) -> bool,
    ) -> Option<Arc<Task>> {
        let queue = self.queues.get_mut(name)?;
        let before = queue.waiting;
        let task = queue.take(now, &mut self.limited, is_served, is_wanted);
        self.waiting -= before - queue.waiting;
        self.drop_if_idle(name);
        task
    }

    /// A task that had a slot has none any more.
    pub(super) fn release(&mut self, task: &Task) {
        if let Some(queue) = self.queues.get_mut(task.queue()) {
            queue.counter.running = queue.counter.running.saturating_sub(1);
        }
        if let Some(activity) = self.limited.get_mut(&task.name) {
            activity.running = activity.running.saturating_sub(1);
        }
        self.drop_if_idle(task.queue());
    }

    /// When a rate next lets something start that waits, if one holds it up.
    pub(super) fn next_start(&self, now: TimestampMs) -> Option<TimestampMs> {
        let of_queues = self.queues.values().filter(|queue| queue.waiting > 0).map(|queue| &queue.counter);
        let held_up = of_queues.chain(self.limited.values()).filter_map(|counter| counter.next_start(now));
        if self.waiting == 0 { None } else { held_up.min() }
    }

    /// Bounds and load of each queue, by name.
    pub(super) fn load(&self) -> impl Iterator<Item = (&str, &QueueSettings, usize)> {
        self.queues.iter().map(|(name, queue)| (&**name, &queue.settings, queue.counter.running))
    }

    /// Guests choose names, so what is not in use is forgotten.
    fn drop_if_idle(&mut self, name: &str) {
        let is_idle = |queue: &Queue| !queue.is_configured && queue.waiting == 0 && queue.counter.running == 0;
        if name != DEFAULT_QUEUE && self.queues.get(name).is_some_and(is_idle) {
            self.queues.remove(name);
        }
    }
}

fn queue_of<'a>(queues: &'a mut BTreeMap<Arc<str>, Queue>, name: &str) -> &'a mut Queue {
    if !queues.contains_key(name) {
        queues.insert(name.into(), Queue::default());
    }
    queues.get_mut(name).expect("it was put there")
}

impl Queue {
    fn push(&mut self, task: Arc<Task>, sequence: u64) {
        self.waiting += 1;
        let key = task.options.fairness_key.as_deref().unwrap_or_default();
        let stamp = self.stamp(key);
        if !self.lanes.contains_key(&*task.name) {
            self.lanes.insert(task.name.as_str().into(), Lane::default());
        }
        let lane = self.lanes.get_mut(&*task.name).expect("it was put there");
        let priority = task.options.priority;
        if priority == 0 && key.is_empty() {
            lane.plain.push_back((stamp, sequence, task));
        } else {
            lane.ranked.insert((Reverse(priority), stamp, sequence), task);
        }
    }

    fn stamp(&mut self, name: &str) -> u64 {
        let weight = self.settings.weights.get(name).copied().unwrap_or(1).clamp(1, 1000);
        if !self.keys.contains_key(name) {
            self.keys.insert(name.to_owned(), Key::default());
        }
        let key = self.keys.get_mut(name).expect("it was put there");
        key.waiting += 1;
        key.stamp = key.stamp.max(self.time) + STEP / u64::from(weight);
        key.stamp
    }

    fn take(
        &mut self,
        now: TimestampMs,
        limited: &mut HashMap<String, Counter>,
        is_served: impl Fn(&str) -> bool,
        is_wanted: impl Fn(&Task) -> bool,
    ) -> Option<Arc<Task>> {
        if self.waiting == 0 || !self.counter.is_free(now) {
            return None;
        }
        let mut best: Option<(Rank, &Box<str>)> = None;
        let mut dropped = Vec::new();
        for (name, lane) in &mut self.lanes {
            lane.prune(&is_wanted, &mut dropped);
            let Some(rank) = lane.first() else { continue };
            let is_free = limited.get(&**name).is_none_or(|activity| activity.is_free(now));
            if is_free && is_served(name) && best.as_ref().is_none_or(|(first, _)| rank < *first) {
                best = Some((rank, name));
            }
        }
        let best = best.map(|(rank, name)| (rank, name.clone()));
        dropped.iter().for_each(|task| self.has_left(task));
        let ((_, stamp, _), name) = best?;
        let task = self.lanes.get_mut(&name)?.pop()?;
        self.time = self.time.max(stamp);
        self.has_left(&task);
        self.counter.take(now);
        if let Some(activity) = limited.get_mut(&*name) {
            activity.take(now);
        }
        if self.lanes.len() > EMPTY_LANES {
            self.lanes.retain(|_, lane| lane.first().is_some());
        }
        Some(task)
    }

    fn has_left(&mut self, task: &Task) {
        self.waiting -= 1;
        let name = task.options.fairness_key.as_deref().unwrap_or_default();
        if let Some(key) = self.keys.get_mut(name) {
            key.waiting -= 1;
            // A key that owes nothing is as good as a new one.
            if key.waiting == 0 && key.stamp <= self.time && !name.is_empty() {
                self.keys.remove(name);
            }
        }
    }
}

impl Lane {
    fn first(&self) -> Option<Rank> {
        let plain = self.plain.front().map(|(stamp, sequence, _)| (Reverse(0), *stamp, *sequence));
        let ranked = self.ranked.first_key_value().map(|(rank, _)| *rank);
        plain.into_iter().chain(ranked).min()
    }

    fn pop(&mut self) -> Option<Arc<Task>> {
        let plain = self.plain.front().map(|(stamp, sequence, _)| (Reverse(0), *stamp, *sequence));
        let ranked = self.ranked.first_key_value().map(|(rank, _)| *rank);
        match (plain, ranked) {
            (Some(plain), Some(ranked)) if ranked < plain => self.ranked.pop_first().map(|(_, task)| task),
            (None, _) => self.ranked.pop_first().map(|(_, task)| task),
            _ => self.plain.pop_front().map(|(.., task)| task),
        }
    }

    /// Drops what is at the front and nobody wants any more.
    fn prune(&mut self, is_wanted: impl Fn(&Task) -> bool, dropped: &mut Vec<Arc<Task>>) {
        while let Some((.., task)) = self.plain.front() {
            if is_wanted(task) {
                break;
            }
            dropped.extend(self.plain.pop_front().map(|(.., task)| task));
        }
        while let Some((_, task)) = self.ranked.first_key_value() {
            if is_wanted(task) {
                break;
            }
            dropped.extend(self.ranked.pop_first().map(|(_, task)| task));
        }
    }
}

impl Counter {
    fn new(limits: TaskLimits) -> Self {
        Self { limits, running: 0, bucket: Bucket::default() }
    }

    fn is_free(&self, now: TimestampMs) -> bool {
        self.limits.concurrency.is_none_or(|most| self.running < most)
            && self.next_start(now).is_none_or(|at| at <= now)
    }

    fn take(&mut self, now: TimestampMs) {
        self.running += 1;
        if let Some(rate) = self.limits.rate {
            self.bucket.take(rate, now);
        }
    }

    /// When the rate lets the next one start; none where it does now.
    fn next_start(&self, now: TimestampMs) -> Option<TimestampMs> {
        self.bucket.next_start(self.limits.rate?, now)
    }
}

impl Bucket {
    /// One starts.
    pub(super) fn take(&mut self, rate: Rate, now: TimestampMs) {
        self.full_at = self.full_at.max(u128::from(now.0) * 1000) + step(rate);
    }

    /// When the next one may start; none: now.
    pub(super) fn next_start(&self, rate: Rate, now: TimestampMs) -> Option<TimestampMs> {
        let free_at = (self.full_at + step(rate)).saturating_sub(u128::from(rate.per_ms.max(1)) * 1000);
        let at = TimestampMs(u64::try_from(free_at.div_ceil(1000)).unwrap_or(u64::MAX));
        (at > now).then_some(at)
    }
}

/// What one start takes out of the bucket, in thousandths of milliseconds.
fn step(rate: Rate) -> u128 {
    u128::from(rate.per_ms.max(1)) * 1000 / u128::from(rate.tasks.max(1))
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::core::event::{ActivityOptions, ActivityScheduled};
    use crate::core::ids::InstanceId;
    use crate::core::payload::Payload;
    use crate::core::task::Turn;

    fn task(number: u32, name: &str, key: &str, priority: i32) -> Arc<Task> {
        let options = ActivityOptions {
            priority,
            fairness_key: Some(key.to_owned()).filter(|key| !key.is_empty()),
            ..ActivityOptions::default()
        };
        let call = ActivityScheduled { operation: number, name: name.to_owned(), input: Payload::null(), options };
        let now: crate::core::task::Now = Arc::new(|| TimestampMs(0));
        let id = InstanceId::new("queue").unwrap();
        Arc::new(Task::of(&id, 1, 1, &call, Turn::first(TimestampMs(0)), &now, 1 << 20))
    }

    fn order(queues: &mut Queues, now: u64) -> Vec<u32> {
        std::iter::from_fn(|| queues.take(DEFAULT_QUEUE, TimestampMs(now), |_| true, |_| true))
            .map(|task| task.operation)
            .collect()
    }

    fn limited(limits: TaskLimits) -> Queues {
        let TaskLimits { concurrency, rate } = limits;
        let settings = QueueSettings { concurrency, rate, ..QueueSettings::default() };
        Queues::new(&BTreeMap::from([(DEFAULT_QUEUE.to_owned(), settings)]), &BTreeMap::new())
    }

    #[test]
    fn first_come_first_served_across_names() {
        let mut queues = limited(TaskLimits::default());
        (1..=6).for_each(|n| queues.push(task(n, ["a", "b"][n as usize % 2], "", 0)));
        assert_eq!(order(&mut queues, 0), [1, 2, 3, 4, 5, 6]);
        assert!(queues.is_empty());
    }

    #[test]
    fn higher_priorities_go_first_and_lower_ones_last() {
        let mut queues = limited(TaskLimits::default());
        for (number, priority) in [(1, 0), (2, 5), (3, -1), (4, 5), (5, 0)] {
            queues.push(task(number, "a", "", priority));
        }
        assert_eq!(order(&mut queues, 0), [2, 4, 1, 5, 3]);
    }

    #[test]
    fn a_flood_of_one_key_does_not_hold_up_another() {
        let mut queues = limited(TaskLimits::default());
        (1..=100).for_each(|n| queues.push(task(n, "a", "flood", 0)));
        for n in 101..=103 {
            queues.push(task(n, "b", "quiet", 0));
        }
        let order = order(&mut queues, 0);
        assert_eq!(order[..7], [1, 101, 2, 102, 3, 103, 4]);
        assert_eq!(order.len(), 103);
    }

    #[test]
    fn weights_are_shares() {
        let settings = QueueSettings { weights: BTreeMap::from([("heavy".to_owned(), 3)]), ..QueueSettings::default() };
        let mut queues = Queues::new(&BTreeMap::from([(DEFAULT_QUEUE.to_owned(), settings)]), &BTreeMap::new());
        (1..=60).for_each(|n| queues.push(task(n, "a", if n % 2 == 0 { "heavy" } else { "light" }, 0)));
        let heavy = order(&mut queues, 0)[..40].iter().filter(|n| **n % 2 == 0).count();
        assert!((29..=30).contains(&heavy), "{heavy} of 40");
    }

    #[test]
    fn concurrency_is_a_bound_until_a_slot_is_given_back() {
        let mut queues = limited(TaskLimits { concurrency: Some(2), rate: None });
        (1..=3).for_each(|n| queues.push(task(n, "a", "", 0)));
        assert_eq!(order(&mut queues, 0), [1, 2]);
        queues.release(&task(1, "a", "", 0));
        assert_eq!(order(&mut queues, 0), [3]);
    }

    #[test]
    fn a_rate_lets_a_burst_through_and_then_one_by_one() {
        let mut queues = limited(TaskLimits { concurrency: None, rate: Some(Rate { tasks: 3, per_ms: 300 }) });
        (1..=6).for_each(|n| queues.push(task(n, "a", "", 0)));
        assert_eq!(order(&mut queues, 1_000), [1, 2, 3]);
        assert_eq!(queues.next_start(TimestampMs(1_000)), Some(TimestampMs(1_100)));
        assert!(order(&mut queues, 1_099).is_empty());
        assert_eq!(order(&mut queues, 1_100), [4]);
        assert_eq!(order(&mut queues, 5_000), [5, 6]);
    }

    #[test]
    fn a_name_at_its_limit_is_passed_over() {
        let limits = BTreeMap::from([("a".to_owned(), TaskLimits { concurrency: Some(1), rate: None })]);
        let mut queues = Queues::new(&BTreeMap::new(), &limits);
        for (number, name) in [(1, "a"), (2, "a"), (3, "b")] {
            queues.push(task(number, name, "", 0));
        }
        assert_eq!(order(&mut queues, 0), [1, 3]);
        queues.release(&task(1, "a", "", 0));
        assert_eq!(order(&mut queues, 0), [2]);
    }

    #[test]
    fn what_nobody_wants_is_dropped_on_the_way() {
        let mut queues = limited(TaskLimits::default());
        (1..=4).for_each(|n| queues.push(task(n, "a", "key", 0)));
        let taken = queues.take(DEFAULT_QUEUE, TimestampMs(0), |_| true, |task| task.operation > 3);
        assert_eq!(taken.unwrap().operation, 4);
        assert!(queues.is_empty());
    }

    #[test]
    fn queues_take_turns_and_are_forgotten_when_idle() {
        let in_queue = |number: u32, queue: &str| {
            let plain = task(number, "a", "", 0);
            let options = ActivityOptions { queue: Some(queue.to_owned()), ..plain.options.clone() };
            let call = ActivityScheduled { operation: number, name: "a".into(), input: Payload::null(), options };
            let now: crate::core::task::Now = Arc::new(|| TimestampMs(0));
            Arc::new(Task::of(&plain.instance, 1, 1, &call, Turn::first(TimestampMs(0)), &now, 1 << 20))
        };
        let mut queues = Queues::new(&BTreeMap::new(), &BTreeMap::new());
        (1..=3).for_each(|n| queues.push(in_queue(n, "x")));
        (4..=5).for_each(|n| queues.push(in_queue(n, "y")));
        let all: Vec<_> = std::iter::from_fn(|| queues.take_here(TimestampMs(0), |_| true, |_| true)).collect();
        assert_eq!(all.iter().map(|task| task.operation).collect::<Vec<_>>(), [1, 4, 2, 5, 3]);
        assert_eq!(queues.load().count(), 3);
        all.iter().for_each(|task| queues.release(task));
        assert_eq!(queues.load().count(), 1, "the default queue stays");
    }
}
