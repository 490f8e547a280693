//! What the orchestration and its activities agree on: types and services.

use dacapo_sdk::{ActivityContext, Result, activities};
use schemars::JsonSchema;
use serde::{Deserialize, Serialize};

/// What is watched, and how long.
#[derive(Clone, Debug, Serialize, Deserialize, JsonSchema)]
pub struct Watch {
    pub service: String,
    /// Between two checks, in milliseconds.
    pub interval_ms: u64,
    /// After so many checks it is given up.
    pub max_checks: u32,
    /// How many there have been: each execution makes one.
    #[serde(default)]
    pub checks: u32,
    /// For trying things out: the service is healthy from this check on.
    pub healthy_from: u32,
}

/// How it ended.
#[derive(Clone, Debug, Serialize, Deserialize, JsonSchema)]
pub struct Verdict {
    pub healthy: bool,
    pub checks: u32,
}

/// One look at a service.
#[derive(Clone, Debug, Serialize, Deserialize, JsonSchema)]
pub struct Check {
    pub service: String,
    pub healthy_from: u32,
}

#[activities(service = "probe")]
pub trait Probe {
    /// True if the service says that it is healthy.
    async fn check(&self, ctx: ActivityContext, check: Check) -> Result<bool>;
}
