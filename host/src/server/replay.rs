//! A history at any of its events, and its route:
//! `GET instances/{id}/replay?event=&execution=&module=&logs=&pending=`.
//!
//! It is the debugger's engine behind a slider: what was asked for and on which
//! line, what is pending, what came back last, log, custom status, tags. With
//! `module`, the history is replayed in that stored module and the first difference
//! is marked. Nothing is let out.
//!
//! Sessions are kept, so that the next position of the slider costs what a step of
//! the debugger costs, and so are the lines of the log ([`logs`](super::logs)). What is
//! recorded meanwhile is taken in: nothing of a history is run twice.

use std::sync::{Arc, Mutex, MutexGuard, OnceLock, PoisonError};

use axum::extract::Path;
use axum::routing::get;
use axum::{Json, Router};
use serde::{Deserialize, Serialize};
use serde_json::{Value, json};

use super::access::Scoped;
use super::api::{Api, Result, blocking, read_history, to_json};
use super::{Answer, Problem, Query};
use crate::core::ids::{ExecutionNumber, InstanceId, ModuleHash};
use crate::core::turn::module_of;
use crate::engine::EngineError;
use crate::replay::debugger::view::ViewLimits;
use crate::replay::debugger::{Halt, Session, SessionSettings, Target};
use crate::replay::source::Sources;
use crate::sandbox::settings::SandboxSettings;
use crate::sandbox::{Sandbox, shared_cache};

/// Sessions that are kept: each has a guest and checkpoints in memory.
const SESSIONS: usize = 4;

/// Memory for one session's checkpoints, bytes.
const CHECKPOINT_BYTES: usize = 64 << 20;

/// Most log lines and pending operations in one answer.
const MOST_SHOWN: usize = 1_000;

/// Which event of which history, in which module.
#[derive(Clone, Debug, Default, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct ReplayQuery {
    /// The last event that has happened, from 1; 0: none has. None: the last one.
    pub event: Option<u32>,
    /// None: the current one.
    pub execution: Option<ExecutionNumber>,
    /// `name`, `name@version` or a hash; none: the one that is recorded.
    pub module: Option<String>,
    /// The last lines of the log; 50 unless said.
    pub logs: Option<usize>,
    /// The first operations that are pending; 50 unless said.
    pub pending: Option<usize>,
}

/// Sessions, the one that was used last at the end.
#[derive(Default)]
pub struct Replays {
    sandbox: OnceLock<std::result::Result<Sandbox, String>>,
    kept: Mutex<Vec<(Key, Arc<Mutex<Session>>)>>,
}

impl std::fmt::Debug for Replays {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Replays").finish_non_exhaustive()
    }
}

#[derive(Clone, Debug, PartialEq, Eq)]
struct Key {
    instance: InstanceId,
    execution: ExecutionNumber,
    module: ModuleHash,
}

/// A session, and whose it is.
pub(super) struct Looked {
    pub(super) session: Arc<Mutex<Session>>,
    pub(super) execution: ExecutionNumber,
    recorded: ModuleHash,
    module: ModuleHash,
}

impl Looked {
    pub(super) fn session(&self) -> MutexGuard<'_, Session> {
        self.session.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl Replays {
    fn sandbox(&self, api: &Api) -> Result<&Sandbox> {
        let made = self.sandbox.get_or_init(|| {
            let (settings, cache) = match api.engine() {
                Ok(engine) => (engine.settings().sandbox.clone(), engine.settings().cache.clone()),
                Err(_) => (SandboxSettings::default(), shared_cache()),
            };
            let resident_guests = 4 * SESSIONS as u32;
            let settings = SandboxSettings { resident_guests, ..settings };
            Sandbox::inspecting(settings, cache).map_err(|error| format!("{error:#}"))
        });
        made.as_ref().map_err(|error| EngineError::Sandbox(error.clone()).into())
    }

    fn kept(&self, key: &Key) -> Option<Arc<Mutex<Session>>> {
        let mut kept = self.kept.lock().unwrap_or_else(PoisonError::into_inner);
        let at = kept.iter().position(|(other, _)| other == key)?;
        let found = kept.remove(at);
        kept.push(found);
        kept.last().map(|(_, session)| session.clone())
    }

    fn keep(&self, key: Key, session: Session) -> Arc<Mutex<Session>> {
        let session = Arc::new(Mutex::new(session));
        let mut kept = self.kept.lock().unwrap_or_else(PoisonError::into_inner);
        kept.retain(|(other, _)| *other != key);
        if kept.len() >= SESSIONS {
            kept.remove(0);
        }
        kept.push((key, session.clone()));
        session
    }
}

impl Api {
    /// All that is known at an event of an instance's history.
    ///
    /// # Errors
    /// If there is no such instance, execution, module or event.
    pub fn replay(&self, id: &InstanceId, query: &ReplayQuery) -> Result<Value> {
        let looked = self.looked_at(id, query.execution, query.module.as_deref())?;
        look(&mut looked.session(), query, looked.recorded, looked.module)
    }

    /// A session in a history as it stands, which is kept for the next question.
    pub(super) fn looked_at(
        &self,
        id: &InstanceId,
        execution: Option<ExecutionNumber>,
        module: Option<&str>,
    ) -> Result<Looked> {
        let history = read_history(self.store(), id, execution)?;
        let records = history.decode().map_err(EngineError::from)?;
        let recorded = module_of(&records).ok_or_else(|| Problem::invalid("the history has no beginning"))?;
        let module = match module {
            Some(wanted) => self.with_modules(|modules| modules.find_in(&self.namespace(), wanted))?.hash,
            None => recorded,
        };
        let execution = history.execution;
        let key = Key { instance: id.clone(), execution, module };
        if let Some(session) = self.replays().kept(&key) {
            let looked = Looked { session, execution, recorded, module };
            if looked.session().extend(records.clone()) {
                return Ok(looked);
            }
        }
        let bytes = self.module_bytes(&module.to_string())?;
        let loaded = self.replays().sandbox(self)?.load(module, &bytes);
        let loaded = loaded.map_err(|error| EngineError::Sandbox(format!("{error:#}")))?;
        let settings = SessionSettings { checkpoint_bytes: CHECKPOINT_BYTES };
        let session = Session::open(loaded, records, settings);
        let mut session = session.map_err(|error| Problem::new("replay-failed", error.to_string()))?;
        if module != recorded {
            // The slider marks where the first difference is.
            session.run(&Target::End, false);
        }
        Ok(Looked { session: self.replays().keep(key, session), execution, recorded, module })
    }
}

fn look(session: &mut Session, query: &ReplayQuery, recorded: ModuleHash, module: ModuleHash) -> Result<Value> {
    let events = session.events();
    let event = query.event.unwrap_or(events);
    if event > events {
        return Err(Problem::invalid(format!("expected an event from 0 to {events}, found {event}")));
    }
    session.run(&Target::Event(event), false);
    let most = |wanted: Option<usize>| wanted.unwrap_or(50).min(MOST_SHOWN);
    let view = session.view(ViewLimits { logs: most(query.logs), pending: most(query.pending) });
    let mut sources = Sources::here();
    let text = view.source.first().and_then(|line| sources.text(line));
    let mut answer = to_json(&view)?;
    answer["module"] = json!({ "recorded": recorded, "replayed": module });
    answer["source_text"] = json!(text);
    // A position behind the difference is none: what is shown is the one before it.
    answer["asked_for"] = event.into();
    (answer["differs_at"], answer["report"]) = match session.halt() {
        Some(Halt::Diverged(found)) => (found.event.into(), json!(found.in_words())),
        _ => (Value::Null, Value::Null),
    };
    Ok(answer)
}

pub(super) fn routes() -> Router<Api> {
    Router::new().route("/instances/{id}/replay", get(replay))
}

async fn replay(Scoped(api): Scoped, Path(id): Path<String>, Query(query): Query<ReplayQuery>) -> Answer {
    let id = api.id(&id)?;
    blocking(move || api.replay(&id, &query)).await.map(Json)
}
