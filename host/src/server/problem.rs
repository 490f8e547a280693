//! What went wrong, as the API tells it: an RFC 9457 object with a stable `code`.

use axum::http::{HeaderValue, StatusCode, header};
use axum::response::{IntoResponse, Response};
use serde::ser::SerializeStruct as _;
use serde::{Deserialize, Serialize, Serializer};

use crate::engine::EngineError;
use crate::store::StoreError;

/// An answer that is an error. Written with its `type`, `title` and `status`, which
/// follow from the code.
#[derive(Clone, Debug, Deserialize)]
pub struct Problem {
    /// A name for programs; it never changes.
    pub code: String,
    /// What was expected, what was found, what to do.
    pub detail: String,
}

impl Problem {
    /// A problem with that code.
    pub fn new(code: &str, detail: impl Into<String>) -> Self {
        Self { code: code.to_owned(), detail: detail.into() }
    }

    /// A request that is not what the API takes.
    pub fn invalid(detail: impl Into<String>) -> Self {
        Self::new("invalid-input", detail)
    }
}

fn status_of(code: &str) -> StatusCode {
    match code {
        "not-found" | "unknown-orchestration" | "unknown-module" | "unknown-instance" | "unknown-entity-kind" => {
            StatusCode::NOT_FOUND
        }
        "already-exists" | "other-orchestration" | "instance-ended" | "request-unanswered" | "instance-blocked" => {
            StatusCode::CONFLICT
        }
        "invalid-input" | "invalid-id" | "ambiguous-orchestration" => StatusCode::BAD_REQUEST,
        "module-refused" => StatusCode::UNPROCESSABLE_ENTITY,
        "too-large" => StatusCode::PAYLOAD_TOO_LARGE,
        "forbidden" => StatusCode::FORBIDDEN,
        "stopped" | "busy" => StatusCode::SERVICE_UNAVAILABLE,
        _ => StatusCode::INTERNAL_SERVER_ERROR,
    }
}

impl Serialize for Problem {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        let mut object = serializer.serialize_struct("Problem", 5)?;
        object.serialize_field("type", &format!("urn:dacapo:problem:{}", self.code))?;
        object.serialize_field("title", &self.code.replace('-', " "))?;
        object.serialize_field("status", &status_of(&self.code).as_u16())?;
        object.serialize_field("detail", &self.detail)?;
        object.serialize_field("code", &self.code)?;
        object.end()
    }
}

impl std::fmt::Display for Problem {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str(&self.detail)
    }
}

impl std::error::Error for Problem {}

impl From<EngineError> for Problem {
    fn from(error: EngineError) -> Self {
        Self::new(error.code(), error.to_string())
    }
}

impl From<StoreError> for Problem {
    fn from(error: StoreError) -> Self {
        EngineError::from(error).into()
    }
}

impl IntoResponse for Problem {
    fn into_response(self) -> Response {
        let mut response = (status_of(&self.code), axum::Json(self)).into_response();
        response.headers_mut().insert(header::CONTENT_TYPE, HeaderValue::from_static("application/problem+json"));
        response
    }
}
