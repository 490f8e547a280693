//! Instances as a whole: replaced (S22), cancelled with cleanup (S24), suspended
//! and resumed (S25).

use dacapo::core::event::Event;
use dacapo::core::payload::FailureKind;
use dacapo::core::summary::Status;
use dacapo::engine::{Clock as _, EngineError, IdReuse, StartOutcome, StartRequest};
use dacapo::store::Filter;
use serde_json::{Value, json};

use crate::harness::{DAY, Host, SECOND, World, failed, id, start, sweep, text};

fn world() -> World {
    World::with(&["steps", "life"])
}

fn suspend(host: &Host<'_>, instance: &str) -> Result<(), EngineError> {
    host.block_on(host.engine().suspend(&id(instance), "to look at it"))
}

fn resume(host: &Host<'_>, instance: &str) -> Result<(), EngineError> {
    host.block_on(host.engine().resume(&id(instance), "seen"))
}

fn status(host: &Host<'_>, instance: &str) -> Status {
    host.engine().summary(&id(instance)).unwrap().expect("its row").status
}

// ---- S22: the id is taken ----

fn replacing(instance: &str, input: &str, reuse: IdReuse) -> StartRequest {
    StartRequest { reuse, ..start(instance, "two_calls", json!(input)) }
}

fn input_of(host: &Host<'_>, execution: u32) -> String {
    host.records_of("order", Some(execution))[0].events[0].summary(99)
}

#[test]
fn s22_replace_finished_begins_the_next_life_and_keeps_the_old_one() {
    for restart in [false, true] {
        let world = world();
        let mut host = world.open();
        host.run("order", "two_calls", json!("beer"));
        if restart {
            drop(host);
            host = world.open();
        }
        world.clock.advance(DAY);
        let begun = host.try_start(replacing("order", "wine", IdReuse::ReplaceFinished)).unwrap();
        assert_eq!(begun, StartOutcome::Started);
        assert!(host.output("order").as_str().unwrap().starts_with("two(wine"));
        let row = host.engine().summary(&id("order")).unwrap().unwrap();
        assert_eq!((row.execution, row.created_at), (2, world.clock.now()));
        assert_eq!(input_of(&host, 1), r#"two_calls started with "beer""#, "the old life can be read");
        assert_eq!(input_of(&host, 2), r#"two_calls started with "wine""#);
        let keys: Vec<_> = world.desk.calls().into_iter().map(|call| call.key).collect();
        assert_eq!(keys, ["order/1/1", "order/1/2", "order/2/1", "order/2/2"], "no key comes back");
        host.assert_sound("order");
    }
}

#[test]
fn s22_replace_finished_refuses_while_it_runs_or_is_suspended() {
    let world = world();
    world.desk.hold("step.one");
    let host = world.open();
    host.start("order", "two_calls", json!("beer")).unwrap();
    let error = host.try_start(replacing("order", "wine", IdReuse::ReplaceFinished)).unwrap_err();
    assert_eq!(error.code(), "already-exists");
    suspend(&host, "order").unwrap();
    let error = host.try_start(replacing("order", "wine", IdReuse::ReplaceFinished)).unwrap_err();
    assert!(error.to_string().contains("suspended"), "{error}");
}

#[test]
fn s22_terminate_and_replace_ends_one_life_and_begins_the_next_in_one_commit() {
    for restart in [false, true] {
        let world = world();
        world.desk.hold("step.one");
        let mut host = world.open();
        host.start("order", "two_calls", json!("beer")).unwrap();
        let old = world.desk.next("step.one");
        if restart {
            drop(host);
            host = world.open();
            world.desk.next("step.one");
        }
        host.try_start(replacing("order", "wine", IdReuse::TerminateAndReplace)).unwrap();
        assert_eq!(host.records_of("order", Some(1)).last().unwrap().events.last().unwrap().kind(), "terminated");
        let new = world.desk.next("step.one");
        assert_eq!((new.task.execution, old.task.execution), (2, 1));
        // A result for the old life is nobody's.
        old.answer(text("late"));
        host.settle("order");
        assert_eq!(host.count("order", "activity-completed"), 0);
        new.go_on();
        assert!(host.output("order").as_str().unwrap().starts_with("two(wine after one(wine)"));
        assert_eq!(host.engine().list(&Filter::default(), None, 10).unwrap().len(), 1);
        host.assert_sound("order");
    }
}

#[test]
fn s22_whoever_waits_for_a_life_that_is_replaced_hears_that_it_was_terminated() {
    let world = world();
    world.desk.hold("step.one");
    let host = world.open();
    host.start("order", "two_calls", json!("beer")).unwrap();
    world.desk.next("step.one");
    let of = id("order");
    let (outcome, _) = host.block_on(async {
        let watch = host.engine().outcome(&of);
        let replace = async {
            tokio::task::yield_now().await;
            host.engine().start(replacing("order", "wine", IdReuse::TerminateAndReplace)).await
        };
        futures::future::join(watch, replace).await
    });
    let failure = outcome.unwrap().unwrap_err();
    assert_eq!((failure.kind, failure.message.as_str()), (FailureKind::Terminated, "replaced by a new start"));
    world.desk.next("step.one").go_on();
    host.output("order");
}

#[test]
fn s22_a_replacement_survives_a_death_at_every_commit() {
    for reuse in [IdReuse::ReplaceFinished, IdReuse::TerminateAndReplace] {
        sweep(
            world,
            |host| {
                host.start("order", "two_calls", json!("beer"))?;
                if reuse == IdReuse::ReplaceFinished {
                    host.outcome("order")?.expect("it completes");
                }
                // One that was acknowledged is not asked for again.
                if host.engine().summary(&id("order"))?.expect("its row").execution == 1 {
                    host.try_start(replacing("order", "wine", reuse))?;
                }
                host.outcome("order").map(drop)
            },
            |_, host, death| {
                assert!(host.output("order").as_str().unwrap().starts_with("two(wine"), "{death:?}");
                let last = host.records_of("order", Some(1)).pop().unwrap().events.pop().unwrap();
                assert!(matches!(last, Event::Completed { .. } | Event::Terminated { .. }), "{death:?}: {last:?}");
                assert_eq!(host.engine().summary(&id("order")).unwrap().unwrap().execution, 2);
                host.assert_sound("order");
            },
        );
    }
}

// ---- S24: cancel with cleanup ----

#[test]
fn s24_after_a_cancel_request_the_guest_undoes_its_steps_with_activities_retries_and_timers() {
    for restart in [false, true] {
        let world = world();
        world.desk.script("step.undo", [failed("Busy", "not now")]);
        let mut host = world.open();
        host.start("order", "backs_out", Value::Null).unwrap();
        host.wait_kind("order", "timer-scheduled", 1);
        let again = |host: Host<'_>| {
            drop(host);
            world.open()
        };
        if restart {
            host = again(host);
        }
        host.block_on(host.engine().cancel(&id("order"), "closing time")).unwrap();
        for timers in 2..=3 {
            host.wait_kind("order", "timer-scheduled", timers);
            host.settle("order");
            if restart {
                host = again(host);
            }
            world.clock.advance(500);
            if timers == 2 {
                host.wait_kind("order", "activity-attempt-failed", 1);
                host.settle("order");
                if restart {
                    host = again(host);
                }
                world.clock.advance(100);
            }
        }
        let failure = host.failure("order");
        assert_eq!(failure.message, "backed out: closing time");
        let details = failure.details.unwrap().to_json().unwrap();
        assert_eq!(details["undone"], json!(["two", "one"]));
        let undone: Vec<_> = world.desk.calls_of("step.undo").into_iter().map(|call| call.input).collect();
        assert_eq!(undone, [r#""two""#, r#""two""#, r#""one""#]);
        assert_eq!(host.count("order", "cancel-requested"), 1);
        host.assert_sound("order");
    }
}

#[test]
fn s24_a_cancelled_saga_survives_a_death_at_every_commit() {
    sweep(
        world,
        |host| {
            host.start("order", "backs_out", Value::Null)?;
            let row = host.engine().summary(&id("order"))?.expect("its row");
            if row.status.is_final() {
                return Ok(());
            }
            let asked = host.kinds("order").contains(&"cancel-requested");
            if !asked {
                host.block_on(host.engine().cancel(&id("order"), "enough"))?;
            }
            host.advance_to_end("order", 500)
        },
        |world, host, death| {
            assert_eq!(host.failure("order").message, "backed out: enough", "{death:?}");
            let keys: std::collections::BTreeSet<_> =
                world.desk.calls_of("step.undo").into_iter().map(|call| call.key).collect();
            assert!(keys.len() <= 2, "{death:?}: each step is undone under one key");
            host.assert_sound("order");
        },
    );
}

// ---- S25: suspend and resume ----

#[test]
fn s25_while_suspended_what_comes_in_is_kept_and_nothing_runs() {
    for restart in [false, true] {
        let world = world();
        world.desk.hold("step.slow");
        let mut host = world.open();
        host.start("order", "waits_for_three", Value::Null).unwrap();
        let mut slow = world.desk.next("step.slow");
        host.wait_kind("order", "timer-scheduled", 1);
        suspend(&host, "order").unwrap();
        assert_eq!(status(&host, "order"), Status::Suspended);
        suspend(&host, "order").unwrap();
        assert_eq!(host.count("order", "suspended"), 1, "it is suspended already");
        if restart {
            drop(host);
            host = world.open();
            host.settle("order");
            assert_eq!(world.desk.calls_of("step.slow").len(), 1, "what was under way is not begun again");
        } else {
            slow.answer(text("done"));
            host.wait_kind("order", "activity-completed", 1);
        }
        host.raise("order", "item", json!("an item")).unwrap();
        world.clock.advance(SECOND);
        host.wait_kind("order", "timer-fired", 1);
        host.settle("order");
        if restart {
            drop(host);
            host = world.open();
            host.settle("order");
        }
        let records = host.records("order");
        assert!(records[2..].iter().all(|turn| !turn.ran), "the guest did not run");
        assert_eq!(status(&host, "order"), Status::Suspended);
        let filter = Filter { status: Some(Status::Suspended), ..Filter::default() };
        assert_eq!(host.engine().list(&filter, None, 10).unwrap().len(), 1);
        let view = dacapo::engine::view::instance(&**host.engine().store(), &id("order"), |_| None).unwrap();
        assert_eq!(view.row.status, Status::Suspended);

        resume(&host, "order").unwrap();
        if restart {
            slow = world.desk.next("step.slow");
            assert_eq!(slow.task.idempotency_key(), "order/1/1");
            slow.answer(text("done"));
        }
        assert_eq!(host.output("order"), json!(["an item", "done", "two(after)"]));
        assert_eq!(host.count("order", "resumed"), 1);
        let error = suspend(&host, "order").unwrap_err();
        assert!(error.to_string().contains("the suspension was not taken"), "{error}");
        host.assert_sound("order");
    }
}

#[test]
fn s25_no_attempt_begins_while_suspended_and_the_ones_left_follow() {
    for restart in [false, true] {
        let world = world();
        world.desk.script("step.flaky", [failed("Busy", "1"), failed("Busy", "2"), text("at last")]);
        let mut host = world.open();
        host.start("order", "tries", Value::Null).unwrap();
        host.wait_kind("order", "activity-attempt-failed", 1);
        host.settle("order");
        suspend(&host, "order").unwrap();
        for _ in 0..3 {
            world.clock.advance(10 * SECOND);
            host.settle("order");
            if restart {
                drop(host);
                host = world.open();
            }
        }
        assert_eq!(world.desk.calls_of("step.flaky").len(), 1);
        resume(&host, "order").unwrap();
        host.wait_kind("order", "activity-attempt-failed", 2);
        host.settle("order");
        world.clock.advance(SECOND);
        assert_eq!(host.output("order"), json!("at last"));
        let attempts: Vec<_> = world.desk.calls_of("step.flaky").into_iter().map(|call| call.attempt).collect();
        assert_eq!(attempts, [1, 2, 3]);
        host.assert_sound("order");
    }
}

#[test]
fn s25_a_suspended_instance_can_be_cancelled_and_terminated() {
    for restart in [false, true] {
        let world = world();
        let mut host = world.open();
        for instance in ["a", "b"] {
            host.start(instance, "obeys", Value::Null).unwrap();
            host.wait_kind(instance, "timer-scheduled", 1);
            suspend(&host, instance).unwrap();
        }
        if restart {
            drop(host);
            host = world.open();
        }
        host.block_on(host.engine().terminate(&id("a"), "enough")).unwrap();
        assert_eq!(host.failure("a").kind, FailureKind::Terminated);
        host.block_on(host.engine().cancel(&id("b"), "closing time")).unwrap();
        host.settle("b");
        assert_eq!(status(&host, "b"), Status::Suspended, "the request is kept");
        resume(&host, "b").unwrap();
        assert_eq!(host.failure("b").message, "ended as asked: closing time");
        host.assert_sound("a");
        host.assert_sound("b");
    }
}

#[test]
fn s25_suspended_before_its_first_turn_it_begins_when_it_is_resumed() {
    let world = world();
    let host = world.open();
    let (_, suspended) = host.block_on(async {
        let of = id("order");
        let start = host.engine().start(start("order", "two_calls", json!("beer")));
        futures::future::join(start, host.engine().suspend(&of, "at once")).await
    });
    if suspended.is_err() {
        // The start came second, or it had ended.
        return;
    }
    drop(host);
    let host = world.open();
    host.settle("order");
    if !status(&host, "order").is_final() {
        resume(&host, "order").unwrap();
    }
    host.output("order");
    host.assert_sound("order");
}

#[test]
fn s25_suspension_survives_a_death_at_every_commit() {
    sweep(
        world,
        |host| {
            host.start("order", "waits_for_three", Value::Null)?;
            let told = |host: &Host<'_>, kind: &str| host.count("order", kind) > 0;
            if !told(host, "suspended") && !told(host, "completed") {
                suspend(host, "order")?;
            }
            if !told(host, "event-raised") {
                host.raise("order", "item", json!("an item"))?;
            }
            if !told(host, "resumed") {
                assert_ne!(status(host, "order"), Status::Completed);
                resume(host, "order")?;
            }
            host.advance_to_end("order", SECOND)
        },
        |_, host, death| {
            assert_eq!(host.output("order"), json!(["an item", "slow(slow)", "two(after)"]), "{death:?}");
            assert_eq!((host.count("order", "suspended"), host.count("order", "resumed")), (1, 1), "{death:?}");
            host.assert_sound("order");
        },
    );
}
