//! `[node]`, `[registry]`, `[control]`, `[telemetry]` and `[shutdown]`: the small sections.

use std::num::NonZeroUsize;
use std::time::Duration;

use serde::{Deserialize, Serialize};

/// The keys of `[node]`.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case", deny_unknown_fields)]
pub struct Node {
    /// The node's name on results and in telemetry; empty: the host's name.
    pub id: String,
    /// Whether that name was configured, and so outlives the process; the host's may not.
    #[serde(skip)]
    pub is_named: bool,
    /// Whether the process may leave core dumps and be traced by its own user.
    pub core_dumps: bool,
}

/// The keys of `[registry]`.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case", deny_unknown_fields)]
pub struct Registry {
    /// How long the start waits for topics that are not there or not whole, and for one more definition to be read.
    #[serde(with = "super::humantime_text")]
    pub catch_up_timeout: Duration,
}

/// The keys of `[control]`.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case", deny_unknown_fields)]
pub struct Control {
    /// From one decision on warm targets to the next.
    #[serde(with = "super::humantime_text")]
    pub tick: Duration,
    /// What may be observed between two ticks; more is dropped and counted.
    pub queue: NonZeroUsize,
}

/// How log lines look.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum LogFormat {
    /// For people.
    Text,
    /// One JSON object a line.
    Json,
}

/// The keys of `[telemetry]`.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case", deny_unknown_fields)]
pub struct Telemetry {
    /// How log lines look.
    pub log_format: LogFormat,
    /// Which lines are logged, in the syntax of tracing-subscriber's `EnvFilter`.
    pub log_filter: String,
    /// Base address of an OTLP/HTTP collector; empty: nothing is exported.
    pub otlp_endpoint: String,
    /// OpenTelemetry's `service.name`.
    pub service_name: String,
    /// From one export of the counters to the next.
    #[serde(with = "super::humantime_text")]
    pub export_interval: Duration,
}

/// The keys of `[shutdown]`.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case", deny_unknown_fields)]
pub struct Shutdown {
    /// How long the whole way down may take.
    #[serde(with = "super::humantime_text")]
    pub deadline: Duration,
}
