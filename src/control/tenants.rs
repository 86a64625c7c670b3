//! Warm memory by tenant: what the functions of each want, and who wants more than it may have.
//!
//! Must not: share the budget; `target` does.

use std::collections::{BTreeMap, HashMap};

use crate::target::{Wish, fit};

/// Kept up to date with every change, so that it costs nothing where no tenant is over its budget.
#[derive(Debug)]
pub(super) struct Tenants {
    /// 0: no limit, and nothing is counted.
    budget_bytes: u64,
    /// Only for look-ups: its order is random and reaches no answer.
    wanted_bytes: HashMap<String, u128>,
    /// How many want more than their budget.
    over: usize,
}

impl Tenants {
    pub(super) fn new(budget_bytes: u64) -> Self {
        Self { budget_bytes, wanted_bytes: HashMap::new(), over: 0 }
    }

    /// What one function of a tenant wants has changed.
    pub(super) fn changed(&mut self, tenant: Option<&str>, before: u128, after: u128) {
        let Some(tenant) = tenant.filter(|_| self.budget_bytes > 0 && before != after) else { return };
        let budget = u128::from(self.budget_bytes);
        let bytes = match self.wanted_bytes.get_mut(tenant) {
            Some(bytes) => bytes,
            None => self.wanted_bytes.entry(tenant.to_owned()).or_default(),
        };
        self.over -= usize::from(*bytes > budget);
        *bytes = *bytes - before + after;
        self.over += usize::from(*bytes > budget);
        if *bytes == 0 {
            self.wanted_bytes.remove(tenant);
        }
    }

    /// Whether any wants more than its budget.
    pub(super) fn any_over(&self) -> bool {
        self.over > 0
    }

    /// Holds the wishes of each tenant that is over its budget to it. `tenant_of` says whose each wish is.
    pub(super) fn hold_back(&self, wishes: &mut [Wish<'_>], tenant_of: &[Option<&str>]) {
        if !self.any_over() {
            return;
        }
        let budget = u128::from(self.budget_bytes);
        let mut over: BTreeMap<&str, Vec<usize>> = BTreeMap::new();
        for (index, tenant) in tenant_of.iter().enumerate() {
            let Some(tenant) = tenant else { continue };
            if self.wanted_bytes.get(*tenant).is_some_and(|bytes| *bytes > budget) {
                over.entry(tenant).or_default().push(index);
            }
        }
        for indices in over.into_values() {
            let theirs: Vec<Wish<'_>> = indices.iter().map(|&index| wishes[index]).collect();
            for (index, most) in indices.into_iter().zip(fit(self.budget_bytes, &theirs)) {
                wishes[index].most = most;
            }
        }
    }
}
