//! Remote workers: leases, lost workers, late reports. S03, S19, S42.

use std::collections::BTreeMap;
use std::future::ready;
use std::sync::Arc;

use dacapo::core::event::Event;
use dacapo::core::namespace::Namespace;
use dacapo::core::payload::{Failure, Outcome, Payload};
use dacapo::core::retry::RetryPolicy;
use dacapo::core::task::Task;
use dacapo::engine::{
    Claimed, EngineError, Interceptor, Interceptors, Registration, Reported, Standing, WorkersOf, view,
};
use serde_json::{Value, json};

use crate::harness::{Host, SECOND, World, failed, id, sweep, text};

const LEASE: u64 = 30 * SECOND;

fn world() -> World {
    World::with(&["steps", "tasks"])
}

fn call() -> Value {
    json!({ "name": "printer.print", "queue": "printers" })
}

fn workers<'h>(host: &'h Host<'_>) -> WorkersOf<'h> {
    host.engine().workers_of(&Namespace::default())
}

fn register(host: &Host<'_>) -> String {
    let activities = BTreeMap::from([("printer.print".to_owned(), None)]);
    let registration = Registration { name: "test".into(), queues: vec!["printers".into()], activities };
    workers(host).register(registration).unwrap()
}

/// What is there now.
fn claim(host: &Host<'_>, worker: &str, most: usize) -> Vec<Claimed> {
    host.block_on(workers(host).claim(worker, most, LEASE, ready(()))).unwrap()
}

/// The next one.
fn next(host: &Host<'_>, worker: &str) -> Result<Claimed, EngineError> {
    let claimed = host.block_on(workers(host).claim(worker, 1, LEASE, std::future::pending()))?;
    Ok(claimed.into_iter().next().expect("it waits until there is one"))
}

fn report(host: &Host<'_>, token: &str, outcome: Outcome) -> Reported {
    host.block_on(workers(host).report(token, outcome)).unwrap()
}

fn heartbeat(host: &Host<'_>, token: &str, progress: &str) -> Standing {
    workers(host).heartbeat(token, Payload::of(progress).ok()).unwrap()
}

fn pending(host: &Host<'_>, instance: &str) -> Value {
    let whereabouts = |call: &_| Some(host.engine().whereabouts(&id(instance), call));
    let seen = view::instance(&**host.engine().store(), &id(instance), whereabouts).unwrap();
    serde_json::to_value(seen.pending).unwrap()[0].clone()
}

#[test]
fn s42_tasks_wait_visibly_are_claimed_in_batches_and_reported_once() {
    let world = world();
    let host = world.open();
    host.start("order", "call_all", json!([call(), call(), call()])).unwrap();
    host.wait_kind("order", "activity-scheduled", 3);
    host.settle("order");
    let waits = pending(&host, "order");
    assert_eq!(
        (&waits["queue"], &waits["state"], &waits["served"]),
        (&json!("printers"), &json!("waiting"), &json!(false))
    );
    let worker = register(&host);
    assert_eq!(pending(&host, "order")["served"], true);
    let two = claim(&host, &worker, 2);
    assert_eq!(two.iter().map(|c| c.task.idempotency_key()).collect::<Vec<_>>(), ["order/1/1", "order/1/2"]);
    assert_eq!(pending(&host, "order")["state"], "running");
    assert_eq!(pending(&host, "order")["worker"], worker);
    let third = next(&host, &worker).unwrap();
    assert_eq!(claim(&host, &worker, 9).len(), 0);
    let seen = workers(&host).list();
    assert_eq!((seen[0].name.as_str(), seen[0].tasks.len()), ("test", 3));
    for claimed in two.iter().chain([&third]) {
        assert_eq!(report(&host, &claimed.token, text("printed")), Reported::Recorded);
        assert_eq!(report(&host, &claimed.token, text("again")), Reported::Ignored, "it is reported twice");
    }
    assert_eq!(report(&host, "no-such-token", text("printed")), Reported::Ignored);
    assert!(host.output("order").as_array().unwrap().iter().all(|came| came["to"] == "printed"));
    host.assert_sound("order");
}

#[test]
fn s19_a_worker_that_disappears_has_its_task_given_out_again_and_its_late_report_ignored() {
    let world = world();
    let host = world.open();
    let (gone, other) = (register(&host), register(&host));
    host.start("order", "call_with", call()).unwrap();
    let first = next(&host, &gone).unwrap();
    assert_eq!(heartbeat(&host, &first.token, "half"), Standing::Continue);
    world.clock.advance(LEASE - 1);
    assert_eq!(claim(&host, &other, 1).len(), 0, "it may still be at work");
    world.clock.advance(1);
    let second = next(&host, &other).unwrap();
    assert_eq!((second.task.attempt, second.task.idempotency_key()), (1, first.task.idempotency_key()));
    assert_eq!(second.task.progress().unwrap().to_string(), "\"half\"", "what it reported is not lost with it");
    assert_eq!(heartbeat(&host, &first.token, "late"), Standing::Lost);
    assert_eq!(report(&host, &first.token, text("late")), Reported::Ignored);
    assert_eq!(report(&host, &second.token, text("printed")), Reported::Recorded);
    assert_eq!(host.output("order")["to"], "printed");
    assert_eq!(host.kinds("order"), ["execution-started", "activity-scheduled", "activity-completed", "completed"]);
    host.assert_sound("order");
}

#[test]
fn s19_a_task_that_loses_every_worker_ends_in_a_failure_after_its_attempts() {
    for (attempts, recorded) in [(2, 1), (0, 0)] {
        let world = world();
        let host = world.open();
        let worker = register(&host);
        let mut poison = call();
        poison["attempts"] = json!(attempts);
        host.start("order", "call_with", poison).unwrap();
        // With a policy each loss is an attempt; without one three workers may be lost.
        let losses = if attempts == 0 { 3 } else { attempts };
        for lost in 1..=losses {
            let claimed = next(&host, &worker).unwrap();
            assert_eq!(claimed.task.attempt, if attempts == 0 { 1 } else { lost });
            world.clock.advance(LEASE);
        }
        let came = host.output("order");
        assert_eq!((&came["kind"], &came["error_type"]), (&json!("timed-out"), &json!("worker-lost")), "{came}");
        assert_eq!(host.count("order", "activity-attempt-failed"), recorded);
        host.assert_sound("order");
    }
}

#[test]
fn s17_heartbeats_and_extensions_keep_a_lease_and_only_heartbeats_are_heartbeats() {
    let world = world();
    let host = world.open();
    let worker = register(&host);
    let mut silent = call();
    silent["heartbeat"] = json!(2 * LEASE);
    host.start("order", "call_with", silent).unwrap();
    let claimed = next(&host, &worker).unwrap();
    for _ in 0..3 {
        world.clock.advance(LEASE - 1);
        assert_eq!(heartbeat(&host, &claimed.token, "on it"), Standing::Continue);
    }
    world.clock.advance(LEASE - 1);
    assert_eq!(workers(&host).extend(&claimed.token, 10 * LEASE).unwrap(), Standing::Continue);
    world.clock.advance(LEASE + 1);
    assert_eq!(host.output("order")["error_type"], "heartbeat", "the lease is long, but it was silent");
    assert_eq!(workers(&host).extend(&claimed.token, LEASE).unwrap(), Standing::Lost);
    workers(&host).extend(&claimed.token, 0).unwrap_err();
    host.assert_sound("order");
}

#[test]
fn s21_a_remote_worker_learns_of_the_cancellation_at_its_next_heartbeat() {
    let world = world();
    let host = world.open();
    let worker = register(&host);
    host.start("order", "call_until", call()).unwrap();
    let claimed = next(&host, &worker).unwrap();
    assert_eq!(heartbeat(&host, &claimed.token, "on it"), Standing::Continue);
    host.raise("order", "enough", Value::Null).unwrap();
    host.output("order");
    assert_eq!(heartbeat(&host, &claimed.token, "on it"), Standing::Cancelled);
    assert_eq!(report(&host, &claimed.token, text("printed")), Reported::Ignored);
    assert_eq!(heartbeat(&host, &claimed.token, "on it"), Standing::Lost, "it was reported");
    host.assert_sound("order");
}

#[test]
fn s03_a_host_that_takes_over_gives_out_again_what_was_leased() {
    let world = world();
    let host = world.open();
    let worker = register(&host);
    host.start("order", "call_with", call()).unwrap();
    let before = next(&host, &worker).unwrap();
    drop(host);
    let host = world.open();
    let unknown = host.block_on(workers(&host).claim(&worker, 1, LEASE, ready(()))).unwrap_err();
    assert_eq!(unknown.code(), "unknown-worker", "it is to register again");
    assert_eq!(heartbeat(&host, &before.token, "on it"), Standing::Lost);
    assert_eq!(report(&host, &before.token, text("late")), Reported::Ignored);
    let worker = register(&host);
    let again = next(&host, &worker).unwrap();
    assert_eq!((again.task.attempt, again.task.idempotency_key()), (1, before.task.idempotency_key()));
    assert_eq!(report(&host, &again.token, text("printed")), Reported::Recorded);
    assert_eq!(host.output("order")["to"], "printed");
    host.assert_sound("order");
}

#[test]
fn s19_a_worker_that_leaves_gives_back_what_it_has() {
    let world = world();
    let host = world.open();
    let (leaving, other) = (register(&host), register(&host));
    host.start("order", "call_with", call()).unwrap();
    let first = next(&host, &leaving).unwrap();
    workers(&host).unregister(&leaving).unwrap();
    let second = next(&host, &other).unwrap();
    assert_eq!(second.task.attempt, 1);
    assert_eq!(report(&host, &first.token, text("late")), Reported::Ignored);
    report(&host, &second.token, text("printed"));
    assert_eq!(host.output("order")["to"], "printed");
    assert_eq!(workers(&host).unregister(&leaving).unwrap_err().code(), "unknown-worker");
}

#[test]
fn s16_a_worker_brings_the_default_policy_of_what_it_serves() {
    let world = world();
    let host = world.open();
    let policy = RetryPolicy {
        first_interval_ms: 0,
        coefficient: 1.0,
        max_interval_ms: 0,
        max_attempts: 2,
        total_timeout_ms: None,
        jitter: 0.0,
        non_retryable: vec!["Jam".into()],
    };
    let activities = BTreeMap::from([("printer.print".to_owned(), Some(policy.clone()))]);
    let registration = Registration { name: String::new(), queues: vec!["printers".into()], activities };
    let worker = workers(&host).register(registration.clone()).unwrap();
    host.start("order", "call_with", call()).unwrap();
    report(&host, &next(&host, &worker).unwrap().token, failed("Busy", "not now"));
    let second = next(&host, &worker).unwrap();
    assert_eq!(second.task.attempt, 2);
    report(&host, &second.token, failed("Jam", "no paper"));
    assert_eq!(host.output("order")["error_type"], "Jam");
    let bad = Some(RetryPolicy { coefficient: 0.5, ..policy });
    let activities = BTreeMap::from([("printer.print".to_owned(), bad)]);
    let refused = workers(&host).register(Registration { activities, ..registration }).unwrap_err();
    assert!(refused.to_string().contains("coefficient"), "{refused}");
}

#[test]
fn s06_a_remote_task_survives_a_death_at_every_commit() {
    sweep(
        world,
        |host| {
            let worker = register(host);
            host.start("order", "call_with", json!({ "name": "printer.print", "queue": "printers", "attempts": 2 }))?;
            while host.engine().summary(&id("order"))?.is_some_and(|summary| !summary.status.is_final()) {
                let claimed = next(host, &worker)?;
                let answer = if claimed.task.attempt == 1 { failed("Busy", "not now") } else { text("printed") };
                let token = claimed.token.clone();
                host.block_on(workers(host).report(&token, answer))?;
                if claimed.task.attempt == 2 {
                    break;
                }
            }
            host.outcome("order").map(drop)
        },
        |_, host, death| {
            assert_eq!(host.output("order")["to"], "printed", "{death:?}");
            assert_eq!(host.count("order", "activity-attempt-failed"), 1, "{death:?}");
            host.assert_sound("order");
        },
    );
}

// ---- around every attempt ----

struct Stamps;

impl Interceptor for Stamps {
    fn before(&self, task: &Task, input: &mut Payload, headers: &mut BTreeMap<String, String>) -> Result<(), Failure> {
        headers.insert("trace".into(), task.idempotency_key());
        *input = Payload::json(input.to_string().replace('x', "stamped"));
        Ok(())
    }

    fn after(&self, _task: &Task, outcome: Outcome) -> Outcome {
        outcome.map(|output| Payload::json(output.to_string().replace("stamped", "checked")))
    }
}

struct Fails(fn() -> Result<(), Failure>);

impl Interceptor for Fails {
    fn before(&self, _: &Task, _: &mut Payload, _: &mut BTreeMap<String, String>) -> Result<(), Failure> {
        self.0()
    }
}

#[test]
fn s10_interceptors_see_every_attempt_native_wasm_and_remote() {
    let mut world = World::with(&["tasks", "beats"]);
    world.settings.interceptors = Interceptors(vec![Arc::new(Stamps)]);
    let host = world.open();
    assert_eq!(host.run("native", "call_with", json!({}))["to"], "slow(checked)");
    let wasm = host.run("wasm", "call_with", json!({ "name": "beat.count", "attempts": 2 }));
    assert_eq!(wasm["to"], "checked from 3, attempt 2");
    let worker = register(&host);
    host.start("remote", "call_with", call()).unwrap();
    let claimed = next(&host, &worker).unwrap();
    assert_eq!(
        (claimed.headers["trace"].as_str(), claimed.task.input.to_string()),
        ("remote/1/1", "\"stamped\"".into())
    );
    report(&host, &claimed.token, text("stamped"));
    assert_eq!(host.output("remote")["to"], "checked");
    let recorded = host.events("native").into_iter().find_map(|event| match event {
        Event::ActivityScheduled(call) => Some(call.input.to_string()),
        _ => None,
    });
    assert_eq!(recorded.as_deref(), Some("\"x\""), "the journal has what the guest asked for");
    host.assert_sound_history("wasm");
    host.assert_sound_history("remote");
}

#[test]
fn s10_an_interceptor_that_fails_or_panics_is_a_recorded_failure_and_no_loop() {
    let refuses: fn() -> Result<(), Failure> = || {
        let Err(failure) = failed("NotAllowed", "no token") else { unreachable!() };
        Err(failure)
    };
    let panics: fn() -> Result<(), Failure> = || panic!("out of ink");
    for (fails, said) in [(refuses, "no token"), (panics, "panicked: out of ink")] {
        let mut world = world();
        world.settings.interceptors = Interceptors(vec![Arc::new(Fails(fails))]);
        let host = world.open();
        let worker = register(&host);
        let came = host.run("native", "call_with", json!({ "attempts": 2 }));
        assert!(came["message"].as_str().unwrap().contains(said), "{came}");
        assert_eq!(host.count("native", "activity-attempt-failed"), 1, "each attempt is recorded");
        assert_eq!(world.desk.calls(), []);
        host.start("remote", "call_with", call()).unwrap();
        host.wait_kind("remote", "activity-scheduled", 1);
        host.settle("remote");
        assert_eq!(claim(&host, &worker, 1).len(), 0, "it is not handed out");
        assert!(host.output("remote")["message"].as_str().unwrap().contains(said));
        host.assert_sound("remote");
    }
}

#[test]
fn s08_an_interceptor_of_the_orchestration_is_around_every_call_and_replays() {
    for restart in [false, true] {
        let world = world();
        world.desk.hold("step.keep_text");
        let mut host = world.open();
        let call = |name: &str| json!({ "name": name, "input": "abc" });
        host.start("order", "call_sealed", json!([call("step.keep_text"), call("step.two"), call("step.one")]))
            .unwrap();
        let mut held = world.desk.next("step.keep_text");
        if restart {
            drop(host);
            host = world.open();
            held = world.desk.next("step.keep_text");
        }
        assert_eq!(held.task.input.to_string(), "\"cba\"", "only the sealed input leaves");
        held.go_on();
        let came = host.output("order");
        assert_eq!((&came[0]["to"], &came[1]["error_type"]), (&json!("abc"), &json!("NotAllowed")));
        assert_eq!(came[2]["to"], ")abc(eno");
        assert_eq!(host.count("order", "activity-scheduled"), 2, "what is refused is not asked for");
        host.assert_sound("order");
    }
}
