//! The orchestration in the real sandbox and in virtual time: `cargo test -p approval`,
//! with `dacapo` in the path or named in `$DACAPO`.

use std::time::Duration;

use dacapo_testkit::{TestKit, assert_replays, json};
use serde_json::Value;

const HOUR: Duration = Duration::from_secs(3600);

/// A kit in which somebody has an hour to answer.
fn asked() -> TestKit {
    let mut kit = TestKit::open(env!("CARGO_MANIFEST_DIR"));
    kit.activity("outbox.ask", |_| Ok(()));
    kit.activity("outbox.tell", |_| Ok(()));
    kit.start("q-1", "approval", json!({ "subject": "A loom", "amount": 120_000, "patience": 3600 }));
    kit
}

#[test]
fn an_answer_in_time_decides() {
    let mut kit = asked();
    kit.raise_after(HOUR / 2, "q-1", "approved", json!({ "by": "Grace" }));
    kit.run();
    assert_eq!(kit.output::<Value>("q-1"), json!({ "approved": { "by": "Grace" } }));
    assert_eq!(kit.elapsed(), HOUR / 2);
    assert_eq!(kit.calls("outbox.tell")[0].input::<Value>(), json!({ "approved": { "by": "Grace" } }));
    kit.history("q-1").assert_in_order(&["timer-scheduled", "event-raised", "operation-cancelled", "completed"]);
}

#[test]
fn more_time_is_given_when_somebody_asks_for_it() {
    let mut kit = asked();
    kit.run_for(HOUR / 2);
    let more = kit.update("q-1", "extend", 3600);
    let too_much = kit.update("q-1", "extend", 1_000_000);
    kit.run_for(Duration::ZERO);
    assert_eq!(kit.answer::<String>(&more), Some(Ok("2026-01-01T02:00:00.000Z".to_owned())));
    let refused = kit.answer::<String>(&too_much).expect("it is answered").unwrap_err();
    assert_eq!(refused.message, "no more than a week at a time");
    let standing: Value = kit.query("q-1", "standing", ()).unwrap();
    assert_eq!((&standing["answer_by"], &standing["decision"]), (&json!("2026-01-01T02:00:00.000Z"), &Value::Null));

    // A host that dies meanwhile changes nothing.
    kit.crash();
    kit.run();
    assert_eq!(kit.output::<Value>("q-1"), json!({ "expired": { "at": "2026-01-01T02:00:00.000Z" } }));
    assert_eq!(kit.elapsed(), 2 * HOUR);
}

/// Recorded once, with `dacapo history q-1 --output`: what is under way must go on.
#[test]
fn what_ran_once_still_runs_the_same() {
    assert_replays(env!("CARGO_MANIFEST_DIR"), "tests/histories/q-1.dacapo");
}
