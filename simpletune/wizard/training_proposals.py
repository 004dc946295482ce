"""What is proposed for the training: steps, intervals, learning rate, batch, rank. Pure functions.

The rules of thumb are those that LoRA guides for Stable Diffusion 3 agree on: about a hundred showings of each picture
while there are few, one to a few thousand steps, 1e-4 for AdamW.
"""

from __future__ import annotations

from math import sqrt

from simpletune.config.families import Flavour
from simpletune.wizard.proposal import Fits, Proposal, is_small

BATCHES = (1, 2, 4)


def propose_steps(pictures: int, repeats: float, batch: int, flavour: Flavour | None = None) -> Proposal[int]:
    """A run's optimizer steps.

    `pictures` that are trained on, `repeats` extra showings of each an epoch (a mean, if sets differ), `batch` pictures
    a step (with accumulation and processes).
    """
    pictures, batch = max(1, pictures), max(1, batch)
    small = flavour is not None and is_small(flavour)
    showings = 25.0 * pictures if small else 100.0 * min(pictures, 20) * max(1.0, sqrt(pictures / 20))
    least, most = (60, 300) if small else (800 / sqrt(batch), 4000)
    steps = _rounded(min(max(showings / batch, least), most))
    each, epochs = steps * batch / pictures, steps * batch / (pictures * (1 + repeats))
    why = "a small model learns quickly" if small else "few pictures need many showings" if pictures < 50 else "usual"
    seen = f"each of the {pictures:,} pictures is seen about {each:,.0f} times" if each >= 1 else "one part of them"
    return Proposal(steps, f"{seen} ({epochs:,.1f} epochs); {why}")


def propose_checkpoint_interval(steps: int) -> Proposal[int]:
    """Steps between checkpoints, for a run of `steps`."""
    return Proposal(_nice(steps / 4), "about four in the run; one of them may be better than the last")


def propose_validation_interval(steps: int) -> Proposal[int]:
    """Steps between sample pictures, for a run of `steps`."""
    return Proposal(_nice(steps / 8), "often enough to see when it has learnt enough")


_LEARNING_RATES = {
    "lion": (3e-5, "Lion's steps are all of one size: a third of AdamW's"),
    "prodigy": (1.0, "Prodigy finds the learning rate itself; 1 leaves it to it"),
}


def propose_learning_rate(optimizer: str, flavour: Flavour | None = None) -> Proposal[float]:
    """The `learning_rate` that suits an optimizer, and the small built-in model."""
    value, reason = _LEARNING_RATES.get(optimizer, (1e-4, "what most SD3 LoRAs are trained with"))
    if flavour is not None and is_small(flavour) and optimizer != "prodigy":
        return Proposal(value * 20, "the built-in model is small and learns in bigger steps")
    return Proposal(value, reason)


def propose_batch(pictures: int, fits: Fits) -> Proposal[int]:
    """Pictures a step; `fits(batch)` says whether the device's memory takes it."""
    wanted = max((size for size in BATCHES if size * 6 <= pictures), default=1)
    value = max((size for size in BATCHES if size <= wanted and fits(size)), default=1)
    if value < wanted:
        return Proposal(value, f"{wanted} doesn't fit into the memory" if value == 1 else "the most that fits")
    if wanted == BATCHES[-1]:
        return Proposal(value, "steadier than fewer, and it fits")
    return Proposal(value, f"{pictures} pictures are few: small batches mix them better")


def propose_rank(pictures: int, purpose: str | None = None, fits: Fits = lambda _: True) -> Proposal[int]:
    """The adapter's rank; `purpose` is "subject" or "style" where that is known."""
    if purpose == "style":
        value, reason = 32, "a style needs room; 16 to 64 suits one"
    elif pictures < 15 or (purpose == "subject" and pictures < 30):
        value, reason = 8, "few pictures: a small adapter can't learn them by heart as easily"
    elif pictures < 500:
        value, reason = 16, "enough for a subject or a plain style"
    else:
        value, reason = 32, "many pictures hold more to learn"
    fitting = [rank for rank in (4, 8, 16, 32) if rank <= value and fits(rank)]
    if fitting and fitting[-1] < value:
        return Proposal(fitting[-1], "the largest that fits into the memory")
    return Proposal(value, reason)


def _rounded(steps: float) -> int:
    """To two leading figures, in fifties where there are three or more digits: 130, 850, 2300."""
    unit = 10 if steps < 400 else 50 if steps < 1000 else 100
    return max(unit, round(steps / unit) * unit)


def _nice(steps: float) -> int:
    """The nearest of 1, 2, 2.5, 5 times a power of ten that is a whole number of steps, at least 1."""
    choices = [factor * unit for unit in (1, 10, 100, 1000, 10_000, 100_000) for factor in (1, 2, 5, 25)]
    return min(choices, key=lambda value: (abs(value - steps) / value, value))
