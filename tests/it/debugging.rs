//! Seeded bugs are caught and named; a recording says more when it is replayed
//! with more log lines; and a debugging session sees the same going back as going
//! forward, whatever it remembers.

use std::sync::Arc;
use std::time::Instant;

use dacapo::core::divergence::{Difference, Divergence};
use dacapo::core::event::{ActivityOptions, ActivityScheduled, Event, FORMAT, Started};
use dacapo::core::ids::{Hash, TimestampMs};
use dacapo::core::payload::Payload;
use dacapo::core::retry::ALGORITHM;
use dacapo::core::turn::{LogLine, TurnRecord};
use dacapo::replay::debugger::command::{Command, Debugger};
use dacapo::replay::debugger::view::ViewLimits;
use dacapo::replay::debugger::{Halt, Moved, Session, SessionSettings, Target};
use dacapo::replay::recording::Recording;
use dacapo::replay::source::Sources;
use dacapo::replay::{Replayed, Watcher, replay};
use dacapo::sandbox::Sandbox;
use dacapo::sandbox::guest::ReplayError;
use dacapo::sandbox::settings::SandboxSettings;
use serde_json::{Value, json};

use crate::cli_support::root;
use crate::golden;
use crate::guests::guest;
use crate::harness::{self, SECOND, World, failed, text};
use crate::snapshot::module;

/// The recording of a journey that is undone: a hotel, a flight, no car.
pub(crate) fn journey() -> Vec<TurnRecord> {
    let world = World::with(&["seeded"]);
    world.desk.script("step.do", [text("H-1"), text("F-1"), failed("NoCar", "there is no car left")]);
    let host = world.open();
    host.start("journey-7", "journey", json!(3)).unwrap();
    host.failure("journey-7");
    host.assert_sound("journey-7");
    host.records("journey-7")
}

/// The same recording, as if another module had made it whose `journey` has
/// become `orchestration` since.
pub(crate) fn as_of(records: Vec<TurnRecord>, orchestration: &str) -> Vec<TurnRecord> {
    as_by(records, orchestration, Hash::of(b"the module that was recorded"))
}

/// The same recording, as if `module` had made it by running `orchestration`.
pub(crate) fn as_by(mut records: Vec<TurnRecord>, orchestration: &str, module: Hash) -> Vec<TurnRecord> {
    let mut previous = Hash::ZERO;
    for record in &mut records {
        if let Some(Event::ExecutionStarted(started)) = record.events.first_mut() {
            started.orchestration = orchestration.to_owned();
            started.module = module;
        }
        record.previous = previous;
        previous = Hash::of(&record.encode());
    }
    records
}

#[derive(Default)]
struct Lines(Vec<String>);

impl Watcher for Lines {
    fn event(&mut self, number: u32, _: u32, event: &Event) {
        self.0.push(format!("{number} {}", event.kind()));
    }

    fn log(&mut self, _: u32, line: &LogLine) {
        self.0.push(format!("log {line}"));
    }
}

fn replayed(orchestration: &str) -> (Replayed, Vec<String>) {
    let mut lines = Lines::default();
    let replayed = replay(&module("seeded"), &as_of(journey(), orchestration), &mut lines);
    (replayed, lines.0)
}

#[track_caller]
fn divergence(orchestration: &str) -> Box<Divergence> {
    let (replayed, _) = replayed(orchestration);
    replayed.divergence.unwrap_or_else(|| panic!("{orchestration} matches: {:?}", replayed.error))
}

pub(crate) fn sources() -> Sources {
    Sources::from(&root())
}

/// The text with what depends on the build taken out.
pub(crate) fn masked(text: &str) -> String {
    let own = Hash::of(&guest("seeded")).short();
    text.replace(&own, "<rebuilt>")
}

#[track_caller]
fn check_report(name: &str, divergence: &Divergence) {
    golden::check(&format!("divergence-{name}"), &masked(&sources().report(divergence)));
}

// ---- seeded bugs ----

#[test]
fn a_reordered_call_is_caught_and_named() {
    let found = divergence("journey_reordered");
    assert_eq!(found.difference(), Difference::Order { recorded_at: 4 });
    assert_eq!(found.event, 2);
    check_report("reordered", &found);
}

#[test]
fn a_changed_argument_is_caught_and_the_field_named() {
    let found = divergence("journey_argument");
    assert_eq!(
        found.difference(),
        Difference::Field { path: "input.nights".into(), recorded: json!(3), asked: json!(4) }
    );
    check_report("argument", &found);
}

#[test]
fn a_clock_read_that_was_smuggled_in_is_caught_and_named() {
    let found = divergence("journey_clock");
    assert_eq!(found.difference(), Difference::Kind);
    assert_eq!(found.asked.as_ref().map(Event::kind), Some("now-read"));
    assert_eq!(found.recorded.as_ref().map(Event::kind), Some("activity-scheduled"));
    check_report("clock", &found);
}

#[test]
fn a_lost_compensation_is_caught_and_named() {
    let found = divergence("journey_forgets");
    // The flight is not cancelled any more; the hotel is, too early.
    assert!(matches!(&found.recorded, Some(Event::ActivityScheduled(call)) if call.input.to_string() == "\"flight\""));
    assert!(matches!(found.difference(), Difference::Order { .. }), "{:?}", found.difference());
    check_report("lost-compensation", &found);
}

#[test]
fn a_trap_where_none_was_recorded_is_a_difference_with_its_line() {
    let found = divergence("journey_panics");
    assert!(matches!(&found.asked, Some(Event::Failed { by_host: true, .. })));
    assert!(found.source[0].file.ends_with("seeded/src/lib.rs"), "{:?}", found.source);
    let report = masked(&sources().report(&found));
    assert!(report.contains("Ok(car.expect(\"there is always a car\"))"), "{report}");
}

#[test]
fn another_orchestration_is_told_apart_at_once() {
    let found = divergence("journey_long");
    assert_eq!(found.event, 2);
    let names = (json!("step.do"), json!("step.square"));
    assert_eq!(found.difference(), Difference::Field { path: "name".into(), recorded: names.0, asked: names.1 });
}

#[test]
fn the_engines_own_error_says_the_same_in_one_line_and_does_not_blame_an_unchanged_module() {
    let records = as_of(journey(), "journey_argument");
    let error = harness::replay(&module("seeded"), &records).unwrap_err();
    let ReplayError::Diverged(found) = &error else { panic!("{error}") };
    let line = error.to_string();
    assert!(!line.contains('\n'), "{line}");
    assert!(line.contains("input.nights: recorded 3, asked 4"), "{line}");
    assert!(line.contains("seeded/src/lib.rs"), "{line}");
    assert!(line.ends_with("upload the change as a new version"), "{line}");

    let unchanged = Divergence { modules: None, ..(**found).clone() };
    assert!(!unchanged.to_string().contains("upload"), "{unchanged}");
    check_report("unchanged-module", &unchanged);
}

// ---- print-debugging the past ----

#[test]
fn a_recording_says_more_when_it_is_replayed_with_more_log_lines() {
    let (before, old) = replayed("journey");
    let (after, new) = replayed("journey_talks");
    assert!(before.matched() && after.matched(), "logging is never a difference: {:?}", after.divergence);
    assert_eq!(before.events, after.events);
    let only_new: Vec<_> = new.iter().filter(|line| !old.contains(line)).map(String::as_str).collect();
    let news = ["log has a room room=H-1", "log has a seat seat=F-1", "log printed, too"];
    assert_eq!(only_new[..3], news);
    assert!(only_new[3].starts_with("log no car error="), "{only_new:?}");
    let kept: Vec<_> = new.iter().filter(|line| old.contains(line)).collect();
    assert_eq!(kept.len(), old.len(), "and nothing else changed");
}

// ---- sessions ----

fn debugger(orchestration: &str) -> Debugger {
    let session = Session::open(module("seeded"), as_of(journey(), orchestration), SessionSettings::default());
    Debugger::new(session.expect("a session"), sources())
}

pub(crate) fn transcript(debugger: &mut Debugger, script: &str) -> String {
    let mut lines = Vec::new();
    for line in script.lines() {
        let Some(command) = Command::parse(line).expect("a command") else { continue };
        lines.push(format!("> {}", line.trim()));
        lines.push(debugger.answer(&command).text);
    }
    masked(&lines.join("\n"))
}

#[test]
fn a_session_goes_forward_and_back_as_its_transcript_says() {
    let script = "
        where
        list 5
        step
        step
        pending
        run kind activity-failed
        where
        status
        logs
        back
        back 2
        event
        turn
        turn-back
        turn-back
        run operation 2
        run-back kind activity-scheduled
        run log setting
        run kind timer-fired
        goto 4
        run
        step
        run-back
        back
        report
        event 99";
    golden::check("session", &transcript(&mut debugger("journey"), script));
}

#[test]
fn a_session_with_a_changed_module_stops_at_the_difference() {
    let mut debugger = debugger("journey_argument");
    let script = "
        goto 4
        report
        run
        pending
        step
        back
        run";
    golden::check("session-differs", &transcript(&mut debugger, script));
    assert!(matches!(debugger.session.halt(), Some(Halt::Diverged(_))));
}

/// Views at all positions, forward, then back; they are the same.
#[track_caller]
fn assert_same_both_ways(mut session: Session) -> Vec<Value> {
    let limits = ViewLimits { logs: 1_000, pending: 100 };
    let mut forward = vec![json!(session.view(limits))];
    while session.step(1) == Moved::There {
        forward.push(json!(session.view(limits)));
    }
    assert_eq!(forward.len() as u32, session.events() + 1, "{:?}", session.halt());
    for position in (0..session.events()).rev() {
        assert_eq!(session.step(-1), Moved::There);
        assert_eq!(session.position(), position);
        assert_eq!(json!(session.view(limits)), forward[position as usize], "at {position}");
    }
    assert_eq!(session.step(-1), Moved::AsFarAsPossible);
    forward
}

#[test]
fn everything_is_the_same_going_back_with_much_memory_with_none_and_without_snapshots() {
    let records = journey();
    let open = |checkpoint_bytes| {
        Session::open(module("seeded"), records.clone(), SessionSettings { checkpoint_bytes }).expect("a session")
    };
    let seen = assert_same_both_ways(open(64 << 20));
    assert_eq!(assert_same_both_ways(open(0)), seen, "only slower");
    assert!(seen.iter().any(|view| view["source"][0]["line"].as_u64().is_some()));

    let settings = SandboxSettings { resident_guests: 4, ..SandboxSettings::default() };
    let plain = Sandbox::new(settings, None).unwrap();
    let bytes = guest("seeded");
    let module = plain.load(Hash::of(&bytes), &bytes).unwrap();
    let without = assert_same_both_ways(Session::open(module, records, SessionSettings::default()).unwrap());
    // Where a guest cannot be looked into its memory is not known, and no more is missing.
    assert!(without.iter().all(|view| view["memory_bytes"].is_null()));
    for (without, seen) in without.iter().zip(&seen) {
        assert_eq!((&without["source"], &without["logs"]), (&seen["source"], &seen["logs"]));
    }
}

#[test]
fn a_guest_that_holds_handles_is_run_again_and_seen_the_same() {
    let world = World::with(&["steps", "ambient"]);
    let host = world.open();
    host.start("look", "looks", Value::Null).unwrap();
    host.wait_kind("look", "timer-scheduled", 1);
    host.settle("look");
    world.clock.advance(60 * SECOND);
    host.output("look");
    let session = Session::open(module("ambient"), host.records("look"), SessionSettings::default()).unwrap();
    let seen = assert_same_both_ways(session);
    assert_eq!(seen.last().unwrap()["logs"][0]["message"], "looking around");
    let timer = seen.iter().find(|view| view["event"]["kind"] == "timer-fired").expect("it fires");
    assert!(timer["source"][0]["file"].as_str().unwrap().ends_with("ambient/src/lib.rs"), "{}", timer["source"]);
}

#[test]
fn a_long_history_is_walked_with_few_checkpoints_and_many() {
    let records = long_history(400);
    for checkpoint_bytes in [0, 300 << 10, 64 << 20] {
        let settings = SessionSettings { checkpoint_bytes };
        let mut session = Session::open(module("seeded"), records.clone(), settings).unwrap();
        session.run(&Target::End, false);
        assert_eq!(session.position(), session.events());
        let end = session.execution();
        let called = session.source(session.events() - 1);
        assert!(called[0].file.ends_with("seeded/src/lib.rs"), "{called:?}");
        // From everywhere, in no order, and the same as from the other side.
        for event in [700, 3, 699, 402, 2, 799, 700] {
            assert_eq!(session.run(&Target::Event(event), false), Moved::There);
            let execution = session.execution();
            assert_eq!(execution.events, event);
            let asks = session.event(event).unwrap().kind() == "activity-scheduled";
            assert_eq!(execution.pending.len(), usize::from(asks), "event {event}");
            assert_eq!(session.source(event)[0], called[0], "one line asks for all of them");
        }
        assert_eq!(session.run(&Target::Log("on the way".into()), true), Moved::There);
        assert_eq!(session.logs().last().unwrap().line.to_string(), "on the way n=300 sum=9045050");
        session.run(&Target::End, false);
        assert_eq!(session.execution().head, end.head);
    }
}

#[test]
fn what_is_no_command_is_refused_with_what_is_one() {
    for (line, told) in [
        ("fly", "expected a command, found \"fly\"; `help` lists them"),
        ("step far", "step takes a number, found \"far\""),
        ("goto", "goto takes a number, found \"\""),
        ("run sideways", "run takes `event N`"),
        ("pending all", "pending takes nothing more"),
    ] {
        let error = Command::parse(line).unwrap_err().to_string();
        assert!(error.starts_with(told), "{line}: {error}");
    }
    assert_eq!(Command::parse("  # a comment").unwrap(), None);
    assert_eq!(Command::parse("back 3").unwrap(), Some(Command::Step(-3)));
    let log = Command::Run { target: Target::Log("two words".into()), back: false };
    assert_eq!(Command::parse("run to log \"two words\"").unwrap(), Some(log));
}

// ---- a long history ----

/// A history of `journey_long` with so many steps, as the engine would record it.
pub(crate) fn long_history(steps: u32) -> Vec<TurnRecord> {
    let started = Started {
        format: FORMAT,
        instance: harness::id("long"),
        execution: 1,
        orchestration: "journey_long".to_owned(),
        module: Hash::of(&guest("seeded")),
        input: Payload::json(steps.to_string()),
        seed: [7; 32],
        retry_algorithm: ALGORITHM,
        ..started_of(&journey())
    };
    let schedule = |n: u32| {
        let (name, options) = ("step.square".to_owned(), ActivityOptions::default());
        let call = ActivityScheduled { operation: n + 1, name, input: Payload::json(n.to_string()), options };
        Event::ActivityScheduled(Arc::new(call))
    };
    let mut events = vec![vec![Event::ExecutionStarted(Box::new(started))], vec![schedule(0)]];
    for n in 0..steps {
        let result = Payload::json((u64::from(n) * u64::from(n)).to_string());
        let completed = Event::ActivityCompleted { operation: n + 1, attempt: 1, result };
        let next = if n + 1 < steps {
            schedule(n + 1)
        } else {
            let sum: u64 = (0..u64::from(steps)).map(|n| n * n).sum();
            Event::Completed { output: Payload::json(sum.to_string()) }
        };
        events.push(vec![completed, next]);
    }
    let mut previous = Hash::ZERO;
    let mut records = Vec::new();
    for (turn, events) in events.into_iter().enumerate() {
        let at = TimestampMs(harness::NEW_YEAR + turn as u64);
        let record = TurnRecord { previous, at, ran: turn > 0, events };
        previous = Hash::of(&record.encode());
        records.push(record);
    }
    records
}

fn started_of(records: &[TurnRecord]) -> Started {
    match &records[0].events[0] {
        Event::ExecutionStarted(started) => (**started).clone(),
        other => panic!("{}", other.kind()),
    }
}

/// Figures for host/docs/debugging.md: `cargo test --release -p dacapo-tests --test
/// it -- --ignored --nocapture measure`. With DACAPO_RECORDING, the history is also
/// written there, to look at it with `dacapo debug`.
#[test]
#[ignore = "prints figures, checks nothing that depends on the machine"]
#[allow(clippy::print_stdout, reason = "it is run for what it prints")]
fn measure_stepping_back_on_a_long_history() {
    let records = long_history(50_000);
    if let Some(path) = std::env::var_os("DACAPO_RECORDING") {
        let turns = records.iter().map(|record| record.encode()).collect();
        let (module, module_hash) = (Some(guest("seeded").to_vec()), Hash::of(&guest("seeded")));
        let recording = Recording { instance: "long".to_owned(), execution: 1, module_hash, module, turns };
        std::fs::write(path, recording.encode()).unwrap();
    }
    let timed = |what: &str, times: u32, work: &mut dyn FnMut()| {
        let began = Instant::now();
        work();
        println!("{what}: {:?}", began.elapsed() / times);
    };
    let mut session = Session::open(module("seeded"), records, SessionSettings::default()).unwrap();
    timed("through 100,002 events for the first time", 1, &mut || {
        assert_eq!(session.run(&Target::End, false), Moved::There);
        assert_eq!(session.position(), 100_002);
    });
    let limits = ViewLimits { logs: 50, pending: 12 };
    timed("one event back from the end, with everything shown", 1, &mut || {
        session.step(-1);
        session.view(limits);
    });
    timed("each of 1,000 events back, with everything shown", 1_000, &mut || {
        for _ in 0..1_000 {
            session.step(-1);
            assert!(!session.view(limits).source.is_empty());
        }
    });
    let mut far = 50_021;
    timed("each of 100 jumps far away, with everything shown", 100, &mut || {
        for _ in 0..100 {
            far = (far + 38_497) % 100_000 + 2;
            session.run(&Target::Event(far), false);
            assert!(!session.view(limits).source.is_empty());
        }
    });
    timed("to the beginning", 1, &mut || {
        session.run(&Target::End, true);
        session.view(limits);
    });
}
