"""What is done to the brokers of a cluster: each fault as a context, which mends it at its end and yields a line about it.

A fault takes the run, which has the cluster, the groups (`fleets`) and the coordinators. It must not look at nodes.
"""

import collections
import concurrent.futures
import contextlib
import time

import confluent_kafka
from confluent_kafka.admin import AdminClient, AlterConfigOpType, ConfigEntry, ConfigResource, ResourceType

import kafka_protocol
from streams import BROKER_DEADLINE_S, QUIET

ROLES = ("invocations", "results")
# How long partitions stay where they were moved to.
MOVED_S = 5


@contextlib.contextmanager
def killed(run, nodes, what):
    for node in nodes:
        run.cluster.brokers[node].stop("--kill")
    try:
        yield f"kill -9 of {what} (broker {', '.join(map(str, nodes))})"
    finally:
        with concurrent.futures.ThreadPoolExecutor() as pool:
            list(pool.map(lambda node: run.cluster.brokers[node].start(), nodes))


@contextlib.contextmanager
def frozen(run, node, what):
    run.cluster.brokers[node].hang()
    try:
        yield f"SIGSTOP of {what} (broker {node})"
    finally:
        run.cluster.brokers[node].go_on()


def group_killed(run):
    return killed(run, [run.group_coordinator()], "the groups' coordinator")


def group_frozen(run):
    return frozen(run, run.group_coordinator(), "the groups' coordinator")


def transactions_killed(run):
    return killed(run, [run.transactions_coordinator()], "the transactions' coordinator")


def transactions_frozen(run):
    return frozen(run, run.transactions_coordinator(), "the transactions' coordinator")


def leader_killed(run):
    return killed(run, [led(run)[0]], "the leader of most partitions")


def leader_frozen(run):
    return frozen(run, led(run)[0], "the leader of most partitions")


def two_killed(run):
    return killed(run, run.random.sample(sorted(run.cluster.brokers), 2), "two of three brokers")


@contextlib.contextmanager
def coordinators_killed(run):
    """The broker that coordinates groups and transactions: without luck it has to be made so first."""
    node, (topic, number) = run.group_coordinator(), run.transactions_partition()
    wanted = {number: [node, *(other for other in sorted(run.cluster.brokers) if other != node)]}
    kafka_protocol.reassign(run.cluster.brokers[node].bootstrap, topic, wanted)
    wait_moved(run, {topic: wanted})
    elect(run, [confluent_kafka.TopicPartition(topic, number)])
    time.sleep(MOVED_S)
    with killed(run, [node], "the coordinator of groups and of transactions") as told:
        yield told


def led(run):
    """The brokers, beginning with the one that leads most partitions of calls and results."""
    topics, counts = run.cluster.view().topics, collections.Counter(dict.fromkeys(run.cluster.brokers, 0))
    for name in moved_topics(run):
        counts.update(partition.leader for partition in topics[name].values())
    return [node for node, _ in counts.most_common()]


def moved_topics(run):
    return [group.topics[role] for group in run.fleets for role in ROLES]


@contextlib.contextmanager
def rolling(run):
    """The brokers one after the other, each when all replicas are in sync, as one does it."""
    # The faults' times begin with the first one's end, so all of it belongs to what is yielded.
    with concurrent.futures.ThreadPoolExecutor(1) as pool:
        done = pool.submit(roll, run)
        yield "rolling restart of all three brokers"
        done.result()


def roll(run):
    for broker in run.cluster.brokers.values():
        broker.restart()
        run.cluster.wait_whole(in_sync=True)


@contextlib.contextmanager
def results_refused(run):
    """Results need three replicas in sync while one broker is away, which coordinates nothing if there is such a one."""
    coordinators = {run.group_coordinator(), run.transactions_coordinator()}
    least = led(run)[::-1]
    node = next((node for node in least if node not in coordinators), least[0])
    in_sync_min(run, "3")
    with killed(run, [node], "one more"):
        try:
            yield f"min.insync.replicas of results not met (3, broker {node} away)"
        finally:
            in_sync_min(run, None)


def in_sync_min(run, value):
    """Sets min.insync.replicas of the results' topics, or takes it away again."""
    operation = AlterConfigOpType.SET if value else AlterConfigOpType.DELETE
    # librdkafka wants a value also where there is none.
    entry = ConfigEntry("min.insync.replicas", value or "2", incremental_operation=operation)
    topics = [ConfigResource(ResourceType.TOPIC, group.topics["results"], incremental_configs=[entry]) for group in run.fleets]
    admin = AdminClient({"bootstrap.servers": run.cluster.bootstrap, **QUIET})
    for future in admin.incremental_alter_configs(topics, request_timeout=BROKER_DEADLINE_S).values():
        future.result(BROKER_DEADLINE_S)


@contextlib.contextmanager
def reassigned(run):
    """Calls and results to two replicas, to two others, and to three again."""
    for shift, replicas in ((0, 2), (1, 2), (2, 3)):
        move(run, shift, replicas)
        time.sleep(MOVED_S)
    yield "calls and results reassigned thrice: two replicas, two others, three"


@contextlib.contextmanager
def elections(run):
    """Every partition of calls and results led by the next broker, three times."""
    for shift in range(3):
        move(run, shift, len(run.cluster.brokers))
        topics = run.cluster.view().topics
        elect(run, [confluent_kafka.TopicPartition(name, number) for name in moved_topics(run) for number in topics[name]])
        time.sleep(MOVED_S)
    yield "preferred leaders changed and elected three times"


def move(run, shift, replicas):
    """Gives every partition of calls and results the brokers that come next in turn, and waits until they have it."""
    nodes, wanted = sorted(run.cluster.brokers), {}
    for name in moved_topics(run):
        partitions = run.cluster.view().topics[name]
        turns = {number: range(number + shift, number + shift + replicas) for number in partitions}
        wanted[name] = {number: [nodes[turn % len(nodes)] for turn in turns[number]] for number in partitions}
        kafka_protocol.reassign(run.cluster.brokers[nodes[0]].bootstrap, name, wanted[name])
    wait_moved(run, wanted)


def wait_moved(run, wanted):
    until = time.monotonic() + BROKER_DEADLINE_S
    while not are_moved(run, wanted):
        assert time.monotonic() < until, f"partitions were not moved within {BROKER_DEADLINE_S} s"
        time.sleep(0.1)


def are_moved(run, wanted):
    topics = run.cluster.view().topics
    pairs = [(topics[name][number], ids) for name, partitions in wanted.items() for number, ids in partitions.items()]
    return all(list(partition.replicas) == ids and set(partition.in_sync) == set(ids) for partition, ids in pairs)


def elect(run, partitions):
    """Has these partitions led by the broker that is to lead them."""
    admin = AdminClient({"bootstrap.servers": run.cluster.bootstrap, **QUIET})
    ended = admin.elect_leaders(confluent_kafka.ElectionType.PREFERRED, partitions).result(BROKER_DEADLINE_S)
    needless = confluent_kafka.KafkaError.ELECTION_NOT_NEEDED
    faults = [fault for fault in ended.values() if fault and fault.code() != needless]
    assert not faults, faults
