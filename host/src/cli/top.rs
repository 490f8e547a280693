//! `dacapo top`: the host and its newest instances, as they are now and then again.

use std::io::IsTerminal as _;
use std::time::Duration;

use serde_json::{Value, json};

use super::client::{Access, Client};
use super::error::Result;
use super::output::{self, Table, brief, clean, field, out};
use super::serve::interrupted;
use super::{Common, input};
use crate::core::summary::Status;
use crate::server::api::{ListQuery, Order};

/// It is not looked at more often.
const LEAST: Duration = Duration::from_millis(200);

#[derive(Debug, clap::Args)]
pub(super) struct Args {
    /// Only instances with this status
    #[arg(long)]
    status: Option<Status>,
    /// At most so many instances
    #[arg(long, default_value_t = 20)]
    limit: usize,
    /// How often it is looked at
    #[arg(long, value_name = "DURATION", default_value = "1s", value_parser = input::age)]
    every: Duration,
    /// Look once
    #[arg(long)]
    once: bool,
}

pub(super) async fn run(args: &Args, common: &Common) -> Result<()> {
    let client = Client::open(common, Access::Read).await?;
    let mut before = None;
    loop {
        let stats = client.stats()?;
        let query =
            ListQuery { status: args.status, limit: Some(args.limit), order: Order::Newest, ..ListQuery::default() };
        let listed = client.list(query)?;
        if common.json {
            output::json(&json!({ "stats": stats, "instances": listed["instances"] }));
        } else {
            show(&stats, before.as_ref(), &listed);
        }
        before = Some(stats);
        if args.once {
            return Ok(());
        }
        tokio::select! {
            () = tokio::time::sleep(args.every.max(LEAST)) => {}
            () = interrupted() => return Ok(()),
        }
    }
}

fn show(stats: &Value, before: Option<&Value>, listed: &Value) {
    if std::io::stdout().is_terminal() {
        // To the first column of the first line, and nothing below it.
        output::write_all(b"\x1b[H\x1b[2J");
    }
    let number = |name: &str| stats[name].as_u64().unwrap_or(0);
    let rate = |name: &str| {
        let past = |name: &str| before.and_then(|before| before[name].as_u64());
        let (count, ms) =
            (number(name) - past(name)?.min(number(name)), number("uptime_ms").checked_sub(past("uptime_ms")?)?);
        (ms > 0).then(|| format!(", {:.0} {name}/s", count as f64 * 1000.0 / ms as f64))
    };
    let by_status = stats["instances"].as_object().into_iter().flatten();
    let by_status: Vec<String> = by_status.map(|(status, count)| format!("{count} {status}")).collect();
    let held = if by_status.is_empty() { "no instances".to_owned() } else { by_status.join(", ") };
    out(format_args!("dacapo {}, up {} s: {held}", field(stats, "version"), number("uptime_ms") / 1000));
    out(format_args!(
        "tasks: {} running, {} waiting, {} not served; {} guests in memory{}{}",
        number("tasks_running"),
        number("tasks_waiting"),
        number("tasks_unserved"),
        number("resident_guests"),
        rate("turns").unwrap_or_default(),
        rate("commits").unwrap_or_default(),
    ));
    let mut table = Table::new(&["ID", "STATUS", "ORCHESTRATION", "EVENTS", "UPDATED", "NOTE"]);
    for row in listed["instances"].as_array().into_iter().flatten() {
        let cells = ["id", "status", "orchestration", "events", "updated_at"].map(|name| field(row, name));
        table.row(cells.into_iter().chain([clean(&brief(&output::note(row), 60))]));
    }
    table.print();
}
