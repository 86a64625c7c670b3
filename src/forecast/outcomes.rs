//! How pre-triggers end: each with exactly one outcome, whatever happens in whatever order.

use std::collections::BTreeMap;
use std::num::NonZeroU32;
use std::time::Duration;

use proptest::prelude::*;

use super::tests::{at, definition, forecaster, forecaster_of, name, notice};
use super::*;
use crate::types::Criteria;

fn said(forecaster: &mut Forecaster) -> Vec<(String, &'static str, u32, u32, Option<i64>)> {
    let say = |outcome: PreTriggerOutcome| {
        let PreTriggerOutcome { pre_trigger_id, kind, announced, arrived, first_call_lag_us, .. } = outcome;
        (pre_trigger_id, kind.as_str(), announced, arrived, first_call_lag_us)
    };
    forecaster.take_outcomes().into_iter().map(say).collect()
}

fn saying(
    id: &str,
    kind: &'static str,
    arrived: u32,
    lag_us: Option<i64>,
) -> (String, &'static str, u32, u32, Option<i64>) {
    (id.to_owned(), kind, 4, arrived, lag_us)
}

#[test]
fn each_outcome() {
    let mut forecaster = forecaster(Criteria::default());
    let f = name("f");
    forecaster.arrived(at(99), &f, Evidence::default());
    for id in ["hit", "withdrawn", "wasted", "expired"] {
        assert_eq!(forecaster.pre_trigger(at(100), &notice(id)), Verdict::Accepted);
    }
    forecaster.arrived(Timestamp::from_micros(100_250_001), &f, Evidence::default());
    let withdrawal = PreTrigger { expected_invocations: 0, ..notice("withdrawn") };
    assert_eq!(forecaster.pre_trigger(at(101), &withdrawal), Verdict::Withdrawn);
    assert_eq!(said(&mut forecaster), [saying("withdrawn", "withdrawn", 0, None)]);
    let place = forecaster.demand(at(101), &f).notices.iter().position(|notice| notice.id == "wasted").unwrap();
    forecaster.asked(at(101), &f, [place].into_iter());
    forecaster.take_changed(at(110));
    assert_eq!(said(&mut forecaster), [saying("hit", "hit", 1, Some(250_001))]);
    forecaster.take_changed(at(120));
    assert_eq!(said(&mut forecaster), [saying("wasted", "wasted", 0, None), saying("expired", "expired", 0, None)]);

    forecaster.pre_trigger(at(120), &notice("read too late"));
    forecaster.pre_trigger(at(120), &PreTrigger { confidence: f64::NAN, ..notice("refused") });
    let refused = forecaster.outcomes.last().and_then(|outcome| outcome.criterion.clone());
    assert_eq!(refused.as_deref(), Some("confidence_too_low"));
    assert_eq!(
        said(&mut forecaster),
        [saying("read too late", "late", 0, None), saying("refused", "refused", 0, None)]
    );
}

#[test]
fn late_is_what_calls_came_for_before_it_was_received_or_soon_after_its_window() {
    let mut forecaster = forecaster(Criteria::default());
    let f = name("f");
    forecaster.arrived(at(101), &f, Evidence::default());
    // Sent at 100, received at 102: the call in between was the one that it announced.
    forecaster.pre_trigger(at(102), &notice("overtaken"));
    forecaster.take_changed(at(110));
    assert_eq!(said(&mut forecaster), [saying("overtaken", "late", 0, None)]);
    let again = |id: &str, second| PreTrigger { emitted_at: at(second), ..notice(id) };
    forecaster.pre_trigger(at(111), &again("short", 111));
    forecaster.pre_trigger(at(112), &again("wrong", 112));
    // No tick was between the end of the window and the call.
    forecaster.arrived(at(122), &f, Evidence::default());
    assert_eq!(said(&mut forecaster), [saying("short", "late", 0, Some(11_000_000))]);
    forecaster.take_changed(at(132));
    assert_eq!(said(&mut forecaster), [saying("wrong", "expired", 0, None)]);
}

#[test]
fn a_removed_function_ends_its_notices_and_nobody_is_blamed() {
    let mut forecaster = forecaster(Criteria::default());
    forecaster.pre_trigger(at(100), &notice("a"));
    forecaster.pre_trigger(at(100), &notice("b"));
    forecaster.arrived(at(101), &name("f"), Evidence::default());
    forecaster.remove(at(102), &name("f"));
    assert_eq!(said(&mut forecaster), [saying("a", "hit", 1, Some(1_000_000)), saying("b", "expired", 0, None)]);
    forecaster.define(at(0), at(0), definition("f", Criteria::default())).unwrap();
    forecaster.pre_trigger(at(102), &notice("c"));
    assert!(forecaster.demand(at(102), &name("f")).notices[0].yields[7] > 0.85);
}

#[derive(Clone, Debug)]
enum Step {
    Announce {
        id: u8,
        source: u8,
        function: u8,
        calls: u32,
        confidence: f64,
        ahead: Option<i64>,
        window: u64,
        skew: i64,
    },
    Arrive {
        function: u8,
    },
    Define {
        function: u8,
        enabled: bool,
        notices_min: u32,
    },
    Remove {
        function: u8,
    },
    Pass {
        ms: i64,
        looks: bool,
    },
}

fn step() -> impl Strategy<Value = Step> {
    let function = 0_u8..3;
    let ahead = prop::option::weighted(0.3, -3_i64..20);
    let announce = (0_u8..12, 0_u8..4, function.clone(), 0_u32..5, 0.0_f64..=1.0, ahead, 0_u64..12, -4_i64..4);
    prop_oneof![
        8 => announce.prop_map(|(id, source, function, calls, confidence, ahead, window, skew)| {
            Step::Announce { id, source, function, calls, confidence, ahead, window, skew }
        }),
        5 => function.clone().prop_map(|function| Step::Arrive { function }),
        1 => (function.clone(), any::<bool>(), 1_u32..3).prop_map(|(function, enabled, notices_min)| {
            Step::Define { function, enabled, notices_min }
        }),
        1 => function.prop_map(|function| Step::Remove { function }),
        // Clocks may be set back.
        5 => (-1_000_i64..6_000, any::<bool>()).prop_map(|(ms, looks)| Step::Pass { ms, looks }),
    ]
}

/// A pre-trigger by what names it.
type Name = (String, String, Option<String>, FunctionName);

/// What is wanted: of each name the messages that are still to end.
#[derive(Default)]
struct Ledger {
    open: BTreeMap<Name, u32>,
    ended: u64,
    arrived: u64,
}

impl Ledger {
    fn received(&mut self, pre_trigger: &PreTrigger, verdict: Verdict) {
        let opens = match verdict {
            Verdict::Accepted | Verdict::Pending | Verdict::Late | Verdict::Refused(_) => 1,
            Verdict::Replaced | Verdict::Withdrawn | Verdict::UnknownWithdrawal => 0,
        };
        *self.open.entry(key(pre_trigger)).or_default() += opens;
    }

    fn ended(&mut self, outcomes: Vec<PreTriggerOutcome>) -> Result<(), TestCaseError> {
        for outcome in outcomes {
            prop_assert_eq!(outcome.criterion.is_some(), outcome.kind == OutcomeKind::Refused);
            prop_assert!(outcome.kind != OutcomeKind::Hit || outcome.arrived > 0);
            let PreTriggerOutcome { pre_trigger_id, source, tenant, function, .. } = outcome;
            let open = self.open.entry((pre_trigger_id, source, tenant, function)).or_default();
            prop_assert!(*open > 0, "a second outcome");
            *open -= 1;
            self.ended += 1;
            self.arrived += u64::from(outcome.arrived);
        }
        Ok(())
    }
}

fn key(pre_trigger: &PreTrigger) -> Name {
    let PreTrigger { id, source, tenant, function, .. } = pre_trigger.clone();
    (id, source, tenant, function)
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(500))]

    #[test]
    fn every_pre_trigger_has_exactly_one_outcome(steps in prop::collection::vec(step(), 1..150), notices_max in 1_u32..12) {
        let mut forecaster = forecaster_of(ForecastConfig {
            notices_max: NonZeroU32::new(notices_max).unwrap(),
            sources_max: NonZeroU32::new(3).unwrap(),
            source_functions_max: NonZeroU32::new(notices_max).unwrap(),
            late_grace: Duration::from_secs(3),
            source_budget: Duration::from_secs(60),
            window_max: Duration::from_secs(15),
            ..ForecastConfig::default()
        });
        let function = |number: u8| name(["f", "g", "h"][usize::from(number)]);
        let (mut now, mut ledger, mut calls) = (at(1_000), Ledger::default(), 0);
        for step in steps {
            match step {
                Step::Announce { id, source, function: number, calls, confidence, ahead, window, skew } => {
                    let shifted = |seconds: i64| Timestamp::from_micros(now.as_micros() + seconds * 1_000_000);
                    let pre_trigger = PreTrigger {
                        id: id.to_string(),
                        source: source.to_string(),
                        tenant: (source % 2 == 0).then(|| "t".to_owned()),
                        function: function(number),
                        expected_invocations: calls,
                        confidence,
                        not_before: ahead.map(shifted),
                        window_ms: window * 1_000,
                        emitted_at: shifted(skew),
                        ..notice("")
                    };
                    ledger.received(&pre_trigger, forecaster.pre_trigger(now, &pre_trigger));
                }
                Step::Arrive { function: number } => {
                    calls += 1;
                    forecaster.arrived(now, &function(number), Evidence::default());
                }
                Step::Define { function: number, enabled, notices_min } => {
                    let criteria = Criteria { notices_min, ..Criteria::default() };
                    let definition = FunctionDefinition { enabled, ..definition(function(number).as_str(), criteria) };
                    forecaster.define(at(0), at(0), definition).unwrap();
                }
                Step::Remove { function: number } => drop(forecaster.remove(now, &function(number))),
                Step::Pass { ms, looks } => {
                    now = Timestamp::from_micros(now.as_micros() + ms * 1_000);
                    if looks {
                        forecaster.take_changed(now);
                    }
                }
            }
            ledger.ended(forecaster.take_outcomes())?;
            let open: u32 = ledger.open.values().sum();
            prop_assert_eq!(forecaster.notices_held(), open as usize);
            prop_assert!(open <= notices_max);
        }
        // All lives end within the longest window, their grace, and as far as a clock was set back.
        forecaster.take_changed(now + Duration::from_secs(1_000));
        ledger.ended(forecaster.take_outcomes())?;
        prop_assert!(ledger.open.values().all(|&open| open == 0), "some have no outcome");
        prop_assert!(ledger.arrived <= calls);
        prop_assert_eq!(forecaster.notices_held(), 0);
        prop_assert_eq!(forecaster.sources.pins(), (0, 0));
    }
}
