"""Brokers, started and stopped by scripts/kafka while a scenario runs, and what they say of themselves.

It must not touch a broker outside the directory it was given.
"""

import json
import os
import pathlib
import signal
import subprocess
import sys
import time

SCRIPTS = pathlib.Path(__file__).resolve().parents[2] / "scripts"
sys.path.append(str(SCRIPTS))

import kafka_protocol  # noqa: E402

SCRIPT = SCRIPTS / "kafka"
DEADLINE_S = 300
# Brokers that are whole for so long have noticed what was done to them.
STEADY_S = 1.0


class Broker:
    """A broker by its directory, which may hold none yet."""

    def __init__(self, directory):
        self.directory = pathlib.Path(directory)

    def start(self, *options):
        """Starts it and waits until it answers. What it prints is for shells."""
        command = [SCRIPT, "start", "--dir", self.directory, *options]
        subprocess.run(command, check=True, timeout=DEADLINE_S, stdout=subprocess.DEVNULL)

    def stop(self, *options):
        """Stops it and waits until it is gone. No fault where none runs."""
        subprocess.run([SCRIPT, "stop", "--dir", self.directory, *options], check=True, timeout=DEADLINE_S)

    def restart(self, *options):
        """Stops it and starts it again."""
        subprocess.run([SCRIPT, "restart", "--dir", self.directory, *options], check=True, timeout=DEADLINE_S)

    def hang(self):
        """Stops its process, which goes on with `go_on`."""
        self.signal(signal.SIGSTOP)

    def go_on(self):
        self.signal(signal.SIGCONT)

    def signal(self, number):
        os.kill(int((self.directory / "pid").read_text(encoding="ascii")), number)

    @property
    def bootstrap(self):
        """Where its plain listener is."""
        return (self.directory / "bootstrap").read_text(encoding="ascii").strip()

    @property
    def secure(self):
        """What a client of its other listeners has to know (see scripts/kafka_security.py)."""
        return json.loads((self.directory / "secure.json").read_text(encoding="utf-8"))


class Cluster:
    """The brokers of a directory, by their ids: those of a cluster, or the only one."""

    def __init__(self, directory):
        directory = pathlib.Path(directory)
        found = sorted(directory.glob("broker-*"))
        self.brokers = {number: Broker(each) for number, each in enumerate(found or [directory], start=1)}

    @property
    def bootstrap(self):
        return ",".join(broker.bootstrap for broker in self.brokers.values())

    def view(self):
        """What the first broker that answers says of all of them and of the topics."""
        until = time.monotonic() + DEADLINE_S
        while True:
            for broker in self.brokers.values():
                if known := kafka_protocol.metadata(broker.bootstrap, with_topics=True):
                    return known
            assert time.monotonic() < until, f"no broker answers after {DEADLINE_S} s"
            time.sleep(0.1)

    def not_whole(self, in_sync=False):
        """Why the brokers are not whole, by what each of them says; None where all are there and each partition has a leader.
        With `in_sync`, every replica has to be in sync as well."""
        for node, broker in self.brokers.items():
            known = kafka_protocol.metadata(broker.bootstrap, with_topics=True)
            if known is None or not known.has_controller:
                return f"broker {node} does not answer"
            if missing := set(self.brokers) - set(known.brokers):
                return f"broker {node} does not know brokers {sorted(missing)}"
            for topic, partitions in known.topics.items():
                for number, partition in partitions.items():
                    if partition.leader is None:
                        return f"{topic}/{number} has no leader"
                    if in_sync and set(partition.in_sync) != set(partition.replicas):
                        return f"{topic}/{number} has only {list(partition.in_sync)} of {list(partition.replicas)} in sync"
        return None

    def wait_whole(self, in_sync=False, steady_s=STEADY_S):
        """Waits until the brokers are whole and stay so; since when they are, by time.monotonic()."""
        until, since = time.monotonic() + DEADLINE_S, None
        while since is None or time.monotonic() - since < steady_s:
            looked_at = time.monotonic()
            reason = self.not_whole(in_sync)
            since = None if reason else since or looked_at
            assert time.monotonic() < until, f"after {DEADLINE_S} s: {reason}"
            time.sleep(0.1)
        return since

    def coordinator(self, topic, name):
        """The broker that coordinates a group or a transactional id: the leader of its partition of this topic."""
        partitions = self.view().topics[topic]
        return partitions[coordinated_by(name, len(partitions))].leader


def coordinated_by(name, partitions):
    """The partition that Kafka picks for the name of a group or of a transactional id, by Java's hash of a string."""
    hash = 0
    for unit in memoryview(name.encode("utf-16-le")).cast("H"):
        hash = (31 * hash + unit) & 0xFFFF_FFFF
    # Java's absolute value, whose only negative is its least number, for which Kafka takes 0.
    signed = hash - (1 << 32) if hash >= 1 << 31 else hash
    return (0 if signed == -(1 << 31) else abs(signed)) % partitions
