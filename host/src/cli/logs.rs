//! `dacapo logs`: what a guest logged, each line with its event, by replaying it.

use serde_json::Value;

use super::client::{Access, Client, of, with_query};
use super::error::Result;
use super::output::{clean, err, field, out};
use super::{Common, input, output};
use crate::core::ids::{ExecutionNumber, InstanceId};
use crate::server::logs::LogsQuery;

#[derive(Debug, clap::Args)]
pub(super) struct Args {
    /// The instance; it may have ended
    id: String,
    /// Which of its executions; without, the current one
    #[arg(long, value_name = "NUMBER")]
    execution: Option<ExecutionNumber>,
    /// Only lines with this text
    #[arg(long, value_name = "TEXT")]
    grep: Option<String>,
}

impl Client {
    fn logs(&self, id: &InstanceId, query: LogsQuery) -> Result<Value> {
        match self {
            Self::Local(api, _) => Ok(api.logs(id, query)?),
            Self::Remote(server) => server.get(&with_query(&of(id, "/logs"), &query)),
        }
    }
}

pub(super) async fn run(args: &Args, common: &Common) -> Result<()> {
    let id = input::id(&args.id)?;
    let client = Client::open(common, Access::Run).await?;
    let mut answer = client.logs(&id, LogsQuery { execution: args.execution })?;
    if let (Some(text), Some(lines)) = (&args.grep, answer["lines"].as_array_mut()) {
        lines.retain(|line| written(line).contains(text));
    }
    if common.json {
        output::json(&answer);
        return Ok(());
    }
    for line in answer["lines"].as_array().into_iter().flatten() {
        out(clean(&format!("{:>5}  {:<5} {}", field(line, "event"), field(line, "level"), written(line))));
    }
    if let Some(why) = answer["stopped"].as_str() {
        err(format_args!("there may be more: {}", clean(why)));
    }
    Ok(())
}

/// The line's text with its fields.
fn written(line: &Value) -> String {
    let fields = line["fields"].as_array().into_iter().flatten();
    let fields = fields.map(|pair| format!(" {}={}", pair[0].as_str().unwrap_or(""), pair[1].as_str().unwrap_or("")));
    format!("{}: {}{}", field(line, "target"), field(line, "message"), fields.collect::<String>())
}
