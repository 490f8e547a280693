//! How orchestrations end, and what they answer meanwhile.

use super::*;
use crate::{Error, Result, RetryPolicy, Saga};

orchestrations! {
    leftovers => async |ctx: Context, (): ()| -> Result<()> {
        ctx.spawn({
            let ctx = ctx.clone();
            async move { ctx.call_activity::<()>("a.forgotten", &()).await }
        });
        ctx.call_activity::<()>("a.b", &()).await
    };
    aborting => async |ctx: Context, (): ()| -> Result<()> {
        let task = ctx.spawn({
            let ctx = ctx.clone();
            async move { ctx.call_activity::<()>("a.aborted", &()).await }
        });
        ctx.call_activity::<()>("a.b", &()).await?;
        task.abort();
        ctx.call_activity::<()>("a.c", &()).await
    };
    counting => async |ctx: Context, n: u32| -> Result<u32> {
        if n < 3 {
            return ctx.continue_as_new(n + 1);
        }
        Ok(n)
    };
    trip => async |ctx: Context, (): ()| -> Result<()> {
        let mut saga = Saga::new();
        for step in ["hotel", "car", "train"] {
            ctx.call_activity::<()>(format!("{step}.book"), &()).await?;
            let ctx = ctx.clone();
            saga.add(step, move || {
                ctx.call_activity::<()>(format!("{step}.cancel"), &()).retry(RetryPolicy::attempts(5))
            });
        }
        let flight = ctx.call_activity::<()>("flight.book", &()).await;
        if let Err(error) = flight {
            return Err(error.with_details(&saga.compensate().await));
        }
        Ok(())
    };
    asking => async |ctx: Context, (): ()| -> Result<()> {
        ctx.on_query("double", |n: u32| Ok(n * 2));
        ctx.call_activity::<()>("a.b", &()).await
    };
    failing => async |_: Context, (): ()| -> Result<()> {
        Err(Error::new("out of cards").with_type("CardDeclined"))
    };
}

#[test]
fn nothing_is_cancelled_after_the_outcome() {
    let host = Script::install();
    assert_eq!(start::<leftovers>("null"), "suspended");
    assert_eq!(host.asked(), ["1: call a.b null x1", "2: call a.forgotten null x1"]);
    assert_eq!(complete(&[(1, "null")]), "completed null");
    assert!(host.asked().is_empty());
}

#[test]
fn s21_an_aborted_task_cancels_what_it_waits_for() {
    let host = Script::install();
    start::<aborting>("null");
    host.asked();
    assert_eq!(complete(&[(1, "null")]), "suspended");
    assert_eq!(host.asked(), ["cancel 2", "3: call a.c null x1"]);
}

#[test]
fn s26_continue_as_new_is_how_an_execution_ends() {
    Script::install();
    assert_eq!(start::<counting>("1"), "continue as new 2");
}

#[test]
fn s18_compensations_run_in_reverse_and_one_that_fails_stops_none() {
    let host = Script::install();
    start::<trip>("null");
    for operation in 1..=3 {
        complete(&[(operation, "null")]);
    }
    host.asked();
    assert_eq!(fail(4), "suspended");
    assert_eq!(host.asked(), ["5: call train.cancel null x5"]);
    assert_eq!(complete(&[(5, "null")]), "suspended");
    assert_eq!(host.asked(), ["6: call car.cancel null x5"]);
    assert_eq!(fail(6), "suspended");
    assert_eq!(host.asked(), ["7: call hotel.cancel null x5"]);
    assert_eq!(
        complete(&[(7, "null")]),
        "failed no {\"undone\":[\"train\",\"hotel\"],\"failed\":[{\"step\":\"car\",\
         \"kind\":\"application\",\"error_type\":\"Declined\",\"message\":\"no\"}]}"
    );
}

#[test]
fn s32_queries_read_live_state() {
    Script::install();
    start::<asking>("null");
    let answer = guest::query("double", json("21")).unwrap();
    assert_eq!(answer.data, b"42");
    let unknown = guest::query("triple", json("21")).unwrap_err();
    assert_eq!(unknown.message, "no query \"triple\"; now there are: double");
}

#[test]
fn s41_an_unknown_orchestration_is_told_what_there_is() {
    Script::install();
    let module = [Exported::of::<counting>(), Exported::of::<failing>()];
    let progress = guest::start(&module, &[], "countin", json("1"));
    assert_eq!(show(progress), "failed no orchestration \"countin\" in this module; it offers counting, failing");
}

#[test]
fn bad_input_names_the_type_and_what_is_wrong() {
    Script::install();
    assert_eq!(
        start::<counting>("\"three\""),
        "failed input of counting: expected u32, invalid type: string \"three\", \
         expected u32 at line 1 column 7"
    );
}

#[test]
fn a_failure_keeps_its_name() {
    Script::install();
    let Progress::Failed(failure) = guest::start(&[Exported::of::<failing>()], &[], "failing", json("null")) else {
        panic!("expected a failure");
    };
    assert_eq!((failure.error_type.as_str(), failure.non_retryable), ("CardDeclined", false));
}
