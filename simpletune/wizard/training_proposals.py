"""What is proposed for the training: steps, intervals, learning rate, batch, rank. Pure functions.

The rules of thumb are those that LoRA guides for Stable Diffusion agree on: about a hundred showings of each picture
while there are few, fewer of each with more of them, one to four thousand steps in all, and 1e-4 for AdamW.
"""

from __future__ import annotations

from math import sqrt

from simpletune.config.families import Flavour
from simpletune.wizard.proposal import Fits, Proposal, is_small

BATCHES = (1, 2, 4)
_PICTURES_FOR_ONE_MORE = 12  # in a batch: with fewer pictures the batches of an epoch would be too few to mix
_SHOWINGS, _FEW = 100, 20
_STEPS, _LARGER_BATCH_STEPS = (800, 4000), (500, 4000)
_SMALL_SHOWINGS, _SMALL_STEPS = 25, (100, 300)
_RANKS = (4, 8, 16, 32)


def propose_steps(pictures: int, repeats: float, batch: int, flavour: Flavour | None = None) -> Proposal[int]:
    """A run's optimizer steps.

    `pictures` that are trained on (0: not counted yet), `repeats` extra showings of each an epoch (a mean, if sets
    differ), `batch` pictures a step (with accumulation and processes). A larger batch is a surer step, not a longer
    one, so it saves fewer steps than it has pictures: their number goes by its square root.
    """
    if not pictures:
        few = propose_steps(_FEW, 0, batch, flavour)
        return Proposal(few.value, "a usual length; the pictures have not been counted yet")
    batch = max(1, batch)
    small = flavour is not None and is_small(flavour)
    if small:
        wanted, bounds = _SMALL_SHOWINGS * pictures / batch, _SMALL_STEPS
    else:
        showings = _SHOWINGS * min(pictures, _FEW) * max(1.0, sqrt(pictures / _FEW))
        wanted, bounds = showings / sqrt(batch), _STEPS if batch == 1 else _LARGER_BATCH_STEPS
    steps = _rounded(min(max(wanted, bounds[0]), bounds[1]))
    quickly = "; the built-in model learns quickly" if small else ""
    return Proposal(steps, f"{_seen(pictures, steps * batch, repeats)}{quickly}")


def _seen(pictures: int, showings: int, repeats: float) -> str:
    """How often each picture is seen in a run of so many showings."""
    if showings < pictures:
        return f"long enough for a LoRA, though only {showings:,} of the {pictures:,} pictures are seen"
    which = "the one picture" if pictures == 1 else f"a picture (of {pictures:,})"
    times = showings / pictures
    often = f"about {times:,.0f} times" if times >= 1.5 else "about once"
    epochs = f" ({times / (1 + repeats):,.0f} epochs)" if repeats else ""
    on_average = " on average" if repeats else ""
    return f"{which} is seen {often}{on_average}{epochs}"


def propose_checkpoint_interval(steps: int) -> Proposal[int]:
    """Steps between checkpoints, for a run of `steps`."""
    return Proposal(_nice(steps, 4), "about four in the run; an earlier one may turn out better than the last")


def propose_validation_interval(steps: int) -> Proposal[int]:
    """Steps between sample pictures, for a run of `steps`."""
    return Proposal(_nice(steps, 8), "about eight times in the run, so that you see when it has learned enough")


_USUAL_RATE = Proposal(1e-4, "what most LoRAs are trained with")
_RATES = {
    "lion": Proposal(3e-5, "Lion's steps are all of one size: a third of AdamW's"),
    "adafactor": Proposal(1e-2, "for Adafactor it is a share of the weights' own size"),
    "prodigy": Proposal(1.0, "Prodigy finds the learning rate itself; this only scales it"),
}
# 80 steps on the quickstart's pictures bring the validation loss from 2.04 to 1.71 (lion) and below (the others).
_SMALL_RATES = {"lion": 1e-3, "adafactor": 0.2}


def propose_learning_rate(optimizer: str, flavour: Flavour | None = None) -> Proposal[float]:
    """The `learning_rate` that suits an optimizer, and the small built-in model."""
    if flavour is not None and is_small(flavour) and optimizer != "prodigy":
        return Proposal(_SMALL_RATES.get(optimizer, 2e-3), "the built-in model is small and learns in larger steps")
    return _RATES.get(optimizer, _USUAL_RATE)


def propose_batch(pictures: int, fits: Fits) -> Proposal[int]:
    """Pictures a step; `fits(batch)` says whether the device's memory takes it."""
    known = pictures or _FEW
    wanted = max((size for size in BATCHES if size * _PICTURES_FOR_ONE_MORE <= known), default=1)
    value = max((size for size in BATCHES if size <= wanted and fits(size)), default=1)
    if value < wanted:
        return Proposal(value, f"{BATCHES[BATCHES.index(value) + 1]} don't fit into the memory")
    if wanted == BATCHES[-1]:
        return Proposal(value, "steadier than one at a time; more would only take longer")
    few = f"{pictures:,} pictures are few: " if pictures else ""
    return Proposal(value, f"{few}small batches mix them better")


def propose_rank(pictures: int, purpose: str | None = None, fits: Fits = lambda _: True) -> Proposal[int]:
    """The adapter's rank; `purpose` is "subject" or "style" where that is known."""
    if purpose == "style":
        value, reason = 32, "a style needs room; 16 to 64 suit one"
    elif 0 < pictures < 15 or (purpose == "subject" and pictures < 30):
        value, reason = 8, "few pictures: a small adapter is slower to learn them by heart"
    elif pictures < 500:
        value, reason = 16, "room enough for a subject or a plain style"
    else:
        value, reason = 32, "many pictures hold more to learn"
    fitting = max((rank for rank in _RANKS if rank <= value and fits(rank)), default=_RANKS[0])
    if fitting < value:
        return Proposal(fitting, "the largest that fits into the memory")
    return Proposal(value, reason)


def _rounded(steps: float) -> int:
    """In tens up to 400, in fifties up to 1000, then in hundreds."""
    unit = 10 if steps < 400 else 50 if steps < 1000 else 100
    return max(unit, round(steps / unit) * unit)


def _nice(steps: int, times: int) -> int:
    """About a `times`-th of `steps`, as people count: 1, 2, 5, 10, 20, 25, 50, 100, 200, 250, 500 ...

    Of two that are about as near, the one that ends with the run.
    """
    wanted = max(1.0, steps / times)
    choices = [factor * unit for unit in (1, 10, 100, 1000, 10_000, 100_000) for factor in (1, 2, 5, 25)]
    return min(choices, key=lambda value: max(value / wanted, wanted / value) * (1.0 if steps % value == 0 else 1.2))
