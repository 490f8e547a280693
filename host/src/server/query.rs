//! The route of queries.

use axum::extract::Path;
use axum::http::header;
use axum::response::{IntoResponse, Response};
use axum::routing::post;
use axum::{Json, Router};

use super::access::Scoped;
use super::api::{Api, Result};
use super::{JsonText, Problem};
use crate::core::ids::InstanceId;
use crate::core::payload::{ContentType, Payload};

/// The route, under `/instances/{id}`.
pub(super) fn routes() -> Router<Api> {
    Router::new().route("/instances/{id}/queries/{name}", post(query))
}

impl Api {
    /// Asks an instance's code.
    ///
    /// # Errors
    /// Those of [`Engine::query`](crate::engine::Engine::query).
    pub async fn query(&self, id: &InstanceId, name: &str, input: Payload) -> Result<Payload> {
        Ok(self.engine()?.query(id, name, input).await?)
    }
}

async fn query(
    Scoped(api): Scoped,
    Path((id, name)): Path<(String, String)>,
    JsonText(input): JsonText,
) -> Result<Response, Problem> {
    let answer = api.query(&api.id(&id)?, &name, input).await?;
    Ok(match answer.content_type {
        ContentType::Json => ([(header::CONTENT_TYPE, "application/json")], answer.data.to_vec()).into_response(),
        _ => Json(answer).into_response(),
    })
}
