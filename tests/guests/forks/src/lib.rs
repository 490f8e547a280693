//! What a fork shares with the instance that it comes from, and what not.

use dacapo_sdk::{Context, Result, orchestration};
use serde::{Deserialize, Serialize};

/// Who it is and what it draws.
#[derive(Debug, Serialize, Deserialize)]
pub struct Signed {
    by: String,
    execution: u32,
    random: u64,
    guid: String,
    hashed: u64,
}

fn sign(ctx: &Context) -> Signed {
    use std::hash::{BuildHasher as _, RandomState};
    let info = ctx.info();
    Signed {
        by: info.instance,
        execution: info.execution,
        random: ctx.random(),
        guid: ctx.new_guid().to_string(),
        // Randomness of virtual WASI, which is not recorded.
        hashed: RandomState::new().hash_one(7),
    }
}

/// Signs before and after an event, each time with its own name in what it asks for.
#[orchestration]
async fn signs(ctx: Context) -> Result<Vec<Signed>> {
    let first: Signed = ctx.call_activity("step.keep", &sign(&ctx)).await?;
    let who: String = ctx.wait_for_event("go").await?;
    ctx.custom_status(&who);
    let second: Signed = ctx.call_activity("step.keep", &sign(&ctx)).await?;
    Ok(vec![first, second])
}

dacapo_sdk::export_orchestrations!(signs);
