//! Messages that were put aside, because the schema of their writer could not be had at once.
//!
//! Must not: decode, or decide whether a message may be run. A message here is in flight like any other; its partition is
//! paused, so there is little more than one a partition.

use std::collections::{BTreeMap, VecDeque};
use std::time::{Duration, Instant};

use crate::kafka::headers::Headers;
use crate::types::{Position, Timestamp};

const BACKOFF_MIN: Duration = Duration::from_millis(10);
const BACKOFF_MAX: Duration = Duration::from_secs(2);

/// A message before it is decoded.
#[derive(Debug)]
pub(super) struct Undecoded {
    pub(super) position: Position,
    pub(super) key: Option<Vec<u8>>,
    pub(super) headers: Headers,
    pub(super) payload: Option<Vec<u8>>,
    pub(super) timestamp: Option<Timestamp>,
    pub(super) bytes: usize,
    pub(super) received_at: Instant,
}

struct Queue {
    messages: VecDeque<Undecoded>,
    retry_at: Instant,
    backoff: Duration,
}

/// The messages, by partition, oldest first.
#[derive(Default)]
pub(super) struct Held {
    queues: BTreeMap<i32, Queue>,
}

impl Held {
    /// Puts a message behind those of its partition that are here.
    pub(super) fn push(&mut self, now: Instant, message: Undecoded) {
        let partition = message.position.partition;
        let queue = self.queues.entry(partition).or_insert_with(|| Queue {
            messages: VecDeque::new(),
            retry_at: now + BACKOFF_MIN,
            backoff: BACKOFF_MIN,
        });
        queue.messages.push_back(message);
    }

    /// Whether messages of this partition are here: it should be paused, and what still comes belongs behind them.
    pub(super) fn has(&self, partition: i32) -> bool {
        self.queues.contains_key(&partition)
    }

    /// How many messages of this partition are here.
    pub(super) fn count(&self, partition: i32) -> usize {
        self.queues.get(&partition).map_or(0, |queue| queue.messages.len())
    }

    pub(super) fn is_empty(&self) -> bool {
        self.queues.is_empty()
    }

    /// Drops the messages of a partition that goes away; whoever takes it over reads them again.
    pub(super) fn forget(&mut self, partition: i32) {
        self.queues.remove(&partition);
    }

    /// Tries the oldest message of each partition whose wait is over, and goes on with the next where that worked. `attempt`
    /// gives the message back where it did not; then the wait doubles, from 10 ms up to 2 s.
    pub(super) fn retry(&mut self, now: Instant, mut attempt: impl FnMut(Undecoded) -> Option<Undecoded>) {
        self.queues.retain(|_, queue| {
            if now < queue.retry_at {
                return true;
            }
            while let Some(message) = queue.messages.pop_front() {
                if let Some(message) = attempt(message) {
                    queue.messages.push_front(message);
                    queue.backoff = (queue.backoff * 2).min(BACKOFF_MAX);
                    queue.retry_at = now + queue.backoff;
                    return true;
                }
                queue.backoff = BACKOFF_MIN;
            }
            false
        });
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::types::{Generation, Offset};

    fn message(partition: i32, offset: i64) -> Undecoded {
        Undecoded {
            position: Position { partition, offset: Offset(offset), generation: Generation(1) },
            key: None,
            headers: Vec::new(),
            payload: None,
            timestamp: None,
            bytes: 1,
            received_at: Instant::now(),
        }
    }

    fn retry(held: &mut Held, now: Instant, works: impl Fn(i64) -> bool) -> Vec<i64> {
        let mut tried = Vec::new();
        held.retry(now, |message| {
            let offset = message.position.offset.0;
            tried.push(offset);
            (!works(offset)).then_some(message)
        });
        tried
    }

    #[test]
    fn order_is_kept_and_the_wait_doubles_until_something_works() {
        let now = Instant::now();
        let ms = |millis| now + Duration::from_millis(millis);
        let mut held = Held::default();
        for offset in 0..3 {
            held.push(now, message(7, offset));
        }
        assert!(retry(&mut held, ms(9), |_| false).is_empty());
        assert_eq!(retry(&mut held, ms(10), |_| false), [0]);
        assert!(retry(&mut held, ms(29), |_| false).is_empty());
        assert_eq!(retry(&mut held, ms(30), |offset| offset < 2), [0, 1, 2]);
        assert_eq!((held.count(7), held.has(7)), (1, true));
        assert!(retry(&mut held, ms(49), |_| true).is_empty());
        assert_eq!(retry(&mut held, ms(50), |_| true), [2]);
        assert!(held.is_empty());
    }

    #[test]
    fn the_wait_has_an_upper_bound_and_partitions_do_not_wait_for_each_other() {
        let now = Instant::now();
        let mut held = Held::default();
        held.push(now, message(0, 0));
        let mut at = now;
        for _ in 0..20 {
            at += BACKOFF_MAX;
            assert_eq!(retry(&mut held, at, |_| false), [0]);
        }
        held.push(at, message(1, 5));
        assert_eq!(retry(&mut held, at + BACKOFF_MIN, |_| true), [5]);
        held.forget(0);
        assert!(held.is_empty());
    }
}
