//! What `dacapo bench` runs: nothing but turns.

use std::time::Duration;

use dacapo_sdk::{Context, Result, orchestration};

/// Five calls, one after the other.
#[orchestration]
pub async fn hello5(ctx: Context, name: String) -> Result<String> {
    let mut greeting = name;
    for _ in 0..5 {
        greeting = ctx.call_activity("hello.say", &greeting).await?;
    }
    Ok(greeting)
}

/// So many calls, one after the other.
#[orchestration]
pub async fn sequence(ctx: Context, calls: u32) -> Result<u32> {
    for call in 0..calls {
        ctx.call_activity::<String>("hello.say", &call.to_string()).await?;
    }
    Ok(calls)
}

/// Waits for an event that never comes.
#[orchestration]
pub async fn waiter(ctx: Context) -> Result<()> {
    ctx.wait_for_event::<()>("never").await
}

/// Sleeps, milliseconds.
#[orchestration]
pub async fn sleeper(ctx: Context, ms: u64) -> Result<()> {
    ctx.delay(Duration::from_millis(ms)).await;
    Ok(())
}

dacapo_sdk::export_orchestrations!(hello5, sequence, waiter, sleeper);
