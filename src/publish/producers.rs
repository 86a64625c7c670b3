//! The plain producers: what goes to librdkafka, when, and the thread that hears what became of it.
//!
//! Must not: decide what follows from a delivery report; `shared` does.

use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex, PoisonError, RwLock};
use std::time::{Duration, Instant};

use rdkafka::ClientConfig;
use rdkafka::error::{KafkaError, RDKafkaErrorCode as Code};
use rdkafka::producer::{BaseProducer, BaseRecord, Producer as _, PurgeConfig};

use super::counters::count;
use super::ending::end_within;
use super::lanes::{Limits, Offered, WINDOW};
use super::partition::{self, Partitions};
use super::record::{Destination, Record, Refusal};
use super::reports::Context;
use super::resend::{Envelope, LOOSE_MAX, LaneId};
use super::shared::{Queues, STALLED, Shared};
use super::stall::{Said, Say};
use crate::kafka::{Connection, Renew, Renewal, headers, partition_ids};

/// How long the thread waits for delivery reports before it looks for records to send again.
const POLL: Duration = Duration::from_millis(20);
/// The same where two producers take turns.
const POLL_IN_TURN: Duration = Duration::from_millis(2);
/// How often brokers that do not answer are asked whether they are back, and how long that question may take.
const PROBE_EVERY: Duration = Duration::from_secs(2);
/// When the watch says of that question that it hangs.
const PROBE_OVERDUE: Duration = Duration::from_secs(45);
/// When the watch says of the thread that it stands still; a turn takes some hundredths of a second.
const TURN_OVERDUE: Duration = Duration::from_secs(30);
/// A producer that heard nothing of a partition's records for so long, though every replica is in sync, is made anew. Above the
/// time after which brokers take one of them for dead (9 s) or a replica for behind (30 s).
const DEAF: Duration = Duration::from_secs(35);
/// How old the look of a fresh client may be; it looks about once a second.
const LOOK_AGE_MAX: Duration = Duration::from_secs(4);
/// How long a producer that was replaced may take to give back what it has.
const GIVE_BACK: Duration = Duration::from_secs(10);
/// A batch is handed over within half of `linger.ms`, and at least within this, so that it travels whole.
const HAND_OVER_MIN: Duration = Duration::from_micros(500);
/// What a record takes up beside key, value and headers, and a header beside name and value: more than any format does.
const RECORD_OVERHEAD: usize = 70;
const HEADER_OVERHEAD: usize = 12;

pub(super) type Client = BaseProducer<Context, Partitions>;

pub(super) struct Producers {
    config: ClientConfig,
    connection: Connection,
    shared: Arc<Shared>,
    batched: RwLock<Arc<Client>>,
    /// Sends each record in a batch of its own; made when it is first needed.
    alone: Mutex<Option<Arc<Client>>>,
    hand_over: Duration,
    /// Whether the brokers are being asked whether they answer.
    probing: AtomicBool,
}

/// What the thread remembers from turn to turn.
struct Turns {
    probe_at: Instant,
    said: Said,
    renewal: Renewal,
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
    pub(super) fn new(
        config: ClientConfig,
        connection: Connection,
        shared: Arc<Shared>,
    ) -> Result<Arc<Self>, KafkaError> {
        let linger_ms: f64 = config.get("linger.ms").and_then(|value| value.parse().ok()).unwrap_or(0.0);
        let linger = Duration::try_from_secs_f64(linger_ms / 1_000.0).unwrap_or_default();
        let batched = RwLock::new(Arc::new(client(&config, &shared)?));
        let hand_over = (linger / 2).max(HAND_OVER_MIN);
        let (alone, probing) = (Mutex::default(), AtomicBool::new(false));
        let made = Arc::new(Self { config, connection, shared, batched, alone, hand_over, probing });
        // It is set here alone, for the first time.
        let _ = made.shared.producers.set(Arc::downgrade(&made));
        Ok(made)
    }

    /// Hears what becomes of records until the publisher stops.
    pub(super) fn run(self: &Arc<Self>) {
        let pulse = self.connection.watch.thread("publish", TURN_OVERDUE);
        let mut turns =
            Turns { probe_at: Instant::now() + PROBE_EVERY, said: Said::default(), renewal: Renewal::default() };
        while !self.shared.stopping.load(Ordering::SeqCst) {
            pulse.beat();
            let alone = self.alone.lock().unwrap_or_else(PoisonError::into_inner).clone();
            match alone {
                Some(alone) if alone.in_flight_count() > 0 => {
                    self.batched().poll(POLL_IN_TURN);
                    alone.poll(POLL_IN_TURN);
                }
                _ => self.batched().poll(POLL),
            }
            self.resend();
            let due = self.shared.queues().lanes.due();
            due.into_iter().for_each(|lane| self.release(lane));
            self.care(&mut turns);
        }
    }

    /// Looks after the client itself: says when nothing is stored, asks brokers that did not answer whether they do, and makes a
    /// client anew that does not hear of brokers which answer others.
    fn care(self: &Arc<Self>, turns: &mut Turns) {
        let (now, shared) = (Instant::now(), &self.shared);
        match turns.said.look(shared.stalled_for()) {
            Some(Say::Stalled) => {
                let stall = shared.stall(&self.connection.witness);
                let stall = stall.map_or_else(String::new, |stall| stall.to_string());
                tracing::warn!(%stall, "the brokers do not take results; calls wait");
            }
            Some(Say::Over(lasted)) => tracing::info!(?lasted, "the brokers take results again"),
            None => {}
        }
        if let Some(hangs) = shared.hanging_call(now, &self.connection.witness) {
            return shared.failed_for_good(&hangs);
        }
        if shared.stalled_for() >= STALLED {
            // So that its words know of leaders and replicas when they are said.
            let _ = self.connection.witness.look();
        }
        let is_cut_off = shared.cut_off.load(Ordering::Acquire);
        if (is_cut_off || shared.health.is_down()) && now >= turns.probe_at {
            self.probe();
            turns.probe_at = now + PROBE_EVERY;
        }
        let of_results = |lane: LaneId| lane.destination == Destination::Results && lane.partition.is_some();
        let standing = shared.queues().lanes.standing(of_results);
        let deaf = standing.filter(|standing| now - standing.since >= DEAF).map(|standing| standing.lane.partition);
        // Where no call waits, an answer to this client is what says that the brokers take results again.
        let is_unanswered = shared.health.is_down() && shared.waited_for.load(Ordering::Acquire) == 0;
        let is_in_trouble = is_cut_off || is_unanswered || deaf.is_some();
        let look = is_in_trouble.then(|| self.connection.witness.look()).flatten();
        // A look from before the trouble says nothing of it.
        let began = turns.renewal.down_since();
        let look = look.filter(|look| now - look.at < LOOK_AGE_MAX && began.is_some_and(|began| look.at >= began));
        let found_since = look.and_then(|look| {
            let mut results = look.topics.get(&shared.topics.results).into_iter().flatten();
            let is_in_sync =
                |partition| results.any(|seen| Some(seen.partition) == partition && seen.in_sync == seen.replicas);
            look.leaders_since.filter(|_| is_cut_off || is_unanswered || deaf.is_some_and(is_in_sync))
        });
        match turns.renewal.look(now, is_in_trouble, found_since, self.connection.watch.set_back()) {
            Renew::No => {}
            Renew::Now => self.renew(),
            // Of one that hears nothing of a partition nobody knows that another would.
            Renew::InVain if !is_cut_off && !is_unanswered => {}
            Renew::InVain => shared.failed_for_good(
                "the brokers answer a fresh client and no producer of this process, though it was made anew",
            ),
        }
    }

    /// A new client in place of each; what the old ones have comes back and is sent again.
    fn renew(&self) {
        let made = match client(&self.config, &self.shared) {
            Ok(made) => Arc::new(made),
            Err(error) => return self.shared.health.failed(&format_args!("no new producer: {error}")),
        };
        count(&self.shared.counters.renewed);
        let reason = self.shared.health.reason();
        tracing::warn!(
            reason,
            "the brokers answer others and not this producer, or the clock was set back: it is made anew, and what it had is \
             sent again"
        );
        let batched = std::mem::replace(&mut *self.batched.write().unwrap_or_else(PoisonError::into_inner), made);
        let alone = self.alone.lock().unwrap_or_else(PoisonError::into_inner).take();
        for old in [Some(batched), alone].into_iter().flatten() {
            let shared = Arc::clone(&self.shared);
            end_within(&self.connection.watch, Duration::ZERO, move || give_back(old, &shared));
        }
    }

    /// The producer of batches.
    fn batched(&self) -> Arc<Client> {
        Arc::clone(&self.batched.read().unwrap_or_else(PoisonError::into_inner))
    }

    /// Ends both clients, on a thread of their own, which is waited for up to `limit`.
    pub(super) fn end(self: Arc<Self>, limit: Duration) {
        let watch = self.connection.watch.clone();
        end_within(&watch, limit, move || drop(self));
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
        let of_topic = LaneId { partition: None, ..lane(0) };
        let of = shared.chooses.then(|| shared.partitions.count(destination)).flatten();
        // What waits from a time when the number of partitions was not known goes first.
        let of = of.filter(|_| !queues.lanes.holds_back(of_topic));
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
            (None, _) => (of_topic, None),
        };
    }

    /// Hands a record to librdkafka, keeps it for later, or replaces it by less.
    fn hand_over(&self, mut record: Record, envelope: Envelope) {
        let producer = if envelope.alone { self.alone() } else { self.batched() };
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
    fn alone(&self) -> Arc<Client> {
        let mut alone = self.alone.lock().unwrap_or_else(PoisonError::into_inner);
        if let Some(alone) = &*alone {
            return Arc::clone(alone);
        }
        let mut config = self.config.clone();
        config.set("batch.num.messages", "1");
        match client(&config, &self.shared) {
            Ok(made) => Arc::clone(alone.insert(Arc::new(made))),
            Err(error) => {
                tracing::warn!(%error, "no second producer; records are sent in batches only");
                self.batched()
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

    /// Asks brokers that did not answer whether they do now, so that readiness comes back without traffic. On a thread of its
    /// own, one at a time, as delivery reports do not wait for it.
    fn probe(self: &Arc<Self>) {
        if self.probing.swap(true, Ordering::AcqRel) {
            return;
        }
        let this = Arc::clone(self);
        let ask = move || {
            let client = this.batched();
            let ask = || partition_ids(client.client(), &this.shared.topics.results, PROBE_EVERY);
            let answer = this.connection.watch.call("producer: metadata", PROBE_OVERDUE, ask);
            // The question was put to the client that is used still.
            if let Ok(Some(_)) = answer
                && Arc::ptr_eq(&client, &this.batched())
            {
                this.shared.cut_off.store(false, Ordering::Release);
                // Brokers that answer may not store yet; where records wait for that, the first one that is stored says so.
                if this.shared.waited_for.load(Ordering::Acquire) == 0 {
                    this.shared.works();
                }
            }
            this.probing.store(false, Ordering::Release);
        };
        if let Err(error) = std::thread::Builder::new().name("publish-probe".to_owned()).spawn(ask) {
            tracing::debug!(%error, "no thread to ask the brokers on");
            self.probing.store(false, Ordering::Release);
        }
    }
}

/// Has a client that was replaced give back what it has, and ends it.
fn give_back(mut old: Arc<Client>, shared: &Shared) {
    old.purge(PurgeConfig::default().queue().inflight());
    let until = Instant::now() + GIVE_BACK;
    while old.in_flight_count() > 0 && Instant::now() < until {
        old.poll(POLL);
    }
    let kept = old.in_flight_count();
    if kept > 0 && !shared.stopping.load(Ordering::SeqCst) {
        shared.failed_for_good(&format!("a producer that was replaced did not give back {kept} records"));
    }
    // Whoever was handing a record over when it was replaced has it for some microseconds.
    loop {
        match Arc::try_unwrap(old) {
            Ok(client) => return drop(client),
            Err(held) => old = held,
        }
        old.poll(POLL);
    }
}

fn client(config: &ClientConfig, shared: &Arc<Shared>) -> Result<Client, KafkaError> {
    config.create_with_context(Context(Arc::clone(shared)))
}

/// Bytes of a record in a request, or somewhat more.
fn size(record: &Record) -> usize {
    let of = |bytes: &Option<Vec<u8>>| bytes.as_ref().map_or(0, Vec::len);
    let headers: usize = record.headers.iter().map(|(name, value)| name.len() + of(value) + HEADER_OVERHEAD).sum();
    RECORD_OVERHEAD + of(&record.key) + of(&record.payload) + headers
}

#[cfg(test)]
mod tests {
    use std::sync::Mutex;

    use rdkafka::mocking::MockCluster;

    use super::*;
    use crate::publish::{Backoff, Deliveries, Outcome, Publisher, Topics};
    use crate::types::{Generation, Offset, Position};

    #[derive(Default)]
    struct Stored(Mutex<Vec<i64>>);

    impl Deliveries for Stored {
        fn acknowledged(&self, position: Position, _bytes: usize) {
            self.0.lock().expect("no panic").push(position.offset.0);
        }

        fn instead_of(&self, _record: &Record, _refusal: &Refusal) -> Option<Record> {
            None
        }

        fn failed_for_good(&self, reason: &str) {
            panic!("{reason}");
        }
    }

    fn outcome(offset: i64) -> Outcome {
        let position = Position { partition: 0, offset: Offset(offset), generation: Generation(1) };
        let record = Record {
            destination: Destination::Results,
            key: Some(b"k".to_vec()),
            headers: Vec::new(),
            payload: Some(vec![7; 100]),
        };
        Outcome { position, bytes: 1, record, dead_letter: None }
    }

    /// As long as anything here may take; a test that works never waits for it.
    const LONG: Duration = Duration::from_secs(60);

    #[test]
    fn librdkafka_has_a_window_the_rest_waits_here_and_a_new_producer_loses_nothing() {
        let mock = MockCluster::new(1).expect("a mock cluster");
        mock.create_topic("results", 1, 1).expect("a topic");
        let connection = Connection { bootstrap_servers: mock.bootstrap_servers(), ..Connection::default() };
        let topics = Topics { results: "results".to_owned(), ..Topics::default() };
        let stored = Arc::new(Stored::default());
        let backoff = Backoff::default();
        let deliveries = Arc::clone(&stored) as Arc<dyn Deliveries>;
        let publisher = Publisher::start_with(&connection, topics, backoff, None, deliveries).expect("a publisher");
        publisher.publish(outcome(0)).expect("it works");
        assert_eq!(publisher.flush(LONG), 0);
        // Nothing is answered from here on.
        mock.broker_round_trip_time(1, LONG * 10).expect("slow");
        for offset in 1..=200 {
            publisher.publish(outcome(offset)).expect("it works");
        }
        assert_eq!(publisher.waiting(), 195);
        assert_eq!(publisher.flush(Duration::from_millis(100)), 200);
        assert_eq!(publisher.waiting(), 195, "nothing goes while five are in flight");
        publisher.producers().expect("not ended").renew();
        let counters = publisher.counters();
        let until = Instant::now() + LONG;
        while counters.resent.load(Ordering::Relaxed) < 5 {
            assert!(Instant::now() < until, "what the old one had in flight is sent again");
            std::thread::sleep(POLL);
        }
        mock.broker_round_trip_time(1, Duration::ZERO).expect("quick");
        assert_eq!(publisher.flush(LONG), 0);
        let mut stored = stored.0.lock().expect("no panic").clone();
        stored.sort_unstable();
        assert_eq!(stored, (0..=200).collect::<Vec<_>>());
        assert_eq!(counters.renewed.load(Ordering::Relaxed), 1);
        assert_eq!(counters.resent.load(Ordering::Relaxed), 5, "and nothing else");
    }

    #[test]
    fn a_batch_stays_below_what_makes_librdkafka_send_early() {
        let config = Connection::default().producer();
        assert_eq!(limits(&config), Limits { records_max: 9_999, bytes_max: 900_000, loose_max: LOOSE_MAX });
        let mut config = config;
        config.set("batch.num.messages", "1").set("message.max.bytes", "500000");
        assert_eq!(limits(&config), Limits { records_max: 0, bytes_max: 450_000, loose_max: LOOSE_MAX });
    }

    #[test]
    fn a_record_is_counted_with_all_of_it() {
        let headers = vec![("name".to_owned(), Some(vec![1; 6]))];
        let record = Record { destination: Destination::Results, key: Some(vec![1; 3]), headers, payload: None };
        assert_eq!(size(&record), 70 + 3 + 4 + 6 + 12);
    }
}
