//! The worker API as a worker speaks it: JSON over HTTP, each call on a thread
//! that may block. The contract is `host/docs/worker-api.md`.

use std::collections::BTreeMap;
use std::fmt;
use std::future::Future;
use std::pin::Pin;
use std::time::Duration;

use serde::{Deserialize, Serialize, de::DeserializeOwned};
use serde_json::{Value, json};
use ureq::http::Request;
use ureq::http::header::{AUTHORIZATION, HeaderValue};
use ureq::middleware::MiddlewareNext;
use ureq::tls::{Certificate, RootCerts, TlsConfig};
use ureq::{Agent, SendBody};

use crate::activity::{ActivityInfo, ActivitySet};
use crate::error::Error;
use crate::payload::{JSON, Payload};
use crate::time::Timestamp;

/// The host does not take this worker.
#[derive(Debug)]
pub struct WorkerError(String);

impl fmt::Display for WorkerError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.0)
    }
}

impl std::error::Error for WorkerError {}

/// Why there is no answer.
#[derive(Debug)]
pub(super) enum Problem {
    /// Nobody answers, or not now: ask again.
    Unreachable(#[allow(dead_code, reason = "for whoever debugs")] String),
    /// The host does not know the worker, any more perhaps.
    UnknownWorker,
    /// Asking again would not help.
    Refused(WorkerError),
}

/// An answer on its way.
pub(super) type Answering<T> = Pin<Box<dyn Future<Output = Result<T, Problem>> + Send>>;

#[derive(Clone)]
pub(super) struct Api {
    agent: Agent,
    base: String,
}

#[derive(Serialize)]
pub(super) struct Claim {
    pub(super) max: usize,
    pub(super) wait_ms: u64,
    pub(super) lease_ms: u64,
}

/// A task as the host gives it.
#[derive(Clone, Debug, Deserialize)]
pub(super) struct Task {
    pub(super) token: String,
    pub(super) name: String,
    input: Value,
    idempotency_key: String,
    instance: String,
    execution: u32,
    operation: u32,
    attempt: u32,
    last_heartbeat: Option<Value>,
    pub(super) heartbeat_ms: Option<u64>,
    deadline_ms: Option<u64>,
    #[serde(default)]
    pub(super) headers: BTreeMap<String, String>,
}

/// What the host says of a task.
#[derive(Debug, Deserialize)]
pub(super) struct Said {
    pub(super) token: String,
    pub(super) answer: String,
}

#[derive(Deserialize)]
struct Tasks<T> {
    tasks: Vec<T>,
}

#[derive(Deserialize)]
struct Registered {
    worker: String,
}

impl Task {
    pub(super) fn info(&self) -> ActivityInfo {
        ActivityInfo {
            idempotency_key: self.idempotency_key.clone(),
            instance: self.instance.clone(),
            execution: self.execution,
            operation: self.operation,
            attempt: self.attempt,
            deadline: self.deadline_ms.map(Timestamp::from_unix_ms),
            last_heartbeat: self.last_heartbeat.as_ref().map(from_wire),
        }
    }

    pub(super) fn input(&self) -> Payload {
        from_wire(&self.input)
    }
}

/// A payload in JSON: its value, or its bytes where it is no JSON.
pub(super) fn to_wire(payload: &Payload) -> Value {
    let text: &[u8] = if payload.data.is_empty() { b"null" } else { &payload.data };
    let value = if payload.content_type.starts_with(JSON) { serde_json::from_slice(text).ok() } else { None };
    value.unwrap_or_else(|| json!({ "$content_type": payload.content_type, "$bytes": payload.data }))
}

fn from_wire(value: &Value) -> Payload {
    let bytes = value.as_object().filter(|object| object.len() == 2).and_then(|object| {
        let content_type = object.get("$content_type")?.as_str()?.to_owned();
        let data = object.get("$bytes")?.as_array()?.iter().map(|byte| byte.as_u64().map(|byte| byte as u8));
        Some(Payload { content_type, data: data.collect::<Option<Vec<u8>>>()? })
    });
    bytes.unwrap_or_else(|| Payload { content_type: JSON.to_owned(), data: value.to_string().into_bytes() })
}

impl Api {
    pub(super) fn new(host: &str, token: Option<&str>, ca: Option<&[u8]>) -> Result<Self, WorkerError> {
        // Longer than any claim waits.
        let config = Agent::config_builder().http_status_as_error(false).proxy(None);
        let mut config = config.timeout_global(Some(Duration::from_secs(90)));
        if let Some(pem) = ca {
            let certificate = Certificate::from_pem(pem)
                .map_err(|error| WorkerError(format!("expected a certificate in PEM: {error}")))?;
            config =
                config.tls_config(TlsConfig::builder().root_certs(RootCerts::new_with_certs(&[certificate])).build());
        }
        if let Some(token) = token {
            let mut value = HeaderValue::from_str(&format!("Bearer {token}"))
                .map_err(|_| WorkerError("the token has characters that no token has".to_owned()))?;
            value.set_sensitive(true);
            config = config.middleware(move |mut request: Request<SendBody<'_>>, next: MiddlewareNext<'_>| {
                request.headers_mut().insert(AUTHORIZATION, value.clone());
                next.handle(request)
            });
        }
        Ok(Self { agent: config.build().into(), base: format!("{}/api/v1", host.trim_end_matches('/')) })
    }

    pub(super) fn register(&self, name: &str, queues: &[String], set: &ActivitySet) -> Answering<String> {
        let activity = |activity: &crate::activity::Activity| match &activity.default_retry {
            None => json!({ "name": activity.name }),
            Some(policy) => json!({ "name": activity.name, "default_retry": policy_json(policy) }),
        };
        let activities: Vec<Value> = set.activities.iter().map(activity).collect();
        let body = json!({ "name": name, "queues": queues, "activities": activities });
        let registered = self.post::<Registered>("workers".to_owned(), body);
        Box::pin(async { Ok(registered.await?.worker) })
    }

    pub(super) fn claim(&self, worker: &str, claim: Claim) -> Answering<Vec<Task>> {
        let tasks = self.post::<Tasks<Task>>(format!("workers/{worker}/claim"), json!(claim));
        Box::pin(async { Ok(tasks.await?.tasks) })
    }

    /// Several of something to `tasks/{what}`.
    pub(super) fn tell(&self, what: &str, tasks: Vec<Value>) -> Answering<Vec<Said>> {
        let said = self.post::<Tasks<Said>>(format!("tasks/{what}"), json!({ "tasks": tasks }));
        Box::pin(async { Ok(said.await?.tasks) })
    }

    pub(super) fn unregister(&self, worker: &str) -> Answering<()> {
        let (agent, url) = (self.agent.clone(), format!("{}/workers/{worker}", self.base));
        Box::pin(async move {
            let done = tokio::task::spawn_blocking(move || agent.delete(url).call().map(drop)).await;
            match done {
                Ok(Ok(())) => Ok(()),
                Ok(Err(error)) => Err(Problem::Unreachable(error.to_string())),
                Err(error) => Err(Problem::Unreachable(error.to_string())),
            }
        })
    }

    fn post<T: DeserializeOwned + Send + 'static>(&self, path: String, body: Value) -> Answering<T> {
        let (agent, url) = (self.agent.clone(), format!("{}/{path}", self.base));
        Box::pin(async move {
            let asked = tokio::task::spawn_blocking(move || ask(&agent, &url, &body)).await;
            asked.unwrap_or_else(|error| Err(Problem::Unreachable(error.to_string())))
        })
    }
}

fn ask<T: DeserializeOwned>(agent: &Agent, url: &str, body: &Value) -> Result<T, Problem> {
    let unreachable = |error: ureq::Error| Problem::Unreachable(error.to_string());
    let mut response = agent.post(url).send_json(body).map_err(unreachable)?;
    let (status, reader) = (response.status(), response.body_mut());
    let bytes = reader.with_config().limit(MAX_ANSWER).read_to_vec().map_err(unreachable)?;
    if status.is_success() {
        return serde_json::from_slice(&bytes).map_err(|error| {
            Problem::Refused(WorkerError(format!("{url} answered something else than this API: {error}")))
        });
    }
    let problem: Value = serde_json::from_slice(&bytes).unwrap_or_default();
    if problem["code"] == "unknown-worker" {
        return Err(Problem::UnknownWorker);
    }
    let said = problem["detail"].as_str().map_or_else(|| status.to_string(), str::to_owned);
    if status.is_server_error() {
        return Err(Problem::Unreachable(said));
    }
    Err(Problem::Refused(WorkerError(format!("{url} refused: {said}"))))
}

/// A thousand tasks with large inputs.
const MAX_ANSWER: u64 = 1 << 30;

fn policy_json(policy: &crate::RetryPolicy) -> Value {
    let ms = |duration: Duration| u64::try_from(duration.as_millis()).unwrap_or(u64::MAX);
    json!({
        "max_attempts": policy.max_attempts,
        "first_interval_ms": ms(policy.first_interval),
        "coefficient": policy.coefficient,
        "max_interval_ms": ms(policy.max_interval),
        "total_timeout_ms": policy.total_timeout.map(ms),
        "jitter": policy.jitter,
        "non_retryable": policy.non_retryable,
    })
}

/// What a failed task is reported with.
pub(super) fn failure_json(token: &str, error: Error) -> Value {
    let cancelled = error.is_cancelled();
    let failure = error.into_failure();
    json!({
        "token": token,
        "message": failure.message,
        "error_type": failure.error_type,
        "non_retryable": failure.non_retryable,
        "details": failure.details.as_ref().map(to_wire),
        "cancelled": cancelled,
    })
}
