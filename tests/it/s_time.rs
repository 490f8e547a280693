//! Time and waiting: S11 to S16.

use std::time::Duration;

use dacapo::core::event::Event;
use dacapo::core::payload::{Outcome, Payload};
use dacapo::core::retry::RetryPolicy;
use dacapo::engine::{Clock as _, view};
use dacapo::store::Filter;
use serde_json::{Value, json};

use crate::alone;
use crate::harness::{DAY, Host, NEW_YEAR, SECOND, World, failed, id, start, text};

// ---- delays ----

#[test]
fn s11_a_delay_of_zero_or_less_completes_at_once_without_an_event() {
    let world = World::new();
    let host = world.open();
    assert_eq!(host.run("nap", "naps", Value::Null), json!([null, null, null]), "there is no operation");
    assert_eq!(host.kinds("nap"), ["execution-started", "now-read", "now-read", "completed"]);
    host.assert_sound("nap");
}

#[test]
fn s11_otherwise_the_target_is_recorded_now_plus_delay() {
    let world = World::new();
    let host = world.open();
    host.start("nap", "sleeps", json!(1_500)).unwrap();
    host.wait_kind("nap", "timer-scheduled", 1);
    let Some(Event::TimerScheduled { fire_at, .. }) =
        host.events("nap").into_iter().find(|event| event.kind() == "timer-scheduled")
    else {
        panic!("a timer")
    };
    assert_eq!(fire_at.0, NEW_YEAR + 1_500);
    host.settle("nap");
    world.clock.advance(1_499);
    host.settle("nap");
    assert_eq!(host.count("nap", "timer-fired"), 0, "a millisecond too early");
    world.clock.advance(1);
    assert_eq!(host.output("nap"), json!("one(awake)"));
    host.assert_sound("nap");
}

#[test]
fn s12_an_instance_that_waits_for_days_is_not_in_memory_and_wakes_on_the_day() {
    let world = World::new();
    let host = world.open();
    host.start("nap", "sleeps", json!(30 * DAY)).unwrap();
    host.wait_kind("nap", "timer-scheduled", 1);
    host.settle("nap");
    assert_eq!(host.engine().resident_guests(), 0);
    world.clock.advance(30 * DAY - 1);
    host.settle("nap");
    assert_eq!(host.count("nap", "timer-fired"), 0);
    world.clock.advance(1);
    assert_eq!(host.output("nap"), json!("one(awake)"));
    host.assert_sound("nap");
}

#[test]
fn s12_a_wait_survives_restarts_and_wakes_on_another_host() {
    let world = World::new();
    let host = world.open();
    host.start("nap", "sleeps", json!(30 * DAY)).unwrap();
    host.wait_kind("nap", "timer-scheduled", 1);
    drop(host);
    for _ in 0..3 {
        world.clock.advance(DAY);
        let host = world.open();
        host.settle("nap");
        assert_eq!(host.engine().resident_guests(), 0, "a restart wakes nobody");
        drop(host);
    }
    let elsewhere = world.elsewhere(20);
    let host = elsewhere.open();
    host.settle("nap");
    assert_eq!(host.count("nap", "timer-fired"), 0);
    elsewhere.clock.advance(7 * DAY);
    assert_eq!(host.output("nap"), json!("one(awake)"));
    host.assert_sound("nap");
}

#[test]
fn s12_a_timer_that_fell_due_while_the_host_was_down_fires_at_start_up() {
    let world = World::new();
    let host = world.open();
    host.start("nap", "sleeps", json!(DAY)).unwrap();
    host.wait_kind("nap", "timer-scheduled", 1);
    drop(host);
    world.clock.advance(2 * DAY);
    let host = world.open();
    assert_eq!(host.output("nap"), json!("one(awake)"));
    let fired = host.records("nap").into_iter().find(|turn| turn.events[0].kind() == "timer-fired").unwrap();
    assert_eq!(fired.at.0, NEW_YEAR + 2 * DAY, "it fires when it is noticed");
    host.assert_sound("nap");
}

#[test]
fn s14_a_guest_leaves_for_a_long_delay_and_stays_for_a_short_one() {
    let mut world = World::new();
    world.settings.stay_below = Duration::from_secs(2);
    world.settings.evict_after = Duration::from_secs(10);
    let host = world.open();
    for (instance, length, stays) in [("short", 2 * SECOND, 1), ("long", 2 * SECOND + 1, 0)] {
        host.start(instance, "sleeps", json!(length)).unwrap();
        host.wait_kind(instance, "timer-scheduled", 1);
        host.settle(instance);
        assert_eq!(host.engine().resident_guests(), stays, "{instance}");
        world.clock.advance(length);
        assert_eq!(host.output(instance), json!("one(awake)"));
        host.settle(instance);
        assert_eq!(host.engine().resident_guests(), 0, "what has ended leaves");
        host.assert_sound(instance);
    }
}

#[test]
fn s14_a_guest_leaves_for_a_long_back_off_and_stays_for_a_short_one() {
    let mut world = World::new();
    world.settings.stay_below = Duration::from_secs(2);
    let host = world.open();
    for (instance, first, stays) in [("short", SECOND, 1), ("long", 60 * SECOND, 0)] {
        world.desk.script("step.flaky", [failed("Busy", "try later")]);
        host.start(instance, "retries", policy(first, 60 * SECOND, 2)).unwrap();
        host.wait_kind(instance, "activity-attempt-failed", 1);
        host.settle(instance);
        assert_eq!(host.engine().resident_guests(), stays, "{instance}");
        world.clock.advance(first);
        assert_eq!(host.output(instance), json!("flaky(try)"));
        host.settle(instance);
        host.assert_sound(instance);
    }
}

#[test]
fn s14_a_guest_that_waits_for_an_event_leaves_after_a_while() {
    let mut world = World::new();
    world.settings.evict_after = Duration::from_secs(10);
    let host = world.open();
    host.start("wait", "collects", json!({ "wanted": 2, "page": 9 })).unwrap();
    host.wait_kind("wait", "event-awaited", 1);
    host.settle("wait");
    assert_eq!(host.engine().resident_guests(), 1);
    world.clock.advance(10 * SECOND);
    host.settle("wait");
    assert_eq!(host.engine().resident_guests(), 0);
    host.raise("wait", "item", json!(1)).unwrap();
    host.raise("wait", "item", json!(2)).unwrap();
    assert_eq!(host.output("wait"), json!([1, 2]));
    host.assert_sound("wait");
}

/// In a process of its own, whose threads are nobody else's.
#[test]
fn s15_ten_thousand_waits_cost_no_thread_and_no_guest() {
    alone::run("s_time::s15_in_a_process_of_its_own", &[]);
}

#[test]
#[ignore = "run by the test above"]
fn s15_in_a_process_of_its_own() {
    const MANY: usize = 10_000;
    let mut world = World::new();
    world.settings.sandbox.resident_guests = 4096;
    let host = world.open();
    host.run("first", "sleeps", json!(0));
    let threads = threads_of_this_process();
    let waits = |n: usize| match n % 2 {
        0 => start(&format!("wait-{n}"), "sleeps", json!(30 * DAY)),
        _ => start(&format!("wait-{n}"), "collects", json!({ "wanted": 1, "page": 9 })),
    };
    host.block_on(async {
        let starts = (0..MANY).map(|n| host.engine().start(waits(n)));
        futures::future::try_join_all(starts).await.unwrap();
    });
    // There is not room for all at a time.
    let all = || host.engine().list(&Filter::default(), None, MANY + 1).unwrap();
    while all().iter().any(|summary| summary.untold) {
        (0..20).for_each(|n| host.settle(&format!("wait-{n}")));
    }
    world.clock.advance(60 * SECOND);
    (0..20).for_each(|n| host.settle(&format!("wait-{n}")));
    assert_eq!(threads_of_this_process(), threads, "a wait needs no thread");
    assert_eq!(host.engine().resident_guests(), 0, "a wait needs no guest");
    let seen = view::instance(&**host.engine().store(), &id("wait-7"), |_| None).unwrap();
    assert_eq!(
        serde_json::to_value(seen.pending).unwrap(),
        json!([{ "kind": "event", "operation": 1, "name": "item" }])
    );
    host.raise("wait-7", "item", json!(7)).unwrap();
    assert_eq!(host.output("wait-7"), json!([7]));
    world.clock.advance(30 * DAY);
    assert_eq!(host.output("wait-8"), json!("one(awake)"));
}

/// Time stands still: whoever finds no room waits for no clock.
#[test]
fn s15_far_more_instances_go_on_at_once_than_there_is_room_for() {
    const MANY: usize = 1_000;
    let mut world = World::new();
    world.settings.sandbox.resident_guests = 8;
    let host = world.open();
    let each = |n: usize| start(&format!("wait-{n}"), "collects", json!({ "wanted": 2, "page": 9 }));
    let names: Vec<_> = (0..MANY).map(|n| id(&format!("wait-{n}"))).collect();
    let raise = |value: u32| {
        host.block_on(async {
            let raises = names.iter().map(|id| host.engine().raise(id, "item", Payload::json(value.to_string())));
            futures::future::try_join_all(raises).await.unwrap();
        });
    };
    host.block_on(async {
        let starts = (0..MANY).map(|n| host.engine().start(each(n)));
        futures::future::try_join_all(starts).await.unwrap();
    });
    raise(1);
    raise(2);
    for n in 0..MANY {
        assert_eq!(host.output(&format!("wait-{n}")), json!([1, 2]));
    }
    host.assert_sound("wait-7");
}

fn threads_of_this_process() -> usize {
    std::fs::read_dir("/proc/self/task").expect("Linux").count()
}

// ---- retries ----

fn policy(first_ms: u64, max_ms: u64, attempts: u32) -> Value {
    json!({
        "first_ms": first_ms, "coefficient": 2.0, "max_ms": max_ms, "attempts": attempts,
        "total_ms": null, "jitter": 0.0, "non_retryable": [],
    })
}

fn with(mut policy: Value, field: &str, value: Value) -> Value {
    policy[field] = value;
    policy
}

fn busy() -> Outcome {
    failed("Busy", "try later")
}

/// Milliseconds from each failed attempt to the next one, as recorded.
fn waits(host: &Host<'_>, instance: &str) -> Vec<u64> {
    let waits = host.records(instance).into_iter().flat_map(|turn| {
        turn.events.into_iter().filter_map(move |event| match event {
            Event::ActivityAttemptFailed { retry_at, .. } => Some(retry_at.since(turn.at)),
            _ => None,
        })
    });
    waits.collect()
}

/// Runs `retries` to its end, moving time to each attempt as it is due.
fn run_retries(world: &World, host: &Host<'_>, instance: &str, policy: Value) -> String {
    host.start(instance, "retries", policy).unwrap();
    run_to_end(world, host, instance);
    let output = host.output(instance);
    host.assert_sound(instance);
    output.as_str().unwrap().to_owned()
}

/// Moves time to each attempt as it is due.
fn run_to_end(world: &World, host: &Host<'_>, instance: &str) {
    for number in attempts_failed(host, instance).max(1).. {
        let summary = host.wait_summary(instance, "an attempt or the end", |summary| {
            summary.status.is_final() || attempts_failed(host, instance) == number && summary.next_due().is_some()
        });
        let Some(due) = summary.next_due() else { return };
        host.settle(instance);
        world.clock.advance(due.since(world.clock.now()));
    }
}

fn attempts_failed(host: &Host<'_>, instance: &str) -> usize {
    host.count(instance, "activity-attempt-failed")
}

#[test]
fn s13_attempts_survive_a_kill_and_one_of_three_is_left() {
    let world = World::new();
    world.desk.script("step.flaky", [busy(), busy()]);
    world.desk.hold("step.flaky");
    let host = world.open();
    host.start("try", "retries", policy(SECOND, 60 * SECOND, 3)).unwrap();
    host.wait_kind("try", "activity-attempt-failed", 1);
    host.settle("try");
    world.clock.advance(SECOND);
    host.wait_kind("try", "activity-attempt-failed", 2);
    drop(host);

    let host = world.open();
    host.settle("try");
    assert_eq!(world.desk.calls().len(), 2, "a restart does not cut the back-off short");
    world.clock.advance(2 * SECOND);
    let third = world.desk.next("step.flaky");
    assert_eq!(third.task.attempt, 3);
    third.answer(busy());
    assert_eq!(host.output("try"), json!("gave up: Busy: try later"));
    let calls = world.desk.calls();
    assert_eq!(calls.iter().map(|call| call.attempt).collect::<Vec<_>>(), [1, 2, 3]);
    assert!(calls.iter().all(|call| call.key == "try/1/1"));
    host.assert_sound("try");
}

#[test]
fn s13_a_back_off_that_ended_while_the_host_was_down_is_over_at_start_up() {
    let world = World::new();
    world.desk.script("step.flaky", [busy()]);
    let host = world.open();
    host.start("try", "retries", policy(SECOND, 60 * SECOND, 3)).unwrap();
    host.wait_kind("try", "activity-attempt-failed", 1);
    drop(host);
    world.clock.advance(DAY);
    let host = world.open();
    assert_eq!(host.output("try"), json!("flaky(try)"));
    assert_eq!(world.desk.calls().len(), 2);
    host.assert_sound("try");
}

#[test]
fn s13_an_attempt_that_runs_when_the_host_dies_runs_again_with_its_number() {
    let world = World::new();
    world.desk.script("step.flaky", [busy()]);
    world.desk.hold("step.flaky");
    let host = world.open();
    host.start("try", "retries", policy(SECOND, 60 * SECOND, 2)).unwrap();
    host.wait_kind("try", "activity-attempt-failed", 1);
    host.settle("try");
    world.clock.advance(SECOND);
    world.desk.next("step.flaky");
    drop(host);
    let host = world.open();
    let again = world.desk.next("step.flaky");
    assert_eq!(again.task.attempt, 2);
    again.answer(busy());
    assert_eq!(host.output("try"), json!("gave up: Busy: try later"), "the second of two was the last");
    host.assert_sound("try");
}

#[test]
fn s16_waits_grow_by_the_coefficient_up_to_the_longest() {
    let world = World::new();
    let host = world.open();
    world.desk.script("step.flaky", (0..5).map(|_| busy()));
    assert_eq!(run_retries(&world, &host, "try", policy(100, 500, 0)), "flaky(try)");
    assert_eq!(waits(&host, "try"), [100, 200, 400, 500, 500]);
}

#[test]
fn s16_the_last_attempt_is_the_last_word() {
    let world = World::new();
    let host = world.open();
    world.desk.script("step.flaky", [busy(), busy(), failed("Gone", "for good")]);
    assert_eq!(run_retries(&world, &host, "try", policy(100, 500, 3)), "gave up: Gone: for good");
    assert_eq!(world.desk.calls().len(), 3);
}

#[test]
fn s16_no_attempt_starts_after_the_total_timeout() {
    let world = World::new();
    let host = world.open();
    world.desk.script("step.flaky", (0..9).map(|_| busy()));
    // Attempts at 0, 100, 300; the next would be at 700.
    let timed = with(policy(100, 5_000, 0), "total_ms", json!(699));
    assert_eq!(run_retries(&world, &host, "try", timed), "gave up: Busy: try later");
    assert_eq!(waits(&host, "try"), [100, 200]);
}

#[test]
fn s16_error_types_that_are_not_retried_and_failures_that_say_so_end_the_call() {
    let world = World::new();
    let host = world.open();
    let picky = with(policy(100, 500, 9), "non_retryable", json!(["CardDeclined"]));
    world.desk.script("step.flaky", [failed("CardDeclined", "no money")]);
    assert_eq!(run_retries(&world, &host, "declined", picky.clone()), "gave up: CardDeclined: no money");
    let mut fatal = busy().unwrap_err();
    fatal.non_retryable = true;
    world.desk.script("step.flaky", [Err(fatal)]);
    assert_eq!(run_retries(&world, &host, "fatal", picky.clone()), "gave up: Busy: try later");
    world.desk.script("step.flaky", [busy(), text("at last")]);
    assert_eq!(run_retries(&world, &host, "busy", picky), "at last");
}

#[test]
fn s16_jitter_follows_from_the_journal() {
    let world = World::new();
    world.desk.script("step.flaky", (0..3).map(|_| busy()));
    world.desk.hold("step.flaky");
    let jittery = with(with(policy(10_000, 100_000, 0), "coefficient", json!(1.0)), "jitter", json!(0.5));
    let host = world.open();
    host.start("try", "retries", jittery).unwrap();
    host.wait_kind("try", "activity-attempt-failed", 1);
    drop(host);
    // Three copies of the journal, each the future of the same instance.
    let futures: Vec<Vec<u64>> = (0..3)
        .map(|_| {
            let world = world.elsewhere(0);
            world.desk.script("step.flaky", (0..2).map(|_| busy()));
            let host = world.open();
            run_to_end(&world, &host, "try");
            host.assert_sound("try");
            waits(&host, "try")
        })
        .collect();
    assert_eq!(futures[0].len(), 3);
    assert!(futures[0].iter().all(|wait| (5_000..=10_000).contains(wait)), "{futures:?}");
    assert!(futures[0][0] != futures[0][1] || futures[0][1] != futures[0][2], "random, by attempt: {futures:?}");
    assert!(futures.iter().all(|waits| *waits == futures[0]), "{futures:?}");
}

#[test]
fn s16_the_version_of_the_algorithm_is_recorded() {
    let world = World::new();
    let host = world.open();
    host.run("try", "retries", policy(100, 500, 3));
    let Some(Event::ExecutionStarted(started)) = host.events("try").into_iter().next() else { panic!("a start") };
    assert_eq!(started.retry_algorithm, dacapo::core::retry::ALGORITHM);
}

#[test]
fn s16_a_call_without_a_policy_takes_the_activitys_own_or_has_one_attempt() {
    let mut world = World::new();
    {
        let host = world.open();
        world.desk.script("step.flaky", [busy()]);
        assert_eq!(run_retries(&world, &host, "once", Value::Null), "gave up: Busy: try later");
    }
    world.flaky_policy = Some(RetryPolicy {
        first_interval_ms: 100,
        coefficient: 3.0,
        max_interval_ms: 1_000,
        max_attempts: 4,
        total_timeout_ms: None,
        jitter: 0.0,
        non_retryable: Vec::new(),
    });
    let host = world.open();
    world.desk.script("step.flaky", (0..3).map(|_| busy()));
    assert_eq!(run_retries(&world, &host, "own", Value::Null), "flaky(try)");
    assert_eq!(waits(&host, "own"), [100, 300, 900]);
}

#[test]
fn s16_a_policy_that_makes_no_sense_fails_the_call_and_says_why() {
    let world = World::new();
    let host = world.open();
    for (instance, field, value, why) in [
        ("shrinking", "coefficient", json!(0.5), "coefficient must be at least 1"),
        ("wild", "jitter", json!(1.5), "jitter must be between 0 and 1"),
        ("upside-down", "max_ms", json!(1), "max interval must be at least the first interval"),
    ] {
        let output = run_retries(&world, &host, instance, with(policy(100, 500, 3), field, value));
        assert!(output.starts_with("gave up: unsupported: ") && output.contains(why), "{output}");
        assert_eq!(host.count(instance, "operation-refused"), 1);
    }
    assert_eq!(world.desk.calls(), []);
}
