"""A curve in one line of characters, and a curve of any length in little memory."""

from __future__ import annotations

import math
from collections.abc import Sequence
from itertools import pairwise

BLOCKS = "▁▂▃▄▅▆▇█"
ASCII_MARKS = "_.-:=+*#"


def sparkline(values: Sequence[float], width: int, marks: str = BLOCKS) -> str:
    """At most `width` characters, one a value or a mean of neighbours, from the first of `marks` for the least to the
    last for the greatest; a blank where nothing is finite."""
    columns = _resampled(values, width)
    finite = [value for value in columns if math.isfinite(value)]
    if not finite:
        return " " * len(columns)
    least, most = min(finite), max(finite)
    return "".join(_mark(value, least, most, marks) if math.isfinite(value) else " " for value in columns)


def _mark(value: float, least: float, most: float, marks: str) -> str:
    """Halves, as the difference of two great numbers may be too great for one."""
    height = most / 2 - least / 2
    share = (value / 2 - least / 2) / height if height > 0 else 0.5
    return marks[min(len(marks) - 1, int(share * len(marks)))]


def _resampled(values: Sequence[float], width: int) -> list[float]:
    count = len(values)
    if count <= width:
        return list(values)
    edges = [index * count // width for index in range(width + 1)]
    return [_mean(values[left:right]) for left, right in pairwise(edges)]


def _mean(values: Sequence[float]) -> float:
    finite = [value for value in values if math.isfinite(value)]
    return sum(value / len(finite) for value in finite) if finite else math.nan


class History:
    """A curve that grows: at most `capacity` points, each the mean of equally many neighbouring values."""

    def __init__(self, capacity: int = 256) -> None:
        self._capacity = capacity
        self._points: list[float] = []
        self._each = 1
        self._group: list[float] = []

    def add(self, value: float) -> None:
        self._group.append(value)
        if len(self._group) < self._each:
            return
        self._points.append(_mean(self._group))
        self._group = []
        if len(self._points) >= self._capacity:
            self._points = [_mean(self._points[at : at + 2]) for at in range(0, len(self._points), 2)]
            self._each *= 2

    def points(self) -> list[float]:
        """Oldest first, values that don't fill a point yet included."""
        return [*self._points, _mean(self._group)] if self._group else list(self._points)
