//! From an outcome to a stored record: the end of a call's way through this process.
//!
//! Must not: block, or let an offset move before the brokers have stored what the call came to.

use std::sync::{Arc, OnceLock, Weak};
use std::time::Duration;

use super::delivery::Delivery;
use super::plane::Observations;

use crate::backlog::{Attempted, Ended, Terms};
use crate::codec::{
    self, CONTENT_TYPE_AVRO, CONTENT_TYPE_JSON, Codec, EventKind, SchemaKey, SchemaLookup, WireFormat, WriterSchema,
    WriterSchemas,
};
use crate::control::Event;
use crate::execute::{Call, Outcomes, UNAVAILABLE, wall_clock};
use crate::ingest::{Acknowledger, Original, Poison, snapshots};
use crate::kafka::{ClientError, Connection, headers};
use crate::publish::{
    Backoff, DeadLetter, Deliveries, Destination, FailedCall, Outcome, Publisher, Record, Refusal, Topics,
    TransactionSettings,
};
use crate::telemetry::{CallSpan, Metrics};
use crate::types::headers::{HEADER_LEFT_OUT, HEADER_OF_THE_KEY, add_passed_on, remove_passed_on};
use crate::types::{
    ForecastSnapshot, FunctionName, FunctionStatus, InvocationError, InvocationResult, Position, PreTrigger,
    PreTriggerOutcome, Status,
};

/// The label of dead letters of calls that failed as often as their function allows.
const REASON_ATTEMPTS: &str = "attempts_used_up";
/// The label of dead letters of calls for which their function's share of the node had no room.
const REASON_OVERFLOW: &str = "overflow";

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
    /// What its function's definition asks for beyond the ordinary.
    pub terms: Terms,
    /// The message as it came, where the call may end as a dead letter.
    pub original: Option<Box<Original>>,
    /// Whether it has waited for its function's definition already.
    pub was_held: bool,
    /// Whether there was no room for it.
    pub overflowed: bool,
    /// How many headers of its message had no room to go along with it.
    pub headers_left_out: usize,
}

/// What an outbox is made of.
pub struct OutboxSettings {
    /// The node's name.
    pub node: String,
    /// The form of results.
    pub format: WireFormat,
    /// The form of outcomes of pre-triggers.
    pub outcome_format: WireFormat,
    /// The topic of the calls, which dead letters name.
    pub invocations_topic: String,
    /// Where records go.
    pub topics: Topics,
    /// How long a record that was not stored waits before it is sent again.
    pub backoff: Backoff,
    /// How outcomes and offsets are stored together, where they are.
    pub transactions: Option<TransactionSettings>,
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
        let (topics, transactions) = (settings.topics.clone(), settings.transactions.clone());
        let publisher = Publisher::start_with(connection, topics, settings.backoff, transactions, deliveries)?;
        let outbox = Arc::new(Self { settings, publisher, replies });
        // Set once, here; only `start` makes an outbox.
        let _ = outbox.replies.outbox.set(Arc::downgrade(&outbox));
        Ok(outbox)
    }

    /// Who is told that a call's outcome is stored, and keeps the offsets that are stored along with outcomes.
    ///
    /// # Errors
    /// Where the system gives no thread.
    pub fn listen(&self, acknowledger: Acknowledger) -> Result<(), ClientError> {
        self.publisher.commit_along_with(Arc::new(acknowledger.clone()))?;
        // A second listener would be a second consumer in one service; there is none.
        let _ = self.replies.acknowledger.set(acknowledger);
        Ok(())
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
            omitted: poison.omitted,
            reason,
            detail: &detail,
            call: None,
            node: &self.settings.node,
            at: wall_clock(),
        };
        let record = letter.into_record();
        match waits {
            Some((position, bytes)) => self.send(Outcome { position, bytes, record, dead_letter: None }),
            None => self.send_loose(record),
        }
    }

    /// The dead letter of a call whose attempts are used up, or that overflowed.
    fn letter(
        &self,
        reason: &'static str,
        original: Original,
        position: Position,
        key: Option<Vec<u8>>,
        result: &InvocationResult,
    ) -> Record {
        let Original { payload, headers, timestamp } = original;
        let error = result.error.as_ref();
        let (function, id) = (&result.function, &result.invocation_id);
        if reason == REASON_ATTEMPTS {
            tracing::warn!(%function, invocation = id, %position, attempts = result.attempt, "attempts used up: dead letter");
        }
        self.settings.metrics.dead_letter(reason);
        let letter = DeadLetter {
            topic: &self.settings.invocations_topic,
            partition: position.partition,
            offset: position.offset,
            timestamp,
            key,
            headers,
            payload,
            omitted: None,
            reason,
            detail: error.map_or("", |error| error.message.as_str()),
            call: Some(FailedCall {
                function: function.as_str(),
                invocation_id: id,
                status: result.status.as_str(),
                attempts: result.attempt,
                backtrace: error.and_then(|error| error.backtrace.as_deref()),
            }),
            node: &self.settings.node,
            at: wall_clock(),
        };
        letter.into_record()
    }

    /// Publishes how a pre-trigger ended, under the function's name. No position waits for it: after a crash its
    /// pre-trigger is read again, and ends again.
    pub fn pre_trigger_ended(&self, outcome: PreTriggerOutcome) {
        let outcome = PreTriggerOutcome { node: self.settings.node.clone(), ..outcome };
        let key = outcome.function.as_str().into();
        self.announce_event(Destination::PreTriggerOutcomes, key, &outcome, self.settings.outcome_format);
    }

    /// Publishes what this node has learned of a function.
    pub fn keep_snapshot(&self, snapshot: ForecastSnapshot) {
        let snapshot = ForecastSnapshot { node: self.settings.node.clone(), ..snapshot };
        let key = snapshots::key(&snapshot.node, &snapshot.function);
        self.announce_event(Destination::ForecastSnapshots, key, &snapshot, WireFormat::SingleObject);
    }

    /// Publishes that a function is no more.
    pub fn forget_snapshot(&self, function: &FunctionName) {
        self.remove_snapshot(snapshots::key(&self.settings.node, function));
    }

    /// Publishes that snapshots of nodes and functions that are gone are no more, and says so. Where several nodes say it of
    /// one snapshot, once would have been enough.
    pub fn forget_stale_snapshots(&self, stale: Vec<Vec<u8>>, more: bool) {
        let snapshots = stale.len() as u64;
        if snapshots == 0 {
            return;
        }
        for key in stale {
            self.remove_snapshot(key);
        }
        self.settings.metrics.snapshots_removed.add(snapshots);
        let topic = &self.settings.topics.forecast_snapshots;
        tracing::info!(topic, snapshots, more, "forecast snapshots of nodes and functions that are gone are removed");
    }

    fn remove_snapshot(&self, key: Vec<u8>) {
        let destination = Destination::ForecastSnapshots;
        self.send_loose(Record { destination, key: Some(key), headers: Vec::new(), payload: None });
    }

    /// Publishes what a function on this node, or the node itself, is doing.
    pub fn tell_status(&self, status: FunctionStatus) {
        let status = FunctionStatus { node: self.settings.node.clone(), ..status };
        self.announce_event(Destination::FunctionStatus, status.key(), &status, WireFormat::SingleObject);
    }

    /// Publishes that a function is not on this node any more.
    pub fn forget_status(&self, function: &FunctionName) {
        self.remove_status(FunctionStatus::key_of(&self.settings.node, Some(function)));
    }

    /// Publishes that statuses of nodes and functions that are gone are no more. Where several nodes say it of one status,
    /// once would have been enough.
    pub fn forget_stale_statuses(&self, stale: Vec<Vec<u8>>) {
        if stale.is_empty() {
            return;
        }
        let (topic, statuses) = (&self.settings.topics.function_status, stale.len());
        stale.into_iter().for_each(|key| self.remove_status(key));
        tracing::info!(topic, statuses, "statuses of nodes and functions that are gone are removed");
    }

    fn remove_status(&self, key: Vec<u8>) {
        let destination = Destination::FunctionStatus;
        self.send_loose(Record { destination, key: Some(key), headers: Vec::new(), payload: None });
    }

    /// Publishes a pre-trigger of this service's own, under the function's name.
    pub fn announce(&self, pre_trigger: &PreTrigger) {
        let key = pre_trigger.function.as_str().into();
        self.announce_event(Destination::GuestNotices, key, pre_trigger, WireFormat::SingleObject);
    }

    /// Sends an event that no call waits for.
    fn announce_event<E: codec::Event>(&self, destination: Destination, key: Vec<u8>, event: &E, format: WireFormat) {
        let headers = vec![("content-type".to_owned(), Some(content_type_of(format).as_bytes().to_vec()))];
        match self.settings.codec.encode(event, format) {
            Ok(payload) => {
                let record = Record { destination, key: Some(key), headers, payload: Some(payload) };
                self.send_loose(record);
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

    fn send(&self, outcome: Outcome) {
        if let Err(fault) = self.publisher.publish(outcome) {
            self.settings.failure.set(&fault.to_string());
        }
    }

    fn send_loose(&self, record: Record) {
        if let Err(fault) = self.publisher.publish_loose(record) {
            self.settings.failure.set(&fault.to_string());
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
        let delivery = if call.ticket.terms.are_ordinary() { None } else { self.settings.delivery.upgrade() };
        call.ticket.span.failed(&result);
        if call.cancelled.is_set() {
            // It ran to its end, or was ended; its partition is another node's, or was taken up anew: whoever reads the call there publishes its outcome.
            metrics.outcomes_dropped.add(1);
            if let Some(delivery) = delivery {
                delivery.withdraw(&call);
            }
            return;
        }
        let (mut used_up, mut out) = (false, Vec::new());
        if let Some(delivery) = &delivery {
            call.invocation.id.clone_from(&result.invocation_id);
            match delivery.ended(call, attempted(&result), &mut out) {
                Ended::Again => return delivery.let_go(out),
                Ended::Over { call: over, used_up: is_used_up } => (call, used_up) = (over, is_used_up),
            }
        }
        metrics.result(result.status, result.start_kind, result.prepare_us, result.execute_us);
        let Ticket { position, bytes, key, span, terms, original, overflowed, headers_left_out, .. } = call.ticket;
        let mut headers = span.result_headers(content_type_of(*format));
        add_passed_on(&mut headers, call.headers, headers_left_out);
        span.end(result.status, result.start_kind);
        if let Some(position) = position {
            let original = original.filter(|_| used_up || overflowed);
            let reason = if overflowed { REASON_OVERFLOW } else { REASON_ATTEMPTS };
            let dead_letter = original.map(|original| self.letter(reason, *original, position, key.clone(), &result));
            if let Some(record) = self.result_record(&result, key, headers) {
                self.send(Outcome { position, bytes, record, dead_letter });
            }
        }
        if let Some(delivery) = delivery {
            if let Some(line) = terms.line {
                delivery.leave(&line, &mut out);
            }
            delivery.let_go(out);
        }
    }

    fn given_back(&self, call: Call<Ticket>) {
        let OutboxSettings { observations, delivery, .. } = &self.settings;
        observations.see(Event::InvocationEnded {
            function: call.invocation.function.clone(),
            status: Status::Rejected,
            start_kind: None,
            execute: Duration::ZERO,
        });
        if let Some(delivery) = delivery.upgrade().filter(|_| !call.ticket.terms.are_ordinary()) {
            delivery.withdraw(&call);
        }
        if let Some(position) = call.ticket.position {
            self.replies.acknowledger.wait().give_back(position);
        }
    }
}

impl Deliveries for Replies {
    fn acknowledged(&self, position: Position, bytes: usize) {
        // Waits only in the moment in which ingest is started: its first calls may be quicker than its handle.
        self.acknowledger.wait().acknowledge(position, bytes);
    }

    fn instead_of(&self, record: &Record, refusal: &Refusal) -> Option<Record> {
        if record.destination != Destination::Results {
            return None;
        }
        let outbox = self.outbox.get().and_then(Weak::upgrade)?;
        let codec = &outbox.settings.codec;
        let result: InvocationResult =
            codec.decode(record.payload.as_deref()?, content_type(record), &OurSchemas(codec)).ok()?;
        let Record { key, mut headers, .. } = record.clone();
        let answer_bytes = result.payload.as_ref().map_or(0, |payload| payload.0.len());
        match (refusal, key) {
            // A compacted topic takes no record without a key.
            (Refusal::Invalid(_), None) => {
                headers.retain(|(name, _)| name != HEADER_OF_THE_KEY);
                outbox.result_record(&result, Some(result.invocation_id.clone().into_bytes()), headers)
            }
            // Of the answer and the call's headers, what is larger goes first.
            (Refusal::TooLarge, key) if answer_bytes < headers::bytes(&headers) && remove_passed_on(&mut headers) => {
                outbox.result_record(&result, key, headers)
            }
            (_, key) if result.payload.is_some() => {
                outbox.result_record(&without_payload(result, &refusal.to_string()), key, headers)
            }
            // Now it is the key, which the caller chose, that is too much.
            (Refusal::TooLarge, Some(key)) => {
                headers.retain(|(name, _)| name == "content-type" || name == HEADER_LEFT_OUT);
                outbox.result_record(&without_key(result, key.len()), None, headers)
            }
            // Without all that it is as small as it can be said.
            _ => None,
        }
    }

    fn failed_for_good(&self, reason: &str) {
        self.failure.set(reason);
    }
}

fn attempted(result: &InvocationResult) -> Attempted {
    let code = result.error.as_ref().and_then(|error| error.code.as_deref());
    let is_unavailable = result.status == Status::Rejected && code == Some(UNAVAILABLE);
    Attempted { status: result.status, is_unavailable }
}

fn content_type_of(format: WireFormat) -> &'static str {
    if format == WireFormat::Json { CONTENT_TYPE_JSON } else { CONTENT_TYPE_AVRO }
}

fn content_type(record: &Record) -> Option<&str> {
    headers::text(&record.headers, "content-type")
}

/// Reads what this service wrote: whatever id the registry gave the schema, it is this one.
struct OurSchemas<'a>(&'a Codec);

impl WriterSchemas for OurSchemas<'_> {
    fn find(&self, _: SchemaKey) -> Result<WriterSchema, SchemaLookup> {
        Ok(WriterSchema::Avro(Arc::new(self.0.schema(EventKind::InvocationResult).clone())))
    }
}

/// The outcome of a call whose key is larger than the topic of results takes.
fn without_key(result: InvocationResult, bytes: usize) -> InvocationResult {
    let said = result.error.as_ref().map_or("", |error| error.message.as_str());
    let message =
        format!("{said}; the call's key of {bytes} bytes is left out, as the topic of results does not take it");
    let error = result.error.unwrap_or(InvocationError { message: String::new(), code: None, backtrace: None });
    InvocationResult { error: Some(InvocationError { message, ..error }), ..result }
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
