//! `dacapo audit`: who changed what.

use serde_json::Value;

use super::Common;
use super::client::{Access, Client, with_query};
use super::error::Result;
use super::output::{self, Table, field};
use crate::server::audit::AuditQuery;

#[derive(Debug, clap::Args)]
pub(super) struct Args {
    /// Only records before this one
    #[arg(long, value_name = "ID")]
    before: Option<u64>,
    /// At most so many
    #[arg(long, value_name = "COUNT")]
    limit: Option<usize>,
}

pub(super) async fn run(args: &Args, common: &Common) -> Result<()> {
    let query = AuditQuery { before: args.before, limit: args.limit };
    let answer = match Client::open(common, Access::Read).await? {
        Client::Local(api, data) => api.in_folder(&data).audit(query)?,
        Client::Remote(server) => server.get(&with_query("audit", &query))?,
    };
    if common.json {
        output::json(&answer);
        return Ok(());
    }
    let mut table = Table::new(&["RECORD", "AT", "TOKEN", "NAME", "NAMESPACE", "STATUS", "CHANGE"]);
    for record in answer["records"].as_array().into_iter().flatten() {
        let of = |name: &str| field(record, name);
        let mut change = format!("{} {}", of("method"), of("path"));
        for (name, value) in record["what"].as_object().into_iter().flatten() {
            change += &match value {
                Value::String(text) => format!(" {name}={text}"),
                other => format!(" {name}={other}"),
            };
        }
        table.row([of("id"), of("at"), of("token"), of("name"), of("namespace"), of("status"), change]);
    }
    table.print();
    if let Value::Number(next) = &answer["next"] {
        output::err(format_args!("there are older ones: --before {next}"));
    }
    Ok(())
}
