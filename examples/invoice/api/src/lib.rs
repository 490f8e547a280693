//! What the orchestration and its activities agree on: types and services.

use dacapo_sdk::{ActivityContext, Result, activities};
use schemars::JsonSchema;
use serde::{Deserialize, Serialize};

/// What is to be paid, and by whom.
#[derive(Clone, Debug, Serialize, Deserialize, JsonSchema)]
pub struct InvoiceData {
    pub customer: String,
    pub items: Vec<Item>,
}

#[derive(Clone, Debug, Serialize, Deserialize, JsonSchema)]
pub struct Item {
    pub name: String,
    pub quantity: u32,
    /// In cents.
    pub price: u64,
}

/// Names an invoice that was issued.
#[derive(Clone, Debug, Serialize, Deserialize, JsonSchema)]
pub struct InvoiceId {
    pub id: String,
}

#[activities(service = "invoices")]
pub trait Invoices {
    /// Issues an invoice.
    async fn issue(&self, ctx: ActivityContext, data: InvoiceData) -> Result<InvoiceId>;
}

#[activities(service = "notifications")]
pub trait Notifications {
    /// Tells the customer that there is an invoice.
    async fn notify_about_invoice(&self, ctx: ActivityContext, invoice: InvoiceId) -> Result<()>;
}
