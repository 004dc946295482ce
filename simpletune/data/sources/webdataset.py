"""Tar shards of pictures, in WebDataset's layout, read in place: nothing is unpacked.

A shard counts as a folder of its name: key.jpg in shard-0.tar is the picture "shard-0.tar/key.jpg", so the same key in
two shards is two pictures. Of two members with one name the later counts, as if they were unpacked.

The members of a sample share a key: their name up to the first dot after the last slash. key.txt is the caption of
key.jpg. Where there is none, key.json has it: as "caption", or else as "text", a string or a list of several. A picture
whose name goes on after the key (key.seg.png) is taken for something else, a segmentation for instance, and passed
over if its sample has a picture named by the key alone; without one it is a picture like others, so names with dots in
them work.

Members that would be unpacked to somewhere else (.., absolute names), links, devices and sparse files are never
followed; they count as files of other kinds.
"""

from __future__ import annotations

import errno
import json
import os
import threading
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any, BinaryIO

from simpletune.data.sources import ImageFile, Listing, Stamp
from simpletune.data.sources.ranges import open_ranges
from simpletune.data.sources.webdataset_index import (
    NO_TEXT,
    SHARD,
    Index,
    Place,
    as_json,
    member_stamp,
    read_shards,
    shard_stamp,
)

if TYPE_CHECKING:
    from simpletune.progress import Reporter

_CAPTION_FIELDS = ("caption", "text")
_LARGEST_JSON = 1 << 20
_BUFFER_BYTES = 1 << 16
_END = 8


class _Listed:
    """What the last listing found; a copy for another process takes it along, and needn't list again."""

    def __init__(self) -> None:
        self.index: Index | None = None
        self.lock = threading.Lock()

    def __getstate__(self) -> dict[str, Any]:
        return {"index": self.index}

    def __setstate__(self, state: dict[str, Any]) -> None:
        self.index, self.lock = state["index"], threading.Lock()


@dataclass(frozen=True)
class Shards:
    """The pictures in the .tar files of a folder and those below it, or in one .tar file; a Source."""

    root: str
    _listed: _Listed = field(default_factory=_Listed, init=False, repr=False, compare=False)

    def fetch(self, reporter: Reporter) -> None:
        """Everything is here."""

    def list(self) -> Listing:
        """Raises SourceError when there are no shards, or compressed ones."""
        listing, self._listed.index = read_shards(self.root)
        return listing

    def read(self, name: str) -> bytes:
        place = self._find(name)
        return self._bytes(place, place.offset, place.size)

    def open(self, name: str) -> BinaryIO:
        place = self._find(name)

        def read_at(offset: int, count: int) -> bytes:
            return self._bytes(place, place.offset + offset, count)

        return open_ranges(read_at, place.size, _BUFFER_BYTES)

    def read_ends(self, file: ImageFile, limit: int) -> tuple[bytes, bytes]:
        place = self._find(file.name)
        start = self._bytes(place, place.offset, min(place.size, limit))
        if place.size <= limit:
            return start, start[-_END:]
        return start, self._bytes(place, place.offset + place.size - _END, _END)

    def read_text(self, file: ImageFile, limit: int) -> bytes | None:
        place = self._find(file.name)
        if place.text_size == NO_TEXT:
            return None
        if place.text_size >= 0:
            return self._bytes(place, place.text_offset, min(place.text_size, limit))
        size = as_json(place.text_size)
        if size > _LARGEST_JSON:
            raise OSError(errno.EFBIG, f"its JSON file is over {_LARGEST_JSON >> 20} MiB")
        caption = _json_caption(self._bytes(place, place.text_offset, size))
        return None if caption is None else caption.encode()[:limit]

    def captions(self, file: ImageFile) -> tuple[str, ...]:  # noqa: ARG002 - a Source's method
        return ()

    def stamp(self, name: str) -> Stamp:
        place = self._find(name)
        path, _ = self._index().shards[place.shard]
        return member_stamp(place.offset, place.size, shard_stamp(os.stat(path)))  # noqa: PTH116

    def location(self, name: str) -> str:
        if self.root.lower().endswith(SHARD) and not os.path.isdir(self.root):  # noqa: PTH112
            return f"{os.path.dirname(self.root)}/{name}"  # noqa: PTH120
        return f"{self.root}/{name}"

    def _index(self) -> Index:
        with self._listed.lock:
            if self._listed.index is None:
                self.list()
            assert self._listed.index is not None
            return self._listed.index

    def _find(self, name: str) -> Place:
        return self._index().find(name)

    def _bytes(self, place: Place, offset: int, size: int) -> bytes:
        """Part of a picture's shard, which is opened for it: so threads share no position, and no file stays open.

        Raises OSError when it isn't the shard that was listed.
        """
        path, listed = self._index().shards[place.shard]
        with open(path, "rb", buffering=0) as shard:  # noqa: PTH123
            if shard_stamp(os.fstat(shard.fileno())) != listed:
                raise OSError(errno.EIO, "its shard has changed since it was listed")
            shard.seek(offset)
            data = shard.read(size)
            while len(data) < size and (more := shard.read(size - len(data))):
                data += more
        if len(data) < size:
            raise OSError(errno.EIO, "its shard ends early")
        return data


def _json_caption(data: bytes) -> str | None:
    """The caption in a sample's JSON, several of them a line each; None when it has no such field."""
    try:
        fields = json.loads(data)
    except (ValueError, RecursionError) as error:
        raise OSError(errno.EINVAL, f"its JSON file is damaged ({error})") from error
    if not isinstance(fields, dict):
        return None
    for name in _CAPTION_FIELDS:
        value = fields.get(name)
        texts = value if isinstance(value, list) else [value]
        lines = [" ".join(text.split()) for text in texts if isinstance(text, str)]
        if any(lines):
            return "\n".join(lines)
    return None
