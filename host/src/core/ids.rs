//! Names and times: the newtypes that every other part speaks in.
//!
//! An [`InstanceId`] is chosen by the caller; everything else here is counted or
//! hashed. Times are integers of milliseconds, so that they compare and encode
//! the same everywhere.

use std::borrow::Borrow;
use std::fmt;
use std::str::FromStr;

use serde::{Deserialize, Serialize};
use smol_str::SmolStr;

use super::namespace::{self, Namespace};

/// Longest instance id, in bytes: it is part of every key in the store.
pub const MAX_ID_BYTES: usize = 200;

/// The caller-chosen name of one run of an orchestration, in its namespace.
///
/// It is kept and compared with its namespace (see [`super::namespace`]), and shown
/// without: in messages and in JSON it is the name that its caller chose. Logs, which
/// are the operator's, have both (`{:?}`).
///
/// It goes from thread to thread with all that is done for the instance: one of up to 23 bytes is
/// copied, without a count of owners that two cores would take from each other; longer ones are shared.
#[derive(Clone, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct InstanceId(SmolStr);

/// Why a text is not an [`InstanceId`].
#[derive(Debug, thiserror::Error, PartialEq, Eq)]
#[error(
    "instance id {found:?} is not valid: expected 1 to {MAX_ID_BYTES} bytes without control characters, found {reason}"
)]
pub struct InvalidId {
    found: String,
    reason: String,
}

impl InstanceId {
    /// Checks and takes a caller's id.
    ///
    /// # Errors
    /// [`InvalidId`] for an empty or overlong text, or one with control characters.
    pub fn new(id: &str) -> Result<Self, InvalidId> {
        let reason = if id.is_empty() {
            "nothing".to_owned()
        } else if id.len() > MAX_ID_BYTES {
            format!("{} bytes", id.len())
        } else if let Some(bad) = id.chars().find(|c| c.is_control()) {
            format!("{bad:?}")
        } else {
            return Ok(Self(id.into()));
        };
        Err(InvalidId { found: id.chars().take(64).collect(), reason })
    }

    /// The same in `namespace`, whatever the text is.
    ///
    /// # Errors
    /// As [`Self::new`].
    pub fn within(namespace: &Namespace, id: &str) -> Result<Self, InvalidId> {
        let id = Self::new(id)?;
        if namespace.is_default() { Ok(id) } else { Ok(Self(namespace.qualify(id.as_str()).into())) }
    }

    /// The instance that this one calls `id`: in its own namespace, and in no other.
    ///
    /// # Errors
    /// As [`Self::new`].
    pub fn neighbour(&self, id: &str) -> Result<Self, InvalidId> {
        Self::within(&self.namespace(), id)
    }

    /// An id as [`Self::as_str`] wrote it.
    ///
    /// # Errors
    /// [`InvalidId`] if it was written by nobody.
    pub fn stored(text: &str) -> Result<Self, InvalidId> {
        let (key, local) = namespace::split(text);
        Self::new(local)?;
        let namespace = if key.is_empty() { Ok(Namespace::default()) } else { Namespace::new(key) };
        match namespace {
            Ok(namespace) if namespace.prefix() + local == text => Ok(Self(text.into())),
            _ => Err(InvalidId { found: local.to_owned(), reason: format!("the namespace {key:?}") }),
        }
    }

    /// The id as it is kept, with its namespace.
    pub fn as_str(&self) -> &str {
        &self.0
    }

    /// The name that its caller chose.
    pub fn local(&self) -> &str {
        namespace::local(&self.0)
    }

    /// The key of its namespace: empty for the default one.
    pub fn space(&self) -> &str {
        namespace::split(&self.0).0
    }

    /// Where it is.
    pub fn namespace(&self) -> Namespace {
        Namespace::of(&self.0)
    }
}

impl FromStr for InstanceId {
    type Err = InvalidId;
    fn from_str(s: &str) -> Result<Self, InvalidId> {
        Self::new(s)
    }
}

impl Borrow<str> for InstanceId {
    fn borrow(&self) -> &str {
        &self.0
    }
}

impl fmt::Display for InstanceId {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.local())
    }
}

impl fmt::Debug for InstanceId {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.local())?;
        let namespace = self.namespace();
        if namespace.is_default() { Ok(()) } else { write!(f, "@{namespace}") }
    }
}

impl Serialize for InstanceId {
    fn serialize<S: serde::Serializer>(&self, s: S) -> Result<S::Ok, S::Error> {
        let text = if s.is_human_readable() { self.local() } else { &self.0 };
        s.serialize_str(text)
    }
}

impl<'de> Deserialize<'de> for InstanceId {
    fn deserialize<D: serde::Deserializer<'de>>(d: D) -> Result<Self, D::Error> {
        let is_readable = d.is_human_readable();
        let text = SmolStr::deserialize(d)?;
        // What people write has no namespace of its own.
        if is_readable { Self::new(&text).map_err(serde::de::Error::custom) } else { Ok(Self(text)) }
    }
}

/// One life of an instance, counted from 1; continue-as-new starts the next.
pub type ExecutionNumber = u32;

/// One operation of an execution, counted from 1 in the order the guest asked.
pub type OperationId = u32;

/// Milliseconds since 1970-01-01T00:00:00Z.
#[derive(Clone, Copy, Default, PartialEq, Eq, Hash, PartialOrd, Ord, Serialize, Deserialize)]
#[serde(transparent)]
pub struct TimestampMs(pub u64);

impl TimestampMs {
    /// This time, `ms` later; the far end of time is not passed.
    pub fn plus(self, ms: u64) -> Self {
        Self(self.0.saturating_add(ms))
    }

    /// Milliseconds from `earlier` to this time, 0 if it is not earlier.
    pub fn since(self, earlier: Self) -> u64 {
        self.0.saturating_sub(earlier.0)
    }
}

impl fmt::Display for TimestampMs {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match i64::try_from(self.0).ok().and_then(|ms| jiff::Timestamp::from_millisecond(ms).ok()) {
            Some(time) => write!(f, "{time:.3}"),
            None => write!(f, "{} ms after 1970", self.0),
        }
    }
}

impl fmt::Debug for TimestampMs {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{self}")
    }
}

/// A BLAKE3 hash: of a module's bytes, or of a turn in its chain.
#[derive(Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct Hash(pub [u8; 32]);

/// The address of a module: the hash of its bytes.
pub type ModuleHash = Hash;

impl Hash {
    /// The hash before the first turn of a history.
    pub const ZERO: Self = Self([0; 32]);

    /// Hashes `bytes`.
    pub fn of(bytes: &[u8]) -> Self {
        Self(*blake3::hash(bytes).as_bytes())
    }

    /// The first twelve hexadecimal digits, for people.
    pub fn short(&self) -> String {
        self.to_string()[..12].to_owned()
    }
}

impl fmt::Display for Hash {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&blake3::Hash::from_bytes(self.0).to_hex())
    }
}

impl fmt::Debug for Hash {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.short())
    }
}

/// Why a text is not a [`Hash`].
#[derive(Debug, thiserror::Error, PartialEq, Eq)]
#[error("{0:?} is not a module hash: expected 64 hexadecimal digits")]
pub struct InvalidHash(String);

impl FromStr for Hash {
    type Err = InvalidHash;
    fn from_str(s: &str) -> Result<Self, InvalidHash> {
        let hash = blake3::Hash::from_hex(s).map_err(|_| InvalidHash(s.to_owned()))?;
        Ok(Self(*hash.as_bytes()))
    }
}

impl Serialize for Hash {
    fn serialize<S: serde::Serializer>(&self, s: S) -> Result<S::Ok, S::Error> {
        if s.is_human_readable() { s.collect_str(self) } else { self.0.serialize(s) }
    }
}

impl<'de> Deserialize<'de> for Hash {
    fn deserialize<D: serde::Deserializer<'de>>(d: D) -> Result<Self, D::Error> {
        if d.is_human_readable() {
            String::deserialize(d)?.parse().map_err(serde::de::Error::custom)
        } else {
            <[u8; 32]>::deserialize(d).map(Self)
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn ids_are_checked_where_they_enter() {
        assert_eq!(InstanceId::new("order-42").unwrap().as_str(), "order-42");
        assert!(InstanceId::new("").unwrap_err().to_string().contains("found nothing"));
        assert!(InstanceId::new(&"x".repeat(201)).unwrap_err().to_string().contains("201 bytes"));
        assert!(InstanceId::new("a\nb").unwrap_err().to_string().contains("'\\n'"));
    }

    #[test]
    fn an_id_is_kept_with_its_namespace_and_shown_without() {
        let acme = Namespace::new("acme").unwrap();
        let id = InstanceId::within(&acme, "order-42").unwrap();
        assert_ne!(id, InstanceId::new("order-42").unwrap());
        assert_eq!((id.to_string(), format!("{id:?}")), ("order-42".to_owned(), "order-42@acme".to_owned()));
        assert_eq!(serde_json::to_string(&id).unwrap(), "\"order-42\"");
        let bytes = postcard::to_stdvec(&id).unwrap();
        assert_eq!(postcard::from_bytes::<InstanceId>(&bytes).unwrap(), id);
        assert_eq!(InstanceId::stored(id.as_str()).unwrap(), id);
        // Nobody gets into another namespace by what it writes.
        assert!(InstanceId::within(&Namespace::default(), id.as_str()).is_err());
        assert!(serde_json::from_value::<InstanceId>(id.as_str().into()).is_err());
        assert_eq!(id.neighbour("b").unwrap().namespace(), acme);
        assert!(id.neighbour("\u{1f}other\u{1f}b").is_err());
        for damaged in
            ["\u{1f}acme", "\u{1f}\u{1f}b", "\u{1f}default\u{1f}b", "\u{1f}A\u{1f}b", "\u{1f}acme\u{1f}", "a\u{1f}b"]
        {
            assert!(InstanceId::stored(damaged).is_err(), "{damaged:?}");
        }
    }

    #[test]
    fn hashes_read_back_what_they_print() {
        let hash = Hash::of(b"dacapo");
        assert_eq!(hash.to_string().parse::<Hash>().unwrap(), hash);
        assert!("abc".parse::<Hash>().is_err());
    }

    #[test]
    fn times_print_as_people_write_them() {
        assert_eq!(TimestampMs(0).to_string(), "1970-01-01T00:00:00.000Z");
    }
}
