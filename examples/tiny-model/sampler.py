"""Many pictures at once: what the stock pipeline computes for one, in batches.

Shapes: B pictures of a batch, C latent channels, H and W latent height and width, L text tokens, D text features,
E pooled features.
"""

from __future__ import annotations

from collections.abc import Sequence
from contextlib import nullcontext
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
from diffusers import FlowMatchEulerDiscreteScheduler
from torch import Tensor, nn

from simpletune.config.load import load_for_elsewhere
from simpletune.config.settings import Settings
from simpletune.models.adapters import adapter_enabled, attach_factors
from simpletune.models.family import Family, LatentCoder, ModelFiles, TextEncoders, TextEncoding
from simpletune.models.lora_file import read_adapter
from simpletune.models.registry import get_family
from simpletune.models.runtime import choose_device, quiet_libraries
from simpletune.progress import Reporter, SilentReporter

EDGE = 128
"""Pixels of a picture's sides."""


@dataclass(frozen=True)
class Painter:
    """A model that is loaded whole: it paints from captions, with its LoRA or without."""

    settings: Settings
    family: Family
    files: ModelFiles
    encoders: TextEncoders
    transformer: nn.Module
    vae: LatentCoder
    device: torch.device
    has_adapter: bool

    @torch.no_grad()
    def paint(
        self,
        captions: Sequence[str],
        seeds: Sequence[int],
        guidance: float,
        steps: int = 20,
        *,
        adapter: bool = True,
        batch: int | None = None,
        reporter: Reporter | None = None,
        title: str = "painting",
    ) -> np.ndarray[Any, Any]:
        """uint8 (N, 128, 128, 3): each caption's picture from its seed's noise, as the stock pipeline makes it.

        Guidance is classifier-free (Ho and Salimans, arXiv 2207.12598): v = v0 + g (v_caption - v0), off at g <= 1.
        With `adapter` false the LoRA is left out, so that the base is what paints.
        """
        batch = batch or (512 if self.device.type == "cuda" else 16)
        switched = nullcontext() if adapter or not self.has_adapter else adapter_enabled(self.transformer, False)
        made = []
        with switched, (reporter or SilentReporter()).phase(title, len(captions), "picture") as phase:
            for start in range(0, len(captions), batch):
                part = slice(start, start + batch)
                latents_BCHW = self._latents(captions[part], seeds[part], guidance, steps)
                made.append(self.vae.decode(latents_BCHW))
                phase.advance(len(latents_BCHW))
        return np.concatenate(made)

    def _latents(self, captions: Sequence[str], seeds: Sequence[int], guidance: float, steps: int) -> Tensor:
        scheduler = FlowMatchEulerDiscreteScheduler.from_pretrained(self.files.root, subfolder="scheduler")
        scheduler.set_timesteps(steps, device=self.device)
        text = self._encoded(captions, guided=guidance > 1)
        dtype = text.prompt_embeds.dtype
        latents_BCHW = torch.cat([self._noise(seed) for seed in seeds]).to(self.device, dtype)
        for step, timestep in enumerate(scheduler.timesteps):
            doubled = torch.cat([latents_BCHW] * 2) if guidance > 1 else latents_BCHW
            sigma = scheduler.sigmas[step].to(self.device).expand(len(doubled))
            velocity = self.family.predict(self.transformer, doubled, sigma, text)
            if guidance > 1:
                without, wanted = velocity.chunk(2)
                velocity = without + guidance * (wanted - without)
            latents_BCHW = scheduler.step(velocity, timestep, latents_BCHW, return_dict=False)[0]
        return latents_BCHW

    def _noise(self, seed: int) -> Tensor:
        """From a CPU generator of its own, so that a picture depends neither on its batch nor on the device."""
        side = EDGE // self.family.vae_scale_factor
        shape = (1, self.family.latent_channels, side, side)
        return torch.randn(shape, generator=torch.Generator().manual_seed(seed))

    def _encoded(self, captions: Sequence[str], guided: bool) -> TextEncoding:
        """The captions, after as many empty ones when guided; each different text is encoded once."""
        texts = [*[""] * (len(captions) if guided else 0), *captions]
        different = list(dict.fromkeys(texts))
        encoded = self.encoders.encode(different)
        place = {text: index for index, text in enumerate(different)}
        index_B = torch.tensor([place[text] for text in texts], device=self.device)
        return TextEncoding(encoded.prompt_embeds[index_B], encoded.pooled_prompt_embeds[index_B])


def open_painter(config: Path, overrides: Sequence[str] = (), adapter: Path | None = None) -> Painter:
    """The model a config names, loaded as a run of it would load it, with the LoRA of the file `adapter` if given."""
    quiet_libraries()
    settings, _ = load_for_elsewhere(config, overrides)
    device = choose_device(settings)
    family = get_family(settings.model_family)
    files = family.locate(settings)
    transformer = family.load_transformer(files, settings, device)
    if adapter is not None:
        attach_factors(transformer, read_adapter(adapter, "adapter"))
    transformer.eval()
    encoders = family.load_text_encoders(files, settings, device)
    vae = family.load_vae(files, settings, device)
    return Painter(settings, family, files, encoders, transformer, vae, device, adapter is not None)
