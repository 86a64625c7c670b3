//! Where a batch ends that cannot be read: the first offset behind it.
//!
//! librdkafka says where such a batch begins, and the brokers answer a request for any offset inside it with the whole batch.
//! So offsets further on are tried, twice as far each time, and then between the last two: galloping search. Must not: decide
//! whether a batch is passed over.
//!
//! Bounds: one client at a time, twenty seconds, a thread for as long.

use std::sync::Arc;
use std::time::{Duration, Instant};

use rdkafka::TopicPartitionList;
use rdkafka::consumer::{BaseConsumer, Consumer};
use rdkafka::error::{KafkaResult, RDKafkaErrorCode as Code};
use rdkafka::topic_partition_list::Offset as At;

use super::queue::{Polled, Queue};
use super::{Connection, Quiet};

const ROLE: &str = "batch-end";
/// How long a search may take.
const SEARCH: Duration = Duration::from_secs(20);
/// How long one request may take.
const REQUEST: Duration = Duration::from_secs(5);
/// How long a search may take in truth before the watch says so.
const OVERDUE: Duration = Duration::from_secs(120);
/// How long nothing may come before the queue is looked at again.
const POLL: Duration = Duration::from_millis(5);

/// Searches on a thread of its own, and calls `then` with the first offset behind the batch in which `offset` lies; with None
/// where that was not found. Where the system gives no thread, `then` is dropped.
pub fn search(
    connection: &Connection,
    topic: &str,
    partition: i32,
    offset: i64,
    then: impl FnOnce(Option<i64>) + Send + 'static,
) {
    let (connection, topic) = (connection.clone(), topic.to_owned());
    let body = move || {
        let _watched = connection.watch.begin("end of a batch that cannot be read", OVERDUE);
        let found = look(&connection, &topic, partition, offset).unwrap_or_else(|error| {
            tracing::debug!(topic, partition, offset, %error, "the end of a batch was not found; tried again");
            None
        });
        then(found);
    };
    if let Err(error) = std::thread::Builder::new().name(ROLE.to_owned()).spawn(body) {
        tracing::warn!(%error, "no thread to look for the end of a batch");
    }
}

fn look(connection: &Connection, topic: &str, partition: i32, offset: i64) -> KafkaResult<Option<i64>> {
    let by = Instant::now() + SEARCH;
    let (_, end) = connection
        .reader()
        .create_with_context::<_, BaseConsumer<Quiet>>(Quiet { role: ROLE })?
        .fetch_watermarks(topic, partition, REQUEST)?;
    let mut search = Search::new(offset, end);
    while let Some(probe) = search.next() {
        let Some(is_inside) = is_inside(connection, topic, At::Offset(probe), partition, offset, by)? else {
            return Ok(None);
        };
        search.saw(probe, is_inside);
    }
    Ok(search.end())
}

/// Whether a request for `probe` is answered with the batch in which `offset` lies; None where no answer came in time.
///
/// By a client of its own: librdkafka loses its place at a batch whose checksum is wrong, and its partition is not to be
/// moved any more then.
fn is_inside(
    connection: &Connection,
    topic: &str,
    probe: At,
    partition: i32,
    offset: i64,
    by: Instant,
) -> KafkaResult<Option<bool>> {
    let mut config = connection.reader();
    config.set("fetch.error.backoff.ms", "10");
    // An offset that is not there is an answer, and nothing is read from elsewhere.
    config.set("auto.offset.reset", "error");
    let consumer: Arc<BaseConsumer<Quiet>> = Arc::new(config.create_with_context(Quiet { role: ROLE })?);
    let queue = Queue::of(&consumer)?;
    let mut list = TopicPartitionList::with_capacity(1);
    list.add_partition_offset(topic, partition, probe)?;
    consumer.assign(&list)?;
    while Instant::now() < by {
        match queue.poll() {
            Some(Polled::Failed(error)) if error.partition == partition => {
                return Ok(Some((0..=offset).contains(&error.offset)));
            }
            Some(Polled::Record(_) | Polled::EndOf(_)) => return Ok(Some(false)),
            Some(Polled::Error(error)) if error.rdkafka_error_code() == Some(Code::AutoOffsetReset) => {
                return Ok(Some(false));
            }
            Some(Polled::Failed(_) | Polled::Error(_)) => {}
            None => std::thread::sleep(POLL),
        }
    }
    Ok(None)
}

/// The search itself.
struct Search {
    /// The highest offset that is known to lie in the batch.
    inside: i64,
    /// The lowest that is known not to.
    behind: i64,
    stride: i64,
    /// Whether one behind it was ever tried.
    is_bounded: bool,
}

impl Search {
    /// `offset` lies in the batch, `end` (the end of the partition, exclusive) does not.
    fn new(offset: i64, end: i64) -> Self {
        Self { inside: offset, behind: end.max(offset + 1), stride: 1, is_bounded: false }
    }

    /// What to try next; None at the end.
    fn next(&self) -> Option<i64> {
        if self.behind - self.inside <= 1 {
            return None;
        }
        let middle = self.inside + (self.behind - self.inside) / 2;
        Some(if self.is_bounded { middle } else { (self.inside + self.stride).min(self.behind - 1) })
    }

    fn saw(&mut self, probe: i64, is_inside: bool) {
        if is_inside {
            self.inside = self.inside.max(probe);
            self.stride = self.stride.saturating_mul(2);
        } else {
            self.behind = self.behind.min(probe);
            self.is_bounded = true;
        }
    }

    fn end(&self) -> Option<i64> {
        (self.behind - self.inside == 1).then_some(self.behind)
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    proptest! {
        #[test]
        fn the_end_is_found_exactly_and_soon(first in 0_i64..1_000, len in 1_i64..100_000, rest in 0_i64..1_000_000_000) {
            let (end, mut probes) = (first + len, 0);
            let mut search = Search::new(first, end + rest);
            while let Some(probe) = search.next() {
                prop_assert!(probe > first && probe < end + rest);
                search.saw(probe, probe < end);
                probes += 1;
            }
            prop_assert_eq!(search.end(), Some(end));
            prop_assert!(probes <= 2 * (64 - len.leading_zeros()) + 2, "{} probes", probes);
        }
    }
}
