//! The time of activities: which timeout expired, by the engine's own clock.
//!
//! | timeout | measured | when it expires |
//! |---|---|---|
//! | schedule-to-start | from when the attempt could start | the call fails for good: it would only wait in the same queue again |
//! | start-to-close | from the attempt's start | the attempt fails |
//! | heartbeat | from the attempt's start or last heartbeat | the attempt fails |
//! | schedule-to-close | from when the call was asked for, over all attempts | the call fails for good |
//!
//! All but the attempt's own start and heartbeats are in the history, so a host
//! that takes over measures from the same moments; an attempt that it runs again
//! starts again. It cannot know whether an attempt had started before, so it gives
//! one that waits [`TAKE_UP_MS`] before schedule-to-start may expire.
//!
//! A task or a run that has a bound has one entry among [`State::due`]: when it is
//! reached, it is looked at, and either has expired or is entered anew. What has no
//! bound costs nothing here.

use std::sync::Arc;
use std::time::Duration;

use super::activities::{Activities, Key, Place, Run, RunId, State, key};
use crate::core::ids::TimestampMs;
use crate::core::payload::{Failure, FailureKind};
use crate::core::task::Task;

/// What may be due.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub(super) enum Due {
    /// A task that waits.
    Task(Key),
    /// A run.
    Run(RunId),
}

/// How long an attempt that an earlier host may have begun waits at least, when
/// this host opens: its workers are to come back first.
const TAKE_UP_MS: u64 = 10_000;

impl Activities {
    /// Watches the time until [`Activities::stop`].
    pub(super) fn watch(self: &Arc<Self>) {
        let mut state = self.state();
        while !state.is_stopped {
            let now = self.clock.now();
            let expired = std::iter::from_fn(|| state.due.pop_first_if(now)).collect::<Vec<_>>();
            let starts = state.next_start.is_some_and(|at| at <= now);
            if !expired.is_empty() || starts {
                for due in expired {
                    match due {
                        Due::Task(key) => self.look_at_task(&mut state, &key, now),
                        Due::Run(id) => self.look_at_run(&mut state, id, now),
                    }
                }
                let begun = self.fill(&mut state);
                drop(state);
                self.begin(begun);
                state = self.state();
                continue;
            }
            let next = state.due.first().map(|(at, _)| *at).into_iter().chain(state.next_start).min();
            let patience = next.map_or(Duration::from_secs(3600), |at| self.clock.until(at));
            let woken = self.due_changed.wait_timeout(state, patience);
            state = woken.unwrap_or_else(std::sync::PoisonError::into_inner).0;
        }
    }

    // ---- tasks that wait ----

    /// Enters when the waiting of `task` is over, if it has a bound.
    pub(super) fn arm_waiting(&self, state: &mut State, task: &Task) {
        let start_by = task.options.schedule_to_start_ms.map(|ms| {
            let by = task.available_at.plus(ms);
            if task.again { by.max(self.clock.now().plus(TAKE_UP_MS)) } else { by }
        });
        let was_begun = state.tasks.get(&key(task)).is_some_and(|entry| entry.was_begun);
        let start_by = start_by.filter(|_| !was_begun);
        let due = start_by.into_iter().chain(ends_by(task)).min();
        if let Some(due) = due
            && let Some(entry) = state.tasks.get_mut(&key(task))
        {
            entry.due = Some(due);
            self.enter(state, due, Due::Task(key(task)));
        }
    }

    fn look_at_task(&self, state: &mut State, key: &Key, now: TimestampMs) {
        let Some(entry) = state.tasks.get(key).filter(|entry| entry.run.is_none()) else { return };
        let task = entry.task.clone();
        let failure = match (ends_by(&task), task.options.schedule_to_close_ms) {
            (Some(end), Some(ms)) if end <= now => closed(&task, ms),
            _ => not_started(&task),
        };
        state.tasks.remove(key);
        self.tell(&task, Err(failure));
    }

    // ---- runs ----

    /// Enters when `run` is next to be looked at, and tells its task its deadline.
    pub(super) fn arm_run(&self, state: &mut State, id: RunId, run: &mut Run) {
        let options = &run.task.options;
        let close_by = options.start_to_close_ms.map(|ms| run.started_at.plus(ms));
        let deadline = close_by.into_iter().chain(ends_by(&run.task)).min();
        run.task.begin(deadline);
        run.due = run.next_look(deadline);
        if let Some(due) = run.due {
            self.enter(state, due, Due::Run(id));
        }
    }

    fn look_at_run(self: &Arc<Self>, state: &mut State, id: RunId, now: TimestampMs) {
        let Some(run) = state.runs.get_mut(&id) else { return };
        run.due = None;
        match run.expired(now) {
            Some(failure) => self.give_up_run(state, id, failure),
            None if run.is_lease_over(now) => self.lose(state, id),
            None => self.arm_again(state, id),
        }
    }

    /// Enters when a run is to be looked at, which may have changed.
    pub(super) fn arm_again(&self, state: &mut State, id: RunId) {
        let Some(run) = state.runs.get_mut(&id) else { return };
        let (before, due) = (run.due, run.next_look(run.task.deadline()));
        run.due = due;
        if before == due {
            return;
        }
        if let Some(before) = before {
            state.due.remove(&(before, Due::Run(id)));
        }
        if let Some(due) = due {
            self.enter(state, due, Due::Run(id));
        }
    }

    /// Ends a run for the worker that did not.
    pub(super) fn give_up_run(&self, state: &mut State, id: RunId, failure: Failure) {
        let Some(run) = state.take_run(id) else { return };
        let (task, outcome) = (run.task.clone(), Err(failure));
        self.spans.attempt(&run, self.clock.now(), &outcome);
        // Stops what runs here.
        drop(run);
        // A runner that can be told learns it at its next heartbeat.
        task.cancel();
        if state.tasks.get(&key(&task)).is_some_and(|entry| entry.run == Some(id)) {
            self.tell(&task, outcome);
            state.tasks.remove(&key(&task));
        }
    }

    fn enter(&self, state: &mut State, at: TimestampMs, due: Due) {
        let is_first = state.due.first().is_none_or(|(first, _)| at < *first);
        state.due.insert((at, due));
        if is_first {
            self.due_changed.notify_all();
        }
    }
}

impl Run {
    /// When it has to be looked at next.
    fn next_look(&self, deadline: Option<TimestampMs>) -> Option<TimestampMs> {
        let beat_by = self.task.options.heartbeat_ms.map(|ms| self.last_seen().plus(ms));
        let lease = match &self.place {
            Place::Here(_) => None,
            Place::Remote(lease) => Some(lease.until),
        };
        deadline.into_iter().chain(beat_by).chain(lease).min()
    }

    fn is_lease_over(&self, now: TimestampMs) -> bool {
        matches!(&self.place, Place::Remote(lease) if lease.until <= now)
    }

    fn last_seen(&self) -> TimestampMs {
        self.task.beat_at().max(self.started_at)
    }

    /// The failure of whichever timeout was over first.
    fn expired(&self, now: TimestampMs) -> Option<Failure> {
        let options = &self.task.options;
        let total = ends_by(&self.task).zip(options.schedule_to_close_ms).map(|(at, ms)| (at, closed(&self.task, ms)));
        let attempt = options.start_to_close_ms.map(|ms| {
            let message = format!("attempt {} of {} did not end within {ms} ms", self.task.attempt, self.task.name);
            (self.started_at.plus(ms), timed_out("start-to-close", message))
        });
        let heartbeat = options.heartbeat_ms.map(|ms| {
            let message = format!("attempt {} of {} was silent for {ms} ms", self.task.attempt, self.task.name);
            (self.last_seen().plus(ms), timed_out("heartbeat", message))
        });
        let all = total.into_iter().chain(attempt).chain(heartbeat).filter(|(at, _)| *at <= now);
        all.min_by_key(|(at, _)| *at).map(|(_, failure)| failure)
    }
}

/// When all attempts of the call have to have ended.
fn ends_by(task: &Task) -> Option<TimestampMs> {
    task.options.schedule_to_close_ms.map(|ms| task.scheduled_at.plus(ms))
}

fn closed(task: &Task, ms: u64) -> Failure {
    let message = format!("{} did not end within {ms} ms, its waits and {} attempts counted", task.name, task.attempt);
    Failure { non_retryable: true, ..timed_out("schedule-to-close", message) }
}

fn not_started(task: &Task) -> Failure {
    let ms = task.options.schedule_to_start_ms.unwrap_or_default();
    let message = format!("no worker of the queue {:?} started {} within {ms} ms", task.queue(), task.name);
    Failure { non_retryable: true, ..timed_out("schedule-to-start", message) }
}

fn timed_out(which: &str, message: String) -> Failure {
    Failure { error_type: which.to_owned(), ..Failure::retryable(FailureKind::TimedOut, message) }
}

/// Takes the first entry of a set if it is due.
trait PopDue {
    fn pop_first_if(&mut self, now: TimestampMs) -> Option<Due>;
}

impl PopDue for std::collections::BTreeSet<(TimestampMs, Due)> {
    fn pop_first_if(&mut self, now: TimestampMs) -> Option<Due> {
        self.first().is_some_and(|(at, _)| *at <= now).then(|| self.pop_first())?.map(|(_, due)| due)
    }
}
