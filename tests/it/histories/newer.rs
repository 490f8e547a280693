//! Scenarios that came after the first ones, with modules of their own: see the
//! parent's page.

use dacapo::core::ids::TimestampMs;
use dacapo::core::payload::Payload;
use dacapo::engine::{IdReuse, StartRequest};
use dacapo::store::schedule::{Overlap, ScheduleSpec, Timing};
use futures::FutureExt as _;
use serde_json::{Value, json};

use super::{write, write_as};
use crate::guests::small_guest;
use crate::harness::{DAY, Host, SECOND, World, failed, id, start};

/// Records all of them.
pub(super) fn write_all(world: &World, host: &Host<'_>) {
    for name in ["asks", "deliveries", "entities", "life", "tasks"] {
        host.upload(name, None, &small_guest(name)).unwrap();
    }
    write_deliveries(world, host);
    write_updates(world, host);
    write_attempts(world, host);
    write_lives(world, host);
    write_entities(host);
}

/// A turn that is told of much at once, and a payload that the store keeps apart.
fn write_deliveries(world: &World, host: &Host<'_>) {
    let held = ["step.one", "step.two", "step.slow", "step.keep_text"];
    held.iter().for_each(|name| world.desk.hold(name));
    host.start("crowded", "crowded", Value::Null).unwrap();
    host.settle("crowded");
    host.block_on(host.engine().suspend(&id("crowded"), "to let them gather")).unwrap();
    held.iter().for_each(|name| world.desk.release_all(name));
    host.wait_kind("crowded", "activity-completed", 4);
    let _ = host.engine().update(&id("crowded"), "more", Payload::json("2"), "once").now_or_never();
    for name in ["item", "go"] {
        let value = Payload::json(json!(name).to_string());
        assert!(host.block_on(host.engine().raise_once(&id("crowded"), name, value, name)).unwrap());
    }
    world.clock.advance(SECOND);
    host.wait_kind("crowded", "timer-fired", 1);
    host.block_on(host.engine().resume(&id("crowded"), "all are there")).unwrap();
    host.output("crowded");
    write(host, "crowded");
    host.run("large-payload", "passes_on", json!("crumbs..."));
    write(host, "large-payload");
}

/// Updates that are answered, refused, and carried into the next execution.
fn write_updates(world: &World, host: &Host<'_>) {
    world.desk.hold("step.keep_text");
    host.start("updated", "cart", json!([])).unwrap();
    let ask = |name: &str, item: &str, key: &str| {
        host.engine().update(&id("updated"), name, Payload::json(json!(item).to_string()), key).now_or_never()
    };
    assert!(ask("add", "apple", "k1").is_none());
    assert!(ask("add", "apple", "k2").is_none(), "it will be refused");
    host.wait_kind("updated", "responded", 2);
    assert!(ask("add_kept", "pear", "k3").is_none());
    let kept = world.desk.next("step.keep_text");
    host.raise("updated", "anew", Value::Null).unwrap();
    kept.go_on();
    world.desk.release_all("step.keep_text");
    host.wait_summary("updated", "its second execution", |summary| summary.execution == 2);
    host.wait_kind("updated", "responded", 1);
    host.raise("updated", "end", Value::Null).unwrap();
    assert_eq!(host.output("updated"), json!(["apple", "pear"]));
    write(host, "updated");
}

/// Attempts that report how far they are, that are silent, and that take too long.
fn write_attempts(world: &World, host: &Host<'_>) {
    world.desk.hold("step.slow");
    let call = json!({ "attempts": 4, "first_interval": SECOND, "start_to_close": 60 * SECOND, "heartbeat": 20 * SECOND,
        "priority": 5, "key": "gold", "queue": "printers" });
    host.start("timeouts", "call_with", call).unwrap();
    let first = world.desk.next("step.slow");
    first.task.heartbeat(Payload::of("page 7").ok()).unwrap();
    first.answer(failed("Busy", "not now"));
    host.wait_kind("timeouts", "activity-attempt-failed", 1);
    host.settle("timeouts");
    world.clock.advance(DAY);
    // The second one is silent, the third one answers.
    let silent = world.desk.next("step.slow");
    world.clock.advance(21 * SECOND);
    host.wait_kind("timeouts", "activity-attempt-failed", 2);
    host.settle("timeouts");
    world.clock.advance(DAY);
    world.desk.next("step.slow").go_on();
    host.output("timeouts");
    drop(silent);
    write(host, "timeouts");
    host.start("unserved", "call_with", json!({ "name": "step.nobody_is_there", "schedule_to_start": SECOND }))
        .unwrap();
    world.desk.release_all("step.slow");
    world.clock.advance(DAY);
    host.outcome("unserved").unwrap().unwrap();
    write(host, "unserved");
}

/// A start at a date, with tags; an id that is used again; a cancellation that is
/// cleaned up after.
fn write_lives(world: &World, host: &Host<'_>) {
    let at = TimestampMs(host.engine().now().0 + DAY);
    let tags = vec![("tier".to_owned(), "gold".to_owned())];
    let request = StartRequest { start_at: Some(at), tags, ..start("start-at", "two_calls", json!("beer")) };
    host.try_start(StartRequest { module: Some("steps".to_owned()), ..request }).unwrap();
    host.wait_kind("start-at", "execution-started", 1);
    world.clock.advance(2 * DAY);
    host.output("start-at");
    write(host, "start-at");
    write_scheduled(world, host);
    for input in ["beer", "wine"] {
        let again = StartRequest { reuse: IdReuse::ReplaceFinished, ..start("replaced", "two_calls", json!(input)) };
        host.try_start(again).unwrap();
        host.output("replaced");
    }
    write(host, "replaced");
    world.desk.script("step.undo", [failed("Busy", "not now")]);
    host.start("backs-out", "backs_out", Value::Null).unwrap();
    host.wait_kind("backs-out", "timer-scheduled", 1);
    host.block_on(host.engine().cancel(&id("backs-out"), "enough")).unwrap();
    host.advance_to_end("backs-out", SECOND).unwrap();
    host.failure("backs-out");
    write(host, "backs-out");
}

/// What a schedule starts.
fn write_scheduled(world: &World, host: &Host<'_>) {
    let spec = ScheduleSpec {
        timing: Timing::Every { interval_ms: DAY },
        orchestration: "two_calls".to_owned(),
        module: Some("steps".to_owned()),
        input: Payload::json("\"wine\""),
        tags: [("desk".to_owned(), "3".to_owned())].into(),
        overlap: Overlap::Allow,
        catch_up_ms: DAY,
    };
    host.engine().put_schedule("daily", spec).unwrap();
    world.clock.advance(DAY);
    let started = host.wait_schedule("daily", "its first start", |row| row.started == 1).last.expect("its id");
    host.engine().delete_schedule("daily").unwrap();
    host.output(started.as_str());
    write_as(host, started.as_str(), "scheduled");
}

/// An entity that is called, locked, signalled, trapped, and that begins anew while
/// it is locked; and who does that to it.
fn write_entities(host: &Host<'_>) {
    host.run("survives", "survives", json!("kept"));
    host.run("fills", "fills", json!("kept"));
    host.run("pokes", "pokes", json!("kept"));
    host.run("moves", "moves", json!({ "from": "kept", "to": "other", "amount": 5 }));
    host.wait_summary("moves", "that it has let go", |summary| summary.outbox.is_empty());
    host.wait_kind("@counter@other", "lock-released", 1);
    ["survives", "fills", "pokes", "moves"].into_iter().for_each(|instance| write(host, instance));
    write_as(host, "@counter@kept", "entity");
    write_as(host, "@counter@other", "entity-moved");
}
