"""Scenarios: one function's calls never fill the node, and calls end when they should."""

import json
import statistics
import time
import urllib.request

from bench import ECHO, HOSTILE, definition

# Below ingest.in-flight-max (10,000), and above the share of one function.
CALLS = 10_200
VICTIM_CALLS = 40
# What a call of the other function may take beside them: reading past 10,000 messages, once.
BESIDE_S = 20
UNAVAILABLE_S = 15


def missing(name, **fields):
    """A definition whose artifact is nowhere."""
    of = definition(name, ECHO, **fields)
    of["artifact"] = {"uri": "store:", "sha256": "ab" * 32}
    return of


def conditions(service):
    with urllib.request.urlopen(f"http://{service.admin()}/health/ready", timeout=10) as answer:
        said = json.load(answer)
    assert said["status"] == "ok", said
    return {(condition["kind"], condition["subject"]) for condition in said.get("conditions", [])}


def victims(bench, results):
    """Calls of a healthy function, one after another: what each took, in seconds."""
    took = []
    for _ in range(VICTIM_CALLS):
        began = time.monotonic()
        id = bench.call("healthy", b"x")
        bench.sender.flush()
        assert results.one(id, BESIDE_S).status == "ok"
        took.append(time.monotonic() - began)
    return took


def flood(bench, name, count, payload=b""):
    ids = [bench.call(name, payload) for _ in range(count)]
    bench.sender.flush()
    return ids


def missing_artifact(bench):
    """Beside 10,200 calls of a function whose artifact is missing another one is answered; the node names the function that holds
    its share, and its calls come out once they have waited long enough."""
    service = bench.service(execute={"unavailable-after": f"{UNAVAILABLE_S}s"}).start()
    results = bench.results()
    bench.define(definition("healthy", ECHO, warm={"floor": 1, "ceiling": 4}))
    bench.define(missing("ghost"))
    assert results.one(bench.call("healthy")).status == "ok"
    alone = victims(bench, results)
    ids = flood(bench, "ghost", CALLS)
    beside = victims(bench, results)
    until = time.monotonic() + UNAVAILABLE_S
    while ("share-held", "ghost") not in (said := conditions(service)):
        assert time.monotonic() < until, f"the node does not say who fills it: {said}"
        time.sleep(0.1)
    assert service.log_lines("function ghost"), service.log_tail()
    results.wait_all(ids, 120)
    ends = {(results.kept[id][0].status, results.kept[id][0].error_code) for id in ids}
    assert ends == {("rejected", "unavailable")}, ends
    words = results.kept[ids[0]][0].error_message
    assert str(service.directory) not in words and "abab" not in words, words
    while ("share-held", "ghost") in conditions(service):
        assert time.monotonic() < until + 120, conditions(service)
        time.sleep(0.1)
    assert results.duplicates() == 0
    assert service.stop() == 0
    figures = [f"median {statistics.median(took) * 1e3:.0f} ms, most {max(took) * 1e3:.0f} ms" for took in (alone, beside)]
    return f"alone {figures[0]}; beside {CALLS} calls without an artifact {figures[1]}"


def overflow(bench):
    """What a definition says of calls above its function's share: rejected, or rejected and kept as dead letters."""
    service = bench.service(ingest={"in-flight-max": 100}).start()
    results, letters = bench.results(), bench.dead_letters()
    bench.define(definition("healthy", ECHO))
    for name, way in (("rejects", "reject"), ("letters", "dead_letter")):
        bench.define(missing(name, overflow=way))
        assert results.one(bench.call("healthy")).status == "ok"
        ids = flood(bench, name, 150)
        until = time.monotonic() + 60
        while len(done := [id for id in ids if id in results.kept]) < 100:
            assert time.monotonic() < until, f"{len(done)} of {name} are answered"
            time.sleep(0.05)
        assert {(results.kept[id][0].status, results.kept[id][0].error_code) for id in done} == {("rejected", "overflow")}
        assert results.one(bench.call("healthy")).status == "ok"
        # Those within the share are answered when the function goes.
        bench.remove(name)
        results.wait_all(ids, 60)
    letters.wait_for(100, 60)
    assert service.stop() == 0
    return "100 of 150 rejected, and 100 of 150 dead letters"


def endless_calls(bench):
    """Calls without an end do not outlive their function: removed, they are over when their grace is, and SIGTERM is quick."""
    service = bench.service(execute={"removal-grace": "2s"}).start()
    results = bench.results()
    bench.define(definition("healthy", ECHO, warm={"floor": 1, "ceiling": 4}))
    limits = {"timeout_ms": 600_000, "concurrency": 400}
    bench.define(definition("endless", HOSTILE, limits=limits))
    assert results.one(bench.call("endless", b"")).status == "ok"
    assert results.one(bench.call("healthy")).status == "ok"
    alone = victims(bench, results)
    ids = flood(bench, "endless", 1_000, b"loop")
    beside = victims(bench, results)
    began = time.monotonic()
    bench.remove("endless")
    results.wait_all(ids, 60)
    took = time.monotonic() - began
    ends = {(results.kept[id][0].status, results.kept[id][0].error_code) for id in ids}
    assert ends <= {("timeout", "removed"), ("rejected", "unknown_function")}, ends
    assert ("timeout", "removed") in ends, ends
    spent = service.cpu_s()
    time.sleep(1)
    spent = service.cpu_s() - spent
    assert spent < 0.5, f"{spent:.2f} s of processor time in a second after the removal"
    began = time.monotonic()
    assert service.stop() == 0
    figures = [f"median {statistics.median(took_s) * 1e3:.0f} ms, most {max(took_s) * 1e3:.0f} ms" for took_s in (alone, beside)]
    return (
        f"healthy alone {figures[0]}; beside {len(ids)} endless calls {figures[1]}; all ended {took:.1f} s after the removal; "
        f"SIGTERM took {time.monotonic() - began:.1f} s"
    )


def worked_off(bench):
    """The backlog of one slow function beside another one: every call has one outcome, those of a key in their order."""
    service = bench.service(ingest={"in-flight-max": 200}).start()
    results = bench.results()
    bench.define(definition("healthy", ECHO, warm={"floor": 1, "ceiling": 4}))
    bench.define(definition("slow", HOSTILE, ordering="key", limits={"timeout_ms": 20, "concurrency": 8}))
    assert results.one(bench.call("healthy")).status == "ok"
    slow = [bench.call("slow", b"sleep", key=f"{number % 40}".encode()) for number in range(3_000)]
    bench.sender.flush()
    took = victims(bench, results)
    results.wait_all(slow, 120)
    assert {results.kept[id][0].status for id in slow} == {"timeout"}
    assert results.duplicates() == 0
    assert service.stop() == 0
    return f"healthy calls took {statistics.median(took) * 1e3:.0f} ms (median), {max(took) * 1e3:.0f} ms at most"


SCENARIOS = [missing_artifact, overflow, endless_calls, worked_off]
