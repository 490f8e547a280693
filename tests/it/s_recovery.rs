//! A host that begins with many instances that were running: S06, S37.

use dacapo::core::summary::Status;
use serde_json::{Value, json};

use crate::harness::{World, id};

/// More than a worker recovers between two looks at what comes in.
const MANY: usize = 400;

#[test]
fn s06_what_is_asked_for_while_others_are_recovered_finds_its_instance_recovered() {
    let world = World::with(&["tasks"]);
    let host = world.open();
    let name = |n: usize| format!("order-{n:03}");
    let call = json!({ "name": "printer.print" });
    let (enough, terminated, rest) = (MANY - 20..MANY, MANY - 40..MANY - 20, 0..MANY - 40);
    let resumed = MANY - 60..MANY - 40;
    for n in 0..MANY {
        host.start(&name(n), "call_until", call.clone()).unwrap();
    }
    (0..MANY).for_each(|n| host.wait_kind(&name(n), "activity-scheduled", 1));
    for n in resumed.clone() {
        host.block_on(host.engine().suspend(&id(&name(n)), "later")).unwrap();
    }
    drop(host);

    let host = world.open();
    // From the last one on: none of these has had its turn by itself.
    for n in enough.clone().rev() {
        host.raise(&name(n), "enough", Value::Null).unwrap();
    }
    for n in terminated.clone().rev() {
        host.block_on(host.engine().terminate(&id(&name(n)), "no more")).unwrap();
    }
    for n in resumed.rev() {
        host.block_on(host.engine().resume(&id(&name(n)), "now")).unwrap();
    }
    host.start("new", "call_until", call).unwrap();
    enough.clone().for_each(|n| assert_eq!(host.output(&name(n)), "enough"));
    host.serve("printer.print", None);
    rest.clone().for_each(|n| assert_eq!(host.output(&name(n)), "printer.print(x)"));
    assert_eq!(host.output("new"), "printer.print(x)");
    for n in terminated.clone() {
        assert_eq!(host.wait_summary(&name(n), "the end", |row| row.status.is_final()).status, Status::Terminated);
    }
    // Each of the others once, those that have ended never.
    assert_eq!(world.desk.calls().len(), rest.len() + 1);
    for n in [enough.start, terminated.start, rest.start, rest.end - 1] {
        host.assert_sound(&name(n));
    }
}

/// What a turn asks for that is not durable yet is not let out by the recovery of its instance.
#[test]
fn s06_a_turn_taken_before_its_instance_is_recovered_lets_nothing_out_before_its_commit() {
    let mut world = World::with(&["tasks"]);
    world.settings.activity_concurrency = 2 * MANY;
    let host = world.open();
    world.desk.hold("step.slow");
    let name = |n: usize| format!("order-{n:03}");
    for n in 0..MANY {
        host.start(&name(n), "call_both", json!({})).unwrap();
    }
    (0..MANY).for_each(|n| host.wait_kind(&name(n), "activity-scheduled", 1));
    drop(host);

    let host = world.open();
    let last = name(MANY - 1);
    let held: Vec<_> = std::thread::scope(|scope| {
        host.without_commits(|| {
            scope.spawn(|| host.raise(&last, "go", Value::Null).unwrap());
            let held = (0..MANY).map(|_| world.desk.next("step.slow")).collect();
            // All are recovered. The call that the event led to is in no commit.
            assert_eq!(world.desk.calls_of("step.keep").len(), 0, "a call that is not durable was made");
            held
        })
    });
    held.into_iter().for_each(|held| held.go_on());
    assert_eq!(host.output(&last), json!(["slow(x)", "y"]));
    assert_eq!(world.desk.calls_of("step.keep").len(), 1);
    host.assert_sound(&last);
}
