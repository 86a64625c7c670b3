//! A client of the service, as a user would write one: publishes definitions, pre-triggers and calls, reads results.
//!
//! Used by the commands, the load generator and the demo. Must not: know anything of the service but its topics.

mod dead_letters;
mod events;
mod registered;
mod statuses;
mod tell;
mod topic;

use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, Mutex, PoisonError};
use std::time::{Duration, Instant};

use rdkafka::client::ClientContext;
use rdkafka::config::RDKafkaLogLevel;
use rdkafka::error::{KafkaError, RDKafkaErrorCode};
use rdkafka::message::DeliveryResult;
use rdkafka::producer::{BaseRecord, Producer, ProducerContext, ThreadedProducer};

pub use self::dead_letters::{HEADER_REDRIVEN, Letter, LetterId, Redriven};
use self::events::Reading;
pub use self::events::{Came, Events};
pub use self::registered::Registered;
pub use self::statuses::Statuses;
pub use self::tell::{Tell, Told, Unreadable};
pub use self::topic::Start;
use crate::codec::{
    CONTENT_TYPE_AVRO, CONTENT_TYPE_JSON, Codec, EncodeError, Event, NoSchemaRegistry, WireFormat, WriterSchemas,
};
use crate::config::{Tenants, Topics};
use crate::kafka::{ClientError, Connection, Listener, headers};
use crate::types::{
    FunctionDefinition, FunctionLog, FunctionName, Invocation, InvocationResult, PreTrigger, PreTriggerOutcome,
};

/// The results, as they come.
pub type Results = Events<InvocationResult>;

/// How long nothing is said of brokers that do not answer: with the reason at hand, it is said within 5 s.
const WAITS: Duration = Duration::from_millis(4_500);

/// Why a client's request failed.
#[derive(Debug, thiserror::Error)]
pub enum RequestError {
    /// The client itself could not be made.
    #[error(transparent)]
    Client(#[from] ClientError),
    /// The event has no form on the wire.
    #[error(transparent)]
    Encode(#[from] EncodeError),
    /// The record could not be handed to the producer.
    #[error("record for topic {topic} not sent: {source}")]
    Send {
        /// The topic.
        topic: String,
        /// librdkafka's own words.
        source: KafkaError,
    },
    /// Some records were not acknowledged.
    #[error("{unacknowledged} records were not acknowledged within {waited:?}: {last}")]
    Unacknowledged {
        /// How many.
        unacknowledged: u64,
        /// For how long they were waited for.
        waited: Duration,
        /// What the producer said last.
        last: String,
    },
    /// Reading failed.
    #[error("topic {topic} not read: {source}")]
    Read {
        /// The topic.
        topic: String,
        /// librdkafka's own words.
        source: KafkaError,
    },
    /// A topic's end was not met in time.
    #[error("topic {topic} was not read to its end within {waited:?}")]
    Unread {
        /// The topic.
        topic: String,
        /// For how long it was read.
        waited: Duration,
    },
    /// A topic was not read to its end, as nothing of it came.
    #[error("topic {topic} not read to its end: nothing came for {waited:?}: {reason}")]
    Silent {
        /// The topic.
        topic: String,
        /// For how long.
        waited: Duration,
        /// What was said of the connections.
        reason: String,
    },
    /// A transaction was not committed.
    #[error("the transaction of {id} was not committed: {source}; nothing of it was written, run the command again")]
    Transaction {
        /// The transactional id.
        id: String,
        /// librdkafka's own words.
        source: KafkaError,
    },
}

/// Counts deliveries, and listens to the connections.
struct Deliveries {
    failed: AtomicU64,
    /// Why the last one failed.
    why: Mutex<Option<String>>,
    listener: Listener,
}

impl Deliveries {
    fn new() -> Self {
        Self { failed: AtomicU64::new(0), why: Mutex::default(), listener: Listener::new("client") }
    }
}

impl ClientContext for Deliveries {
    fn log(&self, level: RDKafkaLogLevel, facility: &str, message: &str) {
        self.listener.log(level, facility, message);
    }

    fn error(&self, error: KafkaError, reason: &str) {
        self.listener.error(error, reason);
    }
}

impl ProducerContext for Deliveries {
    type DeliveryOpaque = ();

    fn delivery(&self, result: &DeliveryResult<'_>, (): ()) {
        match result {
            Ok(_) => self.listener.forget(),
            Err((fault, _)) => {
                tracing::debug!(%fault, "record not delivered");
                self.failed.fetch_add(1, Ordering::Relaxed);
                *self.why.lock().unwrap_or_else(PoisonError::into_inner) = Some(fault.to_string());
            }
        }
    }
}

/// See the head of this file.
pub struct Client {
    producer: ThreadedProducer<Deliveries>,
    connection: Connection,
    topics: Topics,
    tenants: Tenants,
    format: WireFormat,
    reading: Reading,
}

impl Client {
    /// A client that writes events in `format`, each to the topic where the nodes take it from.
    ///
    /// # Errors
    /// Where librdkafka refuses the settings.
    pub fn new(
        connection: Connection,
        topics: Topics,
        tenants: Tenants,
        codec: Arc<Codec>,
        format: WireFormat,
    ) -> Result<Self, RequestError> {
        let producer = connection
            .producer()
            .create_with_context(Deliveries::new())
            .map_err(|error| ClientError::create("client", &error))?;
        let reading = Reading::new(codec, Arc::new(NoSchemaRegistry), tell::log());
        Ok(Self { producer, connection, topics, tenants, format, reading })
    }

    /// The same, which also reads what is framed with ids of these schemas, and tells what it has to tell to `tell` in place of the
    /// log.
    #[must_use]
    pub fn reading_with(self, writers: Arc<dyn WriterSchemas>, tell: Tell) -> Self {
        Self { reading: Reading::new(self.reading.codec, writers, tell), ..self }
    }

    /// Publishes a definition.
    ///
    /// # Errors
    /// See [`RequestError`]; acknowledged only after [`flush`](Self::flush).
    pub fn define(&self, definition: &FunctionDefinition) -> Result<(), RequestError> {
        let topic = self.functions_topic(&definition.name);
        self.publish(topic, Some(definition.name.as_str().as_bytes()), definition, &[])
    }

    fn functions_topic(&self, function: &FunctionName) -> &str {
        self.tenants.owner_of(function).map_or(&self.topics.functions, |owner| &owner.functions_topic)
    }

    /// Publishes the tombstone that removes a function.
    ///
    /// # Errors
    /// See [`RequestError`].
    pub fn remove(&self, function: &FunctionName) -> Result<(), RequestError> {
        let topic = self.functions_topic(function);
        self.send(topic, BaseRecord::<[u8], [u8]>::to(topic).key(function.as_str().as_bytes()))
    }

    /// What stands under a function's name now, in the topic where that function is defined.
    ///
    /// # Errors
    /// Where the topic cannot be read, or not to its end within `patience`.
    pub fn registered(&self, function: &FunctionName, patience: Duration) -> Result<Registered, RequestError> {
        registered::read(&self.connection, self.functions_topic(function), function, self.reading.clone(), patience)
    }

    /// Publishes a pre-trigger.
    ///
    /// # Errors
    /// See [`RequestError`].
    pub fn pre_trigger(&self, pre_trigger: &PreTrigger) -> Result<(), RequestError> {
        let key = pre_trigger.function.as_str().as_bytes();
        let owner = self.tenants.owner_of(&pre_trigger.function);
        let topic = owner.map_or(&self.topics.pre_triggers, |owner| &owner.pre_triggers_topic);
        self.publish(topic, Some(key), pre_trigger, &[])
    }

    /// Publishes a call. Without a key, the calls spread over the partitions.
    ///
    /// # Errors
    /// See [`RequestError`].
    pub fn invoke(
        &self,
        invocation: &Invocation,
        key: Option<&[u8]>,
        headers: &[(String, Vec<u8>)],
    ) -> Result<(), RequestError> {
        self.publish(&self.topics.invocations, key, invocation, headers)
    }

    /// Waits until everything that was published is acknowledged.
    ///
    /// # Errors
    /// Where some of it was refused, or not acknowledged within `deadline`.
    pub fn flush(&self, deadline: Duration) -> Result<(), RequestError> {
        let started = Instant::now();
        let Deliveries { failed, why, listener } = &**self.producer.context();
        // A record is refused, or it is on its way: what flushing itself says is that its time is over.
        let mut flushed = self.producer.flush(deadline.min(WAITS)).is_ok();
        if !flushed && deadline > WAITS {
            if let Some(heard) = listener.heard() {
                (self.reading.tell)(&Told::Waits(&format!("nothing is acknowledged yet: {heard}")));
            }
            flushed = self.producer.flush(deadline - WAITS).is_ok();
        }
        let refused = failed.swap(0, Ordering::Relaxed);
        let unacknowledged = refused + u64::try_from(self.producer.in_flight_count()).unwrap_or(0);
        if unacknowledged == 0 && flushed {
            return Ok(());
        }
        let why = why.lock().unwrap_or_else(PoisonError::into_inner).take().filter(|_| refused > 0);
        let last = why.or_else(|| listener.heard()).unwrap_or_else(|| "the brokers give no reason".to_owned());
        let waited = Duration::from_millis(u64::try_from(started.elapsed().as_millis()).unwrap_or(u64::MAX));
        Err(RequestError::Unacknowledged { unacknowledged, waited, last })
    }

    /// Reads results from a place in the topic on. Everything that is published after this returns is seen.
    ///
    /// # Errors
    /// Where the topic cannot be read.
    pub fn results(&self, from: Start) -> Result<Results, RequestError> {
        self.events(&self.topics.results, "results", from)
    }

    /// The same for the outcomes of pre-triggers.
    ///
    /// # Errors
    /// Where the topic cannot be read.
    pub fn outcomes(&self, from: Start) -> Result<Events<PreTriggerOutcome>, RequestError> {
        self.events(&self.topics.pre_trigger_outcomes, "pre-trigger outcomes", from)
    }

    /// The same for pre-triggers, topic by topic: those that all share, guests' notices, and those of tenants with their own.
    ///
    /// # Errors
    /// Where a topic cannot be read.
    pub fn pre_triggers(&self, from: Start) -> impl Iterator<Item = Result<Events<PreTrigger>, RequestError>> {
        let own = self.tenants.with_topics().map(|tenant| &tenant.pre_triggers_topic);
        let topics = [&self.topics.pre_triggers, &self.topics.guest_notices].into_iter().chain(own);
        topics.map(move |topic| self.events(topic, "pre-triggers", from))
    }

    fn events<E: Event>(&self, topic: &str, role: &'static str, from: Start) -> Result<Events<E>, RequestError> {
        Events::open(&self.connection, topic, role, from, self.reading.clone())
    }

    /// Lines that functions wrote, from a place in the topic on.
    ///
    /// # Errors
    /// Where the topic is not there or cannot be read.
    pub fn function_logs(&self, from: Start) -> Result<Events<FunctionLog>, RequestError> {
        self.events(self.topics.function_logs_or_usual(), "function logs", from)
    }

    /// What the nodes of the group say of their functions; to be read to its end first.
    ///
    /// # Errors
    /// Where the topic is not there or cannot be read.
    pub fn statuses(&self) -> Result<Statuses, RequestError> {
        Statuses::open_with(&self.connection, &self.topics.function_status, self.reading.clone())
    }

    fn publish<E: Event>(
        &self,
        topic: &str,
        key: Option<&[u8]>,
        event: &E,
        extra: &[(String, Vec<u8>)],
    ) -> Result<(), RequestError> {
        let payload = self.reading.codec.encode(event, self.format)?;
        let content_type = if self.format == WireFormat::Json { CONTENT_TYPE_JSON } else { CONTENT_TYPE_AVRO };
        let mut all = vec![("content-type".to_owned(), Some(content_type.as_bytes().to_vec()))];
        all.extend(extra.iter().map(|(name, value)| (name.clone(), Some(value.clone()))));
        let mut record = BaseRecord::<[u8], [u8]>::to(topic).payload(&payload);
        if let Some(key) = key {
            record = record.key(key);
        }
        if let Some(headers) = headers::write(&all) {
            record = record.headers(headers);
        }
        self.send(topic, record)
    }

    /// Hands a record to the producer; where its queue is full, waits for room.
    fn send(&self, topic: &str, mut record: BaseRecord<'_, [u8], [u8]>) -> Result<(), RequestError> {
        let deadline = Instant::now() + Duration::from_secs(60);
        loop {
            match self.producer.send(record) {
                Ok(()) => return Ok(()),
                Err((KafkaError::MessageProduction(RDKafkaErrorCode::QueueFull), returned))
                    if Instant::now() < deadline =>
                {
                    record = returned;
                    // Gives deliveries time to make room; the error of this is the next round's.
                    let _ = self.producer.flush(Duration::from_millis(10));
                }
                Err((source, _)) => return Err(RequestError::Send { topic: topic.to_owned(), source }),
            }
        }
    }
}
