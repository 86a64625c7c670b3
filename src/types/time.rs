//! Time as a value: a point on the wall clock that is handed in, never read.
//!
//! Must not: call a clock. Who needs "now" takes it as an argument.

use std::fmt;
use std::ops::{Add, Sub};
use std::time::{Duration, SystemTime};

use serde::de::Visitor;
use serde::{Deserialize, Deserializer, Serialize, Serializer};

/// A point in time, in microseconds since the Unix epoch (UTC). May be negative: producers' clocks are not ours.
///
/// On the wire it is a whole number of **milliseconds** (Avro's `timestamp-millis`), so a round trip through an event
/// truncates to the millisecond.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Default)]
pub struct Timestamp(i64);

impl Timestamp {
    /// The name of what stands on the wire, as Avro calls it; readers are asked for a value of this name.
    pub const WIRE_NAME: &str = "timestamp-millis";
    /// The epoch itself.
    pub const ZERO: Self = Self(0);

    /// From microseconds since the epoch.
    pub const fn from_micros(micros: i64) -> Self {
        Self(micros)
    }

    /// From milliseconds since the epoch; saturates at the ends of the range.
    pub const fn from_millis(millis: i64) -> Self {
        Self(millis.saturating_mul(1_000))
    }

    /// Microseconds since the epoch.
    pub const fn as_micros(self) -> i64 {
        self.0
    }

    /// Milliseconds since the epoch, rounded down.
    pub const fn as_millis(self) -> i64 {
        self.0.div_euclid(1_000)
    }

    /// The time that passed from `earlier` to `self`; zero where `earlier` is later.
    pub const fn since(self, earlier: Self) -> Duration {
        let micros = self.0.saturating_sub(earlier.0);
        if micros <= 0 { Duration::ZERO } else { Duration::from_micros(micros as u64) }
    }

    /// `self + duration`, saturating at the end of the range.
    pub fn saturating_add(self, duration: Duration) -> Self {
        Self(self.0.saturating_add(i64::try_from(duration.as_micros()).unwrap_or(i64::MAX)))
    }

    /// `self - duration`, saturating at the start of the range.
    pub fn saturating_sub(self, duration: Duration) -> Self {
        Self(self.0.saturating_sub(i64::try_from(duration.as_micros()).unwrap_or(i64::MAX)))
    }
}

impl Add<Duration> for Timestamp {
    type Output = Self;
    fn add(self, duration: Duration) -> Self {
        self.saturating_add(duration)
    }
}

impl Sub<Duration> for Timestamp {
    type Output = Self;
    fn sub(self, duration: Duration) -> Self {
        self.saturating_sub(duration)
    }
}

/// RFC 3339 in UTC, to the second; a time before the epoch as the epoch.
impl fmt::Display for Timestamp {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let since = Duration::from_millis(u64::try_from(self.as_millis()).unwrap_or(0));
        match SystemTime::UNIX_EPOCH.checked_add(since).filter(|_| since < YEAR_10000) {
            Some(at) => humantime::format_rfc3339_seconds(at).fmt(f),
            None => f.write_str("far away"),
        }
    }
}

/// From the epoch to the first moment that RFC 3339 has no form for.
const YEAR_10000: Duration = Duration::from_secs(253_402_300_800);

impl fmt::Debug for Timestamp {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}.{:06}s", self.0.div_euclid(1_000_000), self.0.rem_euclid(1_000_000))
    }
}

impl Serialize for Timestamp {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        serializer.serialize_i64(self.as_millis())
    }
}

impl<'de> Deserialize<'de> for Timestamp {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        struct Millis;

        impl<'de> Visitor<'de> for Millis {
            type Value = Timestamp;

            fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                f.write_str("a whole number of milliseconds since 1970-01-01 UTC")
            }

            fn visit_newtype_struct<D: Deserializer<'de>>(self, deserializer: D) -> Result<Timestamp, D::Error> {
                i64::deserialize(deserializer).map(Timestamp::from_millis)
            }
        }

        // By its name, so that a reader can say which unit is wanted.
        deserializer.deserialize_newtype_struct(Self::WIRE_NAME, Millis)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn since_never_goes_below_zero() {
        let earlier = Timestamp::from_millis(5);
        let later = Timestamp::from_millis(7);
        assert_eq!(later.since(earlier), Duration::from_millis(2));
        assert_eq!(earlier.since(later), Duration::ZERO);
    }

    #[test]
    fn millis_round_down_on_both_sides_of_the_epoch() {
        assert_eq!(Timestamp::from_micros(1_999).as_millis(), 1);
        assert_eq!(Timestamp::from_micros(-1).as_millis(), -1);
    }

    #[test]
    fn a_time_is_shown_by_rfc_3339() {
        assert_eq!(Timestamp::from_millis(1_767_225_647_900).to_string(), "2026-01-01T00:00:47Z");
        assert_eq!(Timestamp::from_millis(-1).to_string(), "1970-01-01T00:00:00Z");
        assert_eq!(Timestamp::from_millis(253_402_300_799_999).to_string(), "9999-12-31T23:59:59Z");
        assert_eq!(Timestamp::from_millis(i64::MAX).to_string(), "far away");
        assert_eq!(Timestamp::from_millis(253_402_300_800_000).to_string(), "far away");
    }

    #[test]
    fn arithmetic_saturates() {
        assert_eq!(Timestamp::from_millis(i64::MAX).as_micros(), i64::MAX);
        assert_eq!((Timestamp::from_micros(i64::MAX) + Duration::from_secs(1)).as_micros(), i64::MAX);
    }
}
