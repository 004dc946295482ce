"""The file of an index: a table column by column, so that 100,000 rows load in some hundredths of a second.

Plain numbers and text; nothing in it is ever run.

    8 bytes     MAGIC
    4 bytes     CRC-32 of all that follows, little-endian
    4 bytes     length of the head, little-endian
    head        JSON: what the answers depend on, small tables, and [name, bytes] of each column in turn
    columns     whole numbers in this machine's byte order; texts in UTF-8 with a zero byte between two
"""

from __future__ import annotations

import json
import sys
import zlib
from array import array
from collections.abc import Iterable, Iterator, Mapping
from typing import Any, NamedTuple

from simpletune.data.header import READER, Header
from simpletune.data.sources import Reason, Rejected

MAGIC = b"STindex2"
"""Count up when anything of the layout changes."""

_MACHINE = [sys.byteorder, hash((1, 2, 3, 4))]
"""What reads the same file alike: the order of a number's bytes, and how Python makes a fingerprint."""


class Entry(NamedTuple):
    """What is known of a picture and of the text file beside it; fingerprints that are 0 belong to no file.

    `captions` and `notes` are what the text file gave.
    """

    stamp: int = 0
    header: Header | Rejected | None = None
    text_stamp: int = 0
    captions: tuple[str, ...] = ()
    notes: tuple[str, ...] = ()


Values = dict[str, tuple[int, bytes]]
"""By name: the fingerprint of a picture, and something that was made of all its bytes."""

BESIDE = {"digests": 32, "focuses": 16}
"""Kinds of values that only some of the pictures have, and the bytes of each: SHA-256; two floats."""


class Packed(NamedTuple):
    """Values of one kind that have not been unpacked, as most scans need none."""

    names: bytes = b""
    stamps: bytes = b""
    values: bytes = b""

    def unpacked(self, size: int) -> Values:
        values = [self.values[start : start + size] for start in range(0, len(self.values), size)]
        names = _texts(self.names, len(values))
        return dict(zip(names, zip(_numbers(self.stamps, "q"), values, strict=True), strict=True))


def pack(entries: Mapping[str, Entry], captions_by: str, beside: Mapping[str, Values]) -> bytes:
    """The bytes of a file. No name or caption may have a zero byte in it, no caption a line end."""
    refusals: dict[Rejected, int] = {}
    remarks: dict[tuple[str, ...], int] = {}
    sizes = [_size(entry.header, refusals) for entry in entries.values()]
    columns = {
        "names": _packed_texts(entries),
        "stamps": _packed_numbers((entry.stamp for entry in entries.values()), "q"),
        "widths": _packed_numbers((width for width, _ in sizes), "I"),
        "heights": _packed_numbers((height for _, height in sizes), "I"),
        "text_stamps": _packed_numbers((entry.text_stamp for entry in entries.values()), "q"),
        "captions": _packed_texts("\n".join(entry.captions) for entry in entries.values()),
        "notes": _packed_numbers((remarks.setdefault(entry.notes, len(remarks)) for entry in entries.values()), "I"),
    }
    for kind, values in beside.items():
        columns[f"{kind}.names"] = _packed_texts(values)
        columns[f"{kind}.stamps"] = _packed_numbers((stamp for stamp, _ in values.values()), "q")
        columns[f"{kind}.values"] = b"".join(value for _, value in values.values())
    head = {
        "machine": _MACHINE,
        "headers_by": READER,
        "captions_by": captions_by,
        "rows": len(entries),
        "refusals": [[why.reason.value, why.detail] for why in refusals],
        "remarks": list(remarks),
        "columns": [[name, len(column)] for name, column in columns.items()],
    }
    text = json.dumps(head).encode()
    body = b"".join([len(text).to_bytes(4, "little"), text, *columns.values()])
    return MAGIC + zlib.crc32(body).to_bytes(4, "little") + body


def unpack(data: bytes) -> tuple[dict[str, Entry], str, dict[str, Packed]]:
    """What `pack` was given; headers that another reader found are None.

    Raises ValueError for a file that is damaged, or from another version or kind of machine.
    """
    head, columns = _parts(memoryview(data))
    rows, remarks = head["rows"], [tuple(notes) for notes in head["remarks"]]
    entries = zip(
        _numbers(columns["stamps"], "q"),
        _headers(head, columns),
        _numbers(columns["text_stamps"], "q"),
        _lines(columns["captions"], rows),
        map(remarks.__getitem__, _numbers(columns["notes"], "I")),
        strict=True,
    )
    beside = {kind: Packed(*(bytes(columns[f"{kind}.{part}"]) for part in Packed._fields)) for kind in BESIDE}
    named = dict(zip(_texts(columns["names"], rows), map(Entry._make, entries), strict=True))
    return named, head["captions_by"], beside


def _parts(view: memoryview) -> tuple[dict[str, Any], dict[str, memoryview]]:
    if view[:8] != MAGIC or zlib.crc32(view[12:]) != int.from_bytes(view[8:12], "little"):
        raise ValueError("no whole index of this version")
    start = 16 + int.from_bytes(view[12:16], "little")
    head = json.loads(bytes(view[16:start]))
    if head["machine"] != _MACHINE:
        raise ValueError("written on another kind of machine")
    columns = {}
    for name, length in head["columns"]:
        columns[name] = view[start : start + length]
        start += length
    return head, columns


def _size(header: Header | Rejected | None, refusals: dict[Rejected, int]) -> tuple[int, int]:
    """A header as two numbers: a width of 0 says that there is none, and the height then which refusal, from 1."""
    if isinstance(header, Rejected):
        return 0, refusals.setdefault(header, len(refusals) + 1)
    return header or (0, 0)


class _Headers(dict[tuple[int, int], "Header | Rejected | None"]):
    """Headers by size; one object for all of a size."""

    def __missing__(self, size: tuple[int, int]) -> Header:
        self[size] = header = Header(*size)
        return header


def _headers(head: dict[str, Any], columns: Mapping[str, memoryview]) -> Iterator[Header | Rejected | None]:
    refusals = [Rejected(Reason(reason), detail) for reason, detail in head["refusals"]]
    known = _Headers({(0, number): why for number, why in enumerate(refusals, 1)})
    known[0, 0] = None
    sizes = zip(_numbers(columns["widths"], "I"), _numbers(columns["heights"], "I"), strict=True)
    if head["headers_by"] != READER:
        return (None for _ in sizes)
    return map(known.__getitem__, sizes)


def _numbers(column: bytes | memoryview, kind: str) -> list[int]:
    """Whole numbers: "q" of 64 bits with a sign, "I" of 32 without."""
    values = array(kind)
    values.frombytes(column)
    return values.tolist()


def _packed_numbers(values: Iterable[int], kind: str) -> bytes:
    return array(kind, values).tobytes()


def _texts(column: bytes | memoryview, count: int) -> list[str]:
    return str(column, "utf-8", "surrogatepass").split("\0") if count else []


def _packed_texts(values: Iterable[str]) -> bytes:
    return "\0".join(values).encode("utf-8", "surrogatepass")


def _lines(column: memoryview, count: int) -> list[tuple[str, ...]]:
    found = _texts(column, count)
    if b"\n" in bytes(column):
        return [tuple(text.split("\n")) if text else () for text in found]
    return [*zip(found, strict=True)]  # much faster; an entry without a text file then has an empty caption
