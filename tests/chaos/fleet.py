"""The nodes of one group under a steady load, and their keeper: it starts again what ended by itself, and notes what it saw.

It must not do anything to a broker.
"""

import dataclasses
import signal
import statistics
import threading
import time

import checker
import load
from bench import ECHO, HOSTILE, definition
from cluster import coordinated_by
from service import Service
from streams import PARTITIONS, Topics

LOOK_EVERY_S = 0.2
# A node that ended by itself is started again after this time.
AGAIN_AFTER_S = 1
# What a node may take to end when it is asked to: shutdown.deadline (25 s), and 5 s more. After the longer time it is killed.
STOP_S = 30
KILL_AFTER_S = 40
CLASSIC_TIMES = ("session.timeout.ms", "heartbeat.interval.ms")
SESSION_S = 6


@dataclasses.dataclass
class Ending:
    """How a node ended: when, by which status (None: it had to be killed), how long after being asked to; its last words."""

    node: str
    at: float
    status: int | None
    took_s: float | None
    said: str

    def fault(self):
        """What is wrong with it, where it was asked to end."""
        if self.status is None or self.took_s > STOP_S:
            return f"{self.node} was not ended {min(self.took_s, STOP_S):.0f} s after SIGTERM"
        if self.status != 0 and not self.said:
            return f"{self.node} ended with status {self.status} after SIGTERM, and its log does not say why"
        return None


class Node(threading.Thread):
    """One node with its keeper. `hand` is held by whoever does something to it, meanwhile the keeper only looks."""

    def __init__(self, name, service):
        super().__init__(name=name, daemon=True)
        self.service = service
        self.hand = threading.Lock()
        self.ended = threading.Event()
        # When it was looked at, and why it was not ready; None where it was.
        self.looks = []
        # How long its log was then, in bytes.
        self.sizes = []
        # When its process was last started; and the endings that nobody asked for.
        self.started_at = 0.0
        self.endings = []
        # Processor time of all its processes: when, and how much up to then.
        self.cpu = [(time.monotonic(), 0.0)]
        self.last_cpu = (None, 0.0)

    def run(self):
        while not self.ended.wait(LOOK_EVERY_S):
            looked_at = time.monotonic()
            self.sizes.append((looked_at, self.service.log_bytes()))
            self.looks.append((looked_at, self.look()))
            self.count_cpu()
            if self.hand.acquire(blocking=False):
                try:
                    self.keep()
                finally:
                    self.hand.release()

    def look(self):
        try:
            return self.service.not_ready(timeout_s=2)
        except (OSError, ValueError) as fault:  # It is down, or ends in the middle of its answer.
            return f"no answer: {fault}"

    def count_cpu(self):
        process = self.service.process
        try:
            cpu_s = self.service.cpu_s()
        except (OSError, AttributeError, IndexError):
            return
        before_s = self.last_cpu[1] if self.last_cpu[0] is process else 0.0
        self.last_cpu = (process, cpu_s)
        self.cpu.append((time.monotonic(), self.cpu[-1][1] + max(0.0, cpu_s - before_s)))

    def keep(self):
        """Starts it again where it ended by itself."""
        process = self.service.process
        status = process and process.poll()
        if status is None:
            return
        self.endings.append(Ending(self.name, time.monotonic(), status, None, self.service.log_tail(3)))
        self.service.process = None
        self.ended.wait(AGAIN_AFTER_S)
        if not self.ended.is_set():
            self.begin()

    def begin(self):
        self.service.start()
        self.started_at = time.monotonic()

    def start_again(self):
        with self.hand:
            if self.service.process is None:
                self.begin()

    def kill(self, down_s=0.0):
        with self.hand:
            self.service.kill()
            time.sleep(down_s)
            self.begin()

    def hang(self, lasts_s):
        with self.hand:
            process = self.service.process
            process.send_signal(signal.SIGSTOP)
            time.sleep(lasts_s)
            process.send_signal(signal.SIGCONT)

    def terminate(self):
        """Asks it to end as an orchestrator does, which kills it in the end; does not start it again."""
        with self.hand:
            process, since = self.service.process, self.service.log_bytes()
            if process is None or process.poll() is not None:
                return None  # It has just ended by itself.
            began = time.monotonic()
            process.terminate()
            try:
                status = self.service.wait(KILL_AFTER_S)
            except AssertionError:
                status = None
                self.service.kill()
            took_s = time.monotonic() - began
        lines = self.service.log_lines(since=since)
        reasons = [line for line in lines if " WARN forewarm" in line or " ERROR forewarm" in line]
        return Ending(self.name, began, status, took_s, reasons[-1] if reasons else "")

    def lines(self, since):
        """The lines of its log since it was looked at last before that time."""
        return self.service.log_lines(since=next((size for at, size in reversed(self.sizes) if at <= since), 0))

    def ready_since(self, since):
        """Since when it is ready without a break, at or after that time; None where it is not ready now."""
        if not self.looks or self.looks[-1][1] is not None or self.looks[-1][0] < since:
            return None
        for at, reason in reversed(self.looks):
            if at < since:
                return since
            if reason is not None:
                return at + LOOK_EVERY_S
        return since

    def cpu_share(self, begin, end):
        """Its share of a core on average, and in the worst two seconds."""
        points = [(at, cpu_s) for at, cpu_s in self.cpu if begin <= at <= end]
        if len(points) < 2:
            return 0.0, 0.0
        worst, first = 0.0, 0
        for at, cpu_s in points:
            while at - points[first][0] > 2:
                first += 1
            if at - points[first][0] > 1:
                worst = max(worst, (cpu_s - points[first][1]) / (at - points[first][0]))
        return (points[-1][1] - points[0][1]) / (points[-1][0] - points[0][0]), worst


class Fleet:
    """One group: its topics, nodes, load, and the reader of its results. `names` are the group's name and the nodes'."""

    def __init__(self, arguments, directory, delivery, protocol, names, rate):
        self.delivery, self.protocol = delivery, protocol
        self.name = f"{'ALO' if delivery == 'at-least-once' else 'EO'} {protocol}"
        self.group, nodes = names
        self.bootstrap = arguments.bootstrap
        self.topics = Topics(self.bootstrap, self.group)
        self.nodes = [Node(name, self.service(arguments, directory, name)) for name in nodes]
        self.calls = load.Load(self.bootstrap, self.topics["invocations"], PARTITIONS, rate, arguments.seed)
        self.answers = None
        self.faults = []

    def service(self, arguments, directory, name):
        properties = {}
        if self.protocol == "consumer":
            # Its times are the brokers' to set.
            properties = {"group.protocol": "consumer", **dict.fromkeys(CLASSIC_TIMES)}
        changes = {"delivery": self.delivery, "node": {"id": name}, "kafka.properties": properties}
        place = directory / self.group / name
        return Service(arguments.forewarm, place, self.bootstrap, self.topics, self.group, directory / "code", changes)

    def start(self):
        retry = {"attempts_max": 3, "backoff_ms": 10, "backoff_max_ms": 40}
        warm = {"floor": 1, "ceiling": 8}
        self.calls.define(self.topics["functions"], definition("unordered", ECHO, warm=warm))
        keyed = definition("keyed", HOSTILE, ordering="key", retry=retry, warm=warm)
        self.calls.define(self.topics["functions"], keyed)
        self.answers = checker.Answers(self.bootstrap, self.topics["results"], self.calls)
        for node in self.nodes:
            node.begin()
            node.start()
        self.answers.start()
        self.calls.start()

    def transactional_ids(self):
        return [f"{self.group}-{node.name}" for node in self.nodes] if self.delivery == "exactly-once" else []

    def since(self, whole_at):
        """From when on it has to serve: from when the brokers are whole, or its last node was started."""
        return max([whole_at, *(node.started_at for node in self.nodes)])

    def serves(self, whole_at):
        """When it served again: every node ready, and a new call of each partition answered. None where it does not yet."""
        since = self.since(whole_at)
        ready = [node.ready_since(since) for node in self.nodes]
        answered = [self.answers.answered_at(partition, since) for partition in range(PARTITIONS)]
        return None if None in (*ready, *answered) else max(*ready, *answered)

    def does_not_serve(self, whole_at):
        """Which nodes, or else partitions, do not serve yet."""
        since = self.since(whole_at)
        nodes = [node for node in self.nodes if node.ready_since(since) is None]
        partitions = [number for number in range(PARTITIONS) if self.answers.answered_at(number, since) is None]
        return nodes, partitions

    def standstill(self, begin, end):
        """The longest standstill of the results and of the brokers' acknowledgements: each the median and the worst partition."""
        answers = [[seen for seen, _ in list(self.answers.answers[number])] for number in range(PARTITIONS)]
        taken = [list(self.calls.taken_at[number]) for number in range(PARTITIONS)]
        for times in (answers, taken):
            each = [checker.standstill_s(one, begin, end) for one in times]
            yield statistics.median(each), max(each)

    def stop(self):
        """Ends every node in order; how each ended."""
        endings = []
        for node in self.nodes:
            node.ended.set()
            node.join(60)
            endings.append(node.terminate())
        return [ending for ending in endings if ending]

    def close(self):
        self.calls.enough.set()
        for node in self.nodes:
            node.ended.set()
            if node.is_alive():
                node.join(60)
            node.service.kill()
        if self.answers and self.answers.is_alive():
            self.answers.close()


def names(prefix, nodes, group_partition=None, transactions_partition=None, partitions=6):
    """A group and so many nodes in it, named so that Kafka gives the group, and each of their transactional ids, the partition
    of its own topic that is asked for. So one broker coordinates all of them."""
    for number in range(10_000):
        group = f"{prefix}-{number}"
        if group_partition in (None, coordinated_by(group, partitions)):
            break
    found = []
    for number in range(10_000):
        if len(found) == nodes:
            break
        if transactions_partition in (None, coordinated_by(f"{group}-node-{number}", partitions)):
            found.append(f"node-{number}")
    return group, found
