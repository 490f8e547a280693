//! Orders that come by webhook, are paid by webhook, and are reported every night.

use std::time::Duration;

use dacapo_sdk::{Context, Result, futures::select_biased, orchestration};
use orders_api::{BooksProxy, Order, Payment, Report, Settled};

/// One order: started by the webhook `orders`, which is also who says when it is paid.
#[orchestration]
pub async fn orders(ctx: Context, order: Order) -> Result<Settled> {
    ctx.custom_status("waiting for its payment");
    let paid = select_biased! {
        payment = ctx.wait_for_event::<Payment>("paid") => Some(payment?),
        () = ctx.delay(Duration::from_secs(order.patience)) => None,
    };
    if paid.is_some() {
        BooksProxy::new(&ctx).book(order.clone()).await?;
    }
    Ok(Settled { order: order.id, reference: paid.map(|payment| payment.reference) })
}

/// Started by the schedule `nightly`: adds up the books.
#[orchestration]
pub async fn orders_report(ctx: Context) -> Result<Report> {
    let night = ctx.info().tags.iter().find(|(name, _)| name == "scheduled_for").map(|(_, night)| night.clone());
    let night = night.unwrap_or_else(|| ctx.now().to_string());
    BooksProxy::new(&ctx).report(night).await
}

dacapo_sdk::export_orchestrations!(orders, orders_report);
