//! Guests that are called without the component's runtime see what they would see with it: the
//! same calls, answered the same, and to the byte the same memory after each turn.

use dacapo::core::ids::Hash;
use dacapo::core::payload::Payload;
use dacapo::core::turn::{Limits, Recorder, TurnRecord};
use dacapo::sandbox::OrchestrationModule;
use dacapo::sandbox::guest::Guest;
use serde_json::{Value, json};

use crate::guests::{bare_guest, guest};
use crate::harness::{DAY, World, replay_sandbox};
use crate::histories::{module_file, recordings};
use crate::snapshot::inspecting;

/// A module called directly, and the same one called through its component.
fn both(bytes: &[u8]) -> [OrchestrationModule; 2] {
    let bytes = dacapo::sandbox::inspect::to_component(bytes, bytes.len() * 2).expect("a component");
    let hash = Hash::of(&bytes);
    let modules = [replay_sandbox(), inspecting()].map(|sandbox| sandbox.load(hash, &bytes).expect("a module"));
    assert_eq!(modules.each_ref().map(OrchestrationModule::is_called_directly), [true, false]);
    modules
}

fn fresh(module: &OrchestrationModule, records: &[TurnRecord]) -> Guest {
    let mut recorder = Recorder::of_history(&records[0], Limits::default()).expect("a history");
    recorder.raw_logs = true;
    Guest::new(module, recorder).expect("there is room")
}

/// Replays a history both ways; how often the memories were compared.
fn compare(name: &str, modules: &[OrchestrationModule; 2], records: &[TurnRecord]) -> usize {
    let mut guests = modules.each_ref().map(|module| fresh(module, records));
    for (turn, record) in records.iter().enumerate() {
        let seen = guests.each_mut().map(|guest| {
            guest.replay_turn(record, records.get(turn + 1)).unwrap_or_else(|e| panic!("{name}, turn {turn}: {e}"));
            let logs: Vec<String> = guest.recorder_mut().logs.drain(..).map(|line| line.to_string()).collect();
            (logs, guest.memory_hash().expect("it can be seen"))
        });
        assert_eq!(seen[0], seen[1], "{name}: directly and through its component, turn {turn}");
    }
    records.len()
}

#[test]
fn every_recorded_history_leads_to_the_same_memory_either_way() {
    let mut compared = 0;
    for (name, recording) in recordings() {
        let bytes = std::fs::read(module_file(&recording)).expect("its module");
        compared += compare(&name, &both(&bytes), &recording.records().expect("it is whole"));
    }
    assert!(compared > 200, "{compared}");
}

#[test]
fn what_virtual_wasi_answers_leads_to_the_same_memory_either_way() {
    let world = World::with(&["ambient"]);
    let host = world.open();
    host.start("a", "looks", Value::Null).unwrap();
    host.wait_kind("a", "timer-scheduled", 1);
    world.clock.advance(DAY);
    host.output("a");
    // It wrote to its standard output, drew random numbers, asked for the time and its environment.
    compare("ambient", &both(&guest("ambient")), &host.records("a"));
}

#[test]
fn a_core_module_without_wasi_is_called_directly_as_well() {
    let modules = both(&bare_guest("bare"));
    let world = World::new();
    let host = world.open();
    host.upload("bare", None, &bare_guest("bare")).unwrap();
    host.run("b", "bare", json!("beer"));
    compare("bare", &modules, &host.records("b"));
}

#[test]
fn a_query_is_answered_the_same_either_way() {
    let world = World::with(&["life"]);
    let host = world.open();
    host.start("t", "trip", Value::Null).unwrap();
    host.wait_kind("t", "event-awaited", 1);
    let records = host.records("t");
    let modules = both(&guest("life"));
    for (query, input) in
        [("how-many", json!("east")), ("how-many", json!("")), ("touch", Value::Null), ("nothing", Value::Null)]
    {
        let input = Payload::of(&input).expect("JSON");
        let answers = modules.each_ref().map(|module| {
            let mut guest = fresh(module, &records);
            guest.replay(&records).expect("it replays");
            let (answer, logs) = guest.query(query, input.clone());
            (answer, logs.iter().map(ToString::to_string).collect::<Vec<_>>())
        });
        assert_eq!(answers[0], answers[1], "{query} {input:?}");
    }
}

/// A module whose functions have other types than the contract's, and the same words.
#[test]
fn types_of_another_contract_are_refused_though_their_words_are_the_same() {
    let bytes = guest("steps");
    for (ours, theirs) in [("cancel-requested", "cancel-requestee"), ("continue-as-new", "continue-as-old")] {
        let mut other = bytes.to_vec();
        let places: Vec<usize> =
            (0..other.len() - ours.len()).filter(|at| other[*at..].starts_with(ours.as_bytes())).collect();
        assert!(places.len() > 1, "{ours} is in its types");
        for at in places {
            other[at..at + ours.len()].copy_from_slice(theirs.as_bytes());
        }
        let [refused, through_component] = [replay_sandbox(), inspecting()].map(|sandbox| {
            let taken = sandbox.inspect(&other).map(|taken| taken.hash);
            taken.expect_err("it is of another contract").to_string()
        });
        assert_eq!(refused, through_component);
    }
}
