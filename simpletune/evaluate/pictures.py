"""The pictures that are looked at: the training set's and the held-out ones, as training shows them. Read only."""

from __future__ import annotations

import hashlib
from collections.abc import Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np
from PIL import Image

from simpletune.config.problems import ERROR
from simpletune.data.caches.digests import digests
from simpletune.data.caches.entries import latent_key
from simpletune.data.images import prepare
from simpletune.data.preflight import Preflight, preflight
from simpletune.data.scan import Sample
from simpletune.data.sources import Source, SourceError
from simpletune.errors import DataError, SimpletuneError
from simpletune.evaluate.features import Picture

if TYPE_CHECKING:
    from simpletune.config.settings import Settings
    from simpletune.progress import Reporter

_AS_PIXELS = "pixels"
"""What stands for the VAE in the key of a picture that is looked at itself."""


@dataclass(frozen=True)
class Found:
    """A picture of the data sets, its sample, and the SHA-256 of its file."""

    sample: Sample
    file_digest: str
    picture: Picture

    @property
    def caption(self) -> str:
        return self.sample.captions[0]


@dataclass(frozen=True)
class Material:
    """The training pictures (`of` how many there are) and those held out. `missing` says why there are none."""

    look: Preflight | None
    training: tuple[Found, ...]
    of: int
    held_out: tuple[Found, ...]
    missing: str | None = None


def gather(settings: Settings, at_most: int, reporter: Reporter) -> Material:
    """Look at the data sets; at most so many of the training pictures, chosen by seed. Nothing is written.

    Data sets for regularisation aren't what a likeness is to, and are left out. A data set that can't be read is told
    in `missing`, as base and adapters can be compared without it.
    """
    try:
        look = preflight(settings, reporter=reporter)
        wrong = [problem for problem in look.problems if problem.severity == ERROR]
        if wrong:
            return Material(None, (), 0, (), wrong[0].message)
        regular = {one.id for one in settings.image_sets if one.is_regularisation_data}
        training = [sample for sample in look.training if sample.set_id not in regular]
        chosen = sorted(sorted(training, key=lambda one: _rank(settings.seed, one))[:at_most], key=lambda one: one.id)
        return Material(
            look,
            _found(chosen, look, reporter),
            len(training),
            _found(look.held_out, look, reporter),
        )
    except (DataError, SourceError) as error:
        message = error.message if isinstance(error, SimpletuneError) else str(error)
        return Material(None, (), 0, (), message)


def _rank(seed: int, sample: Sample) -> bytes:
    return hashlib.sha256(repr((seed, sample.id)).encode("utf-8", "surrogateescape")).digest()


def _found(samples: Sequence[Sample], look: Preflight, reporter: Reporter) -> tuple[Found, ...]:
    made = {
        sample.id: Found(sample, digest, _picture(sample, digest, look.sources[sample.set_id]))
        for sample, digest in digests(samples, look.sources, look.indexes, reporter)
    }
    return tuple(made[sample.id] for sample in samples if sample.id in made)


def _picture(sample: Sample, digest: str, source: Source) -> Picture:
    """In its first placement, not mirrored where it is shown both ways."""
    placement = sample.placements[0]

    def load() -> Image.Image:
        where = source.location(sample.name)
        pixels = prepare(where, source.read(sample.name), (sample.width, sample.height), placement)
        return Image.fromarray(np.ascontiguousarray(pixels))

    return Picture(sample.name, latent_key(digest, placement, _AS_PIXELS), load)
