//! The tracker against a naive model, and by example.
//!
//! The model is a log with holes and one set of everything ever completed. It knows no runs, no text and no sizes.

use std::collections::BTreeSet;

use proptest::prelude::*;

use super::{Completion, METADATA_BYTES_MAX, MetadataFault, Receipt, Tracker};
use crate::types::{Generation, NextOffset, Offset, Position};

const FIRST: Generation = Generation(1);

fn at(generation: Generation, offset: i64) -> Position {
    Position { partition: 0, offset: Offset(offset), generation }
}

fn fresh() -> Tracker {
    let (tracker, fault) = Tracker::resume(FIRST, None, "");
    assert_eq!(fault, None);
    tracker
}

/// Receives every offset as new.
fn take(tracker: &mut Tracker, offsets: impl IntoIterator<Item = i64>) {
    for offset in offsets {
        assert_eq!(tracker.received(Offset(offset)), Receipt::New, "offset {offset}");
    }
}

/// Completes every offset; each must count.
fn end(tracker: &mut Tracker, offsets: impl IntoIterator<Item = i64>) {
    for offset in offsets {
        assert_eq!(tracker.completed(at(tracker.generation(), offset)), Completion::Counted, "offset {offset}");
    }
}

#[test]
fn the_watermark_waits_for_the_lowest_call() {
    let mut tracker = fresh();
    assert_eq!((tracker.watermark(), tracker.commit()), (None, None));
    take(&mut tracker, 10..15);
    assert_eq!(tracker.commit(), None);
    end(&mut tracker, [12, 14]);
    assert_eq!((tracker.watermark(), tracker.in_flight(), tracker.done_above()), (Some(NextOffset(10)), 3, 2));
    end(&mut tracker, [10]);
    assert_eq!((tracker.watermark(), tracker.in_flight(), tracker.done_above()), (Some(NextOffset(11)), 2, 2));
    end(&mut tracker, [11]);
    assert_eq!((tracker.watermark(), tracker.in_flight(), tracker.done_above()), (Some(NextOffset(13)), 1, 1));
    end(&mut tracker, [13]);
    assert_eq!((tracker.watermark(), tracker.in_flight(), tracker.done_above()), (Some(NextOffset(15)), 0, 0));
}

#[test]
fn holes_hold_nothing_up_and_split_no_run() {
    let mut tracker = fresh();
    take(&mut tracker, [10, 20, 30, 40, 50]);
    end(&mut tracker, [20, 40, 30]);
    let commit = tracker.commit().unwrap();
    assert_eq!(commit.next, NextOffset(10));
    // One run, 20..41: 10 above the watermark, 21 long. Prefix, 4 check bytes, 2 bytes of run.
    assert_eq!(commit.metadata.len(), 10 + 8);
    end(&mut tracker, [10]);
    assert_eq!(tracker.watermark(), Some(NextOffset(50)));
    end(&mut tracker, [50]);
    assert_eq!(tracker.watermark(), Some(NextOffset(51)));
    take(&mut tracker, [90]);
    assert_eq!(tracker.watermark(), Some(NextOffset(90)));
}

#[test]
fn every_completion_counts_once_and_only_here() {
    let mut tracker = fresh();
    take(&mut tracker, 0..2);
    assert_eq!(tracker.completed(at(Generation(0), 0)), Completion::Fenced);
    assert_eq!(tracker.completed(at(Generation(2), 0)), Completion::Fenced);
    assert_eq!(tracker.completed(at(FIRST, 2)), Completion::Unknown);
    assert_eq!(tracker.completed(at(FIRST, 1)), Completion::Counted);
    assert_eq!(tracker.completed(at(FIRST, 1)), Completion::Unknown);
    assert_eq!((tracker.in_flight(), tracker.done_above()), (1, 1));
}

#[test]
fn a_commit_is_offered_until_it_went_through() {
    let mut tracker = fresh();
    take(&mut tracker, 0..3);
    end(&mut tracker, [0]);
    let first = tracker.commit().unwrap();
    assert_eq!(tracker.commit().as_ref(), Some(&first));
    end(&mut tracker, [1]);
    tracker.committed(&first);
    let second = tracker.commit().unwrap();
    assert_eq!(second.next, NextOffset(2));
    tracker.committed(&second);
    tracker.committed(&first);
    assert_eq!(tracker.commit(), None);
    // What is known may be said twice, and nothing where nothing is.
    tracker.commit_again();
    let again = tracker.commit().unwrap();
    assert_eq!((again.next, &again.metadata), (second.next, &second.metadata));
    tracker.committed(&again);
    assert_eq!(tracker.commit(), None);
    let (mut unknown, _) = Tracker::resume(Generation(1), None, "");
    unknown.commit_again();
    assert_eq!(unknown.commit(), None);
    // A late word about another assignment's commit.
    let (mut other, _) = Tracker::resume(Generation(2), Some(NextOffset(2)), "");
    take(&mut other, [2]);
    end(&mut other, [2]);
    other.committed(&second);
    assert_eq!(other.commit().map(|commit| commit.next), Some(NextOffset(3)));
}

#[test]
fn what_was_done_is_not_run_again_after_a_resume() {
    let mut tracker = fresh();
    take(&mut tracker, 0..10);
    end(&mut tracker, [0, 1, 3, 4, 8]);
    let commit = tracker.commit().unwrap();
    let (mut tracker, fault) = Tracker::resume(Generation(2), Some(commit.next), &commit.metadata);
    assert_eq!((commit.next, fault, tracker.commit()), (NextOffset(2), None, None));
    let run: Vec<i64> = (2..10).filter(|&offset| tracker.received(Offset(offset)) != Receipt::AlreadyDone).collect();
    assert_eq!(run, [2, 5, 6, 7, 9]);
    assert_eq!((tracker.in_flight(), tracker.done_above()), (5, 3));
    end(&mut tracker, [2]);
    assert_eq!(tracker.commit().map(|commit| commit.next), Some(NextOffset(5)));
}

#[test]
fn the_watermark_crosses_a_resumed_run_as_soon_as_it_is_reached() {
    let mut tracker = fresh();
    take(&mut tracker, 0..10);
    end(&mut tracker, 1..10);
    let commit = tracker.commit().unwrap();
    let (mut tracker, _) = Tracker::resume(Generation(2), Some(commit.next), &commit.metadata);
    take(&mut tracker, [0]);
    end(&mut tracker, [0]);
    assert_eq!(tracker.watermark(), Some(NextOffset(10)));
    for offset in 1..10 {
        assert_eq!(tracker.received(Offset(offset)), Receipt::AlreadyDone);
    }
    take(&mut tracker, [10]);
    assert_eq!(tracker.watermark(), Some(NextOffset(10)));
}

#[test]
fn a_watermark_that_moves_without_a_completion_is_offered_too() {
    let mut tracker = fresh();
    take(&mut tracker, 0..10);
    end(&mut tracker, 5..10);
    let commit = tracker.commit().unwrap();
    let (mut tracker, _) = Tracker::resume(Generation(2), Some(commit.next), &commit.metadata);
    // 0 to 4 were compacted away meanwhile.
    assert_eq!(tracker.received(Offset(5)), Receipt::AlreadyDone);
    assert_eq!(tracker.commit().map(|commit| (commit.next, commit.metadata)), Some((NextOffset(10), String::new())));
}

#[test]
fn damaged_metadata_costs_repeats_only() {
    let (mut tracker, fault) = Tracker::resume(FIRST, Some(NextOffset(5)), "forewarm1:AAAAAAAA");
    assert_eq!(fault, Some(MetadataFault::Check));
    take(&mut tracker, 5..9);
    assert_eq!(Tracker::resume(FIRST, None, "forewarm1:AAAAAAAA").1, Some(MetadataFault::NoOffset));
    assert_eq!(Tracker::resume(FIRST, Some(NextOffset(-1_001)), "").0.watermark(), None);
}

#[test]
fn a_log_that_goes_back_unannounced_is_never_taken_for_done() {
    let mut tracker = fresh();
    take(&mut tracker, 100..105);
    end(&mut tracker, 100..104);
    for offset in [0, 100, 103, 104] {
        assert_eq!(tracker.received(Offset(offset)), Receipt::WentBack { expected: NextOffset(105) });
    }
    assert_eq!((tracker.watermark(), tracker.in_flight()), (Some(NextOffset(104)), 1));
    let (mut tracker, _) = Tracker::resume(FIRST, Some(NextOffset(100)), "");
    assert_eq!(tracker.received(Offset(99)), Receipt::WentBack { expected: NextOffset(100) });
}

#[test]
fn an_announced_replay_is_recognised() {
    let mut tracker = fresh();
    take(&mut tracker, 100..105);
    end(&mut tracker, [100, 102]);
    tracker.replay_from(NextOffset(0));
    // No further back than the start: what is below was never this assignment's.
    assert_eq!(tracker.received(Offset(99)), Receipt::WentBack { expected: NextOffset(100) });
    let receipts: Vec<Receipt> = (100..106).map(|offset| tracker.received(Offset(offset))).collect();
    let (done, flying) = (Receipt::AlreadyDone, Receipt::InFlight);
    assert_eq!(receipts, [done, flying, done, flying, flying, Receipt::New]);
    assert_eq!((tracker.in_flight(), tracker.done_above()), (4, 1));
    tracker.replay_from(NextOffset(500));
    assert_eq!(tracker.received(Offset(106)), Receipt::New);
}

#[test]
fn full_holds_before_anything_is_left_out_and_ends_with_the_lowest_call() {
    let mut tracker = fresh();
    take(&mut tracker, 0..10_000);
    let mut ended = 0;
    while !tracker.full() {
        ended += 1;
        end(&mut tracker, [ended * 2]);
    }
    // Two bytes a run; three quarters of 2,237 bytes.
    assert_eq!(ended, 839);
    assert_eq!(tracker.commit().map(|commit| commit.runs_left_out), Some(0));
    end(&mut tracker, (ended + 1..5_000).map(|half| half * 2));
    let commit = tracker.commit().unwrap();
    assert_eq!((commit.runs_left_out, commit.next), (4_999 - 1_118, NextOffset(0)));
    assert!(commit.metadata.len() <= METADATA_BYTES_MAX);
    // Only what was left out repeats.
    let (mut again, _) = Tracker::resume(Generation(2), Some(commit.next), &commit.metadata);
    let done = (0..10_000).filter(|&offset| again.received(Offset(offset)) == Receipt::AlreadyDone).count();
    assert_eq!(done, 1_118);
    end(&mut tracker, (0..5_000).map(|half| half * 2 + 1).chain([0]));
    assert_eq!((tracker.full(), tracker.watermark()), (false, Some(NextOffset(10_000))));
}

#[test]
fn a_full_set_that_was_resumed_does_not_stop_the_partition() {
    let mut tracker = fresh();
    take(&mut tracker, 0..3_000);
    end(&mut tracker, (1..1_000).map(|n| n * 2));
    assert!(tracker.full());
    let commit = tracker.commit().unwrap();
    let (mut tracker, _) = Tracker::resume(Generation(2), Some(commit.next), &commit.metadata);
    for offset in 0..1_998 {
        assert!(!tracker.full(), "before offset {offset}");
        let _ = tracker.received(Offset(offset));
    }
    let _ = tracker.received(Offset(1_998));
    assert!(tracker.full());
}

#[test]
fn the_ends_of_the_number_range_do_no_harm() {
    let (mut tracker, _) = Tracker::resume(FIRST, Some(NextOffset(i64::MAX)), "");
    assert_eq!(tracker.received(Offset(i64::MAX)), Receipt::New);
    end(&mut tracker, [i64::MAX]);
    let mut tracker = fresh();
    take(&mut tracker, [i64::MIN, 0, i64::MAX - 1]);
    end(&mut tracker, [i64::MAX - 1]);
    assert!(tracker.commit().is_some());
}

#[derive(Clone, Debug)]
enum Step {
    Receive { hole: i64 },
    Complete { pick: prop::sample::Index },
    CompleteAgain { pick: prop::sample::Index },
    CompleteLate { offset: i64 },
    Commit,
    Acknowledge,
    Replay { back: i64 },
    Crash,
}

fn steps() -> impl Strategy<Value = Vec<Step>> {
    let step = prop_oneof![
        8 => prop_oneof![3 => Just(0_i64), 1 => 1..300_i64].prop_map(|hole| Step::Receive { hole }),
        7 => any::<prop::sample::Index>().prop_map(|pick| Step::Complete { pick }),
        1 => any::<prop::sample::Index>().prop_map(|pick| Step::CompleteAgain { pick }),
        1 => (0..500_i64).prop_map(|offset| Step::CompleteLate { offset }),
        1 => Just(Step::Commit),
        1 => Just(Step::Acknowledge),
        1 => (0..40_i64).prop_map(|back| Step::Replay { back }),
        1 => Just(Step::Crash),
    ];
    prop::collection::vec(step, 0..400)
}

/// The partition's log, what the broker holds of the group, and what truly happened.
#[derive(Default)]
struct Model {
    log: Vec<i64>,
    /// Index into `log` of the next message to deliver.
    deliver: usize,
    /// Highest index delivered under this assignment, and one past it.
    delivered: usize,
    start: usize,
    in_flight: BTreeSet<i64>,
    completed: BTreeSet<i64>,
    completed_at_commit: BTreeSet<i64>,
    broker: (Option<NextOffset>, String),
    runs_left_out: usize,
}

impl Model {
    fn check(&self, tracker: &Tracker) -> Result<(), TestCaseError> {
        prop_assert_eq!(tracker.in_flight(), self.in_flight.len());
        let here = &self.log[self.start..self.delivered];
        let expected_done = match self.in_flight.first() {
            Some(lowest) => here.iter().filter(|offset| *offset > lowest).count() + 1 - self.in_flight.len(),
            None => 0,
        };
        prop_assert_eq!(tracker.done_above(), expected_done);
        let Some(NextOffset(watermark)) = tracker.watermark() else {
            prop_assert!(here.is_empty());
            return Ok(());
        };
        prop_assert!(
            self.log.iter().take_while(|offset| **offset < watermark).all(|offset| self.completed.contains(offset))
        );
        match (self.in_flight.first(), here.last()) {
            (Some(lowest), _) => prop_assert_eq!(watermark, *lowest),
            (None, Some(last)) => prop_assert!(watermark > *last),
            (None, None) => {}
        }
        Ok(())
    }

    fn receive(&mut self, tracker: &mut Tracker, hole: i64) -> Result<(), TestCaseError> {
        if self.deliver == self.log.len() {
            self.log.push(self.log.last().map_or(0, |last| last + 1) + hole);
        }
        let offset = self.log[self.deliver];
        let expected = if self.in_flight.contains(&offset) {
            Receipt::InFlight
        } else if self.deliver < self.delivered || self.completed_at_commit.contains(&offset) {
            Receipt::AlreadyDone
        } else {
            Receipt::New
        };
        let receipt = tracker.received(Offset(offset));
        if self.runs_left_out == 0 {
            prop_assert_eq!(receipt, expected, "offset {}", offset);
        }
        if receipt == Receipt::New {
            prop_assert!(self.in_flight.insert(offset));
        }
        self.deliver += 1;
        self.delivered = self.delivered.max(self.deliver);
        Ok(())
    }

    /// The process dies; another takes the partition over from what the broker holds.
    fn crash(&mut self, generation: Generation) -> Result<Tracker, TestCaseError> {
        let (tracker, fault) = Tracker::resume(generation, self.broker.0, &self.broker.1);
        prop_assert_eq!(fault, None);
        let next = self.broker.0.map_or(0, |next| next.0);
        self.start = self.log.iter().position(|offset| *offset >= next).unwrap_or(self.log.len());
        (self.deliver, self.delivered) = (self.start, self.start);
        self.in_flight.clear();
        // What no commit told of is run again, and the model forgets that it was done.
        self.completed = self.completed_at_commit.clone();
        Ok(tracker)
    }
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(400))]

    #[test]
    fn the_tracker_agrees_with_the_model(steps in steps()) {
        let mut model = Model::default();
        let mut tracker = fresh();
        let mut on_its_way = None;
        for step in steps {
            match step {
                Step::Receive { hole } => model.receive(&mut tracker, hole)?,
                Step::Complete { pick } if !model.in_flight.is_empty() => {
                    let offset = *pick.get(&model.in_flight.iter().copied().collect::<Vec<_>>());
                    prop_assert_eq!(tracker.completed(at(tracker.generation(), offset)), Completion::Counted);
                    model.in_flight.remove(&offset);
                    model.completed.insert(offset);
                }
                Step::CompleteAgain { pick } if !model.completed.is_empty() => {
                    let offset = *pick.get(&model.completed.iter().copied().collect::<Vec<_>>());
                    prop_assert_eq!(tracker.completed(at(tracker.generation(), offset)), Completion::Unknown);
                }
                Step::Complete { .. } | Step::CompleteAgain { .. } => {}
                Step::CompleteLate { offset } => {
                    let before = Generation(tracker.generation().0 - 1);
                    prop_assert_eq!(tracker.completed(at(before, offset)), Completion::Fenced);
                }
                Step::Commit => on_its_way = tracker.commit().map(|commit| (commit, model.completed.clone())),
                Step::Acknowledge => if let Some((commit, completed)) = on_its_way.take() {
                    prop_assert!(commit.metadata.len() <= METADATA_BYTES_MAX);
                    prop_assert_eq!(commit.runs_left_out, 0, "at most 400 messages always fit");
                    tracker.committed(&commit);
                    model.broker = (Some(commit.next), commit.metadata);
                    model.completed_at_commit = completed;
                },
                Step::Replay { back } => if model.delivered > model.start {
                    let to = model.deliver.saturating_sub(usize::try_from(back).unwrap()).max(model.start);
                    tracker.replay_from(NextOffset(model.log[to.min(model.delivered - 1)]));
                    model.deliver = to.min(model.delivered - 1).min(model.deliver);
                },
                Step::Crash => {
                    let next = Generation(tracker.generation().0 + 1);
                    on_its_way = None;
                    tracker = model.crash(next)?;
                }
            }
            model.check(&tracker)?;
        }
    }

    /// 2,000 in flight, ended in any order, with a commit now and then: nothing in flight is ever passed.
    #[test]
    fn any_order_of_many_ends_at_the_top(seed in any::<u64>()) {
        let mut order: Vec<i64> = (0..2_000).map(|n| n * 3).collect();
        let mut state = seed | 1;
        for i in (1..order.len()).rev() {
            state = state.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1_442_695_040_888_963_407);
            order.swap(i, usize::try_from(state >> 33).unwrap() % (i + 1));
        }
        let mut tracker = fresh();
        take(&mut tracker, (0..2_000).map(|n| n * 3));
        let mut left: BTreeSet<i64> = order.iter().copied().collect();
        for offset in order {
            end(&mut tracker, [offset]);
            left.remove(&offset);
            prop_assert_eq!(tracker.watermark(), Some(NextOffset(left.first().copied().unwrap_or(5_998))));
            prop_assert_eq!(tracker.in_flight(), left.len());
        }
        prop_assert_eq!(tracker.commit().map(|commit| commit.metadata), Some(String::new()));
    }
}
