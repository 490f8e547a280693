//! Bugs that were planted, each caught and named by the tools that a user has: the
//! program itself, and the test kit.

use std::panic::{AssertUnwindSafe, catch_unwind};
use std::path::PathBuf;

use dacapo::core::ids::Hash;
use dacapo::core::turn::TurnRecord;
use dacapo::replay::recording::Recording;
use dacapo_testkit::TestKit;
use serde_json::{Value, json};

use crate::cli_support::{Data, dacapo};
use crate::debugging::{as_by, as_of, journey};
use crate::guests::guest;

/// What became of the journey, and what must be said of it: how a check counts it,
/// and what the report names.
const BUGS: [(&str, &str, &[&str]); 4] = [
    (
        "journey_reordered",
        "differs at event 2",
        &[
            "asked     activity-scheduled #1 step.do({\"what\":\"flight\",\"nights\":3})",
            "differs   the order: what was asked is recorded as event 4",
            "book(&ctx, \"flight\", nights).await?;",
        ],
    ),
    (
        "journey_argument",
        "differs at event 7",
        &["differs   input.nights: recorded 3, asked 4", "match book(&ctx, \"car\", nights + 1).await {"],
    ),
    (
        "journey_clock",
        "differs at event 4",
        &[
            "differs   the kind: recorded activity-scheduled, asked now-read",
            "info!(at = %ctx.now(), \"the hotel is booked\");",
        ],
    ),
    (
        "journey_forgets",
        "differs at event 9",
        &[
            "recorded  activity-scheduled #4 step.undo(\"flight\")",
            "so the activity-scheduled of event 9 is left out or comes later",
        ],
    ),
];

fn recording(records: &[TurnRecord], module: Option<&[u8]>) -> Vec<u8> {
    let module = module.map(<[u8]>::to_vec);
    let turns = records.iter().map(TurnRecord::encode).collect();
    let module_hash = dacapo::core::turn::module_of(records).expect("a beginning");
    Recording { instance: "journey-7".into(), execution: 1, module_hash, module, turns }.encode()
}

struct Seeded {
    data: Data,
    module: PathBuf,
    recordings: PathBuf,
}

impl Seeded {
    /// The module, and a recording of the journey for each of its bugs.
    fn new(test: &str) -> Self {
        let data = Data::new(test);
        let (module, recordings) = (data.path().join("seeded.wasm"), data.path().join("recordings"));
        std::fs::write(&module, &*guest("seeded")).unwrap();
        std::fs::create_dir(&recordings).unwrap();
        let journey = journey();
        for (bug, ..) in BUGS {
            std::fs::write(recordings.join(format!("{bug}.dacapo")), recording(&as_of(journey.clone(), bug), None))
                .unwrap();
        }
        Self { data, module, recordings }
    }

    fn file(&self, bug: &str) -> String {
        self.recordings.join(format!("{bug}.dacapo")).display().to_string()
    }
}

#[test]
fn each_is_caught_by_check_and_by_replay_and_named_with_its_line() {
    let seeded = Seeded::new("seeded-check");
    let (module, folder) = (seeded.module.to_str().unwrap(), seeded.recordings.to_str().unwrap());
    let checked = seeded.data.run(&["check", module, "--against", folder]).failed(1);
    for (bug, result, named) in BUGS {
        let line = checked.stdout.lines().find(|line| line.contains(bug) && line.contains(result));
        assert!(line.is_some(), "{bug} {result}\nin {}", checked.stdout);
        let replayed = seeded.data.run(&["replay", &seeded.file(bug), "--module", module]).failed(1);
        let debugged = seeded.data.run(&["debug", &seeded.file(bug), "--module", module, "-c", "run"]).failed(1);
        for part in named {
            for told in [&checked.stdout, &replayed.stdout, &debugged.stdout] {
                assert!(told.contains(part), "{bug}: {part}\nin {told}");
            }
        }
    }
    assert_eq!(checked.stdout.matches("likely repairs").count(), BUGS.len());
    assert!(checked.stdout.contains("0 the same, 4 different"), "{}", checked.stdout);
}

#[test]
fn each_is_caught_by_verification_where_the_module_is_not_what_ran() {
    let data = Data::new("seeded-verify");
    let (module, journey) = (guest("seeded"), journey());
    let write = |orchestration: &str| {
        let records = as_by(journey.clone(), orchestration, Hash::of(&module));
        let file = data.path().join(format!("{orchestration}.dacapo"));
        std::fs::write(&file, recording(&records, Some(&module))).unwrap();
        file.display().to_string()
    };
    data.run(&["verify", &write("journey"), "--replay"]).ok();
    for (bug, result, _) in BUGS {
        let file = write(bug);
        data.run(&["verify", &file]).ok();
        let found = data.run(&["verify", &file, "--replay", "--json"]).failed(1).json();
        let event = result.rsplit(' ').next().unwrap();
        assert_eq!(found["findings"][0]["event"].to_string(), event, "{bug}: {found}");
        assert!(found["findings"][0]["problem"].as_str().unwrap().contains("recorded"), "{bug}: {found}");
    }
}

#[test]
fn each_is_caught_by_a_golden_history_of_the_test_kit() {
    let seeded = Seeded::new("seeded-kit");
    for (bug, result, _) in BUGS {
        let mut kit = TestKit::open_with(dacapo(), &seeded.module);
        let panic = catch_unwind(AssertUnwindSafe(|| kit.assert_replays(seeded.file(bug)))).expect_err("it differs");
        let told = panic.downcast_ref::<String>().expect("a message");
        let event = result.rsplit(' ').next().unwrap();
        assert!(told.contains(&format!("diverged at event {event}: recorded")), "{bug}: {told}");
        assert!(told.contains("seeded/src/lib.rs:"), "{bug}: {told}");
    }
}

#[test]
fn a_lost_compensation_is_found_without_any_recording_by_exploration() {
    let data = Data::new("seeded-explore");
    let module = data.path().join("explored.wasm");
    std::fs::write(&module, &*guest("explored")).unwrap();
    let model = data.path().join("model.toml");
    let rules = "[activities.\"desk.reserve\"]\nputs = [\"{input}\"]\nidempotent = true\n\
                 [activities.\"desk.cancel\"]\nremoves = [\"{input}\"]\n\
                 [at_end]\ngone_if_failed = [\"hotel\", \"car\", \"flight\"]\n";
    std::fs::write(&model, rules).unwrap();
    let explore = |forgetful: bool| {
        let input = json!({ "forgetful": forgetful }).to_string();
        let (module, model) = (module.to_str().unwrap(), model.to_str().unwrap());
        data.run(&["explore", module, "--orchestration", "trip", "--input", &input, "--model", model])
    };
    let found = explore(true).failed(1);
    assert!(found.stdout.contains("violated") && found.stdout.contains("hotel"), "{}", found.stdout);
    explore(false).ok();
}

#[test]
fn a_stale_compiled_module_is_not_run_under_another_ones_name() {
    let data = Data::new("seeded-stale");
    // With a cache of its own.
    let serve = || data.serve_with(&[], &[("DACAPO_CACHE", "")]);
    let served = serve();
    data.run(&["upload", "examples/parcel", "--name", "parcel", "--version", "1"]).ok();
    data.run(&["upload", "examples/approval/orchestration", "--name", "approval", "--version", "1"]).ok();
    data.run(&["start", "parcel", "--id", "p-1", "--input", "@examples/parcel/input.json"]).ok();
    data.run(&["raise", "p-1", "scanned", "--value", "\"Graz\""]).ok();
    drop(served);
    // The compiled form of the other module, whole and sound, in the place of this one's.
    let hash = |name: &str| {
        let all = data.json(&["modules"]);
        let found = all["modules"].as_array().unwrap().iter().find(|module| module["name"] == name).cloned();
        found.unwrap()["hash"].as_str().unwrap().to_owned()
    };
    let compiled = |name: &str| -> Vec<PathBuf> {
        let hash = hash(name);
        let files = std::fs::read_dir(data.path().join("cache")).unwrap().map(|file| file.unwrap().path());
        files.filter(|file| file.file_name().unwrap().to_str().unwrap().starts_with(&hash)).collect()
    };
    let (own, other) = (compiled("parcel"), compiled("approval"));
    assert!(!own.is_empty() && !other.is_empty());
    for file in &own {
        let suffix = file.file_name().unwrap().to_str().unwrap().split_once('-').unwrap().1.to_owned();
        if let Some(other) = other.iter().find(|other| other.to_str().unwrap().ends_with(&suffix)) {
            std::fs::copy(other, file).unwrap();
        }
    }
    let served = serve();
    data.run(&["raise", "p-1", "scanned", "--value", "\"Vienna\""]).ok();
    let (status, body) = served.request("GET", "/api/v1/instances/p-1/outcome?wait_ms=60000", "", "");
    let outcome: Value = serde_json::from_str(&body).unwrap();
    assert_eq!((status, &outcome["output"]), (200, &json!({ "stops": ["Graz", "Vienna"] })), "{outcome}");
    // And it was replaced by what the module really compiles to.
    for file in own {
        let kept = std::fs::read(&file).unwrap();
        assert!(other.iter().all(|other| std::fs::read(other).unwrap() != kept), "{}", file.display());
    }
}
