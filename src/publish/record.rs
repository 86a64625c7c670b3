//! What is published: one record, where it goes, and how it ends.

use crate::kafka::headers::Headers;
use crate::types::Position;

/// Which of the service's topics a record goes to.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum Destination {
    /// Outcomes of calls.
    Results,
    /// Messages that are no event.
    DeadLetters,
    /// How pre-triggers ended.
    PreTriggerOutcomes,
    /// What is known of a function, for the next start.
    ForecastSnapshots,
    /// Notices of functions about others.
    PreTriggers,
}

impl Destination {
    /// Every one.
    pub const ALL: [Self; 5] =
        [Self::Results, Self::DeadLetters, Self::PreTriggerOutcomes, Self::ForecastSnapshots, Self::PreTriggers];
}

/// One record.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Record {
    /// Where it goes.
    pub destination: Destination,
    /// Its key; it chooses the partition as Java's producers would.
    pub key: Option<Vec<u8>>,
    /// Its headers, in order.
    pub headers: Headers,
    /// Its value; None for a tombstone.
    pub payload: Option<Vec<u8>>,
}

/// A record that the brokers will not take however often it is sent.
#[derive(Debug)]
pub struct Refused {
    /// The record.
    pub record: Record,
    /// The message that waits for it to be stored; None where none does.
    pub position: Option<Position>,
    /// What was handed in with it.
    pub bytes: usize,
    /// Why.
    pub refusal: Refusal,
}

/// Why a record is refused for good.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum Refusal {
    /// It is larger than `message.max.bytes` of this client or `max.message.bytes` of the topic.
    #[error("the record is larger than the topic takes; raise max.message.bytes of the topic, or make it smaller")]
    TooLarge,
    /// The broker finds it invalid, as a record without a key on a compacted topic is.
    #[error("the broker refuses the record: {0}")]
    Invalid(String),
}

/// Who is told how a record ended. Called on the publisher's thread: it must not block.
pub trait Deliveries: Send + Sync + 'static {
    /// The brokers stored what `position` waits for. Comes once for each record published with a position, unless it is
    /// [`refused`](Self::refused).
    fn acknowledged(&self, position: Position, bytes: usize);

    /// The brokers will never take it. The position is not acknowledged: publish another record for it.
    fn refused(&self, refused: Refused);

    /// The producer is of no more use. What was not acknowledged is not lost: it is read again after a restart.
    fn failed_for_good(&self, reason: &str);
}
