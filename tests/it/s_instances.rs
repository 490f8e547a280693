//! Instances and versions: S22 to S26, S34.

use std::collections::BTreeSet;

use dacapo::core::event::Event;
use dacapo::core::payload::FailureKind;
use dacapo::core::summary::Status;
use dacapo::engine::{IdReuse, StartOutcome, StartRequest};
use serde_json::{Value, json};

use crate::guests::guest;
use crate::harness::{DAY, Death, Host, SECOND, World, id, start, sweep};

// ---- starts ----

#[test]
fn s22_a_start_that_was_acknowledged_runs_once_whatever_dies_after_it() {
    let world = World::new();
    for n in 1..=6 {
        let host = world.open_until(Death::After(n));
        let acknowledged = host.start(&format!("order-{n}"), "two_calls", json!("beer"));
        drop(host);
        let host = world.open();
        if acknowledged.is_ok() {
            assert!(host.output(&format!("order-{n}")).as_str().unwrap().starts_with("two(beer"));
            host.assert_sound(&format!("order-{n}"));
        }
    }
    // The answer comes with the first commit, so all but the first host gave one.
    let host = world.open();
    let all = host.engine().list(&Default::default(), None, 100).unwrap();
    assert!(all.iter().all(|summary| summary.status == Status::Completed || summary.status == Status::Running));
    assert!(all.len() >= 5, "{}", all.len());
}

#[test]
fn s22_a_start_survives_a_death_at_every_commit() {
    sweep(
        World::new,
        |host| {
            host.start("order", "calls", json!("step.one"))?;
            host.outcome("order").map(drop)
        },
        |world, host, death| {
            assert_eq!(host.output("order"), json!("one(x)"), "{death:?}");
            let keys: BTreeSet<String> = world.desk.calls().into_iter().map(|call| call.key).collect();
            assert_eq!(keys.len(), 1, "{death:?}: it runs once");
            host.assert_sound("order");
        },
    );
}

#[test]
fn s22_a_start_is_idempotent_by_id_as_the_caller_wishes() {
    let world = World::new();
    world.desk.hold("step.one");
    let mut host = world.open();
    assert_eq!(host.start("order", "two_calls", json!("beer")).unwrap(), StartOutcome::Started);
    for ended in [false, true] {
        let reject = StartRequest { reuse: IdReuse::Reject, ..start("order", "two_calls", json!("wine")) };
        let error = host.try_start(reject).unwrap_err();
        assert_eq!(error.code(), "already-exists");
        assert!(error.to_string().contains("order"), "{error}");
        assert_eq!(host.start("order", "two_calls", json!("wine")).unwrap(), StartOutcome::Existing);
        let error = host.start("order", "sleeps", json!(1)).unwrap_err();
        assert_eq!(error.code(), "other-orchestration");
        assert!(error.to_string().contains("two_calls") && error.to_string().contains("sleeps"), "{error}");
        if !ended {
            drop(host);
            host = world.open();
            world.desk.next("step.one").go_on();
            host.output("order");
        }
    }
    assert_eq!(world.desk.calls_of("step.two").len(), 1);
    assert_eq!(host.events("order")[0].summary(99), r#"two_calls started with "beer""#, "the first one stays");
    host.assert_sound("order");
}

#[test]
fn s22_of_many_starts_at_once_with_one_id_one_begins_it() {
    let world = World::new();
    let host = world.open();
    let outcomes = host.block_on(async {
        let starts = (0..50).map(|_| host.engine().start(start("order", "two_calls", json!("beer"))));
        futures::future::try_join_all(starts).await.unwrap()
    });
    assert_eq!(outcomes.iter().filter(|outcome| **outcome == StartOutcome::Started).count(), 1);
    host.output("order");
    assert_eq!(world.desk.calls().len(), 2);
    host.assert_sound("order");
}

// ---- events ----

fn collect(wanted: usize, page: usize) -> Value {
    json!({ "wanted": wanted, "page": page })
}

#[test]
fn s23_events_are_matched_by_name_first_in_first_out() {
    let world = World::new();
    let host = world.open();
    host.start("order", "collects", collect(5, 99)).unwrap();
    for n in 0..5 {
        host.raise("order", "other", json!(100 + n)).unwrap();
        host.raise("order", "item", json!(n)).unwrap();
    }
    assert_eq!(host.output("order"), json!([0, 1, 2, 3, 4]));
    host.assert_sound("order");
}

#[test]
fn s23_events_that_come_early_are_kept_also_over_a_restart() {
    let world = World::new();
    let mut host = world.open();
    host.start("order", "loses_a_race", json!(false)).unwrap();
    host.wait_kind("order", "timer-scheduled", 1);
    host.settle("order");
    world.clock.advance(SECOND);
    host.wait_kind("order", "timer-fired", 1);
    for n in 1..=2 {
        host.raise("order", "unheard", json!(n)).unwrap();
        drop(host);
        host = world.open();
    }
    let seen = dacapo::engine::view::instance(&**host.engine().store(), &id("order"), |_| None).unwrap();
    assert_eq!(seen.untaken_events, ["unheard", "unheard"]);
    host.raise("order", "item", json!(1)).unwrap();
    host.raise("order", "item", json!(2)).unwrap();
    assert_eq!(host.output("order"), json!(["timer", "item 1", "item 2"]));
    host.assert_sound("order");
}

#[test]
fn s23_early_events_survive_continue_as_new_in_their_order() {
    for restart in [false, true] {
        let world = World::new();
        let mut host = world.open();
        // Five executions; all events are there before the second begins.
        host.start("order", "collects", collect(9, 2)).unwrap();
        for n in 0..9 {
            host.raise("order", "item", json!(n)).unwrap();
            if restart {
                drop(host);
                host = world.open();
            }
        }
        assert_eq!(host.output("order"), json!([0, 1, 2, 3, 4, 5, 6, 7, 8]));
        assert_eq!(host.engine().summary(&id("order")).unwrap().unwrap().execution, 5);
        host.assert_sound("order");
    }
}

#[test]
fn s23_events_raised_at_once_arrive_each_once_whenever_the_host_dies() {
    sweep(
        World::new,
        |host| {
            host.start("order", "collects", collect(6, 2))?;
            // Those that were acknowledged are not raised again.
            let summary = host.engine().summary(&id("order"))?.expect("it was started");
            if summary.status.is_final() {
                return Ok(());
            }
            for n in raised(host)..6 {
                host.raise("order", "item", json!(n))?;
            }
            host.outcome("order").map(drop)
        },
        |_, host, death| {
            assert_eq!(host.output("order"), json!([0, 1, 2, 3, 4, 5]), "{death:?}");
            host.assert_sound("order");
        },
    );
}

/// Events of `order` that the journal has.
fn raised(host: &Host<'_>) -> usize {
    let last = host.engine().summary(&id("order")).unwrap().map_or(0, |summary| summary.execution);
    let records = (1..=last).flat_map(|execution| host.records_of("order", Some(execution)));
    records.flat_map(|record| record.events).filter(|event| matches!(event, Event::EventRaised { .. })).count()
}

/// The event and the timer come in one turn; the timer wins. The event goes to
/// the wait after it.
#[test]
fn s23_an_event_whose_wait_loses_a_race_in_the_same_turn_is_not_lost() {
    for anew in [false, true] {
        for restart in [false, true] {
            let world = World::new();
            let mut host = world.open();
            host.start("order", "loses_a_race", json!(anew)).unwrap();
            host.wait_kind("order", "event-awaited", 1);
            host.settle("order");
            world.clock.advance_quietly(SECOND);
            host.raise("order", "item", json!(1)).unwrap();
            let first = host.records_of("order", Some(1));
            let together = first.iter().find(|turn| turn.events[0].kind() == "event-raised").expect("its turn");
            assert_eq!(together.events[1].kind(), "timer-fired", "both in one turn");
            assert!(together.events.iter().any(|event| event.kind() == "operation-cancelled"));
            if restart {
                drop(host);
                host = world.open();
            }
            host.raise("order", "item", json!(2)).unwrap();
            let expected = if anew { json!(["item 1", "item 2"]) } else { json!(["timer", "item 1", "item 2"]) };
            assert_eq!(host.output("order"), expected, "anew: {anew}, restart: {restart}");
            host.assert_sound("order");
        }
    }
}

#[test]
fn s23_an_event_that_was_handed_to_a_wait_but_not_taken_survives_continue_as_new() {
    for restart in [false, true] {
        let world = World::new();
        let mut host = world.open();
        host.start("order", "leaves_a_wait", Value::Null).unwrap();
        host.wait_kind("order", "timer-scheduled", 1);
        host.raise("order", "item", json!(7)).unwrap();
        host.settle("order");
        if restart {
            drop(host);
            host = world.open();
        }
        host.settle("order");
        world.clock.advance(SECOND);
        assert_eq!(host.output("order"), json!(7));
        assert_eq!(host.engine().summary(&id("order")).unwrap().unwrap().execution, 2);
        host.assert_sound("order");
    }
}

// ---- the end ----

#[test]
fn s24_terminate_ends_an_instance_at_once_whatever_it_waits_for() {
    for restart in [false, true] {
        let world = World::new();
        world.desk.hold("step.one");
        let mut host = world.open();
        host.start("call", "two_calls", json!("beer")).unwrap();
        host.start("sleep", "sleeps", json!(30 * DAY)).unwrap();
        host.start("wait", "collects", collect(1, 1)).unwrap();
        world.desk.next("step.one");
        host.wait_kind("sleep", "timer-scheduled", 1);
        host.wait_kind("wait", "event-awaited", 1);
        if restart {
            drop(host);
            host = world.open();
        }
        for instance in ["call", "sleep", "wait"] {
            host.block_on(host.engine().terminate(&id(instance), "enough")).unwrap();
            let failure = host.failure(instance);
            assert_eq!((failure.kind, failure.message.as_str()), (FailureKind::Terminated, "enough"));
            let summary = host.engine().summary(&id(instance)).unwrap().unwrap();
            assert_eq!((summary.status, summary.waits.len()), (Status::Terminated, 0));
            let error = host.block_on(host.engine().terminate(&id(instance), "more than enough")).unwrap_err();
            assert_eq!(error.code(), "instance-ended");
        }
        drop(host);
        let host = world.open();
        world.clock.advance(60 * DAY);
        for instance in ["call", "sleep", "wait"] {
            host.settle(instance);
            assert_eq!(host.kinds(instance).last(), Some(&"terminated"));
            host.assert_sound(instance);
        }
    }
}

#[test]
fn s24_cancel_is_a_request_that_the_guest_sees_and_cleans_up_after() {
    for restart in [false, true] {
        let world = World::new();
        let mut host = world.open();
        host.start("order", "obeys", Value::Null).unwrap();
        host.wait_kind("order", "timer-scheduled", 1);
        if restart {
            drop(host);
            host = world.open();
        }
        host.block_on(host.engine().cancel(&id("order"), "closing time")).unwrap();
        let failure = host.failure("order");
        assert_eq!(failure.message, "ended as asked: closing time");
        assert_eq!(failure.error_type, "Cancelled");
        assert_eq!(world.desk.calls_of("step.one")[0].input, r#""clean up""#);
        host.assert_sound("order");
    }
}

#[test]
fn s26_continue_as_new_starts_afresh_and_survives_a_death_at_every_commit() {
    sweep(
        World::new,
        |host| {
            host.start("count", "counts", json!(2))?;
            host.outcome("count").map(drop)
        },
        |world, host, death| {
            assert_eq!(host.output("count"), json!("execution 3 with 2 tags"), "{death:?}");
            let keys: BTreeSet<String> = world.desk.calls().into_iter().map(|call| call.key).collect();
            assert_eq!(keys.into_iter().collect::<Vec<_>>(), ["count/1/1", "count/2/1", "count/3/1"], "{death:?}");
            let starts: Vec<_> = (1..=3).map(|execution| host.records_of("count", Some(execution))).collect();
            for (number, records) in starts.iter().enumerate() {
                let Some(Event::ExecutionStarted(started)) = records[0].events.first() else { panic!("a start") };
                assert_eq!(started.input.to_json(), Some(json!(2 - number)));
                assert_eq!(started.execution as usize, number + 1);
            }
            host.assert_sound("count");
        },
    );
}

// ---- versions ----

#[test]
fn s34_a_new_version_changes_no_running_instance_and_new_starts_take_it() {
    for restart in [false, true] {
        let world = World::with(&["steps"]);
        let mut host = world.open();
        let first = host.upload("greeter", Some("1"), &guest("greet-1")).unwrap();
        host.start("old", "greet", json!("Ada")).unwrap();
        host.wait_kind("old", "event-awaited", 1);
        world.clock.advance(1);
        let second = host.upload("greeter", Some("2"), &guest("greet-2")).unwrap();
        assert_ne!(first.hash, second.hash);
        if restart {
            drop(host);
            host = world.open();
        }
        host.start("new", "greet", json!("Bob")).unwrap();
        let named = StartRequest { module: Some("greeter@1".to_owned()), ..start("named", "greet", json!("Cyd")) };
        host.try_start(named).unwrap();
        for (instance, module, expected) in [
            ("old", first.hash, "version 1 greets Ada"),
            ("new", second.hash, "version 2 greets Bob"),
            ("named", first.hash, "version 1 greets Cyd"),
        ] {
            host.raise(instance, "go", Value::Null).unwrap();
            assert_eq!(host.output(instance), json!(expected));
            assert_eq!(host.engine().summary(&id(instance)).unwrap().unwrap().module, module);
            host.assert_sound(instance);
        }
    }
}
