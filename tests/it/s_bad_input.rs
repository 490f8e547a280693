//! Bad input, each a clear error and nothing lost: S38 to S42.

use std::time::Duration;

use dacapo::core::payload::{Failure, FailureKind};
use dacapo::engine::{EngineError, StartRequest, view};
use dacapo::sandbox::inspect::Refused;
use dacapo::store::Grants;
use serde_json::{Value, json};

use crate::guests::{bare_guest, guest};
use crate::harness::{Host, World, id, start};

// ---- modules ----

fn refusal(host: &Host<'_>, bytes: &[u8]) -> Refused {
    let error = host.upload("bad", None, bytes).expect_err("it is refused");
    assert_eq!(error.code(), "module-refused");
    let EngineError::Refused(refused) = error else { panic!("{error:?}") };
    assert!(host.engine().modules().all().unwrap().is_empty(), "nothing is kept");
    refused
}

#[test]
fn s38_what_is_not_wasm_is_refused() {
    let world = World::with(&[]);
    let host = world.open();
    for (bytes, reason) in [
        (&b""[..], "expected the bytes 00 61 73 6d first, found"),
        (b"#!/bin/sh", "found 23 21 2f 62"),
        (b"\0asm", "not a WebAssembly component"),
    ] {
        let refused = refusal(&host, bytes);
        assert!(matches!(refused, Refused::NotAComponent(_)) && refused.to_string().contains(reason), "{refused}");
    }
}

#[test]
fn s38_a_truncated_or_changed_module_is_refused() {
    let world = World::with(&[]);
    let host = world.open();
    let whole = guest("greet-1");
    for part in [9, whole.len() / 3, whole.len() - 1] {
        let refused = refusal(&host, &whole[..part]);
        assert!(matches!(refused, Refused::NotAComponent(_) | Refused::WrongWorld { .. }), "{part}: {refused}");
    }
    let mut changed = whole.to_vec();
    changed[whole.len() / 2..].iter_mut().take(64).for_each(|byte| *byte = !*byte);
    let refused = host.upload("bad", None, &changed);
    assert!(refused.is_err() || refused.is_ok_and(|module| module.offers.len() == 1), "never a crash");
}

#[test]
fn s38_a_core_module_without_the_contracts_types_is_refused() {
    let world = World::with(&[]);
    let host = world.open();
    let refused = refusal(&host, b"\0asm\x01\0\0\0");
    assert!(
        refused.to_string().starts_with("not a WebAssembly component: a core module, and")
            || matches!(refused, Refused::WrongWorld { .. }),
        "{refused}"
    );
}

#[test]
fn s38_a_component_of_another_world_is_refused() {
    let world = World::with(&[]);
    let host = world.open();
    let refused = refusal(&host, b"\0asm\x0d\0\x01\0");
    assert!(matches!(refused, Refused::WrongWorld { .. }), "{refused}");
    assert!(refused.to_string().contains("found no exports"), "{refused}");
}

#[test]
fn s38_sockets_and_sleep_are_refused_by_name() {
    let world = World::with(&[]);
    let host = world.open();
    let Refused::Forbidden { imports } = refusal(&host, &guest("reaches-out")) else { panic!("forbidden imports") };
    let all = imports.join(" ");
    for name in ["wasi:sockets/tcp", "wasi:sockets/ip-name-lookup", "wasi:clocks/monotonic-clock", "#subscribe"] {
        assert!(all.contains(name), "{name} in {all}");
    }
    assert!(imports.iter().all(|name| !name.contains("wall-clock") && !name.contains("random")), "{all}");
}

#[test]
fn s38_a_module_that_is_too_large_is_refused_before_it_is_read() {
    let mut world = World::with(&[]);
    world.settings.sandbox.module_bytes = 1_000;
    let host = world.open();
    let refused = refusal(&host, &guest("greet-1"));
    assert!(matches!(refused, Refused::TooLarge { limit: 1_000, .. }), "{refused}");
    assert!(refused.to_string().contains("at most 1000"), "{refused}");
}

#[test]
fn s38_a_module_whose_describe_traps_is_refused_with_what_happened() {
    let world = World::with(&[]);
    let host = world.open();
    let refused = refusal(&host, &guest("broken-describe"));
    assert!(matches!(refused, Refused::Describe(_)), "{refused}");
    assert!(refused.to_string().contains("unreachable"), "{refused}");
}

#[test]
fn s38_a_name_that_cannot_be_and_grants_for_orchestrations_are_refused() {
    let world = World::with(&[]);
    let host = world.open();
    for name in ["", "a b", "a@b", "a/b", &"x".repeat(201)] {
        assert_eq!(host.upload(name, None, &guest("greet-1")).unwrap_err().code(), "invalid-input", "{name:?}");
    }
    let grants = Grants { hosts: vec!["example.org".to_owned()], ..Grants::default() };
    let upload = dacapo::engine::Upload {
        bytes: guest("greet-1").to_vec(),
        name: "greeter".to_owned(),
        grants,
        ..Default::default()
    };
    let error = host.engine().upload(upload).unwrap_err();
    assert!(error.to_string().contains("granted nothing"), "{error}");
}

#[test]
fn s38_a_core_module_that_carries_the_contract_is_taken_and_runs() {
    let world = World::with(&[]);
    let host = world.open();
    let bytes = bare_guest("bare");
    assert_eq!(bytes[4..8], [1, 0, 0, 0], "a core module, no component");
    let module = host.upload("bare", None, &bytes).unwrap();
    assert_eq!(module.offers[0].name, "bare");
    assert_eq!(host.run("order", "bare", json!("metal")), json!("one(metal)"));
    host.assert_sound("order");
}

// ---- payloads ----

fn small_payloads() -> World {
    let mut world = World::new();
    world.settings.limits.payload_bytes = 1_000;
    world
}

#[test]
fn s39_a_start_input_and_an_event_over_the_limit_are_refused_where_they_enter() {
    let world = small_payloads();
    let host = world.open();
    let large = json!("x".repeat(999));
    let error = host.start("order", "two_calls", large.clone()).unwrap_err();
    assert_eq!(error.code(), "too-large");
    assert!(error.to_string().contains("1001 bytes, at most 1000"), "{error}");
    assert_eq!(host.outcome("order").unwrap_err().code(), "unknown-instance");

    host.start("wait", "collects", json!({ "wanted": 1, "page": 1 })).unwrap();
    assert_eq!(host.raise("wait", "item", large).unwrap_err().code(), "too-large");
    host.raise("wait", "item", json!(1)).unwrap();
    assert_eq!(host.output("wait"), json!([1]));
    host.assert_sound("wait");
}

#[test]
fn s39_an_activity_input_over_the_limit_is_a_failure_that_the_guest_sees() {
    let world = small_payloads();
    let host = world.open();
    world.desk.script("step.one", [crate::harness::text("short")]);
    assert_eq!(host.run("fits", "sends", json!(998)), json!("sent"));
    assert_eq!(host.run("large", "sends", json!(999)), json!("too-large"));
    assert_eq!(world.desk.calls().len(), 1, "what is too large is not sent");
    assert_eq!(host.count("large", "operation-refused"), 1);
    ["fits", "large"].into_iter().for_each(|instance| host.assert_sound(instance));
}

#[test]
fn s39_an_activity_result_over_the_limit_is_a_failure_that_the_guest_sees() {
    let world = small_payloads();
    world.desk.script("step.one", [crate::harness::text(&"x".repeat(999))]);
    let host = world.open();
    let output = host.run("order", "calls", json!("step.one"));
    assert!(output.as_str().unwrap().starts_with("too-large: the result of step.one has 1001 bytes"), "{output}");
    host.assert_sound("order");
}

#[test]
fn s39_an_output_over_the_limit_is_a_failure_of_the_instance() {
    let world = small_payloads();
    let host = world.open();
    assert_eq!(host.run("fits", "returns", json!(998)).as_str().map(str::len), Some(998));
    host.start("large", "returns", json!(999)).unwrap();
    let failure = host.failure("large");
    assert_eq!(failure.kind, FailureKind::TooLarge);
    assert!(failure.message.contains("the output has 1001 bytes"), "{failure}");
    ["fits", "large"].into_iter().for_each(|instance| host.assert_sound(instance));
}

// ---- unruly guests ----

fn unruly() -> World {
    let mut world = World::with(&["steps", "unruly"]);
    world.settings.sandbox.turn_budget = Duration::from_millis(300);
    world.settings.limits.events_per_turn = 10_000;
    world
}

fn end_of(host: &Host<'_>, name: &str) -> Failure {
    host.start(name, name, Value::Null).unwrap();
    let failure = host.failure(name);
    assert_eq!(host.kinds(name).last(), Some(&"failed"), "{name}");
    host.assert_sound(name);
    failure
}

#[test]
fn s40_each_kind_of_misbehaviour_is_a_typed_failure_of_its_own_instance() {
    use FailureKind::{Exhausted, Trapped};
    let world = unruly();
    let host = world.open();
    for (name, kind, message) in [
        ("spins", Exhausted, "ran longer than one turn may take"),
        ("hoards", Exhausted, "of memory, it is granted 16777216"),
        ("recurses", Trapped, "call stack exhausted"),
        ("recurses-with-frames", Trapped, "out of bounds memory access"),
        ("panics", Trapped, "unreachable"),
        ("exits", Trapped, "exit(1)"),
        ("returns-garbage-text", Trapped, "utf-8"),
        ("asks-with-garbage-text", Trapped, "utf-8"),
        ("returns-a-huge-list", Trapped, "out of bounds"),
        ("responds-to-nobody", Trapped, "no request 7"),
        ("asks-without-end", Exhausted, "more than 10000 things"),
    ] {
        let failure = end_of(&host, name);
        assert_eq!(failure.kind, kind, "{name}: {failure}");
        assert!(failure.message.to_lowercase().contains(message), "{name}: {failure}");
        assert!(failure.non_retryable, "{name}");
    }
}

#[test]
fn s40_cancelling_what_is_not_there_is_a_no_op() {
    let world = unruly();
    let host = world.open();
    assert_eq!(host.run("cancel", "cancels-the-unknown", Value::Null), json!("nothing happened"));
    assert_eq!(host.kinds("cancel"), ["execution-started", "completed"]);
    host.assert_sound("cancel");
}

#[test]
fn s40_a_guest_that_spins_after_a_wait_ends_with_its_history() {
    let world = unruly();
    let host = world.open();
    host.start("later", "spins-later", Value::Null).unwrap();
    host.wait_kind("later", "timer-scheduled", 1);
    drop(host);
    let host = world.open();
    host.settle("later");
    world.clock.advance(10);
    assert_eq!(host.failure("later").kind, FailureKind::Exhausted);
    assert_eq!(host.kinds("later"), ["execution-started", "timer-scheduled", "timer-fired", "failed"]);
    host.assert_sound("later");
}

#[test]
fn s40_a_hundred_neighbours_finish_beside_all_of_them() {
    let world = unruly();
    let host = world.open();
    let neighbours: Vec<String> = (0..100).map(|n| format!("neighbour-{n}")).collect();
    for neighbour in &neighbours {
        host.start(neighbour, "waits", Value::Null).unwrap();
    }
    let bad = ["spins", "hoards", "recurses", "panics", "returns-garbage-text", "returns-a-huge-list"];
    for name in bad {
        host.start(name, name, Value::Null).unwrap();
    }
    for neighbour in &neighbours {
        host.raise(neighbour, "go", Value::Null).unwrap();
    }
    for neighbour in &neighbours {
        assert_eq!(host.output(neighbour), json!("went well"), "{neighbour}");
        host.assert_sound(neighbour);
    }
    for name in bad {
        host.failure(name);
    }
}

// ---- names ----

#[test]
fn s41_an_unknown_orchestration_or_module_is_answered_with_what_exists() {
    let world = World::with(&["greet-1"]);
    let host = world.open();
    let error = host.start("order", "gret", Value::Null).unwrap_err();
    assert_eq!(error.code(), "unknown-orchestration");
    assert!(error.to_string().contains("\"gret\"") && error.to_string().contains("greet"), "{error}");
    let of_module = StartRequest { module: Some("greet-9".to_owned()), ..start("order", "greet", Value::Null) };
    let error = host.try_start(of_module).unwrap_err();
    assert_eq!(error.code(), "unknown-module");
    assert!(error.to_string().contains("greet-9") && error.to_string().contains("greet-1@"), "{error}");
}

#[test]
fn s41_an_orchestration_that_two_modules_offer_is_ambiguous_and_both_are_named() {
    let world = World::with(&["greet-1", "greet-2"]);
    let host = world.open();
    let error = host.start("order", "greet", Value::Null).unwrap_err();
    assert_eq!(error.code(), "ambiguous-orchestration");
    assert!(error.to_string().contains("greet-1, greet-2"), "{error}");
}

#[test]
fn s41_an_unknown_instance_is_answered_by_every_call() {
    let world = World::new();
    let host = world.open();
    let nobody = id("nobody");
    let answers = [
        host.outcome("nobody").unwrap_err(),
        host.raise("nobody", "item", json!(1)).unwrap_err(),
        host.block_on(host.engine().cancel(&nobody, "why")).unwrap_err(),
        host.block_on(host.engine().terminate(&nobody, "why")).unwrap_err(),
        host.engine().history(&nobody, None).unwrap_err(),
    ];
    for error in answers {
        assert_eq!(error.code(), "unknown-instance");
        assert!(error.to_string().contains("nobody"), "{error}");
    }
}

#[test]
fn s41_an_event_for_an_instance_that_has_ended_is_refused_and_says_how_it_ended() {
    let world = World::new();
    let mut host = world.open();
    host.run("order", "calls", json!("step.one"));
    for _ in 0..2 {
        let error = host.raise("order", "item", json!(1)).unwrap_err();
        assert_eq!(error.code(), "instance-ended");
        let said = error.to_string();
        assert!(said.contains("order") && said.contains("completed") && said.contains("\"item\""), "{said}");
        drop(host);
        host = world.open();
    }
    assert_eq!(host.count("order", "event-raised"), 0);
}

#[test]
fn s41_an_event_that_comes_while_the_end_is_let_out_is_refused_as_one_that_comes_later() {
    let world = World::new();
    let host = world.open();
    for n in 0..300 {
        let instance = format!("order-{n}");
        host.start(&instance, "collects", json!({ "wanted": 1, "page": 9 })).unwrap();
        host.raise(&instance, "item", json!(1)).unwrap();
        assert_eq!(host.raise(&instance, "item", json!(2)).unwrap_err().code(), "instance-ended", "{instance}");
    }
}

#[test]
fn s41_an_unknown_activity_of_a_known_service_is_a_failure_that_names_what_exists() {
    let world = World::new();
    let host = world.open();
    let output = host.run("order", "calls", json!("step.oen"));
    let said = output.as_str().unwrap();
    assert!(said.starts_with("not-found: unknown activity \"step.oen\"; the service has "), "{said}");
    assert!(said.contains("step.one, ") && said.contains("step.two"), "{said}");
    host.assert_sound("order");
}

#[test]
fn s41_names_and_ids_that_cannot_be_are_refused() {
    let world = World::new();
    let host = world.open();
    host.start("wait", "collects", json!({ "wanted": 1, "page": 1 })).unwrap();
    for name in ["", &"x".repeat(201)] {
        assert_eq!(host.raise("wait", name, Value::Null).unwrap_err().code(), "invalid-input");
    }
    assert!(dacapo::core::ids::InstanceId::new("a\nb").is_err());
}

#[test]
fn s42_an_activity_that_nobody_serves_waits_visibly_and_runs_when_it_is_served() {
    for restart in [false, true] {
        let world = World::new();
        let mut host = world.open();
        host.start("order", "calls", json!("printer.print")).unwrap();
        host.wait_kind("order", "activity-scheduled", 1);
        if restart {
            drop(host);
            host = world.open();
        }
        host.settle("order");
        let engine = host.engine();
        assert!(!engine.is_served("printer.print"));
        let whereabouts = |call: &_| Some(engine.whereabouts(&id("order"), call));
        let seen = view::instance(&**engine.store(), &id("order"), whereabouts).unwrap();
        let pending = serde_json::to_value(seen.pending).unwrap();
        assert_eq!((&pending[0]["name"], &pending[0]["served"]), (&json!("printer.print"), &json!(false)));
        assert_eq!((&pending[0]["queue"], &pending[0]["state"]), (&json!("default"), &json!("waiting")));
        let queue = &engine.queues()[0];
        assert_eq!((queue.name.as_str(), queue.waiting, queue.unserved["printer.print"]), ("default", 1, 1));
        assert_eq!(world.desk.calls(), []);
        host.serve("printer.print", None);
        assert_eq!(host.output("order"), json!("printer.print(x)"));
        host.assert_sound("order");
    }
}
