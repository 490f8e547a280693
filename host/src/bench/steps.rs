//! What a step costs.

use std::time::Instant;

use serde_json::json;

use super::machine::{Machine, Opened, fresh, since};
use super::{Measured, Settings, floor, process};
use crate::engine::Upload;
use crate::store::redb::Stats;

pub(super) const IN_FLIGHT: usize = 512;
pub(super) const STEPS_EACH: f64 = 5.0;

/// How a run of many `hello5` went.
pub(super) struct Ran {
    pub(super) steps: f64,
    pub(super) seconds: f64,
    pub(super) cpu_us: f64,
    pub(super) log: Stats,
}

impl Ran {
    pub(super) fn cpu_per_step(&self) -> f64 {
        self.cpu_us / self.steps
    }

    pub(super) fn steps_per_s(&self) -> f64 {
        self.steps / self.seconds
    }
}

/// Runs `instances` after a warm-up: compiled code, pools, the file's first pages.
pub(super) async fn run_hello5(machine: &Machine, instances: u32) -> anyhow::Result<Ran> {
    let warm = 1_000.min(instances);
    machine.hello_many(0..warm, IN_FLIGHT).await?;
    let (before, cpu, clock) = (machine.store.stats(), process::cpu_us(), Instant::now());
    machine.hello_many(warm..warm + instances, IN_FLIGHT).await?;
    Ok(Ran {
        steps: f64::from(instances) * STEPS_EACH,
        seconds: clock.elapsed().as_secs_f64(),
        cpu_us: process::cpu_us() - cpu,
        log: since(before, machine.store.stats()),
    })
}

/// Five native activities in a row.
pub(super) async fn hello5(settings: &Settings) -> anyhow::Result<Measured> {
    let instances = settings.scaled(20_000);
    let machine = Machine::open(settings, "hello5")?;
    let ran = run_hello5(&machine, instances).await?;
    let floor = floor::log_append(&fresh(&machine.folder.join("floor.log"))?, &ran.log)?;
    let bare_commits = floor::bare_commits(&fresh(&machine.folder.join("floor.redb"))?, &ran.log)?;
    let detail = json!({
        "instances": instances,
        "in_flight": IN_FLIGHT,
        "steps_per_s": ran.steps_per_s(),
        "throughput_to_floor": floor.seconds / ran.seconds,
        "throughput_to_bare_redb_commits": bare_commits.seconds / ran.seconds,
        "commits": ran.log.commits,
        "turns_per_commit": ran.log.turns as f64 / ran.log.commits as f64,
        "log_bytes": ran.log.log_bytes,
        "file_bytes": machine.file_bytes()?,
    });
    let floor = json!({
        "what": "bare log append of the same bytes in the same batches",
        "steps_per_s": ran.steps / floor.seconds,
        "cpu_us_per_step": floor.cpu_us / ran.steps,
    });
    Ok(Measured::at_most("hello5", "cpu_us_per_step", ran.cpu_per_step(), 12.0, floor, detail))
}

/// The same with activities in a wasm component, in CPU of native ones.
pub(super) async fn hello5_wasm(settings: &Settings) -> anyhow::Result<Measured> {
    let instances = settings.scaled(10_000);
    let native = run_hello5(&Machine::open(settings, "native")?, instances).await?;
    let machine = Machine::open_with(settings, "wasm", Opened { without_activities: true, ..Opened::default() })?;
    let bytes = settings.activities.clone();
    let bytes = bytes.ok_or_else(|| anyhow::anyhow!("there is no activity module: expected examples/bench"))?;
    machine.engine.upload(Upload { bytes, name: "bench-activities".into(), ..Upload::default() })?;
    let wasm = run_hello5(&machine, instances).await?;
    let ratio = wasm.cpu_per_step() / native.cpu_per_step();
    let floor = json!({ "what": "the same with native activities", "cpu_us_per_step": native.cpu_per_step() });
    let detail = json!({
        "instances": instances,
        "cpu_us_per_step": wasm.cpu_per_step(),
        "steps_per_s": wasm.steps_per_s(),
        "native_steps_per_s": native.steps_per_s(),
    });
    Ok(Measured::at_most("hello5-wasm", "cpu_to_native", ratio, 2.0, floor, detail))
}

/// One instance alone: a step in bare commits.
pub(super) async fn lone(settings: &Settings) -> anyhow::Result<Measured> {
    let steps = settings.scaled(1_000);
    let machine = Machine::open(settings, "lone")?;
    let (step_us, log) = run_lone(&machine, steps).await?;
    let floor = floor::bare_commits(&fresh(&machine.folder.join("floor.redb"))?, &log)?;
    let bare_us = floor.seconds * 1e6 / log.commits as f64;
    let floor = json!({ "what": "bare commit of the same bytes", "commit_us": bare_us });
    let detail = json!({ "steps": steps, "step_us": step_us, "commits": log.commits });
    Ok(Measured::at_most("lone", "step_to_bare_commit", step_us / bare_us, 1.3, floor, detail))
}

/// Steps before those that are measured.
pub(super) const LONE_WARM_STEPS: u32 = 20;

/// Microseconds of a step of an instance that is alone.
pub(super) async fn run_lone(machine: &Machine, steps: u32) -> anyhow::Result<(f64, Stats)> {
    machine.run("warm", "sequence", json!(LONE_WARM_STEPS), json!(LONE_WARM_STEPS)).await?;
    let (before, clock) = (machine.store.stats(), Instant::now());
    machine.run("lone", "sequence", json!(steps), json!(steps)).await?;
    let step_us = clock.elapsed().as_secs_f64() * 1e6 / f64::from(steps);
    Ok((step_us, since(before, machine.store.stats())))
}
