//! Queries: what an instance's own code says of its state.
//!
//! The guest that answers is re-created from the durable history and dropped
//! afterwards. The one that runs is not touched: not by what the query changes, not
//! by a trap, not by the time it takes. So a query sees what is durable, which is
//! all that anybody was told, and it works on instances that have ended too.

use std::sync::Arc;

use super::{Engine, EngineError, Modules, ShowLog};
use crate::core::ids::InstanceId;
use crate::core::payload::Payload;
use crate::core::turn::{Limits, Recorder, TurnRecord, module_of, too_large};
use crate::sandbox::guest::{Guest, ReplayError};
use crate::store::Store;

impl Engine {
    /// Asks an instance's code the query `name`; it may have ended.
    ///
    /// # Errors
    /// If the instance is unknown or its history cannot be run, and
    /// [`EngineError::QueryFailed`] with what the code said.
    pub async fn query(&self, id: &InstanceId, name: &str, input: Payload) -> Result<Payload, EngineError> {
        self.check_size("the query's input", &input)?;
        // Each takes a guest of the sandbox's room and a processor; instances come first.
        let _turn = self.queries.acquire().await.map_err(|_| EngineError::Stopped(None))?;
        let asked = Asked {
            store: self.store.clone(),
            modules: self.modules.clone(),
            show_log: self.show_log.clone(),
            limits: self.settings.limits,
            id: id.clone(),
            name: name.to_owned(),
            input,
        };
        let answered = tokio::task::spawn_blocking(move || asked.answer()).await;
        answered.unwrap_or_else(|error| Err(EngineError::Busy(format!("the query was not run: {error}"))))
    }
}

struct Asked {
    store: Arc<dyn Store>,
    modules: Arc<Modules>,
    show_log: ShowLog,
    limits: Limits,
    id: InstanceId,
    name: String,
    input: Payload,
}

impl Asked {
    fn answer(self) -> Result<Payload, EngineError> {
        let Self { store, modules, show_log, limits, id, name, input } = self;
        let blocked = |why: String| EngineError::Blocked { id: id.clone(), why };
        let history = store.history(&id, None)?.ok_or_else(|| EngineError::UnknownInstance { id: id.clone() })?;
        let mut records = history.decode()?;
        if records.last().is_some_and(TurnRecord::is_ended_by_host) {
            // After a trap a guest cannot be called; it is asked as it stood before.
            records.pop();
        }
        let first = records.first().ok_or_else(|| blocked("its history is empty".to_owned()))?;
        let recorder = Recorder::of_history(first, limits).map_err(blocked)?;
        let module = modules.load(module_of(&records).unwrap_or(recorder.execution.started.module))?;
        let busy = |trouble: String| EngineError::Busy(format!("{trouble}; ask again"));
        let mut guest = Guest::new(&module, recorder).map_err(|(trouble, _)| busy(trouble.to_string()))?;
        guest.replay(&records).map_err(|error| match error {
            ReplayError::Host(trouble) => busy(trouble.to_string()),
            error => blocked(error.to_string()),
        })?;
        let execution = guest.recorder().execution.started.execution;
        let (outcome, logs) = guest.query(&name, input);
        logs.iter().for_each(|line| show_log(&id, execution, line));
        let outcome = outcome.and_then(|answer| {
            let too_large = too_large(format_args!("the answer to {name:?}"), answer.len(), limits.payload_bytes);
            too_large.map_or(Ok(answer), Err)
        });
        outcome.map_err(|failure| EngineError::QueryFailed { id, name, failure: Box::new(failure) })
    }
}
