"""What becomes of nodes when brokers of a cluster of three fail, move what they lead, or refuse; both modes of delivery at once.

    scripts/kafka run --brokers 3 -- python tests/chaos/outages.py --forewarm BINARY [--short] [--steps NAME,…] [--swap]

Two groups are beside each other, one at least once and one exactly once, one with each group protocol; `--swap` gives each the
other's protocol. Kafka coordinates both groups by one broker, and all transactions by one. Each step is a fault, until the
brokers are whole again and both groups serve. In the middle of many of them a node is asked to end, and is started again. The
exit status is 0 only if nothing was lost and every node came back in time; see `Recovery.judge`.
"""

import argparse
import contextlib
import dataclasses
import itertools
import os
import pathlib
import random
import sys
import threading
import time
import uuid

HERE = pathlib.Path(__file__).resolve().parent
sys.path[:0] = [str(HERE.parent / "e2e"), str(HERE), str(HERE.parents[1] / "scripts")]

import confluent_kafka  # noqa: E402

import faults_of_brokers as faults  # noqa: E402
import fleet  # noqa: E402
from cluster import Cluster, coordinated_by  # noqa: E402
from recovery import Recovery, carry_out  # noqa: E402
from streams import BROKER_DEADLINE_S, QUIET, make_group_topic  # noqa: E402


@dataclasses.dataclass(frozen=True)
class Step:
    """A fault by name. `lasts_s` is how long it is held; `term` whether a node of each group is asked to end in it."""

    name: str
    fault: object
    lasts_s: float = 20
    term: bool = False
    short: bool = False


STEPS = [
    Step("rolling", faults.rolling, 0, term=True, short=True),
    Step("coordinators-killed", faults.coordinators_killed, short=True),
    Step("group-killed", faults.group_killed, term=True),
    Step("transactions-frozen", faults.transactions_frozen, short=True),
    Step("group-frozen", faults.group_frozen, term=True),
    Step("transactions-killed", faults.transactions_killed, term=True),
    Step("leader-killed", faults.leader_killed, term=True, short=True),
    Step("leader-frozen", faults.leader_frozen),
    Step("results-refused", faults.results_refused, term=True, short=True),
    Step("two-killed", faults.two_killed, term=True),
    Step("reassigned", faults.reassigned, 0),
    Step("elections", faults.elections, 0),
]
# From the beginning of a fault to the SIGTERM in it.
TERM_AFTER_S = 5
STRIKES = ("kill", "term", "kill", "hang")


class Run(Recovery):
    """Both groups on one cluster, and what is done to it."""

    NAME = "outages"

    def __init__(self, arguments, directory):
        self.random = random.Random(arguments.seed)
        cluster = Cluster(arguments.kafka)
        super().__init__(arguments, cluster)
        self.make_own_topics()
        topics = self.cluster.view().topics
        partitions = len(topics["__consumer_offsets"])
        group, transactions = self.random.randrange(partitions), self.random.randrange(partitions)
        protocols = ("consumer", "classic") if arguments.swap else ("classic", "consumer")
        for delivery, protocol in zip(("at-least-once", "exactly-once"), protocols, strict=True):
            prefix = f"outages-{uuid.uuid4().hex[:6]}-{protocol}"
            names = fleet.names(prefix, arguments.nodes, group, transactions, partitions)
            self.fleets.append(fleet.Fleet(arguments, directory, delivery, protocol, names, arguments.rate))

    def make_own_topics(self):
        """The brokers make the topics of groups and of transactions when they are first asked for."""
        make_group_topic(self.cluster.bootstrap)
        settings = {"bootstrap.servers": self.cluster.bootstrap, "transactional.id": "outages-none", **QUIET}
        confluent_kafka.Producer(settings).init_transactions(BROKER_DEADLINE_S)
        partitions = [len(self.cluster.view().topics[name]) for name in ("__consumer_offsets", "__transaction_state")]
        assert partitions[0] == partitions[1], f"names are chosen for as many partitions of both: {partitions}"

    def group_coordinator(self):
        return self.cluster.coordinator("__consumer_offsets", self.fleets[0].group)

    def transactions_coordinator(self):
        return self.cluster.coordinator("__transaction_state", self.fleets[1].transactional_ids()[0])

    def transactions_partition(self):
        """Where the brokers keep what they know of the transactions: topic and partition."""
        partitions = self.cluster.view().topics["__transaction_state"]
        return "__transaction_state", coordinated_by(self.fleets[1].transactional_ids()[0], len(partitions))

    def step(self, step, number):
        self.cluster.wait_whole(in_sync=True)
        time.sleep(self.random.uniform(1, 3))
        begin = time.monotonic()
        self.faults.append((time.time() * 1_000, step.name))
        terms = []
        with contextlib.ExitStack() as mended:
            told = mended.enter_context(step.fault(self))
            if step.term:
                terms = [threading.Thread(target=self.terminate, args=(each, number)) for each in self.fleets]
                for thread in terms:
                    thread.start()
            time.sleep(max(0, begin + step.lasts_s - time.monotonic()))
        whole_at = self.cluster.wait_whole()
        for thread in terms:
            thread.join()
        self.recover(step.name, told, begin, whole_at)

    def terminate(self, group, number):
        """Asks one node to end, and starts it again, while the fault lasts."""
        node = group.nodes[number % len(group.nodes)]
        time.sleep(TERM_AFTER_S)
        if ending := node.terminate():
            self.terms.append((group, ending))
        node.start_again()

    def strikes(self, lasts_s):
        """Kills, ends and hangs nodes of both groups in turn, as the seed says, while the brokers are whole."""
        self.cluster.wait_whole(in_sync=True)
        begin, struck = time.monotonic(), []
        self.faults.append((time.time() * 1_000, "strikes"))

        def strike(group, chance):
            for kind in itertools.cycle(STRIKES):
                if time.monotonic() > begin + lasts_s:
                    return
                struck.append(kind)
                self.strike(group, chance.choice(group.nodes), kind, chance.uniform(0.2, 2))
                time.sleep(chance.uniform(1.5, 3.5))

        chances = [random.Random(self.random.random()) for _ in self.fleets]
        threads = [threading.Thread(target=strike, args=pair) for pair in zip(self.fleets, chances, strict=True)]
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join()
        told = ", ".join(f"{struck.count(kind)} {kind}" for kind in sorted(set(struck)))
        self.recover("strikes", f"to nodes: {told}", begin, time.monotonic())

    def strike(self, group, node, kind, down_s):
        if kind == "kill":
            node.kill(down_s)
        elif kind == "hang":
            node.hang(fleet.SESSION_S + 3)
        else:
            if ending := node.terminate():
                self.terms.append((group, ending))
            node.start_again()

    def go(self):
        arguments = self.arguments
        self.begin()
        steps = [step for step in STEPS if step.name in arguments.steps] if arguments.steps else STEPS
        if arguments.short and not arguments.steps:
            steps = [step for step in STEPS if step.short]
        for number, step in enumerate(steps):
            self.step(step, number)
        if arguments.strikes:
            self.strikes(arguments.strikes)
        return self.end()


def parse():
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--forewarm", type=pathlib.Path, required=True, metavar="BINARY")
    parser.add_argument("--kafka", default=os.environ.get("FOREWARM_TEST_KAFKA_DIR"), metavar="DIR", help="the cluster's directory")
    parser.add_argument("--short", action="store_true", help="the most telling faults alone")
    parser.add_argument("--steps", default="", help=f"only these, separated by commas: {', '.join(step.name for step in STEPS)}")
    text = "for so long nodes are struck at the end (60; short: 20; with --steps: 0)"
    parser.add_argument("--strikes", type=float, default=None, metavar="SECONDS", help=text)
    parser.add_argument("--swap", action="store_true", help="at least once with the protocol consumer, exactly once with classic")
    parser.add_argument("--nodes", type=int, default=2, help="of each group")
    parser.add_argument("--rate", type=float, default=40, help="calls a second, to each group")
    parser.add_argument("--seed", type=int, default=1)
    Recovery.add_arguments(parser)
    arguments = parser.parse_args()
    if not arguments.kafka or not list(pathlib.Path(arguments.kafka).glob("broker-*")):
        parser.error("no cluster: give --kafka, or use scripts/kafka run --brokers 3")
    arguments.steps = set(filter(None, arguments.steps.split(",")))
    if unknown := arguments.steps - {step.name for step in STEPS}:
        parser.error(f"no such step: {', '.join(sorted(unknown))}")
    if arguments.strikes is None:
        arguments.strikes = 0 if arguments.steps else 20 if arguments.short else 60
    arguments.bootstrap = Cluster(arguments.kafka).bootstrap
    arguments.forewarm = arguments.forewarm.resolve()
    return arguments


if __name__ == "__main__":
    sys.exit(carry_out(Run, "outages", parse()))
