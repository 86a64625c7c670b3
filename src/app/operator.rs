//! Requests of an operator to a node that runs: reading the configuration again, its state in the log, standing aside.
//!
//! Must not: hold anything that the rooms hold.

use std::collections::BTreeMap;

use super::{Asked, Service};
use crate::config::{Config, ConfigError};
use crate::telemetry;

/// Keys whose new value holds from the next moment on. All others need a restart.
const RELOADED: [&str; 4] = ["telemetry.log-filter", "tenants.calls-max", "tenants.waiting-max", "tenants.named"];

/// Reads the configuration again; None for a node that has none of its own.
pub type Reload<'a> = dyn Fn() -> Result<Config, ConfigError> + 'a;

impl Service {
    /// Carries out what a signal asked for, but for the end.
    pub(super) fn carry_out(&mut self, asked: Asked, reload: Option<&Reload<'_>>) {
        match asked {
            Asked::End => {}
            Asked::Reload => self.reload(reload),
            Asked::Dump => self.dump(),
            Asked::HandBack => {
                self.invocations.hand_back();
                tracing::warn!(
                    "SIGUSR1: this node hands its partitions back and takes no calls until SIGUSR2; calls in flight may end"
                );
            }
            Asked::TakeAgain => {
                self.invocations.take_again();
                tracing::info!("SIGUSR2: this node takes calls");
            }
        }
    }

    fn reload(&mut self, reload: Option<&Reload<'_>>) {
        let Some(reload) = reload else {
            tracing::info!("SIGHUP: nothing to read again here");
            return;
        };
        let mut new = match reload() {
            Ok(new) => new,
            Err(error) => {
                tracing::error!(%error, "SIGHUP: the configuration is not taken, and the one of before stays");
                return;
            }
        };
        let differ = self.config.keys_that_differ(&new);
        let (mut taken, restart) = sorted(&differ);
        if let Some(at) = taken.iter().position(|key| key == "telemetry.log-filter")
            && let Err(error) = telemetry::set_log_filter(&new.telemetry.log_filter)
        {
            tracing::error!(%error, "SIGHUP: the filter of the log stays");
            new.telemetry.log_filter.clone_from(&self.config.telemetry.log_filter);
            taken.remove(at);
        }
        if taken.iter().any(|key| key.starts_with("tenants.")) {
            self.delivery.set_quotas(super::quotas(&new.tenants));
        }
        self.config.telemetry.log_filter = new.telemetry.log_filter;
        self.config.tenants = new.tenants;
        if restart.is_empty() {
            tracing::info!(?taken, "SIGHUP: the configuration was read again");
        } else {
            tracing::warn!(?taken, ?restart, "SIGHUP: the configuration was read again; some keys need a restart");
        }
    }

    /// Says in the log how the node stands.
    fn dump(&self) {
        self.mirror_counters();
        let ingest = self.invocations.counters();
        let (_, librdkafka) = rdkafka::util::get_rdkafka_version();
        tracing::info!(
            version = env!("CARGO_PKG_VERSION"),
            librdkafka,
            node = self.config.node_id(),
            group = self.config.ingest.group_id,
            ready = self.is_ready(),
            reason = self.stands_by(),
            partitions = ?self.invocations.partitions(),
            in_flight = self.invocations.in_flight(),
            in_flight_bytes = ingest.in_flight_bytes.load(super::Ordering::Relaxed),
            functions_loaded = self.executor.running(),
            threads = threads(),
            memory = memory(),
            files = std::fs::read_dir("/proc/self/fd").map_or(0, Iterator::count),
            "SIGQUIT: how this node stands"
        );
        let counted = self.metrics.summary();
        tracing::info!(counted, "SIGQUIT: what was counted since the start");
    }

    /// Why it takes no calls; empty where it takes them.
    pub(super) fn stands_by(&self) -> String {
        self.failure
            .reason()
            .map(str::to_owned)
            .or_else(|| crate::admin::Node::not_ready(&*self.node))
            .unwrap_or_default()
    }
}

/// The changed keys that can be taken over while the node runs, and the changed keys that cannot.
fn sorted(differ: &[String]) -> (Vec<String>, Vec<String>) {
    differ.iter().cloned().partition(|key| RELOADED.contains(&key.as_str()))
}

/// The threads of this process by their names, as Linux tells them (15 characters), each with its number.
fn threads() -> String {
    let mut counted: BTreeMap<String, u32> = BTreeMap::new();
    for task in std::fs::read_dir("/proc/self/task").into_iter().flatten().flatten() {
        // One that has just ended has no name.
        if let Ok(name) = std::fs::read_to_string(task.path().join("comm")) {
            *counted.entry(name.trim().to_owned()).or_default() += 1;
        }
    }
    let told: Vec<String> = counted.into_iter().map(|(name, count)| format!("{name} {count}")).collect();
    told.join(", ")
}

/// Memory and files of the process, now and at most, as Linux tells it.
fn memory() -> String {
    let status = std::fs::read_to_string("/proc/self/status").unwrap_or_default();
    let told: Vec<String> = status
        .lines()
        .filter(|line| ["VmRSS:", "VmHWM:", "VmSize:"].iter().any(|name| line.starts_with(name)))
        .map(|line| line.split_whitespace().collect::<Vec<_>>().join(" "))
        .collect();
    told.join(", ")
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_differs_is_taken_or_needs_a_restart() {
        let loaded = |given: &[(&str, &str)]| {
            let given = given.iter().map(|(name, value)| ((*name).to_owned(), (*value).to_owned()));
            crate::config::load(None, given).unwrap()
        };
        let before = loaded(&[("FOREWARM__KAFKA__PROPERTIES__SASL_PASSWORD", "old")]);
        let after = loaded(&[
            ("FOREWARM__KAFKA__PROPERTIES__SASL_PASSWORD", "new"),
            ("FOREWARM__TELEMETRY__LOG_FILTER", "debug"),
            ("FOREWARM__TENANTS__CALLS_MAX", "3"),
            ("FOREWARM__TENANTS__NAMED", r#"[{"tenant": "acme"}]"#),
            ("FOREWARM__INGEST__GROUP_ID", "other"),
        ]);
        let (taken, restart) = sorted(&before.keys_that_differ(&after));
        assert_eq!(taken, ["telemetry.log-filter", "tenants.calls-max", "tenants.named"]);
        assert_eq!(restart, ["ingest.group-id", "kafka.properties.sasl.password"]);
        assert!(before.keys_that_differ(&before).is_empty());
    }

    #[test]
    fn every_key_that_is_taken_over_is_one() {
        let defaults = crate::config::DEFAULTS.parse::<toml::Table>().unwrap();
        for key in RELOADED {
            let (section, key) = key.split_once('.').unwrap();
            assert!(defaults[section].get(key).is_some(), "{section}.{key}");
        }
    }

    #[test]
    fn this_process_has_threads_and_memory() {
        assert!(!threads().is_empty());
        assert!(memory().contains("VmRSS: "), "{}", memory());
    }
}
