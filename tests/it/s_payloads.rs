//! Large payloads in their own table: written once, with the turn that names them, and
//! gone with their instance. Nothing of it shows above the store.

use std::sync::Arc;

use dacapo::replay::recording::Recording;
use dacapo::replay::verify::verify_store;
use dacapo::store::codec::Codec;
use dacapo::store::redb::{Options, RedbStore};
use redb::{ReadableDatabase as _, ReadableTable as _, ReadableTableMetadata as _, TableDefinition};
use serde_json::json;

use crate::harness::{World, assert_replays, id, replay_sandbox, sweep};

const PAYLOADS: TableDefinition<'_, &[u8], &[u8]> = TableDefinition::new("payloads");
const LARGE: usize = 2000;

/// A world in which payloads are soon large, and histories are folded.
fn world(codec: Codec) -> World {
    let mut world = World::with(&["steps", "deliveries"]);
    let codec = Arc::new(codec);
    world.store = Options { payloads_above: LARGE, fold_at_turns: 4, codec, ..Options::default() };
    world
}

fn large(n: usize) -> String {
    format!("cargo-{n}-").repeat(LARGE / 4)
}

/// Keys in the table of payloads, of the closed file.
fn keys(world: &World) -> Vec<Vec<u8>> {
    let database = redb::Database::open(world.journal()).expect("the file opens");
    let trees = database.begin_read().expect("it can be read");
    let rows = trees.open_table(PAYLOADS).expect("the table");
    assert_eq!(rows.len().unwrap() as usize, rows.iter().unwrap().count());
    rows.iter().unwrap().map(|row| row.unwrap().0.value().to_vec()).collect()
}

fn times(bytes: &[u8], text: &str) -> usize {
    bytes.windows(text.len()).filter(|window| *window == text.as_bytes()).count()
}

#[test]
fn payload_that_an_instance_passes_on_is_written_once_and_read_everywhere() {
    let world = world(Codec::plain());
    let mut host = world.open();
    for n in 0..3 {
        let instance = format!("order-{n}");
        assert_eq!(host.run(&instance, "passes_on", json!(large(n))), json!(large(n)));
        drop(host);
        host = world.open();
        host.assert_sound(&instance);
        assert_eq!(host.output(&instance), json!(large(n)));
    }
    let grown = host.run("small", "passes_on", json!("crumbs..."));
    assert_eq!(grown.as_str().map(str::len), Some(9000), "in its second execution");
    host.assert_sound("small");
    // A recording has all of it, and needs no store.
    let history = host.engine().history(&id("order-1"), None).unwrap();
    let recording = Recording::decode(&Recording::of(&history, None).unwrap().encode()).unwrap();
    assert_replays(&host.replay_module(&recording.records().unwrap()), &recording.records().unwrap());
    assert!(verify_store(&**host.engine().store(), Some(replay_sandbox())).unwrap().is_sound());
    drop(host);

    // Input, two calls, two results and the output: one row. Of `small` the later input.
    let owners: Vec<_> = keys(&world).iter().map(|key| key.split(|byte| *byte == 0).next().unwrap().to_vec()).collect();
    assert_eq!(owners, ["order-0", "order-1", "order-2", "small"].map(|id| id.as_bytes().to_vec()));
    let journal = world.journal_bytes();
    assert!((1..=3).contains(&times(&journal, &large(1))), "{} times", times(&journal, &large(1)));
}

#[test]
fn payload_rows_go_with_their_instance_and_no_other() {
    let world = world(Codec::plain());
    let host = world.open();
    for n in 0..3 {
        // The same bytes in each: they share no row.
        host.run(&format!("order-{n}"), "passes_on", json!(large(7)));
    }
    host.engine().purge(&id("order-1")).unwrap();
    host.assert_sound("order-0");
    drop(host);
    let left = keys(&world);
    assert_eq!(left.len(), 2);
    assert!(left.iter().all(|key| !key.starts_with(b"order-1\0")));
    let host = world.open();
    for instance in ["order-0", "order-2"] {
        assert_eq!(host.output(instance), json!(large(7)));
        host.assert_sound(instance);
    }
    // The id is free, and its payload comes back as another's.
    assert_eq!(host.run("order-1", "passes_on", json!(large(7))), json!(large(7)));
    drop(host);
    assert_eq!(keys(&world).len(), 3);
}

#[test]
fn payload_and_the_turn_that_names_it_are_durable_together_wherever_the_host_dies() {
    for codec in [Codec::plain(), Codec::plain().compress_above(100).encrypt([&*key()]).unwrap()] {
        let secret = codec.encrypts();
        let commits = sweep(
            || {
                let mut world = world(codec.clone());
                // The file is looked into while the host runs.
                world.store.fold_beside = false;
                world
            },
            |host| {
                host.start("order", "passes_on", json!("crumbs..."))?;
                host.outcome("order").map(drop)
            },
            |world, host, death| {
                assert_eq!(host.output("order"), json!("crumbs...".repeat(1000)), "{death:?}");
                host.assert_sound("order");
                let stands = times(&world.journal_bytes(), &"crumbs...".repeat(9)) > 0;
                assert_eq!(stands, !secret, "{death:?}");
            },
        );
        assert!(commits >= 4, "{commits}");
    }
}

fn key() -> String {
    format!("first:{}", dacapo::core::ids::Hash::of(b"first"))
}

#[test]
fn payload_bound_may_change_between_hosts() {
    let mut world = world(Codec::plain());
    for (n, above) in [LARGE, 1 << 20, 1100, LARGE].into_iter().enumerate() {
        world.store.payloads_above = above;
        let host = world.open();
        host.start(&format!("order-{n}"), "passes_on", json!(large(n))).unwrap();
        for earlier in 0..=n {
            let instance = format!("order-{earlier}");
            assert_eq!(host.output(&instance), json!(large(earlier)), "{above}");
            host.assert_sound(&instance);
        }
    }
}

#[test]
fn s43_a_payload_that_is_damaged_or_gone_is_named_with_its_instance_and_event() {
    for gone in [false, true] {
        let world = world(Codec::plain());
        let host = world.open();
        host.run("order", "passes_on", json!(large(1)));
        host.run("other", "passes_on", json!(large(1)));
        drop(host);
        // Folded, whatever the log held.
        drop(world.open());
        let key = keys(&world).into_iter().find(|key| key.starts_with(b"order\0")).expect("its payload");
        let database = redb::Database::open(world.journal()).unwrap();
        let transaction = database.begin_write().unwrap();
        {
            let mut rows = transaction.open_table(PAYLOADS).unwrap();
            let mut row = rows.remove(key.as_slice()).unwrap().unwrap().value().to_vec();
            if !gone {
                *row.last_mut().unwrap() ^= 1;
                rows.insert(key.as_slice(), row.as_slice()).unwrap();
            }
        }
        transaction.commit().unwrap();
        drop(database);

        let store = RedbStore::open(&world.journal()).unwrap();
        let found = verify_store(&store, None).unwrap();
        let [finding] = &found.findings[..] else { panic!("{:?}", found.findings) };
        assert_eq!(finding.of, "order");
        let says = if gone { "it is not there" } else { "its checksum does not match" };
        assert!(finding.problem.contains(says), "{}", finding.problem);
        assert!(finding.problem.contains("of order in turn 1 (from event 1)"), "{}", finding.problem);
        assert_eq!(found.instances, 2, "the other one is looked at all the same");
    }
}
