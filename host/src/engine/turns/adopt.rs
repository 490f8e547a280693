//! How a worker takes over a history that another instance began: see
//! [`crate::engine::fork`].

use tokio::sync::oneshot;

use super::{About, Body, Outbound, Reply, Worker, being_removed, posted, tasks};
use crate::core::turn::{Recorder, SealedTurn};
use crate::engine::error::EngineError;

/// A history to begin with, and the state that it leaves.
pub(in crate::engine) struct Adoption {
    pub(in crate::engine) recorder: Recorder,
    pub(in crate::engine) turns: Vec<SealedTurn>,
    pub(in crate::engine) reply: oneshot::Sender<Result<(), EngineError>>,
}

impl Worker {
    /// Commits the history as a whole; then it goes on like one that was recovered.
    pub(super) fn adopt(&mut self, adoption: Adoption) {
        let Adoption { recorder, turns, reply } = adoption;
        let (id, module) = (recorder.execution.started.instance.clone(), recorder.execution.module);
        let known = match self.live.get_mut(&id) {
            Some(slot) => Ok(Some(super::position_of(&slot.body.recorder().execution).1)),
            None => self.parts.store.summary(&id).map(|summary| summary.map(|row| row.status)),
        };
        let refused = match known {
            Ok(Some(status)) => Some(EngineError::AlreadyExists { id: id.clone(), status }),
            Ok(None) if self.parts.modules.is_retired(module) => Some(being_removed(module)),
            Ok(None) => self.admit(&id, true).err(),
            Err(error) => Some(error.into()),
        };
        if let Some(error) = refused {
            let _ = reply.send(Err(error));
            return;
        }
        let execution = &recorder.execution;
        let mut again = tasks(&self.parts.activities, execution, execution.interrupted());
        if execution.suspended {
            self.held.insert(id.clone(), std::mem::take(&mut again));
        }
        let mut letters = posted(execution, execution.posts_again());
        let (number, due) = (execution.started.execution, execution.next_due());
        let mut slot = self.new_slot(Body::Bare(Box::new(recorder)));
        slot.armed = due;
        slot.last_group = self.next_group();
        let mut turns = turns.into_iter().zip(1..).peekable();
        let mut answer: Vec<Reply> = vec![Box::new(move |durable| drop(reply.send(durable)))];
        while let Some((sealed, turn)) = turns.next() {
            let is_last = turns.peek().is_none();
            let (again, replies, posts) = if is_last {
                (std::mem::take(&mut again), std::mem::take(&mut answer), std::mem::take(&mut letters))
            } else {
                Default::default()
            };
            self.group.push(Outbound {
                instance: id.clone(),
                execution: number,
                turn,
                sealed,
                logs: Vec::new(),
                replies,
                due: due.filter(|_| is_last),
                posts,
                about: About::default(),
                adopted: Some(again),
            });
        }
        self.live.insert(id.clone(), slot);
        self.queue(&id);
    }
}
