"""Fill the caches with masks at latent resolution, beside the latents: each an entry of its own.

An entry's key holds the mask's bytes, so that changing a mask makes the mask anew and nothing else.
"""

from __future__ import annotations

import hashlib
from collections.abc import Iterator, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING

import torch
from torch import Tensor

from simpletune.data.cache import Stored, TensorCache
from simpletune.data.cache_users import leave_note
from simpletune.data.masks import (
    ALPHA,
    FOLDER,
    MaskFolder,
    has_transparency,
    latent_weights,
    mask_key,
    open_mask_folder,
)
from simpletune.data.pipeline import read_ahead
from simpletune.data.scan import Exclusion, Sample
from simpletune.data.sources import Reason, Rejected, Source, shown
from simpletune.data.workers import processors
from simpletune.errors import DataError

if TYPE_CHECKING:
    from simpletune.config.settings import ImageSet
    from simpletune.progress import Reporter

MASK = "mask"
"""Name of the tensor in an entry: float32 (1, H, W), latent height and width, from 0 (ignored) to 1."""

NOTE = "masks"
"""The kind of these entries in the notes of cache_users.py."""

_THREADS = 8
_AHEAD = 32
_EXAMPLES = 3


@dataclass(frozen=True)
class Masks:
    """Where each sample's masks are, by (set_id, name), one a placement; and the pictures that are left out for theirs.

    Samples of data sets without masks aren't in it. `makers` are those of the data sets that have some, by id.
    """

    entries: Mapping[tuple[str, str], tuple[Stored, ...]]
    excluded: tuple[Exclusion, ...]
    makers: Mapping[str, MaskMaker]

    def repair(self, sample: Sample, index: int, stored: Stored) -> dict[str, Tensor]:
        """As MaskMaker.repair."""
        return self.makers[sample.set_id].repair(sample, index, stored)


def fill_mask_cache(
    samples: Sequence[Sample],
    image_sets: Sequence[ImageSet],
    sources: Mapping[str, Source],
    scale: int,
    config_path: Path,
    reporter: Reporter,
) -> Masks:
    """Make the masks that aren't cached; `scale` is how many pixels make a latent position along an edge.

    `config_path` is noted in the caches as the user of the entries.

    A picture whose mask is missing, unusable or all dark is left out, and told. Raises DataError when that leaves a
    data set empty, or the folder of masks can't be read.
    """
    entries: dict[tuple[str, str], tuple[Stored, ...]] = {}
    excluded: list[Exclusion] = []
    makers: dict[str, MaskMaker] = {}
    for image_set in image_sets:
        own = [sample for sample in samples if sample.set_id == image_set.id]
        if image_set.mask_source not in {ALPHA, FOLDER} or not own:
            continue
        maker = makers[image_set.id] = MaskMaker(image_set, sources[image_set.id], scale)
        without = _fill(maker, own, entries, reporter)
        _tell(image_set, maker, own, without, reporter)
        excluded += without
    _leave_notes(entries, config_path)
    return Masks(entries, tuple(excluded), makers)


@dataclass
class MaskMaker:
    """Makes the masks of one data set. `opaque` names pictures of mask_source alpha without any transparency."""

    image_set: ImageSet
    source: Source
    scale: int
    opaque: list[str] = field(default_factory=list)
    _folder: MaskFolder | None = field(init=False, default=None)

    def __post_init__(self) -> None:
        if self.image_set.mask_source == FOLDER and self.image_set.mask_data_dir is not None:
            self._folder = open_mask_folder(self.image_set.mask_data_dir)

    def make(self, sample: Sample, again: Stored | None = None) -> tuple[Stored, ...] | Exclusion:
        """A sample's masks, one a placement, written where they aren't cached yet, and `again` in any case."""
        read = self._read(sample)
        if isinstance(read, Rejected):
            return _exclusion(sample, read)
        where, data = read
        kind, digest = self.image_set.mask_source, hashlib.sha256(data).hexdigest()
        cache = TensorCache(self.image_set.cache_dir_vae)
        every = tuple(Stored(cache, mask_key(digest, kind, placed, self.scale)) for placed in sample.placements)
        if kind == ALPHA and not has_transparency(data):
            self.opaque.append(sample.name)
        for stored, placement in zip(every, sample.placements, strict=True):
            if stored.exists() and stored != again:
                continue
            weights = latent_weights(where, data, kind, (sample.width, sample.height), placement, self.scale)
            if isinstance(weights, Rejected):
                return _exclusion(sample, weights)
            cache.put(stored.key, {MASK: torch.from_numpy(weights)})
        return every

    def repair(self, sample: Sample, index: int, stored: Stored) -> dict[str, Tensor]:
        """The tensors of a damaged or vanished entry, of placement number `index`, which is written anew.

        Raises DataError when the mask can't be read or isn't any more what the entry was made from.
        """
        made = self.make(sample, again=stored)
        if isinstance(made, Exclusion):
            raise DataError(f"the cached mask of {shown(sample.name)} is damaged, and {made.reason}: {made.detail}")
        if made[index] != stored:
            message = (
                f"the cached mask of {shown(sample.name)} is damaged, and the mask has changed since the run started"
            )
            raise DataError(message, hint="start the run again: it makes the new one")
        return stored.load()

    def _read(self, sample: Sample) -> tuple[str, bytes] | Rejected:
        """Where the mask is, and its file's bytes."""
        if self._folder is None:
            where = self.source.location(sample.name)
        else:
            name = self._folder.find(sample.name)
            if isinstance(name, Rejected):
                return name
            where = str(self._folder.path(name))
        try:
            data = self.source.read(sample.name) if self._folder is None else self._folder.path(name).read_bytes()
        except OSError as error:
            return Rejected(Reason.MASK, f"{shown(where)}: {error.strerror or error}")
        return where, data


def _fill(
    maker: MaskMaker, own: Sequence[Sample], entries: dict[tuple[str, str], tuple[Stored, ...]], reporter: Reporter
) -> list[Exclusion]:
    """Enter the masks of a data set's samples into `entries`; gives the pictures that are left out."""
    without = []
    pool = ThreadPoolExecutor(min(_THREADS, processors()), "masks")
    try:
        with reporter.phase("Reading masks", len(own), "mask") as phase:
            for sample, made in read_ahead(pool, maker.make, own, _AHEAD):
                if isinstance(made, Exclusion):
                    without.append(made)
                else:
                    entries[sample.id] = made
                phase.advance()
    finally:
        pool.shutdown(cancel_futures=True)
    return without


def _tell(
    image_set: ImageSet, maker: MaskMaker, own: Sequence[Sample], without: Sequence[Exclusion], reporter: Reporter
) -> None:
    """Say what was left out, a line a reason. Raises DataError when all was."""
    named = f'data set "{image_set.id}"'
    if len(without) == len(own):
        message = f"{named}: none of its {len(own)} pictures has a mask that can be used"
        raise DataError(message, hint=f"the first: {without[0].detail}")
    for line in _lines(without):
        reporter.warn(f"{named}: left out: {line}")
    if maker.opaque:
        many = f"{len(maker.opaque)} of {len(own)} pictures"
        reporter.note(f"{named}: {many} have no transparency, so no part of them is ignored")


def _leave_notes(entries: Mapping[tuple[str, str], tuple[Stored, ...]], config_path: Path) -> None:
    """Say in each cache's folder who uses which of its entries."""
    keys: dict[Path, list[str]] = {}
    for every in entries.values():
        for stored in every:
            keys.setdefault(stored.cache.folder, []).append(stored.key)
    for folder, used in keys.items():
        leave_note(folder, NOTE, config_path, used)


def _lines(without: Sequence[Exclusion]) -> Iterator[str]:
    by_reason: dict[str, list[Exclusion]] = {}
    for exclusion in without:
        by_reason.setdefault(exclusion.reason, []).append(exclusion)
    for reason, entries in by_reason.items():
        names = ", ".join(shown(entry.name) for entry in entries[:_EXAMPLES])
        more = f" and {len(entries) - _EXAMPLES} more" if len(entries) > _EXAMPLES else ""
        yield f"{len(entries)} {reason}: {names}{more} ({entries[0].detail})"


def _exclusion(sample: Sample, why: Rejected) -> Exclusion:
    return Exclusion(sample.set_id, sample.name, why.reason.value, why.detail)
