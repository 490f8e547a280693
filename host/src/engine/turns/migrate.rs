//! How a worker moves its instances to another module, in one commit with those of
//! all other workers: see [`crate::engine::upgrade`].

use std::sync::Arc;

use tokio::sync::oneshot;

use super::{NotNow, Slot, Worker, outbound};
use crate::core::event::Event;
use crate::core::ids::{ExecutionNumber, Hash, InstanceId};
use crate::engine::error::EngineError;
use crate::replay::check::{Candidate, Checked};

/// A worker's part of a migration.
pub(in crate::engine) struct Migration {
    /// Its instances that were found to match.
    pub(in crate::engine) of: Vec<Stood>,
    /// What they are to go on with.
    pub(in crate::engine) to: Arc<Candidate>,
    /// How many workers are told; all of their parts are one commit.
    pub(in crate::engine) parts: usize,
    /// What became of each, once that is durable.
    pub(in crate::engine) reply: oneshot::Sender<Result<Vec<(InstanceId, Fate)>, EngineError>>,
}

/// An instance, and where it stood when it was checked.
pub(in crate::engine) struct Stood {
    pub(in crate::engine) instance: InstanceId,
    pub(in crate::engine) execution: ExecutionNumber,
    pub(in crate::engine) head: Hash,
}

/// What became of one of them.
pub(in crate::engine) enum Fate {
    /// It goes on with the new module. If it had gone on since, this was checked again.
    Moved(Option<Box<Checked>>),
    /// What it did since is not what the new module would have done.
    Differs(Box<Checked>),
    /// It has ended since.
    Ended,
    /// It cannot be loaded.
    Left(String),
}

impl Fate {
    fn of_unloaded(reason: NotNow) -> Self {
        match reason {
            NotNow::Gone(_) => Self::Ended,
            reason => Self::Left(reason.text()),
        }
    }
}

impl Worker {
    /// A turn of its own for each, between two others. No turn is under way here,
    /// so none is lost, and none begins before all of them are sealed; the guests of
    /// the old module go, and the next turn re-creates each with the new one.
    pub(super) fn migrate(&mut self, migration: Migration) {
        let Migration { of, to, parts, reply } = migration;
        let mut fates = Vec::new();
        let mut stand = Vec::new();
        for stood in of {
            match self.at_rest(&stood.instance) {
                Ok(slot) => stand.push((stood, slot)),
                Err(fate) => fates.push((stood.instance, fate)),
            }
        }
        if stand.iter_mut().any(|(stood, slot)| has_gone_on(stood, slot)) {
            self.wait_until_durable();
        }
        let mut moving = Vec::new();
        for (stood, mut slot) in stand {
            let again = if has_gone_on(&stood, &mut slot) { self.check_again(&stood.instance, &to) } else { Ok(None) };
            match again {
                Ok(checked) => moving.push((stood.instance, slot, checked)),
                Err(fate) => {
                    self.put_back(stood.instance.clone(), slot, false);
                    fates.push((stood.instance, fate));
                }
            }
        }
        // What was gathered before is not part of it.
        self.flush();
        for (id, slot, checked) in moving {
            self.move_to(&id, slot, to.module.hash);
            fates.push((id, Fate::Moved(checked)));
        }
        self.replies.push(Box::new(move |durable| drop(reply.send(durable.map(|()| fates)))));
        self.flush_as(parts);
    }

    /// The instance out of all queues, as it stands.
    fn at_rest(&mut self, id: &InstanceId) -> Result<Slot, Fate> {
        if let Some(mut slot) = self.live.remove(id) {
            self.idle.remove(slot.stamp);
            if slot.body.recorder().execution.end.is_none() {
                return Ok(slot);
            }
            self.put_back(id.clone(), slot, false);
            return Err(Fate::Ended);
        }
        self.load_bare(id).map_err(Fate::of_unloaded)
    }

    /// Checks what it did since; all of it is in the journal by now.
    fn check_again(&self, id: &InstanceId, to: &Candidate) -> Result<Option<Box<Checked>>, Fate> {
        let records = self.records(id).map_err(Fate::of_unloaded)?;
        let checked = Box::new(to.check(id.local(), &records));
        if checked.is_same() { Ok(Some(checked)) } else { Err(Fate::Differs(checked)) }
    }

    fn move_to(&mut self, id: &InstanceId, mut slot: Slot, to: Hash) {
        let recorder = slot.body.recorder();
        let from = recorder.execution.module;
        recorder.begin(self.parts.clock.now());
        recorder.deliver(Event::ModuleMigrated { from, to });
        let sealed = recorder.seal();
        slot.body = slot.body.without_guest();
        slot.last_group = self.next_group();
        self.group.push(outbound(&mut slot, sealed, Vec::new()));
        // What the old module could not replay, the new one has just replayed.
        self.blocked.remove(id);
        self.put_back(id.clone(), slot, false);
    }
}

fn has_gone_on(stood: &Stood, slot: &mut Slot) -> bool {
    let now = &slot.body.recorder().execution;
    (now.started.execution, now.head) != (stood.execution, stood.head)
}
