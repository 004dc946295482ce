"""A chart as values for a page, which draws it in SVG: paths in a field of 1000 x 1000 that is stretched to any width,
and ticks as percentages, so that letters and line widths stay as they are on a phone.

Colours are the page's own: light, dark and on paper.
"""

from __future__ import annotations

import math
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np

from simpletune.results.charts import POINTS, SIGMA, Bars, Chart, Line

COLUMNS = 500
"""A curve is thinned to what this many pixel columns can show: first, least, greatest and last value of each."""

COLOURS = 8
"""Colours that the page has for lines."""

_SIDE = 1000
_TICKS = 5
_FEW = 40
_HEADROOM = 1.04


@dataclass(frozen=True)
class Tick:
    at: float  # percent from the left, or from below
    text: str


@dataclass(frozen=True)
class DrawnLine:
    label: str
    kind: str  # raw, line or points
    colour: int
    path: str
    dots: str = ""


@dataclass(frozen=True)
class Drawing:
    """A chart drawn; without lines and bars there is nothing in it yet."""

    title: str
    unit: str
    across: str
    said: str
    notes: tuple[str, ...]
    lines: tuple[DrawnLine, ...] = ()
    bars: str = ""
    bad: str = ""
    xs: tuple[Tick, ...] = ()
    ys: tuple[Tick, ...] = ()

    @property
    def legend(self) -> bool:
        return len(self.lines) > 1


@dataclass(frozen=True)
class _Axis:
    """From values to places in the field: 0 at `low`, 1 at `high`."""

    low: float
    high: float
    log: bool = False

    def place(self, values: Any) -> Any:
        if self.log:
            values = np.log10(np.maximum(values, 10.0 ** (self._low - 1)))
        return (values - self._low) / (self._high - self._low)

    def ticks(self) -> tuple[Tick, ...]:
        marks = _decades(self._low, self._high) if self.log else _steps(self.low, self.high)
        texts = _texts(marks)
        return tuple(
            Tick(round(100 * float(self.place(mark)), 2), text) for mark, text in zip(marks, texts, strict=True)
        )

    @property
    def _low(self) -> float:
        return math.log10(self.low) if self.log else self.low

    @property
    def _high(self) -> float:
        return math.log10(self.high) if self.log else self.high


def draw(chart: Chart) -> Drawing:
    """The chart as a page shows it; every number and note is text of the program, labels may be anybody's."""
    if chart.bars is not None:
        return _histogram(chart, chart.bars)
    about = chart.title, chart.unit, chart.across, chart.said, chart.notes
    if chart.empty and not len(chart.bad):
        return Drawing(*about)
    across, up = _across(chart), _up(chart)
    lines = tuple(
        DrawnLine(line.label, line.look, line.colour % COLOURS, path(line, across, up), dots(line, across, up))
        for line in chart.lines
    )
    bad = "".join(f"M{_whole(x)} 985h0" for x in across.place(chart.bad))
    return Drawing(*about, lines=lines, bad=bad, xs=across.ticks(), ys=() if chart.empty else up.ticks())


def _histogram(chart: Chart, bars: Bars) -> Drawing:
    across = _Axis(float(bars.edges[0]), float(bars.edges[-1]))
    up = _Axis(0.0, max(1.0, float(bars.counts.max()) * _HEADROOM))
    lefts, tops = across.place(bars.edges), up.place(bars.counts)
    drawn = "".join(
        f"M{_whole(left + 0.002)} {_SIDE}V{_SIDE - _whole(top)}H{_whole(right - 0.002)}V{_SIDE}z"
        for left, right, top in zip(lefts[:-1], lefts[1:], tops, strict=True)
        if top > 0
    )
    about = chart.title, chart.unit, chart.across, chart.said, chart.notes
    return Drawing(*about, bars=drawn, xs=across.ticks(), ys=up.ticks())


def path(line: Line, across: _Axis, up: _Axis) -> str:
    """A line as SVG path data, broken where a value isn't finite."""
    parts = []
    for steps, values in _stretches(line):
        xs, ys = across.place(steps), up.place(values)
        xs, ys = thinned(xs, ys) if line.look != POINTS else (xs, ys)
        parts.append("M" + "L".join(f"{_whole(x)} {_whole(1 - y)}" for x, y in zip(xs, ys, strict=True)))
    return "".join(parts)


def dots(line: Line, across: _Axis, up: _Axis) -> str:
    """A dot at each value of a line with points, of a short one, and where a value stands alone: strokes of no length,
    which stay round however the field is stretched."""
    every = line.look == POINTS or len(line.curve.steps) < _FEW
    parts = (part for part in _stretches(line) if every or len(part[0]) == 1)
    return "".join(
        f"M{_whole(x)} {_whole(1 - y)}h0"
        for steps, values in parts
        for x, y in zip(across.place(steps), up.place(values), strict=True)
    )


def thinned(xs: np.ndarray[Any, Any], ys: np.ndarray[Any, Any]) -> tuple[np.ndarray[Any, Any], np.ndarray[Any, Any]]:
    """Of each of COLUMNS columns the first, least, greatest and last point: no spike is lost. xs (N,) rise, 0 to 1."""
    if len(xs) <= 4 * COLUMNS:
        return xs, ys
    columns = np.minimum((xs * COLUMNS).astype(int), COLUMNS - 1)
    starts = np.flatnonzero(np.diff(columns, prepend=-1))
    ends = [*starts[1:], len(xs)]
    kept = [
        index
        for start, end in zip(starts, ends, strict=True)
        for index in sorted({start, start + int(ys[start:end].argmin()), start + int(ys[start:end].argmax()), end - 1})
    ]
    return xs[kept], ys[kept]


def _stretches(line: Line) -> Iterator[tuple[np.ndarray[Any, Any], np.ndarray[Any, Any]]]:
    """The parts of a curve between values that aren't finite."""
    finite = np.isfinite(line.curve.values)
    edges = np.flatnonzero(np.diff(np.concatenate([[False], finite, [False]]).astype(int)))
    for start, end in zip(edges[::2], edges[1::2], strict=True):
        yield line.curve.steps[start:end], line.curve.values[start:end]


def _across(chart: Chart) -> _Axis:
    if chart.across == SIGMA:
        return _Axis(0.0, 1.0)
    last = max((float(line.curve.steps[-1]) for line in chart.lines if len(line.curve.steps)), default=0.0)
    return _Axis(0.0, max(2.0, last, float(chart.bad.max(initial=0.0))))


def _up(chart: Chart) -> _Axis:
    values = np.concatenate([line.curve.values for line in chart.lines])
    values = values[np.isfinite(values)]
    if chart.log and (values > 0).any():
        low, high = float(values[values > 0].min()), float(values.max())
        return _Axis(low / 1.2, max(high, low * 2) * 1.2, log=True)
    if not len(values):
        return _Axis(0.0, 1.0)
    low = min(0.0, float(values.min()))
    high = chart.top or float(values.max()) * _HEADROOM
    return _Axis(low, high if high > low else low + 1.0)


def _steps(low: float, high: float) -> list[float]:
    """About _TICKS round numbers between low and high."""
    raw = (high - low) / _TICKS
    unit = 10.0 ** math.floor(math.log10(raw))
    step = next(size * unit for size in (1, 2, 2.5, 5, 10) if size * unit >= raw * 0.999)
    first, last = math.ceil(low / step - 1e-9), math.floor(high / step + 1e-9)
    return [index * step for index in range(first, last + 1)]


def _decades(low: float, high: float) -> list[float]:
    """Powers of ten between the logarithms low and high, with twos and fives where there are few."""
    whole = range(math.floor(low), math.ceil(high) + 1)
    factors: tuple[int, ...] = (1,) if high - low > 2 else (1, 2, 5)
    every = max(1, round((high - low) / _TICKS))
    marks = [factor * 10.0**exponent for exponent in whole if exponent % every == 0 for factor in factors]
    return [mark for mark in marks if low <= math.log10(mark) <= high]


def _texts(marks: Sequence[float]) -> list[str]:
    """The marks as short text, all with as many places as the finest needs."""
    most = max((abs(mark) for mark in marks), default=0.0)
    if most and (most < 1e-2 or most >= 1e7):
        powers = (f"{mark:.1e}".replace("e-0", "e-").replace("e+0", "e").replace(".0e", "e") for mark in marks)
        return ["0" if float(text) == 0 else text for text in powers]
    return [f"{mark:,.10f}".rstrip("0").rstrip(".") or "0" for mark in marks]


def _whole(place: float) -> int:
    """A place in the field; what an axis cuts off is at its end."""
    return round(max(0.0, min(1.0, float(place))) * _SIDE)
