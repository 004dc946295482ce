"""How long work is shown: a live bar with rate and time left on a terminal, plain lines everywhere else.

Everything that takes time asks its `Reporter` for a `Phase` and advances it; what it looks like is decided here once.
"""

from __future__ import annotations

from contextlib import AbstractContextManager
from typing import Protocol


class Phase(Protocol):
    """One piece of long work, measured in its own unit."""

    def advance(self, amount: float = 1, **shown: str) -> None:
        """`amount` more is done; `shown` are named values to stand beside the bar, such as loss="0.213"."""
        ...


class Reporter(Protocol):
    def phase(self, title: str, total: float | None, unit: str, done: float = 0) -> AbstractContextManager[Phase]:
        """Start showing work of `total` units ("image", "caption", "step", "B" for bytes), `done` of them already."""
        ...

    def note(self, text: str) -> None:
        """A line that stays on the screen: a decision, a result, a path."""
        ...

    def warn(self, text: str) -> None:
        """A line that stays and stands out."""
        ...
