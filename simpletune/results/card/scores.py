"""How good the adapter is: what `simpletune evaluate` found of this very adapter, else the held-out loss."""

from __future__ import annotations

import math

from simpletune import files
from simpletune.evaluate.results import BASE, Evaluation, Measured, Metric, Variant
from simpletune.results.card.facts import Facts
from simpletune.results.card.text import counted, plain, table

_ARROWS = {"higher": "higher is better", "lower": "lower is better", "neither": ""}
_LEVELS = 8


def scores(facts: Facts) -> str:
    """The section's text."""
    evaluation = facts.evaluation
    variant = _of_this_adapter(facts, evaluation) if evaluation is not None else None
    if evaluation is None or variant is None:
        loss = _held_out_loss(facts)
        return loss or "Nothing was measured: judge by the pictures."
    return "\n\n".join(part for part in (_metrics(evaluation, variant), *_remarks(evaluation, variant)) if part)


def _of_this_adapter(facts: Facts, evaluation: Evaluation) -> Variant | None:
    """The variant that was measured with the final adapter's very file; an evaluation of older weights says nothing."""
    digest = files.sha256(facts.adapter.path)
    return next((variant for variant in evaluation.variants if variant.adapter_sha256 == digest), None)


def _metrics(evaluation: Evaluation, variant: Variant) -> str:
    rows = []
    for metric in evaluation.metrics:
        measured = metric.values.get(variant.name)
        if measured is not None:
            base = metric.values.get(BASE)
            title = plain(metric.title) + (f" ({_ARROWS[metric.better]})" if _ARROWS[metric.better] else "")
            cells = (_shown(metric, base), _shown(metric, measured), _difference(metric, measured), str(measured.n))
            rows.append((title, *cells))
    return table(("metric", "base", "with this LoRA", "difference", "n"), rows) if rows else ""


def _shown(metric: Metric, measured: Measured | None) -> str:
    if measured is None:
        return "–"
    value = f"{measured.value:.{metric.digits}f}{plain(metric.unit)}"
    if measured.low is None or measured.high is None:
        return value
    return f"{value} ({measured.low:.{metric.digits}f} to {measured.high:.{metric.digits}f})"


def _difference(metric: Metric, measured: Measured) -> str:
    if measured.difference is None:
        return "–"
    value = f"{measured.difference:+.{metric.digits}f}"
    if measured.difference_low is None or measured.difference_high is None:
        return value
    bounds = f"({measured.difference_low:+.{metric.digits}f} to {measured.difference_high:+.{metric.digits}f})"
    return f"**{value}** {bounds}" if measured.differs else f"{value} {bounds}"


def _remarks(evaluation: Evaluation, variant: Variant) -> list[str]:
    how, sampling = evaluation.intervals, evaluation.sampling
    remarks = [
        f"In brackets: {100 * how.level:g}% intervals ({plain(how.method)}, {how.resamples:,} resamples); bold: the "
        f"interval leaves zero out. {counted(evaluation.pictures, 'picture')} of each, of "
        f"{counted(len(sampling.prompts), 'prompt')} and {counted(len(sampling.seeds), 'seed')}, in {sampling.steps} "
        f"steps with guidance {sampling.guidance:g}; {counted(evaluation.training_pictures, 'training picture')}."
    ]
    flagged = sum(pair.variant == variant.name for pair in evaluation.flagged)
    if flagged:
        remarks.append(
            f"**{counted(flagged, 'picture')} came out nearer to a training picture than training pictures are to "
            "each other**: the adapter may have learned some of them by heart."
        )
    return [*remarks, *(plain(warning) for warning in evaluation.warnings)]


def _held_out_loss(facts: Facts) -> str | None:
    """The loss on pictures that were never trained on, at the final step and before the first one."""
    curve, count = facts.run.numbers["validation_loss"], len(facts.run.held_out)
    points = {
        int(step): float(value) for step, value in zip(curve.steps, curve.values, strict=True) if math.isfinite(value)
    }
    last = facts.adapter.steps
    if last is None or last not in points:
        return None
    before = f" (before training {points[0]:.4f})" if 0 in points and last else ""
    return (
        f"Loss on {counted(count, 'held-out picture')}, never trained on, at {_LEVELS} fixed noise levels each: "
        f"**{points[last]:.4f}**{before}. One number without an interval; `simpletune evaluate` measures more."
    )
