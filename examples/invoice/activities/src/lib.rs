//! Invoices and notifications, by HTTP.

use dacapo_sdk::{ActivityContext, Result, http};
use invoice_api::{InvoiceData, InvoiceId, Invoices, InvoicesActivities, Notifications, NotificationsActivities};

struct Accounting;

impl Invoices for Accounting {
    async fn issue(&self, ctx: ActivityContext, data: InvoiceData) -> Result<InvoiceId> {
        let url = std::env::var("ACCOUNTING_URL")?;
        let request = http::post(format!("{url}/invoices"));
        let answer = request.idempotency_key(&ctx).json(&data).send().await?;
        answer.success()?.json()
    }
}

struct Mail;

impl Notifications for Mail {
    async fn notify_about_invoice(&self, ctx: ActivityContext, invoice: InvoiceId) -> Result<()> {
        let url = std::env::var("ACCOUNTING_URL")?;
        let request = http::post(format!("{url}/notifications"));
        let answer = request.idempotency_key(&ctx).json(&invoice).send().await?;
        answer.success()?;
        Ok(())
    }
}

dacapo_sdk::export_activities!(InvoicesActivities(Accounting), NotificationsActivities(Mail),);
