//! The API as a whole: what its description says is what the server does, and every
//! route answers good and bad input as it should.

use std::collections::{BTreeMap, BTreeSet};

use dacapo::server::metrics::METRICS;
use dacapo::server::openapi::{Body, OPERATIONS, description};
use dacapo::server::problem::CODES;
use serde_json::{Value, json};

use crate::cli_support::{Data, Served, root};

const AS_JSON: &str = "content-type: application/json\r\n";

/// Methods and paths as the sources register them.
fn registered() -> BTreeSet<(String, String)> {
    let folder = root().join("host/src/server");
    let mut found = BTreeSet::new();
    for file in std::fs::read_dir(folder).unwrap().flatten() {
        let Ok(source) = std::fs::read_to_string(file.path()) else { continue };
        for call in source.split(".route(\"").skip(1) {
            let (path, rest) = call.split_once('"').expect("a path ends");
            // The call ends where its parentheses do.
            let mut depth = 1;
            let end = rest.find(|c: char| {
                depth += match c {
                    '(' => 1,
                    ')' => -1,
                    _ => 0,
                };
                depth == 0
            });
            for method in ["get", "post", "put", "delete"] {
                let handlers = &rest[..end.expect("a call ends")];
                if handlers.contains(&format!(" {method}(")) || handlers.contains(&format!(".{method}(")) {
                    found.insert((method.to_uppercase(), path.to_owned()));
                }
            }
        }
    }
    // Webhooks are outside of the versioned API.
    found.remove(&("POST".to_owned(), "/{name}".to_owned()));
    found
}

#[test]
fn the_description_has_every_route_and_no_other() {
    let described: BTreeSet<_> = OPERATIONS.iter().map(|op| (op.method.to_owned(), op.path.to_owned())).collect();
    assert_eq!(described.len(), OPERATIONS.len(), "an operation is described twice");
    let registered: BTreeSet<_> = registered().into_iter().filter(|(_, path)| !is_page(path)).collect();
    assert_eq!(registered, described, "add a line to OPERATIONS in server/openapi.rs");
    let description = description();
    let mut ids = BTreeSet::new();
    for path in description["paths"].as_object().unwrap().values() {
        for operation in path.as_object().unwrap().values() {
            assert!(ids.insert(operation["operationId"].to_string()), "{operation}");
        }
    }
    let mut referred = Vec::new();
    references(&description, &mut referred);
    for name in referred {
        assert!(description.pointer(&name[1..]).is_some(), "{name} leads nowhere");
    }
}

/// Pages for people and what belongs to them are no part of the API.
fn is_page(path: &str) -> bool {
    path == "/" || path == "/metrics" || path.starts_with("/ui") || path.starts_with("/assets")
}

fn references(value: &Value, found: &mut Vec<String>) {
    match value {
        Value::Object(fields) => {
            if let Some(name) = fields.get("$ref").and_then(Value::as_str) {
                found.push(name.to_owned());
            }
            fields.values().for_each(|value| references(value, found));
        }
        Value::Array(values) => values.iter().for_each(|value| references(value, found)),
        _ => {}
    }
}

#[test]
fn the_documentation_lists_every_code() {
    let page = std::fs::read_to_string(root().join("host/docs/http-api.md")).unwrap();
    let rows = page.lines().filter_map(|line| line.strip_prefix("| `")?.split_once('`'));
    let listed: BTreeMap<_, _> = rows.collect();
    let expected: BTreeMap<_, _> = CODES.iter().map(|code| (code.0, format!(" | {} | {} |", code.1, code.2))).collect();
    assert_eq!(listed.keys().collect::<Vec<_>>(), expected.keys().collect::<Vec<_>>());
    expected.iter().for_each(|(code, rest)| assert_eq!(listed[code], rest, "{code}"));
}

/// The names that serde lists where it met one that it did not expect.
fn expected_names(detail: &str) -> BTreeSet<String> {
    let (_, names) = detail.rsplit_once("expected").unwrap_or_else(|| panic!("no names in {detail}"));
    names.split('`').skip(1).step_by(2).map(str::to_owned).collect()
}

#[test]
fn bodies_and_queries_take_what_the_description_says() {
    let data = Data::new("api-schemas");
    let served = data.serve();
    let problem = |method: &str, path: &str, headers: &str, body: &str| -> Value {
        let (status, body) = served.request(method, path, headers, body);
        assert_eq!(status, 400, "{method} {path}: {body}");
        serde_json::from_str(&body).unwrap()
    };
    let schemas = description()["components"]["schemas"].clone();
    for operation in OPERATIONS {
        let path = concrete(operation.path);
        if !operation.query.is_empty() {
            let mut path = format!("{path}?nonsense=1");
            for required in operation.query.iter().filter(|name| name.ends_with('!')) {
                path += &format!("&{}=x", required.split(':').next().unwrap());
            }
            let told = problem(operation.method, &path, AS_JSON, "{}");
            let described = operation.query.iter().map(|name| name.split(':').next().unwrap().to_owned()).collect();
            assert_eq!(expected_names(told["detail"].as_str().unwrap()), described, "{path}: {told}");
        }
        if let Body::Of(name) = operation.body {
            let told = problem(operation.method, &path, AS_JSON, r#"{"nonsense":1}"#);
            let properties = schemas[name]["properties"].as_object().unwrap().keys().cloned().collect();
            assert_eq!(expected_names(told["detail"].as_str().unwrap()), properties, "{name}: {told}");
            for required in schemas[name]["required"].as_array().into_iter().flatten() {
                let told = problem(operation.method, &path, AS_JSON, "{}");
                let detail = told["detail"].as_str().unwrap();
                assert!(detail.contains("missing field"), "{name} does not need {required}: {detail}");
            }
        }
    }
}

/// A path with names in it that nobody has.
fn concrete(path: &str) -> String {
    let hash = "0".repeat(64);
    let path = format!("/api/v1{path}");
    let path = path.replace("{kind}", "nothing").replace("{key}", "nobody").replace("{operation}", "nothing");
    path.replace("{id}", "nobody").replace("{name}", "nothing").replace("{hash}", &hash)
}

#[test]
fn every_route_refuses_bad_input_of_each_kind() {
    let data = Data::new("api-bad");
    let served = data.serve();
    let known: BTreeSet<&str> = CODES.iter().map(|code| code.0).collect();
    let problem = |method: &str, path: &str, headers: &str, body: &str| -> (u16, String) {
        let (status, text) = served.request(method, path, headers, body);
        let body: Value =
            serde_json::from_str(&text).unwrap_or_else(|error| panic!("{method} {path}: {error}: {text}"));
        let code = body["code"].as_str().unwrap_or_else(|| panic!("{method} {path} answered {status} {text}"));
        assert!(known.contains(code), "{code} is not listed");
        assert_eq!(body["status"], status);
        assert!(body["detail"].is_string() && body["title"].is_string() && body["type"].is_string());
        (status, code.to_owned())
    };
    let of = |status: u16, code: &str| (status, code.to_owned());
    let other = |method: &str| if method == "PATCH" { "GET" } else { "PATCH" };
    for operation in OPERATIONS {
        let (method, path) = (operation.method, concrete(operation.path));
        let foreign = format!("{AS_JSON}origin: https://example.org\r\n");
        assert_eq!(problem(method, &path, &foreign, "{}"), of(403, "forbidden"), "{method} {path}");
        let elsewhere = format!("{AS_JSON}host: example.org\r\n");
        assert_eq!(problem(method, &path, &elsewhere, "{}"), of(403, "forbidden"), "{method} {path}");
        assert_eq!(problem(other(method), &path, "", "").0, 400, "{path}");
        if matches!(operation.body, Body::Of(_) | Body::Any) {
            assert_eq!(problem(method, &path, AS_JSON, "{\"a\":"), of(400, "invalid-input"), "{method} {path}");
            assert_eq!(problem(method, &path, "", "{}"), of(400, "invalid-input"), "{method} {path} as no type");
        }
        if operation.body == Body::Any {
            let large = format!("\"{}\"", "x".repeat(2 << 20));
            assert_eq!(problem(method, &path, AS_JSON, &large), of(413, "too-large"), "{method} {path}");
        }
        if let Body::Of(_) = operation.body {
            assert_eq!(problem(method, &path, AS_JSON, "[[[]]]"), of(400, "invalid-input"), "{method} {path}");
        }
        for described in operation.query.iter().filter(|described| described.contains(":integer")) {
            let name = described.split(':').next().unwrap();
            let path = format!("{path}?{name}=-1");
            assert_eq!(problem(method, &path, AS_JSON, "{}"), of(400, "invalid-input"), "{method} {path}");
        }
    }
}

/// A server with instances `a0` to `a4` of `approval`, which wait; `a4` is terminated.
fn five(data: &Data) -> Served {
    let served = data.serve();
    data.run(&["upload", "examples/approval"]).ok();
    for n in 0..5 {
        let body = json!({
            "id": format!("a{n}"),
            "orchestration": "approval",
            "input": { "subject": "A loom", "amount": 250_000, "patience": 86_400 },
            "tags": { "parity": if n % 2 == 0 { "even" } else { "odd" } },
        });
        assert_eq!(served.request("POST", "/api/v1/instances", AS_JSON, &body.to_string()).0, 201);
    }
    assert_eq!(served.request("POST", "/api/v1/instances/a4/terminate", AS_JSON, "{}").0, 202);
    served
}

fn get(served: &Served, path: &str) -> Value {
    let (status, body) = served.request("GET", &format!("/api/v1{path}"), "", "");
    assert_eq!(status, 200, "{path}: {body}");
    serde_json::from_str(&body).unwrap_or_else(|error| panic!("{path}: {error}: {body}"))
}

fn post(served: &Served, path: &str, body: &Value) -> Value {
    let (status, body) = served.request("POST", &format!("/api/v1{path}"), AS_JSON, &body.to_string());
    assert!(matches!(status, 200 | 201), "{path}: {status} {body}");
    serde_json::from_str(&body).unwrap()
}

fn ids(answer: &Value) -> Vec<String> {
    let rows = answer["instances"].as_array().unwrap().iter();
    rows.map(|row| row["id"].as_str().unwrap().to_owned()).collect()
}

#[test]
fn lists_are_paged_in_both_orders_and_counted() {
    let data = Data::new("api-lists");
    let served = five(&data);
    for (order, first_two) in [("id", ["a0", "a1"]), ("newest", ["a4", "a3"])] {
        let (mut seen, mut after) = (Vec::new(), String::new());
        loop {
            let page = get(&served, &format!("/instances?limit=2&order={order}{after}"));
            seen.extend(ids(&page));
            match page["next"].as_str() {
                Some(next) => after = format!("&after={next}"),
                None => break,
            }
        }
        assert_eq!(seen[..2], first_two);
        assert_eq!(seen.iter().collect::<BTreeSet<_>>().len(), 5);
        assert_eq!(seen.len(), 5);
    }
    let counted = get(&served, "/instances?counts=true&status=terminated");
    assert_eq!(ids(&counted), ["a4"]);
    let counts = &counted["counts"];
    assert_eq!((&counts["running"], &counts["terminated"], &counts["total"]), (&json!(4), &json!(1), &json!(5)));
    assert_eq!(counts["complete"], true);
    assert_eq!(data.json(&["list", "--newest", "--limit", "1"])["instances"][0]["id"], "a4");
}

#[test]
fn many_are_acted_on_at_once_and_counted_first() {
    let data = Data::new("api-bulk");
    let served = five(&data);
    let odd = json!({ "tags": { "parity": "odd" } });
    let counted = post(&served, "/bulk", &json!({ "action": "suspend", "filter": odd, "dry_run": true }));
    assert_eq!((&counted["matched"], &counted["done"]), (&json!(2), &json!(0)));
    assert_eq!(get(&served, "/instances/a1")["status"], "running");
    let done = post(&served, "/bulk", &json!({ "action": "suspend", "filter": odd, "reason": "lunch" }));
    assert_eq!((&done["matched"], &done["done"], &done["skipped"]), (&json!(2), &json!(2), &json!([])));
    assert_eq!(get(&served, "/instances/a1")["status"], "suspended");

    let asked = data.run(&["bulk", "terminate", "--prefix", "a", "--json"]).failed(2).error();
    assert!(asked["message"].as_str().unwrap().contains("terminate 4 instances? nobody can be asked here"), "{asked}");
    assert_eq!(data.json(&["bulk", "resume", "--all", "--dry-run"])["matched"], 2);
    assert_eq!(data.json(&["bulk", "terminate", "--prefix", "a", "--yes"])["done"], 4);
    assert_eq!(data.json(&["bulk", "purge", "--all", "--yes"])["done"], 5);
    assert_eq!(get(&served, "/instances")["instances"], json!([]));
}

#[test]
fn the_host_tells_how_it_is() {
    let data = Data::new("api-stats");
    let mut served = five(&data);
    assert_eq!(get(&served, "/health")["status"], "ok");
    assert_eq!(get(&served, "/ready")["status"], "ready");
    assert_eq!(get(&served, "/openapi.json")["openapi"], "3.1.0");
    let stats = get(&served, "/stats");
    assert_eq!((&stats["instances_total"], &stats["instances"]["running"]), (&json!(5), &json!(4)));
    // Each start, and the end of one, was made durable.
    assert!(stats["turns"].as_u64().unwrap() >= 6 && stats["commits"].as_u64().unwrap() >= 2, "{stats}");
    assert!(stats["disk_bytes"].as_u64().unwrap() > 0, "{stats}");
    assert_eq!(data.json(&["stats"])["modules"], 2);
    assert_eq!(data.json(&["top", "--once"])["instances"].as_array().unwrap().len(), 5);
    let top = data.run(&["top", "--once", "--status", "terminated"]).ok().stdout;
    assert!(top.contains("4 running, 1 terminated") && top.contains("a4") && !top.contains("a3"), "{top}");
    served.running.kill();
    let alone = data.run(&["stats", "--json"]).failed(5).error();
    assert_eq!(alone["code"], "stopped");
}

#[test]
fn what_a_guest_logged_stands_beside_its_events() {
    let data = Data::new("api-logs");
    let served = data.serve();
    data.run(&["upload", "examples/trip-booking", "--service", "booking=http://127.0.0.1:9"]).ok();
    let trip: Value =
        serde_json::from_str(&std::fs::read_to_string(root().join("examples/trip-booking/input.json")).unwrap())
            .unwrap();
    // Nobody takes its bookings; it has logged by then.
    let body = json!({ "id": "l", "orchestration": "trip_booking", "input": trip, "wait_ms": 60_000 });
    assert_eq!(post(&served, "/instances", &body)["status"], "failed");
    let logs = get(&served, "/instances/l/logs");
    assert_eq!(logs["stopped"], Value::Null, "{logs}");
    let lines = logs["lines"].as_array().unwrap();
    assert!(!lines.is_empty(), "{logs}");
    assert!(lines.iter().all(|line| line["event"].as_u64() >= Some(1) && line["message"].is_string()), "{logs}");
    assert!(lines.iter().any(|line| line["message"] == "booking a trip"), "{logs}");
    assert_eq!(data.json(&["logs", "l"])["lines"], logs["lines"]);
    assert!(data.run(&["logs", "l", "--grep", "booking"]).ok().stdout.contains("traveller=Ada Lovelace"));
    assert_eq!(data.run(&["logs", "l", "--grep", "nothing like it"]).ok().stdout, "");
}

#[test]
fn changes_are_told_as_they_become_durable() {
    use std::io::{BufRead as _, BufReader, Write as _};
    let data = Data::new("api-changes");
    let served = five(&data);
    let mut stream = std::net::TcpStream::connect(&served.address).unwrap();
    stream.set_read_timeout(Some(std::time::Duration::from_secs(120))).unwrap();
    let head = format!("GET /api/v1/changes?instance=a0 HTTP/1.1\r\nhost: {}\r\n\r\n", served.address);
    stream.write_all(head.as_bytes()).unwrap();
    let mut lines = BufReader::new(stream).lines().map(Result::unwrap);
    assert!(lines.by_ref().take_while(|line| !line.is_empty()).any(|line| line.contains("text/event-stream")));
    assert_eq!(served.request("POST", "/api/v1/instances/a1/terminate", AS_JSON, "{}").0, 202);
    assert_eq!(served.request("POST", "/api/v1/instances/a0/terminate", AS_JSON, "{}").0, 202);
    assert_eq!(served.request("POST", "/api/v1/instances/a0/purge", "", "").0, 204);
    let mut changes = lines.filter_map(|line| line.strip_prefix("data: ").map(str::to_owned));
    let mut next = || -> Value { serde_json::from_str(&changes.next().unwrap()).unwrap() };
    let first = next();
    assert_eq!((&first["change"], &first["id"]), (&json!("turn"), &json!("a0")), "only a0 is told: {first}");
    assert_eq!(next(), json!({ "change": "purged", "id": "a0" }));
}

#[test]
fn metrics_are_what_the_documentation_and_the_dashboard_say() {
    let data = Data::new("api-metrics");
    let served = five(&data);
    let (status, text) = served.request("GET", "/metrics", "", "");
    assert_eq!(status, 200, "{text}");
    let value = |sample: &str| -> f64 {
        let line = text.lines().find_map(|line| line.strip_prefix(&format!("{sample} ")));
        line.unwrap_or_else(|| panic!("{sample} is not in {text}")).parse().unwrap()
    };
    assert_eq!(value("dacapo_instances{status=\"running\"}"), 4.0);
    assert_eq!(value("dacapo_instances{status=\"failed\"}"), 0.0);
    assert!(value("dacapo_turns_total") >= 6.0 && value("dacapo_commit_seconds_total") > 0.0, "{text}");
    assert!(value("dacapo_guests_made_total") >= 5.0 && value("dacapo_guests_replayed_total") == 0.0, "{text}");
    let page = std::fs::read_to_string(root().join("host/docs/metrics.md")).unwrap();
    let dashboard = std::fs::read_to_string(root().join("host/docs/dashboard.json")).unwrap();
    for (name, kind, _, _, what) in METRICS {
        assert!(text.contains(&format!("# TYPE {name} {kind}\n{name}")), "{name} is not there: {text}");
        assert!(page.contains(&format!("| `{name}` | {kind} | {what} |\n")), "{name} is not documented");
    }
    let dashboard: Value = serde_json::from_str(&dashboard).unwrap();
    let panels = dashboard["panels"].as_array().unwrap().iter();
    for target in panels.flat_map(|panel| panel["targets"].as_array().unwrap()) {
        let words = target["expr"].as_str().unwrap().split(|c: char| !c.is_ascii_alphanumeric() && c != '_');
        for name in words.filter(|word| word.starts_with("dacapo_")) {
            assert!(METRICS.iter().any(|metric| metric.0 == name), "the dashboard asks for {name}");
        }
    }
}
