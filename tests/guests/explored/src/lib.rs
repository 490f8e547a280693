//! What exploration is tested on: right orchestrations, and wrong ones whose
//! fault shows in some orders only.

use std::time::Duration;

use dacapo_sdk::futures::future::{join, join_all, select};
use dacapo_sdk::futures::{FutureExt as _, select_biased};
use dacapo_sdk::{Context, Error, Result, RetryPolicy, Saga, orchestration};
use serde::{Deserialize, Serialize};

async fn remove(ctx: &Context, file: &str) -> Result<()> {
    ctx.call_activity::<()>("files.remove", file).await
}

/// S44: removes both files at once, then acts.
#[orchestration]
async fn at_once(ctx: Context) -> Result<String> {
    let (first, second) = join(remove(&ctx, "B1"), remove(&ctx, "B2")).await;
    first?;
    second?;
    ctx.call_activity("files.act", &()).await
}

/// S44: removes one file after the other, then acts.
#[orchestration]
async fn in_turn(ctx: Context) -> Result<String> {
    remove(&ctx, "B1").await?;
    remove(&ctx, "B2").await?;
    ctx.call_activity("files.act", &()).await
}

/// As many calls at once as it is asked for.
#[orchestration]
async fn at_large(ctx: Context, count: u32) -> Result<u32> {
    let calls = (0..count).map(|number| ctx.call_activity::<u32>("desk.add", &number));
    let sums: Result<Vec<u32>> = join_all(calls).await.into_iter().collect();
    Ok(sums?.len() as u32)
}

/// What a trip is to do wrong.
#[derive(Clone, Debug, Serialize, Deserialize)]
pub struct Trip {
    /// Say what undoes the hotel only after the car, which may fail.
    forgetful: bool,
}

/// Three reservations, undone if one fails.
#[orchestration]
async fn trip(ctx: Context, trip: Trip) -> Result<()> {
    let mut saga = Saga::new();
    match reserve(&ctx, &mut saga, trip.forgetful).await {
        Ok(()) => Ok(()),
        Err(error) => {
            let undone = saga.compensate().await;
            Err(error.with_details(&undone))
        }
    }
}

async fn reserve(ctx: &Context, saga: &mut Saga, forgetful: bool) -> Result<()> {
    let undo = |what: &'static str| {
        let ctx = ctx.clone();
        move || ctx.call_activity::<()>("desk.cancel", what).retry(RetryPolicy::attempts(5))
    };
    // Said before it is asked for: a failure does not say that nothing was done.
    if !forgetful {
        saga.add("hotel", undo("hotel"));
    }
    ctx.call_activity::<()>("desk.reserve", "hotel").await?;
    saga.add("car", undo("car"));
    ctx.call_activity::<()>("desk.reserve", "car").await?;
    if forgetful {
        saga.add("hotel", undo("hotel"));
    }
    saga.add("flight", undo("flight"));
    ctx.call_activity::<()>("desk.reserve", "flight").await
}

/// Charges a card.
#[orchestration]
async fn charge(ctx: Context, amount: u32) -> Result<()> {
    ctx.call_activity::<()>("card.charge", &amount).retry(RetryPolicy::attempts(3)).await
}

/// An approval, or an hour.
#[orchestration]
async fn approval(ctx: Context) -> Result<String> {
    select_biased! {
        by = ctx.wait_for_event::<String>("approved").fuse() => Ok(format!("approved by {}", by?)),
        () = ctx.delay(Duration::from_secs(3600)).fuse() => Ok("timed out".to_owned()),
    }
}

/// The faster of two desks; the other one is no longer waited for.
#[orchestration]
async fn faster(ctx: Context) -> Result<String> {
    let ask = |desk: &'static str| ctx.call_activity::<String>("desk.ask", desk).boxed_local();
    select(ask("left"), ask("right")).await.factor_first().0
}

/// Waits for what never comes.
#[orchestration]
async fn waits(ctx: Context) -> Result<()> {
    ctx.wait_for_event("never").await
}

/// Counts down over executions, with an activity in each.
#[orchestration]
async fn countdown(ctx: Context, left: u32) -> Result<()> {
    ctx.call_activity::<()>("desk.tick", &left).await?;
    if left > 0 {
        return ctx.continue_as_new(left - 1);
    }
    Ok(())
}

/// Thirty days, then a letter.
#[orchestration]
async fn reminder(ctx: Context, whom: String) -> Result<String> {
    ctx.delay(Duration::from_secs(30 * 86_400)).await;
    dacapo_sdk::tracing::info!(%whom, "reminding");
    ctx.call_activity::<String>("desk.remind", &whom).retry(RetryPolicy::attempts(3)).await
}

/// Fails in a way of its own.
#[orchestration]
async fn fails(_ctx: Context) -> Result<()> {
    Err(Error::new("on purpose"))
}

dacapo_sdk::export_orchestrations!(
    at_once, in_turn, at_large, trip, charge, approval, faster, waits, countdown, reminder, fails
);
