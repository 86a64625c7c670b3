//! What the consumer and the producer of one node say to each other where outcomes and offsets go into one transaction.
//!
//! Duty: the words between `publish`, which makes transactions, and `ingest`, which keeps the offsets. Must not: do either.

use rdkafka::TopicPartitionList;
use rdkafka::consumer::ConsumerGroupMetadata;
use rdkafka::error::RDKafkaErrorCode;

use crate::types::{Fate, Position};

/// What goes into a transaction besides the outcomes.
pub struct Prepared {
    /// What becomes of each outcome that was asked about, in the order in which they were given.
    pub fates: Vec<Fate>,
    /// The offsets to commit, with their metadata. Empty where no outcome is [`Fate::Taken`]: then there is no transaction.
    pub offsets: TopicPartitionList,
    /// The membership under which they are committed; brokers refuse that of a node whose partitions were taken from it.
    pub group: ConsumerGroupMetadata,
}

/// Why no transaction can be made.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Unprepared {
    /// The membership is not to be had at the moment: to be asked again.
    NotNow,
    /// The thread that keeps the offsets has ended: nobody here answers for any message, and what is not stored is read again
    /// by whoever comes next.
    Ended,
}

/// How a transaction ended.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Settled {
    /// Its outcomes and offsets are stored.
    Committed,
    /// Nothing of it is, and that is certain. The cause, where the brokers named one.
    Aborted(Option<RDKafkaErrorCode>),
    /// It may be stored or not. What the brokers hold for the group says which, so everything is read on from there.
    Unknown,
}

/// Who keeps the offsets. At most one transaction is under way: each [`prepare`](Self::prepare) that took an outcome is
/// followed by one [`settled`](Self::settled).
pub trait Consumed: Send + Sync + 'static {
    /// Says what a transaction with these outcomes (positions, and bytes as they were received) may hold. Waits for the
    /// thread that keeps the offsets.
    ///
    /// # Errors
    /// Where there is none to be made: now, or any more.
    fn prepare(&self, outcomes: Vec<(Position, usize)>) -> Result<Prepared, Unprepared>;

    /// The transaction that was prepared last has ended.
    fn settled(&self, settled: Settled);
}
