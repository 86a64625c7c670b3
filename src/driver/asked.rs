//! What the control plane says when it is asked: plain values out of its state.
//!
//! Must not: hold the state's lock longer than copying takes, or change anything.

use std::collections::BinaryHeap;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use super::plane::Clock;
use crate::control::{Control, Explanation};
use crate::forecast::chains::{EdgeView, Rule};
use crate::types::{
    ChainExplanation, FunctionExplanation, FunctionName, FunctionSummary, NoticeExplanation, OutlookLevel, YIELD_STEPS,
};

/// Asks the control plane. Cheap to clone.
#[derive(Clone)]
pub struct Asked {
    pub(super) control: Arc<Mutex<Control>>,
    pub(super) clock: Clock,
}

impl Asked {
    /// Functions after a name, in the order of their names, at most `limit`.
    pub fn functions(&self, after: Option<&str>, limit: usize) -> Vec<FunctionSummary> {
        let control = self.control();
        let after = |name: &FunctionName| after.is_none_or(|after| name.as_str() > after);
        let names = control.explanations().map(|explanation| &explanation.definition.name);
        let page = first(names.filter(|name| after(name)), limit);
        page.into_iter().filter_map(|name| control.explain(name)).map(|explanation| summary(&explanation)).collect()
    }

    /// Why a function's target is what it is; `None` where it is not known.
    pub fn explain(&self, function: &FunctionName) -> Option<FunctionExplanation> {
        self.control().explain(function).map(|explanation| explained(&explanation))
    }

    /// The chains that begin with a function; or those of the next functions after a name, in the order of names, at most `limit`
    /// functions. Those that act come first, the likeliest first.
    pub fn chains(&self, from: Option<&FunctionName>, after: Option<&str>, limit: usize) -> Vec<ChainExplanation> {
        let page = match from {
            Some(from) => vec![from.clone()],
            None => {
                let control = self.control();
                let names = control.chained().filter(|name| after.is_none_or(|after| name.as_str() > after));
                first(names, limit).into_iter().cloned().collect()
            }
        };
        // Each under the lock for itself: the control plane's tick comes in between.
        let chains = page.iter().flat_map(|from| self.control().chains(self.clock.now(), Some(from)));
        let mut chains: Vec<_> = chains.map(|(from, to, edge)| chain(from, to, &edge)).collect();
        chains.sort_by(ChainExplanation::by_worth);
        chains
    }

    fn control(&self) -> MutexGuard<'_, Control> {
        self.control.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// The first `limit` of them, in order; no more than these are ever held.
fn first<T: Ord>(all: impl Iterator<Item = T>, limit: usize) -> Vec<T> {
    let mut held = BinaryHeap::with_capacity(limit.min(1_024));
    for one in all {
        if held.len() < limit {
            held.push(one);
        } else if let Some(mut last) = held.peek_mut()
            && one < *last
        {
            *last = one;
        }
    }
    held.into_sorted_vec()
}

fn summary(explanation: &Explanation<'_>) -> FunctionSummary {
    FunctionSummary {
        function: explanation.definition.name.clone(),
        ready: explanation.target.ready,
        in_flight: explanation.demand.in_flight,
        enabled: explanation.definition.enabled,
    }
}

fn explained(explanation: &Explanation<'_>) -> FunctionExplanation {
    let Explanation { definition, demand, wanted, target, instance_bytes } = *explanation;
    let outlook = demand.outlook.iter();
    let notices = demand.notices.iter();
    FunctionExplanation {
        function: definition.name.clone(),
        version: definition.version.clone(),
        enabled: definition.enabled,
        floor: definition.warm.floor,
        ceiling: definition.warm.ceiling,
        in_flight: demand.in_flight,
        history: demand.history,
        outlook: outlook.map(|&(instances, probability)| OutlookLevel { instances, probability }).collect(),
        notices: notices
            .map(|notice| NoticeExplanation {
                kind: notice.kind,
                id: notice.id.clone(),
                instances: notice.calls,
                any_probability: notice.yields[0],
                all_probability: notice.yields[YIELD_STEPS - 1],
                expires_at: notice.expires_at,
            })
            .collect(),
        wanted: wanted.clone(),
        granted: target.clone(),
        instance_bytes,
    }
}

fn chain(from: FunctionName, to: FunctionName, edge: &EdgeView) -> ChainExplanation {
    let millis = |lag: Duration| u64::try_from(lag.as_millis()).unwrap_or(u64::MAX);
    let rule = edge.rule.map(|rule| match rule {
        Rule::Pin => "pin",
        Rule::Deny => "deny",
        Rule::State { .. } => "state",
    });
    ChainExplanation {
        from,
        to,
        probability: edge.probability,
        lift: edge.lift,
        support: edge.support,
        traced: edge.strong,
        earliest_ms: millis(edge.earliest),
        latest_ms: millis(edge.latest),
        announced: edge.announced,
        came: edge.came,
        rule: rule.map(str::to_owned),
        held_by: edge.held_by.map(|hold| hold.as_str().to_owned()),
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::first;

    proptest! {
        #[test]
        fn a_page_is_the_first_of_all_in_order(all in prop::collection::vec(0_u8..40, 0..60), limit in 0_usize..70) {
            let mut wanted = all.clone();
            wanted.sort_unstable();
            wanted.truncate(limit);
            prop_assert_eq!(first(all.into_iter(), limit), wanted);
        }
    }
}
