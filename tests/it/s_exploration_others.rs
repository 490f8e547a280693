//! S44, beyond one instance and its activities: instances that signal and call each
//! other, updates and queries, attempts that come too late, hosts that are down. Each
//! fault is planted in `guests/explored`, and beside each stands what is right.

use std::collections::BTreeSet;

use dacapo::replay::explore::{Bounds, Call, Explorer, Report, failure};
use dacapo::replay::subject::Subject;

use crate::guests::guest;
use crate::s_exploration::{assert_replays, explorer};

fn two(orchestration: &str) -> Explorer<()> {
    explorer().instance("one", orchestration, "two").instance("two", orchestration, "one")
}

#[track_caller]
fn schedule_has(report: &Report, parts: &[&str]) {
    let schedule = report.expect_violation().schedule.join("\n");
    parts.iter().for_each(|part| assert!(schedule.contains(part), "{part}\n{report}"));
}

// ---- signals ----

#[test]
fn s44_two_that_greet_each_other_always_meet() {
    let report = two("meets")
        .at_end(|world| {
            assert_eq!(world.output::<String>("one").as_deref(), Some("two"));
            assert_eq!(world.output::<String>("two").as_deref(), Some("one"));
        })
        .explore(())
        .expect("it starts");
    report.assert_holds();
    // Each is told of the other's greeting before its own was taken, and after it.
    assert!(report.ends == 1 && report.schedules == 30.0, "{report}");
}

#[test]
fn s44_two_that_greet_back_only_wait_for_ever() {
    let report = two("greets_back").explore(()).expect("it starts");
    let found = report.expect_violation();
    assert!(found.what.starts_with("nothing can happen any more"), "{report}");
    assert!(found.what.contains("one waits for") && found.what.contains("two waits for"), "{report}");
    assert_replays(found);
}

#[test]
fn s44_with_a_time_limit_one_may_think_that_they_met_and_the_other_not() {
    let agree = |report: Explorer<()>| {
        report.at_end(|world| {
            let met = ["one", "two"].map(|id| world.output::<bool>(id).expect("it completes"));
            assert_eq!(met[0], met[1], "they do not agree");
        })
    };
    let report = agree(two("meets_within_an_hour")).explore(()).expect("it starts");
    schedule_has(&report, &["clock  moves to 2026-01-01T01:00:00.000Z", "\"hello\" from", "and returns false"]);
    assert!(report.expect_violation().what.contains("they do not agree"));
    assert_replays(report.expect_violation());
    // That one finds nobody any more is among what happens.
    let gone = two("meets_within_an_hour").history(|_, events| {
        assert!(events.iter().all(|event| event.kind() != "signal-failed"), "somebody has gone");
    });
    schedule_has(&gone.explore(()).expect("it starts"), &["was not taken: ", "has ended"]);
}

#[test]
fn s44_a_signal_to_nobody_fails_and_reductions_change_nothing() {
    let lonely = || explorer::<()>().instance("one", "meets", "nobody");
    let report = lonely().at_end(|world| assert!(world.end("one").unwrap().is_ok())).explore(()).expect("it starts");
    assert!(report.to_string().contains("unknown instance nobody"), "{report}");

    let explore = |reductions| two("meets_within_an_hour").reductions(reductions).explore(()).expect("it starts");
    let all = dacapo::replay::explore::Reductions::default();
    let with = explore(all);
    with.assert_holds();
    for reductions in [
        dacapo::replay::explore::Reductions { commute: false, ..all },
        dacapo::replay::explore::Reductions { remember_turns: false, ..all },
    ] {
        let other = explore(reductions);
        assert_eq!((with.worlds, with.ends, with.schedules), (other.worlds, other.ends, other.schedules));
    }
    assert!(with.steps_looked_up > 0, "{with}");
}

// ---- sub-orchestrations ----

type Charged = BTreeSet<String>;

fn order(patient: bool) -> Explorer<Charged> {
    explorer()
        .activity("card.charge", |charged: &mut Charged, call| {
            charged.insert(call.idempotency_key());
            Ok(())
        })
        .instance("order", "order", patient)
        .at_end(|world| {
            let told = world.output::<String>("order");
            let charged = if world.model.is_empty() { "free" } else { "charged" };
            assert_eq!(told.as_deref(), Some(charged), "the order does not say what was done");
        })
}

#[test]
fn s44_a_caller_that_gives_up_does_not_know_what_was_done() {
    let report = order(false).explore(Charged::new()).expect("it starts");
    schedule_has(
        &report,
        &[
            "charge  is called by order: charge(100)",
            "#1 failed: timed-out (schedule-to-close)",
            "and returns \"free\"",
        ],
    );
    assert_eq!(report.expect_violation().recordings.len(), 2, "the caller's history and the called one's");
    assert_replays(report.expect_violation());

    let report = order(true).crashes(1).explore(Charged::new()).expect("it starts");
    report.assert_holds();
    // The call may fail like any other: three attempts of the charge are made.
    order(true).failures(2).crashes(1).explore(Charged::new()).expect("it starts").assert_holds();
}

#[test]
fn s44_whoever_ends_a_caller_ends_what_it_called_or_comes_too_late() {
    let ends_while = |wanted: &'static str| {
        let order = explorer().activity("card.charge", |_: &mut (), _| Ok(())).instance("order", "order", true);
        let report = order.terminate("order").always(move |world| {
            let stands = match world.called().next().map(|id| world.end(id)) {
                None => "not begun",
                Some(None) => "running",
                Some(Some(Ok(_))) => "completed",
                Some(Some(Err(_))) => "terminated",
            };
            let ended = world.end("order").is_some_and(|end| end.is_err());
            assert!(!ended || stands != wanted, "it is {stands}");
        });
        report.explore(()).expect("it starts")
    };
    // Each of these happens in some order.
    for how in ["not begun", "running", "completed", "terminated"] {
        assert_eq!(ends_while(how).expect_violation().what, format!("it is {how}"));
    }
}

#[test]
fn s44_orchestrations_of_another_module_are_called_or_it_is_told_that_it_is_not_here() {
    let calls = || {
        let square = |_: &mut (), call: &Call| Ok(call.input::<u64>().pow(2));
        explorer().activity("step.square", square).instance("one", "calls_away", 7).crashes(1)
    };
    let peers = Subject::of(&guest("peers")).expect("a module with orchestrations");
    let report = calls().module("peers", &peers).at_end(|world| assert_eq!(world.output("one"), Some(49_u64)));
    report.explore(()).expect("it starts").assert_holds();
    let report = calls().module("peers", &peers).always(|world| assert!(world.end("one").is_none(), "it is over"));
    let found = report.explore(()).expect("it starts");
    let modules: Vec<_> = found.expect_violation().recordings.iter().map(|found| found.module_hash).collect();
    assert_eq!(modules.len(), 2);
    assert!(modules[0] != modules[1] && modules[1] == peers.module.hash, "each with its own module");

    let what = |explorer: Explorer<()>| explorer.explore(()).expect("it starts").expect_violation().what.clone();
    let told = what(calls());
    assert!(told.contains("one calls the orchestration \"leaf\" of the module \"peers\", which is not here"), "{told}");
    let wrong = Subject::of(&guest("greet-1")).expect("a module with orchestrations");
    assert!(what(calls().module("peers", &wrong)).contains("it has greet"));
}

// ---- updates and queries ----

type Noted = Vec<u32>;

fn adds(hasty: bool) -> Explorer<Noted> {
    explorer()
        .activity("desk.note", |noted: &mut Noted, call| {
            noted.push(call.input());
            noted.sort_unstable();
            Ok(())
        })
        .instance("sum", "adds", hasty)
        .update("sum", "add", 1)
        .update("sum", "add", 10)
        .event("sum", "close", ())
}

fn answered(updates: &[(&str, Option<dacapo::core::payload::Outcome>)]) -> Vec<bool> {
    updates.iter().map(|(_, answer)| answer.as_ref().is_some_and(Result::is_ok)).collect()
}

#[test]
fn s44_an_update_that_was_answered_is_in_the_sum_or_it_is_found() {
    let counted = |hasty| {
        let report = adds(hasty).at_end(|world| {
            let expected: u32 = std::iter::zip(answered(&world.updates("sum")), [1, 10])
                .filter_map(|(answered, value)| answered.then_some(value))
                .sum();
            assert_eq!(world.output("sum"), Some(expected), "an update that was answered is not in the sum");
        });
        report.explore(Noted::new()).expect("it starts")
    };
    counted(false).assert_holds();
    let report = counted(true);
    schedule_has(&report, &["update add(1)", "update add(10)", "event \"close\""]);
    assert_replays(report.expect_violation());
}

#[test]
fn s44_a_query_is_asked_in_every_world() {
    let asked = |hasty| {
        let report = adds(hasty).query("sum", "sum", (), |world, sum: u32| {
            let expected = match answered(&world.updates("sum"))[..] {
                [one, ten] => u32::from(one) + 10 * u32::from(ten),
                _ => unreachable!("two updates"),
            };
            assert_eq!(sum, expected, "the sum is not what was answered");
        });
        report.explore(Noted::new()).expect("it starts")
    };
    asked(false).assert_holds();
    assert!(asked(true).expect_violation().what.contains("the sum is not what was answered"));
    let unknown = adds(false).query("sum", "product", (), |_, _: u32| ()).explore(Noted::new()).expect("it starts");
    assert!(unknown.expect_violation().what.contains("the answer of sum to product is a failure"), "{unknown}");
}

// ---- attempts that come too late, hosts that are down ----

#[test]
fn s44_an_attempt_that_was_given_up_may_still_act_and_undo_what_came_after() {
    let puts = |patient: bool| {
        explorer()
            .activity("desk.put", |desk: &mut String, call| {
                *desk = call.input();
                Ok(())
            })
            .instance("desk", "puts", patient)
            .failures(1)
            .at_end(|world| {
                if world.end("desk").is_some_and(|end| end.is_ok()) {
                    assert_eq!(world.model, "b", "an old value is there");
                }
            })
    };
    let report = puts(false).explore(String::new()).expect("it starts");
    schedule_has(&report, &["#1 desk.put(\"a\") takes too long (injected)", "does it, and nobody waits for it"]);
    assert!(report.expect_violation().what.contains("an old value is there"), "{report}");
    assert_replays(report.expect_violation());
    puts(true).explore(String::new()).expect("it starts").assert_holds();
    // Without failures to inject, every attempt ends in time.
    puts(false).failures(0).explore(String::new()).expect("it starts").assert_holds();
}

#[test]
fn s44_timers_that_fell_due_while_the_host_was_down_fire_together() {
    let reminds = |careful: bool| {
        explorer()
            .activity("desk.remind", |reminded: &mut u32, _| {
                *reminded += 1;
                Ok(())
            })
            .instance("letter", "reminds", careful)
            .at_end(|world| assert!(*world.model > 0, "nobody was reminded"))
    };
    let report = reminds(false).crashes(1).explore(0).expect("it starts");
    schedule_has(
        &report,
        &["host  crashes and is down until 2026-01-01T02:00:00.000Z", "#2 fired, #1 fired and returns"],
    );
    assert_replays(report.expect_violation());
    reminds(false).explore(0).expect("it starts").assert_holds();
    reminds(true).crashes(2).explore(0).expect("it starts").assert_holds();
}

#[test]
fn s44_what_was_covered_and_what_was_cut_off_are_counted() {
    let whole = adds(false).explore(Noted::new()).expect("it starts");
    assert!(whole.schedules > 100.0 && whole.schedules_cut == 0.0 && whole.is_proof(), "{whole}");
    let bounds = Bounds { depth: 6, failures: 0, crashes: 0, ..Bounds::default() };
    let cut = adds(false).bounds(bounds).explore(Noted::new()).expect("it starts");
    assert!(cut.schedules_cut > 0.0 && cut.schedules < whole.schedules && !cut.is_proof(), "{cut}");
    assert!(cut.to_string().contains("cut off by a bound"), "{cut}");
    let found = explorer::<()>().instance("order", "fails", ()).at_end(|world| {
        assert!(world.end("order").unwrap().is_ok(), "{:?}", failure("", ""));
    });
    let found = found.explore(()).expect("it starts");
    assert!(found.violation.is_some() && found.bounded == 0, "{found}");
}
