//! `dacapo query`: what an instance's own code says of its state.

use serde_json::Value;

use super::client::{Access, Client, escaped, of};
use super::error::Result;
use super::{Common, input, output};
use crate::core::ids::InstanceId;
use crate::core::payload::Payload;

#[derive(Debug, clap::Args)]
pub(super) struct Args {
    /// The instance; it may have ended
    id: String,
    /// The query's name
    name: String,
    /// What it is asked with
    #[arg(long, value_name = "JSON|@FILE|-", default_value = "null")]
    input: String,
}

impl Client {
    async fn query(&self, id: &InstanceId, name: &str, input: Payload) -> Result<Value> {
        match self {
            Self::Local(api, _) => {
                let answer = api.query(id, name, input).await?;
                Ok(answer.to_json().unwrap_or_else(|| serde_json::json!(answer)))
            }
            Self::Remote(server) => {
                let input = input.to_json().unwrap_or_default();
                server.post(&of(id, &format!("/queries/{}", escaped(name))), &input)
            }
        }
    }
}

pub(super) async fn run(args: &Args, common: &Common) -> Result<()> {
    let id = input::id(&args.id)?;
    let asked = input::payload("the input", &args.input)?;
    let answer = Client::open(common, Access::Run).await?.query(&id, &args.name, asked).await?;
    output::json(&answer);
    Ok(())
}
