"""Two requests of Kafka's own protocol, written out: what brokers say of the cluster, and other replicas for a partition.

No client library lies between, so that a fault of one cannot pass for a fault of the brokers. Used by scripts/kafka and by
the tests. It must not keep a connection, or decide anything.
"""

import dataclasses
import io
import socket
import struct

METADATA = 3
ALTER_PARTITION_REASSIGNMENTS = 45
CORRELATION = 7
CLIENT = b"forewarm-test"
TIMEOUT_S = 2
ANSWER_BYTES_MAX = 1 << 20


class Refused(Exception):
    """A broker answered with an error code of Kafka's protocol."""


@dataclasses.dataclass(frozen=True)
class Partition:
    """What a broker knows of a partition. `leader` is None where it has none."""

    leader: int | None
    replicas: tuple
    in_sync: tuple


@dataclasses.dataclass(frozen=True)
class Metadata:
    """A broker's view: the brokers that are not fenced, by id, as host:port; and topics as {name: {number: Partition}}."""

    brokers: dict
    has_controller: bool
    topics: dict


def metadata(address, with_topics=False):
    """What the broker at host:port says of the cluster; None where it does not answer in time or in full."""
    # A null array asks for every topic, an empty one for none.
    request = struct.pack(">hhih", METADATA, 1, CORRELATION, len(CLIENT)) + CLIENT + struct.pack(">i", -1 if with_topics else 0)
    try:
        return read_metadata(Answer(exchange(address, request, TIMEOUT_S)))
    except (OSError, EOFError, struct.error, UnicodeDecodeError):
        return None


def reassign(address, topic, replicas, timeout_s=30):
    """Asks for other replicas of a topic's partitions, {number: [broker id]}; they come later. The first is preferred."""
    partitions = b"".join(
        struct.pack(">i", number) + compact(len(ids)) + struct.pack(f">{len(ids)}i", *ids) + NO_TAGS
        for number, ids in replicas.items()
    )
    topic_name = compact(len(topic)) + topic.encode()
    header = struct.pack(">hhih", ALTER_PARTITION_REASSIGNMENTS, 0, CORRELATION, len(CLIENT)) + CLIENT + NO_TAGS
    topics = compact(1) + topic_name + compact(len(replicas)) + partitions + NO_TAGS
    body = struct.pack(">i", timeout_s * 1_000) + topics + NO_TAGS
    answer = Answer(exchange(address, header + body, timeout_s + TIMEOUT_S))
    answer.take("ib")  # The correlation, and no tags.
    answer.take("i")  # For how long it throttles.
    answer.refused("all partitions")
    for _ in range(answer.compact_length()):
        answer.compact_text()
        for _ in range(answer.compact_length()):
            answer.refused(f"partition {answer.take('i')[0]} of {topic}")
            answer.take("b")
        answer.take("b")


NO_TAGS = b"\0"


def compact(length):
    """The length of a compact array or string: one more, as an unsigned varint."""
    left, encoded = length + 1, b""
    while left >= 0x80:
        encoded += bytes([left & 0x7F | 0x80])
        left >>= 7
    return encoded + bytes([left])


class Answer:
    """An answer's bytes, read from its beginning."""

    def __init__(self, data):
        self.data = io.BytesIO(data)

    def take(self, layout):
        size = struct.calcsize(f">{layout}")
        return struct.unpack(f">{layout}", self.exactly(size))

    def exactly(self, size):
        found = self.data.read(size)
        if len(found) < size:
            raise EOFError
        return found

    def text(self):
        (length,) = self.take("h")
        return self.exactly(length).decode() if length >= 0 else None

    def ids(self):
        (count,) = self.take("i")
        return self.take(f"{count}i")

    def compact_length(self):
        """Of a compact array or string; -1 for a null one."""
        value = shift = 0
        while True:
            (byte,) = self.exactly(1)
            value |= (byte & 0x7F) << shift
            shift += 7
            if byte < 0x80:
                return value - 1

    def compact_text(self):
        length = self.compact_length()
        return self.exactly(length).decode() if length >= 0 else None

    def refused(self, what):
        (code,), said = self.take("h"), self.compact_text()
        if code:
            raise Refused(f"{what}: error code {code}, {said}")


def read_metadata(answer):
    if answer.take("i") != (CORRELATION,):
        raise EOFError
    brokers = {}
    for _ in range(*answer.take("i")):
        (node,), host, (port,), _rack = answer.take("i"), answer.text(), answer.take("i"), answer.text()
        brokers[node] = f"{host}:{port}"
    (controller,) = answer.take("i")
    topics = {}
    for _ in range(*answer.take("i")):
        _error, name, _internal = answer.take("h"), answer.text(), answer.take("b")
        partitions = topics[name] = {}
        for _ in range(*answer.take("i")):
            _error, number, leader = answer.take("hii")
            partitions[number] = Partition(leader if leader >= 0 else None, answer.ids(), answer.ids())
    return Metadata(brokers, controller >= 0, topics)


def exchange(address, request, timeout_s):
    """Sends one request over a connection of its own; the answer's bytes."""
    host, port = address.rsplit(":", 1)
    with socket.create_connection((host, int(port)), timeout=timeout_s) as connection:
        connection.sendall(struct.pack(">i", len(request)) + request)
        (length,) = struct.unpack(">i", read_exactly(connection, 4))
        if not 0 < length < ANSWER_BYTES_MAX:
            raise EOFError
        return read_exactly(connection, length)


def read_exactly(connection, count):
    data = b""
    while len(data) < count:
        chunk = connection.recv(count - len(data))
        if not chunk:
            raise EOFError
        data += chunk
    return data
