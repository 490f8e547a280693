//! Orchestrations that speak with each other.

use std::time::Duration;

use dacapo_sdk::futures::future::join_all;
use dacapo_sdk::futures::{FutureExt as _, select_biased};
use dacapo_sdk::{
    CallInterceptor, CallKind, Called, Context, Error, IdReuse, ParentClose, Payload, Result, RetryPolicy,
    orchestration,
};
use serde::{Deserialize, Serialize};

fn ms(ms: u64) -> Duration {
    Duration::from_millis(ms)
}

// ---- signals ----

/// Whom to tell what.
#[derive(Clone, Debug, Serialize, Deserialize)]
pub struct Letters {
    to: Vec<String>,
    values: Vec<u32>,
}

fn outcome<T>(result: Result<T>) -> String {
    match result {
        Ok(_) => "taken".to_owned(),
        Err(error) => format!("{} {}", error.kind(), error.error_type()).trim().to_owned(),
    }
}

/// Raises `item` with each value on each receiver, one after the other.
#[orchestration]
async fn tells(ctx: Context, letters: Letters) -> Result<Vec<String>> {
    let mut outcomes = Vec::new();
    for value in &letters.values {
        for to in &letters.to {
            outcomes.push(outcome(ctx.signal(to, "item", value).await));
        }
    }
    Ok(outcomes)
}

/// The same, all at once.
#[orchestration]
async fn tells_at_once(ctx: Context, letters: Letters) -> Result<Vec<String>> {
    let pairs = letters.values.iter().flat_map(|value| letters.to.iter().map(move |to| (to, value)));
    let signals = join_all(pairs.map(|(to, value)| ctx.signal(to, "item", value))).await;
    Ok(signals.into_iter().map(outcome).collect())
}

/// Ends before any of them was taken, or goes on in another execution.
#[orchestration]
async fn tells_and_goes(ctx: Context, (mut letters, anew): (Letters, bool)) -> Result<u32> {
    let execution = ctx.info().execution;
    let left = letters.values.split_off(letters.values.len().min(2));
    for value in &letters.values {
        for to in &letters.to {
            // Asked for, and let go: that stops nothing.
            drop(ctx.signal(to, "item", value).start());
        }
    }
    if !left.is_empty() && anew {
        return ctx.continue_as_new((Letters { values: left, ..letters }, anew));
    }
    Ok(execution)
}

/// Raises an event on itself and takes it.
#[orchestration]
async fn tells_itself(ctx: Context) -> Result<u32> {
    let me = ctx.info().instance;
    let taken = ctx.wait_for_event::<u32>("item").start();
    ctx.signal(me, "item", &7).await?;
    taken.await
}

/// Asks for a signal, and breaks in the same turn.
#[orchestration]
async fn tells_and_breaks(ctx: Context, to: String) -> Result<()> {
    let _signal = ctx.signal(to, "item", &13).start();
    panic!("broken");
}

/// Raises one, then fails.
#[orchestration]
async fn tells_and_fails(ctx: Context, to: String) -> Result<()> {
    ctx.signal(to, "item", &1).await?;
    Err(Error::new("as told"))
}

/// What is still to be heard, and what was.
#[derive(Clone, Debug, Serialize, Deserialize)]
pub struct Heard {
    wanted: usize,
    /// Events taken in one execution.
    page: usize,
    #[serde(default)]
    heard: Vec<u32>,
}

/// Takes events, page by page: each page is an execution.
#[orchestration]
async fn hears(ctx: Context, mut all: Heard) -> Result<Vec<u32>> {
    for _ in 0..all.page {
        if all.heard.len() == all.wanted {
            return Ok(all.heard);
        }
        all.heard.push(ctx.wait_for_event("item").await?);
    }
    ctx.continue_as_new(all)
}

/// Waits for so long.
#[orchestration]
async fn waits(ctx: Context, length_ms: u64) -> Result<()> {
    ctx.delay(ms(length_ms)).await;
    Err(Error::new("nobody came"))
}

// ---- sub-orchestrations ----

/// One activity.
#[orchestration]
async fn leaf(ctx: Context, n: u64) -> Result<u64> {
    ctx.call_activity("step.square", &n).await
}

/// Calls one for each number; the sum.
#[orchestration]
async fn branches(ctx: Context, width: u64) -> Result<u64> {
    let leaves = join_all((0..width).map(|n| ctx.call::<leaf>(&n))).await;
    leaves.into_iter().try_fold(0, |sum, square| Ok(sum + square?))
}

/// Fails as it is told.
#[orchestration]
async fn fails(_ctx: Context, error_type: String) -> Result<()> {
    Err(Error::new("as told").with_type(error_type))
}

/// Calls one that fails, up to three times.
#[orchestration]
async fn tries(ctx: Context, error_type: String) -> Result<String> {
    let policy = RetryPolicy::attempts(3).first_interval(ms(1_000)).non_retryable(["Final"]);
    let call = ctx.call::<fails>(&error_type).instance("try").retry(policy).await;
    Ok(call.expect_err("it fails").error_type().to_owned())
}

/// Runs until it is asked to end, and says so.
#[orchestration]
async fn lingers(ctx: Context, length_ms: u64) -> Result<String> {
    let reason = select_biased! {
        reason = ctx.cancelled().fuse() => reason,
        () = ctx.delay(ms(length_ms)) => "nobody asked".to_owned(),
    };
    ctx.call_activity("step.keep_text", &reason).await
}

/// Calls `lingers` as `child` and ends when it is told how.
#[orchestration]
async fn leaves(ctx: Context, (policy, anew): (String, bool)) -> Result<u32> {
    if ctx.info().execution == 2 {
        ctx.wait_for_event::<()>("end").await?;
        return Ok(2);
    }
    let policy_of_it = match policy.as_str() {
        "terminate" | "let-go" => ParentClose::Terminate,
        "cancel" => ParentClose::Cancel,
        _ => ParentClose::Abandon,
    };
    let call = ctx.call::<lingers>(&1_000_000).instance("child").parent_close(policy_of_it).start();
    ctx.wait_for_event::<()>("go").await?;
    match policy.as_str() {
        "drop" => {
            drop(call);
            ctx.wait_for_event::<()>("end").await?;
        }
        // Of such a call too: it ends before the called one has heard of that.
        "let-go" => drop(call),
        _ => std::mem::forget(call),
    }
    if anew { ctx.continue_as_new((policy, anew)) } else { Ok(1) }
}

/// Fails if its activity does; it may be called again.
#[orchestration]
async fn brittle(ctx: Context, asked: String) -> Result<String> {
    ctx.call_activity("step.one", &asked).await
}

/// Tells and calls others, and fails then if its activity does: what it was answered.
#[orchestration]
async fn settles(ctx: Context, to: String) -> Result<(u64, u64, String)> {
    ctx.signal(&to, "item", &1).await?;
    let before = ctx.call::<leaf>(&3).await?;
    let paid: String = ctx.call_activity("step.two", &"pay").await?;
    let after = ctx.call::<leaf>(&4).await?;
    ctx.signal(&to, "item", &2).await?;
    Ok((before, after, paid))
}

/// Calls one that may fail, beside one that lingers or goes on without it: what they
/// returned. If it fails another one is called before this does.
#[orchestration]
async fn relies(ctx: Context, policy: String) -> Result<(String, String)> {
    let policy_of_it = if policy == "abandon" { ParentClose::Abandon } else { ParentClose::Terminate };
    let beside = ctx.call::<lingers>(&5_000).instance("beside").parent_close(policy_of_it).start();
    match ctx.call::<brittle>(&"a".to_owned()).await {
        Ok(first) => Ok((first, beside.await?)),
        Err(error) => {
            std::mem::forget(beside);
            ctx.call::<leaf>(&7).await?;
            Err(error)
        }
    }
}

/// Calls an id that somebody else has.
#[orchestration]
async fn collides(ctx: Context) -> Result<u64> {
    ctx.call::<leaf>(&3).instance("ear").await
}

/// Calls one and ends at once.
#[orchestration]
async fn fires(ctx: Context) -> Result<()> {
    ctx.call::<leaf>(&5).instance("child").detach();
    Ok(())
}

/// Waits for so long for one that lingers.
#[orchestration]
async fn hurries(ctx: Context, timeout_ms: u64) -> Result<String> {
    match ctx.call::<lingers>(&1_000_000).instance("child").timeout(ms(timeout_ms)).await {
        Ok(answer) => Ok(answer),
        Err(error) => Ok(format!("{} {}", error.kind(), error.error_type())),
    }
}

/// Calls one that lingers; a request to end is its answer.
#[orchestration]
async fn minds(ctx: Context) -> Result<String> {
    select_biased! {
        answer = ctx.call::<lingers>(&1_000_000).instance("child") => answer,
        reason = ctx.cancelled().fuse() => Ok(reason),
    }
}

/// Calls one that takes events page by page.
#[orchestration]
async fn calls_pages(ctx: Context, all: Heard) -> Result<Vec<u32>> {
    ctx.call::<hears>(&all).instance("child").await
}

/// Calls by name, with what is said of the id; how it went.
#[orchestration]
async fn calls_by_name(ctx: Context, (name, module, reuse): (String, Option<String>, String)) -> Result<String> {
    let reuse = match reuse.as_str() {
        "return-existing" => IdReuse::ReturnExisting,
        "replace-finished" => IdReuse::ReplaceFinished,
        "terminate-and-replace" => IdReuse::TerminateAndReplace,
        _ => IdReuse::Reject,
    };
    let mut call = ctx.call_orchestration::<dacapo_sdk::serde_json::Value>(name, &3).instance("child").reuse(reuse);
    if let Some(module) = module {
        call = call.module(module);
    }
    Ok(match call.await {
        Ok(answer) => answer.to_string(),
        Err(error) => format!("{} {}", error.kind(), error.error_type()),
    })
}

/// Adds one to what a leaf gets and to what it gives; nothing else may be called.
struct OnlyLeaves;

impl CallInterceptor for OnlyLeaves {
    fn before(&self, called: Called<'_>, input: Payload) -> Result<Payload> {
        if called.kind != CallKind::Orchestration || called.name != "leaf" {
            return Err(Error::new(format!("{} may not be called", called.name)).with_type("NotAllowed"));
        }
        Payload::json(&(input.decode::<u64>()? + 1))
    }

    fn after(&self, _called: Called<'_>, outcome: Result<Payload>) -> Result<Payload> {
        Payload::json(&(outcome?.decode::<u64>()? + 1))
    }
}

/// Calls through an interceptor: what a leaf gives, and how another call fails.
#[orchestration]
async fn calls_through(ctx: Context, n: u64) -> Result<(u64, String)> {
    ctx.intercept(OnlyLeaves);
    let square = ctx.call::<leaf>(&n).await?;
    Ok((square, outcome(ctx.call::<fails>(&"Final".to_owned()).await)))
}

dacapo_sdk::export_orchestrations!(
    tells,
    tells_at_once,
    tells_and_goes,
    tells_itself,
    tells_and_breaks,
    tells_and_fails,
    hears,
    waits,
    leaf,
    branches,
    fails,
    tries,
    lingers,
    leaves,
    brittle,
    settles,
    relies,
    collides,
    fires,
    hurries,
    minds,
    calls_pages,
    calls_by_name,
    calls_through
);
