//! Warm policies: how many instances of one function to hold in the next minute, from what was seen before it.
//!
//! Must not: let a policy see the future, but for the oracle, which is handed it when it is made.

mod fixed;
mod hybrid;
mod oracle;
mod ours;
#[cfg(test)]
mod tests;

use std::fmt;
use std::str::FromStr;
use std::time::Duration;

pub use fixed::Fixed;
pub use hybrid::HybridHistogram;
pub use oracle::Oracle;
pub use ours::{OURS, Ours};

use super::trace::{Function, Minute};

/// One function's policy. It is asked for each minute, from 0, and then told what the minute was.
pub trait Policy {
    /// How many instances to hold in `minute`, busy ones included.
    fn warm(&mut self, minute: u32) -> u32;
    /// What `minute` was.
    fn saw(&mut self, minute: u32, seen: &Minute);
}

/// What a policy with a price is made for.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct Setup {
    /// How much idle time of one instance a cold start is worth.
    pub price: Duration,
    /// Whether needs are clipped at one instance.
    pub single: bool,
}

/// Makes policies of one function, one for each setup.
pub type Make<'a> = dyn Fn(&Function, &[Setup]) -> Vec<Box<dyn Policy>> + 'a;

/// A policy with a price that the caller brings along, such as the product's own.
pub struct Priced<'a> {
    /// What it is called among the policies.
    pub name: &'a str,
    /// Makes one for each price, for one function, of whose calls it must look at none. They are asked and told minute by minute together, so that they may
    /// share what does not depend on the price.
    pub make: &'a Make<'a>,
}

/// Which policy.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Kind {
    /// Keeps an instance for that many minutes after its last use.
    Fixed {
        /// How long; at least 1.
        minutes: u32,
    },
    /// The hybrid histogram of Shahrad et al.
    HybridHistogram,
    /// Knows the next minute.
    Oracle,
    /// Holds nothing.
    None,
    /// One that the caller brings along, by its name.
    Priced(String),
}

/// The longest time that is read, in minutes (inclusive): 60 days.
const MINUTES_MAX: u64 = 60 * 24 * 60;

impl FromStr for Kind {
    type Err = String;

    /// Reads `fixed:10m` (any whole number of minutes), `hybrid-histogram`, `oracle`, `none`; any other word is taken as
    /// the name of a policy with a price, which is looked for when it is replayed.
    fn from_str(text: &str) -> Result<Self, String> {
        match text {
            "hybrid-histogram" => Ok(Self::HybridHistogram),
            "oracle" => Ok(Self::Oracle),
            "none" => Ok(Self::None),
            _ => match text.strip_prefix("fixed:") {
                Some(time) => whole_minutes(time).map(|minutes| Self::Fixed { minutes }).ok_or_else(|| {
                    format!("{text} is no policy: give whole minutes from 1m to 60days, like fixed:10m")
                }),
                None => Ok(Self::Priced(text.to_owned())),
            },
        }
    }
}

/// Reads a time of whole minutes, from 1m to 60days (inclusive).
pub(super) fn whole_minutes(text: &str) -> Option<u32> {
    let time = humantime::parse_duration(text).ok()?;
    let minutes = time.as_secs() / 60;
    let is_whole = time == Duration::from_secs(minutes * 60);
    u32::try_from(minutes).ok().filter(|_| is_whole && (1..=MINUTES_MAX).contains(&minutes))
}

impl fmt::Display for Kind {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Fixed { minutes } => {
                let time = Duration::from_secs(u64::from(*minutes) * 60);
                write!(f, "fixed:{}", humantime::format_duration(time).to_string().replace(' ', ""))
            }
            Self::HybridHistogram => f.write_str("hybrid-histogram"),
            Self::Oracle => f.write_str("oracle"),
            Self::None => f.write_str("none"),
            Self::Priced(name) => f.write_str(name),
        }
    }
}

/// Holds nothing.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Default)]
pub struct Nothing;

impl Policy for Nothing {
    fn warm(&mut self, _: u32) -> u32 {
        0
    }

    fn saw(&mut self, _: u32, _: &Minute) {}
}
