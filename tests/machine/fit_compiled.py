"""Fit the compiled step's memory to measured rows: `python tests/machine/fit_compiled.py STEPS.json [--write]`.

STEPS.json is what `tests/gpu/measure_steps.py` wrote. The constants of simpletune/machine/activations.py that CONSTANTS
names are fitted to its rows marked "fit" by least squares of log(estimate / measured), each held near what it was as
far as the rows don't say otherwise. The others, which the fit never sees, are then held against it. Printed are the
constants, every row, and whether the bounds hold: each held-out row within 15%, their median 8%, none more than 5% too
low. `--write` puts the constants into the module.
"""

from __future__ import annotations

import argparse
import json
import re
import statistics
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
from estimate_table import of_step, peak, plan_of, ratio

from simpletune.machine import activations

CONSTANTS = (
    "_COMPILED_KEPT", "_COMPILED_OUTSIDE", "_COMPILED_AGAIN", "_COMPILED_UNPACKED", "_COMPILED_ADAPTER_SPLIT",
    "_COMPILED_SLACK",
)  # fmt: skip
FARTHEST, MEDIAN, LOWEST = 0.15, 0.08, -0.05
"""The bounds that the held-out rows are to keep: the largest error, the median one, the lowest."""

_WAY = "graph over compiled blocks"
_NEAR = 0.05  # how strongly a constant stays: one that is e times as large counts as a row that is 5% off
_ROUNDS, _DIFFERENCE = 40, 1e-3
_MIB = 1 << 20


def main() -> None:
    parser = argparse.ArgumentParser(description="Fit the compiled step's memory to measured rows.")
    parser.add_argument("steps", type=Path)
    parser.add_argument("--lean", type=float, default=1.02, help="how far the estimate is to lie above; default: 1.02")
    parser.add_argument("--write", action="store_true", help="put the constants into machine/activations.py")
    given = parser.parse_args()
    found = json.loads(given.steps.read_text())
    rows = [row for row in found["rows"] if "error" not in row and row.get("way") == _WAY]
    for row in found["rows"]:
        if row not in rows:
            print(f"left out: {row['name']}: {row.get('error') or row.get('way')}")
    values = fit(found, [row for row in rows if row["use"] == "fit"], given.lean)
    put(values)
    print("\n".join(report(found, rows, values)))
    if given.write:
        write(values)


def fit(found: Mapping[str, Any], rows: Sequence[Mapping[str, Any]], lean: float = 1.02) -> dict[str, float]:
    """The constants with the smallest sum of squares (Levenberg and Marquardt's method); the module keeps its own."""
    start = np.array([getattr(activations, name) for name in CONSTANTS])

    def residuals(logs: np.ndarray[Any, Any]) -> np.ndarray[Any, Any]:
        put(dict(zip(CONSTANTS, start * np.exp(logs), strict=True)))
        errors = [np.log(ratio(plan_of(found, row), row, "train") / lean) for row in rows]
        return np.array([*errors, *(_NEAR * logs)])

    logs, damping = np.zeros(len(CONSTANTS)), 1e-3
    try:
        at = residuals(logs)
        for _ in range(_ROUNDS):
            columns = [(residuals(logs + step) - at) / _DIFFERENCE for step in _DIFFERENCE * np.eye(len(CONSTANTS))]
            slope = np.stack(columns, axis=1)
            normal = slope.T @ slope
            move = np.linalg.solve(normal + damping * np.eye(len(logs)), -slope.T @ at)
            there = residuals(logs + move)
            if there @ there < at @ at:
                logs, at, damping = logs + move, there, damping / 3
            else:
                damping *= 5
    finally:
        put(dict(zip(CONSTANTS, start, strict=True)))
    return {name: float(value) for name, value in zip(CONSTANTS, start * np.exp(logs), strict=True)}


def put(values: Mapping[str, float]) -> None:
    """Have the module reckon with these."""
    for name, value in values.items():
        setattr(activations, name, value)


def report(found: Mapping[str, Any], rows: Sequence[Mapping[str, Any]], values: Mapping[str, float]) -> list[str]:
    """The constants, every row's error, and the verdict on those that were held out."""
    said = ["", *(text_of(name, value) for name, value in values.items()), ""]
    errors: dict[str, list[float]] = {}
    for row in sorted(rows, key=lambda row: str(row["use"])):
        plan = plan_of(found, row)
        error = ratio(plan, row, "train") - 1
        errors.setdefault(row["use"], []).append(error)
        said.append(f"{row['use']:<9} {peak(row, 'train'):6.2f} GiB  {error:+6.1%}  {of_step(plan)}")
    return [*said, "", *(line for use, found_errors in errors.items() for line in verdict(use, found_errors))]


def verdict(use: str, errors: Sequence[float]) -> list[str]:
    farthest, median = max(map(abs, errors)), statistics.median(map(abs, errors))
    lowest = min(errors)
    holds = farthest <= FARTHEST and median <= MEDIAN and lowest >= LOWEST
    return [
        f"{use}: {len(errors)} rows, at most {farthest:.1%} off, {median:.1%} at the median, lowest {lowest:+.1%}: "
        f"the bounds {'hold' if holds else 'DO NOT hold'}"
    ]


def text_of(name: str, value: float) -> str:
    """The constant's line in the module."""
    return f"{name} = {value / _MIB:.1f} * (1 << 20)" if name.endswith("_SLACK") else f"{name} = {value:.3f}"


def write(values: Mapping[str, float]) -> None:
    path = Path(activations.__file__)
    text = path.read_text(encoding="utf-8")
    for name, value in values.items():
        text, count = re.subn(rf"^{name} = .*$", text_of(name, value), text, flags=re.MULTILINE)
        if count != 1:
            raise SystemExit(f"{path} has no single line for {name}")
    path.write_text(text, encoding="utf-8")
    print(f"\nwritten to {path}: run tests/machine, then tests/machine/estimate_table.py for docs/performance.md")


if __name__ == "__main__":
    main()
