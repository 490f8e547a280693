//! What the orchestration and its activities agree on: types and services.

use dacapo_sdk::{ActivityContext, Result, Timestamp, activities};
use schemars::JsonSchema;
use serde::{Deserialize, Serialize};

/// What somebody wants to spend.
#[derive(Clone, Debug, Serialize, Deserialize, JsonSchema)]
pub struct Expense {
    pub subject: String,
    /// In cents.
    pub amount: u64,
    /// How long to wait for an answer, in seconds.
    pub patience: u64,
}

/// The payload of the event `approved`.
#[derive(Clone, Debug, Serialize, Deserialize, JsonSchema)]
pub struct Approval {
    pub by: String,
}

/// What became of it.
#[derive(Clone, Debug, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "snake_case")]
pub enum Decision {
    Approved {
        by: String,
    },
    /// Nobody answered in time.
    Expired {
        at: Timestamp,
    },
}

/// Where a question stands.
#[derive(Clone, Debug, Serialize, Deserialize, JsonSchema)]
pub struct Standing {
    pub subject: String,
    pub answer_by: Timestamp,
    /// None: nobody has answered yet.
    pub decision: Option<Decision>,
}

/// A question for a person.
#[derive(Clone, Debug, Serialize, Deserialize, JsonSchema)]
pub struct Question {
    /// Raise the event `approved` on this instance to say yes.
    pub instance: String,
    pub expense: Expense,
    pub answer_by: Timestamp,
}

#[activities(service = "outbox")]
pub trait Outbox {
    /// Puts a question where a person finds it.
    async fn ask(&self, ctx: ActivityContext, question: Question) -> Result<()>;
    /// Puts the decision beside the question.
    async fn tell(&self, ctx: ActivityContext, decision: Decision) -> Result<()>;
}
