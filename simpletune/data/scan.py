"""Look through a data set's folder: which pictures train, where each is placed, and why the others don't.

Only headers and captions are read; nothing is written, and nothing decoded but files whose end looks cut off.
"""

from __future__ import annotations

import hashlib
import time
from collections import Counter
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from math import inf
from typing import TYPE_CHECKING

from simpletune.data.captions.metadata import Remark, needs_metadata, open_metadata
from simpletune.data.index import Index
from simpletune.data.look import Look, Sample
from simpletune.data.pace import THREADS_WHEN_WAITING, is_waiting, many_small_objects, waits
from simpletune.data.sources import Exclusion, ImageFile, Listing, Reason, Rejected, Source, name_bytes

if TYPE_CHECKING:
    from simpletune.config.settings import ImageSet

__all__ = ["Exclusion", "Sample", "ScanResult", "scan"]

SHARED_TEXT = "one text file for several pictures, whose names differ by extension only"

_FIRST_BATCH, _BATCH = 32, 256  # files; what a thread is given to do takes more memory than what it finds
_TRIED_EVERY = 32  # batches, as what was slow may be so no more


@dataclass(frozen=True)
class ScanResult:
    """What was found in one data set; `samples` and `excluded` together are every picture-like file, sorted by name.

    `other` counts files that aren't pictures (captions among them); `notes` are remarks on captions with example names;
    `remarks` are on a caption table's rows.
    """

    set_id: str
    samples: tuple[Sample, ...]
    excluded: tuple[Exclusion, ...]
    other: int
    notes: Mapping[str, tuple[str, ...]]
    remarks: tuple[Remark, ...] = ()

    @property
    def found(self) -> int:
        return len(self.samples) + len(self.excluded)

    @property
    def reasons(self) -> Counter[str]:
        """How many pictures each reason excluded."""
        return Counter(exclusion.reason for exclusion in self.excluded)


def scan(
    image_set: ImageSet,
    source: Source,
    alignment: int,
    seed: int,
    index: Index | None = None,
    progress: Callable[[int, int], None] | None = None,
) -> ScanResult:
    """Scan one data set; the result depends on the source's content and the arguments, and not on the index.

    What `index` knows isn't read again, and what is read is noted in it. `progress` is told now and then how many of
    how many files are done. Raises SourceError when the data set or its table of captions can't be read at all.
    """
    metadata = open_metadata(image_set) if needs_metadata(image_set) else None
    listing = source.list()
    look = Look(image_set, source, metadata, alignment, seed, Index() if index is None else index)
    found = _look_at_all(listing.files, look, progress or _untold)
    if index is not None:
        index.keep({file.name for file in listing.files})
    rejected = [*listing.rejected]
    samples = []
    for file, verdict in zip(listing.files, found, strict=True):
        if isinstance(verdict, Sample):
            samples.append(verdict)
        else:
            rejected.append((file.name, verdict))
    kept, over = _limit(samples, image_set, seed)
    notes = _gather_notes(kept, look.notes)
    if look.text_beside:
        notes.update(_shared_texts(listing.files, kept))
    return ScanResult(
        set_id=image_set.id,
        samples=tuple(kept),
        excluded=_exclusions(image_set.id, rejected + over),
        other=listing.other,
        notes=notes,
        remarks=metadata.remarks(_names(listing)) if metadata else (),
    )


def _names(listing: Listing) -> Iterator[str]:
    """Everything that a row of a table may mean, usable or not."""
    yield from (file.name for file in listing.files)
    yield from (name for name, _ in listing.rejected)


def _look_at_all(
    files: Sequence[ImageFile], look: Look, progress: Callable[[int, int], None]
) -> list[Sample | Rejected]:
    """What is found in each file, in order."""
    with many_small_objects():
        found = list(map(look.known, files))
    unknown = [place for place, verdict in enumerate(found) if verdict is None]
    done = len(files) - len(unknown)
    progress(done, len(files))
    for places, verdicts in _in_batches(unknown, lambda place: look.read(files[place])):
        for place, verdict in zip(places, verdicts, strict=True):
            found[place] = verdict
        done += len(places)
        progress(done, len(files))
    return [verdict for verdict in found if verdict is not None]


def _in_batches(
    places: Sequence[int], read: Callable[[int], Sample | Rejected]
) -> Iterator[tuple[Sequence[int], list[Sample | Rejected]]]:
    """What `read` finds, batch after batch: one after the other, or in threads while that is quicker."""
    alone, together = 0.0, inf  # seconds a file of the last batch of each kind
    waiting = False
    starts = range(-_BATCH + _FIRST_BATCH, len(places), _BATCH)
    with ThreadPoolExecutor(THREADS_WHEN_WAITING, "scan") as pool:  # it starts threads when it is first given something
        for number, start in enumerate(starts):
            batch = places[max(0, start) : start + _BATCH]
            if waiting and (together < alone or number % _TRIED_EVERY == 1):
                began = time.perf_counter()
                verdicts = list(pool.map(read, batch))
                together = (time.perf_counter() - began) / len(batch)
            else:
                began, waited = time.perf_counter(), waits()
                with many_small_objects():
                    verdicts = list(map(read, batch))
                alone = (time.perf_counter() - began) / max(1, len(batch))
                pauses = None if waited is None else (waits() or 0) - waited
                waiting = is_waiting([alone]) and (pauses is None or pauses > len(batch) / 2)
            yield batch, verdicts


def _untold(done: int, total: int) -> None:
    """Progress that nobody wants to hear of."""


def _limit(
    usable: Sequence[Sample], image_set: ImageSet, seed: int
) -> tuple[Sequence[Sample], list[tuple[str, Rejected]]]:
    """Keep max_num_samples pictures: a choice by seed, spread over the set, that new files disturb little."""
    limit = image_set.max_num_samples
    if limit is None or len(usable) <= limit:
        return usable, []

    def rank(sample: Sample) -> bytes:
        return hashlib.sha256(b"\0".join((b"limit", str(seed).encode(), name_bytes(sample.name)))).digest()

    chosen = {sample.name for sample in sorted(usable, key=rank)[:limit]}
    detail = f"{limit} of {len(usable)} usable pictures are taken, chosen by seed"
    over = [(sample.name, Rejected(Reason.OVER_LIMIT, detail)) for sample in usable if sample.name not in chosen]
    return [sample for sample in usable if sample.name in chosen], over


def _exclusions(set_id: str, rejected: Iterable[tuple[str, Rejected]]) -> tuple[Exclusion, ...]:
    entries = (Exclusion(set_id, name, why.reason.value, why.detail) for name, why in rejected)
    return tuple(sorted(entries, key=lambda entry: entry.name))


def _gather_notes(kept: Iterable[Sample], notes: Mapping[str, tuple[str, ...]]) -> dict[str, tuple[str, ...]]:
    """Names by note, given the notes by name."""
    names: dict[str, list[str]] = {}
    for sample in kept if notes else ():
        for note in notes.get(sample.name, ()):
            names.setdefault(note, []).append(sample.name)
    return {note: tuple(found) for note, found in names.items()}


def _shared_texts(files: Sequence[ImageFile], kept: Sequence[Sample]) -> dict[str, tuple[str, ...]]:
    """A note on pictures whose names differ by extension only."""
    if len({file.text_stamp for file in files}) == len(files):
        return {}
    counts = Counter(sample.name.rpartition(".")[0] for sample in kept)
    if len(counts) == len(kept):
        return {}
    return {SHARED_TEXT: tuple(sample.name for sample in kept if counts[sample.name.rpartition(".")[0]] > 1)}
