//! Commands that ask something of an instance and print its answer: update, entity.

use serde_json::Value;

use super::client::{Access, Client, escaped, of, with_query};
use super::error::{CliError, Result, exit};
use super::{Common, input, output, run};
use crate::core::ids::InstanceId;
use crate::core::payload::{Failure, Payload};
use crate::server::api::{self, OperationPath, OperationQuery, RequestQuery};

#[derive(Debug, clap::Args)]
pub(super) struct UpdateArgs {
    /// The instance
    id: String,
    /// The update's name
    name: String,
    /// Its input
    #[arg(long, value_name = "JSON|@FILE|-", default_value = "null")]
    input: String,
    /// A name for this request: the same again gets the same answer
    #[arg(long, value_name = "TEXT")]
    request_id: Option<String>,
}

#[derive(Debug, clap::Subcommand)]
pub(super) enum EntityCommand {
    /// Run an operation and print what it returns; the entity is made if there is none
    Call(OperationArgs),
    /// Ask for an operation and do not wait for it
    Signal(OperationArgs),
    /// Delete an entity: used again, it begins with its default state
    Delete(EntityArgs),
}

#[derive(Debug, clap::Args)]
pub(super) struct EntityArgs {
    /// The entity's kind
    kind: String,
    /// Its key
    key: String,
    /// A name for this request: the same again gets the same answer
    #[arg(long, value_name = "TEXT")]
    request_id: Option<String>,
}

#[derive(Debug, clap::Args)]
pub(super) struct OperationArgs {
    /// The entity's kind
    kind: String,
    /// Its key
    key: String,
    /// The operation
    operation: String,
    /// Its input
    #[arg(long, value_name = "JSON|@FILE|-", default_value = "null")]
    input: String,
    /// A name for this request: the same again gets the same answer
    #[arg(long, value_name = "TEXT")]
    request_id: Option<String>,
}

pub(super) async fn entity(command: EntityCommand, common: &Common) -> Result<()> {
    let one_way = matches!(command, EntityCommand::Signal(_));
    let (path, text, request_id) = match command {
        EntityCommand::Call(args) | EntityCommand::Signal(args) => {
            (OperationPath { kind: args.kind, key: args.key, operation: args.operation }, args.input, args.request_id)
        }
        EntityCommand::Delete(EntityArgs { kind, key, request_id }) => {
            (OperationPath { kind, key, operation: "delete".to_owned() }, "null".to_owned(), request_id)
        }
    };
    let given = input::payload("the input", &text)?;
    let client = Client::open(common, Access::Run).await?;
    let query = OperationQuery { id: Some(api::request_id(request_id.as_ref())?), wait_ms: None, one_way };
    let answer = loop {
        let answer = client.entity(&path, &given, &query).await?;
        if answer["status"] != "waiting" {
            break answer;
        }
    };
    if one_way && !common.json {
        output::err(format_args!("{} {}: {:?} was taken", path.kind, path.key, path.operation));
        return Ok(());
    }
    print(&format!("the operation {:?} of {} {}", path.operation, path.kind, path.key), answer, common)
}

pub(super) async fn update(args: &UpdateArgs, common: &Common) -> Result<()> {
    let id = input::id(&args.id)?;
    let given = input::payload("the input", &args.input)?;
    let client = Client::open(common, Access::Run).await?;
    let query = RequestQuery { id: Some(api::request_id(args.request_id.as_ref())?), wait_ms: None };
    // Asked again with the same id until it is answered.
    let answer = loop {
        let answer = client.update(&id, &args.name, &given, &query).await?;
        if answer["status"] != "waiting" {
            break answer;
        }
    };
    print(&format!("the update {:?} of {id}", args.name), answer, common)
}

/// Prints an answer; a refusal is the command's failure.
fn print(what: &str, answer: Value, common: &Common) -> Result<()> {
    let lost = |error: serde_json::Error| CliError::host(format!("the server's answer is not understood: {error}"));
    if let Some(failure) = answer.get("failure") {
        let why: Failure = serde_json::from_value(failure.clone()).map_err(lost)?;
        let mut error = CliError::new(exit::FAILED, "request-refused", format!("{what} was refused: {why}"));
        error.more = Some(Box::new(("failure", failure.clone())));
        return Err(error);
    }
    if common.json {
        output::json(&answer);
    } else {
        let output: Payload = serde_json::from_value(answer["output"].clone()).map_err(lost)?;
        run::print_payload(&output);
    }
    Ok(())
}

impl Client {
    async fn update(&self, id: &InstanceId, name: &str, input: &Payload, query: &RequestQuery) -> Result<Value> {
        match self {
            Self::Local(api, _) => Ok(api.update(id, name, input.clone(), query).await?),
            Self::Remote(server) => {
                server.ask(&with_query(&of(id, &format!("/updates/{}", escaped(name))), query), &input.data)
            }
        }
    }

    async fn entity(&self, path: &OperationPath, input: &Payload, query: &OperationQuery) -> Result<Value> {
        match self {
            Self::Local(api, _) => Ok(api.entity(path, input.clone(), query).await?),
            Self::Remote(server) => {
                let parts = [&path.kind, &path.key, &path.operation].map(|part| escaped(part));
                server.ask(&with_query(&format!("entities/{}", parts.join("/")), query), &input.data)
            }
        }
    }
}
