"""What is kept between lives of a node, and what is cleaned of it: snapshots, artifacts, machine code."""

import json
import os
import shutil
import time

import confluent_kafka

from bench import ECHO, ORDER, definition

SNAPSHOT_KEEP_S = 3
LIVES = 6


def live_keys(bench, role):
    """The keys of a topic of one partition whose last record is no tombstone."""
    consumer = confluent_kafka.Consumer(
        {"bootstrap.servers": bench.bootstrap, "group.id": "none", "enable.auto.commit": False, "log_level": 2}
    )
    partition = confluent_kafka.TopicPartition(bench.topics[role], 0, 0)
    _, end = consumer.get_watermark_offsets(partition, timeout=60)
    consumer.assign([partition])
    keys, read = {}, 0
    until = time.monotonic() + 60
    while read < end:
        assert time.monotonic() < until, f"{read} of {end} records of {role} are read"
        message = consumer.poll(1)
        if message is None or message.error():
            continue
        read = message.offset() + 1
        if message.value() is None:
            keys.pop(message.key(), None)
        else:
            keys[message.key()] = message.offset()
    consumer.close()
    return set(keys)


def renamed_nodes(bench):
    """Nodes that come and go under new names leave bounded keys behind, and each takes over what the last one knew."""
    bench.make_topics()
    functions = [f"known-{number}" for number in range(3)]
    for name in [*functions, "gone"]:
        bench.define(definition(name, ECHO))
    results = None
    most = 0
    for life in range(LIVES):
        forecast = {"newcomer-share": 0.0, "snapshot-interval": "1s", "snapshot-keep": f"{SNAPSHOT_KEEP_S}s"}
        service = bench.service(node={"id": f"pod-{life}"}, forecast=forecast).start()
        results = results or bench.results()
        if life == 0:
            for name in [*functions, "gone"]:
                assert results.one(bench.call(name)).status == "ok"
        else:
            service.wait_log("what was learned before is known again")
            line = service.log_lines("what was learned before is known again")[-1]
            assert f"functions={len(functions)} " in line, line
            for name in functions:
                assert results.one(bench.call(name)).status == "ok"
        assert service.stop() == 0
        if life == 0:
            # While no node runs that would say so of its own snapshot.
            bench.remove("gone")
        keys = live_keys(bench, "forecast-snapshots")
        assert {f"pod-{life}\0{name}".encode() for name in functions} <= keys, keys
        most = max(most, len(keys))
        # Until what this life left is old enough to go.
        time.sleep(SNAPSHOT_KEEP_S + 0.5)
    # This life's and the newest of those before it, of each function; and once, of the one that was removed.
    assert most <= 2 * len(functions) + 1, most
    assert b"pod-0\0gone" not in keys and not [key for key in keys if key.startswith(b"pod-0\0")], keys
    removed = [line for service in bench.services for line in service.log_lines("forecast snapshots of nodes and functions that are gone are removed")]
    assert removed, "no node says that it removed any"
    return f"{LIVES} lives left {len(keys)} keys, {most} at most"


def artifact_is_away(bench):
    """A node whose artifacts are gone and whose code is kept starts and answers."""
    bench.cache = bench.directory / "code"
    service = bench.service().start()
    results = bench.results()
    service.wait_ready(True)
    service.command("function", "deploy", "echo", ECHO)
    assert results.one(bench.call("echo")).status == "ok"
    assert service.stop() == 0
    shutil.rmtree(service.directory / "artifacts")
    service.start()
    answered = results.one(bench.call("echo"))
    assert answered.status == "ok", answered.event
    lines = service.log_lines("the function is ready to run")
    assert "origin=Cached" in lines[-1], lines
    # The folder of code goes, too; what runs goes on, and what comes new is kept anew.
    shutil.rmtree(bench.cache)
    assert results.one(bench.call("echo")).status == "ok"
    service.command("function", "deploy", "order", ORDER)
    until = time.monotonic() + 60
    while not (bench.cache.exists() and list(bench.cache.glob("*.cwasm"))):
        assert time.monotonic() < until, "no code is kept again"
        time.sleep(0.05)
    assert service.stop() == 0


def prune(bench):
    """`function prune` takes out old artifacts that no definition names, and nothing where it cannot be sure."""
    bench.make_topics()
    service = bench.service()
    artifacts = service.directory / "artifacts"
    service.command("function", "prune", status=1)
    for name, wasm in (("echo", ECHO), ("order", ORDER)):
        service.command("function", "deploy", name, wasm)
    files = {path.name: path for path in artifacts.iterdir()}
    assert len(files) == 2, files
    service.command("function", "remove", "order")
    sha256 = definition("order", ORDER)["artifact"]["sha256"]
    assert service.command("function", "prune") == "", "it is young"
    for path in files.values():
        os.utime(path, (time.time() - 40 * 86_400,) * 2)
    service.command("function", "prune", "--older-than", "10m", status=64)
    expected = {"sha256": sha256, "bytes": ORDER.stat().st_size}
    # A record that cannot be read may name it.
    bench.sender.send(bench.topics["functions"], b"no definition", b"unread")
    bench.sender.flush()
    service.command("function", "prune", status=1)
    bench.remove("unread")
    assert json.loads(service.command("function", "prune", "--dry-run")) == expected
    assert len(list(artifacts.iterdir())) == 2
    assert json.loads(service.command("function", "prune")) == expected
    assert [path.name for path in artifacts.iterdir()] != [f"{sha256}.wasm"]
    assert service.command("function", "prune") == ""
    assert len(list(artifacts.iterdir())) == 1
    service.start()
    results = bench.results()
    assert results.one(bench.call("echo")).status == "ok"
    assert service.stop() == 0


SCENARIOS = [renamed_nodes, artifact_is_away, prune]
