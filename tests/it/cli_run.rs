//! `dacapo run` end to end, and the commands that look at what it left.

use std::path::Path;

use serde_json::{Value, json};

use crate::cli_support::{Data, Done};

const TRIP: &str = "examples/trip-booking";

fn book(data: &Data, id: &str) -> Done {
    data.run(&booking(id))
}

fn booking(id: &str) -> [&str; 7] {
    ["run", TRIP, "trip_booking", "--input", "@examples/trip-booking/input.json", "--id", id]
}

/// What the booking service did, by request.
fn requests(data: &Data) -> Vec<Value> {
    let text = std::fs::read_to_string(data.path().join("services/booking/requests.jsonl")).unwrap_or_default();
    text.lines().map(|line| serde_json::from_str(line).expect("one JSON a line")).collect()
}

#[test]
fn a_project_runs_and_its_id_answers_again_without_effects() {
    let data = Data::new("runs");
    let first = book(&data, "trip-1").ok();
    let output = first.json();
    assert_eq!((&output["hotel"]["id"], &output["flight"]["id"]), (&json!("H-1"), &json!("F-1")));
    assert!(first.stderr.contains("booking a trip"), "guest logs are shown: {}", first.stderr);
    // One hotel; the flight desk is busy once, as the input says.
    assert_eq!(requests(&data).len(), 3);

    let again = book(&data, "trip-1").ok();
    assert_eq!(again.stdout, first.stdout);
    assert_eq!(requests(&data).len(), 3, "nothing was booked again");
    assert!(!again.stderr.contains("booking a trip"), "a log line is shown once");

    let other = data.run(&["run", TRIP, "trip_booking", "--id", "trip-1", "--input", "{}"]).ok();
    assert!(other.stderr.contains("keeps the input"), "{}", other.stderr);

    let rows = data.json(&["list"]);
    assert_eq!(rows["instances"][0]["id"], "trip-1");
    assert_eq!(rows["next"], Value::Null);
    assert_eq!(data.json(&["show", "trip-1"])["output"], output);
    let history = data.json(&["history", "trip-1"]);
    let kinds: Vec<_> = history["events"].as_array().unwrap().iter().map(|e| e["kind"].as_str().unwrap()).collect();
    assert_eq!((kinds.first(), kinds.last()), (Some(&"execution-started"), Some(&"completed")));
    assert_eq!(kinds.iter().filter(|kind| **kind == "activity-attempt-failed").count(), 1);
    assert!(data.run(&["history", "trip-1"]).ok().stdout.contains("hotel.reserve("));
    assert!(data.run(&["show", "trip-1"]).ok().stdout.contains("completed"));

    recordings_replay_and_are_guarded(&data, kinds.len());
}

#[test]
fn a_shared_cache_spares_other_folders_and_commands_without_one_the_compiling() {
    let (one, other) = (Data::new("cache-one"), Data::new("cache-other"));
    let (shared, empty) = (one.path().join("shared"), one.path().join("empty"));
    let run = |data: &Data, cache: &Path, arguments: &[&str]| {
        data.run_with(arguments, &[("DACAPO_CACHE", cache.to_str().unwrap())]).ok();
        assert!(!data.path().join("cache").exists(), "it has no cache of its own");
    };
    let kept = |cache: &Path| {
        let files = std::fs::read_dir(cache).unwrap().map(|file| file.unwrap());
        let mut files: Vec<_> = files.map(|file| (file.path(), file.metadata().unwrap().modified().unwrap())).collect();
        files.sort();
        files
    };
    run(&one, &shared, &booking("trip-1"));
    let before = kept(&shared);
    assert!(!before.is_empty());
    run(&other, &shared, &booking("trip-1"));
    let file = one.path().join("trip.recording");
    let replay = ["replay", file.to_str().unwrap()];
    one.run(&["history", "trip-1", "--output", replay[1], "--with-module"]).ok();
    run(&other, &shared, &replay);
    assert_eq!(kept(&shared), before, "nothing was compiled again");
    run(&other, &empty, &replay);
    assert!(!kept(&empty).is_empty(), "a replay keeps what it compiles");
}

fn recordings_replay_and_are_guarded(data: &Data, events: usize) {
    let file = data.path().join("trip.recording");
    let path = file.to_str().unwrap();
    data.run(&["history", "trip-1", "--output", path, "--with-module"]).ok();
    let elsewhere = Data::new("elsewhere");
    let replayed = elsewhere.json(&["replay", path]);
    assert_eq!((&replayed["matched"], &replayed["events"]), (&json!(true), &json!(events)));
    let lines = elsewhere.run(&["replay", path, "--logs"]).ok().stdout;
    assert!(lines.contains("booking a trip") && lines.contains(&format!("matched {events} events")), "{lines}");
    assert!(data.run(&["replay", "trip-1"]).ok().stdout.contains("matched"));

    // Without a module inside it takes the stored one, or says what is missing.
    let bare = data.path().join("bare.recording");
    let bare = bare.to_str().unwrap();
    data.run(&["history", "trip-1", "--output", bare]).ok();
    data.run(&["replay", bare]).ok();
    let missing = elsewhere.run(&["replay", bare, "--json"]).failed(3).error();
    assert!(missing["message"].as_str().unwrap().contains("--module"), "{missing}");

    // A module without that orchestration cannot be compared.
    let other = data.run(&["replay", "trip-1", "--module", "examples/monitor", "--json"]).failed(3).error();
    assert_eq!(other["code"], "unknown-orchestration");
    assert!(other["message"].as_str().unwrap().contains("offer monitor"), "{other}");

    let mut bytes = std::fs::read(&file).unwrap();
    let middle = bytes.len() / 2;
    bytes[middle] ^= 1;
    std::fs::write(&file, bytes).unwrap();
    let changed = elsewhere.run(&["replay", path, "--json"]).failed(2).error();
    assert_eq!(changed["code"], "bad-recording");
}

#[test]
fn s04_a_run_that_is_killed_goes_on_and_books_once() {
    let data = Data::new("killed");
    let input = "@examples/trip-booking/input.json";
    book(&data, "warm-up").ok();
    let mut run = data.spawn(&["run", TRIP, "trip_booking", "--input", input, "--id", "trip-2"]);
    // It serves its API while it runs: follow it up to the flight's first failure.
    // Before its start is durable, the instance is not known.
    let follow = (0..500).find_map(|_| {
        let follow = data.spawn(&["history", "trip-2", "--follow"]);
        follow.try_line().map(|_| follow)
    });
    let follow = follow.expect("the run starts the instance");
    follow.line_with("activity-attempt-failed");
    run.kill();
    let show = data.json(&["show", "trip-2"]);
    assert_eq!(show["status"], "running");
    let output = book(&data, "trip-2").ok().json();
    assert_eq!(data.json(&["show", "trip-2"])["output"], output);
    let of_trip = |request: &&Value| request["key"].as_str().is_some_and(|key| key.starts_with("trip-2/"));
    let hotels = requests(&data).iter().filter(of_trip).filter(|r| r["path"] == "/hotel/reservations").count();
    assert_eq!(hotels, 1, "a durable result is not asked for again");
}

#[test]
fn s38_s41_bad_input_is_told_with_what_exists() {
    let data = Data::new("bad-input");
    let offers = data.json(&["run", TRIP]);
    assert_eq!(offers["offers"][0]["name"], "trip_booking");
    assert_eq!(offers["offers"][0]["input_schema"]["title"], "Trip");
    assert!(data.run(&["run", TRIP]).ok().stdout.contains("Books a hotel"));

    let error = |arguments: &[&str], code| data.run(&[arguments, &["--json"]].concat()).failed(code).error();
    let not_json = error(&["run", TRIP, "trip_booking", "--input", "{"], 2);
    assert!(not_json["message"].as_str().unwrap().contains("not JSON"), "{not_json}");
    let unknown = error(&["run", TRIP, "book_trip", "--input", "1"], 3);
    assert_eq!(unknown["code"], "unknown-orchestration");
    assert!(unknown["message"].as_str().unwrap().contains("trip_booking"), "{unknown}");
    assert_eq!(error(&["run", "examples/nowhere"], 3)["code"], "not-found");
    assert_eq!(error(&["show", "nobody"], 3)["code"], "unknown-instance");
    assert_eq!(error(&["terminate", "nobody"], 3)["code"], "unknown-instance");
    assert_eq!(error(&["start", "nothing"], 3)["code"], "unknown-orchestration");
    data.run(&["list", "--status", "dead"]).failed(2);

    let rubbish = data.path().join("rubbish.wasm");
    std::fs::write(&rubbish, b"not wasm at all").unwrap();
    let refused = error(&["upload", rubbish.to_str().unwrap()], 2);
    assert_eq!(refused["code"], "module-refused");

    let empty = Data::new("no-data");
    std::fs::remove_dir_all(empty.path()).unwrap();
    let none = empty.run(&["list", "--json"]).failed(3);
    assert_eq!(none.error()["code"], "not-found");
    assert!(!empty.path().exists(), "looking makes nothing");
}

#[test]
fn s18_a_failed_run_says_why_and_where_to_look() {
    let data = Data::new("failed");
    let input = r#"{"traveller":"A","destination":"B","nights":1,"flight_desk":{"declined":true}}"#;
    let failed = data.run(&["run", TRIP, "trip_booking", "--input", input, "--id", "trip-3", "--json"]).failed(1);
    assert!(failed.stdout.is_empty());
    let error = failed.error();
    assert_eq!(error["code"], "orchestration-failed");
    assert_eq!(error["failure"]["error_type"], "Declined");
    assert!(error["message"].as_str().unwrap().contains("dacapo history trip-3"), "{error}");
    assert!(requests(&data).iter().any(|request| request["path"] == "/hotel/cancellations"));
}
