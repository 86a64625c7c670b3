//! `[node]`, `[registry]`, `[control]`, `[telemetry]` and `[shutdown]`: the small sections.
//!
//! Must not: show the value of a header for the collector.

use std::collections::BTreeMap;
use std::fmt;
use std::num::NonZeroUsize;
use std::path::PathBuf;
use std::time::Duration;

use serde::{Deserialize, Serialize};

use super::neighbours::{Tls, url_fault};
use super::{REDACTED, kafka};

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
#[derive(Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case", deny_unknown_fields)]
pub struct Telemetry {
    /// How log lines look.
    pub log_format: LogFormat,
    /// Which lines are logged, in the syntax of tracing-subscriber's `EnvFilter`.
    pub log_filter: String,
    /// Base address of an OTLP/HTTP collector; empty: nothing is exported.
    pub otlp_endpoint: String,
    /// Certificates of authorities in PEM that are believed for the collector besides those of the system; empty: none.
    pub otlp_ca_file: PathBuf,
    /// The certificate by which this node is known to the collector, in PEM; empty: none.
    pub otlp_certificate_file: PathBuf,
    /// That certificate's key in PEM; empty where it is in the same file.
    pub otlp_key_file: PathBuf,
    /// Headers of every request to the collector. Their values are secrets.
    pub otlp_headers: BTreeMap<String, String>,
    /// Headers whose value is what a file holds.
    pub otlp_header_files: BTreeMap<String, PathBuf>,
    /// OpenTelemetry's `service.name`.
    pub service_name: String,
    /// From one export of the counters to the next.
    #[serde(with = "super::humantime_text")]
    pub export_interval: Duration,
}

impl Telemetry {
    /// What TLS to the collector needs.
    pub fn tls(&self) -> Tls<'_> {
        Tls {
            ca: ("telemetry.otlp-ca-file", &self.otlp_ca_file),
            certificate: ("telemetry.otlp-certificate-file", &self.otlp_certificate_file),
            key: ("telemetry.otlp-key-file", &self.otlp_key_file),
        }
    }

    pub(super) fn faults(&self) -> Vec<String> {
        let credentials = "telemetry.otlp-header-files, as authorization";
        let endpoint = Some(self.otlp_endpoint.as_str()).filter(|url| !url.is_empty());
        let mut faults: Vec<String> = self.tls().fault().into_iter().collect();
        faults.extend(endpoint.and_then(|url| url_fault("telemetry.otlp-endpoint", url, credentials)));
        let twice = self.otlp_header_files.keys().filter(|name| self.otlp_headers.contains_key(*name));
        faults.extend(twice.map(|name| {
            format!(
                "telemetry.otlp-header-files.{name}: telemetry.otlp-headers.{name} is set too: leave one of them out"
            )
        }));
        faults
    }

    pub(super) fn redact(&mut self) {
        self.otlp_endpoint = kafka::without_userinfo(&self.otlp_endpoint);
        self.otlp_headers.values_mut().for_each(|value| REDACTED.clone_into(value));
    }
}

impl fmt::Debug for Telemetry {
    /// Without the values of headers.
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let mut shown = self.clone();
        shown.redact();
        f.debug_struct("Telemetry")
            .field("log_format", &shown.log_format)
            .field("log_filter", &shown.log_filter)
            .field("otlp_endpoint", &shown.otlp_endpoint)
            .field("otlp_ca_file", &shown.otlp_ca_file)
            .field("otlp_certificate_file", &shown.otlp_certificate_file)
            .field("otlp_key_file", &shown.otlp_key_file)
            .field("otlp_headers", &shown.otlp_headers)
            .field("otlp_header_files", &shown.otlp_header_files)
            .field("service_name", &shown.service_name)
            .field("export_interval", &shown.export_interval)
            .finish()
    }
}

/// The keys of `[shutdown]`.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case", deny_unknown_fields)]
pub struct Shutdown {
    /// How long the whole way down may take.
    #[serde(with = "super::humantime_text")]
    pub deadline: Duration,
}
