"""Fill the caches: every caption through the text encoders, every picture through the VAE, each exactly once.

A model is loaded only when something is missing, and is gone again when its function returns. Pictures are read,
decoded and resized in threads ahead of the VAE, and entries written behind it. Keys hold the content and everything
else that determines the result, so order, names and batches have no say in what an entry holds.
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, field
from itertools import groupby, islice
from pathlib import Path
from typing import TYPE_CHECKING, Any, TypeVar

import numpy as np
import torch
from torch import Tensor

from simpletune.data.cache import Stored, TensorCache
from simpletune.data.geometry import Placement
from simpletune.data.images import PREPARATION, prepare
from simpletune.data.pipeline import Halving, read_ahead, release, threads, writing
from simpletune.data.scan import Exclusion, Sample
from simpletune.data.sources import Reason, Source, shown
from simpletune.errors import DataError

if TYPE_CHECKING:
    from simpletune.config.settings import Settings
    from simpletune.models.family import Family, ModelFiles
    from simpletune.progress import Phase, Reporter

PROMPT_EMBEDS, POOLED_PROMPT_EMBEDS, LATENTS = "prompt_embeds", "pooled_prompt_embeds", "latents"
"""Names of the tensors in an entry: (L, D), (E,) and (C, H, W)."""

T = TypeVar("T")


@dataclass(frozen=True)
class EncodedPictures:
    """Where each sample's latents are, by (set_id, name), one a placement; and the pictures that couldn't be read."""

    entries: Mapping[tuple[str, str], tuple[Stored, ...]]
    excluded: tuple[Exclusion, ...]


def text_key(caption: str, text_identity: str) -> str:
    """Names a caption's encoding. `text_identity`: encoders, precisions, token length, dtype (Family.text_identity)."""
    return _key("text", caption, text_identity)


def latent_key(image_sha256: str, placement: Placement, vae_identity: str) -> str:
    """Names a picture's latent: its file's bytes, what is cut out of it at which size, and the VAE with its dtype."""
    mirrored = ["mirrored"] if placement.mirrored else []
    return _key("latent", PREPARATION, image_sha256, placement.resized, placement.crop, vae_identity, *mirrored)


def fill_text_cache(
    captions: Iterable[str],
    cache_dir: Path,
    family: Family,
    model_files: ModelFiles,
    settings: Settings,
    device: torch.device,
    reporter: Reporter,
) -> dict[str, Stored]:
    """Encode the captions that aren't cached; gives every caption's entry.

    Raises DataError when an encoder gives a non-finite number, OutOfMemory when one caption alone doesn't fit.
    """
    cache = TensorCache(cache_dir)
    identity = family.text_identity(model_files, settings)
    stored = {caption: Stored(cache, text_key(caption, identity)) for caption in sorted(set(captions))}
    missing = _missing(stored, "caption", reporter)
    if missing:
        encoders = family.load_text_encoders(model_files, settings, device, reporter)
        batches = Halving(settings.text_encoder_batch_size, "text_encoder_batch_size", reporter)
        with writing() as writer, reporter.phase("Encoding captions", len(missing), "caption") as phase:
            for batch, encoding in batches.run(missing, encoders.encode):
                embeds, pooled = encoding.prompt_embeds.cpu(), encoding.pooled_prompt_embeds.cpu()
                for caption, *tensors in zip(batch, embeds, pooled, strict=True):
                    named = dict(zip((PROMPT_EMBEDS, POOLED_PROMPT_EMBEDS), tensors, strict=True))
                    writer.put(stored[caption], named, f"the caption {caption[:60]!r}")
                phase.advance(len(batch))
        del encoders
        release(device)
    return stored


def fill_latent_cache(
    samples: Sequence[Sample],
    sources: Mapping[str, Source],
    cache_dirs: Mapping[str, Path],
    family: Family,
    model_files: ModelFiles,
    settings: Settings,
    device: torch.device,
    reporter: Reporter,
) -> EncodedPictures:
    """Encode the pictures that aren't cached; `sources` and `cache_dirs` are the data sets' by id.

    A picture that can't be read any more is named once and left out. Raises DataError when that leaves a data set
    empty or the VAE gives a non-finite number, OutOfMemory when one picture alone doesn't fit.
    """
    run = _Pictures(
        sources=sources,
        caches={set_id: TensorCache(folder) for set_id, folder in cache_dirs.items()},
        identity=family.vae_identity(model_files, settings),
        reporter=reporter,
    )
    missing = run.find_missing(samples)
    if missing:
        vae = family.load_vae(model_files, settings, device)
        run.encode(missing, vae.encode, settings.vae_batch_size)
        del vae
        release(device)
    run.check_sets(samples)
    return EncodedPictures(run.entries, tuple(run.excluded))


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
    identity: str
    reporter: Reporter
    entries: dict[tuple[str, str], tuple[Stored, ...]] = field(default_factory=dict)
    excluded: list[Exclusion] = field(default_factory=list)

    def find_missing(self, samples: Sequence[Sample]) -> list[Sample]:
        """Fill `entries` from the files' bytes; gives the samples whose entry has to be encoded."""
        with threads() as pool, self.reporter.phase("Reading pictures", len(samples), "image") as phase:
            for sample, digest in zip(samples, pool.map(self._digest, samples), strict=True):
                if isinstance(digest, DataError):
                    self._exclude(sample, digest)
                else:
                    self._enter(sample, digest)
                phase.advance()
        known = {(id, index): stored for id, every in self.entries.items() for index, stored in enumerate(every)}
        missing = {id for id, _ in _missing(known, "picture", self.reporter)}
        return [sample for sample in samples if sample.id in missing]

    def encode(
        self, missing: Sequence[Sample], encode: Callable[[np.ndarray[Any, Any], Sequence[str]], Tensor], size: int
    ) -> None:
        """Encode in batches of one bucket each, reading ahead and writing behind."""
        ordered = sorted(missing, key=lambda sample: (sample.bucket, sample.id))
        batches = Halving(size, "vae_batch_size", self.reporter)
        with (
            threads() as pool,
            writing() as writer,
            self.reporter.phase("Encoding pictures", len(ordered), "image") as phase,
        ):
            for group in _groups(self._prepared(ordered, pool, 2 * size, phase), size):
                for batch, latents in batches.run(group, lambda part: _encode_pixels(part, encode)):
                    for item, latent in zip(batch, latents.cpu(), strict=True):
                        writer.put(item.stored, {LATENTS: latent}, shown(item.sample.name))

    def check_sets(self, samples: Sequence[Sample]) -> None:
        """Raises DataError when a data set has lost all its pictures."""
        left = {set_id for set_id, _ in self.entries}
        for set_id in sorted({sample.set_id for sample in samples} - left):
            lost = [exclusion for exclusion in self.excluded if exclusion.set_id == set_id]
            message = f'data set "{set_id}": none of its {len(lost)} pictures can be read any more'
            raise DataError(message, hint=f"the first: {lost[0].detail}")

    def _prepared(
        self, ordered: Sequence[Sample], pool: ThreadPoolExecutor, ahead: int, phase: Phase
    ) -> Iterator[_Prepared]:
        """Pictures ready for the VAE, in order, without copies of earlier ones and those that can't be read."""
        seen: set[Stored] = set()
        for sample, prepared in read_ahead(pool, self._prepare, ordered, ahead):
            if isinstance(prepared, DataError):
                self._exclude(sample, prepared)
            else:
                digest, pictures = prepared
                for stored, pixels in zip(self._enter(sample, digest), pictures, strict=True):
                    if stored not in seen:
                        seen.add(stored)
                        yield _Prepared(sample, stored, pixels)
            phase.advance()

    def _prepare(self, sample: Sample) -> tuple[str, list[np.ndarray[Any, Any]]] | DataError:
        """The SHA-256 of a picture's bytes, and its pixels in each placement."""
        where = self.sources[sample.set_id].location(sample.name)
        try:
            data = self.sources[sample.set_id].read(sample.name)
            size = sample.width, sample.height
            pictures = [prepare(where, data, size, placement) for placement in sample.placements]
        except DataError as error:
            return error
        except OSError as error:
            return _unreadable(where, error)
        return hashlib.sha256(data).hexdigest(), pictures

    def _enter(self, sample: Sample, digest: str) -> tuple[Stored, ...]:
        cache = self.caches[sample.set_id]
        keys = [latent_key(digest, placement, self.identity) for placement in sample.placements]
        self.entries[sample.id] = tuple(Stored(cache, key) for key in keys)
        return self.entries[sample.id]

    def _digest(self, sample: Sample) -> str | DataError:
        source = self.sources[sample.set_id]
        try:
            return hashlib.sha256(source.read(sample.name)).hexdigest()
        except OSError as error:
            return _unreadable(source.location(sample.name), error)

    def _exclude(self, sample: Sample, error: DataError) -> None:
        self.entries.pop(sample.id, None)
        self.excluded.append(Exclusion(sample.set_id, sample.name, Reason.UNREADABLE.value, error.message))
        self.reporter.warn(f"left out: {error.message}")


def _missing(stored: Mapping[T, Stored], what: str, reporter: Reporter) -> list[T]:
    """The items whose entry isn't there or is damaged (said), in order."""
    items = list(stored)
    with threads() as pool, reporter.phase(f"Checking cached {what}s", len(items), what) as phase:
        missing = []
        for item, sound in zip(items, pool.map(lambda item: stored[item].sound(), items), strict=True):
            if not sound:
                missing.append(item)
            phase.advance()
    damaged = sum(stored[item].exists() for item in missing)
    if damaged:
        reporter.warn(
            f"{damaged} damaged cache {'entry is' if damaged == 1 else 'entries are'} encoded again ({what}s)"
        )
    return missing


def _groups(prepared: Iterable[_Prepared], size: int) -> Iterator[list[_Prepared]]:
    """Up to `size` pictures in a row that share a bucket."""
    for _, same in groupby(prepared, key=lambda item: item.sample.bucket):
        while group := list(islice(same, size)):
            yield group


def _encode_pixels(
    batch: Sequence[_Prepared], encode: Callable[[np.ndarray[Any, Any], Sequence[str]], Tensor]
) -> Tensor:
    return encode(np.stack([item.pixels for item in batch]), [item.stored.key for item in batch])


def _unreadable(where: str, error: OSError) -> DataError:
    return DataError(f"{shown(where)}: {error.strerror or error}")


def _key(*parts: Any) -> str:
    return hashlib.sha256(json.dumps(parts, separators=(",", ":")).encode()).hexdigest()
