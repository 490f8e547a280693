//! Routes of an instance's life as a whole: held and let go.

use axum::Router;
use axum::extract::{Path, State};
use axum::http::StatusCode;
use axum::routing::post;

use super::api::{Api, Result, instance_id};
use super::{JsonBody, Problem, Reason};
use crate::core::ids::InstanceId;

/// The routes, under `/instances/{id}`.
pub(super) fn routes() -> Router<Api> {
    Router::new().route("/instances/{id}/suspend", post(suspend)).route("/instances/{id}/resume", post(resume))
}

impl Api {
    /// Holds an instance.
    ///
    /// # Errors
    /// Those of [`Engine::suspend`](crate::engine::Engine::suspend).
    pub async fn suspend(&self, id: &InstanceId, reason: &str) -> Result<()> {
        Ok(self.engine()?.suspend(id, reason).await?)
    }

    /// Lets an instance go on.
    ///
    /// # Errors
    /// Those of [`Engine::resume`](crate::engine::Engine::resume).
    pub async fn resume(&self, id: &InstanceId, reason: &str) -> Result<()> {
        Ok(self.engine()?.resume(id, reason).await?)
    }
}

async fn suspend(
    State(api): State<Api>,
    Path(id): Path<String>,
    JsonBody(body): JsonBody<Reason>,
) -> Result<StatusCode, Problem> {
    api.suspend(&instance_id(&id)?, &body.reason).await?;
    Ok(StatusCode::ACCEPTED)
}

async fn resume(
    State(api): State<Api>,
    Path(id): Path<String>,
    JsonBody(body): JsonBody<Reason>,
) -> Result<StatusCode, Problem> {
    api.resume(&instance_id(&id)?, &body.reason).await?;
    Ok(StatusCode::ACCEPTED)
}
