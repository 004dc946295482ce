"""Make one damaged or vanished entry of a cache again, in the middle of training."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import TYPE_CHECKING, TypeVar

import numpy as np
import torch
from torch import Tensor

from simpletune.data.caches.cache import Stored
from simpletune.data.caches.encode_pictures import LATENTS
from simpletune.data.caches.encode_text import StoredText
from simpletune.data.caches.preparation import Fault, Job, make
from simpletune.data.sources import Source, shown
from simpletune.errors import DataError
from simpletune.models.family import TextEncoding
from simpletune.models.memory import ran_out, release

if TYPE_CHECKING:
    from simpletune.config.settings import Settings
    from simpletune.data.scan import Sample
    from simpletune.models.family import Family, ModelFiles
    from simpletune.progress import Reporter

T = TypeVar("T")


@dataclass(frozen=True)
class Repair:
    """What it takes to encode again: on the run's device, or on the CPU where its memory is too short by now.

    Not to be called while a step computes.
    """

    family: Family
    model_files: ModelFiles
    settings: Settings
    sources: Mapping[str, Source]
    device: torch.device
    reporter: Reporter

    def latent(self, sample: Sample, index: int, stored: Stored) -> dict[str, Tensor]:
        """The tensors of a sample's placement number `index`, written to its entry too.

        Raises DataError when the picture can't be read or isn't any more what the entry was made from.
        """
        self.reporter.warn(f"the cached latent of {shown(sample.name)} is damaged or gone: it is encoded again")
        pixels = self._pixels(sample, index, stored)

        def encode(device: torch.device) -> Tensor:
            vae = self.family.load_vae(self.model_files, self.settings, device)
            return vae.encode(pixels[None], [stored.key])[0].cpu()

        tensors = {LATENTS: self._somewhere(encode)}
        stored.cache.put(stored.key, tensors)
        return tensors

    def text(self, caption: str, stored: Stored) -> dict[str, Tensor]:
        """The tensors of a caption as `stored.load` gives them, written to its entry too."""
        self.reporter.warn(f"the cached encoding of the caption {caption[:60]!r} is damaged or gone: it is made again")

        def encode(device: torch.device) -> dict[str, Tensor]:
            encoders = self.family.load_text_encoders(self.model_files, self.settings, device)
            encoding = encoders.encode([caption])
            embeds, pooled = encoding.prompt_embeds.cpu(), encoding.pooled_prompt_embeds.cpu()
            return self.family.pack_text(TextEncoding(embeds, pooled))

        stored.cache.put(stored.key, self._somewhere(encode))
        return StoredText(stored.cache, stored.key, self.family).load()

    def _pixels(self, sample: Sample, index: int, stored: Stored) -> np.ndarray[tuple[int, ...], np.dtype[np.uint8]]:
        identity = self.family.vae_identity(self.model_files, self.settings)
        placements = (sample.placements[index],)
        size, folder = (sample.width, sample.height), str(stored.cache.folder)
        job = Job(
            sample.set_id, sample.name, size, placements, folder, identity, frozenset({stored.key}), stamped=False
        )
        made = make(job, self.sources)
        where = shown(self.sources[sample.set_id].location(sample.name))
        if isinstance(made, Fault):
            said = f"a cache entry is damaged or gone, and its picture can't be read: {made.message}"
            raise DataError(said, made.hint or "bring it back, then run the same command again to continue")
        if made.keys != (stored.key,):
            raise DataError(
                f"a cache entry is damaged or gone, and its picture has changed since the run started: {where}",
                "start the run again: it encodes what has changed",
            )
        return made.pixels[0]

    def _somewhere(self, encode: Callable[[torch.device], T]) -> T:
        try:
            return encode(self.device)
        except RuntimeError as error:
            if not ran_out(error):
                raise
            # the CPU's turn is outside of the handler, which keeps what filled the memory alive
        finally:
            release(self.device)
        self.reporter.note("the device's memory is too short for that now: it is done on the processor")
        return encode(torch.device("cpu"))
