"""Made-up samples of the right shapes: what the loader would hand to a training step."""

from __future__ import annotations

import torch
from torch import Tensor

from simpletune.config.architecture import component_config
from simpletune.config.settings import Settings
from simpletune.data.loader import MicroBatch, StepBatch
from simpletune.models.family import Family, TextEncoding
from simpletune.models.latents import vae_dtype
from simpletune.models.load import compute_dtype


class Batches:
    """Steps of random latents and texts, the same ones each time under other sample ids, so with other noise."""

    def __init__(
        self, settings: Settings, family: Family, size: tuple[int, int], text_tokens: int, device: torch.device
    ) -> None:
        """size: (width, height) in pixels."""
        self._settings, self._device = settings, device
        width, height = (side // family.vae_scale_factor for side in size)
        batch, texts = settings.train_batch_size, random_text(settings, text_tokens, settings.train_batch_size, device)
        shape = (batch, family.latent_channels, height, width)
        self._latents = torch.randn(shape, device=device, dtype=vae_dtype(settings))
        self._texts = texts
        self._ones = torch.ones(batch, device=device)

    def step(self, step: int) -> StepBatch:
        """The batch of optimizer step `step`: as many micro batches as gradients are accumulated over."""
        count, batch = self._settings.gradient_accumulation_steps, self._settings.train_batch_size
        micro_batches = tuple(self._micro((step * count + place) * batch) for place in range(count))
        return StepBatch(step=step, epoch=0, sample_count=count * batch, micro_batches=micro_batches)

    def _micro(self, first: int) -> MicroBatch:
        batch = self._settings.train_batch_size
        return MicroBatch(
            refs=(),
            weight=1 / self._settings.gradient_accumulation_steps,
            latents=self._latents,
            prompt_embeds=self._texts.prompt_embeds,
            pooled_prompt_embeds=self._texts.pooled_prompt_embeds,
            sample_ids=torch.arange(first, first + batch, device=self._device),
            loss_weights=self._ones,
            loss_mask=None,
        )


def random_text(settings: Settings, text_tokens: int, batch: int, device: torch.device) -> TextEncoding:
    """What the transformer is told about `batch` captions, of the flavour's widths."""
    config, dtype = component_config(settings.model_flavour, "transformer"), compute_dtype(settings)

    def draw(*shape: int) -> Tensor:
        return torch.randn(*shape, device=device, dtype=dtype)

    states_BLD = draw(batch, text_tokens, config["joint_attention_dim"]) * 0.2
    return TextEncoding(states_BLD, draw(batch, config["pooled_projection_dim"]))
