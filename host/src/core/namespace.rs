//! Namespaces: how the names of one are kept apart from those of another.
//!
//! A name in the default namespace is written as it is. In any other one it is
//! *qualified*: the namespace stands before it, between two marks that no caller and
//! no guest can write, since names are refused where they enter if they have control
//! characters. So ids, keys of the store and histories need no further field, what
//! was stored before there were namespaces is in the default one, and whoever only
//! passes a name on cannot lose its namespace.

use std::fmt;
use std::sync::Arc;

use serde::{Deserialize, Deserializer, Serialize, Serializer};

/// Before and behind the namespace of a qualified name.
const MARK: char = '\u{1f}';
/// How the default one is written.
pub const DEFAULT: &str = "default";
/// It stands in every key of what is in it.
pub(crate) const MAX_BYTES: usize = 40;

/// A namespace. Its text is empty for the default one.
#[derive(Clone, Default, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct Namespace(Option<Arc<str>>);

/// Why a text is not a [`Namespace`].
#[derive(Debug, thiserror::Error, PartialEq, Eq)]
#[error("namespace {0:?} is not valid: expected 1 to {MAX_BYTES} small letters, digits and '-', with a letter first")]
pub struct InvalidNamespace(String);

impl Namespace {
    /// Checks and takes a name.
    ///
    /// # Errors
    /// [`InvalidNamespace`] with what is expected.
    pub fn new(name: &str) -> Result<Self, InvalidNamespace> {
        if name == DEFAULT {
            return Ok(Self::default());
        }
        let is_plain = |c: char| c.is_ascii_lowercase() || c.is_ascii_digit() || c == '-';
        let is_good = name.len() <= MAX_BYTES && name.starts_with(|c: char| c.is_ascii_lowercase());
        if is_good && name.chars().all(is_plain) {
            Ok(Self(Some(name.into())))
        } else {
            Err(InvalidNamespace(name.chars().take(64).collect()))
        }
    }

    /// The namespace of a qualified name.
    pub fn of(qualified: &str) -> Self {
        match split(qualified).0 {
            "" => Self::default(),
            name => Self(Some(name.into())),
        }
    }

    /// Whether it is the default one, the operator's.
    pub fn is_default(&self) -> bool {
        self.0.is_none()
    }

    /// Its text in qualified names: empty for the default one.
    pub fn key(&self) -> &str {
        self.0.as_deref().unwrap_or_default()
    }

    /// Its name, for people.
    pub fn name(&self) -> &str {
        self.0.as_deref().unwrap_or(DEFAULT)
    }

    /// `name` in this namespace, and in no other, whatever is in it.
    pub fn qualify(&self, name: &str) -> String {
        qualified(self.key(), &name.replace(MARK, "\u{fffd}"))
    }

    /// What every qualified name of it begins with.
    pub fn prefix(&self) -> String {
        qualified(self.key(), "")
    }

    /// Whether the qualified name is one of this namespace.
    pub fn has(&self, qualified: &str) -> bool {
        split(qualified).0 == self.key()
    }
}

/// A name without marks in it, in the namespace with that key.
pub(crate) fn qualified(key: &str, name: &str) -> String {
    if key.is_empty() { name.to_owned() } else { format!("{MARK}{key}{MARK}{name}") }
}

/// The namespace of a qualified name (empty for the default one), and the name in it.
pub fn split(qualified: &str) -> (&str, &str) {
    qualified.strip_prefix(MARK).and_then(|rest| rest.split_once(MARK)).unwrap_or(("", qualified))
}

/// The name in its namespace, as callers and guests know it.
pub fn local(qualified: &str) -> &str {
    split(qualified).1
}

/// A qualified name for the operator: `name`, or `name@namespace`.
pub fn shown(qualified: &str) -> std::borrow::Cow<'_, str> {
    match split(qualified) {
        ("", name) => name.into(),
        (namespace, name) => format!("{name}@{namespace}").into(),
    }
}

impl fmt::Display for Namespace {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.name())
    }
}

impl fmt::Debug for Namespace {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.name())
    }
}

impl Serialize for Namespace {
    fn serialize<S: Serializer>(&self, s: S) -> Result<S::Ok, S::Error> {
        s.serialize_str(self.name())
    }
}

impl<'de> Deserialize<'de> for Namespace {
    fn deserialize<D: Deserializer<'de>>(d: D) -> Result<Self, D::Error> {
        Self::new(&String::deserialize(d)?).map_err(serde::de::Error::custom)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn names_of_two_namespaces_are_never_the_same() {
        let (acme, default) = (Namespace::new("acme").unwrap(), Namespace::new("default").unwrap());
        assert_eq!(default.qualify("order"), "order");
        let qualified = acme.qualify("order");
        assert_eq!((split(&qualified), Namespace::of(&qualified)), (("acme", "order"), acme.clone()));
        assert!(acme.has(&qualified) && !default.has(&qualified) && default.has("order"));
        assert_eq!((&*shown(&qualified), &*shown("order")), ("order@acme", "order"));
        // What looks like a qualified name is only a name.
        assert_eq!(split(&default.qualify(&qualified)).0, "");
        assert_eq!(split(&Namespace::new("b").unwrap().qualify(&qualified)).0, "b");
    }

    #[test]
    fn names_of_namespaces_are_checked() {
        for good in ["a", "acme-2", "default"] {
            assert_eq!(Namespace::new(good).unwrap().name(), good);
        }
        for bad in ["", "A", "1a", "a b", "a/b", "ä", &"x".repeat(41)] {
            assert!(Namespace::new(bad).is_err(), "{bad}");
        }
    }
}
