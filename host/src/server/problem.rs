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

/// Every code: its HTTP status, and when it is given. Codes never change their meaning.
#[rustfmt::skip]
pub const CODES: &[(&str, u16, &str)] = &[
    ("not-found", 404, "no such path, file or execution"),
    ("unknown-orchestration", 404, "no module offers it"),
    ("unknown-module", 404, "no module of that name, version or hash"),
    ("unknown-instance", 404, "no instance of that id"),
    ("unknown-schedule", 404, "no schedule of that name"),
    ("unknown-query", 404, "the orchestration answers no such query"),
    ("unknown-entity-kind", 404, "no module offers entities of that kind, or several do"),
    ("unknown-worker", 404, "the worker was never registered, or was not heard of for too long"),
    ("already-exists", 409, "the id is taken"),
    ("other-orchestration", 409, "the id is taken by an instance of something else"),
    ("instance-ended", 409, "the instance has ended"),
    ("instance-blocked", 409, "the instance cannot go on with the code it has"),
    ("request-unanswered", 409, "the instance ended without an answer"),
    ("already-raised", 409, "an event with that key was raised before"),
    ("wrong-status", 409, "what is asked for needs another status"),
    ("module-in-use", 409, "something needs the module"),
    ("version-taken", 409, "another module has that version"),
    ("invalid-input", 400, "the request is not what the route takes"),
    ("invalid-id", 400, "an id that cannot be one"),
    ("ambiguous-orchestration", 400, "several modules offer it; name one"),
    ("module-refused", 422, "the module cannot be kept; the detail says why"),
    ("query-failed", 422, "the query failed in the guest"),
    ("cannot-debug", 422, "the history cannot be stepped through here"),
    ("replay-failed", 422, "the history cannot be replayed here"),
    ("too-large", 413, "a payload, a body or a module over its limit"),
    ("forbidden", 403, "a page of another origin, or a host name that is not this host's"),
    ("token-missing", 401, "this host asks for a token, and the request has none"),
    ("token-refused", 401, "the token is unknown, has expired or was revoked"),
    ("scope-missing", 403, "the token is for something else"),
    ("host-only", 403, "only tokens of the namespace default may, since it is about the host as a whole"),
    ("quota-reached", 429, "the namespace uses all that it may; the detail says what makes room"),
    ("signature-refused", 401, "a webhook whose signature does not fit"),
    ("busy", 503, "too much at the same time; try again"),
    ("stopped", 503, "no engine runs here, or it is shutting down"),
    ("internal", 500, "a fault of this program"),
    ("store-failed", 500, "the disk failed"),
    ("store-damaged", 500, "what is stored is not what was written"),
    ("store-in-use", 500, "another process has the data folder"),
    ("store-keys-invalid", 500, "encryption keys that cannot be used"),
    ("store-key-missing", 500, "something is encrypted with a key that this host was not given"),
    ("sandbox-failed", 500, "the sandbox could not be made"),
    ("secret-missing", 500, "a secret that the configuration names is not there"),
    ("cannot-listen", 500, "the address cannot be listened on"),
];

pub(super) fn status_of(code: &str) -> StatusCode {
    let status = CODES.iter().find(|known| known.0 == code).map(|known| known.1);
    status.and_then(|status| StatusCode::from_u16(status).ok()).unwrap_or(StatusCode::INTERNAL_SERVER_ERROR)
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
        let mut response = (status_of(&self.code), axum::Json(&self)).into_response();
        response.headers_mut().insert(header::CONTENT_TYPE, HeaderValue::from_static("application/problem+json"));
        if self.code.starts_with("token-") {
            response.headers_mut().insert(header::WWW_AUTHENTICATE, HeaderValue::from_static("Bearer"));
        }
        response
    }
}
