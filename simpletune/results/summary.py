"""What is said at the end of `simpletune train`: what was made, where, how good, how long, and the next command."""

from __future__ import annotations

import shlex
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from statistics import median

import numpy as np

from simpletune.config.document import display
from simpletune.config.problems import shown
from simpletune.data.preflight_lines import count
from simpletune.errors import UsageError
from simpletune.evaluate.results import Evaluation
from simpletune.evaluate.results import load as load_evaluation
from simpletune.progress.words import byte_size, duration, rate
from simpletune.redact import redact
from simpletune.results.report.run import Run, read
from simpletune.results.run_folder import ADAPTER_FILE, SAMPLES_FOLDER, list_checkpoints

_LABEL = 10
_WARNINGS = 3
_SHORT = 0.02  # of a start's time: phases below it aren't worth a word


@dataclass(frozen=True)
class Ending:
    """How a start of a run ended, as far as the run's folder doesn't tell.

    overrides: the start's "key=value". trained: steps of this start, None when it was stopped. seconds: of all of it.
    shared: where the run is on the hub, None where it isn't.
    """

    folder: Path
    config: Path
    overrides: Sequence[str]
    seconds: float
    trained: int | None
    shared: str | None = None
    warnings: Sequence[str] = ()


@dataclass(frozen=True)
class _Line:
    label: str
    text: str


def summary(ending: Ending, width: int = 80) -> list[str]:
    """The lines, none wider than `width` unless a path or a command is. Raises UsageError where no run is."""
    run = read(ending.folder)
    lines = ["", _heading(run, ending)]
    for line in [*_made(run, ending), *_quality(run), *_effort(run, ending)]:
        lines += _wrapped(f"  {line.label:<{_LABEL}}", line.text, width)
    for warning in ending.warnings[:_WARNINGS]:
        lines += _wrapped("            - ", " ".join(warning.split()), width)
    return [redact(line) for line in [*lines, "", "next", *_commands(_next(run, ending), width)]]


def _heading(run: Run, ending: Ending) -> str:
    took = f" in {duration(ending.seconds)}"
    if ending.trained is None:
        total = "" if run.total_steps is None else f" of {run.total_steps:,}"
        return f"stopped after step {run.step:,}{total}, {duration(ending.seconds)} after the start"
    steps = count(run.step, "step")
    if ending.trained == 0:
        return f"done: {steps}, all of them before this start"
    return f"done: {steps}{took}" if ending.trained == run.step else f"done: {steps}, {ending.trained:,} of them{took}"


def _made(run: Run, ending: Ending) -> Iterator[_Line]:
    """Files that are there."""
    folder = run.folder
    if ending.trained is None:
        folder = max(list_checkpoints(folder), default=(0, folder))[1]
        yield _Line("saved", f"{_path(folder)}: the run goes on from there, nothing is lost")
    for name, adapter in (("adapter", folder / ADAPTER_FILE), ("averaged", folder / "ema" / ADAPTER_FILE)):
        if adapter.is_file():
            rank = f", rank {run.value('lora_rank')}" if run.value("lora_rank") else ""
            yield _Line(name, f"{_path(adapter)} ({byte_size(adapter.stat().st_size)}{rank})")
    gallery, samples = run.folder / "gallery.png", run.folder / SAMPLES_FOLDER
    if ending.trained is not None and gallery.is_file():
        yield _Line("pictures", f"{_path(gallery)}: base beside tuned")
    elif samples.is_dir():
        yield _Line("pictures", _path(samples))
    if ending.trained is not None:
        for label, name in (("plots", "plots.png"), ("card", "README.md")):
            if (run.folder / name).is_file():
                yield _Line(label, _path(run.folder / name))
    if ending.shared is not None:
        yield _Line("shared", ending.shared)


def _quality(run: Run) -> Iterator[_Line]:
    loss, averaged = (run.numbers[name].values for name in ("validation_loss", "validation_loss_ema"))
    if len(loss):
        said = f"loss {loss[0]:.4f}" + (f" -> {loss[-1]:.4f}" if len(loss) > 1 else " so far")
        if len(averaged):
            said += f", averaged weights {averaged[-1]:.4f}"
        yield _Line("held out", f"{said}, on {count(len(run.held_out), 'picture')} kept back")
    elif run.held_out:  # stopped before the first of these losses was known
        yield _Line("held out", f"no loss yet, {count(len(run.held_out), 'picture')} kept back")
    else:
        yield _Line("held out", 'no pictures: "num_eval_images" keeps some back to judge by')
    evaluation = _evaluation(run)
    if evaluation is not None:
        where = "" if _is_of(evaluation, run) else " (measured before the last steps)"
        best = evaluation.best
        said = best.reason if best.variant is None else f"best is {best.variant}: {best.reason}"
        yield _Line("evaluated", f"{said}{where}")


def _evaluation(run: Run) -> Evaluation | None:
    try:
        return load_evaluation(run.folder)
    except UsageError:
        return None


def _is_of(evaluation: Evaluation, run: Run) -> bool:
    return any(variant.steps == run.step for variant in evaluation.variants)


def _effort(run: Run, ending: Ending) -> Iterator[_Line]:
    finished = ending.trained is not None
    phases = [(str(one.get("phase")), float(one.get("seconds", 0)), one) for one in run.phases] if finished else []
    long = [(name, seconds) for name, seconds, _ in phases if seconds >= _SHORT * sum(each for _, each, _ in phases)]
    parts = [f"{name} {duration(seconds)}" for name, seconds in sorted(long, key=lambda one: -one[1])]
    speeds = [speed for speed in run.numbers["samples_per_second"].values if np.isfinite(speed)]
    if parts:
        yield _Line("time", ", ".join(parts))
    if speeds:
        yield _Line("speed", f"{rate(median(speeds), 'image')} while training")
    peak = max(phases, key=lambda one: float(one[2].get("peak_allocated_gib", 0)), default=None)
    used = [gib for gib in run.numbers["memory_gib"].values if np.isfinite(gib)]
    if peak is not None:
        yield _Line("memory", f"{float(peak[2].get('peak_allocated_gib', 0)):.2f} GiB at most, in {peak[0]}")
        reserved = [f"{name} {gib:.2f}" for name, _, one in phases if (gib := float(one.get("peak_reserved_gib", 0)))]
        if reserved:
            yield _Line("reserved", f"GiB at most: {', '.join(reserved)}")
    elif used:
        yield _Line("memory", f"{max(used):.2f} GiB at most while training")
    if ending.warnings:
        more = len(ending.warnings) - _WARNINGS
        yield _Line("warnings", f"{len(ending.warnings)}{f', the last {more} are above' if more > 0 else ''}")


def _next(run: Run, ending: Ending) -> Iterator[tuple[str, str]]:
    """Commands, and what each is for."""
    folder = shlex.quote(_path(run.folder))
    config = " ".join([shlex.quote(display(ending.config)), *(f"--set {shlex.quote(one)}" for one in ending.overrides)])
    if ending.trained is None:
        yield f"simpletune train {config}", "goes on from there"
        yield f"simpletune report {folder} --open", "how it looks so far"
        yield f'simpletune generate {config} --prompt "..."', "pictures with what is there"
        return
    yield f"simpletune report {folder} --open", "all of it on one page"
    yield f'simpletune generate {config} --prompt "..."', "pictures of what you like"
    evaluation = _evaluation(run)
    if evaluation is None or not _is_of(evaluation, run):
        prompts = " --captions 30" if run.facts.get("validation_prompts") == {} else ""
        yield f"simpletune evaluate {config}{prompts}", "how good it is, in figures"
    if ending.shared is None:
        yield f"simpletune push {folder}", "to the hub, private"


def _commands(commands: Iterator[tuple[str, str]], width: int) -> list[str]:
    """In two columns where they fit, else what a command is for below it."""
    found = [(shown(command), purpose) for command, purpose in commands]
    column = max(len(command) for command, _ in found) + 2
    if 2 + column + max(len(purpose) for _, purpose in found) <= width:
        return [f"  {command:<{column}}{purpose}" for command, purpose in found]
    return [line for command, purpose in found for line in (f"  {command}", f"      {purpose}")]


def _path(path: Path) -> str:
    return shown(display(path))


def _wrapped(start: str, text: str, width: int) -> list[str]:
    """`text` behind `start`, further lines below its beginning; words stay whole."""
    lines, line = [], start
    for word in shown(text).split(" "):
        longer = line + word if line in (start, " " * len(start)) else f"{line} {word}"
        if len(longer) > width and line.strip() and line != start:
            lines.append(line)
            longer = " " * len(start) + word
        line = longer
    return [*lines, line]
