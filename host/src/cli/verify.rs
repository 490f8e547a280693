//! `dacapo verify`: is everything what was written?

use std::path::PathBuf;

use serde_json::{Value, json};

use super::backup::is_backup;
use super::check::recordings_in;
use super::client::{Access, Client, with_query};
use super::error::{CliError, Result, exit};
use super::output::{field, out};
use super::{Common, output, store};
use crate::core::ids::ModuleHash;
use crate::engine::EngineError;
use crate::replay::check::{in_parallel, sandbox_of};
use crate::replay::verify::{Finding, Verified, verify_recording};
use crate::server::verify::VerifyQuery;
use crate::store::backup;

#[derive(Debug, clap::Args)]
pub(super) struct Args {
    /// Recordings, folders of them, or backups; without any, everything in the data folder
    #[arg(value_name = "FILE|DIR")]
    recordings: Vec<PathBuf>,
    /// Run every history again, up to its recorded outcome
    #[arg(long)]
    replay: bool,
}

impl Client {
    async fn verify(&self, query: VerifyQuery) -> Result<Value> {
        match self {
            Self::Local(api, _) => {
                let api = api.clone();
                Ok(crate::server::api::blocking(move || api.verify(query)).await?)
            }
            Self::Remote(server) => server.post(&with_query("verify", &query), &Value::Null),
        }
    }
}

pub(super) async fn run(args: Args, common: &Common) -> Result<()> {
    let found = if args.recordings.is_empty() {
        let client = Client::open(common, Access::Read).await?;
        client.verify(VerifyQuery { replay: args.replay }).await?
    } else {
        json!(of_files(&args, common).await?)
    };
    show(&found, args.replay, common)
}

async fn of_files(args: &Args, common: &Common) -> Result<Verified> {
    let mut files = Vec::new();
    for path in &args.recordings {
        if path.is_dir() { files.extend(recordings_in(path)?) } else { files.push(path.clone()) }
    }
    let sandbox = args.replay.then(|| sandbox_of(&Default::default(), None)).transpose();
    let sandbox = sandbox.map_err(EngineError::Sandbox)?;
    // A recording without its module is replayed with the one that is stored, if there is one.
    let stored = if store::exists(&common.data) { Some(Client::open(common, Access::Read).await?) } else { None };
    let module = |hash: &ModuleHash| stored.as_ref().and_then(|client| client.module_bytes(hash).ok().flatten());
    let all = in_parallel(files, |file| -> Result<Verified> {
        let name = file.display().to_string();
        let bytes = std::fs::read(&file)
            .map_err(|error| CliError::new(exit::NOT_FOUND, "not-found", format!("cannot read {name}: {error}")))?;
        if is_backup(&bytes) {
            return Ok(verify_backup(&name, &bytes));
        }
        Ok(verify_recording(&name, &bytes, sandbox.as_ref(), module))
    });
    let mut verified = Verified::default();
    for found in all {
        verified.add(found?);
    }
    Ok(verified)
}

/// Whether a backup is whole; what is in it is verified where it is restored.
fn verify_backup(name: &str, bytes: &[u8]) -> Verified {
    let mut verified = Verified::default();
    if let Err(error) = backup::check(&mut &bytes[..]) {
        let (of, problem) = (name.to_owned(), error.to_string());
        verified.findings.push(Finding { of, execution: None, event: None, problem });
    }
    verified
}

fn show(found: &Value, replay: bool, common: &Common) -> Result<()> {
    let empty = Vec::new();
    let findings = found["findings"].as_array().unwrap_or(&empty);
    if common.json {
        output::json(found);
    } else {
        for finding in findings {
            let at = |name: &str| match &finding[name] {
                Value::Null => String::new(),
                number => format!(" {name} {number}"),
            };
            let place = format!("{}{}{}", field(finding, "of"), at("execution"), at("event"));
            out(output::clean(&format!("{place}: {}", field(finding, "problem"))));
        }
        let mut sum = format!(
            "verified {} events in {} turns of {} executions, {} modules",
            found["events"], found["turns"], found["executions"], found["modules"]
        );
        if replay {
            sum.push_str(&format!("; replayed {}", found["replayed"]));
        }
        if found["not_replayed"] != 0 && replay {
            sum.push_str(&format!(", {} have no module here", found["not_replayed"]));
        }
        out(sum);
    }
    match findings.len() {
        0 => Ok(()),
        1 => Err(CliError::new(exit::FAILED, "damaged", "1 thing is not as it was written")),
        many => Err(CliError::new(exit::FAILED, "damaged", format!("{many} things are not as they were written"))),
    }
}
