#!/usr/bin/env python3
"""Processor time of one node per call, and how long its answers take, of several binaries in turns on the same brokers.

    scripts/kafka run --brokers 3 -- $(scripts/venv) tests/chaos/cpu.py --forewarm BEFORE --forewarm AFTER

Steps: RATE (calls a second), RATE-stopped (a broker is stopped for ten seconds of them, and goes on), RATE-killed (a broker is
killed before, and started after). It prints a line a step and binary. It asserts only that every call is answered: numbers
depend on the machine, so compare those of one run. Another setting of the node: `--set kafka.properties linger.ms 1`.
"""

import argparse
import collections
import os
import pathlib
import signal
import statistics
import subprocess
import sys
import tempfile
import threading
import time
import uuid

sys.path.insert(0, str(pathlib.Path(__file__).resolve().parents[1] / "e2e"))

import confluent_kafka
import events
from bench import ECHO, definition
from service import Service
from streams import QUIET, ROLES, Sender, Topics

PARTITIONS = 6
STOPPED_S = 10
ANSWERED_DEADLINE_S = 120
REPOSITORY = pathlib.Path(__file__).resolve().parents[2]


def threads(pid):
    """Seconds of processor time of a process by the name of its threads."""
    used = collections.Counter()
    for task in pathlib.Path(f"/proc/{pid}/task").iterdir():
        try:
            name = (task / "comm").read_text(encoding="utf-8").strip()
            fields = (task / "stat").read_text(encoding="utf-8").rpartition(")")[2].split()
        except FileNotFoundError:
            continue
        used[name] += (int(fields[11]) + int(fields[12])) / os.sysconf("SC_CLK_TCK")
    return used


class Answers(threading.Thread):
    """Notes when the result of each key came."""

    def __init__(self, bootstrap, topic):
        super().__init__(name="answers", daemon=True)
        settings = {"bootstrap.servers": bootstrap, "group.id": f"cpu-{uuid.uuid4()}", "auto.offset.reset": "earliest"}
        self.consumer = confluent_kafka.Consumer(settings | {"isolation.level": "read_committed", **QUIET})
        self.consumer.subscribe([topic])
        self.came_at = {}
        self.ended = False

    def run(self):
        while not self.ended:
            for message in self.consumer.consume(500, 0.1):
                if not message.error():
                    self.came_at.setdefault(message.key(), time.monotonic())
        self.consumer.close()

    def wait(self, keys):
        until = time.monotonic() + ANSWERED_DEADLINE_S
        while missing := len(keys - self.came_at.keys()):
            assert time.monotonic() < until, f"{missing} of {len(keys)} calls are not answered"
            time.sleep(0.1)


class Broker:
    """One broker of the cluster."""

    def __init__(self, directory):
        self.directory = pathlib.Path(directory)

    def signal(self, number):
        os.kill(int((self.directory / "pid").read_text(encoding="ascii")), number)

    def command(self, *words):
        command = [*words, "--dir", self.directory]
        script = os.environ.get("FOREWARM_KAFKA_SCRIPT", REPOSITORY / "scripts" / "kafka")
        subprocess.run([script, *command], check=True, stdout=subprocess.DEVNULL)


class Step:
    def __init__(self, arguments, binary, step, directory):
        rate, _, self.fault = step.partition("-")
        self.name, self.rate, self.arguments = step, int(rate), arguments
        self.name_of_run = f"cpu-{uuid.uuid4().hex[:8]}"
        settings = {"num_partitions": PARTITIONS, "replication_factor": arguments.replicas}
        compacted = settings | {"num_partitions": 1, "config": {"cleanup.policy": "compact"}}
        of = {role: compacted if role in ("functions", "artifacts", "forecast-snapshots", "function-status") else settings for role in ROLES}
        self.topics = Topics(arguments.bootstrap, self.name_of_run, changes=of)
        changes = {"delivery": arguments.delivery, "kafka.properties": {}}
        for table, key, value in arguments.set:
            changes.setdefault(table, {})[key] = value
        self.node = Service(
            binary.resolve(), directory / self.name_of_run, arguments.bootstrap, self.topics, self.name_of_run,
            directory / f"code-{binary.name}", changes,
        )
        self.sender = Sender(arguments.bootstrap)
        self.broker = Broker(pathlib.Path(os.environ.get("FOREWARM_TEST_KAFKA_DIR", ".")) / "broker-2")

    def send(self, name, count, rate):
        """Sends calls at a steady rate; when each was sent, by key."""
        value, headers = events.single_object(events.INVOCATION, events.invocation("echo", b"x" * 100))
        topic, sent_at, began = self.topics["invocations"], {}, time.monotonic()
        for number in range(count):
            ahead = number / rate - (time.monotonic() - began)
            if ahead > 0.005:
                time.sleep(ahead)
            key = b"%s-%d" % (name, number)
            sent_at[key] = time.monotonic()
            self.sender.send(topic, value, key, headers)
        return sent_at

    def run(self):
        value, headers = events.as_json(events.FUNCTION, definition("echo", ECHO))
        self.sender.send(self.topics["functions"], value, b"echo", headers)
        self.sender.flush()
        answers = Answers(self.arguments.bootstrap, self.topics["results"])
        answers.start()
        try:
            self.node.start().wait_ready(True)
            warm = self.send(b"warm", 200, 100)
            answers.wait(warm.keys())
            if self.fault == "killed":
                self.broker.command("stop", "--kill")
            if self.fault == "stopped":
                self.broker.signal(signal.SIGSTOP)
                threading.Timer(STOPPED_S, self.broker.signal, [signal.SIGCONT]).start()
            began, before = time.monotonic(), threads(self.node.process.pid)
            sent_at = self.send(b"call", int(self.rate * self.arguments.seconds), self.rate)
            took_s, used = time.monotonic() - began, threads(self.node.process.pid)
            if self.fault == "killed":
                self.broker.command("start")
            answers.wait(sent_at.keys())
            used.subtract(before)
            return self.report(used, took_s, sent_at, answers.came_at)
        finally:
            self.node.kill()
            answers.ended = True
            answers.join()
            self.topics.delete()

    def report(self, used, took_s, sent_at, came_at):
        latencies = sorted((came_at[key] - at) * 1_000 for key, at in sent_at.items())
        quantile = lambda part: latencies[min(len(latencies) - 1, int(part * len(latencies)))]
        total = sum(used.values())
        of_brokers = sum(seconds for name, seconds in used.items() if name.startswith("rdk:broker"))
        most = ", ".join(f"{name} {seconds / took_s:.2f}" for name, seconds in used.most_common(4))
        return (
            f"{total / took_s:5.2f} cores, rdk:broker* {of_brokers / took_s:5.2f}, {total / len(sent_at) * 1e6:7.0f} us a call; "
            f"answers p50 {statistics.median(latencies):7.1f} ms, p99 {quantile(0.99):8.1f} ms; {most}"
        )


def main():
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--forewarm", type=pathlib.Path, action="append", required=True, metavar="BINARY")
    parser.add_argument("--bootstrap", default=os.environ.get("FOREWARM_TEST_KAFKA"))
    parser.add_argument("--delivery", default="at-least-once")
    parser.add_argument("--replicas", type=int, default=3)
    parser.add_argument("--seconds", type=float, default=15)
    parser.add_argument("--turns", type=int, default=1)
    parser.add_argument("--set", nargs=3, action="append", default=[], metavar=("TABLE", "KEY", "VALUE"))
    parser.add_argument("steps", nargs="*", default=["30", "900", "10000", "30-stopped", "900-killed"], metavar="STEP")
    arguments = parser.parse_args()
    with tempfile.TemporaryDirectory(prefix="forewarm-cpu.") as directory:
        for step in arguments.steps:
            for _ in range(arguments.turns):
                for binary in arguments.forewarm:
                    said = Step(arguments, binary, step, pathlib.Path(directory)).run()
                    print(f"{step:>14} {binary.name:>20}: {said}", flush=True)


if __name__ == "__main__":
    main()
