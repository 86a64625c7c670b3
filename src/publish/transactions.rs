//! Exactly-once: outcomes and the offsets of their calls, in one Kafka transaction a batch.
//!
//! Duty: gather outcomes, ask who keeps the offsets what may be said of them, store both or neither, and find out which.
//! Must not: keep offsets, or let an outcome out by another way.
//!
//! Who may commit is judged twice by the brokers: by the transactional id, so that a node that is started again ends what its
//! predecessor of the same name left open, and by the group's generation that goes with the offsets, so that a node whose
//! partitions went elsewhere commits nothing for them (KIP-447).

use std::collections::VecDeque;
use std::sync::atomic::Ordering;
use std::sync::{Arc, Mutex, PoisonError};
use std::thread::JoinHandle;
use std::time::{Duration, Instant};

use rdkafka::error::{KafkaError, KafkaResult, RDKafkaErrorCode as Code};
use rdkafka::producer::{BaseRecord, Producer as _, ThreadedProducer};

use super::counters::count;
use super::ending::{end_within, join_within};
use super::gather::{Gather, in_turns};
use super::record::{Outcome, Record, Refusal};
use super::reports::is_of_the_record;
use super::resend::Backoff;
use super::sent::{Context, Sent};
use super::shared::{ROLE, STALLED, Shared};
use crate::kafka::{
    ClientError, Connection, Consumed, PanicGuard, Prepared, Settled, Unprepared, Watch, Witness, headers,
};
use crate::types::Fate;

/// Outcomes in one transaction, usually (inclusive): so many are handed to librdkafka in the time in which it tells the
/// coordinator of their partitions, and then travel in whole batches. More of a partition would wait in it and have its thread
/// spin (see `lanes`).
const OUTCOMES_MAX: usize = 1_000;
/// How long one request to a coordinator may take before it is looked whether to go on.
const REQUEST: Duration = Duration::from_secs(5);
/// How long the first request at start may take in all.
const START: Duration = Duration::from_secs(30);
/// How long to wait before asking again whether every record is delivered: from the one, doubled each time, to the other.
const STEP_MIN: Duration = Duration::from_millis(1);
const STEP_MAX: Duration = Duration::from_millis(16);
/// How long a request that fails is made again before the transaction is given up, and the producer with it: one that is dead
/// says no more than that its requests time out. Above the time in which a coordinator is elected.
const PATIENCE: Duration = Duration::from_secs(60);
/// When the watch says of a request that it hangs: librdkafka does not keep every limit (its issues 5456 and 5511).
const OVERDUE: Duration = Duration::from_secs(120);
/// The same for the first request at start.
const START_OVERDUE: Duration = Duration::from_secs(75);
/// When the watch says so of records that librdkafka neither delivers nor gives back. It gives them back at the age of
/// `message.timeout.ms`, which is at most `transaction.timeout.ms` here: 15 s, unless set, and 15 minutes at most.
const DELIVERY_OVERDUE: Duration = Duration::from_secs(16 * 60);
/// How long its producer may take to end: half a second to give back what it has, on a busy machine.
const PRODUCER_ENDS: Duration = Duration::from_secs(3);
/// How long the thread may take to end.
const THREAD_ENDS: Duration = Duration::from_secs(8);
/// How long to wait before asking librdkafka again for what it cannot do yet.
const AGAIN: Duration = Duration::from_millis(100);
/// How long to wait before a producer is made again whose first request failed.
const INIT_AGAIN: Duration = Duration::from_secs(1);
/// Producers that may be replaced within [`FENCES_WITHIN`] because another one had their transactional id (inclusive). A
/// broker that ends a transaction for its age does that too, once; two processes with one name do it for ever.
const FENCES_MAX: usize = 5;
const FENCES_WITHIN: Duration = Duration::from_secs(300);

/// How transactions are made.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct TransactionSettings {
    /// The transactional id; no other process may have it while this one runs.
    pub id: String,
    /// From the beginning of one transaction to that of the next, at least.
    pub interval: Duration,
}

type Client = ThreadedProducer<Context>;

/// The way of outcomes into transactions.
pub(super) struct Transactions {
    gather: Arc<Gather>,
    /// Until it is given to its thread.
    maker: Mutex<Option<Maker>>,
    thread: Mutex<Option<JoinHandle<()>>>,
}

impl Transactions {
    /// Makes the producer, and ends what its predecessor left open.
    ///
    /// # Errors
    /// Where its settings are refused, or the brokers do not let it make transactions within 30 s.
    pub(super) fn new(
        connection: &Connection,
        settings: TransactionSettings,
        backoff: Backoff,
        shared: Arc<Shared>,
    ) -> Result<Self, ClientError> {
        let config = connection.transactional(&settings.id);
        let producer: Client = config
            .create_with_context(Context::new(Arc::clone(&shared)))
            .map_err(|error| ClientError::create(ROLE, &error))?;
        let watch = connection.watch.clone();
        watch
            .call("init_transactions", START_OVERDUE, || producer.init_transactions(START))
            .map_err(|source| ClientError::Transactions { id: settings.id.clone(), source })?;
        let gather = Arc::<Gather>::default();
        let maker = Maker {
            config,
            settings,
            backoff,
            shared,
            set_back: watch.set_back(),
            watch,
            witness: connection.witness.clone(),
            gather: Arc::clone(&gather),
            producer: Some(producer),
            batch_max: OUTCOMES_MAX,
            failures: 0,
            fences: VecDeque::new(),
        };
        Ok(Self { gather, maker: Mutex::new(Some(maker)), thread: Mutex::default() })
    }

    /// Starts the thread. A second time it does nothing.
    pub(super) fn begin(&self, consumed: Arc<dyn Consumed>) -> Result<(), ClientError> {
        let Some(maker) = self.maker.lock().unwrap_or_else(PoisonError::into_inner).take() else { return Ok(()) };
        let name = "transactions".to_owned();
        let thread = std::thread::Builder::new()
            .name(name.clone())
            .spawn(move || {
                let shared = Arc::clone(&maker.shared);
                let _guard = PanicGuard(|| shared.failed_for_good("the thread that makes transactions panicked"));
                maker.run(&*consumed);
            })
            .map_err(|source| ClientError::Thread { name, source })?;
        *self.thread.lock().unwrap_or_else(PoisonError::into_inner) = Some(thread);
        Ok(())
    }

    /// Hands an outcome over, which the caller has counted.
    pub(super) fn push(&self, outcome: Outcome) {
        self.gather.push([outcome]);
    }

    /// Ends the thread, and waits for it up to [`THREAD_ENDS`]; not at all where it `hangs` in librdkafka. What is not stored is
    /// read again.
    pub(super) fn end(&self, hangs: bool) {
        self.gather.queue().ended = true;
        self.gather.changed.notify_all();
        let thread = self.thread.lock().unwrap_or_else(PoisonError::into_inner).take();
        if let Some(thread) = thread {
            join_within(thread, if hangs { Duration::ZERO } else { THREAD_ENDS });
        }
    }
}

/// The thread's own.
struct Maker {
    config: rdkafka::ClientConfig,
    settings: TransactionSettings,
    backoff: Backoff,
    shared: Arc<Shared>,
    watch: Watch,
    witness: Witness,
    gather: Arc<Gather>,
    /// None at the end.
    producer: Option<Client>,
    /// Times that the clock was set back, as far as the producer was made anew for it.
    set_back: u64,
    /// Outcomes in one transaction; less than all while one is looked for that the brokers will not take.
    batch_max: usize,
    /// Transactions that failed since the last one that did not.
    failures: u32,
    /// When this producer was replaced because another had its id.
    fences: VecDeque<Instant>,
}

/// Why a transaction was not committed.
struct Fault {
    error: KafkaError,
    /// Whether the coordinator may have been asked to commit it.
    commit_asked: bool,
}

impl Maker {
    fn run(mut self, consumed: &dyn Consumed) {
        let mut not_before = Instant::now();
        while let Some(outcomes) = self.gather.take(not_before) {
            if self.watch.set_back() > self.set_back {
                // librdkafka waits by the wall clock, and would wait for as long as that was set back.
                self.set_back = self.watch.set_back();
                count(&self.shared.counters.renewed);
                tracing::warn!("the clock was set back: the producer of transactions is made anew");
                self.renew(None);
            }
            // What does not fit into one transaction does not wait for the next one's time.
            let all_fit = outcomes.len() <= self.batch_max;
            not_before = Instant::now() + if all_fit { self.settings.interval } else { Duration::ZERO };
            if !self.round(consumed, outcomes) {
                let wait = self.backoff.first.saturating_mul(1 << self.failures.min(16)).min(self.backoff.max);
                self.failures = self.failures.saturating_add(1);
                self.gather.pause(wait);
            }
        }
        let producer = self.producer.take();
        end_within(&self.watch, PRODUCER_ENDS, move || drop(producer));
    }

    /// One transaction, or none where nothing may go into one. False where it was not committed.
    fn round(&mut self, consumed: &dyn Consumed, mut outcomes: Vec<Outcome>) -> bool {
        in_turns(&mut outcomes);
        if outcomes.len() > self.batch_max {
            self.gather.push(outcomes.drain(self.batch_max..));
        }
        let asked = outcomes.iter().map(|outcome| (outcome.position, outcome.bytes)).collect();
        self.shared.transaction_waits_for(Some("the thread that keeps the offsets"));
        let prepared = consumed.prepare(asked);
        self.shared.transaction_waits_for(None);
        let prepared = match prepared {
            Ok(prepared) => prepared,
            Err(Unprepared::NotNow) => {
                self.gather.push(outcomes);
                return false;
            }
            Err(Unprepared::Ended) => {
                outcomes.iter().for_each(|outcome| self.fenced(outcome));
                return true;
            }
        };
        let mut taken = Vec::with_capacity(outcomes.len());
        let mut later = Vec::new();
        for (outcome, fate) in outcomes.into_iter().zip(&prepared.fates) {
            match fate {
                Fate::Taken => taken.push(outcome),
                Fate::Later => later.push(outcome),
                Fate::Fenced => self.fenced(&outcome),
            }
        }
        self.gather.push(later);
        if taken.is_empty() {
            // What was chosen by a low bound waits for others, which it left out.
            self.batch_max = self.batch_max.saturating_mul(2);
            return true;
        }
        let settled = self.store(&mut taken, &prepared);
        self.shared.transaction_waits_for(None);
        match settled {
            Settled::Committed => {
                self.shared.transaction_committed();
                count(&self.shared.counters.transactions);
                self.shared.counters.acknowledged.fetch_add(taken.len() as u64, Ordering::Relaxed);
                taken.iter().for_each(|outcome| self.end(outcome));
                self.batch_max = self.batch_max.saturating_mul(2).min(OUTCOMES_MAX);
                self.failures = 0;
            }
            Settled::Aborted(_) => self.gather.push(taken),
            // What comes of reading them again takes their place.
            Settled::Unknown => taken.iter().for_each(|outcome| self.end(outcome)),
        }
        consumed.settled(settled);
        settled == Settled::Committed
    }

    /// Stores outcomes and offsets, or neither.
    ///
    /// A producer whose transaction failed is not used again. librdkafka may have given up, for its age, one whose commit had
    /// got through, and what it had under way can reach the brokers later, as part of the next. A new producer's first act
    /// ends what the old one left open, and fences the rest of it.
    fn store(&mut self, taken: &mut [Outcome], prepared: &Prepared) -> Settled {
        let Err(Fault { error, commit_asked }) = self.attempt(taken, prepared) else { return Settled::Committed };
        let code = error.rdkafka_error_code();
        count(&self.shared.counters.transactions_aborted);
        self.shared.transaction_failed(&format_args!("a transaction was not committed: {error}"));
        self.reduce(taken);
        self.renew(code);
        if commit_asked { Settled::Unknown } else { Settled::Aborted(code) }
    }

    fn attempt(&self, taken: &mut [Outcome], prepared: &Prepared) -> Result<(), Fault> {
        let early = |error| Fault { error, commit_asked: false };
        let Some(producer) = &self.producer else { return Err(early(KafkaError::Canceled)) };
        producer.context().sent.clear();
        self.watch.call("begin_transaction", OVERDUE, || producer.begin_transaction()).map_err(early)?;
        for (index, outcome) in taken.iter_mut().enumerate() {
            if let Some(letter) = &mut outcome.dead_letter {
                self.produce(producer, letter, Sent { index, dead_letter: true }).map_err(early)?;
            }
            self.produce(producer, &mut outcome.record, Sent { index, dead_letter: false }).map_err(early)?;
        }
        let offsets = || {
            self.shared.hands_offsets_over(Some(Instant::now()));
            let handed_over = producer.send_offsets_to_transaction(&prepared.offsets, &prepared.group, REQUEST);
            self.shared.hands_offsets_over(None);
            handed_over
        };
        self.patiently("its offsets", "send_offsets_to_transaction", offsets).map_err(early)?;
        self.deliver(producer).map_err(early)?;
        let commit = || producer.commit_transaction(REQUEST);
        let committed = self.patiently("its commit", "commit_transaction", commit);
        committed.map_err(|error| Fault { error, commit_asked: true })
    }

    /// Waits until the brokers took every record. The coordinator is not asked for a commit before.
    fn deliver(&self, producer: &Client) -> KafkaResult<()> {
        self.shared.transaction_waits_for(Some("its records"));
        let _watched = self.watch.begin("records of a transaction", DELIVERY_OVERDUE);
        let began = Instant::now();
        let (mut told, mut step) = (began, STEP_MIN);
        // librdkafka's binding would wait in steps of a tenth of a second, which is several times what a transaction takes.
        while let Err(error) = producer.flush(Duration::ZERO) {
            self.gather.pause(step);
            if self.has_ended() {
                return Err(error);
            }
            // A producer that hears of no leader says nothing, so a fresh client has to.
            if began.elapsed() >= STALLED
                && self.witness.look().is_some_and(|look| look.leaders_answer(Instant::now(), began))
            {
                return Err(error);
            }
            step = (step * 2).min(STEP_MAX);
            if told.elapsed() >= REQUEST {
                self.shared.transaction_failed(&format_args!("a transaction waits for its records: {error}"));
                told = Instant::now();
            }
        }
        producer.context().sent.first().map_or(Ok(()), |code| Err(KafkaError::MessageProduction(code)))
    }

    /// Hands a record to librdkafka, or what can be said in less where it is larger than any topic takes.
    fn produce(&self, producer: &Client, record: &mut Record, tag: Sent) -> KafkaResult<()> {
        loop {
            let topic = self.shared.topics.of(record.destination);
            let mut message = BaseRecord::with_opaque_to(topic, Box::new(tag));
            message.key = record.key.as_deref();
            message.payload = record.payload.as_deref();
            message.headers = headers::write(&record.headers);
            let Err((error, _)) = producer.send(message) else { return Ok(()) };
            match error.rdkafka_error_code() {
                Some(Code::QueueFull) if !self.has_ended() => {
                    self.gather.pause(STEP_MAX);
                }
                Some(Code::MessageSizeTooLarge) => match self.shared.smaller(record.clone(), &Refusal::TooLarge) {
                    Some(smaller) => *record = smaller,
                    None => return Err(error),
                },
                _ => return Err(error),
            }
        }
    }

    /// Makes a request again for as long as the answer is that asking again may help, and it is not in vain.
    fn patiently(
        &self,
        waits_for: &'static str,
        call: &'static str,
        ask: impl Fn() -> KafkaResult<()>,
    ) -> KafkaResult<()> {
        self.shared.transaction_waits_for(Some(waits_for));
        let began = Instant::now();
        loop {
            match self.watch.call(call, OVERDUE, &ask) {
                Err(error) if may_pass(&error) && began.elapsed() < PATIENCE && !self.has_ended() => {
                    self.shared.transaction_failed(&format_args!("a transaction waits for {waits_for}: {error}"));
                    self.gather.pause(AGAIN);
                }
                answer => return answer,
            }
        }
    }

    /// Puts what can be said in less in the place of a record that the brokers refused, or looks for that record.
    fn reduce(&mut self, taken: &mut [Outcome]) {
        let refused: Vec<(Sent, Code)> =
            self.producer.as_ref().map(|producer| producer.context().sent.take()).unwrap_or_default();
        let refused: Vec<_> = refused.into_iter().filter(|(_, code)| is_of_the_record(*code)).collect();
        let [outcome] = taken else {
            if !refused.is_empty() {
                // A batch is refused as a whole: fewer outcomes the next time, until it is one.
                self.batch_max = (taken.len().min(refused.len()) / 2).max(1);
            }
            return;
        };
        for (tag, code) in refused {
            let refusal = match code {
                Code::MessageSizeTooLarge | Code::MessageBatchTooLarge => Refusal::TooLarge,
                code => Refusal::Invalid(code.to_string()),
            };
            let record = if tag.dead_letter { outcome.dead_letter.as_mut() } else { Some(&mut outcome.record) };
            if let Some(record) = record
                && let Some(smaller) = self.shared.smaller(record.clone(), &refusal)
            {
                *record = smaller;
            }
        }
    }

    /// A new producer in place of one that is of no more use.
    fn renew(&mut self, code: Option<Code>) {
        let now = Instant::now();
        self.fences.retain(|at| now.duration_since(*at) < FENCES_WITHIN);
        if matches!(code, Some(Code::Fenced | Code::ProducerFenced | Code::InvalidProducerEpoch)) {
            self.fences.push_back(now);
        }
        if self.fences.len() > FENCES_MAX {
            let id = &self.settings.id;
            return self.shared.failed_for_good(&format!(
                "another process makes transactions as {id}: give each node a node.id of its own"
            ));
        }
        // librdkafka may take long to end one, and what it had under way is fenced by its successor.
        let old = self.producer.take();
        self.discard(old);
        self.shared.transaction_waits_for(Some("a new producer"));
        while !self.has_ended() {
            let made = self.config.create_with_context(Context::new(Arc::clone(&self.shared)));
            let made = made.and_then(|producer: Client| {
                let init = || producer.init_transactions(REQUEST);
                match self.watch.call("init_transactions", OVERDUE, init) {
                    Ok(()) => Ok(producer),
                    Err(error) => {
                        self.discard(Some(producer));
                        Err(error)
                    }
                }
            });
            match made {
                Ok(producer) => {
                    self.producer = Some(producer);
                    return;
                }
                Err(error) => {
                    self.shared.transaction_failed(&format_args!("no transactions as {}: {error}", self.settings.id));
                    self.gather.pause(INIT_AGAIN);
                }
            }
        }
    }

    /// Ends a producer on a thread of its own.
    fn discard(&self, producer: Option<Client>) {
        end_within(&self.watch, Duration::ZERO, move || drop(producer));
    }

    /// An outcome that nobody here may say any more: the call runs again where its partition went.
    fn fenced(&self, outcome: &Outcome) {
        count(&self.shared.counters.fenced);
        self.end(outcome);
    }

    /// An outcome has ended, in whatever way.
    fn end(&self, outcome: &Outcome) {
        self.shared.end(true);
        if outcome.dead_letter.is_some() {
            self.shared.end(true);
        }
    }

    fn has_ended(&self) -> bool {
        self.shared.health.fatal().is_some() || self.gather.queue().ended
    }
}

/// Whether librdkafka says that asking again may help.
fn may_pass(error: &KafkaError) -> bool {
    match error {
        KafkaError::Transaction(fault) => fault.is_retriable() && !fault.is_fatal() && !fault.txn_requires_abort(),
        KafkaError::Flush(_) => true,
        _ => false,
    }
}
