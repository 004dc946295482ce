"""Look through a data set's folder: which pictures train, where each is placed, and why the others don't.

Only headers and captions are read; nothing is written, and nothing decoded but files whose end looks cut off.
"""

from __future__ import annotations

import hashlib
import time
from collections import Counter
from collections.abc import Callable, Iterable, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from typing import TYPE_CHECKING

from simpletune.data.captions import Caption, read_caption
from simpletune.data.geometry import Placement, objection, placements
from simpletune.data.header import read_header
from simpletune.data.pace import THREADS_WHEN_WAITING, is_waiting
from simpletune.data.sources import Exclusion, ImageFile, Reason, Rejected, Source, Stamp, name_bytes

if TYPE_CHECKING:
    from simpletune.config.settings import ImageSet

__all__ = ["Exclusion", "Placement", "Sample", "ScanResult", "scan"]

_FILES_TIMED = 64


@dataclass(frozen=True, slots=True)
class Sample:
    """A picture that can be trained on. `width` and `height` are its own, upright, in pixels.

    `captions` and `placements` are what it can be shown as, at least one of each; the placements share a bucket.
    """

    set_id: str
    name: str
    stamp: Stamp
    width: int
    height: int
    captions: tuple[str, ...]
    placements: tuple[Placement, ...]

    @property
    def id(self) -> tuple[str, str]:
        """What names the sample in a run: (set_id, name)."""
        return self.set_id, self.name

    @property
    def bucket(self) -> tuple[int, int]:
        """(width, height) in pixels, of every placement."""
        return self.placements[0].bucket


@dataclass(frozen=True)
class ScanResult:
    """What was found in one data set; `samples` and `excluded` together are every picture-like file, sorted by name.

    `other` counts files that aren't pictures (captions among them); `notes` are remarks on captions with example names.
    """

    set_id: str
    samples: tuple[Sample, ...]
    excluded: tuple[Exclusion, ...]
    other: int
    notes: Mapping[str, tuple[str, ...]]

    @property
    def found(self) -> int:
        return len(self.samples) + len(self.excluded)

    @property
    def reasons(self) -> Counter[str]:
        """How many pictures each reason excluded."""
        return Counter(exclusion.reason for exclusion in self.excluded)


def scan(image_set: ImageSet, source: Source, alignment: int, seed: int) -> ScanResult:
    """Scan one data set; the result depends on the source's content and the arguments, nothing else.

    Raises SourceError when the data set can't be listed.
    """
    listing = source.list()
    looked = _look_at_all(listing.files, lambda file: _look_at(file, source, image_set, alignment, seed))
    rejected = list(listing.rejected) + [(file.name, found) for file, found in looked if isinstance(found, Rejected)]
    usable = [found for _, found in looked if not isinstance(found, Rejected)]
    kept, over = _limit(usable, image_set, seed)
    return ScanResult(
        set_id=image_set.id,
        samples=tuple(sample for sample, _ in kept),
        excluded=_exclusions(image_set.id, rejected + over),
        other=listing.other,
        notes=_gather_notes(kept),
    )


_Usable = tuple[Sample, tuple[str, ...]]


def _look_at_all(
    files: Sequence[ImageFile], look: Callable[[ImageFile], _Usable | Rejected]
) -> list[tuple[ImageFile, _Usable | Rejected]]:
    """What is found in each file, in order; in threads where the first files show that it is waiting."""
    found, seconds = [], []
    for file in files[:_FILES_TIMED]:
        began = time.perf_counter()
        found.append(look(file))
        seconds.append(time.perf_counter() - began)
    rest = files[_FILES_TIMED:]
    if is_waiting(seconds):
        with ThreadPoolExecutor(THREADS_WHEN_WAITING, "scan") as pool:
            found += pool.map(look, rest)
    else:
        found += map(look, rest)
    return list(zip(files, found, strict=True))


def _look_at(file: ImageFile, source: Source, image_set: ImageSet, alignment: int, seed: int) -> _Usable | Rejected:
    header = read_header(source, file)
    if isinstance(header, Rejected):
        return header
    width, height = header.width, header.height
    placed = placements(width, height, image_set, alignment, seed=seed, name=file.name)
    refused = objection(width, height, image_set, placed[0])
    if refused is not None:
        return refused
    caption = read_caption(file, image_set, source)
    if not isinstance(caption, Caption):
        return caption
    sample = Sample(image_set.id, file.name, file.stamp, width, height, caption.texts, placed)
    return sample, caption.notes


def _limit(
    usable: Sequence[_Usable], image_set: ImageSet, seed: int
) -> tuple[Sequence[_Usable], list[tuple[str, Rejected]]]:
    """Keep max_num_samples pictures: a choice by seed, spread over the set, that new files disturb little."""
    limit = image_set.max_num_samples
    if limit is None or len(usable) <= limit:
        return usable, []

    def rank(entry: _Usable) -> bytes:
        return hashlib.sha256(b"\0".join((b"limit", str(seed).encode(), name_bytes(entry[0].name)))).digest()

    chosen = {entry[0].name for entry in sorted(usable, key=rank)[:limit]}
    detail = f"{limit} of {len(usable)} usable pictures are taken, chosen by seed"
    over = [(entry[0].name, Rejected(Reason.OVER_LIMIT, detail)) for entry in usable if entry[0].name not in chosen]
    return [entry for entry in usable if entry[0].name in chosen], over


def _exclusions(set_id: str, rejected: Iterable[tuple[str, Rejected]]) -> tuple[Exclusion, ...]:
    entries = (Exclusion(set_id, name, why.reason.value, why.detail) for name, why in rejected)
    return tuple(sorted(entries, key=lambda entry: entry.name))


def _gather_notes(kept: Iterable[_Usable]) -> dict[str, tuple[str, ...]]:
    names: dict[str, list[str]] = {}
    for sample, notes in kept:
        for note in notes:
            names.setdefault(note, []).append(sample.name)
    return {note: tuple(found) for note, found in names.items()}
