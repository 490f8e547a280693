//! Instances with long histories go on from snapshots, as they would from a replay of
//! everything (S12, S04), and are asked from them (S32); and a snapshot that is not good
//! is as if there were none.

use std::time::Duration;

use dacapo::core::ids::Hash;
use dacapo::core::payload::{FailureKind, Payload};
use dacapo::core::turn::{Limits, Recorder, TurnRecord};
use dacapo::engine::EngineError;
use dacapo::engine::upgrade::Scope;
use dacapo::sandbox::guest::Guest;
use dacapo::sandbox::snapshot::Snapshot;
use dacapo::store::Store as _;
use dacapo::store::redb::RedbStore;
use dacapo::store::snapshot::Snapshot as Kept;
use serde_json::{Value, json};

use crate::guests::guest;
use crate::harness::{Host, SECOND, World, failed, id, sweep, text};
use crate::snapshot::module as inspected;

const EVERY: u32 = 20;

fn world_with(modules: &[&str]) -> World {
    let mut world = World::with(modules);
    world.settings.snapshot_every = EVERY;
    world.settings.evict_after = Duration::from_secs(10);
    world
}

fn world() -> World {
    world_with(&["steps"])
}

/// Raises items, one turn each; whatever snapshots that leads to are in the store.
fn raise_items(host: &Host<'_>, instance: &str, items: std::ops::Range<u32>) {
    for n in items {
        host.raise(instance, "item", json!(n)).unwrap();
        host.engine().settle_snapshots();
    }
}

fn start(host: &Host<'_>, instance: &str, wanted: u32) {
    host.start(instance, "collects", json!({ "wanted": wanted, "page": 1000 })).unwrap();
}

fn evict(world: &World, host: &Host<'_>, instance: &str) {
    world.clock.advance(10 * SECOND);
    host.settle(instance);
    assert_eq!(host.engine().resident_guests(), 0);
}

fn kept(host: &Host<'_>, instance: &str) -> Option<Kept> {
    host.engine().store().snapshot(&id(instance)).expect("a readable snapshot")
}

fn all(items: u32) -> Value {
    json!((0..items).collect::<Vec<_>>())
}

#[test]
fn s12_a_wake_from_a_snapshot_goes_on_as_one_from_the_whole_history() {
    for restart in [false, true] {
        let world = world();
        let mut host = world.open();
        start(&host, "long", 60);
        raise_items(&host, "long", 0..40);
        let snapshot = kept(&host, "long").expect("it is long");
        assert!(snapshot.events >= EVERY && snapshot.turn < 42, "{snapshot:?}");
        assert_eq!(host.engine().restored_guests(), 0, "it never left");
        if restart {
            drop(host);
            host = world.open();
        } else {
            evict(&world, &host, "long");
        }
        raise_items(&host, "long", 40..59);
        assert_eq!(host.engine().restored_guests(), 1);
        let later = kept(&host, "long").expect("it is long");
        assert!(later.turn > snapshot.turn, "a later one is in its place");
        evict(&world, &host, "long");
        raise_items(&host, "long", 59..60);
        assert_eq!(host.engine().restored_guests(), 2);
        assert_eq!(host.output("long"), all(60));
        host.assert_sound("long");
    }
}

#[test]
fn s12_an_instance_that_has_grown_long_moves_while_nobody_waits_for_it() {
    let world = world();
    let host = world.open();
    start(&host, "long", 60);
    let events = || host.engine().summary(&id("long")).unwrap().unwrap().events;
    let grown = (0..).find(|&n| {
        raise_items(&host, "long", n..n + 1);
        host.settle("long");
        events() >= EVERY
    });
    // No turn comes after the one that made it long, and it has a guest that can be looked into.
    evict(&world, &host, "long");
    host.engine().settle_snapshots();
    let kept = kept(&host, "long").expect("it left its state");
    assert_eq!(kept.events, events());
    raise_items(&host, "long", grown.unwrap() + 1..60);
    assert_eq!(host.engine().restored_guests(), 1);
    assert_eq!(host.output("long"), all(60));
    host.assert_sound("long");
}

#[test]
fn s32_a_query_of_a_long_instance_is_answered_from_its_snapshot_as_from_its_history() {
    let mut world = world_with(&["steps", "life"]);
    let host = world.open();
    host.start("trip", "trip", Value::Null).unwrap();
    for leg in 0..EVERY {
        host.raise("trip", "leg", json!(format!("leg {leg}"))).unwrap();
        host.wait_kind("trip", "activity-completed", leg as usize + 1);
        host.engine().settle_snapshots();
    }
    let kept = kept(&host, "trip").expect("it is long");
    host.settle("trip");
    assert!(kept.events < host.engine().summary(&id("trip")).unwrap().unwrap().events, "turns come after it");
    let ask = |host: &Host<'_>, name: &str, input: Value| {
        host.block_on(host.engine().query(&id("trip"), name, Payload::json(input.to_string())))
    };
    let asked = |host: &Host<'_>| {
        let answers = [("booked", Value::Null), ("how-many", json!("leg 3")), ("touch", Value::Null)];
        answers.map(|(name, input)| ask(host, name, input).unwrap().to_json().unwrap())
    };
    let before = host.engine().restored_guests();
    let answered = asked(&host);
    assert_eq!(host.engine().restored_guests() - before, 3);
    assert_eq!(answered[0].as_array().map(Vec::len), Some(EVERY as usize));
    // What fails is said by an ordinary guest.
    let failed = ask(&host, "panics", Value::Null).unwrap_err();
    let failed = failed.to_string();
    drop(host);
    world.settings.snapshot_every = 0;
    let host = world.open();
    assert_eq!(asked(&host), answered);
    assert_eq!(ask(&host, "panics", Value::Null).unwrap_err().to_string(), failed);
    assert_eq!(host.engine().restored_guests(), 0);
}

#[test]
fn s26_the_next_execution_of_a_long_one_stays_in_memory() {
    let world = world();
    let host = world.open();
    host.start("long", "collects", json!({ "wanted": 60, "page": 40 })).unwrap();
    raise_items(&host, "long", 0..40);
    assert!(kept(&host, "long").is_some(), "it came to have a guest that can be looked into");
    raise_items(&host, "long", 40..41);
    let read = host.histories_read();
    raise_items(&host, "long", 41..46);
    assert_eq!(host.histories_read(), read, "nothing is replayed for what comes in");
    raise_items(&host, "long", 46..60);
    assert_eq!(host.output("long"), all(60));
    host.assert_sound("long");
}

#[test]
fn s12_an_instance_that_leaves_the_memory_leaves_its_state() {
    let world = world();
    let host = world.open();
    start(&host, "long", 60);
    raise_items(&host, "long", 0..11);
    let first = kept(&host, "long").expect("it is long").events;
    let leaves = || {
        evict(&world, &host, "long");
        host.engine().settle_snapshots();
        kept(&host, "long").expect("it is long").events
    };
    let events = || host.engine().summary(&id("long")).unwrap().unwrap().events;
    assert_eq!(leaves(), first, "little came since");
    raise_items(&host, "long", 11..17);
    assert!(events() < first + EVERY, "not enough for one while it is in memory");
    assert_eq!(leaves(), events());
    raise_items(&host, "long", 17..18);
    assert!(leaves() < events(), "little came since");
    assert_eq!(host.engine().restored_guests(), 2);
    raise_items(&host, "long", 18..60);
    assert_eq!(host.output("long"), all(60));
    host.assert_sound("long");
}

/// A guest in the state of the snapshot, and one that ran all turns up to it.
fn both(kept: &Kept, records: &[TurnRecord]) -> [Guest; 2] {
    let module = inspected("steps");
    let snapshot = Snapshot::decode(&kept.state, Limits::default()).expect("a snapshot");
    let mut restored = Guest::new(&module, snapshot.recorder().clone()).expect("there is room");
    restored.restore(&snapshot).expect("it fits");
    let first = Recorder::of_history(&records[0], Limits::default()).expect("a history");
    let mut replayed = Guest::new(&module, first).expect("there is room");
    replayed.replay(&records[..kept.turn as usize]).expect("it replays");
    [restored, replayed]
}

#[test]
fn s05_the_state_in_a_snapshot_is_the_one_that_running_the_history_leads_to() {
    let world = world();
    let host = world.open();
    start(&host, "long", 200);
    let mut turns = std::collections::BTreeSet::new();
    let mut snapshots = Vec::new();
    for n in 0..90 {
        raise_items(&host, "long", n..n + 1);
        snapshots.extend(kept(&host, "long").filter(|kept| turns.insert(kept.turn)));
        if n % 12 == 11 {
            evict(&world, &host, "long");
        }
    }
    assert!(snapshots.len() > 4, "{turns:?}");
    raise_items(&host, "long", 90..95);
    let records = host.records("long");
    for kept in &snapshots {
        let [mut restored, mut replayed] = both(kept, &records);
        for (at, record) in records.iter().enumerate().skip(kept.turn as usize) {
            assert_eq!(restored.state_hash().unwrap(), replayed.state_hash().unwrap(), "before turn {}", at + 1);
            assert_eq!(restored.recorder().execution, replayed.recorder().execution, "before turn {}", at + 1);
            for guest in [&mut restored, &mut replayed] {
                guest.replay_turn(record, records.get(at + 1)).expect("it replays");
            }
        }
        assert_eq!(restored.state_hash().unwrap(), replayed.state_hash().unwrap());
    }
}

#[test]
fn s04_a_snapshot_that_is_not_of_this_history_is_not_used() {
    type Change = fn(&mut Kept, &Kept);
    let changes: [(&str, Change); 9] = [
        ("another program", |kept, _| kept.make = Hash::of(b"other")),
        ("another instance", |kept, _| kept.birth ^= 1),
        ("another life", |kept, _| kept.execution += 1),
        ("another module", |kept, _| kept.module = Hash::of(b"other")),
        ("another history", |kept, _| kept.head = Hash::of(b"other")),
        ("another turn", |kept, _| kept.turn -= 1),
        ("another event", |kept, _| kept.events -= 1),
        ("half of it", |kept, _| kept.state.truncate(kept.state.len() / 2)),
        ("the state of another one", |kept, other| kept.state.clone_from(&other.state)),
    ];
    for (what, change) in changes {
        let world = world();
        let host = world.open();
        for instance in ["long", "other"] {
            start(&host, instance, 31);
            raise_items(&host, instance, 0..30);
        }
        let (good, other) = (kept(&host, "long").unwrap(), kept(&host, "other").unwrap());
        drop(host);
        let mut bad = good.clone();
        change(&mut bad, &other);
        {
            let store = RedbStore::open(&world.journal()).unwrap();
            let epoch = store.claim().unwrap();
            // One that cannot be of the instance is refused where it comes in, too.
            let taken = store.put_snapshot(epoch, &id("long"), &bad).unwrap();
            let row = store.summary(&id("long")).unwrap().unwrap();
            assert_eq!(taken, bad.may_be_of(&row), "{what}");
            // What is not taken stands where an older program might have left it.
            assert_eq!(store.snapshot(&id("long")).unwrap(), Some(if taken { bad } else { good }), "{what}");
            if !taken {
                continue;
            }
        }
        let host = world.open();
        host.raise("long", "item", json!(30)).unwrap();
        assert_eq!(host.engine().restored_guests(), 0, "{what}");
        assert_eq!(host.output("long"), all(31), "{what}");
        host.assert_sound("long");
    }
}

#[test]
fn s04_snapshots_survive_a_death_at_every_commit() {
    let commits = sweep(
        || {
            let mut world = world();
            world.settings.snapshot_every = 6;
            world.settings.evict_after = Duration::ZERO;
            world
        },
        |host| {
            host.start("long", "collects", json!({ "wanted": 8, "page": 1000 }))?;
            for n in 0..8 {
                let value = Payload::json(n.to_string());
                match host.block_on(host.engine().raise_once(&id("long"), "item", value, &format!("key-{n}"))) {
                    Err(EngineError::Ended { .. }) | Ok(_) => {}
                    Err(error) => return Err(error),
                }
                host.engine().settle_snapshots();
            }
            host.outcome("long").map(drop)
        },
        |_, host, death| {
            assert_eq!(host.output("long"), all(8), "{death:?}");
            host.assert_sound("long");
        },
    );
    assert!(commits > 8, "{commits}");
}

#[test]
fn s26_s29_s34_a_snapshot_goes_with_the_end_the_next_life_and_the_instance() {
    let world = world();
    let host = world.open();
    for (instance, wanted, page) in [("ends", 30, 1000), ("anew", 60, 30), ("purged", 30, 1000), ("stays", 60, 1000)] {
        host.start(instance, "collects", json!({ "wanted": wanted, "page": page })).unwrap();
        raise_items(&host, instance, 0..29);
        assert!(kept(&host, instance).is_some(), "{instance}");
        raise_items(&host, instance, 29..30);
    }
    host.outcome("ends").unwrap().unwrap();
    host.outcome("purged").unwrap().unwrap();
    host.engine().purge(&id("purged")).unwrap();
    let check = |host: &Host<'_>| {
        let there = ["ends", "anew", "purged", "stays"].map(|instance| kept(host, instance).is_some());
        assert_eq!(there, [false, false, false, true]);
        assert_eq!(host.engine().store().check_indexes().unwrap(), []);
    };
    // A purge folds what there is; so does whoever opens the file.
    check(&host);
    drop(host);
    let host = world.open();
    check(&host);
    for instance in ["anew", "stays"] {
        raise_items(&host, instance, 30..60);
        assert_eq!(host.output(instance), all(60));
        host.assert_sound(instance);
    }
}

#[test]
fn s36_a_snapshot_of_the_module_before_is_not_used_after_a_migration() {
    let mut world = world_with(&["steps", "ship-1"]);
    world.settings.snapshot_every = 1;
    world.desk.hold("step.one");
    let host = world.open();
    host.start("order", "ship", json!("tea")).unwrap();
    let paid = world.desk.next("step.one");
    evict(&world, &host, "order");
    paid.go_on();
    host.wait_kind("order", "event-awaited", 1);
    host.raise("order", "nothing", Value::Null).unwrap();
    host.engine().settle_snapshots();
    let (old, restored) = (kept(&host, "order").expect("it is long enough"), host.engine().restored_guests());
    let two = host.upload("ship-1", Some("2"), &guest("ship-2")).unwrap();
    let moved = host.engine().migrate(&two, &Scope::default()).unwrap();
    assert!(moved.iter().all(|line| line.migrated == Some(Ok(()))), "{moved:?}");
    assert_ne!(old.module, two.hash);
    host.raise("order", "go", Value::Null).unwrap();
    assert_eq!(host.output("order"), json!("one(tea), weighed, two(tea)"));
    assert_eq!(host.engine().restored_guests(), restored);
    host.assert_sound("order");
}

#[test]
fn s13_an_attempt_that_was_under_way_beside_a_snapshot_runs_again_after_a_death() {
    let mut world = world_with(&["steps", "life"]);
    world.settings.snapshot_every = 1;
    world.desk.script("step.flaky", [failed("Busy", "later")]);
    let host = world.open();
    host.start("tries", "tries", Value::Null).unwrap();
    host.wait_kind("tries", "activity-attempt-failed", 1);
    host.settle("tries");
    host.engine().settle_snapshots();
    world.desk.hold("step.flaky");
    world.clock.advance(SECOND);
    let second = world.desk.next("step.flaky");
    assert_eq!(second.task.attempt, 2);
    // Turns while it runs: a snapshot of them would say that it need not begin.
    for _ in 0..3 {
        host.raise("tries", "nothing", json!(null)).unwrap();
        host.settle("tries");
        host.engine().settle_snapshots();
    }
    drop((second, host));
    world.desk.release("step.flaky");
    let host = world.open();
    assert_eq!(host.output("tries"), json!("flaky(try)"));
    let attempts: Vec<_> = world.desk.calls_of("step.flaky").iter().map(|call| call.attempt).collect();
    assert_eq!(attempts, [1, 2, 2]);
    host.assert_sound("tries");
}

#[test]
fn s40_what_the_host_says_of_a_guest_is_said_of_an_ordinary_one() {
    let mut world = world_with(&["steps", "unruly", "seeded"]);
    world.settings.snapshot_every = 1;
    world.settings.sandbox.turn_budget = Duration::from_millis(100);
    let host = world.open();
    host.start("spins", "spins-later", Value::Null).unwrap();
    host.wait_kind("spins", "timer-scheduled", 1);
    host.settle("spins");
    host.engine().settle_snapshots();
    world.clock.advance(SECOND);
    let failure = host.failure("spins");
    assert!(failure.message.contains("longer than one turn may take"), "{failure}");
    host.assert_sound("spins");
    // Three calls one after the other; without the third one's result it panics.
    world.desk.hold("step.do");
    host.start("panics", "journey_panics", json!(3)).unwrap();
    for n in 0..3 {
        let held = world.desk.next("step.do");
        host.settle("panics");
        host.engine().settle_snapshots();
        held.answer(if n < 2 { text("booked") } else { failed("NoCar", "all cars are gone") });
    }
    let failure = host.failure("panics");
    assert_eq!(failure.kind, FailureKind::Trapped, "{failure}");
    assert_eq!(host.count("panics", "failed"), 1);
    host.assert_sound("panics");
}
