//! The list of instances.

use std::collections::BTreeMap;

use axum::response::Response;
use maud::{Markup, html};
use serde::{Deserialize, Serialize};
use serde_json::json;

use super::super::access::Scoped;
use super::parts::{ago, badge, brief, empty, instance_href};
use super::{Part, respond};
use crate::core::summary::Status;
use crate::server::Problem;
use crate::server::Query;
use crate::server::api::{Api, ListQuery, Order, Result, blocking, timestamp};
use crate::server::listing::Listed;
use crate::server::paths::with_query;
use crate::store::{Module, ModuleKind};

const ROWS: usize = 50;

/// What the page is asked with: as the form sends it, empty fields included.
#[derive(Clone, Debug, Default, Serialize, Deserialize)]
#[serde(deny_unknown_fields, default)]
pub(super) struct Asked {
    #[serde(skip_serializing_if = "String::is_empty")]
    status: String,
    #[serde(skip_serializing_if = "String::is_empty")]
    prefix: String,
    #[serde(skip_serializing_if = "String::is_empty")]
    orchestration: String,
    #[serde(skip_serializing_if = "String::is_empty")]
    module: String,
    /// `name=value`, several with blanks between.
    #[serde(skip_serializing_if = "String::is_empty")]
    tags: String,
    #[serde(skip_serializing_if = "String::is_empty")]
    from: String,
    #[serde(skip_serializing_if = "String::is_empty")]
    before: String,
    #[serde(skip_serializing_if = "String::is_empty")]
    after: String,
}

pub(super) async fn page(Scoped(api): Scoped, Query(asked): Query<Asked>) -> Response {
    let body = blocking(move || render(&api, &asked)).await;
    respond(Part::Instances, "Instances", Some(""), body)
}

impl Asked {
    fn query(&self) -> Result<ListQuery> {
        let given = |text: &str| Some(text.trim().to_owned()).filter(|text| !text.is_empty());
        let status = given(&self.status).map(|status| status.parse()).transpose().map_err(Problem::invalid)?;
        let tags = self.tags()?;
        Ok(ListQuery {
            status,
            orchestration: given(&self.orchestration),
            prefix: given(&self.prefix),
            after: given(&self.after),
            limit: Some(ROWS),
            module: given(&self.module),
            tags: (!tags.is_empty()).then(|| json!(tags).to_string()),
            created_from: given(&self.from).map(|at| instant(&at)).transpose()?,
            created_before: given(&self.before).map(|at| instant(&at)).transpose()?,
            order: Order::Newest,
            counts: true,
        })
    }

    fn tags(&self) -> Result<BTreeMap<String, String>> {
        let pair = |pair: &str| {
            let pair = pair.split_once('=').map(|(name, value)| (name.to_owned(), value.to_owned()));
            pair.ok_or_else(|| Problem::invalid(format!("tags: {:?} is no tag: expected name=value", self.tags)))
        };
        self.tags.split_whitespace().map(pair).collect()
    }

    /// What the bulk action is to be told.
    fn selection(&self) -> Result<serde_json::Value> {
        let query = self.query()?;
        let mut selection = json!({
            "status": query.status,
            "orchestration": query.orchestration,
            "prefix": query.prefix,
            "module": query.module,
            "created_from": query.created_from,
            "created_before": query.created_before,
            "tags": self.tags()?,
        });
        if let Some(fields) = selection.as_object_mut() {
            fields.retain(|_, value| !value.is_null() && *value != json!({}));
        }
        Ok(selection)
    }

    fn href(&self, change: impl FnOnce(&mut Self)) -> String {
        let mut asked = Self { after: String::new(), ..self.clone() };
        change(&mut asked);
        with_query("/", &asked)
    }

    fn is_filtered(&self) -> bool {
        self.href(|asked| asked.status.clear()) != "/"
    }
}

/// A day stands for its first moment, and a time without a zone is UTC.
fn instant(text: &str) -> Result<String> {
    let whole = if text.len() == 10 { format!("{text}T00:00:00Z") } else { text.to_owned() };
    let with_zone = if whole.len() == 16 { format!("{whole}:00Z") } else { whole };
    timestamp(&with_zone).map(|_| with_zone)
}

fn render(api: &Api, asked: &Asked) -> Result<Markup> {
    let listed = api.page(asked.query()?)?;
    let modules = api.own_modules()?;
    let counts = listed.counts.clone().unwrap_or_default();
    let all = if counts.complete { counts.total.to_string() } else { format!("{}+", counts.total) };
    Ok(html! {
        div.head {
            h1 { "Instances" }
            div.head-end {
                button type="button" data-picks="recording-file" title="Look at a file that was recorded elsewhere, or drop it anywhere on the page" { "Open a recording" }
                input #recording-file type="file" aria-label="Recording" hidden data-recording;
                (bulk(asked)?)
                a.button.primary href="/ui/start" { "Start" }
            }
        }
        nav.tabs #tabs aria-label="Status" data-live {
            a href=(asked.href(|a| a.status.clear())) aria-current=[asked.status.is_empty().then_some("true")] {
                "All " span.n { (all) }
            }
            @for status in Status::ALL {
                a .{ "is-" (status) } href=(asked.href(|a| a.status = status.to_string()))
                    aria-current=[(asked.status == status.to_string()).then_some("true")] {
                    (capital(&status.to_string())) " " span.n { (counts.of(status)) }
                }
            }
        }
        (filters(asked, &modules))
        div #rows data-live {
            @if listed.rows.is_empty() && asked.is_filtered() {
                (empty("No instance matches.", &html! { a href="/" { "Show all" } }))
            } @else if listed.rows.is_empty() {
                (empty("There is no instance here.", &html! {
                    @if modules.is_empty() {
                        "Upload a module: " code { "dacapo upload PATH" } ", or " code { "dacapo new NAME" } " for a project to begin with."
                    } @else { a href="/ui/start" { "Start one" } "." }
                }))
            } @else {
                (table(&listed, &modules))
            }
            @if listed.next.is_some() || !asked.after.is_empty() {
                nav.pager aria-label="Pages" {
                    @if !asked.after.is_empty() { a href=(asked.href(|_| ())) { "Newest" } }
                    @if let Some(next) = &listed.next { a rel="next" href=(asked.href(|a| a.after.clone_from(next))) { "Older" } }
                }
            }
        }
    })
}

fn table(listed: &Listed, modules: &[Module]) -> Markup {
    html! {
        div.scroll tabindex="0" role="region" aria-label="Instances" {
            table.rows {
                thead { tr {
                    th scope="col" { "Status" } th scope="col" { "Id" } th scope="col" { "Orchestration" }
                    th.wide scope="col" { "Says" } th.num scope="col" { "Events" }
                    th scope="col" { "Created" } th scope="col" { "Changed" }
                } }
                tbody {
                    @for row in &listed.rows {
                        @let version = modules.iter().find(|module| module.hash == row.module);
                        tr {
                            td { (badge(&row.status.to_string())) }
                            td { a.id href=(instance_href(row.instance.local())) { (row.instance) } }
                            td {
                                (row.orchestration)
                                @if let Some(module) = version { span.dim.version title=(module.local_name()) { "@" (module.version) } }
                            }
                            td.wide { (says(row)) }
                            td.num { (row.events) @if row.execution > 1 { span.dim title="execution" { " ×" (row.execution) } } }
                            td.time { (ago(&row.created_at.to_string())) }
                            td.time { (ago(&row.updated_at.to_string())) }
                        }
                    }
                }
            }
        }
    }
}

/// Its failure, or what it wants people to see.
fn says(row: &crate::core::summary::Summary) -> Markup {
    let status = row.custom_status.as_ref().and_then(|status| status.to_json());
    html! {
        @match (&row.error, status) {
            (Some(error), _) if row.status == Status::Failed => span.bad { (crate::core::payload::shortened(error, 140)) },
            (Some(error), _) => span.dim { (crate::core::payload::shortened(error, 140)) },
            (None, Some(status)) => { (brief(&status)) },
            (None, None) => {},
        }
    }
}

fn filters(asked: &Asked, modules: &[Module]) -> Markup {
    let orchestrations = modules.iter().filter(|module| module.kind == ModuleKind::Orchestration);
    let mut names: Vec<&str> =
        orchestrations.clone().flat_map(|module| &module.offers).map(|offer| offer.name.as_str()).collect();
    names.sort_unstable();
    names.dedup();
    let versions: Vec<String> = orchestrations.map(|module| module.called()).collect();
    html! {
        form.filters method="get" action="/" role="search" aria-label="Filter" data-submits {
            @if !asked.status.is_empty() { input type="hidden" name="status" value=(asked.status); }
            label { span { "Id begins" } input type="search" name="prefix" value=(asked.prefix) placeholder="order-" autocomplete="off" accesskey="/" data-search; }
            label { span { "Orchestration" } select name="orchestration" {
                option value="" { "any" }
                @for name in names { option value=(name) selected[*name == *asked.orchestration] { (name) } }
            } }
            label { span { "Version" } select name="module" {
                option value="" { "any" }
                @for version in &versions { option value=(version) selected[*version == asked.module] { (version) } }
            } }
            label { span { "Tags" } input name="tags" value=(asked.tags) placeholder="region=eu" autocomplete="off"; }
            label { span { "From" } input type="date" name="from" value=(asked.from); }
            label { span { "Before" } input type="date" name="before" value=(asked.before); }
            button type="submit" { "Filter" }
            @if asked.is_filtered() { a.button.quiet href=(with_query("/", &Asked { status: asked.status.clone(), ..Asked::default() })) { "Clear" } }
        }
    }
}

/// One action on all that match; scripts count them first.
fn bulk(asked: &Asked) -> Result<Markup> {
    let selection = asked.selection()?;
    let meant = match selection.as_object().is_none_or(serde_json::Map::is_empty) {
        true => "all instances".to_owned(),
        false => format!("instances that match {}", describe(&selection)),
    };
    Ok(html! {
        button type="button" data-opens="bulk" { "Many at once" }
        dialog #bulk aria-labelledby="bulk-title" {
            form method="dialog" data-bulk=(selection) {
                h2 #bulk-title { "Many at once" }
                p { "To " strong { (meant) } ":" }
                div.field {
                    label for="bulk-action" { "Action" }
                    select #bulk-action name="action" {
                        @for (action, what) in [
                            ("cancel", "Cancel: ask them to end"), ("terminate", "Terminate: end them at once"),
                            ("suspend", "Suspend: hold them"), ("resume", "Resume: let them go on"),
                            ("rewind", "Rewind: from before the last failure"), ("restart", "Restart: from the beginning"),
                            ("purge", "Purge: remove them with their histories"),
                        ] { option value=(action) { (what) } }
                    }
                }
                div.field { label for="bulk-reason" { "Reason (recorded)" } input #bulk-reason name="reason" autocomplete="off"; }
                p.count aria-live="polite" { "" }
                p.problem role="alert" hidden {}
                div.dialog-end {
                    button type="button" data-closes { "Back" }
                    button.primary.grave type="submit" disabled { "Do it" }
                }
            }
        }
    })
}

fn describe(selection: &serde_json::Value) -> String {
    let condition = |(name, value): (&String, &serde_json::Value)| match value {
        serde_json::Value::String(text) => format!("{} {text}", name.replace('_', " ")),
        serde_json::Value::Object(tags) => tags
            .iter()
            .map(|(name, value)| format!("{name}={}", value.as_str().unwrap_or("")))
            .collect::<Vec<_>>()
            .join(" and "),
        other => other.to_string(),
    };
    selection.as_object().into_iter().flatten().map(condition).collect::<Vec<_>>().join(", ")
}

fn capital(word: &str) -> String {
    let mut letters = word.chars();
    letters.next().map_or_else(String::new, |first| first.to_uppercase().chain(letters).collect())
}
