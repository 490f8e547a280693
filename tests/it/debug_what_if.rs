//! What if that had been answered otherwise: asked of a recording in the debugger,
//! gone on with by step, and given up again. Nothing is let out, and nothing
//! changes but what follows from the answer.

use std::path::Path;

use dacapo::core::event::{Event, Origin};
use dacapo::core::turn::TurnRecord;
use dacapo::replay::debugger::command::{Command, Debugger};
use dacapo::replay::debugger::{Session, SessionSettings};
use dacapo::replay::recording::Recording;
use serde_json::{Value, json};

use crate::debugging::{as_of, journey, masked, sources, transcript};
use crate::golden;
use crate::harness::{DAY, SECOND, World};
use crate::snapshot::{inspecting, module};

fn debugger(guest: &str, records: &[TurnRecord]) -> Debugger {
    let session = Session::open(module(guest), records.to_vec(), SessionSettings::default());
    Debugger::new(session.expect("a session"), sources())
}

fn does(debugger: &mut Debugger, line: &str) -> String {
    let command = Command::parse(line).expect("a command").expect("a line");
    debugger.answer(&command).text
}

fn events(debugger: &Debugger) -> Vec<Event> {
    (1..=debugger.session.events()).map(|number| debugger.session.event(number).unwrap().clone()).collect()
}

#[test]
fn another_answer_is_tried_gone_on_with_and_given_up() {
    let script = "
        run kind activity-failed
        what-if \"C-9\"
        list 20
        run
        step
        back 2
        pending
        give-up
        where
        goto 5
        what-if fail the plane is full
        run
        give-up
        goto 1
        what-if 5
        step 2
        run
        pending
        answer 1 \"H-5\"
        answer 1 \"H-5\"
        answer 9 null
        answer 2 fail no seat
        run
        give-up
        give-up
        answer 1 null
        goto 2
        what-if 7
        what-if {";
    let mut debugger = debugger("seeded", &journey());
    let mut lines: Vec<&str> = script.lines().collect();
    let wrong = lines.pop().unwrap();
    golden::check("session-what-if", &transcript(&mut debugger, &lines.join("\n")));
    let error = Command::parse(wrong).unwrap_err().to_string();
    assert!(error.starts_with("what-if takes JSON (a text is in quotes), found \"{\""), "{error}");
}

#[test]
fn a_changed_module_goes_on_from_where_it_differs() {
    let mut debugger = debugger("seeded", &as_of(journey(), "journey_argument"));
    let script = "
        run
        goto 5
        what-if
        step
        step
        step
        answer 3 \"C-4\"";
    golden::check("session-what-if-differs", &masked(&transcript(&mut debugger, script)));
    assert!(does(&mut debugger, "give-up").starts_with("event 5 of 13"), "and the recording is there again");
}

#[test]
fn nothing_is_replaced_and_all_goes_on_as_it_did_from_every_event_of_every_recording() {
    let folder = Path::new(env!("CARGO_MANIFEST_DIR")).join("histories");
    let mut asked = 0;
    for file in std::fs::read_dir(&folder).expect("recordings").map(|entry| entry.unwrap().path()) {
        // `too-large` was recorded by a host with other limits.
        let too_large = file.file_stem().is_some_and(|stem| stem == "too-large");
        if too_large || file.extension().is_none_or(|extension| extension != "dacapo") {
            continue;
        }
        let recording = Recording::decode(&std::fs::read(&file).unwrap()).expect("a recording");
        let records = recording.records().expect("a chain");
        // Somebody else's decision is not foreseen, and a budget is not run out of again.
        let ends = records.last().and_then(|turn| turn.events.last()).cloned().expect("an event");
        let migrated = records.iter().flat_map(|turn| &turn.events).any(|e| e.kind() == "module-migrated");
        // There are no entities to be locked.
        let locks = records.iter().flat_map(|turn| &turn.events).any(|e| e.kind() == "lock-asked");
        if migrated || locks || matches!(ends, Event::Terminated { .. }) || ends.origin() != Origin::Outcome {
            continue;
        }
        let bytes = std::fs::read(folder.join(format!("modules/{}.wasm", recording.module_hash))).expect("its module");
        let module = std::sync::Arc::new(inspecting().load(recording.module_hash, &bytes).expect("a module"));
        let all: Vec<Event> = records.iter().flat_map(|turn| turn.events.clone()).collect();
        for at in 1..all.len() as u32 {
            let session = Session::open(module.clone(), records.clone(), SessionSettings::default()).unwrap();
            let mut debugger = Debugger::new(session, sources());
            does(&mut debugger, &format!("goto {at}"));
            let told = does(&mut debugger, "what-if");
            if told.contains("it cannot be asked here") {
                assert!(told.contains("the turn that ended the execution"), "{}: {told}", file.display());
                continue;
            }
            does(&mut debugger, "run");
            let gone_on = events(&debugger);
            assert_eq!(sorted(&gone_on), sorted(&all), "{} from event {at} on", file.display());
            assert_eq!(gone_on.last(), Some(&ends), "{} from event {at} on", file.display());
            asked += 1;
        }
    }
    assert!(asked > 100, "{asked}");
}

/// Events without the order of those that came in one turn: a what-if tells them
/// one by one. What operators did to the instance is not foreseen.
fn sorted(events: &[Event]) -> Vec<String> {
    let foreseen = events.iter().filter(|event| event.kind() != "rewound");
    let mut events: Vec<_> = foreseen.map(|event| event.to_json().to_string()).collect();
    events.sort();
    events
}

#[test]
fn time_and_events_race_in_a_what_if_as_well() {
    let world = World::with(&["steps", "explored"]);
    let host = world.open();
    host.start("ask", "approval", Value::Null).unwrap();
    host.wait_kind("ask", "timer-scheduled", 1);
    host.settle("ask");
    world.clock.advance(DAY);
    assert_eq!(host.output("ask"), json!("timed out"));
    let records = host.records("ask");

    let mut debugger = debugger("explored", &records);
    does(&mut debugger, "goto 3");
    does(&mut debugger, "what-if");
    let raised = does(&mut debugger, "raise approved \"Ada\"");
    assert!(raised.contains("completed \"approved by Ada\""), "{raised}");
    assert!(does(&mut debugger, "run").contains("it has completed"));
    assert!(does(&mut debugger, "raise approved").contains("it has completed"));
    does(&mut debugger, "give-up");
    does(&mut debugger, "what-if");
    let passed = does(&mut debugger, "time");
    assert!(passed.contains("completed \"timed out\"") && passed.contains("2026-01-01T01:00:00.000Z"), "{passed}");
    assert!(does(&mut debugger, "time").contains("it has completed"));

    // And the instance itself knows nothing of all that.
    assert_eq!(host.records("ask"), records);
    assert_eq!(world.log_lines().len(), 0);
}

#[test]
fn what_other_instances_answered_can_be_another_thing() {
    let world = World::with(&["steps", "peers"]);
    let host = world.open();
    host.start("tree", "branches", json!(2)).unwrap();
    assert_eq!(host.output("tree"), json!(1));
    host.start("mouth", "tells", json!({ "to": ["tree"], "values": [7, 8] })).unwrap();
    assert_eq!(host.output("mouth"), json!(["not-found InstanceEnded", "not-found InstanceEnded"]));

    // A sub-orchestration that returned: another result, a failure.
    let mut tree = debugger("peers", &host.records("tree"));
    let told = does(&mut tree, "run kind orchestration-completed");
    assert!(told.contains("returned 0") || told.contains("returned 1"), "{told}");
    does(&mut tree, "what-if 100");
    let sum = does(&mut tree, "run");
    assert!(sum.contains("completed 100") || sum.contains("completed 101"), "{sum}");
    does(&mut tree, "give-up");
    does(&mut tree, "what-if fail the branch broke");
    assert!(does(&mut tree, "run").contains("failed the branch broke"));
    does(&mut tree, "give-up");
    // With a larger input there is a call that nobody in the recording answers.
    does(&mut tree, "goto 1");
    does(&mut tree, "what-if 3");
    let waits = does(&mut tree, "run");
    assert!(waits.contains("nothing in the recording answers #3 leaf(2)"), "{waits}");
    assert!(does(&mut tree, "pending").contains("#3 leaf(2)"));
    let answered = does(&mut tree, "answer 3 41");
    assert!(answered.contains("completed 42"), "{answered}");
    assert!(does(&mut tree, "answer 3 41").contains("#3 is no call that is under way"));

    // A signal that found nobody, had it been taken; and the other way.
    let mut mouth = debugger("peers", &host.records("mouth"));
    does(&mut mouth, "run kind signal-failed");
    does(&mut mouth, "what-if null");
    assert!(does(&mut mouth, "run").contains("completed [\"taken\",\"not-found InstanceEnded\"]"));
    does(&mut mouth, "give-up");
    does(&mut mouth, "goto 1");
    does(&mut mouth, "what-if {\"to\":[\"tree\"],\"values\":[9]}");
    assert!(does(&mut mouth, "run").contains("nothing in the recording answers #1 \"item\" to tree with 9"));
    assert!(does(&mut mouth, "answer 1 fail gone").contains("completed [\"application\"]"));

    // A letter of another instance that says another thing.
    host.start("ear", "hears", json!({ "wanted": 1, "page": 2 })).unwrap();
    host.start("tells", "tells", json!({ "to": ["ear"], "values": [5] })).unwrap();
    assert_eq!(host.output("ear"), json!([5]));
    let mut ear = debugger("peers", &host.records("ear"));
    does(&mut ear, "run kind signal-received");
    does(&mut ear, "what-if 6");
    assert!(does(&mut ear, "run").contains("completed [6]"));
}

#[test]
fn attempts_that_failed_are_tried_again_when_they_were() {
    let world = World::with(&["steps", "explored"]);
    let host = world.open();
    world.desk.script("step.do", []);
    host.serve("desk.remind", None);
    let jam = || crate::harness::failed("Jam", "paper jam");
    world.desk.script("desk.remind", [jam(), jam(), crate::harness::text("in the post")]);
    host.start("letter", "reminder", json!("Ada")).unwrap();
    host.wait_kind("letter", "timer-scheduled", 1);
    host.settle("letter");
    host.advance_to_end("letter", 30 * DAY + 10 * SECOND).unwrap();
    assert_eq!(host.output("letter"), json!("in the post"));
    let mut debugger = debugger("explored", &host.records("letter"));
    does(&mut debugger, "run kind activity-attempt-failed");
    does(&mut debugger, "what-if fail no paper");
    let failed = does(&mut debugger, "run");
    assert!(failed.contains("failed no paper") || failed.contains("no paper"), "{failed}");
    does(&mut debugger, "give-up");
    does(&mut debugger, "what-if");
    does(&mut debugger, "run");
    assert_eq!(events(&debugger).last().unwrap().kind(), "completed");
}
