//! Queues, their bounds, priorities and fairness: which task is next. S42.

use std::collections::BTreeMap;

use dacapo::engine::{QueueSettings, Rate, TaskLimits};
use serde_json::{Value, json};

use crate::harness::{Host, World};

fn world() -> World {
    World::with(&["steps", "tasks"])
}

/// Waiting and running tasks of a queue.
fn load(host: &Host<'_>, name: &str) -> (usize, usize) {
    let queues = host.engine().queues();
    let queue = queues.iter().find(|queue| queue.name == name);
    queue.map_or((0, 0), |queue| (queue.waiting, queue.running))
}

fn all(count: usize, call: Value) -> Value {
    vec![call; count].into()
}

fn inputs(world: &World, name: &str) -> Vec<String> {
    world.desk.calls_of(name).into_iter().map(|call| call.input.trim_matches('"').to_owned()).collect()
}

#[test]
fn s42_a_queue_starts_no_more_than_its_concurrency() {
    let mut world = world();
    let settings = QueueSettings { concurrency: Some(2), ..QueueSettings::default() };
    world.settings.queues.insert("printers".into(), settings);
    world.desk.hold("step.slow");
    let host = world.open();
    host.start("order", "call_all", all(5, json!({ "queue": "printers" }))).unwrap();
    let (first, second) = (world.desk.next("step.slow"), world.desk.next("step.slow"));
    assert_eq!(load(&host, "printers"), (3, 2));
    host.run("other", "call_with", json!({ "name": "step.one" }));
    assert_eq!(load(&host, "printers"), (3, 2), "another queue is not held up by it");
    first.go_on();
    let third = world.desk.next("step.slow");
    assert_eq!(load(&host, "printers"), (2, 2));
    second.go_on();
    third.go_on();
    (0..2).for_each(|_| world.desk.next("step.slow").go_on());
    assert_eq!(host.output("order").as_array().unwrap().len(), 5);
    assert_eq!(load(&host, "printers"), (0, 0));
    host.assert_sound("order");
}

#[test]
fn s42_an_activity_starts_no_more_than_its_concurrency_in_all_queues() {
    let mut world = world();
    world.settings.activities.insert("step.slow".into(), TaskLimits { concurrency: Some(1), rate: None });
    world.desk.hold("step.slow");
    let host = world.open();
    host.start("order", "call_all", json!([{ "queue": "a" }, { "queue": "b" }, { "name": "step.one" }])).unwrap();
    let first = world.desk.next("step.slow");
    host.wait_kind("order", "activity-completed", 1);
    assert_eq!((load(&host, "a"), load(&host, "b")), ((0, 1), (1, 0)));
    first.go_on();
    world.desk.next("step.slow").go_on();
    host.output("order");
    host.assert_sound("order");
}

#[test]
fn s42_a_rate_is_kept_by_the_clock_of_the_engine() {
    let mut world = world();
    let rate = Some(Rate { tasks: 2, per_ms: 1_000 });
    world.settings.queues.insert("mail".into(), QueueSettings { rate, ..QueueSettings::default() });
    let host = world.open();
    host.start("order", "call_all", all(5, json!({ "name": "step.one", "queue": "mail" }))).unwrap();
    for (done, wait) in [(2, 500), (3, 500), (4, 500), (5, 0)] {
        host.wait_kind("order", "activity-completed", done);
        host.settle("order");
        assert_eq!(load(&host, "mail"), (5 - done, 0), "{done} have started");
        world.clock.advance(wait);
    }
    host.output("order");
    host.assert_sound("order");
}

#[test]
fn s42_higher_priorities_start_first() {
    let mut world = world();
    world.settings.activity_concurrency = 1;
    world.desk.hold("step.slow");
    let host = world.open();
    let call = |input: &str, priority: i32| json!({ "input": input, "priority": priority });
    let calls = json!([call("first", 0), call("low", -1), call("usual", 0), call("high", 7)]);
    host.start("order", "call_all", calls).unwrap();
    (0..4).for_each(|_| world.desk.next("step.slow").go_on());
    host.output("order");
    assert_eq!(inputs(&world, "step.slow"), ["first", "high", "usual", "low"]);
    host.assert_sound("order");
}

#[test]
fn s42_a_flood_of_one_key_starves_no_other() {
    for restart in [false, true] {
        let mut world = world();
        world.settings.activity_concurrency = 1;
        let heavy = BTreeMap::from([("heavy".to_owned(), 2)]);
        world.settings.queues.insert("shared".into(), QueueSettings { weights: heavy, ..QueueSettings::default() });
        world.desk.hold("step.slow");
        let mut host = world.open();
        let call = |key: &str| json!({ "input": key, "key": key, "queue": "shared" });
        host.start("flood", "call_all", all(200, call("flood"))).unwrap();
        let mut held = world.desk.next("step.slow");
        host.start("quiet", "call_all", all(3, call("quiet"))).unwrap();
        host.start("heavy", "call_all", all(6, call("heavy"))).unwrap();
        host.wait_kind("quiet", "activity-scheduled", 3);
        host.wait_kind("heavy", "activity-scheduled", 6);
        host.settle("quiet");
        host.settle("heavy");
        if restart {
            drop(host);
            host = world.open();
            held = world.desk.next("step.slow");
            for instance in ["flood", "quiet", "heavy"] {
                host.settle(instance);
            }
        }
        let before = world.desk.calls().len();
        held.go_on();
        for _ in 0..20 {
            world.desk.next("step.slow").go_on();
        }
        world.desk.next("step.slow");
        let seen = &inputs(&world, "step.slow")[before..];
        let of = |key: &str| seen.iter().filter(|seen| *seen == key).count();
        assert!(of("quiet") + usize::from(held_key_was(&world, before, "quiet")) == 3, "{seen:?}");
        assert!(of("heavy") + usize::from(held_key_was(&world, before, "heavy")) == 6, "{seen:?}");
        host.output("quiet");
        host.output("heavy");
        host.assert_sound("quiet");
    }
}

/// Whether the task that ran when the others came was of that key.
fn held_key_was(world: &World, before: usize, key: &str) -> bool {
    inputs(world, "step.slow")[before - 1] == key
}

#[test]
fn s42_a_queue_for_remote_workers_is_not_served_by_the_host() {
    let mut world = world();
    let settings = QueueSettings { remote_only: true, ..QueueSettings::default() };
    world.settings.queues.insert("elsewhere".into(), settings);
    let host = world.open();
    host.start("order", "call_with", json!({ "name": "step.one", "queue": "elsewhere" })).unwrap();
    host.wait_kind("order", "activity-scheduled", 1);
    host.settle("order");
    assert_eq!(world.desk.calls(), []);
    let queues = host.engine().queues();
    let queue = queues.iter().find(|queue| queue.name == "elsewhere").unwrap();
    assert_eq!((queue.waiting, queue.unserved["step.one"]), (1, 1));
}
