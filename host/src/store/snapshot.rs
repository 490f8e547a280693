//! The state of a running instance after one of its turns, kept beside its history.
//!
//! It saves whoever wakes the instance all turns up to that one. It is never the truth and
//! never needed: one that is missing, old, or not of this very history is ignored, and the
//! history is read whole.

use serde::{Deserialize, Serialize};

use crate::core::ids::{ExecutionNumber, Hash, ModuleHash};
use crate::core::summary::Summary;

/// A state, and all that it depends on.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Snapshot {
    /// Of which instance of that id: see [`crate::core::mail::birth`].
    pub birth: u64,
    /// Of which life of it.
    pub execution: ExecutionNumber,
    /// The last turn that is in it, from 1.
    pub turn: u32,
    /// How many events those are.
    pub events: u32,
    /// The hash of that turn: of the whole history up to it.
    pub head: Hash,
    /// The module that it ran.
    pub module: ModuleHash,
    /// What else decides what the state means: the program and its compiler.
    pub make: Hash,
    /// The state.
    pub state: Vec<u8>,
}

impl Snapshot {
    /// Whether it may be of an instance whose row that is. That it is of its history
    /// shows only there.
    pub fn may_be_of(&self, row: &Summary) -> bool {
        !row.status.is_final()
            && (self.birth, self.execution, self.module) == (row.birth, row.execution, row.module)
            && self.turn <= row.turns
            && self.events <= row.events
    }
}
