//! The queues of every namespace. Each namespace has its own, with the bounds that
//! are set for their names, and sees nothing of the others'.
//!
//! What they share is this process, which runs what modules and the host itself
//! serve: namespaces take turns there, whatever the number of their queues, so one
//! that floods its own waits behind itself.

use std::collections::BTreeMap;
use std::sync::Arc;

use super::queues::{QueueSettings, Queues, TaskLimits};
use crate::core::ids::TimestampMs;
use crate::core::task::Task;

/// Queues by namespace; the default one's key is empty.
pub(super) struct Spaces {
    queues: BTreeMap<String, QueueSettings>,
    activities: BTreeMap<String, TaskLimits>,
    /// Kept when they are empty, since rates are remembered in them. As many as there
    /// are namespaces, which are the operator's to make.
    spaces: BTreeMap<Box<str>, Queues>,
    /// The namespace that was served last: the next one is served next.
    served_last: Option<Box<str>>,
}

impl Spaces {
    pub(super) fn new(queues: &BTreeMap<String, QueueSettings>, activities: &BTreeMap<String, TaskLimits>) -> Self {
        let spaces = BTreeMap::from([("".into(), Queues::new(queues, activities))]);
        Self { queues: queues.clone(), activities: activities.clone(), spaces, served_last: None }
    }

    fn of(&mut self, space: &str) -> &mut Queues {
        if !self.spaces.contains_key(space) {
            self.spaces.insert(space.into(), Queues::new(&self.queues, &self.activities));
        }
        self.spaces.get_mut(space).expect("it was put there")
    }

    /// Whether nothing waits anywhere.
    pub(super) fn is_empty(&self) -> bool {
        self.spaces.values().all(Queues::is_empty)
    }

    /// Whether the host's own activities serve that queue.
    pub(super) fn is_served_here(&self, queue: &str) -> bool {
        self.queues.get(queue).is_none_or(|settings| !settings.remote_only)
    }

    /// Takes a slot for a task that did not wait. False: it has to.
    pub(super) fn admit(&mut self, task: &Task, now: TimestampMs) -> bool {
        self.of(task.instance.space()).admit(task, now)
    }

    /// Puts a task in its queue.
    pub(super) fn push(&mut self, task: Arc<Task>) {
        self.of(task.instance.space()).push(task.clone());
    }

    /// The next task that the host's own activities serve, and a slot for it.
    /// Namespaces take turns.
    pub(super) fn take_here(
        &mut self,
        now: TimestampMs,
        is_served: impl Fn(&str, &str) -> bool,
        is_wanted: impl Fn(&Task) -> bool,
    ) -> Option<Arc<Task>> {
        if self.spaces.len() == 1 {
            let (name, queues) = self.spaces.iter_mut().next()?;
            return queues.take_here(now, |activity| is_served(name, activity), is_wanted);
        }
        let waiting = self.spaces.iter().filter(|(_, queues)| !queues.is_empty());
        let mut names: Vec<Box<str>> = waiting.map(|(name, _)| name.clone()).collect();
        if let Some(last) = &self.served_last {
            let next = names.partition_point(|name| name <= last);
            names.rotate_left(next);
        }
        for name in names {
            let queues = self.spaces.get_mut(&name)?;
            if let Some(task) = queues.take_here(now, |activity| is_served(&name, activity), &is_wanted) {
                self.served_last = Some(name);
                return Some(task);
            }
        }
        None
    }

    /// The next task of a queue, and a slot for it.
    pub(super) fn take(
        &mut self,
        space: &str,
        queue: &str,
        now: TimestampMs,
        is_served: impl Fn(&str) -> bool,
        is_wanted: impl Fn(&Task) -> bool,
    ) -> Option<Arc<Task>> {
        self.spaces.get_mut(space)?.take(queue, now, is_served, is_wanted)
    }

    /// A task that had a slot has none any more.
    pub(super) fn release(&mut self, task: &Task) {
        self.of(task.instance.space()).release(task);
    }

    /// When a rate next lets something start that waits, if one holds it up.
    pub(super) fn next_start(&self, now: TimestampMs) -> Option<TimestampMs> {
        self.spaces.values().filter_map(|queues| queues.next_start(now)).min()
    }

    /// The keys of the namespaces that had something in a queue since this host began.
    pub(super) fn names(&self) -> impl Iterator<Item = &str> {
        self.spaces.keys().map(|name| &**name)
    }

    /// Bounds and load of each queue of a namespace, by name.
    pub(super) fn load(&self, space: &str) -> impl Iterator<Item = (&str, &QueueSettings, usize)> {
        self.spaces.get(space).into_iter().flat_map(Queues::load)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::core::event::{ActivityOptions, ActivityScheduled};
    use crate::core::ids::InstanceId;
    use crate::core::namespace::Namespace;
    use crate::core::payload::Payload;
    use crate::core::task::Turn;

    fn task(namespace: &str, operation: u32, queue: &str) -> Arc<Task> {
        let options = ActivityOptions { queue: Some(queue.to_owned()), ..ActivityOptions::default() };
        let call = ActivityScheduled { operation, name: "a.b".to_owned(), input: Payload::null(), options };
        let now: crate::core::task::Now = Arc::new(|| TimestampMs(0));
        let id = InstanceId::within(&Namespace::new(namespace).unwrap(), "one").unwrap();
        Arc::new(Task::of(&id, 1, 1, &call, Turn::first(TimestampMs(0)), &now, 1 << 20))
    }

    #[test]
    fn namespaces_take_turns_whatever_the_number_of_their_queues() {
        let mut spaces = Spaces::new(&BTreeMap::new(), &BTreeMap::new());
        for n in 0..40 {
            spaces.push(task("flood", n, &format!("queue-{}", n % 8)));
        }
        (40..43).for_each(|n| spaces.push(task("quiet", n, "queue-0")));
        (50..53).for_each(|n| spaces.push(task("default", n, "default")));
        let take = || spaces.take_here(TimestampMs(0), |_, _| true, |_| true).map(|task| task.instance.namespace());
        let first: Vec<String> = std::iter::from_fn(take).take(9).map(|namespace| namespace.to_string()).collect();
        for namespace in ["flood", "quiet", "default"] {
            assert_eq!(first.iter().filter(|served| *served == namespace).count(), 3, "{first:?}");
        }
    }

    #[test]
    fn bounds_of_a_queue_hold_in_each_namespace() {
        let bounded = QueueSettings { concurrency: Some(1), ..QueueSettings::default() };
        let mut spaces = Spaces::new(&BTreeMap::from([("q".to_owned(), bounded)]), &BTreeMap::new());
        for namespace in ["a", "b"] {
            (0..2).for_each(|n| spaces.push(task(namespace, n, "q")));
        }
        let mut take = |space: &str| spaces.take(space, "q", TimestampMs(0), |_| true, |_| true);
        assert!(take("a").is_some() && take("b").is_some() && take("a").is_none() && take("b").is_none());
        assert!(take("c").is_none(), "a namespace that has none");
    }
}
