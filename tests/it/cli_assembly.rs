//! Orchestrations that call and signal each other, from the command line: the example
//! `assembly`.

use serde_json::json;

use crate::cli_support::Data;

const INPUT: &str = "@examples/assembly/input.json";

/// Waits until a sub-orchestration of an instance stands there.
fn wait_child(data: &Data, of: &str, number: usize, status: &str) {
    let stands = || data.json(&["show", of])["children"][number]["status"] == status;
    assert!((0..1000).any(|_| stands()), "child {number} of {of} is not {status}");
}

#[test]
fn the_example_calls_for_its_parts_and_hears_of_them() {
    let data = Data::new("assembly");
    data.run(&["upload", "examples/assembly"]).ok();
    let served = data.serve();
    data.run(&["start", "assembly", "--id", "loom", "--input", INPUT]).ok();
    wait_child(&data, "loom", 0, "running");
    wait_child(&data, "loom", 1, "running");
    data.run(&["raise", "loom-frame", "delivered", "--value", r#"{"by":"Ada"}"#]).ok();
    let part = ["start", "part", "--id", "loom-frame", "--reuse", "return-existing", "--wait"];
    assert_eq!(data.run(&part).ok().json(), json!({ "by": "Ada" }));
    let view = data.json(&["show", "loom"]);
    let of = |n: usize, field: &str| view["children"][n][field].as_str().unwrap().to_owned();
    assert_eq!([of(0, "id"), of(1, "id")], ["loom-frame", "loom-shuttle"]);
    assert_eq!([of(0, "status"), of(1, "status")], ["completed", "running"]);
    let shown = data.run(&["show", "loom"]).ok().stdout;
    assert!(shown.contains("loom-shuttle part (running)"), "{shown}");
    assert_eq!(data.json(&["show", "loom-shuttle"])["parent"], "loom");
    data.run(&["raise", "loom-shuttle", "delivered", "--value", r#"{"by":"Grace"}"#]).ok();
    let ended = data.run(&["start", "assembly", "--id", "loom", "--reuse", "return-existing", "--wait"]).ok();
    assert_eq!(ended.json(), json!([{ "by": "Ada" }, { "by": "Grace" }]));

    data.run(&["start", "assembly", "--id", "wheel", "--input", INPUT]).ok();
    wait_child(&data, "wheel", 0, "running");
    let waits = data.run(&["show", "wheel"]).ok().stdout;
    assert!(waits.contains("part as wheel-frame, attempt 1"), "{waits}");
    data.run(&["terminate", "wheel", "--reason", "sold"]).ok();
    let told = ["start", "part", "--id", "wheel-frame", "--reuse", "return-existing", "--wait"];
    let told = data.run(&told).failed(1);
    assert!(told.stderr.contains("the frame is not needed: its caller wheel has ended"), "{}", told.stderr);
    drop(served);
}
