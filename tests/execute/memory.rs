//! The node's memory: running calls stay within it, and what is counted is what is there.

use std::process::Command;

use super::*;

const MIB: u64 = 1 << 20;

/// Grows by `mib` MiB, touches every page, waits `ms` in the host, and ends.
fn holder(mib: u64, ms: u64) -> Vec<u8> {
    let pages = mib * 16;
    wat(&format!(
        r#"(module
          (import "wasi_snapshot_preview1" "poll_oneoff" (func $poll (param i32 i32 i32 i32) (result i32)))
          (memory (export "memory") 1)
          (func (export "_start") (local $at i32)
            (local.set $at (i32.mul (memory.grow (i32.const {pages})) (i32.const 65536)))
            (if (i32.lt_s (local.get $at) (i32.const 0)) (then unreachable))
            (memory.fill (local.get $at) (i32.const 1) (i32.const {bytes}))
            (i32.store (i32.const 80) (i32.const 1))
            (i64.store (i32.const 88) (i64.const {ns}))
            (drop (call $poll (i32.const 64) (i32.const 256) (i32.const 1) (i32.const 0)))))"#,
        bytes = mib * MIB,
        ns = ms * 1_000_000,
    ))
}

#[test]
fn calls_that_run_stay_within_the_nodes_memory() {
    let bench = Bench::with(|config| config.memory_bytes_max = 256 * MIB);
    bench.define("holder", FunctionKind::Command, &holder(100, 200), |definition| {
        definition.limits.memory_bytes = 128 * MIB;
    });
    bench.settle();
    for ticket in 0..16 {
        bench.submit(ticket, "holder", b"");
    }
    let mut ended = Vec::new();
    let mut most = 0;
    while ended.len() < 16 {
        most = most.max(bench.executor.in_use().bytes);
        match bench.outcomes.recv_timeout(Duration::from_millis(1)) {
            Ok(Ended::With(_, result)) => ended.push(result),
            Ok(Ended::GivenBack(ticket)) => panic!("call {ticket} was given back"),
            Err(_) => {}
        }
        drop(bench.executor.look());
        bench.executor.reconcile();
    }
    assert!((100 * MIB..=256 * MIB).contains(&most), "{most}");
    let well = ended.iter().filter(|result| result.status == Status::Ok).count();
    let refused = ended.iter().filter(|result| code(result) == "node_memory").count();
    assert!(well >= 2 && well + refused == 16, "{well} ended well, {refused} had no memory: {ended:?}");
    wait_for("the memory to be given back", || bench.executor.in_use().bytes == 0);
}

#[test]
fn a_call_that_the_node_cannot_hold_is_ended_by_name() {
    let bench = Bench::with(|config| config.memory_bytes_max = 64 * MIB);
    bench.define("holder", FunctionKind::Command, &holder(100, 0), |definition| {
        definition.limits.memory_bytes = 128 * MIB;
    });
    let ended = bench.call("holder", b"");
    assert_eq!((ended.status, code(&ended)), (Status::Limit, "node_memory"), "{ended:?}");
    let said = ended.error.unwrap().message;
    assert!(said.contains("execute.memory-bytes-max of this node is 67108864"), "{said}");
    assert_eq!(bench.call("holder", b"").status, Status::Limit, "and the next one as well");
}

#[test]
fn idle_instances_make_room_for_a_call_that_grows() {
    let bench = Bench::with(|config| config.memory_bytes_max = 64 * MIB);
    // Its memory is at least 40 MiB; two do not fit beside each other.
    let large = wat(r#"(module (memory (export "memory") 640) (func (export "_start")))"#);
    bench.define("idle", FunctionKind::Command, &large, |_| {});
    bench.define("grows", FunctionKind::Command, &holder(40, 0), |_| {});
    bench.settle();
    bench.warm("idle", 1);
    // History alone wants it from now on: nobody was promised it.
    let reason = WarmReason { kind: WarmKind::History, detail: None };
    let target = WarmTarget { ready: 1, parts: vec![TargetPart { reason, instances: 1 }] };
    bench.executor.set_target(&FunctionName::new("idle").unwrap(), target);
    let ended = bench.call("grows", b"");
    assert_eq!(ended.status, Status::Ok, "{ended:?}");
    assert_eq!(bench.usage("idle").ready, 0);
}

/// What is prepared of a guest for the measurement: a name, its kind and code, and its definition's changes.
fn greedy() -> Vec<(&'static str, FunctionKind, Vec<u8>)> {
    let command = |parts: &str| wat(&format!(r#"(module {parts} (func (export "_start")) (start $begin))"#));
    let tables: String = (0..8).map(|_| "(table 100000 funcref)").collect();
    let fills: String =
        (0..8).map(|nth| format!("(table.fill {nth} (i32.const 0) (ref.func $begin) (i32.const 100000))")).collect();
    let functions: String = (0..20_000).map(|nth| format!("(func $f{nth})")).collect();
    let names: String = (0..20_000).map(|nth| format!(" $f{nth}")).collect();
    let gets = "(local $n i32) (loop $next
        (drop (table.get 0 (local.get $n)))
        (local.set $n (i32.add (local.get $n) (i32.const 1)))
        (br_if $next (i32.lt_u (local.get $n) (i32.const 20000))))";
    vec![
        ("echo", FunctionKind::Component, ECHO.to_vec()),
        ("risk", FunctionKind::Component, RISK.to_vec()),
        ("order", FunctionKind::Component, ORDER.to_vec()),
        ("hostile", FunctionKind::Component, HOSTILE.to_vec()),
        ("wordcount", FunctionKind::Command, include_bytes!("../../guests/c-wordcount/c-wordcount.wasm").to_vec()),
        ("smallest", FunctionKind::Command, command("(func $begin)")),
        (
            "memory",
            FunctionKind::Command,
            command("(memory 160) (func $begin (memory.fill (i32.const 0) (i32.const 1) (i32.const 10485760)))"),
        ),
        (
            "tables",
            FunctionKind::Command,
            command(&format!("{tables} (func $begin {fills}) (elem declare func $begin)")),
        ),
        (
            "functions",
            FunctionKind::Command,
            command(&format!(
                "{functions} (table 20000 funcref) (elem (i32.const 0) func{names}) (func $begin {gets})"
            )),
        ),
        ("environment", FunctionKind::Command, command("(func $begin)")),
    ]
}

/// The share of what a process holds of the machine that is its own, in bytes: a page that is mapped many times counts once.
fn resident_bytes() -> u64 {
    let text = std::fs::read_to_string("/proc/self/smaps_rollup").unwrap();
    let line = text.lines().find_map(|line| line.strip_prefix("Pss:")).unwrap();
    line.trim().strip_suffix("kB").unwrap().trim().parse::<u64>().unwrap() << 10
}

const GUEST: &str = "FOREWARM_TEST_GUEST";
const FEW: u32 = 8;
const MANY: u32 = 48;

/// Runs in a process of its own, whose memory nobody else uses: see the next test.
#[test]
fn measured_in_a_child() {
    let Ok(wanted) = std::env::var(GUEST) else { return };
    let (name, kind, wasm) = greedy().into_iter().find(|(name, ..)| *name == wanted).unwrap();
    let bench = Bench::with(|config| {
        config.instances_max = 128;
        config.touch_bytes_max = 0;
    });
    bench.define(name, kind, &wasm, |definition| {
        if name == "environment" {
            let variable = |nth: u32| (format!("VARIABLE_{nth}"), "of some length".to_owned());
            definition.environment = (0..5_000).map(variable).collect();
        }
    });
    bench.settle();
    drop(wasm);
    bench.warm(name, FEW);
    let before = (bench.executor.in_use().bytes, resident_bytes());
    bench.warm(name, MANY);
    let after = (bench.executor.in_use().bytes, resident_bytes());
    println!("measured {} {}", after.0 - before.0, after.1.saturating_sub(before.1));
}

#[test]
fn at_least_nine_tenths_of_what_is_resident_is_counted() {
    for (name, ..) in greedy() {
        let child = Command::new(std::env::current_exe().unwrap())
            .args(["--exact", "memory::measured_in_a_child", "--nocapture"])
            .env(GUEST, name)
            .output()
            .unwrap();
        let said = String::from_utf8_lossy(&child.stdout).into_owned();
        let numbers = said.lines().find_map(|line| line.split_once("measured ")).expect(&said).1.to_owned();
        let (counted, resident) = numbers.split_once(' ').unwrap();
        let (counted, resident): (u64, u64) = (counted.parse().unwrap(), resident.trim().parse().unwrap());
        let each = |bytes: u64| bytes / u64::from(MANY - FEW) / 1_024;
        println!("{name}: {} KiB counted for an instance, {} KiB resident", each(counted), each(resident));
        assert!(counted * 10 >= resident * 9, "{name}: {counted} bytes are counted and {resident} are resident");
    }
}
