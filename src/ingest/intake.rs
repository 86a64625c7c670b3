//! The poll thread: takes messages, keeps the accounts, pauses and resumes, and says when to commit.
//!
//! Must not: wait for a broker (see `offsets`) or keep a message longer than it takes to hand it on (see `held`).

use std::sync::Arc;
use std::sync::atomic::Ordering;
use std::sync::mpsc::Receiver;
use std::time::{Duration, Instant};

use rdkafka::TopicPartitionList;
use rdkafka::consumer::Consumer;
use rdkafka::error::{KafkaError, KafkaResult, RDKafkaErrorCode as Code};
use rdkafka::message::{BorrowedMessage, Message as _};

use super::context::InvocationConsumer;
use super::counters::{add, count};
use super::doubt::Doubt;
use super::held::{Held, Undecoded};
use super::invocations::{Control, Note};
use super::offsets::{Answer, Offsets, Request, is_rebalancing};
use super::rebalance::UnderWay;
use super::transactions::Transactions;
use super::{Original, Poison, Received, Settings, Sink};
use crate::codec::{Codec, DecodeError, WriterSchemas};
use crate::kafka::headers::{self, Headers};
use crate::kafka::is_of_one_broker;
use crate::progress::{Commit, Completion, Partitions, Verdict};
use crate::types::{Invocation, Offset, Position, Timestamp};

/// How long a poll waits for a message; also how late an acknowledgement may be noticed on a quiet topic.
const POLL: Duration = Duration::from_millis(10);
/// Most messages between two looks at everything else.
const MESSAGES_A_ROUND: usize = 64;
/// Most acknowledgements that are taken in one go.
const NOTES_A_ROUND: usize = 4_096;
/// How long a bound may be reached before partitions are paused. Pausing throws away what was fetched ahead, so a bound that
/// is reached for a moment is answered by not polling; for no longer, as rebalances are served by polling.
const PAUSE_AFTER: Duration = Duration::from_millis(100);
/// How often brokers that do not answer are asked whether they are back.
const PROBE_EVERY: Duration = Duration::from_secs(2);
/// How long the last commit may take once the time for a shutdown is over.
const LAST_COMMIT: Duration = Duration::from_secs(2);

/// Where the commits stand.
pub(super) struct Commits {
    /// Whether one is with the coordinator, or in a transaction that has not ended.
    pub(super) under_way: bool,
    /// Not before: after one that failed.
    pub(super) retry_at: Instant,
    /// When the last was asked for.
    pub(super) asked_at: Instant,
    /// When the next is due, where there is anything to commit.
    due_at: Instant,
    /// Changes since the last that was asked for.
    pub(super) changes: u64,
    /// False where the brokers refused metadata of the size that it may have.
    pub(super) with_metadata: bool,
}

impl Commits {
    /// Goes on without metadata where that is what the brokers refused. False where it is not.
    pub(super) fn refused_metadata(&mut self, code: Option<Code>) -> bool {
        if code != Some(Code::OffsetMetadataTooLarge) || !self.with_metadata {
            return false;
        }
        self.with_metadata = false;
        tracing::warn!(
            "the brokers' offset.metadata.max.bytes is below its default: commits go without the set of calls done out of \
             order; those repeat after a crash, or wait for the calls before them where delivery is exactly-once"
        );
        true
    }
}

/// A bound that was reached.
struct Full {
    since: Instant,
    paused: bool,
}

/// The poll thread's own.
pub(super) struct Intake<S> {
    pub(super) consumer: Arc<InvocationConsumer>,
    pub(super) settings: Settings,
    pub(super) sink: S,
    pub(super) control: Arc<Control>,
    pub(super) offsets: Offsets,
    pub(super) partitions: Partitions,
    pub(super) held: Held,
    pub(super) under_way: Option<UnderWay>,
    pub(super) commits: Commits,
    pub(super) transactions: Transactions,
    /// How many the topic has, as far as is known.
    pub(super) partitions_of_topic: usize,
    pub(super) topic: Arc<str>,
    codec: Arc<Codec>,
    writers: Arc<dyn WriterSchemas>,
    inbox: Receiver<Note>,
    full: Option<Full>,
    stopped: bool,
    pub(super) doubt: Doubt,
    /// When the last commit was asked for, at the end.
    last_commit_by: Option<Instant>,
    probe_at: Instant,
}

impl<S: Sink> Intake<S> {
    #[expect(clippy::too_many_arguments, reason = "called once, by the function that makes each of them")]
    pub(super) fn new(
        consumer: Arc<InvocationConsumer>,
        settings: Settings,
        codec: Arc<Codec>,
        writers: Arc<dyn WriterSchemas>,
        sink: S,
        control: Arc<Control>,
        offsets: Offsets,
        inbox: Receiver<Note>,
    ) -> Self {
        let now = Instant::now();
        let doubt = Doubt::new(settings.doubt_after, settings.doubt_for, now);
        let (under_way, with_metadata) = (false, true);
        Self {
            topic: settings.topic.as_str().into(),
            consumer,
            settings,
            sink,
            control,
            offsets,
            partitions: Partitions::default(),
            held: Held::default(),
            under_way: None,
            commits: Commits { under_way, retry_at: now, asked_at: now, due_at: now, changes: 0, with_metadata },
            transactions: Transactions::default(),
            partitions_of_topic: 0,
            codec,
            writers,
            inbox,
            full: None,
            stopped: false,
            doubt,
            last_commit_by: None,
            probe_at: now,
        }
    }

    pub(super) fn run(mut self) {
        let consumer = Arc::clone(&self.consumer);
        loop {
            let now = Instant::now();
            self.doubt.begin_round(now, self.control.health.is_down());
            self.take_notes();
            self.prepare_where_asked();
            self.serve_rebalance(now);
            self.retry_held(now);
            self.regulate(now);
            self.commit_where_due(now);
            self.probe_where_down(now);
            self.show();
            if self.control.health.fatal().is_some() || self.has_ended(now) {
                break;
            }
            match &self.full {
                None => self.poll(&consumer, POLL),
                Some(full) => {
                    let paused = full.paused;
                    if let Ok(note) = self.inbox.recv_timeout(POLL) {
                        self.take_note(note);
                    }
                    if paused {
                        self.poll(&consumer, Duration::ZERO);
                    }
                }
            }
        }
        if let Some(reason) = self.control.health.fatal() {
            self.sink.failed_for_good(reason);
        }
        consumer.context().close();
        self.answer_all();
        let Self { offsets, commits, consumer: mine, .. } = self;
        offsets.stop(!commits.under_way);
        drop(mine);
        // The last owner leaves the group, which polls until the coordinator knows.
        drop(consumer);
    }

    fn poll(&mut self, consumer: &InvocationConsumer, mut wait: Duration) {
        for _ in 0..MESSAGES_A_ROUND {
            match consumer.poll(wait) {
                Some(Ok(message)) => self.take_message(&message),
                Some(Err(error)) => return self.failed(&error),
                None => return,
            }
            if self.is_full() || consumer.context().is_rebalance_noted() || self.doubt.is_due(Instant::now()) {
                return;
            }
            wait = Duration::ZERO;
        }
    }

    fn failed(&mut self, error: &KafkaError) {
        let health = &self.control.health;
        match error {
            KafkaError::PartitionEOF(_) => {}
            KafkaError::MessageConsumptionFatal(code) => {
                health.failed_for_good(&format!("topic {}: {code}", self.topic));
            }
            error if is_of_one_broker(error) => {}
            error => match error.rdkafka_error_code() {
                Some(Code::PollExceeded) => {
                    tracing::warn!("the poll thread was held up for longer than max.poll.interval.ms; joining anew");
                }
                _ => health.failed(&format_args!("topic {}: {error}", self.topic)),
            },
        }
    }

    fn take_message(&mut self, message: &BorrowedMessage<'_>) {
        if self.stopped {
            // Nothing is read after a stop, so nothing is passed over: this one is not committed and comes again.
            return;
        }
        let received_at = Instant::now();
        // What was fetched before says nothing of now.
        if !self.doubt.is_in() {
            self.control.health.works();
        }
        let (headers, left_out) = headers::read(message);
        let of_headers: usize = headers.iter().map(|(name, value)| name.len() + value.len()).sum();
        let bytes = message.key_len() + message.payload_len() + of_headers;
        let partition = message.partition();
        let position = match self.partitions.received(partition, Offset(message.offset()), bytes) {
            Verdict::New(position) => position,
            Verdict::Known => {
                self.commits.changes += 1;
                return count(&self.control.counters.already_done);
            }
            Verdict::NotOurs => return,
        };
        if left_out > 0 {
            add(&self.control.counters.headers_left_out, left_out);
        }
        let payload = message.payload();
        let owned = |bytes: Option<&[u8]>| bytes.map(<[u8]>::to_vec);
        let timestamp = || message.timestamp().to_millis().map(Timestamp::from_millis);
        let key = owned(message.key());
        // What comes behind a message that was put aside waits behind it.
        let decoded = if self.held.has(partition) { None } else { self.decode(payload, &headers) };
        let Some(decoded) = decoded else {
            let (payload, timestamp) = (owned(payload), timestamp());
            let message = Undecoded { position, key, headers, payload, timestamp, bytes, received_at };
            count(&self.control.counters.held);
            return self.held.push(received_at, message);
        };
        let keeps = decoded.as_ref().is_ok_and(|invocation| self.sink.keeps_original(invocation));
        let original = keeps
            .then(|| Box::new(Original { payload: owned(payload), headers: headers.clone(), timestamp: timestamp() }));
        let content = decoded.map_err(|error| Poison {
            topic: Arc::clone(&self.topic),
            payload: owned(payload),
            timestamp: timestamp(),
            error,
        });
        self.hand_on(Received { position, key, headers, bytes, received_at, content, original });
    }

    /// None where it cannot be said yet.
    fn decode(&self, payload: Option<&[u8]>, headers: &Headers) -> Option<Result<Invocation, DecodeError>> {
        let content_type = headers::text(headers, "content-type");
        match self.codec.decode(payload.unwrap_or_default(), content_type, &*self.writers) {
            Err(error) if error.retryable() => None,
            decoded => Some(decoded),
        }
    }

    fn hand_on(&mut self, received: Received) {
        let counters = &self.control.counters;
        count(&counters.received);
        add(&counters.received_bytes, received.bytes);
        if received.content.is_err() {
            count(&counters.poison);
        }
        self.sink.received(received);
    }

    fn retry_held(&mut self, now: Instant) {
        if self.held.is_empty() {
            return;
        }
        let mut held = std::mem::take(&mut self.held);
        held.retry(now, |message| {
            let Some(decoded) = self.decode(message.payload.as_deref(), &message.headers) else { return Some(message) };
            let Undecoded { position, key, headers, payload, timestamp, bytes, received_at } = message;
            let keeps = decoded.as_ref().is_ok_and(|invocation| self.sink.keeps_original(invocation));
            let (original, content) = match decoded {
                Ok(call) => {
                    let headers = headers.clone();
                    (keeps.then(|| Box::new(Original { payload, headers, timestamp })), Ok(call))
                }
                Err(error) => (None, Err(Poison { topic: Arc::clone(&self.topic), payload, timestamp, error })),
            };
            self.hand_on(Received { position, key, headers, bytes, received_at, content, original });
            None
        });
        self.held = held;
    }

    fn take_notes(&mut self) {
        for _ in 0..NOTES_A_ROUND {
            match self.inbox.try_recv() {
                Ok(note) => self.take_note(note),
                Err(_) => return,
            }
        }
    }

    fn take_note(&mut self, note: Note) {
        match note {
            Note::Stored(position, bytes) => self.completed(position, bytes),
            Note::Answer(Answer::Commit { commits, result }) => self.take_commit(&commits, result),
            Note::Answer(Answer::Committed(answer, all)) => {
                self.partitions_of_topic = all;
                self.standings(answer);
            }
            Note::Answer(Answer::Probe(answered)) => self.probed(answered),
            Note::Prepare(preparation) => self.transactions.asked = Some(preparation),
            Note::Settled(settled) => self.settled(settled),
        }
    }

    /// The outcome of a message is stored.
    pub(super) fn completed(&mut self, position: Position, bytes: usize) {
        let counters = &self.control.counters;
        match self.partitions.completed(position, bytes) {
            Completion::Counted => {
                count(&counters.completed);
                self.commits.changes += 1;
            }
            Completion::Fenced => count(&counters.fenced),
            Completion::Unknown => count(&counters.unknown),
        }
    }

    fn take_commit(&mut self, commits: &[(i32, Commit)], result: KafkaResult<()>) {
        self.commits.under_way = false;
        let counters = &self.control.counters;
        let error = match result {
            Ok(()) => {
                self.partitions.committed(commits);
                self.doubt.committed(self.commits.asked_at);
                self.control.health.works();
                count(&counters.commits);
                return add(&counters.runs_left_out, commits.iter().map(|(_, commit)| commit.runs_left_out).sum());
            }
            Err(error) => error,
        };
        count(&counters.commit_failures);
        self.commits.changes += 1;
        if self.commits.refused_metadata(error.rdkafka_error_code()) {
            return;
        }
        let now = Instant::now();
        self.commits.retry_at = now + self.settings.commit_interval.max(POLL);
        self.doubt.refused(now);
        if is_rebalancing(&error) {
            tracing::debug!(%error, "commit not taken during a rebalance");
        } else {
            self.control.health.failed(&format_args!("commit of topic {}: {error}", self.topic));
        }
    }

    fn commit_where_due(&mut self, now: Instant) {
        let commits = &self.commits;
        if self.doubt.is_in() && !commits.under_way && now >= commits.retry_at && !self.control.health.is_down() {
            // Whether anything has changed or not: whether it is taken is what matters.
            self.partitions.commit_again();
            let commits = self.partitions.commits(None);
            if commits.is_empty() {
                return self.doubt.nothing_to_commit(now);
            }
            return self.ask_commit(commits);
        }
        let due = now >= commits.due_at || commits.changes >= self.settings.commit_completions;
        if commits.under_way || commits.changes == 0 || !due || now < commits.retry_at {
            return;
        }
        self.commits.due_at = now + self.settings.commit_interval;
        self.commits.changes = 0;
        let commits = self.partitions.commits(None);
        if !commits.is_empty() {
            self.ask_commit(commits);
        }
    }

    pub(super) fn ask_commit(&mut self, commits: Vec<(i32, Commit)>) {
        let with_metadata = self.commits.with_metadata;
        self.commits.asked_at = Instant::now();
        self.commits.under_way = self.offsets.ask(Request::Commit { commits, with_metadata });
    }

    /// Whether a bound is reached.
    fn is_full(&self) -> bool {
        self.partitions.in_flight() >= self.settings.in_flight_max
            || self.partitions.bytes() >= self.settings.in_flight_bytes_max
    }

    /// Whether both are below 80 % of their bounds.
    fn has_room(&self) -> bool {
        let below = |now: usize, max: usize| now.saturating_mul(5) < max.saturating_mul(4);
        below(self.partitions.in_flight(), self.settings.in_flight_max)
            && below(self.partitions.bytes(), self.settings.in_flight_bytes_max)
    }

    /// Pauses and resumes. Nothing is taken while a bound is reached; nor while the brokers are away, to this client or to the
    /// one that stores outcomes: what is in flight when the group gives its partition to another node runs there again.
    fn regulate(&mut self, now: Instant) {
        self.stopped = self.control.stop_intake.load(Ordering::Acquire);
        self.full = match self.full.take() {
            None if self.is_full() => {
                count(&self.control.counters.pauses);
                Some(Full { since: now, paused: false })
            }
            Some(full) if !self.has_room() => {
                Some(Full { paused: full.paused || now.duration_since(full.since) >= PAUSE_AFTER, ..full })
            }
            Some(_) | None => None,
        };
        let all = self.stopped
            || self.full.as_ref().is_some_and(|full| full.paused)
            || self.doubt.is_in()
            || !self.sink.can_store();
        let (pause, resume) = self.partitions.regulate(|partition| all || self.held.has(partition));
        self.tell(&pause, InvocationConsumer::pause);
        self.tell(&resume, InvocationConsumer::resume);
    }

    fn tell(&mut self, partitions: &[i32], act: impl Fn(&InvocationConsumer, &TopicPartitionList) -> KafkaResult<()>) {
        if partitions.is_empty() {
            return;
        }
        let mut list = TopicPartitionList::with_capacity(partitions.len());
        for &partition in partitions {
            list.add_partition(&self.topic, partition);
        }
        if let Err(error) = act(&self.consumer, &list) {
            tracing::debug!(?partitions, %error, "partitions not paused or resumed; tried again");
            self.partitions.not_regulated(partitions);
        }
    }

    fn probe_where_down(&mut self, now: Instant) {
        if self.control.health.is_down() && now >= self.probe_at {
            self.probe_at = now + PROBE_EVERY;
            // A probe that finds no room comes again.
            let _ = self.offsets.ask(Request::Probe);
        }
    }

    fn show(&self) {
        let counters = &self.control.counters;
        counters.in_flight.store(self.partitions.in_flight(), Ordering::Release);
        counters.in_flight_bytes.store(self.partitions.bytes(), Ordering::Relaxed);
        counters.partitions.store(self.partitions.len(), Ordering::Relaxed);
        counters.went_back.store(self.partitions.went_back, Ordering::Relaxed);
        if self.stopped {
            self.control.intake_stopped.store(true, Ordering::Release);
        }
    }

    /// Whether everything is done that a shutdown waits for, or its time is over.
    fn has_ended(&mut self, now: Instant) -> bool {
        let Some(end_by) = *self.control.end_by.lock().unwrap_or_else(std::sync::PoisonError::into_inner) else {
            return false;
        };
        let put_aside: usize = self.partitions.ids().into_iter().map(|id| self.held.count(id)).sum();
        if self.partitions.in_flight() > put_aside && now < end_by {
            return false;
        }
        let by = *self.last_commit_by.get_or_insert(end_by.max(now) + LAST_COMMIT);
        if now >= by {
            return true;
        }
        if self.commits.under_way {
            return false;
        }
        let commits = self.partitions.commits(None);
        if commits.is_empty() {
            return true;
        }
        if now >= self.commits.retry_at {
            self.ask_commit(commits);
        }
        false
    }
}
