//! Who asks, and whether they may: decided once for each request, before its handler.
//!
//! Without tokens in the data folder whoever reaches this host may do everything; it
//! listens on loopback only then. Once a token was made, every request must carry one:
//! `authorization: Bearer ..`, or the cookie that the sign-in of the page sets. What a
//! route needs is said in [`OPERATIONS`]; one that is not there is refused.
//!
//! Invariant: the namespace of a request is that of its token. It is in the [`Caller`],
//! which handlers get with their [`Api`] (see [`Scoped`]), and is taken from nowhere else.

use std::collections::HashMap;
use std::sync::{Arc, OnceLock};

use axum::extract::{FromRequestParts, MatchedPath, Request};
use axum::http::request::Parts;
use axum::http::{HeaderMap, Method, header};

use super::api::{Api, Result};
use super::audit::Audit;
use super::openapi::{OPERATIONS, Operation};
use super::problem::Problem;
use super::tokens::{Scope, Token, Tokens};
use crate::core::namespace::Namespace;
use crate::engine::{Clock as _, SystemClock};

/// The cookie of the page.
pub(super) const COOKIE: &str = "dacapo_token";

/// What a route needs.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Needs {
    /// Nothing: it tells nothing that is anybody's.
    Nothing,
    /// A token with that scope; it sees its namespace.
    Token(Scope),
    /// A token of the default namespace with that scope: it is about the host as a whole.
    Host(Scope),
}

/// Who asks.
#[derive(Clone, Debug)]
pub enum Caller {
    /// Whoever has the host to itself: no token is asked for.
    Operator,
    /// Whoever has this token.
    Holder(Arc<Token>),
    /// Somebody, who may only what needs nothing.
    Stranger,
}

impl Caller {
    /// The namespace that it sees.
    pub fn namespace(&self) -> Namespace {
        self.token().map(|token| token.namespace.clone()).unwrap_or_default()
    }

    /// Its token.
    pub fn token(&self) -> Option<&Token> {
        match self {
            Self::Holder(token) => Some(token),
            Self::Operator | Self::Stranger => None,
        }
    }

    /// Whether it may do what needs `needs`.
    ///
    /// # Errors
    /// Says which scope is missing, or that only the host's own namespace may.
    pub fn may(&self, needs: Needs) -> Result<()> {
        let (Needs::Token(scope) | Needs::Host(scope)) = needs else { return Ok(()) };
        let token = match self {
            Self::Operator => return Ok(()),
            Self::Stranger => return Err(missing()),
            Self::Holder(token) => token,
        };
        if !token.scopes.iter().any(|own| own.includes(scope)) {
            let own = token.scopes.iter().map(ToString::to_string).collect::<Vec<_>>().join(", ");
            return Err(Problem::new(
                "scope-missing",
                format!("this needs a token with the scope {scope}; the token {} has {own}", token.id),
            ));
        }
        if matches!(needs, Needs::Host(_)) && !token.namespace.is_default() {
            return Err(Problem::new(
                "host-only",
                format!(
                    "this is about the host as a whole, which only tokens of the namespace default are told; the token \
                     {} is of {}",
                    token.id, token.namespace
                ),
            ));
        }
        Ok(())
    }
}

fn missing() -> Problem {
    Problem::new(
        "token-missing",
        "this host asks for a token: send `authorization: Bearer TOKEN`, or give commands --token or DACAPO_TOKEN; \
         `dacapo token create` makes one",
    )
}

/// The tokens of a server, and whether it may be open while there are none.
#[derive(Debug)]
pub struct Admission {
    tokens: Option<Tokens>,
    audit: Option<Audit>,
}

impl Admission {
    /// Nobody needs a token.
    pub fn open() -> Self {
        Self { tokens: None, audit: None }
    }

    /// The tokens are those of that folder.
    pub fn by(tokens: Tokens) -> Self {
        Self { tokens: Some(tokens), audit: None }
    }

    /// What holders of tokens change is noted there.
    #[must_use]
    pub fn noted_in(self, audit: Audit) -> Self {
        Self { audit: Some(audit), ..self }
    }

    /// Where changes are noted.
    pub(super) fn audit(&self) -> Option<&Audit> {
        self.audit.as_ref()
    }

    /// Whether tokens are asked for.
    ///
    /// # Errors
    /// If they cannot be read.
    pub fn is_guarded(&self) -> Result<bool> {
        self.tokens.as_ref().map_or(Ok(false), |tokens| Ok(tokens.all()?.is_some()))
    }

    /// Whether that text is a token that is taken.
    ///
    /// # Errors
    /// `token-refused`, if it is none, or not any more.
    pub fn check_token(&self, text: &str) -> Result<()> {
        self.tokens.as_ref().map_or(Ok(()), |tokens| tokens.find(text, SystemClock.now()).map(drop))
    }

    /// Who sends these headers.
    ///
    /// # Errors
    /// `token-missing` or `token-refused`, if a token is asked for.
    pub fn who(&self, headers: &HeaderMap) -> Result<Caller> {
        match &self.tokens {
            Some(tokens) if tokens.all()?.is_some() => {
                let (text, _) = given(headers).ok_or_else(missing)?;
                let token = tokens.find(&text, SystemClock.now())?;
                Ok(Caller::Holder(Arc::new(token)))
            }
            _ => Ok(Caller::Operator),
        }
    }
}

/// The token of a request, and whether it is in the cookie, which browsers send by themselves.
pub(super) fn given(headers: &HeaderMap) -> Option<(String, bool)> {
    if let Some(value) = headers.get(header::AUTHORIZATION) {
        let (kind, token) = value.to_str().ok()?.split_once(' ')?;
        return kind.eq_ignore_ascii_case("bearer").then(|| (token.trim().to_owned(), false));
    }
    let cookies = headers.get_all(header::COOKIE).iter().filter_map(|value| value.to_str().ok());
    let pairs = cookies.flat_map(|value| value.split(';')).filter_map(|pair| pair.trim().split_once('='));
    pairs.into_iter().find(|(name, _)| *name == COOKIE).map(|(_, token)| (token.to_owned(), true))
}

/// What `request` needs, by the route that it goes to.
///
/// # Errors
/// If nobody said it; then nobody may.
pub(super) fn needed(request: &Request) -> Result<Needs> {
    let Some(path) = request.extensions().get::<MatchedPath>() else { return Ok(Needs::Nothing) };
    let (method, path) = (request.method(), path.as_str());
    if let Some(of_api) = path.strip_prefix("/api/v1") {
        return match operation_of(request) {
            Some(operation) => Ok(operation.needs),
            // Another method of a known path is answered as such.
            None if OPERATIONS.iter().any(|operation| operation.path == of_api) => Ok(Needs::Nothing),
            None => Err(Problem::new("internal", format!("nobody said who may use {method} {path}"))),
        };
    }
    match path {
        "/assets/{name}" | "/ui/sign-in" | "/ui/sign-out" => Ok(Needs::Nothing),
        // Who asks is proved by the signature.
        "/hooks/{name}" => Ok(Needs::Nothing),
        "/metrics" | "/ui/host" => Ok(Needs::Host(Scope::Read)),
        path if is_page(path) => Ok(Needs::Token(Scope::Read)),
        _ => Err(Problem::new("internal", format!("nobody said who may use {method} {path}"))),
    }
}

/// Whether people look at it.
pub(super) fn is_page(path: &str) -> bool {
    path == "/" || path.starts_with("/ui/")
}

/// What of the API `request` asks for.
pub(super) fn operation_of(request: &Request) -> Option<&'static Operation> {
    static BY_ROUTE: OnceLock<HashMap<(&str, &str), &Operation>> = OnceLock::new();
    let by_route = BY_ROUTE.get_or_init(|| OPERATIONS.iter().map(|op| ((op.method, op.path), op)).collect());
    let path = request.extensions().get::<MatchedPath>()?.as_str().strip_prefix("/api/v1")?;
    let method = if request.method() == Method::HEAD { &Method::GET } else { request.method() };
    by_route.get(&(method.as_str(), path)).copied()
}

/// What pages of other origins could send is refused. While no tokens are asked for,
/// so is a host name that only leads here: nothing else would tell a stranger's page
/// from the host's own.
pub(super) fn check_origin(method: &Method, headers: &HeaderMap, is_guarded: bool) -> Result<()> {
    let text = |name| headers.get(name).and_then(|value| value.to_str().ok());
    let host = text(header::HOST).unwrap_or_default();
    let name = if host.ends_with(']') { host } else { host.rsplit_once(':').map_or(host, |(name, _)| name) };
    if !is_guarded && !matches!(name, "localhost" | "127.0.0.1" | "[::1]") {
        return Err(Problem::new("forbidden", format!("unexpected host {host:?}; use 127.0.0.1")));
    }
    let is_cookie = is_guarded && given(headers).is_some_and(|(_, is_cookie)| is_cookie);
    match text(header::ORIGIN) {
        Some(origin) => {
            // A proxy before this host may be what speaks TLS.
            let is_own = origin == format!("http://{host}") || is_guarded && origin == format!("https://{host}");
            if is_own {
                Ok(())
            } else {
                Err(Problem::new("forbidden", format!("pages of {origin} may not use this API")))
            }
        }
        // Browsers say it with whatever changes something.
        None if is_cookie && !method.is_safe() => Err(Problem::new(
            "forbidden",
            "a change with the page's cookie comes without an origin; send the token as authorization",
        )),
        None => Ok(()),
    }
}

/// The API for whoever asks: as the state of a handler, with its [`Caller`].
pub(super) struct Scoped(pub(super) Api);

impl FromRequestParts<Api> for Scoped {
    type Rejection = Problem;
    async fn from_request_parts(parts: &mut Parts, api: &Api) -> Result<Self> {
        let caller = parts.extensions.get::<Caller>().cloned();
        let caller = caller.ok_or_else(|| Problem::new("internal", "nobody looked at who asks"))?;
        Ok(Self(api.clone().asked_by(caller)))
    }
}
