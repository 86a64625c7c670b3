"""Scenarios: several nodes of one group, and what moves when one of them goes. They print times and assert accounts."""

import json
import time
import urllib.error
import urllib.request

from bench import ECHO, HOSTILE, definition

ANNOUNCED = 8
# How often it may be tried again: other work of this machine may hold up one of the nodes.
ATTEMPTS = 3
WARM_WITHIN_S = 1.0


def granted(service, function):
    """How many instances that node is to hold ready; None where it does not know the function."""
    try:
        with urllib.request.urlopen(f"http://{service.admin()}/functions/{function}", timeout=10) as answer:
            return json.load(answer)["granted"]["ready"]
    except urllib.error.HTTPError:
        return None


def wait_granted(service, function, ready, deadline_s=60):
    """Waits until a node's target for a function is this; how long it took, in seconds."""
    began = time.monotonic()
    while (now := granted(service, function)) != ready:
        service.check_running()
        told = f"after {deadline_s} s the target of {function} is {now}, not {ready}:\n{service.log_tail()}"
        assert time.monotonic() < began + deadline_s, told
        time.sleep(0.005)
    return time.monotonic() - began


def warm_after_rebalance(bench):
    """A node that takes over the partitions of one that was killed is warm for what is announced within a second."""
    nodes = [bench.service(node={"id": f"node-{number}"}, forecast={"newcomer-share": 0.0}) for number in range(2)]
    for node in nodes:
        node.start()
    results = bench.results()
    bench.define(definition("other", ECHO))
    assert results.one(bench.call("other")).status == "ok"
    told = []
    for attempt in range(ATTEMPTS):
        # Calls are history from then on, so each attempt has a function of its own.
        name = f"announced-{attempt}"
        # Each call keeps its instance until its time limit, so each needs one of its own.
        bench.define(definition(name, HOSTILE, limits={"timeout_ms": 1_000}))
        notice = bench.announce(name, expected_invocations=ANNOUNCED, window_ms=60_000)
        for node in nodes:
            wait_granted(node, name, ANNOUNCED // 2)
        heir, gone = nodes
        taken = len(heir.log_lines("partitions taken over"))
        gone.kill()
        while len(heir.log_lines("partitions taken over")) == taken:
            heir.check_running()
            time.sleep(0.005)
        target_s = wait_granted(heir, name, ANNOUNCED)
        time.sleep(max(0.0, WARM_WITHIN_S - target_s))
        ids = [bench.call(name, b"sleep") for _ in range(ANNOUNCED)]
        bench.sender.flush()
        starts = [(results.one(id).start_kind, results.one(id).warm_reason) for id in ids]
        warm = starts.count(("prewarmed", {"kind": "pre_trigger", "detail": notice}))
        told.append(f"{warm} of {ANNOUNCED} prewarmed, target after {target_s * 1_000:.0f} ms")
        nodes.reverse()
        if warm == ANNOUNCED:
            break
        gone.start()
    assert warm == ANNOUNCED, (told, starts)
    assert heir.stop() == 0
    return "; ".join(told)


SCENARIOS = [warm_after_rebalance]
