"""The learning rate as a pure function of the optimizer step.

Steps are counted from 0, so a run of N steps asks for 0 to N - 1, and nothing has to be saved to resume. With W =
lr_warmup_steps:

- Steps 0 to W - 1 rise evenly, (step + 1) / (W + 1) of the full rate: the first step already learns. Step W has it all.
- From there the rate falls and would reach `lr_end` at step N, one past the last: no step is spent at the very end.
- `constant` takes no warm-up. `linear`, `cosine` and `cosine_with_restarts` end at `lr_end` too, not only `polynomial`.
"""

from __future__ import annotations

import math
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from simpletune.config.settings import Settings

SCHEDULERS = ("constant", "constant_with_warmup", "linear", "cosine", "cosine_with_restarts", "polynomial")


def learning_rate_at(settings: Settings, step: int, total_steps: int) -> float:
    """The learning rate of optimizer step `step` (from 0) of a run of `total_steps`."""
    return learning_rate(
        step,
        total_steps,
        scheduler=settings.lr_scheduler,
        peak=settings.learning_rate,
        warmup_steps=settings.lr_warmup_steps,
        end=settings.lr_end,
        power=settings.lr_power,
        cycles=settings.lr_num_cycles,
    )


def learning_rate(
    step: int,
    total_steps: int,
    *,
    scheduler: str,
    peak: float,
    warmup_steps: int = 0,
    end: float = 0.0,
    power: float = 1.0,
    cycles: int = 1,
) -> float:
    """The learning rate of one step; `cycles` counts for cosine_with_restarts, `power` for polynomial."""
    if scheduler not in SCHEDULERS:
        raise ValueError(f"unknown lr_scheduler {scheduler!r}")
    if scheduler == "constant":
        return peak
    if step < warmup_steps:
        return peak * (step + 1) / (warmup_steps + 1)
    done = min(1.0, (step - warmup_steps) / max(1, total_steps - warmup_steps))
    return end + (peak - end) * _remaining(scheduler, done, power, cycles)


def _remaining(scheduler: str, done: float, power: float, cycles: int) -> float:
    """How much of the way from `lr_end` to the full rate is left, 1 to 0, when `done` of the decay is behind."""
    if scheduler == "constant_with_warmup":
        return 1.0
    if done >= 1.0:
        return 0.0
    match scheduler:
        case "linear":
            return 1.0 - done
        case "cosine":
            return 0.5 * (1.0 + math.cos(math.pi * done))
        case "cosine_with_restarts":
            return 0.5 * (1.0 + math.cos(math.pi * (cycles * done % 1.0)))
        case _:
            return (1.0 - done) ** power
