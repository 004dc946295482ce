"""A run's charts as picture files: plots.png of the whole run, and each chart by itself, by matplotlib."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from simpletune import files
from simpletune.results.charts import POINTS, RAW, Chart, Line, loss_chart, norm_chart, rate_chart
from simpletune.results.curves import read_run

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure

FORMATS = ("png", "svg")
_RAW, _BAD = "#9db8d9", "#c01f1f"
_PALETTE = ("#1f4e8c", "#d1661b", "#2b7a4b", "#8a3b8f", "#9a7b00", "#0b7f8c", "#b0305c", "#555555")
_DASHES = ("-", "--", "-.", ":")
_INK, _FAINT = "#222222", "#dddddd"


def plots(metrics_path: Path, png_path: Path, title: str | None = None) -> None:
    """Draw loss, learning rate and gradient norm of the run in `metrics_path` into `png_path`, 1500 x 1050 pixels.

    Works for a run that has just begun or was cut off. Steps whose loss is not finite are marked.
    """
    run = read_run(metrics_path)
    figure = _figure((10, 7))
    axes: dict[str, Axes] = figure.subplot_mosaic([["loss", "loss"], ["rate", "norm"]], height_ratios=[1.5, 1])
    if title:
        figure.suptitle(_plain(title), fontsize=13, color=_INK)
    _draw(axes["loss"], loss_chart(run), run.last_step)
    _draw(axes["rate"], rate_chart(run["learning_rate"]), run.last_step)
    _draw(axes["norm"], norm_chart(run["grad_norm"]), run.last_step)
    about = {"Title": title or "Training run", "Description": f"{len(run['loss'].steps)} steps"}
    files.write_with(png_path, lambda temporary: figure.savefig(temporary, format="png", metadata=about))


def chart_files(charts: Sequence[Chart], folder: Path) -> list[Path]:
    """Draw each chart that isn't empty into `folder`, which must exist, in every format; the paths."""
    written = []
    for chart in (chart for chart in charts if not chart.empty):
        figure = _figure((8, 4.5))
        _draw(figure.subplots(), chart, None)
        for kind in FORMATS:
            written.append(folder / f"{chart.name}.{kind}")
            _save(figure, written[-1], chart.title, kind)
    return written


def _save(figure: Figure, path: Path, title: str, kind: str) -> None:
    """Without the day and drawn names: the same run gives the same file."""
    from matplotlib import rc_context

    about = {"Title": title} | ({"Date": None} if kind == "svg" else {})
    with rc_context({"svg.hashsalt": "simpletune"}):
        files.write_with(path, lambda temporary: figure.savefig(temporary, format=kind, metadata=about))


def _figure(size: tuple[float, float]) -> Figure:
    # Figure without pyplot: no window system, no state that another figure could meet.
    from matplotlib.backends.backend_agg import FigureCanvasAgg
    from matplotlib.figure import Figure

    figure = Figure(figsize=size, dpi=150, layout="constrained")
    FigureCanvasAgg(figure)
    return figure


def _draw(axes: Axes, chart: Chart, last_step: int | None) -> None:
    _frame(axes, chart)
    if chart.bars is not None:
        axes.bar(chart.bars.edges[:-1], chart.bars.counts, np.diff(chart.bars.edges), align="edge", color=_RAW)
        return
    if chart.empty and not len(chart.bad):
        axes.text(0.5, 0.5, "no steps yet", transform=axes.transAxes, ha="center", va="center", color="#777777")
    for line in chart.lines:
        _draw_line(axes, line)
    if len(chart.bad):
        axes.plot(
            chart.bad, np.full(len(chart.bad), 0.02), transform=axes.get_xaxis_transform(), color=_BAD, marker="x",
            linestyle="", label=f"not finite ({len(chart.bad)})",
        )  # fmt: skip
    _scale(axes, chart, last_step)
    if any("highest" in note for note in chart.notes):
        said = next(note for note in chart.notes if "highest" in note)
        axes.text(0.995, 0.97, _plain(said), transform=axes.transAxes, ha="right", va="top", fontsize=8, color=_INK)
    if len(chart.lines) > 1 and not chart.empty:
        axes.legend(
            loc="lower right", bbox_to_anchor=(1, 1), ncols=2 if len(chart.lines) > 3 else 4, frameon=False,
            fontsize=9 if len(chart.lines) < 4 else 7, borderaxespad=0.2, handlelength=1.8,
        )  # fmt: skip


def _draw_line(axes: Axes, line: Line) -> None:
    few = len(line.curve.steps) < 40
    label, colour = _plain(line.label), _PALETTE[line.colour % len(_PALETTE)]
    if line.look == RAW:
        axes.plot(
            line.curve.steps, line.curve.values, color=_RAW, linewidth=0.8, marker="." if few else "", label=label
        )
    elif line.look == POINTS:
        axes.plot(
            line.curve.steps, line.curve.values, color=colour, linewidth=1.5, marker="o", markersize=4, label=label
        )
    else:
        marker = "." if len(line.curve.steps) == 1 else ""
        dash = _DASHES[line.colour % len(_DASHES)]
        axes.plot(line.curve.steps, line.curve.values, dash, color=colour, linewidth=2, marker=marker, label=label)


def _scale(axes: Axes, chart: Chart, last_step: int | None) -> None:
    if last_step is not None:
        axes.set_xlim(0, max(2, last_step))
    if chart.log:
        axes.set_yscale("log")
    elif chart.zero and not chart.empty:
        axes.set_ylim(bottom=0, top=chart.top)
    if chart.name == "learning-rate":
        axes.yaxis.set_major_formatter(lambda rate, _: f"{rate:.1e}".replace("e-0", "e-") if rate else "0")


def _frame(axes: Axes, chart: Chart) -> None:
    from matplotlib.ticker import MaxNLocator

    axes.set_title(chart.title + (f" ({chart.unit})" if chart.unit else ""), loc="left", fontsize=11, color=_INK)
    axes.set_xlabel(chart.across, fontsize=9, color=_INK)
    if chart.bars is None:
        axes.xaxis.set_major_locator(MaxNLocator(nbins="auto", integer=True, steps=[1, 2, 5, 10]))
    axes.tick_params(labelsize=9, colors=_INK)
    axes.grid(color=_FAINT, linewidth=0.6)
    axes.set_axisbelow(True)
    axes.margins(x=0.01)
    for side in ("top", "right"):
        axes.spines[side].set_visible(False)


def _plain(text: Any) -> str:
    """Text that matplotlib doesn't take for mathematics."""
    return str(text).replace("$", r"\$")
