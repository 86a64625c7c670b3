"""Scenarios: how a node is a member of its group, and what becomes of calls, offsets and lag when it goes, or doubts."""

import shutil
import subprocess
import time

import confluent_kafka
import events
from bench import ECHO, HOSTILE, REPOSITORY, Skipped, definition
from cluster import Broker
from confluent_kafka.admin import OffsetSpec
from delivery import Load, ready, settle
from proxy import Proxy
from streams import BROKER_DEADLINE_S, PARTITIONS, QUIET, Missing, Sender

# The brokers' own default, so that nothing here is due to a session that ended.
LONG_SESSION = {"session.timeout.ms": "45000", "heartbeat.interval.ms": None}
# By when partitions are served again that do not wait for a session.
SERVED_S = 20
# How far the clock is set back, and by when calls are answered all the same.
SET_BACK_S = 60
ANSWERED_S = 25
# The broker's interval of heartbeats, by the newer protocol; also how long it may take to answer one.
HEARTBEAT_S = 1
# Calls a second while the coordinator is silent, and for how long it is.
SILENT_RATE = 100
SILENT_S = 10
# By when lag has to be gone that no call stands behind: two looks, five seconds apart, and a commit.
LAG_GONE_S = 40


def everywhere(bench, results, deadline_s=SERVED_S):
    """A call in every partition is answered within so many seconds; how long it took."""
    began = time.monotonic()
    ids = [bench.call("echo", b"x", partition=number) for number in range(PARTITIONS)]
    bench.sender.flush()
    results.wait_all(ids, deadline_s)
    return time.monotonic() - began


def membership_kept(bench):
    """A node with a name that is killed and started again goes on at once; one that is ended in order leaves nothing waiting."""
    service, results = ready(bench, **{"kafka.properties": LONG_SESSION})
    service.kill()
    service.start()
    killed_s = everywhere(bench, results)
    other = bench.service(**{"kafka.properties": LONG_SESSION}).start()
    other.wait_log("partitions taken over")
    everywhere(bench, results)
    assert other.stop() == 0
    left_s = everywhere(bench, results)
    assert service.stop() == 0
    return f"answered {killed_s:.1f} s after a kill, {left_s:.1f} s after another node had left; sessions of 45 s"


def newer_protocol(bench):
    """A node without a name of its own is a member by the group protocol of Kafka 4, where nothing else was asked for."""
    properties = {"session.timeout.ms": None, "heartbeat.interval.ms": None}
    service, results = ready(bench, node={"id": ""}, **{"kafka.properties": properties})
    everywhere(bench, results)
    described = bench.topics.admin.describe_consumer_groups([bench.name])[bench.name].result(BROKER_DEADLINE_S)
    assert described.type == confluent_kafka.ConsumerGroupType.CONSUMER, described.type
    assert service.stop() == 0


def backlog_handed_back(bench):
    """SIGTERM while many calls wait for an instance: these go back unrun, status 0, and run after the next start, once."""
    service, results = ready(bench)
    bench.define(definition("slow", HOSTILE, limits={"timeout_ms": 2_000, "concurrency": 1}))
    slow = [bench.call("slow", b"sleep", partition=number % PARTITIONS) for number in range(12)]
    bench.sender.flush()
    results.wait(lambda: any(id in results.seen for id in slow), 60, lambda: "no slow call has ended")
    began = time.monotonic()
    status = service.stop()
    took_s = time.monotonic() - began
    left = [id for id in slow if id not in results.seen]
    assert status == 0, f"status {status}:\n{service.log_tail()}"
    assert len(left) > 6, f"only {len(left)} calls waited"
    assert took_s < 15, f"the way down took {took_s:.1f} s; all of them would have taken {2 * len(left)} s"
    service.start()
    results.wait_all(slow, 120)
    assert service.stop() == 0
    assert results.duplicates() == 0, f"{results.duplicates()} calls ran twice"
    return f"{len(left)} of {len(slow)} handed back in {took_s:.1f} s"


def lag(bench):
    """By partition: the group's offset and the end of the topic."""
    group = confluent_kafka.ConsumerGroupTopicPartitions(bench.name)
    listed = bench.topics.admin.list_consumer_group_offsets([group])[bench.name].result(BROKER_DEADLINE_S)
    offsets = {place.partition: place.offset for place in listed.topic_partitions}
    asked = {confluent_kafka.TopicPartition(bench.topics["invocations"], number): OffsetSpec.latest() for number in offsets}
    ends = bench.topics.admin.list_offsets(asked)
    return {place.partition: (offsets[place.partition], end.result(BROKER_DEADLINE_S).offset) for place, end in ends.items()}


def wait_for_lag(bench, wanted, deadline_s=LAG_GONE_S):
    """Waits until the group's lag in all partitions together is that."""
    until = time.monotonic() + deadline_s
    while (found := sum(end - offset for offset, end in lag(bench).values())) != wanted:
        if time.monotonic() > until:
            raise Missing(f"after {deadline_s} s the lag is {found}, not {wanted}: {lag(bench)}")
        time.sleep(0.2)


def lag_reaches_zero(bench):
    """Behind transactions of producers, committed and aborted, the group's lag reaches 0; behind an open one it waits."""
    service, results = ready(bench)
    everywhere(bench, results)
    producer = confluent_kafka.Producer({"bootstrap.servers": bench.bootstrap, "transactional.id": f"{bench.name}-calls", **QUIET})
    producer.init_transactions(BROKER_DEADLINE_S)
    topic = bench.topics["invocations"]

    def transaction(partitions):
        producer.begin_transaction()
        ids = []
        for number in partitions:
            event = events.invocation("echo", b"x")
            value, headers = events.single_object(events.INVOCATION, event)
            producer.produce(topic, value, headers=headers, partition=number)
            ids.append(event["id"])
        producer.flush(BROKER_DEADLINE_S)
        return ids

    committed = transaction(range(PARTITIONS))
    producer.commit_transaction(BROKER_DEADLINE_S)
    aborted = transaction(range(PARTITIONS))
    producer.abort_transaction(BROKER_DEADLINE_S)
    results.wait_all(committed, 60)
    wait_for_lag(bench, 0)
    # Nobody knows yet what becomes of these: they must not be passed.
    waiting = transaction([0, 1])
    began = time.monotonic()
    while time.monotonic() - began < 15:
        assert sum(end - offset for offset, end in lag(bench).values()) == 2, lag(bench)
        time.sleep(0.5)
    producer.commit_transaction(BROKER_DEADLINE_S)
    results.wait_all(waiting, 60)
    wait_for_lag(bench, 0)
    assert not set(aborted) & set(results.seen), "an aborted call was answered"
    assert service.stop() == 0
    service.start()
    everywhere(bench, results)
    assert service.stop() == 0
    assert results.duplicates() == 0


def clock_set_back(bench):
    """The wall clock is set back by a minute: the node doubts its membership, and answers calls long before the minute is over."""
    compiler = shutil.which("cc")
    if not compiler:
        raise Skipped("needs a C compiler for a clock that can be moved")
    bench.directory.mkdir(parents=True, exist_ok=True)
    library, moved = bench.directory / "clock.so", bench.directory / "clock"
    source = REPOSITORY / "tests" / "e2e" / "clock.c"
    subprocess.run([compiler, "-shared", "-fPIC", "-O2", "-o", library, source, "-ldl"], check=True, timeout=120)
    moved.write_text(str(SET_BACK_S))
    service = bench.service()
    service.environment = {"LD_PRELOAD": str(library), "TEST_CLOCK_FILE": str(moved)}
    service.start()
    results = bench.results(keep=False)
    bench.define(definition("echo", ECHO))
    results.wait_all([bench.call("echo")], 60)
    everywhere(bench, results)
    moved.write_text("0")
    began = time.monotonic()
    took_s = everywhere(bench, results, ANSWERED_S)
    # And from then on, as before.
    while time.monotonic() - began < SET_BACK_S / 2:
        everywhere(bench, results, 10)
        time.sleep(1)
    assert service.log_lines("the clock was moved"), service.log_tail()
    service.wait_ready(True, 10)
    assert service.stop() == 0
    return f"answered {took_s:.1f} s after it was set back by {SET_BACK_S} s"


def behind_a_proxy(bench):
    """Moves this scenario to a broker of its own that tells every client to come by a proxy."""
    broker = Broker(bench.directory / "broker")
    # Its topics go with it.
    bench.closing.callback(setattr, bench, "topics", None)
    bench.closing.callback(broker.stop)
    broker.start()
    port = int(broker.bootstrap.split(":")[1])
    broker.stop()
    proxy = Proxy(port)
    bench.closing.callback(proxy.close)
    settings = broker.directory / "server.properties"
    text = settings.read_text(encoding="utf-8")
    told, instead = (f"advertised.listeners=PLAINTEXT://127.0.0.1:{number}" for number in (port, proxy.port))
    assert told in text, text
    settings.write_text(text.replace(told, instead), encoding="utf-8")
    broker.start()
    bench.bootstrap = f"127.0.0.1:{proxy.port}"
    bench.sender = Sender(bench.bootstrap)
    return proxy


def coordinator_silent(bench):
    """The coordinator of the group says nothing any more, while fetching and producing work: the node stops taking calls within
    seconds, and says why; once the coordinator speaks, it goes on."""
    proxy = behind_a_proxy(bench)
    service, results = ready(bench, **{"kafka.properties": LONG_SESSION})
    service.wait_ready(True)
    load = Load(bench, 100_000, SILENT_RATE)
    load.start()
    results.wait_count(3 * SILENT_RATE, 60)
    proxy.swallow_members()
    silent_since_ms = events.now_ms()
    service.wait_ready(False, 20)
    reason = service.not_ready()
    assert reason and "a commit has not been answered" in reason, reason
    time.sleep(SILENT_S)
    ran_s = (results.last_completed_at - silent_since_ms) / 1_000
    assert ran_s < SILENT_S / 2, f"calls were answered until {ran_s:.1f} s after the coordinator had fallen silent"
    assert service.not_ready(), "ready without a word of the coordinator"
    proxy.let_members_through()
    load.enough.set()
    ids = load.finish()
    results.wait_all(ids, 60)
    service.wait_ready(True, 30)
    assert service.stop() == 0
    settle(bench, results)
    assert results.duplicates() <= 3 * SILENT_RATE, f"{results.duplicates()} calls ran twice, {SILENT_RATE} calls a second"
    return f"calls were answered until {max(ran_s, 0):.1f} s after, {results.duplicates()} of them twice"


def assigned(bench, client_id):
    """How many partitions the coordinator holds for assigned to the member of this client."""
    described = bench.topics.admin.describe_consumer_groups([bench.name])[bench.name].result(BROKER_DEADLINE_S)
    return sum(len(member.assignment.topic_partitions) for member in described.members if member.client_id == client_id)


def answer_too_late(bench):
    """The coordinator's answer with a new assignment reaches a member after its heartbeat has timed out, and is lost: the member
    finds out that the group has assigned other partitions than it reads, and joins anew."""
    proxy = behind_a_proxy(bench)
    properties = {"group.protocol": "consumer", "session.timeout.ms": None, "heartbeat.interval.ms": None}
    service, results = ready(bench, node={"id": "late"}, **{"kafka.properties": properties})
    everywhere(bench, results)
    proxy.keep_answers_from("forewarm-late")
    other = bench.service(node={"id": "other"}, **{"kafka.properties": properties}).start()
    until = time.monotonic() + SERVED_S
    while assigned(bench, "forewarm-late") == PARTITIONS:
        assert time.monotonic() < until, "the group's coordinator assigns nothing to the other node"
        time.sleep(0.1)
    # The answer that says so is lost once its request has timed out.
    time.sleep(2 * HEARTBEAT_S)
    proxy.let_answers_through()
    other.wait_log("partitions taken over", ANSWERED_S)
    took_s = everywhere(bench, results, ANSWERED_S)
    assert service.stop() == 0
    assert other.stop() == 0
    settle(bench, results)
    assert results.duplicates() == 0, f"{results.duplicates()} calls ran twice"
    joined_anew = len(service.log_lines("leaving the group to join it anew"))
    return f"all partitions were served {took_s:.1f} s after the other node had its own; joined anew {joined_anew} times"


SCENARIOS = [membership_kept, coordinator_silent, answer_too_late, newer_protocol, backlog_handed_back, lag_reaches_zero, clock_set_back]
