//! The log: two files beside the tables, written in turn.
//!
//! A commit is one *frame* at the end of the current file, and it is durable with one
//! sync of that file. When a generation of turns is frozen the other file becomes the
//! current one, from its beginning; it is free by then, for what it held is in the
//! tables. Files that were written once are written over, so a sync seldom has to make
//! a new length durable as well.
//!
//! What is found when a store is opened is told apart by what each frame says of
//! itself (`host/docs/journal-format.md`): which opening wrote it, its number, and up to
//! which commit everything was durable when it was written. Frames that come after a
//! missing one and were never durable are the rest of a crash; a missing frame that was
//! durable is damage, and said to be.

use std::collections::BTreeSet;
use std::io;
use std::path::{Path, PathBuf};
use std::sync::Arc;

use redb::StorageBackend;

use super::Options;
use super::dying::DyingFile;
use super::files::{beside, sync_folder_of};
use super::overlay::Held;
use super::segment::Segment;
use super::tables::{self, LogId, Noted, corrupt};
use crate::core::ids::Hash;
use crate::store::codec::Codec;
use crate::store::{StoreError, TurnCommit};

/// Frames begin at multiples of this many bytes, which disks write at once: a torn write
/// damages no frame but its own.
const ALIGN: usize = 512;

/// What a frame begins with.
const MAGIC: [u8; 8] = *b"dacapo\x00\x01";

/// Bytes before a frame's row: the magic, the row's length, and the row's key.
const HEAD: usize = MAGIC.len() + 8 + KEY;

/// Bytes of a frame's key: its number, up to where all was durable, and its opening's id.
const KEY: usize = 8 + 8 + size_of::<LogId>();

/// A short frame at the end of a file takes so much room with it, written with zeros, so
/// that the next ones change no length: syncing that costs half as much again.
const ROOM: usize = 64 << 10;
/// What is short.
const SHORT: usize = 4 << 10;

/// Where the two files are.
#[derive(Debug)]
pub(super) enum Place {
    /// Beside the tables; made when they are needed, removed when they are not.
    Files(PathBuf),
    /// Given by a test, which owns the medium.
    Given([Arc<dyn StorageBackend>; 2]),
}

impl Place {
    fn paths(of: &Path) -> [PathBuf; 2] {
        [".log-1", ".log-2"].map(|ending| beside(of, ending))
    }

    /// Names the files for people.
    pub(super) fn name(&self) -> String {
        match self {
            Self::Files(of) => Self::paths(of).map(|path| path.display().to_string()).join(" and "),
            Self::Given(_) => "the log's files".to_owned(),
        }
    }

    /// All bytes of both files; none where there is no file.
    fn read(&self) -> Result<[Vec<u8>; 2], StoreError> {
        let failed = |error: io::Error| StoreError::Io(format!("cannot read {}: {error}", self.name()));
        let mut found = [Vec::new(), Vec::new()];
        match self {
            Self::Files(of) => {
                for (bytes, path) in found.iter_mut().zip(Self::paths(of)) {
                    match std::fs::read(path) {
                        Ok(read) => *bytes = read,
                        Err(error) if error.kind() == io::ErrorKind::NotFound => {}
                        Err(error) => return Err(failed(error)),
                    }
                }
            }
            Self::Given(files) => {
                for (bytes, file) in found.iter_mut().zip(files) {
                    bytes.resize(file.len().map_err(failed)? as usize, 0);
                    file.read(0, bytes).map_err(failed)?;
                }
            }
        }
        Ok(found)
    }

    /// Makes durable what a host that was killed may have left in the system's cache: what
    /// is folded must not be gone from the log when the fold is not at its end.
    fn sync(&self) -> Result<(), StoreError> {
        let synced = match self {
            Self::Files(of) => Self::paths(of).iter().try_for_each(|path| match std::fs::File::open(path) {
                Err(error) if error.kind() == io::ErrorKind::NotFound => Ok(()),
                file => file?.sync_data(),
            }),
            Self::Given(files) => files.iter().try_for_each(|file| file.sync_data()),
        };
        synced.map_err(|error| StoreError::Io(format!("cannot make {} durable: {error}", self.name())))
    }

    /// Whether there is anything of a log for a journal at `of`.
    pub(super) fn is_left(of: &Path) -> bool {
        Self::paths(of).iter().any(|path| path.exists())
    }

    /// Makes both files, or takes those that are there.
    fn open(&self, options: &Options) -> io::Result<[Arc<dyn StorageBackend>; 2]> {
        let of = match self {
            Self::Given(files) => return Ok(files.clone()),
            Self::Files(of) => of,
        };
        let [one, two] = Self::paths(of).map(|path| -> io::Result<Arc<dyn StorageBackend>> {
            let inner = Segment::open(&path)?;
            Ok(match &options.writes {
                None => Arc::new(inner),
                Some(writes) => Arc::new(DyingFile { inner, writes: writes.clone() }),
            })
        });
        Ok([one?, two?])
    }

    /// All that was in the files is in the tables.
    pub(super) fn clear(&self) -> Result<(), StoreError> {
        let cleared: io::Result<()> = match self {
            Self::Files(of) => Self::paths(of).iter().try_for_each(|path| match std::fs::remove_file(path) {
                Err(error) if error.kind() != io::ErrorKind::NotFound => Err(error),
                _ => Ok(()),
            }),
            Self::Given(files) => {
                files.iter().try_for_each(|file| if file.len()? > 0 { file.set_len(0) } else { Ok(()) })
            }
        };
        cleared.map_err(|error| StoreError::Io(format!("cannot remove {}: {error}", self.name())))
    }
}

/// Where the next frame goes.
#[derive(Debug)]
pub(super) struct Log {
    /// The number of the last frame.
    last: u64,
    open: Option<Open>,
}

#[derive(Debug)]
struct Open {
    id: LogId,
    files: [Arc<dyn StorageBackend>; 2],
    lengths: [u64; 2],
    current: usize,
    /// Where the next frame begins.
    at: u64,
    /// A frame is made in here.
    frame: Vec<u8>,
}

impl Log {
    /// A log that is closed; its last commit is in the tables.
    pub(super) fn closed(last: u64) -> Self {
        Self { last, open: None }
    }

    /// The number of the last commit.
    pub(super) fn last(&self) -> u64 {
        self.last
    }

    /// What its frames carry; none while it is closed.
    pub(super) fn id(&self) -> Option<LogId> {
        self.open.as_ref().map(|open| open.id)
    }

    /// Opens it for frames and makes a first one durable, which has no turns and the
    /// number of the last commit: whoever finds no frame of this opening knows that
    /// the files are not those. The caller notes its id in the tables before any commit.
    pub(super) fn open(&mut self, place: &Place, options: &Options) -> Result<LogId, StoreError> {
        let failed = |error: io::Error| StoreError::Io(format!("cannot make {}: {error}", place.name()));
        let mut id = LogId::default();
        getrandom::fill(&mut id).expect("the operating system gives randomness");
        let files = place.open(options).map_err(failed)?;
        let lengths = [files[0].len().map_err(failed)?, files[1].len().map_err(failed)?];
        let mut open = Open { id, files, lengths, current: 0, at: 0, frame: Vec::new() };
        open.write(&options.codec, self.last, self.last, &[]).map_err(failed)?;
        open.files[0].sync_data().map_err(failed)?;
        if let Place::Files(of) = place {
            sync_folder_of(of)?;
        }
        self.open = Some(open);
        Ok(id)
    }

    /// It is written to no more.
    pub(super) fn close(&mut self) {
        self.open = None;
    }

    /// Writes the next commit, all of which up to `durable` are; returns the file that is
    /// to be synced, and the size of the frame.
    ///
    /// # Panics
    /// Before it is opened.
    pub(super) fn append(
        &mut self,
        codec: &Codec,
        durable: u64,
        turns: &[TurnCommit],
    ) -> Result<(Arc<dyn StorageBackend>, usize), StoreError> {
        let open = self.open.as_mut().expect("a log is opened by the claim of an epoch");
        let written = open.write(codec, self.last + 1, durable, turns);
        let size = written.map_err(|error| StoreError::Io(format!("cannot append to the log: {error}")))?;
        self.last += 1;
        Ok((open.files[open.current].clone(), size))
    }

    /// Goes on in the other file, all commits of which are in the tables; those in this
    /// one are durable. Where nothing was written since the last time it stays: so the
    /// file that is not written always has a frame of this opening.
    pub(super) fn switch(&mut self) {
        if let Some(open) = &mut self.open
            && open.at > 0
        {
            open.current = 1 - open.current;
            open.at = 0;
        }
    }
}

impl Open {
    fn write(&mut self, codec: &Codec, number: u64, durable: u64, turns: &[TurnCommit]) -> io::Result<usize> {
        make_frame(&mut self.frame, codec, &key(number, durable, self.id), turns);
        let size = self.frame.len();
        let length = &mut self.lengths[self.current];
        if self.at + size as u64 > *length && size <= SHORT {
            self.frame.resize(ROOM, 0);
        }
        self.files[self.current].write(self.at, &self.frame)?;
        *length = (*length).max(self.at + self.frame.len() as u64);
        self.at += size as u64;
        if self.frame.capacity() > 1 << 20 {
            self.frame = Vec::new();
        }
        Ok(size)
    }
}

fn key(number: u64, durable: u64, id: LogId) -> [u8; KEY] {
    let mut key = [0; KEY];
    key[..8].copy_from_slice(&number.to_le_bytes());
    key[8..16].copy_from_slice(&durable.to_le_bytes());
    key[16..].copy_from_slice(&id);
    key
}

fn make_frame(frame: &mut Vec<u8>, codec: &Codec, key: &[u8; KEY], turns: &[TurnCommit]) {
    frame.clear();
    frame.extend_from_slice(&MAGIC);
    frame.extend_from_slice(&[0; 8]);
    frame.extend_from_slice(key);
    tables::append_log_row(codec, key, turns, frame);
    let len = (frame.len() - HEAD) as u64;
    frame[MAGIC.len()..MAGIC.len() + 8].copy_from_slice(&len.to_le_bytes());
    frame.resize(frame.len().next_multiple_of(ALIGN), 0);
}

/// A frame that is as it was written.
struct Frame<'a> {
    number: u64,
    durable: u64,
    id: LogId,
    key: &'a [u8],
    row: &'a [u8],
}

impl<'a> Frame<'a> {
    /// The frame that `bytes` begin with.
    fn read(bytes: &'a [u8]) -> Option<Self> {
        let rest = bytes.strip_prefix(&MAGIC)?;
        let (len, rest) = rest.split_first_chunk()?;
        let (key, rest) = rest.split_at_checked(KEY)?;
        let row = rest.get(..usize::try_from(u64::from_le_bytes(*len)).ok()?)?;
        tables::check_row("log", key, row).ok()?;
        let number = |at: usize| u64::from_le_bytes(*key[at..].first_chunk().expect("a key is that long"));
        Some(Self { number: number(0), durable: number(8), id: *key[16..].first_chunk()?, key, row })
    }

    /// Every frame in a file: damage hides none but the one it is in. What stands inside
    /// an intact frame is not looked at.
    fn all(bytes: &'a [u8]) -> Vec<Self> {
        let (mut found, mut at) = (Vec::new(), 0);
        while at < bytes.len() {
            let size = match Self::read(&bytes[at..]) {
                Some(frame) => {
                    let size = HEAD + frame.row.len();
                    found.push(frame);
                    size
                }
                None => 1,
            };
            at += size.next_multiple_of(ALIGN);
        }
        found
    }
}

/// What was committed and is not in the tables.
pub(super) struct Found {
    pub(super) held: Held,
    /// Numbers up to this one are used up.
    pub(super) last: u64,
}

/// Reads what a log that was not closed holds beyond the tables.
///
/// # Errors
/// [`StoreError::Corrupt`] if a commit that was durable is not there.
pub(super) fn recover(place: &Place, codec: &Codec, noted: Noted) -> Result<Found, StoreError> {
    if noted.id.is_some() {
        place.sync()?;
    }
    let bytes = place.read()?;
    let frames: Vec<_> = bytes.iter().flat_map(|bytes| Frame::all(bytes)).collect();
    let mut found = Found { held: Held::default(), last: noted.folded };
    let Some(id) = noted.id else {
        return match frames.iter().map(|frame| frame.number).max() {
            Some(newest) if newest > noted.folded => Err(corrupt(
                place.name(),
                format!(
                    "commit {newest} is in there, and the journal, which ends with {}, was closed without it; \
                     if the journal is a copy from before, put what was copied with it in their place, or move them away",
                    noted.folded
                ),
            )),
            _ => Ok(found),
        };
    };
    let mut own: Vec<_> = frames.into_iter().filter(|frame| frame.id == id).collect();
    own.sort_by_key(|frame| frame.number);
    let (Some(durable), Some(newest)) = (own.iter().map(|frame| frame.durable).max(), own.last()) else {
        let why = "the journal was not closed, its last commits are in these files, and they are missing or not the \
                   ones that belong to it; put them back beside it";
        return Err(corrupt(place.name(), why));
    };
    let newest = newest.number;
    let mut last = noted.folded;
    let fetch = &mut |_: &_, hash: Hash| Err(corrupt(format!("payload {hash}"), "a frame has its payloads"));
    for frame in own.iter().filter(|frame| frame.number > noted.folded) {
        if frame.number != last + 1 {
            break;
        }
        last = frame.number;
        let turns = tables::decode_log_row(codec, frame.number, frame.key, frame.row, fetch)?;
        turns.iter().for_each(|turn| found.held.push(frame.number, turn));
    }
    if durable > last {
        let why = format!("it is damaged or missing, and commit {durable} was durable");
        return Err(corrupt(format!("commit {} in {}", last + 1, place.name()), why));
    }
    found.last = newest.max(last);
    Ok(found)
}

/// The commits after `folded` and up to `durable` whose frames are damaged or missing.
pub(super) fn missing(place: &Place, id: LogId, folded: u64, durable: u64) -> Result<Vec<u64>, StoreError> {
    let bytes = place.read()?;
    let frames = bytes.iter().flat_map(|bytes| Frame::all(bytes)).filter(|frame| frame.id == id);
    let intact: BTreeSet<u64> = frames.map(|frame| frame.number).collect();
    Ok((folded + 1..=durable).filter(|number| !intact.contains(number)).collect())
}
