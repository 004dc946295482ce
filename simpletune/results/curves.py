"""The numbers of a run as curves: what plots and reports draw."""

from __future__ import annotations

import math
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from simpletune import outside
from simpletune.progress.smoothing import Smoothed

LINE_KINDS = (STEP, VALIDATION) = ("step", "validation")
_NAMES = (
    "loss",
    "learning_rate",
    "grad_norm",
    "validation_loss",
    "validation_loss_ema",
    "samples_per_second",
    "data_wait",
    "memory_gib",
)


@dataclass(frozen=True)
class Curve:
    """steps (N,) and values (N,), float64, by rising step; a value is NaN where the run's was not finite."""

    steps: np.ndarray[Any, Any]
    values: np.ndarray[Any, Any]


@dataclass(frozen=True)
class SigmaLosses:
    """Every sample that was trained on: step, sigma and its own loss, each (N,) float64. Without `known`, losses of
    single samples weren't written, and `losses` is NaN."""

    steps: np.ndarray[Any, Any]
    sigmas: np.ndarray[Any, Any]
    losses: np.ndarray[Any, Any]

    @property
    def known(self) -> bool:
        return bool(np.isfinite(self.losses).any())


@dataclass(frozen=True)
class FailedStep:
    """A step that ended a run, as its loss or gradient was not finite; samples: what its line says of each of its
    pictures (trainer/nonfinite.py writes it)."""

    step: int
    loss_is_finite: bool
    samples: tuple[Mapping[str, Any], ...]


@dataclass(frozen=True)
class RunCurves:
    """All that a metrics.jsonl says: curves by name, the samples with their sigmas, and steps that ended a run."""

    curves: Mapping[str, Curve]
    samples: SigmaLosses
    failed: tuple[FailedStep, ...]

    def __getitem__(self, name: str) -> Curve:
        return self.curves[name]

    @property
    def last_step(self) -> int:
        """The last step there is a line of, 0 for none."""
        return int(max((curve.steps[-1] for curve in self.curves.values() if len(curve.steps)), default=0))


def read_run(metrics_path: Path) -> RunCurves:
    """A run's numbers; an absent file is a run without steps."""
    try:
        lines = metric_lines(metrics_path)
    except OSError:
        lines = []
    return RunCurves({name: _curve(lines, name) for name in _NAMES}, _samples(lines), tuple(_failed(lines)))


def read_curves(metrics_path: Path) -> dict[str, Curve]:
    """The curves of a metrics.jsonl by name; an absent quantity is an empty curve. Half-written lines are left out."""
    return dict(read_run(metrics_path).curves)


def smooth(values: np.ndarray[Any, Any], span: int) -> np.ndarray[Any, Any]:
    """values (N,) -> (N,): each one's average with those before it (`Smoothed`); NaN takes no part and stays NaN."""
    average = Smoothed(span)
    smoothed = np.full(len(values), np.nan)
    for index, value in enumerate(values.tolist()):
        average.add(value)
        if math.isfinite(value):
            smoothed[index] = average.value
    return smoothed


def _curve(lines: Iterable[dict[str, Any]], name: str) -> Curve:
    points = [(line["step"], _number(line[name])) for line in lines if name in line]
    steps = np.array([step for step, _ in points], dtype=np.float64)
    return Curve(steps, np.array([value for _, value in points], dtype=np.float64))


def _samples(lines: Iterable[dict[str, Any]]) -> SigmaLosses:
    """Lines of older versions have no sample_loss; of a single sample, the step's loss is its own."""
    found: list[tuple[int, float, float]] = []
    for line in lines:
        sigmas = line.get("sigma")
        if not isinstance(sigmas, list):
            continue
        losses = line.get("sample_loss")
        if not isinstance(losses, list) or len(losses) != len(sigmas):
            losses = [line.get("loss")] if len(sigmas) == 1 else [None] * len(sigmas)
        step = line["step"]
        found += [(step, _number(sigma), _number(loss)) for sigma, loss in zip(sigmas, losses, strict=True)]
    steps, sigmas, losses = np.array(found, dtype=np.float64).reshape(-1, 3).T
    return SigmaLosses(steps, sigmas, losses)


def _failed(lines: Iterable[dict[str, Any]]) -> Iterator[FailedStep]:
    for line in lines:
        if isinstance(found := line.get("failed"), list):
            samples = tuple(one for one in found if isinstance(one, dict))
            yield FailedStep(line["step"], math.isfinite(_number(line.get("loss"))), samples)


def _number(value: Any) -> float:
    """What isn't a number counts as one that isn't finite, so that one odd line doesn't cost the page."""
    return float(value) if isinstance(value, int | float) else np.nan


def metric_lines(path: Path) -> list[dict[str, Any]]:
    """Every whole line of a metrics.jsonl, oldest first; a process killed while writing may leave half a line.

    `trainer/metrics.py`, which writes them, says what they hold.
    """
    lines = []
    for text in path.read_text(encoding="utf-8", errors="replace").split("\n"):
        try:
            line = outside.parse_json(text)
        except ValueError:
            continue
        if isinstance(line, dict) and line.get("kind") in LINE_KINDS and isinstance(line.get("step"), int):
            lines.append(line)
    return lines
