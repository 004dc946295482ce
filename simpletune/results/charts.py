"""The plots of one run, or of several over each other, as values: what `plots.py` draws into files and a page draws
itself."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

import numpy as np

from simpletune.progress.smoothing import smoothing_span
from simpletune.results.curves import Curve, RunCurves, SigmaLosses, smooth

RAW, LINE, POINTS = "raw", "line", "points"
STEP, SIGMA = "step", "sigma"
SIGMA_BANDS = 4
SIGMA_BARS = 25
SPREAD_FOR_LOG = 30  # times the median: a gradient norm beyond that makes its axis logarithmic
_OUTLIER = 1.5  # times the 99th percentile: higher points don't set a scale
_FEWEST_A_BAND = 3
_NO_STEPS = Curve(np.empty(0), np.empty(0))


@dataclass(frozen=True)
class Line:
    """One curve of a chart. `look`: RAW is every value, drawn faintly; LINE is drawn clearly; POINTS has a mark at each
    value. Lines that mean different things differ in `colour`, a place in a palette."""

    label: str
    curve: Curve
    look: str = LINE
    colour: int = 0


@dataclass(frozen=True)
class Bars:
    """A histogram: counts (N,) between edges (N + 1,)."""

    edges: np.ndarray[Any, Any]
    counts: np.ndarray[Any, Any]


@dataclass(frozen=True)
class Chart:
    """`name` is fit for a file. `said` is what the chart shows, in words. `bad` are steps whose value isn't finite.
    `top` cuts the axis where a few values are far above the others; `zero` begins it at 0."""

    name: str
    title: str
    lines: tuple[Line, ...] = ()
    bars: Bars | None = None
    unit: str = ""
    across: str = STEP
    zero: bool = True
    log: bool = False
    top: float | None = None
    bad: np.ndarray[Any, Any] = field(default_factory=lambda: np.empty(0))
    notes: tuple[str, ...] = ()
    said: str = ""

    @property
    def empty(self) -> bool:
        return self.bars is None and not any(np.isfinite(line.curve.values).any() for line in self.lines)


def run_charts(run: RunCurves) -> tuple[Chart, ...]:
    """Every chart of one run, in the order to look at them. Those of quantities it has no numbers of are empty."""
    return (
        loss_chart(run),
        sigma_loss_chart(run.samples),
        rate_chart(run["learning_rate"]),
        norm_chart(run["grad_norm"]),
        throughput_chart(run),
        memory_chart(run["memory_gib"]),
        sigma_chart(run.samples),
    )


def loss_chart(run: RunCurves) -> Chart:
    loss, held_out = run["loss"], run["validation_loss"]
    lines = [*noisy(loss)]
    if len(held_out.steps):
        lines.append(Line("held-out pictures, fixed noise", held_out, POINTS, 1))
    if len(run["validation_loss_ema"].steps):
        lines.append(Line("held-out, averaged weights", run["validation_loss_ema"], POINTS, 2))
    top, note = _limit(loss, loss, held_out)
    bad = loss.steps[~np.isfinite(loss.values)]
    said = [_ends("training loss, smoothed", smoothed(loss)), _ends("held-out loss", held_out), not_finite(bad)]
    return _chart("loss", "Loss", lines, said, top=top, bad=bad, notes=_some(note, not_finite(bad)))


def sigma_loss_chart(samples: SigmaLosses) -> Chart:
    """The loss of samples in four groups of equally many, by how much noise they got."""
    lines = [
        Line(f"sigma {low:.2f} to {high:.2f}", Curve(curve.steps, smooth(curve.values, span)), LINE, index)
        for index, (low, high, curve) in enumerate(sigma_bands(samples))
        if (span := smoothing_span(len(curve.steps)))
    ]
    said = [_ends(line.label, line.curve) for line in lines]
    return _chart("loss-by-sigma", "Loss by noise level, smoothed", lines, said)


def sigma_bands(samples: SigmaLosses) -> list[tuple[float, float, Curve]]:
    """(lowest sigma, highest, losses) of SIGMA_BANDS groups, each of a quarter of the samples with a finite loss; none
    when there are too few."""
    known = np.isfinite(samples.losses) & np.isfinite(samples.sigmas)
    steps, sigmas, losses = samples.steps[known], samples.sigmas[known], samples.losses[known]
    if len(sigmas) < SIGMA_BANDS * _FEWEST_A_BAND:
        return []
    order = np.argsort(sigmas, kind="stable")
    found = []
    for part in np.array_split(order, SIGMA_BANDS):
        inside = np.sort(part)
        low, high = float(sigmas[part[0]]), float(sigmas[part[-1]])
        found.append((low, high, Curve(steps[inside], losses[inside])))
    return found


def rate_chart(rate: Curve) -> Chart:
    return _chart("learning-rate", "Learning rate", [Line("learning rate", rate)], [_range("learning rate", rate)])


def norm_chart(norm: Curve) -> Chart:
    positive = norm.values[np.isfinite(norm.values) & (norm.values > 0)]
    log = bool(len(positive) and positive.max() > SPREAD_FOR_LOG * np.median(positive))
    bad = norm.steps[~np.isfinite(norm.values)]
    said = [_range("gradient norm", norm), not_finite(bad)]
    title = "Gradient norm before clipping"
    return _chart("gradient-norm", title, noisy(norm), said, log=log, bad=bad, notes=_some(not_finite(bad)))


def throughput_chart(run: RunCurves) -> Chart:
    rate, waited = run["samples_per_second"], run["data_wait"]
    top, note = _limit(rate, rate)
    notes = [note] if note else []
    typical = median(rate)
    if typical is not None:
        notes.insert(0, f"median {number(typical)} samples a second")
    if len(waited.steps) and np.nanmax(waited.values, initial=0) > 0:
        notes.append(f"longest wait for data {np.nanmax(waited.values):.2g} s")
    return _chart("throughput", "Throughput", noisy(rate), notes, unit="samples/s", top=top, notes=tuple(notes))


def memory_chart(memory: Curve) -> Chart:
    said = [_range("memory", memory, " GiB")]
    return _chart("memory", "Memory in use, peak", [Line("memory", memory)], said, unit="GiB")


def sigma_chart(samples: SigmaLosses) -> Chart:
    """How often each noise level was trained at."""
    sigmas = samples.sigmas[np.isfinite(samples.sigmas)]
    if not len(sigmas):
        return Chart("sigma", "Sampled noise levels (sigma)", across=SIGMA)
    counts, edges = np.histogram(sigmas, SIGMA_BARS, (0.0, 1.0))
    low, middle, high = np.quantile(sigmas, (0.1, 0.5, 0.9))
    said = f"{len(sigmas):,} samples; half below sigma {middle:.2f}, a tenth below {low:.2f} and above {high:.2f}"
    return Chart("sigma", "Sampled noise levels (sigma)", bars=Bars(edges, counts), across=SIGMA, said=said)


def compared_charts(runs: Mapping[str, RunCurves]) -> tuple[Chart, ...]:
    """Several runs in the same charts, by the names their lines get."""
    losses = {name: smoothed(run["loss"]) for name, run in runs.items()}
    rates = {name: smoothed(run["samples_per_second"]) for name, run in runs.items()}
    return (
        _overlaid("loss", "Loss, smoothed", losses),
        _overlaid("held-out", "Held-out loss", {name: run["validation_loss"] for name, run in runs.items()}, POINTS),
        _overlaid("learning-rate", "Learning rate", {name: run["learning_rate"] for name, run in runs.items()}),
        _overlaid(
            "gradient-norm", "Gradient norm, smoothed", {name: smoothed(run["grad_norm"]) for name, run in runs.items()}
        ),
        _overlaid("throughput", "Throughput, smoothed", rates, unit="samples/s"),
        _overlaid("memory", "Memory in use, peak", {n: run["memory_gib"] for n, run in runs.items()}, unit="GiB"),
    )


def noisy(curve: Curve) -> list[Line]:
    """Every value faintly, and what is left of it without the noise."""
    lines = [Line("each step", curve, RAW)]
    span = smoothing_span(len(curve.steps))
    if len(curve.steps) > span:
        lines.append(Line(f"smoothed over {span} steps", Curve(curve.steps, smooth(curve.values, span))))
    return lines


def median(curve: Curve) -> float | None:
    """None without a finite value."""
    finite = curve.values[np.isfinite(curve.values)]
    return float(np.median(finite)) if len(finite) else None


def duration(seconds: float) -> str:
    """Seconds, minutes or hours, as is readable."""
    amount, unit = (
        (seconds, "s") if seconds < 100 else (seconds / 60, "min") if seconds < 6000 else (seconds / 3600, "h")
    )
    return f"{amount:.1f} {unit}" if amount < 10 else f"{amount:,.0f} {unit}"


def number(value: float) -> str:
    """A measured number for people: three digits."""
    return f"{value:,.0f}" if abs(value) >= 1000 else f"{value:.3g}"


def not_finite(steps: np.ndarray[Any, Any]) -> str:
    """Where a value was NaN or infinite; "" for nowhere."""
    if not len(steps):
        return ""
    named = ", ".join(f"{step:,.0f}" for step in steps[:5]) + (" and more" if len(steps) > 5 else "")
    return f"not finite at {len(steps):,} step{'s' * (len(steps) != 1)}: {named}"


def _chart(name: str, title: str, lines: Sequence[Line], said: Sequence[str], **more: Any) -> Chart:
    found = [sentence for sentence in said if sentence]
    return Chart(name, title, tuple(lines), said="; ".join(found) or "no numbers yet", **more)


def _overlaid(name: str, title: str, curves: Mapping[str, Curve], look: str = LINE, unit: str = "") -> Chart:
    lines = [Line(label, curve, look, index) for index, (label, curve) in enumerate(curves.items())]
    bad = [f"{label} is {not_finite(c.steps[~np.isfinite(c.values)])}" for label, c in curves.items() if _has_bad(c)]
    said = [_ends(line.label, line.curve) for line in lines]
    return _chart(name, title, lines, [*said, *bad], unit=unit, notes=tuple(bad))


def _has_bad(curve: Curve) -> bool:
    return not bool(np.isfinite(curve.values).all())


def smoothed(curve: Curve) -> Curve:
    """A curve without its noise, where it is long enough to say."""
    return noisy(curve)[-1].curve if len(curve.steps) else _NO_STEPS


def _limit(main: Curve, *curves: Curve) -> tuple[float | None, str]:
    """Keep a few far outliers from flattening the curves: the axis' end, and a note that says where the highest is."""
    values = np.concatenate([curve.values for curve in curves])
    values = values[np.isfinite(values)]
    if not len(values) or not np.isfinite(main.values).any():
        return None, ""
    limit = _OUTLIER * float(np.percentile(values, 99))
    if values.max() <= limit or limit <= 0:
        return None, ""
    highest = int(np.nanargmax(np.where(np.isfinite(main.values), main.values, -np.inf)))
    return limit, f"highest: {main.values[highest]:.3g} at step {main.steps[highest]:.0f}"


def _ends(what: str, curve: Curve) -> str:
    """ "held-out loss from 0.78 to 0.52"; "" for no finite value."""
    finite = curve.values[np.isfinite(curve.values)]
    return f"{what} from {finite[0]:.4g} to {finite[-1]:.4g}" if len(finite) else ""


def _range(what: str, curve: Curve, unit: str = "") -> str:
    finite = curve.values[np.isfinite(curve.values)]
    return f"{what} between {finite.min():.3g} and {finite.max():.3g}{unit}" if len(finite) else ""


def _some(*notes: str) -> tuple[str, ...]:
    return tuple(note for note in notes if note)
