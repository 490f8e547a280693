//! The API described for programs: `GET openapi.json`, OpenAPI 3.1.
//!
//! [`OPERATIONS`] has a line for every route and method; a test reads the routes out
//! of the sources and compares. The bodies' schemas are in `openapi/schemas.json`; a
//! test asks the server which fields each takes and compares.

use axum::response::{IntoResponse, Response};
use axum::routing::get;
use axum::{Json, Router};
use serde_json::{Map, Value, json};

use super::access::Needs;
use super::api::Api;
use super::problem::CODES;
use super::tokens::Scope;

/// What a request carries.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Body {
    /// Nothing.
    None,
    /// The JSON object of that name in the schemas.
    Of(&'static str),
    /// Any JSON value.
    Any,
    /// The bytes of a module.
    Wasm,
}

/// One method of one path.
#[derive(Clone, Copy, Debug)]
pub struct Operation {
    /// In capitals.
    pub method: &'static str,
    /// Under `/api/v1`.
    pub path: &'static str,
    /// Which part of the API it belongs to.
    pub tag: &'static str,
    /// What it does.
    pub summary: &'static str,
    /// Query parameters: `name:type`, with `!` behind a required one.
    pub query: &'static [&'static str],
    /// Who may.
    pub needs: Needs,
    /// What it takes.
    pub body: Body,
    /// The status and the schema of a good answer; no name is any JSON value.
    pub answer: (u16, &'static str),
}

#[expect(clippy::too_many_arguments, reason = "a column of the table each")]
const fn op(
    method: &'static str,
    path: &'static str,
    tag: &'static str,
    summary: &'static str,
    needs: Needs,
    query: &'static [&'static str],
    body: Body,
    answer: (u16, &'static str),
) -> Operation {
    Operation { method, path, tag, summary, query, needs, body, answer }
}

const ANY: Needs = Needs::Nothing;
const READ: Needs = Needs::Token(Scope::Read);
const OPERATE: Needs = Needs::Token(Scope::Operate);
const DEPLOY: Needs = Needs::Token(Scope::Deploy);
const WORK: Needs = Needs::Token(Scope::Worker);
const HOST: Needs = Needs::Host(Scope::Read);
const HOST_OPERATE: Needs = Needs::Host(Scope::Operate);
const NONE: &[&str] = &[];
const LIST: &[&str] = &[
    "status:status",
    "orchestration:string",
    "prefix:string",
    "after:string",
    "limit:integer",
    "module:string",
    "tags:string",
    "created_from:string",
    "created_before:string",
    "order:order",
    "counts:boolean",
];

/// Every route.
#[rustfmt::skip]
pub const OPERATIONS: &[Operation] = &[
    op("GET", "/health", "host", "That it is alive, and who it is", ANY, NONE, Body::None, (200, "")),
    op("GET", "/ready", "host", "Whether it takes work; 503 if not", ANY, NONE, Body::None, (200, "")),
    op("GET", "/stats", "host", "Numbers about this host since it started", HOST, NONE, Body::None, (200, "Stats")),
    op("GET", "/openapi.json", "host", "This description", ANY, NONE, Body::None, (200, "")),
    op("GET", "/changes", "host", "What changes, as server-sent events", READ, &["instance:string", "prefix:string"], Body::None, (200, "events")),
    op("POST", "/verify", "host", "Verify everything that is stored", HOST, &["replay:boolean"], Body::None, (200, "")),
    op("GET", "/backup", "host", "Everything that is kept, as of one moment", HOST_OPERATE, NONE, Body::None, (200, "bytes")),
    op("GET", "/audit", "host", "Who changed what, the newest first; those of the token's namespace", OPERATE, &["before:integer", "limit:integer"], Body::None, (200, "")),
    op("GET", "/modules", "modules", "Every module, the last uploaded first", READ, NONE, Body::None, (200, "Modules")),
    op("POST", "/modules", "modules", "Keep a module; its grants are JSON in the header dacapo-grants", DEPLOY, &["name:string!", "version:string", "held_back:boolean", "check:boolean"], Body::Wasm, (201, "Module")),
    op("GET", "/modules/{hash}", "modules", "A module's bytes", READ, NONE, Body::None, (200, "wasm")),
    op("POST", "/modules/default", "modules", "New starts take this version", DEPLOY, NONE, Body::Of("Named"), (200, "Module")),
    op("POST", "/modules/remove", "modules", "Remove a module that nothing needs", DEPLOY, NONE, Body::Of("RemoveModule"), (200, "Module")),
    op("POST", "/modules/gc", "modules", "Remove all modules that nothing needs", DEPLOY, NONE, Body::Of("CollectModules"), (200, "")),
    op("POST", "/modules/check", "modules", "Check a module against running instances; nothing is kept", DEPLOY, &["orchestration:string", "name:string"], Body::Wasm, (200, "")),
    op("POST", "/modules/migrate", "modules", "Move running instances that match to a module", DEPLOY, NONE, Body::Of("Migrate"), (200, "")),
    op("GET", "/instances", "instances", "Instances that match, a page at a time", READ, LIST, Body::None, (200, "Instances")),
    op("POST", "/instances", "instances", "Start an instance; 200 if it was there; with wait_ms, wait for its end", OPERATE, NONE, Body::Of("Start"), (201, "Outcome")),
    op("POST", "/bulk", "instances", "One action on every instance that matches", OPERATE, NONE, Body::Of("Bulk"), (200, "")),
    op("POST", "/purge", "instances", "Remove what ended so long ago", OPERATE, NONE, Body::Of("Purge"), (200, "")),
    op("GET", "/instances/{id}", "instances", "One instance, with what it waits for", READ, NONE, Body::None, (200, "Instance")),
    op("GET", "/instances/{id}/history", "instances", "Its events; waits for one that is not there yet", READ, &["execution:integer", "from:integer", "limit:integer", "wait_ms:integer"], Body::None, (200, "History")),
    op("GET", "/instances/{id}/logs", "instances", "What its guest logged, beside the events", READ, &["execution:integer"], Body::None, (200, "Logs")),
    op("GET", "/instances/{id}/recording", "instances", "Its history in a file that replays anywhere", READ, &["execution:integer", "with_module:boolean"], Body::None, (200, "bytes")),
    op("GET", "/instances/{id}/replay", "instances", "All that is known at one event of its history, in its module or another", READ, &["event:integer", "execution:integer", "module:string", "logs:integer", "pending:integer"], Body::None, (200, "")),
    op("GET", "/instances/{id}/outcome", "instances", "Its output or failure; waits for its end", READ, &["wait_ms:integer"], Body::None, (200, "Outcome")),
    op("POST", "/instances/{id}/events/{name}", "instances", "Raise an event; once for the header idempotency-key", OPERATE, NONE, Body::Any, (202, "")),
    op("POST", "/instances/{id}/updates/{name}", "instances", "Ask for a change and wait for the answer; 202 if there is none yet", OPERATE, &["id:string", "wait_ms:integer"], Body::Any, (200, "")),
    op("POST", "/entities/{kind}/{key}/{operation}", "entities", "Run an operation, on an entity that is made if there is none, and wait for the answer; 202 if there is none yet", OPERATE, &["id:string", "wait_ms:integer", "one_way:boolean"], Body::Any, (200, "")),
    op("POST", "/instances/{id}/queries/{name}", "instances", "Ask its code; nothing is changed", READ, NONE, Body::Any, (200, "")),
    op("POST", "/instances/{id}/terminate", "instances", "End it at once", OPERATE, NONE, Body::Of("Reason"), (202, "")),
    op("POST", "/instances/{id}/cancel", "instances", "Ask it to end", OPERATE, NONE, Body::Of("Reason"), (202, "")),
    op("POST", "/instances/{id}/suspend", "instances", "Hold it", OPERATE, NONE, Body::Of("Reason"), (202, "")),
    op("POST", "/instances/{id}/resume", "instances", "Let it go on", OPERATE, NONE, Body::Of("Reason"), (202, "")),
    op("POST", "/instances/{id}/rewind", "instances", "Let a failed one go on from before its last failed operation", OPERATE, NONE, Body::Of("Rewind"), (202, "")),
    op("POST", "/instances/{id}/restart", "instances", "Run it again from its beginning", OPERATE, NONE, Body::Of("Restart"), (201, "")),
    op("POST", "/instances/{id}/purge", "instances", "Remove it; it has ended", OPERATE, NONE, Body::None, (204, "")),
    op("POST", "/instances/{id}/fork", "instances", "Start one that shares its history up to an event", OPERATE, NONE, Body::Of("Fork"), (201, "")),
    op("GET", "/schedules", "schedules", "Every schedule", READ, NONE, Body::None, (200, "")),
    op("GET", "/schedules/{name}", "schedules", "One schedule with its next times", READ, &["next:integer"], Body::None, (200, "")),
    op("PUT", "/schedules/{name}", "schedules", "Make or change a schedule", OPERATE, NONE, Body::Of("Schedule"), (200, "")),
    op("DELETE", "/schedules/{name}", "schedules", "Forget a schedule", OPERATE, NONE, Body::None, (204, "")),
    op("POST", "/schedules/{name}/pause", "schedules", "What comes due is left out", OPERATE, NONE, Body::Of("Reason"), (200, "")),
    op("POST", "/schedules/{name}/unpause", "schedules", "It goes on", OPERATE, NONE, Body::None, (200, "")),
    op("POST", "/schedules/{name}/trigger", "schedules", "An instance starts now", OPERATE, NONE, Body::None, (200, "")),
    op("GET", "/webhooks", "webhooks", "The webhooks that are taken", READ, NONE, Body::None, (200, "")),
    op("GET", "/queues", "workers", "What waits in which queue", READ, NONE, Body::None, (200, "")),
    op("GET", "/workers", "workers", "Remote workers and what they have", READ, NONE, Body::None, (200, "")),
    op("POST", "/workers", "workers", "A worker comes", WORK, NONE, Body::Of("Worker"), (201, "")),
    op("DELETE", "/workers/{id}", "workers", "A worker leaves", WORK, NONE, Body::None, (204, "")),
    op("POST", "/workers/{id}/claim", "workers", "Fetch tasks; waits for one", WORK, NONE, Body::Of("Claim"), (200, "")),
    op("POST", "/tasks/complete", "workers", "Tasks that are done", WORK, NONE, Body::Of("CompleteTasks"), (200, "")),
    op("POST", "/tasks/fail", "workers", "Tasks that failed", WORK, NONE, Body::Of("FailTasks"), (200, "")),
    op("POST", "/tasks/heartbeat", "workers", "Tasks that are being worked on", WORK, NONE, Body::Of("Heartbeats"), (200, "")),
    op("POST", "/tasks/extend", "workers", "Tasks that need their lease for longer", WORK, NONE, Body::Of("ExtendLeases"), (200, "")),
];

/// The description.
///
/// # Panics
/// If the schemas in the program are no JSON; a test reads them.
pub fn description() -> Value {
    let schemas: Value = serde_json::from_str(include_str!("openapi/schemas.json")).expect("the schemas are JSON");
    let mut paths = Map::new();
    for operation in OPERATIONS {
        let path = paths.entry(format!("/api/v1{}", operation.path)).or_insert_with(|| json!({}));
        path[operation.method.to_lowercase()] = operation.json();
    }
    json!({
        "openapi": "3.1.0",
        "info": {
            "title": "dacapo",
            "version": env!("CARGO_PKG_VERSION"),
            "description": "Deterministic workflows in WebAssembly. Every error is an RFC 9457 problem with a stable code.",
            "license": { "name": "Apache-2.0 OR MIT", "identifier": "Apache-2.0 OR MIT" },
        },
        "servers": [{ "url": "/" }],
        "paths": paths,
        "security": [{ "token": [] }, {}],
        "components": {
            "securitySchemes": {
                "token": {
                    "type": "http",
                    "scheme": "bearer",
                    "description": "What `dacapo token create` printed. Not asked for while no token was made.",
                },
            },
            "schemas": schemas,
            "responses": {
                "Problem": {
                    "description": "What was expected, what was found, what to do.",
                    "content": { "application/problem+json": { "schema": { "$ref": "#/components/schemas/Problem" } } },
                },
            },
        },
        "x-problem-codes": CODES.iter().map(|(code, status, what)| json!({ "code": code, "status": status, "meaning": what })).collect::<Vec<_>>(),
    })
}

/// Whether it may be too early for the answer.
fn is_answered_later(path: &str) -> bool {
    path.ends_with("/updates/{name}") || path.ends_with("/{operation}")
}

impl Operation {
    fn json(&self) -> Value {
        let in_path = self.path.split('/').filter_map(|part| part.strip_prefix('{')?.strip_suffix('}'));
        let in_path = in_path.map(|name| parameter("path", name, "string", true));
        let in_query = self.query.iter().map(|described| {
            let (name, kind) = described.split_once(':').unwrap_or((described, "string"));
            parameter("query", name, kind.trim_end_matches('!'), kind.ends_with('!'))
        });
        let (status, answer) = self.answer;
        let mut described = json!({
            "operationId": self.id(),
            "tags": [self.tag],
            "summary": self.summary,
            "parameters": in_path.chain(in_query).collect::<Vec<_>>(),
            "responses": {
                status.to_string(): self.answer_json(answer),
                "default": { "$ref": "#/components/responses/Problem" },
            },
        });
        match self.needs {
            Needs::Nothing => described["security"] = json!([]),
            Needs::Token(scope) | Needs::Host(scope) => described["x-scope"] = json!(scope),
        }
        if matches!(self.needs, Needs::Host(_)) {
            described["x-namespace"] = "default".into();
        }
        if self.path == "/instances" && self.method == "POST" || is_answered_later(self.path) {
            let other = if status == 201 { "200" } else { "202" };
            described["responses"][other] = self.answer_json(answer);
        }
        let body = match self.body {
            Body::None => return described,
            Body::Of(name) => json!({ "application/json": { "schema": reference(name) } }),
            Body::Any => json!({ "application/json": { "schema": {} } }),
            Body::Wasm => json!({ "application/wasm": {} }),
        };
        described["requestBody"] = json!({ "required": true, "content": body });
        described
    }

    /// A name for programs: the method and the words of the path.
    fn id(&self) -> String {
        let words = self.path.split(['/', '.']).filter(|part| !part.is_empty() && !part.starts_with('{'));
        let what = words.collect::<Vec<_>>().join("_");
        let one = if self.path.ends_with('}') { "_one" } else { "" };
        format!("{}_{what}{one}", self.method.to_lowercase())
    }

    fn answer_json(&self, name: &str) -> Value {
        let content = match name {
            "" => json!({ "application/json": { "schema": {} } }),
            "events" => json!({ "text/event-stream": { "schema": { "type": "string" } } }),
            "wasm" => json!({ "application/wasm": {} }),
            "bytes" => json!({ "application/octet-stream": {} }),
            name => json!({ "application/json": { "schema": reference(name) } }),
        };
        // What has been taken, and what is gone, is answered without a body.
        let has_body = !(self.answer.0 == 204 || self.answer.0 == 202);
        let mut answer = json!({ "description": self.summary });
        if has_body {
            answer["content"] = content;
        }
        answer
    }
}

fn reference(name: &str) -> Value {
    json!({ "$ref": format!("#/components/schemas/{name}") })
}

fn parameter(place: &str, name: &str, kind: &str, required: bool) -> Value {
    let schema = match kind {
        "status" => reference("Status"),
        "order" => json!({ "type": "string", "enum": ["id", "newest"] }),
        "integer" => json!({ "type": "integer", "minimum": 0 }),
        kind => json!({ "type": kind }),
    };
    json!({ "in": place, "name": name, "required": required, "schema": schema })
}

pub(super) fn routes() -> Router<Api> {
    Router::new().route("/openapi.json", get(openapi))
}

async fn openapi() -> Response {
    Json(description()).into_response()
}
