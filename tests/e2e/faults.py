"""Scenarios: what bad input gets. Nothing is dropped without a word, and nobody else is harmed."""

import hashlib

import control_group
import events
from bench import ECHO, HOSTILE, definition
from schema_registry import SchemaRegistry
from use import call_until

PREFIX = "forewarm.dead-letter."


def garbage():
    """Messages that are no invocation: value, headers, and the reason that the dead letter must give."""
    good, avro = events.single_object(events.INVOCATION, events.invocation("echo", b"x" * 20))
    notice, _ = events.single_object(events.PRE_TRIGGER, events.pre_trigger("echo"))
    no_id, json_header = events.as_json(None, events.invocation("echo", b"x", id=""))
    unknown_id, _ = events.confluent(77)(events.INVOCATION, events.invocation("echo"))
    return [
        (b"", [], "empty"),
        (None, [], "empty"),
        (b"not an event", [], "unknown_format"),
        (b'{"id": "x"}', [("content-type", b"text/plain")], "unknown_format"),
        (b"\xc3\x01\x00", avro, "truncated"),
        (b"\xc3\x01" + b"\xee" * 8 + b"datum", avro, "unknown_schema"),
        (unknown_id, avro, "unknown_schema"),
        (notice, avro, "other_event"),
        (good[:20], avro, "malformed"),
        (b'{"id": 5}', json_header, "malformed"),
        (b'{"id": "x"', json_header, "malformed"),
        (good + b"\x00", avro, "trailing_bytes"),
        (no_id, json_header, "out_of_bounds"),
    ]


def dead_letters(bench):
    """What is no event lands among the dead letters as it came, with where from and why; the stream goes on."""
    registry = SchemaRegistry()
    bench.closing.callback(registry.close)
    service = bench.service(kafka={"schema-registry-url": registry.url}).start()
    results, letters = bench.results(), bench.dead_letters()
    bench.define(definition("echo", ECHO))
    sent = {}
    for number, (value, headers, reason) in enumerate(garbage()):
        key = bytes([0, number, 0xFF])
        marked = [*headers, ("binary", b"\xff\x00"), ("twice", b"1"), ("twice", b"2")]
        topic = bench.topics["invocations"]
        partition, offset = bench.sender.send_and_locate(topic, value, key, marked, partition=2)
        sent[topic, partition, offset] = (value, key, marked, reason)
    # On the same partition behind all of them.
    event = events.invocation("echo", b"still here")
    value, headers = events.single_object(events.INVOCATION, event)
    bench.sender.send(bench.topics["invocations"], value, None, headers, partition=2)
    assert results.one(event["id"]).payload == b"still here"
    came = letters.wait_for(len(sent), 60)
    assert service.stop() == 0
    assert len(letters.letters) == len(sent), f"{len(letters.letters)} dead letters, expected {len(sent)}"
    for letter in came:
        place = (
            letter.header(f"{PREFIX}topic").decode(),
            int(letter.header(f"{PREFIX}partition")),
            int(letter.header(f"{PREFIX}offset")),
        )
        value, key, headers, reason = sent.pop(place)
        # An empty value and none at all look the same to many clients, so it may be either here.
        assert (letter.value or b"") == (value or b""), (place, letter.value)
        assert letter.key == key, (place, letter.key)
        assert [pair for pair in letter.headers if not pair[0].startswith(PREFIX)] == headers, (place, letter.headers)
        assert letter.header(f"{PREFIX}reason").decode() == reason, (place, letter.headers)
        assert letter.header(f"{PREFIX}detail"), (place, letter.headers)
        assert letter.header(f"{PREFIX}node") == b"e2e-node", (place, letter.headers)
    assert not sent, f"no dead letter of {sent}"
    assert len(results.seen) == 1, f"{len(results.seen)} results, expected that of the one good call"
    return f"{len(came)} kinds"


def rejected(bench):
    """Calls that may not run are answered with `rejected` and the reason."""
    service = bench.service().start()
    results = bench.results()
    bench.define(definition("small", ECHO, limits={"payload_in_bytes": 1_000}))
    bench.define(definition("off", ECHO, enabled=False))
    cases = [
        ("nobody/knows", b"", {}, "unknown_function"),
        ("small", b"x" * 1_001, {}, "payload_in"),
        ("off", b"", {}, "disabled"),
        ("small", b"late", {"deadline": events.now_ms() - 60_000}, "deadline"),
    ]
    for function, payload, fields, code in cases:
        result = results.one(bench.call(function, payload, key=b"k", **fields))
        assert (result.status, result.start_kind, result.payload, result.key) == ("rejected", None, None, b"k"), (
            result.event
        )
        assert result.error_code == code and result.error_message, result.event
    at_the_limit = results.one(bench.call("small", b"x" * 1_000))
    assert at_the_limit.status == "ok", at_the_limit.event
    assert service.stop() == 0
    return f"{len(cases)} reasons"


def hostile(bench):
    """Guests that trap, loop, sleep, eat memory or flood are ended and named; others go on beside them."""
    service = bench.service().start()
    results = bench.results()
    limits = {"timeout_ms": 500, "memory_bytes": 32 << 20, "payload_out_bytes": 1_000}
    bench.define(definition("hostile", HOSTILE, limits=limits))
    bench.define(definition("echo", ECHO))
    assert results.one(bench.call("echo")).status == "ok"
    expected = {
        b"trap": "trap",
        b"loop": "timeout",
        b"sleep": "timeout",
        b"eat-memory": "limit",
        b"huge-answer": "limit",
        b"deep-recursion": "trap",
        b"host-resources": "limit",
        b"stderr-flood": "ok",
        b"behave": "ok",
    }
    harm, others = [], []
    for _ in range(5):
        for payload, status in expected.items():
            harm.append((bench.call("hostile", payload), payload, status))
            others += [bench.call("echo", b"x") for _ in range(20)]
    bench.sender.flush()
    results.wait_all([*others, *(name for name, _, _ in harm)], 180)
    for name, payload, status in harm:
        result = results.one(name)
        assert result.status == status, f"{payload}: {result.event}"
        if status == "trap":
            assert result.error["backtrace"], f"{payload}: {result.event}"
        if status != "ok":
            assert result.error_message, f"{payload}: {result.event}"
    assert {results.one(name).status for name in others} == {"ok"}
    assert results.one(bench.call("hostile", b"behave")).status == "ok"
    assert service.stop() == 0
    assert results.duplicates() == 0
    return f"{len(harm)} harmful calls beside {len(others)} others"


def memory_limit(bench):
    """In a control group of 512 MiB, with the defaults, calls that grow to 64 MiB each end no node and no call without a word."""
    limit_bytes = 512 << 20
    # Left when the node has ended, however the scenario ends.
    group = bench.closing.enter_context(control_group.limited(bench.name, limit_bytes))
    service = bench.service()
    service.binary = control_group.within(service.binary, group, service.directory)
    service.start()
    results = bench.results()
    bench.define(definition("eater", HOSTILE, limits={"memory_bytes": 64 << 20, "timeout_ms": 60_000}))
    bench.define(definition("echo", ECHO))
    assert results.one(bench.call("echo", b"x")).status == "ok"
    assert service.log_lines(f"execute.memory-bytes-max = {limit_bytes // 2}, by the machine"), service.log_tail()
    eaters, others = [], []
    for _ in range(5):
        eaters += [bench.call("eater", b"eat-memory") for _ in range(40)]
        others += [bench.call("echo", b"x") for _ in range(20)]
        bench.sender.flush()
        results.wait_all([*eaters, *others], 180)
        service.check_running()
    codes = [results.one(name).error["code"] for name in eaters]
    assert set(codes) <= {"memory", "node_memory"}, set(codes)
    harmed = [results.one(name).event for name in others if results.one(name).status != "ok"]
    assert not harmed, f"{len(harmed)} of {len(others)} others, such as {harmed[0]}"
    most_bytes = service.resident_bytes_most()
    assert service.stop() == 0
    refused = codes.count("node_memory")
    return f"{len(eaters)} calls of 64 MiB, {refused} of them found no memory; at most {most_bytes >> 20} MiB resident"


def wrong_artifacts(bench):
    """An artifact that is not what its definition says never runs; the version before it goes on."""
    service = bench.service().start()
    results = bench.results()
    bench.define(definition("echo", ECHO))
    assert results.one(bench.call("echo")).function_version == "1"
    wrong = definition("echo", ECHO, version="2")
    wrong["artifact"]["sha256"] = "00" * 32
    bench.define(wrong)
    bench.define({**wrong, "name": "never-good"})
    script = bench.directory / "no.wasm"
    script.write_text("#!/bin/sh\n", encoding="ascii")
    bench.define(definition("no-wasm", script))
    # A definition with faults of its own, and one under another's key, change nothing.
    bench.define(definition("echo", ECHO, version="3", warm={"floor": 9, "ceiling": 1}))
    value, headers = events.as_json(None, definition("other", ECHO, version="4"))
    bench.sender.send(bench.topics["functions"], value, b"echo", headers)
    bench.define(definition("last", ECHO))
    assert results.one(bench.call("last")).status == "ok"
    found = hashlib.sha256(ECHO.read_bytes()).hexdigest()
    for name, word in (("never-good", "SHA-256"), ("no-wasm", "WebAssembly")):
        # A call may come while the artifact is looked at; then it waits, and hears the same.
        result = results.one(bench.call(name))
        assert (result.status, result.error_code) == ("rejected", "refused"), result.event
        assert word in result.error_message, f"no {word!r} in {result.event}"
        # A caller learns neither what is there nor where.
        assert found not in result.error_message and str(bench.directory) not in result.error_message, result.event
    result = results.one(bench.call("echo", b"x"))
    assert (result.status, result.function_version, result.payload) == ("ok", "1", b"x"), result.event
    bench.define(definition("echo", ECHO, version="5"))
    call_until(bench, results, "echo", lambda result: result.function_version == "5")
    assert service.stop() == 0
    return "4 kinds"


def late_artifact(bench):
    """A call waits for an artifact that is not there yet, at most until its deadline."""
    service = bench.service().start()
    results = bench.results()
    path = bench.directory / "late.wasm"
    late = definition("late", ECHO)
    late["artifact"]["uri"] = f"file://{path}"
    bench.define(late)
    result = results.one(bench.call("late", b"1", deadline=events.now_ms() + 1_000))
    assert (result.status, result.error_code) == ("rejected", "deadline"), result.event
    waits = bench.call("late", b"2")
    bench.sender.flush()
    # Moved into place whole, as a reader may come at any moment.
    partial = path.with_suffix(".partial")
    partial.write_bytes(ECHO.read_bytes())
    partial.rename(path)
    result = results.one(waits)
    assert (result.status, result.payload) == ("ok", b"2"), result.event
    assert service.stop() == 0


def bad_configuration(bench):
    """A configuration with faults ends with status 64 and names each of them."""
    bench.make_topics()
    changes = {"ingest": {"group-id": "g", "no-such-key": 1}, "control": {"tick": "soon"}}
    service = bench.service(**changes)
    for command in ("serve", "check-config"):
        service.command(command, status=64)
    service.start()
    assert service.wait() == 64
    said = service.log_tail()
    assert "no-such-key" in said and "tick" in said, said


SCENARIOS = [dead_letters, rejected, hostile, memory_limit, wrong_artifacts, late_artifact, bad_configuration]
