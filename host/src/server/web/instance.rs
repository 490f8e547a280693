//! One instance: what it waits for, when things happened, its history, and what can
//! be done to it.

use axum::extract::Path;
use axum::response::Response;
use maud::{Markup, html};
use serde::Deserialize;
use serde_json::Value;

use super::super::access::Scoped;
use super::parts::{
    Action, Field, Kind, REASON, ago, badge, count, duration, empty, instance_href, payload, text, until,
};
use super::timeline::{Timeline, millis};
use super::{Part, respond};
use crate::core::ids::ExecutionNumber;
use crate::core::summary::Status;
use crate::server::Query;
use crate::server::api::{Api, HistoryQuery, Result, blocking};
use crate::server::paths::escaped;
use crate::store::{Module, ModuleKind};

/// Events of one page.
const EVENTS: usize = 1000;

#[derive(Clone, Copy, Debug, Default, Deserialize)]
#[serde(deny_unknown_fields)]
pub(super) struct Asked {
    execution: Option<ExecutionNumber>,
    from: Option<u32>,
}

/// All that the page shows.
struct Shown {
    id: String,
    view: Value,
    history: Value,
    module: Option<String>,
    /// Of modules that offer its orchestration.
    versions: Vec<String>,
    status: Status,
    execution: u64,
    latest: u64,
    now_ms: u64,
}

pub(super) async fn page(Scoped(api): Scoped, Path(id): Path<String>, Query(asked): Query<Asked>) -> Response {
    let changes = format!("?instance={}", escaped(&id));
    let body = read(&api, &id, asked).await.map(|shown| render(&shown));
    respond(Part::Instances, &id, Some(&changes), body)
}

async fn read(api: &Api, id: &str, asked: Asked) -> Result<Shown> {
    let known = api.id(id)?;
    let query = HistoryQuery { execution: asked.execution, from: asked.from, limit: Some(EVENTS), wait_ms: 0 };
    let history = api.history(&known, query).await?;
    let (reader, owned) = (api.clone(), known.clone());
    let (view, module, versions) = blocking(move || {
        let view = reader.instance(&owned)?;
        let modules = reader.own_modules()?;
        let module = modules.iter().find(|module| module.hash.to_string() == text(&view, "module"));
        let called = |module: &Module| module.called();
        let offering = modules.iter().filter(|module| {
            let is_offered = module.offers.iter().any(|offer| offer.name == text(&view, "orchestration"));
            module.kind == ModuleKind::Orchestration && is_offered
        });
        let versions = offering.map(called).collect();
        let module = module.map(called);
        Ok((view, module, versions))
    })
    .await?;
    let status = text(&view, "status").parse().unwrap_or(Status::Running);
    Ok(Shown {
        id: id.to_owned(),
        module,
        versions,
        status,
        execution: history["execution"].as_u64().unwrap_or(1),
        latest: history["latest_execution"].as_u64().unwrap_or(1),
        now_ms: api.engine()?.now().0,
        view,
        history,
    })
}

impl Shown {
    fn events(&self) -> &[Value] {
        self.history["events"].as_array().map_or(&[], Vec::as_slice)
    }

    /// Whether the execution that is shown is the current one.
    fn is_current(&self) -> bool {
        self.execution == self.latest
    }

    fn api(&self, rest: &str) -> String {
        format!("/api/v1/instances/{}{rest}", escaped(&self.id))
    }
}

fn render(shown: &Shown) -> Markup {
    let view = &shown.view;
    let created = millis(text(view, "created_at"));
    let ended = if shown.status.is_final() { millis(text(view, "updated_at")) } else { shown.now_ms };
    html! {
        div #head data-live {
            p.crumbs { a href="/" { "Instances" } " / " }
            div.head {
                h1.id { (shown.id) }
                (badge(text(view, "status")))
                div.head-end.actions { (actions(shown)) }
            }
            dl.facts {
                div { dt { "Orchestration" } dd { (text(view, "orchestration"))
                    @match &shown.module {
                        Some(module) => { " " a.dim href=(crate::server::paths::with_query("/", &serde_json::json!({ "module": module }))) { (module) } },
                        None => span.dim { " module " (&text(view, "module")[..12.min(text(view, "module").len())]) ", removed" },
                    }
                } }
                div { dt { "Created" } dd { (ago(text(view, "created_at"))) } }
                div { dt { @if shown.status.is_final() { "Ended" } @else { "Last turn" } } dd { (ago(text(view, "updated_at"))) } }
                div { dt { @if shown.status.is_final() { "Took" } @else { "Age" } } dd { (duration(ended.saturating_sub(created))) } }
                div { dt { "Events" } dd { (view["events"]) } }
                @if shown.latest > 1 {
                    div { dt { "Execution" } dd.executions { (executions(shown)) } }
                }
                @if let Some(parent) = view["parent"].as_str() {
                    div { dt { "Called by" } dd { a #parent href=(instance_href(parent)) { (parent) } } }
                }
                @if let Some(from) = view.get("forked_from").filter(|from| !from.is_null()) {
                    div { dt { "Forked from" } dd { a href=(instance_href(text(from, "instance"))) { (text(from, "instance")) } " at event " (from["event"]) } }
                }
                @if let Some(tags) = view["tags"].as_object().filter(|tags| !tags.is_empty()) {
                    div { dt { "Tags" } dd { @for (name, value) in tags { span.tag { (name) "=" (value.as_str().unwrap_or("")) } } } }
                }
            }
            @if let Some(status) = view.get("custom_status").filter(|status| !status.is_null()) {
                p.says { span.dim { "It says " } @match status { Value::String(text) => { (text) }, other => code { (other.to_string()) } } }
            }
            @if let Some(failure) = view.get("failure").filter(|failure| !failure.is_null() && shown.status == Status::Failed) {
                div.panel.bad role="group" aria-label="Failure" {
                    h2 { "Failed" } pre tabindex="0" { (text(view, "error")) }
                    @if let Some(details) = failure.get("details").filter(|details| !details.is_null()) { (payload(details)) }
                }
            } @else if !text(view, "error").is_empty() {
                p.says { span.dim { "Ended because " } (text(view, "error")) }
            }
        }
        @if !shown.status.is_final() && shown.is_current() { (waits(shown)) }
        section #timeline data-live aria-labelledby="timeline-title" {
            (Timeline::of(shown.events(), shown.now_ms, !shown.status.is_final() && shown.is_current()).render())
        }
        (children(shown))
        (replay(shown))
        div.two #payloads data-live {
            section.panel { h2 { "Input" } (payload(&view["input"])) }
            @match view.get("output").filter(|_| shown.is_current()) {
                Some(output) => section.panel { h2 { "Output" } (payload(output)) },
                None => {},
            }
        }
        (history(shown))
    }
}

/// The instances that it called.
fn children(shown: &Shown) -> Markup {
    let children = shown.view["children"].as_array().filter(|_| shown.is_current()).map_or(&[][..], Vec::as_slice);
    html! {
        section #children data-live aria-labelledby="children-title" hidden[children.is_empty()] {
            h2 #children-title { (count(children.len() as u64, "instance")) " called by it" }
            ul.waits {
                @for child in children {
                    li {
                        span.kind.k-orchestration { "#" (child["operation"]) }
                        a href=(instance_href(text(child, "id"))) { (text(child, "id")) }
                        span.dim { (text(child, "orchestration")) }
                        @match child["status"].as_str() { Some(status) => (badge(status)), None => span.dim { "not there" } }
                    }
                }
            }
        }
    }
}

fn executions(shown: &Shown) -> Markup {
    let first = shown.latest.saturating_sub(9).max(1);
    html! {
        @if first > 1 { a href=(format!("{}?execution=1", instance_href(&shown.id))) { "1" } " … " }
        @for number in first..=shown.latest {
            a href=(format!("{}?execution={number}", instance_href(&shown.id))) aria-current=[(number == shown.execution).then_some("true")] { (number) }
        }
    }
}

/// What an instance waits for, and what keeps it waiting; a script says where in its
/// code.
fn waits(shown: &Shown) -> Markup {
    let pending = shown.view["pending"].as_array().map_or(&[][..], Vec::as_slice);
    html! {
        section.panel #waits data-live data-execution=(shown.execution) {
            h2 { "Waits for" }
            @if shown.status == Status::Suspended { p.warn { "It is suspended: what comes in is kept, nothing is run until it is resumed." } }
            @if pending.is_empty() { p.dim { "Nothing: it is about to run." } }
            ul.waits {
                @for wait in pending {
                    li data-operation=(wait["operation"]) { (wait_line(wait)) }
                }
            }
            @if let Some(untaken) = shown.view["untaken_events"].as_array().filter(|names| !names.is_empty()) {
                p.dim { "Events that came and were not taken yet: " (untaken.iter().filter_map(Value::as_str).collect::<Vec<_>>().join(", ")) }
            }
        }
    }
}

fn wait_line(wait: &Value) -> Markup {
    let name = text(wait, "name");
    let kind = text(wait, "kind");
    html! {
        span.kind .{ "k-" (kind) } { (kind) }
        @match kind {
            "activity" => {
                strong { (name) }
                " attempt " (wait["attempt"])
                @match wait["max_attempts"].as_u64() { Some(0) => {}, Some(most) => { " of " (most) }, None => {} }
                @match (wait["served"].as_bool(), text(wait, "state")) {
                    (Some(false), _) => span.warn { "no worker serves it in queue “" (text(wait, "queue")) "”" },
                    (_, "running") => span.ok { "running" @if !text(wait, "worker").is_empty() { " at " (text(wait, "worker")) } },
                    (_, "waiting") => span.dim { "waits for a slot in queue “" (text(wait, "queue")) "”" },
                    _ => {},
                }
                @if let Some(at) = wait["next_attempt_at"].as_str() { span { "next attempt " (until(at)) } }
                @if let Some(why) = wait["last_failure"].as_str() { span.bad.why { (why) } }
            },
            "timer" => { strong { "timer #" (wait["operation"]) } span { "fires " (until(text(wait, "fire_at"))) } },
            "start" => { strong { "its beginning" } span { (until(text(wait, "start_at"))) } },
            "event" => { strong { "event “" (name) "”" } span.dim { "nobody has raised it yet" } },
            _ => { strong { (name) } @if let Some(number) = wait["operation"].as_u64() { span.dim { "#" (number) } } },
        }
    }
}

/// What can be done to it, by where it stands.
fn actions(shown: &Shown) -> Markup {
    let named = |label| Field { name: "path", label, kind: Kind::Required };
    let value = |label| Field { name: "body", label, kind: Kind::Json };
    let raise = [named("Name of the event"), value("What it carries (JSON)")];
    let update = [named("Name of the update"), value("Input (JSON)")];
    let query = [named("Name of the query"), value("Input (JSON)")];
    let rewind =
        [Field { name: "force", label: "Also where it forgets calls that may have run", kind: Kind::Check }, REASON];
    let fork = [
        Field { name: "id", label: "Id of the new instance", kind: Kind::Required },
        Field { name: "at", label: "Last event to share", kind: Kind::Number },
    ];
    let restart = [Field { name: "id", label: "Under another id (none: its own)", kind: Kind::Text }];
    let action = |name, rest: &str, ask: &str, fields| Action {
        name,
        method: "POST",
        path: shown.api(rest),
        ask: ask.to_owned(),
        is_grave: false,
        fields,
        then: None,
    };
    let grave = |action| Action { is_grave: true, ..action };
    html! {
        @if shown.status == Status::Suspended {
            (action("Resume", "/resume", "Let it go on?", &[REASON]).button())
        }
        @if !shown.status.is_final() {
            (action("Raise event", "/events/", "It is kept until the instance takes it.", &raise).button())
            (action("Update", "/updates/", "Ask the instance for a change; the answer is shown.", &update).button())
        }
        (action("Query", "/queries/", "Ask the instance's code; nothing is changed.", &query).button())
        @if shown.status == Status::Running {
            (action("Suspend", "/suspend", "What comes in is kept, nothing is run until it is resumed.", &[REASON]).button())
        }
        @if shown.status == Status::Failed {
            (action("Rewind", "/rewind", "It goes on from before its last failed operation.", &rewind).button())
        }
        (action("Fork", "/fork", "A new instance shares the history up to an event and goes on by itself.", &fork).button())
        a.button.small href=(shown.api(&format!("/recording?execution={}&with_module=true", shown.execution)))
            download=(format!("{}.dacapo", shown.id)) title="Its history in a file that replays anywhere" { "Recording" }
        @if !shown.status.is_final() {
            (grave(action("Cancel", "/cancel", "Ask it to end; its code decides how.", &[REASON])).button())
            (grave(action("Terminate", "/terminate", "It ends at once. Nothing of it runs after that.", &[REASON])).button())
        } @else {
            (action("Restart", "/restart", "It runs again from its beginning, with the same input.", &restart).button())
            (Action { then: Some("/"), ..grave(action("Purge", "/purge", "It is removed with its history. This cannot be undone.", &[])) }.button())
        }
    }
}

/// The slider; a script asks for each position when it is opened.
fn replay(shown: &Shown) -> Markup {
    html! {
        details.panel #replay data-replay=(shown.api(&format!("/replay?execution={}", shown.execution))) {
            summary { h2 { "Step through it" } span.dim { "replayed in the sandbox, without any effect" } }
            div.stepper {
                button.small type="button" data-step="-1" aria-label="One event back" { "‹" }
                input #replay-at type="range" min="0" max=(shown.events().len()) value=(shown.events().len()) aria-label="Event" aria-describedby="replay-position";
                button.small type="button" data-step="1" aria-label="One event forward" { "›" }
                span #replay-position { "" }
                label { span.dim { "in " } select #replay-module aria-label="Module" {
                    option value="" { "the module it ran in" }
                    @for version in &shown.versions { option value=(version) { (version) } }
                } }
            }
            p.problem role="alert" hidden {}
            div #replay-view aria-live="polite" {}
        }
    }
}

fn history(shown: &Shown) -> Markup {
    let events = shown.events();
    let start = events.first().map_or(0, |event| millis(text(event, "at")));
    let next = shown.history["next"].as_u64().unwrap_or(1);
    let total = if shown.is_current() { shown.view["events"].as_u64().unwrap_or(0) } else { next.saturating_sub(1) };
    html! {
        section #history data-logs=(shown.api(&format!("/logs?execution={}", shown.execution))) aria-labelledby="history-title" {
            div.head {
                h2 #history-title { "History" }
                div.head-end {
                    input #search type="search" placeholder="Search events, payloads, logs" aria-label="Search the history" data-search;
                    label.check { input #show-logs type="checkbox" checked; " Guest logs" }
                    button.small type="button" #unfold aria-pressed="false" { "Unfold all" }
                }
            }
            p.dim #log-note hidden {}
            @if events.is_empty() { (empty("Nothing has happened here yet.", &html! {})) }
            ol.events #events data-live {
                @for event in events { (event_row(event, start)) }
            }
            @if total >= next {
                p { (count(total + 1 - next, "more event")) ": " a href=(format!("{}?execution={}&from={next}", instance_href(&shown.id), shown.execution)) { "go on from event " (next) } }
            }
        }
    }
}

/// An event of a history, folded.
pub(super) fn event_row(event: &Value, start: u64) -> Markup {
    let number = event["event"].as_u64().unwrap_or(0);
    let kind = text(event, "kind");
    let mut details = event.clone();
    if let Some(fields) = details.as_object_mut() {
        for name in ["event", "turn", "at", "kind", "summary"] {
            fields.shift_remove(name);
        }
    }
    html! {
        li .event .(tone(kind)) id=(format!("e{number}")) data-event=(number) data-turn=(event["turn"]) {
            details {
                summary {
                    span.n { (number) }
                    time datetime=(text(event, "at")) title=(text(event, "at")) { "+" (duration(millis(text(event, "at")).saturating_sub(start))) }
                    span.what { (kind.replace('-', " ")) }
                    span.line { (text(event, "summary")) }
                }
                (payload(&details))
            }
        }
    }
}

/// The colour of an event: what came, what was asked for, what went wrong, the end.
fn tone(kind: &str) -> &'static str {
    match kind {
        "failed" | "activity-failed" | "activity-attempt-failed" | "operation-refused" | "terminated" => "t-bad",
        "completed" | "activity-completed" => "t-ok",
        "execution-started" | "continued-as-new" | "rewound" | "suspended" | "resumed" | "module-migrated" => "t-life",
        kind if kind.ends_with("-completed") => "t-ok",
        kind if kind.ends_with("-failed") => "t-bad",
        "timer-fired" | "event-raised" | "event-raised-once" | "cancel-requested" | "request-received" => "t-in",
        _ => "t-out",
    }
}
