"""What a run's folder remembers of its trackers, so that a continued run goes on where each of them is.

    output/tracking.json    {"wandb": {"id": ..., "name": ..., "has": {"step": 300, "validation": 250, ...},
                                       "schedule": {"learning_rate": 0.0001, ...}}}

Rows are not counted here while a run goes on: a tracker was given those that metrics.jsonl has when the next start
reads it.
"""

from __future__ import annotations

import uuid
from collections.abc import Mapping
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import Any

from simpletune import files, outside
from simpletune.results.curves import STEP, VALIDATION, metric_lines
from simpletune.trainer.tracking.tracker import PICTURES

RECORD_FILE = "tracking.json"
KINDS = (STEP, VALIDATION, PICTURES)


@dataclass(frozen=True)
class Identity:
    """What a tracker knows the run by, the last step it has of each kind, -1 for none, and the settings that its
    learning rates came from, None where that wasn't kept."""

    id: str
    name: str
    has: Mapping[str, int]
    schedule: Mapping[str, Any] | None = None

    @classmethod
    def new(cls, name: str, last_step: int) -> Identity:
        """One that nothing was reported to; it is spared what comes up to `last_step`."""
        return cls(uuid.uuid4().hex[:16], name, dict.fromkeys(KINDS, last_step))

    def with_at_least(self, steps: Mapping[str, int]) -> Identity:
        has = {kind: max(step, steps.get(kind, -1)) for kind, step in self.has.items()}
        return replace(self, has=has)


Record = Mapping[str, Identity]
"""By tracker."""


def write_record(folder: Path, record: Record) -> None:
    files.write_json(folder / RECORD_FILE, {name: asdict(one) for name, one in record.items()})


def read_record(folder: Path) -> dict[str, Identity]:
    """What the last start left there; nothing where there is none, or none that can be read."""
    try:
        said = outside.read_json(folder / RECORD_FILE)
        return {
            name: Identity(
                str(one["id"]), str(one["name"]), {kind: int(one["has"][kind]) for kind in KINDS}, one.get("schedule")
            )
            for name, one in said.items()
        }
    except (OSError, ValueError, KeyError, TypeError, AttributeError):
        return {}


def rows_reported(metrics: Path) -> dict[str, int]:
    """The last step of each kind of line in a metrics.jsonl, -1 where there is none."""
    steps = {STEP: -1, VALIDATION: -1}
    for line in metric_lines(metrics) if metrics.exists() else ():
        steps[line["kind"]] = max(steps[line["kind"]], line["step"])
    return steps
