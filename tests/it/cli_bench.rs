//! `dacapo bench`: every workload runs and says what it should. Figures are no
//! matter of tests.

use serde_json::Value;

use crate::cli_support::{Data, root};

fn measured(text: &str) -> Vec<Value> {
    text.lines().map(|line| serde_json::from_str(line).expect("a JSON object on each line")).collect()
}

#[test]
fn each_workload_prints_its_figure_beside_its_floor() {
    let data = Data::new("bench");
    let module = root().join("examples/bench");
    let module = module.to_str().unwrap();
    let ran = data.run(&["bench", "--scale", "0.002", "--module", module, "--json"]).ok();
    let all = measured(&ran.stdout);
    let names: Vec<_> = all.iter().map(|one| one["workload"].as_str().unwrap()).collect();
    let known: Vec<_> = dacapo::bench::WORKLOADS.iter().map(|workload| workload.name).collect();
    assert_eq!(names, known);
    for one in &all {
        assert!(one["value"].is_f64() && one["target"].is_f64() && one["floor"]["what"].is_string(), "{one}");
    }

    // What one run printed, another is compared with.
    let old = data.path().join("old.json");
    std::fs::write(&old, &ran.stdout).unwrap();
    let old = old.to_str().unwrap();
    let again = data.run(&["bench", "lone", "--scale", "0.002", "--module", module, "--compare", old, "--json"]).ok();
    let again = measured(&again.stdout);
    assert_eq!(again.len(), 1);
    assert!(again[0]["before"].is_f64() && again[0]["better"].is_f64(), "{}", again[0]);

    let wrong = data.run(&["bench", "lone", "--module", module, "--compare", module]).failed(2);
    assert!(wrong.stderr.contains("expected what `dacapo bench` printed"), "{}", wrong.stderr);
    let unknown = data.run(&["bench", "quick"]).failed(2);
    assert!(unknown.stderr.contains("hello5-remote"), "{}", unknown.stderr);
}
