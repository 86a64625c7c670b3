//! `[tenants]`: what one tenant may have at once.
//!
//! Must not: know who is who; a tenant is a name on a call or a definition.

use serde::{Deserialize, Serialize};

/// The keys of `[tenants]`.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case", deny_unknown_fields)]
pub struct Tenants {
    /// Calls of one tenant that run at once, or wait for an instance (inclusive); 0: no limit.
    pub calls_max: u32,
    /// Calls of one tenant that wait for their turn (inclusive), one more is rejected; 0: no limit.
    pub waiting_max: u32,
    /// Tenants with quotas of their own.
    pub named: Vec<NamedTenant>,
}

/// The quota of one tenant.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
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
}

impl Tenants {
    pub(super) fn faults(&self) -> Vec<String> {
        let mut faults = Vec::new();
        for (index, named) in self.named.iter().enumerate() {
            if named.tenant.is_empty() || self.named[..index].iter().any(|other| other.tenant == named.tenant) {
                faults.push(format!("tenants.named: each tenant has a name, and one entry: {:?}", named.tenant));
            }
        }
        faults
    }
}
