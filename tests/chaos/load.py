"""The load of a chaos run: calls at a steady rate, half of them with an order by key, some of them failing at first.

Each call goes to a partition that is chosen here, so that it is known which partition was sent something, also while no
broker takes it. It must not look at results.
"""

import collections
import random
import threading
import time

import events
from streams import Sender

KEYS = 200
# One keyed call in so many fails twice before it works.
FAILS_EVERY = 40


class CallSender(Sender):
    """A sender whose messages may fail: it counts them."""

    def __init__(self, bootstrap):
        super().__init__(bootstrap)
        self.refused = 0

    def report(self, fault, message, delivered=None):
        if fault:
            self.refused += 1
        elif delivered:
            delivered(message)


class Load(threading.Thread):
    """So many calls, or without end until `enough` is set. Times by partition are those of time.monotonic()."""

    def __init__(self, bootstrap, topic, partitions, rate, seed, count=None):
        super().__init__(name="load", daemon=True)
        self.bootstrap, self.topic, self.count, self.rate = bootstrap, topic, count, rate
        # Of calls with a key: one key stays in one partition.
        self.key_partitions = partitions
        self.partitions = partitions
        self.sender = CallSender(bootstrap)
        self.random = random.Random(seed)
        self.enough = threading.Event()
        self.renewing = threading.Event()
        self.renewals = self.refused = 0
        self.renewed_at = 0.0
        self.sent = 0
        # By a call's id: when it was sent, in milliseconds since the epoch; to which partition, and when.
        self.sent_at = {}
        self.places_sent = {}
        # Those that the brokers took, and when, by partition.
        self.taken = set()
        self.taken_at = collections.defaultdict(list)
        # Where each call with an order lies: its key, partition and offset; by its id.
        self.places = {}
        self.fault = None

    def define(self, topic, definition):
        value, headers = events.as_json(events.FUNCTION, definition)
        sender = Sender(self.bootstrap)
        sender.send(topic, value, definition["name"].encode(), headers)
        sender.flush()

    def run(self):
        try:
            began = time.monotonic()
            number = 0
            while number != self.count and not self.enough.is_set():
                ahead = number / self.rate - (time.monotonic() - began)
                if ahead > 0.01:
                    self.sender.producer.poll(ahead)
                    continue
                if self.renewing.is_set():
                    self.renew()
                self.call(number)
                number += 1
                self.sent = number
            # The brokers may be away for a while.
            self.sender.producer.flush(300 if self.count else 60)
            self.give_up()
        except Exception as fault:
            self.fault = fault

    def renew(self):
        """Goes on with a client made anew. What the old one had not sent counts as not taken."""
        self.give_up()
        self.renewals += 1
        self.sender = CallSender(self.bootstrap)
        self.renewing.clear()

    def give_up(self):
        self.sender.producer.purge()
        self.sender.producer.flush(5)
        self.refused += self.sender.refused
        self.sender.refused = 0

    def call(self, number):
        id = f"call-{number}"
        key, payload, function, partition = None, b"x", "unordered", number // 2 % self.partitions
        if number % 2 == 0:
            index = self.random.randrange(KEYS)
            key, function, partition = b"key-%d" % index, "keyed", index % self.key_partitions
            if self.random.randrange(FAILS_EVERY) == 0:
                payload = b"third-time"
        value, headers = events.single_object(events.INVOCATION, events.invocation(function, payload, id=id))

        def delivered(message):
            self.taken.add(id)
            self.taken_at[partition].append(time.monotonic())
            # An acknowledgement names no offset where the broker had the record already: an idempotent producer's repeated batch.
            if key and message.offset() is not None:
                self.places[id] = (key, partition, message.offset())

        self.sent_at[id] = events.now_ms()
        self.places_sent[id] = (partition, time.monotonic())
        self.sender.send(self.topic, value, key, headers, partition, delivered)

    def grow(self, partitions):
        """Calls without a key go to the added partitions too."""
        # A client refuses a partition that it has not heard of.
        until = time.monotonic() + 60
        while len(self.sender.producer.list_topics(self.topic, timeout=60).topics[self.topic].partitions) < partitions:
            assert time.monotonic() < until, f"{self.topic} has not {partitions} partitions after a minute"
            time.sleep(0.1)
        self.partitions = partitions

    def progress(self):
        """How much of it is published, from 0 to 1."""
        return self.sent / self.count

    def finish(self):
        if self.count is None:
            self.enough.set()
        self.join(900)
        if self.fault:
            raise self.fault
        whole = not self.is_alive() and self.count in (None, self.sent)
        assert whole, f"the load published only {self.sent} calls"
