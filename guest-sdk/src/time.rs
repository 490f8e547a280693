//! Time as an orchestration sees it: milliseconds since 1970, as recorded.

use std::fmt;
use std::ops::{Add, AddAssign, Sub, SubAssign};
use std::str::FromStr;
use std::time::{Duration, SystemTime, UNIX_EPOCH};

use serde::{Deserialize, Deserializer, Serialize, Serializer};

const MS_PER_DAY: u64 = 86_400_000;

/// A moment, exact to the millisecond. Shown, written and read as RFC 3339 in
/// UTC. Arithmetic saturates at 1970 and at the end of `u64`.
///
/// ```
/// use dacapo_sdk::Timestamp;
/// use std::time::Duration;
///
/// let noon: Timestamp = "2026-02-28T12:00:00Z".parse()?;
/// let later = noon + Duration::from_secs(24 * 3600);
/// assert_eq!(later.to_string(), "2026-03-01T12:00:00.000Z");
/// assert_eq!(later.date(), "2026-03-01");
/// assert_eq!(later - noon, Duration::from_secs(86_400));
/// # Ok::<(), dacapo_sdk::InvalidTimestamp>(())
/// ```
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct Timestamp(u64);

impl Timestamp {
    /// Of milliseconds since 1970-01-01T00:00:00Z.
    pub const fn from_unix_ms(ms: u64) -> Self {
        Self(ms)
    }

    /// Milliseconds since 1970-01-01T00:00:00Z.
    pub const fn unix_ms(self) -> u64 {
        self.0
    }

    /// The date in UTC: `2026-03-01`.
    pub fn date(self) -> String {
        let (year, month, day) = civil_date(self.0 / MS_PER_DAY);
        format!("{year:04}-{month:02}-{day:02}")
    }

    /// How long it has been since `earlier`; zero if that is later.
    pub fn since(self, earlier: Self) -> Duration {
        Duration::from_millis(self.0.saturating_sub(earlier.0))
    }
}

impl fmt::Display for Timestamp {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let ms = self.0 % MS_PER_DAY;
        let (hour, minute, second) = (ms / 3_600_000, ms / 60_000 % 60, ms / 1000 % 60);
        let date = self.date();
        write!(f, "{date}T{hour:02}:{minute:02}:{second:02}.{:03}Z", ms % 1000)
    }
}

/// Not an RFC 3339 time from 1970 on.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct InvalidTimestamp(String);

impl fmt::Display for InvalidTimestamp {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Self(text) = self;
        write!(f, "expected an RFC 3339 time such as 2026-02-28T12:00:00Z, found {text:?}")
    }
}

impl std::error::Error for InvalidTimestamp {}

impl FromStr for Timestamp {
    type Err = InvalidTimestamp;

    fn from_str(text: &str) -> Result<Self, Self::Err> {
        parse_rfc3339(text).map(Self).ok_or_else(|| InvalidTimestamp(text.to_owned()))
    }
}

impl Add<Duration> for Timestamp {
    type Output = Self;
    fn add(self, length: Duration) -> Self {
        Self(self.0.saturating_add(whole_ms(length)))
    }
}

impl Sub<Duration> for Timestamp {
    type Output = Self;
    fn sub(self, length: Duration) -> Self {
        Self(self.0.saturating_sub(whole_ms(length)))
    }
}

impl Sub for Timestamp {
    type Output = Duration;
    fn sub(self, earlier: Self) -> Duration {
        self.since(earlier)
    }
}

impl AddAssign<Duration> for Timestamp {
    fn add_assign(&mut self, length: Duration) {
        *self = *self + length;
    }
}

impl SubAssign<Duration> for Timestamp {
    fn sub_assign(&mut self, length: Duration) {
        *self = *self - length;
    }
}

impl From<Timestamp> for SystemTime {
    fn from(time: Timestamp) -> Self {
        UNIX_EPOCH + Duration::from_millis(time.0)
    }
}

impl From<SystemTime> for Timestamp {
    fn from(time: SystemTime) -> Self {
        Self(time.duration_since(UNIX_EPOCH).map_or(0, whole_ms))
    }
}

impl Serialize for Timestamp {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        serializer.collect_str(self)
    }
}

impl<'de> Deserialize<'de> for Timestamp {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        let text = String::deserialize(deserializer)?;
        text.parse().map_err(serde::de::Error::custom)
    }
}

impl schemars::JsonSchema for Timestamp {
    fn inline_schema() -> bool {
        true
    }

    fn schema_name() -> std::borrow::Cow<'static, str> {
        "Timestamp".into()
    }

    fn json_schema(_: &mut schemars::SchemaGenerator) -> schemars::Schema {
        schemars::json_schema!({ "type": "string", "format": "date-time" })
    }
}

/// A length in whole milliseconds, the rest cut off, at most `u64::MAX`.
pub(crate) fn whole_ms(length: Duration) -> u64 {
    u64::try_from(length.as_millis()).unwrap_or(u64::MAX)
}

/// Days since 1970 to year, month, day (Hinnant's `civil_from_days`).
fn civil_date(days: u64) -> (u64, u64, u64) {
    let shifted = days + 719_468;
    let (era, day_of_era) = (shifted / 146_097, shifted % 146_097);
    let year_of_era = (day_of_era - day_of_era / 1460 + day_of_era / 36_524 - day_of_era / 146_096) / 365;
    let day_of_year = day_of_era - (365 * year_of_era + year_of_era / 4 - year_of_era / 100);
    let shifted_month = (5 * day_of_year + 2) / 153;
    let day = day_of_year - (153 * shifted_month + 2) / 5 + 1;
    let month = if shifted_month < 10 { shifted_month + 3 } else { shifted_month - 9 };
    let year = era * 400 + year_of_era + u64::from(month <= 2);
    (year, month, day)
}

/// Year, month, day to days since 1970; none for a date that is not, or is before.
fn days_since_1970(year: u64, month: u64, day: u64) -> Option<u64> {
    if !(1..=12).contains(&month) || year < 1970 {
        return None;
    }
    let shifted_year = year - u64::from(month <= 2);
    let (era, year_of_era) = (shifted_year / 400, shifted_year % 400);
    let shifted_month = if month > 2 { month - 3 } else { month + 9 };
    let day_of_year = (153 * shifted_month + 2) / 5 + day.checked_sub(1)?;
    let day_of_era = year_of_era * 365 + year_of_era / 4 - year_of_era / 100 + day_of_year;
    let days = era * 146_097 + day_of_era - 719_468;
    (civil_date(days) == (year, month, day)).then_some(days)
}

fn parse_rfc3339(text: &str) -> Option<u64> {
    let digits = |from: usize, to: usize| -> Option<u64> {
        let part = text.get(from..to)?;
        part.bytes().all(|b| b.is_ascii_digit()).then(|| part.parse().ok())?
    };
    let is = |at: usize, wanted: &[u8]| text.as_bytes().get(at).is_some_and(|b| wanted.contains(b));
    if !(is(4, b"-") && is(7, b"-") && is(10, b"Tt ") && is(13, b":") && is(16, b":")) {
        return None;
    }
    let days = days_since_1970(digits(0, 4)?, digits(5, 7)?, digits(8, 10)?)?;
    let (hour, minute, second) = (digits(11, 13)?, digits(14, 16)?, digits(17, 19)?);
    if hour > 23 || minute > 59 || second > 60 {
        return None;
    }
    let mut ms = days * MS_PER_DAY + hour * 3_600_000 + minute * 60_000 + second * 1000;
    let mut rest = text.get(19..)?;
    if let Some(fraction) = rest.strip_prefix('.') {
        let length = fraction.bytes().take_while(u8::is_ascii_digit).count();
        let thousandths: String = fraction[..length].chars().chain("00".chars()).take(3).collect();
        ms += (length > 0).then(|| thousandths.parse::<u64>().ok())??;
        rest = &fraction[length..];
    }
    if rest.eq_ignore_ascii_case("z") {
        return Some(ms);
    }
    let start = text.len() - rest.len();
    if rest.len() != 6 || !is(start + 3, b":") {
        return None;
    }
    let offset_ms = digits(start + 1, start + 3)? * 3_600_000 + digits(start + 4, start + 6)? * 60_000;
    match &rest[..1] {
        "+" => ms.checked_sub(offset_ms),
        "-" => ms.checked_add(offset_ms),
        _ => None,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_day_of_four_centuries_there_and_back() {
        for day in 0..146_097 {
            let (year, month, day_of_month) = civil_date(day);
            assert_eq!(days_since_1970(year, month, day_of_month), Some(day));
        }
        assert_eq!(civil_date(11_016), (2000, 2, 29));
    }

    #[test]
    fn text_there_and_back() {
        let same = "2026-11-22T03:58:49.120Z";
        assert_eq!(same.parse::<Timestamp>().unwrap().to_string(), same);
        let offset: Timestamp = "2026-11-22T04:58:49.12+01:00".parse().unwrap();
        assert_eq!(offset.to_string(), same);
        for wrong in [
            "",
            "2026-02-30T00:00:00Z",
            "2026-11-22",
            "2026-11-22T03:58:49",
            "1969-01-01T00:00:00Z",
            "2026-11-22T03:58:49.Z",
            "2026-11-22T03:58:49ü01:00",
        ] {
            assert!(wrong.parse::<Timestamp>().is_err(), "{wrong}");
        }
    }
}
