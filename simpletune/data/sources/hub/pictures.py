"""A Source for pictures in folders with a table of captions beside them: the hub's "imagefolder" layout.

A table is a metadata.jsonl, metadata.csv or metadata.parquet in any folder; its column file_name names pictures by
their path from there. Folders at the top, or in one named data, that are called train, validation or test are splits.
"""

from __future__ import annotations

import posixpath
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING, Any, BinaryIO

from simpletune.data.captions.metadata import Metadata, open_metadata
from simpletune.data.sources import ImageFile, Listing, Reason, Rejected, SourceError, Stamp
from simpletune.data.sources.hub.split import Span, check_there
from simpletune.data.sources.local import Folder

if TYPE_CHECKING:
    from simpletune.config.settings import ImageSet
    from simpletune.progress import Reporter

TABLES = {"metadata.jsonl": "jsonl", "metadata.csv": "csv", "metadata.parquet": "parquet"}
DEFAULT_SPLIT = "train"

_SPLITS = {
    **dict.fromkeys(("train", "training"), DEFAULT_SPLIT),
    **dict.fromkeys(("validation", "valid", "val", "dev"), "validation"),
    **dict.fromkeys(("test", "testing", "eval", "evaluation"), "test"),
}


def split_of(name: str) -> str | None:
    """The split that a file's place says it belongs to; None where it says nothing."""
    parts = name.lower().split("/")[:-1]
    return next((_SPLITS[part] for part in parts[: 2 if parts[:1] == ["data"] else 1] if part in _SPLITS), None)


def splits(names: Iterable[str]) -> Mapping[str, list[str]]:
    """The splits of a set of files, with theirs: all of it is train where no folder is called like a split."""
    found: dict[str, list[str]] = {}
    rest: list[str] = []
    for name in names:
        split = split_of(name)
        (rest if split is None else found.setdefault(split, [])).append(name)
    return found or {DEFAULT_SPLIT: rest}


class PictureFolder:
    """The pictures below `root` that a data set's dataset_split takes, of the splits in `spans`; a Source."""

    def __init__(self, root: str, spans: Sequence[Span], image_set: ImageSet) -> None:
        self._folder, self._spans, self._image_set = Folder(root), tuple(spans), image_set
        self._tables: dict[str, Metadata] | None = None

    def __getstate__(self) -> dict[str, Any]:
        return self.__dict__ | {"_tables": None}

    def fetch(self, reporter: Reporter) -> None:
        """Everything is here."""

    def list(self) -> Listing:
        listing = self._folder.list()
        by_split = splits(file.name for file in listing.files)
        check_there(self._spans, by_split, self._image_set.where)
        taken: set[str] = set()
        for span in self._spans:
            names = by_split[span.split]
            start, stop = span.rows(len(names))
            taken.update(names[start:stop])
        files = tuple(file for file in listing.files if file.name in taken)
        folders = {split_of(file.name) for file in files}
        unusable = [entry for entry in listing.rejected if split_of(entry[0]) in folders]
        other = listing.other + len(listing.files) + len(listing.rejected) - len(files) - len(unusable)
        if self._image_set.caption_strategy == "huggingface":
            self._tables = self._read_tables(files)
            unusable += self._row_problems(file.name for file in listing.files)
        return Listing(files, tuple(sorted(unusable, key=lambda entry: entry[0])), other)

    def read(self, name: str) -> bytes:
        return self._folder.read(name)

    def open(self, name: str) -> BinaryIO:
        return self._folder.open(name)

    def read_ends(self, file: ImageFile, limit: int) -> tuple[bytes, bytes]:
        return self._folder.read_ends(file, limit)

    def read_text(self, file: ImageFile, limit: int) -> bytes | None:
        return self._folder.read_text(file, limit)

    def captions(self, file: ImageFile) -> tuple[str, ...]:
        if self._tables is None:
            self._tables = self._read_tables([file])
        folder, own = posixpath.split(file.name)
        while True:
            table = self._tables.get(folder)
            found = None if table is None else table.captions(own)
            if found is not None or not folder:
                return found or ()
            folder, last = posixpath.split(folder)
            own = f"{last}/{own}"

    def stamp(self, name: str) -> Stamp:
        return self._folder.stamp(name)

    def location(self, name: str) -> str:
        return self._folder.location(name)

    def _read_tables(self, files: Iterable[ImageFile]) -> dict[str, Metadata]:
        """The tables in the folders of some pictures and in those above them, by folder.

        Raises SourceError where there is none, or one can't be read.
        """
        folders = {""}
        for file in files:
            folder = posixpath.dirname(file.name)
            while folder not in folders:
                folders.add(folder)
                folder = posixpath.dirname(folder)
        found = {}
        for folder in sorted(folders):
            for name, kind in TABLES.items():
                path = Path(self._folder.root, folder, name)
                if folder not in found and path.is_file():
                    found[folder] = open_metadata(self._as_table(path, kind))
        if not found:
            message = f"{self._folder.root} has no metadata.jsonl, metadata.csv or metadata.parquet, so no captions"
            raise SourceError(
                message, "write one, with the columns file_name and text, or use another caption_strategy"
            )
        return found

    def _as_table(self, path: Path, kind: str) -> ImageSet:
        """The data set as if its captions came from a table that a person named."""
        return replace(
            self._image_set,
            metadata_path=path,
            caption_strategy=kind,
            instance_data_dir=path.parent,
            filename_column="file_name",
        )

    def _row_problems(self, names: Iterable[str]) -> Sequence[tuple[str, Rejected]]:
        """Rows that name no picture, as entries of their own; what else is wrong with a table is one entry."""
        there, found = list(names), []
        for folder, table in (self._tables or {}).items():
            prefix = f"{folder}/" if folder else ""
            inside = [name[len(prefix) :] for name in there if name.startswith(prefix)]
            gone = Rejected(Reason.UNREADABLE, f"{prefix}{table.name} names it, but there is no such picture")
            found += [(prefix + name, gone) for name in table.unused(inside)]
            for remark in table.remarks([*inside, *table.unused(inside)]):
                detail = f"{remark.message}: {', '.join(remark.examples)}"
                found.append((prefix + table.name, Rejected(Reason.NO_CAPTION, detail)))
        return found
