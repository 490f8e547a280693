//! What the orchestrations and their activities agree on: types and services.

use dacapo_sdk::{ActivityContext, Result, activities};
use schemars::JsonSchema;
use serde::{Deserialize, Serialize};

/// An order: the body of the webhook `orders`.
#[derive(Clone, Debug, Serialize, Deserialize, JsonSchema)]
pub struct Order {
    pub id: String,
    /// In cents.
    pub amount: u64,
    /// How long to wait for its payment, in seconds.
    pub patience: u64,
}

/// A payment: the body of the webhook `payments`, and the value of the event `paid`.
#[derive(Clone, Debug, Serialize, Deserialize, JsonSchema)]
pub struct Payment {
    pub order: String,
    pub reference: String,
}

/// What became of an order.
#[derive(Clone, Debug, Serialize, Deserialize, JsonSchema)]
pub struct Settled {
    pub order: String,
    /// None: it was not paid in time.
    pub reference: Option<String>,
}

/// What was paid.
#[derive(Clone, Debug, Serialize, Deserialize, JsonSchema)]
pub struct Report {
    pub orders: u64,
    /// In cents.
    pub total: u64,
}

#[activities(service = "books")]
pub trait Books {
    /// Books a paid order.
    async fn book(&self, ctx: ActivityContext, order: Order) -> Result<()>;
    /// Adds up what is booked, and writes it down under that name.
    async fn report(&self, ctx: ActivityContext, name: String) -> Result<Report>;
}
