//! Wall-clock time as microseconds since 1970 in UTC, and how it is written.

use std::cell::Cell;
use std::time::{Duration, SystemTime, UNIX_EPOCH};

use jiff::tz::TimeZone;

/// Now, in microseconds since 1970 UTC.
#[must_use]
#[inline]
pub fn now_us() -> i64 {
    match SystemTime::now().duration_since(UNIX_EPOCH) {
        // Without a division of 128 bits: this is asked for with every call of `log_*`.
        Ok(after) => i64::try_from(after.as_secs())
            .unwrap_or(i64::MAX)
            .saturating_mul(1_000_000)
            .saturating_add(i64::from(after.subsec_micros())),
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

/// Appends [`rfc3339_us`] or [`rfc3339_ms`], for 6 or 3 `digits` of a second; many times as fast, most of all for times
/// of the same second.
pub fn put_stamp(out: &mut Vec<u8>, us: i64, digits: usize) {
    thread_local! {
        /// The last second that was written, and how.
        static LAST: Cell<(i64, [u8; 20])> = const { Cell::new((0, *b"1970-01-01T00:00:00.")) };
    }
    let (secs, micros) = (us.div_euclid(1_000_000), us.rem_euclid(1_000_000));
    let (known, mut text) = LAST.get();
    if known != secs {
        let (days, second) = (secs.div_euclid(86_400), secs.rem_euclid(86_400));
        // Years of four digits; what lies outside is written the other way.
        if !(-719_162..2_932_896).contains(&days) {
            let text = if digits == 3 {
                rfc3339_ms(us)
            } else {
                rfc3339_us(us)
            };
            out.extend_from_slice(text.as_bytes());
            return;
        }
        let (year, month, day) = civil(days);
        for (at, width, number) in [
            (0, 4, year),
            (5, 2, month),
            (8, 2, day),
            (11, 2, second / 3600),
            (14, 2, second / 60 % 60),
            (17, 2, second % 60),
        ] {
            put_digits(&mut text[at..at + width], number.unsigned_abs());
        }
        LAST.set((secs, text));
    }
    let mut fraction = [0; 6];
    put_digits(&mut fraction, micros.unsigned_abs());
    out.extend_from_slice(&text);
    out.extend_from_slice(&fraction[..digits.min(6)]);
    out.push(b'Z');
}

fn put_digits(places: &mut [u8], mut number: u64) {
    for place in places.iter_mut().rev() {
        *place = b'0' + (number % 10).to_le_bytes()[0];
        number /= 10;
    }
}

/// [`parse_rfc3339`], many times as fast for what [`put_stamp`] writes.
#[must_use]
pub fn parse_stamp(text: &[u8]) -> Option<i64> {
    let slow = || std::str::from_utf8(text).ok().and_then(parse_rfc3339);
    let digits = match text.len() {
        24 => 3,
        27 => 6,
        _ => return slow(),
    };
    for (at, mark) in [
        (4, b'-'),
        (7, b'-'),
        (10, b'T'),
        (13, b':'),
        (16, b':'),
        (19, b'.'),
    ] {
        if text[at] != mark {
            return slow();
        }
    }
    let number = |at: usize, width: usize| {
        text[at..at + width].iter().try_fold(0, |n: i64, c| {
            c.is_ascii_digit().then(|| 10 * n + i64::from(c - b'0'))
        })
    };
    let (year, month, day) = (number(0, 4)?, number(5, 2)?, number(8, 2)?);
    let (hour, minute, second) = (number(11, 2)?, number(14, 2)?, number(17, 2)?);
    let part = number(20, digits)?;
    let days = days(year, month, day);
    let is_plain = text[text.len() - 1] == b'Z' && hour < 24 && minute < 60 && second < 60;
    if !is_plain || year == 0 || civil(days) != (year, month, day) {
        return slow();
    }
    let secs = days * 86_400 + hour * 3600 + minute * 60 + second;
    Some(secs * 1_000_000 + if digits == 3 { part * 1000 } else { part })
}

/// Year, month and day of a day since 1970, by the calendar's cycle of 400 years that begin in March.
const fn civil(days: i64) -> (i64, i64, i64) {
    let days = days + 719_468;
    let (era, day) = (days.div_euclid(146_097), days.rem_euclid(146_097));
    let year = (day - day / 1460 + day / 36_524 - day / 146_096) / 365;
    let day = day - (365 * year + year / 4 - year / 100);
    let month = (5 * day + 2) / 153;
    let of_month = day - (153 * month + 2) / 5 + 1;
    let month = if month < 10 { month + 3 } else { month - 9 };
    let next = if month <= 2 { 1 } else { 0 };
    (era * 400 + year + next, month, of_month)
}

/// What [`civil`] takes apart.
const fn days(year: i64, month: i64, day: i64) -> i64 {
    let year = if month <= 2 { year - 1 } else { year };
    let (era, of_era) = (year.div_euclid(400), year.rem_euclid(400));
    let month = if month > 2 { month - 3 } else { month + 9 };
    let of_year = (153 * month + 2) / 5 + day - 1;
    era * 146_097 + of_era * 365 + of_era / 4 - of_era / 100 + of_year - 719_468
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
        .to_zoned(local_zone())
        .strftime("%Y%m%d_%H%M%S")
        .to_string()
}

/// This machine's time zone. Asked for it, the library looks up what the zone is called, too, for which it reads the
/// folders of all zones that there are.
fn local_zone() -> TimeZone {
    let named = std::env::var_os("TZ").is_some();
    let local = (!named).then(|| std::fs::read("/etc/localtime").ok());
    local
        .flatten()
        .and_then(|zone| TimeZone::tzif("local", &zone).ok())
        .unwrap_or_else(TimeZone::system)
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    #[test]
    fn runs_are_named_by_the_clock_on_the_wall() {
        for us in [0, 1_700_000_000_000_000, 1_720_000_000_000_000] {
            let zoned = stamp(us).to_zoned(TimeZone::system());
            assert_eq!(
                local_run_name(us),
                zoned.strftime("%Y%m%d_%H%M%S").to_string()
            );
        }
    }

    proptest! {
        #[test]
        fn the_fast_way_writes_and_reads_what_the_other_does(
            us in prop_oneof![any::<i64>(), -62_135_596_800_000_000i64..253_402_300_799_999_999], text in "[0-9]{4}-[0-1][0-9]-[0-3][0-9]T[0-2][0-9]:[0-6][0-9]:[0-6][0-9]\\.([0-9]{3}|[0-9]{6})Z"
        ) {
            let mut out = Vec::new();
            put_stamp(&mut out, us, 6);
            prop_assert_eq!(std::str::from_utf8(&out).unwrap(), rfc3339_us(us));
            prop_assert_eq!(parse_stamp(&out), parse_rfc3339(&rfc3339_us(us)));
            let whole = us.saturating_sub(us.rem_euclid(1000));
            out.clear();
            put_stamp(&mut out, whole, 3);
            prop_assert_eq!(std::str::from_utf8(&out).unwrap(), rfc3339_ms(whole));
            prop_assert_eq!(parse_stamp(text.as_bytes()), parse_rfc3339(&text));
        }
    }

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
