"""Events to bytes and back with fastavro, from `schemas/`: a reader and writer that is not the service's own.

It must not know what the service does with an event.
"""

import base64
import io
import json
import pathlib
import struct
import time
import uuid

import fastavro
import fastavro.schema

SCHEMAS = pathlib.Path(__file__).resolve().parents[2] / "schemas"
JSON_HEADER = ("content-type", b"application/json")
AVRO_HEADER = ("content-type", b"application/avro")


class Schema:
    """One event's schema: parsed, as text, and its CRC-64-AVRO fingerprint as it stands on the wire."""

    def __init__(self, path):
        self.text = path.read_text(encoding="utf-8")
        self.parsed = fastavro.parse_schema(json.loads(self.text))
        canonical = fastavro.schema.to_parsing_canonical_form(json.loads(self.text))
        self.fingerprint = struct.pack("<Q", crc_64_avro(canonical.encode()))


def crc_64_avro(data):
    """The specification's Rabin fingerprint, written out so that it leans on nobody's reading of its byte order."""
    crc = EMPTY
    for byte in data:
        crc = (crc >> 8) ^ FINGERPRINTS[(crc ^ byte) & 0xFF]
    return crc


def fingerprint_table():
    table = []
    for value in range(256):
        for _ in range(8):
            value = (value >> 1) ^ (EMPTY if value & 1 else 0)
        table.append(value)
    return table


EMPTY = 0xC15D213AA4D7A795
FINGERPRINTS = fingerprint_table()

INVOCATION = Schema(SCHEMAS / "invocation.avsc")
PRE_TRIGGER = Schema(SCHEMAS / "pre-trigger.avsc")
FUNCTION = Schema(SCHEMAS / "function-definition.avsc")
RESULT = Schema(SCHEMAS / "invocation-result.avsc")
OUTCOME = Schema(SCHEMAS / "pre-trigger-outcome.avsc")


def datum(schema, event):
    buffer = io.BytesIO()
    fastavro.schemaless_writer(buffer, schema.parsed, event, strict_allow_default=True)
    return buffer.getvalue()


def single_object(schema, event):
    """Avro single-object encoding, and the headers to send with it."""
    return b"\xc3\x01" + schema.fingerprint + datum(schema, event), [AVRO_HEADER]


def confluent(schema_id):
    """The way to write Confluent framing with this schema id."""

    def write(schema, event):
        return b"\x00" + struct.pack(">I", schema_id) + datum(schema, event), [AVRO_HEADER]

    return write


def as_json(_schema, event):
    """JSON, and the header without which it is not read as JSON."""

    def plain(value):
        if isinstance(value, bytes):
            try:
                return value.decode()
            except UnicodeDecodeError:
                return {"base64": base64.b64encode(value).decode()}
        raise TypeError(type(value))

    return json.dumps(event, default=plain).encode(), [JSON_HEADER]


def read_result(value, schema_ids=()):
    """A result from any framing. Times stay numbers: milliseconds since the epoch."""
    if value[:2] == b"\xc3\x01":
        if value[2:10] != RESULT.fingerprint:
            raise ValueError(f"a result of another schema: {value[2:10].hex()}, expected {RESULT.fingerprint.hex()}")
        return read_datum(RESULT, "completed_at", value, 10)
    if value[:1] == b"\x00":
        (schema_id,) = struct.unpack(">I", value[1:5])
        if schema_id not in schema_ids:
            raise ValueError(f"a result with schema id {schema_id}, registered are {sorted(schema_ids)}")
        return read_datum(RESULT, "completed_at", value, 5)
    result = json.loads(value)
    payload = result.get("payload")
    if isinstance(payload, str):
        result["payload"] = payload.encode()
    elif payload is not None:
        result["payload"] = base64.b64decode(payload["base64"], validate=True)
    return result


def read_invocation(value):
    """A call in single-object encoding."""
    return fastavro.schemaless_reader(io.BytesIO(value[10:]), INVOCATION.parsed)


def read_outcome(value):
    """The outcome of a pre-trigger, in the framing that the service writes by default."""
    if value[:10] != b"\xc3\x01" + OUTCOME.fingerprint:
        raise ValueError(f"no outcome of a pre-trigger: {value[:10].hex()}")
    return read_datum(OUTCOME, "ended_at", value, 10)


def read_datum(schema, time_field, value, start):
    buffer = io.BytesIO(value)
    buffer.seek(start)
    event = fastavro.schemaless_reader(buffer, schema.parsed)
    if buffer.tell() != len(value):
        raise ValueError(f"{len(value) - buffer.tell()} bytes after the event")
    event[time_field] = round(event[time_field].timestamp() * 1_000)
    return event


def now_ms():
    return time.time_ns() // 1_000_000


def invocation(function, payload=b"", **fields):
    """One call, with an id of its own unless the caller has one."""
    return {"id": str(uuid.uuid4()), "function": function, "payload": payload, "invoked_at": now_ms(), **fields}


def pre_trigger(function, **fields):
    """One notice of calls to come."""
    return {"id": str(uuid.uuid4()), "source": "e2e", "function": function, "emitted_at": now_ms(), **fields}
