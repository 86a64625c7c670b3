//! A message of a followed topic, and how it is offered to the follower.
//!
//! Must not: keep it.

use super::{BACKOFF_MAX, BACKOFF_MIN, Follower, Step};
use crate::kafka::fence::Shared;
use crate::kafka::headers::{Bounds, Headers, Overfull};
use crate::kafka::queue::Record;
use crate::types::{Offset, Timestamp};

/// One message of a followed topic.
#[derive(Debug)]
pub struct Message<'a> {
    /// The number of its partition.
    pub partition: i32,
    /// Its own offset.
    pub offset: Offset,
    /// When it was made or stored, as the topic is set up; None where the message has no time.
    pub timestamp: Option<Timestamp>,
    /// Its key.
    pub key: Option<&'a [u8]>,
    /// Its value; None for a tombstone.
    pub payload: Option<&'a [u8]>,
    pub(super) source: &'a Record<'a>,
}

impl Message<'_> {
    /// Its headers, and how many were left out because their names are not UTF-8.
    ///
    /// # Errors
    /// Where there are more than `bounds` allows; nothing of them is copied then.
    pub fn headers(&self, bounds: Bounds) -> Result<(Headers, usize), Overfull> {
        self.source.headers(bounds)
    }
}

/// Offers a message until the follower is done with it. False where the tail is to stop first.
pub(super) fn offer(shared: &Shared, follower: &mut impl Follower, source: &Record<'_>) -> bool {
    let message = Message {
        partition: source.partition(),
        offset: Offset(source.offset()),
        timestamp: source.timestamp_ms().map(Timestamp::from_millis),
        key: source.key(),
        payload: source.payload(),
        source,
    };
    let mut backoff = BACKOFF_MIN;
    while follower.message(&message) == Step::Again {
        if shared.stopped_within(backoff) {
            return false;
        }
        backoff = (backoff * 2).min(BACKOFF_MAX);
    }
    true
}
