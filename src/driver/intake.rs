//! From a decoded message to the executor, on the thread that polled it.
//!
//! Must not: block, or hand the call to another thread: the executor runs a short call right here.

use std::sync::Arc;

use super::outcomes::{OutcomeSink, Ticket};
use super::plane::Observations;
use super::unknown::Unknown;
use crate::control::Event;
use crate::execute::{Call, Executor};
use crate::ingest::{Received, Sink};
use crate::publish::{Publisher, dead_letter};
use crate::telemetry::{Metrics, Tracing};

/// Takes what ingest decoded.
pub struct Intake {
    /// Runs the calls.
    pub executor: Executor<OutcomeSink>,
    /// Takes dead letters.
    pub publisher: Arc<Publisher>,
    /// Tells the control plane.
    pub observations: Observations,
    /// Holds calls of functions that the registry may be about to tell.
    pub unknown: Unknown,
    /// Starts the call's span.
    pub tracing: Tracing,
    /// The counters.
    pub metrics: Arc<Metrics>,
}

impl Sink for Intake {
    fn received(&mut self, received: Received) {
        let Received { position, key, headers, bytes, received_at, content } = received;
        let invocation = match content {
            Ok(invocation) => invocation,
            Err(poison) => {
                tracing::warn!(topic = poison.topic, %position, reason = poison.reason, detail = poison.detail, "dead letter");
                self.metrics.dead_letter(poison.reason);
                let record = dead_letter(&poison, key, headers, position);
                self.publisher.publish(record, Some((position, bytes)));
                return;
            }
        };
        self.metrics.invocations_received.add(1);
        self.observations.see(Event::InvocationArrived { function: invocation.function.clone() });
        let span = self.tracing.start(&headers, &invocation, position);
        let ticket = Ticket { position, bytes, key, span };
        let call = Call { invocation, ticket, received_at, attempt: 1 };
        if let Err(call) = self.executor.submit(call) {
            self.unknown.hold(*call);
        }
    }
}
