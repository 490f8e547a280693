//! Version 1 of a module that is upgraded while instances run, for S34 to S37.

use dacapo_sdk::{Context, Result, orchestration};

/// Is paid, waits until it may go, is sent.
#[orchestration]
async fn ship(ctx: Context, order: String) -> Result<String> {
    let paid: String = ctx.call_activity("step.one", &order).await?;
    ctx.wait_for_event::<()>("go").await?;
    let sent: String = ctx.call_activity("step.two", &order).await?;
    Ok(format!("{paid}, {sent}"))
}

dacapo_sdk::export_orchestrations!(ship);
