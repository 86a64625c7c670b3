//! How often a log line of one cause may be said.
//!
//! A token bucket by cause: so many lines at once, then so many a second. Lines that are left out are counted by their cause,
//! and the count is told when the cause may speak again. Must not: read a clock, or hold more causes than the program has
//! places that log.

use std::collections::HashMap;
use std::hash::Hash;
use std::time::{Duration, Instant};

/// Lines of one cause that may follow one another at once.
const BURST: u32 = 100;
/// Past these, one line in each such time.
const EVERY: Duration = Duration::from_millis(500);

#[derive(Debug)]
struct Bucket {
    /// Lines that may be said at `at`.
    tokens: u32,
    /// When tokens were last reckoned; a token's time that is not over yet counts from here.
    at: Instant,
    left_out: u64,
    /// How the last line that was said begins.
    words: String,
}

impl Bucket {
    fn refill(&mut self, now: Instant) {
        let gained = now.saturating_duration_since(self.at).as_millis() / EVERY.as_millis();
        let gained = u32::try_from(gained).unwrap_or(u32::MAX).min(BURST);
        self.tokens = self.tokens.saturating_add(gained);
        if self.tokens >= BURST {
            (self.tokens, self.at) = (BURST, now);
        } else {
            self.at += EVERY * gained;
        }
    }
}

/// Lines of one cause that were left out.
#[derive(Debug, PartialEq, Eq)]
pub(super) struct Alike {
    /// How the last line of that cause began that was said.
    pub(super) words: String,
    /// How many were left out since they were last told.
    pub(super) lines: u64,
}

/// The buckets of all causes.
#[derive(Debug)]
pub(super) struct Limiter<K> {
    causes: HashMap<K, Bucket>,
    left_out: u64,
}

impl<K> Default for Limiter<K> {
    fn default() -> Self {
        Self { causes: HashMap::new(), left_out: 0 }
    }
}

impl<K: Eq + Hash> Limiter<K> {
    /// Whether a line of this cause may be said now; `words` are its first ones.
    pub(super) fn admits(&mut self, cause: K, now: Instant, words: &str) -> bool {
        let new = || Bucket { tokens: BURST, at: now, left_out: 0, words: String::new() };
        let bucket = self.causes.entry(cause).or_insert_with(new);
        bucket.refill(now);
        if bucket.tokens == 0 {
            bucket.left_out += 1;
            self.left_out += 1;
            return false;
        }
        bucket.tokens -= 1;
        if bucket.words != words {
            words.clone_into(&mut bucket.words);
        }
        true
    }

    /// Causes that had lines left out and may speak again: the count of each, told once.
    pub(super) fn take_alike(&mut self, now: Instant) -> Vec<Alike> {
        let mut alike = Vec::new();
        for bucket in self.causes.values_mut().filter(|bucket| bucket.left_out > 0) {
            bucket.refill(now);
            if bucket.tokens > 0 {
                bucket.tokens -= 1;
                alike.push(Alike { words: bucket.words.clone(), lines: std::mem::take(&mut bucket.left_out) });
            }
        }
        alike
    }

    /// Lines left out so far, of all causes.
    pub(super) fn left_out(&self) -> u64 {
        self.left_out
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_cause_says_its_burst_and_then_goes_on_at_its_rate() {
        let (mut limiter, start) = (Limiter::default(), Instant::now());
        let at = |millis| start + Duration::from_millis(millis);
        let mut said = |millis, lines: u32| (0..lines).filter(|_| limiter.admits("a", at(millis), "words")).count();
        assert_eq!(said(0, 1_000), 100);
        assert_eq!(said(499, 10), 0);
        assert_eq!(said(500, 10), 1);
        assert_eq!(said(1_499, 10), 1);
        assert_eq!(said(1_500, 10), 1, "the rest of a token's time is not lost");
        assert_eq!(said(1_000_000, 1_000), 100, "no more than a burst is saved up");
    }

    #[test]
    fn causes_do_not_take_from_one_another() {
        let (mut limiter, now) = (Limiter::default(), Instant::now());
        assert_eq!((0..200).filter(|_| limiter.admits("loud", now, "")).count(), 100);
        assert!(limiter.admits("quiet", now, ""));
    }

    #[test]
    fn what_was_left_out_is_told_once_when_the_cause_may_speak() {
        let (mut limiter, start) = (Limiter::default(), Instant::now());
        for _ in 0..107 {
            limiter.admits("a", start, "dead letter");
        }
        assert_eq!(limiter.take_alike(start), []);
        let later = start + EVERY;
        assert_eq!(limiter.take_alike(later), [Alike { words: "dead letter".to_owned(), lines: 7 }]);
        assert_eq!(limiter.take_alike(later + EVERY), []);
        assert_eq!(limiter.left_out(), 7);
    }

    #[test]
    fn a_clock_that_stands_or_goes_back_breaks_nothing() {
        let (mut limiter, start) = (Limiter::default(), Instant::now() + Duration::from_secs(60));
        assert!(limiter.admits("a", start, ""));
        assert!(limiter.admits("a", start - Duration::from_secs(30), ""));
    }
}
