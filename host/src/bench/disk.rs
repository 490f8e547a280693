//! Slower disks: some time is added to every sync.

use std::fs::File;
use std::path::Path;
use std::time::Duration;

use redb::StorageBackend;
use redb::backends::FileBackend;
use serde_json::{Value, json};

use super::machine::{Machine, Opened};
use super::steps::{run_hello5, run_lone};
use super::{Measured, Settings};

const DELAYS_MS: [u64; 2] = [1, 5];

/// A file whose syncs take longer.
#[derive(Debug)]
pub(super) struct SlowDisk {
    file: FileBackend,
    delay: Duration,
}

impl SlowDisk {
    pub(super) fn open(path: &Path, delay: Duration) -> anyhow::Result<Self> {
        let file = File::options().read(true).write(true).create(true).truncate(false).open(path)?;
        Ok(Self { file: FileBackend::new(file)?, delay })
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
        std::thread::sleep(self.delay);
        self.file.sync_data()
    }

    fn write(&self, offset: u64, data: &[u8]) -> std::io::Result<()> {
        self.file.write(offset, data)
    }

    fn close(&self) -> std::io::Result<()> {
        self.file.close()
    }
}

fn slow(settings: &Settings, delay_ms: u64) -> anyhow::Result<Machine> {
    let sync_delay = Some(Duration::from_millis(delay_ms));
    Machine::open_with(settings, &format!("slow-{delay_ms}"), Opened { sync_delay, ..Opened::default() })
}

/// What is left of the throughput with 5 ms more.
pub(super) async fn hello5(settings: &Settings) -> anyhow::Result<Measured> {
    let instances = settings.scaled(20_000);
    let fast = run_hello5(&Machine::open(settings, "fast")?, instances).await?;
    let mut rates = serde_json::Map::new();
    let mut kept = 0.0;
    for delay in DELAYS_MS {
        let ran = run_hello5(&slow(settings, delay)?, instances).await?;
        kept = ran.steps_per_s() / fast.steps_per_s();
        let per_commit = ran.log.turns as f64 / ran.log.commits as f64;
        let of_delay = json!({ "steps_per_s": ran.steps_per_s(), "kept": kept, "turns_per_commit": per_commit });
        rates.insert(format!("{delay}_ms"), of_delay);
    }
    let floor = json!({ "what": "nothing added to a sync", "steps_per_s": fast.steps_per_s() });
    Ok(Measured::at_least("hello5-slow-disk", "throughput_kept", kept, 0.8, floor, Value::Object(rates)))
}

/// How much longer a step takes with 5 ms more, in that time.
pub(super) async fn lone(settings: &Settings) -> anyhow::Result<Measured> {
    let steps = settings.scaled(300);
    let (fast_us, _) = run_lone(&Machine::open(settings, "fast")?, steps).await?;
    let mut times = serde_json::Map::new();
    let mut syncs = 0.0;
    for delay in DELAYS_MS {
        let (slow_us, log) = run_lone(&slow(settings, delay)?, steps).await?;
        syncs = (slow_us - fast_us) / (delay as f64 * 1e3);
        let of_delay = json!({ "step_us": slow_us, "delays_per_step": syncs, "commits": log.commits });
        times.insert(format!("{delay}_ms"), of_delay);
    }
    let floor = json!({ "what": "nothing added to a sync", "step_us": fast_us });
    // One sync a step, and what a sleeping thread oversleeps.
    Ok(Measured::at_most("lone-slow-disk", "delays_per_step", syncs, 1.1, floor, Value::Object(times)))
}
