//! A recording that somebody drops on the page: looked at, and not kept. Nothing here
//! touches the store or the engine, so it may come from anywhere.

use axum::Router;
use axum::extract::DefaultBodyLimit;
use axum::response::Response;
use axum::routing::post;
use maud::{Markup, html};
use serde_json::Value;

use super::instance::event_row;
use super::parts::{ago, badge, count, duration, payload, text};
use super::timeline::{Timeline, millis};
use super::{Part, respond};
use crate::core::event::Event;
use crate::core::namespace::shown;
use crate::core::summary::Status;
use crate::core::turn::{TurnRecord, final_outcome};
use crate::replay::recording::Recording;
use crate::server::api::{Api, Result, blocking, events_of};
use crate::server::problem::Problem;
use crate::server::{Body, MODULE_BYTES};

/// More events are not drawn; the rest is a matter for `dacapo debug`.
const EVENTS: usize = 5000;

pub(super) fn routes() -> Router<Api> {
    // Its module may be in it, and its history beside that.
    Router::new().route("/ui/recording", post(open)).layer(DefaultBodyLimit::max(2 * MODULE_BYTES))
}

async fn open(Body(bytes): Body) -> Response {
    let body = blocking(move || render(&bytes)).await;
    respond(Part::Instances, "Recording", None, body)
}

fn render(bytes: &[u8]) -> Result<Markup> {
    let recording = Recording::decode(bytes).map_err(|error| Problem::invalid(error.to_string()))?;
    let records = recording.records().map_err(|error| Problem::invalid(error.to_string()))?;
    let all = records.iter().map(|record| record.events.len()).sum::<usize>();
    let events = events_of(&records, EVENTS);
    let Some(Event::ExecutionStarted(started)) = records.first().and_then(|first| first.events.first()) else {
        return Err(Problem::invalid("the recording does not begin with a start; fetch it again"));
    };
    let (start, end) = (events.first().map_or(0, at), events.last().map_or(0, at));
    let status = status(&records);
    Ok(html! {
        p.crumbs { a href="/" { "Instances" } " / recording" }
        div.head {
            h1.id { (shown(&recording.instance)) }
            (badge(&status.to_string()))
            div.head-end.dim { "from a recording: nothing of it is kept here" }
        }
        dl.facts {
            div { dt { "Orchestration" } dd { (started.orchestration) } }
            div { dt { "Module" } dd { code { (recording.module_hash.short()) } (if recording.module.is_some() { " (inside)" } else { " (not inside)" }) } }
            div { dt { "Execution" } dd { (recording.execution) } }
            div { dt { "Created" } dd { (ago(&started.created_at.to_string())) } }
            div { dt { "From start to end" } dd { (duration(end.saturating_sub(start))) } }
            div { dt { "Events" } dd { (all) } }
        }
        section #timeline aria-label="Timeline" { (Timeline::of(&events, end, false).render()) }
        section.panel { h2 { "Input" } (payload(&serde_json::to_value(&started.input).unwrap_or_default())) }
        section #history aria-labelledby="history-title" {
            div.head {
                h2 #history-title { "History" }
                div.head-end {
                    input #search type="search" placeholder="Search events and payloads" aria-label="Search the history" data-search;
                    button.small type="button" #unfold aria-pressed="false" { "Unfold all" }
                }
            }
            ol.events #events { @for event in &events { (event_row(event, start)) } }
            @if all > events.len() {
                p.dim { (count((all - events.len()) as u64, "more event")) ": " code { "dacapo debug FILE" } " has all of them." }
            }
        }
        p.dim { "To step through it or to replay it in another module: " code { "dacapo debug FILE" } ", " code { "dacapo replay FILE --module PATH" } "." }
    })
}

fn at(event: &Value) -> u64 {
    millis(text(event, "at"))
}

/// Where the instance stood when it was recorded.
fn status(records: &[TurnRecord]) -> Status {
    let last = records.iter().rev().find_map(|record| record.events.iter().rev().find(|event| counts(event)));
    match last {
        Some(Event::Completed { .. }) => Status::Completed,
        Some(Event::Failed { .. }) => Status::Failed,
        Some(Event::Terminated { .. }) => Status::Terminated,
        Some(Event::Suspended { .. }) => Status::Suspended,
        _ => Status::Running,
    }
}

fn counts(event: &Event) -> bool {
    final_outcome(event).is_some() || matches!(event, Event::Suspended { .. } | Event::Resumed { .. })
}
