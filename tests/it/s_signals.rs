//! Signals between instances: S23 and S26 for events that come from another
//! instance, each taken exactly once.

use dacapo::core::event::Event;
use dacapo::core::payload::FailureKind;
use dacapo::engine::{Clock as _, IdReuse, StartRequest};
use serde_json::{Value, json};

use crate::harness::{Host, SECOND, World, id, start, sweep};

fn world() -> World {
    World::with(&["steps", "peers"])
}

fn letters(to: &[&str], values: std::ops::Range<u32>) -> Value {
    json!({ "to": to, "values": values.collect::<Vec<_>>() })
}

fn hear(wanted: usize, page: usize) -> Value {
    json!({ "wanted": wanted, "page": page })
}

/// Events of every execution of an instance.
fn all_events(host: &Host<'_>, instance: &str) -> Vec<Event> {
    let last = host.engine().summary(&id(instance)).unwrap().unwrap().execution;
    (1..=last).flat_map(|execution| host.records_of(instance, Some(execution))).flat_map(|turn| turn.events).collect()
}

fn count(host: &Host<'_>, instance: &str, kind: &str) -> usize {
    all_events(host, instance).iter().filter(|event| event.kind() == kind).count()
}

#[test]
fn s23_a_signal_is_taken_by_its_receiver_and_its_sender_hears_of_it() {
    let world = world();
    let host = world.open();
    host.start("ear", "hears", hear(3, 99)).unwrap();
    assert_eq!(host.run("mouth", "tells", letters(&["ear"], 0..3)), json!(["taken", "taken", "taken"]));
    assert_eq!(host.output("ear"), json!([0, 1, 2]));
    let sent = host.events("mouth").into_iter().find(|event| event.kind() == "signal-sent").unwrap();
    assert_eq!(sent.summary(99), r#"#1 "item" to ear with 0"#);
    let received = host.events("ear").into_iter().find(|event| event.kind() == "signal-received").unwrap();
    assert_eq!(received.summary(99), r#""item" from mouth with 0"#);
    assert_eq!(host.run("self", "tells_itself", Value::Null), json!(7));
    for instance in ["ear", "mouth", "self"] {
        host.assert_sound(instance);
    }
}

#[test]
fn s23_a_signal_that_nobody_can_take_is_a_typed_failure() {
    let world = world();
    for restart in [false, true] {
        let mut host = world.open();
        host.start("ear", "hears", hear(0, 1)).unwrap();
        host.output("ear");
        if restart {
            drop(host);
            host = world.open();
        }
        let mouth = format!("mouth-{restart}");
        let told = host.run(&mouth, "tells", letters(&["ear", "nobody", "", "a\nb"], 0..1));
        assert_eq!(told, json!(["not-found InstanceEnded", "not-found UnknownInstance", "not-found", "not-found"]));
        let failed = host.events(&mouth).into_iter().find_map(|event| match event {
            Event::SignalFailed { failure, .. } => Some(failure),
            _ => None,
        });
        let failed = failed.expect("a failure");
        assert_eq!(failed.kind, FailureKind::NotFound);
        assert_eq!(failed.message, "instance ear has ended (completed); the signal was not taken");
        host.assert_sound(&mouth);
        host.assert_sound("ear");
    }
}

/// Two senders, two receivers on two workers, pages of two: receivers continue as
/// new with signals on their way and events that wait.
#[test]
fn s23_s26_signals_are_taken_exactly_once_whenever_the_host_dies() {
    for all_at_once in [false, true] {
        let teller = if all_at_once { "tells_at_once" } else { "tells" };
        sweep(
            world,
            |host| {
                for ear in ["ear-1", "ear-2"] {
                    host.start(ear, "hears", hear(4, 2))?;
                }
                host.start("mouth-1", teller, letters(&["ear-1", "ear-2"], 0..2))?;
                host.start("mouth-2", teller, letters(&["ear-2", "ear-1"], 2..4))?;
                for instance in ["ear-1", "ear-2", "mouth-1", "mouth-2"] {
                    host.outcome(instance)?.expect("none fails");
                }
                Ok(())
            },
            |_, host, death| {
                for mouth in ["mouth-1", "mouth-2"] {
                    assert_eq!(host.output(mouth), json!(["taken", "taken", "taken", "taken"]), "{death:?}");
                    host.assert_sound(mouth);
                }
                for ear in ["ear-1", "ear-2"] {
                    let mut heard: Vec<u32> = serde_json::from_value(host.output(ear)).unwrap();
                    let of_first: Vec<u32> = heard.iter().copied().filter(|n| *n < 2).collect();
                    assert_eq!(of_first, [0, 1], "{death:?}: those of one sender in their order");
                    heard.sort_unstable();
                    assert_eq!(heard, [0, 1, 2, 3], "{death:?}");
                    assert_eq!(count(host, ear, "signal-received"), 4, "{death:?}");
                    host.assert_sound(ear);
                }
            },
        );
    }
}

/// The sender is gone, or in another execution, when its signals are taken.
#[test]
fn s23_s26_signals_outlast_the_execution_that_sent_them() {
    for anew in [false, true] {
        let values = if anew { 0..5 } else { 0..2 };
        let wanted = values.len();
        sweep(
            world,
            |host| {
                host.start("ear", "hears", hear(wanted, 3))?;
                host.start("mouth", "tells_and_goes", json!([letters(&["ear"], values.clone()), anew]))?;
                host.outcome("mouth")?.expect("it returns");
                host.outcome("ear")?.expect("it hears all");
                Ok(())
            },
            |_, host, death| {
                let expected: Vec<usize> = (0..wanted).collect();
                assert_eq!(host.output("ear"), json!(expected), "{death:?}");
                assert_eq!(host.output("mouth"), json!(if anew { 3 } else { 1 }), "{death:?}");
                let answered = host.wait_summary("mouth", "answers", |summary| summary.outbox.is_empty());
                assert!(!answered.is_open(), "{death:?}: nothing is left to do");
                assert_eq!(count(host, "mouth", "signal-sent"), wanted, "{death:?}");
                assert_eq!(count(host, "ear", "signal-received"), wanted, "{death:?}");
                host.assert_sound("mouth");
                host.assert_sound("ear");
                let seen = dacapo::engine::view::instance(&**host.engine().store(), &id("mouth"), |_| None).unwrap();
                assert!(seen.output.is_some(), "answers after the end do not hide it");
            },
        );
    }
}

/// What a receiver passes on to its next execution does not grow with what it heard.
#[test]
fn s26_what_was_answered_is_not_remembered_for_ever() {
    let world = world();
    let host = world.open();
    host.start("ear", "hears", hear(40, 2)).unwrap();
    let told = host.run("mouth", "tells", letters(&["ear"], 0..40));
    assert_eq!(told.as_array().unwrap().len(), 40);
    host.output("ear");
    let last = host.engine().summary(&id("ear")).unwrap().unwrap().execution;
    assert_eq!(last, 21);
    for execution in 2..=last {
        let records = host.records_of("ear", Some(execution));
        let Some(Event::ExecutionStarted(started)) = records[0].events.first() else { panic!("a start") };
        // The sender sends the next one only when it has heard of the one before.
        assert!(started.seen.len() <= 1, "{:?}", started.seen);
    }
    host.assert_sound("ear");
}

#[test]
fn s24_what_was_asked_for_in_a_turn_that_the_host_ended_is_not_sent() {
    for restart in [false, true] {
        let world = world();
        let mut host = world.open();
        host.start("ear", "hears", hear(1, 99)).unwrap();
        host.start("mouth", "tells_and_breaks", json!("ear")).unwrap();
        assert_eq!(host.failure("mouth").kind, FailureKind::Trapped);
        if restart {
            drop(host);
            host = world.open();
        }
        assert!(host.engine().summary(&id("mouth")).unwrap().unwrap().outbox.is_empty());
        host.raise("ear", "item", json!(1)).unwrap();
        assert_eq!(host.output("ear"), json!([1]), "only what was raised");
        host.assert_sound("mouth");
        host.assert_sound("ear");
    }
}

#[test]
fn s23_a_signal_to_one_that_is_to_begin_later_waits_for_it() {
    for restart in [false, true] {
        let world = world();
        let mut host = world.open();
        let at = world.clock.now().plus(60 * SECOND);
        host.try_start(StartRequest { start_at: Some(at), ..start("ear", "hears", hear(1, 9)) }).unwrap();
        assert_eq!(host.run("mouth", "tells", letters(&["ear"], 5..6)), json!(["taken"]));
        if restart {
            drop(host);
            host = world.open();
        }
        host.settle("ear");
        world.clock.advance(60 * SECOND);
        assert_eq!(host.output("ear"), json!([5]));
        host.assert_sound("ear");
        host.assert_sound("mouth");
    }
}

/// The sender has ended, and another life has its id, while its signals may still be
/// on their way.
#[test]
fn s22_s23_a_sender_that_is_replaced_loses_no_signal() {
    sweep(
        world,
        |host| {
            host.start("ear", "hears", hear(2, 9))?;
            host.start("mouth", "tells_and_goes", json!([letters(&["ear"], 0..1), false]))?;
            host.outcome("mouth")?.expect("it returns");
            let again = start("mouth", "tells_and_goes", json!([letters(&["ear"], 1..2), false]));
            host.try_start(StartRequest { reuse: IdReuse::ReplaceFinished, ..again })?;
            host.outcome("mouth")?.expect("it returns");
            host.outcome("ear")?.expect("it hears both");
            Ok(())
        },
        |_, host, death| {
            assert_eq!(host.output("ear"), json!([0, 1]), "{death:?}");
            host.assert_sound("ear");
            host.assert_sound("mouth");
        },
    );
}

#[test]
fn s28_what_others_were_told_is_not_taken_back_by_a_rewind() {
    let world = world();
    let host = world.open();
    host.start("ear", "hears", hear(2, 9)).unwrap();
    host.start("mouth", "tells_and_fails", json!("ear")).unwrap();
    host.failure("mouth");
    host.settle("mouth");
    host.block_on(host.engine().rewind(&id("mouth"), false, "once more")).unwrap();
    host.failure("mouth");
    assert_eq!(host.engine().summary(&id("mouth")).unwrap().unwrap().execution, 2);
    assert_eq!(host.count("mouth", "signal-delivered"), 1, "it has its answer");
    host.raise("ear", "item", json!(5)).unwrap();
    assert_eq!(host.output("ear"), json!([1, 5]), "what it told once is not told again");
    host.assert_sound("mouth");
}
