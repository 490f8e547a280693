//! Recorded histories, kept for ever: what an earlier version of this program wrote
//! is read and replayed by this one, event by event.
//!
//! `tests/histories` has recordings and, once for each, the modules that they run
//! (`modules/HASH.wasm`). None of them is ever changed, but for one exception: until
//! the first release a change of the journal's layout writes them anew (remove the
//! `.dacapo` files, then `just histories`). `just histories` adds those
//! of the scenarios below that are not there yet; `just add-history FILE` takes a
//! recording with its module from anywhere.

mod newer;

use std::collections::BTreeSet;
use std::path::{Path, PathBuf};

use dacapo::core::event::Event;
use dacapo::core::payload::FailureKind;
use dacapo::engine::fork::ForkRequest;
use dacapo::engine::upgrade::Scope;
use dacapo::engine::{StartRequest, Upload};
use dacapo::replay::recording::Recording;
use dacapo::replay::{Unwatched, replay};
use serde_json::{Value, json};

use crate::guests::small_guest;
use crate::harness::{DAY, Host, World, failed, id, replay_sandbox, start};

/// Kinds of events that must be among the recordings. A new kind comes here with
/// the recording that shows it.
const KINDS: [&str; 50] = [
    "execution-started",
    "activity-completed",
    "activity-failed",
    "activity-attempt-failed",
    "timer-fired",
    "event-raised",
    "cancel-requested",
    "now-read",
    "random-drawn",
    "guid-generated",
    "value-recorded",
    "patched",
    "activity-scheduled",
    "timer-scheduled",
    "event-awaited",
    "operation-cancelled",
    "operation-refused",
    "custom-status-set",
    "tag-set",
    "completed",
    "failed",
    "continued-as-new",
    "terminated",
    "suspended",
    "resumed",
    "module-migrated",
    "rewound",
    "event-raised-once",
    "request-received",
    "responded",
    "requests-carried",
    "signal-received",
    "signal-sent",
    "signal-delivered",
    "signal-failed",
    "orchestration-scheduled",
    "orchestration-completed",
    "orchestration-failed",
    "orchestration-attempt-failed",
    "caller-left",
    "orchestration-abandoned",
    "entity-called",
    "entity-answered",
    "operation-received",
    "operation-aborted",
    "lock-asked",
    "lock-freed",
    "lock-requested",
    "lock-released",
    "gate-carried",
];

fn folder() -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("histories")
}

pub(crate) fn recordings() -> Vec<(String, Recording)> {
    let files = std::fs::read_dir(folder()).expect("tests/histories is there");
    let mut found = Vec::new();
    for file in files.map(|file| file.expect("it can be listed").path()) {
        if file.extension().is_some_and(|extension| extension == "dacapo") {
            let name = file.file_stem().expect("a name").to_string_lossy().into_owned();
            let recording = Recording::decode(&std::fs::read(&file).expect("it can be read"));
            found.push((name.clone(), recording.unwrap_or_else(|error| panic!("{name}: {error}"))));
        }
    }
    found
}

pub(crate) fn module_file(recording: &Recording) -> PathBuf {
    folder().join("modules").join(format!("{}.wasm", recording.module_hash))
}

/// Keeps a recording under `name`, and its module if that is new. One that is there
/// stays as it is.
fn keep(name: &str, recording: &Recording, module: &[u8]) {
    let file = folder().join(format!("{name}.dacapo"));
    std::fs::create_dir_all(folder().join("modules")).expect("the folders can be made");
    if file.exists() {
        return;
    }
    let bare = Recording { module: None, ..recording.clone() };
    std::fs::write(&file, bare.encode()).expect("it can be written");
    let kept = module_file(recording);
    if !kept.exists() {
        std::fs::write(&kept, module).expect("it can be written");
    }
}

#[test]
fn histories_of_every_version_still_replay() {
    let all = recordings();
    let mut kinds = BTreeSet::new();
    for (name, recording) in &all {
        let records = recording.records().unwrap_or_else(|error| panic!("{name}: {error}"));
        let bytes =
            std::fs::read(module_file(recording)).unwrap_or_else(|error| panic!("the module of {name}: {error}"));
        let module = replay_sandbox().load(recording.module_hash, &bytes).expect("a module that was checked");
        let replayed = replay(&module, &records, &mut Unwatched);
        assert!(replayed.matched(), "{name}: {:?} {:?}", replayed.divergence, replayed.error);
        let events: Vec<_> = records.iter().flat_map(|record| &record.events).collect();
        assert_eq!(replayed.events as usize, events.len(), "{name}");
        // What is read is what was written: byte for byte the same again.
        for (record, stored) in records.iter().zip(&recording.turns) {
            assert_eq!(&record.encode()[..], &stored[..], "{name}: a turn is written otherwise now");
        }
        kinds.extend(events.into_iter().map(Event::kind));
    }
    let missing: Vec<_> = KINDS.into_iter().filter(|kind| !kinds.contains(kind)).collect();
    assert!(missing.is_empty(), "no recording has {missing:?}; add one, see this file's head");
}

/// Run by `just histories`.
#[test]
#[ignore = "writes into tests/histories"]
fn histories_write() {
    let mut world = World::with(&[]);
    world.settings.limits.payload_bytes = 10_000;
    world.store.payloads_above = 2_000;
    let host = world.open();
    for name in ["steps", "forks", "unruly", "peers"] {
        host.upload(name, None, &small_guest(name)).unwrap();
    }
    write_calls(&world, &host);
    write_events(&world, &host);
    write_lives(&world, &host);
    write_versions(&host);
    newer::write_all(&world, &host);
    write_peers(&world, &host);
}

/// Keeps every execution of an instance that is there.
fn write(host: &Host<'_>, instance: &str) {
    write_as(host, instance, instance);
}

/// As [`write`], where the id is no name for a file.
fn write_as(host: &Host<'_>, instance: &str, name: &str) {
    let last = host.engine().summary(&id(instance)).unwrap().expect("its row").execution;
    for execution in 1..=last {
        let Ok(history) = host.engine().history(&id(instance), Some(execution)) else { continue };
        let recording = Recording::of(&history, None).unwrap();
        let module = host.engine().modules().bytes(recording.module_hash).unwrap();
        let name = if last == 1 { name.to_owned() } else { format!("{name}-{execution}") };
        keep(&name, &recording, &module);
    }
    host.assert_sound(instance);
}

fn write_calls(world: &World, host: &Host<'_>) {
    host.run("two-calls", "two_calls", json!("beer"));
    host.run("values", "draws", Value::Null);
    host.run("in-order", "in_order", Value::Null);
    host.run("too-large", "sends", json!(20_000));
    host.start("saga", "undoes", Value::Null).unwrap();
    host.failure("saga");
    world.desk.script("step.flaky", [failed("Busy", "later"), failed("Busy", "later")]);
    let policy = json!({ "first_ms": 60_000, "coefficient": 2.0, "max_ms": 100_000, "attempts": 2, "total_ms": null,
        "jitter": 0.5, "non_retryable": [] });
    host.start("retries", "retries", policy).unwrap();
    host.wait_kind("retries", "activity-attempt-failed", 1);
    world.clock.advance(DAY);
    host.output("retries");
    host.start("traps", "panics", Value::Null).unwrap();
    assert_eq!(host.failure("traps").kind, FailureKind::Trapped);
    ["two-calls", "values", "in-order", "too-large", "saga", "retries", "traps"]
        .into_iter()
        .for_each(|i| write(host, i));
}

fn write_events(world: &World, host: &Host<'_>) {
    host.start("pages", "collects", json!({ "wanted": 3, "page": 1 })).unwrap();
    (1..=3).for_each(|item| host.raise("pages", "item", json!(item)).unwrap());
    host.output("pages");
    host.start("race", "loses_a_race", json!(false)).unwrap();
    host.wait_kind("race", "timer-scheduled", 1);
    world.clock.advance_quietly(DAY);
    (1..=2).for_each(|item| host.raise("race", "item", json!(item)).unwrap());
    host.output("race");
    world.desk.hold("step.slow");
    host.start("lets-go", "lets_go", Value::Null).unwrap();
    host.raise("lets-go", "let go", Value::Null).unwrap();
    host.raise("lets-go", "end", json!("over")).unwrap();
    host.output("lets-go");
    host.run("counts", "counts", json!(2));
    ["pages", "race", "lets-go", "counts"].into_iter().for_each(|instance| write(host, instance));
}

fn write_lives(world: &World, host: &Host<'_>) {
    host.start("held", "sleeps", json!(60_000)).unwrap();
    host.block_on(host.engine().suspend(&id("held"), "for now")).unwrap();
    world.clock.advance(DAY);
    host.block_on(host.engine().resume(&id("held"), "go on")).unwrap();
    host.output("held");
    host.start("cancelled", "obeys", Value::Null).unwrap();
    host.wait_kind("cancelled", "timer-scheduled", 1);
    host.block_on(host.engine().cancel(&id("cancelled"), "enough")).unwrap();
    host.failure("cancelled");
    host.start("terminated", "obeys", Value::Null).unwrap();
    host.wait_kind("terminated", "timer-scheduled", 1);
    host.block_on(host.engine().terminate(&id("terminated"), "enough")).unwrap();
    host.failure("terminated");
    host.start("forked-from", "signs", Value::Null).unwrap();
    host.wait_kind("forked-from", "event-awaited", 1);
    let at = host.kinds("forked-from").len() as u32;
    let fork = ForkRequest { from: id("forked-from"), execution: None, at, edit: None, module: None, id: id("fork") };
    host.block_on(host.engine().fork(fork)).unwrap();
    host.raise("fork", "go", json!("me")).unwrap();
    host.output("fork");
    world.desk.script("step.one", [failed("Busy", "not now")]);
    host.start("rewound", "two_calls", json!("beer")).unwrap();
    host.failure("rewound");
    host.block_on(host.engine().rewind(&id("rewound"), false, "it is back")).unwrap();
    host.output("rewound");
    ["held", "cancelled", "terminated", "fork", "rewound"].into_iter().for_each(|instance| write(host, instance));
}

fn write_versions(host: &Host<'_>) {
    let ship = |version: &str| {
        let bytes = small_guest(&format!("ship-{version}")).to_vec();
        let upload = Upload { bytes, name: "ship".into(), version: Some(version.into()), ..Upload::default() };
        host.engine().upload(upload).unwrap()
    };
    ship("1");
    let of_ship = |id: &str| StartRequest { module: Some("ship".into()), ..start(id, "ship", json!("beer")) };
    host.try_start(of_ship("migrated")).unwrap();
    host.wait_kind("migrated", "event-awaited", 1);
    let two = ship("2");
    host.engine().migrate(&two, &Scope { name: Some("ship".into()), ..Scope::default() }).unwrap();
    host.try_start(of_ship("patched")).unwrap();
    for instance in ["migrated", "patched"] {
        host.raise(instance, "go", Value::Null).unwrap();
        host.output(instance);
        write(host, instance);
    }
}

fn write_peers(world: &World, host: &Host<'_>) {
    host.start("hears", "hears", json!({ "wanted": 2, "page": 1 })).unwrap();
    host.run("tells", "tells", json!({ "to": ["hears", "nobody"], "values": [1, 2] }));
    host.output("hears");
    host.run("branches", "branches", json!(2));
    let of_peers = StartRequest { module: Some("peers".into()), ..start("tries", "tries", json!("Passing")) };
    host.try_start(of_peers).unwrap();
    for failed in 1..=2 {
        host.wait_kind("tries", "orchestration-attempt-failed", failed);
        host.settle("tries");
        world.clock.advance(DAY);
    }
    host.output("tries");
    host.run("fires", "fires", Value::Null);
    host.wait_summary("fires", "that it goes on", |summary| summary.outbox.is_empty());
    host.output("child");
    host.engine().purge(&id("child")).unwrap();
    host.start("leaves", "leaves", json!(["cancel", false])).unwrap();
    host.wait_kind("child", "timer-scheduled", 1);
    host.raise("leaves", "go", Value::Null).unwrap();
    host.output("leaves");
    host.output("child");
    ["hears", "tells", "branches", "tries", "fires", "leaves", "child"].into_iter().for_each(|i| write(host, i));
}

/// Run by `just add-history FILE`.
#[test]
#[ignore = "takes the recording that DACAPO_HISTORY names"]
fn histories_add() {
    let file = PathBuf::from(std::env::var_os("DACAPO_HISTORY").expect("DACAPO_HISTORY names a recording"));
    let recording = Recording::decode(&std::fs::read(&file).expect("it can be read")).expect("a sound recording");
    let module = recording.module.clone().expect("a recording with its module: `dacapo history --with-module`");
    keep(&file.file_stem().expect("a name").to_string_lossy(), &recording, &module);
}
