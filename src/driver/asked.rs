//! What the control plane says when it is asked: plain values out of its state.
//!
//! Must not: hold the state's lock longer than copying takes, or change anything.

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
        let all = control.explanations().filter(|explanation| after(&explanation.definition.name));
        let mut summaries: Vec<FunctionSummary> = all.map(|explanation| summary(&explanation)).collect();
        drop(control);
        summaries.sort_by(|one, other| one.function.cmp(&other.function));
        summaries.truncate(limit);
        summaries
    }

    /// Why a function's target is what it is; `None` where it is not known.
    pub fn explain(&self, function: &FunctionName) -> Option<FunctionExplanation> {
        self.control().explain(function).map(|explanation| explained(&explanation))
    }

    /// The chains that begin with a function, or all; those that act first, the likeliest first.
    pub fn chains(&self, from: Option<&FunctionName>) -> Vec<ChainExplanation> {
        let chains = self.control().chains(self.clock.now(), from);
        let mut chains: Vec<_> = chains.into_iter().map(|(from, to, edge)| chain(from, to, &edge)).collect();
        chains.sort_by(|one, other| {
            let rank = |chain: &ChainExplanation| (chain.held_by.is_some(), -chain.probability);
            let (one_rank, other_rank) = (rank(one), rank(other));
            (one_rank.0.cmp(&other_rank.0))
                .then(one_rank.1.total_cmp(&other_rank.1))
                .then_with(|| (&one.from, &one.to).cmp(&(&other.from, &other.to)))
        });
        chains
    }

    fn control(&self) -> MutexGuard<'_, Control> {
        self.control.lock().unwrap_or_else(PoisonError::into_inner)
    }
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
