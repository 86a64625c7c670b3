//! What users say of chains: rules by name, and the slots that they mean once both functions are known.
//!
//! Must not: judge a chain; `chains` holds to the rules.

use std::collections::{BTreeMap, BTreeSet};
use std::time::Duration;

use super::agenda::Slot;
use super::chains::{Chains, Rule};
use super::table::Table;
use crate::types::{ChainRule, ChainRuleKind, FunctionName};

/// The rules of every function that has some.
#[derive(Debug, Default)]
pub(super) struct Ruled {
    rules: BTreeMap<Slot, Vec<(FunctionName, Rule)>>,
    /// Who says something of a function, whether it is known or not.
    said_of: BTreeMap<FunctionName, BTreeSet<Slot>>,
}

impl Ruled {
    /// A function is defined, with these rules; earlier ones of its own end. What others said of it holds from now on.
    pub(super) fn define<T>(
        &mut self,
        chains: &mut Chains,
        functions: &Table<T>,
        slot: Slot,
        name: &FunctionName,
        rules: &[ChainRule],
    ) {
        let had_some = self.drop_rules(slot);
        if !rules.is_empty() {
            for rule in rules {
                self.said_of.entry(rule.to.clone()).or_default().insert(slot);
            }
            self.rules.insert(slot, rules.iter().map(|rule| (rule.to.clone(), meaning(rule))).collect());
        }
        if had_some || !rules.is_empty() {
            self.apply(chains, functions, slot);
        }
        for from in self.said_of.get(name).cloned().unwrap_or_default() {
            self.apply(chains, functions, from);
        }
    }

    /// A function is no more; what others say of it stays, in case that it comes back.
    pub(super) fn remove(&mut self, slot: Slot) {
        self.drop_rules(slot);
    }

    fn drop_rules(&mut self, slot: Slot) -> bool {
        let Some(rules) = self.rules.remove(&slot) else { return false };
        for (to, _) in &rules {
            if let Some(slots) = self.said_of.get_mut(to) {
                slots.remove(&slot);
                if slots.is_empty() {
                    self.said_of.remove(to);
                }
            }
        }
        true
    }

    fn apply<T>(&self, chains: &mut Chains, functions: &Table<T>, from: Slot) {
        let rules = self.rules.get(&from).map_or(&[][..], Vec::as_slice);
        let known = rules.iter().filter_map(|(to, rule)| Some((functions.find(to)?.0, *rule)));
        chains.set_rules(from, &known.collect::<Vec<_>>());
    }
}

fn meaning(rule: &ChainRule) -> Rule {
    match rule.rule {
        ChainRuleKind::Pin => Rule::Pin,
        ChainRuleKind::Deny => Rule::Deny,
        ChainRuleKind::State => {
            Rule::State { probability: rule.probability as f32, lag: Duration::from_millis(rule.lag_ms) }
        }
    }
}

#[cfg(test)]
mod tests {
    use crate::config::{ChainsConfig, ForecastConfig};
    use crate::forecast::Forecaster;
    use crate::forecast::chains::Evidence;
    use crate::forecast::history::Model;
    use crate::forecast::tests::{at, definition, name};
    use crate::types::{ChainRule, ChainRuleKind, Criteria, FunctionDefinition, WarmKind};

    fn rule(to: &str, rule: ChainRuleKind, probability: f64) -> ChainRule {
        ChainRule { to: name(to), rule, probability, lag_ms: 2_000 }
    }

    fn define(forecaster: &mut Forecaster, of: &str, chains: Vec<ChainRule>) {
        let definition = FunctionDefinition { chains, ..definition(of, Criteria::default()) };
        forecaster.define(at(0), at(0), &definition).unwrap();
    }

    fn announced(forecaster: &mut Forecaster, second: i64, of: &str) -> Vec<(WarmKind, String, f32)> {
        forecaster.arrived(at(second), &name("a"), Evidence::default());
        let demand = forecaster.demand(at(second), &name(of));
        let notices = demand.notices.into_iter();
        let said = notices.map(|notice| (notice.kind, notice.id.to_string(), notice.yields[0])).collect();
        // What was announced is over before the next call.
        forecaster.take_changed(at(second + 60));
        said
    }

    #[test]
    fn rules_hold_from_when_both_functions_are_known_until_they_end() {
        let config = ForecastConfig { newcomer_share: 0.0, ..ForecastConfig::default() };
        let mut forecaster = Forecaster::new(config, &ChainsConfig::default(), Model::shipped());
        let stated = vec![rule("b", ChainRuleKind::State, 0.75), rule("c", ChainRuleKind::Pin, 1.0)];
        define(&mut forecaster, "a", stated.clone());
        assert_eq!(forecaster.chains(at(0), None), []);
        define(&mut forecaster, "b", vec![]);
        define(&mut forecaster, "c", vec![]);
        assert_eq!(announced(&mut forecaster, 100, "b"), [(WarmKind::Chain, "a".to_owned(), 0.75)]);
        assert_eq!(announced(&mut forecaster, 200, "c"), [(WarmKind::Chain, "a".to_owned(), 1.0)]);
        // Another definition of what follows changes nothing; a function that comes back is followed again.
        define(&mut forecaster, "b", vec![]);
        assert_eq!(announced(&mut forecaster, 300, "b").len(), 1);
        forecaster.remove(at(400), &name("b"));
        define(&mut forecaster, "b", vec![]);
        assert_eq!(announced(&mut forecaster, 500, "b").len(), 1);
        define(&mut forecaster, "a", vec![rule("b", ChainRuleKind::Deny, 1.0)]);
        assert_eq!(announced(&mut forecaster, 600, "b"), []);
        assert_eq!(announced(&mut forecaster, 700, "c"), []);
        forecaster.remove(at(800), &name("a"));
        assert!(forecaster.ruled.rules.is_empty() && forecaster.ruled.said_of.is_empty());
    }
}
