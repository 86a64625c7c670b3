//! The price rule: an instance is held where what it saves is worth what it costs.
//!
//! The one knob is the price: how many seconds of one idle instance a cold start is worth. An instance that is wanted
//! with probability p and would be idle for t saves p × price and costs t, so it is held where p × price ≥ t.
//!
//! Making an instance is not free: one that is not there yet must pay for that, too.
//!
//! Must not: know where a probability comes from.

use crate::config::TargetConfig;
use crate::types::{Notice, Timestamp, YIELD_STEPS};

const MINUTE_SECONDS: f64 = 60.0;
/// What is as likely as this is held at any price: it would be made for the call otherwise.
const CERTAIN: f64 = 0.95;

/// The rule with its numbers.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct Rule {
    price_seconds: f64,
    /// What making an instance costs, as idle time.
    load_seconds: f64,
    notice_probability_min: f64,
}

impl Rule {
    /// The rule with the numbers of the configuration.
    pub fn new(config: &TargetConfig) -> Self {
        Self {
            price_seconds: config.price.as_secs_f64(),
            load_seconds: config.load_charge.as_secs_f64(),
            notice_probability_min: config.notice_probability_min,
        }
    }

    /// How many instances to hold for the next minute: the largest level that pays. `outlook` has levels and the
    /// probability that each is reached, rising in the one and falling in the other; of `there` instances none has to be
    /// made. Between two levels of which only the lower one pays the probability is taken as linear.
    pub fn level(&self, outlook: &[(u32, f32)], there: u32) -> u32 {
        let mut paid = (0, 1.0);
        for &(level, probability) in outlook {
            let probability = f64::from(probability);
            let least = self.least(level > there);
            if probability < least {
                let between = f64::from(level - 1 - paid.0) * (paid.1 - least) / (paid.1 - probability).max(1e-9);
                return paid.0 + between.max(0.0) as u32;
            }
            paid = (level, probability);
        }
        paid.0
    }

    /// The least probability of use within the next minute that pays for an instance.
    fn least(&self, must_be_made: bool) -> f64 {
        let charge = if must_be_made { self.load_seconds } else { 0.0 };
        ((MINUTE_SECONDS + charge) / self.price_seconds).min(CERTAIN)
    }

    /// Which share of the calls that a notice announces is worth preparing for, 0.0 to 1.0: the largest whose
    /// probability pays for holding it to the end of the notice, and is not below the least that counts.
    pub(super) fn share(&self, now: Timestamp, notice: &Notice) -> f64 {
        let idle_seconds = notice.expires_at.since(now).as_secs_f64();
        let worth = |probability: f32| {
            let probability = f64::from(probability);
            probability >= self.notice_probability_min && probability * self.price_seconds >= idle_seconds
        };
        let steps = notice.yields.iter().take_while(|&&probability| worth(probability)).count();
        steps as f64 / YIELD_STEPS as f64
    }
}

#[cfg(test)]
mod tests {
    use std::time::Duration;

    use super::*;
    use crate::types::WarmKind;

    fn share(price_s: u64, expires_in_s: i64, yields: [f32; YIELD_STEPS]) -> f64 {
        let config =
            TargetConfig { price: Duration::from_secs(price_s), notice_probability_min: 0.25, ..Default::default() };
        let expires_at = Timestamp::from_millis(expires_in_s * 1_000);
        let notice = Notice { kind: WarmKind::PreTrigger, id: "n".to_owned(), calls: 8.0, yields, expires_at };
        Rule::new(&config).share(Timestamp::from_millis(0), &notice)
    }

    #[test]
    fn a_share_is_worth_it_as_far_as_its_probability_pays_for_the_idle_time() {
        let yields = [1.0, 1.0, 0.9, 0.8, 0.5, 0.5, 0.3, 0.1];
        assert_eq!(share(100, 10, yields), 7.0 / 8.0);
        assert_eq!(share(100, 50, yields), 6.0 / 8.0);
        assert_eq!(share(100, 85, yields), 3.0 / 8.0);
        assert_eq!(share(100, 101, yields), 0.0);
    }

    #[test]
    fn a_level_is_held_where_it_pays_and_made_where_that_pays_too() {
        let minutes = |n: u64| Duration::from_secs(60 * n);
        let config = TargetConfig { price: minutes(10), load_charge: minutes(2), ..Default::default() };
        let rule = Rule::new(&config);
        let outlook = [(1, 0.9), (2, 0.31), (3, 0.29), (4, 0.11), (5, 0.09)];
        assert_eq!([0, 1, 2, 3, 4, 9].map(|there| rule.level(&outlook, there)), [2, 2, 2, 3, 4, 4]);
        assert_eq!(rule.level(&[], 3), 0);
        assert_eq!(rule.level(&[(1, 0.05)], 3), 0);
        // Half of the way from 0.5 down to 0.1 still pays: half of the 18 instances between the levels.
        assert_eq!(rule.level(&[(1, 0.5), (20, 0.1)], 0), 1 + 9);
        let dear = Rule::new(&TargetConfig { price: Duration::from_secs(1), ..config });
        assert_eq!(dear.level(&[(1, 0.96), (2, 0.94)], 0), 1);
    }

    #[test]
    fn what_is_unlikely_does_not_act_at_any_price() {
        assert_eq!(share(1_000_000, 1, [0.24; YIELD_STEPS]), 0.0);
        assert_eq!(share(1_000_000, 1, [0.25; YIELD_STEPS]), 1.0);
        assert_eq!(share(1_000_000, 1, [f32::NAN; YIELD_STEPS]), 0.0);
    }
}
