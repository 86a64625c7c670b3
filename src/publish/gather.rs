//! Outcomes on their way into a transaction: they gather, and are put in order.
//!
//! Must not: make transactions. Bounds: what is gathered is in flight, and `ingest` bounds that.

use std::collections::HashMap;
use std::sync::{Condvar, Mutex, MutexGuard, PoisonError};
use std::time::{Duration, Instant};

use super::Outcome;

/// Outcomes that wait for a transaction, and who waits for them.
#[derive(Default)]
pub(super) struct Gather {
    queue: Mutex<Queue>,
    pub(super) changed: Condvar,
}

#[derive(Default)]
pub(super) struct Queue {
    outcomes: Vec<Outcome>,
    pub(super) ended: bool,
}

impl Gather {
    pub(super) fn queue(&self) -> MutexGuard<'_, Queue> {
        self.queue.lock().unwrap_or_else(PoisonError::into_inner)
    }

    pub(super) fn push(&self, outcomes: impl IntoIterator<Item = Outcome>) {
        self.queue().outcomes.extend(outcomes);
        self.changed.notify_one();
    }

    /// Waits until `not_before` and for an outcome, and takes all there are. None at the end.
    pub(super) fn take(&self, not_before: Instant) -> Option<Vec<Outcome>> {
        let mut queue = self.queue();
        loop {
            let wait = not_before.saturating_duration_since(Instant::now());
            queue = if queue.ended {
                return None;
            } else if !wait.is_zero() {
                self.changed.wait_timeout(queue, wait).unwrap_or_else(PoisonError::into_inner).0
            } else if queue.outcomes.is_empty() {
                self.changed.wait(queue).unwrap_or_else(PoisonError::into_inner)
            } else {
                return Some(std::mem::take(&mut queue.outcomes));
            }
        }
    }

    /// Waits, for less where the end comes. False at the end.
    pub(super) fn pause(&self, wait: Duration) -> bool {
        let queue = self.queue();
        let waited = self.changed.wait_timeout_while(queue, wait, |queue| !queue.ended);
        !waited.unwrap_or_else(PoisonError::into_inner).0.ended
    }
}

/// Puts outcomes in such an order that what waits longest in each partition goes first, and partitions take turns.
pub(super) fn in_turns(outcomes: &mut [Outcome]) {
    outcomes.sort_by_key(|outcome| (outcome.position.partition, outcome.position.offset));
    let mut turns = HashMap::<i32, usize>::new();
    outcomes.sort_by_cached_key(|outcome| {
        let turn = turns.entry(outcome.position.partition).or_default();
        *turn += 1;
        *turn
    });
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::publish::{Destination, Record};
    use crate::types::{Generation, Offset, Position};

    #[test]
    fn partitions_take_turns_and_each_keeps_its_order() {
        let outcome = |(partition, offset)| {
            let position = Position { partition, offset: Offset(offset), generation: Generation(1) };
            let record = Record { destination: Destination::Results, key: None, headers: Vec::new(), payload: None };
            Outcome { position, bytes: 0, record, dead_letter: None }
        };
        let mut outcomes: Vec<_> = [(1, 9), (0, 7), (0, 5), (0, 6), (2, 1), (1, 8)].map(outcome).into();
        in_turns(&mut outcomes);
        let places: Vec<_> =
            outcomes.iter().map(|outcome| (outcome.position.partition, outcome.position.offset.0)).collect();
        assert_eq!(places, [(0, 5), (1, 8), (2, 1), (0, 6), (1, 9), (0, 7)]);
    }
}
