//! A form for each orchestration, made from the schema of its input.

use axum::response::Response;
use maud::{Markup, html};
use serde::Deserialize;

use super::super::access::Scoped;
use super::parts::empty;
use super::{Part, respond};
use crate::engine::versions::default_among;
use crate::server::api::{Api, Result, blocking};
use crate::server::{Problem, Query};
use crate::store::{Module, ModuleKind, Offer};

#[derive(Clone, Debug, Default, Deserialize)]
#[serde(deny_unknown_fields, default)]
pub(super) struct Asked {
    orchestration: String,
    module: String,
}

pub(super) async fn page(Scoped(api): Scoped, Query(asked): Query<Asked>) -> Response {
    let body = blocking(move || render(&api, &asked)).await;
    respond(Part::Start, "Start", None, body)
}

/// What can be started: each orchestration of each version, the defaults first.
pub(super) fn offered(modules: &[Module]) -> Vec<(&Module, &Offer, bool)> {
    let orchestrations = modules.iter().filter(|module| module.kind == ModuleKind::Orchestration);
    let mut offered: Vec<_> = orchestrations
        .flat_map(|module| {
            let versions = modules.iter().filter(|other| other.name == module.name && other.kind == module.kind);
            let is_default = default_among(versions).is_some_and(|default| default.hash == module.hash);
            module.offers.iter().map(move |offer| (module, offer, is_default))
        })
        .collect();
    offered.sort_by(|a, b| (!a.2, &a.1.name).cmp(&(!b.2, &b.1.name)));
    offered
}

fn render(api: &Api, asked: &Asked) -> Result<Markup> {
    let modules = api.own_modules()?;
    let offered = offered(&modules);
    if offered.is_empty() {
        return Ok(html! {
            h1 { "Start" }
            (empty("No module offers an orchestration.", &html! { "Upload one: " code { "dacapo upload PATH" } ", or on the page " a href="/ui/modules" { "modules" } "." }))
        });
    }
    let is_asked = |module: &Module| asked.module.is_empty() || module.called() == asked.module;
    let chosen = offered.iter().find(|(module, offer, _)| offer.name == asked.orchestration && is_asked(module));
    let chosen = match chosen {
        Some(chosen) => chosen,
        None if asked.orchestration.is_empty() => &offered[0],
        None => {
            return Err(Problem::new(
                "unknown-orchestration",
                format!("no module here offers {:?}", asked.orchestration),
            ));
        }
    };
    let (module, offer, is_default) = chosen;
    Ok(html! {
        h1 { "Start" }
        div.two.start {
            nav.panel.choices aria-label="Orchestrations" {
                @for (module, offer, is_default) in &offered {
                    @let version = module.called();
                    @let href = crate::server::paths::with_query("/ui/start", &serde_json::json!({ "orchestration": offer.name, "module": version }));
                    a href=(href) aria-current=[(offer.name == chosen.1.name && module.hash == chosen.0.hash).then_some("true")] {
                        strong { (offer.name) } span.dim { (version) @if !is_default { " · not the default" } }
                    }
                }
            }
            form.panel #start data-orchestration=(offer.name) data-module=[(!is_default).then(|| module.called())] {
                h2 { (offer.name) }
                @if !offer.description.is_empty() { p.dim { (offer.description) } }
                div.field { label for="start-id" { "Id " span.dim { "(a fresh one is made if it is empty)" } } input #start-id name="id" autocomplete="off" maxlength="200"; }
                div.input-head { h3 #input-title { "Input" } button.small.quiet type="button" #as-json aria-pressed="false" { "As JSON" } }
                div #form aria-labelledby="input-title" role="group" data-schema=(offer.input_schema.as_deref().unwrap_or("true")) {}
                div #raw hidden { textarea name="input" rows="10" spellcheck="false" aria-labelledby="input-title" { "null" } }
                details.more {
                    summary { "More" }
                    div.field { label for="start-tags" { "Tags, as name=value" } input #start-tags name="tags" autocomplete="off" placeholder="region=eu desk=3"; }
                    div.field { label for="start-at" { "Begin at (UTC)" } input #start-at type="datetime-local" name="start_at"; }
                    div.field { label for="start-reuse" { "If the id is taken" } select #start-reuse name="reuse" {
                        option value="reject" { "refuse" } option value="return-existing" { "take the one that is there" }
                        option value="replace-finished" { "replace it if it has ended" } option value="terminate-and-replace" { "end it and replace it" }
                    } }
                }
                p.problem role="alert" hidden {}
                div.dialog-end { button.primary type="submit" { "Start" } }
            }
        }
    })
}
