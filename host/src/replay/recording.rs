//! A recording: one history in one file, to be replayed anywhere.
//!
//! Layout: the line `dacapo recording 1\n`, the BLAKE3 hash of all that follows
//! (32 bytes), then a postcard-encoded [`Recording`]. The turns are the stored
//! bytes, so their hash chain can be verified on its own.

use std::sync::Arc;

use serde::{Deserialize, Serialize};

use crate::core::event::Event;
use crate::core::ids::{ExecutionNumber, Hash, InstanceId, ModuleHash};
use crate::core::turn::{TurnRecord, module_of};
use crate::store::{History, StoreError};

const MAGIC: &[u8] = b"dacapo recording 1\n";

/// A history with what is needed to replay it.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Recording {
    /// Whose.
    pub instance: String,
    /// Which life of it.
    pub execution: ExecutionNumber,
    /// The module that it runs: the one it was migrated to last, else the one it
    /// started with.
    pub module_hash: ModuleHash,
    /// That module, if it was put in.
    pub module: Option<Vec<u8>>,
    /// The turns as they are stored.
    pub turns: Vec<Arc<[u8]>>,
}

/// Why a recording cannot be used.
#[derive(Debug, thiserror::Error)]
pub enum RecordingError {
    /// Another kind of file.
    #[error("not a recording: expected a file that `dacapo history --output` wrote")]
    NotARecording,
    /// Changed since it was written.
    #[error("the recording is damaged: {0}; fetch it again")]
    Damaged(String),
    /// It has a module that is not the one it names.
    #[error("the recording names module {named}, the one inside is {found}; fetch it again")]
    OtherModule {
        /// Hash it names.
        named: String,
        /// Hash of what is inside.
        found: String,
    },
}

impl Recording {
    /// A recording of `history`, with the module's bytes if given.
    ///
    /// # Errors
    /// If the history is damaged or empty.
    pub fn of(history: &History, module: Option<Vec<u8>>) -> Result<Self, StoreError> {
        let records = history.decode()?;
        let begins = matches!(records.first().and_then(|first| first.events.first()), Some(Event::ExecutionStarted(_)));
        let Some(module_hash) = module_of(&records).filter(|_| begins) else {
            return Err(StoreError::Corrupt {
                what: format!("history of {} execution {}", history.instance, history.execution),
                why: "it does not begin with execution-started".to_owned(),
            });
        };
        Ok(Self {
            instance: history.instance.to_string(),
            execution: history.execution,
            module_hash,
            module,
            turns: history.turns.clone(),
        })
    }

    /// The file's bytes.
    pub fn encode(&self) -> Vec<u8> {
        let body = postcard::to_stdvec(self).expect("a recording has no part that postcard cannot write");
        [MAGIC, &Hash::of(&body).0, &body].concat()
    }

    /// Reads a file's bytes; every byte is checked.
    ///
    /// # Errors
    /// [`RecordingError`] if it is no recording or was changed.
    pub fn decode(bytes: &[u8]) -> Result<Self, RecordingError> {
        let rest = bytes.strip_prefix(MAGIC).ok_or(RecordingError::NotARecording)?;
        let (hash, body) =
            rest.split_at_checked(32).ok_or_else(|| RecordingError::Damaged("it ends too early".to_owned()))?;
        if Hash::of(body).0 != hash {
            return Err(RecordingError::Damaged("its bytes do not have the hash they were written with".to_owned()));
        }
        let recording: Self = postcard::from_bytes(body).map_err(|e| RecordingError::Damaged(e.to_string()))?;
        match recording.module.as_deref().map(Hash::of) {
            Some(found) if found != recording.module_hash => {
                Err(RecordingError::OtherModule { named: recording.module_hash.short(), found: found.short() })
            }
            _ => Ok(recording),
        }
    }

    /// The turns, decoded and their chain verified.
    ///
    /// # Errors
    /// [`RecordingError::Damaged`] naming the event.
    pub fn records(&self) -> Result<Vec<TurnRecord>, RecordingError> {
        let damaged = |why: String| RecordingError::Damaged(why);
        let instance = InstanceId::new(&self.instance).map_err(|error| damaged(error.to_string()))?;
        let history = History { instance, execution: self.execution, turns: self.turns.clone() };
        history.decode().map_err(|error| damaged(error.to_string()))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_changed_byte_is_found() {
        let recording = Recording {
            instance: "order-42".into(),
            execution: 1,
            module_hash: Hash::of(b"module"),
            module: Some(b"module".to_vec()),
            turns: vec![b"turn one".as_slice().into(), b"turn two".as_slice().into()],
        };
        let bytes = recording.encode();
        assert_eq!(Recording::decode(&bytes).unwrap(), recording);
        for at in 0..bytes.len() {
            let mut changed = bytes.clone();
            changed[at] ^= 1;
            assert!(Recording::decode(&changed).is_err(), "byte {at}");
            assert!(Recording::decode(&bytes[..at]).is_err(), "cut at {at}");
        }
    }
}
