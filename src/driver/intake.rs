//! From a decoded message to the executor, on the thread that polled it.
//!
//! Must not: block, or hand the call to another thread: the executor runs a short call right here.

use std::collections::HashMap;
use std::hash::{DefaultHasher, Hasher};
use std::sync::Arc;

use super::delivery::Delivery;
use super::outbox::{Failure, Outbox, Ticket};
use super::plane::Observations;
use crate::control::Event;
use crate::execute::{Call, Cancelled};
use crate::forecast::Share;
use crate::forecast::chains::Evidence;
use crate::ingest::{Claim, Received, Sink};
use crate::telemetry::{Metrics, Tracing};
use crate::types::{Invocation, headers};

/// Takes what ingest decoded.
pub struct Intake {
    /// The topic of the calls.
    pub topic: String,
    /// Takes the calls.
    pub delivery: Arc<Delivery>,
    /// Takes dead letters.
    pub outbox: Arc<Outbox>,
    /// Tells the control plane.
    pub observations: Observations,
    /// Starts the call's span.
    pub tracing: Tracing,
    /// The counters.
    pub metrics: Arc<Metrics>,
    /// Is set when the consumer is of no more use.
    pub failure: Failure,
    /// What ends the calls of each partition that is read.
    pub partitions: HashMap<i32, Cancelled>,
}

impl Sink for Intake {
    fn received(&mut self, received: Received) {
        let Received { position, key, mut headers, bytes, received_at, content, original, is_refused } = received;
        let invocation = match content {
            Ok(invocation) => invocation,
            Err(poison) => {
                let place = (position.partition, position.offset);
                return self.outbox.dead_letter(poison, place, key, headers, Some((position, bytes)));
            }
        };
        self.metrics.invocations_received.add(1);
        let evidence = evidence(&headers, key.as_deref());
        self.observations.see(Event::InvocationArrived { function: invocation.function.clone(), evidence });
        let span = self.tracing.start(&headers, &invocation.function, &self.topic, &position);
        let headers_left_out = headers::pass_on(&mut headers);
        self.metrics.call_headers_left_out.add(headers_left_out as u64);
        self.metrics.call_headers_not_text.add(headers::not_text(&headers) as u64);
        let ticket = Ticket {
            position: Some(position),
            bytes,
            key,
            span,
            original,
            overflowed: is_refused,
            headers_left_out,
            ..Ticket::default()
        };
        // Those of one partition end together, when it goes away.
        let cancelled = self.partitions.entry(position.partition).or_insert_with(Cancelled::not_yet).clone();
        let call = Call { invocation, headers, ticket, received_at, attempt: 1, cancelled };
        if is_refused {
            return self.delivery.overflowed(call);
        }
        self.delivery.submit(call);
    }

    fn claim(&self, invocation: &Invocation) -> Option<Claim> {
        Some(self.delivery.claim(invocation))
    }

    fn keeps_original(&self, invocation: &Invocation, is_refused: bool) -> bool {
        self.delivery.keeps_original(invocation, is_refused)
    }

    fn can_store(&self) -> bool {
        self.outbox.publisher().can_store()
    }

    fn assigned(&mut self, partitions: &[i32]) {
        tracing::info!(topic = self.topic, ?partitions, "partitions assigned");
    }

    fn revoked(&mut self, partitions: &[i32]) {
        tracing::info!(topic = self.topic, ?partitions, "partitions revoked");
    }

    fn hands_back(&mut self, partitions: &[i32]) {
        for partition in partitions {
            if let Some(cancelled) = self.partitions.get(partition) {
                cancelled.begin_no_more();
            }
        }
        self.delivery.hand_back();
    }

    fn gives_up_waiting(&mut self, partitions: &[i32]) -> usize {
        self.delivery.forget(partitions)
    }

    fn gave_up(&mut self, partitions: &[i32]) {
        for partition in partitions {
            if let Some(cancelled) = self.partitions.remove(partition) {
                cancelled.set();
            }
        }
        self.delivery.forget(partitions);
    }

    fn shares(&mut self, owned: usize, all: usize) {
        let number = |count: usize| u32::try_from(count).unwrap_or(u32::MAX);
        self.observations.shares(Share { owned: number(owned), all: number(all) });
    }

    fn failed_for_good(&mut self, reason: &str) {
        self.failure.set(reason);
    }
}

/// What a call belongs to, as hashes: its trace, by the trace id of its `traceparent`, and its message key.
fn evidence(headers: &[(String, Option<Vec<u8>>)], key: Option<&[u8]>) -> Evidence {
    let header = headers.iter().find(|(name, _)| name.eq_ignore_ascii_case("traceparent"));
    // version "-" trace-id "-" parent-id "-" flags, in hex (W3C Trace Context); ids of zeros are no ids.
    let trace =
        header.and_then(|(_, value)| value.as_ref()?.get(3..35)).filter(|id| id.iter().any(|&digit| digit != b'0'));
    Evidence { trace: trace.map(hash), key: key.map(hash) }
}

fn hash(bytes: &[u8]) -> u64 {
    let mut hasher = DefaultHasher::new();
    hasher.write(bytes);
    hasher.finish()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn calls_of_one_trace_or_key_have_the_same_evidence() {
        let of = |trace: &str, key: Option<&[u8]>| {
            let headers =
                vec![("Traceparent".to_owned(), Some(format!("00-{trace}-b7ad6b7169203331-01").into_bytes()))];
            evidence(&headers, key)
        };
        let one = of("0af7651916cd43dd8448eb211c80319c", Some(b"order-7"));
        assert_eq!(one, of("0af7651916cd43dd8448eb211c80319c", Some(b"order-7")));
        assert_ne!(one.trace, of("1af7651916cd43dd8448eb211c80319c", None).trace);
        assert_eq!(of(&"0".repeat(32), None), Evidence::default());
        assert_eq!(evidence(&[], None), Evidence::default());
        assert_eq!(evidence(&[("traceparent".to_owned(), Some(b"00-short".to_vec()))], None), Evidence::default());
    }
}
