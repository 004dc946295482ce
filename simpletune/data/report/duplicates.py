"""Pictures that a data set has more than once: the same bytes, or nearly the same to look at.

Nearly the same is judged by perceptual hash (ImageHash's phash: the signs of the 64 lowest frequencies of a picture's
discrete cosine transform): up to NEAR_BITS of the 64 bits may differ. Resizing, recompression and small corrections of
colour change a few bits; other pictures differ in about half of them.
"""

from __future__ import annotations

import hashlib
import os
from collections import defaultdict
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from importlib.util import find_spec
from typing import TYPE_CHECKING, Any

from simpletune.data.geometry import Placement
from simpletune.errors import DataError

if TYPE_CHECKING:
    import numpy as np

    from simpletune.data.scan import Sample
    from simpletune.data.sources import Source

NEAR_BITS = 6
"""Of 64: copies in another size or quality differ in 0 to 4, pictures of one series in 8 and more."""

LIBRARY = "imagehash"
INSTALL = "pip install 'simpletune[duplicates]'"

_BITS, _BANDS = 64, NEAR_BITS + 1
_SEEN_AT = 96  # pixels; the hash is made from 32 x 32, and a JPEG is decoded no larger than this needs
_FEW = 4_096

SampleId = tuple[str, str]


@dataclass(frozen=True)
class Duplicates:
    """Groups of two or more (set_id, name)s, each sorted; a picture is in one group of a kind at most.

    `near` holds no pair that is in one group of `exact`; None where it wasn't looked for.
    """

    exact: tuple[tuple[SampleId, ...], ...]
    near: tuple[tuple[SampleId, ...], ...] | None


def can_find_near() -> bool:
    """Whether the library for perceptual hashes is installed."""
    return find_spec(LIBRARY) is not None


def same_bytes(
    samples: Iterable[Sample],
    sources: Mapping[str, Source],
    digest: Callable[[Sample], str | None] = lambda _: None,
) -> tuple[tuple[SampleId, ...], ...]:
    """Groups of pictures whose files hold the same bytes. Only files of equal size are read, if `digest` doesn't know
    their SHA-256 already; one that can't be read any more is left out."""
    by_size: dict[int, list[Sample]] = defaultdict(list)
    for sample in samples:
        by_size[sample.stamp[0]].append(sample)
    groups: dict[str, list[SampleId]] = defaultdict(list)
    for alike in by_size.values():
        if len(alike) > 1:
            for sample in alike:
                try:
                    found = digest(sample) or hashlib.sha256(sources[sample.set_id].read(sample.name)).hexdigest()
                except OSError:
                    continue
                groups[found].append(sample.id)
    return _sorted(groups.values())


def look_alike(
    samples: Sequence[Sample],
    sources: Mapping[str, Source],
    exact: Iterable[Sequence[SampleId]] = (),
    advance: Callable[[], None] = lambda: None,
) -> tuple[tuple[SampleId, ...], ...]:
    """Groups of pictures that look nearly the same; of an `exact` group only the first is compared.

    `advance` is called after each picture. Raises ImportError without the library.
    """
    copies = {name for group in exact for name in group[1:]}
    compared = [sample for sample in samples if sample.id not in copies]
    with ThreadPoolExecutor(min(8, os.cpu_count() or 1), "hash") as pool:
        hashes = []
        for found in pool.map(lambda sample: _hash_of(sample, sources[sample.set_id]), compared):
            hashes.append(found)
            advance()
    known = [(sample, value) for sample, value in zip(compared, hashes, strict=True) if value is not None]
    parent = list(range(len(known)))
    for one, other in close_pairs([value for _, value in known]):
        parent[_root(parent, one)] = _root(parent, other)
    groups: dict[int, list[SampleId]] = defaultdict(list)
    for index, (sample, _) in enumerate(known):
        groups[_root(parent, index)].append(sample.id)
    return _sorted(groups.values())


def close_pairs(hashes: Sequence[int]) -> Iterator[tuple[int, int]]:
    """Index pairs of 64-bit numbers that differ in at most NEAR_BITS bits.

    Of a few all are compared. Of many, those that agree in one of NEAR_BITS + 1 bands of bits: where at most NEAR_BITS
    bits differ, at least one band has none of them (Manku et al. 2007), so that no pair is missed.
    """
    import numpy as np

    values = np.array(hashes, dtype=np.uint64)
    if len(values) <= _FEW:
        yield from _pairs_within(np.arange(len(values)), values)
        return
    for band in range(_BANDS):
        low, high = band * _BITS // _BANDS, (band + 1) * _BITS // _BANDS
        keys = (values >> np.uint64(low)) & np.uint64((1 << (high - low)) - 1)
        order = np.argsort(keys, kind="stable")
        borders: np.ndarray[Any, Any] = np.flatnonzero(np.diff(keys[order])) + 1
        for members in np.split(order, borders):
            yield from _pairs_within(members, values)


def _pairs_within(members: np.ndarray[Any, Any], values: np.ndarray[Any, Any]) -> Iterator[tuple[int, int]]:
    import numpy as np

    for position in range(len(members) - 1):
        rest = members[position + 1 :]
        differing = _bit_counts(values[rest] ^ values[members[position]])
        for other in rest[differing <= NEAR_BITS]:
            yield int(members[position]), int(np.int64(other))


def _bit_counts(values: np.ndarray[Any, Any]) -> np.ndarray[Any, Any]:
    """Set bits of each uint64, by adding neighbours (Warren, Hacker's Delight, 5-1); numpy 1 has no function for it."""
    import numpy as np

    def mask(bits: int) -> Any:
        return np.uint64(bits)

    values = values - ((values >> mask(1)) & mask(0x5555555555555555))
    values = (values & mask(0x3333333333333333)) + ((values >> mask(2)) & mask(0x3333333333333333))
    values = (values + (values >> mask(4))) & mask(0x0F0F0F0F0F0F0F0F)
    counted: np.ndarray[Any, Any] = (values * mask(0x0101010101010101)) >> mask(56)
    return counted


def _hash_of(sample: Sample, source: Source) -> int | None:
    """A picture's perceptual hash; None when it can't be read any more."""
    import imagehash
    from PIL import Image

    from simpletune.data.images import prepare

    small = whole_picture(sample.width, sample.height, _SEEN_AT)
    try:
        pixels = prepare(sample.name, source.read(sample.name), (sample.width, sample.height), small)
    except (OSError, DataError):
        return None
    return int(str(imagehash.phash(Image.fromarray(pixels))), 16)


def whole_picture(width: int, height: int, edge: int) -> Placement:
    """The placement that shows all of a picture, its longer edge `edge` pixels, or its own size if that is smaller."""
    scale = min(1.0, edge / max(width, height))
    size = max(1, round(width * scale)), max(1, round(height * scale))
    return Placement(size, (0, 0, *size), size)


def _root(parent: list[int], index: int) -> int:
    while parent[index] != index:
        parent[index] = parent[parent[index]]
        index = parent[index]
    return index


def _sorted(groups: Iterable[list[SampleId]]) -> tuple[tuple[SampleId, ...], ...]:
    return tuple(sorted(tuple(sorted(group)) for group in groups if len(group) > 1))
