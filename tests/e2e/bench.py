"""What every scenario has: topics of its own, a sender, readers, the service, and the guests.

It must not hold an expectation; scenarios do.
"""

import contextlib
import hashlib
import pathlib

import events
from cluster import Broker
from service import Service
from streams import DeadLetters, Outcomes, Results, Sender, Topics

REPOSITORY = pathlib.Path(__file__).resolve().parents[2]
GUESTS = REPOSITORY / "guests"
# A component that answers with its payload.
ECHO = GUESTS / "rust-echo" / "rust-echo.wasm"
# A component that does the harm its payload names.
HOSTILE = GUESTS / "hostile" / "hostile.wasm"
# A component that announces the call of another function.
ORDER = GUESTS / "rust-order" / "rust-order.wasm"


class Skipped(Exception):
    """A scenario that cannot run here, and why."""


def definition(name, wasm, **fields):
    """A function's definition with the artifact where it lies."""
    wasm = pathlib.Path(wasm)
    artifact = {"uri": f"file://{wasm}", "sha256": hashlib.sha256(wasm.read_bytes()).hexdigest()}
    return {"name": name, "version": "1", "artifact": artifact, "kind": "component", **fields}


class Bench:
    """The surroundings of one scenario. Use with `with`: at the end nothing of it is left."""

    def __init__(self, run, name):
        self.run = run
        self.bootstrap = run.bootstrap
        self.broker_directory = run.broker_directory
        self.binary = run.binary
        self.cache = run.directory / "code"
        self.directory = run.directory / name
        self.name = f"e2e-{run.id}-{name}"
        self.closing = contextlib.ExitStack()
        self.topics = None
        self.sender = None
        self.services = []

    def __enter__(self):
        self.sender = Sender(self.bootstrap)
        return self

    def __exit__(self, *_):
        for service in self.services:
            service.kill()
        self.closing.close()
        # A client that is left would go on looking for the topics that are about to go.
        self.sender = None
        if self.topics:
            self.topics.delete()

    def broker(self):
        """The broker of this run, to be stopped and started."""
        if not self.broker_directory:
            raise Skipped("needs a broker that may be stopped: FOREWARM_TEST_KAFKA_DIR is not set")
        return Broker(self.broker_directory)

    def secure_broker(self):
        """Moves this scenario to the broker with security, by its plain listener."""
        broker = self.run.secure_broker
        self.bootstrap = broker.bootstrap
        self.sender = Sender(self.bootstrap)
        return broker

    def make_topics(self, create=True, changes=None):
        self.topics = Topics(self.bootstrap, self.name, create, changes)

    def service(self, **changes):
        """The service with this scenario's topics, not started. `changes` are keys and tables of the configuration."""
        if not self.topics:
            self.make_topics()
        number = len(self.services)
        directory = self.directory / f"node-{number}"
        if number:
            # A name is one node's alone.
            changes.setdefault("node", {"id": f"e2e-node-{number}"})
        service = Service(self.binary, directory, self.bootstrap, self.topics, self.name, self.cache, changes)
        self.services.append(service)
        return service

    def results(self, **options):
        reader = Results(self.bootstrap, self.topics["results"], check_others=self.check_services, **options)
        self.closing.callback(reader.close)
        return reader

    def check_services(self):
        for service in self.services:
            service.check_running()

    def dead_letters(self):
        reader = DeadLetters(self.bootstrap, self.topics["dead-letters"])
        self.closing.callback(reader.close)
        return reader

    def outcomes(self):
        reader = Outcomes(self.bootstrap, self.topics["pre-trigger-outcomes"])
        self.closing.callback(reader.close)
        return reader

    def define(self, definition, write=events.as_json):
        """Publishes a definition on the topic of functions, as any Kafka client could."""
        value, headers = write(events.FUNCTION, definition)
        self.sender.send(self.topics["functions"], value, definition["name"].encode(), headers)
        self.sender.flush()

    def remove(self, name):
        """Publishes the tombstone of a function."""
        self.sender.send(self.topics["functions"], None, name.encode())
        self.sender.flush()

    def call(self, function, payload=b"", write=events.single_object, key=None, headers=(), partition=None, **fields):
        """Publishes one call; its id. Acknowledged only after `sender.flush()`."""
        event = events.invocation(function, payload, **fields)
        value, format_headers = write(events.INVOCATION, event)
        self.sender.send(
            self.topics["invocations"], value, key, [*format_headers, *headers], -1 if partition is None else partition
        )
        return event["id"]

    def announce(self, function, write=events.single_object, **fields):
        """Publishes one pre-trigger; its id."""
        event = events.pre_trigger(function, **fields)
        value, headers = write(events.PRE_TRIGGER, event)
        self.sender.send(self.topics["pre-triggers"], value, function.encode(), headers)
        self.sender.flush()
        return event["id"]
