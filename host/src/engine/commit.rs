//! The one rule: nothing is let out before its commit.
//!
//! Workers hand over what turns produced; one thread makes it durable, many
//! instances at a time, and only then calls [`Release::release`]: the one place in
//! the engine where activities are dispatched, timers armed, callers answered and
//! log lines shown. There is no other way out of a turn.
//!
//! Group commit adapts by itself: while one commit is being written, what comes
//! queues up and is the next one. A lone instance never waits for company. Where syncs
//! are slow, the next commit begins while those before it are still on their way to the
//! disk; each is let out in its turn.

#[cfg(test)]
mod tests;

use std::panic::{AssertUnwindSafe, catch_unwind};
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::mpsc::{self, Receiver, SyncSender};
use std::sync::{Arc, Condvar, Mutex, MutexGuard, PoisonError};
use std::time::Instant;

use super::Clock;
use super::activities::Activities;
use super::error::EngineError;
use super::mail::{Posted, send};
use super::schedules::Signal;
use super::trace::{About, Spans};
use super::turns::{Message, WorkerLink};
use crate::core::event::{Event, Origin};
use crate::core::ids::{ExecutionNumber, InstanceId, TimestampMs};
use crate::core::panics::panic_text;
use crate::core::task::{Task, Turn};
use crate::core::turn::{LogLine, SealedTurn, final_outcome};
use crate::store::{Batch, Epoch, SYNCS_AT_ONCE, Store, StoreError, TurnCommit};

/// Most turns of one commit: a commit is one write, and its callers wait for it.
const TURNS_PER_COMMIT: usize = 1024;

/// Most bytes of one commit, which is made in memory. One group more may be in it.
const BYTES_PER_COMMIT: usize = 16 << 20;

/// Syncs that take longer than so many microseconds overlap: handing one to another
/// thread costs some tens.
const SLOW_SYNC_US: u64 = 1_000;

/// No sync of a file takes less.
const LEAST_SYNC_US: u64 = 10;

/// Where syncs are slow, a commit begins about so many microseconds after the one before:
/// sooner, and commits would be small; later, and turns would wait for one to begin.
const COMMIT_EVERY_US: u64 = 400;

/// Commits that may be on their way at once, beside none where syncs are fast.
const COMMITS_AT_ONCE: std::ops::RangeInclusive<u64> = 4..=SYNCS_AT_ONCE as u64;

/// How far workers may run ahead of the disk, in groups. Beyond it they wait, so
/// that what is in memory stays bounded.
pub(super) const GROUPS_AHEAD: usize = 1024;

/// What one turn lets out once it is durable.
pub(super) struct Outbound {
    pub(super) instance: InstanceId,
    pub(super) execution: ExecutionNumber,
    pub(super) turn: u32,
    pub(super) sealed: SealedTurn,
    pub(super) logs: Vec<LogLine>,
    pub(super) replies: Vec<Reply>,
    /// When something is due next, if the turn changed that.
    pub(super) due: Option<TimestampMs>,
    /// The turn was recorded by another instance: what it asks for was let out
    /// there. Only these attempts, which it left behind, begin.
    pub(super) adopted: Option<Vec<Arc<Task>>>,
    /// What goes to other instances.
    pub(super) posts: Vec<Posted>,
    /// What its span says of the instance.
    pub(super) about: About,
}

/// A caller who waits for a turn to be durable.
pub(super) type Reply = Box<dyn FnOnce(Result<(), EngineError>) + Send>;

/// Turns that are durable together or not at all, in order, of one worker.
pub(super) struct Group {
    pub(super) worker: usize,
    pub(super) turns: Vec<Outbound>,
    /// Callers who wait for everything up to here.
    pub(super) replies: Vec<Reply>,
    /// It is one of so many, each of another worker, that are durable together or
    /// not at all; 0: it is so by itself.
    pub(super) of: usize,
}

/// What the committer needs to let things out.
pub(super) struct Release {
    pub(super) activities: Arc<Activities>,
    pub(super) workers: Vec<WorkerLink>,
    /// Per worker, how many of its groups are durable.
    pub(super) released: Vec<Arc<AtomicU64>>,
    /// Whoever wants to see guests' log lines.
    pub(super) show_log: super::ShowLog,
    /// Schedules may wait for an instance to end.
    pub(super) schedules: Arc<Signal>,
    /// Who is told of spans, and when it is.
    pub(super) spans: Spans,
    pub(super) clock: Arc<dyn Clock>,
}

/// The committer's side of the queue.
pub(super) type Groups = SyncSender<Group>;

/// Runs until every worker is gone or the store fails; tells `stop` why it failed, once
/// and at once, whether or not anything else is to be committed.
pub(super) fn run(
    store: &dyn Store,
    epoch: Epoch,
    groups: &Receiver<Group>,
    release: &Release,
    stop: &(dyn Fn(&str) + Sync),
) {
    run_from(store, epoch, groups, release, stop, 0);
}

/// As [`run`], where syncs took so many microseconds before.
fn run_from(
    store: &dyn Store,
    epoch: Epoch,
    groups: &Receiver<Group>,
    release: &Release,
    stop: &(dyn Fn(&str) + Sync),
    sync_us: u64,
) {
    let sync_us = AtomicU64::new(sync_us);
    let committer = Committer { store, release, stop, sync_us, turn: Mutex::default(), next: Condvar::new() };
    std::thread::scope(|scope| {
        let (to_syncers, written) = mpsc::channel();
        let written = Arc::new(Mutex::new(written));
        let mut syncers = 0;
        let mut joint = Joint::default();
        let mut place = 0;
        while let Ok(first) = groups.recv() {
            // What comes until one can begin goes with it.
            committer.wait_for_room(place);
            let gathered = joint.sort(gather(first, groups));
            let batch = Batch { turns: gathered.iter().flat_map(|group| &group.turns).map(Outbound::commit).collect() };
            let number = if batch.turns.is_empty() { Ok(0) } else { failing(|| store.append(epoch, &batch)) };
            let commit = Written { place, number, groups: gathered };
            place += 1;
            if committer.sync_us.load(Ordering::Relaxed) <= SLOW_SYNC_US {
                committer.finish(commit);
            } else {
                if syncers < committer.commits_at_once() {
                    syncers += 1;
                    let (committer, written) = (&committer, written.clone());
                    scope.spawn(move || {
                        let next = || written.lock().unwrap_or_else(PoisonError::into_inner).recv();
                        while let Ok(commit) = next() {
                            committer.finish(commit);
                        }
                    });
                }
                // They end with this.
                let _ = to_syncers.send(commit);
            }
            if committer.failure().is_some() {
                break;
            }
        }
        refuse(joint.held, committer.failure().as_deref());
    });
}

/// What is there, up to the size of a commit.
fn gather(first: Group, groups: &Receiver<Group>) -> Vec<Group> {
    let bytes_of = |group: &Group| group.turns.iter().map(|turn| turn.sealed.bytes.len()).sum::<usize>();
    let (mut turns, mut bytes) = (first.turns.len(), bytes_of(&first));
    let mut gathered = vec![first];
    while turns < TURNS_PER_COMMIT
        && bytes < BYTES_PER_COMMIT
        && let Ok(next) = groups.try_recv()
    {
        turns += next.turns.len();
        bytes += bytes_of(&next);
        gathered.push(next);
    }
    gathered
}

/// A commit that was written, or could not be.
struct Written {
    /// Which one it is, from 0.
    place: u64,
    number: Result<u64, StoreError>,
    groups: Vec<Group>,
}

struct Committer<'c> {
    store: &'c dyn Store,
    release: &'c Release,
    stop: &'c (dyn Fn(&str) + Sync),
    /// How long syncs take, as of late.
    sync_us: AtomicU64,
    turn: Mutex<Turnstile>,
    next: Condvar,
}

/// Lets commits out one after the other.
#[derive(Default)]
struct Turnstile {
    /// The place of the next one.
    place: u64,
    failed: Option<String>,
}

impl Committer<'_> {
    /// Makes a commit durable and, once those before it have been, lets it out.
    fn finish(&self, commit: Written) {
        let since = Instant::now();
        let durable = commit.number.and_then(|number| failing(|| self.store.sync(number)));
        let took = since.elapsed().as_micros() as u64;
        // Else there was nothing to sync: it has no turns, or a later one's sync was before.
        if took >= LEAST_SYNC_US {
            let before = self.sync_us.load(Ordering::Relaxed);
            self.sync_us.store((7 * before + took) / 8, Ordering::Relaxed);
        }
        let mut turn = self.turn();
        while turn.place != commit.place {
            turn = self.next.wait(turn).unwrap_or_else(PoisonError::into_inner);
        }
        // Whatever failed first is why this one fails too.
        let durable = match (&turn.failed, durable) {
            (Some(why), _) => Err(why.clone()),
            (None, durable) => durable.map_err(|error| error.to_string()),
        };
        if let Err(why) = &durable {
            self.fail(turn, why);
        } else {
            drop(turn);
        }
        // Nobody else passes before this one has; also if it panics.
        let _passes = Passes(self);
        match durable {
            Ok(()) => self.release.release(commit.groups),
            Err(why) => refuse(commit.groups, Some(&why)),
        }
    }

    /// How many commits are on their way at once at most: the slower syncs are, the more.
    fn commits_at_once(&self) -> u64 {
        let while_one_syncs = self.sync_us.load(Ordering::Relaxed) / COMMIT_EVERY_US;
        while_one_syncs.clamp(*COMMITS_AT_ONCE.start(), *COMMITS_AT_ONCE.end())
    }

    /// Waits until fewer than that are in front of this one.
    fn wait_for_room(&self, place: u64) {
        let mut turn = self.turn();
        while turn.place + self.commits_at_once() <= place {
            turn = self.next.wait(turn).unwrap_or_else(PoisonError::into_inner);
        }
    }

    /// Nothing is let out any more.
    fn fail(&self, mut turn: MutexGuard<'_, Turnstile>, why: &str) {
        if turn.failed.is_none() {
            turn.failed = Some(why.to_owned());
            drop(turn);
            (self.stop)(why);
        }
    }

    fn failure(&self) -> Option<String> {
        self.turn().failed.clone()
    }

    fn turn(&self) -> MutexGuard<'_, Turnstile> {
        self.turn.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// Lets the next commit pass when this one has.
struct Passes<'c>(&'c Committer<'c>);

impl Drop for Passes<'_> {
    fn drop(&mut self) {
        if std::thread::panicking() {
            self.0.fail(self.0.turn(), "a thread that let a commit out panicked; see the log");
        }
        self.0.turn().place += 1;
        self.0.next.notify_all();
    }
}

/// A store that panics has failed, and whoever waits for its commit hears of that.
fn failing<T>(work: impl FnOnce() -> Result<T, StoreError>) -> Result<T, StoreError> {
    let worked = catch_unwind(AssertUnwindSafe(work));
    worked.unwrap_or_else(|panic| Err(StoreError::Io(format!("it panicked: {}", panic_text(panic.as_ref())))))
}

/// Tells callers that it will not be durable.
fn refuse(groups: impl IntoIterator<Item = Group>, why: Option<&str>) {
    for group in groups {
        let of_turns = group.turns.into_iter().flat_map(|turn| turn.replies);
        let stopped = || EngineError::Stopped(why.map(str::to_owned));
        of_turns.chain(group.replies).for_each(|reply| reply(Err(stopped())));
    }
}

/// Groups of several workers that are to be one commit, see [`Group::of`]. There is
/// one such commit at a time.
#[derive(Default)]
struct Joint {
    /// Parts that are here, and what came of their workers since.
    held: Vec<Group>,
    parts: usize,
}

impl Joint {
    /// Those that can be committed now. A part waits for the others, and with it all
    /// that its worker sends after it; whoever has not sent its part goes on as ever,
    /// so that it can wait for what it must know to be durable.
    fn sort(&mut self, gathered: Vec<Group>) -> Vec<Group> {
        if self.held.is_empty() && gathered.iter().all(|group| group.of == 0) {
            return gathered;
        }
        let mut now = Vec::new();
        for group in gathered {
            let of = group.of;
            if of == 0 && !self.held.iter().any(|held| held.worker == group.worker) {
                now.push(group);
                continue;
            }
            self.held.push(group);
            self.parts += usize::from(of > 0);
            if of > 0 && self.parts == of {
                now.append(&mut self.held);
                self.parts = 0;
            }
        }
        now
    }
}

impl Outbound {
    fn commit(&self) -> TurnCommit {
        TurnCommit {
            instance: self.instance.clone(),
            execution: self.execution,
            turn: self.turn,
            bytes: self.sealed.bytes.clone(),
        }
    }
}

impl Release {
    /// Lets out what durable groups asked for. The only caller has just committed
    /// them. Activities go first and all at once, so that they run while the rest
    /// is let out.
    fn release(&self, groups: Vec<Group>) {
        for group in &groups {
            self.released[group.worker].fetch_add(1, Ordering::Release);
        }
        let mut tasks = Vec::new();
        let turns = groups.iter().flat_map(|group| &group.turns);
        turns.for_each(|turn| self.gather_tasks(turn, &mut tasks));
        self.activities.dispatch(tasks);
        for group in groups {
            for turn in group.turns {
                self.release_turn(group.worker, turn);
            }
            group.replies.into_iter().for_each(|reply| reply(Ok(())));
        }
    }

    /// Takes the attempts that a turn lets begin to `tasks`: the first ones of what
    /// it asked for, or those that were under way where its history comes from.
    fn gather_tasks(&self, turn: &Outbound, tasks: &mut Vec<Arc<Task>>) {
        if let Some(again) = &turn.adopted {
            tasks.extend(again.iter().cloned());
            return;
        }
        let (record, execution) = (&turn.sealed.record, turn.execution);
        for event in &record.events {
            if let Event::ActivityScheduled(call) = event {
                let first = Turn::first(record.at);
                let of = (&turn.instance, turn.about.birth);
                tasks.push(self.activities.task(of, execution, execution, call, first));
            }
        }
    }

    fn release_turn(&self, worker: usize, turn: Outbound) {
        self.spans.turn(&turn, self.clock.now());
        let Outbound { instance, execution, sealed, logs, replies, due, adopted, posts, .. } = turn;
        posts.into_iter().for_each(|posted| send(&self.workers, posted));
        if adopted.is_some() {
            replies.into_iter().for_each(|reply| reply(Ok(())));
            due.into_iter().for_each(|due| self.workers[worker].send(Message::Arm(instance.clone(), due)));
            return;
        }
        for line in &logs {
            (self.show_log)(&instance, execution, line);
        }
        let record = &sealed.record;
        for event in &record.events {
            match event {
                Event::Resumed { .. } | Event::Rewound(_) => {
                    self.workers[worker].send(Message::LetGo(instance.clone()))
                }
                Event::OperationCancelled { operation } => self.activities.forget(&instance, execution, *operation),
                Event::Responded { request, answer } => {
                    self.workers[worker].send(Message::Answered(instance.clone(), *request, answer.clone()));
                }
                Event::OperationAborted { request, failure } => {
                    self.workers[worker].send(Message::Answered(instance.clone(), *request, Err(failure.clone())));
                }
                event if event.origin() == Origin::Outcome => self.activities.forget_all(&instance, execution),
                _ => {}
            }
        }
        for reply in replies {
            reply(Ok(()));
        }
        if let Some(outcome) = record.events.last().and_then(final_outcome) {
            self.workers[worker].send(Message::Ended(instance, execution, outcome));
            self.schedules.ended();
        } else if let Some(due) = due {
            self.workers[worker].send(Message::Arm(instance, due));
        }
    }
}
