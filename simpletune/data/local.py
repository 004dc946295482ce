"""A folder of pictures, on a disk of this machine or mounted from elsewhere, in an order that never varies.

The folder is only read. Files and folders whose names begin with a dot are passed over; links are followed, each
folder once, so that a loop of links ends.
"""

from __future__ import annotations

import os
import stat
from collections import Counter
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, BinaryIO

from simpletune.data.reading import read_ends, read_start
from simpletune.data.sources import (
    OTHER_PICTURE_EXTENSIONS,
    PICTURE_EXTENSIONS,
    TEXT_EXTENSION,
    ImageFile,
    Listing,
    Reason,
    Rejected,
    SourceError,
    text_name,
)

if TYPE_CHECKING:
    from simpletune.progress import Reporter

_ASKED_EVERY = 64


@dataclass(frozen=True)
class Folder:
    """The pictures below a folder; a Source. Paths are str, as a Path for each would take a tenth of a scan's time."""

    root: str

    def fetch(self, reporter: Reporter) -> None:
        """Everything is here."""

    def list(self) -> Listing:
        try:
            return list_images(Path(self.root))
        except OSError as error:
            message = f"the folder {self.root} can't be read: {error.strerror}"
            raise SourceError(message, "check the path and its permissions") from error

    def read(self, name: str) -> bytes:
        with self.open(name) as file:
            return file.read()

    def open(self, name: str) -> BinaryIO:
        return open(self.location(name), "rb")  # noqa: PTH123

    def read_ends(self, file: ImageFile, limit: int) -> tuple[bytes, bytes]:
        return read_ends(self.location(file.name), limit, file.size_bytes)

    def read_text(self, file: ImageFile, limit: int) -> bytes | None:
        if not file.may_have_text:
            return None
        try:
            return read_start(self.location(text_name(file.name)), limit)
        except FileNotFoundError:
            return None

    def captions(self, file: ImageFile) -> tuple[str, ...]:  # noqa: ARG002 - a Source's method
        return ()

    def location(self, name: str) -> str:
        return f"{self.root}/{name}"


def list_images(root: Path) -> Listing:
    """Every picture-like file under `root`, sorted by name.

    Raises OSError when `root` itself can't be listed; a folder below it that can't is one rejected entry.
    """
    walk = Walk(root)
    found = sorted(walk.pictures(), key=lambda picture: picture.name)
    files, rejected = [], list(walk.closed)
    for picture in found:
        verdict = picture.look()
        if isinstance(verdict, ImageFile):
            files.append(verdict)
        else:
            rejected.append((picture.name, verdict))
    return Listing(tuple(files), tuple(sorted(rejected, key=_name)), sum(walk.others.values()))


def _name(entry: tuple[str, Rejected]) -> str:
    return entry[0]


class _Folder:
    """One folder of a walk: `prefix` is its name inside the data set, `texts` the .txt files in it, lower-cased."""

    __slots__ = ("listed", "prefix", "texts")

    def __init__(self, prefix: str) -> None:
        self.prefix = prefix
        self.texts: set[str] = set()
        self.listed = False

    def may_hold_text(self, path: str, name: str) -> bool:
        """Whether a text file of this name, at this path, may be here. A pipe is none, as opening it can take forever.

        File systems differ in how they compare letter cases and accents: cases are ignored, for accents they are asked.
        """
        if name.lower() in self.texts:
            return True
        return not (self.listed and name.isascii()) and os.path.isfile(path)  # noqa: PTH113


class Found:
    """A picture-like file as its folder's listing shows it; nothing has been asked of the file itself yet."""

    __slots__ = ("_entry", "_extension", "_folder", "name")

    def __init__(self, entry: os.DirEntry[str], folder: _Folder, extension: str) -> None:
        self._entry, self._folder, self._extension = entry, folder, extension
        self.name = folder.prefix + entry.name

    def look(self) -> ImageFile | Rejected:
        """The file, if it can be a picture at all."""
        entry = self._entry
        if self._extension in OTHER_PICTURE_EXTENSIONS:
            return Rejected(Reason.UNSUPPORTED, f"{self._extension} files aren't read; save it as PNG or JPEG")
        try:
            status = entry.stat()
        except OSError as error:
            if entry.is_symlink():
                return Rejected(Reason.BROKEN_LINK, str(error.strerror))
            return Rejected(Reason.UNREADABLE, str(error.strerror))
        if not stat.S_ISREG(status.st_mode):
            return Rejected(Reason.NOT_A_FILE, "a pipe, socket or device can't be read as a picture")
        if status.st_size == 0:
            return Rejected(Reason.ZERO_BYTES, "there is nothing in it; copy it again from where it came")
        stem = -len(self._extension)
        may_have_text = self._folder.may_hold_text(
            entry.path[:stem] + TEXT_EXTENSION, entry.name[:stem] + TEXT_EXTENSION
        )
        stamp = (status.st_size, status.st_mtime_ns, status.st_ctime_ns, status.st_ino)
        return ImageFile(self.name, status.st_size, stamp, may_have_text)


class Walk:
    """A folder walk. Linked folders wait until the real ones are done, so a picture goes by its real name.

    `closed` are folders that couldn't be listed, `others` counts files that aren't pictures by extension; both grow as
    it goes on. Once `stop` says so, it ends early: `stopped`.
    """

    def __init__(self, root: Path, stop: Callable[[], bool] = lambda: False) -> None:
        self.closed: list[tuple[str, Rejected]] = []
        self.others: Counter[str] = Counter()
        self.stopped = False
        self._stop = stop
        self._root = os.fspath(root)
        self._seen: set[tuple[int, int]] = set()
        self._folders: list[tuple[str, str]] = []
        self._linked_folders: list[tuple[str, str]] = []

    def pictures(self) -> Iterator[Found]:
        """Every picture-like file, folder by folder, as the listing goes on. Raises OSError if the root can't be."""
        yield from self._enter(self._root, "")
        while (self._folders or self._linked_folders) and not self.stopped:
            waiting = self._folders or self._linked_folders
            path, name = waiting.pop(0)
            try:
                yield from self._enter(path, f"{name}/")
            except PermissionError:
                self.closed.append((f"{name}/", Rejected(Reason.PERMISSION, "the folder can't be opened")))
            except OSError as error:
                self.closed.append((f"{name}/", Rejected(Reason.UNREADABLE, f"the folder: {error.strerror}")))

    def _enter(self, path: str, prefix: str) -> Iterator[Found]:
        status = os.stat(path)  # noqa: PTH116 - a Path an entry costs half of a scan's time
        if (status.st_dev, status.st_ino) in self._seen:
            return
        self._seen.add((status.st_dev, status.st_ino))
        folder, below = _Folder(prefix), []
        with os.scandir(path) as entries:
            for number, entry in enumerate(entries):
                if number % _ASKED_EVERY == 0 and self._stop():
                    self.stopped = True
                    return
                if entry.name.startswith("."):
                    continue
                extension = os.path.splitext(entry.name)[1].lower()  # noqa: PTH122
                if extension == TEXT_EXTENSION and _is_file(entry):
                    folder.texts.add(entry.name.lower())
                if _is_folder(entry):
                    below.append(entry)
                elif extension in PICTURE_EXTENSIONS or extension in OTHER_PICTURE_EXTENSIONS:
                    yield Found(entry, folder, extension)
                else:
                    self.others[extension] += 1
        folder.listed = True
        for entry in sorted(below, key=lambda entry: entry.name):
            waiting = self._linked_folders if entry.is_symlink() else self._folders
            waiting.append((entry.path, prefix + entry.name))


def _is_file(entry: os.DirEntry[str]) -> bool:
    try:
        return entry.is_file()
    except OSError:
        return False


def _is_folder(entry: os.DirEntry[str]) -> bool:
    try:
        return entry.is_dir()
    except OSError:  # a link to itself
        return False
