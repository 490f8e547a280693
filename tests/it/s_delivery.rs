//! Delivery is a fact of its own: a completion counts when the turn that handed it to
//! the guest is durable, not when it reached the host. Whatever interrupts that turn,
//! everything in it is handed over again, and nothing twice. (S04, S06, S08)

use std::cell::RefCell;
use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;
use std::time::Duration;

use dacapo::core::event::Event;
use dacapo::core::payload::Payload;
use dacapo::engine::EngineError;
use dacapo::store::Store as _;
use futures::FutureExt as _;
use serde_json::{Value, json};

use crate::harness::{Desk, Host, Imports, Interruption, SECOND, World, id, sweep};

const HELD: [&str; 4] = ["step.one", "step.two", "step.slow", "step.keep_text"];

/// `is_resident`: the guest stays in memory between its turns; else it is re-created
/// by a replay for each.
fn world(is_resident: bool) -> World {
    let mut world = World::with(&["steps", "deliveries"]);
    if !is_resident {
        world.settings.evict_after = Duration::ZERO;
        world.settings.stay_below = Duration::ZERO;
    }
    world
}

/// What a test has in its hand while a host works.
struct Hand {
    desk: Arc<Desk>,
    imports: Arc<Imports>,
}

impl Hand {
    fn of(world: &World) -> Self {
        Self { desk: world.desk.clone(), imports: world.imports.clone() }
    }

    /// Waits until the worker has done what it was told. A turn that was interrupted
    /// is tried again, since time moves on.
    fn settle(&self, host: &Host<'_>) -> Result<(), EngineError> {
        host.try_settle("crowd")?;
        if self.imports.take_interruption() {
            host.clock().advance(100);
            host.try_settle("crowd")?;
        }
        Ok(())
    }

    /// Runs `crowded` to its end, or until the host dies. On the host that starts it,
    /// everything that it waits for is in the journal before it is told of anything.
    fn drive(&self, host: &Host<'_>) -> Result<(), EngineError> {
        let crowd = id("crowd");
        let begins = host.engine().summary(&crowd)?.is_none();
        if begins {
            HELD.iter().for_each(|name| self.desk.hold(name));
        }
        host.start("crowd", "crowded", Value::Null)?;
        self.settle(host)?;
        if begins {
            host.block_on(host.engine().suspend(&crowd, "to let them gather"))?;
            HELD.iter().for_each(|name| self.desk.release_all(name));
            wait(host, "activity-completed", 4)?;
            host.clock().advance(SECOND);
            wait(host, "timer-fired", 1)?;
        }
        HELD.iter().for_each(|name| self.desk.release_all(name));
        // Whoever asked may be gone: it is answered all the same.
        let _ = host.engine().update(&crowd, "more", Payload::json("2"), "once").now_or_never();
        for name in ["item", "go"] {
            let value = Payload::json(json!(name).to_string());
            unless_ended(host.block_on(host.engine().raise_once(&crowd, name, value, name)).map(drop))?;
        }
        unless_ended(host.block_on(host.engine().resume(&crowd, "all are there")))?;
        self.settle(host)?;
        host.advance_to_end("crowd", SECOND)?;
        host.outcome("crowd").map(drop)
    }

    /// Everybody was told, once, and each activity was called under one key.
    fn check(&self, host: &Host<'_>, what: &str) {
        let told = json!(["go", "one(first)", "two(second)", "kept: true", "item", "2 more"]);
        assert_eq!(host.output("crowd"), told, "{what}");
        host.assert_sound("crowd");
        let mut keys: BTreeMap<(String, String), BTreeSet<String>> = BTreeMap::new();
        for call in self.desk.calls() {
            keys.entry((call.name, call.input)).or_default().insert(call.key);
        }
        assert!(keys.values().all(|keys| keys.len() == 1), "{what}: {keys:?}");
        assert_eq!(host.count("crowd", "activity-scheduled"), 5, "{what}");
        let mut completed = BTreeSet::new();
        for event in host.events("crowd") {
            if let Event::ActivityCompleted { operation, .. } = event {
                assert!(completed.insert(operation), "{what}: #{operation} completed twice");
            }
        }
    }
}

fn wait(host: &Host<'_>, kind: &str, count: usize) -> Result<(), EngineError> {
    let found = host.wait_or_death(kind, |store| {
        let records = store.history(&id("crowd"), None).expect("a readable store")?.decode().expect("a sound chain");
        let found = records.iter().flat_map(|record| &record.events).filter(|event| event.kind() == kind).count();
        (found >= count).then_some(())
    });
    found.ok_or(EngineError::Stopped(None))
}

fn unless_ended(done: Result<(), EngineError>) -> Result<(), EngineError> {
    match done {
        Err(EngineError::Ended { .. }) => Ok(()),
        other => other,
    }
}

/// How often guests ask for something in live turns, when nothing interrupts them.
fn imports_of_a_run(is_resident: bool) -> Vec<String> {
    let world = world(is_resident);
    let (host, hand) = (world.open(), Hand::of(&world));
    hand.drive(&host).expect("nothing dies");
    hand.check(&host, "without an interruption");

    let records = host.records("crowd");
    let told = records.iter().position(|turn| turn.events.iter().any(|event| event.kind() == "resumed")).unwrap();
    let (before, turn) = (&records[..told], &records[told]);
    let kept = before.iter().rev().take_while(|turn| !turn.ran).flat_map(|turn| &turn.events);
    let kept: Vec<_> = kept.map(Event::kind).collect();
    for kind in ["activity-completed", "timer-fired", "event-raised-once", "request-received"] {
        assert!(kept.contains(&kind), "{kind} is there and not handed over, found {kept:?}");
    }
    let asked: Vec<_> = turn.events.iter().map(Event::kind).collect();
    for kind in ["operation-cancelled", "value-recorded", "patched", "tag-set", "activity-scheduled", "responded"] {
        assert!(asked.contains(&kind), "{kind} is asked for in the turn that is told of all, found {asked:?}");
    }
    world.imports.called()
}

fn interrupted_at_every_import(is_resident: bool, how: Interruption) {
    let imports = imports_of_a_run(is_resident);
    assert!(imports.len() > 20, "{imports:?}");
    for (at, import) in imports.iter().enumerate() {
        let what = format!("{how:?} at import {} ({import}), resident: {is_resident}", at + 1);
        let world = world(is_resident);
        let hand = Hand::of(&world);
        world.imports.interrupt_at(at + 1, how);
        let host = world.open();
        let driven = hand.drive(&host);
        assert_eq!(driven.is_ok(), how == Interruption::PutOff, "{what}: {driven:?}");
        if how == Interruption::PutOff {
            hand.check(&host, &what);
        }
        drop(host);
        let host = world.open();
        hand.drive(&host).unwrap_or_else(|error| panic!("{what}: {error}"));
        hand.check(&host, &what);
    }
}

#[test]
fn s08_a_turn_that_is_interrupted_at_any_import_is_run_again_as_if_it_had_not_begun() {
    interrupted_at_every_import(true, Interruption::PutOff);
}

#[test]
fn s08_so_is_one_of_a_guest_that_was_replayed() {
    interrupted_at_every_import(false, Interruption::PutOff);
}

#[test]
fn s06_a_host_that_dies_at_any_import_has_handed_over_nothing() {
    interrupted_at_every_import(true, Interruption::Death);
}

#[test]
fn s06_nor_has_one_that_dies_with_a_guest_that_was_replayed() {
    interrupted_at_every_import(false, Interruption::Death);
}

#[test]
fn s06_between_the_hand_over_and_the_commit_nothing_counts_and_after_it_everything() {
    for is_resident in [true, false] {
        let hand = RefCell::new(None);
        let commits = sweep(
            || {
                let world = world(is_resident);
                *hand.borrow_mut() = Some(Hand::of(&world));
                world
            },
            |host| hand.borrow().as_ref().expect("a world was made").drive(host),
            |world, host, death| Hand::of(world).check(host, &format!("{death:?}, resident: {is_resident}")),
        );
        assert!(commits > 5, "{commits}");
    }
}
