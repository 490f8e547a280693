//! Slower disks: some time is added to every sync.

use std::fs::File;
use std::path::Path;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::Duration;

use redb::StorageBackend;
use redb::backends::FileBackend;
use serde_json::{Value, json};

use super::machine::{Machine, Opened};
use super::steps::{LONE_WARM_STEPS, run_hello5, run_lone};
use super::{Measured, Settings};

const DELAYS_MS: [u64; 2] = [1, 5];

/// How a disk is slow.
#[derive(Clone, Debug)]
pub(super) struct Slow {
    delay: Duration,
    /// How often it was synced.
    syncs: Arc<AtomicU64>,
}

/// A file whose syncs take longer.
#[derive(Debug)]
pub(super) struct SlowDisk {
    file: FileBackend,
    slow: Slow,
}

impl SlowDisk {
    pub(super) fn open(path: &Path, slow: Slow) -> anyhow::Result<Self> {
        let file = File::options().read(true).write(true).create(true).truncate(false).open(path)?;
        Ok(Self { file: FileBackend::new(file)?, slow })
    }
}

impl StorageBackend for SlowDisk {
    fn len(&self) -> std::io::Result<u64> {
        self.file.len()
    }

    fn read(&self, offset: u64, out: &mut [u8]) -> std::io::Result<()> {
        self.file.read(offset, out)
    }

    fn set_len(&self, len: u64) -> std::io::Result<()> {
        self.file.set_len(len)
    }

    fn sync_data(&self) -> std::io::Result<()> {
        self.slow.syncs.fetch_add(1, Ordering::Relaxed);
        std::thread::sleep(self.slow.delay);
        self.file.sync_data()
    }

    fn write(&self, offset: u64, data: &[u8]) -> std::io::Result<()> {
        self.file.write(offset, data)
    }

    fn close(&self) -> std::io::Result<()> {
        self.file.close()
    }
}

/// A machine on such a disk, and the count of its syncs.
fn slow(settings: &Settings, delay_ms: u64) -> anyhow::Result<(Machine, Arc<AtomicU64>)> {
    let slow = Slow { delay: Duration::from_millis(delay_ms), syncs: Arc::default() };
    let opened = Opened { slow: Some(slow.clone()), ..Opened::default() };
    Ok((Machine::open_with(settings, &format!("slow-{delay_ms}"), opened)?, slow.syncs))
}

/// What is left of the throughput with 5 ms more.
pub(super) async fn hello5(settings: &Settings) -> anyhow::Result<Measured> {
    let instances = settings.scaled(20_000);
    let fast = run_hello5(&Machine::open(settings, "fast")?, instances).await?;
    let mut rates = serde_json::Map::new();
    let mut kept = 0.0;
    for delay in DELAYS_MS {
        let ran = run_hello5(&slow(settings, delay)?.0, instances).await?;
        kept = ran.steps_per_s() / fast.steps_per_s();
        let per_commit = ran.log.turns as f64 / ran.log.commits as f64;
        let of_delay = json!({ "steps_per_s": ran.steps_per_s(), "kept": kept, "turns_per_commit": per_commit });
        rates.insert(format!("{delay}_ms"), of_delay);
    }
    let floor = json!({ "what": "nothing added to a sync", "steps_per_s": fast.steps_per_s() });
    Ok(Measured::at_least("hello5-slow-disk", "throughput_kept", kept, 0.8, floor, Value::Object(rates)))
}

/// How many syncs a step takes, and how much longer it takes with 1 ms and 5 ms more.
pub(super) async fn lone(settings: &Settings) -> anyhow::Result<Measured> {
    let steps = settings.scaled(300);
    let (fast_us, _) = run_lone(&Machine::open(settings, "fast")?, steps).await?;
    let mut times = serde_json::Map::new();
    let mut syncs = 0.0;
    for delay in DELAYS_MS {
        let (machine, synced) = slow(settings, delay)?;
        let before = synced.load(Ordering::Relaxed);
        let (slow_us, log) = run_lone(&machine, steps).await?;
        syncs = (synced.load(Ordering::Relaxed) - before) as f64 / f64::from(LONE_WARM_STEPS + steps);
        let delays = (slow_us - fast_us) / (delay as f64 * 1e3);
        let of_delay = json!({ "step_us": slow_us, "delays_per_step": delays, "commits": log.commits });
        times.insert(format!("{delay}_ms"), of_delay);
    }
    let floor = json!({ "what": "nothing added to a sync", "step_us": fast_us });
    // One a step, and one each to begin and to end, of both instances.
    let most = 1.0 + 4.0 / f64::from(LONE_WARM_STEPS + steps);
    Ok(Measured::at_most("lone-slow-disk", "syncs_per_step", syncs, most, floor, Value::Object(times)))
}
