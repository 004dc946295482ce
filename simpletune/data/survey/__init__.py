"""A bounded look at a set of pictures, whatever it is: five in a folder, 500,000, or a network drive that hangs.

What counts as a picture, as readable and as a caption is what the scan's modules say. In a large folder the pictures
looked at are spread over the whole listing, so that a part stands for all. `survey_work.py` does the looking.
"""

from __future__ import annotations

import os
import re
from collections.abc import Mapping
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import Any

from simpletune.data.survey.wording import lines

__all__ = ["HubLook", "Place", "Survey", "TableLook", "below", "folder_typed", "lines", "survey"]


@dataclass(frozen=True)
class Place:
    """Where the pictures of a data set are.

    where: a path, an s3:// address, or a name on the hub. type: as in the data file; None for a path that is looked at
    to find it out. keys: what else the entry says of it, by key (dataset_split, s3_endpoint ...), paths absolute.
    mirror: the hub's address where it isn't the hub's own.
    """

    where: str
    type: str | None = None
    keys: tuple[tuple[str, Any], ...] = ()
    mirror: str | None = None

    @property
    def name(self) -> str:
        """What the whole is called: the last part of where it is."""
        return Path(re.sub(r"^\w+://", "", self.where)).name

    @property
    def folder(self) -> Path | None:
        """Its folder or file on this machine; None for pictures from elsewhere."""
        return Path(self.where) if self.type in (None, "local", "webdataset") or os.path.isabs(self.where) else None  # noqa: PTH117


@dataclass(frozen=True)
class TableLook:
    """The beginning of a caption table: `rows` of it were read (all if `complete`), `matching` of them name a picture
    that was listed; `example` is a caption of one."""

    path: str
    rows: int
    complete: bool
    matching: int
    example: str


@dataclass(frozen=True)
class HubLook:
    """The parts of a data set in the hub's layout, and its columns: with pictures, with text, and the one for captions
    that is known by its name."""

    splits: tuple[str, ...]
    images: tuple[str, ...]
    texts: tuple[str, ...]
    caption: str | None


@dataclass(frozen=True)
class Survey:
    """What was seen of a data set in the time given; `folder` is where it is.

    Of the `pictures` listed so far (all of them if `listed_all`), `looked_at` were opened; the counts are of those.
    `sizes` counts (width, height) in pixels, upright, of the readable ones, and each of them either has a caption in a
    text file (`with_text`), a text file without one (`empty_text`) or none (`missing_text`). `unreadable` are the first
    (name, reason)s, `reasons` counts them all.

    `captions` are some of the `distinct_captions` different ones in text files; `commonest` is the one most pictures
    share, and how many do. `name_captions` are some that the file names would make; `likely_names` of the names read
    like captions, with `distinct_names` different texts once numbers are left out, and `commonest_name` the one most
    share. `words` are all words of captions and names, in small letters. `notes` counts remarks on captions.
    `other_files` counts files that aren't pictures by extension.

    `type` is what it is, as the data file has it. `with_own` pictures have captions in the data set itself, which are
    among `captions` then. `tables` are caption tables found in the folder and beside it, `masks` a folder beside it and
    for how many of the pictures listed it has a mask, `hub` the parts of a data set in the hub's layout.

    `unseen` says why nothing was looked at of a set that can be trained on all the same. `problem` says why it can't
    be trained on, `hint` what to do.
    """

    folder: Path
    pictures: int
    looked_at: int
    listed_all: bool
    seconds: float
    sizes: Mapping[tuple[int, int], int]
    unreadable: tuple[tuple[str, str], ...]
    reasons: Mapping[str, int]
    with_text: int
    empty_text: int
    missing_text: int
    captions: tuple[str, ...]
    distinct_captions: int
    commonest: tuple[str, int]
    name_captions: tuple[str, ...]
    likely_names: int
    distinct_names: int
    commonest_name: tuple[str, int]
    words: frozenset[str]
    notes: Mapping[str, int]
    other_files: Mapping[str, int]
    problem: str | None = None
    hint: str | None = None
    type: str = "local"
    unseen: str | None = None
    with_own: int = 0
    tables: tuple[TableLook, ...] = ()
    masks: tuple[str, int] | None = None
    hub: HubLook | None = None

    @property
    def complete(self) -> bool:
        """Whether every picture was looked at, so that the counts are exact."""
        return self.listed_all and self.looked_at == self.pictures

    @property
    def unreadable_count(self) -> int:
        return sum(self.reasons.values())

    @cached_property
    def readable(self) -> int:
        """Pictures looked at whose size is known."""
        return sum(self.sizes.values())

    @property
    def usable(self) -> int:
        """Pictures that can be trained on: counted, or estimated from those looked at."""
        return round(self.pictures * self.readable / self.looked_at) if self.looked_at else 0


def survey(place: Place | Path, budget_seconds: float = 2.0) -> Survey:
    """Look at a place (a path alone: a folder of pictures) for `budget_seconds`, and at the very most 0.3 s longer.

    What is read by another library takes the seconds that loading it takes besides. Never raises.
    """
    from simpletune.data.survey.work import look  # it takes Pillow, and the wizard's first question doesn't

    return look(Place(str(place), "local") if isinstance(place, Path) else place, budget_seconds)


def below(found: Survey, resolution: int, *, square: bool = False) -> int:
    """How many of the pictures looked at would be enlarged to be trained on at `resolution` pixels.

    Without `square` a picture needs the area of that square, in its own shape; with it, a shorter edge that long.
    """
    return sum(
        count
        for (width, height), count in found.sizes.items()
        if (min(width, height) < resolution if square else width * height < resolution * resolution)
    )


def folder_typed(text: str, base: Path) -> Path:
    """The folder that somebody typed, or dragged into the terminal, meant from `base`. The disk is not asked.

    `~`, a trailing slash, quotes around it, and (but on Windows) backslashes before spaces and brackets are understood.
    """
    text = text.strip()
    if len(text) >= 2 and text[0] == text[-1] and text[0] in "'\"":
        text = text[1:-1]
    elif os.name != "nt":
        text = re.sub(r"\\([\s()\[\]{}'\"&;!$#*?<>|`\\])", r"\1", text)
    return Path(os.path.normpath(base / os.path.expanduser(text)))  # noqa: PTH111 - a ~ of nobody's stays as it is
