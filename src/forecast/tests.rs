//! The forecaster as a whole: verdicts, criteria, clocks that lie, looks.

use std::num::NonZeroU32;
use std::time::Duration;

use super::*;
use crate::types::{Artifact, Criteria, FunctionKind, Sha256};

pub(super) fn at(seconds: i64) -> Timestamp {
    Timestamp::from_millis(seconds * 1_000)
}

pub(super) fn name(text: &str) -> FunctionName {
    FunctionName::new(text).unwrap()
}

pub(super) fn definition(function: &str, criteria: Criteria) -> FunctionDefinition {
    let artifact = Artifact { uri: "store:".to_owned(), sha256: Sha256([0; 32]) };
    FunctionDefinition {
        pre_trigger: criteria,
        ..FunctionDefinition::new(name(function), "1", artifact, FunctionKind::Component)
    }
}

/// One that learns no chains, and expects nothing of newcomers.
pub(super) fn forecaster_of(config: ForecastConfig) -> Forecaster {
    let config = ForecastConfig { newcomer_share: 0.0, ..config };
    Forecaster::new(config, &ChainsConfig { enabled: false, ..ChainsConfig::default() }, Model::shipped())
}

pub(super) fn forecaster(criteria: Criteria) -> Forecaster {
    let mut forecaster = forecaster_of(ForecastConfig::default());
    forecaster.define(at(0), at(0), definition("f", criteria)).unwrap();
    forecaster
}

/// A notice of 4 calls from second 100 on for 10 s.
pub(super) fn notice(id: &str) -> PreTrigger {
    PreTrigger {
        id: id.to_owned(),
        source: "s".to_owned(),
        function: name("f"),
        tenant: None,
        expected_invocations: 4,
        confidence: 1.0,
        not_before: None,
        window_ms: 10_000,
        emitted_at: at(100),
        attributes: Default::default(),
    }
}

fn announced(forecaster: &Forecaster, now: Timestamp) -> f64 {
    forecaster.demand(now, &name("f")).notices.iter().map(|notice| notice.calls).sum()
}

#[test]
fn each_verdict() {
    use Criterion::*;
    let criteria = Criteria { confidence_min: 0.5, sources: vec!["s".to_owned()], ..Criteria::default() };
    let mut forecaster = forecaster(criteria);
    let hours = |h: u64| h * 3_600_000;
    let rows = [
        (PreTrigger { function: name("g"), ..notice("a") }, Verdict::Refused(UnknownFunction)),
        (PreTrigger { id: String::new(), ..notice("a") }, Verdict::Refused(IdLength)),
        (PreTrigger { id: "i".repeat(257), ..notice("a") }, Verdict::Refused(IdLength)),
        (PreTrigger { source: "t".to_owned(), ..notice("a") }, Verdict::Refused(SourceNotAllowed)),
        (PreTrigger { source: "s".repeat(257), ..notice("a") }, Verdict::Refused(SourceLength)),
        (PreTrigger { tenant: Some("t".repeat(257)), ..notice("a") }, Verdict::Refused(SourceLength)),
        (PreTrigger { confidence: 0.49, ..notice("a") }, Verdict::Refused(ConfidenceTooLow)),
        (PreTrigger { confidence: f64::NAN, ..notice("a") }, Verdict::Refused(ConfidenceTooLow)),
        (PreTrigger { window_ms: hours(1) + 1, ..notice("a") }, Verdict::Refused(WindowTooLong)),
        (PreTrigger { not_before: Some(at(100 + 3_600)), ..notice("a") }, Verdict::Refused(TooFarAhead)),
        (PreTrigger { emitted_at: at(90), ..notice("a") }, Verdict::Late),
        (PreTrigger { expected_invocations: 0, ..notice("a") }, Verdict::UnknownWithdrawal),
        (PreTrigger { window_ms: hours(1), ..notice("a") }, Verdict::Accepted),
        (PreTrigger { id: "i".repeat(256), ..notice("a") }, Verdict::Accepted),
        (notice("a"), Verdict::Replaced),
        (PreTrigger { confidence: 0.1, ..notice("a") }, Verdict::Refused(ConfidenceTooLow)),
        (PreTrigger { expected_invocations: 0, confidence: 0.0, ..notice("a") }, Verdict::Withdrawn),
        (notice("a"), Verdict::Accepted),
    ];
    for (pre_trigger, verdict) in rows {
        assert_eq!(forecaster.pre_trigger(at(100), &pre_trigger), verdict, "{pre_trigger:?}");
    }
    assert_eq!(announced(&forecaster, at(100)), 8.0);
    let disabled = FunctionDefinition { enabled: false, ..definition("f", Criteria::default()) };
    forecaster.define(at(0), at(0), disabled).unwrap();
    assert_eq!(forecaster.pre_trigger(at(100), &notice("b")), Verdict::Refused(FunctionDisabled));
}

#[test]
fn too_few_notices_wait_and_then_act_together() {
    let mut forecaster = forecaster(Criteria { notices_min: 3, within_ms: 5_000, ..Criteria::default() });
    assert_eq!(forecaster.pre_trigger(at(100), &notice("a")), Verdict::Pending);
    assert_eq!(forecaster.pre_trigger(at(101), &notice("b")), Verdict::Pending);
    assert_eq!(forecaster.pre_trigger(at(101), &notice("b")), Verdict::Replaced);
    assert_eq!(announced(&forecaster, at(101)), 0.0);
    assert_eq!(forecaster.pre_trigger(at(102), &notice("c")), Verdict::Accepted);
    assert_eq!(announced(&forecaster, at(102)), 12.0);
}

#[test]
fn clocks_that_lie_give_no_everlasting_notice() {
    let mut forecaster = forecaster(Criteria::default());
    let year = 365 * 86_400;
    let ahead = PreTrigger { emitted_at: at(100 + year), ..notice("a") };
    assert_eq!(forecaster.pre_trigger(at(100), &ahead), Verdict::Accepted);
    assert_eq!((announced(&forecaster, at(109)), announced(&forecaster, at(110))), (4.0, 0.0));
    // A start within the bound and an end past it: the end is brought back.
    let long = PreTrigger { not_before: Some(at(3_000)), window_ms: 3_600_000, ..notice("b") };
    assert_eq!(forecaster.pre_trigger(at(100), &long), Verdict::Accepted);
    assert_eq!((announced(&forecaster, at(3_699)), announced(&forecaster, at(3_700))), (4.0, 0.0));
    for (emitted_at, window_ms) in [(i64::MAX, 10_000), (i64::MAX, u64::MAX), (i64::MIN, u64::MAX), (i64::MIN, 0)] {
        let wild = PreTrigger { emitted_at: Timestamp::from_micros(emitted_at), window_ms, ..notice("c") };
        forecaster.pre_trigger(at(100), &wild);
    }
    assert_eq!(announced(&forecaster, at(3_700)), 0.0);
}

#[test]
fn a_scheduled_notice_acts_the_lead_before_its_start_and_takes_no_call_before() {
    let mut forecaster = forecaster(Criteria::default());
    let scheduled = PreTrigger { not_before: Some(at(200)), ..notice("a") };
    assert_eq!(forecaster.pre_trigger(at(100), &scheduled), Verdict::Accepted);
    forecaster.take_changed(at(100));
    forecaster.arrived(at(150), &name("f"), Evidence::default());
    assert_eq!(forecaster.take_changed(at(150)), [name("f")]);
    assert_eq!(announced(&forecaster, at(197)), 0.0);
    assert_eq!(announced(&forecaster, at(198)), 4.0);
    assert_eq!(forecaster.take_changed(at(198)), [name("f")]);
    // Its last bin of lags began at 8.192 s.
    assert_eq!(forecaster.take_changed(at(209)), [name("f")]);
    assert!(forecaster.take_changed(Timestamp::from_millis(209_999)).is_empty());
    assert_eq!(forecaster.take_changed(at(210)), [name("f")]);
    assert_eq!((announced(&forecaster, at(210)), forecaster.notices_held()), (0.0, 1));
    // A call within the grace would make it late; none comes.
    assert!(forecaster.take_outcomes().is_empty());
    assert_eq!(forecaster.take_changed(at(220)), [name("f")]);
    assert_eq!(forecaster.notices_held(), 0);
    assert_eq!(forecaster.take_outcomes()[0].kind, OutcomeKind::Expired);
}

#[test]
fn notices_are_bounded_over_all_functions_and_make_room_when_they_end() {
    let config = ForecastConfig {
        notices_max: NonZeroU32::new(2).unwrap(),
        notices_source_share_max: 1.0,
        notices_tenant_share_max: 1.0,
        late_grace: Duration::ZERO,
        ..ForecastConfig::default()
    };
    let mut forecaster = forecaster_of(config);
    for function in ["f", "g"] {
        forecaster.define(at(0), at(0), definition(function, Criteria::default())).unwrap();
    }
    let (source, tenant) = ("t".to_owned(), Some("t".to_owned()));
    let of_g =
        |id: &str| PreTrigger { function: name("g"), source: source.clone(), tenant: tenant.clone(), ..notice(id) };
    assert_eq!(forecaster.pre_trigger(at(100), &notice("a")), Verdict::Accepted);
    assert_eq!(forecaster.pre_trigger(at(100), &of_g("b")), Verdict::Accepted);
    assert_eq!(forecaster.pre_trigger(at(100), &of_g("c")), Verdict::Refused(Criterion::TooManyNotices));
    assert_eq!(forecaster.pre_trigger(at(100), &of_g("b")), Verdict::Replaced);
    // A spent notice of the same function makes room; its id is forgotten, and that is counted.
    (0..4).for_each(|_| forecaster.arrived(at(101), &name("g"), Evidence::default()));
    assert_eq!(forecaster.pre_trigger(at(101), &of_g("c")), Verdict::Accepted);
    assert_eq!(forecaster.counters().ids_forgotten, 1);
    assert!(forecaster.remove(at(101), &name("f")) && !forecaster.remove(at(101), &name("f")));
    assert_eq!(forecaster.notices_held(), 1);
    assert_eq!(forecaster.pre_trigger(at(101), &of_g("d")), Verdict::Accepted);
    forecaster.take_changed(at(110));
    assert_eq!(forecaster.notices_held(), 0);
}

#[test]
fn functions_are_bounded_and_what_is_unknown_is_counted() {
    let config = ForecastConfig { functions_max: NonZeroU32::MIN, ..ForecastConfig::default() };
    let mut forecaster = forecaster_of(config);
    forecaster.define(at(0), at(0), definition("f", Criteria::default())).unwrap();
    forecaster.define(at(0), at(0), definition("f", Criteria::default())).unwrap();
    let refused = forecaster.define(at(0), at(0), definition("g", Criteria::default()));
    assert_eq!(refused, Err(Error::TooManyFunctions { function: name("g"), limit: 1 }));
    forecaster.arrived(at(0), &name("g"), Evidence::default());
    forecaster.ended(at(0), &name("g"), Duration::ZERO);
    forecaster.observed(at(0), &name("g"), &PoolUsage::default());
    assert_eq!(forecaster.counters().unknown_function_events, 3);
    assert_eq!(forecaster.demand(at(0), &name("g")), Demand::default());
}

#[test]
fn history_is_the_peak_of_the_window_and_time_alone_ends_it() {
    let mut forecaster = forecaster(Criteria::default());
    let usage = PoolUsage { busy: 1, waiting: 1, in_flight_peak: 7, ..PoolUsage::default() };
    forecaster.observed(at(101), &name("f"), &usage);
    forecaster.looked();
    let demand = forecaster.demand(at(101), &name("f"));
    assert_eq!((demand.history, demand.in_flight), (7.0, 2));
    assert_eq!(forecaster.take_changed(at(101)), [name("f")]);
    assert_eq!(forecaster.demand(at(159), &name("f")).history, 7.0);
    // Buckets are 5 s wide: that of second 101 began at 100 and leaves at 160.
    assert_eq!(forecaster.take_changed(at(160)), [name("f")]);
    assert_eq!(forecaster.demand(at(160), &name("f")).history, 0.0);
}

#[test]
fn a_look_corrects_the_count_of_calls_in_flight() {
    let mut forecaster = forecaster(Criteria::default());
    let in_flight = |forecaster: &Forecaster| forecaster.demand(at(0), &name("f")).in_flight;
    (0..3).for_each(|_| forecaster.arrived(at(0), &name("f"), Evidence::default()));
    forecaster.ended(at(0), &name("f"), Duration::ZERO);
    assert_eq!(in_flight(&forecaster), 2);
    forecaster.observed(at(0), &name("f"), &PoolUsage { busy: 5, ..PoolUsage::default() });
    forecaster.looked();
    assert_eq!(in_flight(&forecaster), 5);
    forecaster.take_changed(at(0));
    // Not listed any more: whatever ended was not told.
    forecaster.looked();
    assert_eq!(in_flight(&forecaster), 0);
    assert_eq!(forecaster.take_changed(at(0)), [name("f")]);
    forecaster.ended(at(0), &name("f"), Duration::ZERO);
    assert_eq!(in_flight(&forecaster), 0);
}
