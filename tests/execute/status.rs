//! What is so of a function, while it is loaded, refused, away, failing, and mended.

use forewarm::types::{FunctionFacts, StatusKind};

use super::*;

fn facts(bench: &Bench, name: &str) -> FunctionFacts {
    bench.executor.facts(&FunctionName::new(name).unwrap()).unwrap()
}

/// Waits for a state, and says what is so then.
fn in_state(bench: &Bench, name: &str, state: StatusKind) -> FunctionFacts {
    wait_for(&format!("{name} to be {}", state.as_str()), || facts(bench, name).state == state);
    facts(bench, name)
}

fn versions(facts: &FunctionFacts) -> (Option<&str>, Option<&str>) {
    (facts.version.as_deref(), facts.running_version.as_deref())
}

#[test]
fn a_version_is_loaded_and_then_proven_by_an_instance() {
    let bench = Bench::new();
    bench.define("f", FunctionKind::Component, ECHO, |_| {});
    let loaded = in_state(&bench, "f", StatusKind::Loaded);
    assert_eq!((versions(&loaded), loaded.ready, loaded.reason.as_deref()), ((Some("1"), Some("1")), 0, None));
    bench.warm("f", 2);
    let running = facts(&bench, "f");
    assert_eq!((running.state, running.ready, running.busy, running.waiting), (StatusKind::Running, 2, 0, 0));
    bench.define("f", FunctionKind::Component, ECHO, |definition| definition.enabled = false);
    let disabled = facts(&bench, "f");
    assert_eq!((disabled.state, versions(&disabled), disabled.ready), (StatusKind::Disabled, (Some("1"), None), 0));
}

#[test]
fn a_version_that_is_refused_is_told_beside_the_one_that_runs() {
    let bench = Bench::new();
    bench.define("f", FunctionKind::Component, b"no wasm", |_| {});
    let refused = in_state(&bench, "f", StatusKind::Refused);
    assert_eq!(versions(&refused), (Some("1"), None));
    assert!(refused.reason.is_some());
    assert_eq!(bench.executor.in_trouble(9).len(), 1);
    bench.define("f", FunctionKind::Component, ECHO, |definition| definition.version = "2".to_owned());
    in_state(&bench, "f", StatusKind::Loaded);
    bench.define("f", FunctionKind::Component, b"no wasm", |definition| definition.version = "3".to_owned());
    let refused = in_state(&bench, "f", StatusKind::Refused);
    assert_eq!(versions(&refused), (Some("3"), Some("2")));
    // One that cannot even be read has no version; the next one that can has.
    bench.executor.refuse("f", "version must have 1 to 128 bytes");
    let unreadable = facts(&bench, "f");
    assert_eq!((unreadable.state, versions(&unreadable)), (StatusKind::Refused, (None, Some("2"))));
    bench.define("f", FunctionKind::Component, ECHO, |definition| definition.version = "4".to_owned());
    let mended = in_state(&bench, "f", StatusKind::Loaded);
    assert_eq!(versions(&mended), (Some("4"), Some("4")));
    assert!(bench.executor.in_trouble(9).is_empty());
}

#[test]
fn an_artifact_that_is_away_is_told_until_it_is_there() {
    let bench = Bench::new();
    let artifact = Artifact { uri: "store:".to_owned(), sha256: Sha256::of(ECHO) };
    let name = FunctionName::new("f").unwrap();
    bench.executor.define(Arc::new(FunctionDefinition::new(name, "1", artifact, FunctionKind::Component)));
    bench.submit(1, "f", b"x");
    let away = in_state(&bench, "f", StatusKind::Unavailable);
    assert_eq!((versions(&away), away.waiting), ((Some("1"), None), 1));
    assert!(away.reason.unwrap().contains("cannot be read"));
    bench.artifacts.0.lock().unwrap().insert(Sha256::of(ECHO), ECHO.to_vec());
    assert_eq!(bench.outcome().1.status, Status::Ok);
    assert_eq!(facts(&bench, "f").state, StatusKind::Running);
}

#[test]
fn a_version_whose_init_fails_is_told_with_the_last_reason_until_one_instance_is_ready() {
    let bench = Bench::new();
    let fails = |wish: &'static str| {
        move |definition: &mut FunctionDefinition| {
            definition.environment.insert("FAIL_INIT".to_owned(), wish.to_owned());
        }
    };
    bench.define("f", FunctionKind::Component, HOSTILE, fails("not today"));
    bench.settle();
    let reason = WarmReason { kind: WarmKind::Floor, detail: None };
    let target = WarmTarget { ready: 2, parts: vec![TargetPart { reason, instances: 2 }] };
    bench.executor.set_target(&FunctionName::new("f").unwrap(), target);
    let failing = in_state(&bench, "f", StatusKind::Failing);
    assert_eq!(failing.ready, 0);
    let failures = failing.failures.unwrap();
    assert!(failures.count >= 1 && failures.since <= failures.last_at, "{failures:?}");
    assert!(failures.reason.contains("not today"), "{failures:?}");
    assert_eq!(failing.reason.as_ref(), Some(&failures.reason));
    bench.define("f", FunctionKind::Component, HOSTILE, |_| {});
    let mended = in_state(&bench, "f", StatusKind::Running);
    assert_eq!(mended.failures, None);
}

#[test]
fn only_what_changed_is_told_again() {
    let bench = Bench::new();
    bench.define("f", FunctionKind::Component, ECHO, |_| {});
    bench.define("g", FunctionKind::Component, ECHO, |_| {});
    bench.settle();
    let known: HashMap<_, _> =
        bench.executor.changed(|_| None, 9).into_iter().map(|(name, change, _)| (name, change)).collect();
    assert_eq!(known.len(), 2);
    assert_eq!(bench.executor.changed(|_| None, 1).len(), 1);
    assert!(bench.executor.changed(|name| known.get(name).copied(), 9).is_empty());
    bench.warm("g", 1);
    let changed = bench.executor.changed(|name| known.get(name).copied(), 9);
    let changed: Vec<_> = changed.into_iter().map(|(name, _, facts)| (name.to_string(), facts.state)).collect();
    assert_eq!(changed, [("g".to_owned(), StatusKind::Running)]);
}
