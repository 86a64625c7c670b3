"""Scenarios: what an operator does to the service. Signals, the service manager, process 1, and starts at brokers that are not whole.
"""

import contextlib
import json
import os
import pathlib
import re
import shutil
import signal
import socket
import subprocess
import time

from bench import ECHO, Skipped, definition
from cluster import Broker
from delivery import settle

DEADLINE_S = 60


def signals(bench):
    """HUP, QUIT, USR1 and USR2 do what is said of them and end nothing, in both group protocols."""
    return "; ".join(f"{protocol}: {with_protocol(bench, protocol)}" for protocol in ("classic", "consumer"))


def with_protocol(bench, protocol):
    properties = {"group.protocol": protocol}
    if protocol == "consumer":
        # The brokers' to set there.
        properties |= {"session.timeout.ms": None, "heartbeat.interval.ms": None}
    # At a topic of results and a group of its own.
    bench.name += protocol[0]
    bench.make_topics()
    first = bench.service(node={"id": "first"}, **{"kafka.properties": properties}).start()
    other = bench.service(node={"id": "other"}, **{"kafka.properties": properties})
    results = bench.results()
    bench.define(definition("echo", ECHO))
    assert results.one(bench.call("echo", b"1")).status == "ok"
    first.wait_ready(True)
    # QUIT: the state, in the log.
    first.process.send_signal(signal.SIGQUIT)
    first.wait_log("SIGQUIT: what was counted")
    said = first.log_lines("SIGQUIT: how this node stands")[-1]
    for word in ("ready=true", "partitions=[0, 1, 2, 3, 4, 5]", "functions_loaded=1", "VmRSS", "invocations 1"):
        assert word in said, f"no {word!r} in {said}"
    # HUP: what can be taken over is, and the rest is named.
    text = first.config.read_text(encoding="utf-8")
    changed = text.replace('drain-timeout" = "5s"', 'drain-timeout" = "4s"')
    changed += '[telemetry]\nlog-filter = "info,forewarm::app=debug"\n[tenants]\ncalls-max = 7\n'
    assert changed.count("4s") == 1, changed
    first.config.write_text(changed, encoding="utf-8")
    first.process.send_signal(signal.SIGHUP)
    first.wait_log("SIGHUP: the configuration was read again")
    said = first.log_lines("SIGHUP")[-1]
    assert 'taken=["telemetry.log-filter", "tenants.calls-max"]' in said, said
    assert 'restart=["ingest.drain-timeout"]' in said, said
    first.config.write_text("nonsense", encoding="utf-8")
    first.process.send_signal(signal.SIGHUP)
    first.wait_log("SIGHUP: the configuration is not taken")
    first.config.write_text(text, encoding="utf-8")
    # USR1: the other node gets every partition, well before a session would end, and this one stays.
    other.start()
    other.wait_ready(True)
    began = time.monotonic()
    first.process.send_signal(signal.SIGUSR1)
    first.wait_log("handed_back=true")
    handed_back_s = time.monotonic() - began
    assert "SIGUSR2" in first.not_ready(), first.not_ready()
    ids = [bench.call("echo", b"x", partition=number) for number in range(6)]
    results.wait_all(ids, 60)
    # USR2, and then the other one is told to stand aside: everything is answered by the first.
    first.process.send_signal(signal.SIGUSR2)
    first.wait_ready(True)
    other.process.send_signal(signal.SIGUSR1)
    other.wait_log("handed_back=true")
    ids = [bench.call("echo", b"x", partition=number) for number in range(6)]
    results.wait_all(ids, 60)
    assert {result.node for result in map(results.one, ids)} == {"first"}
    for service in (first, other):
        assert service.stop() == 0
    settle(bench, results)
    assert results.duplicates() == 0, results.duplicates()
    bench.topics.delete()
    return f"handed back after {handed_back_s:.1f} s"


def signals_before_the_start(bench):
    """A signal that comes while the start waits for brokers is told and ends nothing, but for SIGTERM, which ends with status 0."""
    bench.make_topics()
    with dead_port() as address:
        service = bench.service(kafka={"bootstrap-servers": address}, topics={"create": True}).start()
        service.wait_log("the start waits for the brokers")
        for number in (signal.SIGHUP, signal.SIGQUIT, signal.SIGUSR1, signal.SIGUSR2):
            service.process.send_signal(number)
            service.wait_log(f'signal="{number.name}"')
        service.check_running()
        assert service.stop() == 0
    return "4 signals"


@contextlib.contextmanager
def dead_port():
    """An address on which nobody listens, and which nobody else gets meanwhile."""
    with socket.socket() as bound:
        bound.bind(("127.0.0.1", 0))
        yield f"127.0.0.1:{bound.getsockname()[1]}"


def service_manager(bench):
    """A service manager hears of readiness, of how the node stands, that it lives, and of its end."""
    service = bench.service()
    path = bench.directory / "notify"
    manager = socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM)
    bench.closing.callback(manager.close)
    manager.bind(str(path))
    manager.settimeout(DEADLINE_S)
    service.environment |= {"NOTIFY_SOCKET": str(path), "WATCHDOG_USEC": "2000000"}
    service.start()
    heard = []

    def wait(line):
        while line not in heard:
            heard.extend(manager.recv(65_536).decode().splitlines())

    wait("READY=1")
    assert service.not_ready() is None, service.not_ready()
    wait("STATUS=takes calls")
    heard.clear()
    for _ in range(3):
        wait("WATCHDOG=1")
        heard.remove("WATCHDOG=1")
    service.process.send_signal(signal.SIGUSR1)
    wait("STATUS=takes no calls: SIGUSR1 asked this node to stand aside; SIGUSR2 has it take calls again")
    assert service.stop() == 0
    wait("STOPPING=1")
    assert "READY=1" not in heard, heard
    return "ready, 3 signs of life, status, stopping"


def process_one(bench):
    """As process 1 it waits for orphans, signals work that the kernel would keep from it, and SIGTERM ends it with status 0."""
    unshare = shutil.which("unshare")
    if not unshare or os.geteuid() != 0:
        raise Skipped("needs unshare(1) and root, to be process 1 of a namespace of its own")
    bench.make_topics()
    service = bench.service()
    # The shell becomes the service; the orphan is its child's child.
    script = f'(sleep 3 & echo "orphan") >&2; exec {service.binary} serve --config {service.config}'
    command = [unshare, "--pid", "--fork", "--mount-proc", "--kill-child", "sh", "-c", script]
    with open(service.log, "ab") as log:
        service.process = subprocess.Popen(command, stdin=subprocess.DEVNULL, stdout=log, stderr=log)
    service.wait_ready(True)
    (child,) = children(service.process.pid)
    # The sleep ends while the service runs, and is its child by then.
    until = time.monotonic() + DEADLINE_S
    while found := children(child):
        assert time.monotonic() < until, f"children of process 1 that nobody waits for: {[state(pid) for pid in found]}"
        time.sleep(0.1)
    for number, word in ((signal.SIGHUP, "SIGHUP: the"), (signal.SIGQUIT, "SIGQUIT: how"), (signal.SIGUSR1, "SIGUSR1")):
        os.kill(child, number)
        service.wait_log(word)
    os.kill(child, signal.SIGTERM)
    assert service.wait() == 0
    return "1 orphan, 4 signals"


def children(pid):
    with open(f"/proc/{pid}/task/{pid}/children", encoding="ascii") as file:
        return [int(child) for child in file.read().split()]


def state(pid):
    with contextlib.suppress(OSError), open(f"/proc/{pid}/stat", encoding="ascii") as file:
        return file.read().split()[1:3]
    return "gone"


def not_whole(bench):
    """The start waits for a broker that its topics need, names what it needs meanwhile, and tells what topics have one replica."""
    # Brokers of its own: one that was there once is missed by those that come after.
    first, second = (Broker(bench.directory / name) for name in ("first-broker", "second-broker"))
    for broker in (first, second):
        bench.closing.callback(broker.stop)
    first.start()
    bench.bootstrap = first.bootstrap
    bench.make_topics(create=False)
    # Replicas that the one broker cannot give: the start ends when its time is over, and says why, once.
    wanted = {"create": True, "replication-factor": 2, "partitions": 3}
    hasty = bench.service(topics=wanted, registry={"catch-up-timeout": "3s"}).start()
    assert hasty.wait() == 1
    said = hasty.log_lines("forewarm: ")[-1]
    assert "topics.replication-factor = 2" in said and "1 brokers" in said, said
    assert said.count("InvalidReplicationFactor") == 1, said
    # The second broker comes while the start waits.
    service = bench.service(topics=wanted, registry={"catch-up-timeout": "120s"}).start()
    service.wait_log("the start waits for the brokers")
    second.start("--join", first.directory)
    service.wait_ready(True, 120)
    created = service.log_lines("topic created")
    assert len(created) == len(bench.topics.names) and all("replicas=2" in line for line in created), created
    assert sum("partitions=3" in line for line in created) == 6, created
    assert not service.log_lines("this topic has one replica")
    assert service.stop() == 0
    # The brokers' default, which is one here.
    bench.topics.delete()
    bench.name += "-one"
    bench.make_topics(create=False)
    service = bench.service(topics={"create": True}).start()
    service.wait_ready(True)
    assert len(service.log_lines("this topic has one replica")) == len(bench.topics.names), service.log_tail()
    assert all("replicas=1" in line for line in service.log_lines("topic created"))
    assert service.stop() == 0
    # They go with their brokers.
    bench.topics = None
    return "waited for 1 broker, every topic named"


def unreachable(bench):
    """A start that reaches no broker ends with the address and the cause in its last words, and says them once."""
    bench.make_topics()
    with dead_port() as refused:
        told = []
        for address, words in (("nobody.invalid:9092", "Failed to resolve"), (refused, "Connection refused")):
            registry = {"catch-up-timeout": "2s"}
            service = bench.service(kafka={"bootstrap-servers": address}, topics={"create": True}, registry=registry)
            began = time.monotonic()
            service.start()
            assert service.wait() == 1
            told.append(f"{time.monotonic() - began:.1f} s")
            said = service.log_lines("forewarm: ")[-1]
            assert words in said and address in said and said.count("Transport") <= 1, said
    return f"ended after {', '.join(told)}"


def namesakes(bench):
    """Of two processes with one node id one ends and says why; the other goes on."""
    bench.make_topics()
    older, newer = (bench.service(node={"id": "the-one"}) for _ in range(2))
    older.start().wait_ready(True)
    newer.start()
    newer.wait_ready(True)
    assert older.wait() == 1
    said = "\n".join(older.log_lines("another process runs with this node's name"))
    assert "node.id" in said, older.log_tail()
    newer.check_running()
    assert newer.stop() == 0


def health(bench):
    """`forewarm health` ends with 0 where calls are taken, and else with 1 and the reason."""
    service = bench.service().start()
    service.wait_ready(True)
    asked = ("health", "--admin", service.admin())
    assert service.command(*asked).strip() == "ok"
    service.process.send_signal(signal.SIGUSR1)
    service.wait_ready(False)
    service.command(*asked, status=1)
    assert service.command(*asked, "--live").strip() == "ok"
    assert service.stop() == 0
    service.command(*asked, status=1)


def half_requests(bench):
    """Three hundred half requests, and few handles: health is answered, new functions load, and no core may be left."""
    service = bench.service()
    command = ["prlimit", "--nofile=200:300", service.binary, "serve", "--config", service.config]
    with open(service.log, "ab") as log:
        service.process = subprocess.Popen(command, stdin=subprocess.DEVNULL, stdout=log, stderr=log)
    service.wait_ready(True)
    limits = pathlib.Path(f"/proc/{service.process.pid}/limits").read_text(encoding="ascii")
    assert re.search("Max open files +300 +300 ", limits), limits
    assert re.search("Max core file size +0 +0 ", limits), limits
    assert service.log_lines("the process may have 300 files open at once"), service.log_tail()
    host, port = service.admin().split(":")
    results = bench.results()
    with contextlib.ExitStack() as held:
        for _ in range(300):
            half = held.enter_context(socket.create_connection((host, int(port)), timeout=10))
            half.sendall(b"GET /health/live HTTP/1.1\r\nHost: loc")
        for number in range(10):
            assert service.not_ready(5) is None
            name = f"beside-{number}"
            bench.define(definition(name, ECHO))
            assert results.one(bench.call(name)).status == "ok"
    with socket.create_connection((host, int(port)), timeout=10) as rebound:
        rebound.sendall(b"GET /functions HTTP/1.1\r\nHost: evil.example\r\nConnection: close\r\n\r\n")
        assert rebound.recv(100).startswith(b"HTTP/1.1 403 "), "a name that somebody else resolves"
    assert service.stop() == 0


def list_from_the_environment(bench):
    """A list is given by a variable as JSON; one that is none is named as other faults are."""
    service = bench.service()
    name = "FOREWARM__TENANTS__NAMED"
    service.environment[name] = json.dumps([{"tenant": "acme", "calls-max": 16}])
    assert 'tenant = "acme"' in service.command("check-config")
    service.environment[name] = "acme=16"
    service.command("check-config", status=64)


SCENARIOS = [
    signals,
    signals_before_the_start,
    service_manager,
    process_one,
    unreachable,
    namesakes,
    health,
    half_requests,
    list_from_the_environment,
    not_whole,
]
