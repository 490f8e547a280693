//! Forks: a new instance that shares a history up to an event, with a result
//! replaced if wished, and everything after that its own.

use dacapo::core::event::Event;
use dacapo::core::payload::{Failure, FailureKind, Outcome, Payload};
use dacapo::engine::fork::ForkRequest;
use dacapo::engine::upgrade::Scope;
use dacapo::engine::{EngineError, StartRequest};
use dacapo::replay::fork::fork_recording;
use dacapo::replay::recording::Recording;
use dacapo::replay::{Unwatched, replay};
use serde_json::{Value, json};

use crate::guests::guest;
use crate::harness::{DAY, Host, SECOND, World, id, start, sweep, text};

fn fork(host: &Host<'_>, from: &str, at: usize, edit: Option<Outcome>, new: &str) -> Result<(), EngineError> {
    let at = at as u32;
    host.block_on(host.engine().fork(ForkRequest {
        from: id(from),
        execution: None,
        at,
        edit,
        module: None,
        id: id(new),
    }))
}

/// The number of the `count`th event of that kind.
fn event(host: &Host<'_>, instance: &str, kind: &str, count: usize) -> usize {
    let kinds = host.kinds(instance);
    let mut found = kinds.iter().enumerate().filter(|(_, found)| **found == kind);
    found.nth(count - 1).unwrap_or_else(|| panic!("{count} {kind} in {kinds:?}")).0 + 1
}

#[test]
fn forks_share_up_to_a_result_that_is_replaced_and_go_on_by_themselves() {
    for restart in [false, true] {
        let world = World::new();
        let mut host = world.open();
        let output = host.run("order", "two_calls", json!("beer"));
        let before = host.records("order");
        let at = event(&host, "order", "activity-completed", 1);
        if restart {
            drop(host);
            host = world.open();
        }
        fork(&host, "order", at, Some(text("another")), "what-if").unwrap();
        let forked = host.output("what-if");
        assert!(forked.as_str().unwrap().starts_with("two(beer after another at "), "{forked}");
        assert_ne!(forked, output);
        let keys: Vec<_> = world.desk.calls().into_iter().map(|call| call.key).collect();
        assert_eq!(keys, ["order/1/1", "order/1/2", "what-if/1/2"], "the shared call was not made again");
        assert_eq!(host.records("order"), before, "the other one is as it was");
        let Event::ExecutionStarted(started) = &host.events("what-if")[0] else { panic!() };
        let from = started.forked_from.as_deref().expect("it is linked to where it comes from");
        assert_eq!((from.instance.as_str(), from.execution, from.event as usize), ("order", 1, at));
        ["order", "what-if"].into_iter().for_each(|instance| host.assert_sound(instance));
    }
}

#[test]
fn forks_dispatch_what_is_pending_at_the_cut_under_their_own_keys() {
    let world = World::new();
    ["step.one", "step.two"].into_iter().for_each(|name| world.desk.hold(name));
    let host = world.open();
    host.start("order", "in_order", Value::Null).unwrap();
    let (one, two) = (world.desk.next("step.one"), world.desk.next("step.two"));
    one.answer(text("first"));
    host.wait_kind("order", "activity-completed", 1);
    fork(&host, "order", event(&host, "order", "activity-completed", 1), None, "fork").unwrap();
    let again = world.desk.next("step.two");
    assert_eq!((again.task.idempotency_key().as_str(), again.task.attempt), ("fork/1/2", 1));
    again.answer(text("forked"));
    assert_eq!(host.output("fork"), json!(["first", "forked"]));
    two.answer(text("second"));
    assert_eq!(host.output("order"), json!(["first", "second"]));
    assert_eq!(world.desk.calls_of("step.one").len(), 1);
    ["order", "fork"].into_iter().for_each(|instance| host.assert_sound(instance));
}

#[test]
fn forks_go_on_with_attempts_and_timers_that_the_cut_leaves() {
    let world = World::new();
    let host = world.open();
    host.start("sleeper", "sleeps", json!(DAY)).unwrap();
    host.wait_kind("sleeper", "timer-scheduled", 1);
    let policy = json!({ "first_ms": 60_000, "coefficient": 1.0, "max_ms": 60_000, "attempts": 3, "jitter": 0.0,
        "total_ms": null, "non_retryable": [] });
    let failing = || Err(Failure::retryable(FailureKind::Application, "no"));
    world.desk.script("step.flaky", [failing(), text("first try again")]);
    host.start("trier", "retries", policy).unwrap();
    host.wait_kind("trier", "activity-attempt-failed", 1);
    fork(&host, "sleeper", 2, None, "sleeper-2").unwrap();
    fork(&host, "trier", event(&host, "trier", "activity-attempt-failed", 1), None, "trier-2").unwrap();
    world.clock.advance(60 * SECOND);
    assert!(host.output("trier").is_string() && host.output("trier-2").is_string());
    assert_eq!(host.count("trier-2", "activity-attempt-failed"), 1, "the failed attempt counts for the fork");
    let keys: Vec<_> = world.desk.calls_of("step.flaky").into_iter().map(|call| (call.key, call.attempt)).collect();
    assert!(keys.contains(&("trier-2/1/1".to_owned(), 2)), "{keys:?}");
    world.clock.advance(DAY);
    for sleeper in ["sleeper", "sleeper-2"] {
        assert_eq!(host.output(sleeper), json!("one(awake)"));
    }
    for instance in ["sleeper", "sleeper-2", "trier", "trier-2"] {
        host.assert_sound(instance);
    }
}

#[test]
fn forks_are_told_the_old_name_in_shared_turns_and_their_own_after() {
    for restart in [false, true] {
        let world = World::with(&["forks"]);
        let mut host = world.open();
        host.start("order", "signs", Value::Null).unwrap();
        host.wait_kind("order", "event-awaited", 1);
        fork(&host, "order", event(&host, "order", "event-awaited", 1), None, "fork").unwrap();
        if restart {
            drop(host);
            host = world.open();
        }
        let signed = |instance: &str| {
            host.raise(instance, "go", json!(instance)).unwrap();
            host.output(instance)
        };
        let (order, fork) = (signed("order"), signed("fork"));
        assert_eq!(order[0], fork[0], "the shared part is the same");
        assert_eq!((&fork[0]["by"], &fork[1]["by"]), (&json!("order"), &json!("fork")));
        for drawn in ["random", "guid"] {
            assert_ne!(order[1][drawn], fork[1][drawn], "{drawn} after the cut is the fork's own");
        }
        ["order", "fork"].into_iter().for_each(|instance| host.assert_sound(instance));
    }
}

#[test]
fn forks_of_forks_keep_what_each_part_was_told() {
    let world = World::with(&["forks"]);
    let host = world.open();
    host.start("order", "signs", Value::Null).unwrap();
    host.wait_kind("order", "event-awaited", 1);
    let at = event(&host, "order", "event-awaited", 1);
    fork(&host, "order", at, None, "fork").unwrap();
    let signed = |instance: &str| {
        host.raise(instance, "go", json!(instance)).unwrap();
        host.output(instance)
    };
    let first = signed("fork");
    // Behind the first cut, and before it.
    fork(&host, "fork", event(&host, "fork", "activity-completed", 2), None, "behind").unwrap();
    fork(&host, "fork", 1, None, "before").unwrap();
    assert_eq!(host.output("behind"), first, "all that it signed is shared");
    host.wait_kind("before", "event-awaited", 1);
    let before = signed("before");
    assert_eq!((&before[0]["by"], &before[1]["by"]), (&json!("before"), &json!("before")));
    for n in [0, 1] {
        for drawn in ["random", "guid", "hashed"] {
            assert_ne!(first[n][drawn], before[n][drawn], "{drawn} of its own");
        }
    }
    ["order", "fork", "behind", "before"].into_iter().for_each(|instance| host.assert_sound(instance));
}

#[test]
fn forks_of_a_later_execution_and_of_a_fork_and_of_a_migrated_instance() {
    let world = World::new();
    let host = world.open();
    host.start("order", "collects", json!({ "wanted": 3, "page": 1 })).unwrap();
    host.raise("order", "item", json!(1)).unwrap();
    host.raise("order", "item", json!(2)).unwrap();
    host.wait_summary("order", "the third page", |row| row.execution == 3 && row.turns == 2);
    let mut other = guest("steps").to_vec();
    other.extend(b"\0\x06\x04note!");
    let other = host.upload("steps-too", None, &other).unwrap();
    host.engine().migrate(&other, &Scope::default()).unwrap();
    let last = host.kinds("order").len();
    fork(&host, "order", last, None, "fork").unwrap();
    fork(&host, "fork", last, None, "fork-of-fork").unwrap();
    for (number, instance) in ["order", "fork", "fork-of-fork"].into_iter().enumerate() {
        host.raise(instance, "item", json!(10 + number)).unwrap();
        assert_eq!(host.output(instance), json!([1, 2, 10 + number]));
        let row = host.engine().summary(&id(instance)).unwrap().unwrap();
        assert_eq!((row.execution, row.module), (4, other.hash), "its last page found nothing more to take");
        for execution in [3, 4] {
            let records = host.records_of(instance, Some(execution));
            crate::harness::assert_replays(&host.replay_module(&records), &records);
        }
    }
}

#[test]
fn forks_replace_an_input_an_event_and_let_a_call_fail() {
    let world = World::new();
    let host = world.open();
    host.run("call", "calls", json!("step.one"));
    let fails = Err(Failure::fatal(FailureKind::Application, "no seat"));
    fork(&host, "call", event(&host, "call", "activity-completed", 1), Some(fails), "fails").unwrap();
    assert_eq!(host.output("fails"), json!("application: no seat"));
    fork(&host, "call", 1, Some(Ok(Payload::json("\"step.two\""))), "input").unwrap();
    assert_eq!(host.output("input"), json!("two(x)"));

    host.start("items", "collects", json!({ "wanted": 1, "page": 1 })).unwrap();
    host.raise("items", "item", json!(1)).unwrap();
    host.output("items");
    let raised = host
        .records_of("items", Some(1))
        .iter()
        .flat_map(|turn| &turn.events)
        .position(|event| event.kind() == "event-raised");
    let request = ForkRequest {
        from: id("items"),
        execution: Some(1),
        at: raised.unwrap() as u32 + 1,
        edit: Some(Ok(Payload::json("2"))),
        module: None,
        id: id("event"),
    };
    host.block_on(host.engine().fork(request)).unwrap();
    assert_eq!(host.output("event"), json!([2]));
    ["fails", "input", "event"].into_iter().for_each(|instance| host.assert_sound(instance));
}

#[test]
fn forks_that_cannot_be_made_say_why_and_leave_nothing() {
    let world = World::new();
    let host = world.open();
    host.run("order", "two_calls", json!("beer"));
    let last = host.kinds("order").len();
    let error = |from: &str, at: usize, edit: Option<Outcome>, new: &str| fork(&host, from, at, edit, new).unwrap_err();
    assert_eq!(error("nobody", 1, None, "new").code(), "unknown-instance");
    assert_eq!(error("order", 1, None, "order").code(), "already-exists");
    let ended = error("order", last, None, "new");
    assert_eq!(ended.code(), "invalid-input");
    assert!(ended.to_string().contains(&format!("take event {}", last - 1)), "{ended}");
    assert!(error("order", last + 1, None, "new").to_string().contains(&format!("events 1 to {last}")));
    let not_a_result = error("order", 2, Some(text("x")), "new").to_string();
    assert!(not_a_result.contains("brings no result to replace"), "{not_a_result}");
    assert!(host.engine().summary(&id("new")).unwrap().is_none());
}

#[test]
fn forks_survive_a_death_at_every_commit() {
    let commits = sweep(
        World::new,
        |host| {
            host.start("order", "two_calls", json!("beer"))?;
            host.outcome("order")?.expect("it completes");
            match fork(host, "order", event(host, "order", "activity-completed", 1), Some(text("another")), "fork") {
                Ok(()) | Err(EngineError::AlreadyExists { .. }) => {}
                Err(error) => return Err(error),
            }
            host.outcome("fork").map(drop)
        },
        |world, host, death| {
            let output = host.output("fork");
            assert!(output.as_str().unwrap().starts_with("two(beer after another at "), "{death:?}: {output}");
            let of_fork: Vec<_> = world.desk.calls().into_iter().filter(|call| call.key.starts_with("fork/")).collect();
            assert!(!of_fork.is_empty() && of_fork.iter().all(|call| call.key == "fork/1/2"), "{death:?}: {of_fork:?}");
            ["order", "fork"].into_iter().for_each(|instance| host.assert_sound(instance));
        },
    );
    assert!(commits >= 4, "{commits}");
}

#[test]
fn forks_of_a_recording_are_recordings_and_let_nothing_out() {
    let world = World::new();
    let host = world.open();
    host.run("order", "two_calls", json!("beer"));
    let history = host.engine().history(&id("order"), None).unwrap();
    let recording = Recording::of(&history, Some(guest("steps").to_vec())).unwrap();
    let calls = world.desk.calls().len();
    let at = event(&host, "order", "activity-completed", 1) as u32;
    let made = || fork_recording(&recording, id("fork"), at, Some(text("another")), history_time()).unwrap();
    let forked = made();
    assert_eq!(forked, made(), "the same question has the same answer");
    let forked = Recording::decode(&forked.encode()).unwrap();
    let records = forked.records().unwrap();
    let replayed = replay(&host.replay_module(&records), &records, &mut Unwatched);
    assert!(replayed.matched() && replayed.events == at, "{replayed:?}");
    assert_eq!(world.desk.calls().len(), calls);
    assert!(host.engine().summary(&id("fork")).unwrap().is_none());
    let refused = fork_recording(&recording, id("fork"), 99, None, history_time()).unwrap_err();
    assert!(refused.contains("no event 99"), "{refused}");
}

fn history_time() -> dacapo::core::ids::TimestampMs {
    dacapo::core::ids::TimestampMs(crate::harness::NEW_YEAR)
}

#[test]
fn a_fork_goes_on_in_another_module_where_what_is_shared_replays_in_it() {
    for restart in [false, true] {
        let world = World::with(&["steps", "greet-1", "greet-2"]);
        let mut host = world.open();
        let request = StartRequest { module: Some("greet-1".into()), ..start("ada", "greet", json!("Ada")) };
        host.try_start(request).unwrap();
        host.raise("ada", "go", Value::Null).unwrap();
        assert_eq!(host.output("ada"), json!("version 1 greets Ada"));
        if restart {
            drop(host);
            host = world.open();
        }
        // Where the two part is said by the difference itself.
        let records = host.records("ada");
        let other = host.engine().modules().find("greet-2").unwrap().hash;
        let module = host.engine().modules().load(other).unwrap();
        let found = replay(&module, &records, &mut Unwatched).divergence.expect("they differ");
        let fork = |at: u32, new: &str| {
            let module = Some("greet-2".to_owned());
            let request = ForkRequest { from: id("ada"), execution: None, at, edit: None, module, id: id(new) };
            host.block_on(host.engine().fork(request))
        };
        assert!(found.in_words().repairs[2].contains(&format!("--at {} --module", found.common)), "{found:?}");
        fork(found.common, "new").unwrap();
        assert_eq!(host.output("new"), json!("version 2 greets Ada"));
        assert_eq!(host.engine().summary(&id("new")).unwrap().unwrap().module, other);
        host.assert_sound("new");
        let unknown = host.block_on(host.engine().fork(ForkRequest {
            from: id("ada"),
            execution: None,
            at: 1,
            edit: None,
            module: Some("greet-3".into()),
            id: id("none"),
        }));
        assert_eq!(unknown.unwrap_err().code(), "unknown-module");
    }
}
