"""The caption of a picture: from the text file beside it, from its name, or one for the whole set."""

from __future__ import annotations

import os
from dataclasses import dataclass
from typing import TYPE_CHECKING

from simpletune.data.sources import ImageFile, Reason, Rejected, Source, shown, text_name

if TYPE_CHECKING:
    from simpletune.config.settings import ImageSet

LARGEST_CAPTION_FILE = 1 << 20
"""Bytes. A larger text file is something else that happens to stand there."""

NOT_UTF8 = "not UTF-8, read as Latin-1 (Windows-1252)"
SEVERAL_LINES = "more than one line: one of them is drawn a step"


@dataclass(frozen=True, slots=True)
class Caption:
    """A picture's captions, one of which is drawn a step, and what a person should know of how they were read.

    There is at least one. A note is a text that many captions may share.
    """

    texts: tuple[str, ...]
    notes: tuple[str, ...] = ()

    @property
    def text(self) -> str:
        """The first."""
        return self.texts[0]


def read_caption(image: ImageFile, image_set: ImageSet, source: Source) -> Caption | Rejected:
    """What the data set's caption_strategy says of a picture, with the instance prompt before it or in its place."""
    prompt = _one_line(image_set.instance_prompt or "")
    if image_set.only_instance_prompt or image_set.caption_strategy == "instanceprompt":
        return Caption((prompt,)) if prompt else Rejected(Reason.NO_CAPTION, "instance_prompt is empty")
    found = name_caption(image) if image_set.caption_strategy == "filename" else _from_text_file(image, source)
    if isinstance(found, Caption) and image_set.prepend_instance_prompt and prompt:
        return Caption(tuple(f"{prompt} {text}" for text in found.texts), found.notes)
    return found


def decode_text(data: bytes) -> tuple[str, tuple[str, ...]]:
    """Text of unknown encoding, and a note if it was guessed: UTF-8, UTF-16 (by mark or zero bytes), else Latin-1."""
    if data.isascii() and 0 not in data:
        return data.decode("ascii"), ()
    if data.startswith((b"\xff\xfe", b"\xfe\xff")):
        return data.decode("utf-16", "replace"), ()
    if b"\0" in data:
        order = "utf-16-be" if data.startswith(b"\0") else "utf-16-le"
        return data.decode(order, "replace"), ()
    try:
        return data.decode("utf-8-sig"), ()
    except UnicodeDecodeError:
        pass
    try:
        return data.decode("cp1252"), (NOT_UTF8,)
    except UnicodeDecodeError:
        return data.decode("latin-1"), (NOT_UTF8,)


def name_caption(image: ImageFile) -> Caption | Rejected:
    """A picture's name as its caption: its last part, with spaces for underscores and hyphens."""
    stem = os.path.splitext(image.name.rpartition("/")[2])[0]  # noqa: PTH122
    if not stem.isascii():
        stem = stem.encode("utf-8", "surrogateescape").decode("utf-8", "replace")
    text = _one_line(stem.replace("_", " ").replace("-", " "))
    return Caption((text,)) if text else Rejected(Reason.NO_CAPTION, "nothing is left of its name as a caption")


def text_caption(image: ImageFile, source: Source) -> Caption | Rejected | None:
    """The lines of the text file that belongs to a picture; None when there is no such file."""
    data = _read(image, source)
    if not isinstance(data, bytes):
        return data
    text, notes = decode_text(data)
    lines = tuple(dict.fromkeys(line for line in map(_one_line, text.splitlines()) if line))
    if not lines:
        return Rejected(Reason.NO_CAPTION, f"caption file {_text_file(image)} is empty")
    return Caption(lines, notes if len(lines) == 1 else (*notes, SEVERAL_LINES))


def _from_text_file(image: ImageFile, source: Source) -> Caption | Rejected:
    found = text_caption(image, source)
    if found is None:
        return Rejected(Reason.NO_CAPTION, f"no caption file {_text_file(image)}")
    return found


def _text_file(image: ImageFile) -> str:
    return shown(text_name(image.name).rpartition("/")[2])


def _read(image: ImageFile, source: Source) -> bytes | Rejected | None:
    try:
        data = source.read_text(image, LARGEST_CAPTION_FILE + 1)
    except OSError as error:
        return Rejected(Reason.NO_CAPTION, f"caption file {_text_file(image)} can't be read: {error.strerror}")
    if data is not None and len(data) > LARGEST_CAPTION_FILE:
        return Rejected(Reason.NO_CAPTION, f"{_text_file(image)} is over 1 MiB: not a caption")
    return data


def _one_line(text: str) -> str:
    return " ".join(text.split())
