"""The average of a noisy curve that the training screen and the plots show alike."""

from __future__ import annotations

import math


def smoothing_span(count: int) -> int:
    """Over how many steps to smooth a curve of `count`: a twentieth, but 10 to 200."""
    return max(10, min(200, count // 20))


class Smoothed:
    """An exponential moving average without the bias towards its start; what isn't finite takes no part."""

    def __init__(self, span: int) -> None:
        """span: the weight of a value falls to 1/e^2 after so many, as pandas' ewm(span) has it."""
        self._keep = 1 - 2 / (span + 1)
        self._total = self._weight = 0.0

    def add(self, value: float) -> None:
        if math.isfinite(value):
            self._total = self._keep * self._total + value
            self._weight = self._keep * self._weight + 1

    @property
    def value(self) -> float:
        """NaN before the first finite one."""
        return self._total / self._weight if self._weight else math.nan
