"""metrics.jsonl: one JSON line for every step, and one for every validation, in order, readable while it is written.

A step's line: {"kind": "step", "step": 12, "epoch": 0, "loss": 0.21, ...}; a validation's: {"kind": "validation",
"step": 250, "validation_loss": 0.19}. A number that is not finite is null, and "non_finite" names it and what it was:
strict JSON has no NaN. `step` counts finished optimizer steps, so it begins at 1.
"""

from __future__ import annotations

import json
import math
import os
from collections.abc import Callable, Iterable, Mapping
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path
from types import TracebackType
from typing import Any

from simpletune import files
from simpletune.errors import TrainingFailed
from simpletune.results.curves import STEP, VALIDATION, metric_lines


@dataclass(frozen=True)
class Metrics:
    """The lines of a run, oldest first; each has unique, rising `step`s. Null stands for a non-finite number."""

    steps: tuple[dict[str, Any], ...]
    validations: tuple[dict[str, Any], ...]


class MetricsWriter:
    """Appends lines, each written at once, so that a killed process loses none.

    A disk that is full stops no training before something must be saved: lines wait until it takes them, or until
    `flush`, which can't do without.
    """

    def __init__(self, path: Path, resumed_step: int = 0, warn: Callable[[str], None] = lambda _: None) -> None:
        """Go on after `resumed_step` finished steps: lines of later steps, which will be taken again, are dropped."""
        self._path = path
        self._last = {STEP: 0, VALIDATION: -1}
        if path.exists():
            self._keep(line for line in metric_lines(path) if 0 < resumed_step >= line["step"])
        # Appending is the one thing the atomic writer can't do; a torn last line is dropped by whoever reads.
        self._file = path.open("ab", buffering=0)
        self._warn = warn
        self._waiting = bytearray()
        self._told = False

    def write_step(self, step: int, values: Mapping[str, Any]) -> None:
        """The line of finished step `step`; values are JSON-able numbers, strings and lists. Steps must rise."""
        self._write(STEP, step, values)

    def write_validation(self, step: int, values: Mapping[str, Any]) -> None:
        """The line of a validation after `step` finished steps (0: before the first)."""
        self._write(VALIDATION, step, values)

    @property
    def last_validation(self) -> int:
        """The step of the last validation line, -1 before the first."""
        return self._last[VALIDATION]

    def flush(self) -> None:
        """Give the system the lines that wait. Raises TrainingFailed when it doesn't take them."""
        try:
            self._flush()
        except OSError as error:
            raise self._refused(error) from error

    def sync(self) -> None:
        """Wait until the disk has every line that the system was given: for a checkpoint, which these lines must not be
        older than. Any thread may do this while another writes. Raises TrainingFailed when the disk refuses.
        """
        try:
            os.fsync(self._file.fileno())
        except OSError as error:
            raise self._refused(error) from error

    def _refused(self, error: OSError) -> TrainingFailed:
        return TrainingFailed(
            f"{self._path} can't be written: {error.strerror or error}",
            "make room on that disk, or mend what it says; then run the same command again: it goes on from the "
            "last checkpoint, which is intact",
        )

    def close(self) -> None:
        """Lines that the disk doesn't take even now are lost, which `flush` would have said before a checkpoint."""
        with suppress(OSError):
            self._flush()
        self._file.close()

    def __enter__(self) -> MetricsWriter:
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, at: TracebackType | None) -> None:
        self.close()

    def _write(self, kind: str, step: int, values: Mapping[str, Any]) -> None:
        if step <= self._last[kind]:
            raise ValueError(f"metrics of {kind} {step} after those of {self._last[kind]}")
        self._last[kind] = step
        self._waiting += _encoded({"kind": kind, "step": step, **values}).encode()
        try:
            self._flush()
            self._told = False
        except OSError as error:
            if not self._told:
                self._warn(f"{self._path} can't be written for now ({error.strerror or error}): its lines wait")
            self._told = True

    def _flush(self) -> None:
        """A write that was cut short goes on where it ended, so that no line is torn or written twice."""
        while self._waiting:
            del self._waiting[: self._file.write(self._waiting)]

    def _keep(self, lines: Iterable[dict[str, Any]]) -> None:
        kept = list(lines)
        for line in kept:
            self._last[line["kind"]] = line["step"]
        files.write_text(self._path, "".join(json.dumps(line, allow_nan=False) + "\n" for line in kept))


def read_metrics(path: Path) -> Metrics:
    """All complete lines of a metrics.jsonl, of a finished run or one still going."""
    lines = metric_lines(path)
    return Metrics(
        steps=tuple(line for line in lines if line["kind"] == STEP),
        validations=tuple(line for line in lines if line["kind"] == VALIDATION),
    )


def _encoded(line: dict[str, Any]) -> str:
    non_finite = {key: str(v) for key, v in line.items() if isinstance(v, float) and not math.isfinite(v)}
    plain = {key: _without_non_finite(value) for key, value in line.items()}
    if non_finite:
        plain["non_finite"] = non_finite
    return json.dumps(plain, allow_nan=False) + "\n"


def _without_non_finite(value: Any) -> Any:
    if isinstance(value, float):
        return value if math.isfinite(value) else None
    if isinstance(value, (list, tuple)):
        return [_without_non_finite(item) for item in value]
    return value
