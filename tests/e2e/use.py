"""Scenarios: what the service is for. Calls, definitions and pre-triggers in every wire format, and the commands."""

import json
import time
import urllib.request
import uuid

import events
from bench import ECHO, ORDER, definition
from schema_registry import SchemaRegistry
from streams import PARTITIONS


def calls(bench):
    """A call is answered with its id, key and trace; its function was defined a moment before, as JSON."""
    service = bench.service().start()
    results = bench.results()
    # Nothing waits in between: a call that comes right after its function's definition is not an unknown function's.
    bench.define(definition("echo", ECHO))
    trace = uuid.uuid4().hex
    traceparent = f"00-{trace}-b7ad6b7169203331-01".encode()
    keyed = bench.call("echo", b"hello", key=b"order-7", headers=[("traceparent", traceparent)])
    result = results.one(keyed)
    assert (result.status, result.payload) == ("ok", b"hello"), result.event
    assert (result.function, result.function_version, result.node) == ("echo", "1", "e2e-node"), result.event
    assert result.key == b"order-7", result.key
    # A function that was just deployed may be held warm already: those who deploy are likely to call.
    kinds = ("cold", "loaded", "linked", "prewarmed")
    assert result.start_kind in kinds, f"the first call of a new function: {result.event}"
    assert result.attempt == 1 and result.error is None, result.event
    assert abs(result.completed_at - events.now_ms()) < 120_000, result.event
    version, of_trace, span, flags = result.header("traceparent").decode().split("-")
    assert (version, of_trace, flags) == ("00", trace, "01"), result.headers
    assert len(span) == 16 and span != "0" * 16, result.headers
    result = results.one(bench.call("echo", bytes(range(256))))
    assert (result.status, result.payload, result.key) == ("ok", bytes(range(256)), None), result.event
    result = results.one(bench.call("echo", b"", key=b"\x00\xff"))
    assert (result.status, result.payload, result.key) == ("ok", b"", b"\x00\xff"), result.event
    # The instance of an earlier call, or one more that history has asked for meanwhile: nobody waited for it.
    assert result.start_kind in ("warm", "prewarmed"), result.event
    assert service.stop() == 0
    assert results.duplicates() == 0
    return "3 keys, trace carried on"


def wire_formats(bench):
    """Every event in every wire format, also from a writer with an older schema; results in every format."""
    registry = SchemaRegistry()
    bench.closing.callback(registry.close)
    older = events.Schema(events.SCHEMAS / "examples" / "invocation.older.avsc")
    ids = {schema: registry.add(schema.text) for schema in (events.INVOCATION, events.FUNCTION, older)}
    writers = [events.single_object, events.as_json, events.confluent(ids[events.INVOCATION])]
    definers = [events.single_object, events.as_json, events.confluent(ids[events.FUNCTION])]
    results, counted = None, 0
    for form in ("single-object", "confluent", "json"):
        service = bench.service(kafka={"schema-registry-url": registry.url}, publish={"format": form}).start()
        # The service may register the schema of results, so its id is not known before.
        results = results or bench.results(schema_ids=range(1, 10))
        for index, define in enumerate(definers):
            name = f"echo-{form}-{index}"
            bench.define(definition(name, ECHO), define)
            for write in writers:
                for payload in (b"text \xc3\xa9", b"\xff\x00\xfe"):
                    result = results.one(bench.call(name, payload, write))
                    assert (result.status, result.payload) == ("ok", payload), result.event
                    assert begins_as(form, result), (form, result.value[:8], result.headers)
                    counted += 1
        # An older writer knows fewer fields, in another order and of other types.
        event = {"id": f"older-{form}", "function": name, "payload": "from before", "invoked_at": 86_400_000}
        value, headers = events.confluent(ids[older])(older, event)
        bench.sender.send(bench.topics["invocations"], value, None, headers)
        result = results.one(event["id"])
        assert (result.status, result.payload) == ("ok", b"from before"), result.event
        counted += 1
        assert service.stop() == 0
    assert len(results.seen) == counted and results.duplicates() == 0, (len(results.seen), results.count, counted)
    assert registry.asked > 0
    return f"{counted} calls"


def begins_as(form, result):
    content_type = result.header("content-type")
    if form == "json":
        return result.value[:1] == b"{" and content_type == b"application/json"
    return result.value.startswith(b"\xc3\x01" if form == "single-object" else b"\x00")


def pre_triggers(bench):
    """A function that was announced, in each wire format, has its first call served by an instance made for it."""
    registry = SchemaRegistry()
    bench.closing.callback(registry.close)
    schema_id = registry.add(events.PRE_TRIGGER.text)
    # A function that was just deployed may be held warm already, by what is known of others; not here.
    forecast = {"newcomer-share": 0.0}
    service = bench.service(kafka={"schema-registry-url": registry.url}, forecast=forecast).start()
    results = bench.results()
    # What is no event is skipped, and does not keep back what comes after it.
    for partition in range(PARTITIONS):
        bench.sender.send(bench.topics["pre-triggers"], b"junk", None, None, partition)
    attempts = 0
    for index, write in enumerate((events.single_object, events.as_json, events.confluent(schema_id))):
        # What is ready does not show from outside, except in a call. A call is history from then on, so each attempt
        # has a function that was never called, and leaves the service more time than the one before.
        for attempt in range(1, 9):
            name = f"announced-{index}-{attempt}"
            bench.define(definition(name, ECHO))
            notice = bench.announce(name, write, expected_invocations=2, window_ms=60_000)
            time.sleep(0.5 * attempt)
            result = results.one(bench.call(name, b"x"))
            assert result.status == "ok", result.event
            attempts += 1
            if result.start_kind == "prewarmed":
                break
        else:
            raise AssertionError(f"no call found a prepared instance: {result.event}")
        assert result.warm_reason == {"kind": "pre_trigger", "detail": notice}, result.event
    assert service.stop() == 0
    return f"3 formats in {attempts} attempts"


def outcomes(bench):
    """Each pre-trigger ends with one outcome: a hit, one withdrawn, one refused, and one that nothing came of."""
    service = bench.service().start()
    results, outcomes = bench.results(), bench.outcomes()
    bench.define(definition("told", ECHO, pre_trigger={"confidence_min": 0.5}))
    # From then on the function is known.
    assert results.one(bench.call("told")).status == "ok"
    hit = bench.announce("told", expected_invocations=1, window_ms=8_000, tenant="acme")
    time.sleep(1)
    assert results.one(bench.call("told")).status == "ok"
    refused = bench.announce("told", confidence=0.4)
    withdrawn = bench.announce("told", expected_invocations=3, window_ms=60_000)
    bench.announce("told", id=withdrawn, expected_invocations=0)
    unknown = bench.announce("nobody")
    vain = bench.announce("told", expected_invocations=64, window_ms=6_000)
    said = {name: outcomes.one(name) for name in (refused, withdrawn, unknown, vain)}
    kinds = {name: (event["kind"], event["criterion"], event["announced"], event["arrived"]) for name, event in said.items()}
    assert kinds[refused] == ("refused", "confidence_too_low", 1, 0), kinds
    assert kinds[withdrawn] == ("withdrawn", None, 3, 0), kinds
    assert kinds[unknown] == ("refused", "unknown_function", 1, 0), kinds
    assert kinds[vain] == ("wasted", None, 64, 0), kinds
    event = outcomes.one(hit)
    assert (event["kind"], event["announced"], event["arrived"], event["tenant"]) == ("hit", 1, 1, "acme"), event
    assert 0 < event["first_call_lag_us"] < 8_000_000 and event["node"] == "e2e-node", event
    assert abs(event["ended_at"] - events.now_ms()) < 120_000, event
    assert service.stop() == 0
    assert all(len(kept) == 1 for kept in outcomes.kept.values()), outcomes.kept


def announced_by_a_guest(bench):
    """A function announces the next one from within its call; the next one's first call finds an instance ready."""
    service = bench.service(forecast={"newcomer-share": 0.0}).start()
    results, outcomes = bench.results(), bench.outcomes()
    for attempt in range(1, 9):
        name = f"invoice-{attempt}"
        bench.define(definition(f"order-{attempt}", ORDER, environment={"NEXT": name}))
        bench.define(definition(name, ECHO))
        result = results.one(bench.call(f"order-{attempt}", b"4711"))
        assert (result.status, result.payload) == ("ok", f"order 4711: {name} is announced".encode()), result.event
        time.sleep(0.3 * attempt)
        result = results.one(bench.call(name))
        if result.start_kind == "prewarmed":
            break
    assert (result.start_kind, result.warm_reason["kind"]) == ("prewarmed", "pre_trigger"), result.event
    event = outcomes.one(result.warm_reason["detail"])
    assert (event["source"], event["kind"], event["arrived"]) == (f"function:order-{attempt}", "hit", 1), event
    assert service.stop() == 0
    return f"{attempt} attempts"


def restart(bench):
    """What was learned outlives the process: the trust in a source, and that a function is called at all."""
    forecast = {"newcomer-share": 0.0, "snapshot-interval": "1s"}
    service = bench.service(forecast=forecast).start()
    results, outcomes = bench.results(), bench.outcomes()
    bench.define(definition("learned", ECHO))
    bench.define(definition("lied-to", ECHO))
    bench.define(definition("other", ECHO))
    assert results.one(bench.call("learned")).status == "ok"
    lies = [bench.announce("lied-to", source="liar", expected_invocations=8, window_ms=4_000) for _ in range(8)]
    for lie in lies:
        assert outcomes.one(lie)["kind"] in ("wasted", "expired"), lie
    assert service.stop() == 0
    service.start()
    # Answered: it is up, and has prepared what it holds.
    assert results.one(bench.call("other")).status == "ok"
    # A function without any history would not be held now, and calls of the liar's would be prepared for.
    lie = bench.announce("lied-to", source="liar", expected_invocations=8, window_ms=5_000)
    told = outcomes.one(lie)
    assert told["kind"] == "expired", f"it was believed again: {told}"
    result = results.one(bench.call("learned"))
    assert (result.start_kind, result.warm_reason["kind"]) == ("prewarmed", "history"), result.event
    # A crash between two snapshots loses what was learned since the first, and no more.
    bench.remove("learned")
    call_until(bench, results, "learned", lambda result: result.status == "rejected")
    service.kill()
    service.start()
    assert results.one(bench.call("lied-to")).status == "ok"
    # Bytes that are no snapshot keep nobody from starting.
    bench.sender.send(bench.topics["forecast-snapshots"], b"junk", b"e2e-node\x00lied-to")
    bench.sender.flush()
    assert service.stop() == 0
    service.start()
    assert results.one(bench.call("lied-to")).status == "ok"
    assert service.stop() == 0


def stated(bench):
    """What a user states in a definition holds: a chain that was never seen, and a schedule."""
    service = bench.service(forecast={"newcomer-share": 0.0}).start()
    results = bench.results()
    for attempt in range(1, 9):
        first, second, third = (f"{name}-{attempt}" for name in ("first", "second", "scheduled"))
        chain = {"to": second, "rule": "state", "probability": 0.9, "lag_ms": 5_000}
        bench.define(definition(first, ECHO, chains=[chain]))
        bench.define(definition(second, ECHO))
        window = {"cron": "* * * * *", "timezone": "UTC", "duration_ms": 120_000, "instances": 1}
        bench.define(definition(third, ECHO, schedules=[window]))
        assert results.one(bench.call(first)).status == "ok"
        time.sleep(0.3 * attempt)
        followed, scheduled = (results.one(bench.call(name)) for name in (second, third))
        if followed.start_kind == "prewarmed" and scheduled.start_kind == "prewarmed":
            break
    assert (followed.start_kind, followed.warm_reason) == ("prewarmed", {"kind": "chain", "detail": first}), followed.event
    # The node explains itself, to people and to programs.
    said = service.command("explain", third, "--admin", service.admin())
    assert said.startswith(f"{third} is held 1 ready: 1 by schedule * * * * *\n"), said
    told = json.loads(service.command("explain", third, "--json", "--admin", service.admin()))
    assert (told["function"], told["granted"]["ready"]) == (third, 1), told
    chains = json.loads(service.command("chains", first, "--json", "--admin", service.admin()))
    assert [(chain["to"], chain["rule"], chain["held_by"]) for chain in chains] == [(second, "state", None)], chains
    assert "acts (state)" in service.command("chains", "--admin", service.admin())
    with urllib.request.urlopen(f"http://{service.admin()}/health/ready", timeout=10) as answer:
        assert json.load(answer) == {"status": "ok"}
    service.command("explain", "nobody", "--admin", service.admin(), status=1)
    reason = {"kind": "schedule", "detail": "* * * * *"}
    assert (scheduled.start_kind, scheduled.warm_reason) == ("prewarmed", reason), scheduled.event
    assert service.stop() == 0
    return f"{attempt} attempts"


def floor(bench):
    """A floor keeps instances ready without anybody's notice."""
    # A function that was just deployed may be held warm by what is known of others, too; not here.
    service = bench.service(forecast={"newcomer-share": 0.0}).start()
    results = bench.results()
    for attempt in range(1, 9):
        name = f"kept-{attempt}"
        bench.define(definition(name, ECHO, warm={"floor": 2}))
        time.sleep(0.5 * attempt)
        result = results.one(bench.call(name))
        if result.start_kind == "prewarmed":
            break
    assert (result.start_kind, result.warm_reason) == ("prewarmed", {"kind": "floor", "detail": None}), result.event
    assert service.stop() == 0


def tombstone(bench):
    """A function that was removed rejects its calls; defined again, it answers again."""
    service = bench.service().start()
    results = bench.results()
    bench.define(definition("echo", ECHO), events.single_object)
    assert results.one(bench.call("echo")).status == "ok"
    bench.remove("echo")
    rejected = call_until(bench, results, "echo", lambda result: result.status == "rejected")
    assert "echo" in rejected.error_message, rejected.event
    assert rejected.start_kind is None and rejected.payload is None, rejected.event
    bench.define(definition("echo", ECHO, version="2"))
    again = call_until(bench, results, "echo", lambda result: result.status == "ok")
    assert again.function_version == "2", again.event
    assert service.stop() == 0


def new_version(bench):
    """A new version takes over without a call that fails."""
    service = bench.service().start()
    results = bench.results()
    bench.define(definition("echo", ECHO))
    assert results.one(bench.call("echo")).function_version == "1"
    bench.define(definition("echo", ECHO, version="2"))
    call_until(bench, results, "echo", lambda result: result.function_version == "2")
    assert set(results.statuses) == {"ok"}, results.statuses
    assert service.stop() == 0


def call_until(bench, results, function, holds, deadline_s=60):
    """Calls again and again until a result is as it should become."""
    until = time.monotonic() + deadline_s
    while True:
        result = results.one(bench.call(function, b"x"))
        if holds(result):
            return result
        assert time.monotonic() < until, f"after {deadline_s} s the last result is still {result.event}"


def commands(bench):
    """The commands of the binary do what clients do; topics that are missing are made as configured."""
    bench.make_topics(create=False)
    service = bench.service(topics={"create": True, "partitions": 3}).start()
    # The service makes them at its start, which is what this waits for.
    bench.topics.wait_for_all()
    made = bench.topics.existing()
    assert len(made[bench.topics["invocations"]].partitions) == 3, made
    deployed = json.loads(service.command("function", "deploy", "shop/echo", ECHO, "--version", "v7", "--floor", "1"))
    assert (deployed["name"], deployed["version"], deployed["kind"]) == ("shop/echo", "v7", "component"), deployed
    stored = service.directory / "artifacts"
    assert any(deployed["artifact"]["sha256"] in path.name for path in stored.rglob("*")), list(stored.rglob("*"))
    assert service.command("invoke", "shop/echo", "--payload", "hello", "--raw") == "hello"
    printed = [json.loads(line) for line in service.command("results").splitlines()]
    assert [(line["function"], line["payload"]) for line in printed] == [("shop/echo", "hello")], printed
    # What was recorded is what policies are judged on.
    replayed = json.loads(service.command("backtest", "--topic", "--policy", "none,fixed:10m", "--json"))
    assert [[row["policy"], row["cold"]] for row in replayed["sets"][0]["groups"][0]["rows"]] == [["none", 1], ["fixed:10m", 1]], replayed
    notice = json.loads(service.command("pre-trigger", "shop/echo", "--expected", "3"))
    assert notice["expected_invocations"] == 3, notice
    listed = [json.loads(line) for line in service.command("function", "list").splitlines()]
    for told in (*listed, json.loads(service.command("function", "show", "shop/echo"))):
        states = [(node["node"], node["state"], node["running_version"]) for node in told.pop("nodes")]
        assert (told, states) == (deployed, [("e2e-node", "running", "v7")]), (told, states)
    assert len(listed) == 1, listed
    service.command("function", "remove", "shop/echo")
    assert service.command("function", "list") == ""
    results = bench.results()
    call_until(bench, results, "shop/echo", lambda result: result.status == "rejected")
    assert service.stop() == 0


SCENARIOS = [
    calls,
    wire_formats,
    pre_triggers,
    outcomes,
    announced_by_a_guest,
    restart,
    stated,
    floor,
    tombstone,
    new_version,
    commands,
]
