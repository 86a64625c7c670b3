"""Scenarios: what functions write is to be found, by a client that is not ours and by `forewarm logs`; and a flood of it harms nobody.
"""

import collections
import datetime
import io
import json
import pathlib
import signal
import subprocess

import confluent_kafka.admin
import fastavro
import wasmtime

import events
from bench import definition
from streams import BROKER_DEADLINE_S, Reader

FUNCTION_LOG = events.Schema(events.SCHEMAS / "function-log.avsc")
# Prints its payload and traps where that begins with "t"; its init prints, too.
PRINTER = pathlib.Path(__file__).resolve().parents[1] / "execute" / "printer.wat"
# What one call of the flood writes, and what is kept of it.
FLOOD_LINES = 1_000
FLOOD_CALLS = 200
INNOCENT_CALLS = 100
# A call of it writes that to stderr, and its answer to stdout.
WRITER = r"""(module
  (import "wasi_snapshot_preview1" "fd_write" (func $write (param i32 i32 i32 i32) (result i32)))
  (memory (export "memory") 1)
  (data (i32.const 64) "starting up\n")
  (data (i32.const 128) "{}")
  (func (export "_start") (local $left i32)
    (local.set $left (i32.const TIMES))
    (i32.store (i32.const 0) (i32.const 64))
    (i32.store (i32.const 4) (i32.const 12))
    (loop $again
      (drop (call $write (i32.const 2) (i32.const 0) (i32.const 1) (i32.const 8)))
      (local.set $left (i32.sub (local.get $left) (i32.const 1)))
      (br_if $again (local.get $left)))
    (i32.store (i32.const 0) (i32.const 128))
    (i32.store (i32.const 4) (i32.const 2))
    (drop (call $write (i32.const 1) (i32.const 0) (i32.const 1) (i32.const 8)))))"""


class Lines(Reader):
    """Keeps every line of the topic, as another implementation of Avro reads it."""

    def __init__(self, bootstrap, topic, **options):
        self.lines = []
        super().__init__(bootstrap, topic, **options)

    def take(self, _topic, _partition, _offset, key, value, headers):
        assert dict(headers)["content-type"] == b"application/avro", headers
        assert value[:10] == b"\xc3\x01" + FUNCTION_LOG.fingerprint, value[:10].hex()
        buffer = io.BytesIO(value[10:])
        line = fastavro.schemaless_reader(buffer, FUNCTION_LOG.parsed)
        assert buffer.tell() == len(value) - 10 and key == line["function"].encode(), (key, line)
        self.lines.append(line)

    def of(self, function, **fields):
        """Stream and text of the lines of a function, in their order."""
        chosen = (line for line in self.lines if line["function"] == function)
        return [
            (line["stream"], line["text"]) for line in chosen if all(line[field] == value for field, value in fields.items())
        ]

    def wait_of(self, function, wanted, **fields):
        self.wait(lambda: self.of(function, **fields) == wanted, 60, lambda: f"{self.of(function, **fields)}, not {wanted}")


def start(bench, **changes):
    """A node with a topic of functions' logs, and a reader of that."""
    bench.make_topics()
    name = f"{bench.name}.function-logs"
    admin = bench.topics.admin
    new = confluent_kafka.admin.NewTopic(name, num_partitions=3, replication_factor=-1)
    admin.create_topics([new], operation_timeout=BROKER_DEADLINE_S)[name].result(BROKER_DEADLINE_S)
    bench.closing.callback(lambda: admin.delete_topics([name])[name].result(BROKER_DEADLINE_S))
    service = bench.service(topics={"function-logs": name}, **changes).start()
    service.wait_ready(True)
    lines = Lines(bench.bootstrap, name, check_others=bench.check_services)
    bench.closing.callback(lines.close)
    return service, lines


def assemble(bench, name, text):
    path = bench.directory / f"{name}.wasm"
    path.write_bytes(bytes(wasmtime.wat2wasm(text)))
    return path


def function_logs(bench):
    """Lines of components and commands, of init and of a trap, as a client of its own and as the command reads them."""
    service, lines = start(bench, telemetry={"log-filter": "info,function=debug"})
    results = bench.results()
    printer = assemble(bench, "printer", PRINTER.read_text(encoding="utf-8").replace("PIPE", "stdout").replace("INIT", "0"))
    bench.define(definition("shop/printer", printer, tenant="acme"))
    bench.define(definition("loud", assemble(bench, "loud", WRITER.replace("TIMES", "1")), kind="command"))
    # A call that ends well.
    said = "one\nforged\x1b[2J\u202e\n2026-01-01T00:00:00Z  INFO forewarm: forged\n"
    well = bench.call("shop/printer", said.encode())
    assert results.one(well).status == "ok"
    wanted = [("stdout", line) for line in said.splitlines()]
    # Of which Python takes other line ends than the guest writes for such.
    assert [text for _, text in wanted] == ["one", "forged\x1b[2J\u202e", "2026-01-01T00:00:00Z  INFO forewarm: forged"]
    lines.wait_of("shop/printer", wanted, invocation_id=well)
    lines.wait_of("shop/printer", [("stdout", "init says hello")], invocation_id=None)
    (first, *_) = [line for line in lines.lines if line["invocation_id"] == well]
    assert (first["version"], first["tenant"], first["node"], first["attempt"]) == ("1", "acme", "e2e-node", 1), first
    age = datetime.datetime.now(datetime.timezone.utc) - first["written_at"]
    assert abs(age) < datetime.timedelta(minutes=2), first
    # A trap: the guest's words, and the node's.
    bad = bench.call("shop/printer", b"the last words")
    assert results.one(bad).status == "trap"
    lines.wait(lambda: len(lines.of("shop/printer", invocation_id=bad)) == 2, 60, lambda: lines.lines)
    own, told = lines.of("shop/printer", invocation_id=bad)
    assert own == ("stdout", "the last words") and told[0] == "node", (own, told)
    assert told[1].startswith("the call ended with trap (UnreachableCodeReached): the guest trapped: "), told
    service.wait_log("a call ended badly")
    (line,) = service.log_lines("a call ended badly")
    assert " WARN function: " in line and f'invocation="{bad}"' in line and "the last words" in line, line
    # A command: its stdout is its answer.
    loud = bench.call("loud", b"x")
    assert results.one(loud).payload == b"{}"
    lines.wait_of("loud", [("stderr", "starting up")], invocation_id=loud)
    service.wait_log("DEBUG function: starting up function=loud")
    controls = {character for character in service.log.read_text(encoding="utf-8") if character in "\x1b\u202e"}
    assert not controls, controls
    assert not [line for line in service.log_lines() if line.startswith("2026-01-01T00:00:00Z")]

    # The command: for people, escaped; in JSON, as it was written.
    shown = service.command("logs", "shop/printer", "--invocation", well).splitlines()
    assert [line.split(": ", 1)[1] for line in shown] == [
        "one", "forged\\u{1b}[2J\\u{202e}", "2026-01-01T00:00:00Z  INFO forewarm: forged",
    ], shown
    assert all(f" 1 {well} stdout: " in line for line in shown), shown
    told = [json.loads(line) for line in service.command("logs", "shop/printer", "--json").splitlines()]
    assert [(line["stream"], line["text"]) for line in told] == lines.of("shop/printer"), told
    assert service.command("logs", "loud", "--since", "10m").endswith(f"{loud} stderr: starting up\n")
    for arguments in (("nobody",), ("loud", "--invocation", "none"), ("loud", "--since", "0s")):
        assert "no line of function" in service.fails("logs", *arguments), arguments

    # It follows.
    follow = [service.binary, "logs", "loud", "--follow", "--config", service.config]
    with subprocess.Popen(follow, stdout=subprocess.PIPE, text=True) as following:
        try:
            assert loud in following.stdout.readline()
            later = bench.call("loud", b"x")
            bench.sender.flush()
            assert later in following.stdout.readline()
        finally:
            following.send_signal(signal.SIGKILL)
    # A topic that is not there is said to be so.
    service.environment["FOREWARM__TOPICS__FUNCTION_LOGS"] = f"{bench.name}.none"
    assert "is not there" in service.fails("logs", "loud"), "a topic that is not there"
    assert service.stop() == 0


def function_logs_flood(bench):
    """One function that floods: every line of another one is there, results are as ever, and what is left out is told to the line."""
    service, lines = start(bench)
    results = bench.results()
    bench.define(definition("flood", assemble(bench, "flood", WRITER.replace("TIMES", str(FLOOD_LINES))), kind="command"))
    bench.define(definition("innocent", assemble(bench, "innocent", WRITER.replace("TIMES", "1")), kind="command"))
    ids, innocent = [], []
    for number in range(FLOOD_CALLS):
        ids.append(bench.call("flood", b"x"))
        if number % (FLOOD_CALLS // INNOCENT_CALLS) == 0:
            innocent.append(bench.call("innocent", b"x"))
    results.wait_all(ids + innocent, 120)
    assert set(results.statuses) == {"ok"}, results.statuses

    def accounted():
        flood = [line for line in lines.lines if line["function"] == "flood"]
        # A word about the whole function is none of its own lines; a word about a call is one.
        own = sum(line["invocation_id"] is not None or line["stream"] != "node" for line in flood)
        return own + sum(line["left_out_lines"] for line in flood), own

    # The lines of each call, and its word about those that are left out.
    wanted = FLOOD_CALLS * (FLOOD_LINES + 1)
    lines.wait(lambda: accounted()[0] == wanted, 120, lambda: f"{accounted()} of {wanted} accounted for")
    seen = collections.Counter(line["invocation_id"] for line in lines.lines if line["function"] == "innocent")
    assert seen == dict.fromkeys(innocent, 1), seen
    own = accounted()[1]
    assert own < wanted / 10, f"{own} lines of the flood came out"
    # Nobody asked for guests' lines in the node's own log.
    assert not service.log_lines("starting up")
    assert service.stop() == 0
    (summary,) = service.log_lines("counted since the start")
    assert "function_logs.dropped" not in summary, summary
    return f"{own} of {wanted} lines of the flood, {len(seen)} of {len(innocent)} of the innocent"


def function_logs_made(bench):
    """A node makes the topic with its retention, and writes lines in the form of results; the command reads that form too."""
    bench.make_topics()
    name, admin = f"{bench.name}.function-logs", bench.topics.admin
    service = bench.service(
        topics={"function-logs": name, "create": True},
        publish={"format": "json"},
        **{"function-logs": {"retention": "90m", "call-lines-max": 4}},
    ).start()
    bench.closing.callback(lambda: admin.delete_topics([name])[name].result(BROKER_DEADLINE_S))
    service.wait_ready(True)
    resource = confluent_kafka.admin.ConfigResource(confluent_kafka.admin.ConfigResource.Type.TOPIC, name)
    settings = admin.describe_configs([resource])[resource].result(BROKER_DEADLINE_S)
    assert settings["retention.ms"].value == str(90 * 60 * 1_000), settings["retention.ms"].value
    lines = JsonLines(bench.bootstrap, name, check_others=bench.check_services)
    bench.closing.callback(lines.close)
    results = bench.results()
    bench.define(definition("loud", assemble(bench, "loud", WRITER.replace("TIMES", "10")), kind="command"))
    assert results.one(bench.call("loud", b"x")).status == "ok"
    said = "6 lines and 66 bytes in all were left out: between the first and the last lines of this call "
    said += "(function-logs.call-lines-max = 4, call-bytes-max = 65536)"
    lines.wait_of("loud", 4 * [("stderr", "starting up")] + [("node", said)])
    assert [line["left_out_lines"] for line in lines.lines] == [0, 0, 0, 0, 6], lines.lines
    told = [json.loads(line) for line in service.command("logs", "loud", "--json").splitlines()]
    assert told == lines.lines, told
    assert service.stop() == 0


def function_logs_without_the_topic(bench):
    """A node whose brokers have no such topic answers calls as ever, counts the lines, and says why they are lost."""
    bench.make_topics()
    service = bench.service(topics={"function-logs": f"{bench.name}.none"}).start()
    service.wait_ready(True)
    results = bench.results()
    bench.define(definition("loud", assemble(bench, "loud", WRITER.replace("TIMES", "1")), kind="command"))
    results.wait_all([bench.call("loud", b"x") for _ in range(200)], 60)
    assert set(results.statuses) == {"ok"}, results.statuses
    # Lines may take 30 s.
    service.wait_log("lines of functions were dropped: the topic is not there")
    assert service.stop() == 0
    assert "function_logs.dropped=200" in service.log_lines("counted since the start")[0], service.log_tail()


class JsonLines(Lines):
    """The same, of a node that writes JSON."""

    def take(self, _topic, _partition, _offset, _key, value, headers):
        assert dict(headers)["content-type"] == b"application/json", headers
        self.lines.append(json.loads(value))


SCENARIOS = [function_logs, function_logs_flood, function_logs_made, function_logs_without_the_topic]
