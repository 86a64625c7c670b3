"""The service as a process: configuration file, start, signals, exit status, and its command line.

It must not look into the service: what it does shows on the topics.
"""

import json
import pathlib
import signal
import subprocess

STOP_DEADLINE_S = 60
COMMAND_DEADLINE_S = 120


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
        self.process = None
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
            "artifacts": {"directory": str(self.directory / "artifacts")},
            # Shared by all scenarios, so that each guest is compiled once.
            "execute": {"cache-directory": str(cache)},
        }
        for table, values in (changes or {}).items():
            if isinstance(values, dict):
                tables.setdefault(table, {}).update(values)
            else:
                tables[table] = values
        self.config.write_text(toml(tables), encoding="utf-8")

    def start(self):
        assert self.process is None, "the service runs already"
        with open(self.log, "ab") as log:
            self.process = subprocess.Popen(
                [self.binary, "serve", "--config", self.config], stdin=subprocess.DEVNULL, stdout=log, stderr=log
            )
        return self

    def admin(self):
        """Where it answers over HTTP, as its log says."""
        lines = [line for line in self.log.read_text(encoding="utf-8").splitlines() if "admin interface listens" in line]
        return lines[-1].split("address=")[1].split()[0]

    def check_running(self):
        """A service that ended without being asked to is a fault; one that was stopped or killed is none."""
        status = self.process and self.process.poll()
        assert status is None, f"the service ended by itself with status {status}"

    def stop(self):
        """Ends it as an orchestrator does, and says its exit status."""
        self.check_running()
        self.process.send_signal(signal.SIGTERM)
        return self.wait()

    def wait(self):
        try:
            status = self.process.wait(STOP_DEADLINE_S)
        except subprocess.TimeoutExpired:
            raise AssertionError(f"the service still runs after {STOP_DEADLINE_S} s") from None
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
        command = [self.binary, *map(str, arguments), "--config", self.config]
        done = subprocess.run(command, capture_output=True, text=True, timeout=COMMAND_DEADLINE_S, check=False)
        words = " ".join(map(str, command))
        said = f"{words} ended with {done.returncode}, expected {status}:\n{done.stdout}{done.stderr}"
        assert done.returncode == status, said
        return done.stdout

    def log_tail(self, lines=30):
        if not self.log.exists():
            return "(no log)"
        return "\n".join(self.log.read_text(encoding="utf-8", errors="replace").splitlines()[-lines:])
