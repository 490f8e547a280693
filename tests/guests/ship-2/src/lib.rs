//! Version 2: more is done, each addition behind `patched`.

use dacapo_sdk::{Context, Result, orchestration};

/// As version 1, but insured before it waits and weighed after.
#[orchestration]
async fn ship(ctx: Context, order: String) -> Result<String> {
    let mut done = vec![ctx.call_activity::<String>("step.one", &order).await?];
    if ctx.patched("insure") {
        done.push(ctx.call_activity("step.keep_text", "insured").await?);
    }
    ctx.wait_for_event::<()>("go").await?;
    if ctx.patched("weigh") {
        done.push(ctx.call_activity("step.keep_text", "weighed").await?);
    }
    done.push(ctx.call_activity("step.two", &order).await?);
    Ok(done.join(", "))
}

dacapo_sdk::export_orchestrations!(ship);
