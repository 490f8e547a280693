//! Spans sent to a collector: OTLP over HTTP, as protobuf.
//!
//! A queue with a bound and a thread of their own (the SDK's batch processor) are between
//! the engine and the collector: one that is slow or away costs spans, never turns. The
//! SDK's own settings (`OTEL_BSP_*`, `OTEL_RESOURCE_ATTRIBUTES`, `OTEL_SERVICE_NAME`)
//! count.

use std::future::Future;
use std::path::Path;
use std::pin::Pin;
use std::sync::Arc;
use std::time::{Duration, SystemTime};

use opentelemetry::trace::{Link, SpanContext, SpanId, SpanKind, Status, TraceFlags, TraceId, TraceState};
use opentelemetry::{InstrumentationScope, KeyValue};
use opentelemetry_http::{Bytes, HttpClient, HttpError, Request, Response};
use opentelemetry_otlp::{SpanExporter, WithExportConfig as _, WithHttpConfig as _};
use opentelemetry_sdk::Resource;
use opentelemetry_sdk::trace::{BatchSpanProcessor, SpanData, SpanEvents, SpanLinks, SpanProcessor as _};

use super::problem::Problem;
use super::tls::trusting;
use crate::core::ids::TimestampMs;
use crate::core::trace;
use crate::engine::{Span, SpanKind as What, Spans};

/// One request to the collector may take so long.
const PATIENCE: Duration = Duration::from_secs(10);

/// As the SDK names it: what the collector's certificate must lead to.
const CERTIFICATE: &str = "OTEL_EXPORTER_OTLP_CERTIFICATE";

/// What sends spans until it is stopped.
#[derive(Debug)]
pub struct Exporter(BatchSpanProcessor);

impl Exporter {
    /// Sends to the collector at `endpoint`, such as `http://127.0.0.1:4318`. With `https`, its
    /// certificate leads to a public one, or to those in the file that
    /// `OTEL_EXPORTER_OTLP_CERTIFICATE` names.
    ///
    /// # Errors
    /// If that is no address that it can send to.
    pub fn start(endpoint: &str) -> Result<Arc<Self>, Problem> {
        let wrong = |why: &str| {
            let expected = "expected an address such as http://127.0.0.1:4318";
            Problem::invalid(format!("the OTLP endpoint is {endpoint:?}: {expected}, {why}"))
        };
        let uri: http::Uri = endpoint.parse().map_err(|_| wrong("this is none"))?;
        if !matches!(uri.scheme_str(), Some("http" | "https")) || uri.authority().is_none() {
            return Err(wrong("with http or https"));
        }
        let url = format!("{}/v1/traces", endpoint.trim_end_matches('/'));
        let mut agent =
            ureq::Agent::config_builder().http_status_as_error(false).proxy(None).timeout_global(Some(PATIENCE));
        if let Some(path) = std::env::var_os(CERTIFICATE).filter(|path| !path.is_empty()) {
            let trusted = trusting(Path::new(&path));
            agent = agent.tls_config(trusted.map_err(|why| Problem::invalid(format!("{CERTIFICATE}: {why}")))?);
        }
        let client = Client(agent.build().into());
        let exporter = SpanExporter::builder().with_http().with_http_client(client).with_endpoint(url).build();
        let exporter = exporter.map_err(|error| wrong(&error.to_string()))?;
        let mut processor = BatchSpanProcessor::builder(exporter).build();
        let version = KeyValue::new("service.version", env!("CARGO_PKG_VERSION"));
        let mut resource = Resource::builder().with_attribute(version);
        if std::env::var_os("OTEL_SERVICE_NAME").is_none() {
            resource = resource.with_service_name("dacapo");
        }
        processor.set_resource(&resource.build());
        Ok(Arc::new(Self(processor)))
    }

    /// What the engine is to tell.
    pub fn spans(self: &Arc<Self>) -> Spans {
        let exporter = self.clone();
        let scope = InstrumentationScope::builder("dacapo").with_version(env!("CARGO_PKG_VERSION")).build();
        Spans::to(move |span| exporter.0.on_end(data(span, scope.clone())))
    }

    /// Sends what is left.
    pub fn stop(&self) {
        if let Err(error) = self.0.shutdown() {
            tracing::warn!(%error, "the last spans were not sent");
        }
    }
}

fn data(span: Span, scope: InstrumentationScope) -> SpanData {
    let mut links = SpanLinks::default();
    links.links.extend(span.caller.map(|(trace, id)| Link::with_context(context(trace, id, true))));
    SpanData {
        span_context: context(span.trace, span.id, false),
        parent_span_id: span.parent.map_or(SpanId::INVALID, |id| SpanId::from_bytes(id.0)),
        parent_span_is_remote: false,
        span_kind: match span.kind {
            What::Instance => SpanKind::Server,
            What::Turn => SpanKind::Internal,
            What::Attempt => SpanKind::Client,
        },
        name: span.name.into(),
        start_time: time(span.from),
        end_time: time(span.to),
        attributes: span.attributes.into_iter().map(|(name, value)| KeyValue::new(name, value)).collect(),
        dropped_attributes_count: 0,
        events: SpanEvents::default(),
        links,
        status: span.error.map_or(Status::Unset, Status::error),
        instrumentation_scope: scope,
    }
}

fn context(trace: trace::TraceId, id: trace::SpanId, is_remote: bool) -> SpanContext {
    let (trace, id) = (TraceId::from_bytes(trace.0), SpanId::from_bytes(id.0));
    SpanContext::new(trace, id, TraceFlags::SAMPLED, is_remote, TraceState::default())
}

fn time(at: TimestampMs) -> SystemTime {
    SystemTime::UNIX_EPOCH + Duration::from_millis(at.0)
}

/// The program's own HTTP client. It blocks, as the processor's thread may.
#[derive(Debug)]
struct Client(ureq::Agent);

impl Client {
    fn send(&self, request: Request<Bytes>) -> Result<Response<Bytes>, HttpError> {
        let (parts, body) = request.into_parts();
        let response = self.0.run(Request::from_parts(parts, &body[..]))?;
        let (parts, mut body) = response.into_parts();
        Ok(Response::from_parts(parts, body.read_to_vec()?.into()))
    }
}

impl HttpClient for Client {
    fn send_bytes<'s, 'f>(
        &'s self,
        request: Request<Bytes>,
    ) -> Pin<Box<dyn Future<Output = Result<Response<Bytes>, HttpError>> + Send + 'f>>
    where
        's: 'f,
        Self: 'f,
    {
        Box::pin(std::future::ready(self.send(request)))
    }
}
