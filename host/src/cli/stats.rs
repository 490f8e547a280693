//! `dacapo stats`: numbers about the host that runs.

use serde_json::Value;

use super::Common;
use super::client::{Access, Client};
use super::error::Result;
use super::output::{self, Table};

impl Client {
    pub(super) fn stats(&self) -> Result<Value> {
        match self {
            Self::Local(api, _) => Ok(api.stats()?),
            Self::Remote(server) => server.get("stats"),
        }
    }
}

pub(super) async fn run(common: &Common) -> Result<()> {
    let stats = Client::open(common, Access::Read).await?.stats()?;
    if common.json {
        output::json(&stats);
        return Ok(());
    }
    let mut table = Table::new(&["WHAT", ""]);
    for (name, value) in stats.as_object().into_iter().flatten() {
        match value {
            Value::Object(parts) => {
                parts.iter().for_each(|(part, n)| table.row([format!("{name} {part}"), n.to_string()]));
            }
            Value::String(text) => table.row([name.clone(), text.clone()]),
            other => table.row([name.clone(), other.to_string()]),
        }
    }
    table.print();
    Ok(())
}
