//! Looking at instances: lists (S31) and queries (S32).

use dacapo::core::ids::TimestampMs;
use dacapo::core::payload::{FailureKind, Payload};
use dacapo::core::summary::{Status, Summary};
use dacapo::engine::{Clock as _, EngineError, StartRequest};
use dacapo::store::Filter;
use serde_json::{Value, json};

use crate::guests::guest;
use crate::harness::{DAY, Host, NEW_YEAR, SECOND, World, id, start};

// ---- S31 ----

fn ids(rows: &[Summary]) -> Vec<&str> {
    rows.iter().map(|row| row.instance.as_str()).collect()
}

/// Every page of two, each begun after the last row of the one before.
fn listed(host: &Host<'_>, filter: &Filter) -> Vec<Summary> {
    let mut all: Vec<Summary> = Vec::new();
    loop {
        let page = host.engine().list(filter, all.last().map(|row| &row.instance), 2).unwrap();
        assert!(page.len() <= 2);
        if page.is_empty() {
            return all;
        }
        all.extend(page);
    }
}

#[test]
fn s31_lists_are_filtered_by_status_name_module_tag_created_range_and_prefix() {
    let world = World::with(&["steps", "life"]);
    let mut host = world.open();
    let first = host.upload("greeter", Some("1"), &guest("greet-1")).unwrap();
    let second = host.upload("greeter", Some("2"), &guest("greet-2")).unwrap();
    for (n, module) in ["greeter@1", "greeter@2", "greeter@1", "greeter@2"].into_iter().enumerate() {
        let request = StartRequest {
            module: Some(module.to_owned()),
            tags: vec![("desk".to_owned(), (n % 3).to_string()), ("tier".to_owned(), "gold".to_owned())],
            ..start(&format!("greet-{n}"), "greet", json!("Ada"))
        };
        host.try_start(request).unwrap();
        world.clock.advance(DAY);
    }
    host.start("trip-1", "trip", Value::Null).unwrap();
    host.raise("trip-1", "leg", json!("north")).unwrap();
    host.wait_kind("trip-1", "tag-set", 1);
    host.raise("greet-0", "go", Value::Null).unwrap();
    host.output("greet-0");
    host.block_on(host.engine().terminate(&id("greet-1"), "enough")).unwrap();
    host.block_on(host.engine().suspend(&id("greet-2"), "later")).unwrap();

    let tags = |pairs: &[(&str, &str)]| pairs.iter().map(|(n, v)| ((*n).to_owned(), (*v).to_owned())).collect();
    let day = |n: u64| Some(TimestampMs(NEW_YEAR + n * DAY));
    let every = Filter::default;
    for restart in [false, true] {
        if restart {
            drop(host);
            host = world.open();
        }
        for (filter, expected) in [
            (every(), vec!["greet-0", "greet-1", "greet-2", "greet-3", "trip-1"]),
            (Filter { status: Some(Status::Running), ..every() }, vec!["greet-3", "trip-1"]),
            (Filter { status: Some(Status::Suspended), ..every() }, vec!["greet-2"]),
            (Filter { status: Some(Status::Completed), ..every() }, vec!["greet-0"]),
            (Filter { status: Some(Status::Terminated), ..every() }, vec!["greet-1"]),
            (Filter { orchestration: Some("trip".to_owned()), ..every() }, vec!["trip-1"]),
            (
                Filter { id_prefix: Some("greet-".to_owned()), ..every() },
                vec!["greet-0", "greet-1", "greet-2", "greet-3"],
            ),
            (Filter { modules: Some(vec![first.hash]), ..every() }, vec!["greet-0", "greet-2"]),
            (
                Filter { modules: Some(vec![first.hash, second.hash]), ..every() },
                vec!["greet-0", "greet-1", "greet-2", "greet-3"],
            ),
            (Filter { tags: tags(&[("desk", "0")]), ..every() }, vec!["greet-0", "greet-3"]),
            (Filter { tags: tags(&[("desk", "0"), ("tier", "lead")]), ..every() }, vec![]),
            (Filter { tags: tags(&[("last", "north")]), ..every() }, vec!["trip-1"]),
            (Filter { created_from: day(2), ..every() }, vec!["greet-2", "greet-3", "trip-1"]),
            (Filter { created_before: day(2), ..every() }, vec!["greet-0", "greet-1"]),
            (Filter { created_from: day(1), created_before: day(3), ..every() }, vec!["greet-1", "greet-2"]),
            (Filter { modules: Some(vec![second.hash]), status: Some(Status::Running), ..every() }, vec!["greet-3"]),
        ] {
            assert_eq!(ids(&listed(&host, &filter)), expected, "{filter:?}, restart: {restart}");
        }
    }
}

#[test]
fn s31_pages_are_stable_while_instances_come_and_go() {
    let world = World::new();
    let host = world.open();
    for n in 0..6 {
        host.start(&format!("there-{n}"), "sleeps", json!(DAY)).unwrap();
    }
    let mut seen: Vec<Summary> = Vec::new();
    for round in 0.. {
        let page = host.engine().list(&Filter::default(), seen.last().map(|row| &row.instance), 2).unwrap();
        if page.is_empty() {
            break;
        }
        seen.extend(page);
        // One comes before the cursor, one behind it, and one that was seen ends.
        host.start(&format!("before-{round}"), "sleeps", json!(DAY)).unwrap();
        let _ended_already = host.block_on(host.engine().terminate(&seen[0].instance, "enough"));
    }
    let seen = ids(&seen);
    assert!(seen.is_sorted(), "{seen:?}");
    for n in 0..6 {
        let instance = format!("there-{n}");
        assert_eq!(seen.iter().filter(|seen| **seen == instance).count(), 1, "{seen:?}");
    }
}

// ---- S32 ----

fn ask(host: &Host<'_>, instance: &str, name: &str, input: Value) -> Result<Value, EngineError> {
    let answer = host.block_on(host.engine().query(&id(instance), name, Payload::json(input.to_string())));
    answer.map(|answer| answer.to_json().expect("JSON"))
}

fn on_the_way(host: &Host<'_>, instance: &str) {
    host.start(instance, "trip", Value::Null).unwrap();
    for (n, leg) in ["north", "east"].into_iter().enumerate() {
        host.raise(instance, "leg", json!(leg)).unwrap();
        host.wait_kind(instance, "tag-set", n + 1);
    }
}

#[test]
fn s32_a_query_reads_live_state_and_cannot_change_it() {
    let world = World::with(&["steps", "life"]);
    let mut host = world.open();
    on_the_way(&host, "order");
    let before = host.records("order");
    for restart in [false, true] {
        if restart {
            drop(host);
            host = world.open();
        }
        for _ in 0..2 {
            assert_eq!(ask(&host, "order", "booked", Value::Null).unwrap(), json!(["north", "east"]));
            assert_eq!(ask(&host, "order", "how-many", json!("east")).unwrap(), json!(1));
            assert_eq!(ask(&host, "order", "touch", Value::Null).unwrap(), json!(1), "what it changed is gone");
            assert_eq!(ask(&host, "order", "who", Value::Null).unwrap(), json!("order"));
        }
        assert_eq!(host.records("order"), before, "nothing is recorded");
    }
    assert_eq!(world.log_lines().iter().filter(|line| line.contains("touched")).count(), 4);
    assert_eq!(world.desk.calls().len(), 2, "and nothing is done");
    host.raise("order", "leg", json!("end")).unwrap();
    assert_eq!(host.output("order"), json!(0), "the orchestration was never touched");
    host.assert_sound("order");
}

#[test]
fn s32_a_query_that_fails_or_traps_fails_alone() {
    let world = World::with(&["steps", "life"]);
    let host = world.open();
    on_the_way(&host, "order");
    let failure = |name: &str, input: Value| match ask(&host, "order", name, input).unwrap_err() {
        EngineError::QueryFailed { failure, .. } => *failure,
        other => panic!("{other}"),
    };
    assert_eq!(failure("how-many", json!("")).error_type, "NoName");
    assert_eq!(failure("panics", Value::Null).kind, FailureKind::Trapped);
    let asks = failure("asks-the-host", Value::Null);
    assert!(asks.message.contains("now was called in query"), "{asks}");
    assert_eq!(failure("large", json!(3 << 20)).kind, FailureKind::TooLarge);
    let unknown = ask(&host, "order", "weather", Value::Null).unwrap_err();
    assert_eq!(unknown.code(), "unknown-query");
    assert!(unknown.to_string().contains("booked") && unknown.to_string().contains("how-many"), "{unknown}");
    assert_eq!(ask(&host, "nobody", "booked", Value::Null).unwrap_err().code(), "unknown-instance");

    assert_eq!(ask(&host, "order", "booked", Value::Null).unwrap(), json!(["north", "east"]));
    host.raise("order", "leg", json!("end")).unwrap();
    host.output("order");
    host.assert_sound("order");
}

#[test]
fn s32_instances_that_are_held_or_have_ended_answer_too() {
    let world = World::with(&["steps", "life"]);
    let mut host = world.open();
    for instance in ["completed", "failed", "trapped", "terminated", "suspended"] {
        on_the_way(&host, instance);
    }
    for (instance, leg) in [("completed", "end"), ("failed", "fail"), ("trapped", "trap")] {
        host.raise(instance, "leg", json!(leg)).unwrap();
        let _ = host.outcome(instance).unwrap();
    }
    host.block_on(host.engine().terminate(&id("terminated"), "enough")).unwrap();
    host.block_on(host.engine().suspend(&id("suspended"), "wait")).unwrap();
    host.raise("suspended", "leg", json!("south")).unwrap();
    for restart in [false, true] {
        if restart {
            drop(host);
            world.clock.advance(30 * SECOND);
            host = world.open();
        }
        for instance in ["completed", "failed", "trapped", "terminated", "suspended"] {
            let booked = ask(&host, instance, "booked", Value::Null);
            assert_eq!(booked.unwrap(), json!(["north", "east"]), "{instance}, restart: {restart}");
        }
    }
    assert_eq!(host.engine().resident_guests(), 0);
    assert!(world.clock.now() > TimestampMs(NEW_YEAR));
}

#[test]
fn s32_a_module_says_which_queries_its_orchestrations_answer() {
    let world = World::with(&["steps", "life"]);
    let host = world.open();
    let modules = host.engine().modules().all().unwrap();
    let life = modules.iter().find(|module| module.name == "life").unwrap();
    let names: Vec<_> = life.queries.iter().map(|query| query.name.as_str()).collect();
    assert_eq!(names, ["booked", "how-many", "touch"]);
    assert_eq!(life.queries[1].description, "How many of that name are booked.");
    assert!(life.queries[1].input_schema.as_ref().unwrap().contains("string"));
}
