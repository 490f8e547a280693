//! How long a start takes while others run.

use std::time::{Duration, Instant};

use serde_json::json;
use tokio::sync::mpsc;

use super::machine::{Machine, percentile};
use super::steps::run_hello5;
use super::{Measured, Settings};

/// The slowest hundredth of starts in the median, at half of the load that the
/// machine carries: each is sent when it is due, however long others take.
pub(super) async fn starts(settings: &Settings) -> anyhow::Result<Measured> {
    let machine = Machine::open(settings, "latency")?;
    let most = run_hello5(&machine, settings.scaled(10_000)).await?;
    let rate = most.steps_per_s() / 5.0 / 2.0;
    let starts = settings.scaled((rate * 5.0) as u32);
    let (sender, mut times) = mpsc::unbounded_channel();
    let (clock, machine) = (Instant::now(), std::sync::Arc::new(machine));
    for n in 0..starts {
        let due = clock + Duration::from_secs_f64(f64::from(n) / rate);
        tokio::time::sleep_until(due.into()).await;
        let (machine, sender) = (machine.clone(), sender.clone());
        tokio::spawn(async move {
            let started = machine.start(&format!("start-{n}"), "hello5", &json!("Ada")).await;
            // From when it was due: what waits because others are slow counts.
            let _ = sender.send(started.map(|_| due.elapsed().as_secs_f64() * 1e6));
        });
    }
    drop(sender);
    let mut all = Vec::with_capacity(starts as usize);
    while let Some(time) = times.recv().await {
        all.push(time?);
    }
    all.sort_by(f64::total_cmp);
    let (p50, p99) = (percentile(&all, 0.5), percentile(&all, 0.99));
    let floor = json!({ "what": "the median start", "us": p50 });
    let detail = json!({
        "starts": starts,
        "starts_per_s": rate,
        "p50_us": p50,
        "p90_us": percentile(&all, 0.9),
        "p99_us": p99,
        "worst_us": all.last(),
    });
    Ok(Measured::at_most("latency", "p99_to_p50", p99 / p50, 5.0, floor, detail))
}
