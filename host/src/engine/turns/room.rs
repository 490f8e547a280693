//! Which instances stay in memory, and which make room for others.
//!
//! A guest costs memory, its state without it costs little: those that ran longest
//! ago leave first, once their turns are durable, and are replayed when they go on.

use std::collections::BTreeMap;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};

use super::{Body, Message, Slot, Worker, ms};
use crate::core::execution::Pending;
use crate::core::ids::{InstanceId, TimestampMs};

/// Guests of all workers, to be looked at from outside.
#[derive(Debug, Default)]
pub(in crate::engine) struct GuestCounts {
    /// In memory.
    pub(in crate::engine) resident: AtomicU64,
    /// Made for instances that had none.
    pub(in crate::engine) made: AtomicU64,
    /// Of these, for such as had run before, from their histories.
    pub(in crate::engine) replayed: AtomicU64,
    /// Re-created from a snapshot.
    pub(in crate::engine) restored: AtomicU64,
    /// Not made when they were wanted: there was no room, or not all of the history was
    /// durable.
    pub(in crate::engine) put_off: AtomicU64,
}

/// Counts a guest for as long as it is in memory.
pub(super) struct Resident(Arc<GuestCounts>);

impl Resident {
    pub(super) fn new(counts: &Arc<GuestCounts>, is_replayed: bool) -> Self {
        counts.resident.fetch_add(1, Ordering::Relaxed);
        counts.made.fetch_add(1, Ordering::Relaxed);
        counts.replayed.fetch_add(u64::from(is_replayed), Ordering::Relaxed);
        Self(counts.clone())
    }
}

impl Drop for Resident {
    fn drop(&mut self) {
        self.0.resident.fetch_sub(1, Ordering::Relaxed);
    }
}

/// Who is in memory and not at work, by when it last ran: the stamp of its slot.
/// Guests apart, since only those make room: with far more instances ready than
/// guests may be in memory, all others would be looked through each time.
#[derive(Default)]
pub(super) struct Idle {
    guests: BTreeMap<u64, InstanceId>,
    bare: BTreeMap<u64, InstanceId>,
}

impl Idle {
    pub(super) fn insert(&mut self, slot: &Slot, id: InstanceId) {
        let of_its_kind = match slot.body {
            Body::Guest(..) => &mut self.guests,
            Body::Bare(_) | Body::Changing => &mut self.bare,
        };
        of_its_kind.insert(slot.stamp, id);
    }

    pub(super) fn remove(&mut self, stamp: u64) {
        if self.guests.remove(&stamp).is_none() {
            self.bare.remove(&stamp);
        }
    }

    /// Who ran longest ago.
    fn first(&self) -> Option<(u64, &InstanceId)> {
        let firsts = [self.guests.first_key_value(), self.bare.first_key_value()];
        firsts.into_iter().flatten().min_by_key(|(stamp, _)| **stamp).map(|(stamp, id)| (*stamp, id))
    }
}

/// Guests that wait to be torn down until turns are run: no more of a worker's share than one
/// in so many, which are part of the room that stays free, and no more than so many.
const LEAVING: (usize, usize) = (32, 64);

/// Guests that are looked at for one that may go. Where that many are all at work,
/// or about to be, the others likely are too.
const LOOKED_AT: usize = 64;

impl Worker {
    /// When the next instance has been in memory for long enough without running.
    pub(super) fn evicts_at(&self) -> Option<TimestampMs> {
        let (_, id) = self.idle.first()?;
        let last_ran = self.live.get(id).map_or(TimestampMs(0), |slot| slot.last_ran);
        Some(last_ran.plus(ms(self.parts.settings.evict_after)))
    }

    /// Takes instances out of memory that have not run for a while.
    pub(super) fn evict_idle(&mut self) {
        let now = self.parts.clock.now();
        while let Some((stamp, id)) = self.idle.first() {
            let id = id.clone();
            let Some(slot) = self.live.get(&id) else {
                self.idle.remove(stamp);
                continue;
            };
            let old = now.since(slot.last_ran) >= ms(self.parts.settings.evict_after);
            if !old || slot.queued || slot.crowded || !self.is_durable(slot) {
                return;
            }
            self.evict(&id);
        }
    }

    /// Takes an instance out of memory that has just said it waits for long.
    pub(super) fn evict_if_long(&mut self, id: &InstanceId) {
        let now = self.parts.clock.now();
        let threshold = now.plus(ms(self.parts.settings.stay_below));
        let Some(slot) = self.live.get_mut(id) else { return };
        let execution = &slot.body.recorder().execution;
        let runs = execution.pending.values().any(Pending::is_under_way);
        let long = execution.next_due().is_none_or(|due| due > threshold);
        let (idle, queued) = (execution.end.is_none() && !execution.wants_turn(), slot.queued);
        if long && !runs && idle && !queued && self.live.get(id).is_some_and(|slot| self.is_durable(slot)) {
            self.evict(id);
        }
    }

    fn evict(&mut self, id: &InstanceId) {
        self.leave_snapshot(id);
        self.drop_slot(id);
    }

    /// Lets guests go that ran longest ago, until there is room for one more: each
    /// worker has its share, so that none takes it all. False: all that are here go
    /// on before whoever asks, and the worker is woken when they may leave.
    pub(super) fn make_room(&mut self) -> bool {
        while self.is_full() && !self.idle.guests.is_empty() {
            let mut longest = self.longest_idle_guest();
            if longest.is_none() && self.ready.is_crowded_for_long() {
                // Whoever is at work goes on at once each time, and has always run just now.
                self.wait_until_durable();
                longest = self.longest_idle_guest();
            }
            let Some(id) = longest else {
                self.ask_to_be_woken();
                return false;
            };
            self.evict(&id);
        }
        true
    }

    /// When what has run up to now is durable.
    pub(super) fn ask_to_be_woken(&mut self) {
        if !std::mem::replace(&mut self.is_woken_later, true) {
            let this = self.parts.links[self.parts.number].clone();
            self.replies.push(Box::new(move |_| this.send(Message::Wake)));
        }
    }

    fn is_full(&self) -> bool {
        let all = self.parts.guests.resident.load(Ordering::Relaxed) as usize;
        self.idle.guests.len() >= self.share().max(1) || all >= self.most()
    }

    /// A tenth stays free: for queries, for those that leave, and where workers do not share evenly.
    fn most(&self) -> usize {
        let most = self.parts.settings.sandbox.resident_guests as usize;
        most - most / 10
    }

    fn share(&self) -> usize {
        self.most() / self.parts.links.len()
    }

    /// What an instance that has left the memory had there. A guest is torn down later, if not
    /// too many are: the messages of this round, and the turns that they lead to, come first.
    pub(super) fn let_leave(&mut self, body: Body) {
        let (one_in, most) = LEAVING;
        if let Body::Guest(guest, _) = body
            // Those that can be looked into are fewer, and none of their room stays free.
            && !guest.is_inspected()
            && self.leaving.len() < most.min(self.share() / one_in)
        {
            self.leaving.push(guest);
        }
    }

    /// The guest that ran longest ago of those that have nothing to do and whose
    /// turns are durable.
    fn longest_idle_guest(&self) -> Option<InstanceId> {
        let may_go = |id: &&InstanceId| self.live.get(*id).is_some_and(|slot| !slot.queued && self.is_durable(slot));
        self.idle.guests.values().take(LOOKED_AT).find(may_go).cloned()
    }
}
