//! The table of partitions, in exact numbers and against the trackers.

use super::*;
use proptest::prelude::*;

fn new(verdict: Verdict) -> Position {
    match verdict {
        Verdict::New(position) => position,
        other => panic!("{other:?}"),
    }
}

#[test]
fn a_partition_that_is_given_up_takes_nothing_more_and_its_late_completions_are_fenced() {
    let mut table = Partitions::default();
    table.take_over(0, Some(NextOffset(10)), "");
    let first = new(table.received(0, Offset(10), 100));
    let second = new(table.received(0, Offset(11), 50));
    assert_eq!((table.in_flight(), table.bytes()), (2, 150));
    table.drain(&[0]);
    assert_eq!(table.received(0, Offset(12), 1), Verdict::NotOurs);
    assert_eq!(table.completed(first, 100), Completion::Counted);
    assert_eq!(table.commits(Some(&[0]))[0].1.next, NextOffset(11));
    assert_eq!(table.forget(0), Abandoned { messages: 1, bytes: 50 });
    assert_eq!((table.in_flight(), table.bytes()), (0, 0));
    assert_eq!(table.completed(second, 50), Completion::Fenced);
    table.take_over(0, Some(NextOffset(11)), "");
    let again = new(table.received(0, Offset(11), 50));
    assert_ne!(again.generation, second.generation);
    assert_eq!(table.completed(second, 50), Completion::Fenced);
    assert_eq!((table.in_flight(), table.bytes()), (1, 50));
    assert_eq!(table.received(1, Offset(0), 1), Verdict::NotOurs);
}

fn received(table: &mut Partitions, partition: i32, offsets: std::ops::Range<i64>) -> Vec<(Position, usize)> {
    offsets.map(|offset| (new(table.received(partition, Offset(offset), 1)), 1)).collect()
}

#[test]
fn what_a_transaction_did_not_know_of_is_committed_after_it() {
    // Offset 14 is done, and 11 to 13 hold no message.
    let mut before = Partitions::default();
    before.take_over(0, Some(NextOffset(10)), "");
    received(&mut before, 0, 10..11);
    let done = received(&mut before, 0, 14..15);
    assert_eq!(before.completed(done[0].0, 1), Completion::Counted);
    let metadata = before.commits(None)[0].1.metadata.clone();
    let mut table = Partitions::default();
    table.take_over(0, Some(NextOffset(10)), &metadata);
    let last = received(&mut table, 0, 10..11);
    let trial = table.trial(&last, true);
    assert_eq!(trial.commits[0].1.next, NextOffset(11));
    assert_eq!(table.received(0, Offset(14), 1), Verdict::Known);
    // The transaction is committed.
    assert_eq!(table.completed(last[0].0, 1), Completion::Counted);
    table.committed(&trial.commits);
    assert_eq!(table.commits(None)[0].1.next, NextOffset(15));
}

#[test]
fn a_partition_whose_metadata_has_no_more_room_pauses_until_its_gaps_are_closed() {
    let mut table = Partitions::default();
    table.take_over(0, Some(NextOffset(0)), "");
    table.take_over(1, Some(NextOffset(0)), "");
    // Every second call ends; the others leave gaps.
    let mut open = Vec::new();
    while table.regulate(|_| false) == (vec![], vec![]) {
        assert!(open.len() < 100_000, "never paused");
        let next = open.len() as i64 * 2;
        let both = received(&mut table, 0, next..next + 2);
        open.push(both[0]);
        assert_eq!(table.completed(both[1].0, 1), Completion::Counted);
    }
    assert!(open.len() > 500, "paused with {} gaps", open.len());
    let commit = &table.commits(Some(&[0]))[0].1;
    assert_eq!((commit.next, commit.runs_left_out), (NextOffset(0), 0));
    assert_eq!(table.regulate(|_| false), (vec![], vec![]), "said once");
    for (position, bytes) in open {
        assert_eq!(table.completed(position, bytes), Completion::Counted);
    }
    assert_eq!(table.regulate(|_| false), (vec![], vec![0]));
}

#[test]
fn a_transaction_holds_what_its_offsets_can_say_and_asking_changes_nothing() {
    let mut table = Partitions::default();
    table.take_over(0, Some(NextOffset(0)), "");
    table.take_over(1, Some(NextOffset(0)), "");
    let mut calls = received(&mut table, 0, 0..5);
    let foreign = received(&mut table, 1, 0..1)[0];
    table.take_over(1, Some(NextOffset(0)), "");
    calls.push(foreign);
    // Handed in from the highest to the lowest; 1 is not done.
    let asked = [calls[5], calls[4], calls[3], calls[2], calls[0]];
    let trial = table.trial(&asked, true);
    assert_eq!(trial.fates, [Fate::Fenced, Fate::Taken, Fate::Taken, Fate::Taken, Fate::Taken]);
    assert_eq!(trial.commits.len(), 1);
    assert_eq!((trial.commits[0].0, trial.commits[0].1.next), (0, NextOffset(1)));
    let (resumed, fault) = Tracker::resume(Generation(9), Some(NextOffset(1)), &trial.commits[0].1.metadata);
    assert_eq!((resumed.watermark(), fault), (Some(NextOffset(1)), None));
    // Without metadata only the watermark speaks.
    let trial = table.trial(&asked, false);
    assert_eq!(trial.fates, [Fate::Fenced, Fate::Later, Fate::Later, Fate::Later, Fate::Taken]);
    assert_eq!((trial.commits[0].1.next, trial.commits[0].1.metadata.as_str()), (NextOffset(1), ""));
    assert_eq!((table.in_flight(), table.commits(None).len()), (5, 0));
    // What was taken is completed when the transaction is through, and then there is nothing left to commit.
    let trial = table.trial(&calls[..5], true);
    for (position, bytes) in &calls[..5] {
        assert_eq!(table.completed(*position, *bytes), Completion::Counted);
    }
    table.committed(&trial.commits);
    assert_eq!((table.in_flight(), table.commits(None).len()), (0, 0));
    assert_eq!(table.trial(&calls[..1], true).fates, [Fate::Fenced]);
}

#[test]
fn what_the_metadata_has_no_room_for_waits_and_the_lowest_never_does() {
    let mut table = Partitions::default();
    table.take_over(0, Some(NextOffset(0)), "");
    let calls = received(&mut table, 0, 0..20_000);
    // Every second one: each is a run of its own.
    let scattered: Vec<_> = calls.iter().skip(1).step_by(2).copied().collect();
    let trial = table.trial(&scattered, true);
    let taken = trial.fates.iter().filter(|&&fate| fate == Fate::Taken).count();
    assert!((1_000..1_200).contains(&taken), "{taken}");
    assert!(trial.fates[..taken].iter().all(|&fate| fate == Fate::Taken), "the lowest are taken");
    assert_eq!(trial.commits[0].1.runs_left_out, 0);
    let lowest = [calls[0]];
    for (position, bytes) in &scattered[..taken] {
        assert_eq!(table.completed(*position, *bytes), Completion::Counted);
    }
    assert_eq!(table.trial(&lowest, true).fates, [Fate::Taken]);
    assert_eq!(table.trial(&[scattered[taken]], true).fates, [Fate::Later]);
}

#[test]
fn offsets_that_go_back_start_a_new_count() {
    let mut table = Partitions::default();
    table.take_over(3, Some(NextOffset(100)), "");
    let old = new(table.received(3, Offset(100), 7));
    let fresh = new(table.received(3, Offset(0), 9));
    assert_eq!((table.went_back, table.went_back_abandoned), (1, 1));
    assert_eq!((table.in_flight(), table.bytes()), (1, 9));
    assert_eq!(table.completed(old, 7), Completion::Fenced);
    assert_eq!(table.completed(fresh, 9), Completion::Counted);
    assert_eq!(table.commits(None)[0].1.next, NextOffset(1));
}

#[test]
fn each_partition_is_told_once_and_again_after_a_failure() {
    let mut table = Partitions::default();
    table.take_over(0, None, "");
    table.take_over(1, None, "");
    assert_eq!(table.regulate(|partition| partition == 1), (vec![1], vec![]));
    assert_eq!(table.regulate(|partition| partition == 1), (vec![], vec![]));
    assert_eq!(table.regulate(|_| true), (vec![0], vec![]));
    table.not_regulated(&[0]);
    assert_eq!(table.regulate(|_| true), (vec![0], vec![]));
    assert_eq!(table.regulate(|_| false), (vec![], vec![0, 1]));
    table.drain(&[1]);
    assert_eq!(table.regulate(|_| true), (vec![0], vec![]));
}

#[test]
fn bytes_that_are_handed_back_wrong_do_not_wrap() {
    let mut table = Partitions::default();
    table.take_over(0, None, "");
    let position = new(table.received(0, Offset(0), 10));
    assert_eq!(table.completed(position, 1_000), Completion::Counted);
    assert_eq!((table.in_flight(), table.bytes()), (0, 0));
}

proptest! {
    /// Whatever comes in whatever order, the sums are those of what was received and neither completed nor given up.
    #[test]
    fn the_sums_are_exact(steps in prop::collection::vec((0_u8..5, 0_i32..3, 0_usize..64), 1..300)) {
        let mut table = Partitions::default();
        let mut offsets = [0_i64; 3];
        let mut open: Vec<(Position, usize)> = Vec::new();
        for (what, partition, pick) in steps {
            let slot = partition as usize;
            match what {
                0 => {
                    table.take_over(partition, Some(NextOffset(offsets[slot])), "");
                    open.retain(|(position, _)| position.partition != partition);
                }
                1 | 2 => {
                    if let Verdict::New(position) = table.received(partition, Offset(offsets[slot]), pick) {
                        open.push((position, pick));
                    }
                    offsets[slot] += 1;
                }
                3 if !open.is_empty() => {
                    let (position, bytes) = open.remove(pick % open.len());
                    prop_assert_eq!(table.completed(position, bytes), Completion::Counted);
                    prop_assert_ne!(table.completed(position, bytes), Completion::Counted);
                }
                4 => {
                    table.forget(partition);
                    open.retain(|(position, _)| position.partition != partition);
                }
                _ => {}
            }
            prop_assert_eq!(table.in_flight(), open.len());
            prop_assert_eq!(table.bytes(), open.iter().map(|(_, bytes)| bytes).sum::<usize>());
        }
    }
}

#[test]
fn what_goes_back_stays_in_flight_until_its_partition_goes() {
    let mut table = Partitions::default();
    table.take_over(0, Some(NextOffset(0)), "");
    let calls = received(&mut table, 0, 0..3);
    assert!(table.given_back(calls[1].0));
    assert_eq!((table.in_flight_of(0), table.given_back_of(0), table.given_back_in_all()), (3, 1, 1));
    assert_eq!(table.completed(calls[0].0, 1), Completion::Counted);
    assert_eq!(table.completed(calls[2].0, 1), Completion::Counted);
    assert_eq!(table.commits(None)[0].1.next, NextOffset(1), "the call that went back is read again");
    table.take_over(0, Some(NextOffset(1)), "");
    assert_eq!(table.given_back_in_all(), 0);
    assert!(!table.given_back(calls[1].0), "its assignment has ended");
}

#[test]
fn records_without_a_call_are_passed_where_nothing_has_moved_since() {
    let mut table = Partitions::default();
    table.take_over(0, Some(NextOffset(5)), "");
    table.take_over(1, None, "");
    let quiet = table.quiet();
    assert_eq!(quiet.iter().map(|quiet| (quiet.partition, quiet.next)).collect::<Vec<_>>(), [(0, NextOffset(5))]);
    assert!(!table.pass(quiet[0], NextOffset(5)), "there is nothing to pass");
    let call = received(&mut table, 0, 7..8)[0];
    assert!(table.quiet().is_empty());
    assert!(!table.pass(quiet[0], NextOffset(7)), "a call came meanwhile");
    assert_eq!(table.completed(call.0, 1), Completion::Counted);
    let [quiet] = table.quiet()[..] else { panic!("quiet again") };
    assert!(table.pass(quiet, NextOffset(11)));
    assert_eq!(table.commits(None)[0].1.next, NextOffset(11));
    assert!(!table.pass(quiet, NextOffset(12)), "it stands elsewhere by now");
    // What comes next lies behind the end that was passed.
    let next = received(&mut table, 0, 11..12)[0];
    assert_eq!(table.completed(next.0, 1), Completion::Counted);
    assert_eq!(table.commits(None)[0].1.next, NextOffset(12));
    table.take_over(0, Some(NextOffset(12)), "");
    assert!(!table.pass(Quiet { next: NextOffset(12), ..quiet }, NextOffset(13)), "of another assignment");
}
