"""Caption tables of text: CSV and JSON Lines, row by row.

What is wrong with a row is an answer, and the next one follows; what is wrong with the file is a TableError.
"""

from __future__ import annotations

import csv
import json
import re
from collections import deque
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import TextIO

from simpletune.data.captions.table_columns import (
    CAPTION_COLUMNS,
    FILE_COLUMNS,
    Row,
    TableError,
    Wanted,
    Wrong,
    cells_of,
    choose,
    lacks,
)

_DELIMITERS = (",", ";", "\t")
_SAYS_SEPARATOR = re.compile(r"(?i)sep=([,;\t|:])")
_LONGEST_LINE = 4 << 20
_MOST_LINES = 1000


def read_csv(path: Path, wanted: Wanted) -> Iterator[Row | Wrong]:
    if csv.field_size_limit() < _LONGEST_LINE:
        csv.field_size_limit(_LONGEST_LINE)
    with _text(path) as file:
        lines = _Lines(file)
        header, delimiter = _header(lines, path.name)
        chosen = choose(header, header, wanted, path.name)
        for number, cells in _records(lines, delimiter):
            if isinstance(cells, str):
                yield Wrong(number, cells)
            elif len(cells) > len(header) and any(cells[len(header) :]):
                message = f"{len(cells)} cells in a table of {len(header)} columns; quote a caption with {delimiter!r}"
                yield Wrong(number, message)
            elif any(cells):
                cells += [""] * (len(header) - len(cells))
                yield Row(number, *cells_of(cells, chosen))


def _header(lines: _Lines, name: str) -> tuple[list[str], str]:
    """The columns' names, and what stands between cells: of the separators the one that gives most names.

    The header alone is asked, as captions are full of commas. A first line `sep=;` says it, as for Excel.
    """
    named = None
    for line in lines:
        text = (line or "").strip("\r\n")
        if named is None and (said := _SAYS_SEPARATOR.fullmatch(text)):
            named = said[1]
        elif text.strip():
            tried = {mark: _split(text, mark) for mark in ([named] if named else _DELIMITERS)}
            delimiter = max(tried, key=lambda mark: len(tried[mark]))
            return [cell.strip() for cell in tried[delimiter]], delimiter
    raise TableError(f"{name} is empty", "its first line names the columns, such as file_name,caption")


def _split(line: str, delimiter: str) -> list[str]:
    try:
        return next(csv.reader([line], delimiter=delimiter, skipinitialspace=True), [])
    except csv.Error:
        return []


class _Lines:
    """The lines of a text file, from 1, with the possibility to go back within a record; None for one that is too long.

    `record` are the lines since `begin`.
    """

    def __init__(self, file: TextIO) -> None:
        self._file = file
        self._again: deque[str | None] = deque()
        self.record: list[str | None] = []
        self.number = 0

    def __iter__(self) -> Iterator[str | None]:
        return self

    def __next__(self) -> str | None:
        line = self._again.popleft() if self._again else self._read()
        self.number += 1
        self.record.append(line)
        return line

    def _read(self) -> str | None:
        line = self._file.readline(_LONGEST_LINE)
        if not line:
            raise StopIteration
        if len(line) < _LONGEST_LINE or line.endswith(("\n", "\r")):
            return line
        while line and not line.endswith(("\n", "\r")):
            line = self._file.readline(_LONGEST_LINE)
        return None

    def begin(self) -> int:
        """A record begins: the number of its first line."""
        self.record.clear()
        return self.number + 1

    def back(self) -> None:
        """Go back to the record's second line, as its first one is no beginning."""
        again = self.record[1:]
        self._again.extendleft(reversed(again))
        self.number -= len(again)


def _records(lines: _Lines, delimiter: str) -> Iterator[tuple[int, list[str] | str]]:
    """Each record's first line and its cells, or what is wrong with it.

    A quote that is never closed would take all that follows into one cell. Only its own line is lost: reading goes on
    with the next.
    """

    def fed() -> Iterator[str]:
        for line in lines:
            if line is None:
                raise csv.Error(f"a line of over {_LONGEST_LINE >> 20} MiB")
            if len(lines.record) > _MOST_LINES:
                raise csv.Error("unexpected end of data")
            yield line.replace("\0", " ")  # no caption has one: the index separates them by it

    while True:
        number = lines.begin()
        # A reader each time would cost half of all time; a generator that has raised is at its end.
        reader = csv.reader(fed(), delimiter=delimiter, skipinitialspace=True, strict=True)
        try:
            for cells in reader:
                yield number, cells
                number = lines.begin()
            return
        except csv.Error as error:
            yield number, _csv_mistake(str(error))
            lines.back()


def _csv_mistake(message: str) -> str:
    if message == "unexpected end of data":
        return "a quote that is never closed"
    if "expected after" in message:
        return 'a quote inside a quoted cell; it must be doubled ("")'
    return message


def read_jsonl(path: Path, wanted: Wanted) -> Iterator[Row | Wrong]:
    empty = True
    with _text(path) as file:
        lines = _Lines(file)
        for line in lines:
            lines.begin()
            if line is None or line.strip():
                empty = False
                yield _json_row(lines.number, line, wanted)
    if empty:
        raise TableError(f"{path.name} is empty", 'each line is an object: {"file_name": "a.png", "caption": "a cat"}')


def _json_row(number: int, line: str | None, wanted: Wanted) -> Row | Wrong:
    if line is None:
        return Wrong(number, f"a line of over {_LONGEST_LINE >> 20} MiB")
    try:
        row = json.loads(line.rstrip())
    except json.JSONDecodeError as error:
        return Wrong(number, f"not JSON: {error.msg} (column {error.colno})")
    except (ValueError, RecursionError):
        return Wrong(number, "not JSON: too deep, or a number too long")
    if not isinstance(row, dict):
        return Wrong(number, 'not an object in braces, such as {"file_name": "a.png", "caption": "a cat"}')
    file_name = wanted.file_name or next((name for name in FILE_COLUMNS if name in row), None)
    captions = wanted.captions
    if captions is None:
        captions = tuple(name for name in CAPTION_COLUMNS if name in row)[:1]
    given = [row[name] for name in captions if name in row]
    if file_name not in row:
        return Wrong(number, lacks(wanted.file_name, FILE_COLUMNS, list(row)))
    if not given and wanted.captions != ():
        return Wrong(number, lacks(" or ".join(wanted.captions or ()) or None, CAPTION_COLUMNS, list(row)))
    size = None if wanted.size is None else (row.get(wanted.size[0]), row.get(wanted.size[1]))
    return Row(number, row[file_name], given, size)


@contextmanager
def _text(path: Path) -> Iterator[TextIO]:
    """A text file of UTF-8, with or without a mark, or UTF-16; bytes that aren't either are surrogates in its text."""
    with path.open("rb") as file:
        start = file.read(4)
    encoding, errors = "utf-8-sig", "surrogateescape"
    if start.startswith((b"\xff\xfe", b"\xfe\xff")):
        encoding, errors = "utf-16", "replace"
    elif start[1:2] == b"\0" or start[:1] == b"\0":
        encoding, errors = "utf-16-le" if start[1:2] == b"\0" else "utf-16-be", "replace"
    with path.open(encoding=encoding, errors=errors, newline="") as text:
        yield text
