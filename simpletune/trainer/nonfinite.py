"""A step whose loss or gradient isn't finite: which pictures it was about, what is intact, and what to do."""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from typing import Any, Protocol

from simpletune.config.problems import shown
from simpletune.data.loader import Loader
from simpletune.data.plan import SampleRef
from simpletune.errors import TrainingFailed

_NAMED = 8  # samples in a message; metrics.jsonl has them all
_LONGEST_CAPTION = 80


@dataclass(frozen=True)
class Suspect:
    """A sample of the step: where its picture is, the caption and bucket (width, height in pixels) it was shown with,
    and what came of it."""

    picture: str
    caption: str
    bucket: tuple[int, int]
    sigma: float
    loss: float

    def __str__(self) -> str:
        caption = self.caption if len(self.caption) <= _LONGEST_CAPTION else self.caption[:_LONGEST_CAPTION] + "..."
        size = "x".join(map(str, self.bucket))
        return f"{shown(self.picture)} (loss {self.loss:.6g}, sigma {self.sigma:.4f}, {size}, caption {caption!r})"

    def as_json(self) -> dict[str, Any]:
        """Strict JSON: a loss that isn't finite is a word."""
        loss = self.loss if math.isfinite(self.loss) else str(self.loss)
        sigma = self.sigma if math.isfinite(self.sigma) else str(self.sigma)
        size = list(self.bucket)
        return {"picture": self.picture, "caption": self.caption, "bucket": size, "sigma": sigma, "loss": loss}


@dataclass(frozen=True)
class Failure:
    """A step that must end the run. skipped: how many steps in a row had a gradient that wasn't finite, this one
    included."""

    step: int
    loss: float
    grad_norm: float
    learning_rate: float
    skipped: int
    samples: tuple[Suspect, ...]

    def as_json(self) -> list[dict[str, Any]]:
        return [sample.as_json() for sample in self.samples]

    def error(self, intact: str) -> TrainingFailed:
        """intact: what to go on from, in words."""
        said = (
            f"step {self.step}: the loss is {self.loss} and the gradient norm {self.grad_norm}, "
            f"at learning_rate {self.learning_rate:.4g}; training has stopped, and nothing of this step was saved"
        )
        return TrainingFailed("\n".join([said, *self._about()]), f"{self._remedy()}; {intact}")

    def _about(self) -> Iterator[str]:
        culprits = [sample for sample in self.samples if not math.isfinite(sample.loss)]
        named = culprits or self.samples
        if culprits:
            yield "the loss is not finite for:"
        elif self.skipped > 1:
            yield f"the gradient was not finite {self.skipped} steps in a row; the last of them was of:"
        else:
            yield "each picture's own loss is finite; the step was of:"
        for sample in named[:_NAMED]:
            yield f"  {sample}"
        if len(named) > _NAMED:
            yield f"  and {len(named) - _NAMED} more, which are in metrics.jsonl"

    def _remedy(self) -> str:
        """What is likely wrong: one picture among sound ones, or the weights, after which every loss is off."""
        bad = sum(not math.isfinite(sample.loss) for sample in self.samples)
        if 0 < bad < len(self.samples):
            return "look at these files first; if they are sound, lower learning_rate or use mixed_precision bf16"
        return (
            "lower learning_rate or max_grad_norm, or use mixed_precision bf16; if it comes back, look at these files"
        )


class Witness(Protocol):
    """Knows what a step was about, when its numbers turn out bad."""

    def samples(
        self, epoch: int, refs: Sequence[SampleRef], sigmas: Sequence[float], losses: Sequence[float]
    ) -> list[Suspect]:
        """Of all processes; each has to ask."""
        ...

    def intact(self) -> str:
        """What the run can go on from, in words."""
        ...


@dataclass(frozen=True)
class LoaderWitness:
    """Asks the loader what it showed. where: a picture's place, by its (set_id, name); gather: as Processes.gather;
    checkpoint: the name of the newest sound one, None without any."""

    loader: Loader
    where: Callable[[tuple[str, str]], str]
    gather: Callable[[Any], list[Any]]
    checkpoint: Callable[[], str | None]

    def samples(
        self, epoch: int, refs: Sequence[SampleRef], sigmas: Sequence[float], losses: Sequence[float]
    ) -> list[Suspect]:
        own = []
        for ref, sigma, loss in zip(refs, sigmas, losses, strict=True):
            caption, bucket = self.loader.shown(ref, epoch)
            own.append(Suspect(self.where(ref.id), caption, bucket, sigma, loss))
        return [suspect for of_one in self.gather(own) for suspect in of_one]

    def intact(self) -> str:
        name = self.checkpoint()
        if name is None:
            return "there is no checkpoint yet, so that the same command begins anew"
        return f"{name} is intact, and the same command goes on from there"
