//! A schedule as it is kept: what it starts, when, and how far it has come.
//!
//! Its past is not here: the instances that it started are the record of that.
//! What they are called follows from the schedule's name and the time they were
//! due ([`occurrence_id`]), which is why no crash can start one of them twice.

use std::collections::BTreeMap;

use serde::{Deserialize, Serialize};

use crate::core::ids::{InstanceId, TimestampMs};
use crate::core::payload::Payload;

/// Longest name of a schedule, in bytes: it is part of the ids of its instances.
pub const MAX_NAME_BYTES: usize = 100;

/// A schedule.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct Schedule {
    /// Its name.
    pub name: String,
    /// What it starts, and when.
    pub spec: ScheduleSpec,
    /// When it was made.
    pub created_at: TimestampMs,
    /// What was due up to here is dealt with.
    pub handled_until: TimestampMs,
    /// Why it is paused, if it is.
    pub paused: Option<String>,
    /// Was due then, and starts when the instance before it has ended.
    pub buffered: Option<TimestampMs>,
    /// Instances started.
    pub started: u64,
    /// Times at which none was started, because the one before still ran.
    pub skipped: u64,
    /// The instance started last.
    pub last: Option<InstanceId>,
    /// Why the last start failed; none once one succeeds.
    pub last_error: Option<String>,
}

/// What a schedule starts, and when.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct ScheduleSpec {
    /// When.
    pub timing: Timing,
    /// The orchestration.
    pub orchestration: String,
    /// Whose: `name`, `name@version` or a hash.
    pub module: Option<String>,
    /// The input of each instance.
    pub input: Payload,
    /// Tags of each instance, beside `schedule` and `scheduled_for`.
    pub tags: BTreeMap<String, String>,
    /// What to do while the instance before still runs.
    pub overlap: Overlap,
    /// What was due longer ago than this, because no host ran, is left out.
    pub catch_up_ms: u64,
}

impl Schedule {
    /// Its name as its namespace knows it.
    pub fn local_name(&self) -> &str {
        crate::core::namespace::local(&self.name)
    }
}

/// When instances are due.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub enum Timing {
    /// By the calendar of a time zone.
    Cron {
        /// Five fields, or six with seconds first.
        expression: String,
        /// An IANA name.
        time_zone: String,
    },
    /// Again and again, counted from when the schedule was made.
    Every {
        /// Milliseconds.
        interval_ms: u64,
    },
}

/// What to do with an instance that is due while one before it still runs.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum Overlap {
    /// It is left out.
    #[default]
    Skip,
    /// It starts beside it.
    Allow,
    /// It starts when the other has ended; one waits at most, others are left out.
    BufferOne,
    /// The other is asked to end, and it starts when that has ended.
    CancelOther,
    /// The other is ended, and it starts.
    TerminateOther,
}

/// The id of the instance that schedule `name` starts for the time `due`.
pub fn occurrence_id(name: &str, due: TimestampMs) -> InstanceId {
    named(&format!("{name}/{}", written(due)))
}

/// The id of an instance that schedule `name` was told to start at once.
pub fn triggered_id(name: &str, at: TimestampMs) -> InstanceId {
    named(&format!("{name}/{NOW}{}", written(at)))
}

/// Whether schedule `name` started an instance of that id.
pub fn is_occurrence(name: &str, id: &InstanceId) -> bool {
    let time = id.as_str().strip_prefix(name).and_then(|rest| rest.strip_prefix('/'));
    let time = time.map(|time| time.strip_prefix(NOW).unwrap_or(time));
    // Children of such instances have ids that go on behind the time.
    time.is_some_and(|time| time.parse::<jiff::Timestamp>().is_ok_and(|parsed| parsed.to_string() == time))
}

const NOW: &str = "now-";

fn named(text: &str) -> InstanceId {
    InstanceId::stored(text).expect("a schedule's name is short and without control characters")
}

/// As RFC 3339, with a fraction only where there is one.
fn written(time: TimestampMs) -> String {
    let time = i64::try_from(time.0).ok().and_then(|ms| jiff::Timestamp::from_millisecond(ms).ok());
    time.unwrap_or(jiff::Timestamp::MAX).to_string()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn ids_follow_from_name_and_time_and_are_recognised() {
        let due = TimestampMs(1_767_225_600_000);
        let id = occurrence_id("nightly", due);
        assert_eq!(id.as_str(), "nightly/2026-01-01T00:00:00Z");
        assert!(is_occurrence("nightly", &id) && is_occurrence("nightly", &triggered_id("nightly", due.plus(120))));
        assert_eq!(triggered_id("nightly", due.plus(120)).as_str(), "nightly/now-2026-01-01T00:00:00.12Z");
        for other in ["nightly", "nightly/x", "nightly/2026-01-01T00:00:00Z/1/2", "nightly-2/2026-01-01T00:00:00Z"] {
            assert!(!is_occurrence("nightly", &InstanceId::new(other).unwrap()), "{other}");
        }
    }
}
