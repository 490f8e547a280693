//! Very many instances: what they take while they wait, and that none is lost.

use std::time::{Duration, Instant};

use serde_json::{Value, json};

use super::machine::{Machine, Opened, all, serve_say};
use super::{Measured, Settings, process};
use crate::core::ids::InstanceId;
use crate::store::{Filter, Store as _};

const DAY_MS: u64 = 24 * 3600 * 1000;
const STARTS_IN_FLIGHT: usize = 512;

/// The same where the memory of those started is counted, and not what starting them takes.
const FEW_STARTS_IN_FLIGHT: usize = 16;

/// Memory of a guest that waits.
pub(super) async fn resident(settings: &Settings) -> anyhow::Result<Measured> {
    let guests = settings.scaled(2_400);
    // Far more may be there than are, so that workers need not share them evenly.
    let mut opened = Opened::default();
    opened.settings.sandbox.resident_guests = 4 * guests.max(1_000);
    let machine = Machine::open_with(settings, "resident", opened)?;
    // With the first ones come what is left of compiling, pools, and the room of the allocator.
    let first = (guests / 3).max(1);
    let waiters = |name, guests| start_many(&machine, name, "waiter", json!(null), guests, FEW_STARTS_IN_FLIGHT);
    waiters("warm", first).await?;
    machine.settled(first, 0).await?;
    let before = process::resident_bytes()?;
    waiters("waiter", guests).await?;
    machine.settled(first + guests, 0).await?;
    let each = (process::resident_bytes()? - before) / f64::from(guests);
    let floor = json!({ "what": "pages of linear memory that a Rust guest touches", "bytes": 16 * 1024 });
    let detail = json!({ "guests": guests, "resident_guests": machine.engine.resident_guests() });
    Ok(Measured::at_most("resident", "bytes_per_guest", each, 40.0 * 1024.0, floor, detail))
}

/// Starts instances `name-0` and so on, so many at a time.
async fn start_many(
    machine: &Machine,
    name: &str,
    orchestration: &str,
    input: Value,
    instances: u32,
    in_flight: usize,
) -> anyhow::Result<()> {
    let input = &input;
    let start = |n: u32| async move { machine.start(&format!("{name}-{n}"), orchestration, input).await.map(drop) };
    all((0..instances).map(start), in_flight).await
}

/// Memory of an instance that sleeps.
pub(super) async fn sleeping(settings: &Settings) -> anyhow::Result<Measured> {
    let sleepers = settings.scaled(1_000_000);
    // The file's pages in memory are bounded, and no matter of how many sleep.
    let machine =
        Machine::open_with(settings, "sleeping", Opened { cache_bytes: Some(32 << 20), ..Opened::default() })?;
    // Pools and caches have their size before it is measured, and so have the turns that
    // wait to be folded. With these it is told beside.
    let (empty, first) = (process::resident_bytes()?, 200_000.min(sleepers));
    sleep_for(&machine, "warm", first, 30 * DAY_MS).await?;
    let before = process::resident_bytes()?;
    sleep_for(&machine, "sleeper", sleepers, 30 * DAY_MS).await?;
    let after = process::resident_bytes()?;
    let each = (after - before) / f64::from(sleepers);
    let with_pools = (after - empty) / f64::from(first + sleepers);
    let floor = json!({ "what": "its id and its due time", "bytes": 24 });
    let detail = json!({
        "sleepers": sleepers,
        "guests_in_memory": machine.engine.resident_guests(),
        "bytes_per_sleeper_with_pools_and_caches": with_pools,
    });
    Ok(Measured::at_most("sleeping", "bytes_per_sleeper", each, 300.0, floor, detail))
}

/// All sleepers are due at once.
pub(super) async fn due(settings: &Settings) -> anyhow::Result<Measured> {
    let sleepers = settings.scaled(100_000);
    let machine = Machine::open(settings, "due")?;
    sleep_for(&machine, "sleeper", sleepers, DAY_MS).await?;
    let (clock, cpu) = (Instant::now(), process::cpu_us());
    machine.clock.set_ahead(Duration::from_millis(2 * DAY_MS));
    let ended = |n: u32| {
        let machine = &machine;
        async move { machine.ends_with(&InstanceId::new(&format!("sleeper-{n}"))?, &json!(null)).await }
    };
    all((0..sleepers).map(ended), 10_000).await?;
    let (seconds, cpu) = (clock.elapsed().as_secs_f64(), process::cpu_us() - cpu);
    let floor = json!({ "what": "nothing" });
    let detail = json!({ "sleepers": sleepers, "seconds": seconds, "cpu_us_each": cpu / f64::from(sleepers) });
    Ok(Measured::at_least("due", "woken_per_s", f64::from(sleepers) / seconds, 10_000.0, floor, detail))
}

/// Starts so many more that sleep, and waits until they do.
async fn sleep_for(machine: &Machine, name: &str, sleepers: u32, ms: u64) -> anyhow::Result<()> {
    let asleep = machine.engine.timers().0 + u64::from(sleepers);
    start_many(machine, name, "sleeper", json!(ms), sleepers, STARTS_IN_FLIGHT).await?;
    machine.settled(0, asleep).await
}

/// How long a host that is opened takes until it takes work.
pub(super) async fn restart(settings: &Settings) -> anyhow::Result<Measured> {
    let running = settings.scaled(100_000);
    let without = || Opened { without_activities: true, ..Opened::default() };
    let machine = Machine::open_with(settings, "restart", without())?;
    // Nobody serves their activity: all of them are in their first call.
    start_many(&machine, "hello", "hello5", json!("Ada"), running, STARTS_IN_FLIGHT).await?;
    while machine.store.list(&Filter::default(), None, running as usize)?.iter().any(|row| row.untold) {
        tokio::time::sleep(Duration::from_millis(10)).await;
    }
    machine.close()?;

    let clock = Instant::now();
    let machine = Machine::open_with(settings, "restart", without())?;
    let opened = clock.elapsed().as_secs_f64();
    machine.start("first", "waiter", &json!(null)).await?;
    let accepting = clock.elapsed().as_secs_f64();
    serve_say(&machine.engine);
    let outcome = |n: u32| {
        let machine = &machine;
        async move { machine.ends_with(&InstanceId::new(&format!("hello-{n}"))?, &json!("Ada")).await }
    };
    all((0..running).map(outcome), 10_000).await?;
    let all_done = clock.elapsed().as_secs_f64();
    let detail = json!({
        "running": running,
        "open_s": opened,
        "resumed": running,
        "all_ended_s": all_done,
    });
    let floor = json!({ "what": "nothing" });
    Ok(Measured::at_most("restart", "accepting_after_s", accepting, 1.0, floor, detail))
}
