"""The table of precisions and checkpointing for one card: each row in a process of its own, so that its memory is its
own and its crash ends nothing else. Imports no torch.
"""

from __future__ import annotations

import json
import subprocess
import sys
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import asdict, dataclass, replace
from itertools import product
from pathlib import Path
from typing import Any

from simpletune.machine.bench_results import Row, case_of
from simpletune.machine.forecast import Plan

PRECISIONS = ("no_change", "int8-quanto", "fp8-quanto", "int4-quanto", "int2-quanto")
BATCHES = (1, 2, 4)
_PATIENCE = 900.0  # seconds for one row; compiling for the first time is most of it
_STDERR = 4000  # characters kept of what a failed process said

Measure = Callable[[Sequence[str]], Mapping[str, Any]]
"""`simpletune bench` with such overrides, training alone: the JSON it gave, or {"error": ...} in place of that."""


@dataclass(frozen=True)
class Subprocess:
    """Measures by running this program again."""

    config: Path | None
    overrides: Sequence[str]
    steps: int | None

    def __call__(self, overrides: Sequence[str]) -> Mapping[str, Any]:
        arguments = ["--phases", "train", "--json", *([] if self.steps is None else ["--steps", str(self.steps)])]
        for text in (*self.overrides, *overrides):
            arguments += ["--set", text]
        return run_bench([*([] if self.config is None else [str(self.config)]), *arguments])


def run_bench(arguments: Sequence[str], patience: float = _PATIENCE) -> Mapping[str, Any]:
    """`simpletune bench ARGUMENTS` in a fresh process: its report as JSON.

    Where it gave none: {"error": why, "stderr": the end of what it said}.
    """
    command = [sys.executable, "-m", "simpletune", "bench", *arguments]
    try:
        ended = subprocess.run(
            command, capture_output=True, encoding="utf-8", errors="replace", timeout=patience, check=False
        )
    except subprocess.TimeoutExpired:
        return {"error": f"it took more than {patience:.0f} s", "stderr": ""}
    try:
        found: dict[str, Any] = json.loads(ended.stdout)
        return found
    except ValueError:
        error = _last_error(ended.stderr) or f"the process ended with {ended.returncode}"
        return {"error": error, "stderr": ended.stderr[-_STDERR:]}


def sweep(plan: Plan, measure: Measure) -> Iterator[Row]:
    """Every row, as soon as it is measured. Once a batch doesn't fit, larger ones aren't tried."""
    for precision, checkpointing in product(PRECISIONS, (True, False)):
        changed = replace(plan, base_model_precision=precision, gradient_checkpointing=checkpointing)
        full = False
        for batch in BATCHES:
            row = case_of(replace(changed, train_batch_size=batch))
            if full:
                yield replace(row, failure="a smaller batch didn't fit", fits=False)
                continue
            row = with_figures(row, measure(overrides_of(row)))
            full = not row.fits
            yield row


def as_long(steps: int) -> list[str]:
    """What makes each row's run so long, however many pictures are in its batch: that decides how its steps run."""
    return [f"max_train_steps={steps}", "num_train_epochs=null"]


def overrides_of(row: Row) -> list[str]:
    """What makes a configuration that row's."""
    return [
        f"base_model_precision={row.base_model_precision}",
        f"gradient_checkpointing={'true' if row.gradient_checkpointing else 'false'}",
        f"train_batch_size={row.train_batch_size}",
    ]


def with_figures(row: Row, found: Mapping[str, Any]) -> Row:
    """The row with what its process said."""
    if "error" in found:
        return replace(row, failure=str(found["error"]))
    train = found.get("train") or {"reason": "it was not measured"}
    if "reason" in train:
        return replace(row, failure=str(train["reason"]), fits=not train.get("out_of_memory", False))
    memory = train["memory"]
    return replace(
        row,
        ms_per_step=train["ms_per_step"],
        allocated_gib=memory["allocated_gib"],
        reserved_gib=memory["reserved_gib"],
        execution=train["execution"],
    )


def best(rows: Sequence[Row]) -> Row | None:
    """The row that trains a sample fastest, of those that ran; of equals (2%) the one that needs least memory."""
    ran = [row for row in rows if row.ms_per_sample is not None]
    if not ran:
        return None
    fastest = min(row.ms_per_sample for row in ran if row.ms_per_sample is not None)
    near = [row for row in ran if row.ms_per_sample is not None and row.ms_per_sample <= 1.02 * fastest]
    return min(near, key=lambda row: row.reserved_gib or 0.0)


def smallest(rows: Sequence[Row]) -> Row | None:
    """The row that needs least memory, where memory was measured."""
    ran = [row for row in rows if row.reserved_gib is not None]
    return min(ran, key=lambda row: row.reserved_gib or 0.0, default=None)


HEADING = f"{'base':<14}{'checkpointing':<15}{'batch':>5}{'ms/sample':>12}{'GiB reserved':>14}"


def line(row: Row, way: str | None = None) -> str:
    """A row of the table, below HEADING; at most 80 characters. With how it ran where that isn't `way`."""
    kept = "yes" if row.gradient_checkpointing else "no"
    head = f"{row.base_model_precision.removesuffix('-quanto'):<14}{kept:<15}{row.train_batch_size:>5}"
    if row.ms_per_sample is None:
        reason = "doesn't fit" if not row.fits else f"failed: {row.failure}"
        return f"{head}  {reason}"[:80]
    memory = "-" if row.reserved_gib is None else f"{row.reserved_gib:.2f}"
    ran = "" if way is None or row.execution is None or row.execution.startswith(way) else f"  {row.execution}"
    return f"{head}{row.ms_per_sample:>12.1f}{memory:>14}{ran}"[:80]


def verdict(rows: Sequence[Row]) -> list[str]:
    """The lines below the table: what is fastest, and what takes least memory."""
    fastest, least = best(rows), smallest(rows)
    if fastest is None:
        return ["no row could be measured: see the reasons above"]
    said = _named("fastest", fastest)
    if least is not None and least != fastest:
        said += _named("least memory", least)
    return said


def as_json(rows: Sequence[Row]) -> list[dict[str, Any]]:
    """The rows with their time a sample, and which one is fastest."""
    fastest = best(rows)
    return [{**asdict(row), "ms_per_sample": row.ms_per_sample, "best": row is fastest} for row in rows]


def _named(what: str, row: Row) -> list[str]:
    """A row's figures, and below them the keys that make it."""
    memory = "" if row.reserved_gib is None else f", {row.reserved_gib:.2f} GiB reserved"
    return [f"{what}: {row.ms_per_sample:.1f} ms/sample{memory}", *(f"  --set {text}" for text in overrides_of(row))]


def _last_error(stderr: str) -> str | None:
    found = [text for text in stderr.splitlines() if text.startswith("error: ")]
    return found[-1].removeprefix("error: ") if found else None
