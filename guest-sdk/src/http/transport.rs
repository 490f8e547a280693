//! One request over `wasi:http`, driven by wstd's reactor. wstd's own client
//! reports a request that was refused as a body that could not be written; here
//! the answer, or the reason why there is none, has the last word.

use futures::future::{Either, select};
use wasip2::http::outgoing_handler;
use wasip2::http::types::{
    ErrorCode, Fields, FutureIncomingResponse, IncomingResponse, Method, OutgoingBody, OutgoingRequest, Scheme,
};
use wstd::http::Uri;
use wstd::io::{AsyncInputStream, AsyncOutputStream, AsyncPollable};

use super::{Response, invalid};
use crate::error::{Error, Result};

/// Read at once.
const CHUNK: usize = 16 * 1024;

pub(super) async fn send(method: &str, url: &str, headers: &[(String, String)], body: Vec<u8>) -> Result<Response> {
    let request = build(method, url, headers, body.len())?;
    let outgoing = request.body().map_err(|()| invalid("its body was taken twice"))?;
    let pending = outgoing_handler::handle(request, None).map_err(no_answer)?;
    let answer = {
        let writing = std::pin::pin!(write(outgoing, body));
        let waiting = std::pin::pin!(wait(&pending));
        // An answer may come before all of the body is written.
        match select(waiting, writing).await {
            Either::Left((answer, _)) => answer,
            Either::Right(((), waiting)) => waiting.await,
        }
    };
    read(answer?).await
}

fn build(method: &str, url: &str, headers: &[(String, String)], length: usize) -> Result<OutgoingRequest> {
    let url: Uri = url.parse().map_err(|error| invalid(&format!("{url:?}: {error}")))?;
    let fields = Fields::new();
    for (name, value) in headers {
        fields.append(name, value.as_bytes()).map_err(|error| invalid(&format!("header {name}: {error}")))?;
    }
    if length > 0 {
        let _ = fields.append("content-length", length.to_string().as_bytes());
    }
    let request = OutgoingRequest::new(fields);
    let scheme = match url.scheme_str() {
        Some("http") => Scheme::Http,
        Some("https") => Scheme::Https,
        other => return Err(invalid(&format!("expected an http or https URL, found scheme {other:?}"))),
    };
    let method = match method {
        "GET" => Method::Get,
        "POST" => Method::Post,
        "PUT" => Method::Put,
        "DELETE" => Method::Delete,
        other => Method::Other(other.to_owned()),
    };
    request
        .set_method(&method)
        .and_then(|()| request.set_scheme(Some(&scheme)))
        .and_then(|()| request.set_authority(url.authority().map(|authority| authority.as_str())))
        .and_then(|()| request.set_path_with_query(url.path_and_query().map(|path| path.as_str())))
        .map_err(|()| invalid(&format!("the host does not take the URL {url}")))?;
    Ok(request)
}

/// A failure to write is told by the answer, or by its absence.
async fn write(outgoing: OutgoingBody, body: Vec<u8>) {
    if !body.is_empty()
        && let Ok(stream) = outgoing.write()
    {
        let stream = AsyncOutputStream::new(stream);
        if stream.write_all(&body).await.is_err() {
            return;
        }
    }
    let _ = OutgoingBody::finish(outgoing, None);
}

async fn wait(pending: &FutureIncomingResponse) -> Result<IncomingResponse> {
    AsyncPollable::new(pending.subscribe()).wait_for().await;
    match pending.get() {
        Some(Ok(answer)) => answer.map_err(no_answer),
        _ => Err(Error::new("no answer").with_type("HttpFailed")),
    }
}

async fn read(answer: IncomingResponse) -> Result<Response> {
    let headers = answer.headers().entries();
    let mut response = Response {
        status: answer.status(),
        headers: headers
            .into_iter()
            .filter_map(|(name, value)| Some((name.to_ascii_lowercase(), String::from_utf8(value).ok()?)))
            .collect(),
        body: Vec::new(),
    };
    let broken = |reason: String| Error::new(format!("answer broke off: {reason}")).with_type("HttpFailed");
    let body = answer.consume().map_err(|()| broken("its body was taken twice".to_owned()))?;
    let stream = body.stream().map_err(|()| broken("its stream was taken twice".to_owned()))?;
    let stream = AsyncInputStream::new(stream);
    let mut chunk = vec![0; CHUNK];
    loop {
        match stream.read(&mut chunk).await {
            Ok(0) => return Ok(response),
            Ok(length) => response.body.extend_from_slice(&chunk[..length]),
            Err(error) => return Err(broken(error.to_string())),
        }
    }
}

fn no_answer(error: ErrorCode) -> Error {
    match error {
        ErrorCode::HttpRequestDenied => {
            Error::new("the module was not granted this host").with_type("HttpDenied").non_retryable()
        }
        other => Error::new(format!("no answer: {other:?}")).with_type("HttpFailed"),
    }
}
