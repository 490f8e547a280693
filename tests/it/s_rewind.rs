//! Failed instances that go on (S28), and instances that begin again.

use dacapo::core::event::Event;
use dacapo::core::ids::Hash;
use dacapo::core::payload::{FailureKind, Payload};
use dacapo::core::summary::{Status, Summary};
use dacapo::engine::EngineError;
use dacapo::store::Store as _;
use serde_json::{Value, json};

use crate::harness::{Host, SECOND, World, failed, id, sweep, text};

fn world() -> World {
    World::with(&["steps", "life"])
}

fn rewind(host: &Host<'_>, instance: &str) -> Result<(), EngineError> {
    host.block_on(host.engine().rewind(&id(instance), false, "the bank is back"))
}

fn events_of(host: &Host<'_>, instance: &str, execution: u32) -> Vec<Event> {
    host.records_of(instance, Some(execution)).into_iter().flat_map(|turn| turn.events).collect()
}

/// `pays` fails in its third operation, with a timer and retries in its past.
fn fail_to_pay(world: &World, host: &Host<'_>) {
    world.desk.script("step.flaky", [failed("Cold", "not yet")]);
    world.desk.script("step.slow", [failed("Bank", "closed"), failed("Bank", "still closed")]);
    host.start("order", "pays", Value::Null).unwrap();
    host.advance_to_end("order", SECOND).unwrap();
    assert_eq!(host.failure("order").message, "still closed");
}

#[test]
fn s28_a_failed_instance_goes_on_from_before_its_last_failed_operation() {
    for restart in [false, true] {
        let world = world();
        let mut host = world.open();
        fail_to_pay(&world, &host);
        let old = host.records("order");
        if restart {
            drop(host);
            host = world.open();
        }
        rewind(&host, "order").unwrap();
        if restart {
            drop(host);
            host = world.open();
        }
        let output = host.output("order");
        assert_eq!(output[0], "flaky(warm up)");
        assert_eq!(output[2], format!("slow({})", output[1].as_str().unwrap()));
        assert_eq!(output[4], "execution 1", "what the guest was told once stays so");

        let summary = host.engine().summary(&id("order")).unwrap().unwrap();
        assert_eq!((summary.status, summary.execution), (Status::Completed, 2));
        assert_eq!(host.records_of("order", Some(1)), old, "nothing of the old history is changed");
        let (before, after) = (events_of(&host, "order", 1), events_of(&host, "order", 2));
        let at = after.iter().position(|event| event.kind() == "rewound").expect("the fact");
        let Event::Rewound(fact) = &after[at] else { panic!("the fact") };
        assert_eq!((fact.execution, fact.events as usize), (1, at));
        assert_eq!(fact.operations, [3]);
        assert_eq!(fact.head, Hash::of(&old.last().unwrap().encode()), "the chain of facts leads to the old one");
        assert_eq!(before[1..at], after[1..at], "up to there they are the same");
        assert_eq!(after[..at].iter().filter(|event| event.kind() == "activity-attempt-failed").count(), 2);

        let calls = world.desk.calls_of("step.slow");
        assert!(calls.iter().all(|call| call.key == "order/1/3" && call.input == calls[0].input), "{calls:?}");
        let attempts: Vec<_> = calls.iter().map(|call| call.attempt).collect();
        assert_eq!(attempts[..3], [1, 2, 1], "it has all its attempts again");
        assert!(world.desk.calls_of("step.two").iter().all(|call| call.key == "order/2/4"), "a new call, a new key");
        assert_eq!(world.desk.calls_of("step.flaky").len(), 2, "what succeeded is not done again");
        host.assert_sound("order");
    }
}

#[test]
fn s28_it_can_be_rewound_as_often_as_it_fails() {
    let world = world();
    let host = world.open();
    fail_to_pay(&world, &host);
    world.desk.script("step.slow", [text("paid")]);
    world.desk.script("step.two", [failed("Mail", "lost"), failed("Mail", "lost again")]);
    for (execution, message) in [(2, "lost"), (3, "lost again")] {
        rewind(&host, "order").unwrap();
        assert_eq!(host.failure("order").message, message);
        assert_eq!(host.engine().summary(&id("order")).unwrap().unwrap().execution, execution);
    }
    rewind(&host, "order").unwrap();
    let output = host.output("order");
    assert_eq!((&output[2], &output[4]), (&json!("paid"), &json!("execution 1")));
    let keys: Vec<_> = world.desk.calls_of("step.two").into_iter().map(|call| call.key).collect();
    assert_eq!(keys, ["order/2/4", "order/2/4", "order/2/4"], "one call, one key");
    assert_eq!(world.desk.calls_of("step.slow").len(), 3);
    host.assert_sound("order");
}

#[test]
fn s28_what_was_under_way_beside_it_goes_on_under_its_key() {
    for restart in [false, true] {
        let world = world();
        world.desk.hold("step.slow");
        world.desk.script("step.one", [failed("Bank", "closed")]);
        let mut host = world.open();
        host.start("order", "tries_both", Value::Null).unwrap();
        assert_eq!(host.failure("order").message, "closed");
        let lost = world.desk.next("step.slow");
        rewind(&host, "order").unwrap();
        if restart {
            drop(host);
            host = world.open();
        } else {
            lost.answer(text("late"));
        }
        world.desk.next("step.slow").go_on();
        assert_eq!(host.output("order"), json!(["one(a)", "slow(b)"]));
        assert!(world.desk.calls_of("step.slow").iter().all(|call| call.key == "order/1/2"));
        host.assert_sound("order");
    }
}

#[test]
fn s28_events_that_came_after_the_failure_are_kept() {
    let world = world();
    world.desk.script("step.one", [failed("Bank", "closed")]);
    let host = world.open();
    host.start("order", "fails_late", Value::Null).unwrap();
    host.wait_kind("order", "event-awaited", 1);
    host.raise("order", "item", json!("an item")).unwrap();
    assert_eq!(host.failure("order").message, "closed");
    rewind(&host, "order").unwrap();
    assert_eq!(host.output("order"), json!(["one(a)", "an item"]));
    host.assert_sound("order");
}

#[test]
fn s28_without_a_failed_operation_it_goes_on_from_before_its_last_turn() {
    let world = world();
    let host = world.open();
    host.start("order", "trip", Value::Null).unwrap();
    host.raise("order", "leg", json!("north")).unwrap();
    host.wait_kind("order", "tag-set", 1);
    host.raise("order", "leg", json!("trap")).unwrap();
    let first = host.failure("order");
    rewind(&host, "order").unwrap();
    // It is told the same once more, and does the same.
    assert_eq!(host.failure("order").kind, first.kind);
    let row = host.engine().summary(&id("order")).unwrap().unwrap();
    assert_eq!((row.execution, row.status), (2, Status::Failed));
    assert_eq!(world.desk.calls().len(), 1);
    let booked = host.block_on(host.engine().query(&id("order"), "booked", Payload::null()));
    assert_eq!(booked.unwrap().to_json().unwrap(), json!(["north"]));
    host.assert_sound("order");
}

#[test]
fn s28_what_cannot_be_rewound_is_refused_with_the_reason() {
    let world = world();
    world.desk.hold("step.one");
    let host = world.open();
    assert_eq!(rewind(&host, "nobody").unwrap_err().code(), "unknown-instance");
    host.start("running", "two_calls", json!("beer")).unwrap();
    let error = rewind(&host, "running").unwrap_err();
    assert_eq!(error.code(), "wrong-status");
    assert!(error.to_string().contains("running is running; only an instance that has failed"), "{error}");

    // It has undone what it did; going on as if not would be wrong.
    host.start("saga", "undoes", Value::Null).unwrap();
    host.failure("saga");
    let error = rewind(&host, "saga").unwrap_err();
    assert!(error.to_string().contains("step.undo, step.undo"), "{error}");
    assert_eq!(host.engine().summary(&id("saga")).unwrap().unwrap().execution, 1);
    world.desk.script("step.do", [text("a seat after all")]);
    host.block_on(host.engine().rewind(&id("saga"), true, "it was done by hand")).unwrap();
    assert_eq!(host.output("saga"), json!("a seat after all"));
    assert_eq!(rewind(&host, "saga").unwrap_err().code(), "wrong-status");
    host.assert_sound("saga");
}

#[test]
fn s28_a_rewind_survives_a_death_at_every_commit() {
    sweep(
        || {
            let world = world();
            world.desk.script("step.slow", (0..2).map(|_| failed("Bank", "closed")));
            world
        },
        |host| {
            host.start("order", "pays", Value::Null)?;
            host.advance_to_end("order", SECOND)?;
            if host.engine().summary(&id("order"))?.expect("its row").status == Status::Failed {
                rewind(host, "order")?;
            }
            host.advance_to_end("order", SECOND)
        },
        |world, host, death| {
            assert_eq!(host.output("order")[4], "execution 1", "{death:?}");
            let calls = world.desk.calls_of("step.slow");
            assert!(calls.iter().all(|call| call.key == "order/1/3"), "{death:?}: {calls:?}");
            host.assert_sound("order");
        },
    );
}

// ---- what others were told ----

fn peers() -> World {
    World::with(&["steps", "peers"])
}

/// Rewinds when everybody has answered what it told them, and that is written.
fn rewind_when_told(host: &Host<'_>, instance: &str, force: bool) -> Result<(), EngineError> {
    let of = id(instance);
    let answered = |row: Summary| row.outbox.is_empty().then_some(());
    host.wait_or_death("the answers", |store| store.summary(&of).expect("a readable store").and_then(answered));
    loop {
        match host.block_on(host.engine().rewind(&of, force, "the bank is back")) {
            Err(EngineError::Busy(_)) => {}
            other => return other,
        }
    }
}

fn ear(host: &Host<'_>, wanted: u32) -> Result<(), EngineError> {
    host.start("ear", "hears", json!({ "wanted": wanted, "page": 9 })).map(drop)
}

#[test]
fn s28_what_others_were_told_before_is_not_told_again_whenever_the_host_dies() {
    sweep(
        || {
            let world = peers();
            world.desk.script("step.two", [failed("Bank", "closed")]);
            world
        },
        |host| {
            ear(host, 2)?;
            host.start("order", "settles", json!("ear"))?;
            host.outcome("order")?.ok();
            if host.engine().summary(&id("order"))?.expect("its row").status == Status::Failed {
                rewind_when_told(host, "order", false)?;
            }
            host.outcome("order").map(drop)
        },
        |world, host, death| {
            assert_eq!(host.output("order"), json!([9, 16, "two(pay)"]), "{death:?}");
            assert_eq!(host.output("ear"), json!([1, 2]), "{death:?}: each signal once");
            let squared: std::collections::BTreeSet<_> =
                world.desk.calls_of("step.square").into_iter().map(|call| call.key).collect();
            assert_eq!(squared.len(), 2, "{death:?}: each orchestration was called once");
            host.assert_sound("order");
            host.assert_sound("ear");
        },
    );
}

#[test]
fn s28_a_sub_orchestration_that_failed_or_was_ended_is_called_again_whenever_the_host_dies() {
    sweep(
        || {
            let world = peers();
            world.desk.script("step.one", [failed("Bank", "closed")]);
            world
        },
        |host| {
            host.start("order", "relies", json!("terminate"))?;
            let of = id("order");
            let wait = |instance: &str, probe: &dyn Fn(&Summary) -> bool| {
                let of = id(instance);
                host.wait_or_death(instance, |store| store.summary(&of).expect("a readable store").filter(probe))
            };
            loop {
                // It fails, unless a host has died with the bank's refusal.
                let is_there = |row: &Summary| row.status.is_final() || row.waits.len() == 1 && !row.untold;
                let Some(row) = wait("order", &is_there) else { return Ok(()) };
                // That the first one is ended may come after the rewind.
                if row.execution == 2 && wait("beside", &|row| row.status.is_final()).is_none() {
                    return Ok(());
                }
                host.advance_to_end("order", 6 * SECOND)?;
                if host.engine().summary(&of)?.expect("its row").status != Status::Failed {
                    return Ok(());
                }
                // It called a leaf after the failure.
                rewind_when_told(host, "order", true)?;
            }
        },
        |_, host, death| {
            assert_eq!(host.output("order"), json!(["one(a)", "nobody asked"]), "{death:?}");
            if host.engine().summary(&id("order")).unwrap().unwrap().execution == 1 {
                assert!(death.is_some());
                return;
            }
            assert_eq!(host.failure("beside").kind, FailureKind::Terminated, "{death:?}: the first attempt");
            assert_eq!(host.output("beside~2"), json!("nobody asked"), "{death:?}: the second");
            assert_eq!(host.count("order", "orchestration-attempt-failed"), 2, "{death:?}");
            host.assert_sound("order");
            host.assert_sound("beside~2");
        },
    );
}

#[test]
fn s28_an_entity_is_asked_again_for_an_operation_that_failed_whenever_the_host_dies() {
    sweep(
        || {
            let world = World::with(&["steps", "entities"]);
            world.desk.script("step.keep", [failed("Bank", "closed")]);
            world
        },
        |host| {
            host.start("order", "saves", json!("a"))?;
            host.outcome("order")?.ok();
            if host.engine().summary(&id("order"))?.expect("its row").status == Status::Failed {
                rewind_when_told(host, "order", false)?;
            }
            host.outcome("order").map(drop)
        },
        |_, host, death| {
            assert_eq!(host.output("order"), json!(6), "{death:?}: one and five, each once");
            assert_eq!(host.count("order", "entity-called"), 2, "{death:?}: asked for under the same number");
            host.assert_sound("order");
            host.assert_sound("@counter@a");
        },
    );
}

#[test]
fn s28_what_goes_on_elsewhere_or_met_another_is_not_rewound() {
    let world = peers();
    world.desk.script("step.one", [failed("Bank", "closed")]);
    let host = world.open();
    ear(&host, 1).unwrap();
    for (orchestration, expected) in [
        ("relies", "it called lingers (beside), which goes on without it; restart it instead"),
        ("collides", "its call of leaf failed since the id ear was taken; restart it instead"),
    ] {
        host.start(orchestration, orchestration, json!("abandon")).unwrap();
        host.failure(orchestration);
        let refused = rewind_when_told(&host, orchestration, true).unwrap_err();
        assert!(refused.to_string().contains(expected), "{refused}");
        assert_eq!(host.engine().summary(&id(orchestration)).unwrap().unwrap().execution, 1);
    }
}

// ---- restart ----

#[test]
fn s28_restart_runs_the_same_again_under_the_same_or_a_new_id() {
    for reopen in [false, true] {
        let world = world();
        let mut host = world.open();
        // Three executions; it begins again with what the first one was given.
        host.run("count", "counts", json!(2));
        if reopen {
            drop(host);
            host = world.open();
        }
        let restart = |host: &Host<'_>, new: Option<&str>| {
            host.block_on(host.engine().restart(&id("count"), new.map(id))).map(|id| id.to_string())
        };
        assert_eq!(restart(&host, None).unwrap(), "count");
        host.output("count");
        assert_eq!(host.engine().summary(&id("count")).unwrap().unwrap().execution, 6);
        assert_eq!(host.records_of("count", Some(4))[0].events[0].summary(99), "counts started with 2");
        assert_eq!(restart(&host, Some("again")).unwrap(), "again");
        host.output("again");
        assert_eq!(host.engine().summary(&id("again")).unwrap().unwrap().execution, 3);
        assert_eq!(restart(&host, Some("again")).unwrap_err().code(), "already-exists");
        host.assert_sound("count");
        host.assert_sound("again");

        world.desk.hold("step.one");
        restart(&host, None).unwrap();
        assert_eq!(restart(&host, None).unwrap_err().code(), "already-exists", "it runs");
        host.block_on(host.engine().terminate(&id("count"), "enough")).unwrap();
    }
}
