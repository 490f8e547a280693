//! An engine on the disk that is measured, and what is done with it.

use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::{Duration, Instant};

use anyhow::Context as _;
use futures::StreamExt as _;
use serde_json::{Value, json};

use super::Settings;
use super::disk::{Watch, WatchedDisk};
use crate::core::ids::{InstanceId, TimestampMs};
use crate::core::payload::Payload;
use crate::engine::{Clock, Engine, EngineSettings, IdReuse, StartRequest, SystemClock, Upload};
use crate::store::Store as _;
use crate::store::redb::{Options, RedbStore, Stats};

/// What an engine is opened with.
#[derive(Default)]
pub(super) struct Opened {
    pub(super) settings: EngineSettings,
    /// The disk is watched.
    pub(super) watch: Option<Watch>,
    /// Of the file, kept in memory; none: as ever.
    pub(super) cache_bytes: Option<usize>,
    /// Nobody serves `hello.say`.
    pub(super) without_activities: bool,
}

pub(super) struct Machine {
    pub(super) folder: PathBuf,
    pub(super) store: Arc<RedbStore>,
    pub(super) engine: Arc<Engine>,
    pub(super) clock: Arc<Ahead>,
}

/// The machine's clock, which can be set ahead.
#[derive(Default)]
pub(super) struct Ahead {
    by_ms: AtomicU64,
    wake: std::sync::Mutex<Vec<Box<dyn Fn() + Send + Sync>>>,
}

impl Ahead {
    pub(super) fn set_ahead(&self, by: Duration) {
        self.by_ms.fetch_add(by.as_millis() as u64, Ordering::SeqCst);
        self.wake.lock().expect("nobody panics with it").iter().for_each(|wake| wake());
    }
}

impl Clock for Ahead {
    fn now(&self) -> TimestampMs {
        SystemClock.now().plus(self.by_ms.load(Ordering::SeqCst))
    }

    fn until(&self, due: TimestampMs) -> Duration {
        Duration::from_millis(due.since(self.now()))
    }

    fn on_jump(&self, wake: Box<dyn Fn() + Send + Sync>) {
        self.wake.lock().expect("nobody panics with it").push(wake);
    }
}

impl Machine {
    pub(super) fn open(settings: &Settings, name: &str) -> anyhow::Result<Self> {
        Self::open_with(settings, name, Opened::default())
    }

    /// Opens the journal called `name`, or makes it.
    pub(super) fn open_with(settings: &Settings, name: &str, opened: Opened) -> anyhow::Result<Self> {
        let folder = settings.folder.join(name);
        std::fs::create_dir_all(&folder).with_context(|| format!("cannot create {}", folder.display()))?;
        let file = folder.join("journal.redb");
        let mut options = Options::default();
        options.cache_bytes = opened.cache_bytes.unwrap_or(options.cache_bytes);
        let store = Arc::new(match opened.watch {
            None => RedbStore::open_with(&file, options)?,
            Some(watch) => WatchedDisk::store(&file, &watch, options)?,
        });
        let clock = Arc::new(Ahead::default());
        // Compiled once for all workloads.
        let engine = EngineSettings { cache: Some(settings.folder.join("modules")), ..opened.settings };
        let engine = Arc::new(Engine::open(store.clone(), clock.clone(), engine, None)?);
        engine.upload(Upload { bytes: settings.module.clone(), name: "bench".into(), ..Upload::default() })?;
        if !opened.without_activities {
            serve_say(&engine);
        }
        Ok(Self { folder, store, engine, clock })
    }

    pub(super) async fn start(&self, id: &str, orchestration: &str, input: &Value) -> anyhow::Result<InstanceId> {
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
    pub(super) async fn run(&self, id: &str, orchestration: &str, input: Value, expected: Value) -> anyhow::Result<()> {
        let id = self.start(id, orchestration, &input).await?;
        self.ends_with(&id, &expected).await
    }

    pub(super) async fn ends_with(&self, id: &InstanceId, expected: &Value) -> anyhow::Result<()> {
        let output = self.engine.outcome(id).await?.map_err(|failure| anyhow::anyhow!("{id} failed: {failure}"))?;
        anyhow::ensure!(output.to_json().as_ref() == Some(expected), "{id} returned {output}");
        Ok(())
    }

    pub(super) async fn hello_many(&self, numbers: std::ops::Range<u32>, in_flight: usize) -> anyhow::Result<()> {
        let run = |n: u32| async move { self.run(&format!("hello-{n}"), "hello5", json!("Ada"), json!("Ada")).await };
        all(numbers.map(run), in_flight).await
    }

    /// Waits until so many guests are in memory and timers are armed: until what was started
    /// has run its first turn, or what waits has left.
    pub(super) async fn settled(&self, guests: u32, timers: u64) -> anyhow::Result<()> {
        let clock = Instant::now();
        let expected = (u64::from(guests), timers);
        loop {
            let found = (self.engine.resident_guests(), self.engine.timers().0);
            if found == expected {
                return Ok(());
            }
            anyhow::ensure!(
                clock.elapsed().as_secs() < 60,
                "expected guests in memory and timers to be {expected:?}, found {found:?} after a minute"
            );
            tokio::task::yield_now().await;
        }
    }

    pub(super) fn store_ids(&self, after: Option<&InstanceId>) -> anyhow::Result<Vec<InstanceId>> {
        Ok(self.store.ids(after, 1_000)?)
    }

    pub(super) fn file_bytes(&self) -> anyhow::Result<u64> {
        Ok(std::fs::metadata(self.folder.join("journal.redb"))?.len())
    }

    /// Stops the engine and closes the journal.
    pub(super) fn close(self) -> anyhow::Result<()> {
        self.engine.shutdown();
        let journal = Arc::downgrade(&self.store);
        drop(self);
        let clock = Instant::now();
        // What the runtime still holds of the engine ends by itself.
        while journal.strong_count() > 0 {
            anyhow::ensure!(clock.elapsed().as_secs() < 60, "the journal is still open after a minute");
            std::thread::yield_now();
        }
        Ok(())
    }
}

/// `hello.say`, natively: it returns what it is given.
pub(super) fn serve_say(engine: &Engine) {
    engine.serve_activity(
        "hello.say",
        None,
        Arc::new(|task| {
            let input = task.input.clone();
            Box::pin(async move { Ok(input) })
        }),
    );
}

/// Runs all, so many at a time.
pub(super) async fn all(
    runs: impl Iterator<Item = impl Future<Output = anyhow::Result<()>>>,
    at_a_time: usize,
) -> anyhow::Result<()> {
    let mut running = futures::stream::iter(runs).buffer_unordered(at_a_time);
    while let Some(done) = running.next().await {
        done?;
    }
    Ok(())
}

pub(super) fn since(before: Stats, after: Stats) -> Stats {
    Stats {
        commits: after.commits - before.commits,
        turns: after.turns - before.turns,
        log_bytes: after.log_bytes - before.log_bytes,
        folds: after.folds - before.folds,
    }
}

/// The `share` (0 to 1) of `sorted` that is below the returned value.
pub(super) fn percentile(sorted: &[f64], share: f64) -> f64 {
    sorted.get(((sorted.len() as f64 * share) as usize).min(sorted.len().saturating_sub(1))).copied().unwrap_or(0.0)
}

/// In the middle of `values`.
pub(super) fn median(values: &mut [f64]) -> f64 {
    values.sort_by(f64::total_cmp);
    percentile(values, 0.5)
}

/// A path that is no file yet.
pub(super) fn fresh(path: &Path) -> anyhow::Result<PathBuf> {
    if path.exists() {
        std::fs::remove_file(path)?;
    }
    Ok(path.to_owned())
}
