"""What the topic of results holds, read by a client and a codec that are not the service's own.

It must not do anything to the service, or to a broker.
"""

import bisect
import collections
import dataclasses
import threading
import time

import confluent_kafka
import events
from streams import QUIET


@dataclasses.dataclass
class Account:
    # That the brokers took; and those of which that is not known, which may have a result or none.
    calls: int = 0
    refused: int = 0
    lost: int = 0
    duplicates: int = 0
    foreign: int = 0
    ordered: int = 0
    disorder: int = 0
    slowest_s: float = 0.0
    # When each call that came twice was over for the second time, in milliseconds since the epoch.
    repeated_at_ms: list = dataclasses.field(default_factory=list)
    statuses: collections.Counter = dataclasses.field(default_factory=collections.Counter)

    def tell(self, faults):
        """What it says, in lines; `faults` as `by_fault` takes them."""
        yield "outcomes: " + ", ".join(f"{count} {status}" for status, count in sorted(self.statuses.items()))
        yield f"lost: {self.lost} of {self.calls} calls"
        if self.refused:
            yield f"  {self.refused} more were not acknowledged, so nobody knows whether the brokers have them"
        yield f"duplicates: {self.duplicates} ({self.share():.4%} of the calls)"
        if self.repeated_at_ms:
            yield f"  by the fault before them: {by_fault(faults, self.repeated_at_ms)}"
        yield f"results of calls that were not made: {self.foreign}"
        yield f"order violations: {self.disorder} of {self.ordered} calls with an order"
        yield f"slowest call: {self.slowest_s:.1f} s from its sending to its outcome"

    def share(self):
        return self.duplicates / max(1, self.calls)

    def faults(self, duplicates_max):
        """What is not as it has to be, in words; `duplicates_max` as a share of the calls."""
        faults = [name for name in ("lost", "foreign", "disorder") if getattr(self, name)]
        if self.share() > duplicates_max:
            faults.append("duplicates")
        if set(self.statuses) != {"ok"}:
            faults.append("outcomes")
        return faults


def by_fault(faults, times_ms):
    """How many of these times follow which fault: as many as each single one has, largest first, by kind. Faults are pairs of
    milliseconds since the epoch and a kind, in their order."""
    after = collections.defaultdict(collections.Counter)
    for time_ms in times_ms:
        number = bisect.bisect(faults, (time_ms, "")) - 1
        after[faults[number][1] if number >= 0 else "none"][number] += 1
    counts = {kind: sorted(counter.values(), reverse=True) for kind, counter in after.items()}
    return ", ".join(f"{kind} {'+'.join(map(str, each))}" for kind, each in sorted(counts.items()))


def reader(bootstrap, topic, places=None):
    """A reader of committed messages, from these places by partition or from the beginning; and the partitions."""
    consumer = confluent_kafka.Consumer(
        {
            "bootstrap.servers": bootstrap,
            "group.id": "chaos-checker",
            "enable.auto.commit": False,
            "enable.partition.eof": True,
            "isolation.level": "read_committed",
            "topic.metadata.refresh.interval.ms": 5_000,
            **QUIET,
        }
    )
    if not places:
        partitions = consumer.list_topics(topic, timeout=60).topics[topic].partitions
        places = dict.fromkeys(partitions, confluent_kafka.OFFSET_BEGINNING)
    consumer.assign([confluent_kafka.TopicPartition(topic, number, place) for number, place in places.items()])
    return consumer, set(places)


# A reader that gets nothing for so long is made anew: it must not be its own fault.
SILENT_S = 5


class Watch:
    """Counts the calls that have a result, while the service works."""

    def __init__(self, bootstrap, topic):
        self.bootstrap, self.topic = bootstrap, topic
        self.ids = set()
        self.consumer, partitions = reader(bootstrap, topic)
        # What is to be read next, by partition.
        self.places = dict.fromkeys(partitions, confluent_kafka.OFFSET_BEGINNING)
        self.heard_at = dict.fromkeys(partitions, time.monotonic())

    def read(self, wait_s):
        """Reads what is there, or waits so long for it; the calls that were answered, each once."""
        fresh = []
        for message in self.consumer.consume(10_000, wait_s):
            if not message.error():
                self.places[message.partition()] = message.offset() + 1
                id = events.read_result(message.value())["invocation_id"]
                if id not in self.ids:
                    self.ids.add(id)
                    fresh.append(id)
                self.heard_at[message.partition()] = time.monotonic()
        if min(self.heard_at.values()) < time.monotonic() - SILENT_S:
            self.consumer.close()
            self.consumer, _ = reader(self.bootstrap, self.topic, self.places)
            self.heard_at = dict.fromkeys(self.places, time.monotonic())
        return fresh

    def close(self):
        self.consumer.close()


class Answers(threading.Thread):
    """When each partition of the calls was answered, as a reader of results sees it while the service works."""

    def __init__(self, bootstrap, topic, calls):
        super().__init__(name="answers", daemon=True)
        self.calls = calls
        # By partition of the calls: pairs of when an answer was seen, and when its call had been sent.
        self.answers = collections.defaultdict(list)
        self.watch = Watch(bootstrap, topic)
        self.ended = threading.Event()
        self.fault = None

    def run(self):
        try:
            while not self.ended.is_set():
                for id in self.watch.read(0.1):
                    partition, sent_at = self.calls.places_sent[id]
                    self.answers[partition].append((time.monotonic(), sent_at))
        except Exception as fault:  # Told to whoever waits: a thread's fault would be lost.
            self.fault = fault
        finally:
            self.watch.close()

    def left(self):
        """How many of the calls that the brokers took were not answered yet."""
        if self.fault:
            raise self.fault
        return len(self.calls.taken - self.watch.ids)

    def answered_at(self, partition, since):
        """When a call of this partition that was sent after this time was first answered; None where none was."""
        return next((seen for seen, sent in list(self.answers[partition]) if sent > since), None)

    def close(self):
        self.ended.set()
        self.join(60)


def standstill_s(times, begin, end):
    """The longest time without any of these times, which are in order, from `begin` to `end`."""
    within = times[bisect.bisect_left(times, begin) : bisect.bisect_right(times, end)]
    return max(later - earlier for earlier, later in zip([begin, *within], [*within, end]))


def check(bootstrap, topic, calls):
    """Reads the topic from its beginning to its last stable offset, and counts."""
    consumer, left = reader(bootstrap, topic)
    account = Account(calls=len(calls.taken), refused=calls.refused)
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
    account.lost = sum(id not in seen for id in calls.taken)
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
