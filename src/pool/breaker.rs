//! A circuit breaker for each function: when instances of it are prepared again after preparing them failed.
//!
//! Closed, it lets everything through. After [`TRIES`] failures in a row it is open: calls wait until a moment that is later
//! with each further failure, then one preparation is tried at a time, and its failure is the answer of every call that waits.
//! Work ahead is held back from the first failure on, and after [`TRIES_AHEAD`] in a row it rests until an instance that a call
//! waited for could be made, or a long time has passed. Must not: know a clock, or what failed.

use std::time::Duration;

use super::Purpose;
use crate::types::Timestamp;

/// Failures in a row after which the breaker is open.
const TRIES: u32 = 3;
/// Failures in a row after which nothing is prepared ahead.
const TRIES_AHEAD: u32 = 5;
/// The first pause; it doubles with each further failure, and is never shorter than the failed preparation was.
const PAUSE: Duration = Duration::from_millis(500);
const PAUSE_MAX: Duration = Duration::from_secs(60);
/// How long nothing is prepared ahead for a function that nobody calls.
const REST_AHEAD: Duration = Duration::from_secs(3_600);

/// See the head of this file. Times are of any one clock that does not go back.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Default)]
pub struct Breaker {
    failures: u32,
    calls_after: Timestamp,
    ahead_after: Timestamp,
}

impl Breaker {
    /// A preparation that took `took` failed.
    pub fn failed(&mut self, now: Timestamp, took: Duration) {
        self.failures = self.failures.saturating_add(1);
        let pause = |tries: u32| (PAUSE * 2_u32.saturating_pow(tries.min(16))).max(took).min(PAUSE_MAX);
        if self.is_open() {
            self.calls_after = now + pause(self.failures - TRIES);
        }
        let rests = self.failures >= TRIES_AHEAD;
        self.ahead_after = now + if rests { REST_AHEAD } else { pause(self.failures - 1) };
    }

    /// A preparation succeeded.
    pub fn succeeded(&mut self) {
        *self = Self::default();
    }

    /// Whether a preparation may begin, `preparing` of them being under way.
    pub fn allows(&self, now: Timestamp, purpose: Purpose, preparing: u32) -> bool {
        let after = if purpose == Purpose::Call { self.calls_after } else { self.ahead_after };
        now >= after && (preparing == 0 || !self.is_open())
    }

    /// Whether it is open: a failure is the answer of every call that waits, not of one.
    pub fn is_open(&self) -> bool {
        self.failures >= TRIES
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const SHORT: Duration = Duration::from_millis(1);

    fn at(ms: i64) -> Timestamp {
        Timestamp::from_millis(ms)
    }

    /// When a call's preparation, and when one ahead may next begin, in ms.
    fn next(breaker: &Breaker) -> (i64, i64) {
        (breaker.calls_after.as_millis(), breaker.ahead_after.as_millis())
    }

    #[test]
    fn calls_try_thrice_and_then_at_growing_pauses_one_at_a_time() {
        let mut breaker = Breaker::default();
        for _ in 0..2 {
            breaker.failed(at(0), SHORT);
            assert!(breaker.allows(at(0), Purpose::Call, 7) && !breaker.is_open());
        }
        breaker.failed(at(0), SHORT);
        assert!(breaker.is_open());
        assert!(!breaker.allows(at(499), Purpose::Call, 0));
        assert!(breaker.allows(at(500), Purpose::Call, 0));
        assert!(!breaker.allows(at(500), Purpose::Call, 1));
        breaker.failed(at(500), SHORT);
        assert!(!breaker.allows(at(1_499), Purpose::Call, 0));
        breaker.succeeded();
        assert!(breaker.allows(at(500), Purpose::Call, 7) && breaker.allows(at(500), Purpose::Warmth, 7));
    }

    #[test]
    fn ahead_it_waits_from_the_first_failure_and_rests_after_five() {
        let mut breaker = Breaker::default();
        let mut seen = Vec::new();
        for _ in 0..5 {
            breaker.failed(at(0), SHORT);
            seen.push(next(&breaker).1);
        }
        assert_eq!(seen, [500, 1_000, 2_000, 4_000, 3_600_000]);
    }

    #[test]
    fn a_pause_is_no_shorter_than_the_failure_and_no_longer_than_a_minute() {
        let mut breaker = Breaker::default();
        for _ in 0..3 {
            breaker.failed(at(0), Duration::from_secs(10));
        }
        assert_eq!(next(&breaker), (10_000, 10_000));
        for _ in 0..99 {
            breaker.failed(at(0), Duration::from_secs(90));
        }
        assert_eq!(next(&breaker), (60_000, 3_600_000));
    }
}
