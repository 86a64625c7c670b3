//! Functions that share one node: turns to prepare, slots, and a neighbour that takes all that it gets.

use super::*;

/// Nothing here waits for it.
const AN_HOUR: Duration = Duration::from_secs(3_600);

/// Its start function never ends and never calls the host.
const LOOPS_AT_START: &str = r#"(module
  (memory (export "memory") 1)
  (func $spin (loop $again (br $again)))
  (start $spin)
  (func (export "_start")))"#;

/// Its start function waits in the host for an hour.
const SLEEPS_AT_START: &str = r#"(module
  (import "wasi_snapshot_preview1" "poll_oneoff" (func $poll (param i32 i32 i32 i32) (result i32)))
  (memory (export "memory") 1)
  (func $sleep
    (i32.store (i32.const 16) (i32.const 1))
    (i64.store (i32.const 24) (i64.const 3600000000000))
    (drop (call $poll (i32.const 0) (i32.const 64) (i32.const 1) (i32.const 128))))
  (start $sleep)
  (func (export "_start")))"#;

fn tickets(bench: &Bench, count: usize, status: Status) -> Vec<u32> {
    let ended = (0..count).map(|_| bench.outcome());
    let mut tickets: Vec<u32> = ended
        .map(|(ticket, result)| {
            assert_eq!(result.status, status, "{result:?}");
            ticket
        })
        .collect();
    tickets.sort_unstable();
    tickets
}

fn target(kind: WarmKind, instances: u32) -> WarmTarget {
    let reason = WarmReason { kind, detail: None };
    WarmTarget { ready: instances, parts: vec![TargetPart { reason, instances }] }
}

fn name(name: &str) -> FunctionName {
    FunctionName::new(name).unwrap()
}

/// An innocent function is called beside many calls of one that never comes out of its start function; then that one is
/// removed, and nothing of it stays.
fn beside_a_start_that_never_ends(start: &str) {
    let bench = Bench::with(|config| {
        config.init_timeout = AN_HOUR;
        config.instances_max = 1_000;
    });
    for number in 0..3 {
        bench.define(&format!("neighbour-{number}"), FunctionKind::Command, &wat(start), |_| {});
    }
    bench.define("risk", FunctionKind::Component, RISK, |_| {});
    bench.settle();
    for ticket in 0..40 {
        bench.submit(ticket, &format!("neighbour-{}", ticket % 3), b"");
    }
    wait_for("the neighbours to be begun", || (0..3).all(|n| bench.usage(&format!("neighbour-{n}")).preparing > 0));
    for ticket in 100..116 {
        bench.submit(ticket, "risk", b"{}");
    }
    assert_eq!(tickets(&bench, 16, Status::Ok), (100..116).collect::<Vec<_>>());
    assert!((0..3).all(|number| bench.usage(&format!("neighbour-{number}")).waiting > 0));

    // Ahead too: a floor of the neighbours does not keep the innocent one's away.
    for number in 0..3 {
        bench.executor.set_target(&name(&format!("neighbour-{number}")), target(WarmKind::Floor, 300));
    }
    bench.define("ahead", FunctionKind::Component, RISK, |_| {});
    bench.settle();
    bench.warm("ahead", 2);

    for number in 0..3 {
        bench.executor.remove(&name(&format!("neighbour-{number}")));
    }
    assert_eq!(tickets(&bench, 40, Status::Rejected), (0..40).collect::<Vec<_>>());
    wait_for("nothing of the neighbours to be left", || {
        bench.executor.in_use().instances == bench.usage("risk").ready + bench.usage("ahead").ready
    });
}

#[test]
fn a_neighbour_that_loops_while_it_is_prepared_keeps_nobody_waiting() {
    beside_a_start_that_never_ends(LOOPS_AT_START);
}

#[test]
fn a_neighbour_that_sleeps_while_it_is_prepared_keeps_nobody_waiting() {
    beside_a_start_that_never_ends(SLEEPS_AT_START);
}

#[test]
fn a_new_version_takes_the_place_of_one_whose_start_never_ends() {
    let bench = Bench::with(|config| config.init_timeout = AN_HOUR);
    bench.define("function", FunctionKind::Command, &wat(SLEEPS_AT_START), |_| {});
    bench.settle();
    bench.submit(1, "function", b"x");
    wait_for("version 1 to be begun", || bench.usage("function").preparing == 1);
    bench.define("function", FunctionKind::Command, &wat(CAT), |definition| definition.version = "2".to_owned());
    let ended = bench.outcome().1;
    assert_eq!((ended.status, ended.function_version.as_deref()), (Status::Ok, Some("2")));
    wait_for("version 1 to be gone", || bench.executor.in_use().instances == bench.usage("function").ready);
}

#[test]
fn a_burst_of_cold_calls_makes_few_instances_where_they_are_used_again() {
    let bench = Bench::with(|config| config.instances_max = 256);
    bench.define("risk", FunctionKind::Component, RISK, |_| {});
    bench.settle();
    for ticket in 0..64 {
        bench.submit(ticket, "risk", b"{}");
    }
    assert_eq!(tickets(&bench, 64, Status::Ok).len(), 64);
    wait_for("what was begun to be done", || bench.usage("risk").preparing == 0);
    let cores = std::thread::available_parallelism().unwrap().get() as u64;
    // One for each call would be 64. A machine that is busy serves the waiting calls later, and makes some more meanwhile.
    let (made, most) = (bench.metrics.instances_prepared.get(), (8 * cores).max(24));
    assert!(made <= most, "{made} instances were made for 64 short calls on {cores} cores");
}

#[test]
fn init_that_fails_again_and_again_is_the_answer_of_every_call_that_waits() {
    let bench = Bench::new();
    bench.define("traps", FunctionKind::Component, HOSTILE, |definition| {
        definition.environment.insert("FAIL_INIT".to_owned(), "trap".to_owned());
    });
    bench.settle();
    for ticket in 0..200 {
        bench.submit(ticket, "traps", b"behave");
    }
    assert_eq!(tickets(&bench, 200, Status::Trap), (0..200).collect::<Vec<_>>());
    wait_for("what was begun to be done", || bench.usage("traps").preparing == 0);
    let failures = bench.metrics.prepare_failures.get();
    assert!(failures <= 50, "{failures} preparations failed for 200 calls");
    // A new version is tried at once.
    bench.define("traps", FunctionKind::Component, ECHO, |definition| definition.version = "2".to_owned());
    wait_for("version 2", || bench.call("traps", b"x").status == Status::Ok);
}

#[test]
fn a_full_pool_gives_up_what_history_wants_for_calls_that_wait() {
    let bench = Bench::with(|config| {
        config.instances_max = 4;
        config.function_instances_share_max = 1.0;
    });
    bench.define("idle", FunctionKind::Component, ECHO, |_| {});
    bench.define("busy", FunctionKind::Component, ECHO, |_| {});
    bench.settle();
    bench.executor.set_target(&name("idle"), target(WarmKind::History, 100));
    // A place is kept for calls.
    wait_for("the pool to be full but for a place", || bench.usage("idle").ready == 3);
    for _ in 0..20 {
        assert_eq!(bench.call("busy", b"x").status, Status::Ok);
        assert_eq!(bench.call("idle", b"x").status, Status::Ok);
        drop(bench.executor.look());
        bench.executor.reconcile();
        assert!(bench.executor.in_use().instances <= 4);
    }
}

#[test]
fn nobody_takes_a_floor_and_one_function_takes_no_more_than_its_share() {
    let bench = Bench::with(|config| config.instances_max = 8);
    bench.define("hostile", FunctionKind::Component, HOSTILE, |definition| {
        definition.limits.concurrency = 4_000;
        definition.limits.timeout_ms = 3_600_000;
    });
    bench.define("flood", FunctionKind::Component, HOSTILE, |definition| definition.limits.concurrency = 4_000);
    bench.define("floor", FunctionKind::Component, ECHO, |_| {});
    bench.define("other", FunctionKind::Component, ECHO, |_| {});
    bench.settle();
    bench.warm("floor", 2);
    let cancelled = Cancelled::not_yet();
    for ticket in 0..100 {
        bench.submit_with(ticket, "hostile", b"sleep", None, &cancelled);
    }
    wait_for("the share to be used up", || bench.usage("hostile").busy == 4);
    // Those that wait are looked after at a tick, and cost nothing before it.
    let missing = bench.metrics.slots_missing.get();
    assert!(missing <= 100, "{missing} slots were sought in vain for 100 calls");
    for ticket in 100..200 {
        bench.submit_with(ticket, "flood", b"behave", None, &cancelled);
    }
    assert_eq!(tickets(&bench, 100, Status::Ok), (100..200).collect::<Vec<_>>());
    for _ in 0..20 {
        assert_eq!(bench.call("other", b"x").status, Status::Ok);
        assert_eq!(bench.call("floor", b"x").start_kind.map(|kind| kind == StartKind::Linked), Some(false));
        bench.executor.reconcile();
        assert!(bench.usage("floor").ready >= 2 && bench.usage("hostile").busy == 4);
    }
    cancelled.set();
}

#[test]
fn the_end_of_the_engines_pool_is_a_missing_slot_and_no_trap() {
    let bench = Bench::with(|config| config.function_instances_share_max = 1.0);
    // Eight tables each, of the four that the pool has for each of its 32 instances.
    let tables = "(table 1 funcref)".repeat(8);
    let greedy = wat(&format!(r#"(module (memory (export "memory") 1) {tables} (func (export "_start")))"#));
    bench.define("greedy", FunctionKind::Command, &greedy, |_| {});
    bench.define("idle", FunctionKind::Command, &greedy, |_| {});
    bench.settle();
    bench.executor.set_target(&name("greedy"), target(WarmKind::Floor, 28));
    wait_for("the tables to be used up", || bench.metrics.slots_missing.get() > 0);
    assert_eq!(bench.metrics.prepare_failures.get(), 0);
    // Calls of it take what is there, and then what they give back.
    for ticket in 0..64 {
        bench.submit(ticket, "greedy", b"");
    }
    // What is to be tried again is tried again at a tick.
    let mut ended = 0;
    wait_for("every call to end", || {
        bench.executor.reconcile();
        while let Ok(end) = bench.outcomes.try_recv() {
            assert!(matches!(end, Ended::With(_, result) if result.status == Status::Ok));
            ended += 1;
        }
        ended == 64
    });
    // Another function's call takes what only history wants.
    bench.executor.set_target(&name("greedy"), target(WarmKind::History, 28));
    wait_for("the tables to be used up again", || {
        bench.executor.reconcile();
        bench.usage("greedy").ready == 16
    });
    assert_eq!(bench.call("idle", b"").status, Status::Ok);
    assert_eq!(bench.metrics.prepare_failures.get(), 0);
}

#[test]
fn an_init_that_takes_too_long_is_named() {
    for start in [LOOPS_AT_START, SLEEPS_AT_START] {
        let bench = Bench::with(|config| config.init_timeout = Duration::from_millis(50));
        bench.define("slow", FunctionKind::Command, &wat(start), |_| {});
        bench.settle();
        let ended = bench.call("slow", b"");
        assert_eq!((ended.status, code(&ended)), (Status::Timeout, "init_timeout"), "{ended:?}");
        assert!(ended.error.unwrap().message.contains("execute.init-timeout (50ms)"));
    }
}
