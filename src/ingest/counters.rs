//! What ingest counts. Telemetry reads these numbers; totals only grow.
//!
//! Must not: know how they are shown.

use std::sync::atomic::{AtomicU64, AtomicUsize, Ordering};

/// Totals since the start, in messages of the `invocations` topic where nothing else is said.
#[derive(Debug, Default)]
pub struct Counters {
    /// Handed to the sink.
    pub received: AtomicU64,
    /// Bytes of those.
    pub received_bytes: AtomicU64,
    /// Of those, no event.
    pub poison: AtomicU64,
    /// Skipped: the commit that was resumed says that they are done.
    pub already_done: AtomicU64,
    /// Put aside, because the schema of their writer could not be had at once.
    pub held: AtomicU64,
    /// Put aside because their function or tenant held its share, once for each time; each comes again.
    pub put_aside: AtomicU64,
    /// Answered without running for the same reason.
    pub overflowed: AtomicU64,
    /// Times that the consumer was moved, back to messages that were put aside or past those that are known.
    pub moves: AtomicU64,
    /// Headers left out because their names are not UTF-8.
    pub headers_left_out: AtomicU64,
    /// Errors of one partition: attempts to read it in vain.
    pub partition_errors: AtomicU64,
    /// Batches that cannot be read, and were passed over.
    pub batches_passed: AtomicU64,
    /// Acknowledged, and counted towards a commit.
    pub completed: AtomicU64,
    /// Acknowledged for an assignment that has ended; another node, or a later assignment, runs them again.
    pub fenced: AtomicU64,
    /// Acknowledged without being in flight: acknowledged twice, or never received.
    pub unknown: AtomicU64,
    /// Handed back without having begun, because their partition was on its way to another node, or the node on its way down.
    pub handed_back: AtomicU64,
    /// Offsets passed that hold no call: control records of transactions, and records of aborted ones.
    pub passed: AtomicU64,
    /// Consumers that were made anew.
    pub consumers_renewed: AtomicU64,
    /// Times that this node left its group to join it anew, because a heartbeat was answered too late.
    pub rejoined: AtomicU64,
    /// Still in flight when their partition went away.
    pub abandoned: AtomicU64,
    /// Commits that went through.
    pub commits: AtomicU64,
    /// Commits that did not; what was in them is in the next.
    pub commit_failures: AtomicU64,
    /// Runs of completed messages for which the commit's metadata had no room: they would repeat after a crash.
    pub runs_left_out: AtomicU64,
    /// Commit metadata that could not be used when a partition was taken over.
    pub metadata_faults: AtomicU64,
    /// Times that a partition's offsets went back, because its topic was made anew or cut off.
    pub went_back: AtomicU64,
    /// Partitions taken over, given up, and lost (given up without a commit).
    pub assigned: AtomicU64,
    /// See [`assigned`](Self::assigned).
    pub revoked: AtomicU64,
    /// See [`assigned`](Self::assigned).
    pub lost: AtomicU64,
    /// Times that intake paused because a bound was reached.
    pub pauses: AtomicU64,
    /// Rounds of the poll thread: while they grow, it runs.
    pub rounds: AtomicU64,
    /// Messages in flight now.
    pub in_flight: AtomicUsize,
    /// Of those, the ones that have begun, or may begin any moment.
    pub unfinished: AtomicUsize,
    /// Messages that are put aside now.
    pub aside: AtomicUsize,
    /// Bytes in flight now.
    pub in_flight_bytes: AtomicUsize,
    /// Partitions read now.
    pub partitions: AtomicUsize,
    /// Of those, the ones that stand, because a record of theirs cannot be read.
    pub standing: AtomicUsize,
}

pub(super) fn count(counter: &AtomicU64) {
    add(counter, 1);
}

pub(super) fn add(counter: &AtomicU64, by: usize) {
    counter.fetch_add(by as u64, Ordering::Relaxed);
}
