//! The host itself: what it does and what it has to do.

use axum::response::Response;
use maud::{Markup, html};
use serde_json::Value;

use super::super::access::Scoped;
use super::parts::{bytes, count, duration, text};
use super::{Part, respond};
use crate::core::summary::Status;
use crate::server::api::{Api, Result, blocking};

pub(super) async fn page(Scoped(api): Scoped) -> Response {
    let body = blocking(move || render(&api)).await;
    respond(Part::Host, "Host", None, body)
}

fn render(api: &Api) -> Result<Markup> {
    let stats = api.stats()?;
    let number = |name: &str| stats[name].as_u64().unwrap_or(0);
    let (commits, turns) = (number("commits"), number("turns"));
    let per = |total: u64, count: u64| if count == 0 { 0.0 } else { total as f64 / count as f64 };
    let tile = |title: &str, value: &str, note: Markup, rate: Option<&str>| {
        html! { div.tile { dt { (title) } dd { strong data-rate=[rate] { (value) } span.dim { (note) } } } }
    };
    Ok(html! {
        div.head { h1 { "Host" } div.head-end.dim { "dacapo " (text(&stats, "version")) " · process " (stats["pid"]) " · up " (duration(number("uptime_ms"))) } }
        dl.tiles #tiles data-live data-stats {
            (tile("Commits per second", "–", html! { (commits) " since the start" }, Some("commits")))
            (tile("Turns per second", "–", html! { (turns) " since the start" }, Some("turns")))
            (tile("Turns per commit", &format!("{:.1}", per(turns, commits)), html! { "most: " (number("largest_commit")) }, None))
            (tile("A commit takes", &format!("{:.2} ms", per(number("commit_us"), commits) / 1000.0), html! { (bytes(number("turn_bytes"))) " written" }, None))
            (tile("Guests in memory", &number("resident_guests").to_string(), html! { "of " (stats["instances"]["running"].as_u64().unwrap_or(0)) " that run" }, None))
            (tile("Tasks", &format!("{} running", number("tasks_running")), html! { (number("tasks_waiting")) " waiting, " (number("tasks_unserved")) " not served" }, None))
            (tile("Timers", &number("timers").to_string(), html! {
                @match stats["next_timer_in_ms"].as_u64() { Some(0) => "one is due now", Some(ms) => { "the next in " (duration(ms)) }, None => "nothing waits for a time" }
            }, None))
            (tile("On the disk", &stats["disk_bytes"].as_u64().map_or("?".to_owned(), bytes), html! { @if let Some(folder) = api.folder() { (folder.display()) } }, None))
            (tile("Watching", &number("change_listeners").to_string(), html! { (count(number("workers"), "worker")) ", " (count(number("schedules"), "schedule")) }, None))
        }
        h2 { "Instances" }
        (shares(&stats))
        h2 { "For programs" }
        p { a href="/api/v1/openapi.json" { "OpenAPI description" } " · " a href="/api/v1/stats" { "these numbers as JSON" } " · " a href="/api/v1/ready" { "readiness" } " · " a href="/metrics" { "metrics" } }
    })
}

/// One bar, as wide as the page, that the statuses share.
fn shares(stats: &Value) -> Markup {
    let total = stats["instances_total"].as_u64().unwrap_or(0).max(1) as f64;
    let of = |status: Status| stats["instances"][status.to_string()].as_u64().unwrap_or(0);
    let mut end = 0.0;
    let part = |status: Status| {
        let width = of(status) as f64 * 100.0 / total;
        end += width;
        (status, end - width, width)
    };
    let parts: Vec<_> = Status::ALL.into_iter().map(part).collect();
    html! {
        div #shares data-live {
            svg.shares width="100%" height="18" role="img" aria-label="Instances by status" {
                @for (status, x, width) in &parts {
                    rect .{ "f-" (status) } x=(format!("{x:.3}%")) width=(format!("{width:.3}%")) height="18" {}
                }
            }
            ul.legend { @for status in Status::ALL { li { a href=(format!("/?status={status}")) { span.dot .{ "f-" (status) } {} (status) " " strong { (of(status)) } } } } }
        }
    }
}
