//! What the tracker costs a message, beside the plainest tracker that is right: one set of offsets in flight, one of
//! offsets done. Reads as time for one message received and completed, with 10,000 in flight.
//!
//! Must not: measure a broker; and the order of completion is fixed, so that runs compare.

#![allow(missing_docs, reason = "criterion's macros make public functions")]
#![expect(clippy::expect_used, reason = "a bench that cannot go on must stop")]

use std::collections::{BTreeSet, VecDeque};
use std::hint::black_box;

use criterion::{BenchmarkId, Criterion, Throughput, criterion_group, criterion_main};
use forewarm::progress::Tracker;
use forewarm::types::{Generation, NextOffset, Offset, Position};

const IN_FLIGHT: usize = 10_000;
const MESSAGES: i64 = 50_000;

/// Which of the calls in flight ends next, by its place in the order of receipt.
#[derive(Clone, Copy, Debug)]
enum Order {
    /// The oldest.
    Oldest,
    /// Any of the oldest 64: calls of about the same length.
    Near,
    /// Any at all.
    Any,
}

impl Order {
    fn pick(self, random: u64, in_flight: usize) -> usize {
        let within = match self {
            Self::Oldest => 1,
            Self::Near => 64.min(in_flight),
            Self::Any => in_flight,
        };
        usize::try_from(random >> 33).unwrap_or_default() % within
    }
}

/// The offsets in the order in which they end, with `IN_FLIGHT` of them in flight all the time.
fn script(order: Order) -> Vec<i64> {
    let mut state = 42_u64;
    let mut flying: VecDeque<i64> = (0..IN_FLIGHT as i64).collect();
    let mut ends = Vec::new();
    for next in IN_FLIGHT as i64..MESSAGES {
        state = state.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1_442_695_040_888_963_407);
        let nth = order.pick(state, flying.len());
        flying.swap(0, nth);
        ends.extend(flying.pop_front());
        flying.push_back(next);
    }
    ends
}

/// The plain one.
#[derive(Default)]
struct Plain {
    in_flight: BTreeSet<i64>,
    done: BTreeSet<i64>,
}

impl Plain {
    fn completed(&mut self, offset: i64) -> i64 {
        self.in_flight.remove(&offset);
        self.done.insert(offset);
        let low = self.in_flight.first().copied().unwrap_or(offset + 1);
        while self.done.first().is_some_and(|first| *first < low) {
            self.done.pop_first();
        }
        low
    }
}

fn tracker_with(messages: i64) -> Tracker {
    let (mut tracker, fault) = Tracker::resume(Generation(1), Some(NextOffset(0)), "");
    assert_eq!(fault, None);
    for offset in 0..messages {
        let _ = tracker.received(Offset(offset));
    }
    tracker
}

fn message(criterion: &mut Criterion) {
    let mut group = criterion.benchmark_group("progress/message");
    for order in [Order::Oldest, Order::Near, Order::Any] {
        let ends = script(order);
        group.throughput(Throughput::Elements(ends.len() as u64));
        group.bench_function(BenchmarkId::new("tracker", format!("{order:?}")), |bencher| {
            bencher.iter_batched_ref(
                || tracker_with(IN_FLIGHT as i64),
                |tracker| {
                    for (next, &offset) in (IN_FLIGHT as i64..).zip(&ends) {
                        let position = Position { partition: 0, offset: Offset(offset), generation: Generation(1) };
                        let _ = black_box(tracker.completed(position));
                        let _ = black_box(tracker.received(Offset(next)));
                        black_box(tracker.full());
                    }
                },
                criterion::BatchSize::LargeInput,
            );
        });
        group.bench_function(BenchmarkId::new("plain", format!("{order:?}")), |bencher| {
            bencher.iter_batched_ref(
                || Plain { in_flight: (0..IN_FLIGHT as i64).collect(), ..Plain::default() },
                |plain| {
                    for (next, &offset) in (IN_FLIGHT as i64..).zip(&ends) {
                        black_box(plain.completed(offset));
                        plain.in_flight.insert(next);
                    }
                },
                criterion::BatchSize::LargeInput,
            );
        });
    }
    group.finish();
}

/// A commit at its largest: as many runs as the metadata holds, written and read.
fn commit(criterion: &mut Criterion) {
    let mut tracker = tracker_with(2_000);
    for offset in (2..2_000).step_by(2) {
        let _ = tracker.completed(Position { partition: 0, offset: Offset(offset), generation: Generation(1) });
    }
    let commit = tracker.commit().expect("calls are done");
    let mut group = criterion.benchmark_group("progress/commit of 999 runs");
    group.bench_function("write", |bencher| bencher.iter(|| black_box(&tracker).commit()));
    group.bench_function("resume", |bencher| {
        bencher.iter(|| Tracker::resume(Generation(2), Some(commit.next), black_box(&commit.metadata)));
    });
    group.finish();
}

criterion_group!(benches, message, commit);
criterion_main!(benches);
