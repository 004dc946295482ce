"""Rows of a caption table, one after the other: CSV, JSON Lines or Parquet.

A row is numbered by its line, from 1; in Parquet, which has no lines, by its place.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import Any

from simpletune.data.captions.table_columns import Chosen, Row, TableError, Wanted, Wrong, cells_of, choose
from simpletune.data.captions.text_tables import read_csv, read_jsonl

_BATCH = 4096
_MOST_ROWS = 50_000_000
_LARGEST_COLUMN = 2 << 30  # bytes of a column in a group of rows, decompressed


def read_table(path: Path, kind: str, wanted: Wanted) -> Iterator[Row | Wrong]:
    """The rows of a table; `kind` is csv, jsonl or parquet. Raises TableError, at once or on the way."""
    reader = {"csv": read_csv, "jsonl": read_jsonl, "parquet": _read_parquet}[kind]
    try:
        yield from reader(path, wanted)
    except TableError:
        raise
    except OSError as error:
        raise TableError(f"{path} can't be read: {error.strerror or error}", 'check "metadata_path"') from error


def _read_parquet(path: Path, wanted: Wanted) -> Iterator[Row | Wrong]:
    try:
        import pyarrow
        from pyarrow import parquet
    except ImportError as error:
        raise TableError(f"{path.name} can't be read without pyarrow", "pip install 'simpletune[parquet]'") from error
    number = 0
    try:
        # A text that a million rows share is kept once, as it is in the file.
        with parquet.ParquetFile(path, read_dictionary=_plain_texts(parquet.read_schema(path))) as file:
            _check_sizes(file.metadata, path.name)
            schema = file.schema_arrow
            texts = [field.name for field in schema if _holds_text(field.type)]
            chosen = choose(schema.names, texts, wanted, path.name)
            places = sorted({chosen.file_name, *chosen.captions, *(chosen.size or ())})
            names = [schema.names[place] for place in places]
            moved = _moved(chosen, places)
            for batch in file.iter_batches(_BATCH, columns=names):
                columns = [_cells(batch.column(name)) for name in names]
                for cells in zip(*columns, strict=True):
                    number += 1
                    yield Row(number, *cells_of(cells, moved))
    except pyarrow.ArrowException as error:
        after = f" after row {number}" if number else ""
        said = str(error).strip().partition("\n")[0]
        raise TableError(
            f"{path.name} can't be read{after}: {said}", "check that it is a whole Parquet file"
        ) from error


def _check_sizes(told: Any, name: str) -> None:
    """Raise TableError for a file that says of itself that it would fill the memory, however small it is."""
    if told.num_rows > _MOST_ROWS:
        raise TableError(f"{name} has {told.num_rows:,} rows, more than the {_MOST_ROWS:,} that are read", "split it")
    groups = (told.row_group(number) for number in range(told.num_row_groups))
    largest = max(
        (group.column(at).total_uncompressed_size for group in groups for at in range(group.num_columns)), default=0
    )
    if largest > _LARGEST_COLUMN:
        said = f"{largest >> 20:,} MiB in one column of one group of rows, more than the {_LARGEST_COLUMN >> 20:,} read"
        raise TableError(f"{name} has {said}", "save it with smaller groups of rows, or without the pictures")


def _plain_texts(schema: Any) -> list[str]:
    """The columns of text that aren't kept as a dictionary already."""
    return [field.name for field in schema if str(field.type) in {"string", "large_string"}]


def _cells(column: Any) -> list[Any]:
    """A column's cells; equal ones of a dictionary are one object."""
    if not hasattr(column, "dictionary"):
        return column.to_pylist()  # type: ignore[no-any-return]
    values = column.dictionary.to_pylist()
    return [None if index is None else values[index] for index in column.indices.to_pylist()]


def _holds_text(kind: Any) -> bool:
    """Whether a column's type is text, or a list of texts."""
    said = str(kind)
    return "string" in said and "struct" not in said and "map<" not in said


def _moved(chosen: Chosen, places: Sequence[int]) -> Chosen:
    """The chosen columns' places among `places`."""
    at: Callable[[int], int] = places.index
    size = None if chosen.size is None else (at(chosen.size[0]), at(chosen.size[1]))
    return Chosen(at(chosen.file_name), tuple(map(at, chosen.captions)), size)
