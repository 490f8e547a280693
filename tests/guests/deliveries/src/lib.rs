//! A turn in which much arrives at once, for the tests of delivery.

use std::cell::Cell;
use std::rc::Rc;
use std::time::Duration;

use dacapo_sdk::futures::future::join;
use dacapo_sdk::{ActivityCall, Context, Result, orchestration, tracing};

fn step(ctx: &Context, name: &'static str, input: &str) -> ActivityCall<String> {
    ctx.call_activity(name, input)
}

/// Waits for many things, and is told of all of them in one turn: two results that it
/// wants, one that it no longer wants, one that it never looks at, a timer, an event
/// that it gave back before, and an update.
#[orchestration(updates = ["more"])]
async fn crowded(ctx: Context) -> Result<Vec<String>> {
    let extra = Rc::new(Cell::new(0));
    let added = Rc::clone(&extra);
    ctx.on_update("more", move |n: u32| {
        let added = Rc::clone(&added);
        async move {
            added.set(added.get() + n);
            Ok(added.get())
        }
    });
    let first = step(&ctx, "step.one", "first").start();
    let second = step(&ctx, "step.two", "second").start();
    let unwanted = step(&ctx, "step.slow", "unwanted").start();
    let never_read = step(&ctx, "step.keep_text", "never read").start();
    let timer = ctx.delay(Duration::from_secs(1)).start();
    let unwanted_timer = ctx.delay(Duration::from_secs(100)).start();
    drop(ctx.wait_for_event::<String>("item").start());
    ctx.custom_status("crowded");
    let mut told = vec![ctx.wait_for_event::<String>("go").await?];

    // What follows is one turn, whatever has arrived by now.
    drop((unwanted, unwanted_timer));
    timer.await;
    told.push(first.await?);
    tracing::info!(told = told.len(), "so far");
    let (now, drawn, guid) = (ctx.now(), ctx.random(), ctx.new_guid());
    let recorded = ctx.record("values", || format!("{now} {drawn} {guid}"))?;
    if ctx.patched("counted") {
        ctx.set_tag("counted", "yes");
    }
    let (kept, second) = join(step(&ctx, "step.keep_text", &recorded), second).await;
    told.push(second?);
    told.push(format!("kept: {}", kept? == recorded));
    told.push(ctx.wait_for_event("item").await?);
    while extra.get() == 0 {
        ctx.delay(Duration::from_secs(1)).await;
    }
    told.push(format!("{} more", extra.get()));
    std::mem::forget(never_read);
    Ok(told)
}

/// Passes its input through an activity, twice, and returns it.
#[orchestration]
async fn passes_on(ctx: Context, text: String) -> Result<String> {
    let kept = step(&ctx, "step.keep_text", &text).await?;
    if kept.len() < 10 {
        return ctx.continue_as_new(kept.repeat(1000));
    }
    step(&ctx, "step.keep_text", &kept).await
}

dacapo_sdk::export_orchestrations!(crowded, passes_on);
