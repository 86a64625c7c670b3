//! Everything that waits for the group's coordinator, on a thread of its own: commits, committed offsets, probes.
//!
//! Must not: keep state. Requests come from the poll thread, answers go back among its notes.
//!
//! A commit is a synchronous one, because only its result comes back (see [`crate::kafka`]). librdkafka gives no way to
//! bound its wait: it may be as long as the session timeout where the coordinator is away. The poll thread does not wait
//! for it; at most one commit is under way. The watch ends the process where a request never returns.

use std::sync::mpsc::{Receiver, Sender, SyncSender, sync_channel};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::thread::JoinHandle;
use std::time::Duration;

use rdkafka::consumer::{CommitMode, Consumer};
use rdkafka::error::{KafkaError, KafkaResult};
use rdkafka::{Offset as At, TopicPartitionList};

use super::context::InvocationConsumer;
use super::invocations::Note;
use crate::kafka::{ClientError, Health, PanicGuard, Watch, Watched, partition_ids};
use crate::progress::Commit;
use crate::types::NextOffset;

const THREAD: &str = "offsets";
/// How long asking for committed offsets or metadata may take.
const REQUEST: Duration = Duration::from_secs(5);
/// How much longer than that it may take in truth, and how long a commit may take: above any session timeout in use.
const OVERDUE: Duration = Duration::from_secs(120);
/// Requests that may wait: one commit, one look-up and one probe at a time, and a commit at the end.
const WAITING_MAX: usize = 4;

/// What the poll thread wants.
pub(super) enum Request {
    /// Commit these.
    Commit {
        /// Partition and what to commit.
        commits: Vec<(i32, Commit)>,
        /// Whether the metadata goes with them.
        with_metadata: bool,
    },
    /// Where do these partitions stand?
    Committed(Vec<i32>),
    /// Do the brokers answer?
    Probe,
}

/// What came of a request.
pub(super) enum Answer {
    /// Of a commit.
    Commit {
        /// What was to be committed.
        commits: Vec<(i32, Commit)>,
        /// Whether it was.
        result: KafkaResult<()>,
    },
    /// Of a look-up; and how many partitions the topic has, 0 where the brokers did not say.
    Committed(KafkaResult<Vec<Standing>>, usize),
    /// The brokers answered, or not.
    Probe(bool),
}

/// Where the group stands in one partition.
#[derive(Debug, PartialEq, Eq)]
pub(super) struct Standing {
    pub(super) partition: i32,
    /// None where nothing is committed.
    pub(super) committed: Option<NextOffset>,
    pub(super) metadata: String,
}

/// The watch over the request that a thread makes, until its consumer was replaced: what hangs in that one then concerns nobody.
#[derive(Default)]
struct Watching(Mutex<State>);

#[derive(Default)]
struct State {
    replaced: bool,
    request: Option<Watched>,
}

impl Watching {
    fn state(&self) -> MutexGuard<'_, State> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn begin(&self, watch: &Watch) {
        let mut state = self.state();
        if !state.replaced {
            state.request = Some(watch.begin("commit, committed offsets or metadata of invocations", OVERDUE));
        }
    }

    fn end(&self) {
        self.state().request = None;
    }

    fn replaced(&self) {
        *self.state() = State { replaced: true, request: None };
    }
}

/// The thread, for the poll thread.
pub(super) struct Offsets {
    requests: Option<SyncSender<Request>>,
    thread: Option<JoinHandle<()>>,
    notes: Sender<Note>,
    topic: String,
    health: Arc<Health>,
    watch: Watch,
    watching: Arc<Watching>,
    /// How many consumers there were before the one that it asks with.
    epoch: u64,
}

impl Offsets {
    pub(super) fn start(
        consumer: &Arc<InvocationConsumer>,
        topic: &str,
        notes: Sender<Note>,
        health: Arc<Health>,
        watch: Watch,
    ) -> Result<Self, ClientError> {
        let (requests, thread) = (None, None);
        let watching = Arc::default();
        let none = Self { requests, thread, notes, topic: topic.to_owned(), health, watch, watching, epoch: 0 };
        none.spawn(consumer, 0)
    }

    /// The same for another consumer. Answers of this one's thread are told apart by its [`epoch`](Self::epoch).
    pub(super) fn start_again(&self, consumer: &Arc<InvocationConsumer>) -> Result<Self, ClientError> {
        self.spawn(consumer, self.epoch + 1)
    }

    fn spawn(&self, consumer: &Arc<InvocationConsumer>, epoch: u64) -> Result<Self, ClientError> {
        let (requests, asked) = sync_channel(WAITING_MAX);
        let (topic, notes, watch) = (self.topic.clone(), self.notes.clone(), self.watch.clone());
        let watching = Arc::<Watching>::default();
        let worker =
            Worker { consumer: Arc::clone(consumer), topic, notes, watch, watching: Arc::clone(&watching), epoch };
        let health = Arc::clone(&self.health);
        let thread = std::thread::Builder::new()
            .name(THREAD.to_owned())
            .spawn(move || {
                let _guard = PanicGuard(|| health.failed_for_good("the thread that commits offsets panicked"));
                worker.run(&asked);
            })
            .map_err(|source| ClientError::Thread { name: THREAD.to_owned(), source })?;
        Ok(Self {
            requests: Some(requests),
            thread: Some(thread),
            notes: self.notes.clone(),
            topic: self.topic.clone(),
            health: Arc::clone(&self.health),
            watch: self.watch.clone(),
            watching,
            epoch,
        })
    }

    /// Where answers go.
    pub(super) fn notes(&self) -> Sender<Note> {
        self.notes.clone()
    }

    /// See [`start_again`](Self::start_again).
    pub(super) fn epoch(&self) -> u64 {
        self.epoch
    }

    /// Hands a request over without waiting. False where too many wait, or the thread is gone.
    pub(super) fn ask(&self, request: Request) -> bool {
        self.requests.as_ref().is_some_and(|requests| requests.try_send(request).is_ok())
    }

    /// Another consumer has taken the place of this one: its thread ends by itself, or hangs in a request that nobody waits for.
    pub(super) fn replaced(self) {
        self.watching.replaced();
        self.stop(false);
    }

    /// Ends the thread after the request under way, and waits for it where `wait` says so.
    pub(super) fn stop(mut self, wait: bool) {
        self.requests = None;
        if let Some(thread) = self.thread.take().filter(|_| wait)
            && thread.join().is_err()
        {
            tracing::error!("the thread that commits offsets had panicked");
        }
    }
}

struct Worker {
    consumer: Arc<InvocationConsumer>,
    topic: String,
    notes: Sender<Note>,
    watch: Watch,
    watching: Arc<Watching>,
    epoch: u64,
}

impl Worker {
    fn run(self, asked: &Receiver<Request>) {
        for request in asked {
            self.watching.begin(&self.watch);
            let answer = match request {
                Request::Commit { commits, with_metadata } => {
                    let result = self.commit(&commits, with_metadata);
                    Answer::Commit { commits, result }
                }
                Request::Committed(partitions) => {
                    let all = partition_ids(self.consumer.client(), &self.topic, REQUEST);
                    let all = all.ok().flatten().map_or(0, |all| all.len());
                    Answer::Committed(self.committed(&partitions), all)
                }
                Request::Probe => {
                    Answer::Probe(matches!(partition_ids(self.consumer.client(), &self.topic, REQUEST), Ok(Some(_))))
                }
            };
            self.watching.end();
            if self.notes.send(Note::Answer(self.epoch, answer)).is_err() {
                return;
            }
        }
    }

    fn commit(&self, commits: &[(i32, Commit)], with_metadata: bool) -> KafkaResult<()> {
        self.consumer.commit(&list(&self.topic, commits, with_metadata)?, CommitMode::Sync)
    }

    fn committed(&self, partitions: &[i32]) -> KafkaResult<Vec<Standing>> {
        let mut list = TopicPartitionList::with_capacity(partitions.len());
        for &partition in partitions {
            list.add_partition(&self.topic, partition);
        }
        let list = self.consumer.committed_offsets(list, REQUEST)?;
        let mut standings = Vec::with_capacity(partitions.len());
        for element in list.elements() {
            element.error()?;
            let committed = match element.offset() {
                At::Offset(next) => Some(NextOffset(next)),
                At::Invalid | At::Beginning | At::End | At::Stored | At::OffsetTail(_) => None,
            };
            // rdkafka panics on metadata that is not UTF-8, which only another program can have committed.
            let metadata = std::panic::catch_unwind(std::panic::AssertUnwindSafe(|| element.metadata().to_owned()));
            let metadata = metadata.unwrap_or_else(|_| "not UTF-8".to_owned());
            standings.push(Standing { partition: element.partition(), committed, metadata });
        }
        Ok(standings)
    }
}

/// The offsets as librdkafka takes them.
pub(super) fn list(topic: &str, commits: &[(i32, Commit)], with_metadata: bool) -> KafkaResult<TopicPartitionList> {
    let mut list = TopicPartitionList::with_capacity(commits.len());
    for (partition, commit) in commits {
        let mut element = list.add_partition(topic, *partition);
        element.set_offset(At::Offset(commit.next.0))?;
        if with_metadata && !commit.metadata.is_empty() {
            element.set_metadata(&commit.metadata);
        }
    }
    Ok(list)
}

/// Whether a commit failed because this node is no longer, or not yet again, a member that may commit. That is part of
/// every rebalance; whoever holds the partition then runs what was not committed.
pub(super) fn is_rebalancing(error: &KafkaError) -> bool {
    use rdkafka::error::RDKafkaErrorCode as Code;
    matches!(
        error.rdkafka_error_code(),
        Some(
            Code::RebalanceInProgress
                | Code::UnknownMemberId
                | Code::IllegalGeneration
                | Code::StaleMemberEpoch
                | Code::FencedMemberEpoch
                | Code::AssignmentLost
        )
    )
}

/// Whether a request failed because the group's coordinator is on its way to another broker. That passes within seconds.
pub(super) fn is_moving(error: &KafkaError) -> bool {
    use rdkafka::error::RDKafkaErrorCode as Code;
    matches!(
        error.rdkafka_error_code(),
        Some(
            Code::CoordinatorLoadInProgress
                | Code::CoordinatorNotAvailable
                | Code::NotCoordinator
                | Code::WaitingForCoordinator
        )
    )
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_request_of_a_consumer_that_was_replaced_is_not_watched_any_more() {
        let watching = Watching::default();
        watching.begin(&Watch::default());
        assert!(watching.state().request.is_some());
        watching.end();
        assert!(watching.state().request.is_none());
        watching.begin(&Watch::default());
        watching.replaced();
        assert!(watching.state().request.is_none());
        watching.begin(&Watch::default());
        assert!(watching.state().request.is_none());
    }
}
