//! Names and times: the newtypes that every other part speaks in.
//!
//! An [`InstanceId`] is chosen by the caller; everything else here is counted or
//! hashed. Times are integers of milliseconds, so that they compare and encode
//! the same everywhere.

use std::borrow::Borrow;
use std::fmt;
use std::str::FromStr;
use std::sync::Arc;

use serde::{Deserialize, Serialize};

/// Longest instance id, in bytes: it is part of every key in the store.
pub const MAX_ID_BYTES: usize = 200;

/// The caller-chosen name of one run of an orchestration.
#[derive(Clone, PartialEq, Eq, Hash, PartialOrd, Ord, Serialize, Deserialize)]
#[serde(transparent)]
pub struct InstanceId(Arc<str>);

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

    /// The id as text.
    pub fn as_str(&self) -> &str {
        &self.0
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
        f.write_str(&self.0)
    }
}

impl fmt::Debug for InstanceId {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.0)
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
