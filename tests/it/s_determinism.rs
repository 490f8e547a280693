//! What ordinary Rust learns of the ordinary world is the same at every replay:
//! in another process, on another day.

use std::path::{Path, PathBuf};

use dacapo::core::ids::Hash;
use dacapo::core::turn::TurnRecord;
use dacapo::sandbox::Sandbox;
use dacapo::sandbox::settings::SandboxSettings;
use serde_json::Value;

use crate::alone;
use crate::guests::guest;
use crate::harness::{NEW_YEAR, SECOND, World, assert_replays, id};

/// A file for another process, removed when dropped.
struct Handed(PathBuf);

impl Drop for Handed {
    fn drop(&mut self) {
        let _ = std::fs::remove_file(&self.0);
    }
}

fn look_around(host: &crate::harness::Host<'_>, world: &World, instance: &str) -> Value {
    host.start(instance, "looks", Value::Null).unwrap();
    host.wait_kind(instance, "timer-scheduled", 1);
    host.settle(instance);
    world.clock.advance(60 * SECOND);
    host.output(instance)
}

#[test]
fn s05_clocks_hashes_uuids_and_random_numbers_of_ordinary_crates_are_replayed() {
    let world = World::with(&["steps", "ambient"]);
    let host = world.open();
    let seen = look_around(&host, &world, "look");
    assert_eq!(seen[0], seen[1], "it survives a trip through an activity");
    assert_eq!(seen[0]["unix_ms"], NEW_YEAR, "the clock shows the journaled time");
    assert_eq!(seen[3]["unix_ms"], NEW_YEAR + 60 * SECOND);
    assert_eq!((&seen[2]["elapsed_ms"], &seen[3]["elapsed_ms"]), (&0.into(), &(60 * SECOND).into()));
    assert_eq!(seen[0]["variables"], 0, "there is no environment");
    for value in ["uuid", "drawn"] {
        assert_ne!(seen[0][value], seen[2][value], "random within a run");
    }
    let other = look_around(&host, &world, "look-again");
    for value in ["uuid", "drawn", "hash_order"] {
        assert_ne!(seen[0][value], other[0][value], "and between runs");
    }
    assert!(world.log_lines().contains(&"look/1 looking around".to_owned()), "standard output is log lines");
    host.assert_sound("look");
    host.assert_sound("look-again");
}

#[test]
fn s05_they_are_the_same_in_another_process() {
    let world = World::with(&["steps", "ambient"]);
    let host = world.open();
    look_around(&host, &world, "look");
    let history = host.engine().history(&id("look"), None).unwrap();
    let lines: Vec<String> = history.turns.iter().map(|turn| serde_json::to_string(&turn.to_vec()).unwrap()).collect();
    let file = Handed(Path::new(env!("CARGO_TARGET_TMPDIR")).join(format!("history-{}.json", std::process::id())));
    std::fs::write(&file.0, lines.join("\n")).unwrap();
    let path = file.0.to_str().unwrap();
    alone::run("s_determinism::s05_replay_of_what_another_process_recorded", &[("DACAPO_TEST_HISTORY", path)]);
}

#[test]
#[ignore = "run by the test above"]
fn s05_replay_of_what_another_process_recorded() {
    let text = std::fs::read_to_string(std::env::var("DACAPO_TEST_HISTORY").unwrap()).unwrap();
    let records: Vec<TurnRecord> =
        text.lines().map(|line| TurnRecord::decode(&serde_json::from_str::<Vec<u8>>(line).unwrap()).unwrap()).collect();
    let settings = SandboxSettings { resident_guests: 4, ..SandboxSettings::default() };
    let bytes = guest("ambient");
    // Compiled again, here and now.
    let sandbox = Sandbox::new(settings, None).unwrap();
    let module = sandbox.load(Hash::of(&bytes), &bytes).unwrap();
    assert_replays(&module, &records);
}

#[test]
fn s05_an_instance_goes_on_on_another_host_on_another_day_with_what_it_learned() {
    let world = World::with(&["steps", "ambient"]);
    let host = world.open();
    host.start("look", "looks", Value::Null).unwrap();
    host.wait_kind("look", "timer-scheduled", 1);
    drop(host);
    let outputs: Vec<Value> = [1, 1, 500]
        .into_iter()
        .map(|days| {
            let elsewhere = world.elsewhere(days);
            let host = elsewhere.open();
            let seen = host.output("look");
            host.assert_sound("look");
            seen
        })
        .collect();
    assert_eq!(outputs[0], outputs[1]);
    let before = |seen: &Value| seen.as_array().unwrap()[..3].to_vec();
    assert_eq!(before(&outputs[0]), before(&outputs[2]), "learned before the move");
    for value in ["uuid", "drawn", "hash_order"] {
        assert_eq!(outputs[0][3][value], outputs[2][3][value], "and its randomness follows from the journal after it");
    }
    assert_ne!(outputs[0][3]["unix_ms"], outputs[2][3]["unix_ms"]);
}
