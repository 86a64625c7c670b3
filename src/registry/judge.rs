//! Whether a definition may stand: what it is in itself, and what the operator allows.
//!
//! The one place of that rule: `function deploy` asks it before a definition is published, and each node when the record is read,
//! so that both refuse the same with the same words. Must not: read a topic, or look at an artifact.

use std::time::Duration;

use crate::config::{Config, LimitsConfig, NamedTenant, Tenants};
use crate::types::{Artifact, Chunks, FunctionDefinition, FunctionName};

/// What the operator allows of definitions.
#[derive(Clone, Debug, Default)]
pub struct Judge {
    /// None: whatever a definition asks for is allowed.
    limits: Option<LimitsConfig>,
    tenants: Tenants,
    /// The topic of artifacts that all share.
    artifacts_topic: String,
}

impl Judge {
    /// As the configuration says.
    pub fn new(config: &Config) -> Self {
        let artifacts_topic = config.topics.artifacts.clone();
        Self { limits: Some(config.limits.clone()), tenants: config.tenants.clone(), artifacts_topic }
    }

    /// Knows where each tenant's functions are defined, and refuses only what is no sound definition in itself: for reading
    /// what others run.
    pub fn lenient(config: &Config) -> Self {
        let tenants = Tenants { required: false, ..config.tenants.clone() };
        Self { limits: None, tenants, artifacts_topic: config.topics.artifacts.clone() }
    }

    /// Most functions of one tenant, and of no tenant (inclusive).
    pub(super) fn functions_tenant_max(&self) -> u32 {
        self.limits.as_ref().map_or(u32::MAX, |limits| limits.functions_tenant_max)
    }

    /// The topics of tenants' own definitions.
    pub(super) fn topics(&self) -> impl Iterator<Item = String> {
        self.tenants.with_topics().map(|tenant| tenant.functions_topic.clone())
    }

    /// In which topic the function is defined, if it is: 0 is the shared one, and then as in [`topics`](Self::topics).
    pub(super) fn place_of(&self, function: &FunctionName) -> usize {
        let owner = self.tenants.with_topics().position(|tenant| function.as_str().starts_with(&tenant.prefix));
        owner.map_or(0, |place| place + 1)
    }

    /// Whose a function is that is defined, or removed, in this topic; None where its definition says.
    ///
    /// # Errors
    /// Where this topic may say nothing of a function with that name.
    pub(super) fn owner(&self, topic: &str, function: &FunctionName) -> Result<Option<&NamedTenant>, String> {
        let owner = self.tenants.owner_of(function);
        if let Some(here) = self.tenants.with_topics().find(|tenant| tenant.functions_topic == topic)
            && owner != Some(here)
        {
            let prefix = &here.prefix;
            return Err(format!("functions that are defined in topic {topic} have names that begin with {prefix}"));
        }
        match owner {
            Some(owner) if owner.functions_topic != topic => {
                let NamedTenant { prefix, functions_topic, .. } = owner;
                Err(format!("functions whose names begin with {prefix} are defined in topic {functions_topic}"))
            }
            owner => Ok(owner),
        }
    }

    /// Everything for which the definition is refused, each with its field, and with the operator's key where that is the
    /// reason; empty where it may stand.
    pub fn faults(&self, definition: &FunctionDefinition) -> Vec<String> {
        let mut faults = definition.faults();
        let tenant = definition.tenant.as_deref();
        match self.tenants.owner_of(&definition.name) {
            Some(NamedTenant { tenant: owner, prefix, .. }) if tenant != Some(owner) => {
                faults
                    .push(format!("tenant must be {owner}, as every name that begins with {prefix} is that tenant's"));
            }
            None if self.tenants.required && tenant.is_none() => {
                faults.push("tenant must be given (the operator's tenants.required)".to_owned());
            }
            None if self.tenants.with_topics().any(|owner| tenant == Some(&owner.tenant)) => {
                faults.push("tenant has a topic of its own, and names with a prefix of its own".to_owned());
            }
            Some(_) | None => {}
        }
        faults.extend(self.foreign_artifact(definition));
        if let Some(limits) = &self.limits {
            faults.extend(over(limits, definition));
        }
        faults
    }

    /// What is wrong with whose artifact it is: nobody runs another tenant's by its digest. A function of a tenant with topics of its
    /// own names that tenant's topic of artifacts, or its folder; every other function names the topic that all share, or no folder.
    fn foreign_artifact(&self, definition: &FunctionDefinition) -> Option<String> {
        let artifact = &definition.artifact;
        if let (Some(_), Err(fault)) = (artifact.topic(), artifact.uri.parse::<Chunks>()) {
            return Some(format!("artifact.uri: {fault}"));
        }
        match (self.tenants.owner_of(&definition.name), artifact.folder(), artifact.topic()) {
            (None, None, None) => None,
            (None, None, Some(topic)) if topic == self.artifacts_topic => None,
            (None, None, Some(_)) => {
                Some(format!("artifact.uri must name the topic {} (topics.artifacts)", self.artifacts_topic))
            }
            (None, Some(_), _) => {
                Some("artifact.uri names the folder of a tenant, and the function is not that tenant's".to_owned())
            }
            (Some(owner), Some(folder), _) if owner.tenant == folder => None,
            (Some(owner), None, Some(topic)) if owner.artifacts_topic == topic => None,
            (Some(NamedTenant { tenant, artifacts_topic, .. }), _, _) => {
                let store = Artifact::STORE;
                let or = match artifacts_topic.as_str() {
                    "" => String::new(),
                    topic => format!(", or name its topic {topic}"),
                };
                Some(format!("artifact.uri must be {store}{tenant}, the folder of tenant {tenant}{or}"))
            }
        }
    }
}

/// What a definition asks for beyond the ceilings.
fn over(limits: &LimitsConfig, definition: &FunctionDefinition) -> Vec<String> {
    let millis = |duration: Duration| u64::try_from(duration.as_millis()).unwrap_or(u64::MAX);
    let FunctionDefinition { limits: asked, warm, retry, environment, .. } = definition;
    let environment_bytes = environment.iter().map(|(name, value)| (name.len() + value.len()) as u64).sum();
    let instances = definition.schedules.iter().map(|schedule| schedule.instances).max().unwrap_or(0);
    let sources = &definition.pre_trigger.sources;
    let source_bytes = sources.iter().map(String::len).max().unwrap_or(0);
    let rows: [(&str, u64, u64, &str); 12] = [
        ("limits.timeout_ms", asked.timeout_ms, millis(limits.timeout_max), "timeout-max"),
        ("limits.memory_bytes", asked.memory_bytes, limits.memory_bytes_max, "memory-bytes-max"),
        ("limits.concurrency", asked.concurrency.into(), limits.concurrency_max.into(), "concurrency-max"),
        ("warm.floor", warm.floor.into(), limits.floor_max.into(), "floor-max"),
        ("schedules.instances", instances.into(), limits.floor_max.into(), "floor-max"),
        ("warm.ceiling", warm.ceiling.into(), limits.ceiling_max.into(), "ceiling-max"),
        ("retry.attempts_max", retry.attempts_max.into(), limits.attempts_max.into(), "attempts-max"),
        ("the number of environment", environment.len() as u64, limits.environment_max.into(), "environment-max"),
        ("the bytes of environment", environment_bytes, limits.environment_bytes_max, "environment-bytes-max"),
        ("the number of schedules", definition.schedules.len() as u64, limits.schedules_max.into(), "schedules-max"),
        ("the number of pre_trigger.sources", sources.len() as u64, limits.sources_max.into(), "sources-max"),
        (
            "the bytes of artifact.uri",
            definition.artifact.uri.len() as u64,
            limits.uri_bytes_max.into(),
            "uri-bytes-max",
        ),
    ];
    let above = rows.into_iter().filter(|(_, asked, ceiling, _)| asked > ceiling);
    let mut faults: Vec<_> = above
        .map(|(field, asked, ceiling, key)| {
            format!("{field} is {asked}, above the operator's limits.{key} of {ceiling}")
        })
        .collect();
    if source_bytes > SOURCE_BYTES_MAX {
        faults.push(format!("pre_trigger.sources: a source has at most {SOURCE_BYTES_MAX} bytes"));
    }
    // What is never tried again has no waits.
    if retry.attempts_max > 1 {
        let (age, least) = (millis(limits.age_max), millis(limits.backoff_min));
        if retry.age_max_ms > age {
            let asked = retry.age_max_ms;
            faults.push(format!("retry.age_max_ms is {asked}, above the operator's limits.age-max of {age}"));
        }
        if retry.backoff_ms < least {
            let asked = retry.backoff_ms;
            faults.push(format!("retry.backoff_ms is {asked}, below the operator's limits.backoff-min of {least}"));
        }
    }
    faults
}

/// The longest source, in bytes (inclusive): none that is longer comes.
const SOURCE_BYTES_MAX: usize = 256;

#[cfg(test)]
mod tests {
    use super::*;
    use crate::types::{FunctionKind, Retry, Schedule, Sha256};

    fn definition() -> FunctionDefinition {
        let artifact = Artifact { uri: "store:".to_owned(), sha256: Sha256([0; 32]) };
        FunctionDefinition::new("f".parse().unwrap(), "1", artifact, FunctionKind::Component)
    }

    fn judge() -> Judge {
        Judge { limits: Some(LimitsConfig::default()), ..Judge::default() }
    }

    type Change = Box<dyn Fn(&mut FunctionDefinition, u64)>;

    #[test]
    fn what_is_at_a_ceiling_stands_and_what_is_above_is_refused_with_its_key() {
        fn row(
            key: &'static str,
            ceiling: u64,
            change: impl Fn(&mut FunctionDefinition, u64) + 'static,
        ) -> (&'static str, u64, Change) {
            (key, ceiling, Box::new(change))
        }
        let rows = [
            row("timeout-max", 900_000, |d, n| d.limits.timeout_ms = n),
            row("memory-bytes-max", 256 << 20, |d, n| d.limits.memory_bytes = n),
            row("concurrency-max", 1_000, |d, n| d.limits.concurrency = n as u32),
            row("floor-max", 100, |d, n| (d.warm.floor, d.warm.ceiling) = (n as u32, 1_000)),
            row("ceiling-max", 1_000, |d, n| d.warm.ceiling = n as u32),
            row("attempts-max", 100, |d, n| d.retry.attempts_max = n as u32),
            row("age-max", 86_400_000, |d, n| d.retry = Retry { attempts_max: 2, age_max_ms: n, ..Retry::default() }),
            row("environment-max", 100, |d, n| {
                d.environment = (0..n).map(|n| (n.to_string(), String::new())).collect()
            }),
            row("environment-bytes-max", 32 << 10, |d, n| {
                d.environment = [("k".to_owned(), "v".repeat(n as usize - 1))].into();
            }),
            row("sources-max", 64, |d, n| d.pre_trigger.sources = (0..n).map(|n| n.to_string()).collect()),
            row("uri-bytes-max", 2_048, |d, n| d.artifact.uri = "u".repeat(n as usize)),
            row("floor-max", 100, |d, n| {
                let (cron, timezone) = ("0 9 * * *".to_owned(), "UTC".to_owned());
                d.schedules = vec![Schedule { cron, timezone, duration_ms: 1, instances: n as u32 }];
            }),
        ];
        for (key, ceiling, change) in rows {
            let mut asked = definition();
            change(&mut asked, ceiling);
            assert_eq!(judge().faults(&asked), [""; 0], "{key}");
            change(&mut asked, ceiling + 1);
            let faults = judge().faults(&asked);
            assert!(faults.iter().any(|fault| fault.contains(&format!("limits.{key}"))), "{key}: {faults:?}");
            assert_eq!(Judge::default().faults(&asked), [""; 0], "{key}");
        }
    }

    #[test]
    fn the_words_name_what_is_asked_and_the_ceiling() {
        let mut asked = definition();
        asked.limits.timeout_ms = u64::MAX >> 1;
        let said = "limits.timeout_ms is 9223372036854775807, above the operator's limits.timeout-max of 900000";
        assert_eq!(judge().faults(&asked), [said]);
    }

    #[test]
    fn waits_count_only_where_a_call_is_tried_again() {
        let mut asked = definition();
        asked.retry = Retry { backoff_ms: 0, age_max_ms: u64::MAX, ..Retry::default() };
        assert_eq!(judge().faults(&asked), [""; 0]);
        asked.retry.attempts_max = 2;
        assert_eq!(judge().faults(&asked).len(), 2);
    }

    #[test]
    fn a_tenant_is_asked_for_where_the_operator_does() {
        let required = Judge { tenants: Tenants { required: true, ..Tenants::default() }, ..Judge::default() };
        let mut asked = definition();
        assert_eq!(required.faults(&asked), ["tenant must be given (the operator's tenants.required)"]);
        asked.tenant = Some("acme".to_owned());
        assert_eq!(required.faults(&asked), [""; 0]);
    }

    #[test]
    fn a_topic_says_only_what_is_its_tenants() {
        let tenant = |name: &str| NamedTenant {
            tenant: name.to_owned(),
            prefix: format!("{name}/"),
            functions_topic: format!("{name}-functions"),
            pre_triggers_topic: format!("{name}-pre-triggers"),
            artifacts_topic: if name == "acme" { "acme-artifacts".to_owned() } else { String::new() },
            ..NamedTenant::default()
        };
        let named =
            vec![tenant("acme"), NamedTenant { tenant: "plain".to_owned(), ..NamedTenant::default() }, tenant("beta")];
        let tenants = Tenants { named, ..Tenants::default() };
        let judge = Judge { tenants, artifacts_topic: "artifacts".to_owned(), ..Judge::default() };
        let owner = |topic: &str, function: &str| {
            judge.owner(topic, &function.parse().unwrap()).map(|owner| owner.map(|owner| owner.tenant.as_str()))
        };
        assert_eq!(owner("functions", "pay"), Ok(None));
        assert_eq!(owner("acme-functions", "acme/pay"), Ok(Some("acme")));
        for (topic, function, named) in [
            ("functions", "acme/pay", "acme-functions"),
            ("beta-functions", "acme/pay", "beta/"),
            ("beta-functions", "pay", "beta/"),
        ] {
            assert!(owner(topic, function).unwrap_err().contains(named), "{topic} {function}");
        }
        let place = |function: &str| judge.place_of(&function.parse().unwrap());
        assert_eq!((place("pay"), place("acme/pay"), place("beta/pay")), (0, 1, 2));
        let faults = |function: &str, tenant: Option<&str>, uri: &str| {
            let (name, tenant) = (function.parse().unwrap(), tenant.map(str::to_owned));
            let artifact = Artifact { uri: uri.to_owned(), sha256: Sha256([0; 32]) };
            judge.faults(&FunctionDefinition { name, tenant, artifact, ..definition() }).len()
        };
        assert_eq!(faults("acme/pay", Some("acme"), "store:acme"), 0);
        assert_eq!((faults("acme/pay", Some("beta"), "store:acme"), faults("acme/pay", None, "store:acme")), (1, 1));
        assert_eq!((faults("pay", None, "store:"), faults("pay", Some("plain"), "file:///a")), (0, 0));
        assert_eq!(faults("pay", Some("acme"), "store:"), 1);
        // Nobody runs another one's artifact by its digest.
        for uri in ["store:", "store:beta", "file:///store/acme/0.wasm"] {
            assert_eq!(faults("acme/pay", Some("acme"), uri), 1, "{uri}");
        }
        assert_eq!((faults("pay", None, "store:acme"), faults("beta/x", Some("beta"), "store:acme")), (1, 1));
        // Each topic of artifacts is its tenant's, and the shared one is that of all others.
        let topics = ["kafka:artifacts/0/1-2", "kafka:acme-artifacts/0/1-2", "kafka:acme-functions/0/1-2"];
        assert_eq!(topics.map(|uri| faults("pay", None, uri)), [0, 1, 1]);
        assert_eq!(topics.map(|uri| faults("acme/pay", Some("acme"), uri)), [1, 0, 1]);
        assert_eq!(topics.map(|uri| faults("beta/pay", Some("beta"), uri)), [1, 1, 1]);
        for bad in ["kafka:artifacts", "kafka:artifacts/0/9-1", "kafka:artifacts/0/0-9999999"] {
            assert_eq!(faults("pay", None, bad), 1, "{bad}");
        }
    }
}
