"""The hostile neighbours: what one function, definition or message does to others that only share its node.

    scripts/kafka run -- python tests/hostile/run.py --forewarm BINARY [--short] [ROW…]

Each row has a node of its own with the default configuration but for what the row names. Innocent functions are called alone, then
beside the deed, then after the neighbour was removed. The exit status is 0 only if every row holds.
"""

import argparse
import dataclasses
import os
import pathlib
import signal
import sys
import tempfile
import time
import traceback

HERE = pathlib.Path(__file__).resolve().parent
sys.path[:0] = [str(HERE.parent / "e2e"), str(HERE)]

import innocent  # noqa: E402
import neighbours  # noqa: E402
import run as end_to_end  # noqa: E402
from bench import Bench  # noqa: E402

ALONE_S = 8
BESIDE_S = 20
AFTER_S = 5
# What the 99th percentile beside a neighbour may be: so many times what it is alone, and at least so much, as two cores are shared
# with the brokers and the tests.
TIMES_MAX = 3
LEAST_S = 1.5
# The same for the first answer of a function that is new.
NEWCOMER_LEAST_S = 5
# How long a node may take to its start, and to its end.
START_S = 60
STOP_S = 30
# The share of a core that may be left once a neighbour is gone.
LEFT_CORES = 0.3


@dataclasses.dataclass
class Row:
    """What was seen."""

    name: str
    alone_s: float = 0
    beside_s: float = 0
    after_s: float = 0
    first_alone_s: float = 0
    first_beside_s: float = 0
    said: str = ""
    grown_mib: float = 0
    left_mib: float = 0
    left_cores: float = 0
    faults: list = dataclasses.field(default_factory=list)

    def check(self, holds, fault):
        if not holds:
            self.faults.append(fault)


def seconds(value):
    return "none" if value is None or value == float("inf") else f"{value * 1000:.0f} ms" if value < 1 else f"{value:.1f} s"


def p99(latencies):
    return innocent.quantile(latencies, 0.99)


def what_it_says(service, neighbour):
    """The first of the words that the row wants, where the node says it; empty where it says none."""
    for word in neighbour.says:
        if service.log_lines(word, service.started_at):
            return f"log: {word}"
        for name in neighbour.functions[:1]:
            if word in service.command("explain", name, "--admin", service.admin()):
                return f"explain: {word}"
    return ""


def mebibytes(size):
    return size / (1 << 20)


def attempt(run, neighbour):
    row = Row(neighbour.name)
    with Bench(run, f"hostile-{neighbour.name}") as bench:
        try:
            play(bench, neighbour, row)
        except Exception as fault:
            traceback.print_exc()
            row.faults.append(f"{type(fault).__name__}: {str(fault).splitlines()[0] if str(fault) else ''}")
        if row.faults:
            for service in bench.services:
                print(f"--- the end of {service.log}:\n{service.log_tail()}", file=sys.stderr)
    return row


def play(bench, neighbour, row):
    service = bench.service(**neighbour.changes).start()
    people = innocent.Innocent(bench)
    people.settle()
    service.wait_ready(True)
    row.first_alone_s = people.newcomer()
    row.alone_s = p99(people.measure(ALONE_S))
    before = service.resident_bytes()
    peak = Peak(service)
    row.first_beside_s = None

    def meanwhile():
        neighbour.deed(bench)
        # The deed is to have begun.
        time.sleep(1)
        row.first_beside_s = people.newcomer()

    row.beside_s = p99(people.measure(BESIDE_S, meanwhile, neighbour.blocks))
    if neighbour.restarts:
        service.kill()
        service.start()
        service.wait_ready(True, START_S)
        peak.at_most = max(peak.at_most, service.resident_bytes())
        row.beside_s = max(row.beside_s, p99(people.measure(ALONE_S, without=neighbour.blocks)))
    service.check_running()
    row.grown_mib = mebibytes(peak.stop() - before)
    row.said = what_it_says(service, neighbour)
    for word in neighbour.never:
        forged = [line for line in service.log_lines(word) if line.startswith(word)]
        row.check(not forged, f"{len(forged)} lines of the log are forged")
    for name in neighbour.functions:
        bench.remove(name)
    time.sleep(neighbour.grace_s)
    cpu_s, began = service.cpu_s(), time.monotonic()
    time.sleep(2)
    row.left_cores = (service.cpu_s() - cpu_s) / (time.monotonic() - began)
    row.after_s = p99(people.measure(AFTER_S, without=neighbour.blocks))
    row.left_mib = mebibytes(service.resident_bytes() - before)
    began = time.monotonic()
    status = service.stop()
    took_s = time.monotonic() - began
    judge(row, neighbour, status, took_s)


class Peak:
    """The most memory that a node held since."""

    def __init__(self, service):
        self.service, self.at_most = service, 0
        service.process and pathlib.Path(f"/proc/{service.process.pid}/clear_refs").write_text("5", encoding="ascii")

    def stop(self):
        status = pathlib.Path(f"/proc/{self.service.process.pid}/status").read_text(encoding="ascii")
        (line,) = [line for line in status.splitlines() if line.startswith("VmHWM")]
        return max(self.at_most, int(line.split()[1]) * 1024)


def judge(row, neighbour, status, took_s):
    allowed_s = max(LEAST_S, TIMES_MAX * row.alone_s)
    row.check(row.beside_s <= allowed_s, f"beside it {seconds(row.beside_s)}, alone {seconds(row.alone_s)}")
    row.check(row.after_s <= allowed_s, f"after it {seconds(row.after_s)}")
    allowed_s = max(NEWCOMER_LEAST_S, TIMES_MAX * (row.first_alone_s or 0))
    first = row.first_beside_s
    row.check(first is not None and first <= allowed_s, f"the first answer of a new function took {seconds(first)}")
    row.check(row.said or not neighbour.says, "the node says nothing of it")
    row.check(row.grown_mib <= neighbour.memory_mib, f"{row.grown_mib:.0f} MiB of memory, at most {neighbour.memory_mib}")
    row.check(row.left_cores <= LEFT_CORES, f"{row.left_cores:.2f} cores are used after it was removed")
    row.check(status == 0, f"SIGTERM ended with status {status}")
    row.check(took_s <= STOP_S, f"SIGTERM took {took_s:.0f} s")


HEAD = ("neighbour", "p99 alone", "beside", "after", "first alone", "beside", "memory", "left", "left", "said")


def table(rows):
    lines = [HEAD]
    for row in rows:
        times = (row.alone_s, row.beside_s, row.after_s, row.first_alone_s, row.first_beside_s)
        memory = (f"+{row.grown_mib:.0f} MiB", f"+{row.left_mib:.0f} MiB", f"{row.left_cores:.2f} cores")
        lines.append((row.name, *map(seconds, times), *memory, row.said))
    widths = [max(len(line[column]) for line in lines) for column in range(len(HEAD))]
    return "\n".join("  ".join(cell.ljust(width) for cell, width in zip(line, widths, strict=True)).rstrip() for line in lines)


def parse():
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--forewarm", type=pathlib.Path, required=True, metavar="BINARY")
    parser.add_argument("--bootstrap", default=os.environ.get("FOREWARM_TEST_KAFKA"), metavar="HOST:PORT")
    parser.add_argument("--short", action="store_true", help="fewer rows")
    parser.add_argument("rows", nargs="*", metavar="ROW", help="names of rows; all where none is given")
    arguments = parser.parse_args()
    if not arguments.bootstrap:
        parser.error("no broker: give --bootstrap or set FOREWARM_TEST_KAFKA, as scripts/kafka run does")
    if unknown := set(arguments.rows) - {neighbour.name for neighbour in neighbours.NEIGHBOURS}:
        parser.error(f"no such row: {', '.join(sorted(unknown))}")
    return arguments


def main():
    arguments = parse()
    signal.signal(signal.SIGTERM, lambda *_: sys.exit(143))
    chosen = [
        neighbour
        for neighbour in neighbours.NEIGHBOURS
        if (neighbour.name in arguments.rows if arguments.rows else neighbour.short or not arguments.short)
    ]
    rows = []
    with tempfile.TemporaryDirectory(prefix="forewarm-hostile.", ignore_cleanup_errors=True) as directory:
        run = end_to_end.Run(arguments, directory)
        for neighbour in chosen:
            print(f"{neighbour.name}: {neighbour.does}", flush=True)
            row = attempt(run, neighbour)
            rows.append(row)
            print(f"    {'; '.join(row.faults) or 'holds'}", flush=True)
        run.closing.close()
    print(table(rows))
    failed = [row.name for row in rows if row.faults]
    print(f"hostile: {len(rows) - len(failed)} rows hold, {len(failed)} do not{': ' if failed else ''}{', '.join(failed)}")
    return 1 if failed else 0


if __name__ == "__main__":
    sys.exit(main())
