//! Issues an invoice and tells the customer.

use dacapo_sdk::{Context, Result, orchestration};
use invoice_api::{InvoiceData, InvoicesProxy, NotificationsProxy};

/// Issues an invoice and tells the customer; returns once both are done.
#[orchestration]
pub async fn invoice(ctx: Context, data: InvoiceData) -> Result<()> {
    let invoices = InvoicesProxy::new(&ctx);
    let notifications = NotificationsProxy::new(&ctx);

    let id = invoices.issue(data).await?;
    notifications.notify_about_invoice(id).await?;
    Ok(())
}

dacapo_sdk::export_orchestrations!(invoice);
