//! What a round takes: every function in its turn, and of each what is its own.

use std::collections::BTreeSet;

use super::*;
use crate::types::PoolUsage;

fn fresh_of(config: ForecastConfig, functions: &[String]) -> Forecaster {
    let mut forecaster = Forecaster::new(config, &ChainsConfig::default(), Model::shipped());
    for function in functions {
        forecaster.define(at(0), at(0), definition(function, Criteria::default())).unwrap();
    }
    forecaster
}

fn names(count: usize) -> Vec<String> {
    (0..count).map(|nth| format!("f{nth}")).collect()
}

/// A notice of one call from `second` on, of which `came` come, is announced and ends.
fn tell(forecaster: &mut Forecaster, second: i64, source: &str, function: &str, confidence: f64, came: u32) {
    let pre_trigger = PreTrigger {
        source: source.to_owned(),
        function: name(function),
        expected_invocations: 1,
        confidence,
        emitted_at: at(second),
        ..notice(&second.to_string())
    };
    assert_eq!(forecaster.pre_trigger(at(second), &pre_trigger), crate::forecast::Verdict::Accepted);
    for _ in 0..came {
        forecaster.arrived(at(second + 1), &name(function), Evidence::default());
        forecaster.ended(at(second + 2), &name(function), Duration::from_secs(1));
    }
    // Its window, and the grace after it, are over.
    forecaster.take_changed(at(second + 25));
}

fn state(snapshot: &ForecastSnapshot) -> State {
    read(&snapshot.state.0).unwrap()
}

#[test]
fn a_round_that_takes_longer_than_the_interval_still_reaches_every_function() {
    let config = ForecastConfig { snapshot_interval: Duration::from_secs(1), ..ForecastConfig::default() };
    let names = names(1_200);
    let mut forecaster = fresh_of(config, &names);
    forecaster.take_snapshots(at(0));
    for function in &names {
        forecaster.arrived(at(0), &name(function), Evidence::default());
    }
    let taken: Vec<_> = (1..=3).map(|second| forecaster.take_snapshots(at(second))).collect();
    assert_eq!(taken.iter().map(Vec::len).collect::<Vec<_>>(), [512, 512, 176]);
    let distinct: BTreeSet<_> = taken.iter().flatten().map(|snapshot| snapshot.function.as_str()).collect();
    assert_eq!(distinct.len(), 1_200);
}

#[test]
fn a_clock_that_is_set_back_does_not_cut_a_round_short() {
    let names = names(1_200);
    let mut forecaster = fresh_of(ForecastConfig::default(), &names);
    forecaster.take_snapshots(at(10_000));
    for function in &names {
        forecaster.arrived(at(10_000), &name(function), Evidence::default());
    }
    let taken = [10_300, 9_000, 9_001].map(|second| forecaster.take_snapshots(at(second)).len());
    assert_eq!(taken, [512, 512, 176]);
}

#[test]
fn a_pair_that_was_forgotten_during_a_round_is_nobody_elses() {
    let one = NonZeroU32::MIN;
    let config = ForecastConfig { source_functions_max: one, ..ForecastConfig::default() };
    let mut forecaster = fresh_of(config, &names(600));
    forecaster.take_snapshots(at(0));
    tell(&mut forecaster, 100, "old", "f599", 1.0, 1);
    assert_eq!(forecaster.take_snapshots(at(300)).len(), 0, "f599 is not among the first");
    // There is room for one pair, which is now another one.
    tell(&mut forecaster, 310, "new", "f0", 1.0, 1);
    let kept = forecaster.take_snapshots(at(340));
    assert_eq!(kept[0].function, name("f599"));
    assert_eq!(state(&kept[0]).sources, []);
}

#[test]
fn a_source_that_was_forgotten_during_a_round_lends_no_name() {
    let one = NonZeroU32::MIN;
    let config = ForecastConfig { sources_max: one, ..ForecastConfig::default() };
    let mut forecaster = fresh_of(config, &names(600));
    forecaster.take_snapshots(at(0));
    tell(&mut forecaster, 100, "old", "f599", 1.0, 1);
    forecaster.take_snapshots(at(300));
    tell(&mut forecaster, 310, "new", "f0", 1.0, 1);
    let kept = forecaster.take_snapshots(at(340));
    assert_eq!(kept[0].function, name("f599"));
    assert_eq!(state(&kept[0]).sources, []);
}

#[test]
fn what_a_source_usually_says_of_itself_does_not_grow_with_its_functions() {
    let functions = ["a", "b", "c"].map(str::to_owned);
    let mut before = fresh_of(ForecastConfig::default(), &functions);
    for nth in 0..80 {
        tell(&mut before, 100 + nth * 60, "s", if nth % 2 == 0 { "a" } else { "b" }, 0.5, 1);
    }
    let now = at(6_000);
    let mut after = fresh_of(ForecastConfig::default(), &functions);
    assert_eq!(after.restore(now, &before.take_all_snapshots(now)).restored, 2);
    // It never announced calls of this one: what is said of it comes from the others.
    let whole = |forecaster: &mut Forecaster| {
        let pre_trigger = PreTrigger { function: name("c"), confidence: 0.5, emitted_at: now, ..notice("new") };
        forecaster.pre_trigger(now, &pre_trigger);
        forecaster.demand(now, &name("c")).notices[0].yields[0]
    };
    let (said, again) = (whole(&mut before), whole(&mut after));
    // What is said follows what is learned only when that has moved enough to be news, so before it may be a little less.
    assert!(said > 0.8 && said <= again && again <= 0.901, "{said} before, {again} after");
}

#[test]
fn a_call_that_goes_on_is_learned_of_while_it_does() {
    let mut forecaster = fresh_of(ForecastConfig::default(), &names(1));
    forecaster.take_snapshots(at(0));
    forecaster.arrived(at(10), &name("f0"), Evidence::default());
    let usage = PoolUsage { busy: 1, in_flight_peak: 1, ..PoolUsage::default() };
    let mut taken = Vec::new();
    for second in (60..=1_200).step_by(60) {
        forecaster.observed(at(second), &name("f0"), &usage);
        forecaster.looked();
        taken.extend(forecaster.take_snapshots(at(second)).into_iter().map(|kept| kept.taken_at));
    }
    assert_eq!(taken, [300, 600, 900, 1_200].map(at));
}

#[test]
fn a_run_that_ends_after_a_round_is_in_the_next_one() {
    let mut forecaster = fresh_of(ForecastConfig::default(), &names(1));
    forecaster.take_snapshots(at(0));
    forecaster.arrived(at(290), &name("f0"), Evidence::default());
    assert_eq!(forecaster.take_snapshots(at(300)).len(), 1);
    forecaster.ended(at(305), &name("f0"), Duration::from_secs(15));
    assert_eq!(forecaster.take_snapshots(at(600)).len(), 1);
}

#[test]
fn what_ends_as_another_notice_comes_is_learned_too() {
    let mut forecaster = fresh_of(ForecastConfig::default(), &["f".to_owned()]);
    for second in [100, 500] {
        forecaster.pre_trigger(at(second), &PreTrigger { emitted_at: at(second), ..notice(&second.to_string()) });
    }
    let kept = forecaster.take_all_snapshots(at(501));
    assert_eq!(kept.len(), 1);
    assert_eq!(state(&kept[0]).sources.len(), 1);
}

#[test]
fn a_snapshot_is_small() {
    let kept = taught().take_all_snapshots(at(30_000));
    let lens: Vec<usize> = kept.iter().map(|kept| kept.state.0.len()).collect();
    // A record, a source and a chain; a record alone.
    assert_eq!(lens, [874, 608]);
}

#[test]
fn pairs_are_looked_at_some_at_a_time_and_none_is_left_out() {
    let names = names(10_000);
    let mut forecaster = fresh_of(ForecastConfig::default(), &names);
    forecaster.take_snapshots(at(0));
    for (nth, serial) in (0..9_999).zip(1..) {
        let source = forecaster.sources.meet(None, &format!("s{}", nth % 100)).unwrap();
        forecaster.sources.meet_pair(source, serial).unwrap();
    }
    tell(&mut forecaster, 100, "last", "f9999", 1.0, 1);
    let looks: Vec<_> = (0..22).map(|nth| forecaster.take_snapshots(at(300 + nth))).collect();
    // 10,000 pairs take three looks, of which the last one goes on to functions: f9999 is in the 20th part of those.
    assert_eq!(looks.iter().position(|kept| !kept.is_empty()), Some(21));
    assert_eq!(state(&looks[21][0]).sources.len(), 1);
}
