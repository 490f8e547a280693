//! Queues and the workers that serve them.

use axum::response::Response;
use maud::{Markup, html};
use serde_json::Value;

use super::super::access::Scoped;
use super::parts::{ago, empty, text, until};
use super::{Part, respond};
use crate::server::api::{Api, Result};

pub(super) async fn page(Scoped(api): Scoped) -> Response {
    respond(Part::Queues, "Queues and workers", None, render(&api))
}

fn render(api: &Api) -> Result<Markup> {
    let (queues, workers) = (api.queues()?, api.workers()?);
    let list = |value: &Value, name: &str| value[name].as_array().cloned().unwrap_or_default();
    let (queues, workers) = (list(&queues, "queues"), list(&workers, "workers"));
    Ok(html! {
        h1 { "Queues and workers" }
        div #queues data-live {
            @if queues.is_empty() { (empty("Nothing waits in a queue.", &html! { "Activities wait here while no slot or no worker is free." })) } @else {
                div.scroll tabindex="0" role="region" aria-label="Queues" { table.rows {
                    thead { tr {
                        th scope="col" { "Queue" } th.num scope="col" { "Waiting" } th.num scope="col" { "Running" } th scope="col" { "Waiting since" }
                        th scope="col" { "Bounds" } th.wide scope="col" { "Not served" }
                    } }
                    tbody { @for queue in &queues { tr {
                        td { strong { (text(queue, "name")) } }
                        td.num { (queue["waiting"]) }
                        td.num { (queue["running"]) }
                        td { @if let Some(since) = queue["waiting_since"].as_str() { (ago(since)) } @else { span.dim { "–" } } }
                        td { (bounds(&queue["settings"])) }
                        td.wide {
                            @for (name, count) in queue["unserved"].as_object().into_iter().flatten() {
                                p.warn { (count) " × " code { (name) } ": no worker serves it" }
                            }
                        }
                    } } }
                } }
            }
        }
        h2 { "Workers" }
        div #workers data-live {
            @if workers.is_empty() { (empty("No remote worker is there.", &html! { "This host runs uploaded activities by itself. Programs elsewhere fetch tasks over the worker API." })) }
            @for worker in &workers {
                article.panel {
                    div.head {
                        h3 { (text(worker, "name")) " " span.dim { (text(worker, "id")) } }
                        span.badge .is-running[worker["waiting"] == true] { @if worker["waiting"] == true { "waits for tasks" } @else { "busy or away" } }
                        div.head-end { span.dim { "seen " (ago(text(worker, "seen_at"))) } }
                    }
                    p { "Serves " @for name in worker["activities"].as_array().into_iter().flatten() { code { (name.as_str().unwrap_or("")) } " " }
                        span.dim { "in " (list(worker, "queues").iter().filter_map(Value::as_str).collect::<Vec<_>>().join(", ")) } }
                    ul.waits { @for task in worker["tasks"].as_array().into_iter().flatten() { li {
                        strong { (text(task, "activity")) } span.dim { (text(task, "task")) }
                        " attempt " (task["attempt"]) span { "lease " (until(text(task, "lease_until"))) }
                        @if task["cancelled"] == true { span.warn { "nobody waits for its result" } }
                    } } }
                }
            }
        }
    })
}

fn bounds(settings: &Value) -> Markup {
    let (most, rate) = (&settings["concurrency"], &settings["rate"]);
    html! {
        @if most.is_null() && rate.is_null() && settings["remote_only"] != true { span.dim { "none" } }
        @if !most.is_null() { "at most " (most) " at a time " }
        @if !rate.is_null() { (rate["tasks"]) " in " (rate["per_ms"]) " ms " }
        @if settings["remote_only"] == true { "remote workers only" }
    }
}
