"""The bytes of many small files, read with as little work for Python as can be.

`open` makes three objects for each file, which takes longer than the reading. Everything here raises OSError.
"""

from __future__ import annotations

import os

_READ_ONLY = os.O_RDONLY | getattr(os, "O_BINARY", 0)
_PIECE = 1 << 16
_START, _END = 1 << 13, 8


def read_start(path: str, limit: int, expected: int = 4096) -> bytes:
    """A file's first bytes, at most `limit` (all of a shorter file); room for `expected` is made at first."""
    descriptor = os.open(path, _READ_ONLY)
    try:
        return _read(descriptor, limit, expected)
    finally:
        os.close(descriptor)


def read_ends(path: str, limit: int, size_bytes: int) -> tuple[bytes, bytes]:
    """All of a file of at most `limit` bytes, and its last eight; of a larger one some of the first.

    `size_bytes` is what the listing said.
    """
    descriptor = os.open(path, _READ_ONLY)
    try:
        if size_bytes <= limit:
            data = _read(descriptor, limit + 1, size_bytes + 1)
            if len(data) <= limit:
                return data, data[-_END:]
        else:
            data = _read(descriptor, _START, _START)
        if os.fstat(descriptor).st_size >= _END:  # it may have shrunk since
            os.lseek(descriptor, -_END, os.SEEK_END)
        return data, os.read(descriptor, _END)
    finally:
        os.close(descriptor)


def _read(descriptor: int, limit: int, expected: int) -> bytes:
    data = os.read(descriptor, min(limit, expected))
    while len(data) < limit and (more := os.read(descriptor, min(limit - len(data), _PIECE))):
        data += more
    return data
