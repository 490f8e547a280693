//! Work that comes at its own pace, however long others take.

use std::sync::Arc;
use std::time::{Duration, Instant};

use serde_json::json;
use tokio::sync::mpsc;

use super::machine::{Machine, median, percentile};
use super::steps::{STEPS_EACH, run_hello5};
use super::{Measured, Settings};

/// What is timed of an instance.
#[derive(Clone, Copy)]
enum Timed {
    Start,
    WholeRun,
}

/// An instance that was due then, counted from the first, and what it took from then on.
struct Took {
    due: Duration,
    us: f64,
}

/// A machine, and half of the instances of `hello5` that it carries a second.
async fn at_half_load(settings: &Settings, name: &str) -> anyhow::Result<(Arc<Machine>, f64)> {
    let machine = Machine::open(settings, name)?;
    let most = run_hello5(&machine, settings.scaled(10_000)).await?;
    Ok((Arc::new(machine), most.steps_per_s() / STEPS_EACH / 2.0))
}

/// Starts an instance at each of these times, which are in order.
async fn start_at(
    machine: &Arc<Machine>,
    times: impl Iterator<Item = Duration>,
    timed: Timed,
) -> anyhow::Result<Vec<Took>> {
    let (sender, mut receiver) = mpsc::unbounded_channel();
    let clock = Instant::now();
    for (n, due) in times.enumerate() {
        let at = clock + due;
        tokio::time::sleep_until(at.into()).await;
        let (machine, sender) = (machine.clone(), sender.clone());
        tokio::spawn(async move {
            let id = format!("start-{n}");
            let ran = match timed {
                Timed::Start => machine.start(&id, "hello5", &json!("Ada")).await.map(drop),
                Timed::WholeRun => machine.run(&id, "hello5", json!("Ada"), json!("Ada")).await,
            };
            // From when it was due: what waits because others are slow counts.
            let _ = sender.send(ran.map(|()| Took { due, us: at.elapsed().as_secs_f64() * 1e6 }));
        });
    }
    drop(sender);
    let mut all = Vec::new();
    while let Some(took) = receiver.recv().await {
        all.push(took?);
    }
    Ok(all)
}

/// The slowest hundredth of starts in the median, at half of the load that the
/// machine carries: each is sent when it is due, however long others take.
pub(super) async fn starts(settings: &Settings) -> anyhow::Result<Measured> {
    let (machine, rate) = at_half_load(settings, "latency").await?;
    let starts = settings.scaled((rate * 5.0) as u32);
    let times = (0..starts).map(|n| Duration::from_secs_f64(f64::from(n) / rate));
    let mut all: Vec<f64> = start_at(&machine, times, Timed::Start).await?.iter().map(|took| took.us).collect();
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

/// When the burst comes, and how many seconds of half of the maximal load it is.
const BURST: (f64, f64) = (1.0, 0.5);

/// Instances are as fast as before once the median of so many seconds of them is at most so
/// many times that of those before.
const AS_BEFORE: (f64, f64) = (0.05, 3.0);

/// At half of the load that the machine carries, very many at once: for how long those that
/// come after them take longer.
pub(super) async fn burst(settings: &Settings) -> anyhow::Result<Measured> {
    let (machine, rate) = at_half_load(settings, "burst").await?;
    let (at, of) = BURST;
    let seconds = at + 8.0 * of * settings.scale.clamp(0.5, 1.0);
    let burst = (rate * of) as u32;
    let before = (rate * at) as u32;
    let all = (rate * seconds) as u32 + burst;
    let place = |n: u32| if n < before { n } else { n.saturating_sub(burst).max(before) };
    let times = (0..all).map(|n| Duration::from_secs_f64(f64::from(place(n)) / rate));
    let took = start_at(&machine, times, Timed::WholeRun).await?;

    // Those of the burst itself are not asked how long they took.
    let came_at = Duration::from_secs_f64(f64::from(before) / rate);
    let median_us = |from: f64, to: f64| {
        let others = took.iter().filter(|took| took.due != came_at);
        let within = others.filter(|took| (from..to).contains(&took.due.as_secs_f64()));
        median(&mut within.map(|took| took.us).collect::<Vec<_>>())
    };
    let (window, longer) = AS_BEFORE;
    let quiet = median_us(at / 2.0, at - window);
    let windows = (0..).map(|n| at + f64::from(n) * window).take_while(|from| from + window <= seconds);
    let slow = windows.filter(|from| median_us(*from, from + window) > longer * quiet);
    let behind = slow.count() as f64 * window;
    // What is left of the machine beside what goes on coming.
    let least = f64::from(burst) / rate;
    let worst = took.iter().map(|took| took.us).fold(0.0, f64::max);
    let floor = json!({ "what": "the burst at the maximal load, less what comes meanwhile", "seconds": least });
    let detail = json!({
        "instances_per_s": rate,
        "at_once": burst,
        "seconds_behind": behind,
        "measured_for_s": seconds - at,
        "p50_before_us": quiet,
        "worst_us": worst,
    });
    Ok(Measured::at_most("burst", "time_behind_to_least", behind / least, 3.0, floor, detail))
}
