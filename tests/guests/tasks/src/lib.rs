//! Calls of activities with every option that there is.

use std::time::Duration;

use dacapo_sdk::futures::future::{join, join_all};
use dacapo_sdk::futures::{FutureExt as _, select_biased};
use dacapo_sdk::{ActivityCall, CallInterceptor, Called, Context, Error, Payload, Result, RetryPolicy, orchestration};
use serde::{Deserialize, Serialize};

/// How an activity is to be called.
#[derive(Clone, Debug, Deserialize)]
#[serde(default)]
pub struct Call {
    name: String,
    input: String,
    schedule_to_start: Option<u64>,
    start_to_close: Option<u64>,
    schedule_to_close: Option<u64>,
    heartbeat: Option<u64>,
    /// 0: no policy.
    attempts: u32,
    first_interval: u64,
    queue: Option<String>,
    priority: i32,
    key: Option<String>,
}

impl Default for Call {
    fn default() -> Self {
        Self {
            name: "step.slow".into(),
            input: "x".into(),
            schedule_to_start: None,
            start_to_close: None,
            schedule_to_close: None,
            heartbeat: None,
            attempts: 0,
            first_interval: 0,
            queue: None,
            priority: 0,
            key: None,
        }
    }
}

impl Call {
    fn of(self, ctx: &Context) -> ActivityCall<String> {
        let ms = Duration::from_millis;
        let mut call = ctx.call_activity(self.name, &self.input).priority(self.priority);
        if self.attempts > 0 {
            call = call.retry(RetryPolicy::attempts(self.attempts).first_interval(ms(self.first_interval)));
        }
        if let Some(time) = self.schedule_to_start {
            call = call.schedule_to_start(ms(time));
        }
        if let Some(time) = self.start_to_close {
            call = call.start_to_close(ms(time));
        }
        if let Some(time) = self.schedule_to_close {
            call = call.schedule_to_close(ms(time));
        }
        if let Some(time) = self.heartbeat {
            call = call.heartbeat(ms(time));
        }
        if let Some(queue) = self.queue {
            call = call.queue(queue);
        }
        if let Some(key) = self.key {
            call = call.fairness_key(key);
        }
        call
    }
}

/// What a call came to.
#[derive(Clone, Debug, Serialize)]
pub struct Came {
    to: Option<String>,
    kind: Option<String>,
    error_type: Option<String>,
    message: Option<String>,
}

fn came(outcome: Result<String>) -> Came {
    match outcome {
        Ok(to) => Came { to: Some(to), kind: None, error_type: None, message: None },
        Err(error) => Came {
            to: None,
            kind: Some(error.kind().to_string()),
            error_type: Some(error.error_type().to_owned()),
            message: Some(error.message().to_owned()),
        },
    }
}

/// One call; what it came to.
#[orchestration]
async fn call_with(ctx: Context, call: Call) -> Result<Came> {
    Ok(came(call.of(&ctx).await))
}

/// Calls side by side; what they came to.
#[orchestration]
async fn call_all(ctx: Context, calls: Vec<Call>) -> Result<Vec<Came>> {
    let calls: Vec<_> = calls.into_iter().map(|call| call.of(&ctx)).collect();
    Ok(join_all(calls).await.into_iter().map(came).collect())
}

/// One call, until the event `enough`.
#[orchestration]
async fn call_until(ctx: Context, call: Call) -> Result<String> {
    let mut enough = ctx.wait_for_event::<()>("enough").fuse();
    select_biased! {
        _ = enough => Ok("enough".to_owned()),
        answer = call.of(&ctx).fuse() => answer,
    }
}

/// One call, and beside it one of `step.keep` once the event `go` is there.
#[orchestration]
async fn call_both(ctx: Context, call: Call) -> Result<(String, String)> {
    let more = async {
        ctx.wait_for_event::<()>("go").await?;
        ctx.call_activity("step.keep", "y").await
    };
    let (first, more) = join(call.of(&ctx).into_future(), more).await;
    Ok((first?, more?))
}

/// Sends what nobody else can read, and calls only what it may.
struct Sealed;

fn turned(payload: Payload) -> Result<Payload> {
    let text: String = payload.decode()?;
    Payload::json(&text.chars().rev().collect::<String>())
}

impl CallInterceptor for Sealed {
    fn before(&self, called: Called<'_>, input: Payload) -> Result<Payload> {
        if called.name == "step.two" {
            return Err(Error::new("step.two may not be called").with_type("NotAllowed"));
        }
        turned(input)
    }

    fn after(&self, _called: Called<'_>, outcome: Result<Payload>) -> Result<Payload> {
        turned(outcome?)
    }
}

/// Calls side by side, sealed.
#[orchestration]
async fn call_sealed(ctx: Context, calls: Vec<Call>) -> Result<Vec<Came>> {
    ctx.intercept(Sealed);
    let mut all = Vec::new();
    for call in calls {
        all.push(came(call.of(&ctx).await));
    }
    Ok(all)
}

dacapo_sdk::export_orchestrations!(call_with, call_all, call_until, call_both, call_sealed);
