"""How the model is doing: pictures at fixed seeds, and the loss on held-out pictures at fixed noise."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import nn

from simpletune.config.settings import Settings
from simpletune.data.loader import MicroBatch, to_device
from simpletune.models.family import Family, LatentCoder, ModelFiles, SamplingRequest, TextEncoding
from simpletune.progress import Reporter
from simpletune.results.pictures import read_description, save_picture
from simpletune.trainer import flow
from simpletune.trainer.interrupt import StopRequest
from simpletune.trainer.randomness import Stream, normal

EVALUATION_SIGMAS = 8
"""Held-out pictures are judged at this many evenly spaced noise levels: 1/16, 3/16 .. 15/16."""


@dataclass(frozen=True)
class Shot:
    """One validation picture to take: the same prompt, seed and size every time."""

    name: str
    prompt: str
    width: int
    height: int
    seed: int

    @property
    def file_name(self) -> str:
        return f"{self.name}-{self.width}x{self.height}-{self.seed}.png"


def shots(settings: Settings) -> list[Shot]:
    """Every picture of one validation, in the order of the prompts."""
    return [
        Shot(name, prompt, width, height, settings.validation_seed + index)
        for name, prompt in settings.validation_prompts.items()
        for width, height in settings.validation_resolution
        for index in range(settings.num_validation_images)
    ]


def prompts(settings: Settings) -> list[str]:
    """Every text that validation needs encoded."""
    if not settings.validation_prompts:
        return []
    return [*dict.fromkeys(settings.validation_prompts.values()), settings.validation_negative_prompt]


@dataclass(frozen=True)
class Studio:
    """What taking pictures needs, apart from the weights in force."""

    settings: Settings
    family: Family
    files: ModelFiles
    transformer: nn.Module
    encodings: Mapping[str, TextEncoding]  # prompt -> B = 1, on the transformer's device
    text_identity: str
    device: torch.device
    reporter: Reporter

    def take(
        self, folder: Path, wanted: Sequence[Shot], about: Mapping[str, str], stop: StopRequest | None = None
    ) -> list[Path]:
        """Sample and save every shot into `folder` as PNG; one that is there already, made by the same settings, is
        kept. A request to stop ends it after the picture under way."""
        described = [(shot, folder / shot.file_name, {**self._described(shot), **about}) for shot in wanted]
        todo = [(shot, path, text) for shot, path, text in described if read_description(path) != text]
        if todo:
            folder.mkdir(parents=True, exist_ok=True)
            vae = self.family.load_vae(self.files, self.settings, self.device)
            with (
                self.reporter.phase(f"Sampling {folder.name}", len(todo), "image") as phase,
                sampling(self.transformer),
            ):
                for shot, path, text in todo:
                    if stop is not None and stop.requested:
                        break
                    save_picture(path, self._sampled(vae, shot), text)
                    phase.advance()
        return [path for _, path, _ in described]

    def _described(self, shot: Shot) -> dict[str, str]:
        """Everything that decides the picture, beside the adapter: what the PNG says of itself."""
        settings = self.settings
        skipped = (
            settings.validation_guidance_skip_layers,
            settings.validation_guidance_skip_layers_start,
            settings.validation_guidance_skip_layers_stop,
            settings.validation_guidance_skip_scale,
        )
        return {
            "prompt": shot.prompt,
            "negative_prompt": settings.validation_negative_prompt,
            "seed": str(shot.seed),
            "size": f"{shot.width}x{shot.height}",
            "guidance": str(settings.validation_guidance),
            "steps": str(settings.validation_num_inference_steps),
            "skip_layers": str(skipped),
            "model": self.files.source,
            "precision": f"{settings.base_model_precision}, {settings.mixed_precision}",
            "text": self.text_identity,
        }

    def _sampled(self, vae: LatentCoder, shot: Shot) -> np.ndarray[Any, Any]:
        settings = self.settings
        request = SamplingRequest(
            encoding=self.encodings[shot.prompt],
            negative=self.encodings[settings.validation_negative_prompt],
            width=shot.width,
            height=shot.height,
            seed=shot.seed,
            steps=settings.validation_num_inference_steps,
            guidance=settings.validation_guidance,
            skip_layers=settings.validation_guidance_skip_layers,
            skip_layers_start=settings.validation_guidance_skip_layers_start,
            skip_layers_stop=settings.validation_guidance_skip_layers_stop,
            skip_layers_scale=settings.validation_guidance_skip_scale,
        )
        return self.family.sample(self.files, settings, self.transformer, vae, request)


class sampling:  # noqa: N801 - a context manager, named like one
    """Put a module in eval mode inside the block, and back as it was after it."""

    def __init__(self, module: nn.Module) -> None:
        self._module = module

    def __enter__(self) -> None:
        self._was_training = self._module.training
        self._module.eval()

    def __exit__(self, *_: object) -> None:
        self._module.train(self._was_training)


@torch.no_grad()
def evaluation_loss(
    settings: Settings,
    family: Family,
    transformer: nn.Module,
    held_out: Sequence[MicroBatch],
    device: torch.device,
) -> float:
    """The mean velocity loss over held-out pictures, at EVALUATION_SIGMAS noise levels each, with noise that is the
    same every time: only the weights can change it. Masks weigh as in training."""
    total, count = 0.0, 0
    with sampling(transformer):
        for batch, level, sigma in _noise_levels(held_out, device):
            clean_BCHW = batch.latents.float()
            shape = clean_BCHW.shape[1:]
            noise_BCHW = normal(settings.seed, Stream.VALIDATION_NOISE, level, batch.sample_ids, shape)
            sigma_B = torch.full((len(clean_BCHW),), sigma, device=clean_BCHW.device)
            text = TextEncoding(batch.prompt_embeds, batch.pooled_prompt_embeds)
            noisy_BCHW = flow.interpolate(clean_BCHW, noise_BCHW, sigma_B)
            velocity_BCHW = family.predict(transformer, noisy_BCHW, sigma_B, text)
            target_BCHW = flow.velocity(clean_BCHW, noise_BCHW)
            loss_B = flow.flow_loss(velocity_BCHW, target_BCHW, "l2", settings.huber_c, batch.loss_mask)
            total, count = total + loss_B.double().sum().item(), count + len(loss_B)
    return total / count


def _noise_levels(held_out: Sequence[MicroBatch], device: torch.device) -> Iterator[tuple[MicroBatch, int, float]]:
    for waiting in held_out:
        batch = to_device(waiting, device)
        for level in range(EVALUATION_SIGMAS):
            yield batch, level, (level + 0.5) / EVALUATION_SIGMAS
