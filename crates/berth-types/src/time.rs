//! Points in time as Docker's JSON writes them.

use std::fmt;

use serde::{Deserialize, Deserializer, Serialize, Serializer, de};

/// A point in time, kept to the nanosecond.
///
/// Written as Go's `RFC3339Nano` in UTC: the fraction without trailing zeros, none when zero.
/// The zero value is Go's year 1, which Docker prints for "never".
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct Timestamp(jiff::Timestamp);

const ZERO_TEXT: &str = "0001-01-01T00:00:00Z";
const ZERO_SECONDS: i64 = -62_135_596_800;

impl Timestamp {
    /// Now.
    pub fn now() -> Self {
        Self(jiff::Timestamp::now())
    }

    /// Go's zero time.
    pub fn zero() -> Self {
        Self(jiff::Timestamp::from_second(ZERO_SECONDS).expect("year 1 is in jiff's range"))
    }

    /// Whether this is Go's zero time.
    pub fn is_zero(self) -> bool {
        self.0.as_second() == ZERO_SECONDS
    }

    /// From seconds and nanoseconds since 1970; `None` out of range.
    pub fn from_unix(seconds: i64, nanos: i32) -> Option<Self> {
        jiff::Timestamp::new(seconds, nanos).ok().map(Self)
    }

    /// Whole seconds since 1970.
    pub fn unix(self) -> i64 {
        self.0.as_second()
    }

    /// Nanoseconds since 1970, as far as 64 bits reach.
    pub fn unix_nanos(self) -> i64 {
        i64::try_from(self.0.as_nanosecond()).unwrap_or(i64::MIN)
    }

    /// Reads RFC 3339 with any offset.
    pub fn parse(text: &str) -> Option<Self> {
        if text == ZERO_TEXT {
            return Some(Self::zero());
        }
        text.parse::<jiff::Timestamp>().ok().map(Self)
    }

    /// The time between an earlier point and this one; zero when it is not earlier.
    pub fn since(self, earlier: Self) -> std::time::Duration {
        std::time::Duration::try_from(self.0.duration_since(earlier.0)).unwrap_or_default()
    }
}

impl Default for Timestamp {
    fn default() -> Self {
        Self::zero()
    }
}

impl From<jiff::Timestamp> for Timestamp {
    fn from(time: jiff::Timestamp) -> Self {
        Self(time)
    }
}

impl fmt::Display for Timestamp {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        if self.is_zero() { f.write_str(ZERO_TEXT) } else { fmt::Display::fmt(&self.0, f) }
    }
}

impl fmt::Debug for Timestamp {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        fmt::Display::fmt(self, f)
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
        Self::parse(&text).ok_or_else(|| de::Error::custom("not a time in RFC 3339 form"))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn times_are_written_as_go_writes_them() {
        #[rustfmt::skip]
        let table = [
            (1_700_000_000, 0,           "2023-11-14T22:13:20Z"),
            (1_700_000_000, 120_000_000, "2023-11-14T22:13:20.12Z"),
            (1_700_000_000, 1,           "2023-11-14T22:13:20.000000001Z"),
            (ZERO_SECONDS,  0,           "0001-01-01T00:00:00Z"),
        ];
        for (seconds, nanos, text) in table {
            let time = Timestamp::from_unix(seconds, nanos).unwrap();
            assert_eq!(time.to_string(), text);
            assert_eq!(Timestamp::parse(text), Some(time));
        }
    }
}
