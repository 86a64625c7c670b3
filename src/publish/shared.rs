//! What becomes of each record: counted, acknowledged, kept for later, or replaced by less. Shared by every producer of the
//! publisher.
//!
//! Must not: hand anything to librdkafka; `producers` and `transactions` do.

use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::sync::{Arc, Condvar, Mutex, MutexGuard, OnceLock, PoisonError, Weak};
use std::time::{Duration, Instant};

use rdkafka::error::{KafkaError, RDKafkaErrorCode as Code};
use rdkafka::message::{BorrowedMessage, Message as _};

use super::counters::{Counters, count};
use super::dead_letter;
use super::lanes::{Lanes, Limits};
use super::partition::Partitions;
use super::producers::Producers;
use super::record::{Deliveries, Destination, Record, Refusal, Topics};
use super::reports::is_of_the_record;
use super::resend::{Backoff, Envelope, LaneId, Resend};
use super::stall::{Place, Stall};
use crate::kafka::{Health, Witness, headers};

pub(super) const ROLE: &str = "publish";
/// With records that wait and none stored for this long, brokers are taken not to store.
pub(super) const STALLED: Duration = Duration::from_secs(1);
/// Offsets that were handed to a transaction and did not come back for so long hang, where the group's coordinator answers
/// others: librdkafka does not keep the time limit of that call, which is five seconds.
const HANGS: Duration = Duration::from_secs(8);
/// How long transactions may fail without that being said or seen: coordinators move, and take less than that.
const MENDS_ITSELF: Duration = Duration::from_secs(3);
/// Faults of transactions that are further apart have nothing to do with each other.
const APART: Duration = Duration::from_secs(30);

pub(super) struct Shared {
    pub(super) topics: Topics,
    pub(super) partitions: Partitions,
    /// Whether [`partitions`](Self::partitions) chooses; not where the client's settings name another partitioner.
    pub(super) chooses: bool,
    pub(super) deliveries: Arc<dyn Deliveries>,
    pub(super) counters: Arc<Counters>,
    /// Of what calls wait for.
    pub(super) health: Health,
    /// Of everything else: it says what is wrong, and keeps no call from being taken.
    health_loose: Health,
    queues: Mutex<Queues>,
    /// Who sends the next batch when the one before it has ended.
    pub(super) producers: OnceLock<Weak<Producers>>,
    /// Records that calls wait for, and that are not stored yet.
    pub(super) waited_for: AtomicU64,
    /// Those of them that were not taken at least once.
    failing: AtomicU64,
    started: Instant,
    /// When one of them was last stored, or first handed in after all were: milliseconds since `started`.
    moved_at_ms: AtomicU64,
    /// The client has said that it has no connection, and nothing has come from a broker since.
    pub(super) cut_off: AtomicBool,
    transactions: Mutex<Making>,
    flushing: AtomicBool,
    flushed: Condvar,
    flush: Mutex<()>,
    pub(super) stopping: AtomicBool,
}

/// How transactions do.
#[derive(Default)]
struct Making {
    /// When the call that hands its offsets over began, while that has not returned.
    offsets_since: Option<Instant>,
    /// What the one under way waits for, and since when.
    waits_for: Option<(&'static str, Instant)>,
    /// Since when none was committed, though it was tried, and when it was last tried.
    failing: Option<(Instant, Instant)>,
    /// Why.
    reason: String,
}

/// Records that wait here.
pub(super) struct Queues {
    /// For those before them in their partition.
    pub(super) lanes: Lanes<LaneId, (Record, Envelope)>,
    /// For their next attempt.
    pub(super) resend: Resend,
    /// The partition that a record without a key was last given, of each destination.
    pub(super) keyless: [i32; Destination::ALL.len()],
}

impl Shared {
    pub(super) fn new(
        topics: Topics,
        chooses: bool,
        limits: Limits,
        backoff: Backoff,
        deliveries: Arc<dyn Deliveries>,
    ) -> Self {
        let queues = Queues { lanes: Lanes::new(limits), resend: Resend::new(backoff), keyless: Default::default() };
        Self {
            partitions: Partitions::new(topics.clone()),
            topics,
            chooses,
            deliveries,
            counters: Arc::default(),
            health: Health::new(ROLE),
            health_loose: Health::new("publish, what no call waits for"),
            queues: Mutex::new(queues),
            producers: OnceLock::new(),
            waited_for: AtomicU64::new(0),
            failing: AtomicU64::new(0),
            started: Instant::now(),
            moved_at_ms: AtomicU64::new(0),
            cut_off: AtomicBool::new(false),
            transactions: Mutex::default(),
            flushing: AtomicBool::new(false),
            flushed: Condvar::new(),
            flush: Mutex::default(),
            stopping: AtomicBool::new(false),
        }
    }

    pub(super) fn queues(&self) -> MutexGuard<'_, Queues> {
        self.queues.lock().unwrap_or_else(PoisonError::into_inner)
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

    /// For how long calls have waited for records of which none was stored; zero where none waits.
    pub(super) fn stalled_for(&self) -> Duration {
        if self.waited_for.load(Ordering::Acquire) == 0 {
            return Duration::ZERO;
        }
        let moved_at = Duration::from_millis(self.moved_at_ms.load(Ordering::Acquire));
        self.started.elapsed().saturating_sub(moved_at)
    }

    /// What is to be said of results that are not stored; None where they are, or none waits.
    pub(super) fn stall(&self, witness: &Witness) -> Option<Stall> {
        let lasted = self.stalled_for();
        if lasted < STALLED {
            return None;
        }
        let of_calls = |lane: LaneId| matches!(lane.destination, Destination::Results | Destination::DeadLetters);
        let place = self.queues().lanes.standing(of_calls).map(|standing| standing.lane);
        let look = witness.look();
        let place = place.map(|LaneId { destination, partition, .. }| {
            let topic = self.topics.of(destination).to_owned();
            let seen = look.as_ref().and_then(|look| look.topics.get(&topic));
            let seen = seen.and_then(|seen| seen.iter().find(|seen| Some(seen.partition) == partition)).cloned();
            Place { topic, partition, seen }
        });
        let making = self.making();
        let transaction = making.waits_for.map(|(what, since)| (what, since.elapsed()));
        let said = [self.health.reason(), making.reason.clone(), self.health.heard_last()];
        let last_error = said.into_iter().find(|said| !said.is_empty()).unwrap_or_default();
        Some(Stall { lasted, waiting: self.waited_for.load(Ordering::Acquire), place, transaction, last_error })
    }

    fn making(&self) -> MutexGuard<'_, Making> {
        self.transactions.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// A transaction waits for something from here on, or none is under way.
    pub(super) fn transaction_waits_for(&self, what: Option<&'static str>) {
        self.making().waits_for = what.map(|what| (what, Instant::now()));
    }

    /// The call that hands offsets to a transaction begins, or has returned.
    pub(super) fn hands_offsets_over(&self, since: Option<Instant>) {
        self.making().offsets_since = since;
    }

    /// Whether offsets have been on their way into a transaction for so long that the thread which hands them over may never return.
    pub(super) fn offsets_hang(&self, now: Instant) -> bool {
        self.making().offsets_since.is_some_and(|since| now.duration_since(since) >= HANGS)
    }

    /// A request for a transaction that does not come back, although the coordinator answers a fresh client of this process.
    /// The thread in it cannot be freed, so the process is to end; it says why.
    pub(super) fn hanging_call(&self, now: Instant, witness: &Witness) -> Option<String> {
        let since = self.making().offsets_since?;
        let lasts = now.duration_since(since);
        if lasts < STALLED {
            return None;
        }
        let answers = witness.look().is_some_and(|look| look.coordinator_answers(now, since));
        let hangs = self.offsets_hang(now) && answers;
        hangs.then(|| {
            let seconds = lasts.as_secs();
            format!(
                "send_offsets_to_transaction has not returned for {seconds} s, although the group's coordinator answers other \
                 clients of this process"
            )
        })
    }

    /// A transaction failed, or does not go on. Coordinators that load or move and producers that are fenced by their successor
    /// mend themselves, so that is a fault only where it lasts.
    pub(super) fn transaction_failed(&self, reason: &dyn std::fmt::Display) {
        let lasts = {
            let (mut making, now) = (self.making(), Instant::now());
            making.reason = reason.to_string();
            // One that failed long ago, and whose outcomes went elsewhere, is another story.
            let since = making.failing.filter(|(_, last)| now - *last < APART).map_or(now, |(since, _)| since);
            making.failing = Some((since, now));
            now - since >= MENDS_ITSELF
        };
        if lasts {
            self.health.failed(reason);
        } else {
            tracing::debug!(%reason, "no transaction yet");
        }
    }

    /// A transaction was committed.
    pub(super) fn transaction_committed(&self) {
        *self.making() = Making::default();
        self.works();
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

    /// Waits until every record has ended, up to `timeout`. Returns how many have not.
    pub(super) fn flush(&self, timeout: Duration) -> u64 {
        let left = || self.counters.unacknowledged.load(Ordering::Acquire);
        let guard = self.flush.lock().unwrap_or_else(PoisonError::into_inner);
        self.flushing.store(true, Ordering::SeqCst);
        // A flush that ends while another waits is only noticed by that one after its own wait; there is one at shutdown.
        drop(self.flushed.wait_timeout_while(guard, timeout, |()| left() > 0));
        self.flushing.store(false, Ordering::SeqCst);
        left()
    }

    pub(super) fn failed_for_good(&self, reason: &str) {
        if self.health.failed_for_good(reason) {
            self.deliveries.failed_for_good(reason);
        }
    }

    /// What is published in place of a record that the brokers will never take: a dead letter with less in it; for any other
    /// record that a call waits for, what [`Deliveries::instead_of`] says. Where that is nothing, the publisher has failed.
    pub(super) fn instead_of(&self, record: Record, envelope: &Envelope, refusal: &Refusal) -> Option<Record> {
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

    pub(super) fn send_later(&self, record: Record, envelope: Envelope, error: &KafkaError) {
        let is_waited_for = envelope.waits.is_some();
        if is_waited_for && envelope.attempts == 0 {
            self.failing.fetch_add(1, Ordering::AcqRel);
        }
        let topic = self.topics.of(record.destination);
        if says_something_of_the_brokers(error) {
            let health = if is_waited_for { &self.health } else { &self.health_loose };
            health.failed(&format_args!("topic {topic}: {error}"));
        }
        let taken = {
            let mut queues = self.queues();
            let elsewhere = queues.lanes.loose();
            queues.resend.push(Instant::now(), record, envelope, elsewhere)
        };
        // One that is waited for is always taken.
        if !taken {
            self.dropped(is_waited_for);
        }
    }

    /// A record is dropped that no call waits for.
    pub(super) fn dropped(&self, is_waited_for: bool) {
        count(&self.counters.dropped);
        self.end(is_waited_for);
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
        self.cut_off.store(false, Ordering::Release);
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
        if self.stopping.load(Ordering::SeqCst) {
            count(&self.counters.abandoned);
            return;
        }
        let code = error.rdkafka_error_code();
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

/// A queue that is full, a record that is no good, and one that a producer gave back because another takes its place say
/// nothing about the brokers.
fn says_something_of_the_brokers(error: &KafkaError) -> bool {
    !error.rdkafka_error_code().is_some_and(|code| {
        matches!(code, Code::QueueFull | Code::PurgeQueue | Code::PurgeInflight) || is_of_the_record(code)
    })
}
