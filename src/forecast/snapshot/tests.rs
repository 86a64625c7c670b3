//! What is kept of functions, and what a start makes of it.

use std::num::NonZeroU32;

use proptest::prelude::*;

use super::super::tests::{at, definition, name, notice};
use super::*;
use crate::config::{ChainsConfig, ForecastConfig};
use crate::forecast::chains::Evidence;
use crate::forecast::history::Model;
use crate::types::{Criteria, PreTrigger};

fn fresh(functions: &[&str]) -> Forecaster {
    let mut forecaster = Forecaster::new(ForecastConfig::default(), &ChainsConfig::default(), Model::shipped());
    for function in functions {
        forecaster.define(at(0), at(0), definition(function, Criteria::default())).unwrap();
    }
    forecaster
}

/// A is called every ten minutes and B half a second after; a source announces calls of A, of which half come.
fn taught() -> Forecaster {
    let mut forecaster = fresh(&["a", "b", "quiet"]);
    for nth in 0..40 {
        let begin = at(nth * 600);
        if nth % 4 == 0 {
            let pre_trigger = PreTrigger {
                function: name("a"),
                tenant: Some("acme".to_owned()),
                emitted_at: begin,
                expected_invocations: 2,
                ..notice(&nth.to_string())
            };
            forecaster.pre_trigger(begin, &pre_trigger);
        }
        for (function, ms) in [("a", 1_000), ("b", 1_500)] {
            forecaster.arrived(begin + Duration::from_millis(ms), &name(function), Evidence::default());
            forecaster.ended(begin + Duration::from_millis(ms + 50), &name(function), Duration::from_millis(50));
        }
        (2..60).step_by(20).for_each(|second| drop(forecaster.take_changed(begin + Duration::from_secs(second))));
    }
    forecaster
}

/// What a forecaster says of a function, without what is under way.
fn says(forecaster: &mut Forecaster, now: Timestamp) -> String {
    // The first look of a minute asks about nobody.
    (0..2).for_each(|_| drop(forecaster.take_changed(now)));
    let pre_trigger = PreTrigger {
        function: name("a"),
        tenant: Some("acme".to_owned()),
        emitted_at: now,
        window_ms: 1_000,
        ..notice("new")
    };
    forecaster.pre_trigger(now, &pre_trigger);
    let (a, b) = (forecaster.demand(now, &name("a")), forecaster.demand(now, &name("b")));
    let chains = forecaster.chains(now, None);
    let chains: Vec<_> =
        chains.into_iter().map(|(from, to, edge)| (from, to, edge.probability, edge.support, edge.held_by)).collect();
    format!("{:?} {:?} {:?} {chains:?}", a.outlook, a.notices, b.outlook)
}

#[test]
fn what_was_learned_is_said_again_after_a_restart() {
    let mut before = taught();
    let now = at(40 * 600 + 5);
    let kept = before.take_all_snapshots(now);
    let functions: Vec<_> = kept.iter().map(|snapshot| snapshot.function.as_str()).collect();
    assert_eq!(functions, ["a", "b"], "nothing is known of the quiet one");
    let mut after = fresh(&["b", "new", "a"]);
    let restored = after.restore(now, &kept);
    assert_eq!(restored, Restored { restored: 2, passed_over: 0, refused: vec![] });
    let said = says(&mut before, now);
    assert!(said.contains("0.9") && said.contains("None)"), "{said}");
    assert_eq!(says(&mut after, now), said);
    // A day later nothing but the time has passed.
    let later = at(40 * 600 + 86_400);
    let mut aged = fresh(&["a", "b"]);
    aged.restore(later, &kept);
    assert_eq!(says(&mut aged, later), says(&mut taught(), later));
}

#[test]
fn what_was_learned_since_the_start_wins_and_what_is_gone_is_passed_over() {
    let kept = taught().take_all_snapshots(at(30_000));
    let mut after = fresh(&["a"]);
    after.arrived(at(30_001), &name("a"), Evidence::default());
    assert_eq!(after.restore(at(30_002), &kept), Restored { passed_over: 2, ..Restored::default() });
    assert!(after.chains(at(30_002), None).is_empty());
}

#[test]
fn every_function_has_its_turn_once_a_round_if_something_was_learned() {
    let names: Vec<String> = (0..1_200).map(|nth| format!("f{nth}")).collect();
    let mut forecaster = fresh(&names.iter().map(String::as_str).collect::<Vec<_>>());
    assert!(forecaster.take_snapshots(at(0)).is_empty());
    let call = |forecaster: &mut Forecaster, second, nth: usize| {
        forecaster.arrived(at(second), &name(&names[nth]), Evidence::default());
    };
    (0..1_200).for_each(|nth| call(&mut forecaster, 10, nth));
    assert!(forecaster.take_snapshots(at(299)).is_empty());
    let taken = |forecaster: &mut Forecaster, second| forecaster.take_snapshots(at(second)).len();
    assert_eq!([300, 301, 302, 303].map(|second| taken(&mut forecaster, second)), [512, 512, 176, 0]);
    call(&mut forecaster, 400, 7);
    assert_eq!([600, 601, 602, 603].map(|second| taken(&mut forecaster, second)), [1, 0, 0, 0]);
    assert_eq!(taken(&mut forecaster, 900), 0);
    call(&mut forecaster, 901, 1_100);
    assert_eq!(forecaster.take_all_snapshots(at(902)).len(), 1);
}

#[test]
fn a_state_has_a_bound() {
    let config = ForecastConfig { sources_max: NonZeroU32::new(1_000).unwrap(), ..ForecastConfig::default() };
    let mut forecaster = Forecaster::new(config, &ChainsConfig::default(), Model::shipped());
    forecaster.define(at(0), at(0), definition("f", Criteria::default())).unwrap();
    for nth in 0..100 {
        let source = format!("{nth:0>256}");
        let second = 100 + nth * 20;
        let pre_trigger =
            PreTrigger { source: source.clone(), tenant: Some(source), emitted_at: at(second), ..notice("n") };
        assert_eq!(forecaster.pre_trigger(at(second), &pre_trigger), super::super::Verdict::Accepted);
        forecaster.arrived(at(second + 1), &name("f"), Evidence::default());
        forecaster.ended(at(second + 2), &name("f"), Duration::from_secs(1));
        forecaster.take_changed(at(second + 15));
    }
    let kept = forecaster.take_all_snapshots(at(5_000));
    let len = kept[0].state.0.len();
    assert!((10_000..STATE_LEN_MAX).contains(&len), "{len} bytes");
    assert_eq!(fresh(&["f"]).restore(at(5_000), &kept).restored, 1);
}

#[test]
fn a_snapshot_that_cannot_be_is_refused_by_name() {
    let kept = taught().take_all_snapshots(at(30_000));
    let refusal = |change: &dyn Fn(&mut ForecastSnapshot), now| {
        let mut snapshot = kept[0].clone();
        change(&mut snapshot);
        let mut refused = fresh(&["a", "b"]).restore(now, &[snapshot]).refused;
        refused.pop().map(|error| error.to_string())
    };
    let said = |change: &dyn Fn(&mut ForecastSnapshot)| refusal(change, at(30_000)).unwrap_or_default();
    assert_eq!(
        said(&|snapshot| snapshot.state.0[0] = 2),
        "the forecast snapshot of function a is dropped: it has a form that this version does not read; what it knew will \
         be learned again"
    );
    assert!(said(&|snapshot| snapshot.state.0.truncate(100)).contains("it is damaged"));
    assert!(said(&|snapshot| snapshot.state.0.push(0)).contains("it is damaged"));
    assert!(said(&|snapshot| snapshot.state.0.clear()).contains("a form"));
    assert!(said(&|snapshot| snapshot.state.0.resize(40_000, 0)).contains("too long"));
    assert!(refusal(&|_| {}, at(29_000)).unwrap().contains("future"));
    assert_eq!(refusal(&|_| {}, at(29_950)), None);
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 256, failure_persistence: None, ..ProptestConfig::default() })]

    /// Whatever the topic holds, the forecaster goes on: it says something or nothing, and what it says is in bounds.
    #[test]
    fn damage_is_survived(
        flips in prop::collection::vec((any::<prop::sample::Index>(), any::<u8>()), 1..6),
        cut in prop::option::of(any::<prop::sample::Index>()),
    ) {
        thread_local! {
            static KEPT: Vec<ForecastSnapshot> = taught().take_all_snapshots(at(30_000));
        }
        let mut kept = KEPT.with(Clone::clone);
        for snapshot in &mut kept {
            let state = &mut snapshot.state.0;
            for (place, byte) in &flips {
                // The form's number stays, or nothing would be looked at.
                let place = 1 + place.index(state.len() - 1);
                state[place] = *byte;
            }
            if let Some(cut) = cut {
                state.truncate(cut.index(state.len()));
            }
        }
        let mut forecaster = fresh(&["a", "b"]);
        forecaster.restore(at(30_000), &kept);
        for second in [30_000, 30_060, 200_000] {
            for function in ["a", "b"] {
                forecaster.arrived(at(second), &name(function), Evidence::default());
                forecaster.ended(at(second), &name(function), Duration::from_secs(1));
                let demand = forecaster.demand(at(second), &name(function));
                prop_assert!(demand.outlook.iter().all(|(_, probability)| (0.0..=1.0).contains(probability)));
            }
            forecaster.pre_trigger(at(second), &PreTrigger { function: name("a"), emitted_at: at(second), ..notice("x") });
            let notices = forecaster.demand(at(second), &name("a")).notices;
            prop_assert!(notices.iter().all(|notice| notice.yields.iter().all(|chance| (0.0..=1.0).contains(chance))));
            forecaster.take_changed(at(second + 30));
        }
        prop_assert!(forecaster.take_all_snapshots(at(200_100)).iter().all(|snapshot| snapshot.state.0.len() <= STATE_LEN_MAX));
    }
}

mod damage;
mod rounds;
