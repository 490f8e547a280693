//! When a schedule is due: the calendar, and nothing else.
//!
//! Cron expressions are read by `croner` and follow the civil time of their zone.
//! Where clocks jump it does what Vixie cron does: a job at a fixed time that the
//! clocks leave out runs right after the jump, one at a time that comes twice runs
//! once, and one that runs at intervals goes on with the time that passes.

use croner::Cron;
use croner::parser::{CronParser, Seconds, Year};
use jiff::tz::TimeZone;

use crate::core::ids::TimestampMs;
use crate::engine::EngineError;
use crate::store::schedule::Timing;

/// Instances cost more than seconds.
const MIN_INTERVAL_MS: u64 = 1_000;

/// A timing, read.
pub(super) enum Calendar {
    Cron(Box<Cron>, TimeZone),
    Every(u64),
}

impl Calendar {
    /// Reads a timing.
    ///
    /// # Errors
    /// Says what is wrong with it.
    pub(super) fn read(timing: &Timing) -> Result<Self, EngineError> {
        match timing {
            Timing::Every { interval_ms } if *interval_ms < MIN_INTERVAL_MS => {
                Err(invalid(format!("the interval is {interval_ms} ms: expected at least {MIN_INTERVAL_MS}")))
            }
            Timing::Every { interval_ms } => Ok(Self::Every(*interval_ms)),
            Timing::Cron { expression, time_zone } => {
                let parser = CronParser::builder().seconds(Seconds::Optional).year(Year::Disallowed).build();
                let cron = parser.parse(expression).map_err(|error| {
                    let fields = "minute, hour, day of month, month, day of week; with seconds before them, six";
                    invalid(format!(
                        "{expression:?} is no cron expression: {error}; expected {fields}, as in \"30 2 * * MON-FRI\""
                    ))
                })?;
                let zone = TimeZone::get(time_zone).map_err(|_| {
                    invalid(format!("unknown time zone {time_zone:?}: expected a name such as Europe/Berlin or UTC"))
                })?;
                Ok(Self::Cron(Box::new(cron), zone))
            }
        }
    }

    /// The first time after `after`; none if there is no further one. `from` is
    /// when the schedule was made.
    pub(super) fn next(&self, from: TimestampMs, after: TimestampMs) -> Option<TimestampMs> {
        match self {
            Self::Every(interval) => {
                let passed = after.since(from) / interval;
                Some(from.plus((passed + 1).checked_mul(*interval)?))
            }
            Self::Cron(cron, zone) => {
                // Times of cron are whole seconds.
                let second = jiff::Timestamp::from_second(i64::try_from(after.0 / 1000).ok()?).ok()?;
                let next = cron.find_next_occurrence(&second.to_zoned(zone.clone()), false).ok()?;
                u64::try_from(next.timestamp().as_millisecond()).ok().map(TimestampMs)
            }
        }
    }
}

fn invalid(message: String) -> EngineError {
    EngineError::InvalidInput(message)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn at(text: &str) -> TimestampMs {
        TimestampMs(u64::try_from(text.parse::<jiff::Timestamp>().unwrap().as_millisecond()).unwrap())
    }

    /// The next `count` times of a cron expression.
    fn cron(expression: &str, zone: &str, after: &str, count: usize) -> Vec<String> {
        let timing = Timing::Cron { expression: expression.to_owned(), time_zone: zone.to_owned() };
        let calendar = Calendar::read(&timing).unwrap_or_else(|error| panic!("{error}"));
        let mut last = at(after);
        let mut next = || {
            last = calendar.next(TimestampMs(0), last)?;
            Some(last.to_string().replace(".000Z", "Z"))
        };
        std::iter::from_fn(&mut next).take(count).collect()
    }

    #[test]
    fn civil_time_is_kept_when_clocks_change() {
        // 2026-03-29, Berlin: 02:00 becomes 03:00. 2026-10-25: 03:00 becomes 02:00.
        assert_eq!(
            cron("0 8 * * *", "Europe/Berlin", "2026-03-28T00:00:00Z", 3),
            ["2026-03-28T07:00:00Z", "2026-03-29T06:00:00Z", "2026-03-30T06:00:00Z"]
        );
        assert_eq!(
            cron("0 8 * * *", "Europe/Berlin", "2026-10-24T00:00:00Z", 2),
            ["2026-10-24T06:00:00Z", "2026-10-25T07:00:00Z"]
        );
    }

    #[test]
    fn a_fixed_time_that_is_left_out_runs_after_the_jump_and_one_that_comes_twice_once() {
        assert_eq!(
            cron("30 2 * * *", "Europe/Berlin", "2026-03-28T12:00:00Z", 2),
            ["2026-03-29T01:00:00Z", "2026-03-30T00:30:00Z"],
            "02:30 does not exist, 03:00 is the first moment after"
        );
        assert_eq!(
            cron("30 2 * * *", "Europe/Berlin", "2026-10-24T12:00:00Z", 2),
            ["2026-10-25T00:30:00Z", "2026-10-26T01:30:00Z"]
        );
    }

    #[test]
    fn what_runs_at_intervals_goes_on_with_the_time_that_passes() {
        let hourly = |after| cron("0 * * * *", "Europe/Berlin", after, 3);
        assert_eq!(
            hourly("2026-03-29T00:30:00Z"),
            ["2026-03-29T01:00:00Z", "2026-03-29T02:00:00Z", "2026-03-29T03:00:00Z"]
        );
        assert_eq!(
            hourly("2026-10-24T23:30:00Z"),
            ["2026-10-25T00:00:00Z", "2026-10-25T01:00:00Z", "2026-10-25T02:00:00Z"]
        );
    }

    #[test]
    fn expressions_have_names_lists_and_seconds_and_may_end() {
        assert_eq!(
            cron("15,45 9 * * MON", "America/New_York", "2026-01-01T00:00:00Z", 3),
            ["2026-01-05T14:15:00Z", "2026-01-05T14:45:00Z", "2026-01-12T14:15:00Z"]
        );
        assert_eq!(cron("*/20 * * * * *", "UTC", "2026-01-01T00:00:00Z", 1), ["2026-01-01T00:00:20Z"]);
        assert_eq!(cron("0 0 29 2 *", "UTC", "2026-01-01T00:00:00Z", 1), ["2028-02-29T00:00:00Z"]);
        assert!(cron("0 0 31 2 *", "UTC", "2026-01-01T00:00:00Z", 1).is_empty());
    }

    #[test]
    fn intervals_are_counted_from_the_beginning() {
        let every = Calendar::read(&Timing::Every { interval_ms: 60_000 }).unwrap_or_else(|_| panic!("a timing"));
        let from = TimestampMs(5_000);
        for (after, next) in [(0, 65_000), (5_000, 65_000), (64_999, 65_000), (65_000, 125_000)] {
            assert_eq!(every.next(from, TimestampMs(after)), Some(TimestampMs(next)), "{after}");
        }
    }

    #[test]
    fn mistakes_are_told_with_what_is_expected() {
        let told = |timing| Calendar::read(&timing).err().map(|error| error.to_string()).unwrap_or_default();
        let cron = |expression: &str, zone: &str| Timing::Cron {
            expression: expression.to_owned(),
            time_zone: zone.to_owned(),
        };
        assert!(told(cron("0 25 * * *", "UTC")).contains("no cron expression"));
        assert!(told(cron("0 2 * *", "UTC")).contains("day of week"));
        assert!(told(cron("0 2 * * *", "Europe/Bielefeld")).contains("unknown time zone \"Europe/Bielefeld\""));
        assert!(told(Timing::Every { interval_ms: 10 }).contains("at least 1000"));
    }
}
