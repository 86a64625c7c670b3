"""A cluster of the Apache Kafka for tests: a controller of its own and several brokers, each in a directory beside the others.

In D: `controller/`, `broker-1/` and so on (see kafka_broker.py), and `bootstrap`, which has the brokers' addresses. A broker
of it is stopped and started alone by its own directory. It must not know how one process is made.
"""

import concurrent.futures
import pathlib
import time

from kafka_broker import START_DEADLINE_S, Broker, Fault, Part, voters_of
from kafka_protocol import metadata

CONTROLLER = 100


class Cluster:
    """All of a directory's processes together. The number of brokers counts where the directory is new."""

    def __init__(self, directory, brokers):
        self.directory = pathlib.Path(directory).resolve()
        self.bootstrap_file = self.directory / "bootstrap"
        count = len(list(self.directory.glob("broker-*"))) or brokers
        self.controller = Broker(self.directory / "controller", part=Part(CONTROLLER, "controller", brokers=count))
        self.brokers = [self.directory / f"broker-{node}" for node in range(1, count + 1)]

    @staticmethod
    def is_in(directory):
        return (pathlib.Path(directory) / "controller").is_dir()

    def bootstrap(self):
        return self.bootstrap_file.read_text(encoding="ascii").strip()

    def start(self):
        """Starts what does not run, and waits until every broker knows that every broker is there."""
        if not self.bootstrap_file.exists() and self.directory.exists() and any(self.directory.iterdir()):
            raise Fault(f"{self.directory} holds something else, or a cluster that was never whole")
        try:
            if not self.controller.pid():
                self.controller.start()
            voters = voters_of(self.controller.directory)
            parts = [Part(node, "broker", voters, len(self.brokers)) for node in range(1, len(self.brokers) + 1)]
            brokers = [Broker(directory, part=part) for directory, part in zip(self.brokers, parts, strict=True)]
            in_parallel([broker.start for broker in brokers if not broker.pid()])
            self.wait_for_all(brokers)
        except BaseException:
            self.stop(kill=True)
            raise
        self.bootstrap_file.write_text(",".join(broker.bootstrap() for broker in brokers) + "\n", encoding="ascii")

    def wait_for_all(self, brokers):
        addresses = {broker.bootstrap() for broker in brokers}
        until = time.monotonic() + START_DEADLINE_S
        for address in addresses:
            while (known := metadata(address)) is None or set(known.brokers.values()) != addresses:
                if time.monotonic() > until:
                    raise Fault(f"{address} does not know all of {sorted(addresses)} after {START_DEADLINE_S} s: {known}")
                time.sleep(0.1)

    def stop(self, kill=False):
        """Stops all of them, the controller last: brokers ask it before they go."""
        in_parallel([lambda broker=Broker(directory): broker.stop(kill) for directory in self.brokers])
        self.controller.stop(kill)

    def environment(self):
        return {"FOREWARM_TEST_KAFKA": self.bootstrap(), "FOREWARM_TEST_KAFKA_DIR": str(self.directory)}


def in_parallel(work):
    """Does all of it at once; fails as the first that failed, after the last is over."""
    with concurrent.futures.ThreadPoolExecutor(max(1, len(work))) as pool:
        done = [pool.submit(each) for each in work]
    for each in done:
        each.result()
