//! `dacapo queues` and `dacapo workers`: what waits for whom.

use serde_json::Value;

use super::Common;
use super::client::{Access, Client};
use super::error::Result;
use super::output::{self, Table, field};

pub(super) async fn queues(common: &Common) -> Result<()> {
    let answer = Client::open(common, Access::Read).await?.queues()?;
    if common.json {
        output::json(&answer);
        return Ok(());
    }
    let mut table = Table::new(&["QUEUE", "WAITING", "SINCE", "RUNNING", "AT MOST", "RATE", "NOT SERVED"]);
    for queue in list(&answer, "queues") {
        let settings = &queue["settings"];
        let rate = match &settings["rate"] {
            Value::Null => String::new(),
            rate => format!("{} in {} ms", rate["tasks"], rate["per_ms"]),
        };
        let unserved = queue["unserved"].as_object().into_iter().flatten();
        let unserved: Vec<String> = unserved.map(|(name, count)| format!("{name} ({count})")).collect();
        table.row([
            field(queue, "name"),
            field(queue, "waiting"),
            field(queue, "waiting_since"),
            field(queue, "running"),
            field(settings, "concurrency"),
            rate,
            unserved.join(", "),
        ]);
    }
    table.print();
    Ok(())
}

pub(super) async fn workers(common: &Common) -> Result<()> {
    let answer = Client::open(common, Access::Read).await?.workers()?;
    if common.json {
        output::json(&answer);
        return Ok(());
    }
    let mut table = Table::new(&["WORKER", "NAME", "SEEN", "TASKS", "QUEUES", "ACTIVITIES"]);
    for worker in list(&answer, "workers") {
        table.row([
            field(worker, "id"),
            field(worker, "name"),
            if worker["waiting"] == true { "waits for tasks".to_owned() } else { field(worker, "seen_at") },
            worker["tasks"].as_array().map_or(0, Vec::len).to_string(),
            joined(&worker["queues"]),
            joined(&worker["activities"]),
        ]);
    }
    table.print();
    Ok(())
}

fn list<'a>(answer: &'a Value, name: &str) -> impl Iterator<Item = &'a Value> {
    answer[name].as_array().into_iter().flatten()
}

fn joined(names: &Value) -> String {
    names.as_array().into_iter().flatten().filter_map(Value::as_str).collect::<Vec<_>>().join(", ")
}
