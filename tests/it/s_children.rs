//! Sub-orchestrations: S27, and S24 and S26 for instances that called others.

use dacapo::core::payload::FailureKind;
use dacapo::core::payload::Payload;
use dacapo::core::summary::{Status, Summary};
use dacapo::engine::fork::ForkRequest;
use serde_json::{Value, json};

use std::time::Duration;

use crate::harness::{Host, SECOND, World, id, sweep};
use dacapo::store::Store as _;

fn world() -> World {
    World::with(&["steps", "peers"])
}

/// The instances that `parent` called, as people see them.
fn children(host: &Host<'_>, parent: &str) -> Vec<String> {
    let view = dacapo::engine::view::instance(&**host.engine().store(), &id(parent), |_| None).unwrap();
    view.children.into_iter().map(|child| child.id.to_string()).collect()
}

fn status(host: &Host<'_>, instance: &str) -> Option<Status> {
    host.engine().summary(&id(instance)).unwrap().map(|summary| summary.status)
}

/// Waits until the row of an instance says that, or the host dies.
fn wait(host: &Host<'_>, instance: &str, probe: impl Fn(&Summary) -> bool) {
    let of = id(instance);
    host.wait_or_death(instance, |store| store.summary(&of).expect("a readable store").filter(&probe));
}

#[test]
fn s27_results_reach_the_parent_exactly_once_whenever_the_host_dies() {
    sweep(
        world,
        |host| {
            host.start("parent", "branches", json!(3))?;
            host.outcome("parent")?.expect("it returns");
            Ok(())
        },
        |_, host, death| {
            assert_eq!(host.output("parent"), json!(5), "{death:?}");
            assert_eq!(host.count("parent", "orchestration-scheduled"), 3, "{death:?}");
            assert_eq!(host.count("parent", "orchestration-completed"), 3, "{death:?}");
            host.assert_sound("parent");
            let called = children(host, "parent");
            assert_eq!(called.len(), 3);
            for child in called {
                assert_eq!(status(host, &child), Some(Status::Completed), "{death:?}");
                let summary = host.engine().summary(&id(&child)).unwrap().unwrap();
                assert_eq!(summary.execution, 1, "{death:?}: it ran once");
                host.assert_sound(&child);
            }
        },
    );
}

#[test]
fn s27_a_failure_reaches_the_parent_and_is_tried_again_as_it_says() {
    for (error_type, attempts) in [("Passing", 3), ("Final", 1)] {
        for restart in [false, true] {
            let world = world();
            let mut host = world.open();
            host.start("parent", "tries", json!(error_type)).unwrap();
            for failed in 1..attempts {
                host.wait_kind("parent", "orchestration-attempt-failed", failed);
                if restart {
                    drop(host);
                    host = world.open();
                }
                host.settle("parent");
                world.clock.advance(2 * SECOND);
            }
            assert_eq!(host.output("parent"), json!(error_type));
            let names = ["try", "try~2", "try~3"];
            assert_eq!(children(&host, "parent"), names[..attempts]);
            for child in &names[..attempts] {
                assert_eq!(status(&host, child), Some(Status::Failed));
                host.assert_sound(child);
            }
            host.assert_sound("parent");
        }
    }
}

#[test]
fn s27_what_happens_when_the_caller_ends_first_is_the_callers_word() {
    for anew in [false, true] {
        for restart in [false, true] {
            for policy in ["terminate", "cancel", "abandon"] {
                let world = world();
                let mut host = world.open();
                host.start("parent", "leaves", json!([policy, anew])).unwrap();
                host.wait_kind("parent", "event-awaited", 1);
                host.wait_summary("child", "the child", |_| true);
                if restart {
                    drop(host);
                    host = world.open();
                }
                host.raise("parent", "go", Value::Null).unwrap();
                if anew {
                    host.raise("parent", "end", Value::Null).unwrap();
                }
                assert_eq!(host.output("parent"), json!(if anew { 2 } else { 1 }), "{policy}");
                match policy {
                    "terminate" => assert_eq!(host.failure("child").kind, FailureKind::Terminated),
                    "cancel" => assert_eq!(host.output("child"), json!("its caller parent has ended")),
                    _ => {
                        host.wait_summary("parent", "that it goes on", |summary| summary.outbox.is_empty());
                        assert_eq!(status(&host, "child"), Some(Status::Running));
                        host.wait_kind("child", "timer-scheduled", 1);
                        host.settle("child");
                        world.clock.advance(1_000 * SECOND);
                        assert_eq!(host.output("child"), json!("nobody asked"));
                    }
                }
                host.assert_sound("parent");
                host.assert_sound("child");
            }
        }
    }
}

#[test]
fn s24_terminating_a_parent_ends_what_it_called_also_when_the_host_dies() {
    sweep(
        world,
        |host| {
            host.start("parent", "leaves", json!(["terminate", false]))?;
            if status(host, "parent") == Some(Status::Running) {
                wait(host, "parent", |summary| summary.has_running_call());
                host.block_on(host.engine().terminate(&id("parent"), "enough"))?;
            }
            Ok(())
        },
        |_, host, death| {
            assert_eq!(host.failure("parent").kind, FailureKind::Terminated, "{death:?}");
            // It may have been ended before it was begun; then it never will be.
            if status(host, "child").is_some() {
                assert_eq!(host.failure("child").message, "its caller parent has ended", "{death:?}");
                host.assert_sound("child");
            }
            host.assert_sound("parent");
        },
    );
}

#[test]
fn s21_letting_go_of_a_call_asks_the_called_one_to_end() {
    for restart in [false, true] {
        let world = world();
        world.desk.hold("step.keep_text");
        let mut host = world.open();
        host.start("parent", "leaves", json!(["drop", false])).unwrap();
        host.wait_summary("child", "the child", |_| true);
        host.raise("parent", "go", Value::Null).unwrap();
        let held = world.desk.next("step.keep_text");
        if restart {
            drop(host);
            host = world.open();
            world.desk.next("step.keep_text").go_on();
        } else {
            held.go_on();
        }
        assert_eq!(host.output("child"), json!("its caller parent no longer waits for it"));
        assert_eq!(host.count("child", "caller-left"), 1, "asked once");
        host.raise("parent", "end", Value::Null).unwrap();
        assert_eq!(host.output("parent"), json!(1));
        assert_eq!(host.count("parent", "orchestration-completed"), 0, "the late result is nothing");
        host.assert_sound("parent");
        host.assert_sound("child");
    }
}

#[test]
fn s27_one_that_is_let_go_on_by_itself_runs_whatever_dies() {
    sweep(
        world,
        |host| {
            host.start("parent", "fires", Value::Null)?;
            host.outcome("parent")?.expect("it returns");
            wait(host, "parent", |summary| summary.outbox.is_empty());
            host.outcome("child")?.expect("it returns");
            Ok(())
        },
        |_, host, death| {
            assert_eq!(host.output("child"), json!(25), "{death:?}");
            let executions = host.engine().summary(&id("child")).unwrap().unwrap().execution;
            assert_eq!(executions, 1, "{death:?}");
            host.assert_sound("parent");
            host.assert_sound("child");
        },
    );
}

#[test]
fn s17_a_call_that_takes_too_long_fails_and_the_called_one_is_asked_to_end() {
    for restart in [false, true] {
        let world = world();
        let mut host = world.open();
        host.start("parent", "hurries", json!(5_000)).unwrap();
        host.wait_kind("child", "timer-scheduled", 1);
        if restart {
            drop(host);
            host = world.open();
        }
        host.settle("parent");
        world.clock.advance(5 * SECOND);
        assert_eq!(host.output("parent"), json!("timed-out schedule-to-close"));
        assert_eq!(host.output("child"), json!("its caller parent no longer waits for it"));
        host.assert_sound("parent");
        host.assert_sound("child");
    }
}

#[test]
fn s27_names_modules_and_taken_ids_are_as_the_call_says() {
    let world = world();
    let host = world.open();
    let call = |parent: &str, name: &str, module: Option<&str>, reuse: &str| {
        host.run(parent, "calls_by_name", json!([name, module, reuse]))
    };
    assert_eq!(call("p1", "nothing", None, "reject"), json!("not-found UnknownOrchestration"));
    assert_eq!(call("p2", "leaf", Some("nowhere"), "reject"), json!("not-found UnknownModule"));
    assert_eq!(call("p3", "returns", Some("steps"), "reject"), json!("\"xxx\""));
    assert_eq!(call("p4", "returns", Some("steps"), "reject"), json!("application AlreadyExists"));
    assert_eq!(call("p5", "returns", Some("steps"), "return-existing"), json!("\"xxx\""));
    assert_eq!(call("p6", "leaf", None, "return-existing"), json!("application OtherOrchestration"));
    assert_eq!(call("p7", "leaf", None, "replace-finished"), json!("9"));
    assert_eq!(call("p8", "leaf", None, "terminate-and-replace"), json!("9"));
    assert_eq!(host.engine().summary(&id("child")).unwrap().unwrap().execution, 3);
    for n in 1..=8 {
        host.assert_sound(&format!("p{n}"));
    }
}

#[test]
fn s24_terminating_a_parent_does_to_what_it_called_what_the_call_says() {
    for policy in ["terminate", "cancel", "abandon"] {
        for restart in [false, true] {
            let world = world();
            let mut host = world.open();
            host.start("parent", "leaves", json!([policy, false])).unwrap();
            host.wait_kind("child", "timer-scheduled", 1);
            host.block_on(host.engine().terminate(&id("parent"), "enough")).unwrap();
            if restart {
                drop(host);
                host = world.open();
            }
            assert_eq!(host.failure("parent").kind, FailureKind::Terminated);
            match policy {
                "terminate" => assert_eq!(host.failure("child").kind, FailureKind::Terminated),
                "cancel" => assert_eq!(host.output("child"), json!("its caller parent has ended")),
                _ => {
                    host.wait_summary("parent", "that it goes on", |summary| summary.outbox.is_empty());
                    host.settle("child");
                    world.clock.advance(1_000 * SECOND);
                    assert_eq!(host.output("child"), json!("nobody asked"));
                }
            }
            host.assert_sound("parent");
            host.assert_sound("child");
        }
    }
}

#[test]
fn s24_a_call_that_was_let_go_before_its_caller_ended_is_asked_to_end_whenever_the_host_dies() {
    for anew in [false, true] {
        sweep(
            world,
            |host| {
                host.start("parent", "leaves", json!(["let-go", anew]))?;
                wait(host, "child", |_| true);
                let row = host.engine().summary(&id("parent"))?.expect("its row");
                if row.execution == 1 && !row.status.is_final() {
                    host.raise("parent", "go", Value::Null)?;
                }
                host.outcome("child").map(drop)
            },
            |_, host, death| {
                assert_eq!(host.output("child"), json!("its caller parent no longer waits for it"), "{death:?}");
                host.assert_sound("parent");
                host.assert_sound("child");
            },
        );
    }
}

#[test]
fn s24_a_request_to_end_reaches_what_was_called_through_its_caller() {
    for restart in [false, true] {
        let world = world();
        let mut host = world.open();
        host.start("parent", "minds", Value::Null).unwrap();
        host.wait_kind("child", "timer-scheduled", 1);
        if restart {
            drop(host);
            host = world.open();
        }
        host.block_on(host.engine().cancel(&id("parent"), "enough")).unwrap();
        assert_eq!(host.output("parent"), json!("enough"));
        assert_eq!(host.output("child"), json!("its caller parent no longer waits for it"));
        host.assert_sound("parent");
        host.assert_sound("child");
    }
}

/// The parent is evicted meanwhile, and the called one is in its fourth execution.
#[test]
fn s26_s27_the_last_execution_of_a_called_one_answers_a_caller_that_was_evicted() {
    for restart in [false, true] {
        let mut world = world();
        world.settings.evict_after = Duration::from_secs(10);
        let mut host = world.open();
        host.start("parent", "calls_pages", json!({ "wanted": 3, "page": 1 })).unwrap();
        host.wait_kind("child", "event-awaited", 1);
        world.clock.advance(60 * SECOND);
        host.settle("parent");
        host.settle("child");
        for value in 1..=3 {
            host.raise("child", "item", json!(value)).unwrap();
            if restart {
                drop(host);
                host = world.open();
            }
        }
        assert_eq!(host.output("parent"), json!([1, 2, 3]));
        assert_eq!(host.engine().summary(&id("child")).unwrap().unwrap().execution, 4);
        host.assert_sound("parent");
        host.assert_sound("child");
    }
}

#[test]
fn s29_what_its_caller_still_waits_for_is_not_purged() {
    let world = world();
    let host = world.open();
    host.start("parent", "tries", json!("Passing")).unwrap();
    host.wait_kind("parent", "orchestration-attempt-failed", 1);
    let refused = host.engine().purge(&id("try")).unwrap_err();
    assert!(refused.to_string().contains("another instance has not heard of it yet"), "{refused}");
    for failed in 2..=3 {
        host.settle("parent");
        world.clock.advance(2 * SECOND);
        if failed < 3 {
            host.wait_kind("parent", "orchestration-attempt-failed", failed);
        }
    }
    host.output("parent");
    host.engine().purge(&id("try")).unwrap();
    host.assert_sound("parent");
}

#[test]
fn forks_change_what_a_called_one_returned_and_never_share_one_that_runs() {
    let world = world();
    let host = world.open();
    assert_eq!(host.run("parent", "branches", json!(1)), json!(0));
    let at = |kind: &str| host.kinds("parent").iter().position(|found| *found == kind).unwrap() as u32 + 1;
    let fork = |at: u32, to: &str, edit: Option<&str>| {
        let edit = edit.map(|json| Ok(Payload::json(json.to_owned())));
        host.block_on(host.engine().fork(ForkRequest {
            from: id("parent"),
            execution: None,
            at,
            edit,
            id: id(to),
            module: None,
        }))
    };
    fork(at("orchestration-completed"), "richer", Some("100")).unwrap();
    assert_eq!(host.output("richer"), json!(100));
    let refused = fork(at("orchestration-scheduled"), "shared", None).unwrap_err();
    assert!(refused.to_string().contains("which belongs to parent; fork before it was called"), "{refused}");
    host.assert_sound("richer");
}

#[test]
fn s27_an_interceptor_is_around_calls_of_orchestrations_whenever_the_host_dies() {
    sweep(
        world,
        |host| {
            host.start("parent", "calls_through", json!(2))?;
            host.outcome("parent")?.expect("it returns");
            Ok(())
        },
        |_, host, death| {
            assert_eq!(host.output("parent"), json!([10, "application NotAllowed"]), "{death:?}: (2 + 1)^2 + 1");
            assert_eq!(host.count("parent", "orchestration-scheduled"), 1, "{death:?}: refused before it is asked for");
            host.assert_sound("parent");
        },
    );
}
