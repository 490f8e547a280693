//! `dacapo history`: what happened, event by event; or all of it in a file.

use std::path::PathBuf;

use serde_json::{Value, json};

use super::client::{Access, Client};
use super::error::{CliError, Result};
use super::output::{err, out};
use super::progress::event_line;
use super::{Common, input, output};
use crate::core::ids::{ExecutionNumber, InstanceId};
use crate::server::api::{HistoryQuery, MAX_WAIT, RecordingQuery};

#[derive(Debug, clap::Args)]
pub(super) struct Args {
    /// The instance
    id: String,
    /// Which execution; without it, the current one
    #[arg(long, value_name = "N")]
    execution: Option<ExecutionNumber>,
    /// Go on until it has ended; with --json, one object a line
    #[arg(long, short)]
    follow: bool,
    /// Write a recording that `dacapo replay` takes
    #[arg(long, short, value_name = "FILE", conflicts_with = "follow")]
    output: Option<PathBuf>,
    /// Put the module into the recording, so that it can be replayed anywhere
    #[arg(long, requires = "output")]
    with_module: bool,
}

pub(super) async fn run(args: &Args, common: &Common) -> Result<()> {
    let id = input::id(&args.id)?;
    let client = Client::open(common, Access::Read).await?;
    match &args.output {
        Some(file) => record(&client, &id, args, file, common),
        None => show(&client, &id, args, common).await,
    }
}

fn record(client: &Client, id: &InstanceId, args: &Args, file: &PathBuf, common: &Common) -> Result<()> {
    let query = RecordingQuery { execution: args.execution, with_module: args.with_module };
    let bytes = client.recording(id, &query)?;
    std::fs::write(file, &bytes)
        .map_err(|error| CliError::host(format!("cannot write {}: {error}", file.display())))?;
    if common.json {
        output::json(&json!({ "id": id, "file": file, "bytes": bytes.len() }));
    } else {
        err(format_args!("wrote {} ({} bytes); run it again with `dacapo replay`", file.display(), bytes.len()));
    }
    Ok(())
}

async fn show(client: &Client, id: &InstanceId, args: &Args, common: &Common) -> Result<()> {
    let line_by_line = args.follow || !common.json;
    let mut execution = args.execution;
    let mut from = 1;
    let mut all = Vec::new();
    loop {
        let wait_ms = if args.follow { MAX_WAIT.as_millis() as u64 / 2 } else { 0 };
        let query = HistoryQuery { execution, from: Some(from), limit: None, wait_ms };
        let page = client.history(id, query).await?;
        let (this, latest) = (page["execution"].as_u64().unwrap_or(1), page["latest_execution"].as_u64().unwrap_or(1));
        let events = page["events"].as_array().cloned().unwrap_or_default();
        execution = Some(this as ExecutionNumber);
        from = page["next"].as_u64().unwrap_or(1) as u32;
        let (ended, none) = (super::client::has_ended(&page), events.is_empty());
        if line_by_line {
            events.iter().for_each(|event| print(event, common.json));
        } else {
            all.extend(events);
        }
        if !none {
            continue;
        }
        if args.follow && this < latest && args.execution.is_none() {
            (execution, from) = (Some(this as ExecutionNumber + 1), 1);
        } else if !args.follow || ended || this < latest {
            break;
        } else if !client.is_running() {
            err("nothing runs this data folder, so nothing more will happen; start it with `dacapo serve`");
            break;
        }
    }
    if !line_by_line {
        output::json(&json!({ "instance": id, "execution": execution, "events": all }));
    }
    Ok(())
}

fn print(event: &Value, as_json: bool) {
    if as_json { out(event) } else { out(event_line(event)) }
}
