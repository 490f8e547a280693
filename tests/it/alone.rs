//! Tests that need a process of their own run this binary again, for one test.

use std::process::Command;

/// Runs the ignored test `name` alone in another process, with these variables.
pub(crate) fn run(name: &str, variables: &[(&str, &str)]) {
    let mut child = Command::new(std::env::current_exe().expect("this binary"));
    child.args(["--exact", name, "--ignored", "--nocapture"]).envs(variables.iter().copied());
    let output = child.output().expect("this binary can be run");
    let said = [output.stdout, output.stderr].map(|text| String::from_utf8_lossy(&text).into_owned()).join("\n");
    assert!(output.status.success() && said.contains("1 passed"), "{name} in a process of its own:\n{said}");
}
