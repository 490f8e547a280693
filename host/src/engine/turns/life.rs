//! What a worker does to an instance's life as a whole: ends one to begin the
//! next under the same id, and lets go what a suspension held back.

use std::collections::BTreeSet;

use tokio::sync::oneshot;

use super::{Inbound, Message, Worker, not_delivered};
use crate::core::ids::InstanceId;
use crate::core::summary::Status;
use crate::engine::error::EngineError;

impl Worker {
    /// Makes the id free for its next life. One that has not ended ends here: its
    /// last turn goes into the same group as the next life's first, so that they
    /// are durable together.
    ///
    /// The next life is the next execution. Nothing of the old one is removed, no
    /// idempotency key comes back, and what is still under way for it carries its
    /// number and is nobody's.
    pub(super) fn make_way(&mut self, id: &InstanceId, status: Status) -> Result<(), EngineError> {
        self.leave_callers(id, status);
        let known = self.live.remove(id);
        if status.is_final() {
            if let Some(slot) = known {
                self.idle.remove(&slot.stamp);
                self.deliver_later(id, slot.inbox);
            }
            return Ok(());
        }
        let (reply, _nobody_waits) = oneshot::channel();
        let end = Inbound::Terminate { reason: "replaced by a new start".to_owned(), reply };
        let mut slot = match known {
            Some(slot) => slot,
            None => self.load_bare(id).map_err(|reason| not_delivered(id, reason, &end))?,
        };
        self.idle.remove(&slot.stamp);
        let now = self.parts.clock.now();
        let mut inbox = std::mem::take(&mut slot.inbox);
        inbox.push(end);
        let recorder = slot.body.recorder();
        recorder.begin(now);
        let (replies, later) = self.record_inbox(id, recorder, inbox);
        self.seal(&mut slot, now, replies);
        self.deliver_later(id, later);
        self.blocked.remove(id);
        self.held.remove(id);
        Ok(())
    }

    /// What came for the old life is looked at when the next one is there.
    fn deliver_later(&self, id: &InstanceId, inbox: Vec<Inbound>) {
        inbox.into_iter().for_each(|inbound| self.links.send((id.clone(), Message::Deliver(id.clone(), inbound))));
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
        self.parts.activities.dispatch(held.into_iter().filter(|attempt| wanted.contains(&attempt.task.operation)));
    }
}
