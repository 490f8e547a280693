//! What the orchestration and its activities agree on: types and services.

use dacapo_sdk::{ActivityContext, Result, activities};
use schemars::JsonSchema;
use serde::{Deserialize, Serialize};

/// A damage, in euros.
#[derive(Clone, Debug, Serialize, Deserialize, JsonSchema)]
pub struct Claim {
    pub holder: String,
    pub amount: u64,
    /// The most that the contract pays.
    pub cover: u64,
}

/// Money for a holder.
#[derive(Clone, Debug, Serialize, Deserialize, JsonSchema)]
pub struct Payment {
    pub holder: String,
    pub amount: u64,
}

#[activities(service = "office")]
pub trait Office {
    /// Reminds the people who look at claims of this one.
    async fn remind(&self, ctx: ActivityContext, holder: String) -> Result<()>;
    /// Pays, once.
    async fn pay(&self, ctx: ActivityContext, payment: Payment) -> Result<()>;
}
