//! `dacapo new`: what it makes builds, runs and passes its own test.

use crate::cli_support::{Data, cargo, dacapo, root};

#[test]
fn a_new_project_builds_runs_and_is_tested() {
    let data = Data::new("new");
    let project = data.path().join("order-desk");
    let made = data.run(&["new", project.to_str().unwrap()]).ok();
    assert!(made.stdout.contains("dacapo run . order_desk --input @input.json"), "{}", made.stdout);
    data.run(&["new", project.to_str().unwrap()]).failed(4);
    data.run(&["new", "Not A Name"]).failed(2);

    // Its dependencies are compiled once, not at each run of this test.
    let target = root().join("target/tmp/cli-new-target");
    let tested = cargo()
        .args(["test", "--workspace"])
        .current_dir(&project)
        .env("CARGO_TARGET_DIR", target)
        .env("DACAPO", dacapo())
        .output()
        .expect("cargo runs");
    let said = String::from_utf8_lossy(&tested.stdout);
    assert!(tested.status.success(), "{said}\n{}", String::from_utf8_lossy(&tested.stderr));
    for test in ["a_visitor_is_greeted_once", "a_letter_is_tried_three_times"] {
        assert!(said.contains(&format!("{test} ... ok")), "{said}");
    }
}
