//! `dacapo bench`: the real engine on a real disk, each figure beside its floor.
//!
//! A floor is what the same machine does in the same run with nothing of the
//! engine around it: bare commits of the same bytes in the same batches. Figures
//! of time depend on the machine; the ratios do so much less. CPU is that of the
//! whole process, as the operating system accounts for it: workers that a workload
//! has are in it too.

mod count;
mod disk;
mod floor;
mod histories;
mod latency;
mod machine;
mod many;
mod process;
mod remote;
mod shapes;
mod steps;

use std::path::PathBuf;

use serde::{Deserialize, Serialize};
use serde_json::Value;

pub use self::count::{COUNTED, Counted, count, run as run_counted};

/// A workload.
#[derive(Clone, Copy, Debug)]
pub struct Workload {
    /// Its name.
    pub name: &'static str,
    /// What it does.
    pub about: &'static str,
}

const fn workload(name: &'static str, about: &'static str) -> Workload {
    Workload { name, about }
}

/// The workloads, in the order in which they are run.
pub const WORKLOADS: &[Workload] = &[
    workload("hello5", "five native activities in a row, 512 instances in flight"),
    workload("hello5-wasm", "the same with activities in a wasm component, beside native ones"),
    workload("hello5-remote", "the same with workers over loopback HTTP"),
    workload("hello5-slow-disk", "hello5 with 1 ms and 5 ms added to every sync"),
    workload("lone", "one instance, 1,000 steps"),
    workload("lone-slow-disk", "the same with 1 ms and 5 ms added to every sync"),
    workload("fan-out", "10 to 100,000 activities at once in one instance"),
    workload("sequence", "100 to 1,000,000 activities in a row in one instance"),
    workload("replay", "the history of 50,000 steps in the sandbox"),
    workload("wake", "an evicted instance with 10 to 1,000,000 events goes on"),
    workload("resident", "memory of a guest that waits"),
    workload("sleeping", "memory of 1,000,000 instances that sleep for long"),
    workload("due", "100,000 sleepers, all due at once"),
    workload("restart", "a host opened with 100,000 running instances"),
    workload("storage", "bytes on disk and bytes written"),
    workload("latency", "how long a start takes at half of the maximal load"),
    workload("burst", "how long a burst at half of the maximal load makes others slow"),
];

/// How much is run.
#[derive(Clone, Debug)]
pub struct Settings {
    /// The orchestrations of `examples/bench`.
    pub module: Vec<u8>,
    /// Its activities; without them the workloads that need them fail.
    pub activities: Option<Vec<u8>>,
    /// An empty folder on the disk that is to be measured.
    pub folder: PathBuf,
    /// 1 is the full size; smaller is faster and rougher.
    pub scale: f64,
}

impl Settings {
    fn scaled(&self, full: u32) -> u32 {
        ((f64::from(full) * self.scale) as u32).max(1)
    }
}

/// One workload's result.
#[derive(Clone, Debug, Serialize, Deserialize)]
pub struct Measured {
    /// Which workload.
    pub workload: String,
    /// What is measured, with its unit in the name.
    pub figure: String,
    /// The figure.
    pub value: f64,
    /// What it is to stay below, or above where `at_least` is set.
    pub target: f64,
    /// Whether more is better.
    pub at_least: bool,
    /// Whether the target is met.
    pub met: bool,
    /// The floor, in words and as a value of the same unit.
    pub floor: Value,
    /// Everything else that was measured.
    pub detail: Value,
}

impl Measured {
    fn at_most(workload: &str, figure: &str, value: f64, target: f64, floor: Value, detail: Value) -> Self {
        let (workload, figure) = (workload.to_owned(), figure.to_owned());
        Self { workload, figure, value, target, at_least: false, met: value <= target, floor, detail }
    }

    fn at_least(workload: &str, figure: &str, value: f64, target: f64, floor: Value, detail: Value) -> Self {
        let (workload, figure) = (workload.to_owned(), figure.to_owned());
        Self { workload, figure, value, target, at_least: true, met: value >= target, floor, detail }
    }

    /// How much better this is than `before`: 1.1 is a tenth better.
    pub fn better_than(&self, before: &Self) -> f64 {
        if self.at_least { self.value / before.value } else { before.value / self.value }
    }
}

/// Runs one workload.
///
/// # Errors
/// If the engine fails, or what it computed is wrong.
pub async fn run(workload: &str, settings: &Settings) -> anyhow::Result<Measured> {
    match workload {
        "hello5" => steps::hello5(settings).await,
        "hello5-wasm" => steps::hello5_wasm(settings).await,
        "hello5-remote" => remote::hello5(settings).await,
        "hello5-slow-disk" => disk::hello5(settings).await,
        "lone" => steps::lone(settings).await,
        "lone-slow-disk" => disk::lone(settings).await,
        "fan-out" => shapes::fan_out(settings).await,
        "sequence" => shapes::sequence(settings).await,
        "replay" => histories::replay(settings).await,
        "wake" => histories::wake(settings).await,
        "resident" => many::resident(settings).await,
        "sleeping" => many::sleeping(settings).await,
        "due" => many::due(settings).await,
        "restart" => many::restart(settings).await,
        "storage" => histories::storage(settings).await,
        "latency" => latency::starts(settings).await,
        "burst" => latency::burst(settings).await,
        other => {
            let names: Vec<_> = WORKLOADS.iter().map(|workload| workload.name).collect();
            anyhow::bail!("unknown workload {other:?}: expected one of {}", names.join(", "))
        }
    }
}
