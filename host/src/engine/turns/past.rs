//! What an instance is put together from when it is not in memory: the state that a
//! snapshot keeps and the turns after it, or all its turns.

use std::sync::atomic::Ordering;

use super::{Body, Message, NotNow, Parts, Reply, Slot, Worker, take_up};
use crate::core::execution::Execution;
use crate::core::ids::{InstanceId, TimestampMs};
use crate::core::summary::Summary;
use crate::core::turn::{Limits, Recorder, TurnRecord};
use crate::engine::modules::Modules;
use crate::engine::snapshots::{self, BYTES_PER_EVENT, Job, MOST_BYTES, Taken};
use crate::sandbox::OrchestrationModule;
use crate::sandbox::guest::{Guest, ReplayError};
use crate::sandbox::snapshot::Snapshot;
use crate::store::Store;

/// See the module's page.
pub(in crate::engine) struct Past {
    base: Option<Box<Snapshot>>,
    /// The turns after `base`.
    records: Vec<TurnRecord>,
}

/// Where an instance in memory stands with snapshots.
#[derive(Clone, Copy, Debug, Default)]
pub(super) struct Taking {
    /// Events that are in the last one.
    at: u32,
    /// Events until the next one, if that is more than the settings say.
    apart: u32,
    /// Its module was asked for.
    prepared: bool,
    /// It is to run in an ordinary guest until it leaves the memory: the host's
    /// verdict is taken from there.
    pub(super) is_plain: bool,
}

/// An instance that leaves the memory leaves a snapshot if it has come a part of the way
/// to its next one, this one in so many.
const PARTS_OF_THE_WAY: u32 = 4;

impl Taking {
    /// After a wake with that past.
    pub(super) fn since(past: &Past) -> Self {
        let at = past.base.as_ref().map_or(0, |base| base.recorder().execution.events);
        Self { at, ..Self::default() }
    }

    /// Whether an instance has come one of so many parts of the way to its next one.
    fn has_come(&self, execution: &Execution, every: u32, parts: u32) -> bool {
        let way = every.max(self.apart).div_ceil(parts);
        every > 0 && !self.is_plain && execution.end.is_none() && execution.events - self.at >= way
    }

    /// The state of a guest between two turns. Whatever comes of it, it is not tried again
    /// soon.
    fn copied(&mut self, id: &InstanceId, guest: &mut Guest) -> Option<Taken> {
        self.at = guest.recorder().execution.events;
        let snapshot = guest.snapshot(None).ok()?;
        if !snapshot.can_be_stored() || snapshot.bytes() > MOST_BYTES {
            return None;
        }
        self.apart = u32::try_from(snapshot.bytes() / BYTES_PER_EVENT).unwrap_or(u32::MAX);
        Some(Taken { instance: id.clone(), snapshot })
    }
}

impl Past {
    /// All turns.
    pub(in crate::engine) fn whole(records: Vec<TurnRecord>) -> Self {
        Self { base: None, records }
    }

    /// The snapshot of an instance with that row, if a good one is kept, and the turns after it.
    pub(in crate::engine) fn of_snapshot(
        store: &dyn Store,
        modules: &Modules,
        row: &Summary,
        limits: Limits,
    ) -> Option<Self> {
        let (base, records) = snapshots::find(store, modules, row, limits)?;
        Some(Self { base: Some(Box::new(base)), records })
    }

    /// The state now, without a guest.
    pub(super) fn bare(&self, limits: Limits) -> Result<Recorder, String> {
        let Some(base) = &self.base else { return super::bare_recorder(&self.records, limits) };
        let mut recorder = base.recorder().clone();
        self.records.iter().try_for_each(|record| recorder.absorb(record))?;
        Ok(recorder)
    }

    /// A guest in the state now.
    pub(in crate::engine) fn guest(&self, module: &OrchestrationModule, limits: Limits) -> Result<Guest, NotNow> {
        let recorder = match &self.base {
            Some(base) => base.recorder().clone(),
            None => {
                let first = self.records.first().ok_or_else(|| NotNow::Blocked("its history is empty".to_owned()))?;
                Recorder::of_history(first, limits).map_err(NotNow::Blocked)?
            }
        };
        let mut guest = Guest::new(module, recorder).map_err(|(trouble, _)| NotNow::Later(trouble.to_string()))?;
        if let Some(base) = &self.base {
            guest.restore(base).map_err(|error| NotNow::Later(error.to_string()))?;
        }
        guest.replay(&self.records).map_err(|error| match error {
            ReplayError::Host(trouble) => NotNow::Later(trouble.to_string()),
            error => NotNow::Blocked(error.to_string()),
        })?;
        Ok(guest)
    }
}

impl Worker {
    /// The past of an instance with that row.
    pub(super) fn past(&self, row: &Summary) -> Result<Past, NotNow> {
        let Parts { store, modules, settings, .. } = &self.parts;
        let of_snapshot = || Past::of_snapshot(&**store, modules, row, settings.limits);
        match self.is_long(row.events).then(of_snapshot).flatten() {
            Some(past) => Ok(past),
            None => self.whole_past(&row.instance),
        }
    }

    fn whole_past(&self, id: &InstanceId) -> Result<Past, NotNow> {
        Ok(Past::whole(self.records(id)?))
    }

    /// The past of an instance, whose row is read for it.
    pub(super) fn past_of(&self, id: &InstanceId) -> Result<Past, NotNow> {
        let row = self.parts.store.summary(id).map_err(|error| NotNow::Store(error.into()))?;
        self.past(&row.ok_or(NotNow::Gone(None))?)
    }

    /// A guest re-created from its past, with the turn that `bare` has under way.
    pub(super) fn replayed(
        &self,
        id: &InstanceId,
        module: &OrchestrationModule,
        (past, is_plain): (Option<Past>, bool),
        bare: &Recorder,
        now: TimestampMs,
    ) -> Result<Guest, NotNow> {
        let past = past.map_or_else(|| self.past_of(id), Ok)?;
        let guest = if is_plain { None } else { self.inspected(&past, &bare.execution) };
        let mut guest = match (guest, &past.base) {
            (Some(guest), _) => guest,
            (None, None) => past.guest(module, bare.limits)?,
            (None, Some(_)) => self.whole_past(id)?.guest(module, bare.limits)?,
        };
        if guest.recorder().execution.head != bare.execution.head {
            return Err(NotNow::Blocked("its history ends elsewhere than its state".to_owned()));
        }
        let (at, events) = bare.under_way();
        take_up(guest.recorder_mut(), at, events, now);
        Ok(guest)
    }

    /// A guest that can be looked into, for an instance with a long history. None: it is
    /// not to have one, or this host has none for it.
    fn inspected(&self, past: &Past, execution: &Execution) -> Option<Guest> {
        if !self.is_long(execution.events) {
            return None;
        }
        let module = self.parts.modules.inspected(execution.module)?;
        match past.guest(&module, self.parts.settings.limits) {
            Ok(guest) if guest.recorder().execution.head == execution.head => {
                let restored = &self.parts.guests.restored;
                restored.fetch_add(u64::from(past.base.is_some()), Ordering::Relaxed);
                Some(guest)
            }
            Ok(_) => None,
            Err(reason) => {
                let (instance, why) = (&execution.started.instance, reason.text());
                tracing::warn!(%instance, why, "it goes on without snapshots");
                None
            }
        }
    }

    /// Whether an instance of so many events is to have snapshots.
    pub(super) fn is_long(&self, events: u32) -> bool {
        let every = self.parts.settings.snapshot_every;
        every > 0 && events >= every
    }

    /// Between two turns: takes a snapshot if it is time for one, or asks for what that
    /// needs.
    pub(super) fn take_snapshot(&mut self, id: &InstanceId, slot: &mut Slot) {
        let (every, taking) = (self.parts.settings.snapshot_every, &mut slot.taking);
        let Body::Guest(guest, _) = &mut slot.body else { return };
        let execution = &guest.recorder().execution;
        if !taking.has_come(execution, every, 1) {
            return;
        }
        if !guest.is_inspected() {
            if !taking.prepared {
                let (worker, id) = (self.parts.links[self.parts.number].clone(), id.clone());
                let ready = Box::new(move || worker.send(Message::Inspectable(id)));
                taking.prepared = self.parts.snapshots.send(Job::Prepare(execution.module, ready));
            }
            return;
        }
        let Some(taken) = taking.copied(id, guest) else { return };
        let snapshots = self.parts.snapshots.clone();
        let when_durable: Reply = Box::new(move |durable| {
            if durable.is_ok() {
                snapshots.send(Job::Keep(Box::new(taken)));
            }
        });
        self.replies.push(when_durable);
    }

    /// An instance leaves the memory, all its turns durable: its state is kept, if the next
    /// wake would else have much to replay.
    pub(super) fn leave_snapshot(&mut self, id: &InstanceId) {
        let every = self.parts.settings.snapshot_every;
        let Some(Slot { body: Body::Guest(guest, _), taking, .. }) = self.live.get_mut(id) else { return };
        if guest.is_inspected()
            && taking.has_come(&guest.recorder().execution, every, PARTS_OF_THE_WAY)
            && let Some(taken) = taking.copied(id, guest)
        {
            self.parts.snapshots.send(Job::Keep(Box::new(taken)));
        }
    }

    /// An instance that has grown long moves now, or when all its turns are durable, if it has
    /// nothing to do: its history is replayed for that, and nobody waits for this instance
    /// meanwhile.
    pub(super) fn queue_to_move(&mut self, id: &InstanceId) {
        let Some(slot) = self.live.get(id).filter(|slot| self.is_to_move(slot)) else { return };
        if self.is_durable(slot) {
            return self.queue(id);
        }
        let (worker, id) = (self.parts.links[self.parts.number].clone(), id.clone());
        self.replies.push(Box::new(move |durable| {
            if durable.is_ok() {
                worker.send(Message::Inspectable(id));
            }
        }));
    }

    /// An instance that has grown long leaves its ordinary guest, at the latest before its next
    /// turn, once there is one for it that can be looked into.
    pub(super) fn is_to_move(&self, slot: &Slot) -> bool {
        match &slot.body {
            Body::Guest(guest, _) if slot.taking.prepared && !slot.taking.is_plain && !guest.is_inspected() => {
                let execution = &guest.recorder().execution;
                execution.end.is_none() && self.parts.modules.is_inspected(execution.module)
            }
            _ => false,
        }
    }
}
