"""A JSON file as a value, with the line and column of everything in it and all that is wrong with its text.

`json_reader.py` reads the text; here is the file around it: whether it is there, what it is encoded in, where a path
into its value stands.
"""

from __future__ import annotations

import codecs
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from simpletune.config.json_cursor import JsonPath, Position, SyntaxProblem
from simpletune.config.json_reader import Reader

__all__ = ["JsonFile", "JsonPath", "Position", "SyntaxProblem", "parse", "read"]

MAXIMUM_BYTES = 4 << 20


@dataclass(frozen=True)
class JsonFile:
    """A file's value, where each part of it stands, and what is wrong with its text.

    `value` is None when nothing could be read. `unreadable` are paths that stand in the file but whose value could not
    be read, or isn't sure to be what was meant. `partial` are objects and lists whose end could not be read: more may
    stand in them.
    """

    path: Path
    value: Any
    problems: tuple[SyntaxProblem, ...]
    keys: Mapping[JsonPath, Position] = field(default_factory=dict)
    values: Mapping[JsonPath, Position] = field(default_factory=dict)
    unreadable: frozenset[JsonPath] = frozenset()
    partial: frozenset[JsonPath] = frozenset()
    lines: tuple[str, ...] = ()
    text: str = ""  # all of it, without a byte order mark

    def place(self, path: JsonPath, on_key: bool = False) -> Position | None:
        """Where `path` stands, or the nearest thing around it that stands in the file."""
        for length in range(len(path), -1, -1):
            table = self.keys if on_key and length == len(path) else self.values
            found = table.get(path[:length]) or self.values.get(path[:length])
            if found:
                return found
        return None

    def line(self, number: int) -> str:
        """Source line `number`, without its end; empty outside the file."""
        return self.lines[number - 1] if 0 < number <= len(self.lines) else ""


def read(path: Path) -> JsonFile:
    """Read a file; it not being there, or not being text, is a problem like any other. Raises nothing."""
    try:
        if path.is_dir():
            return _unreadable(path, "is a folder, not a file")
        if not path.is_file():
            return _unreadable(path, "no such file")
        if path.stat().st_size > MAXIMUM_BYTES:
            return _unreadable(path, f"is larger than {MAXIMUM_BYTES >> 20} MB, which is no settings file")
        data = path.read_bytes()
    except (OSError, ValueError) as error:
        return _unreadable(path, f"can't be read: {getattr(error, 'strerror', None) or error}")
    return parse(path, data)


def parse(path: Path, data: bytes) -> JsonFile:
    """Read `data` as if it were the content of `path`."""
    if data and not data.strip(b"\0"):
        hint = "its content was lost, perhaps when the computer stopped while it was written; write it again"
        return _unreadable(path, "holds nothing but zero bytes", hint, Position(1, 1))
    if data.startswith((codecs.BOM_UTF16_LE, codecs.BOM_UTF16_BE)) or data[:4].count(0) > 1:
        return _unreadable(
            path, "is not UTF-8 but UTF-16 or UTF-32", "save it again with the encoding UTF-8", Position(1, 1)
        )
    data = data.removeprefix(codecs.BOM_UTF8)
    text = data.decode("utf-8", errors="replace")
    reader = Reader(text)
    try:
        data.decode("utf-8")
    except UnicodeDecodeError as error:
        where = len(data[: error.start].decode("utf-8"))
        reader.problem(where, f"byte 0x{data[error.start]:02X} is not UTF-8", "save the file with the encoding UTF-8")
    value = reader.read()
    problems, unreadable, partial = tuple(reader.problems), frozenset(reader.unreadable), frozenset(reader.partial)
    return JsonFile(path, value, problems, reader.keys, reader.values, unreadable, partial, reader.lines, text)


NOWHERE = Position(0, 0)


def _unreadable(path: Path, message: str, hint: str | None = None, position: Position = NOWHERE) -> JsonFile:
    return JsonFile(path, None, (SyntaxProblem(position, message, hint),), unreadable=frozenset({()}))
