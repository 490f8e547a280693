//! The examples that no other test runs, from the command line as their pages say, and
//! the tests of examples themselves, as their users run them.

use serde_json::json;

use crate::cli_support::{Data, root, run_tests_of};

#[test]
fn fan_out_counts_every_file_of_its_inbox_and_writes_a_report() {
    let data = Data::new("fan-out");
    let ran = data.json(&["run", "examples/fan-out", "fan_out", "--input", "@examples/fan-out/input.json"]);
    let report = &ran["output"];
    let files = report["files"].as_array().unwrap();
    let names: Vec<&str> = files.iter().map(|file| file["file"].as_str().unwrap()).collect();
    assert_eq!(names, ["canon.txt", "dacapo.txt", "fermata.txt"]);
    let total: u64 = files.iter().map(|file| file["words"].as_u64().unwrap()).sum();
    assert_eq!((report["total"].as_u64(), total > 0), (Some(total), true));
    let written = std::fs::read_to_string(data.path().join("reports/words.txt")).unwrap();
    assert!(written.ends_with(&format!("{total:>8} in all\n")), "{written}");
}

#[test]
fn a_claim_waits_for_its_verdict_and_pays_no_more_than_its_cover() {
    let data = Data::new("claims");
    data.run(&["upload", "examples/claims"]).ok();
    let served = data.serve();
    let start = |id: &str| data.run(&["start", "claim", "--id", id, "--input", "@examples/claims/input.json"]).ok();
    let ended = |id: &str| ["start", "claim", "--id", id, "--reuse", "return-existing", "--wait"].map(str::to_owned);
    let paid = || books(&data).into_iter().filter(|name| name.starts_with("payment")).count();

    start("storm");
    assert_eq!(data.json(&["query", "storm", "stands"]), json!("being looked at"));
    data.run(&["raise", "storm", "verdict", "--value", "2000"]).ok();
    assert_eq!(data.run(&ended("storm").each_ref().map(String::as_str)).ok().json(), json!(2000));
    assert_eq!(paid(), 1);
    let kinds = data.run(&["history", "storm"]).ok().stdout;
    assert!(kinds.contains("in-the-sample"), "{kinds}");

    start("flood");
    data.run(&["raise", "flood", "verdict", "--value", "6000"]).ok();
    let refused = data.run(&ended("flood").each_ref().map(String::as_str)).failed(1);
    assert!(refused.stderr.contains("6000 EUR are more than the cover of 5000 EUR"), "{}", refused.stderr);
    assert_eq!(paid(), 1, "what is refused is not asked for");
    drop(served);
}

/// The names of the files in the ledger.
fn books(data: &Data) -> Vec<String> {
    let files = std::fs::read_dir(data.path().join("ledger")).unwrap();
    files.map(|file| file.unwrap().file_name().into_string().unwrap()).collect()
}

#[test]
fn the_tests_of_the_examples_pass() {
    let tests = [
        "an_answer_in_time_decides",
        "more_time_is_given_when_somebody_asks_for_it",
        "what_ran_once_still_runs_the_same",
        "an_assembly_waits_for_its_parts_for_as_long_as_they_take",
        "parts_are_told_when_nobody_needs_them",
    ];
    run_tests_of(&root().join("examples"), &["--package", "approval", "--package", "assembly"], &tests);
}
