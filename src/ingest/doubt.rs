//! Whether this node may be out of its group without knowing it, so that what it would take may be another node's by now.
//!
//! It begins where the poll thread did not run for a while (a process that was stopped), or the brokers did not answer (the
//! group may have waited for this member in vain). It ends with a commit that was asked for after that and was taken: the
//! group's coordinator takes one from a member alone. Must not: commit, or pause.

use std::time::{Duration, Instant};

/// See the head of this file.
pub(super) struct Doubt {
    /// A gap between two rounds of the poll thread from which on it is in doubt.
    after: Duration,
    /// How long it lasts where there is nothing that could be committed.
    unproven: Duration,
    round_at: Instant,
    /// The last moment that gave reason for it.
    since: Option<Instant>,
}

impl Doubt {
    pub(super) fn new(after: Duration, unproven: Duration, now: Instant) -> Self {
        Self { after, unproven, round_at: now, since: None }
    }

    /// A round of the poll thread begins; `down` says that the brokers do not answer.
    pub(super) fn begin_round(&mut self, now: Instant, down: bool) {
        let is_due = self.is_due(now);
        let gap = now.duration_since(std::mem::replace(&mut self.round_at, now));
        if is_due {
            tracing::warn!(
                ?gap,
                "the poll thread did not run for a while; no calls are taken until the group has spoken"
            );
        }
        if is_due || down {
            self.since = Some(now);
        }
    }

    /// Whether the next round begins with it.
    pub(super) fn is_due(&self, now: Instant) -> bool {
        now.duration_since(self.round_at) >= self.after
    }

    pub(super) fn is_in(&self) -> bool {
        self.since.is_some()
    }

    /// A commit that was asked for at `asked_at` was taken.
    pub(super) fn committed(&mut self, asked_at: Instant) {
        self.since = self.since.filter(|since| asked_at <= *since);
    }

    /// A commit was not taken.
    pub(super) fn refused(&mut self, now: Instant) {
        self.since = Some(now);
    }

    /// There is nothing to commit, so nothing to prove it by: nothing is owned, or nothing of it was ever read.
    pub(super) fn nothing_to_commit(&mut self, now: Instant) {
        self.since = self.since.filter(|since| now.duration_since(*since) < self.unproven);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const MS: Duration = Duration::from_millis(1);

    #[test]
    fn a_gap_or_brokers_that_are_away_are_doubted_until_a_later_commit_is_taken() {
        let start = Instant::now();
        let at = |ms: u32| start + MS * ms;
        let mut doubt = Doubt::new(MS * 100, MS * 50, start);
        doubt.begin_round(at(99), false);
        assert!(!doubt.is_in());
        doubt.begin_round(at(199), false);
        assert!(doubt.is_in());
        // Asked for before the gap: the answer may be as old.
        doubt.committed(at(199));
        assert!(doubt.is_in());
        doubt.committed(at(200));
        assert!(!doubt.is_in());
        // While they are away it is put off.
        doubt.begin_round(at(210), true);
        doubt.begin_round(at(220), true);
        doubt.committed(at(215));
        doubt.nothing_to_commit(at(269));
        assert!(doubt.is_in());
        doubt.nothing_to_commit(at(270));
        assert!(!doubt.is_in());
        // One that was not taken begins it, until a later one is.
        doubt.refused(at(300));
        doubt.committed(at(300));
        assert!(doubt.is_in());
        doubt.committed(at(301));
        assert!(!doubt.is_in());
    }
}
