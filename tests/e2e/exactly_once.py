"""Scenarios of `delivery = "exactly-once"`: readers of committed messages see each outcome once, whatever is killed when.

What a topic holds is read anew at the end, from its beginning to its last stable offset, by a client of its own.
"""

import collections
import signal
import time

import confluent_kafka
import events
from bench import ECHO, HOSTILE, definition
from brokers import Watch
from delivery import Load
from streams import BROKER_DEADLINE_S, PARTITIONS, QUIET

EXACTLY_ONCE = "exactly-once"
# Calls a second: few enough that the service keeps up on one core.
RATE = 2_500
# How long a transaction may last where the broker is away for longer.
TRANSACTION_S = 3
# A node that says nothing for this long is thrown out of the group.
SESSION_S = 6
# How long a transaction holds the group's offsets, and what the node may take of the machine meanwhile.
HELD_S = 15
HELD_CPU_SHARE_MAX = 0.25


def node(bench, name, **changes):
    return bench.service(delivery=EXACTLY_ONCE, node={"id": name}, **changes)


def ready(bench, name="one", **changes):
    """A service that has answered a call, and its results so far."""
    service = node(bench, name, **changes).start()
    results = bench.results(keep=False)
    bench.define(definition("echo", ECHO))
    first = bench.call("echo")
    results.wait_count(1, 120)
    return service, results, first


def committed(bench, role, isolation="read_committed"):
    """Every message of a topic that a reader sees: headers and value."""
    topic = bench.topics[role]
    consumer = confluent_kafka.Consumer(
        {
            "bootstrap.servers": bench.bootstrap,
            "group.id": "e2e-checker",
            "enable.auto.commit": False,
            "enable.partition.eof": True,
            "isolation.level": isolation,
            **QUIET,
        }
    )
    partitions = consumer.list_topics(topic, timeout=30).topics[topic].partitions
    beginning = confluent_kafka.OFFSET_BEGINNING
    consumer.assign([confluent_kafka.TopicPartition(topic, number, beginning) for number in partitions])
    messages, open_partitions, until = [], set(partitions), time.monotonic() + 120
    while open_partitions:
        assert time.monotonic() < until, f"partitions {open_partitions} of {topic} were not read to their end"
        message = consumer.poll(1)
        if message is None:
            continue
        if message.error():
            assert message.error().code() == confluent_kafka.KafkaError._PARTITION_EOF, message.error()
            open_partitions.discard(message.partition())
        else:
            messages.append((message.headers() or [], message.value(), message.offset()))
    consumer.close()
    return messages


def results_by_call(bench, isolation="read_committed"):
    read = (events.read_result(value) for _, value, _ in committed(bench, "results", isolation))
    return collections.Counter(result["invocation_id"] for result in read)


def check(bench, ids):
    """Each call has one result, and there is no other."""
    counts = results_by_call(bench)
    lost = [id for id in ids if id not in counts]
    twice = [id for id, count in counts.items() if count > 1]
    foreign = set(counts) - set(ids)
    assert not lost, f"{len(lost)} of {len(ids)} calls have no result"
    assert not twice, f"{len(twice)} of {len(ids)} calls have more than one result"
    assert not foreign, f"{len(foreign)} results of calls that were not made"


def exactly_once(bench):
    """Killed three times in the middle of 20,000 calls and started again: each has one result, not one twice."""
    service, results, first = ready(bench)
    load = Load(bench, 20_000, RATE)
    load.start()
    for count in (4_000, 9_000, 14_000):
        results.wait_count(count, 120)
        service.check_running()
        service.kill()
        service.start()
    ids = [first, *load.finish()]
    results.wait_count(len(ids), 300)
    assert service.stop() == 0
    check(bench, ids)
    everything = sum(results_by_call(bench, "read_uncommitted").values())
    return f"3 kills; {everything - len(ids)} results were written and never seen"


def exactly_once_zombie(bench):
    """A node that hangs for longer than its session is fenced: what it held is answered by another, once."""
    first, results, call = ready(bench, "one")
    second = node(bench, "two").start()
    load = Load(bench, 20_000, RATE)
    load.start()
    results.wait_count(6_000, 120)
    first.process.send_signal(signal.SIGSTOP)
    time.sleep(SESSION_S + 3)
    first.process.send_signal(signal.SIGCONT)
    ids = [call, *load.finish()]
    results.wait_count(len(ids), 300)
    assert (first.stop(), second.stop()) == (0, 0)
    check(bench, ids)


def exactly_once_broker(bench):
    """The broker is killed thrice in 30,000 calls, each time for longer than a transaction may last: one result each."""
    broker = bench.broker()
    # One transaction after the other, so that most likely one is being committed when the broker goes.
    publish = {"transaction-interval": "1ms"}
    service, results, first = ready(bench, publish=publish, **{"kafka.properties": {"transaction.timeout.ms": f"{TRANSACTION_S * 1_000}"}})
    load = Load(bench, 30_000, RATE)
    load.start()
    for count in (6_000, 13_000, 20_000):
        results.wait_count(count, 120)
        broker.stop("--kill")
        # Nothing else says that the time of a transaction is over.
        time.sleep(TRANSACTION_S + 0.5)
        broker.start()
    ids = [first, *load.finish()]
    results.wait_count(len(ids), 300)
    assert service.stop() == 0
    check(bench, ids)


def offsets_held(bench):
    """A transaction that nobody ends holds the group's offsets: the node is idle and says why, until it is ended."""
    service, results, first = ready(bench)
    assert service.stop() == 0
    settings = {"transactional.id": f"{bench.name}-held", "transaction.timeout.ms": 300_000}
    holder = confluent_kafka.Producer({"bootstrap.servers": bench.bootstrap, **settings, **QUIET})
    holder.init_transactions(BROKER_DEADLINE_S)
    holder.begin_transaction()
    # Of no member, which the coordinator takes for a group that has none.
    group = confluent_kafka.Consumer({"bootstrap.servers": bench.bootstrap, "group.id": bench.name, **QUIET})
    beginning = [confluent_kafka.TopicPartition(bench.topics["invocations"], number, 0) for number in range(PARTITIONS)]
    holder.send_offsets_to_transaction(beginning, group.consumer_group_metadata(), BROKER_DEADLINE_S)
    service.start()
    second = bench.call("echo")
    bench.sender.flush()
    service.wait_log("not taken over", 60)
    watch, reasons = Watch(service), set()
    while watch.lasts_s() < HELD_S:
        service.check_running()
        reasons.add(service.not_ready())
        watch.look()
        time.sleep(0.2)
    lines, cpu_share, _ = watch.end()
    assert all(reason and "a transaction that has not ended holds the group's offsets" in reason for reason in reasons), reasons
    assert lines == 0 and cpu_share <= HELD_CPU_SHARE_MAX, f"{lines} lines of log, {cpu_share:.0%} of a core in {HELD_S} s"
    assert second not in results.seen, "a call of a partition whose place was not known was answered"
    began = time.monotonic()
    holder.abort_transaction(BROKER_DEADLINE_S)
    results.wait_count(2, 60)
    took_s = time.monotonic() - began
    assert service.stop() == 0
    group.close()
    check(bench, [first, second])
    return f"{lines} lines of log and {cpu_share:.0%} of a core in {HELD_S} s; answered {took_s:.1f} s after its end"


def exactly_once_letters(bench):
    """Dead letters are in the transactions too: of what is no event, and of a call whose attempts are used up."""
    service, results, first = ready(bench)
    retry = {"attempts_max": 2, "backoff_ms": 10, "backoff_max_ms": 10}
    bench.define(definition("fails", HOSTILE, retry=retry))
    echo = [bench.call("echo", key=b"k") for _ in range(200)]
    fails = [bench.call("fails", b"trap", key=b"k") for _ in range(20)]
    for number in range(20):
        bench.sender.send(bench.topics["invocations"], b"no event %d" % number, b"k")
    bench.sender.flush()
    ids = [first, *echo, *fails]
    results.wait_count(len(ids), 120)
    assert service.stop() == 0
    check(bench, ids)
    reasons = collections.Counter(
        dict(headers)["forewarm.dead-letter.reason"].decode() for headers, _, _ in committed(bench, "dead-letters")
    )
    assert reasons == {"attempts_used_up": 20, "unknown_format": 20}, reasons


SCENARIOS = [exactly_once, exactly_once_zombie, exactly_once_broker, exactly_once_letters, offsets_held]
