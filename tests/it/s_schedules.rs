//! Beginning by the calendar: S30.

use dacapo::core::ids::TimestampMs;
use dacapo::core::payload::Payload;
use dacapo::core::summary::Status;
use dacapo::engine::{StartRequest, view};
use dacapo::store::schedule::{Overlap, Schedule, ScheduleSpec, Timing};
use dacapo::store::{Filter, Store as _};
use serde_json::{Value, json};

use crate::harness::{DAY, Death, Host, NEW_YEAR, SECOND, World, id, start, sweep};

const HOUR: u64 = 3_600 * SECOND;

// ---- a start at a later date ----

fn later(instance: &str, after: u64) -> StartRequest {
    StartRequest { start_at: Some(TimestampMs(NEW_YEAR + after)), ..start(instance, "two_calls", json!("wine")) }
}

#[test]
fn s30_a_start_at_a_date_is_durable_at_once_and_begins_on_it() {
    let world = World::new();
    let host = world.open();
    host.try_start(later("order", DAY)).unwrap();
    host.settle("order");
    assert_eq!(host.kinds("order"), ["execution-started"]);
    let shown = view::instance(&**host.engine().store(), &id("order"), |_| None).unwrap();
    let pending = serde_json::to_value(&shown.pending).unwrap();
    assert_eq!(pending, json!([{ "kind": "start", "start_at": "2026-01-02T00:00:00.000Z" }]));
    assert_eq!(host.engine().resident_guests(), 0, "it costs no guest");
    world.clock.advance(DAY - 1);
    host.settle("order");
    assert_eq!(host.kinds("order"), ["execution-started"], "a millisecond too early");
    world.clock.advance(1);
    host.output("order");
    assert_eq!(host.kinds("order")[..3], ["execution-started", "timer-fired", "activity-scheduled"]);
    host.assert_sound("order");

    host.try_start(later("late", 0)).unwrap();
    host.output("late");
    assert_eq!(host.count("late", "timer-fired"), 0, "a date that has passed is now");
}

#[test]
fn s30_a_start_at_a_date_survives_restarts_and_begins_though_the_host_was_down_on_it() {
    let world = World::new();
    let host = world.open();
    for instance in ["order", "other"] {
        host.try_start(later(instance, DAY)).unwrap();
    }
    drop(host);
    world.clock.advance(DAY / 2);
    let host = world.open();
    host.settle("order");
    assert_eq!(host.kinds("order"), ["execution-started"]);
    drop(host);
    world.clock.advance(DAY);
    let host = world.open();
    for instance in ["order", "other"] {
        host.output(instance);
        host.assert_sound(instance);
    }
}

#[test]
fn s30_what_comes_before_the_date_is_kept_for_it() {
    let world = World::new();
    let host = world.open();
    let early = StartRequest {
        start_at: Some(TimestampMs(NEW_YEAR + DAY)),
        ..start("basket", "collects", json!({ "wanted": 2, "page": 9 }))
    };
    host.try_start(early).unwrap();
    host.raise("basket", "item", json!(1)).unwrap();
    drop(host);
    let host = world.open();
    host.raise("basket", "item", json!(2)).unwrap();
    host.settle("basket");
    assert_eq!(host.kinds("basket"), ["execution-started", "event-raised", "event-raised"], "nothing runs");
    world.clock.advance(DAY);
    assert_eq!(host.output("basket"), json!([1, 2]));
    host.assert_sound("basket");

    host.try_start(later("unwanted", 9 * DAY)).unwrap();
    host.block_on(host.engine().terminate(&id("unwanted"), "changed my mind")).unwrap();
    assert_eq!(host.kinds("unwanted"), ["execution-started", "terminated"]);
    world.clock.advance(9 * DAY);
    host.settle("unwanted");
    assert_eq!(host.kinds("unwanted"), ["execution-started", "terminated"]);
    host.assert_sound("unwanted");
}

#[test]
fn s30_a_start_at_a_date_runs_once_wherever_the_host_dies() {
    let commits = sweep(
        World::new,
        |host| {
            host.try_start(later("order", DAY))?;
            host.advance_to(NEW_YEAR + DAY);
            host.outcome("order")?.map(drop).map_err(|failure| panic!("{failure}"))
        },
        |_, host, death| {
            let due = host.events("order").iter().any(|event| event.kind() == "timer-fired");
            // A start that was not durable when the host died is asked for again, on the date.
            assert!(due || matches!(death, Some(Death::Before(1))), "{death:?}");
            assert_eq!(host.count("order", "completed"), 1, "{death:?}");
            host.assert_sound("order");
        },
    );
    assert!(commits >= 4, "{commits}");
}

// ---- schedules ----

fn every(interval_ms: u64, orchestration: &str, input: Value, overlap: Overlap) -> ScheduleSpec {
    ScheduleSpec {
        timing: Timing::Every { interval_ms },
        orchestration: orchestration.to_owned(),
        module: None,
        input: Payload::json(input.to_string()),
        tags: [("desk".to_owned(), "3".to_owned())].into(),
        overlap,
        catch_up_ms: DAY,
    }
}

/// The instances of a schedule, by id without its name.
fn started_by(host: &Host<'_>, name: &str) -> Vec<(String, Status)> {
    let filter = Filter { id_prefix: Some(format!("{name}/")), ..Filter::default() };
    let rows = host.engine().list(&filter, None, 1000).unwrap();
    let short = |id: &str| id.trim_start_matches(name)[1..].replace("2026-01-", "").replace(":00:00Z", "");
    rows.into_iter().map(|row| (short(row.instance.as_str()), row.status)).collect()
}

fn ids(host: &Host<'_>, name: &str) -> Vec<String> {
    started_by(host, name).into_iter().map(|(id, _)| id).collect()
}

/// Waits until everything due up to then is dealt with.
fn wait_handled(host: &Host<'_>, name: &str, until: u64) -> Schedule {
    host.wait_schedule(name, "the schedule to come on", |row| row.handled_until.0 >= NEW_YEAR + until)
}

#[test]
fn s30_a_schedule_starts_an_instance_at_each_time_and_after_restarts() {
    let world = World::new();
    let host = world.open();
    let spec = every(HOUR, "two_calls", json!("wine"), Overlap::Allow);
    let made = host.engine().put_schedule("hourly", spec).unwrap();
    let next = host.engine().next_times(&made, 2).unwrap();
    assert_eq!(next, [TimestampMs(NEW_YEAR + HOUR), TimestampMs(NEW_YEAR + 2 * HOUR)]);
    world.clock.advance(HOUR);
    wait_handled(&host, "hourly", HOUR);
    let first = "hourly/2026-01-01T01:00:00Z";
    host.output(first);
    let tags = host.engine().summary(&id(first)).unwrap().unwrap().tags;
    assert_eq!((&*tags["schedule"], &*tags["desk"]), ("hourly", "3"));
    assert_eq!(tags["scheduled_for"], "2026-01-01T01:00:00.000Z");
    host.assert_sound(first);
    drop(host);

    // Two more fell due while no host ran.
    world.clock.advance(2 * HOUR);
    let host = world.open();
    let row = wait_handled(&host, "hourly", 3 * HOUR);
    assert_eq!(ids(&host, "hourly"), ["01T01", "01T02", "01T03"]);
    assert_eq!((row.started, row.skipped, row.last_error), (3, 0, None));
    for (instance, _) in started_by(&host, "hourly") {
        let instance = format!("hourly/2026-01-{instance}:00:00Z");
        host.output(&instance);
        host.assert_sound(&instance);
    }
}

#[test]
fn s30_a_schedule_starts_each_time_once_wherever_the_host_dies() {
    for overlap in [Overlap::Allow, Overlap::TerminateOther] {
        let mut number = 0;
        let mut survived = false;
        while !survived {
            number += 1;
            for death in [Death::Before(number), Death::After(number)] {
                let world = World::new();
                let host = world.open_until(death);
                survived = hours(&world, &host, overlap).is_some();
                drop(host);
                let host = world.open();
                hours(&world, &host, overlap).expect("nothing dies");
                assert_eq!(ids(&host, "hourly"), ["01T01", "01T02", "01T03"], "{overlap:?} {death:?}");
                assert_eq!(host.engine().schedule("hourly").unwrap().started, 3, "{overlap:?} {death:?}");
                for hour in 1..=3 {
                    host.assert_sound(&format!("hourly/2026-01-01T0{hour}:00:00Z"));
                }
            }
        }
        assert!(number > 4, "{overlap:?}: only {number} writes");
    }
}

/// Three hours of a schedule, from wherever it is; none if the host dies in them.
fn hours(world: &World, host: &Host<'_>, overlap: Overlap) -> Option<()> {
    if host.engine().schedule("hourly").is_err() {
        host.engine().put_schedule("hourly", every(HOUR, "sleeps", json!(DAY), overlap)).ok()?;
    }
    world.clock.advance_to(NEW_YEAR + 3 * HOUR);
    host.wait_or_death("three hours", |store| {
        let row = store.schedules().expect("a readable store").pop()?;
        (row.handled_until.0 == NEW_YEAR + 3 * HOUR).then_some(())
    })
}

#[test]
fn s30_a_time_is_left_out_while_the_one_before_runs() {
    let world = World::new();
    let host = world.open();
    host.engine().put_schedule("one", every(HOUR, "sleeps", json!(90 * 60 * SECOND), Overlap::Skip)).unwrap();
    world.clock.advance(HOUR);
    wait_handled(&host, "one", HOUR);
    world.clock.advance(HOUR);
    let row = wait_handled(&host, "one", 2 * HOUR);
    assert_eq!((row.started, row.skipped), (1, 1));
    world.clock.advance(HOUR);
    host.output("one/2026-01-01T01:00:00Z");
    drop(host);
    world.clock.advance(HOUR);
    let host = world.open();
    wait_handled(&host, "one", 4 * HOUR);
    let ids = ids(&host, "one");
    assert!(ids.contains(&"01T04".to_owned()) && !ids.contains(&"01T02".to_owned()), "{ids:?}");
}

#[test]
fn s30_one_time_waits_until_the_one_before_has_ended() {
    let world = World::new();
    let host = world.open();
    host.engine().put_schedule("one", every(HOUR, "sleeps", json!(9 * DAY), Overlap::BufferOne)).unwrap();
    for hour in 1..=3 {
        world.clock.advance(HOUR);
        wait_handled(&host, "one", hour * HOUR);
    }
    let row = wait_handled(&host, "one", 3 * HOUR);
    assert_eq!((row.started, row.skipped, row.buffered), (1, 1, Some(TimestampMs(NEW_YEAR + 2 * HOUR))));
    drop(host);
    let host = world.open();
    assert_eq!(ids(&host, "one"), ["01T01"]);
    host.block_on(host.engine().terminate(&id("one/2026-01-01T01:00:00Z"), "enough")).unwrap();
    let row = host.wait_schedule("one", "the one that waited to start", |row| row.buffered.is_none());
    assert_eq!((row.started, row.last), (2, Some(id("one/2026-01-01T02:00:00Z"))));
    assert_eq!(ids(&host, "one"), ["01T01", "01T02"]);
}

#[test]
fn s30_the_one_before_is_ended() {
    let world = World::new();
    let host = world.open();
    host.engine().put_schedule("hard", every(HOUR, "sleeps", json!(9 * DAY), Overlap::TerminateOther)).unwrap();
    for hour in 1..=2 {
        world.clock.advance(HOUR);
        wait_handled(&host, "hard", hour * HOUR);
    }
    let hard = started_by(&host, "hard");
    assert_eq!(hard, [("01T01".to_owned(), Status::Terminated), ("01T02".to_owned(), Status::Running)]);
    host.assert_sound("hard/2026-01-01T01:00:00Z");
}

#[test]
fn s30_the_one_before_is_asked_to_end_and_the_other_follows_it() {
    const MINUTES: u64 = 10 * 60 * SECOND;
    let world = World::new();
    let host = world.open();
    host.engine().put_schedule("soft", every(MINUTES, "obeys", Value::Null, Overlap::CancelOther)).unwrap();
    world.desk.hold("step.one");
    for time in 1..=2 {
        world.clock.advance(MINUTES);
        wait_handled(&host, "soft", time * MINUTES);
    }
    let row = host.engine().schedule("soft").unwrap();
    assert_eq!((row.started, row.buffered), (1, Some(TimestampMs(NEW_YEAR + 2 * MINUTES))), "it cleans up");
    world.desk.next("step.one").go_on();
    let row = host.wait_schedule("soft", "the other to start", |row| row.buffered.is_none());
    assert_eq!((row.started, row.last), (2, Some(id("soft/2026-01-01T00:20:00Z"))));
    assert_eq!(host.count("soft/2026-01-01T00:10:00Z", "cancel-requested"), 1);
    host.assert_sound("soft/2026-01-01T00:10:00Z");
}

#[test]
fn s30_what_was_due_before_the_window_is_left_out() {
    let world = World::new();
    let host = world.open();
    let spec = ScheduleSpec { catch_up_ms: 2 * HOUR, ..every(HOUR, "two_calls", json!("wine"), Overlap::Allow) };
    host.engine().put_schedule("hourly", spec).unwrap();
    drop(host);
    world.clock.advance(9 * HOUR + HOUR / 2);
    let host = world.open();
    wait_handled(&host, "hourly", 9 * HOUR);
    assert_eq!(ids(&host, "hourly"), ["01T08", "01T09"]);
}

#[test]
fn s30_a_paused_schedule_leaves_out_what_comes_due_and_can_be_triggered() {
    let world = World::new();
    let host = world.open();
    host.engine().put_schedule("hourly", every(HOUR, "two_calls", json!("wine"), Overlap::Allow)).unwrap();
    host.engine().pause_schedule("hourly", "holidays").unwrap();
    world.clock.advance(2 * HOUR + HOUR / 2);
    drop(host);
    let host = world.open();
    assert_eq!(host.engine().schedule("hourly").unwrap().paused.as_deref(), Some("holidays"));
    let triggered = host.engine().trigger_schedule("hourly").unwrap();
    assert_eq!(triggered.as_str(), "hourly/now-2026-01-01T02:30:00Z");
    host.output(triggered.as_str());
    host.engine().unpause_schedule("hourly").unwrap();
    world.clock.advance(HOUR);
    wait_handled(&host, "hourly", 3 * HOUR);
    assert_eq!(ids(&host, "hourly"), ["01T03", "now-01T02:30:00Z"], "what was due at one and two is left out");
}

#[test]
fn s30_a_schedule_is_changed_and_forgotten() {
    let world = World::new();
    let host = world.open();
    let spec = every(HOUR, "two_calls", json!("wine"), Overlap::Allow);
    host.engine().put_schedule("hourly", spec.clone()).unwrap();
    world.clock.advance(HOUR);
    wait_handled(&host, "hourly", HOUR);
    // Another input does not move its times, another timing counts from now.
    let other = ScheduleSpec { input: Payload::json("\"beer\""), ..spec.clone() };
    let changed = host.engine().put_schedule("hourly", other).unwrap();
    assert_eq!(host.engine().next_times(&changed, 1).unwrap(), [TimestampMs(NEW_YEAR + 2 * HOUR)]);
    world.clock.advance(HOUR / 2);
    let faster = ScheduleSpec { timing: Timing::Every { interval_ms: HOUR / 2 }, ..spec };
    let changed = host.engine().put_schedule("hourly", faster).unwrap();
    assert_eq!(host.engine().next_times(&changed, 1).unwrap(), [TimestampMs(NEW_YEAR + 2 * HOUR)]);
    assert_eq!(changed.started, 1);

    host.engine().delete_schedule("hourly").unwrap();
    let unknown = host.engine().schedule("hourly").unwrap_err();
    assert_eq!(
        (unknown.code(), &*unknown.to_string()),
        ("unknown-schedule", "unknown schedule \"hourly\"; there are no schedules yet")
    );
    world.clock.advance(DAY);
    drop(host);
    let host = world.open();
    assert!(host.engine().list_schedules().is_empty());
    assert_eq!(ids(&host, "hourly"), ["01T01"]);
}

#[test]
fn s30_a_schedule_that_cannot_work_is_refused_and_one_that_no_longer_does_says_so() {
    let world = World::new();
    let host = world.open();
    let spec = every(HOUR, "two_calls", json!("wine"), Overlap::Allow);
    let refused = |name: &str, spec: ScheduleSpec| host.engine().put_schedule(name, spec).unwrap_err();
    assert_eq!(refused("a/b", spec.clone()).code(), "invalid-input");
    let unknown = ScheduleSpec { orchestration: "three_calls".to_owned(), ..spec.clone() };
    assert_eq!(refused("x", unknown).code(), "unknown-orchestration");
    let never = Timing::Cron { expression: "0 0 31 2 *".to_owned(), time_zone: "UTC".to_owned() };
    assert!(refused("x", ScheduleSpec { timing: never, ..spec.clone() }).to_string().contains("never comes due"));
    let hasty = ScheduleSpec { catch_up_ms: 0, ..spec.clone() };
    assert!(refused("x", hasty).to_string().contains("at least 1000"));
    let huge = ScheduleSpec { input: Payload::json(format!("\"{}\"", "x".repeat(3 << 20))), ..spec.clone() };
    assert_eq!(refused("x", huge).code(), "too-large");

    // Another module offers the same orchestration from now on: which one is meant?
    host.engine().put_schedule("hourly", spec).unwrap();
    host.upload("steps-too", None, &crate::guests::guest("greet-1")).unwrap();
    let other = crate::guests::guest("steps");
    host.upload("other-steps", None, &[&*other, &custom_section()].concat()).unwrap();
    world.clock.advance(HOUR);
    let row = host.wait_schedule("hourly", "its error", |row| row.last_error.is_some());
    assert!(row.last_error.unwrap().contains("say which with --module"));
    assert_eq!(row.started, 0);
}

/// Makes another module of the same code.
fn custom_section() -> [u8; 4] {
    [0, 2, 1, b'x']
}

#[test]
fn s30_a_schedule_follows_the_civil_time_of_its_zone_when_clocks_change() {
    let world = World::new();
    let host = world.open();
    let berlin = Timing::Cron { expression: "30 2 * * *".to_owned(), time_zone: "Europe/Berlin".to_owned() };
    let spec = ScheduleSpec {
        timing: berlin,
        catch_up_ms: 9 * DAY,
        ..every(HOUR, "two_calls", json!("wine"), Overlap::Allow)
    };
    host.engine().put_schedule("nightly", spec).unwrap();
    // 2026-03-28T00:00Z to 2026-03-30T12:00Z; clocks go from 02:00 to 03:00 on the 29th.
    let spring = 1_774_656_000_000;
    for (from, hours, expected) in [
        (spring, 60, vec!["03-28T01:30:00Z", "03-29T01:00:00Z", "03-30T00:30:00Z"]),
        // 2026-10-24T00:00Z on: from 03:00 to 02:00 on the 25th.
        (1_792_800_000_000, 60, vec!["10-24T00:30:00Z", "10-25T00:30:00Z", "10-26T01:30:00Z"]),
    ] {
        host.engine().pause_schedule("nightly", "until then").unwrap();
        world.clock.advance_to(from);
        host.engine().unpause_schedule("nightly").unwrap();
        for hour in 1..=hours {
            world.clock.advance_to(from + hour * HOUR);
        }
        let last = format!("nightly/2026-{}", expected[2]);
        host.wait_summary(&last, "the last night", |_| true);
        let filter = Filter { id_prefix: Some(format!("nightly/2026-{}", &expected[0][..3])), ..Filter::default() };
        let rows = host.engine().list(&filter, None, 100).unwrap();
        let found: Vec<_> = rows.iter().map(|row| row.instance.as_str()["nightly/2026-".len()..].to_owned()).collect();
        assert_eq!(found, expected);
    }
}
