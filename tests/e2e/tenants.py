"""Scenario: what a tenant's flood does to another tenant, without and with quotas. It prints latencies and asserts accounts."""

import collections
import time

import confluent_kafka
import events
from bench import ECHO, HOSTILE, definition
from streams import QUIET

# Calls of the one who floods. Each computes until its time limit ends it.
FLOOD = 1_000
FLOOD_CALL_MS = 20
ROUNDS = 3
VICTIM_CALLS = 300
QUOTA = {"calls-max": 1, "waiting-max": 300}


def percentile(values, share):
    ordered = sorted(values)
    return ordered[min(len(ordered) - 1, int(len(ordered) * share))]


def latencies_ms(bench, limit_s):
    """Calls of the other tenant, one after another: from before it is sent until its result is read."""
    # A reader of its own, which hands each message over as it comes.
    topic = bench.topics["results"]
    reader = confluent_kafka.Consumer({"bootstrap.servers": bench.bootstrap, "group.id": "e2e-latency", **QUIET})
    partitions = reader.list_topics(topic, timeout=30).topics[topic].partitions
    ends = [reader.get_watermark_offsets(confluent_kafka.TopicPartition(topic, number), 30)[1] for number in partitions]
    places = zip(partitions, ends)
    reader.assign([confluent_kafka.TopicPartition(topic, number, end) for number, end in places])
    took, until = [], time.monotonic() + limit_s
    while len(took) < VICTIM_CALLS and time.monotonic() < until:
        began = time.perf_counter()
        id = bench.call("victim", b"x")
        bench.sender.producer.poll(0)
        while True:
            assert time.perf_counter() - began < 60, "the other tenant's call is not answered"
            message = reader.poll(0.05)
            if message and not message.error():
                result = events.read_result(message.value())
                if result["invocation_id"] == id:
                    break
        assert result["status"] == "ok", result
        took.append((time.perf_counter() - began) * 1_000)
    reader.close()
    # The first few find connections that are not warm.
    return took[10:]


def flood(bench):
    # Whatever a call says: its tenant is its function's.
    ids = [bench.call("flood", b"loop", tenant=f"made-up-{number}") for number in range(FLOOD)]
    bench.sender.flush()
    return ids


def run(bench, **changes):
    """Latencies of the other tenant alone and beside floods, in milliseconds, and what became of the floods."""
    service = bench.service(**changes).start()
    results = bench.results()
    limits = {"timeout_ms": FLOOD_CALL_MS, "concurrency": 64}
    bench.define(definition("flood", HOSTILE, limits=limits, tenant="big"))
    bench.define(definition("victim", ECHO, warm={"floor": 1, "ceiling": 4}, tenant="small"))
    assert results.one(bench.call("victim", b"x")).status == "ok"
    assert results.one(bench.call("flood", b"")).status == "ok"
    alone, beside, ids = [], [], []
    # By turns, so that what else this machine does meets both alike.
    for _ in range(ROUNDS):
        alone += latencies_ms(bench, 60)
        ids += flood(bench)
        beside += latencies_ms(bench, 6)
        results.wait_all(ids, 300)
    assert service.stop() == 0
    counts = collections.Counter((results.kept[id][0].status, results.kept[id][0].error_code) for id in ids)
    return alone, beside, counts


def tenants(bench):
    """With quotas a flood leaves the other tenant's p99 near what it was alone; what is too much is rejected by name."""
    told = []
    for name, changes in (("no quotas", {}), ("quotas", {"tenants": QUOTA})):
        alone, beside, counts = run(bench, **changes)
        shares = [(share, percentile(alone, share), percentile(beside, share)) for share in (0.5, 0.99)]
        figures = [f"p{share * 100:.0f} {one:.1f} ms alone, {other:.1f} ms beside a flood" for share, one, other in shares]
        told.append(f"{name}: {'; '.join(figures)}")
        rejected = counts[("rejected", "tenant_quota")]
        assert sum(counts.values()) == ROUNDS * FLOOD, counts
        assert (rejected > 0) == bool(changes), counts
        assert set(status for status, _ in counts) <= {"timeout", "rejected"}, counts
    return "; ".join(told)


SCENARIOS = [tenants]
