"""One picture made ready for the VAE: read once, hashed, and decoded once for those of its placements that are missing.

This is what the processes and threads of `workers.py` do for each picture. Imports no torch.
"""

from __future__ import annotations

import hashlib
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

import numpy as np

from simpletune.data.caches.entries import entry_path, latent_key
from simpletune.data.geometry import Placement
from simpletune.data.images import prepare_all
from simpletune.data.sources import Source, SourceError, Stamp, shown
from simpletune.errors import DataError

Pixels = np.ndarray[Any, Any]


@dataclass(frozen=True)
class Job:
    """What is to be done for a picture. `size` is its upright (width, height) in pixels, as it was scanned.

    folder: the cache its latents belong into. vae_identity: Family.vae_identity. again: keys of entries that are to
    be made although they are there. stamped: whether the file's stamp is asked for.
    """

    set_id: str
    name: str
    size: tuple[int, int]
    placements: tuple[Placement, ...]
    folder: str
    vae_identity: str
    again: frozenset[str] = frozenset()
    stamped: bool = True

    @property
    def room(self) -> int:
        """Bytes that the pixels of all its placements take."""
        return sum(size_bytes(placement) for placement in self.placements)


@dataclass(frozen=True)
class Made:
    """A picture that was read: the SHA-256 of its bytes, and its file's stamp after that if it was asked for.

    `keys` has one for each placement; `pixels`, uint8 (H, W, 3), those of the placements in `missing`, by position.
    """

    digest: str
    stamp: Stamp | None
    keys: tuple[str, ...]
    missing: tuple[int, ...]
    pixels: Sequence[Pixels] = field(default=(), compare=False)


@dataclass(frozen=True)
class Fault:
    """A picture that can't be used, in a sentence that names it; with `hint` it is the whole source that can't be."""

    message: str
    hint: str | None = None


def make(job: Job, sources: Mapping[str, Source]) -> Made | Fault:
    """Read the picture and prepare what isn't in the cache yet."""
    source = sources[job.set_id]
    where = source.location(job.name)
    try:
        data = source.read(job.name)
        stamp = source.stamp(job.name) if job.stamped else None
        digest = hashlib.sha256(data).hexdigest()
        keys = tuple(latent_key(digest, placement, job.vae_identity) for placement in job.placements)
        missing = tuple(index for index, key in enumerate(keys) if _is_missing(job, key))
        pixels = prepare_all(where, data, job.size, [job.placements[index] for index in missing])
    except DataError as error:
        return Fault(error.message)
    except SourceError as error:
        return Fault(error.message, error.hint)
    except OSError as error:
        return Fault(f"{shown(where)}: {error.strerror or error}")
    return Made(digest, stamp, keys, missing, pixels)


def size_bytes(placement: Placement) -> int:
    width, height = placement.bucket
    return width * height * 3


def _is_missing(job: Job, key: str) -> bool:
    return key in job.again or not entry_path(job.folder, key).is_file()
