//! The judge: replays one function's minutes against one policy, and adds functions up.
//!
//! At the start of minute m a policy sets W(m) from what it saw before m; n(m) is what the minute needs ([`Minute::need`]).
//! Then, over all minutes that are measured,
//!
//! - cold = Σ max(0, n − W): instances that were missing, each a cold start;
//! - idle = Σ max(0, W − n): instance-minutes held in vain;
//! - loads = Σ max(0, W(m) − max(W(m−1), n(m−1))) + cold: instances made, ahead or at a call.
//!
//! Must not: know which policy it judges.

use std::ops::Range;

use super::policy::Policy;
use super::trace::Function;

/// What one function's replay, or that of several, came to.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Default)]
pub struct Tally {
    /// Calls.
    pub calls: u64,
    /// Cold starts.
    pub cold: u64,
    /// Idle instance-minutes.
    pub idle: u64,
    /// Instances made.
    pub loads: u64,
}

impl Tally {
    /// Cold starts of 100 calls, 100 at most; `None` where there was no call.
    pub fn cold_percent(&self) -> Option<f64> {
        (self.calls > 0).then(|| (100.0 * self.cold as f64 / self.calls as f64).min(100.0))
    }
}

/// Replays a function's minutes, from 0 to the end of `measured` (exclusive), to all policies, side by side; the tallies are of
/// the `measured` minutes alone. With `single` needs are clipped at one instance, before a policy sees them. `watch` gets each
/// policy's place, each minute's need and the instances held, for all minutes.
pub fn replay(
    function: &Function,
    measured: Range<u32>,
    single: bool,
    policies: &mut [Box<dyn Policy>],
    mut watch: impl FnMut(usize, u32, u32),
) -> Vec<Tally> {
    let mut tallies = vec![(Tally::default(), 0); policies.len()];
    for (minute, mut seen) in (0..).zip(function.minutes(measured.end)) {
        if single {
            seen.need = seen.need.min(1);
        }
        for (place, (policy, (tally, there))) in policies.iter_mut().zip(&mut tallies).enumerate() {
            let (need, warm) = (seen.need, policy.warm(minute));
            if measured.contains(&minute) {
                let cold = u64::from(need.saturating_sub(warm));
                tally.calls += u64::from(seen.count);
                tally.cold += cold;
                tally.idle += u64::from(warm.saturating_sub(need));
                tally.loads += u64::from(warm.saturating_sub(*there)) + cold;
            }
            *there = warm.max(need);
            watch(place, need, warm);
        }
        for policy in &mut *policies {
            policy.saw(minute, &seen);
        }
    }
    tallies.into_iter().map(|(tally, _)| tally).collect()
}

/// Several functions' replays against one policy.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct Score {
    /// Their sum.
    pub sum: Tally,
    /// The median over functions of their cold starts of 100 calls.
    pub cold_percent_p50: f64,
    /// The third quartile of the same.
    pub cold_percent_p75: f64,
    /// The mean of the same.
    pub cold_percent_mean: f64,
}

impl Score {
    /// Adds functions up. Those without a call do not count in the percentages, which are 0 where there is none.
    pub fn of(tallies: impl Iterator<Item = Tally>) -> Self {
        let mut sum = Tally::default();
        let mut percents = Vec::new();
        for tally in tallies {
            sum.calls += tally.calls;
            sum.cold += tally.cold;
            sum.idle += tally.idle;
            sum.loads += tally.loads;
            percents.extend(tally.cold_percent());
        }
        percents.sort_by(f64::total_cmp);
        Self {
            sum,
            cold_percent_p50: quantile(&percents, 0.5),
            cold_percent_p75: quantile(&percents, 0.75),
            cold_percent_mean: percents.iter().sum::<f64>() / (percents.len().max(1) as f64),
        }
    }
}

/// The quantile of ascending values, linear between the two nearest; 0 of none.
fn quantile(ascending: &[f64], quantile: f64) -> f64 {
    let Some(last) = ascending.len().checked_sub(1) else { return 0.0 };
    let at = quantile * last as f64;
    let (below, above) = (at.floor() as usize, at.ceil() as usize);
    ascending[below] + (ascending[above] - ascending[below]) * at.fract()
}

/// What a policy's price sweep comes to at a given idle time: the cold starts, linear between the two neighbours on the
/// sweep. Policies can only be compared at equal idle time, as each trades one for the other.
///
/// `sweep` has (idle, cold) in any order; of two with the same idle time the one with fewer cold starts counts. `None`
/// where `idle` is below or above all of the sweep.
pub fn cold_at(sweep: &[(f64, f64)], idle: f64) -> Option<f64> {
    let mut sweep = sweep.to_vec();
    sweep.sort_by(|a, b| a.0.total_cmp(&b.0).then(a.1.total_cmp(&b.1)));
    sweep.dedup_by(|later, first| later.0 == first.0);
    let above = sweep.partition_point(|(at, _)| *at < idle);
    let (idle_above, cold_above) = *sweep.get(above)?;
    if idle_above == idle {
        return Some(cold_above);
    }
    let (idle_below, cold_below) = *sweep.get(above.checked_sub(1)?)?;
    Some(cold_below + (cold_above - cold_below) * (idle - idle_below) / (idle_above - idle_below))
}

/// The same within a given idle time: beyond the upper end of the sweep, which idles less than it may, its end counts. `None`
/// where all of the sweep idles longer.
pub fn cold_within(sweep: &[(f64, f64)], idle: f64) -> Option<f64> {
    let longest = sweep.iter().map(|(at, _)| *at).fold(f64::NEG_INFINITY, f64::max);
    cold_at(sweep, idle.min(longest))
}

#[cfg(test)]
mod tests {
    use super::super::policy::Fixed;
    use super::super::trace::{Call, Trace};
    use super::*;
    use crate::types::Timestamp;

    #[test]
    fn quantiles_lie_between_the_nearest() {
        assert_eq!(quantile(&[], 0.5), 0.0);
        assert_eq!(quantile(&[7.0], 0.75), 7.0);
        assert_eq!(quantile(&[0.0, 10.0, 20.0, 100.0], 0.5), 15.0);
        assert_eq!(quantile(&[0.0, 10.0, 20.0, 100.0], 0.75), 40.0);
    }

    #[test]
    fn a_sweep_is_read_between_its_points_and_not_beyond_them() {
        let sweep = [(1.2, 40.0), (0.8, 100.0), (1.0, 60.0), (1.0, 50.0)];
        assert_eq!(cold_at(&sweep, 0.9), Some(75.0));
        assert_eq!(cold_at(&sweep, 1.0), Some(50.0));
        assert_eq!(cold_at(&sweep, 0.8), Some(100.0));
        assert_eq!(cold_at(&sweep, 1.2), Some(40.0));
        assert_eq!(cold_at(&sweep, 0.79), None);
        assert_eq!(cold_at(&sweep, 1.21), None);
        assert_eq!(cold_at(&[], 1.0), None);
        let within = |idle| cold_within(&sweep, idle);
        assert_eq!([within(0.79), within(0.9), within(9.0)], [None, Some(75.0), Some(40.0)]);
        assert_eq!(cold_within(&[], 1.0), None);
    }

    #[test]
    fn minutes_before_those_measured_are_seen_and_not_counted() {
        let call = |minute: i64| Call {
            at: Timestamp::from_millis(minute * 60_000),
            function: "f".parse().unwrap(),
            run: std::time::Duration::ZERO,
        };
        let trace = Trace::from_calls("t", &[0, 3, 4, 9].map(call)).unwrap();
        let tally = |measured| {
            let mut policies: Vec<Box<dyn Policy>> = vec![Box::new(Fixed::new(3))];
            replay(&trace.sets[0].functions[0], measured, false, &mut policies, |_, _, _| ())[0]
        };
        // Held in the minutes 1 to 7; cold are the minutes 0 and 9.
        assert_eq!(tally(0..10), Tally { calls: 4, cold: 2, idle: 5, loads: 2 });
        assert_eq!(tally(4..10), Tally { calls: 2, cold: 1, idle: 3, loads: 1 });
        assert_eq!(tally(10..10), Tally::default());
    }

    #[test]
    fn cold_starts_never_count_for_more_than_the_calls() {
        let tally = Tally { calls: 2, cold: 3, ..Tally::default() };
        assert_eq!(tally.cold_percent(), Some(100.0));
        assert_eq!(Tally::default().cold_percent(), None);
        let score = Score::of([tally, Tally { calls: 4, cold: 1, idle: 5, loads: 7 }, Tally::default()].into_iter());
        assert_eq!(score.sum, Tally { calls: 6, cold: 4, idle: 5, loads: 7 });
        assert_eq!((score.cold_percent_p50, score.cold_percent_p75, score.cold_percent_mean), (62.5, 81.25, 62.5));
    }
}
