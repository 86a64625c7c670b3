//! A function: its name, artifact, limits and policies, as registered on the `functions` topic.
//!
//! Must not: fetch, compile or judge an artifact; `artifacts` and `execute` do.

use std::borrow::Borrow;
use std::collections::BTreeMap;
use std::fmt;
use std::str::FromStr;
use std::sync::Arc;

use serde::{Deserialize, Deserializer, Serialize, Serializer};

use super::{Artifact, Schedule};

/// A function's name: 1 to 128 characters of `a-z A-Z 0-9 . _ - /`, starting with a letter or digit. Cheap to clone.
#[derive(Clone, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct FunctionName(Arc<str>);

impl FunctionName {
    /// The longest name, in bytes (inclusive).
    pub const LEN_MAX: usize = 128;

    /// Checks and takes a name.
    ///
    /// # Errors
    /// Where it is empty, too long, or has a character outside the set.
    pub fn new(name: &str) -> Result<Self, InvalidName> {
        let legal = |c: char| c.is_ascii_alphanumeric() || matches!(c, '.' | '_' | '-' | '/');
        let starts_well = name.starts_with(|c: char| c.is_ascii_alphanumeric());
        if name.len() > Self::LEN_MAX || !starts_well || !name.chars().all(legal) {
            return Err(InvalidName { name: name.chars().take(Self::LEN_MAX).collect() });
        }
        Ok(Self(name.into()))
    }

    /// The name as text.
    pub fn as_str(&self) -> &str {
        &self.0
    }
}

/// A text that cannot be a function's name.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("function name {name:?} is not valid: use 1 to 128 of a-z A-Z 0-9 . _ - / and start with a letter or digit")]
pub struct InvalidName {
    /// The text, cut at 128 characters.
    pub name: String,
}

impl Borrow<str> for FunctionName {
    fn borrow(&self) -> &str {
        &self.0
    }
}

impl fmt::Display for FunctionName {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.0)
    }
}

impl fmt::Debug for FunctionName {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        fmt::Debug::fmt(&self.0, f)
    }
}

impl FromStr for FunctionName {
    type Err = InvalidName;
    fn from_str(name: &str) -> Result<Self, InvalidName> {
        Self::new(name)
    }
}

impl Serialize for FunctionName {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        serializer.serialize_str(&self.0)
    }
}

impl<'de> Deserialize<'de> for FunctionName {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        let name = String::deserialize(deserializer)?;
        Self::new(&name).map_err(serde::de::Error::custom)
    }
}

/// What world the guest lives in.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum FunctionKind {
    /// A component of the world `forewarm:function/function` (see `wit/`).
    Component,
    /// A WASI command module: payload on stdin, answer on stdout, one call an instance.
    Command,
}

/// What one call may use. Every bound is inclusive.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(default)]
pub struct Limits {
    /// Linear memory of one instance, in bytes.
    pub memory_bytes: u64,
    /// Run time of one call, in milliseconds.
    pub timeout_ms: u64,
    /// Largest payload in, in bytes.
    pub payload_in_bytes: u64,
    /// Largest answer, in bytes.
    pub payload_out_bytes: u64,
    /// Calls in flight at once on one node.
    pub concurrency: u32,
}

impl Default for Limits {
    fn default() -> Self {
        Self {
            memory_bytes: 128 << 20,
            timeout_ms: 30_000,
            payload_in_bytes: 1 << 20,
            payload_out_bytes: 900_000,
            concurrency: 64,
        }
    }
}

/// May an instance serve more than one call?
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, Default, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Reuse {
    /// Up to `max_invocations` calls in one instance, one at a time.
    #[default]
    Reuse,
    /// One call an instance.
    Fresh,
}

/// How many instances to hold ready, and for how many calls.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(default)]
pub struct WarmPolicy {
    /// Instances that are kept whatever the forecast says.
    pub floor: u32,
    /// Instances that the forecast never asks to exceed (ready and busy together).
    pub ceiling: u32,
    /// Whether instances are reused.
    pub reuse: Reuse,
    /// With `reuse`: calls after which an instance is retired; at least 1.
    pub max_invocations: u32,
}

impl Default for WarmPolicy {
    fn default() -> Self {
        Self { floor: 0, ceiling: 64, reuse: Reuse::Reuse, max_invocations: 10_000 }
    }
}

/// When a pre-trigger for this function acts.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(default)]
pub struct Criteria {
    /// Live notices needed before any acts; at least 1.
    pub notices_min: u32,
    /// The time within which those notices must have come, in milliseconds.
    pub within_ms: u64,
    /// Least confidence that counts, 0.0 to 1.0 inclusive.
    pub confidence_min: f64,
    /// Sources that count; empty: every source.
    pub sources: Vec<String>,
    /// Instances that pre-triggers and chains never ask to exceed together.
    pub instances_max: u32,
}

impl Default for Criteria {
    fn default() -> Self {
        Self { notices_min: 1, within_ms: 60_000, confidence_min: 0.0, sources: Vec::new(), instances_max: u32::MAX }
    }
}

/// In what order calls of the function run.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, Default, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Ordering {
    /// As they come, in parallel.
    #[default]
    Unordered,
    /// Calls with one message key one after another; keys in parallel.
    Key,
    /// Calls of one partition one after another.
    Partition,
}

/// Whether and how a failed call is tried again.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(default)]
pub struct Retry {
    /// Attempts in all; at least 1. 1 means that nothing is tried again.
    pub attempts_max: u32,
    /// Wait before the second attempt, in milliseconds; doubles from then on, less up to a fifth by chance.
    pub backoff_ms: u64,
    /// The longest wait, in milliseconds.
    pub backoff_max_ms: u64,
    /// From when the node had the call in hand, in milliseconds: what would begin later is not tried again; nor what would
    /// begin at the call's deadline or later.
    pub age_max_ms: u64,
    /// Which outcomes are tried again.
    pub statuses: Vec<RetryStatus>,
}

impl Default for Retry {
    fn default() -> Self {
        Self {
            attempts_max: 1,
            backoff_ms: 1_000,
            backoff_max_ms: 60_000,
            age_max_ms: 900_000,
            statuses: vec![RetryStatus::FunctionError, RetryStatus::Trap, RetryStatus::Timeout],
        }
    }
}

/// An outcome that can be tried again.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum RetryStatus {
    /// The function said no.
    FunctionError,
    /// The guest trapped.
    Trap,
    /// The call ran past its time limit.
    Timeout,
    /// The call met another limit.
    Limit,
}

/// What a user says of a chain.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum ChainRuleKind {
    /// It acts, and as if the call always followed, whatever is known of it.
    Pin,
    /// It never acts.
    Deny,
    /// It is taken as given.
    State,
}

/// What a user says of one chain that begins with the function.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct ChainRule {
    /// The function whose calls follow; it need not be registered yet.
    pub to: FunctionName,
    /// What holds.
    pub rule: ChainRuleKind,
    /// With `state`: how likely a call follows, above 0.0 to 1.0 inclusive.
    #[serde(default = "certain")]
    pub probability: f64,
    /// With `state`: after how long, in milliseconds.
    #[serde(default = "soon")]
    pub lag_ms: u64,
}

impl ChainRule {
    /// The longest lag that can be stated, in milliseconds (inclusive).
    pub const LAG_MAX_MS: u64 = 3_600_000;
}

const fn certain() -> f64 {
    1.0
}

const fn soon() -> u64 {
    1_000
}

/// One version of a function, as it stands on the `functions` topic under the function's name as key.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct FunctionDefinition {
    /// The function's name; equal to the message key.
    pub name: FunctionName,
    /// The user's name for this version; any text of 1 to 128 bytes.
    pub version: String,
    /// Its code.
    pub artifact: Artifact,
    /// What world the guest lives in.
    pub kind: FunctionKind,
    /// A disabled function rejects its calls.
    #[serde(default = "enabled")]
    pub enabled: bool,
    /// What one call may use.
    #[serde(default)]
    pub limits: Limits,
    /// Environment variables that the guest sees.
    #[serde(default)]
    pub environment: BTreeMap<String, String>,
    /// How many instances to hold ready.
    #[serde(default)]
    pub warm: WarmPolicy,
    /// When a pre-trigger acts.
    #[serde(default)]
    pub pre_trigger: Criteria,
    /// In what order calls run.
    #[serde(default)]
    pub ordering: Ordering,
    /// Whether a failed call is tried again.
    #[serde(default)]
    pub retry: Retry,
    /// Windows of time in which instances are kept whatever the forecast says.
    #[serde(default)]
    pub schedules: Vec<Schedule>,
    /// What the user says of chains that begin with this function.
    #[serde(default)]
    pub chains: Vec<ChainRule>,
    /// Whose quotas its calls and warm instances count against, whatever a call says. Functions without one count together, as
    /// one tenant's.
    #[serde(default)]
    pub tenant: Option<String>,
}

const fn enabled() -> bool {
    true
}

impl FunctionDefinition {
    /// Most schedules of one function (inclusive).
    pub const SCHEDULES_MAX: usize = 16;
    /// Most chain rules of one function (inclusive).
    pub const CHAINS_MAX: usize = 16;
    /// Longest name of a tenant, in bytes (inclusive).
    pub const TENANT_BYTES_MAX: usize = 256;

    /// A definition with the defaults for everything else.
    pub fn new(name: FunctionName, version: &str, artifact: Artifact, kind: FunctionKind) -> Self {
        Self {
            name,
            version: version.to_owned(),
            artifact,
            kind,
            enabled: true,
            limits: Limits::default(),
            environment: BTreeMap::new(),
            warm: WarmPolicy::default(),
            pre_trigger: Criteria::default(),
            ordering: Ordering::default(),
            retry: Retry::default(),
            schedules: Vec::new(),
            chains: Vec::new(),
            tenant: None,
        }
    }

    /// Every fault that the definition has in itself, each with its field, and of its schedules the first; empty where it has
    /// none. How much it may ask for is the operator's to say: see the registry's `Judge`.
    pub fn faults(&self) -> Vec<String> {
        let mut faults = Vec::new();
        let mut check = |holds: bool, fault: &str| {
            if !holds {
                faults.push(fault.to_owned());
            }
        };
        check((1..=128).contains(&self.version.len()), "version must have 1 to 128 bytes");
        check(self.limits.memory_bytes >= 65_536, "limits.memory_bytes must be at least 65536 (one page)");
        check(self.limits.timeout_ms >= 1, "limits.timeout_ms must be at least 1");
        check(self.limits.concurrency >= 1, "limits.concurrency must be at least 1");
        check(self.warm.floor <= self.warm.ceiling, "warm.floor must not be above warm.ceiling");
        check(self.warm.max_invocations >= 1, "warm.max_invocations must be at least 1");
        check(self.pre_trigger.notices_min >= 1, "pre_trigger.notices_min must be at least 1");
        check(
            (0.0..=1.0).contains(&self.pre_trigger.confidence_min),
            "pre_trigger.confidence_min must be from 0.0 to 1.0",
        );
        check(self.retry.attempts_max >= 1, "retry.attempts_max must be at least 1");
        check(
            self.retry.backoff_max_ms >= self.retry.backoff_ms,
            "retry.backoff_max_ms must not be below retry.backoff_ms",
        );
        let tenant_bytes = self.tenant.as_ref().map_or(1, String::len);
        check((1..=Self::TENANT_BYTES_MAX).contains(&tenant_bytes), "tenant must have 1 to 256 bytes");
        check(self.schedules.len() <= Self::SCHEDULES_MAX, "schedules must not be more than 16");
        check(self.chains.len() <= Self::CHAINS_MAX, "chains must not be more than 16");
        // No further than is allowed: each is held against all before it.
        for (at, chain) in self.chains.iter().enumerate().take(Self::CHAINS_MAX) {
            let at_most_one = self.chains[..at].iter().all(|other| other.to != chain.to);
            check(at_most_one && chain.to != self.name, "chains: each rule must be about another function");
            check(
                chain.probability > 0.0 && chain.probability <= 1.0,
                "chains: probability must be above 0.0 and at most 1.0",
            );
            check(chain.lag_ms <= ChainRule::LAG_MAX_MS, "chains: lag_ms must be at most 3600000 (an hour)");
        }
        // The first of them alone, and equal ones once: a start judges every record that stands on the topic, the refused
        // ones too.
        let schedules = &self.schedules[..self.schedules.len().min(Self::SCHEDULES_MAX)];
        let mut distinct = schedules.iter().enumerate().filter(|(at, schedule)| !schedules[..*at].contains(*schedule));
        let fault = distinct.find_map(|(_, schedule)| schedule.windows().err());
        faults.extend(fault.map(|fault| format!("schedules: {fault}")));
        faults
    }

    /// Whether an instance of this function can serve a second call.
    pub fn reuses_instances(&self) -> bool {
        self.kind == FunctionKind::Component && self.warm.reuse == Reuse::Reuse && self.warm.max_invocations > 1
    }
}

#[cfg(test)]
mod tests {
    use super::super::Sha256;
    use super::*;

    #[test]
    fn no_more_chain_rules_are_looked_at_than_are_allowed() {
        let name = |name: &str| FunctionName::new(name).unwrap();
        let artifact = Artifact { uri: "store:".to_owned(), sha256: Sha256([0; 32]) };
        let mut definition = FunctionDefinition::new(name("f"), "1", artifact, FunctionKind::Component);
        let bad = ChainRule { to: name("f"), rule: ChainRuleKind::Pin, probability: 1.0, lag_ms: 0 };
        definition.chains = vec![bad; 100_000];
        let faults = definition.faults();
        assert_eq!(faults.len(), 1 + FunctionDefinition::CHAINS_MAX, "{faults:?}");
        assert_eq!(faults[0], "chains must not be more than 16");
    }
}
