//! The embedded store: one owner of everything in it.
//!
//! A commit is appended to a [`log`], a file beside the tables of redb, because one frame
//! for many turns, durable with one sync, is an order of magnitude cheaper than rows in
//! B-trees. In the background, and when the store is closed or opened, the log is *folded*
//! into rows by instance. Until then its turns are also held in memory, in the [`overlay`].
//! Invariant: what is stored is the B-trees and the log after them; every read
//! looks at both as of one moment ([`view`]).
//!
//! A commit is durable when a sync of the log that began after it was written has ended,
//! so commits can be written while earlier ones are being synced ([`Store::append`],
//! [`Store::sync`]). Everything else is a transaction of redb. A store that was closed is
//! one file. The bytes are described in `host/docs/journal-format.md`.

mod backup;
mod check;
mod dying;
mod error;
mod files;
mod fold;
mod folding;
mod index;
mod log;
mod meta;
mod overlay;
mod pace;
mod payloads;
mod purge;
mod segment;
mod snapshots;
mod table_log;
pub mod tables;
mod view;

use std::collections::BTreeMap;
use std::io::Write;
use std::ops::Bound;
use std::path::Path;
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError, RwLock};
use std::thread::JoinHandle;

use redb::{Database, ReadableDatabase, ReadableTable, StorageBackend, WriteTransaction};

pub use self::backup::Draft;
use self::error::{Doing, guarded, of_open};
use self::files::{builder, create_file, open_file, refuse_left_log};
use self::fold::fold_all;
use self::folding::Shared;
use self::log::{Log, Place};
use self::meta::{check_key, create_tables, read_meta, read_noted, write_meta, write_noted};
use self::overlay::Overlay;
use self::tables::{META, META_EPOCH, META_FORMAT, META_LOG, MODULE_BYTES, MODULES, Noted, SCHEDULES, corrupt};
use self::view::{Among, Recent, View};
use super::backup::{BackupError, Contents};
use super::codec::Codec;
use super::crash::FileWrites;
use super::schedule::Schedule;
use super::snapshot::Snapshot;
use super::{Batch, Epoch, Filter, History, IndexFinding, Module, Store, StoreError, Tail, TurnCommit};
use crate::core::ids::{ExecutionNumber, Hash, InstanceId, ModuleHash, TimestampMs};
use crate::core::namespace::Namespace;
use crate::core::summary::{Status, Summary};

/// Bounds and choices of a [`RedbStore`]. The defaults suit a host; tests make them small.
#[derive(Clone, Debug)]
pub struct Options {
    /// Turns that are held in memory before they are folded: an open after a crash
    /// has to fold this many at most four times over.
    pub fold_at_turns: usize,
    /// Bytes of turns that are held in memory before they are folded.
    pub fold_at_bytes: usize,
    /// Fold in a thread beside commits; without it the commit that comes after does, and
    /// so the order of writes is the same in each run.
    pub fold_beside: bool,
    /// Bytes of the file that redb keeps in memory.
    pub cache_bytes: usize,
    /// Read and check every page when the file is opened. Without it a changed
    /// page is noticed where it is read, and a changed key perhaps not at all.
    pub check_on_open: bool,
    /// Payloads of more bytes stand in a table of their own (those of up to
    /// [`SMALL_BYTES`](crate::core::large::SMALL_BYTES) never do).
    pub payloads_above: usize,
    /// How rows are written.
    pub codec: Arc<Codec>,
    /// Who counts writes of the file, for crash tests.
    pub writes: Option<Arc<FileWrites>>,
}

impl Default for Options {
    fn default() -> Self {
        Self {
            fold_at_turns: 64 << 10,
            fold_at_bytes: 8 << 20,
            fold_beside: true,
            cache_bytes: 256 << 20,
            check_on_open: true,
            payloads_above: 32 << 10,
            codec: Arc::default(),
            writes: None,
        }
    }
}

/// What a store has done since it was opened.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Stats {
    /// Commits.
    pub commits: u64,
    /// Turns in them.
    pub turns: u64,
    /// Bytes of frames in the log.
    pub log_bytes: u64,
    /// Generations that were folded, those found at opening included.
    pub folds: u64,
}

/// A [`Store`] in files. See the module's page.
#[derive(Debug)]
pub struct RedbStore {
    database: Arc<Database>,
    options: Options,
    place: Place,
    shared: Arc<Shared>,
    recent: Arc<Recent>,
    writer: Mutex<Writer>,
    /// What was written last.
    written: Mutex<Option<Written>>,
    epoch: AtomicU64,
    /// Bytes of all turns, folded or not, by the key of the namespace.
    sizes: Mutex<BTreeMap<Box<str>, u64>>,
}

/// What one thread at a time touches: the one that appends, or that needs all to be folded.
#[derive(Debug)]
struct Writer {
    log: Log,
    folding: Option<JoinHandle<Result<(), StoreError>>>,
}

/// The last commit in the log, and the file to sync for it and those before.
#[derive(Clone, Debug)]
struct Written {
    number: u64,
    file: Arc<dyn StorageBackend>,
}

#[derive(Debug, Default)]
struct Counters {
    commits: AtomicU64,
    turns: AtomicU64,
    log_bytes: AtomicU64,
    folds: AtomicU64,
}

impl RedbStore {
    /// Opens the file at `path`, or makes it.
    ///
    /// # Errors
    /// [`StoreError::InUse`] while another process has it; [`StoreError::Newer`]
    /// and [`StoreError::Corrupt`] for a file that cannot be read.
    pub fn open(path: &Path) -> Result<Self, StoreError> {
        Self::open_with(path, Options::default())
    }

    /// [`Self::open`] with other options.
    ///
    /// # Errors
    /// Those of [`Self::open`].
    pub fn open_with(path: &Path, options: Options) -> Result<Self, StoreError> {
        if !path.exists() {
            refuse_left_log(path)?;
            create_file(path, &options)?;
        }
        guarded(|| Self::start(open_file(path, &options)?, Place::Files(path.to_owned()), options))
    }

    /// Opens what is in `tables`, and in the two files of the `log`; for tests that own
    /// the medium.
    ///
    /// # Errors
    /// Those of [`Self::open`].
    pub fn with_backends(
        tables: impl StorageBackend,
        log: [Arc<dyn StorageBackend>; 2],
        options: Options,
    ) -> Result<Self, StoreError> {
        guarded(|| {
            let database = builder(&options).create_with_backend(tables);
            Self::start(database.map_err(|error| of_open("the journal", error))?, Place::Given(log), options)
        })
    }

    /// What it has done since it was opened.
    pub fn stats(&self) -> Stats {
        let get = |counter: &AtomicU64| counter.load(Ordering::Relaxed);
        let Counters { commits, turns, log_bytes, folds } = &self.shared.counters;
        Stats { commits: get(commits), turns: get(turns), log_bytes: get(log_bytes), folds: get(folds) }
    }

    fn start(database: Database, place: Place, options: Options) -> Result<Self, StoreError> {
        let epoch = match read_meta(&database)? {
            Some(epoch) => epoch,
            None => create_tables(&database)?,
        };
        check_key(&database, &options.codec)?;
        index::ensure(&database, &options.codec)?;
        snapshots::ensure(&database)?;
        let mut folds = table_log::fold_table(&database, &options)?;
        let noted = read_noted(&database)?;
        let found = log::recover(&place, &options.codec, noted)?;
        if noted.id.is_some() {
            folds += u64::from(found.held.turns > 0);
            let closed = Noted { folded: found.last, id: None };
            fold_all(&database, &options, &found.held, |transaction| write_noted(transaction, closed), &mut |_| ())?;
            place.clear()?;
        }
        let counters = Counters { folds: AtomicU64::new(folds), ..Counters::default() };
        let overlay = RwLock::new(Overlay { visible: found.last, ..Overlay::default() });
        Ok(Self {
            // All is folded now.
            sizes: Mutex::new(index::sizes(&database.begin_read().doing("read the sizes")?)?),
            database: Arc::new(database),
            options,
            place,
            shared: Arc::new(Shared { overlay, counters, ..Shared::default() }),
            recent: Arc::default(),
            writer: Mutex::new(Writer { log: Log::closed(found.last), folding: None }),
            written: Mutex::default(),
            epoch: AtomicU64::new(epoch),
        })
    }

    /// A view of this moment. The trees are looked at under the overlay's lock:
    /// a generation is dropped from the overlay only after the trees have it.
    fn view(&self) -> Result<View, StoreError> {
        let overlay = self.shared.overlay();
        let trees = self.database.begin_read().doing("read")?;
        Ok(View { overlay: overlay.clone(), trees, codec: self.options.codec.clone(), recent: self.recent.clone() })
    }

    /// The writer, unless an earlier write was lost.
    fn writer(&self) -> Result<MutexGuard<'_, Writer>, StoreError> {
        let writer = self.writer.lock().unwrap_or_else(PoisonError::into_inner);
        self.shared.not_lost().map(|()| writer)
    }

    /// Refuses a stale epoch.
    fn check_epoch(&self, epoch: Epoch) -> Result<(), StoreError> {
        let current = self.epoch.load(Ordering::Acquire);
        if epoch.0 == current { Ok(()) } else { Err(StoreError::Fenced { held: epoch.0, current }) }
    }

    /// Begins to change the tables, when nobody else does; what is folded meanwhile does not rest.
    fn begin_write(&self, doing: &str) -> Result<WriteTransaction, StoreError> {
        let _waits = self.shared.waiting.begin();
        self.database.begin_write().doing(doing)
    }

    /// One durable transaction of the tables, beside commits; when it fails the store is lost.
    fn change<T>(
        &self,
        doing: &str,
        epoch: Option<Epoch>,
        work: impl FnOnce(&WriteTransaction) -> Result<T, StoreError>,
    ) -> Result<T, StoreError> {
        self.shared.not_lost()?;
        self.shared.write(|| {
            let transaction = self.begin_write(doing)?;
            epoch.map_or(Ok(()), |epoch| self.check_epoch(epoch))?;
            let done = work(&transaction)?;
            transaction.commit().doing(doing)?;
            Ok(done)
        })
    }

    /// Takes the batch into the active generation, not yet visible; or refuses it
    /// whole, because a turn does not follow the one before it.
    fn stage(&self, number: u64, batch: &Batch) -> Result<(), StoreError> {
        let view = self.view()?;
        let mut positions = view.positions();
        let mut held = view.overlay.active.write();
        for (index, turn) in batch.turns.iter().enumerate() {
            if let Err(error) = held.push_next(number, turn, || positions.before_active(&turn.instance)) {
                batch.turns[..index].iter().rev().for_each(|turn| held.pop(&turn.instance));
                return Err(error);
            }
        }
        Ok(())
    }

    /// Bytes of turns came or went, by the key of their namespace.
    fn resize<'s>(&self, changes: impl Iterator<Item = (&'s str, i64)>) {
        let mut sizes = self.sizes.lock().unwrap_or_else(PoisonError::into_inner);
        for (space, by) in changes {
            match sizes.get_mut(space) {
                Some(bytes) => *bytes = bytes.saturating_add_signed(by),
                None => drop(sizes.insert(space.into(), u64::try_from(by).unwrap_or(0))),
            }
        }
    }
}

impl Store for RedbStore {
    fn claim(&self) -> Result<Epoch, StoreError> {
        let mut writer = self.writer()?;
        self.shared.write(|| {
            // What an earlier owner has appended is seen by this one.
            self.sync(writer.log.last())?;
            let epoch = self.epoch.load(Ordering::Acquire) + 1;
            let opened = match writer.log.id() {
                Some(_) => None,
                None => {
                    Some(Noted { folded: writer.log.last(), id: Some(writer.log.open(&self.place, &self.options)?) })
                }
            };
            let transaction = self.begin_write("claim")?;
            {
                let mut meta = transaction.open_table(META).doing("claim")?;
                write_meta(&mut meta, META_EPOCH, &epoch)?;
                write_meta(&mut meta, META_FORMAT, &tables::FORMAT)?;
                opened.map_or(Ok(()), |noted| write_meta(&mut meta, META_LOG, &noted))?;
            }
            self.epoch.store(epoch, Ordering::Release);
            transaction.commit().doing("claim")?;
            Ok(Epoch(epoch))
        })
    }

    fn commit(&self, epoch: Epoch, batch: &Batch) -> Result<(), StoreError> {
        let number = self.append(epoch, batch)?;
        self.sync(number)
    }

    fn append(&self, epoch: Epoch, batch: &Batch) -> Result<u64, StoreError> {
        let mut writer = self.writer()?;
        self.check_epoch(epoch)?;
        if batch.turns.is_empty() {
            return Ok(writer.log.last());
        }
        self.shared.write(|| self.make_room(&mut writer))?;
        let number = writer.log.last() + 1;
        if let Err(error) = guarded(|| self.stage(number, batch)) {
            if !matches!(error, StoreError::OutOfOrder { .. }) {
                self.shared.lose(&error);
            }
            return Err(error);
        }
        let counters = &self.shared.counters;
        self.shared.write(|| {
            let durable = self.shared.overlay().visible;
            let (file, size) = writer.log.append(&self.options.codec, durable, &batch.turns)?;
            counters.log_bytes.fetch_add(size as u64, Ordering::Relaxed);
            *self.written.lock().unwrap_or_else(PoisonError::into_inner) = Some(Written { number, file });
            Ok(())
        })?;
        let of_one_space = batch.turns.chunk_by(|a, b| a.instance.space() == b.instance.space());
        let bytes = |turns: &[TurnCommit]| turns.iter().map(|turn| turn.bytes.len() as i64).sum();
        self.resize(of_one_space.map(|turns| (turns[0].instance.space(), bytes(turns))));
        counters.commits.fetch_add(1, Ordering::Relaxed);
        counters.turns.fetch_add(batch.turns.len() as u64, Ordering::Relaxed);
        Ok(number)
    }

    fn sync(&self, number: u64) -> Result<(), StoreError> {
        if self.shared.overlay().visible >= number {
            return Ok(());
        }
        self.shared.not_lost()?;
        let written = self.written.lock().unwrap_or_else(PoisonError::into_inner).clone();
        let Some(written) = written else { return Ok(()) };
        self.shared.write(|| {
            written.file.sync_data().map_err(|error| StoreError::Io(format!("cannot make a commit durable: {error}")))
        })?;
        let mut overlay = self.shared.overlay_mut();
        // Another sync of the same file may have failed meanwhile: then nothing is known.
        self.shared.not_lost()?;
        overlay.visible = overlay.visible.max(written.number);
        Ok(())
    }

    fn purge(&self, epoch: Epoch, instances: &[InstanceId]) -> Result<Vec<InstanceId>, StoreError> {
        let mut writer = self.writer()?;
        self.check_epoch(epoch)?;
        self.shared.write(|| self.purge_ended(&mut writer, instances))
    }

    fn summary(&self, instance: &InstanceId) -> Result<Option<Summary>, StoreError> {
        guarded(|| self.view()?.summary(instance))
    }

    fn history(
        &self,
        instance: &InstanceId,
        execution: Option<ExecutionNumber>,
    ) -> Result<Option<History>, StoreError> {
        guarded(|| self.view()?.history(instance, execution))
    }

    fn history_from(
        &self,
        instance: &InstanceId,
        execution: ExecutionNumber,
        turn: u32,
    ) -> Result<Option<Tail>, StoreError> {
        guarded(|| self.view()?.history_from(instance, execution, turn))
    }

    fn put_snapshot(&self, epoch: Epoch, instance: &InstanceId, snapshot: &Snapshot) -> Result<bool, StoreError> {
        self.keep_snapshot(epoch, instance, snapshot)
    }

    fn snapshot(&self, instance: &InstanceId) -> Result<Option<Snapshot>, StoreError> {
        guarded(|| self.view()?.snapshot(instance))
    }

    fn unfinished(&self, after: Option<&InstanceId>, limit: usize) -> Result<Vec<Summary>, StoreError> {
        let wanted = |summary: &Summary| summary.is_open();
        guarded(|| self.view()?.scan(Among::Unfinished, after_id(after), |_| true, wanted, limit))
    }

    fn list(&self, filter: &Filter, after: Option<&InstanceId>, limit: usize) -> Result<Vec<Summary>, StoreError> {
        let among = if filter.status.is_some_and(|status| !status.is_final()) { Among::Unfinished } else { Among::All };
        let prefix = filter.key_prefix();
        // Ids of other namespaces begin with a mark and come before all of the default one.
        let least = if prefix.is_empty() && !filter.everywhere { " " } else { &prefix };
        let from = match after {
            Some(after) if after.as_str() >= least => Bound::Excluded(after.as_str()),
            _ => Bound::Included(least),
        };
        let wanted = |summary: &Summary| filter.matches(summary);
        guarded(|| self.view()?.scan(among, from, |id| id.starts_with(&prefix), wanted, limit))
    }

    fn newest(
        &self,
        filter: &Filter,
        before: Option<&(TimestampMs, InstanceId)>,
        limit: usize,
    ) -> Result<Vec<Summary>, StoreError> {
        guarded(|| self.view()?.newest(filter, before, limit))
    }

    fn counts(&self, namespace: Option<&Namespace>) -> Result<BTreeMap<Status, u64>, StoreError> {
        guarded(|| self.view()?.counts(namespace))
    }

    fn stored_bytes(&self, namespace: &Namespace) -> Result<u64, StoreError> {
        let sizes = self.sizes.lock().unwrap_or_else(PoisonError::into_inner);
        Ok(sizes.get(namespace.key()).copied().unwrap_or(0))
    }

    fn put_module(&self, module: &Module, component: &[u8]) -> Result<(), StoreError> {
        let hash = &module.hash.0;
        let row = tables::seal_value(&self.options.codec, "modules", hash, module);
        self.change("keep a module", None, |transaction| {
            let mut modules = transaction.open_table(MODULES).doing("keep a module")?;
            modules.insert(hash, row.as_slice()).doing("keep a module")?;
            let mut bytes = transaction.open_table(MODULE_BYTES).doing("keep a module")?;
            bytes.insert(hash, component).doing("keep a module")?;
            Ok(())
        })
    }

    fn module(&self, hash: &ModuleHash) -> Result<Option<Module>, StoreError> {
        guarded(|| {
            let trees = self.database.begin_read().doing("read a module")?;
            let modules = trees.open_table(MODULES).doing("read a module")?;
            let row = modules.get(&hash.0).doing("read a module")?;
            row.map(|row| read_module(&self.options.codec, &hash.0, row.value())).transpose()
        })
    }

    fn module_bytes(&self, hash: &ModuleHash) -> Result<Option<Vec<u8>>, StoreError> {
        guarded(|| {
            let trees = self.database.begin_read().doing("read a module")?;
            let bytes = trees.open_table(MODULE_BYTES).doing("read a module")?;
            let Some(row) = bytes.get(&hash.0).doing("read a module")? else { return Ok(None) };
            let found = Hash::of(row.value());
            if found != *hash {
                let why = format!("the hash of its bytes is {}", found.short());
                return Err(corrupt(format!("module {}", hash.short()), why));
            }
            Ok(Some(row.value().to_vec()))
        })
    }

    fn modules(&self) -> Result<Vec<Module>, StoreError> {
        guarded(|| {
            let trees = self.database.begin_read().doing("list the modules")?;
            let rows = trees.open_table(MODULES).doing("list the modules")?;
            let mut modules = Vec::new();
            for row in rows.iter().doing("list the modules")? {
                let (hash, row) = row.doing("list the modules")?;
                modules.push(read_module(&self.options.codec, hash.value(), row.value())?);
            }
            modules.sort_by_key(|module| std::cmp::Reverse(module.uploaded_at));
            Ok(modules)
        })
    }

    fn put_schedule(&self, epoch: Epoch, name: &str, schedule: Option<&Schedule>) -> Result<(), StoreError> {
        self.change("keep a schedule", Some(epoch), |transaction| {
            let mut schedules = transaction.open_table(SCHEDULES).doing("keep a schedule")?;
            match schedule {
                Some(schedule) => {
                    let row = tables::seal_value(&self.options.codec, "schedules", name.as_bytes(), schedule);
                    schedules.insert(name, row.as_slice()).doing("keep a schedule")?;
                }
                None => {
                    schedules.remove(name).doing("remove a schedule")?;
                }
            }
            Ok(())
        })
    }

    fn schedules(&self) -> Result<Vec<Schedule>, StoreError> {
        guarded(|| {
            let trees = self.database.begin_read().doing("list the schedules")?;
            let rows = trees.open_table(SCHEDULES).doing("list the schedules")?;
            let mut schedules = Vec::new();
            for row in rows.iter().doing("list the schedules")? {
                let (name, row) = row.doing("list the schedules")?;
                let (name, row) = (name.value(), row.value());
                schedules.push(tables::open_value(&self.options.codec, "schedules", name.as_bytes(), row, || {
                    format!("schedule {name}")
                })?);
            }
            Ok(schedules)
        })
    }

    fn remove_module(&self, hash: &ModuleHash) -> Result<bool, StoreError> {
        self.change("remove a module", None, |transaction| {
            let mut modules = transaction.open_table(MODULES).doing("remove a module")?;
            let mut bytes = transaction.open_table(MODULE_BYTES).doing("remove a module")?;
            bytes.remove(&hash.0).doing("remove a module")?;
            Ok(modules.remove(&hash.0).doing("remove a module")?.is_some())
        })
    }

    fn ids(&self, after: Option<&InstanceId>, limit: usize) -> Result<Vec<InstanceId>, StoreError> {
        guarded(|| self.view()?.ids(after_id(after), limit))
    }

    fn check_indexes(&self) -> Result<Vec<IndexFinding>, StoreError> {
        guarded(|| {
            let mut findings = self.view()?.check_indexes()?;
            findings.extend(self.check_log()?);
            Ok(findings)
        })
    }

    fn backup(&self, to: &mut dyn Write) -> Result<Contents, BackupError> {
        guarded(|| self.write_backup(to))
    }
}

fn after_id(after: Option<&InstanceId>) -> Bound<&str> {
    after.map_or(Bound::Unbounded, |id| Bound::Excluded(id.as_str()))
}

fn read_module(codec: &Codec, hash: &[u8; 32], row: &[u8]) -> Result<Module, StoreError> {
    tables::open_value(codec, "modules", hash, row, || format!("module {}", Hash(*hash).short()))
}
