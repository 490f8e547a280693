//! What travels: payloads, failures and the limits on both.
//!
//! A payload is never looked into here; it only has a size and, for people, a
//! text. In JSON (the API, `history --json`) a payload of JSON stands as itself.

use std::fmt;
use std::sync::Arc;

use serde::{Deserialize, Serialize};

/// The media type that the SDKs speak.
pub const JSON: &str = "application/json";

/// Bytes with a media type. Cheap to clone.
#[derive(Clone, PartialEq, Eq)]
pub struct Payload {
    /// A media type such as `application/json`.
    pub content_type: ContentType,
    /// The bytes.
    pub data: Arc<[u8]>,
}

/// A media type; the usual one takes no space.
#[derive(Clone, PartialEq, Eq, Serialize, Deserialize, Debug)]
pub enum ContentType {
    /// `application/json`.
    Json,
    /// Any other, as given.
    Other(Arc<str>),
}

impl ContentType {
    /// The media type as text.
    pub fn as_str(&self) -> &str {
        match self {
            Self::Json => JSON,
            Self::Other(text) => text,
        }
    }
}

impl From<&str> for ContentType {
    fn from(text: &str) -> Self {
        if text == JSON { Self::Json } else { Self::Other(text.into()) }
    }
}

impl Payload {
    /// A payload of that media type.
    pub fn new(content_type: &str, data: impl Into<Arc<[u8]>>) -> Self {
        Self { content_type: content_type.into(), data: data.into() }
    }

    /// A JSON payload from its text or bytes, unchecked.
    pub fn json(data: impl Into<Vec<u8>>) -> Self {
        Self { content_type: ContentType::Json, data: data.into().into() }
    }

    /// A JSON payload of a value.
    pub fn of<T: Serialize + ?Sized>(value: &T) -> Result<Self, serde_json::Error> {
        serde_json::to_vec(value).map(Self::json)
    }

    /// JSON `null`: what an operation without a result completes with.
    pub fn null() -> Self {
        Self::json(*b"null")
    }

    /// Size in bytes, as the limits count it.
    pub fn len(&self) -> usize {
        self.data.len()
    }

    /// Whether there are no bytes at all.
    pub fn is_empty(&self) -> bool {
        self.data.is_empty()
    }

    /// The JSON value inside, if it is one.
    pub fn to_json(&self) -> Option<serde_json::Value> {
        match self.content_type {
            ContentType::Json => serde_json::from_slice(&self.data).ok(),
            ContentType::Other(_) => None,
        }
    }
}

impl fmt::Display for Payload {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match (&self.content_type, std::str::from_utf8(&self.data)) {
            (ContentType::Json, Ok(text)) => f.write_str(text),
            (kind, _) => write!(f, "{} ({} bytes)", kind.as_str(), self.len()),
        }
    }
}

impl fmt::Debug for Payload {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{self}")
    }
}

#[derive(Serialize, Deserialize)]
struct Compact<'a> {
    content_type: ContentType,
    #[serde(borrow)]
    data: &'a [u8],
}

#[derive(Serialize, Deserialize)]
#[serde(untagged)]
enum Readable {
    Bytes {
        #[serde(rename = "$content_type")]
        content_type: String,
        #[serde(rename = "$bytes")]
        bytes: Vec<u8>,
    },
    Json(serde_json::Value),
}

impl Serialize for Payload {
    fn serialize<S: serde::Serializer>(&self, s: S) -> Result<S::Ok, S::Error> {
        if !s.is_human_readable() {
            return Compact { content_type: self.content_type.clone(), data: &self.data }.serialize(s);
        }
        match self.to_json() {
            Some(value) => value.serialize(s),
            None => Readable::Bytes { content_type: self.content_type.as_str().to_owned(), bytes: self.data.to_vec() }
                .serialize(s),
        }
    }
}

impl<'de> Deserialize<'de> for Payload {
    fn deserialize<D: serde::Deserializer<'de>>(d: D) -> Result<Self, D::Error> {
        if !d.is_human_readable() {
            let compact = Compact::deserialize(d)?;
            super::large::note(compact.data);
            return Ok(Self { content_type: compact.content_type, data: compact.data.into() });
        }
        Ok(match Readable::deserialize(d)? {
            Readable::Json(value) => Self::json(value.to_string()),
            Readable::Bytes { content_type, bytes } => Self::new(&content_type, bytes),
        })
    }
}

/// What sort of trouble a [`Failure`] is. The cases are those of the contract.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum FailureKind {
    /// The activity's or orchestration's own error.
    Application,
    /// A timeout expired; the error type names which.
    TimedOut,
    /// The operation was cancelled.
    Cancelled,
    /// The instance was terminated from outside.
    Terminated,
    /// Nothing has that name.
    NotFound,
    /// A payload over the limit.
    TooLarge,
    /// The host does not serve what was asked for.
    Unsupported,
    /// A guest trapped.
    Trapped,
    /// A guest used more than it is granted.
    Exhausted,
    /// A replay asked for something else than what was recorded.
    Nondeterministic,
}

impl fmt::Display for FailureKind {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::Application => "application",
            Self::TimedOut => "timed-out",
            Self::Cancelled => "cancelled",
            Self::Terminated => "terminated",
            Self::NotFound => "not-found",
            Self::TooLarge => "too-large",
            Self::Unsupported => "unsupported",
            Self::Trapped => "trapped",
            Self::Exhausted => "exhausted",
            Self::Nondeterministic => "nondeterministic",
        })
    }
}

/// Why something did not succeed: data that a guest may look at.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Failure {
    /// What sort of trouble.
    pub kind: FailureKind,
    /// The application's name for it, matched by retry policies; may be empty.
    #[serde(default)]
    pub error_type: String,
    /// For people.
    pub message: String,
    /// No retry policy may try again.
    #[serde(default)]
    pub non_retryable: bool,
    /// For programs.
    #[serde(default)]
    pub details: Option<Payload>,
}

impl Failure {
    /// A failure of that kind which no retry can mend.
    pub fn fatal(kind: FailureKind, message: impl Into<String>) -> Self {
        Self { kind, error_type: String::new(), message: message.into(), non_retryable: true, details: None }
    }

    /// A failure of that kind which may be tried again.
    pub fn retryable(kind: FailureKind, message: impl Into<String>) -> Self {
        Self { non_retryable: false, ..Self::fatal(kind, message) }
    }

    /// Size in bytes, as the limits count it.
    pub fn len(&self) -> usize {
        self.message.len() + self.error_type.len() + self.details.as_ref().map_or(0, Payload::len)
    }

    /// Whether it says nothing at all.
    pub fn is_empty(&self) -> bool {
        self.len() == 0
    }
}

impl fmt::Display for Failure {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match (self.kind, self.error_type.as_str()) {
            (FailureKind::Application, "") => f.write_str(&self.message),
            (FailureKind::Application, name) => write!(f, "{name}: {}", self.message),
            (kind, "") => write!(f, "{kind}: {}", self.message),
            (kind, name) => write!(f, "{kind} ({name}): {}", self.message),
        }
    }
}

/// What an activity or an orchestration ends with.
pub type Outcome = Result<Payload, Failure>;

/// Cuts `text` to at most `limit` bytes at a character's edge, and says so.
pub fn shortened(text: &str, limit: usize) -> String {
    if text.len() <= limit {
        return text.to_owned();
    }
    let end = (0..=limit).rev().find(|&i| text.is_char_boundary(i)).unwrap_or(0);
    format!("{}... ({} bytes in all)", &text[..end], text.len())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn payloads_keep_their_bytes_in_both_encodings() {
        for payload in [Payload::json(r#"{"a":1}"#), Payload::new("image/png", vec![0xff, 0]), Payload::json("{broken")]
        {
            let compact = postcard::to_stdvec(&payload).unwrap();
            assert_eq!(postcard::from_bytes::<Payload>(&compact).unwrap(), payload);
            let text = serde_json::to_string(&payload).unwrap();
            assert_eq!(serde_json::from_str::<Payload>(&text).unwrap(), payload, "{text}");
        }
    }
}
