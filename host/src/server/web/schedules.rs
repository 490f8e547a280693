//! Schedules: what starts by the calendar.

use axum::response::Response;
use maud::{Markup, html};
use serde_json::Value;

use super::super::access::Scoped;
use super::parts::{Action, REASON, ago, brief, duration, empty, instance_href, text, until};
use super::start::offered;
use super::{Part, respond};
use crate::server::api::{Api, Result, blocking};
use crate::server::paths::escaped;

pub(super) async fn page(Scoped(api): Scoped) -> Response {
    let body = blocking(move || render(&api)).await;
    respond(Part::Schedules, "Schedules", None, body)
}

fn render(api: &Api) -> Result<Markup> {
    let answer = api.schedules()?;
    let schedules = answer["schedules"].as_array().map_or(&[][..], Vec::as_slice);
    let modules = api.own_modules()?;
    let mut names: Vec<&str> = offered(&modules).into_iter().map(|(_, offer, _)| offer.name.as_str()).collect();
    names.dedup();
    Ok(html! {
        div.head { h1 { "Schedules" } div.head-end { (new(&names)) } }
        div #schedules data-live {
            @if schedules.is_empty() {
                (empty("Nothing starts by the calendar.", &html! { "Make a schedule above, or with " code { "dacapo schedule set" } "." }))
            } @else {
                div.scroll tabindex="0" role="region" aria-label="Schedules" { table.rows {
                    thead { tr {
                        th scope="col" { "Name" } th scope="col" { "When" } th scope="col" { "Starts" } th scope="col" { "Next" }
                        th scope="col" { "Last" } th.num scope="col" { "Started" } th.num scope="col" { "Left out" } th scope="col" { span.hidden { "Actions" } }
                    } }
                    tbody { @for schedule in schedules { (row(schedule)) } }
                } }
            }
        }
    })
}

fn row(schedule: &Value) -> Markup {
    let name = text(schedule, "name");
    let path = format!("/api/v1/schedules/{}", escaped(name));
    let is_paused = !schedule["paused"].is_null();
    let action = |what: &'static str, method, rest: &str, ask: String, fields| Action {
        name: what,
        method,
        path: format!("{path}{rest}"),
        ask,
        is_grave: method == "DELETE",
        fields,
        then: None,
    };
    let id = |what: &str| format!("{what}-{}", crate::core::ids::Hash::of(name.as_bytes()).short());
    html! {
        tr {
            td { strong { (name) } @if is_paused { " " span.badge.is-suspended { "paused" } } }
            td {
                @match schedule["cron"].as_str() {
                    Some(cron) => { code { (cron) } " " span.dim { (text(schedule, "time_zone")) } },
                    None => { "every " (duration(schedule["every_ms"].as_u64().unwrap_or(0))) },
                }
            }
            td { (text(schedule, "orchestration")) " " span.dim { (brief(&schedule["input"])) } }
            td {
                @match schedule["next"][0].as_str().filter(|_| !is_paused) { Some(at) => (until(at)), None => span.dim { "–" } }
            }
            td {
                @if let Some(last) = schedule["last"].as_str() { a.id href=(instance_href(last)) { (last) } }
                @if let Some(why) = schedule["last_error"].as_str() { " " span.bad { (why) } }
                @if is_paused { span.dim { (text(schedule, "paused")) } }
                @if schedule["last"].is_null() && !is_paused { span.dim { "made " (ago(text(schedule, "created_at"))) } }
            }
            td.num { (schedule["started"]) }
            td.num { (schedule["skipped"]) }
            td.actions {
                (action("Trigger", "POST", "/trigger", format!("{name} starts an instance now."), &[]).button_of(&id("trigger")))
                @if is_paused {
                    (action("Go on", "POST", "/unpause", format!("{name} goes on."), &[]).button_of(&id("unpause")))
                } @else {
                    (action("Pause", "POST", "/pause", format!("What comes due of {name} from here on is left out."), &[REASON]).button_of(&id("pause")))
                }
                (action("Delete", "DELETE", "", format!("{name} is forgotten. What it started goes on."), &[]).button_of(&id("delete")))
            }
        }
    }
}

fn new(orchestrations: &[&str]) -> Markup {
    html! {
        button.primary type="button" data-opens="new-schedule" { "New schedule" }
        dialog #new-schedule aria-labelledby="new-schedule-title" {
            form method="dialog" data-schedule {
                h2 #new-schedule-title { "New schedule" }
                div.field { label for="schedule-name" { "Name" } input #schedule-name name="name" required autocomplete="off"; }
                div.field { label for="schedule-orchestration" { "Starts" } select #schedule-orchestration name="orchestration" required {
                    @for name in orchestrations { option { (name) } }
                } }
                div.field { label for="schedule-when" { "When: cron, or every 10s, 5m, 1h, 1d" } input #schedule-when name="when" required placeholder="0 2 * * *" autocomplete="off"; }
                div.field { label for="schedule-zone" { "Time zone of a cron" } input #schedule-zone name="time_zone" placeholder="UTC" autocomplete="off"; }
                div.field { label for="schedule-input" { "Input (JSON)" } textarea #schedule-input name="input" rows="4" spellcheck="false" { "null" } }
                p.problem role="alert" hidden {}
                div.dialog-end { button type="button" data-closes { "Back" } button.primary type="submit" { "Make it" } }
            }
        }
    }
}
