//! Answering the group's coordinator: partitions that come, and partitions that go.
//!
//! Must not: wait. Each step is taken when its time has come, by the poll thread, which goes on polling in between.
//!
//! While an answer is outstanding, librdkafka reads nothing of any partition of this client; so a drain is as short as the
//! calls in flight allow, and the drain timeout is what the whole node loses at worst.

use std::sync::atomic::Ordering::{Acquire, Release};
use std::time::{Duration, Instant};

use rdkafka::consumer::Consumer;
use rdkafka::error::{KafkaResult, RDKafkaErrorCode as Code};
use rdkafka::{Offset as At, TopicPartitionList};

use super::Sink;
use super::context::{RebalanceEvent, assign, unassign};
use super::counters::{add, count};
use super::intake::Intake;
use super::offsets::{Request, Standing, is_moving};

/// How long to wait before the committed offsets are asked for again: from the one, doubled each time, to the other. Each
/// request that librdkafka gave up on it goes on repeating every second where a transaction holds the offsets, so there
/// should be few of them.
const BACKOFF_MIN: Duration = Duration::from_millis(100);
const BACKOFF_MAX: Duration = Duration::from_secs(60);
/// Times in a row that a coordinator may be found on its way to another broker before that counts as brokers that do not
/// answer; about six seconds.
const MOVES_MAX: u32 = 6;
/// How long the commit of partitions that go may take. Longer, and the group would wait for one commit.
const LAST_COMMIT: Duration = Duration::from_secs(5);

/// The rebalance that is being answered.
pub(super) enum UnderWay {
    /// Waits for the committed offsets.
    Taking {
        partitions: TopicPartitionList,
        asked: bool,
        retry_at: Instant,
        /// Times that they were asked for in vain, since the brokers last did not answer at all.
        failures: u32,
    },
    /// Waits for calls in flight, and then for their commit.
    Giving {
        partitions: TopicPartitionList,
        lost: bool,
        /// Messages that were put aside or wait, and will not be run here: they count as in flight and never end.
        put_aside: usize,
        drain_by: Instant,
        /// None until the commit was asked for.
        commit_by: Option<Instant>,
    },
}

/// What it may mean that the coordinator did not say in time where the group stands.
const HELD: &str = "; where the brokers answer everything else, a transaction that has not ended holds the group's offsets: it \
                    ends with its producer, or by its time limit, or hangs (kafka-transactions.sh find-hanging)";

fn backoff(failures: u32) -> Duration {
    BACKOFF_MIN.saturating_mul(1 << failures.min(16)).min(BACKOFF_MAX)
}

impl UnderWay {
    /// The partitions that are being given up.
    pub(super) fn giving(&self) -> Vec<i32> {
        match self {
            Self::Giving { partitions, .. } => ids(partitions),
            Self::Taking { .. } => Vec::new(),
        }
    }
}

pub(super) fn ids(partitions: &TopicPartitionList) -> Vec<i32> {
    partitions.elements().iter().map(rdkafka::topic_partition_list::TopicPartitionListElem::partition).collect()
}

impl<S: Sink> Intake<S> {
    /// Takes every step whose time has come.
    pub(super) fn serve_rebalance(&mut self, now: Instant) {
        loop {
            self.under_way = match self.under_way.take() {
                None => match self.consumer.context().take_rebalance() {
                    None => match self.begin_anew(now) {
                        None => return,
                        taking => taking,
                    },
                    Some(RebalanceEvent::Assign(partitions)) => self.begin_taking(partitions, now),
                    Some(RebalanceEvent::Revoke { partitions, lost }) => Some(self.begin_giving(partitions, lost, now)),
                },
                Some(under_way) => {
                    let before = self.next_step(under_way, now);
                    if before.is_some() {
                        self.under_way = before;
                        return;
                    }
                    None
                }
            };
        }
    }

    fn begin_taking(&mut self, partitions: TopicPartitionList, now: Instant) -> Option<UnderWay> {
        if partitions.count() > 0 {
            tracing::debug!(partitions = ?ids(&partitions), "the group gives partitions; asking where they stand");
            return Some(UnderWay::Taking { partitions, asked: false, retry_at: now, failures: 0 });
        }
        self.joined();
        // More nodes than partitions: this one has nothing to prepare for.
        self.sink.shares(self.partitions.len(), self.partitions_of_topic.max(1));
        if let Err(error) = assign(&self.consumer, &partitions) {
            self.control.health.failed(&format_args!("empty assignment not taken: {error}"));
        }
        None
    }

    /// The group has let this node in.
    fn joined(&self) {
        self.control.joined.store(true, Release);
        self.control.health.works();
    }

    /// Leaves the group or joins it again, as this node was told. Between two rebalances: librdkafka waits for the answer of one.
    pub(super) fn join_or_leave(&mut self, now: Instant) {
        if self.under_way.is_some() || self.consumer.context().is_rebalance_noted() || self.rejoins(now) {
            return;
        }
        let hand_back = self.control.hand_back.load(Acquire);
        let is_out = self.control.is_out.load(Acquire);
        if hand_back == is_out {
            return;
        }
        if hand_back {
            self.consumer.unsubscribe();
            self.control.joined.store(false, Release);
        } else if let Err(error) = self.consumer.subscribe(&[&self.settings.topic]) {
            self.control.health.failed(&format_args!("topic {} not subscribed to: {error}", self.settings.topic));
            return;
        }
        self.control.is_out.store(hand_back, Release);
    }

    /// Puts partitions down and takes them up again, where their place has to be looked up anew.
    fn begin_anew(&mut self, now: Instant) -> Option<UnderWay> {
        let wanted = std::mem::take(&mut self.transactions.read_anew);
        if wanted.is_empty() {
            return None;
        }
        let mut partitions = TopicPartitionList::with_capacity(wanted.len());
        for &partition in &wanted {
            partitions.add_partition(&self.settings.topic, partition);
        }
        if let Err(error) = unassign(&self.consumer, &partitions) {
            self.control.health.failed(&format_args!("partitions {wanted:?} not put down: {error}"));
            self.transactions.read_anew = wanted;
            return None;
        }
        // Nothing is taken until it is known where to go on.
        self.control.joined.store(false, Release);
        Some(UnderWay::Taking { partitions, asked: false, retry_at: now, failures: 0 })
    }

    fn begin_giving(&mut self, partitions: TopicPartitionList, lost: bool, now: Instant) -> UnderWay {
        let ids = ids(&partitions);
        let put_aside = ids.iter().map(|&id| self.held.count(id)).sum();
        self.partitions.drain(&ids);
        self.transactions.read_anew.retain(|id| !ids.contains(id));
        for &id in &ids {
            self.held.forget(id);
            self.standing.forget(id);
        }
        self.sink.revoked(&ids);
        // What has not begun is begun elsewhere, so the hand-over waits only for what runs.
        self.sink.hands_back(&ids);
        tracing::info!(partitions = ?ids, lost, "partitions go to another node");
        let drain_by = now + self.settings.drain_timeout;
        UnderWay::Giving { partitions, lost, put_aside, drain_by, commit_by: None }
    }

    /// None where the rebalance is answered.
    fn next_step(&mut self, under_way: UnderWay, now: Instant) -> Option<UnderWay> {
        match under_way {
            UnderWay::Taking { partitions, asked: false, retry_at, failures } if now >= retry_at => {
                let asked = self.offsets.ask(Request::Committed(ids(&partitions)));
                Some(UnderWay::Taking { partitions, asked, retry_at: now + backoff(failures), failures })
            }
            taking @ UnderWay::Taking { .. } => Some(taking),
            UnderWay::Giving { partitions, lost, put_aside, drain_by, commit_by } => {
                let ids = ids(&partitions);
                // A wait for an attempt may be longer than any drain, and is no work that would be lost.
                let put_aside = put_aside + self.sink.gives_up_waiting(&ids);
                let runs = |id: i32| self.partitions.in_flight_of(id) - self.partitions.given_back_of(id);
                let in_flight: usize = ids.iter().map(|&id| runs(id)).sum();
                let may_wait = !lost && !self.consumer.assignment_lost();
                let commit_by = if may_wait && in_flight > put_aside && now < drain_by {
                    None
                } else if !may_wait {
                    Some(now)
                } else {
                    self.last_commit(&ids, commit_by, now)
                };
                match commit_by {
                    Some(by) if by <= now => {
                        self.finish_giving(&partitions, &ids, !may_wait);
                        None
                    }
                    commit_by => Some(UnderWay::Giving { partitions, lost, put_aside, drain_by, commit_by }),
                }
            }
        }
    }

    /// Asks for the commit of partitions that have drained. Returns until when to wait for it; `now` where it is over.
    fn last_commit(&mut self, ids: &[i32], commit_by: Option<Instant>, now: Instant) -> Option<Instant> {
        let by = commit_by.unwrap_or(now + LAST_COMMIT);
        if self.commits.under_way {
            return Some(by);
        }
        // Where the first attempt failed, it is made again until its time is over.
        let commits = self.partitions.commits(Some(ids));
        if commits.is_empty() {
            return Some(now);
        }
        if now >= self.commits.retry_at {
            self.ask_commit(commits);
        }
        Some(by)
    }

    pub(super) fn show_owned(&self) {
        let mut ids = self.partitions.ids();
        ids.sort_unstable();
        *self.control.owned.lock().unwrap_or_else(std::sync::PoisonError::into_inner) = ids;
    }

    fn finish_giving(&mut self, partitions: &TopicPartitionList, ids: &[i32], lost: bool) {
        self.sink.gave_up(ids);
        for &id in ids {
            let given_back = self.partitions.given_back_of(id);
            let abandoned = self.partitions.forget(id);
            add(&self.control.counters.abandoned, abandoned.messages);
            if abandoned.messages > given_back {
                tracing::warn!(
                    partition = id,
                    messages = abandoned.messages - given_back,
                    lost,
                    "partition given up with calls in flight; they run again elsewhere"
                );
            }
        }
        // Where nothing is left, the assignment that follows says what comes instead: nothing is given back in between.
        if !self.partitions.is_empty() {
            self.sink.shares(self.partitions.len(), self.partitions_of_topic);
        }
        self.show_owned();
        if lost {
            // Out of the group, until it lets this node in again.
            self.control.joined.store(false, Release);
        }
        add(if lost { &self.control.counters.lost } else { &self.control.counters.revoked }, ids.len());
        if let Err(error) = unassign(&self.consumer, partitions) {
            self.control.health.failed(&format_args!("partitions {ids:?} not given up: {error}"));
        }
    }

    /// The coordinator said where the group stands.
    pub(super) fn standings(&mut self, answer: KafkaResult<Vec<Standing>>) {
        let now = Instant::now();
        let Some(UnderWay::Taking { partitions, failures, .. }) =
            self.under_way.take_if(|under_way| matches!(under_way, UnderWay::Taking { asked: true, .. }))
        else {
            return;
        };
        let taken = answer.and_then(|standings| self.take(&standings));
        if let Err(error) = taken {
            let ids = ids(&partitions);
            let hint = if error.rdkafka_error_code() == Some(Code::OperationTimedOut) { HELD } else { "" };
            if is_moving(&error) && failures < MOVES_MAX {
                tracing::debug!(partitions = ?ids, %error, "partitions not taken over while the coordinator moves; asked again");
            } else {
                self.control.health.failed(&format_args!("partitions {ids:?} not taken over: {error}{hint}"));
            }
            let retry_at = now + backoff(failures);
            self.under_way =
                Some(UnderWay::Taking { partitions, asked: false, retry_at, failures: failures.saturating_add(1) });
        }
    }

    /// The brokers answered a probe, or did not.
    pub(super) fn probed(&mut self, answered: bool) {
        match &mut self.under_way {
            // That they do not is why it failed: it is tried as soon as they may.
            Some(UnderWay::Taking { failures: failures @ 1.., retry_at, .. }) if !answered => {
                *failures = 1;
                *retry_at = Instant::now();
            }
            // That they do is not enough here.
            Some(UnderWay::Taking { failures: 1.., .. }) => {}
            _ if answered => self.control.health.works(),
            _ => {}
        }
    }

    fn take(&mut self, standings: &[Standing]) -> KafkaResult<()> {
        let mut list = TopicPartitionList::with_capacity(standings.len());
        for Standing { partition, committed, metadata } in standings {
            match committed {
                Some(next) => list.add_partition_offset(&self.settings.topic, *partition, At::Offset(next.0))?,
                // Where nothing is committed, the topic's own setting says where to begin.
                None => drop(list.add_partition(&self.settings.topic, *partition)),
            }
            let (abandoned, fault) = self.partitions.take_over(*partition, *committed, metadata);
            add(&self.control.counters.abandoned, abandoned.messages);
            if let Some(fault) = fault {
                count(&self.control.counters.metadata_faults);
                tracing::warn!(topic = self.settings.topic, partition, %fault, "commit metadata not used");
            }
        }
        // A pause outlives the assignment that it was made in.
        self.consumer.resume(&list)?;
        assign(&self.consumer, &list)?;
        self.joined();
        self.show_owned();
        let ids = ids(&list);
        add(&self.control.counters.assigned, ids.len());
        tracing::info!(partitions = ?ids, "partitions taken over");
        self.sink.assigned(&ids);
        self.sink.shares(self.partitions.len(), self.partitions_of_topic);
        Ok(())
    }

    /// Answers whatever is unanswered, without waiting, because the consumer closes.
    pub(super) fn answer_all(&mut self) {
        let consumer = &self.consumer;
        let mut unanswered = Vec::new();
        match self.under_way.take() {
            Some(UnderWay::Taking { partitions, .. }) => unanswered.push(RebalanceEvent::Assign(partitions)),
            Some(UnderWay::Giving { partitions, lost, .. }) => {
                unanswered.push(RebalanceEvent::Revoke { partitions, lost });
            }
            None => {}
        }
        unanswered.extend(std::iter::from_fn(|| consumer.context().take_rebalance()));
        for event in unanswered {
            let answered = match &event {
                RebalanceEvent::Assign(partitions) => assign(consumer, partitions),
                RebalanceEvent::Revoke { partitions, .. } => unassign(consumer, partitions),
            };
            if let Err(error) = answered {
                tracing::debug!(%error, "rebalance at close not answered");
            }
        }
    }
}
