//! Signing in: a token in, a cookie out that only this host gets and no script reads.
//!
//! The cookie is the token itself, so a host that was restarted knows it and one that
//! revoked it does not. It is sent by requests of this host's own pages alone
//! (`SameSite=Strict`), and what changes something must say that it comes from one
//! (see [`check_origin`](super::super::access::check_origin)).

use axum::body::Bytes;
use axum::http::{HeaderMap, HeaderValue, StatusCode, Uri, header};
use axum::response::{IntoResponse, Redirect, Response};
use maud::{Markup, html};
use serde::Deserialize;
use serde_json::json;

use super::super::Query;
use super::super::access::{COOKIE, Caller, Scoped};
use super::super::problem::Problem;
use super::{Part, respond};

/// A working week and the next Monday.
const COOKIE_SECONDS: u32 = 8 * 24 * 3600;

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
pub(super) struct Next {
    /// Where to go then.
    #[serde(default)]
    next: String,
}

#[derive(Deserialize)]
struct Form {
    token: String,
    #[serde(default)]
    next: String,
}

/// Leads whoever has no token to where it can be given.
pub(in super::super) fn to_sign_in(from: &Uri) -> Response {
    let next = from.path_and_query().map_or("/", |path| path.as_str());
    Redirect::to(&super::super::paths::with_query("/ui/sign-in", &json!({ "next": next }))).into_response()
}

pub(super) async fn page(Scoped(api): Scoped, Query(query): Query<Next>) -> Response {
    respond(Part::SignIn, "access", None, Ok(body(api.caller(), &query.next, None)))
}

pub(super) async fn sign_in(Scoped(api): Scoped, headers: HeaderMap, body_bytes: Bytes) -> Response {
    let form = String::from_utf8(body_bytes.to_vec()).ok().and_then(|text| read_form(&text));
    let Some(form) = form else { return Problem::invalid("expected a form with a token").into_response() };
    if let Err(problem) = api.access().check_token(form.token.trim()) {
        let markup = body(&Caller::Stranger, &form.next, Some(&problem));
        return (StatusCode::UNAUTHORIZED, respond(Part::SignIn, "access", None, Ok(markup))).into_response();
    }
    let cookie = cookie(form.token.trim(), COOKIE_SECONDS, &headers);
    with_cookie(Redirect::to(own_path(&form.next)), &cookie)
}

pub(super) async fn sign_out(headers: HeaderMap) -> Response {
    with_cookie(Redirect::to("/ui/sign-in"), &cookie("", 0, &headers))
}

fn read_form(text: &str) -> Option<Form> {
    // A form is written like a query.
    let uri: Uri = format!("/?{text}").parse().ok()?;
    axum::extract::Query::<Form>::try_from_uri(&uri).ok().map(|form| form.0)
}

/// A path of this host; whoever made the link may not lead elsewhere.
fn own_path(next: &str) -> &str {
    let is_own = next.starts_with('/') && !next.starts_with("//") && !next.contains(['\\', '\r', '\n']);
    if is_own { next } else { "/" }
}

/// Over TLS it is never sent without; a page says in its origin whether it came so.
fn cookie(token: &str, seconds: u32, headers: &HeaderMap) -> String {
    let origin = headers.get(header::ORIGIN).and_then(|origin| origin.to_str().ok()).unwrap_or_default();
    let secure = if origin.starts_with("https://") { "; Secure" } else { "" };
    format!("{COOKIE}={token}; Path=/; Max-Age={seconds}; HttpOnly; SameSite=Strict{secure}")
}

fn with_cookie(to: Redirect, cookie: &str) -> Response {
    let mut response = to.into_response();
    if let Ok(value) = HeaderValue::from_str(cookie) {
        response.headers_mut().insert(header::SET_COOKIE, value);
    }
    response
}

fn body(caller: &Caller, next: &str, problem: Option<&Problem>) -> Markup {
    html! {
        h1 { "Access" }
        @match caller {
            Caller::Operator => p.lead { "No token was made for this host: whoever reaches it may do everything." },
            Caller::Holder(token) => {
                p.lead {
                    "Signed in with the token " code { (token.id) }
                    @if !token.name.is_empty() { " (" (token.name) ")" }
                    " of the namespace " (token.namespace) ", for "
                    (token.scopes.iter().map(ToString::to_string).collect::<Vec<_>>().join(", ")) "."
                }
                form method="post" action="/ui/sign-out" { button type="submit" { "Sign out" } }
            }
            Caller::Stranger => {
                p.lead { "This host asks for a token. " code { "dacapo token create --scope operate" } " makes one." }
                @if let Some(problem) = problem { p.problem role="alert" { (problem.detail) } }
                form method="post" action="/ui/sign-in" {
                    input type="hidden" name="next" value=(next);
                    p {
                        label for="token" { "Token " }
                        input #token type="password" name="token" required autocomplete="current-password" autofocus;
                    }
                    button type="submit" { "Sign in" }
                }
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn nobody_is_led_elsewhere() {
        assert_eq!(own_path("/ui/host?x=1"), "/ui/host?x=1");
        for other in ["", "https://example.org", "//example.org", "/\\example.org", "ui"] {
            assert_eq!(own_path(other), "/", "{other}");
        }
    }

    #[test]
    fn a_cookie_is_for_this_host_alone() {
        let mut headers = HeaderMap::new();
        assert_eq!(cookie("t", 5, &headers), "dacapo_token=t; Path=/; Max-Age=5; HttpOnly; SameSite=Strict");
        headers.insert(header::ORIGIN, HeaderValue::from_static("https://here"));
        assert!(cookie("t", 5, &headers).ends_with("; Secure"));
    }
}
