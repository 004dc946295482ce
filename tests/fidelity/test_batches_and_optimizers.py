"""How a step is divided changes nothing, and an optimizer moves the weights as its own package does."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from small_runs import make_run
from test_plain_loop import apart
from torch import Tensor
from watching import Watched, watched

from simpletune.trainer.optimizers import is_installed

LOSS, FIRST_GRADIENT, WEIGHTS = 1e-5, 1e-5, 1e-2
"""Relative: of a step's loss; of all gradients' norm in the first step; of how far all weights moved in three. AdamW
divides a gradient by its size: what is next to nothing moves as far as what is large."""


def steps_of(folder: Path, **keys: Any) -> list[Watched]:
    with watched() as steps:
        make_run(folder, **keys).train()
    return steps


def moved(steps: list[Watched]) -> list[Tensor]:
    return [after - before for after, before in zip(steps[-1].after, steps[0].before, strict=True)]


@pytest.mark.parametrize(
    "divided", [[(2, 4)], pytest.param([(1, 8), (4, 2)], marks=pytest.mark.fault)], ids=["2 x 4", "others"]
)
def test_accumulation_of_k_batches_of_m_is_a_batch_of_k_times_m(tmp_path: Path, divided: list[tuple[int, int]]) -> None:
    """An epoch is one step, of eight square pictures: the step holds the same ones however it is divided."""
    whole, *parts = (
        steps_of(
            tmp_path / f"{m}",
            pictures=8,
            wide=False,
            max_train_steps=3,
            caption_dropout_probability=0.3,
            train_batch_size=m,
            gradient_accumulation_steps=k,
        )
        for m, k in [(8, 1), *divided]
    )
    assert [len(step.micros) for step in whole] == [1, 1, 1]
    for (_, k), part in zip(divided, parts, strict=True):
        assert [len(step.micros) for step in part] == [k, k, k]
        assert [step.loss for step in part] == pytest.approx([step.loss for step in whole], rel=LOSS)
        assert part[0].grad_norm == pytest.approx(whole[0].grad_norm, rel=FIRST_GRADIENT)
        assert apart(part[0].gradients, whole[0].gradients) < FIRST_GRADIENT
        assert apart(moved(part), moved(whole)) < WEIGHTS


def adamw(parameters: list[Tensor]) -> torch.optim.Optimizer:
    return torch.optim.AdamW(parameters, lr=1.0)


def adafactor(parameters: list[Tensor]) -> torch.optim.Optimizer:
    return torch.optim.Adafactor(parameters, lr=1.0)


def adamw_bf16(parameters: list[Tensor]) -> torch.optim.Optimizer:
    import optimi

    return optimi.AdamW(parameters, lr=1.0, kahan_sum=True)


def lion(parameters: list[Tensor]) -> torch.optim.Optimizer:
    import optimi

    return optimi.Lion(parameters, lr=1.0)


def prodigy(parameters: list[Tensor]) -> torch.optim.Optimizer:
    from prodigyopt import Prodigy

    return Prodigy(parameters, lr=1.0)


@pytest.mark.fault
@pytest.mark.parametrize("package", [adamw, adafactor, adamw_bf16, lion, prodigy], ids=lambda made: made.__name__)
def test_a_run_moves_its_weights_as_the_optimizers_own_package_does(
    tmp_path: Path, package: Callable[[list[Tensor]], torch.optim.Optimizer]
) -> None:
    """Given the run's gradients and learning rates; bit for bit."""
    name = package.__name__
    if not is_installed(name):
        pytest.skip(f"the package of {name} is not installed")
    steps = steps_of(
        tmp_path / "run",
        optimizer=name,
        max_train_steps=6,
        lr_scheduler="cosine",
        lr_warmup_steps=2,
        learning_rate=1.0 if name == "prodigy" else 0.003,
        gradient_accumulation_steps=2,
    )
    parameters = [torch.nn.Parameter(value.clone()) for value in steps[0].before]
    optimizer = package(parameters)
    for step in steps:
        for parameter, gradient in zip(parameters, step.gradients, strict=True):
            parameter.grad = gradient.to(parameter.dtype)
        for group in optimizer.param_groups:
            group["lr"] = step.rate
        optimizer.step()
        assert all(torch.equal(a, b) for a, b in zip(parameters, step.after, strict=True))
    assert apart(steps[-1].after, steps[0].before) > 0
    assert len({step.rate for step in steps}) == 6
