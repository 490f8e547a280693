//! Verifying all that is stored, and its route: `POST verify?replay=`.

use axum::routing::post;
use axum::{Json, Router};
use serde::{Deserialize, Serialize};
use serde_json::Value;

use super::access::Scoped;
use super::api::{Api, Result, blocking, to_json};
use super::{Answer, Query};
use crate::engine::EngineError;
use crate::replay::check::sandbox_of;
use crate::replay::verify::verify_store;
use crate::sandbox::settings::SandboxSettings;

/// How to verify.
#[derive(Clone, Copy, Debug, Default, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct VerifyQuery {
    /// Replay every history as well.
    #[serde(default)]
    pub replay: bool,
}

impl Api {
    /// Verifies everything that is stored.
    ///
    /// # Errors
    /// If the store cannot be listed at all.
    pub fn verify(&self, query: VerifyQuery) -> Result<Value> {
        let sandbox = query.replay.then(|| sandbox_of(&SandboxSettings::default(), None)).transpose();
        let sandbox = sandbox.map_err(EngineError::Sandbox)?;
        to_json(&verify_store(&**self.store(), sandbox.as_ref())?)
    }
}

pub(super) fn routes() -> Router<Api> {
    Router::new().route("/verify", post(verify))
}

async fn verify(Scoped(api): Scoped, Query(query): Query<VerifyQuery>) -> Answer {
    blocking(move || api.verify(query)).await.map(Json)
}
