//! From an outcome to a record on `results`: the end of a call's way through this process.
//!
//! Called on whichever thread ran the call. Must not: block. The offset moves only when the broker has acknowledged the
//! record; the publisher sees to that.

use std::sync::Arc;

use super::plane::Observations;
use crate::codec::{Codec, WireFormat};
use crate::control::Event;
use crate::execute::Outcomes;
use crate::publish::{Destination, Publisher, Record};
use crate::telemetry::{CallSpan, Metrics};
use crate::types::{InvocationError, InvocationResult, Position, Status};

/// What goes with a call through the executor.
pub struct Ticket {
    /// Where the call stands on its topic.
    pub position: Position,
    /// The size of its message, for ingest's account.
    pub bytes: usize,
    /// The message's key, which is the result's key too.
    pub key: Option<Vec<u8>>,
    /// The call's span.
    pub span: CallSpan,
}

/// Publishes outcomes.
pub struct OutcomeSink {
    codec: Arc<Codec>,
    format: WireFormat,
    publisher: Arc<Publisher>,
    observations: Observations,
    metrics: Arc<Metrics>,
}

impl OutcomeSink {
    /// Publishes in `format` through `publisher`.
    pub fn new(
        codec: Arc<Codec>,
        format: WireFormat,
        publisher: Arc<Publisher>,
        observations: Observations,
        metrics: Arc<Metrics>,
    ) -> Self {
        Self { codec, format, publisher, observations, metrics }
    }
}

impl Outcomes for OutcomeSink {
    type Ticket = Ticket;

    fn completed(&self, ticket: Ticket, result: InvocationResult) {
        self.metrics.result(result.status, result.start_kind, result.prepare_us, result.execute_us);
        self.observations.see(Event::InvocationEnded {
            function: result.function.clone(),
            status: result.status,
            start_kind: result.start_kind,
            execute: std::time::Duration::from_micros(result.execute_us),
        });
        let Ticket { position, bytes, key, mut span } = ticket;
        let headers = span.result_headers(self.format.content_type());
        let (payload, result) = match self.codec.encode(&result, self.format) {
            Ok(payload) => (payload, result),
            Err(fault) => {
                let result = without_payload(result, &fault.to_string());
                // A result without a payload is a few short texts of bounded length: that it can be encoded is tested.
                (self.codec.encode(&result, self.format).unwrap_or_default(), result)
            }
        };
        span.end(result.status, result.start_kind);
        let record = Record { destination: Destination::Results, key, headers, payload };
        self.publisher.publish(record, Some((position, bytes)));
    }
}

/// The outcome of a call whose answer cannot be published.
pub(super) fn without_payload(result: InvocationResult, why: &str) -> InvocationResult {
    let message = format!("the answer could not be published: {why}");
    InvocationResult {
        status: Status::Limit,
        payload: None,
        error: Some(InvocationError { message, code: Some("result".to_owned()), backtrace: None }),
        ..result
    }
}
