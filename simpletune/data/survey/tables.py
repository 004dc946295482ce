"""What lies in and beside a folder of pictures and belongs to it: caption tables, and a folder of masks."""

from __future__ import annotations

import os
from collections.abc import Callable, Collection, Iterator
from contextlib import suppress
from itertools import islice
from pathlib import Path

from simpletune.config.rules_captions import table_kind
from simpletune.data.captions.table_columns import Row, TableError, Wanted
from simpletune.data.captions.tables import read_table
from simpletune.data.sources import SourceError
from simpletune.data.sources.local import Walk
from simpletune.data.survey import TableLook

_ROWS = 200
_TABLES_TRIED = 8
_TABLES_SHOWN = 3
_NAMES_BESIDE = ("captions", "metadata")
_MASK_FOLDERS = ("masks", "mask")


def find_tables(folder: Path, names: Collection[str], others: Collection[str]) -> tuple[TableLook, ...]:
    """Caption tables that name some of the pictures `names`, the fullest first. Never raises.

    `others` are the endings of the folder's files that aren't pictures: if none is a table's, it isn't listed again.
    """
    own = {_last(name) for name in names}
    found = []
    for path in islice(_candidates(folder, others), _TABLES_TRIED):
        with suppress(SourceError):
            looked = look_at_table(path, own)
            if looked.matching:
                found.append(looked)
    return tuple(sorted(found, key=lambda one: (-one.matching, one.path))[:_TABLES_SHOWN])


def look_at_table(path: Path, names: Collection[str] = ()) -> TableLook:
    """Read the beginning of a table; `names` are pictures' file names, without folders.

    Raises TableError: no such file, column or row, or a package that isn't installed.
    """
    kind = table_kind(path.suffix)
    if kind is None:
        raise TableError(f"{path.name} is no table of captions", "a table ends in .csv, .tsv, .jsonl or .parquet")
    read = list(islice(read_table(path, kind, Wanted(None, None, None)), _ROWS + 1))
    rows = [(str(row.file_name), caption) for row in read[:_ROWS] if isinstance(row, Row) for caption in _texts(row)]
    if not rows:
        raise TableError(f"{path.name} has no row with a file name and a caption", "write a row for each picture")
    pictures = {_last(name) for name, _ in rows}
    return TableLook(str(path), len(pictures), len(read) <= _ROWS, len(pictures.intersection(names)), rows[0][1])


def find_masks(folder: Path, names: Collection[str], stop: Callable[[], bool]) -> tuple[str, int] | None:
    """A folder of masks beside the pictures, and for how many of `names` it has one. Never raises."""
    for name in _MASK_FOLDERS:
        path = folder.parent / name
        if path == folder or not os.path.isdir(path):  # noqa: PTH112 - Path's own raises
            continue
        with suppress(OSError):
            masks = {os.path.splitext(found.name)[0] for found in Walk(path, stop).pictures()}  # noqa: PTH122
            return str(path), sum(os.path.splitext(picture)[0] in masks for picture in names)  # noqa: PTH122
    return None


def _candidates(folder: Path, others: Collection[str]) -> Iterator[Path]:
    if any(map(table_kind, others)):
        yield from _tables_in(folder)
    beside = {*_NAMES_BESIDE, folder.name}
    yield from (path for path in _tables_in(folder.parent) if path.stem in beside)


def _tables_in(folder: Path) -> list[Path]:
    """By name alone for all but the tables, as a Path for each of many pictures would take all the time there is."""
    try:
        with os.scandir(folder) as entries:
            names = [entry.name for entry in entries if table_kind(os.path.splitext(entry.name)[1])]  # noqa: PTH122
    except OSError:
        return []
    return [path for path in (folder / name for name in sorted(names)) if path.is_file()]


def _texts(row: Row) -> Iterator[str]:
    for cell in row.captions:
        for text in cell if isinstance(cell, list | tuple) else [cell]:
            if isinstance(text, str) and text.strip():
                yield " ".join(text.split())


def _last(name: str) -> str:
    return name.replace("\\", "/").rpartition("/")[2]
