//! `GET /metrics`: the numbers of [`stats`](super::stats) as Prometheus reads them.
//!
//! [`METRICS`] is the list: names, kinds, units and what they say; the documentation
//! and the dashboard are compared with it by a test. Counters begin at 0 when the
//! host starts.

use axum::Router;
use axum::http::header;
use axum::response::{IntoResponse, Response};
use axum::routing::get;
use serde_json::Value;

use super::access::Scoped;
use super::api::{Api, Result, blocking};
use crate::core::summary::Status;

/// Every metric: its name, its kind, the field of the statistics, what it is divided
/// by to be in its unit, and what it says.
#[rustfmt::skip]
pub const METRICS: &[(&str, &str, &str, f64, &str)] = &[
    ("dacapo_uptime_seconds", "gauge", "uptime_ms", 1e3, "Since when this host runs."),
    ("dacapo_instances", "gauge", "instances", 1.0, "Instances in the store, by status."),
    ("dacapo_resident_guests", "gauge", "resident_guests", 1.0, "Guests in memory."),
    ("dacapo_guests_made_total", "counter", "guests_made", 1.0, "Guests made for instances that had none in memory."),
    ("dacapo_guests_replayed_total", "counter", "guests_replayed", 1.0, "Of these, re-created for instances that had run before."),
    ("dacapo_guests_restored_total", "counter", "guests_restored", 1.0, "Guests re-created from a snapshot, also for queries."),
    ("dacapo_guests_put_off_total", "counter", "guests_put_off", 1.0, "Times a guest was not made when wanted: no room, or its history not yet durable."),
    ("dacapo_timers", "gauge", "timers", 1.0, "Instances that wait for a time."),
    ("dacapo_tasks_waiting", "gauge", "tasks_waiting", 1.0, "Activities that wait in queues."),
    ("dacapo_tasks_unserved", "gauge", "tasks_unserved", 1.0, "Activities that wait and that nobody serves."),
    ("dacapo_tasks_running", "gauge", "tasks_running", 1.0, "Activities that run, here or at remote workers."),
    ("dacapo_workers", "gauge", "workers", 1.0, "Remote workers that were heard of lately."),
    ("dacapo_schedules", "gauge", "schedules", 1.0, "Schedules."),
    ("dacapo_modules", "gauge", "modules", 1.0, "Modules that are kept."),
    ("dacapo_change_listeners", "gauge", "change_listeners", 1.0, "Streams of changes that are open."),
    ("dacapo_disk_bytes", "gauge", "disk_bytes", 1.0, "Size of the data folder."),
    ("dacapo_commits_total", "counter", "commits", 1.0, "Commits of the store."),
    ("dacapo_turns_total", "counter", "turns", 1.0, "Turns in them."),
    ("dacapo_turn_bytes_total", "counter", "turn_bytes", 1.0, "Bytes of these turns, before compression."),
    ("dacapo_commit_seconds_total", "counter", "commit_us", 1e6, "Time that commits took."),
    ("dacapo_largest_commit_turns", "gauge", "largest_commit", 1.0, "Turns of the largest commit."),
];

impl Api {
    /// The text for Prometheus.
    ///
    /// # Errors
    /// Those of [`Api::stats`].
    pub fn metrics(&self) -> Result<String> {
        let stats = self.stats()?;
        let mut text = String::new();
        for (name, kind, field, divisor, what) in METRICS {
            text += &format!("# HELP {name} {what}\n# TYPE {name} {kind}\n");
            let written = |value: &Value| value.as_f64().map(|number| number / divisor);
            match &stats[*field] {
                Value::Object(by_status) => {
                    for status in Status::ALL.map(|status| status.to_string()) {
                        let number = by_status.get(&status).and_then(written).unwrap_or(0.0);
                        text += &format!("{name}{{status=\"{status}\"}} {number}\n");
                    }
                }
                value => text += &written(value).map_or_else(String::new, |number| format!("{name} {number}\n")),
            }
        }
        Ok(text)
    }
}

/// The route; it is beside the API, where scrapers look for it.
pub(super) fn routes(api: Api) -> Router {
    Router::new().route("/metrics", get(metrics)).with_state(api)
}

async fn metrics(Scoped(api): Scoped) -> Response {
    match blocking(move || api.metrics()).await {
        Ok(text) => ([(header::CONTENT_TYPE, "text/plain; version=0.0.4; charset=utf-8")], text).into_response(),
        Err(problem) => problem.into_response(),
    }
}
