//! Work that comes at its own pace, however long others take.

use std::sync::Arc;
use std::time::{Duration, Instant};

use serde_json::json;
use tokio::sync::mpsc;

use super::floor::BareLog;
use super::machine::{Machine, fresh, median, percentile, since};
use super::steps::{STEPS_EACH, run_hello5};
use super::{Measured, Settings};

/// Work that was due then, counted from the first, and what it took from then on.
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

/// Begins `work` with `what`, and told its number, at each of these times, which are in order.
async fn begin_at<T, F>(
    what: &Arc<T>,
    times: impl Iterator<Item = Duration> + Send + 'static,
    work: impl Fn(Arc<T>, usize) -> F + Send + 'static,
) -> anyhow::Result<Vec<Took>>
where
    T: Send + Sync + 'static,
    F: Future<Output = anyhow::Result<()>> + Send + 'static,
{
    let (sender, mut receiver) = mpsc::unbounded_channel();
    let (what, runtime) = (what.clone(), tokio::runtime::Handle::current());
    // A thread of its own: the runtime's timers count in milliseconds.
    std::thread::spawn(move || {
        let clock = Instant::now();
        for (n, due) in times.enumerate() {
            let at = clock + due;
            std::thread::sleep(at.saturating_duration_since(Instant::now()));
            let (work, sender) = (work(what.clone(), n), sender.clone());
            runtime.spawn(async move {
                let ran = work.await;
                // From when it was due: what waits because others are slow counts.
                let _ = sender.send(ran.map(|()| Took { due, us: at.elapsed().as_secs_f64() * 1e6 }));
            });
        }
    });
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
    let times = move || (0..starts).map(move |n| Duration::from_secs_f64(f64::from(n) / rate));
    let before = machine.store.stats();
    let start = |machine: Arc<Machine>, n| async move {
        machine.start(&format!("start-{n}"), "hello5", &json!("Ada")).await.map(drop)
    };
    let all = sorted_us(begin_at(&machine, times(), start).await?);
    let (p50, p99) = (percentile(&all, 0.5), percentile(&all, 0.99));

    let written = since(before, machine.store.stats());
    let row_bytes = written.log_bytes / written.turns.max(1);
    let log = Arc::new(BareLog::create(&fresh(&machine.folder.join("log"))?, row_bytes as usize)?);
    let append = |log: Arc<BareLog>, _| async move { log.append().await };
    let bare = sorted_us(begin_at(&log, times(), append).await?);
    let (bare_p50, bare_p99) = (percentile(&bare, 0.5), percentile(&bare, 0.99));
    let floor = json!({
        "what": "as many rows at the same times, to a bare log: what comes during a sync has the next one",
        "p99_to_p50": bare_p99 / bare_p50,
        "p50_us": bare_p50,
        "p99_us": bare_p99,
        "worst_us": bare.last(),
    });
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

fn sorted_us(all: Vec<Took>) -> Vec<f64> {
    let mut all: Vec<f64> = all.iter().map(|took| took.us).collect();
    all.sort_by(f64::total_cmp);
    all
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
    let seconds = at + 16.0 * of * settings.scale.clamp(0.5, 1.0);
    let burst = (rate * of) as u32;
    let before = (rate * at) as u32;
    let all = (rate * seconds) as u32 + burst;
    let place = move |n: u32| if n < before { n } else { n.saturating_sub(burst).max(before) };
    let times = (0..all).map(move |n| Duration::from_secs_f64(f64::from(place(n)) / rate));
    let run = |machine: Arc<Machine>, n| async move {
        machine.run(&format!("start-{n}"), "hello5", json!("Ada"), json!("Ada")).await
    };
    let took = begin_at(&machine, times, run).await?;

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
        "guests_replayed": machine.engine.replayed_guests(),
    });
    Ok(Measured::at_most("burst", "time_behind_to_least", behind / least, 3.0, floor, detail))
}
