//! What the publisher counts. Telemetry reads these numbers; they only grow, except for `unacknowledged`.
//!
//! Must not: know how they are shown.

use std::sync::atomic::{AtomicU64, Ordering};

/// Totals since the start, in records where nothing else is said.
#[derive(Debug, Default)]
pub struct Counters {
    /// Handed in.
    pub published: AtomicU64,
    /// Stored by the brokers.
    pub acknowledged: AtomicU64,
    /// Attempts after the first.
    pub resent: AtomicU64,
    /// Given back because they are too large.
    pub refused_too_large: AtomicU64,
    /// Given back because the broker finds them invalid.
    pub refused_invalid: AtomicU64,
    /// Dead letters that lost their value, or their sender's headers, to fit into the topic.
    pub dead_letters_cut: AtomicU64,
    /// Dropped: nobody waits for them and too many of that kind were waiting to be sent again.
    pub dropped: AtomicU64,
    /// Still not stored when the publisher was closed; what waits for them is read again.
    pub abandoned: AtomicU64,
    /// Producers that were made anew because the brokers answered others and not them, or the clock was set back.
    pub renewed: AtomicU64,
    /// Transactions that were committed.
    pub transactions: AtomicU64,
    /// Transactions that were aborted; what they held went into later ones.
    pub transactions_aborted: AtomicU64,
    /// Outcomes whose calls are another node's by now; they are not published.
    pub fenced: AtomicU64,
    /// Handed in and not yet stored, refused or dropped. Not a total: the number now.
    pub unacknowledged: AtomicU64,
}

pub(super) fn count(counter: &AtomicU64) {
    counter.fetch_add(1, Ordering::Relaxed);
}
