//! Functions that cannot run, and functions that are no more while calls of them run.

use super::*;

/// Where an artifact that is missing should have been.
const NOT_THERE: &str = "/a/place/of/this/host";

/// What a store says of one.
pub fn missing(artifact: &Artifact) -> ArtifactError {
    let source = std::io::ErrorKind::NotFound.into();
    ArtifactError::Read { uri: artifact.uri.clone(), path: NOT_THERE.into(), source }
}

fn name(name: &str) -> FunctionName {
    FunctionName::new(name).unwrap()
}

/// Until there is one more outcome, as the control plane's ticks would.
fn ticked(bench: &Bench) -> (u32, InvocationResult) {
    let deadline = Instant::now() + PATIENCE;
    loop {
        assert!(Instant::now() < deadline, "waited in vain for an outcome");
        bench.executor.look();
        bench.executor.reconcile();
        match bench.outcomes.recv_timeout(Duration::from_millis(20)) {
            Ok(Ended::With(ticket, result)) => return (ticket, *result),
            Ok(Ended::GivenBack(ticket)) => panic!("call {ticket} was given back"),
            Err(_) => {}
        }
    }
}

#[test]
fn calls_wait_a_while_for_an_artifact_and_are_answered_at_once_from_then_on_until_it_is_there() {
    let bench = Bench::with(|config| config.unavailable_after = Duration::from_millis(300));
    let artifact = Artifact { uri: "store:".to_owned(), sha256: Sha256::of(ECHO) };
    bench.executor.define(Arc::new(FunctionDefinition::new(name("late"), "1", artifact, FunctionKind::Component)));
    let began = Instant::now();
    (1..=3).for_each(|ticket| bench.submit(ticket, "late", b""));
    for _ in 0..3 {
        let (_, result) = ticked(&bench);
        assert_eq!((result.status, code(&result)), (Status::Rejected, "unavailable"));
        let message = result.error.unwrap().message;
        assert!(message.contains("the artifact cannot be read"), "{message}");
        assert!(!message.contains(NOT_THERE), "no caller is told of this host's paths: {message}");
    }
    assert!(began.elapsed() >= Duration::from_millis(300), "they have waited");
    bench.submit(4, "late", b"");
    // Without a tick.
    let (ticket, result) = bench.outcome();
    assert_eq!((ticket, code(&result)), (4, "unavailable"));
    bench.artifacts.0.lock().unwrap().insert(Sha256::of(ECHO), ECHO.to_vec());
    bench.settle();
    bench.submit(5, "late", b"x");
    assert_eq!(bench.outcome().1.status, Status::Ok);
}

#[test]
fn of_a_function_whose_init_fails_for_long_calls_wait_only_for_an_instance_that_is_being_tried() {
    let bench = Bench::with(|config| config.unavailable_after = Duration::from_millis(100));
    bench.define("bad", FunctionKind::Component, HOSTILE, |definition| {
        definition.environment.insert("FAIL_INIT".to_owned(), "no such word".to_owned());
    });
    bench.settle();
    // Each of these is answered by what its own instance came to; the fourth waits for the pause that follows three failures, and
    // then that has lasted.
    for _ in 0..3 {
        assert_eq!(bench.call("bad", b"").status, Status::FunctionError);
    }
    bench.submit(41, "bad", b"");
    let fourth = ticked(&bench).1;
    // Where the first three took long, it has lasted already.
    assert!(fourth.status == Status::FunctionError || code(&fourth) == "unavailable", "{fourth:?}");
    (1..=40).for_each(|ticket| bench.submit(ticket, "bad", b""));
    let results: Vec<_> = (0..40).map(|_| ticked(&bench).1).collect();
    let unavailable = results.iter().filter(|result| code(result) == "unavailable").count();
    // One may have been tried again meanwhile; its failure answers each call that waits, and nothing else does.
    let tried = results.iter().filter(|result| result.status == Status::FunctionError).count();
    assert_eq!(unavailable + tried, 40);
    assert!((1..=40).contains(&unavailable), "{unavailable}");
    let message = results.iter().find(|result| code(result) == "unavailable").unwrap().error.clone().unwrap().message;
    assert!(message.contains("no such word"), "{message}");
}

#[test]
fn calls_that_run_when_their_function_is_removed_disabled_or_replaced_end_when_their_grace_is_over() {
    let bench = Bench::with(|config| config.removal_grace = Duration::from_millis(200));
    let endless = |definition: &mut FunctionDefinition| definition.limits.timeout_ms = 3_600_000;
    // One that computes, and one that waits in the host.
    for harm in [b"loop".as_slice(), b"sleep"] {
        for expected in ["removed", "disabled", "replaced"] {
            let called = format!("{expected}-{}", harm.len());
            bench.define(&called, FunctionKind::Component, HOSTILE, endless);
            bench.settle();
            (1..=2).for_each(|ticket| bench.submit(ticket, &called, harm));
            wait_for("both calls to run", || bench.usage(&called).busy == 2);
            let began = Instant::now();
            match expected {
                "removed" => bench.executor.remove(&name(&called)),
                "disabled" => bench.define(&called, FunctionKind::Component, HOSTILE, |definition| {
                    endless(definition);
                    definition.enabled = false;
                }),
                _ => bench.define(&called, FunctionKind::Component, ECHO, |_| {}),
            }
            for _ in 0..2 {
                let (_, result) = bench.outcome();
                assert_eq!((result.status, code(&result)), (Status::Timeout, expected), "{result:?}");
            }
            assert!(began.elapsed() >= Duration::from_millis(200), "they have had their grace");
        }
    }
    // What came in the place of the replaced one serves.
    assert_eq!(bench.call("replaced-4", b"x").status, Status::Ok);
}

#[test]
fn a_call_that_ends_within_the_grace_of_its_function_has_its_own_outcome() {
    let bench = Bench::new();
    bench.define("brief", FunctionKind::Component, HOSTILE, |definition| definition.limits.timeout_ms = 300);
    bench.settle();
    bench.submit(1, "brief", b"loop");
    wait_for("the call to run", || bench.usage("brief").busy == 1);
    bench.executor.remove(&name("brief"));
    let (_, result) = bench.outcome();
    assert_eq!((result.status, code(&result)), (Status::Timeout, "timeout"));
}

#[test]
fn init_that_fails_is_an_outcome_of_its_call() {
    let bench = Bench::new();
    for (name, fail, status) in [("says-no", "not today", Status::FunctionError), ("traps", "trap", Status::Trap)] {
        bench.define(name, FunctionKind::Component, HOSTILE, |definition| {
            definition.environment.insert("FAIL_INIT".to_owned(), fail.to_owned());
        });
        bench.settle();
        let result = bench.call(name, b"behave");
        assert_eq!((result.status, result.start_kind), (status, None), "{name}: {result:?}");
    }
}
