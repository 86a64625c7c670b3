//! The poll thread: takes messages, keeps the accounts, pauses and resumes, and says when to commit.
//!
//! Must not: wait for a broker (see `offsets`) or keep a message longer than it takes to hand it on (see `held`).

use std::sync::atomic::Ordering;
use std::sync::mpsc::Receiver;
use std::sync::{Arc, PoisonError};
use std::time::{Duration, Instant, SystemTime};

use rdkafka::TopicPartitionList;
use rdkafka::consumer::Consumer;
use rdkafka::error::{KafkaError, KafkaResult, RDKafkaErrorCode as Code};

use super::agreement::Agreement;
use super::aside::Crowd;
use super::commits::Commits;
use super::consumers::Consumers;
use super::context::{Context, InvocationConsumer};
use super::counters::count;
use super::doubt::Doubt;
use super::ends::Ends;
use super::held::Held;
use super::invocations::{Control, Note};
use super::leaving::Leaving;
use super::offsets::{Answer, Offsets, Request};
use super::rebalance::UnderWay;
use super::standing::Standing;
use super::transactions::Transactions;
use super::{Settings, Sink};
use crate::codec::{Codec, WriterSchemas};
use crate::kafka::queue::{Polled, Queue};
use crate::kafka::{Pulse, Renewal, fatal, is_of_one_broker, is_of_the_name};
use crate::progress::{Completion, Partitions};
use crate::types::Position;

/// How long a poll waits for a message; also how late an acknowledgement may be noticed on a quiet topic.
pub(super) const POLL: Duration = Duration::from_millis(10);
/// Most messages between two looks at everything else.
const MESSAGES_A_ROUND: usize = 64;
/// Most acknowledgements that are taken in one go.
const NOTES_A_ROUND: usize = 4_096;
/// How long a bound may be reached before partitions are paused. Pausing throws away what was fetched ahead, so a bound that
/// is reached for a moment is answered by not polling; for no longer, as rebalances are served by polling.
const PAUSE_AFTER: Duration = Duration::from_millis(100);
/// How often brokers that do not answer are asked whether they are back.
const PROBE_EVERY: Duration = Duration::from_secs(2);
/// How often it is said anew for how long a partition has stood.
const STANDING_SHOWN_EVERY: Duration = Duration::from_secs(1);

/// A bound that was reached.
struct Full {
    since: Instant,
    paused: bool,
}

/// The poll thread's own.
pub(super) struct Intake<S> {
    pub(super) consumer: Arc<InvocationConsumer>,
    /// What that one has fetched.
    pub(super) queue: Arc<Queue<Context>>,
    pub(super) settings: Settings,
    pub(super) sink: S,
    pub(super) control: Arc<Control>,
    pub(super) offsets: Offsets,
    pub(super) partitions: Partitions,
    pub(super) held: Held,
    pub(super) standing: Standing,
    pub(super) under_way: Option<UnderWay>,
    pub(super) commits: Commits,
    pub(super) transactions: Transactions,
    /// How many the topic has, as far as is known.
    pub(super) partitions_of_topic: usize,
    pub(super) topic: Arc<str>,
    pub(super) codec: Arc<Codec>,
    pub(super) writers: Arc<dyn WriterSchemas>,
    inbox: Receiver<Note>,
    full: Option<Full>,
    pub(super) crowd: Crowd,
    pub(super) stopped: bool,
    pub(super) doubt: Doubt,
    pub(super) consumers: Consumers,
    pub(super) renewal: Renewal,
    pub(super) ends: Ends,
    pub(super) agreement: Agreement,
    pub(super) leaving: Leaving,
    pulse: Pulse,
    probe_at: Instant,
    /// Which changes of the partitions that stand were shown last, and when.
    conditions_shown: (u64, Instant),
}

impl<S: Sink> Intake<S> {
    #[expect(clippy::too_many_arguments, reason = "called once, by the function that makes each of them")]
    pub(super) fn new(
        consumers: Consumers,
        consumer: Arc<InvocationConsumer>,
        queue: Queue<Context>,
        settings: Settings,
        codec: Arc<Codec>,
        writers: Arc<dyn WriterSchemas>,
        sink: S,
        control: Arc<Control>,
        offsets: Offsets,
        inbox: Receiver<Note>,
    ) -> Self {
        let now = Instant::now();
        Self {
            topic: settings.topic.as_str().into(),
            consumer,
            queue: Arc::new(queue),
            doubt: Doubt::new(settings.doubt_after, settings.doubt_for, now),
            partitions: Partitions::with_bounds(settings.shares),
            settings,
            sink,
            control,
            offsets,
            held: Held::default(),
            standing: Standing::default(),
            conditions_shown: (u64::MAX, now),
            under_way: None,
            commits: Commits::new(now),
            transactions: Transactions::default(),
            partitions_of_topic: 0,
            codec,
            writers,
            inbox,
            full: None,
            crowd: Crowd::default(),
            stopped: false,
            pulse: consumers.pulse(),
            renewal: consumers.renewal(),
            consumers,
            ends: Ends::new(now),
            agreement: Agreement::new(),
            leaving: Leaving::default(),
            probe_at: now,
        }
    }

    pub(super) fn run(mut self) {
        // Once: no other thread is the poll thread.
        let _ = self.control.poller.set(std::thread::current());
        loop {
            let now = Instant::now();
            self.pulse.beat();
            let is_late = self.commit_is_late(now);
            self.doubt.begin_round(now, SystemTime::now(), is_late || self.control.health.is_down());
            self.take_notes();
            self.renew_where_dead(now);
            self.prepare_where_asked();
            self.serve_rebalance(now);
            self.join_or_leave(now);
            self.compare_with_group(now);
            self.retry_held(now);
            self.hand_back_where_leaving();
            self.regulate(now);
            self.follow_aside(now);
            self.commit_where_due(now);
            self.look_for_ends(now);
            self.probe_where_down(now);
            self.show(now);
            if self.control.health.fatal().is_some() || self.has_ended(now) {
                break;
            }
            // A record borrows from its queue, and a renewal takes another.
            let queue = Arc::clone(&self.queue);
            let is_paused = self.full.as_ref().is_some_and(|full| full.paused);
            if self.full.is_some() || self.crowd.waits() {
                if let Ok(note) = self.inbox.recv_timeout(POLL) {
                    self.take_note(note);
                }
                if is_paused {
                    self.poll(&queue, Duration::ZERO);
                }
            } else {
                self.poll(&queue, POLL);
            }
        }
        if let Some(reason) = self.control.health.fatal() {
            self.sink.failed_for_good(reason);
        }
        self.close();
    }

    /// Takes messages until there is none, and then waits for one.
    ///
    /// It waits by itself: librdkafka would wait by the wall clock, and for as long as that was set back.
    fn poll(&mut self, queue: &Queue<Context>, wait: Duration) {
        for taken in 0..MESSAGES_A_ROUND {
            match queue.poll() {
                Some(Polled::Record(record)) => self.take_message(&record),
                Some(Polled::EndOf(_)) => {}
                Some(Polled::Failed(error)) => return self.partition_failed(error),
                Some(Polled::Error(error)) => return self.failed(&error),
                None if taken == 0 => return std::thread::park_timeout(wait),
                None => return,
            }
            if self.is_full()
                || self.partitions.is_crowded()
                || self.consumer.context().is_rebalance_noted()
                || self.doubt.is_due(Instant::now())
            {
                return;
            }
        }
    }

    fn failed(&mut self, error: &KafkaError) {
        let health = &self.control.health;
        match error {
            KafkaError::MessageConsumptionFatal(code) if self.consumers.falls_back(*code) => {
                self.leaving.renew_now = true;
            }
            KafkaError::MessageConsumptionFatal(code) => {
                // The error itself only says that there is one.
                let (code, words) = self.consumer.client().fatal_error().unwrap_or_else(|| (*code, String::new()));
                if is_of_the_name(code) && self.leaving.excuses(Instant::now()) {
                    tracing::warn!(%code, words, "another member has this one's name, as it seems; this one was outside its group a moment ago, and joins anew");
                    self.leaving.renew_now = true;
                    return;
                }
                health.failed_for_good(&format!("topic {}: {}", self.topic, fatal(code, &words)));
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
            Note::GivenBack(position) => self.given_back(position),
            // Of a consumer whose place another has taken.
            Note::Answer(epoch, _) if epoch != self.offsets.epoch() => {}
            Note::Answer(_, Answer::Commit { commits, result }) => self.take_commit(&commits, result),
            Note::Answer(_, Answer::Committed(answer, all)) => {
                self.partitions_of_topic = all;
                self.standings(answer);
            }
            Note::Answer(_, Answer::Probe(answered)) => self.probed(answered),
            Note::Ends(passed) => self.pass_ends(&passed),
            Note::BatchEnd(found) => self.batch_ends(found),
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
        self.regulate_shares(now);
        let all = self.stopped
            || self.full.as_ref().is_some_and(|full| full.paused)
            || self.doubt.is_in()
            || !self.sink.can_store();
        let standing = &self.standing;
        let stands = |partition: i32| standing.pauses(partition, now);
        let (pause, resume) =
            self.partitions.regulate(|partition| all || self.held.has(partition) || stands(partition));
        self.tell(&pause, InvocationConsumer::pause);
        self.tell(&resume, InvocationConsumer::resume);
        self.serve_standing(now, |intake, partition| all || intake.held.has(partition));
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

    fn show(&mut self, now: Instant) {
        let counters = &self.control.counters;
        counters.in_flight.store(self.partitions.in_flight(), Ordering::Release);
        counters.aside.store(self.partitions.aside(), Ordering::Relaxed);
        counters.in_flight_bytes.store(self.partitions.bytes(), Ordering::Relaxed);
        counters.partitions.store(self.partitions.len(), Ordering::Release);
        count(&counters.rounds);
        counters.went_back.store(self.partitions.went_back, Ordering::Relaxed);
        counters.unfinished.store(self.unfinished(), Ordering::Release);
        if self.stopped {
            self.control.intake_stopped.store(true, Ordering::Release);
        }
        self.show_standing(now);
        let unanswered = self.commits.unanswered(now);
        self.control.doubts.show(self.doubt.lasts(now), unanswered);
    }

    /// Shows which partitions stand, as they cannot be read or wait for a schema: at each change, and every second while there are
    /// any.
    fn show_standing(&mut self, now: Instant) {
        let (changes, shown_at) = self.conditions_shown;
        let standing = &self.control.counters.standing;
        let stand = self.standing.len() + self.held.standing(now, |partition| !self.standing.has(partition));
        let is_due = stand > 0 && now.duration_since(shown_at) >= STANDING_SHOWN_EVERY;
        if changes != self.standing.changes() || stand != standing.load(Ordering::Relaxed) || is_due {
            self.conditions_shown = (self.standing.changes(), now);
            let after = self.settings.pass_unreadable_after;
            let mut conditions = self.standing.conditions(now, &self.topic, after);
            conditions.extend(self.held.conditions(now, &self.topic, after));
            standing.store(stand, Ordering::Release);
            *self.control.conditions.lock().unwrap_or_else(PoisonError::into_inner) = conditions;
        }
    }
}
