//! How the host is: `GET health` (it is alive), `GET ready` (it takes work), `GET stats`.

use axum::http::StatusCode;
use axum::response::{IntoResponse, Response};
use axum::routing::get;
use axum::{Json, Router};
use serde_json::{Value, json};

use super::Answer;
use super::access::Scoped;
use super::api::{Api, Result, blocking, to_json};
use crate::store::Filter;

/// The routes.
pub(super) fn routes() -> Router<Api> {
    Router::new().route("/health", get(health)).route("/ready", get(ready)).route("/stats", get(stats))
}

impl Api {
    /// Whether it takes work: an engine runs, its store can be read, nobody stops it.
    ///
    /// # Errors
    /// If not; the problem says why.
    pub fn ready(&self) -> Result<()> {
        let engine = self.engine()?;
        if *self.stopping().borrow() {
            return Err(super::Problem::new("stopped", "this host is shutting down; ask another one"));
        }
        Ok(engine.running()?)
    }

    /// Numbers about this host since it started. Counters end in no unit or in their unit.
    ///
    /// # Errors
    /// If the store fails.
    pub fn stats(&self) -> Result<Value> {
        let engine = self.engine()?;
        let counts = self.counts(&Filter::everything())?;
        let queues = engine.every_queue();
        let written = self.store().written();
        let (timers, next_timer) = engine.timers();
        let mut stats = json!({
            "version": env!("CARGO_PKG_VERSION"),
            "pid": std::process::id(),
            "uptime_ms": u64::try_from(self.uptime().as_millis()).unwrap_or(u64::MAX),
            "instances": counts.by_status.iter().map(|(s, n)| (s.to_string(), Value::from(*n))).collect::<serde_json::Map<_, _>>(),
            "instances_total": counts.total,
            "resident_guests": engine.resident_guests(),
            "guests_made": engine.made_guests(),
            "guests_replayed": engine.replayed_guests(),
            "guests_restored": engine.restored_guests(),
            "guests_put_off": engine.put_off_guests(),
            "timers": timers,
            "next_timer_in_ms": next_timer.map(|at| at.0.saturating_sub(engine.now().0)),
            "tasks_waiting": queues.iter().map(|queue| queue.waiting).sum::<usize>(),
            "tasks_unserved": queues.iter().flat_map(|queue| queue.unserved.values()).sum::<usize>(),
            "tasks_running": queues.iter().map(|queue| queue.running).sum::<usize>(),
            "workers": engine.worker_count(),
            "schedules": engine.schedule_count(),
            "modules": engine.modules().all()?.len(),
            "change_listeners": self.store().listeners(),
            "disk_bytes": self.folder().map(folder_bytes),
        });
        if let (Value::Object(stats), Value::Object(written)) = (&mut stats, to_json(&written)?) {
            stats.extend(written);
        }
        Ok(stats)
    }
}

/// Bytes of the files in a data folder; what cannot be read counts nothing.
fn folder_bytes(folder: &std::path::Path) -> u64 {
    let entries = std::fs::read_dir(folder).into_iter().flatten().flatten();
    entries
        .map(|entry| match entry.metadata() {
            Ok(found) if found.is_dir() => folder_bytes(&entry.path()),
            Ok(found) => found.len(),
            Err(_) => 0,
        })
        .sum()
}

async fn health(Scoped(api): Scoped) -> Json<Value> {
    Json(json!({
        "status": "ok",
        "version": env!("CARGO_PKG_VERSION"),
        "pid": std::process::id(),
        "resident_guests": api.engine().map_or(0, |engine| engine.resident_guests()),
    }))
}

async fn ready(Scoped(api): Scoped) -> Response {
    match api.ready() {
        Ok(()) => Json(json!({ "status": "ready" })).into_response(),
        Err(problem) => (StatusCode::SERVICE_UNAVAILABLE, problem).into_response(),
    }
}

async fn stats(Scoped(api): Scoped) -> Answer {
    blocking(move || api.stats()).await.map(Json)
}
