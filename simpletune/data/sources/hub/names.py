"""What a picture in a row of a table is called: the row's number, the row's own file name, an ending by content."""

from __future__ import annotations

import os
import re

_STARTS = (
    (b"\xff\xd8\xff", ".jpg"),
    (b"\x89PNG", ".png"),
    (b"GIF8", ".gif"),
    (b"BM", ".bmp"),
    (b"II*\0", ".tif"),
    (b"MM\0*", ".tif"),
)
_SAME = {".jpeg": ".jpg", ".jpe": ".jpg", ".jfif": ".jpg", ".apng": ".png", ".tiff": ".tif"}
_UNFIT = re.compile(r'[\x00-\x1f\x7f<>:"/\\|?*]')
"""Characters that a file's name can't have on one system or another."""
_DIGITS = 6
_LONGEST = 100

HEAD = 12
"""Bytes of a picture that tell its format."""


def extension(head: bytes) -> str:
    """A picture's extension by its first HEAD bytes; "" for what isn't known."""
    for start, found in _STARTS:
        if head.startswith(start):
            return found
    if head[:4] == b"RIFF" and head[8:12] == b"WEBP":
        return ".webp"
    return ".avif" if head[4:11] == b"ftypavi" else ""


def tail(head: bytes, path: str | None) -> str:
    """What follows the row's number in a picture's name: "-cat.jpg" of a path that ends in cat.jpg, else ".jpg"."""
    own = re.split(r"[/\\]", path or "")[-1]
    stem, ending = os.path.splitext(own)  # noqa: PTH122
    found = extension(head)
    if not found or _SAME.get(ending.lower(), ending.lower()) == found:
        found = ending
    stem = _UNFIT.sub("_", stem).encode("utf-8", "replace")[:_LONGEST].decode("utf-8", "ignore")
    return (f"-{stem}" if stem else "") + _UNFIT.sub("_", found)[:_LONGEST]


def numbered(row: int, count: int, tail: str, folder: str = "") -> str:
    """The name of a row's picture; all rows of a split of `count` have numbers of the same length."""
    digits = max(_DIGITS, len(str(count - 1)))
    return f"{folder}{row:0{digits}d}{tail}"


def row_of(name: str) -> tuple[str, int]:
    """The folder (with its slash, or "") and the row that a name was made of. Raises FileNotFoundError for another."""
    folder, slash, own = name.rpartition("/")
    digits = re.match(r"\d+", own)
    if digits is None:
        raise FileNotFoundError(2, "there is no such picture", name)
    return folder + slash, int(digits[0])
