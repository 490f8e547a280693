//! Histories: how fast they are run again, and what they take on disk.

use std::time::Instant;

use serde_json::{Value, json};

use super::disk::Watch;
use super::machine::{Machine, Opened, fresh, median};
use super::steps::run_hello5;
use super::{Measured, Settings, floor};
use crate::core::ids::InstanceId;
use crate::core::payload::Payload;
use crate::engine::EngineSettings;
use crate::replay::{Unwatched, replay as run_again};

/// Events per second.
pub(super) async fn replay(settings: &Settings) -> anyhow::Result<Measured> {
    let steps = settings.scaled(50_000);
    let machine = Machine::open(settings, "replay")?;
    machine.run("long", "sequence", json!(steps), json!(steps)).await?;
    machine.run("wide", "rounds", json!([steps, 10]), json!(null)).await?;
    let module = machine.engine.modules().resolve("sequence", None)?;
    let module = machine.engine.modules().load(module.hash)?;
    let measure = |id: &str| -> anyhow::Result<(f64, u32, f64)> {
        let records = machine.engine.history(&InstanceId::new(id)?, None)?.decode()?;
        let clock = Instant::now();
        let replayed = run_again(&module, &records, &mut Unwatched);
        let seconds = clock.elapsed().as_secs_f64();
        anyhow::ensure!(replayed.matched(), "the replay differs: {replayed:?}");
        Ok((f64::from(replayed.events) / seconds, replayed.events, floor::decode_rate(&records)))
    };
    let (rate, events, decode) = measure("long")?;
    let (wide_rate, wide_events, wide_decode) = measure("wide")?;
    let floor = json!({
        "what": "decoding and hashing the same turns, no guest",
        "events_per_s": decode,
        "ten_calls_a_turn_events_per_s": wide_decode,
    });
    let detail = json!({
        "events": events,
        "ten_calls_a_turn": { "events": wide_events, "events_per_s": wide_rate },
    });
    Ok(Measured::at_least("replay", "events_per_s", rate, 1_000_000.0, floor, detail))
}

/// From an event for an instance that is not in memory to its durable end, beyond
/// what that takes where the guest is in memory.
pub(super) async fn wake(settings: &Settings) -> anyhow::Result<Measured> {
    // (calls a round, rounds, instances)
    let sizes = [
        (1_u32, 4_u32, 200_u32),
        (1, settings.scaled(5_000), 5),
        (10, settings.scaled(5_000), 3),
        (10, settings.scaled(50_000), 3),
    ];
    let opened = || Opened {
        settings: EngineSettings { evict_after: std::time::Duration::from_secs(3600), ..EngineSettings::default() },
        ..Opened::default()
    };
    let mut times = serde_json::Map::new();
    let mut smallest = None;
    for (width, rounds, instances) in sizes {
        let name = format!("wake-{width}-{rounds}");
        let machine = Machine::open_with(settings, &name, opened())?;
        let mut events = 0;
        for kind in ["warm", "cold"] {
            for n in 0..instances {
                machine.start(&format!("{kind}-{n}"), "rounds_then_waits", &json!([rounds, width])).await?;
            }
            for n in 0..instances {
                events = waits(&machine, &format!("{kind}-{n}")).await?;
            }
            machine.engine.settle_snapshots();
        }
        let warm = raised(&machine, "warm", instances).await?;
        machine.close()?;
        let machine = Machine::open_with(settings, &name, opened())?;
        // Loaded for the first of them; that is no part of a wake.
        machine.start("first", "rounds_then_waits", &json!([1, 1])).await?;
        waits(&machine, "first").await?;
        let cold = raised(&machine, "cold", instances).await?;
        let restored = machine.engine.restored_guests();
        machine.close()?;
        let wake_us = cold - warm;
        smallest.get_or_insert((wake_us, warm));
        times.insert(
            events.to_string(),
            json!({ "wake_us": wake_us, "resident_us": warm, "calls_a_turn": width, "from_snapshots": restored }),
        );
    }
    let (wake_us, warm) = smallest.expect("there are sizes");
    let floor = json!({ "what": "the same with the guest in memory", "us": warm });
    Ok(Measured::at_most("wake", "us_with_ten_events", wake_us, 150.0, floor, Value::Object(times)))
}

/// Waits until the instance waits for its event; its events so far.
async fn waits(machine: &Machine, id: &str) -> anyhow::Result<u32> {
    let id = InstanceId::new(id)?;
    loop {
        let summary = machine.engine.summary(&id)?.ok_or_else(|| anyhow::anyhow!("there is no {id}"))?;
        if summary.custom_status.as_ref().is_some_and(|status| status.to_json() == Some(json!("waits"))) {
            return Ok(summary.events);
        }
        tokio::time::sleep(std::time::Duration::from_millis(1)).await;
    }
}

/// Microseconds from the event to the end, in the middle of all.
async fn raised(machine: &Machine, kind: &str, instances: u32) -> anyhow::Result<f64> {
    let mut times = Vec::new();
    for n in 0..instances {
        let id = InstanceId::new(&format!("{kind}-{n}"))?;
        let clock = Instant::now();
        machine.engine.raise(&id, "go", Payload::null()).await?;
        machine.ends_with(&id, &json!(null)).await?;
        times.push(clock.elapsed().as_secs_f64() * 1e6);
    }
    Ok(median(&mut times))
}

/// Bytes on disk per byte of events and payloads.
pub(super) async fn storage(settings: &Settings) -> anyhow::Result<Measured> {
    let instances = settings.scaled(20_000);
    let watch = Watch::default();
    let opened = Opened { watch: Some(watch.clone()), ..Opened::default() };
    let machine = Machine::open_with(settings, "storage", opened)?;
    let before_run = watch.written();
    let ran = run_hello5(&machine, instances).await?;
    let (mut events, mut after) = (0, None);
    loop {
        let ids = machine.store_ids(after.as_ref())?;
        let Some(last) = ids.last().cloned() else { break };
        for id in ids {
            events += machine.engine.history(&id, None)?.turns.iter().map(|turn| turn.len() as u64).sum::<u64>();
        }
        after = Some(last);
    }
    let before = machine.file_bytes()?;
    let file = machine.folder.join("journal.redb");
    // Folds what is in the log only.
    machine.close()?;
    let written = (watch.written() - before_run) as f64;
    let mut database = redb::Database::open(&file)?;
    while database.compact()? {}
    drop(database);
    let after = std::fs::metadata(&file)?.len();
    let bare = floor::log_append(&fresh(&settings.folder.join("floor.log"))?, &ran.log)?;
    let floor = json!({ "what": "a file with the same log rows alone", "file_bytes": bare.file_bytes });
    let detail = json!({
        "event_bytes": events,
        "file_bytes_before_compaction": before,
        "file_bytes": after,
        "written_bytes": written,
        "written_per_event_byte": written / events as f64,
    });
    Ok(Measured::at_most("storage", "file_to_event_bytes", after as f64 / events as f64, 1.6, floor, detail))
}
