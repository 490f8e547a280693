//! Forks that run: a new instance with the beginning of another one's history.
//!
//! All of the fork's turns are one commit. What they ask for was let out for the
//! instance that they come from and is not let out again; what is still pending at
//! the cut is dispatched when that commit is durable, as after a crash, under the
//! fork's own idempotency keys.

use tokio::sync::oneshot;

use super::turns::{Adoption, Message, fresh_seed};
use super::{Engine, EngineError};
use crate::core::fork::{Fork, fork};
use crate::core::ids::{ExecutionNumber, InstanceId};
use crate::core::payload::Outcome;
use crate::replay::{Unwatched, replay};

/// A fork, as it is asked for.
#[derive(Clone, Debug)]
pub struct ForkRequest {
    /// The instance whose beginning is shared.
    pub from: InstanceId,
    /// Which life of it; none: the current one.
    pub execution: Option<ExecutionNumber>,
    /// The last event to share, from 1.
    pub at: u32,
    /// What that event is to bring instead: a result, an event's value, or, at
    /// event 1, the input.
    pub edit: Option<Outcome>,
    /// What it is to run: `name`, `name@version` or a hash; none: what the other
    /// one ran there.
    pub module: Option<String>,
    /// The new instance.
    pub id: InstanceId,
}

impl Engine {
    /// Starts a new instance that shares the history of another one up to an
    /// event. Durable, replayed and running when this returns.
    ///
    /// # Errors
    /// If there is no such instance, event or module, the id is taken, or the shared
    /// part does not replay.
    pub async fn fork(&self, request: ForkRequest) -> Result<(), EngineError> {
        let ForkRequest { from, execution, at, edit, module, id } = request;
        if from.namespace() != id.namespace() {
            return Err(EngineError::UnknownInstance { id: from });
        }
        if let Some(Ok(payload)) = &edit {
            self.check_size("the replaced result", payload)?;
        }
        let records = self.history(&from, execution)?.decode()?;
        let module = module
            .map(|wanted| self.modules().find_in(&id.namespace(), &wanted))
            .transpose()?
            .map(|module| module.hash);
        let wanted = Fork { id: id.clone(), at, edit, module, seed: fresh_seed(), now: self.clock.now() };
        let forked = fork(&records, wanted, self.settings.limits);
        let (recorder, turns) = forked.map_err(|error| EngineError::InvalidInput(error.to_string()))?;
        let module = self.modules().load(recorder.execution.module)?;
        let shared: Vec<_> = turns.iter().map(|turn| turn.record.clone()).collect();
        let replayed = replay(&module, &shared, &mut Unwatched);
        if let Some(why) = replayed.divergence.map(|found| found.to_string()).or(replayed.error) {
            return Err(EngineError::Blocked { id, why });
        }
        let (reply, answer) = oneshot::channel();
        let adoption = Box::new(Adoption { recorder, turns, reply });
        self.worker_of(&id).send(Message::Adopt(adoption));
        self.answer(answer).await
    }
}
