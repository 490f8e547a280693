//! Every route of the API, row by row: good input, bad input of each kind, a missing and
//! a wrong token, a wrong scope, and what a token of another namespace gets. A route
//! without rows fails the first test.

use std::collections::BTreeSet;

use dacapo::server::access::Needs;
use dacapo::server::openapi::{Body, OPERATIONS, Operation};
use dacapo::server::tokens::Scope;
use serde_json::{Value, json};

use crate::cli_support::{Data, Served};

/// Good input: method, path and body, and the status of the answer. Names in braces
/// are made for the row: `{waiting}` is an instance that waits, `{ended}` one that was
/// terminated, `{failed}` one whose activity failed, `{task}` a task that was claimed.
#[rustfmt::skip]
const GOOD: &[(&str, &str, &str, u16)] = &[
    ("GET", "/health", "", 200),
    ("GET", "/ready", "", 200),
    ("GET", "/stats", "", 200),
    ("GET", "/openapi.json", "", 200),
    ("GET", "/changes?prefix=w", "", 200),
    ("POST", "/verify?replay=false", "", 200),
    ("GET", "/backup", "", 200),
    ("GET", "/audit?limit=3", "", 200),
    ("GET", "/modules", "", 200),
    ("POST", "/modules?name=again&version=1", "<wasm>", 201),
    ("GET", "/modules/{hash}", "", 200),
    ("POST", "/modules/default", r#"{"module":"{hash}"}"#, 200),
    ("POST", "/modules/remove", r#"{"module":"{unused}"}"#, 200),
    ("POST", "/modules/gc", r#"{"dry_run":true}"#, 200),
    ("POST", "/modules/check?orchestration=approval", "<wasm>", 200),
    ("POST", "/modules/migrate", r#"{"module":"{hash}","orchestration":"none"}"#, 200),
    ("GET", "/instances?status=running&order=newest&counts=true", "", 200),
    ("POST", "/instances", r#"{"id":"{fresh}","orchestration":"approval","input":{input}}"#, 201),
    ("POST", "/bulk", r#"{"action":"cancel","filter":{"prefix":"nobody"}}"#, 200),
    ("POST", "/purge", r#"{"older_than_ms":0,"prefix":"nobody"}"#, 200),
    ("GET", "/instances/{waiting}", "", 200),
    ("GET", "/instances/{waiting}/history?from=1&limit=5", "", 200),
    ("GET", "/instances/{waiting}/logs", "", 200),
    ("GET", "/instances/{waiting}/recording", "", 200),
    ("GET", "/instances/{waiting}/replay?event=1", "", 200),
    ("GET", "/instances/{ended}/outcome?wait_ms=1000", "", 200),
    ("POST", "/instances/{waiting}/events/other", "1", 202),
    ("POST", "/instances/{waiting}/updates/extend?id=u1&wait_ms=60000", "60", 200),
    ("POST", "/entities/account/ada/deposit?id=e1&wait_ms=60000", "5", 200),
    ("POST", "/entities/account/ada/deposit?one_way=true", "5", 202),
    ("POST", "/instances/{waiting}/queries/standing", "null", 200),
    ("POST", "/instances/{waiting}/terminate", "{}", 202),
    ("POST", "/instances/{waiting}/cancel", r#"{"reason":"late"}"#, 202),
    ("POST", "/instances/{waiting}/suspend", "{}", 202),
    ("POST", "/instances/{suspended}/resume", "{}", 202),
    ("POST", "/instances/{failed}/rewind", "{}", 202),
    ("POST", "/instances/{ended}/restart", "{}", 201),
    ("POST", "/instances/{ended}/purge", "", 204),
    ("POST", "/instances/{waiting}/fork", r#"{"id":"{fresh}","at":1}"#, 201),
    ("GET", "/schedules", "", 200),
    ("GET", "/schedules/{schedule}?next=2", "", 200),
    ("PUT", "/schedules/{fresh}", r#"{"orchestration":"approval","every_ms":3600000}"#, 200),
    ("DELETE", "/schedules/{schedule}", "", 204),
    ("POST", "/schedules/{schedule}/pause", "{}", 200),
    ("POST", "/schedules/{schedule}/unpause", "", 200),
    ("POST", "/schedules/{schedule}/trigger", "", 200),
    ("GET", "/webhooks", "", 200),
    ("GET", "/queues", "", 200),
    ("GET", "/workers", "", 200),
    ("POST", "/workers", r#"{"activities":["renderer.render"],"queues":["render"]}"#, 201),
    ("DELETE", "/workers/{worker}", "", 204),
    ("POST", "/workers/{worker}/claim", r#"{"max":1}"#, 200),
    ("POST", "/tasks/complete", r#"{"tasks":[{"token":"{task}","output":"x"}]}"#, 200),
    ("POST", "/tasks/fail", r#"{"tasks":[{"token":"{task}","message":"no"}]}"#, 200),
    ("POST", "/tasks/heartbeat", r#"{"tasks":[{"token":"{task}","progress":1}]}"#, 200),
    ("POST", "/tasks/extend", r#"{"tasks":[{"token":"{task}","lease_ms":1000}]}"#, 200),
];

/// Bad input, each in a way of its own: what is answered.
#[rustfmt::skip]
const BAD: &[(&str, &str, &str, u16, &str)] = &[
    ("GET", "/changes?instance=%0A", "", 400, "invalid-id"),
    ("POST", "/verify?replay=perhaps", "", 400, "invalid-input"),
    ("GET", "/audit?limit=0", "", 400, "invalid-input"),
    ("GET", "/audit?before=x", "", 400, "invalid-input"),
    ("POST", "/modules?name=m", "rubbish", 422, "module-refused"),
    ("POST", "/modules?name=a%2Fb", "<wasm>", 400, "invalid-input"),
    ("POST", "/modules", "<wasm>", 400, "invalid-input"),
    ("GET", "/modules/abc", "", 400, "invalid-input"),
    ("GET", "/modules/0000000000000000000000000000000000000000000000000000000000000000", "", 404, "unknown-module"),
    ("POST", "/modules/default", r#"{"module":"none"}"#, 404, "unknown-module"),
    ("POST", "/modules/default", "{}", 400, "invalid-input"),
    ("POST", "/modules/remove", r#"{"module":"none"}"#, 404, "unknown-module"),
    ("POST", "/modules/remove", r#"{"module":"{hash}"}"#, 409, "module-in-use"),
    ("POST", "/modules/gc", r#"{"dry_run":"perhaps"}"#, 400, "invalid-input"),
    ("POST", "/modules/check", "rubbish", 422, "module-refused"),
    ("POST", "/modules/check?colour=red", "<wasm>", 400, "invalid-input"),
    ("POST", "/modules/migrate", r#"{"module":"none"}"#, 404, "unknown-module"),
    ("GET", "/instances?limit=100000", "", 400, "invalid-input"),
    ("GET", "/instances?status=asleep", "", 400, "invalid-input"),
    ("GET", "/instances?order=newest&after=x", "", 400, "invalid-input"),
    ("GET", "/instances?tags=%5B1%5D", "", 400, "invalid-input"),
    ("GET", "/instances?created_from=yesterday", "", 400, "invalid-input"),
    ("GET", "/instances?module=none", "", 404, "unknown-module"),
    ("POST", "/instances", r#"{"id":"x","orchestration":"none"}"#, 404, "unknown-orchestration"),
    ("POST", "/instances", r#"{"id":"","orchestration":"approval"}"#, 400, "invalid-id"),
    ("POST", "/instances", r#"{"id":"@a@b","orchestration":"approval"}"#, 400, "invalid-input"),
    ("POST", "/instances", r#"{"id":"\u001fother\u001fx","orchestration":"approval"}"#, 400, "invalid-id"),
    ("POST", "/instances", r#"{"id":"{waiting}","orchestration":"approval"}"#, 409, "already-exists"),
    ("POST", "/instances", r#"{"id":"x","orchestration":"approval","start_at":"soon"}"#, 400, "invalid-input"),
    ("POST", "/bulk", r#"{"action":"cancel"}"#, 400, "invalid-input"),
    ("POST", "/bulk", r#"{"action":"dance","all":true}"#, 400, "invalid-input"),
    ("POST", "/bulk", r#"{"action":"cancel","filter":{"module":"none"}}"#, 404, "unknown-module"),
    ("POST", "/purge", r#"{"older_than_ms":0,"status":"running"}"#, 400, "invalid-input"),
    ("POST", "/purge", r#"{"older_than_ms":-1}"#, 400, "invalid-input"),
    ("GET", "/instances/nobody", "", 404, "unknown-instance"),
    ("GET", "/instances/%0A", "", 400, "invalid-id"),
    ("GET", "/instances/%1Fother%1Fx", "", 400, "invalid-id"),
    ("GET", "/instances/nobody/history", "", 404, "unknown-instance"),
    ("GET", "/instances/{waiting}/history?limit=0", "", 400, "invalid-input"),
    ("GET", "/instances/{waiting}/history?execution=7", "", 404, "not-found"),
    ("GET", "/instances/nobody/logs", "", 404, "unknown-instance"),
    ("GET", "/instances/nobody/recording", "", 404, "unknown-instance"),
    ("GET", "/instances/{waiting}/recording?with_module=1", "", 400, "invalid-input"),
    ("GET", "/instances/nobody/replay?event=1", "", 404, "unknown-instance"),
    ("GET", "/instances/{waiting}/replay?event=-1", "", 400, "invalid-input"),
    ("GET", "/instances/nobody/outcome", "", 404, "unknown-instance"),
    ("POST", "/instances/nobody/events/e", "1", 404, "unknown-instance"),
    ("POST", "/instances/{ended}/events/e", "1", 409, "instance-ended"),
    ("POST", "/instances/nobody/updates/u", "1", 404, "unknown-instance"),
    ("POST", "/instances/{ended}/updates/extend", "1", 409, "instance-ended"),
    ("POST", "/entities/none/ada/deposit", "1", 404, "unknown-entity-kind"),
    ("POST", "/entities/%40/ada/deposit", "1", 400, "invalid-input"),
    ("POST", "/entities/account/ada/deposit?one_way=perhaps", "1", 400, "invalid-input"),
    ("POST", "/instances/nobody/queries/q", "1", 404, "unknown-instance"),
    ("POST", "/instances/{waiting}/queries/q", "1", 404, "unknown-query"),
    ("POST", "/instances/nobody/terminate", "{}", 404, "unknown-instance"),
    ("POST", "/instances/{ended}/terminate", "{}", 409, "instance-ended"),
    ("POST", "/instances/nobody/cancel", "{}", 404, "unknown-instance"),
    ("POST", "/instances/{waiting}/cancel", r#"{"why":"x"}"#, 400, "invalid-input"),
    ("POST", "/instances/nobody/suspend", "{}", 404, "unknown-instance"),
    ("POST", "/instances/{ended}/suspend", "{}", 409, "instance-ended"),
    ("POST", "/instances/nobody/resume", "{}", 404, "unknown-instance"),
    ("POST", "/instances/nobody/rewind", "{}", 404, "unknown-instance"),
    ("POST", "/instances/{waiting}/rewind", "{}", 409, "wrong-status"),
    ("POST", "/instances/nobody/restart", "{}", 404, "unknown-instance"),
    ("POST", "/instances/{ended}/restart", r#"{"id":""}"#, 400, "invalid-id"),
    ("POST", "/instances/nobody/purge", "", 404, "unknown-instance"),
    ("POST", "/instances/{waiting}/purge", "", 409, "wrong-status"),
    ("POST", "/instances/nobody/fork", r#"{"id":"x","at":1}"#, 404, "unknown-instance"),
    ("POST", "/instances/{waiting}/fork", r#"{"id":"x","at":100000}"#, 400, "invalid-input"),
    ("GET", "/schedules/none", "", 404, "unknown-schedule"),
    ("GET", "/schedules/{schedule}?next=100000", "", 400, "invalid-input"),
    ("PUT", "/schedules/s", r#"{"orchestration":"approval"}"#, 400, "invalid-input"),
    ("PUT", "/schedules/s", r#"{"orchestration":"none","every_ms":1000000}"#, 404, "unknown-orchestration"),
    ("DELETE", "/schedules/none", "", 404, "unknown-schedule"),
    ("POST", "/schedules/none/pause", "{}", 404, "unknown-schedule"),
    ("POST", "/schedules/none/unpause", "", 404, "unknown-schedule"),
    ("POST", "/schedules/none/trigger", "", 404, "unknown-schedule"),
    ("POST", "/workers", r#"{"activities":[]}"#, 400, "invalid-input"),
    ("POST", "/workers/none/claim", "{}", 404, "unknown-worker"),
    ("POST", "/workers/{worker}/claim", r#"{"max":0}"#, 400, "invalid-input"),
    ("DELETE", "/workers/none", "", 404, "unknown-worker"),
    ("POST", "/tasks/complete", r#"{"tasks":[{"output":1}]}"#, 400, "invalid-input"),
    ("POST", "/tasks/fail", r#"{"tasks":[{"token":"{task}"}]}"#, 400, "invalid-input"),
    ("POST", "/tasks/heartbeat", r#"{"tasks":1}"#, 400, "invalid-input"),
    ("POST", "/tasks/extend", r#"{"tasks":[{"token":"{task}","lease_ms":-1}]}"#, 400, "invalid-input"),
];

const INPUT: &str = r#"{"subject":"A loom","amount":250000,"patience":86400}"#;

/// The operation that a path with a query belongs to.
fn operation_of(method: &str, path: &str) -> &'static Operation {
    let path: Vec<&str> = path.split('?').next().unwrap_or_default().split('/').collect();
    let fits = |operation: &&Operation| {
        let known: Vec<&str> = operation.path.split('/').collect();
        operation.method == method
            && known.len() == path.len()
            && known.iter().zip(&path).all(|(known, part)| known == part || known.starts_with('{'))
    };
    // One that is spelt out goes before one with a name in it.
    let found = OPERATIONS.iter().filter(fits).min_by_key(|operation| operation.path.matches('{').count());
    found.unwrap_or_else(|| panic!("no operation for {method} {path:?}"))
}

/// Whether something can be wrong with a request of it at all.
fn takes_something(operation: &Operation) -> bool {
    !operation.query.is_empty() || operation.path.contains('{') || operation.body != Body::None
}

#[test]
fn every_route_has_rows() {
    let name = |operation: &Operation| format!("{} {}", operation.method, operation.path);
    let good: BTreeSet<_> = GOOD.iter().map(|row| name(operation_of(row.0, row.1))).collect();
    let bad: BTreeSet<_> = BAD.iter().map(|row| name(operation_of(row.0, row.1))).collect();
    for operation in OPERATIONS {
        assert!(good.contains(&name(operation)), "{} has no row in GOOD", name(operation));
        let is_bad = bad.contains(&name(operation));
        assert_eq!(is_bad, takes_something(operation), "{}: rows in BAD", name(operation));
    }
}

/// A server with tokens, on which rows are tried.
struct Host {
    served: Served,
    /// Of every scope, in the namespace default.
    all: String,
    wasm: Vec<u8>,
    hash: String,
    made: std::cell::Cell<u32>,
}

impl Host {
    fn of(data: &Data) -> Self {
        let all = data.token("read,operate,deploy,worker", "default");
        let served = data.serve();
        data.run_with(&["upload", "examples/approval"], &[("DACAPO_TOKEN", &all)]).ok();
        data.run_with(&["upload", "examples/film"], &[("DACAPO_TOKEN", &all)]).ok();
        data.run_with(&["upload", "examples/transfer"], &[("DACAPO_TOKEN", &all)]).ok();
        let mut host = Self { served, all, wasm: Vec::new(), hash: String::new(), made: 0.into() };
        let modules = host.json("GET", "/modules", "");
        let of_approval = |module: &&Value| module["name"] == "approval" && module["kind"] == "orchestration";
        let module = modules["modules"].as_array().unwrap().iter().find(of_approval).unwrap();
        host.hash = module["hash"].as_str().unwrap().to_owned();
        let (status, wasm) = host.bytes("GET", &format!("/modules/{}", host.hash), Some(&host.all), b"");
        assert_eq!(status, 200);
        host.wasm = wasm;
        host
    }

    fn bytes(&self, method: &str, path: &str, token: Option<&str>, body: &[u8]) -> (u16, Vec<u8>) {
        let authorization = token.map_or_else(String::new, |token| format!("authorization: Bearer {token}\r\n"));
        let headers = format!("content-type: application/json\r\n{authorization}");
        self.served.bytes(method, &format!("/api/v1{path}"), &headers, body)
    }

    fn json(&self, method: &str, path: &str, body: &str) -> Value {
        let (status, answer) = self.bytes(method, path, Some(&self.all), body.as_bytes());
        assert!(status < 300, "{method} {path} {body}: {status} {}", String::from_utf8_lossy(&answer));
        serde_json::from_slice(&answer).unwrap_or_default()
    }

    fn fresh(&self, what: &str) -> String {
        self.made.set(self.made.get() + 1);
        format!("{what}-{}", self.made.get())
    }

    fn start(&self, orchestration: &str, input: &str) -> String {
        let id = self.fresh(orchestration);
        self.json(
            "POST",
            "/instances",
            &format!(r#"{{"id":"{id}","orchestration":"{orchestration}","input":{input}}}"#),
        );
        id
    }

    fn waiting(&self) -> String {
        let id = self.start("approval", INPUT);
        // It has begun to wait when it has asked.
        let mut from = 1;
        loop {
            let page = self.json("GET", &format!("/instances/{id}/history?from={from}&wait_ms=60000"), "");
            if page["events"].as_array().unwrap().iter().any(|event| event["kind"] == "event-awaited") {
                return id;
            }
            from = page["next"].as_u64().unwrap();
        }
    }

    fn worker(&self) -> String {
        let body = r#"{"activities":["renderer.render"],"queues":["render"]}"#;
        self.json("POST", "/workers", body)["worker"].as_str().unwrap().to_owned()
    }

    fn task(&self) -> String {
        self.start("film", r#"{"title":"La Strada","frames":1,"steps":1}"#);
        let claim = format!("/workers/{}/claim", self.worker());
        let claimed = self.json("POST", &claim, r#"{"max":1,"wait_ms":60000,"lease_ms":3600000}"#);
        claimed["tasks"][0]["token"].as_str().unwrap().to_owned()
    }

    fn failed(&self) -> String {
        let task = self.task();
        let id = format!("film-{}", self.made.get());
        let tasks = json!({ "tasks": [{ "token": task, "message": "no", "non_retryable": true }] });
        self.json("POST", "/tasks/fail", &tasks.to_string());
        self.json("GET", &format!("/instances/{id}/outcome?wait_ms=60000"), "");
        id
    }

    fn acted_on(&self, action: &str) -> String {
        let id = self.waiting();
        self.json("POST", &format!("/instances/{id}/{action}"), "{}");
        id
    }

    fn schedule(&self) -> String {
        let name = self.fresh("schedule");
        let body = r#"{"orchestration":"approval","every_ms":3600000}"#;
        self.json("PUT", &format!("/schedules/{name}"), body);
        name
    }

    /// An upload that nothing needs.
    fn unused(&self) -> String {
        // A custom section makes other bytes of the same module.
        let name = self.fresh("unused");
        let mut wasm = self.wasm.clone();
        wasm.extend([0, name.len() as u8 + 1, name.len() as u8]);
        wasm.extend(name.as_bytes());
        let path = format!("/modules?name={name}&held_back=true");
        let (status, answer) = self.bytes("POST", &path, Some(&self.all), &wasm);
        assert_eq!(status, 201, "{}", String::from_utf8_lossy(&answer));
        name + "@" + serde_json::from_slice::<Value>(&answer).unwrap()["version"].as_str().unwrap()
    }

    /// `text` with what its names in braces stand for.
    fn fill(&self, text: &str) -> String {
        let mut text = text.replace("{input}", INPUT).replace("{hash}", &self.hash);
        let made: [(&str, &dyn Fn() -> String); 9] = [
            ("{fresh}", &|| self.fresh("fresh")),
            ("{waiting}", &|| self.waiting()),
            ("{ended}", &|| self.acted_on("terminate")),
            ("{suspended}", &|| self.acted_on("suspend")),
            ("{failed}", &|| self.failed()),
            ("{schedule}", &|| self.schedule()),
            ("{worker}", &|| self.worker()),
            ("{task}", &|| self.task()),
            ("{unused}", &|| self.unused()),
        ];
        for (name, make) in made {
            if text.contains(name) {
                text = text.replace(name, &make());
            }
        }
        text
    }

    fn body(&self, body: &str) -> Vec<u8> {
        if body == "<wasm>" { self.wasm.clone() } else { self.fill(body).into_bytes() }
    }

    /// Sends a row with that token; the status, and the code of the problem if it is one.
    fn send(&self, method: &str, path: &str, body: &[u8], token: Option<&str>) -> (u16, String) {
        let (status, answer) = self.bytes(method, path, token, body);
        let answer = serde_json::from_slice::<Value>(&answer).unwrap_or_default();
        (status, answer["code"].as_str().unwrap_or_default().to_owned())
    }
}

#[test]
fn every_route_takes_what_is_good_and_refuses_what_is_bad() {
    let data = Data::new("api-table");
    let host = Host::of(&data);
    let mut differ = Vec::new();
    for (method, path, body, expected) in GOOD {
        let (path, body) = (host.fill(path), host.body(body));
        let (status, code) = if path.starts_with("/changes") {
            // A stream that does not end: its head says enough.
            (host.served.head("GET", &format!("/api/v1{path}"), Some(&host.all)), String::new())
        } else {
            host.send(method, &path, &body, Some(&host.all))
        };
        if status != *expected {
            differ.push(format!("{method} {path}: expected {expected}, found {status} {code}"));
        }
    }
    for (method, path, body, status, code) in BAD {
        let (path, body) = (host.fill(path), host.body(body));
        let (found, problem) = host.send(method, &path, &body, Some(&host.all));
        if (found, &*problem) != (*status, *code) {
            let body = String::from_utf8_lossy(&body);
            differ.push(format!("{method} {path} {body:.80}: expected {status} {code}, found {found} {problem}"));
        }
    }
    assert!(differ.is_empty(), "{differ:#?}");
}

#[test]
fn every_route_asks_for_a_token_with_its_scope() {
    let data = Data::new("api-scopes");
    let host = Host::of(&data);
    let tokens = Scope::ALL.map(|scope| (scope, data.token(&scope.to_string(), "default")));
    let wrong = format!("{}0", &host.all[..host.all.len() - 1]);
    let wrong = if wrong == host.all { format!("{}1", &host.all[..host.all.len() - 1]) } else { wrong };
    for (method, path, body, _) in GOOD {
        let operation = operation_of(method, path);
        // Nothing is done with a name that is none: who may is decided before.
        let (path, body) = (path.replace(['{', '}'], ""), body.replace("<wasm>", "{}"));
        let send = |token: Option<&str>| host.send(method, &path, body.as_bytes(), token);
        let is_refused = |(status, code): (u16, String)| matches!((status, &*code), (401, _) | (403, "scope-missing"));
        let needed = match operation.needs {
            Needs::Nothing => {
                assert!(!is_refused(send(None)) && !is_refused(send(Some(&wrong))), "{method} {path} asks for a token");
                continue;
            }
            Needs::Token(scope) | Needs::Host(scope) => scope,
        };
        assert_eq!(send(None), (401, "token-missing".to_owned()), "{method} {path}");
        assert_eq!(send(Some(&wrong)), (401, "token-refused".to_owned()), "{method} {path}");
        for (scope, token) in tokens.iter().filter(|(scope, _)| !scope.includes(needed)) {
            assert_eq!(send(Some(token)), (403, "scope-missing".to_owned()), "{method} {path} with {scope}");
        }
        // The one scope that it needs is enough. A stream of changes would not end.
        if !path.starts_with("/changes") {
            let (_, token) = tokens.iter().find(|(scope, _)| *scope == needed).unwrap();
            assert!(!is_refused(send(Some(token))), "{method} {path} with {needed}");
        }
    }
}

/// What whoever has a token of another namespace gets with the good input of each route:
/// names of the namespace default mean nothing there.
#[rustfmt::skip]
const OTHER: &[(&str, &str, u16, &str)] = &[
    ("GET", "/stats", 403, "host-only"),
    ("POST", "/verify", 403, "host-only"),
    ("GET", "/backup", 403, "host-only"),
    ("GET", "/audit", 200, ""),
    ("GET", "/modules", 200, ""),
    ("POST", "/modules", 201, ""),
    ("GET", "/modules/{hash}", 404, "unknown-module"),
    ("POST", "/modules/default", 404, "unknown-module"),
    ("POST", "/modules/remove", 404, "unknown-module"),
    ("POST", "/modules/gc", 200, ""),
    ("POST", "/modules/check", 200, ""),
    ("POST", "/modules/migrate", 404, "unknown-module"),
    ("GET", "/instances", 200, ""),
    ("POST", "/instances", 404, "unknown-orchestration"),
    ("POST", "/bulk", 200, ""),
    ("POST", "/purge", 200, ""),
    ("GET", "/instances/{id}", 404, "unknown-instance"),
    ("GET", "/instances/{id}/history", 404, "unknown-instance"),
    ("GET", "/instances/{id}/logs", 404, "unknown-instance"),
    ("GET", "/instances/{id}/recording", 404, "unknown-instance"),
    ("GET", "/instances/{id}/replay", 404, "unknown-instance"),
    ("GET", "/instances/{id}/outcome", 404, "unknown-instance"),
    ("POST", "/instances/{id}/events/{name}", 404, "unknown-instance"),
    ("POST", "/instances/{id}/updates/{name}", 404, "unknown-instance"),
    ("POST", "/instances/{id}/queries/{name}", 404, "unknown-instance"),
    ("POST", "/instances/{id}/terminate", 404, "unknown-instance"),
    ("POST", "/instances/{id}/cancel", 404, "unknown-instance"),
    ("POST", "/instances/{id}/suspend", 404, "unknown-instance"),
    ("POST", "/instances/{id}/resume", 404, "unknown-instance"),
    ("POST", "/instances/{id}/rewind", 404, "unknown-instance"),
    ("POST", "/instances/{id}/restart", 404, "unknown-instance"),
    ("POST", "/instances/{id}/purge", 404, "unknown-instance"),
    ("POST", "/instances/{id}/fork", 404, "unknown-instance"),
    ("POST", "/entities/{kind}/{key}/{operation}", 404, "unknown-entity-kind"),
    ("GET", "/schedules", 200, ""),
    ("GET", "/schedules/{name}", 404, "unknown-schedule"),
    ("PUT", "/schedules/{name}", 404, "unknown-orchestration"),
    ("DELETE", "/schedules/{name}", 404, "unknown-schedule"),
    ("POST", "/schedules/{name}/pause", 404, "unknown-schedule"),
    ("POST", "/schedules/{name}/unpause", 404, "unknown-schedule"),
    ("POST", "/schedules/{name}/trigger", 404, "unknown-schedule"),
    ("GET", "/webhooks", 200, ""),
    ("GET", "/queues", 200, ""),
    ("GET", "/workers", 200, ""),
    ("POST", "/workers", 201, ""),
    ("DELETE", "/workers/{id}", 404, "unknown-worker"),
    ("POST", "/workers/{id}/claim", 404, "unknown-worker"),
    ("POST", "/tasks/complete", 200, ""),
    ("POST", "/tasks/fail", 200, ""),
    ("POST", "/tasks/heartbeat", 200, ""),
    ("POST", "/tasks/extend", 200, ""),
];

#[test]
fn a_token_of_another_namespace_sees_and_changes_nothing_of_this_one() {
    let data = Data::new("api-namespaces");
    let host = Host::of(&data);
    // Something of each kind is there to be seen.
    let seen = [host.waiting(), host.schedule(), host.worker(), host.task(), host.hash.clone()];
    let mut differ = Vec::new();
    for (number, (method, path, body, _)) in GOOD.iter().enumerate() {
        // Of one of its own for each row, in which nothing is.
        let foreign = data.token("read,operate,deploy,worker", &format!("other-{number}"));
        let operation = operation_of(method, path);
        let row = OTHER.iter().find(|row| (row.0, row.1) == (operation.method, operation.path));
        let Some((_, _, status, code)) = row else {
            let is_stream = path.starts_with("/changes");
            assert!(operation.needs == Needs::Nothing || is_stream, "{method} {path} has no row in OTHER");
            continue;
        };
        let (made_path, made_body) = (host.fill(path), host.body(body));
        let (found, answer) = host.bytes(method, &made_path, Some(&foreign), &made_body);
        let text = String::from_utf8_lossy(&answer).into_owned();
        let problem = serde_json::from_str::<Value>(&text).unwrap_or_default();
        let problem = problem["code"].as_str().unwrap_or_default();
        if (found, problem) != (*status, *code) {
            differ.push(format!("{method} {made_path}: expected {status} {code}, found {found} {text:.200}"));
        }
        // What it did not write itself it is not told.
        let written = format!("{made_path} {}", String::from_utf8_lossy(&made_body));
        let names = seen.iter().filter(|name| !written.contains(&***name));
        if !path.starts_with("/tasks") {
            names.for_each(|name| assert!(!text.contains(name), "{method} {made_path} tells of {name}: {text}"));
        }
        assert!(!text.contains("recorded") && !text.contains("\"continue\""), "{method} {made_path}: {text}");
        assert!(!text.contains("\\u001f") && !text.contains('\u{1f}'), "{method} {made_path}: {text}");
    }
    assert!(differ.is_empty(), "{differ:#?}");
    // All is as it was.
    assert_eq!(host.json("GET", &format!("/instances/{}", seen[0]), "")["status"], "running");
    assert_eq!(host.json("GET", &format!("/schedules/{}", seen[1]), "")["paused"], Value::Null);
    let beat = json!({ "tasks": [{ "token": seen[3] }] }).to_string();
    assert_eq!(host.json("POST", "/tasks/heartbeat", &beat)["tasks"][0]["answer"], "continue");
}

#[test]
fn every_change_is_recorded_with_who_and_what_and_nothing_else_is() {
    let data = Data::new("api-audit");
    let host = Host::of(&data);
    let newest = || host.json("GET", "/audit?limit=1", "")["records"][0].clone();
    let mut seen = 0;
    for (method, path, body, _) in GOOD.iter().filter(|row| !row.1.starts_with("/changes")) {
        let needs = operation_of(method, path).needs;
        let (path, body) = (host.fill(path), host.body(body));
        let before = newest()["id"].as_u64().unwrap();
        let (status, _) = host.send(method, &path, &body, Some(&host.all));
        let record = newest();
        let is_change = matches!(needs, Needs::Token(Scope::Operate | Scope::Deploy) | Needs::Host(Scope::Operate));
        if *method == "GET" || !is_change {
            assert_eq!(record["id"], before, "{method} {path} changes nothing that is anybody's");
            continue;
        }
        seen += 1;
        assert_eq!(record["id"], before + 1, "{method} {path}");
        let path = format!("/api/v1{}", path.split('?').next().unwrap());
        assert_eq!((&record["method"], &record["path"]), (&json!(method), &json!(path)));
        assert_eq!((&record["status"], &record["namespace"]), (&json!(status), &json!("default")), "{record}");
        assert_eq!(record["token"], host.all.split('_').nth(1).unwrap(), "{record}");
    }
    assert!(seen > 25, "{seen} changes");
}

#[test]
fn changes_of_another_namespace_are_not_told() {
    use std::io::{BufRead as _, BufReader};
    let data = Data::new("api-namespaces-changes");
    let host = Host::of(&data);
    let foreign = data.token("read,operate,deploy", "other");
    let authorization = format!("authorization: Bearer {foreign}\r\n");
    let stream = host.served.open("GET", "/api/v1/changes", &authorization, b"");
    let mut lines = BufReader::new(stream).lines().map(Result::unwrap);
    assert!(lines.by_ref().take_while(|line| !line.is_empty()).any(|line| line.contains("text/event-stream")));
    host.waiting();
    assert_eq!(host.bytes("POST", "/modules?name=approval", Some(&foreign), &host.wasm).0, 201);
    let body = format!(r#"{{"id":"mine","orchestration":"approval","input":{INPUT}}}"#);
    assert_eq!(host.bytes("POST", "/instances", Some(&foreign), body.as_bytes()).0, 201);
    let first = lines.find_map(|line| line.strip_prefix("data: ").map(str::to_owned)).unwrap();
    assert!(first.contains("\"mine\""), "{first}");
}
