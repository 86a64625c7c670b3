"""Topics, messages out and messages in, by librdkafka's Python client. Every wait has an end and says what was missing.

It must not know the service's process.
"""

import collections
import dataclasses
import threading
import time

import confluent_kafka
from confluent_kafka.admin import AdminClient, NewPartitions, NewTopic, OffsetSpec

import events

ROLES = (
    "pre-triggers",
    "invocations",
    "results",
    "dead-letters",
    "guest-notices",
    "functions",
    "artifacts",
    "pre-trigger-outcomes",
    "forecast-snapshots",
    "function-status",
)
PARTITIONS = 6
BROKER_DEADLINE_S = 60
# What a client of the test sees of a broker that restarts is not the test's news.
QUIET = {"log_level": 2, "reconnect.backoff.max.ms": 1_000}


class Missing(AssertionError):
    """A deadline passed without what was waited for."""


@dataclasses.dataclass
class Received:
    """One message as it came."""

    topic: str
    partition: int
    offset: int
    key: bytes | None
    value: bytes | None
    headers: list

    def header(self, name):
        """The value of the only header of that name; None where there is none."""
        found = [value for key, value in self.headers if key == name]
        assert len(found) <= 1, f"{len(found)} headers named {name}"
        return found[0] if found else None


@dataclasses.dataclass
class Result(Received):
    """A result, with its event."""

    event: dict

    def __getattr__(self, name):
        # Only for names that are no attribute: the event's own fields.
        try:
            return self.__dict__["event"][name]
        except KeyError:
            raise AttributeError(name) from None

    @property
    def error_code(self):
        return self.event["error"] and self.event["error"]["code"]

    @property
    def error_message(self):
        return self.event["error"] and self.event["error"]["message"]


class Topics:
    """The topics of one scenario, made new and deleted at the end. `changes` are settings by role, such as `partitions`,
    `replica_assignment`, and `config`."""

    def __init__(self, bootstrap, prefix, create=True, changes=None):
        self.bootstrap = bootstrap
        self.names = {role: f"{prefix}.{role}" for role in ROLES}
        self.changes = changes or {}
        self.admin = AdminClient({"bootstrap.servers": bootstrap, **QUIET})
        if create:
            self.create(*ROLES)

    def create(self, *roles):
        """Makes these topics and waits until everybody knows them."""
        new = [self.new_topic(role) for role in roles]
        for future in self.admin.create_topics(new, operation_timeout=BROKER_DEADLINE_S).values():
            future.result(BROKER_DEADLINE_S)
        self.wait_for_all()

    def new_topic(self, role):
        # As the service makes them itself: compacted topics have one partition, and with that one order.
        if role in ("functions", "artifacts", "forecast-snapshots", "function-status"):
            settings = {"num_partitions": 1, "config": {"cleanup.policy": "compact"}}
        else:
            settings = {"num_partitions": PARTITIONS}
        # As many as the brokers give.
        settings["replication_factor"] = -1
        return NewTopic(self.names[role], **(settings | self.changes.get(role, {})))

    def __getitem__(self, role):
        return self.names[role]

    def wait_for_all(self):
        """Waits until the broker tells everybody of every topic: it does so a moment after it made them."""
        until = time.monotonic() + BROKER_DEADLINE_S
        while missing := set(self.names.values()) - set(self.existing()):
            if time.monotonic() > until:
                raise Missing(f"topics {sorted(missing)} are not there after {BROKER_DEADLINE_S} s")
            time.sleep(0.05)

    def existing(self):
        known = self.admin.list_topics(timeout=BROKER_DEADLINE_S).topics
        return {name: known[name] for name in self.names.values() if name in known and known[name].partitions}

    def length(self, role):
        """How many messages were ever written to a topic that is not compacted. The producer writes no markers."""
        return sum(self.lengths(role).values())

    def lengths(self, role):
        """The same by partition."""
        partitions = self.existing()[self.names[role]].partitions
        ask = {confluent_kafka.TopicPartition(self.names[role], number): OffsetSpec.latest() for number in partitions}
        futures = self.admin.list_offsets(ask, request_timeout=BROKER_DEADLINE_S)
        return {asked.partition: future.result().offset for asked, future in futures.items()}

    def grow(self, role, partitions):
        """Gives a topic more partitions."""
        new = NewPartitions(self.names[role], partitions)
        for future in self.admin.create_partitions([new]).values():
            future.result(BROKER_DEADLINE_S)

    def delete(self, *roles):
        """Deletes these topics, or all."""
        existing = [name for name in self.existing() if not roles or name in [self.names[role] for role in roles]]
        if existing:
            for future in self.admin.delete_topics(existing).values():
                future.result(BROKER_DEADLINE_S)


def make_group_topic(bootstrap):
    """Has the brokers make the topic that their groups' offsets are in: they do so when they are first asked for one."""
    group = confluent_kafka.Consumer({"bootstrap.servers": bootstrap, "group.id": "e2e-none", **QUIET})
    until = time.monotonic() + BROKER_DEADLINE_S
    while True:
        try:
            group.committed([confluent_kafka.TopicPartition("e2e-none", 0)], timeout=BROKER_DEADLINE_S)
            break
        except confluent_kafka.KafkaException as fault:
            # Its coordinator may not have heard of it yet.
            if not fault.args[0].retriable() and fault.args[0].code() != confluent_kafka.KafkaError.NOT_COORDINATOR:
                raise
            if time.monotonic() > until:
                raise
            time.sleep(0.1)
    group.close()


class Sender:
    """Sends messages; each is acknowledged by the broker or the test fails."""

    def __init__(self, bootstrap):
        self.faults = []
        self.producer = confluent_kafka.Producer(
            {
                "bootstrap.servers": bootstrap,
                "enable.idempotence": True,
                "linger.ms": 5,
                "queue.buffering.max.messages": 500_000,
                # A restarting broker may take this long.
                "message.timeout.ms": 120_000,
                # A leader that a client hears of before it knows the broker is looked up again only with all metadata, which
                # is every five minutes.
                "topic.metadata.refresh.interval.ms": 5_000,
                **QUIET,
            }
        )

    def report(self, fault, message, delivered=None):
        if fault:
            self.faults.append(fault)
        elif delivered:
            delivered(message)

    def send(self, topic, value, key=None, headers=None, partition=-1, delivered=None):
        report = self.report if delivered is None else lambda fault, message: self.report(fault, message, delivered)
        while True:
            try:
                self.producer.produce(topic, value, key, headers=headers, partition=partition, on_delivery=report)
                break
            except BufferError:
                self.producer.poll(0.1)
        self.producer.poll(0)

    def send_and_locate(self, topic, value, key=None, headers=None, partition=-1):
        """Sends one message and says where it lies, as (partition, offset)."""
        where = []

        def delivered(message):
            where.append((message.partition(), message.offset()))

        self.send(topic, value, key, headers, partition, delivered)
        self.flush()
        return where[0]

    def flush(self, deadline_s=BROKER_DEADLINE_S):
        left = self.producer.flush(deadline_s)
        if left or self.faults:
            raise Missing(f"{left} messages are not acknowledged after {deadline_s} s; faults: {self.faults[:3]}")


class Reader:
    """Reads every partition of a topic from its beginning, on a thread of its own, and keeps or counts what comes."""

    def __init__(self, bootstrap, topic, check_others=lambda: None):
        self.topic = topic
        self.check_others = check_others
        self.changed = threading.Condition()
        self.fault = None
        self.count = 0
        self.ended = threading.Event()
        self.consumer = confluent_kafka.Consumer(
            {
                "bootstrap.servers": bootstrap,
                # Assigned by hand: the name is never joined.
                "group.id": "e2e-reader",
                "enable.auto.commit": False,
                "isolation.level": "read_committed",
                **QUIET,
            }
        )
        partitions = self.consumer.list_topics(topic, timeout=BROKER_DEADLINE_S).topics[topic].partitions
        beginning = confluent_kafka.OFFSET_BEGINNING
        self.consumer.assign([confluent_kafka.TopicPartition(topic, number, beginning) for number in partitions])
        self.thread = threading.Thread(target=self.run, name=topic, daemon=True)
        self.thread.start()

    def run(self):
        try:
            while not self.ended.is_set():
                messages = self.consumer.consume(1_000, timeout=0.1)
                if not messages:
                    continue
                with self.changed:
                    for message in messages:
                        self.message(message)
                    self.changed.notify_all()
        except Exception as fault:  # Told to whoever waits: a thread's fault would be lost.
            with self.changed:
                self.fault = fault
                self.changed.notify_all()
        finally:
            self.consumer.close()

    def message(self, message):
        if message.error():
            # librdkafka connects again by itself; everything else ends the test.
            if message.error().retriable() or message.error().code() in TRANSIENT:
                return
            raise confluent_kafka.KafkaException(message.error())
        self.count += 1
        self.take(
            message.topic(),
            message.partition(),
            message.offset(),
            message.key(),
            message.value(),
            message.headers() or [],
        )

    def wait(self, holds, deadline_s, missing):
        """Waits until `holds()`; past the deadline fails with what `missing()` says."""
        until = time.monotonic() + deadline_s
        with self.changed:
            while True:
                if self.fault:
                    raise self.fault
                if holds():
                    return
                left = until - time.monotonic()
                if left <= 0:
                    raise Missing(f"after {deadline_s} s: {missing()}")
                # Nothing comes any more from a service that has ended by itself.
                self.check_others()
                self.changed.wait(min(left, 1))

    def close(self):
        self.ended.set()
        self.thread.join()


TRANSIENT = {
    confluent_kafka.KafkaError._ALL_BROKERS_DOWN,
    confluent_kafka.KafkaError._TRANSPORT,
    confluent_kafka.KafkaError._RESOLVE,
}


class DeadLetters(Reader):
    """Keeps every dead letter by where the message stood that it was."""

    def __init__(self, bootstrap, topic):
        self.letters = []
        super().__init__(bootstrap, topic)

    def take(self, *fields):
        self.letters.append(Received(*fields))

    def wait_for(self, count, deadline_s):
        self.wait(
            lambda: len(self.letters) >= count,
            deadline_s,
            lambda: f"{len(self.letters)} dead letters, expected {count}",
        )
        return list(self.letters)


class Results(Reader):
    """Counts results by the call's id, and keeps them where `keep` says so."""

    def __init__(self, bootstrap, topic, keep=True, schema_ids=(), **options):
        self.keep = keep
        self.schema_ids = schema_ids
        self.seen = collections.Counter()
        self.statuses = collections.Counter()
        self.kept = collections.defaultdict(list)
        self.last_completed_at = 0
        super().__init__(bootstrap, topic, **options)

    def take(self, topic, partition, offset, key, value, headers):
        event = events.read_result(value, self.schema_ids)
        name = event["invocation_id"]
        self.seen[name] += 1
        self.statuses[event["status"]] += 1
        self.last_completed_at = max(self.last_completed_at, event["completed_at"])
        if self.keep:
            self.kept[name].append(Result(topic, partition, offset, key, value, headers, event))

    def wait_count(self, count, deadline_s):
        """Waits until that many different calls have a result."""
        self.wait(
            lambda: len(self.seen) >= count, deadline_s, lambda: f"results of {len(self.seen)} calls, not {count}"
        )

    def wait_all(self, ids, deadline_s):
        """Waits until every call has a result."""
        missing = set(ids)

        def holds():
            if len(self.seen) < len(ids):
                return False
            missing.difference_update(self.seen)
            return not missing

        def tell():
            missing.difference_update(self.seen)
            return f"{len(missing)} of {len(ids)} calls have no result, such as {sorted(missing)[:3]}"

        self.wait(holds, deadline_s, tell)

    def one(self, name, deadline_s=60):
        """The only result of one call so far."""
        self.wait(
            lambda: name in self.seen, deadline_s, lambda: f"no result of call {name}; {len(self.seen)} others came"
        )
        assert self.seen[name] == 1, f"{self.seen[name]} results of call {name}"
        return self.kept[name][0]

    def duplicates(self):
        """Results beyond the first of each call."""
        return self.count - len(self.seen)


class Outcomes(Reader):
    """Keeps the outcomes of pre-triggers by the pre-trigger's id."""

    def __init__(self, bootstrap, topic):
        self.kept = collections.defaultdict(list)
        super().__init__(bootstrap, topic)

    def take(self, topic, partition, offset, key, value, headers):
        event = events.read_outcome(value)
        assert key == event["function"].encode(), (key, event)
        self.kept[event["pre_trigger_id"]].append(event)

    def one(self, name, deadline_s=60):
        """The only outcome of one pre-trigger so far."""
        self.wait(lambda: name in self.kept, deadline_s, lambda: f"no outcome of pre-trigger {name}; {len(self.kept)} others came")
        assert len(self.kept[name]) == 1, f"{len(self.kept[name])} outcomes of pre-trigger {name}"
        return self.kept[name][0]
