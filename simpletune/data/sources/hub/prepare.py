"""Rows of a data set of the hub, as its downloaded files have them, become Arrow files with pictures and texts."""

from __future__ import annotations

import os
from collections.abc import Iterator, Mapping, Sequence
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Any

from simpletune import files
from simpletune.data.header import MAX_FILE_BYTES
from simpletune.data.sources import SourceError, shown
from simpletune.data.sources.hub.columns import Columns, choose
from simpletune.data.sources.hub.library import ARROW, PARQUET, Layout, library
from simpletune.data.sources.hub.shards import Shard
from simpletune.data.sources.hub.wanted import Wanted
from simpletune.machine.hub_access import token_for

if TYPE_CHECKING:
    from simpletune.progress import Phase, Reporter

_ROWS_AT_ONCE = 64
_ARCHIVES = ("zip://", "tar://", "gzip://")


def prepare(
    wanted: Wanted, found: Layout, here: Mapping[str, Sequence[str]], folder: Path, reporter: Reporter
) -> list[dict[str, Any]]:
    """Write the rows of some splits, whose files are `here`, into a folder; what the marker says of them.

    Files that are there whole are kept. Raises SourceError for columns that are lacking.
    """
    folder.mkdir(exist_ok=True)
    if found.kind == PARQUET:
        return _convert(wanted, here, folder, reporter)
    return _embed(wanted, found, here, folder, reporter)


def _convert(
    wanted: Wanted, here: Mapping[str, Sequence[str]], folder: Path, reporter: Reporter
) -> list[dict[str, Any]]:
    """Parquet files to Arrow files, each whole or not there."""
    from pyarrow import parquet

    rows = {path: parquet.read_metadata(path).num_rows for paths in here.values() for path in paths}
    columns = choose(parquet.read_schema(next(iter(rows))), wanted.image, (), wanted.data_set)
    parts = []
    with reporter.phase(f"preparing {wanted.data_set}", sum(rows.values()), "row") as phase:
        for split, paths in here.items():
            first = 0
            for number, path in enumerate(paths):
                target = folder / f"{split}-{number:05d}.arrow"
                if not _is_whole(target, rows[path]):
                    files.write_with(target, partial(_convert_one, path, columns))
                parts.append(_part(split, target, first, rows[path]))
                first += rows[path]
                phase.advance(rows[path])
    return parts


def _convert_one(source: str, columns: Columns, target: Path) -> None:
    import pyarrow
    from pyarrow import parquet

    with parquet.ParquetFile(source, memory_map=True) as file:
        names = [name for name in file.schema_arrow.names if name == columns.image or name in columns.texts]
        if columns.image not in names:
            message = f"{source} has no column {shown(columns.image)}, which other files of its data set have"
            raise SourceError(message, "use another revision of the data set")
        kept = pyarrow.schema([file.schema_arrow.field(name) for name in names], file.schema_arrow.metadata)
        with pyarrow.OSFile(str(target), "wb") as sink, pyarrow.ipc.new_stream(sink, kept) as writer:
            for group in range(file.num_row_groups):
                writer.write_table(file.read_row_group(group, columns=names).select(names))


def _embed(
    wanted: Wanted, found: Layout, here: Mapping[str, Sequence[str]], folder: Path, reporter: Reporter
) -> list[dict[str, Any]]:
    """Any other layout, row by row as the library reads it, to one Arrow file a split."""
    parts = []
    with library(wanted.endpoint) as datasets:
        for split, paths in here.items():
            builder = datasets.load_dataset_builder(found.kind, data_files={split: list(paths)})
            rows = builder.as_streaming_dataset(split=split)
            target = folder / f"{split}-00000.arrow"
            with reporter.phase(f"preparing {wanted.data_set}", found.rows.get(split), "row") as phase:
                files.write_with(target, partial(_embed_all, rows, wanted, phase, _folder_of(paths)))
            parts.append(_part(split, target, 0, len(Shard(str(target), ARROW))))
    return parts


def _folder_of(paths: Sequence[str]) -> str:
    """The folder that all files of a split are in, as the beginning of their paths."""
    return Path(os.path.commonpath([Path(path).absolute().parent for path in paths])).as_posix().rstrip("/") + "/"


def _embed_all(rows: Any, wanted: Wanted, phase: Phase, folder: str, target: Path) -> None:
    import pyarrow

    if rows.features is None:
        rows = rows._resolve_features()
    columns, kept = streamed_columns(rows, wanted)
    with pyarrow.OSFile(str(target), "wb") as sink, pyarrow.ipc.new_stream(sink, kept) as writer:
        for batch in _batches(undecoded(rows), _ROWS_AT_ONCE):
            cells = [{name: row.get(name) for name in kept.names} for row in batch]
            for cell in cells:
                data, path = picture_of(cell[columns.image])
                if data is None and path:
                    data = read_path(path, folder)
                cell[columns.image] = {"bytes": data, "path": path}
            writer.write_batch(pyarrow.RecordBatch.from_pylist(cells, kept))
            phase.advance(len(cells))


def streamed_columns(rows: Any, wanted: Wanted) -> tuple[Columns, Any]:
    """The columns of rows that the library reads, and the schema of those that are kept: picture and texts."""
    import pyarrow

    schema = rows.features.arrow_schema
    columns = choose(schema, wanted.image, wanted.captions, wanted.data_set, wanted.filter)
    picture = pyarrow.field(columns.image, pyarrow.struct({"bytes": pyarrow.binary(), "path": pyarrow.string()}))
    texts = [schema.field(name) for name in columns.texts if name != columns.image]
    return columns, pyarrow.schema([picture, *texts], schema.metadata)


def undecoded(rows: Any) -> Any:
    """Rows whose pictures are bytes and paths, never decoded."""
    return rows.decode(False)


def picture_of(cell: Any) -> tuple[bytes | None, str | None]:
    """(bytes, path) of a picture's cell; either may be None."""
    if isinstance(cell, dict):
        return cell.get("bytes"), cell.get("path")
    return (cell, None) if isinstance(cell, bytes) else (None, None)


def read_path(path: str, inside: str, endpoint: str | None = None) -> bytes | None:
    """The bytes of a picture that a row names by a path, as a file or in an archive, on this machine or on the hub.

    None where that isn't `inside` the data set: the beginning of all its files' paths. A row can name anything, also
    files of this user and addresses that make fsspec run templates. Raises OSError.
    """
    import fsspec

    if not belongs(path, inside):
        return None
    options = {"hf": {"endpoint": endpoint, "token": token_for(endpoint)}} if "hf://" in path else {}
    with fsspec.open(path, "rb", **options) as file:
        data = file.read(MAX_FILE_BYTES + 1)
    return bytes(data) if len(data) <= MAX_FILE_BYTES else None


def belongs(path: str, inside: str) -> bool:
    """Whether a path is that of a file, or of one in an archive, whose path begins with `inside`."""
    archive, chained, file = path.rpartition("::")
    if chained and not (archive.startswith(_ARCHIVES) and "::" not in archive):
        return False
    file = file.replace("\\", "/")
    return file.startswith(inside) and ".." not in file.split("/")


def _is_whole(path: Path, rows: int) -> bool:
    try:
        return path.is_file() and len(Shard(str(path), ARROW)) == rows
    except OSError:
        return False


def _part(split: str, target: Path, first: int, count: int) -> dict[str, Any]:
    return {
        "split": split,
        "path": f"{target.parent.name}/{target.name}",
        "kind": ARROW,
        "first": first,
        "count": count,
    }


def _batches(rows: Any, size: int) -> Iterator[list[Any]]:
    batch = []
    for row in rows:
        batch.append(row)
        if len(batch) == size:
            yield batch
            batch = []
    if batch:
        yield batch
