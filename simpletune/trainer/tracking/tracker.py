"""What a tracker is told of a run, under which names, and what it must provide.

A number of metrics.jsonl keeps its key: those of a "step" line are named train/KEY, those of a "validation" line
validation/KEY with the prefix validation_ left out. Steps are those of metrics.jsonl.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Protocol

from simpletune.results.curves import STEP, VALIDATION

PICTURES = "pictures"
_PREFIXES = {STEP: "train/", VALIDATION: "validation/"}


@dataclass(frozen=True)
class Picture:
    """A sample picture: `tag` is the same in every validation ("samples/hut-512x512-42"), `caption` is its prompt."""

    tag: str
    path: Path
    caption: str


@dataclass(frozen=True)
class RunDescription:
    """What a tracker opens a run with.

    folder: the run's own. id: the same in every continuation; a tracker that has it goes on with it. first_step: the
    lowest step that is trained from here, 0 for a new run. config: JSON values, without tokens.
    """

    project: str
    name: str
    id: str
    folder: Path
    first_step: int
    config: Mapping[str, Any]


class Tracker(Protocol):
    """A run being reported to one tracker. All calls come from one thread, and any may raise or take its time."""

    where: str
    """For people: where the run can be looked at."""

    def scalars(self, step: int, values: Mapping[str, float]) -> None:
        """Add finite numbers at a step; steps never go down."""

    def pictures(self, step: int, pictures: Sequence[Picture]) -> None:
        """Add pictures at a step; their files are whole and stay."""

    def finish(self, exit_code: int) -> None:
        """Write or send what is left. `exit_code` is the program's: 0 for a run that is done."""


def scalars_of(kind: str, values: Mapping[str, Any]) -> dict[str, float]:
    """The numbers of a line of metrics.jsonl by their names in trackers; lists and what isn't finite are left out."""
    prefix = _PREFIXES[kind]
    return {
        prefix + key.removeprefix("validation_"): float(value)
        for key, value in values.items()
        if isinstance(value, int | float) and not isinstance(value, bool) and math.isfinite(value)
    }
