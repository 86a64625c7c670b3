//! How many calls of one tenant run at once, and how many may wait for that.
//!
//! Must not: know why a call runs or ends.

use std::collections::{BTreeMap, HashMap, VecDeque};
use std::sync::Arc;

use super::Held;

/// What one tenant may have on this node. 0 is no limit.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Quota {
    /// Calls that are out at once (inclusive): running, or waiting for an instance.
    pub calls_max: u32,
    /// Calls that wait (inclusive): to go out, behind others of their line, or for their next attempt; one more is rejected.
    pub waiting_max: u32,
}

impl Quota {
    fn is_set(&self) -> bool {
        self.calls_max > 0 || self.waiting_max > 0
    }
}

/// The quotas of all tenants.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Quotas {
    each: Quota,
    named: HashMap<String, Quota>,
}

impl Quotas {
    /// `each` for every tenant that is not `named`.
    pub fn new<N: Into<String>>(each: Quota, named: impl IntoIterator<Item = (N, Quota)>) -> Self {
        Self { each, named: named.into_iter().map(|(name, quota)| (name.into(), quota)).collect() }
    }

    /// Whether any tenant has a limit.
    pub fn are_set(&self) -> bool {
        self.each.is_set() || self.named.values().any(Quota::is_set)
    }

    fn of(&self, tenant: &str) -> Quota {
        self.named.get(tenant).copied().unwrap_or(self.each)
    }
}

/// Calls of one tenant.
#[derive(Debug)]
struct Tenant<C> {
    out: u32,
    /// Calls that wait anywhere in the backlog, those at this gate included.
    held: u32,
    waiting: VecDeque<C>,
}

impl<C> Default for Tenant<C> {
    fn default() -> Self {
        Self { out: 0, held: 0, waiting: VecDeque::new() }
    }
}

impl<C> Tenant<C> {
    /// The call that has waited longest, where one more may be out.
    fn let_out(&mut self, calls_max: u32) -> Option<C> {
        if calls_max > 0 && self.out >= calls_max {
            return None;
        }
        let call = self.waiting.pop_front()?;
        self.held = self.held.saturating_sub(1);
        self.out += 1;
        Some(call)
    }
}

/// Where calls of tenants wait for their turn. A tenant is here while a call of it is out or waits, here or elsewhere.
#[derive(Debug)]
pub(super) struct Gate<C> {
    quotas: Arc<Quotas>,
    tenants: BTreeMap<Arc<str>, Tenant<C>>,
}

impl<C: Held> Gate<C> {
    pub(super) fn new(quotas: Arc<Quotas>) -> Self {
        Self { quotas, tenants: BTreeMap::new() }
    }

    /// Other quotas hold from now on. Gives the waiting calls for which there is room now; where a tenant has more out than it may
    /// have now, those end as they would.
    pub(super) fn set_quotas(&mut self, quotas: Arc<Quotas>) -> Vec<C> {
        self.quotas = quotas;
        let mut out = Vec::new();
        for (name, tenant) in &mut self.tenants {
            let calls_max = self.quotas.of(name).calls_max;
            while let Some(call) = tenant.let_out(calls_max) {
                out.push(call);
            }
        }
        out
    }

    /// Whether this call's tenant has as many waiting as it may.
    pub(super) fn is_full(&self, call: &C) -> bool {
        let Some(tenant) = &call.terms().tenant else { return false };
        let waiting_max = self.quotas.of(tenant).waiting_max;
        waiting_max > 0 && self.tenants.get(tenant).is_some_and(|tenant| tenant.held >= waiting_max)
    }

    /// A call begins to wait, here or elsewhere in the backlog.
    pub(super) fn hold(&mut self, call: &C) {
        if let Some(name) = &call.terms().tenant {
            self.tenants.entry(Arc::clone(name)).or_default().held += 1;
        }
    }

    /// A call that waited is here no more, and did not go out.
    pub(super) fn dropped(&mut self, call: &C) {
        self.change(call, |tenant| tenant.held = tenant.held.saturating_sub(1));
    }

    /// A call that waits has nothing before it any more. It is given back where it goes out.
    pub(super) fn enter(&mut self, call: C) -> Option<C> {
        let Some(name) = &call.terms().tenant else { return Some(call) };
        let calls_max = self.quotas.of(name).calls_max;
        let tenant = self.tenants.entry(Arc::clone(name)).or_default();
        if calls_max > 0 && tenant.out >= calls_max {
            tenant.waiting.push_back(call);
            return None;
        }
        tenant.held = tenant.held.saturating_sub(1);
        tenant.out += 1;
        Some(call)
    }

    /// A call that was out is not any more. Gives the next one of its tenant, where that may go out.
    pub(super) fn leave(&mut self, call: &C) -> Option<C> {
        let calls_max = self.quotas.of(call.terms().tenant.as_ref()?).calls_max;
        self.change(call, |tenant| {
            tenant.out = tenant.out.saturating_sub(1);
            tenant.let_out(calls_max)
        })?
    }

    /// Changes the account of a call's tenant, and forgets a tenant that has nothing left.
    fn change<R>(&mut self, call: &C, change: impl FnOnce(&mut Tenant<C>) -> R) -> Option<R> {
        let name = call.terms().tenant.as_ref()?;
        let tenant = self.tenants.get_mut(name)?;
        let changed = change(tenant);
        if tenant.out == 0 && tenant.held == 0 {
            self.tenants.remove(name);
        }
        Some(changed)
    }

    /// Takes out the waiting calls for which `gone` holds, by tenant.
    pub(super) fn forget(&mut self, mut gone: impl FnMut(&C) -> bool) -> Vec<C> {
        let mut taken = Vec::new();
        for tenant in self.tenants.values_mut() {
            if tenant.waiting.iter().any(&mut gone) {
                let (out, stay) = std::mem::take(&mut tenant.waiting).into_iter().partition(&mut gone);
                tenant.waiting = stay;
                taken.extend::<VecDeque<C>>(out);
            }
        }
        taken
    }

    /// Calls that wait.
    pub(super) fn waiting(&self) -> usize {
        self.tenants.values().map(|tenant| tenant.waiting.len()).sum()
    }
}
