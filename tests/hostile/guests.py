"""Guests that do harm, as text: each is assembled when it is asked for, into a folder of the run.

They are commands of WASI preview 1. It must not know what the service does with them.
"""

import wasmtime

# Waits in the host; the subscription stands at 0, the event that comes back at 64.
POLL = """
  (import "wasi_snapshot_preview1" "poll_oneoff" (func $poll (param i32 i32 i32 i32) (result i32)))
"""
SLEEP = """
  (func $sleep (param $ns i64)
    (i64.store (i32.const 0) (i64.const 0))
    (i64.store (i32.const 8) (i64.const 0))
    (i32.store (i32.const 16) (i32.const 1))
    (i64.store (i32.const 24) (local.get $ns))
    (drop (call $poll (i32.const 0) (i32.const 64) (i32.const 1) (i32.const 128))))
"""
HOUR_NS = 3_600_000_000_000
MEMORY = '(memory (export "memory") 2)'
IDLE = '(func (export "_start"))'

TABLES = 8
TABLE_ENTRIES = 100_000


def init_loops():
    """Its start function never ends."""
    return f"(module {MEMORY} (func $spin (loop $again (br $again))) (start $spin) {IDLE})"


def init_sleeps():
    """Its start function waits in the host for an hour."""
    return f"(module {POLL} {MEMORY} {SLEEP} (func $wait (call $sleep (i64.const {HOUR_NS}))) (start $wait) {IDLE})"


def init_slow():
    """Its start function computes for about a second."""
    return f"""(module {MEMORY}
      (func $count (local $n i64)
        (loop $again
          (local.set $n (i64.add (local.get $n) (i64.const 1)))
          (br_if $again (i64.lt_u (local.get $n) (i64.const 1000000000)))))
      (start $count) {IDLE})"""


def call_loops():
    """Each call never ends."""
    return f'(module {MEMORY} (func (export "_start") (loop $again (br $again))))'


def call_sleeps(seconds=19):
    """Each call waits in the host."""
    return f'(module {POLL} {MEMORY} {SLEEP} (func (export "_start") (call $sleep (i64.const {seconds * 10**9}))))'


def call_eats(mebibytes=100, seconds=3):
    """Each call takes memory, touches each page of it, and keeps it for a while."""
    pages = mebibytes * 16
    return f"""(module {POLL} {MEMORY} {SLEEP}
      (func (export "_start") (local $page i32)
        (local.set $page (memory.grow (i32.const {pages})))
        (if (i32.eq (local.get $page) (i32.const -1)) (then unreachable))
        (loop $again
          (i32.store8 (i32.mul (local.get $page) (i32.const 65536)) (i32.const 1))
          (i32.store8 (i32.add (i32.mul (local.get $page) (i32.const 65536)) (i32.const 4096)) (i32.const 1))
          (memory.fill (i32.mul (local.get $page) (i32.const 65536)) (i32.const 7) (i32.const 65536))
          (local.set $page (i32.add (local.get $page) (i32.const 1)))
          (br_if $again (i32.lt_u (local.get $page) (memory.size))))
        (call $sleep (i64.const {seconds * 10**9}))))"""


def tables_filled():
    """Its start function fills many large tables."""
    tables = "\n".join(f"(table $t{n} {TABLE_ENTRIES} {TABLE_ENTRIES} funcref)" for n in range(TABLES))
    fill = "\n".join(
        f"(table.fill $t{n} (i32.const 0) (ref.func $fill) (i32.const {TABLE_ENTRIES}))" for n in range(TABLES)
    )
    return f"(module {MEMORY} {tables} (elem declare func $fill) (func $fill {fill}) (start $fill) {IDLE})"


def compile_bomb(depth=2_000, local_count=2_000):
    """Small, and made so that compiling it takes gigabytes: loops within loops, and many locals alive in all of them."""
    locals_ = " ".join(["i64"] * local_count)
    open_ = " ".join(f"(loop $l{n}" for n in range(depth))
    body = " ".join(
        f"(local.set {n} (i64.add (local.get {n}) (local.get {(n + 1) % local_count})))" for n in range(local_count)
    )
    close = ")" * depth
    return f'(module {MEMORY} (func (export "_start") (local {locals_}) {open_} {body} (br_if $l0 (i32.wrap_i64 (local.get 0))) {close}))'


def forger():
    """Each call writes a line to stderr that looks like a line of the node's log, and traps."""
    line = "\\n2026-01-01T00:00:00Z  INFO forewarm::app: FORGED all is well\\u{1b}[2J\\n".replace("\\u{1b}", "\\1b")
    return f"""(module
      (import "wasi_snapshot_preview1" "fd_write" (func $write (param i32 i32 i32 i32) (result i32)))
      {MEMORY}
      (data (i32.const 256) "{line}")
      (func $say
        (i32.store (i32.const 0) (i32.const 256))
        (i32.store (i32.const 4) (i32.const 70))
        (drop (call $write (i32.const 2) (i32.const 0) (i32.const 1) (i32.const 64)))
        unreachable)
      (start $say) {IDLE})"""


def assemble(text):
    """The module that this text is."""
    return bytes(wasmtime.wat2wasm(text))
