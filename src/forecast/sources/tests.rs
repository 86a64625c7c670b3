//! Accounts and levels of evidence.

use super::*;

const HOUR: u64 = 3_600_000_000;

fn sources(config: ForecastConfig) -> Sources {
    Sources::new(&config)
}

fn evidence(came: u32) -> Evidence {
    Evidence { announced: 8, confidence: 1.0, came_alone: came, came, behind: false, at_once: None, weight: 1.0 }
}

fn fresh(behind: bool) -> Standing {
    let (elapsed, window) = (Duration::ZERO, Duration::from_secs(10));
    Standing { announced: 8, confidence: 1.0, came: 0, behind, elapsed, window }
}

#[test]
fn a_budget_is_earned_by_what_comes() {
    let mut sources = sources(ForecastConfig::default());
    let source = sources.meet(None, "s").unwrap();
    let pair = sources.meet_pair(source, 1).unwrap();
    assert_eq!(sources.affordable(source, 0, HOUR), Ok(10));
    sources.commit(source, 0, 9 * HOUR);
    assert_eq!(sources.affordable(source, 0, HOUR), Ok(1));
    assert_eq!(sources.affordable(source, 0, HOUR + 1), Err(Criterion::SourceOverBudget));
    assert_eq!(sources.affordable(source, 9 * HOUR, 5 * HOUR), Ok(2));
    // Half of what is announced comes: after many notices that is 16.5 of the 33 that are remembered.
    (0..500).for_each(|_| sources.learn(source, pair, &evidence(4)));
    assert_eq!(sources.affordable(source, 0, HOUR), Ok(10 + 164 - 9));
    (0..500).for_each(|_| sources.learn(source, pair, &evidence(0)));
    assert_eq!(sources.affordable(source, 0, HOUR), Ok(1));
}

#[test]
fn a_tenant_has_one_budget_and_one_share_for_all_its_sources() {
    // Those without a tenant are one tenant's together.
    [Some("t"), None].into_iter().for_each(one_budget_and_one_share);
}

fn one_budget_and_one_share(tenant: Option<&str>) {
    let config = ForecastConfig {
        notices_max: std::num::NonZeroU32::new(8).unwrap(),
        sources_max: std::num::NonZeroU32::new(4).unwrap(),
        tenant_budget: Duration::from_hours(12),
        ..ForecastConfig::default()
    };
    let mut sources = sources(config);
    let meet = |sources: &mut Sources, name| sources.meet(tenant, name).unwrap();
    let [a, b, c] = ["a", "b", "c"].map(|name| meet(&mut sources, name));
    sources.commit(a, 0, 10 * HOUR);
    assert_eq!(sources.affordable(b, 0, HOUR), Ok(2));
    assert_eq!(sources.affordable(b, 0, 3 * HOUR), Err(Criterion::TenantOverBudget));
    (0..4).for_each(|_| sources.hold(a));
    assert_eq!(sources.has_place(a), Err(Criterion::SourceOverShare));
    sources.hold(b);
    assert_eq!(sources.has_place(b), Ok(()));
    sources.hold(c);
    // Six of eight notices, and three of four sources, are three quarters.
    assert_eq!(sources.has_place(c), Err(Criterion::TenantOverShare));
    sources.release(a);
    assert_eq!(sources.has_place(c), Ok(()));
    let d = meet(&mut sources, "d");
    assert_eq!(sources.has_place(d), Err(Criterion::TenantOverShare));
    // The same name in another tenant is somebody else.
    assert_eq!(sources.find(Some("u"), "a"), None);
    assert_eq!(sources.find(Some("ta"), ""), None);
    assert_eq!(sources.names(a), ("a", tenant));
}

#[test]
fn a_function_of_which_little_is_known_falls_back_to_all_functions_of_the_source() {
    let mut sources = sources(ForecastConfig::default());
    let source = sources.meet(None, "s").unwrap();
    let known = sources.meet_pair(source, 1).unwrap();
    let all = |sources: &Sources, pair| sources.outlook(source, pair, &fresh(false))[7];
    for _ in 0..20 {
        sources.learn(source, known, &evidence(0));
        sources.take_news();
    }
    let new = sources.meet_pair(source, 2).unwrap();
    assert!(all(&sources, new) < 0.2, "{}", all(&sources, new));
    // Its own evidence outweighs that soon, and is not counted a second time through the source.
    for _ in 0..20 {
        sources.learn(source, new, &evidence(8));
        sources.take_news();
    }
    assert!(all(&sources, new) > 0.85, "{}", all(&sources, new));
    assert!(all(&sources, known) < 0.15, "{}", all(&sources, known));
}

#[test]
fn what_is_forgotten_is_counted_and_starts_anew() {
    let one = std::num::NonZeroU32::MIN;
    let mut sources = sources(ForecastConfig { sources_max: one, source_functions_max: one, ..Default::default() });
    let source = sources.meet(Some("t"), "a").unwrap();
    let pair = sources.meet_pair(source, 1).unwrap();
    (0..20).for_each(|_| sources.learn(source, pair, &evidence(0)));
    sources.take_news();
    // The tenant of a source that is known stays known, so another one does not fit.
    assert_eq!(sources.meet(Some("u"), "a"), None);
    sources.hold(source);
    assert_eq!(sources.meet(None, "b"), None);
    sources.release(source);
    // The same place, and nothing of what was known of the one that had it.
    assert_eq!(sources.meet(None, "b"), Some(source));
    assert_eq!(sources.meet_pair(source, 1), Some(pair));
    assert!(sources.outlook(source, pair, &fresh(false))[7] > 0.89);
    assert_eq!(sources.forgotten(), 2);
}
