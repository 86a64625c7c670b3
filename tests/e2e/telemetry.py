"""Scenarios: whoever reads the log or collects what is exported does not do so, or somebody tries to fill the log.
"""

import contextlib
import fcntl
import json
import os
import re
import signal
import socket
import subprocess
import threading
import time
import urllib.request

from bench import ECHO, HOSTILE, definition

PIPE_BYTES = 4096
THE_END = b"\nthe pipe is over\n"
# The way down of a node that has nothing to do, and of one that a second signal ends.
END_S = 15
SECOND_SIGNAL_S = 10
# A request to a collector has 5 s, and two of them took 10 s.
SLOW_COLLECTOR_S = 8


def log_unread(bench):
    """Nobody reads the log: functions load, calls are answered, health is, and one signal ends the process; so does a second one
    that comes while a call runs. Once somebody reads again, a line says how many lines were left out."""
    service, results = bench.service(), bench.results()
    with full_pipe() as (_, writer):
        start(service, writer)
        names = [f"unread-{number}" for number in range(20)]
        for name in names:
            bench.define(definition(name, ECHO))
        ids = [bench.call(name, b"x") for name in names for _ in range(10)]
        results.wait_all(ids, 60)
        assert {results.one(name).status for name in ids} == {"ok"}
        assert service.not_ready() is None
        began = time.monotonic()
        service.process.send_signal(signal.SIGTERM)
        assert service.wait(END_S) == 0
        end_s = time.monotonic() - began
    # The reader is back: what it missed is told. librdkafka is made to say more than a node holds back.
    chatty = bench.service(telemetry={"log-filter": "debug"}, **{"kafka.properties": {"debug": "all"}})
    with full_pipe() as (reader, writer):
        start(chatty, writer)
        for _ in range(4):
            results.wait_all([bench.call(name, b"x") for name in names for _ in range(50)], 120)
        text = b""
        until = time.monotonic() + 120
        while not (told := re.search(rb"([0-9]+) log lines were left out", text)):
            chatty.check_running()
            assert time.monotonic() < until, text[-2_000:]
            text = text[-1_000:] + os.read(reader, 65_536)
        drain = threading.Thread(target=read_on, args=(reader,), daemon=True)
        drain.start()
        assert chatty.stop() == 0
        os.write(writer, THE_END)
        drain.join()
    # A second signal, while a call runs that does not end.
    with full_pipe() as (_, writer):
        bench.define(definition("endless", HOSTILE, limits={"timeout_ms": 60_000}))
        start(service, writer)
        assert results.one(bench.call("endless")).status == "ok"
        bench.call("endless", b"sleep")
        bench.sender.flush()
        wait(lambda: ask(service, "/functions/endless")["in_flight"] == 1, "the call does not run")
        service.process.send_signal(signal.SIGTERM)
        # The first thing that ends.
        wait(lambda: ask(service, "/health/live") is None, "the way down does not begin")
        service.check_running()
        service.process.send_signal(signal.SIGTERM)
        assert service.wait(SECOND_SIGNAL_S) == 130
    return f"ended after {end_s:.1f} s, {told.group(1).decode()} lines left out"


@contextlib.contextmanager
def full_pipe():
    """A pipe that takes nothing any more, until somebody reads."""
    reader, writer = os.pipe()
    try:
        fcntl.fcntl(writer, fcntl.F_SETPIPE_SZ, PIPE_BYTES)
        os.write(writer, b"\n" * PIPE_BYTES)
        yield reader, writer
    finally:
        os.close(reader)
        os.close(writer)


def start(service, stderr):
    """Starts the node with that for its log; where it answers has to be known, as its log cannot be read."""
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        address = f"127.0.0.1:{free.getsockname()[1]}"
    command = [service.binary, "serve", "--config", service.config]
    environment = {**os.environ, "FOREWARM__ADMIN__LISTEN": address}
    service.process = subprocess.Popen(command, stdin=subprocess.DEVNULL, stderr=stderr, env=environment)
    service.address = address
    # It listens before anything else.
    wait(lambda: ask(service, "/health/live"), "the admin interface does not answer")
    service.wait_ready(True)


def ask(service, path):
    """What the node answers; None where it does not."""
    with contextlib.suppress(OSError), urllib.request.urlopen(f"http://{service.address}{path}", timeout=10) as answer:
        return json.load(answer)
    return None


def wait(is_so, otherwise):
    until = time.monotonic() + 30
    while not is_so():
        assert time.monotonic() < until, otherwise
        time.sleep(0.05)


def read_on(reader):
    """Until the pipe says that it is over."""
    text = b""
    while THE_END not in text:
        text = text[-100:] + os.read(reader, 65_536)


def log_flood(bench):
    """Foreign text forges no line and moves no terminal; a thousand bad messages are a hundred lines and a count."""
    service = bench.service().start()
    service.wait_ready(True)
    forged = "\n2026-01-01T00:00:00Z  INFO forewarm: forged\x1b[2J\x9b\u202e"
    bad = definition("forger", ECHO)
    bad["artifact"]["uri"] = f"file:///nowhere{forged}"
    bench.define(bad)
    for number in range(1_000):
        value = f'{{"id": "{number}'.encode()
        bench.sender.send(bench.topics["invocations"], value, b"k", [("content-type", b"application/json")], number % 6)
    bench.sender.flush()
    letters = bench.dead_letters()
    letters.wait_for(1_000, 60)
    service.wait_log("more lines like this were left out")
    lines = service.log_lines("dead letter")
    said = [line for line in lines if "more lines like this" not in line]
    assert 100 <= len(said) <= 500, len(said)
    left_out = sum(int(re.search("([0-9]+) more lines", line).group(1)) for line in lines if line not in said)
    until = time.monotonic() + 60
    while len(said) + left_out < 1_000:
        assert time.monotonic() < until, f"{len(said)} said, {left_out} left out"
        time.sleep(0.2)
        lines = service.log_lines("dead letter")
        said = [line for line in lines if "more lines like this" not in line]
        left_out = sum(int(re.search("([0-9]+) more lines", line).group(1)) for line in lines if line not in said)
    assert len(said) + left_out == 1_000, (len(said), left_out)
    text = service.log.read_bytes().decode()
    controls = {character for character in text if ord(character) < 32 or 127 <= ord(character) < 160} | {"\u202e"} & set(text)
    assert controls == {"\n"}, controls
    assert not [line for line in text.splitlines() if line.startswith("2026-01-01T00:00:00Z")]
    assert service.stop() == 0
    return f"{len(said)} lines of 1000"


def slow_collector(bench):
    """A collector that takes connections and never answers is named, costs no call, and adds at most two seconds to the end."""
    with socket.create_server(("127.0.0.1", 0), backlog=64) as server:
        held = []
        accept = threading.Thread(target=hold, args=(server, held), daemon=True)
        accept.start()
        endpoint = f"http://127.0.0.1:{server.getsockname()[1]}"
        service = bench.service(telemetry={"otlp-endpoint": endpoint, "export-interval": "1s"}).start()
        results = bench.results()
        bench.define(definition("echo", ECHO))
        ids = [bench.call("echo", b"x") for _ in range(500)]
        results.wait_all(ids, 60)
        service.wait_log("does not take what is exported")
        (line,) = service.log_lines("does not take what is exported")
        assert endpoint in line, line
        assert not service.log_lines("ExportError"), service.log_tail()
        began = time.monotonic()
        assert service.stop() == 0
        end_s = time.monotonic() - began
        assert end_s < SLOW_COLLECTOR_S, f"the end took {end_s:.1f} s"
        assert service.log_lines("some telemetry was not exported"), service.log_tail()
    return f"ended after {end_s:.1f} s"


def hold(server, held):
    """Takes connections, reads nothing, answers nothing."""
    with contextlib.suppress(OSError):
        while True:
            held.append(server.accept()[0])


SCENARIOS = [log_unread, log_flood, slow_collector]
