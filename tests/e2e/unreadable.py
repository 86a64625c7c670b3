"""Scenarios: one message or one partition never stops the others. Each has an innocent partition, or an innocent call, beside it."""

import time

import confluent_kafka

import events
import segments
from bench import ECHO, Skipped, definition
from faults import PREFIX
from streams import QUIET

# What compresses well, so that every client does it.
PAYLOAD = b"a" * 20_000
# Lines that a partition which stands may cost in the time that a scenario looks at it.
LINES_MAX = 12
LOOKED_AT_S = 15
# What a record unpacks to that nobody could take.
BOMB_BYTES = 400 << 20


def files(bench):
    """The directory of the broker whose files a scenario reads and changes."""
    if not bench.broker_directory:
        raise Skipped("needs the broker's files: FOREWARM_TEST_KAFKA_DIR is not set")
    return bench.broker_directory


class Packed:
    """Sends batches that are packed, each with the records that it was given and no others."""

    def __init__(self, bench, codec="gzip"):
        self.bench = bench
        settings = {"bootstrap.servers": bench.bootstrap, "compression.type": codec, "linger.ms": 200, **QUIET}
        self.producer = confluent_kafka.Producer(settings)

    def send(self, topic, records, partition):
        """The offsets of (key, value, headers)."""
        offsets = []

        def stored(fault, message):
            assert fault is None, fault
            offsets.append(message.offset())

        for key, value, headers in records:
            self.producer.produce(topic, value, key, partition, stored, headers=headers)
        assert self.producer.flush(60) == 0
        return offsets

    def calls(self, count, partition, payload=PAYLOAD):
        """One batch of calls to `echo`: their ids and offsets."""
        made = [events.invocation("echo", payload) for _ in range(count)]
        records = [(None, *events.single_object(events.INVOCATION, event)) for event in made]
        offsets = self.send(self.bench.topics["invocations"], records, partition)
        return [event["id"] for event in made], offsets


def codecs(bench):
    """Calls in batches of every codec, from two clients, are answered; and so are definitions and pre-triggers."""
    directory = files(bench)
    service = bench.service().start()
    results = bench.results()
    topic, functions = bench.topics["invocations"], bench.topics["functions"]
    for number, codec in enumerate(segments.CODECS[1:]):
        packed = Packed(bench, codec)
        value, headers = events.as_json(events.FUNCTION, definition("echo", ECHO, environment={"PADDING": "p" * 4_000}))
        (defined,) = packed.send(functions, [(b"echo", value, headers)], 0)
        assert segments.batch_at(directory, functions, 0, defined).codec == codec
        ids, offsets = packed.calls(3, 0)
        results.wait_all(ids, 60)
        assert segments.batch_at(directory, topic, 0, offsets[0]).codec == codec
        # The commands send with librdkafka as this service builds it.
        before = len(batches_packed(directory, bench, codec))
        ours = bench.service(**{"kafka.properties": {"compression.type": codec}, "node": {"id": f"sender-{number}"}})
        said = ours.command("invoke", "echo", "--payload", PAYLOAD.decode(), "--wait", "60s")
        assert PAYLOAD.decode() in said, said
        assert len(batches_packed(directory, bench, codec)) > before, f"nothing was sent with {codec}"
    assert service.stop() == 0
    assert set(results.statuses) == {"ok"}, results.statuses
    return ", ".join(segments.CODECS[1:])


def batches_packed(directory, bench, codec):
    """The batches of calls that are packed so."""
    everywhere = (segments.batches(directory, bench.topics["invocations"], number) for number in range(6))
    return [batch for batches in everywhere for batch in batches if batch.codec == codec]


def spoiled_batch(bench):
    """A batch that does not unpack stops its partition, which is named; others go on. A setting passes it over."""
    return stands(bench, "gzip", {})


def spoiled_checksum(bench):
    """So does a batch whose checksum is wrong, where checksums are looked at: no call behind it passes it."""
    return stands(bench, "none", {"check.crcs": "true"})


def stands(bench, codec, properties):
    """Partition 0 has a good batch, a bad one, and a call behind it. The calls of the bad one are lost only by a setting."""
    directory = files(bench)
    service = bench.service(**{"kafka.properties": properties})
    results, letters = bench.results(), bench.dead_letters()
    bench.define(definition("echo", ECHO))
    topic = bench.topics["invocations"]
    packed = Packed(bench, codec)
    good, _ = packed.calls(3, 0)
    lost, lost_at = packed.calls(5, 0)
    behind = [bench.call("echo", b"behind", partition=0)]
    bench.sender.flush()
    batch = segments.batch_at(directory, topic, 0, lost_at[0])
    assert (batch.first, batch.last, batch.codec) == (lost_at[0], lost_at[-1], codec), (batch, lost_at)
    segments.spoil(batch)
    service.start()
    results.wait_all(good, 60)
    until = time.monotonic() + 30
    while not (named := [each for each in service.conditions() if each["subject"] == f"{topic}/0"]):
        assert time.monotonic() < until, f"no condition names the partition: {service.log_tail()}"
        time.sleep(0.1)
    assert named[0]["kind"] == "partition-stands" and f"offset {batch.first}" in named[0]["detail"], named
    lines, began = len(service.log_lines()), time.monotonic()
    others = []
    while time.monotonic() < began + LOOKED_AT_S:
        ids = [bench.call("echo", b"beside", partition=number) for number in range(1, 6)]
        bench.sender.flush()
        results.wait_all(ids, 10)
        others += ids
        assert service.not_ready() is None, service.not_ready()
        time.sleep(0.2)
    grown = len(service.log_lines()) - lines
    assert grown <= LINES_MAX, f"{grown} lines within {LOOKED_AT_S} s:\n{service.log_tail()}"
    assert not any(results.seen[each] for each in [*lost, *behind]), "a call passed the batch that cannot be read"
    assert not letters.letters, letters.letters
    assert service.stop() == 0
    # Another start, by whoever decides that the calls are lost.
    patient = bench.service(**{"kafka.properties": properties, "ingest": {"pass-unreadable-after": "3s"}}).start()
    results.wait_all(behind, 90)
    (letter,) = letters.wait_for(1, 30)
    assert letter.header(f"{PREFIX}reason") == b"unreadable", letter.headers
    detail = letter.header(f"{PREFIX}detail").decode()
    assert f"offsets {batch.first} to {batch.last}" in detail, detail
    until = time.monotonic() + 30
    while patient.conditions():
        assert time.monotonic() < until, patient.conditions()
        time.sleep(0.2)
    assert patient.stop() == 0
    assert not any(results.seen[each] for each in lost)
    assert results.duplicates() == 0
    # The offsets were committed: nobody meets the batch again.
    again = bench.service(**{"kafka.properties": properties}).start()
    again.wait_ready(True)
    last = bench.call("echo", b"last", partition=0)
    bench.sender.flush()
    results.wait_all([last], 30)
    assert again.conditions() == [] and again.stop() == 0
    return f"{len(others)} calls beside it answered within {LOOKED_AT_S} s, {grown} lines of log"


def bomb(bench):
    """A record of 0.4 MB that unpacks to 400 MiB is passed over, and neither ends the node nor fills its memory."""
    service = bench.service().start()
    results, letters = bench.results(), bench.dead_letters()
    bench.define(definition("echo", ECHO))
    results.wait_all([bench.call("echo", b"before", partition=0)], 60)
    topic = bench.topics["invocations"]
    settings = {"bootstrap.servers": bench.bootstrap, "compression.type": "gzip", "message.max.bytes": 1_000_000_000, **QUIET}
    producer = confluent_kafka.Producer(settings)
    producer.produce(topic, bytes(BOMB_BYTES), None, 0)
    assert producer.flush(120) == 0
    behind = bench.call("echo", b"behind", partition=0)
    bench.sender.flush()
    most_bytes, until = 0, time.monotonic() + 60
    while not results.seen[behind]:
        beside = [bench.call("echo", b"beside", partition=number) for number in range(1, 6)]
        bench.sender.flush()
        results.wait_all(beside, 20)
        most_bytes = max(most_bytes, service.resident_bytes())
        assert time.monotonic() < until, service.log_tail()
    (letter,) = letters.wait_for(1, 30)
    assert letter.header(f"{PREFIX}reason") == b"unreadable", letter.headers
    assert b"ingest.batch-bytes-max" in letter.header(f"{PREFIX}detail"), letter.headers
    assert most_bytes < BOMB_BYTES // 2, f"{most_bytes >> 20} MiB resident"
    assert service.stop() == 0
    return f"{most_bytes >> 20} MiB resident at most"


def spoiled_definition(bench):
    """A batch of definitions and one of pre-triggers that do not unpack: a start passes them over and says so."""
    directory = files(bench)
    bench.make_topics()
    functions = bench.topics["functions"]
    packed = Packed(bench)
    padding = {"PADDING": "p" * 4_000}
    records = []
    for name in ("lost-1", "lost-2"):
        value, headers = events.as_json(events.FUNCTION, definition(name, ECHO, environment=padding))
        records.append((name.encode(), value, headers))
    offsets = packed.send(functions, records, 0)
    bench.define(definition("echo", ECHO))
    batch = segments.batch_at(directory, functions, 0, offsets[0])
    assert (batch.first, batch.last, batch.codec) == (offsets[0], offsets[-1], "gzip"), batch
    segments.spoil(batch)
    notices = [(b"echo", *events.single_object(events.PRE_TRIGGER, events.pre_trigger("echo"))) for _ in range(50)]
    noticed = packed.send(bench.topics["pre-triggers"], notices, 0)
    segments.spoil(segments.batch_at(directory, bench.topics["pre-triggers"], 0, noticed[0]))
    began = time.monotonic()
    service = bench.service(**{"pre-triggers": {"start": "earliest"}}).start()
    results, outcomes = bench.results(), bench.outcomes()
    call = bench.call("echo", b"x")
    bench.sender.flush()
    results.wait_all([call], 60)
    took_s = time.monotonic() - began
    service.wait_ready(True)
    (named,) = service.conditions()
    assert (named["kind"], named["subject"]) == ("records-passed", f"{functions}/0"), named
    assert f"offsets {batch.first} to {batch.last}" in named["detail"], named
    # A pre-trigger behind the spoiled ones, in their partition, ends as every other.
    until = time.monotonic() + 60
    while not service.log_lines("records that cannot be read are passed over topic=" + quoted(bench.topics["pre-triggers"])):
        assert time.monotonic() < until, service.log_tail()
        time.sleep(0.1)
    event = events.pre_trigger("echo", window_ms=2_000)
    value, headers = events.single_object(events.PRE_TRIGGER, event)
    bench.sender.send(bench.topics["pre-triggers"], value, b"echo", headers, partition=0)
    bench.sender.flush()
    outcomes.one(event["id"])
    assert service.stop() == 0
    return f"the first call behind it was answered {took_s:.1f} s after the start"


def quoted(text):
    """A text as the log has it."""
    return f'"{text}"'


def headers_without_end(bench):
    """Messages of 99,000 empty headers, and names that are no text: dead letters without value, and no memory or log for them."""
    directory = files(bench)
    service = bench.service().start()
    results, letters = bench.results(), bench.dead_letters()
    bench.define(definition("echo", ECHO))
    results.wait_all([bench.call("echo")], 60)
    before_bytes, before_lines = service.resident_bytes(), len(service.log_lines())
    topic = bench.topics["invocations"]
    count, most_bytes = 200, 0
    event = events.invocation("echo", b"x")
    value, headers = events.single_object(events.INVOCATION, event)
    flood = Packed(bench)
    for _ in range(count // 20):
        flood.send(topic, [(b"k", value, [("", b"")] * 99_000)] * 20, 0)
        most_bytes = max(most_bytes, service.resident_bytes())
    beside = [bench.call("echo", b"beside", partition=1) for _ in range(20)]
    bench.sender.flush()
    results.wait_all(beside, 30)
    until = time.monotonic() + 120
    while len(letters.letters) < count:
        most_bytes = max(most_bytes, service.resident_bytes())
        assert time.monotonic() < until, f"{len(letters.letters)} of {count} letters"
        time.sleep(0.05)
    letter = letters.letters[0]
    assert letter.header(f"{PREFIX}reason") == b"too_many_headers", letter.headers
    assert b"99000 headers" in letter.header(f"{PREFIX}detail"), letter.headers
    assert letter.value is None and letter.key == b"k", letter
    grown = (most_bytes - before_bytes) >> 20
    assert grown < 256, f"grew by {grown} MiB for {count} messages"
    # Names that are no text, as many as a message may have. No client sends them: the broker's file is changed.
    partition, offset = bench.sender.send_and_locate(topic, value, None, [*headers, *[("namename", b"v")] * 60], 2)
    results.one(event["id"])
    batch = segments.batch_at(directory, topic, partition, offset)
    assert segments.replace(batch, b"namename", b"\xff\xfemename") == 60
    assert service.stop() == 0
    again = bench.service(ingest={"group-id": f"{bench.name}-other"}).start()
    until = time.monotonic() + 60
    while results.seen[event["id"]] < 2:
        assert time.monotonic() < until, again.log_tail()
        time.sleep(0.05)
    lines = len(again.log_lines("panicked"))
    assert lines == 0, f"{lines} lines of panics"
    assert again.stop() == 0
    lines = len(service.log_lines()) - before_lines
    return f"{count} messages of 99,000 headers: {grown} MiB more at most, {lines} lines of log"


def large_message(bench):
    """A message larger than one may be is a dead letter without its value; calls beside it and behind it are answered."""
    bench.make_topics(changes={"invocations": {"config": {"max.message.bytes": "8000000"}}})
    service = bench.service(ingest={"message-bytes-max": 1_000_000}).start()
    results, letters = bench.results(), bench.dead_letters()
    bench.define(definition("echo", ECHO))
    # Packed it is small, so that no client and no broker minds.
    event = events.invocation("echo", b"x" * 3_000_000)
    value, headers = events.single_object(events.INVOCATION, event)
    settings = {"bootstrap.servers": bench.bootstrap, "compression.type": "zstd", "message.max.bytes": 8_000_000, **QUIET}
    producer = confluent_kafka.Producer(settings)
    producer.produce(bench.topics["invocations"], value, b"k", 0, headers=headers)
    assert producer.flush(60) == 0
    ids = [bench.call("echo", b"x" * 900_000, partition=0), bench.call("echo", b"x", partition=1)]
    bench.sender.flush()
    results.wait_all(ids, 60)
    (letter,) = letters.wait_for(1, 60)
    assert letter.header(f"{PREFIX}reason") == b"too_large" and letter.value is None, letter.headers
    assert letter.header(f"{PREFIX}payload-bytes-omitted") == b"%d" % len(value), letter.headers
    assert b"1000000 (ingest.message-bytes-max)" in letter.header(f"{PREFIX}detail"), letter.headers
    assert service.stop() == 0
    return f"{len(value)} bytes"


SCENARIOS = [codecs, spoiled_batch, spoiled_checksum, bomb, spoiled_definition, headers_without_end, large_message]
