//! Snapshots: a guest goes back to any turn and goes on from there as if it had
//! never been further; and where that cannot be, it says so and is as it was.

use std::sync::OnceLock;

use dacapo::core::ids::Hash;
use dacapo::core::turn::{Limits, Recorder, TurnRecord};
use dacapo::sandbox::guest::Guest;
use dacapo::sandbox::settings::SandboxSettings;
use dacapo::sandbox::snapshot::{CannotCopy, Snapshot};
use dacapo::sandbox::{OrchestrationModule, Sandbox};
use serde_json::{Value, json};

use crate::debugging::long_history;
use crate::guests::guest;
use crate::harness::{SECOND, World, temporary};

/// The sandbox of all tests that look into guests.
pub(crate) fn inspecting() -> &'static Sandbox {
    static SANDBOX: OnceLock<Sandbox> = OnceLock::new();
    SANDBOX.get_or_init(|| {
        let settings = SandboxSettings { resident_guests: 32, memory_bytes: 64 << 20, ..SandboxSettings::default() };
        Sandbox::inspecting(settings, Some(temporary("compiled"))).expect("a sandbox")
    })
}

pub(crate) fn module(name: &str) -> OrchestrationModule {
    let bytes = guest(name);
    inspecting().load(Hash::of(&bytes), &bytes).expect("a module")
}

fn fresh(module: &OrchestrationModule, records: &[TurnRecord]) -> Guest {
    let recorder = Recorder::of_history(&records[0], Limits::default()).expect("a history");
    Guest::new(module, recorder).expect("there is room")
}

/// Replays turn by turn: the state before each turn, its hash, and the guest at the end.
fn walk(module: &OrchestrationModule, records: &[TurnRecord]) -> (Guest, Vec<(Snapshot, Hash)>) {
    let mut guest = fresh(module, records);
    let mut states: Vec<(Snapshot, Hash)> = Vec::new();
    for (turn, record) in records.iter().enumerate() {
        let snapshot = guest.snapshot(states.last().map(|(before, _)| before)).expect("between turns");
        states.push((snapshot, guest.state_hash().expect("between turns")));
        guest.replay_turn(record, records.get(turn + 1)).expect("it replays");
    }
    (guest, states)
}

fn selects() -> Vec<TurnRecord> {
    let world = World::new();
    let host = world.open();
    host.start("s", "selects", Value::Null).unwrap();
    for n in 0..4 {
        host.raise("s", if n % 2 == 0 { "left" } else { "right" }, json!(n)).unwrap();
        host.settle("s");
    }
    host.output("s");
    host.records("s")
}

#[test]
fn a_guest_goes_back_to_any_turn_and_replays_from_there_to_the_same_state() {
    let records = selects();
    let module = module("steps");
    let (mut guest, states) = walk(&module, &records);
    let end = guest.state_hash().unwrap();
    let hashes: std::collections::BTreeSet<Hash> = states.iter().map(|(_, hash)| *hash).collect();
    assert!(hashes.len() > 3, "the state of most turns differs: {hashes:?}");
    for (turn, (snapshot, hash)) in states.iter().enumerate().rev() {
        // In the same guest, and in one that has never run.
        let mut other = fresh(&module, &records);
        for guest in [&mut guest, &mut other] {
            guest.restore(snapshot).unwrap();
            assert_eq!(guest.state_hash().unwrap(), *hash, "turn {turn}");
            assert_eq!(guest.recorder().execution.turns as usize, turn);
            guest.replay(&records[turn..]).unwrap();
            assert_eq!(guest.state_hash().unwrap(), end, "from turn {turn}");
            assert_eq!(guest.recorder().execution.end, other_end(&records));
        }
    }
}

fn other_end(records: &[TurnRecord]) -> Option<dacapo::core::execution::End> {
    match records.last()?.events.last()? {
        dacapo::core::event::Event::Completed { output } => {
            Some(dacapo::core::execution::End::Completed(output.clone()))
        }
        other => panic!("{}", other.kind()),
    }
}

#[test]
fn a_state_taken_anywhere_in_a_long_history_is_the_one_that_running_it_leads_to() {
    let records = long_history(50_000);
    assert_eq!(records.iter().map(|record| record.events.len()).sum::<usize>(), 100_002);
    let module = module("seeded");
    // Once from the beginning to the end: a state here and there, and the hash of the
    // one some turns later, to which that one must lead.
    let (every, further) = (997, 41);
    let mut guest = fresh(&module, &records);
    let (mut states, mut later): (Vec<(usize, Snapshot, Hash)>, Vec<Hash>) = (Vec::new(), Vec::new());
    for (turn, record) in records.iter().enumerate() {
        if turn % every == 0 {
            let before = states.last().map(|(_, before, _)| before);
            let snapshot = guest.snapshot(before).expect("between turns");
            states.push((turn, snapshot, guest.state_hash().unwrap()));
        }
        if turn >= further && (turn - further).is_multiple_of(every) {
            later.push(guest.state_hash().unwrap());
        }
        guest.replay_turn(record, records.get(turn + 1)).expect("it replays");
    }
    assert!(states.len() > 50 && later.len() > 50, "{} {}", states.len(), later.len());
    let different: std::collections::BTreeSet<Hash> = states.iter().map(|(.., hash)| *hash).collect();
    assert_eq!(different.len(), states.len(), "the state is another one everywhere");
    for ((turn, snapshot, hash), later) in states.iter().zip(&later).rev() {
        let mut other = fresh(&module, &records);
        other.restore(snapshot).unwrap();
        assert_eq!(other.state_hash().unwrap(), *hash, "turn {turn}");
        other.replay(&records[*turn..turn + further]).unwrap();
        assert_eq!(other.state_hash().unwrap(), *later, "{further} turns after turn {turn}");
    }
}

#[test]
fn what_did_not_change_between_two_turns_is_kept_once() {
    let (_, states) = walk(&module("steps"), &selects());
    let whole = states[2].0.bytes_beyond(None);
    let more = states[3].0.bytes_beyond(Some(&states[2].0));
    assert!(more > 0, "something changed");
    assert!(more * 3 < whole, "{more} bytes more than the {whole} of the turn before");
}

#[test]
fn a_guest_that_holds_a_handle_goes_back_where_it_still_holds_it() {
    let world = World::with(&["steps", "ambient"]);
    let host = world.open();
    host.start("look", "looks", Value::Null).unwrap();
    host.wait_kind("look", "timer-scheduled", 1);
    host.settle("look");
    world.clock.advance(60 * SECOND);
    host.output("look");
    let records = host.records("look");
    let module = module("ambient");
    let (mut guest, states) = walk(&module, &records);
    let (begun, last) = (&states[1].0, &states.last().unwrap().0);
    assert!(begun.fits_any_guest(), "it has written nothing yet");
    assert!(!last.fits_any_guest(), "it holds its standard output");

    let mut other = fresh(&module, &records);
    assert_eq!(other.restore(last).unwrap_err(), CannotCopy::Handles);
    other.replay(&records).expect("it is as it was");

    guest.restore(last).expect("it still holds it");
    guest.replay(&records[records.len() - 1..]).unwrap();
    other.restore(begun).expect("no handle is needed there");
    other.replay(&records[1..]).unwrap();
    assert_eq!(other.recorder().execution.end, guest.recorder().execution.end);
}

#[test]
fn memory_that_grew_does_not_shrink_so_a_fresh_guest_takes_the_state() {
    let world = World::new();
    let host = world.open();
    host.run("big", "sends", json!(1_500_000));
    let records = host.records("big");
    let module = module("steps");
    let (mut guest, states) = walk(&module, &records);
    let before = fresh(&module, &records).memory_bytes().unwrap();
    assert!(guest.memory_bytes().unwrap() > before, "it grew");
    assert_eq!(guest.restore(&states[0].0).unwrap_err(), CannotCopy::Grown);

    let mut other = fresh(&module, &records);
    other.restore(&states[0].0).unwrap();
    other.replay(&records).unwrap();
    // And up again: the memory of a fresh guest grows to that of the snapshot.
    let mut third = fresh(&module, &records);
    let last = states.last().unwrap();
    third.restore(&last.0).unwrap();
    assert_eq!((third.state_hash().unwrap(), third.memory_bytes()), (last.1, guest.memory_bytes()));
}

#[test]
fn states_of_other_modules_and_of_other_sandboxes_are_refused() {
    let records = selects();
    let (mut steps, states) = walk(&module("steps"), &records);
    let mut unruly = fresh(&module("unruly"), &records);
    assert!(matches!(unruly.restore(&states[0].0), Err(CannotCopy::OtherModule { .. })));
    assert!(steps.restore(&states[0].0).is_ok());

    let sandbox = Sandbox::new(SandboxSettings { resident_guests: 2, ..SandboxSettings::default() }, None).unwrap();
    let bytes = guest("steps");
    let plain = sandbox.load(Hash::of(&bytes), &bytes).unwrap();
    let mut guest = fresh(&plain, &records);
    assert_eq!(guest.snapshot(None).unwrap_err(), CannotCopy::NotInspecting);
    assert_eq!(guest.state_hash().unwrap_err(), CannotCopy::NotInspecting);
}
