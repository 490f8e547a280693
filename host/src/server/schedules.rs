//! Schedules as the API tells and takes them.

use std::collections::BTreeMap;

use axum::extract::Path;
use axum::http::StatusCode;
use axum::routing::{get, post};
use axum::{Json, Router};
use serde::{Deserialize, Serialize};
use serde_json::{Value, json};

use super::access::Scoped;
use super::api::{Api, Result, blocking};
use super::problem::Problem;
use super::{Answer, JsonBody, Query, Reason};
use crate::core::ids::TimestampMs;
use crate::core::namespace;
use crate::core::payload::Payload;
use crate::store::schedule::{Overlap, Schedule, ScheduleSpec, Timing};

const DAY_MS: u64 = 86_400_000;
const NEXT_TIMES: usize = 5;
const MAX_NEXT_TIMES: usize = 1000;

/// A schedule, as it is asked for: `cron` or `every_ms`, and what to start.
#[derive(Clone, Debug, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct ScheduleBody {
    /// Five fields, or six with seconds first.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub cron: Option<String>,
    /// The zone whose civil time `cron` follows; none: UTC.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub time_zone: Option<String>,
    /// Milliseconds between two instances.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub every_ms: Option<u64>,
    /// What to start.
    pub orchestration: String,
    /// Whose: `name`, `name@version` or a hash.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub module: Option<String>,
    /// The input of each instance.
    #[serde(default = "Payload::null")]
    pub input: Payload,
    /// Tags of each instance.
    #[serde(default)]
    pub tags: BTreeMap<String, String>,
    /// What to do while the one before still runs.
    #[serde(default)]
    pub overlap: Overlap,
    /// What was due longer ago than this, because no host ran, is left out. None: a day.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub catch_up_ms: Option<u64>,
}

/// How a schedule is to be shown.
#[derive(Clone, Debug, Default, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct ScheduleQuery {
    /// So many of its next times.
    pub next: Option<usize>,
}

/// What can be done to a schedule.
#[derive(Clone, Debug)]
pub enum ScheduleAction {
    /// What comes due from here on is left out; why.
    Pause(String),
    /// It goes on.
    Unpause,
    /// An instance starts now.
    Trigger,
}

impl ScheduleAction {
    /// The end of its path, and its body.
    pub fn as_request(&self) -> (&'static str, Value) {
        match self {
            Self::Pause(reason) => ("/pause", json!({ "reason": reason })),
            Self::Unpause => ("/unpause", json!({})),
            Self::Trigger => ("/trigger", json!({})),
        }
    }
}

impl ScheduleBody {
    fn into_spec(self) -> Result<ScheduleSpec> {
        let timing = match (self.cron, self.every_ms) {
            (Some(expression), None) => {
                Timing::Cron { expression, time_zone: self.time_zone.unwrap_or_else(|| "UTC".to_owned()) }
            }
            (None, Some(_)) if self.time_zone.is_some() => {
                return Err(Problem::invalid("an interval has no time zone; leave time_zone out, or give cron"));
            }
            (None, Some(interval_ms)) => Timing::Every { interval_ms },
            _ => return Err(Problem::invalid("expected either cron or every_ms, to say when the schedule is due")),
        };
        Ok(ScheduleSpec {
            timing,
            orchestration: self.orchestration,
            module: self.module,
            input: self.input,
            tags: self.tags,
            overlap: self.overlap,
            catch_up_ms: self.catch_up_ms.unwrap_or(DAY_MS),
        })
    }
}

impl Api {
    /// Makes or changes a schedule.
    ///
    /// # Errors
    /// Those of [`crate::engine::Engine::put_schedule`].
    pub async fn put_schedule(&self, name: &str, body: ScheduleBody) -> Result<Value> {
        let (engine, name, spec) = (self.engine()?.clone(), self.schedule_name(name)?, body.into_spec()?);
        blocking(move || {
            let schedule = engine.put_schedule(&name, spec)?;
            let next = engine.next_times(&schedule, NEXT_TIMES)?;
            Ok(schedule_json(&schedule, &next))
        })
        .await
    }

    /// Every schedule, by name, each with its next time.
    ///
    /// # Errors
    /// If no engine runs.
    pub fn schedules(&self) -> Result<Value> {
        let engine = self.engine()?;
        let shown = engine.list_schedules_in(&self.namespace()).into_iter().map(|schedule| {
            let next = engine.next_times(&schedule, 1)?;
            Ok(schedule_json(&schedule, &next))
        });
        Ok(json!({ "schedules": shown.collect::<Result<Vec<_>>>()? }))
    }

    /// A schedule with its next times.
    ///
    /// # Errors
    /// If there is none of that name, or too many times are asked for.
    pub fn schedule(&self, name: &str, query: &ScheduleQuery) -> Result<Value> {
        let count = query.next.unwrap_or(NEXT_TIMES);
        if count > MAX_NEXT_TIMES {
            return Err(Problem::invalid(format!("next is {count}: expected at most {MAX_NEXT_TIMES}")));
        }
        let engine = self.engine()?;
        let schedule = engine.schedule(&self.schedule_name(name)?)?;
        let next = engine.next_times(&schedule, count)?;
        Ok(schedule_json(&schedule, &next))
    }

    /// Forgets a schedule.
    ///
    /// # Errors
    /// If there is none of that name.
    pub async fn delete_schedule(&self, name: &str) -> Result<()> {
        let (engine, name) = (self.engine()?.clone(), self.schedule_name(name)?);
        blocking(move || Ok(engine.delete_schedule(&name)?)).await
    }

    /// Pauses, unpauses or triggers a schedule; of a trigger, the instance's id.
    ///
    /// # Errors
    /// If there is none of that name, or the instance cannot be started.
    pub async fn act_on_schedule(&self, name: &str, action: ScheduleAction) -> Result<Value> {
        let (engine, name) = (self.engine()?.clone(), self.schedule_name(name)?);
        blocking(move || {
            match action {
                ScheduleAction::Pause(reason) => engine.pause_schedule(&name, &reason)?,
                ScheduleAction::Unpause => engine.unpause_schedule(&name)?,
                ScheduleAction::Trigger => return Ok(json!({ "id": engine.trigger_schedule(&name)? })),
            }
            Ok(json!({ "name": namespace::local(&name) }))
        })
        .await
    }
}

impl Api {
    /// The schedule that whoever asks calls so.
    fn schedule_name(&self, name: &str) -> Result<String> {
        if name.chars().any(char::is_control) {
            return Err(Problem::invalid("the name of a schedule has no control characters"));
        }
        Ok(self.namespace().qualify(name))
    }
}

fn schedule_json(schedule: &Schedule, next: &[TimestampMs]) -> Value {
    let name = schedule.local_name();
    let Schedule { spec, created_at, paused, buffered, started, skipped, last, last_error, .. } = schedule;
    let mut shown = json!({
        "name": name,
        "orchestration": spec.orchestration,
        "module": spec.module,
        "input": spec.input,
        "tags": spec.tags,
        "overlap": spec.overlap,
        "catch_up_ms": spec.catch_up_ms,
        "created_at": created_at.to_string(),
        "paused": paused,
        "buffered": buffered.map(|due| due.to_string()),
        "started": started,
        "skipped": skipped,
        "last": last,
        "last_error": last_error,
        "next": next.iter().map(ToString::to_string).collect::<Vec<_>>(),
    });
    match &spec.timing {
        Timing::Cron { expression, time_zone } => {
            shown["cron"] = expression.as_str().into();
            shown["time_zone"] = time_zone.as_str().into();
        }
        Timing::Every { interval_ms } => shown["every_ms"] = (*interval_ms).into(),
    }
    shown
}

// ---- routes ----

pub(super) fn routes() -> Router<Api> {
    Router::new()
        .route("/schedules", get(list))
        .route("/schedules/{name}", get(show).put(set).delete(delete))
        .route("/schedules/{name}/pause", post(pause))
        .route("/schedules/{name}/unpause", post(unpause))
        .route("/schedules/{name}/trigger", post(trigger))
}

async fn list(Scoped(api): Scoped) -> Answer {
    blocking(move || api.schedules()).await.map(Json)
}

async fn set(Scoped(api): Scoped, Path(name): Path<String>, JsonBody(body): JsonBody<ScheduleBody>) -> Answer {
    api.put_schedule(&name, body).await.map(Json)
}

async fn show(Scoped(api): Scoped, Path(name): Path<String>, Query(query): Query<ScheduleQuery>) -> Answer {
    blocking(move || api.schedule(&name, &query)).await.map(Json)
}

async fn delete(Scoped(api): Scoped, Path(name): Path<String>) -> Result<StatusCode> {
    api.delete_schedule(&name).await?;
    Ok(StatusCode::NO_CONTENT)
}

async fn pause(Scoped(api): Scoped, Path(name): Path<String>, JsonBody(body): JsonBody<Reason>) -> Answer {
    api.act_on_schedule(&name, ScheduleAction::Pause(body.reason)).await.map(Json)
}

async fn unpause(Scoped(api): Scoped, Path(name): Path<String>) -> Answer {
    api.act_on_schedule(&name, ScheduleAction::Unpause).await.map(Json)
}

async fn trigger(Scoped(api): Scoped, Path(name): Path<String>) -> Answer {
    api.act_on_schedule(&name, ScheduleAction::Trigger).await.map(Json)
}
