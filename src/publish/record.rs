//! What is published: one record, where it goes, and how it ends.

use crate::kafka::headers::Headers;
use crate::types::Position;

/// Which of the service's topics a record goes to.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum Destination {
    /// Outcomes of calls.
    Results,
    /// Messages that are no event, and calls that failed as often as they may.
    DeadLetters,
    /// How pre-triggers ended.
    PreTriggerOutcomes,
    /// What is known of a function, for the next start.
    ForecastSnapshots,
    /// Notices of functions about others.
    GuestNotices,
}

impl Destination {
    /// Every one.
    pub const ALL: [Self; 5] =
        [Self::Results, Self::DeadLetters, Self::PreTriggerOutcomes, Self::ForecastSnapshots, Self::GuestNotices];
}

/// Where records go.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Topics {
    /// The topic of outcomes.
    pub results: String,
    /// The topic of dead letters.
    pub dead_letters: String,
    /// The topic of outcomes of pre-triggers.
    pub pre_trigger_outcomes: String,
    /// The compacted topic of what is known of functions.
    pub forecast_snapshots: String,
    /// The topic of guests' notices.
    pub guest_notices: String,
}

impl Topics {
    pub(super) fn of(&self, destination: Destination) -> &str {
        match destination {
            Destination::Results => &self.results,
            Destination::DeadLetters => &self.dead_letters,
            Destination::PreTriggerOutcomes => &self.pre_trigger_outcomes,
            Destination::ForecastSnapshots => &self.forecast_snapshots,
            Destination::GuestNotices => &self.guest_notices,
        }
    }
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

/// What a call came to. Its offset moves when all of it is stored.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Outcome {
    /// The call's message.
    pub position: Position,
    /// That message's size, which comes back with the acknowledgement.
    pub bytes: usize,
    /// What is published: a result, or a dead letter.
    pub record: Record,
    /// A dead letter beside a result.
    pub dead_letter: Option<Record>,
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

/// Who is told how outcomes end. Called on the publisher's threads, or within [`publish`](super::Publisher::publish): it must
/// not block.
pub trait Deliveries: Send + Sync + 'static {
    /// The brokers stored all of an outcome. Comes once for each, except that in transactions the offsets are committed along
    /// with it and nobody is told.
    fn acknowledged(&self, position: Position, bytes: usize);

    /// The brokers will never take this record. What else there is to say of the call: less than before, so that this ends.
    /// None where there is nothing; then the publisher fails for good, rather than leave a call without its outcome.
    fn instead_of(&self, record: &Record, refusal: &Refusal) -> Option<Record>;

    /// The producer is of no more use. What was not acknowledged is not lost: it is read again after a restart.
    fn failed_for_good(&self, reason: &str);
}
