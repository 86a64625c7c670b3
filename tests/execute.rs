//! The executor with real guests and without Kafka: start kinds, limits, hostile guests, versions, eviction.

#![cfg(feature = "service")]
#![allow(clippy::unwrap_used, clippy::expect_used, reason = "a test may fail")]

#[path = "execute/leaving.rs"]
mod leaving;
#[path = "execute/memory.rs"]
mod memory;
#[path = "execute/said.rs"]
mod said;
#[path = "execute/sharing.rs"]
mod sharing;
#[path = "execute/status.rs"]
mod status;
#[path = "execute/unavailable.rs"]
mod unavailable;
#[path = "execute/wrote.rs"]
mod wrote;

use std::collections::HashMap;
use std::sync::mpsc::{Receiver, Sender, channel};
use std::sync::{Arc, Mutex};
use std::time::{Duration, Instant};

use forewarm::artifacts::{ArtifactError, ArtifactStore, CodeCache};
use forewarm::config::Execute;
use forewarm::execute::{Call, Cancelled, Executor, Logs, Outcomes, Parts, Runtime, wall_clock};
use forewarm::telemetry::Metrics;
use forewarm::types::{
    Artifact, FunctionDefinition, FunctionKind, FunctionName, Invocation, InvocationResult, LogBatch, Payload,
    PoolUsage, PreTrigger, Reuse, Sha256, StartKind, Status, TargetPart, Timestamp, WarmKind, WarmReason, WarmTarget,
};

/// The program whose `compile-worker` compiles; this one has no such command.
const COMPILER: &str = env!("CARGO_BIN_EXE_forewarm");
const ECHO: &[u8] = include_bytes!("../guests/rust-echo/rust-echo.wasm");
const HOSTILE: &[u8] = include_bytes!("../guests/hostile/hostile.wasm");
const ORDER: &[u8] = include_bytes!("../guests/rust-order/rust-order.wasm");
const RISK: &[u8] = include_bytes!("../guests/rust-risk/rust-risk.wasm");

/// Longer than anything here takes, so that only a hang meets it.
const PATIENCE: Duration = Duration::from_secs(60);

/// Reads stdin to its end and writes it to stdout.
const CAT: &str = r#"(module
  (import "wasi_snapshot_preview1" "fd_read" (func $read (param i32 i32 i32 i32) (result i32)))
  (import "wasi_snapshot_preview1" "fd_write" (func $write (param i32 i32 i32 i32) (result i32)))
  (memory (export "memory") 2)
  (func (export "_start")
    (loop $again
      (i32.store (i32.const 0) (i32.const 64))
      (i32.store (i32.const 4) (i32.const 4096))
      (drop (call $read (i32.const 0) (i32.const 0) (i32.const 1) (i32.const 8)))
      (if (i32.eqz (i32.load (i32.const 8))) (then (return)))
      (i32.store (i32.const 4) (i32.load (i32.const 8)))
      (drop (call $write (i32.const 1) (i32.const 0) (i32.const 1) (i32.const 12)))
      (br $again))))"#;

/// Writes "no such word" to stderr and exits with 3.
const EXIT_3: &str = r#"(module
  (import "wasi_snapshot_preview1" "fd_write" (func $write (param i32 i32 i32 i32) (result i32)))
  (import "wasi_snapshot_preview1" "proc_exit" (func $exit (param i32)))
  (memory (export "memory") 1)
  (data (i32.const 64) "no such word")
  (func (export "_start")
    (i32.store (i32.const 0) (i32.const 64))
    (i32.store (i32.const 4) (i32.const 12))
    (drop (call $write (i32.const 2) (i32.const 0) (i32.const 1) (i32.const 8)))
    (call $exit (i32.const 3))))"#;

/// Writes to stdout for ever.
const FLOOD: &str = r#"(module
  (import "wasi_snapshot_preview1" "fd_write" (func $write (param i32 i32 i32 i32) (result i32)))
  (memory (export "memory") 2)
  (func (export "_start")
    (i32.store (i32.const 0) (i32.const 64))
    (i32.store (i32.const 4) (i32.const 65536))
    (loop $again
      (drop (call $write (i32.const 1) (i32.const 0) (i32.const 1) (i32.const 8)))
      (br $again))))"#;

/// How a call ended, by its ticket.
enum Ended {
    With(u32, Box<InvocationResult>),
    GivenBack(u32),
}

struct Collect(Sender<Ended>);

impl Outcomes for Collect {
    type Ticket = u32;

    fn completed(&self, call: Call<u32>, result: InvocationResult) {
        self.0.send(Ended::With(call.ticket, Box::new(result))).expect("the test outlives the executor");
    }

    fn given_back(&self, call: Call<u32>) {
        self.0.send(Ended::GivenBack(call.ticket)).expect("the test outlives the executor");
    }
}

#[derive(Default)]
struct InMemory(Mutex<HashMap<Sha256, Vec<u8>>>);

impl ArtifactStore for InMemory {
    fn fetch(&self, artifact: &Artifact) -> Result<Vec<u8>, ArtifactError> {
        self.0.lock().unwrap().get(&artifact.sha256).cloned().ok_or_else(|| unavailable::missing(artifact))
    }
}

struct Bench {
    executor: Executor<Collect>,
    _runtime: Runtime,
    outcomes: Receiver<Ended>,
    announced: Receiver<PreTrigger>,
    wrote: Receiver<LogBatch>,
    artifacts: Arc<InMemory>,
    metrics: Arc<Metrics>,
    _cache: tempfile::TempDir,
}

impl Bench {
    fn new() -> Self {
        Self::with(|_| {})
    }

    fn with(adjust: impl FnOnce(&mut Execute)) -> Self {
        let cache = tempfile::tempdir().unwrap();
        Self::in_cache(cache, adjust)
    }

    fn in_cache(cache: tempfile::TempDir, adjust: impl FnOnce(&mut Execute)) -> Self {
        let (sender, outcomes) = channel();
        let (announce, announced) = channel();
        let (write, wrote) = channel();
        let mut config = Execute { instances_max: 32, compile_program: COMPILER.into(), ..Execute::default() };
        adjust(&mut config);
        let artifacts = Arc::new(InMemory::default());
        let metrics = Arc::new(Metrics::default());
        let parts = Parts {
            announce: Arc::new(move |pre_trigger| announce.send(pre_trigger).expect("the test outlives the executor")),
            logs: Logs {
                // Who does not listen any more has seen enough.
                tell: Arc::new(move |batch| drop(write.send(batch))),
                ..Logs::default()
            },
            node: "test".to_owned(),
            config,
            outcomes: Collect(sender),
            artifacts: Arc::clone(&artifacts) as Arc<dyn ArtifactStore>,
            cache: CodeCache::open(cache.path(), 1 << 30),
            metrics: Arc::clone(&metrics),
        };
        let (executor, runtime) = Executor::start(parts).unwrap();
        Self { executor, _runtime: runtime, outcomes, announced, wrote, artifacts, metrics, _cache: cache }
    }

    fn define(&self, name: &str, kind: FunctionKind, wasm: &[u8], adjust: impl FnOnce(&mut FunctionDefinition)) {
        let sha256 = Sha256::of(wasm);
        self.artifacts.0.lock().unwrap().insert(sha256, wasm.to_vec());
        let artifact = Artifact { uri: "store:".to_owned(), sha256 };
        let name = FunctionName::new(name).unwrap();
        let mut definition = FunctionDefinition::new(name, "1", artifact, kind);
        definition.limits.timeout_ms = 10_000;
        adjust(&mut definition);
        self.executor.define(Arc::new(definition));
    }

    fn settle(&self) {
        wait_for("every function to be loaded or refused", || self.executor.is_settled());
    }

    fn submit(&self, ticket: u32, name: &str, payload: &[u8]) {
        self.submit_with(ticket, name, payload, None, &Cancelled::default());
    }

    fn submit_with(&self, ticket: u32, name: &str, payload: &[u8], deadline: Option<Timestamp>, cancelled: &Cancelled) {
        let invocation = Invocation {
            id: format!("call-{ticket}"),
            function: FunctionName::new(name).unwrap(),
            tenant: None,
            payload: Payload(payload.to_vec()),
            content_type: None,
            deadline,
            invoked_at: Timestamp::ZERO,
            attributes: Default::default(),
        };
        let (headers, received_at, cancelled) = (Vec::new(), Instant::now(), cancelled.clone());
        let call = Call { invocation, headers, ticket, received_at, attempt: 1, cancelled };
        assert!(self.executor.submit(call).is_ok(), "function {name} is known");
    }

    fn outcome(&self) -> (u32, InvocationResult) {
        match self.ended() {
            Ended::With(ticket, result) => (ticket, *result),
            Ended::GivenBack(ticket) => panic!("call {ticket} was given back"),
        }
    }

    fn ended(&self) -> Ended {
        self.outcomes.recv_timeout(PATIENCE).expect("an end")
    }

    fn call(&self, name: &str, payload: &[u8]) -> InvocationResult {
        self.submit(1, name, payload);
        self.outcome().1
    }

    fn usage(&self, name: &str) -> PoolUsage {
        self.executor.usage(&FunctionName::new(name).unwrap()).unwrap()
    }

    fn warm(&self, name: &str, instances: u32) {
        let reason = WarmReason { kind: WarmKind::Floor, detail: None };
        let target = WarmTarget { ready: instances, parts: vec![TargetPart { reason, instances }] };
        self.executor.set_target(&FunctionName::new(name).unwrap(), target);
        wait_for("the target", || self.usage(name).ready == instances);
    }
}

fn wait_for(what: &str, mut holds: impl FnMut() -> bool) {
    let deadline = Instant::now() + PATIENCE;
    while !holds() {
        assert!(Instant::now() < deadline, "waited in vain for {what}");
        std::thread::yield_now();
    }
}

fn wat(text: &str) -> Vec<u8> {
    wat::parse_str(text).unwrap()
}

fn code(result: &InvocationResult) -> &str {
    result.error.as_ref().and_then(|error| error.code.as_deref()).unwrap_or_default()
}

#[test]
fn a_guest_announces_the_call_of_another_function() {
    let bench = Bench::new();
    let next = |name: &str| {
        let environment = [("NEXT".to_owned(), name.to_owned())].into();
        move |definition: &mut FunctionDefinition| definition.environment = environment
    };
    bench.define("order", FunctionKind::Component, ORDER, next("invoice"));
    let result = bench.call("order", b"4711");
    assert_eq!(result.payload, Some(Payload(b"order 4711: invoice is announced".to_vec())), "{result:?}");
    let said = bench.announced.try_recv().expect("it is announced before the call ends");
    assert_eq!((said.source.as_str(), said.function.as_str()), ("function:order", "invoice"));
    assert_eq!((said.expected_invocations, said.window_ms, said.not_before), (1, 10_000, None));
    assert_eq!(said.attributes["invocation_id"], result.invocation_id);

    bench.define("wrong", FunctionKind::Component, ORDER, next("no such name!"));
    let result = bench.call("wrong", b"4712");
    assert_eq!((result.status, code(&result)), (Status::FunctionError, "announce"), "{result:?}");
    assert!(bench.announced.try_recv().is_err());
}

#[test]
fn each_start_kind_is_told_as_it_was() {
    let bench = Bench::new();
    // The call comes before the code is there: it waits for the compiler.
    bench.define("echo", FunctionKind::Component, ECHO, |_| {});
    let cold = bench.call("echo", b"1");
    assert_eq!((cold.status, cold.start_kind), (Status::Ok, Some(StartKind::Cold)), "{cold:?}");
    assert_eq!(cold.warm_reason, None);
    assert_eq!(cold.payload, Some(Payload(b"1".to_vec())));
    let warm = bench.call("echo", b"2");
    assert_eq!(warm.start_kind, Some(StartKind::Warm));
    assert_eq!(warm.warm_reason.map(|reason| reason.kind), Some(WarmKind::Invocation));
    bench.warm("echo", 2);
    bench.submit(1, "echo", b"3");
    bench.submit(2, "echo", b"4");
    let kinds: Vec<_> = [bench.outcome(), bench.outcome()].map(|(_, result)| result.start_kind).into();
    assert!(kinds.iter().all(|kind| matches!(kind, Some(StartKind::Warm | StartKind::Prewarmed))), "{kinds:?}");

    bench.define("fresh", FunctionKind::Component, ECHO, |definition| definition.warm.reuse = Reuse::Fresh);
    bench.settle();
    let linked = bench.call("fresh", b"5");
    assert_eq!(linked.start_kind, Some(StartKind::Linked));
    bench.warm("fresh", 1);
    let prewarmed = bench.call("fresh", b"6");
    assert_eq!(prewarmed.start_kind, Some(StartKind::Prewarmed));
    assert_eq!(prewarmed.warm_reason.map(|reason| reason.kind), Some(WarmKind::Floor));
}

#[test]
fn code_comes_from_the_cache_after_a_restart_and_is_compiled_anew_when_damaged() {
    let cache = tempfile::tempdir().unwrap();
    let path = cache.path().to_owned();
    let bench = Bench::in_cache(cache, |_| {});
    bench.define("echo", FunctionKind::Component, ECHO, |_| {});
    assert_eq!(bench.call("echo", b"").start_kind, Some(StartKind::Cold));
    let Bench { _cache: cache, .. } = bench;
    let bench = Bench::in_cache(cache, |_| {});
    bench.define("echo", FunctionKind::Component, ECHO, |_| {});
    // Kept code may be there before the call is: nobody waited for it then.
    let start = bench.call("echo", b"").start_kind;
    assert!(matches!(start, Some(StartKind::Loaded | StartKind::Linked)), "{start:?}");
    for file in std::fs::read_dir(path).unwrap().map(|entry| entry.unwrap().path()) {
        if file.extension().is_some_and(|extension| extension == "cwasm") {
            let mut bytes = std::fs::read(&file).unwrap();
            let middle = bytes.len() / 2;
            bytes[middle] ^= 0xff;
            std::fs::write(&file, bytes).unwrap();
        }
    }
    let Bench { _cache: cache, .. } = bench;
    let bench = Bench::in_cache(cache, |_| {});
    bench.define("echo", FunctionKind::Component, ECHO, |_| {});
    let again = bench.call("echo", b"x");
    assert_eq!((again.status, again.start_kind), (Status::Ok, Some(StartKind::Cold)));
}

#[test]
fn initialisation_is_paid_ahead_or_by_the_call() {
    let bench = Bench::new();
    bench.define("risk", FunctionKind::Component, RISK, |_| {});
    bench.settle();
    let linked = bench.call("risk", b"{}");
    assert_eq!(linked.start_kind, Some(StartKind::Linked));
    bench.define("ahead", FunctionKind::Component, RISK, |_| {});
    bench.settle();
    bench.warm("ahead", 1);
    let prewarmed = bench.call("ahead", b"{}");
    assert_eq!(prewarmed.start_kind, Some(StartKind::Prewarmed));
    assert_eq!(prewarmed.payload, linked.payload);
    assert!(linked.prepare_us > prewarmed.prepare_us, "{} and {}", linked.prepare_us, prewarmed.prepare_us);
}

#[test]
fn a_hostile_component_is_ended_named_and_replaced() {
    let bench = Bench::new();
    bench.define("hostile", FunctionKind::Component, HOSTILE, |definition| {
        definition.limits.timeout_ms = 200;
        definition.limits.memory_bytes = 32 << 20;
        definition.limits.payload_out_bytes = 1_000;
    });
    bench.define("echo", FunctionKind::Component, ECHO, |_| {});
    bench.settle();
    let expected = [
        ("trap", Status::Trap),
        ("loop", Status::Timeout),
        ("sleep", Status::Timeout),
        ("eat-memory", Status::Limit),
        ("huge-answer", Status::Limit),
        ("deep-recursion", Status::Trap),
        ("host-resources", Status::Limit),
        ("stderr-flood", Status::Ok),
        ("behave", Status::Ok),
    ];
    for (payload, status) in expected {
        let result = bench.call("hostile", payload.as_bytes());
        assert_eq!(result.status, status, "{payload}: {result:?}");
        assert_eq!(bench.call("echo", b"still here").status, Status::Ok, "after {payload}");
    }
    let trap = bench.call("hostile", b"trap");
    let backtrace = trap.error.unwrap().backtrace.unwrap();
    assert!(backtrace.starts_with("0: "), "{backtrace}");
    assert_eq!(
        bench.call("hostile", b"behave").start_kind,
        Some(StartKind::Linked),
        "the trapped instance was retired"
    );
}

#[test]
fn a_command_reads_stdin_and_answers_on_stdout() {
    let bench = Bench::new();
    bench.define("cat", FunctionKind::Command, &wat(CAT), |definition| {
        definition.limits.payload_out_bytes = 10_000;
    });
    bench.settle();
    let long = vec![b'x'; 10_000];
    assert_eq!(bench.call("cat", &long).payload, Some(Payload(long)));
    assert_eq!(bench.call("cat", b"").payload, Some(Payload(Vec::new())));
    let over = bench.call("cat", &vec![b'x'; 10_001]);
    assert_eq!((over.status, code(&over)), (Status::Limit, "payload_out"));
    bench.warm("cat", 2);
    assert_eq!(bench.call("cat", b"hello").start_kind, Some(StartKind::Prewarmed));
}

#[test]
fn a_command_that_fails_says_how() {
    let bench = Bench::new();
    bench.define("exit", FunctionKind::Command, &wat(EXIT_3), |_| {});
    bench.define("flood", FunctionKind::Command, &wat(FLOOD), |_| {});
    bench.settle();
    let exit = bench.call("exit", b"");
    assert_eq!((exit.status, code(&exit)), (Status::FunctionError, "exit_3"));
    assert_eq!(exit.error.unwrap().message, "the guest exited with code 3; printed: no such word");
    assert_eq!(bench.call("flood", b"").status, Status::Limit);
}

#[test]
fn what_cannot_run_is_refused_with_the_reason_and_a_running_version_stays() {
    let bench = Bench::new();
    let wants_more =
        wat(r#"(module (import "env" "steal" (func)) (memory (export "memory") 1) (func (export "_start")))"#);
    bench.define("imports", FunctionKind::Command, &wants_more, |_| {});
    bench.define("no-wasm", FunctionKind::Component, b"#!/bin/sh", |_| {});
    bench.define("no-start", FunctionKind::Command, &wat("(module)"), |_| {});
    bench.define("good", FunctionKind::Component, ECHO, |_| {});
    bench.settle();
    let refused = bench.call("imports", b"");
    assert_eq!((refused.status, code(&refused)), (Status::Rejected, "refused"));
    assert!(refused.error.unwrap().message.contains("env"), "it names the import");
    assert_eq!(bench.call("no-wasm", b"").status, Status::Rejected);
    assert_eq!(bench.call("no-start", b"").status, Status::Rejected);
    bench.define("good", FunctionKind::Component, b"no wasm", |definition| definition.version = "2".to_owned());
    let stays = bench.call("good", b"x");
    assert_eq!((stays.status, stays.function_version.as_deref()), (Status::Ok, Some("1")));
    bench.define("good", FunctionKind::Command, &wat(CAT), |definition| definition.version = "3".to_owned());
    wait_for("version 3", || bench.call("good", b"x").function_version.as_deref() == Some("3"));
    assert_eq!(bench.usage("good").busy, 0);
}

#[test]
fn calls_that_may_not_run_are_rejected() {
    let bench = Bench::new();
    bench.define("echo", FunctionKind::Component, ECHO, |definition| definition.limits.payload_in_bytes = 3);
    bench.define("off", FunctionKind::Component, ECHO, |definition| definition.enabled = false);
    bench.settle();
    let large = bench.call("echo", b"1234");
    assert_eq!((large.status, code(&large)), (Status::Rejected, "payload_in"));
    assert_eq!(bench.call("echo", b"123").status, Status::Ok);
    let off = bench.call("off", b"");
    assert_eq!((off.status, code(&off)), (Status::Rejected, "disabled"));
    bench.submit_with(1, "echo", b"1", Some(Timestamp::from_millis(1)), &Cancelled::default());
    let late = bench.outcome().1;
    assert_eq!((late.status, code(&late)), (Status::Rejected, "deadline"));
    bench.executor.remove(&FunctionName::new("echo").unwrap());
    assert!(bench.executor.usage(&FunctionName::new("echo").unwrap()).is_none());
}

#[test]
fn a_call_is_ended_at_its_deadline_where_that_comes_before_its_time_limit() {
    let bench = Bench::new();
    bench.define("hostile", FunctionKind::Component, HOSTILE, |definition| definition.limits.timeout_ms = 3_600_000);
    bench.settle();
    for payload in ["loop", "sleep"] {
        let deadline = wall_clock() + Duration::from_secs(2);
        bench.submit_with(1, "hostile", payload.as_bytes(), Some(deadline), &Cancelled::default());
        let ended = bench.outcome().1;
        assert_eq!((ended.status, code(&ended)), (Status::Timeout, "deadline"), "{payload}");
        assert!(ended.error.unwrap().message.starts_with("the call ran past its deadline"));
    }
}

#[test]
fn concurrency_is_bounded_and_every_call_has_one_outcome() {
    let bench = Bench::new();
    bench.define("echo", FunctionKind::Component, ECHO, |definition| definition.limits.concurrency = 2);
    for ticket in 0..1_000 {
        bench.submit(ticket, "echo", b"x");
    }
    let mut tickets: Vec<u32> = (0..1_000).map(|_| bench.outcome().0).collect();
    tickets.sort_unstable();
    assert_eq!(tickets, (0..1_000).collect::<Vec<_>>());
    assert!(bench.outcomes.try_recv().is_err(), "no call has a second outcome");
    wait_for("every instance to be back", || bench.usage("echo").busy == 0);
    assert!(bench.usage("echo").ready <= 2);
}

#[test]
fn an_instance_is_retired_after_its_number_of_calls() {
    let bench = Bench::new();
    bench.define("echo", FunctionKind::Component, ECHO, |definition| definition.warm.max_invocations = 2);
    bench.settle();
    let kinds: Vec<_> = (0..4).map(|_| bench.call("echo", b"").start_kind.unwrap()).collect();
    assert_eq!(kinds, [StartKind::Linked, StartKind::Warm, StartKind::Linked, StartKind::Warm]);
}

#[test]
fn a_slow_guest_does_not_hold_the_thread_that_submits() {
    let bench = Bench::with(|config| config.inline_max = Duration::from_secs(3_600));
    bench.define("hostile", FunctionKind::Component, HOSTILE, |definition| definition.limits.timeout_ms = 2_000);
    bench.settle();
    // Its calls are known to be short, so the next one starts on this very thread; and then it loops.
    assert_eq!(bench.call("hostile", b"behave").status, Status::Ok);
    assert_eq!(bench.call("hostile", b"behave").status, Status::Ok);
    bench.submit(7, "hostile", b"loop");
    // Still looping: this thread was given back long before the time limit.
    assert!(bench.outcomes.try_recv().is_err());
    assert_eq!(bench.outcome().1.status, Status::Timeout);
}
