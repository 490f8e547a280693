//! Routes of an instance's life as a whole: held and let go, rewound, begun again,
//! removed.

use axum::Json;
use axum::Router;
use axum::extract::Path;
use axum::http::StatusCode;
use axum::routing::post;
use serde::{Deserialize, Serialize};
use serde_json::{Value, json};

use super::access::Scoped;
use super::api::{Api, Result, blocking};
use super::{Answer, JsonBody, Problem, Reason};
use crate::core::ids::{InstanceId, TimestampMs};
use crate::core::summary::Status;
use crate::store::Filter;

/// The routes, under `/instances/{id}`.
pub(super) fn routes() -> Router<Api> {
    Router::new()
        .route("/instances/{id}/suspend", post(suspend))
        .route("/instances/{id}/resume", post(resume))
        .route("/instances/{id}/rewind", post(rewind))
        .route("/instances/{id}/restart", post(restart))
        .route("/instances/{id}/purge", post(purge))
        .route("/purge", post(purge_matching))
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

    /// Lets a failed instance go on from before its last failed operation.
    ///
    /// # Errors
    /// Those of [`Engine::rewind`](crate::engine::Engine::rewind).
    pub async fn rewind(&self, id: &InstanceId, body: &RewindBody) -> Result<()> {
        Ok(self.engine()?.rewind(id, body.force, &body.reason).await?)
    }

    /// Runs an instance again from its beginning; under which id.
    ///
    /// # Errors
    /// Those of [`Engine::restart`](crate::engine::Engine::restart).
    pub async fn restart(&self, id: &InstanceId, body: &RestartBody) -> Result<Value> {
        let new_id = body.id.as_deref().map(|id| self.id(id)).transpose()?;
        let id = self.engine()?.restart(id, new_id).await?;
        Ok(json!({ "id": id }))
    }

    /// Removes an instance that has ended.
    ///
    /// # Errors
    /// Those of [`Engine::purge`](crate::engine::Engine::purge).
    pub fn purge(&self, id: &InstanceId) -> Result<()> {
        Ok(self.engine()?.purge(id)?)
    }

    /// Removes all that match and have ended; how many they were.
    ///
    /// # Errors
    /// If the status is none that ends, or the store fails.
    pub fn purge_matching(&self, body: PurgeBody) -> Result<Value> {
        if let Some(status) = body.status.filter(|status| !status.is_final()) {
            let message =
                format!("status is {status}: expected completed, failed or terminated; the others are never purged");
            return Err(Problem::invalid(message));
        }
        let engine = self.engine()?;
        let before = TimestampMs(engine.now().0.saturating_sub(body.older_than_ms).saturating_add(1));
        let filter = Filter {
            namespace: self.namespace(),
            status: body.status,
            orchestration: body.orchestration,
            id_prefix: body.prefix,
            updated_before: Some(before),
            ..Filter::default()
        };
        Ok(json!({ "purged": engine.purge_matching(&filter)? }))
    }
}

/// How to rewind.
#[derive(Clone, Debug, Default, Serialize, Deserialize)]
#[serde(deny_unknown_fields, default)]
pub struct RewindBody {
    /// Also where it forgets calls that may have run.
    pub force: bool,
    /// Why; it is recorded.
    pub reason: String,
}

/// How to begin again.
#[derive(Clone, Debug, Default, Serialize, Deserialize)]
#[serde(deny_unknown_fields, default)]
pub struct RestartBody {
    /// Under this id. None: its own.
    pub id: Option<String>,
}

/// What to remove, of what has ended.
#[derive(Clone, Debug, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct PurgeBody {
    /// Ended so long ago or longer, milliseconds.
    pub older_than_ms: u64,
    /// So.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub status: Option<Status>,
    /// Of this orchestration.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub orchestration: Option<String>,
    /// Ids that begin so.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub prefix: Option<String>,
}

async fn rewind(
    Scoped(api): Scoped,
    Path(id): Path<String>,
    JsonBody(body): JsonBody<RewindBody>,
) -> Result<StatusCode, Problem> {
    api.rewind(&api.id(&id)?, &body).await?;
    Ok(StatusCode::ACCEPTED)
}

async fn restart(
    Scoped(api): Scoped,
    Path(id): Path<String>,
    JsonBody(body): JsonBody<RestartBody>,
) -> Result<(StatusCode, Json<Value>), Problem> {
    Ok((StatusCode::CREATED, Json(api.restart(&api.id(&id)?, &body).await?)))
}

async fn purge(Scoped(api): Scoped, Path(id): Path<String>) -> Result<StatusCode, Problem> {
    let id = api.id(&id)?;
    blocking(move || api.purge(&id)).await?;
    Ok(StatusCode::NO_CONTENT)
}

async fn purge_matching(Scoped(api): Scoped, JsonBody(body): JsonBody<PurgeBody>) -> Answer {
    blocking(move || api.purge_matching(body)).await.map(Json)
}

async fn suspend(
    Scoped(api): Scoped,
    Path(id): Path<String>,
    JsonBody(body): JsonBody<Reason>,
) -> Result<StatusCode, Problem> {
    api.suspend(&api.id(&id)?, &body.reason).await?;
    Ok(StatusCode::ACCEPTED)
}

async fn resume(
    Scoped(api): Scoped,
    Path(id): Path<String>,
    JsonBody(body): JsonBody<Reason>,
) -> Result<StatusCode, Problem> {
    api.resume(&api.id(&id)?, &body.reason).await?;
    Ok(StatusCode::ACCEPTED)
}
