//! A partition's life: what was committed, and then any run of operations.
//!
//! The input is the committed offset in 8 bytes, a length and that many bytes of runs with it, and then operations of a
//! byte or two. What the tracker says is held against a naive model, and a restart from any of its commits must repeat
//! every call that was in flight and, where the metadata had room, no other.

use std::collections::BTreeMap;
use std::ops::Range;

use forewarm::progress::{Completion, METADATA_BYTES_MAX, Receipt, Tracker};
use forewarm::types::{Generation, NextOffset, Offset, Position};

use super::input::Input;
use super::runs;

/// Most operations of one input: restarts look at all that came before.
const OPERATIONS_MAX: usize = 300;
/// Messages that a replay brings again, at most.
const REPLAY_MAX: usize = 16;

/// A partition's life.
pub fn tracker(bytes: &[u8]) {
    let mut input = Input(bytes);
    // Kafka counts from 0; the end of the numbers stays in reach.
    let next = input.i64().max(0);
    let length = input.u8();
    let text = runs::sealed(next, input.bytes(length.into()));
    let mut life = Life::resume(1, next, &text);
    for _ in 0..OPERATIONS_MAX {
        if input.0.is_empty() {
            break;
        }
        life.operate(input.u8(), &mut input);
        life.check();
    }
}

/// A tracker and what a naive reader of the same messages knows.
struct Life {
    tracker: Tracker,
    generation: u64,
    /// Done before this assignment.
    resumed: Vec<Range<i64>>,
    /// Messages of this assignment: whether each is in flight.
    seen: BTreeMap<i64, bool>,
    /// The lowest offset that may come.
    cursor: i64,
    /// The last watermark.
    low: i64,
}

impl Life {
    fn resume(generation: u64, next: i64, text: &str) -> Self {
        let (tracker, fault) = Tracker::resume(Generation(generation), Some(NextOffset(next)), text);
        let resumed = runs::read(next, text);
        assert_eq!(fault.is_none(), resumed.is_some(), "{fault:?}");
        let resumed = resumed.unwrap_or_default();
        Self { tracker, generation, resumed, seen: BTreeMap::new(), cursor: next, low: next }
    }

    fn operate(&mut self, operation: u8, input: &mut Input<'_>) {
        match operation % 8 {
            0 => self.receive(self.cursor),
            1 => self.receive(self.cursor.saturating_add(input.u8().into())),
            2 => self.complete(0),
            3 => self.complete(input.u8().into()),
            4 => self.stray(input.u8().into()),
            5 => self.replay(input.u8().into()),
            6 => self.commit(),
            _ => self.restart(),
        }
    }

    /// A message that was not there before.
    fn receive(&mut self, offset: i64) {
        if offset == i64::MAX {
            return;
        }
        let was_done = self.resumed.iter().any(|run| run.contains(&offset));
        let expected = if was_done { Receipt::AlreadyDone } else { Receipt::New };
        assert_eq!(self.tracker.received(Offset(offset)), expected, "{offset}");
        self.seen.insert(offset, !was_done);
        self.cursor = offset + 1;
    }

    fn position(&self, offset: i64) -> Position {
        Position { partition: 0, offset: Offset(offset), generation: Generation(self.generation) }
    }

    fn in_flight(&self) -> impl Iterator<Item = i64> + '_ {
        self.seen.iter().filter(|(_, in_flight)| **in_flight).map(|(offset, _)| *offset)
    }

    /// The `nth` call in flight, counted in a ring, ends; twice, and once for another assignment.
    fn complete(&mut self, nth: usize) {
        let count = self.in_flight().count();
        if count == 0 {
            return;
        }
        let offset = self.in_flight().nth(nth % count).expect("the remainder is smaller");
        let position = self.position(offset);
        let fenced = Position { generation: Generation(self.generation + 1), ..position };
        assert_eq!(self.tracker.completed(fenced), Completion::Fenced);
        assert_eq!(self.tracker.completed(position), Completion::Counted);
        assert_eq!(self.tracker.completed(position), Completion::Unknown);
        self.seen.insert(offset, false);
    }

    /// What nobody waits for: an offset that did not come yet, and one that comes out of order.
    fn stray(&mut self, distance: i64) {
        let ahead = self.position(self.cursor.saturating_add(distance));
        assert_eq!(self.tracker.completed(ahead), Completion::Unknown);
        if self.cursor > 0 {
            let back = Offset((self.cursor - 1 - distance).max(0));
            assert_eq!(self.tracker.received(back), Receipt::WentBack { expected: NextOffset(self.cursor) });
        }
    }

    /// The consumer is moved back by some messages, and they come again.
    fn replay(&mut self, count: usize) {
        let again: Vec<_> = self.seen.iter().rev().take(count % REPLAY_MAX).map(|(at, now)| (*at, *now)).collect();
        let Some((first, _)) = again.last() else { return };
        self.tracker.replay_from(NextOffset(*first));
        for (offset, in_flight) in again.into_iter().rev() {
            let expected = if in_flight { Receipt::InFlight } else { Receipt::AlreadyDone };
            assert_eq!(self.tracker.received(Offset(offset)), expected, "{offset} again");
        }
    }

    fn commit(&mut self) {
        if let Some(commit) = self.tracker.commit() {
            self.tracker.committed(&commit);
            assert_eq!(self.tracker.commit(), None, "committed, and nothing came since");
        }
    }

    /// The node is gone, and another one goes on from the commit.
    fn restart(&mut self) {
        let Some(commit) = self.tracker.commit() else { return };
        assert_eq!(commit.next.0, self.low);
        assert!(commit.metadata.len() <= METADATA_BYTES_MAX);
        let after = Self::resume(self.generation + 1, commit.next.0, &commit.metadata);
        let before = std::mem::replace(self, after);
        for (&offset, &in_flight) in before.seen.range(self.cursor..) {
            let receipt = self.tracker.received(Offset(offset));
            let is_repeated = receipt == Receipt::New;
            assert!(!in_flight || is_repeated, "the call at {offset} is lost: {receipt:?}");
            assert!(in_flight || !is_repeated || commit.runs_left_out > 0, "the call at {offset} is done twice");
            self.seen.insert(offset, is_repeated);
            self.cursor = offset + 1;
        }
        let ahead = |run: &&Range<i64>| run.start >= before.cursor && run.end > commit.next.0;
        for run in before.resumed.iter().filter(ahead) {
            let is_known = self.resumed.iter().any(|after| after.start <= run.start && run.end <= after.end);
            assert!(is_known || commit.runs_left_out > 0, "{run:?} is forgotten");
        }
    }

    fn check(&mut self) {
        let in_flight = self.in_flight().count();
        assert_eq!(self.tracker.in_flight(), in_flight);
        let lowest = self.in_flight().next();
        let done_above = lowest.map_or(0, |lowest| self.seen.range(lowest..).filter(|(_, open)| !**open).count());
        assert_eq!(self.tracker.done_above(), done_above);
        let watermark = lowest.unwrap_or_else(|| {
            self.resumed.iter().fold(self.cursor, |at, run| if run.start <= at { at.max(run.end) } else { at })
        });
        assert_eq!(self.tracker.watermark(), Some(NextOffset(watermark)));
        assert!(self.low <= watermark, "the watermark fell from {} to {watermark}", self.low);
        assert!(!self.tracker.full() || in_flight > 0, "nothing could end the pause");
        self.low = watermark;
    }
}
