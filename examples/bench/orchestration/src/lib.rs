//! What `dacapo bench` runs: nothing but turns.

use std::time::Duration;

use dacapo_sdk::futures::future::try_join_all;
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

/// So many calls at once.
#[orchestration]
pub async fn fan_out(ctx: Context, calls: u32) -> Result<u32> {
    let calls = (0..calls).map(|call| ctx.call_activity::<String>("hello.say", &call.to_string()).into_future());
    Ok(try_join_all(calls).await?.len() as u32)
}

/// So many rounds, one after the other, of so many calls at once.
#[orchestration]
pub async fn rounds(ctx: Context, (rounds, calls): (u32, u32)) -> Result<()> {
    for _ in 0..rounds {
        let calls = (0..calls).map(|call| ctx.call_activity::<String>("hello.say", &call.to_string()).into_future());
        try_join_all(calls).await?;
    }
    Ok(())
}

/// [`rounds`], and then an event.
#[orchestration]
pub async fn rounds_then_waits(ctx: Context, (many, calls): (u32, u32)) -> Result<()> {
    rounds(ctx.clone(), (many, calls)).await?;
    ctx.custom_status(&"waits");
    ctx.wait_for_event::<()>("go").await
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

dacapo_sdk::export_orchestrations!(hello5, sequence, fan_out, rounds, rounds_then_waits, waiter, sleeper);
