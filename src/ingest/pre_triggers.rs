//! Follows the whole `pre-triggers` topic, on every node.
//!
//! Duty: hand each pre-trigger to the sink, from the longest window before the start on. Must not: block the invocations, or
//! keep a pre-trigger: it is perishable, and one for which the sink has no room is dropped and counted.
//!
//! **Bytes that are no pre-trigger.** Every node reads the same ones, and reads them again at its next start. No node is
//! special, and choosing one would need a protocol of our own. So:
//! - what was in the topic before this node started is counted and not handed on: a node that ran then has seen it;
//! - what comes later every node hands on, once. A dead letter made of it carries the topic, partition and offset, which name
//!   it: with N nodes there are up to N copies. A reader that wants one of each keeps the first.
//!
//! What is written while no node runs is therefore counted and gets no dead letter.
//!
//! **Where reading begins.** A pre-trigger counts while its own window is open, whatever the timestamp of its record is: a
//! sender may give seconds for milliseconds, or carry on the time of an event. So besides what is young by its record, the last
//! [`READ_BACK`] records of each partition are read, and of those whose records are older than that, such whose own window is
//! over by now are passed over without a word.

use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::Duration;

use super::{KEY_BYTES_KEPT, MessageBounds, Poison, is_beyond};
use crate::codec::{Codec, ValueHeaders, WriterSchemas};
use crate::kafka::headers::{self, Headers};
use crate::kafka::tail::{Follower, Message, Passed, Start, Step, Tail};
use crate::kafka::{ClientError, Connection, Health};
use crate::types::{Offset, PreTrigger, Timestamp};

const THREAD: &str = "pre-triggers";
/// How many records before a partition's end are read at the start whatever their timestamps say.
pub const READ_BACK: u32 = 10_000;
/// How often a pre-trigger is tried whose writer's schema cannot be had, over about 3 seconds. It holds up those behind it,
/// and is worth less with every second.
const ATTEMPTS_MAX: u32 = 6;

/// What comes out of the topic.
#[derive(Clone, Debug, PartialEq)]
pub enum PreTriggerEvent {
    /// A notice.
    Received(PreTrigger),
    /// Bytes that are none, written since this node started.
    Malformed {
        /// What they are and why not.
        poison: Poison,
        /// The partition in which they stand.
        partition: i32,
        /// Their offset.
        offset: Offset,
        /// The message's key.
        key: Option<Vec<u8>>,
        /// The message's headers.
        headers: Headers,
    },
}

/// Totals since the start, in messages of the topic.
#[derive(Debug, Default)]
pub struct PreTriggerCounters {
    /// Taken by the sink.
    pub received: AtomicU64,
    /// Dropped, because the sink had no room.
    pub dropped: AtomicU64,
    /// No pre-trigger, whether handed on or not.
    pub malformed: AtomicU64,
    /// Dropped, because the schema of their writer could not be had.
    pub schema_unavailable: AtomicU64,
}

/// The reader that runs. Dropping it stops its thread.
pub struct PreTriggers {
    tail: Tail,
    counters: Arc<PreTriggerCounters>,
}

impl PreTriggers {
    /// Begins to read `topic`: from its beginning, or where `window_max` is given, what may still be open `now` where no window
    /// is longer than that.
    ///
    /// `sink` is called on the thread `pre-triggers` and answers whether it had room. It must not wait for it.
    ///
    /// # Errors
    /// Where the client's settings are refused, or the thread cannot be started.
    pub fn start(
        connection: &Connection,
        topic: &str,
        (now, window_max): (Timestamp, Option<Duration>),
        codec: Arc<Codec>,
        writers: Arc<dyn WriterSchemas>,
        bounds: MessageBounds,
        sink: impl FnMut(PreTriggerEvent) -> bool + Send + 'static,
    ) -> Result<Self, ClientError> {
        let counters = Arc::new(PreTriggerCounters::default());
        let reader = Reader {
            topic: topic.into(),
            codec,
            writers,
            bounds,
            sink,
            counters: Arc::clone(&counters),
            caught_up: false,
            attempts: 0,
            gave_up: false,
            now,
            young_from: window_max.map(|window_max| now - window_max),
        };
        let start = reader.young_from.map_or(Start::Beginning, |time| Start::Since { time, records: READ_BACK });
        let tail = Tail::start(connection, topic, THREAD, start, reader)?;
        Ok(Self { tail, counters })
    }

    /// What was passed over, because it cannot be read.
    pub fn passed(&self) -> Passed {
        self.tail.passed()
    }

    /// Whether everything that was in the topic at the start has been read.
    pub fn is_caught_up(&self) -> bool {
        self.tail.is_caught_up()
    }

    /// How the brokers do, as the reader sees it.
    pub fn health(&self) -> &Health {
        self.tail.health()
    }

    /// What was counted.
    pub fn counters(&self) -> Arc<PreTriggerCounters> {
        Arc::clone(&self.counters)
    }

    /// Whether the thread has ended, which it does by itself only where the sink panicked.
    pub fn is_finished(&self) -> bool {
        self.tail.is_finished()
    }

    /// Stops, and waits for the thread.
    pub fn stop(self) {
        self.tail.stop();
    }
}

struct Reader<S> {
    topic: Arc<str>,
    codec: Arc<Codec>,
    writers: Arc<dyn WriterSchemas>,
    bounds: MessageBounds,
    sink: S,
    counters: Arc<PreTriggerCounters>,
    caught_up: bool,
    /// Attempts at the message at hand, so far.
    attempts: u32,
    /// Whether the last schema that was asked for could not be had.
    gave_up: bool,
    /// When reading began.
    now: Timestamp,
    /// Records with a timestamp below this are older than any window that is open; None where reading began at the beginning.
    young_from: Option<Timestamp>,
}

impl<S> Reader<S> {
    fn is_old(&self, timestamp: Option<Timestamp>) -> bool {
        !self.caught_up && self.young_from.is_some_and(|from| timestamp.is_none_or(|timestamp| timestamp < from))
    }
}

/// Whether a pre-trigger says nothing any more. A withdrawal always says something: the notice that it withdraws may be open.
fn is_over(pre_trigger: &PreTrigger, now: Timestamp) -> bool {
    pre_trigger.expected_invocations > 0 && pre_trigger.expires_at() <= now
}

impl<S: FnMut(PreTriggerEvent) -> bool + Send + 'static> Follower for Reader<S> {
    fn message(&mut self, message: &Message<'_>) -> Step {
        let read = self.bounds.headers((message.key, message.payload), |bounds| message.headers(bounds));
        let (headers, decoded) = match read {
            Ok((headers, _)) => {
                let of_value = ValueHeaders::of(|name| headers::value(&headers, name));
                let recorded_at = message.timestamp.unwrap_or(Timestamp::ZERO);
                let payload = message.payload.unwrap_or_default();
                let decoded = self.codec.decode_recorded(payload, of_value, &*self.writers, recorded_at);
                (headers, decoded)
            }
            Err(error) => (Headers::new(), Err(error)),
        };
        let is_old = self.is_old(message.timestamp);
        let event = match decoded {
            Ok(pre_trigger) if is_old && is_over(&pre_trigger, self.now) => {
                self.attempts = 0;
                return Step::Done;
            }
            Ok(pre_trigger) => PreTriggerEvent::Received(pre_trigger),
            Err(error) if error.retryable() => {
                self.attempts += 1;
                // Thousands of old ones would keep those behind them for hours.
                if self.attempts < ATTEMPTS_MAX && !(is_old && self.gave_up) {
                    return Step::Again;
                }
                (self.attempts, self.gave_up) = (0, true);
                self.counters.schema_unavailable.fetch_add(1, Ordering::Relaxed);
                return Step::Done;
            }
            Err(error) => {
                self.attempts = 0;
                self.counters.malformed.fetch_add(1, Ordering::Relaxed);
                tracing::debug!(partition = message.partition, offset = message.offset.0, %error, "no pre-trigger");
                if !self.caught_up {
                    return Step::Done;
                }
                let is_kept = !is_beyond(&error);
                PreTriggerEvent::Malformed {
                    poison: Poison {
                        topic: Arc::clone(&self.topic),
                        payload: message.payload.filter(|_| is_kept).map(<[u8]>::to_vec),
                        omitted: (!is_kept).then(|| message.payload.map_or(0, <[u8]>::len)),
                        timestamp: message.timestamp,
                        error,
                    },
                    partition: message.partition,
                    offset: message.offset,
                    key: message.key.filter(|key| is_kept || key.len() <= KEY_BYTES_KEPT).map(<[u8]>::to_vec),
                    headers,
                }
            }
        };
        (self.attempts, self.gave_up) = (0, false);
        let is_notice = matches!(event, PreTriggerEvent::Received(_));
        if !(self.sink)(event) {
            self.counters.dropped.fetch_add(1, Ordering::Relaxed);
        } else if is_notice {
            self.counters.received.fetch_add(1, Ordering::Relaxed);
        }
        Step::Done
    }

    fn caught_up(&mut self) {
        self.caught_up = true;
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::codec::NoSchemaRegistry;

    #[test]
    fn a_window_that_is_open_counts_and_a_withdrawal_always_does() {
        let notice = |json: &str| {
            Codec::new().decode::<PreTrigger>(json.as_bytes(), Some("application/json"), &NoSchemaRegistry)
        };
        let base = r#""id": "n", "source": "s", "function": "f", "emitted_at": 1000"#;
        let is_over = |fields: &str, now| {
            super::is_over(&notice(&format!("{{{base}{fields}}}")).unwrap(), Timestamp::from_millis(now))
        };
        let window = r#", "window_ms": 500"#;
        assert_eq!([1_499, 1_500].map(|now| is_over(window, now)), [false, true]);
        assert!(!is_over(r#", "window_ms": 500, "not_before": 8000"#, 8_499));
        assert!(!is_over(r#", "window_ms": 500, "expected_invocations": 0"#, 9_000));
    }
}
