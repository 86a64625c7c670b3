"""Scenarios: what brokers do to the service. They go away, give topics to each other, lose them, and refuse messages."""

import time

import confluent_kafka

from bench import ECHO, HOSTILE, definition
from cluster import Broker
from delivery import RATE, Load, check, ready, settle
from faults import PREFIX
from streams import BROKER_DEADLINE_S, Missing, Sender, make_group_topic

# How long the broker is away: many times every timeout and backoff of the service.
AWAY_S = 60
# What the service may take of the machine meanwhile: it has nothing to do but to try the broker again.
AWAY_CPU_SHARE_MAX = 0.25
AWAY_MEMORY_BYTES_MAX = 64 << 20
AWAY_LOG_LINES_MAX = 60
# Calls made at the most while leaders change.
CALLS_MAX = 100_000


def broker_away(bench):
    """The broker is away for a minute while calls are in flight: not ready, idle, and nothing is lost."""
    broker = bench.broker()
    service, results = ready(bench)
    # These are certain to end while the broker is away.
    bench.define(definition("hangs", HOSTILE, limits={"timeout_ms": 5_000}))
    service.wait_ready(True)
    load = Load(bench, 20_000, RATE)
    load.start()
    results.wait_count(4_000, 120)
    hanging = [bench.call("hangs", b"sleep") for _ in range(20)]
    results.wait_count(12_000, 120)
    broker.stop()
    answered = len(results.seen)
    assert answered < 20_000, "the broker went too late to prove anything"
    service.wait_ready(False)
    away = Watch(service)
    while away.lasts_s() < AWAY_S:
        service.check_running()
        assert service.not_ready(), "ready without a broker"
        away.look()
        time.sleep(1)
    lines, cpu_share, grown_bytes = away.end()
    assert lines <= AWAY_LOG_LINES_MAX, f"{lines} lines of log within {AWAY_S} s:\n{service.log_tail()}"
    assert cpu_share <= AWAY_CPU_SHARE_MAX, f"{cpu_share:.0%} of a core without a broker"
    assert grown_bytes <= AWAY_MEMORY_BYTES_MAX, f"grew by {grown_bytes >> 20} MiB without a broker"
    broker.start()
    began = time.monotonic()
    service.wait_ready(True)
    rejoined = len(service.log_lines("partitions taken over")) == 2
    ids = load.finish()
    results.wait_all([*ids, *hanging], 300)
    back_s = time.monotonic() - began
    assert len(results.seen) == len(ids) + len(hanging) + 1, len(results.seen)
    assert service.stop() == 0
    settle(bench, results)
    assert set(results.statuses) == {"ok", "timeout"}, results.statuses
    # What ended within the commit interval (250 ms) before runs again, and what hung.
    assert results.duplicates() <= RATE, f"{results.duplicates()} duplicates, {RATE} calls a second"
    assert rejoined, "ready again before the group, which had thrown it out, gave it partitions"
    told = f"{lines} lines of log, {cpu_share:.1%} of a core, {grown_bytes / (1 << 20):+.1f} MiB in {AWAY_S} s"
    return f"{told}; all answered {back_s:.1f} s after it was back, {results.duplicates()} duplicates"


class Watch:
    """What the service costs from here on."""

    def __init__(self, service):
        self.service = service
        self.began = time.monotonic()
        self.lines, self.cpu_s = len(service.log_lines()), service.cpu_s()
        self.resident_bytes = self.most_bytes = service.resident_bytes()

    def lasts_s(self):
        return time.monotonic() - self.began

    def look(self):
        self.most_bytes = max(self.most_bytes, self.service.resident_bytes())

    def end(self):
        """Lines of its log, its share of a core, and by how many bytes it grew at most."""
        self.look()
        lines = len(self.service.log_lines()) - self.lines
        return lines, (self.service.cpu_s() - self.cpu_s) / self.lasts_s(), self.most_bytes - self.resident_bytes


def topic_recreated(bench):
    """The topic of calls is deleted and made anew under a service that runs: it takes the new one's calls."""
    bench.make_topics()
    service = bench.service().start()
    results = bench.results()
    bench.define(definition("echo", ECHO))
    took_s = []
    # At first less is sent than was read of the one before, so that its offsets lie below the old ones; then more.
    for count in (200, 60, 400):
        began = time.monotonic()
        ids = [bench.call("echo", b"x", key=b"%d" % number) for number in range(count)]
        bench.sender.flush()
        results.wait_all(ids, 90)
        took_s.append(time.monotonic() - began)
        service.check_running()
        # At once, as a script does it: the service has no chance to see that there is none.
        bench.topics.delete("invocations")
        recreate(bench, "invocations")
        # The idempotent producer of before counts on the partitions of before.
        bench.sender = Sender(bench.bootstrap)
    assert service.stop() == 0
    settle(bench, results)
    assert set(results.statuses) == {"ok"}, results.statuses
    told = f"calls of the new topics answered within {took_s[1]:.1f} s and {took_s[2]:.1f} s"
    return f"{told}, {results.duplicates()} duplicates"


def recreate(bench, role):
    """Makes a topic that was deleted a moment ago."""
    until = time.monotonic() + BROKER_DEADLINE_S
    while True:
        try:
            return bench.topics.create(role)
        except confluent_kafka.KafkaException as fault:
            if fault.args[0].code() != confluent_kafka.KafkaError.TOPIC_ALREADY_EXISTS or time.monotonic() > until:
                raise
            time.sleep(0.05)


def partitions_added(bench):
    """The topic of calls grows from 2 to 6 partitions under load: every call is answered."""
    bench.make_topics(changes={"invocations": {"num_partitions": 2}})
    service, results = ready(bench)
    # Long enough for the service to notice, which it does within 10 s.
    load = Load(bench, 12_000, 1_000)
    load.start()
    results.wait_count(1_000, 120)
    bench.topics.grow("invocations", 6)
    check(results, load.finish(), 120)
    lengths = bench.topics.lengths("invocations")
    assert len(lengths) == 6 and all(lengths.values()), f"some partitions were never used: {lengths}"
    assert service.stop() == 0
    settle(bench, results)
    assert results.duplicates() == 0, f"{results.duplicates()} duplicates without any fault"
    return f"{sum(lengths[number] for number in range(2, 6))} of {sum(lengths.values())} calls in the new partitions"


def message_too_large(bench):
    """A result that its topic refuses comes as `limit`, a dead letter without what is too much; nobody else is harmed."""
    small = {"config": {"max.message.bytes": "10000"}}
    bench.make_topics(changes={"results": small, "dead-letters": small})
    service = bench.service().start()
    results, letters = bench.results(), bench.dead_letters()
    bench.define(definition("echo", ECHO))
    assert results.one(bench.call("echo")).status == "ok"
    large, others = [], []
    for number in range(5):
        large.append(bench.call("echo", b"x" * 50_000, key=b"%d" % number))
        others += [bench.call("echo", b"y", key=b"%d" % number) for _ in range(50)]
    bench.sender.flush()
    results.wait_all([*large, *others], 60)
    for number, name in enumerate(large):
        result = results.one(name)
        assert (result.status, result.error_code, result.payload) == ("limit", "result", None), result.event
        assert result.key == b"%d" % number and result.error_message, result.event
    assert {results.one(name).status for name in others} == {"ok"}
    # A key is the caller's, and a result has it too.
    result = results.one(bench.call("echo", b"y", key=b"k" * 20_000))
    assert (result.status, result.key) == ("limit", None), result.event
    assert "key of 20000 bytes is left out" in result.error_message, result.event
    # So are its headers: they go before an answer that is smaller, and after one that is larger.
    note, flood = ("note", b"kept"), ("flood", b"h" * 12_000)
    result = results.one(bench.call("echo", b"y", headers=[note, flood]))
    assert (result.status, result.payload) == ("ok", b"y"), result.event
    assert result.headers[1:] == [("forewarm.headers-left-out", b"2")], result.headers
    result = results.one(bench.call("echo", b"x" * 50_000, headers=[note]))
    assert (result.status, result.headers[1:]) == ("limit", [note]), (result.event, result.headers)
    result = results.one(bench.call("echo", b"x" * 50_000, headers=[note, flood]))
    assert (result.status, result.headers[1:]) == ("limit", [("forewarm.headers-left-out", b"2")]), result.headers
    # First a value that is too much, then headers as well.
    value, note, flood = b"no event " * 5_000, ("note", b"kept"), ("flood", b"h" * 20_000)
    topic = bench.topics["invocations"]
    places = [bench.sender.send_and_locate(topic, value, b"key", headers) for headers in ([note], [note, flood])]
    letters.wait_for(2, 60)
    for (partition, offset), kept in zip(places, ([note], []), strict=True):
        (letter,) = [letter for letter in letters.letters if place(letter) == (partition, offset)]
        assert letter.value is None, f"{len(letter.value)} bytes"
        assert letter.key == (b"key" if kept else None), letter.key
        assert [header for header in letter.headers if not header[0].startswith(PREFIX)] == kept, letter.headers
        assert int(letter.header(f"{PREFIX}payload-bytes-omitted")) == len(value), letter.headers
        assert letter.header(f"{PREFIX}reason") == b"unknown_format", letter.headers
    assert results.one(bench.call("echo")).status == "ok"
    assert service.stop() == 0
    assert results.duplicates() == 0 and len(letters.letters) == 2
    return f"{len(large)} results among {len(others)} others, 2 dead letters"


def compacted_results(bench):
    """Where results are compacted, calls without a key have their id for one: without any, brokers take no record."""
    bench.make_topics(changes={"results": {"config": {"cleanup.policy": "compact"}}})
    service, results = bench.service().start(), bench.results()
    bench.define(definition("echo", ECHO))
    for key in (b"key", None):
        id = bench.call("echo", b"x", key=key)
        result = results.one(id)
        assert (result.status, result.payload, result.key) == ("ok", b"x", key or id.encode()), result.event
    assert service.stop() == 0


def place(letter):
    return int(letter.header(f"{PREFIX}partition")), int(letter.header(f"{PREFIX}offset"))


def leader_change(bench):
    """Every partition of calls and results goes from one broker to another and back under load: nothing is lost."""
    first = bench.broker()
    second = Broker(bench.directory / "second-broker")
    # The group's own topic has one replica, which must not lie on a broker that goes.
    make_group_topic(bench.bootstrap)
    bench.closing.callback(second.stop)
    second.start("--join", first.directory)
    led_by_second = {"num_partitions": 4, "replication_factor": -1, "replica_assignment": [[2, 1]] * 4}
    changes = {role: led_by_second for role in ("invocations", "results")}
    bench.make_topics(changes=changes)
    service, results = ready(bench)
    assert leaders(bench) == {2}
    away = under_load(bench, results, second.stop, 1)
    second.start()
    both = [confluent_kafka.TopicPartition(bench.topics[role], number) for role in changes for number in range(4)]
    back = under_load(bench, results, lambda: elect(bench, both), 2)
    check(results, away + back, 120)
    assert service.stop() == 0
    settle(bench, results)
    return f"2 changes under {len(away) + len(back)} calls, {results.duplicates()} duplicates"


def under_load(bench, results, change, leader):
    """Makes another broker the leader of everything while calls come, before it and after it; their ids."""
    before = len(results.seen)
    load = Load(bench, CALLS_MAX, 1_000)
    load.start()
    results.wait_count(before + 500, 120)
    change()
    wait_for_leader(bench, leader)
    changed = len(load.ids)
    assert changed < CALLS_MAX, "the change came too late to prove anything"
    results.wait_count(before + changed + 500, 120)
    load.enough.set()
    return load.finish()


def leaders(bench):
    topics = bench.topics.existing()
    mine = [topics[bench.topics[role]] for role in ("invocations", "results")]
    return {partition.leader for topic in mine for partition in topic.partitions.values()}


def wait_for_leader(bench, node):
    until = time.monotonic() + BROKER_DEADLINE_S
    while (found := leaders(bench)) != {node}:
        if time.monotonic() > until:
            raise Missing(f"after {BROKER_DEADLINE_S} s the leaders are {found}, expected {node}")
        time.sleep(0.05)


def elect(bench, partitions):
    """Gives partitions back to the broker that is to lead them, as soon as that has caught up."""
    until = time.monotonic() + BROKER_DEADLINE_S
    while True:
        preferred = confluent_kafka.ElectionType.PREFERRED
        ended = bench.topics.admin.elect_leaders(preferred, partitions).result(BROKER_DEADLINE_S)
        needless = confluent_kafka.KafkaError.ELECTION_NOT_NEEDED
        faults = [fault for fault in ended.values() if fault and fault.code() != needless]
        if not faults:
            return
        if time.monotonic() > until:
            raise Missing(f"not elected: {faults[0]}")
        time.sleep(0.2)


SCENARIOS = [topic_recreated, partitions_added, message_too_large, compacted_results, leader_change, broker_away]
