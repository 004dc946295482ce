"""Fill the caches with masks at latent resolution, beside the latents: each an entry of its own.

An entry's key holds the mask's bytes, so that changing a mask makes the mask anew and nothing else.
"""

from __future__ import annotations

import hashlib
from collections.abc import Iterator, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

import torch
from torch import Tensor

from simpletune.data.caches.cache import Stored, TensorCache
from simpletune.data.caches.pipeline import read_ahead
from simpletune.data.caches.users import leave_note
from simpletune.data.caches.workers import processors
from simpletune.data.index import Index
from simpletune.data.masks import (
    ALPHA,
    FOLDER,
    MaskFolder,
    excluded,
    has_transparency,
    latent_weights,
    mask_key,
    open_mask_folder,
)
from simpletune.data.scan import Exclusion, Sample
from simpletune.data.sources import Reason, Rejected, Source, SourceError, Stamp, shown
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
    indexes: Mapping[str, Index] | None = None,
) -> Masks:
    """Make the masks that aren't cached; `scale` is how many pixels make a latent position along an edge.

    `config_path` is noted in the caches as the user of the entries. `indexes` are the data sets' by id: a picture whose
    digest its index knows isn't read for its own transparency again; a mask_data_dir has an index of its own.

    A picture whose mask is missing, unusable or all dark is left out, and told. Raises DataError when that leaves a
    data set empty, or the folder of masks can't be read.
    """
    entries: dict[tuple[str, str], tuple[Stored, ...]] = {}
    left_out: list[Exclusion] = []
    makers: dict[str, MaskMaker] = {}
    for image_set in (one for one in image_sets if one.mask_source in {ALPHA, FOLDER}):
        own = [sample for sample in samples if sample.set_id == image_set.id]
        if not own:
            continue
        index = _index(image_set, indexes or {})
        maker = makers[image_set.id] = MaskMaker(image_set, sources[image_set.id], scale, index)
        without = _fill(maker, own, entries, reporter)
        if image_set.mask_source == FOLDER:
            with suppress(OSError):  # the caches are written to next, which says what is wrong
                index.save(mask_index_path(image_set))
        _tell(image_set, maker, own, without, reporter)
        left_out += without
    _leave_notes(entries, config_path)
    return Masks(entries, tuple(left_out), makers)


def _mask_folder(path: Path) -> MaskFolder:
    try:
        return open_mask_folder(path)
    except SourceError as error:
        raise DataError(error.message, error.hint) from error


def _index(image_set: ImageSet, indexes: Mapping[str, Index]) -> Index:
    """What is known of the files that a data set's masks are in."""
    if image_set.mask_source == FOLDER:
        return Index.load(mask_index_path(image_set))
    return indexes.get(image_set.id, Index())


class MaskMaker:
    """Makes the masks of one data set. `opaque` names pictures of mask_source alpha without any transparency.

    Raises DataError when mask_data_dir can't be listed.
    """

    def __init__(self, image_set: ImageSet, source: Source, scale: int, index: Index) -> None:
        self.opaque: list[str] = []
        self._image_set = image_set
        self._scale = scale
        self._index = index
        self._folder: MaskFolder | None = None
        self._source = source
        if image_set.mask_source == FOLDER and image_set.mask_data_dir is not None:
            self._folder = _mask_folder(image_set.mask_data_dir)
            self._source = self._folder.folder

    def make(self, sample: Sample, again: Stored | None = None) -> tuple[Stored, ...] | Exclusion:
        """A sample's masks, one a placement, written where they aren't cached yet, and `again` in any case.

        A file that its index knows is read only when something has to be written.
        """
        file = self._file(sample)
        if isinstance(file, Rejected):
            return excluded(sample, file)
        digest = self._index.digest(*file)
        if digest is not None and again is None:
            every = self._entries(sample, digest)
            if all(stored.exists() for stored in every):
                return every
        return self._made(sample, file, again)

    def repair(self, sample: Sample, index: int, stored: Stored) -> dict[str, Tensor]:
        """The tensors of a damaged or vanished entry, of placement number `index`, which is written anew.

        Raises DataError when the mask can't be read or isn't any more what the entry was made from.
        """
        named = f"the cached mask of {shown(sample.name)} is damaged"
        made = self.make(sample, again=stored)
        if isinstance(made, Exclusion):
            raise DataError(f"{named}, and {made.reason}: {made.detail}")
        if made[index] != stored:
            raise DataError(f"{named}, and the mask has changed since the run started", "start the run again")
        return stored.load()

    def _made(self, sample: Sample, file: tuple[str, Stamp], again: Stored | None) -> tuple[Stored, ...] | Exclusion:
        kind, where = self._image_set.mask_source, self._source.location(file[0])
        try:
            data = self._source.read(file[0])
            unchanged = self._source.stamp(file[0]) == file[1]
        except OSError as error:
            return excluded(sample, Rejected(Reason.MASK, f"{shown(where)}: {error.strerror or error}"))
        digest = hashlib.sha256(data).hexdigest()
        if kind == ALPHA and not has_transparency(data):
            self.opaque.append(sample.name)
        every = self._entries(sample, digest)
        for stored, placement in zip(every, sample.placements, strict=True):
            if stored.exists() and stored != again:
                continue
            weights = latent_weights(where, data, kind, (sample.width, sample.height), placement, self._scale)
            if isinstance(weights, Rejected):
                return excluded(sample, weights)
            stored.cache.put(stored.key, {MASK: torch.from_numpy(weights)})
        if unchanged:
            self._index.note_digest(*file, digest)
        return every

    def _file(self, sample: Sample) -> tuple[str, Stamp] | Rejected:
        """The name and stamp of the file that the mask is in."""
        if self._folder is None:
            return sample.name, sample.stamp
        found = self._folder.find(sample.name)
        return found if isinstance(found, Rejected) else (found.name, found.stamp)

    def _entries(self, sample: Sample, digest: str) -> tuple[Stored, ...]:
        cache, kind = TensorCache(self._image_set.cache_dir_vae), self._image_set.mask_source
        keys = [mask_key(digest, kind, placement, self._scale) for placement in sample.placements]
        return tuple(Stored(cache, key) for key in keys)


def mask_index_path(image_set: ImageSet) -> Path:
    """Where the index of a mask_data_dir is kept."""
    digest = hashlib.sha256(str(image_set.mask_data_dir).encode("utf-8", "surrogatepass")).hexdigest()
    return image_set.cache_dir_vae / f"index-masks-{digest[:16]}.bin"


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
        reporter.warn(f"{named}: {many} have no transparency, so no part of them is ignored")


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
        told = ", ".join(f"{shown(entry.name)} ({entry.detail})" for entry in entries[:_EXAMPLES])
        more = f" and {len(entries) - _EXAMPLES:,} more" if len(entries) > _EXAMPLES else ""
        yield f"{len(entries):,} {reason}: {told}{more}"
