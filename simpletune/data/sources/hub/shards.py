"""Cells of a table in Arrow or Parquet files, by row: nothing is held in memory that isn't being looked at.

Arrow files are memory-mapped and a cell is a piece of the file. Of a Parquet file a group of rows is decoded at once
and kept while its neighbours are likely to be asked for. Safe to use from several threads.
"""

from __future__ import annotations

import threading
from bisect import bisect_right
from collections import OrderedDict
from collections.abc import Iterator, Sequence
from itertools import accumulate
from typing import Any

from simpletune.data.sources import SourceError, shown
from simpletune.data.sources.hub.names import HEAD, tail

ARROW, PARQUET = "arrow", "parquet"

_GROUPS_KEPT = 3


class Shard:
    """One open file of rows. Raises SourceError when it isn't what its kind says."""

    def __init__(self, path: str, kind: str) -> None:
        self.path = path
        self._chunks = _open(path, kind)
        self.schema = self._chunks.schema
        self._firsts = [0, *accumulate(self._chunks.counts)]

    def __len__(self) -> int:
        return self._firsts[-1]

    def cell(self, row: int, column: str) -> Any:
        """A cell as pyarrow's scalar."""
        chunk = bisect_right(self._firsts, row) - 1
        return self._chunks.column(chunk, column)[row - self._firsts[chunk]]

    def cells(self, column: str) -> Iterator[Any]:
        """All cells of a column from the first row on, as Python's values."""
        for chunk in range(len(self._chunks.counts)):
            yield from self._chunks.column(chunk, column).to_pylist()

    def picture(self, row: int, column: str) -> tuple[Any, str | None]:
        """(the picture's bytes as a buffer or None, the path beside them or None)."""
        cell = self.cell(row, column)
        if not cell.is_valid:
            return None, None
        if not hasattr(cell, "keys"):
            return cell.as_buffer(), None
        data, path = cell["bytes"], cell["path"].as_py() if "path" in cell else None
        return (data.as_buffer() if data.is_valid else None), path

    def index(self, column: str) -> Any:
        """A pyarrow table with a row for each of this one: size (-1: no bytes), tail (of its name) and path (if so)."""
        import pyarrow

        sizes: list[int] = []
        tails: list[str] = []
        paths: list[str | None] = []
        for chunk in range(len(self._chunks.counts)):
            for found, head, path in _described(self._chunks.column(chunk, column)):
                sizes.append(found)
                tails.append(tail(head, path))
                paths.append(path if found < 0 else None)
        columns = {"size": pyarrow.array(sizes, pyarrow.int64()), "tail": pyarrow.array(tails, pyarrow.string())}
        return pyarrow.table({**columns, "path": pyarrow.array(paths, pyarrow.string())})


def _described(column: Any) -> Any:
    """(size, head, path) of each cell of a chunked column."""
    from pyarrow import compute

    for array in column.chunks:
        data, paths = array, [None] * len(array)
        if hasattr(array, "field"):
            data = compute.struct_field(array, "bytes")
            if any(field.name == "path" for field in array.type):
                paths = compute.struct_field(array, "path").to_pylist()
        sizes = compute.fill_null(compute.binary_length(data), -1).to_pylist()
        heads = compute.binary_slice(data, 0, HEAD).to_pylist()
        yield from zip(sizes, (head or b"" for head in heads), paths, strict=True)


def _open(path: str, kind: str) -> _Arrow | _Parquet:
    import pyarrow

    try:
        return _Arrow(path) if kind == ARROW else _Parquet(path)
    except pyarrow.ArrowException as error:
        said = shown((str(error).strip() or type(error).__name__).splitlines()[0])
        message = f"{path} can't be read: {said}"
        raise SourceError(message, "check that the file is whole; copy or fetch it again") from error


class _Arrow:
    """The record batches of an Arrow file, of either of its two formats."""

    def __init__(self, path: str) -> None:
        import pyarrow

        mapped = pyarrow.memory_map(path)
        is_file = mapped.read(6) == b"ARROW1"
        mapped.seek(0)
        opened = pyarrow.ipc.open_file(mapped) if is_file else pyarrow.ipc.open_stream(mapped)
        table = opened.read_all()
        self._table = table
        self.schema = table.schema
        self._batches = table.to_batches()
        for batch in self._batches:
            batch.validate(full=True)  # of pictures it looks at where they begin and end, not at their bytes
        self.counts: Sequence[int] = [batch.num_rows for batch in self._batches]

    def column(self, chunk: int, name: str) -> Any:
        import pyarrow

        return pyarrow.chunked_array([self._batches[chunk].column(name)])


class _Parquet:
    """The row groups of a Parquet file."""

    def __init__(self, path: str) -> None:
        from pyarrow import parquet

        self._file = parquet.ParquetFile(path, memory_map=True)
        self.schema = self._file.schema_arrow
        told = self._file.metadata
        self.counts: Sequence[int] = [told.row_group(group).num_rows for group in range(told.num_row_groups)]
        self._kept: OrderedDict[tuple[int, str], Any] = OrderedDict()
        self._lock = threading.Lock()

    def column(self, chunk: int, name: str) -> Any:
        import pyarrow

        with self._lock:
            if (chunk, name) not in self._kept:
                try:
                    read = self._file.read_row_group(chunk, columns=[name], use_threads=False)
                except pyarrow.ArrowException as error:
                    raise OSError(5, shown(str(error).splitlines()[0])) from error
                self._kept[chunk, name] = read.column(name)
            self._kept.move_to_end((chunk, name))
            while len(self._kept) > _GROUPS_KEPT:
                self._kept.popitem(last=False)
            return self._kept[chunk, name]
