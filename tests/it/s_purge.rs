//! What has ended is removed: by id, by age and status, and by itself (S29).

use std::time::Duration;

use dacapo::core::ids::TimestampMs;
use dacapo::core::summary::Status;
use dacapo::engine::{Clock as _, EngineError, EngineSettings, Retention, StartOutcome};
use dacapo::store::Filter;
use serde_json::{Value, json};

use crate::harness::{DAY, Host, World, id, sweep};

fn purge(host: &Host<'_>, instance: &str) -> Result<(), EngineError> {
    host.engine().purge(&id(instance))
}

fn names(host: &Host<'_>) -> Vec<String> {
    let rows = host.engine().list(&Filter::default(), None, 100).unwrap();
    rows.into_iter().map(|row| row.instance.to_string()).collect()
}

fn assert_gone(host: &Host<'_>, instance: &str) {
    assert!(host.engine().summary(&id(instance)).unwrap().is_none());
    for execution in [None, Some(1), Some(2), Some(3)] {
        assert_eq!(host.engine().history(&id(instance), execution).unwrap_err().code(), "unknown-instance");
    }
    assert!(!names(host).contains(&instance.to_owned()));
}

#[test]
fn s29_a_purged_instance_is_nowhere_and_its_id_is_free() {
    for restart in [false, true] {
        let world = World::new();
        let mut host = world.open();
        host.run("count", "counts", json!(2));
        host.run("other", "two_calls", json!("beer"));
        purge(&host, "count").unwrap();
        assert_gone(&host, "count");
        assert_eq!(purge(&host, "count").unwrap_err().code(), "unknown-instance");
        if restart {
            drop(host);
            host = world.open();
            assert_gone(&host, "count");
        }
        assert_eq!(host.start("count", "counts", json!(0)).unwrap(), StartOutcome::Started);
        host.output("count");
        assert_eq!(host.engine().summary(&id("count")).unwrap().unwrap().execution, 1);
        host.assert_sound("count");
        host.assert_sound("other");
    }
}

#[test]
fn s29_an_instance_that_has_not_ended_is_never_purged() {
    for restart in [false, true] {
        let world = World::new();
        let mut host = world.open();
        for instance in ["running", "suspended"] {
            host.start(instance, "sleeps", json!(DAY)).unwrap();
            host.wait_kind(instance, "timer-scheduled", 1);
        }
        host.block_on(host.engine().suspend(&id("suspended"), "for now")).unwrap();
        if restart {
            drop(host);
            host = world.open();
        }
        for instance in ["running", "suspended"] {
            let error = purge(&host, instance).unwrap_err();
            assert_eq!(error.code(), "wrong-status");
            assert!(error.to_string().contains("terminate it first"), "{error}");
        }
        assert_eq!(host.engine().purge_matching(&Filter::default()).unwrap(), 0);
        host.block_on(host.engine().resume(&id("suspended"), "")).unwrap();
        world.clock.advance(DAY);
        for instance in ["running", "suspended"] {
            assert_eq!(host.output(instance), json!("one(awake)"));
            host.assert_sound(instance);
        }
    }
}

/// One of each kind, a day apart: completed, terminated and failed, twice.
fn six(world: &World, host: &Host<'_>) {
    for day in 0..2 {
        host.run(&format!("completed-{day}"), "two_calls", json!("beer"));
        host.start(&format!("terminated-{day}"), "sleeps", json!(100 * DAY)).unwrap();
        host.block_on(host.engine().terminate(&id(&format!("terminated-{day}")), "enough")).unwrap();
        host.start(&format!("failed-{day}"), "undoes", Value::Null).unwrap();
        host.failure(&format!("failed-{day}"));
        world.clock.advance(DAY);
    }
    host.start("running", "sleeps", json!(100 * DAY)).unwrap();
}

#[test]
fn s29_many_are_purged_by_age_and_status() {
    let world = World::new();
    let host = world.open();
    six(&world, &host);
    let before = |days: u64| Some(TimestampMs(world.clock.now().0 - days * DAY + 1));
    let purge = |filter: Filter| host.engine().purge_matching(&filter).unwrap();
    let every = Filter::default;
    assert_eq!(purge(Filter { updated_before: before(3), ..every() }), 0);
    assert_eq!(purge(Filter { updated_before: before(2), status: Some(Status::Failed), ..every() }), 1);
    assert_eq!(names(&host), ["completed-0", "completed-1", "failed-1", "running", "terminated-0", "terminated-1"]);
    assert_eq!(purge(Filter { updated_before: before(2), ..every() }), 2);
    assert_eq!(names(&host), ["completed-1", "failed-1", "running", "terminated-1"]);
    assert_eq!(purge(Filter { id_prefix: Some("completed".to_owned()), ..every() }), 1);
    drop(host);
    let host = world.open();
    assert_eq!(names(&host), ["failed-1", "running", "terminated-1"]);
    host.assert_sound("failed-1");
}

#[test]
fn s29_retention_runs_by_itself() {
    let days = |n: u64| Some(Duration::from_millis(n * DAY));
    let mut world = World::new();
    let retention = Retention { completed: days(3), failed: days(5), ..Retention::default() };
    world.settings = EngineSettings { retention, ..world.settings.clone() };
    let host = world.open();
    six(&world, &host);
    assert_eq!(names(&host).len(), 7);
    world.clock.advance(2 * DAY);
    // The first ended four days ago, the second three.
    host.wait_gone("completed-0");
    world.clock.advance(DAY);
    host.wait_gone("completed-1");
    assert_eq!(names(&host), ["failed-0", "failed-1", "running", "terminated-0", "terminated-1"]);
    drop(host);
    // Time goes on while no host runs; the next one looks when it starts.
    world.clock.advance(3 * DAY);
    let host = world.open();
    host.wait_gone("failed-1");
    assert_eq!(names(&host), ["running", "terminated-0", "terminated-1"]);
}

#[test]
fn s29_a_purge_survives_a_death_before_and_after_every_write() {
    sweep(
        World::new,
        |host| {
            host.start("other", "two_calls", json!("beer"))?;
            host.start("count", "counts", json!(1))?;
            host.outcome("count")?.expect("it completes");
            host.outcome("other")?.expect("it completes");
            purge(host, "count")
        },
        |_, host, death| {
            assert_gone(host, "count");
            assert_eq!(names(host), ["other"], "{death:?}");
            host.assert_sound("other");
        },
    );
}
