//! `dacapo fork`: what if that had been answered otherwise?

use std::path::{Path, PathBuf};

use serde_json::{Value, json};

use super::client::{Access, Client, of};
use super::error::{CliError, Result, exit};
use super::output::{err, out};
use super::{Common, input, output};
use crate::core::ids::{ExecutionNumber, InstanceId};
use crate::core::namespace::{self, Namespace};
use crate::core::payload::Payload;
use crate::engine::{Clock as _, SystemClock};
use crate::replay::fork::fork_recording;
use crate::replay::recording::Recording;
use crate::server::api::RecordingQuery;
use crate::server::fork::{ForkBody, edit};

#[derive(Debug, clap::Args)]
pub(super) struct Args {
    /// The instance, or a recording
    #[arg(value_name = "ID|FILE")]
    what: String,
    /// The last event to share; `dacapo history` numbers them
    #[arg(long, value_name = "EVENT")]
    at: u32,
    /// What that event is to bring instead: a result, an event's value, or, at event 1, the input
    #[arg(long, value_name = "JSON|@FILE|-")]
    edit: Option<String>,
    /// Let that call fail instead, with this message
    #[arg(long, value_name = "MESSAGE", conflicts_with = "edit")]
    fail: Option<String>,
    /// Let it run this stored module from the beginning; what is shared must replay in it
    #[arg(long, value_name = "NAME[@VERSION]|HASH", conflicts_with = "output")]
    module: Option<String>,
    /// The new instance's id; without one, a fresh one is made
    #[arg(long)]
    id: Option<String>,
    /// Which execution of an instance; without it, the current one
    #[arg(long, value_name = "N")]
    execution: Option<ExecutionNumber>,
    /// Write the fork into a recording and run nothing
    #[arg(long, short, value_name = "FILE")]
    output: Option<PathBuf>,
}

impl Client {
    async fn fork(&self, from: &InstanceId, body: ForkBody) -> Result<Value> {
        match self {
            Self::Local(api, _) => Ok(api.fork(from, body).await?),
            Self::Remote(server) => server.post(&of(from, "/fork"), &json!(body)),
        }
    }
}

pub(super) async fn run(args: Args, common: &Common) -> Result<()> {
    let replaced = args.edit.as_deref().map(|text| input::payload("the result", text)).transpose()?;
    if let Some(file) = &args.output {
        return write(&args, replaced, file, common).await;
    }
    if Path::new(&args.what).is_file() {
        return Err(CliError::input("a recording is forked into another one: name it with --output"));
    }
    let from = input::id(&args.what)?;
    let id = fresh(&args, &args.what)?;
    let body = ForkBody {
        id: id.to_string(),
        at: args.at,
        execution: args.execution,
        edit: replaced,
        fail: args.fail,
        module: args.module,
    };
    let client = Client::open(common, Access::Run).await?;
    let answer = client.fork(&from, body).await?;
    if common.json {
        output::json(&answer);
    } else {
        out(&id);
        err(format_args!("it shares the history of {from} up to event {}", args.at));
        if !client.outlives() {
            err("it goes on as soon as the data folder is served: `dacapo serve`");
        }
    }
    Ok(())
}

fn fresh(args: &Args, of: &str) -> Result<InstanceId> {
    match &args.id {
        Some(id) => input::id(id),
        None => input::fresh_id(&format!("{of}-fork")),
    }
}

async fn write(args: &Args, replaced: Option<Payload>, file: &PathBuf, common: &Common) -> Result<()> {
    let bytes = if Path::new(&args.what).is_file() {
        std::fs::read(&args.what).map_err(|error| CliError::host(format!("cannot read {}: {error}", args.what)))?
    } else {
        let query = RecordingQuery { execution: args.execution, with_module: true };
        Client::open(common, Access::Read).await?.recording(&input::id(&args.what)?, &query)?
    };
    let bad = |error: String| CliError::new(exit::INPUT, "bad-recording", format!("{}: {error}", args.what));
    let recording = Recording::decode(&bytes).map_err(|error| bad(error.to_string()))?;
    let id = fresh(args, namespace::local(&recording.instance))?;
    // Whom it speaks of is in its namespace, and so is the fork.
    let id =
        InstanceId::within(&Namespace::of(&recording.instance), id.local()).map_err(|error| bad(error.to_string()))?;
    let edit = edit(replaced, args.fail.clone())?;
    let forked = fork_recording(&recording, id.clone(), args.at, edit, SystemClock.now()).map_err(CliError::input)?;
    let bytes = forked.encode();
    std::fs::write(file, &bytes)
        .map_err(|error| CliError::host(format!("cannot write {}: {error}", file.display())))?;
    if common.json {
        output::json(&json!({ "id": id, "file": file, "bytes": bytes.len() }));
    } else {
        err(format_args!("wrote {}; run it again with `dacapo replay`", file.display()));
    }
    Ok(())
}
