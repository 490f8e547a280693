//! The worker API: how programs elsewhere fetch tasks and report. Described for
//! those who write one in `host/docs/worker-api.md`.
//!
//! | method, path | |
//! |---|---|
//! | `POST workers` | [`RegisterBody`]; its id |
//! | `GET workers` | |
//! | `DELETE workers/{id}` | it leaves; what it has is given out again |
//! | `POST workers/{id}/claim` | [`ClaimBody`]; tasks |
//! | `POST tasks/complete` | [`Completed`]s |
//! | `POST tasks/fail` | [`Failed`]s |
//! | `POST tasks/heartbeat` | [`Beat`]s |
//! | `POST tasks/extend` | [`Extend`]s |
//! | `GET queues` | |

use std::collections::BTreeMap;

use axum::extract::Path;
use axum::http::StatusCode;
use axum::response::{IntoResponse, Response};
use axum::routing::{delete, get, post};
use axum::{Json, Router};
use serde::{Deserialize, Serialize};
use serde_json::{Value, json};

use super::JsonBody;
use super::access::Scoped;
use super::api::{Api, MAX_WAIT, Result};
use super::problem::Problem;
use crate::core::payload::{Failure, FailureKind, Outcome, Payload};
use crate::core::retry::RetryPolicy;
use crate::engine::{Claimed, LEASE_MS, Registration};

/// A worker that wants to serve.
#[derive(Clone, Debug, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct RegisterBody {
    /// For people: a host and process, say.
    #[serde(default)]
    pub name: String,
    /// The queues that it serves; none: the default one.
    #[serde(default)]
    pub queues: Vec<String>,
    /// What it serves.
    pub activities: Vec<Served>,
}

/// An activity that a worker serves: its name, or more.
#[derive(Clone, Debug, Serialize, Deserialize)]
#[serde(untagged)]
pub enum Served {
    /// `service.method`.
    Name(String),
    /// With a policy.
    Full {
        /// `service.method`.
        name: String,
        /// For calls that give none.
        #[serde(default, skip_serializing_if = "Option::is_none")]
        default_retry: Option<RetryBody>,
    },
}

/// A retry policy of which only the number of attempts has to be given.
#[derive(Clone, Debug, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct RetryBody {
    /// The first one counted; 0 is without bound.
    pub max_attempts: u32,
    /// Milliseconds to the second attempt.
    #[serde(default = "RetryBody::first_interval_ms")]
    pub first_interval_ms: u64,
    /// Growth per attempt.
    #[serde(default = "RetryBody::coefficient")]
    pub coefficient: f64,
    /// No wait is longer.
    #[serde(default = "RetryBody::max_interval_ms")]
    pub max_interval_ms: u64,
    /// After which no attempt starts.
    #[serde(default)]
    pub total_timeout_ms: Option<u64>,
    /// The part of a wait that is random.
    #[serde(default)]
    pub jitter: f64,
    /// Error types that are never tried again.
    #[serde(default)]
    pub non_retryable: Vec<String>,
}

impl RetryBody {
    fn first_interval_ms() -> u64 {
        1_000
    }
    fn coefficient() -> f64 {
        2.0
    }
    fn max_interval_ms() -> u64 {
        60_000
    }
}

impl From<RetryBody> for RetryPolicy {
    fn from(body: RetryBody) -> Self {
        Self {
            first_interval_ms: body.first_interval_ms,
            coefficient: body.coefficient,
            max_interval_ms: body.max_interval_ms.max(body.first_interval_ms),
            max_attempts: body.max_attempts,
            total_timeout_ms: body.total_timeout_ms,
            jitter: body.jitter,
            non_retryable: body.non_retryable,
        }
    }
}

/// What a worker asks for.
#[derive(Clone, Debug, Serialize, Deserialize)]
#[serde(deny_unknown_fields, default)]
pub struct ClaimBody {
    /// At most so many tasks.
    pub max: usize,
    /// Wait so long for the first one, milliseconds.
    pub wait_ms: u64,
    /// Lease them for so long, milliseconds.
    pub lease_ms: u64,
}

impl Default for ClaimBody {
    fn default() -> Self {
        Self { max: 1, wait_ms: 0, lease_ms: LEASE_MS }
    }
}

/// Several of something, each about one task.
#[derive(Clone, Debug, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Batch<T> {
    /// Which.
    pub tasks: Vec<T>,
}

/// A task that is done.
#[derive(Clone, Debug, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Completed {
    /// Given with the task.
    pub token: String,
    /// What it returns.
    #[serde(default = "Payload::null")]
    pub output: Payload,
}

/// A task that failed.
#[derive(Clone, Debug, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Failed {
    /// Given with the task.
    pub token: String,
    /// For people.
    pub message: String,
    /// The application's name for the error.
    #[serde(default)]
    pub error_type: String,
    /// No policy may try again.
    #[serde(default)]
    pub non_retryable: bool,
    /// What else the caller is to know.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub details: Option<Payload>,
    /// The attempt stopped because it was told to.
    #[serde(default)]
    pub cancelled: bool,
}

/// A task that is being worked on.
#[derive(Clone, Debug, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Beat {
    /// Given with the task.
    pub token: String,
    /// How far it is.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub progress: Option<Payload>,
}

/// A task that needs its lease for longer.
#[derive(Clone, Debug, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Extend {
    /// Given with the task.
    pub token: String,
    /// From now, milliseconds.
    #[serde(default = "Extend::lease_ms")]
    pub lease_ms: u64,
}

impl Extend {
    fn lease_ms() -> u64 {
        LEASE_MS
    }
}

impl Api {
    /// Every queue that is in use or has bounds.
    ///
    /// # Errors
    /// If no engine runs.
    pub fn queues(&self) -> Result<Value> {
        Ok(json!({ "queues": self.engine()?.queues_in(&self.namespace()) }))
    }

    /// Every remote worker that was heard of lately.
    ///
    /// # Errors
    /// If no engine runs.
    pub fn workers(&self) -> Result<Value> {
        Ok(json!({ "workers": self.engine()?.workers_of(&self.namespace()).list() }))
    }
}

/// The routes of this file.
pub(super) fn routes() -> Router<Api> {
    Router::new()
        .route("/queues", get(queues))
        .route("/workers", get(workers).post(register))
        .route("/workers/{id}", delete(unregister))
        .route("/workers/{id}/claim", post(claim))
        .route("/tasks/complete", post(complete))
        .route("/tasks/fail", post(fail))
        .route("/tasks/heartbeat", post(heartbeat))
        .route("/tasks/extend", post(extend))
}

type Answer = Result<Json<Value>, Problem>;

async fn queues(Scoped(api): Scoped) -> Answer {
    api.queues().map(Json)
}

async fn workers(Scoped(api): Scoped) -> Answer {
    api.workers().map(Json)
}

async fn register(Scoped(api): Scoped, JsonBody(body): JsonBody<RegisterBody>) -> Result<Response, Problem> {
    let served = |served: Served| match served {
        Served::Name(name) => (name, None),
        Served::Full { name, default_retry } => (name, default_retry.map(RetryPolicy::from)),
    };
    let activities: BTreeMap<_, _> = body.activities.into_iter().map(served).collect();
    let registration = Registration { name: body.name, queues: body.queues, activities };
    let worker = api.engine()?.workers_of(&api.namespace()).register(registration)?;
    Ok((StatusCode::CREATED, Json(json!({ "worker": worker, "lease_ms": LEASE_MS }))).into_response())
}

async fn unregister(Scoped(api): Scoped, Path(id): Path<String>) -> Result<StatusCode, Problem> {
    api.engine()?.workers_of(&api.namespace()).unregister(&id)?;
    Ok(StatusCode::NO_CONTENT)
}

async fn claim(Scoped(api): Scoped, Path(id): Path<String>, JsonBody(body): JsonBody<ClaimBody>) -> Answer {
    let mut stopping = api.stopping();
    let wait = std::time::Duration::from_millis(body.wait_ms).min(MAX_WAIT);
    let give_up = async move {
        tokio::select! {
            () = tokio::time::sleep(wait) => {}
            _ = stopping.wait_for(|stopping| *stopping) => {}
        }
    };
    let claimed = api.engine()?.workers_of(&api.namespace()).claim(&id, body.max, body.lease_ms, give_up).await?;
    Ok(Json(json!({ "tasks": claimed.iter().map(task_json).collect::<Vec<_>>() })))
}

fn task_json(claimed: &Claimed) -> Value {
    let task = &claimed.task;
    json!({
        "token": claimed.token,
        "name": task.name,
        "input": task.input,
        "idempotency_key": task.idempotency_key(),
        "instance": task.instance,
        "execution": task.execution,
        "operation": task.operation,
        "attempt": task.attempt,
        "queue": task.queue(),
        "last_heartbeat": task.progress(),
        "heartbeat_ms": task.options.heartbeat_ms,
        "lease_until_ms": claimed.lease_until,
        "deadline_ms": task.deadline(),
        "headers": claimed.headers,
    })
}

async fn complete(Scoped(api): Scoped, JsonBody(batch): JsonBody<Batch<Completed>>) -> Answer {
    report(&api, batch.tasks.into_iter().map(|task| (task.token, Ok(task.output))).collect()).await
}

async fn fail(Scoped(api): Scoped, JsonBody(batch): JsonBody<Batch<Failed>>) -> Answer {
    let failure = |task: &Failed| Failure {
        kind: if task.cancelled { FailureKind::Cancelled } else { FailureKind::Application },
        error_type: task.error_type.clone(),
        message: task.message.clone(),
        non_retryable: task.non_retryable,
        details: task.details.clone(),
    };
    report(&api, batch.tasks.iter().map(|task| (task.token.clone(), Err(failure(task)))).collect()).await
}

/// All at once: they become durable together.
async fn report(api: &Api, reports: Vec<(String, Outcome)>) -> Answer {
    let workers = &api.engine()?.workers_of(&api.namespace());
    let reports = reports.into_iter().map(|(token, outcome)| async move {
        let answer = workers.report(&token, outcome).await?;
        Ok::<Value, Problem>(json!({ "token": token, "answer": answer }))
    });
    let answers: Result<Vec<Value>> = futures::future::try_join_all(reports).await;
    Ok(Json(json!({ "tasks": answers? })))
}

async fn heartbeat(Scoped(api): Scoped, JsonBody(batch): JsonBody<Batch<Beat>>) -> Answer {
    let workers = api.engine()?.workers_of(&api.namespace());
    // One that says too much is told so, and the others are heard all the same.
    let beat = |beat: Beat| match workers.heartbeat(&beat.token, beat.progress) {
        Ok(standing) => json!({ "token": beat.token, "answer": standing }),
        Err(error) => json!({ "token": beat.token, "answer": "refused", "detail": error.to_string() }),
    };
    Ok(Json(json!({ "tasks": batch.tasks.into_iter().map(beat).collect::<Vec<_>>() })))
}

async fn extend(Scoped(api): Scoped, JsonBody(batch): JsonBody<Batch<Extend>>) -> Answer {
    let workers = api.engine()?.workers_of(&api.namespace());
    let extend = |extend: Extend| -> Result<Value> {
        let standing = workers.extend(&extend.token, extend.lease_ms)?;
        Ok(json!({ "token": extend.token, "answer": standing }))
    };
    Ok(Json(json!({ "tasks": batch.tasks.into_iter().map(extend).collect::<Result<Vec<_>>>()? })))
}
