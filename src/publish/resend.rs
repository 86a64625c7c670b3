//! Records that have to be sent again, and when.
//!
//! Must not: send.

use std::collections::VecDeque;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::{Duration, Instant};

use super::{Destination, Record};
use crate::types::Position;

/// Most records that wait here, for those before them or to be sent again, and for which no position waits (inclusive).
pub const LOOSE_MAX: usize = 1_000;

/// How long a record waits before it is sent again.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Backoff {
    /// After the first attempt; it doubles from then on.
    pub first: Duration,
    /// At most.
    pub max: Duration,
}

impl Default for Backoff {
    /// 100 ms to 5 s.
    fn default() -> Self {
        Self { first: Duration::from_millis(100), max: Duration::from_secs(5) }
    }
}

/// The call whose outcome a record is, or a part of.
#[derive(Clone, Debug)]
pub(super) struct Waits {
    pub(super) position: Position,
    pub(super) bytes: usize,
    /// Where the outcome has two records, whether one of them is stored.
    pub(super) half_stored: Option<Arc<AtomicBool>>,
}

impl Waits {
    /// One record is stored. Whether that was the last.
    pub(super) fn stored(&self) -> bool {
        self.half_stored.as_ref().is_none_or(|half| half.swap(true, Ordering::AcqRel))
    }
}

/// All that goes to one partition by one producer.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub(super) struct LaneId {
    /// The first destination of its topic.
    pub(super) destination: Destination,
    /// None for all of a topic, while its number of partitions is not known.
    pub(super) partition: Option<i32>,
    /// Whether by the producer whose batches hold one record.
    pub(super) alone: bool,
}

/// What travels with a record through librdkafka and comes back with its delivery report.
#[derive(Clone, Debug)]
pub(super) struct Envelope {
    /// None where no call waits for it.
    pub(super) waits: Option<Waits>,
    /// Attempts before this one.
    pub(super) attempts: u32,
    /// Whether it travels in a batch of its own.
    pub(super) alone: bool,
    /// Where it was offered last; there it ends, too.
    pub(super) lane: LaneId,
    /// The partition that was chosen for it; None where its key or librdkafka chooses.
    pub(super) partition: Option<i32>,
}

impl Envelope {
    /// Of a record for `destination` that was never sent.
    pub(super) fn new(destination: Destination, waits: Option<Waits>) -> Self {
        let lane = LaneId { destination, partition: None, alone: false };
        Self { waits, attempts: 0, alone: false, lane, partition: None }
    }
}

#[derive(Debug)]
struct Waiting {
    due: Instant,
    record: Record,
    envelope: Envelope,
}

/// The queue. Its order does not matter; each record has its own wait.
#[derive(Debug, Default)]
pub(super) struct Resend {
    backoff: Backoff,
    waiting: VecDeque<Waiting>,
    loose: usize,
}

impl Resend {
    pub(super) fn new(backoff: Backoff) -> Self {
        Self { backoff, ..Self::default() }
    }

    /// Takes a record in, to be sent when its wait is over. False where it is not taken, because nobody waits for it and
    /// [`LOOSE_MAX`] of its kind are here and elsewhere.
    #[must_use]
    pub(super) fn push(
        &mut self,
        now: Instant,
        record: Record,
        mut envelope: Envelope,
        loose_elsewhere: usize,
    ) -> bool {
        if envelope.waits.is_none() {
            if self.loose + loose_elsewhere >= LOOSE_MAX {
                return false;
            }
            self.loose += 1;
        }
        let wait = self.backoff.first.saturating_mul(1 << envelope.attempts.min(16)).min(self.backoff.max);
        envelope.attempts = envelope.attempts.saturating_add(1);
        self.waiting.push_back(Waiting { due: now + wait, record, envelope });
        true
    }

    /// Takes out every record whose wait is over.
    pub(super) fn due(&mut self, now: Instant) -> Vec<(Record, Envelope)> {
        let mut due = Vec::new();
        for _ in 0..self.waiting.len() {
            let Some(waiting) = self.waiting.pop_front() else { break };
            if waiting.due <= now {
                self.loose -= usize::from(waiting.envelope.waits.is_none());
                due.push((waiting.record, waiting.envelope));
            } else {
                self.waiting.push_back(waiting);
            }
        }
        due
    }

    /// How many wait that no call waits for.
    pub(super) fn loose(&self) -> usize {
        self.loose
    }

    /// How many wait.
    pub(super) fn len(&self) -> usize {
        self.waiting.len()
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::types::{Generation, Offset};

    fn record() -> Record {
        Record { destination: Destination::Results, key: None, headers: Vec::new(), payload: None }
    }

    fn waited_for(attempts: u32) -> Envelope {
        let position = Position { partition: 0, offset: Offset(1), generation: Generation(1) };
        let waits = Some(Waits { position, bytes: 9, half_stored: None });
        Envelope { attempts, ..Envelope::new(Destination::Results, waits) }
    }

    #[test]
    fn an_outcome_of_two_records_is_stored_with_the_second() {
        let Some(one) = waited_for(0).waits else { unreachable!() };
        assert!(one.stored());
        let first = Waits { half_stored: Some(Arc::default()), ..one };
        let second = first.clone();
        assert_eq!((first.stored(), second.stored()), (false, true));
    }

    #[test]
    fn waits_double_up_to_the_longest() {
        let now = Instant::now();
        for (attempts, wait_ms) in [(0, 100), (1, 200), (2, 400), (5, 3_200), (6, 5_000), (40, 5_000)] {
            let mut resend = Resend::default();
            assert!(resend.push(now, record(), waited_for(attempts), 0));
            assert!(resend.due(now + Duration::from_millis(wait_ms - 1)).is_empty(), "{attempts}");
            let due = resend.due(now + Duration::from_millis(wait_ms));
            assert_eq!(due[0].1.attempts, attempts + 1);
            assert_eq!(resend.len(), 0);
        }
    }

    #[test]
    fn records_that_nobody_waits_for_have_a_bound() {
        let now = Instant::now();
        let loose = Envelope { waits: None, ..waited_for(0) };
        let mut resend = Resend::default();
        for _ in 0..LOOSE_MAX {
            assert!(resend.push(now, record(), loose.clone(), 0));
        }
        assert!(!resend.push(now, record(), loose.clone(), 0));
        assert!(resend.push(now, record(), waited_for(0), 0));
        assert_eq!(resend.due(now + Duration::from_secs(1)).len(), LOOSE_MAX + 1);
        assert!(!resend.push(now, record(), loose.clone(), LOOSE_MAX), "as many wait elsewhere");
        assert!(resend.push(now, record(), loose, 0));
    }
}
