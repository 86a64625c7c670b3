//! The part of a set's minutes that is measured: a backtest of the second half shows a policy in its steady state.
//!
//! Must not: hide the minutes before it from a policy; `judge` shows them all.

use std::fmt;
use std::ops::Range;
use std::str::FromStr;

use super::Error;
use super::policy::whole_minutes;
use super::trace::Set;

/// Where the measured part of a set begins; it ends where the set ends.
#[derive(Clone, Copy, Debug, PartialEq, Default)]
pub enum MeasureFrom {
    /// At the beginning.
    #[default]
    Beginning,
    /// After that many percent of the minutes, rounded down; below 100.
    Percent(f64),
    /// After that many minutes.
    Minutes(u32),
}

impl MeasureFrom {
    /// The second half.
    pub const SECOND_HALF: Self = Self::Percent(50.0);

    /// The measured minutes of a set.
    ///
    /// # Errors
    /// Where the set is not longer than what is to be left out.
    pub fn of(self, set: &Set) -> Result<Range<u32>, Error> {
        let from = match self {
            Self::Beginning => 0,
            // Below the set's own minutes, as the percentage is below 100.
            Self::Percent(percent) => (f64::from(set.minutes) * percent / 100.0) as u32,
            Self::Minutes(minutes) => minutes,
        };
        if from >= set.minutes {
            let (name, minutes) = (&set.name, set.minutes);
            return Err(Error::Option(format!(
                "nothing is left to measure: the set {name} has {minutes} minutes, and {self} are left out"
            )));
        }
        Ok(from..set.minutes)
    }
}

impl FromStr for MeasureFrom {
    type Err = String;

    /// Reads a share such as `50%`, or a time of whole minutes such as `4h`.
    fn from_str(text: &str) -> Result<Self, String> {
        let read = match text.strip_suffix('%') {
            Some(percent) => percent.parse().ok().filter(|percent| (0.0..100.0).contains(percent)).map(Self::Percent),
            None => whole_minutes(text).map(Self::Minutes),
        };
        read.ok_or_else(|| format!("{text} is neither a share from 0% to below 100% nor whole minutes like 4h"))
    }
}

impl fmt::Display for MeasureFrom {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Beginning => f.write_str("0 minutes"),
            Self::Percent(percent) => write!(f, "{percent} %"),
            Self::Minutes(minutes) => write!(f, "{minutes} minutes"),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn of(text: &str, minutes: u32) -> Result<Range<u32>, String> {
        let set = Set { name: "A".to_owned(), minutes, functions: Vec::new() };
        text.parse::<MeasureFrom>()?.of(&set).map_err(|error| error.to_string())
    }

    #[test]
    fn a_share_or_a_time_is_left_out() {
        assert_eq!(of("50%", 481), Ok(240..481));
        assert_eq!(of("0%", 1), Ok(0..1));
        assert_eq!(of("99.99%", 3), Ok(2..3));
        assert_eq!(of("1h30m", 91), Ok(90..91));
        assert_eq!(
            of("1h30m", 90).unwrap_err(),
            "nothing is left to measure: the set A has 90 minutes, and 90 minutes are left out"
        );
        for bad in ["100%", "-1%", "nan%", "%", "half", "90s", "50"] {
            let fault = format!("{bad} is neither a share from 0% to below 100% nor whole minutes like 4h");
            assert_eq!(of(bad, 90), Err(fault));
        }
    }
}
