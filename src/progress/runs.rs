//! The set of offsets done above the watermark, as disjoint runs, with the size of its encoding kept up to date.
//!
//! Must not: know what is in flight; who inserts says over which holes a run may reach.

use std::collections::BTreeMap;
use std::ops::Range;

/// Bytes of `value` as a LEB128 varint: 1 to 10.
pub(super) const fn varint_bytes(value: u64) -> usize {
    let bits = 64 - (value | 1).leading_zeros() as usize;
    bits.div_ceil(7)
}

/// Bytes of the distance from `from` up to `to`.
fn distance_bytes(from: i64, to: i64) -> usize {
    varint_bytes(to.abs_diff(from))
}

/// Disjoint runs of offsets that do not touch without reason, ordered. Each is `start` (inclusive) → `end` (exclusive).
#[derive(Clone, Debug, Default)]
pub(super) struct Runs {
    ends: BTreeMap<i64, i64>,
    /// Bytes of every run's length, and of every distance between two neighbours. The distance from the watermark to the
    /// first run is left out: it changes with the watermark.
    bytes: usize,
}

impl Runs {
    /// Takes runs that are not empty, do not overlap and are in order.
    pub(super) fn from_ordered(runs: Vec<Range<i64>>) -> Self {
        let lengths: usize = runs.iter().map(|run| distance_bytes(run.start, run.end)).sum();
        let gaps: usize = runs.windows(2).map(|pair| distance_bytes(pair[0].end, pair[1].start)).sum();
        Self { ends: runs.into_iter().map(|run| (run.start, run.end)).collect(), bytes: lengths + gaps }
    }

    /// Whether a run covers `offset`.
    pub(super) fn covers(&self, offset: i64) -> bool {
        self.ends.range(..=offset).next_back().is_some_and(|(_, &end)| end > offset)
    }

    /// Every run, in order.
    pub(super) fn iter(&self) -> impl Iterator<Item = Range<i64>> + '_ {
        self.ends.iter().map(|(&start, &end)| start..end)
    }

    /// Exact bytes of the encoding of every run above `watermark`.
    pub(super) fn encoded_bytes(&self, watermark: i64) -> usize {
        self.ends.first_key_value().map_or(0, |(&start, _)| distance_bytes(watermark, start) + self.bytes)
    }

    /// Adds `offset`, which no run covers. `bridges(a..b)` says whether every offset in the possibly empty range is a hole
    /// over which a run may reach; it is asked only about the space between `offset` and its neighbours.
    pub(super) fn insert(&mut self, offset: i64, bridges: impl Fn(Range<i64>) -> bool) {
        let above = offset.saturating_add(1);
        let before = self.ends.range(..offset).next_back().map(|(&start, &end)| start..end);
        let after = self.ends.range(above..).next().map(|(&start, &end)| start..end);
        let (mut start, mut end) = (offset, above);
        if let (Some(before), Some(after)) = (&before, &after) {
            self.bytes -= distance_bytes(before.end, after.start);
        }
        match before {
            Some(before) if bridges(before.end..offset) => {
                self.bytes -= distance_bytes(before.start, before.end);
                start = before.start;
            }
            Some(before) => self.bytes += distance_bytes(before.end, offset),
            None => {}
        }
        match after {
            Some(after) if bridges(above..after.start) => {
                self.bytes -= distance_bytes(after.start, after.end);
                self.ends.remove(&after.start);
                end = after.end;
            }
            Some(after) => self.bytes += distance_bytes(above, after.start),
            None => {}
        }
        self.bytes += distance_bytes(start, end);
        self.ends.insert(start, end);
    }

    /// Drops every run that begins at or below `watermark`, which moves to the end of such a run where that is higher.
    /// Returns the watermark after that.
    pub(super) fn pass(&mut self, mut watermark: i64) -> i64 {
        while let Some(first) = self.ends.first_entry() {
            if *first.key() > watermark {
                break;
            }
            let (start, end) = first.remove_entry();
            self.bytes -= distance_bytes(start, end);
            if let Some((&next, _)) = self.ends.first_key_value() {
                self.bytes -= distance_bytes(end, next);
            }
            watermark = watermark.max(end);
        }
        watermark
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn list(runs: &Runs) -> Vec<(i64, i64)> {
        runs.iter().map(|run| (run.start, run.end)).collect()
    }

    /// The size by its definition, from nothing but the runs.
    fn bytes_of(runs: &Runs, watermark: i64) -> usize {
        let mut at = watermark;
        let mut bytes = 0;
        for run in runs.iter() {
            bytes += distance_bytes(at, run.start) + distance_bytes(run.start, run.end);
            at = run.end;
        }
        bytes
    }

    #[test]
    fn varints_grow_at_powers_of_128() {
        let sizes = [(0, 1), (127, 1), (128, 2), (16_383, 2), (16_384, 3), (u64::MAX >> 1, 9), (u64::MAX, 10)];
        for (value, bytes) in sizes {
            assert_eq!(varint_bytes(value), bytes, "{value}");
        }
    }

    #[test]
    fn neighbours_join_and_holes_are_bridged_where_allowed() {
        let mut runs = Runs::default();
        let touching = |hole: Range<i64>| hole.is_empty();
        runs.insert(5, touching);
        runs.insert(7, touching);
        assert_eq!(list(&runs), [(5, 6), (7, 8)]);
        runs.insert(6, touching);
        assert_eq!(list(&runs), [(5, 8)]);
        runs.insert(20, |_| true);
        assert_eq!(list(&runs), [(5, 21)]);
        assert!(runs.covers(5) && runs.covers(12) && runs.covers(20) && !runs.covers(4) && !runs.covers(21));
    }

    #[test]
    fn the_size_is_exact_after_every_step() {
        let mut runs = Runs::default();
        // 7,919 is prime to 5,000: every offset comes once, scattered.
        for step in 0..5_000_i64 {
            runs.insert(1_000 + (step * 7_919) % 5_000 * 3, |hole| hole.end - hole.start < 3);
            if step % 50 == 0 {
                assert_eq!(runs.encoded_bytes(10), bytes_of(&runs, 10), "step {step}");
            }
        }
        assert_eq!(list(&runs), [(1_000, 15_998)]);
        assert_eq!(runs.encoded_bytes(10), 2 + 2);
    }

    #[test]
    fn passing_drops_what_is_below_and_joins_what_is_reached() {
        let mut runs = Runs::from_ordered(vec![10..20, 30..40, 40..50, 60..70]);
        assert_eq!(runs.pass(5), 5);
        assert_eq!(runs.pass(35), 50);
        assert_eq!(list(&runs), [(60, 70)]);
        assert_eq!(runs.encoded_bytes(50), 2);
        assert_eq!(runs.pass(60), 70);
        assert_eq!(runs.encoded_bytes(70), 0);
        assert_eq!(runs.bytes, 0);
    }
}
