"""What a page shows of an evaluation: text and pictures only, so that whoever measured it says what it means."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

from simpletune.results.charts import Chart


@dataclass(frozen=True)
class Value:
    """A metric of one set of weights: the number, below it its interval and difference, and whether that is `good`
    (None: neither, or it can't be said)."""

    value: str
    interval: str = ""
    difference: str = ""
    good: bool | None = None


@dataclass(frozen=True)
class MeasureRow:
    """A metric with its value for each column."""

    title: str
    about: str
    values: tuple[Value, ...]


@dataclass(frozen=True)
class MeasureGroup:
    title: str
    rows: tuple[MeasureRow, ...]


@dataclass(frozen=True)
class Pair:
    """A made picture that looks too much like one that was trained on."""

    made: Path
    made_by: str
    trained_on: Path | None  # None: it isn't in a folder of this machine
    name: str
    said: str


@dataclass(frozen=True)
class Measures:
    """A whole evaluation: columns are the sets of weights compared. `summary` is what came of it, in a sentence or
    two; `notes` are warnings, what was left out, and how it was measured."""

    columns: tuple[str, ...]
    groups: tuple[MeasureGroup, ...]
    summary: tuple[str, ...]
    notes: tuple[str, ...]
    charts: tuple[Chart, ...] = ()
    flagged: tuple[Pair, ...] = ()
    flagged_more: int = 0
