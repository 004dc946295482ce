"""Fill the caches of latents."""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Generator, Iterable, Iterator, Mapping, Sequence
from contextlib import closing
from dataclasses import dataclass, field
from functools import partial
from itertools import groupby, islice
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import torch
from torch import Tensor

from simpletune.data.caches.cache import Stored, TensorCache
from simpletune.data.caches.entries import latent_key, listed
from simpletune.data.caches.pipeline import Halving, Writer, damaged, read_ahead, stacked, to_host, writing
from simpletune.data.caches.preparation import Fault, Job, Made
from simpletune.data.caches.unreadable import Unreadable
from simpletune.data.caches.users import LATENTS as LATENTS_NOTE
from simpletune.data.caches.users import leave_note
from simpletune.data.caches.workers import preparing, processors
from simpletune.data.scan import Exclusion, Sample, ScanResult
from simpletune.data.sources import Source, shown
from simpletune.errors import DataError
from simpletune.models.memory import release

if TYPE_CHECKING:
    from simpletune.config.settings import Settings
    from simpletune.data.index import Index
    from simpletune.models.family import Family, LatentCoder, ModelFiles
    from simpletune.progress import Phase, Reporter

LATENTS = "latents"
"""The name of the tensor in an entry: (C, H, W)."""


@dataclass(frozen=True)
class EncodedPictures:
    """Where each sample's latents are, by (set_id, name), one a placement; and the pictures that couldn't be read."""

    entries: Mapping[tuple[str, str], tuple[Stored, ...]]
    excluded: tuple[Exclusion, ...]


def fill_latent_cache(
    samples: Sequence[Sample],
    sources: Mapping[str, Source],
    cache_dirs: Mapping[str, Path],
    family: Family,
    model_files: ModelFiles,
    settings: Settings,
    device: torch.device,
    reporter: Reporter,
    indexes: Mapping[str, Index] | None = None,
    scanned: Sequence[ScanResult] = (),
    verify: bool = False,
) -> EncodedPictures:
    """Encode the pictures that aren't cached; `sources`, `cache_dirs` and `indexes` are the data sets' by id.

    A file whose digest its index knows is read only when an entry of it is missing; what is learned of a file is noted
    there. `scanned` are the scans the samples come from: what they couldn't read counts as unreadable too. With
    `verify` every file is hashed and every entry read again.

    A picture that can't be read any more is named once and left out. Raises DataError when these are more than
    max_unreadable_share of a data set or all of it, when a source as a whole can't be read, when the VAE gives a
    non-finite number or the disk takes no more; OutOfMemory when one picture alone doesn't fit.
    """
    run = _Pictures(
        sources=sources,
        caches={set_id: TensorCache(folder) for set_id, folder in cache_dirs.items()},
        indexes={} if indexes is None or verify else indexes,
        noted={} if indexes is None else indexes,
        identity=family.vae_identity(model_files, settings),
        lost=Unreadable(samples, scanned, settings.max_unreadable_share, reporter),
        reporter=reporter,
    )
    vae = _Vae(family, model_files, settings, device)
    with closing(vae):
        missing = run.find_missing(samples)
        if missing:
            run.leave_notes(settings.config_path, complete=False)
        run.encode(missing, vae, frozenset())
        if verify and (broken := run.find_damaged()):
            again = {sample_id for sample_id, _ in broken}
            keys = frozenset(run.entries[sample_id][index].key for sample_id, index in broken)
            run.encode([sample for sample in samples if sample.id in again], vae, keys)
    run.lost.summarize()
    run.leave_notes(settings.config_path)
    return EncodedPictures(run.entries, tuple(run.lost.excluded))


@dataclass
class _Vae:
    """The VAE, to be loaded when the first picture needs it."""

    family: Family
    files: ModelFiles
    settings: Settings
    device: torch.device
    loaded: LatentCoder | None = None

    def load(self) -> None:
        if self.loaded is None:
            self.loaded = self.family.load_vae(self.files, self.settings, self.device)

    def encode(self, batch: Sequence[_Prepared]) -> Tensor:
        assert self.loaded is not None
        pixels = stacked([item.pixels for item in batch], self.device)
        return self.loaded.encode(pixels, [item.stored.key for item in batch])

    def close(self) -> None:
        """Drop it, if it was ever loaded."""
        if self.loaded is not None:
            self.loaded = None
            release(self.device)


@dataclass(frozen=True)
class _Prepared:
    """A placement ready for the VAE; its key is of the very bytes that were decoded, in case the file has changed."""

    sample: Sample
    stored: Stored
    pixels: np.ndarray[Any, Any]


@dataclass
class _Pictures:
    """The latents of one call: what is known of each picture so far."""

    sources: Mapping[str, Source]
    caches: Mapping[str, TensorCache]
    indexes: Mapping[str, Index]
    noted: Mapping[str, Index]
    identity: str
    lost: Unreadable
    reporter: Reporter
    entries: dict[tuple[str, str], tuple[Stored, ...]] = field(default_factory=dict)
    of_bucket: Counter[tuple[int, int]] = field(default_factory=Counter)
    title: str = ""

    def find_missing(self, samples: Sequence[Sample]) -> list[Sample]:
        """Fill `entries` from the indexes; gives the samples that have to be read, by bucket."""
        used = {sample.set_id for sample in samples}
        there = {folder: listed(folder) for folder in {self.caches[set_id].folder for set_id in used}}
        self.title = "Reading and encoding pictures" if any(there.values()) else "Encoding pictures"
        missing = []
        for sample in samples:
            self.of_bucket[sample.bucket] += len(sample.placements)
            index = self.indexes.get(sample.set_id)
            digest = index.digest(sample.name, sample.stamp) if index is not None else None
            known = there[self.caches[sample.set_id].folder]
            if digest is None or any(stored.key not in known for stored in self._enter(sample, digest)):
                missing.append(sample)
        return sorted(missing, key=lambda sample: (sample.bucket, sample.id))

    def find_damaged(self) -> list[tuple[tuple[str, str], int]]:
        """The entries that can't be used, as (sample's id, placement's index)."""
        every = {(id, index): stored for id, many in self.entries.items() for index, stored in enumerate(many)}
        return damaged(every, "picture", self.reporter)

    def encode(self, ordered: Sequence[Sample], vae: _Vae, again: frozenset[str]) -> None:
        """Read the samples and encode what isn't cached of them, in batches of one bucket each."""
        if not ordered:
            return
        jobs = [self._job(sample, again) for sample in ordered]
        size = vae.settings.vae_batch_size
        batches = Halving(size, "vae_batch_size", vae.device, self.reporter)
        with writing() as writer, self.reporter.phase(self.title, len(ordered), "image") as phase:
            with closing(self._prepared(ordered, jobs, size, phase)) as prepared:
                for group in _groups(prepared, size):
                    vae.load()
                    for batch, latents in batches.run(group, vae.encode, self.of_bucket[group[0].sample.bucket]):
                        _write(batch, latents, writer)

    def leave_notes(self, config_path: Path, *, complete: bool = True) -> None:
        """Say in each cache's folder who uses which of its entries."""
        keys: dict[Path, list[str]] = {cache.folder: [] for cache in self.caches.values()}
        for entries in self.entries.values():
            for stored in entries:
                keys.setdefault(stored.cache.folder, []).append(stored.key)
        for folder, used in keys.items():
            leave_note(folder, LATENTS_NOTE, config_path, used, complete=complete)

    def _job(self, sample: Sample, again: frozenset[str]) -> Job:
        folder, size = str(self.caches[sample.set_id].folder), (sample.width, sample.height)
        stamped = sample.set_id in self.noted
        return Job(sample.set_id, sample.name, size, sample.placements, folder, self.identity, again, stamped)

    def _prepared(
        self, ordered: Sequence[Sample], jobs: Sequence[Job], batch_size: int, phase: Phase
    ) -> Generator[_Prepared, None, None]:
        """What is missing of the pictures, in order, ready for the VAE; copies of earlier ones are left out."""
        seen: set[Stored] = set()
        used = {sample.set_id: self.sources[sample.set_id] for sample in ordered}
        with preparing(jobs, used) as (pool, prepare):
            answers = read_ahead(pool, prepare, jobs, max(2 * batch_size, 2 * processors()))
            for sample, (_, made) in zip(ordered, answers, strict=True):
                if isinstance(made, Fault):
                    self._leave_out(sample, made)
                else:
                    for stored, pixels in self._take(sample, made):
                        if stored not in seen:
                            seen.add(stored)
                            yield _Prepared(sample, stored, pixels)
                phase.advance()

    def _take(self, sample: Sample, made: Made) -> list[tuple[Stored, np.ndarray[Any, Any]]]:
        """Note what was learned of a picture; gives its missing entries with their pixels."""
        index = self.noted.get(sample.set_id)
        if index is not None and made.stamp == sample.stamp:
            index.note_digest(sample.name, sample.stamp, made.digest)
        stored = self._enter(sample, made.digest)
        return [(stored[place], pixels) for place, pixels in zip(made.missing, made.pixels, strict=True)]

    def _enter(self, sample: Sample, digest: str) -> tuple[Stored, ...]:
        cache = self.caches[sample.set_id]
        keys = [latent_key(digest, placement, self.identity) for placement in sample.placements]
        self.entries[sample.id] = tuple(Stored(cache, key) for key in keys)
        return self.entries[sample.id]

    def _leave_out(self, sample: Sample, fault: Fault) -> None:
        if fault.hint is not None:
            raise DataError(f'data set "{sample.set_id}": {fault.message}', fault.hint)
        self.entries.pop(sample.id, None)
        self.lost.add(sample, fault.message)


def _write(batch: Sequence[_Prepared], latents: Tensor, writer: Writer) -> None:
    arriving = to_host(latents)
    for index, item in enumerate(batch):
        writer.put(item.stored, partial(_one, arriving, index), shown(item.sample.name))


def _one(arriving: Callable[[], Tensor], index: int) -> dict[str, Tensor]:
    return {LATENTS: arriving()[index]}


def _groups(prepared: Iterable[_Prepared], size: int) -> Iterator[list[_Prepared]]:
    """Up to `size` pictures in a row that share a bucket."""
    for _, same in groupby(prepared, key=lambda item: item.sample.bucket):
        while group := list(islice(same, size)):
            yield group
