//! What chains announce of one function: calls of others that are likely to be followed by one of it.
//!
//! Must not: learn (that is `chains`'), or hold more than [`EXPECTED_MAX`] calls of one function.

use super::agenda::Slot;
use crate::types::{Timestamp, YIELD_STEPS};

/// Announced calls of one function that are held at most; the oldest goes first.
const EXPECTED_MAX: usize = 64;

/// One announced call.
#[derive(Clone, Copy, Debug, PartialEq)]
struct Expected {
    from: Slot,
    probability: f32,
    until: Timestamp,
}

/// Calls of one function that others have announced, oldest first.
#[derive(Debug, Default)]
pub(super) struct Chained(Vec<Expected>);

/// What one function announces of another: how many calls, how likely, until when.
#[derive(Clone, Copy, Debug, PartialEq)]
pub(super) struct Share {
    pub(super) from: Slot,
    pub(super) calls: u32,
    pub(super) probability: f32,
    pub(super) until: Timestamp,
}

impl Chained {
    /// One more call is likely.
    pub(super) fn expect(&mut self, now: Timestamp, from: Slot, probability: f32, until: Timestamp) {
        self.purge(now);
        if self.0.len() >= EXPECTED_MAX {
            self.0.remove(0);
        }
        self.0.push(Expected { from, probability, until });
    }

    /// A call came: the oldest one that was announced is no longer to come.
    pub(super) fn came(&mut self, now: Timestamp) {
        self.purge(now);
        if !self.0.is_empty() {
            self.0.remove(0);
        }
    }

    /// Forgets what was to have come by now.
    pub(super) fn purge(&mut self, now: Timestamp) {
        self.0.retain(|expected| expected.until > now);
    }

    /// When the next one is forgotten.
    pub(super) fn next_change(&self) -> Option<Timestamp> {
        self.0.iter().map(|expected| expected.until).min()
    }

    /// What each function announces, in the order of the oldest of each; the first `but` calls are left out, because
    /// somebody else announced them too.
    pub(super) fn shares(&self, now: Timestamp, but: usize) -> Vec<Share> {
        let mut shares: Vec<Share> = Vec::new();
        for expected in self.0.iter().filter(|expected| expected.until > now).skip(but) {
            let Expected { from, probability, until } = *expected;
            match shares.iter_mut().find(|share| share.from == from) {
                Some(share) => {
                    share.calls += 1;
                    (share.probability, share.until) = (probability, share.until.max(until));
                }
                None => shares.push(Share { from, calls: 1, probability, until }),
            }
        }
        shares
    }
}

/// How likely it is that at least (i + 1) / [`YIELD_STEPS`] of `calls` come, each with this probability by itself: the
/// binomial distribution.
pub(super) fn yields(calls: u32, probability: f32) -> [f32; YIELD_STEPS] {
    let (n, p) = (f64::from(calls), f64::from(probability.clamp(0.0, 1.0)));
    let mut yields = [0.0; YIELD_STEPS];
    // From all of them down: P(k) = C(n, k) pᵏ (1 − p)ⁿ⁻ᵏ by the ratio of neighbours, in logarithms to stay in range.
    let (mut tail, mut log_choose) = (0.0, 0.0);
    let mut step = YIELD_STEPS;
    for k in (0..=calls).rev() {
        let at = f64::from(k);
        let log = |base: f64, power: f64| if power == 0.0 { 0.0 } else { power * base.ln() };
        tail += (log_choose + log(p, at) + log(1.0 - p, n - at)).exp();
        while step > 0 && k <= least(calls, step) {
            yields[step - 1] = tail.min(1.0) as f32;
            step -= 1;
        }
        if k > 0 {
            log_choose += (at / (n - at + 1.0)).ln();
        }
    }
    yields
}

/// The least number of calls that is at least `step` / [`YIELD_STEPS`] of all.
fn least(calls: u32, step: usize) -> u32 {
    (u64::from(calls) * step as u64).div_ceil(YIELD_STEPS as u64) as u32
}

#[cfg(test)]
mod tests {
    use super::*;

    fn at(seconds: i64) -> Timestamp {
        Timestamp::from_millis(seconds * 1_000)
    }

    #[test]
    fn calls_are_taken_off_the_oldest_and_forgotten_when_they_are_over() {
        let mut chained = Chained::default();
        chained.expect(at(0), 7, 0.8, at(2));
        chained.expect(at(1), 7, 0.9, at(3));
        chained.expect(at(1), 8, 0.5, at(9));
        let share = |from, calls, probability, until| Share { from, calls, probability, until: at(until) };
        assert_eq!(chained.shares(at(1), 0), [share(7, 2, 0.9, 3), share(8, 1, 0.5, 9)]);
        assert_eq!(chained.shares(at(1), 1), [share(7, 1, 0.9, 3), share(8, 1, 0.5, 9)]);
        assert_eq!(chained.next_change(), Some(at(2)));
        chained.came(at(1));
        assert_eq!(chained.shares(at(1), 0), [share(7, 1, 0.9, 3), share(8, 1, 0.5, 9)]);
        assert_eq!(chained.shares(at(3), 0), [share(8, 1, 0.5, 9)]);
        (0..100).for_each(|_| chained.expect(at(4), 9, 1.0, at(20)));
        assert_eq!(chained.shares(at(4), 0).iter().map(|share| share.calls).sum::<u32>(), 64);
    }

    #[test]
    fn yields_are_the_binomial_tail() {
        let close = |one: [f32; YIELD_STEPS], other: [f32; YIELD_STEPS]| {
            assert!(one.iter().zip(other).all(|(one, other)| (one - other).abs() < 1e-4), "{one:?} {other:?}");
        };
        close(yields(1, 0.8), [0.8; YIELD_STEPS]);
        // Of two: at least one 0.96, both 0.64.
        close(yields(2, 0.8), [0.96, 0.96, 0.96, 0.96, 0.64, 0.64, 0.64, 0.64]);
        // Of four: at least 1, 1, 2, 2, 3, 3, 4, 4.
        close(yields(4, 0.5), [0.9375, 0.9375, 0.6875, 0.6875, 0.3125, 0.3125, 0.0625, 0.0625]);
        close(yields(64, 1.0), [1.0; YIELD_STEPS]);
        close(yields(3, 0.0), [0.0; YIELD_STEPS]);
    }
}
