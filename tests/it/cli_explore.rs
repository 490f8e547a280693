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
