//! The engine as tests run it: real sandbox, real file, and everything that could
//! be chance in the test's hand. The clock moves when told to, activities answer
//! when told to, and the host dies at the commit where it is to die.
//!
//! A [`World`] outlives its hosts: it has the file, the clock and the [`Desk`] at
//! which all activities are answered. A [`Host`] is one engine on that file.

mod clock;
mod desk;
mod imports;
mod store;

use std::path::{Path, PathBuf};
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, Condvar, Mutex, MutexGuard, OnceLock, PoisonError};
use std::time::{Duration, Instant};

use dacapo::core::event::Event;
use dacapo::core::ids::{ExecutionNumber, InstanceId};
use dacapo::core::payload::{Failure, Outcome, Payload};
use dacapo::core::retry::RetryPolicy;
use dacapo::core::summary::Summary;
use dacapo::core::turn::{Limits, LogLine, Recorder, TurnRecord, module_of};
use dacapo::engine::{Clock, Engine, EngineError, EngineSettings, IdReuse, StartOutcome, StartRequest, Task, Upload};
use dacapo::sandbox::guest::{Guest, ReplayError};
use dacapo::sandbox::settings::SandboxSettings;
use dacapo::sandbox::{OrchestrationModule, Sandbox};
use dacapo::store::redb::{Options, RedbStore};
use dacapo::store::schedule::Schedule;
use dacapo::store::{Module, Store, StoreError};
use serde_json::Value;

pub(crate) use self::clock::ManualClock;
pub(crate) use self::desk::{Desk, failed, text};
pub(crate) use self::imports::{Imports, Interruption};
pub(crate) use self::store::Death;

use self::store::WatchedStore;
use crate::guests::guest;

/// Nothing waits so long unless it waits for ever.
const FOR_EVER: Duration = Duration::from_secs(180);

/// The day on which every world begins: 2026-01-01T00:00:00Z.
pub(crate) const NEW_YEAR: u64 = 1_767_225_600_000;

pub(crate) const SECOND: u64 = 1_000;
pub(crate) const DAY: u64 = 86_400 * SECOND;

pub(crate) fn id(text: &str) -> InstanceId {
    InstanceId::new(text).expect("a valid id")
}

fn lock<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}

/// Waits until `probe` finds what it looks for; it looks again at each signal.
fn wait_for<T, R>(mutex: &Mutex<T>, signal: &Condvar, what: &str, mut probe: impl FnMut(&mut T) -> Option<R>) -> R {
    let mut guard = lock(mutex);
    loop {
        if let Some(found) = probe(&mut guard) {
            return found;
        }
        let (next, timeout) = signal.wait_timeout(guard, FOR_EVER).unwrap_or_else(PoisonError::into_inner);
        guard = next;
        assert!(!timeout.timed_out(), "waited in vain for {what}");
    }
}

// ---- the world ----

const ACTIVITIES: [&str; 9] = [
    "step.one",
    "step.two",
    "step.keep",
    "step.keep_text",
    "step.square",
    "step.do",
    "step.undo",
    "step.flaky",
    "step.slow",
];

/// What stays when a host goes.
pub(crate) struct World {
    pub(crate) clock: Arc<ManualClock>,
    pub(crate) desk: Arc<Desk>,
    pub(crate) settings: EngineSettings,
    /// How the file is written.
    pub(crate) store: Options,
    /// What `step.flaky` says of itself.
    pub(crate) flaky_policy: Option<RetryPolicy>,
    /// What guests ask for in live turns.
    pub(crate) imports: Arc<Imports>,
    /// What guests logged: instance and line.
    pub(crate) log: Arc<Mutex<Vec<String>>>,
    modules: Vec<(String, Arc<[u8]>)>,
    folder: PathBuf,
    runtime: tokio::runtime::Runtime,
}

impl World {
    /// A world with the module `steps`.
    pub(crate) fn new() -> Self {
        Self::with(&["steps"])
    }

    /// A world with these modules.
    pub(crate) fn with(modules: &[&str]) -> Self {
        let runtime = tokio::runtime::Builder::new_multi_thread().worker_threads(1).enable_all().build();
        let settings = EngineSettings {
            sandbox: SandboxSettings { resident_guests: 64, memory_bytes: 16 << 20, ..SandboxSettings::default() },
            cache: Some(temporary("compiled")),
            workers: 2,
            ..EngineSettings::default()
        };
        Self {
            clock: ManualClock::at(NEW_YEAR),
            desk: Arc::default(),
            settings,
            store: Options::default(),
            flaky_policy: None,
            imports: Arc::default(),
            log: Arc::default(),
            modules: modules.iter().map(|name| ((*name).to_owned(), guest(name))).collect(),
            folder: fresh_folder(),
            runtime: runtime.expect("a runtime"),
        }
    }

    /// A host on this world's file.
    pub(crate) fn open(&self) -> Host<'_> {
        self.try_open(None).expect("the engine opens")
    }

    /// A host that will die.
    pub(crate) fn open_until(&self, death: Death) -> Host<'_> {
        self.try_open(Some(death)).expect("the engine opens")
    }

    /// Why no host can be opened.
    pub(crate) fn open_error(&self) -> EngineError {
        match self.try_open(None) {
            Ok(_) => panic!("it was opened"),
            Err(error) => error,
        }
    }

    /// The file. A handler of the host before may hold it a moment longer than
    /// that host: it was looking into the journal.
    fn open_store(&self, death: Option<Death>) -> Result<WatchedStore, StoreError> {
        let since = Instant::now();
        loop {
            match WatchedStore::open(&self.folder.join("journal.redb"), self.store.clone(), death) {
                Err(StoreError::InUse { .. }) if since.elapsed() < FOR_EVER => std::thread::yield_now(),
                opened => return opened,
            }
        }
    }

    fn try_open(&self, death: Option<Death>) -> Result<Host<'_>, EngineError> {
        let store = Arc::new(self.open_store(death)?);
        self.desk.serve(&store);
        self.imports.serve(&store);
        let log = self.log.clone();
        let show = move |instance: &InstanceId, execution: ExecutionNumber, line: &LogLine| {
            lock(&log).push(format!("{instance}/{execution} {line}"));
        };
        let _in_runtime = self.runtime.enter();
        let mut settings = self.settings.clone();
        settings.sandbox.interrupt = self.imports.interrupt();
        let engine = Engine::open(store.clone(), self.clock.clone(), settings, Some(Arc::new(show)))?;
        let host = Host { world: self, engine: Some(engine), store: Some(store) };
        for (name, bytes) in &self.modules {
            let known = host.engine().modules().all()?.iter().any(|module| module.name == *name);
            if !known {
                host.upload(name, None, bytes)?;
            }
        }
        for name in ACTIVITIES {
            let policy = self.flaky_policy.clone().filter(|_| name == "step.flaky");
            host.serve(name, policy);
        }
        Ok(host)
    }

    /// The same journal on another machine: a copy of the file, no compiled
    /// modules, other workers, another day.
    pub(crate) fn elsewhere(&self, days_later: u64) -> Self {
        let mut other = Self::with(&[]);
        other.settings = EngineSettings { cache: None, workers: 1, ..self.settings.clone() };
        other.clock = ManualClock::at(self.clock.now().0 + days_later * DAY);
        std::fs::copy(self.folder.join("journal.redb"), other.folder.join("journal.redb")).expect("a copy");
        other
    }

    /// The store's file.
    pub(crate) fn journal(&self) -> PathBuf {
        self.folder.join("journal.redb")
    }

    /// The bytes of the journal.
    pub(crate) fn journal_bytes(&self) -> Vec<u8> {
        std::fs::read(self.journal()).expect("a journal")
    }

    pub(crate) fn log_lines(&self) -> Vec<String> {
        lock(&self.log).clone()
    }
}

impl Drop for World {
    fn drop(&mut self) {
        let _ = std::fs::remove_dir_all(&self.folder);
    }
}

/// A place for what tests keep.
pub(crate) fn temporary(name: &str) -> PathBuf {
    Path::new(env!("CARGO_TARGET_TMPDIR")).join(name)
}

fn fresh_folder() -> PathBuf {
    static COUNT: AtomicU64 = AtomicU64::new(0);
    let number = COUNT.fetch_add(1, Ordering::Relaxed);
    let folder = temporary(&format!("world-{}-{number}", std::process::id()));
    let _ = std::fs::remove_dir_all(&folder);
    std::fs::create_dir_all(&folder).expect("a folder for the test");
    folder
}

// ---- a host ----

/// One engine on a world's file. Dropped, it stops between two turns, and what
/// was under way is lost: activities that run are forgotten.
pub(crate) struct Host<'w> {
    world: &'w World,
    engine: Option<Engine>,
    store: Option<Arc<WatchedStore>>,
}

impl Host<'_> {
    pub(crate) fn engine(&self) -> &Engine {
        self.engine.as_ref().expect("a host has an engine until it is dropped")
    }

    /// How often its engine has read a whole history.
    pub(crate) fn histories_read(&self) -> usize {
        self.store().histories()
    }

    /// The clock of its world.
    pub(crate) fn clock(&self) -> Arc<ManualClock> {
        self.world.clock.clone()
    }

    /// While `meanwhile` runs, no commit becomes durable.
    pub(crate) fn without_commits<T>(&self, meanwhile: impl FnOnce() -> T) -> T {
        self.store().hold(true);
        let done = meanwhile();
        self.store().hold(false);
        done
    }

    fn store(&self) -> &WatchedStore {
        self.store.as_ref().expect("a host has a store until it is dropped")
    }

    pub(crate) fn block_on<F: Future>(&self, future: F) -> F::Output {
        self.world.runtime.block_on(async { tokio::time::timeout(FOR_EVER, future).await.expect("the engine answers") })
    }

    pub(crate) fn upload(&self, name: &str, version: Option<&str>, bytes: &[u8]) -> Result<Module, EngineError> {
        self.engine().upload(Upload {
            bytes: bytes.to_vec(),
            name: name.to_owned(),
            version: version.map(str::to_owned),
            ..Upload::default()
        })
    }

    /// Serves an activity at the desk.
    pub(crate) fn serve(&self, name: &str, policy: Option<RetryPolicy>) {
        let desk = self.world.desk.clone();
        let handler = move |task: Arc<Task>| -> futures::future::BoxFuture<'static, Outcome> {
            let answer = desk.take(&task);
            Box::pin(async move {
                match answer {
                    Ok(outcome) => outcome,
                    Err(later) => match later.await {
                        Ok(outcome) => outcome,
                        Err(_) => futures::future::pending().await,
                    },
                }
            })
        };
        self.engine().serve_activity(name, policy, Arc::new(handler));
    }

    pub(crate) fn try_start(&self, request: StartRequest) -> Result<StartOutcome, EngineError> {
        self.block_on(self.engine().start(request))
    }

    /// Starts an instance, or takes the one that is there.
    pub(crate) fn start(&self, instance: &str, orchestration: &str, input: Value) -> Result<StartOutcome, EngineError> {
        self.try_start(start(instance, orchestration, input))
    }

    pub(crate) fn raise(&self, instance: &str, name: &str, value: Value) -> Result<(), EngineError> {
        self.block_on(self.engine().raise(&id(instance), name, Payload::json(value.to_string())))
    }

    pub(crate) fn outcome(&self, instance: &str) -> Result<Outcome, EngineError> {
        self.block_on(self.engine().outcome(&id(instance)))
    }

    /// The output of an instance that completes.
    pub(crate) fn output(&self, instance: &str) -> Value {
        let outcome = self.outcome(instance).expect("it ends");
        outcome.unwrap_or_else(|failure| panic!("{instance} failed: {failure}")).to_json().expect("JSON")
    }

    /// The failure of an instance that fails.
    pub(crate) fn failure(&self, instance: &str) -> Failure {
        self.outcome(instance).expect("it ends").expect_err("a failure")
    }

    /// Starts an instance and waits for its output.
    pub(crate) fn run(&self, instance: &str, orchestration: &str, input: Value) -> Value {
        self.start(instance, orchestration, input).expect("it starts");
        self.output(instance)
    }

    // ---- histories ----

    pub(crate) fn records_of(&self, instance: &str, execution: Option<u32>) -> Vec<TurnRecord> {
        self.engine().history(&id(instance), execution).expect("a history").decode().expect("a sound chain")
    }

    pub(crate) fn records(&self, instance: &str) -> Vec<TurnRecord> {
        self.records_of(instance, None)
    }

    pub(crate) fn events(&self, instance: &str) -> Vec<Event> {
        self.records(instance).into_iter().flat_map(|record| record.events).collect()
    }

    pub(crate) fn kinds(&self, instance: &str) -> Vec<&'static str> {
        self.events(instance).iter().map(Event::kind).collect()
    }

    /// How often an event of that kind is recorded.
    pub(crate) fn count(&self, instance: &str, kind: &str) -> usize {
        self.kinds(instance).into_iter().filter(|found| *found == kind).count()
    }

    /// Waits until the journal has `count` events of `kind`.
    pub(crate) fn wait_kind(&self, instance: &str, kind: &str, count: usize) {
        let of = id(instance);
        self.store().wait(&format!("{count} {kind} of {instance}"), |store| {
            let records = store.history(&of, None).expect("a readable store")?.decode().expect("a sound chain");
            let found = records.iter().flat_map(|record| &record.events).filter(|event| event.kind() == kind).count();
            (found >= count).then_some(())
        });
    }

    /// Waits until the journal says that of the instance.
    pub(crate) fn wait_summary(&self, instance: &str, what: &str, probe: impl Fn(&Summary) -> bool) -> Summary {
        let of = id(instance);
        self.store().wait(what, |store| store.summary(&of).expect("a readable store").filter(&probe))
    }

    /// Moves time on to `time`, if it is not there.
    pub(crate) fn advance_to(&self, time: u64) {
        self.world.clock.advance_to(time);
    }

    /// Waits until the row of the schedule says that.
    pub(crate) fn wait_schedule(&self, name: &str, what: &str, probe: impl Fn(&Schedule) -> bool) -> Schedule {
        self.store().wait(what, |store| {
            let schedules = store.schedules().expect("a readable store");
            schedules.into_iter().find(|schedule| schedule.name == name).filter(&probe)
        })
    }

    /// Waits until the journal holds what `probe` looks for; none if the host dies first.
    pub(crate) fn wait_or_death<R>(&self, what: &str, probe: impl FnMut(&RedbStore) -> Option<R>) -> Option<R> {
        self.store().wait_or_death(what, probe)
    }

    /// Waits until the instance's worker has done everything that it was told
    /// before: a start that is refused is answered after all that. Twice, since
    /// the first answer may let out something that comes back to the worker.
    pub(crate) fn settle(&self, instance: &str) {
        self.try_settle(instance).expect("a host that lives");
    }

    /// [`Self::settle`] on a host that may be dead.
    pub(crate) fn try_settle(&self, instance: &str) -> Result<(), EngineError> {
        for _ in 0..2 {
            let again = StartRequest { reuse: IdReuse::Reject, ..start(instance, "sleeps", Value::Null) };
            match self.try_start(again).expect_err("it exists") {
                EngineError::AlreadyExists { .. } => {}
                error => return Err(error),
            }
        }
        Ok(())
    }

    /// Waits until the journal knows nothing of the instance.
    pub(crate) fn wait_gone(&self, instance: &str) {
        let of = id(instance);
        self.store().wait("its purge", |store| store.summary(&of).expect("a readable store").is_none().then_some(()));
    }

    /// Moves time on by `ms` until the instance has ended.
    pub(crate) fn advance_to_end(&self, instance: &str, ms: u64) -> Result<(), EngineError> {
        while !self.engine().summary(&id(instance))?.expect("its row").status.is_final() {
            self.world.clock.advance(ms);
            let again = StartRequest { reuse: IdReuse::Reject, ..start(instance, "sleeps", Value::Null) };
            match self.try_start(again) {
                Err(EngineError::AlreadyExists { .. }) => {}
                other => return other.map(drop),
            }
        }
        Ok(())
    }

    /// Checks every execution of an instance: its chain, its turns' form, a full
    /// replay in a fresh guest, and that no activity ran before its call was durable.
    pub(crate) fn assert_sound(&self, instance: &str) {
        self.assert_sound_history(instance);
        for call in self.world.desk.calls() {
            assert!(call.was_durable, "{call:?} was let out before it was durable");
        }
    }

    /// As above, but for the activities.
    pub(crate) fn assert_sound_history(&self, instance: &str) {
        let last = self.engine().summary(&id(instance)).expect("a readable store").expect("its row").execution;
        for execution in 1..=last {
            let records = self.records_of(instance, Some(execution));
            let module = self.replay_module(&records);
            assert_replays(&module, &records);
        }
    }

    /// The instance's module, loaded in a sandbox that is not the engine's.
    pub(crate) fn replay_module(&self, records: &[TurnRecord]) -> OrchestrationModule {
        self.module_in(replay_sandbox(), records)
    }

    /// The instance's module, loaded in that sandbox.
    pub(crate) fn module_in(&self, sandbox: &Sandbox, records: &[TurnRecord]) -> OrchestrationModule {
        let module = module_of(records).expect("a history begins with execution-started");
        let bytes = self.engine().modules().bytes(module).expect("its module");
        sandbox.load(module, &bytes).expect("a module that was checked")
    }
}

impl Drop for Host<'_> {
    fn drop(&mut self) {
        drop(self.engine.take());
        let store = self.store.take().map(|store| Arc::downgrade(&store));
        // A handler may look into the journal at this moment.
        while store.as_ref().is_some_and(|store| store.strong_count() > 0) {
            std::thread::yield_now();
        }
        self.world.desk.forget();
    }
}

/// A start that takes the instance that is there.
pub(crate) fn start(instance: &str, orchestration: &str, input: Value) -> StartRequest {
    StartRequest {
        id: id(instance),
        orchestration: orchestration.to_owned(),
        module: None,
        input: Payload::json(input.to_string()),
        tags: Vec::new(),
        reuse: IdReuse::ReturnExisting,
        start_at: None,
    }
}

pub(crate) fn replay_sandbox() -> &'static Sandbox {
    static SANDBOX: OnceLock<Sandbox> = OnceLock::new();
    SANDBOX.get_or_init(|| {
        let settings = SandboxSettings { resident_guests: 32, memory_bytes: 16 << 20, ..SandboxSettings::default() };
        Sandbox::new(settings, Some(temporary("compiled"))).expect("a sandbox")
    })
}

/// Replays a history in a fresh guest; the guest with its log lines, raw.
pub(crate) fn replay(module: &OrchestrationModule, records: &[TurnRecord]) -> Result<Vec<String>, ReplayError> {
    let mut recorder = Recorder::of_history(&records[0], Limits::default()).map_err(ReplayError::Broken)?;
    recorder.raw_logs = true;
    let mut guest = Guest::new(module, recorder).map_err(|(trouble, _)| trouble)?;
    let mut lines = Vec::new();
    for (index, record) in records.iter().enumerate() {
        guest.replay_turn(record, records.get(index + 1))?;
        lines.extend(guest.recorder_mut().logs.drain(..).map(|line| line.to_string()));
    }
    Ok(lines)
}

/// A full replay, and nothing left to be told at its end.
pub(crate) fn assert_replays(module: &OrchestrationModule, records: &[TurnRecord]) {
    if let Err(error) = replay(module, records) {
        let lines: Vec<String> = records
            .iter()
            .flat_map(|record| &record.events)
            .map(|event| format!("{} {}", event.kind(), event.summary(80)))
            .collect();
        panic!("{error}\n{}", lines.join("\n"));
    }
}

/// Runs `scenario` in a world of its own with a host that dies before, then after,
/// each commit that it makes; then once more, to its end, on a host that lives.
/// `scenario` must be able to begin again. Returns how many commits there were.
pub(crate) fn sweep(
    make: impl Fn() -> World,
    scenario: impl Fn(&Host<'_>) -> Result<(), EngineError>,
    check: impl Fn(&World, &Host<'_>, Option<Death>),
) -> usize {
    let world = make();
    let host = world.open();
    scenario(&host).expect("nothing dies");
    check(&world, &host, None);
    let commits = host.store().commits();
    drop(host);
    for number in 1..=commits {
        for death in [Death::Before(number), Death::After(number)] {
            let world = make();
            let host = world.open_until(death);
            let _ = scenario(&host);
            drop(host);
            let host = world.open();
            scenario(&host).unwrap_or_else(|error| panic!("{death:?}: {error}"));
            check(&world, &host, Some(death));
        }
    }
    commits
}
