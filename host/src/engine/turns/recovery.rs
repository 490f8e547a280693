//! Start-up is recovery: what was under way is put under way again.
//!
//! An instance is recovered before anything else happens to it, and what instances
//! send each other waits until all are (see [`crate::engine::mail`]). Those that nobody
//! asks for are recovered a few at a time between other work, so that a host with very
//! many that run takes new ones at once.

use std::cmp::Reverse;
use std::collections::BTreeSet;

use super::{Message, Worker, posted, tasks};
use crate::core::ids::InstanceId;
use crate::core::summary::Summary;
use crate::engine::mail::send;

/// Instances recovered before messages and turns are looked at again.
const AT_ONCE: usize = 64;

/// How far a worker is with it.
#[derive(Default)]
pub(super) struct Recovery {
    /// Instances with something under way that are not recovered yet.
    waiting: BTreeSet<InstanceId>,
    /// The store has no others.
    is_listed: bool,
    /// What other instances sent meanwhile.
    early: Vec<Message>,
}

impl Recovery {
    /// Keeps what another instance sent until all are recovered.
    pub(super) fn hold_back(&mut self, message: Message) {
        self.early.push(message);
    }
}

impl Worker {
    /// The instance was running when the store was opened: what its row tells is done
    /// at once, the rest when its history is read.
    pub(super) fn found(&mut self, summary: &Summary) {
        let id = &summary.instance;
        if let Some(due) = summary.next_due() {
            self.timers.push(Reverse((due, id.clone())));
        }
        self.left_by_caller(summary).into_iter().for_each(|posted| send(&self.parts.links, posted));
        let runs = summary.has_running_activity() || summary.has_running_call();
        if (summary.untold || runs || !summary.outbox.is_empty())
            && let Some(recovery) = &mut self.recovery
        {
            recovery.waiting.insert(id.clone());
        }
    }

    /// The store has no others that were running.
    pub(super) fn found_all(&mut self) {
        if let Some(recovery) = &mut self.recovery {
            recovery.is_listed = true;
        }
    }

    /// Whether there are instances to recover.
    pub(super) fn is_recovering(&self) -> bool {
        self.recovery.as_ref().is_some_and(|recovery| !recovery.waiting.is_empty())
    }

    /// Recovers those that the message is about.
    pub(super) fn recover_for(&mut self, message: &Message) {
        match message {
            Message::Migrate(_) | Message::Barrier(_) => self.recover_at_most(usize::MAX),
            message => message.instance().into_iter().for_each(|id| self.recover_first(id)),
        }
    }

    /// Recovers that instance, unless it is.
    pub(super) fn recover_first(&mut self, id: &InstanceId) {
        if self.recovery.as_mut().is_some_and(|recovery| recovery.waiting.remove(id)) {
            self.recover(id);
        }
    }

    /// Recovers some of those that nobody asked for.
    pub(super) fn recover_some(&mut self) {
        self.recover_at_most(AT_ONCE);
    }

    fn recover_at_most(&mut self, instances: usize) {
        for _ in 0..instances {
            let Some(id) = self.recovery.as_mut().and_then(|recovery| recovery.waiting.pop_first()) else { break };
            self.recover(&id);
        }
        let done = self.recovery.take_if(|recovery| recovery.is_listed && recovery.waiting.is_empty());
        if let Some(Recovery { early, .. }) = done {
            self.let_go_of.clear();
            early.into_iter().for_each(|message| self.take(message));
        }
    }

    fn recover(&mut self, id: &InstanceId) {
        let mut slot = match self.load(id, Summary::is_open) {
            Ok(slot) => slot,
            Err(reason) => return self.give_up(id, reason),
        };
        let execution = &slot.body.recorder().execution;
        let tasks = tasks(&self.parts.activities, execution, execution.interrupted());
        let (wants_turn, suspended) = (execution.wants_turn(), execution.suspended);
        let again = posted(execution, execution.posts_again());
        again.into_iter().for_each(|posted| send(&self.parts.links, posted));
        if suspended {
            self.held.insert(id.clone(), tasks);
        } else {
            self.parts.activities.dispatch(tasks);
        }
        if wants_turn {
            self.live.insert(id.clone(), slot);
            self.queue(id);
        }
    }
}
