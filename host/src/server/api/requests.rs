//! Requests that are waited for: updates of instances, operations of entities.

use serde::{Deserialize, Serialize};
use serde_json::{Value, json};

use super::{Api, Result, bounded, to_json};
use crate::core::ids::InstanceId;
use crate::core::payload::{Outcome, Payload};
use crate::engine::{EngineError, EntityOperation};
use crate::server::problem::Problem;

/// How a request is made.
#[derive(Clone, Debug, Default, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct RequestQuery {
    /// The caller's name for the request: the same again is the same request. None:
    /// a fresh one is made, and is in the answer.
    pub id: Option<String>,
    /// Wait so long for the answer, milliseconds; none: as long as may be.
    pub wait_ms: Option<u64>,
}

/// As [`RequestQuery`], of an operation of an entity.
#[derive(Clone, Debug, Default, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct OperationQuery {
    /// The caller's name for this request.
    pub id: Option<String>,
    /// Wait so long for the answer, milliseconds; none: as long as may be.
    pub wait_ms: Option<u64>,
    /// Do not wait for what comes of it.
    #[serde(default, skip_serializing_if = "std::ops::Not::not")]
    pub one_way: bool,
}

/// Which operation of which entity.
#[derive(Clone, Debug, Serialize, Deserialize)]
pub struct OperationPath {
    /// The entity's kind.
    pub kind: String,
    /// Its key.
    pub key: String,
    /// The operation.
    pub operation: String,
}

/// The request's id, made if none is given.
///
/// # Errors
/// If this machine has no randomness.
pub fn request_id(given: Option<&String>) -> Result<String> {
    if let Some(id) = given {
        return Ok(id.clone());
    }
    let mut random = [0; 12];
    getrandom::fill(&mut random).map_err(|error| Problem::new("internal", format!("no randomness: {error}")))?;
    Ok(random.iter().map(|byte| format!("{byte:02x}")).collect())
}

impl Api {
    /// Updates an instance: `status` is `answered` with the `output`, `refused` with
    /// the `failure`, or `waiting`: then the same request with that id asks again.
    ///
    /// # Errors
    /// Those of [`crate::engine::Engine::update`].
    pub async fn update(&self, id: &InstanceId, name: &str, input: Payload, query: &RequestQuery) -> Result<Value> {
        let key = request_id(query.id.as_ref())?;
        let asked = self.engine()?.update(id, name, input, &key);
        let mut answer = self.waited(asked, query.wait_ms).await?;
        answer["id"] = id.local().into();
        answer["request"] = key.into();
        Ok(answer)
    }

    /// Runs an operation of an entity, or only asks for it: then `status` is
    /// `accepted`. Otherwise as [`Api::update`].
    ///
    /// # Errors
    /// Those of [`crate::engine::Engine::call_entity`].
    pub async fn entity(&self, path: &OperationPath, input: Payload, query: &OperationQuery) -> Result<Value> {
        let request = request_id(query.id.as_ref())?;
        let engine = self.engine()?;
        let OperationPath { kind, key, operation } = path;
        let namespace = self.namespace();
        let operation = EntityOperation { namespace, kind, key, operation, input, request: &request };
        let mut answer = if query.one_way {
            engine.signal_entity(operation).await?;
            json!({ "status": "accepted" })
        } else {
            self.waited(engine.call_entity(operation), query.wait_ms).await?
        };
        answer["kind"] = kind.as_str().into();
        answer["key"] = key.as_str().into();
        answer["request"] = request.into();
        Ok(answer)
    }

    /// What a request came to in its time.
    async fn waited(
        &self,
        asked: impl Future<Output = Result<Outcome, EngineError>>,
        wait_ms: Option<u64>,
    ) -> Result<Value> {
        let outcome = tokio::select! {
            outcome = asked => Some(outcome?),
            () = tokio::time::sleep(bounded(wait_ms.unwrap_or(u64::MAX))) => None,
            () = self.stops() => None,
        };
        Ok(match outcome {
            None => json!({ "status": "waiting" }),
            Some(Ok(output)) => json!({ "status": "answered", "output": to_json(&output)? }),
            Some(Err(failure)) => {
                json!({ "status": "refused", "error": failure.to_string(), "failure": to_json(&failure)? })
            }
        })
    }
}
