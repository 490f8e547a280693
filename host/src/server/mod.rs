//! The HTTP API under `/api/v1`: routes, limits, and who may ask.
//!
//! | method, path | |
//! |---|---|
//! | `GET health` | that it is alive, and who it is |
//! | `POST modules?name=&version=&held_back=&check=` | the module's bytes; grants as JSON in the header `dacapo-grants` |
//! | `GET modules` | |
//! | `GET modules/{hash}` | its bytes |
//! | `POST modules/..` | see [`versions`] |
//! | `POST instances/{id}/fork` | see [`fork`] |
//! | `POST verify?replay=` | see [`verify`] |
//! | `GET backup` | see [`backup`] |
//! | `POST instances` | [`api::StartBody`]; 201 if it is new |
//! | `GET instances?status=&orchestration=&module=&tags=&prefix=` | also `&created_from=&created_before=&after=&limit=` |
//! | `GET instances/{id}` | |
//! | `GET instances/{id}/history?execution=&from=&limit=&wait_ms=` | |
//! | `GET instances/{id}/recording?execution=&with_module=` | bytes |
//! | `GET instances/{id}/outcome?wait_ms=` | |
//! | `GET instances/{id}/replay?event=&execution=&module=` | see [`replay`] |
//! | `POST instances/{id}/updates/{name}?id=&wait_ms=` | the input as JSON; 202 if it is not answered yet |
//! | `POST instances/{id}/events/{name}` | the value as JSON; with the header `idempotency-key` once for that key |
//! | `POST entities/{kind}/{key}/{operation}?id=&wait_ms=&one_way=` | the input as JSON; as updates |
//! | `POST instances/{id}/terminate`, `cancel`, `suspend`, `resume` | `{"reason": ".."}` |
//! | `GET schedules` | |
//! | `PUT schedules/{name}` | [`schedules::ScheduleBody`]: makes or changes it |
//! | `GET schedules/{name}?next=` | with its next times |
//! | `DELETE schedules/{name}` | |
//! | `GET webhooks` | those that `/hooks/{name}` takes, see [`webhooks`] |
//! | `POST schedules/{name}/pause`, `unpause`, `trigger` | pause: `{"reason": ".."}` |
//! | `POST instances/{id}/rewind` | `{"force": false, "reason": ".."}` |
//! | `POST instances/{id}/restart` | `{"id": ".."}`, or its own; 201 with the id |
//! | `POST instances/{id}/purge` | |
//! | `POST purge` | [`life::PurgeBody`]; `{"purged": n}` |
//! | `POST instances/{id}/queries/{name}` | the input as JSON; answers with the answer |
//!
//! Those of remote workers are in [`workers`].
//!
//! Who may ask for what is decided before a handler runs: see [`access`]. Without
//! tokens it listens on loopback addresses only, and it takes nothing from web pages
//! of other origins.

pub mod access;
pub mod address;
pub mod api;
pub mod audit;
pub mod backup;
pub mod bulk;
pub mod changes;
pub mod config;
pub mod fork;
pub mod life;
pub mod listing;
pub mod logs;
pub mod metrics;
pub mod openapi;
pub mod otlp;
pub mod paths;
pub mod problem;
mod query;
pub mod replay;
mod requests;
pub mod schedules;
pub mod settings;
pub mod stats;
pub mod tls;
pub mod tokens;
pub mod verify;
pub mod versions;
pub mod watched;
mod web;
pub mod webhooks;
pub mod workers;

use std::net::SocketAddr;
use std::sync::Arc;
use std::time::Duration;

use axum::body::Bytes;
use axum::extract::{DefaultBodyLimit, FromRequest, FromRequestParts, Path, Request, State};
use axum::http::request::Parts;
use axum::http::{HeaderMap, StatusCode, header};
use axum::middleware::{self, Next};
use axum::response::{IntoResponse, Response};
use axum::routing::{get, post};
use axum::{Json, Router};
use serde::Deserialize;
use serde::de::DeserializeOwned;
use serde_json::Value;
use tokio::net::TcpListener;
use tokio::sync::{Semaphore, watch};
use tokio::task::JoinHandle;

use self::access::{Admission, Caller, Needs, Scoped};
use self::api::{Api, HistoryQuery, ListQuery, RecordingQuery, StartBody, blocking};
use self::problem::Problem;
use self::tls::Tls;
use crate::core::payload::Payload;
use crate::core::trace;
use crate::engine::{CALLER_TAG, StartOutcome, Upload};
use crate::store::Grants;

/// Where webhooks are.
const HOOKS: &str = "/hooks";

/// A payload may have 2 MiB; JSON around it needs some room more.
const BODY_BYTES: usize = 3 << 20;
/// What the sandbox takes, and room for it to say how much too large it is.
const MODULE_BYTES: usize = 33 << 20;
/// Requests at the same time, waiting ones included: each holds a connection.
const CONCURRENT_REQUESTS: usize = 1024;
/// How long requests under way may take when the server ends.
const GRACE: Duration = Duration::from_secs(5);

/// The header of an event that makes it come once, however often it is sent.
pub const IDEMPOTENCY_KEY: &str = "idempotency-key";

/// The header of an upload that carries its grants, as JSON.
pub const GRANTS_HEADER: &str = "dacapo-grants";

/// A server that runs until it is stopped.
#[derive(Debug)]
pub struct Server {
    /// Where it listens.
    pub address: SocketAddr,
    /// Whether it speaks TLS there.
    pub is_tls: bool,
    stop: watch::Sender<bool>,
    serving: JoinHandle<()>,
}

/// Where and for whom to serve.
#[derive(Debug)]
pub struct Serve {
    /// Where to listen.
    pub listen: SocketAddr,
    /// Who may ask.
    pub access: Admission,
    /// How connections are protected; none: they are not.
    pub tls: Option<Tls>,
}

impl Serve {
    /// Whether what listens there is protected well enough.
    fn check(&self) -> Result<(), Problem> {
        let (listen, mut lacks) = (self.listen, Vec::new());
        if listen.ip().is_loopback() {
            return Ok(());
        }
        if self.tls.is_none() {
            lacks.push("a certificate: give --tls-cert FILE and --tls-key FILE");
        }
        if !self.access.is_guarded()? {
            lacks.push("a token: make one with `dacapo token create`");
        }
        if lacks.is_empty() {
            return Ok(());
        }
        Err(Problem::invalid(format!(
            "cannot listen on {listen}, where others reach it, without {}; or listen on 127.0.0.1:{}",
            lacks.join(", and "),
            listen.port()
        )))
    }
}

impl Server {
    /// Listens and serves what `api` makes of the signal that it stops.
    ///
    /// # Errors
    /// If the address is not a loopback one and there is no certificate or no token,
    /// or if it cannot be listened on.
    pub async fn start(serve: Serve, api: impl FnOnce(watch::Receiver<bool>) -> Api) -> Result<Self, Problem> {
        serve.check()?;
        let Serve { listen, access, tls } = serve;
        let cannot = |error: std::io::Error| {
            Problem::new("cannot-listen", format!("cannot listen on {listen}: {error}; choose another address"))
        };
        let listener = TcpListener::bind(listen).await.map_err(cannot)?;
        let address = listener.local_addr().map_err(cannot)?;
        let (stop, mut stopping) = watch::channel(false);
        let app = router(api(stopping.clone()).guarded_by(Arc::new(access)));
        let signal = async move { drop(stopping.wait_for(|stop| *stop).await) };
        let told = |served: std::io::Result<()>| {
            if let Err(error) = served {
                tracing::error!(%error, "the server failed");
            }
        };
        let is_tls = tls.is_some();
        let serving = match tls {
            Some(tls) => {
                let served = axum::serve(tls.listen(listener), app).with_graceful_shutdown(signal);
                tokio::spawn(async move { told(served.await) })
            }
            None => {
                let served = axum::serve(listener, app).with_graceful_shutdown(signal);
                tokio::spawn(async move { told(served.await) })
            }
        };
        Ok(Self { address, is_tls, stop, serving })
    }

    /// Where it is, for people and programs.
    pub fn url(&self) -> String {
        format!("{}://{}", if self.is_tls { "https" } else { "http" }, self.address)
    }

    /// Takes no further request and lets those under way end.
    pub async fn stop(self) {
        self.stop.send_replace(true);
        if tokio::time::timeout(GRACE, self.serving).await.is_err() {
            tracing::warn!("requests were cut off");
        }
    }
}

/// The routes.
pub fn router(api: Api) -> Router {
    let guarded = Guard { access: api.access().clone(), slots: Arc::new(Semaphore::new(CONCURRENT_REQUESTS)) };
    let v1 = Router::new()
        .route("/modules", get(modules).post(upload).layer(DefaultBodyLimit::max(MODULE_BYTES)))
        .route("/modules/{hash}", get(module_bytes))
        .merge(versions::routes())
        .merge(fork::routes())
        .merge(verify::routes())
        .merge(backup::routes())
        .merge(stats::routes())
        .merge(changes::routes())
        .merge(bulk::routes())
        .merge(logs::routes())
        .merge(openapi::routes())
        .merge(audit::routes())
        .merge(replay::routes())
        .route("/instances", get(list).post(start))
        .route("/instances/{id}", get(instance))
        .route("/instances/{id}/history", get(history))
        .route("/instances/{id}/recording", get(recording))
        .route("/instances/{id}/outcome", get(outcome))
        .route("/instances/{id}/events/{name}", post(raise))
        .route("/instances/{id}/terminate", post(terminate))
        .route("/instances/{id}/cancel", post(cancel))
        .merge(life::routes())
        .merge(schedules::routes())
        .merge(requests::routes())
        .merge(webhooks::api_routes())
        .merge(query::routes())
        .merge(workers::routes())
        .layer(DefaultBodyLimit::max(BODY_BYTES))
        .with_state(api.clone());
    Router::new()
        .nest("/api/v1", v1)
        .merge(web::routes(api.clone()))
        .merge(metrics::routes(api.clone()))
        .nest(HOOKS, webhooks::routes(api))
        .fallback(|| async { Problem::new("not-found", "no such path; the API is under /api/v1") })
        .method_not_allowed_fallback(|| async { Problem::invalid("this path does not take that method") })
        .layer(middleware::from_fn_with_state(guarded, guard))
}

/// Who may, and how many at the same time.
#[derive(Clone)]
struct Guard {
    access: Arc<Admission>,
    slots: Arc<Semaphore>,
}

/// Lets in who may, and with whom it is that asks. Refuses more requests than can be held.
async fn guard(State(guard): State<Guard>, mut request: Request, next: Next) -> Response {
    let (caller, needs) = match admit(&guard.access, &request) {
        Ok(admitted) => admitted,
        // People are led to where they can give it.
        Err(problem) if problem.code.starts_with("token-") && access::is_page(request.uri().path()) => {
            return web::to_sign_in(request.uri());
        }
        Err(problem) => return problem.into_response(),
    };
    let Ok(_slot) = guard.slots.try_acquire() else {
        return Problem::new("busy", "too many requests at the same time; try again").into_response();
    };
    let (audit, mut noted) = (guard.access.audit(), None);
    if let Some(audit) = audit {
        (request, noted) = match audit.note(&caller, needs, request).await {
            Ok(noted) => noted,
            Err(problem) => return problem.into_response(),
        };
    }
    request.extensions_mut().insert(caller);
    let response = next.run(request).await;
    if let Some((audit, id)) = audit.zip(noted) {
        audit.end(id, response.status().as_u16());
    }
    response
}

fn admit(access: &Admission, request: &Request) -> Result<(Caller, Needs), Problem> {
    // A webhook comes through a proxy, and proves by its signature who sent it.
    if request.uri().path().starts_with(HOOKS) {
        return Ok((Caller::Stranger, Needs::Nothing));
    }
    access::check_origin(request.method(), request.headers(), access.is_guarded()?)?;
    let needs = access::needed(request)?;
    if needs == Needs::Nothing {
        // Who it is may be of interest all the same.
        return Ok((access.who(request.headers()).unwrap_or(Caller::Stranger), needs));
    }
    let caller = access.who(request.headers())?;
    caller.may(needs)?;
    Ok((caller, needs))
}

// ---- routes ----

type Answer = Result<Json<Value>, Problem>;

async fn modules(Scoped(api): Scoped) -> Answer {
    blocking(move || api.modules()).await.map(Json)
}

async fn module_bytes(Scoped(api): Scoped, Path(hash): Path<String>) -> Result<Response, Problem> {
    let bytes = blocking(move || api.module_bytes(&hash)).await?;
    Ok(([(header::CONTENT_TYPE, "application/wasm")], bytes).into_response())
}

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct UploadQuery {
    name: String,
    version: Option<String>,
    #[serde(default)]
    held_back: bool,
    /// Only then the default when running instances can go on with it.
    #[serde(default)]
    check: bool,
}

async fn upload(
    Scoped(api): Scoped,
    Query(query): Query<UploadQuery>,
    headers: HeaderMap,
    Body(bytes): Body,
) -> Result<Response, Problem> {
    let grants: Grants = match headers.get(GRANTS_HEADER) {
        Some(value) => serde_json::from_slice(value.as_bytes())
            .map_err(|error| Problem::invalid(format!("the header {GRANTS_HEADER} has no grants: {error}")))?,
        None => Grants::default(),
    };
    let UploadQuery { name, version, held_back, check } = query;
    let upload = Upload { bytes: bytes.to_vec(), name, version, grants, held_back, ..Upload::default() };
    let module = blocking(move || if check { api.upload_checked(upload) } else { api.upload(upload) }).await?;
    Ok((StatusCode::CREATED, Json(module)).into_response())
}

async fn list(Scoped(api): Scoped, Query(query): Query<ListQuery>) -> Answer {
    blocking(move || api.list(query)).await.map(Json)
}

async fn start(
    Scoped(api): Scoped,
    headers: HeaderMap,
    JsonBody(mut body): JsonBody<StartBody>,
) -> Result<Response, Problem> {
    // So that the instance's trace can name whoever started it, also after a restart.
    let caller = headers.get("traceparent").and_then(|header| header.to_str().ok());
    if let Some(caller) = caller.filter(|text| api.tells_spans() && trace::parse(text).is_some()) {
        body.tags.entry(CALLER_TAG.to_owned()).or_insert_with(|| caller.to_owned());
    }
    let (outcome, answer) = api.start(body).await?;
    let status = if outcome == StartOutcome::Started { StatusCode::CREATED } else { StatusCode::OK };
    Ok((status, Json(answer)).into_response())
}

async fn instance(Scoped(api): Scoped, Path(id): Path<String>) -> Answer {
    let id = api.id(&id)?;
    blocking(move || api.instance(&id)).await.map(Json)
}

async fn history(Scoped(api): Scoped, Path(id): Path<String>, Query(query): Query<HistoryQuery>) -> Answer {
    api.history(&api.id(&id)?, query).await.map(Json)
}

async fn recording(
    Scoped(api): Scoped,
    Path(id): Path<String>,
    Query(query): Query<RecordingQuery>,
) -> Result<Response, Problem> {
    let id = api.id(&id)?;
    let bytes = blocking(move || api.recording(&id, &query)).await?;
    Ok(([(header::CONTENT_TYPE, "application/octet-stream")], bytes).into_response())
}

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct WaitQuery {
    #[serde(default)]
    wait_ms: u64,
}

async fn outcome(Scoped(api): Scoped, Path(id): Path<String>, Query(query): Query<WaitQuery>) -> Answer {
    api.outcome(&api.id(&id)?, query.wait_ms).await.map(Json)
}

async fn raise(
    Scoped(api): Scoped,
    Path((id, name)): Path<(String, String)>,
    headers: HeaderMap,
    JsonText(value): JsonText,
) -> Result<StatusCode, Problem> {
    let key = headers.get(IDEMPOTENCY_KEY).map(|key| key.to_str());
    let key = key.transpose().map_err(|_| Problem::invalid("the header idempotency-key is not text"))?;
    api.raise(&api.id(&id)?, &name, value, key).await?;
    Ok(StatusCode::ACCEPTED)
}

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct Reason {
    #[serde(default)]
    reason: String,
}

async fn terminate(
    Scoped(api): Scoped,
    Path(id): Path<String>,
    JsonBody(body): JsonBody<Reason>,
) -> Result<StatusCode, Problem> {
    api.terminate(&api.id(&id)?, &body.reason).await?;
    Ok(StatusCode::ACCEPTED)
}

async fn cancel(
    Scoped(api): Scoped,
    Path(id): Path<String>,
    JsonBody(body): JsonBody<Reason>,
) -> Result<StatusCode, Problem> {
    api.cancel(&api.id(&id)?, &body.reason).await?;
    Ok(StatusCode::ACCEPTED)
}

// ---- what requests carry; what is wrong with it is a problem object too ----

/// As axum's own, with a problem for a rejection.
struct Query<T>(T);

/// As axum's own, with a problem for a rejection.
struct JsonBody<T>(T);

/// Bytes of any kind.
struct Body(Bytes);

/// JSON, checked and kept as it was written.
struct JsonText(Payload);

impl<T: DeserializeOwned, S: Send + Sync> FromRequestParts<S> for Query<T> {
    type Rejection = Problem;
    async fn from_request_parts(parts: &mut Parts, state: &S) -> Result<Self, Problem> {
        let query = axum::extract::Query::<T>::from_request_parts(parts, state).await;
        query.map(|query| Self(query.0)).map_err(|rejection| Problem::invalid(rejection.body_text()))
    }
}

impl<T: DeserializeOwned, S: Send + Sync> FromRequest<S> for JsonBody<T> {
    type Rejection = Problem;
    async fn from_request(request: Request, state: &S) -> Result<Self, Problem> {
        let body = Json::<T>::from_request(request, state).await;
        body.map(|body| Self(body.0)).map_err(|rejection| refused_body(rejection.status(), rejection.body_text()))
    }
}

impl<S: Sync + Send> FromRequest<S> for Body {
    type Rejection = Problem;
    async fn from_request(request: Request, state: &S) -> Result<Self, Problem> {
        let bytes = Bytes::from_request(request, state).await;
        bytes.map(Self).map_err(|rejection| refused_body(rejection.status(), rejection.body_text()))
    }
}

impl<S: Sync + Send> FromRequest<S> for JsonText {
    type Rejection = Problem;
    async fn from_request(request: Request, state: &S) -> Result<Self, Problem> {
        let kind = request.headers().get(header::CONTENT_TYPE).and_then(|kind| kind.to_str().ok());
        if !kind.is_some_and(|kind| kind.starts_with("application/json")) {
            return Err(Problem::invalid("expected a value with content-type application/json"));
        }
        let Body(bytes) = Body::from_request(request, state).await?;
        serde_json::from_slice::<serde::de::IgnoredAny>(&bytes)
            .map_err(|error| Problem::invalid(format!("the value is not JSON: {error}")))?;
        Ok(Self(Payload::json(bytes)))
    }
}

fn refused_body(status: StatusCode, detail: String) -> Problem {
    if status == StatusCode::PAYLOAD_TOO_LARGE { Problem::new("too-large", detail) } else { Problem::invalid(detail) }
}
