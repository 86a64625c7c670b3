//! What guests write comes out as lines, whether their calls end well or not.

use forewarm::types::{LogBatch, LogLine, LogStream};

use super::said::printer;
use super::*;

/// Writes "begin" and a line break to stderr, "answer" to stdout, and then does what `BODY` is.
const WRITER: &str = r#"(module
  (import "wasi_snapshot_preview1" "fd_write" (func $write (param i32 i32 i32 i32) (result i32)))
  (memory (export "memory") 1)
  (data (i32.const 64) "begin\nanswer")
  (func (export "_start")
    (i32.store (i32.const 0) (i32.const 64))
    (i32.store (i32.const 4) (i32.const 6))
    (drop (call $write (i32.const 2) (i32.const 0) (i32.const 1) (i32.const 8)))
    (i32.store (i32.const 0) (i32.const 70))
    (drop (call $write (i32.const 1) (i32.const 0) (i32.const 1) (i32.const 8)))
    BODY))"#;

impl Bench {
    fn wrote(&self) -> LogBatch {
        self.wrote.recv_timeout(PATIENCE).expect("lines")
    }
}

fn texts(batch: &LogBatch) -> Vec<(LogStream, &str)> {
    batch.lines.iter().map(|LogLine { stream, text, .. }| (*stream, text.as_str())).collect()
}

#[test]
fn a_component_writes_in_init_and_in_calls_that_end_well() {
    let bench = Bench::new();
    for (name, stream) in [("stderr", LogStream::Stderr), ("stdout", LogStream::Stdout)] {
        bench.define(name, FunctionKind::Component, &printer(name, false), |definition| {
            definition.tenant = Some("acme".to_owned());
        });
        assert_eq!(bench.call(name, b"one\ntwo\n").status, Status::Ok);
        let init = bench.wrote();
        assert_eq!(texts(&init), [(stream, "init says hello")]);
        assert_eq!((init.invocation_id.as_deref(), init.attempt), (None, 0));
        let call = bench.wrote();
        assert_eq!(texts(&call), [(stream, "one"), (stream, "two")]);
        assert_eq!((call.invocation_id.as_deref(), call.attempt), (Some("call-1"), 1));
        assert_eq!(call.definition.tenant.as_deref(), Some("acme"));
        assert!(call.lines[0].written_at >= init.lines[0].written_at);
        // The next call of the same instance has its own lines alone.
        assert_eq!(bench.call(name, b"more").start_kind, Some(StartKind::Warm));
        assert_eq!(texts(&bench.wrote()), [(stream, "more")]);
    }
    assert_eq!(bench.metrics.function_log_lines.get(), 8);
}

#[test]
fn of_a_command_stderr_is_its_log_and_stdout_its_answer() {
    let bench = Bench::new();
    bench.define("writer", FunctionKind::Command, &wat(&WRITER.replace("BODY", "")), |_| {});
    assert_eq!(bench.call("writer", b"").payload, Some(Payload(b"answer".to_vec())));
    assert_eq!(texts(&bench.wrote()), [(LogStream::Stderr, "begin")]);
    // An exit code is its own word, and no bad end.
    bench.define("exits", FunctionKind::Command, &wat(EXIT_3), |_| {});
    assert_eq!(bench.call("exits", b"").status, Status::FunctionError);
    assert_eq!(texts(&bench.wrote()), [(LogStream::Stderr, "no such word")]);
}

#[test]
fn a_trap_leaves_a_line_with_its_cause() {
    let bench = Bench::new();
    bench.define("printer", FunctionKind::Component, &printer("stderr", false), |_| {});
    assert_eq!(bench.call("printer", b"the panic's words").status, Status::Trap);
    bench.wrote();
    let trapped = bench.wrote();
    let wanted = "the call ended with trap (UnreachableCodeReached): the guest trapped: \
                  wasm trap: wasm `unreachable` instruction executed";
    assert_eq!(texts(&trapped), [(LogStream::Stderr, "the panic's words"), (LogStream::Node, wanted)]);
    assert_eq!(trapped.invocation_id.as_deref(), Some("call-1"));
    // So does one that wrote nothing.
    bench.define(
        "silent",
        FunctionKind::Command,
        &wat(r#"(module (memory (export "memory") 1) (func (export "_start") unreachable))"#),
        |_| {},
    );
    assert_eq!(bench.call("silent", b"").status, Status::Trap);
    assert_eq!(texts(&bench.wrote()), [(LogStream::Node, wanted)]);
}

#[test]
fn what_init_writes_before_it_fails_comes_out() {
    let bench = Bench::new();
    bench.define("printer", FunctionKind::Component, &printer("stdout", true), |_| {});
    assert_eq!(code(&bench.call("printer", b"x")), "init");
    let wanted = [
        (LogStream::Stdout, "init says hello"),
        (LogStream::Node, "an instance could not be prepared: init failed: init"),
    ];
    assert_eq!(texts(&bench.wrote()), wanted);
}

#[test]
fn who_writes_nothing_says_nothing() {
    let bench = Bench::new();
    bench.define("echo", FunctionKind::Component, ECHO, |_| {});
    bench.define("printer", FunctionKind::Component, &printer("stderr", false), |_| {});
    assert_eq!(bench.call("echo", b"x").status, Status::Ok);
    assert_eq!(bench.call("printer", b"after it").status, Status::Ok);
    assert_eq!(texts(&bench.wrote()), [(LogStream::Stderr, "init says hello")]);
}

#[test]
fn a_flood_is_cut_by_call_and_by_function_and_told() {
    let bench = Bench::new();
    bench.define("flood", FunctionKind::Component, &printer("stderr", false), |_| {});
    bench.define("innocent", FunctionKind::Component, &printer("stderr", false), |_| {});
    // WASI takes 4,096 bytes at once.
    let many = "x\n".repeat(1_000);
    assert_eq!(bench.call("flood", many.as_bytes()).status, Status::Ok);
    bench.wrote();
    let call = bench.wrote();
    // 256 of it, and the word that says so.
    assert_eq!(call.lines.len(), 257);
    assert_eq!((call.lines[256].stream, call.lines[256].left_out.lines), (LogStream::Node, 744));
    for _ in 0..40 {
        assert_eq!(bench.call("flood", many.as_bytes()).status, Status::Ok);
    }
    assert_eq!(bench.call("innocent", b"heard").status, Status::Ok);
    let (mut own, mut told, mut innocent) = (257 + 1, 744, Vec::new());
    wait_for("everything to be said or told", || {
        // As every control tick does.
        bench.executor.look();
        for batch in bench.wrote.try_iter() {
            if batch.definition.name.as_str() == "innocent" {
                innocent.extend(batch.lines.into_iter().map(|line| line.text));
                continue;
            }
            for line in &batch.lines {
                told += line.left_out.lines;
                // The word about a whole function is none of its lines.
                own += u64::from(batch.invocation_id.is_some() || line.stream != LogStream::Node);
            }
        }
        // Each call's own word is a line of it, too, and so is what init wrote.
        innocent.len() == 2 && own + told == 41 * 1_001 + 1
    });
    assert_eq!(innocent, ["init says hello", "heard"]);
    // The bucket had 1,000 lines, and 200 more for each second since.
    assert!(own < 10_000, "{own} lines came out");
    assert!(bench.metrics.function_logs_left_out.get() > 30_000);
}

#[test]
fn lines_of_a_call_that_runs_on_come_out_before_its_end() {
    let bench = Bench::new();
    bench.define("runs", FunctionKind::Command, &wat(&WRITER.replace("BODY", "(loop $on (br $on))")), |definition| {
        definition.limits.timeout_ms = 600_000;
    });
    let cancelled = Cancelled::not_yet();
    bench.submit_with(1, "runs", b"", None, &cancelled);
    let early = bench.wrote();
    assert_eq!((texts(&early), early.invocation_id.as_deref()), (vec![(LogStream::Stderr, "begin")], Some("call-1")));
    // Whoever ends a call that nobody wants any more does not call that a bad end.
    cancelled.set();
    bench.ended();
    bench.define("after", FunctionKind::Command, &wat(EXIT_3), |_| {});
    bench.call("after", b"");
    assert_eq!(bench.wrote().definition.name.as_str(), "after");
}
