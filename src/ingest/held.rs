//! Messages that were put aside, because the schema of their writer could not be had at once.
//!
//! Must not: decode, or decide whether a message may be run. A message here is in flight like any other; its partition is
//! paused, so there is little more than one a partition. A partition whose first message waits for longer than a moment stands, as
//! one does that cannot be read (see `standing`), and is shown with those.

use std::collections::{BTreeMap, VecDeque};
use std::time::{Duration, Instant};

use crate::kafka::headers::Headers;
use crate::types::{Condition, ConditionKind, Position, Shown, Timestamp};

const BACKOFF_MIN: Duration = Duration::from_millis(10);
const BACKOFF_MAX: Duration = Duration::from_secs(2);
/// A partition that waits for so long stands.
const STANDS_AFTER: Duration = Duration::from_secs(2);
/// Partitions that are named as conditions; more are counted in the last one.
const CONDITIONS_MAX: usize = 32;

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
    /// Since when the first message is the first, how often it was tried, and why it could not be read the last time.
    since: Instant,
    attempts: u64,
    cause: String,
}

/// The messages, by partition, oldest first.
#[derive(Default)]
pub(super) struct Held {
    queues: BTreeMap<i32, Queue>,
}

impl Held {
    /// Puts a message behind those of its partition that are here. `cause` is why it cannot be read, where it was tried.
    pub(super) fn push(&mut self, now: Instant, message: Undecoded, cause: &str) {
        let partition = message.position.partition;
        let queue = self.queues.entry(partition).or_insert_with(|| Queue {
            messages: VecDeque::new(),
            retry_at: now + BACKOFF_MIN,
            backoff: BACKOFF_MIN,
            since: now,
            attempts: 1,
            cause: cause.to_owned(),
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
    /// hears for how long the message has been the first, and gives it back with the reason where it cannot be read yet; then the
    /// wait doubles, from 10 ms up to 2 s.
    pub(super) fn retry(
        &mut self,
        now: Instant,
        mut attempt: impl FnMut(Undecoded, Duration) -> Option<(Undecoded, String)>,
    ) {
        self.queues.retain(|_, queue| {
            if now < queue.retry_at {
                return true;
            }
            while let Some(message) = queue.messages.pop_front() {
                if let Some((message, cause)) = attempt(message, now.duration_since(queue.since)) {
                    queue.messages.push_front(message);
                    queue.backoff = (queue.backoff * 2).min(BACKOFF_MAX);
                    queue.retry_at = now + queue.backoff;
                    queue.attempts += 1;
                    queue.cause = cause;
                    return true;
                }
                (queue.backoff, queue.since, queue.attempts) = (BACKOFF_MIN, now, 0);
            }
            false
        });
    }

    /// The partitions that stand, in order.
    fn stand(&self, now: Instant) -> impl Iterator<Item = (i32, &Queue)> {
        let stands = move |queue: &Queue| now.duration_since(queue.since) >= STANDS_AFTER;
        self.queues.iter().filter(move |(_, queue)| stands(queue)).map(|(&partition, queue)| (partition, queue))
    }

    /// How many partitions stand for which `counts` holds.
    pub(super) fn standing(&self, now: Instant, counts: impl Fn(i32) -> bool) -> usize {
        self.stand(now).filter(|(partition, _)| counts(*partition)).count()
    }

    /// What is to be said of them. `after` is when a message is passed over; zero: never.
    pub(super) fn conditions(&self, now: Instant, topic: &str, after: Duration) -> Vec<Condition> {
        let mut conditions: Vec<Condition> = self
            .stand(now)
            .take(CONDITIONS_MAX)
            .map(|(partition, queue)| Condition {
                kind: ConditionKind::PartitionStands,
                subject: format!("{topic}/{partition}"),
                detail: queue.detail(now, after),
            })
            .collect();
        let more = self.stand(now).count().saturating_sub(CONDITIONS_MAX);
        if more > 0
            && let Some(last) = conditions.last_mut()
        {
            last.detail.push_str(&format!("; {more} more partitions stand"));
        }
        conditions
    }
}

impl Queue {
    fn detail(&self, now: Instant, after: Duration) -> String {
        let lasts = now.duration_since(self.since).as_secs();
        let offset = self.messages.front().map_or(-1, |message| message.position.offset.0);
        let then = if after.is_zero() {
            "it is tried again; ingest.pass-unreadable-after says when such a message is passed over, now never"
                .to_owned()
        } else {
            format!("it is tried again, and passed over after {} s (ingest.pass-unreadable-after)", after.as_secs())
        };
        let Self { attempts, cause, .. } = self;
        format!("stands for {lasts} s at offset {offset}, after {attempts} attempts: {}; {then}", Shown::of(cause))
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
        held.retry(now, |message, _| {
            let offset = message.position.offset.0;
            tried.push(offset);
            (!works(offset)).then(|| (message, "not yet".to_owned()))
        });
        tried
    }

    #[test]
    fn order_is_kept_and_the_wait_doubles_until_something_works() {
        let now = Instant::now();
        let ms = |millis| now + Duration::from_millis(millis);
        let mut held = Held::default();
        for offset in 0..3 {
            held.push(now, message(7, offset), "");
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
        held.push(now, message(0, 0), "");
        let mut at = now;
        for _ in 0..20 {
            at += BACKOFF_MAX;
            assert_eq!(retry(&mut held, at, |_| false), [0]);
        }
        held.push(at, message(1, 5), "");
        assert_eq!(retry(&mut held, at + BACKOFF_MIN, |_| true), [5]);
        held.forget(0);
        assert!(held.is_empty());
    }

    #[test]
    fn a_partition_stands_when_its_first_message_has_waited_and_no_longer() {
        let now = Instant::now();
        let mut held = Held::default();
        held.push(now, message(3, 17), "401 Unauthorized\n");
        held.push(now, message(3, 18), "");
        held.push(now + STANDS_AFTER, message(4, 1), "");
        let at = now + STANDS_AFTER;
        assert_eq!((held.standing(at - Duration::from_millis(1), |_| true), held.standing(at, |_| true)), (0, 1));
        assert_eq!(held.standing(at, |partition| partition != 3), 0);
        let said = held.conditions(at, "calls", Duration::ZERO);
        assert_eq!((said.len(), said[0].subject.as_str()), (1, "calls/3"));
        let first = "stands for 2 s at offset 17, after 1 attempts: 401 Unauthorized\\n; it is tried again; ";
        assert!(said[0].detail.starts_with(first), "{}", said[0].detail);
        // The next one has its own time.
        let mut waited = Vec::new();
        held.retry(at, |message, lasts| {
            waited.push((message.position.offset.0, lasts));
            (message.position.offset.0 != 17).then(|| (message, String::new()))
        });
        assert_eq!(waited, [(17, STANDS_AFTER), (18, Duration::ZERO)]);
        assert_eq!(held.standing(at, |_| true), 0);
    }
}
