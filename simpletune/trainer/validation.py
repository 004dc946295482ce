"""How the model is doing: pictures at fixed seeds, and the loss on held-out pictures at fixed noise."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

import torch
from torch import Tensor, nn

from simpletune.config.settings import Settings
from simpletune.data.loader import MicroBatch, to_device
from simpletune.models.family import Family, TextEncoding
from simpletune.progress import Reporter
from simpletune.results.studio import Shot, Studio, sampling
from simpletune.trainer import flow
from simpletune.trainer.randomness import Stream, normal

EVALUATION_SIGMAS = 8
"""Held-out pictures are judged at this many evenly spaced noise levels: 1/16, 3/16 .. 15/16."""


def shots(settings: Settings) -> tuple[Shot, ...]:
    """Every picture of one validation, in the order of the prompts."""
    return tuple(
        Shot(name, prompt, width, height, settings.validation_seed + index)
        for name, prompt in settings.validation_prompts.items()
        for width, height in settings.validation_resolution
        for index in range(settings.num_validation_images)
    )


def picture_count(settings: Settings, total_steps: int) -> int:
    """Of a whole run: the base's, and at every validation those of each set of weights."""
    validations = -(-total_steps // settings.validation_step_interval)
    return len(shots(settings)) * (1 + validations * (2 if settings.use_ema else 1))


def prompts(settings: Settings) -> list[str]:
    """Every text that validation needs encoded."""
    if not settings.validation_prompts:
        return []
    return [*dict.fromkeys(settings.validation_prompts.values()), settings.validation_negative_prompt]


@dataclass(frozen=True)
class Validation:
    """The pictures of every validation, and the model they are taken of."""

    studio: Studio
    shots: tuple[Shot, ...]
    transformer: nn.Module
    encodings: Mapping[str, TextEncoding]  # prompt -> B = 1, on the transformer's device
    reporter: Reporter
    expected: int  # pictures of the whole run

    def take(self, folder: Path, about: Mapping[str, str], check: Callable[[], None]) -> None:
        """Sample every shot into `folder` with the weights in force; one that is there already, made by the same
        settings, is kept. check: as Studio.take calls it."""
        todo = [planned for planned in self.studio.plan(folder, self.shots, about) if not planned.done]
        if todo:
            with self.reporter.phase(f"Sampling {folder.name}", len(todo), "image") as phase:
                self.studio.take(
                    todo,
                    self.transformer,
                    self.encodings,
                    phase,
                    self.reporter.note,
                    check,
                    self.expected,
                )


def evaluation_loss(
    settings: Settings,
    family: Family,
    transformer: nn.Module,
    held_out: Sequence[MicroBatch],
    device: torch.device,
    check: Callable[[], None] = lambda: None,
) -> float:
    """The mean of `evaluation_losses`."""
    losses = evaluation_losses(settings, family, transformer, held_out, device, check).flatten().tolist()
    return sum(losses) / len(losses)


@torch.no_grad()
def evaluation_losses(
    settings: Settings,
    family: Family,
    transformer: nn.Module,
    held_out: Sequence[MicroBatch],
    device: torch.device,
    check: Callable[[], None] = lambda: None,
) -> Tensor:
    """The velocity loss of each held-out picture at each noise level, float64 (pictures, EVALUATION_SIGMAS), with noise
    that is the same every time: only the weights can change it. Masks weigh as in training.

    check: called before each of them; what it raises ends the work.
    """
    losses = []
    with sampling(transformer):
        for batch, level, sigma in _noise_levels(held_out, device):
            check()
            clean_BCHW = batch.latents.float()
            shape = clean_BCHW.shape[1:]
            noise_BCHW = normal(settings.seed, Stream.VALIDATION_NOISE, level, batch.sample_ids, shape)
            sigma_B = torch.full((len(clean_BCHW),), sigma, device=clean_BCHW.device)
            text = TextEncoding(batch.prompt_embeds, batch.pooled_prompt_embeds)
            noisy_BCHW = flow.interpolate(clean_BCHW, noise_BCHW, sigma_B)
            velocity_BCHW = family.predict(transformer, noisy_BCHW, sigma_B, text)
            target_BCHW = flow.velocity(clean_BCHW, noise_BCHW)
            loss_B = flow.flow_loss(velocity_BCHW, target_BCHW, "l2", settings.huber_c, batch.loss_mask)
            losses.append(loss_B.double().cpu())
    batches = [torch.stack(levels, 1) for levels in _grouped(losses)]
    return torch.cat(batches)


def evaluation_sigma(level: int) -> float:
    """The noise level of that number, in the middle of its share of 0 .. 1."""
    return (level + 0.5) / EVALUATION_SIGMAS


def _grouped(losses: Sequence[Tensor]) -> Iterator[Sequence[Tensor]]:
    for start in range(0, len(losses), EVALUATION_SIGMAS):
        yield losses[start : start + EVALUATION_SIGMAS]


def _noise_levels(held_out: Sequence[MicroBatch], device: torch.device) -> Iterator[tuple[MicroBatch, int, float]]:
    for waiting in held_out:
        batch = to_device(waiting, device)
        for level in range(EVALUATION_SIGMAS):
            yield batch, level, evaluation_sigma(level)
