//! Lag that no call stands behind: control records of transactions, and records of those that were aborted, at the end of a
//! partition. They are never delivered, so no message moves the offset past them, and the group's lag would stay above 0.
//!
//! A partition in which nothing has happened for a while is compared with its end as the brokers tell it, which for readers of
//! committed records is the last stable offset. Where it lies further, a reader of its own, outside the group, reads from there:
//! if the end of the partition comes before any record, there is none in between. Must not: disturb the consumer, which goes
//! on fetching meanwhile, or guess: what cannot be read stays as lag.
//!
//! Bounds: one look at a time, every five seconds; 1,000 partitions a look.

use std::collections::BTreeMap;
use std::sync::Arc;
use std::sync::mpsc::Sender;
use std::time::{Duration, Instant};

use rdkafka::consumer::{BaseConsumer, Consumer};
use rdkafka::error::KafkaResult;
use rdkafka::{Offset as At, TopicPartitionList};

use super::Sink;
use super::consumers::Consumers;
use super::counters::add;
use super::intake::{Intake, POLL};
use super::invocations::Note;
use crate::kafka::queue::{Polled, Queue};
use crate::kafka::{Connection, Quiet as Plain};
use crate::progress::Quiet;
use crate::types::NextOffset;

const THREAD: &str = "ends";
/// From one look to the next, and how long a partition has to have been quiet.
const EVERY: Duration = Duration::from_secs(5);
/// Most partitions in one look; the others have their turn when these have moved.
const PARTITIONS_MAX: usize = 1_000;
/// How long a request may take, and the reading.
const REQUEST: Duration = Duration::from_secs(5);
/// How long a look may take in truth before the watch says so.
const OVERDUE: Duration = Duration::from_secs(120);

/// A partition that was quiet, and the end up to which nothing can be delivered (exclusive).
pub(super) type Passed = (Quiet, NextOffset);

/// When to look, and at which partitions.
pub(super) struct Ends {
    look_at: Instant,
    /// Partitions that were quiet at the last look.
    were_quiet: Vec<Quiet>,
    under_way: bool,
}

impl Ends {
    pub(super) fn new(now: Instant) -> Self {
        Self { look_at: now + EVERY, were_quiet: Vec::new(), under_way: false }
    }

    /// Partitions to look at now: those that stand where they stood five seconds ago.
    fn due(&mut self, now: Instant, quiet: impl FnOnce() -> Vec<Quiet>) -> Vec<Quiet> {
        if self.under_way || now < self.look_at {
            return Vec::new();
        }
        self.look_at = now + EVERY;
        let quiet = quiet();
        let mut due: Vec<Quiet> = quiet.iter().filter(|quiet| self.were_quiet.contains(quiet)).copied().collect();
        due.truncate(PARTITIONS_MAX);
        self.were_quiet = quiet;
        due
    }
}

impl<S: Sink> Intake<S> {
    /// Looks for ends, where it is time and nothing else is in the way.
    pub(super) fn look_for_ends(&mut self, now: Instant) {
        let is_busy = self.stopped || self.doubt.is_in() || self.under_way.is_some();
        if is_busy {
            return;
        }
        let partitions = &self.partitions;
        let due = self.ends.due(now, || partitions.quiet());
        if !due.is_empty() {
            self.ends.under_way = self.consumers.look_for_ends(due, self.offsets.notes());
        }
    }

    /// A look has ended.
    pub(super) fn pass_ends(&mut self, passed: &[Passed]) {
        self.ends.under_way = false;
        for &(quiet, end) in passed {
            if self.partitions.pass(quiet, end) {
                self.commits.changes += 1;
                add(&self.control.counters.passed, usize::try_from(end.0 - quiet.next.0).unwrap_or(usize::MAX));
                tracing::debug!(
                    partition = quiet.partition,
                    from = quiet.next.0,
                    to = end.0,
                    "records without a call passed"
                );
            }
        }
    }
}

impl Consumers {
    /// Looks on a thread of its own. False where there is none to be had.
    fn look_for_ends(&self, quiet: Vec<Quiet>, notes: Sender<Note>) -> bool {
        let (connection, topic) = (self.connection().clone(), self.topic().to_owned());
        let look = move || {
            let _watched = connection.watch.begin("ends of partitions", OVERDUE);
            let passed = look(&connection, &topic, &quiet).unwrap_or_else(|error| {
                tracing::debug!(topic, %error, "ends of partitions not looked for; tried again");
                Vec::new()
            });
            // The poll thread has ended where nobody listens.
            let _ = notes.send(Note::Ends(passed));
        };
        std::thread::Builder::new().name(THREAD.to_owned()).spawn(look).is_ok()
    }
}

/// Which of these partitions have records behind them that can never be delivered, and up to where.
fn look(connection: &Connection, topic: &str, quiet: &[Quiet]) -> KafkaResult<Vec<Passed>> {
    let made = connection.reader().create_with_context(Plain { role: THREAD });
    let consumer: Arc<BaseConsumer<Plain>> = Arc::new(made?);
    let queue = Queue::of(&consumer)?;
    let mut ends = ends(&consumer, topic, quiet)?;
    if ends.is_empty() {
        return Ok(Vec::new());
    }
    let mut list = TopicPartitionList::with_capacity(ends.len());
    for (&partition, (quiet, _)) in &ends {
        list.add_partition_offset(topic, partition, At::Offset(quiet.next.0))?;
    }
    consumer.assign(&list)?;
    let (mut passed, by) = (Vec::new(), Instant::now() + REQUEST);
    while !ends.is_empty() && Instant::now() < by {
        match queue.poll() {
            // A call: the group's consumer has it too, or will.
            Some(Polled::Record(record)) => drop(ends.remove(&record.partition())),
            // The reader began after the end was asked for, so this end is not an older one.
            Some(Polled::EndOf(partition)) => passed.extend(ends.remove(&partition)),
            // It holds up no other.
            Some(Polled::Failed(error)) => drop(ends.remove(&error.partition)),
            Some(Polled::Error(error)) => return Err(error),
            None => std::thread::sleep(POLL),
        }
    }
    Ok(passed)
}

/// By partition: where it is quiet and where it ends, for those that end further.
fn ends(consumer: &BaseConsumer<Plain>, topic: &str, quiet: &[Quiet]) -> KafkaResult<BTreeMap<i32, Passed>> {
    let mut asked = TopicPartitionList::with_capacity(quiet.len());
    for quiet in quiet {
        // The time -1 stands for the end.
        asked.add_partition_offset(topic, quiet.partition, At::End)?;
    }
    let answered = consumer.offsets_for_times(asked, REQUEST)?;
    let end_of = |partition: i32| {
        let element = answered.find_partition(topic, partition).filter(|element| element.error().is_ok())?;
        match element.offset() {
            At::Offset(end) => Some(NextOffset(end)),
            _ => None,
        }
    };
    let further = |quiet: &Quiet| {
        let end = end_of(quiet.partition).filter(|end| *end > quiet.next)?;
        Some((quiet.partition, (*quiet, end)))
    };
    Ok(quiet.iter().filter_map(further).collect())
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::types::Generation;

    #[test]
    fn partitions_that_stand_where_they_stood_are_looked_at() {
        let start = Instant::now();
        let quiet = |partition: i32, next: i64| Quiet { partition, generation: Generation(1), next: NextOffset(next) };
        let mut ends = Ends::new(start);
        assert_eq!(ends.due(start, || unreachable!("too early")), []);
        assert_eq!(ends.due(start + EVERY, || vec![quiet(0, 5), quiet(1, 7)]), []);
        assert_eq!(ends.due(start + EVERY * 2, || vec![quiet(0, 6), quiet(1, 7)]), [quiet(1, 7)]);
        ends.under_way = true;
        assert_eq!(ends.due(start + EVERY * 3, || unreachable!("one at a time")), []);
    }
}
