//! `[chains]`: when "a call of A announces B" is believed.
//!
//! Must not: hold a rule; the forecaster has those. Here are only its numbers and their own bounds.

use std::num::NonZeroU8;
use std::time::Duration;

use serde::{Deserialize, Serialize};

/// The keys of `[chains]`.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(default, rename_all = "kebab-case", deny_unknown_fields)]
pub struct ChainsConfig {
    /// Whether chains are learned and act.
    pub enabled: bool,
    /// How long after a call of A a call of B still counts as following it.
    #[serde(with = "super::humantime_text")]
    pub horizon: Duration,
    /// Successors that are remembered of one function, 1 to 16 (inclusive).
    pub successors_max: NonZeroU8,
    /// How likely B must follow, 0.0 to 1.0 (inclusive); held against the lower bound of what was seen.
    pub probability_min: f64,
    /// How many times likelier than by itself; at least 1.
    pub lift_min: f64,
    /// How often it must have followed.
    pub support_min: u32,
}

impl Default for ChainsConfig {
    fn default() -> Self {
        const SUCCESSORS_MAX: NonZeroU8 = NonZeroU8::new(12).unwrap();
        Self {
            enabled: true,
            horizon: Duration::from_secs(5),
            successors_max: SUCCESSORS_MAX,
            probability_min: 0.3,
            lift_min: 2.0,
            support_min: 6,
        }
    }
}

impl ChainsConfig {
    /// Every fault that these keys have in themselves, each with its key; empty where they have none.
    pub fn faults(&self) -> Vec<String> {
        let mut faults = Vec::new();
        let mut check = |holds: bool, fault: &str| {
            if !holds {
                faults.push(fault.to_owned());
            }
        };
        let horizon = Duration::from_millis(100)..=Duration::from_secs(60);
        check(horizon.contains(&self.horizon), "chains.horizon must be from 100ms to 60s");
        check(self.successors_max.get() <= 16, "chains.successors-max must be from 1 to 16");
        check((0.0..=1.0).contains(&self.probability_min), "chains.probability-min must be from 0.0 to 1.0");
        check((1.0..=1e6).contains(&self.lift_min), "chains.lift-min must be from 1 to 1000000");
        faults
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_fault_names_its_key() {
        assert!(ChainsConfig::default().faults().is_empty());
        let wrong = ChainsConfig {
            horizon: Duration::ZERO,
            successors_max: NonZeroU8::new(17).unwrap(),
            probability_min: f64::NAN,
            lift_min: 0.5,
            ..Default::default()
        };
        let faults = wrong.faults();
        let named = ["horizon", "successors-max", "probability-min", "lift-min"].map(|key| format!("chains.{key} "));
        assert_eq!(faults.len(), 4);
        assert!(faults.iter().zip(&named).all(|(fault, key)| fault.starts_with(key)), "{faults:?}");
    }
}
