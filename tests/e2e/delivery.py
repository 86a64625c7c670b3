"""Scenarios: what is promised about delivery, with real load, real kills and a real broker that goes away."""

import collections
import itertools
import signal
import subprocess
import threading
import time

import events
from bench import ECHO, HOSTILE, REPOSITORY, Skipped, definition
from streams import PARTITIONS

PREFIX = "forewarm.dead-letter."
# Rate of the load under which something is broken, in calls per second: slow enough that the break comes in the middle.
RATE = 4_000
# How many functions are deployed and called at once.
DEPLOYED = 20
# By when a partition is taken over that nothing holds back; the drain alone would be twice as long.
HAND_OVER_S = 20


class Load(threading.Thread):
    """Publishes calls at a steady rate on a thread of its own: so many, or fewer where it is told that they are enough."""

    def __init__(self, bench, count, rate):
        super().__init__(name="load", daemon=True)
        self.bench, self.count, self.rate = bench, count, rate
        self.ids = []
        self.fault = None
        self.enough = threading.Event()

    def run(self):
        try:
            began = time.monotonic()
            for number in range(self.count):
                ahead = number / self.rate - (time.monotonic() - began)
                if ahead > 0.01:
                    time.sleep(ahead)
                if self.enough.is_set():
                    break
                self.ids.append(self.bench.call("echo", b"x", key=str(number).encode()))
            self.bench.sender.flush(180)
        except Exception as fault:
            self.fault = fault

    def finish(self):
        """Waits for the end; the ids of all calls, every one acknowledged by the broker."""
        self.join(600)
        if self.fault:
            raise self.fault
        assert self.enough.is_set() or len(self.ids) == self.count, f"the load published {len(self.ids)} of {self.count} calls"
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


def second_signal(bench):
    """The first SIGTERM waits for a call in flight; a second one ends at once, and the call is read again."""
    service, results = ready(bench)
    bench.define(definition("hangs", HOSTILE, limits={"timeout_ms": 15_000}))
    hangs = bench.call("hangs", b"sleep")
    bench.sender.flush()
    # On whatever partition: what was sent later is answered, so the one that hangs is in flight.
    for _ in range(20):
        bench.call("echo", b"x")
    bench.sender.flush()
    results.wait_count(21, 60)
    service.process.send_signal(signal.SIGTERM)
    service.wait_log("no new calls are taken")
    began = time.monotonic()
    service.process.send_signal(signal.SIGTERM)
    assert service.wait() == 130
    assert time.monotonic() - began < 5, "the second signal was not heard"
    service.start()
    results.wait_all([hangs], 60)
    assert service.stop() == 0


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
    assert results.duplicates() == 0, f"{results.duplicates()} duplicates without any fault"


def handed_over_while_waiting(bench):
    """Partitions go to another node at once although calls of theirs wait for an attempt; those run there."""
    # A drain may last for longer than this scenario.
    patience = {"kafka.properties": {"session.timeout.ms": "45000"}, "ingest": {"drain-timeout": "40s"}, "shutdown": {"deadline": "60s"}}
    first, results = bench.service(**patience).start(), bench.results()
    bench.define(definition("patient", HOSTILE, retry={"attempts_max": 3, "backoff_ms": 600_000, "backoff_max_ms": 600_000}))
    assert results.one(bench.call("patient")).status == "ok"
    waiting = [bench.call("patient", b"third-time", partition=number) for number in range(PARTITIONS)]
    passed = [bench.call("patient", b"x", partition=number) for number in range(PARTITIONS)]
    bench.sender.flush()
    results.wait_all(passed, 60)
    assert not set(waiting) & set(results.seen)
    # Of this version they need no third time.
    bench.define(definition("patient", ECHO, version="2"))
    first.wait_log('function=patient version="2"')
    second = bench.service(**patience).start()
    began = time.monotonic()
    moved = PARTITIONS // 2
    results.wait(
        lambda: len(set(waiting) & set(results.seen)) == moved,
        HAND_OVER_S,
        lambda: f"results of {len(set(waiting) & set(results.seen))} calls that moved, not {moved}",
    )
    took_s = time.monotonic() - began
    assert len(second.log_lines("partitions taken over")) == 1
    assert {results.one(name).status for name in waiting if name in results.seen} == {"ok"}
    return f"{moved} calls answered elsewhere {took_s:.1f} s after the second node was started"


def deployed_and_called(bench):
    """Functions are deployed under load and called at once: their calls have their order and their dead letters."""
    service, results, letters = bench.service().start(), bench.results(), bench.dead_letters()
    bench.define(definition("echo", ECHO))
    assert results.one(bench.call("echo")).status == "ok"
    load = Load(bench, 4_000, 1_000)
    load.start()
    sent, failing = {}, []
    for number in range(DEPLOYED):
        name = f"new-{number}"
        retry = {"attempts_max": 2, "backoff_ms": 10}
        bench.define(definition(name, HOSTILE, ordering="key", retry=retry))
        failing.append(bench.call(name, b"trap", key=b"key"))
        sent[name] = [failing[-1], *(bench.call(name, b"x", key=b"key") for _ in range(60))]
        bench.sender.flush()
    ids = [id for names in sent.values() for id in names]
    results.wait_all(ids, 120)
    results.wait_all(load.finish(), 120)
    overtaken = 0
    for names in sent.values():
        offsets = [results.one(name).offset for name in names]
        overtaken += sum(later < earlier for earlier, later in itertools.pairwise(offsets))
    assert overtaken == 0, f"{overtaken} calls were overtaken"
    assert {results.one(name).status for name in ids if name not in failing} == {"ok"}
    assert {(results.one(name).status, results.one(name).attempt) for name in failing} == {("trap", 2)}
    lettered = {letter.header(f"{PREFIX}invocation-id").decode() for letter in letters.wait_for(len(failing), 60)}
    assert lettered == set(failing), lettered ^ set(failing)
    assert service.stop() == 0
    return f"{DEPLOYED} functions, {len(ids)} calls"


def deadlines(bench):
    """A call is ended at its deadline; it is not tried again after it, and a failed one is a dead letter then."""
    service, results, letters = bench.service().start(), bench.results(), bench.dead_letters()
    bench.define(definition("hangs", HOSTILE, limits={"timeout_ms": 60_000}))
    bench.define(definition("patient", HOSTILE, retry={"attempts_max": 3, "backoff_ms": 60_000}))
    for name in ("hangs", "patient"):
        assert results.one(bench.call(name)).status == "ok"
    runs = {payload: bench.call("hangs", payload, deadline=events.now_ms() + 3_000) for payload in (b"loop", b"sleep")}
    for payload, name in runs.items():
        result = results.one(name)
        assert (result.status, result.error_code) == ("timeout", "deadline"), (payload, result.event)
        assert result.execute_us < 30_000_000, result.event
    failed = bench.call("patient", b"third-time", deadline=events.now_ms() + 30_000)
    result = results.one(failed, 20)
    assert (result.status, result.attempt) == ("function_error", 1), result.event
    (letter,) = letters.wait_for(1, 60)
    assert letter.header(f"{PREFIX}invocation-id") == failed.encode() and letter.header(f"{PREFIX}attempts") == b"1"
    late = results.one(bench.call("hangs", b"loop", deadline=events.now_ms() - 1))
    assert (late.status, late.error_code) == ("rejected", "deadline"), late.event
    assert service.stop() == 0


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
def retries(bench):
    """A failed call is tried again as its function's definition says, and keeps nobody else waiting meanwhile."""
    service = bench.service().start()
    results = bench.results()
    for name, retry in (
        ("once", None),
        ("twice", {"attempts_max": 2, "backoff_ms": 100}),
        ("thrice", {"attempts_max": 3, "backoff_ms": 100}),
        ("traps-only", {"attempts_max": 3, "backoff_ms": 100, "statuses": ["trap"]}),
        ("too-old", {"attempts_max": 3, "backoff_ms": 2_000, "age_max_ms": 1_000}),
        ("patient", {"attempts_max": 3, "backoff_ms": 3_000}),
    ):
        bench.define(definition(name, HOSTILE, **({"retry": retry} if retry else {})))
    waits = bench.call("patient", b"third-time")
    ends = {
        "once": ("function_error", 1),
        "twice": ("function_error", 2),
        "thrice": ("ok", 3),
        "traps-only": ("function_error", 1),
        "too-old": ("function_error", 1),
    }
    for name, wanted in ends.items():
        result = results.one(bench.call(name, b"third-time"))
        assert (result.status, result.attempt) == wanted, (name, result.event)
        assert results.one(bench.call(name)).attempt == 1
    # Others of its own function pass the one that waits.
    assert results.one(bench.call("patient")).status == "ok"
    assert waits not in results.seen
    result = results.one(waits)
    assert (result.status, result.attempt) == ("ok", 3), result.event
    # A trap is tried again in another instance, and the attempts end.
    result = results.one(bench.call("traps-only", b"trap"))
    assert (result.status, result.attempt) == ("trap", 3), result.event
    assert service.stop() == 0
    assert results.duplicates() == 0
    # What waits for an attempt when its node is killed is read again, and begins anew.
    service.start()
    waits = bench.call("patient", b"third-time")
    bench.sender.flush()
    assert results.one(bench.call("patient")).status == "ok"
    service.kill()
    service.start()
    result = results.one(waits)
    assert (result.status, result.attempt) == ("ok", 3), result.event
    assert service.stop() == 0


def ordering(bench):
    """Calls of one key, or of one partition, end in the order in which they were sent, also where some are tried again."""
    service = bench.service().start()
    results = bench.results()
    retry = {"attempts_max": 3, "backoff_ms": 50}
    for order in ("key", "partition", "unordered"):
        bench.define(definition(order, HOSTILE, ordering=order, retry=retry))
    for order in ("key", "partition", "unordered"):
        assert results.one(bench.call(order)).status == "ok"
    sent = collections.defaultdict(list)
    for nth in range(1_200):
        order = ("key", "partition", "unordered")[nth % 3]
        key = b"key-%d" % (nth % 40)
        payload = b"third-time" if nth % 10 == 0 else b"x"
        sent[order, key].append(bench.call(order, payload, key=key))
    bench.sender.flush()
    results.wait_all([name for names in sent.values() for name in names], deadline_s=120)
    assert results.duplicates() == 0
    overtaken = collections.Counter()
    for (order, _), names in sent.items():
        ended = [results.one(name) for name in names]
        assert {result.status for result in ended} == {"ok"}
        assert len({result.partition for result in ended}) == 1
        offsets = [result.offset for result in ended]
        overtaken[order] += sum(later < earlier for earlier, later in itertools.pairwise(offsets))
    # One key is in one partition, so both orders keep it; without an order the ones that are tried again are overtaken.
    assert (overtaken["key"], overtaken["partition"]) == (0, 0), overtaken
    assert overtaken["unordered"] > 0, "nothing was overtaken, so this shows nothing"
    # Between keys there is no order by key: one that waits keeps no other key back, in the same partition.
    bench.define(definition("slow", HOSTILE, ordering="key", retry={"attempts_max": 3, "backoff_ms": 2_000}))
    waits = bench.call("slow", b"third-time", key=b"a", partition=0)
    behind = bench.call("slow", b"x", key=b"a", partition=0)
    beside = bench.call("slow", b"x", key=b"b", partition=0)
    assert results.one(beside).status == "ok"
    assert waits not in results.seen and behind not in results.seen
    first, second = results.one(waits), results.one(behind)
    assert (first.attempt, first.status, second.attempt) == (3, "ok", 1), (first.event, second.event)
    assert first.offset < second.offset and first.partition == second.partition
    assert service.stop() == 0
    return f"1200 calls, overtaken without order: {overtaken['unordered']}"


def redrive(bench):
    """Calls whose attempts are used up become dead letters; put back after a repair, each runs once more, and only once."""
    service = bench.service().start()
    results, letters = bench.results(), bench.dead_letters()
    retry = {"attempts_max": 3, "backoff_ms": 10, "backoff_max_ms": 20}
    bench.define(definition("fails", HOSTILE, retry=retry))
    bench.define(definition("echo", ECHO))
    ids = [bench.call("fails", b"trap", key=b"k%d" % number, headers=[("own", b"1")]) for number in range(20)]
    good = bench.call("echo", b"x")
    bench.sender.send(bench.topics["invocations"], b"no event")
    bench.sender.flush()
    results.wait_all([*ids, good], 60)
    for letter in letters.wait_for(21, 60):
        if letter.header(f"{PREFIX}reason") == b"unknown_format":
            continue
        assert letter.header(f"{PREFIX}reason") == b"attempts_used_up", letter.headers
        assert letter.header(f"{PREFIX}attempts") == b"3" and letter.header(f"{PREFIX}status") == b"trap", letter.headers
        assert b"hostile" in letter.header(f"{PREFIX}backtrace"), letter.headers
        event = events.read_invocation(letter.value)
        assert event["id"].encode() == letter.header(f"{PREFIX}invocation-id") and event["id"] in ids, event
        assert letter.header("own") == b"1" and letter.key in {b"k%d" % number for number in range(20)}, letter.headers
    attempts = {results.kept[id][0].attempt for id in ids}
    assert attempts == {3}, attempts
    listed = service.command("dead-letters", "list").splitlines()
    assert len(listed) == 21 and sum("fails" in line and "trap after 3 attempts" in line for line in listed) == 20, listed
    # After a crash a call may have a second letter.
    again = next(letter for letter in letters.letters if letter.header(f"{PREFIX}reason") == b"attempts_used_up")
    bench.sender.send(again.topic, again.value, again.key, again.headers)
    bench.sender.flush()
    shown = service.command("dead-letters", "show", listed[0].split()[0])
    assert "value" in shown and "from" in shown, shown
    # The repair: the same function, of other code.
    bench.define(definition("fails", ECHO, version="2"))
    until = time.monotonic() + 60
    while results.one(bench.call("fails", b"x")).status != "ok":
        assert time.monotonic() < until, "the new version is not taken"
    would = service.command("dead-letters", "redrive", "--function", "fails", "--dry-run").splitlines()
    assert len(would) == 20, would
    assert {len(results.kept[id]) for id in ids} == {1}
    for expected in (20, 0):
        put_back = service.command("dead-letters", "redrive", "--function", "fails", "--since", "1h").splitlines()
        assert len(put_back) == expected, put_back
    results.wait(lambda: all(len(results.kept[id]) == 2 for id in ids), 60, lambda: "calls that were put back")
    # Whatever came behind them has its result, so that a third one would be there too.
    results.one(bench.call("echo", b"last"))
    for id in ids:
        first, second = results.kept[id]
        assert (first.status, second.status, second.payload) == ("trap", "ok", b"trap"), (first.event, second.event)
    assert sum("put back" in line for line in service.command("dead-letters", "list").splitlines()) == 21
    assert service.stop() == 0


SCENARIOS = [
    redrive,
    retries,
    ordering,
    hundred_thousand,
    crash,
    drain,
    second_signal,
    two_nodes,
    handed_over_while_waiting,
    deployed_and_called,
    deadlines,
    broker_restart,
]
