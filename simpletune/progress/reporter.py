"""What anything that takes time may say of it."""

from __future__ import annotations

from contextlib import AbstractContextManager
from typing import Protocol

from simpletune.progress.training import StepNumbers, TrainingPlan


class Phase(Protocol):
    """One piece of long work, measured in its own unit."""

    def advance(self, amount: float = 1, **shown: str) -> None:
        """`amount` more is done; `shown` are named values to stand beside the bar, such as loss="0.213"."""
        ...


class TrainingPhase(Protocol):
    """A training, step by step."""

    def step(self, numbers: StepNumbers) -> None:
        """The numbers of a step have arrived."""
        ...

    def aside(self, title: str) -> AbstractContextManager[None]:
        """The steps wait inside the block for what `title` says: "Validating", "Saving"."""
        ...

    def sampled(self, where: str) -> None:
        """Sample pictures are complete; `where` is their path for people."""
        ...

    def stopping(self) -> bool:
        """Ctrl-C was pressed; safe in a signal's handler. Whether this says so to people itself."""
        ...


class Reporter(Protocol):
    def phase(self, title: str, total: float | None, unit: str, done: float = 0) -> AbstractContextManager[Phase]:
        """Start showing work of `total` units ("image", "caption", "step", "B" for bytes), `done` of them already."""
        ...

    def training(self, plan: TrainingPlan) -> AbstractContextManager[TrainingPhase]:
        """Start showing a training. Phases may run inside it."""
        ...

    def note(self, text: str) -> None:
        """A line that stays on the screen: a decision, a result, a path."""
        ...

    def warn(self, text: str) -> None:
        """A line that stays and stands out."""
        ...
