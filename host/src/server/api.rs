//! What can be asked, without HTTP: the one place where requests meet engine and
//! store. The routes call it, and so does a command that has the data folder to
//! itself; both get the same JSON.

mod requests;

use std::collections::BTreeMap;
use std::ops::Range;
use std::path::Path;
use std::sync::Arc;
use std::time::Duration;

use serde::{Deserialize, Serialize};
use serde_json::{Value, json};
use tokio::sync::{Semaphore, watch};
use tokio::time::Instant;

use super::access::{Admission, Caller};
use super::problem::Problem;
use super::watched::Watched;
use super::webhooks::Webhooks;
use crate::core::event::ActivityScheduled;
use crate::core::ids::{ExecutionNumber, InstanceId, InvalidHash, ModuleHash, TimestampMs};
use crate::core::namespace::Namespace;
use crate::core::payload::Payload;
use crate::core::summary::{Status, Summary};
use crate::core::turn::TurnRecord;
use crate::engine::{Engine, EngineError, IdReuse, StartOutcome, StartRequest, Upload, is_called, view};
use crate::replay::recording::Recording;
use crate::store::{Filter, History, Module, Offer, Store as _};

pub use self::requests::{OperationPath, OperationQuery, RequestQuery, request_id};
pub use super::listing::Order;

/// No request waits longer; ask again.
pub const MAX_WAIT: Duration = Duration::from_secs(60);

const EVENTS_LIMIT: usize = 1000;
const MAX_EVENTS_LIMIT: usize = 10_000;
const SUMMARY_BYTES: usize = 200;

/// Why there is no answer.
pub type Result<T, E = Problem> = std::result::Result<T, E>;

/// The engine and its store, or a store alone: then nothing can be changed.
#[derive(Clone, Debug)]
pub struct Api {
    store: Arc<Watched>,
    engine: Option<Arc<Engine>>,
    stopping: watch::Receiver<bool>,
    webhooks: Arc<Webhooks>,
    since: Instant,
    data: Option<Arc<Path>>,
    replays: Arc<super::replay::Replays>,
    backups: Arc<Semaphore>,
    caller: Caller,
    access: Arc<Admission>,
}

/// A start, as it is asked for.
#[derive(Clone, Debug, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct StartBody {
    /// The caller's name for it.
    pub id: String,
    /// What to run.
    pub orchestration: String,
    /// Whose: `name`, `name@version` or a hash.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub module: Option<String>,
    /// Its input.
    #[serde(default = "Payload::null")]
    pub input: Payload,
    /// Tags from the start.
    #[serde(default)]
    pub tags: BTreeMap<String, String>,
    /// What to do if the id is taken.
    #[serde(default)]
    pub reuse: IdReuse,
    /// Wait so long for its end and answer with it, milliseconds.
    #[serde(default)]
    pub wait_ms: u64,
    /// When it is to begin (RFC 3339); it is durable at once. None: now.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub start_at: Option<String>,
}

/// Which instances to list.
#[derive(Clone, Debug, Default, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct ListQuery {
    /// This status.
    pub status: Option<Status>,
    /// This orchestration.
    pub orchestration: Option<String>,
    /// Ids that begin so.
    pub prefix: Option<String>,
    /// From behind this id.
    pub after: Option<String>,
    /// At most so many.
    pub limit: Option<usize>,
    /// Of this module: name (all its versions), name@version or hash.
    pub module: Option<String>,
    /// With these tags: a JSON object.
    pub tags: Option<String>,
    /// Created then or later, as `2026-01-31T12:00:00Z`.
    pub created_from: Option<String>,
    /// Created before then.
    pub created_before: Option<String>,
    /// By id, or those created last first.
    #[serde(default)]
    pub order: Order,
    /// Say also how many there are of each status.
    #[serde(default)]
    pub counts: bool,
}

/// Which events to read.
#[derive(Clone, Debug, Default, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct HistoryQuery {
    /// None: the current one.
    pub execution: Option<ExecutionNumber>,
    /// The first event, from 1.
    pub from: Option<u32>,
    /// At most so many.
    pub limit: Option<usize>,
    /// Wait so long for one, milliseconds.
    #[serde(default)]
    pub wait_ms: u64,
}

/// Which recording to make.
#[derive(Clone, Debug, Default, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct RecordingQuery {
    /// None: the current one.
    pub execution: Option<ExecutionNumber>,
    /// Put the module in.
    #[serde(default)]
    pub with_module: bool,
}

impl Api {
    /// An API on `store`, and on the engine that runs it, if one does. What waits
    /// is answered when `stopping` becomes true.
    pub fn new(store: Arc<Watched>, engine: Option<Arc<Engine>>, stopping: watch::Receiver<bool>) -> Self {
        Self {
            store,
            engine,
            stopping,
            webhooks: Arc::default(),
            since: Instant::now(),
            data: None,
            replays: Arc::default(),
            backups: Arc::new(Semaphore::new(super::backup::AT_ONCE)),
            caller: Caller::Operator,
            access: Arc::new(Admission::open()),
        }
    }

    /// This API for that caller.
    #[must_use]
    pub fn asked_by(self, caller: Caller) -> Self {
        Self { caller, ..self }
    }

    /// This API for those who may.
    #[must_use]
    pub fn guarded_by(self, access: Arc<Admission>) -> Self {
        Self { access, ..self }
    }

    /// The namespace of whoever asks. All that this API tells and changes is in it.
    pub fn namespace(&self) -> Namespace {
        self.caller.namespace()
    }

    /// The instance that whoever asks calls so.
    ///
    /// # Errors
    /// If the text cannot be an id.
    pub fn id(&self, text: &str) -> Result<InstanceId> {
        Ok(InstanceId::within(&self.namespace(), text).map_err(EngineError::from)?)
    }

    /// The modules that whoever asks sees, the last uploaded first.
    ///
    /// # Errors
    /// If the store fails.
    pub fn own_modules(&self) -> Result<Vec<Module>> {
        let namespace = self.namespace();
        Ok(self.store.modules()?.into_iter().filter(|module| module.is_in(&namespace)).collect())
    }

    /// Who may ask.
    pub fn access(&self) -> &Arc<Admission> {
        &self.access
    }

    /// Who asks.
    pub fn caller(&self) -> &Caller {
        &self.caller
    }

    /// This API, which knows the folder of its store.
    #[must_use]
    pub fn in_folder(self, data: &Path) -> Self {
        Self { data: Some(data.into()), ..self }
    }

    /// The folder of its store, if it was told.
    pub fn folder(&self) -> Option<&Path> {
        self.data.as_deref()
    }

    /// How long it has been there.
    pub fn uptime(&self) -> Duration {
        self.since.elapsed()
    }

    /// This API, which takes webhooks as well.
    #[must_use]
    pub fn with_webhooks(self, webhooks: Arc<Webhooks>) -> Self {
        Self { webhooks, ..self }
    }

    /// The webhooks.
    pub fn webhooks(&self) -> &Webhooks {
        &self.webhooks
    }

    /// Room for backups that are being taken.
    pub(super) fn backups(&self) -> Arc<Semaphore> {
        self.backups.clone()
    }

    /// The histories that somebody looks into.
    pub(super) fn replays(&self) -> &super::replay::Replays {
        &self.replays
    }

    /// The engine.
    ///
    /// # Errors
    /// If there is none.
    pub fn engine(&self) -> Result<&Arc<Engine>> {
        self.engine
            .as_ref()
            .ok_or_else(|| Problem::new("stopped", "no engine runs here; start one with `dacapo serve`"))
    }

    /// Whether somebody is told of spans.
    pub(super) fn tells_spans(&self) -> bool {
        self.engine.as_ref().is_some_and(|engine| engine.tells_spans())
    }

    /// Becomes true when the server ends.
    pub fn stopping(&self) -> watch::Receiver<bool> {
        self.stopping.clone()
    }

    /// Waits until the server ends; for ever where there is none, in a command.
    async fn stops(&self) {
        let mut stopping = self.stopping.clone();
        if stopping.wait_for(|stopping| *stopping).await.is_err() {
            std::future::pending().await
        }
    }

    /// Whether an engine runs.
    pub fn is_running(&self) -> bool {
        self.engine.is_some()
    }

    /// The store.
    pub fn store(&self) -> &Arc<Watched> {
        &self.store
    }

    // ---- modules ----

    /// Checks and keeps a module.
    ///
    /// # Errors
    /// If it is refused.
    pub fn upload(&self, upload: Upload) -> Result<Value> {
        let engine = self.engine()?;
        let module = engine.upload(Upload { namespace: self.namespace(), ..upload })?;
        super::versions::kept_json(engine.modules(), &module)
    }

    /// Every module, the last uploaded first.
    ///
    /// # Errors
    /// If the store fails.
    pub fn modules(&self) -> Result<Value> {
        let modules = self.own_modules()?;
        Ok(json!({ "modules": super::versions::modules_json(&modules) }))
    }

    /// A module's bytes.
    ///
    /// # Errors
    /// If there is none of that hash.
    pub fn module_bytes(&self, hash: &str) -> Result<Vec<u8>> {
        let parsed: ModuleHash = hash.parse().map_err(|error: InvalidHash| Problem::invalid(error.to_string()))?;
        let unknown = || EngineError::UnknownModule { module: hash.to_owned(), exists: Vec::new() };
        // One of another namespace is not there.
        self.store.module(&parsed)?.filter(|module| module.is_in(&self.namespace())).ok_or_else(unknown)?;
        Ok(self.store.module_bytes(&parsed)?.ok_or_else(unknown)?)
    }

    // ---- instances ----

    /// Starts an instance; whether it is new, and where it stands.
    ///
    /// # Errors
    /// Those of [`Engine::start`].
    pub async fn start(&self, body: StartBody) -> Result<(StartOutcome, Value)> {
        let id = self.id(&body.id)?;
        let request = StartRequest {
            id: id.clone(),
            orchestration: body.orchestration,
            module: body.module,
            input: body.input,
            tags: body.tags.into_iter().collect(),
            reuse: body.reuse,
            start_at: body.start_at.as_deref().map(timestamp).transpose()?,
        };
        let outcome = self.engine()?.start(request).await?;
        Ok((outcome, self.outcome(&id, body.wait_ms).await?))
    }

    pub(super) fn filter(&self, query: ListQuery) -> Result<Filter> {
        let modules = match &query.module {
            Some(wanted) => {
                let all = self.own_modules()?;
                let found: Vec<_> = all.iter().filter(|m| is_called(m, wanted)).map(|m| m.hash).collect();
                if found.is_empty() {
                    let exists = all.iter().map(Module::called).collect();
                    return Err(EngineError::UnknownModule { module: wanted.clone(), exists }.into());
                }
                Some(found)
            }
            None => None,
        };
        let tags = query.tags.as_deref().map_or(Ok(BTreeMap::new()), |text| {
            serde_json::from_str(text).map_err(|error| {
                Problem::invalid(format!("tags is {text:?}: expected a JSON object of texts: {error}"))
            })
        })?;
        Ok(Filter {
            namespace: self.namespace(),
            everywhere: false,
            status: query.status,
            orchestration: query.orchestration,
            id_prefix: query.prefix,
            modules,
            tags,
            created_from: query.created_from.as_deref().map(timestamp).transpose()?,
            created_before: query.created_before.as_deref().map(timestamp).transpose()?,
            updated_before: None,
        })
    }

    /// One instance in full.
    ///
    /// # Errors
    /// If it is unknown, or the store fails.
    pub fn instance(&self, id: &InstanceId) -> Result<Value> {
        let whereabouts = |call: &ActivityScheduled| self.engine.as_ref().map(|engine| engine.whereabouts(id, call));
        to_json(&view::instance(&*self.store, id, whereabouts)?)
    }

    /// Events of an execution, numbered, and the number to go on from.
    ///
    /// # Errors
    /// If there is no such execution, or the store fails.
    pub async fn history(&self, id: &InstanceId, query: HistoryQuery) -> Result<Value> {
        let from = query.from.unwrap_or(1).max(1);
        let limit = query.limit.unwrap_or(EVENTS_LIMIT);
        if !(1..=MAX_EVENTS_LIMIT).contains(&limit) {
            return Err(Problem::invalid(format!(
                "limit is {limit}: expected 1 to {MAX_EVENTS_LIMIT}; page with from"
            )));
        }
        let now = self.summary(id)?;
        let execution = query.execution.unwrap_or(now.execution);
        let there = |now: &Summary| now.execution > execution || now.events >= from || now.status.is_final();
        let now = self.until(id, query.wait_ms, there).await?;
        let store = self.store.clone();
        let owned = id.clone();
        let page = from as usize - 1..(from as usize - 1).saturating_add(limit);
        let events = blocking(move || Ok(events_json(&read_history(&store, &owned, Some(execution))?.decode()?, page)));
        let events = events.await?;
        Ok(json!({
            "instance": id,
            "execution": execution,
            "latest_execution": now.execution,
            "status": now.status,
            "next": from as usize + events.len(),
            "events": events,
        }))
    }

    /// A recording's bytes.
    ///
    /// # Errors
    /// If there is no such execution, or the store fails.
    pub fn recording(&self, id: &InstanceId, query: &RecordingQuery) -> Result<Vec<u8>> {
        let history = read_history(&self.store, id, query.execution)?;
        let mut recording = Recording::of(&history, None)?;
        if query.with_module {
            recording.module = self.store.module_bytes(&recording.module_hash)?;
        }
        Ok(recording.encode())
    }

    /// Where an instance stands; its output or failure once it has ended, for
    /// which this waits.
    ///
    /// # Errors
    /// If it is unknown, or cannot go on.
    pub async fn outcome(&self, id: &InstanceId, wait_ms: u64) -> Result<Value> {
        if let Some(engine) = &self.engine
            && wait_ms > 0
        {
            tokio::select! {
                ended = engine.ended(id) => drop(ended?),
                () = tokio::time::sleep(bounded(wait_ms)) => {}
                () = self.stops() => {}
            }
        }
        let summary = self.summary(id)?;
        let mut answer = json!({ "id": id, "status": summary.status });
        if summary.status.is_final() {
            match view::outcome(&*self.store, id)? {
                Some(Ok(output)) => answer["output"] = to_json(&output)?,
                Some(Err(failure)) => {
                    answer["error"] = failure.to_string().into();
                    answer["failure"] = to_json(&failure)?;
                }
                None => {}
            }
        }
        Ok(answer)
    }

    /// Raises an event; with a key, once for that key.
    ///
    /// # Errors
    /// Those of [`Engine::raise`].
    pub async fn raise(&self, id: &InstanceId, name: &str, value: Payload, key: Option<&str>) -> Result<()> {
        match key {
            Some(key) => self.engine()?.raise_once(id, name, value, key).await.map(drop)?,
            None => self.engine()?.raise(id, name, value).await?,
        }
        Ok(())
    }

    /// Ends an instance at once.
    ///
    /// # Errors
    /// Those of [`Engine::terminate`].
    pub async fn terminate(&self, id: &InstanceId, reason: &str) -> Result<()> {
        Ok(self.engine()?.terminate(id, reason).await?)
    }

    /// Asks an instance to end.
    ///
    /// # Errors
    /// Those of [`Engine::cancel`].
    pub async fn cancel(&self, id: &InstanceId, reason: &str) -> Result<()> {
        Ok(self.engine()?.cancel(id, reason).await?)
    }

    // ---- helpers ----

    fn summary(&self, id: &InstanceId) -> Result<Summary> {
        Ok(self.store.summary(id)?.ok_or_else(|| EngineError::UnknownInstance { id: id.clone() })?)
    }

    /// The row as soon as `ready` says so, or as it is after `wait_ms`.
    async fn until(&self, id: &InstanceId, wait_ms: u64, ready: impl Fn(&Summary) -> bool) -> Result<Summary> {
        let deadline = Instant::now() + bounded(wait_ms);
        let mut changes = self.store.watch(id);
        loop {
            let summary = self.summary(id)?;
            if ready(&summary) || wait_ms == 0 || self.engine.is_none() {
                return Ok(summary);
            }
            tokio::select! {
                _ = changes.changed() => {}
                () = tokio::time::sleep_until(deadline) => return self.summary(id),
                () = self.stops() => return Ok(summary),
            }
        }
    }
}

/// Reads a point in time: RFC 3339, or a local time with its zone in brackets.
///
/// # Errors
/// If it is none, or before 1970.
pub fn timestamp(text: &str) -> Result<TimestampMs> {
    let read = || {
        let time: jiff::Timestamp = match text.parse::<jiff::Zoned>() {
            Ok(zoned) => zoned.timestamp(),
            Err(_) => text.parse().ok()?,
        };
        u64::try_from(time.as_millisecond()).ok().map(TimestampMs)
    };
    read().ok_or_else(|| {
        Problem::invalid(format!(
            "{text:?} is not a point in time: expected one such as 2027-01-31T08:00:00Z, 2027-01-31T08:00:00+01:00 or \
             2027-01-31T08:00[Europe/Berlin]"
        ))
    })
}

/// Reads an id of the default namespace that came as text.
///
/// # Errors
/// If it is none.
pub fn instance_id(text: &str) -> Result<InstanceId> {
    Ok(InstanceId::new(text).map_err(EngineError::from)?)
}

/// Runs what may block, such as the store's calls, where that is allowed.
///
/// # Errors
/// Those of `run`.
pub async fn blocking<T: Send + 'static>(run: impl FnOnce() -> Result<T> + Send + 'static) -> Result<T> {
    let done = tokio::task::spawn_blocking(run).await;
    done.unwrap_or_else(|error| Err(Problem::new("internal", format!("the request could not be finished: {error}"))))
}

/// A module as JSON: schemas as JSON, and no value of an environment variable,
/// which may be a secret.
pub fn module_json(module: &Module) -> Value {
    let schema = |text: &Option<String>| text.as_deref().and_then(|text| serde_json::from_str::<Value>(text).ok());
    let offers = |offers: &[Offer]| {
        let offers = offers.iter().map(|offer| {
            json!({
                "name": offer.name,
                "description": offer.description,
                "input_schema": schema(&offer.input_schema),
                "output_schema": schema(&offer.output_schema),
                "default_retry": offer.default_retry,
            })
        });
        offers.collect::<Vec<_>>()
    };
    json!({
        "name": module.local_name(),
        "version": module.version,
        "hash": module.hash,
        "kind": module.kind,
        "size": module.size,
        "uploaded_at": module.uploaded_at.to_string(),
        "offers": offers(&module.offers),
        "queries": offers(&module.queries),
        "entities": module.entities.iter().map(|entity| json!({
            "kind": entity.kind,
            "operations": entity.operations.iter().map(|offer| &offer.name).collect::<Vec<_>>(),
        })).collect::<Vec<_>>(),
        "updates": module.updates.iter().map(|offer| &offer.name).collect::<Vec<_>>(),
        "grants": {
            "env": module.grants.env.keys().collect::<Vec<_>>(),
            "hosts": module.grants.hosts,
            "directories": module.grants.directories,
            "secrets": module.grants.secrets,
        },
    })
}

/// The first `most` events of a history as JSON, each with its line for people.
pub(super) fn events_of(records: &[TurnRecord], most: usize) -> Vec<Value> {
    events_json(records, 0..most)
}

/// Those events as JSON, each with its line for people.
fn events_json(records: &[TurnRecord], page: Range<usize>) -> Vec<Value> {
    let summaries = records.iter().flat_map(|record| &record.events).map(|event| event.summary(SUMMARY_BYTES));
    let events = view::events_json(records).into_iter().zip(summaries).skip(page.start).take(page.len());
    let with_summary = |(mut event, summary): (Value, String)| {
        event["summary"] = summary.into();
        event
    };
    events.map(with_summary).collect()
}

pub(super) fn read_history(store: &Watched, id: &InstanceId, execution: Option<ExecutionNumber>) -> Result<History> {
    match store.history(id, execution)? {
        Some(history) => Ok(history),
        None => match (execution, store.summary(id)?) {
            (Some(execution), Some(now)) => Err(Problem::new(
                "not-found",
                format!("instance {id} has no execution {execution}; the current one is {}", now.execution),
            )),
            _ => Err(EngineError::UnknownInstance { id: id.clone() }.into()),
        },
    }
}

fn bounded(wait_ms: u64) -> Duration {
    Duration::from_millis(wait_ms).min(MAX_WAIT)
}

pub(super) fn to_json<T: Serialize>(value: &T) -> Result<Value> {
    serde_json::to_value(value).map_err(|error| Problem::new("internal", error.to_string()))
}
