//! The producer, its thread, and what becomes of each delivery report.

use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::sync::{Arc, Condvar, Mutex, MutexGuard, OnceLock, PoisonError};
use std::thread::JoinHandle;
use std::time::{Duration, Instant};

use rdkafka::ClientConfig;
use rdkafka::error::{KafkaError, RDKafkaErrorCode as Code};
use rdkafka::message::{BorrowedMessage, Message as _};
use rdkafka::producer::{BaseProducer, BaseRecord, Producer as _};

use super::counters::{Counters, count};
use super::dead_letter;
use super::record::{Deliveries, Destination, Outcome, Record, Refusal, Topics};
use super::reports::{Context, is_of_the_record};
use super::resend::{Backoff, Envelope, Resend, Waits};
use super::transactions::{TransactionSettings, Transactions};
use crate::kafka::{ClientError, Connection, Consumed, Health, PanicGuard, headers, partition_ids};

pub(super) const ROLE: &str = "publish";
/// How long the thread waits for delivery reports before it looks for records to send again.
const POLL: Duration = Duration::from_millis(20);
/// How often brokers that do not answer are asked whether they are back, and how long that question may take.
const PROBE_EVERY: Duration = Duration::from_secs(2);
/// With records that wait and none stored for this long, brokers are taken not to store.
const STALLED: Duration = Duration::from_secs(1);

/// The producer is of no more use; the process should end, and calls without an outcome are read again.
#[derive(Debug, thiserror::Error)]
#[error("nothing is sent any more: the producer failed for good: {reason}")]
pub struct PublishError {
    /// Why.
    pub reason: String,
}

/// Sends records. Cheap to share behind an `Arc`; usable from any thread.
pub struct Publisher {
    shared: Arc<Shared>,
    producers: Arc<Producers>,
    thread: Option<JoinHandle<()>>,
    transactions: Option<Transactions>,
}

pub(super) struct Shared {
    pub(super) topics: Topics,
    pub(super) deliveries: Arc<dyn Deliveries>,
    pub(super) counters: Arc<Counters>,
    /// Of what calls wait for.
    pub(super) health: Health,
    /// Of everything else: it says what is wrong, and keeps no call from being taken.
    health_loose: Health,
    resend: Mutex<Resend>,
    /// Records that calls wait for, and that are not stored yet.
    waited_for: AtomicU64,
    /// Those of them that were not taken at least once.
    failing: AtomicU64,
    started: Instant,
    /// When one of them was last stored, or first handed in after all were: milliseconds since `started`.
    moved_at_ms: AtomicU64,
    flushing: AtomicBool,
    flushed: Condvar,
    flush: Mutex<()>,
    pub(super) stopping: AtomicBool,
}

struct Producers {
    config: ClientConfig,
    shared: Arc<Shared>,
    batched: BaseProducer<Context>,
    /// Sends each record in a batch of its own; made when it is first needed.
    alone: OnceLock<BaseProducer<Context>>,
}

impl Publisher {
    /// [`start_with`](Self::start_with) the waits of [`Backoff::default`], without transactions.
    ///
    /// # Errors
    /// As there.
    pub fn start(
        connection: &Connection,
        topics: Topics,
        deliveries: Arc<dyn Deliveries>,
    ) -> Result<Self, ClientError> {
        Self::start_with(connection, topics, Backoff::default(), None, deliveries)
    }

    /// Makes the producer and starts its thread. With `transactions`, outcomes wait for
    /// [`commit_along_with`](Self::commit_along_with), and what else is published does not take part.
    ///
    /// # Errors
    /// Where the client's settings are refused, the thread cannot be started, or the brokers do not let this node make
    /// transactions.
    pub fn start_with(
        connection: &Connection,
        topics: Topics,
        backoff: Backoff,
        transactions: Option<TransactionSettings>,
        deliveries: Arc<dyn Deliveries>,
    ) -> Result<Self, ClientError> {
        let shared = Arc::new(Shared {
            topics,
            deliveries,
            counters: Arc::default(),
            health: Health::new(ROLE),
            health_loose: Health::new("publish, what no call waits for"),
            waited_for: AtomicU64::new(0),
            resend: Mutex::new(Resend::new(backoff)),
            failing: AtomicU64::new(0),
            started: Instant::now(),
            moved_at_ms: AtomicU64::new(0),
            flushing: AtomicBool::new(false),
            flushed: Condvar::new(),
            flush: Mutex::default(),
            stopping: AtomicBool::new(false),
        });
        let transactions = match transactions {
            None => None,
            Some(settings) => Some(Transactions::new(connection, settings, backoff, Arc::clone(&shared))?),
        };
        let config = connection.producer();
        let batched = producer(&config, &shared).map_err(|error| ClientError::create(ROLE, &error))?;
        let producers = Arc::new(Producers { config, shared: Arc::clone(&shared), batched, alone: OnceLock::new() });
        let thread = std::thread::Builder::new()
            .name(ROLE.to_owned())
            .spawn({
                let producers = Arc::clone(&producers);
                move || {
                    let _guard = PanicGuard(|| producers.shared.failed_for_good("the thread that publishes panicked"));
                    producers.run();
                }
            })
            .map_err(|source| ClientError::Thread { name: ROLE.to_owned(), source })?;
        Ok(Self { shared, producers, thread: Some(thread), transactions })
    }

    /// Begins to make transactions of outcomes and of what `consumed` says of their offsets. Without transactions, nothing.
    ///
    /// # Errors
    /// Where the thread cannot be started.
    pub fn commit_along_with(&self, consumed: Arc<dyn Consumed>) -> Result<(), ClientError> {
        self.transactions.as_ref().map_or(Ok(()), |transactions| transactions.begin(consumed))
    }

    /// Hands an outcome over without waiting. Its position is acknowledged through [`Deliveries`] once all of it is stored.
    ///
    /// Failures that may pass (queue full, brokers away, topic not there yet) are not errors: it is sent again until it is
    /// stored. A dead letter that is too large loses its value, then its sender's headers; any other record is replaced by
    /// what [`Deliveries::instead_of`] says.
    ///
    /// # Errors
    /// Where the producer has failed for good.
    pub fn publish(&self, outcome: Outcome) -> Result<(), PublishError> {
        if let Some(transactions) = &self.transactions {
            self.shared.begin(true);
            if outcome.dead_letter.is_some() {
                self.shared.begin(true);
            }
            transactions.push(outcome);
            return self.working();
        }
        let Outcome { position, bytes, record, dead_letter } = outcome;
        let half_stored = dead_letter.is_some().then(Arc::default);
        let waits = Waits { position, bytes, half_stored };
        for record in dead_letter.into_iter().chain([record]) {
            self.send(record, Some(waits.clone()));
        }
        self.working()
    }

    /// Hands over a record that no call waits for. Where it is too large for any topic, or too many of its kind wait to be
    /// sent again, it is dropped and counted.
    ///
    /// # Errors
    /// As [`publish`](Self::publish).
    pub fn publish_loose(&self, record: Record) -> Result<(), PublishError> {
        self.send(record, None);
        self.working()
    }

    fn send(&self, record: Record, waits: Option<Waits>) {
        self.shared.begin(waits.is_some());
        self.producers.send(record, Envelope { waits, attempts: 0, alone: false });
    }

    fn working(&self) -> Result<(), PublishError> {
        match self.shared.health.fatal() {
            None => Ok(()),
            Some(reason) => Err(PublishError { reason: reason.to_owned() }),
        }
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

    /// Whether an outcome that is handed in now can be stored soon, as far as is known: the brokers answer, and of those that
    /// wait to be stored one was within the last second.
    pub fn can_store(&self) -> bool {
        let Shared { waited_for, started, moved_at_ms, .. } = &*self.shared;
        let moved_at = Duration::from_millis(moved_at_ms.load(Ordering::Acquire));
        let waits = waited_for.load(Ordering::Acquire) > 0;
        let is_stalled = waits && started.elapsed().saturating_sub(moved_at) >= STALLED;
        !self.shared.health.is_down() && !is_stalled
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
        if let Some(transactions) = &self.transactions {
            transactions.end();
        }
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

    /// Sends a record, keeps it for later, or replaces it by less.
    fn send(&self, mut record: Record, envelope: Envelope) {
        let producer = if envelope.alone { self.alone() } else { &self.batched };
        let mut opaque = Box::new(envelope);
        loop {
            let topic = self.shared.topics.of(record.destination);
            let mut message = BaseRecord::with_opaque_to(topic, opaque);
            message.key = record.key.as_deref();
            message.payload = record.payload.as_deref();
            message.headers = headers::write(&record.headers);
            let Err((error, message)) = producer.send(message) else { return };
            opaque = message.delivery_opaque;
            match error.rdkafka_error_code() {
                Some(Code::MessageSizeTooLarge) => match self.shared.instead_of(record, &opaque, &Refusal::TooLarge) {
                    Some(smaller) => record = smaller,
                    None => return self.shared.end(opaque.waits.is_some()),
                },
                Some(Code::Fatal) => {
                    self.shared.failed_for_good(&error.to_string());
                    return self.shared.end(opaque.waits.is_some());
                }
                _ => return self.shared.send_later(record, *opaque, &error),
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
            self.send(record, envelope);
        }
    }

    /// Asks brokers that did not answer whether they do now, so that readiness comes back without traffic.
    fn probe(&self) {
        let topic = &self.shared.topics.results;
        // Brokers that answer may not store yet; where records wait for that, the first one that is stored says so.
        if let Ok(Some(_)) = partition_ids(self.batched.client(), topic, PROBE_EVERY)
            && self.shared.waited_for.load(Ordering::Acquire) == 0
        {
            self.shared.works();
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

    /// A record begins; `is_waited_for` says whether a call waits for it.
    pub(super) fn begin(&self, is_waited_for: bool) {
        count(&self.counters.published);
        count(&self.counters.unacknowledged);
        if is_waited_for && self.waited_for.fetch_add(1, Ordering::AcqRel) == 0 {
            self.moved();
        }
    }

    fn moved(&self) {
        let millis = u64::try_from(self.started.elapsed().as_millis()).unwrap_or(u64::MAX);
        self.moved_at_ms.store(millis, Ordering::Release);
    }

    /// One record has ended, in whatever way.
    pub(super) fn end(&self, is_waited_for: bool) {
        if is_waited_for {
            self.waited_for.fetch_sub(1, Ordering::AcqRel);
        }
        if self.counters.unacknowledged.fetch_sub(1, Ordering::AcqRel) == 1 && self.flushing.load(Ordering::SeqCst) {
            // The lock orders this with a flush that has just looked at the number.
            drop(self.flush.lock().unwrap_or_else(PoisonError::into_inner));
            self.flushed.notify_all();
        }
    }

    pub(super) fn failed_for_good(&self, reason: &str) {
        if self.health.failed_for_good(reason) {
            self.deliveries.failed_for_good(reason);
        }
    }

    /// What is published in place of a record that the brokers will never take: a dead letter with less in it; for any other
    /// record that a call waits for, what [`Deliveries::instead_of`] says. Where that is nothing, the publisher has failed.
    fn instead_of(&self, record: Record, envelope: &Envelope, refusal: &Refusal) -> Option<Record> {
        let topic = self.topics.of(record.destination);
        if envelope.waits.is_none() {
            tracing::warn!(topic, %refusal, "a record that no call waits for is left out");
            count(&self.counters.dropped);
            return None;
        }
        self.smaller(record, refusal)
    }

    /// [`instead_of`](Self::instead_of) for a record of an outcome.
    pub(super) fn smaller(&self, record: Record, refusal: &Refusal) -> Option<Record> {
        let topic = self.topics.of(record.destination);
        tracing::warn!(topic, %refusal, "record refused for good");
        let smaller = if record.destination == Destination::DeadLetters && *refusal == Refusal::TooLarge {
            count(&self.counters.dead_letters_cut);
            dead_letter::smaller(record)
        } else {
            count(match refusal {
                Refusal::TooLarge => &self.counters.refused_too_large,
                Refusal::Invalid(_) => &self.counters.refused_invalid,
            });
            self.deliveries.instead_of(&record, refusal)
        };
        if smaller.is_none() {
            // Going on would leave the call without an answer, and its partition stuck behind it.
            self.failed_for_good(&format!("a record for topic {topic} was refused: {refusal}"));
        }
        smaller
    }

    /// Something that a call waits for was stored, which makes the brokers good again where nothing of that kind waits that they
    /// did not take.
    pub(super) fn works(&self) {
        self.moved();
        if !self.health.is_down() || self.failing.load(Ordering::Acquire) == 0 {
            self.health.works();
        }
    }

    fn send_later(&self, record: Record, envelope: Envelope, error: &KafkaError) {
        let is_waited_for = envelope.waits.is_some();
        if is_waited_for && envelope.attempts == 0 {
            self.failing.fetch_add(1, Ordering::AcqRel);
        }
        let topic = self.topics.of(record.destination);
        // A queue that is full and a record that is no good say nothing about the brokers.
        if !error.rdkafka_error_code().is_some_and(|code| code == Code::QueueFull || is_of_the_record(code)) {
            let health = if is_waited_for { &self.health } else { &self.health_loose };
            health.failed(&format_args!("topic {topic}: {error}"));
        }
        // One that is waited for is always taken.
        if !self.resend().push(Instant::now(), record, envelope) {
            count(&self.counters.dropped);
            self.end(is_waited_for);
        }
    }

    fn refused(&self, record: Record, envelope: Envelope, error: &KafkaError, refusal: &Refusal) {
        match self.instead_of(record, &envelope, refusal) {
            Some(smaller) => self.send_later(smaller, envelope, error),
            // The publisher has failed, or it is left out: then nobody waits for it.
            None => {
                self.not_failing(&envelope);
                self.end(envelope.waits.is_some());
            }
        }
    }

    fn not_failing(&self, envelope: &Envelope) {
        if envelope.waits.is_some() && envelope.attempts > 0 {
            self.failing.fetch_sub(1, Ordering::AcqRel);
        }
    }

    pub(super) fn delivered(&self, envelope: &Envelope) {
        self.not_failing(envelope);
        count(&self.counters.acknowledged);
        match &envelope.waits {
            Some(waits) => {
                self.works();
                if waits.stored() {
                    self.deliveries.acknowledged(waits.position, waits.bytes);
                }
            }
            None => self.health_loose.works(),
        }
        self.end(envelope.waits.is_some());
    }

    pub(super) fn not_delivered(&self, error: &KafkaError, message: &BorrowedMessage<'_>, envelope: Envelope) {
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
            Some(Code::MessageSizeTooLarge | Code::MessageBatchTooLarge) => {
                self.refused(record, envelope, error, &Refusal::TooLarge);
            }
            Some(code) if is_of_the_record(code) => {
                self.refused(record, envelope, error, &Refusal::Invalid(code.to_string()));
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
