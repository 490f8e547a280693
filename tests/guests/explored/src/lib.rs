//! What exploration is tested on: right orchestrations, and wrong ones whose
//! fault shows in some orders only.

use std::cell::RefCell;
use std::rc::Rc;
use std::time::Duration;

use dacapo_sdk::futures::future::{join, join_all, select};
use dacapo_sdk::futures::{FutureExt as _, select_biased};
use dacapo_sdk::{Context, Error, Result, RetryPolicy, Saga, orchestration, query};
use serde::{Deserialize, Serialize};

const HOUR: Duration = Duration::from_secs(3600);

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

// ---- instances that have to do with each other ----

/// Greets another one and waits to be greeted by it.
#[orchestration]
async fn meets(ctx: Context, other: String) -> Result<String> {
    ctx.signal(&other, "hello", &ctx.info().instance).await?;
    ctx.wait_for_event("hello").await
}

/// Greets back only: two of these wait for each other.
#[orchestration]
async fn greets_back(ctx: Context, other: String) -> Result<String> {
    let by = ctx.wait_for_event("hello").await?;
    ctx.signal(&other, "hello", &ctx.info().instance).await?;
    Ok(by)
}

/// Greets another one and waits an hour for its greeting: whether they met.
#[orchestration]
async fn meets_within_an_hour(ctx: Context, other: String) -> Result<bool> {
    // The other one may have gone.
    let _ = ctx.signal(&other, "hello", &ctx.info().instance).await;
    select_biased! {
        by = ctx.wait_for_event::<String>("hello").fuse() => by.map(|_| true),
        () = ctx.delay(HOUR).fuse() => Ok(false),
    }
}

/// Has a card charged, and does without after an hour unless it is patient.
#[orchestration]
async fn order(ctx: Context, patient: bool) -> Result<String> {
    let call = ctx.call::<charge>(&100).instance("charge");
    let call = if patient { call } else { call.timeout(HOUR) };
    match call.await {
        Ok(()) => Ok("charged".to_owned()),
        Err(error) if error.is_timeout() => Ok("free".to_owned()),
        Err(error) => Err(error),
    }
}

/// Calls an orchestration of another module.
#[orchestration]
async fn calls_away(ctx: Context, n: u64) -> Result<u64> {
    ctx.call_orchestration::<u64>("leaf", &n).module("peers").await
}

// ---- asked while they run ----

/// Adds up what updates bring until it is closed. A hasty one looks at the sum
/// before it waits, and is wrong when two come at once.
#[orchestration(updates = ["add"], queries = [sum])]
async fn adds(ctx: Context, hasty: bool) -> Result<u32> {
    let total = Rc::new(RefCell::new(0));
    ctx.answer::<sum>(&total);
    let (noting, adding) = (ctx.clone(), Rc::clone(&total));
    ctx.on_update("add", move |more: u32| {
        let (ctx, total) = (noting.clone(), Rc::clone(&adding));
        async move {
            let before = *total.borrow();
            ctx.call_activity::<()>("desk.note", &more).await?;
            let before = if hasty { before } else { *total.borrow() };
            *total.borrow_mut() = before + more;
            Ok(before + more)
        }
    });
    ctx.wait_for_event::<()>("close").await?;
    let total = *total.borrow();
    Ok(total)
}

/// The sum so far.
#[query]
fn sum(total: &u32) -> Result<u32> {
    Ok(*total)
}

// ---- time ----

/// Puts `a`, then `b`. An impatient one gives each attempt ten seconds.
#[orchestration]
async fn puts(ctx: Context, patient: bool) -> Result<()> {
    for what in ["a", "b"] {
        let call = ctx.call_activity::<()>("desk.put", what).retry(RetryPolicy::attempts(2));
        let call = if patient { call } else { call.start_to_close(Duration::from_secs(10)) };
        call.await?;
    }
    Ok(())
}

/// Reminds after an hour and gives up after two. A careless one looks first whether
/// it is to give up.
#[orchestration]
async fn reminds(ctx: Context, careful: bool) -> Result<()> {
    let (mut remind, mut give_up) = (ctx.delay(HOUR).fuse(), ctx.delay(2 * HOUR).fuse());
    loop {
        let reminds = if careful {
            select_biased! { () = remind => true, () = give_up => false }
        } else {
            select_biased! { () = give_up => false, () = remind => true }
        };
        if !reminds {
            return Ok(());
        }
        ctx.call_activity::<()>("desk.remind", "now").await?;
    }
}

dacapo_sdk::export_orchestrations!(
    at_once,
    in_turn,
    at_large,
    trip,
    charge,
    approval,
    faster,
    waits,
    countdown,
    reminder,
    fails,
    meets,
    greets_back,
    meets_within_an_hour,
    order,
    calls_away,
    adds,
    puts,
    reminds
);
