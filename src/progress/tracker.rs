//! One partition under one assignment: what came, what is in flight, what may be committed.
//!
//! Must not: choose when to commit or pause; it answers, the caller acts. Every operation on the way of an event costs
//! O(log n) in what is in flight, and none allocates per message done.

use std::collections::BTreeMap;

use super::metadata::{self, MetadataFault};
use super::runs::Runs;
use crate::types::{Generation, NextOffset, Offset, Position};

/// From this many bytes of runs on, [`Tracker::full`] holds: three quarters of what fits. The rest is for calls that are in
/// flight when the partition is paused, each of which may end apart from all others.
const FULL_BYTES: usize = metadata::RUNS_BYTES_MAX / 4 * 3;
/// Most bytes that one completion adds to the runs: two varints.
const COMPLETION_BYTES_MAX: usize = 20;

/// What to do with a message that came.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[must_use = "a message that is not new must not run"]
pub enum Receipt {
    /// Run it; it is in flight from now on.
    New,
    /// It was done before: below the watermark, in the done-set that was resumed, or done and replayed. Do not run it.
    AlreadyDone,
    /// A replay of a message that is being worked on. Do not run it a second time.
    InFlight,
    /// Its offset is below the one expected, and no replay was announced: the topic was recreated or truncated, or the
    /// consumer was moved. The tracker took no note of the message. Take a new generation, make a tracker with
    /// `resume(generation, None, "")` and receive it there; completions of this tracker's calls are then fenced.
    WentBack {
        /// The lowest offset that would have been in order (inclusive).
        expected: NextOffset,
    },
}

/// What became of a completion.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[must_use = "completions that do not count must be counted elsewhere"]
pub enum Completion {
    /// Counted, once.
    Counted,
    /// It belongs to another assignment; whoever holds the partition by now runs the call again.
    Fenced,
    /// No message with this offset is in flight: it was never received, or was completed before.
    Unknown,
}

/// What to commit.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Commit {
    /// Everything below is done.
    pub next: NextOffset,
    /// What is done above `next`, as text of at most [`METADATA_BYTES_MAX`](super::METADATA_BYTES_MAX) bytes.
    pub metadata: String,
    /// Runs of done offsets for which the text has no room, the highest; after a crash their calls would repeat.
    pub runs_left_out: usize,
    generation: Generation,
    changes: u64,
}

/// Where the calls of one partition stand, under one assignment.
///
/// The caller bounds what is in flight, and routes by partition: positions of another partition are not recognised.
/// Offsets are 0 to `i64::MAX` − 1, as Kafka gives them.
#[derive(Clone, Debug)]
pub struct Tracker {
    generation: Generation,
    /// The first offset that this assignment answers for; None until it is known.
    start: Option<i64>,
    /// Everything below is done, or was not for this group to do. Never falls.
    low: i64,
    /// One past the highest offset received. May stand below `low` where a resumed run reaches further.
    high: i64,
    /// The lowest offset that may come next: `high`, except in an announced replay.
    cursor: i64,
    /// Offset → how many messages had been received before it.
    in_flight: BTreeMap<i64, u64>,
    /// Done above `low`. Runs reach over holes below `high`; above it stand runs that were resumed and not yet met.
    done: Runs,
    /// The end (exclusive) of the last run that was resumed. From there on nothing is done before it is received, so the
    /// common message needs no look at the runs.
    resumed_end: i64,
    /// Messages received, replays not counted.
    received: u64,
    /// Completions, messages that were done before, and wishes to commit again, so far.
    changes: u64,
    /// `changes` as of the last commit that went through.
    changes_committed: u64,
}

impl Tracker {
    /// Takes a partition over.
    ///
    /// `committed` is what the broker holds for the group (None, or a negative number: nothing), `metadata` the text that
    /// was committed with it. Offsets in its done-set are not run again. A damaged metadata is left aside and reported: its
    /// calls repeat. Where nothing is committed, the first message received is the start.
    #[must_use]
    pub fn resume(
        generation: Generation,
        committed: Option<NextOffset>,
        metadata: &str,
    ) -> (Self, Option<MetadataFault>) {
        let start = committed.map(|next| next.0).filter(|next| *next >= 0);
        let decoded = match start {
            Some(next) => metadata::decode(next, metadata),
            None if metadata.is_empty() => Ok(Vec::new()),
            None => Err(MetadataFault::NoOffset),
        };
        let (runs, fault) = match decoded {
            Ok(runs) => (runs, None),
            Err(fault) => (Vec::new(), Some(fault)),
        };
        let at = start.unwrap_or_default();
        let resumed_end = runs.last().map_or(at, |run| run.end);
        let tracker = Self {
            generation,
            start,
            low: at,
            high: at,
            cursor: at,
            in_flight: BTreeMap::new(),
            done: Runs::from_ordered(runs),
            resumed_end,
            received: 0,
            changes: 0,
            changes_committed: 0,
        };
        (tracker, fault)
    }

    /// The assignment that this tracker belongs to.
    pub fn generation(&self) -> Generation {
        self.generation
    }

    /// The lowest offset that may come next; None where nothing was committed and nothing has come.
    pub fn next(&self) -> Option<NextOffset> {
        self.start.map(|_| NextOffset(self.cursor))
    }

    /// Takes note of a message, and says what to do with it.
    pub fn received(&mut self, offset: Offset) -> Receipt {
        let offset = offset.0;
        if self.start.is_none() {
            self.start = Some(offset);
            (self.low, self.high, self.cursor, self.resumed_end) = (offset, offset, offset, offset);
        }
        if offset < self.cursor {
            return Receipt::WentBack { expected: NextOffset(self.cursor) };
        }
        self.cursor = offset.saturating_add(1);
        if offset < self.high {
            // An announced replay: all below `high` came before, so what is not in flight is done.
            return if self.in_flight.contains_key(&offset) { Receipt::InFlight } else { Receipt::AlreadyDone };
        }
        self.high = self.cursor;
        let ordinal = self.received;
        self.received += 1;
        if offset < self.resumed_end && (offset < self.low || self.done.covers(offset)) {
            self.advance();
            // Also where the watermark stays: a transaction that is under way was prepared without knowing of this, and when
            // it ends the watermark may be further than what it committed.
            self.changes += 1;
            return Receipt::AlreadyDone;
        }
        let first = self.in_flight.is_empty();
        self.in_flight.insert(offset, ordinal);
        if first {
            // Offsets between the watermark and this one turned out to be a hole.
            self.advance();
        }
        Receipt::New
    }

    /// Announces that the caller moves the consumer back, to read from `next` on once more, in the same log. What comes
    /// again is then [`Receipt::InFlight`] or [`Receipt::AlreadyDone`], not [`Receipt::WentBack`]. Goes back no further
    /// than this assignment's start, and never forward.
    pub fn replay_from(&mut self, next: NextOffset) {
        if let Some(start) = self.start {
            self.cursor = next.0.max(start).min(self.cursor);
        }
    }

    /// Takes note that a message's outcome is stored.
    pub fn completed(&mut self, position: Position) -> Completion {
        if position.generation != self.generation {
            return Completion::Fenced;
        }
        let offset = position.offset.0;
        if self.in_flight.remove(&offset).is_none() {
            return Completion::Unknown;
        }
        self.changes += 1;
        if offset == self.low {
            self.advance();
            return Completion::Counted;
        }
        // What lies between two offsets that were both passed, and is not in flight, is done or a hole.
        let (in_flight, high) = (&self.in_flight, self.high);
        self.done.insert(offset, |between| {
            between.is_empty() || (between.end <= high && in_flight.range(between).next().is_none())
        });
        Completion::Counted
    }

    /// Whether a commit could say that the call at `offset` is done, were it completed now: it is the lowest in flight, so
    /// that the watermark says it, or, where metadata is committed at all, there is certainly room for one more run.
    pub fn can_say(&self, offset: Offset, with_metadata: bool) -> bool {
        let is_lowest = self.in_flight.first_key_value().is_some_and(|(&lowest, _)| lowest == offset.0);
        let has_room = || self.done.encoded_bytes(self.low) + COMPLETION_BYTES_MAX <= metadata::RUNS_BYTES_MAX;
        is_lowest || (with_metadata && has_room())
    }

    /// Moves the watermark to the lowest offset in flight, or where nothing is, past everything received and past the
    /// resumed run that begins there.
    fn advance(&mut self) {
        let reached = self.in_flight.first_key_value().map_or(self.high, |(&offset, _)| offset);
        self.low = self.done.pass(reached.max(self.low));
    }

    /// Nothing that can be delivered lies from `next`, the watermark, up to `end` (exclusive): control records of transactions,
    /// and records of those that were aborted. The watermark passes them, so that the group's lag can reach 0. False, and
    /// nothing is changed, where the watermark is another by now, or anything is in flight.
    pub fn pass(&mut self, next: NextOffset, end: NextOffset) -> bool {
        let is_there = self.watermark() == Some(next) && self.in_flight.is_empty() && self.high <= end.0;
        if !is_there || end <= next {
            return false;
        }
        self.high = end.0;
        self.cursor = self.cursor.max(end.0);
        self.advance();
        self.changes += 1;
        true
    }

    /// Everything below is done; None while nothing was committed and nothing has come.
    pub fn watermark(&self) -> Option<NextOffset> {
        self.start.map(|_| NextOffset(self.low))
    }

    /// Messages that were received as new and are not completed.
    pub fn in_flight(&self) -> usize {
        self.in_flight.len()
    }

    /// Messages that came under this assignment and are done, above the watermark. Resumed runs count as their messages come.
    pub fn done_above(&self) -> usize {
        let Some((_, &before_lowest)) = self.in_flight.first_key_value() else { return 0 };
        let from_lowest = self.received - before_lowest;
        usize::try_from(from_lowest).unwrap_or(usize::MAX) - self.in_flight.len()
    }

    /// Whether the done-set comes near to what the metadata holds: pause the partition until this is false again, which it
    /// is at the latest when the lowest call in flight is done. Not binding: what does not fit is left out of a commit.
    ///
    /// False where nothing is in flight (then nothing could end the pause), and while resumed runs are still ahead
    /// (receiving is what makes them fewer).
    pub fn full(&self) -> bool {
        self.done.encoded_bytes(self.low) > FULL_BYTES && !self.in_flight.is_empty() && self.resumed_end <= self.high
    }

    /// What to commit now; None where nothing has changed since the last [`committed`](Self::committed). Costs O(runs).
    pub fn commit(&self) -> Option<Commit> {
        if self.changes == self.changes_committed {
            return None;
        }
        let (metadata, runs_left_out) = metadata::encode(self.low, self.done.iter());
        let Self { generation, changes, .. } = *self;
        Some(Commit { next: NextOffset(self.low), metadata, runs_left_out, generation, changes })
    }

    /// There is something to commit again, where anything is known. Saying it twice does no harm.
    pub fn commit_again(&mut self) {
        self.changes += u64::from(self.start.is_some());
    }

    /// The broker took `commit`. One of another assignment, or older than the last, changes nothing.
    pub fn committed(&mut self, commit: &Commit) {
        if commit.generation == self.generation {
            self.changes_committed = self.changes_committed.max(commit.changes);
        }
    }
}
