//! `dacapo bench`: the real engine on a real disk, each figure beside its floor.
//!
//! A floor is what the same machine does in the same run with nothing of the
//! engine around it: bare commits of the same bytes in the same batches. Figures
//! of time depend on the machine; the ratios do so much less. CPU is that of the
//! whole process, as the operating system accounts for it.

mod floor;
mod process;

use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::Instant;

use anyhow::Context as _;
use futures::StreamExt as _;
use serde::Serialize;
use serde_json::json;

use crate::core::ids::InstanceId;
use crate::core::payload::Payload;
use crate::engine::{Engine, EngineSettings, IdReuse, StartRequest, SystemClock, Upload};
use crate::replay::{Unwatched, replay};
use crate::store::redb::{RedbStore, Stats};

/// The workloads, in the order in which they are run.
pub const WORKLOADS: [&str; 5] = ["hello5", "lone", "replay", "resident", "sleeping"];

/// How much is run.
#[derive(Clone, Debug)]
pub struct Settings {
    /// The module of `examples/bench`.
    pub module: Vec<u8>,
    /// An empty folder on the disk that is to be measured.
    pub folder: PathBuf,
    /// 1 is the full size; smaller is faster and rougher.
    pub scale: f64,
}

/// One workload's result.
#[derive(Clone, Debug, Serialize)]
pub struct Measured {
    /// Which workload.
    pub workload: &'static str,
    /// What is measured, with its unit in the name.
    pub figure: &'static str,
    /// The figure.
    pub value: f64,
    /// What it is to stay below, or above where `at_least` is set.
    pub target: f64,
    /// Whether more is better.
    pub at_least: bool,
    /// Whether the target is met.
    pub met: bool,
    /// The floor, in words and as a value of the same unit.
    pub floor: serde_json::Value,
    /// Everything else that was measured.
    pub detail: serde_json::Value,
}

/// Runs one workload.
///
/// # Errors
/// If the engine fails, or what it computed is wrong.
pub async fn run(workload: &str, settings: &Settings) -> anyhow::Result<Measured> {
    let folder = settings.folder.join(workload);
    std::fs::create_dir_all(&folder).with_context(|| format!("cannot create {}", folder.display()))?;
    let bench = Bench::open(&folder, &settings.module)?;
    let scaled = |full: u32| ((f64::from(full) * settings.scale) as u32).max(1);
    match workload {
        "hello5" => bench.hello5(scaled(20_000), 512).await,
        "lone" => bench.lone(scaled(1_000)).await,
        "replay" => bench.replay(scaled(50_000)).await,
        "resident" => bench.resident(scaled(2_000)).await,
        "sleeping" => bench.sleeping(scaled(100_000)).await,
        other => anyhow::bail!("unknown workload {other:?}: expected one of {}", WORKLOADS.join(", ")),
    }
}

struct Bench {
    folder: PathBuf,
    store: Arc<RedbStore>,
    engine: Engine,
}

impl Bench {
    fn open(folder: &Path, module: &[u8]) -> anyhow::Result<Self> {
        let store = Arc::new(RedbStore::open(&folder.join("journal.redb"))?);
        let settings = EngineSettings { cache: Some(folder.join("modules")), ..EngineSettings::default() };
        let engine = Engine::open(store.clone(), Arc::new(SystemClock), settings, None)?;
        engine.upload(Upload { bytes: module.to_vec(), name: "bench".into(), ..Upload::default() })?;
        engine.serve_activity(
            "hello.say",
            None,
            Arc::new(|task| {
                let input = task.input.clone();
                Box::pin(async move { Ok(input) })
            }),
        );
        Ok(Self { folder: folder.to_owned(), store, engine })
    }

    async fn start(&self, id: &str, orchestration: &str, input: &serde_json::Value) -> anyhow::Result<InstanceId> {
        let id = InstanceId::new(id)?;
        let request = StartRequest {
            id: id.clone(),
            orchestration: orchestration.to_owned(),
            module: None,
            input: Payload::of(input)?,
            tags: Vec::new(),
            reuse: IdReuse::Reject,
            start_at: None,
        };
        self.engine.start(request).await?;
        Ok(id)
    }

    /// Runs an instance to its end; the output must be `expected`.
    async fn run(
        &self,
        id: String,
        orchestration: &str,
        input: serde_json::Value,
        expected: serde_json::Value,
    ) -> anyhow::Result<()> {
        let id = self.start(&id, orchestration, &input).await?;
        let output = self.engine.outcome(&id).await?.map_err(|failure| anyhow::anyhow!("{id} failed: {failure}"))?;
        anyhow::ensure!(output.to_json() == Some(expected), "{id} returned {output}");
        Ok(())
    }

    async fn hello5(&self, instances: u32, in_flight: usize) -> anyhow::Result<Measured> {
        // Warm up: compiled code, pools, the file's first pages.
        self.run_many(0..1_000.min(instances), in_flight).await?;
        let (before, cpu, clock) = (self.store.stats(), process::cpu_us(), Instant::now());
        self.run_many(1_000..1_000 + instances, in_flight).await?;
        let (seconds, cpu) = (clock.elapsed().as_secs_f64(), process::cpu_us() - cpu);
        let log = since(before, self.store.stats());
        let steps = f64::from(instances) * 5.0;
        let floor = floor::log_append(&self.folder.join("floor.redb"), &log)?;
        let per_step = cpu / steps;
        Ok(Measured {
            workload: "hello5",
            figure: "cpu_us_per_step",
            value: per_step,
            target: 25.0,
            at_least: false,
            met: per_step <= 25.0,
            floor: json!({
                "what": "bare log append of the same bytes in the same batches",
                "steps_per_s": steps / floor.seconds,
                "cpu_us_per_step": floor.cpu_us / steps,
            }),
            detail: json!({
                "instances": instances,
                "in_flight": in_flight,
                "steps_per_s": steps / seconds,
                "throughput_to_floor": floor.seconds / seconds,
                "commits": log.commits,
                "turns_per_commit": log.turns as f64 / log.commits as f64,
                "log_bytes": log.log_bytes,
                "file_bytes": std::fs::metadata(self.folder.join("journal.redb"))?.len(),
            }),
        })
    }

    async fn run_many(&self, numbers: std::ops::Range<u32>, in_flight: usize) -> anyhow::Result<()> {
        let runs = numbers.map(|n| self.run(format!("hello-{n}"), "hello5", json!("Ada"), json!("Ada")));
        let mut running = futures::stream::iter(runs).buffer_unordered(in_flight);
        while let Some(done) = running.next().await {
            done?;
        }
        Ok(())
    }

    async fn lone(&self, steps: u32) -> anyhow::Result<Measured> {
        self.run("warm".into(), "sequence", json!(20), json!(20)).await?;
        let (before, clock) = (self.store.stats(), Instant::now());
        self.run("lone".into(), "sequence", json!(steps), json!(steps)).await?;
        let step_us = clock.elapsed().as_secs_f64() * 1e6 / f64::from(steps);
        let log = since(before, self.store.stats());
        let floor = floor::log_append(&self.folder.join("floor.redb"), &log)?;
        let bare_us = floor.seconds * 1e6 / log.commits as f64;
        let ratio = step_us / bare_us;
        Ok(Measured {
            workload: "lone",
            figure: "step_to_bare_commit",
            value: ratio,
            target: 2.0,
            at_least: false,
            met: ratio <= 2.0,
            floor: json!({ "what": "bare commit of the same bytes", "commit_us": bare_us }),
            detail: json!({ "steps": steps, "step_us": step_us, "commits": log.commits }),
        })
    }

    async fn replay(&self, steps: u32) -> anyhow::Result<Measured> {
        self.run("long".into(), "sequence", json!(steps), json!(steps)).await?;
        let records = self.engine.history(&InstanceId::new("long")?, None)?.decode()?;
        let module = self.engine.modules().resolve("sequence", None)?;
        let module = self.engine.modules().load(module.hash)?;
        let clock = Instant::now();
        let replayed = replay(&module, &records, &mut Unwatched);
        let seconds = clock.elapsed().as_secs_f64();
        anyhow::ensure!(replayed.matched(), "the replay differs: {replayed:?}");
        let rate = f64::from(replayed.events) / seconds;
        let decode = floor::decode_rate(&records);
        Ok(Measured {
            workload: "replay",
            figure: "events_per_s",
            value: rate,
            target: 500_000.0,
            at_least: true,
            met: rate >= 500_000.0,
            floor: json!({ "what": "decoding and hashing the same turns, no guest", "events_per_s": decode }),
            detail: json!({ "events": replayed.events, "turns": replayed.turns }),
        })
    }

    async fn resident(&self, guests: u32) -> anyhow::Result<Measured> {
        self.start("warm", "waiter", &json!(null)).await?;
        let before = process::resident_bytes()?;
        for n in 0..guests {
            self.start(&format!("waiter-{n}"), "waiter", &json!(null)).await?;
        }
        self.settled(guests + 1).await?;
        let each = (process::resident_bytes()? - before) / f64::from(guests);
        Ok(Measured {
            workload: "resident",
            figure: "bytes_per_guest",
            value: each,
            target: 40.0 * 1024.0,
            at_least: false,
            met: each <= 40.0 * 1024.0,
            floor: json!({ "what": "pages of linear memory that a Rust guest touches", "bytes": 16 * 1024 }),
            detail: json!({ "guests": guests, "resident_guests": self.engine.resident_guests() }),
        })
    }

    async fn sleeping(&self, sleepers: u32) -> anyhow::Result<Measured> {
        let before = process::resident_bytes()?;
        let starts = (0..sleepers).map(|n| async move {
            self.start(&format!("sleeper-{n}"), "sleeper", &json!(30 * 24 * 3600 * 1000_u64)).await.map(drop)
        });
        let mut running = futures::stream::iter(starts).buffer_unordered(512);
        while let Some(done) = running.next().await {
            done?;
        }
        drop(running);
        self.settled(0).await?;
        let each = (process::resident_bytes()? - before) / f64::from(sleepers);
        let guests = self.engine.resident_guests() as f64;
        Ok(Measured {
            workload: "sleeping",
            figure: "guests_in_memory",
            value: guests,
            target: 0.0,
            at_least: false,
            met: guests == 0.0,
            floor: json!({ "what": "nothing", "guests": 0 }),
            detail: json!({ "sleepers": sleepers, "process_bytes_per_sleeper": each }),
        })
    }

    /// Waits until so many guests are in memory: until what was started has run
    /// its first turn, or what waits has left.
    async fn settled(&self, guests: u32) -> anyhow::Result<()> {
        let clock = Instant::now();
        while self.engine.resident_guests() != u64::from(guests) {
            anyhow::ensure!(
                clock.elapsed().as_secs() < 60,
                "expected {guests} guests in memory, found {} after a minute",
                self.engine.resident_guests()
            );
            tokio::task::yield_now().await;
        }
        Ok(())
    }
}

fn since(before: Stats, after: Stats) -> Stats {
    Stats {
        commits: after.commits - before.commits,
        turns: after.turns - before.turns,
        log_bytes: after.log_bytes - before.log_bytes,
        folds: after.folds - before.folds,
    }
}
