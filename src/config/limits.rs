//! `[limits]`: the operator's ceilings over what definitions ask for.
//!
//! Must not: judge a definition; the registry does, by these numbers. The hardest bounds of all, which no operator can raise, are
//! the definition's own.

use std::time::Duration;

use serde::{Deserialize, Serialize};

use crate::types::FunctionDefinition;

/// The keys of `[limits]`. Every bound is inclusive.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(default, rename_all = "kebab-case", deny_unknown_fields)]
pub struct LimitsConfig {
    /// The longest `limits.timeout_ms`.
    #[serde(with = "super::humantime_text")]
    pub timeout_max: Duration,
    /// The largest `limits.memory_bytes`.
    pub memory_bytes_max: u64,
    /// The most `limits.concurrency`.
    pub concurrency_max: u32,
    /// The most `warm.floor`, and the most instances of a schedule.
    pub floor_max: u32,
    /// The most `warm.ceiling`.
    pub ceiling_max: u32,
    /// The most `retry.attempts_max`.
    pub attempts_max: u32,
    /// The longest `retry.age_max_ms`, where a call is tried again.
    #[serde(with = "super::humantime_text")]
    pub age_max: Duration,
    /// The least `retry.backoff_ms`, where a call is tried again.
    #[serde(with = "super::humantime_text")]
    pub backoff_min: Duration,
    /// The most variables of an `environment`.
    pub environment_max: u32,
    /// Most bytes of an `environment`, names and values together.
    pub environment_bytes_max: u64,
    /// The most `schedules`.
    pub schedules_max: u32,
    /// The most `pre_trigger.sources`.
    pub sources_max: u32,
    /// Most bytes of `artifact.uri`.
    pub uri_bytes_max: u32,
    /// Most functions of one tenant; those without a tenant count as one tenant's.
    pub functions_tenant_max: u32,
}

impl Default for LimitsConfig {
    fn default() -> Self {
        Self {
            timeout_max: Duration::from_mins(15),
            memory_bytes_max: 256 << 20,
            concurrency_max: 1_000,
            floor_max: 100,
            ceiling_max: 1_000,
            attempts_max: 100,
            age_max: Duration::from_hours(24),
            backoff_min: Duration::from_millis(10),
            environment_max: 100,
            environment_bytes_max: 32 << 10,
            schedules_max: 16,
            sources_max: 64,
            uri_bytes_max: 2_048,
            functions_tenant_max: 50_000,
        }
    }
}

impl LimitsConfig {
    /// Every fault that these keys have in themselves, each with its key; empty where they have none.
    pub fn faults(&self) -> Vec<String> {
        let mut faults = Vec::new();
        let mut check = |holds: bool, fault: &str| {
            if !holds {
                faults.push(fault.to_owned());
            }
        };
        check(self.timeout_max >= Duration::from_millis(1), "limits.timeout-max must be at least 1ms");
        check(self.memory_bytes_max >= 65_536, "limits.memory-bytes-max must be at least 65536 (one page)");
        check(self.concurrency_max >= 1, "limits.concurrency-max must be at least 1");
        check(self.attempts_max >= 1, "limits.attempts-max must be at least 1");
        check(self.floor_max <= self.ceiling_max, "limits.floor-max must not be above limits.ceiling-max");
        let schedules = FunctionDefinition::SCHEDULES_MAX;
        check(self.schedules_max as usize <= schedules, "limits.schedules-max must be at most 16");
        check(self.functions_tenant_max >= 1, "limits.functions-tenant-max must be at least 1");
        faults
    }
}
