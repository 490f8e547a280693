//! `dacapo bench`: see [`crate::bench`].

use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};

use clap::builder::{PossibleValue, PossibleValuesParser};
use serde::de::DeserializeOwned;

use super::error::{CliError, Result};
use super::{Common, output};
use crate::bench::{COUNTED, Counted, Measured, Settings, WORKLOADS};
use crate::project::Project;

/// What `bench` takes.
#[derive(Debug, clap::Args)]
pub(crate) struct Args {
    /// Only these workloads; all if none is named
    #[arg(value_name = "WORKLOAD", value_parser = PossibleValuesParser::new(workloads()))]
    workloads: Vec<String>,
    /// The folder with the modules that are measured
    #[arg(long, value_name = "PATH", default_value = "examples/bench")]
    module: PathBuf,
    /// The part of the full size that is run, more than 0
    #[arg(long, default_value_t = 1.0)]
    scale: f64,
    /// What an earlier run printed: say how much better each workload is
    #[arg(long, value_name = "OLD.json")]
    compare: Option<PathBuf>,
    /// Count instructions instead, under valgrind: what does not depend on how busy the
    /// machine is. With --compare, 5 % more than before is an error
    #[arg(long, conflicts_with = "workloads")]
    instructions: bool,
    /// What --instructions runs under valgrind
    #[arg(long, hide = true, value_name = "WORKLOAD")]
    counted: Option<String>,
}

fn workloads() -> impl Iterator<Item = PossibleValue> {
    WORKLOADS.iter().map(|workload| PossibleValue::new(workload.name).help(workload.about))
}

/// Runs the workloads on the disk of the data folder, each in a process of its own; one JSON
/// object each.
pub(crate) async fn run(args: &Args, common: &Common) -> Result<()> {
    if !(args.scale > 0.0 && args.scale.is_finite()) {
        return Err(CliError::input(format!("--scale must be more than 0, found {}", args.scale)));
    }
    if let Some(workload) = &args.counted {
        let done = crate::bench::run_counted(workload, &common.data);
        output::out(done.map_err(|error| CliError::host(format!("{workload}: {error:#}")))?);
        return Ok(());
    }
    if args.instructions {
        return count(args, common);
    }
    let before: Vec<Measured> = earlier(args)?;
    // What cannot be built is told before anything is run.
    let settings = settings(args, common)?;
    let workloads: Vec<&str> = match args.workloads.as_slice() {
        [] => WORKLOADS.iter().map(|workload| workload.name).collect(),
        named => named.iter().map(String::as_str).collect(),
    };
    if let [workload] = workloads[..] {
        let _cleared = Cleared::new(&settings.folder);
        let measured = crate::bench::run(workload, &settings).await;
        return show(&measured.map_err(failed(workload))?, &before);
    }
    for workload in workloads {
        show(&apart(workload, args, common)?, &before)?;
    }
    Ok(())
}

/// Runs a workload in a process of its own: in one that has run another, memory comes and
/// goes that is not its own.
fn apart(workload: &str, args: &Args, common: &Common) -> Result<Measured> {
    let failed = |why: String| CliError::host(format!("{workload}: {why}"));
    let mut program = Command::new(std::env::current_exe().map_err(|error| failed(error.to_string()))?);
    program.args(["bench", workload, "--scale", &args.scale.to_string()]);
    program.arg("--module").arg(&args.module).arg("--data").arg(&common.data);
    if common.json {
        program.arg("--json");
    }
    let ended = program.stderr(Stdio::inherit()).output().map_err(|error| failed(error.to_string()))?;
    if !ended.status.success() {
        return Err(failed(format!("its process ended with {}; why is told above", ended.status)));
    }
    serde_json::from_slice(&ended.stdout).map_err(|error| failed(error.to_string()))
}

/// Instructions of each workload that is counted; an error if one takes many more than
/// it did.
fn count(args: &Args, common: &Common) -> Result<()> {
    let before: Vec<Counted> = earlier(args)?;
    let settings = Settings { scale: 1.0, ..settings(args, common)? };
    let mut worse = Vec::new();
    for workload in COUNTED {
        let _cleared = Cleared::new(&settings.folder);
        let counted = crate::bench::count(workload.name, &settings).map_err(failed(workload.name))?;
        output::json(&serde_json::to_value(&counted).map_err(|error| CliError::host(error.to_string()))?);
        if let Some(old) = before.iter().find(|old| old.counted == counted.counted && counted.is_worse_than(old)) {
            worse.push(format!(
                "{} takes {} instructions a {}, {:.1} % more than {}",
                counted.counted,
                counted.instructions,
                counted.unit,
                (counted.instructions / old.instructions - 1.0) * 100.0,
                old.instructions
            ));
        }
    }
    if worse.is_empty() {
        return Ok(());
    }
    Err(CliError::host(format!(
        "{}; if that is meant, keep what this printed as the file compared with, and say why",
        worse.join("; ")
    )))
}

/// What is measured, and where.
fn settings(args: &Args, common: &Common) -> Result<Settings> {
    let mut modules = Project::open(&args.module)?.build(&mut |_| {})?.into_iter().map(|module| module.bytes);
    let module = modules.next().ok_or_else(|| CliError::input("there is no module to measure"))?;
    Ok(Settings { module, activities: modules.next(), folder: common.data.join("bench"), scale: args.scale })
}

fn failed(workload: &str) -> impl Fn(anyhow::Error) -> CliError {
    move |error| CliError::host(format!("{workload}: {error:#}"))
}

/// The folder of one workload: empty before, and gone afterwards.
struct Cleared<'a>(&'a Path);

impl<'a> Cleared<'a> {
    fn new(folder: &'a Path) -> Self {
        let _ = std::fs::remove_dir_all(folder);
        Self(folder)
    }
}

impl Drop for Cleared<'_> {
    fn drop(&mut self) {
        let _ = std::fs::remove_dir_all(self.0);
    }
}

/// Reads what an earlier run printed, one JSON object after the other.
fn earlier<T: DeserializeOwned>(args: &Args) -> Result<Vec<T>> {
    let Some(path) = &args.compare else { return Ok(Vec::new()) };
    let wrong = |why: String| {
        CliError::input(format!("cannot compare with {}: {why}; expected what `dacapo bench` printed", path.display()))
    };
    let text = std::fs::read_to_string(path).map_err(|error| wrong(error.to_string()))?;
    let objects = serde_json::Deserializer::from_str(&text).into_iter::<T>();
    objects.collect::<Result<_, _>>().map_err(|error| wrong(error.to_string()))
}

fn show(measured: &Measured, before: &[Measured]) -> Result<()> {
    let mut value = serde_json::to_value(measured).map_err(|error| CliError::host(error.to_string()))?;
    let same = before.iter().find(|old| (&old.workload, &old.figure) == (&measured.workload, &measured.figure));
    if let Some(old) = same {
        value["before"] = old.value.into();
        value["better"] = measured.better_than(old).into();
    }
    output::json(&value);
    Ok(())
}
