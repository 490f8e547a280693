//! `dacapo token`: makes, lists and revokes tokens. They are the data folder's, so this
//! works with a server and without one; a server that runs sees it with the next request.

use std::time::Duration;

use serde_json::json;

use super::error::{CliError, Result};
use super::output::{self, Table};
use super::{Common, input, store};
use crate::core::ids::TimestampMs;
use crate::core::namespace::Namespace;
use crate::engine::{Clock as _, SystemClock};
use crate::server::tokens::{NewToken, Scope, Token, Tokens};

#[derive(Debug, clap::Subcommand)]
pub(super) enum Command {
    /// Make a token and print it; it is shown this once
    Create(CreateArgs),
    /// List the tokens, without what is secret in them
    List,
    /// Take a token back: no further request is taken with it
    Revoke {
        /// Its id, as the list has it
        id: String,
    },
}

#[derive(Debug, clap::Args)]
pub(super) struct CreateArgs {
    /// Whose it is, for people
    #[arg(long, default_value = "")]
    name: String,
    /// What it is for: read, operate, deploy, worker; operate and deploy include read
    #[arg(long, value_delimiter = ',', required = true, value_parser = input::word::<Scope>)]
    scope: Vec<Scope>,
    /// The namespace that it sees, and no other
    #[arg(long, value_name = "NAME", default_value = "default", value_parser = namespace)]
    namespace: Namespace,
    /// After so long it is not taken any more, as 90d
    #[arg(long, value_name = "AGE", value_parser = input::age)]
    expires_in: Option<Duration>,
}

fn namespace(text: &str) -> std::result::Result<Namespace, String> {
    Namespace::new(text).map_err(|error| error.to_string())
}

pub(super) fn run(command: Command, common: &Common) -> Result<()> {
    let now = SystemClock.now();
    match command {
        Command::Create(args) => {
            let data = store::make_folder(&common.data)?;
            create(args, &Tokens::of(&data), now, common.json)
        }
        Command::List => list(&of_folder(common)?, now, common.json),
        Command::Revoke { id } => {
            let token = of_folder(common)?.revoke(&id, now)?;
            if common.json {
                output::json(&as_json(&token, now));
            } else {
                output::out(format_args!("revoked {}", token.id));
            }
            Ok(())
        }
    }
}

fn of_folder(common: &Common) -> Result<Tokens> {
    if common.data.is_dir() {
        return Ok(Tokens::of(&common.data));
    }
    let message = format!("there is no data folder {}; name it with --data", common.data.display());
    Err(CliError::new(super::error::exit::NOT_FOUND, "not-found", message))
}

fn create(args: CreateArgs, tokens: &Tokens, now: TimestampMs, as_json_object: bool) -> Result<()> {
    let lasts = args.expires_in.map(|age| u64::try_from(age.as_millis()).unwrap_or(u64::MAX));
    let new = NewToken {
        name: args.name,
        scopes: args.scope.into_iter().collect(),
        namespace: args.namespace,
        expires_at: lasts.map(|ms| now.plus(ms)),
    };
    let is_first = tokens.all()?.is_none();
    let (token, text) = tokens.create(new, now)?;
    if as_json_object {
        let mut shown = as_json(&token, now);
        shown["token"] = text.into();
        output::json(&shown);
        return Ok(());
    }
    output::out(text);
    output::err(format_args!("token {} is shown this once; give it as DACAPO_TOKEN", token.id));
    if is_first {
        output::err("from now on every request to a server of this folder needs a token");
    }
    Ok(())
}

fn list(tokens: &Tokens, now: TimestampMs, as_json_object: bool) -> Result<()> {
    let all = tokens.all()?.unwrap_or_default();
    if as_json_object {
        output::json(&json!({ "tokens": all.iter().map(|token| as_json(token, now)).collect::<Vec<_>>() }));
        return Ok(());
    }
    let mut table = Table::new(&["TOKEN", "NAME", "NAMESPACE", "SCOPES", "CREATED", "EXPIRES", "STATE"]);
    for token in all.iter() {
        table.row([
            token.id.clone(),
            token.name.clone(),
            token.namespace.to_string(),
            token.scopes.iter().map(ToString::to_string).collect::<Vec<_>>().join(","),
            token.created_at.to_string(),
            token.expires_at.map(|at| at.to_string()).unwrap_or_default(),
            token.state(now).to_owned(),
        ]);
    }
    table.print();
    Ok(())
}

fn as_json(token: &Token, now: TimestampMs) -> serde_json::Value {
    json!({
        "id": token.id,
        "name": token.name,
        "namespace": token.namespace,
        "scopes": token.scopes,
        "created_at": token.created_at.to_string(),
        "expires_at": token.expires_at.map(|at| at.to_string()),
        "revoked_at": token.revoked_at.map(|at| at.to_string()),
        "state": token.state(now),
    })
}
