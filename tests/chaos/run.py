"""The chaos run: three nodes of one group, a steady load, and faults all the time; then a checker that is not the service's own
counts what the topics hold.

    scripts/kafka run -- python tests/chaos/run.py --forewarm BINARY [--delivery exactly-once] [--calls 200000] [--seed 1]

Faults come from the seed: nodes are killed and started again every few seconds, some are asked to end, some hang for longer
than their session, the broker is killed once, and partitions are added once. The exit status is 0 only if the account is right.
"""

import argparse
import os
import pathlib
import random
import shutil
import signal
import sys
import tempfile
import time
import uuid

HERE = pathlib.Path(__file__).resolve().parent
sys.path[:0] = [str(HERE.parent / "e2e"), str(HERE)]

import checker  # noqa: E402
import load  # noqa: E402
from bench import ECHO, HOSTILE, definition  # noqa: E402
from cluster import Cluster  # noqa: E402
from service import Service  # noqa: E402
from streams import PARTITIONS, Topics  # noqa: E402

NODES = 3
PARTITIONS_ADDED = 2
SESSION_S = 6
CLASSIC_TIMES = ("session.timeout.ms", "heartbeat.interval.ms")
# How often a node is struck, and by what.
EVERY_S = (1.5, 3.5)
STRIKES = ["kill"] * 6 + ["term"] * 2 + ["hang"]


class Chaos:
    def __init__(self, arguments, directory):
        self.arguments = arguments
        self.random = random.Random(arguments.seed)
        self.began = time.monotonic()
        self.counts = {}
        # When each fault came, in milliseconds since the epoch, and its kind.
        self.faults = []
        self.topics = Topics(arguments.bootstrap, f"chaos-{uuid.uuid4().hex[:8]}")
        self.nodes = [self.node(directory, number) for number in range(NODES)]

    def node(self, directory, number):
        changes = {
            "delivery": self.arguments.delivery,
            "node": {"id": f"chaos-{number}"},
            # What a kill repeats is what was done since the last commit.
            "ingest": {"commit-interval": "1ms"},
        }
        # The broker's restart is to be longer than a transaction may last.
        properties = changes["kafka.properties"] = {"transaction.timeout.ms": "5000"}
        if self.arguments.group_protocol == "consumer":
            # Its times are the broker's to set.
            properties |= {"group.protocol": "consumer", **dict.fromkeys(CLASSIC_TIMES)}
        place = directory / f"node-{number}"
        prefix = self.topics.names["results"]
        arguments = (self.arguments.forewarm, place, self.arguments.bootstrap, self.topics, prefix, place / "code")
        return Service(*arguments, changes)

    def say(self, what):
        print(f"{time.monotonic() - self.began:7.1f} s  {what}", flush=True)

    def count(self, kind, what):
        self.counts[kind] = self.counts.get(kind, 0) + 1
        self.faults.append((time.time() * 1_000, kind))
        self.say(what)

    def stop(self, number):
        node = self.nodes[number]
        if (status := node.stop()) != 0:
            self.count("not clean", f"node {number} ended with status {status}:\n{node.log_tail()}")

    def start(self, node):
        if node.process is None:
            node.start()

    def strike(self):
        """Does something to one node; it works again when this returns, or a little later."""
        number = self.random.randrange(NODES)
        node, kind = self.nodes[number], self.random.choice(STRIKES)
        down_s = self.random.uniform(0.2, 2.0)
        node.check_running()
        if kind == "kill":
            self.count(kind, f"node {number}: kill -9, started again after {down_s:.1f} s")
            node.kill()
            time.sleep(down_s)
        elif kind == "term":
            self.count(kind, f"node {number}: SIGTERM, started again after {down_s:.1f} s")
            self.stop(number)
            time.sleep(down_s)
        else:
            self.count(kind, f"node {number}: hangs for {SESSION_S + 3} s, and goes on as if nothing had been")
            node.process.send_signal(signal.SIGSTOP)
            time.sleep(SESSION_S + 3)
            node.process.send_signal(signal.SIGCONT)
        self.start(node)

    def restart_broker(self):
        if directory := os.environ.get("FOREWARM_TEST_KAFKA_DIR"):
            brokers = Cluster(directory).brokers
            node = self.random.choice(list(brokers))
            self.count("broker", f"broker {node}: kill -9, started again")
            brokers[node].restart("--kill")

    def add_partitions(self):
        before = len(self.topics.existing()[self.topics["invocations"]].partitions)
        self.count("partitions", f"partitions of invocations: {before} to {before + PARTITIONS_ADDED}")
        self.topics.grow("invocations", before + PARTITIONS_ADDED)
        self.calls.grow(before + PARTITIONS_ADDED)

    def run(self):
        arguments = self.arguments
        topic, bootstrap = self.topics["invocations"], arguments.bootstrap
        self.calls = calls = load.Load(bootstrap, topic, PARTITIONS, arguments.rate, arguments.seed, arguments.calls)
        retry = {"attempts_max": 3, "backoff_ms": 10, "backoff_max_ms": 40}
        calls.define(self.topics["functions"], definition("unordered", ECHO, warm={"floor": 2, "ceiling": 16}))
        keyed = definition("keyed", HOSTILE, ordering="key", retry=retry, warm={"floor": 2, "ceiling": 16})
        calls.define(self.topics["functions"], keyed)
        for node in self.nodes:
            node.start()
        calls.start()
        once = [(0.4, self.restart_broker), (0.6, self.add_partitions)]
        while calls.is_alive():
            time.sleep(self.random.uniform(*EVERY_S))
            if once and calls.progress() >= once[0][0]:
                once.pop(0)[1]()
            elif calls.is_alive():
                self.strike()
        calls.finish()
        self.say(f"{calls.sent} calls are published; no more faults")
        for node in self.nodes:
            self.start(node)
        took_s = self.wait_for_all(calls)
        self.say(f"every call was answered {took_s:.1f} s after the last fault")
        for number in range(NODES):
            self.stop(number)
        return checker.check(arguments.bootstrap, self.topics["results"], calls)

    def wait_for_all(self, calls):
        """Until every call has a result that a reader of committed messages sees."""
        began = time.monotonic()
        watch = checker.Watch(self.arguments.bootstrap, self.topics["results"])
        try:
            while not calls.taken <= watch.ids:
                for node in self.nodes:
                    node.check_running()
                if time.monotonic() - self.began > self.arguments.deadline:
                    self.say(f"{len(calls.taken - watch.ids)} calls have no result at the deadline")
                    break
                watch.read(1)
        finally:
            watch.close()
        return time.monotonic() - began

    def close(self):
        for node in self.nodes:
            # A process that hangs takes no notice of anything but this.
            node.kill()
        self.topics.delete()


def parse():
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--forewarm", type=pathlib.Path, required=True, metavar="BINARY")
    parser.add_argument("--bootstrap", default=os.environ.get("FOREWARM_TEST_KAFKA"), metavar="HOST:PORT")
    parser.add_argument("--delivery", choices=["at-least-once", "exactly-once"], default="at-least-once")
    parser.add_argument("--group-protocol", choices=["classic", "consumer"], default="consumer")
    parser.add_argument("--calls", type=int, default=200_000)
    parser.add_argument("--rate", type=int, default=2_000, help="calls a second")
    parser.add_argument("--seed", type=int, default=1)
    parser.add_argument("--duplicates-max", type=float, default=0.001, help="of all calls, where delivery is at least once")
    parser.add_argument("--deadline", type=int, default=900, metavar="SECONDS", help="for all of it")
    arguments = parser.parse_args()
    if not arguments.bootstrap:
        parser.error("no broker: give --bootstrap or set FOREWARM_TEST_KAFKA, as scripts/kafka run does")
    arguments.forewarm = arguments.forewarm.resolve()
    return arguments


def report(chaos, account):
    arguments = chaos.arguments
    took_s = time.monotonic() - chaos.began
    print(f"delivery {arguments.delivery}, group protocol {arguments.group_protocol}, seed {arguments.seed}, {account.calls} calls in {took_s:.0f} s")
    print("faults: " + ", ".join(f"{count} {kind}" for kind, count in sorted(chaos.counts.items())))
    for line in account.tell(chaos.faults):
        print(line)
    faults = account.faults(0 if arguments.delivery == "exactly-once" else arguments.duplicates_max)
    if chaos.counts.get("not clean"):
        faults.append("not clean")
    print(f"chaos: FAILED ({', '.join(faults)})" if faults else "chaos: passed", flush=True)
    return 1 if faults else 0


def main():
    arguments = parse()
    signal.signal(signal.SIGTERM, lambda *_: sys.exit(143))
    directory = pathlib.Path(tempfile.mkdtemp(prefix="forewarm-chaos."))
    chaos = Chaos(arguments, directory)
    try:
        status = report(chaos, chaos.run())
    except BaseException:
        for node in chaos.nodes:
            print(f"--- the end of {node.log}:\n{node.log_tail()}", file=sys.stderr)
        raise
    finally:
        chaos.close()
    shutil.rmtree(directory, ignore_errors=True)
    return status


if __name__ == "__main__":
    sys.exit(main())
