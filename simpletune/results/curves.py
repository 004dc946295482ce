"""The numbers of a run as curves: what plots and reports draw."""

from __future__ import annotations

import json
from collections.abc import Iterable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

LINE_KINDS = (STEP, VALIDATION) = ("step", "validation")
_NAMES = ("loss", "learning_rate", "grad_norm", "validation_loss")


@dataclass(frozen=True)
class Curve:
    """steps (N,) and values (N,), float64, by rising step; a value is NaN where the run's was not finite."""

    steps: np.ndarray[Any, Any]
    values: np.ndarray[Any, Any]


def read_curves(metrics_path: Path) -> dict[str, Curve]:
    """The curves of a metrics.jsonl by name; an absent quantity is an empty curve. Half-written lines are left out."""
    lines = metric_lines(metrics_path) if metrics_path.exists() else []
    return {name: _curve(lines, name) for name in _NAMES}


def smoothing_span(count: int) -> int:
    """Over how many steps to smooth a curve of `count`: a twentieth, but 10 to 200."""
    return max(10, min(200, count // 20))


def smooth(values: np.ndarray[Any, Any], span: int) -> np.ndarray[Any, Any]:
    """Exponential moving average without the bias towards its start; NaN takes no part and stays NaN.

    values: (N,). The weight of a value falls to 1/e^2 after `span` steps, as pandas' ewm(span) has it.
    """
    keep = 1 - 2 / (span + 1)
    total, weight = 0.0, 0.0
    smoothed = np.full(len(values), np.nan)
    for index, value in enumerate(values):
        if np.isfinite(value):
            total, weight = keep * total + value, keep * weight + 1
            smoothed[index] = total / weight
    return smoothed


def _curve(lines: Iterable[dict[str, Any]], name: str) -> Curve:
    points = [(line["step"], line[name]) for line in lines if name in line]
    steps = np.array([step for step, _ in points], dtype=np.float64)
    values = np.array([np.nan if value is None else value for _, value in points], dtype=np.float64)
    return Curve(steps, values)


def metric_lines(path: Path) -> list[dict[str, Any]]:
    """Every whole line of a metrics.jsonl, oldest first; a process killed while writing may leave half a line.

    `trainer/metrics.py`, which writes them, says what they hold.
    """
    lines = []
    for text in path.read_text(encoding="utf-8", errors="replace").split("\n"):
        try:
            line = json.loads(text)
        except ValueError:
            continue
        if isinstance(line, dict) and line.get("kind") in LINE_KINDS and isinstance(line.get("step"), int):
            lines.append(line)
    return lines
