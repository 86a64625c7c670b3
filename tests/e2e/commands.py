"""Scenarios: the commands. They read every format that is written, say what they cannot read, and say soon why nobody answers.

Those of deploying stand elsewhere.
"""

import concurrent.futures
import json
import os
import re
import socket
import subprocess
import sys
import time

import events
from bench import ECHO, REPOSITORY, definition
from exactly_once import committed
from operate import dead_port
from schema_registry import SchemaRegistry

# The promise is 5 s; a busy machine has some more.
SOON_S = 40
IN_PART = 3


def lines(text):
    return [json.loads(line) for line in text.splitlines()]


def commands_read_all(bench):
    """What is written in single-object encoding, JSON and Confluent framing is read by every command."""
    registry = SchemaRegistry()
    bench.closing.callback(registry.close)
    ids = {schema: registry.add(schema.text) for schema in (events.FUNCTION, events.PRE_TRIGGER, events.RESULT, events.OUTCOME)}
    # Compacted, so that tombstones are among what is kept.
    bench.make_topics(changes={"results": {"config": {"cleanup.policy": "compact"}}})
    definers = {"single-object": events.single_object, "json": events.as_json, "confluent": events.confluent(ids[events.FUNCTION])}
    announcers = {**definers, "confluent": events.confluent(ids[events.PRE_TRIGGER])}
    called, announced = [], []
    for form, define in definers.items():
        service = bench.service(kafka={"schema-registry-url": registry.url}, publish={"format": form}).start()
        bench.define(definition(form, ECHO), define)
        for number in range(2):
            call = f"{form}-{number}"
            # A compacted topic takes nothing without a key.
            result = json.loads(service.command("invoke", form, "--payload", "p", "--id", call, "--key", call))
            assert (result["invocation_id"], result["status"], result["payload"]) == (call, "ok", "p"), result
            called.append(call)
        # Refused, so that it ends at once, in the format of this node.
        notice = bench.announce("nobody", announcers[form], id=f"notice-{form}")
        announced.append(notice)
        asked = ("pre-triggers", "outcomes", "--id", notice)
        said = until(lambda: lines(service.command(*asked)), lambda said: said)
        assert [(one["pre_trigger_id"], one["criterion"]) for one in said] == [(notice, "unknown_function")], said
        assert service.stop() == 0
    bench.sender.send(bench.topics["results"], None, b"a key", None, 0)
    bench.sender.flush()
    assert [one["invocation_id"] for one in lines(service.command("results"))] == called
    assert [one["id"] for one in lines(service.command("pre-triggers", "list", "--function", "nobody"))] == announced
    listed = lines(service.command("function", "list"))
    assert sorted(one["name"] for one in listed) == sorted(definers), listed
    for form in definers:
        assert json.loads(service.command("function", "show", form))["name"] == form
    said = service.run_command(["backtest", "--topic", "--policy", "none"], 0).stderr
    assert f"{len(called)} calls;" in said, said
    # Without the registry what is framed with its ids is named, and the rest is there.
    without = bench.service()
    done = without.run_command(["results"], IN_PART)
    assert [one["invocation_id"] for one in lines(done.stdout)] == called[:4], done.stdout
    for word in (f"topic {bench.topics['results']}, partition ", ", offset ", "2 records are left out"):
        assert word in done.stderr, done.stderr
    done = without.run_command(["function", "list"], IN_PART)
    assert sorted(one["name"] for one in lines(done.stdout)) == ["json", "single-object"], done.stdout
    assert "confluent" in done.stderr and "1 record is left out" in done.stderr, done.stderr
    assert "no definition of confluent can be read" in without.fails("function", "show", "confluent")
    without.run_command(["pre-triggers", "outcomes"], IN_PART)
    without.run_command(["backtest", "--topic", "--policy", "none"], IN_PART)
    return f"{len(called)} results, {len(announced)} notices, {len(listed)} functions"


def commands_count_what_they_leave_out(bench):
    """Records that are nothing are named, the first ten, and counted, all; those that are something are printed."""
    service = bench.service().start()
    bench.define(definition("echo", ECHO))
    service.command("invoke", "echo", "--id", "there")
    for number in range(25):
        bench.sender.send(bench.topics["results"], b"\x1b[2Jjunk %d" % number, None, None, 0)
        bench.sender.send(bench.topics["pre-trigger-outcomes"], b"junk", None, None, 0)
        bench.sender.send(bench.topics["function-status"], b"junk", b"a\x00b", None, 0)
    bench.sender.flush()
    for command in (["results"], ["pre-triggers", "outcomes"], ["function", "status"]):
        said = service.run_command(command, IN_PART).stderr
        assert said.count("left out, as it cannot be read: topic ") == 10 and "25 records are left out" in said, said
        assert "\x1b" not in said, said
    assert [one["invocation_id"] for one in lines(service.run_command(["results"], IN_PART).stdout)] == ["there"]
    # What is asked for is one thing, and was done.
    assert service.command("invoke", "echo", "--payload", "well", "--raw") == "well"
    assert service.stop() == 0
    return "25 records on each of 3 topics"


def until(ask, holds, deadline_s=60):
    """Asks again until the answer is as it should become."""
    last = time.monotonic() + deadline_s
    while not holds(said := ask()):
        assert time.monotonic() < last, said
    return said


def results_selected(bench):
    """Results are chosen by function, call, status, time and number, and come in the order of time."""
    service = bench.service().start()
    for name in ("one", "other"):
        bench.define(definition(name, ECHO))
    many = lines(service.command("invoke", "one", "--count", "5", "--id", "many", "--payload", "x", "--tenant", "acme"))
    assert sorted(one["invocation_id"] for one in many) == [f"many-{number}" for number in range(1, 6)], many
    service.command("invoke", "other", "--id", "single", "--attribute", "a=1", "--attribute", "b=2=3")
    service.fails("invoke", "missing", "--id", "nowhere")
    all_of_them = lines(service.command("results"))
    times = [one["completed_at"] for one in all_of_them]
    assert len(times) == 7 and times == sorted(times), times

    def chosen(*arguments):
        return [one["invocation_id"] for one in lines(service.command("results", *arguments))]

    assert chosen("--function", "other") == ["single"]
    assert chosen("--id", "single", "--id", "many-3") == ["many-3", "single"]
    assert chosen("--status", "rejected") == ["nowhere"]
    assert chosen("--count", "2") == ["single", "nowhere"]
    assert len(chosen("--since", "1h")) == 7 and chosen("--from-now") == []
    text = service.command("results", "--text", "--id", "nowhere")
    assert text.count("\n") == 1 and "rejected" in text and "missing" in text, text
    service.run_command(["results", "--status", "fine"], 64)
    service.run_command(["invoke", "one", "--traceparent", "nonsense"], 64)
    assert service.stop() == 0
    return "7 results"


def what_a_call_carries(bench):
    """Tenant, attributes, id and trace context of `invoke` are on the topic as a client that is not ours reads it."""
    service = bench.service()
    trace = "00-4bf92f3577b34da6a3ce929d0e0e4736-00f067aa0ba902b7-01"
    sent = ("--tenant", "acme", "--attribute", "a=1", "--attribute", "b=2=3", "--traceparent", trace, "--id", "mine")
    # Nobody answers: no node runs. That is said, and with which call.
    said = service.fails("invoke", "echo", "--payload", "p", "--wait", "2s", *sent)
    assert "no result for call mine" in said, said
    ((headers, value, _),) = committed(bench, "invocations")
    call = events.read_invocation(value)
    assert (call["id"], call["tenant"], call["attributes"]) == ("mine", "acme", {"a": "1", "b": "2=3"}), call
    assert dict(headers)["traceparent"] == trace.encode(), headers


def pre_trigger_verdict(bench):
    """`pre-trigger` ends with 1 and the reason where a node refuses the notice, and with 0 where none does."""
    service = bench.service().start()
    service.wait_ready(True)
    said = service.fails("pre-trigger", "nobody", "--wait", "60s")
    assert "refused: unknown_function" in said, said
    bench.define(definition("echo", ECHO, pre_trigger={"confidence_min": 0.5}))
    service.command("invoke", "echo")
    said = service.fails("pre-trigger", "echo", "--confidence", "0.4", "--wait", "60s")
    assert "refused: confidence_too_low" in said, said
    done = service.run_command(["pre-trigger", "echo", "--window", "60s", "--id", "held"], 0)
    assert "no node refused it" in done.stderr and json.loads(done.stdout)["id"] == "held", done
    service.command("pre-trigger", "echo", "--no-wait", "--id", "too")
    live = [one["id"] for one in lines(service.command("pre-triggers", "list", "--live", "--function", "echo"))]
    assert "held" in live and "too" in live, live
    # Withdrawn, which is what was asked for.
    done = service.run_command(["pre-trigger", "echo", "--id", "held", "--expected", "0", "--wait", "60s"], 0)
    assert "withdrawn" in done.stderr, done.stderr
    assert service.stop() == 0


BROKER_COMMANDS = [
    ["results"],
    ["invoke", "f"],
    ["pre-trigger", "f"],
    ["pre-triggers", "list"],
    ["pre-triggers", "outcomes"],
    ["function", "list"],
    ["function", "show", "f"],
    ["function", "status"],
    ["function", "remove", "f"],
    ["dead-letters", "list"],
    ["dead-letters", "redrive"],
    ["backtest", "--topic"],
]
NODE_COMMANDS = [["explain", "f"], ["chains"], ["health"]]


def commands_unreachable(bench):
    """Every command that reaches nobody says the address and the reason, soon, and ends with 1."""
    service = bench.service()
    with dead_port() as refused, silent_port() as silent:
        rows = [("nobody.invalid:9092", "resolve"), (refused, "refused")]
        asked = [(command, address, word) for command in BROKER_COMMANDS for address, word in rows]
        # One that takes connections and says nothing may be busy: it is named soon, and waited for a little longer.
        asked.append((["results"], silent, "timed out"))
        with concurrent.futures.ThreadPoolExecutor(8) as several:
            by_broker = [several.submit(failed, service, command, "--bootstrap", *row) for command, *row in asked]
            rows = [(refused, "refused"), ("nobody.invalid:9464", "dns")]
            by_node = [several.submit(failed, service, command, "--admin", *row) for command in NODE_COMMANDS for row in rows]
            took_s = [one.result() for one in (*by_broker, *by_node)]
    assert max(took_s) < SOON_S, took_s
    return f"{len(took_s)} commands, the slowest after {max(took_s):.1f} s"


def failed(service, command, option, address, word):
    """How long a command takes to say the address and a word of the reason."""
    began = time.monotonic()
    said = service.fails(*command, option, address)
    assert address in said and word in said, (command, said)
    return time.monotonic() - began


class silent_port:
    """An address that takes connections and never says anything."""

    def __enter__(self):
        self.listener = socket.create_server(("127.0.0.1", 0), backlog=64)
        return f"127.0.0.1:{self.listener.getsockname()[1]}"

    def __exit__(self, *_):
        self.listener.close()


def checked_before(bench):
    """`check-config` refuses what `serve` refuses, with the same words and all at once."""
    bench.make_topics()
    changes = {
        "kafka.properties": {"security.protcol": "ssl", "session.timeout.ms": "6000", "heartbeat.interval.ms": "1000"},
        "telemetry": {"log-filter": "info=info=info"},
        "forecast": {"model": "/nonexistent/model"},
    }
    service = bench.service(**changes)
    told = [service.run_command([command], 64).stderr for command in ("check-config", "serve")]
    assert told[0] == told[1], told
    for key in ("security.protcol", "telemetry.log-filter", "forecast.model"):
        assert key in told[0], told[0]
    said = bench.service(delivery="exactly-onc").run_command(["check-config"], 64).stderr
    assert "at-least-once" in said and "exactly-once" in said, said
    version = subprocess.run([bench.binary, "--version"], capture_output=True, text=True, check=True).stdout
    for word in ("features:", "wasmtime:", "librdkafka:"):
        assert word in version, version
    return f"{told[0].count('  - ')} faults"


def client_of_the_readme(bench):
    """The client in Python that README shows calls a function and prints its result, as it stands there."""
    (code,) = re.findall(r"```python\n(.*?)```", (REPOSITORY / "README.md").read_text(encoding="utf-8"), re.DOTALL)
    service = bench.service().start()
    bench.define(definition("hello", ECHO))
    for role in ("invocations", "results"):
        assert code.count(f'"{role}"') == 1, code
        code = code.replace(f'"{role}"', json.dumps(bench.topics[role]))
    code = code.replace("my-results", f"{bench.name}-readers")
    environment = {**os.environ, "FOREWARM__KAFKA__BOOTSTRAP_SERVERS": bench.bootstrap}
    command = [sys.executable, "-c", code]
    client = subprocess.Popen(command, stdout=subprocess.PIPE, text=True, env=environment, cwd=REPOSITORY)
    bench.closing.callback(client.kill)
    until(lambda: lines(service.command("results", "--id", "call-2")), lambda said: said)
    assert client.stdout.readline() == """call-2 ok b'"again"'\n"""
    client.kill()
    client.wait()
    assert service.stop() == 0


SCENARIOS = [
    client_of_the_readme,
    commands_read_all,
    commands_count_what_they_leave_out,
    results_selected,
    what_a_call_carries,
    pre_trigger_verdict,
    commands_unreachable,
    checked_before,
]
