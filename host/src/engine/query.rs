//! Queries: what an instance's own code says of its state.
//!
//! The guest that answers is re-created from the durable history, or from a snapshot
//! and what came after it, and dropped afterwards. The one that runs is not touched:
//! not by what the query changes, not by a trap, not by the time it takes. So a query
//! sees what is durable, which is all that anybody was told, and it works on instances
//! that have ended too.

use std::sync::Arc;
use std::sync::atomic::Ordering;

use super::turns::{GuestCounts, NotNow, Past};
use super::{Engine, EngineError, Modules, ShowLog};
use crate::core::ids::{ExecutionNumber, InstanceId};
use crate::core::payload::{Outcome, Payload};
use crate::core::turn::{Limits, LogLine, TurnRecord, module_of, too_large};
use crate::sandbox::guest::Guest;
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
            snapshots: self.settings.snapshot_every > 0,
            guests: self.guests.clone(),
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
    snapshots: bool,
    guests: Arc<GuestCounts>,
    id: InstanceId,
    name: String,
    input: Payload,
}

/// What the code of one execution answered, and what it logged.
struct Answered {
    execution: ExecutionNumber,
    outcome: Outcome,
    logs: Vec<LogLine>,
}

impl Asked {
    fn answer(self) -> Result<Payload, EngineError> {
        let answered = match self.restored()?.map(|guest| self.ask(guest)) {
            // What a guest that can be looked into fails with is said by an ordinary one.
            Some(answered) if answered.outcome.is_ok() => answered,
            _ => self.ask(self.replayed()?),
        };
        let Self { show_log, limits, id, name, .. } = self;
        answered.logs.iter().for_each(|line| show_log(&id, answered.execution, line));
        let outcome = answered.outcome.and_then(|answer| {
            let too_large = too_large(format_args!("the answer to {name:?}"), answer.len(), limits.payload_bytes);
            too_large.map_or(Ok(answer), Err)
        });
        outcome.map_err(|failure| EngineError::QueryFailed { id, name, failure: Box::new(failure) })
    }

    fn ask(&self, guest: Guest) -> Answered {
        let execution = guest.recorder().execution.started.execution;
        let (outcome, logs) = guest.query(&self.name, self.input.clone());
        Answered { execution, outcome, logs }
    }

    /// A guest in the instance's state, from its last snapshot. None: there is none that is good.
    fn restored(&self) -> Result<Option<Guest>, EngineError> {
        let row = self.store.summary(&self.id)?.ok_or_else(|| self.unknown())?;
        if !self.snapshots || row.status.is_final() {
            return Ok(None);
        }
        let restore = || {
            let past = Past::of_snapshot(&*self.store, &self.modules, &row, self.limits)?;
            past.guest(&*self.modules.inspected(row.module)?, self.limits).ok()
        };
        let restored = restore();
        self.guests.restored.fetch_add(u64::from(restored.is_some()), Ordering::Relaxed);
        Ok(restored)
    }

    /// A guest in the instance's state, from its whole history.
    fn replayed(&self) -> Result<Guest, EngineError> {
        let blocked = |why: String| EngineError::Blocked { id: self.id.clone(), why };
        let history = self.store.history(&self.id, None)?.ok_or_else(|| self.unknown())?;
        let mut records = history.decode()?;
        if records.last().is_some_and(TurnRecord::is_ended_by_host) {
            // After a trap a guest cannot be called; it is asked as it stood before.
            records.pop();
        }
        let module = module_of(&records).ok_or_else(|| blocked("its history is empty".to_owned()))?;
        let module = self.modules.load(module)?;
        Past::whole(records).guest(&module, self.limits).map_err(|reason| match reason {
            NotNow::Later(trouble) => EngineError::Busy(format!("{trouble}; ask again")),
            reason => blocked(reason.text()),
        })
    }

    fn unknown(&self) -> EngineError {
        EngineError::UnknownInstance { id: self.id.clone() }
    }
}
