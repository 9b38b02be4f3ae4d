//! Durations and points in time as Go and Docker's clients write them.

use std::fmt::Write as _;
use std::time::Duration;

use jiff::civil::{Date, DateTime, Time};
use jiff::tz::{Offset, TimeZone};

use crate::{Classify, ErrorKind, Timestamp};

/// Why a duration or a time was refused. The texts are Go's and Docker's.
#[expect(missing_docs, reason = "the messages name the fields")]
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum DurationError {
    #[error("time: invalid duration {text:?}")]
    Invalid { text: String },
    #[error("time: missing unit in duration {text:?}")]
    MissingUnit { text: String },
    #[error("time: unknown unit {unit:?} in duration {text:?}")]
    UnknownUnit { unit: String, text: String },
    #[error("failed to parse value as time or duration: {text:?}")]
    Time { text: String },
    #[error("strconv.ParseInt: parsing {text:?}: invalid syntax")]
    Unix { text: String },
}

impl Classify for DurationError {
    fn kind(&self) -> ErrorKind {
        match self {
            Self::Invalid { .. }
            | Self::MissingUnit { .. }
            | Self::UnknownUnit { .. }
            | Self::Time { .. }
            | Self::Unix { .. } => ErrorKind::InvalidParameter,
        }
    }
}

const MICRO: u64 = 1_000;
const MILLI: u64 = 1_000_000;
const SECOND: u64 = 1_000_000_000;
const MINUTE: u64 = 60 * SECOND;
const HOUR: u64 = 60 * MINUTE;

/// Reads Go's duration syntax, such as `1h30m` or `-1.5s`, as nanoseconds.
pub fn parse_go(text: &str) -> Result<i64, DurationError> {
    let invalid = || DurationError::Invalid { text: text.to_owned() };
    let (negative, mut rest) = match text.strip_prefix('-') {
        Some(rest) => (true, rest),
        None => (false, text.strip_prefix('+').unwrap_or(text)),
    };
    if rest == "0" {
        return Ok(0);
    }
    if rest.is_empty() {
        return Err(invalid());
    }
    let mut total: u64 = 0;
    while !rest.is_empty() {
        let (whole, after) = split_digits(rest);
        let (fraction, after) = after.strip_prefix('.').map_or(("", after), split_digits);
        if whole.is_empty() && fraction.is_empty() {
            return Err(invalid());
        }
        let end = after.find(|c: char| c == '.' || c.is_ascii_digit()).unwrap_or(after.len());
        let (unit, after) = after.split_at(end);
        if unit.is_empty() {
            return Err(DurationError::MissingUnit { text: text.to_owned() });
        }
        let scale = unit_nanos(unit).ok_or_else(|| DurationError::UnknownUnit {
            unit: unit.to_owned(),
            text: text.to_owned(),
        })?;
        let whole: u64 =
            if whole.is_empty() { 0 } else { whole.parse().map_err(|_err| invalid())? };
        let part = whole.checked_mul(scale).ok_or_else(invalid)? + fraction_of(fraction, scale);
        total = total.checked_add(part).ok_or_else(invalid)?;
        rest = after;
    }
    match (i64::try_from(total), negative) {
        (Ok(nanos), false) => Ok(nanos),
        (Ok(nanos), true) => Ok(-nanos),
        (Err(_), true) if total == 1 << 63 => Ok(i64::MIN),
        (Err(_), _) => Err(invalid()),
    }
}

fn split_digits(text: &str) -> (&str, &str) {
    text.split_at(text.find(|c: char| !c.is_ascii_digit()).unwrap_or(text.len()))
}

fn unit_nanos(unit: &str) -> Option<u64> {
    Some(match unit {
        "ns" => 1,
        "us" | "µs" | "μs" => MICRO,
        "ms" => MILLI,
        "s" => SECOND,
        "m" => MINUTE,
        "h" => HOUR,
        _ => return None,
    })
}

/// `0.<digits>` of `scale`, rounded down.
fn fraction_of(digits: &str, scale: u64) -> u64 {
    // 18 digits are below a nanosecond for every unit.
    let digits = &digits[..digits.len().min(18)];
    let value: u128 = digits.parse().unwrap_or(0);
    let power = 10_u128.pow(u32::try_from(digits.len()).unwrap_or(0));
    u64::try_from(value * u128::from(scale) / power).unwrap_or(0)
}

/// Writes nanoseconds as Go prints a duration: `1h30m0s`, `1.5s`, `250µs`, `0s`.
pub fn format_go(nanos: i64) -> String {
    let sign = if nanos < 0 { "-" } else { "" };
    let nanos = nanos.unsigned_abs();
    let small = [(MICRO, 1, "ns"), (MILLI, MICRO, "µs"), (SECOND, MILLI, "ms")];
    if nanos == 0 {
        return "0s".to_owned();
    }
    if let Some(&(_, scale, unit)) = small.iter().find(|(limit, _, _)| nanos < *limit) {
        return format!("{sign}{}{unit}", decimal(nanos, scale));
    }
    let mut text = sign.to_owned();
    let (hours, minutes) = (nanos / HOUR, nanos % HOUR / MINUTE);
    if hours > 0 {
        write!(text, "{hours}h").expect("writing to a string cannot fail");
    }
    if hours > 0 || minutes > 0 {
        write!(text, "{minutes}m").expect("writing to a string cannot fail");
    }
    text + &decimal(nanos % MINUTE, SECOND) + "s"
}

fn decimal(nanos: u64, scale: u64) -> String {
    let (whole, fraction) = (nanos / scale, nanos % scale);
    if fraction == 0 {
        return whole.to_string();
    }
    let width = usize::try_from(scale.ilog10()).unwrap_or(0);
    format!("{whole}.{fraction:0width$}").trim_end_matches('0').to_owned()
}

/// How long, in the words of `docker ps`: `About a minute`, `3 weeks`.
pub fn human(duration: Duration) -> String {
    let seconds = duration.as_secs();
    let minutes = seconds / 60;
    let hours = (seconds + 1800) / 3600;
    match () {
        () if seconds < 1 => "Less than a second".to_owned(),
        () if seconds == 1 => "1 second".to_owned(),
        () if seconds < 60 => format!("{seconds} seconds"),
        () if minutes == 1 => "About a minute".to_owned(),
        () if minutes < 60 => format!("{minutes} minutes"),
        () if hours == 1 => "About an hour".to_owned(),
        () if hours < 48 => format!("{hours} hours"),
        () if hours < 24 * 7 * 2 => format!("{} days", hours / 24),
        () if hours < 24 * 30 * 2 => format!("{} weeks", hours / 24 / 7),
        () if hours < 24 * 365 * 2 => format!("{} months", hours / 24 / 30),
        () => format!("{} years", seconds / 3600 / 24 / 365),
    }
}

/// Reads `since` and `until` of a query: `<unix seconds>[.<fraction>]`.
pub fn parse_unix(text: &str) -> Result<Timestamp, DurationError> {
    let bad = || DurationError::Unix { text: text.to_owned() };
    let (seconds, fraction) = match text.split_once('.') {
        Some((seconds, fraction)) => (seconds, fraction),
        None => (text, "0"),
    };
    let seconds: i64 = seconds.parse().map_err(|_err| bad())?;
    let digits_only = !fraction.is_empty() && fraction.bytes().all(|b| b.is_ascii_digit());
    if !digits_only {
        return Err(bad());
    }
    let nanos = i32::try_from(fraction_of(fraction, SECOND)).map_err(|_err| bad())?;
    Timestamp::from_unix(seconds, nanos).ok_or_else(bad)
}

/// Reads the value of a time filter.
///
/// A Go duration counts back from `now`. Otherwise unix seconds, RFC 3339, or the start of it:
/// `2006-01-02`, `2006-01-02T15:04`, … with or without an offset. Without one it is local time.
pub fn parse_time_filter(text: &str, now: Timestamp) -> Result<Timestamp, DurationError> {
    parse_time_filter_in(text, now, &TimeZone::system())
}

/// [`parse_time_filter`] with the time zone that stands for "local".
pub fn parse_time_filter_in(
    text: &str,
    now: Timestamp,
    local: &TimeZone,
) -> Result<Timestamp, DurationError> {
    let bad = || DurationError::Time { text: text.to_owned() };
    if text != "0"
        && let Ok(nanos) = parse_go(text)
    {
        // Docker counts in whole seconds here.
        let then = now.unix_nanos().saturating_sub(nanos).div_euclid(1_000_000_000);
        return Timestamp::from_unix(then, 0).ok_or_else(bad);
    }
    if let Some(time) = parse_date(text, local) {
        return Ok(time);
    }
    parse_unix(text).map_err(|_err| bad())
}

fn parse_date(text: &str, local: &TimeZone) -> Option<Timestamp> {
    let (date, rest) = text.split_at_checked(10)?;
    let date = parse_civil_date(date)?;
    let (clock, zone) = match rest.strip_prefix('T') {
        Some(rest) => rest.split_at(rest.find(['Z', '+', '-']).unwrap_or(rest.len())),
        None => ("00", rest),
    };
    let civil = DateTime::from_parts(date, parse_clock(clock)?);
    let zone = match zone {
        "" => local.clone(),
        "Z" => TimeZone::UTC,
        offset => TimeZone::fixed(parse_offset(offset)?),
    };
    Some(civil.to_zoned(zone).ok()?.timestamp().into())
}

fn parse_civil_date(text: &str) -> Option<Date> {
    let mut parts = text.splitn(3, '-');
    let year = i16::try_from(number(parts.next()?, 4)?).ok()?;
    let month = i8::try_from(number(parts.next()?, 2)?).ok()?;
    let day = i8::try_from(number(parts.next()?, 2)?).ok()?;
    Date::new(year, month, day).ok()
}

fn parse_clock(text: &str) -> Option<Time> {
    let (text, fraction) = match text.split_once('.') {
        Some((_, "")) => return None,
        Some((text, fraction)) => (text, fraction),
        None => (text, ""),
    };
    if !fraction.bytes().all(|b| b.is_ascii_digit()) {
        return None;
    }
    let mut fields = [0_i8; 3];
    let parts: Vec<&str> = text.split(':').collect();
    if parts.len() > 3 || (!fraction.is_empty() && parts.len() != 3) {
        return None;
    }
    for (field, part) in fields.iter_mut().zip(parts) {
        *field = i8::try_from(number(part, 2)?).ok()?;
    }
    let nanos = i32::try_from(fraction_of(fraction, SECOND)).ok()?;
    Time::new(fields[0], fields[1], fields[2], nanos).ok()
}

fn parse_offset(text: &str) -> Option<Offset> {
    let (sign, rest) = match text.split_at_checked(1)? {
        ("+", rest) => (1, rest),
        ("-", rest) => (-1, rest),
        _ => return None,
    };
    let (hours, minutes) = rest.split_once(':')?;
    let seconds = number(hours, 2)? * 3600 + number(minutes, 2)? * 60;
    Offset::from_seconds(sign * seconds).ok()
}

/// Exactly `width` digits.
fn number(text: &str, width: usize) -> Option<i32> {
    let digits_only = text.bytes().all(|b| b.is_ascii_digit());
    if text.len() == width && digits_only { text.parse().ok() } else { None }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn go_durations_are_read() {
        let second = 1_000_000_000;
        #[rustfmt::skip]
        let table: &[(&str, Result<i64, &str>)] = &[
            ("0",         Ok(0)),
            ("10s",       Ok(10 * second)),
            ("1h30m",     Ok(5400 * second)),
            ("-1.5h",     Ok(-5400 * second)),
            (".5s",       Ok(second / 2)),
            ("1.s",       Ok(second)),
            ("100us",     Ok(100_000)),
            ("3µs",       Ok(3_000)),
            ("1m2s3ms",   Ok(62 * second + 3_000_000)),
            ("0.3333333333333333333h", Ok(1_199_999_999_999)),
            ("-9223372036854775808ns", Ok(i64::MIN)),
            ("9223372036854775808ns",  Err("time: invalid duration \"9223372036854775808ns\"")),
            ("",          Err("time: invalid duration \"\"")),
            ("-",         Err("time: invalid duration \"-\"")),
            ("s",         Err("time: invalid duration \"s\"")),
            ("10",        Err("time: missing unit in duration \"10\"")),
            ("10d",       Err("time: unknown unit \"d\" in duration \"10d\"")),
            ("5000000h",  Err("time: invalid duration \"5000000h\"")),
        ];
        for (text, expected) in table {
            let got = parse_go(text).map_err(|error| error.to_string());
            assert_eq!(got, expected.map_err(str::to_owned), "{text}");
        }
    }

    #[test]
    fn go_durations_are_written() {
        #[rustfmt::skip]
        let table = [
            (0,                      "0s"),
            (1,                      "1ns"),
            (1_100,                  "1.1µs"),
            (2_200_000,              "2.2ms"),
            (3_300_000_000,          "3.3s"),
            (62_000_000_000,         "1m2s"),
            (3_600_000_000_000,      "1h0m0s"),
            (-5_400_500_000_000,     "-1h30m0.5s"),
            (i64::MIN,               "-2562047h47m16.854775808s"),
        ];
        for (nanos, text) in table {
            assert_eq!(format_go(nanos), text);
            assert_eq!(parse_go(text), Ok(nanos), "{text}");
        }
    }

    #[test]
    fn ages_are_in_dockers_words() {
        let (minute, hour) = (60, 3600);
        let day = 24 * hour;
        #[rustfmt::skip]
        let table = [
            (0,                  "Less than a second"),
            (1,                  "1 second"),
            (59,                 "59 seconds"),
            (minute,             "About a minute"),
            (2 * minute - 1,     "About a minute"),
            (2 * minute,         "2 minutes"),
            (hour - 1,           "59 minutes"),
            (hour,               "About an hour"),
            (hour + 30 * minute, "2 hours"),
            (47 * hour,          "47 hours"),
            (48 * hour,          "2 days"),
            (13 * day,           "13 days"),
            (14 * day,           "2 weeks"),
            (59 * day,           "8 weeks"),
            (60 * day,           "2 months"),
            (729 * day,          "24 months"),
            (730 * day,          "2 years"),
        ];
        for (seconds, text) in table {
            assert_eq!(human(Duration::from_secs(seconds)), text, "{seconds}");
        }
    }

    #[test]
    fn time_filters() {
        let now = Timestamp::from_unix(1_700_000_000, 5).unwrap();
        let local = TimeZone::fixed(Offset::from_hours(2).unwrap());
        #[rustfmt::skip]
        let table: &[(&str, Option<&str>)] = &[
            ("10m",                       Some("2023-11-14T22:03:20Z")),
            ("0",                         Some("1970-01-01T00:00:00Z")),
            ("1136073845",                Some("2006-01-01T00:04:05Z")),
            ("1136073845.000000001",      Some("2006-01-01T00:04:05.000000001Z")),
            ("1136073845.1",              Some("2006-01-01T00:04:05.1Z")),
            ("2006-01-02",                Some("2006-01-01T22:00:00Z")),
            ("2006-01-02Z",               Some("2006-01-02T00:00:00Z")),
            ("2006-01-02-07:00",          Some("2006-01-02T07:00:00Z")),
            ("2006-01-02T15",             Some("2006-01-02T13:00:00Z")),
            ("2006-01-02T15:04",          Some("2006-01-02T13:04:00Z")),
            ("2006-01-02T15:04:05",       Some("2006-01-02T13:04:05Z")),
            ("2006-01-02T15:04:05.5",     Some("2006-01-02T13:04:05.5Z")),
            ("2006-01-02T15:04:05+07:00", Some("2006-01-02T08:04:05Z")),
            ("2006-01-02T15:04:05.999Z",  Some("2006-01-02T15:04:05.999Z")),
            ("2006-13-02",                None),
            ("2006-01-02T25:00",          None),
            ("tomorrow",                  None),
            ("10d",                       None),
            ("",                          None),
            ("1.",                        None),
        ];
        for (text, expected) in table {
            let got = parse_time_filter_in(text, now, &local);
            let expected = expected
                .map(|time| Timestamp::parse(time).unwrap())
                .ok_or_else(|| DurationError::Time { text: (*text).to_owned() });
            assert_eq!(got, expected, "{text}");
        }
    }
}
