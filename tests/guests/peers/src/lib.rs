//! Orchestrations that speak with each other.

use std::time::Duration;

use dacapo_sdk::futures::future::join_all;
use dacapo_sdk::{Context, Error, Result, orchestration};
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

dacapo_sdk::export_orchestrations!(tells, tells_at_once, tells_and_goes, tells_itself, tells_and_breaks, hears, waits);
