//! Orchestrations whose life as a whole is tested: held, replaced, cancelled, asked.

use std::cell::{Cell, RefCell};
use std::rc::Rc;
use std::time::Duration;

use dacapo_sdk::__private::bindings::orchestration::dacapo::workflow::context as host;
use dacapo_sdk::futures::FutureExt as _;
use dacapo_sdk::futures::future::try_join;
use dacapo_sdk::futures::select_biased;
use dacapo_sdk::{ActivityCall, Context, Error, Result, RetryPolicy, Saga, orchestration, query, tracing};

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

// ---- failures that are rewound ----

/// A timer, a call that is tried again, one that fails for good, and one more.
#[orchestration]
async fn pays(ctx: Context) -> Result<Vec<String>> {
    ctx.delay(ms(1_000)).await;
    let retry = |attempts| RetryPolicy::attempts(attempts).first_interval(ms(1_000)).coefficient(1.0);
    let first = step(&ctx, "step.flaky", "warm up").retry(retry(3)).await?;
    let asked = format!("{} at {}", ctx.new_guid(), ctx.now());
    let paid = step(&ctx, "step.slow", &asked).retry(retry(2)).await?;
    let last = step(&ctx, "step.two", &ctx.random().to_string()).await?;
    Ok(vec![first, asked, paid, last, format!("execution {}", ctx.info().execution)])
}

/// Two calls at the same time; the first failure ends it.
#[orchestration]
async fn tries_both(ctx: Context) -> Result<(String, String)> {
    try_join(step(&ctx, "step.one", "a"), step(&ctx, "step.slow", "b")).await
}

/// Takes an event after the failure, and fails then.
#[orchestration]
async fn fails_late(ctx: Context) -> Result<(String, String)> {
    let first = step(&ctx, "step.one", "a").await;
    let item = ctx.wait_for_event::<String>("item").await?;
    Ok((first?, item))
}

// ---- queries ----

/// What queries look at.
#[derive(Default)]
struct Trip {
    booked: Vec<String>,
    touched: Cell<u32>,
}

/// What is booked.
#[query]
fn booked(trip: &Trip) -> Result<Vec<String>> {
    Ok(trip.booked.clone())
}

/// How many of that name are booked.
#[query(name = "how-many")]
fn how_many(trip: &Trip, name: String) -> Result<usize> {
    if name.is_empty() {
        return Err(Error::new("of nothing there is nothing").with_type("NoName"));
    }
    Ok(trip.booked.iter().filter(|booked| **booked == name).count())
}

/// Changes what it looks at, and says how often that was done.
#[query]
fn touch(trip: &Trip) -> Result<u32> {
    tracing::info!("touched");
    trip.touched.set(trip.touched.get() + 1);
    Ok(trip.touched.get())
}

/// Books legs as events name them, until one is called `end`.
#[orchestration(queries = [booked, how_many, touch])]
async fn trip(ctx: Context) -> Result<u32> {
    let trip = Rc::new(RefCell::new(Trip::default()));
    ctx.answer::<booked>(&trip);
    ctx.answer::<how_many>(&trip);
    ctx.answer::<touch>(&trip);
    let own = ctx.clone();
    ctx.on_query("who", move |()| Ok(own.info().instance));
    ctx.on_query("asks-the-host", |()| Ok(host::now()));
    ctx.on_query("panics", |()| -> Result<()> { panic!("a query that panics") });
    ctx.on_query("large", |size: usize| Ok("x".repeat(size)));
    loop {
        let leg = ctx.wait_for_event::<String>("leg").await?;
        match leg.as_str() {
            "end" => return Ok(trip.borrow().touched.get()),
            "trap" => panic!("a leg that breaks"),
            "fail" => return Err(Error::new("no such leg")),
            _ => {}
        }
        let ticket = step(&ctx, "step.keep_text", &leg).await?;
        trip.borrow_mut().booked.push(ticket);
        ctx.set_tag("last", leg);
    }
}

dacapo_sdk::export_orchestrations!(waits_for_three, tries, backs_out, pays, tries_both, fails_late, trip);
