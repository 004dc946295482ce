"""Where a data set's pictures are, and why some of them aren't used: what every source of pictures has in common.

`local.py` reads a folder, `webdataset.py` tar shards, `s3.py` a bucket, `huggingface.py` a data set of the hub. All of
them only read.
"""

from __future__ import annotations

import os
import time
from dataclasses import dataclass
from enum import StrEnum
from typing import TYPE_CHECKING, BinaryIO, NamedTuple, Protocol

if TYPE_CHECKING:
    from simpletune.config.settings import ImageSet
    from simpletune.progress import Reporter

PICTURE_EXTENSIONS = frozenset(
    {".jpg", ".jpeg", ".jpe", ".jfif", ".png", ".apng", ".webp", ".bmp", ".tif", ".tiff", ".gif", ".avif"}
)
OTHER_PICTURE_EXTENSIONS = frozenset(
    {".heic", ".heif", ".jxl", ".jp2", ".j2k", ".psd", ".xcf", ".svg", ".ico", ".tga", ".exr", ".hdr", ".raw", ".dng"}
    | {".cr2", ".cr3", ".nef", ".arw", ".orf", ".rw2", ".raf"}
)


TEXT_EXTENSION = ".txt"
"""What a caption's file ends in; the rest of its name is the picture's."""

Stamp = tuple[int, int, int, int]
"""Four whole numbers that change whenever a file does: size in bytes, times of change, inode, or what a source has.

In a folder: (size, mtime in ns, ctime in ns, inode)."""

CLOCK_GRAIN_NS = 2_000_000_000
"""A file may change twice within this time and keep its stamp: the coarsest clock of a file system, FAT's."""

_CLOCKS_APART_NS = 3600 * 1_000_000_000


class Reason(StrEnum):
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
    NO_MASK = "no mask in mask_data_dir"
    MASK = "its mask can't be used"
    DARK_MASK = "its mask ignores all of it"
    TOO_SMALL = "smaller than minimum_image_size"
    ASPECT = "aspect ratio outside the limits"
    UPSCALE = "would be enlarged more than max_upscale_threshold allows"
    OVER_LIMIT = "over max_num_samples"
    CHANGED = "changed since it was scanned"
    READ_FAILED = "reading it failed"


UNREADABLE_REASONS = frozenset(
    reason.value
    for reason in (
        Reason.ZERO_BYTES, Reason.UNREADABLE, Reason.TRUNCATED, Reason.UNSUPPORTED, Reason.PIXEL_KIND,
        Reason.TOO_LARGE, Reason.PERMISSION, Reason.BROKEN_LINK, Reason.NOT_A_FILE, Reason.CHANGED,
        Reason.READ_FAILED,
    )
)  # fmt: skip
"""Those that say something is wrong with a file, and not that a person's limits leave it out."""


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


class ImageFile(NamedTuple):
    """A file that may be a picture; `name` is its path inside the data set, with forward slashes.

    `may_have_text` is False when the source's listing shows that no text file of its name stands beside it.
    `text_stamp` is a number that changes whenever that text file does; None where the listing can't say.
    """

    name: str
    size_bytes: int
    stamp: Stamp
    may_have_text: bool = True
    text_stamp: int | None = None


@dataclass(frozen=True)
class Listing:
    """A source's content, sorted by name: files to look into, pictures known to be unusable, how many are neither."""

    files: tuple[ImageFile, ...]
    rejected: tuple[tuple[str, Rejected], ...]
    other: int


def shown(name: str) -> str:
    """A file name as it can stand in one line of text: control characters and broken bytes become escapes."""
    return "".join(character if character.isprintable() else ascii(character)[1:-1] for character in name)


def name_bytes(name: str) -> bytes:
    """A file name's bytes for hashing; names that aren't valid UTF-8 keep theirs."""
    return name.encode("utf-8", "surrogateescape")


class SourceError(OSError):
    """A source, or what belongs to it, can't be read at all: what is wrong, and what to do about it.

    `key` is the data set's key that is to be changed, where it isn't the one that says where the pictures are.
    """

    def __init__(self, message: str, hint: str, key: str | None = None) -> None:
        super().__init__(message)
        self.message, self.hint, self.key = message, hint, key


class NotHere(SourceError):
    """What belongs to a source is to be fetched first: nothing in a file has to be changed."""


class Source(Protocol):
    """The pictures of one data set.

    Picklable, as worker processes get a copy, and safe to use from several threads. Everything but `location` raises
    OSError: for a picture its strerror is told, for the source as a whole it is a SourceError. What a network does
    now and then (a dropped connection, a slow answer) is tried again before that.
    """

    def fetch(self, reporter: Reporter) -> None:
        """Bring to this machine what must be here before anything can be listed, showing progress; once is enough."""
        ...

    def list(self) -> Listing:
        """Every picture-like file. Raises SourceError when the whole can't be listed, or hasn't been fetched yet."""
        ...

    def read(self, name: str) -> bytes:
        """All bytes of a picture."""
        ...

    def open(self, name: str) -> BinaryIO:
        """A picture as a file to read and seek in, for a look at its header."""
        ...

    def read_ends(self, file: ImageFile, limit: int) -> tuple[bytes, bytes]:
        """All of a picture of at most `limit` bytes and its last eight; of a larger one some of the first."""
        ...

    def read_text(self, file: ImageFile, limit: int) -> bytes | None:
        """The first `limit` bytes of the text file that has the picture's name; None when there is none."""
        ...

    def captions(self, file: ImageFile) -> tuple[str, ...]:
        """What the data set itself says of a picture (caption_strategy huggingface); () where it says nothing."""
        ...

    def stamp(self, name: str) -> Stamp:
        """A picture's stamp now: asked after reading, it tells whether what was read is what was listed."""
        ...

    def location(self, name: str) -> str:
        """Where a picture is, as a person can find it; the same file has the same location in every data set."""
        ...


def fingerprint(stamp: Stamp) -> int:
    """A stamp as one number of 64 bits, never 0. Two stamps of which one part differs never have the same."""
    return hash(stamp) or 1


def is_settled(stamp: Stamp, since_ns: int) -> bool:
    """Whether a file with this stamp, read after `since_ns`, can't have changed unnoticed since the stamp was taken.

    It could if its last change is as near to `since_ns` as the file system's clock is coarse, or later. Times of more
    than an hour ahead are no times, as other sources than folders have none.
    """
    settled = since_ns - CLOCK_GRAIN_NS
    if stamp[1] < settled and stamp[2] < settled:
        return True
    no_time = time.time_ns() + _CLOCKS_APART_NS
    return all(moment < settled or moment > no_time for moment in stamp[1:3])


def open_source(image_set: ImageSet, hf_endpoint: str | None = None) -> Source:
    """The source that a data set names; `hf_endpoint` is the address of a mirror of the Hugging Face hub.

    Raises SourceError when a package it needs isn't installed.
    """
    if image_set.type == "local":
        from simpletune.data.sources.local import Folder

        assert image_set.instance_data_dir is not None
        return Folder(str(image_set.instance_data_dir))
    if image_set.type == "webdataset":
        from simpletune.data.sources.webdataset import Shards

        return Shards(str(image_set.instance_data_dir))
    if image_set.type == "s3":
        from simpletune.data.sources.s3 import Bucket

        assert image_set.s3_url is not None
        return Bucket(image_set.s3_url, image_set.s3_endpoint)
    if image_set.type == "huggingface":
        from simpletune.data.sources.huggingface import HuggingFace

        return HuggingFace(image_set, hf_endpoint)
    raise ValueError(f"no source of type {image_set.type}")


def text_name(name: str) -> str:
    """The name of the text file that belongs to a picture: its own with .txt in place of the extension."""
    return os.path.splitext(name)[0] + TEXT_EXTENSION  # noqa: PTH122
