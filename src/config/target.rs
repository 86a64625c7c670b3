//! `[target]`: how much memory warm instances may take, and how slowly a target falls.
//!
//! Must not: hold a rule; the target room has those. Here are only its numbers and their own bounds.

use std::num::NonZeroU64;
use std::time::Duration;

use serde::{Deserialize, Serialize};

/// The keys of `[target]`.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(default, rename_all = "kebab-case", deny_unknown_fields)]
pub struct TargetConfig {
    /// Bytes that ready instances of all functions together may take (inclusive). [`load`](super::load) puts a part of the
    /// machine's memory in place of 0.
    pub memory_budget_bytes: u64,
    /// Ready instances of all functions together (inclusive); 0: as many as live at once on the node.
    pub instances_max: u32,
    /// `memory_budget_bytes` for the functions of one tenant, by the definitions' `tenant`; 0: no limit of their own. Functions
    /// without a tenant are one tenant's.
    pub tenant_memory_budget_bytes: u64,
    /// `instances_max` for the functions of one tenant; 0: no limit of their own.
    pub tenant_instances_max: u32,
    /// What part of `memory_budget_bytes` and `instances_max` floors and schedules may take before what is announced and
    /// expected is served, 0.0 to 1.0 (inclusive).
    pub floor_share_max: f64,
    /// What one instance of a function is taken to hold, in bytes, until one was measured; a function whose memory
    /// limit is lower counts with that limit.
    pub instance_bytes_assumed: NonZeroU64,
    /// How much idle time of one instance a cold start is worth. Higher: fewer cold starts, more idle instances.
    #[serde(with = "super::humantime_text")]
    pub price: Duration,
    /// How much idle time of one instance it costs to make one ahead. Higher: fewer instances made in vain.
    #[serde(with = "super::humantime_text")]
    pub load_charge: Duration,
    /// What a pre-trigger or a chain announces counts only as far as it is at least this likely, 0.0 to 1.0 (inclusive).
    pub notice_probability_min: f64,
    /// How long the part of a target that history asks for must have been lower before it falls. It rises at once.
    #[serde(with = "super::humantime_text")]
    pub shrink_after: Duration,
}

impl Default for TargetConfig {
    fn default() -> Self {
        const INSTANCE_BYTES_ASSUMED: NonZeroU64 = NonZeroU64::new(8 << 20).unwrap();
        Self {
            memory_budget_bytes: 1 << 30,
            instances_max: 0,
            tenant_memory_budget_bytes: 0,
            tenant_instances_max: 0,
            floor_share_max: 0.75,
            instance_bytes_assumed: INSTANCE_BYTES_ASSUMED,
            price: Duration::from_hours(2),
            load_charge: Duration::from_secs(60),
            notice_probability_min: 0.25,
            shrink_after: Duration::from_secs(10),
        }
    }
}

impl TargetConfig {
    /// Every fault that these keys have in themselves, each with its key; empty where they have none.
    pub fn faults(&self) -> Vec<String> {
        let mut faults = Vec::new();
        if self.price < Duration::from_secs(1) || self.price > Duration::from_hours(24 * 30) {
            faults.push("target.price must be from 1s to 30days".to_owned());
        }
        if self.load_charge > Duration::from_hours(24) {
            faults.push("target.load-charge must be at most 24h".to_owned());
        }
        if !(0.0..=1.0).contains(&self.notice_probability_min) {
            faults.push("target.notice-probability-min must be from 0.0 to 1.0".to_owned());
        }
        if !(0.0..=1.0).contains(&self.floor_share_max) {
            faults.push("target.floor-share-max must be from 0.0 to 1.0".to_owned());
        }
        if self.shrink_after > Duration::from_hours(1) {
            faults.push("target.shrink-after must be at most 1h".to_owned());
        }
        faults
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn keys_are_kebab_case_and_anything_else_is_refused() {
        let read = serde_json::from_str::<TargetConfig>;
        let config = read(r#"{"memory-budget-bytes": 5, "shrink-after": "0s"}"#).unwrap();
        assert_eq!((config.memory_budget_bytes, config.shrink_after), (5, Duration::ZERO));
        for bad in [r#"{"instance-bytes-assumed": 0}"#, r#"{"shrink-after": 1}"#, r#"{"x": 1}"#] {
            assert!(read(bad).is_err(), "{bad}");
        }
    }

    #[test]
    fn every_fault_names_its_key() {
        assert!(TargetConfig::default().faults().is_empty());
        let wrong = TargetConfig { shrink_after: Duration::from_secs(3_601), ..Default::default() };
        assert_eq!(wrong.faults(), ["target.shrink-after must be at most 1h"]);
    }
}
