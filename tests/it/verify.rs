//! Verification: what was changed behind the store's back, or in a recording, is
//! found and named; what was not is not suspected.

use dacapo::core::event::Event;
use dacapo::core::ids::Hash;
use dacapo::core::payload::Payload;
use dacapo::core::turn::TurnRecord;
use dacapo::engine::upgrade::Scope;
use dacapo::replay::recording::Recording;
use dacapo::replay::verify::{Finding, Verified, verify_recording, verify_store};
use dacapo::sandbox::Sandbox;
use dacapo::sandbox::settings::SandboxSettings;
use dacapo::store::codec::Codec;
use dacapo::store::redb::RedbStore;
use dacapo::store::redb::tables::{self, Stored};
use redb::{ReadableTable as _, TableDefinition};
use serde_json::{Value, json};

use crate::guests::guest;
use crate::harness::{Host, World, id};

const HISTORY: TableDefinition<'_, &[u8], &[u8]> = TableDefinition::new("history");
const INSTANCES: TableDefinition<'_, &str, &[u8]> = TableDefinition::new("instances");
const CREATED: TableDefinition<'_, &[u8], ()> = TableDefinition::new("created");
const COUNTS: TableDefinition<'_, &str, &[u8]> = TableDefinition::new("counts");
const SIZES: TableDefinition<'_, &str, &[u8]> = TableDefinition::new("sizes");
const PAYLOADS: TableDefinition<'_, &[u8], &[u8]> = TableDefinition::new("payloads");
const RUNNING: TableDefinition<'_, &str, ()> = TableDefinition::new("running");
const MODULE_BYTES: TableDefinition<'_, &[u8; 32], &[u8]> = TableDefinition::new("module_bytes");

fn sandbox() -> Sandbox {
    let settings = SandboxSettings { resident_guests: 32, memory_bytes: 16 << 20, ..SandboxSettings::default() };
    Sandbox::new(settings, None).expect("a sandbox")
}

/// Instances in every state.
pub(crate) fn fill(host: &Host<'_>) {
    host.run("done", "two_calls", json!("beer"));
    host.start("failed", "undoes", Value::Null).unwrap();
    host.failure("failed");
    host.start("waits", "collects", json!({ "wanted": 3, "page": 1 })).unwrap();
    host.raise("waits", "item", json!(1)).unwrap();
    host.raise("waits", "other", json!(2)).unwrap();
    host.start("ended", "collects", json!({ "wanted": 3, "page": 1 })).unwrap();
    host.block_on(host.engine().terminate(&id("ended"), "enough")).unwrap();
    host.start("held", "sleeps", json!(1_000_000)).unwrap();
    host.block_on(host.engine().suspend(&id("held"), "for now")).unwrap();
    host.run("anew", "counts", json!(2));
    for instance in ["waits", "held"] {
        host.settle(instance);
    }
}

fn verified(world: &World, sandbox: Option<&Sandbox>) -> Verified {
    let store = RedbStore::open(&world.journal()).expect("the file opens");
    verify_store(&store, sandbox).expect("it can be listed")
}

/// Changes the closed file through redb itself, so that its own checksums hold.
fn tamper(world: &World, change: impl FnOnce(&redb::WriteTransaction)) {
    let database = redb::Database::open(world.journal()).expect("the file opens");
    let transaction = database.begin_write().expect("it can be written");
    change(&transaction);
    transaction.commit().expect("it is written");
}

/// Replaces one turn of an instance's only history row, with a row checksum that fits.
fn change_turn(transaction: &redb::WriteTransaction, instance: &str, change: impl FnOnce(&mut Vec<Vec<u8>>)) {
    let key = tables::history_key(&id(instance), 1, 1);
    let mut rows = transaction.open_table(HISTORY).unwrap();
    let row = rows.get(key.as_slice()).unwrap().expect("its row").value().to_vec();
    let mut turns = Vec::new();
    tables::decode_history_row(
        &Codec::plain(),
        &key,
        &row,
        0,
        &mut turns,
        &mut |_| panic!("no payload is large"),
        || "it".to_owned(),
    )
    .unwrap();
    let mut turns: Vec<Vec<u8>> = turns.iter().map(|turn| turn.to_vec()).collect();
    change(&mut turns);
    let turns: Vec<_> = turns.iter().map(|turn| Stored::Whole(turn)).collect();
    let row = tables::encode_history_row(&Codec::plain(), &key, &turns);
    rows.insert(key.as_slice(), row.as_slice()).unwrap();
}

#[test]
fn verify_finds_nothing_in_what_engines_write() {
    let world = World::new();
    let host = world.open();
    fill(&host);
    let mut other = guest("steps").to_vec();
    other.extend(b"\0\x06\x04note!");
    let other = host.upload("steps-too", None, &other).unwrap();
    assert_eq!(host.engine().migrate(&other, &Scope::default()).unwrap().len(), 2);
    let fork = dacapo::engine::fork::ForkRequest {
        from: id("done"),
        execution: None,
        at: 1,
        edit: None,
        module: None,
        id: id("fork"),
    };
    host.block_on(host.engine().fork(fork)).unwrap();
    host.output("fork");
    // While it runs, and after it was closed.
    let sandbox = sandbox();
    let live = verify_store(&**host.engine().store(), Some(&sandbox)).unwrap();
    assert_eq!(live.findings, []);
    drop(host);
    let closed = verified(&world, Some(&sandbox));
    assert_eq!(closed, live);
    assert_eq!((closed.instances, closed.modules, closed.not_replayed), (7, 2, 0));
    assert_eq!((closed.executions, closed.replayed), (7 + 1 + 2, 7 + 1 + 2));
    assert_eq!(verified(&world, None).replayed, 0);
}

#[test]
fn s43_verify_names_the_instance_and_event_of_each_kind_of_damage() {
    type Damage<'d> = (&'d str, Box<dyn Fn(&redb::WriteTransaction)>, &'d str, &'d str);
    let damage: Vec<Damage<'_>> = vec![
        (
            "a byte of a turn",
            Box::new(|t| change_turn(t, "done", |turns| *turns[2].last_mut().unwrap() ^= 1)),
            "done",
            "turn",
        ),
        (
            "a turn that is gone",
            Box::new(|t| change_turn(t, "failed", |turns| drop(turns.remove(1)))),
            "failed",
            "turn",
        ),
        (
            "a row that says something else",
            Box::new(|t| {
                let mut rows = t.open_table(INSTANCES).unwrap();
                let row = rows.get("waits").unwrap().unwrap().value().to_vec();
                let mut summary = tables::decode_summary(&Codec::plain(), &id("waits"), &row).unwrap();
                summary.tags.insert("forged".into(), "yes".into());
                rows.insert("waits", tables::encode_summary(&Codec::plain(), &summary).as_slice()).unwrap();
            }),
            "waits",
            "its row is not what its history says",
        ),
        (
            "a row that cannot be read",
            Box::new(|t| {
                let mut rows = t.open_table(INSTANCES).unwrap();
                let mut row = rows.get("held").unwrap().unwrap().value().to_vec();
                *row.last_mut().unwrap() ^= 0x40;
                rows.insert("held", row.as_slice()).unwrap();
            }),
            "held",
            "the row of held",
        ),
        (
            "an index entry of an instance that has ended",
            Box::new(|t| drop(t.open_table(RUNNING).unwrap().insert("failed", ()).unwrap())),
            "failed",
            "the index of running instances has it",
        ),
        (
            "an index entry of nobody",
            Box::new(|t| drop(t.open_table(RUNNING).unwrap().insert("nobody", ()).unwrap())),
            "nobody",
            "it has no row",
        ),
        (
            "a history of nobody",
            Box::new(|t| {
                let key = tables::history_key(&id("ghost"), 1, 1);
                let turns = [Stored::Whole(b"turn")];
                let row = tables::encode_history_row(&Codec::plain(), &key, &turns);
                t.open_table(HISTORY).unwrap().insert(key.as_slice(), row.as_slice()).unwrap();
            }),
            "ghost",
            "no row says so",
        ),
        (
            "a payload of nobody",
            Box::new(|t| {
                let key = tables::payload_key(&id("ghost"), Hash::of(b"cargo"));
                let row = tables::encode_payload_row(&Codec::plain(), &key, b"cargo");
                t.open_table(PAYLOADS).unwrap().insert(key.as_slice(), row.as_slice()).unwrap();
            }),
            "ghost",
            "it has no row",
        ),
        (
            "an instance that lists of the newest would miss",
            Box::new(|t| drop(t.open_table(CREATED).unwrap().pop_last().unwrap())),
            "",
            "the index by creation does not have it",
        ),
        (
            "an index entry by creation of nobody",
            Box::new(|t| {
                drop(t.open_table(CREATED).unwrap().insert(b"\0\0\0\0\0\0\0\x01nobody".as_slice(), ()).unwrap())
            }),
            "the index by creation",
            "as there are",
        ),
        (
            "a count that is wrong",
            Box::new(|t| drop(t.open_table(COUNTS).unwrap().remove("failed").unwrap())),
            "the counts",
            "another number of failed",
        ),
        (
            "a size that is wrong",
            Box::new(|t| drop(t.open_table(SIZES).unwrap().remove("default").unwrap())),
            "the sizes",
            "and 0 are noted",
        ),
        (
            "bytes of no module",
            Box::new(|t| {
                let hash = Hash::of(b"wasm");
                t.open_table(MODULE_BYTES).unwrap().insert(&hash.0, b"wasm".as_slice()).unwrap();
            }),
            "module ",
            "it has no row",
        ),
        (
            "an instance that start-up would miss",
            Box::new(|t| drop(t.open_table(RUNNING).unwrap().remove("waits").unwrap())),
            "waits",
            "the index of running instances does not have it",
        ),
    ];
    for (what, change, of, says) in damage {
        let world = World::new();
        fill(&world.open());
        assert_eq!(verified(&world, None).findings, [], "{what}: before");
        tamper(&world, |transaction| change(transaction));
        let found = verified(&world, None);
        let named = found.findings.iter().find(|finding| finding.of.starts_with(of));
        let named = named.unwrap_or_else(|| panic!("{what}: {of} is named in {:?}", found.findings));
        // Where a turn is gone or came, what is noted of all of them is wrong as well.
        let is_resized = ["a turn that is gone", "a history of nobody"].contains(&what);
        let expected = |of: &str| is_resized && of == "the sizes";
        let others = found.findings.iter().filter(|finding| !finding.of.starts_with(of) && !expected(&finding.of));
        assert_eq!(others.count(), 0, "{what}: nothing else is suspected: {:?}", found.findings);
        assert!(named.problem.contains(says), "{what}: {named:?}");
        assert!(of != "done" || named.event.is_some_and(|event| event > 1), "{what}: {named:?}");
        assert!(found.instances == 6, "{what}: the others are looked at all the same");
    }
}

#[test]
fn verify_names_a_module_whose_bytes_changed_or_are_gone() {
    for gone in [false, true] {
        let world = World::new();
        fill(&world.open());
        tamper(&world, |transaction| {
            let mut rows = transaction.open_table(MODULE_BYTES).unwrap();
            let hash = Hash::of(&guest("steps")).0;
            match gone {
                true => drop(rows.remove(&hash).unwrap()),
                false => drop(rows.insert(&hash, b"something else".as_slice()).unwrap()),
            }
        });
        let found = verified(&world, None);
        assert!(found.findings.iter().any(|finding| finding.of.starts_with("module steps@")), "{:?}", found.findings);
        let waits = found.findings.iter().find(|finding| finding.of == "waits").expect("it can no longer run");
        assert!(waits.problem.contains("is missing"), "{waits:?}");
    }
}

/// A history whose chain is whole, but that the module would never have written.
#[test]
fn verify_replays_to_the_recorded_outcome() {
    let world = World::new();
    let host = world.open();
    host.run("order", "two_calls", json!("beer"));
    let mut records = host.records("order");
    let events: u32 = records.iter().map(|record| record.events.len() as u32).sum();
    let Some(Event::Completed { output }) = records.last_mut().unwrap().events.last_mut() else { panic!() };
    *output = Payload::json("\"a better one\"");
    let turns = records.iter().map(|record: &TurnRecord| record.encode()).collect();
    let history = dacapo::store::History { instance: id("order"), execution: 1, turns };
    let forged = Recording::of(&history, Some(guest("steps").to_vec())).unwrap().encode();
    assert_eq!(verify_recording("forged", &forged, None, |_| None).findings, [], "the chain of a forgery holds");
    let found = verify_recording("forged", &forged, Some(&sandbox()), |_| None);
    let [Finding { of, event, problem, .. }] = &found.findings[..] else { panic!("{:?}", found.findings) };
    assert_eq!((of.as_str(), *event), ("forged", Some(events)));
    assert!(problem.contains("a better one"), "{problem}");
}

#[test]
fn verify_finds_every_flipped_bit_of_a_recording_and_names_where() {
    let world = World::new();
    let host = world.open();
    host.run("order", "two_calls", json!("beer"));
    let history = host.engine().history(&id("order"), None).unwrap();
    let bytes = Recording::of(&history, None).unwrap().encode();
    assert!(verify_recording("order", &bytes, None, |_| None).is_sound());
    let mut parts = std::collections::BTreeSet::new();
    for at in 0..bytes.len() {
        for bit in 0..8 {
            let mut changed = bytes.clone();
            changed[at] ^= 1 << bit;
            let found = verify_recording("order", &changed, None, |_| None);
            let [finding] = &found.findings[..] else { panic!("byte {at} bit {bit}: {:?}", found.findings) };
            let part = finding.problem.split_once("damaged: ").expect("the part").1.split(':').next().unwrap();
            parts.insert(part.to_owned());
        }
    }
    let turns = history.turns.len();
    assert_eq!(parts.len(), turns + 3, "the first line, the head, each turn, the closing checksum: {parts:?}");
    assert!(parts.iter().any(|part| part.starts_with(&format!("turn {turns}, from event "))), "{parts:?}");
}
