"""What the topic of results holds, read by a client and a codec that are not the service's own.

It must not know what was done to the service.
"""

import collections
import dataclasses
import time

import confluent_kafka
import events
from streams import QUIET


@dataclasses.dataclass
class Account:
    calls: int = 0
    lost: int = 0
    duplicates: int = 0
    foreign: int = 0
    ordered: int = 0
    disorder: int = 0
    slowest_s: float = 0.0
    # When each call that came twice was over for the second time, in milliseconds since the epoch.
    repeated_at_ms: list = dataclasses.field(default_factory=list)
    statuses: collections.Counter = dataclasses.field(default_factory=collections.Counter)


def reader(bootstrap, topic):
    consumer = confluent_kafka.Consumer(
        {
            "bootstrap.servers": bootstrap,
            "group.id": "chaos-checker",
            "enable.auto.commit": False,
            "enable.partition.eof": True,
            "isolation.level": "read_committed",
            **QUIET,
        }
    )
    partitions = consumer.list_topics(topic, timeout=60).topics[topic].partitions
    beginning = confluent_kafka.OFFSET_BEGINNING
    consumer.assign([confluent_kafka.TopicPartition(topic, number, beginning) for number in partitions])
    return consumer, set(partitions)


class Watch:
    """Counts the calls that have a result, while the service works."""

    def __init__(self, bootstrap, topic):
        self.consumer, _ = reader(bootstrap, topic)
        self.ids = set()

    def read(self, wait_s):
        for message in self.consumer.consume(10_000, wait_s):
            if not message.error():
                self.ids.add(events.read_result(message.value())["invocation_id"])

    def seen(self):
        return len(self.ids)

    def close(self):
        self.consumer.close()


def check(bootstrap, topic, calls):
    """Reads the topic from its beginning to its last stable offset, and counts."""
    consumer, left = reader(bootstrap, topic)
    account = Account(calls=calls.sent)
    seen = collections.Counter()
    # Where the first result of each call with an order stands: partition and offset.
    first = {}
    until = time.monotonic() + 300
    while left:
        assert time.monotonic() < until, f"partitions {left} of {topic} were not read to their end"
        for message in consumer.consume(10_000, 1):
            if message.error():
                assert message.error().code() == confluent_kafka.KafkaError._PARTITION_EOF, message.error()
                left.discard(message.partition())
                continue
            result = events.read_result(message.value())
            id = result["invocation_id"]
            seen[id] += 1
            if seen[id] > 1:
                account.repeated_at_ms.append(result["completed_at"])
                continue
            account.statuses[result["status"]] += 1
            if id in calls.sent_at:
                account.slowest_s = max(account.slowest_s, (result["completed_at"] - calls.sent_at[id]) / 1_000)
            if id in calls.places:
                first[id] = (message.partition(), message.offset())
    consumer.close()
    account.lost = sum(f"call-{number}" not in seen for number in range(calls.sent))
    account.foreign = sum(id not in calls.sent_at for id in seen)
    account.duplicates = sum(count - 1 for count in seen.values())
    account.ordered, account.disorder = disorder(calls.places, first)
    return account


def disorder(places, first):
    """Of calls of one key in one partition of the invocations, those whose first result stands before that of an earlier one."""
    lines = collections.defaultdict(list)
    for id, (key, partition, offset) in places.items():
        if id in first:
            lines[key, partition].append((offset, first[id]))
    count = 0
    for line in lines.values():
        # A result lies in the partition of its key, so all of a line lie in one.
        results = [place for _, place in sorted(line)]
        count += sum(later < earlier for earlier, later in zip(results, results[1:]))
    return sum(map(len, lines.values())), count
