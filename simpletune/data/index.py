"""What is known of a data set's files since they were last looked at, so that unchanged ones aren't opened again.

Each answer goes with the stamp of the file that it was read from, and is given for that stamp alone. A stamp can't tell
of two changes within a tick of the file system's clock, so nothing is kept of a file that has changed since the index
was loaded or within the two seconds before: it is looked at once more next time.
"""

from __future__ import annotations

import hashlib
import struct
import threading
import time
from collections.abc import Collection
from pathlib import Path
from typing import TYPE_CHECKING

from simpletune import files
from simpletune.data.header import PASSING, Header
from simpletune.data.index_file import BESIDE, Entry, Packed, Values, pack, unpack
from simpletune.data.pace import many_small_objects
from simpletune.data.sources import Rejected, Stamp, fingerprint, is_settled

if TYPE_CHECKING:
    from simpletune.config.settings import ImageSet
    from simpletune.data.faces import Focus

_NOTHING = Entry()
_FOCUS = struct.Struct("<2d")


class Index:
    """The files of one data set by name. Safe to use from several threads."""

    def __init__(self) -> None:
        self.changed = False
        self._since = time.time_ns()
        self._entries: dict[str, Entry] = {}
        self._captions_by = ""
        self._packed: dict[str, Packed] = {}  # kinds of values that nobody has asked for yet
        self._beside: dict[str, Values] = {kind: {} for kind in BESIDE}
        self._lock = threading.RLock()  # held by whoever changes anything

    @classmethod
    def load(cls, path: Path) -> Index:
        """What was saved there; empty when there is none, when it is damaged or of another version. Never raises."""
        index = cls()
        try:
            with many_small_objects():
                index._entries, index._captions_by, index._packed = unpack(path.read_bytes())
        except Exception:  # whatever it is, the worst that comes of it is that all files are looked at again
            return cls()
        return index

    def save(self, path: Path) -> None:
        """Write it, and make its folder, if anything has changed since it was loaded or saved. Raises OSError."""
        with self._lock:
            if not self.changed:
                return
            data = pack(self._entries, self._captions_by, {kind: self._values(kind) for kind in BESIDE})
            self.changed = False
        path.parent.mkdir(parents=True, exist_ok=True)
        files.write_bytes(path, data)

    def __len__(self) -> int:
        return len(self._entries)

    def entry(self, name: str) -> Entry:
        """All that is known of a file, for who compares the stamps."""
        return self._entries.get(name, _NOTHING)

    def header(self, name: str, stamp: Stamp) -> Header | Rejected | None:
        """A picture's header, or why it can't be used; None when that isn't known."""
        entry = self._entries.get(name, _NOTHING)
        return entry.header if entry.stamp == fingerprint(stamp) else None

    def note_header(self, name: str, stamp: Stamp, header: Header | Rejected) -> None:
        """Keep what was found in a picture, but for what may be otherwise at the next look."""
        passing = isinstance(header, Rejected) and header.reason in PASSING
        if passing or not self._may_keep(name, stamp):
            return
        with self._lock:
            _, _, text_stamp, captions, notes = self._entries.get(name, _NOTHING)
            self._entries[name] = Entry(fingerprint(stamp), header, text_stamp, captions, notes)
            self.changed = True

    def captions_read_as(self, how: str) -> None:
        """Say what captions depend on beside their text file; those that depended on something else are forgotten."""
        with self._lock:
            if how != self._captions_by:
                self._captions_by = how
                bare = {name: Entry(entry.stamp, entry.header) for name, entry in self._entries.items()}
                self._entries = bare

    def note_captions(self, name: str, text_stamp: int, captions: tuple[str, ...], notes: tuple[str, ...]) -> None:
        """Keep what the text file of a picture gave; `text_stamp` is as in ImageFile."""
        if "\0" in name or not captions or any(not text or "\0" in text or "\n" in text for text in captions):
            return
        with self._lock:
            stamp, header, *_ = self._entries.get(name, _NOTHING)
            self._entries[name] = Entry(stamp, header, text_stamp, captions, notes)
            self.changed = True

    def digest(self, name: str, stamp: Stamp) -> str | None:
        """The hex SHA-256 of a picture's bytes; None when it isn't known."""
        digest = self._value("digests", name, stamp)
        return None if digest is None else digest.hex()

    def note_digest(self, name: str, stamp: Stamp, digest: str) -> None:
        """Keep the hex SHA-256 of a picture's bytes, whose stamp was the same before and after they were read."""
        self._note_value("digests", name, stamp, bytes.fromhex(digest))

    def focus(self, name: str, stamp: Stamp) -> Focus | None:
        """The point that a picture's face crops keep, as in faces.py; None when it isn't known."""
        focus = self._value("focuses", name, stamp)
        return None if focus is None else _FOCUS.unpack(focus)

    def note_focus(self, name: str, stamp: Stamp, focus: Focus) -> None:
        """Keep the point that a picture's face crops keep."""
        self._note_value("focuses", name, stamp, _FOCUS.pack(*focus))

    def keep(self, names: Collection[str]) -> None:
        """Forget all files but these."""
        with self._lock:
            gone = [name for name in self._entries if name not in names]
            for name in gone:
                del self._entries[name]
            if gone:
                for kind in BESIDE:
                    known = self._values(kind)
                    self._beside[kind] = {name: known[name] for name in known if name in names}
                self.changed = True

    def _may_keep(self, name: str, stamp: Stamp) -> bool:
        return "\0" not in name and is_settled(stamp, self._since)

    def _value(self, kind: str, name: str, stamp: Stamp) -> bytes | None:
        known, value = self._values(kind).get(name, (0, None))
        return value if known == fingerprint(stamp) else None

    def _note_value(self, kind: str, name: str, stamp: Stamp, value: bytes) -> None:
        if self._may_keep(name, stamp):
            with self._lock:
                self._values(kind)[name] = fingerprint(stamp), value
                self.changed = True

    def _values(self, kind: str) -> Values:
        if kind in self._packed:
            with self._lock:
                if (packed := self._packed.get(kind)) is not None:
                    self._beside[kind] = packed.unpacked(BESIDE[kind])
                    del self._packed[kind]
        return self._beside[kind]


def index_path(image_set: ImageSet) -> Path:
    """Where the index of a data set is; another place or part of it has another."""
    place = (image_set.type, image_set.where, image_set.s3_endpoint, image_set.image_column)
    part: tuple[object, ...] = (image_set.dataset_config, image_set.dataset_split, image_set.dataset_revision)
    part += (image_set.dataset_filter,) if image_set.dataset_filter else ()
    digest = hashlib.sha256(repr((image_set.id, place, part)).encode("utf-8", "surrogatepass")).hexdigest()
    return image_set.cache_dir_vae / f"index-{digest[:16]}.bin"
