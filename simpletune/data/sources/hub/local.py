"""Hugging Face data sets on a disk: Parquet files, what `save_to_disk` wrote, and pictures in folders."""

from __future__ import annotations

import os
from collections.abc import Iterator, Mapping, Sequence
from itertools import islice
from pathlib import Path
from typing import TYPE_CHECKING, Any, NamedTuple

from simpletune import outside
from simpletune.data.sources import Source, SourceError, shown
from simpletune.data.sources.hub.columns import choose
from simpletune.data.sources.hub.errors import unreadable
from simpletune.data.sources.hub.fetch import is_folder_of_pictures
from simpletune.data.sources.hub.library import layout, need_pyarrow
from simpletune.data.sources.hub.pictures import DEFAULT_SPLIT, PictureFolder
from simpletune.data.sources.hub.row_filter import filter_of, no_columns
from simpletune.data.sources.hub.rows import Part, Rows, Taken, file_identity
from simpletune.data.sources.hub.shards import ARROW, PARQUET, Shard
from simpletune.data.sources.hub.split import Span, check_there, parse
from simpletune.data.sources.hub.wanted import caption_columns

if TYPE_CHECKING:
    from simpletune.config.settings import ImageSet

_NAMES_LOOKED_AT = 10_000


def open_local(path: Path, image_set: ImageSet) -> Source:
    """The data set at a path. Raises SourceError for what isn't one, or lacks a split or column."""
    spans = parse(image_set.dataset_split)
    found = files_of(path, image_set.dataset_config)
    if found is None and image_set.dataset_filter:
        raise no_columns(str(path), streamable=False)
    if found is None:
        return PictureFolder(str(path), spans, image_set)
    try:
        return _rows(found.files, found.kind, spans, image_set, anywhere=found.saved)
    except SourceError:
        raise
    except OSError as error:
        raise unreadable(error, str(path)) from error


class LocalFiles(NamedTuple):
    """The files of a data set by split, of one kind (PARQUET or ARROW); `saved` by `save_to_disk`."""

    files: Mapping[str, Sequence[str]]
    kind: str
    saved: bool = False


def files_of(path: Path, config: str | None) -> LocalFiles | None:
    """The data set at a path; None for pictures in folders. Raises SourceError for what isn't one."""
    try:
        if path.is_file():
            return LocalFiles({DEFAULT_SPLIT: [str(path)]}, PARQUET)
        if saved := _saved(path):
            return LocalFiles(saved, ARROW, saved=True)
        if is_folder_of_pictures(list(islice(_names(path), _NAMES_LOOKED_AT))):
            return None
        found = layout(str(path), config)
    except SourceError:
        raise
    except Exception as error:  # the library raises nearly anything
        raise unreadable(error, str(path)) from error
    if found.kind not in {PARQUET, ARROW}:
        hint = 'set "type" to webdataset' if found.kind == "webdataset" else "save it as Parquet files"
        raise SourceError(f"{path} holds {found.kind} files, which aren't read as a data set in place", hint)
    return LocalFiles(found.files, found.kind)


def _names(root: Path) -> Iterator[str]:
    """Files below a folder, by their path in it. Raises OSError when the folder can't be listed."""
    with os.scandir(root):
        pass
    for where, folders, names in os.walk(root):
        folders[:] = [name for name in folders if not name.startswith(".")]
        yield from (os.path.join(where, name) for name in names)  # noqa: PTH118


def _saved(path: Path) -> dict[str, list[str]]:
    """The Arrow files by split of a folder that `save_to_disk` wrote; {} for another folder. Raises OSError."""
    if (path / "dataset_dict.json").is_file():
        splits = outside.read_json(path / "dataset_dict.json")["splits"]
        return {name: _saved_files(_inside(path, name))[1] for name in splits}
    if (path / "state.json").is_file() and (path / "dataset_info.json").is_file():
        split, files = _saved_files(path)
        return {split or DEFAULT_SPLIT: files}
    return {}


def _saved_files(folder: Path) -> tuple[str | None, list[str]]:
    state: dict[str, Any] = outside.read_json(folder / "state.json")
    if state.get("_indices_data_files"):
        message = f"{folder} was saved by an old version of datasets, with its rows in another order"
        raise SourceError(message, "load it and save it again with a newer version")
    return state.get("_split"), [str(_inside(folder, entry["filename"])) for entry in state["_data_files"]]


def _inside(folder: Path, name: str) -> Path:
    """What stands in a folder under this name; a name that leads elsewhere is no library's. Raises SourceError."""
    if os.path.basename(name) != name or "\\" in name or name in {"", ".", ".."}:  # noqa: PTH119
        raise SourceError(f"{folder} names a file outside of it: {shown(name)}", "save the data set again")
    return folder / name


def _rows(
    files: Mapping[str, Sequence[str]], kind: str, spans: Sequence[Span], image_set: ImageSet, anywhere: bool = False
) -> Rows:
    need_pyarrow()
    named = image_set.where
    check_there(spans, files, named)
    parts: list[Part] = []
    taken: list[Taken] = []
    schemas = []
    for span in spans:
        first = 0
        for path in files[span.split]:
            shard = Shard(path, kind)
            parts.append(Part(span.split, path, kind, first, len(shard), file_identity(path)))
            schemas.append(shard.schema)
            first += len(shard)
        taken.append(take(span, first, len(spans) > 1))
    columns = choose(schemas[0], image_set.image_column, caption_columns(image_set), named, filter_of(image_set))
    needed = dict.fromkeys((columns.image, *columns.captions, *(name for name, _ in columns.filter)))
    for part, schema in zip(parts, schemas, strict=True):
        lacking = [name for name in needed if name not in schema.names]
        if lacking:
            raise SourceError(f"{part.path} has no column {lacking[0]}, which other files of {named} have", "remove it")
    return Rows(parts, taken, columns, image_set.cache_dir_pictures, named, anywhere)


def take(span: Span, count: int, several: bool) -> Taken:
    """The rows that are asked for of a split of `count`; where there are several, names begin with the split's."""
    start, stop = span.rows(count)
    return Taken(span.split, f"{span.split}/" if several else "", start, count if stop is None else stop, count)
