"""plots.png: the loss, the learning rate and the gradient norm of one run, from its metrics.jsonl."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from simpletune import files
from simpletune.results.curves import Curve, read_curves, smooth, smoothing_span

if TYPE_CHECKING:
    from matplotlib.axes import Axes

_RAW, _SMOOTH, _VALIDATION, _BAD = "#9db8d9", "#1f4e8c", "#d1661b", "#c01f1f"
_INK, _FAINT = "#222222", "#dddddd"
_SPREAD_FOR_LOG = 30  # times the median: a gradient norm beyond that makes its axis logarithmic
_OUTLIER = 1.5  # times the 99th percentile: higher points of the loss don't set its scale


def plots(metrics_path: Path, png_path: Path, title: str | None = None) -> None:
    """Draw the run in `metrics_path` into `png_path`, about 1500 x 1050 pixels.

    Works for a run that has just begun or was cut off. Steps whose loss is not finite are marked.
    """
    # Figure without pyplot: no window system, no state that another figure could meet.
    from matplotlib.backends.backend_agg import FigureCanvasAgg
    from matplotlib.figure import Figure

    curves = read_curves(metrics_path)
    figure = Figure(figsize=(10, 7), dpi=150, layout="constrained")
    FigureCanvasAgg(figure)
    axes: dict[str, Axes] = figure.subplot_mosaic([["loss", "loss"], ["rate", "norm"]], height_ratios=[1.5, 1])
    if title:
        figure.suptitle(_plain(title), fontsize=13, color=_INK)
    _draw_loss(axes["loss"], curves["loss"], curves["validation_loss"])
    _draw_rate(axes["rate"], curves["learning_rate"])
    _draw_norm(axes["norm"], curves["grad_norm"])
    last_step = max((float(curve.steps[-1]) for curve in curves.values() if len(curve.steps)), default=0.0)
    for panel in axes.values():
        panel.set_xlim(0, max(2, last_step))
    about = {"Title": title or "Training run", "Description": f"{len(curves['loss'].steps)} steps"}
    files.write_with(png_path, lambda temporary: figure.savefig(temporary, format="png", metadata=about))


def _draw_loss(axes: Axes, loss: Curve, validation: Curve) -> None:
    _frame(axes, "Loss")
    if not len(loss.steps):
        _say_empty(axes)
        return
    _draw_noisy(axes, loss)
    if len(validation.steps):
        axes.plot(
            validation.steps, validation.values, color=_VALIDATION, linewidth=1.5, marker="o", markersize=4,
            label="held-out pictures, fixed noise",
        )  # fmt: skip
    note = _limit_to_most(axes, loss, validation)
    bad = loss.steps[~np.isfinite(loss.values)]
    if len(bad):
        axes.plot(
            bad, np.full(len(bad), 0.02), transform=axes.get_xaxis_transform(), color=_BAD, marker="x", linestyle="",
            label=f"not finite ({len(bad)})",
        )  # fmt: skip
    if note:
        axes.text(0.995, 0.97, note, transform=axes.transAxes, ha="right", va="top", fontsize=8, color=_INK)
    axes.legend(
        loc="lower right",
        bbox_to_anchor=(1, 1),
        ncols=4,
        frameon=False,
        fontsize=9,
        borderaxespad=0.2,
        handlelength=1.5,
    )


def _draw_rate(axes: Axes, rate: Curve) -> None:
    _frame(axes, "Learning rate")
    if not len(rate.steps):
        _say_empty(axes)
        return
    axes.plot(rate.steps, rate.values, color=_SMOOTH, linewidth=1.8, marker="." if len(rate.steps) == 1 else "")
    axes.yaxis.set_major_formatter(lambda rate, _: f"{rate:.1e}".replace("e-0", "e-") if rate else "0")
    axes.set_ylim(bottom=0)


def _draw_norm(axes: Axes, norm: Curve) -> None:
    _frame(axes, "Gradient norm before clipping")
    if not len(norm.steps):
        _say_empty(axes)
        return
    _draw_noisy(axes, norm)
    positive = norm.values[np.isfinite(norm.values) & (norm.values > 0)]
    if len(positive) and positive.max() > _SPREAD_FOR_LOG * np.median(positive):
        axes.set_yscale("log")
    else:
        axes.set_ylim(bottom=0)


def _draw_noisy(axes: Axes, curve: Curve) -> None:
    """Every value faintly, and what is left of it without the noise."""
    marker = "." if len(curve.steps) < 40 else ""
    axes.plot(curve.steps, curve.values, color=_RAW, linewidth=0.8, marker=marker, label="each step")
    span = smoothing_span(len(curve.steps))
    if len(curve.steps) > span:
        axes.plot(
            curve.steps, smooth(curve.values, span), color=_SMOOTH, linewidth=2, label=f"smoothed over {span} steps"
        )


def _limit_to_most(axes: Axes, loss: Curve, validation: Curve) -> str | None:
    """Keep a few far outliers from flattening the curve; a note then says where the highest one is."""
    values = np.concatenate([loss.values, validation.values])
    values = values[np.isfinite(values)]
    if not len(values):
        return None
    limit = _OUTLIER * np.percentile(values, 99)
    axes.set_ylim(bottom=0)
    if values.max() <= limit or limit <= 0:
        return None
    axes.set_ylim(top=limit)
    highest = int(np.nanargmax(np.where(np.isfinite(loss.values), loss.values, -np.inf)))
    return f"highest: {loss.values[highest]:.3g} at step {loss.steps[highest]:.0f}"


def _frame(axes: Axes, title: str) -> None:
    from matplotlib.ticker import MaxNLocator

    axes.set_title(title, loc="left", fontsize=11, color=_INK)
    axes.set_xlabel("step", fontsize=9, color=_INK)
    axes.xaxis.set_major_locator(MaxNLocator(nbins="auto", integer=True, steps=[1, 2, 5, 10]))
    axes.tick_params(labelsize=9, colors=_INK)
    axes.grid(color=_FAINT, linewidth=0.6)
    axes.set_axisbelow(True)
    axes.margins(x=0.01)
    for side in ("top", "right"):
        axes.spines[side].set_visible(False)


def _say_empty(axes: Axes) -> None:
    axes.text(0.5, 0.5, "no steps yet", transform=axes.transAxes, ha="center", va="center", color="#777777")


def _plain(text: Any) -> str:
    """Text that matplotlib doesn't take for mathematics."""
    return str(text).replace("$", r"\$")
