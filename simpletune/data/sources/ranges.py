"""A file of which any stretch of bytes can be asked for, as a file to read and seek in."""

from __future__ import annotations

import io
import os
from collections.abc import Callable
from typing import TYPE_CHECKING, BinaryIO, cast

if TYPE_CHECKING:
    from _typeshed import WriteableBuffer


class _Ranges(io.RawIOBase):
    def __init__(self, read_at: Callable[[int, int], bytes], size: int) -> None:
        self._read_at, self._size, self._position = read_at, size, 0

    def readable(self) -> bool:
        return True

    def seekable(self) -> bool:
        return True

    def tell(self) -> int:
        return self._position

    def seek(self, offset: int, whence: int = os.SEEK_SET) -> int:
        start = {os.SEEK_SET: 0, os.SEEK_CUR: self._position, os.SEEK_END: self._size}[whence]
        if start + offset < 0:
            raise ValueError(f"a position of {start + offset}")
        self._position = start + offset
        return self._position

    def readinto(self, buffer: WriteableBuffer) -> int:
        view = memoryview(buffer).cast("B")
        wanted = min(len(view), self._size - self._position)
        if wanted <= 0:
            return 0
        data = self._read_at(self._position, wanted)
        view[: len(data)] = data
        self._position += len(data)
        return len(data)


def open_ranges(read_at: Callable[[int, int], bytes], size: int, buffer_bytes: int) -> BinaryIO:
    """A file of `size` bytes. `read_at(offset, count)` gives some of the `count` bytes from there on, at least one."""
    return cast(BinaryIO, io.BufferedReader(_Ranges(read_at, size), buffer_bytes))
