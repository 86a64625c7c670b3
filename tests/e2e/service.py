"""The service as a process: configuration file, start, signals, exit status, and its command line.

It must not look into the service: what it does shows on the topics, over HTTP, in its log, and in what it costs the machine.
"""

import json
import os
import pathlib
import signal
import subprocess
import time
import urllib.error
import urllib.request

STOP_DEADLINE_S = 60
COMMAND_DEADLINE_S = 120
# Where the guests of the scenarios lie.
GUESTS = pathlib.Path(__file__).resolve().parents[2] / "guests"


def toml(tables):
    """Plain values and tables of them as TOML. JSON's strings, numbers and booleans are TOML's too."""
    lines = [f"{key} = {json.dumps(value)}" for key, value in tables.items() if not isinstance(value, dict)]
    for table, values in tables.items():
        if not isinstance(values, dict):
            continue
        lines.append(f"[{table}]")
        lines += [f"{json.dumps(key)} = {json.dumps(value, ensure_ascii=False)}" for key, value in values.items()]
    return "\n".join(lines) + "\n"


class Service:
    """One node of the service, with one configuration; may be started again after it ended."""

    def __init__(self, binary, directory, bootstrap, topics, group, cache, changes=None):
        self.binary = binary
        self.directory = pathlib.Path(directory)
        self.directory.mkdir(parents=True, exist_ok=True)
        self.config = self.directory / "config.toml"
        self.log = self.directory / "service.log"
        # Of an earlier scenario of that name in the same run.
        self.log.unlink(missing_ok=True)
        self.process = None
        # Where the log of the process that runs now begins, in bytes.
        self.started_at = 0
        self.address = None
        # Variables that it gets on top of those of the test.
        self.environment = {}
        tables = {
            "node": {"id": "e2e-node"},
            "kafka": {"bootstrap-servers": bootstrap},
            # A killed member is thrown out after this time; only then another gets its partitions.
            "kafka.properties": {"session.timeout.ms": "6000", "heartbeat.interval.ms": "1000"},
            "topics": {**topics.names, "create": False},
            # Below the session timeout.
            "ingest": {"group-id": group, "drain-timeout": "5s"},
            # Other nodes run on this host.
            "admin": {"listen": "127.0.0.1:0"},
            # Definitions of the scenarios name guests where they lie, and files of their own folder.
            "artifacts": {
                # By Kafka they travel in the scenarios that are about it.
                "store": "directory",
                "directory": str(self.directory / "artifacts"),
                "file-roots": [str(GUESTS), str(self.directory.parent.resolve())],
            },
            # Shared by all scenarios, so that each guest is compiled once.
            "execute": {"cache-directory": str(cache)},
        }
        for table, values in (changes or {}).items():
            if isinstance(values, dict):
                tables.setdefault(table, {}).update(values)
                # None takes a key away that is there by default.
                tables[table] = {key: value for key, value in tables[table].items() if value is not None}
            else:
                tables[table] = values
        self.config.write_text(toml(tables), encoding="utf-8")

    def start(self):
        assert self.process is None, "the service runs already"
        self.started_at, self.address = self.log_bytes(), None
        with open(self.log, "ab") as log:
            command = [self.binary, "serve", "--config", self.config]
            environment = {**os.environ, **self.environment}
            self.process = subprocess.Popen(command, stdin=subprocess.DEVNULL, stdout=log, stderr=log, env=environment)
        return self

    def admin(self):
        """Where it answers over HTTP, as its log says; None where that is not said yet."""
        if not self.address and (said := self.log_lines("admin interface listens", self.started_at)):
            self.address = said[-1].split("address=")[1].split()[0]
        return self.address

    def not_ready(self, timeout_s=10):
        """Why it takes no calls, as it says over HTTP; None where it takes them."""
        address = self.admin()
        if not address:
            return "it has not started yet"
        try:
            with urllib.request.urlopen(f"http://{address}/health/ready", timeout=timeout_s) as answer:
                # Conditions may stand beside it: they turn nothing off.
                assert json.load(answer)["status"] == "ok"
                return None
        except urllib.error.HTTPError as answer:
            assert answer.code == 503, answer
            return json.load(answer)["reason"]

    def conditions(self, timeout_s=10):
        """What is not as it should be, as it says over HTTP; nothing before it answers there."""
        if not self.admin():
            return []
        try:
            with urllib.request.urlopen(f"http://{self.admin()}/health/ready", timeout=timeout_s) as answer:
                return json.load(answer).get("conditions", [])
        except urllib.error.HTTPError as answer:
            return json.load(answer).get("conditions", [])

    def wait_ready(self, ready, deadline_s=60):
        """Waits until it takes calls, or until it does not."""
        until = time.monotonic() + deadline_s
        while ((reason := self.not_ready()) is None) != ready:
            self.check_running()
            assert time.monotonic() < until, f"after {deadline_s} s the service is {reason or 'ready'}"
            time.sleep(0.05)

    def wait_log(self, word, deadline_s=60):
        """Waits until its log says so."""
        until = time.monotonic() + deadline_s
        while not self.log_lines(word):
            assert time.monotonic() < until, f"after {deadline_s} s the log does not say {word!r}:\n{self.log_tail()}"
            time.sleep(0.02)

    def cpu_s(self):
        """Processor time that it has used so far, in seconds."""
        # The name, in parentheses, may hold anything; what is counted stands behind it.
        fields = pathlib.Path(f"/proc/{self.process.pid}/stat").read_text(encoding="utf-8").rpartition(")")[2].split()
        return (int(fields[11]) + int(fields[12])) / os.sysconf("SC_CLK_TCK")

    def resident_bytes(self):
        """Memory that it holds."""
        fields = pathlib.Path(f"/proc/{self.process.pid}/statm").read_text(encoding="ascii").split()
        return int(fields[1]) * os.sysconf("SC_PAGE_SIZE")

    def resident_bytes_most(self):
        """The most memory that it ever held."""
        status = pathlib.Path(f"/proc/{self.process.pid}/status").read_text(encoding="ascii")
        (line,) = [line for line in status.splitlines() if line.startswith("VmHWM")]
        return int(line.split()[1]) * 1024

    def log_bytes(self):
        return self.log.stat().st_size if self.log.exists() else 0

    def log_lines(self, word="", since=0):
        """The lines of its log with that word in them, from a place in bytes on."""
        if not self.log.exists():
            return []
        with open(self.log, "rb") as log:
            log.seek(since)
            text = log.read().decode(errors="replace")
        return [line for line in text.splitlines() if word in line]

    def check_running(self):
        """A service that ended without being asked to is a fault; one that was stopped or killed is none."""
        status = self.process and self.process.poll()
        assert status is None, f"the service ended by itself with status {status}"

    def stop(self):
        """Ends it as an orchestrator does, and says its exit status."""
        self.check_running()
        self.process.send_signal(signal.SIGTERM)
        return self.wait()

    def wait(self, deadline_s=STOP_DEADLINE_S):
        try:
            status = self.process.wait(deadline_s)
        except subprocess.TimeoutExpired:
            raise AssertionError(f"the service still runs after {deadline_s} s") from None
        self.process = None
        return status

    def kill(self):
        """Ends it without any warning. No fault where it does not run."""
        if self.process:
            self.process.kill()
            self.process.wait()
            self.process = None

    def command(self, *arguments, status=0):
        """Runs another command of the binary with the same configuration; its output."""
        return self.run_command(arguments, status).stdout

    def fails(self, *arguments):
        """Runs a command that ends with status 1; what it says."""
        return self.run_command(arguments, 1).stderr

    def run_command(self, arguments, status):
        command = [self.binary, *map(str, arguments), "--config", self.config]
        environment = {**os.environ, **self.environment}
        options = {"capture_output": True, "text": True, "timeout": COMMAND_DEADLINE_S, "env": environment}
        done = subprocess.run(command, **options, check=False)
        words = " ".join(map(str, command))
        said = f"{words} ended with {done.returncode}, expected {status}:\n{done.stdout}{done.stderr}"
        assert done.returncode == status, said
        return done

    def log_tail(self, lines=30):
        if not self.log.exists():
            return "(no log)"
        return "\n".join(self.log.read_text(encoding="utf-8", errors="replace").splitlines()[-lines:])
