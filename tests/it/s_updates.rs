//! Updates: requests that change a running orchestration and are answered. (S32)

use std::collections::BTreeSet;
use std::thread;

use dacapo::core::event::Event;
use dacapo::core::payload::{Failure, FailureKind, Outcome, Payload};
use dacapo::engine::EngineError;
use serde_json::{Value, json};

use crate::harness::{Host, SECOND, World, id, sweep};

fn world() -> World {
    World::with(&["steps", "asks"])
}

fn ask(host: &Host<'_>, name: &str, input: &Value, key: &str) -> Result<Outcome, EngineError> {
    host.block_on(host.engine().update(&id("cart"), name, Payload::json(input.to_string()), key))
}

fn answer(host: &Host<'_>, name: &str, input: &Value, key: &str) -> Value {
    let outcome = ask(host, name, input, key).expect("an answer");
    outcome.unwrap_or_else(|failure| panic!("refused: {failure}")).to_json().expect("JSON")
}

fn refusal(host: &Host<'_>, name: &str, input: &Value, key: &str) -> Failure {
    ask(host, name, input, key).expect("an answer").expect_err("a refusal")
}

fn end(host: &Host<'_>) -> Value {
    host.raise("cart", "end", Value::Null).unwrap();
    host.output("cart")
}

#[test]
fn s32_an_update_changes_a_running_orchestration_and_is_answered_when_that_is_durable() {
    for restart in [false, true] {
        let world = world();
        let mut host = world.open();
        host.start("cart", "cart", json!([])).unwrap();
        for (n, item) in ["apple", "pear", "plum"].iter().enumerate() {
            if restart {
                drop(host);
                host = world.open();
            }
            assert_eq!(answer(&host, "add", &json!(item), item), json!(n + 1));
            let kinds = host.kinds("cart");
            assert_eq!(kinds[kinds.len() - 2..], ["request-received", "responded"], "durable when it is answered");
        }
        assert_eq!(end(&host), json!(["apple", "pear", "plum"]));
        host.assert_sound("cart");
    }
}

#[test]
fn s32_the_same_update_again_gets_the_same_answer_also_after_a_restart_and_after_the_end() {
    let world = world();
    let mut host = world.open();
    host.start("cart", "cart", json!([])).unwrap();
    assert_eq!(answer(&host, "add", &json!("apple"), "k1"), json!(1));
    assert_eq!(answer(&host, "add", &json!("pear"), "k2"), json!(2));
    for _ in 0..2 {
        assert_eq!(answer(&host, "add", &json!("apple"), "k1"), json!(1), "and is not rejected");
        drop(host);
        host = world.open();
    }
    // A refusal is an answer too.
    assert_eq!(refusal(&host, "add", &json!("pear"), "k3").error_type, "Rejected");
    host.raise("cart", "anew", Value::Null).unwrap();
    host.wait_summary("cart", "its second execution", |summary| summary.execution == 2);
    assert_eq!(answer(&host, "add", &json!("apple"), "k1"), json!(1), "over continue-as-new");
    assert_eq!(end(&host), json!(["apple", "pear"]));
    for _ in 0..2 {
        assert_eq!(answer(&host, "add", &json!("pear"), "k2"), json!(2));
        assert_eq!(refusal(&host, "add", &json!("pear"), "k3").message, "pear is there already");
        assert_eq!(ask(&host, "add", &json!("plum"), "k4").unwrap_err().code(), "instance-ended");
        drop(host);
        host = world.open();
    }
    assert_eq!(ask_other(&host, "nobody").code(), "unknown-instance");
    host.assert_sound("cart");
}

fn ask_other(host: &Host<'_>, instance: &str) -> EngineError {
    host.block_on(host.engine().update(&id(instance), "add", Payload::null(), "k")).unwrap_err()
}

#[test]
fn s32_a_rejected_update_records_the_request_and_its_refusal_and_nothing_else() {
    let world = world();
    let host = world.open();
    host.start("cart", "cart", json!(["apple"])).unwrap();
    host.wait_kind("cart", "event-awaited", 2);
    let before = host.events("cart").len();
    let refused = refusal(&host, "add", &json!("apple"), "k1");
    assert_eq!((refused.error_type.as_str(), refused.message.as_str()), ("Rejected", "apple is there already"));
    assert_eq!(host.kinds("cart")[before..], ["request-received", "responded"]);
    // Input of another type never reaches the validator.
    assert_eq!(refusal(&host, "add", &json!(7), "k2").error_type, "InvalidPayload");
    let unknown = refusal(&host, "ad", &json!("pear"), "k3");
    assert_eq!(unknown.kind, FailureKind::NotFound);
    assert_eq!(unknown.message, "no update \"ad\"; now there are: add, add_kept, blow_up, large");
    assert_eq!(refusal(&host, "large", &json!(3 << 20), "k4").kind, FailureKind::TooLarge);
    assert_eq!(host.kinds("cart")[before..], ["request-received", "responded"].repeat(4));
    let too_much = Payload::json(format!("{:?}", "x".repeat(3 << 20)));
    let refused = host.block_on(host.engine().update(&id("cart"), "add", too_much, "k5")).unwrap_err();
    assert_eq!(refused.code(), "too-large");
    assert_eq!(end(&host), json!(["apple"]));
    host.assert_sound("cart");
}

#[test]
fn s32_updates_of_one_turn_see_what_the_earlier_ones_did() {
    let world = world();
    let host = world.open();
    host.start("cart", "cart", json!([])).unwrap();
    let outcomes = host.block_on(async {
        let keys: Vec<String> = (0..50).map(|n| format!("k{n}")).collect();
        let asked = keys.iter().map(|key| host.engine().update_cart(key));
        futures::future::try_join_all(asked).await.unwrap()
    });
    assert_eq!(outcomes.iter().filter(|outcome| outcome.is_ok()).count(), 1, "one adds it, all others are rejected");
    assert_eq!(end(&host), json!(["apple"]));
    host.assert_sound("cart");
}

trait UpdateCart {
    fn update_cart(&self, key: &str) -> impl Future<Output = Result<Outcome, EngineError>>;
}

impl UpdateCart for dacapo::engine::Engine {
    async fn update_cart(&self, key: &str) -> Result<Outcome, EngineError> {
        self.update(&id("cart"), "add", Payload::json("\"apple\""), key).await
    }
}

#[test]
fn s32_an_update_in_the_middle_of_its_work_goes_on_after_a_crash() {
    let world = world();
    world.desk.hold("step.keep_text");
    let host = world.open();
    host.start("cart", "cart", json!([])).unwrap();
    thread::scope(|scope| {
        let asked = scope.spawn(|| ask(&host, "add_kept", &json!("apple"), "k1"));
        world.desk.next("step.keep_text");
        host.engine().shutdown();
        assert_eq!(asked.join().unwrap().unwrap_err().code(), "stopped");
    });
    drop(host);
    let host = world.open();
    thread::scope(|scope| {
        let again = scope.spawn(|| answer(&host, "add_kept", &json!("apple"), "k1"));
        world.desk.next("step.keep_text").go_on();
        assert_eq!(again.join().unwrap(), json!(1));
    });
    let keys: BTreeSet<_> = world.desk.calls_of("step.keep_text").into_iter().map(|call| call.key).collect();
    assert_eq!(keys.len(), 1, "one call, whatever the number of its attempts");
    assert_eq!(host.count("cart", "request-received"), 1);
    assert_eq!(end(&host), json!(["apple"]));
    host.assert_sound("cart");
}

#[test]
fn s32_an_update_that_is_not_answered_when_the_instance_ends_fails_for_its_caller() {
    let world = world();
    world.desk.hold("step.keep_text");
    for (n, how) in ["end", "terminate", "blow up"].into_iter().enumerate() {
        let instance = format!("cart-{n}");
        let host = world.open();
        let update = |name: &str, input: Value, key: &str| {
            host.block_on(host.engine().update(&id(&instance), name, Payload::json(input.to_string()), key))
        };
        host.start(&instance, "cart", json!([])).unwrap();
        thread::scope(|scope| {
            let asked = scope.spawn(|| update("add_kept", json!("apple"), "k1"));
            world.desk.next("step.keep_text");
            match how {
                "end" => host.raise(&instance, "end", Value::Null).unwrap(),
                "terminate" => host.block_on(host.engine().terminate(&id(&instance), "enough")).unwrap(),
                _ => assert_eq!(update("blow_up", Value::Null, "k2").unwrap_err().code(), "request-unanswered"),
            }
            let error = asked.join().unwrap().unwrap_err();
            assert_eq!(error.code(), "request-unanswered", "{error}");
            assert!(error.to_string().contains("before it answered the update \"add_kept\""), "{error}");
        });
        // Whoever asks again is told the same, from the journal alone.
        drop(host);
        let host = world.open();
        let ended = id(&instance);
        let again = host.engine().update(&ended, "add_kept", Payload::json("\"apple\""), "k1");
        assert_eq!(host.block_on(again).unwrap_err().code(), "request-unanswered");
        host.assert_sound(&instance);
    }
}

#[test]
fn s32_an_update_that_is_not_answered_goes_along_with_continue_as_new() {
    for restart in [false, true] {
        let world = world();
        world.desk.hold("step.keep_text");
        let mut host = world.open();
        host.start("cart", "cart", json!(["apple"])).unwrap();
        thread::scope(|scope| {
            let asked = scope.spawn(|| ask(&host, "add_kept", &json!("pear"), "k1"));
            world.desk.next("step.keep_text");
            host.raise("cart", "anew", Value::Null).unwrap();
            if restart {
                host.wait_summary("cart", "its second execution", |summary| summary.execution == 2);
                host.engine().shutdown();
                assert_eq!(asked.join().unwrap().unwrap_err().code(), "stopped");
            } else {
                world.desk.next("step.keep_text").go_on();
                assert_eq!(asked.join().unwrap().unwrap().unwrap().to_json(), Some(json!(2)));
            }
        });
        if restart {
            drop(host);
            host = world.open();
            world.desk.next("step.keep_text").go_on();
            assert_eq!(answer(&host, "add_kept", &json!("pear"), "k1"), json!(2));
        }
        let Some(Event::ExecutionStarted(started)) = host.events("cart").into_iter().next() else { panic!("a start") };
        assert_eq!(started.requests.open.len(), 1);
        assert_eq!(host.count("cart", "request-received"), 0, "it is not asked for again");
        assert_eq!(end(&host), json!(["apple", "pear"]));
        host.assert_sound("cart");
    }
}

#[test]
fn s32_an_update_before_anybody_offers_it_is_told_so_and_one_in_the_same_turn_is_answered() {
    let world = world();
    let host = world.open();
    host.start("cart", "opens_late", Value::Null).unwrap();
    let early = refusal(&host, "echo", &json!("a"), "k1");
    assert_eq!(early.message, "no update \"echo\"; now there are: none");
    host.wait_kind("cart", "timer-scheduled", 1);
    // The timer and the update come in one turn, the update first.
    world.clock.advance_quietly(SECOND);
    assert_eq!(answer(&host, "echo", &json!("b"), "k2"), json!("b"));
    assert_eq!(answer(&host, "echo", &json!("c"), "k3"), json!("c"));
    host.raise("cart", "end", Value::Null).unwrap();
    host.output("cart");
    host.assert_sound("cart");
}

#[test]
fn s32_updates_survive_a_death_at_every_commit_and_each_is_done_once() {
    let items = ["apple", "pear", "plum"];
    sweep(
        world,
        |host| {
            host.start("cart", "cart", json!([]))?;
            for item in items {
                match ask(host, "add_kept", &json!(item), item) {
                    Ok(outcome) => drop(outcome.expect("it is not refused")),
                    // That it was done is part of how the instance ended.
                    Err(error) => return Err(error),
                }
            }
            // Ended in the life before: then there is nobody to tell.
            match host.raise("cart", "end", Value::Null) {
                Err(error) if error.code() != "instance-ended" => return Err(error),
                _ => {}
            }
            host.outcome("cart").map(drop)
        },
        |world, host, death| {
            assert_eq!(host.output("cart"), json!(items), "{death:?}");
            for (n, item) in items.iter().enumerate() {
                assert_eq!(answer(host, "add_kept", &json!(item), item), json!(n + 1), "{death:?}");
            }
            assert_eq!(host.count("cart", "request-received"), 3, "{death:?}");
            let keys: BTreeSet<_> = world.desk.calls().into_iter().map(|call| call.key).collect();
            assert_eq!(keys.len(), 3, "{death:?}");
            host.assert_sound("cart");
        },
    );
}

#[test]
fn s32_describe_lists_the_updates_that_are_known() {
    let world = world();
    let host = world.open();
    let modules = host.engine().modules().all().unwrap();
    let asks = modules.iter().find(|module| module.name == "asks").unwrap();
    let names: Vec<_> = asks.updates.iter().map(|offer| offer.name.as_str()).collect();
    assert_eq!(names, ["add", "add_kept", "blow_up", "large"]);
    assert_eq!(asks.updates[0].description, "An update of cart.");
}
