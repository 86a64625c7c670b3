"""End-to-end tests: the real binary, a real broker, and a client that is not the service's own.

    scripts/kafka run -- python tests/e2e/run.py --forewarm target/release/forewarm [SCENARIO…]

Each scenario has topics, a group and processes of its own. The exit status is 0 only if none failed.
"""

import argparse
import contextlib
import functools
import os
import pathlib
import shutil
import signal
import sys
import tempfile
import time
import traceback
import uuid

import artifacts
import brokers
import ceilings
import commands
import delivery
import edges
import exactly_once
import faults
import kept
import logs
import membership
import operate
import registry_and_collector
import scale
import security
import shares
import status
import telemetry
import tenants
import unreadable
import use
from bench import ECHO, HOSTILE, Bench, Skipped
from cluster import Broker

# What takes the one broker away for long comes last.
FAMILIES = [use, commands, status, kept, artifacts, edges, faults, unreadable, operate, telemetry, registry_and_collector, logs, tenants, shares, ceilings, security, delivery, membership, scale, exactly_once, brokers]
SCENARIOS = {scenario.__name__: scenario for family in FAMILIES for scenario in family.SCENARIOS}


class Run:
    """What all scenarios of one run share."""

    def __init__(self, arguments, directory):
        self.binary = arguments.forewarm.resolve()
        self.bootstrap = arguments.bootstrap
        self.broker_directory = os.environ.get("FOREWARM_TEST_KAFKA_DIR")
        self.directory = pathlib.Path(directory)
        self.id = uuid.uuid4().hex[:8]
        self.closing = contextlib.ExitStack()

    @functools.cached_property
    def secure_broker(self):
        """The broker with security, started for whoever asks first, and there until the end."""
        broker = Broker(self.directory / "secure-broker")
        self.closing.callback(broker.stop)
        broker.start("--secure")
        return broker


def attempt(run, name):
    """Runs one scenario: its outcome as a word, and a line about it."""
    began = time.monotonic()
    try:
        with Bench(run, name) as bench:
            try:
                said = SCENARIOS[name](bench)
                outcome = "passed"
            except Skipped as reason:
                said, outcome = str(reason), "skipped"
            except Exception:
                traceback.print_exc()
                for service in bench.services:
                    print(f"--- the end of {service.log}:\n{service.log_tail()}", file=sys.stderr)
                said, outcome = None, "failed"
    except Exception:  # While the scenario's surroundings were taken down.
        traceback.print_exc()
        said, outcome = None, "failed"
    took_s = time.monotonic() - began
    print(f"{outcome:7} {name} ({took_s:.1f} s){f': {said}' if said else ''}", flush=True)
    return outcome


class Listed(argparse.Action):
    """Ends before a broker or a binary is asked for."""

    def __call__(self, parser, *_):
        width = max(map(len, SCENARIOS))
        for name, scenario in SCENARIOS.items():
            print(f"{name:{width}}  {(scenario.__doc__ or '').strip().partition(chr(10))[0]}")
        parser.exit()


def parse():
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--forewarm", type=pathlib.Path, required=True, metavar="BINARY", help="the service")
    parser.add_argument("--bootstrap", default=os.environ.get("FOREWARM_TEST_KAFKA"), metavar="HOST:PORT")
    parser.add_argument("--keep", action="store_true", help="keep logs and configurations, and say where")
    parser.add_argument("--list", action=Listed, nargs=0, help="print each scenario's name and the first line about it")
    parser.add_argument("scenarios", nargs="*", metavar="SCENARIO", help=", ".join(SCENARIOS))
    arguments = parser.parse_args()
    if not arguments.bootstrap:
        parser.error("no broker: give --bootstrap or set FOREWARM_TEST_KAFKA, as scripts/kafka run does")
    unknown = set(arguments.scenarios) - set(SCENARIOS)
    if unknown:
        parser.error(f"no such scenario: {', '.join(sorted(unknown))}")
    for file in (arguments.forewarm, ECHO, HOSTILE):
        if not file.is_file():
            parser.error(f"{file} is not there")
    return arguments


def main():
    arguments = parse()
    # Ends by the way of exceptions, so that every process that was started is ended too.
    signal.signal(signal.SIGTERM, lambda *_: sys.exit(143))
    directory = tempfile.mkdtemp(prefix="forewarm-e2e.")
    try:
        run = Run(arguments, directory)
        with run.closing:
            outcomes = [attempt(run, name) for name in arguments.scenarios or SCENARIOS]
    finally:
        if arguments.keep:
            print(f"logs and configurations are in {directory}")
        else:
            shutil.rmtree(directory, ignore_errors=True)
    passed, failed, skipped = (outcomes.count(word) for word in ("passed", "failed", "skipped"))
    print(f"{passed} passed, {failed} failed" + (f", {skipped} skipped" if skipped else ""))
    # Where everything is a must, what cannot run here is a failure too.
    return 1 if failed or (skipped and os.environ.get("FOREWARM_REQUIRE_KAFKA") == "1") else 0


if __name__ == "__main__":
    sys.exit(main())
