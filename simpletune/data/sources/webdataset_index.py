"""Which pictures a folder's tar shards hold, and where in them: the part of webdataset.py that walks through shards."""

from __future__ import annotations

import errno
import os
import time
from array import array
from bisect import bisect_left
from collections.abc import Iterator
from dataclasses import dataclass, field
from typing import BinaryIO, NamedTuple, NoReturn

from simpletune.data.sources import (
    TEXT_EXTENSION,
    ImageFile,
    Listing,
    Reason,
    Rejected,
    SourceError,
    Stamp,
    fingerprint,
    is_settled,
    shown,
)
from simpletune.data.sources.listing import NAMED_LIKE_PICTURES, is_hidden, refusal, split_name
from simpletune.data.sources.tar_members import DamagedArchive, Member, compression, members

SHARD = ".tar"
_COMPRESSED_NAMES = (".tar.gz", ".tgz", ".tar.bz2", ".tbz2", ".tar.xz", ".txz", ".tar.zst", ".tzst")
_JSON = ".json"
_WINDOWS = os.name == "nt"


class Place(NamedTuple):
    """Where a picture's bytes and its caption's are; `text_size` is NO_TEXT, or as_json(size) for a JSON file."""

    shard: int
    offset: int
    size: int
    text_offset: int
    text_size: int


NO_TEXT = -1


def as_json(size: int) -> int:
    """A JSON file's size, told apart from a text file's; its own inverse."""
    return -2 - size


class Index:
    """The shards, and the pictures' places by name: 40 bytes for each beside the name."""

    def __init__(self, shards: list[tuple[str, Stamp]], places: list[tuple[str, Place]]) -> None:
        """`shards` are their paths, and their stamps when they were listed; `places` are sorted by name."""
        self.shards = shards
        self._names = [name for name, _ in places]
        self._numbers = array("q")
        for _, place in places:
            self._numbers.extend(place)

    def find(self, name: str) -> Place:
        """Raises FileNotFoundError."""
        at, width = bisect_left(self._names, name), len(Place._fields)
        if at == len(self._names) or self._names[at] != name:
            raise FileNotFoundError(errno.ENOENT, "there is no such file in the shards")
        return Place(*self._numbers[width * at : width * (at + 1)])


def shard_stamp(status: os.stat_result) -> Stamp:
    """A shard file's stamp; a folder's listing on Windows has no inodes, so they have no say there."""
    return status.st_size, status.st_mtime_ns, status.st_ctime_ns, 0 if _WINDOWS else status.st_ino


def member_stamp(offset: int, size: int, shard: Stamp) -> Stamp:
    """A member changes when its shard does. The shard's times stay what they are, so that lately changed ones show."""
    return size, shard[1], shard[2], fingerprint((offset, shard[0], shard[3], 0))


def read_shards(root: str) -> tuple[Listing, Index]:
    """What is in the shards of a folder and those below it, or in one shard.

    Raises SourceError when there is no shard, or one that is compressed.
    """
    found, others = _shards(root)
    look = _Look(others=others)
    for name, path in found:
        look.into(name, path)
    look.files.sort()
    look.places.sort()
    look.rejected.sort(key=lambda entry: entry[0])
    return Listing(tuple(look.files), tuple(look.rejected), look.others), Index(look.shards, look.places)


def _shards(root: str) -> tuple[list[tuple[str, str]], int]:
    """Names and paths of the shards, sorted, and how many files are none."""
    if os.path.isfile(root):  # noqa: PTH113
        names, others = [os.path.basename(root)], 0  # noqa: PTH119
        root = os.path.dirname(root)  # noqa: PTH120
    else:
        every = sorted(_files(root))
        names = [name for name in every if name.lower().endswith((SHARD, *_COMPRESSED_NAMES))]
        others = len(every) - len(names)
        if not names:
            hint = "put the shards there, or check instance_data_dir; for a folder of pictures, leave type out"
            raise SourceError(f"there are no {SHARD} files in {shown(root)}", hint)
    packed = [name for name in names if not name.lower().endswith(SHARD)]
    if packed:
        _refuse_compressed(packed)
    return [(name, f"{root}/{name}") for name in names], others


def _refuse_compressed(names: list[str], how: str = "") -> NoReturn:
    one = len(names) == 1
    which = shown(names[0]) + ("" if one else f" and {len(names) - 1} more")
    message = f"{which} {'is' if one else 'are'} compressed{how}, so pictures can't be read in place"
    hint = f"unpack {'it' if one else 'them'} to plain {SHARD} with gunzip, bunzip2, unxz or unzstd"
    raise SourceError(message, f"{hint}; pictures are compressed already, so shards hardly grow")


def _files(root: str) -> Iterator[str]:
    """The files below a folder but hidden ones, linked folders once each. Raises SourceError if it can't be listed."""
    seen: set[tuple[int, int]] = set()

    def fail(error: OSError) -> None:
        if error.filename == root:
            raise SourceError(f"the folder {shown(root)} can't be read: {error.strerror}", "check its permissions")

    for where, folders, names in os.walk(root, onerror=fail, followlinks=True):
        try:
            status = os.stat(where)  # noqa: PTH116
        except OSError:  # it went away
            folders.clear()
            continue
        if (status.st_dev, status.st_ino) in seen:
            folders.clear()
            continue
        seen.add((status.st_dev, status.st_ino))
        folders[:] = sorted(name for name in folders if not name.startswith("."))
        below = os.path.relpath(where, root).replace(os.sep, "/")
        prefix = "" if below == "." else f"{below}/"
        yield from (prefix + name for name in names if not name.startswith("."))


@dataclass
class _Look:
    """A look into shard after shard."""

    others: int
    files: list[ImageFile] = field(default_factory=list)
    rejected: list[tuple[str, Rejected]] = field(default_factory=list)
    shards: list[tuple[str, Stamp]] = field(default_factory=list)
    places: list[tuple[str, Place]] = field(default_factory=list)

    def into(self, name: str, path: str) -> None:
        try:
            with open(path, "rb") as file:  # noqa: PTH123
                self._read(name, path, file)
        except SourceError:
            raise
        except PermissionError:
            self.rejected.append((name, Rejected(Reason.PERMISSION, "the shard can't be opened")))
        except FileNotFoundError:
            self.rejected.append((name, Rejected(Reason.CHANGED, "the shard vanished")))
        except OSError as error:
            self.rejected.append((name, Rejected(Reason.READ_FAILED, f"the shard: {error.strerror or error}")))

    def _read(self, name: str, path: str, file: BinaryIO) -> None:
        began, stamp = time.time_ns(), shard_stamp(os.fstat(file.fileno()))
        packed = compression(file)
        if packed is not None:
            _refuse_compressed([name], f" ({packed})")
        content = _Content()
        try:
            for member in members(file, stamp[0]):
                content.add(member)
        except DamagedArchive as damage:
            used = f"the {content.count} files before that are used" if content.count else "nothing in it can be used"
            self.rejected.append((name, Rejected(Reason.READ_FAILED, f"the shard is damaged: {damage}; {used}")))
        self._take(name, content, stamp, is_settled(stamp, began))
        self.shards.append((path, stamp))

    def _take(self, shard: str, content: _Content, stamp: Stamp, settled: bool) -> None:
        for member, extension in content.pictures():
            name = f"{shard}/{member.name}"
            refused = refusal(extension, member.size)
            if refused is not None:
                self.rejected.append((name, refused))
                continue
            text_offset, text_size = content.text(member.name)
            text_stamp = None
            if text_size != NO_TEXT and settled:
                text_stamp = fingerprint(member_stamp(text_offset, text_size, stamp))
            own = member_stamp(member.offset, member.size, stamp)
            self.files.append(ImageFile(name, member.size, own, text_size != NO_TEXT, text_stamp))
            place = Place(len(self.shards), member.offset, member.size, text_offset, text_size)
            self.places.append((name, place))
        self.others += content.passed_over


class _Content:
    """One shard's members by what they are; `passed_over` counts those that are neither pictures nor hidden."""

    def __init__(self) -> None:
        self.count = 0
        self.passed_over = 0
        self._pictures: dict[str, tuple[Member, str]] = {}
        self._texts: dict[str, tuple[int, int]] = {}  # by name without extension
        self._json: dict[str, tuple[int, int]] = {}

    def add(self, member: Member | None) -> None:
        self.count += 1
        name = None if member is None else _inside(member.name)
        if member is None or name is None:
            self.passed_over += 1
            return
        if is_hidden(name):
            return
        stem, extension = split_name(name)
        if extension in NAMED_LIKE_PICTURES:
            self.passed_over += name in self._pictures
            self._pictures[name] = member._replace(name=name), extension
            return
        self.passed_over += 1
        if extension == TEXT_EXTENSION:
            self._texts[stem] = member.offset, member.size
        elif extension == _JSON:
            self._json[stem] = member.offset, as_json(member.size)

    def pictures(self) -> Iterator[tuple[Member, str]]:
        """Each with its extension; to be asked when all members have been added."""
        plain = {split_name(name)[0] for name in self._pictures}
        for name, (member, extension) in self._pictures.items():
            key = _key(name)
            if key != split_name(name)[0] and key in plain:
                self.passed_over += 1
            else:
                yield member, extension

    def text(self, name: str) -> tuple[int, int]:
        """(offset, size as in Place) of a picture's caption."""
        names = split_name(name)[0], _key(name)
        for files in (self._texts, self._json):
            for stem in names:
                if stem in files:
                    return files[stem]
        return 0, NO_TEXT


def _inside(name: str) -> str | None:
    """Where below the shard's folder a member would be unpacked to; None for somewhere else, or nowhere."""
    parts = [part for part in name.split("/") if part not in ("", ".")]
    foreign = "\0" in name or (_WINDOWS and ("\\" in name or ":" in name))
    if name.startswith("/") or ".." in parts or not parts or foreign:
        return None
    return "/".join(parts)


def _key(name: str) -> str:
    folder, slash, file = name.rpartition("/")
    return folder + slash + file.partition(".")[0]
