//! `dacapo replay`: a recorded history again, in the sandbox, without effects.

use std::path::{Path, PathBuf};

use serde_json::{Value, json};

use super::client::{Access, Client};
use super::error::{CliError, Result, exit};
use super::output::{brief, clean, out};
use super::progress::{Progress, log_line};
use super::{Common, input, output, store};
use crate::core::event::Event;
use crate::core::turn::{Divergence, LogLine};
use crate::engine::EngineError;
use crate::project::Project;
use crate::replay::recording::Recording;
use crate::replay::{Replayed, Watcher, replay};
use crate::sandbox::Sandbox;
use crate::server::api::RecordingQuery;
use crate::store::ModuleKind;

#[derive(Debug, clap::Args)]
pub(super) struct Args {
    /// A recording, or the id of an instance
    #[arg(value_name = "FILE|ID")]
    what: String,
    /// Run this module instead of the recorded one: a project, a crate or a .wasm file
    #[arg(long, value_name = "PATH")]
    module: Option<PathBuf>,
    /// Which execution of an instance; without it, the current one
    #[arg(long, value_name = "N")]
    execution: Option<u32>,
    /// Show what the guest logs, too
    #[arg(long)]
    logs: bool,
}

pub(super) async fn run(args: &Args, common: &Common) -> Result<()> {
    let recording = read(args, common).await?;
    let damaged = |error: crate::replay::recording::RecordingError| {
        CliError::new(exit::INPUT, "bad-recording", error.to_string())
    };
    let turns = recording.records().map_err(damaged)?;
    let sandbox = Sandbox::new(store::settings(&common.data).sandbox, None);
    let sandbox = sandbox.map_err(|error| EngineError::Sandbox(format!("{error:#}")))?;
    let bytes = module(args, &recording, common).await?;
    let found = sandbox.inspect(&bytes).map_err(EngineError::from)?;
    if found.kind != ModuleKind::Orchestration {
        return Err(CliError::input("the module offers activities; a replay wants the orchestrations"));
    }
    let loaded = sandbox.load(found.hash, &found.component);
    let loaded = loaded.map_err(|error| EngineError::Sandbox(format!("{error:#}")))?;
    let mut printer = Printer { silent: common.json, logs: args.logs };
    let replayed = replay(&loaded, &turns, &mut printer);
    tell(&recording, replayed, common)
}

async fn read(args: &Args, common: &Common) -> Result<Recording> {
    let bytes = if Path::new(&args.what).is_file() {
        std::fs::read(&args.what).map_err(|error| CliError::host(format!("cannot read {}: {error}", args.what)))?
    } else if store::exists(&common.data) {
        let query = RecordingQuery { execution: args.execution, with_module: args.module.is_none() };
        Client::open(&common.data, Access::Read).await?.recording(&input::id(&args.what)?, &query)?
    } else {
        let message = format!("{:?} is no file, and there is no data folder {}", args.what, common.data.display());
        return Err(CliError::new(exit::NOT_FOUND, "not-found", message));
    };
    Recording::decode(&bytes)
        .map_err(|error| CliError::new(exit::INPUT, "bad-recording", format!("{}: {error}", args.what)))
}

/// The module to run: the one given, the one inside, or the one that is stored.
async fn module(args: &Args, recording: &Recording, common: &Common) -> Result<Vec<u8>> {
    if let Some(path) = &args.module {
        let progress = Progress::new(common.json);
        let built = Project::open(path)?.build(&mut |line| progress.now(line))?;
        progress.finish();
        return Ok(built.into_iter().next().map(|built| built.bytes).unwrap_or_default());
    }
    if let Some(module) = &recording.module {
        return Ok(module.clone());
    }
    let stored = match store::exists(&common.data) {
        true => Client::open(&common.data, Access::Read).await?.module_bytes(&recording.module_hash)?,
        false => None,
    };
    stored.ok_or_else(|| {
        let message = format!(
            "the recording has no module inside and {} is not stored here; name one with --module, or record with \
             --with-module",
            recording.module_hash.short()
        );
        CliError::new(exit::NOT_FOUND, "unknown-module", message)
    })
}

struct Printer {
    silent: bool,
    logs: bool,
}

impl Watcher for Printer {
    fn event(&mut self, number: u32, turn: u32, event: &Event) {
        if !self.silent {
            let what = brief(&event.summary(200), 240);
            out(format_args!("{number:>5} {turn:>5}  {:<23} {what}", event.kind()));
        }
    }

    fn log(&mut self, turn: u32, line: &LogLine) {
        if self.logs && !self.silent {
            out(clean(&format!("{:>5} {turn:>5}  {}", "log", log_line("", line))));
        }
    }
}

fn tell(recording: &Recording, replayed: Replayed, common: &Common) -> Result<()> {
    let summary = format!("matched {} events in {} turns", replayed.events, replayed.turns);
    let divergence = replayed.divergence.as_deref().map(divergence_json);
    if common.json {
        output::json(&json!({
            "instance": recording.instance,
            "execution": recording.execution,
            "matched": replayed.matched(),
            "events": replayed.events,
            "turns": replayed.turns,
            "divergence": divergence,
            "error": replayed.error,
        }));
    } else if replayed.matched() {
        out(summary);
    } else if let Some(divergence) = &replayed.divergence {
        out(format_args!("{:>5} differs", divergence.event));
        out(format_args!("      recorded  {}", side(divergence.recorded.as_ref())));
        out(format_args!("      asked     {}", side(divergence.asked.as_ref())));
    }
    match (replayed.divergence, replayed.error) {
        (Some(found), _) => {
            let mut error = CliError::new(exit::FAILED, "replay-differs", found.to_string());
            error.more = divergence.map(|divergence| Box::new(("divergence", divergence)));
            Err(error)
        }
        (None, Some(error)) => Err(CliError::new(exit::FAILED, "replay-failed", error)),
        (None, None) => Ok(()),
    }
}

fn side(event: Option<&Event>) -> String {
    event.map_or_else(|| "nothing".to_owned(), |event| brief(&format!("{} {}", event.kind(), event.summary(400)), 500))
}

fn divergence_json(divergence: &Divergence) -> Value {
    json!({
        "event": divergence.event,
        "recorded": divergence.recorded.as_ref().map(Event::to_json),
        "asked": divergence.asked.as_ref().map(Event::to_json),
    })
}
