"""A control group with a limit of memory, for a process that a test starts in it.

It must not be needed: where none can be made, the scenario is skipped, and says so.
"""

import contextlib
import pathlib
import time

import bench


def _hierarchy():
    """Where this process's group for memory is mounted, and the file of its limit; version 1 before version 2."""
    groups = [line.split(":", 2) for line in pathlib.Path("/proc/self/cgroup").read_text(encoding="utf-8").splitlines()]
    for line in pathlib.Path("/proc/self/mountinfo").read_text(encoding="utf-8").splitlines():
        before, _, after = line.partition(" - ")
        root, point = before.split()[3:5]
        kind, _, options = after.split(" ", 2)
        for _, controllers, path in groups:
            inner = path.removeprefix(root).lstrip("/")
            if kind == "cgroup" and "memory" in options.split(",") and "memory" in controllers.split(","):
                return pathlib.Path(point) / inner, "memory.limit_in_bytes"
            if kind == "cgroup2" and not controllers and (pathlib.Path(point) / inner / "memory.max").exists():
                return pathlib.Path(point) / inner, "memory.max"
    raise bench.Skipped("needs a control group for memory")


@contextlib.contextmanager
def limited(name, limit_bytes):
    """A group with this limit; the answer is its folder. It is removed when the processes in it have ended."""
    parent, limit = _hierarchy()
    group = parent / name
    try:
        group.mkdir()
        (group / limit).write_text(str(limit_bytes), encoding="ascii")
    except OSError as fault:
        with contextlib.suppress(OSError):
            group.rmdir()
        raise bench.Skipped(f"needs the right to make a control group with a limit of memory: {fault}") from fault
    try:
        yield group
    finally:
        until = time.monotonic() + 10
        while (group / "cgroup.procs").read_text(encoding="ascii") and time.monotonic() < until:
            time.sleep(0.02)
        group.rmdir()


def within(binary, group, directory):
    """A program that runs `binary` in the group, as the same process."""
    script = directory / "within.sh"
    script.write_text(f'#!/bin/sh\necho $$ > "{group}/cgroup.procs" && exec "{binary}" "$@"\n', encoding="utf-8")
    script.chmod(0o755)
    return script
