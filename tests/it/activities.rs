//! Attempts of activities in wasm that begin without their component and WASI: they are told the
//! same, come to the same, and whatever they need beyond that they get.

use std::sync::Arc;

use dacapo::core::event::{ActivityOptions, ActivityScheduled};
use dacapo::core::ids::{Hash, InstanceId, TimestampMs};
use dacapo::core::payload::{Failure, FailureKind, Outcome, Payload};
use dacapo::core::task::{Task, Turn};
use dacapo::sandbox::activity::ActivityModule;
use dacapo::store::Grants;
use serde_json::{Value, json};

use crate::cli_support::Data;
use crate::guests::guest;
use crate::harness::replay_sandbox;

const TOLD: &str = "compute.told";
const ENDS: &str = "compute.ends";

fn module() -> ActivityModule {
    let bytes = guest("computes");
    replay_sandbox().activity_module(Hash::of(&bytes), &bytes).expect("a module")
}

fn task(name: &str, input: &str) -> Arc<Task> {
    let call = ActivityScheduled {
        operation: 7,
        name: name.to_owned(),
        input: Payload::of(&json!(input)).unwrap(),
        options: ActivityOptions::default(),
    };
    let last_heartbeat = Some(Payload::of(&json!(41)).unwrap());
    let turn = Turn { attempt: 2, last_heartbeat, ..Turn::first(TimestampMs(1)) };
    let instance = InstanceId::new("told").unwrap();
    Arc::new(Task::of(&instance, 3, 3, &call, turn, &(Arc::new(|| TimestampMs(5)) as _), 1 << 20))
}

fn run(module: &ActivityModule, name: &str, input: &str, grants: &Arc<Grants>) -> Outcome {
    let runtime = tokio::runtime::Builder::new_multi_thread().worker_threads(1).enable_time().build().unwrap();
    runtime.block_on(module.run(task(name, input), grants))
}

fn json_of(outcome: Outcome) -> Value {
    outcome.expect("it succeeds").to_json().expect("JSON")
}

#[test]
fn an_activity_is_told_the_same_with_and_without_its_component() {
    let module = module();
    let env = [("PLACE".to_owned(), "here".to_owned())].into();
    let grants = Arc::new(Grants { env, ..Grants::default() });
    let directly = json_of(run(&module, TOLD, "quiet", &grants));
    assert!(module.begins_directly(TOLD, &grants), "it needed no more");
    let told = directly.as_array().unwrap();
    assert_eq!(told[..3], [json!("told/3/7"), json!("attempt 2"), json!("last Some(41)")]);
    assert_eq!(told[3], r#"[("PLACE", "here")], 0 arguments"#);
    assert!(told[4].as_str().is_some_and(|years| years >= "2025 years, true"), "{told:?}");
    assert_eq!(told[5..], [json!("5 letters"), json!("true")]);

    json_of(run(&module, TOLD, "aloud", &grants));
    assert!(!module.begins_directly(TOLD, &grants), "it has printed");
    assert!(module.begins_directly(ENDS, &grants), "another has not");
    assert_eq!(json_of(run(&module, TOLD, "quiet", &grants)), directly);
}

#[test]
fn an_attempt_ends_the_same_with_and_without_its_component() {
    let grants: Arc<Grants> = Arc::default();
    let ways = [module(), module()];
    json_of(run(&ways[1], ENDS, "prints", &grants));
    assert_eq!(ways.each_ref().map(|module| module.begins_directly(ENDS, &grants)), [true, false]);
    for (how, kind) in [
        ("is-well", None),
        ("fails", Some(FailureKind::Application)),
        ("traps", Some(FailureKind::Trapped)),
        ("grows", Some(FailureKind::Trapped)),
        ("recurses", Some(FailureKind::Trapped)),
        ("panics", Some(FailureKind::Trapped)),
    ] {
        let [directly, as_component] = ways.each_ref().map(|module| run(module, ENDS, how, &grants));
        assert_eq!(directly, as_component, "{how}");
        assert_eq!(directly.err().map(|Failure { kind, .. }| kind), kind, "{how}");
        assert!(ways[0].begins_directly(ENDS, &grants), "{how}");
    }
}

#[test]
fn an_attempt_that_needs_more_is_begun_anew_and_gets_it() {
    let grants: Arc<Grants> = Arc::default();
    for (how, times) in [("beats", 1), ("takes-long", 3)] {
        let module = module();
        for _ in 0..times {
            assert!(module.begins_directly(ENDS, &grants), "{how}");
            assert_eq!(json_of(run(&module, ENDS, how, &grants)), json!(how));
        }
        assert!(!module.begins_directly(ENDS, &grants), "{how}");
    }
}

/// What is logged before it is known that an attempt needs more is not logged twice.
#[test]
fn what_an_attempt_logs_is_shown_once() {
    let data = Data::new("activity-lines");
    let folder = data.path().join("project");
    std::fs::create_dir_all(&folder).unwrap();
    for name in ["delegates", "computes"] {
        std::fs::write(folder.join(format!("{name}.wasm")), guest(name)).unwrap();
    }
    let manifest = "name = \"delegates\"\n[orchestration]\npath = \"delegates.wasm\"\n\
        [[activities]]\npath = \"computes.wasm\"\n";
    std::fs::write(folder.join("dacapo.toml"), manifest).unwrap();
    for (how, lines) in
        [("is-well", vec!["it is-well"]), ("prints", vec!["it prints", "it printed"]), ("traps", vec!["it traps"])]
    {
        let input = json!({ "activity": ENDS, "input": how }).to_string();
        let folder = folder.display().to_string();
        let mut command = data.command(&["run", &folder, "delegates", "--id", how, "--input", &input]);
        let output = command.env("DACAPO_LOG", "info").output().unwrap();
        let shown = String::from_utf8_lossy(&output.stderr);
        for line in lines {
            assert_eq!(shown.matches(line).count(), 1, "{line}: {shown}");
        }
    }
}
