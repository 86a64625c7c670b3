//! `[tenants]`: what one tenant may have at once.
//!
//! Must not: know who is who; a tenant is a name on a call or a definition.

use serde::{Deserialize, Serialize};

use crate::types::{Artifact, FunctionName};

/// The keys of `[tenants]`.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case", deny_unknown_fields)]
pub struct Tenants {
    /// Whether a definition that names no tenant is refused.
    pub required: bool,
    /// Calls of one tenant that run at once, or wait for an instance (inclusive); 0: no limit. Calls of functions without a
    /// tenant count as one tenant's.
    pub calls_max: u32,
    /// Calls of one tenant that wait for their turn (inclusive), one more is rejected; 0: no limit.
    pub waiting_max: u32,
    /// Tenants with quotas, or topics, of their own.
    pub named: Vec<NamedTenant>,
}

/// What one tenant has of its own.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case", deny_unknown_fields)]
pub struct NamedTenant {
    /// Its name.
    pub tenant: String,
    /// As in [`Tenants`].
    #[serde(default)]
    pub calls_max: u32,
    /// As in [`Tenants`].
    #[serde(default)]
    pub waiting_max: u32,
    /// What the names of its functions begin with, and nobody else's; empty where it has no topics of its own.
    #[serde(default)]
    pub prefix: String,
    /// The topic in which its functions are defined, and in which no others are.
    #[serde(default)]
    pub functions_topic: String,
    /// The topic in which calls of its functions are announced from outside, and of no others.
    #[serde(default)]
    pub pre_triggers_topic: String,
    /// The topic that its artifacts are in, and no others; empty: they are in its folder of `artifacts.directory`.
    #[serde(default)]
    pub artifacts_topic: String,
}

impl Tenants {
    /// The tenants that have topics of their own.
    pub fn with_topics(&self) -> impl Iterator<Item = &NamedTenant> {
        self.named.iter().filter(|tenant| !tenant.prefix.is_empty())
    }

    /// The tenant with topics of its own whose the function is by its name.
    pub fn owner_of(&self, function: &FunctionName) -> Option<&NamedTenant> {
        self.with_topics().find(|tenant| function.as_str().starts_with(&tenant.prefix))
    }

    /// Topics of artifacts that are a tenant's own.
    pub fn artifact_topics(&self) -> impl Iterator<Item = &str> {
        self.with_topics().map(|tenant| tenant.artifacts_topic.as_str()).filter(|topic| !topic.is_empty())
    }

    pub(super) fn faults(&self) -> Vec<String> {
        let mut faults = Vec::new();
        for (index, named) in self.named.iter().enumerate() {
            let NamedTenant { tenant, prefix, functions_topic, pre_triggers_topic, .. } = named;
            let before = &self.named[..index];
            if tenant.is_empty() || before.iter().any(|other| other.tenant == *tenant) {
                faults.push(format!("tenants.named: each tenant has a name, and one entry: {tenant:?}"));
            }
            let given = [prefix, functions_topic, pre_triggers_topic].map(|text| !text.is_empty());
            if given != [given[0]; 3] {
                faults.push(format!(
                    "tenants.named: {tenant:?} needs all of prefix, functions-topic and pre-triggers-topic, or none"
                ));
            }
            if !given[0] && !named.artifacts_topic.is_empty() {
                faults.push(format!("tenants.named: {tenant:?} has an artifacts-topic, and so needs a prefix"));
            }
            // It names the folder of its artifacts too.
            if given[0] && !Artifact::is_folder(tenant) {
                faults.push(format!(
                    "tenants.named: a tenant with topics of its own has a name of 1 to 64 of a-z A-Z 0-9 . _ - that starts \
                     with a letter or digit: {tenant:?}"
                ));
            }
            let overlaps = |other: &NamedTenant| {
                let (one, other) = (prefix.as_str(), other.prefix.as_str());
                !one.is_empty() && !other.is_empty() && (one.starts_with(other) || other.starts_with(one))
            };
            if let Some(other) = before.iter().find(|other| overlaps(other)) {
                let (one, other) = (prefix, &other.prefix);
                faults.push(format!("tenants.named: no prefix may begin with another one: {one:?}, {other:?}"));
            }
        }
        faults
    }

    /// Every topic that is a tenant's own, with its key.
    pub fn topics(&self) -> impl Iterator<Item = (&str, &str)> {
        let of_functions = self.with_topics().map(|tenant| ("tenants.named functions-topic", &*tenant.functions_topic));
        let of_notices =
            self.with_topics().map(|tenant| ("tenants.named pre-triggers-topic", &*tenant.pre_triggers_topic));
        of_functions
            .chain(of_notices)
            .chain(self.artifact_topics().map(|topic| ("tenants.named artifacts-topic", topic)))
    }
}
