//! The producer, its thread, and what becomes of each delivery report.

use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Condvar, Mutex, MutexGuard, OnceLock, PoisonError};
use std::thread::JoinHandle;
use std::time::{Duration, Instant};

use rdkafka::ClientConfig;
use rdkafka::client::ClientContext;
use rdkafka::config::RDKafkaLogLevel;
use rdkafka::error::{KafkaError, RDKafkaErrorCode as Code};
use rdkafka::message::{BorrowedMessage, Message as _};
use rdkafka::producer::{BaseProducer, BaseRecord, DeliveryResult, Producer as _, ProducerContext};

use super::counters::{Counters, count};
use super::dead_letter;
use super::record::{Deliveries, Destination, Record, Refusal, Refused};
use super::resend::{Backoff, Envelope, Resend};
use crate::kafka::{ClientError, Connection, Health, headers, is_of_one_broker, partition_ids};
use crate::types::Position;

const ROLE: &str = "publish";
/// How long the thread waits for delivery reports before it looks for records to send again.
const POLL: Duration = Duration::from_millis(20);
/// How often brokers that do not answer are asked whether they are back, and how long that question may take.
const PROBE_EVERY: Duration = Duration::from_secs(2);

/// Where records go.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Topics {
    /// The topic of outcomes.
    pub results: String,
    /// The topic of dead letters.
    pub dead_letters: String,
    /// The topic of outcomes of pre-triggers.
    pub pre_trigger_outcomes: String,
    /// The compacted topic of what is known of functions.
    pub forecast_snapshots: String,
    /// The topic of pre-triggers.
    pub pre_triggers: String,
}

impl Topics {
    fn of(&self, destination: Destination) -> &str {
        match destination {
            Destination::Results => &self.results,
            Destination::DeadLetters => &self.dead_letters,
            Destination::PreTriggerOutcomes => &self.pre_trigger_outcomes,
            Destination::ForecastSnapshots => &self.forecast_snapshots,
            Destination::PreTriggers => &self.pre_triggers,
        }
    }
}

/// Why a record was not taken.
#[derive(Debug, thiserror::Error)]
pub enum PublishError {
    /// librdkafka says at once that it is larger than `message.max.bytes`. Publish a smaller one for the position.
    #[error("record of {bytes} bytes for {topic} not sent: it is larger than message.max.bytes")]
    TooLarge {
        /// The topic.
        topic: String,
        /// Bytes of its key and value.
        bytes: usize,
        /// The record.
        record: Box<Record>,
    },
    /// The producer is of no more use; the process should end, and calls without an outcome are read again.
    #[error("record for {topic} not sent: the producer failed for good: {reason}")]
    Failed {
        /// The topic.
        topic: String,
        /// Why.
        reason: String,
    },
}

/// Sends records. Cheap to share behind an `Arc`; usable from any thread.
pub struct Publisher {
    shared: Arc<Shared>,
    producers: Arc<Producers>,
    thread: Option<JoinHandle<()>>,
}

struct Shared {
    topics: Topics,
    deliveries: Arc<dyn Deliveries>,
    counters: Arc<Counters>,
    health: Health,
    resend: Mutex<Resend>,
    flushing: AtomicBool,
    flushed: Condvar,
    flush: Mutex<()>,
    stopping: AtomicBool,
}

struct Producers {
    config: ClientConfig,
    shared: Arc<Shared>,
    batched: BaseProducer<Context>,
    /// Sends each record in a batch of its own; made when it is first needed.
    alone: OnceLock<BaseProducer<Context>>,
}

impl Publisher {
    /// [`start_with`](Self::start_with) the waits of [`Backoff::default`].
    ///
    /// # Errors
    /// As there.
    pub fn start(
        connection: &Connection,
        topics: Topics,
        deliveries: Arc<dyn Deliveries>,
    ) -> Result<Self, ClientError> {
        Self::start_with(connection, topics, Backoff::default(), deliveries)
    }

    /// Makes the producer and starts its thread.
    ///
    /// # Errors
    /// Where the client's settings are refused, or the thread cannot be started.
    pub fn start_with(
        connection: &Connection,
        topics: Topics,
        backoff: Backoff,
        deliveries: Arc<dyn Deliveries>,
    ) -> Result<Self, ClientError> {
        let shared = Arc::new(Shared {
            topics,
            deliveries,
            counters: Arc::default(),
            health: Health::new(ROLE),
            resend: Mutex::new(Resend::new(backoff)),
            flushing: AtomicBool::new(false),
            flushed: Condvar::new(),
            flush: Mutex::default(),
            stopping: AtomicBool::new(false),
        });
        let config = connection.producer();
        let batched = producer(&config, &shared).map_err(|source| ClientError::Create { role: ROLE, source })?;
        let producers = Arc::new(Producers { config, shared: Arc::clone(&shared), batched, alone: OnceLock::new() });
        let thread = std::thread::Builder::new()
            .name(ROLE.to_owned())
            .spawn({
                let producers = Arc::clone(&producers);
                move || producers.run()
            })
            .map_err(|source| ClientError::Thread { name: ROLE.to_owned(), source })?;
        Ok(Self { shared, producers, thread: Some(thread) })
    }

    /// Hands a record over without waiting. `position` is acknowledged through [`Deliveries`] once the record is stored,
    /// with `bytes` as they are given here.
    ///
    /// Failures that may pass (queue full, brokers away, topic not there yet) are not errors: the record is sent again
    /// until it is stored. A dead letter that is too large loses its value, then its sender's headers.
    ///
    /// # Errors
    /// Where the record is too large, or the producer has failed for good.
    pub fn publish(&self, record: Record, position: Option<Position>, bytes: usize) -> Result<(), PublishError> {
        self.shared.begin();
        let envelope = Envelope { position, bytes, attempts: 0, alone: false };
        let refused = match self.producers.send(record, envelope) {
            Ok(()) => return Ok(()),
            Err(refused) => refused,
        };
        self.shared.end();
        let topic = self.shared.topics.of(refused.record.destination).to_owned();
        Err(match self.shared.health.fatal() {
            Some(reason) => PublishError::Failed { topic, reason: reason.to_owned() },
            None => {
                count(&self.shared.counters.refused_too_large);
                let Record { key, payload, .. } = &refused.record;
                let bytes = key.as_ref().map_or(0, Vec::len) + payload.as_ref().map_or(0, Vec::len);
                PublishError::TooLarge { topic, bytes, record: Box::new(refused.record) }
            }
        })
    }

    /// Waits until every record is stored or given back, up to `timeout`. Returns how many are not.
    pub fn flush(&self, timeout: Duration) -> u64 {
        let left = || self.shared.counters.unacknowledged.load(Ordering::Acquire);
        let guard = self.shared.flush.lock().unwrap_or_else(PoisonError::into_inner);
        self.shared.flushing.store(true, Ordering::SeqCst);
        // A flush that ends while another waits is only noticed by that one after its own wait; there is one at shutdown.
        drop(self.shared.flushed.wait_timeout_while(guard, timeout, |()| left() > 0));
        self.shared.flushing.store(false, Ordering::SeqCst);
        left()
    }

    /// What was counted.
    pub fn counters(&self) -> Arc<Counters> {
        Arc::clone(&self.shared.counters)
    }

    /// How the brokers do, as the producer sees it.
    pub fn health(&self) -> &Health {
        &self.shared.health
    }

    /// Records that wait to be sent again.
    pub fn waiting_to_resend(&self) -> usize {
        self.shared.resend().len()
    }
}

impl Drop for Publisher {
    /// Gives up on what is not stored (see [`flush`](Self::flush)) and waits for the thread, up to one probe (2 s).
    fn drop(&mut self) {
        self.shared.stopping.store(true, Ordering::SeqCst);
        if let Some(thread) = self.thread.take()
            && thread.join().is_err()
        {
            tracing::error!("the publisher's thread had panicked");
        }
        let waiting = self.shared.resend().len() as u64;
        self.shared.counters.abandoned.fetch_add(waiting, Ordering::Relaxed);
        let left = self.shared.counters.unacknowledged.load(Ordering::Acquire);
        if left > 0 {
            tracing::warn!(records = left, "closed with records that are not stored; their calls are read again");
        }
    }
}

/// A record that librdkafka will not take.
struct NotTaken {
    record: Record,
}

impl Producers {
    fn run(&self) {
        let mut probe_at = Instant::now() + PROBE_EVERY;
        while !self.shared.stopping.load(Ordering::SeqCst) {
            self.batched.poll(POLL);
            if let Some(alone) = self.alone.get() {
                alone.poll(Duration::ZERO);
            }
            self.resend();
            if self.shared.health.is_down() && Instant::now() >= probe_at {
                self.probe();
                probe_at = Instant::now() + PROBE_EVERY;
            }
        }
    }

    /// Sends a record, or keeps it for later. Err only where sending it later is of no use.
    fn send(&self, mut record: Record, envelope: Envelope) -> Result<(), NotTaken> {
        loop {
            let topic = self.shared.topics.of(record.destination);
            let mut message = BaseRecord::with_opaque_to(topic, Box::new(envelope));
            message.key = record.key.as_deref();
            message.payload = record.payload.as_deref();
            message.headers = headers::write(&record.headers);
            let producer = if envelope.alone { self.alone() } else { &self.batched };
            let Err((error, _)) = producer.send(message) else { return Ok(()) };
            match error.rdkafka_error_code() {
                Some(Code::MessageSizeTooLarge) => match self.shared.smaller(record) {
                    Ok(smaller) => record = smaller,
                    Err(record) => return Err(NotTaken { record }),
                },
                Some(Code::Fatal) => {
                    self.shared.failed_for_good(&error.to_string());
                    return Err(NotTaken { record });
                }
                _ => {
                    self.shared.send_later(record, envelope, &error);
                    return Ok(());
                }
            }
        }
    }

    /// The producer whose batches hold one record; where it cannot be made, the one there is.
    fn alone(&self) -> &BaseProducer<Context> {
        if let Some(alone) = self.alone.get() {
            return alone;
        }
        let mut config = self.config.clone();
        config.set("batch.num.messages", "1");
        match producer(&config, &self.shared) {
            Ok(made) => self.alone.get_or_init(|| made),
            Err(error) => {
                tracing::warn!(%error, "no second producer; records are sent in batches only");
                &self.batched
            }
        }
    }

    fn resend(&self) {
        let due = self.shared.resend().due(Instant::now());
        for (record, envelope) in due {
            count(&self.shared.counters.resent);
            if let Err(NotTaken { record }) = self.send(record, envelope)
                && self.shared.health.fatal().is_none()
            {
                self.shared.refuse(record, envelope, Refusal::TooLarge);
            }
        }
    }

    /// Asks brokers that did not answer whether they do now, so that readiness comes back without traffic.
    fn probe(&self) {
        let topic = &self.shared.topics.results;
        if let Ok(Some(_)) = partition_ids(self.batched.client(), topic, PROBE_EVERY)
            && self.shared.resend().len() == 0
        {
            self.shared.health.works();
        }
    }
}

fn producer(config: &ClientConfig, shared: &Arc<Shared>) -> Result<BaseProducer<Context>, KafkaError> {
    config.create_with_context(Context(Arc::clone(shared)))
}

impl Shared {
    fn resend(&self) -> MutexGuard<'_, Resend> {
        self.resend.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn begin(&self) {
        count(&self.counters.published);
        self.counters.unacknowledged.fetch_add(1, Ordering::AcqRel);
    }

    /// One record has ended, in whatever way.
    fn end(&self) {
        if self.counters.unacknowledged.fetch_sub(1, Ordering::AcqRel) == 1 && self.flushing.load(Ordering::SeqCst) {
            // The lock orders this with a flush that has just looked at the number.
            drop(self.flush.lock().unwrap_or_else(PoisonError::into_inner));
            self.flushed.notify_all();
        }
    }

    fn failed_for_good(&self, reason: &str) {
        if self.health.failed_for_good(reason) {
            self.deliveries.failed_for_good(reason);
        }
    }

    /// A dead letter with less in it; any other record as it is, refused.
    fn smaller(&self, record: Record) -> Result<Record, Record> {
        if record.destination != Destination::DeadLetters {
            return Err(record);
        }
        let whole = record.clone();
        let smaller = dead_letter::smaller(record).ok_or(whole)?;
        count(&self.counters.dead_letters_cut);
        Ok(smaller)
    }

    fn send_later(&self, record: Record, envelope: Envelope, error: &KafkaError) {
        let topic = self.topics.of(record.destination);
        // A queue that is full and a record that is no good say nothing about the brokers.
        if !error.rdkafka_error_code().is_some_and(|code| code == Code::QueueFull || is_of_the_record(code)) {
            self.health.failed(&format_args!("topic {topic}: {error}"));
        }
        if !self.resend().push(Instant::now(), record, envelope) {
            count(&self.counters.dropped);
            self.end();
        }
    }

    fn refuse(&self, record: Record, envelope: Envelope, refusal: Refusal) {
        let Envelope { position, bytes, .. } = envelope;
        count(match refusal {
            Refusal::TooLarge => &self.counters.refused_too_large,
            Refusal::Invalid(_) => &self.counters.refused_invalid,
        });
        tracing::warn!(topic = self.topics.of(record.destination), %refusal, "record refused for good");
        if position.is_none() {
            // Nobody waits for it, and no other record could stand in for it.
            return self.end();
        }
        self.deliveries.refused(Refused { record, position, bytes, refusal });
        self.end();
    }

    fn delivered(&self, envelope: Envelope) {
        self.health.works();
        count(&self.counters.acknowledged);
        if let Some(position) = envelope.position {
            self.deliveries.acknowledged(position, envelope.bytes);
        }
        self.end();
    }

    fn not_delivered(&self, error: &KafkaError, message: &BorrowedMessage<'_>, envelope: Envelope) {
        let code = error.rdkafka_error_code();
        if matches!(code, Some(Code::PurgeQueue | Code::PurgeInflight)) || self.stopping.load(Ordering::SeqCst) {
            count(&self.counters.abandoned);
            return;
        }
        let record = self.record_of(message);
        match code {
            // A batch is refused as a whole, so a good record may share the fate of its neighbours. Alone it shows what it is.
            Some(code) if is_of_the_record(code) && !envelope.alone => {
                self.send_later(record, Envelope { alone: true, ..envelope }, error);
            }
            Some(Code::MessageSizeTooLarge | Code::MessageBatchTooLarge) => match self.smaller(record) {
                Ok(smaller) => self.send_later(smaller, envelope, error),
                Err(record) => self.refuse(record, envelope, Refusal::TooLarge),
            },
            Some(code) if is_of_the_record(code) => {
                self.refuse(record, envelope, Refusal::Invalid(code.to_string()));
            }
            Some(Code::Fatal) => {
                self.failed_for_good(&error.to_string());
                count(&self.counters.abandoned);
            }
            _ => self.send_later(record, envelope, error),
        }
    }

    fn record_of(&self, message: &BorrowedMessage<'_>) -> Record {
        let is_its = |destination: &Destination| self.topics.of(*destination) == message.topic();
        let destination = Destination::ALL.into_iter().find(is_its).unwrap_or(Destination::DeadLetters);
        // Whatever headers there are, this service wrote them: none can be unreadable.
        let (headers, _) = headers::read(message);
        let owned = |bytes: Option<&[u8]>| bytes.map(<[u8]>::to_vec);
        Record { destination, key: owned(message.key()), headers, payload: owned(message.payload()) }
    }
}

/// Whether the brokers' refusal is due to the record, or to another one in its batch, so that a broker that does better does
/// not help.
fn is_of_the_record(code: Code) -> bool {
    matches!(
        code,
        Code::MessageSizeTooLarge
            | Code::MessageBatchTooLarge
            | Code::InvalidMessage
            | Code::InvalidMessageSize
            | Code::InvalidTimestamp
            | Code::InvalidRecord
            | Code::InvalidDifferentRecord
            | Code::UnsupportedForMessageFormat
            | Code::PolicyViolation
    )
}

struct Context(Arc<Shared>);

impl ClientContext for Context {
    fn log(&self, level: RDKafkaLogLevel, facility: &str, message: &str) {
        crate::kafka::log(ROLE, level, facility, message);
    }

    fn error(&self, error: KafkaError, reason: &str) {
        if error.rdkafka_error_code() == Some(Code::Fatal) {
            self.0.failed_for_good(reason);
        } else if !is_of_one_broker(&error) {
            self.0.health.failed(&format_args!("{error}: {reason}"));
        }
    }
}

impl ProducerContext for Context {
    type DeliveryOpaque = Box<Envelope>;

    fn delivery(&self, result: &DeliveryResult<'_>, envelope: Box<Envelope>) {
        match result {
            Ok(_) => self.0.delivered(*envelope),
            Err((error, message)) => self.0.not_delivered(error, message, *envelope),
        }
    }
}
