//! The order in which things are asked for, and that only what was woken runs.

use std::future::Future;
use std::pin::Pin;
use std::task::{Context as TaskContext, Poll};
use std::time::Duration;

use futures::future::{join, join_all};
use futures::select_biased;

use super::*;
use crate::Result;

thread_local! {
    static POLLS: Cell<u32> = const { Cell::new(0) };
}

/// Counts how often what is in it is polled.
struct Counted<F>(F);

impl<F: Future + Unpin> Future for Counted<F> {
    type Output = F::Output;
    fn poll(mut self: Pin<&mut Self>, cx: &mut TaskContext<'_>) -> Poll<F::Output> {
        POLLS.set(POLLS.get() + 1);
        Pin::new(&mut self.0).poll(cx)
    }
}

orchestrations! {
    two_in_order => async |ctx: Context, (): ()| -> Result<u32> {
        let first = ctx.call_activity::<u32>("a.one", &1).start();
        let second = ctx.call_activity::<u32>("a.two", &2).start();
        Ok(first.await? + second.await?)
    };
    wide => async |ctx: Context, width: u32| -> Result<u32> {
        let calls = (0..width).map(|n| Counted(ctx.call_activity::<u32>("a.b", &n)));
        let results: Result<Vec<u32>> = join_all(calls).await.into_iter().collect();
        Ok(results?.iter().sum())
    };
    race => async |ctx: Context, (): ()| -> Result<String> {
        Ok(select_biased! {
            name = ctx.wait_for_event::<String>("approved") => name?,
            () = ctx.delay(Duration::from_secs(60)) => "nobody".to_owned(),
        })
    };
    lazy => async |ctx: Context, (): ()| -> Result<()> {
        let never_awaited = ctx.call_activity::<()>("a.never", &());
        ctx.delay(Duration::ZERO).await;
        ctx.delay_until(crate::Timestamp::from_unix_ms(400)).await;
        ctx.delay(Duration::from_micros(1500)).await;
        drop(never_awaited);
        Ok(())
    };
    tasks => async |ctx: Context, (): ()| -> Result<(u32, u32)> {
        let other = ctx.spawn({
            let ctx = ctx.clone();
            async move { ctx.call_activity::<u32>("a.spawned", &()).await }
        });
        let (mine, theirs) = join(ctx.call_activity::<u32>("a.mine", &()), other).await;
        Ok((mine?, theirs?))
    };
    watched => async |ctx: Context, (): ()| -> Result<String> {
        select_biased! {
            reason = ctx.cancelled() => Ok(reason),
            result = ctx.call_activity::<String>("a.b", &()) => result,
        }
    };
}

#[test]
fn s09_awaiting_in_order_what_finishes_in_the_other_order() {
    let host = Script::install();
    assert_eq!(start::<two_in_order>("null"), "suspended");
    assert_eq!(host.asked(), ["1: call a.one 1 x1", "2: call a.two 2 x1"]);
    assert_eq!(complete(&[(2, "20")]), "suspended");
    assert_eq!(complete(&[(1, "1")]), "completed 21");
    assert!(host.asked().is_empty());
}

#[test]
fn s20_a_wide_join_polls_only_what_was_woken() {
    let host = Script::install();
    let width: u32 = 10_000;
    assert_eq!(start::<wide>("10000"), "suspended");
    assert_eq!(host.asked().len(), 10_000);
    assert_eq!(POLLS.replace(0), width);
    for operation in 1..width {
        assert_eq!(complete(&[(operation, "1")]), "suspended");
    }
    assert_eq!(complete(&[(width, "1")]), "completed 10000");
    assert_eq!(POLLS.get(), width);
}

#[test]
fn s21_the_loser_of_a_race_is_cancelled() {
    let host = Script::install();
    assert_eq!(start::<race>("null"), "suspended");
    assert_eq!(host.asked(), ["1: wait for approved", "2: delay 60000"]);
    assert_eq!(complete(&[(1, "\"ada\"")]), "completed \"ada\"");
    assert_eq!(host.asked(), ["received 1", "cancel 2"]);
}

#[test]
fn s20_of_two_that_are_ready_the_first_one_asked_wins() {
    let host = Script::install();
    start::<race>("null");
    host.asked();
    assert_eq!(complete(&[(2, ""), (1, "\"ada\"")]), "completed \"ada\"");
    // The host decides what it means to cancel what has completed.
    assert_eq!(host.asked(), ["received 1", "cancel 2"]);
}

#[test]
fn s11_calls_are_lazy_and_a_delay_of_nothing_records_nothing() {
    let host = Script::install();
    assert_eq!(start::<lazy>("null"), "suspended");
    assert_eq!(host.asked(), ["now", "1: delay 2"]);
    assert_eq!(complete(&[(1, "")]), "completed null");
    assert!(host.asked().is_empty());
}

#[test]
fn tasks_run_first_in_first_out() {
    let host = Script::install();
    assert_eq!(start::<tasks>("null"), "suspended");
    assert_eq!(host.asked(), ["1: call a.mine null x1", "2: call a.spawned null x1"]);
    assert_eq!(complete(&[(2, "2"), (1, "1")]), "completed [1,2]");
}

#[test]
fn s19_late_double_and_unknown_completions_change_nothing() {
    let host = Script::install();
    start::<two_in_order>("null");
    host.asked();
    assert_eq!(complete(&[(7, "7"), (2, "20"), (2, "99")]), "suspended");
    assert_eq!(complete(&[(1, "1")]), "completed 21");
}

#[test]
fn s24_a_request_to_cancel_wakes_who_waits_for_it() {
    let host = Script::install();
    assert_eq!(start::<watched>("null"), "suspended");
    let request = Delivery::CancelRequested("closing".to_owned());
    assert_eq!(show(guest::resume(vec![request])), "completed \"closing\"");
    assert_eq!(host.asked(), ["1: call a.b null x1", "cancel 1"]);
}
