//! From a polled message to the sink: accounts, decoding, and messages that wait for the schema of their writer.
//!
//! Must not: wait, or decide what becomes of a message that is no event.

use std::sync::Arc;
use std::time::Instant;

use super::counters::{add, count};
use super::held::Undecoded;
use super::intake::Intake;
use super::passing::MESSAGE_BYTES;
use super::{KEY_BYTES_KEPT, Original, Poison, Received, Sink};
use crate::codec::DecodeError;
use crate::kafka::headers::{self, Headers};
use crate::kafka::queue::Record;
use crate::progress::Verdict;
use crate::types::{Invocation, Offset, Timestamp};

impl<S: Sink> Intake<S> {
    pub(super) fn take_message(&mut self, record: &Record<'_>) {
        let partition = record.partition();
        if self.stopped || self.is_dropped(partition) {
            // It is not committed, and nothing behind it is taken before it has come again.
            return;
        }
        let received_at = Instant::now();
        // What was fetched before says nothing of now.
        if !self.doubt.is_in() {
            self.control.health.works();
        }
        let bounds = self.settings.message;
        let read = bounds.headers((record.key(), record.payload()), |bounds| record.headers(bounds));
        let (headers, left_out) = match read {
            Ok(headers) => headers,
            Err(error) => return self.refuse(record, received_at, error),
        };
        let payload = record.payload();
        // What comes behind a message that was put aside waits behind it.
        let decoded = if self.held.has(partition) { None } else { self.decode(payload, &headers) };
        let keeps = matches!(&decoded, Some(Ok(invocation)) if self.sink.keeps_original(invocation));
        let payload_bytes = payload.map_or(0, <[u8]>::len);
        let bytes = held_bytes(record.key().map_or(0, <[u8]>::len), payload_bytes, &headers, keeps);
        let position = match self.partitions.received(partition, Offset(record.offset()), bytes) {
            Verdict::New(position) => position,
            Verdict::Known => {
                self.commits.changes += 1;
                return count(&self.control.counters.already_done);
            }
            Verdict::NotOurs => return,
        };
        if left_out > 0 {
            add(&self.control.counters.headers_left_out, left_out);
        }
        let owned = |bytes: Option<&[u8]>| bytes.map(<[u8]>::to_vec);
        let timestamp = || record.timestamp_ms().map(Timestamp::from_millis);
        let key = owned(record.key());
        let Some(decoded) = decoded else {
            let (payload, timestamp) = (owned(payload), timestamp());
            let message = Undecoded { position, key, headers, payload, timestamp, bytes, received_at };
            count(&self.control.counters.held);
            return self.held.push(received_at, message);
        };
        let original = keeps
            .then(|| Box::new(Original { payload: owned(payload), headers: headers.clone(), timestamp: timestamp() }));
        let content = decoded.map_err(|error| Poison {
            topic: Arc::clone(&self.topic),
            payload: owned(payload),
            omitted: None,
            timestamp: timestamp(),
            error,
        });
        self.hand_on(Received { position, key, headers, bytes, received_at, content, original });
    }

    /// A message beyond the bounds: a dead letter without its value and its headers.
    fn refuse(&mut self, record: &Record<'_>, received_at: Instant, error: DecodeError) {
        let verdict = self.partitions.received(record.partition(), Offset(record.offset()), MESSAGE_BYTES);
        let position = match verdict {
            Verdict::New(position) => position,
            Verdict::Known => {
                self.commits.changes += 1;
                return count(&self.control.counters.already_done);
            }
            Verdict::NotOurs => return,
        };
        let content = Err(Poison {
            topic: Arc::clone(&self.topic),
            payload: None,
            omitted: Some(record.payload().map_or(0, <[u8]>::len)),
            timestamp: record.timestamp_ms().map(Timestamp::from_millis),
            error,
        });
        let key = record.key().filter(|key| key.len() <= KEY_BYTES_KEPT).map(<[u8]>::to_vec);
        let headers = Headers::new();
        self.hand_on(Received { position, key, headers, bytes: MESSAGE_BYTES, received_at, content, original: None });
    }

    /// None where it cannot be said yet.
    fn decode(&self, payload: Option<&[u8]>, headers: &Headers) -> Option<Result<Invocation, DecodeError>> {
        let content_type = headers::text(headers, "content-type");
        match self.codec.decode(payload.unwrap_or_default(), content_type, &*self.writers) {
            Err(error) if error.retryable() => None,
            decoded => Some(decoded),
        }
    }

    pub(super) fn hand_on(&mut self, received: Received) {
        let counters = &self.control.counters;
        count(&counters.received);
        add(&counters.received_bytes, received.bytes);
        if received.content.is_err() {
            count(&counters.poison);
        }
        self.sink.received(received);
    }

    pub(super) fn retry_held(&mut self, now: Instant) {
        if self.held.is_empty() {
            return;
        }
        let mut held = std::mem::take(&mut self.held);
        held.retry(now, |message| {
            let Some(decoded) = self.decode(message.payload.as_deref(), &message.headers) else { return Some(message) };
            let Undecoded { position, key, headers, payload, timestamp, bytes, received_at } = message;
            let keeps = decoded.as_ref().is_ok_and(|invocation| self.sink.keeps_original(invocation));
            let (original, content) = match decoded {
                Ok(call) => {
                    let headers = headers.clone();
                    (keeps.then(|| Box::new(Original { payload, headers, timestamp })), Ok(call))
                }
                Err(error) => {
                    (None, Err(Poison { topic: Arc::clone(&self.topic), payload, omitted: None, timestamp, error }))
                }
            };
            self.hand_on(Received { position, key, headers, bytes, received_at, content, original });
            None
        });
        self.held = held;
    }
}

/// What a message holds in memory while it is in flight: its key, its value (once as it came or as the event has it), its
/// headers, and where it is kept as it came, value and headers once more.
fn held_bytes(key: usize, payload: usize, headers: &Headers, keeps_original: bool) -> usize {
    let once = payload + headers::bytes_in_memory(headers);
    MESSAGE_BYTES + key + if keeps_original { once * 2 } else { once }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_message_counts_for_what_is_held_of_it() {
        let headers: Headers = vec![(String::new(), Vec::new()); 1_000];
        assert_eq!(held_bytes(10, 100, &Headers::new(), false), MESSAGE_BYTES + 110);
        assert_eq!(held_bytes(10, 100, &Headers::new(), true), MESSAGE_BYTES + 210);
        assert_eq!(held_bytes(0, 0, &headers, false), MESSAGE_BYTES + 48_000);
        assert_eq!(held_bytes(0, 0, &headers, true), MESSAGE_BYTES + 96_000);
    }
}
