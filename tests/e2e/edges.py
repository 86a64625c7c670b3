"""Scenarios: messages as other people's clients send them. Headers of calls, JSON as it is written by hand, notices whose records
have odd times, and text that would steer a terminal.
"""

import json
import os
import subprocess
import unicodedata
import urllib.error

import confluent_kafka
import events
from bench import ECHO, GUESTS, HOSTILE, definition
from service import COMMAND_DEADLINE_S
from status import ask, until
from streams import DeadLetters

PREFIX = "forewarm.dead-letter."
GREET = GUESTS / "rust-greet" / "rust-greet.wasm"
WORDCOUNT = GUESTS / "c-wordcount" / "c-wordcount.wasm"
LEFT_OUT = "forewarm.headers-left-out"
WINDOW_MS = 600_000


def passed_on(result):
    """A result's headers without those that say what the service itself has to say."""
    assert result.headers[0][0] == "content-type", result.headers
    assert sum(name.lower() == "content-type" for name, _ in result.headers) == 1, result.headers
    return result.headers[1:]


def call_headers(bench):
    """What a caller puts into headers reaches the function as attributes, and comes back with the result."""
    service = bench.service().start()
    results, letters = bench.results(), bench.dead_letters()
    bench.define(definition("greet", GREET))
    bench.define(definition("count", WORDCOUNT, kind="command"))
    bench.define(definition("hostile", HOSTILE, retry={"attempts_max": 3, "backoff_ms": 10}))
    sent = [
        ("Correlation-Id", b"c-81"),
        ("baggage", b"shop=7,lane=4"),
        ("kafka_correlationId", bytes([1, 2])),
        ("raw", b"\xff\x00"),
        ("gone", None),
        ("empty", b""),
        ("twice", b"1"),
        ("twice", b"2"),
        ("mine", b"of the header"),
    ]
    ours = [("forewarm.headers-left-out", b"9"), ("Forewarm.anything", b"x"), ("__value_schema_id", b"")]
    attributes = [
        ["mine", "of the call"],
        ["Correlation-Id", "c-81"],
        ["baggage", "shop=7,lane=4"],
        ["kafka_correlationId", "\x01\x02"],
        ["empty", ""],
        ["twice", "2"],
    ]
    for write in (events.single_object, events.as_json):
        fields = {"headers": [*ours, *sent], "attributes": {"mine": "of the call"}, "write": write}
        result = results.one(bench.call("greet", b'"Ann"', **fields))
        assert passed_on(result) == sent, result.headers
        assert json.loads(result.payload)["attributes"] == attributes, result.payload
    # A command, a call that is tried again, and a call that is not run.
    for function, payload, status in [("count", b"two words", "ok"), ("hostile", b"third-time", "ok"), ("nobody", b"", "rejected")]:
        result = results.one(bench.call(function, payload, headers=sent))
        assert (result.status, passed_on(result)) == (status, sent), (function, result.event, result.headers)
    # A caller's trace context is seen by the function; the result has that of its span, or the same one.
    trace = f"00-{'5' * 32}-{'6' * 16}-01"
    result = results.one(bench.call("greet", b'"Ann"', headers=[("traceparent", trace.encode())]))
    assert ["traceparent", trace] in json.loads(result.payload)["attributes"], result.payload
    assert result.header("traceparent").decode()[3:35] == "5" * 32, result.headers
    # More than go along: 32, and 16 KiB of names and values.
    many = [("n%d" % number, b"v") for number in range(60)]
    result = results.one(bench.call("greet", b'"Ann"', headers=many))
    assert passed_on(result) == [*many[:32], (LEFT_OUT, b"28")], result.headers
    assert len(json.loads(result.payload)["attributes"]) == 32, result.payload
    large = [("a", b"x" * 10_000), ("b", b"x" * 10_000), ("c", b"x")]
    result = results.one(bench.call("greet", b'"Ann"', headers=large))
    assert passed_on(result) == [large[0], large[2], (LEFT_OUT, b"1")], result.headers
    # What failed for good keeps everything as it came.
    results.one(bench.call("hostile", b"trap", headers=[*ours, *sent]))
    (letter,) = letters.wait_for(1, 60)
    own = [header for header in letter.headers if not header[0].startswith(PREFIX)]
    assert own[1:] == [*ours, *sent], letter.headers
    assert service.stop() == 0
    return "2 formats, 3 kinds of ends"


def null_headers(bench):
    """A header without a value is none with an empty one: among the dead letters, and put back from there."""
    service = bench.service().start()
    letters, back = bench.dead_letters(), DeadLetters(bench.bootstrap, bench.topics["invocations"])
    bench.closing.callback(back.close)
    headers = [("nothing", None), ("empty", b""), ("nothing", b"later"), ("last", None)]
    bench.sender.send(bench.topics["invocations"], b"no event", b"k", headers)
    bench.sender.flush()
    (letter,) = letters.wait_for(1, 60)
    assert [header for header in letter.headers if not header[0].startswith(PREFIX)] == headers, letter.headers
    shown = service.command("dead-letters", "show", f"{letter.partition}:{letter.offset}")
    assert "header    nothing (null)\n" in shown and "header    empty: \n" in shown, shown
    assert "1 put back" in service.run_command(("dead-letters", "redrive"), 0).stderr
    came, again = back.wait_for(2, 60)
    assert came.headers == again.headers == headers, (came.headers, again.headers)
    assert again.value == b"no event" and again.key == b"k", again
    # Nobody has made an event of it meanwhile.
    second = letters.wait_for(3, 60)[-1]
    assert [header for header in second.headers if not header[0].startswith(PREFIX)] == headers, second.headers
    assert service.stop() == 0


def json_by_hand(bench):
    """JSON as people write it is taken where its meaning is plain; else the dead letter names field, what was seen and what is wanted."""
    service = bench.service().start()
    results, letters = bench.results(), bench.dead_letters()
    bench.define(definition("echo", ECHO))
    taken = [
        ('"payload": {"city": "Ulm", "n": [1, null]}', b'{"city": "Ulm", "n": [1, null]}'),
        ('"payload": [true, 2.50]', b"[true, 2.50]"),
        ('"payload": 1e3', b"1e3"),
        ('"payload": null, "attributes": null, "tenant": null, "deadline": null, "invoked_at": null', None),
        ('"payload": "\\ud83d\\ude80", "invoked_at": 1.8e12', "🚀".encode()),
    ]
    json_header = [("content-type", b"application/json; charset=utf-8")]
    for number, (fields, answer) in enumerate(taken):
        value = f'{{"id": "taken-{number}", "function": "echo", {fields}}}'
        bench.sender.send(bench.topics["invocations"], ("\ufeff" * (number % 2) + value).encode(), headers=json_header)
        result = results.one(f"taken-{number}")
        assert (result.status, result.payload or None) == ("ok", answer), (fields, result.event)
    milliseconds = "a whole number of milliseconds since 1970-01-01 UTC is wanted"
    refused = [
        (b'"deadline": 1812345678901.5', f"field deadline: the number 1812345678901.5 is seen, and {milliseconds}"),
        (b'"invoked_at": "now"', f'field invoked_at: the text "now" is seen, and {milliseconds}'),
        (b'"payload": "half \\ude80"', "field payload: half a character is seen"),
        (b'"attributes": {"k": "\\ud83d"}', "field attributes.k: half a character is seen"),
        (b'"attributes": {"k": 1}', "field attributes.k: the number 1 is seen, and a text is wanted"),
        (b'"payload": "Z\xfcrich"', "the byte fc is seen at"),
    ]
    for number, (fields, said) in enumerate(refused):
        value = b'{"id": "x", "function": "echo", ' + fields + b"}"
        bench.sender.send(bench.topics["invocations"], value, headers=json_header)
        bench.sender.flush()
        letter = letters.wait_for(number + 1, 60)[-1]
        assert letter.header(f"{PREFIX}reason") == b"malformed", letter.headers
        assert said in letter.header(f"{PREFIX}detail").decode(), letter.headers
    # A fingerprint that nobody knows is told as it stands in the message, so that whoever searches for it finds it.
    bench.sender.send(bench.topics["invocations"], bytes.fromhex("c301" + "1032547698badcfe" + "00"))
    bench.sender.flush()
    detail = letters.wait_for(len(refused) + 1, 60)[-1].header(f"{PREFIX}detail").decode()
    assert "fingerprint 1032547698badcfe" in detail and events.INVOCATION.fingerprint.hex() in detail, detail
    assert service.stop() == 0
    return f"{len(taken)} taken, {len(refused)} refused"


def odd_record_times(bench):
    """A notice counts while its own window is open, whatever the timestamp of its record is: also for a node that starts later."""
    service, outcomes = bench.service().start(), bench.outcomes()
    bench.define(definition("echo", ECHO))
    assert bench.results().one(bench.call("echo")).status == "ok"
    assert service.stop() == 0
    now = events.now_ms()
    producer = confluent_kafka.Producer({"bootstrap.servers": bench.bootstrap})

    def announce(name, record_at, **fields):
        event = {"id": name, "source": "till", "function": "echo", "window_ms": WINDOW_MS, "emitted_at": now, **fields}
        value, headers = events.as_json(None, event)
        producer.produce(bench.topics["pre-triggers"], value, b"one", headers=headers, timestamp=record_at)

    yesterday = now - 86_400_000
    announce("over", yesterday, emitted_at=yesterday)
    announce("in-seconds", now // 1_000, expected_invocations=2)
    announce("withdrawn", yesterday)
    announce("withdrawn", yesterday, expected_invocations=0, window_ms=1)
    announce("of-an-old-event", yesterday, expected_invocations=3)
    assert producer.flush(30) == 0
    service.start()
    held = until("the last notice", lambda: held_by(service, "of-an-old-event"))
    assert set(held) == {"in-seconds", "of-an-old-event"}, held
    # Nothing is said anew of what is over.
    assert outcomes.one("withdrawn")["kind"] == "withdrawn"
    assert "over" not in outcomes.kept, outcomes.kept
    assert service.stop() == 0


def held_by(service, last):
    """The ids of the notices that the function has; nothing before the last of them is there."""
    if not service.admin():
        return None
    try:
        notices = {notice["id"] for notice in ask(service, "functions/echo")["notices"]}
    except urllib.error.HTTPError:
        # It has not read the definition yet.
        return None
    return notices if last in notices else None


def terminal(bench):
    """No command prints what would steer a terminal, or forge a line: not from ids, keys, header names, values, error texts."""
    service = bench.service().start()
    results, letters = bench.results(), bench.dead_letters()
    bench.define(definition("hostile", HOSTILE, retry={"attempts_max": 2, "backoff_ms": 10}))
    evil = "\x1b]0;taken\x07\x1b[32mgreen\r\n2031-01-01 forged\x9b2J\u202etxt.exe\x7f"
    headers = [(evil, evil.encode()), ("plain", b"1")]
    call = bench.call("hostile", b"trap", write=events.as_json, id=evil, key=evil.encode(), headers=headers)
    assert results.one(call).status == "trap"
    bench.sender.send(bench.topics["invocations"], evil.encode(), evil.encode(), headers)
    bench.sender.send(bench.topics["invocations"], f'{{"id": {json.dumps(evil)}, "function": 7}}'.encode(), None, [events.JSON_HEADER])
    bench.sender.flush()
    places = [f"{letter.partition}:{letter.offset}" for letter in letters.wait_for(3, 60)]
    commands = [("dead-letters", "list"), ("dead-letters", "redrive", "--dry-run"), ("results",), ("explain", "hostile")]
    commands += [("dead-letters", "show", place) for place in places]
    bench.announce("hostile", id=evil, source=evil)
    until("the notice", lambda: "taken" in printed(service, "explain", "hostile"))
    for command in commands:
        text = printed(service, *command)
        steering = [c for c in text if c != "\n" and unicodedata.category(c) in {"Cc", "Cf"}]
        assert not steering, (command, steering, text)
        assert not any(line.startswith("2031") for line in text.splitlines()), (command, text)
    assert len(printed(service, "dead-letters", "list").splitlines()) == 3
    assert service.stop() == 0
    return f"{len(commands)} commands"


def printed(service, *arguments):
    """What a command prints on either stream, byte for byte."""
    command = [service.binary, *arguments, "--config", service.config]
    if arguments[0] == "explain":
        command += ["--admin", service.admin()]
    environment = {**os.environ, **service.environment}
    done = subprocess.run(command, capture_output=True, timeout=COMMAND_DEADLINE_S, env=environment, check=False)
    assert done.returncode == 0, done
    return (done.stdout + done.stderr).decode()


SCENARIOS = [call_headers, null_headers, json_by_hand, odd_record_times, terminal]
