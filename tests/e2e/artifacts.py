"""Scenarios: artifacts by Kafka. Nodes and whoever deploys share nothing but the brokers."""

import hashlib
import json
import os
import shutil
import time

import confluent_kafka
from confluent_kafka.admin import AclOperation, NewTopic, ResourceType

from bench import ECHO, ORDER, definition
from security import grant, member, permit, start
from service import GUESTS
from status import FORECAST, own, wait_states
from streams import BROKER_DEADLINE_S

# Of one record, as the service cuts artifacts.
CHUNK_BYTES = 768 << 10
WORDCOUNT = GUESTS / "c-wordcount" / "c-wordcount.wasm"
BY_TOPIC = {"store": "topic"}


def by_topic(bench):
    """A deploy from a machine of its own reaches two nodes of their own; a damaged address is refused; what nobody names is pruned."""
    nodes = []
    for number in (1, 2):
        execute = {"cache-directory": str(bench.directory / f"code-{number}")}
        nodes.append(bench.service(forecast=FORECAST, artifacts=BY_TOPIC, execute=execute).start())
    for node in nodes:
        node.wait_ready(True)
    desk = bench.service(artifacts=BY_TOPIC)
    component = large(bench.directory, own(bench.directory, ECHO, "by-topic"))
    deployed = json.loads(desk.command("function", "deploy", "f", component, "--version", "1"))
    uri = deployed["artifact"]["uri"]
    topic, partition, span = uri.removeprefix("kafka:").split("/")
    assert (topic, partition) == (bench.topics["artifacts"], "0"), uri
    for service in (*nodes, desk):
        assert not (service.directory / "artifacts").exists(), "a file was shared"
    both = {node: ("loaded", "1", "1") for node in ("e2e-node", "e2e-node-1")}
    wait_states(desk, "f", both)
    results = bench.results()
    assert results.one(bench.call("f", b"x")).status == "ok"
    # The same bytes for the same function are not put in again.
    again = json.loads(desk.command("function", "deploy", "f", component, "--version", "2"))
    assert again["artifact"] == deployed["artifact"], again
    desk.command("function", "deploy", "count", WORDCOUNT)
    assert results.one(bench.call("count", b"a b c")).status == "ok"

    # Addresses that do not hold what they should.
    first, last = map(int, span.split("-"))
    assert last - first == component.stat().st_size // CHUNK_BYTES >= 2, uri
    other = own(bench.directory, ECHO, "another")
    sha256 = hashlib.sha256(other.read_bytes()).hexdigest()
    wrong = {
        "other-digest": ({"uri": uri, "sha256": sha256}, "refused", "is no chunk of the artifact"),
        "next-record": ({"uri": f"kafka:{topic}/0/{last + 1}-{last + 1}", "sha256": sha256}, "refused", "is no chunk of the artifact"),
        "beyond": ({"uri": f"kafka:{topic}/0/100000-100001", "sha256": sha256}, "unavailable", "not there yet"),
        "elsewhere": ({"uri": f"kafka:{bench.topics['results']}/0/0-0", "sha256": sha256}, "refused", "artifact.uri must name"),
    }
    for name, (artifact, _, _) in wrong.items():
        bench.define(definition(name, ECHO) | {"artifact": artifact})
    for name, (_, state, words) in wrong.items():
        until = time.monotonic() + 60
        while True:
            rows = json.loads(desk.command("function", "status", "--json"))["functions"]
            rows = [row for row in rows if row["function"] == name and row["state"] == state and words in (row["reason"] or "")]
            if len(rows) == 2:
                break
            assert time.monotonic() < until, (name, rows)
            time.sleep(0.1)
        bench.remove(name)

    # A new node has nothing but the brokers.
    for node in nodes:
        assert node.stop() == 0
    shutil.rmtree(bench.directory / "code-1")
    nodes[0].start()
    assert results.one(bench.call("f", b"x")).status == "ok"
    # Young artifacts stay, and named ones in any case.
    desk.command("function", "remove", "count")
    assert desk.command("artifacts", "prune", "--older-than", "1h") == ""
    assert nodes[0].stop() == 0
    return f"{component.stat().st_size} bytes as {uri}"


def large(directory, wasm):
    """The same with a section of two megabytes that no compiler cares for, so that there are several chunks."""
    size, length = 2_000_000, b""
    rest = size
    while rest >= 0x80:
        length, rest = length + bytes([rest & 0x7F | 0x80]), rest >> 7
    path = directory / "large.wasm"
    path.write_bytes(wasm.read_bytes() + b"\0" + length + bytes([rest]) + b"\x04fill" + os.urandom(size - 5))
    return path


def compacted(bench):
    """Brokers compact the topic: a value that was replaced goes, and no chunk, also where the same bytes were put in twice."""
    policy = {"cleanup.policy": "compact", "segment.ms": "100", "min.cleanable.dirty.ratio": "0.001", "delete.retention.ms": "100"}
    bench.make_topics(changes={"artifacts": {"num_partitions": 1, "config": policy}})
    desk = bench.service(artifacts=BY_TOPIC)
    topic = bench.topics["artifacts"]

    def mark(value):
        return bench.sender.send_and_locate(topic, value, b"a mark")[1]

    first = mark(b"1")
    component = own(bench.directory, ECHO, "compacted")
    uris = {}
    for name in ("f", "g"):
        deployed = json.loads(desk.command("function", "deploy", name, component))
        uris[name] = deployed["artifact"]["uri"]
    assert uris["f"] != uris["g"], uris
    mark(b"2")
    # What is compacted is what the brokers do not write to any more: each mark closes the segment before it.
    until = time.monotonic() + 120
    while first in (offsets := offsets_of(bench, topic)):
        assert time.monotonic() < until, f"nothing was compacted: {offsets}"
        mark(b"3")
        time.sleep(1)
    node = bench.service(artifacts=BY_TOPIC, execute={"cache-directory": str(bench.directory / "code")}).start()
    results = bench.results()
    for name in uris:
        assert results.one(bench.call(name, b"x")).status == "ok", name
    assert node.stop() == 0
    return f"{len(offsets)} records are left, {uris}"


def offsets_of(bench, topic):
    """The offsets of all records that are there, of a topic with one partition."""
    consumer = confluent_kafka.Consumer({"bootstrap.servers": bench.bootstrap, "group.id": "none", "enable.auto.commit": False})
    partition = confluent_kafka.TopicPartition(topic, 0, 0)
    _, end = consumer.get_watermark_offsets(partition, timeout=BROKER_DEADLINE_S)
    consumer.assign([partition])
    found, until = [], time.monotonic() + BROKER_DEADLINE_S
    while not found or found[-1] < end - 1:
        assert time.monotonic() < until, f"{found} of {end} records"
        message = consumer.poll(1)
        if message is not None and not message.error():
            found.append(message.offset())
    consumer.close()
    return found


def of_a_tenant(bench):
    """A tenant's artifacts are in its own topic; nobody else's definitions name it, and it names nobody else's."""
    secure = bench.secure_broker().secure
    bench.make_topics()
    topics = {role: f"{bench.name}.acme.{role}" for role in ("functions", "pre-triggers", "artifacts")}
    for role, name in topics.items():
        config = {} if role == "pre-triggers" else {"cleanup.policy": "compact"}
        new = NewTopic(name, num_partitions=1, replication_factor=1, config=config)
        (future,) = bench.topics.admin.create_topics([new], operation_timeout=BROKER_DEADLINE_S).values()
        future.result(BROKER_DEADLINE_S)
        permit(bench, "service", ResourceType.TOPIC, name, AclOperation.READ)
        for right in (AclOperation.READ, AclOperation.WRITE):
            permit(bench, "acme", ResourceType.TOPIC, name, right)
    grant(bench, "service")
    permit(bench, "service", ResourceType.TOPIC, bench.topics["artifacts"], AclOperation.READ)
    named = [{"tenant": "acme", "prefix": "acme/", **{f"{role}-topic": name for role, name in topics.items()}}]

    def node(user):
        properties = {"security.protocol": "sasl_plaintext", "sasl.mechanism": "PLAIN", "sasl.username": user}
        made = member(bench, "SASL_PLAINTEXT", properties, artifacts=BY_TOPIC)
        made.environment["FOREWARM__KAFKA__PROPERTIES__SASL_PASSWORD"] = secure["password"]
        made.environment["FOREWARM__TENANTS__NAMED"] = json.dumps(named)
        return made

    service, of_acme = node("service"), node("acme")
    results = bench.results()
    start(service)
    service.wait_ready(True)
    deployed = json.loads(of_acme.command("function", "deploy", "acme/pay", ECHO, "--version", "1"))
    assert deployed["artifact"]["uri"].startswith(f"kafka:{topics['artifacts']}/0/0-"), deployed
    assert results.one(bench.call("acme/pay", b"x")).status == "ok"
    # It has no right to the topic that all share, and others no definition with its topic.
    of_acme.fails("function", "deploy", "shared", ORDER)
    bench.define(definition("steal", ECHO) | {"artifact": deployed["artifact"]})
    result = results.one(bench.call("steal", b"x"))
    assert result.status == "rejected" and "artifact.uri must name" in result.event["error"]["message"], result.event
    assert service.stop() == 0
    for future in bench.topics.admin.delete_topics(list(topics.values())).values():
        future.result(BROKER_DEADLINE_S)


SCENARIOS = [by_topic, compacted, of_a_tenant]
