"""Features of many pictures: what is known is read, what is new is computed in batches and kept at once."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Sequence
from dataclasses import dataclass, field
from itertools import islice
from pathlib import Path

import numpy as np
import torch
from torch import Tensor

from simpletune.data.caches.cache import TensorCache
from simpletune.errors import DataError, Interrupted, OutOfMemory
from simpletune.evaluate.features import Describer, Picture, TextDescriber
from simpletune.evaluate.metrics import Array
from simpletune.evaluate.results import FeatureUse
from simpletune.models.memory import ran_out, release
from simpletune.progress import Reporter

BATCH = 16
_FEATURES = "features"
_TITLES = {"clip": "CLIP", "dino": "DINO", "csd": "style", "statistics": "statistics"}


@dataclass
class Described:
    """A describer with its cache, which counts what it computed and what it knew already.

    An entry's key is made of the picture's digest, the model's files and how pictures are prepared for it: a feature of
    another model, or of other pixels, is never taken for it.
    """

    describer: Describer
    folder: Path
    device: torch.device
    reporter: Reporter
    computed: int = field(default=0, init=False)
    from_cache: int = field(default=0, init=False)

    def pictures(self, wanted: Sequence[Picture]) -> Array:
        """float64 (N, D), in order. Raises Interrupted after Ctrl-C; what was computed is kept."""
        found = {picture.digest: self._known(picture.digest) for picture in wanted}
        missing = list({picture.digest: picture for picture in wanted if found[picture.digest] is None}.values())
        self.from_cache += len(found) - len(missing)
        if missing:
            title = f"Describing ({_TITLES.get(self.describer.name, self.describer.name)})"
            with self.reporter.phase(title, len(missing), "image") as phase:
                waiting = iter(missing)
                while batch := list(islice(waiting, BATCH)):
                    features = self._computed(batch)
                    for picture, row in zip(batch, features, strict=True):
                        self._keep(picture.digest, row)
                        found[picture.digest] = row
                    phase.advance(len(batch))
            release(self.device)
        return _array([found[picture.digest] for picture in wanted])

    def texts(self, describer: TextDescriber, wanted: Sequence[str]) -> Array:
        """float64 (N, D) of texts, in order."""
        keys = {text: _key("text", text) for text in wanted}
        found = {text: self._known(keys[text]) for text in keys}
        missing = [text for text, row in found.items() if row is None]
        if missing:
            for text, row in zip(missing, describer.texts(missing), strict=True):
                self._keep(keys[text], row)
                found[text] = row
        return _array([found[text] for text in wanted])

    @property
    def use(self) -> FeatureUse:
        describer = self.describer
        return FeatureUse(describer.name, describer.model, describer.preprocessing, self.computed, self.from_cache)

    def _computed(self, batch: Sequence[Picture]) -> Tensor:
        try:
            features = self.describer.pictures([picture.open() for picture in batch])
        except KeyboardInterrupt:
            raise Interrupted("stopped; all pictures and features made so far are kept", _GO_ON) from None
        except RuntimeError as error:
            if not ran_out(error):
                raise
            raise OutOfMemory(
                f"the device's memory is full while {self.describer.model} looks at pictures",
                "name a smaller model, or use the processor: --set device=cpu",
            ) from error
        if not torch.isfinite(features).all():
            raise DataError(
                f"{self.describer.model} gives numbers that aren't finite for {batch[0].name}",
                "its files may be damaged: get them again",
            )
        self.computed += len(batch)
        return features

    def _entry(self, digest: str) -> str:
        return _key(self.describer.identity, self.describer.preprocessing, digest)

    @property
    def _cache(self) -> TensorCache:
        return TensorCache(self.folder / self.describer.name)

    def _known(self, digest: str) -> Tensor | None:
        tensors = self._cache.get(self._entry(digest))
        return None if tensors is None else tensors.get(_FEATURES)

    def _keep(self, digest: str, row: Tensor) -> None:
        self._cache.put(self._entry(digest), {_FEATURES: row})


_GO_ON = "the same command goes on from there"


def _key(*parts: str) -> str:
    return hashlib.sha256(json.dumps(parts).encode()).hexdigest()


def _array(rows: Sequence[Tensor | None]) -> Array:
    return np.stack([row.numpy().astype(np.float64) for row in rows if row is not None])
