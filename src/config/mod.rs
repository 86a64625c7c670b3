//! Every setting: its unit, its default, and what is wrong with it.
//!
//! `config/default.toml` is the reference of every key and holds the defaults. Above it stand the user's file and the
//! environment (see `load`). Must not: do I/O outside `load` and `machine`, or know what the settings do.

mod admin;
mod chains;
mod execute;
mod forecast;
mod function_logs;
mod humantime_text;
mod kafka;
mod limits;
#[cfg(feature = "service")]
mod load;
mod machine;
mod neighbours;
mod service;
mod target;
mod tenants;

use std::fmt;
use std::time::Duration;

use serde::{Deserialize, Serialize};

pub use admin::Admin;
pub use chains::ChainsConfig;
pub use execute::{Artifacts, Execute, Store};
pub use forecast::ForecastConfig;
pub use function_logs::FunctionLogs;
pub use kafka::{Delivery, Ingest, Kafka, PreTriggerStart, PreTriggers, Publish, ResultFormat, Topics};
pub use limits::LimitsConfig;
#[cfg(feature = "service")]
pub use load::{DEFAULTS, load, nearest};
pub use machine::{Budgets, Machine, MemorySource};
pub use neighbours::{SchemaRegistry, Tls};
pub use service::{Control, LogFormat, Node, Registry, Shutdown, Telemetry};
pub use target::TargetConfig;
pub use tenants::{NamedTenant, Tenants};

/// What stands in place of a secret where a configuration is printed.
const REDACTED: &str = "(redacted)";

/// The whole configuration of one node.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case", deny_unknown_fields)]
pub struct Config {
    /// What is promised of outcomes.
    pub delivery: Delivery,
    /// The node.
    pub node: Node,
    /// The brokers.
    pub kafka: Kafka,
    /// The registry of schemas.
    pub schema_registry: SchemaRegistry,
    /// The topics.
    pub topics: Topics,
    /// Consuming calls.
    pub ingest: Ingest,
    /// Consuming pre-triggers.
    pub pre_triggers: PreTriggers,
    /// The ceilings over what definitions ask for.
    pub limits: LimitsConfig,
    /// What one tenant may have.
    pub tenants: Tenants,
    /// Producing results.
    pub publish: Publish,
    /// Reading definitions.
    pub registry: Registry,
    /// Fetching artifacts.
    pub artifacts: Artifacts,
    /// Running guests.
    pub execute: Execute,
    /// What functions write.
    pub function_logs: FunctionLogs,
    /// The control plane.
    pub control: Control,
    /// The forecaster.
    pub forecast: ForecastConfig,
    /// Learned chains.
    pub chains: ChainsConfig,
    /// The warm targets.
    pub target: TargetConfig,
    /// Logs, metrics, traces.
    pub telemetry: Telemetry,
    /// The node's own words over HTTP.
    pub admin: Admin,
    /// The way down.
    pub shutdown: Shutdown,
    /// The budgets of memory that [`load`] reckoned, and what from.
    #[serde(skip)]
    pub budgets: Budgets,
}

/// Every fault of a configuration, each with its key.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct ConfigError {
    /// One sentence each; never empty.
    pub faults: Vec<String>,
}

impl fmt::Display for ConfigError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(
            f,
            "the configuration has {} fault{}:",
            self.faults.len(),
            if self.faults.len() == 1 { "" } else { "s" }
        )?;
        self.faults.iter().try_for_each(|fault| write!(f, "\n  - {fault}"))
    }
}

impl std::error::Error for ConfigError {}

impl Config {
    /// Faults that show only when the settings are seen together; empty where there are none.
    pub fn faults(&self) -> Vec<String> {
        let mut faults = self.topics.faults(self.tenants.topics());
        faults.extend(self.kafka.faults());
        faults.extend(self.schema_registry.faults(&self.kafka.schema_registry_url));
        faults.extend(self.telemetry.faults());
        faults.extend(self.artifacts.faults());
        faults.extend(self.ingest.faults());
        faults.extend(self.execute.faults());
        faults.extend(self.function_logs.faults());
        faults.extend(self.forecast.faults());
        faults.extend(self.chains.faults());
        faults.extend(self.target.faults());
        faults.extend(self.limits.faults());
        faults.extend(self.tenants.faults());
        faults.extend(self.admin.faults());
        let mut check = |holds: bool, fault: &str| {
            if !holds {
                faults.push(fault.to_owned());
            }
        };
        check(!self.ingest.group_id.is_empty(), "ingest.group-id must not be empty");
        check(!self.control.tick.is_zero(), "control.tick must be above 0s");
        check(
            self.ingest.drain_timeout < self.shutdown.deadline,
            "ingest.drain-timeout must be below shutdown.deadline, which it is a part of",
        );
        check(
            self.ingest.drain_timeout < self.kafka.session_timeout(),
            "ingest.drain-timeout must be below the group's session timeout (kafka.properties session.timeout.ms, else 45s): \
             a partition that drains for longer would be taken away meanwhile",
        );
        check(!self.ingest.commit_interval.is_zero(), "ingest.commit-interval must be above 0s");
        check(
            self.publish.retry_backoff <= self.publish.retry_backoff_max && !self.publish.retry_backoff.is_zero(),
            "publish.retry-backoff must be above 0s and not above publish.retry-backoff-max",
        );
        check(
            self.delivery == Delivery::AtLeastOnce || self.publish.transaction_interval < Duration::from_secs(10),
            "publish.transaction-interval must be below 10s: outcomes wait for it",
        );
        check(
            self.publish.format != ResultFormat::Confluent || !self.kafka.schema_registry_url.is_empty(),
            "publish.format \"confluent\" needs kafka.schema-registry-url",
        );
        check(
            self.execute.memory_bytes_max == 0 || self.target.memory_budget_bytes <= self.execute.memory_bytes_max,
            "target.memory-budget-bytes must not be above execute.memory-bytes-max",
        );
        check(!self.telemetry.export_interval.is_zero(), "telemetry.export-interval must be above 0s");
        faults
    }

    /// The keys whose values differ, in order: `section.key`, and below a table whose keys are not ours, with the name in it.
    #[cfg(feature = "service")]
    pub fn keys_that_differ(&self, other: &Self) -> Vec<String> {
        load::keys_that_differ(self, other)
    }

    /// The node's name. [`load`] has put the host's in where none was configured.
    pub fn node_id(&self) -> String {
        if self.node.id.is_empty() { "node".to_owned() } else { self.node.id.clone() }
    }

    /// The same configuration without its secrets, to be shown.
    pub fn redacted(&self) -> Self {
        let mut shown = self.clone();
        for (property, value) in &mut shown.kafka.properties {
            if kafka::is_secret(property) || shown.kafka.property_files.contains_key(property) {
                REDACTED.clone_into(value);
            }
        }
        shown.kafka.schema_registry_url = kafka::without_userinfo(&shown.kafka.schema_registry_url);
        shown.schema_registry.redact();
        shown.telemetry.redact();
        shown
    }
}
