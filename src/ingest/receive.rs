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
use crate::codec::{DecodeError, ValueHeaders};
use crate::kafka::headers::{self, Headers};
use crate::kafka::queue::Record;
use crate::progress::{Admission, Verdict};
use crate::types::{Invocation, Offset, Position, Timestamp};

impl<S: Sink> Intake<S> {
    pub(super) fn take_message(&mut self, record: &Record<'_>) {
        let partition = record.partition();
        if self.stopped || self.is_dropped(partition, record.offset()) {
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
        let mut why = String::new();
        let decoded = if self.held.has(partition) {
            None
        } else {
            let decoded = self.decode(payload, &headers, record.timestamp_ms().map(Timestamp::from_millis));
            decoded.map_err(|error| why = error.to_string()).ok()
        };
        let keeps = decoded.as_ref().is_some_and(|decoded| self.keeps(decoded, false));
        let payload_bytes = payload.map_or(0, <[u8]>::len);
        let bytes = held_bytes(record.key().map_or(0, <[u8]>::len), payload_bytes, &headers, keeps);
        let position = match self.partitions.received(partition, Offset(record.offset()), bytes) {
            Verdict::New(position) => position,
            Verdict::Known => {
                self.commits.changes += 1;
                return count(&self.control.counters.already_done);
            }
            Verdict::Replayed | Verdict::NotOurs => return,
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
            return self.held.push(received_at, message, &why);
        };
        let Some(is_refused) = self.admit(position, bytes, &decoded) else { return };
        let keeps = keeps || (is_refused && self.keeps(&decoded, true));
        let original = keeps
            .then(|| Box::new(Original { payload: owned(payload), headers: headers.clone(), timestamp: timestamp() }));
        let content = decoded.map_err(|error| Poison {
            topic: Arc::clone(&self.topic),
            payload: owned(payload),
            omitted: None,
            timestamp: timestamp(),
            error,
        });
        self.hand_on(Received { position, key, headers, bytes, received_at, content, original, is_refused });
    }

    fn keeps(&self, decoded: &Result<Invocation, DecodeError>, is_refused: bool) -> bool {
        decoded.as_ref().is_ok_and(|invocation| self.sink.keeps_original(invocation, is_refused))
    }

    /// Whether a message is refused; None where it was put aside. One that is no event has nobody's share to keep to.
    fn admit(&mut self, position: Position, bytes: usize, decoded: &Result<Invocation, DecodeError>) -> Option<bool> {
        let Some(claim) = decoded.as_ref().ok().and_then(|invocation| self.sink.claim(invocation)) else {
            return Some(false);
        };
        let counters = &self.control.counters;
        match self.partitions.admit(position, bytes, &claim) {
            Admission::Taken => Some(false),
            Admission::Refused => {
                count(&counters.overflowed);
                Some(true)
            }
            Admission::Aside => {
                count(&counters.put_aside);
                None
            }
        }
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
            Verdict::Replayed | Verdict::NotOurs => return,
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
        let (bytes, original, is_refused) = (MESSAGE_BYTES, None, false);
        self.hand_on(Received { position, key, headers, bytes, received_at, content, original, is_refused });
    }

    /// An error where it cannot be said yet.
    fn decode(
        &self,
        payload: Option<&[u8]>,
        headers: &Headers,
        timestamp: Option<Timestamp>,
    ) -> Result<Result<Invocation, DecodeError>, DecodeError> {
        let of_value = ValueHeaders::of(|name| headers::value(headers, name));
        let recorded_at = timestamp.unwrap_or(Timestamp::ZERO);
        match self.codec.decode_recorded(payload.unwrap_or_default(), of_value, &*self.writers, recorded_at) {
            Err(error) if error.retryable() => Err(error),
            decoded => Ok(decoded),
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
        let after = self.settings.pass_unreadable_after;
        held.retry(now, |message, waited| {
            let decoded = match self.decode(message.payload.as_deref(), &message.headers, message.timestamp) {
                Ok(decoded) => decoded,
                Err(error) if after.is_zero() || waited < after => return Some((message, error.to_string())),
                Err(error) => {
                    let Position { partition, offset, .. } = message.position;
                    let (topic, offset, waited_s) = (&*self.topic, offset.0, waited.as_secs());
                    tracing::warn!(topic, partition, offset, waited_s, %error, "a message is passed over (ingest.pass-unreadable-after)");
                    Err(error)
                }
            };
            let Undecoded { position, key, headers, payload, timestamp, bytes, received_at } = message;
            // One that is put aside is not kept here either.
            let is_refused = self.admit(position, bytes, &decoded)?;
            let keeps = self.keeps(&decoded, is_refused);
            let (original, content) = match decoded {
                Ok(call) => {
                    let headers = headers.clone();
                    (keeps.then(|| Box::new(Original { payload, headers, timestamp })), Ok(call))
                }
                Err(error) => {
                    (None, Err(Poison { topic: Arc::clone(&self.topic), payload, omitted: None, timestamp, error }))
                }
            };
            self.hand_on(Received { position, key, headers, bytes, received_at, content, original, is_refused });
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
        let headers: Headers = vec![(String::new(), None); 1_000];
        assert_eq!(held_bytes(10, 100, &Headers::new(), false), MESSAGE_BYTES + 110);
        assert_eq!(held_bytes(10, 100, &Headers::new(), true), MESSAGE_BYTES + 210);
        assert_eq!(held_bytes(0, 0, &headers, false), MESSAGE_BYTES + 48_000);
        assert_eq!(held_bytes(0, 0, &headers, true), MESSAGE_BYTES + 96_000);
    }
}
