//! Whose functions there are, and what becomes of their calls where a share is used up.
//!
//! Must not: count calls; `progress` keeps the shares.

use std::collections::HashMap;
use std::sync::Arc;

use crate::types::{FunctionDefinition, FunctionName, Overflow};

/// What a definition says of its calls' account.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Owned {
    /// Whose function it is; None where nobody is named.
    pub tenant: Option<Arc<str>>,
    /// What becomes of a call for which there is no room.
    pub overflow: Overflow,
}

/// Every function that is defined.
#[derive(Debug, Default)]
pub struct Owners {
    functions: HashMap<FunctionName, Owned>,
    /// How many functions each tenant has; None stands for all that have no tenant.
    tenants: HashMap<Option<Arc<str>>, usize>,
    /// How many of them are not as [`Owned::default`].
    special: usize,
}

impl Owners {
    /// A function is defined, or defined anew.
    pub fn define(&mut self, definition: &FunctionDefinition) {
        self.remove(&definition.name);
        let owned = Owned { tenant: definition.tenant.as_deref().map(Arc::from), overflow: definition.overflow };
        *self.tenants.entry(owned.tenant.clone()).or_default() += 1;
        self.special += usize::from(owned != Owned::default());
        self.functions.insert(definition.name.clone(), owned);
    }

    /// A function is no more.
    pub fn remove(&mut self, function: &FunctionName) {
        let Some(owned) = self.functions.remove(function) else { return };
        self.special -= usize::from(owned != Owned::default());
        if let Some(functions) = self.tenants.get_mut(&owned.tenant) {
            *functions -= 1;
            if *functions == 0 {
                self.tenants.remove(&owned.tenant);
            }
        }
    }

    /// What is said of a function; the ordinary for one that is not defined.
    pub fn of(&self, function: &FunctionName) -> Owned {
        self.functions.get(function).cloned().unwrap_or_default()
    }

    /// Whether every function is an ordinary one.
    pub fn are_ordinary(&self) -> bool {
        self.special == 0
    }

    /// Whether there is more than one function.
    pub fn are_several(&self) -> bool {
        self.functions.len() > 1
    }

    /// Whether there is more than one tenant; all functions without one count as one.
    pub fn have_several_tenants(&self) -> bool {
        self.tenants.len() > 1
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::types::{Artifact, FunctionKind, Sha256};

    fn definition(name: &str, tenant: Option<&str>, overflow: Overflow) -> FunctionDefinition {
        let artifact = Artifact { uri: "store:".to_owned(), sha256: Sha256([0; 32]) };
        let name = FunctionName::new(name).unwrap();
        let mut definition = FunctionDefinition::new(name, "1", artifact, FunctionKind::Component);
        (definition.tenant, definition.overflow) = (tenant.map(str::to_owned), overflow);
        definition
    }

    #[test]
    fn functions_without_a_tenant_are_one_tenant_and_what_is_defined_anew_counts_once() {
        let mut owners = Owners::default();
        let [a, b] = [definition("a", None, Overflow::Pause), definition("b", None, Overflow::Pause)];
        owners.define(&a);
        owners.define(&a);
        assert!(!owners.are_several() && owners.are_ordinary());
        owners.define(&b);
        assert!(owners.are_several() && !owners.have_several_tenants());
        owners.define(&definition("b", Some("acme"), Overflow::Pause));
        assert!(owners.have_several_tenants() && !owners.are_ordinary());
        assert_eq!(owners.of(&b.name), Owned { tenant: Some("acme".into()), overflow: Overflow::Pause });
        owners.define(&definition("b", None, Overflow::Reject));
        assert!(!owners.have_several_tenants() && !owners.are_ordinary());
        owners.remove(&b.name);
        owners.remove(&b.name);
        assert!(owners.are_ordinary() && !owners.are_several());
        assert_eq!(owners.of(&b.name), Owned::default());
    }
}
