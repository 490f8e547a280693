//! Webhooks: requests of other systems that start an instance or raise an event.
//!
//! They are configured in the file that `dacapo serve --config` names (see [`super::config`]):
//!
//! ```toml
//! [[webhooks]]
//! name = "orders"                    # POST /hooks/orders
//! secret = "orders-hook"             # the name of a secret: the key of the signatures
//! start = "fulfil"                   # the body is the input
//!
//! [[webhooks]]
//! name = "payments"
//! secret = "payments-hook"
//! raise = "paid"                     # the body is the event's value
//! instance = "orders/{/order/id}"    # JSON pointers into the body stand in braces
//! ```
//!
//! Requests are signed as the Standard Webhooks specification says: `webhook-id`,
//! `webhook-timestamp` (seconds) and `webhook-signature`, whose `v1,` entries are the
//! base64 of an HMAC-SHA256 over `id.timestamp.body`. A request with an old timestamp
//! is refused, and one whose id was seen before is answered like the first and does
//! nothing: the id is the idempotency key. Since a signature is asked for, a proxy may
//! forward these paths from anywhere; the API itself stays on loopback.

use std::collections::BTreeMap;

use axum::body::Bytes;
use axum::extract::{Path, Request};
use axum::http::{HeaderMap, StatusCode};
use axum::response::{IntoResponse, Response};
use axum::routing::{get, post};
use axum::{Json, Router};
use base64::Engine as _;
use base64::engine::general_purpose::STANDARD;
use http_body_util::{BodyExt as _, LengthLimitError, Limited};
use ring::hmac;
use serde::Deserialize;
use serde_json::{Value, json};

use super::Answer;
use super::access::Scoped;
use super::api::{Api, Result};
use super::problem::Problem;
use crate::core::ids::{InstanceId, TimestampMs};
use crate::core::namespace::Namespace;
use crate::core::payload::Payload;
use crate::engine::{Engine, EngineError, IdReuse, StartOutcome, StartRequest};
use crate::sandbox::secrets::Secrets;

/// Clocks differ and networks are slow, but nobody resends after five minutes what
/// was signed before.
const TOLERANCE_SECONDS: u64 = 300;
const BODY_BYTES: usize = 256 << 10;
const MAX_ID_BYTES: usize = 100;

/// The webhooks of a server.
#[derive(Debug, Default)]
pub struct Webhooks {
    by_name: BTreeMap<String, Webhook>,
    secrets: Secrets,
}

/// One webhook, as it is configured.
#[derive(Clone, Debug, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Webhook {
    /// The end of its path.
    pub name: String,
    /// Where what it starts and tells is; the body says nothing of that.
    #[serde(default)]
    pub namespace: Namespace,
    /// The name of the secret that signs.
    pub secret: String,
    /// The orchestration to start.
    pub start: Option<String>,
    /// Whose: `name`, `name@version` or a hash.
    pub module: Option<String>,
    /// The event to raise.
    pub raise: Option<String>,
    /// The instance's id. Needed to raise; what is started is called
    /// `NAME/WEBHOOK-ID` without it.
    pub instance: Option<String>,
    /// How far its timestamp may be from now.
    pub tolerance_seconds: Option<u64>,
    /// Largest body.
    pub body_bytes: Option<usize>,
}

impl Webhooks {
    /// Checks webhooks, whose keys are in `secrets`.
    ///
    /// # Errors
    /// If one is not valid, or its secret is not there.
    pub fn new(webhooks: Vec<Webhook>, secrets: Secrets) -> Result<Self> {
        let mut by_name = BTreeMap::new();
        for webhook in webhooks {
            webhook.check()?;
            if let Err(error) = secrets.get(&webhook.secret) {
                return Err(Problem::invalid(format!("webhook {:?}: {error}", webhook.name)));
            }
            if let Some(twice) = by_name.insert(webhook.name.clone(), webhook) {
                return Err(Problem::invalid(format!(
                    "webhook {:?} is there twice; give each its own name",
                    twice.name
                )));
            }
        }
        Ok(Self { by_name, secrets })
    }

    /// What people may know of them.
    pub fn to_json(&self, namespace: &Namespace) -> Value {
        let own = self.by_name.values().filter(|webhook| webhook.namespace == *namespace);
        let shown = own.map(|webhook| {
            json!({
                "name": webhook.name,
                "path": format!("/hooks/{}", webhook.name),
                "start": webhook.start,
                "raise": webhook.raise,
                "instance": webhook.instance,
                "tolerance_seconds": webhook.tolerance(),
                "body_bytes": webhook.body_limit(),
            })
        });
        json!({ "webhooks": shown.collect::<Vec<_>>() })
    }

    fn get(&self, name: &str) -> Result<&Webhook> {
        let names = || self.by_name.keys().map(String::as_str).collect::<Vec<_>>().join(", ");
        self.by_name.get(name).ok_or_else(|| {
            let exist = if self.by_name.is_empty() { "none is configured".to_owned() } else { names() };
            Problem::new("not-found", format!("unknown webhook {name:?}; there are: {exist}"))
        })
    }
}

impl Webhook {
    fn check(&self) -> Result<()> {
        let wrong = |what: &str| Err(Problem::invalid(format!("webhook {:?}: {what}", self.name)));
        let plain = |c: char| c.is_ascii_alphanumeric() || matches!(c, '-' | '_' | '.');
        if self.name.is_empty() || self.name.len() > MAX_ID_BYTES || !self.name.chars().all(plain) {
            return wrong("expected a name of 1 to 100 letters, digits, '-', '_' and '.'");
        }
        match (&self.start, &self.raise, &self.instance) {
            (Some(_), None, _) | (None, Some(_), Some(_)) => {}
            (None, Some(_), None) => return wrong("an event needs an instance; say which with instance = \"..\""),
            _ => return wrong("expected either start or raise"),
        }
        if let Some(template) = &self.instance {
            let mut parts = pieces(template);
            if parts.any(|piece| matches!(piece, Piece::Pointer(pointer) if !pointer.starts_with('/'))) {
                return wrong("expected JSON pointers such as {/order/id} in instance");
            }
        }
        Ok(())
    }

    fn tolerance(&self) -> u64 {
        self.tolerance_seconds.unwrap_or(TOLERANCE_SECONDS)
    }

    fn body_limit(&self) -> usize {
        self.body_bytes.unwrap_or(BODY_BYTES)
    }

    /// The id of the instance that a request means.
    fn instance_of(&self, signed: &Signed, body: &Value) -> Result<String> {
        let Some(template) = &self.instance else { return Ok(format!("{}/{}", self.name, signed.id)) };
        let mut id = String::new();
        for piece in pieces(template) {
            match piece {
                Piece::Text(text) => id.push_str(text),
                Piece::Pointer(pointer) => match body.pointer(pointer) {
                    Some(Value::String(text)) => id.push_str(text),
                    Some(Value::Number(number)) => id.push_str(&number.to_string()),
                    _ => return Err(Problem::invalid(format!("the body has no text or number at {pointer}"))),
                },
            }
        }
        Ok(id)
    }
}

enum Piece<'a> {
    Text(&'a str),
    Pointer(&'a str),
}

/// `a{/b}c` in its pieces; a brace without its other one is text.
fn pieces(template: &str) -> impl Iterator<Item = Piece<'_>> {
    let mut rest = template;
    std::iter::from_fn(move || {
        if rest.is_empty() {
            return None;
        }
        if let Some((pointer, after)) = rest.strip_prefix('{').and_then(|inside| inside.split_once('}')) {
            rest = after;
            return Some(Piece::Pointer(pointer));
        }
        let end = rest[1..].find('{').map_or(rest.len(), |at| at + 1);
        let (text, after) = rest.split_at(end);
        rest = after;
        Some(Piece::Text(text))
    })
}

// ---- signatures ----

/// What the headers say.
struct Signed {
    id: String,
    timestamp: u64,
    signatures: Vec<Vec<u8>>,
}

impl Signed {
    fn of(headers: &HeaderMap) -> Result<Self> {
        let header = |name: &str| {
            let value = headers.get(name).and_then(|value| value.to_str().ok());
            value.ok_or_else(|| unsigned(format!("the header {name} is missing")))
        };
        let id = header("webhook-id")?;
        // It becomes part of an instance's id.
        if id.is_empty() || id.len() > MAX_ID_BYTES || !id.chars().all(|c| c.is_ascii_graphic()) {
            return Err(Problem::invalid("webhook-id is not valid: expected 1 to 100 visible characters"));
        }
        let timestamp = header("webhook-timestamp")?.parse::<u64>();
        let timestamp = timestamp.map_err(|_| unsigned("webhook-timestamp is not a number of seconds"))?;
        let entries = header("webhook-signature")?.split(' ').filter_map(|entry| entry.strip_prefix("v1,"));
        let signatures = entries.filter_map(|entry| STANDARD.decode(entry).ok()).collect();
        Ok(Self { id: id.to_owned(), timestamp, signatures })
    }

    /// Whether the request is fresh, and signed with the webhook's secret.
    fn verify(&self, webhook: &Webhook, secrets: &Secrets, body: &[u8], now: TimestampMs) -> Result<()> {
        let secret = secrets.get(&webhook.secret).map_err(|error| Problem::new("secret-missing", error.to_string()))?;
        let key = match secret.reveal().strip_prefix("whsec_").and_then(|text| STANDARD.decode(text).ok()) {
            Some(key) => hmac::Key::new(hmac::HMAC_SHA256, &key),
            None => hmac::Key::new(hmac::HMAC_SHA256, secret.reveal().as_bytes()),
        };
        let message = [self.id.as_bytes(), b".", self.timestamp.to_string().as_bytes(), b".", body].concat();
        // Compares in constant time.
        if !self.signatures.iter().any(|signature| hmac::verify(&key, &message, signature).is_ok()) {
            return Err(unsigned("no v1 signature in webhook-signature is that of this request"));
        }
        let (now, tolerance) = (now.0 / 1000, webhook.tolerance());
        if self.timestamp.abs_diff(now) > tolerance {
            let found = self.timestamp;
            return Err(unsigned(format!(
                "webhook-timestamp is {found}: expected at most {tolerance} s from now, {now}; sign it anew"
            )));
        }
        Ok(())
    }
}

fn unsigned(detail: impl Into<String>) -> Problem {
    Problem::new("signature-refused", detail)
}

// ---- routes ----

/// Under `/hooks`.
pub(super) fn routes(api: Api) -> Router {
    Router::new().route("/{name}", post(take)).with_state(api)
}

/// Under `/api/v1`.
pub(super) fn api_routes() -> Router<Api> {
    Router::new().route("/webhooks", get(list))
}

async fn list(Scoped(api): Scoped) -> Answer {
    Ok(Json(api.webhooks().to_json(&api.namespace())))
}

async fn take(Scoped(api): Scoped, Path(name): Path<String>, request: Request) -> Result<Response> {
    let webhook = api.webhooks().get(&name)?;
    let signed = Signed::of(request.headers())?;
    let body = read(request, webhook.body_limit()).await?;
    let engine = api.engine()?;
    signed.verify(webhook, &api.webhooks().secrets, &body, engine.now())?;
    // Not before: whoever reaches this host would fill the records.
    let Some(audit) = api.access().audit() else { return react(engine, webhook, signed, body).await };
    let noted = audit.note_webhook(&webhook.namespace, format!("{}/{}", super::HOOKS, webhook.name)).await?;
    let answer = react(engine, webhook, signed, body).await.into_response();
    audit.end(noted, answer.status().as_u16());
    Ok(answer)
}

/// Does what the webhook is for.
async fn react(engine: &Engine, webhook: &Webhook, signed: Signed, body: Bytes) -> Result<Response> {
    let value: Value =
        serde_json::from_slice(&body).map_err(|error| Problem::invalid(format!("the body is not JSON: {error}")))?;
    let id = webhook.instance_of(&signed, &value)?;
    let id = InstanceId::within(&webhook.namespace, &id).map_err(EngineError::from)?;
    let payload = Payload::json(body);
    let is_new = match (&webhook.start, &webhook.raise) {
        (Some(orchestration), _) => {
            let request = StartRequest {
                id: id.clone(),
                orchestration: orchestration.clone(),
                module: webhook.module.clone(),
                input: payload,
                tags: vec![("webhook".to_owned(), webhook.name.clone()), ("webhook_id".to_owned(), signed.id)],
                reuse: IdReuse::ReturnExisting,
                start_at: None,
            };
            engine.start(request).await? == StartOutcome::Started
        }
        (None, Some(event)) => {
            let key = format!("{}/{}", webhook.name, signed.id);
            engine.raise_once(&id, event, payload, &key).await?
        }
        (None, None) => return Err(Problem::new("internal", "the webhook does nothing")),
    };
    let status = if is_new { StatusCode::ACCEPTED } else { StatusCode::OK };
    Ok((status, Json(json!({ "id": id, "duplicate": !is_new }))).into_response())
}

async fn read(request: Request, limit: usize) -> Result<Bytes> {
    let body = Limited::new(request.into_body(), limit).collect().await;
    let body = body.map_err(|error| match error.downcast_ref::<LengthLimitError>() {
        Some(_) => Problem::new("too-large", format!("the body has more than {limit} bytes")),
        None => Problem::invalid(format!("the body could not be read: {error}")),
    })?;
    Ok(body.to_bytes())
}

#[cfg(test)]
mod tests {
    use super::*;

    const FILE: &str = r#"
        [[webhooks]]
        name = "orders"
        secret = "hook"
        start = "fulfil"

        [[webhooks]]
        name = "payments"
        secret = "hook"
        raise = "paid"
        instance = "orders/{/order/id}-{/n}"
    "#;

    fn hooks(text: &str) -> Result<Webhooks> {
        let secrets = Secrets::of([("hook".to_owned(), "whsec_c2VjcmV0LWtleQ==".to_owned())]);
        Webhooks::new(crate::server::config::ServerConfig::parse(text)?.webhooks, secrets)
    }

    fn signed(id: &str, timestamp: u64, body: &[u8], key: &[u8]) -> Signed {
        let key = hmac::Key::new(hmac::HMAC_SHA256, key);
        let message = [format!("{id}.{timestamp}.").as_bytes(), body].concat();
        let signature = hmac::sign(&key, &message).as_ref().to_vec();
        Signed { id: id.to_owned(), timestamp, signatures: vec![vec![0; 32], signature] }
    }

    #[test]
    fn mistakes_in_the_file_are_told() {
        let told = |text: &str| hooks(text).unwrap_err().detail;
        assert!(told("[[webhooks]]\nname = \"a\"\nsceret = \"hook\"").contains("sceret"));
        assert!(told(&FILE.replace("start = \"fulfil\"", "")).contains("either start or raise"));
        assert!(told(&FILE.replace("instance = \"orders/{/order/id}-{/n}\"", "")).contains("needs an instance"));
        assert!(told(&FILE.replace("{/n}", "{n}")).contains("JSON pointers"));
        assert!(told(&FILE.replace("payments", "orders")).contains("twice"));
        assert!(told(&FILE.replace("\"hook\"", "\"gone\"")).contains("DACAPO_SECRET_GONE"));
        assert!(told(&FILE.replace("\"orders\"", "\"a/b\"")).contains("expected a name"));
    }

    #[test]
    fn ids_of_instances_come_from_the_body_or_the_webhook_id() {
        let hooks = hooks(FILE).unwrap();
        let signed = signed("msg_1", 0, b"", b"");
        let of = |name: &str, body: Value| hooks.get(name)?.instance_of(&signed, &body);
        assert_eq!(of("orders", json!(1)).unwrap(), "orders/msg_1");
        assert_eq!(of("payments", json!({ "order": { "id": "7" }, "n": 2 })).unwrap(), "orders/7-2");
        assert!(of("payments", json!({ "order": { "id": "7" } })).unwrap_err().detail.contains("at /n"));
    }

    #[test]
    fn only_fresh_requests_of_who_has_the_key_are_taken() {
        let hooks = hooks(FILE).unwrap();
        let now = TimestampMs(1_000_000_000);
        let check = |signed: Signed, body: &[u8]| signed.verify(hooks.get("orders")?, &hooks.secrets, body, now);
        let key = b"secret-key";
        assert!(check(signed("m", 1_000_000, b"{}", key), b"{}").is_ok());
        assert!(check(signed("m", 1_000_300, b"{}", key), b"{}").is_ok());
        for (signed, body) in [
            (signed("m", 1_000_000, b"{}", b"another-key"), b"{}"),
            (signed("m", 1_000_000, b"{}", key), b"[]"),
            (signed("m", 999_699, b"{}", key), b"{}"),
            (signed("m", 1_000_301, b"{}", key), b"{}"),
            (Signed { id: "other".to_owned(), ..signed("m", 1_000_000, b"{}", key) }, b"{}"),
            (Signed { timestamp: 1_000_001, ..signed("m", 1_000_000, b"{}", key) }, b"{}"),
        ] {
            assert_eq!(check(signed, body).unwrap_err().code, "signature-refused");
        }
    }
}
