"""The page about one run."""

from __future__ import annotations

import time
from collections.abc import Mapping, Sequence
from datetime import datetime
from typing import Any

import numpy as np

from simpletune import __version__
from simpletune.pages import render
from simpletune.results.charts import duration, median, number, run_charts, smoothed
from simpletune.results.curves import Curve, FailedStep
from simpletune.results.report import data_sets, settings_table
from simpletune.results.report.drawing import draw
from simpletune.results.report.embed import Embedded, Embedder
from simpletune.results.report.measures import Measures
from simpletune.results.report.pictures import shown
from simpletune.results.report.run import Run, State
from simpletune.results.report.samples import albums
from simpletune.results.report.usage import diffusers_code
from simpletune.results.run_folder import METRICS_FILE

_VALIDATIONS = 24
_SUSPECTS = 8
_FLAGGED_EDGE, _FLAGGED_BUDGET = 320, 1_000_000


def page(run: Run, embedder: Embedder, measures: Measures | None = None, refresh: int | None = None) -> str:
    """The page. `measures` is the run's evaluation; with `refresh` a page of an unfinished run loads itself again
    after that many seconds, for whoever writes it again and again."""
    pictures, left_out = data_sets.thumbnails(run, embedder)
    values = {
        **common(run.label, [run], refresh),
        "run": run,
        "where": str(run.folder),
        "failures": list(map(failure, run.numbers.failed)),
        "tiles": tiles(run),
        "albums": shown(albums(run.folder), embedder),
        "charts": [draw(chart) for chart in run_charts(run.numbers)],
        "measures": measures,
        "measured_charts": [draw(chart) for chart in measures.charts] if measures else [],
        "flagged": _flagged(measures, embedder) if measures else [],
        "held_out": held_out_rows(run.numbers["validation_loss"]),
        "data_sets": data_sets.table(run),
        "thumbnails": pictures,
        "thumbnails_left_out": left_out,
        "given": settings_table.given(run),
        "everything": settings_table.everything(run),
        "adapter": run.adapter,
        "code": None if run.adapter is None else diffusers_code(run, run.adapter),
        "config": config_of(run),
        "phases": [_phase(phase) for phase in run.phases],
        "versions": _pairs(run.facts.get("versions")),
    }
    return render("report.html", values)


def common(title: str, runs: Sequence[Run], refresh: int | None) -> dict[str, Any]:
    """What pages of one run and of several have alike."""
    going = any(run.state is State.GOING for run in runs)
    return {
        "title": title,
        "states": [(run.label, run.state, state_line(run)) for run in runs],
        "refresh": refresh if going else None,
        "damaged": [f"{run.label}: {name} can't be read" for run in runs for name in run.damaged],
        "made": f"simpletune {__version__}, {datetime.now().astimezone():%Y-%m-%d %H:%M:%S %Z}",
    }


def state_line(run: Run) -> str:
    """Where the run stands, in words."""
    total = "" if run.total_steps is None else f" of {run.total_steps:,}"
    if run.state is State.FINISHED:
        return f"Finished after {run.step:,} steps."
    if run.state is State.GOING:
        done = f"step {run.step:,}{total}{_left(run)}" if run.step else "its first step isn't done yet"
        return f"This run is still going: {done}."
    done = f"at step {run.step:,}{total}" if run.step else "before its first step"
    return f"Stopped {done}: not finished, and nothing is training it now."


def failure(failed: FailedStep) -> dict[str, Any]:
    """A step that ended the run: a sentence, and the pictures it was about; those whose own loss was not finite, if
    there are any."""
    culprits = [sample for sample in failed.samples if not isinstance(sample.get("loss"), int | float)]
    named = culprits or failed.samples
    what = "gradient" if failed.loss_is_finite else "loss"
    which = " for these pictures" if culprits else ""
    said = f"Step {failed.step:,}: the {what} was not finite{which}, and training stopped there."
    return {
        "said": said if culprits or not named else f"{said} The step was of:",
        "pictures": [(sample.get("picture"), _of_sample(sample)) for sample in named[:_SUSPECTS]],
        "more": max(0, len(named) - _SUSPECTS),
    }


def _of_sample(sample: Mapping[str, Any]) -> str:
    return ", ".join(f"{key} {sample[key]}" for key in ("loss", "sigma", "caption") if key in sample)


def tiles(run: Run) -> list[tuple[str, str, str]]:
    """The run in figures: (name, value, what to know of it)."""
    numbers = run.numbers
    loss, held_out = smoothed(numbers["loss"]), numbers["validation_loss"]
    rate, memory = median(numbers["samples_per_second"]), _finite(numbers["memory_gib"])
    found = [("Steps", f"{run.step:,}", f"of {run.total_steps:,}" if run.total_steps not in (None, run.step) else "")]
    if len(values := _finite(loss)):
        found.append(("Training loss", f"{values[-1]:.4g}", f"smoothed; began at {values[0]:.4g}"))
    if len(values := _finite(held_out)):
        least = int(np.nanargmin(held_out.values))
        best = f"least {held_out.values[least]:.4g} at step {held_out.steps[least]:.0f}"
        found.append(("Held-out loss", f"{values[-1]:.4g}", f"began at {values[0]:.4g}; {best}"))
    if seconds := run.seconds_in_steps:
        found.append(("Time in steps", duration(seconds), ""))
    if rate is not None:
        found.append(("Speed", f"{number(rate)}/s", "samples, median"))
    if len(memory):
        on_gpu = str(run.facts.get("device", "")).startswith("cuda")
        found.append(("Memory", f"{memory.max():.2f} GiB", "GPU, peak" if on_gpu else "process, highest"))
    if run.trained:
        found.append(("Pictures", f"{len(run.trained):,}", f"{len(run.held_out):,} held out" if run.held_out else ""))
    if run.adapter is not None:
        found.append(("Adapter", _size(run.adapter.stat().st_size), _adapter_kind(run)))
    return found


def held_out_rows(curve: Curve) -> list[dict[str, Any]]:
    """The held-out loss by step, thinned to what a table can hold; the least is marked."""
    finite = np.isfinite(curve.values)
    if not finite.any():
        return []
    least = int(np.nanargmin(np.where(finite, curve.values, np.nan)))
    count = len(curve.steps)
    kept = {round(index * (count - 1) / max(1, _VALIDATIONS - 1)) for index in range(_VALIDATIONS)} | {least}
    first = curve.values[finite][0]
    return [
        {
            "step": f"{curve.steps[index]:,.0f}",
            "loss": f"{curve.values[index]:.5f}" if finite[index] else "not finite",
            "change": f"{curve.values[index] / first - 1:+.1%}" if finite[index] and first and index else "",
            "least": index == least,
        }
        for index in sorted(kept)
        if index < count
    ]


def _size(count: int) -> str:
    return f"{count / 1e6:.3g} MB" if count >= 1e6 else f"{count / 1e3:.0f} KB"


def config_of(run: Run) -> str:
    """The config.json that made the run, where its folder lets that be guessed."""
    beside = run.folder.parent / "config.json"
    return str(beside) if beside.is_file() else "config.json"


def _left(run: Run) -> str:
    """Time left, by the newest steps; and how long ago the last one was."""
    said = ""
    rate = median(Curve(np.empty(0), run.numbers["samples_per_second"].values[-50:]))
    samples = run.value("train_batch_size", 1) * run.value("gradient_accumulation_steps", 1)
    if rate and run.total_steps and isinstance(samples, int):
        said = f", about {duration(max(0, run.total_steps - run.step) * samples / rate)} of steps left"
    try:
        ago = time.time() - (run.folder / METRICS_FILE).stat().st_mtime
    except OSError:
        return said
    return said + (f"; the last number came {duration(ago)} ago" if ago > 60 else "")


def _flagged(measures: Measures, embedder: Embedder) -> list[tuple[Any, Embedded | None, Embedded | None]]:
    paths = [path for pair in measures.flagged for path in (pair.made, pair.trained_on) if path is not None]
    made = embedder.embed(paths, _FLAGGED_EDGE, _FLAGGED_BUDGET)
    return [
        (pair, made.get(pair.made), made.get(pair.trained_on) if pair.trained_on else None) for pair in measures.flagged
    ]


def _phase(phase: Mapping[str, Any]) -> tuple[str, str, str]:
    seconds, peak = phase.get("seconds"), phase.get("peak_allocated_gib")
    return (
        str(phase.get("phase", "")),
        duration(seconds) if isinstance(seconds, int | float) else "",
        f"{peak:.2f} GiB" if isinstance(peak, int | float) else "",
    )


def _pairs(value: Any) -> list[tuple[str, str]]:
    return [(str(name), str(one)) for name, one in value.items()] if isinstance(value, Mapping) else []


def _finite(curve: Curve) -> np.ndarray[Any, Any]:
    return curve.values[np.isfinite(curve.values)]


def _adapter_kind(run: Run) -> str:
    """The adapter in a few words: "LoRA, rank 16"."""
    if run.value("lora_type", "standard") == "lycoris":
        return f"LyCORIS, {(run.value('lycoris_config') or {}).get('algo', 'lora')}"
    return f"{'DoRA' if run.value('use_dora') else 'LoRA'}, rank {run.value('lora_rank')}"
