"""The captions of a picture: found where caption_strategy says, filtered, with the instance prompt, shuffled.

Imports neither pyarrow nor datasets: tables are read by `metadata.py`, data sets of the hub by their source.
"""

from __future__ import annotations

import os
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING

from simpletune.data.captions.filter import filtered
from simpletune.data.captions.shuffle import shuffled
from simpletune.data.captions.texts import decode_text, one_line
from simpletune.data.sources import ImageFile, Reason, Rejected, Source, SourceError, shown, text_name
from simpletune.redact import shaped_like_token

if TYPE_CHECKING:
    from simpletune.config.settings import ImageSet
    from simpletune.data.captions.metadata import Metadata

LARGEST_CAPTION_FILE = 1 << 20
"""Bytes. A larger text file is something else that happens to stand there."""

MOST_CAPTIONS = 1000
"""A picture's. Each is encoded and kept, so that a file of a million lines would fill the disk."""

SEVERAL_LINES = "more than one line: one of them is drawn a step"
SEVERAL = "more than one caption: one of them is drawn a step"


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


def read_caption(
    image: ImageFile, image_set: ImageSet, source: Source, metadata: Metadata | None = None, seed: int = 0
) -> Caption | Rejected:
    """What a picture is trained with: what caption_strategy finds, filtered, with the instance prompt, and shuffled.

    `metadata` is the data set's table, for the strategies that read one; `seed` decides the orders of shuffled parts.
    Raises SourceError when caption_filter holds what is no regular expression.
    """
    prompt = one_line(image_set.instance_prompt or "")
    if image_set.only_instance_prompt or image_set.caption_strategy == "instanceprompt":
        if not prompt:
            return Rejected(Reason.NO_CAPTION, "instance_prompt is empty")
        return Caption(_orders(image, image_set, (prompt,), seed))
    found = _found(image, image_set, source, metadata)
    if not isinstance(found, Caption):
        return found
    if any(map(shaped_like_token, found.texts)):
        return Rejected(Reason.NO_CAPTION, "its caption holds something that looks like an access token: take it out")
    texts = filtered(found.texts, image_set.caption_filter, image_set.caption_separator)
    if not texts:
        return Rejected(Reason.NO_CAPTION, "caption_filter leaves nothing of its caption")
    texts = _orders(image, image_set, texts, seed)
    if image_set.prepend_instance_prompt and prompt:
        texts = tuple(f"{prompt} {text}" for text in texts)
    return Caption(texts, found.notes)


def _found(image: ImageFile, image_set: ImageSet, source: Source, metadata: Metadata | None) -> Caption | Rejected:
    """The captions as they stand where caption_strategy looks."""
    strategy = image_set.caption_strategy
    if strategy == "textfile":
        return _from_text_file(image, source)
    if strategy == "filename":
        return name_caption(image)
    if strategy == "huggingface":
        return _from_source(image, source)
    if metadata is None:
        raise ValueError(f"caption_strategy {strategy} reads a table, and none was opened")
    return _from_table(image, metadata)


def _orders(image: ImageFile, image_set: ImageSet, texts: tuple[str, ...], seed: int) -> tuple[str, ...]:
    """The texts, in caption_shuffle_count orders each."""
    count, keep = image_set.caption_shuffle_count, image_set.caption_shuffle_keep
    if not count:
        return texts

    def orders(text: str) -> tuple[str, ...]:
        separator = image_set.caption_separator
        return shuffled(text, separator, count, keep, seed=seed, set_id=image_set.id, name=image.name)

    return tuple(dict.fromkeys(order for text in texts for order in orders(text)))


def name_caption(image: ImageFile) -> Caption | Rejected:
    """A picture's name as its caption: its last part, with spaces for underscores and hyphens."""
    stem = os.path.splitext(image.name.rpartition("/")[2])[0]  # noqa: PTH122
    if not stem.isascii():
        stem = stem.encode("utf-8", "surrogateescape").decode("utf-8", "replace")
    text = one_line(stem.replace("_", " ").replace("-", " "))
    return Caption((text,)) if text else Rejected(Reason.NO_CAPTION, "nothing is left of its name as a caption")


def text_caption(image: ImageFile, source: Source) -> Caption | Rejected | None:
    """The lines of the text file that belongs to a picture; None when there is no such file."""
    data = _read(image, source)
    if not isinstance(data, bytes):
        return data
    text, notes = decode_text(data)
    lines = tuple(dict.fromkeys(line for line in map(one_line, text.splitlines()) if line))
    if not lines:
        return Rejected(Reason.NO_CAPTION, f"caption file {_text_file(image)} is empty")
    if len(lines) > MOST_CAPTIONS:
        return Rejected(Reason.NO_CAPTION, f"{_text_file(image)} has {_too_many(lines)}")
    return Caption(lines, notes if len(lines) == 1 else (*notes, SEVERAL_LINES))


def _from_text_file(image: ImageFile, source: Source) -> Caption | Rejected:
    found = text_caption(image, source)
    if found is None:
        return Rejected(Reason.NO_CAPTION, f"no caption file {_text_file(image)}")
    return found


def _from_source(image: ImageFile, source: Source) -> Caption | Rejected:
    try:
        texts = source.captions(image)
    except SourceError:
        raise
    except OSError as error:
        return Rejected(Reason.NO_CAPTION, f"its caption can't be read: {error.strerror or error}")
    if len(texts) > MOST_CAPTIONS:
        return Rejected(Reason.NO_CAPTION, f"the data set has {_too_many(texts)} for it")
    return _several(texts) or Rejected(Reason.NO_CAPTION, "the data set has no caption for it")


def _from_table(image: ImageFile, metadata: Metadata) -> Caption | Rejected:
    texts = metadata.captions(image.name)
    if texts is None:
        return Rejected(Reason.NO_CAPTION, f"no row in {shown(metadata.name)}")
    return _several(texts) or Rejected(Reason.NO_CAPTION, f"no caption in its row of {shown(metadata.name)}")


def _too_many(texts: Sequence[str]) -> str:
    return f"{len(texts):,} captions, more than the {MOST_CAPTIONS:,} a picture can have"


def _several(texts: Iterable[str]) -> Caption | None:
    lines = tuple(dict.fromkeys(line for line in map(one_line, texts) if line))
    if not lines:
        return None
    return Caption(lines, () if len(lines) == 1 else (SEVERAL,))


def _text_file(image: ImageFile) -> str:
    return shown(text_name(image.name).rpartition("/")[2])


def _read(image: ImageFile, source: Source) -> bytes | Rejected | None:
    try:
        data = source.read_text(image, LARGEST_CAPTION_FILE + 1)
    except SourceError:
        raise
    except OSError as error:
        why = error.strerror or error
        return Rejected(Reason.NO_CAPTION, f"caption file {_text_file(image)} can't be read: {why}")
    if data is not None and len(data) > LARGEST_CAPTION_FILE:
        return Rejected(Reason.NO_CAPTION, f"{_text_file(image)} is over 1 MiB: not a caption")
    return data
