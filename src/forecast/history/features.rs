//! What the model is told of a record: two lists of numbers, each with its names.
//!
//! The names are part of a model's file, so that a model that was fitted to other numbers is refused. A number that is
//! not known is −1, or −999 where −1 could be one. Costs some 300 steps a list, and no allocation.
//!
//! Must not: look at the minute that is asked about, or later.

use super::{History, MINUTES, NEEDS, level, place};

/// Windows over which use is counted, in minutes.
const WINDOWS: [i64; 9] = [2, 5, 10, 20, 30, 60, 120, 240, 480];
/// Minutes back that are looked at one by one.
const LAGS: [i64; 12] = [1, 2, 3, 4, 5, 6, 10, 15, 20, 30, 60, 120];
/// Periods that people put into schedules, in minutes; 60 is the minute of the hour.
const PERIODS: [i64; 6] = [5, 10, 15, 20, 30, 60];
/// Gaps between uses that are looked at, newest first: bounds the cost for functions that are always in use.
const GAPS: usize = 256;
/// Of those, the ones of which the median is taken.
const MEDIAN_OF: usize = 31;
/// What a gap's weight keeps with each newer one.
const DECAY: f32 = 0.9;
const UNKNOWN: f32 = -1.0;
const NO_DIFFERENCE: f32 = -999.0;
/// The gap of a function that was never used.
const NEVER: f32 = 9_999.0;

/// Names of what the probability of the first instance is told from, in order.
pub const FIRST: [&str; 56] = [
    "gap",
    "gap_1",
    "gap_2",
    "gap_3",
    "gap_4",
    "gap-gap_1",
    "gap-gap_2",
    "gap/mean",
    "gap-median",
    "mean",
    "cv",
    "median",
    "hazard",
    "hazard_near",
    "at_risk",
    "hazard_decayed",
    "used_2",
    "used_5",
    "used_10",
    "used_20",
    "used_30",
    "used_60",
    "used_120",
    "used_240",
    "used_480",
    "used",
    "age",
    "share",
    "lag_1",
    "lag_2",
    "lag_3",
    "lag_4",
    "lag_5",
    "lag_6",
    "lag_10",
    "lag_15",
    "lag_20",
    "lag_30",
    "lag_60",
    "lag_120",
    "period_5",
    "near_5",
    "period_10",
    "near_10",
    "period_15",
    "near_15",
    "period_20",
    "near_20",
    "period_30",
    "near_30",
    "period_60",
    "near_60",
    "yesterday",
    "need_1",
    "load_1",
    "load_30",
];

/// Names of what the probability of a further instance is told from, in order.
pub const FURTHER: [&str; 69] = [
    "gap",
    "gap_1",
    "gap_2",
    "gap-gap_1",
    "share_2",
    "share_5",
    "share_10",
    "share_20",
    "share_30",
    "share_60",
    "share_120",
    "share_240",
    "share_480",
    "reached",
    "lag_1",
    "lag_2",
    "lag_3",
    "lag_4",
    "lag_5",
    "lag_6",
    "lag_10",
    "lag_15",
    "lag_20",
    "lag_30",
    "lag_60",
    "lag_120",
    "period_5",
    "period_10",
    "period_15",
    "period_20",
    "period_30",
    "period_60",
    "level",
    "z_3",
    "mean_3",
    "deviation_3",
    "z_10",
    "mean_10",
    "deviation_10",
    "z_30",
    "mean_30",
    "deviation_30",
    "z_120",
    "mean_120",
    "deviation_120",
    "max_2",
    "max_5",
    "max_10",
    "max_30",
    "max_60",
    "max_240",
    "need_1",
    "need_2",
    "need_3",
    "load_1",
    "slope",
    "used_10",
    "used_60",
    "silent",
    "largest",
    "age",
    "mean_need_5",
    "mean_need_15",
    "mean_need_60",
    "rank_60",
    "rank_240",
    "same_minute_60",
    "rising_3",
    "first_share_240",
];

/// A list that is written in the order of its names.
struct List<const N: usize> {
    values: [f32; N],
    written: usize,
}

impl<const N: usize> List<N> {
    fn new() -> Self {
        Self { values: [0.0; N], written: 0 }
    }

    fn put(&mut self, value: f32) {
        self.values[self.written] = value;
        self.written += 1;
    }

    fn finish(self) -> [f32; N] {
        assert_eq!(self.written, N, "every name has its number");
        self.values
    }
}

/// Gaps between uses and how the present one stands among them.
#[derive(Default)]
struct Gaps {
    newest: [f32; 4],
    count: f32,
    mean: f32,
    cv: f32,
    median: f32,
    equal: f32,
    near: f32,
    at_risk: f32,
    equal_decayed: f32,
    at_risk_decayed: f32,
}

/// What all levels of one function share.
pub(super) struct Shared {
    max: [u32; 6],
    mean_need: [f32; 3],
    needs: [u32; 3],
    used_10: f32,
    used_60: f32,
    silent: f32,
    age: f32,
    first_share_240: f32,
}

impl History {
    /// The numbers behind [`FIRST`].
    pub fn first_features(&self) -> [f32; FIRST.len()] {
        let mut list = List::new();
        let last = self.next - 1;
        let known = (self.next - self.first).min(MINUTES);
        let gap = self.last_used.map_or(NEVER, |used| (self.next - used) as f32);
        let gaps = self.gaps();
        let older = |nth: usize| if gaps.count > nth as f32 { gaps.newest[nth] } else { UNKNOWN };
        list.put(gap);
        (0..4).for_each(|nth| list.put(older(nth)));
        (0..2).for_each(|nth| list.put(if older(nth) > 0.0 { gap - older(nth) } else { NO_DIFFERENCE }));
        let or_unknown = |value: f32| if gaps.count > 0.0 { value } else { UNKNOWN };
        list.put(or_unknown(gap / gaps.mean));
        list.put(if gaps.count > 0.0 { gap - gaps.median } else { NO_DIFFERENCE });
        list.put(or_unknown(gaps.mean));
        list.put(or_unknown(gaps.cv));
        list.put(or_unknown(gaps.median));
        let hazard = |equal: f32, at_risk: f32| if at_risk > 1e-3 { equal / at_risk } else { UNKNOWN };
        list.put(hazard(gaps.equal, gaps.at_risk));
        list.put(hazard(gaps.near, gaps.at_risk));
        list.put(gaps.at_risk);
        list.put(hazard(gaps.equal_decayed, gaps.at_risk_decayed));
        for window in WINDOWS {
            list.put(self.in_use.count(last, window.min(known)) as f32);
        }
        let used = self.in_use.count(last, known) as f32;
        list.put(used);
        list.put(known as f32);
        list.put(used / (known as f32).max(1.0));
        for lag in LAGS {
            list.put(self.at(known, lag));
        }
        for period in PERIODS {
            let (exact, near) = self.periodic(known, period);
            list.put(exact);
            list.put(near);
        }
        const DAY: i64 = 1_440;
        let around = (DAY - 1..=DAY + 1).map(|lag| self.at(known, lag)).fold(UNKNOWN, f32::max);
        list.put(around);
        list.put(self.need_before(1) as f32);
        list.put(self.last_load);
        list.put(self.loads[2].0);
        list.finish()
    }

    fn gaps(&self) -> Gaps {
        let mut gaps = Gaps::default();
        let Some(used) = self.last_used else { return gaps };
        let present = self.next - used;
        let first = self.first.max(self.next - MINUTES);
        let (mut sum, mut squares, mut weight) = (0.0_f32, 0.0_f32, 1.0_f32);
        let mut newest = [0.0_f32; MEDIAN_OF];
        let mut count = 0;
        let mut later = used;
        for earlier in self.in_use.backwards(used - 1, first).take(GAPS) {
            let gap = later - earlier;
            let length = gap as f32;
            if let Some(place) = newest.get_mut(count) {
                *place = length;
            }
            count += 1;
            sum += length;
            squares += length * length;
            if gap >= present {
                gaps.at_risk += 1.0;
                gaps.at_risk_decayed += weight;
                if gap == present {
                    gaps.equal += 1.0;
                    gaps.equal_decayed += weight;
                }
                if gap <= present + 1 {
                    gaps.near += 1.0;
                }
            }
            weight *= DECAY;
            later = earlier;
        }
        if count == 0 {
            return gaps;
        }
        gaps.newest.copy_from_slice(&newest[..4]);
        gaps.count = count as f32;
        gaps.mean = sum / gaps.count;
        gaps.cv = (squares / gaps.count - gaps.mean * gaps.mean).max(0.0).sqrt() / gaps.mean;
        let sorted = &mut newest[..count.min(MEDIAN_OF)];
        let middle = sorted.len() / 2;
        gaps.median = *sorted.select_nth_unstable_by(middle, f32::total_cmp).1;
        gaps
    }

    /// Whether the minute `lag` minutes before the one asked about was used.
    fn at(&self, known: i64, lag: i64) -> f32 {
        if lag <= known { f32::from(u8::from(self.in_use.get(self.next - lag))) } else { UNKNOWN }
    }

    /// In which share of the last periods the function was used: in the very minute, and in it or one beside it.
    fn periodic(&self, known: i64, period: i64) -> (f32, f32) {
        let (mut periods, mut exact, mut near) = (0.0, 0.0, 0.0);
        for back in (1..=periods_back(period)).map(|nth| nth * period).take_while(|&back| back <= known) {
            periods += 1.0;
            let this = self.at(known, back) > 0.0;
            exact += f32::from(u8::from(this));
            near += f32::from(u8::from(this || self.at(known, back - 1) > 0.0 || self.at(known, back + 1) > 0.0));
        }
        if periods > 0.0 { (exact / periods, near / periods) } else { (UNKNOWN, UNKNOWN) }
    }

    fn need_before(&self, lag: i64) -> u32 {
        if lag <= NEEDS { level::level(self.needs[place(self.next - lag)]) } else { 0 }
    }

    /// What [`further_features`](Self::further_features) of all levels have in common.
    pub(super) fn shared(&self) -> Shared {
        let codes = || (1..=NEEDS).map(|lag| self.needs[place(self.next - lag)]);
        let max = [2, 5, 10, 30, 60, 240].map(|window| level::level(codes().take(window).max().unwrap_or(0)));
        let mean_need = [5, 15, 60]
            .map(|window| codes().take(window).map(|code| level::level(code) as f32).sum::<f32>() / window as f32);
        let last = self.next - 1;
        Shared {
            max,
            mean_need,
            needs: [1, 2, 3].map(|lag| self.need_before(lag)),
            used_10: self.in_use.count(last, 10) as f32,
            used_60: self.in_use.count(last, 60) as f32,
            silent: self.last_used.map_or(NEVER, |used| (self.next - used) as f32),
            age: (self.next - self.first).min(NEEDS) as f32,
            first_share_240: self.in_use.count(last, 240) as f32 / 240.0,
        }
    }

    /// The numbers behind [`FURTHER`] for the level of this code (at least 2).
    pub(super) fn further_features(&self, shared: &Shared, code: u8) -> [f32; FURTHER.len()] {
        let mut list = List::new();
        let known = (self.next - self.first).min(NEEDS);
        let reached = |lag: i64| self.needs[place(self.next - lag)] >= code;
        let (mut counts, mut count, mut lasts, mut found) = ([0.0_f32; WINDOWS.len()], 0.0_f32, [0_i64; 3], 0);
        let mut window = 0;
        for lag in 1..=known {
            if reached(lag) {
                count += 1.0;
                if found < lasts.len() {
                    lasts[found] = lag;
                    found += 1;
                }
            }
            if lag == WINDOWS[window] {
                counts[window] = count;
                window += 1;
            }
        }
        counts[window.min(WINDOWS.len())..].fill(count);
        let gap = if found > 0 { lasts[0] } else { NEEDS + 1 } as f32;
        let older = |nth: usize| if found > nth { (lasts[nth] - lasts[nth - 1]) as f32 } else { UNKNOWN };
        list.put(gap);
        list.put(older(1));
        list.put(older(2));
        list.put(if found > 1 { gap - older(1) } else { NO_DIFFERENCE });
        for (count, window) in counts.into_iter().zip(WINDOWS) {
            list.put(count / window.min(known.max(1)) as f32);
        }
        list.put(count);
        let at = |lag: i64| if lag <= known { f32::from(u8::from(reached(lag))) } else { UNKNOWN };
        LAGS.into_iter().for_each(|lag| list.put(at(lag)));
        for period in PERIODS {
            let backs = (1..=periods_back(period)).map(|nth| nth * period).take_while(|&back| back <= known);
            let (periods, exact) = backs.fold((0.0, 0.0), |(periods, exact), back| (periods + 1.0, exact + at(back)));
            list.put(if periods > 0.0 { exact / periods } else { UNKNOWN });
        }
        self.put_loads(&mut list, shared, level::level(code) as f32);
        list.put(shared.used_10);
        list.put(shared.used_60);
        list.put(shared.silent);
        list.put(level::level(self.largest) as f32 / level::level(code) as f32);
        list.put(shared.age);
        shared.mean_need.iter().for_each(|mean| list.put(mean / level::level(code) as f32));
        list.put(counts[5] / shared.used_60.max(1.0));
        list.put(counts[7] / (shared.first_share_240 * 240.0).max(1.0));
        list.put(if known >= 60 { self.need_before(60) as f32 / level::level(code) as f32 } else { UNKNOWN });
        let rising = shared.needs[0] >= shared.needs[1] && shared.needs[1] >= shared.needs[2];
        list.put(f32::from(u8::from(rising)));
        list.put(shared.first_share_240);
        list.finish()
    }

    /// What of a level's numbers is told in its own measure.
    fn put_loads(&self, list: &mut List<{ FURTHER.len() }>, shared: &Shared, level: f32) {
        list.put(level);
        // The load from which on this level is needed, by the rule of thumb need = load + √load.
        let enough = ((1.0 + 4.0 * (level - 1.0)).sqrt() / 2.0 - 0.5).powi(2).max(0.1);
        for (mean, variance) in self.loads {
            let deviation = variance.max(0.0).sqrt();
            list.put((enough - mean) / (deviation + 0.05 * enough.sqrt() + 1e-3));
            list.put(mean / enough);
            list.put(deviation / enough);
        }
        shared.max.iter().for_each(|&max| list.put(max as f32 / level));
        let needs = shared.needs.map(|need| need as f32);
        needs.iter().for_each(|need| list.put(need / level));
        list.put(self.last_load / enough);
        list.put((needs[0] - needs[1]) / level);
    }
}

/// How many periods are looked back: six hours at most, six periods at most, two at least.
fn periods_back(period: i64) -> i64 {
    (360 / period).clamp(2, 6)
}

impl History {
    /// How many levels an outlook would ask about, besides the first.
    pub fn further_levels(&self) -> u64 {
        u64::from(self.highest_code()).saturating_sub(1)
    }

    /// The numbers behind [`FURTHER`] for every level that an outlook would ask about, to fit a model to: each with
    /// whether `need` reached it, and how many whole numbers the level stands for.
    pub fn further_rows(&self, need: u32, mut each: impl FnMut(&[f32; FURTHER.len()], bool, f32)) {
        let shared = self.shared();
        for code in 2..=self.highest_code() {
            let level = level::level(code);
            let width = level::level(code.saturating_add(1)).saturating_sub(level).max(1);
            each(&self.further_features(&shared, code), need >= level, width as f32);
        }
    }
}
