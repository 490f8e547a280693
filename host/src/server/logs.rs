//! What a guest logged, each line beside its event: `GET instances/{id}/logs?execution=`.
//!
//! Log lines are not kept: the history is replayed in the sandbox and logs them again,
//! in the session that also answers the slider ([`replay`](super::replay)).

use axum::extract::Path;
use axum::routing::get;
use axum::{Json, Router};
use serde::{Deserialize, Serialize};
use serde_json::{Value, json};

use super::access::Scoped;
use super::api::{Api, Result, blocking};
use super::{Answer, Query};
use crate::core::ids::{ExecutionNumber, InstanceId};
use crate::replay::debugger::{Halt, Target};

/// Which execution's lines.
#[derive(Clone, Copy, Debug, Default, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct LogsQuery {
    /// None: the current one.
    pub execution: Option<ExecutionNumber>,
}

impl Api {
    /// Log lines of an execution. `stopped` says why they end before its history does.
    ///
    /// # Errors
    /// If there is no such execution, or its module is gone.
    pub fn logs(&self, id: &InstanceId, query: LogsQuery) -> Result<Value> {
        let looked = self.looked_at(id, query.execution, None)?;
        let (mut session, execution) = (looked.session(), looked.execution);
        session.run(&Target::End, false);
        let stopped = session.halt().map(|halt| match halt {
            Halt::Diverged(divergence) => divergence.to_string(),
            Halt::Broken(why) => why.clone(),
        });
        Ok(json!({ "instance": id, "execution": execution, "lines": session.logs(), "stopped": stopped }))
    }
}

pub(super) fn routes() -> Router<Api> {
    Router::new().route("/instances/{id}/logs", get(logs))
}

async fn logs(Scoped(api): Scoped, Path(id): Path<String>, Query(query): Query<LogsQuery>) -> Answer {
    let id = api.id(&id)?;
    blocking(move || api.logs(&id, query)).await.map(Json)
}
