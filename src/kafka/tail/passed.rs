//! Batches of a followed topic that cannot be read: each is tried for five seconds and then passed over, so that it keeps
//! nothing behind it waiting.
//!
//! Must not: pass over what a client may not read, or a broker does not give now; those are waited for.

use std::collections::BTreeMap;
use std::sync::mpsc::{Receiver, Sender, channel};
use std::sync::{Arc, PoisonError};
use std::time::{Duration, Instant};

use rdkafka::consumer::Consumer;
use rdkafka::error::{KafkaError, RDKafkaErrorCode as Code};
use rdkafka::topic_partition_list::Offset as At;

use super::{Follower, REQUEST, Reader};
use crate::kafka::fence::Shared;
use crate::kafka::queue::PartitionError;
use crate::kafka::{batch_end, is_of_a_batch, is_of_one_broker};
use crate::types::{Condition, ConditionKind};

/// How long, and how often, a batch is tried at least. librdkafka tries every half second.
const PATIENCE: Duration = Duration::from_secs(5);
const ATTEMPTS_MIN: u32 = 3;
/// How long somebody may look where a batch ends; three times what a search is given.
const LOOK_MAX: Duration = Duration::from_secs(60);
/// Batches that are remembered as conditions; the newest stay.
const REMEMBERED_MAX: usize = 32;

/// What was passed over.
#[derive(Debug, Default)]
pub(in crate::kafka) struct Totals {
    batches: u64,
    last: Vec<Condition>,
}

/// Asks a tail what it passed over. Cheap to clone.
#[derive(Clone)]
pub struct Passed(pub(super) Arc<Shared>);

impl Passed {
    /// How many batches.
    pub fn batches(&self) -> u64 {
        self.0.passed.lock().unwrap_or_else(PoisonError::into_inner).batches
    }

    /// The last of them, at most 32, as conditions of the node.
    pub fn conditions(&self) -> Vec<Condition> {
        self.0.passed.lock().unwrap_or_else(PoisonError::into_inner).last.clone()
    }
}

/// Of one partition: the batch that cannot be read.
struct Trouble {
    error: PartitionError,
    since: Instant,
    failures: u32,
    /// Since when somebody looks where it ends.
    looked_at: Option<Instant>,
}

/// What was found: partition, an offset in the batch, and the first one behind it.
type Found = (i32, i64, Option<i64>);

/// The batches that are being tried.
pub(super) struct Troubles {
    partitions: BTreeMap<i32, Trouble>,
    found: Receiver<Found>,
    finds: Sender<Found>,
}

impl Default for Troubles {
    fn default() -> Self {
        let (finds, found) = channel();
        Self { partitions: BTreeMap::new(), found, finds }
    }
}

impl Troubles {
    /// A batch was tried in vain. True where that is news.
    fn failed(&mut self, now: Instant, error: PartitionError) -> bool {
        // Behind a batch that it cannot read, librdkafka may go on and meet something else; the first one stands.
        let known = self.partitions.get_mut(&error.partition).filter(|trouble| trouble.error.offset <= error.offset);
        if let Some(trouble) = known {
            trouble.failures += 1;
            return false;
        }
        self.partitions.insert(error.partition, Trouble { error, since: now, failures: 1, looked_at: None });
        true
    }

    /// A batch that was tried for long enough, and whose end is to be looked for; once until [`found`](Self::found).
    fn take_due(&mut self, now: Instant) -> Option<(i32, i64)> {
        let is_due = |trouble: &Trouble| {
            let is_over = now.duration_since(trouble.since) >= PATIENCE && trouble.failures >= ATTEMPTS_MIN;
            (is_over || trouble.error.is_oversized)
                && trouble.looked_at.is_none_or(|looked_at| now.duration_since(looked_at) >= LOOK_MAX)
        };
        let (&partition, trouble) = self.partitions.iter_mut().find(|(_, trouble)| is_due(trouble))?;
        trouble.looked_at = Some(now);
        Some((partition, trouble.error.offset))
    }

    /// The batch, where it is still the one that its partition stands at and its end is known. Otherwise it is tried on.
    fn found(&mut self, now: Instant, (partition, offset, end): Found) -> Option<(PartitionError, i64)> {
        let trouble = self.partitions.get_mut(&partition).filter(|trouble| trouble.error.offset == offset)?;
        let Some(end) = end else {
            (trouble.looked_at, trouble.since) = (None, now);
            return None;
        };
        self.partitions.remove(&partition).map(|trouble| (trouble.error, end))
    }

    /// A record came. Answers the error of the batch before it, where librdkafka went on behind that one by itself.
    fn goes_on(&mut self, partition: i32, offset: i64) -> Option<PartitionError> {
        if self.partitions.get(&partition).is_some_and(|trouble| offset < trouble.error.offset) {
            // librdkafka may lose its place at such a batch, and begin anew.
            return None;
        }
        let trouble = self.partitions.remove(&partition)?;
        let is_skipped = matches!(trouble.error.code, Code::BadMessage | Code::NotImplemented);
        (is_skipped && offset > trouble.error.offset).then_some(trouble.error)
    }

    pub(super) fn is_empty(&self) -> bool {
        self.partitions.is_empty()
    }
}

impl<F: Follower> Reader<F> {
    pub(super) fn partition_failed(&mut self, error: PartitionError) {
        let PartitionError { partition, offset, ref reason, code, .. } = error;
        if is_of_one_broker(&KafkaError::MessageConsumption(code)) {
            return;
        }
        if !is_of_a_batch(code) || offset < 0 {
            return self.failed(&format_args!("partition {partition}: {code} ({reason})"));
        }
        let topic = &self.shared.topic;
        let reason = reason.clone();
        if self.troubles.failed(Instant::now(), error) {
            tracing::warn!(topic, partition, offset, %code, reason, "a batch cannot be read; it is tried again for 5 s");
        }
    }

    /// A record came, and what stood before it was read or passed over.
    pub(super) fn goes_on(&mut self, partition: i32, offset: i64) {
        if !self.troubles.is_empty()
            && let Some(error) = self.troubles.goes_on(partition, offset)
        {
            self.passed(&error, offset);
        }
    }

    /// Takes every step whose time has come.
    pub(super) fn serve_troubles(&mut self) {
        if self.troubles.is_empty() {
            return;
        }
        let now = Instant::now();
        if let Some((partition, offset)) = self.troubles.take_due(now) {
            let finds = self.troubles.finds.clone();
            let then = move |end| {
                // The reader has ended where nobody listens.
                let _ = finds.send((partition, offset, end));
            };
            batch_end::search(&self.connection, &self.shared.topic, partition, offset, then);
        }
        while let Ok(found) = self.troubles.found.try_recv() {
            let Some((error, end)) = self.troubles.found(now, found) else { continue };
            let partition = error.partition;
            if let Err(fault) = self.consumer.seek(&self.shared.topic, partition, At::Offset(end), REQUEST) {
                tracing::debug!(topic = self.shared.topic, partition, %fault, "a batch was not passed over; tried again");
                self.troubles.failed(now, error);
                continue;
            }
            self.passed(&error, end);
            self.read_up_to(partition, end, false);
        }
    }

    /// Says that a batch was passed over, up to `end` (exclusive).
    fn passed(&self, error: &PartitionError, end: i64) {
        let (topic, partition, first, last) = (&self.shared.topic, error.partition, error.offset, end - 1);
        let reason = &error.reason;
        tracing::error!(topic, partition, first, last, reason, "records that cannot be read are passed over");
        let detail = format!(
            "offsets {first} to {last} cannot be read and were passed over: {reason:?}; write again what they held"
        );
        let condition =
            Condition { kind: ConditionKind::RecordsPassed, subject: format!("{topic}/{partition}"), detail };
        let mut passed = self.shared.passed.lock().unwrap_or_else(PoisonError::into_inner);
        passed.batches += 1;
        if passed.last.len() >= REMEMBERED_MAX {
            passed.last.remove(0);
        }
        passed.last.push(condition);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const S: Duration = Duration::from_secs(1);

    fn error(partition: i32, offset: i64, code: Code) -> PartitionError {
        PartitionError { partition, offset, code, reason: "does not unpack".to_owned(), is_oversized: false }
    }

    #[test]
    fn a_batch_is_tried_for_its_time_and_looked_at_once() {
        let (start, mut troubles) = (Instant::now(), Troubles::default());
        assert!(troubles.failed(start, error(0, 7, Code::BadCompression)));
        assert!(!troubles.failed(start + S, error(0, 7, Code::BadCompression)));
        assert_eq!(troubles.take_due(start + S * 5), None, "twice is not often enough");
        troubles.failed(start + S * 2, error(0, 7, Code::BadCompression));
        assert_eq!(troubles.take_due(start + S * 4), None);
        assert_eq!(troubles.take_due(start + S * 5), Some((0, 7)));
        assert_eq!(troubles.take_due(start + S * 50), None);
        assert_eq!(troubles.take_due(start + S * 65), Some((0, 7)), "nobody came back");
        assert_eq!(troubles.found(start + S * 66, (0, 7, None)), None);
        assert_eq!(troubles.take_due(start + S * 70), None, "not found: five more seconds");
        assert_eq!(troubles.take_due(start + S * 71), Some((0, 7)));
        assert_eq!(troubles.found(start + S * 72, (0, 6, Some(9))), None, "of another batch");
        assert_eq!(troubles.found(start + S * 72, (0, 7, Some(9))).map(|(_, end)| end), Some(9));
        assert!(troubles.is_empty());
    }

    #[test]
    fn a_record_says_whether_the_batch_before_it_was_read() {
        let (now, mut troubles) = (Instant::now(), Troubles::default());
        for (code, offset, skipped) in [
            (Code::BadCompression, 7, false),
            (Code::BadCompression, 8, false),
            (Code::BadMessage, 7, false),
            (Code::BadMessage, 9, true),
            (Code::NotImplemented, 9, true),
        ] {
            troubles.failed(now, error(0, 7, code));
            assert_eq!(troubles.goes_on(0, offset).is_some(), skipped, "{code} {offset}");
            assert!(troubles.is_empty());
        }
        troubles.failed(now, error(1, 7, Code::BadMessage));
        assert!(troubles.goes_on(1, 3).is_none() && !troubles.is_empty(), "one before it says nothing");
    }
}
