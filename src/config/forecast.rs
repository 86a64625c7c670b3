//! `[forecast]`: what the forecaster believes, and how much it may remember.
//!
//! Must not: hold a rule; the forecaster has those. Here are only its numbers and their own bounds.

use std::num::NonZeroU32;
use std::path::PathBuf;
use std::time::Duration;

use serde::{Deserialize, Serialize};

/// The keys of `[forecast]`.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(default, rename_all = "kebab-case", deny_unknown_fields)]
pub struct ForecastConfig {
    /// Functions that are known at once (inclusive); one more is refused.
    pub functions_max: NonZeroU32,
    /// Pre-triggers held at once over all functions (inclusive); one more is refused.
    pub notices_max: NonZeroU32,
    /// The longest window a pre-trigger may ask for, and how far from now the end of its life may lie (inclusive).
    #[serde(with = "super::humantime_text")]
    pub window_max: Duration,
    /// How long before its `not_before` a pre-trigger begins to act, so that the instances are ready in time.
    #[serde(with = "super::humantime_text")]
    pub lead: Duration,
    /// How long a peak of calls in flight is remembered.
    #[serde(with = "super::humantime_text")]
    pub history_window: Duration,
    /// A model that `forewarm fit` wrote; empty: the one that comes with the program.
    pub model: PathBuf,
    /// The share of defined functions that are called at all, 0.0 to 1.0 (inclusive): what the model expects of functions
    /// that were never called counts by that much.
    pub newcomer_share: f64,
    /// Sources of pre-triggers whose yield is known at once, and tenants (inclusive). For one more, one of those that
    /// hold no notice is forgotten.
    pub sources_max: NonZeroU32,
    /// Pairs of source and function of which it is known what came, and when (inclusive). At least `notices_max`.
    pub source_functions_max: NonZeroU32,
    /// What part of `notices_max`, and of the notices of one function, one source may hold, 0.0 (exclusive) to 1.0.
    pub notices_source_share_max: f64,
    /// The same for all sources of one tenant together, which may also hold that part of `sources_max`. Pre-triggers without a
    /// tenant are one tenant's together, here and for `tenant_budget`.
    pub notices_tenant_share_max: f64,
    /// Instance time (instances × time) that the notices of a source may ask for at once, and once more for each of its
    /// notices whose calls came.
    #[serde(with = "super::humantime_text")]
    pub source_budget: Duration,
    /// The same for all sources of one tenant together.
    #[serde(with = "super::humantime_text")]
    pub tenant_budget: Duration,
    /// How long after the window of a notice without calls a call still makes it late, rather than wrong.
    #[serde(with = "super::humantime_text")]
    pub late_grace: Duration,
    /// How often what was learned of a function is kept for the next start, at least.
    #[serde(with = "super::humantime_text")]
    pub snapshot_interval: Duration,
    /// How old a snapshot of a node or function that is gone must be before a start may remove it (inclusive).
    #[serde(with = "super::humantime_text")]
    pub snapshot_keep: Duration,
}

impl Default for ForecastConfig {
    fn default() -> Self {
        const FUNCTIONS_MAX: NonZeroU32 = NonZeroU32::new(100_000).unwrap();
        const NOTICES_MAX: NonZeroU32 = NonZeroU32::new(200_000).unwrap();
        const SOURCES_MAX: NonZeroU32 = NonZeroU32::new(10_000).unwrap();
        Self {
            functions_max: FUNCTIONS_MAX,
            notices_max: NOTICES_MAX,
            window_max: Duration::from_hours(1),
            lead: Duration::from_secs(2),
            history_window: Duration::from_secs(60),
            model: PathBuf::new(),
            newcomer_share: 0.25,
            sources_max: SOURCES_MAX,
            source_functions_max: NOTICES_MAX,
            notices_source_share_max: 0.5,
            notices_tenant_share_max: 0.75,
            source_budget: Duration::from_hours(10),
            tenant_budget: Duration::from_hours(40),
            late_grace: Duration::from_secs(10),
            snapshot_interval: Duration::from_mins(5),
            snapshot_keep: Duration::from_hours(7 * 24),
        }
    }
}

impl ForecastConfig {
    /// Every fault that these keys have in themselves, each with its key; empty where they have none.
    pub fn faults(&self) -> Vec<String> {
        let mut faults = Vec::new();
        let day = Duration::from_hours(24);
        if self.window_max.is_zero() || self.window_max > 7 * day {
            faults.push("forecast.window-max must be above 0s and at most 7days".to_owned());
        }
        if self.lead > self.window_max {
            faults.push("forecast.lead must not be above forecast.window-max".to_owned());
        }
        if self.history_window < Duration::from_secs(1) || self.history_window > day {
            faults.push("forecast.history-window must be from 1s to 1day".to_owned());
        }
        if !(0.0..=1.0).contains(&self.newcomer_share) {
            faults.push("forecast.newcomer-share must be from 0.0 to 1.0".to_owned());
        }
        if self.source_functions_max < self.notices_max {
            faults.push("forecast.source-functions-max must not be below forecast.notices-max".to_owned());
        }
        for (key, share) in [("source", self.notices_source_share_max), ("tenant", self.notices_tenant_share_max)] {
            if !(share > 0.0 && share <= 1.0) {
                faults.push(format!("forecast.notices-{key}-share-max must be above 0.0 and at most 1.0"));
            }
        }
        for (key, budget) in [("source", self.source_budget), ("tenant", self.tenant_budget)] {
            if budget < Duration::from_secs(1) || budget > 10_000 * day {
                faults.push(format!("forecast.{key}-budget must be from 1s to 10000days"));
            }
        }
        if self.snapshot_interval < Duration::from_secs(1) || self.snapshot_interval > day {
            faults.push("forecast.snapshot-interval must be from 1s to 1day".to_owned());
        }
        if self.snapshot_keep < self.snapshot_interval || self.snapshot_keep > 10_000 * day {
            faults.push("forecast.snapshot-keep must be from forecast.snapshot-interval to 10000days".to_owned());
        }
        if self.late_grace > self.window_max {
            faults.push("forecast.late-grace must not be above forecast.window-max".to_owned());
        }
        faults
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn keys_are_kebab_case_durations_are_text_and_anything_else_is_refused() {
        let read = serde_json::from_str::<ForecastConfig>;
        let config = read(r#"{"functions-max": 5, "history-window": "2m", "lead": "1s 500ms"}"#).unwrap();
        assert_eq!((config.functions_max.get(), config.history_window), (5, Duration::from_secs(120)));
        assert_eq!((config.lead, config.window_max), (Duration::from_millis(1_500), Duration::from_secs(3_600)));
        for bad in
            [r#"{"lead": 2}"#, r#"{"lead": "2"}"#, r#"{"functions_max": 5}"#, r#"{"functions-max": 0}"#, r#"{"x": 1}"#]
        {
            assert!(read(bad).is_err(), "{bad}");
        }
        let text = serde_json::to_string(&config).unwrap();
        assert_eq!(read(&text).unwrap(), config);
    }

    #[test]
    fn every_fault_names_its_key() {
        assert!(ForecastConfig::default().faults().is_empty());
        let window_max = Duration::ZERO;
        let wrong = ForecastConfig {
            window_max,
            history_window: Duration::from_millis(999),
            source_functions_max: NonZeroU32::MIN,
            notices_source_share_max: 0.0,
            notices_tenant_share_max: f64::NAN,
            source_budget: Duration::ZERO,
            tenant_budget: Duration::MAX,
            snapshot_interval: Duration::ZERO,
            snapshot_keep: Duration::MAX,
            ..Default::default()
        };
        let faults = wrong.faults();
        let named = [
            "window-max",
            "lead",
            "history-window",
            "source-functions-max",
            "notices-source-share-max",
            "notices-tenant-share-max",
            "source-budget",
            "tenant-budget",
            "snapshot-interval",
            "snapshot-keep",
            "late-grace",
        ];
        let named = named.map(|key| format!("forecast.{key} "));
        assert_eq!(faults.len(), named.len());
        assert!(faults.iter().zip(&named).all(|(fault, key)| fault.starts_with(key)), "{faults:?}");
    }
}
