//! The price rule: an instance is held where what it saves is worth what it costs.
//!
//! The one knob is the price: how many seconds of one idle instance a cold start is worth. An instance that is wanted
//! with probability p and would be idle for t saves p × price and costs t, so it is held where p × price ≥ t.
//!
//! Must not: know where a probability comes from.

use crate::config::TargetConfig;
use crate::types::{Notice, Timestamp, YIELD_STEPS};

/// The rule with its numbers.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct Rule {
    price_seconds: f64,
    notice_probability_min: f64,
}

impl Rule {
    /// The rule with the numbers of the configuration.
    pub fn new(config: &TargetConfig) -> Self {
        Self { price_seconds: config.price.as_secs_f64(), notice_probability_min: config.notice_probability_min }
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
    fn what_is_unlikely_does_not_act_at_any_price() {
        assert_eq!(share(1_000_000, 1, [0.24; YIELD_STEPS]), 0.0);
        assert_eq!(share(1_000_000, 1, [0.25; YIELD_STEPS]), 1.0);
        assert_eq!(share(1_000_000, 1, [f32::NAN; YIELD_STEPS]), 0.0);
    }
}
