"""An evaluation as lines for a terminal: 80 columns, no colour, the same when piped."""

from __future__ import annotations

import textwrap
from collections.abc import Iterator

from simpletune.evaluate.results import BASE, Evaluation, Measured, Metric

_WIDTH = 80
_NAME = 20
_ARROWS = {"higher": "higher is better", "lower": "lower is better", "neither": "neither is better"}
_GROUPS = {
    "adherence": "Does it still follow prompts?",
    "likeness": "Is it like the training pictures?",
    "diversity": "Does it still draw different pictures?",
    "memorization": "Does it copy training pictures?",
    "loss": "How well does it know pictures it never saw?",
    "ceiling": "What is lost to the VAE alone?",
}


def lines(evaluation: Evaluation) -> list[str]:
    """All of it: the metrics, what was left out, warnings, possible copies, the best."""
    return [
        *_head(evaluation),
        *_metrics(evaluation),
        *_copies(evaluation),
        *_features(evaluation),
        *(_wrapped(f"left out: {left.metric}: {left.reason}", "  ") for left in evaluation.left_out),
        *(_wrapped(f"mind: {warning}", "  ") for warning in evaluation.warnings),
        "",
        *_best(evaluation),
    ]


def _head(evaluation: Evaluation) -> Iterator[str]:
    sampling = evaluation.sampling
    sizes = ", ".join(f"{width}x{height}" for width, height in sampling.sizes)
    yield _wrapped(
        f"{_count(evaluation.pictures, 'picture')} of each variant ({_count(len(sampling.prompts), 'prompt')} x "
        f"{_count(len(sampling.seeds), 'seed')}, {sizes}, {sampling.steps} steps, guidance {sampling.guidance:g}); "
        f"{_count(evaluation.training_pictures, 'training picture')}, {evaluation.held_out_pictures} held out"
    )
    yield _wrapped("[low, high]: 95% intervals, n as stated; the last columns: the difference to the base, * if clear")


def _metrics(evaluation: Evaluation) -> Iterator[str]:
    group = ""
    for metric in evaluation.metrics:
        if metric.group != group:
            group = metric.group
            yield ""
            yield _GROUPS.get(group, group).upper()
        yield from _metric(metric)
        if metric.name == "held_out_loss":
            yield from _sigmas(evaluation)


def _metric(metric: Metric) -> Iterator[str]:
    unit = f" in {metric.unit}" if metric.unit else ""
    n = sorted({measured.n for measured in metric.values.values()} or {metric.ceiling.n if metric.ceiling else 0})
    of = f" ({metric.measured_on})" if metric.group in ("loss", "ceiling") else ""
    yield _cut(f"{metric.title}{unit}, {_ARROWS[metric.better]}, n = {', '.join(map(str, n))}{of}")
    digits = _digits(metric)
    for name, measured in metric.values.items():
        yield _row(name, measured, digits)
    if metric.ceiling is not None:
        yield _row(f"(real, VAE, n = {metric.ceiling.n})", metric.ceiling, digits)


def _digits(metric: Metric) -> int:
    """Decimals for all of a metric's rows: fewer where its numbers have more digits before the point."""
    every = [*metric.values.values(), *([metric.ceiling] if metric.ceiling is not None else [])]
    bounds = [
        abs(bound)
        for measured in every
        for bound in (measured.value, measured.low, measured.high, measured.difference_low, measured.difference_high)
        if bound is not None
    ]
    return max(0, metric.digits - len(str(int(max(bounds, default=0)))) + 1)


def _row(name: str, measured: Measured, digits: int) -> str:
    value = f"{measured.value:.{digits}f}"
    own = _interval(measured.low, measured.high, digits)
    row = f"  {_short(name):<{_NAME}} {value:>8} {own:<18}"
    if measured.difference is not None:
        between = _interval(measured.difference_low, measured.difference_high, digits, "+")
        row += f" {measured.difference:>+7.{digits}f} {between}{'*' if measured.differs else ''}"
    return row.rstrip()


def _interval(low: float | None, high: float | None, digits: int, sign: str = "") -> str:
    return "" if low is None or high is None else f"[{low:{sign}.{digits}f}, {high:{sign}.{digits}f}]"


def _sigmas(evaluation: Evaluation) -> Iterator[str]:
    """The held-out loss by noise level, a column a level."""
    if not evaluation.loss_by_sigma:
        return
    yield "  by sigma".ljust(_NAME + 3) + "".join(f"{level.sigma:>7.2f}" for level in evaluation.loss_by_sigma)
    for variant in evaluation.variants:
        values = "".join(f"{level.values[variant.name].value:>7.3f}" for level in evaluation.loss_by_sigma)
        yield f"  {_short(variant.name):<{_NAME}} {values}"


def _features(evaluation: Evaluation) -> Iterator[str]:
    for use in evaluation.features:
        counted = f"{use.computed} computed, {use.from_cache} from the cache"
        yield _wrapped(f"{use.name}: {counted}; {use.model}", "  ")


def _copies(evaluation: Evaluation) -> Iterator[str]:
    yield ""
    if not evaluation.flagged:
        return
    tuned = [pair for pair in evaluation.flagged if pair.variant != BASE]
    base = len(evaluation.flagged) - len(tuned)
    yield _wrapped(f"Possible copies of training pictures: {len(tuned)} of adapters, {base} of the base itself")
    for pair in (tuned or evaluation.flagged)[:5]:
        yield _cut(f"  {pair.distance:.4f} {pair.picture} ~ {pair.training}")
    if len(tuned) > 5:
        yield f"  and {len(tuned) - 5} more, in evaluation.json"


def _best(evaluation: Evaluation) -> Iterator[str]:
    best = evaluation.best
    yield _wrapped(f"Best: {best.variant or 'none of them'} ({best.reason})")
    yield _wrapped(f"Rule: {best.rule}")


def _count(count: int, what: str) -> str:
    return f"{count:,} {what}{'s' * (count != 1)}"


def _short(name: str) -> str:
    return name if len(name) <= _NAME else name[: _NAME - 3] + "..."


def _cut(text: str) -> str:
    return text if len(text) <= _WIDTH else text[: _WIDTH - 3] + "..."


def _wrapped(text: str, indent: str = "") -> str:
    return "\n".join(textwrap.wrap(text, _WIDTH, subsequent_indent=indent, break_on_hyphens=False))
