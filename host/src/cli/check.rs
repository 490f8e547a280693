//! `dacapo check`: would this build have done what happened?

use std::path::{Path, PathBuf};

use serde_json::Value;

use super::client::{Access, Client};
use super::error::{CliError, Result, exit};
use super::output::{Table, brief, clean, field, out};
use super::progress::Progress;
use super::{Common, output};
use crate::core::divergence::Report;
use crate::engine::upgrade::{Scope, candidate};
use crate::engine::{EngineError, Upload};
use crate::project::Project;
use crate::replay::check::{Candidate, Checked, in_parallel, report, sandbox_of};
use crate::replay::recording::Recording;
use crate::replay::source::Sources;
use crate::sandbox::shared_cache;
use crate::server::versions::MigrateBody;

/// What stands for every instance that runs.
const RUNNING: &str = "running";

#[derive(Debug, clap::Args)]
pub(super) struct Args {
    /// The new build: a project, a crate or a .wasm file
    #[arg(value_name = "NEW")]
    new: PathBuf,
    /// What to check it against: `running` instances, recordings, or folders of recordings
    #[arg(long, value_name = "running|FILE|DIR", num_args = 1.., default_value = RUNNING)]
    against: Vec<String>,
    /// Only histories of this orchestration
    #[arg(long, value_name = "NAME")]
    orchestration: Option<String>,
    /// Only instances that run a version of this module
    #[arg(long, value_name = "MODULE")]
    name: Option<String>,
    /// Keep the new build and move the running instances that match to it; new
    /// starts do not take it
    #[arg(long)]
    migrate: bool,
    /// Report on each history that differs, not only on the first of each kind
    #[arg(long)]
    all: bool,
    /// The version that --migrate keeps it as; without one, the first digits of its hash
    #[arg(long, requires = "migrate")]
    version: Option<String>,
}

pub(super) async fn run(args: Args, common: &Common) -> Result<()> {
    let (running, paths): (Vec<_>, Vec<_>) = args.against.iter().partition(|against| *against == RUNNING);
    if args.migrate && !paths.is_empty() {
        return Err(CliError::input("only running instances can be migrated: leave out --against, or --migrate"));
    }
    let progress = Progress::new(common.json);
    progress.now("building");
    let built = Project::open(&args.new)?.build(&mut |line| progress.now(line))?.into_iter().next();
    let built = built.ok_or_else(|| CliError::input("there is no module to check"))?;
    progress.now("checking");
    let mut found = Value::Null;
    if !paths.is_empty() {
        let paths = paths.into_iter().map(PathBuf::from).collect();
        found = of_files(&built.bytes, paths, args.orchestration.as_deref())?;
    }
    if !running.is_empty() {
        let scope = Scope { orchestration: args.orchestration, name: args.name.clone(), ..Scope::default() };
        let access = if args.migrate { Access::Run } else { Access::Read };
        let client = Client::open(common, access).await?;
        let report = if args.migrate {
            let name = args.name.unwrap_or(built.name);
            let upload =
                Upload { bytes: built.bytes, name, version: args.version, held_back: true, ..Upload::default() };
            let kept = client.upload(upload)?;
            let body =
                MigrateBody { module: field(&kept, "hash"), orchestration: scope.orchestration, name: scope.name };
            client.migrate(body).await?
        } else {
            client.check(built.bytes, scope).await?
        };
        found = joined(found, report);
    }
    progress.finish();
    show(&found, args.migrate, args.all, common)
}

/// Checks recordings; those of other orchestrations than the build offers are of
/// something else, unless they were named one by one.
fn of_files(bytes: &[u8], paths: Vec<PathBuf>, orchestration: Option<&str>) -> Result<Value> {
    let sandbox = sandbox_of(&Default::default(), shared_cache()).map_err(EngineError::Sandbox)?;
    let candidate = candidate(&sandbox, bytes)?;
    let mut files: Vec<(PathBuf, bool)> = Vec::new();
    for path in paths {
        match path.is_dir() {
            true => files.extend(recordings_in(&path)?.into_iter().map(|file| (file, false))),
            false => files.push((path, true)),
        }
    }
    let lines = in_parallel(files, |(file, named)| check_file(&candidate, &file, named, orchestration));
    let lines: Result<Vec<Option<Checked>>> = lines.into_iter().collect();
    Ok(report(&lines?.into_iter().flatten().collect::<Vec<_>>()))
}

/// The recordings in a folder, at any depth, by name.
pub(super) fn recordings_in(folder: &Path) -> Result<Vec<PathBuf>> {
    let cannot = |error: std::io::Error| CliError::host(format!("cannot read {}: {error}", folder.display()));
    let mut files = Vec::new();
    for entry in std::fs::read_dir(folder).map_err(cannot)? {
        let path = entry.map_err(cannot)?.path();
        if path.is_dir() {
            files.extend(recordings_in(&path)?);
        } else if path.extension().is_some_and(|extension| extension == "dacapo") {
            files.push(path);
        }
    }
    files.sort();
    Ok(files)
}

fn check_file(candidate: &Candidate, file: &Path, named: bool, orchestration: Option<&str>) -> Result<Option<Checked>> {
    let name = file.display().to_string();
    let bytes = match std::fs::read(file) {
        Ok(bytes) => bytes,
        Err(error) if error.kind() == std::io::ErrorKind::NotFound => {
            let message = format!("there is no recording {name}; write one with `dacapo history ID --output FILE`");
            return Err(CliError::new(exit::NOT_FOUND, "not-found", message));
        }
        Err(error) => return Err(CliError::host(format!("cannot read {name}: {error}"))),
    };
    let recording = Recording::decode(&bytes).and_then(|recording| recording.records());
    let records = recording.map_err(|error| CliError::new(exit::INPUT, "bad-recording", format!("{name}: {error}")))?;
    let checked = candidate.check(&name, &records);
    let asked_for = orchestration.is_none_or(|wanted| wanted == checked.orchestration);
    let of_another = !named && !candidate.runs(&checked.orchestration);
    Ok(Some(checked).filter(|_| asked_for && !of_another))
}

fn joined(mut report: Value, more: Value) -> Value {
    if report.is_null() {
        return more;
    }
    let (Some(lines), Some(other)) = (report["checked"].as_array_mut(), more["checked"].as_array()) else {
        return report;
    };
    lines.extend(other.iter().cloned());
    for sum in ["same", "different", "migrated"] {
        report[sum] = (report[sum].as_u64().unwrap_or(0) + more[sum].as_u64().unwrap_or(0)).into();
    }
    report
}

/// Prints a check and fails if something differs: for pipelines.
pub(super) fn show(found: &Value, migrate: bool, all: bool, common: &Common) -> Result<()> {
    if common.json {
        output::json(found);
    } else {
        let lines = found["checked"].as_array().map_or(&[][..], Vec::as_slice);
        print(lines);
        print_reports(lines, all);
        let mut sum = format!("{} the same, {} different", field(found, "same"), field(found, "different"));
        if migrate {
            sum.push_str(&format!(", {} migrated", field(found, "migrated")));
        }
        out(sum);
    }
    verdict(found)
}

/// Fails if something differs.
pub(super) fn verdict(found: &Value) -> Result<()> {
    let lines = found["checked"].as_array().map_or(&[][..], Vec::as_slice);
    let left = lines.iter().filter(|line| line["migrated"] == false).count();
    let different = found["different"].as_u64().unwrap_or(0);
    if different == 0 && left == 0 {
        return Ok(());
    }
    let message = if different > 0 {
        format!(
            "{different} of {} histories differ; keep them on the module they run, or guard the change with `patched`",
            lines.len()
        )
    } else {
        format!("{left} of {} instances were not migrated; run it again", lines.len())
    };
    Err(CliError::new(exit::FAILED, "check-differs", message))
}

/// The full reports: the first of each kind of difference, or all of them. The
/// source lines are read here, wherever the histories were replayed.
fn print_reports(lines: &[Value], all: bool) {
    let reports = lines.iter().filter_map(|line| serde_json::from_value::<Report>(line["report"].clone()).ok());
    let mut kinds: Vec<(Report, usize)> = Vec::new();
    for report in reports {
        match kinds.iter_mut().find(|(first, _)| !all && first.kind() == report.kind()) {
            Some((_, more)) => *more += 1,
            None => kinds.push((report, 0)),
        }
    }
    let mut sources = Sources::here();
    for (report, more) in kinds {
        out("");
        out(clean(&sources.tell(&report)));
        if more > 0 {
            out(format_args!("{more} more differ like this; --all reports on each"));
        }
    }
    if lines.iter().any(|line| !line["report"].is_null()) {
        out("");
    }
}

fn print(lines: &[Value]) {
    let mut table = Table::new(&["ID", "ORCHESTRATION", "EVENTS", "RESULT", "RECORDED", "ASKED"]);
    for line in lines {
        let mut result = field(line, "summary");
        match &line["migrated"] {
            Value::Bool(true) => result.push_str(", migrated"),
            Value::Bool(false) => result.push_str(&format!(", not migrated: {}", field(line, "not_migrated"))),
            _ => {}
        }
        let recorded = if line["why"].is_null() { field(line, "recorded_summary") } else { field(line, "why") };
        table.row([
            field(line, "id"),
            field(line, "orchestration"),
            field(line, "events"),
            result,
            brief(&recorded, 70),
            brief(&field(line, "asked_summary"), 70),
        ]);
    }
    table.print();
}
