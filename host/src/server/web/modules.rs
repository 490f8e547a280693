//! Modules: their versions, what they offer, and who needs them.

use axum::response::Response;
use maud::{Markup, html};
use serde::Deserialize;
use serde_json::{Value, json};

use super::super::access::Scoped;
use super::parts::{Action, ago, bytes, empty, instance_href, text};
use super::{Part, respond};
use crate::engine::upgrade::Scope;
use crate::engine::versions::{Usage, usage};
use crate::server::api::{Api, Result, blocking};
use crate::server::paths::with_query;
use crate::server::{Problem, Query};
use crate::store::{Module, ModuleKind};

/// More lines of a check are not shown.
const CHECKED: usize = 50;

#[derive(Clone, Debug, Default, Deserialize)]
#[serde(deny_unknown_fields)]
pub(super) struct Asked {
    /// The hash of a module that is to be checked against what runs.
    check: Option<String>,
}

pub(super) async fn page(Scoped(api): Scoped, Query(asked): Query<Asked>) -> Response {
    let body = blocking(move || render(&api, &asked)).await;
    respond(Part::Modules, "Modules", None, body)
}

fn render(api: &Api, asked: &Asked) -> Result<Markup> {
    let mut modules = api.own_modules()?;
    // The versions of a name stand together, the last uploaded first.
    modules.sort_by(|a, b| a.name.cmp(&b.name).then(b.uploaded_at.cmp(&a.uploaded_at)));
    let usage = usage(&**api.store())?;
    let checked = asked.check.as_deref().map(|hash| Ok::<_, Problem>((hash, check(api, &modules, hash)?)));
    let checked = checked.transpose()?;
    let report_of = |module: &Module| checked.as_ref().filter(|(hash, _)| *hash == module.hash.to_string());
    Ok(html! {
        div.head { h1 { "Modules" } div.head-end { (upload()) } }
        div #modules data-live {
            @if modules.is_empty() {
                (empty("There is no module here.", &html! { "Upload one above, or with " code { "dacapo upload PATH" } "." }))
            }
            @for module in &modules {
                (card(module, usage.get(&module.hash).unwrap_or(&Usage::default()), report_of(module).map(|(_, found)| found)))
            }
        }
    })
}

/// What came of replaying what runs against a module.
fn check(api: &Api, modules: &[Module], hash: &str) -> Result<Value> {
    let bytes = api.module_bytes(hash)?;
    let name =
        modules.iter().find(|module| module.hash.to_string() == hash).map(|module| module.local_name().to_owned());
    api.check(&bytes, &Scope { name, ..Scope::default() })
}

/// The upgrade check's result: what could go on with the module, and where the rest differs.
fn report(found: &Value) -> Markup {
    let lines = found["checked"].as_array().map_or(&[][..], Vec::as_slice);
    // Those that differ are what one looks for.
    let (same, others): (Vec<_>, Vec<_>) = lines.iter().partition(|line| line["result"] == "same");
    html! {
        section.check aria-label="Upgrade check" {
            p {
                strong { "Upgrade check: " }
                @if lines.is_empty() { "nothing of its name runs." } @else {
                    (found["same"]) " could go on with it, " (found["different"]) " could not."
                }
            }
            ul.waits {
                @for line in others.iter().chain(&same).take(CHECKED) {
                    li {
                        a href=(instance_href(text(line, "id"))) { (text(line, "id")) }
                        @if line["result"] == "same" { span.ok { "the same" } } @else {
                            span.bad.why { (text(line, "summary")) }
                            @if let Some(report) = line["report"].as_str() { pre tabindex="0" { (report) } }
                        }
                    }
                }
            }
            @if lines.len() > CHECKED { p.dim { (lines.len() - CHECKED) " more; " code { "dacapo check" } " shows all." } }
        }
    }
}

fn card(module: &Module, used: &Usage, checked: Option<&Value>) -> Markup {
    let called = module.called();
    let is_orchestration = module.kind == ModuleKind::Orchestration;
    let body = json!({ "module": module.hash }).to_string();
    // Of its own name only; others may offer an orchestration that is called the same.
    let moved = json!({ "module": module.hash, "name": module.local_name() }).to_string();
    let short = module.hash.short();
    let action = |name: &'static str, path: &str, ask: String, is_grave| Action {
        name,
        method: "POST",
        path: format!("/api/v1/modules/{path}#{}", if path == "migrate" { &moved } else { &body }),
        ask,
        is_grave,
        fields: &[],
        then: None,
    };
    html! {
        article.panel id=(format!("m-{short}")) {
            div.head {
                h2 { (module.local_name()) span.dim { "@" (module.version) } }
                span.badge { (if is_orchestration { "orchestrations" } else { "activities" }) }
                @if used.default { span.badge.is-completed title="New starts of its name take it" { "default" } }
                div.head-end.actions {
                    @if is_orchestration {
                        a.button.small href=(with_query("/ui/modules", &json!({ "check": module.hash })) + &format!("#m-{short}"))
                            title="Replay what runs against it; nothing is changed" { "Check" }
                        (action("Move instances", "migrate", format!("What runs of {} and replays the same in {called} goes on with it, all in one commit. The rest stays.", module.local_name()), true).button_of(&format!("migrate-{short}")))
                    }
                    @if is_orchestration && !used.default {
                        (action("Make default", "default", format!("New starts take {called}. What runs goes on with what it has."), false).button_of(&format!("default-{short}")))
                    }
                    (action("Remove", "remove", format!("{called} is removed. It is refused while something needs it."), true).button_of(&format!("remove-{short}")))
                }
            }
            p.dim {
                (bytes(module.size)) " · uploaded " (ago(&module.uploaded_at.to_string())) " · " code title=(module.hash) { (short) }
                @if is_orchestration {
                    " · " a href=(with_query("/", &json!({ "module": called, "status": "running" }))) { (used.running) " running" }
                    ", " (used.ended) " ended"
                }
                @if !used.schedules.is_empty() { " · schedules: " (used.schedules.join(", ")) }
            }
            @if let Some(found) = checked { (report(found)) }
            ul.offers {
                @for offer in &module.offers {
                    li {
                        @if is_orchestration {
                            a href=(with_query("/ui/start", &json!({ "orchestration": offer.name, "module": called }))) { (offer.name) }
                        } @else { code { (offer.name) } @if !used.serves.contains(&offer.name) { span.dim { " served by a later module" } } }
                        @if !offer.description.is_empty() { span.dim { (offer.description.lines().next().unwrap_or_default()) } }
                    }
                }
                @for entity in &module.entities {
                    @let operations: Vec<_> = entity.operations.iter().map(|offer| offer.name.as_str()).collect();
                    li { span.kind.k-event { "entity" } code { (entity.kind) } span.dim { (operations.join(", ")) } }
                }
                @for (kind, offers) in [("query", &module.queries), ("update", &module.updates)] {
                    @for offer in offers { li { span.kind.k-event { (kind) } code { (offer.name) } span.dim { (offer.description.lines().next().unwrap_or_default()) } } }
                }
            }
            @if !is_orchestration { (grants(module)) }
        }
    }
}

fn grants(module: &Module) -> Markup {
    let grants = &module.grants;
    let names = |names: Vec<&str>| if names.is_empty() { "nothing".to_owned() } else { names.join(", ") };
    html! {
        p.dim {
            "May reach " (names(grants.hosts.iter().map(String::as_str).collect()))
            "; sees the variables " (names(grants.env.keys().chain(grants.secrets.keys()).map(String::as_str).collect()))
            " and the folders " (names(grants.directories.iter().map(|folder| folder.guest.as_str()).collect())) "."
        }
    }
}

fn upload() -> Markup {
    html! {
        button.primary type="button" data-opens="upload" { "Upload" }
        dialog #upload aria-labelledby="upload-title" {
            form method="dialog" data-upload {
                h2 #upload-title { "Upload a module" }
                div.field { label for="upload-file" { "Component (.wasm)" } input #upload-file type="file" name="file" accept=".wasm" required; }
                div.field { label for="upload-name" { "Name" } input #upload-name name="name" required autocomplete="off"; }
                div.field { label for="upload-version" { "Version " span.dim { "(else the hash)" } } input #upload-version name="version" autocomplete="off"; }
                label.check { input type="checkbox" name="check" checked; " New starts take it only if what runs could go on with it" }
                p.problem role="alert" hidden {}
                div.dialog-end { button type="button" data-closes { "Back" } button.primary type="submit" { "Upload" } }
            }
        }
    }
}
