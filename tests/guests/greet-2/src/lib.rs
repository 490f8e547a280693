//! Version 2 of a module, for S34.

use dacapo_sdk::{Context, Result, orchestration};

/// Waits until it may, then greets as version 2 does.
#[orchestration]
async fn greet(ctx: Context, name: String) -> Result<String> {
    ctx.wait_for_event::<()>("go").await?;
    Ok(format!("version 2 greets {name}"))
}

dacapo_sdk::export_orchestrations!(greet);
