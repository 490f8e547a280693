//! Traces: one for each instance, which goes on after a restart; spans for turns and
//! attempts; the context goes along to activities wherever they run, and comes back with
//! whoever starts an instance.

use std::collections::BTreeSet;
use std::io::{BufRead as _, BufReader, Read, Write};
use std::net::TcpListener;
use std::sync::mpsc::{self, Receiver};
use std::sync::{Arc, Mutex};
use std::time::Duration;

use dacapo::core::trace::{SpanId, TraceId, parse, traceparent};
use dacapo::engine::{CALLER_TAG, Span, SpanKind, Spans, Upload};
use dacapo::store::Grants;
use opentelemetry_proto::tonic::collector::trace::v1::ExportTraceServiceRequest;
use opentelemetry_proto::tonic::trace::v1::Span as Sent;
use prost::Message as _;
use rustls::pki_types::pem::PemObject as _;
use rustls::pki_types::{CertificateDer, PrivateKeyDer};
use rustls::{ServerConfig, ServerConnection, StreamOwned};
use serde_json::{Value, json};

use crate::cli_support::Data;
use crate::guests::{guest, vault};
use crate::harness::{Host, SECOND, World, failed, id, start};

const AS_JSON: &str = "content-type: application/json\r\n";
const CALLER: &str = "00-0af7651916cd43dd8448eb211c80319c-b7ad6b7169203331-01";

type Told = Arc<Mutex<Vec<Span>>>;

/// A world whose engines tell spans.
fn traced(modules: &[&str]) -> (World, Told) {
    let told = Told::default();
    let mut world = World::with(modules);
    let to = told.clone();
    world.settings.spans = Spans::to(move |span| to.lock().unwrap().push(span));
    (world, told)
}

/// The spans of that kind, once there are `count` of them: the last ones are told right
/// after whoever waits for the instance is.
fn spans(host: &Host<'_>, told: &Told, kind: SpanKind, count: usize) -> Vec<Span> {
    loop {
        // Answered by the committer, which tells of what it did before.
        let _ = host.start("settles", "returns", json!(1));
        let found: Vec<_> = told.lock().unwrap().iter().filter(|span| span.kind == kind).cloned().collect();
        let found: Vec<_> = found.into_iter().filter(|span| attribute(span, "dacapo.instance") != "settles").collect();
        if found.len() >= count {
            assert_eq!(found.len(), count, "{found:#?}");
            return found;
        }
        std::thread::yield_now();
    }
}

fn attribute<'s>(span: &'s Span, name: &str) -> &'s str {
    let found = span.attributes.iter().find(|(known, _)| *known == name);
    found.map_or("", |(_, value)| value)
}

#[test]
fn an_instance_is_one_trace_with_its_turns_and_attempts_also_after_a_restart() {
    let (world, told) = traced(&["steps"]);
    world.desk.script("step.flaky", [failed("Busy", "try later")]);
    let host = world.open();
    let policy = json!({
        "first_ms": 60 * SECOND, "coefficient": 2.0, "max_ms": 60 * SECOND, "attempts": 3,
        "total_ms": null, "jitter": 0.0, "non_retryable": [],
    });
    let tags = vec![(CALLER_TAG.to_owned(), CALLER.to_owned())];
    host.try_start(dacapo::engine::StartRequest { tags, ..start("try", "retries", policy) }).unwrap();
    host.wait_kind("try", "activity-attempt-failed", 1);
    drop(host);
    let host = world.open();
    world.clock.advance(60 * SECOND);
    host.output("try");

    let turns = host.records("try").len();
    let all = spans(&host, &told, SpanKind::Turn, turns);
    let numbers: BTreeSet<_> = all.iter().map(|span| attribute(span, "dacapo.turn")).collect();
    assert_eq!(numbers.len(), turns, "each once: {numbers:?}");
    let attempts = spans(&host, &told, SpanKind::Attempt, 2);
    let [root] = &spans(&host, &told, SpanKind::Instance, 1)[..] else { unreachable!() };

    let trace = TraceId::of(&id("try"), host.engine().summary(&id("try")).unwrap().unwrap().birth);
    assert_eq!((root.trace, root.id, root.parent, root.name.as_str()), (trace, trace.root(), None, "retries"));
    assert_eq!(root.caller, parse(CALLER));
    assert_eq!(attribute(root, "dacapo.status"), "completed");
    assert!(root.to.0 >= root.from.0 + 60 * SECOND, "{root:?}");
    for span in all.iter().chain(&attempts) {
        assert_eq!((span.trace, span.parent), (trace, Some(trace.root())), "{span:?}");
    }
    let [first, second] = &attempts[..] else { unreachable!() };
    assert!(first.error.as_deref().is_some_and(|error| error.contains("try later")), "{first:?}");
    assert_eq!((second.error.as_deref(), second.name.as_str()), (None, "step.flaky"));
    assert_eq!((first.id, second.id), (trace.attempt(1, 1, 1), trace.attempt(1, 1, 2)));
    assert_eq!(attribute(first, "dacapo.idempotency_key"), attribute(second, "dacapo.idempotency_key"));
    // Native activities are told which attempt they are.
    let call = &world.desk.calls()[0];
    assert_eq!(call.traceparent.as_deref(), Some(&*traceparent(trace, first.id)));
}

#[test]
fn failures_and_terminations_are_told_and_another_life_is_another_trace() {
    let (world, told) = traced(&["steps"]);
    let host = world.open();
    host.start("undone", "undoes", Value::Null).unwrap();
    let failure = host.failure("undone");
    host.start("held", "collects", json!({ "wanted": 3, "page": 1 })).unwrap();
    host.block_on(host.engine().terminate(&id("held"), "enough")).unwrap();
    let ended = spans(&host, &told, SpanKind::Instance, 2);
    assert_eq!(ended[0].error, Some(failure.to_string()));
    assert_eq!(ended[1].error.as_deref(), Some("terminated: enough"));
    assert_ne!(ended[0].trace, ended[1].trace);
    host.engine().purge(&id("held")).unwrap();
    host.start("held", "collects", json!({ "wanted": 3, "page": 1 })).unwrap();
    host.block_on(host.engine().terminate(&id("held"), "again")).unwrap();
    let again = &spans(&host, &told, SpanKind::Instance, 3)[2];
    assert_ne!(again.trace, ended[1].trace, "it has nothing to do with the one before");
}

/// Answers every request, and gives its head away.
fn page() -> (std::net::SocketAddr, Receiver<String>) {
    let listener = TcpListener::bind("127.0.0.1:0").unwrap();
    let address = listener.local_addr().unwrap();
    let (heads, seen) = mpsc::channel();
    std::thread::spawn(move || {
        for stream in listener.incoming().flatten() {
            let (head, _) = request(&stream);
            answer(&stream);
            if heads.send(head).is_err() {
                return;
            }
        }
    });
    (address, seen)
}

/// The head and the body of a request.
fn request(stream: impl Read) -> (String, Vec<u8>) {
    let mut reader = BufReader::new(stream);
    let mut head = String::new();
    while !head.ends_with("\r\n\r\n") && reader.read_line(&mut head).unwrap_or(0) > 0 {}
    let head = head.to_ascii_lowercase();
    let length = head.lines().find_map(|line| line.strip_prefix("content-length: "));
    let mut body = vec![0; length.map_or(0, |length| length.trim().parse().expect("a length"))];
    reader.read_exact(&mut body).expect("the whole body");
    (head, body)
}

fn answer(mut stream: impl Write) {
    let _ = stream.write_all(b"HTTP/1.1 200 OK\r\ncontent-length: 2\r\nconnection: close\r\n\r\nok");
}

#[test]
fn requests_of_wasm_activities_carry_the_context_of_their_attempt() {
    for is_on in [true, false] {
        let (mut world, _told) = traced(&["delegates"]);
        if !is_on {
            world.settings.spans = Spans::default();
        }
        let (address, heads) = page();
        let host = world.open();
        let grants = Grants { hosts: vec![address.to_string()], ..Grants::default() };
        let upload = Upload { bytes: vault().to_vec(), name: "vault".to_owned(), grants, ..Upload::default() };
        host.engine().upload(upload).unwrap();
        let url = format!("http://{address}/page");
        assert_eq!(host.run("asks", "delegates", json!({ "activity": "vault.fetch", "input": url })), "ok");
        let head = heads.recv().unwrap();
        let said = head.lines().find_map(|line| line.strip_prefix("traceparent: "));
        let trace = TraceId::of(&id("asks"), host.engine().summary(&id("asks")).unwrap().unwrap().birth);
        let expected = is_on.then(|| traceparent(trace, trace.attempt(1, 1, 1)));
        assert_eq!(said, expected.as_deref(), "{head}");
    }
}

/// A span, and the attributes of what sent it.
type Collected = (Sent, Vec<(String, String)>);

/// A collector: what was sent to it, span by span. With files of a certificate and its
/// key it speaks TLS.
fn collector(tls: Option<[&str; 2]>) -> (String, Receiver<Collected>) {
    let scheme = if tls.is_some() { "https" } else { "http" };
    let tls = tls.map(|[certificate, key]| {
        let provider = Arc::new(rustls::crypto::ring::default_provider());
        let config = ServerConfig::builder_with_provider(provider).with_safe_default_protocol_versions().unwrap();
        let chain = CertificateDer::pem_file_iter(certificate).unwrap().map(Result::unwrap).collect();
        let key = PrivateKeyDer::from_pem_file(key).unwrap();
        Arc::new(config.with_no_client_auth().with_single_cert(chain, key).unwrap())
    });
    let listener = TcpListener::bind("127.0.0.1:0").unwrap();
    let address = listener.local_addr().unwrap();
    let (spans, seen) = mpsc::channel();
    std::thread::spawn(move || {
        for stream in listener.incoming().flatten() {
            let (head, body) = match &tls {
                None => {
                    let asked = request(&stream);
                    answer(&stream);
                    asked
                }
                Some(tls) => {
                    let mut stream = StreamOwned::new(ServerConnection::new(tls.clone()).unwrap(), stream);
                    let asked = request(&mut stream);
                    answer(&mut stream);
                    asked
                }
            };
            assert!(head.starts_with("post /v1/traces ") && head.contains("application/x-protobuf"), "{head}");
            let sent = ExportTraceServiceRequest::decode(&body[..]).expect("OTLP");
            for of_resource in sent.resource_spans {
                let attributes = of_resource.resource.unwrap_or_default().attributes;
                let text = |value: &_| format!("{value:?}");
                let resource: Vec<_> = attributes.iter().map(|kv| (kv.key.clone(), text(&kv.value))).collect();
                for span in of_resource.scope_spans.into_iter().flat_map(|scope| scope.spans) {
                    if spans.send((span, resource.clone())).is_err() {
                        return;
                    }
                }
            }
        }
    });
    (format!("{scheme}://{address}"), seen)
}

#[test]
fn spans_go_over_tls_to_a_collector_that_is_trusted() {
    let data = Data::new("traces-tls");
    let [ca, certificate, key] = crate::safety::certificate(&data);
    let (endpoint, sent) = collector(Some([&certificate, &key]));
    let trusting = |ca: &str| {
        let environment = [("OTEL_BSP_SCHEDULE_DELAY", "100"), ("OTEL_EXPORTER_OTLP_CERTIFICATE", ca)];
        let arguments = ["serve", "--listen", "127.0.0.1:0", "--otlp-endpoint", &endpoint];
        let mut command = data.command(&arguments);
        command.envs(environment);
        command
    };
    let refused = trusting(&key).output().unwrap();
    assert_eq!(refused.status.code(), Some(2), "a key is no certificate");
    let said = String::from_utf8_lossy(&refused.stderr);
    assert!(
        said.contains("OTEL_EXPORTER_OTLP_CERTIFICATE") && said.contains("expected a certificate in PEM"),
        "{said}"
    );

    let project = Data::new("traces-tls-project");
    std::fs::write(project.path().join("tasks.wasm"), guest("tasks")).unwrap();
    let manifest = "name = \"tasks\"\n[orchestration]\npath = \"tasks.wasm\"\n";
    std::fs::write(project.path().join("dacapo.toml"), manifest).unwrap();
    let served = data.serve_with(
        &["--otlp-endpoint", &endpoint],
        &[("OTEL_BSP_SCHEDULE_DELAY", "100"), ("OTEL_EXPORTER_OTLP_CERTIFICATE", &ca)],
    );
    data.run(&["upload", project.path().to_str().unwrap()]).ok();
    let body = json!({ "id": "printed", "orchestration": "call_with", "input": { "name": "printer.print" } });
    assert_eq!(served.request("POST", "/api/v1/instances", AS_JSON, &body.to_string()).0, 201);
    let (span, _) = sent.recv_timeout(Duration::from_secs(60)).expect("a span is sent");
    assert_eq!(span.name, "turn");
}

#[test]
fn spans_reach_a_collector_and_remote_workers_and_a_restart_changes_no_trace() {
    let data = Data::new("traces");
    let project = Data::new("traces-project");
    std::fs::write(project.path().join("tasks.wasm"), guest("tasks")).unwrap();
    let manifest = "name = \"tasks\"\n[orchestration]\npath = \"tasks.wasm\"\n";
    std::fs::write(project.path().join("dacapo.toml"), manifest).unwrap();
    let (endpoint, sent) = collector(None);
    let serve = || data.serve_with(&["--otlp-endpoint", &endpoint], &[("OTEL_BSP_SCHEDULE_DELAY", "100")]);
    let mut served = serve();
    data.run(&["upload", project.path().to_str().unwrap()]).ok();
    let body = json!({ "id": "printed", "orchestration": "call_with", "input": { "name": "printer.print" } });
    let headers = format!("{AS_JSON}traceparent: {CALLER}\r\n");
    assert_eq!(served.request("POST", "/api/v1/instances", &headers, &body.to_string()).0, 201);
    let claim = |served: &crate::cli_support::Served| -> Value {
        let post = |path: &str, body: Value| -> Value {
            let (status, text) = served.request("POST", &format!("/api/v1{path}"), AS_JSON, &body.to_string());
            assert!(matches!(status, 200 | 201), "{path}: {status} {text}");
            serde_json::from_str(&text).unwrap()
        };
        let worker = post("/workers", json!({ "activities": ["printer.print"] }))["worker"].clone();
        let path = format!("/workers/{}/claim", worker.as_str().unwrap());
        post(&path, json!({ "wait_ms": 30_000 }))["tasks"][0].clone()
    };
    let task = claim(&served);
    let carried = task["headers"]["traceparent"].as_str().expect("the context goes along").to_owned();
    served.running.kill();

    // The same attempt, by another worker of another process: the same span.
    let mut served = serve();
    let again = claim(&served);
    assert_eq!(again["headers"]["traceparent"], carried);
    let report = json!({ "tasks": [{ "token": again["token"], "output": "paper" }] }).to_string();
    assert_eq!(served.request("POST", "/api/v1/tasks/complete", AS_JSON, &report).0, 200);
    let (_, outcome) = served.request("GET", "/api/v1/instances/printed/outcome?wait_ms=30000", "", "");
    assert_eq!(serde_json::from_str::<Value>(&outcome).unwrap()["status"], "completed");
    served.running.terminate();
    assert_eq!(served.running.rest().0, Some(0));

    let (trace, attempt) = parse(&carried).unwrap();
    let mut names = BTreeSet::new();
    while !names.contains("call_with") || !names.contains("printer.print") || !names.contains("turn") {
        let (span, resource) = sent.recv_timeout(Duration::from_secs(60)).expect("all spans are sent");
        assert_eq!(span.trace_id, trace.0, "{span:?}");
        assert!(resource.iter().any(|(key, value)| key == "service.name" && value.contains("dacapo")), "{resource:?}");
        assert!(span.end_time_unix_nano >= span.start_time_unix_nano && span.start_time_unix_nano > 0);
        match span.name.as_str() {
            "call_with" => {
                assert_eq!((&span.span_id[..], &span.parent_span_id[..]), (&trace.root().0[..], &[][..]));
                let (caller, of) = parse(CALLER).unwrap();
                assert_eq!((&span.links[0].trace_id[..], &span.links[0].span_id[..]), (&caller.0[..], &of.0[..]));
            }
            "printer.print" => assert_eq!(SpanId(span.span_id[..].try_into().unwrap()), attempt),
            "turn" => assert_eq!(span.parent_span_id, trace.root().0),
            other => panic!("{other}"),
        }
        names.insert(span.name);
    }
    // Without a collector nothing of it is there, and one that cannot be is refused.
    let quiet = data.serve();
    let body = json!({ "id": "quiet", "orchestration": "call_with", "input": { "name": "printer.print" } });
    assert_eq!(quiet.request("POST", "/api/v1/instances", &headers, &body.to_string()).0, 201);
    assert_eq!(claim(&quiet)["headers"], json!({}));
    let (_, shown) = quiet.request("GET", "/api/v1/instances/quiet", "", "");
    assert_eq!(serde_json::from_str::<Value>(&shown).unwrap()["tags"], json!({}));
    drop(quiet);
    let refused = data.run(&["serve", "--listen", "127.0.0.1:0", "--otlp-endpoint", "collector:4318"]).failed(2);
    assert!(refused.stderr.contains("http://127.0.0.1:4318"), "{}", refused.stderr);
}
