//! A history to be asserted on.

use std::ops::Index;

use serde_json::Value;

/// The events of an instance's current execution, as JSON: each with its `kind`
/// beside its fields, as `dacapo history --json` shows them.
#[derive(Clone, Debug, PartialEq)]
pub struct History(Vec<Value>);

impl History {
    pub(crate) fn new(events: Value) -> Self {
        match events {
            Value::Array(events) => Self(events),
            other => panic!("expected events, found {other}"),
        }
    }

    /// The events.
    pub fn events(&self) -> &[Value] {
        &self.0
    }

    /// The kinds of the events, in order.
    pub fn kinds(&self) -> Vec<&str> {
        self.0.iter().map(kind).collect()
    }

    /// How many events there are of that kind.
    pub fn count(&self, of: &str) -> usize {
        self.0.iter().filter(|event| kind(event) == of).count()
    }

    /// The events of that kind.
    pub fn of<'a>(&'a self, of: &'a str) -> impl Iterator<Item = &'a Value> {
        self.0.iter().filter(move |event| kind(event) == of)
    }

    /// # Panics
    /// If the kinds of the events are not these, in this order.
    #[track_caller]
    pub fn assert_kinds(&self, expected: &[&str]) {
        assert_eq!(self.kinds(), expected, "the history has other events");
    }

    /// # Panics
    /// If the kinds `expected` are not in the history in this order; others may
    /// stand between them.
    #[track_caller]
    pub fn assert_in_order(&self, expected: &[&str]) {
        let mut kinds = self.kinds().into_iter();
        for wanted in expected {
            assert!(kinds.any(|kind| kind == *wanted), "no {wanted} where expected in {:?}", self.kinds());
        }
    }
}

impl Index<usize> for History {
    type Output = Value;
    fn index(&self, index: usize) -> &Value {
        &self.0[index]
    }
}

fn kind(event: &Value) -> &str {
    event["kind"].as_str().unwrap_or_default()
}
