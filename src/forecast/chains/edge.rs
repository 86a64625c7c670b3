//! One edge, "a call of A announces B": what was counted of it, and whether that is enough to act on.
//!
//! Must not: know the functions, or the time.

use std::time::Duration;

/// Bins of the lag: below 1 ms, then doubling; the last one is above 16 s.
pub(super) const LAG_BINS: usize = 16;
/// What a trial leaves of the counts before it: they remember some 128 trials.
const KEEP: f32 = 127.0 / 128.0;
/// The same for the quick share, which only has to notice that an edge has ended: some ten trials.
const KEEP_QUICK: f32 = 0.9;
/// What trials can add up to, with room for what rounding adds.
pub(super) const TRIALS_MAX: f32 = 128.1;
/// Standard deviations of the lower confidence bound: 99 % one-sided.
const WILSON_Z: f64 = 2.33;
/// What a coincidence may be likely at most, as −ln. An edge's trials begin after what made it a candidate, so the tests are
/// as many as edges, say 10⁶ in a system's life, each in sixteen windows of time: 10⁻⁸ for each keeps a false edge away.
/// Chernoff's bound on the binomial tail, P(share ≥ p) ≤ exp(−n × KL(p ‖ q)), is held to it.
const COINCIDENCE_NATS: f64 = 18.4;
/// How many successes it takes, where trace context led from the one call to the other.
const STRONG_MIN: f32 = 3.0;

/// What a user says of an edge.
#[derive(Clone, Copy, Debug, PartialEq)]
pub enum Rule {
    /// It acts, and as if the call always followed, whatever is known of it.
    Pin,
    /// It never acts.
    Deny,
    /// It is taken as given: the call comes with this probability (0.0 to 1.0), after this time.
    State {
        /// How likely.
        probability: f32,
        /// After how long.
        lag: Duration,
    },
}

/// Why an edge does not act.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, serde::Serialize)]
#[serde(rename_all = "snake_case")]
pub enum Hold {
    /// A user denied it.
    Denied,
    /// It was seen too seldom.
    Support,
    /// The call follows too seldom.
    Probability,
    /// The call comes nearly as often by itself.
    Lift,
    /// It may be a coincidence.
    Coincidence,
    /// It has held, and does no more.
    Ended,
}

impl Hold {
    /// Its name, as it is shown.
    pub const fn as_str(self) -> &'static str {
        match self {
            Self::Denied => "denied",
            Self::Support => "support",
            Self::Probability => "probability",
            Self::Lift => "lift",
            Self::Coincidence => "coincidence",
            Self::Ended => "ended",
        }
    }
}

/// What it takes to act.
#[derive(Clone, Copy, Debug, PartialEq)]
pub(super) struct Thresholds {
    pub(super) probability_min: f64,
    pub(super) lift_min: f64,
    pub(super) support_min: f64,
}

#[derive(Clone, Debug, PartialEq)]
pub(super) struct Edge {
    pub(super) to: u32,
    /// Calls of A that were watched, decayed.
    pub(super) trials: f32,
    pub(super) quick: f32,
    /// How often trace context led from A to B; grows only.
    pub(super) strong: f32,
    pub(super) lags: [f32; LAG_BINS],
    /// The last bin of lags that counts as following: what comes later follows the next call of A, or nothing.
    pub(super) last_bin: u8,
    pub(super) rule: Option<Rule>,
    /// Whether it acts, as it was judged last.
    pub(super) acts: bool,
    /// Calls of A that announced B and were watched.
    pub(super) announced: u32,
    /// Of those, the ones that B followed.
    pub(super) came: u32,
}

impl Edge {
    pub(super) fn new(to: u32) -> Self {
        Self {
            to,
            trials: 0.0,
            quick: 1.0,
            strong: 0.0,
            lags: [0.0; LAG_BINS],
            last_bin: (LAG_BINS - 1) as u8,
            rule: None,
            acts: false,
            announced: 0,
            came: 0,
        }
    }

    /// A call of A was watched: B followed after this many µs, or not.
    pub(super) fn trial(&mut self, lag_micros: Option<i64>) {
        self.trials = self.trials * KEEP + 1.0;
        self.quick *= KEEP_QUICK;
        self.lags.iter_mut().for_each(|count| *count *= KEEP);
        if let Some(lag) = lag_micros {
            self.quick += 1.0 - KEEP_QUICK;
            self.lags[bin(lag)] += 1.0;
        }
    }

    /// Of the trials, those that B followed within the time that counts.
    pub(super) fn hits(&self) -> f32 {
        self.lags[..=usize::from(self.last_bin)].iter().sum()
    }

    /// Chooses the time that counts anew: the one in which B comes most surprisingly often, given its rate.
    pub(super) fn choose_time(&mut self, per_second: f64) {
        let mut hits = 0.0;
        let mut best = 0.0;
        self.last_bin = (LAG_BINS - 1) as u8;
        for (bin, count) in (0..).zip(self.lags) {
            hits += f64::from(count);
            let base = 1.0 - (-per_second * upper_end(bin.into()).as_secs_f64()).exp();
            let surprise = divergence((hits / f64::from(self.trials)).min(1.0), base.clamp(1e-9, 1.0 - 1e-9));
            if surprise > best {
                (best, self.last_bin) = (surprise, bin);
            }
        }
    }

    /// How likely B follows.
    pub(super) fn probability(&self) -> f32 {
        match self.rule {
            Some(Rule::State { probability, .. }) => probability.clamp(0.0, 1.0),
            // Both are sums of what has decayed, each rounded in its own way.
            _ if self.trials > 0.0 => (self.hits() / self.trials).min(1.0),
            _ => 0.0,
        }
    }

    /// How likely B is said to follow, where it acts.
    pub(super) fn announced_probability(&self) -> f32 {
        if self.rule == Some(Rule::Pin) { 1.0 } else { self.probability() }
    }

    /// The lags below and above which 5 % of the calls lie, to the bin.
    pub(super) fn lag_range(&self) -> (Duration, Duration) {
        if let Some(Rule::State { lag, .. }) = self.rule {
            // A stated lag is about right: an instance waits for the call as long again, and a second at least.
            return (lag, lag + lag.max(Duration::from_secs(1)));
        }
        let total = self.hits();
        let upto = |share: f32| {
            let mut sum = 0.0;
            let at = self.lags.iter().position(|count| {
                sum += count;
                sum > 0.0 && sum >= share * total
            });
            at.unwrap_or(LAG_BINS - 1)
        };
        (lower_end(upto(0.05)), upper_end(upto(0.95)))
    }

    /// The chance that B comes within the time in which this edge says it does, by itself: Poisson arrivals.
    pub(super) fn base(&self, per_second: f64) -> f64 {
        let (_, latest) = self.lag_range();
        1.0 - (-per_second * latest.as_secs_f64()).exp()
    }

    /// Whether it acts, or what keeps it from that. `per_second` is the rate of B.
    pub(super) fn judge(&self, thresholds: &Thresholds, per_second: f64) -> Result<(), Hold> {
        match self.rule {
            Some(Rule::Deny) => return Err(Hold::Denied),
            Some(Rule::Pin | Rule::State { .. }) => return Ok(()),
            None => {}
        }
        let (hits, trials) = (f64::from(self.hits()), f64::from(self.trials));
        let is_strong = self.strong >= STRONG_MIN;
        if hits < if is_strong { f64::from(STRONG_MIN) } else { thresholds.support_min } {
            return Err(Hold::Support);
        }
        let share = (hits / trials).min(1.0);
        let z = if is_strong { WILSON_Z / 2.0 } else { WILSON_Z };
        if wilson_lower(share, trials, z) < thresholds.probability_min {
            return Err(Hold::Probability);
        }
        if f64::from(self.quick) < thresholds.probability_min / 2.0 {
            return Err(Hold::Ended);
        }
        if is_strong {
            return Ok(());
        }
        let base = self.base(per_second).max(1e-9);
        if share < thresholds.lift_min * base {
            return Err(Hold::Lift);
        }
        if trials * divergence(share, base) < COINCIDENCE_NATS {
            return Err(Hold::Coincidence);
        }
        Ok(())
    }
}

/// E. B. Wilson's lower bound of a share that was seen in `n` trials (1927).
fn wilson_lower(share: f64, n: f64, z: f64) -> f64 {
    let z2 = z * z;
    let centre = share + z2 / (2.0 * n);
    let spread = z * (share * (1.0 - share) / n + z2 / (4.0 * n * n)).sqrt();
    (centre - spread) / (1.0 + z2 / n)
}

/// The Kullback-Leibler divergence of two shares, in nats; 0 where `p` is not above `q`.
pub(super) fn divergence(p: f64, q: f64) -> f64 {
    if p <= q {
        return 0.0;
    }
    let term = |p: f64, q: f64| if p > 0.0 { p * (p / q).ln() } else { 0.0 };
    term(p, q) + term(1.0 - p, 1.0 - q)
}

fn bin(lag_micros: i64) -> usize {
    let millis = (lag_micros / 1_000).max(0) as u64;
    ((u64::BITS - millis.leading_zeros()) as usize).min(LAG_BINS - 1)
}

fn lower_end(bin: usize) -> Duration {
    if bin == 0 { Duration::ZERO } else { Duration::from_millis(1 << (bin - 1)) }
}

fn upper_end(bin: usize) -> Duration {
    Duration::from_millis(1 << bin)
}

#[cfg(test)]
mod tests {
    use super::*;

    const THRESHOLDS: Thresholds = Thresholds { probability_min: 0.3, lift_min: 2.0, support_min: 6.0 };

    fn edge(trials: u32, hit_every: u32, lag_millis: i64) -> Edge {
        let mut edge = Edge::new(1);
        (0..trials).for_each(|nth| edge.trial((nth % hit_every == 0).then_some(lag_millis * 1_000)));
        edge
    }

    #[test]
    fn lags_fall_into_bins_that_double() {
        assert_eq!([0, 999, 1_000, 1_999, 2_000, 1_000_000, i64::MAX].map(bin), [0, 0, 1, 1, 2, 10, 15]);
        assert_eq!(edge(10, 1, 700).lag_range(), (Duration::from_millis(512), Duration::from_millis(1_024)));
    }

    #[test]
    fn a_probability_is_at_most_one_however_sums_are_rounded() {
        let mut edge = Edge::new(1);
        for nth in 0..1_000_u32 {
            edge.trial(Some(i64::from(nth % 7) * 3_000));
            assert!(edge.probability() <= 1.0, "{} after {nth}", edge.probability());
        }
    }

    #[test]
    fn enough_successes_that_are_no_coincidence_act() {
        assert_eq!(edge(5, 1, 700).judge(&THRESHOLDS, 0.01), Err(Hold::Support));
        assert_eq!(edge(12, 1, 700).judge(&THRESHOLDS, 0.01), Ok(()));
        assert_eq!(edge(60, 4, 700).judge(&THRESHOLDS, 0.01), Err(Hold::Probability));
        assert_eq!(edge(12, 1, 700).judge(&THRESHOLDS, 0.3), Err(Hold::Coincidence));
        assert_eq!(edge(200, 1, 700).judge(&THRESHOLDS, 2.0), Err(Hold::Lift));
    }

    #[test]
    fn an_edge_that_has_ended_stops_within_tens_of_calls() {
        let mut edge = edge(200, 1, 700);
        let stopped = (1..100).find(|_| {
            edge.trial(None);
            edge.judge(&THRESHOLDS, 0.01).is_err()
        });
        assert_eq!(stopped, Some(19));
        (0..40).for_each(|_| edge.trial(Some(700_000)));
        assert_eq!(edge.judge(&THRESHOLDS, 0.01), Ok(()));
    }

    #[test]
    fn strong_evidence_needs_fewer_successes_and_users_have_the_last_word() {
        let mut edge = edge(4, 1, 700);
        edge.strong = 3.0;
        assert_eq!(edge.judge(&THRESHOLDS, 5.0), Ok(()));
        edge.rule = Some(Rule::Pin);
        assert_eq!((edge.judge(&THRESHOLDS, 5.0), Edge::new(1).announced_probability()), (Ok(()), 0.0));
        assert_eq!(edge.announced_probability(), 1.0);
        edge.rule = Some(Rule::Deny);
        assert_eq!(edge.judge(&THRESHOLDS, 5.0), Err(Hold::Denied));
        let mut stated = Edge::new(1);
        stated.rule = Some(Rule::State { probability: 0.7, lag: Duration::from_secs(3) });
        assert_eq!((stated.judge(&THRESHOLDS, 9.0), stated.probability()), (Ok(()), 0.7));
        assert_eq!(stated.lag_range(), (Duration::from_secs(3), Duration::from_secs(6)));
    }

    #[test]
    fn bounds_are_those_of_the_books() {
        // Wilson's interval for 8 of 10 at 95 % two-sided begins at 0.490.
        assert!((wilson_lower(0.8, 10.0, 1.96) - 0.490).abs() < 5e-4);
        assert!((divergence(0.8, 0.26) - 0.637_5).abs() < 5e-4);
        assert_eq!(divergence(0.2, 0.3), 0.0);
        assert!((divergence(1.0, 0.5) - 2.0_f64.ln()).abs() < 1e-12);
    }
}
