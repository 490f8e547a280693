//! Disks that are watched: what is written to them is counted, and some time can be added
//! to every sync.

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
use crate::store::redb::{Options, RedbStore};

const DELAYS_MS: [u64; 2] = [1, 5];

/// Bytes of a page: no less is written to a medium.
const PAGE: u64 = 4096;

/// What is done to a disk, and what was seen of it.
#[derive(Clone, Debug, Default)]
pub(super) struct Watch {
    delay: Duration,
    /// How often it was synced.
    syncs: Arc<AtomicU64>,
    /// Pages that writes touched. What the operating system accounts for is more: it takes
    /// a page of its cache for written, and those are larger.
    pages: Arc<AtomicU64>,
}

impl Watch {
    /// Bytes written so far, in whole pages.
    pub(super) fn written(&self) -> u64 {
        self.pages.load(Ordering::Relaxed) * PAGE
    }
}

/// A file that is watched.
#[derive(Debug)]
pub(super) struct WatchedDisk {
    file: FileBackend,
    watch: Watch,
}

impl WatchedDisk {
    /// A store with all its files on such a disk.
    pub(super) fn store(journal: &Path, watch: &Watch, options: Options) -> anyhow::Result<RedbStore> {
        let file = |extension: &str| -> anyhow::Result<Self> {
            let path = journal.with_extension(extension);
            let file = File::options().read(true).write(true).create(true).truncate(false).open(path)?;
            Ok(Self { file: FileBackend::new(file)?, watch: watch.clone() })
        };
        let log = [Arc::new(file("log-1")?) as Arc<dyn StorageBackend>, Arc::new(file("log-2")?)];
        Ok(RedbStore::with_backends(file("redb")?, log, options)?)
    }
}

impl StorageBackend for WatchedDisk {
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
        self.watch.syncs.fetch_add(1, Ordering::Relaxed);
        if !self.watch.delay.is_zero() {
            std::thread::sleep(self.watch.delay);
        }
        self.file.sync_data()
    }

    fn write(&self, offset: u64, data: &[u8]) -> std::io::Result<()> {
        let end = (offset + data.len() as u64).div_ceil(PAGE);
        self.watch.pages.fetch_add(end - offset / PAGE, Ordering::Relaxed);
        self.file.write(offset, data)
    }

    fn close(&self) -> std::io::Result<()> {
        self.file.close()
    }
}

/// A machine on a slow disk, and the count of its syncs.
fn slow(settings: &Settings, delay_ms: u64) -> anyhow::Result<(Machine, Arc<AtomicU64>)> {
    let watch = Watch { delay: Duration::from_millis(delay_ms), ..Watch::default() };
    let opened = Opened { watch: Some(watch.clone()), ..Opened::default() };
    Ok((Machine::open_with(settings, &format!("slow-{delay_ms}"), opened)?, watch.syncs))
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
        let of_delay = json!({
            "steps_per_s": ran.steps_per_s(),
            "kept": kept,
            "turns_per_commit": per_commit,
            "cpu_us_per_step": ran.cpu_per_step(),
        });
        rates.insert(format!("{delay}_ms"), of_delay);
    }
    let floor = json!({
        "what": "nothing added to a sync",
        "steps_per_s": fast.steps_per_s(),
        "cpu_us_per_step": fast.cpu_per_step(),
    });
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
