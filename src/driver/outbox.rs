//! From an outcome to a stored record: the end of a call's way through this process.
//!
//! Must not: block, or let an offset move before the brokers have stored what the call came to.

use std::sync::{Arc, OnceLock, Weak};
use std::time::Duration;

use super::delivery::{Delivery, LineKey};
use super::plane::Observations;
use crate::codec::{self, CONTENT_TYPE_AVRO, CONTENT_TYPE_JSON, Codec, NoSchemaRegistry, WireFormat};
use crate::control::Event;
use crate::execute::{Call, Outcomes, wall_clock};
use crate::ingest::{Acknowledger, Poison, snapshots};
use crate::kafka::{ClientError, Connection, headers};
use crate::publish::{Backoff, DeadLetter, Deliveries, Destination, PublishError, Publisher, Record, Refused, Topics};
use crate::telemetry::{CallSpan, Metrics};
use crate::types::{
    ForecastSnapshot, FunctionName, InvocationError, InvocationResult, Position, PreTrigger, PreTriggerOutcome, Retry,
    Status,
};

/// Why the process must end, once it must. Cheap to clone.
#[derive(Clone, Debug, Default)]
pub struct Failure(Arc<OnceLock<String>>);

impl Failure {
    /// The process must end; the first reason stays.
    pub fn set(&self, reason: &str) {
        // Only the first reason counts: the others follow from it.
        let _ = self.0.set(reason.to_owned());
    }

    /// Why, where it must.
    pub fn reason(&self) -> Option<&str> {
        self.0.get().map(String::as_str)
    }
}

/// What goes with a call through the executor.
#[derive(Default)]
pub struct Ticket {
    /// Where the call stands on its topic; None for a call that did not come from there.
    pub position: Option<Position>,
    /// The size of its message, for ingest's account.
    pub bytes: usize,
    /// The message's key, which is the result's key too.
    pub key: Option<Vec<u8>>,
    /// The call's span.
    pub span: CallSpan,
    /// The line in which it goes, where its function's calls have an order.
    pub line: Option<LineKey>,
    /// How it is tried again, where it is.
    pub retry: Option<Arc<Retry>>,
    /// Whether it has waited for its function's definition already.
    pub was_held: bool,
}

/// What an outbox is made of.
pub struct OutboxSettings {
    /// The node's name.
    pub node: String,
    /// The form of results.
    pub format: WireFormat,
    /// The form of outcomes of pre-triggers.
    pub outcome_format: WireFormat,
    /// Where records go.
    pub topics: Topics,
    /// How long a record that was not stored waits before it is sent again.
    pub backoff: Backoff,
    /// Encodes results.
    pub codec: Arc<Codec>,
    /// Keeps calls in order and tries failed ones again. Weak, as it holds the executor, which holds this.
    pub delivery: Weak<Delivery>,
    /// Is told what ended.
    pub observations: Observations,
    /// The counters.
    pub metrics: Arc<Metrics>,
    /// Is set when the producer is of no more use.
    pub failure: Failure,
}

/// Publishes outcomes and dead letters.
pub struct Outbox {
    settings: OutboxSettings,
    publisher: Publisher,
    replies: Arc<Replies>,
}

/// Takes the brokers' word back. Apart from [`Outbox`], so that the publisher can hold it.
struct Replies {
    acknowledger: OnceLock<Acknowledger>,
    outbox: OnceLock<Weak<Outbox>>,
    failure: Failure,
}

impl Outbox {
    /// Starts the publisher. [`listen`](Self::listen) has to follow before the first outcome can be acknowledged.
    ///
    /// # Errors
    /// Where the producer cannot be made.
    pub fn start(connection: &Connection, settings: OutboxSettings) -> Result<Arc<Self>, ClientError> {
        let failure = settings.failure.clone();
        let replies = Arc::new(Replies { acknowledger: OnceLock::new(), outbox: OnceLock::new(), failure });
        let deliveries = Arc::clone(&replies) as Arc<dyn Deliveries>;
        let publisher = Publisher::start_with(connection, settings.topics.clone(), settings.backoff, deliveries)?;
        let outbox = Arc::new(Self { settings, publisher, replies });
        // Set once, here; only `start` makes an outbox.
        let _ = outbox.replies.outbox.set(Arc::downgrade(&outbox));
        Ok(outbox)
    }

    /// Who is told that a call's outcome is stored.
    pub fn listen(&self, acknowledger: Acknowledger) {
        // A second listener would be a second consumer in one service; there is none.
        let _ = self.replies.acknowledger.set(acknowledger);
    }

    /// The publisher, for its counters and health.
    pub fn publisher(&self) -> &Publisher {
        &self.publisher
    }

    /// Waits until everything is stored, up to `timeout`; answers how many records are not.
    pub fn flush(&self, timeout: Duration) -> u64 {
        self.publisher.flush(timeout)
    }

    /// Publishes a message that is no event to the dead letters.
    pub fn dead_letter(
        &self,
        poison: Poison,
        (partition, offset): (i32, crate::types::Offset),
        key: Option<Vec<u8>>,
        headers: headers::Headers,
        waits: Option<(Position, usize)>,
    ) {
        let (reason, detail) = (poison.error.reason(), poison.error.to_string());
        tracing::warn!(topic = %poison.topic, partition, offset = offset.0, reason, detail, "dead letter");
        self.settings.metrics.dead_letter(reason);
        let letter = DeadLetter {
            topic: &poison.topic,
            partition,
            offset,
            timestamp: poison.timestamp,
            key,
            headers,
            payload: poison.payload,
            reason,
            detail: &detail,
            node: &self.settings.node,
            at: wall_clock(),
        };
        let (position, bytes) = waits.unzip();
        self.send(letter.into_record(), position, bytes.unwrap_or(0), None);
    }

    /// Publishes how a pre-trigger ended, under the function's name. No position waits for it: after a crash its
    /// pre-trigger is read again, and ends again.
    pub fn pre_trigger_ended(&self, outcome: PreTriggerOutcome) {
        let outcome = PreTriggerOutcome { node: self.settings.node.clone(), ..outcome };
        let key = outcome.function.as_str().into();
        self.send_loose(Destination::PreTriggerOutcomes, key, &outcome, self.settings.outcome_format);
    }

    /// Publishes what this node has learned of a function.
    pub fn keep_snapshot(&self, snapshot: ForecastSnapshot) {
        let snapshot = ForecastSnapshot { node: self.settings.node.clone(), ..snapshot };
        let key = snapshots::key(&snapshot.node, &snapshot.function);
        self.send_loose(Destination::ForecastSnapshots, key, &snapshot, WireFormat::SingleObject);
    }

    /// Publishes that a function is no more.
    pub fn forget_snapshot(&self, function: &FunctionName) {
        let key = Some(snapshots::key(&self.settings.node, function));
        let record = Record { destination: Destination::ForecastSnapshots, key, headers: Vec::new(), payload: None };
        self.send(record, None, 0, None);
    }

    /// Publishes a pre-trigger of this service's own, under the function's name.
    pub fn announce(&self, pre_trigger: &PreTrigger) {
        let key = pre_trigger.function.as_str().into();
        self.send_loose(Destination::PreTriggers, key, pre_trigger, WireFormat::SingleObject);
    }

    /// Sends an event that no call waits for.
    fn send_loose<E: codec::Event>(&self, destination: Destination, key: Vec<u8>, event: &E, format: WireFormat) {
        let headers = vec![("content-type".to_owned(), content_type_of(format).as_bytes().to_vec())];
        match self.settings.codec.encode(event, format) {
            Ok(payload) => {
                let record = Record { destination, key: Some(key), headers, payload: Some(payload) };
                self.send(record, None, 0, None);
            }
            Err(fault) => tracing::error!(kind = %E::KIND, %fault, "an event has no form on the wire"),
        }
    }

    fn result_record(
        &self,
        result: &InvocationResult,
        key: Option<Vec<u8>>,
        headers: headers::Headers,
    ) -> Option<Record> {
        match self.settings.codec.encode(result, self.settings.format) {
            Ok(payload) => Some(Record { destination: Destination::Results, key, headers, payload: Some(payload) }),
            Err(fault) => {
                tracing::error!(invocation = result.invocation_id, %fault, "a result has no form on the wire");
                None
            }
        }
    }

    /// Sends a record. `result` is what to answer with less where librdkafka finds it too large at once.
    fn send(&self, record: Record, position: Option<Position>, bytes: usize, result: Option<InvocationResult>) {
        let (key, headers) = (record.key.clone(), record.headers.clone());
        match self.publisher.publish(record, position, bytes) {
            Ok(()) => {}
            Err(fault @ PublishError::TooLarge { .. }) if position.is_none() => {
                tracing::warn!(%fault, "a record that no call waits for is left out");
            }
            Err(fault @ PublishError::TooLarge { .. }) => {
                if let Some(result) = result.map(|result| without_payload(result, &fault.to_string()))
                    && let Some(record) = self.result_record(&result, key, headers)
                    && let Err(fault) = self.publisher.publish(record, position, bytes)
                {
                    self.settings.failure.set(&fault.to_string());
                }
            }
            Err(fault) => self.settings.failure.set(&fault.to_string()),
        }
    }
}

impl Outcomes for Arc<Outbox> {
    type Ticket = Ticket;

    fn completed(&self, mut call: Call<Ticket>, result: InvocationResult) {
        let OutboxSettings { metrics, observations, format, .. } = &self.settings;
        observations.see(Event::InvocationEnded {
            function: result.function.clone(),
            status: result.status,
            start_kind: result.start_kind,
            execute: Duration::from_micros(result.execute_us),
        });
        let is_bound = call.ticket.retry.is_some() || call.ticket.line.is_some();
        let delivery = if is_bound { self.settings.delivery.upgrade() } else { None };
        if let Some(delivery) = &delivery {
            call.invocation.id.clone_from(&result.invocation_id);
            let Some(over) = delivery.ended(call, result.status) else { return };
            call = over;
        }
        metrics.result(result.status, result.start_kind, result.prepare_us, result.execute_us);
        let Ticket { position, bytes, key, span, line, .. } = call.ticket;
        let headers = span.result_headers(content_type_of(*format));
        span.end(result.status, result.start_kind);
        if let Some(record) = self.result_record(&result, key, headers) {
            self.send(record, position, bytes, Some(result));
        }
        if let (Some(delivery), Some(line)) = (delivery, line) {
            delivery.leave(&line);
        }
    }
}

impl Deliveries for Replies {
    fn acknowledged(&self, position: Position, bytes: usize) {
        // Waits only in the moment in which ingest is started: its first calls may be quicker than its handle.
        self.acknowledger.wait().acknowledge(position, bytes);
    }

    fn refused(&self, refused: Refused) {
        let Refused { record, position, bytes, refusal } = refused;
        let Some(outbox) = self.outbox.get().and_then(Weak::upgrade) else { return };
        let smaller = (record.destination == Destination::Results)
            .then(|| {
                outbox.settings.codec.decode(record.payload.as_deref()?, content_type(&record), &NoSchemaRegistry).ok()
            })
            .flatten()
            .filter(|result: &InvocationResult| result.payload.is_some())
            .map(|result| without_payload(result, &refusal.to_string()))
            .and_then(|result| outbox.result_record(&result, record.key.clone(), record.headers.clone()));
        match smaller {
            Some(smaller) => outbox.send(smaller, position, bytes, None),
            // Going on would leave the call without an answer, and its partition stuck behind it: say it and stop.
            None => self.failure.set(&format!("a record for {:?} was refused: {refusal}", record.destination)),
        }
    }

    fn failed_for_good(&self, reason: &str) {
        self.failure.set(reason);
    }
}

fn content_type_of(format: WireFormat) -> &'static str {
    if format == WireFormat::Json { CONTENT_TYPE_JSON } else { CONTENT_TYPE_AVRO }
}

fn content_type(record: &Record) -> Option<&str> {
    headers::text(&record.headers, "content-type")
}

/// The outcome of a call whose answer cannot be published.
fn without_payload(result: InvocationResult, why: &str) -> InvocationResult {
    let message = format!("the answer could not be published: {why}");
    InvocationResult {
        status: Status::Limit,
        payload: None,
        error: Some(InvocationError { message, code: Some("result".to_owned()), backtrace: None }),
        ..result
    }
}
