"""What a neighbour does: one function a row, each with the node's changed settings, the deed, and the words that the node must say.

A deed may take as long as it likes; the innocent functions are called beside it. It must not judge what became of them.
"""

import contextlib
import dataclasses
import hashlib
import resource
import socket
import typing

import confluent_kafka
import events
import guests
from bench import definition
from streams import PARTITIONS, QUIET

MEBI = 1 << 20
# File handles that a node has where it meets requests that never end.
HANDLES = 400


@dataclasses.dataclass
class Neighbour:
    """A row. `says`: at least one of these words stands in the log, in readiness or in what `explain` says of the neighbour."""

    name: str
    does: str
    deed: typing.Callable
    says: tuple = ()
    # No line of the log may begin like this.
    never: tuple = ()
    # Keys and tables of the node's configuration.
    changes: dict = dataclasses.field(default_factory=dict)
    # The functions that are removed afterwards.
    functions: tuple = ("neighbour",)
    # Partitions that the deed itself blocks, by a rule that is stated.
    blocks: tuple = ()
    # Memory that the node may hold on top of what it held before, in MiB.
    memory_mib: int = 700
    # How long calls of a function that was removed may go on (execute.removal-grace, where any run), and a little more.
    grace_s: int = 5
    # Whether it belongs to the short form.
    short: bool = False
    # Whether the node is started again while the deed stands.
    restarts: bool = False


def deploy(bench, text, name="neighbour", **fields):
    """Defines a command that is assembled from this text."""
    wasm = guests.assemble(text)
    path = bench.directory / f"{hashlib.sha256(wasm).hexdigest()[:16]}.wasm"
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_bytes(wasm)
    bench.define(definition(name, path, kind="command", **fields))


def call(bench, count, name="neighbour", payload=b""):
    for number in range(count):
        bench.call(name, payload, partition=number % PARTITIONS)
    bench.sender.flush()


def init_loops(bench):
    deploy(bench, guests.init_loops())
    call(bench, 40)


def init_sleeps(bench):
    deploy(bench, guests.init_sleeps())
    call(bench, 64)


def slow_floor(bench):
    deploy(bench, guests.init_slow(), warm={"floor": 100, "ceiling": 100})
    call(bench, 20)


def failing_floors(bench):
    for number in range(8):
        deploy(bench, guests.init_loops(), name=f"neighbour-{number}", warm={"floor": 4, "ceiling": 4})


def compile_bomb(bench):
    deploy(bench, guests.compile_bomb())
    call(bench, 5)


def no_artifact(bench):
    artifact = {"uri": f"file://{bench.directory}/not-there.wasm", "sha256": "0" * 64}
    bench.define({"name": "neighbour", "version": "1", "artifact": artifact, "kind": "component"})
    call(bench, 10_200)


def endless_calls(bench):
    deploy(bench, guests.call_loops(), limits={"timeout_ms": 600_000, "concurrency": 256})
    call(bench, 1_000)


def sleeping_calls(bench):
    deploy(bench, guests.call_sleeps(), limits={"timeout_ms": 20_000, "concurrency": 256})
    call(bench, 300)


def memory_eaters(bench):
    deploy(bench, guests.call_eats(), limits={"timeout_ms": 20_000, "memory_bytes": 128 * MEBI, "concurrency": 64})
    call(bench, 32)


def tables(bench):
    deploy(bench, guests.tables_filled(), warm={"floor": 100, "ceiling": 100})
    call(bench, 4)


def greedy_definition(bench):
    most = 2**31 - 1
    deploy(
        bench,
        guests.call_loops(),
        warm={"floor": most, "ceiling": most},
        limits={"timeout_ms": 2**62, "concurrency": most},
        retry={"attempts_max": most, "backoff_ms": 0, "age_max_ms": 2**62},
    )
    call(bench, 200)


def impossible_dates(bench):
    schedules = [{"cron": "0 0 31 2 *", "duration_ms": 60_000, "instances": 1}] * 16
    for number in range(400):
        artifact = {"uri": "store:", "sha256": "0" * 64}
        fields = {"version": "1", "artifact": artifact, "kind": "component", "schedules": schedules}
        bench.define({"name": f"neighbour-{number}", **fields})


def header_flood(bench):
    value, headers = events.single_object(events.INVOCATION, events.invocation("innocent", b"x"))
    flood = [*headers, *(("h", b"") for _ in range(50_000))]
    for number in range(60):
        bench.sender.send(bench.topics["invocations"], value, None, flood, number % PARTITIONS)
    bench.sender.flush()


def zstd_records(bench):
    producer = confluent_kafka.Producer({"bootstrap.servers": bench.bootstrap, "compression.type": "zstd", **QUIET})
    for number in range(60):
        value, headers = events.single_object(events.INVOCATION, events.invocation("innocent", b"z" * 500))
        producer.produce(bench.topics["invocations"], value, headers=headers, partition=number % PARTITIONS)
    assert producer.flush(30) == 0


def unpacked_messages(bench):
    """Small on the wire, and large in memory."""
    settings = {"compression.type": "gzip", "message.max.bytes": 512 * MEBI, **QUIET}
    producer = confluent_kafka.Producer({"bootstrap.servers": bench.bootstrap, **settings})
    for number in range(6):
        producer.produce(bench.topics["invocations"], bytes(64 * MEBI), partition=number % PARTITIONS)
    producer.flush(30)


def half_requests(bench):
    """Connections to the admin interface that never end their request. They stay open until the scenario ends."""
    node = bench.services[0].process.pid
    resource.prlimit(node, resource.RLIMIT_NOFILE, (HANDLES, HANDLES))
    host, port = bench.services[0].admin().rsplit(":", 1)
    for _ in range(400):
        with contextlib.suppress(OSError):
            half = socket.create_connection((host, int(port)), timeout=5)
            bench.closing.callback(half.close)
            half.sendall(b"GET /functions HTTP/1.1\r\nHost: ")


def forged_lines(bench):
    deploy(bench, guests.forger(), warm={"floor": 2, "ceiling": 2})
    call(bench, 200)


def made_up_sources(bench):
    for number in range(5_000):
        event = events.pre_trigger("innocent", source=f"made-up-{number}", not_after=events.now_ms() + 600_000)
        value, headers = events.single_object(events.PRE_TRIGGER, event)
        bench.sender.send(bench.topics["pre-triggers"], value, b"innocent", headers)
    bench.sender.flush()


NEIGHBOURS = [
    Neighbour("init-loops", "40 calls of a function whose start never ends", init_loops, ("init",), short=True),
    Neighbour("init-sleeps", "64 calls of a function whose start waits for an hour", init_sleeps, ("init",)),
    Neighbour("slow-floor", "a start of a second, 100 of which are to be held", slow_floor),
    Neighbour("failing-floors", "8 functions whose start never ends, 4 of each to be held", failing_floors, ("init",),
              functions=tuple(f"neighbour-{number}" for number in range(8))),
    Neighbour("compile-bomb", "a module of some kB that takes gigabytes to compile", compile_bomb, ("compil", "refused"),
              short=True, restarts=True),
    Neighbour("no-artifact", "10,200 calls of a function whose artifact is not there", no_artifact, ("artifact",), short=True),
    Neighbour("endless-calls", "1,000 calls that never end", endless_calls, grace_s=35, short=True),
    Neighbour("sleeping-calls", "300 calls that wait for 19 s, 100 instances in all", sleeping_calls, grace_s=35,
              changes={"execute": {"instances-max": 100}}),
    Neighbour("memory-eaters", "32 calls that take 100 MiB each, 256 MiB in all", memory_eaters, ("memory",), memory_mib=500,
              changes={"execute": {"memory-bytes-max": 256 * MEBI}}, short=True),
    Neighbour("tables", "200 instances of 6 MB of tables each, 256 MiB in all", tables, memory_mib=600,
              changes={"target": {"memory-budget-bytes": 256 * MEBI}, "execute": {"memory-bytes-max": 256 * MEBI}}),
    Neighbour("greedy-definition", "a definition that asks for all there is", greedy_definition, ("limits.", "refused"), short=True),
    Neighbour("impossible-dates", "400 definitions with sixteen dates that never come", impossible_dates, ("refused",),
              functions=(), restarts=True),
    Neighbour("header-flood", "60 calls with 50,000 headers each", header_flood, functions=(), memory_mib=300),
    Neighbour("zstd-records", "calls in batches that are packed with zstd", zstd_records, functions=(), short=True),
    Neighbour("unpacked-messages", "6 messages of 64 kB that unpack to 64 MiB", unpacked_messages, functions=(), memory_mib=600),
    Neighbour("half-requests", "400 requests to the admin interface that never end", half_requests, functions=(), short=True),
    Neighbour("forged-lines", "200 calls that write lines of the log", forged_lines, never=("2026-01-01T00:00:00Z",), short=True),
    Neighbour("made-up-sources", "5,000 notices of made-up sources", made_up_sources, functions=()),
]
