"""The innocent: two functions that do nobody harm, called steadily, and what became of their calls.

It must not know what the neighbour does.
"""

import threading
import time

import events
from bench import ECHO, definition
from streams import PARTITIONS, Results

RATE = 20
# How long the calls of one measurement may take, from the last of them on.
LAST_ANSWER_S = 60


class Timed(Results):
    """Results, and when each was seen first."""

    def __init__(self, *arguments, **options):
        self.at = {}
        super().__init__(*arguments, **options)

    def take(self, *fields):
        event = events.read_result(fields[4], self.schema_ids)
        self.at.setdefault(event["invocation_id"], time.monotonic())
        super().take(*fields)


class Innocent:
    """Calls of one warm function in every partition, and the first calls of functions that are new."""

    def __init__(self, bench):
        self.bench = bench
        self.results = Timed(bench.bootstrap, bench.topics["results"])
        bench.closing.callback(self.results.close)
        self.newcomers = 0
        bench.define(definition("innocent", ECHO, warm={"floor": 2, "ceiling": 8}))

    def settle(self):
        """Until its first calls are answered."""
        self.results.wait_all([self.bench.call("innocent", b"x", partition=number) for number in range(PARTITIONS)], 60)
        self.newcomer()

    def newcomer(self, patience_s=LAST_ANSWER_S):
        """How long a function that was just defined takes to its first answer, in seconds; None where none comes."""
        name = f"newcomer-{self.newcomers}"
        self.newcomers += 1
        began = time.monotonic()
        self.bench.define(definition(name, ECHO))
        id_ = self.bench.call(name, b"x")
        self.bench.sender.flush()
        return self.took_s(id_, began, patience_s)

    def took_s(self, id_, began, patience_s):
        until = time.monotonic() + patience_s
        while id_ not in self.results.at:
            if time.monotonic() > until:
                return None
            time.sleep(0.01)
        return self.results.at[id_] - began

    def measure(self, seconds, meanwhile=lambda: None, without=()):
        """Calls for so long, and says the latencies in seconds, in order; a call that has no answer counts as `inf`. In
        partitions `without` nothing is called. `meanwhile` runs beside it, on a thread of its own."""
        beside = threading.Thread(target=meanwhile, daemon=True)
        beside.start()
        sent = {}
        partitions = [number for number in range(PARTITIONS) if number not in without]
        began = time.monotonic()
        for number in range(int(seconds * RATE)):
            time.sleep(max(0, began + number / RATE - time.monotonic()))
            at = time.monotonic()
            sent[self.bench.call("innocent", b"x", partition=partitions[number % len(partitions)])] = at
        self.bench.sender.flush()
        until = time.monotonic() + LAST_ANSWER_S
        while time.monotonic() < until and not sent.keys() <= self.results.at.keys():
            time.sleep(0.02)
        beside.join()
        at = dict(self.results.at)
        return sorted(at[id_] - sent_at if id_ in at else float("inf") for id_, sent_at in sent.items())


def quantile(latencies, part):
    return latencies[min(len(latencies) - 1, int(len(latencies) * part))]
