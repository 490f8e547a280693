//! `dacapo explore` on the example, from its folder to a recording that replays.

use serde_json::json;

use crate::cli_support::Data;

const EXAMPLE: &str = "examples/exploration";

#[test]
fn the_example_is_explored() {
    let data = Data::new("explore");
    let run = data.run(&["run", EXAMPLE, "exploration", "--input", "@examples/exploration/input.json", "--id", "one"]);
    assert_eq!(run.ok().json(), json!("one went on"));

    let file = data.path().join("found.dacapo");
    let model = format!("{EXAMPLE}/model.toml");
    let explore = ["explore", EXAMPLE, "--failures", "0", "--model"];
    let found = data.run(&[&explore[..], &[&model, "--save", file.to_str().unwrap()]].concat()).failed(1);
    assert!(
        found.stdout.contains("violated: no instance completed") && found.stderr.contains("in some order"),
        "{}",
        found.stdout
    );
    for caller in ["one", "two"] {
        let recording = data.path().join(format!("found-{caller}.dacapo"));
        let replayed = data.json(&["replay", recording.to_str().unwrap()]);
        assert_eq!((&replayed["matched"], &replayed["instance"]), (&json!(true), &json!(caller)));
        let debugged = data.run(&["debug", recording.to_str().unwrap(), "-c", "run kind activity-failed"]).ok().stdout;
        assert!(debugged.contains("is not there") && debugged.contains("exploration/orchestration/src/lib.rs:"));
    }

    let proved = data.json(&[&explore[..], &["examples/exploration/one-by-one.toml"]].concat());
    assert_eq!((&proved["violation"], &proved["bounded"]), (&json!(null), &json!(0)));
    assert!(proved["schedules"].as_f64().unwrap() > proved["worlds"].as_f64().unwrap());

    // One of them alone always goes on, and its results may come from a recording.
    data.run(&["history", "one", "--output", file.to_str().unwrap()]).ok();
    let from = data.path().join("from.toml");
    std::fs::write(&from, "recording = \"found.dacapo\"\n").unwrap();
    let alone = ["explore", EXAMPLE, "--orchestration", "exploration", "--input", "[\"B1\", \"B2\"]", "--model"];
    let alone = [&alone[..], &[from.to_str().unwrap(), "--expect", "all-complete"]].concat();
    let proved = data.run(&[&alone[..], &["--failures", "0"]].concat()).ok();
    assert!(proved.stdout.contains("every schedule"), "{}", proved.stdout);
    assert!(data.run(&alone).failed(1).stdout.contains("injected"));

    mistakes_are_told(&data);
}

#[test]
fn instances_that_call_and_signal_each_other_are_explored_from_a_file() {
    let data = Data::new("explore-assembly");
    let explore = ["explore", "examples/assembly", "--failures", "0", "--model"];
    let proved = data.json(&[&explore[..], &["examples/assembly/model.toml"]].concat());
    assert_eq!((&proved["violation"], &proved["bounded"]), (&json!(null), &json!(0)), "{proved}");
    assert!(proved["schedules"].as_f64().unwrap() > 1_000.0 && proved["schedules_cut"] == 0.0, "{proved}");

    // A part that nobody delivers is waited for, and one that is asked to end is told of.
    let model = std::fs::read_to_string("../examples/assembly/model.toml").unwrap();
    let (file, found) = (data.path().join("model.toml"), data.path().join("found.dacapo"));
    let with = |changed: String| {
        std::fs::write(&file, changed).unwrap();
        let model = file.to_str().unwrap();
        data.run(&[&explore[..], &[model, "--crashes", "0", "--save", found.to_str().unwrap()]].concat()).failed(1)
    };
    let waits = with(model.replace("instance = \"loom-shuttle\"", "instance = \"loom-wheel\""));
    assert!(waits.stdout.contains("nothing can happen any more") && waits.stdout.contains("loom-shuttle waits for"));
    let told = with(format!("cancels = [\"loom-frame\"]\n{model}"));
    assert!(told.stdout.contains("loom-frame  is told to end"), "{}", told.stdout);
    assert!(told.stdout.contains("the frame is not needed"), "{}", told.stdout);
    for instance in ["loom", "loom-frame"] {
        let recording = data.path().join(format!("found-{instance}.dacapo"));
        assert_eq!(data.json(&["replay", recording.to_str().unwrap()])["matched"], true);
    }
}

fn mistakes_are_told(data: &Data) {
    let bad = data.path().join("bad.toml");
    std::fs::write(&bad, "world = [\"a\"]\n[activities.\"baton.remove\"]\ntake = [\"a\"]\n").unwrap();
    let told = data.run(&["explore", EXAMPLE, "--json", "--model", bad.to_str().unwrap()]).failed(2).error();
    let message = told["message"].as_str().unwrap();
    assert!(message.contains("line 3") && message.contains("takes"), "{message}");
    let told = data.run(&["explore", EXAMPLE, "--orchestration", "exploratoin"]).failed(3);
    assert!(told.stderr.contains("it has exploration, one_by_one"), "{}", told.stderr);
    assert!(data.run(&["explore", EXAMPLE]).failed(2).stderr.contains("--orchestration"));
}
