//! The largest number of calls in flight within a sliding window, in a fixed few bytes a function.
//!
//! The window is cut into [`BUCKETS`] buckets, each with its own maximum, in a ring. A peak is remembered while its
//! bucket is among the newest `BUCKETS`: for more than 11/12 of the window and never longer than the window. An exact
//! sliding maximum would need as many entries as there are looks within the window.
//!
//! Must not: read a clock, or know what the numbers mean.

use crate::types::Timestamp;

/// Buckets in one window.
pub(super) const BUCKETS: usize = 12;
const BUCKETS_I64: i64 = BUCKETS as i64;

/// The ring of one function. `width` (of one bucket, in µs, at least 1) is handed in, since it is the same for all.
#[derive(Debug, Default)]
pub(super) struct Peaks {
    /// Maximum of each bucket; bucket number `n` is at `n mod BUCKETS`.
    maxima: [u32; BUCKETS],
    /// Number of the newest bucket: µs since the epoch, divided by the width.
    newest: i64,
}

impl Peaks {
    pub(super) fn record(&mut self, now: Timestamp, width: i64, peak: u32) {
        let bucket = number(now, width);
        let steps = bucket.saturating_sub(self.newest);
        if steps >= BUCKETS_I64 || steps <= -BUCKETS_I64 {
            // Past everything that is held; or the clock was set back so far that what is held would never age.
            *self = Self { maxima: [0; BUCKETS], newest: bucket };
        }
        while self.newest < bucket {
            self.newest += 1;
            *self.slot(self.newest) = 0;
        }
        let maximum = self.slot(self.newest);
        *maximum = peak.max(*maximum);
    }

    /// The largest peak within the window that ends now; 0 where there is none.
    pub(super) fn max(&self, now: Timestamp, width: i64) -> u32 {
        self.held(now, width).map(|(_, peak)| peak).max().unwrap_or(0)
    }

    /// The moment from which on [`Self::max`] is lower than now, if no more is recorded; `None` where it is 0.
    pub(super) fn falls_at(&self, now: Timestamp, width: i64) -> Option<Timestamp> {
        // `max_by_key` takes the last of equals: the newest bucket that holds the maximum.
        let (bucket, peak) = self.held(now, width).max_by_key(|&(_, peak)| peak)?;
        let end = bucket.saturating_add(BUCKETS_I64).saturating_mul(width);
        (peak > 0).then_some(Timestamp::from_micros(end))
    }

    /// Buckets within the window that ends now, oldest first, with their numbers.
    fn held(&self, now: Timestamp, width: i64) -> impl Iterator<Item = (i64, u32)> {
        let present = number(now, width);
        let first = present.max(self.newest).saturating_sub(BUCKETS_I64 - 1);
        let set_back = present.saturating_sub(self.newest) <= -BUCKETS_I64;
        let last = if set_back { first - 1 } else { self.newest };
        (first..=last).map(|bucket| (bucket, self.maxima[place(bucket)]))
    }

    fn slot(&mut self, bucket: i64) -> &mut u32 {
        &mut self.maxima[place(bucket)]
    }
}

fn number(now: Timestamp, width: i64) -> i64 {
    now.as_micros().div_euclid(width)
}

fn place(bucket: i64) -> usize {
    bucket.rem_euclid(BUCKETS_I64) as usize
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    const WIDTH: i64 = 5_000_000;

    fn at(seconds: i64) -> Timestamp {
        Timestamp::from_millis(seconds * 1_000)
    }

    #[test]
    fn a_peak_is_remembered_until_its_bucket_leaves_the_window() {
        let mut peaks = Peaks::default();
        peaks.record(at(102), WIDTH, 7);
        peaks.record(at(103), WIDTH, 4);
        peaks.record(at(120), WIDTH, 2);
        assert_eq!(peaks.max(at(120), WIDTH), 7);
        assert_eq!(peaks.falls_at(at(120), WIDTH), Some(at(160)));
        assert_eq!(peaks.max(Timestamp::from_micros(160_000_000 - 1), WIDTH), 7);
        assert_eq!(peaks.max(at(160), WIDTH), 2);
        assert_eq!(peaks.falls_at(at(160), WIDTH), Some(at(180)));
        assert_eq!(peaks.max(at(180), WIDTH), 0);
        assert_eq!(peaks.falls_at(at(180), WIDTH), None);
    }

    #[test]
    fn a_clock_set_back_a_little_changes_nothing_and_set_back_far_begins_anew() {
        let mut peaks = Peaks::default();
        peaks.record(at(1_000), WIDTH, 5);
        peaks.record(at(990), WIDTH, 6);
        assert_eq!(peaks.max(at(990), WIDTH), 6);
        assert_eq!(peaks.max(at(1_000), WIDTH), 6);
        assert_eq!(peaks.max(at(500), WIDTH), 0);
        peaks.record(at(500), WIDTH, 1);
        assert_eq!(peaks.max(at(500), WIDTH), 1);
    }

    #[test]
    fn the_ends_of_time_do_not_overflow() {
        let mut peaks = Peaks::default();
        for micros in [i64::MIN, i64::MAX, 0, i64::MAX, i64::MIN] {
            peaks.record(Timestamp::from_micros(micros), 1, 3);
            assert_eq!(peaks.max(Timestamp::from_micros(micros), 1), 3);
            assert!(peaks.falls_at(Timestamp::from_micros(micros), 1).is_some());
        }
    }

    proptest! {
        #[test]
        fn agrees_with_a_list_of_everything_that_was_seen(
            looks in prop::collection::vec((0_i64..20_000_000, 0_u32..50), 1..60),
        ) {
            let mut peaks = Peaks::default();
            let mut seen = Vec::new();
            let mut now = 0;
            for (pause, peak) in looks {
                now += pause;
                peaks.record(Timestamp::from_micros(now), WIDTH, peak);
                seen.push((now / WIDTH, peak));
                let first = now / WIDTH - 11;
                let naive = seen.iter().filter(|(bucket, _)| *bucket >= first).map(|(_, peak)| *peak).max();
                prop_assert_eq!(Some(peaks.max(Timestamp::from_micros(now), WIDTH)), naive);
                if let Some(end) = peaks.falls_at(Timestamp::from_micros(now), WIDTH) {
                    let before = Timestamp::from_micros(end.as_micros() - 1);
                    prop_assert!(end > Timestamp::from_micros(now));
                    prop_assert_eq!(Some(peaks.max(before, WIDTH)), naive);
                    prop_assert!(Some(peaks.max(end, WIDTH)) < naive);
                }
            }
        }
    }
}
