//! What a worker does to an instance's life as a whole: ends one to begin the
//! next under the same id, and lets go what a suspension held back.

use std::collections::BTreeSet;

use tokio::sync::oneshot;

use super::{
    About, Body, Inbound, Message, NotNow, Resident, Worker, being_removed, ended_error, not_delivered, outbound, tasks,
};
use crate::core::ids::{Hash, InstanceId};
use crate::core::rewind;
use crate::core::summary::Status;
use crate::core::turn::{Recorder, SealedTurn};
use crate::engine::commit::{Outbound, Reply};
use crate::engine::error::EngineError;
use crate::engine::mail::{PassedOn, send};
use crate::sandbox::guest::{Guest, ReplayError};

/// How an instance is to be rewound.
pub(in crate::engine) struct Rewind {
    /// Also where calls would be forgotten that may have run.
    pub(in crate::engine) force: bool,
    /// Why; it is recorded.
    pub(in crate::engine) reason: String,
}

impl Worker {
    /// Makes the id free for its next life. One that has not ended ends here: its
    /// last turn goes into the same group as the next life's first, so that they
    /// are durable together.
    ///
    /// The next life is the next execution. Nothing of the old one is removed, no
    /// idempotency key comes back, and what is still under way for it carries its
    /// number and is nobody's. Its mail is the next life's to see to.
    pub(in crate::engine) fn make_way(&mut self, id: &InstanceId, status: Status) -> Result<PassedOn, EngineError> {
        self.leave_callers(id, status);
        if status.is_final() {
            let passed_on = self.mail_of_ended(id)?;
            if let Some(slot) = self.live.remove(id) {
                self.idle.remove(slot.stamp);
                let (mail, late): (Vec<_>, Vec<_>) = slot.inbox.into_iter().partition(Inbound::is_mail);
                for late in late {
                    let error = ended_error(id, status, &late);
                    late.refuse(error);
                }
                self.deliver_later(id, mail);
            }
            return Ok(passed_on);
        }
        let known = self.live.remove(id);
        let (reply, _nobody_waits) = oneshot::channel();
        let end = Inbound::Terminate { reason: "replaced by a new start".to_owned(), reply };
        let mut slot = match known {
            Some(slot) => slot,
            None => self.load_bare(id).map_err(|reason| not_delivered(id, reason, &end))?,
        };
        self.idle.remove(slot.stamp);
        let now = self.parts.clock.now();
        let mut inbox = std::mem::take(&mut slot.inbox);
        inbox.push(end);
        let recorder = slot.body.recorder();
        recorder.begin(now);
        let replies = self.record_inbox(id, recorder, &mut inbox);
        self.seal(&mut slot, now, replies);
        let passed_on = PassedOn::by(&slot.body.recorder().execution);
        self.deliver_later(id, inbox);
        self.blocked.remove(id);
        self.held.remove(id);
        Ok(passed_on)
    }

    fn mail_of_ended(&mut self, id: &InstanceId) -> Result<PassedOn, EngineError> {
        if let Some(execution) = self.live_execution(id) {
            return Ok(PassedOn::by(execution));
        }
        let unknown = || EngineError::UnknownInstance { id: id.clone() };
        let row = self.store().summary(id)?.ok_or_else(unknown)?;
        if row.outbox.is_empty() && !row.took_mail {
            return Ok(PassedOn::none(row.birth));
        }
        let blocked = |reason: NotNow| EngineError::Blocked { id: id.clone(), why: reason.text() };
        let mut slot = self.load(id, |_| true).map_err(blocked)?;
        Ok(PassedOn::by(&slot.body.recorder().execution))
    }

    /// What came for the old life is looked at when the next one is there.
    fn deliver_later(&self, id: &InstanceId, inbox: Vec<Inbound>) {
        let message = |inbound| (id.clone(), Message::Deliver(id.clone(), inbound));
        inbox.into_iter().for_each(|inbound| send(&self.parts.links, message(inbound)));
    }

    /// A suspension is over, and that is durable: the attempts that were not begun
    /// because of it are, if they are still wanted.
    pub(super) fn let_go(&mut self, id: &InstanceId) {
        let Some(held) = self.held.remove(id) else { return };
        let wanted: BTreeSet<_> = match self.live.get_mut(id) {
            Some(slot) => slot.body.recorder().execution.pending.keys().copied().collect(),
            None => match self.load_bare(id) {
                Ok(mut slot) => slot.body.recorder().execution.pending.keys().copied().collect(),
                Err(_) => return,
            },
        };
        self.parts.activities.dispatch(held.into_iter().filter(|attempt| wanted.contains(&attempt.operation)));
    }

    /// Lets a failed instance go on from before its last failed operation. The turns
    /// that are shared and the one that says so are one group: durable together.
    pub(super) fn rewind(&mut self, id: &InstanceId, how: &Rewind, reply: oneshot::Sender<Result<(), EngineError>>) {
        if let Err((error, reply)) = self.rewound(id, how, reply) {
            let _ = reply.send(Err(error));
        }
    }

    fn rewound(&mut self, id: &InstanceId, how: &Rewind, reply: Answer) -> Result<(), (EngineError, Answer)> {
        let (plan, guest) = match self.plan_rewind(id, how) {
            Ok(planned) => planned,
            Err(error) => return Err((error, reply)),
        };
        let now = self.parts.clock.now();
        let mut slot = self.new_slot(Body::Guest(Box::new(guest), Resident::new(&self.parts.guests, true)));
        let mut first_event = 1;
        for (index, record) in plan.turns.into_iter().enumerate() {
            let bytes = record.encode();
            let events = record.events.len() as u32;
            self.group.push(Outbound {
                instance: id.clone(),
                execution: slot.body.recorder().execution.started.execution,
                turn: index as u32 + 1,
                sealed: SealedTurn { first_event, hash: Hash::of(&bytes), record, bytes },
                logs: Vec::new(),
                replies: Vec::new(),
                due: None,
                posts: Vec::new(),
                about: About::default(),
                adopted: Some(Vec::new()),
            });
            first_event += events;
        }
        let recorder = slot.body.recorder();
        recorder.begin(now);
        plan.deliveries.into_iter().for_each(|event| recorder.deliver(event));
        // What is due by now begins when this is durable: attempts are held, calls are posted.
        let (_, calls) = recorder.execution.begin_due(now);
        recorder.execution.posts.extend(calls);
        let sealed = recorder.seal();
        let execution = &recorder.execution;
        let anew = tasks(&self.parts.activities, execution, execution.interrupted());
        self.held.insert(id.clone(), anew);
        let answer: Reply = Box::new(move |durable| drop(reply.send(durable)));
        let turn = outbound(&mut slot, sealed, vec![answer]);
        slot.last_group = self.next_group();
        self.group.push(turn);
        self.blocked.remove(id);
        self.live.insert(id.clone(), slot);
        self.queue(id);
        Ok(())
    }

    /// What is to be recorded, and a guest that has replayed it: a history that does
    /// not replay is never made.
    fn plan_rewind(&mut self, id: &InstanceId, how: &Rewind) -> Result<(rewind::Plan, Guest), EngineError> {
        let unknown = || EngineError::UnknownInstance { id: id.clone() };
        let summary = self.parts.store.summary(id)?.ok_or_else(unknown)?;
        let status = summary.status;
        if let Some(slot) = self.live.get_mut(id)
            && slot.body.recorder().execution.end.is_some()
        {
            // The store may know of the end before this worker hears that it is durable.
            if slot.body.recorder().execution.head != summary.head {
                return Err(EngineError::Busy(format!("the end of {id} is being written; ask again")));
            }
            self.drop_slot(id);
        }
        if status != Status::Failed || self.live.contains_key(id) {
            let what = "only an instance that has failed can be rewound";
            return Err(EngineError::WrongStatus { id: id.clone(), status, what });
        }
        if self.parts.modules.is_retired(summary.module) {
            return Err(being_removed(summary.module));
        }
        let blocked = |why: String| EngineError::Blocked { id: id.clone(), why };
        let records = self.parts.store.history(id, None)?.ok_or_else(unknown)?.decode()?;
        let limits = self.parts.settings.limits;
        let plan = rewind::plan(&records, &how.reason, limits).map_err(blocked)?;
        if !how.force && !plan.forgotten.is_empty() {
            return Err(EngineError::InvalidInput(format!(
                "rewinding {id} would make it forget calls that may have run: {}; force it if that is right",
                plan.forgotten.join(", ")
            )));
        }
        let recorder = Recorder::of_history(&plan.turns[0], limits).map_err(blocked)?;
        let module = self.parts.modules.load(summary.module)?;
        if !self.make_room() {
            self.wait_until_durable();
            self.make_room();
        }
        let busy = |trouble: String| EngineError::Busy(format!("{trouble}; ask again"));
        let mut guest = Guest::new(&module, recorder).map_err(|(trouble, _)| busy(trouble.to_string()))?;
        guest.replay(&plan.turns).map_err(|error| match error {
            ReplayError::Host(trouble) => busy(trouble.to_string()),
            error => blocked(error.to_string()),
        })?;
        Ok((plan, guest))
    }

    /// The store knows nothing of it any more, unless a new life has begun since.
    pub(super) fn purged(&mut self, id: &InstanceId) {
        self.parts.quotas.purged(id);
        let has_ended = |slot: &mut super::Slot| slot.body.recorder().execution.end.is_some();
        if self.live.get_mut(id).is_some_and(has_ended) {
            self.drop_slot(id);
        }
    }
}

/// Whoever waits for a rewind.
type Answer = oneshot::Sender<Result<(), EngineError>>;
