//! `dacapo bench`: see [`crate::bench`].

use std::path::PathBuf;

use super::error::{CliError, Result};
use super::{Common, output};
use crate::bench::{Measured, Settings, WORKLOADS};
use crate::project::Project;

/// What `bench` takes.
#[derive(Debug, clap::Args)]
pub(crate) struct Args {
    /// Only these workloads; all if none is named
    #[arg(value_name = "WORKLOAD", value_parser = WORKLOADS)]
    workloads: Vec<String>,
    /// The crate or .wasm with the orchestrations that are measured
    #[arg(long, value_name = "PATH", default_value = "examples/bench/orchestration")]
    module: PathBuf,
    /// The part of the full size that is run, more than 0
    #[arg(long, default_value_t = 1.0)]
    scale: f64,
}

/// Runs the workloads on the disk of the data folder; one JSON object each.
pub(crate) async fn run(args: &Args, common: &Common) -> Result<()> {
    if !(args.scale > 0.0 && args.scale.is_finite()) {
        return Err(CliError::input(format!("--scale must be more than 0, found {}", args.scale)));
    }
    let module = Project::open(&args.module)?.build(&mut |_| {})?.into_iter().next();
    let module = module.ok_or_else(|| CliError::input("there is no module to measure"))?.bytes;
    let folder = common.data.join("bench");
    let workloads: Vec<&str> = match args.workloads.as_slice() {
        [] => WORKLOADS.to_vec(),
        named => named.iter().map(String::as_str).collect(),
    };
    for workload in workloads {
        let _ = std::fs::remove_dir_all(&folder);
        let settings = Settings { module: module.clone(), folder: folder.clone(), scale: args.scale };
        let measured = crate::bench::run(workload, &settings).await;
        let _ = std::fs::remove_dir_all(&folder);
        let measured = measured.map_err(|error| CliError::host(format!("{workload}: {error:#}")))?;
        show(&measured)?;
    }
    Ok(())
}

fn show(measured: &Measured) -> Result<()> {
    let value = serde_json::to_value(measured).map_err(|error| CliError::host(error.to_string()))?;
    output::json(&value);
    Ok(())
}
