//! `dacapo explore`: an orchestration in every order of what can happen to it.

use std::path::PathBuf;

use serde_json::json;

use super::error::{CliError, Result, exit};
use super::output::out;
use super::progress::Progress;
use super::{Common, input, output};
use crate::project::Project;
use crate::replay::explore::model_file::{Expected, Instance, ModelFile, ModelFileError};
use crate::replay::explore::{Bounds, Explorer, Model, Report};
use crate::replay::subject::{Subject, SubjectError};

#[derive(Debug, clap::Args)]
pub(super) struct Args {
    /// A folder with a dacapo.toml, a crate's folder, or a .wasm file
    path: PathBuf,
    /// What to run; without it, the instances of the model file
    #[arg(long, value_name = "NAME")]
    orchestration: Option<String>,
    /// Its input
    #[arg(long, value_name = "JSON|@FILE|-", requires = "orchestration")]
    input: Option<String>,
    /// How many of it run beside each other
    #[arg(long, value_name = "N", default_value_t = 1, requires = "orchestration")]
    instances: u32,
    /// What activities do; without it, each returns null
    #[arg(long, value_name = "FILE")]
    model: Option<PathBuf>,
    /// How instances are to end; overrides the model file
    #[arg(long, value_name = "OUTCOMES")]
    expect: Option<Expected>,
    /// Failures injected in one schedule
    #[arg(long, value_name = "N", default_value_t = Bounds::default().failures)]
    failures: u32,
    /// Crashes of the host in one schedule
    #[arg(long, value_name = "N", default_value_t = Bounds::default().crashes)]
    crashes: u32,
    /// Steps of one schedule
    #[arg(long, value_name = "N", default_value_t = Bounds::default().depth)]
    depth: u32,
    /// Worlds that are looked at
    #[arg(long, value_name = "N", default_value_t = Bounds::default().worlds)]
    max_worlds: usize,
    /// Write the histories of a schedule that breaks what must hold: recordings for `dacapo replay`
    #[arg(long, value_name = "FILE")]
    save: Option<PathBuf>,
}

pub(super) fn run(args: &Args, common: &Common) -> Result<()> {
    let file = args.model.as_deref().map(ModelFile::read).transpose().map_err(bad_model)?;
    let mut file = file.unwrap_or_else(|| ModelFile {
        activities: [("*".to_owned(), Default::default())].into(),
        ..ModelFile::default()
    });
    file.at_end.outcomes = args.expect.unwrap_or(file.at_end.outcomes);
    let progress = Progress::new(common.json);
    progress.now("building");
    let built = Project::open(&args.path)?.build_orchestration(&mut |line| progress.now(line))?;
    progress.now("exploring");
    let explorer = instances(args, &file, Explorer::new(&Subject::of(&built.bytes).map_err(bad_subject)?))?;
    let bounds = Bounds { depth: args.depth, worlds: args.max_worlds, failures: args.failures, crashes: args.crashes };
    let names = file.names();
    let explorer = file.prepare(explorer.bounds(bounds)).map_err(bad_model)?;
    let report = quietly(|| explorer.explore(names)).map_err(bad_subject)?;
    progress.finish();
    tell(&report, args, common)
}

fn instances<M: Model>(args: &Args, file: &ModelFile, mut explorer: Explorer<M>) -> Result<Explorer<M>> {
    let Some(orchestration) = &args.orchestration else {
        if file.instances.is_empty() {
            return Err(CliError::input("nothing to run: give --orchestration, or a --model with [[instances]]"));
        }
        let add = |explorer: Explorer<M>, instance: &Instance| {
            explorer.instance(&instance.id, &instance.orchestration, &instance.input)
        };
        return Ok(file.instances.iter().fold(explorer, add));
    };
    let given = args.input.as_deref().map(|text| input::payload("the input", text)).transpose()?;
    let given = given.and_then(|payload| payload.to_json()).unwrap_or_default();
    for number in 1..=args.instances {
        let id = if args.instances == 1 { orchestration.clone() } else { format!("{orchestration}-{number}") };
        explorer = explorer.instance(&id, orchestration, &given);
    }
    Ok(explorer)
}

/// Broken assertions are told once, by the report.
fn quietly<T>(explore: impl FnOnce() -> T) -> T {
    let hook = std::panic::take_hook();
    std::panic::set_hook(Box::new(|_| ()));
    let done = explore();
    std::panic::set_hook(hook);
    done
}

fn tell(report: &Report, args: &Args, common: &Common) -> Result<()> {
    let mut saved = Vec::new();
    if let (Some(violation), Some(path)) = (&report.violation, &args.save) {
        let cannot = |error| CliError::host(format!("cannot write {}: {error}", path.display()));
        saved = violation.save(path).map_err(cannot)?;
    }
    if common.json {
        let mut value = report.to_json();
        value["saved"] = json!(saved);
        output::json(&value);
    } else {
        out(report);
        saved.iter().for_each(|path| out(format_args!("saved {}", path.display())));
    }
    match &report.violation {
        Some(violation) => {
            let first = violation.what.lines().next().unwrap_or_default();
            Err(CliError::new(exit::FAILED, "violated", format!("in some order {first}")))
        }
        None => Ok(()),
    }
}

fn bad_model(error: ModelFileError) -> CliError {
    CliError::new(exit::INPUT, "bad-model", error.to_string())
}

fn bad_subject(error: SubjectError) -> CliError {
    match error {
        SubjectError::Project(error) => error.into(),
        SubjectError::UnknownOrchestration { .. } => {
            CliError::new(exit::NOT_FOUND, "unknown-orchestration", error.to_string())
        }
        SubjectError::Sandbox(_) => CliError::host(error.to_string()),
        error => CliError::input(error.to_string()),
    }
}
