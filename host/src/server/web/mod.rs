//! The web page: what the API tells, for people. Rendered here, as HTML that works
//! without scripts; `assets/app.js` keeps it live, asks before it acts, and builds
//! forms. Nothing is fetched from anywhere else: a content security policy says so.
//!
//! | path | |
//! |---|---|
//! | `GET /` | instances |
//! | `GET /ui/instances/{id}?execution=&from=` | one of them |
//! | `GET /ui/start` | a form for each orchestration |
//! | `GET /ui/modules?check=`, `/ui/schedules`, `/ui/queues`, `/ui/host` | |
//! | `POST /ui/recording` | a recording, looked at and not kept |
//! | `GET`, `POST /ui/sign-in`, `POST /ui/sign-out` | with a token, which a cookie holds then |
//! | `GET /assets/{name}` | |

mod host;
mod instance;
mod list;
mod modules;
mod parts;
mod queues;
mod recording;
mod schedules;
mod sign_in;
mod start;
mod timeline;

use axum::Router;
use axum::extract::{Path, Request};
use axum::http::{HeaderValue, StatusCode, header};
use axum::middleware::{self, Next};
use axum::response::{Html, IntoResponse, Response};
use axum::routing::{get, post};
use maud::{DOCTYPE, Markup, html};

pub(super) use self::sign_in::to_sign_in;
use super::api::Api;
use super::problem::{Problem, status_of};

/// What pages may load and do.
const POLICY: &str = "default-src 'none'; style-src 'self'; script-src 'self'; connect-src 'self'; img-src 'self' data:; \
                      form-action 'self'; base-uri 'none'; frame-ancestors 'none'";

/// The routes.
pub(super) fn routes(api: Api) -> Router {
    Router::new()
        .route("/", get(list::page))
        .route("/ui/instances/{id}", get(instance::page))
        .route("/ui/start", get(start::page))
        .route("/ui/modules", get(modules::page))
        .route("/ui/schedules", get(schedules::page))
        .route("/ui/queues", get(queues::page))
        .route("/ui/host", get(host::page))
        .merge(recording::routes())
        .route("/ui/sign-in", get(sign_in::page).post(sign_in::sign_in))
        .route("/ui/sign-out", post(sign_in::sign_out))
        .route("/assets/{name}", get(asset))
        .layer(middleware::from_fn(with_policy))
        .with_state(api)
}

async fn with_policy(request: Request, next: Next) -> Response {
    let mut response = next.run(request).await;
    let headers = response.headers_mut();
    let mut set = |name, value| {
        headers.entry(name).or_insert(HeaderValue::from_static(value));
    };
    set(header::CONTENT_SECURITY_POLICY, POLICY);
    set(header::X_CONTENT_TYPE_OPTIONS, "nosniff");
    set(header::REFERRER_POLICY, "same-origin");
    set(header::CACHE_CONTROL, "no-store");
    response
}

async fn asset(Path(name): Path<String>) -> Response {
    let (kind, text) = match name.as_str() {
        "app.css" => ("text/css; charset=utf-8", include_str!("assets/app.css")),
        "app.js" => ("text/javascript; charset=utf-8", include_str!("assets/app.js")),
        "form.js" => ("text/javascript; charset=utf-8", include_str!("assets/form.js")),
        "icon.svg" => ("image/svg+xml", include_str!("assets/icon.svg")),
        _ => return Problem::new("not-found", format!("there is no asset {name:?}")).into_response(),
    };
    // Small, and the same machine serves it: asked for each time, never stale.
    ([(header::CONTENT_TYPE, kind), (header::CACHE_CONTROL, "no-cache")], text).into_response()
}

/// The parts of the page, as the bar at the top has them.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Part {
    Instances,
    Start,
    Modules,
    Schedules,
    Queues,
    Host,
    SignIn,
}

const BAR: [(Part, &str, &str); 6] = [
    (Part::Instances, "/", "Instances"),
    (Part::Start, "/ui/start", "Start"),
    (Part::Modules, "/ui/modules", "Modules"),
    (Part::Schedules, "/ui/schedules", "Schedules"),
    (Part::Queues, "/ui/queues", "Queues"),
    (Part::Host, "/ui/host", "Host"),
];

/// A page, or a page about why there is none. `changes` is the query of the changes
/// after which it is rendered anew; none: it is looked at again now and then.
fn respond(part: Part, title: &str, changes: Option<&str>, body: Result<Markup, Problem>) -> Response {
    match body {
        Ok(body) => Html(layout(part, title, changes, &body).into_string()).into_response(),
        Err(problem) => {
            let body = html! {
                h1 { (problem.code.replace('-', " ")) }
                p.lead { (problem.detail) }
                p { a href="/" { "Back to the instances" } }
            };
            (status(&problem), Html(layout(part, &problem.code, None, &body).into_string())).into_response()
        }
    }
}

fn status(problem: &Problem) -> StatusCode {
    status_of(&problem.code)
}

fn layout(part: Part, title: &str, changes: Option<&str>, body: &Markup) -> Markup {
    html! {
        (DOCTYPE)
        html lang="en" {
            head {
                meta charset="utf-8";
                meta name="viewport" content="width=device-width, initial-scale=1";
                meta name="color-scheme" content="light dark";
                title { (title) " · dacapo" }
                link rel="icon" href="/assets/icon.svg" type="image/svg+xml";
                link rel="stylesheet" href="/assets/app.css";
                script src="/assets/app.js" defer {}
                @if part == Part::Start || part == Part::Schedules { script src="/assets/form.js" defer {} }
            }
            body data-changes=[changes] {
                a.skip href="#main" { "Skip to the content" }
                header.bar {
                    a.brand href="/" { span.mark aria-hidden="true" { "D.C." } "dacapo" }
                    nav aria-label="Parts" {
                        @for (one, href, name) in BAR {
                            a href=(href) aria-current=[(one == part).then_some("page")] { (name) }
                        }
                    }
                    div.bar-end {
                        span #live .live role="status" { "" }
                        a.quiet href="/ui/sign-in" aria-current=[(part == Part::SignIn).then_some("page")] { "Access" }
                        button #theme .quiet type="button" title="Light, dark, or as the system has it" { "Theme" }
                    }
                }
                main #main tabindex="-1" { (body) }
                div #toasts .toasts role="status" aria-live="polite" {}
            }
        }
    }
}
