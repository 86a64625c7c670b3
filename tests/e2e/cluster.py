"""Brokers, started and stopped by scripts/kafka while a scenario runs.

It must not touch a broker outside the directory it was given.
"""

import json
import pathlib
import subprocess

SCRIPT = pathlib.Path(__file__).resolve().parents[2] / "scripts" / "kafka"
DEADLINE_S = 300


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

    @property
    def bootstrap(self):
        """Where its plain listener is."""
        return (self.directory / "bootstrap").read_text(encoding="ascii").strip()

    @property
    def secure(self):
        """What a client of its other listeners has to know (see scripts/kafka_security.py)."""
        return json.loads((self.directory / "secure.json").read_text(encoding="utf-8"))
