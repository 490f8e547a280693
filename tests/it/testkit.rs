//! The test kit as a user's crate has it: the real program at the other end.

use std::panic::{AssertUnwindSafe, catch_unwind};
use std::path::{Path, PathBuf};
use std::sync::atomic::{AtomicU32, Ordering};
use std::time::Duration;

use dacapo_testkit::{Call, Failure, TestKit, json};

use crate::cli_support::dacapo;
use crate::guests::guest;

const DAY: Duration = Duration::from_secs(86_400);

/// A file with the guest, as a crate's build would leave it.
fn module(name: &str) -> PathBuf {
    static WRITTEN: AtomicU32 = AtomicU32::new(0);
    let folder = Path::new(env!("CARGO_TARGET_TMPDIR"));
    let file = folder.join(format!("kit-{name}-{}.wasm", std::process::id()));
    // Other tests may be reading it: it is replaced whole.
    let whole = file.with_extension(WRITTEN.fetch_add(1, Ordering::Relaxed).to_string());
    std::fs::write(&whole, &*guest(name)).expect("a file");
    std::fs::rename(&whole, &file).expect("a file");
    file
}

fn kit(name: &str) -> TestKit {
    TestKit::open_with(dacapo(), module(name))
}

fn message(code: impl FnOnce()) -> String {
    let panic = catch_unwind(AssertUnwindSafe(code)).expect_err("a panic");
    panic.downcast_ref::<String>().cloned().unwrap_or_else(|| (*panic.downcast_ref::<&str>().unwrap()).to_owned())
}

#[test]
fn thirty_days_take_no_time_and_attempts_are_scripted() {
    let mut kit = kit("explored");
    let jam = || Err(Failure::new("Jam", "paper jam"));
    kit.results("desk.remind", [jam(), jam(), Ok(json!("in the post"))]);
    kit.start("ada", "reminder", "Ada");
    kit.run_for(DAY);
    assert!(kit.outcome("ada").is_none() && kit.calls("desk.remind").is_empty());
    kit.run();

    assert_eq!(kit.output::<String>("ada"), "in the post");
    // Back-off is virtual too.
    assert!(kit.elapsed() > 30 * DAY && kit.elapsed() < 31 * DAY, "{:?}", kit.elapsed());
    let calls = kit.calls("desk.remind");
    assert_eq!(calls.iter().map(|call| call.attempt).collect::<Vec<_>>(), [1, 2, 3]);
    assert_eq!((calls[0].input::<String>(), calls[0].idempotency_key.as_str()), ("Ada".to_owned(), "ada/1/2"));
    assert_eq!(kit.logs(), ["reminding whom=Ada"]);
    let history = kit.history("ada");
    history.assert_kinds(&[
        "execution-started",
        "timer-scheduled",
        "timer-fired",
        "activity-scheduled",
        "activity-attempt-failed",
        "activity-attempt-failed",
        "activity-completed",
        "completed",
    ]);
    history.assert_in_order(&["timer-fired", "activity-completed"]);
    assert_eq!(history[4]["failure"]["error_type"], "Jam");
}

#[test]
fn failures_are_final_when_attempts_run_out() {
    let mut kit = kit("explored");
    kit.activity("desk.remind", |_: &Call| Err::<(), _>(Failure::new("Jam", "paper jam")));
    kit.start("ada", "reminder", "Ada");
    kit.run();
    assert_eq!((kit.failure("ada").error_type.as_str(), kit.calls("desk.remind").len()), ("Jam", 3));

    kit.activity("desk.remind", |_: &Call| Err::<(), _>(Failure::new("Gone", "moved").non_retryable()));
    kit.start("bob", "reminder", "Bob");
    kit.run();
    assert_eq!(
        (kit.failure("bob").error_type.as_str(), kit.history("bob").count("activity-attempt-failed")),
        ("Gone", 0)
    );
}

#[test]
fn events_race_timers_and_activities_race_each_other_in_virtual_time() {
    let mut kit = kit("explored");
    kit.start("early", "approval", ());
    kit.start("late", "approval", ());
    kit.raise_after(Duration::from_secs(1800), "early", "approved", "Ada");
    kit.raise_after(Duration::from_secs(3601), "late", "approved", "Ada");
    kit.run();
    assert_eq!(
        (kit.output::<String>("early"), kit.output::<String>("late")),
        ("approved by Ada".into(), "timed out".into())
    );

    kit.activity_taking("desk.ask", Duration::from_secs(5), |call| Ok(call.input::<String>()));
    kit.start("asks", "faster", ());
    kit.run();
    assert_eq!(kit.output::<String>("asks"), "left", "both take as long, and left was asked first");
}

#[test]
fn what_was_under_way_at_a_crash_is_run_again() {
    let mut kit = kit("explored");
    kit.activity_taking("card.charge", Duration::from_secs(10), |_| Ok(()));
    kit.start("order", "charge", 100);
    kit.run_for(Duration::from_secs(5));
    kit.crash();
    kit.run();
    kit.output::<()>("order");
    let keys: Vec<_> =
        kit.calls("card.charge").iter().map(|call| (call.attempt, call.idempotency_key.clone())).collect();
    assert_eq!(keys, [(1, "order/1/1".to_owned()), (1, "order/1/1".to_owned())]);
    assert_eq!(kit.elapsed(), Duration::from_secs(15));

    // Executions that continue as new are one instance.
    kit.activity("desk.tick", |_| Ok(()));
    kit.start("count", "countdown", 3);
    kit.run();
    kit.output::<()>("count");
    assert_eq!(kit.calls("desk.tick").len(), 4);
}

#[test]
fn orchestrations_call_and_signal_each_other_in_virtual_time() {
    let mut kit = kit("peers");
    kit.activity("step.square", |call| Ok(call.input::<u64>().pow(2)));
    kit.start("tree", "branches", 4);
    kit.run();
    assert_eq!(kit.output::<u64>("tree"), 1 + 4 + 9);
    let instances = kit.instances();
    assert_eq!(instances.len(), 5);
    assert_eq!(kit.output::<u64>(&instances[3]), 4);
    assert_eq!(kit.history("tree").count("orchestration-completed"), 4);

    // Attempts are instances of their own, a back-off apart.
    let began = kit.elapsed();
    kit.start("again", "tries", "Broken");
    kit.run();
    assert_eq!(kit.output::<String>("again"), "Broken");
    assert_eq!(kit.instances()[5..], ["again", "try", "try~2", "try~3"]);
    assert!(kit.elapsed() - began >= Duration::from_secs(3), "{:?}", kit.elapsed() - began);

    // A signal is taken once, also over executions, crashes, and after its sender's end.
    let letters = json!([{ "to": ["ear"], "values": [1, 2, 3, 4, 5] }, true]);
    kit.start("ear", "hears", json!({ "wanted": 5, "page": 2 }));
    kit.start("mouth", "tells_and_goes", letters);
    kit.crash();
    kit.run();
    assert_eq!(kit.output::<u32>("mouth"), 3);
    assert_eq!(kit.output::<Vec<u32>>("ear"), [1, 2, 3, 4, 5]);
    kit.start("lost", "tells", json!({ "to": ["ear", "nobody"], "values": [6] }));
    kit.run();
    assert_eq!(kit.output::<Vec<String>>("lost"), ["not-found InstanceEnded", "not-found UnknownInstance"]);
}

#[test]
fn callers_that_leave_are_known_to_what_they_called() {
    let mut kit = kit("peers");
    kit.activity("step.keep_text", |call| Ok(call.input::<String>()));
    kit.start("hurry", "hurries", 60_000);
    kit.run();
    assert_eq!(kit.output::<String>("hurry"), "timed-out schedule-to-close");
    assert_eq!(kit.output::<String>("child"), "its caller hurry no longer waits for it");
    assert_eq!(kit.elapsed(), Duration::from_secs(60));

    for (policy, how) in
        [("terminate", "terminated"), ("cancel", "its caller leaves has ended"), ("abandon", "nobody asked")]
    {
        let mut kit = TestKit::open_with(dacapo(), module("peers"));
        kit.activity("step.keep_text", |call| Ok(call.input::<String>()));
        kit.start("leaves", "leaves", json!([policy, false]));
        kit.raise_after(Duration::from_secs(1), "leaves", "go", ());
        kit.run();
        assert_eq!(kit.output::<u32>("leaves"), 1);
        let told = kit
            .outcome("child")
            .expect("it ends")
            .map_or_else(|failure| failure.kind, |told| told.as_str().unwrap().to_owned());
        assert_eq!(told, how);
    }
}

#[test]
fn an_id_that_is_taken_is_joined_replaced_or_refused() {
    let mut kit = kit("peers");
    kit.activity("step.square", |call| Ok(call.input::<u64>().pow(2)));
    kit.start("child", "waits", 60_000);
    for (id, reuse, how) in [
        ("rejects", "reject", "application AlreadyExists"),
        ("other", "return-existing", "application OtherOrchestration"),
        ("early", "replace-finished", "application AlreadyExists"),
        ("takes", "terminate-and-replace", "9"),
        ("joins", "return-existing", "9"),
        ("again", "replace-finished", "9"),
    ] {
        kit.start(id, "calls_by_name", json!(["leaf", null, reuse]));
        kit.run_for(Duration::from_secs(1));
        assert_eq!(kit.output::<String>(id), how, "{id}");
    }
    assert_eq!(kit.history("child")[0]["execution"], 3);
    let mut kit = TestKit::open_with(dacapo(), module("peers"));
    let told = message(|| {
        kit.start("away", "calls_by_name", json!(["leaf", "elsewhere", "reject"]));
        kit.run();
    });
    assert!(told.contains("away calls the orchestration \"leaf\" of the module \"elsewhere\""), "{told}");

    // A module that the test has is called by its name.
    let mut kit = TestKit::open_with(dacapo(), module("explored"));
    kit.module("peers", module("peers"));
    kit.activity("step.square", |call| Ok(call.input::<u64>().pow(2)));
    kit.start("away", "calls_away", 9);
    kit.run();
    assert_eq!(kit.output::<u64>("away"), 81);
}

#[test]
fn updates_are_answered_and_queries_see_the_state_as_it_is() {
    let mut kit = kit("explored");
    kit.activity_taking("desk.note", Duration::from_secs(5), |_| Ok(()));
    kit.start("sum", "adds", false);
    let (one, ten) = (kit.update("sum", "add", 1), kit.update("sum", "add", 10));
    kit.run_for(Duration::from_secs(1));
    assert_eq!((kit.answer::<u32>(&one), kit.query::<u32>("sum", "sum", ())), (None, Ok(0)));
    kit.run_for(Duration::from_secs(5));
    assert_eq!((kit.answer::<u32>(&one), kit.answer::<u32>(&ten)), (Some(Ok(1)), Some(Ok(11))));
    let wrong = kit.update("sum", "take", 1);
    kit.run();
    let refused = kit.answer::<u32>(&wrong).expect("it is answered").unwrap_err();
    assert!(refused.message.contains("no update \"take\""), "{refused:?}");
    assert!(kit.query::<u32>("sum", "product", ()).unwrap_err().message.contains("product"));
    let late = kit.update("sum", "add", 100);
    kit.raise("sum", "close", ());
    kit.crash();
    kit.run();
    assert_eq!((kit.output::<u32>("sum"), kit.answer::<u32>(&late)), (11, None), "it was closed before");
    assert_eq!(kit.query::<u32>("sum", "sum", ()), Ok(11), "also after the end");
    kit.history("sum").assert_in_order(&["request-received", "responded", "completed"]);
    assert!(message(|| drop(kit.update("sum", "add", 1))).contains("sum has ended"));
}

#[test]
fn a_recording_must_still_replay() {
    let golden = Path::new(env!("CARGO_TARGET_TMPDIR")).join(format!("golden-{}.dacapo", std::process::id()));
    let mut first = kit("greet-1");
    first.start("ada", "greet", "Ada");
    first.raise("ada", "go", ());
    first.run();
    assert_eq!(first.output::<String>("ada"), "version 1 greets Ada");
    first.save("ada", &golden);
    first.assert_replays(&golden);

    let mut second = kit("greet-2");
    let told = message(|| second.assert_replays(&golden));
    assert!(told.contains("diverged at event 4") && told.contains("version 1 greets Ada"), "{told}");
    assert!(told.contains("version 2 greets Ada"), "{told}");
    let _ = std::fs::remove_file(golden);
}

#[test]
fn mistakes_in_a_test_are_told() {
    let mut kit = kit("explored");
    kit.activity("desk.tick", |_| Ok(()));
    assert!(message(|| kit.start("a", "remembers", "Ada")).contains("it has at_once"));
    kit.start("a", "charge", 1);
    let told = message(|| kit.run());
    assert!(told.contains("a calls \"card.charge\"") && told.contains("it has desk.tick"), "{told}");
    assert!(message(|| kit.raise("b", "go", ())).contains("no instance \"b\""));
    assert!(message(|| drop(TestKit::open_with("/nowhere/dacapo", "."))).contains("cannot run /nowhere/dacapo"));
    assert!(message(|| drop(TestKit::open_with(dacapo(), "/nowhere"))).contains("/nowhere"));
    kit.start("w", "waits", ());
    kit.activity("card.charge", |_| Ok(()));
    assert!(
        message(|| {
            kit.output::<()>("w");
        })
        .contains("has not ended")
    );
}
