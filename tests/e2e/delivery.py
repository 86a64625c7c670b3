"""Scenarios: what is promised about delivery, with real load, real kills and a real broker that goes away."""

import subprocess
import threading
import time

import events
from bench import ECHO, REPOSITORY, Skipped, definition

# Rate of the load under which something is broken, in calls per second: slow enough that the break comes in the middle.
RATE = 4_000


class Load(threading.Thread):
    """Publishes calls at a steady rate on a thread of its own."""

    def __init__(self, bench, count, rate):
        super().__init__(name="load", daemon=True)
        self.bench, self.count, self.rate = bench, count, rate
        self.ids = []
        self.fault = None

    def run(self):
        try:
            began = time.monotonic()
            for number in range(self.count):
                ahead = number / self.rate - (time.monotonic() - began)
                if ahead > 0.01:
                    time.sleep(ahead)
                self.ids.append(self.bench.call("echo", b"x", key=str(number).encode()))
            self.bench.sender.flush(180)
        except Exception as fault:
            self.fault = fault

    def finish(self):
        """Waits for the end; the ids of all calls, every one acknowledged by the broker."""
        self.join(600)
        if self.fault:
            raise self.fault
        assert len(self.ids) == self.count, f"the load published {len(self.ids)} of {self.count} calls"
        return self.ids


def ready(bench, **changes):
    """A service that has answered a call, and a reader that only counts. The first call's result is counted too."""
    service = bench.service(**changes).start()
    results = bench.results(keep=False)
    bench.define(definition("echo", ECHO))
    first = bench.call("echo")
    results.wait_all([first], 60)
    return service, results


def check(results, ids, deadline_s):
    """Every call and no other has a result, and every result is `ok`."""
    results.wait_all(ids, deadline_s)
    assert len(results.seen) == len(ids) + 1, f"{len(results.seen)} calls have results, {len(ids) + 1} were made"
    assert set(results.statuses) == {"ok"}, results.statuses


def hundred_thousand(bench):
    """100,000 calls: each has exactly one result."""
    service, warm_up = ready(bench)
    warm_up.close()
    calls = [events.invocation("echo", b"hello") for _ in range(100_000)]
    messages = [events.single_object(events.INVOCATION, call)[0] for call in calls]
    # Nothing reads while the service works, so that the rate is less that of this client.
    began_ms = events.now_ms()
    for message in messages:
        bench.sender.send(bench.topics["invocations"], message)
    bench.sender.flush(300)
    published_ms = events.now_ms()
    wait_for_length(bench, len(calls) + 1, 300)
    assert service.stop() == 0
    results = bench.results(keep=False)
    check(results, [call["id"] for call in calls], 300)
    settle(bench, results)
    assert results.duplicates() == 0, f"{results.duplicates()} duplicates without any fault"
    took_s = (results.last_completed_at - began_ms) / 1_000
    sent_s = (published_ms - began_ms) / 1_000
    return f"{100_000 / took_s:,.0f} calls/s from first publish to last outcome (published within {sent_s:.1f} s)"


def wait_for_length(bench, length, deadline_s):
    """Waits until so many results are in their topic, without reading them."""
    until = time.monotonic() + deadline_s
    while (found := bench.topics.length("results")) < length:
        assert time.monotonic() < until, f"after {deadline_s} s there are {found} results of {length}"
        time.sleep(0.2)


def settle(bench, results):
    """Waits until the reader has read everything that is in the topic now."""
    total = bench.topics.length("results")
    results.wait(lambda: results.count >= total, 60, lambda: f"{results.count} results read of {total}")


def crash(bench):
    """Killed in the middle of 20,000 calls and started again: nothing is lost."""
    service, results = ready(bench)
    load = Load(bench, 20_000, RATE)
    load.start()
    results.wait_count(8_000, 120)
    service.check_running()
    service.kill()
    answered = len(results.seen)
    assert answered < 20_000, "the kill came too late to prove anything"
    service.start()
    check(results, load.finish(), 300)
    assert service.stop() == 0
    settle(bench, results)
    duplicates = results.duplicates()
    # Progress is committed every 250 ms: more than a second's worth run again means that commits do not work.
    assert duplicates <= RATE, f"{duplicates} duplicates after one crash, {RATE} calls a second"
    return f"killed after {answered} results, {duplicates} duplicates"


def drain(bench):
    """SIGTERM in the middle of 20,000 calls ends with status 0, and the next start repeats nothing."""
    service, results = ready(bench)
    load = Load(bench, 20_000, RATE)
    load.start()
    results.wait_count(8_000, 120)
    began = time.monotonic()
    assert service.stop() == 0
    took_s = time.monotonic() - began
    assert len(results.seen) < 20_000, "the signal came too late to prove anything"
    service.start()
    check(results, load.finish(), 300)
    assert service.stop() == 0
    settle(bench, results)
    assert results.duplicates() == 0, f"{results.duplicates()} duplicates after an orderly restart"
    return f"drained in {took_s:.1f} s"


def two_nodes(bench):
    """Nodes share the calls; one that leaves in order hands over without loss or repetition."""
    first, results = ready(bench)
    load = Load(bench, 20_000, RATE)
    load.start()
    results.wait_count(4_000, 120)
    second = bench.service().start()
    results.wait_count(12_000, 120)
    assert first.stop() == 0
    check(results, load.finish(), 300)
    assert second.stop() == 0
    settle(bench, results)
    return f"{results.duplicates()} duplicates"


def broker_restart(bench):
    """The broker goes away and comes back in the middle of 20,000 calls: nothing is lost."""
    if not bench.broker_directory:
        raise Skipped("needs a broker that may be restarted: FOREWARM_TEST_KAFKA_DIR is not set")
    service, results = ready(bench)
    load = Load(bench, 20_000, RATE)
    load.start()
    results.wait_count(4_000, 120)
    script = REPOSITORY / "scripts" / "kafka"
    subprocess.run([script, "restart", "--dir", bench.broker_directory], check=True, timeout=300)
    check(results, load.finish(), 300)
    service.check_running()
    assert service.stop() == 0
    settle(bench, results)
    return f"{results.duplicates()} duplicates"


# The broker's restart comes last, so that nothing else has to live with it.
SCENARIOS = [hundred_thousand, crash, drain, two_nodes, broker_restart]
