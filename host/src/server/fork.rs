//! Forking an instance, and its route: `POST instances/{id}/fork` with a [`ForkBody`].

use axum::extract::Path;
use axum::http::StatusCode;
use axum::response::{IntoResponse as _, Response};
use axum::routing::post;
use axum::{Json, Router};
use serde::{Deserialize, Serialize};
use serde_json::{Value, json};

use super::access::Scoped;
use super::api::{Api, Result};
use super::{JsonBody, Problem};
use crate::core::ids::{ExecutionNumber, InstanceId};
use crate::core::payload::{Failure, FailureKind, Outcome, Payload};
use crate::engine::fork::ForkRequest;

/// A fork, as it is asked for.
#[derive(Clone, Debug, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct ForkBody {
    /// The new instance.
    pub id: String,
    /// The last event to share, from 1.
    pub at: u32,
    /// Which life; none: the current one.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub execution: Option<ExecutionNumber>,
    /// What that event is to bring instead.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub edit: Option<Payload>,
    /// How that call is to fail instead.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub fail: Option<String>,
    /// What it is to run: `name`, `name@version` or a hash; none: what the other one ran.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub module: Option<String>,
}

/// What the event is to bring instead.
///
/// # Errors
/// If it is to bring two things.
pub fn edit(edit: Option<Payload>, fail: Option<String>) -> Result<Option<Outcome>> {
    match (edit, fail) {
        (Some(_), Some(_)) => Err(Problem::invalid("an event is replaced by a result or by a failure, not by both")),
        (Some(result), None) => Ok(Some(Ok(result))),
        (None, Some(message)) => Ok(Some(Err(Failure::fatal(FailureKind::Application, message)))),
        (None, None) => Ok(None),
    }
}

impl Api {
    /// Starts an instance that shares the history of `from` up to an event.
    ///
    /// # Errors
    /// Those of [`Engine::fork`](crate::engine::Engine::fork).
    pub async fn fork(&self, from: &InstanceId, body: ForkBody) -> Result<Value> {
        let ForkBody { id, at, execution, edit: result, fail, module } = body;
        let id = self.id(&id)?;
        let edit = edit(result, fail)?;
        let request = ForkRequest { from: from.clone(), execution, at, edit, module, id: id.clone() };
        self.engine()?.fork(request).await?;
        Ok(json!({ "id": id, "forked_from": from, "at": at }))
    }
}

pub(super) fn routes() -> Router<Api> {
    Router::new().route("/instances/{id}/fork", post(fork))
}

async fn fork(
    Scoped(api): Scoped,
    Path(id): Path<String>,
    JsonBody(body): JsonBody<ForkBody>,
) -> Result<Response, Problem> {
    let answer = api.fork(&api.id(&id)?, body).await?;
    Ok((StatusCode::CREATED, Json(answer)).into_response())
}
