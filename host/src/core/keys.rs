//! Keys of events: what makes one that is sent twice come once.
//!
//! Whoever raises an event from outside may give it a key. The instance remembers
//! the last [`REMEMBERED`] of them, through continue-as-new as well, since its state
//! must stay small; a repetition that comes later than that is a new event.

use std::collections::VecDeque;

use serde::{Deserialize, Serialize};

/// Keys that an instance remembers.
pub const REMEMBERED: usize = 1000;

/// The keys, the oldest first.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(transparent)]
pub struct Keys(VecDeque<String>);

impl Keys {
    /// Whether an event with that key was raised.
    pub fn has(&self, key: &str) -> bool {
        // Repetitions come soon after the first.
        self.0.iter().rev().any(|known| known == key)
    }

    /// An event with that key was raised.
    pub fn take(&mut self, key: &str) {
        if self.0.len() == REMEMBERED {
            self.0.pop_front();
        }
        self.0.push_back(key.to_owned());
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_last_thousand_are_known() {
        let mut keys = Keys::default();
        for n in 0..=REMEMBERED {
            assert!(!keys.has(&n.to_string()));
            keys.take(&n.to_string());
        }
        assert!(!keys.has("0") && keys.has("1") && keys.has("1000"));
        assert_eq!(keys.0.len(), REMEMBERED);
    }
}
