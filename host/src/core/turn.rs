//! A turn: completions in, guest runs until it waits, commands out.
//!
//! The [`Recorder`] owns the state of one execution and the turn that is under
//! way. Every import of the guest is one call into it. It runs in one of two
//! ways: *live* it records what the guest asks; at *replay* it answers from the
//! recorded turn and compares every argument, and the first difference is a
//! [`Divergence`]. It knows no clock, no store and no wasm.
//!
//! A finished turn is a [`TurnRecord`]. It carries the hash of the turn before
//! it, so a history is a chain that can be verified from its last hash.

mod requests;
mod saved;
mod stream;

use std::cell::RefCell;
use std::collections::VecDeque;
use std::fmt;
use std::sync::Arc;

use serde::{Deserialize, Serialize};

pub use self::saved::SAVED_FORMAT;
use self::stream::Stream;
use super::calls::{MAX_RETRIED_ID_BYTES, OrchestrationOptions, OrchestrationScheduled, generated_id};
pub use super::divergence::Divergence;
use super::entity::is_entity;
use super::event::{ActivityOptions, ActivityScheduled, Event, Origin, SignalSent, Started};
use super::execution::{Delivery, Execution};
use super::ids::{Hash, InstanceId, ModuleHash, OperationId, TimestampMs};
use super::payload::{Failure, FailureKind, Outcome, Payload, shortened};
use super::request::RequestId;

/// What is stored of a turn.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct TurnRecord {
    /// The hash of the turn before, [`Hash::ZERO`] for the first.
    pub previous: Hash,
    /// When the turn ran; the guest's time stands still in it.
    pub at: TimestampMs,
    /// Whether the guest ran and was told everything that was recorded for it.
    pub ran: bool,
    /// What happened: deliveries, then what the guest asked, then the outcome.
    pub events: Vec<Event>,
}

impl TurnRecord {
    /// The bytes that are stored and hashed.
    pub fn encode(&self) -> Arc<[u8]> {
        // Turns are small and many: they are gathered where the last one was.
        thread_local!(static GATHERED: RefCell<Vec<u8>> = const { RefCell::new(Vec::new()) });
        GATHERED.with_borrow_mut(|gathered| {
            let written = postcard::to_extend(self, std::mem::take(gathered));
            *gathered = written.expect("a turn has no part that postcard cannot write");
            let bytes = gathered.as_slice().into();
            gathered.clear();
            gathered.shrink_to(64 << 10);
            bytes
        })
    }

    /// Whether the host ended the execution in it: the guest trapped or ran out of
    /// what it is granted, and cannot be called any more.
    pub fn is_ended_by_host(&self) -> bool {
        matches!(self.events.last(), Some(Event::Failed { by_host: true, .. }))
    }

    /// Reads what [`Self::encode`] wrote.
    ///
    /// # Errors
    /// Says what is wrong with the bytes.
    pub fn decode(bytes: &[u8]) -> Result<Self, String> {
        match postcard::take_from_bytes(bytes) {
            Ok((record, [])) => Ok(record),
            Ok((_, rest)) => Err(format!("{} bytes follow the turn", rest.len())),
            Err(error) => Err(format!("not a turn: {error}")),
        }
    }
}

/// A turn that was sealed: what is committed.
#[derive(Clone, Debug)]
pub struct SealedTurn {
    /// The number of its first event, from 1.
    pub first_event: u32,
    /// The turn.
    pub record: TurnRecord,
    /// The turn as it is stored.
    pub bytes: Arc<[u8]>,
    /// Hash of `bytes`.
    pub hash: Hash,
}

/// Bounds on what a guest can ask for, each with its reason.
#[derive(Clone, Copy, Debug)]
pub struct Limits {
    /// A payload is kept whole in memory, in the journal and in every answer.
    pub payload_bytes: usize,
    /// A turn is one journal entry, and is written as a whole.
    pub events_per_turn: usize,
    /// Bytes of payloads in one turn, for the same reason.
    pub bytes_per_turn: usize,
    /// Log lines of one turn are held until it is durable.
    pub log_lines_per_turn: usize,
}

impl Default for Limits {
    fn default() -> Self {
        Self { payload_bytes: 2 << 20, events_per_turn: 250_000, bytes_per_turn: 64 << 20, log_lines_per_turn: 10_000 }
    }
}

/// One line that a guest logged.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
pub struct LogLine {
    /// `error`, `warn`, `info`, `debug` or `trace`.
    pub level: LogLevel,
    /// Where it comes from, by the guest's own naming.
    pub target: String,
    /// The text.
    pub message: String,
    /// Structured fields.
    pub fields: Vec<(String, String)>,
}

/// How loud a log line is.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Serialize)]
#[serde(rename_all = "lowercase")]
pub enum LogLevel {
    /// Something is wrong.
    Error,
    /// Something may be wrong.
    Warn,
    /// Worth knowing.
    Info,
    /// For whoever looks closely.
    Debug,
    /// Every step.
    Trace,
}

impl fmt::Display for LogLine {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.message)?;
        self.fields.iter().try_for_each(|(name, value)| write!(f, " {name}={value}"))
    }
}

/// Why an import was not answered; the guest's turn ends here.
#[derive(Clone, Debug, PartialEq, thiserror::Error)]
pub enum Stop {
    /// A replay asked for something else.
    #[error(transparent)]
    Diverged(Box<Divergence>),
    /// A replay came to the event at which it was to stop, see [`Recorder::stop_at`].
    #[error("the replay stops before event {0}")]
    Reached(u32),
    /// The guest went past a limit or broke the contract.
    #[error("{0}")]
    Failed(Failure),
}

/// How the guest says that its turn ended.
#[derive(Clone, Debug, PartialEq)]
pub enum Progress {
    /// Every future waits.
    Suspended,
    /// It returned.
    Completed(Payload),
    /// It failed.
    Failed(Failure),
    /// The next execution starts with this input.
    ContinueAsNew(Payload),
}

/// How imports are answered in this turn.
#[derive(Clone, Debug)]
enum Mode {
    /// Recorded.
    Live,
    /// Compared with what is left of the recorded turn.
    Replay(VecDeque<Event>),
    /// Answered and forgotten: the turn is known to end by the host's verdict,
    /// and what the guest asked for before it was not recorded.
    Unrecorded,
}

/// The state of one execution and its turn under way. See the module's page.
#[derive(Clone, Debug)]
pub struct Recorder {
    /// The execution as it stands.
    pub execution: Execution,
    /// Bounds on the guest.
    pub limits: Limits,
    /// What the guest logged in this turn, in order; empty at replay unless
    /// [`Self::raw_logs`].
    pub logs: Vec<LogLine>,
    /// Keep log lines at replay too.
    pub raw_logs: bool,
    /// With [`Self::raw_logs`], for each line of [`Self::logs`] the number of the
    /// event after which it was logged.
    pub logged_after: Vec<u32>,
    /// At replay: stop where the guest asks for this event, to see where it is.
    pub stop_at: Option<u32>,
    values: Stream,
    wasi: Stream,
    mode: Mode,
    ran: bool,
    turn: Vec<Event>,
    turn_bytes: usize,
    /// Where the guest's part of [`Execution::posts`] begins.
    asked_posts: usize,
    /// The first operation that the guest asks for in this turn.
    asked_operations: OperationId,
    /// Requests that the guest was told of in this turn.
    told_requests: Vec<RequestId>,
    /// See [`Self::take_fault`].
    fault: Option<(RequestId, Failure)>,
}

impl Recorder {
    /// A recorder with no turn recorded yet.
    pub fn new(started: Box<Started>, limits: Limits) -> Self {
        Self {
            values: Stream::new(started.seed, VALUES),
            wasi: Stream::new(started.seed, WASI),
            execution: Execution::new(started),
            limits,
            logs: Vec::new(),
            raw_logs: false,
            logged_after: Vec::new(),
            stop_at: None,
            mode: Mode::Live,
            ran: false,
            turn: Vec::new(),
            turn_bytes: 0,
            asked_posts: 0,
            asked_operations: 1,
            told_requests: Vec::new(),
            fault: None,
        }
    }

    /// Records a new execution's first turn: that it exists.
    pub fn start(started: Box<Started>, limits: Limits, at: TimestampMs) -> (Self, SealedTurn) {
        Self::start_with(started, Vec::new(), limits, at)
    }

    /// As [`Self::start`], for the execution after one that left it `carried`: see
    /// [`super::request::Requests::carried_on`].
    pub fn start_with(
        started: Box<Started>,
        carried: Vec<Event>,
        limits: Limits,
        at: TimestampMs,
    ) -> (Self, SealedTurn) {
        let mut recorder = Self::new(started, limits);
        recorder.begin(at);
        recorder.deliver(Event::ExecutionStarted(recorder.execution.started.clone()));
        carried.into_iter().for_each(|event| recorder.deliver(event));
        let sealed = recorder.seal();
        (recorder, sealed)
    }

    /// The recorder of a history whose first turn is `first`.
    ///
    /// # Errors
    /// Says why `first` cannot be the beginning of a history.
    pub fn of_history(first: &TurnRecord, limits: Limits) -> Result<Self, String> {
        match first.events.first() {
            Some(Event::ExecutionStarted(started)) if started.format > super::event::FORMAT => Err(format!(
                "the history is of format {}, this host reads up to {}; use a newer host",
                started.format,
                super::event::FORMAT
            )),
            Some(Event::ExecutionStarted(started)) if started.retry_algorithm > super::retry::ALGORITHM => {
                Err(format!(
                    "the history uses retry algorithm {}, this host knows up to {}; use a newer host",
                    started.retry_algorithm,
                    super::retry::ALGORITHM
                ))
            }
            Some(Event::ExecutionStarted(started)) => Ok(Self::new(started.clone(), limits)),
            Some(other) => Err(format!("a history begins with execution-started, found {}", other.kind())),
            None => Err("a history begins with execution-started, found an empty turn".to_owned()),
        }
    }

    // ---- a turn, from outside ----

    /// Begins a live turn. Time does not run backwards.
    pub fn begin(&mut self, at: TimestampMs) {
        self.mode = Mode::Live;
        self.open_turn(at.max(self.execution.now));
    }

    /// Begins the replay of a recorded turn: its deliveries are taken, its
    /// guest's part is expected. Returns whether the guest is to run.
    ///
    /// # Errors
    /// Says where the chain is broken.
    pub fn begin_replay(&mut self, record: &TurnRecord) -> Result<bool, String> {
        if record.previous != self.execution.head {
            return Err(format!(
                "turn {} (from event {}) does not follow the one before it: expected hash {}, found {}",
                self.execution.turns + 1,
                self.execution.events + 1,
                self.execution.head.short(),
                record.previous.short()
            ));
        }
        self.open_turn(record.at);
        // The one of the turn before has been used up, and its room serves again.
        let mut expected = match std::mem::replace(&mut self.mode, Mode::Live) {
            Mode::Replay(rest) => rest,
            _ => VecDeque::new(),
        };
        let guest_part = record.events.iter().position(|e| e.origin() != Origin::Delivery);
        let (deliveries, asked) = record.events.split_at(guest_part.unwrap_or(record.events.len()));
        deliveries.iter().for_each(|event| self.deliver(event.clone()));
        self.mode = match asked {
            [.., Event::Failed { by_host: true, .. }] if record.ran => Mode::Unrecorded,
            _ => {
                expected.clear();
                expected.extend(asked.iter().cloned());
                Mode::Replay(expected)
            }
        };
        Ok(record.ran)
    }

    /// Records something that came from outside.
    pub fn deliver(&mut self, event: Event) {
        self.push(event);
    }

    /// Whether what the guest asks for now is recorded, rather than compared.
    pub fn is_live(&self) -> bool {
        matches!(self.mode, Mode::Live)
    }

    /// What the guest is to be told. From here on the turn counts as run.
    pub fn hand_over(&mut self) -> HandOver {
        if !self.ran {
            self.asked_posts = self.execution.posts.len();
            self.asked_operations = self.execution.next_operation();
        }
        self.ran = true;
        if !self.execution.begun {
            self.execution.begun = true;
            return HandOver::Start;
        }
        let ready = self.execution.take_ready();
        self.told_requests.extend(ready.iter().filter_map(|delivery| match delivery {
            Delivery::Requested(request) => Some(request.id),
            _ => None,
        }));
        HandOver::Resume(ready)
    }

    /// Whether, after the guest suspended, there is more that it can be told
    /// within this turn (an event that was here already, a refusal).
    pub fn has_more(&self) -> bool {
        self.execution.wants_turn()
    }

    /// Whether the turn under way has anything to seal.
    pub fn has_recorded(&self) -> bool {
        self.ran || !self.turn.is_empty()
    }

    /// The time and the events of the turn under way.
    pub fn under_way(&self) -> (TimestampMs, Vec<Event>) {
        (self.execution.now, self.turn.clone())
    }

    /// Takes the guest's word on how the turn ended.
    ///
    /// # Errors
    /// At replay, if the recording ended otherwise; and for an output over the limit.
    pub fn conclude(&mut self, progress: Progress) -> Result<(), Stop> {
        let event = match progress {
            Progress::Suspended => return self.expect_end(),
            // A deleted entity of which more is asked begins anew.
            Progress::Completed(_) if self.execution.is_busy_entity() => {
                Event::ContinuedAsNew { input: Payload::null() }
            }
            Progress::Completed(output) => {
                self.check_size("the output", &output)?;
                Event::Completed { output }
            }
            Progress::Failed(failure) => Event::Failed { failure: self.fitting(failure), by_host: false },
            Progress::ContinueAsNew(input) => {
                self.check_size("the next execution's input", &input)?;
                Event::ContinuedAsNew { input }
            }
        };
        self.answer(event, |recorded, asked| recorded == asked)?;
        self.expect_end()
    }

    /// Ends the execution by the host's verdict: what the guest asked for in this
    /// turn is forgotten, and what was delivered stays.
    ///
    /// # Errors
    /// At replay: the recorded turn did not end so.
    pub fn fail_by_host(&mut self, failure: Failure) -> Result<(), Box<Divergence>> {
        let event = Event::Failed { failure: self.fitting(failure), by_host: true };
        if let Mode::Replay(expected) = &mut self.mode {
            let recorded = expected.pop_front();
            return Err(self.divergence(recorded, Some(event)));
        }
        if let Event::Failed { failure, .. } = &event {
            self.fault = self.at_fault().map(|request| (request, failure.clone()));
        }
        self.turn.retain(|event| event.origin() == Origin::Delivery);
        self.execution.forget_asked(self.asked_posts, self.asked_operations);
        self.push(event);
        Ok(())
    }

    /// The operation of an entity at which the host ended this turn, if the turn could
    /// do without it: the guest was told of it in this turn. Then the turn need not
    /// count, see [`Event::OperationAborted`].
    pub fn take_fault(&mut self) -> Option<(RequestId, Failure)> {
        self.fault.take()
    }

    fn at_fault(&self) -> Option<RequestId> {
        let at = self.execution.requests.gate.at();
        at.filter(|request| self.told_requests.contains(request))
    }

    /// Whether the turn under way ends with the host's verdict.
    pub fn was_ended_by_host(&self) -> bool {
        matches!(self.turn.last(), Some(Event::Failed { by_host: true, .. }))
    }

    /// Takes the recorded verdict of a replayed turn that the host ended.
    pub fn repeat_verdict(&mut self, record: &TurnRecord) {
        if let Some(Event::Failed { failure, by_host: true }) = record.events.last() {
            self.turn.retain(|event| event.origin() == Origin::Delivery);
            self.execution.forget_asked(self.asked_posts, self.asked_operations);
            self.push(Event::Failed { failure: failure.clone(), by_host: true });
        }
    }

    /// Whether the turn under way is the replay of one that the host ended.
    pub fn ends_by_host(&self) -> bool {
        matches!(self.mode, Mode::Unrecorded)
    }

    /// Takes a recorded turn without running a guest: state only.
    ///
    /// # Errors
    /// Says where the chain is broken.
    pub fn absorb(&mut self, record: &TurnRecord) -> Result<(), String> {
        self.begin_replay(record)?;
        if record.ran {
            self.execution.begun = true;
            self.execution.take_ready();
        }
        self.mode = Mode::Live;
        let taken = self.turn.len();
        for event in &record.events[taken..] {
            self.push(event.clone());
            if record.ran {
                self.execution.take_ready();
            }
        }
        self.ran = record.ran;
        self.seal();
        self.execution.posts.clear();
        Ok(())
    }

    /// Ends the turn: the record to commit.
    pub fn seal(&mut self) -> SealedTurn {
        let first_event = self.first_event();
        let record = TurnRecord {
            previous: self.execution.head,
            at: self.execution.now,
            ran: self.ran,
            events: std::mem::take(&mut self.turn),
        };
        let bytes = record.encode();
        let hash = Hash::of(&bytes);
        self.close_turn(record.events.len(), hash);
        SealedTurn { first_event, record, bytes, hash }
    }

    /// Ends the replay of a recorded turn, all of which has matched. `hash` is
    /// that of the recorded bytes.
    pub fn seal_replayed(&mut self, hash: Hash) {
        self.close_turn(self.turn.len(), hash);
        self.execution.posts.clear();
    }

    fn close_turn(&mut self, events: usize, hash: Hash) {
        self.execution.events += events as u32;
        self.execution.head = hash;
        self.execution.turns += 1;
    }

    /// What the execution after a continue-as-new starts from: tags and events
    /// that were not taken go along.
    pub fn next_execution(&self, input: Payload, seed: [u8; 32]) -> Box<Started> {
        let ended = &self.execution;
        Box::new(Started {
            execution: ended.started.execution + 1,
            module: ended.module,
            forked_from: None,
            input,
            seed,
            retry_algorithm: super::retry::ALGORITHM,
            format: super::event::FORMAT,
            tags: ended.tags.iter().map(|(n, v)| (n.clone(), v.clone())).collect(),
            buffered: ended.untaken_events(),
            start_at: None,
            keys: ended.keys.clone(),
            shared: Vec::new(),
            outbox: ended.outbox.letters().map(|(key, letter)| (key, letter.clone())).collect(),
            seen: ended.seen.clone(),
            ..(*ended.started).clone()
        })
    }

    // ---- imports: values ----

    /// The time of this turn, recorded.
    pub fn now(&mut self) -> Result<TimestampMs, Stop> {
        let time = self.execution.now;
        self.answer(Event::NowRead { time }, |recorded, asked| recorded == asked)?;
        Ok(time)
    }

    /// The time of this turn, unrecorded: what virtual clocks show.
    pub fn turn_time(&self) -> TimestampMs {
        self.execution.now
    }

    /// 64 random bits, recorded.
    pub fn random(&mut self) -> Result<u64, Stop> {
        let value = self.values.next_u64();
        match self.answer(Event::RandomDrawn { value }, |recorded, _| matches!(recorded, Event::RandomDrawn { .. }))? {
            Some(Event::RandomDrawn { value }) => Ok(*value),
            _ => Ok(value),
        }
    }

    /// Random bytes for virtual WASI, unrecorded: they follow from the seed.
    pub fn wasi_random(&mut self, bytes: &mut [u8]) {
        self.wasi.fill(bytes);
    }

    /// A version 4 UUID, recorded.
    pub fn new_guid(&mut self) -> Result<String, Stop> {
        let mut bytes = [0; 16];
        self.values.fill(&mut bytes);
        let guid = uuid::Builder::from_random_bytes(bytes).into_uuid().to_string();
        let asked = Event::GuidGenerated { guid: guid.clone() };
        match self.answer(asked, |recorded, _| matches!(recorded, Event::GuidGenerated { .. }))? {
            Some(Event::GuidGenerated { guid }) => Ok(guid.clone()),
            _ => Ok(guid),
        }
    }

    /// Records a value that the guest computed; at replay the recorded one.
    pub fn record_value(&mut self, name: String, value: Payload) -> Result<Payload, Stop> {
        self.check_size(format_args!("the recorded value {name:?}"), &value)?;
        let asked = Event::ValueRecorded { name, value: value.clone() };
        let same_name = |recorded: &Event, asked: &Event| match (recorded, asked) {
            (Event::ValueRecorded { name: a, .. }, Event::ValueRecorded { name: b, .. }) => a == b,
            _ => false,
        };
        match self.answer(asked, same_name)? {
            Some(Event::ValueRecorded { value, .. }) => Ok(value.clone()),
            _ => Ok(value),
        }
    }

    /// Whether the changed code of `id` is to run. The first answer in an
    /// execution is the answer for ever; yes is recorded.
    pub fn patched(&mut self, id: String) -> Result<bool, Stop> {
        if let Some(answer) = self.execution.patched(&id) {
            return Ok(answer);
        }
        if let Mode::Replay(expected) = &self.mode
            && !matches!(expected.front(), Some(Event::Patched { id: recorded }) if *recorded == id)
        {
            self.execution.not_patched(&id);
            return Ok(false);
        }
        self.answer(Event::Patched { id }, |recorded, asked| recorded == asked)?;
        Ok(true)
    }

    // ---- imports: operations ----

    /// An activity is to run.
    pub fn call_activity(
        &mut self,
        name: String,
        input: Payload,
        options: ActivityOptions,
    ) -> Result<OperationId, Stop> {
        let operation = self.execution.next_operation();
        let refusal = self.refusal_of_call(&name, &input, &options);
        let asked = || format!("activity {name}, {}", fingerprint(&input));
        if let Some(failure) = self.refused(refusal) {
            return self.refuse(asked(), failure);
        }
        let call = ActivityScheduled { operation, name, input, options };
        self.operation(Event::ActivityScheduled(Arc::new(call)))
    }

    /// A timer is to fire, unless its time is zero or less.
    pub fn delay(&mut self, ms: i64) -> Result<Option<OperationId>, Stop> {
        let Ok(ms @ 1..) = u64::try_from(ms) else {
            return Ok(None);
        };
        let operation = self.execution.next_operation();
        let fire_at = self.execution.now.plus(ms);
        self.operation(Event::TimerScheduled { operation, fire_at }).map(Some)
    }

    /// The guest waits for an event.
    pub fn wait_for_event(&mut self, name: String) -> Result<OperationId, Stop> {
        let operation = self.execution.next_operation();
        self.operation(Event::EventAwaited { operation, name })
    }

    /// Another orchestration is to run, as `instance` or under an id of its own.
    pub fn call_orchestration(
        &mut self,
        name: String,
        input: Payload,
        instance: Option<&str>,
        options: OrchestrationOptions,
    ) -> Result<OperationId, Stop> {
        let operation = self.execution.next_operation();
        let (started, generated) = (&self.execution.started, instance.is_none());
        let called = match instance {
            None => Ok(generated_id(started, operation)),
            Some(text) => started.instance.neighbour(text).map_err(|invalid| {
                Failure::fatal(FailureKind::Unsupported, format!("{name} cannot be called: {invalid}"))
            }),
        };
        let called = called.and_then(|called| self.callable(&name, &input, called, &options));
        let refusal = self.refused(called.as_ref().err().cloned());
        match (called, refusal) {
            (Ok(instance), None) => {
                let call = OrchestrationScheduled { operation, instance, name, input, options };
                self.answer(Event::OrchestrationScheduled(Box::new(call)), |recorded, asked| {
                    match (recorded, asked) {
                        // In a fork the recorded one comes from the history it was cut from.
                        (Event::OrchestrationScheduled(a), Event::OrchestrationScheduled(b)) if generated => {
                            OrchestrationScheduled { instance: b.instance.clone(), ..(**a).clone() } == **b
                        }
                        _ => recorded == asked,
                    }
                })?;
                Ok(operation)
            }
            (Err(failure), None) | (_, Some(failure)) => {
                self.refuse(format!("orchestration {name}, {}", fingerprint(&input)), failure)
            }
        }
    }

    /// An event is to be raised on another instance.
    pub fn signal(&mut self, to: &str, name: String, value: Payload) -> Result<OperationId, Stop> {
        let receiver = self.receiver(to, &name, &value);
        let refusal = self.refused(receiver.as_ref().err().cloned());
        match (receiver, refusal) {
            (Ok(to), None) => {
                let operation = self.execution.next_operation();
                self.operation(Event::SignalSent(Box::new(SignalSent { operation, to, name, value })))
            }
            (Err(failure), None) | (_, Some(failure)) => {
                self.refuse(format!("signal {name:?} to {to:?}, {}", fingerprint(&value)), failure)
            }
        }
    }

    /// The guest has taken the event of that wait into use.
    pub fn received(&mut self, operation: OperationId) {
        self.execution.received(operation);
    }

    /// The guest no longer waits. Not recorded where that changes nothing.
    pub fn cancel(&mut self, operation: OperationId) -> Result<(), Stop> {
        if self.execution.can_cancel(operation) {
            self.answer(Event::OperationCancelled { operation }, |recorded, asked| recorded == asked)?;
        }
        Ok(())
    }

    /// What people see of the instance.
    pub fn set_custom_status(&mut self, status: Payload) -> Result<(), Stop> {
        self.check_size("the custom status", &status)?;
        self.answer(Event::CustomStatusSet { status }, |recorded, asked| recorded == asked).map(drop)
    }

    /// Adds, replaces or removes a tag.
    pub fn set_tag(&mut self, name: String, value: String) -> Result<(), Stop> {
        self.answer(Event::TagSet { name, value }, |recorded, asked| recorded == asked).map(drop)
    }

    /// A log line: kept until the turn is durable, dropped at replay.
    pub fn log(&mut self, line: LogLine) {
        if (matches!(self.mode, Mode::Live) || self.raw_logs) && self.logs.len() < self.limits.log_lines_per_turn {
            self.logs.push(line);
            if self.raw_logs {
                self.logged_after.push(self.next_event() - 1);
            }
        }
    }

    // ---- how imports are answered ----

    fn operation(&mut self, event: Event) -> Result<OperationId, Stop> {
        let operation = self.execution.next_operation();
        self.answer(event, |recorded, asked| recorded == asked)?;
        Ok(operation)
    }

    fn refuse(&mut self, asked: String, failure: Failure) -> Result<OperationId, Stop> {
        let event = Event::OperationRefused { operation: self.execution.next_operation(), asked, failure };
        let operation = self.execution.next_operation();
        self.answer(event, |recorded, asked| match (recorded, asked) {
            (Event::OperationRefused { asked: a, .. }, Event::OperationRefused { asked: b, .. }) => a == b,
            _ => false,
        })?;
        Ok(operation)
    }

    /// The one place where live and replay part. Live: `asked` is recorded.
    /// Replay: the next recorded event must match it, and is returned.
    fn answer(&mut self, asked: Event, same: impl Fn(&Event, &Event) -> bool) -> Result<Option<&Event>, Stop> {
        if self.stop_at.is_some_and(|event| event == self.next_event()) {
            return Err(Stop::Reached(self.next_event()));
        }
        match &mut self.mode {
            Mode::Live => {
                self.check_turn(&asked)?;
                self.push(asked);
                Ok(None)
            }
            Mode::Unrecorded => {
                self.execution.apply(&asked);
                Ok(None)
            }
            Mode::Replay(expected) => match expected.pop_front() {
                Some(recorded) if same(&recorded, &asked) => {
                    self.push(recorded);
                    Ok(self.turn.last())
                }
                recorded => Err(self.diverged(recorded, Some(asked))),
            },
        }
    }

    fn expect_end(&mut self) -> Result<(), Stop> {
        match &mut self.mode {
            Mode::Live | Mode::Unrecorded => Ok(()),
            Mode::Replay(expected) => match expected.pop_front() {
                None => Ok(()),
                // Only the host's own word may follow what the guest asked.
                Some(event @ Event::Terminated { .. }) => {
                    self.push(event);
                    Ok(())
                }
                recorded => Err(self.diverged(recorded, None)),
            },
        }
    }

    fn diverged(&self, recorded: Option<Event>, asked: Option<Event>) -> Stop {
        Stop::Diverged(self.divergence(recorded, asked))
    }

    fn divergence(&self, recorded: Option<Event>, asked: Option<Event>) -> Box<Divergence> {
        Box::new(Divergence {
            instance: self.execution.started.instance.to_string(),
            event: self.next_event(),
            turn: self.execution.turns + 1,
            recorded,
            asked,
            recorded_later: None,
            modules: None,
            source: Vec::new(),
            common: self.execution.events + self.turn.iter().filter(|e| e.origin() == Origin::Delivery).count() as u32,
        })
    }

    fn push(&mut self, event: Event) {
        self.execution.apply(&event);
        self.turn.push(event);
    }

    fn open_turn(&mut self, at: TimestampMs) {
        if self.execution.turns == 0 {
            self.execution.started_at = at;
        }
        if let Some(from) = &self.execution.started.forked_from
            && let Some(seed) = from.begins(self.execution.turns)
        {
            // What is drawn from here on is the fork's own.
            (self.values, self.wasi) = (Stream::new(seed, VALUES), Stream::new(seed, WASI));
        }
        self.execution.now = at;
        self.ran = false;
        self.turn.clear();
        self.told_requests.clear();
        self.fault = None;
        self.turn_bytes = 0;
        self.logs.clear();
        self.execution.requests.begin_turn();
        self.logged_after.clear();
    }

    fn first_event(&self) -> u32 {
        self.execution.events + 1
    }

    /// The number that the next event gets.
    fn next_event(&self) -> u32 {
        self.first_event() + self.turn.len() as u32
    }

    // ---- limits ----

    fn check_size(&self, what: impl fmt::Display, payload: &Payload) -> Result<(), Stop> {
        match too_large(what, payload.len(), self.limits.payload_bytes) {
            Some(failure) if matches!(self.mode, Mode::Live) => Err(Stop::Failed(failure)),
            _ => Ok(()),
        }
    }

    fn check_turn(&mut self, asked: &Event) -> Result<(), Stop> {
        self.turn_bytes += match asked {
            Event::ActivityScheduled(call) => call.input.len(),
            Event::ValueRecorded { value, .. } => value.len(),
            Event::CustomStatusSet { status } => status.len(),
            Event::EventAwaited { name, .. } => name.len(),
            Event::TagSet { name, value } => name.len() + value.len(),
            Event::OperationRefused { asked, .. } => asked.len(),
            Event::Responded { answer: Ok(output), .. } => output.len(),
            Event::OrchestrationScheduled(call) => call.input.len(),
            Event::SignalSent(signal) => signal.name.len() + signal.value.len(),
            Event::EntityCalled(call) => call.name.len() + call.input.len(),
            Event::LockAsked { entities, .. } => entities.len() * super::ids::MAX_ID_BYTES,
            _ => 0,
        };
        let limits = &self.limits;
        let message = if self.turn.len() >= limits.events_per_turn {
            format!("one turn asked for more than {} things", limits.events_per_turn)
        } else if self.turn_bytes > limits.bytes_per_turn {
            format!("one turn asked for more than {} bytes", limits.bytes_per_turn)
        } else {
            return Ok(());
        };
        Err(Stop::Failed(Failure::fatal(
            FailureKind::Exhausted,
            format!("{message}; wait for some of it before asking for more"),
        )))
    }

    fn refusal_of_call(&self, name: &str, input: &Payload, options: &ActivityOptions) -> Option<Failure> {
        if let Some(failure) = too_large(format_args!("the input of {name}"), input.len(), self.limits.payload_bytes) {
            return Some(failure);
        }
        let refuse = |message: String| Some(Failure::fatal(FailureKind::Unsupported, message));
        if let Some(fault) = options.retry.as_ref().and_then(super::retry::RetryPolicy::fault) {
            return refuse(format!("the retry policy of {name} is not valid: {fault}"));
        }
        refuse(format!("the options of {name} are not valid: {}", options.fault()?))
    }

    fn callable(
        &self,
        name: &str,
        input: &Payload,
        called: InstanceId,
        options: &OrchestrationOptions,
    ) -> Result<InstanceId, Failure> {
        if let Some(failure) = too_large(format_args!("the input of {name}"), input.len(), self.limits.payload_bytes) {
            return Err(failure);
        }
        let refuse = |message: String| Err(Failure::fatal(FailureKind::Unsupported, message));
        if is_entity(&called) {
            return refuse(format!("the id {called} is one of an entity; choose one without '@' at its beginning"));
        }
        if called == self.execution.started.instance {
            return refuse(format!("{called} cannot call itself; continue as new, or choose another instance id"));
        }
        if let Some(fault) = options.retry.as_ref().and_then(super::retry::RetryPolicy::fault) {
            return refuse(format!("the retry policy of {name} is not valid: {fault}"));
        }
        if options.retry.is_some() && called.local().len() > MAX_RETRIED_ID_BYTES {
            return refuse(format!(
                "an instance that may be tried again has an id of up to {MAX_RETRIED_ID_BYTES} bytes"
            ));
        }
        Ok(called)
    }

    fn receiver(&self, to: &str, name: &str, value: &Payload) -> Result<InstanceId, Failure> {
        if let Some(failure) = too_large(format_args!("the signal {name:?}"), value.len(), self.limits.payload_bytes) {
            return Err(failure);
        }
        let not_found = |message: String| Failure::fatal(FailureKind::NotFound, message);
        if name.is_empty() || name.len() > 200 {
            return Err(not_found(format!("an event's name has 1 to 200 bytes, found {}", name.len())));
        }
        let to = self.execution.started.instance.neighbour(to).map_err(|invalid| not_found(invalid.to_string()))?;
        if is_entity(&to) {
            return Err(not_found(format!(
                "{to} is an entity, which takes operations and no events; signal one of those"
            )));
        }
        Ok(to)
    }

    /// Live, a refusal is the host's own; at replay, what was recorded counts.
    fn refused(&self, live: Option<Failure>) -> Option<Failure> {
        match &self.mode {
            Mode::Live | Mode::Unrecorded => live,
            Mode::Replay(expected) => match expected.front() {
                Some(Event::OperationRefused { failure, .. }) => Some(failure.clone()),
                _ => None,
            },
        }
    }

    fn fitting(&self, mut failure: Failure) -> Failure {
        // A failure says why something went wrong and must not itself go wrong.
        failure.message = shortened(&failure.message, self.limits.payload_bytes.min(64 << 10));
        failure.error_type = shortened(&failure.error_type, 1 << 10);
        if failure.details.as_ref().is_some_and(|d| d.len() > self.limits.payload_bytes) {
            failure.details = None;
            failure.message.push_str(" (details dropped: too large)");
        }
        failure
    }
}

/// Streams of randomness that are drawn from one seed.
const VALUES: u64 = 1;
const WASI: u64 = 2;

/// What a guest is to be called with. See [`Recorder::hand_over`].
#[derive(Debug, PartialEq)]
pub enum HandOver {
    /// `start`, with the execution's input.
    Start,
    /// `resume`, with these.
    Resume(Vec<Delivery>),
}

/// The failure of a payload over the limit, if it is.
pub fn too_large(what: impl fmt::Display, found: usize, limit: usize) -> Option<Failure> {
    (found > limit).then(|| {
        Failure::fatal(
            FailureKind::TooLarge,
            format!("{what} has {found} bytes, at most {limit} are allowed; store it elsewhere and pass a reference"),
        )
    })
}

fn fingerprint(payload: &Payload) -> String {
    format!("{} bytes {}", payload.len(), Hash::of(&payload.data).short())
}

/// The module that a history is replayed with: the one that its execution was
/// migrated to last, else the one that it started with.
pub fn module_of(records: &[TurnRecord]) -> Option<ModuleHash> {
    records.iter().flat_map(|record| &record.events).fold(None, |module, event| match event {
        Event::ExecutionStarted(started) => Some(started.module),
        Event::ModuleMigrated { to, .. } => Some(*to),
        _ => module,
    })
}

/// What an instance ended with, if `event` is its end.
pub fn final_outcome(event: &Event) -> Option<Outcome> {
    match event {
        Event::Completed { output } => Some(Ok(output.clone())),
        Event::Failed { failure, .. } => Some(Err(failure.clone())),
        Event::Terminated { reason } => Some(Err(Failure::fatal(FailureKind::Terminated, reason.clone()))),
        _ => None,
    }
}
