//! What the node says when it is asked of its functions: what is so, from the executor, and what is wished and why, from the
//! control plane. Plain values out of their states.
//!
//! Must not: hold a lock longer than copying takes, change anything, or tell a wish as a fact.

use std::collections::BinaryHeap;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use super::plane::Clock;
use crate::control::{Control, Explanation};
use crate::execute::{Executor, Outcomes};
use crate::forecast::chains::{EdgeView, Rule};
use crate::types::{
    ChainExplanation, Condition, ConditionKind, FunctionExplanation, FunctionFacts, FunctionName, FunctionSummary,
    NoticeExplanation, OutlookLevel, StatusKind, WarmTarget, YIELD_STEPS,
};

/// Functions in trouble that are named as conditions at once, at most (inclusive).
const TROUBLES_MAX: usize = 1_000;

/// Knows what is so of functions: the executor.
pub(super) trait Facts: Send + Sync {
    /// What is so of one; `None` where it is not known.
    fn facts(&self, function: &FunctionName) -> Option<FunctionFacts>;

    /// Those after a name, in the order of their names, at most `limit`.
    fn facts_after(&self, after: Option<&str>, limit: usize) -> Vec<(FunctionName, FunctionFacts)>;

    /// Those that somebody has to look after, at most `limit`.
    fn in_trouble(&self, limit: usize) -> Vec<(FunctionName, FunctionFacts)>;

    /// Whether there is such a function.
    fn knows(&self, function: &FunctionName) -> bool;

    /// Those that have changed since the change that `known` says was seen, with the number of their newest one.
    fn changed(
        &self,
        known: &dyn Fn(&FunctionName) -> Option<u64>,
        limit: usize,
    ) -> Vec<(FunctionName, u64, FunctionFacts)>;
}

impl<O: Outcomes> Facts for Executor<O> {
    fn facts(&self, function: &FunctionName) -> Option<FunctionFacts> {
        Self::facts(self, function)
    }

    fn facts_after(&self, after: Option<&str>, limit: usize) -> Vec<(FunctionName, FunctionFacts)> {
        Self::facts_after(self, after, limit)
    }

    fn in_trouble(&self, limit: usize) -> Vec<(FunctionName, FunctionFacts)> {
        Self::in_trouble(self, limit)
    }

    fn knows(&self, function: &FunctionName) -> bool {
        Self::knows(self, function)
    }

    fn changed(
        &self,
        known: &dyn Fn(&FunctionName) -> Option<u64>,
        limit: usize,
    ) -> Vec<(FunctionName, u64, FunctionFacts)> {
        Self::changed(self, known, limit)
    }
}

/// Asks the executor and the control plane. Cheap to clone.
#[derive(Clone)]
pub struct Asked {
    pub(super) control: Arc<Mutex<Control>>,
    pub(super) facts: Arc<dyn Facts>,
    pub(super) clock: Clock,
}

impl Asked {
    /// Functions after a name, in the order of their names, at most `limit`.
    pub fn functions(&self, after: Option<&str>, limit: usize) -> Vec<FunctionSummary> {
        let facts = self.facts.facts_after(after, limit);
        let control = self.control();
        facts
            .into_iter()
            .map(|(function, facts)| summary(control.explain(&function), function.clone(), facts))
            .collect()
    }

    /// What is so of a function, what is wished for it, and why; `None` where it is not known.
    pub fn explain(&self, function: &FunctionName) -> Option<FunctionExplanation> {
        let facts = self.facts.facts(function)?;
        Some(match self.control().explain(function) {
            Some(explanation) => explained(&explanation, facts),
            // The control plane hears of a definition a tick later, and of one that is refused never.
            None => unplanned(function, facts),
        })
    }

    /// Functions that cannot run, or that fail, as conditions of this node.
    pub fn conditions(&self) -> Vec<Condition> {
        let mut in_trouble = self.facts.in_trouble(TROUBLES_MAX);
        in_trouble.sort_unstable_by(|one, other| one.0.cmp(&other.0));
        in_trouble.iter().filter_map(|(function, facts)| condition(function, facts)).collect()
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

fn summary(planned: Option<Explanation<'_>>, function: FunctionName, facts: FunctionFacts) -> FunctionSummary {
    FunctionSummary {
        target: planned.as_ref().map_or(0, |planned| planned.target.ready),
        in_flight: planned
            .as_ref()
            .map_or(facts.busy.saturating_add(facts.waiting), |planned| planned.demand.in_flight),
        enabled: planned.as_ref().map_or(facts.state != StatusKind::Disabled, |planned| planned.definition.enabled),
        function,
        facts,
    }
}

/// A function for which nothing is wished.
fn unplanned(function: &FunctionName, facts: FunctionFacts) -> FunctionExplanation {
    FunctionExplanation {
        function: function.clone(),
        target: 0,
        enabled: facts.state != StatusKind::Disabled,
        floor: 0,
        ceiling: 0,
        in_flight: facts.busy.saturating_add(facts.waiting),
        history: 0.0,
        outlook: Vec::new(),
        notices: Vec::new(),
        wanted: WarmTarget::default(),
        granted: WarmTarget::default(),
        instance_bytes: 0,
        facts,
    }
}

fn condition(function: &FunctionName, facts: &FunctionFacts) -> Option<Condition> {
    let kind = match facts.state {
        StatusKind::Refused => ConditionKind::FunctionRefused,
        StatusKind::Unavailable => ConditionKind::FunctionUnavailable,
        StatusKind::Failing => ConditionKind::FunctionFailing,
        _ => return None,
    };
    Some(Condition { kind, subject: function.to_string(), detail: facts.headline()? })
}

fn explained(explanation: &Explanation<'_>, facts: FunctionFacts) -> FunctionExplanation {
    let Explanation { definition, demand, wanted, target, instance_bytes } = *explanation;
    let outlook = demand.outlook.iter();
    let notices = demand.notices.iter();
    FunctionExplanation {
        function: definition.name.clone(),
        facts,
        target: target.ready,
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
