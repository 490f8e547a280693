//! A recording: one history in one file, to be replayed anywhere.
//!
//! Every byte is under a checksum, and each part under one of its own, so that a
//! changed bit is not only found but named. Integers are little-endian:
//!
//! | bytes | what |
//! |---|---|
//! | 19 | the line `dacapo recording 1` |
//! | 4 | length of the head |
//! | | the head: postcard `Head`, whose the history is and how long the parts are |
//! | 32 | BLAKE3 of all before |
//! | | for each turn: the bytes that the journal has, then 16 bytes: the beginning of the BLAKE3 of its number (4 bytes) and its bytes |
//! | | the module, if it was put in; the head has its hash |
//! | 32 | BLAKE3 of all before |
//!
//! The turns carry their own hash chain besides, which [`Recording::records`] walks.

use std::sync::Arc;

use serde::{Deserialize, Serialize};

use crate::core::event::Event;
use crate::core::ids::{ExecutionNumber, Hash, InstanceId, ModuleHash};
use crate::core::turn::{TurnRecord, module_of};
use crate::store::{History, StoreError};

const MAGIC: &[u8] = b"dacapo recording 1\n";
const HASH_BYTES: usize = 32;
const TURN_SUM_BYTES: usize = 16;

/// A history with what is needed to replay it.
#[derive(Clone, Debug, PartialEq, Eq)]
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

/// What stands before the parts.
#[derive(Serialize, Deserialize)]
struct Head {
    instance: String,
    execution: ExecutionNumber,
    module_hash: ModuleHash,
    module_bytes: Option<u64>,
    turn_bytes: Vec<u32>,
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
            instance: history.instance.as_str().to_owned(),
            execution: history.execution,
            module_hash,
            module,
            turns: history.turns.clone(),
        })
    }

    /// The file's bytes.
    pub fn encode(&self) -> Vec<u8> {
        let head = Head {
            instance: self.instance.clone(),
            execution: self.execution,
            module_hash: self.module_hash,
            module_bytes: self.module.as_ref().map(|module| module.len() as u64),
            turn_bytes: self.turns.iter().map(|turn| turn.len() as u32).collect(),
        };
        let head = postcard::to_stdvec(&head).expect("a head has no part that postcard cannot write");
        let mut file = MAGIC.to_vec();
        file.extend((head.len() as u32).to_le_bytes());
        file.extend(head);
        file.extend(Hash::of(&file).0);
        for (number, turn) in (1..).zip(&self.turns) {
            file.extend_from_slice(turn);
            file.extend(turn_sum(number, turn));
        }
        file.extend(self.module.as_deref().unwrap_or_default());
        file.extend(Hash::of(&file).0);
        file
    }

    /// Reads a file's bytes; every byte is checked.
    ///
    /// # Errors
    /// [`RecordingError`] if it is no recording or was changed, naming the part.
    pub fn decode(bytes: &[u8]) -> Result<Self, RecordingError> {
        if !bytes.starts_with(MAGIC) {
            return Err(not_the_first_line(bytes));
        }
        let mut rest = Rest { bytes, at: MAGIC.len() };
        let head = read_head(&mut rest)?;
        let mut turns: Vec<Arc<[u8]>> = Vec::new();
        let mut event = 1;
        for (number, &len) in (1..).zip(&head.turn_bytes) {
            let part = || format!("turn {number}, from event {event}");
            let turn = rest.take(len as usize, part)?;
            if rest.take(TURN_SUM_BYTES, part)? != turn_sum(number, turn) {
                return Err(changed(part()));
            }
            event += TurnRecord::decode(turn).map_or(0, |record| record.events.len());
            turns.push(turn.into());
        }
        let module = match head.module_bytes {
            Some(len) => {
                Some(rest.take(usize::try_from(len).unwrap_or(usize::MAX), || "the module inside".to_owned())?)
            }
            None => None,
        };
        let found = module.map(Hash::of).filter(|found| *found != head.module_hash);
        let end = rest.at;
        let sum = rest.take(HASH_BYTES, || "its closing checksum".to_owned())?;
        let is_as_written = Hash::of(&bytes[..end]).0 == sum;
        match (found, is_as_written) {
            (Some(found), true) => {
                return Err(RecordingError::OtherModule { named: head.module_hash.short(), found: found.short() });
            }
            (Some(_), false) => return Err(changed("the module inside".to_owned())),
            (None, false) => return Err(changed("its closing checksum".to_owned())),
            (None, true) => {}
        }
        if rest.at != bytes.len() {
            return Err(RecordingError::Damaged(format!("{} bytes follow its end", bytes.len() - rest.at)));
        }
        let Head { instance, execution, module_hash, .. } = head;
        Ok(Self { instance, execution, module_hash, module: module.map(<[u8]>::to_vec), turns })
    }

    /// The turns, decoded and their chain verified.
    ///
    /// # Errors
    /// [`RecordingError::Damaged`] naming the event.
    pub fn records(&self) -> Result<Vec<TurnRecord>, RecordingError> {
        let damaged = |why: String| RecordingError::Damaged(why);
        let instance = InstanceId::stored(&self.instance).map_err(|error| damaged(error.to_string()))?;
        let history = History { instance, execution: self.execution, turns: self.turns.clone() };
        history.decode().map_err(|error| damaged(error.to_string()))
    }
}

fn read_head(rest: &mut Rest<'_>) -> Result<Head, RecordingError> {
    let part = || "its head".to_owned();
    let len = rest.take(4, part)?.try_into().map_or(0, u32::from_le_bytes);
    let head = rest.take(len as usize, part)?;
    let sum = Hash::of(&rest.bytes[..rest.at]).0;
    if rest.take(HASH_BYTES, part)? != sum {
        return Err(changed(part()));
    }
    postcard::from_bytes(head).map_err(|error| RecordingError::Damaged(format!("its head: {error}")))
}

/// A file whose first line is changed a little is still told from another kind of file.
fn not_the_first_line(bytes: &[u8]) -> RecordingError {
    let same = bytes.iter().zip(MAGIC).filter(|(a, b)| a == b).count();
    if bytes.len() > MAGIC.len() && same * 2 > MAGIC.len() {
        changed("its first line".to_owned())
    } else {
        RecordingError::NotARecording
    }
}

fn changed(part: String) -> RecordingError {
    RecordingError::Damaged(format!("{part}: its bytes are not those that were written"))
}

fn turn_sum(number: u32, turn: &[u8]) -> [u8; TURN_SUM_BYTES] {
    let mut hasher = blake3::Hasher::new();
    hasher.update(&number.to_le_bytes()).update(turn);
    let mut sum = [0; TURN_SUM_BYTES];
    sum.copy_from_slice(&hasher.finalize().as_bytes()[..TURN_SUM_BYTES]);
    sum
}

struct Rest<'b> {
    bytes: &'b [u8],
    at: usize,
}

impl<'b> Rest<'b> {
    fn take(&mut self, len: usize, part: impl Fn() -> String) -> Result<&'b [u8], RecordingError> {
        let end = self.at.checked_add(len).filter(|end| *end <= self.bytes.len());
        let Some(end) = end else {
            return Err(RecordingError::Damaged(format!("{}: the file ends too early", part())));
        };
        let taken = &self.bytes[self.at..end];
        self.at = end;
        Ok(taken)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn recording() -> Recording {
        Recording {
            instance: "order-42".into(),
            execution: 1,
            module_hash: Hash::of(b"module"),
            module: Some(b"module".to_vec()),
            turns: vec![b"turn one".as_slice().into(), b"turn two".as_slice().into()],
        }
    }

    #[test]
    fn every_flipped_bit_is_found_and_its_part_is_named() {
        let bytes = recording().encode();
        assert_eq!(Recording::decode(&bytes).unwrap(), recording());
        let find = |part: &[u8]| bytes.windows(part.len()).position(|window| window == part).unwrap();
        let (one, two, module) = (find(b"turn one"), find(b"turn two"), find(b"module"));
        for at in 0..bytes.len() {
            let part = match at {
                _ if at < MAGIC.len() => "its first line",
                _ if at < one => "its head",
                _ if at < two => "turn 1, from event 1",
                _ if at < module => "turn 2, from event 1",
                _ if at < module + 6 => "the module inside",
                _ => "its closing checksum",
            };
            for bit in 0..8 {
                let mut changed = bytes.clone();
                changed[at] ^= 1 << bit;
                let error = Recording::decode(&changed).unwrap_err().to_string();
                assert!(error.contains(part), "byte {at} bit {bit}: expected {part}, found {error}");
            }
            assert!(Recording::decode(&bytes[..at]).is_err(), "cut at {at}");
        }
        assert!(Recording::decode(&[&bytes[..], b"x"].concat()).unwrap_err().to_string().contains("1 bytes follow"));
    }

    #[test]
    fn another_module_than_the_one_named_is_told_from_damage() {
        let other = Recording { module: Some(b"another".to_vec()), ..recording() };
        assert!(matches!(Recording::decode(&other.encode()), Err(RecordingError::OtherModule { .. })));
        let none = Recording { module: None, ..recording() };
        assert_eq!(Recording::decode(&none.encode()).unwrap(), none);
        assert!(matches!(Recording::decode(b"\0asm\x0d\0\x01\0 and more of it"), Err(RecordingError::NotARecording)));
    }
}
