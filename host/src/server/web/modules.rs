//! Modules: their versions, what they offer, and who needs them.

use axum::response::Response;
use maud::{Markup, html};
use serde_json::json;

use super::super::access::Scoped;
use super::parts::{Action, ago, bytes, empty};
use super::{Part, respond};
use crate::engine::versions::{Usage, usage};
use crate::server::api::{Api, Result, blocking};
use crate::server::paths::with_query;
use crate::store::{Module, ModuleKind};

pub(super) async fn page(Scoped(api): Scoped) -> Response {
    let body = blocking(move || render(&api)).await;
    respond(Part::Modules, "Modules", None, body)
}

fn render(api: &Api) -> Result<Markup> {
    let mut modules = api.own_modules()?;
    // The versions of a name stand together, the last uploaded first.
    modules.sort_by(|a, b| a.name.cmp(&b.name).then(b.uploaded_at.cmp(&a.uploaded_at)));
    let usage = usage(&**api.store())?;
    Ok(html! {
        div.head { h1 { "Modules" } div.head-end { (upload()) } }
        div #modules data-live {
            @if modules.is_empty() {
                (empty("There is no module here.", &html! { "Upload one above, or with " code { "dacapo upload PATH" } "." }))
            }
            @for module in &modules { (card(module, usage.get(&module.hash).unwrap_or(&Usage::default()))) }
        }
    })
}

fn card(module: &Module, used: &Usage) -> Markup {
    let called = module.called();
    let is_orchestration = module.kind == ModuleKind::Orchestration;
    let body = json!({ "module": module.hash }).to_string();
    let short = module.hash.short();
    let action = |name: &'static str, path: &str, ask: String, is_grave| Action {
        name,
        method: "POST",
        path: format!("/api/v1/modules/{path}#{body}"),
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
            ul.offers {
                @for offer in &module.offers {
                    li {
                        @if is_orchestration {
                            a href=(with_query("/ui/start", &json!({ "orchestration": offer.name, "module": called }))) { (offer.name) }
                        } @else { code { (offer.name) } @if !used.serves.contains(&offer.name) { span.dim { " served by a later module" } } }
                        @if !offer.description.is_empty() { span.dim { (offer.description.lines().next().unwrap_or_default()) } }
                    }
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
