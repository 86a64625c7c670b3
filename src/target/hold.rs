//! Hysteresis for the part of a target that history asks for: it rises at once and falls late.
//!
//! It holds the instances in use at once, busy ones included, and not the ready ones: those fall and rise with every
//! call that begins and ends, and holding them up would prepare a second instance for a call that has one. What notices
//! ask for is not held either: it ends with their window.
//!
//! Must not: read a clock.

use std::time::Duration;

use crate::types::Timestamp;

/// The level that is held for one function.
#[derive(Clone, Copy, Debug, PartialEq, Default)]
pub struct Hold {
    level: f64,
    /// Since when every wish was lower than the level, and the largest of them.
    lower: Option<(Timestamp, f64)>,
}

impl Hold {
    /// The level after a wish for `wanted` at `now`. At once where it is not lower; otherwise once every wish of the
    /// last `shrink_after` was lower, down to the largest of them.
    pub fn settle(&mut self, now: Timestamp, shrink_after: Duration, wanted: f64) -> f64 {
        // A number that is none compares as neither; it must not raise or hold anything.
        let wanted = if wanted.is_nan() { 0.0 } else { wanted };
        if wanted >= self.level {
            *self = Self { level: wanted, lower: None };
            return wanted;
        }
        let (since, largest) = self.lower.map_or((now, wanted), |(since, largest)| (since, largest.max(wanted)));
        // A clock that was set back must not hold the level up for as long as it was set back.
        let since = since.min(now);
        if now.since(since) < shrink_after {
            self.lower = Some((since, largest));
            return self.level;
        }
        *self = Self { level: largest, lower: (wanted < largest).then_some((now, wanted)) };
        self.level
    }

    /// The level that is held.
    pub fn level(&self) -> f64 {
        self.level
    }

    /// Whether the level stands above what was last wanted, so that it will fall by time alone: ask again each tick.
    pub fn is_settling(&self) -> bool {
        self.lower.is_some()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const AFTER: Duration = Duration::from_secs(10);

    fn at(seconds: i64) -> Timestamp {
        Timestamp::from_millis(seconds * 1_000)
    }

    #[test]
    fn it_rises_at_once_and_falls_after_the_time() {
        let mut hold = Hold::default();
        assert_eq!(hold.settle(at(0), AFTER, 5.0), 5.0);
        assert!(!hold.is_settling());
        assert_eq!(hold.settle(at(1), AFTER, 2.0), 5.0);
        assert!(hold.is_settling());
        assert_eq!(hold.settle(at(10), AFTER, 2.0), 5.0);
        assert_eq!(hold.settle(at(11), AFTER, 2.0), 2.0);
        assert!(!hold.is_settling());
    }

    #[test]
    fn a_short_dip_changes_nothing_and_starts_the_time_anew() {
        let mut hold = Hold::default();
        hold.settle(at(0), AFTER, 5.0);
        assert_eq!(hold.settle(at(1), AFTER, 0.0), 5.0);
        assert_eq!(hold.settle(at(9), AFTER, 5.0), 5.0);
        assert_eq!(hold.settle(at(12), AFTER, 0.0), 5.0);
        assert_eq!(hold.settle(at(21), AFTER, 0.0), 5.0);
        assert_eq!(hold.settle(at(22), AFTER, 0.0), 0.0);
    }

    #[test]
    fn it_falls_to_the_largest_wish_of_the_time() {
        let mut hold = Hold::default();
        hold.settle(at(0), AFTER, 5.0);
        hold.settle(at(1), AFTER, 1.0);
        hold.settle(at(5), AFTER, 3.0);
        assert_eq!(hold.settle(at(11), AFTER, 0.0), 3.0);
        assert!(hold.is_settling());
        assert_eq!(hold.settle(at(21), AFTER, 0.0), 0.0);
    }

    #[test]
    fn no_time_means_no_hysteresis_and_a_clock_set_back_does_not_freeze_it() {
        let mut hold = Hold::default();
        hold.settle(at(0), Duration::ZERO, 5.0);
        assert_eq!(hold.settle(at(0), Duration::ZERO, 2.0), 2.0);
        hold.settle(at(1_000), AFTER, 5.0);
        hold.settle(at(1_001), AFTER, 1.0);
        assert_eq!(hold.settle(at(0), AFTER, 1.0), 5.0);
        assert_eq!(hold.settle(at(10), AFTER, f64::NAN), 1.0);
    }
}
