//! The routes of requests that are waited for.

use axum::extract::Path;
use axum::http::StatusCode;
use axum::response::{IntoResponse, Response};
use axum::routing::post;
use axum::{Json, Router};
use serde_json::Value;

use super::access::Scoped;
use super::api::{Api, OperationPath, OperationQuery, RequestQuery};
use super::problem::Problem;
use super::{JsonText, Query};

pub(super) fn routes() -> Router<Api> {
    Router::new()
        .route("/instances/{id}/updates/{name}", post(update))
        .route("/entities/{kind}/{key}/{operation}", post(entity))
}

async fn update(
    Scoped(api): Scoped,
    Path((id, name)): Path<(String, String)>,
    Query(query): Query<RequestQuery>,
    JsonText(input): JsonText,
) -> Result<Response, Problem> {
    Ok(answered(api.update(&api.id(&id)?, &name, input, &query).await?))
}

async fn entity(
    Scoped(api): Scoped,
    Path(path): Path<OperationPath>,
    Query(query): Query<OperationQuery>,
    JsonText(input): JsonText,
) -> Result<Response, Problem> {
    Ok(answered(api.entity(&path, input, &query).await?))
}

/// 200 with the answer, 202 if there is none yet.
fn answered(answer: Value) -> Response {
    let status = if matches!(answer["status"].as_str(), Some("waiting" | "accepted")) {
        StatusCode::ACCEPTED
    } else {
        StatusCode::OK
    };
    (status, Json(answer)).into_response()
}
