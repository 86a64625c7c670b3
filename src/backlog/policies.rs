//! What functions and tenants ask for beyond the ordinary, and what that means for one call.
//!
//! Must not: hold a call.

use std::collections::HashMap;
use std::sync::Arc;

use super::gate::Quotas;
use crate::types::{FunctionDefinition, FunctionName, Ordering, Retry};

/// What calls of one line have in common.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub enum LineKey {
    /// A message key, of one function.
    Key(FunctionName, Box<[u8]>),
    /// A partition, of one function.
    Partition(FunctionName, i32),
}

/// What a definition asks for a call, beyond the ordinary.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct Terms {
    /// The line in which it goes, where its function's calls have an order.
    pub line: Option<LineKey>,
    /// How it is tried again, where it is.
    pub retry: Option<Arc<Retry>>,
    /// Whose quota it counts against, where there are quotas; empty for functions without a tenant.
    pub tenant: Option<Arc<str>>,
}

impl Terms {
    /// Whether nothing is asked for.
    pub fn are_ordinary(&self) -> bool {
        self.line.is_none() && self.retry.is_none() && self.tenant.is_none()
    }
}

/// What one function asks for.
#[derive(Debug)]
struct Policy {
    ordering: Ordering,
    retry: Option<Arc<Retry>>,
}

/// The policies of every function that asks for anything, and the quotas.
#[derive(Debug, Default)]
pub struct Policies {
    functions: HashMap<FunctionName, Policy>,
    /// Whose each function is, where its definition says; of use only where there are quotas.
    tenants: HashMap<FunctionName, Arc<str>>,
    /// Whose all others are, as one tenant's: no tenant has this name, which is empty.
    nobody: Arc<str>,
    quotas: Arc<Quotas>,
}

impl Policies {
    /// No function is known yet.
    pub fn new(quotas: Arc<Quotas>) -> Self {
        Self { quotas, ..Self::default() }
    }

    /// Other quotas hold from now on, for calls that come from now on.
    pub fn set_quotas(&mut self, quotas: Arc<Quotas>) {
        self.quotas = quotas;
    }

    /// A function is defined, or defined anew.
    pub fn define(&mut self, definition: &FunctionDefinition) {
        let FunctionDefinition { name, ordering, retry, tenant, .. } = definition;
        let retry = (retry.attempts_max > 1).then(|| Arc::new(retry.clone()));
        match tenant.as_deref() {
            Some(tenant) => drop(self.tenants.insert(name.clone(), Arc::from(tenant))),
            None => drop(self.tenants.remove(name)),
        }
        if retry.is_some() || *ordering != Ordering::Unordered {
            self.functions.insert(name.clone(), Policy { ordering: *ordering, retry });
        } else {
            self.functions.remove(name);
        }
    }

    /// A function is no more.
    pub fn remove(&mut self, function: &FunctionName) {
        self.functions.remove(function);
        self.tenants.remove(function);
    }

    /// Whether every call is an ordinary one.
    pub fn are_ordinary(&self) -> bool {
        self.functions.is_empty() && !self.quotas.are_set()
    }

    /// Whether a failed call of this function may end as a dead letter.
    pub fn tries_again(&self, function: &FunctionName) -> bool {
        self.functions.get(function).is_some_and(|policy| policy.retry.is_some())
    }

    /// What is asked for a call with this message key, of this partition. A call counts against the tenant of its function,
    /// whatever it says itself; calls of functions without one count together, as one tenant's whose name is empty.
    pub fn terms(&self, function: &FunctionName, key: Option<&[u8]>, partition: Option<i32>) -> Terms {
        let owner = || Arc::clone(self.tenants.get(function).unwrap_or(&self.nobody));
        let tenant = self.quotas.are_set().then(owner);
        let Some(policy) = self.functions.get(function) else { return Terms { tenant, ..Terms::default() } };
        let line = match (policy.ordering, key, partition) {
            (Ordering::Key, Some(key), _) => Some(LineKey::Key(function.clone(), key.into())),
            (Ordering::Partition, _, Some(partition)) => Some(LineKey::Partition(function.clone(), partition)),
            // Without a key there is nothing that it would have to follow.
            (Ordering::Unordered | Ordering::Key | Ordering::Partition, ..) => None,
        };
        Terms { line, retry: policy.retry.clone(), tenant }
    }
}
