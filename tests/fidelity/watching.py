"""What a run drew and did, seen from outside: torch's own hooks on the optimizer, and the random numbers passing by."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from typing import Any

import pytest
import torch
from torch import Tensor
from torch.optim.optimizer import register_optimizer_step_post_hook, register_optimizer_step_pre_hook

from simpletune.data.loader import StepBatch
from simpletune.data.plan import SampleRef
from simpletune.models import latents
from simpletune.trainer import step as subject
from simpletune.trainer.ema import Ema
from simpletune.trainer.randomness import Stream


@dataclass
class Micro:
    """A micro batch: the pictures in it, and the numbers drawn for them; B samples."""

    refs: tuple[SampleRef, ...]
    noise: Tensor  # (B, C, H, W)
    sigma_number: Tensor  # (B,), uniform in (0, 1)
    dropout_number: Tensor | None  # (B,), the same, where captions are dropped


@dataclass
class Watched:
    """One optimizer step; the tensors are those of all trained weights, in the optimizer's order."""

    micros: list[Micro] = field(default_factory=list)
    before: list[Tensor] = field(default_factory=list)
    gradients: list[Tensor] = field(default_factory=list)  # as the optimizer gets them, clipped
    after: list[Tensor] = field(default_factory=list)
    rate: float = 0.0
    loss: float = 0.0
    grad_norm: float = 0.0
    averages: list[Tensor] = field(default_factory=list)


@contextmanager
def watched() -> Iterator[list[Watched]]:
    """Inside, every training step is noted. Pictures are encoded to the middle of their distribution."""
    steps: list[Watched] = []
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(latents, "_noise", lambda _key, shape: torch.zeros(tuple(shape)))
        _note_random_numbers(patch, steps)
        _note_results(patch, steps)
        hooks = register_optimizer_step_pre_hook(_before(steps)), register_optimizer_step_post_hook(_after(steps))
        try:
            yield steps
        finally:
            for hook in hooks:
                hook.remove()


def _note_random_numbers(patch: pytest.MonkeyPatch, steps: list[Watched]) -> None:
    normal, uniform, run = subject.normal, subject.uniform, subject.TrainingStep._run_micro

    def noted_normal(*arguments: Any) -> Tensor:
        drawn = normal(*arguments)
        steps[-1].micros[-1].noise = drawn.clone()
        return drawn

    def noted_uniform(seed: int, stream: Stream, *arguments: Any) -> Tensor:
        drawn = uniform(seed, stream, *arguments)
        name = {Stream.SIGMA: "sigma_number", Stream.CAPTION_DROPOUT: "dropout_number"}[stream]
        setattr(steps[-1].micros[-1], name, drawn.clone())
        return drawn

    def noted_micro(self: Any, batch: Any) -> Any:
        steps[-1].micros.append(Micro(batch.refs, torch.empty(0), torch.empty(0), None))
        return run(self, batch)

    patch.setattr(subject, "normal", noted_normal)
    patch.setattr(subject, "uniform", noted_uniform)
    patch.setattr(subject.TrainingStep, "_run_micro", noted_micro)


def _note_results(patch: pytest.MonkeyPatch, steps: list[Watched]) -> None:
    call, update = subject.TrainingStep.__call__, Ema.update

    def noted_call(self: Any, batch: StepBatch) -> Any:
        steps.append(Watched())
        result = call(self, batch)
        steps[-1].loss, steps[-1].grad_norm = result.loss.item(), result.grad_norm.item()
        return result

    def noted_update(self: Ema, *arguments: Any) -> None:
        update(self, *arguments)
        steps[-1].averages = [average.clone() for average in self.state_dict().values()]

    patch.setattr(subject.TrainingStep, "__call__", noted_call)
    patch.setattr(Ema, "update", noted_update)


def _before(steps: list[Watched]) -> Any:
    def hook(optimizer: torch.optim.Optimizer, *_: Any) -> None:
        if steps:
            (group,) = optimizer.param_groups
            steps[-1].before = [parameter.detach().clone() for parameter in group["params"]]
            steps[-1].gradients = [parameter.grad.clone() for parameter in group["params"]]
            steps[-1].rate = float(group["lr"])

    return hook


def _after(steps: list[Watched]) -> Any:
    def hook(optimizer: torch.optim.Optimizer, *_: Any) -> None:
        if steps:
            (group,) = optimizer.param_groups
            steps[-1].after = [parameter.detach().clone() for parameter in group["params"]]

    return hook
