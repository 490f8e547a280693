//! Rows compressed and encrypted: nothing of it shows above the store.

use std::sync::Arc;

use dacapo::replay::recording::Recording;
use dacapo::store::codec::Codec;
use dacapo::store::redb::Options;
use dacapo::store::schedule::{Overlap, ScheduleSpec, Timing};
use serde_json::json;

use crate::harness::{World, assert_replays, id, sweep};

const MARK: &str = "a-wine-that-nobody-else-has";

fn key(id: &str) -> String {
    format!("{id}:{}", blake(id))
}

/// 64 digits that follow from a name.
fn blake(text: &str) -> String {
    dacapo::core::ids::Hash::of(text.as_bytes()).to_string()
}

fn encrypted(keys: &[&str]) -> Arc<Codec> {
    let keys: Vec<_> = keys.iter().map(|id| key(id)).collect();
    Arc::new(Codec::plain().compress_above(256).encrypt(keys.iter().map(String::as_str)).expect("keys"))
}

fn world(codec: Arc<Codec>) -> World {
    let mut world = World::new();
    // Small, so that histories are folded as well.
    world.store = Options { codec, fold_at_turns: 4, ..Options::default() };
    world
}

fn has(bytes: &[u8], text: &str) -> bool {
    bytes.windows(text.len()).any(|window| window == text.as_bytes())
}

/// Writes a mark in every place that holds what users gave.
fn write_everywhere(world: &World) {
    let host = world.open();
    for n in 0..6 {
        host.run(&format!("order-{n}"), "two_calls", json!(format!("{MARK}-{n}")));
    }
    host.start("basket", "collects", json!({ "wanted": 2, "page": 9 })).unwrap();
    // Nobody takes this one.
    host.raise("basket", MARK, json!(MARK)).unwrap();
    let spec = ScheduleSpec {
        timing: Timing::Every { interval_ms: 3_600_000 },
        orchestration: "two_calls".to_owned(),
        module: None,
        input: dacapo::core::payload::Payload::json(format!("\"{MARK}\"")),
        tags: [("mark".to_owned(), MARK.to_owned())].into(),
        overlap: Overlap::Skip,
        catch_up_ms: 60_000,
    };
    host.engine().put_schedule("hourly", spec).unwrap();
    host.block_on(host.engine().terminate(&id("basket"), MARK)).unwrap();
}

#[test]
fn codec_nothing_that_was_given_stands_in_an_encrypted_journal() {
    let plain = world(Arc::default());
    write_everywhere(&plain);
    assert!(has(&plain.journal_bytes(), MARK), "it does in a plain one");
    let secret = world(encrypted(&["first"]));
    write_everywhere(&secret);
    let journal = secret.journal_bytes();
    assert!(!has(&journal, MARK));
    assert!(has(&journal, "first") && !has(&journal, &blake("first")), "the key's id, and not the key");

    // And all of it is there, after a restart.
    let host = secret.open();
    for n in 0..6 {
        let output = host.output(&format!("order-{n}"));
        assert!(output.as_str().unwrap().contains(MARK), "{output}");
        host.assert_sound(&format!("order-{n}"));
    }
    assert_eq!(host.engine().schedule("hourly").unwrap().spec.tags["mark"], MARK);
    host.assert_sound("basket");
}

#[test]
fn codec_keys_are_replaced_and_none_may_be_missing() {
    let mut world = world(encrypted(&["first"]));
    world.open().run("old", "two_calls", json!(MARK));
    world.store.codec = encrypted(&["second", "first"]);
    let host = world.open();
    assert!(host.output("old").as_str().unwrap().contains(MARK));
    host.run("new", "two_calls", json!(MARK));
    drop(host);
    for (codec, needs) in [(Arc::default(), "second"), (encrypted(&["third"]), "second")] {
        world.store.codec = codec;
        let error = world.open_error();
        assert_eq!(error.code(), "store-key-missing");
        assert!(error.to_string().contains(&format!("{needs:?}")), "{error}");
    }
    world.store.codec = encrypted(&["second", "first"]);
    let host = world.open();
    for instance in ["old", "new"] {
        assert!(host.output(instance).as_str().unwrap().contains(MARK));
        host.assert_sound(instance);
    }
}

#[test]
fn codec_a_plain_journal_is_encrypted_from_here_on_and_recordings_stay_plain() {
    let mut world = world(Arc::default());
    world.open().run("before", "two_calls", json!(MARK));
    world.store.codec = encrypted(&["first"]);
    let host = world.open();
    host.run("after", "two_calls", json!(MARK));
    for instance in ["before", "after"] {
        host.assert_sound(instance);
        let history = host.engine().history(&id(instance), None).unwrap();
        let bytes = Recording::of(&history, None).unwrap().encode();
        let recording = Recording::decode(&bytes).unwrap();
        assert_replays(&host.replay_module(&recording.records().unwrap()), &recording.records().unwrap());
        assert!(has(&bytes, MARK));
    }
}

#[test]
fn codec_an_encrypted_host_may_die_at_any_commit() {
    let commits = sweep(
        || world(encrypted(&["first"])),
        |host| {
            host.start("order", "two_calls", json!(MARK))?;
            host.outcome("order")?.map(drop).map_err(|failure| panic!("{failure}"))
        },
        |world, host, death| {
            assert!(host.output("order").as_str().unwrap().contains(MARK), "{death:?}");
            host.assert_sound("order");
            assert!(!has(&world.journal_bytes(), MARK), "{death:?}");
        },
    );
    assert!(commits >= 3, "{commits}");
}
