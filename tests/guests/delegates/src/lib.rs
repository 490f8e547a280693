//! An orchestration that calls what it is told to call.

use dacapo_sdk::{Context, Result, orchestration};
use serde::Deserialize;

/// A call of an activity.
#[derive(Debug, Deserialize)]
pub struct Ask {
    activity: String,
    input: String,
}

/// What the activity returned, or why it did not.
#[orchestration]
async fn delegates(ctx: Context, ask: Ask) -> Result<String> {
    match ctx.call_activity::<String>(ask.activity, &ask.input).await {
        Ok(answer) => Ok(answer),
        Err(error) => Ok(format!("{} {}: {}", error.kind(), error.error_type(), error.message())),
    }
}

dacapo_sdk::export_orchestrations!(delegates);
