"""What came of a sweep's runs: a row each, as CSV for other programs and as text for people."""

from __future__ import annotations

import csv
import io
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from simpletune import files
from simpletune.errors import UsageError
from simpletune.evaluate.results import BASE, Evaluation
from simpletune.evaluate.results import load as load_evaluation
from simpletune.progress.words import byte_size, duration
from simpletune.redact import redact
from simpletune.results.curves import read_run
from simpletune.results.run_folder import ADAPTER_FILE, METRICS_FILE
from simpletune.sweep.plan import Planned
from simpletune.sweep.record import Record

FILE = "sweep.csv"
_LAST = 0.1  # of a run's steps: their mean loss is the run's
_METRICS = 2  # in the table for people; the file has all

Number = float | int | None


@dataclass(frozen=True)
class Row:
    """A run that is done. `figures`: by name, bounds of 95% intervals as NAME_low and NAME_high; None where the run
    has none. `titles` of the metrics, by their names."""

    name: str
    values: Mapping[str, str]
    figures: Mapping[str, Number]
    titles: Mapping[str, str]


def rows(planned: Sequence[Planned], record: Record) -> list[Row]:
    """A row for each run that is trained."""
    return [_row(run, record) for run in planned if record.is_trained(run)]


def write(folder: Path, found: Sequence[Row]) -> Path:
    """Write `folder`/sweep.csv: axes, figures and the run's folder."""
    axes = list(found[0].values) if found else []
    names = list(dict.fromkeys(name for row in found for name in row.figures))
    text = io.StringIO()
    writer = csv.writer(text, lineterminator="\n")
    writer.writerow([*axes, *names, "folder"])
    for row in found:
        figures = [row.figures.get(name) for name in names]
        writer.writerow([*row.values.values(), *("" if one is None else one for one in figures), row.name])
    path = folder / FILE
    files.write_text(path, redact(text.getvalue()))
    return path


def lines(found: Sequence[Row]) -> list[str]:
    """For people: a table of losses, sizes and times, and of an evaluation's first metrics with their intervals."""
    if not found:
        return []
    held_out = any(row.figures.get("validation_loss") is not None for row in found)
    head = [*found[0].values, "loss", *(["held-out"] if held_out else []), "adapter", "time"]
    axes = len(found[0].values)
    told = _table([head, *([*row.values.values(), *_plain(row.figures, held_out)] for row in found)], axes)
    titles: dict[str, str] = {}
    for row in found:
        titles |= row.titles
    metrics = list(titles)[:_METRICS]
    if not metrics:
        return told
    letters = dict(zip(metrics, "abcdefgh", strict=False))
    head = [*found[0].values, *letters.values()]
    body = ([*row.values.values(), *(_with_interval(row.figures, name) for name in metrics)] for row in found)
    legend = (f"{letter}: {titles[name]}" for name, letter in letters.items())
    return [*told, "", *_table([head, *body], axes), *legend]


def _plain(figures: Mapping[str, Number], held_out: bool) -> list[str]:
    size, seconds = figures.get("adapter_bytes"), figures.get("seconds")
    return [
        _number(figures.get("loss"), 4),
        *([_number(figures.get("validation_loss"), 4)] if held_out else []),
        "-" if size is None else byte_size(size),
        "-" if seconds is None else duration(seconds),
    ]


def _table(cells: Sequence[Sequence[str]], left: int) -> list[str]:
    """Columns side by side, the first `left` to the left and figures to the right."""
    widths = [max(len(row[index]) for row in cells) for index in range(len(cells[0]))]
    return ["  ".join(_aligned(row, widths, left)).rstrip() for row in cells]


def _aligned(cells: Sequence[str], widths: Sequence[int], axes: int) -> list[str]:
    pairs = zip(cells, widths, strict=True)
    return [cell.ljust(width) if index < axes else cell.rjust(width) for index, (cell, width) in enumerate(pairs)]


def _row(run: Planned, record: Record) -> Row:
    curves = read_run(run.folder / METRICS_FILE)
    losses = curves["loss"].values
    held_out = curves["validation_loss"].values
    adapter = run.folder / ADAPTER_FILE
    figures: dict[str, Number] = {
        "steps": curves.last_step,
        "loss": _mean(losses[-max(1, round(_LAST * len(losses))) :]),
        "validation_loss": _mean(held_out[-1:]),
        "seconds": record.seconds(run),
        "adapter_bytes": adapter.stat().st_size if adapter.is_file() else None,
    }
    try:
        evaluation = load_evaluation(run.folder)
    except UsageError:
        evaluation = None  # the next `evaluate` writes it anew
    if evaluation is None:
        return Row(run.name, run.values, figures, {})
    measured, titles = _measured(evaluation)
    return Row(run.name, run.values, {**figures, **measured}, titles)


def _measured(evaluation: Evaluation) -> tuple[dict[str, Number], dict[str, str]]:
    """The metrics of the adapter that was trained longest, and of the base beside it."""
    tuned = [variant for variant in evaluation.variants if variant.name != BASE]
    if not tuned:
        return {}, {}
    last = max(tuned, key=lambda variant: variant.steps or 0)
    figures: dict[str, Number] = {}
    titles = {}
    for metric in evaluation.metrics:
        for variant, prefix in ((last.name, ""), (BASE, "base_")):
            if (value := metric.values.get(variant)) is not None:
                name = f"{prefix}{metric.name}"
                figures |= {name: value.value, f"{name}_low": value.low, f"{name}_high": value.high}
        if last.name in metric.values:
            titles[metric.name] = metric.title
    return figures, titles


def _mean(values: np.ndarray[Any, Any]) -> float | None:
    finite = values[np.isfinite(values)]
    return float(finite.mean()) if len(finite) else None


def _number(value: Number, digits: int) -> str:
    return "-" if value is None else f"{value:.{digits}f}"


def _with_interval(figures: Mapping[str, Number], name: str) -> str:
    value, low, high = (figures.get(f"{name}{end}") for end in ("", "_low", "_high"))
    if value is None:
        return "-"
    return f"{value:.3f}" if low is None or high is None else f"{value:.3f} ({low:.3f} to {high:.3f})"
