//! The time of activities, heartbeats and what cancels them: S13, S17, S21.

use std::sync::Arc;

use dacapo::core::event::Event;
use dacapo::core::payload::{Outcome, Payload};
use dacapo::engine::Task;
use serde_json::{Value, json};

use crate::harness::{Host, SECOND, World, failed, sweep, text};

fn world() -> World {
    World::with(&["steps", "tasks"])
}

fn timed_out(came: &Value) -> &str {
    assert_eq!(came["kind"], "timed-out", "{came}");
    came["error_type"].as_str().expect("which one")
}

// ---- which one expired ----

#[test]
fn s17_an_attempt_that_does_not_close_in_time_fails_and_the_next_one_has_its_own_time() {
    for restart in [false, true] {
        let world = world();
        world.desk.hold("step.slow");
        let mut host = world.open();
        let call = json!({ "start_to_close": 10 * SECOND, "attempts": 2, "first_interval": 5 * SECOND });
        host.start("order", "call_with", call).unwrap();
        assert_eq!(world.desk.next("step.slow").task.attempt, 1);
        world.clock.advance(10 * SECOND);
        host.wait_kind("order", "activity-attempt-failed", 1);
        host.settle("order");
        world.clock.advance(5 * SECOND);
        let second = world.desk.next("step.slow");
        assert_eq!(second.task.attempt, 2);
        if restart {
            drop(host);
            host = world.open();
            let again = world.desk.next("step.slow");
            assert_eq!(again.task.attempt, 2, "the same attempt, from its start");
        }
        world.clock.advance(10 * SECOND);
        assert_eq!(timed_out(&host.output("order")), "start-to-close");
        host.assert_sound("order");
    }
}

#[test]
fn s17_an_attempt_in_time_is_not_touched_by_its_timeout() {
    let world = world();
    world.desk.hold("step.slow");
    let host = world.open();
    host.start("order", "call_with", json!({ "start_to_close": 10_000, "schedule_to_close": 20_000 })).unwrap();
    let held = world.desk.next("step.slow");
    assert_eq!(held.task.deadline().unwrap(), held.task.scheduled_at.plus(10_000));
    world.clock.advance(9_999);
    held.go_on();
    assert_eq!(host.output("order")["to"], "slow(x)");
    world.clock.advance(60 * SECOND);
    assert_eq!(host.kinds("order").last(), Some(&"completed"));
    host.assert_sound("order");
}

#[test]
fn s17_all_attempts_together_have_a_bound_that_a_restart_does_not_move() {
    for restart in [false, true] {
        let world = world();
        world.desk.hold("step.slow");
        let mut host = world.open();
        host.start("order", "call_with", json!({ "schedule_to_close": 60 * SECOND, "attempts": 9 })).unwrap();
        world.desk.next("step.slow").answer(failed("Busy", "not now"));
        host.wait_kind("order", "activity-attempt-failed", 1);
        world.desk.next("step.slow");
        world.clock.advance(40 * SECOND);
        if restart {
            drop(host);
            host = world.open();
            world.desk.next("step.slow");
        }
        world.clock.advance(20 * SECOND);
        let came = host.output("order");
        assert_eq!(timed_out(&came), "schedule-to-close");
        assert!(came["message"].as_str().unwrap().contains("60000 ms"), "{came}");
        let end = host.records("order").pop().unwrap().at;
        assert_eq!(end, host.records("order")[0].at.plus(60 * SECOND));
        assert_eq!(host.count("order", "activity-attempt-failed"), 1);
        host.assert_sound("order");
    }
}

#[test]
fn s17_an_attempt_that_could_only_begin_too_late_is_not_waited_for() {
    let world = world();
    world.desk.script("step.slow", [failed("Busy", "not now")]);
    let host = world.open();
    let call = json!({ "schedule_to_close": 10 * SECOND, "attempts": 9, "first_interval": 10 * SECOND });
    let came = host.run("order", "call_with", call);
    assert_eq!(came["error_type"], "Busy", "the attempt's own failure: no timeout has expired");
    host.assert_sound("order");
}

#[test]
fn s17_what_nobody_starts_in_time_fails_for_good_and_names_its_queue() {
    for restart in [false, true] {
        let world = world();
        let mut host = world.open();
        let call = json!({
            "name": "printer.print", "queue": "printers", "schedule_to_start": 60 * SECOND, "attempts": 5
        });
        host.start("order", "call_with", call).unwrap();
        host.wait_kind("order", "activity-scheduled", 1);
        host.settle("order");
        world.clock.advance(40 * SECOND);
        if restart {
            drop(host);
            host = world.open();
            host.settle("order");
        }
        world.clock.advance(20 * SECOND);
        let came = host.output("order");
        assert_eq!(timed_out(&came), "schedule-to-start");
        assert!(came["message"].as_str().unwrap().contains("\"printers\""), "{came}");
        let end = host.records("order").pop().unwrap().at;
        assert_eq!(end, host.records("order")[0].at.plus(60 * SECOND), "a restart does not move it");
        host.assert_sound("order");
    }
}

#[test]
fn s17_a_host_that_opens_late_lets_workers_come_back_before_it_gives_up() {
    let world = world();
    let host = world.open();
    let call = json!({ "name": "printer.print", "schedule_to_start": 5 * SECOND });
    host.start("order", "call_with", call.clone()).unwrap();
    host.start("other", "call_with", call).unwrap();
    for instance in ["order", "other"] {
        host.wait_kind(instance, "activity-scheduled", 1);
        host.settle(instance);
    }
    drop(host);
    world.clock.advance(3600 * SECOND);
    let host = world.open();
    host.settle("order");
    host.settle("other");
    world.clock.advance(9_999);
    host.serve("printer.print", None);
    assert_eq!(host.output("order")["to"], "printer.print(x)", "it may have been running for an hour");
    assert_eq!(host.output("other")["to"], "printer.print(x)");
    host.assert_sound("order");
}

#[test]
fn s17_an_attempt_that_is_silent_for_too_long_fails_and_one_that_beats_lives() {
    let world = world();
    world.desk.hold("step.slow");
    let host = world.open();
    host.start("order", "call_with", json!({ "heartbeat": 10 * SECOND, "attempts": 2 })).unwrap();
    let first = world.desk.next("step.slow");
    for page in 1..=5 {
        world.clock.advance(9_999);
        assert_eq!(first.task.heartbeat(Payload::of(&page).ok()), Ok(false));
    }
    world.clock.advance(10 * SECOND);
    host.wait_kind("order", "activity-attempt-failed", 1);
    let second = world.desk.next("step.slow");
    assert_eq!(second.task.last_heartbeat.as_ref().map(ToString::to_string).as_deref(), Some("5"));
    assert_eq!(first.task.heartbeat(None), Ok(true), "nobody waits for the first one any more");
    second.go_on();
    assert_eq!(host.output("order")["to"], "slow(x)");
    let failure = host.events("order").into_iter().find_map(|event| match event {
        Event::ActivityAttemptFailed { failure, .. } => Some(failure),
        _ => None,
    });
    assert_eq!(failure.expect("it is recorded").error_type, "heartbeat");
    host.assert_sound("order");
}

#[test]
fn s17_options_that_make_no_sense_fail_the_call_and_say_why() {
    let world = world();
    let host = world.open();
    for (option, value) in [("start_to_close", json!(0)), ("queue", json!("")), ("key", json!("a\nb"))] {
        let came = host.run(option, "call_with", json!({ option: value }));
        assert_eq!(came["kind"], "unsupported", "{came}");
        assert!(came["message"].as_str().unwrap().contains("expected"), "{came}");
        host.assert_sound(option);
    }
    assert_eq!(world.desk.calls(), []);
}

// ---- progress ----

#[test]
fn s13_progress_is_recorded_with_the_failed_attempt_and_outlives_the_host() {
    for restart in [false, true] {
        let world = world();
        world.desk.hold("step.slow");
        let mut host = world.open();
        host.start("order", "call_with", json!({ "attempts": 3, "first_interval": 60 * SECOND })).unwrap();
        let first = world.desk.next("step.slow");
        first.task.heartbeat(Payload::of("page 7").ok()).unwrap();
        first.answer(failed("Busy", "not now"));
        host.wait_kind("order", "activity-attempt-failed", 1);
        host.settle("order");
        if restart {
            drop(host);
            host = world.open();
        }
        world.clock.advance(60 * SECOND);
        let second = world.desk.next("step.slow");
        assert_eq!(second.task.last_heartbeat.as_ref().map(ToString::to_string).as_deref(), Some("\"page 7\""));
        // One that reports nothing hands on what it was given.
        second.answer(failed("Busy", "not now"));
        host.wait_kind("order", "activity-attempt-failed", 2);
        host.settle("order");
        world.clock.advance(120 * SECOND);
        let third = world.desk.next("step.slow");
        assert_eq!(third.task.last_heartbeat.as_ref().map(ToString::to_string).as_deref(), Some("\"page 7\""));
        third.go_on();
        assert_eq!(host.output("order")["to"], "slow(x)");
        host.assert_sound("order");
    }
}

#[test]
fn s13_progress_of_the_attempt_that_dies_with_its_host_is_lost_and_no_attempt_is() {
    let world = world();
    world.desk.hold("step.slow");
    let host = world.open();
    host.start("order", "call_with", json!({ "attempts": 2 })).unwrap();
    world.desk.next("step.slow").task.heartbeat(Payload::of("page 7").ok()).unwrap();
    drop(host);
    let host = world.open();
    let again = world.desk.next("step.slow");
    assert_eq!((again.task.attempt, again.task.last_heartbeat.clone()), (1, None));
    again.go_on();
    assert_eq!(host.output("order")["to"], "slow(x)");
}

/// An activity that reports, and then lets its own time run out, once.
fn stalls_once(host: &Host<'_>) {
    let clock = host.clock();
    let handler = move |task: Arc<Task>| -> futures::future::BoxFuture<'static, Outcome> {
        let clock = clock.clone();
        Box::pin(async move {
            if let Some(progress) = &task.last_heartbeat {
                return text(&format!("after {progress}"));
            }
            task.heartbeat(Payload::of("half").ok())?;
            clock.advance(SECOND);
            futures::future::pending().await
        })
    };
    host.engine().serve_activity("test.stalls", None, Arc::new(handler));
}

#[test]
fn s17_a_timeout_and_its_progress_survive_a_death_at_every_commit() {
    let commits = sweep(
        world,
        |host| {
            stalls_once(host);
            host.start(
                "order",
                "call_with",
                json!({ "name": "test.stalls", "start_to_close": SECOND, "attempts": 2 }),
            )?;
            host.outcome("order").map(drop)
        },
        |_, host, death| {
            assert_eq!(host.output("order")["to"], "after \"half\"", "{death:?}");
            assert_eq!(host.count("order", "activity-attempt-failed"), 1, "{death:?}");
            host.assert_sound("order");
        },
    );
    assert!(commits >= 3, "start, failed attempt, end");
}

// ---- cancellation ----

#[test]
fn s21_a_running_activity_learns_at_its_next_heartbeat_that_nobody_waits() {
    let world = world();
    world.desk.hold("step.slow");
    let host = world.open();
    host.start("order", "call_until", json!({})).unwrap();
    let held = world.desk.next("step.slow");
    assert_eq!(held.task.heartbeat(None), Ok(false));
    host.raise("order", "enough", Value::Null).unwrap();
    assert_eq!(host.output("order"), "enough");
    assert_eq!(held.task.heartbeat(None), Ok(true));
    host.assert_sound("order");
}

#[test]
fn s21_a_running_activity_learns_that_its_instance_was_ended() {
    let world = world();
    world.desk.hold("step.slow");
    let host = world.open();
    host.start("order", "call_until", json!({})).unwrap();
    let held = world.desk.next("step.slow");
    host.block_on(host.engine().terminate(&crate::harness::id("order"), "enough")).unwrap();
    host.outcome("order").unwrap().unwrap_err();
    assert_eq!(held.task.heartbeat(None), Ok(true));
}

// ---- the same in wasm ----

#[test]
fn s13_a_wasm_activity_goes_on_from_its_last_heartbeat() {
    let world = World::with(&["tasks", "beats"]);
    let host = world.open();
    let came = host.run("order", "call_with", json!({ "name": "beat.count", "attempts": 2 }));
    assert_eq!(came["to"], "x from 3, attempt 2", "{came}");
    host.assert_sound("order");
}

#[test]
fn s21_a_wasm_activity_that_is_cancelled_stops_and_gives_its_slot_back() {
    let mut world = World::with(&["tasks", "beats"]);
    world.settings.activity_concurrency = 1;
    let host = world.open();
    host.start("order", "call_until", json!({ "name": "beat.until_cancelled" })).unwrap();
    host.wait_kind("order", "activity-scheduled", 1);
    host.raise("order", "enough", Value::Null).unwrap();
    assert_eq!(host.output("order"), "enough");
    let came = host.run("after", "call_with", json!({ "name": "beat.count", "attempts": 2 }));
    assert_eq!(came["to"], "x from 3, attempt 2", "there is a slot for it");
}

#[test]
fn s17_a_wasm_activity_that_goes_on_for_ever_is_given_up() {
    let mut world = World::with(&["steps", "tasks", "beats"]);
    world.settings.activity_concurrency = 1;
    let host = world.open();
    host.start("order", "call_with", json!({ "name": "beat.until_cancelled", "start_to_close": SECOND })).unwrap();
    host.wait_kind("order", "activity-scheduled", 1);
    host.settle("order");
    world.clock.advance(SECOND);
    assert_eq!(timed_out(&host.output("order")), "start-to-close");
    host.run("after", "call_with", json!({ "name": "beat.count", "attempts": 2 }));
    host.assert_sound("order");
}

#[test]
fn s39_progress_over_the_limit_fails_the_attempt_and_says_so() {
    let world = World::with(&["tasks", "beats"]);
    let host = world.open();
    let came = host.run("order", "call_with", json!({ "name": "beat.chatter" }));
    assert!(came["message"].as_str().unwrap().contains("the heartbeat of beat.chatter has"), "{came}");
    host.assert_sound("order");
}
