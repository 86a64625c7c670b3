"""The broker's files: which batches a partition has, and bytes in them changed as a failing disk changes them.

Brokers give out what stands in their files without another look at the checksum. It must not touch a broker that a test did not
start.
"""

import dataclasses
import pathlib
import struct
import time

# base offset, length, leader epoch, magic, checksum, attributes, last offset delta
HEAD = struct.Struct(">qiibIhi")
# Bytes before the records, and before what the length counts.
RECORDS_AT = 61
LENGTH_AT = 12
CODECS = ("none", "gzip", "snappy", "lz4", "zstd")
DEADLINE_S = 30


@dataclasses.dataclass(frozen=True)
class Batch:
    """A batch in a file: the offsets that it has, how it is packed, and where its records stand."""

    file: pathlib.Path
    first: int
    last: int
    codec: str
    records_at: int
    records_bytes: int


def batches(directory, topic, partition):
    """The batches of a partition, in order."""
    found = []
    for file in sorted((pathlib.Path(directory) / "data" / f"{topic}-{partition}").glob("*.log")):
        data, at = file.read_bytes(), 0
        while at + RECORDS_AT <= len(data):
            first, length, _, magic, _, attributes, delta = HEAD.unpack_from(data, at)
            if magic != 2:
                break
            size = length + LENGTH_AT - RECORDS_AT
            found.append(Batch(file, first, first + delta, CODECS[attributes & 7], at + RECORDS_AT, size))
            at += length + LENGTH_AT
    return found


def batch_at(directory, topic, partition, offset):
    """The batch that an offset lies in, as soon as the broker has written it."""
    until = time.monotonic() + DEADLINE_S
    while True:
        for batch in batches(directory, topic, partition):
            if batch.first <= offset <= batch.last:
                return batch
        assert time.monotonic() < until, f"offset {offset} of {topic}/{partition} stands in no file"
        time.sleep(0.05)


def spoil(batch, at=0, count=8):
    """Turns bits of a batch's records round."""
    with open(batch.file, "r+b") as file:
        file.seek(batch.records_at + at)
        before = file.read(count)
        file.seek(batch.records_at + at)
        file.write(bytes(byte ^ 0xFF for byte in before))


def replace(batch, before, after):
    """Puts other bytes of the same number in the place of all that are `before`; how many times."""
    assert len(before) == len(after)
    with open(batch.file, "r+b") as file:
        file.seek(batch.records_at)
        records = file.read(batch.records_bytes)
        file.seek(batch.records_at)
        file.write(records.replace(before, after))
    return records.count(before)
