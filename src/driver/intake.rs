//! From a decoded message to the executor, on the thread that polled it.
//!
//! Must not: block, or hand the call to another thread: the executor runs a short call right here.

use std::sync::Arc;

use super::outbox::{Failure, Outbox, Ticket};
use super::plane::Observations;
use super::unknown::Unknown;
use crate::control::Event;
use crate::execute::{Call, Executor};
use crate::ingest::{Received, Sink};
use crate::telemetry::{Metrics, Tracing};

/// Takes what ingest decoded.
pub struct Intake {
    /// The topic of the calls.
    pub topic: String,
    /// Runs the calls.
    pub executor: Executor<Arc<Outbox>>,
    /// Takes dead letters.
    pub outbox: Arc<Outbox>,
    /// Tells the control plane.
    pub observations: Observations,
    /// Holds calls of functions that the registry may be about to tell.
    pub unknown: Unknown,
    /// Starts the call's span.
    pub tracing: Tracing,
    /// The counters.
    pub metrics: Arc<Metrics>,
    /// Is set when the consumer is of no more use.
    pub failure: Failure,
}

impl Sink for Intake {
    fn received(&mut self, received: Received) {
        let Received { position, key, headers, bytes, received_at, content } = received;
        let invocation = match content {
            Ok(invocation) => invocation,
            Err(poison) => {
                let place = (position.partition, position.offset);
                return self.outbox.dead_letter(poison, place, key, headers, Some((position, bytes)));
            }
        };
        self.metrics.invocations_received.add(1);
        self.observations.see(Event::InvocationArrived { function: invocation.function.clone() });
        let span = self.tracing.start(&headers, &invocation.function, &self.topic, &position);
        let ticket = Ticket { position: Some(position), bytes, key, span };
        let call = Call { invocation, ticket, received_at, attempt: 1 };
        if let Err(call) = self.executor.submit(call) {
            self.unknown.hold(*call);
        }
    }

    fn assigned(&mut self, partitions: &[i32]) {
        tracing::info!(topic = self.topic, ?partitions, "partitions assigned");
    }

    fn revoked(&mut self, partitions: &[i32]) {
        tracing::info!(topic = self.topic, ?partitions, "partitions revoked");
    }

    fn failed_for_good(&mut self, reason: &str) {
        self.failure.set(reason);
    }
}
