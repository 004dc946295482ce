"""A folder of pictures, on a disk of this machine or mounted from elsewhere, in an order that never varies.

The folder is only read. Files and folders whose names begin with a dot are passed over; links are followed, each
folder once, so that a loop of links ends. Whatever changes while it is read is an entry of the listing, never an error.
"""

from __future__ import annotations

import os
import stat
import time
from collections import Counter, deque
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from operator import attrgetter, itemgetter
from pathlib import Path
from typing import TYPE_CHECKING, BinaryIO

from simpletune.data.pace import many_small_objects
from simpletune.data.sources import (
    OTHER_PICTURE_EXTENSIONS,
    PICTURE_EXTENSIONS,
    TEXT_EXTENSION,
    ImageFile,
    Listing,
    Reason,
    Rejected,
    SourceError,
    Stamp,
    fingerprint,
    is_settled,
    text_name,
)
from simpletune.data.sources.reading import read_ends, read_start

if TYPE_CHECKING:
    from simpletune.progress import Reporter

_ASKED_EVERY = 64
_PICTURES = PICTURE_EXTENSIONS | OTHER_PICTURE_EXTENSIONS
_LISTED = _PICTURES | {TEXT_EXTENSION}

_stamp: Callable[[os.stat_result], Stamp]
if os.name == "nt":  # whose listings have no inodes

    def _stamp(status: os.stat_result) -> Stamp:
        return status.st_size, status.st_mtime_ns, status.st_ctime_ns, 0
else:
    _stamp = attrgetter("st_size", "st_mtime_ns", "st_ctime_ns", "st_ino")


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

    def stamp(self, name: str) -> Stamp:
        return _stamp(os.stat(self.location(name)))  # noqa: PTH116

    def location(self, name: str) -> str:
        return f"{self.root}/{name}"


def list_images(root: Path) -> Listing:
    """Every picture-like file under `root`, sorted by name.

    Raises OSError when `root` itself can't be listed; a folder below it that can't is one rejected entry.
    """
    walk, began = Walk(root), time.time_ns()
    files: list[ImageFile] = []
    rejected: list[tuple[str, Rejected]] = []
    with many_small_objects():
        for folder, entries in walk.folders():
            _list_folder(folder, entries, began, files, rejected)
    files.sort(key=itemgetter(0))
    return Listing(tuple(files), tuple(sorted(rejected + walk.closed, key=itemgetter(0))), sum(walk.others.values()))


def _list_folder(
    folder: _Folder,
    entries: Iterator[Entry],
    began: int,
    files: list[ImageFile],
    rejected: list[tuple[str, Rejected]],
) -> None:
    """Add what is in one folder. Each file's status is asked once and dropped at once: it takes half a kilobyte."""
    pictures: list[tuple[str, str, Stamp]] = []
    for entry, stem, extension in entries:
        if extension == TEXT_EXTENSION:
            folder.note_text(entry.name, _text_stamp(entry, began))
            continue
        status = _look(entry, extension)
        if isinstance(status, Rejected):
            rejected.append((folder.prefix + entry.name, status))
        else:
            pictures.append((entry.name, stem + TEXT_EXTENSION, _stamp(status)))
    for name, text, stamp in pictures:
        may_have_text, text_stamp = folder.text(text, began)
        files.append(ImageFile(folder.prefix + name, stamp[0], stamp, may_have_text, text_stamp))


def _look(entry: os.DirEntry[str], extension: str) -> os.stat_result | Rejected:
    """A picture-like file's status, if it can be a picture at all."""
    if extension in OTHER_PICTURE_EXTENSIONS:
        return Rejected(Reason.UNSUPPORTED, f"{extension} files aren't read; save it as PNG or JPEG")
    try:
        status = entry.stat()
    except FileNotFoundError as error:
        if entry.is_symlink():
            return Rejected(Reason.BROKEN_LINK, str(error.strerror))
        return Rejected(Reason.CHANGED, "the file vanished")
    except OSError as error:
        if entry.is_symlink():
            return Rejected(Reason.BROKEN_LINK, str(error.strerror))
        return Rejected(Reason.READ_FAILED, str(error.strerror))
    if not stat.S_ISREG(status.st_mode):
        return Rejected(Reason.NOT_A_FILE, "a pipe, socket or device can't be read as a picture")
    if status.st_size == 0:
        return Rejected(Reason.ZERO_BYTES, "there is nothing in it; copy it again from where it came")
    return status


def _text_stamp(file: os.DirEntry[str] | Path, began: int) -> int | None:
    """A text file's stamp; 0 when it is none that can be read, None when it has changed too lately to be sure.

    A pipe is none, as opening it can take forever.
    """
    try:
        status = file.stat()
    except OSError:
        return 0
    if not stat.S_ISREG(status.st_mode):
        return 0
    stamp = _stamp(status)
    return fingerprint(stamp) if is_settled(stamp, began) else None


class _Folder:
    """One folder of a walk: `prefix` is its name inside the data set. Its text files become known as it is listed."""

    __slots__ = ("_lowered", "_texts", "listed", "path", "prefix")

    def __init__(self, path: str, prefix: str) -> None:
        self.path, self.prefix = path, prefix
        self.listed = False
        self._texts: dict[str, int | None] = {}
        self._lowered: set[str] | None = None

    def note_text(self, name: str, stamp: int | None) -> None:
        if stamp != 0:
            self._texts[name] = stamp

    def text(self, name: str, began: int) -> tuple[bool, int | None]:
        """Whether a text file of this name may be here, and its stamp.

        File systems differ in how they compare letter cases and accents: where these may matter they are asked.
        """
        if name in self._texts:
            return True, self._texts[name]
        if self.listed and name.isascii() and name.lower() not in self._lower():
            return False, None
        stamp = _text_stamp(Path(self.path, name), began)
        return stamp != 0, stamp or None

    def _lower(self) -> set[str]:
        if self._lowered is None:
            self._lowered = {name.lower() for name in self._texts}
        return self._lowered


class Found:
    """A picture-like file as its folder's listing shows it; nothing has been asked of the file itself yet."""

    __slots__ = ("_entry", "_extension", "_folder", "name")

    def __init__(self, entry: os.DirEntry[str], folder: _Folder, extension: str) -> None:
        self._entry, self._folder, self._extension = entry, folder, extension
        self.name = folder.prefix + entry.name

    def look(self) -> ImageFile | Rejected:
        """The file, if it can be a picture at all."""
        status = _look(self._entry, self._extension)
        if isinstance(status, Rejected):
            return status
        stem = self._entry.name[: -len(self._extension)]
        may_have_text, _ = self._folder.text(stem + TEXT_EXTENSION, time.time_ns())
        return ImageFile(self.name, status.st_size, _stamp(status), may_have_text)


Entry = tuple[os.DirEntry[str], str, str]
"""A file as its folder's listing shows it, its name without the extension, and that in small letters, with its dot."""


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
        self._folders: deque[tuple[str, str]] = deque()
        self._linked_folders: deque[tuple[str, str]] = deque()

    def pictures(self) -> Iterator[Found]:
        """Every picture-like file, folder by folder, as the listing goes on. Raises OSError if the root can't be."""
        for folder, entries in self.folders():
            for entry, _, extension in entries:
                if extension != TEXT_EXTENSION:
                    yield Found(entry, folder, extension)
                elif _is_file(entry):
                    folder.note_text(entry.name, None)

    def folders(self) -> Iterator[tuple[_Folder, Iterator[Entry]]]:
        """Each folder, with its picture-like and text files, to be taken before the next is asked for.

        Taking the root's raises OSError when it can't be listed.
        """
        root = _Folder(self._root, "")
        yield root, self._entries(root)
        while (self._folders or self._linked_folders) and not self.stopped:
            path, name = (self._folders or self._linked_folders).popleft()
            folder = _Folder(path, f"{name}/")
            yield folder, self._below(folder)

    def _below(self, folder: _Folder) -> Iterator[Entry]:
        try:
            yield from self._entries(folder)
        except PermissionError:
            self.closed.append((folder.prefix, Rejected(Reason.PERMISSION, "the folder can't be opened")))
        except (FileNotFoundError, NotADirectoryError):
            self.closed.append((folder.prefix, Rejected(Reason.CHANGED, "the folder vanished")))
        except OSError as error:
            self.closed.append((folder.prefix, Rejected(Reason.READ_FAILED, f"the folder: {error.strerror}")))

    def _entries(self, folder: _Folder) -> Iterator[Entry]:
        status = os.stat(folder.path)  # noqa: PTH116 - a Path an entry costs half of a scan's time
        if (status.st_dev, status.st_ino) in self._seen:
            return
        self._seen.add((status.st_dev, status.st_ino))
        below = []
        with os.scandir(folder.path) as entries:
            for number, entry in enumerate(entries):
                if number % _ASKED_EVERY == 0 and self._stop():
                    self.stopped = True
                    return
                name = entry.name
                if name[0] == ".":
                    continue
                stem, dot, extension = name.rpartition(".")
                try:
                    is_folder = entry.is_dir()
                except OSError:  # a link to itself
                    is_folder = False
                if is_folder:
                    below.append(entry)
                    continue
                extension = dot + extension.lower() if dot else ""
                if extension not in _PICTURES:
                    self.others[extension] += 1
                if extension in _LISTED:
                    yield entry, stem, extension
        folder.listed = True
        for entry in sorted(below, key=lambda entry: entry.name):
            waiting = self._linked_folders if entry.is_symlink() else self._folders
            waiting.append((entry.path, folder.prefix + entry.name))


def _is_file(entry: os.DirEntry[str]) -> bool:
    try:
        return entry.is_file()
    except OSError:
        return False
