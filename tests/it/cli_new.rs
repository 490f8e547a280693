//! `dacapo new`: what it makes builds, runs and passes its own test.

use crate::cli_support::{Data, run_tests_of};

#[test]
fn a_new_project_builds_runs_and_is_tested() {
    let data = Data::new("new");
    let project = data.path().join("order-desk");
    let made = data.run(&["new", project.to_str().unwrap()]).ok();
    assert!(made.stdout.contains("dacapo run . order_desk --input @input.json"), "{}", made.stdout);
    data.run(&["new", project.to_str().unwrap()]).failed(4);
    data.run(&["new", "Not A Name"]).failed(2);

    run_tests_of(&project, &["--workspace"], &["a_visitor_is_greeted_once", "a_letter_is_tried_three_times"]);
}
