//! What the poll thread does with a partition that is not read: pauses it, tries it again, and passes a batch over where the
//! configuration says so.
//!
//! Must not: judge an error, or count time; `standing` does. No other partition is touched.

use std::sync::Arc;
use std::time::Instant;

use rdkafka::consumer::Consumer;
use rdkafka::error::KafkaError;
use rdkafka::topic_partition_list::Offset as At;

use super::counters::count;
use super::intake::Intake;
use super::invocations::Note;
use super::standing::Unreadable;
use super::{Poison, Received, Sink};
use crate::codec::DecodeError;
use crate::kafka::queue::PartitionError;
use crate::kafka::{batch_end, is_of_one_broker};
use crate::progress::Verdict;
use crate::types::Offset;

/// Bytes for which a message counts beside its own: its place in every table on its way.
pub(super) const MESSAGE_BYTES: usize = 512;

/// Where a batch ends that cannot be read, as far as somebody looked.
pub(super) struct BatchEnd {
    pub(super) batch: Unreadable,
    /// The first offset behind it; None where that was not found.
    pub(super) end: Option<i64>,
}

impl<S: Sink> Intake<S> {
    /// One partition was not read.
    pub(super) fn partition_failed(&mut self, error: PartitionError) {
        let is_of_ours = self.partitions.tracker(error.partition).is_some();
        // librdkafka tries on by itself where a broker does not answer.
        if !is_of_ours || is_of_one_broker(&KafkaError::MessageConsumption(error.code)) {
            return;
        }
        count(&self.control.counters.partition_errors);
        let PartitionError { partition, offset, ref reason, code, .. } = error;
        tracing::debug!(partition, offset, %code, reason, "a partition is not read");
        let reason = reason.clone();
        if self.standing.failed(Instant::now(), error) {
            tracing::warn!(
                topic = &*self.topic,
                partition,
                offset,
                %code,
                reason,
                "a partition stands, as it cannot be read here; others go on"
            );
        }
    }

    /// Whether a record is to be dropped, as its partition is read again from where it stands. One that is not ends the stand.
    pub(super) fn is_dropped(&mut self, partition: i32, offset: i64) -> bool {
        if self.standing.len() == 0 {
            return false;
        }
        if self.standing.drops(partition, offset, Instant::now()) {
            return true;
        }
        if self.standing.goes_on(partition) {
            tracing::info!(topic = &*self.topic, partition, "a partition that stood goes on");
        }
        false
    }

    /// Takes every step whose time has come. Called when partitions were paused and resumed, with what those wanted that are
    /// not paused for standing.
    pub(super) fn serve_standing(&mut self, now: Instant, wants_pause: impl Fn(&Self, i32) -> bool) {
        for partition in self.standing.settled(now) {
            tracing::info!(
                topic = &*self.topic,
                partition,
                "a partition that stood has nothing more that cannot be read"
            );
        }
        for partition in self.standing.due(now) {
            if wants_pause(self, partition) {
                continue;
            }
            let Some(stands_at) = self.standing.resumed(partition, now) else { continue };
            let next = self.partitions.tracker(partition).and_then(|tracker| tracker.next());
            // What of a batch was read before is not read again.
            let from = next.map_or(stands_at, |next| stands_at.max(next.0));
            if from < 0 {
                continue;
            }
            // Without waiting: what becomes of it is seen by what comes.
            let sought = self.consumer.seek(&self.topic, partition, At::Offset(from), std::time::Duration::ZERO);
            if let Err(error) = sought {
                tracing::debug!(partition, from, %error, "a partition that stands was not moved; tried again");
                self.standing.wait_again(partition, now);
            }
        }
        if let Some(batch) = self.standing.take_due(now, self.settings.pass_unreadable_after) {
            self.look_for_end(batch);
        }
    }

    fn look_for_end(&self, batch: Unreadable) {
        let (notes, connection) = (self.offsets.notes(), self.consumers.connection());
        let (partition, offset) = (batch.partition, batch.offset);
        batch_end::search(connection, &self.topic, partition, offset, move |end| {
            // The poll thread has ended where nobody listens.
            let _ = notes.send(Note::BatchEnd(BatchEnd { batch, end }));
        });
    }

    /// Somebody has looked where a batch ends.
    pub(super) fn batch_ends(&mut self, BatchEnd { batch, end }: BatchEnd) {
        let Unreadable { partition, offset, reason, waited, is_oversized } = batch;
        let now = Instant::now();
        let next = self.partitions.tracker(partition).and_then(|tracker| tracker.next());
        if !self.standing.found(now, partition, offset, end) {
            return;
        }
        let Some(last) = end.map(|end| end - 1) else { return };
        let first = next.map_or(offset, |next| offset.max(next.0));
        // The last offset stands for all: what lies below it and never came is a hole to the tracker.
        let position = match self.partitions.received(partition, Offset(last), MESSAGE_BYTES) {
            Verdict::New(position) => position,
            Verdict::Known | Verdict::Replayed | Verdict::NotOurs => return,
        };
        count(&self.control.counters.batches_passed);
        let waited_s = waited.as_secs();
        tracing::warn!(
            topic = &*self.topic,
            partition,
            first,
            last,
            waited_s,
            reason,
            "a batch that cannot be read is passed over"
        );
        let cause = if is_oversized { reason } else { format!("{reason} (ingest.pass-unreadable-after)") };
        let error = DecodeError::Unreadable { first, last, waited_s, cause };
        let content =
            Err(Poison { topic: Arc::clone(&self.topic), payload: None, omitted: Some(0), timestamp: None, error });
        self.hand_on(Received {
            position,
            key: None,
            headers: Vec::new(),
            bytes: MESSAGE_BYTES,
            received_at: now,
            content,
            original: None,
            is_refused: false,
        });
    }
}
