"""Scenarios: the schema registry and the collector over TLS, with credentials; a registry that refuses or is away; values whose schema
stands in a header, or is none of Avro.
"""

import base64
import json
import pathlib
import ssl
import time

import events
from bench import ECHO, definition
from cluster import SCRIPTS  # noqa: F401  Makes the scripts importable.
from http_server import Handler, Server
from kafka_security import certificates
from schema_registry import SchemaRegistry

SECRET = "hush-hush"
BASIC = "Basic " + base64.b64encode(f"forewarm:{SECRET}".encode()).decode()
EX_USAGE = 64
PREFIX = "forewarm.dead-letter."
JSON_SCHEMA = json.dumps({"$schema": "http://json-schema.org/draft-07/schema#", "title": "Invocation", "type": "object"})


def tls_files(bench):
    """Certificates of an authority of this scenario's own, in a folder."""
    folder = bench.directory / "tls"
    folder.mkdir(parents=True)
    certificates(folder)
    return folder


def tls_context(folder, wants_client=False):
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    context.load_cert_chain(folder / "server.pem")
    if wants_client:
        context.verify_mode = ssl.CERT_REQUIRED
        context.load_verify_locations(folder / "ca.crt")
    return context


def write(folder, name, text):
    """A file of that text; its path."""
    file = pathlib.Path(folder) / name
    file.write_text(text, encoding="utf-8")
    return str(file)


def registry_over_tls(bench):
    """A registry behind TLS: with a password, with a token and with a client certificate calls are read; no secret is to be seen."""
    folder = tls_files(bench)
    ca = str(folder / "ca.crt")
    secret = write(folder, "secret", SECRET + "\n")
    client = {"certificate-file": str(folder / "client.crt"), "key-file": str(folder / "client.key")}
    ways = {
        "password": (BASIC, {"user": "forewarm", "password-file": secret}),
        "token": (f"Bearer {SECRET}", {"token-file": secret}),
        "certificate": (None, client),
    }
    results = None
    for way, (authorization, access) in ways.items():
        registry = SchemaRegistry(tls_context(folder, wants_client=way == "certificate"), authorization)
        bench.closing.callback(registry.close)
        schema_id = registry.add(events.INVOCATION.text)
        service = bench.service(
            kafka={"schema-registry-url": registry.url},
            publish={"format": "confluent"},
            telemetry={"log-filter": "debug"},
            **{"schema-registry": {"ca-file": ca, **access}},
        ).start()
        # Results are registered before the first of them.
        results = results or bench.results(schema_ids=range(1, 10))
        bench.define(definition("echo", ECHO))
        result = results.one(bench.call("echo", way.encode(), events.confluent(schema_id)))
        assert (result.status, result.payload) == ("ok", way.encode()), result.event
        assert registry.asked == 1 and registry.refused == 0, (registry.asked, registry.refused)
        assert service.conditions() == [], service.conditions()
        assert SECRET not in service.log.read_text(encoding="utf-8"), "the secret stands in the log"
        assert SECRET not in service.command("check-config"), "the secret is printed"
        assert service.stop() == 0
    return ", ".join(ways)


def registry_not_believed(bench):
    """A registry whose certificate nobody known has signed is not asked: the calls wait, the condition says why; with the right
    authority in its place, in the same file, they are answered."""
    folder, others = tls_files(bench), bench.directory / "others"
    others.mkdir()
    certificates(others)
    registry = SchemaRegistry(tls_context(folder))
    bench.closing.callback(registry.close)
    schema_id = registry.add(events.INVOCATION.text)
    ca = pathlib.Path(write(folder, "believed.crt", (others / "ca.crt").read_text(encoding="ascii")))
    service = bench.service(
        kafka={"schema-registry-url": registry.url}, **{"schema-registry": {"ca-file": str(ca)}}
    ).start()
    results = bench.results()
    bench.define(definition("echo", ECHO))
    waits = bench.call("echo", b"x", events.confluent(schema_id))
    bench.sender.flush()
    condition = wait_condition(service, "schema-registry", "certificate")
    assert condition["subject"] == registry.url, condition
    assert registry.asked == 0
    ca.write_text((folder / "ca.crt").read_text(encoding="ascii"), encoding="ascii")
    assert results.one(waits).payload == b"x"
    wait_no_condition(service)
    assert service.stop() == 0
    return condition["detail"]


def registry_refuses(bench):
    """A registry that refuses or fails is named with its status; calls that need it wait in their place, all others are answered; it
    is asked less and less often, and when it answers the calls are answered in order."""
    registry = SchemaRegistry(authorization=BASIC)
    bench.closing.callback(registry.close)
    schema_id = registry.add(events.INVOCATION.text)
    bench.directory.mkdir(parents=True, exist_ok=True)
    password = pathlib.Path(write(bench.directory, "password", "almost"))
    service = bench.service(
        kafka={"schema-registry-url": registry.url},
        **{"schema-registry": {"user": "forewarm", "password-file": str(password)}},
    ).start()
    results = bench.results()
    bench.define(definition("echo", ECHO))
    assert results.one(bench.call("echo", b"before", partition=3)).status == "ok"
    waiting = [bench.call("echo", b"framed", events.confluent(schema_id), partition=2)]
    waiting += [bench.call("echo", b"behind", partition=2) for _ in range(10)]
    bench.sender.flush()
    said = [wait_condition(service, "schema-registry", "401")]
    assert "schema-registry.user" in said[0]["detail"], said
    stands = wait_condition(service, "partition-stands", "401")
    assert stands["subject"] == f"{bench.topics['invocations']}/2", stands
    # The file is read again after each refusal.
    registry.fault = 500
    password.write_text(SECRET, encoding="utf-8")
    for status in (500, 403, 404):
        registry.fault = status
        said.append(wait_condition(service, "schema-registry", f"status {status}"))
    beside = [bench.call("echo", b"beside", partition=3) for _ in range(50)]
    results.wait_all(beside, 60)
    assert service.not_ready() is None, service.not_ready()
    assert not set(waiting) & set(results.seen), "a call was answered before its schema was known, or before one in front of it"
    asked = registry.refused
    assert asked < 40, f"{asked} requests"
    registry.fault = None
    results.wait_all(waiting, 60)
    wait_no_condition(service)
    assert service.stop() == 0
    assert set(results.statuses) == {"ok"} and results.duplicates() == 0, results.statuses
    assert SECRET not in service.log.read_text(encoding="utf-8")
    return f"{asked} requests while it refused; {said[0]['detail']}"


def registry_passed_over(bench):
    """Where the configuration names a time, a call whose schema cannot be had is passed over after it, as a dead letter with all its
    bytes; the calls behind it are answered."""
    registry = SchemaRegistry()
    bench.closing.callback(registry.close)
    registry.fault = 503
    service = bench.service(
        kafka={"schema-registry-url": registry.url}, ingest={"pass-unreadable-after": "3s"}
    ).start()
    results, letters = bench.results(), bench.dead_letters()
    bench.define(definition("echo", ECHO))
    value, headers = events.confluent(7)(events.INVOCATION, events.invocation("echo", b"lost"))
    bench.sender.send(bench.topics["invocations"], value, b"key", headers, partition=1)
    behind = bench.call("echo", b"behind", partition=1)
    bench.sender.flush()
    assert results.one(behind).payload == b"behind"
    (letter,) = letters.wait_for(1, 60)
    assert (letter.value, letter.key) == (value, b"key"), letter
    assert letter.header(f"{PREFIX}reason") == b"schema_unavailable", letter.headers
    assert b"503" in letter.header(f"{PREFIX}detail"), letter.headers
    assert service.stop() == 0
    return letter.header(f"{PREFIX}detail").decode()


def schema_in_header(bench):
    """Values whose schema stands in a header, by id and by GUID, and values of a JSON Schema are read; what names no schema, an
    unknown one or one of Protobuf becomes a dead letter that says so."""
    registry = SchemaRegistry()
    bench.closing.callback(registry.close)
    avro, as_json = registry.add(events.INVOCATION.text), registry.add(JSON_SCHEMA, "JSON")
    protobuf = registry.add('syntax = "proto3";', "PROTOBUF")
    service = bench.service(kafka={"schema-registry-url": registry.url}).start()
    results, letters = bench.results(), bench.dead_letters()
    bench.define(definition("echo", ECHO))

    def by_id(schema_id):
        return b"\x00" + schema_id.to_bytes(4, "big")

    def by_guid(schema_id):
        return b"\x01" + registry.guid(schema_id)

    def send(value, header):
        headers = [("__value_schema_id", header)] if header is not None else []
        bench.sender.send(bench.topics["invocations"], value, b"k", [("__key_schema_id", by_id(1)), *headers])

    sent = []
    for schema_id, encode in ((avro, events.datum), (as_json, lambda _, event: json.dumps(event).encode())):
        for header in (by_id(schema_id), by_guid(schema_id), None):
            event = events.invocation("echo", b"text")
            if schema_id == as_json:
                event = {**event, "payload": "text"}
            framing = by_id(schema_id) if header is None else b""
            send(framing + encode(events.INVOCATION, event), header)
            sent.append(event["id"])
    results.wait_all(sent, 60)
    assert all(results.one(name).payload == b"text" for name in sent)
    bad = [
        (b"x", b"\x02" + b"7" * 16, "unknown_format", "__value_schema_id"),
        (b"x", b"\x00\x00\x07", "unknown_format", "__value_schema_id"),
        (b"x", b"\x01" + b"\x07" * 16, "unknown_schema", "07070707-0707-0707-0707-070707070707"),
        (b"\x0a\x01x", by_guid(protobuf) + b"\x00", "invalid_schema", "Protobuf"),
        (by_id(protobuf) + b"\x00\x0a\x01x", None, "invalid_schema", "Protobuf"),
        (b'{"id": 5}', by_guid(as_json), "malformed", "JSON"),
    ]
    for value, header, *_ in bad:
        send(value, header)
    bench.sender.flush()
    came = letters.wait_for(len(bad), 60)
    for value, header, reason, word in bad:
        (letter,) = [letter for letter in came if letter.value == value and letter.header("__value_schema_id") == header]
        detail = letter.header(f"{PREFIX}detail").decode()
        assert letter.header(f"{PREFIX}reason").decode() == reason and word in detail, (reason, letter.headers)
    assert service.stop() == 0
    assert set(results.statuses) == {"ok"} and len(results.seen) == len(sent)
    return f"{len(sent)} calls, {len(bad)} dead letters"


class Collector(Server):
    """Takes what is exported over OTLP/HTTP, from whoever shows the token."""

    def __init__(self, context, authorization):
        self.taken, self.refused = {}, 0
        collector = self

        class Otlp(Handler):
            def do_POST(self):
                body = self.body()
                if self.headers["authorization"] != authorization:
                    collector.refused += 1
                    return self.answer(401, {})
                collector.taken[self.path] = collector.taken.get(self.path, b"") + body
                return self.answer(200, {})

        super().__init__(Otlp, context)


def collector_over_tls(bench):
    """A collector behind TLS that wants a token and a client certificate takes metrics and spans; the token is nowhere to be seen. One
    whose certificate is not believed is named with the reason."""
    folder = tls_files(bench)
    token = f"Bearer {SECRET}"
    collector = Collector(tls_context(folder, wants_client=True), token)
    bench.closing.callback(collector.close)
    known = {
        "otlp-ca-file": str(folder / "ca.crt"),
        "otlp-certificate-file": str(folder / "client.crt"),
        "otlp-key-file": str(folder / "client.key"),
    }
    export = {"otlp-endpoint": collector.url, "export-interval": "1s"}
    service = bench.service(
        telemetry={**export, **known}, **{"telemetry.otlp-header-files": {"authorization": write(folder, "token", token)}}
    ).start()
    results = bench.results()
    bench.define(definition("echo", ECHO))
    trace = "0af7651916cd43dd8448eb211c80319c"
    headers = [("traceparent", f"00-{trace}-b7ad6b7169203331-01".encode())]
    assert results.one(bench.call("echo", b"x", headers=headers)).status == "ok"
    until = time.monotonic() + 60
    while b"faas.invocations" not in collector.taken.get("/v1/metrics", b""):
        service.check_running()
        assert time.monotonic() < until, service.log_tail()
        time.sleep(0.05)
    assert SECRET not in service.command("check-config"), "the token is printed"
    assert service.stop() == 0
    assert bytes.fromhex(trace) in collector.taken["/v1/traces"] and collector.refused == 0, collector.refused
    assert SECRET not in service.log.read_text(encoding="utf-8"), "the token stands in the log"
    # Nobody known has signed it.
    doubting = bench.service(telemetry=export).start()
    doubting.wait_log("does not take what is exported")
    (line,) = doubting.log_lines("does not take what is exported")
    assert collector.url in line and "certificate" in line, line
    assert doubting.stop() == 0
    return f"{sum(map(len, collector.taken.values()))} bytes"


def neighbours_checked(bench):
    """What the service could not use is refused by `check-config` and by `serve`, each with its key and without a secret."""
    folder = tls_files(bench)
    ca, key, secret = (str(folder / name) for name in ("ca.crt", "client.key", "no-such-file"))
    registry = {"schema-registry-url": "https://127.0.0.1:1"}
    wrong = [
        ({"kafka": {"schema-registry-url": f"https://me:{SECRET}@127.0.0.1:1"}}, "schema-registry.password-file"),
        ({"kafka": {"schema-registry-url": "127.0.0.1:8081"}}, "http:// or https://"),
        ({"telemetry": {"otlp-endpoint": "grpc://127.0.0.1:4317"}}, "http:// or https://"),
        ({"telemetry": {"otlp-endpoint": f"http://me:{SECRET}@127.0.0.1:1"}}, "telemetry.otlp-header-files"),
        ({"kafka": registry, "schema-registry": {"password-file": secret}}, "schema-registry.user"),
        ({"kafka": registry, "schema-registry": {"ca-file": secret}}, "No such file"),
        ({"kafka": registry, "schema-registry": {"ca-file": key}}, "no certificate"),
        ({"kafka": registry, "schema-registry": {"certificate-file": ca}}, "schema-registry.certificate-file"),
        (
            {"kafka": registry, "schema-registry": {"certificate-file": ca, "key-file": key}},
            "no HTTP client can be made",
        ),
        ({"kafka": registry, "schema-registry": {"user": "me", "password-file": secret}}, "password-file"),
        (
            {"telemetry": {"otlp-endpoint": "http://127.0.0.1:1"}, "telemetry.otlp-header-files": {"x-key": secret}},
            "telemetry.otlp-header-files.x-key",
        ),
    ]
    for changes, word in wrong:
        service = bench.service(**changes)
        for command in ("check-config", "serve"):
            said = service.run_command([command], EX_USAGE).stderr
            assert word in said and SECRET not in said, (word, said)
    return f"{len(wrong)} kinds"


def wait_condition(service, kind, word, deadline_s=60):
    """The first condition of that kind with that word in it."""
    until = time.monotonic() + deadline_s
    while True:
        conditions = service.conditions()
        for condition in conditions:
            if condition["kind"] == kind and word in condition["detail"]:
                return condition
        service.check_running()
        assert time.monotonic() < until, f"no {kind} with {word!r}: {conditions}\n{service.log_tail()}"
        time.sleep(0.05)


def wait_no_condition(service, deadline_s=60):
    until = time.monotonic() + deadline_s
    while conditions := service.conditions():
        service.check_running()
        assert time.monotonic() < until, conditions
        time.sleep(0.05)


SCENARIOS = [
    registry_over_tls,
    registry_not_believed,
    registry_refuses,
    registry_passed_over,
    schema_in_header,
    collector_over_tls,
    neighbours_checked,
]
