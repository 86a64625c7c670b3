//! What must hold after every event, each by its name: tests and simulations check it at every step.
//!
//! Must not: repair anything. A violation is a fault of the code, never of the input.

use std::collections::BTreeMap;

use crate::control::{Control, Explanation};
use crate::target::Amount;
use crate::types::FunctionName;

/// An invariant that does not hold.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum Violation {
    /// See [`targets_within_budget`].
    #[error("the targets take {bytes} bytes and {slots} slots of a budget of {budget:?}")]
    OverBudget {
        /// Σ target × instance bytes.
        bytes: u128,
        /// Σ target.
        slots: u64,
        /// The budget.
        budget: Amount,
    },
    /// See [`tenants_within_budget`].
    #[error("the targets of tenant {tenant:?} take {bytes} bytes and {slots} slots of a budget of {budget:?}")]
    TenantOverBudget {
        /// The tenant; none for functions without one, which are one tenant's.
        tenant: Option<String>,
        /// Σ target × instance bytes of its functions.
        bytes: u128,
        /// Σ target of its functions.
        slots: u64,
        /// Its budget.
        budget: Amount,
    },
    /// See [`target_within_ceiling`].
    #[error(
        "function {function} has {in_flight} calls in flight and a target of {ready}, above its ceiling of {ceiling}"
    )]
    OverCeiling {
        /// The function.
        function: FunctionName,
        /// Its target.
        ready: u32,
        /// Its calls in flight when that was decided.
        in_flight: u32,
        /// Its ceiling.
        ceiling: u32,
    },
    /// See [`target_within_wish`].
    #[error("function {function} has a target of {ready} and wants only {wanted}")]
    OverWish {
        /// The function.
        function: FunctionName,
        /// Its target.
        ready: u32,
        /// What it wants.
        wanted: u32,
    },
    /// See [`every_instance_has_a_reason`].
    #[error("function {function} has a target of {ready}, and no reason for number {without}")]
    NoReason {
        /// The function.
        function: FunctionName,
        /// Its target.
        ready: u32,
        /// The first instance without a reason.
        without: u32,
    },
    /// See [`parts_are_sorted`].
    #[error("the parts of the target of function {function} are not sorted, or one asks for nothing")]
    PartsOutOfOrder {
        /// The function.
        function: FunctionName,
    },
    /// See [`disabled_is_cold`].
    #[error("function {function} is disabled and has a target of {ready}")]
    DisabledIsWarm {
        /// The function.
        function: FunctionName,
        /// Its target.
        ready: u32,
    },
}

/// The ready instances of all functions fit into the budget.
///
/// # Errors
/// Where they do not.
pub fn targets_within_budget<'a>(
    functions: impl IntoIterator<Item = Explanation<'a>>,
    budget: Amount,
) -> Result<(), Violation> {
    let (bytes, slots) = functions.into_iter().fold((0, 0), taken);
    if is_within(bytes, slots, budget) { Ok(()) } else { Err(Violation::OverBudget { bytes, slots, budget }) }
}

/// The ready instances of each tenant's functions fit into its own budget; functions without a tenant are one tenant's.
///
/// # Errors
/// Where those of one do not.
pub fn tenants_within_budget<'a>(
    functions: impl IntoIterator<Item = Explanation<'a>>,
    budget: Amount,
) -> Result<(), Violation> {
    let mut of: BTreeMap<Option<&str>, (u128, u64)> = BTreeMap::new();
    for function in functions {
        let sum = of.entry(function.definition.tenant.as_deref()).or_default();
        *sum = taken(*sum, function);
    }
    match of.into_iter().find(|&(_, (bytes, slots))| !is_within(bytes, slots, budget)) {
        None => Ok(()),
        Some((tenant, (bytes, slots))) => {
            Err(Violation::TenantOverBudget { tenant: tenant.map(str::to_owned), bytes, slots, budget })
        }
    }
}

/// What the target of one more function takes, on top of bytes and slots.
fn taken((bytes, slots): (u128, u64), function: Explanation<'_>) -> (u128, u64) {
    let ready = function.target.ready;
    (bytes + u128::from(ready) * u128::from(function.instance_bytes), slots + u64::from(ready))
}

fn is_within(bytes: u128, slots: u64, budget: Amount) -> bool {
    bytes <= u128::from(budget.bytes) && slots <= u64::from(budget.slots)
}

/// Ready and busy instances together are not above the ceiling, unless the busy ones alone are.
///
/// # Errors
/// Where they are.
pub fn target_within_ceiling(function: Explanation<'_>) -> Result<(), Violation> {
    let (ready, in_flight, ceiling) =
        (function.wanted.ready, function.demand.in_flight, function.definition.warm.ceiling);
    if ready <= ceiling.saturating_sub(in_flight) {
        return Ok(());
    }
    Err(Violation::OverCeiling { function: function.definition.name.clone(), ready, in_flight, ceiling })
}

/// The budget cuts; it never adds.
///
/// # Errors
/// Where the target is above what is wanted.
pub fn target_within_wish(function: Explanation<'_>) -> Result<(), Violation> {
    let (ready, wanted) = (function.target.ready, function.wanted.ready);
    if ready <= wanted {
        return Ok(());
    }
    Err(Violation::OverWish { function: function.definition.name.clone(), ready, wanted })
}

/// Somebody asked for every ready instance.
///
/// # Errors
/// Where nobody did.
pub fn every_instance_has_a_reason(function: Explanation<'_>) -> Result<(), Violation> {
    let ready = function.target.ready;
    let covered = function.target.parts.iter().map(|part| part.instances).max().unwrap_or(0);
    if ready <= covered {
        return Ok(());
    }
    Err(Violation::NoReason { function: function.definition.name.clone(), ready, without: covered + 1 })
}

/// The parts of a target are sorted, smallest first, and each asks for something.
///
/// # Errors
/// Where they are not.
pub fn parts_are_sorted(function: Explanation<'_>) -> Result<(), Violation> {
    let parts = &function.target.parts;
    if parts.is_sorted_by_key(|part| part.instances) && parts.iter().all(|part| part.instances > 0) {
        return Ok(());
    }
    Err(Violation::PartsOutOfOrder { function: function.definition.name.clone() })
}

/// A disabled function wants nothing.
///
/// # Errors
/// Where it has a target.
pub fn disabled_is_cold(function: Explanation<'_>) -> Result<(), Violation> {
    let ready = function.target.ready;
    if function.definition.enabled || ready == 0 {
        return Ok(());
    }
    Err(Violation::DisabledIsWarm { function: function.definition.name.clone(), ready })
}

/// Every invariant that does not hold now. To be asked after a tick: between ticks, what is known of a function may be
/// newer than its target.
pub fn violations(control: &Control) -> Vec<Violation> {
    let of_one =
        [target_within_ceiling, target_within_wish, every_instance_has_a_reason, parts_are_sorted, disabled_is_cold];
    let budget = targets_within_budget(control.explanations(), control.budget());
    let tenants = tenants_within_budget(control.explanations(), control.tenant_budget());
    let functions = control.explanations().flat_map(|function| of_one.map(|holds| holds(function).err()));
    budget.err().into_iter().chain(tenants.err()).chain(functions.flatten()).collect()
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::types::{
        Artifact, Demand, FunctionDefinition, FunctionKind, Sha256, TargetPart, WarmKind, WarmReason, WarmTarget,
    };

    fn target(ready: u32, parts: &[u32]) -> WarmTarget {
        let reason = WarmReason { kind: WarmKind::History, detail: None };
        let part = |&instances| TargetPart { reason: reason.clone(), instances };
        WarmTarget { ready, parts: parts.iter().map(part).collect() }
    }

    /// Each invariant must be able to fail: a fault of each kind, made by hand, and the same without it.
    #[test]
    fn each_invariant_names_its_fault() {
        let name = FunctionName::new("f").unwrap();
        let artifact = Artifact { uri: "store:".to_owned(), sha256: Sha256([0; 32]) };
        let mut definition = FunctionDefinition::new(name.clone(), "1", artifact, FunctionKind::Component);
        definition.warm.ceiling = 5;
        let demand = Demand { in_flight: 2, ..Demand::default() };
        let (good, four, bare) = (target(3, &[1, 3]), target(4, &[1, 4]), target(3, &[1]));
        let explain = |wanted, target| Explanation {
            definition: &definition,
            demand: &demand,
            wanted,
            target,
            instance_bytes: 10,
        };
        let sound = explain(&good, &good);
        let amount = |bytes, slots| Amount { bytes, slots };
        assert_eq!(targets_within_budget([sound, sound], amount(60, 6)), Ok(()));
        for budget in [amount(59, 6), amount(60, 5)] {
            let over_budget = Violation::OverBudget { bytes: 60, slots: 6, budget };
            assert_eq!(targets_within_budget([sound, sound], budget), Err(over_budget));
        }
        let mut owned = definition.clone();
        owned.tenant = Some("acme".to_owned());
        let theirs = Explanation { definition: &owned, ..sound };
        assert_eq!(tenants_within_budget([theirs, theirs, sound], amount(60, 6)), Ok(()));
        for budget in [amount(59, 6), amount(60, 5)] {
            let tenant = Some("acme".to_owned());
            let over_budget = Violation::TenantOverBudget { tenant, bytes: 60, slots: 6, budget };
            assert_eq!(tenants_within_budget([theirs, theirs, sound], budget), Err(over_budget));
        }
        let over_budget = Violation::TenantOverBudget { tenant: None, bytes: 60, slots: 6, budget: amount(59, 6) };
        assert_eq!(tenants_within_budget([sound, sound, theirs], amount(59, 6)), Err(over_budget));
        let function = name.clone();
        let over_ceiling = Violation::OverCeiling { function, ready: 4, in_flight: 2, ceiling: 5 };
        assert_eq!(target_within_ceiling(sound), Ok(()));
        assert_eq!(target_within_ceiling(explain(&four, &good)), Err(over_ceiling));
        let function = name.clone();
        assert_eq!(target_within_wish(explain(&four, &good)), Ok(()));
        assert_eq!(
            target_within_wish(explain(&good, &four)),
            Err(Violation::OverWish { function, ready: 4, wanted: 3 })
        );
        let function = name.clone();
        let no_reason = Violation::NoReason { function, ready: 3, without: 2 };
        assert_eq!(every_instance_has_a_reason(sound), Ok(()));
        assert_eq!(every_instance_has_a_reason(explain(&good, &bare)), Err(no_reason));
        assert_eq!(parts_are_sorted(sound), Ok(()));
        for unsorted in [target(3, &[3, 1]), target(3, &[0, 3])] {
            let function = name.clone();
            assert_eq!(
                parts_are_sorted(Explanation { target: &unsorted, ..sound }),
                Err(Violation::PartsOutOfOrder { function })
            );
        }
        assert_eq!(disabled_is_cold(sound), Ok(()));
        let disabled = FunctionDefinition { enabled: false, ..definition.clone() };
        let disabled = Explanation { definition: &disabled, ..sound };
        assert_eq!(disabled_is_cold(disabled), Err(Violation::DisabledIsWarm { function: name, ready: 3 }));
    }
}
