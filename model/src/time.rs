//! Wall-clock time as microseconds since 1970 in UTC, and how it is written.

use std::time::{Duration, SystemTime, UNIX_EPOCH};

/// Now, in microseconds since 1970 UTC.
#[must_use]
pub fn now_us() -> i64 {
    match SystemTime::now().duration_since(UNIX_EPOCH) {
        Ok(after) => i64::try_from(after.as_micros()).unwrap_or(i64::MAX),
        Err(before) => i64::try_from(before.duration().as_micros()).map_or(i64::MIN, |us| -us),
    }
}

fn stamp(us: i64) -> jiff::Timestamp {
    jiff::Timestamp::from_microsecond(us).unwrap_or(jiff::Timestamp::UNIX_EPOCH)
}

/// RFC 3339 in UTC with microseconds: `2026-01-01T00:00:00.000000Z`.
#[must_use]
pub fn rfc3339_us(us: i64) -> String {
    format!("{:.6}", stamp(us))
}

/// RFC 3339 in UTC with milliseconds: `2026-01-01T00:00:00.000Z`.
#[must_use]
pub fn rfc3339_ms(us: i64) -> String {
    format!("{:.3}", stamp(us))
}

/// Reads RFC 3339 back into microseconds.
#[must_use]
pub fn parse_rfc3339(text: &str) -> Option<i64> {
    text.parse::<jiff::Timestamp>()
        .ok()
        .map(jiff::Timestamp::as_microsecond)
}

/// What a file says of a time, as the clock of this host has it; now, when it says nothing.
#[must_use]
pub fn wall_clock(text: Option<&str>) -> SystemTime {
    let us = text
        .and_then(parse_rfc3339)
        .and_then(|us| u64::try_from(us).ok());
    us.map_or_else(SystemTime::now, |us| UNIX_EPOCH + Duration::from_micros(us))
}

/// The default name of a run: local time as `20260101_000000`.
#[must_use]
pub fn local_run_name(us: i64) -> String {
    stamp(us)
        .to_zoned(jiff::tz::TimeZone::system())
        .strftime("%Y%m%d_%H%M%S")
        .to_string()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn times_are_written_in_utc_and_read_back() {
        assert_eq!(rfc3339_us(0), "1970-01-01T00:00:00.000000Z");
        assert_eq!(
            rfc3339_ms(1_767_225_600_123_456),
            "2026-01-01T00:00:00.123Z"
        );
        assert_eq!(
            parse_rfc3339(&rfc3339_us(1_767_225_600_123_456)),
            Some(1_767_225_600_123_456)
        );
    }
}
