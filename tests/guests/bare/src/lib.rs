//! Built for wasm32-unknown-unknown: a core module that carries the contract's
//! types and imports nothing else.

use dacapo_sdk::{Context, Result, orchestration};

/// Calls one activity.
#[orchestration]
async fn bare(ctx: Context, name: String) -> Result<String> {
    ctx.call_activity("step.one", &name).await
}

dacapo_sdk::export_orchestrations!(bare);
