//! Entities: keyed state, one operation at a time, locks over several. (S33)

use std::collections::BTreeSet;
use std::thread;

use dacapo::core::namespace::Namespace;
use dacapo::core::payload::{Failure, FailureKind, Outcome, Payload};
use dacapo::core::summary::Status;
use dacapo::engine::fork::ForkRequest;
use dacapo::engine::{EngineError, EntityOperation, IdReuse, StartRequest};
use serde_json::{Value, json};

use crate::harness::{Death, Host, SECOND, World, id, start, sweep};

fn world() -> World {
    World::with(&["steps", "entities"])
}

/// An operation of a counter.
fn of_counter<'a>(key: &'a str, operation: &'a str, input: Value, request: &'a str) -> EntityOperation<'a> {
    let (namespace, input) = (Namespace::default(), Payload::json(input.to_string()));
    EntityOperation { namespace, kind: "counter", key, operation, input, request }
}

fn ask(host: &Host<'_>, key: &str, operation: &str, input: Value, request: &str) -> Result<Outcome, EngineError> {
    host.block_on(host.engine().call_entity(of_counter(key, operation, input, request)))
}

fn call(host: &Host<'_>, key: &str, operation: &str, input: Value, request: &str) -> Value {
    let outcome = ask(host, key, operation, input, request).expect("an answer");
    outcome.unwrap_or_else(|failure| panic!("refused: {failure}")).to_json().expect("JSON")
}

fn refusal(host: &Host<'_>, key: &str, operation: &str, input: Value, request: &str) -> Failure {
    ask(host, key, operation, input, request).expect("an answer").expect_err("a refusal")
}

/// The number of a counter, asked under a name that is not used otherwise.
fn number(host: &Host<'_>, key: &str) -> i64 {
    use std::sync::atomic::{AtomicU32, Ordering};
    static COUNT: AtomicU32 = AtomicU32::new(0);
    let request = format!("get-{}", COUNT.fetch_add(1, Ordering::Relaxed));
    call(host, key, "get", Value::Null, &request).as_i64().expect("a number")
}

#[test]
fn s33_an_entity_exists_from_its_first_use_and_a_failed_operation_leaves_its_state() {
    for restart in [false, true] {
        let world = world();
        let mut host = world.open();
        let steps: [(&str, Value, Result<i64, &str>); 4] = [
            ("add", json!(5), Ok(5)),
            ("spoil", json!(70), Err("spoiled at 75")),
            ("add", json!(2), Ok(7)),
            ("add", json!("two"), Err("input of operation \"add\" of entity \"counter\": expected i64")),
        ];
        for (n, (operation, input, expected)) in steps.into_iter().enumerate() {
            if restart {
                drop(host);
                host = world.open();
            }
            let request = format!("r{n}");
            match expected {
                Ok(number) => assert_eq!(call(&host, "a", operation, input, &request), json!(number)),
                Err(message) => {
                    let refused = refusal(&host, "a", operation, input, &request);
                    assert!(refused.message.starts_with(message), "{refused}");
                }
            }
        }
        assert_eq!(number(&host, "a"), 7);
        assert_eq!(number(&host, "another key"), 0);
        assert_eq!(call(&host, "a", "add", json!(5), "r0"), json!(5), "the same request again is not done again");
        let summary = host.engine().summary(&id("@counter@a")).unwrap().unwrap();
        assert_eq!((summary.orchestration.as_str(), summary.status), ("@counter", Status::Running));
        host.assert_sound("@counter@a");
    }
}

#[test]
fn s33_what_does_not_exist_is_told_with_what_does() {
    let world = world();
    let host = world.open();
    let unknown = refusal(&host, "a", "ad", json!(1), "r1");
    assert_eq!(unknown.kind, FailureKind::NotFound);
    assert!(unknown.message.contains("there are: add, get, spoil"), "{unknown}");
    let no_kind = host
        .block_on(
            host.engine().call_entity(EntityOperation { kind: "count", ..of_counter("a", "add", Value::Null, "r1") }),
        )
        .unwrap_err();
    assert_eq!(no_kind.code(), "unknown-entity-kind");
    assert!(no_kind.to_string().contains("counter"), "{no_kind}");
    let reserved = host.start("@counter@b", "adds", json!({ "key": "a", "times": 1 })).unwrap_err();
    assert_eq!(reserved.code(), "invalid-input");
    let event = host.raise("@counter@a", "go", Value::Null).unwrap_err();
    assert!(event.to_string().contains("takes operations and no events"), "{event}");
    let output = host.run("o", "oversteps", Value::Null);
    let told: Vec<&str> = output.as_array().unwrap().iter().map(|line| line.as_str().unwrap()).collect();
    assert_eq!(told.len(), 8, "{told:#?}");
    assert!(told[0].contains("at least one entity"), "{told:#?}");
    assert!(told[1].contains("unlock them first"), "{told:#?}");
    assert!(told[2].contains("is not among the locked ones"), "{told:#?}");
    assert_eq!(told[3], "b is 1", "it may be signalled all the same");
    assert!(told[4].contains("no module offers the entity kind \"nothing\""), "{told:#?}");
    assert!(told[5].contains("no operation \"got\""), "{told:#?}");
    assert!(told[6].contains("takes operations and no events"), "{told:#?}");
    assert!(told[7].contains("is one of an entity"), "{told:#?}");
    let refused = refusal(&host, "a", "reach", json!("b"), "r2");
    assert!(refused.message.contains("an entity may only signal"), "{refused}");
    call(&host, "a", "poke", json!("b"), "r3");
    host.wait_kind("@counter@b", "responded", 3);
    assert_eq!(number(&host, "b"), 2);
    for instance in ["o", "@counter@a", "@counter@b"] {
        host.assert_sound(instance);
    }
}

#[test]
fn s33_operations_of_100_callers_run_one_at_a_time_and_once_though_hosts_die() {
    let world = world();
    let everybody = |host: &Host<'_>| -> Vec<Result<Outcome, EngineError>> {
        let requests: Vec<String> = (0..100).map(|n| format!("caller-{n}")).collect();
        host.block_on(async {
            let asked =
                requests.iter().map(|request| host.engine().call_entity(of_counter("a", "add", json!(1), request)));
            futures::future::join_all(asked).await
        })
    };
    for number in 1..=5 {
        for death in [Death::Before(number), Death::After(number)] {
            let host = world.open_until(death);
            for result in everybody(&host) {
                match result {
                    Ok(outcome) => drop(outcome.expect("no operation fails")),
                    Err(error) => assert_eq!(error.code(), "stopped"),
                }
            }
        }
    }
    let host = world.open();
    let answers: BTreeSet<i64> = everybody(&host)
        .into_iter()
        .map(|result| result.unwrap().unwrap().to_json().unwrap().as_i64().unwrap())
        .collect();
    assert_eq!(answers, (1..=100).collect(), "each caller has an answer of its own");
    assert_eq!(number(&host, "a"), 100);
    let summary = host.engine().summary(&id("@counter@a")).unwrap().unwrap();
    assert!(summary.execution > 1 && summary.events < 1000, "its history stays short: {summary:?}");
    host.assert_sound("@counter@a");
}

#[test]
fn s33_calls_of_orchestrations_run_once_whenever_the_host_dies() {
    sweep(
        world,
        |host| {
            for instance in ["one", "two"] {
                host.start(instance, "adds", json!({ "key": "a", "times": 2 }))?;
            }
            for instance in ["one", "two"] {
                host.outcome(instance)?.expect("it completes");
            }
            Ok(())
        },
        |_, host, death| {
            let mut seen: Vec<i64> = Vec::new();
            for instance in ["one", "two"] {
                seen.extend(serde_json::from_value::<Vec<i64>>(host.output(instance)).unwrap());
                assert_eq!(host.count(instance, "entity-called"), 2);
                assert_eq!(host.count(instance, "entity-answered"), 2);
                host.assert_sound(instance);
            }
            seen.sort_unstable();
            assert_eq!(seen, [1, 2, 3, 4], "{death:?}");
            assert_eq!(number(host, "a"), 4, "{death:?}");
            host.assert_sound("@counter@a");
        },
    );
}

#[test]
fn s33_signals_of_orchestrations_arrive_once_whenever_the_host_dies() {
    sweep(
        world,
        |host| {
            host.start("one", "pokes", json!("a"))?;
            host.outcome("one").map(drop)
        },
        |_, host, death| {
            // What fails after a signal is nobody's concern.
            assert_eq!(host.output("one"), Value::Null, "{death:?}");
            assert_eq!(number(host, "a"), 1, "{death:?}");
            host.assert_sound("one");
            host.assert_sound("@counter@a");
        },
    );
}

#[test]
fn s33_an_interceptor_is_around_calls_of_entities_whenever_the_host_dies() {
    sweep(
        world,
        |host| {
            host.start("one", "calls_through", json!("a"))?;
            host.outcome("one").map(drop)
        },
        |_, host, death| {
            assert_eq!(host.output("one"), json!([104, "NotAllowed"]), "{death:?}");
            assert_eq!(number(host, "a"), 4, "{death:?}: two of the signal, two of the call");
            assert_eq!(host.count("one", "entity-called"), 2, "{death:?}: refused before it is asked for");
            host.assert_sound("one");
        },
    );
}

#[test]
fn s33_a_purge_never_makes_an_operation_run_twice_whenever_the_host_dies() {
    sweep(
        world,
        |host| {
            // What called it may not have heard of it yet; then it is not removed.
            let _ = host.engine().purge(&id("@counter@a"));
            host.start("one", "cashes", json!("a"))?;
            host.outcome("one").map(drop)
        },
        |_, host, death| {
            assert_eq!(host.output("one"), 5, "{death:?}: one that had forgotten would have nothing");
            host.wait_summary("one", "the answers", |summary| summary.outbox.is_empty());
            if host.engine().summary(&id("@counter@a")).unwrap().is_some() {
                host.engine().purge(&id("@counter@a")).unwrap();
            }
            host.assert_sound("one");
        },
    );
}

#[test]
fn s33_waiting_operations_are_handed_over_in_one_turn_and_run_after_the_one_under_way() {
    for restart in [false, true] {
        let world = world();
        world.desk.hold("step.keep");
        let host = world.open();
        let requests: Vec<String> = (0..6).map(|n| format!("r{n}")).collect();
        thread::scope(|scope| {
            let slow = scope.spawn(|| ask(&host, "a", "add_kept", json!(1), "slow"));
            world.desk.next("step.keep");
            let others = scope.spawn(|| {
                host.block_on(async {
                    let all = requests
                        .iter()
                        .map(|request| host.engine().call_entity(of_counter("a", "add", json!(1), request)));
                    futures::future::join_all(all).await
                })
            });
            host.wait_kind("@counter@a", "request-received", 7);
            assert_eq!(host.count("@counter@a", "responded"), 0, "one at a time");
            host.engine().shutdown();
            assert_eq!(slow.join().unwrap().unwrap_err().code(), "stopped");
            assert!(others.join().unwrap().iter().all(Result::is_err));
        });
        drop(host);
        if restart {
            drop(world.open());
        }
        let host = world.open();
        world.desk.next("step.keep").go_on();
        assert_eq!(call(&host, "a", "add_kept", json!(1), "slow"), json!(1));
        host.wait_kind("@counter@a", "responded", 7);
        let records = host.records("@counter@a");
        let turn = records.iter().find(|turn| turn.events.iter().any(|event| event.kind() == "responded")).unwrap();
        assert_eq!(turn.events.iter().filter(|event| event.kind() == "responded").count(), 7, "in one turn");
        assert_eq!(number(&host, "a"), 7);
        host.assert_sound("@counter@a");
    }
}

#[test]
fn s33_a_deleted_entity_is_gone_and_begins_anew_when_it_is_used_again() {
    for restart in [false, true] {
        let world = world();
        let mut host = world.open();
        call(&host, "a", "add", json!(5), "r1");
        assert_eq!(call(&host, "a", "forget", Value::Null, "r2"), json!("a"));
        host.wait_summary("@counter@a", "its end", |summary| summary.status == Status::Completed);
        if restart {
            drop(host);
            host = world.open();
        }
        assert_eq!(number(&host, "a"), 0);
        assert_eq!(call(&host, "a", "add", json!(5), "r1"), json!(5), "a request of its life before");
        assert_eq!(number(&host, "a"), 0);
        assert_eq!(call(&host, "a", "delete", Value::Null, "r3"), Value::Null, "every kind has that");
        host.wait_summary("@counter@a", "its second end", |summary| summary.status == Status::Completed);
        let summary = host.engine().summary(&id("@counter@a")).unwrap().unwrap();
        assert_eq!(summary.execution, 2);
        host.assert_sound("@counter@a");
    }
}

#[test]
fn s33_an_operation_that_traps_fails_alone_whenever_the_host_dies() {
    sweep(
        world,
        |host| {
            host.start("one", "survives", json!("a"))?;
            host.outcome("one").map(drop)
        },
        |_, host, death| {
            assert_eq!(host.output("one"), json!([1, "Trapped", 2]), "{death:?}");
            assert_eq!(number(host, "a"), 2, "{death:?}: its state is as it was before");
            assert_eq!(host.count("@counter@a", "operation-aborted"), 1, "{death:?}");
            host.assert_sound("one");
            host.assert_sound("@counter@a");
        },
    );
}

#[test]
fn s33_who_waits_outside_for_an_operation_that_traps_is_told_and_others_beside_it_run() {
    let world = world();
    let host = world.open();
    let (one, trapped, two) = host.block_on(async {
        let ask =
            |operation, input, request| host.engine().call_entity(of_counter("a", operation, json!(input), request));
        futures::join!(ask("add", 1, "r1"), ask("blow_up", 70, "r2"), ask("add", 1, "r3"))
    });
    assert_eq!(one.unwrap().unwrap().to_json(), Some(json!(1)));
    assert_eq!(trapped.unwrap().unwrap_err().kind, FailureKind::Trapped);
    assert_eq!(two.unwrap().unwrap().to_json(), Some(json!(2)));
    assert_eq!(refusal(&host, "a", "blow_up", json!(70), "r2").kind, FailureKind::Trapped, "the same answer again");
    assert_eq!(number(&host, "a"), 2);
    host.assert_sound("@counter@a");
}

#[test]
fn s33_an_entity_that_has_failed_or_was_terminated_answers_nothing_until_it_is_purged() {
    for how in ["traps after a wait", "terminated"] {
        for restart in [false, true] {
            let world = world();
            let mut host = world.open();
            call(&host, "a", "add", json!(1), "r1");
            if how == "terminated" {
                host.block_on(host.engine().terminate(&id("@counter@a"), "enough")).unwrap();
            } else {
                let asked = ask(&host, "a", "blow_up_later", Value::Null, "r2");
                assert_eq!(asked.unwrap_err().code(), "request-unanswered");
            }
            host.wait_summary("@counter@a", "its end", |summary| summary.status.is_final());
            if restart {
                drop(host);
                host = world.open();
            }
            assert_eq!(ask(&host, "a", "add", json!(1), "r3").unwrap_err().code(), "instance-ended", "{how}");
            host.start("one", "adds", json!({ "key": "a", "times": 1 })).unwrap();
            let failure = host.failure("one");
            assert_eq!(failure.error_type, "EntityEnded", "{how}");
            assert!(failure.message.contains("once it is purged"), "{failure}");
            host.start("mover", "moves", json!({ "from": "b", "to": "a", "amount": 1 })).unwrap();
            assert_eq!(host.failure("mover").error_type, "EntityEnded", "{how}: it cannot be locked");
            assert_eq!(number(&host, "b"), 0, "{how}: the others do not notice");
            let rewound = host.block_on(host.engine().rewind(&id("@counter@a"), true, "again")).unwrap_err();
            assert!(!rewound.to_string().is_empty());
            host.assert_sound("@counter@a");
            host.engine().purge(&id("@counter@a")).unwrap();
            assert_eq!(number(&host, "a"), 0, "{how}: it begins anew");
            host.assert_sound("one");
            host.assert_sound("mover");
        }
    }
}

#[test]
fn s33_a_history_that_begins_anew_takes_state_and_lock_along_whenever_the_host_dies() {
    sweep(
        world,
        |host| {
            host.start("one", "fills", json!("a"))?;
            host.outcome("one").map(drop)
        },
        |_, host, death| {
            assert_eq!(host.output("one"), json!(10), "{death:?}");
            assert_eq!(number(host, "a"), 10, "{death:?}");
            let summary = host.engine().summary(&id("@counter@a")).unwrap().unwrap();
            assert_eq!(summary.execution, 2, "{death:?}");
            let began: Vec<_> = host.kinds("@counter@a");
            assert!(began.contains(&"gate-carried"), "{death:?}: {began:?}");
            host.assert_sound("one");
            host.assert_sound("@counter@a");
        },
    );
}

#[test]
fn s33_an_entity_is_not_forked_and_neither_is_who_holds_one() {
    let world = world();
    world.desk.hold("step.one");
    let host = world.open();
    host.start("holder", "holds", json!({ "keys": ["a"], "how": "complete" })).unwrap();
    let held = world.desk.next("step.one");
    let fork = |from: &str, to: &str| {
        let at = host.kinds(from).len() as u32;
        let fork = ForkRequest { from: id(from), execution: None, at, edit: None, module: None, id: id(to) };
        host.block_on(host.engine().fork(fork)).unwrap_err().to_string()
    };
    assert!(fork("holder", "other").contains("holds entities"));
    assert!(fork("@counter@a", "other").contains("is an entity"));
    assert!(fork("holder", "@counter@b").contains("is an entity"));
    held.go_on();
    host.output("holder");
}

// ---- locks ----

#[test]
fn s33_lockers_of_overlapping_sets_in_different_orders_all_get_through() {
    let world = world();
    let keys = ["a", "b", "c"];
    let movers: Vec<(String, Value)> = (0..12)
        .map(|n| {
            let (from, to) = (keys[n % 3], keys[(n + 1 + n / 6) % 3]);
            (format!("move-{n}"), json!({ "from": from, "to": to, "amount": n + 1 }))
        })
        .collect();
    // Hosts die while they hold and wait.
    for number in [3, 7, 12] {
        let host = world.open_until(Death::After(number));
        for (instance, input) in &movers {
            if host.start(instance, "moves", input.clone()).is_err() {
                break;
            }
        }
        let _ = movers.iter().find(|(instance, _)| host.outcome(instance).is_err());
    }
    let host = world.open();
    for (instance, input) in &movers {
        host.start(instance, "moves", input.clone()).unwrap();
    }
    for (instance, _) in &movers {
        host.output(instance);
        host.assert_sound(instance);
    }
    assert_eq!(keys.iter().map(|key| number(&host, key)).sum::<i64>(), 0, "what one lost another got");
    for key in keys {
        host.assert_sound(&format!("@counter@{key}"));
    }
}

#[test]
fn s33_two_lockers_survive_a_death_at_every_commit_and_leave_nothing_locked() {
    sweep(
        world,
        |host| {
            host.start("there", "moves", json!({ "from": "a", "to": "b", "amount": 3 }))?;
            host.start("back", "moves", json!({ "from": "b", "to": "a", "amount": 2 }))?;
            host.outcome("there")?.expect("it completes");
            host.outcome("back")?.expect("it completes");
            Ok(())
        },
        |_, host, death| {
            assert_eq!((number(host, "a"), number(host, "b")), (-1, 1), "{death:?}");
            for instance in ["there", "back", "@counter@a", "@counter@b"] {
                host.assert_sound(instance);
            }
        },
    );
}

#[test]
fn s33_while_locked_only_the_holder_reaches_an_entity_and_its_end_unlocks_however_it_ends() {
    for how in ["complete", "fail", "panic", "anew", "unlock", "forget", "terminate", "purge", "replace"] {
        for restart in [false, true] {
            let world = world();
            world.desk.hold("step.one");
            let mut host = world.open();
            host.start("holder", "holds", json!({ "keys": ["b", "a"], "how": how })).unwrap();
            let mut held = world.desk.next("step.one");
            if restart {
                drop(host);
                host = world.open();
                held = world.desk.next("step.one");
            }
            thread::scope(|scope| {
                let other = scope.spawn(|| ask(&host, "b", "add", json!(1), "r1"));
                host.start("waits", "holds", json!({ "keys": ["a", "b"], "how": "complete" })).unwrap();
                host.wait_kind("@counter@b", "request-received", 1);
                host.wait_kind("@counter@a", "lock-requested", 2);
                assert_eq!(host.count("@counter@b", "responded"), 1, "{how}: only the holder's");
                match how {
                    "terminate" | "purge" => {
                        host.block_on(host.engine().terminate(&id("holder"), "enough")).unwrap();
                    }
                    "replace" => {
                        let reuse = IdReuse::TerminateAndReplace;
                        let next = start("holder", "adds", json!({ "key": "c", "times": 1 }));
                        host.try_start(StartRequest { reuse, ..next }).unwrap();
                    }
                    _ => held.go_on(),
                }
                if how == "purge" {
                    host.wait_summary("holder", "that its letters are answered", |row| row.outbox.is_empty());
                    host.engine().purge(&id("holder")).unwrap();
                }
                assert_eq!(other.join().unwrap().unwrap().unwrap().to_json(), Some(json!(101)), "{how}");
                world.desk.next("step.one").go_on();
                assert_eq!(host.output("waits"), json!("completed"), "{how}");
            });
            assert_eq!((number(&host, "a"), number(&host, "b")), (100, 101), "{how}");
            if how == "anew" || how == "unlock" {
                host.raise("holder", "end", Value::Null).unwrap();
            }
            if how != "purge" {
                let _ = host.outcome("holder").unwrap();
                host.assert_sound("holder");
            }
            for instance in ["waits", "@counter@a", "@counter@b"] {
                host.assert_sound(instance);
            }
        }
    }
}

#[test]
fn s33_a_holder_that_dies_with_its_host_holds_on_and_one_that_ended_has_let_go() {
    for how in ["panic", "anew", "unlock", "forget"] {
        sweep(
            world,
            |host| {
                host.start("holder", "holds", json!({ "keys": ["a", "b"], "how": how }))?;
                if how == "anew" || how == "unlock" {
                    match host.raise("holder", "end", Value::Null) {
                        Err(error) if error.code() != "instance-ended" => return Err(error),
                        _ => {}
                    }
                }
                host.outcome("holder").map(drop)
            },
            |_, host, death| {
                let _ = host.outcome("holder").unwrap();
                assert_eq!((number(host, "a"), number(host, "b")), (100, 0), "{how} {death:?}: nothing stays locked");
                for instance in ["holder", "@counter@a", "@counter@b"] {
                    host.assert_sound(instance);
                }
            },
        );
    }
}

#[test]
fn s33_a_lock_that_is_given_up_while_it_waits_locks_nothing() {
    for restart in [false, true] {
        let world = world();
        world.desk.hold("step.one");
        let mut host = world.open();
        host.start("holder", "holds", json!({ "keys": ["b"], "how": "complete" })).unwrap();
        let mut held = world.desk.next("step.one");
        host.start("hasty", "gives_up", json!(["a", "b"])).unwrap();
        host.wait_kind("@counter@b", "lock-requested", 2);
        host.settle("hasty");
        if restart {
            drop(host);
            host = world.open();
            held = world.desk.next("step.one");
        }
        world.clock.advance(SECOND);
        assert_eq!(host.output("hasty"), json!("gave up"));
        assert_eq!(number(&host, "a"), 0, "what it had locked by then is free");
        held.go_on();
        host.output("holder");
        assert_eq!(number(&host, "b"), 100);
        for instance in ["holder", "hasty", "@counter@a", "@counter@b"] {
            host.assert_sound(instance);
        }
    }
}
