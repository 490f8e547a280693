//! The engine: instances of orchestrations, run turn by turn and made durable.
//!
//! In reading order: [`turns`] is a worker's loop, [`commit`] the one way out,
//! [`activities`] who does the work, [`modules`] what is run, [`schedules`] what
//! starts by itself. This file is the
//! face: what a host can ask for. Everything here returns only after what it says
//! is durable.

mod activities;
mod calls;
mod clock;
mod commit;
mod deadlines;
mod entities;
mod error;
pub mod fork;
mod intercept;
mod life;
mod mail;
mod modules;
mod query;
mod queues;
mod quotas;
mod remote;
mod requests;
mod retention;
mod schedules;
mod snapshots;
mod spaces;
mod trace;
mod turns;
pub mod upgrade;
pub mod versions;
pub mod view;

use std::collections::BTreeMap;
use std::hash::{DefaultHasher, Hash as _, Hasher as _};
use std::path::PathBuf;
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::mpsc;
use std::sync::{Arc, Mutex, OnceLock};
use std::thread::JoinHandle;
use std::time::Duration;

use tokio::sync::oneshot;

pub use self::activities::{Handler, Task};
pub use self::clock::{Clock, SystemClock};
pub use self::entities::EntityOperation;
pub use self::error::EngineError;
pub use self::intercept::{Interceptor, Interceptors};
pub(crate) use self::modules::is_called;
pub use self::modules::{Modules, Upload};
pub use self::queues::{QueueSettings, Rate, TaskLimits};
pub use self::quotas::NamespaceSettings;
pub use self::remote::{Claimed, LEASE_MS, MAX_CLAIM, MAX_LEASE_MS, Registration, Reported, Standing, WorkersOf};
pub use self::retention::Retention;
pub use self::trace::{CALLER_TAG, Span, SpanKind, Spans};
pub(crate) use self::turns::{bare_recorder, fresh_seed};
pub use crate::core::calls::IdReuse;

use self::activities::Activities;
use self::commit::{GROUPS_AHEAD, Release};
use self::quotas::Quotas;
use self::requests::Asked;
use self::retention::Sweeper;
use self::schedules::Schedules;
use self::snapshots::{Job, Snapshots};
use self::turns::{Armed, GuestCounts, Inbound, Message, Parts, Worker, WorkerLink};
use crate::core::entity::is_entity;
use crate::core::event::{ActivityScheduled, Started};
use crate::core::ids::{ExecutionNumber, InstanceId, TimestampMs};
use crate::core::namespace::Namespace;
use crate::core::payload::{Outcome, Payload};
use crate::core::request::{RequestKind, Source};
use crate::core::retry;
use crate::core::summary::Summary;
use crate::core::turn::{Limits, LogLine};
use crate::sandbox::Sandbox;
use crate::sandbox::settings::SandboxSettings;
use crate::store::{Epoch, Filter, History, Module, ModuleKind, Store};

/// How an engine works; the defaults suit a machine with a few cores.
#[derive(Clone, Debug)]
pub struct EngineSettings {
    /// What guests are granted.
    pub sandbox: SandboxSettings,
    /// Where compiled modules are kept. None: they are compiled at each start.
    pub cache: Option<PathBuf>,
    /// Threads that run guests.
    pub workers: usize,
    /// Bounds on what guests ask for.
    pub limits: Limits,
    /// A guest that has not run for so long leaves the memory.
    pub evict_after: Duration,
    /// A guest that has nothing to do but wait for a time further away than this
    /// leaves at once.
    pub stay_below: Duration,
    /// The state of an instance with a long history is kept each so many events, so that
    /// it goes on later without a replay of what came before. 0: never.
    pub snapshot_every: u32,
    /// Activities that run at the same time in this process; more wait in their queues.
    pub activity_concurrency: usize,
    /// How long instances that have ended are kept.
    pub retention: Retention,
    /// Queues with bounds, by name; any other one has none.
    pub queues: BTreeMap<String, QueueSettings>,
    /// Activities with bounds, by name (`service.method`).
    pub activities: BTreeMap<String, TaskLimits>,
    /// Bounds of namespaces, by name.
    pub namespaces: BTreeMap<String, NamespaceSettings>,
    /// Workers that may be lost with the task of a call without a retry policy
    /// before it fails.
    pub worker_losses: u32,
    /// What is done around every attempt of every activity.
    pub interceptors: Interceptors,
    /// Who is told of what was done, as spans of a trace for each instance.
    pub spans: Spans,
}

impl Default for EngineSettings {
    fn default() -> Self {
        Self {
            sandbox: SandboxSettings::default(),
            cache: None,
            workers: std::thread::available_parallelism().map_or(2, usize::from),
            limits: Limits::default(),
            evict_after: Duration::from_secs(10),
            stay_below: Duration::from_secs(5),
            snapshot_every: 5_000,
            activity_concurrency: 256,
            retention: Retention::default(),
            queues: BTreeMap::new(),
            activities: BTreeMap::new(),
            namespaces: BTreeMap::new(),
            worker_losses: 3,
            interceptors: Interceptors::default(),
            spans: Spans::default(),
        }
    }
}

/// Sees the log lines of guests, each once, when its turn is durable.
pub type ShowLog = Arc<dyn Fn(&InstanceId, ExecutionNumber, &LogLine) + Send + Sync>;

/// What a new instance is to run.
#[derive(Clone, Debug)]
pub struct StartRequest {
    /// The caller's name for it.
    pub id: InstanceId,
    /// The orchestration.
    pub orchestration: String,
    /// Whose: `name`, `name@version` or a hash. None: the only module that offers it.
    pub module: Option<String>,
    /// Its input.
    pub input: Payload,
    /// Tags from the start.
    pub tags: Vec<(String, String)>,
    /// What to do if the id is taken.
    pub reuse: IdReuse,
    /// It begins then; it is durable at once. None, or a time that has passed: now.
    pub start_at: Option<TimestampMs>,
}

/// What became of a start.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum StartOutcome {
    /// A new instance: it is durable and will run.
    Started,
    /// It was there already.
    Existing,
}

/// The engine. Dropping it stops it; what runs goes on where it is opened next.
pub struct Engine {
    store: Arc<dyn Store>,
    clock: Arc<dyn Clock>,
    sandbox: Arc<Sandbox>,
    modules: Arc<Modules>,
    quotas: Arc<Quotas>,
    activities: Arc<Activities>,
    workers: Vec<WorkerLink>,
    threads: Mutex<Vec<JoinHandle<()>>>,
    stopped: Arc<OnceLock<String>>,
    guests: Arc<GuestCounts>,
    armed: Vec<Arc<Armed>>,
    snapshots: Snapshots,
    /// As many queries at a time as there are workers.
    queries: Arc<tokio::sync::Semaphore>,
    show_log: ShowLog,
    epoch: Epoch,
    sweeper: Option<Sweeper>,
    settings: EngineSettings,
    schedules: Arc<Schedules>,
    upgrades: Arc<upgrade::Upgrades>,
    /// False for the face that the engine's own threads have: it stops nothing.
    is_owner: bool,
}

impl std::fmt::Debug for Engine {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Engine").field("workers", &self.workers.len()).finish_non_exhaustive()
    }
}

impl Engine {
    /// Takes ownership of a store and goes on with everything in it. Activities
    /// run on the tokio runtime that this is called in.
    ///
    /// # Errors
    /// If the store cannot be claimed or read, or the sandbox not be made.
    ///
    /// # Panics
    /// Outside of a tokio runtime.
    pub fn open(
        store: Arc<dyn Store>,
        clock: Arc<dyn Clock>,
        settings: EngineSettings,
        show_log: Option<ShowLog>,
    ) -> Result<Self, EngineError> {
        let activities = u32::try_from(settings.activity_concurrency).unwrap_or(u32::MAX);
        let memory = |(name, of): (&String, &NamespaceSettings)| Some((name.clone(), of.guest_memory_bytes?));
        let memory_of = settings.namespaces.iter().filter_map(memory).collect();
        let granted = SandboxSettings { activities, memory_of, ..settings.sandbox.clone() };
        let sandbox = Sandbox::new(granted, settings.cache.clone());
        let sandbox = Arc::new(sandbox.map_err(|error| EngineError::Sandbox(format!("{error:#}")))?);
        let epoch = store.claim()?;
        let modules = Arc::new(Modules::new(store.clone(), sandbox.clone()));
        let quotas = Quotas::new(&settings.namespaces);
        let count = settings.workers.max(1);
        let (workers, inboxes): (Vec<_>, Vec<_>) = (0..count).map(|_| mpsc::channel()).unzip();
        let workers: Vec<_> = workers.into_iter().map(WorkerLink).collect();
        let activities =
            Activities::new(tokio::runtime::Handle::current(), clock.clone(), &settings, outcomes_to(workers.clone()));
        let (groups, gathered) = mpsc::sync_channel(GROUPS_AHEAD);
        let (snapshots, jobs) = mpsc::sync_channel(snapshots::WAITING);
        let snapshots = Snapshots(snapshots);
        let guests = Arc::new(GuestCounts::default());
        let armed: Vec<Arc<Armed>> = workers.iter().map(|_| Arc::default()).collect();
        let released: Vec<_> = (0..count).map(|_| Arc::new(AtomicU64::new(0))).collect();
        let mut threads = Vec::new();
        for (number, inbox) in inboxes.into_iter().enumerate() {
            let worker = Worker::new(Parts {
                number,
                store: store.clone(),
                clock: clock.clone(),
                modules: modules.clone(),
                quotas: quotas.clone(),
                activities: activities.clone(),
                settings: settings.clone(),
                links: workers.clone(),
                groups: groups.clone(),
                snapshots: snapshots.clone(),
                released: released[number].clone(),
                guests: guests.clone(),
                armed: armed[number].clone(),
            });
            threads.push(thread(&format!("dacapo-turns-{number}"), move || worker.run(&inbox)));
            let link = workers[number].clone();
            clock.on_jump(Box::new(move || link.send(Message::Wake)));
        }
        drop(groups);
        let schedules = Arc::new(Schedules::load(&*store, epoch)?);
        let signal = schedules.signal();
        clock.on_jump(Box::new(move || signal.wake()));
        let stopped = Arc::new(OnceLock::new());
        let show_log = show_log.unwrap_or_else(|| Arc::new(log_to_tracing));
        let release = Release {
            activities: activities.clone(),
            workers: workers.clone(),
            released,
            show_log: show_log.clone(),
            schedules: schedules.signal(),
            spans: settings.spans.clone(),
            clock: clock.clone(),
        };
        let (committing, why, links, tasks) = (store.clone(), stopped.clone(), workers.clone(), activities.clone());
        threads.push(thread("dacapo-commit", move || {
            commit::run(&*committing, epoch, &gathered, &release, &|error| {
                tracing::error!(%error, "the store failed; the engine stops");
                let _ = why.set(error.to_owned());
                links.iter().for_each(|worker| worker.send(Message::Stop));
                tasks.stop();
            });
        }));
        let (keeping, keepers) = (store.clone(), modules.clone());
        threads.push(thread("dacapo-snapshots", move || snapshots::run(&keeping, epoch, &keepers, &jobs)));
        let watching = activities.clone();
        threads.push(thread("dacapo-deadlines", move || watching.watch()));
        let links = workers.clone();
        let forget = move |gone: &[InstanceId]| {
            for id in gone {
                links[partition(id, links.len())].send(Message::Purged(id.clone()));
            }
        };
        let sweeping = Sweeper::start(&settings.retention, store.clone(), epoch, clock.clone(), forget);
        let (sweeper, sweeping) = sweeping.unzip();
        threads.extend(sweeping);
        let threads = Mutex::new(threads);
        let engine = Self {
            store,
            clock,
            sandbox,
            modules,
            quotas,
            activities,
            workers,
            threads,
            stopped,
            guests,
            armed,
            snapshots,
            queries: Arc::new(tokio::sync::Semaphore::new(count)),
            show_log,
            epoch,
            sweeper,
            settings,
            schedules,
            upgrades: Arc::default(),
            is_owner: true,
        };
        engine.serve_stored_activities()?;
        engine.recover()?;
        let face = engine.face();
        engine.own(thread("dacapo-schedules", move || face.schedules.run(&face)));
        Ok(engine)
    }

    // ---- what runs ----

    /// Checks a module and keeps it; activities of it are served from here on.
    ///
    /// # Errors
    /// [`EngineError::Refused`] with the reason; nothing is kept then.
    pub fn upload(&self, upload: Upload) -> Result<Module, EngineError> {
        self.quotas.check_grants(&upload.namespace, &upload.grants)?;
        let module = self.modules.upload(upload, self.clock.now())?;
        if module.kind == ModuleKind::Activity {
            self.serve_module(&module)?;
        }
        Ok(module)
    }

    /// Serves an activity natively. Its tasks may have waited for it.
    pub fn serve_activity(&self, name: &str, default_retry: Option<retry::RetryPolicy>, handler: Handler) {
        self.activities.serve_native(name, default_retry, handler);
    }

    /// Whether somebody serves the activity `name`.
    pub fn is_served(&self, name: &str) -> bool {
        self.activities.is_served(name)
    }

    /// Where an activity's call is: in a queue, or with whoever runs it.
    pub fn whereabouts(&self, instance: &InstanceId, call: &ActivityScheduled) -> view::Whereabouts {
        self.activities.whereabouts(instance, call)
    }

    /// Every queue of the default namespace that is in use or has bounds, by name.
    pub fn queues(&self) -> Vec<view::QueueView> {
        self.queues_in(&Namespace::default())
    }

    /// Every queue of every namespace; for what is about the host as a whole.
    pub fn every_queue(&self) -> Vec<view::QueueView> {
        self.activities.every_queue()
    }

    /// Every queue of a namespace that is in use or has bounds, by name.
    pub fn queues_in(&self, namespace: &Namespace) -> Vec<view::QueueView> {
        self.activities.queues(namespace.key())
    }

    /// The modules.
    pub fn modules(&self) -> &Modules {
        &self.modules
    }

    /// The sandbox, for replays.
    pub fn sandbox(&self) -> &Sandbox {
        &self.sandbox
    }

    // ---- instances ----

    /// Starts an instance. When this returns, it is durable and will run, whatever
    /// dies.
    ///
    /// # Errors
    /// If the orchestration is unknown, the id taken, the input too large.
    pub async fn start(&self, request: StartRequest) -> Result<StartOutcome, EngineError> {
        let StartRequest { id, orchestration, module, input, tags, reuse, start_at } = request;
        self.check_size("the input", &input)?;
        if is_entity(&id) {
            return Err(EngineError::InvalidInput(format!(
                "the id {id} is one of an entity, which is made when it is first used; choose one without '@' at its beginning"
            )));
        }
        if reuse == IdReuse::ReturnExisting
            && let Some(existing) = self.store.summary(&id)?
        {
            return same_orchestration(&existing, &orchestration);
        }
        let module = self.modules.resolve_in(&id.namespace(), &orchestration, module.as_deref())?;
        let now = self.clock.now();
        let (instance, name) = (id.clone(), orchestration.clone());
        let started = Started::first(instance, name, module.hash, input, fresh_seed(), now);
        let started = Box::new(Started { tags, start_at: start_at.filter(|at| *at > now), ..started });
        let (reply, answer) = oneshot::channel();
        self.worker_of(&id).send(Message::Start(started, reuse, reply));
        match self.answer(answer).await {
            Ok(()) => Ok(StartOutcome::Started),
            Err(EngineError::AlreadyExists { .. }) if reuse == IdReuse::ReturnExisting => {
                let existing = self.store.summary(&id)?.ok_or(EngineError::UnknownInstance { id })?;
                same_orchestration(&existing, &orchestration)
            }
            Err(error) => Err(error),
        }
    }

    /// Raises an event. When this returns, it is durable and will be matched.
    ///
    /// # Errors
    /// If the instance is unknown or has ended, or the value too large.
    pub async fn raise(&self, id: &InstanceId, name: &str, value: Payload) -> Result<(), EngineError> {
        self.check_event(id, name, &value)?;
        let name = name.to_owned();
        self.tell(id, |reply| Inbound::Event { name, value, reply }).await
    }

    /// [`Engine::raise`], once for that key: false where an event with it was raised
    /// on this instance before (one of its last thousand), and nothing was done.
    ///
    /// # Errors
    /// Those of [`Engine::raise`]; or if the key has not 1 to 250 bytes.
    pub async fn raise_once(
        &self,
        id: &InstanceId,
        name: &str,
        value: Payload,
        key: &str,
    ) -> Result<bool, EngineError> {
        self.check_event(id, name, &value)?;
        if key.is_empty() || key.len() > 250 {
            return Err(EngineError::InvalidInput("an event's key has 1 to 250 bytes".to_owned()));
        }
        let (key, name) = (key.to_owned(), name.to_owned());
        match self.tell(id, |reply| Inbound::EventOnce { key, name, value, reply }).await {
            Err(EngineError::AlreadyRaised { .. }) => Ok(false),
            raised => raised.map(|()| true),
        }
    }

    fn check_event(&self, id: &InstanceId, name: &str, value: &Payload) -> Result<(), EngineError> {
        self.check_size("the event's value", value)?;
        self.check_room(id)?;
        if name.is_empty() || name.len() > 200 {
            return Err(EngineError::InvalidInput("an event's name has 1 to 200 bytes".to_owned()));
        }
        if is_entity(id) {
            return Err(EngineError::InvalidInput(format!(
                "{id} is an entity, which takes operations and no events; signal it one"
            )));
        }
        Ok(())
    }

    /// The time on the engine's clock.
    pub fn now(&self) -> TimestampMs {
        self.clock.now()
    }

    /// Asks an instance to end; its code decides how. Durable when this returns.
    ///
    /// # Errors
    /// If the instance is unknown or has ended.
    pub async fn cancel(&self, id: &InstanceId, reason: &str) -> Result<(), EngineError> {
        let reason = reason.to_owned();
        self.tell(id, |reply| Inbound::Cancel { reason, reply }).await
    }

    /// Asks an instance for something and waits for its answer, which is durable
    /// when this returns. `key` is the caller's name for the request: the same key
    /// again is the same request, and gets the same answer, also while the first
    /// one waits, after a restart, and when the instance has ended. The last 1000
    /// answers (1 MiB) are remembered.
    ///
    /// # Errors
    /// If the instance is unknown, has ended, or ends without an answer; if the
    /// input is too large. What the instance refuses is a failure in the outcome.
    pub async fn update(&self, id: &InstanceId, name: &str, input: Payload, key: &str) -> Result<Outcome, EngineError> {
        self.check_request("update", name, key, &input)?;
        self.check_room(id)?;
        let (reply, answer) = oneshot::channel();
        let asked = Asked {
            kind: RequestKind::Update,
            name: name.to_owned(),
            input,
            source: Source::Outside(key.to_owned()),
            one_way: false,
            reply: Some(reply),
        };
        self.worker_of(id).send(Message::Deliver(id.clone(), Inbound::Request(Box::new(asked))));
        self.answer(answer).await
    }

    /// Ends an instance at once. Durable when this returns.
    ///
    /// # Errors
    /// If the instance is unknown or has ended.
    pub async fn terminate(&self, id: &InstanceId, reason: &str) -> Result<(), EngineError> {
        let reason = reason.to_owned();
        self.tell(id, |reply| Inbound::Terminate { reason, reply }).await
    }

    /// Waits until the instance has ended; its row.
    ///
    /// # Errors
    /// If it is unknown, or cannot go on.
    pub async fn ended(&self, id: &InstanceId) -> Result<Summary, EngineError> {
        let _outcome = self.outcome(id).await?;
        self.store.summary(id)?.ok_or_else(|| EngineError::UnknownInstance { id: id.clone() })
    }

    /// Waits until the instance has ended; what it ended with.
    ///
    /// # Errors
    /// If it is unknown, or cannot go on.
    pub async fn outcome(&self, id: &InstanceId) -> Result<Outcome, EngineError> {
        let (reply, answer) = oneshot::channel();
        self.worker_of(id).send(Message::Watch(id.clone(), reply));
        self.answer(answer).await
    }

    /// An instance's row.
    ///
    /// # Errors
    /// If the store fails.
    pub fn summary(&self, id: &InstanceId) -> Result<Option<Summary>, EngineError> {
        Ok(self.store.summary(id)?)
    }

    /// Rows that match, by id, at most `limit` after `after`.
    ///
    /// # Errors
    /// If the store fails.
    pub fn list(&self, filter: &Filter, after: Option<&InstanceId>, limit: usize) -> Result<Vec<Summary>, EngineError> {
        Ok(self.store.list(filter, after, limit)?)
    }

    /// The history of an execution (none: the current one).
    ///
    /// # Errors
    /// If there is none, or the store fails.
    pub fn history(&self, id: &InstanceId, execution: Option<ExecutionNumber>) -> Result<History, EngineError> {
        self.store.history(id, execution)?.ok_or_else(|| EngineError::UnknownInstance { id: id.clone() })
    }

    /// Whether it still runs.
    ///
    /// # Errors
    /// [`EngineError::Stopped`] with why, if its store failed or it was shut down.
    pub fn running(&self) -> Result<(), EngineError> {
        self.stopped.get().map_or(Ok(()), |why| Err(EngineError::Stopped(Some(why.clone()))))
    }

    /// Whether somebody is told of spans.
    pub fn tells_spans(&self) -> bool {
        self.settings().spans.is_on()
    }

    /// Timers that are armed, and when the first of them is due. One stands for all
    /// that an instance waits for.
    pub fn timers(&self) -> (u64, Option<TimestampMs>) {
        let count = self.armed.iter().map(|armed| armed.count.load(Ordering::Relaxed)).sum();
        let next = self.armed.iter().map(|armed| armed.next.load(Ordering::Relaxed)).filter(|next| *next > 0).min();
        (count, next.map(TimestampMs))
    }

    /// Waits until the snapshots that were taken so far are in the store, and modules that
    /// such need are ready.
    pub fn settle_snapshots(&self) {
        let (done, all_done) = mpsc::sync_channel(1);
        if self.snapshots.0.send(Job::Barrier(done)).is_ok() {
            let _ = all_done.recv();
        }
    }

    /// Guests in memory.
    pub fn resident_guests(&self) -> u64 {
        self.guests.resident.load(Ordering::Relaxed)
    }

    /// Guests that were re-created from a snapshot since the engine was opened.
    pub fn restored_guests(&self) -> u64 {
        self.guests.restored.load(Ordering::Relaxed)
    }

    /// Guests that were made since the engine was opened, for instances that had none.
    pub fn made_guests(&self) -> u64 {
        self.guests.made.load(Ordering::Relaxed)
    }

    /// Of [`made_guests`](Self::made_guests), those for instances that had run before: they were
    /// re-created from the history.
    pub fn replayed_guests(&self) -> u64 {
        self.guests.replayed.load(Ordering::Relaxed)
    }

    /// How often the guest of an instance that was to go on was not made at that time: there was
    /// no room, or not all of its history was durable.
    pub fn put_off_guests(&self) -> u64 {
        self.guests.put_off.load(Ordering::Relaxed)
    }

    /// How it was opened.
    pub fn settings(&self) -> &EngineSettings {
        &self.settings
    }

    /// The store.
    pub fn store(&self) -> &Arc<dyn Store> {
        &self.store
    }

    /// Stops: no further turn is run, what is sealed is made durable. Whatever is
    /// under way goes on where the store is opened next.
    pub fn shutdown(&self) {
        {
            let _all = self.upgrades.telling_all();
            self.workers.iter().for_each(|worker| worker.send(Message::Stop));
        }
        self.schedules.signal().stop();
        self.sweeper.iter().for_each(Sweeper::stop);
        self.activities.stop();
        let _ = self.snapshots.0.send(Job::Stop);
        let threads = std::mem::take(&mut *self.threads.lock().unwrap_or_else(std::sync::PoisonError::into_inner));
        for thread in threads {
            let _ = thread.join();
        }
        let _ = self.stopped.set("it was shut down".to_owned());
    }

    // ---- helpers ----

    /// This engine for a thread of its own.
    fn face(&self) -> Self {
        Self {
            store: self.store.clone(),
            clock: self.clock.clone(),
            sandbox: self.sandbox.clone(),
            modules: self.modules.clone(),
            quotas: self.quotas.clone(),
            activities: self.activities.clone(),
            workers: self.workers.clone(),
            threads: Mutex::default(),
            stopped: self.stopped.clone(),
            guests: self.guests.clone(),
            armed: self.armed.clone(),
            snapshots: self.snapshots.clone(),
            queries: self.queries.clone(),
            show_log: self.show_log.clone(),
            epoch: self.epoch,
            sweeper: None,
            settings: self.settings.clone(),
            schedules: self.schedules.clone(),
            upgrades: self.upgrades.clone(),
            is_owner: false,
        }
    }

    /// Waits for `thread` when the engine stops.
    fn own(&self, thread: JoinHandle<()>) {
        self.threads.lock().unwrap_or_else(std::sync::PoisonError::into_inner).push(thread);
    }

    fn serve_stored_activities(&self) -> Result<(), EngineError> {
        // The last uploaded last: of two that offer the same name, it is the one.
        let modules = self.modules.all()?;
        let activities = modules.iter().rev().filter(|module| module.kind == ModuleKind::Activity);
        activities.into_iter().try_for_each(|module| self.serve_module(module))
    }

    fn serve_module(&self, module: &Module) -> Result<(), EngineError> {
        let bytes = self.modules.bytes(module.hash)?;
        let loaded = self.sandbox.activity_module(module.hash, &bytes);
        let loaded = loaded.map_err(|error| EngineError::Sandbox(format!("{error:#}")))?;
        self.activities.serve_module(Arc::new(loaded), module);
        Ok(())
    }

    fn recover(&self) -> Result<(), EngineError> {
        const PAGE: usize = 1000;
        let mut after = None;
        loop {
            let page = self.store.unfinished(after.as_ref(), PAGE)?;
            after = page.last().map(|summary| summary.instance.clone());
            let last = page.len() < PAGE;
            for summary in page {
                self.worker_of(&summary.instance).send(Message::Recover(Box::new(summary)));
            }
            if last {
                self.workers.iter().for_each(|worker| worker.send(Message::Recovered));
                return Ok(());
            }
        }
    }

    async fn tell(
        &self,
        id: &InstanceId,
        inbound: impl FnOnce(oneshot::Sender<Result<(), EngineError>>) -> Inbound,
    ) -> Result<(), EngineError> {
        let (reply, answer) = oneshot::channel();
        self.worker_of(id).send(Message::Deliver(id.clone(), inbound(reply)));
        self.answer(answer).await
    }

    async fn answer<T>(&self, answer: oneshot::Receiver<Result<T, EngineError>>) -> Result<T, EngineError> {
        answer.await.unwrap_or_else(|_| Err(EngineError::Stopped(self.stopped.get().cloned())))
    }

    fn check_request(&self, what: &str, name: &str, key: &str, input: &Payload) -> Result<(), EngineError> {
        self.check_size(&format!("the input of the {what}"), input)?;
        for (part, text) in [("name", name), ("request id", key)] {
            if text.is_empty() || text.len() > 200 {
                return Err(EngineError::InvalidInput(format!("the {part} of an {what} has 1 to 200 bytes")));
            }
        }
        Ok(())
    }

    /// Whether the namespace of `id` may have more stored.
    fn check_room(&self, id: &InstanceId) -> Result<(), EngineError> {
        self.quotas.check_room(&*self.store, id)
    }

    fn check_size(&self, what: &str, payload: &Payload) -> Result<(), EngineError> {
        let (found, limit) = (payload.len(), self.settings.limits.payload_bytes);
        if found > limit { Err(EngineError::TooLarge { what: what.to_owned(), found, limit }) } else { Ok(()) }
    }

    fn worker_of(&self, id: &InstanceId) -> &WorkerLink {
        &self.workers[partition(id, self.workers.len())]
    }
}

impl Drop for Engine {
    fn drop(&mut self) {
        if self.is_owner {
            self.shutdown();
        }
    }
}

fn partition(id: &InstanceId, count: usize) -> usize {
    let mut hasher = DefaultHasher::new();
    id.hash(&mut hasher);
    (hasher.finish() % count as u64) as usize
}

fn outcomes_to(workers: Vec<WorkerLink>) -> activities::Deliver {
    Arc::new(move |task, outcome, reply| {
        let inbound = Inbound::ActivityOutcome {
            execution: task.execution,
            operation: task.operation,
            attempt: task.attempt,
            progress: if outcome.is_err() { task.progress() } else { None },
            outcome,
            reply,
        };
        workers[partition(&task.instance, workers.len())].send(Message::Deliver(task.instance.clone(), inbound));
    })
}

fn log_to_tracing(instance: &InstanceId, execution: ExecutionNumber, line: &LogLine) {
    use crate::core::turn::LogLevel;
    let source = line.target.as_str();
    match line.level {
        LogLevel::Error => tracing::error!(target: "dacapo::guest", ?instance, execution, source, "{line}"),
        LogLevel::Warn => tracing::warn!(target: "dacapo::guest", ?instance, execution, source, "{line}"),
        LogLevel::Info => tracing::info!(target: "dacapo::guest", ?instance, execution, source, "{line}"),
        LogLevel::Debug => tracing::debug!(target: "dacapo::guest", ?instance, execution, source, "{line}"),
        LogLevel::Trace => tracing::trace!(target: "dacapo::guest", ?instance, execution, source, "{line}"),
    }
}

fn same_orchestration(existing: &Summary, asked: &str) -> Result<StartOutcome, EngineError> {
    if existing.orchestration == asked {
        return Ok(StartOutcome::Existing);
    }
    Err(EngineError::OtherOrchestration {
        id: existing.instance.clone(),
        found: existing.orchestration.clone(),
        asked: asked.to_owned(),
    })
}

fn thread(name: &str, run: impl FnOnce() + Send + 'static) -> JoinHandle<()> {
    std::thread::Builder::new().name(name.to_owned()).spawn(run).expect("a thread can be started at start-up")
}
