//! Schedules: instances that start by the calendar.
//!
//! One thread deals with what is due, on the engine's clock. A time is dealt with
//! by starting an instance whose id follows from the schedule's name and that time,
//! and only then is the schedule's row moved on. A host that dies in between finds
//! the instance there and moves the row on: each time is started exactly once.
//!
//! Schedules are rows of a table of their own, not instances of a built-in
//! orchestration: all that must be kept is how far one has come, its past is the
//! instances that it started, and an instance would need a module that cannot be
//! deleted and a history that grows with every day.

mod timing;

use std::collections::BTreeMap;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Condvar, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use self::timing::Calendar;
use super::{Engine, EngineError, IdReuse, StartOutcome, StartRequest};
use crate::core::ids::{InstanceId, TimestampMs};
use crate::core::namespace::{self, Namespace};
use crate::core::summary::Status;
use crate::store::schedule::{
    MAX_NAME_BYTES, Overlap, Schedule, ScheduleSpec, is_occurrence, occurrence_id, triggered_id,
};
use crate::store::{Epoch, Filter, Store};

/// Starts of one schedule between two writes of its row: after a crash, so many are
/// looked at again.
const STARTS_PER_WRITE: usize = 64;

/// A window shorter than this would leave out what the host is only late for.
const MIN_CATCH_UP_MS: u64 = 1_000;

/// The schedules of a store.
pub(super) struct Schedules {
    epoch: Epoch,
    /// Held while something is started, so that a change is never lost in between.
    /// The committer must never wait for it: it is who ends that wait.
    table: Mutex<BTreeMap<String, Entry>>,
    signal: Arc<Signal>,
}

struct Entry {
    schedule: Schedule,
    calendar: Calendar,
}

/// How others reach the thread without waiting for it.
#[derive(Default)]
pub(super) struct Signal {
    state: Mutex<Flags>,
    changed: Condvar,
    /// Somebody waits for an instance to end.
    any_buffered: AtomicBool,
}

#[derive(Default)]
struct Flags {
    woken: bool,
    stopped: bool,
}

impl Schedules {
    /// The schedules in `store`.
    pub(super) fn load(store: &dyn Store, epoch: Epoch) -> Result<Self, EngineError> {
        let mut table = BTreeMap::new();
        for schedule in store.schedules()? {
            let calendar = Calendar::read(&schedule.spec.timing)?;
            table.insert(schedule.name.clone(), Entry { schedule, calendar });
        }
        Ok(Self { epoch, table: Mutex::new(table), signal: Arc::default() })
    }

    /// How to wake or stop the thread.
    pub(super) fn signal(&self) -> Arc<Signal> {
        self.signal.clone()
    }

    /// Deals with what is due until it is stopped.
    pub(super) fn run(&self, engine: &Engine) {
        loop {
            let next = match self.handle_due(engine) {
                Ok(next) => next,
                Err(EngineError::Stopped(_)) => return,
                Err(error) => {
                    tracing::error!(%error, "schedules are not served any more; start the host again");
                    return;
                }
            };
            let patience = next.map_or(Duration::from_secs(3600), |due| engine.clock.until(due));
            if !self.signal.wait(patience) {
                return;
            }
        }
    }

    /// Deals with everything that is due now; when the next thing is.
    fn handle_due(&self, engine: &Engine) -> Result<Option<TimestampMs>, EngineError> {
        // Said before anybody is asked whether it still runs: an end that comes in
        // between wakes this thread again.
        self.signal.any_buffered.store(true, Ordering::SeqCst);
        let mut table = self.table();
        let mut next = None;
        for entry in table.values_mut() {
            let due = entry.handle_due(engine, self.epoch)?;
            next = next.into_iter().chain(due).min();
        }
        let any_buffered = table.values().any(|entry| entry.schedule.buffered.is_some());
        self.signal.any_buffered.store(any_buffered, Ordering::SeqCst);
        Ok(next)
    }

    fn table(&self) -> MutexGuard<'_, BTreeMap<String, Entry>> {
        self.table.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Changes a schedule, durably.
    fn change<T>(
        &self,
        engine: &Engine,
        name: &str,
        change: impl FnOnce(&mut Schedule) -> T,
    ) -> Result<T, EngineError> {
        let mut table = self.table();
        if !table.contains_key(name) {
            return Err(unknown(name, &table));
        }
        let entry = table.get_mut(name).expect("it was looked for");
        let mut changed = entry.schedule.clone();
        let answer = change(&mut changed);
        engine.store.put_schedule(self.epoch, name, Some(&changed))?;
        entry.schedule = changed;
        drop(table);
        self.signal.wake();
        Ok(answer)
    }
}

impl Entry {
    /// Deals with what is due; when the next time is.
    fn handle_due(&mut self, engine: &Engine, epoch: Epoch) -> Result<Option<TimestampMs>, EngineError> {
        loop {
            let now = engine.clock.now();
            let before = self.schedule.clone();
            self.start_buffered(engine, now)?;
            let next = self.start_due(engine, now)?;
            if self.schedule != before {
                engine.store.put_schedule(epoch, &self.schedule.name, Some(&self.schedule))?;
            }
            match next {
                Some(next) if next <= now => {}
                next => return Ok(next),
            }
        }
    }

    fn start_buffered(&mut self, engine: &Engine, now: TimestampMs) -> Result<(), EngineError> {
        if let Some(due) = self.schedule.buffered
            && self.schedule.paused.is_none()
            && self.running(engine)?.is_empty()
        {
            self.schedule.buffered = None;
            self.start(engine, occurrence_id(&self.schedule.name, due), due, now)?;
        }
        Ok(())
    }

    /// Deals with some of the times that are due; the first that is not.
    fn start_due(&mut self, engine: &Engine, now: TimestampMs) -> Result<Option<TimestampMs>, EngineError> {
        if self.schedule.paused.is_some() {
            // What comes while it is paused is left out.
            return Ok(None);
        }
        let window_begins = TimestampMs(now.0.saturating_sub(self.schedule.spec.catch_up_ms));
        let mut after = self.schedule.handled_until.max(TimestampMs(window_begins.0.saturating_sub(1)));
        for _ in 0..STARTS_PER_WRITE {
            let next = self.calendar.next(self.schedule.created_at, after);
            let Some(due) = next.filter(|due| *due <= now) else { return Ok(next) };
            self.deal_with(engine, due, now)?;
            self.schedule.handled_until = due;
            after = due;
        }
        Ok(self.calendar.next(self.schedule.created_at, after))
    }

    /// One time that is due.
    fn deal_with(&mut self, engine: &Engine, due: TimestampMs, now: TimestampMs) -> Result<(), EngineError> {
        let id = occurrence_id(&self.schedule.name, due);
        if engine.store.summary(&id)?.is_some() {
            // Started by a host that died before it could say so.
            self.schedule.started += 1;
            self.schedule.last = Some(id);
            return Ok(());
        }
        let overlap = self.schedule.spec.overlap;
        let running = if overlap == Overlap::Allow { Vec::new() } else { self.running(engine)? };
        if running.is_empty() && self.schedule.buffered.is_none() {
            return self.start(engine, id, due, now);
        }
        let why = format!("the schedule {} starts another one", self.schedule.local_name());
        match overlap {
            Overlap::BufferOne if self.schedule.buffered.is_none() => self.schedule.buffered = Some(due),
            Overlap::Skip | Overlap::BufferOne => self.schedule.skipped += 1,
            Overlap::CancelOther => {
                running.iter().try_for_each(|id| ends(futures::executor::block_on(engine.cancel(id, &why))))?;
                if self.schedule.buffered.replace(due).is_some() {
                    self.schedule.skipped += 1;
                }
            }
            Overlap::TerminateOther => {
                running.iter().try_for_each(|id| ends(futures::executor::block_on(engine.terminate(id, &why))))?;
                self.start(engine, id, due, now)?;
            }
            Overlap::Allow => self.start(engine, id, due, now)?,
        }
        Ok(())
    }

    fn start(
        &mut self,
        engine: &Engine,
        id: InstanceId,
        due: TimestampMs,
        now: TimestampMs,
    ) -> Result<(), EngineError> {
        let request = request(&self.schedule, id.clone(), due);
        match futures::executor::block_on(engine.start(request)) {
            Ok(_) => self.schedule.note_start(id),
            Err(error @ (EngineError::Stopped(_) | EngineError::Store(_))) => return Err(error),
            Err(error) => {
                tracing::error!(schedule = self.schedule.local_name(), namespace = %Namespace::of(&self.schedule.name), %due, %error, "the schedule could not start an instance");
                self.schedule.last_error = Some(format!("{due}, at {now}: {error}"));
            }
        }
        Ok(())
    }

    /// Instances of this schedule that have not ended.
    fn running(&self, engine: &Engine) -> Result<Vec<InstanceId>, EngineError> {
        const PAGE: usize = 256;
        let name = &self.schedule.name;
        let mut found = Vec::new();
        for status in Status::ALL.into_iter().filter(|status| !status.is_final()) {
            let filter = Filter {
                namespace: Namespace::of(name),
                status: Some(status),
                id_prefix: Some(format!("{}/", namespace::local(name))),
                ..Filter::default()
            };
            let mut after = None;
            loop {
                let page = engine.store.list(&filter, after.as_ref(), PAGE)?;
                let is_last = page.len() < PAGE;
                after = page.last().map(|row| row.instance.clone());
                found.extend(page.into_iter().map(|row| row.instance).filter(|id| is_occurrence(name, id)));
                if is_last {
                    break;
                }
            }
        }
        Ok(found)
    }
}

impl Schedule {
    fn note_start(&mut self, id: InstanceId) {
        self.started += 1;
        self.last = Some(id);
        self.last_error = None;
    }
}

fn request(schedule: &Schedule, id: InstanceId, due: TimestampMs) -> StartRequest {
    let spec = &schedule.spec;
    let own = [("schedule", schedule.local_name().to_owned()), ("scheduled_for", due.to_string())];
    let own = own.into_iter().map(|(name, value)| (name.to_owned(), value));
    StartRequest {
        id,
        orchestration: spec.orchestration.clone(),
        module: spec.module.clone(),
        input: spec.input.clone(),
        tags: spec.tags.clone().into_iter().chain(own).collect(),
        reuse: IdReuse::ReturnExisting,
        start_at: None,
    }
}

/// An instance that has ended by itself meanwhile is what was wanted.
fn ends(outcome: Result<(), EngineError>) -> Result<(), EngineError> {
    match outcome {
        Err(EngineError::Ended { .. } | EngineError::UnknownInstance { .. }) => Ok(()),
        outcome => outcome,
    }
}

impl Signal {
    /// There may be something to do.
    pub(super) fn wake(&self) {
        self.flags().woken = true;
        self.changed.notify_all();
    }

    /// The end of an instance is durable.
    pub(super) fn ended(&self) {
        if self.any_buffered.load(Ordering::SeqCst) {
            self.wake();
        }
    }

    /// The thread is to end.
    pub(super) fn stop(&self) {
        self.flags().stopped = true;
        self.changed.notify_all();
    }

    /// Waits until it is woken or the time is over. False: it is to end.
    fn wait(&self, patience: Duration) -> bool {
        let flags = self.flags();
        let waited = self.changed.wait_timeout_while(flags, patience, |flags| !flags.woken && !flags.stopped);
        let (mut flags, _) = waited.unwrap_or_else(PoisonError::into_inner);
        flags.woken = false;
        !flags.stopped
    }

    fn flags(&self) -> MutexGuard<'_, Flags> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// Schedules. These calls block until what they change is durable.
impl Engine {
    /// Makes a schedule, or changes what the one of that name does. Returns it.
    /// A changed timing counts from now.
    ///
    /// # Errors
    /// If the name, the timing or the window is not valid, or the orchestration unknown.
    pub fn put_schedule(&self, name: &str, spec: ScheduleSpec) -> Result<Schedule, EngineError> {
        check(name, &spec)?;
        self.check_size("the input", &spec.input)?;
        self.modules.resolve_in(&Namespace::of(name), &spec.orchestration, spec.module.as_deref())?;
        let calendar = Calendar::read(&spec.timing)?;
        let now = self.clock.now();
        if calendar.next(now, now).is_none() {
            return Err(EngineError::InvalidInput("the schedule never comes due; choose another time".to_owned()));
        }
        let mut table = self.schedules.table();
        let schedule = match table.get(name).map(|entry| &entry.schedule) {
            Some(old) if old.spec.timing == spec.timing => Schedule { spec, ..old.clone() },
            Some(old) => Schedule { spec, created_at: now, handled_until: now, ..old.clone() },
            None => Schedule {
                name: name.to_owned(),
                spec,
                created_at: now,
                handled_until: now,
                paused: None,
                buffered: None,
                started: 0,
                skipped: 0,
                last: None,
                last_error: None,
            },
        };
        self.store.put_schedule(self.schedules.epoch, name, Some(&schedule))?;
        table.insert(name.to_owned(), Entry { schedule: schedule.clone(), calendar });
        drop(table);
        self.schedules.signal.wake();
        Ok(schedule)
    }

    /// Every schedule of the default namespace, by name.
    pub fn list_schedules(&self) -> Vec<Schedule> {
        self.list_schedules_in(&Namespace::default())
    }

    /// Schedules of every namespace.
    pub fn schedule_count(&self) -> usize {
        self.schedules.table().len()
    }

    /// Every schedule of a namespace, by name.
    pub fn list_schedules_in(&self, namespace: &Namespace) -> Vec<Schedule> {
        let table = self.schedules.table();
        let own = table.values().map(|entry| &entry.schedule).filter(|schedule| namespace.has(&schedule.name));
        own.cloned().collect()
    }

    /// A schedule.
    ///
    /// # Errors
    /// If there is none of that name.
    pub fn schedule(&self, name: &str) -> Result<Schedule, EngineError> {
        let table = self.schedules.table();
        table.get(name).map(|entry| entry.schedule.clone()).ok_or_else(|| unknown(name, &table))
    }

    /// The next times at which a schedule is due, as it stands; `count` at most.
    ///
    /// # Errors
    /// If its timing cannot be read.
    pub fn next_times(&self, schedule: &Schedule, count: usize) -> Result<Vec<TimestampMs>, EngineError> {
        let calendar = Calendar::read(&schedule.spec.timing)?;
        let mut last = schedule.handled_until.max(self.clock.now());
        let next = || {
            last = calendar.next(schedule.created_at, last)?;
            Some(last)
        };
        Ok(std::iter::from_fn(next).take(count).collect())
    }

    /// Pauses a schedule: what comes due from here on is left out.
    ///
    /// # Errors
    /// If there is none of that name.
    pub fn pause_schedule(&self, name: &str, reason: &str) -> Result<(), EngineError> {
        self.schedules.change(self, name, |schedule| schedule.paused = Some(reason.to_owned()))
    }

    /// Goes on with a schedule; what came due while it was paused stays left out.
    ///
    /// # Errors
    /// If there is none of that name.
    pub fn unpause_schedule(&self, name: &str) -> Result<(), EngineError> {
        let now = self.clock.now();
        self.schedules.change(self, name, |schedule| {
            if schedule.paused.take().is_some() {
                schedule.handled_until = schedule.handled_until.max(now);
            }
        })
    }

    /// Starts an instance of a schedule now, paused or not, beside any that runs.
    ///
    /// # Errors
    /// If there is no such schedule, or those of [`Engine::start`].
    pub fn trigger_schedule(&self, name: &str) -> Result<InstanceId, EngineError> {
        let now = self.clock.now();
        let schedule = self.schedule(name)?;
        let id = triggered_id(name, now);
        let outcome = futures::executor::block_on(self.start(request(&schedule, id.clone(), now)))?;
        if outcome == StartOutcome::Started {
            self.schedules.change(self, name, |schedule| schedule.note_start(id.clone()))?;
        }
        Ok(id)
    }

    /// Forgets a schedule. Instances that it started go on.
    ///
    /// # Errors
    /// If there is none of that name.
    pub fn delete_schedule(&self, name: &str) -> Result<(), EngineError> {
        self.schedule(name)?;
        let mut table = self.schedules.table();
        self.store.put_schedule(self.schedules.epoch, name, None)?;
        table.remove(name);
        Ok(())
    }
}

/// Says which schedules the namespace of `name` has.
fn unknown(name: &str, table: &BTreeMap<String, Entry>) -> EngineError {
    let namespace = Namespace::of(name);
    let exists = table.keys().filter(|known| namespace.has(known)).map(|known| namespace::local(known).to_owned());
    EngineError::UnknownSchedule { name: namespace::local(name).to_owned(), exists: exists.collect() }
}

fn check(name: &str, spec: &ScheduleSpec) -> Result<(), EngineError> {
    let name = namespace::local(name);
    let plain = |c: char| c.is_ascii_alphanumeric() || matches!(c, '-' | '_' | '.');
    if name.is_empty() || name.len() > MAX_NAME_BYTES || !name.chars().all(plain) {
        return Err(EngineError::InvalidInput(format!(
            "the schedule name {name:?} is not valid: expected 1 to {MAX_NAME_BYTES} letters, digits, '-', '_' and '.'"
        )));
    }
    if spec.catch_up_ms < MIN_CATCH_UP_MS {
        let found = spec.catch_up_ms;
        return Err(EngineError::InvalidInput(format!(
            "the catch-up window is {found} ms: expected at least {MIN_CATCH_UP_MS}, since a host may be a little late"
        )));
    }
    Ok(())
}
