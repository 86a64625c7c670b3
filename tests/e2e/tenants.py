"""Scenario: what a tenant's flood does to another tenant, without and with quotas. It prints latencies and asserts accounts."""

import collections
import time

from bench import ECHO, HOSTILE, definition

# Calls of the one who floods. Each computes until its time limit ends it.
FLOOD = 2_000
FLOOD_CALL_MS = 20
VICTIM_CALLS = 300
QUOTA = {"calls-max": 1, "waiting-max": 200}


def percentile(values, share):
    ordered = sorted(values)
    return ordered[min(len(ordered) - 1, int(len(ordered) * share))]


def latencies_ms(bench, results, limit_s):
    """Calls of the other tenant, one after another: from before it is sent until its result is read."""
    took, until = [], time.monotonic() + limit_s
    while len(took) < VICTIM_CALLS and time.monotonic() < until:
        began = time.perf_counter()
        id = bench.call("victim", b"x", tenant="small")
        bench.sender.producer.flush(30)
        assert results.one(id).status == "ok"
        took.append((time.perf_counter() - began) * 1_000)
    return took


def flood(bench):
    ids = [bench.call("flood", b"loop", tenant="big") for _ in range(FLOOD)]
    bench.sender.flush()
    return ids


def run(bench, name, **changes):
    """p99 of the other tenant alone and beside a flood, in milliseconds; the statuses of the flood; how many calls were slow."""
    # Topics of its own: a flood that is not answered yet must not reach into the next run.
    service = bench.service(**changes).start()
    results = bench.results()
    limits = {"timeout_ms": FLOOD_CALL_MS, "concurrency": 64}
    bench.define(definition("flood", HOSTILE, limits=limits))
    bench.define(definition("victim", ECHO, warm={"floor": 1, "ceiling": 4}))
    assert results.one(bench.call("victim", b"x")).status == "ok"
    assert results.one(bench.call("flood", b"")).status == "ok"
    alone = latencies_ms(bench, results, 60)
    ids = flood(bench)
    beside = latencies_ms(bench, results, 20)
    results.wait_all(ids, 300)
    assert service.stop() == 0
    counts = collections.Counter((results.kept[id][0].status, results.kept[id][0].error_code) for id in ids)
    return percentile(alone, 0.99), percentile(beside, 0.99), len(beside), counts, name


def tenants(bench):
    """With quotas a flood leaves the other tenant's p99 near what it was alone; what is too much is rejected by name."""
    told = []
    for name, changes in (("no quotas", {}), ("quotas", {"tenants": QUOTA})):
        alone, beside, calls, counts, _ = run(bench, name, **changes)
        told.append(f"{name}: p99 {alone:.1f} ms alone, {beside:.1f} ms beside a flood ({beside / alone:.1f}x, {calls} calls)")
        rejected = counts[("rejected", "tenant_quota")]
        assert sum(counts.values()) == FLOOD, counts
        assert (rejected > 0) == bool(changes), counts
        assert set(status for status, _ in counts) <= {"timeout", "rejected"}, counts
    return "; ".join(told)


SCENARIOS = [tenants]
