//! Where an event stands in Kafka, in types that keep "the offset of this message" apart from "the next offset".
//!
//! Kafka commits the offset of the *next* message to read; librdkafka has calls that take either. Mixing them up loses or
//! repeats one message, so the two are different types here.

use std::fmt;

/// The offset of one message.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct Offset(pub i64);

/// The offset at which to read on: everything below it is done. This is what Kafka commits.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct NextOffset(pub i64);

impl Offset {
    /// The next offset once this message is done.
    pub const fn next(self) -> NextOffset {
        NextOffset(self.0 + 1)
    }
}

impl fmt::Display for Offset {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.0.fmt(f)
    }
}

impl fmt::Display for NextOffset {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.0.fmt(f)
    }
}

/// Counts the assignments of partitions to this node; work of an older one is fenced off.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash, Default)]
pub struct Generation(pub u64);

/// One message of the `invocations` topic, as seen by one assignment of its partition.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub struct Position {
    /// The partition's number, 0 or more.
    pub partition: i32,
    /// The message's own offset.
    pub offset: Offset,
    /// The assignment under which it was read.
    pub generation: Generation,
}

impl fmt::Display for Position {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "partition {} offset {}", self.partition, self.offset)
    }
}

/// What becomes of a call's outcome that waits for a transaction.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Fate {
    /// It goes into the transaction that is asked for.
    Taken,
    /// It waits for another one: the offsets that are committed now could not say that it is done.
    Later,
    /// It counts for nothing: its partition has gone to another node, which runs the call again.
    Fenced,
}
