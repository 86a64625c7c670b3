//! When a client that stays down is to be made anew: brokers answer a fresh client of the same process, and not this one.
//!
//! Must not: read a clock, make a client, or ask the brokers.

use std::time::{Duration, Instant};

use super::Watch;

/// How long a client has to be down, and a fresh one to reach the brokers, before it is made anew. librdkafka tries brokers
/// again every second, and hears of leaders and coordinators within another.
const PROVEN: Duration = Duration::from_secs(4);
/// From one renewal to the next, at least: what a new client may take to connect and to be let into its group.
const EVERY: Duration = Duration::from_secs(10);
/// Renewals in a row that did not help (inclusive). After that the process is to end.
const TRIES_MAX: u32 = 5;

/// What is to be done with a client.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Renew {
    /// It stays.
    No,
    /// A new one takes its place.
    Now,
    /// New ones have not helped: the process should end.
    InVain,
}

/// See the head of this file.
#[derive(Clone, Copy, Debug, Default)]
pub struct Renewal {
    down_since: Option<Instant>,
    renewed_at: Option<Instant>,
    tries: u32,
    /// Times that the clock was set back, as far as this client was made anew for it.
    set_back: u64,
}

impl Renewal {
    /// For a client that is made now: what happened to the clock before does not concern it.
    pub fn new(watch: &Watch) -> Self {
        Self { set_back: watch.set_back(), ..Self::default() }
    }

    /// How a client is now: whether it is down, since when every look of a fresh client has found its brokers (see
    /// [`Witness`](super::Witness)), and how often the clock was set back (see [`Watch::set_back`](super::Watch::set_back)).
    ///
    /// librdkafka waits by the wall clock. A client whose clock was set back by an hour waits an hour for what it wanted to do
    /// in a second, so it is made anew whatever it says of itself.
    pub fn look(&mut self, now: Instant, is_down: bool, found_since: Option<Instant>, set_back: u64) -> Renew {
        if set_back > self.set_back {
            self.set_back = set_back;
            self.renewed_at = Some(now);
            return Renew::Now;
        }
        if !is_down {
            (self.down_since, self.tries) = (None, 0);
            return Renew::No;
        }
        let down_since = *self.down_since.get_or_insert(now);
        let Some(found_since) = found_since else { return Renew::No };
        let both_since = found_since.max(down_since);
        let is_recent = self.renewed_at.is_some_and(|at| now.duration_since(at) < EVERY);
        if now.duration_since(both_since) < PROVEN || is_recent {
            return Renew::No;
        }
        if self.tries >= TRIES_MAX {
            return Renew::InVain;
        }
        self.tries += 1;
        self.renewed_at = Some(now);
        Renew::Now
    }

    /// Since when the client has been down; None where it is not.
    pub fn down_since(&self) -> Option<Instant> {
        self.down_since
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_client_is_made_anew_when_only_it_is_down_and_the_process_ends_when_that_does_not_help() {
        let start = Instant::now();
        let at = |seconds: u64| start + Duration::from_secs(seconds);
        let mut renewal = Renewal::default();
        assert_eq!(renewal.look(at(0), true, None, 0), Renew::No);
        assert_eq!(renewal.look(at(60), true, None, 0), Renew::No, "the brokers are away for everybody");
        assert_eq!(renewal.look(at(63), true, Some(at(60)), 0), Renew::No);
        assert_eq!(renewal.look(at(64), true, Some(at(60)), 0), Renew::Now);
        assert_eq!(renewal.look(at(65), true, Some(at(60)), 0), Renew::No);
        for times in 1..5 {
            assert_eq!(renewal.look(at(64 + 10 * times), true, Some(at(60)), 0), Renew::Now);
        }
        assert_eq!(renewal.look(at(114), true, Some(at(60)), 0), Renew::InVain);
        assert_eq!(renewal.look(at(115), false, Some(at(60)), 0), Renew::No);
        assert_eq!(renewal.look(at(116), true, Some(at(60)), 0), Renew::No, "down for a moment");
        assert_eq!(renewal.look(at(120), true, Some(at(60)), 0), Renew::Now);
    }

    #[test]
    fn a_clock_that_was_set_back_renews_once() {
        let now = Instant::now();
        let mut renewal = Renewal::default();
        assert_eq!(renewal.look(now, false, None, 0), Renew::No);
        assert_eq!(renewal.look(now, false, None, 1), Renew::Now);
        assert_eq!(renewal.look(now, false, None, 1), Renew::No);
    }
}
