//! Whether cost grows with the size of an instance: it must not.

use std::time::Instant;

use serde_json::{Value, json};

use super::machine::Machine;
use super::{Measured, Settings, process};

/// The cost of a branch among very many, in that of one among ten.
pub(super) async fn fan_out(settings: &Settings) -> anyhow::Result<Measured> {
    let machine = Machine::open(settings, "fan-out")?;
    machine.run("warm", "fan_out", json!(100), json!(100)).await?;
    let mut costs = serde_json::Map::new();
    let mut each = Vec::new();
    let sizes = [10, 1_000, 10_000, 100_000].map(|size| settings.scaled(size).max(10));
    let most = sizes[sizes.len() - 1];
    for (size, branches) in sizes.into_iter().enumerate() {
        // As many branches in all at each size, so that all are measured for as long.
        let instances = (most / branches).clamp(1, 1_000);
        let (cpu, clock) = (process::cpu_us(), Instant::now());
        for n in 0..instances {
            let id = format!("fan-{size}-{n}");
            machine.run(&id, "fan_out", json!(branches), json!(branches)).await?;
        }
        let total = f64::from(branches) * f64::from(instances);
        let (cpu, wall) = ((process::cpu_us() - cpu) / total, clock.elapsed().as_secs_f64() * 1e6 / total);
        costs.insert(branches.to_string(), json!({ "cpu_us_per_branch": cpu, "us_per_branch": wall }));
        each.push(cpu);
    }
    let ratio = each[each.len() - 1] / each[0];
    let floor = json!({ "what": "a branch among ten", "cpu_us_per_branch": each[0] });
    Ok(Measured::at_most("fan-out", "largest_to_smallest", ratio, 1.5, floor, Value::Object(costs)))
}

/// The cost of a step in a long sequence, in that of one in a short one.
pub(super) async fn sequence(settings: &Settings) -> anyhow::Result<Measured> {
    let machine = Machine::open(settings, "sequence")?;
    machine.run("warm", "sequence", json!(100), json!(100)).await?;
    let before = process::resident_bytes()?;
    let mut costs = serde_json::Map::new();
    let mut each = Vec::new();
    let sizes = [100, 10_000, 1_000_000].map(|size| settings.scaled(size).max(10));
    for (size, steps) in sizes.into_iter().enumerate() {
        let instances = (sizes[1] / steps).max(1);
        let (cpu, clock) = (process::cpu_us(), Instant::now());
        for n in 0..instances {
            machine.run(&format!("sequence-{size}-{n}"), "sequence", json!(steps), json!(steps)).await?;
        }
        let total = f64::from(steps) * f64::from(instances);
        let (cpu, wall) = ((process::cpu_us() - cpu) / total, clock.elapsed().as_secs_f64() * 1e6 / total);
        let memory = process::resident_bytes()? - before;
        let cost = json!({ "cpu_us_per_step": cpu, "us_per_step": wall, "more_process_bytes": memory });
        costs.insert(steps.to_string(), cost);
        each.push(wall);
    }
    let ratio = each[each.len() - 1] / each[0];
    let floor = json!({ "what": "a step of a hundred", "us_per_step": each[0] });
    Ok(Measured::at_most("sequence", "longest_to_shortest", ratio, 1.5, floor, Value::Object(costs)))
}
