//! A disk in memory that fails when told to: a store's tables and the two files of its log.
//!
//! Writes are seen at once, as through an operating system's cache, and are
//! durable after a sync. When the power is cut, what was not synced survives as
//! the [`Cut`] says: not at all, or any part of it in any order, down to a torn
//! write. Operations are counted, so that a test can cut at each of them.

use std::io;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use dacapo::store::StoreError;
use dacapo::store::redb::{Options, RedbStore};
use redb::StorageBackend;

use crate::store_support::Chance;

/// What happens at the operation where it is to happen.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Cut {
    /// The operation fails, once; the medium goes on and keeps what it was given.
    Error,
    /// The power goes; nothing that was not synced survives.
    LoseAll,
    /// The power goes; some writes survive, in any order.
    Reorder,
    /// The power goes in the middle of this write; those before it survive.
    Tear,
}

/// See the module's page.
#[derive(Clone, Debug, Default)]
pub(crate) struct Medium(Arc<Mutex<State>>);

/// What a medium holds of each file.
pub(crate) type Images = [Vec<u8>; 3];

#[derive(Debug, Default)]
struct State {
    current: Images,
    durable: Images,
    /// Which file, and what was done to it.
    unsynced: Vec<(usize, Change)>,
    operations: usize,
    plan: Option<(usize, Cut)>,
    is_off: bool,
}

#[derive(Clone, Debug)]
enum Change {
    Write(u64, Vec<u8>),
    Len(u64),
}

impl Change {
    fn apply(&self, image: &mut Vec<u8>) {
        match self {
            Self::Len(len) => image.resize(*len as usize, 0),
            Self::Write(offset, data) => {
                let (start, end) = (*offset as usize, *offset as usize + data.len());
                if image.len() < end {
                    image.resize(end, 0);
                }
                image[start..end].copy_from_slice(data);
            }
        }
    }
}

/// One of the files.
#[derive(Clone, Debug)]
struct MediumFile {
    medium: Medium,
    which: usize,
}

impl Medium {
    /// A medium that holds tables, all of them durable.
    pub(crate) fn of(tables: Vec<u8>) -> Self {
        Self::of_all([tables, Vec::new(), Vec::new()])
    }

    /// A medium that holds tables and a log, all of it durable.
    pub(crate) fn of_all(images: Images) -> Self {
        Self(Arc::new(Mutex::new(State { durable: images.clone(), current: images, ..State::default() })))
    }

    /// Opens the store on it.
    pub(crate) fn store(&self, options: Options) -> Result<RedbStore, StoreError> {
        let file = |which| MediumFile { medium: self.clone(), which };
        RedbStore::with_backends(file(0), [Arc::new(file(1)), Arc::new(file(2))], options)
    }

    /// Lets `cut` happen at operation `at`, counted from 1 and from the beginning.
    pub(crate) fn plan(&self, at: usize, cut: Cut) {
        self.state().plan = Some((at, cut));
    }

    /// Writes, syncs and changes of length so far.
    pub(crate) fn operations(&self) -> usize {
        self.state().operations
    }

    /// Whether the planned operation was reached.
    pub(crate) fn was_hit(&self) -> bool {
        let state = self.state();
        state.plan.is_some_and(|(at, _)| state.operations >= at)
    }

    /// Its tables.
    pub(crate) fn image(&self) -> Vec<u8> {
        self.state().current[0].clone()
    }

    /// All that it holds.
    pub(crate) fn images(&self) -> Images {
        self.state().current.clone()
    }

    /// Turns a bit of a file, behind everybody's back.
    pub(crate) fn damage(&self, which: usize, at: usize) {
        self.state().current[which][at] ^= 1;
    }

    /// What a restarted machine finds.
    pub(crate) fn survivor(&self, chance: &mut Chance) -> Self {
        let state = self.state();
        let mut images = state.durable.clone();
        match state.plan {
            Some((_, Cut::Reorder)) if state.is_off => {
                for (which, image) in images.iter_mut().enumerate() {
                    let changes = state.unsynced.iter().filter(|(of, _)| *of == which).map(|(_, change)| change);
                    reorder(image, &changes.collect::<Vec<_>>(), chance);
                }
            }
            Some((_, Cut::Tear)) if state.is_off => tear(&mut images, &state.unsynced, chance),
            Some((_, Cut::LoseAll)) if state.is_off => {}
            _ => images.clone_from(&state.current),
        }
        Self::of_all(images)
    }

    fn state(&self) -> MutexGuard<'_, State> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Counts an operation; tells whether it fails.
    fn step(&self, which: usize, change: Option<Change>) -> io::Result<()> {
        let mut state = self.state();
        if state.is_off {
            return Err(io::Error::other("the power is off"));
        }
        state.operations += 1;
        let due = state.plan.filter(|(at, _)| *at == state.operations).map(|(_, cut)| cut);
        if due == Some(Cut::Error) {
            return Err(io::Error::other("a bad sector"));
        }
        match change {
            Some(change) => {
                change.apply(&mut state.current[which]);
                state.unsynced.push((which, change));
            }
            None if due.is_none() => {
                let (changes, others) =
                    std::mem::take(&mut state.unsynced).into_iter().partition(|(of, _)| *of == which);
                state.unsynced = others;
                let changes: Vec<_> = changes;
                changes.iter().for_each(|(_, change)| change.apply(&mut state.durable[which]));
            }
            None => {}
        }
        state.is_off = due.is_some();
        if state.is_off { Err(io::Error::other("the power is cut")) } else { Ok(()) }
    }
}

/// Some of the changes, in any order. A file system keeps changes of length in
/// their order.
fn reorder(image: &mut Vec<u8>, changes: &[&Change], chance: &mut Chance) {
    let (lengths, mut writes): (Vec<&Change>, Vec<&Change>) =
        changes.iter().copied().partition(|change| matches!(change, Change::Len(_)));
    lengths[..chance.below(lengths.len() + 1)].iter().for_each(|change| change.apply(image));
    let kept_in_ten = chance.below(11);
    while !writes.is_empty() {
        let write = writes.swap_remove(chance.below(writes.len()));
        if chance.below(10) < kept_in_ten {
            write.apply(image);
        }
    }
}

/// All changes, but only the beginning of the last one.
fn tear(images: &mut Images, changes: &[(usize, Change)], chance: &mut Chance) {
    let Some(((which, last), before)) = changes.split_last() else { return };
    before.iter().for_each(|(which, change)| change.apply(&mut images[*which]));
    if let Change::Write(offset, data) = last {
        Change::Write(*offset, data[..chance.below(data.len() + 1)].to_vec()).apply(&mut images[*which]);
    }
}

impl StorageBackend for MediumFile {
    fn len(&self) -> io::Result<u64> {
        Ok(self.medium.state().current[self.which].len() as u64)
    }

    fn read(&self, offset: u64, out: &mut [u8]) -> io::Result<()> {
        let state = self.medium.state();
        let range = offset as usize..offset as usize + out.len();
        let found =
            state.current[self.which].get(range).ok_or_else(|| io::Error::from(io::ErrorKind::UnexpectedEof))?;
        out.copy_from_slice(found);
        Ok(())
    }

    fn set_len(&self, len: u64) -> io::Result<()> {
        self.medium.step(self.which, Some(Change::Len(len)))
    }

    fn sync_data(&self) -> io::Result<()> {
        self.medium.step(self.which, None)
    }

    fn write(&self, offset: u64, data: &[u8]) -> io::Result<()> {
        self.medium.step(self.which, Some(Change::Write(offset, data.to_vec())))
    }
}
