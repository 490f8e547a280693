//! The life of an instance as a whole, as a host can ask for it: held and let go,
//! rewound, begun anew.

use tokio::sync::oneshot;

use super::turns::life::Rewind;
use super::turns::{Inbound, Message};
use super::{Engine, EngineError, IdReuse, StartRequest};
use crate::core::event::{Event, Started};
use crate::core::ids::{ExecutionNumber, InstanceId};

impl Engine {
    /// Holds an instance: completions, events and fired timers are recorded and
    /// kept, nothing of it is run and no further attempt of an activity begins.
    /// An attempt that had begun goes on. Durable when this returns; one that is
    /// suspended already stays so.
    ///
    /// # Errors
    /// If the instance is unknown or has ended.
    pub async fn suspend(&self, id: &InstanceId, reason: &str) -> Result<(), EngineError> {
        let reason = reason.to_owned();
        self.tell(id, |reply| Inbound::Hold { suspend: true, reason, reply }).await
    }

    /// Lets a suspended instance go on with all that has come in. Durable when
    /// this returns; one that is not suspended is left as it is.
    ///
    /// # Errors
    /// If the instance is unknown or has ended.
    pub async fn resume(&self, id: &InstanceId, reason: &str) -> Result<(), EngineError> {
        let reason = reason.to_owned();
        self.tell(id, |reply| Inbound::Hold { suspend: false, reason, reply }).await
    }

    /// Lets a failed instance go on from before its last failed operation, which
    /// begins anew with all its attempts; see [`crate::core::rewind`]. Durable when
    /// this returns. What it called after that failure it will not know of: that is
    /// refused unless `force`d, since it may have run.
    ///
    /// # Errors
    /// If the instance is unknown, has not failed, or its history cannot be run.
    pub async fn rewind(&self, id: &InstanceId, force: bool, reason: &str) -> Result<(), EngineError> {
        self.check_room(id)?;
        let (reply, answer) = oneshot::channel();
        let how = Rewind { force, reason: reason.to_owned() };
        self.worker_of(id).send(Message::Rewind(id.clone(), how, reply));
        self.answer(answer).await
    }

    /// Runs an instance again from its beginning: the same orchestration of the same
    /// module with the same input and the tags that it was started with. Under its own
    /// id that is its next life, and it must have ended; else under `new_id`.
    ///
    /// # Errors
    /// If the instance is unknown, or the id taken.
    pub async fn restart(&self, id: &InstanceId, new_id: Option<InstanceId>) -> Result<InstanceId, EngineError> {
        let now = self.store.summary(id)?.ok_or_else(|| EngineError::UnknownInstance { id: id.clone() })?;
        let begun = self.first_of_life(id)?;
        let (new_id, reuse) = match new_id {
            Some(new_id) if new_id != *id => (new_id, IdReuse::Reject),
            _ => (id.clone(), IdReuse::ReplaceFinished),
        };
        let request = StartRequest {
            id: new_id.clone(),
            orchestration: begun.orchestration,
            module: Some(now.module.to_string()),
            input: begun.input,
            tags: begun.tags,
            reuse,
            start_at: None,
        };
        self.start(request).await?;
        Ok(new_id)
    }

    /// What the current life of an instance started from, before it continued as new
    /// or was rewound.
    fn first_of_life(&self, id: &InstanceId) -> Result<Started, EngineError> {
        let mut execution = None;
        loop {
            let first = self.history(id, execution)?.decode()?.swap_remove(0);
            let Some(Event::ExecutionStarted(started)) = first.events.into_iter().next() else {
                let why = "its history does not begin with its start".to_owned();
                return Err(EngineError::Blocked { id: id.clone(), why });
            };
            let number = started.seen_execution();
            if number > 1 && self.continued(id, number - 1)? {
                execution = Some(number - 1);
            } else {
                return Ok(*started);
            }
        }
    }

    fn continued(&self, id: &InstanceId, execution: ExecutionNumber) -> Result<bool, EngineError> {
        let Some(history) = self.store.history(id, Some(execution))? else { return Ok(false) };
        let last = history.decode()?.pop().and_then(|turn| turn.events.last().cloned());
        Ok(matches!(last, Some(Event::ContinuedAsNew { .. })))
    }
}
