//! When what is folded: a generation beside commits, or all that is left.

use std::sync::atomic::Ordering;
use std::sync::{Arc, OnceLock, PoisonError, RwLock, RwLockReadGuard, RwLockWriteGuard};

use redb::{Database, WriteTransaction};

use super::error::guarded;
use super::fold::fold_all;
use super::meta::write_noted;
use super::overlay::{Generation, Held, Overlay};
use super::pace::{Pace, Waiting};
use super::tables::{LogId, Noted};
use super::{Counters, Options, RedbStore, Writer};
use crate::store::{Store as _, StoreError};

/// What the thread that folds touches too.
#[derive(Debug, Default)]
pub(super) struct Shared {
    pub(super) overlay: RwLock<Overlay>,
    /// Why a write failed: nothing is known about the files until they are opened again.
    pub(super) lost: OnceLock<String>,
    pub(super) counters: Counters,
    /// Who waits for a fold, or for its transaction to end.
    pub(super) waiting: Waiting,
}

impl RedbStore {
    /// Freezes the active generation if it is large, and begins to fold it; in front of
    /// an append. While the one before is being folded, the active one may become twice
    /// as large; then the append waits.
    pub(super) fn make_room(&self, writer: &mut Writer) -> Result<(), StoreError> {
        let filled = self.options.filled(&self.shared.overlay().active.read());
        let is_busy = writer.folding.as_ref().is_some_and(|folding| !folding.is_finished());
        if filled < 1.0 || is_busy && filled < 2.0 {
            return Ok(());
        }
        self.end_fold(writer)?;
        let (generation, noted) = self.freeze(writer, writer.log.id())?;
        let (database, options, shared) = (self.database.clone(), self.options.clone(), self.shared.clone());
        let beside = options.fold_beside;
        let fold = move || shared.write(|| fold_frozen(&database, &options, &shared, generation, noted, beside));
        if !beside {
            return fold();
        }
        let thread = std::thread::Builder::new().name("dacapo-fold".to_owned()).spawn(fold);
        let thread = thread.map_err(|error| StoreError::Io(format!("cannot begin to fold: {error}")))?;
        writer.folding = Some(thread);
        Ok(())
    }

    /// Waits until nothing is being folded.
    pub(super) fn end_fold(&self, writer: &mut Writer) -> Result<(), StoreError> {
        let Some(folding) = writer.folding.take() else { return Ok(()) };
        let _waits = self.shared.waiting.begin();
        folding.join().unwrap_or_else(|_| Err(StoreError::Io("the thread that folds died".to_owned())))
    }

    /// Makes all that was appended durable and folds it, and notes whether the log goes
    /// on. Afterwards nothing is in the overlay.
    pub(super) fn fold_rest(&self, writer: &mut Writer, id: Option<LogId>) -> Result<(), StoreError> {
        self.end_fold(writer)?;
        if id == writer.log.id() && self.shared.overlay().active.read().turns == 0 {
            return Ok(());
        }
        let (generation, noted) = self.freeze(writer, id)?;
        fold_frozen(&self.database, &self.options, &self.shared, generation, noted, false)
    }

    /// Makes all that was appended durable and freezes it, when nothing else is; and what
    /// is to be noted once it is folded. What comes next goes to the log's other file.
    fn freeze(&self, writer: &mut Writer, id: Option<LogId>) -> Result<(Arc<Generation>, Noted), StoreError> {
        self.sync(writer.log.last())?;
        writer.log.switch();
        Ok((self.shared.freeze(), Noted { folded: writer.log.last(), id }))
    }

    /// Folds what is left and closes the log: the tables alone are the store then.
    pub(super) fn shut(&self) -> Result<(), StoreError> {
        let mut writer = self.writer.lock().unwrap_or_else(PoisonError::into_inner);
        // Nothing else may touch the files, whatever comes of it.
        self.end_fold(&mut writer)?;
        self.shared.not_lost()?;
        if writer.log.id().is_none() {
            return Ok(());
        }
        self.shared.write(|| self.fold_rest(&mut writer, None))?;
        writer.log.close();
        *self.written.lock().unwrap_or_else(PoisonError::into_inner) = None;
        self.place.clear()
    }
}

impl Drop for RedbStore {
    /// What cannot be folded any more is, when it is opened again.
    fn drop(&mut self) {
        if let Err(error) = guarded(|| self.shut())
            && self.shared.not_lost().is_ok()
        {
            tracing::warn!(%error, "the journal was not closed; nothing is lost");
        }
    }
}

impl Shared {
    pub(super) fn overlay(&self) -> RwLockReadGuard<'_, Overlay> {
        self.overlay.read().unwrap_or_else(PoisonError::into_inner)
    }

    pub(super) fn overlay_mut(&self) -> RwLockWriteGuard<'_, Overlay> {
        self.overlay.write().unwrap_or_else(PoisonError::into_inner)
    }

    pub(super) fn not_lost(&self) -> Result<(), StoreError> {
        match self.lost.get() {
            Some(why) => Err(StoreError::Io(format!("an earlier write failed ({why}); open it again"))),
            None => Ok(()),
        }
    }

    /// Nothing is written from here on.
    pub(super) fn lose(&self, why: &StoreError) {
        let _the_first_one_counts = self.lost.set(why.to_string());
    }

    /// Runs `work`, which writes; when it fails or panics the store is lost. What was
    /// refused was not written.
    pub(super) fn write<T>(&self, work: impl FnOnce() -> Result<T, StoreError>) -> Result<T, StoreError> {
        let result = guarded(work);
        match &result {
            Ok(_) | Err(StoreError::Fenced { .. }) => {}
            Err(error) => self.lose(error),
        }
        result
    }

    /// The active generation, frozen; a new one is active.
    fn freeze(&self) -> Arc<Generation> {
        let mut overlay = self.overlay_mut();
        let full = std::mem::take(&mut overlay.active);
        overlay.frozen = Some(full.clone());
        full
    }

    /// The frozen generation is in the tables.
    fn thaw(&self, generation: &Generation) {
        self.overlay_mut().frozen = None;
        self.counters.folds.fetch_add(u64::from(generation.read().turns > 0), Ordering::Relaxed);
    }
}

impl Options {
    /// How full a generation is: at 1 it is to be folded.
    fn filled(&self, held: &Held) -> f64 {
        let share = |of: usize, full: usize| of as f64 / full as f64;
        share(held.turns, self.fold_at_turns).max(share(held.bytes, self.fold_at_bytes))
    }
}

/// Moves a frozen generation to the tables; `beside` commits, it leaves the machine to them.
fn fold_frozen(
    database: &Database,
    options: &Options,
    shared: &Shared,
    generation: Arc<Generation>,
    noted: Noted,
    beside: bool,
) -> Result<(), StoreError> {
    let mut pace = Pace::new(&shared.waiting);
    let mut rest = |folded: f64| {
        if beside {
            pace.rest(folded, || options.filled(&shared.overlay().active.read()));
        }
    };
    let held = generation.read();
    let turns = held.turns as f64;
    let at_end = |transaction: &WriteTransaction| write_noted(transaction, noted);
    fold_all(database, options, &held, at_end, &mut |folded| rest(folded as f64 / turns))?;
    drop(held);
    shared.thaw(&generation);
    if beside {
        generation.until_alone(&shared.waiting);
    }
    if let Some(held) = generation.into_held() {
        held.drop_slowly(|| rest(1.0));
    }
    Ok(())
}
