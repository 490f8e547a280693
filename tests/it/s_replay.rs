//! Record and replay: S01 to S10.

use std::cell::RefCell;
use std::collections::BTreeSet;

use dacapo::core::event::Event;
use serde_json::{Value, json};

use crate::harness::{DAY, Death, Host, World, id, replay, sweep};

fn two_calls(host: &Host<'_>) -> Result<(), dacapo::engine::EngineError> {
    host.start("order", "two_calls", json!("beer"))?;
    host.outcome("order").map(drop)
}

#[test]
fn s01_input_call_result_call_result_are_persisted_in_this_order() {
    let world = World::new();
    let host = world.open();
    host.run("order", "two_calls", json!("beer"));
    let story: Vec<String> = host.events("order").iter().map(|event| event.summary(200)).collect();
    assert_eq!(
        host.kinds("order"),
        [
            "execution-started",
            "activity-scheduled",
            "activity-completed",
            "now-read",
            "guid-generated",
            "activity-scheduled",
            "activity-completed",
            "completed",
        ]
    );
    assert_eq!(story[0], r#"two_calls started with "beer""#);
    assert_eq!(story[1], r#"#1 step.one("beer")"#);
    assert_eq!(story[2], r##"#1 returned "one(beer)""##);
    assert!(
        story[5].starts_with(r#"#2 step.two("beer after one(beer) at 2026-01-01T00:00:00.000Z as "#),
        "{}",
        story[5]
    );
    host.assert_sound("order");
}

#[test]
fn s02_killed_before_the_call_is_durable_it_starts_again_with_the_same_input_and_no_call_was_made() {
    let world = World::new();
    // Commit 1 is the start alone, or the start and the first turn.
    let host = world.open_until(Death::After(1));
    assert_eq!(host.start("order", "two_calls", json!("beer")).unwrap_err().code(), "stopped");
    drop(host);
    assert_eq!(world.desk.calls(), [], "nothing is let out before its commit was heard of");

    let host = world.open();
    assert!(host.output("order").as_str().unwrap().starts_with("two(beer after one(beer)"));
    assert_eq!(host.events("order")[0].summary(99), r#"two_calls started with "beer""#);
    assert_eq!(world.desk.calls_of("step.one").len(), 1);
    host.assert_sound("order");
}

#[test]
fn s02_killed_before_the_start_is_durable_there_is_no_instance() {
    let world = World::new();
    let host = world.open_until(Death::Before(1));
    assert_eq!(host.start("order", "two_calls", json!("beer")).unwrap_err().code(), "stopped");
    drop(host);
    let host = world.open();
    assert_eq!(host.outcome("order").unwrap_err().code(), "unknown-instance");
    assert_eq!(world.desk.calls(), []);
}

#[test]
fn s03_killed_before_the_result_is_durable_the_activity_runs_again_with_the_same_key() {
    let world = World::new();
    world.desk.hold("step.one");
    let host = world.open();
    host.start("order", "two_calls", json!("beer")).unwrap();
    let lost = world.desk.next("step.one");
    drop(host);
    lost.go_on();
    world.desk.release("step.one");

    let host = world.open();
    host.output("order");
    let calls = world.desk.calls_of("step.one");
    assert_eq!(calls.len(), 2);
    assert_eq!(calls[0], calls[1], "the same name, input, attempt and idempotency key");
    assert_eq!(calls[0].key, "order/1/1");
    assert_eq!(host.count("order", "activity-scheduled"), 2, "scheduled once each");
    host.assert_sound("order");
}

#[test]
fn s04_a_result_that_is_durable_is_restored_without_a_call_and_the_next_arguments_are_the_same() {
    let world = World::new();
    world.desk.hold("step.two");
    let host = world.open();
    host.start("order", "two_calls", json!("beer")).unwrap();
    world.desk.next("step.two");
    let before = host.records("order");
    drop(host);

    let host = world.open();
    let again = world.desk.next("step.two");
    assert_eq!(host.records("order"), before, "recovery records nothing");
    again.go_on();
    host.output("order");
    let second = world.desk.calls_of("step.two");
    assert_eq!(second.len(), 2);
    assert_eq!(second[0], second[1], "byte-identical arguments");
    assert_eq!(world.desk.calls_of("step.one").len(), 1, "its result was durable");
    host.assert_sound("order");
}

#[test]
fn s05_values_are_the_same_after_a_kill_and_on_other_hosts() {
    let world = World::new();
    world.desk.hold("step.keep");
    let host = world.open();
    host.start("draw", "draws", Value::Null).unwrap();
    world.desk.next("step.keep");
    let recorded = host.events("draw");
    assert_eq!(recorded.iter().filter(|event| event.kind() == "random-drawn").count(), 2);
    drop(host);

    let days = [0, 0, 400];
    let outputs = days.map(|days| {
        let elsewhere = world.elsewhere(days);
        let host = elsewhere.open();
        let output = host.output("draw");
        assert_eq!(host.events("draw")[..recorded.len()], recorded, "what is recorded stays");
        host.assert_sound("draw");
        output
    });
    for (days, output) in days.into_iter().zip(&outputs) {
        assert_eq!(output[0], output[1], "what the activity was given after the kill is what it was given before");
        assert_eq!(output[2], output[3]);
        assert_eq!(output[0], outputs[0][0], "the same values before the kill");
        for value in ["guid", "random", "recorded"] {
            assert_ne!(output[0][value], output[2][value]);
            assert_eq!(output[2][value], outputs[0][2][value], "drawn from the recorded seed, also after the kill");
        }
        let passed = output[2]["now"].as_u64().unwrap() - output[0]["now"].as_u64().unwrap();
        assert_eq!(passed, days * DAY, "now is the time of the turn");
    }
}

#[test]
fn s06_nothing_leaves_the_host_before_it_is_durable_whenever_it_dies() {
    let deaths = RefCell::new(Vec::new());
    let commits = sweep(
        World::new,
        |host| {
            host.start("trip", "undoes", Value::Null)?;
            host.outcome("trip").map(drop)
        },
        |world, host, death| {
            deaths.borrow_mut().push(death);
            let failure = host.failure("trip");
            assert_eq!(failure.error_type, "NoSeat", "{death:?}");
            let undone: Value = failure.details.and_then(|details| details.to_json()).unwrap();
            assert_eq!(undone["undone"], json!(["two", "one"]), "{death:?}");
            // At least once, with one key a call, and never a call that no history has.
            let keys: BTreeSet<_> =
                world.desk.calls().into_iter().map(|call| (call.name, call.input, call.key)).collect();
            assert_eq!(keys.len(), 5, "{death:?}: {keys:#?}");
            assert!(world.desk.calls().len() <= 6, "{death:?}: one death repeats one call at most");
            assert_eq!(host.count("trip", "activity-scheduled"), 5);
            host.assert_sound("trip");
        },
    );
    assert!(commits >= 6, "a start and a turn for each result: {commits}");
    assert_eq!(deaths.borrow().len(), 1 + 2 * commits);
}

#[test]
fn s07_what_an_instance_is_follows_from_its_events() {
    let world = World::new();
    world.desk.hold("step.one");
    let host = world.open();
    host.start("order", "counts", json!(2)).unwrap();
    world.desk.next("step.one").go_on();
    world.desk.next("step.one");
    let of_engine = host.engine().summary(&id("order")).unwrap().unwrap();
    // The row is derived once more from the history alone.
    let history = host.engine().history(&id("order"), None).unwrap();
    let mut derived = None;
    for (record, bytes) in history.decode().unwrap().iter().zip(&history.turns) {
        let hash = dacapo::core::ids::Hash::of(bytes);
        match &mut derived {
            None => derived = dacapo::core::summary::Summary::of_first(record, hash),
            Some(row) => row.apply(record, hash),
        }
    }
    assert_eq!(derived.as_ref(), Some(&of_engine));
    assert_eq!(of_engine.execution, 2);
    assert_eq!(of_engine.tags.len(), 2, "{:?}", of_engine.tags);
    host.assert_sound("order");
}

#[test]
fn s08_two_activities_are_scheduled_once_each_whatever_the_number_of_turns() {
    let world = World::new();
    world.desk.hold("step.one");
    world.desk.hold("step.two");
    let mut host = world.open();
    host.start("order", "in_order", Value::Null).unwrap();
    let mut last = (world.desk.next("step.one"), world.desk.next("step.two"));
    for _ in 0..5 {
        drop(host);
        host = world.open();
        last = (world.desk.next("step.one"), world.desk.next("step.two"));
        assert_eq!(host.count("order", "activity-scheduled"), 2);
    }
    last.1.go_on();
    host.wait_kind("order", "activity-completed", 1);
    drop(host);
    let host = world.open();
    world.desk.next("step.one").go_on();
    assert_eq!(host.output("order"), json!(["one(first)", "two(second)"]));
    assert_eq!(host.count("order", "activity-scheduled"), 2);
    host.assert_sound("order");
}

#[test]
fn s09_two_activities_finishing_in_the_other_order_take_three_turns_and_the_second_changes_nothing() {
    let world = World::new();
    world.desk.hold("step.one");
    world.desk.hold("step.two");
    let host = world.open();
    host.start("order", "in_order", Value::Null).unwrap();
    let (one, two) = (world.desk.next("step.one"), world.desk.next("step.two"));
    two.go_on();
    host.wait_kind("order", "activity-completed", 1);
    host.settle("order");
    one.go_on();
    assert_eq!(host.output("order"), json!(["one(first)", "two(second)"]));
    let turns: Vec<Vec<&str>> = host
        .records("order")
        .iter()
        .filter(|turn| turn.ran)
        .map(|turn| turn.events.iter().map(Event::kind).collect())
        .collect();
    let scheduling = &turns[0][turns[0].len() - 2..];
    assert_eq!(scheduling, ["activity-scheduled", "activity-scheduled"]);
    assert_eq!(turns[1..], [vec!["activity-completed"], vec!["activity-completed", "completed"]]);
    host.assert_sound("order");
}

#[test]
fn s10_a_log_line_is_shown_once_and_the_raw_mode_shows_it_at_every_replay() {
    let world = World::new();
    world.desk.hold("step.one");
    world.desk.hold("step.two");
    let mut host = world.open();
    host.start("order", "talks", Value::Null).unwrap();
    for name in ["step.one", "step.two"] {
        world.desk.next(name);
        drop(host);
        host = world.open();
        world.desk.next(name).go_on();
    }
    host.output("order");
    assert_eq!(world.log_lines(), ["order/1 before answer=42", "order/1 between", "order/1 after"]);
    let records = host.records("order");
    let module = host.replay_module(&records);
    for _ in 0..2 {
        assert_eq!(replay(&module, &records).unwrap(), ["before answer=42", "between", "after"]);
    }
    assert_eq!(world.log_lines().len(), 3, "no replay shows a line");
    host.assert_sound("order");
}

#[test]
fn s10_a_line_of_a_turn_that_was_not_durable_is_shown_by_the_turn_that_is() {
    sweep(
        World::new,
        |host| {
            host.start("order", "talks", Value::Null)?;
            host.outcome("order").map(drop)
        },
        |world, host, death| {
            let lines = world.log_lines();
            // A line whose turn became durable as the host died may never be shown;
            // none is shown twice, none out of order.
            let all = ["order/1 before answer=42", "order/1 between", "order/1 after"];
            let mut shown = all.iter().filter(|line| lines.contains(&(**line).to_owned()));
            assert!(lines.iter().all(|line| shown.next() == Some(&line.as_str())), "{death:?}: {lines:?}");
            if !matches!(death, Some(Death::After(_))) {
                assert_eq!(lines, all, "{death:?}");
            }
            host.assert_sound("order");
        },
    );
}

#[test]
fn s06_two_calls_survive_a_death_at_every_commit() {
    sweep(World::new, two_calls, |world, host, death| {
        assert!(host.output("order").as_str().unwrap().starts_with("two(beer after one(beer)"), "{death:?}");
        let keys: BTreeSet<_> = world.desk.calls().into_iter().map(|call| (call.input, call.key)).collect();
        assert_eq!(keys.len(), 2, "{death:?}: the same arguments at every attempt");
        host.assert_sound("order");
    });
}
