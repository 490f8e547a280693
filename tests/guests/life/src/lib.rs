//! Orchestrations whose life as a whole is tested: held, replaced, cancelled.

use std::time::Duration;

use dacapo_sdk::futures::FutureExt as _;
use dacapo_sdk::futures::select_biased;
use dacapo_sdk::{ActivityCall, Context, Error, Result, RetryPolicy, Saga, orchestration};

fn ms(ms: u64) -> Duration {
    Duration::from_millis(ms)
}

fn step(ctx: &Context, name: &'static str, input: &str) -> ActivityCall<String> {
    ctx.call_activity(name, input)
}

/// An activity, an event and a timer at the same time; then one activity more.
#[orchestration]
async fn waits_for_three(ctx: Context) -> Result<Vec<String>> {
    let slow = step(&ctx, "step.slow", "slow").start();
    let item = ctx.wait_for_event::<String>("item").start();
    ctx.delay(ms(1_000)).await;
    let seen = vec![item.await?, slow.await?];
    Ok([seen, vec![step(&ctx, "step.two", "after").await?]].concat())
}

/// One activity that is tried three times, a second apart.
#[orchestration]
async fn tries(ctx: Context) -> Result<String> {
    step(&ctx, "step.flaky", "try").retry(RetryPolicy::attempts(3).first_interval(ms(1_000)).coefficient(1.0)).await
}

/// Does two steps, waits to be cancelled, and undoes them in reverse: with
/// activities, a retry and a delay, all after the request.
#[orchestration]
async fn backs_out(ctx: Context) -> Result<String> {
    let mut saga = Saga::new();
    for name in ["one", "two"] {
        step(&ctx, "step.do", name).await?;
        let undo = ctx.clone();
        saga.add(name, move || async move {
            undo.delay(ms(500)).await;
            step(&undo, "step.undo", name).retry(RetryPolicy::attempts(3).first_interval(ms(100))).await
        });
    }
    let reason = select_biased! {
        reason = ctx.cancelled().fuse() => reason,
        () = ctx.delay(ms(1_000_000)) => return Ok("was not asked".to_owned()),
    };
    let outcome = saga.compensate().await;
    Err(Error::new(format!("backed out: {reason}")).with_type("Cancelled").with_details(&outcome))
}

dacapo_sdk::export_orchestrations!(waits_for_three, tries, backs_out);
