//! Versions, checks, forks and verification as their users meet them: the example
//! `parcel` and its next version, with and without a server.

use serde_json::{Value, json};

use crate::cli_support::Data;

const INPUT: &str = "@examples/parcel/input.json";

fn module(data: &Data, version: &str) -> Value {
    let all = data.json(&["modules"]);
    let found = all["modules"].as_array().unwrap().iter().find(|module| module["version"] == version).cloned();
    found.unwrap_or_else(|| panic!("version {version} in {all}"))
}

#[test]
fn a_parcel_goes_on_with_the_next_version() {
    for serve in [true, false] {
        let data = Data::new(if serve { "parcel-served" } else { "parcel" });
        let served = serve.then(|| data.serve());
        data.run(&["upload", "examples/parcel", "--name", "parcel", "--version", "1"]).ok();
        for (id, place) in [("p-1", "Graz"), ("p-2", "Linz")] {
            data.run(&["start", "parcel", "--id", id, "--input", INPUT]).ok();
            data.run(&["raise", id, "scanned", "--value", &json!(place).to_string()]).ok();
        }

        // A build that would have done something else.
        let different = data.run(&["check", "examples/approval/orchestration", "--name", "parcel", "--json"]).failed(1);
        assert_eq!(different.error()["code"], "check-differs");
        assert_eq!(different.json()["checked"][0]["result"], "cannot-run");
        let refused = data.run(&["upload", "examples/approval/orchestration", "--name", "parcel", "--check"]).failed(1);
        assert!(refused.stderr.contains("new starts do not take it"), "{}", refused.stderr);
        assert_eq!(module(&data, "1")["default"], true);

        // And one that would not.
        let checked = data.json(&["check", "examples/parcel-next"]);
        assert_eq!((&checked["same"], &checked["different"]), (&json!(2), &json!(0)));
        data.run(&["upload", "examples/parcel-next", "--name", "parcel", "--version", "2", "--check"]).ok();
        assert_eq!(module(&data, "2")["default"], true);
        assert_eq!(data.run(&["modules", "default", "parcel"]).ok().stdout, "parcel@2\n");
        let in_use = data.run(&["modules", "rm", "parcel@1", "--json"]).failed(4);
        assert_eq!(in_use.error()["code"], "module-in-use");
        // What if it had been somewhere else?
        let history = data.json(&["history", "p-1"]);
        let raised =
            history["events"].as_array().unwrap().iter().find(|event| event["kind"] == "event-raised").unwrap();
        let at = raised["event"].to_string();
        data.run(&["fork", "p-1", "--at", &at, "--edit", "\"Krems\"", "--id", "p-3"]).ok();
        assert_eq!(data.json(&["show", "p-3"])["forked_from"]["instance"], "p-1");

        // All of them go on with version 2.
        let moved = data.run(&["check", "examples/parcel-next", "--name", "parcel", "--migrate"]).ok();
        assert!(moved.stdout.contains("same, migrated") && moved.stdout.contains("3 migrated"), "{}", moved.stdout);
        assert_eq!(data.json(&["show", "p-1"])["module"], module(&data, "2")["hash"]);
        let removed = data.json(&["modules", "gc"]);
        assert_eq!(removed["removed"].as_array().unwrap().len(), 2, "version 1 and what was refused: {removed}");

        for id in ["p-1", "p-3"] {
            data.run(&["raise", id, "scanned", "--value", "\"Vienna\""]).ok();
        }
        if let Some(served) = &served {
            let (status, outcome) = served.request("GET", "/api/v1/instances/p-3/outcome?wait_ms=60000", "", "");
            let outcome: Value = serde_json::from_str(&outcome).unwrap();
            assert_eq!((status, &outcome["output"]), (200, &json!({ "stops": ["Krems", "Vienna"] })));
            assert_eq!(data.json(&["show", "p-3"])["tags"]["arrived"], "yes", "the patched part ran");
        }
        let sound = data.json(&["verify", "--replay"]);
        assert_eq!((&sound["findings"], &sound["instances"], &sound["replayed"]), (&json!([]), &json!(3), &json!(3)));
    }
}

#[test]
fn a_build_that_nobody_uploaded_is_kept_and_takes_over_in_one_command() {
    let data = Data::new("parcel-at-once");
    data.run(&["upload", "examples/parcel", "--name", "parcel", "--version", "1"]).ok();
    for id in ["p-1", "p-2"] {
        data.run(&["start", "parcel", "--id", id, "--input", INPUT]).ok();
    }
    let moved = data.run(&["check", "examples/parcel-next", "--name", "parcel", "--migrate", "--version", "2"]).ok();
    assert!(moved.stdout.contains("2 the same, 0 different, 2 migrated"), "{}", moved.stdout);
    assert_eq!(data.json(&["show", "p-1"])["module"], module(&data, "2")["hash"]);
    assert_eq!(module(&data, "1")["default"], true, "new starts do not take it");
}

#[test]
fn recordings_are_checked_forked_and_verified_without_any_data_folder() {
    let data = Data::new("parcel-files");
    let elsewhere = Data::new("parcel-elsewhere");
    data.run(&["upload", "examples/parcel", "--name", "parcel"]).ok();
    data.run(&["start", "parcel", "--id", "p-1", "--input", INPUT]).ok();
    data.run(&["raise", "p-1", "scanned", "--value", "\"Graz\""]).ok();
    let folder = elsewhere.path().join("recordings");
    std::fs::create_dir(&folder).unwrap();
    let file = folder.join("p-1.dacapo");
    let (file, folder) = (file.to_str().unwrap(), folder.to_str().unwrap());
    data.run(&["history", "p-1", "--output", file, "--with-module"]).ok();

    let forked = format!("{folder}/p-2.dacapo");
    elsewhere.run(&["fork", file, "--at", "1", "--edit", "\"Graz\"", "--id", "p-2", "--output", &forked]).ok();
    let needs = elsewhere.run(&["fork", file, "--at", "1", "--json"]).failed(2);
    assert!(needs.error()["message"].as_str().unwrap().contains("--output"));
    let checked = elsewhere.json(&["check", "examples/parcel-next", "--against", folder]);
    assert_eq!(checked["same"], 2);
    let other = elsewhere.run(&["check", "examples/approval/orchestration", "--against", file]).failed(1);
    assert!(other.stdout.contains("cannot run"), "{}", other.stdout);
    let of_a_folder = elsewhere.json(&["check", "examples/approval/orchestration", "--against", folder]);
    assert_eq!(of_a_folder["checked"], json!([]), "a folder may hold other orchestrations' recordings");

    let sound = elsewhere.json(&["verify", folder, "--replay"]);
    assert_eq!((&sound["replayed"], &sound["findings"]), (&json!(2), &json!([])));
    let mut bytes = std::fs::read(file).unwrap();
    let middle = bytes.len() / 2;
    bytes[middle] ^= 0x10;
    std::fs::write(file, &bytes).unwrap();
    let damaged = elsewhere.run(&["verify", folder, "--json"]).failed(1);
    assert_eq!(damaged.error()["code"], "damaged");
    let finding = &damaged.json()["findings"][0];
    assert_eq!(finding["of"], file);
    assert!(finding["problem"].as_str().unwrap().contains("the module inside"), "{finding}");
}
