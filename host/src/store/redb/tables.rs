//! Keys and bytes of every table, and the checksum over both.
//!
//! This is the whole on-disk format; `host/docs/journal-format.md` is its page,
//! and a test holds the two together. Invariant: a value is read only through
//! [`open`], so bytes that were changed, or that ended up under another key, are
//! [`StoreError::Corrupt`] and never good. Which rows exist when, and what they
//! mean, is left to the other files of this folder.

use std::borrow::Cow;
use std::ops::Range;
use std::sync::Arc;

use redb::TableDefinition;
use serde::de::DeserializeOwned;
use serde::{Deserialize, Serialize};

use crate::core::ids::{ExecutionNumber, Hash, InstanceId};
use crate::core::summary::Summary;
use crate::store::backup::BackupError;
use crate::store::codec::{self, Codec, Unreadable};
use crate::store::snapshot::Snapshot;
use crate::store::{StoreError, TurnCommit};

/// Version of everything on this page. It stands in [`META`] under [`META_FORMAT`].
pub const FORMAT: u64 = 2;

/// Bytes of the checksum that every value begins with.
pub const CHECKSUM_BYTES: usize = 16;

/// The checksum, and the byte that says how the content is written: see
/// [`crate::store::codec`].
const HEAD_BYTES: usize = CHECKSUM_BYTES + 1;

/// Few named numbers.
pub(super) const META: TableDefinition<'_, &str, &[u8]> = TableDefinition::new("meta");
/// In [`META`]: the format of this file.
pub(super) const META_FORMAT: &str = "format";
/// In [`META`]: the epoch of the last claim.
pub(super) const META_EPOCH: &str = "epoch";
/// In [`META`]: the id of the key that encrypts, encrypted with it; absent while none does.
pub(super) const META_KEY: &str = "key";
/// In [`META`]: the [`Noted`] of the log. A file of format 1 has none.
pub(super) const META_LOG: &str = "log";

/// What the tables know of the log.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub(super) struct Noted {
    /// Commits up to this one are in the tables.
    pub(super) folded: u64,
    /// What the frames written since the last claim carry; none: the log is closed,
    /// and all that was in it is in the tables.
    pub(super) id: Option<LogId>,
}

/// Tells the frames of one opening of a log from all others.
pub(super) type LogId = [u8; 16];

/// Commits of format 1 that are not folded yet: one row each, by commit number.
pub(super) const LOG: TableDefinition<'_, u64, &[u8]> = TableDefinition::new("log");
/// Folded turns, by [`history_key`].
pub(super) const HISTORY: TableDefinition<'_, &[u8], &[u8]> = TableDefinition::new("history");
/// A summary of each instance's folded turns, by id.
pub(super) const INSTANCES: TableDefinition<'_, &str, &[u8]> = TableDefinition::new("instances");
/// Ids of instances that, as far as they are folded, have not ended.
pub(super) const RUNNING: TableDefinition<'_, &str, ()> = TableDefinition::new("running");
/// Modules without their bytes, by hash.
pub(super) const MODULES: TableDefinition<'_, &[u8; 32], &[u8]> = TableDefinition::new("modules");
/// Components, by hash. The key is their checksum.
pub(super) const MODULE_BYTES: TableDefinition<'_, &[u8; 32], &[u8]> = TableDefinition::new("module_bytes");
/// Schedules, by name.
pub(super) const SCHEDULES: TableDefinition<'_, &str, &[u8]> = TableDefinition::new("schedules");

/// Large payloads, by [`payload_key`].
pub(super) const PAYLOADS: TableDefinition<'_, &[u8], &[u8]> = TableDefinition::new("payloads");

/// Folded instances by the time of their creation: see [`super::index`].
pub(super) const CREATED: TableDefinition<'_, &[u8], ()> = TableDefinition::new("created");
/// How many folded instances there are of each status, by its name in a namespace.
pub(super) const COUNTS: TableDefinition<'_, &str, &[u8]> = TableDefinition::new("counts");

/// Bytes of folded turns, by namespace.
pub(super) const SIZES: TableDefinition<'_, &str, &[u8]> = TableDefinition::new("sizes");
/// Snapshots of running instances, by id. They are in no backup.
pub(super) const SNAPSHOTS: TableDefinition<'_, &str, &[u8]> = TableDefinition::new("snapshots");

/// Every table, in the order of the format's page.
pub const NAMES: [&str; 13] = [
    "meta",
    "log",
    "history",
    "instances",
    "running",
    "modules",
    "module_bytes",
    "schedules",
    "payloads",
    "created",
    "counts",
    "sizes",
    "snapshots",
];

/// Something to be done with every table, whatever the types of its rows.
pub(super) trait EachTable {
    /// Does it with one.
    fn table<K: redb::Key + 'static, V: redb::Value + 'static>(
        &mut self,
        definition: TableDefinition<'static, K, V>,
    ) -> Result<(), BackupError>;
}

/// Visits the tables of a backup, in the order of [`NAMES`].
pub(super) fn each_table(visitor: &mut impl EachTable) -> Result<(), BackupError> {
    visitor.table(META)?;
    visitor.table(LOG)?;
    visitor.table(HISTORY)?;
    visitor.table(INSTANCES)?;
    visitor.table(RUNNING)?;
    visitor.table(MODULES)?;
    visitor.table(MODULE_BYTES)?;
    visitor.table(SCHEDULES)?;
    visitor.table(PAYLOADS)?;
    visitor.table(CREATED)?;
    visitor.table(COUNTS)?;
    visitor.table(SIZES)
}

/// Checks what needs no key to be checked: that a row is the one that was written there.
pub(super) fn check_row(table: &str, key: &[u8], row: &[u8]) -> Result<(), StoreError> {
    let is_intact = match table {
        "running" | "created" => row.is_empty(),
        "module_bytes" => Hash::of(row).0 == key,
        _ => row.split_at_checked(CHECKSUM_BYTES).is_some_and(|(sum, sealed)| sum == checksum(table, key, sealed)),
    };
    let what = || match std::str::from_utf8(key) {
        Ok(key) if !key.contains(char::is_control) => format!("{key:?} in the table {table}"),
        _ => format!("a row of the table {table}"),
    };
    if is_intact { Ok(()) } else { Err(corrupt(what(), "its checksum does not match")) }
}

/// The checksum of a row: the table's name, the key and the content, each after its length.
fn checksum(table: &str, key: &[u8], content: &[u8]) -> [u8; CHECKSUM_BYTES] {
    let mut hasher = blake3::Hasher::new();
    for part in [table.as_bytes(), key] {
        hasher.update(&(part.len() as u32).to_le_bytes()).update(part);
    }
    hasher.update(content);
    let mut sum = [0; CHECKSUM_BYTES];
    sum.copy_from_slice(&hasher.finalize().as_bytes()[..CHECKSUM_BYTES]);
    sum
}

/// Puts the checksum over `row[CHECKSUM_BYTES..]` into the room left before it.
fn seal_in_place(table: &str, key: &[u8], row: &mut [u8]) {
    let (head, content) = row.split_at_mut(CHECKSUM_BYTES);
    head.copy_from_slice(&checksum(table, key, content));
}

/// Seals a row whose content stands, plain, behind the room for its head.
fn finish(codec: &Codec, table: &str, key: &[u8], row: Vec<u8>) -> Vec<u8> {
    let (encoding, mut row) = codec.encode(HEAD_BYTES, row, || place(table, key));
    row[CHECKSUM_BYTES] = encoding;
    seal_in_place(table, key, &mut row);
    row
}

/// The content of a stored value. `what` names it for people.
pub(super) fn open<'a>(
    codec: &Codec,
    table: &str,
    key: &[u8],
    row: &'a [u8],
    what: impl FnOnce() -> String,
) -> Result<Cow<'a, [u8]>, StoreError> {
    let (encoding, content) = match row.split_at_checked(CHECKSUM_BYTES) {
        Some((sum, sealed)) if sum == checksum(table, key, sealed) => match sealed.split_first() {
            Some((&codec::PLAIN, content)) => return Ok(Cow::Borrowed(content)),
            Some((encoding, content)) => (*encoding, content),
            None => return Err(corrupt(what(), "it does not say how it is written")),
        },
        Some(_) => return Err(corrupt(what(), "its checksum does not match")),
        None => return Err(corrupt(what(), "it is shorter than its checksum")),
    };
    codec.decode(&place(table, key), encoding, content).map_err(|error| match error {
        Unreadable::NoKey(key) => StoreError::KeyMissing { what: what(), key },
        Unreadable::Damaged(why) => corrupt(what(), why),
    })
}

/// Where a row stands: what its encryption is bound to.
fn place(table: &str, key: &[u8]) -> Vec<u8> {
    [&(table.len() as u32).to_le_bytes()[..], table.as_bytes(), key].concat()
}

/// The value to store for `value`: its postcard encoding behind its checksum.
pub(super) fn seal_value<T: Serialize>(codec: &Codec, table: &str, key: &[u8], value: &T) -> Vec<u8> {
    let room = vec![0; HEAD_BYTES];
    let row = postcard::to_extend(value, room).expect("a stored value has no part that postcard cannot write");
    finish(codec, table, key, row)
}

/// [`open`] of a value's postcard encoding.
pub(super) fn open_value<T: DeserializeOwned>(
    codec: &Codec,
    table: &str,
    key: &[u8],
    row: &[u8],
    what: impl Fn() -> String,
) -> Result<T, StoreError> {
    let content = open(codec, table, key, row, &what)?;
    match postcard::take_from_bytes(&content) {
        Ok((value, [])) => Ok(value),
        Ok((_, rest)) => Err(corrupt(what(), format!("{} bytes follow it", rest.len()))),
        Err(error) => Err(corrupt(what(), error)),
    }
}

pub(super) fn corrupt(what: impl Into<String>, why: impl ToString) -> StoreError {
    StoreError::Corrupt { what: what.into(), why: why.to_string() }
}

// ---- instance rows ----

/// The row of an instance.
pub fn encode_summary(codec: &Codec, summary: &Summary) -> Vec<u8> {
    seal_value(codec, "instances", summary.instance.as_str().as_bytes(), summary)
}

/// Reads what [`encode_summary`] wrote.
///
/// # Errors
/// [`StoreError::Corrupt`] naming the instance.
pub fn decode_summary(codec: &Codec, instance: &InstanceId, row: &[u8]) -> Result<Summary, StoreError> {
    open_value(codec, "instances", instance.as_str().as_bytes(), row, || format!("the row of {instance}"))
}

// ---- snapshots ----

/// The row of a snapshot. It is compressed whatever `codec` does with other rows: most of
/// a guest's memory is empty.
pub fn encode_snapshot(codec: &Codec, instance: &InstanceId, snapshot: &Snapshot) -> Vec<u8> {
    seal_value(&codec.clone().compress_above(0), "snapshots", instance.as_str().as_bytes(), snapshot)
}

/// Reads what [`encode_snapshot`] wrote.
///
/// # Errors
/// [`StoreError::Corrupt`] naming the instance.
pub fn decode_snapshot(codec: &Codec, instance: &InstanceId, row: &[u8]) -> Result<Snapshot, StoreError> {
    open_value(codec, "snapshots", instance.as_str().as_bytes(), row, || format!("the snapshot of {instance}"))
}

// ---- log rows ----

/// Appends the log row of a commit with that key to `out`, as `codec` writes it.
pub fn append_log_row(codec: &Codec, key: &[u8], turns: &[TurnCommit], out: &mut Vec<u8>) {
    let turn = |turn: &TurnCommit| 1 + turn.instance.as_str().len() + 12 + turn.bytes.len();
    let (start, len) = (out.len(), HEAD_BYTES + 4 + turns.iter().map(turn).sum::<usize>());
    if codec.leaves(len - HEAD_BYTES) {
        out.resize(start + len, 0);
        write_log_content(turns, &mut out[start..]);
        seal_in_place("log", key, &mut out[start..]);
    } else {
        let mut row = vec![0; len];
        write_log_content(turns, &mut row);
        out.extend_from_slice(&finish(codec, "log", key, row));
    }
}

fn write_log_content(turns: &[TurnCommit], row: &mut [u8]) {
    row[CHECKSUM_BYTES] = codec::PLAIN;
    let mut at = HEAD_BYTES;
    let mut put = |bytes: &[u8]| {
        row[at..at + bytes.len()].copy_from_slice(bytes);
        at += bytes.len();
    };
    put(&(turns.len() as u32).to_le_bytes());
    for turn in turns {
        let (id, stored) = (turn.instance.as_str().as_bytes(), Stored::Whole(&turn.bytes));
        put(&[id.len() as u8]);
        put(id);
        put(&turn.execution.to_le_bytes());
        put(&turn.turn.to_le_bytes());
        put(&stored.length().to_le_bytes());
        put(stored.bytes());
    }
    assert_eq!(at, row.len(), "a log row fills its room");
}

/// Reads what [`append_log_row`] wrote for commit `number`, and what earlier versions wrote
/// without the large payloads of its turns: `fetch` brings those.
///
/// # Errors
/// [`StoreError::Corrupt`] naming the commit; what `fetch` fails with.
pub fn decode_log_row(
    codec: &Codec,
    number: u64,
    key: &[u8],
    row: &[u8],
    fetch: &mut Fetch<'_>,
) -> Result<Vec<TurnCommit>, StoreError> {
    let what = || format!("commit {number} of the log");
    let content = open(codec, "log", key, row, what)?;
    let mut rest = Bytes(&content);
    let mut read = || {
        let count = rest.u32()?;
        let mut turns = Vec::new();
        for _ in 0..count {
            let id_bytes = rest.take(1)?[0];
            let id = std::str::from_utf8(rest.take(id_bytes.into())?).ok()?;
            let instance = InstanceId::stored(id).ok()?;
            let (execution, turn) = (rest.u32()?, rest.u32()?);
            turns.push((instance, execution, turn, rest.stored()?));
        }
        rest.0.is_empty().then_some(turns)
    };
    let turns = read().ok_or_else(|| corrupt(what(), "its lengths do not add up"))?;
    let whole = turns.into_iter().map(|(instance, execution, turn, stored)| {
        let bytes = stored.whole(&mut |hash| fetch(&instance, hash), what)?;
        Ok(TurnCommit { instance, execution, turn, bytes })
    });
    whole.collect()
}

// ---- history rows ----

/// The key of the turns of one execution from `first_turn` on. An id has no zero
/// byte, so keys sort by id, execution, turn.
pub fn history_key(instance: &InstanceId, execution: ExecutionNumber, first_turn: u32) -> Vec<u8> {
    let id = instance.as_str().as_bytes();
    let mut key = Vec::with_capacity(id.len() + 9);
    key.extend_from_slice(id);
    key.push(0);
    key.extend_from_slice(&execution.to_be_bytes());
    key.extend_from_slice(&first_turn.to_be_bytes());
    key
}

/// The first turn that a history row of a known instance and execution holds.
pub(super) fn first_turn_of_key(key: &[u8]) -> Option<u32> {
    Some(u32::from_be_bytes(*key.last_chunk()?))
}

/// The history row of consecutive turns.
pub fn encode_history_row(codec: &Codec, key: &[u8], turns: &[Stored<'_>]) -> Vec<u8> {
    let content: usize = turns.iter().map(|turn| 4 + turn.bytes().len()).sum();
    let mut row = Vec::with_capacity(HEAD_BYTES + 4 + content);
    row.resize(HEAD_BYTES, 0);
    row.extend_from_slice(&(turns.len() as u32).to_le_bytes());
    for turn in turns {
        row.extend_from_slice(&turn.length().to_le_bytes());
        row.extend_from_slice(turn.bytes());
    }
    finish(codec, "history", key, row)
}

/// Appends the turns of a history row to `turns`, but for the first `skipped`.
///
/// # Errors
/// [`StoreError::Corrupt`] with `what` as its name; what `fetch` fails with.
pub fn decode_history_row(
    codec: &Codec,
    key: &[u8],
    row: &[u8],
    skipped: u32,
    turns: &mut Vec<Arc<[u8]>>,
    fetch: &mut dyn FnMut(Hash) -> Result<Arc<[u8]>, StoreError>,
    what: impl Fn() -> String,
) -> Result<(), StoreError> {
    let content = open(codec, "history", key, row, &what)?;
    let mut rest = Bytes(&content);
    let lengths = || corrupt(what(), "its lengths do not add up");
    let mut before: Option<Arc<[u8]>> = None;
    let mut linked = Vec::new();
    for at in 0..rest.u32().ok_or_else(lengths)? {
        let turn = match rest.stored().ok_or_else(lengths)? {
            Stored::Linked(rest) => {
                let before = before.as_deref().ok_or_else(|| corrupt(what(), "no turn stands before its first"))?;
                linked.clear();
                linked.extend_from_slice(&Hash::of(before).0);
                linked.extend_from_slice(rest);
                linked.as_slice().into()
            }
            stored => stored.whole(fetch, &what)?,
        };
        if at >= skipped {
            turns.push(turn.clone());
        }
        before = Some(turn);
    }
    if rest.0.is_empty() { Ok(()) } else { Err(lengths()) }
}

/// Bytes of the turns of a history row, with their large payloads.
pub(super) fn history_row_bytes(codec: &Codec, key: &[u8], row: &[u8]) -> Result<u64, StoreError> {
    let what = || "a row of the histories".to_owned();
    let content = open(codec, "history", key, row, what)?;
    let mut rest = Bytes(&content);
    let mut sum = || {
        let mut sum = 0;
        for _ in 0..rest.u32()? {
            sum += rest.stored()?.whole_bytes()?;
        }
        Some(sum)
    };
    sum().ok_or_else(|| corrupt(what(), "its lengths do not add up"))
}

// ---- large payloads ----

/// The key of a large payload: by instance, then by the hash of its bytes.
pub fn payload_key(instance: &InstanceId, payload: Hash) -> Vec<u8> {
    [instance.as_str().as_bytes(), &[0], &payload.0].concat()
}

/// The row of a large payload.
pub fn encode_payload_row(codec: &Codec, key: &[u8], payload: &[u8]) -> Vec<u8> {
    let mut row = Vec::with_capacity(HEAD_BYTES + payload.len());
    row.resize(HEAD_BYTES, 0);
    row.extend_from_slice(payload);
    finish(codec, "payloads", key, row)
}

/// Reads what [`encode_payload_row`] wrote.
///
/// # Errors
/// [`StoreError::Corrupt`] with `what` as its name.
pub fn decode_payload_row(
    codec: &Codec,
    key: &[u8],
    row: &[u8],
    what: impl FnOnce() -> String,
) -> Result<Arc<[u8]>, StoreError> {
    open(codec, "payloads", key, row, what).map(|payload| (&*payload).into())
}

/// A turn without the payloads at `places`, whose hashes are `hashes`: what stands in
/// log and history rows.
pub fn cut_turn(turn: &[u8], places: &[Range<usize>], hashes: &[Hash]) -> Vec<u8> {
    let kept = turn.len() - places.iter().map(Range::len).sum::<usize>();
    let mut cut = Vec::with_capacity(4 + 40 * places.len() + kept);
    cut.extend_from_slice(&(places.len() as u32).to_le_bytes());
    for (place, hash) in places.iter().zip(hashes) {
        cut.extend_from_slice(&(place.start as u32).to_le_bytes());
        cut.extend_from_slice(&(place.len() as u32).to_le_bytes());
        cut.extend_from_slice(&hash.0);
    }
    let mut at = 0;
    for place in places {
        cut.extend_from_slice(&turn[at..place.start]);
        at = place.end;
    }
    cut.extend_from_slice(&turn[at..]);
    cut
}

/// Brings a large payload of an instance, by its hash.
pub type Fetch<'f> = dyn FnMut(&InstanceId, Hash) -> Result<Arc<[u8]>, StoreError> + 'f;

/// How a turn stands in a row.
#[derive(Clone, Copy, Debug)]
pub enum Stored<'a> {
    /// As it is.
    Whole(&'a [u8]),
    /// As [`cut_turn`] left it.
    Cut(&'a [u8]),
    /// Without what it begins with: the hash of the turn before it in the row.
    Linked(&'a [u8]),
}

/// In the length of a turn in a row: its large payloads are elsewhere.
const IS_CUT: u32 = 1 << 31;
/// In the length of a turn in a row: the hash of the turn before it is left out.
const IS_LINKED: u32 = 1 << 30;

impl<'a> Stored<'a> {
    /// `turn` without the hash of `before`, the one before it in the row, if it begins
    /// with that.
    pub fn after(before: &[u8], turn: &'a [u8]) -> Self {
        match turn.strip_prefix(&Hash::of(before).0) {
            Some(rest) => Self::Linked(rest),
            None => Self::Whole(turn),
        }
    }

    fn bytes(self) -> &'a [u8] {
        match self {
            Self::Whole(bytes) | Self::Cut(bytes) | Self::Linked(bytes) => bytes,
        }
    }

    fn length(self) -> u32 {
        let length = self.bytes().len() as u32;
        match self {
            Self::Whole(_) => length,
            Self::Cut(_) => length | IS_CUT,
            Self::Linked(_) => length | IS_LINKED,
        }
    }

    /// How long the turn is with its payloads.
    fn whole_bytes(self) -> Option<u64> {
        let mut rest = match self {
            Self::Whole(bytes) => return Some(bytes.len() as u64),
            Self::Linked(rest) => return Some((size_of::<Hash>() + rest.len()) as u64),
            Self::Cut(cut) => Bytes(cut),
        };
        let mut bytes = 0;
        for _ in 0..rest.u32()? {
            rest.u32()?;
            bytes += u64::from(rest.u32()?);
            rest.take(size_of::<Hash>())?;
        }
        Some(bytes + rest.0.len() as u64)
    }

    /// The turn with its payloads.
    fn whole(
        self,
        fetch: &mut dyn FnMut(Hash) -> Result<Arc<[u8]>, StoreError>,
        what: impl Fn() -> String,
    ) -> Result<Arc<[u8]>, StoreError> {
        let mut rest = match self {
            Self::Whole(bytes) => return Ok(bytes.into()),
            Self::Linked(_) => return Err(corrupt(what(), "the turn before it is not in the row")),
            Self::Cut(cut) => Bytes(cut),
        };
        let lengths = || corrupt(what(), "the lengths of its payloads do not add up");
        let mut heads = Vec::new();
        for _ in 0..rest.u32().ok_or_else(lengths)? {
            let mut head = || Some((rest.u32()? as usize, rest.u32()? as usize, Hash(*rest.take(32)?.first_chunk()?)));
            heads.push(head().ok_or_else(lengths)?);
        }
        let mut turn = Vec::with_capacity(rest.0.len() + heads.iter().map(|(_, len, _)| len).sum::<usize>());
        for (start, len, hash) in heads {
            let kept = start.checked_sub(turn.len()).and_then(|len| rest.take(len)).ok_or_else(lengths)?;
            turn.extend_from_slice(kept);
            let payload = fetch(hash)?;
            if payload.len() != len {
                return Err(lengths());
            }
            turn.extend_from_slice(&payload);
        }
        turn.extend_from_slice(rest.0);
        Ok(turn.into())
    }
}

struct Bytes<'a>(&'a [u8]);

impl<'a> Bytes<'a> {
    fn take(&mut self, len: usize) -> Option<&'a [u8]> {
        let (taken, rest) = self.0.split_at_checked(len)?;
        self.0 = rest;
        Some(taken)
    }

    fn stored(&mut self) -> Option<Stored<'a>> {
        let length = self.u32()?;
        let bytes = self.take((length & !(IS_CUT | IS_LINKED)) as usize)?;
        match (length & IS_CUT != 0, length & IS_LINKED != 0) {
            (false, false) => Some(Stored::Whole(bytes)),
            (true, false) => Some(Stored::Cut(bytes)),
            (false, true) => Some(Stored::Linked(bytes)),
            (true, true) => None,
        }
    }

    fn u32(&mut self) -> Option<u32> {
        let (taken, rest) = self.0.split_first_chunk()?;
        self.0 = rest;
        Some(u32::from_le_bytes(*taken))
    }
}
