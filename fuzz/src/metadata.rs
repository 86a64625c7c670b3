//! The metadata of commits: any text beside any offset.
//!
//! The input is the committed offset in 8 bytes, a byte that is odd where what follows is bytes of runs (which then get
//! check bytes that fit) and even where it is the text itself. A tracker must take over what a second reader finds in it,
//! no more and no less, and commit the same set again.

use std::ops::Range;

use forewarm::progress::{Commit, Completion, METADATA_BYTES_MAX, Receipt, Tracker};
use forewarm::types::{Generation, NextOffset, Offset, Position};

use super::input::Input;
use super::runs;

const GENERATION: Generation = Generation(1);

/// Any text beside any offset.
pub fn metadata(bytes: &[u8]) {
    let mut input = Input(bytes);
    let next = input.i64();
    let text = match input.u8() % 2 {
        1 => runs::sealed(next, input.0),
        _ => String::from_utf8_lossy(input.0).into_owned(),
    };
    let (tracker, fault) = Tracker::resume(GENERATION, Some(NextOffset(next)), &text);
    let expected = runs::read(next, &text);
    assert_eq!(fault.is_none(), expected.is_some(), "{fault:?} and {expected:?}");
    if let Some(fault) = fault {
        assert!(fault.to_string().len() <= 200);
    }
    assert_eq!((tracker.in_flight(), tracker.done_above(), tracker.full(), tracker.commit()), (0, 0, false, None));
    let runs = expected.unwrap_or_default();
    if next >= 0 {
        assert_eq!(tracker.watermark(), Some(NextOffset(next)));
        knows(next, &text, &runs);
        commits_again(tracker, next, &runs);
    }
}

/// Every offset at the ends of the runs is done, and those beside them are not.
fn knows(next: i64, text: &str, runs: &[Range<i64>]) {
    let (mut tracker, _) = Tracker::resume(GENERATION, Some(NextOffset(next)), text);
    let mut at = next;
    for run in runs {
        for (offset, receipt) in [
            (run.start - 1, Receipt::New),
            (run.start, Receipt::AlreadyDone),
            (run.end - 1, Receipt::AlreadyDone),
            (run.end, Receipt::New),
        ] {
            // Ends of runs may be one offset, and `i64::MAX` is none.
            if offset >= at && offset < i64::MAX {
                assert_eq!(tracker.received(Offset(offset)), receipt, "{offset} of {runs:?}");
                at = offset + 1;
            }
        }
    }
}

/// One more call done, and the same set is committed from there.
fn commits_again(mut tracker: Tracker, next: i64, runs: &[Range<i64>]) {
    if next == i64::MAX {
        return;
    }
    assert_eq!(tracker.received(Offset(next)), Receipt::New, "runs lie above what is committed");
    let position = Position { partition: 0, offset: Offset(next), generation: GENERATION };
    assert_eq!(tracker.completed(position), Completion::Counted);
    let Some(Commit { next: committed, metadata, runs_left_out, .. }) = tracker.commit() else {
        panic!("a call was done, and there is nothing to commit");
    };
    let (passed, above): (Vec<_>, Vec<_>) = runs.iter().cloned().partition(|run| run.start == next + 1);
    assert_eq!(committed.0, passed.first().map_or(next + 1, |run| run.end));
    assert_eq!(runs_left_out, 0, "what was read fits");
    assert!(metadata.len() <= METADATA_BYTES_MAX);
    assert_eq!(runs::read(committed.0, &metadata), Some(above));
}
