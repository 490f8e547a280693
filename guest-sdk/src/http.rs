//! Outbound HTTP for wasm activities, as much of it as most need: a request, an
//! answer read whole, JSON in both. Natively every request fails: a native host
//! has better clients.
//!
//! The host lets requests out to the hosts that the module was granted. Time
//! limits are the call's: see
//! [`start_to_close`](crate::ActivityCall::start_to_close).

#[cfg(target_os = "wasi")]
mod transport;

use serde::{Serialize, de::DeserializeOwned};

use crate::activity::ActivityContext;
use crate::error::{Error, Result};
use crate::payload::{JSON, Payload};

/// The header that makes an effect happen once although its activity may run
/// more than once.
pub const IDEMPOTENCY_KEY: &str = "idempotency-key";

/// A request, not yet sent.
///
/// ```no_run
/// # use dacapo_sdk::{ActivityContext, Result, http};
/// # async fn f(ctx: ActivityContext) -> Result<String> {
/// let answer = http::post("http://localhost:8080/invoices")
///     .idempotency_key(&ctx)
///     .json(&"two apples")
///     .send()
///     .await?;
/// let id: String = answer.success()?.json()?;
/// # Ok(id) }
/// ```
#[derive(Clone, Debug)]
#[must_use = "a request does nothing unless sent"]
pub struct Request {
    method: &'static str,
    url: String,
    headers: Vec<(String, String)>,
    body: Result<Vec<u8>, String>,
}

/// An answer, read whole.
#[derive(Clone, Debug)]
pub struct Response {
    /// The status code, such as 200.
    pub status: u16,
    /// Names in lower case. Values that are not text are left out.
    pub headers: Vec<(String, String)>,
    /// The bytes of the body.
    pub body: Vec<u8>,
}

/// A GET request.
pub fn get(url: impl Into<String>) -> Request {
    Request::new("GET", url)
}

/// A POST request.
pub fn post(url: impl Into<String>) -> Request {
    Request::new("POST", url)
}

/// A PUT request.
pub fn put(url: impl Into<String>) -> Request {
    Request::new("PUT", url)
}

/// A DELETE request.
pub fn delete(url: impl Into<String>) -> Request {
    Request::new("DELETE", url)
}

impl Request {
    fn new(method: &'static str, url: impl Into<String>) -> Self {
        Self { method, url: url.into(), headers: Vec::new(), body: Ok(Vec::new()) }
    }

    /// Adds a header.
    pub fn header(mut self, name: impl Into<String>, value: impl Into<String>) -> Self {
        self.headers.push((name.into(), value.into()));
        self
    }

    /// Adds the idempotency key of this call, the same for every attempt.
    pub fn idempotency_key(self, ctx: &ActivityContext) -> Self {
        self.header(IDEMPOTENCY_KEY, ctx.idempotency_key())
    }

    /// Sends `body` as JSON. What JSON cannot express is told by [`send`](Self::send).
    pub fn json(self, body: &(impl Serialize + ?Sized)) -> Self {
        let mut request = self.header("content-type", JSON);
        request.body = Payload::json(body).map(|payload| payload.data).map_err(|error| error.message().to_owned());
        request
    }

    /// Sends these bytes.
    pub fn bytes(self, content_type: impl Into<String>, body: Vec<u8>) -> Self {
        let mut request = self.header("content-type", content_type);
        request.body = Ok(body);
        request
    }

    /// Sends the request and reads the answer, whatever its status.
    ///
    /// # Errors
    /// No answer: of type `HttpFailed`, worth another attempt. What is not: a host
    /// that the module was not granted, of type `HttpDenied`, and an invalid request.
    pub async fn send(self) -> Result<Response> {
        let what = format!("{} {}", self.method, self.url);
        let body = match self.body {
            Ok(body) => body,
            Err(message) => return Err(invalid(&message).context(what)),
        };
        transport::send(self.method, &self.url, &self.headers, body).await.map_err(|error| error.context(what))
    }
}

impl Response {
    /// Itself if the status is 2xx.
    ///
    /// # Errors
    /// Any other status, of type `Http` and the number (`Http503`), the beginning
    /// of the body in the message. 4xx is not retryable, save 408, 425 and 429.
    pub fn success(self) -> Result<Self> {
        let status = self.status;
        if (200..300).contains(&status) {
            return Ok(self);
        }
        let body: String = String::from_utf8_lossy(&self.body).chars().take(200).collect();
        let error = Error::new(format!("answered {status}: {body}")).with_type(format!("Http{status}"));
        let final_answer = (400..500).contains(&status) && ![408, 425, 429].contains(&status);
        Err(if final_answer { error.non_retryable() } else { error })
    }

    /// The body as JSON, whatever the answer says it is.
    ///
    /// # Errors
    /// It is no `T`.
    pub fn json<T: DeserializeOwned>(self) -> Result<T> {
        let payload = Payload { content_type: JSON.to_owned(), data: self.body };
        payload.decode_as("body of an answer")
    }

    /// The first header of that name, in lower case.
    pub fn header(&self, name: &str) -> Option<&str> {
        let found = self.headers.iter().find(|(header, _)| header == name);
        found.map(|(_, value)| value.as_str())
    }
}

fn invalid(message: &str) -> Error {
    Error::new(format!("invalid request: {message}")).non_retryable()
}

#[cfg(not(target_os = "wasi"))]
mod transport {
    use super::{Error, Response, Result};
    use crate::error::FailureKind;

    pub(super) async fn send(
        _method: &str,
        _url: &str,
        _headers: &[(String, String)],
        _body: Vec<u8>,
    ) -> Result<Response> {
        let message = "dacapo_sdk::http works in wasm activities only";
        Err(Error::of_kind(FailureKind::Unsupported, message).non_retryable())
    }
}
