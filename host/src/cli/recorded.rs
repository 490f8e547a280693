//! A recorded history and the module to run it in: what `replay` and `debug` take.

use std::path::{Path, PathBuf};

use super::client::{Access, Client};
use super::error::{CliError, Result, exit};
use super::progress::Progress;
use super::{Common, input, store};
use crate::core::event::Event;
use crate::core::turn::TurnRecord;
use crate::engine::EngineError;
use crate::project::Project;
use crate::replay::recording::Recording;
use crate::sandbox::{Inspected, OrchestrationModule, Sandbox};
use crate::server::api::RecordingQuery;
use crate::store::ModuleKind;

#[derive(Debug, clap::Args)]
pub(super) struct Recorded {
    /// A recording, or the id of an instance
    #[arg(value_name = "FILE|ID")]
    what: String,
    /// Run this module instead of the recorded one: a project, a crate or a .wasm file
    #[arg(long, value_name = "PATH")]
    module: Option<PathBuf>,
    /// Which execution of an instance; without it, the current one
    #[arg(long, value_name = "N")]
    execution: Option<u32>,
}

impl Recorded {
    /// The history, from a file or from the data folder; every byte is checked.
    pub(super) async fn read(&self, common: &Common) -> Result<(Recording, Vec<TurnRecord>)> {
        let bytes = if Path::new(&self.what).is_file() {
            std::fs::read(&self.what).map_err(|error| CliError::host(format!("cannot read {}: {error}", self.what)))?
        } else if store::exists(&common.data) {
            let query = RecordingQuery { execution: self.execution, with_module: self.module.is_none() };
            Client::open(common, Access::Read).await?.recording(&input::id(&self.what)?, &query)?
        } else {
            let message = format!("{:?} is no file, and there is no data folder {}", self.what, common.data.display());
            return Err(CliError::new(exit::NOT_FOUND, "not-found", message));
        };
        let bad = |message: String| CliError::new(exit::INPUT, "bad-recording", message);
        let recording = Recording::decode(&bytes).map_err(|error| bad(format!("{}: {error}", self.what)))?;
        let turns = recording.records().map_err(|error| bad(error.to_string()))?;
        Ok((recording, turns))
    }

    /// The module to run: the one given, the one inside, or the one that is stored.
    pub(super) async fn module(
        &self,
        recording: &Recording,
        turns: &[TurnRecord],
        sandbox: &Sandbox,
        common: &Common,
    ) -> Result<OrchestrationModule> {
        let found = match &self.module {
            Some(path) => built(path, turns, sandbox, common)?,
            None => sandbox.inspect(&self.recorded_module(recording, common).await?).map_err(EngineError::from)?,
        };
        if found.kind != ModuleKind::Orchestration {
            return Err(CliError::input("the module offers activities; a replay wants the orchestrations"));
        }
        let loaded = sandbox.load(found.hash, &found.component);
        Ok(loaded.map_err(|error| EngineError::Sandbox(format!("{error:#}")))?)
    }

    async fn recorded_module(&self, recording: &Recording, common: &Common) -> Result<Vec<u8>> {
        if let Some(module) = &recording.module {
            return Ok(module.clone());
        }
        let stored = match store::exists(&common.data) {
            true => Client::open(common, Access::Read).await?.module_bytes(&recording.module_hash)?,
            false => None,
        };
        stored.ok_or_else(|| {
            let message = format!(
                "the recording has no module inside and {} is not stored here; name one with --module, or record \
                 with --with-module",
                recording.module_hash.short()
            );
            CliError::new(exit::NOT_FOUND, "unknown-module", message)
        })
    }
}

/// Of what is built at `path`, the module with the recorded orchestration.
fn built(path: &Path, turns: &[TurnRecord], sandbox: &Sandbox, common: &Common) -> Result<Inspected> {
    let Some(Event::ExecutionStarted(started)) = turns.first().and_then(|first| first.events.first()) else {
        return Err(CliError::input("the history does not begin with execution-started"));
    };
    let progress = Progress::new(common.json);
    let built = Project::open(path)?.build(&mut |line| progress.now(line))?;
    progress.finish();
    let mut offered = Vec::new();
    for module in built {
        let found = sandbox.inspect(&module.bytes).map_err(EngineError::from)?;
        let names = found.offers.iter().map(|offer| offer.name.clone());
        if found.kind == ModuleKind::Orchestration {
            if found.offers.iter().any(|offer| offer.name == started.orchestration) {
                return Ok(found);
            }
            offered.extend(names);
        }
    }
    let message = format!(
        "the history is of the orchestration {}, the modules of {} offer {}",
        started.orchestration,
        path.display(),
        if offered.is_empty() { "none".to_owned() } else { offered.join(", ") }
    );
    Err(CliError::new(exit::NOT_FOUND, "unknown-orchestration", message))
}
