//! How a command reaches instances: through the server of the data folder if one
//! runs, else by opening the folder itself. Both answer with the same JSON.

mod upgrade;

use std::io::Write;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::Duration;

use serde_json::{Value, json};
use tokio::sync::watch;
use ureq::http::Response;
use ureq::typestate::WithBody;
use ureq::{Agent, Body, RequestBuilder, SendBody};

use super::error::{CliError, Result, exit};
use super::modules::Uploader;
use super::reach::Reach;
use super::{Common, store};
use crate::core::ids::{InstanceId, ModuleHash};
use crate::core::payload::Payload;
use crate::core::summary::Status;
use crate::engine::{Engine, SystemClock, Upload};
use crate::server::address::Address;
use crate::server::api::{Api, HistoryQuery, ListQuery, MAX_WAIT, RecordingQuery, StartBody, module_json};
pub(crate) use crate::server::paths::{escaped, with_query};
use crate::server::problem::Problem;
use crate::server::schedules::{ScheduleAction, ScheduleBody, ScheduleQuery};
use crate::server::watched::Watched;
use crate::server::{GRANTS_HEADER, IDEMPOTENCY_KEY};
use crate::store::Store as _;

/// A module of 32 MiB and its history.
const MAX_ANSWER: u64 = 256 << 20;

/// No request takes longer.
const LONGEST: Duration = MAX_WAIT.saturating_add(Duration::from_secs(30));

/// What a command is going to do.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Access {
    /// Look: without a server nothing runs, and the folder must be there.
    Read,
    /// Keep modules: without a server nothing runs.
    Write,
    /// Change instances or wait: without a server an engine runs while the command does.
    Run,
}

/// The way to the instances of a data folder.
#[derive(Debug)]
pub(crate) enum Client {
    /// This process has the folder at that path.
    Local(Api, PathBuf),
    /// A server has it.
    Remote(Remote),
}

/// A server on this machine.
#[derive(Debug)]
pub(crate) struct Remote {
    agent: Agent,
    base: String,
}

impl Client {
    /// The server that is named, else the one of the data folder, else that folder itself.
    pub(crate) async fn open(common: &Common, access: Access) -> Result<Self> {
        if let Some(url) = common.reach.server() {
            return Ok(Self::Remote(Remote::at(url, &common.reach)?));
        }
        let data = &common.data;
        if access == Access::Read && !store::exists(data) {
            let message = format!("there is no data folder {}; name it with --data", data.display());
            return Err(CliError::new(exit::NOT_FOUND, "not-found", message));
        }
        let data = store::make_folder(data)?;
        let store =
            match store::open_in_turn(&data, &store::options(&data)?, || Remote::find(&data, &common.reach)).await? {
                Ok(store) => Watched::new(store),
                Err(server) => return Ok(Self::Remote(server)),
            };
        let engine = match access {
            Access::Read | Access::Write => None,
            Access::Run => {
                let settings = store::settings(&data);
                Some(Arc::new(Engine::open(store.clone(), Arc::new(SystemClock), settings, None)?))
            }
        };
        Ok(Self::Local(Api::new(store, engine, watch::channel(false).1), data))
    }

    /// Whether something runs that will change what is stored.
    pub(crate) fn is_running(&self) -> bool {
        match self {
            Self::Local(api, _) => api.is_running(),
            Self::Remote(_) => true,
        }
    }

    /// Whether what was started goes on when this command is done.
    pub(crate) fn outlives(&self) -> bool {
        matches!(self, Self::Remote(_))
    }

    pub(crate) fn upload(&self, upload: Upload) -> Result<Value> {
        match self {
            // An engine that runs here knows its modules, and must know of this one.
            Self::Local(api, _) if api.is_running() => Ok(api.upload(upload)?),
            Self::Local(api, data) => Ok(module_json(&Uploader::new(api.store().clone(), data)?.take(upload)?)),
            Self::Remote(server) => server.upload(&upload, false),
        }
    }

    /// A module's bytes, if it is there.
    pub(crate) fn module_bytes(&self, hash: &ModuleHash) -> Result<Option<Vec<u8>>> {
        match self {
            Self::Local(api, _) => Ok(api.store().module_bytes(hash)?),
            Self::Remote(server) => match server.get_bytes(&format!("modules/{hash}")) {
                Err(error) if error.exit == exit::NOT_FOUND => Ok(None),
                bytes => bytes.map(Some),
            },
        }
    }

    pub(crate) fn modules(&self) -> Result<Value> {
        match self {
            Self::Local(api, _) => Ok(api.modules()?),
            Self::Remote(server) => server.get("modules"),
        }
    }

    pub(crate) async fn start(&self, body: StartBody) -> Result<Value> {
        match self {
            Self::Local(api, _) => Ok(api.start(body).await?.1),
            Self::Remote(server) => server.post("instances", &json!(body)),
        }
    }

    pub(crate) fn list(&self, query: ListQuery) -> Result<Value> {
        match self {
            Self::Local(api, _) => Ok(api.list(query)?),
            Self::Remote(server) => server.get(&with_query("instances", &query)),
        }
    }

    pub(crate) fn queues(&self) -> Result<Value> {
        match self {
            Self::Local(api, _) => Ok(api.queues()?),
            Self::Remote(server) => server.get("queues"),
        }
    }

    pub(crate) fn workers(&self) -> Result<Value> {
        match self {
            Self::Local(api, _) => Ok(api.workers()?),
            Self::Remote(server) => server.get("workers"),
        }
    }

    pub(crate) fn instance(&self, id: &InstanceId) -> Result<Value> {
        match self {
            Self::Local(api, _) => Ok(api.instance(id)?),
            Self::Remote(server) => server.get(&of(id, "")),
        }
    }

    pub(crate) async fn history(&self, id: &InstanceId, query: HistoryQuery) -> Result<Value> {
        match self {
            Self::Local(api, _) => Ok(api.history(id, query).await?),
            Self::Remote(server) => server.get(&with_query(&of(id, "/history"), &query)),
        }
    }

    pub(crate) fn recording(&self, id: &InstanceId, query: &RecordingQuery) -> Result<Vec<u8>> {
        match self {
            Self::Local(api, _) => Ok(api.recording(id, query)?),
            Self::Remote(server) => server.get_bytes(&with_query(&of(id, "/recording"), query)),
        }
    }

    /// Waits until the instance has ended.
    pub(crate) async fn ended(&self, id: &InstanceId) -> Result<Value> {
        let wait_ms = MAX_WAIT.as_millis() as u64 / 2;
        loop {
            let answer = match self {
                Self::Local(api, _) => api.outcome(id, wait_ms).await?,
                Self::Remote(server) => server.get(&format!("{}?wait_ms={wait_ms}", of(id, "/outcome")))?,
            };
            if has_ended(&answer) {
                return Ok(answer);
            }
        }
    }

    pub(crate) async fn raise(&self, id: &InstanceId, name: &str, value: Payload, key: Option<&str>) -> Result<()> {
        match self {
            Self::Local(api, _) => Ok(api.raise(id, name, value, key).await?),
            Self::Remote(server) => server.raise(&of(id, &format!("/events/{}", escaped(name))), &value.data, key),
        }
    }

    pub(crate) async fn terminate(&self, id: &InstanceId, reason: &str) -> Result<()> {
        match self {
            Self::Local(api, _) => Ok(api.terminate(id, reason).await?),
            Self::Remote(server) => server.post(&of(id, "/terminate"), &json!({ "reason": reason })).map(drop),
        }
    }

    pub(crate) async fn cancel(&self, id: &InstanceId, reason: &str) -> Result<()> {
        match self {
            Self::Local(api, _) => Ok(api.cancel(id, reason).await?),
            Self::Remote(server) => server.post(&of(id, "/cancel"), &json!({ "reason": reason })).map(drop),
        }
    }
}

/// Schedules.
impl Client {
    pub(crate) async fn put_schedule(&self, name: &str, body: &ScheduleBody) -> Result<Value> {
        match self {
            Self::Local(api, _) => Ok(api.put_schedule(name, body.clone()).await?),
            Self::Remote(server) => server.send(server.agent.put(server.url(&schedule(name, ""))), &json!(body)),
        }
    }

    pub(crate) fn schedules(&self) -> Result<Value> {
        match self {
            Self::Local(api, _) => Ok(api.schedules()?),
            Self::Remote(server) => server.get("schedules"),
        }
    }

    pub(crate) fn schedule(&self, name: &str, query: &ScheduleQuery) -> Result<Value> {
        match self {
            Self::Local(api, _) => Ok(api.schedule(name, query)?),
            Self::Remote(server) => server.get(&with_query(&schedule(name, ""), query)),
        }
    }

    pub(crate) async fn delete_schedule(&self, name: &str) -> Result<()> {
        match self {
            Self::Local(api, _) => Ok(api.delete_schedule(name).await?),
            Self::Remote(server) => {
                server.answer(server.agent.delete(server.url(&schedule(name, ""))).call()).map(drop)
            }
        }
    }

    pub(crate) fn webhooks(&self) -> Result<Value> {
        match self {
            Self::Local(api, _) => Ok(api.webhooks().to_json(&api.namespace())),
            Self::Remote(server) => server.get("webhooks"),
        }
    }

    /// Pauses, unpauses or triggers.
    pub(crate) async fn act_on_schedule(&self, name: &str, action: &ScheduleAction) -> Result<Value> {
        match self {
            Self::Local(api, _) => Ok(api.act_on_schedule(name, action.clone()).await?),
            Self::Remote(server) => {
                let (verb, body) = action.as_request();
                server.post(&schedule(name, verb), &body)
            }
        }
    }
}

impl Remote {
    /// The server of `data`, if `server.json` names one that answers.
    pub(crate) fn find(data: &Path, reach: &Reach) -> Option<Self> {
        let Address { address, pid, tls } = Address::read(data)?;
        let base = format!("{}://{address}/api/v1", if tls { "https" } else { "http" });
        let asked = Self { agent: reach.agent(Duration::from_secs(2)).ok()?, base: base.clone() };
        let health = asked.get("health").ok()?;
        let server = Self { agent: reach.agent(LONGEST).ok()?, base };
        (health["pid"] == pid).then_some(server)
    }

    /// The server at `url`.
    fn at(url: &str, reach: &Reach) -> Result<Self> {
        Ok(Self { agent: reach.agent(LONGEST)?, base: format!("{}/api/v1", url.trim_end_matches('/')) })
    }

    /// Where it is, for people.
    pub(crate) fn address(&self) -> &str {
        self.base.trim_end_matches("/api/v1")
    }

    pub(crate) fn get(&self, path: &str) -> Result<Value> {
        as_json(&self.get_bytes(path)?)
    }

    fn get_bytes(&self, path: &str) -> Result<Vec<u8>> {
        self.answer(self.agent.get(self.url(path)).call())
    }

    pub(crate) fn post(&self, path: &str, body: &Value) -> Result<Value> {
        self.send(self.agent.post(self.url(path)), body)
    }

    fn send(&self, request: RequestBuilder<WithBody>, body: &Value) -> Result<Value> {
        let bytes = self.answer(request.send_json(body))?;
        if bytes.is_empty() { Ok(Value::Null) } else { as_json(&bytes) }
    }

    fn raise(&self, path: &str, value: &[u8], key: Option<&str>) -> Result<()> {
        let request = self.agent.post(self.url(path)).header("content-type", "application/json");
        let request = key.into_iter().fold(request, |request, key| request.header(IDEMPOTENCY_KEY, key));
        self.answer(request.send(value)).map(drop)
    }

    /// Posts a payload; the answer's JSON.
    pub(super) fn ask(&self, path: &str, body: &[u8]) -> Result<Value> {
        let request = self.agent.post(self.url(path)).header("content-type", "application/json");
        as_json(&self.answer(request.send(body))?)
    }

    fn upload(&self, upload: &Upload, check: bool) -> Result<Value> {
        let named = json!({
            "name": upload.name,
            "version": upload.version,
            "held_back": upload.held_back,
            "check": check,
        });
        let grants = serde_json::to_string(&upload.grants).map_err(|error| CliError::input(error.to_string()))?;
        let request = self
            .agent
            .post(self.url(&with_query("modules", &named)))
            .header("content-type", "application/wasm")
            .header(GRANTS_HEADER, ascii_json(&grants));
        as_json(&self.answer(request.send(SendBody::from_reader(&mut &upload.bytes[..])))?)
    }

    fn url(&self, path: &str) -> String {
        format!("{}/{path}", self.base)
    }

    /// Writes an answer to `to`, however long it is and however long it takes.
    pub(super) fn download(&self, path: &str, to: &mut dyn Write) -> Result<()> {
        let request = self.agent.get(self.url(path)).config().timeout_global(None).build();
        let response = request.call().map_err(|error| self.lost(error))?;
        if !response.status().is_success() {
            return self.answer(Ok(response)).map(drop);
        }
        let mut body = response.into_body().into_with_config().limit(u64::MAX).reader();
        let copied = std::io::copy(&mut body, to);
        copied.map(drop).map_err(|error| CliError::host(format!("cannot copy from {}: {error}", self.base)))
    }

    fn lost(&self, error: impl std::fmt::Display) -> CliError {
        let message = format!("the server at {} did not answer: {error}", self.base);
        CliError::new(exit::HOST, "server-unreachable", message)
    }

    fn answer(&self, response: Result<Response<Body>, ureq::Error>) -> Result<Vec<u8>> {
        let lost = |error: ureq::Error| self.lost(error);
        let mut response = response.map_err(lost)?;
        let bytes = response.body_mut().with_config().limit(MAX_ANSWER).read_to_vec().map_err(lost)?;
        if response.status().is_success() {
            return Ok(bytes);
        }
        match serde_json::from_slice::<Problem>(&bytes) {
            Ok(problem) => Err(problem.into()),
            Err(_) => Err(CliError::host(format!("the server at {} answered {}", self.base, response.status()))),
        }
    }
}

/// Whether an answer's `status` is a final one.
pub(crate) fn has_ended(answer: &Value) -> bool {
    answer["status"].as_str().and_then(|status| status.parse::<Status>().ok()).is_some_and(Status::is_final)
}

fn as_json(bytes: &[u8]) -> Result<Value> {
    serde_json::from_slice(bytes).map_err(|error| CliError::host(format!("the server's answer is not JSON: {error}")))
}

/// The path of an instance, or of something of it.
pub(crate) fn of(id: &InstanceId, rest: &str) -> String {
    format!("instances/{}{rest}", escaped(id.as_str()))
}

fn schedule(name: &str, rest: &str) -> String {
    format!("schedules/{}{rest}", escaped(name))
}

/// JSON text that fits in a header: what is not ASCII is escaped.
fn ascii_json(text: &str) -> String {
    let mut units = [0; 2];
    let mut ascii = String::with_capacity(text.len());
    for c in text.chars() {
        if c.is_ascii() {
            ascii.push(c);
        } else {
            c.encode_utf16(&mut units).iter().for_each(|unit| ascii.push_str(&format!("\\u{unit:04x}")));
        }
    }
    ascii
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn grants_fit_in_a_header() {
        let text = ascii_json(r#"{"a":"ü😀"}"#);
        assert!(text.is_ascii());
        assert_eq!(serde_json::from_str::<Value>(&text).unwrap(), json!({ "a": "ü😀" }));
    }
}
