//! Reads every partition of a topic, outside any consumer group, and follows it.
//!
//! Duty: offer each message once to a [`Follower`] on a thread of its own, know when everything that was there has been
//! read, and take up partitions that are added later. Must not: keep messages, commit, or block anyone but itself.
//!
//! **Where the end is.** A partition's end may lie behind records that are never delivered (transaction markers, records
//! of transactions that were given up, holes from compaction), so "the last message's offset + 1 equals the end" need
//! never become true. librdkafka has an event for the end of a partition, but rdkafka drops its offset, and one that was
//! waiting in the queue may be older than the question. So the end counts as reached when
//! - the next offset to read is not below the end that the broker named, or
//! - an end-of-partition event comes that is certainly younger than that answer: the first after an `assign` or a `seek`
//!   that itself came after the answer. Both throw older events away.

use std::collections::BTreeMap;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Condvar, Mutex, OnceLock};
use std::thread::JoinHandle;
use std::time::{Duration, Instant};

use rdkafka::consumer::{BaseConsumer, Consumer};
use rdkafka::error::KafkaError;
use rdkafka::{Offset as At, TopicPartitionList};

mod client;
mod message;
mod passed;

use self::client::{Context, consumer};
pub use self::message::Message;
use self::message::offer;
pub use self::passed::Passed;
pub(super) use self::passed::Totals;
use self::passed::Troubles;
pub use super::fence::{FENCES_WAITING_MAX, Fenced, Fences};
use super::fence::{Shared, Then};
use super::queue::{Polled, Queue};
use super::{ClientError, Connection, Health, Renew, Renewal, is_of_one_broker, retire, topics};
use crate::types::Timestamp;

/// How long a poll waits, and so how soon a fence or a stop is noticed.
const POLL: Duration = Duration::from_millis(20);
/// How long a request to the brokers may take.
const REQUEST: Duration = Duration::from_secs(5);
/// How often partitions are looked for that were added.
const PARTITIONS_EVERY: Duration = Duration::from_secs(30);
/// Waits between attempts that failed: this at first, doubling up to the next.
const BACKOFF_MIN: Duration = Duration::from_millis(50);
const BACKOFF_MAX: Duration = Duration::from_secs(5);
/// How long requests may take in truth, in spite of their limits, before the watch says so.
const OVERDUE: Duration = Duration::from_secs(120);
/// How long a fence waits for messages before it asks for the end of the partition to be reported anew.
const FENCE_SEEK_AFTER: Duration = Duration::from_millis(100);

/// Where reading begins.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Start {
    /// At the oldest message of every partition.
    Beginning,
    /// At the first message whose timestamp is not below `time`, and in each partition no later than `records` offsets before
    /// its end: timestamps are their senders', and may say anything.
    Since {
        /// The timestamp.
        time: Timestamp,
        /// The offsets.
        records: u32,
    },
    /// At what is written from now on.
    End,
}

/// What to do after a message was offered.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Step {
    /// Go on.
    Done,
    /// Offer the same message again, after a wait that doubles from 50 ms to 5 s. Nothing else is read meanwhile.
    Again,
}

/// Who gets the messages, on the tail's own thread.
pub trait Follower: Send + 'static {
    /// A message. Those of one partition come in order.
    fn message(&mut self, message: &Message<'_>) -> Step;

    /// Everything that was in the topic when reading began has been offered. Comes once.
    fn caught_up(&mut self) {}
}

/// A tail that runs. Dropping it stops it and waits for its thread.
pub struct Tail {
    shared: Arc<Shared>,
    thread: Option<JoinHandle<()>>,
}

impl Tail {
    /// Starts reading `topic` on a thread named `name`. A topic that does not exist yet is waited for.
    ///
    /// # Errors
    /// Where the client's settings are refused, or the thread cannot be started.
    pub fn start(
        connection: &Connection,
        topic: &str,
        name: &'static str,
        start: Start,
        follower: impl Follower,
    ) -> Result<Self, ClientError> {
        let shared = Arc::new(Shared {
            topic: topic.to_owned(),
            asked: Mutex::default(),
            stopping: Condvar::new(),
            caught_up: AtomicBool::new(false),
            places: Mutex::default(),
            reader: OnceLock::new(),
            health: Health::new(name),
            passed: Mutex::default(),
        });
        let consumer = consumer(connection, &shared, name)?;
        let queue = Queue::of(&consumer).map_err(|error| ClientError::create(name, &error))?;
        let reader = Reader {
            shared: Arc::clone(&shared),
            renewal: Renewal::new(&connection.watch),
            connection: connection.clone(),
            queue: Arc::new(queue),
            consumer,
            troubles: Troubles::default(),
            follower,
            start,
            partitions: BTreeMap::new(),
            behind: BTreeMap::new(),
            looked_at: None,
            backoff: BACKOFF_MIN,
            batch: None,
        };
        let thread = std::thread::Builder::new()
            .name(name.to_owned())
            .spawn(move || reader.run())
            .map_err(|source| ClientError::Thread { name: name.to_owned(), source })?;
        Ok(Self { shared, thread: Some(thread) })
    }

    /// Who asks for fences.
    pub fn fences(&self) -> Fences {
        Fences(Arc::clone(&self.shared))
    }

    /// What was passed over, because it cannot be read.
    pub fn passed(&self) -> Passed {
        Passed(Arc::clone(&self.shared))
    }

    /// Whether everything that was in the topic at the start has been offered.
    pub fn is_caught_up(&self) -> bool {
        self.shared.caught_up.load(Ordering::Acquire)
    }

    /// How the brokers do, as this tail sees it.
    pub fn health(&self) -> &Health {
        &self.shared.health
    }

    /// Whether the thread has ended, which it does by itself only where the follower panicked.
    pub fn is_finished(&self) -> bool {
        self.thread.as_ref().is_none_or(JoinHandle::is_finished)
    }

    /// Stops, and waits for the thread: up to the time of one message and one request to the brokers (5 s).
    pub fn stop(mut self) {
        self.stop_and_join();
    }

    fn stop_and_join(&mut self) {
        self.shared.asked().stop = true;
        self.shared.stopping.notify_all();
        if let Some(thread) = self.thread.take()
            && thread.join().is_err()
        {
            tracing::error!(topic = self.shared.topic, "the thread that read the topic had panicked");
        }
    }
}

impl Drop for Tail {
    fn drop(&mut self) {
        self.stop_and_join();
    }
}

/// Fences that wait for the same ends.
struct Batch {
    waiting: Vec<Then>,
    /// Partition → the end (exclusive) that has to be read; those reached are removed.
    ends: BTreeMap<i32, i64>,
    since: Instant,
    sought: bool,
}

struct Reader<F> {
    shared: Arc<Shared>,
    connection: Connection,
    renewal: Renewal,
    // Before its consumer: it must not outlive it.
    queue: Arc<Queue<Context>>,
    consumer: Arc<BaseConsumer<Context>>,
    troubles: Troubles,
    follower: F,
    start: Start,
    /// Partition → the next offset to read.
    partitions: BTreeMap<i32, i64>,
    /// Partition → its end (exclusive) at the start, while that has not been read.
    behind: BTreeMap<i32, i64>,
    /// When partitions were looked for last.
    looked_at: Option<Instant>,
    backoff: Duration,
    batch: Option<Batch>,
}

impl<F: Follower> Reader<F> {
    fn run(mut self) {
        // Once: no other thread reads.
        let _ = self.shared.reader.set(std::thread::current());
        while !self.shared.asked().stop {
            self.renew_where_dead();
            // The look for partitions is also how a quiet topic's reader learns that the brokers are back.
            let watched = self.connection.watch.begin("requests of a topic's reader", OVERDUE);
            let every = if self.shared.health.is_down() { self.backoff } else { PARTITIONS_EVERY };
            if self.looked_at.is_none_or(|looked_at| looked_at.elapsed() >= every) {
                self.look_for_partitions();
            }
            self.take_fences();
            self.serve_troubles();
            drop(watched);
            let queue = Arc::clone(&self.queue);
            match queue.poll() {
                Some(Polled::Record(record)) => {
                    self.shared.health.works();
                    self.goes_on(record.partition(), record.offset());
                    if !offer(&self.shared, &mut self.follower, &record) {
                        break;
                    }
                    let (partition, next) = (record.partition(), record.offset() + 1);
                    drop(record);
                    self.read_up_to(partition, next, false);
                }
                Some(Polled::EndOf(partition)) => {
                    if let Some(&next) = self.partitions.get(&partition) {
                        self.read_up_to(partition, next, true);
                    }
                }
                Some(Polled::Failed(error)) => self.partition_failed(error),
                Some(Polled::Error(error)) if is_of_one_broker(&error) => {}
                Some(Polled::Error(error)) => self.failed(&error),
                // It waits by itself: librdkafka would wait by the wall clock, and for as long as that was set back.
                None => std::thread::park_timeout(POLL),
            }
            self.push_batch();
        }
        self.stop();
    }

    /// Takes another consumer where this one stays down while the brokers answer others, or where the clock was set back.
    ///
    /// After five new consumers in vain the reader stays as it is until it works: its topic may be missing or forbidden, of which
    /// the witness knows nothing, and neither is a reason to end the process.
    fn renew_where_dead(&mut self) {
        let Connection { watch, witness, .. } = &self.connection;
        let is_down = self.shared.health.is_down();
        let found_since = is_down.then(|| witness.look()).flatten().and_then(|look| look.leaders_since);
        if self.renewal.look(Instant::now(), is_down, found_since, watch.set_back()) != Renew::Now {
            return;
        }
        let (topic, role) = (&self.shared.topic, self.consumer.context().role);
        tracing::warn!(topic, reason = self.shared.health.reason(), "the reader of a topic is made anew");
        let fresh = consumer(&self.connection, &self.shared, role).and_then(|fresh| {
            let queue = Queue::of(&fresh).map_err(|error| ClientError::create(role, &error))?;
            Ok((fresh, queue))
        });
        match fresh {
            Ok((fresh, queue)) => {
                // Before its consumer, which ends elsewhere.
                drop(std::mem::replace(&mut self.queue, Arc::new(queue)));
                let old = std::mem::replace(&mut self.consumer, fresh);
                old.context().replaced.store(true, Ordering::Release);
                retire(old, watch);
            }
            Err(error) => return self.failed(&error),
        }
        if let Some(batch) = &mut self.batch {
            batch.sought = false;
        }
        if !self.partitions.is_empty()
            && let Err(error) = self.assign()
        {
            self.failed(&error);
        }
        // Looked for at once, which is how a quiet topic's reader learns that the brokers answer it.
        self.looked_at = None;
    }

    fn stop(&mut self) {
        let mut asked = std::mem::take(&mut self.shared.asked().fences);
        asked.extend(self.batch.take().into_iter().flat_map(|batch| batch.waiting));
        for then in asked {
            then(Fenced::Stopped);
        }
    }

    fn failed(&mut self, error: &dyn std::fmt::Display) {
        self.shared.health.failed(&format_args!("topic {}: {error}", self.shared.topic));
    }

    /// Notes that everything of `partition` below `next` was offered, and with `at_end`, that its end was met there.
    fn read_up_to(&mut self, partition: i32, mut next: i64, at_end: bool) {
        if let Some(batch) = &mut self.batch
            && let Some(&end) = batch.ends.get(&partition)
            && (next >= end || (batch.sought && at_end))
        {
            next = next.max(end);
            batch.ends.remove(&partition);
        }
        self.partitions.insert(partition, next);
        if let Some(&end) = self.behind.get(&partition) {
            // Reading began after the ends were asked for, so every end event is young here.
            if next >= end || at_end {
                self.behind.remove(&partition);
                self.shared.places().remove(&partition);
                self.say_caught_up();
            } else {
                self.shared.places().insert(partition, (next, end));
            }
        }
    }

    fn say_caught_up(&mut self) {
        if self.behind.is_empty() && !self.shared.caught_up.swap(true, Ordering::AcqRel) {
            self.follower.caught_up();
        }
    }

    /// Begins to read partitions that are new; at first that is every one.
    fn look_for_partitions(&mut self) {
        match self.take_up_new_partitions() {
            Ok(()) => {
                self.shared.health.works();
                self.backoff = BACKOFF_MIN;
                self.looked_at = Some(Instant::now());
            }
            Err(error) => self.back_off(&error),
        }
    }

    fn back_off(&mut self, error: &ClientError) {
        self.failed(error);
        self.looked_at = Some(Instant::now());
        self.backoff = (self.backoff * 2).min(BACKOFF_MAX);
    }

    fn take_up_new_partitions(&mut self) -> Result<(), ClientError> {
        let topic = &self.shared.topic;
        // What is heard of connections stands beside it: see `Health::heard`.
        let wrap =
            |source| ClientError::Metadata { topic: topic.clone(), source: Box::new(source), heard: String::new() };
        let of = |partition| move |source| ClientError::Partition { topic: topic.clone(), partition, source };
        let ids = topics::partition_ids(self.consumer.client(), topic, REQUEST)?
            .ok_or_else(|| ClientError::TopicMissing { topic: topic.clone(), partitions: 1 })?;
        let new: Vec<i32> = ids.into_iter().filter(|id| !self.partitions.contains_key(id)).collect();
        if new.is_empty() {
            return Ok(());
        }
        // What is in a partition that is added later was written after the start.
        let start = if self.partitions.is_empty() { self.start } else { Start::Beginning };
        let mut began = Vec::with_capacity(new.len());
        for &partition in &new {
            let (low, high) = self.consumer.fetch_watermarks(topic, partition, REQUEST).map_err(of(partition))?;
            began.push((partition, low, high));
        }
        let since = match start {
            Start::Since { time, records } => Some((self.offsets_since(&new, time).map_err(wrap)?, records)),
            Start::Beginning | Start::End => None,
        };
        let first = self.partitions.is_empty();
        for (partition, low, high) in began {
            let next = match &since {
                Some((since, records)) => {
                    since.get(&partition).copied().unwrap_or(high).min(high - i64::from(*records)).max(low)
                }
                None if start == Start::End => high,
                None => low,
            };
            self.partitions.insert(partition, next);
            if first && next < high {
                self.behind.insert(partition, high);
                self.shared.places().insert(partition, (next, high));
            }
        }
        self.assign()?;
        self.say_caught_up();
        Ok(())
    }

    /// Partition → the first offset at or after `time`; partitions without one are left out.
    fn offsets_since(&self, partitions: &[i32], time: Timestamp) -> Result<BTreeMap<i32, i64>, KafkaError> {
        let mut asked = TopicPartitionList::with_capacity(partitions.len());
        for &partition in partitions {
            asked.add_partition_offset(&self.shared.topic, partition, At::Offset(time.as_millis().max(0)))?;
        }
        let answered = self.consumer.offsets_for_times(asked, REQUEST)?;
        let mut offsets = BTreeMap::new();
        for element in answered.elements() {
            element.error()?;
            if let At::Offset(offset) = element.offset() {
                offsets.insert(element.partition(), offset);
            }
        }
        Ok(offsets)
    }

    fn assign(&mut self) -> Result<(), ClientError> {
        let topic = &self.shared.topic;
        let wrap = |source| ClientError::Subscribe { topic: topic.clone(), source };
        let mut list = TopicPartitionList::with_capacity(self.partitions.len());
        for (&partition, &next) in &self.partitions {
            list.add_partition_offset(topic, partition, At::Offset(next)).map_err(wrap)?;
        }
        self.consumer.assign(&list).map_err(wrap)
    }

    /// Turns fences that were asked for into a batch, one at a time.
    fn take_fences(&mut self) {
        // Before the first assignment there is nothing to measure against, and while the brokers are away the attempt to
        // find partitions is also the sign that they are back.
        if self.batch.is_some() || self.partitions.is_empty() || self.backoff > BACKOFF_MIN {
            return;
        }
        let waiting = std::mem::take(&mut self.shared.asked().fences);
        if waiting.is_empty() {
            return;
        }
        match self.ends() {
            Ok(ends) => self.batch = Some(Batch { waiting, ends, since: Instant::now(), sought: false }),
            Err(error) => {
                self.shared.asked().fences.splice(0..0, waiting);
                self.back_off(&error);
            }
        }
    }

    /// Partition → its end now, where that has not been read yet.
    fn ends(&mut self) -> Result<BTreeMap<i32, i64>, ClientError> {
        self.take_up_new_partitions()?;
        let topic = &self.shared.topic;
        let mut ends = BTreeMap::new();
        for (&partition, &next) in &self.partitions {
            let (_, end) = self
                .consumer
                .fetch_watermarks(topic, partition, REQUEST)
                .map_err(|source| ClientError::Partition { topic: topic.clone(), partition, source })?;
            if next < end {
                ends.insert(partition, end);
            }
        }
        Ok(ends)
    }

    /// Ends the batch where it is read; where it is stuck, asks for the ends to be reported anew.
    fn push_batch(&mut self) {
        let Some(batch) = &mut self.batch else { return };
        if batch.ends.is_empty() {
            for then in self.batch.take().into_iter().flat_map(|batch| batch.waiting) {
                then(Fenced::Read);
            }
        } else if !batch.sought && batch.since.elapsed() >= FENCE_SEEK_AFTER {
            batch.sought = true;
            for &partition in batch.ends.keys() {
                let Some(&next) = self.partitions.get(&partition) else { continue };
                if let Err(error) = self.consumer.seek(&self.shared.topic, partition, At::Offset(next), REQUEST) {
                    tracing::debug!(topic = self.shared.topic, partition, %error, "seek failed; tried again");
                    batch.sought = false;
                    batch.since = Instant::now();
                }
            }
        }
    }
}
