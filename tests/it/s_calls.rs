//! Calls and combinators: S18 to S21.

use std::collections::BTreeSet;

use dacapo::core::event::Event;
use dacapo::core::payload::{Failure, FailureKind};
use dacapo::engine::view;
use serde_json::{Value, json};

use crate::harness::{Death, Host, SECOND, World, failed, id, sweep};

// ---- sagas ----

fn undone(failure: &Failure) -> Value {
    failure.details.as_ref().and_then(dacapo::core::payload::Payload::to_json).expect("details of the saga")
}

#[test]
fn s18_a_failed_step_runs_compensations_in_reverse_order_and_says_what_was_undone() {
    let world = World::new();
    let host = world.open();
    host.start("trip", "undoes", Value::Null).unwrap();
    let failure = host.failure("trip");
    assert_eq!((failure.error_type.as_str(), failure.message.as_str()), ("NoSeat", "there is no seat left"));
    assert_eq!(undone(&failure), json!({ "undone": ["two", "one"], "failed": [] }));
    let inputs: Vec<String> = world.desk.calls_of("step.undo").into_iter().map(|call| call.input).collect();
    assert_eq!(inputs, [r#""two""#, r#""one""#]);
    host.assert_sound("trip");
}

#[test]
fn s18_a_compensation_is_retried_by_its_own_policy_and_one_that_fails_stops_no_other() {
    let world = World::new();
    let host = world.open();
    let stuck = || failed("Stuck", "the desk is closed");
    world.desk.script("step.undo", [stuck(), stuck(), stuck(), stuck()]);
    host.start("trip", "undoes", Value::Null).unwrap();
    // Three attempts for two; the second one for one succeeds.
    for number in 1..=3 {
        host.wait_kind("trip", "activity-attempt-failed", number);
        host.settle("trip");
        world.clock.advance(60 * SECOND);
    }
    let failure = host.failure("trip");
    assert_eq!(undone(&failure)["undone"], json!(["one"]));
    assert_eq!(undone(&failure)["failed"][0]["step"], "two");
    assert_eq!(undone(&failure)["failed"][0]["error_type"], "Stuck");
    assert_eq!(world.desk.calls_of("step.undo").len(), 5);
    host.assert_sound("trip");
}

#[test]
fn s18_compensations_survive_a_death_at_every_commit() {
    sweep(
        World::new,
        |host| {
            host.start("trip", "undoes", Value::Null)?;
            host.outcome("trip").map(drop)
        },
        |world, host, death: Option<Death>| {
            assert_eq!(undone(&host.failure("trip"))["undone"], json!(["two", "one"]), "{death:?}");
            let mut order: Vec<String> = world.desk.calls_of("step.undo").into_iter().map(|call| call.input).collect();
            order.dedup();
            assert_eq!(order, [r#""two""#, r#""one""#], "{death:?}");
            host.assert_sound("trip");
        },
    );
}

// ---- late, duplicate, unknown ----

/// A world where one activity runs at a time: when the next one is called, the
/// outcome of the one before has been handed over.
fn one_at_a_time() -> World {
    let mut world = World::new();
    world.settings.activity_concurrency = 1;
    world
}

#[test]
fn s19_the_result_of_a_cancelled_activity_is_a_no_op() {
    let world = one_at_a_time();
    world.desk.hold("step.slow");
    let host = world.open();
    host.start("order", "lets_go", Value::Null).unwrap();
    let slow = world.desk.next("step.slow");
    host.raise("order", "let go", Value::Null).unwrap();
    host.wait_kind("order", "operation-cancelled", 3);
    let before = host.records("order");
    slow.go_on();
    host.run("after", "calls", json!("step.one"));
    host.settle("order");
    assert_eq!(host.records("order"), before, "nothing is recorded of it");
    host.raise("order", "end", json!("done")).unwrap();
    assert_eq!(host.output("order"), json!("done"));
    assert_eq!(host.count("order", "activity-completed"), 0);
    host.assert_sound("order");
}

#[test]
fn s19_the_result_for_an_instance_that_has_ended_is_a_no_op() {
    let world = one_at_a_time();
    world.desk.hold("step.one");
    let host = world.open();
    host.start("order", "two_calls", json!("beer")).unwrap();
    let one = world.desk.next("step.one");
    host.block_on(host.engine().terminate(&id("order"), "no beer today")).unwrap();
    let before = host.records("order");
    one.go_on();
    world.desk.release("step.one");
    host.run("after", "calls", json!("step.keep_text"));
    host.settle("order");
    assert_eq!(host.records("order"), before);
    assert_eq!(host.failure("order").kind, FailureKind::Terminated);
    host.assert_sound("order");
}

#[test]
fn s19_outcomes_that_nobody_waits_for_give_no_event() {
    let world = World::new();
    world.desk.hold("step.two");
    world.desk.hold("step.one");
    let host = world.open();
    host.start("order", "in_order", Value::Null).unwrap();
    world.desk.next("step.two").go_on();
    host.wait_kind("order", "activity-completed", 1);
    let records = host.records("order");
    let mut recorder = dacapo::core::turn::Recorder::of_history(&records[0], Default::default()).unwrap();
    records.iter().for_each(|record| recorder.absorb(record).unwrap());
    let ask = |operation, attempt| {
        let answer = Ok(dacapo::core::payload::Payload::null());
        recorder.execution.activity_outcome(operation, attempt, answer, None, None, recorder.turn_time())
    };
    assert_eq!(ask(2, 1), None, "a duplicate");
    assert_eq!(ask(1, 2), None, "an attempt that was never begun");
    assert_eq!(ask(99, 1), None, "an operation that is not known");
    assert!(matches!(ask(1, 1), Some(Event::ActivityCompleted { operation: 1, .. })));
}

// ---- combinators ----

#[test]
fn s20_join_gives_both_whatever_the_order() {
    for first in ["step.one", "step.two"] {
        for restart in [false, true] {
            let world = World::new();
            world.desk.hold("step.one");
            world.desk.hold("step.two");
            let mut host = world.open();
            host.start("join", "joins", Value::Null).unwrap();
            world.desk.next("step.one");
            world.desk.next("step.two");
            drop(host);
            host = world.open();
            let (one, two) = (world.desk.next("step.one"), world.desk.next("step.two"));
            let (early, late) = if first == "step.one" { (one, two) } else { (two, one) };
            early.go_on();
            host.wait_kind("join", "activity-completed", 1);
            if restart {
                drop(host);
                host = world.open();
                world.desk.next(&late.task.name).go_on();
            } else {
                late.go_on();
            }
            assert_eq!(host.output("join"), json!(["one(a)", "two(b)"]));
            host.assert_sound("join");
        }
    }
}

#[test]
fn s20_join_all_of_a_thousand() {
    let world = World::new();
    let host = world.open();
    let sum: u64 = (0..1000).map(|n| n * n).sum();
    assert_eq!(host.run("fan", "fans_out", json!(1000)), json!(sum));
    assert_eq!(host.count("fan", "activity-scheduled"), 1000);
    let keys: BTreeSet<String> = world.desk.calls().into_iter().map(|call| call.key).collect();
    assert_eq!(keys.len(), 1000);
    assert_eq!(world.desk.calls().len(), 1000);
    host.assert_sound("fan");
}

#[test]
fn s20_join_all_of_a_thousand_goes_on_where_it_was() {
    let world = World::new();
    world.desk.hold("step.square");
    let host = world.open();
    host.start("fan", "fans_out", json!(300)).unwrap();
    for _ in 0..100 {
        world.desk.next("step.square").go_on();
    }
    host.wait_kind("fan", "activity-completed", 100);
    drop(host);
    let called = world.desk.calls().len();
    world.desk.release("step.square");
    let host = world.open();
    let sum: u64 = (0..300).map(|n| n * n).sum();
    assert_eq!(host.output("fan"), json!(sum));
    assert_eq!(world.desk.calls().len() - called, 200, "only what had no durable result runs again");
    host.assert_sound("fan");
}

#[test]
fn s20_a_race_with_a_timer_that_the_timer_wins() {
    for restart in [false, true] {
        let world = one_at_a_time();
        world.desk.hold("step.slow");
        let mut host = world.open();
        host.start("race", "races_a_timer", Value::Null).unwrap();
        let mut slow = world.desk.next("step.slow");
        host.wait_kind("race", "timer-scheduled", 1);
        host.settle("race");
        if restart {
            drop(host);
            host = world.open();
            slow = world.desk.next("step.slow");
        }
        world.clock.advance(5 * SECOND);
        host.wait_kind("race", "timer-fired", 1);
        slow.go_on();
        host.run("after", "calls", json!("step.one"));
        host.raise("race", "end", Value::Null).unwrap();
        assert_eq!(host.output("race"), json!("the timer"));
        assert_eq!(host.count("race", "activity-completed"), 0);
        host.assert_sound("race");
    }
}

#[test]
fn s20_a_race_with_a_timer_that_the_activity_wins() {
    for restart in [false, true] {
        let world = World::new();
        world.desk.hold("step.slow");
        let mut host = world.open();
        host.start("race", "races_a_timer", Value::Null).unwrap();
        world.desk.next("step.slow").go_on();
        host.wait_kind("race", "operation-cancelled", 1);
        if restart {
            drop(host);
            host = world.open();
        }
        host.settle("race");
        world.clock.advance(60 * SECOND);
        host.settle("race");
        host.raise("race", "end", Value::Null).unwrap();
        assert_eq!(host.output("race"), json!("slow(race)"));
        assert_eq!(host.count("race", "timer-fired"), 0, "the timer that lost is removed");
        host.assert_sound("race");
    }
}

#[test]
fn s20_futures_unordered_gives_results_in_the_order_recorded() {
    let world = World::new();
    world.desk.hold("step.keep_text");
    let mut host = world.open();
    host.start("any", "in_any_order", Value::Null).unwrap();
    let mut expected = Vec::new();
    for (number, wanted) in ["c", "a", "d", "b"].into_iter().enumerate() {
        let mut waiting: Vec<_> = (0..4 - number).map(|_| world.desk.next("step.keep_text")).collect();
        waiting.retain(|held| held.task.input.to_json() == Some(json!(wanted)));
        waiting.remove(0).go_on();
        expected.push(wanted);
        host.wait_kind("any", "activity-completed", number + 1);
        if number < 3 {
            drop(host);
            host = world.open();
        }
    }
    assert_eq!(host.output("any"), json!(expected));
    host.assert_sound("any");
}

#[test]
fn s20_select_biased_over_events_is_the_same_at_replay() {
    let raise = |host: &Host<'_>, n: usize| {
        let name = if n.is_multiple_of(3) { "left" } else { "right" };
        host.raise("select", name, json!(n)).unwrap();
    };
    let mut outputs = Vec::new();
    for restart in [false, true] {
        let world = World::new();
        let mut host = world.open();
        host.start("select", "selects", Value::Null).unwrap();
        for n in 0..4 {
            raise(&host, n);
            if restart {
                drop(host);
                host = world.open();
            }
        }
        outputs.push(host.output("select"));
        host.assert_sound("select");
    }
    assert_eq!(outputs[0], json!(["left 0", "right 1", "right 2", "left 3"]));
    assert_eq!(outputs[0], outputs[1]);
}

#[test]
fn s20_spawned_tasks_are_the_same_at_replay() {
    let world = World::new();
    world.desk.hold("step.keep_text");
    let host = world.open();
    host.start("spawn", "spawns", Value::Null).unwrap();
    host.wait_kind("spawn", "timer-scheduled", 2);
    host.settle("spawn");
    world.clock.advance(10);
    world.desk.next("step.keep_text");
    drop(host);
    world.desk.release("step.keep_text");
    let host = world.open();
    assert_eq!(host.output("spawn"), json!(["a", "b"]));
    host.assert_sound("spawn");
}

// ---- dropping ----

#[test]
fn s21_dropping_an_operation_cancels_the_timer_the_wait_and_the_activity() {
    for restart in [false, true] {
        let world = World::new();
        world.desk.hold("step.slow");
        let mut host = world.open();
        host.start("order", "lets_go", Value::Null).unwrap();
        world.desk.next("step.slow");
        host.raise("order", "let go", Value::Null).unwrap();
        host.wait_kind("order", "operation-cancelled", 3);
        if restart {
            drop(host);
            host = world.open();
        }
        let seen = view::instance(&**host.engine().store(), &id("order"), |_| None).unwrap();
        assert_eq!(
            serde_json::to_value(seen.pending).unwrap(),
            json!([{ "kind": "event", "operation": 5, "name": "end" }]),
            "all that is left to wait for"
        );
        host.settle("order");
        world.clock.advance(3600 * SECOND);
        host.settle("order");
        host.raise("order", "never", json!("too late")).unwrap();
        host.raise("order", "end", json!("done")).unwrap();
        assert_eq!(host.output("order"), json!("done"));
        assert_eq!(host.count("order", "timer-fired"), 0);
        assert_eq!(world.desk.calls_of("step.slow").len(), 1, "a cancelled activity is not begun again");
        host.assert_sound("order");
    }
}

#[test]
fn s21_an_activity_that_has_not_begun_is_not_begun_after_its_cancellation() {
    let world = one_at_a_time();
    world.desk.hold("step.keep_text");
    let host = world.open();
    host.start("first", "in_any_order", Value::Null).unwrap();
    let busy = world.desk.next("step.keep_text");
    host.start("order", "lets_go", Value::Null).unwrap();
    host.wait_kind("order", "activity-scheduled", 1);
    host.raise("order", "let go", Value::Null).unwrap();
    host.wait_kind("order", "operation-cancelled", 3);
    host.settle("order");
    busy.go_on();
    (1..4).for_each(|_| world.desk.next("step.keep_text").go_on());
    host.output("first");
    assert_eq!(world.desk.calls_of("step.slow"), []);
    host.raise("order", "end", json!("done")).unwrap();
    assert_eq!(host.output("order"), json!("done"));
    host.assert_sound("order");
}
