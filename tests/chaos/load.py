"""The load of the chaos run: calls at a steady rate, half of them with an order by key, some of them failing at first.

It must not look at results.
"""

import random
import threading
import time

import events
from streams import Sender

KEYS = 200
# One keyed call in so many fails twice before it works.
FAILS_EVERY = 40


class Load(threading.Thread):
    def __init__(self, bootstrap, topic, count, rate, seed):
        super().__init__(name="load", daemon=True)
        self.topic, self.count, self.rate = topic, count, rate
        self.sender = Sender(bootstrap)
        self.random = random.Random(seed)
        self.sent = 0
        # Where each call with an order lies: its key, partition and offset; by its id.
        self.places = {}
        self.sent_at = {}
        self.fault = None

    def define(self, topic, definition):
        value, headers = events.as_json(events.FUNCTION, definition)
        self.sender.send(topic, value, definition["name"].encode(), headers)
        self.sender.flush()

    def run(self):
        try:
            began = time.monotonic()
            for number in range(self.count):
                ahead = number / self.rate - (time.monotonic() - began)
                if ahead > 0.01:
                    time.sleep(ahead)
                self.call(number)
                self.sent = number + 1
            # The broker may be away for a while.
            self.sender.flush(300)
        except Exception as fault:
            self.fault = fault

    def call(self, number):
        id = f"call-{number}"
        self.sent_at[id] = events.now_ms()
        if number % 2:
            event = events.invocation("unordered", b"x", id=id)
            value, headers = events.single_object(events.INVOCATION, event)
            return self.sender.send(self.topic, value, None, headers)
        key = b"key-%d" % self.random.randrange(KEYS)
        payload = b"third-time" if self.random.randrange(FAILS_EVERY) == 0 else b"x"
        value, headers = events.single_object(events.INVOCATION, events.invocation("keyed", payload, id=id))

        def delivered(message):
            self.places[id] = (key, message.partition(), message.offset())

        return self.sender.send(self.topic, value, key, headers, delivered=delivered)

    def progress(self):
        """How much of it is published, from 0 to 1."""
        return self.sent / self.count

    def finish(self):
        self.join(900)
        if self.fault:
            raise self.fault
        assert self.sent == self.count, f"the load published {self.sent} of {self.count} calls"
