//! Activities in wasm: real WASI, each capability granted by name.
//!
//! A fresh instance runs each attempt, so nothing of one task is left for the next.
//! It is one of the core module alone for as long as that suffices (see
//! [`super::direct`]), and else one of the component, with WASI. What was not granted
//! does not exist: no environment, no folder, no host; sockets are never given, outbound
//! HTTP goes to granted hosts only (see [`super::outbound`]), and secrets are handed over
//! by name ([`super::secrets`]).

use std::collections::HashMap;
use std::sync::{Arc, PoisonError, RwLock};
use std::time::{Duration, Instant};

use wasmtime::component::{Component, ComponentExportIndex, HasSelf, Instance, Linker, ResourceTable};
use wasmtime::{Engine, Store, StoreLimits, StoreLimitsBuilder, Trap};
use wasmtime_wasi::{FsPerms, WasiCtx, WasiCtxBuilder, WasiCtxView, WasiView};
use wasmtime_wasi_http::{RequestOptions, WasiBody, WasiHttpCtx, WasiHttpCtxView, WasiHttpHooks, WasiHttpView};

use super::bindings::activity::dacapo::workflow::activity_context as wit;
use super::bindings::activity::{Activity, ActivityPre};
use super::bindings::orchestration::dacapo::workflow::types;
use super::direct::{DirectActivities, NeedsMore};
use super::inspect::ACTIVITIES;
use super::log_stream::LogStream;
use super::outbound::{Outbound, Resolver, Sent};
use super::secrets::{self, NoSecret, Scrubber, Secret, Secrets};
use super::settings::SandboxSettings;
use crate::core::ids::ModuleHash;
use crate::core::payload::{Failure, FailureKind, Outcome};
use crate::core::task::Task;
use crate::store::{Grants, Offer};

/// An activity whose attempts took longer than a moment so often in a row begins as a component.
/// Once may be a machine that was busy.
const TOO_OFTEN: u8 = 3;

/// After so long without an attempt that took longer, it is tried again.
const FORGIVEN_AFTER: Duration = Duration::from_secs(60);

/// What attempts of an activity needed that had begun without their component.
#[derive(Clone, Copy)]
enum Needed {
    World,
    /// So often in a row, the last time then.
    Time(u8, Instant),
}

impl Needed {
    fn may_begin_directly(self) -> bool {
        match self {
            Self::World => false,
            Self::Time(often, last) => often < TOO_OFTEN || last.elapsed() > FORGIVEN_AFTER,
        }
    }
}

/// What `run` answers.
type Answer = Result<types::Payload, types::Failure>;

/// A checked and compiled module with activities.
pub struct ActivityModule {
    /// Its address.
    pub hash: ModuleHash,
    pre: ActivityPre<ActivityState>,
    /// The one export that an attempt calls.
    run: ComponentExportIndex,
    /// Its core module, where that can be called by itself.
    direct: Option<DirectActivities>,
    /// Activities whose attempts began there and needed more.
    need_more: RwLock<HashMap<String, Needed>>,
    memory_bytes: usize,
    secrets: Secrets,
    resolver: Resolver,
}

impl std::fmt::Debug for ActivityModule {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "ActivityModule({})", self.hash.short())
    }
}

struct ActivityState {
    wasi: WasiCtx,
    http: WasiHttpCtx,
    table: ResourceTable,
    hooks: Outbound,
    limits: StoreLimits,
    task: Option<Arc<Task>>,
    scrubber: Scrubber,
}

/// Secrets of one attempt: by the variable that holds them, and what finds them in
/// all that the guest lets out.
#[derive(Default)]
struct Granted {
    variables: Vec<(String, Secret)>,
    scrubber: Scrubber,
}

impl ActivityModule {
    pub(super) fn new(
        component: &Component,
        direct: Option<DirectActivities>,
        hash: ModuleHash,
        settings: &SandboxSettings,
    ) -> wasmtime::Result<Self> {
        let engine: &Engine = component.engine();
        let mut linker = Linker::<ActivityState>::new(engine);
        wasmtime_wasi::p2::add_to_linker_async(&mut linker)?;
        wasmtime_wasi_http::p2::add_only_http_to_linker_async(&mut linker)?;
        wit::add_to_linker::<_, HasSelf<ActivityState>>(&mut linker, |state| state)?;
        let pre = ActivityPre::new(linker.instantiate_pre(component)?)?;
        let run = run_of(component).ok_or_else(|| wasmtime::format_err!("the module exports no run"))?;
        let (secrets, resolver) = (settings.secrets.clone(), settings.resolver.clone());
        let need_more = RwLock::default();
        Ok(Self { hash, pre, run, direct, need_more, memory_bytes: settings.memory_bytes, secrets, resolver })
    }

    /// Whether the next attempt of that activity begins without its component and WASI, where it
    /// is over in a moment or begun anew. That changes nothing for it; see `sandbox/direct`.
    pub fn begins_directly(&self, name: &str, grants: &Grants) -> bool {
        let is_granted_more = !grants.secrets.is_empty() || !grants.directories.is_empty();
        self.direct.is_some() && !is_granted_more && self.needed_more(name).is_none_or(Needed::may_begin_directly)
    }

    /// What the module says of itself; it has no capability then.
    pub(super) fn describe(&self) -> wasmtime::Result<Vec<Offer>> {
        let offers = futures::executor::block_on(async {
            let (mut store, instance) = self.instantiate(None, &Grants::default(), Granted::default()).await?;
            let activity = Activity::new(&mut store, &instance)?;
            // Long enough for any honest answer; an endless one traps.
            store.set_epoch_deadline(1000);
            store.epoch_deadline_trap();
            activity.dacapo_workflow_activities().call_describe(&mut store).await
        })?;
        let offer = |offer: super::bindings::activity::exports::dacapo::workflow::activities::ActivityOffer| Offer {
            name: offer.name,
            description: offer.description,
            input_schema: offer.input_schema,
            output_schema: offer.output_schema,
            default_retry: offer.default_retry.map(Into::into),
        };
        Ok(offers.into_iter().map(offer).collect())
    }

    /// Runs one attempt. Whatever goes wrong is a failure of the activity; one of
    /// the host (no memory for it) may be tried again like any other.
    pub async fn run(&self, task: Arc<Task>, grants: &Arc<Grants>) -> Outcome {
        if let Some(outcome) = self.run_directly(&task, grants) {
            return outcome;
        }
        if grants.secrets.is_empty() {
            return self.attempt(task, grants, Granted::default()).await;
        }
        let granted = self.granted_secrets(grants).map_err(|why| secrets::missing(&task.name, &why))?;
        let scrubber = granted.scrubber.clone();
        match self.attempt(task, grants, granted).await {
            Ok(output) => Ok(scrubber.payload(output)),
            Err(failure) => Err(scrubber.failure(failure)),
        }
    }

    /// An attempt with the core module alone; none if that does not suffice, of which nothing
    /// was let out.
    fn run_directly(&self, task: &Arc<Task>, grants: &Arc<Grants>) -> Option<Outcome> {
        let direct = self.direct.as_ref().filter(|_| self.begins_directly(&task.name, grants))?;
        let (answer, lines) = direct.run(task, grants, self.limits());
        let before = self.needed_more(&task.name);
        if let Some(more) = answer.as_ref().err().and_then(|error| error.downcast_ref::<NeedsMore>()) {
            let needed = match (more, before) {
                (NeedsMore::World, _) | (_, Some(Needed::World)) => Needed::World,
                (NeedsMore::Time, None) => Needed::Time(1, Instant::now()),
                (NeedsMore::Time, Some(Needed::Time(often, _))) => {
                    Needed::Time(often.saturating_add(1), Instant::now())
                }
            };
            self.need_more.write().unwrap_or_else(PoisonError::into_inner).insert(task.name.clone(), needed);
            return None;
        }
        if let Some(Needed::Time(..)) = before {
            self.need_more.write().unwrap_or_else(PoisonError::into_inner).remove(&task.name);
        }
        lines.into_iter().for_each(|line| show(Some(task), &Scrubber::default(), line));
        Some(outcome_of(&task.name, answer))
    }

    fn needed_more(&self, name: &str) -> Option<Needed> {
        self.need_more.read().unwrap_or_else(PoisonError::into_inner).get(name).copied()
    }

    async fn attempt(&self, task: Arc<Task>, grants: &Grants, secrets: Granted) -> Outcome {
        outcome_of(&task.name, self.call_run(&task, grants, secrets).await)
    }

    fn limits(&self) -> StoreLimits {
        StoreLimitsBuilder::new().memory_size(self.memory_bytes).trap_on_grow_failure(true).build()
    }

    async fn call_run(&self, task: &Arc<Task>, grants: &Grants, secrets: Granted) -> wasmtime::Result<Answer> {
        let (mut store, instance) = self.instantiate(Some(task.clone()), grants, secrets).await?;
        // The other export is not looked for.
        let run = instance.get_typed_func::<(&str, types::Payload), (Answer,)>(&mut store, self.run)?;
        let (answer,) = run.call_async(&mut store, (&task.name, task.input.clone().into())).await?;
        Ok(answer)
    }

    /// The values of the secrets that are granted.
    fn granted_secrets(&self, grants: &Grants) -> Result<Granted, NoSecret> {
        let value =
            |(variable, name): (&String, &String)| Ok((variable.clone(), name.clone(), self.secrets.get(name)?));
        let values: Vec<_> = grants.secrets.iter().map(value).collect::<Result<_, NoSecret>>()?;
        let scrubber = Scrubber::new(values.iter().map(|(_, name, secret)| (name.clone(), secret.clone())));
        let variables = values.into_iter().map(|(variable, _, secret)| (variable, secret)).collect();
        Ok(Granted { variables, scrubber })
    }

    async fn instantiate(
        &self,
        task: Option<Arc<Task>>,
        grants: &Grants,
        secrets: Granted,
    ) -> wasmtime::Result<(Store<ActivityState>, Instance)> {
        let state = ActivityState {
            wasi: granted(grants, &secrets, task.as_ref())?,
            http: WasiHttpCtx::new(),
            table: ResourceTable::new(),
            hooks: Outbound {
                granted: grants.hosts.clone(),
                resolver: self.resolver.clone(),
                traceparent: task.as_ref().and_then(|task| task.traceparent.as_deref()?.parse().ok()),
            },
            scrubber: secrets.scrubber,
            limits: self.limits(),
            task,
        };
        let mut store = Store::new(self.pre.engine(), state);
        store.limiter(|state| &mut state.limits);
        store.set_epoch_deadline(1);
        store.epoch_deadline_async_yield_and_update(1);
        let instance = self.pre.instance_pre().instantiate_async(&mut store).await?;
        Ok((store, instance))
    }
}

fn run_of(component: &Component) -> Option<ComponentExportIndex> {
    let ty = component.component_type();
    let (interface, _) = ty.exports(component.engine()).find(|(name, _)| name.starts_with(ACTIVITIES))?;
    let interface = component.get_export_index(None, interface)?;
    component.get_export_index(Some(&interface), "run")
}

fn outcome_of(name: &str, answer: wasmtime::Result<Answer>) -> Outcome {
    match answer {
        Ok(Ok(output)) => Ok(output.into()),
        Ok(Err(failure)) => Err(failure.into()),
        Err(error) => Err(failure_of(name, &error)),
    }
}

fn failure_of(name: &str, error: &wasmtime::Error) -> Failure {
    let kind = match error.downcast_ref::<Trap>() {
        Some(Trap::Interrupt) => FailureKind::Exhausted,
        _ => FailureKind::Trapped,
    };
    Failure::retryable(kind, format!("the activity {name} trapped: {}", error.root_cause()))
}

/// What the grants make of the world.
fn granted(grants: &Grants, secrets: &Granted, task: Option<&Arc<Task>>) -> wasmtime::Result<WasiCtx> {
    let mut wasi = WasiCtxBuilder::new();
    if let Some(traceparent) = task.and_then(|task| task.traceparent.as_deref()) {
        wasi.env("TRACEPARENT", traceparent);
    }
    for (name, value) in &grants.env {
        wasi.env(name, value);
    }
    for (name, secret) in &secrets.variables {
        wasi.env(name, secret.reveal());
    }
    for directory in &grants.directories {
        let permissions = if directory.write { FsPerms::ReadWrite } else { FsPerms::ReadOnly };
        wasi.preopened_dir(&directory.host, &directory.guest, permissions).map_err(|error| {
            wasmtime::format_err!("the granted folder {} cannot be opened: {error:#}", directory.host)
        })?;
    }
    let key = task.map(|task| task.idempotency_key()).unwrap_or_default();
    let scrubber = &secrets.scrubber;
    wasi.stdout(LogStream::new(key.clone(), false, scrubber.clone()));
    wasi.stderr(LogStream::new(key, true, scrubber.clone()));
    Ok(wasi.build())
}

impl WasiView for ActivityState {
    fn ctx(&mut self) -> WasiCtxView<'_> {
        WasiCtxView { ctx: &mut self.wasi, table: &mut self.table }
    }
}

impl WasiHttpView for ActivityState {
    fn http(&mut self) -> WasiHttpCtxView<'_> {
        WasiHttpCtxView { ctx: &mut self.http, table: &mut self.table, hooks: &mut self.hooks }
    }
}

impl WasiHttpHooks for Outbound {
    fn send_request(
        &mut self,
        request: http::Request<WasiBody>,
        options: Option<RequestOptions>,
        _errors: Box<dyn Future<Output = Result<(), wasmtime_wasi_http::Error>> + Send>,
    ) -> Box<dyn Future<Output = Sent> + Send> {
        Box::new(self.send(request, options))
    }
}

impl types::Host for ActivityState {}

impl wit::Host for ActivityState {
    fn info(&mut self) -> wasmtime::Result<wit::TaskInfo> {
        let Some(task) = &self.task else {
            wasmtime::bail!("info was called in describe, where no task is");
        };
        Ok(info_of(task))
    }

    fn heartbeat(&mut self, progress: Option<types::Payload>) -> wasmtime::Result<bool> {
        let Some(task) = &self.task else {
            wasmtime::bail!("heartbeat was called in describe, where no task is");
        };
        // It is recorded if the attempt fails, so no secret may be in it.
        let progress = progress.map(|progress| self.scrubber.payload(progress.into()));
        task.heartbeat(progress).map_err(|failure| wasmtime::format_err!("{failure}"))
    }

    fn log(&mut self, line: types::LogLine) -> wasmtime::Result<()> {
        show(self.task.as_ref(), &self.scrubber, line);
        Ok(())
    }
}

/// What an attempt is told of its task.
pub(super) fn info_of(task: &Task) -> wit::TaskInfo {
    wit::TaskInfo {
        idempotency_key: task.idempotency_key(),
        instance: task.instance.to_string(),
        execution: task.execution,
        operation: task.operation,
        attempt: task.attempt,
        deadline: task.deadline().map(|at| at.0),
        last_heartbeat: task.last_heartbeat.clone().map(Into::into),
    }
}

fn show(task: Option<&Arc<Task>>, scrubber: &Scrubber, line: types::LogLine) {
    let key = task.map(|task| task.idempotency_key()).unwrap_or_default();
    let line: crate::core::turn::LogLine = line.into();
    let text = line.to_string();
    let text = scrubber.text(&text);
    tracing::info!(target: "dacapo::activity", task = key, level = ?line.level, "{text}");
}
