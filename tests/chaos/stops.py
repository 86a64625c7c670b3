"""The only broker hangs for 20 s, ten times: four nodes at once, each of a group of its own, serve again after each.

    scripts/kafka run -- python tests/chaos/stops.py --forewarm BINARY [--stops 10]

The nodes are those of both group protocols and both modes of delivery. The exit status is 0 only if nothing was lost and every
node came back in time; see `Recovery.judge`.
"""

import argparse
import itertools
import os
import pathlib
import sys
import time
import uuid

HERE = pathlib.Path(__file__).resolve().parent
sys.path[:0] = [str(HERE.parent / "e2e"), str(HERE)]

import fleet  # noqa: E402
from cluster import Cluster  # noqa: E402
from recovery import Recovery, carry_out  # noqa: E402


class Stops(Recovery):
    NAME = "stops"

    def __init__(self, arguments, directory):
        super().__init__(arguments, Cluster(arguments.kafka))
        for protocol, delivery in itertools.product(("classic", "consumer"), ("at-least-once", "exactly-once")):
            names = fleet.names(f"stops-{uuid.uuid4().hex[:6]}", 1)
            self.fleets.append(fleet.Fleet(arguments, directory, delivery, protocol, names, arguments.rate))

    def stop(self, number):
        (broker,) = self.cluster.brokers.values()
        time.sleep(self.arguments.between)
        begin = time.monotonic()
        self.faults.append((time.time() * 1_000, "stop"))
        broker.hang()
        try:
            time.sleep(self.arguments.lasts)
        finally:
            broker.go_on()
        self.recover(f"stop {number}", f"SIGSTOP of the only broker for {self.arguments.lasts:g} s", begin, self.cluster.wait_whole())

    def go(self):
        self.begin()
        for number in range(1, self.arguments.stops + 1):
            self.stop(number)
        return self.end()


def parse():
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--forewarm", type=pathlib.Path, required=True, metavar="BINARY")
    parser.add_argument("--kafka", default=os.environ.get("FOREWARM_TEST_KAFKA_DIR"), metavar="DIR", help="the broker's directory")
    parser.add_argument("--stops", type=int, default=10)
    parser.add_argument("--lasts", type=float, default=20, metavar="SECONDS", help="how long the broker hangs")
    parser.add_argument("--between", type=float, default=3, metavar="SECONDS", help="from when all serve to the next stop")
    parser.add_argument("--rate", type=float, default=15, help="calls a second, to each node")
    parser.add_argument("--seed", type=int, default=1)
    Recovery.add_arguments(parser)
    arguments = parser.parse_args()
    if not arguments.kafka:
        parser.error("no broker that may be stopped: give --kafka, or use scripts/kafka run")
    arguments.bootstrap = Cluster(arguments.kafka).bootstrap
    arguments.forewarm = arguments.forewarm.resolve()
    return arguments


if __name__ == "__main__":
    sys.exit(carry_out(Stops, "stops", parse()))
