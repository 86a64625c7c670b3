//! How much of what a source announces comes: decayed histograms of the share of the announced calls that came, and
//! what follows from them for a notice that is still live.
//!
//! Two histograms, because announcements overlap. `alone` holds what came of each notice had its source been the only
//! one; this is how far the source is to be trusted. `behind` holds what came on top of others' announcements, of those
//! notices that stood behind another one in line. Of two sources that announce the same calls both are trusted, and the
//! one that stands behind learns that it adds nothing.
//!
//! **What confidence means.** It is the sender's own guess at the probability that the announced calls come, all of
//! them. It is the prior, worth [`PRIOR_NOTICES`] notices; what came outweighs it soon. It does not scale the number of
//! calls: a notice of 8 calls at 0.5 says that 8 come or none, and a yield is a share of those 8. Afterwards confidence
//! is only compared with itself: a notice with less of it than its source usually has counts for less, in that
//! proportion. One with more does not count for more, since trust comes from what came.
//!
//! Must not: know sources, functions or time.

use crate::types::YIELD_STEPS;

/// How many notices back the memory reaches: each new notice takes this part off the weight of all earlier ones.
pub(super) const MEMORY_NOTICES: f32 = 33.0;
/// How many notices a prior is worth. With 2, six lies in a row bring a certain sender below 0.25.
const PRIOR_NOTICES: f32 = 2.0;
/// No prior is surer than this that anything comes (inclusive).
const CERTAINTY_MAX: f32 = 0.9;

/// Probabilities of the places of [`Shares`]; they add up to 1.
pub(super) type Chances = [f32; YIELD_STEPS + 1];

/// What a sender says of itself: all with this probability, or nothing.
pub(super) fn prior(confidence: f32) -> Chances {
    let mut chances = [0.0; YIELD_STEPS + 1];
    chances[YIELD_STEPS] = confidence.clamp(0.0, 1.0);
    chances[0] = 1.0 - chances[YIELD_STEPS];
    chances
}

/// The expected share, 0.0 to 1.0.
pub(super) fn mean(chances: &Chances) -> f32 {
    chances.iter().zip(0_u8..).map(|(chance, place)| chance * f32::from(place)).sum::<f32>() / YIELD_STEPS as f32
}

/// The weight of the notices of which a share came, by that share in steps of 1 / [`YIELD_STEPS`].
#[derive(Clone, Copy, Debug, Default, PartialEq)]
pub(super) struct Shares(pub(super) [f32; YIELD_STEPS + 1]);

impl Shares {
    /// Counts one notice. `weight`, 0.0 to 1.0: how much of it was to be seen.
    pub(super) fn count(&mut self, came: u32, announced: u32, weight: f32) {
        self.0.iter_mut().for_each(|held| *held *= 1.0 - weight / MEMORY_NOTICES);
        self.0[place(came, announced)] += weight;
    }

    pub(super) fn weight(&self) -> f32 {
        self.0.iter().sum()
    }

    /// What was counted besides `part`, at least: a part fades more slowly than the whole, so it may weigh more in
    /// itself than it does in the whole.
    pub(super) fn without(&self, part: &Self) -> Self {
        Self(std::array::from_fn(|place| (self.0[place] - part.0[place]).max(0.0)))
    }

    /// What is likely for the next notice, starting from `prior`. `discount`, 0.0 to 1.0: the part of what was seen
    /// that holds for this notice; the rest counts as nothing came.
    pub(super) fn chances(&self, prior: &Chances, discount: f32) -> Chances {
        let total = PRIOR_NOTICES + self.weight();
        let prior_notices = PRIOR_NOTICES * CERTAINTY_MAX / (1.0 - prior[0]).max(CERTAINTY_MAX);
        let mut chances = [0.0; YIELD_STEPS + 1];
        let mut rest = 1.0;
        for place in (1..chances.len()).rev() {
            chances[place] = (prior_notices * prior[place] + discount * self.0[place]) / total;
            rest -= chances[place];
        }
        chances[0] = rest.max(0.0);
        chances
    }
}

/// Where a share is counted. The target rounds instances up, so up to as many calls as there are steps a share is
/// rounded down, and nothing is lost; above, to the nearest step. Any call at all is at least one step.
fn place(came: u32, announced: u32) -> usize {
    let (came, announced) = (u64::from(came.min(announced)), u64::from(announced.max(1)));
    let half = if announced > YIELD_STEPS as u64 { announced / 2 } else { 0 };
    let place = (came * YIELD_STEPS as u64 + half) / announced;
    place.max(u64::from(came > 0)) as usize
}

/// How likely it is that at least `(i + 1) / YIELD_STEPS` of what is left of a notice still comes.
///
/// `came` of `announced` calls have come. `survival`: the part of the calls that, by the learned lags, come later than
/// now. Two cases are weighed against each other: that this was all (the notices of which no larger share came), and
/// that more comes (those of which a larger share came, each less likely by `survival`).
pub(super) fn remaining(chances: &Chances, came: u32, announced: u32, survival: f32) -> [f32; YIELD_STEPS] {
    let left = u64::from(announced.saturating_sub(came));
    if left == 0 {
        return [0.0; YIELD_STEPS];
    }
    // Rounded down, so that a place above it is left.
    let steps = |calls: u64| calls * YIELD_STEPS as u64;
    let reached = (steps(u64::from(came)) / u64::from(announced)) as usize;
    let over: f32 = chances[..=reached].iter().sum();
    // more[place]: the chance that at least this share comes in the end, for the places above what has come.
    let mut more = [0.0; YIELD_STEPS + 1];
    let mut tail = 0.0;
    for place in (reached + 1..more.len()).rev() {
        tail += chances[place];
        more[place] = tail * survival;
    }
    let all = over + tail * survival;
    if all <= 0.0 {
        return [0.0; YIELD_STEPS];
    }
    std::array::from_fn(|step| {
        // The least place whose share is at least what has come and this part of the rest.
        let eighths = steps(u64::from(came)) + left * (step as u64 + 1);
        let place = eighths.div_ceil(u64::from(announced)) as usize;
        (more[place.clamp(reached + 1, YIELD_STEPS)] / all).min(1.0)
    })
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    fn near(left: f32, right: f32) -> bool {
        (left - right).abs() < 1e-4
    }

    #[test]
    fn a_share_loses_nothing_where_the_target_rounds_up() {
        for announced in 1..=YIELD_STEPS as u32 {
            for came in 0..=announced {
                let instances = (announced as usize * place(came, announced)).div_ceil(YIELD_STEPS);
                assert_eq!(instances, came as usize, "{came} of {announced}");
            }
        }
        assert_eq!([0, 1, 6, 7, 99, 100].map(|came| place(came, 100)), [0, 1, 1, 1, 8, 8]);
        assert_eq!([15, 16, 17].map(|came| place(came, 20)), [6, 6, 7]);
        assert_eq!(place(u32::MAX, u32::MAX), YIELD_STEPS);
    }

    #[test]
    fn six_lies_bring_a_certain_sender_below_a_quarter_and_eight_truths_a_liar_above() {
        let mut shares = Shares::default();
        let whole = |shares: &Shares| shares.chances(&prior(1.0), 1.0)[YIELD_STEPS];
        let lies = |shares: &mut Shares, n| (0..n).for_each(|_| shares.count(0, 8, 1.0));
        assert!(near(whole(&shares), CERTAINTY_MAX));
        lies(&mut shares, 6);
        assert!(whole(&shares) < 0.25, "{}", whole(&shares));
        let mut early = Shares::default();
        lies(&mut early, 5);
        assert!(whole(&early) >= 0.25, "{}", whole(&early));
        lies(&mut shares, 500);
        assert!(near(whole(&shares), 2.0 * 0.9 / 35.0));
        (0..7).for_each(|_| shares.count(8, 8, 1.0));
        assert!(whole(&shares) < 0.25, "{}", whole(&shares));
        shares.count(8, 8, 1.0);
        assert!(whole(&shares) >= 0.25, "{}", whole(&shares));
    }

    #[test]
    fn what_is_left_gets_unlikely_as_its_time_passes() {
        let mut shares = Shares::default();
        (0..100).for_each(|n| shares.count(if n % 5 == 0 { 0 } else { 8 }, 8, 1.0));
        let chances = shares.chances(&prior(1.0), 1.0);
        let lies = chances[0];
        let fresh = remaining(&chances, 0, 8, 1.0);
        assert!(near(fresh[0], 1.0 - lies) && near(fresh[7], 1.0 - lies));
        let late = remaining(&chances, 0, 8, 0.01);
        assert!(near(late[0], 0.01 * (1.0 - lies) / (lies + 0.01 * (1.0 - lies))));
        assert_eq!(remaining(&chances, 8, 8, 1.0), [0.0; YIELD_STEPS]);
        assert_eq!(remaining(&chances, 3, 8, 0.0), [0.0; YIELD_STEPS]);
    }

    #[test]
    fn of_a_source_that_half_comes_half_is_likely_and_then_no_more() {
        let mut shares = Shares::default();
        (0..200).for_each(|_| shares.count(4, 8, 1.0));
        let chances = shares.chances(&prior(1.0), 1.0);
        let fresh = remaining(&chances, 0, 8, 1.0);
        assert!(fresh[3] > 0.9 && fresh[4] < 0.1, "{fresh:?}");
        // Three came, five are left; by the shares that were seen one more comes: a fifth of what is left.
        let begun = remaining(&chances, 3, 8, 1.0);
        assert!(begun[0] > 0.9 && begun[1] < 0.1, "{begun:?}");
        assert!(remaining(&chances, 4, 8, 1.0)[0] < 0.1);
    }

    #[test]
    fn less_confidence_than_usual_counts_for_less() {
        let mut shares = Shares::default();
        (0..200).for_each(|_| shares.count(8, 8, 1.0));
        assert!(near(shares.chances(&prior(0.0), 0.5)[8], 33.0 / 35.0 / 2.0));
    }

    proptest! {
        #[test]
        fn chances_are_probabilities_and_never_rise(
            counts in prop::collection::vec((0_u32..40, 1_u32..40, 0.0_f32..=1.0), 0..60),
            confidence in 0.0_f32..=1.0,
            discount in 0.0_f32..=1.0,
            announced in 1_u32..100,
            part in 0.0_f64..=1.0,
            survival in 0.0_f32..=1.0,
        ) {
            let mut shares = Shares::default();
            counts.iter().for_each(|&(came, announced, weight)| shares.count(came, announced, weight));
            prop_assert!(shares.weight() <= MEMORY_NOTICES + 0.01);
            let chances = shares.chances(&prior(confidence), discount);
            prop_assert!(near(chances.iter().sum(), 1.0));
            let came = (f64::from(announced) * part) as u32;
            let left = remaining(&chances, came, announced, survival);
            prop_assert!(left.iter().all(|chance| (0.0..=1.0).contains(chance)), "{left:?}");
            prop_assert!(left.is_sorted_by(|a, b| a >= b), "{left:?}");
        }
    }
}
