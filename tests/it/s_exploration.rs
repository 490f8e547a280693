//! S44: exploration finds what goes wrong in some order only, and proves what
//! goes wrong in none. Each fault here is planted in `guests/explored`.

use std::collections::BTreeSet;
use std::sync::OnceLock;
use std::sync::atomic::{AtomicU32, Ordering};
use std::time::Instant;

use dacapo::core::event::Event;
use dacapo::core::payload::Failure;
use dacapo::replay::explore::{Bounds, Call, Explorer, Model, Reductions, Report, Violation, failure};
use dacapo::replay::recording::Recording;
use dacapo::replay::subject::Subject;
use dacapo::replay::{Unwatched, replay};
use serde_json::json;

use crate::guests::guest;

fn explored() -> &'static Subject {
    static SUBJECT: OnceLock<Subject> = OnceLock::new();
    SUBJECT.get_or_init(|| Subject::of(&guest("explored")).expect("a module with orchestrations"))
}

/// No failure and no crash but what a test asks for.
pub(crate) fn explorer<M: Model>() -> Explorer<M> {
    Explorer::new(explored()).failures(0).crashes(0)
}

type Files = BTreeSet<String>;

fn files() -> Files {
    ["B1", "B2"].map(str::to_owned).into()
}

/// Removes a file; what the same call removed before is still removed.
fn remove(files: &mut Files, call: &Call) -> Result<(), Failure> {
    let file: String = call.input();
    let done = format!("{file} for {}", call.idempotency_key());
    if files.contains(&done) || files.remove(&file) {
        files.insert(done);
        return Ok(());
    }
    Err(failure("Gone", format!("{file} is not there")))
}

/// Two callers of one orchestration on the same files; one of them must win.
fn two_callers(orchestration: &str) -> Explorer<Files> {
    explorer()
        .activity("files.remove", remove)
        .activity("files.act", |_, call| Ok(format!("{} acts", call.instance)))
        .instance("one", orchestration, ())
        .instance("two", orchestration, ())
        .at_end(|world| assert!(world.ends().any(|(_, end)| end.is_ok()), "both callers failed"))
}

/// The schedule is real: every instance's history replays in a fresh guest.
pub(crate) fn assert_replays(violation: &Violation) {
    static COUNT: AtomicU32 = AtomicU32::new(0);
    // Tests run side by side.
    let name = format!("explored-{}-{}", std::process::id(), COUNT.fetch_add(1, Ordering::Relaxed));
    let folder = std::path::Path::new(env!("CARGO_TARGET_TMPDIR")).join(name);
    std::fs::create_dir_all(&folder).expect("a folder");
    let files = violation.save(&folder.join("found.dacapo")).expect("files");
    assert_eq!(files.len(), violation.recordings.len());
    for file in files {
        let recording = Recording::decode(&std::fs::read(file).expect("a file")).expect("a recording");
        assert_eq!(recording.module_hash, explored().module.hash);
        let replayed = replay(&explored().module, &recording.records().expect("a chain"), &mut Unwatched);
        assert!(replayed.matched() && replayed.events > 0, "{replayed:?}");
    }
    let _ = std::fs::remove_dir_all(folder);
}

#[test]
fn s44_in_some_order_both_callers_of_a_join_fail() {
    let report = two_callers("at_once").explore(files()).expect("it starts");
    let violation = report.expect_violation();
    assert!(violation.what.contains("both callers failed"), "{report}");
    assert!(!violation.model.contains("acts"));
    let fails = violation.schedule.iter().filter(|line| line.contains("and fails: ")).count();
    assert_eq!(fails, 2, "{report}");
    // Two beginnings, four effects, two turns that end: with one less it is no violation.
    assert_eq!(violation.schedule.len(), 8, "{report}");
    assert_replays(violation);
}

#[test]
fn s44_one_file_after_the_other_always_has_a_winner() {
    let report = two_callers("in_turn").explore(files()).expect("it starts");
    report.assert_holds();
    assert!(report.is_proof() && report.ends > 1 && report.schedules > report.ends as f64, "{report}");
    // Also where the host crashes, since the model knows a call by its key.
    let report = two_callers("in_turn").crashes(2).explore(files()).expect("it starts");
    report.assert_holds();
}

#[test]
fn s44_reductions_change_nothing_that_is_found() {
    let all = Reductions::default();
    let none = Reductions { recognise: false, remember_turns: false, commute: false };
    for orchestration in ["at_once", "in_turn"] {
        let explore =
            |reductions| two_callers(orchestration).reductions(reductions).explore(files()).expect("it starts");
        let full = explore(all);
        for reductions in [Reductions { commute: false, ..all }, Reductions { remember_turns: false, ..all }] {
            let other = explore(reductions);
            assert_eq!((full.worlds, full.ends, full.schedules), (other.worlds, other.ends, other.schedules));
            assert_eq!(length(&full), length(&other), "{orchestration}");
        }
        assert_eq!(length(&full), length(&explore(Reductions { recognise: true, ..none })));
    }
    // As a tree: every schedule on its own, each of them counted by the graph.
    let one = |reductions| {
        let one = explorer().activity("files.remove", remove).activity("files.act", |_, _| Ok("acts"));
        one.instance("one", "at_once", ()).reductions(reductions).crashes(1).explore(files()).expect("it starts")
    };
    let (graph, tree) = (one(all), one(none));
    assert_eq!(graph.schedules, tree.schedules);
    assert!(graph.worlds < tree.worlds / 4, "{graph}\n{tree}");
}

fn length(report: &Report) -> Option<usize> {
    report.violation.as_ref().map(|violation| violation.schedule.len())
}

#[test]
fn s44_independent_completions_are_not_run_in_every_order() {
    let run = |reductions| {
        let explorer = explorer().activity("desk.add", |sum: &mut u32, call| {
            *sum += call.input::<u32>();
            Ok(*sum)
        });
        let one = |explorer: Explorer<u32>, id: &str| explorer.instance(id, "at_large", 1);
        let four = ["a", "b", "c", "d"].into_iter().fold(explorer, one);
        four.reductions(reductions).explore(0).expect("it starts")
    };
    let (commuting, not) = (run(Reductions::default()), run(Reductions { commute: false, ..Reductions::default() }));
    commuting.assert_holds();
    assert_eq!((commuting.worlds, commuting.schedules), (not.worlds, not.schedules));
    // Four steps each... begin, effect, end: 12! / 3!^4 orders of 4^4 worlds.
    assert_eq!((commuting.worlds, commuting.schedules), (256, 369_600.0), "{commuting}");
    assert_eq!(commuting.steps_run + commuting.steps_looked_up, not.steps_run);
    assert!(commuting.steps_looked_up * 3 > not.steps_run, "{commuting}\n{not}");
    // Each instance begins once and ends once.
    assert_eq!(commuting.turns_run, 8, "{commuting}");
}

type Desk = BTreeSet<String>;

fn trip(forgetful: bool) -> Explorer<Desk> {
    explorer()
        .activity("desk.reserve", |desk: &mut Desk, call| {
            desk.insert(call.input());
            Ok(())
        })
        .activity("desk.cancel", |desk: &mut Desk, call| {
            desk.remove(&call.input::<String>());
            Ok(())
        })
        .instance("trip", "trip", json!({ "forgetful": forgetful }))
        .failures(1)
        .crashes(1)
        .at_end(|world| match world.end("trip") {
            Some(Ok(_)) => assert_eq!(world.model.len(), 3, "something is not reserved"),
            _ => assert!(world.model.is_empty(), "still reserved: {:?}", world.model),
        })
}

#[test]
fn s44_a_lost_compensation_is_found() {
    let report = trip(true).explore(Desk::new()).expect("it starts");
    let violation = report.expect_violation();
    assert!(violation.what.contains("still reserved") && violation.what.contains("hotel"), "{report}");
    assert!(violation.schedule.iter().any(|line| line.contains("(injected)")), "{report}");
    assert!(!violation.schedule.iter().any(|line| line.contains("crashes")), "the shortest needs no crash: {report}");
    assert_replays(violation);

    trip(false).explore(Desk::new()).expect("it starts").assert_holds();
}

fn charge(idempotent: bool) -> Explorer<Vec<String>> {
    explorer()
        .activity("card.charge", move |charged: &mut Vec<String>, call| {
            let key = call.idempotency_key();
            if !idempotent || !charged.contains(&key) {
                charged.push(key);
            }
            Ok(())
        })
        .instance("order", "charge", 100)
        .always(|world| assert!(world.model.len() <= 1, "charged {} times", world.model.len()))
}

#[test]
fn s44_an_activity_that_a_crash_repeats_must_be_idempotent() {
    charge(false).explore(vec![]).expect("it starts").assert_holds();
    let report = charge(false).crashes(1).explore(vec![]).expect("it starts");
    let violation = report.expect_violation();
    assert_eq!(violation.what.lines().next(), Some("charged 2 times"), "{report}");
    let crash = violation.schedule.iter().find(|line| line.contains("crashes")).expect("a crash");
    assert!(crash.contains("order #1 card.charge(100)"), "{crash}");
    assert_replays(violation);
    charge(true).crashes(2).explore(vec![]).expect("it starts").assert_holds();

    // A failure after the effect is the same fault without a crash.
    let report = charge(false).failures(1).explore(vec![]).expect("it starts");
    assert!(report.expect_violation().schedule.iter().any(|line| line.contains("its result is lost")), "{report}");
    charge(true).failures(2).crashes(1).explore(vec![]).expect("it starts").assert_holds();
}

#[test]
fn s44_every_race_of_an_event_with_a_timer_is_run() {
    let race = || explorer::<()>().instance("order", "approval", ()).event("order", "approved", "Ada");
    let outcomes = |wanted: &'static str| {
        race().at_end(move |world| assert_ne!(world.output::<String>("order").as_deref(), Some(wanted)))
    };
    for found in ["approved by Ada", "timed out"] {
        outcomes(found).explore(()).expect("it starts").expect_violation();
    }
    let either = race().at_end(|world| assert!(world.output::<String>("order").is_some()));
    either.explore(()).expect("it starts").assert_holds();
}

#[test]
fn s44_a_call_that_nobody_waits_for_may_still_act() {
    let asks = || {
        let explorer = explorer().activity("desk.ask", |asked: &mut u32, call| {
            *asked += 1;
            Ok(call.input::<String>())
        });
        explorer.instance("order", "faster", ())
    };
    for acts in [1, 2] {
        let report = asks().at_end(move |world| assert_ne!(*world.model, acts)).explore(0).expect("it starts");
        assert!(report.violation.is_some(), "{acts}: {report}");
    }
    asks().at_end(|world| assert!((1..=2).contains(world.model))).explore(0).expect("it starts").assert_holds();
}

#[test]
fn s44_what_waits_for_ever_is_told() {
    let report = explorer::<()>().instance("order", "waits", ()).explore(()).expect("it starts");
    assert!(report.expect_violation().what.contains("never"), "{report}");
    explorer::<()>().instance("order", "waits", ()).may_wait_for_ever().explore(()).expect("it starts").assert_holds();
}

#[test]
fn s44_continue_as_new_goes_on_within_an_exploration() {
    let report = explorer()
        .activity("desk.tick", |ticks: &mut Vec<u32>, call| {
            ticks.push(call.input());
            Ok(())
        })
        .instance("order", "countdown", 2)
        .crashes(1)
        .at_end(|world| assert!(world.model.ends_with(&[0]) && world.model.len() <= 4, "{:?}", world.model))
        .explore(vec![]);
    report.expect("it starts").assert_holds();
}

#[test]
fn s44_histories_can_be_asserted_and_bounds_are_told() {
    let no_failed_attempt = |_: &str, events: &[&Event]| {
        assert!(events.iter().all(|event| event.kind() != "activity-attempt-failed"), "an attempt failed");
    };
    let report = charge(true).failures(1).history(no_failed_attempt).explore(vec![]).expect("it starts");
    assert!(report.expect_violation().what.contains("an attempt failed"), "{report}");
    charge(true).history(no_failed_attempt).explore(vec![]).expect("it starts").assert_holds();

    let report = two_callers("at_once").bounds(Bounds { depth: 4, failures: 0, crashes: 0, ..Bounds::default() });
    let report = report.explore(files()).expect("it starts");
    assert!(report.violation.is_none() && report.bounded > 0 && !report.is_proof(), "{report}");
    assert!(report.to_string().contains("cut off by a bound"), "{report}");
    let report = two_callers("at_once").bounds(Bounds { worlds: 10, failures: 0, crashes: 0, ..Bounds::default() });
    assert!(report.explore(files()).expect("it starts").bounded > 0);
}

#[test]
fn s44_mistakes_in_the_model_are_told() {
    let report = explorer::<()>().instance("order", "charge", 1).explore(()).expect("it starts");
    assert!(report.expect_violation().what.contains("no activity \"card.charge\""), "{report}");
    let unknown = explorer::<()>().instance("order", "chrage", 1).explore(()).expect_err("no such orchestration");
    assert!(unknown.to_string().contains("chrage") && unknown.to_string().contains("charge"), "{unknown}");
    let twice = explorer::<()>().instance("order", "fails", ()).instance("order", "fails", ());
    assert!(twice.explore(()).expect_err("one id twice").to_string().contains("order"));
    let failed =
        explorer::<()>().instance("order", "fails", ()).at_end(|world| assert!(world.end("order").unwrap().is_ok()));
    assert!(failed.explore(()).expect("it starts").expect_violation().schedule[0].contains("on purpose"));
}

/// The figures of `host/docs/exploration.md`:
/// `cargo test --release -p dacapo-tests --test it -- --ignored --nocapture s44_figures`.
#[test]
#[ignore = "measures, and asserts nothing"]
#[expect(clippy::print_stdout, reason = "that is what it is for")]
fn s44_figures() {
    let all = Reductions::default();
    let variants = [
        ("all", all),
        ("without commutation", Reductions { commute: false, ..all }),
        ("without remembered turns", Reductions { remember_turns: false, ..all }),
    ];
    for (name, reductions) in variants {
        let show = |workload: &str, report: &dyn Fn() -> Report| {
            let begin = Instant::now();
            let report = report();
            println!("{workload}, {name}: {:.2} s\n{report}\n", begin.elapsed().as_secs_f64());
        };
        let sum = || {
            explorer().reductions(reductions).activity("desk.add", |sum: &mut u32, call| {
                *sum += call.input::<u32>();
                Ok(())
            })
        };
        show("one instance, four calls at once", &|| sum().instance("a", "at_large", 4).explore(0).unwrap());
        show("four instances, a call each", &|| {
            let one = |explorer: Explorer<u32>, id: &str| explorer.instance(id, "at_large", 1);
            ["a", "b", "c", "d"].into_iter().fold(sum(), one).explore(0).unwrap()
        });
        show("two callers, one by one, a crash", &|| {
            two_callers("in_turn").crashes(1).reductions(reductions).explore(files()).unwrap()
        });
        show("a trip, a failure, a crash", &|| trip(false).reductions(reductions).explore(Desk::new()).unwrap());
    }
}
