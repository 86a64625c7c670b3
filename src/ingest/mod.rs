//! Reads `invocations` and `pre-triggers`, and keeps the offsets of the former.
//!
//! Duty: take each message from the broker, decode it, hand it on with its position, and let its offset move only when its
//! outcome is acknowledged. Must not: run a call, choose an instance, or publish.
//!
//! On the way of an event: broker → **ingest** → codec → driver → execute → publish → **ingest** (acknowledged) → commit.
//!
//! | thread | does |
//! |---|---|
//! | `invocations` | polls, decodes, calls [`Sink::received`]; keeps the trackers; pauses and resumes; serves rebalances |
//! | `offsets` | everything that waits for the group's coordinator: commits, committed offsets, probes |
//! | `pre-triggers` | follows that topic (see [`pre_triggers`]) |
//! | `batch-end` | short-lived: where a batch ends that is to be passed over |
//!
//! The poll thread never waits for a broker or for a call. That is why a rebalance is not answered inside librdkafka's
//! callback: it is noted there, and answered when the revoked partitions have drained and their commit is through.
//!
//! **Bounds.** At most `in_flight_max` messages and `in_flight_bytes_max` bytes are between [`Sink::received`] and
//! [`Acknowledger::acknowledge`]; the message that reaches a bound is still taken. Everything that holds something per
//! message (the acknowledgements on their way, the trackers, messages put aside) is bounded by that.

mod agreement;
mod commits;
mod consumers;
mod context;
mod counters;
mod doubt;
mod ends;
mod held;
mod intake;
mod invocations;
mod leaving;
mod offsets;
mod passing;
pub mod pre_triggers;
mod rebalance;
mod receive;
pub mod snapshots;
mod standing;
mod transactions;

use std::sync::Arc;
use std::time::{Duration, Instant};

pub use counters::Counters;
pub use invocations::{Acknowledger, Invocations, Readiness};

use crate::codec::DecodeError;
use crate::kafka::ClientError;
use crate::kafka::headers::{Bounds, Headers, Overfull};
use crate::types::{Invocation, Position, Timestamp};

/// How invocations are read.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Settings {
    /// The topic.
    pub topic: String,
    /// Messages in flight at which intake pauses; at least 1.
    pub in_flight_max: usize,
    /// Bytes in flight at which intake pauses; at least 1.
    pub in_flight_bytes_max: usize,
    /// The longest time between a completion and its commit.
    pub commit_interval: Duration,
    /// Completions after which a commit is made before that time; at least 1.
    pub commit_completions: u64,
    /// How long a partition that goes to another node may take to finish what is in flight.
    pub drain_timeout: Duration,
    /// A poll thread that did not run for this long, as in a process that was stopped, may be out of its group without
    /// knowing: what was fetched ahead may be another node's by now. So may one whose commit is not answered for so long.
    pub doubt_after: Duration,
    /// For how long it then takes nothing, where it has nothing whose commit would show that it is in its group.
    pub doubt_for: Duration,
    /// What one message may be.
    pub message: MessageBounds,
    /// How long a partition stands before a batch is passed over that cannot be read; zero: for ever.
    pub pass_unreadable_after: Duration,
}

/// What one message may be (all inclusive). What is beyond is not copied.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct MessageBounds {
    /// Bytes of key and value together.
    pub bytes_max: usize,
    /// Its headers.
    pub headers: Bounds,
}

/// Longest key that a message keeps which is beyond a bound, in bytes.
const KEY_BYTES_KEPT: usize = 1_024;

impl MessageBounds {
    /// The headers of a message that is within every bound, and how many of them were left out because their names are not
    /// UTF-8. Nothing is copied of one that is not.
    ///
    /// # Errors
    /// Where the message is beyond a bound; says what was seen.
    fn headers(
        self,
        (key, payload): (Option<&[u8]>, Option<&[u8]>),
        read: impl FnOnce(Bounds) -> Result<(Headers, usize), Overfull>,
    ) -> Result<(Headers, usize), DecodeError> {
        let bytes = key.map_or(0, <[u8]>::len) + payload.map_or(0, <[u8]>::len);
        if bytes > self.bytes_max {
            return Err(DecodeError::TooLarge { bytes, bytes_max: self.bytes_max });
        }
        read(self.headers).map_err(|Overfull { count, bytes }| {
            let seen = match count {
                None => "the headers are more than 100,000, or are cut off".to_owned(),
                Some(count) if bytes == 0 => format!("the message has {count} headers"),
                Some(count) => format!("the message has {count} headers of {bytes} bytes or more"),
            };
            let Bounds { count_max, bytes_max } = self.headers;
            DecodeError::TooManyHeaders { seen, count_max, bytes_max }
        })
    }
}

/// Whether a message was not looked at, as it is beyond what one may be: nothing of it is kept.
const fn is_beyond(error: &DecodeError) -> bool {
    matches!(error, DecodeError::TooLarge { .. } | DecodeError::TooManyHeaders { .. })
}

/// A message of the `invocations` topic.
#[derive(Debug)]
pub struct Received {
    /// Where it stands; what [`Acknowledger::acknowledge`] wants back.
    pub position: Position,
    /// Its key.
    pub key: Option<Vec<u8>>,
    /// Its headers, in order.
    pub headers: Headers,
    /// What it counts for in the bound on bytes: what is held of it in memory.
    pub bytes: usize,
    /// When it came out of the poll.
    pub received_at: Instant,
    /// The call, or why it is none.
    pub content: Result<Invocation, Poison>,
    /// The message as it came, where [`Sink::keeps_original`] asks for it.
    pub original: Option<Box<Original>>,
}

/// A message's parts as they came, for those who may have to put it aside.
#[derive(Clone, Debug, PartialEq)]
pub struct Original {
    /// Its value; None for a tombstone.
    pub payload: Option<Vec<u8>>,
    /// Its headers, in order.
    pub headers: Headers,
    /// Its timestamp; None where it has none.
    pub timestamp: Option<Timestamp>,
}

/// A message that is no event, now or ever: for a dead letter.
#[derive(Clone, Debug, PartialEq)]
pub struct Poison {
    /// The topic that it came from.
    pub topic: Arc<str>,
    /// Its value as it came; None for a tombstone, and where it is more than is taken.
    pub payload: Option<Vec<u8>>,
    /// Where the value was not taken: its bytes, as far as they are known.
    pub omitted: Option<usize>,
    /// Its timestamp; None where it has none.
    pub timestamp: Option<Timestamp>,
    /// What is wrong with it.
    pub error: DecodeError,
}

/// Who gets the invocations. Everything is called on the poll thread: what takes long belongs elsewhere, as no message of
/// any partition comes meanwhile.
pub trait Sink: Send + 'static {
    /// A message. It is in flight until its position is acknowledged, and blocks the commit of what follows in its
    /// partition for good if it never is.
    fn received(&mut self, received: Received);

    /// Whether the message of a call is wanted as it came, besides what it says.
    fn keeps_original(&self, invocation: &Invocation) -> bool {
        let _ = invocation;
        false
    }

    /// Whether what calls come to can be stored, as far as is known; while it cannot, none are taken.
    fn can_store(&self) -> bool {
        true
    }

    /// These partitions are read from now on.
    fn assigned(&mut self, partitions: &[i32]) {
        let _ = partitions;
    }

    /// These partitions go to another node. Nothing more of them comes; what is in flight may end within the drain timeout.
    fn revoked(&mut self, partitions: &[i32]) {
        let _ = partitions;
    }

    /// Calls of these partitions that have not begun are not to begin here: each is given back
    /// ([`Acknowledger::give_back`]), and has no outcome here. Those that run go on.
    fn hands_back(&mut self, partitions: &[i32]) {
        let _ = partitions;
    }

    /// These partitions have gone: what is still in flight of them is another node's now, and what it comes to here counts for
    /// nothing.
    fn gave_up(&mut self, partitions: &[i32]) {
        let _ = partitions;
    }

    /// Partitions are on their way to another node. Gives up their calls that wait here, for calls before them or for another
    /// attempt, and answers how many those were: they have no outcome here, and run there. Called over and over until
    /// [`gave_up`](Self::gave_up).
    fn gives_up_waiting(&mut self, partitions: &[i32]) -> usize {
        let _ = partitions;
        0
    }

    /// How many partitions this node owns now, and how many there are in all; 0 where that is not known.
    fn shares(&mut self, owned: usize, all: usize) {
        let _ = (owned, all);
    }

    /// The consumer is of no more use, and the process should end.
    fn failed_for_good(&mut self, reason: &str) {
        let _ = reason;
    }
}

/// Why reading could not begin.
#[derive(Debug, thiserror::Error)]
pub enum IngestError {
    /// No consumer.
    #[error("topic not read: {0}")]
    Client(#[from] ClientError),
    /// A bound of 0 would let nothing through.
    #[error("{setting} must be at least 1")]
    ZeroBound {
        /// Which one.
        setting: &'static str,
    },
}
