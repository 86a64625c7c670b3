//! Whether this node may be out of its group without knowing it, so that what it would take may be another node's by now.
//!
//! It begins where the poll thread did not run for a while (a process that was stopped), where the brokers did not answer (the
//! group may have waited for this member in vain), where a commit is not answered or was not taken, and where the wall clock
//! was moved, by which librdkafka waits. It ends with a commit that was asked for after that and was taken: the
//! group's coordinator takes one from a member alone. Must not: commit, or pause.

use std::sync::atomic::{AtomicU64, Ordering};
use std::time::{Duration, Instant, SystemTime};

/// A wall clock that went so much further than the time that passed, or less far, was moved.
const CLOCK_MOVED: Duration = Duration::from_secs(1);

/// See the head of this file.
pub(super) struct Doubt {
    /// A gap between two rounds of the poll thread from which on it is in doubt.
    after: Duration,
    /// How long it lasts where there is nothing that could be committed.
    unproven: Duration,
    round_at: Instant,
    wall_at: Option<SystemTime>,
    /// When it began.
    began_at: Option<Instant>,
    /// The last moment that gave reason for it.
    since: Option<Instant>,
}

impl Doubt {
    pub(super) fn new(after: Duration, unproven: Duration, now: Instant) -> Self {
        Self { after, unproven, round_at: now, wall_at: None, began_at: None, since: None }
    }

    /// A round of the poll thread begins. `trouble` says that the brokers do not answer, or that a commit is not answered.
    pub(super) fn begin_round(&mut self, now: Instant, wall: SystemTime, trouble: bool) {
        let is_due = self.is_due(now);
        let gap = now.duration_since(std::mem::replace(&mut self.round_at, now));
        let moved = self.wall_at.replace(wall).is_some_and(|before| was_moved(before + gap, wall));
        if is_due {
            tracing::warn!(
                ?gap,
                "the poll thread did not run for a while; no calls are taken until the group has spoken"
            );
        } else if moved {
            tracing::warn!("the clock was moved; no calls are taken until the group has spoken");
        }
        if is_due || moved || trouble {
            self.begin(now);
        }
    }

    fn begin(&mut self, now: Instant) {
        self.began_at.get_or_insert(now);
        self.since = Some(now);
    }

    fn keep_if(&mut self, keep: impl FnOnce(&Instant) -> bool) {
        self.since = self.since.filter(keep);
        self.began_at = self.began_at.filter(|_| self.since.is_some());
    }

    /// How long it has lasted; zero where there is none.
    pub(super) fn lasts(&self, now: Instant) -> Duration {
        self.began_at.map_or(Duration::ZERO, |began_at| now.duration_since(began_at))
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
        self.keep_if(|since| asked_at <= *since);
    }

    /// A commit was not taken.
    pub(super) fn refused(&mut self, now: Instant) {
        self.begin(now);
    }

    /// There is nothing to commit, so nothing to prove it by: nothing is owned, or nothing of it was ever read.
    pub(super) fn nothing_to_commit(&mut self, now: Instant) {
        let unproven = self.unproven;
        self.keep_if(|since| now.duration_since(*since) < unproven);
    }
}

/// Doubt that lasts for so long is said where readiness is asked for; it comes and goes with every move of a coordinator.
const SAID_AFTER: Duration = Duration::from_secs(2);

/// Doubt as others may see it.
#[derive(Debug, Default)]
pub(super) struct Doubts {
    lasts_ms: AtomicU64,
    unanswered_ms: AtomicU64,
}

impl Doubts {
    /// How long it has lasted, and how long the commit under way has not been answered; zero where there is none.
    pub(super) fn show(&self, lasts: Duration, unanswered: Duration) {
        let millis = |duration: Duration| u64::try_from(duration.as_millis()).unwrap_or(u64::MAX);
        self.lasts_ms.store(millis(lasts), Ordering::Relaxed);
        self.unanswered_ms.store(millis(unanswered), Ordering::Relaxed);
    }

    /// Why no calls are taken, where that has been so for two seconds.
    pub(super) fn reason(&self) -> Option<String> {
        let lasts = Duration::from_millis(self.lasts_ms.load(Ordering::Relaxed));
        if lasts < SAID_AFTER {
            return None;
        }
        let unanswered = self.unanswered_ms.load(Ordering::Relaxed) / 1_000;
        let waits = match unanswered {
            0 => "it has not taken a commit of this node since".to_owned(),
            seconds => format!("a commit has not been answered for {seconds} s"),
        };
        let seconds = lasts.as_secs();
        Some(format!("no calls are taken for {seconds} s, until the group's coordinator has taken a commit: {waits}"))
    }
}

/// Whether a wall clock that should say `expected` was moved, in whichever direction.
fn was_moved(expected: SystemTime, wall: SystemTime) -> bool {
    let apart = wall.duration_since(expected).unwrap_or_else(|before| before.duration());
    apart >= CLOCK_MOVED
}

#[cfg(test)]
mod tests {
    use super::*;

    const MS: Duration = Duration::from_millis(1);

    #[test]
    fn a_gap_or_brokers_that_are_away_are_doubted_until_a_later_commit_is_taken() {
        let start = Instant::now();
        let at = |ms: u32| start + MS * ms;
        let wall = |ms: u32| SystemTime::UNIX_EPOCH + MS * ms;
        let mut doubt = Doubt::new(MS * 100, MS * 50, start);
        doubt.begin_round(at(99), wall(99), false);
        assert!(!doubt.is_in());
        doubt.begin_round(at(199), wall(199), false);
        assert!(doubt.is_in());
        // Asked for before the gap: the answer may be as old.
        doubt.committed(at(199));
        assert!(doubt.is_in());
        doubt.committed(at(200));
        assert!(!doubt.is_in());
        // While they are away it is put off.
        doubt.begin_round(at(210), wall(210), true);
        doubt.begin_round(at(220), wall(220), true);
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

    #[test]
    fn a_clock_that_is_moved_is_doubted_and_how_long_is_known() {
        let start = Instant::now();
        let at = |ms: u32| start + MS * ms;
        let wall = |ms: u32| SystemTime::UNIX_EPOCH + MS * ms;
        for moved_to in [wall(8_000), wall(10_060)] {
            let mut doubt = Doubt::new(MS * 100, MS * 50, start);
            doubt.begin_round(at(10), wall(9_010), false);
            doubt.begin_round(at(20), wall(9_019), false);
            assert!(!doubt.is_in());
            doubt.begin_round(at(30), moved_to, false);
            assert!(doubt.is_in());
            assert_eq!((doubt.lasts(at(30)), doubt.lasts(at(90))), (Duration::ZERO, MS * 60));
            doubt.committed(at(31));
            assert_eq!(doubt.lasts(at(90)), Duration::ZERO);
        }
    }
}
