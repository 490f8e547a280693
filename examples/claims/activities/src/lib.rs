//! Keeps the books as files in the granted folder, each named by its idempotency key:
//! a call that is repeated writes the same file again.

use std::fs;

use claims_api::{Office, OfficeActivities, Payment};
use dacapo_sdk::{ActivityContext, Result};

struct Folder;

fn note(ctx: &ActivityContext, what: &str, text: &str) -> Result<()> {
    let key = ctx.info().idempotency_key.replace('/', "_");
    fs::write(format!("/ledger/{what}-{key}"), text)?;
    Ok(())
}

impl Office for Folder {
    async fn remind(&self, ctx: ActivityContext, holder: String) -> Result<()> {
        note(&ctx, "reminder", &holder)
    }

    async fn pay(&self, ctx: ActivityContext, payment: Payment) -> Result<()> {
        note(&ctx, "payment", &format!("{} to {}", payment.amount, payment.holder))
    }
}

dacapo_sdk::export_activities!(OfficeActivities(Folder));
