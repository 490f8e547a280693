//! One guest in memory: instantiated, run for a turn, replayed from a history.
//!
//! A [`Guest`] owns the recorder of its execution while it lives, because the
//! imports need both. It never waits: between turns nothing of it is on any
//! stack. Trouble of the host (no room, no memory) comes back as [`HostTrouble`]
//! and leaves no trace; whatever the guest does wrong ends its own execution as a
//! recorded failure.

mod query;

use std::sync::Arc;
use std::time::Duration;

use wasmtime::{ResourceLimiter, Store, Trap};

use super::bindings::orchestration::Orchestration;
use super::bindings::orchestration::exports::dacapo::workflow::guest as wit;
use super::direct::{DirectGuest, DirectState};
use super::interrupt::Interrupt;
use super::layout::Layout;
use super::settings::TICK;
use super::snapshot::Places;
use super::wasi::{Handles, Lines};
use super::{Linked, OrchestrationModule, frames};
use crate::core::divergence::SourceLine;
use crate::core::event::Event;
use crate::core::execution::Delivery;
use crate::core::ids::{Hash, ModuleHash};
use crate::core::payload::{Failure, FailureKind};
use crate::core::request::RequestKind;
use crate::core::turn::{Divergence, HandOver, Progress, Recorder, Stop, TurnRecord};

/// What a store of the sandbox holds.
pub(super) struct GuestState {
    /// None in `describe`.
    pub(super) recorder: Option<Box<Recorder>>,
    /// Which export is running, for messages.
    pub(super) calling: &'static str,
    pub(super) lines: Lines,
    pub(super) handles: Handles,
    pub(super) interrupt: Interrupt,
    pub(super) direct: DirectState,
    memory: MemoryCap,
}

struct MemoryCap {
    limit: usize,
}

/// The guest asked for more memory than it is granted.
#[derive(Debug, thiserror::Error)]
#[error("the guest asked for {asked} bytes of memory, it is granted {limit}")]
struct MemoryExhausted {
    asked: usize,
    limit: usize,
}

impl ResourceLimiter for MemoryCap {
    fn memory_growing(&mut self, _current: usize, desired: usize, _maximum: Option<usize>) -> wasmtime::Result<bool> {
        if desired > self.limit {
            return Err(wasmtime::Error::new(MemoryExhausted { asked: desired, limit: self.limit }));
        }
        Ok(true)
    }

    fn table_growing(&mut self, _current: usize, desired: usize, _maximum: Option<usize>) -> wasmtime::Result<bool> {
        Ok(desired <= 1_000_000)
    }
}

/// The host cannot run a guest now: the turn is put off, nothing is recorded.
#[derive(Debug, thiserror::Error)]
#[error("the host could not start a guest: {0}")]
pub struct HostTrouble(pub String);

/// Why a history could not be replayed.
#[derive(Debug, thiserror::Error)]
pub enum ReplayError {
    /// The guest asked for something else than what was recorded.
    #[error(transparent)]
    Diverged(Box<Divergence>),
    /// The history is not whole.
    #[error("the history cannot be replayed: {0}")]
    Broken(String),
    /// The host cannot run a guest now.
    #[error(transparent)]
    Host(#[from] HostTrouble),
}

/// A guest in memory. See the module's page.
pub struct Guest {
    pub(super) store: Store<GuestState>,
    exports: Exports,
    budget_ticks: u64,
    pub(super) module: ModuleHash,
    /// Where its state is, in a sandbox that inspects.
    pub(super) layout: Option<Arc<Layout>>,
    /// The same, once it was asked for.
    pub(super) places: Option<Arc<Places>>,
}

/// How a guest is called.
enum Exports {
    Component(Orchestration),
    Direct(DirectGuest),
}

impl std::fmt::Debug for Guest {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Guest").field("recorder", self.recorder()).finish_non_exhaustive()
    }
}

impl Guest {
    /// Instantiates a module for the execution that `recorder` records.
    ///
    /// # Errors
    /// [`HostTrouble`] if there is no room, with the recorder as it was.
    pub fn new(
        module: &OrchestrationModule,
        recorder: impl Into<Box<Recorder>>,
    ) -> Result<Self, (HostTrouble, Box<Recorder>)> {
        Self::instantiate(module, Some(recorder.into()), "turn")
            .map_err(|(error, recorder)| (HostTrouble(format!("{error:#}")), recorder.expect("it was given")))
    }

    fn instantiate(
        module: &OrchestrationModule,
        recorder: Option<Box<Recorder>>,
        calling: &'static str,
    ) -> Result<Self, (wasmtime::Error, Option<Box<Recorder>>)> {
        let settings = &module.settings;
        let namespace = recorder.as_ref().map(|recorder| recorder.execution.started.instance.namespace());
        let memory = MemoryCap { limit: settings.memory_of(&namespace.unwrap_or_default()) };
        let (lines, handles) = (Lines::default(), Handles::default());
        let interrupt = settings.interrupt.clone();
        let direct = DirectState::default();
        let state = GuestState { recorder, calling, lines, handles, interrupt, direct, memory };
        let mut store = Store::new(module.linked.engine(), state);
        store.limiter(|state| &mut state.memory);
        let budget_ticks = ticks(settings.turn_budget);
        store.set_epoch_deadline(budget_ticks);
        match module.linked.instantiate(&mut store) {
            Ok(exports) => {
                let layout = module.layout.clone();
                Ok(Self { store, exports, budget_ticks, module: module.hash, layout, places: None })
            }
            Err(error) => Err((error, store.into_data().recorder)),
        }
    }

    /// What the module says of itself.
    pub(super) fn describe(module: &OrchestrationModule) -> wasmtime::Result<wit::Description> {
        let mut guest = Self::instantiate(module, None, "describe").map_err(|(error, _)| error)?;
        match &mut guest.exports {
            Exports::Component(exports) => exports.dacapo_workflow_guest().call_describe(&mut guest.store),
            Exports::Direct(exports) => exports.describe(&mut guest.store),
        }
    }

    /// The recorder of this guest's execution.
    pub fn recorder(&self) -> &Recorder {
        self.store.data().recorder.as_ref().expect("only describe runs without a recorder")
    }

    /// Lets the guest go and keeps the state of its execution.
    pub fn into_recorder(self) -> Box<Recorder> {
        self.store.into_data().recorder.expect("only describe runs without a recorder")
    }

    /// The recorder of this guest's execution.
    pub fn recorder_mut(&mut self) -> &mut Recorder {
        self.store.data_mut().recorder.as_mut().expect("only describe runs without a recorder")
    }

    /// Runs the guest's part of the turn under way: hands over what is recorded
    /// for it until it waits with nothing more to be told. What the guest does
    /// wrong ends the execution with a recorded failure.
    ///
    /// # Errors
    /// At replay, the first difference. Live, only [`ReplayError::Host`]: the turn was
    /// interrupted, and the guest is of no use any more.
    pub fn run_turn(&mut self) -> Result<(), ReplayError> {
        self.store.set_epoch_deadline(self.budget_ticks);
        loop {
            let hand_over = self.recorder_mut().hand_over();
            let progress = match self.call(hand_over) {
                Ok(progress) => progress,
                Err(error) => match error.downcast::<HostTrouble>() {
                    Ok(trouble) => return Err(trouble.into()),
                    Err(error) => return self.end_by_host(&error).map_err(ReplayError::Diverged),
                },
            };
            let suspended = progress == Progress::Suspended;
            if suspended && self.recorder().has_more() {
                continue;
            }
            return match self.recorder_mut().conclude(progress) {
                Ok(()) => Ok(()),
                Err(Stop::Diverged(divergence)) => Err(ReplayError::Diverged(self.located(divergence, None))),
                Err(Stop::Failed(failure)) => {
                    let verdict = self.recorder_mut().fail_by_host(failure);
                    verdict.map_err(|divergence| ReplayError::Diverged(self.located(divergence, None)))
                }
                Err(Stop::Reached(_)) => unreachable!("a turn's end is no event that a guest asks for"),
            };
        }
    }

    fn call(&mut self, hand_over: HandOver) -> wasmtime::Result<Progress> {
        let store = &mut self.store;
        let progress = match hand_over {
            HandOver::Start => {
                let recorder = store.data().recorder.as_ref().expect("a turn has a recorder");
                let started = &recorder.execution.started;
                let (name, input) = (started.orchestration.clone(), started.input.clone().into());
                match &mut self.exports {
                    Exports::Component(guest) => guest.dacapo_workflow_guest().call_start(store, &name, &input)?,
                    Exports::Direct(guest) => guest.start(store, &name, &input)?,
                }
            }
            HandOver::Resume(deliveries) => {
                let deliveries: Vec<_> = deliveries.into_iter().map(Into::into).collect();
                match &mut self.exports {
                    Exports::Component(guest) => guest.dacapo_workflow_guest().call_resume(store, &deliveries)?,
                    Exports::Direct(guest) => guest.resume(store, &deliveries)?,
                }
            }
        };
        Ok(match progress {
            wit::Progress::Suspended => Progress::Suspended,
            wit::Progress::Completed(output) => Progress::Completed(output.into()),
            wit::Progress::Failed(failure) => Progress::Failed(failure.into()),
            wit::Progress::ContinueAsNew(input) => Progress::ContinueAsNew(input.into()),
        })
    }

    fn end_by_host(&mut self, error: &wasmtime::Error) -> Result<(), Box<Divergence>> {
        if let Some(Stop::Diverged(divergence)) = error.downcast_ref::<Stop>() {
            return Err(self.located(divergence.clone(), Some(error)));
        }
        let failure = failure_of(error);
        let verdict = self.recorder_mut().fail_by_host(failure);
        verdict.map_err(|divergence| self.located(divergence, Some(error)))
    }

    /// A difference with the guest's part in it: its module, and where it asked.
    fn located(&self, mut divergence: Box<Divergence>, error: Option<&wasmtime::Error>) -> Box<Divergence> {
        let recorded = self.recorder().execution.started.module;
        divergence.modules = (recorded != self.module).then(|| (recorded.short(), self.module.short()));
        divergence.source = error.map(frames::source_lines).unwrap_or_default();
        divergence
    }

    /// Replays `turn` up to where the guest asks for its event number `event`, and
    /// says where in its source that is, the innermost line first. None: nothing
    /// was asked there, or it cannot be known. The guest is of no use afterwards.
    pub fn source_of(mut self, turn: &TurnRecord, event: u32) -> Option<Vec<SourceLine>> {
        let recorder = self.recorder_mut();
        if !recorder.begin_replay(turn).ok()? || recorder.ends_by_host() {
            return None;
        }
        recorder.stop_at = Some(event);
        self.store.set_epoch_deadline(self.budget_ticks);
        loop {
            let hand_over = self.recorder_mut().hand_over();
            match self.call(hand_over) {
                Ok(Progress::Suspended) if self.recorder().has_more() => {}
                Ok(_) => return None,
                Err(error) => {
                    let reached = matches!(error.downcast_ref::<Stop>(), Some(Stop::Reached(_)));
                    return reached.then(|| frames::source_lines(&error));
                }
            }
        }
    }

    /// Replays recorded turns on top of what the guest has seen so far.
    ///
    /// # Errors
    /// The first difference, or where the history is broken.
    pub fn replay(&mut self, turns: &[TurnRecord]) -> Result<(), ReplayError> {
        let first = self.recorder().execution.events + 1;
        let replayed = turns.iter().enumerate().try_for_each(|(at, turn)| self.replay_turn(turn, turns.get(at + 1)));
        replayed.map_err(|mut error| {
            if let ReplayError::Diverged(divergence) = &mut error {
                divergence.look_ahead(first, turns);
            }
            error
        })
    }

    /// Replays one recorded turn; `next` follows it in the history, if one does.
    ///
    /// # Errors
    /// The first difference, or where the history is broken.
    pub fn replay_turn(&mut self, turn: &TurnRecord, next: Option<&TurnRecord>) -> Result<(), ReplayError> {
        let runs = self.recorder_mut().begin_replay(turn).map_err(ReplayError::Broken)?;
        if !runs {
            // Only deliveries, and perhaps the end from outside.
            self.recorder_mut().conclude(Progress::Suspended).map_err(replay_error)?;
        } else if self.recorder().ends_by_host() {
            self.repeat_failure(turn)?;
        } else {
            self.run_turn()?;
        }
        // The next turn carries the hash of this one's bytes.
        let hash = next.map_or_else(|| Hash::of(&turn.encode()), |next| next.previous);
        self.recorder_mut().seal_replayed(hash);
        Ok(())
    }

    /// A turn that the host ended: a trap traps again. What ran out of time or
    /// memory is not run again; its verdict depends on the host that gave it.
    fn repeat_failure(&mut self, turn: &TurnRecord) -> Result<(), ReplayError> {
        let Some(Event::Failed { failure, .. }) = turn.events.last() else {
            return Err(ReplayError::Broken("a turn ended by the host has no failure".to_owned()));
        };
        if failure.kind == FailureKind::Trapped {
            let hand_over = self.recorder_mut().hand_over();
            let mut outcome = self.call(hand_over);
            while matches!(outcome, Ok(Progress::Suspended)) && self.recorder().has_more() {
                let more = self.recorder_mut().hand_over();
                outcome = self.call(more);
            }
            if let Ok(progress) = outcome {
                return Err(ReplayError::Broken(format!(
                    "event {} records that the guest trapped ({}), now it ended its turn with {progress:?}",
                    self.recorder().execution.events + turn.events.len() as u32,
                    failure.message
                )));
            }
        } else {
            self.recorder_mut().hand_over();
        }
        self.recorder_mut().repeat_verdict(turn);
        Ok(())
    }
}

impl Linked {
    fn instantiate(&self, store: &mut Store<GuestState>) -> wasmtime::Result<Exports> {
        match self {
            Self::Component(pre) => pre.instantiate(store).map(Exports::Component),
            Self::Direct(module) => module.instantiate(store).map(Exports::Direct),
        }
    }
}

fn replay_error(stop: Stop) -> ReplayError {
    match stop {
        Stop::Diverged(divergence) => ReplayError::Diverged(divergence),
        Stop::Failed(failure) => ReplayError::Broken(failure.to_string()),
        Stop::Reached(event) => ReplayError::Broken(format!("it stopped before event {event}")),
    }
}

fn ticks(budget: Duration) -> u64 {
    // One more, since the first tick comes at any time.
    (budget.as_millis() / TICK.as_millis()) as u64 + 1
}

/// What a guest's trap means to the one who reads the history.
fn failure_of(error: &wasmtime::Error) -> Failure {
    if let Some(Stop::Failed(failure)) = error.downcast_ref::<Stop>() {
        return failure.clone();
    }
    if let Some(exhausted) = error.downcast_ref::<MemoryExhausted>() {
        return Failure::fatal(FailureKind::Exhausted, exhausted.to_string());
    }
    match error.downcast_ref::<Trap>() {
        Some(Trap::Interrupt) => Failure::fatal(
            FailureKind::Exhausted,
            format!("the guest ran longer than one turn may take; {}", frames::where_it_was(error)),
        ),
        Some(trap) => {
            Failure::fatal(FailureKind::Trapped, format!("the guest trapped: {trap}; {}", frames::where_it_was(error)))
        }
        None => Failure::fatal(FailureKind::Trapped, format!("the guest broke the contract: {}", error.root_cause())),
    }
}

impl From<Delivery> for wit::Delivery {
    fn from(delivery: Delivery) -> Self {
        match delivery {
            Delivery::Completed(operation, outcome) => {
                Self::Completed(wit::Completion { operation, outcome: outcome.map(Into::into).map_err(Into::into) })
            }
            Delivery::CancelRequested(reason) => Self::CancelRequested(reason),
            Delivery::Requested(request) => Self::Requested(wit::Request {
                id: request.id,
                kind: match request.kind {
                    RequestKind::Update => wit::RequestKind::Update,
                    RequestKind::EntityOperation => wit::RequestKind::EntityOperation,
                },
                name: request.name.clone(),
                input: request.input.clone().into(),
            }),
        }
    }
}
