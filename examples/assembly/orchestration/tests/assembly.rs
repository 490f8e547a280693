//! Orchestrations that call and signal each other, in the real sandbox and in virtual
//! time: `cargo test -p assembly`, with `dacapo` in the path or named in `$DACAPO`.

use std::time::Duration;

use dacapo_testkit::{TestKit, json};
use serde_json::Value;

const DAY: Duration = Duration::from_secs(86_400);

#[test]
fn an_assembly_waits_for_its_parts_for_as_long_as_they_take() {
    let mut kit = TestKit::open(env!("CARGO_MANIFEST_DIR"));
    kit.start("loom", "assembly", json!({ "parts": ["frame", "shuttle"] }));
    kit.run_for(DAY);
    assert_eq!(kit.instances(), ["loom", "loom-frame", "loom-shuttle"]);
    kit.raise_after(30 * DAY, "loom-shuttle", "delivered", json!({ "by": "Grace" }));
    kit.raise_after(60 * DAY, "loom-frame", "delivered", json!({ "by": "Ada" }));
    kit.run_for(40 * DAY);
    assert_eq!(kit.output::<Value>("loom-shuttle"), json!({ "by": "Grace" }));
    assert_eq!(kit.history("loom").of("custom-status-set").last().unwrap()["status"], "shuttle has come");
    kit.run();
    assert_eq!(kit.output::<Value>("loom"), json!([{ "by": "Ada" }, { "by": "Grace" }]));
    kit.history("loom").assert_in_order(&["orchestration-scheduled", "signal-received", "orchestration-completed"]);
}

#[test]
fn parts_are_told_when_nobody_needs_them() {
    let mut kit = TestKit::open(env!("CARGO_MANIFEST_DIR"));
    kit.start("wheel", "assembly", json!({ "parts": ["hub"] }));
    kit.run();
    kit.terminate("wheel", "sold");
    kit.run();
    assert_eq!(kit.failure("wheel-hub").message, "the hub is not needed: its caller wheel has ended");
}
