"""An evaluation as the report shows it: every number with its interval, and what it comes to in words."""

from __future__ import annotations

from pathlib import Path

import numpy as np

from simpletune.data.preflight_lines import count
from simpletune.evaluate.results import FILE, FOLDER, Evaluation, FlaggedPair, Measured, Metric, load
from simpletune.results.charts import POINTS, SIGMA, Chart, Line
from simpletune.results.curves import Curve
from simpletune.results.report.measures import MeasureGroup, MeasureRow, Measures, Pair, Value
from simpletune.results.report.run import Run

_GROUPS = {
    "adherence": "Adherence to the prompt",
    "likeness": "Likeness to the training pictures",
    "diversity": "Diversity",
    "memorization": "Memorization",
    "loss": "Loss on held-out pictures",
    "ceiling": "What the VAE allows",
}
_PAIRS = 24
_ARROWS = {"higher": "higher is better", "lower": "lower is better", "neither": ""}


def measures_of(run: Run) -> Measures | None:
    """What `simpletune evaluate` found of the run; None where it hasn't been asked. Raises UsageError for a damaged
    evaluation.json."""
    found = load(run.folder)
    if found is None:
        return None
    place = run.folder if (run.folder / FILE).is_file() else run.folder / FOLDER
    return Measures(
        columns=tuple(variant.title for variant in found.variants),
        groups=tuple(
            group for name in dict.fromkeys([*_GROUPS, *_others(found)]) if (group := _group(found, name)).rows
        ),
        summary=_summary(found),
        notes=_notes(found),
        charts=_charts(found),
        flagged=tuple(_pair(found, pair, place, run) for pair in found.flagged[:_PAIRS]),
        flagged_more=max(0, len(found.flagged) - _PAIRS),
    )


def _others(found: Evaluation) -> list[str]:
    return [metric.group for metric in found.metrics]


def _group(found: Evaluation, name: str) -> MeasureGroup:
    rows = tuple(_row(found, metric) for metric in found.metrics if metric.group == name)
    return MeasureGroup(_GROUPS.get(name, name), rows)


def _row(found: Evaluation, metric: Metric) -> MeasureRow:
    values = tuple(_value(metric, metric.values.get(variant.name)) for variant in found.variants)
    title = f"{metric.title}, {metric.unit}" if metric.unit else metric.title
    ceiling = "" if metric.ceiling is None else f"through the VAE alone: {_text(metric, metric.ceiling.value)}"
    parts = (_ARROWS[metric.better], metric.about, metric.measured_on, ceiling)
    return MeasureRow(title, " ".join(f"{part[0].upper()}{part[1:].rstrip('.')}." for part in parts if part), values)


def _value(metric: Metric, measured: Measured | None) -> Value:
    if measured is None:
        return Value("–")
    interval = f"n = {measured.n:,}"
    if measured.low is not None and measured.high is not None:
        interval = f"{_text(metric, measured.low)} to {_text(metric, measured.high)}, {interval}"
    return Value(_text(metric, measured.value), interval, _difference(metric, measured), _good(metric, measured))


def _difference(metric: Metric, measured: Measured) -> str:
    if measured.difference is None:
        return ""
    said = f"{measured.difference:+.{metric.digits}f} to the base"
    if measured.difference_low is None or measured.difference_high is None:
        return said
    between = f"{measured.difference_low:+.{metric.digits}f} to {measured.difference_high:+.{metric.digits}f}"
    return f"{said} ({between})"


def _good(metric: Metric, measured: Measured) -> bool | None:
    if metric.better == "neither" or not measured.differs or measured.difference is None:
        return None
    return (measured.difference > 0) == (metric.better == "higher")


def _text(metric: Metric, value: float) -> str:
    return f"{value:.{metric.digits}f}"


def _summary(found: Evaluation) -> tuple[str, ...]:
    titles = {variant.name: variant.title for variant in found.variants}
    chosen = "None is recommended" if found.best.variant is None else f"Best: {titles.get(found.best.variant, '?')}"
    sampling = found.sampling
    what = f"{count(len(sampling.prompts), 'prompt')}, {count(len(sampling.seeds), 'seed')}"
    how = f"{sampling.steps} steps, guidance {sampling.guidance:g}"
    trained_on = count(found.training_pictures, "training picture")
    asked = f"{count(found.pictures, 'picture')} of each: {what}, {how}; {trained_on}."
    return f"{chosen}. {found.best.reason}", f"The rule: {found.best.rule}", asked


def _notes(found: Evaluation) -> tuple[str, ...]:
    left_out = (f"Left out: {one.metric}, as {one.reason} ({one.remedy})." for one in found.left_out)
    made = found.intervals
    how = f"Intervals: {made.level:.0%}, {made.method}, {made.resamples:,} resamples."
    return (*found.warnings, *left_out, how)


def _charts(found: Evaluation) -> tuple[Chart, ...]:
    """The held-out loss over sigma, a line for each set of weights."""
    if not found.loss_by_sigma:
        return ()
    lines = []
    for index, variant in enumerate(found.variants):
        points = [
            (one.sigma, one.values[variant.name].value) for one in found.loss_by_sigma if variant.name in one.values
        ]
        sigmas, losses = np.array(points, dtype=np.float64).reshape(-1, 2).T
        lines.append(Line(variant.title, Curve(sigmas, losses), POINTS, index))
    said = f"for {', '.join(line.label for line in lines)} at {len(found.loss_by_sigma)} noise levels"
    return (Chart("held-out-by-sigma", "Held-out loss by noise level", tuple(lines), across=SIGMA, said=said),)


def _pair(found: Evaluation, pair: FlaggedPair, place: Path, run: Run) -> Pair:
    title = next((variant.title for variant in found.variants if variant.name == pair.variant), pair.variant)
    folder = run.folders.get(pair.data_set)
    usual = f"{pair.threshold:.3g} and less is nearer than training pictures are to each other"
    said = f"distance {pair.distance:.3g}; {usual}"
    trained_on = None if folder is None else folder / pair.training
    return Pair(place / pair.picture, title, trained_on, f"{pair.data_set}: {pair.training}", said)
