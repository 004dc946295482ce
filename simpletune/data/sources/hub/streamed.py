"""A Source for what a streamed data set has left in its folder: picture files, and a line for each row."""

from __future__ import annotations

import os
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any, BinaryIO

from simpletune.data.sources import ImageFile, Listing, Reason, Rejected, SourceError, Stamp
from simpletune.data.sources.hub.stream import PICTURES, ROWS, rows_of
from simpletune.data.sources.local import Folder
from simpletune.disk_words import in_words

if TYPE_CHECKING:
    from simpletune.progress import Reporter


class Streamed:
    """The pictures below `home`; `captions` are the columns that theirs are taken from."""

    def __init__(self, home: Path, captions: Sequence[str]) -> None:
        self._rows, self._columns = home / ROWS, tuple(captions)
        self._folder = Folder(str(home / PICTURES))
        self._texts: dict[str, tuple[str, ...]] | None = None

    def __getstate__(self) -> dict[str, Any]:
        return self.__dict__ | {"_texts": None}

    def fetch(self, reporter: Reporter) -> None:
        """Everything is here."""

    def list(self) -> Listing:
        files, rejected, texts = [], [], {}
        try:
            there = {entry.name: entry for entry in os.scandir(self._folder.root)}
            for row in rows_of(self._rows):
                name = row["name"]
                if "rejected" in row:
                    rejected.append((name, Rejected(Reason.UNREADABLE, row["rejected"])))
                elif name not in there:
                    rejected.append((name, Rejected(Reason.CHANGED, "it was fetched, and is gone from the folder")))
                else:
                    status = there[name].stat()
                    stamp = (status.st_size, status.st_mtime_ns, status.st_ctime_ns, status.st_ino)
                    files.append(ImageFile(name, status.st_size, stamp, may_have_text=False))
                    texts[name] = self._captions_of(row)
        except (OSError, ValueError, KeyError) as error:
            message = f"what was fetched into {self._rows.parent} can't be read: {in_words(error)}"
            raise SourceError(message, f"remove {self._rows.parent}: it is fetched anew") from error
        self._texts = texts
        files.sort(key=lambda file: file.name)
        return Listing(tuple(files), tuple(sorted(rejected, key=lambda entry: entry[0])), 0)

    def read(self, name: str) -> bytes:
        return self._folder.read(name)

    def open(self, name: str) -> BinaryIO:
        return self._folder.open(name)

    def read_ends(self, file: ImageFile, limit: int) -> tuple[bytes, bytes]:
        return self._folder.read_ends(file, limit)

    def read_text(self, file: ImageFile, limit: int) -> bytes | None:  # noqa: ARG002 - a Source's method
        return None

    def captions(self, file: ImageFile) -> tuple[str, ...]:
        if self._texts is None:
            self._texts = {row["name"]: self._captions_of(row) for row in rows_of(self._rows)}
        return self._texts.get(file.name, ())

    def stamp(self, name: str) -> Stamp:
        return self._folder.stamp(name)

    def location(self, name: str) -> str:
        return self._folder.location(name)

    def _captions_of(self, row: dict[str, Any]) -> tuple[str, ...]:
        texts = row.get("texts", {})
        return tuple(dict.fromkeys(text for column in self._columns for text in texts.get(column, ())))
