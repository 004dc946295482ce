"""Which files of a data set's folder are pictures, in an order that never varies, and why the others aren't.

The folder is only read. Files and folders whose names begin with a dot are passed over; links are followed, each
folder once, so that a loop of links ends.
"""

from __future__ import annotations

import os
from dataclasses import dataclass
from enum import Enum
from pathlib import Path

PICTURE_EXTENSIONS = frozenset(
    {".jpg", ".jpeg", ".jpe", ".jfif", ".png", ".apng", ".webp", ".bmp", ".tif", ".tiff", ".gif", ".avif"}
)
OTHER_PICTURE_EXTENSIONS = frozenset(
    {".heic", ".heif", ".jxl", ".jp2", ".j2k", ".psd", ".xcf", ".svg", ".ico", ".tga", ".exr", ".hdr", ".raw", ".dng"}
    | {".cr2", ".cr3", ".nef", ".arw", ".orf", ".rw2", ".raf"}
)


class Reason(str, Enum):
    """Why a picture isn't used, as a person reads it; the report counts by these."""

    ZERO_BYTES = "empty file (0 bytes)"
    UNREADABLE = "not readable as a picture"
    TRUNCATED = "truncated: the picture's data ends early"
    UNSUPPORTED = "a picture format that isn't read"
    PIXEL_KIND = "pixels of a kind that isn't read"
    TOO_LARGE = "too many pixels to be opened safely"
    PERMISSION = "no permission to read it"
    BROKEN_LINK = "a link that leads nowhere"
    NOT_A_FILE = "not an ordinary file"
    NO_CAPTION = "no caption"
    TOO_SMALL = "smaller than minimum_image_size"
    ASPECT = "aspect ratio outside the limits"
    UPSCALE = "would be enlarged more than max_upscale_threshold allows"
    OVER_LIMIT = "over max_num_samples"
    CHANGED = "changed since it was scanned"


@dataclass(frozen=True)
class Rejected:
    """A picture can't be used: the kind of reason, and what is so about this one."""

    reason: Reason
    detail: str


@dataclass(frozen=True)
class Exclusion:
    """One picture of a data set that isn't used; `reason` is a Reason's text."""

    set_id: str
    name: str
    reason: str
    detail: str


@dataclass(frozen=True)
class ImageFile:
    """A file that may be a picture; `name` is its path inside the data set, with forward slashes."""

    path: Path
    name: str
    size_bytes: int
    mtime_ns: int


@dataclass(frozen=True)
class Listing:
    """A folder's content: files to look into, pictures already known to be unusable, and how many files are neither."""

    files: tuple[ImageFile, ...]
    rejected: tuple[tuple[str, Rejected], ...]
    other: int


def shown(name: str) -> str:
    """A file name as it can stand in one line of text: control characters and broken bytes become escapes."""
    return "".join(character if character.isprintable() else ascii(character)[1:-1] for character in name)


def name_bytes(name: str) -> bytes:
    """A file name's bytes for hashing; names that aren't valid UTF-8 keep theirs."""
    return name.encode("utf-8", "surrogateescape")


def list_images(root: Path) -> Listing:
    """Every picture-like file under `root`, sorted by name.

    Raises OSError when `root` itself can't be listed; a folder below it that can't is one rejected entry.
    """
    walk = _Walk()
    walk.enter(os.fspath(root), "")
    walk.finish()
    return Listing(
        tuple(sorted(walk.files, key=lambda file: file.name)), tuple(sorted(walk.rejected, key=_name)), walk.other
    )


def _name(entry: tuple[str, Rejected]) -> str:
    return entry[0]


def _is_folder(entry: os.DirEntry[str]) -> bool:
    try:
        return entry.is_dir()
    except OSError:  # a link to itself
        return False


class _Walk:
    """A folder walk. Linked folders wait until the real ones are done, so a picture goes by its real name."""

    def __init__(self) -> None:
        self.files: list[ImageFile] = []
        self.rejected: list[tuple[str, Rejected]] = []
        self.other = 0
        self._seen: set[tuple[int, int]] = set()
        self._folders: list[tuple[str, str]] = []
        self._linked_folders: list[tuple[str, str]] = []

    def finish(self) -> None:
        while self._folders or self._linked_folders:
            waiting = self._folders or self._linked_folders
            path, name = waiting.pop(0)
            try:
                self.enter(path, f"{name}/")
            except PermissionError:
                self.rejected.append((f"{name}/", Rejected(Reason.PERMISSION, "the folder can't be opened")))
            except OSError as error:
                self.rejected.append((f"{name}/", Rejected(Reason.UNREADABLE, f"the folder: {error.strerror}")))

    def enter(self, path: str, prefix: str) -> None:
        status = os.stat(path)  # noqa: PTH116 - a Path an entry costs half of a scan's time
        if (status.st_dev, status.st_ino) in self._seen:
            return
        self._seen.add((status.st_dev, status.st_ino))
        with os.scandir(path) as entries:
            for entry in sorted(entries, key=lambda entry: entry.name):
                if not entry.name.startswith("."):
                    self._take(entry, prefix + entry.name)

    def _take(self, entry: os.DirEntry[str], name: str) -> None:
        if _is_folder(entry):
            (self._linked_folders if entry.is_symlink() else self._folders).append((entry.path, name))
            return
        extension = os.path.splitext(entry.name)[1].lower()  # noqa: PTH122
        if extension in PICTURE_EXTENSIONS:
            self._take_picture(entry, name)
        elif extension in OTHER_PICTURE_EXTENSIONS:
            detail = f"{extension} files aren't read; save it as PNG or JPEG"
            self.rejected.append((name, Rejected(Reason.UNSUPPORTED, detail)))
        else:
            self.other += 1

    def _take_picture(self, entry: os.DirEntry[str], name: str) -> None:
        verdict = self._look(entry, name)
        if isinstance(verdict, ImageFile):
            self.files.append(verdict)
        else:
            self.rejected.append((name, verdict))

    def _look(self, entry: os.DirEntry[str], name: str) -> ImageFile | Rejected:
        try:
            status = entry.stat()
        except OSError as error:
            if entry.is_symlink():
                return Rejected(Reason.BROKEN_LINK, str(error.strerror))
            return Rejected(Reason.UNREADABLE, str(error.strerror))
        if not entry.is_file():
            return Rejected(Reason.NOT_A_FILE, "a pipe, socket or device can't be read as a picture")
        if status.st_size == 0:
            return Rejected(Reason.ZERO_BYTES, "there is nothing in it; copy it again from where it came")
        return ImageFile(Path(entry.path), name, status.st_size, status.st_mtime_ns)
