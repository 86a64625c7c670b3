//! The plain producers: what goes to librdkafka, when, and the thread that hears what became of it.
//!
//! Must not: decide what follows from a delivery report; `shared` does.

use std::sync::atomic::Ordering;
use std::sync::{Arc, OnceLock};
use std::time::{Duration, Instant};

use rdkafka::ClientConfig;
use rdkafka::error::{KafkaError, RDKafkaErrorCode as Code};
use rdkafka::producer::{BaseProducer, BaseRecord, Producer as _};

use super::counters::count;
use super::lanes::{Limits, Offered, WINDOW};
use super::partition::{self, Partitions};
use super::record::{Record, Refusal};
use super::reports::Context;
use super::resend::{Envelope, LOOSE_MAX, LaneId};
use super::shared::{Queues, Shared};
use crate::kafka::{headers, partition_ids};

/// How long the thread waits for delivery reports before it looks for records to send again.
const POLL: Duration = Duration::from_millis(20);
/// The same where two producers take turns.
const POLL_IN_TURN: Duration = Duration::from_millis(2);
/// How often brokers that do not answer are asked whether they are back, and how long that question may take.
const PROBE_EVERY: Duration = Duration::from_secs(2);
/// A batch is handed over within half of `linger.ms`, and at least within this, so that it travels whole.
const HAND_OVER_MIN: Duration = Duration::from_micros(500);
/// What a record takes up beside key, value and headers, and a header beside name and value: more than any format does.
const RECORD_OVERHEAD: usize = 70;
const HEADER_OVERHEAD: usize = 12;

pub(super) type Client = BaseProducer<Context, Partitions>;

pub(super) struct Producers {
    config: ClientConfig,
    shared: Arc<Shared>,
    batched: Client,
    /// Sends each record in a batch of its own; made when it is first needed.
    alone: OnceLock<Client>,
    hand_over: Duration,
}

/// What fits into one request of a producer with these settings.
pub(super) fn limits(config: &ClientConfig) -> Limits {
    // librdkafka's own defaults where nothing is set.
    let of = |key: &str, default: usize| config.get(key).and_then(|value| value.parse().ok()).unwrap_or(default);
    let bytes = of("batch.size", 1_000_000).min(of("message.max.bytes", 1_000_000));
    Limits {
        // With as many as `batch.num.messages` librdkafka sends before the rest of a batch has come.
        records_max: of("batch.num.messages", 10_000).saturating_sub(1),
        bytes_max: bytes / 10 * 9,
        loose_max: LOOSE_MAX,
    }
}

impl Producers {
    /// # Errors
    /// Where librdkafka refuses the settings.
    pub(super) fn new(config: ClientConfig, shared: Arc<Shared>) -> Result<Arc<Self>, KafkaError> {
        let linger_ms: f64 = config.get("linger.ms").and_then(|value| value.parse().ok()).unwrap_or(0.0);
        let linger = Duration::try_from_secs_f64(linger_ms / 1_000.0).unwrap_or_default();
        let batched = client(&config, &shared)?;
        let hand_over = (linger / 2).max(HAND_OVER_MIN);
        let made = Arc::new(Self { config, shared, batched, alone: OnceLock::new(), hand_over });
        // It is set here alone, for the first time.
        let _ = made.shared.producers.set(Arc::downgrade(&made));
        Ok(made)
    }

    /// Hears what becomes of records until the publisher stops.
    pub(super) fn run(&self) {
        let mut probe_at = Instant::now() + PROBE_EVERY;
        while !self.shared.stopping.load(Ordering::SeqCst) {
            match self.alone.get() {
                Some(alone) if alone.in_flight_count() > 0 => {
                    self.batched.poll(POLL_IN_TURN);
                    alone.poll(POLL_IN_TURN);
                }
                _ => self.batched.poll(POLL),
            }
            self.resend();
            let due = self.shared.queues().lanes.due();
            due.into_iter().for_each(|lane| self.release(lane));
            if self.shared.health.is_down() && Instant::now() >= probe_at {
                self.probe();
                probe_at = Instant::now() + PROBE_EVERY;
            }
        }
    }

    /// Sends a record, or has it wait for those before it in its partition.
    pub(super) fn send(&self, record: Record, mut envelope: Envelope) {
        let bytes = size(&record);
        let is_waited_for = envelope.waits.is_some();
        let offered = {
            let mut queues = self.shared.queues();
            self.place(&record, &mut envelope, &mut queues);
            let loose = (!is_waited_for).then(|| queues.resend.loose());
            queues.lanes.offer(envelope.lane, (record, envelope), bytes, loose, Instant::now())
        };
        match offered {
            Offered::Now((record, envelope)) => self.hand_over(record, envelope),
            Offered::Waits => {}
            Offered::Refused(_) => self.shared.dropped(is_waited_for),
        }
    }

    /// Says which lane a record belongs to, and for one without a key, which partition it goes to.
    fn place(&self, record: &Record, envelope: &mut Envelope, queues: &mut Queues) {
        let shared = &self.shared;
        let destination = shared.partitions.same_topic(record.destination);
        let lane = |partition| LaneId { destination, partition: Some(partition), alone: envelope.alone };
        let of = shared.chooses.then(|| shared.partitions.count(destination)).flatten();
        (envelope.lane, envelope.partition) = match (of, &record.key) {
            // It is only a gate: librdkafka may know better where the topic has grown.
            (Some(of), Some(key)) => (lane(partition::of_key(key, of)), None),
            (Some(of), None) => {
                let last = queues.keyless[destination as usize];
                let chosen = queues.lanes.choose((0..of).map(|step| lane(last.wrapping_add(step).rem_euclid(of))));
                let partition = chosen.and_then(|lane| lane.partition).unwrap_or(0);
                queues.keyless[destination as usize] = partition;
                // What did not get through may not have a partition of that number.
                let librdkafka_chooses = envelope.attempts > 0 || shared.partitions.is_stale(destination);
                (lane(partition), (!librdkafka_chooses).then_some(partition))
            }
            (None, _) => (LaneId { partition: None, ..lane(0) }, None),
        };
    }

    /// Hands a record to librdkafka, keeps it for later, or replaces it by less.
    fn hand_over(&self, mut record: Record, envelope: Envelope) {
        let producer = if envelope.alone { self.alone() } else { &self.batched };
        let mut opaque = Box::new(envelope);
        loop {
            let topic = self.shared.topics.of(record.destination);
            let partition = opaque.partition;
            let mut message = BaseRecord::with_opaque_to(topic, opaque);
            message.partition = partition;
            message.key = record.key.as_deref();
            message.payload = record.payload.as_deref();
            message.headers = headers::write(&record.headers);
            let Err((error, message)) = producer.send(message) else { return };
            opaque = message.delivery_opaque;
            let lane = opaque.lane;
            match error.rdkafka_error_code() {
                Some(Code::MessageSizeTooLarge) => match self.shared.instead_of(record, &opaque, &Refusal::TooLarge) {
                    Some(smaller) => {
                        record = smaller;
                        continue;
                    }
                    None => self.shared.end(opaque.waits.is_some()),
                },
                Some(Code::Fatal) => {
                    self.shared.failed_for_good(&error.to_string());
                    self.shared.end(opaque.waits.is_some());
                }
                _ => self.shared.send_later(record, *opaque, &error),
            }
            // What that makes due is released by the thread that polls.
            self.shared.queues().lanes.ended(lane, Instant::now());
            return;
        }
    }

    /// A record of a lane was acknowledged or given back: what waits for that goes now. On the thread that polls, so that no
    /// batch waits for its next turn.
    pub(super) fn ended(&self, lane: LaneId) {
        let is_due = self.shared.queues().lanes.ended(lane, Instant::now());
        if is_due {
            self.release(lane);
        }
    }

    /// Hands over batches of a lane for as long as they are due.
    fn release(&self, lane: LaneId) {
        while !self.shared.stopping.load(Ordering::SeqCst) {
            let began = Instant::now();
            let batch = self.shared.queues().lanes.take(lane, began);
            if batch.is_empty() {
                return;
            }
            let mut rest = batch.into_iter().enumerate();
            let mut late = Vec::new();
            for (index, waiting) in rest.by_ref() {
                if index >= WINDOW && began.elapsed() > self.hand_over {
                    late.push(waiting);
                    break;
                }
                let (record, envelope) = waiting.item;
                self.hand_over(record, envelope);
            }
            late.extend(rest.map(|(_, waiting)| waiting));
            self.shared.queues().lanes.handed_over(lane, late);
        }
    }

    /// The producer whose batches hold one record; where it cannot be made, the one there is.
    fn alone(&self) -> &Client {
        if let Some(alone) = self.alone.get() {
            return alone;
        }
        let mut config = self.config.clone();
        config.set("batch.num.messages", "1");
        match client(&config, &self.shared) {
            Ok(made) => self.alone.get_or_init(|| made),
            Err(error) => {
                tracing::warn!(%error, "no second producer; records are sent in batches only");
                &self.batched
            }
        }
    }

    fn resend(&self) {
        let due = self.shared.queues().resend.due(Instant::now());
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

fn client(config: &ClientConfig, shared: &Arc<Shared>) -> Result<Client, KafkaError> {
    config.create_with_context(Context(Arc::clone(shared)))
}

/// Bytes of a record in a request, or somewhat more.
fn size(record: &Record) -> usize {
    let header = |(name, value): &(String, Vec<u8>)| name.len() + value.len() + HEADER_OVERHEAD;
    let headers: usize = record.headers.iter().map(header).sum();
    let of = |bytes: &Option<Vec<u8>>| bytes.as_ref().map_or(0, Vec::len);
    RECORD_OVERHEAD + of(&record.key) + of(&record.payload) + headers
}
