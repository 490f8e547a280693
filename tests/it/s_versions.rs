//! Versions: S34 to S37. The module `ship` has three: 1 is what runs, 2 guards its
//! additions with `patched`, 3 was changed without a thought for what runs.

use std::sync::atomic::{AtomicBool, Ordering};

use dacapo::core::event::Event;
use dacapo::core::payload::Payload;
use dacapo::engine::upgrade::Scope;
use dacapo::engine::{EngineError, StartRequest, Upload};
use dacapo::replay::check::{Checked, Verdict, in_parallel};
use dacapo::store::Module;
use dacapo::store::schedule::{Overlap, ScheduleSpec, Timing};
use serde_json::{Value, json};

use crate::guests::guest;
use crate::harness::{DAY, Death, Host, World, id, start, sweep, text};

fn empty() -> World {
    World::with(&[])
}

/// Uploads a version of `ship`, which new starts take from then on.
fn ship(host: &Host<'_>, version: &str) -> Module {
    host.upload("ship", Some(version), &guest(&format!("ship-{version}"))).expect("a good module")
}

fn hold_back(host: &Host<'_>, version: &str) -> Module {
    host.engine().upload(of_ship(version, true)).expect("a good module")
}

fn of_ship(version: &str, held_back: bool) -> Upload {
    let bytes = guest(&format!("ship-{version}")).to_vec();
    Upload { bytes, name: "ship".to_owned(), version: Some(version.to_owned()), held_back, ..Upload::default() }
}

fn start_with(host: &Host<'_>, instance: &str, module: &str) -> Result<(), EngineError> {
    host.try_start(StartRequest { module: Some(module.to_owned()), ..start(instance, "ship", json!("beer")) }).map(drop)
}

fn module_of(host: &Host<'_>, instance: &str) -> dacapo::core::ids::ModuleHash {
    host.engine().summary(&id(instance)).unwrap().unwrap().module
}

fn go(host: &Host<'_>, instance: &str) -> Value {
    host.raise(instance, "go", Value::Null).unwrap();
    host.output(instance)
}

fn result_of<'c>(checked: &'c [Checked], name: &str) -> &'c Checked {
    checked.iter().find(|line| line.name == name).unwrap_or_else(|| panic!("{name} was checked"))
}

// ---- names and versions ----

#[test]
fn s34_new_starts_take_the_default_and_it_can_be_chosen() {
    let world = empty();
    let mut host = world.open();
    let (one, two) = (ship(&host, "1"), ship(&host, "2"));
    for restart in [false, true] {
        if restart {
            drop(host);
            host = world.open();
        }
        let modules = host.engine().modules();
        let instance = |of: &str| format!("{of}-{restart}");
        host.start(&instance("newest"), "ship", json!("beer")).unwrap();
        assert_eq!(module_of(&host, &instance("newest")), two.hash);
        modules.set_default("ship@1", dacapo::core::ids::TimestampMs(0)).unwrap();
        assert_eq!(modules.default_of("ship").unwrap().unwrap().hash, one.hash);
        host.start(&instance("chosen"), "ship", json!("beer")).unwrap();
        start_with(&host, &instance("by-name"), "ship").unwrap();
        start_with(&host, &instance("by-version"), "ship@2").unwrap();
        start_with(&host, &instance("by-hash"), &two.hash.to_string()).unwrap();
        for (of, module) in [("chosen", &one), ("by-name", &one), ("by-version", &two), ("by-hash", &two)] {
            assert_eq!(module_of(&host, &instance(of)), module.hash, "{of}");
        }
        modules.set_default(&two.hash.to_string(), dacapo::core::ids::TimestampMs(0)).unwrap();
    }
    let error = host.engine().modules().set_default("ship@9", dacapo::core::ids::TimestampMs(0)).unwrap_err();
    assert_eq!(error.code(), "unknown-module");
    assert!(error.to_string().contains("ship@1"), "{error}");
}

#[test]
fn s34_a_version_that_is_held_back_is_found_by_its_version_only() {
    let world = empty();
    let host = world.open();
    let one = ship(&host, "1");
    let two = hold_back(&host, "2");
    host.start("new", "ship", json!("beer")).unwrap();
    start_with(&host, "pinned", "ship@2").unwrap();
    assert_eq!((module_of(&host, "new"), module_of(&host, "pinned")), (one.hash, two.hash));
    let lonely =
        Upload { bytes: guest("greet-1").to_vec(), name: "lonely".into(), held_back: true, ..Upload::default() };
    host.engine().upload(lonely).unwrap();
    assert_eq!(host.start("lost", "greet", json!("Ada")).unwrap_err().code(), "unknown-orchestration");
    assert_eq!(host.engine().modules().default_of("lonely").unwrap(), None);
}

#[test]
fn s34_a_version_names_the_same_bytes_for_ever() {
    let world = empty();
    let host = world.open();
    let one = ship(&host, "1");
    let error = host.upload("ship", Some("1"), &guest("ship-2")).unwrap_err();
    assert_eq!(error.code(), "version-taken");
    assert!(error.to_string().contains("ship@1") && error.to_string().contains(&one.hash.short()), "{error}");
    assert_eq!(host.engine().modules().all().unwrap().len(), 1, "nothing is kept of it");
    let again = host.upload("ship", None, &guest("ship-1")).unwrap();
    assert_eq!((again.hash, again.version.as_str()), (one.hash, "1"), "the same bytes keep their version");
}

// ---- modules in use ----

#[test]
fn s35_a_module_that_an_instance_runs_is_never_removed() {
    let world = empty();
    let mut host = world.open();
    let one = ship(&host, "1");
    host.start("order", "ship", json!("beer")).unwrap();
    ship(&host, "2");
    for restart in [false, true] {
        if restart {
            drop(host);
            host = world.open();
        }
        for forget in [false, true] {
            let error = host.engine().remove_module("ship@1", forget).unwrap_err();
            assert_eq!(error.code(), "module-in-use");
            assert!(error.to_string().contains("1 instance run it"), "{error}");
            assert_eq!(host.engine().collect_modules(forget).unwrap(), []);
        }
    }
    assert_eq!(go(&host, "order"), json!("one(beer), two(beer)"));
    let error = host.engine().remove_module("ship@1", false).unwrap_err();
    assert!(error.to_string().contains("--forget-ended"), "{error}");
    host.assert_sound("order");
    let removed = host.engine().remove_module("ship@1", true).unwrap();
    assert_eq!(removed.hash, one.hash);
    drop(host);
    let host = world.open();
    let left: Vec<_> = host.engine().modules().all().unwrap().iter().map(|module| module.version.clone()).collect();
    assert_eq!(left, ["2"]);
    assert_eq!(start_with(&host, "late", "ship@1").unwrap_err().code(), "unknown-module");
}

#[test]
fn s35_collecting_leaves_what_is_needed_and_takes_the_rest() {
    let world = empty();
    let host = world.open();
    ship(&host, "1");
    host.start("runs", "ship", json!("beer")).unwrap();
    ship(&host, "2");
    host.start("ended", "ship", json!("beer")).unwrap();
    go(&host, "ended");
    hold_back(&host, "3");
    host.upload("greeter", Some("1"), &guest("greet-1")).unwrap();
    let versions =
        |removed: &[Module]| -> Vec<String> { removed.iter().map(|m| format!("{}@{}", m.name, m.version)).collect() };
    assert_eq!(versions(&host.engine().collect_modules(false).unwrap()), ["ship@3"]);
    assert_eq!(versions(&host.engine().collect_modules(true).unwrap()), [""; 0], "2 is the default");
    host.engine().modules().set_default("ship@1", dacapo::core::ids::TimestampMs(0)).unwrap();
    assert_eq!(versions(&host.engine().collect_modules(true).unwrap()), ["ship@2"]);
    go(&host, "runs");
    host.assert_sound("runs");
}

#[test]
fn s35_a_version_that_a_schedule_names_is_in_use() {
    let world = empty();
    let host = world.open();
    ship(&host, "1");
    ship(&host, "2");
    let spec = ScheduleSpec {
        timing: Timing::Every { interval_ms: DAY },
        orchestration: "ship".into(),
        module: Some("ship@1".into()),
        input: Payload::json("\"beer\""),
        tags: Default::default(),
        overlap: Overlap::Skip,
        catch_up_ms: DAY,
    };
    host.engine().put_schedule("daily", spec).unwrap();
    let error = host.engine().remove_module("ship@1", true).unwrap_err();
    assert!(error.code() == "module-in-use" && error.to_string().contains("daily"), "{error}");
    host.engine().delete_schedule("daily").unwrap();
    host.engine().remove_module("ship@1", true).unwrap();
}

#[test]
fn s35_a_start_that_races_a_removal_runs_or_is_refused() {
    let world = empty();
    let host = world.open();
    ship(&host, "1");
    for round in 0..20 {
        hold_back(&host, "2");
        let begun = AtomicBool::new(false);
        std::thread::scope(|scope| {
            let removal = scope.spawn(|| {
                while !begun.load(Ordering::Acquire) {
                    std::thread::yield_now();
                }
                host.engine().remove_module("ship@2", true)
            });
            let mut started = Vec::new();
            for n in 0..6 {
                let instance = format!("order-{round}-{n}");
                begun.store(true, Ordering::Release);
                match start_with(&host, &instance, "ship@2") {
                    Ok(()) => started.push(instance),
                    Err(error) => assert_eq!(error.code(), "unknown-module"),
                }
            }
            let removed = removal.join().unwrap();
            assert!(removed.is_err() || started.is_empty(), "round {round}: {started:?} lost their module");
            for instance in started {
                go(&host, &instance);
                host.assert_sound(&instance);
            }
        });
    }
}

// ---- the upgrade check ----

/// Instances in several states, all started with version 1.
fn shop(host: &Host<'_>) {
    ship(host, "1");
    for order in ["beer", "WINE", "nothing", "broken"] {
        host.start(order, "ship", json!(order)).unwrap();
        host.wait_kind(order, "event-awaited", 1);
    }
}

#[test]
fn s36_a_check_tells_for_each_history_whether_and_where_the_new_build_differs() {
    let world = empty();
    let host = world.open();
    shop(&host);
    let same = host.engine().check(&guest("ship-2"), &Scope::default()).unwrap();
    assert_eq!(same.iter().map(Checked::result).collect::<Vec<_>>(), ["same"; 4]);

    let checked = host.engine().check(&guest("ship-3"), &Scope::default()).unwrap();
    assert_eq!(result_of(&checked, "WINE").verdict, Verdict::Same, "its argument is in capitals already");
    let Verdict::Differs(beer) = &result_of(&checked, "beer").verdict else { panic!("{checked:?}") };
    assert_eq!(beer.event, 2);
    let json = result_of(&checked, "beer").to_json();
    assert_eq!((&json["result"], &json["event"], &json["matched"]), (&json!("differs"), &json!(2), &json!(1)));
    assert!(json["recorded_summary"].as_str().unwrap().contains("\"beer\""), "{json}");
    assert!(json["asked_summary"].as_str().unwrap().contains("\"BEER\""), "{json}");
    let Verdict::EndedDifferently(nothing) = &result_of(&checked, "nothing").verdict else { panic!("{checked:?}") };
    assert!(matches!(nothing.asked, Some(Event::Completed { .. })), "{nothing}");
    let Verdict::EndedDifferently(broken) = &result_of(&checked, "broken").verdict else { panic!("{checked:?}") };
    assert!(
        matches!(&broken.asked, Some(Event::Failed { failure, by_host: true }) if failure.message.contains("trapped"))
    );

    let greets = host.engine().check(&guest("greet-1"), &Scope { name: Some("ship".into()), ..Scope::default() });
    let greets = greets.unwrap();
    assert_eq!(greets.len(), 4);
    assert!(matches!(&greets[0].verdict, Verdict::CannotRun(why) if why.contains("it has greet")), "{greets:?}");
    assert_eq!(host.engine().check(&guest("greet-1"), &Scope::default()).unwrap().len(), 0, "nothing runs of it");

    // Nothing of all this left a trace.
    for order in ["beer", "WINE", "nothing", "broken"] {
        assert_eq!(host.kinds(order).last(), Some(&"event-awaited"));
        assert!(go(&host, order).as_str().unwrap().starts_with(&format!("one({order})")));
        host.assert_sound(order);
    }
    assert_eq!(host.engine().modules().all().unwrap().len(), 1, "what was checked was not kept");
}

#[test]
fn s36_those_that_match_are_migrated_and_those_that_differ_are_left() {
    for restart in [false, true] {
        let world = empty();
        let mut host = world.open();
        shop(&host);
        let three = hold_back(&host, "3");
        let one = module_of(&host, "beer");
        let checked = host.engine().migrate(&three, &Scope::default()).unwrap();
        assert_eq!(checked.iter().filter(|line| line.migrated == Some(Ok(()))).count(), 1);
        if restart {
            drop(host);
            host = world.open();
        }
        assert_eq!(module_of(&host, "WINE"), three.hash);
        assert_eq!(host.kinds("WINE").last(), Some(&"module-migrated"));
        let recorded = host.events("WINE").pop().unwrap();
        assert_eq!(recorded, Event::ModuleMigrated { from: one, to: three.hash });
        for left in ["beer", "nothing", "broken"] {
            assert_eq!(module_of(&host, left), one);
            assert_eq!(host.count(left, "module-migrated"), 0);
        }
        let again = host.engine().migrate(&three, &Scope::default()).unwrap();
        assert!(again.iter().all(|line| line.migrated.is_none()), "it is there already");
        for order in ["beer", "WINE", "nothing", "broken"] {
            assert_eq!(go(&host, order), json!(format!("one({order}), two({order})")));
            host.assert_sound(order);
        }
        // What ended with a module needs it to be replayed; the old one went on.
        assert_eq!(host.engine().remove_module("ship@3", false).unwrap_err().code(), "module-in-use");
    }
}

#[test]
fn s36_a_migration_survives_a_death_at_every_commit() {
    let commits = sweep(
        empty,
        |host| {
            let two = {
                ship(host, "1");
                hold_back(host, "2")
            };
            start_with(host, "order", "ship@1")?;
            host.engine().migrate(&two, &Scope::default())?;
            host.raise("order", "go", Value::Null).or_else(|error| match error {
                EngineError::Ended { .. } => Ok(()),
                error => Err(error),
            })?;
            host.outcome("order").map(drop)
        },
        |world, host, death| {
            let output = host.output("order");
            let calls = world.desk.calls();
            // Migrated right after its start, it may not have asked for anything yet.
            assert!(output.as_str().unwrap().ends_with("two(beer)"), "{death:?}: {output}");
            for call in &calls {
                assert!(call.was_durable, "{death:?}: {call:?}");
            }
            assert_eq!(module_of(host, "order"), host.engine().modules().find("ship@2").unwrap().hash, "{death:?}");
            assert_eq!(host.count("order", "module-migrated"), 1, "{death:?}");
            host.assert_sound("order");
        },
    );
    assert!(commits >= 4, "{commits}");
}

#[test]
fn s36_all_that_match_are_moved_by_one_commit_or_none_is() {
    const ORDERS: [&str; 6] = ["beer", "wine", "rum", "gin", "port", "cider"];
    let prepare = |world: &World| {
        let host = world.open();
        ship(&host, "1");
        for order in ORDERS {
            host.start(order, "ship", json!(order)).unwrap();
            host.wait_kind(order, "event-awaited", 1);
        }
        hold_back(&host, "2")
    };
    for workers in [1, 2, 5] {
        for death in [None, Some(Death::Before(1)), Some(Death::After(1))] {
            let mut world = empty();
            world.settings.workers = workers;
            let two = prepare(&world);
            let host = death.map_or_else(|| world.open(), |death| world.open_until(death));
            let told = host.engine().migrate(&two, &Scope::default());
            assert_eq!(told.is_ok(), death.is_none(), "{death:?}");
            drop(host);
            // Whatever the host was told: what is in the journal is all or nothing.
            let host = world.open();
            let moved = ORDERS.iter().filter(|order| module_of(&host, order) == two.hash).count();
            assert_eq!(moved, if death == Some(Death::Before(1)) { 0 } else { ORDERS.len() }, "{death:?}");
            host.engine().migrate(&two, &Scope::default()).unwrap();
            for order in ORDERS {
                let sent = go(&host, order);
                assert!(sent.as_str().unwrap().ends_with(&format!("two({order})")), "{sent}");
                assert_eq!(host.count(order, "module-migrated"), 1);
                host.assert_sound(order);
            }
        }
    }
}

#[test]
fn s36_a_migration_and_the_end_of_a_host_do_not_wait_for_each_other() {
    let mut world = empty();
    world.settings.workers = 4;
    for _ in 0..5 {
        let host = world.open();
        let one = ship(&host, "1");
        let two = hold_back(&host, "2");
        for n in 0..8 {
            let _ = host.start(&format!("order-{n}"), "ship", json!("beer"));
        }
        std::thread::scope(|scope| {
            let moving = scope.spawn(|| {
                for to in [&two, &one, &two] {
                    if let Err(error) = host.engine().migrate(to, &Scope::default()) {
                        assert_eq!(error.code(), "stopped", "{error}");
                    }
                }
            });
            host.engine().shutdown();
            moving.join().unwrap();
        });
        drop(host);
    }
    let host = world.open();
    for n in 0..8 {
        let sent = go(&host, &format!("order-{n}"));
        assert!(sent.as_str().unwrap().ends_with("two(beer)"), "{sent}");
        host.assert_sound(&format!("order-{n}"));
    }
}

#[test]
fn s36_an_activity_that_runs_across_a_migration_is_not_repeated_and_its_result_counts() {
    for evict in [false, true] {
        let mut world = empty();
        if evict {
            world.settings.evict_after = std::time::Duration::ZERO;
        }
        world.desk.hold("step.one");
        let host = world.open();
        ship(&host, "1");
        host.start("order", "ship", json!("beer")).unwrap();
        let held = world.desk.next("step.one");
        let two = hold_back(&host, "2");
        let checked = host.engine().migrate(&two, &Scope::default()).unwrap();
        assert_eq!(checked[0].migrated, Some(Ok(())));
        held.answer(text("paid"));
        host.wait_kind("order", "event-awaited", 1);
        // `insure` was reached live, after the migration.
        assert_eq!(go(&host, "order"), json!("paid, insured, weighed, two(beer)"));
        assert_eq!(world.desk.calls_of("step.one").len(), 1);
        host.assert_sound("order");
    }
}

#[test]
fn s36_instances_that_go_on_while_they_are_migrated_lose_nothing() {
    let world = World::new();
    let host = world.open();
    let steps = host.engine().modules().find("steps").unwrap();
    // The same code as another module: what is after the last section is a custom one.
    let mut other = guest("steps").to_vec();
    other.extend(b"\0\x06\x04note!");
    let other = Upload { bytes: other, name: "steps-too".into(), held_back: true, ..Upload::default() };
    let other = host.engine().upload(other).unwrap();
    assert_ne!(other.hash, steps.hash);
    let wanted = 60;
    for n in 0..4 {
        host.start(&format!("busy-{n}"), "collects", json!({ "wanted": wanted, "page": 25 })).unwrap();
    }
    let migrated = std::thread::scope(|scope| {
        let raising = scope.spawn(|| {
            let raise = |item: u32| {
                for n in 0..4 {
                    host.raise(&format!("busy-{n}"), "item", json!(item)).unwrap();
                }
            };
            (0..wanted - 1).for_each(raise);
        });
        let mut migrated = 0;
        for round in 0..6 {
            let to = if round % 2 == 0 { &other } else { &steps };
            let lines = host.engine().migrate(to, &Scope::default()).unwrap();
            migrated += lines.iter().filter(|line| line.migrated == Some(Ok(()))).count();
        }
        raising.join().unwrap();
        migrated
    });
    // Whoever took a turn meanwhile was checked again, and moved with the others.
    assert_eq!(migrated, 6 * 4);
    for n in 0..4 {
        let instance = format!("busy-{n}");
        host.raise(&instance, "item", json!(wanted - 1)).unwrap();
        assert_eq!(host.output(&instance), json!((0..wanted).collect::<Vec<_>>()));
        host.assert_sound(&instance);
    }
}

#[test]
fn s36_a_migrated_instance_continues_as_new_with_its_new_module() {
    let world = World::new();
    let host = world.open();
    let mut other = guest("steps").to_vec();
    other.extend(b"\0\x06\x04note!");
    let other = Upload { bytes: other, name: "steps-too".into(), held_back: true, ..Upload::default() };
    let other = host.engine().upload(other).unwrap();
    host.start("order", "collects", json!({ "wanted": 2, "page": 1 })).unwrap();
    host.wait_kind("order", "event-awaited", 1);
    assert_eq!(host.engine().migrate(&other, &Scope::default()).unwrap()[0].migrated, Some(Ok(())));
    host.raise("order", "item", json!(1)).unwrap();
    host.raise("order", "item", json!(2)).unwrap();
    assert_eq!(host.output("order"), json!([1, 2]));
    let Event::ExecutionStarted(started) = &host.records_of("order", Some(2))[0].events[0] else { panic!() };
    assert_eq!(started.module, other.hash);
    host.assert_sound("order");
}

#[test]
fn s36_an_upload_with_a_check_becomes_the_default_only_if_what_runs_can_go_on() {
    let world = empty();
    let host = world.open();
    shop(&host);
    let (three, checked) = host.engine().upload_checked(of_ship("3", false)).unwrap();
    assert_eq!(checked.iter().filter(|line| !line.is_same()).count(), 3);
    let default = || host.engine().modules().default_of("ship").unwrap().unwrap();
    assert_eq!(default().version, "1");
    start_with(&host, "pinned", "ship@3").unwrap();
    assert_eq!(module_of(&host, "pinned"), three.hash, "it is kept all the same");
    host.block_on(host.engine().terminate(&id("pinned"), "done")).unwrap();
    let (_, checked) = host.engine().upload_checked(of_ship("2", false)).unwrap();
    assert!(checked.iter().all(Checked::is_same));
    assert_eq!(default().version, "2");
}

#[test]
fn s36_recordings_are_checked_side_by_side_in_order() {
    let doubled = in_parallel((0..100).collect(), |n: u32| n * 2);
    assert_eq!(doubled, (0..100).map(|n| n * 2).collect::<Vec<_>>());
}

// ---- deliberate change ----

#[test]
fn s37_patched_code_runs_where_it_was_not_reached_before_and_only_there() {
    for restart in [false, true] {
        let world = empty();
        let mut host = world.open();
        ship(&host, "1");
        host.start("old", "ship", json!("beer")).unwrap();
        host.wait_kind("old", "event-awaited", 1);
        let two = ship(&host, "2");
        host.start("new", "ship", json!("wine")).unwrap();
        host.wait_kind("new", "event-awaited", 1);
        host.engine().migrate(&two, &Scope::default()).unwrap();
        if restart {
            drop(host);
            host = world.open();
        }
        // `insure` was passed by without being in the code; `weigh` is still to come.
        assert_eq!(go(&host, "old"), json!("one(beer), weighed, two(beer)"));
        assert_eq!(go(&host, "new"), json!("one(wine), insured, weighed, two(wine)"));
        let patched = |instance: &str| -> Vec<String> {
            host.events(instance)
                .into_iter()
                .filter_map(|event| if let Event::Patched { id } = event { Some(id) } else { None })
                .collect()
        };
        assert_eq!(patched("old"), ["weigh"]);
        assert_eq!(patched("new"), ["insure", "weigh"]);
        ["old", "new"].into_iter().for_each(|instance| host.assert_sound(instance));
    }
}

#[test]
fn s37_patched_answers_survive_a_death_at_every_commit() {
    sweep(
        || {
            let world = empty();
            world.desk.script("step.one", [text("paid"), text("paid")]);
            world
        },
        |host| {
            ship(host, "2");
            host.start("order", "ship", json!("beer"))?;
            host.raise("order", "go", Value::Null).or_else(|error| match error {
                EngineError::Ended { .. } => Ok(()),
                error => Err(error),
            })?;
            host.outcome("order").map(drop)
        },
        |_, host, death| {
            assert_eq!(host.output("order"), json!("paid, insured, weighed, two(beer)"), "{death:?}");
            assert_eq!(host.count("order", "patched"), 2, "{death:?}");
            host.assert_sound("order");
        },
    );
}
