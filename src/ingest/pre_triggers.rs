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

use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};

use super::{KEY_BYTES_KEPT, MessageBounds, Poison, is_beyond};
use crate::codec::{Codec, ValueHeaders, WriterSchemas};
use crate::kafka::headers::{self, Headers};
use crate::kafka::tail::{Follower, Message, Passed, Start, Step, Tail};
use crate::kafka::{ClientError, Connection, Health};
use crate::types::{Offset, PreTrigger, Timestamp};

const THREAD: &str = "pre-triggers";
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
    /// Begins to read `topic` at `start`, which is best [`Start::Since`] now less the longest window of a pre-trigger.
    ///
    /// `sink` is called on the thread `pre-triggers` and answers whether it had room. It must not wait for it.
    ///
    /// # Errors
    /// Where the client's settings are refused, or the thread cannot be started.
    pub fn start(
        connection: &Connection,
        topic: &str,
        start: Start,
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
        };
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
        let event = match decoded {
            Ok(pre_trigger) => PreTriggerEvent::Received(pre_trigger),
            Err(error) if error.retryable() => {
                self.attempts += 1;
                if self.attempts < ATTEMPTS_MAX {
                    return Step::Again;
                }
                self.attempts = 0;
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
        self.attempts = 0;
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
