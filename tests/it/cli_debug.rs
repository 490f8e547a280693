//! `dacapo debug` and replays of the past with other code, end to end.

use std::io::Write as _;
use std::path::{Path, PathBuf};
use std::process::Stdio;

use serde_json::{Value, json};

use crate::cli_support::{Data, root};

const TRIP: &str = "examples/trip-booking";

fn booked(test: &str) -> Data {
    let data = Data::new(test);
    data.run(&["run", TRIP, "trip_booking", "--input", "@examples/trip-booking/input.json", "--id", "trip-1"]).ok();
    data
}

/// The orchestration of `examples/trip-booking` in a folder of its own, changed.
struct Changed(PathBuf);

impl Changed {
    fn new(test: &str, change: impl Fn(&str) -> String) -> Self {
        Self::of(TRIP, test, change)
    }

    /// Of another example.
    fn of(example: &str, test: &str, change: impl Fn(&str) -> String) -> Self {
        let folder = Path::new(env!("CARGO_TARGET_TMPDIR")).join(format!("changed-{test}-{}", std::process::id()));
        let original = root().join(example);
        let read = |path: &str| std::fs::read_to_string(original.join(path)).expect("the example is there");
        let manifest = read("orchestration/Cargo.toml")
            .replace("\"../api\"", &format!("{:?}", original.join("api")))
            .lines()
            .filter(|line| !line.ends_with(".workspace = true") || line.starts_with("dacapo-sdk"))
            .map(|line| format!("{line}\n"))
            .collect::<String>()
            .replace(
                "dacapo-sdk.workspace = true",
                &format!("dacapo-sdk = {{ path = {:?} }}", root().join("guest-sdk")),
            )
            .replace("[dependencies]\n", "[dependencies]\nserde = { version = \"1\", features = [\"derive\"] }\n")
            .replace("[package]\n", "[workspace]\n\n[package]\nedition = \"2024\"\n");
        let profile =
            "\n[profile.release]\nopt-level = \"s\"\nlto = true\ncodegen-units = 1\ndebug = \"line-tables-only\"\n";
        for part in ["src", ".cargo"] {
            std::fs::create_dir_all(folder.join(part)).expect("a folder for the test");
        }
        // What they depend on is built once, for all of them and for the guests of tests.
        let target = root().join("tests/guests/target");
        let config = format!("[build]\ntarget-dir = {target:?}\n");
        std::fs::write(folder.join(".cargo/config.toml"), config).expect("it can be written");
        std::fs::write(folder.join("Cargo.toml"), manifest + profile).expect("it can be written");
        std::fs::copy(root().join("examples/Cargo.lock"), folder.join("Cargo.lock")).expect("the examples' lock file");
        std::fs::write(folder.join("src/lib.rs"), change(&read("orchestration/src/lib.rs")))
            .expect("it can be written");
        Self(folder)
    }

    fn path(&self) -> &str {
        self.0.to_str().expect("plain text")
    }
}

impl Drop for Changed {
    fn drop(&mut self) {
        let _ = std::fs::remove_dir_all(&self.0);
    }
}

/// `text` with `old`, which is in it once, replaced.
fn with(text: &str, old: &str, new: &str) -> String {
    assert_eq!(text.matches(old).count(), 1, "{old}");
    text.replace(old, new)
}

#[test]
fn a_script_steps_through_a_recording_and_names_lines_of_the_example() {
    let data = booked("debug");
    let commands = "run kind activity-attempt-failed; pending; back 3; logs; status; run-back kind timer-fired";
    let text = data.run(&["debug", "trip-1", "-c", commands]).ok().stdout;
    for part in [
        "> run kind activity-attempt-failed\nevent 10 of 12, turn 5 of 6, ",
        "asked at examples/trip-booking/orchestration/src/lib.rs:",
        "let seat = flight … .await;",
        "#3 flight.reserve(",
        "let room = hotel … .await?;",
        "INFO trip_booking: booking a trip",
        "last completion: event 7, activity-completed #2 returned",
        "ctx.delay(Duration::from_secs(1)).await;",
    ] {
        assert!(text.contains(part), "{part}: {text}");
    }

    let lines = data.run(&["debug", "trip-1", "--json", "-c", "step; run; run kind nothing"]).ok().stdout;
    let answers: Vec<Value> = lines.lines().map(|line| serde_json::from_str(line).expect("one JSON a line")).collect();
    let moved: Vec<_> = answers.iter().map(|answer| answer["moved"].as_str().unwrap()).collect();
    assert_eq!(moved, ["there", "there", "not-found"]);
    assert_eq!(answers[1]["view"]["position"], answers[1]["view"]["events"]);
    assert!(answers[1]["view"]["memory_bytes"].as_u64().unwrap() > 65_536);

    let wrong = data.run(&["debug", "trip-1", "--json", "-c", "fly"]).failed(2).error();
    assert!(wrong["message"].as_str().unwrap().contains("`help` lists them"), "{wrong}");
    data.run(&["debug", "trip-9", "-c", "step"]).failed(3);

    // From a file's commands and from stdin, with a recording that has its module.
    let file = data.path().join("trip.recording");
    data.run(&["history", "trip-1", "--output", file.to_str().unwrap(), "--with-module"]).ok();
    let script = data.path().join("script");
    std::fs::write(&script, "# to the end\nrun\nquit\nstep\n").unwrap();
    let elsewhere = Data::new("debug-elsewhere");
    let by_file = elsewhere.run(&["debug", file.to_str().unwrap(), "--script", script.to_str().unwrap()]).ok().stdout;
    assert!(by_file.ends_with("> quit\n") && by_file.contains("event 12 of 12"), "{by_file}");
    let mut command = elsewhere.command(&["debug", file.to_str().unwrap()]);
    let mut child = command.stdin(Stdio::piped()).stdout(Stdio::piped()).spawn().unwrap();
    child.stdin.take().unwrap().write_all(b"run\nquit\nstep\n").unwrap();
    let output = child.wait_with_output().unwrap();
    let by_stdin = String::from_utf8(output.stdout).unwrap();
    assert_eq!(by_file, by_stdin);
}

#[test]
fn the_past_is_print_debugged_with_a_crate_that_logs_more() {
    let data = booked("print-debug");
    let talks = Changed::new("talks", |text| {
        let more = "ctx.custom_status(\"hotel reserved\");\n    info!(room = %room.id, \"has a room\");\n";
        with(text, "ctx.custom_status(\"hotel reserved\");\n", more)
    });
    let text = data.run(&["replay", "trip-1", "--module", talks.path(), "--logs"]).ok().stdout;
    assert!(text.contains("INFO trip_booking: has a room room=H-1") && text.contains("matched 12 events"), "{text}");
    let logs = data.json(&["replay", "trip-1", "--module", talks.path(), "--logs"]);
    assert_eq!(logs["logs"][1]["line"]["message"], "has a room");
    let stepped = data.run(&["debug", "trip-1", "--module", talks.path(), "-c", "run log has a room; logs 1"]).ok();
    assert!(stepped.stdout.contains("event 8 of 12") && stepped.stdout.contains("room=H-1"), "{}", stepped.stdout);

    // And a change that is one is told with its line, by both.
    let longer = Changed::new("longer", |text| with(text, "nights: trip.nights,", "nights: trip.nights + 1,"));
    for command in [&["replay"][..], &["debug", "-c", "run"]] {
        let arguments = [command, &["trip-1", "--module", longer.path()]].concat();
        let told = data.run(&arguments).failed(1).stdout;
        for part in ["diverged at event 6 (turn 3)", "input.nights: recorded ", "likely repairs", "src/lib.rs:"] {
            assert!(told.contains(part), "{part}: {told}");
        }
    }
    let error = data.run(&["replay", "trip-1", "--module", longer.path(), "--json"]).failed(1);
    assert_eq!(error.json()["divergence"]["field"], json!("input.nights"));
    assert_eq!(error.error()["divergence"]["repairs"].as_array().unwrap().len(), 3);
}

#[test]
fn the_slider_of_a_page_asks_the_same_engine_over_http() {
    let data = Data::new("slider");
    let served = data.serve();
    data.run(&["upload", "examples/parcel", "--name", "parcel", "--version", "1"]).ok();
    data.run(&["start", "parcel", "--id", "p-1", "--input", "@examples/parcel/input.json"]).ok();
    data.run(&["raise", "p-1", "scanned", "--value", "\"Graz\""]).ok();
    let get = |path: &str| {
        let (status, body) = served.request("GET", &format!("/api/v1/instances/{path}"), "", "");
        (status, serde_json::from_str::<Value>(&body).unwrap_or_else(|error| panic!("{error}: {body}")))
    };
    let events = data.json(&["history", "p-1"])["events"].as_array().unwrap().len() as u64;
    let (status, last) = get("p-1/replay");
    assert_eq!((status, &last["position"], &last["events"]), (200, &json!(events), &json!(events)), "{last}");

    // The same as the debugger of the command line says, at every event.
    for event in (0..=events).rev() {
        let (_, there) = get(&format!("p-1/replay?event={event}"));
        let command = data.run(&["debug", "p-1", "--json", "-c", &format!("goto {event}")]).ok();
        let view = command.json()["view"].clone();
        for (name, value) in view.as_object().unwrap() {
            assert_eq!(&there[name], value, "{name} at event {event}");
        }
        assert_eq!(there["differs_at"], json!(null));
    }
    let (_, waits) = get("p-1/replay?event=2");
    assert_eq!(waits["pending"][0]["what"], "#1 \"scanned\"", "{waits}");
    assert!(waits["source"][0]["file"].as_str().unwrap().ends_with("parcel/orchestration/src/lib.rs"), "{waits}");
    assert!(waits["source_text"].as_str().unwrap().contains("wait_for_event"), "{waits}");

    // More of it, and another module: the first difference is marked, wherever one looks.
    data.run(&["raise", "p-1", "scanned", "--value", "\"Vienna\""]).ok();
    let (_, more) = get("p-1/replay");
    assert!(more["events"].as_u64().unwrap() > events && more["position"] == more["events"], "{more}");
    let other = Changed::of("examples/parcel", "slider", |text| with(text, "(\"scanned\")", "(\"seen\")"));
    data.run(&["upload", other.path(), "--name", "other", "--version", "1"]).ok();
    for event in ["0", "1", "3"] {
        let (_, view) = get(&format!("p-1/replay?module=other&event={event}"));
        assert_eq!((&view["differs_at"], &view["report"]["event"]), (&json!(2), &json!(2)), "{view}");
        assert!(view["position"].as_u64().unwrap() <= 1, "nothing is shown behind the difference: {view}");
        assert!(view["report"]["differs"].as_str().unwrap().contains("name: recorded \"scanned\""), "{view}");
    }

    // A check says the same of all that runs: in full of the first, and of all if asked.
    data.run(&["start", "parcel", "--module", "parcel@1", "--id", "p-2", "--input", "@examples/parcel/input.json"])
        .ok();
    data.run(&["start", "parcel", "--module", "parcel@1", "--id", "p-3", "--input", "@examples/parcel/input.json"])
        .ok();
    let check = ["check", other.path(), "--name", "parcel"];
    let told = data.run(&check).failed(1).stdout;
    for part in [
        "differs at event 2",
        "replay of p-2 diverged at event 2 (turn 2)\n  recorded  event-awaited #1 \"scanned\"\n  asked     event-awaited #1 \"seen\"",
        "  differs   name: recorded \"scanned\", asked \"seen\"\n  at  ",
        "let stop: String = ctx.wait_for_event(\"seen\").await?;",
        "`if ctx.patched(\"seen-2\") { new } else { as recorded }`; `dacapo check NEW --migrate`",
        "`dacapo fork p-2 --at 1 --module NAME@VERSION`",
        "1 more differ like this; --all reports on each",
        "0 the same, 2 different",
    ] {
        assert!(told.contains(part), "{part}\nin {told}");
    }
    let all = data.run(&[&check[..], &["--all"]].concat()).failed(1).stdout;
    assert!(all.contains("replay of p-3 diverged") && !all.contains("more differ"), "{all}");
    let report = data.run(&[&check[..], &["--json"]].concat()).failed(1).json();
    assert_eq!(report["checked"][1]["report"]["instance"], "p-3");
    // And the repair is one: what is shared goes on in the other module.
    data.run(&["fork", "p-2", "--at", "1", "--module", "other@1", "--id", "p-4"]).ok();
    let (_, forked) = get("p-4/replay");
    assert_eq!(forked["pending"][0]["what"], "#1 \"seen\"", "{forked}");
    for (path, status, code) in [
        ("nobody/replay", 404, "unknown-instance"),
        ("p-1/replay?module=nothing", 404, "unknown-module"),
        ("p-1/replay?event=999", 400, "invalid-input"),
        ("p-1/replay?evnt=1", 400, "invalid-input"),
    ] {
        let (found, problem) = get(path);
        assert_eq!((found, &problem["code"]), (status, &json!(code)), "{path}: {problem}");
    }
}
