//! What one function's past minutes say of its next one: a bounded record, and the fleet's model that reads it.
//!
//! A minute's *need* is the largest number of instances that were in use at once in it, its *load* the mean number. The
//! record of one function takes less than 1 KiB: in which minutes of the last day it was in use, the need of each of the
//! last eight hours, and moving means and variances of the load. [`Model`] turns it into the probability that at least k
//! instances will be in use at once in the next minute. One model serves all functions, since a single function's past
//! is too short to tell how such pasts go on; it was fitted over many ([`Model::shipped`]).
//!
//! Must not: read a clock (minutes come as numbers), decide what a probability is worth (that is `target`'s), or know
//! how a model is fitted.

mod features;
mod level;
mod minutes;
mod model;
mod saved;

pub use features::{FIRST, FURTHER};
pub use model::{Model, ModelError, Node, Trees};

use self::minutes::{MINUTES, Minutes};
pub(super) use self::saved::Saved;

/// Minutes of which the need is remembered.
const NEEDS: i64 = 480;
/// Half-lives of the moving means of the load, in minutes.
const HALF_LIVES: [f64; 4] = [3.0, 10.0, 30.0, 120.0];

/// The record of one function.
#[derive(Clone, Debug, PartialEq)]
pub struct History {
    /// The first minute that is known of, used or not.
    first: i64,
    /// The minute after the last one that is in the record.
    next: i64,
    /// The last minute in use; `None` before any.
    last_used: Option<i64>,
    in_use: Minutes,
    /// Needs as codes of [`level`]; minute `m` is at `m mod NEEDS`.
    needs: Box<[u8; NEEDS as usize]>,
    /// Moving mean and variance of the load, one pair a half-life.
    loads: [(f32, f32); HALF_LIVES.len()],
    /// The load of the newest minute.
    last_load: f32,
    /// The code of the largest need that was ever seen.
    largest: u8,
}

impl History {
    /// The record of a function that is known from this minute on.
    pub fn new(first: i64) -> Self {
        Self {
            first,
            next: first,
            last_used: None,
            in_use: Minutes::default(),
            needs: Box::new([0; NEEDS as usize]),
            loads: Default::default(),
            last_load: 0.0,
            largest: 0,
        }
    }

    /// The first minute that is known of.
    pub fn first(&self) -> i64 {
        self.first
    }

    /// Takes in a minute that is over. Those between the last one and this one were not used. One that is in the record
    /// already is raised to this, in case the clock was set back.
    pub fn saw(&mut self, minute: i64, need: u32, load: f32) {
        self.pass(minute);
        let code = level::code(need);
        if minute < self.next {
            if minute > self.next - NEEDS && code > self.needs[place(minute)] {
                self.needs[place(minute)] = code;
                self.in_use.set(minute, true);
                self.last_used = self.last_used.max(Some(minute));
            }
        } else {
            self.push(code, if load.is_finite() { load.max(0.0) } else { 0.0 });
        }
        self.largest = self.largest.max(code);
    }

    /// Takes in that the minutes before this one are over, and those that are not in the record were not used.
    pub fn pass(&mut self, minute: i64) {
        let missing = minute.saturating_sub(self.next);
        if missing > MINUTES {
            // Everything that is remembered has ended: only when it was last used still counts.
            self.in_use = Minutes::default();
            self.needs.fill(0);
            self.loads = Default::default();
            self.last_load = 0.0;
            self.next = minute;
            return;
        }
        for _ in 0..missing {
            self.push(0, 0.0);
        }
    }

    fn push(&mut self, code: u8, load: f32) {
        self.needs[place(self.next)] = code;
        self.in_use.set(self.next, code > 0);
        if code > 0 {
            self.last_used = Some(self.next);
        }
        for ((mean, variance), keep) in self.loads.iter_mut().zip(KEEP) {
            // West's update of a decayed mean and variance (D. H. D. West, 1979).
            let step = (1.0 - keep) * (load - *mean);
            *variance = keep * (*variance + step * (load - *mean));
            *mean += step;
        }
        self.last_load = load;
        self.next += 1;
    }

    /// How likely it is that a number of instances is in use at once in the minute after the last one in the record:
    /// pairs of a level and the probability that it is reached, for the levels 1, 2 and so on (in steps of 8 % above
    /// 32), at most `levels_max` of them, as long as that is likelier than `least`. Never rising.
    ///
    /// `newcomer_share` (0.0 to 1.0) is the share of functions that are called at all: a function that was never called
    /// counts by that much less, since the model was fitted to functions that were.
    pub fn outlook(&self, model: &Model, newcomer_share: f32, least: f32, levels_max: u32, out: &mut Vec<(u32, f32)>) {
        out.clear();
        let share = if self.last_used.is_some() { 1.0 } else { newcomer_share };
        let first = model.first.probability(&self.first_features()) * share;
        if first < least || self.is_forgotten() {
            return;
        }
        out.push((1, first));
        if levels_max < 2 {
            return;
        }
        let shared = self.shared();
        let mut before = first;
        for code in 2..=self.highest_code() {
            let further = model.further.probability(&self.further_features(&shared, code)).min(before);
            if further < least || level::level(code) > levels_max {
                return;
            }
            out.push((level::level(code), further));
            before = further;
        }
    }

    /// Whether nothing of its use is remembered, though there was some.
    fn is_forgotten(&self) -> bool {
        self.last_used.is_some_and(|last| last <= self.next - MINUTES)
    }

    /// The highest code that is worth asking for: a third above the largest need that was seen.
    fn highest_code(&self) -> u8 {
        if self.largest == 0 { 0 } else { level::code(level::level(self.largest).saturating_mul(4).div_ceil(3)) }
    }
}

/// What a moving mean keeps of its past in a minute: 0.5^(1 / half-life).
const KEEP: [f32; HALF_LIVES.len()] = [0.793_700_5, 0.933_033, 0.977_16, 0.994_240_4];

fn place(minute: i64) -> usize {
    minute.rem_euclid(NEEDS) as usize
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_a_mean_keeps_is_what_its_half_life_says() {
        for (keep, half_life) in KEEP.into_iter().zip(HALF_LIVES) {
            assert!((f64::from(keep) - 0.5_f64.powf(1.0 / half_life)).abs() < 1e-6, "{half_life}");
        }
    }

    #[test]
    fn minutes_that_were_passed_over_were_not_used() {
        let mut history = History::new(100);
        history.saw(103, 2, 0.5);
        history.saw(107, 1, 0.25);
        assert_eq!((history.next, history.last_used, history.largest), (108, Some(107), 2));
        let used: Vec<i64> = history.in_use.backwards(107, 100).collect();
        assert_eq!(used, [107, 103]);
        history.saw(105, 3, 1.0);
        history.saw(107, 1, 9.0);
        assert_eq!((history.next, history.largest, history.needs[place(105)]), (108, 3, 3));
        assert_eq!(history.in_use.count(107, 8), 3);
    }

    #[test]
    fn a_long_silence_is_passed_at_once_and_remembered_as_such() {
        let (mut slow, mut quick) = (History::new(0), History::new(0));
        for history in [&mut slow, &mut quick] {
            history.saw(5, 7, 3.0);
        }
        (6..=MINUTES + 10).for_each(|minute| slow.pass(minute));
        quick.pass(MINUTES + 10);
        assert_eq!(
            (&quick.in_use, &quick.needs, quick.next, quick.last_used),
            (&slow.in_use, &slow.needs, slow.next, slow.last_used)
        );
        assert!(quick.is_forgotten());
        let mut out = vec![(1, 1.0)];
        quick.outlook(&Model::shipped(), 1.0, 0.0, u32::MAX, &mut out);
        assert!(out.is_empty());
    }

    #[test]
    fn a_record_takes_less_than_a_kibibyte() {
        assert!(size_of::<History>() + NEEDS as usize <= 1024);
    }
}
