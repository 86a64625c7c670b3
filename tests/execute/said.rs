//! Whom what a guest prints is told to, and the words of its end.

use super::*;

/// Prints its payload on the given stream, and traps where that begins with "t". Its `init` prints, and fails where asked to.
pub(crate) fn printer(stream: &str, init_fails: bool) -> Vec<u8> {
    let text = include_str!("printer.wat").replace("PIPE", stream);
    wat(&text.replace("const INIT", if init_fails { "const 1" } else { "const 0" }))
}

fn message(result: &InvocationResult) -> &str {
    result.error.as_ref().map(|error| error.message.as_str()).unwrap_or_default()
}

/// A command whose `_start` is `body`; `parts` stand before it.
fn command(parts: &str, body: &str) -> Vec<u8> {
    wat(&format!(r#"(module {parts} (memory (export "memory") 1) (func (export "_start") {body}))"#))
}

#[test]
fn what_a_call_prints_is_told_to_its_caller_alone() {
    let bench = Bench::new();
    for stream in ["stderr", "stdout"] {
        bench.define(stream, FunctionKind::Component, &printer(stream, false), |_| {});
        bench.settle();
        assert_eq!(bench.call(stream, b"a secret of another caller").status, Status::Ok);
        let trapped = bench.call(stream, b"the caller's own words");
        assert_eq!((trapped.status, trapped.start_kind), (Status::Trap, Some(StartKind::Warm)), "{trapped:?}");
        let said = message(&trapped);
        assert!(said.ends_with("; printed: the caller's own words"), "{said}");
        // The instance is a new one: its init printed as well.
        let said = bench.call(stream, b"to the next").error.unwrap().message;
        assert!(said.ends_with("; printed: to the next"), "{said}");
    }
}

#[test]
fn the_end_of_what_a_call_printed_is_kept() {
    let bench = Bench::new();
    bench.define("printer", FunctionKind::Component, &printer("stderr", false), |_| {});
    let long = format!("the beginning {} the panic's own message", "x".repeat(4_000));
    let said = bench.call("printer", long.as_bytes()).error.unwrap().message;
    assert!(said.contains("; printed: the beginning xxx"), "{said}");
    assert!(said.ends_with("xxx the panic's own message"), "{said}");
    assert!(said.len() <= 4_096, "{} bytes", said.len());
}

#[test]
fn what_init_prints_is_told_where_init_fails() {
    let bench = Bench::new();
    bench.define("printer", FunctionKind::Component, &printer("stderr", true), |_| {});
    let failed = bench.call("printer", b"x");
    assert_eq!((failed.status, code(&failed)), (Status::FunctionError, "init"));
    assert_eq!(message(&failed), "init failed: init; printed: init says hello");
}

#[test]
fn init_that_runs_too_long_or_traps_says_so() {
    let bench = Bench::with(|config| config.init_timeout = Duration::from_millis(300));
    let start = |body: &str| command(&format!("(func $begin {body}) (start $begin)"), "");
    bench.define("loops", FunctionKind::Command, &start("(loop $again (br $again))"), |_| {});
    bench.define("traps", FunctionKind::Command, &start("unreachable"), |_| {});
    bench.settle();
    let looped = bench.call("loops", b"");
    assert_eq!((looped.status, code(&looped)), (Status::Timeout, "init_timeout"));
    assert_eq!(message(&looped), "init ran past execute.init-timeout (300ms)");
    let trapped = bench.call("traps", b"");
    assert_eq!((trapped.status, code(&trapped)), (Status::Trap, "init_trap"));
    assert!(message(&trapped).starts_with("init failed: the guest trapped: "), "{trapped:?}");
}

#[test]
fn every_exit_code_is_the_guests_own_word() {
    let bench = Bench::new();
    let import = r#"(import "wasi_snapshot_preview1" "proc_exit" (func $exit (param i32)))"#;
    for exit in [1, 125, 126, 255] {
        let name = format!("exit-{exit}");
        let body = format!("(call $exit (i32.const {exit}))");
        bench.define(&name, FunctionKind::Command, &command(import, &body), |_| {});
        let ended = bench.call(&name, b"");
        assert_eq!((ended.status, code(&ended)), (Status::FunctionError, format!("exit_{exit}").as_str()));
    }
    bench.define("exit-0", FunctionKind::Command, &command(import, "(call $exit (i32.const 0))"), |_| {});
    assert_eq!(bench.call("exit-0", b"").status, Status::Ok);
}

#[test]
fn refused_memory_is_not_the_name_of_every_later_end() {
    let bench = Bench::new();
    let grow = "(drop (memory.grow (i32.const 1000)))";
    for (name, then, status, wanted) in [
        ("divides", "(drop (i32.div_u (i32.const 1) (i32.const 0)))", Status::Trap, "IntegerDivisionByZero"),
        ("aborts", "unreachable", Status::Limit, "memory"),
    ] {
        bench.define(name, FunctionKind::Command, &command("", &format!("{grow} {then}")), |definition| {
            definition.limits.memory_bytes = 1 << 20;
        });
        let ended = bench.call(name, b"");
        assert_eq!((ended.status, code(&ended)), (status, wanted), "{ended:?}");
        assert!(message(&ended).contains("its limit of 1048576 bytes"), "{ended:?}");
    }
}

#[test]
fn an_answer_may_be_as_large_as_the_function_says() {
    let bench = Bench::new();
    bench.define("echo", FunctionKind::Component, ECHO, |definition| {
        definition.limits.payload_in_bytes = 64 << 20;
        definition.limits.payload_out_bytes = 20 << 20;
        definition.limits.memory_bytes = 256 << 20;
    });
    let long = vec![b'x'; 20 << 20];
    assert_eq!(bench.call("echo", &long).payload, Some(Payload(long)));
    for bytes in [(20 << 20) + 1, 24 << 20] {
        let over = bench.call("echo", &vec![b'x'; bytes]);
        assert_eq!((over.status, code(&over)), (Status::Limit, "payload_out"), "{}", message(&over));
    }
}

#[test]
fn what_a_guest_asks_of_the_host_at_once_is_bounded() {
    let bench = Bench::new();
    let random = r#"(import "wasi_snapshot_preview1" "random_get" (func $random (param i32 i32) (result i32)))"#;
    let asks = "(drop (memory.grow (i32.const 40))) (drop (call $random (i32.const 0) (i32.const 2000000)))";
    bench.define("random", FunctionKind::Command, &command(random, asks), |_| {});
    let asked = bench.call("random", b"");
    assert_eq!((asked.status, code(&asked)), (Status::Limit, "random"), "{asked:?}");
    assert_eq!(message(&asked), "the guest asked for more than 1048576 random bytes at once");

    // 200,000 clocks of 48 bytes each, all of them zeroes: clock 0, at once.
    let poll = r#"(import "wasi_snapshot_preview1" "poll_oneoff" (func $poll (param i32 i32 i32 i32) (result i32)))"#;
    let polls = "(drop (memory.grow (i32.const 400)))
        (drop (call $poll (i32.const 1024) (i32.const 12000000) (i32.const 200000) (i32.const 0)))";
    bench.define("polls", FunctionKind::Command, &command(poll, polls), |_| {});
    let polled = bench.call("polls", b"");
    assert_eq!((polled.status, code(&polled)), (Status::Limit, "resources"), "{polled:?}");
}
