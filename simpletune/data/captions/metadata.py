"""Caption tables: a CSV, JSON Lines or Parquet file with a row for each picture, beside any source of pictures.

A row that can't be used is counted and named, and the next one is read; only a table without any usable row, or
without the columns it needs, ends a scan. What a row names is a name to compare with, never a file to open.
"""

from __future__ import annotations

import os
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from functools import lru_cache
from pathlib import Path
from typing import TYPE_CHECKING, Any

from simpletune.data.captions import LARGEST_CAPTION_FILE, MOST_CAPTIONS
from simpletune.data.captions.table_columns import Row, TableError, Wanted, Wrong
from simpletune.data.captions.table_names import Names, key_of
from simpletune.data.captions.tables import read_table
from simpletune.data.captions.texts import NOT_UTF8, is_unicode, latin, one_line
from simpletune.data.sources import shown

if TYPE_CHECKING:
    from simpletune.config.settings import ImageSet

KINDS = ("csv", "jsonl", "parquet")
"""Values of caption_strategy that read a table."""

_EXAMPLES = 3
_LARGEST_SIZE = 1_000_000
_SIZE_STEP = _LARGEST_SIZE + 1
_SUFFIXES = {".csv": "csv", ".tsv": "csv", ".jsonl": "jsonl", ".ndjson": "jsonl", ".parquet": "parquet"}


@dataclass(frozen=True)
class Remark:
    """Something a person should know of a whole table, and what it was seen in first."""

    message: str
    examples: tuple[str, ...]


class Metadata:
    """What a table says of each picture, by its name inside the data set.

    A text is kept as it is and once, so that 500,000 rows need little more than their names and captions.
    """

    def __init__(
        self,
        name: str,
        captions: Mapping[str, str | tuple[str, ...]],
        sizes: Mapping[str, int],
        remarks: Sequence[Remark],
    ) -> None:
        self.name = name
        self._captions, self._sizes, self._remarks = captions, sizes, tuple(remarks)

    def captions(self, name: str) -> tuple[str, ...] | None:
        """A picture's captions, each once, in the rows' order; () where its row has none, None where it has no row.

        A row may name it without its extension, as other trainers' tables do.
        """
        found = self._captions.get(key_of(name))
        if found is None:
            found = self._captions.get(_without_extension(name))
        return (found,) if isinstance(found, str) else found

    def size(self, name: str) -> tuple[int, int] | None:
        """A picture's (width, height) in pixels; None where no row says it."""
        packed = self._sizes.get(key_of(name), self._sizes.get(_without_extension(name)))
        return None if packed is None else divmod(packed, _SIZE_STEP)

    def unused(self, names: Iterable[str]) -> list[str]:
        """The rows' names that aren't among a source's `names`."""
        every = list(names)
        there = {*map(key_of, every), *map(_without_extension, every)}
        return [name for name in self._captions if name not in there]

    def remarks(self, names: Iterable[str]) -> tuple[Remark, ...]:
        """What is wrong with rows: all that was found on reading, and rows whose picture isn't among `names`."""
        unused = self.unused(names)
        if not unused:
            return self._remarks
        message = f"{_rows(len(unused), self.name)}: no such picture"
        return (*self._remarks, Remark(message, tuple(map(shown, unused[:_EXAMPLES]))))


def _without_extension(name: str) -> str:
    return key_of(os.path.splitext(name)[0])  # noqa: PTH122


def needs_metadata(image_set: ImageSet) -> bool:
    """Whether a scan reads the data set's table: for captions, or for sizes."""
    if image_set.metadata_path is None:
        return False
    captions = image_set.caption_strategy in KINDS and not image_set.only_instance_prompt
    return captions or None not in (image_set.width_column, image_set.height_column)


def open_metadata(image_set: ImageSet) -> Metadata:
    """Read the data set's metadata_path.

    Raises TableError (a SourceError): no such file or column, no usable row, a package that isn't installed.
    """
    path, kind = image_set.metadata_path, image_set.caption_strategy
    if path is None:
        raise TableError(f"caption_strategy {kind} needs metadata_path", "name the file with a row for each picture")
    reading = _Reading(path, kind if kind in KINDS else _SUFFIXES.get(path.suffix.lower(), "csv"), image_set)
    for row in read_table(path, reading.kind, _wanted(image_set)):
        reading.take(row)
    return reading.finished()


def _wanted(image_set: ImageSet) -> Wanted:
    captions = image_set.caption_column
    if isinstance(captions, str):
        captions = (captions,)
    if image_set.caption_strategy not in KINDS:
        captions = ()
    width, height = image_set.width_column, image_set.height_column
    return Wanted(image_set.filename_column, captions, None if width is None or height is None else (width, height))


class _Tally:
    """How often something was seen, and where first."""

    def __init__(self) -> None:
        self.count = 0
        self.examples: list[str] = []

    def add(self, example: str) -> None:
        self.count += 1
        if len(self.examples) < _EXAMPLES:
            self.examples.append(example)


class _Reading:
    """A table while its rows come in."""

    def __init__(self, path: Path, kind: str, image_set: ImageSet) -> None:
        self.kind = kind
        self._path = path
        self._names = Names(image_set)
        self._found: dict[str, str | tuple[str, ...]] = {}
        self._sizes: dict[str, int] = {}
        self._wrong, self._outside, self._latin, self._again, self._sizeless, self._many = (_Tally() for _ in range(6))

    def take(self, row: Row | Wrong) -> None:
        if isinstance(row, Wrong):
            self._wrong.add(f"{self._place(row.number)}: {row.message}")
            return
        try:
            file_name, captions = _file_name(row), _captions(row)
        except ValueError as error:
            self._wrong.add(f"{self._place(row.number)}: {error}")
            return
        if not all(map(is_unicode, (file_name, *captions))):
            self._latin.add(self._place(row.number))
        name = self._names.inside(file_name)
        if name is None:
            self._outside.add(f"{self._place(row.number)}: {shown(file_name)}")
        else:
            self._add(row, key_of(name), tuple(dict.fromkeys(map(_read, captions))))

    def _add(self, row: Row, name: str, captions: tuple[str, ...]) -> None:
        where = f"{self._place(row.number)}: {shown(name)}"
        known = self._found.get(name)
        if isinstance(known, tuple) and len(known) >= MOST_CAPTIONS:
            self._many.add(where)
            captions = known
        elif known is not None:
            self._again.add(where)
            captions = tuple(dict.fromkeys((*((known,) if isinstance(known, str) else known), *captions)))
        if len(captions) > MOST_CAPTIONS:
            self._many.add(where)
            captions = captions[:MOST_CAPTIONS]
        self._found[name] = captions[0] if len(captions) == 1 else captions
        if row.size is None:
            return
        width, height = map(_pixels, row.size)
        if width and height:
            self._sizes.setdefault(name, width * _SIZE_STEP + height)
        else:
            self._sizeless.add(where)

    def finished(self) -> Metadata:
        """Raises TableError when no row could be used."""
        if not self._found:
            raise self._useless()
        remarks = [
            Remark(f"{_rows(tally.count, self._path.name)}: {text}", tuple(tally.examples))
            for tally, text in (
                (self._wrong, "not usable"),
                (self._outside, "left out, as the file named is outside the data set"),
                (self._latin, NOT_UTF8),
                (self._again, "for a picture that had one already; each different caption counts"),
                (self._many, f"beyond the {MOST_CAPTIONS:,} captions that a picture can have, left out"),
                (self._sizeless, "no usable width and height, so the picture is looked into"),
            )
            if tally.count
        ]
        return Metadata(self._path.name, self._found, self._sizes, remarks)

    def _useless(self) -> TableError:
        name = self._path.name
        reasons = [*self._wrong.examples, *self._outside.examples]
        if not reasons:
            return TableError(f"{name} has no rows", "write a row for each picture")
        fitting = _SUFFIXES.get(self._path.suffix.lower(), self.kind)
        hint = "correct the rows, or the data set's keys for the table"
        if fitting != self.kind:
            hint = f'"caption_strategy" {fitting} reads {self._path.suffix} files'
        rows = _rows(self._wrong.count + self._outside.count, name)
        outside = "" if self._wrong.count else ", as the files named are outside the data set"
        return TableError(f"none of {rows} can be used{outside}: {'; '.join(reasons[:_EXAMPLES])}", hint)

    def _place(self, number: int) -> str:
        return f"{self._path.name} row {number}" if self.kind == "parquet" else f"{self._path.name}:{number}"


def _file_name(row: Row) -> str:
    if not isinstance(row.file_name, str):
        raise ValueError(f"the file name is {_kind(row.file_name)}, not text")
    if not row.file_name.strip():
        raise ValueError("no file name")
    return row.file_name.strip()


def _captions(row: Row) -> list[str]:
    """The cells of a row, and the texts in them, that aren't empty."""
    texts = []
    for cell in row.captions:
        for item in cell if isinstance(cell, list | tuple) else [cell]:
            if item is not None and not isinstance(item, str):
                raise ValueError(f"the caption is {_kind(item)}, not text")
            if item is not None and len(item) > LARGEST_CAPTION_FILE:
                raise ValueError("a cell of over 1 MiB: not a caption")
            if item is not None and not item.isspace() and item:
                texts.append(item)
    return texts


@lru_cache(16)  # a long text that many rows share is kept once
def _read(text: str) -> str:
    return one_line(text if is_unicode(text) else latin(text))


def _pixels(cell: Any) -> int:
    """A cell as a number of pixels; 0 for what is none."""
    try:
        value = float(cell) if isinstance(cell, int | float | str) and not isinstance(cell, bool) else 0.0
    except (ValueError, OverflowError):
        return 0
    return int(value) if value.is_integer() and 1 <= value <= _LARGEST_SIZE else 0


def _kind(value: Any) -> str:
    for kinds, said in (((dict,), "an object"), ((list, tuple), "a list"), ((int, float), "a number")):
        if isinstance(value, kinds):
            return said
    return "missing" if value is None else "of another kind"


def _rows(count: int, name: str) -> str:
    return f"{count} {'row' if count == 1 else 'rows'} of {shown(name)}"
