//! `[kafka]`, `[topics]`, `[ingest]`, `[pre-triggers]` and `[publish]`: everything between this node and the brokers.
//!
//! Must not: hold librdkafka's own settings one by one; those pass through `kafka.properties` as they are.

use std::collections::BTreeMap;
use std::num::{NonZeroU32, NonZeroU64};
use std::path::PathBuf;
use std::time::Duration;

use serde::{Deserialize, Serialize};

use super::REDACTED;

/// The keys of `[kafka]`.
#[derive(Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case", deny_unknown_fields)]
pub struct Kafka {
    /// `host:port` of one or more brokers, separated by commas.
    pub bootstrap_servers: String,
    /// Base address of a Confluent schema registry; empty: none.
    pub schema_registry_url: String,
    /// librdkafka's own settings. [`load`](super::load) has put those of the files in.
    pub properties: BTreeMap<String, String>,
    /// Settings of librdkafka whose value is what a file holds, as secrets are mounted.
    pub property_files: BTreeMap<String, PathBuf>,
}

/// librdkafka's own `session.timeout.ms`, and the brokers' for the newer group protocol.
const SESSION_TIMEOUT_MS: u64 = 45_000;

/// librdkafka's own `heartbeat.interval.ms`.
const HEARTBEAT_INTERVAL_MS: u64 = 3_000;

/// Keys of the classic group protocol alone: Kafka 4's leaves them to the brokers, and librdkafka refuses them there.
const CLASSIC_ONLY: [&str; 4] =
    ["session.timeout.ms", "heartbeat.interval.ms", "partition.assignment.strategy", "group.protocol.type"];

impl Kafka {
    /// What is wrong with the addresses of the brokers.
    pub(super) fn faults(&self) -> Vec<String> {
        let is_address = |server: &str| {
            let address = server.trim().rsplit("://").next().unwrap_or_default();
            // An address of IPv6 stands in brackets where a port follows; a port may be left out.
            match address.rsplit_once(':') {
                Some((host, port)) if !host.contains(':') || host.ends_with(']') => {
                    !host.is_empty() && port.parse::<u16>().is_ok_and(|port| port > 0)
                }
                _ => !address.is_empty(),
            }
        };
        let servers = self.bootstrap_servers.trim();
        if servers.is_empty() {
            return vec!["kafka.bootstrap-servers must name a broker".to_owned()];
        }
        let bad = servers.split(',').filter(|server| !is_address(server));
        bad.map(|server| format!("kafka.bootstrap-servers: {:?} is not host:port", server.trim())).collect()
    }

    /// Whether the free properties say nothing of the group protocol.
    pub fn leaves_group_protocol_open(&self) -> bool {
        !self.properties.contains_key("group.protocol")
            && !CLASSIC_ONLY.iter().any(|key| self.properties.contains_key(*key))
    }

    /// Whether the free properties ask for the group protocol of Kafka 4.
    pub fn asks_for_newer_protocol(&self) -> bool {
        self.properties.get("group.protocol").is_some_and(|protocol| protocol == "consumer")
    }

    /// How often a member says that it is there, and hears what the group wants.
    pub fn heartbeat_interval(&self) -> Duration {
        self.millis("heartbeat.interval.ms", HEARTBEAT_INTERVAL_MS)
    }

    /// Takes the properties out of their files (see [`load`](super::load)). A file's last line may end with a line break, which is not part of the value.
    /// The answer is what is wrong with them.
    #[cfg(feature = "service")]
    pub(super) fn read_property_files(&mut self) -> Vec<String> {
        let mut faults = Vec::new();
        for (property, path) in &self.property_files {
            let key = format!("kafka.property-files.{property}");
            match std::fs::read_to_string(path) {
                _ if self.properties.contains_key(property) => {
                    faults.push(format!("{key}: kafka.properties.{property} is given too; leave one of them out"));
                }
                Ok(text) => {
                    let value = text.strip_suffix('\n').unwrap_or(&text);
                    let value = value.strip_suffix('\r').unwrap_or(value);
                    self.properties.insert(property.clone(), value.to_owned());
                }
                Err(fault) => faults.push(format!("{key}: file {}: {fault}", path.display())),
            }
        }
        faults
    }

    fn millis(&self, property: &str, default: u64) -> Duration {
        let given = self.properties.get(property).and_then(|millis| millis.parse().ok());
        Duration::from_millis(given.unwrap_or(default))
    }

    /// How long the group waits for a member that says nothing.
    pub fn session_timeout(&self) -> Duration {
        self.millis("session.timeout.ms", SESSION_TIMEOUT_MS)
    }
}

impl std::fmt::Debug for Kafka {
    /// Without the values of the free properties: passwords and keys are among them.
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Kafka")
            .field("bootstrap_servers", &self.bootstrap_servers)
            .field("schema_registry_url", &without_userinfo(&self.schema_registry_url))
            .field("properties", &self.properties.keys())
            .field("property_files", &self.property_files)
            .finish()
    }
}

/// URLs, separated by commas, without the users and passwords in them.
pub(super) fn without_userinfo(urls: &str) -> String {
    let hide = |url: &str| {
        let (scheme, rest) = url.split_once("://").map_or(("", url), |(scheme, rest)| (&url[..scheme.len() + 3], rest));
        // The last one: a password may hold an @ of its own.
        rest.rsplit_once('@').map_or_else(|| url.to_owned(), |(_, host)| format!("{scheme}{REDACTED}@{host}"))
    };
    urls.split(',').map(hide).collect::<Vec<_>>().join(",")
}

/// Whether a librdkafka property holds a secret, judged by its name, carefully: what might be one is one.
pub(super) fn is_secret(property: &str) -> bool {
    let name = property.to_ascii_lowercase();
    let parts = [
        "password",
        "passphrase",
        "secret",
        "token",
        "ssl.key",
        "private.key",
        "oauthbearer.config",
        "userinfo",
        "ssl.keystore",
        "jaas",
    ];
    parts.iter().any(|part| name.contains(part))
}

/// The keys of `[topics]`.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case", deny_unknown_fields)]
pub struct Topics {
    /// Notices of calls to come.
    pub pre_triggers: String,
    /// Calls.
    pub invocations: String,
    /// Outcomes.
    pub results: String,
    /// Messages that are no event, and calls that failed as often as they may.
    pub dead_letters: String,
    /// How pre-triggers ended.
    pub pre_trigger_outcomes: String,
    /// Notices of guests: written by nodes alone.
    pub guest_notices: String,
    /// Function definitions; compacted.
    pub functions: String,
    /// Artifacts in chunks, as `function deploy` puts them there; compacted.
    pub artifacts: String,
    /// What is known of functions, for the next start; compacted.
    pub forecast_snapshots: String,
    /// What functions are doing on each node; compacted.
    pub function_status: String,
    /// What functions write; empty: nowhere.
    pub function_logs: String,
    /// Whether topics that are missing are created at start.
    pub create: bool,
    /// Partitions of those that are created.
    pub partitions: NonZeroU32,
    /// Replicas of those that are created; -1 is the brokers' default (`default.replication.factor`).
    pub replication_factor: i32,
}

impl Topics {
    /// What the topic of functions' logs is called where nobody names it.
    pub const FUNCTION_LOGS: &str = "function-logs";

    /// The topic of functions' logs as whoever reads it takes it to be called.
    pub fn function_logs_or_usual(&self) -> &str {
        if self.function_logs.is_empty() { Self::FUNCTION_LOGS } else { &self.function_logs }
    }

    /// `more`: other topics, each with its key.
    pub(super) fn faults<'a>(&'a self, more: impl Iterator<Item = (&'a str, &'a str)>) -> Vec<String> {
        let names = [
            ("topics.pre-triggers", &self.pre_triggers),
            ("topics.invocations", &self.invocations),
            ("topics.results", &self.results),
            ("topics.dead-letters", &self.dead_letters),
            ("topics.pre-trigger-outcomes", &self.pre_trigger_outcomes),
            ("topics.guest-notices", &self.guest_notices),
            ("topics.functions", &self.functions),
            ("topics.artifacts", &self.artifacts),
            ("topics.forecast-snapshots", &self.forecast_snapshots),
            ("topics.function-status", &self.function_status),
        ];
        let logs = Some(("topics.function-logs", &self.function_logs)).filter(|(_, name)| !name.is_empty());
        let names: Vec<_> = names.into_iter().chain(logs).map(|(key, name)| (key, name.as_str())).chain(more).collect();
        let mut faults = Vec::new();
        if self.replication_factor != -1 && !(1..=i32::from(i16::MAX)).contains(&self.replication_factor) {
            let given = self.replication_factor;
            faults.push(format!(
                "topics.replication-factor: {given} is none: use -1 (the brokers' default) or 1 to 32767"
            ));
        }
        for (index, (key, name)) in names.iter().enumerate() {
            let legal = |c: char| c.is_ascii_alphanumeric() || matches!(c, '.' | '_' | '-');
            if name.is_empty() || name.len() > 249 || !name.chars().all(legal) {
                faults.push(format!("{key}: {name:?} is no topic name: use 1 to 249 of a-z A-Z 0-9 . _ -"));
            }
            if let Some((other, _)) = names[..index].iter().find(|(_, earlier)| earlier == name) {
                faults.push(format!("{key} and {other} are both {name:?}: each needs a topic of its own"));
            }
        }
        faults
    }
}

/// The keys of `[ingest]`.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case", deny_unknown_fields)]
pub struct Ingest {
    /// The consumer group that shares the calls.
    pub group_id: String,
    /// Calls that this node holds at once (inclusive), from reading them to the acknowledgement of their outcome.
    pub in_flight_max: NonZeroU32,
    /// Bytes of key and value that a message may have (inclusive).
    pub message_bytes_max: NonZeroU32,
    /// Headers that a message may have (inclusive).
    pub headers_max: u32,
    /// Bytes of the names and values of a message's headers (inclusive).
    pub headers_bytes_max: u32,
    /// Bytes that a batch packed by gzip may unpack to (inclusive).
    pub batch_bytes_max: NonZeroU64,
    /// How long a partition stands before a batch is passed over that cannot be read; zero: until somebody acts.
    #[serde(with = "super::humantime_text")]
    pub pass_unreadable_after: Duration,
    /// Bytes of those calls' messages (inclusive). [`load`](super::load) puts a part of the machine's memory in place of 0.
    pub in_flight_bytes_max: u64,
    /// The part of both that one function may hold, above 0.0 to 1.0 inclusive.
    pub function_share_max: f64,
    /// The part of both that the functions of one tenant may hold together, above 0.0 to 1.0 inclusive.
    pub tenant_share_max: f64,
    /// How often progress is committed.
    #[serde(with = "super::humantime_text")]
    pub commit_interval: Duration,
    /// How long a partition that is taken away waits for its calls in flight.
    #[serde(with = "super::humantime_text")]
    pub drain_timeout: Duration,
}

impl Ingest {
    pub(super) fn faults(&self) -> Vec<String> {
        let shares = [("function-share-max", self.function_share_max), ("tenant-share-max", self.tenant_share_max)];
        let bad = shares.into_iter().filter(|(_, share)| !(*share > 0.0 && *share <= 1.0));
        bad.map(|(key, share)| format!("ingest.{key}: {share} is no share: use above 0.0 to 1.0 (no share)")).collect()
    }
}

/// What is promised of a call's outcome.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum Delivery {
    /// It is stored before the call's offset moves; a crash between the two repeats the call and its outcome.
    AtLeastOnce,
    /// It is stored in one transaction with the call's offset: readers of committed messages see it once.
    ExactlyOnce,
}

/// Where reading of the pre-triggers begins.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum PreTriggerStart {
    /// The longest window (`forecast.window-max`) ago: everything that may still be live.
    Window,
    /// At the beginning of the topic.
    Earliest,
}

/// The keys of `[pre-triggers]`.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case", deny_unknown_fields)]
pub struct PreTriggers {
    /// Where reading begins.
    pub start: PreTriggerStart,
}

/// The form of what is published.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum ResultFormat {
    /// Avro single-object encoding: needs no registry.
    SingleObject,
    /// Confluent framing; the schema is registered at start.
    Confluent,
    /// JSON.
    Json,
}

/// The keys of `[publish]`.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case", deny_unknown_fields)]
pub struct Publish {
    /// The form of results.
    pub format: ResultFormat,
    /// Wait before a record that was not acknowledged is sent again; doubles up to the maximum.
    #[serde(with = "super::humantime_text")]
    pub retry_backoff: Duration,
    /// The longest wait.
    #[serde(with = "super::humantime_text")]
    pub retry_backoff_max: Duration,
    /// From one transaction to the next, at least, where delivery is exactly-once.
    #[serde(with = "super::humantime_text")]
    pub transaction_interval: Duration,
}
