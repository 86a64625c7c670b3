"""One broker, or one controller, of the Apache Kafka for tests: its jars, settings, storage and process, all in one directory.

In it: `bootstrap` (address), `pid`, `server.properties`, `broker.log` (every run appends), `data/`; of a broker with security
also `secure.json` and `tls/` (see kafka_security.py). It must not touch any process that it did not start.
"""

import contextlib
import dataclasses
import fcntl
import os
import pathlib
import random
import re
import select
import shutil
import signal
import socket
import subprocess
import sys
import tempfile
import time

from kafka_protocol import metadata
from kafka_security import LISTENERS, secure

SCRIPTS = pathlib.Path(__file__).resolve().parent
POM = SCRIPTS / "kafka.pom.xml"
DEPENDENCY_PLUGIN = "org.apache.maven.plugins:maven-dependency-plugin:3.8.1"
HEAP = ["-Xms128m", "-Xmx512m", "-XX:+UseSerialGC", "-XX:+ExitOnOutOfMemoryError"]
CLUSTER_ID = "Zm9yZXdhcm0tdGVzdHMtMQ"
START_DEADLINE_S = 120
STOP_DEADLINE_S = 30
EXIT_MISSING = 3
# Below Linux's range for outgoing connections, so that nothing takes the port while the broker restarts.
PORTS = range(20_000, 32_000)

SETTINGS = """\
process.roles={roles}
node.id={node}
controller.quorum.voters={voters}
controller.listener.names=CONTROLLER
listeners={listeners}
advertised.listeners={advertised}
log.dirs={data}
# As many replicas as there are brokers, of which one may be away.
default.replication.factor={replicas}
min.insync.replicas={in_sync_min}
offsets.topic.replication.factor={replicas}
transaction.state.log.replication.factor={replicas}
transaction.state.log.min.isr={in_sync_min}
share.coordinator.state.topic.replication.factor={replicas}
share.coordinator.state.topic.min.isr={in_sync_min}
# Few partitions for the broker's own topics: each costs files and start-up time.
offsets.topic.num.partitions={own_partitions}
transaction.state.log.num.partitions={own_partitions}
# A test that forgets to make a topic should hear of it.
auto.create.topics.enable=false
group.initial.rebalance.delay.ms=0
# A test that kills a member does not want to wait six seconds for its partitions.
group.min.session.timeout.ms=1000
# The same for groups of the newer protocol, whose times the broker sets.
group.consumer.min.session.timeout.ms=1000
group.consumer.session.timeout.ms=6000
group.consumer.min.heartbeat.interval.ms=500
group.consumer.heartbeat.interval.ms={heartbeat_ms}
num.network.threads=2
num.io.threads=4
log.cleaner.dedupe.buffer.size=16777216
"""

LOGGING = """\
status=error
appender.console.type=Console
appender.console.name=console
appender.console.layout.type=PatternLayout
appender.console.layout.pattern=%d{ISO8601} %p %c{1}: %m%n
rootLogger.level=info
rootLogger.appenderRef.console.ref=console
"""


class Fault(Exception):
    """Something that ends the command: a message for people and an exit status."""

    def __init__(self, message, status=1):
        super().__init__(message)
        self.status = status


def say(message):
    print(f"kafka: {message}", file=sys.stderr, flush=True)


def cache_directory():
    return pathlib.Path(os.environ.get("FOREWARM_CACHE") or pathlib.Path.home() / ".cache" / "forewarm")


def java():
    """The java command; it has to be 17 or newer."""
    home = os.environ.get("JAVA_HOME")
    command = shutil.which("java", path=f"{home}/bin") if home else None
    command = command or shutil.which("java")
    remedy = "install Java 17 or newer (Debian and Ubuntu: openjdk-17-jre-headless or default-jre-headless)"
    if not command:
        raise Fault(f"java is not there: {remedy}", EXIT_MISSING)
    said = subprocess.run([command, "-version"], capture_output=True, text=True, check=False)
    version = re.search(r'version "(\d+)', said.stderr + said.stdout)
    if said.returncode != 0 or not version or int(version.group(1)) < 17:
        raise Fault(f"{command} is too old or does not run: {remedy}", EXIT_MISSING)
    return command


def jars():
    """The folder with the broker's jars; fetched where they are not there yet. Safe when several ask at once."""
    pom = POM.read_text(encoding="utf-8")
    version = re.search(r"<kafka.version>(.+)</kafka.version>", pom).group(1)
    folder = cache_directory() / f"kafka-{version}"
    # The marker holds the list it was made from: a changed list is fetched anew, a half-made folder is not believed.
    marker = folder / "resolved.pom.xml"

    def whole():
        return marker.exists() and marker.read_text(encoding="utf-8") == pom

    if whole():
        return folder
    folder.parent.mkdir(parents=True, exist_ok=True)
    with open(f"{folder}.lock", "w", encoding="utf-8") as lock:
        fcntl.flock(lock, fcntl.LOCK_EX)
        if whole():
            return folder
        maven = shutil.which("mvn")
        if not maven:
            raise Fault("mvn is not there: install Maven to fetch the broker (Debian and Ubuntu: maven)", EXIT_MISSING)
        say(f"fetching Apache Kafka {version} into {folder}")
        fresh = pathlib.Path(tempfile.mkdtemp(prefix=f"{folder.name}.", dir=folder.parent))
        try:
            fetch(maven, fresh)
            (fresh / marker.name).write_text(pom, encoding="utf-8")
            fresh.chmod(0o755)
            # An older folder may still serve a broker that runs, and an open jar survives its removal.
            shutil.rmtree(folder, ignore_errors=True)
            fresh.rename(folder)
        finally:
            shutil.rmtree(fresh, ignore_errors=True)
    return folder


def fetch(maven, folder):
    goal = f"{DEPENDENCY_PLUGIN}:copy-dependencies"
    # -U: a file that was not there a moment ago is asked for again.
    command = [maven, "-B", "-q", "-U", "-f", POM, goal, "-DincludeScope=runtime", f"-DoutputDirectory={folder}"]
    for attempt in (1, 2, 3):
        # Maven's own words belong to stderr: stdout of this script is for values.
        done = subprocess.run(command, stdin=subprocess.DEVNULL, stdout=sys.stderr, check=False)
        if done.returncode == 0:
            return
        say(f"Maven failed with status {done.returncode}, attempt {attempt} of 3")
        time.sleep(attempt)  # A registry that refuses for a moment deserves one.
    raise Fault("Maven could not fetch the broker: see its messages above", EXIT_MISSING)




@dataclasses.dataclass(frozen=True)
class Part:
    """What a process is in its cluster. `voters` are the controllers of another process (see `voters_of`)."""

    node: int = 1
    roles: str = "broker,controller"
    voters: str | None = None
    brokers: int = 1

    def settings(self):
        if self.brokers == 1:
            return {"replicas": 1, "in_sync_min": 1, "own_partitions": 4, "heartbeat_ms": 1_000}
        # A heartbeat that is not answered within its interval makes a client doubt. Four JVMs on two cores need more than one
        # second for that now and then.
        return {"replicas": self.brokers, "in_sync_min": self.brokers - 1, "own_partitions": 6, "heartbeat_ms": 2_000}


class Broker:
    """A broker, or a controller, whose everything is in one directory. Its part counts where the directory is new."""

    def __init__(self, directory, secure=False, part=Part()):
        self.directory = pathlib.Path(directory).resolve()
        self.secure = secure
        self.part = part
        self.settings = self.directory / "server.properties"
        self.log = self.directory / "broker.log"
        self.pid_file = self.directory / "pid"
        self.bootstrap_file = self.directory / "bootstrap"

    def pid(self):
        """The process that runs this broker, None where none does. A number that went to another process is none."""
        try:
            pid = int(self.pid_file.read_text(encoding="ascii"))
            arguments = pathlib.Path(f"/proc/{pid}/cmdline").read_bytes().split(b"\0")
        except (OSError, ValueError):
            return None
        return pid if os.fsencode(self.settings) in arguments else None

    def bootstrap(self):
        return self.bootstrap_file.read_text(encoding="ascii").strip()

    def start(self):
        """Starts it and waits until it answers: new in an empty directory, else with the data and port it had."""
        if self.pid():
            raise Fault(f"a broker runs already in {self.directory} (process {self.pid()})")
        command, folder = java(), jars()
        if self.bootstrap_file.exists():
            self.launch(command, folder)
            return
        for attempts_left in (2, 1, 0):
            self.prepare(command, folder)
            try:
                self.launch(command, folder)
                return
            except Fault:
                # Between finding a free port and taking it somebody else may have taken it.
                if not attempts_left or "Address already in use" not in self.log_tail(200):
                    raise
                shutil.rmtree(self.directory / "data")

    def prepare(self, command, folder):
        self.directory.mkdir(parents=True, exist_ok=True)
        controller_port, *ports = free_ports(2 + len(LISTENERS))
        controller, names = f"127.0.0.1:{controller_port}", []
        if "broker" in self.part.roles:
            names = ["PLAINTEXT", *LISTENERS] if self.secure else ["PLAINTEXT"]
        advertised = [f"{name}://127.0.0.1:{port}" for name, port in zip(names, ports, strict=False)]
        listeners = list(advertised)
        if "controller" in self.part.roles:
            listeners.append(f"CONTROLLER://{controller}")
        settings = SETTINGS.format(
            roles=self.part.roles,
            node=self.part.node,
            voters=self.part.voters or f"{self.part.node}@{controller}",
            listeners=",".join(listeners),
            # A controller alone advertises where it listens.
            advertised=",".join(advertised or listeners),
            data=self.directory / "data",
            **self.part.settings(),
        )
        credentials = []
        if self.secure:
            added, credentials = self.make_secure(ports[1:])
            settings += added
        self.settings.write_text(settings, encoding="utf-8")
        (self.directory / "log4j2.properties").write_text(LOGGING, encoding="utf-8")
        format_storage = ["kafka.tools.StorageTool", "format", "-t", CLUSTER_ID, "-c", self.settings, *credentials]
        with open(self.log, "ab") as log:
            done = subprocess.run(self.jvm(command, folder) + format_storage, stdout=log, stderr=log, check=False)
        if done.returncode != 0:
            raise Fault(f"the storage could not be formatted:\n{self.log_tail(20)}")
        self.bootstrap_file.write_text(f"127.0.0.1:{ports[0]}\n" if names else f"{controller}\n", encoding="ascii")

    def make_secure(self, ports):
        if not shutil.which("openssl"):
            raise Fault("openssl is not there: install it to make certificates", EXIT_MISSING)
        try:
            return secure(self.directory, ports)
        except subprocess.CalledProcessError as failed:
            raise Fault(f"openssl could not make certificates:\n{failed.stderr}") from failed

    def jvm(self, command, folder):
        logging = f"-Dlog4j2.configurationFile={self.directory / 'log4j2.properties'}"
        return [command, *HEAP, "-Djava.awt.headless=true", logging, "-cp", f"{folder}/*"]

    def launch(self, command, folder):
        with open(self.log, "ab") as log:
            process = subprocess.Popen(
                [*self.jvm(command, folder), "kafka.Kafka", self.settings],
                stdin=subprocess.DEVNULL,
                stdout=log,
                stderr=log,
                # A Ctrl-C is for the test; the broker goes after it, when `stop` says so.
                start_new_session=True,
            )
        self.pid_file.write_text(f"{process.pid}\n", encoding="ascii")
        deadline = time.monotonic() + START_DEADLINE_S
        while True:
            if process.poll() is not None:
                self.pid_file.unlink()
                raise Fault(f"the broker ended with status {process.returncode}:\n{self.log_tail(30)}")
            if self.answers():
                return
            if time.monotonic() > deadline:
                self.stop(kill=True)
                raise Fault(f"the broker does not answer after {START_DEADLINE_S} s:\n{self.log_tail(30)}")
            time.sleep(0.1)

    def answers(self):
        """Whether it works: a broker that counts itself among those that are not fenced, a controller that takes connections."""
        address, settings = self.bootstrap(), self.settings.read_text(encoding="utf-8")
        if "process.roles=controller\n" in settings:
            host, port = address.split(":")
            try:
                socket.create_connection((host, int(port)), timeout=2).close()
                return True
            except OSError:
                return False
        # Clients may be told to come by another way, as by a test's proxy.
        told = re.search(r"^advertised\.listeners=(?:.*,)?PLAINTEXT://([^,\n]+)", settings, re.MULTILINE).group(1)
        known = metadata(address)
        return known is not None and known.has_controller and told in known.brokers.values()

    def stop(self, kill=False):
        """Stops it and waits until it is gone. No fault where none runs."""
        pid = self.pid()
        if pid:
            try:
                handle = os.pidfd_open(pid)
            except ProcessLookupError:
                handle = None
            if handle is not None:
                self.end(pid, handle, kill)
        self.pid_file.unlink(missing_ok=True)

    def end(self, pid, handle, kill):
        def gone(timeout_s):
            return bool(select.select([handle], [], [], timeout_s)[0])

        try:
            with contextlib.suppress(ProcessLookupError):
                signal.pidfd_send_signal(handle, signal.SIGKILL if kill else signal.SIGTERM)
                if not gone(STOP_DEADLINE_S):
                    say(f"process {pid} does not end after {STOP_DEADLINE_S} s: killing it")
                    signal.pidfd_send_signal(handle, signal.SIGKILL)
                    if not gone(STOP_DEADLINE_S):
                        raise Fault(f"process {pid} cannot be ended")
        finally:
            os.close(handle)
            # Only where this process is the parent; elsewhere there is nothing to collect.
            with contextlib.suppress(ChildProcessError):
                os.waitpid(pid, os.WNOHANG)

    def log_tail(self, lines):
        with contextlib.suppress(OSError):
            return "\n".join(self.log.read_text(encoding="utf-8", errors="replace").splitlines()[-lines:])
        return "(no log)"

    def environment(self):
        return {"FOREWARM_TEST_KAFKA": self.bootstrap(), "FOREWARM_TEST_KAFKA_DIR": str(self.directory)}


def voters_of(directory):
    """The controllers of the broker in that directory, as another one of the cluster has to name them."""
    try:
        settings = (pathlib.Path(directory) / "server.properties").read_text(encoding="utf-8")
    except OSError as error:
        raise Fault(f"no broker was ever started in {directory}") from error
    return re.search(r"^controller.quorum.voters=(.+)$", settings, re.MULTILINE).group(1)


def free_ports(count):
    found = []
    for port in random.sample(PORTS, len(PORTS)):
        with socket.socket() as probe:
            # As the broker does it: a port that only has old connections in TIME_WAIT is free.
            probe.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
            try:
                probe.bind(("127.0.0.1", port))
            except OSError:
                continue
        found.append(port)
        if len(found) == count:
            return found
    raise Fault(f"no free port from {PORTS.start} to {PORTS.stop - 1}")
