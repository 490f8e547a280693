//! A journey, and what it became: each `journey_..` has one bug planted, or says
//! more than before. Recordings of `journey` are replayed against them.

use dacapo_sdk::{ActivityCall, Context, Result, RetryPolicy, Saga, orchestration, tracing::info};
use serde::{Deserialize, Serialize};

/// One thing to book.
#[derive(Clone, Debug, Serialize, Deserialize)]
pub struct Booking {
    what: String,
    nights: u32,
}

fn book(ctx: &Context, what: &str, nights: u32) -> ActivityCall<String> {
    ctx.call_activity("step.do", &Booking { what: what.to_owned(), nights })
}

fn cancel(ctx: &Context, what: &'static str) -> impl FnOnce() -> ActivityCall<String> + 'static {
    let ctx = ctx.clone();
    move || ctx.call_activity("step.undo", what).retry(RetryPolicy::attempts(2))
}

/// Books a hotel, a flight and a car; without a car, cancels both again.
#[orchestration]
async fn journey(ctx: Context, nights: u32) -> Result<String> {
    let mut saga = Saga::new();
    info!(nights, "setting out");
    book(&ctx, "hotel", nights).await?;
    saga.add("hotel", cancel(&ctx, "hotel"));
    book(&ctx, "flight", nights).await?;
    saga.add("flight", cancel(&ctx, "flight"));
    ctx.custom_status("hotel and flight are booked");
    match book(&ctx, "car", nights).await {
        Ok(car) => Ok(car),
        Err(error) => Err(error.with_details(&saga.compensate().await)),
    }
}

/// The flight first.
#[orchestration]
async fn journey_reordered(ctx: Context, nights: u32) -> Result<String> {
    let mut saga = Saga::new();
    info!(nights, "setting out");
    book(&ctx, "flight", nights).await?;
    saga.add("flight", cancel(&ctx, "flight"));
    book(&ctx, "hotel", nights).await?;
    saga.add("hotel", cancel(&ctx, "hotel"));
    ctx.custom_status("hotel and flight are booked");
    match book(&ctx, "car", nights).await {
        Ok(car) => Ok(car),
        Err(error) => Err(error.with_details(&saga.compensate().await)),
    }
}

/// A night more for the car.
#[orchestration]
async fn journey_argument(ctx: Context, nights: u32) -> Result<String> {
    let mut saga = Saga::new();
    info!(nights, "setting out");
    book(&ctx, "hotel", nights).await?;
    saga.add("hotel", cancel(&ctx, "hotel"));
    book(&ctx, "flight", nights).await?;
    saga.add("flight", cancel(&ctx, "flight"));
    ctx.custom_status("hotel and flight are booked");
    match book(&ctx, "car", nights + 1).await {
        Ok(car) => Ok(car),
        Err(error) => Err(error.with_details(&saga.compensate().await)),
    }
}

/// Looks at the clock between hotel and flight.
#[orchestration]
async fn journey_clock(ctx: Context, nights: u32) -> Result<String> {
    let mut saga = Saga::new();
    info!(nights, "setting out");
    book(&ctx, "hotel", nights).await?;
    saga.add("hotel", cancel(&ctx, "hotel"));
    info!(at = %ctx.now(), "the hotel is booked");
    book(&ctx, "flight", nights).await?;
    saga.add("flight", cancel(&ctx, "flight"));
    ctx.custom_status("hotel and flight are booked");
    match book(&ctx, "car", nights).await {
        Ok(car) => Ok(car),
        Err(error) => Err(error.with_details(&saga.compensate().await)),
    }
}

/// Forgets to cancel the flight.
#[orchestration]
async fn journey_forgets(ctx: Context, nights: u32) -> Result<String> {
    let mut saga = Saga::new();
    info!(nights, "setting out");
    book(&ctx, "hotel", nights).await?;
    saga.add("hotel", cancel(&ctx, "hotel"));
    book(&ctx, "flight", nights).await?;
    ctx.custom_status("hotel and flight are booked");
    match book(&ctx, "car", nights).await {
        Ok(car) => Ok(car),
        Err(error) => Err(error.with_details(&saga.compensate().await)),
    }
}

/// Gives up where the journey was undone.
#[orchestration]
async fn journey_panics(ctx: Context, nights: u32) -> Result<String> {
    info!(nights, "setting out");
    book(&ctx, "hotel", nights).await?;
    book(&ctx, "flight", nights).await?;
    ctx.custom_status("hotel and flight are booked");
    let car = book(&ctx, "car", nights).await;
    Ok(car.expect("there is always a car"))
}

/// The journey as it was, with more log lines.
#[orchestration]
async fn journey_talks(ctx: Context, nights: u32) -> Result<String> {
    let mut saga = Saga::new();
    info!(nights, "setting out");
    let room = book(&ctx, "hotel", nights).await?;
    info!(room, "has a room");
    saga.add("hotel", cancel(&ctx, "hotel"));
    let seat = book(&ctx, "flight", nights).await?;
    info!(seat, "has a seat");
    println!("printed, too");
    saga.add("flight", cancel(&ctx, "flight"));
    ctx.custom_status("hotel and flight are booked");
    match book(&ctx, "car", nights).await {
        Ok(car) => Ok(car),
        Err(error) => {
            info!(%error, "no car");
            Err(error.with_details(&saga.compensate().await))
        }
    }
}

/// So many activities, one after the other, each with a log line.
#[orchestration]
async fn journey_long(ctx: Context, steps: u32) -> Result<u64> {
    let mut sum = 0;
    for n in 0..steps {
        sum += ctx.call_activity::<u64>("step.square", &n).await?;
        if n % 100 == 0 {
            info!(n, sum, "on the way");
        }
    }
    Ok(sum)
}

dacapo_sdk::export_orchestrations!(
    journey,
    journey_reordered,
    journey_argument,
    journey_clock,
    journey_forgets,
    journey_panics,
    journey_talks,
    journey_long,
);
