"""A run's steps against training written out plainly: its losses, its gradients, its weights, its average.

Bounds are for fp32 on a CPU. What differs is the order of sums: the program adds a batch's samples, and its micro
batches, in another order than the plain loop, which computes each sample alone.
"""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import pytest
import torch
from diffusers.training_utils import EMAModel
from plain_loop import Computed, PlainLoop, stock_pipeline
from small_runs import draw, draw_masks, make_run
from torch import Tensor
from watching import Watched, watched

LOSS, FIRST_GRADIENT, GRADIENT, WEIGHTS = 1e-5, 2e-5, 3e-4, 2e-3
"""Relative: of a step's loss; of all gradients' norm in the first step, and in those after it, whose weights are no
longer the same to the last bit; of how far all weights moved in the run."""

ATTENTION = (
    "attn.to_q", "attn.to_k", "attn.to_v", "attn.to_out.0",
    "attn.add_q_proj", "attn.add_k_proj", "attn.add_v_proj", "attn.to_add_out",
)  # fmt: skip
FEED_FORWARD = ("ff.net.0.proj", "ff.net.2", "ff_context.net.0.proj", "ff_context.net.2")


def apart(found: Sequence[Tensor], expected: Sequence[Tensor]) -> float:
    """The norm of all differences, over the norm of all that is expected."""
    difference = sum((a - b).double().square().sum() for a, b in zip(found, expected, strict=True))
    return float((difference / sum(b.double().square().sum() for b in expected)) ** 0.5)


def assert_same(steps: Sequence[Watched], computed: Sequence[Computed]) -> None:
    assert len(steps) == len(computed)
    for number, (step, plain) in enumerate(zip(steps, computed, strict=True)):
        assert step.loss == pytest.approx(plain.loss, rel=LOSS)
        assert step.grad_norm == pytest.approx(plain.grad_norm, rel=GRADIENT)
        assert apart(step.gradients, plain.gradients) < (GRADIENT if number else FIRST_GRADIENT)
    begun = steps[0].before
    ways = [
        [after - before for after, before in zip(ended, begun, strict=True)]
        for ended in (steps[-1].after, computed[-1].after)
    ]
    assert apart(*ways) < WEIGHTS
    assert apart(steps[-1].after, begun) > 0.01, "nothing was trained, so nothing was compared"


def compare(
    folder: Path, model: Path, targets: Sequence[str] = ATTENTION, loop: dict[str, Any] | None = None, **keys: Any
) -> list[Watched]:
    """Train, compute the same plainly, compare. `loop` is for PlainLoop, `keys` are those of make_run."""
    run = make_run(folder / "run", **keys)
    if (loop or {}).get("masks"):
        draw_masks(run.folder / loop["masks"], run.folder / "balls")
    with watched() as steps:
        run.train()
    plain = PlainLoop(run, stock_pipeline(model, run.values()["base_model_precision"]), targets, **(loop or {}))
    assert_same(steps, plain.take(steps))
    return steps


def test_with_dropped_captions_an_average_and_batches_of_two_sizes(tmp_path: Path, tiny_model: Path) -> None:
    steps = compare(
        tmp_path, tiny_model, pictures=7, lora_alpha=8, caption_dropout_probability=0.4, use_ema=True, ema_decay=0.3
    )
    drawn = torch.cat([micro.dropout_number for step in steps for micro in step.micros])
    assert 0 < (drawn < 0.4).sum() < len(drawn)
    reference = [torch.nn.Parameter(value) for value in steps[0].before]
    average = EMAModel(reference, decay=0.3)
    for step in steps:
        with torch.no_grad():
            for parameter, value in zip(reference, step.after, strict=True):
                parameter.copy_(value)
        average.step(reference)
        assert apart(step.averages, average.shadow_params) < 1e-6


def test_with_masks_accumulation_and_clipping(tmp_path: Path, tiny_model: Path) -> None:
    steps = compare(
        tmp_path,
        tiny_model,
        ATTENTION + FEED_FORWARD,
        {"masks": "masks"},
        first={"mask_source": "folder", "mask_data_dir": "masks"},
        pictures=7,
        lora_target="blocks",
        gradient_accumulation_steps=3,
        loss_type="huber",
        max_grad_norm=0.02,
        max_train_steps=3,
    )
    assert min(step.grad_norm for step in steps) > 0.02, "nothing was clipped"


def test_with_a_set_of_regularisation_on_a_quantized_base_and_recomputed_activations(
    tmp_path: Path, tiny_model: Path
) -> None:
    draw(tmp_path / "run" / "class", ["gray", "gold", "navy"], word="square")
    compare(
        tmp_path,
        tiny_model,
        ("proj_out", "attn.to_q"),
        {"folders": {"balls": "balls", "class": "class"}, "weights": {"class": 0.25}},
        more=[
            {"id": "class", "instance_data_dir": "class", "is_regularisation_data": True, "regularisation_weight": 0.25}
        ],
        lora_target=["proj_out", "attn.to_q"],
        lora_rank=5,
        use_rslora=True,
        base_model_precision="int8-quanto",
        gradient_checkpointing=True,
    )
