//! Turns: what a worker thread does all day.
//!
//! An instance belongs to one worker, by the hash of its id, so its state is
//! touched by one thread and needs no lock. A worker takes messages, turns them
//! into deliveries, runs the guests that have something to be told, and hands the
//! sealed turns to [`super::commit`]. It lets nothing out itself.
//!
//! An instance that waits is one entry among the timers, or nothing at all: its
//! guest stays while it may go on soon, and is replayed from its history when it
//! goes on later.

mod adopt;
pub(super) mod life;
mod migrate;
mod past;
mod ready;
mod recovery;
mod room;

use std::cmp::Reverse;
use std::collections::{BTreeSet, BinaryHeap, HashMap};
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::mpsc::{self, Receiver, RecvTimeoutError, Sender};
use std::time::Duration;

use tokio::sync::oneshot;

pub(super) use self::adopt::Adoption;
pub(super) use self::migrate::{Fate, Migration, Stood};
pub(super) use self::past::Past;
use self::past::Taking;
use self::ready::{Ready, Why};
use self::recovery::Recovery;
pub(super) use self::room::GuestCounts;
use self::room::{Idle, Resident};
use super::activities::{Activities, Recorded, Task};
use super::commit::{Group, Groups, Outbound, Reply};
use super::error::EngineError;
use super::mail::{posted, send};
use super::modules::Modules;
use super::quotas::Quotas;
use super::requests::{Asked, Callers};
use super::snapshots::Snapshots;
use super::trace::About;
use super::{Clock, EngineSettings, IdReuse};
use crate::core::calls::{Call, Caller, ParentClose};
use crate::core::event::{ActivityScheduled, Event, Origin, Started};
use crate::core::execution::{End, Execution, Pending};
use crate::core::ids::{ExecutionNumber, InstanceId, ModuleHash, OperationId, TimestampMs};
use crate::core::mail::{Envelope, MailKey};
use crate::core::payload::{Outcome, Payload};
use crate::core::request::RequestId;
use crate::core::summary::Summary;
use crate::core::task::Turn;
use crate::core::turn::{Recorder, SealedTurn, TurnRecord};
use crate::sandbox::OrchestrationModule;
use crate::sandbox::guest::Guest;
use crate::store::Store;

/// What a worker can be told.
pub(super) enum Message {
    /// Begin an instance. If its id is taken, what becomes of that one.
    Start(Box<Started>, IdReuse, oneshot::Sender<Result<(), EngineError>>),
    /// Something came in for an instance.
    Deliver(InstanceId, Inbound),
    /// Another instance calls one. True: it has ended, and only wants that to go on.
    Call(Box<Call>, bool),
    /// Tell what the instance ends with.
    Watch(InstanceId, oneshot::Sender<Result<Outcome, EngineError>>),
    /// A durable turn waits until then.
    Arm(InstanceId, TimestampMs),
    /// A durable turn ended that life of the instance with this.
    Ended(InstanceId, ExecutionNumber, Outcome),
    /// A durable turn lets go what was held back of the instance.
    LetGo(InstanceId),
    /// A durable turn answered a request.
    Answered(InstanceId, RequestId, Outcome),
    /// Let a failed instance go on from before its last failed operation.
    Rewind(InstanceId, life::Rewind, oneshot::Sender<Result<(), EngineError>>),
    /// The store has removed the instance.
    Purged(InstanceId),
    /// The instance was running when the store was opened.
    Recover(Box<Summary>),
    /// Another module for instances that run.
    Migrate(Box<Migration>),
    /// A history that another instance began.
    Adopt(Box<Adoption>),
    /// Answer when all that came before is durable.
    Barrier(oneshot::Sender<Result<(), EngineError>>),
    /// There are no more of those.
    Recovered,
    /// Guests of that instance's module can be looked into now.
    Inspectable(InstanceId),
    /// Time has moved.
    Wake,
    /// No more turns.
    Stop,
}

/// What can come in for an instance.
pub(super) enum Inbound {
    ActivityOutcome {
        execution: ExecutionNumber,
        operation: OperationId,
        attempt: u32,
        outcome: Outcome,
        /// What the attempt's last heartbeat said, if it failed.
        progress: Option<Payload>,
        reply: Option<Recorded>,
    },
    Event {
        name: String,
        value: Payload,
        reply: oneshot::Sender<Result<(), EngineError>>,
    },
    EventOnce {
        key: String,
        name: String,
        value: Payload,
        reply: oneshot::Sender<Result<(), EngineError>>,
    },
    Cancel {
        reason: String,
        reply: oneshot::Sender<Result<(), EngineError>>,
    },
    Terminate {
        reason: String,
        reply: oneshot::Sender<Result<(), EngineError>>,
    },
    /// Suspend it, or let it go on.
    Hold {
        suspend: bool,
        reason: String,
        reply: oneshot::Sender<Result<(), EngineError>>,
    },
    Request(Box<Asked>),
    /// Another instance sent this.
    Letter(Box<Envelope>),
    /// A letter of this instance has its answer.
    Answered {
        birth: u64,
        key: MailKey,
        outcome: Outcome,
    },
    /// A sub-orchestration has ended.
    Returned {
        caller: Box<Caller>,
        outcome: Outcome,
    },
    /// Whoever called this instance goes without it.
    CallerLeft {
        caller: Box<Caller>,
        what: ParentClose,
        reason: String,
    },
}

/// How others reach a worker. Its queue needs no bound of its own: whoever sends
/// either waits for the answer, or brings the outcome of a task that a history
/// holds as pending.
#[derive(Clone)]
pub(super) struct WorkerLink(pub(super) Sender<Message>);

impl WorkerLink {
    /// Sends, unless the worker has stopped; then there is nobody to care.
    pub(super) fn send(&self, message: Message) {
        let _ = self.0.send(message);
    }
}

/// What a worker works with.
pub(super) struct Parts {
    pub(super) number: usize,
    pub(super) store: Arc<dyn Store>,
    pub(super) clock: Arc<dyn Clock>,
    pub(super) modules: Arc<Modules>,
    pub(super) quotas: Arc<Quotas>,
    pub(super) activities: Arc<Activities>,
    pub(super) settings: EngineSettings,
    /// All workers, this one among them.
    pub(super) links: Vec<WorkerLink>,
    pub(super) groups: Groups,
    pub(super) snapshots: Snapshots,
    pub(super) released: Arc<AtomicU64>,
    pub(super) guests: Arc<GuestCounts>,
    /// What it waits for, to be looked at from outside.
    pub(super) armed: Arc<Armed>,
}

/// The timers of one worker as they stand.
#[derive(Debug, Default)]
pub(super) struct Armed {
    /// How many there are.
    pub(super) count: AtomicU64,
    /// When the first one is due; 0: there is none.
    pub(super) next: AtomicU64,
}

pub(super) struct Worker {
    pub(super) parts: Parts,
    /// None once all were recovered.
    recovery: Option<Recovery>,
    /// Who called an instance that was there already: each asks again when it is
    /// recovered, so nothing of this is recorded.
    pub(super) joined: HashMap<InstanceId, Vec<Caller>>,
    /// Calls that executions which have ended let go of before, as far as it mattered
    /// at recovery; empty afterwards.
    pub(super) let_go_of: HashMap<(InstanceId, ExecutionNumber), BTreeSet<OperationId>>,
    live: HashMap<InstanceId, Slot>,
    idle: Idle,
    /// Guests of instances that have left, to be torn down at the end of this round.
    #[allow(clippy::vec_box, reason = "they are large, and in boxes already")]
    leaving: Vec<Box<Guest>>,
    stamps: u64,
    timers: BinaryHeap<Reverse<(TimestampMs, InstanceId)>>,
    watchers: HashMap<InstanceId, Vec<oneshot::Sender<Result<Outcome, EngineError>>>>,
    pub(super) callers: Callers,
    ready: Ready,
    /// It is woken when the groups that are under way are durable.
    is_woken_later: bool,
    /// Instances that this host cannot run, with the reason: until it restarts.
    /// What comes in for them is recorded all the same.
    pub(super) blocked: HashMap<InstanceId, String>,
    /// Attempts that may begin only after a turn that is not durable yet, see [`life`].
    held: HashMap<InstanceId, Vec<Arc<Task>>>,
    /// Sealed turns that go to the committer together.
    group: Vec<Outbound>,
    /// Answers that wait for the group and all before it, and for no turn of their own.
    pub(super) replies: Vec<Reply>,
    groups_sent: u64,
}

/// An instance that is in memory.
struct Slot {
    body: Body,
    inbox: Vec<Inbound>,
    queued: bool,
    /// It waits for room. What comes in meanwhile is recorded all the same.
    crowded: bool,
    stamp: u64,
    last_ran: TimestampMs,
    /// The last group that holds a turn of this instance.
    last_group: u64,
    /// What is armed, or will be by a group that is under way.
    armed: Option<TimestampMs>,
    /// What the state was made of just now, for its guest.
    past: Option<Past>,
    taking: Taking,
}

impl Slot {
    /// Is run in its turn, as the instance of that id.
    fn queue(&mut self, id: InstanceId, why: Why, ready: &mut Ready) {
        if !self.queued {
            self.queued = true;
            ready.push(id, why, matches!(self.body, Body::Guest(..)));
        }
    }
}

enum Body {
    /// State without a guest: not begun, ended, or there to be asked.
    Bare(Box<Recorder>),
    Guest(Box<Guest>, #[allow(dead_code, reason = "counts by being there")] Resident),
    /// Taken out while one of these becomes the other; never seen elsewhere.
    Changing,
}

impl Body {
    fn recorder(&mut self) -> &mut Recorder {
        match self {
            Self::Bare(recorder) => recorder,
            Self::Guest(guest, _) => guest.recorder_mut(),
            Self::Changing => unreachable!("the state of an instance is changing hands"),
        }
    }

    /// The guest of an instance that has not begun, for the state that this is; on an error
    /// it still is.
    fn begin(&mut self, module: &OrchestrationModule) -> Result<Guest, NotNow> {
        let Self::Bare(recorder) = std::mem::replace(self, Self::Changing) else {
            unreachable!("an instance that has not begun has no guest")
        };
        Guest::new(module, recorder).map_err(|(trouble, unused)| {
            *self = Self::Bare(unused);
            NotNow::Later(trouble.to_string())
        })
    }

    fn without_guest(self) -> Self {
        match self {
            Self::Guest(guest, _) => Self::Bare(guest.into_recorder()),
            bare => bare,
        }
    }
}

/// Why an instance is not run now.
pub(super) enum NotNow {
    /// The host has no room; try again.
    Later(String),
    /// Its history cannot be run here.
    Blocked(String),
    /// There is no such instance, or it has ended.
    Gone(Option<Box<Summary>>),
    Store(EngineError),
}

/// Messages handled before turns are run: enough to fill a commit, few enough
/// that timers are looked at.
const MESSAGES_AT_ONCE: usize = 512;

/// Turns handed to the committer at once: it need not be woken for each, and
/// begins to write before all are run.
const TURNS_PER_GROUP: usize = 64;

/// Messages for which an instance in memory keeps room: mostly one comes at a time.
const INBOX_ROOM: usize = 4;

impl Worker {
    pub(super) fn new(parts: Parts) -> Self {
        Self {
            parts,
            recovery: Some(Recovery::default()),
            let_go_of: HashMap::new(),
            joined: HashMap::new(),
            live: HashMap::new(),
            idle: Idle::default(),
            leaving: Vec::new(),
            stamps: 0,
            timers: BinaryHeap::new(),
            watchers: HashMap::new(),
            callers: Callers::default(),
            ready: Ready::default(),
            is_woken_later: false,
            blocked: HashMap::new(),
            held: HashMap::new(),
            group: Vec::new(),
            replies: Vec::new(),
            groups_sent: 0,
        }
    }

    /// Runs until told to stop, or until the committer is gone.
    pub(super) fn run(mut self, messages: &Receiver<Message>) {
        loop {
            let patience = self.patience();
            let mut next = match messages.recv_timeout(patience) {
                Ok(message) => Some(message),
                Err(RecvTimeoutError::Timeout) => None,
                Err(RecvTimeoutError::Disconnected) => return,
            };
            for _ in 0..MESSAGES_AT_ONCE {
                match next {
                    Some(Message::Stop) => return,
                    Some(message) => self.take(message),
                    None => break,
                }
                next = messages.try_recv().ok();
            }
            if let Some(message) = next {
                self.take(message);
            }
            self.recover_some();
            self.take_due();
            if !self.run_ready() {
                return;
            }
            self.evict_idle();
            self.leaving.clear();
            self.tell_armed();
        }
    }

    fn tell_armed(&self) {
        let next = self.timers.peek().map_or(0, |Reverse((due, _))| due.0);
        self.parts.armed.count.store(self.timers.len() as u64, Ordering::Relaxed);
        self.parts.armed.next.store(next, Ordering::Relaxed);
    }

    /// How long there is nothing to do by itself.
    fn patience(&self) -> Duration {
        if self.ready.is_any() || self.is_recovering() {
            return Duration::ZERO;
        }
        let clock = &self.parts.clock;
        // Those that are due and not taken wait for room, as others do.
        let due = self.timers.peek().filter(|_| self.ready.takes_due()).map(|Reverse((due, _))| *due);
        let next = due.into_iter().chain(self.evicts_at()).min();
        next.map_or(Duration::from_secs(3600), |at| clock.until(at))
    }

    // ---- messages ----

    fn take(&mut self, message: Message) {
        if let Some(recovery) = &mut self.recovery
            && message.is_between_instances()
        {
            return recovery.hold_back(message);
        }
        self.recover_for(&message);
        match message {
            Message::Start(started, reuse, reply) => self.start(started, reuse, reply),
            Message::Deliver(id, inbound) => self.deliver(id, inbound),
            Message::Call(call, abandoned) => self.call(call, abandoned),
            Message::Watch(id, reply) => self.watch(id, reply),
            Message::Arm(id, due) => {
                self.timers.push(Reverse((due, id.clone())));
                self.evict_if_long(&id);
            }
            Message::Ended(id, execution, outcome) => self.ended(&id, execution, &outcome),
            Message::LetGo(id) => self.let_go(&id),
            Message::Answered(id, request, answer) => self.callers.answer(&id, request, &answer),
            Message::Rewind(id, how, reply) => self.rewind(&id, &how, reply),
            Message::Purged(id) => self.purged(&id),
            Message::Recover(summary) => self.found(&summary),
            Message::Recovered => self.found_all(),
            Message::Inspectable(id) => self.queue_to_move(&id),
            Message::Migrate(migration) => self.migrate(*migration),
            Message::Adopt(adoption) => self.adopt(*adoption),
            Message::Barrier(reply) => self.replies.push(Box::new(move |durable| drop(reply.send(durable)))),
            Message::Wake => self.is_woken_later = false,
            Message::Stop => {}
        }
    }

    fn start(&mut self, mut started: Box<Started>, reuse: IdReuse, reply: oneshot::Sender<Result<(), EngineError>>) {
        let id = started.instance.clone();
        if self.parts.modules.is_retired(started.module) {
            let _ = reply.send(Err(being_removed(started.module)));
            return;
        }
        let known = match self.live.get_mut(&id) {
            Some(slot) => Ok(Some(position_of(&slot.body.recorder().execution))),
            None => self.parts.store.summary(&id).map(|summary| summary.map(|s| (s.execution, s.status))),
        };
        let begins = match &known {
            Ok(None) => Some(true),
            Ok(Some((_, status))) if reuse.replaces(*status) => Some(false),
            _ => None,
        };
        if let Some(Err(error)) = begins.map(|is_new| self.admit(&id, is_new)) {
            let _ = reply.send(Err(error));
            return;
        }
        match known {
            Ok(None) => {}
            Ok(Some((execution, status))) if reuse.replaces(status) => match self.make_way(&id, status) {
                Ok(passed_on) => {
                    started.execution = execution + 1;
                    passed_on.to(&mut started);
                }
                Err(error) => {
                    let _ = reply.send(Err(error));
                    return;
                }
            },
            Ok(Some((_, status))) => {
                // Answered when that instance's own start is durable: whoever
                // relies on it must be able to.
                self.replies.push(Box::new(move |durable| {
                    let _ = reply.send(durable.and(Err(EngineError::AlreadyExists { id, status })));
                }));
                return;
            }
            Err(error) => {
                let _ = reply.send(Err(error.into()));
                return;
            }
        }
        let answer: Reply = Box::new(move |durable| drop(reply.send(durable)));
        self.begin(started, vec![answer]);
    }

    /// Whether the namespace of `id` may have one more instance, or life of one.
    pub(super) fn admit(&self, id: &InstanceId, is_new: bool) -> Result<(), EngineError> {
        self.parts.quotas.begin(&*self.parts.store, id, is_new, self.parts.clock.now())
    }

    /// Begins an execution under an id that is free.
    pub(super) fn begin(&mut self, started: Box<Started>, replies: Vec<Reply>) {
        self.begin_with(started, Vec::new(), replies);
    }

    /// As [`Self::begin`], with what the execution before left to it.
    pub(super) fn begin_with(&mut self, started: Box<Started>, carried: Vec<Event>, replies: Vec<Reply>) {
        let id = started.instance.clone();
        let (limits, now) = (self.parts.settings.limits, self.parts.clock.now());
        let (recorder, sealed) = Recorder::start_with(started, carried, limits, now);
        let mut slot = self.new_slot(Body::Bare(Box::new(recorder)));
        let turn = outbound(&mut slot, sealed, replies);
        slot.last_group = self.next_group();
        self.live.insert(id.clone(), slot);
        self.group.push(turn);
        self.queue(&id);
    }

    fn deliver(&mut self, id: InstanceId, inbound: Inbound) {
        let Some(inbound) = self.make_entity(&id, inbound) else { return };
        if !self.live.contains_key(&id) {
            match self.load(&id, |summary| inbound.reaches(summary)) {
                Ok(slot) => {
                    self.live.insert(id.clone(), slot);
                }
                Err(reason) => {
                    let Some((reason, inbound)) = self.deliver_to_ended(&id, reason, inbound) else { return };
                    return self.refuse(&id, reason, inbound);
                }
            }
        }
        if let Some(slot) = self.live.get_mut(&id) {
            slot.inbox.push(inbound);
            slot.queue(id, Why::CameIn, &mut self.ready);
        }
    }

    fn watch(&mut self, id: InstanceId, reply: oneshot::Sender<Result<Outcome, EngineError>>) {
        if let Some(why) = self.blocked.get(&id) {
            let _ = reply.send(Err(EngineError::Blocked { why: why.clone(), id }));
            return;
        }
        // What runs ends by a message that comes later than this one; what has ended
        // may be in memory for its mail.
        let runs = |slot: &mut Slot| slot.body.recorder().execution.end.is_none();
        if !self.live.get_mut(&id).is_some_and(runs) {
            let ended = match self.parts.store.summary(&id) {
                Ok(Some(summary)) if summary.status.is_final() => super::view::outcome(&*self.parts.store, &id),
                Ok(Some(_)) => Ok(None),
                Ok(None) => Err(EngineError::UnknownInstance { id: id.clone() }),
                Err(error) => Err(error.into()),
            };
            if let Some(answer) = ended.transpose() {
                let _ = reply.send(answer);
                return;
            }
        }
        let waiting = self.watchers.entry(id).or_default();
        // Whoever asked and went away since is not kept.
        waiting.retain(|watcher| !watcher.is_closed());
        waiting.push(reply);
    }

    /// The end is durable: whoever waits is told, and nothing of it stays.
    fn ended(&mut self, id: &InstanceId, execution: ExecutionNumber, outcome: &Outcome) {
        let next_life =
            self.live.get_mut(id).is_some_and(|slot| slot.body.recorder().execution.started.execution > execution);
        if !next_life {
            self.blocked.remove(id);
            self.held.remove(id);
            self.callers.ended(id, outcome);
            // One that took mail since has a turn under way, which only its state knows of.
            // What came in when the end was recorded and not yet heard of is told of it.
            if self.live.get(id).is_some_and(|slot| self.is_durable(slot)) {
                self.drop_slot(id);
            }
        }
        for watcher in self.watchers.remove(id).unwrap_or_default() {
            let _ = watcher.send(Ok(outcome.clone()));
        }
        self.tell_joined(id, outcome);
    }

    /// Each entry among the timers stands for all that an instance waits for: one
    /// is always there at the earliest due time or before it. It is taken out here
    /// and put back, for what is due next, after the turn.
    fn take_due(&mut self) {
        let now = self.parts.clock.now();
        while self.ready.takes_due() && self.timers.peek().is_some_and(|Reverse((due, _))| *due <= now) {
            let Some(Reverse((_, id))) = self.timers.pop() else { return };
            self.recover_first(&id);
            if !self.live.contains_key(&id) {
                match self.load_bare(&id) {
                    Ok(slot) => drop(self.live.insert(id.clone(), slot)),
                    Err(reason) => {
                        self.give_up(&id, reason);
                        continue;
                    }
                }
            }
            if let Some(slot) = self.live.get_mut(&id) {
                slot.armed = None;
                slot.queue(id, Why::Due, &mut self.ready);
            }
        }
    }

    fn queue(&mut self, id: &InstanceId) {
        if let Some(slot) = self.live.get_mut(id) {
            slot.queue(id.clone(), Why::CameIn, &mut self.ready);
        }
    }

    // ---- turns ----

    /// Runs a round of those that are ready, each for one turn. False: the committer is gone.
    fn run_ready(&mut self) -> bool {
        let mut round = self.ready.round();
        while let Some(id) = self.ready.next(&mut round) {
            let Some(mut slot) = self.live.remove(&id) else { continue };
            slot.crowded &= !self.ready.is_of_crowded();
            self.idle.remove(slot.stamp);
            self.run_turn(id, slot);
            if self.group.len() >= TURNS_PER_GROUP && !self.flush() {
                return false;
            }
        }
        self.flush()
    }

    /// One turn of one instance: deliveries in, guest runs, sealed turns out. If
    /// the guest cannot be run, what came in is recorded without it.
    fn run_turn(&mut self, id: InstanceId, mut slot: Slot) {
        slot.queued = false;
        let now = self.parts.clock.now();
        slot.last_ran = now;
        let recorder = slot.body.recorder();
        recorder.begin(now);
        // Before what came in: an attempt that fails in this turn, and is to be tried
        // again at once, begins when this turn is durable. None while suspended: those
        // wait until it is durable that they are held no more.
        let (mut due, calls) = recorder.execution.begin_due(now);
        // One whose outcome came just now is only told again.
        posted(&recorder.execution, calls).into_iter().for_each(|posted| send(&self.parts.links, posted));
        let replies = self.record_inbox(&id, recorder, &mut slot.inbox);
        for fired in recorder.execution.timers_due(recorder.turn_time()) {
            recorder.deliver(fired);
        }
        // The turn that put these attempts off is durable: its timer was armed.
        // What came in may be its outcome, where the state was only loaded for that.
        let pending = &recorder.execution.pending;
        due.retain(|(call, turn)| {
            let waits = pending.get(&call.operation);
            matches!(waits, Some(Pending::Activity { attempt, .. }) if *attempt == turn.attempt)
        });
        self.parts.activities.dispatch(tasks(&self.parts.activities, &recorder.execution, due));
        let mut put_off = false;
        if recorder.execution.wants_turn() {
            match self.run_guest(&id, &mut slot, now) {
                Ok(ran) => put_off = !ran,
                Err(reason) => {
                    self.give_up(&id, reason);
                    return;
                }
            }
        } else if self.is_to_move(&slot) {
            put_off = !self.wake(&id, &mut slot, now);
        }
        self.seal(&mut slot, now, replies);
        self.take_snapshot(&id, &mut slot);
        self.put_back(id, slot, put_off);
    }

    /// The guest's part of the turn under way. False: it could not be run, and what came
    /// in is recorded without it.
    fn run_guest(&mut self, id: &InstanceId, slot: &mut Slot, now: TimestampMs) -> Result<bool, NotNow> {
        loop {
            let woken = self.wake(id, slot, now);
            let Body::Guest(guest, _) = &mut slot.body else { return Ok(woken) };
            let ran = guest.run_turn();
            let fault = guest.recorder_mut().take_fault();
            let is_to_be_judged = guest.is_inspected() && guest.recorder().was_ended_by_host();
            if ran.is_err() || fault.is_some() || is_to_be_judged {
                self.abandon(id, slot, now)?;
            }
            match (ran, fault) {
                (Err(trouble), _) => {
                    self.give_up(id, NotNow::Later(trouble.to_string()));
                    return Ok(false);
                }
                // Once more, in a guest of which the host's verdict counts.
                (Ok(()), _) if is_to_be_judged => slot.taking.is_plain = true,
                (Ok(()), Some((request, failure))) => {
                    // The entity goes on without it, from the state before.
                    slot.body.recorder().deliver(Event::OperationAborted { request, failure });
                    return Ok(true);
                }
                (Ok(()), None) => return Ok(true),
            }
        }
    }

    /// Lets the guest go and keeps its state.
    fn make_bare(slot: &mut Slot) {
        slot.body = std::mem::replace(&mut slot.body, Body::Changing).without_guest();
    }

    /// Seals the turn under way, if anything was recorded, and the next
    /// execution's first turn with it: they are durable together.
    fn seal(&mut self, slot: &mut Slot, now: TimestampMs, replies: Vec<Reply>) {
        let recorder = slot.body.recorder();
        if !recorder.has_recorded() {
            // They asked for what is so already; it is durable with all before it.
            self.replies.extend(replies);
            self.arm_again(slot);
            return;
        }
        let sealed = recorder.seal();
        let next = match &recorder.execution.end {
            Some(End::ContinuedAsNew(input)) => Some(self.next_life(recorder, input.clone())),
            _ => None,
        };
        slot.last_group = self.next_group();
        self.group.push(outbound(slot, sealed, replies));
        if let Some((started, carried)) = next {
            let (recorder, sealed) = Recorder::start_with(started, carried, self.parts.settings.limits, now);
            slot.body = Body::Bare(Box::new(recorder));
            slot.taking = Taking::default();
            self.group.push(outbound(slot, sealed, Vec::new()));
        }
    }

    /// Records what came in, and leaves in `inbox` what is for a turn after this one; returns
    /// whom to answer once the others are durable.
    fn record_inbox(&mut self, id: &InstanceId, recorder: &mut Recorder, inbox: &mut Vec<Inbound>) -> Vec<Reply> {
        let (mut replies, mut later): (Vec<Reply>, Vec<Inbound>) = Default::default();
        let had_ended = recorder.execution.end.is_some();
        for inbound in inbox.drain(..) {
            if recorder.execution.end.is_some() && !had_ended && inbound.is_mail() {
                // Nothing follows an outcome in its turn.
                later.push(inbound);
                continue;
            }
            let Some(inbound) = self.take_mail(recorder, inbound, &mut replies) else { continue };
            if recorder.execution.end.is_some() {
                let Some(inbound) = self.deliver_again_later(id, inbound) else { continue };
                let execution = &recorder.execution;
                let error = ended_error(&execution.started.instance, execution.status(), &inbound);
                inbound.refuse(error);
                continue;
            }
            let now = recorder.turn_time();
            match inbound {
                Inbound::ActivityOutcome { execution, operation, attempt, outcome, progress, reply } => {
                    if execution != recorder.execution.started.execution {
                        not_recorded(reply);
                        continue;
                    }
                    let default = match (&outcome, recorder.execution.pending.get(&operation)) {
                        (Err(_), Some(Pending::Activity { call, .. })) => {
                            self.parts.activities.default_retry(recorder.execution.started.instance.space(), &call.name)
                        }
                        _ => None,
                    };
                    let execution = &recorder.execution;
                    match execution.activity_outcome(operation, attempt, outcome, progress, default.as_ref(), now) {
                        Some(event) => {
                            recorder.deliver(event);
                            replies.extend(reply.map(when_recorded));
                        }
                        None => not_recorded(reply),
                    }
                }
                Inbound::Event { name, value, reply } => {
                    recorder.deliver(Event::EventRaised { name, value });
                    replies.push(Box::new(move |durable| drop(reply.send(durable))));
                }
                Inbound::EventOnce { key, reply, .. } if recorder.execution.keys.has(&key) => {
                    let error = EngineError::AlreadyRaised { id: recorder.execution.started.instance.clone(), key };
                    // Once the first one is durable: whoever hears this relies on it.
                    replies.push(Box::new(move |durable| drop(reply.send(durable.and(Err(error))))));
                }
                Inbound::EventOnce { key, name, value, reply } => {
                    recorder.deliver(Event::EventRaisedOnce { key, name, value });
                    replies.push(Box::new(move |durable| drop(reply.send(durable))));
                }
                Inbound::Cancel { reason, reply } => {
                    recorder.deliver(Event::CancelRequested { reason });
                    replies.push(Box::new(move |durable| drop(reply.send(durable))));
                }
                Inbound::Terminate { reason, reply } => {
                    recorder.deliver(Event::Terminated { reason });
                    replies.push(Box::new(move |durable| drop(reply.send(durable))));
                }
                Inbound::Hold { suspend, reason, reply } => {
                    if suspend != recorder.execution.suspended {
                        recorder.deliver(if suspend { Event::Suspended { reason } } else { Event::Resumed { reason } });
                    }
                    replies.push(Box::new(move |durable| drop(reply.send(durable))));
                }
                Inbound::Request(asked) => self.record_request(id, recorder, *asked),
                _ => unreachable!("mail is taken out before"),
            }
        }
        // What comes in before the next turn has this room again.
        inbox.shrink_to(INBOX_ROOM);
        inbox.append(&mut later);
        replies
    }

    /// Makes sure that the guest is in memory, in the state that the history left
    /// it in, with this turn's deliveries recorded. False: it cannot be, now.
    fn wake(&mut self, id: &InstanceId, slot: &mut Slot, now: TimestampMs) -> bool {
        if self.is_to_move(slot) {
            Self::make_bare(slot);
        }
        let Body::Bare(recorder) = &mut slot.body else { return true };
        if self.blocked.contains_key(id) {
            return false;
        }
        // It is re-created from the journal, which must have all of it.
        let begun = recorder.execution.begun;
        let is_behind = begun && self.parts.released.load(Ordering::Acquire) < slot.last_group;
        if is_behind {
            self.ask_to_be_woken();
        }
        if is_behind || self.ready.is_crowded() || !self.make_room() {
            self.ready.put_off((!slot.crowded).then(|| id.clone()));
            slot.crowded = true;
            self.parts.guests.put_off.fetch_add(1, Ordering::Relaxed);
            return false;
        }
        let module = match self.parts.modules.load(recorder.execution.module) {
            Ok(module) => module,
            Err(error) => {
                self.give_up(id, NotNow::Blocked(error.to_string()));
                return false;
            }
        };
        let guest = if begun {
            self.replayed(id, &module, (slot.past.take(), slot.taking.is_plain), recorder, now)
        } else {
            slot.body.begin(&module)
        };
        match guest {
            Ok(guest) => {
                // One that cannot have the other kind of guest now does not ask again.
                slot.taking.is_plain |= self.is_long(guest.recorder().execution.events) && !guest.is_inspected();
                slot.body = Body::Guest(Box::new(guest), Resident::new(&self.parts.guests, begun));
                true
            }
            Err(reason) => {
                self.give_up(id, reason);
                false
            }
        }
    }

    /// Puts the instance back to what its history says, with what came in for the turn
    /// under way and without the guest, which the host interrupted.
    fn abandon(&mut self, id: &InstanceId, slot: &mut Slot, now: TimestampMs) -> Result<(), NotNow> {
        if !self.is_durable(slot) {
            self.wait_until_durable();
        }
        let past = self.past_of(id)?;
        let mut bare = past.bare(self.parts.settings.limits).map_err(NotNow::Blocked)?;
        slot.past = Some(past);
        let (at, events) = slot.body.recorder().under_way();
        take_up(&mut bare, at, events.into_iter().filter(|event| event.origin() == Origin::Delivery), now);
        slot.body = Body::Bare(Box::new(bare));
        Ok(())
    }

    /// The number that the group being gathered will have.
    fn next_group(&self) -> u64 {
        self.groups_sent + 1
    }

    /// Hands the gathered turns to the committer. False: it is gone.
    fn flush(&mut self) -> bool {
        self.flush_as(0)
    }

    /// As [`Self::flush`], as one of so many groups that are one commit.
    fn flush_as(&mut self, of: usize) -> bool {
        if self.group.is_empty() && self.replies.is_empty() {
            return true;
        }
        self.groups_sent += 1;
        // The next one is likely as large.
        let next = Vec::with_capacity(self.group.len().min(TURNS_PER_GROUP));
        let (turns, replies) = (std::mem::replace(&mut self.group, next), std::mem::take(&mut self.replies));
        self.parts.groups.send(Group { worker: self.parts.number, turns, replies, of }).is_ok()
    }

    /// Hands over what is gathered and waits until it is in the journal. If the
    /// committer is gone instead, the next flush finds out.
    fn wait_until_durable(&mut self) {
        let (reply, durable) = mpsc::channel();
        self.replies.push(Box::new(move |_| {
            let _ = reply.send(());
        }));
        if self.flush() {
            let _ = durable.recv();
        }
    }

    /// An instance that is not run now: tried again later, or left as it is until
    /// the host is started with what it needs. Nothing of it is lost: what came in
    /// and was not recorded was not acknowledged.
    fn give_up(&mut self, id: &InstanceId, reason: NotNow) {
        let why = reason.text();
        match reason {
            NotNow::Gone(_) => {}
            NotNow::Later(_) => {
                tracing::warn!(instance = ?id, why, "the turn is put off");
                let again = self.parts.clock.now().plus(100);
                self.timers.push(Reverse((again, id.clone())));
            }
            NotNow::Blocked(_) | NotNow::Store(_) => {
                tracing::error!(instance = ?id, why, "the instance cannot go on");
                for watcher in self.watchers.remove(id).unwrap_or_default() {
                    let _ = watcher.send(Err(EngineError::Blocked { id: id.clone(), why: why.clone() }));
                }
                self.callers.blocked(id, &why);
                self.blocked.insert(id.clone(), why);
            }
        }
    }

    // ---- what is in memory ----

    /// The history so far.
    fn records(&self, id: &InstanceId) -> Result<Vec<TurnRecord>, NotNow> {
        let history = self.parts.store.history(id, None).map_err(|error| NotNow::Store(error.into()))?;
        history.ok_or(NotNow::Gone(None))?.decode().map_err(|error| NotNow::Blocked(error.to_string()))
    }

    fn load_bare(&self, id: &InstanceId) -> Result<Slot, NotNow> {
        self.load(id, |summary| !summary.status.is_final())
    }

    pub(super) fn store(&self) -> &dyn Store {
        &*self.parts.store
    }

    pub(super) fn modules(&self) -> &Modules {
        &self.parts.modules
    }

    pub(super) fn now(&self) -> TimestampMs {
        self.parts.clock.now()
    }

    /// The state of an instance that is in memory.
    pub(super) fn live_execution(&mut self, id: &InstanceId) -> Option<&Execution> {
        self.live.get_mut(id).map(|slot| &slot.body.recorder().execution)
    }

    fn load(&self, id: &InstanceId, wanted: impl FnOnce(&Summary) -> bool) -> Result<Slot, NotNow> {
        let store = &self.parts.store;
        let summary = store.summary(id).map_err(|error| NotNow::Store(error.into()))?.ok_or(NotNow::Gone(None))?;
        if !wanted(&summary) {
            return Err(NotNow::Gone(Some(Box::new(summary))));
        }
        let past = self.past(&summary)?;
        let recorder = past.bare(self.parts.settings.limits).map_err(NotNow::Blocked)?;
        let mut slot = self.new_slot(Body::Bare(Box::new(recorder)));
        // What was due by now is no longer among the timers, see `take_due`.
        let now = self.parts.clock.now();
        slot.armed = slot.body.recorder().execution.next_due().filter(|due| *due > now);
        (slot.taking, slot.past) = (Taking::since(&past), Some(past));
        Ok(slot)
    }

    fn new_slot(&self, body: Body) -> Slot {
        Slot {
            body,
            inbox: Vec::new(),
            queued: false,
            crowded: false,
            stamp: 0,
            last_ran: self.parts.clock.now(),
            last_group: 0,
            armed: None,
            past: None,
            taking: Taking::default(),
        }
    }

    fn put_back(&mut self, id: InstanceId, mut slot: Slot, put_off: bool) {
        let execution = &slot.body.recorder().execution;
        let wants_turn = execution.wants_turn() && !put_off || !slot.inbox.is_empty();
        let waits = execution.end.is_none() && !wants_turn;
        if waits && !put_off && !slot.queued && matches!(slot.body, Body::Bare(_)) && self.is_durable(&slot) {
            // Only its state was needed, and that is in the store.
            return;
        }
        self.stamps += 1;
        slot.stamp = self.stamps;
        slot.past = None;
        self.idle.insert(&slot, id.clone());
        if wants_turn {
            slot.queue(id.clone(), Why::CameIn, &mut self.ready);
        }
        self.live.insert(id, slot);
    }

    /// Puts an entry among the timers for a turn that recorded nothing.
    fn arm_again(&mut self, slot: &mut Slot) {
        let execution = &slot.body.recorder().execution;
        let (due, id) = (execution.next_due(), execution.started.instance.clone());
        if let Some(due) = due
            && slot.armed.is_none_or(|armed| armed > due)
        {
            slot.armed = Some(due);
            self.timers.push(Reverse((due, id)));
        }
    }

    fn is_durable(&self, slot: &Slot) -> bool {
        self.parts.released.load(Ordering::Acquire) >= slot.last_group
    }

    /// How an instance in memory ended, and whether that is durable; the outer none:
    /// it is not in memory.
    pub(super) fn end_of_live(&mut self, id: &InstanceId) -> Option<Option<(End, bool)>> {
        let released = self.parts.released.load(Ordering::Acquire);
        let slot = self.live.get_mut(id)?;
        let is_durable = released >= slot.last_group;
        Some(slot.body.recorder().execution.end.clone().map(|end| (end, is_durable)))
    }

    /// Takes an instance out of memory. What came in for it and was not looked at
    /// is answered from the journal.
    pub(super) fn drop_slot(&mut self, id: &InstanceId) {
        if let Some(Slot { body, inbox, stamp, .. }) = self.live.remove(id) {
            self.idle.remove(stamp);
            self.let_leave(body);
            inbox.into_iter().for_each(|inbound| self.deliver(id.clone(), inbound));
        }
    }
}

/// Begins again the turn that another recorder of the same history had under way.
fn take_up(recorder: &mut Recorder, at: TimestampMs, events: impl IntoIterator<Item = Event>, now: TimestampMs) {
    recorder.begin(at);
    // Attempts whose back-off was over were dispatched just now.
    recorder.execution.begin_due(now);
    events.into_iter().for_each(|event| recorder.deliver(event));
}

/// The state after `records`, without a guest.
pub(crate) fn bare_recorder(records: &[TurnRecord], limits: crate::core::turn::Limits) -> Result<Recorder, String> {
    let first = records.first().ok_or("the history is empty")?;
    let mut recorder = Recorder::of_history(first, limits)?;
    records.iter().try_for_each(|record| recorder.absorb(record))?;
    Ok(recorder)
}

/// A seed from the operating system: the one thing of an execution that is not
/// derived. It is recorded before anything is drawn from it.
pub(crate) fn fresh_seed() -> [u8; 32] {
    let mut seed = [0; 32];
    getrandom::fill(&mut seed).expect("the operating system gives randomness");
    seed
}

fn outbound(slot: &mut Slot, sealed: SealedTurn, replies: Vec<Reply>) -> Outbound {
    let recorder = slot.body.recorder();
    let (instance, execution) = (recorder.execution.started.instance.clone(), recorder.execution.started.execution);
    let logs = std::mem::take(&mut recorder.logs);
    let (turn, next_due) = (recorder.execution.turns, recorder.execution.next_due());
    let due = next_due.filter(|due| slot.armed.is_none_or(|armed| armed > *due));
    let posts = std::mem::take(&mut recorder.execution.posts);
    let posts = posted(&recorder.execution, posts);
    slot.armed = due.or(slot.armed);
    // It is longer now.
    slot.past = None;
    let about = About::of(&recorder.execution, &sealed.record);
    Outbound { instance, execution, turn, sealed, logs, replies, due, posts, about, adopted: None }
}

fn tasks(activities: &Activities, execution: &Execution, calls: Vec<(Arc<ActivityScheduled>, Turn)>) -> Vec<Arc<Task>> {
    let (instance, number) = (&execution.started.instance, execution.started.execution);
    let task = |(call, turn): (Arc<ActivityScheduled>, Turn)| {
        let key_execution = execution.started.key_execution(call.operation);
        activities.task((instance, execution.started.birth), number, key_execution, &call, turn)
    };
    calls.into_iter().map(task).collect()
}

/// Answers whoever brought an outcome, when it is durable that it counts.
fn when_recorded(reply: Recorded) -> Reply {
    Box::new(move |durable| drop(reply.send(durable.map(|()| true))))
}

/// Answers whoever brought an outcome that nobody waits for.
fn not_recorded(reply: Option<Recorded>) {
    if let Some(reply) = reply {
        let _ = reply.send(Ok(false));
    }
}

/// Which life of an instance it is, and where that stands.
fn position_of(execution: &Execution) -> (ExecutionNumber, crate::core::summary::Status) {
    (execution.started.execution, execution.status())
}

pub(super) fn being_removed(module: ModuleHash) -> EngineError {
    EngineError::UnknownModule { module: module.to_string(), exists: Vec::new() }
}

pub(super) fn not_delivered(id: &InstanceId, reason: NotNow, inbound: &Inbound) -> EngineError {
    match reason {
        NotNow::Gone(Some(summary)) => ended_error(id, summary.status, inbound),
        NotNow::Gone(None) => EngineError::UnknownInstance { id: id.clone() },
        NotNow::Store(error) => error,
        NotNow::Later(why) | NotNow::Blocked(why) => EngineError::Blocked { id: id.clone(), why },
    }
}

fn ended_error(id: &InstanceId, status: crate::core::summary::Status, inbound: &Inbound) -> EngineError {
    let what = match inbound {
        Inbound::ActivityOutcome { .. } => "the result".to_owned(),
        Inbound::Event { name, .. } | Inbound::EventOnce { name, .. } => format!("the event {name:?}"),
        Inbound::Cancel { .. } => "the cancellation".to_owned(),
        Inbound::Terminate { .. } => "the termination".to_owned(),
        Inbound::Hold { suspend: true, .. } => "the suspension".to_owned(),
        Inbound::Hold { suspend: false, .. } => "the resumption".to_owned(),
        Inbound::Request(asked) => asked.what(),
        Inbound::Letter(_) | Inbound::Answered { .. } => "the mail".to_owned(),
        Inbound::Returned { .. } => "the result".to_owned(),
        Inbound::CallerLeft { .. } => "the cancellation".to_owned(),
    };
    EngineError::Ended { id: id.clone(), status, what }
}

impl Message {
    /// The instance that it is for; none of what waits until all are recovered.
    fn instance(&self) -> Option<&InstanceId> {
        match self {
            Self::Start(started, ..) => Some(&started.instance),
            Self::Deliver(id, _)
            | Self::Watch(id, _)
            | Self::Arm(id, _)
            | Self::Ended(id, ..)
            | Self::LetGo(id)
            | Self::Answered(id, ..)
            | Self::Rewind(id, ..)
            | Self::Purged(id)
            | Self::Inspectable(id) => Some(id),
            Self::Call(..)
            | Self::Recover(_)
            | Self::Migrate(_)
            | Self::Adopt(_)
            | Self::Barrier(_)
            | Self::Recovered
            | Self::Wake
            | Self::Stop => None,
        }
    }

    /// Whether another instance sent it.
    fn is_between_instances(&self) -> bool {
        match self {
            Self::Call(..) => true,
            Self::Deliver(_, inbound) => {
                inbound.is_mail() || matches!(inbound, Inbound::Returned { .. } | Inbound::CallerLeft { .. })
            }
            _ => false,
        }
    }
}

impl Inbound {
    /// Whether it is taken also after the instance has ended.
    fn is_mail(&self) -> bool {
        matches!(self, Self::Letter(_) | Self::Answered { .. })
    }

    /// Whether an instance of which only the row is read is to be loaded for it.
    fn reaches(&self, summary: &Summary) -> bool {
        match self {
            Self::Letter(_) => true,
            Self::Answered { birth, key, .. } => summary.birth == *birth && summary.outbox.contains(key),
            Self::Returned { caller, .. } => {
                summary.waits.contains_key(&caller.operation) && summary.execution == caller.execution
            }
            _ => !summary.status.is_final(),
        }
    }

    pub(super) fn refuse(self, error: EngineError) {
        match self {
            Self::ActivityOutcome { reply, .. } => not_recorded(reply),
            Self::Letter(_) | Self::Answered { .. } | Self::Returned { .. } | Self::CallerLeft { .. } => {}
            Self::Request(asked) => asked.refuse(error),
            Self::Event { reply, .. }
            | Self::EventOnce { reply, .. }
            | Self::Cancel { reply, .. }
            | Self::Terminate { reply, .. }
            | Self::Hold { reply, .. } => {
                let _ = reply.send(Err(error));
            }
        }
    }
}

impl NotNow {
    pub(super) fn text(&self) -> String {
        match self {
            Self::Later(why) | Self::Blocked(why) => why.clone(),
            Self::Gone(_) => "it has ended".to_owned(),
            Self::Store(error) => error.to_string(),
        }
    }
}

fn ms(duration: Duration) -> u64 {
    u64::try_from(duration.as_millis()).unwrap_or(u64::MAX)
}
