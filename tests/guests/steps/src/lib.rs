//! Small orchestrations, one for each thing that can be asked of the engine.

use std::time::Duration;

use dacapo_sdk::__private::bindings::orchestration::dacapo::workflow::context as host;
use dacapo_sdk::futures::future::{join, join_all};
use dacapo_sdk::futures::stream::{FuturesUnordered, StreamExt as _};
use dacapo_sdk::futures::{FutureExt as _, select_biased};
use dacapo_sdk::{ActivityCall, Context, Error, Guid, Result, RetryPolicy, Saga, SagaOutcome, orchestration, tracing};
use serde::{Deserialize, Serialize};

fn ms(ms: u64) -> Duration {
    Duration::from_millis(ms)
}

fn step(ctx: &Context, name: &'static str, input: &str) -> ActivityCall<String> {
    ctx.call_activity(name, input)
}

// ---- record and replay ----

/// Two activities, the second with what the first returned.
#[orchestration]
async fn two_calls(ctx: Context, order: String) -> Result<String> {
    let first = step(&ctx, "step.one", &order).await?;
    let asked = format!("{order} after {first} at {} as {}", ctx.now(), ctx.new_guid());
    step(&ctx, "step.two", &asked).await
}

/// What the host answered.
#[derive(Clone, Debug, Serialize, Deserialize)]
pub struct Drawn {
    now: u64,
    guid: Guid,
    random: u64,
    recorded: u64,
}

fn draw(ctx: &Context) -> Result<Drawn> {
    let recorded = ctx.record("half", || ctx.random() / 2)?;
    Ok(Drawn { now: ctx.now().unix_ms(), guid: ctx.new_guid(), random: ctx.random(), recorded })
}

/// Draws values before and after an activity.
#[orchestration]
async fn draws(ctx: Context) -> Result<Vec<Drawn>> {
    let first = draw(&ctx)?;
    let kept: Drawn = ctx.call_activity("step.keep", &first).await?;
    let second = draw(&ctx)?;
    let kept_too: Drawn = ctx.call_activity("step.keep", &second).await?;
    Ok(vec![first, kept, second, kept_too])
}

/// Two activities, started together and awaited in order.
#[orchestration]
async fn in_order(ctx: Context) -> Result<Vec<String>> {
    let first = step(&ctx, "step.one", "first").start();
    let second = step(&ctx, "step.two", "second").start();
    Ok(vec![first.await?, second.await?])
}

/// Logs around an activity.
#[orchestration]
async fn talks(ctx: Context) -> Result<()> {
    tracing::info!(answer = 42, "before");
    step(&ctx, "step.one", "log").await?;
    println!("between");
    step(&ctx, "step.two", "log").await?;
    tracing::warn!("after");
    Ok(())
}

// ---- time ----

/// Delays of no length, as an SDK and as a bare import ask for them.
#[orchestration]
async fn naps(ctx: Context) -> Result<Vec<Option<u32>>> {
    ctx.delay(Duration::ZERO).await;
    ctx.delay_until(ctx.now() - ms(5)).await;
    Ok(vec![host::delay(0), host::delay(-1), host::delay(i64::MIN)])
}

/// Waits, then calls an activity.
#[orchestration]
async fn sleeps(ctx: Context, length_ms: u64) -> Result<String> {
    ctx.delay(ms(length_ms)).await;
    step(&ctx, "step.one", "awake").await
}

/// How an activity is to be tried again.
#[derive(Debug, Deserialize)]
pub struct Policy {
    first_ms: u64,
    coefficient: f64,
    max_ms: u64,
    attempts: u32,
    total_ms: Option<u64>,
    jitter: f64,
    non_retryable: Vec<String>,
}

impl From<Policy> for RetryPolicy {
    fn from(policy: Policy) -> Self {
        let mut retry = Self::attempts(policy.attempts)
            .first_interval(ms(policy.first_ms))
            .coefficient(policy.coefficient)
            .max_interval(ms(policy.max_ms))
            .jitter(policy.jitter)
            .non_retryable(policy.non_retryable);
        retry.total_timeout = policy.total_ms.map(ms);
        retry
    }
}

/// One call with a policy (none: the activity's own); what it came to.
#[orchestration]
async fn retries(ctx: Context, policy: Option<Policy>) -> Result<String> {
    let mut call = step(&ctx, "step.flaky", "try");
    if let Some(policy) = policy {
        call = call.retry(policy.into());
    }
    Ok(match call.await {
        Ok(answer) => answer,
        Err(error) => format!("gave up: {error}"),
    })
}

// ---- calls ----

/// Three steps, each to be undone; the third one fails.
#[orchestration]
async fn undoes(ctx: Context) -> Result<String> {
    let mut saga = Saga::new();
    for name in ["one", "two"] {
        step(&ctx, "step.do", name).await?;
        let undo = ctx.clone();
        saga.add(name, move || step(&undo, "step.undo", name).retry(RetryPolicy::attempts(3).first_interval(ms(100))));
    }
    match step(&ctx, "step.do", "three").await {
        Ok(done) => Ok(done),
        Err(error) => {
            let outcome: SagaOutcome = saga.compensate().await;
            Err(error.with_details(&outcome))
        }
    }
}

/// Lets an activity go, then waits for the event `end`.
#[orchestration]
async fn lets_go(ctx: Context) -> Result<String> {
    let slow = step(&ctx, "step.slow", "slow").start();
    let timer = ctx.delay(ms(60_000)).start();
    let event = ctx.wait_for_event::<String>("never").start();
    ctx.wait_for_event::<()>("let go").await?;
    drop((slow, timer, event));
    ctx.wait_for_event("end").await
}

/// An activity by its name; how it failed.
#[orchestration]
async fn calls(ctx: Context, name: String) -> Result<String> {
    match ctx.call_activity::<String>(name, "x").await {
        Ok(answer) => Ok(answer),
        Err(error) => Ok(format!("{}: {}", error.kind(), error.message())),
    }
}

/// `join` of two.
#[orchestration]
async fn joins(ctx: Context) -> Result<(String, String)> {
    let (one, two) = join(step(&ctx, "step.one", "a"), step(&ctx, "step.two", "b")).await;
    Ok((one?, two?))
}

/// `join_all` of many.
#[orchestration]
async fn fans_out(ctx: Context, width: u32) -> Result<u64> {
    let calls = (0..width).map(|n| ctx.call_activity::<u64>("step.square", &n));
    let squares = join_all(calls).await;
    squares.into_iter().try_fold(0, |sum, square| Ok(sum + square?))
}

/// An activity against a timer.
#[orchestration]
async fn races_a_timer(ctx: Context) -> Result<String> {
    let winner = select_biased! {
        answer = step(&ctx, "step.slow", "race") => answer?,
        () = ctx.delay(ms(5_000)) => "the timer".to_owned(),
    };
    ctx.wait_for_event::<()>("end").await?;
    Ok(winner)
}

/// Activities in the order in which they complete.
#[orchestration]
async fn in_any_order(ctx: Context) -> Result<Vec<String>> {
    let all: FuturesUnordered<_> =
        ["a", "b", "c", "d"].map(|name| step(&ctx, "step.keep_text", name)).into_iter().collect();
    let answers: Vec<Result<String>> = all.collect().await;
    answers.into_iter().collect()
}

/// Four events, by select; who was seen in which order.
#[orchestration]
async fn selects(ctx: Context) -> Result<Vec<String>> {
    let mut seen = Vec::new();
    let mut left = ctx.wait_for_event::<u32>("left");
    let mut right = ctx.wait_for_event::<u32>("right");
    while seen.len() < 4 {
        select_biased! {
            n = left => {
                seen.push(format!("left {}", n?));
                left = ctx.wait_for_event("left");
            }
            n = right => {
                seen.push(format!("right {}", n?));
                right = ctx.wait_for_event("right");
            }
        }
    }
    Ok(seen)
}

/// Tasks beside the orchestration.
#[orchestration]
async fn spawns(ctx: Context) -> Result<Vec<String>> {
    let handles: Vec<_> = ["a", "b"]
        .map(|name| {
            let own = ctx.clone();
            ctx.spawn(async move {
                own.delay(ms(10)).await;
                step(&own, "step.keep_text", name).await
            })
        })
        .into();
    join_all(handles).await.into_iter().collect()
}

// ---- events ----

/// What is still to be collected, and what has been.
#[derive(Clone, Debug, Serialize, Deserialize)]
pub struct Collection {
    wanted: usize,
    /// Events taken in one execution.
    page: usize,
    #[serde(default)]
    taken: Vec<u32>,
}

/// Takes events, page by page: each page is an execution.
#[orchestration]
async fn collects(ctx: Context, mut collection: Collection) -> Result<Vec<u32>> {
    for _ in 0..collection.page {
        if collection.taken.len() == collection.wanted {
            return Ok(collection.taken);
        }
        collection.taken.push(ctx.wait_for_event("item").await?);
    }
    ctx.continue_as_new(collection)
}

/// Waits for an event against a timer, then for two more events; `anew`: in
/// another execution.
#[orchestration]
async fn loses_a_race(ctx: Context, anew: bool) -> Result<Vec<String>> {
    let mut seen = Vec::new();
    if ctx.info().execution == 1 {
        select_biased! {
            () = ctx.delay(ms(1_000)) => seen.push("timer".to_owned()),
            item = ctx.wait_for_event::<u32>("item") => seen.push(format!("early {}", item?)),
        }
        if anew {
            return ctx.continue_as_new(true);
        }
    }
    for _ in 0..2 {
        seen.push(format!("item {}", ctx.wait_for_event::<u32>("item").await?));
    }
    Ok(seen)
}

/// An event that nobody awaits any more when the execution ends.
#[orchestration]
async fn leaves_a_wait(ctx: Context, _input: ()) -> Result<u32> {
    if ctx.info().execution == 1 {
        let item = ctx.wait_for_event::<u32>("item").start();
        ctx.delay(ms(1_000)).await;
        // The wait ends with the execution: whatever it was handed goes on.
        let answer = ctx.continue_as_new(());
        std::mem::forget(item);
        return answer;
    }
    ctx.wait_for_event("item").await
}

/// Counts in executions, with a tag and a status of each.
#[orchestration]
async fn counts(ctx: Context, left: u32) -> Result<String> {
    ctx.custom_status(&format!("{left} left"));
    ctx.set_tag(format!("seen-{left}"), "yes");
    step(&ctx, "step.one", &left.to_string()).await?;
    if left > 0 {
        return ctx.continue_as_new(left - 1);
    }
    let info = ctx.info();
    Ok(format!("execution {} with {} tags", info.execution, info.tags.len()))
}

/// Cleans up when asked to end.
#[orchestration]
async fn obeys(ctx: Context) -> Result<String> {
    let reason = select_biased! {
        reason = ctx.cancelled().fuse() => reason,
        () = ctx.delay(ms(1_000_000)) => return Ok("was not asked".to_owned()),
    };
    step(&ctx, "step.one", "clean up").await?;
    Err(Error::new(format!("ended as asked: {reason}")).with_type("Cancelled"))
}

// ---- limits ----

/// An activity's input of that many bytes; the failure that the guest sees.
#[orchestration]
async fn sends(ctx: Context, size: usize) -> Result<String> {
    match step(&ctx, "step.one", &"x".repeat(size)).await {
        Ok(_) => Ok("sent".to_owned()),
        Err(error) => Ok(error.kind().to_string()),
    }
}

/// An output of that many bytes.
#[orchestration]
async fn returns(_ctx: Context, size: usize) -> Result<String> {
    Ok("x".repeat(size))
}

dacapo_sdk::export_orchestrations!(
    two_calls,
    draws,
    in_order,
    talks,
    naps,
    sleeps,
    retries,
    undoes,
    lets_go,
    calls,
    joins,
    fans_out,
    races_a_timer,
    in_any_order,
    selects,
    spawns,
    collects,
    loses_a_race,
    leaves_a_wait,
    counts,
    obeys,
    sends,
    returns,
);
