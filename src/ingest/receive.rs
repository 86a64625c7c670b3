//! From a polled message to the sink: accounts, decoding, and messages that wait for the schema of their writer.
//!
//! Must not: wait, or decide what becomes of a message that is no event.

use std::sync::Arc;
use std::time::Instant;

use rdkafka::message::{BorrowedMessage, Message as _};

use super::counters::{add, count};
use super::held::Undecoded;
use super::intake::Intake;
use super::{Original, Poison, Received, Sink};
use crate::codec::DecodeError;
use crate::kafka::headers::{self, Headers};
use crate::progress::Verdict;
use crate::types::{Invocation, Offset, Timestamp};

impl<S: Sink> Intake<S> {
    pub(super) fn take_message(&mut self, message: &BorrowedMessage<'_>) {
        if self.stopped {
            // Nothing is read after a stop, so nothing is passed over: this one is not committed and comes again.
            return;
        }
        let received_at = Instant::now();
        // What was fetched before says nothing of now.
        if !self.doubt.is_in() {
            self.control.health.works();
        }
        let (headers, left_out) = headers::read(message);
        let of_headers: usize = headers.iter().map(|(name, value)| name.len() + value.len()).sum();
        let bytes = message.key_len() + message.payload_len() + of_headers;
        let partition = message.partition();
        let position = match self.partitions.received(partition, Offset(message.offset()), bytes) {
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
        let payload = message.payload();
        let owned = |bytes: Option<&[u8]>| bytes.map(<[u8]>::to_vec);
        let timestamp = || message.timestamp().to_millis().map(Timestamp::from_millis);
        let key = owned(message.key());
        // What comes behind a message that was put aside waits behind it.
        let decoded = if self.held.has(partition) { None } else { self.decode(payload, &headers) };
        let Some(decoded) = decoded else {
            let (payload, timestamp) = (owned(payload), timestamp());
            let message = Undecoded { position, key, headers, payload, timestamp, bytes, received_at };
            count(&self.control.counters.held);
            return self.held.push(received_at, message);
        };
        let keeps = decoded.as_ref().is_ok_and(|invocation| self.sink.keeps_original(invocation));
        let original = keeps
            .then(|| Box::new(Original { payload: owned(payload), headers: headers.clone(), timestamp: timestamp() }));
        let content = decoded.map_err(|error| Poison {
            topic: Arc::clone(&self.topic),
            payload: owned(payload),
            timestamp: timestamp(),
            error,
        });
        self.hand_on(Received { position, key, headers, bytes, received_at, content, original });
    }

    /// None where it cannot be said yet.
    fn decode(&self, payload: Option<&[u8]>, headers: &Headers) -> Option<Result<Invocation, DecodeError>> {
        let content_type = headers::text(headers, "content-type");
        match self.codec.decode(payload.unwrap_or_default(), content_type, &*self.writers) {
            Err(error) if error.retryable() => None,
            decoded => Some(decoded),
        }
    }

    fn hand_on(&mut self, received: Received) {
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
                Err(error) => (None, Err(Poison { topic: Arc::clone(&self.topic), payload, timestamp, error })),
            };
            self.hand_on(Received { position, key, headers, bytes, received_at, content, original });
            None
        });
        self.held = held;
    }
}
