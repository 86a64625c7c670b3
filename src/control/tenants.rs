//! What the functions of each tenant want, and who wants more than it may have.
//!
//! Must not: share the budget; `target` does.

use std::collections::HashMap;

use crate::config::TargetConfig;
use crate::target::Amount;

/// What functions want together.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(super) struct Wanted {
    pub(super) bytes: u128,
    pub(super) slots: u64,
}

impl Wanted {
    /// Takes the change of one function's part over.
    pub(super) fn change(&mut self, before: Self, after: Self) {
        self.bytes = self.bytes - before.bytes + after.bytes;
        self.slots = self.slots - before.slots + after.slots;
    }

    pub(super) fn is_above(&self, amount: Amount) -> bool {
        self.bytes > u128::from(amount.bytes) || self.slots > u64::from(amount.slots)
    }
}

/// Kept up to date with every change, so that it costs nothing where no tenant is over its budget.
#[derive(Debug)]
pub(super) struct Tenants {
    budget: Amount,
    /// Whether there is a limit. Without one nothing is counted.
    is_limited: bool,
    /// Those of functions without a tenant under an empty name, which no tenant has. Only for look-ups: its order is random and
    /// reaches no answer.
    wanted: HashMap<Box<str>, Wanted>,
    /// How many want more than their budget.
    over: usize,
}

impl Tenants {
    pub(super) fn new(config: &TargetConfig) -> Self {
        let (bytes, slots) = (config.tenant_memory_budget_bytes, config.tenant_instances_max);
        let budget = Amount {
            bytes: if bytes == 0 { u64::MAX } else { bytes },
            slots: if slots == 0 { u32::MAX } else { slots },
        };
        Self { budget, is_limited: bytes > 0 || slots > 0, wanted: HashMap::new(), over: 0 }
    }

    /// What one tenant may have; what there is of either where it has no limit.
    pub(super) fn budget(&self, all: Amount) -> Amount {
        Amount { bytes: self.budget.bytes.min(all.bytes), slots: self.budget.slots.min(all.slots) }
    }

    /// What one function of a tenant wants has changed.
    pub(super) fn changed(&mut self, tenant: Option<&str>, before: Wanted, after: Wanted) {
        if !self.is_limited || before == after {
            return;
        }
        let tenant = tenant.unwrap_or_default();
        let wanted = match self.wanted.get_mut(tenant) {
            Some(wanted) => wanted,
            None => self.wanted.entry(tenant.into()).or_default(),
        };
        self.over -= usize::from(wanted.is_above(self.budget));
        wanted.change(before, after);
        self.over += usize::from(wanted.is_above(self.budget));
        if *wanted == Wanted::default() {
            self.wanted.remove(tenant);
        }
    }

    /// Whether any wants more than its budget.
    pub(super) fn any_over(&self) -> bool {
        self.over > 0
    }
}
