"""`simpletune bench [CONFIG]`: how fast this machine trains, and the memory it takes, without a model or pictures."""

from __future__ import annotations

import json
import sys
import tempfile
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from simpletune.cli.display import named_config, wants_colour
from simpletune.cli.keys import KeyValue
from simpletune.config.document import display
from simpletune.config.problems import shown
from simpletune.disk_words import in_words
from simpletune.errors import UsageError
from simpletune.progress import Reporter, terminal_reporter

if TYPE_CHECKING:
    from simpletune.bench.subject import Subject

    PhasesParameter = click.ParamType[tuple[str, ...]]
else:
    PhasesParameter = click.ParamType  # not generic in click 8.1


class Phases(PhasesParameter):
    """Names of phases with commas between them."""

    name = "phases"

    def convert(self, value: Any, param: click.Parameter | None, ctx: click.Context | None) -> tuple[str, ...]:
        from simpletune.bench.report import PHASES

        names = tuple(dict.fromkeys(name.strip() for name in str(value).split(",") if name.strip()))
        unknown = [name for name in names if name not in PHASES]
        if unknown:
            self.fail(f"{shown(unknown[0])!r} is no phase; there are {', '.join(PHASES)}", param, ctx)
        if not names:
            self.fail(f"name at least one of {', '.join(PHASES)}", param, ctx)
        return names


@click.command()
@click.argument("config", required=False, type=click.Path(path_type=Path))
@click.option(
    "--set", "overrides", type=KeyValue(), multiple=True, metavar="KEY=VALUE", help="Override a key of CONFIG."
)
@click.option(
    "--steps", type=click.IntRange(1, 10_000), metavar="N", help="Steps that are timed; default: 20, fewer if slow."
)
@click.option("--phases", type=Phases(), metavar="NAMES", help="Of text,images,train,sample; default: all sensible.")
@click.option("--against", type=click.Choice(["eager"]), help="Also time a plain loop of PEFT, autocast and quanto.")
@click.option("--sweep", is_flag=True, help="A table of all precisions, checkpointing and batches for this card.")
@click.option("--device", type=click.Choice(["auto", "cuda", "mps", "cpu"]), help="[device]")
@click.option("--json", "as_json", is_flag=True, help="Print the figures as JSON.")
@click.option("--output", type=click.Path(path_type=Path), metavar="FILE", help="Also write the figures as JSON.")
def bench(config: Path | None, overrides: tuple[str, ...], device: str | None, **asked: Any) -> int:
    """Time each phase of a run as CONFIG says it, at real size with random weights: nothing is downloaded, no picture
    is needed.

    Without CONFIG: sd3-medium with the default settings on a GPU, the built-in tiny model on a processor. Exits with 1
    when a phase that was asked for could not be measured.
    """
    reporter = terminal_reporter()
    _check_output(asked["output"])
    from simpletune.bench.subject import subject_of

    subject = subject_of(None if config is None else named_config(config), overrides, device)
    if asked["sweep"]:
        if asked["phases"] or asked["against"]:
            raise UsageError("--sweep measures training alone", "leave out --phases and --against")
        chosen = (*overrides, f"device={device}") if device else overrides
        return _sweep(subject, config, chosen, asked, reporter)
    return _once(subject, asked, reporter)


def _once(subject: Subject, asked: dict[str, Any], reporter: Reporter) -> int:
    from simpletune.bench.run import Order, measure
    from simpletune.bench.table import lines

    order = Order(asked["steps"], asked["phases"], eager=asked["against"] == "eager")
    report = measure(subject, order, reporter)
    _write(asked, report.as_json(), [_painted(text) for text in lines(report)])
    return 1 if report.failures else 0


def _sweep(
    subject: Subject, config: Path | None, overrides: Sequence[str], asked: dict[str, Any], reporter: Reporter
) -> int:
    """The table, a line as soon as its row is there."""
    from simpletune.bench import sweep
    from simpletune.machine import bench_results
    from simpletune.machine.forecast import way_of

    card, rows, length = subject.device.name, [], subject.extent.steps
    overrides = (*overrides, *sweep.as_long(length))
    measure = sweep.Subprocess(None if config is None else named_config(config), overrides, asked["steps"])
    cases = len(sweep.PRECISIONS) * 2 * len(sweep.BATCHES)
    if not asked["as_json"]:
        click.echo(f"{subject.settings.model_flavour} on {card}")
        click.echo(f"steps as a run of {length:,} takes them: {way_of(subject.plan)}\n\n{sweep.HEADING}")
    try:
        with reporter.phase("Measuring", cases, "row") as phase:
            for row in sweep.sweep(subject.plan, measure):
                rows.append(row)
                phase.advance()
                if not asked["as_json"]:
                    _print_above_bar(sweep.line(row, str(way_of(subject.plan))))
                try:
                    bench_results.save(card, [row])
                except OSError as error:
                    reporter.warn(f"the row isn't kept for estimates: {in_words(error)}")
    finally:  # Ctrl-C after an hour: what is measured is measured
        if rows:
            _write(asked, sweep.as_json(rows), ["", *sweep.verdict(rows)])
    return 0 if sweep.best(rows) else 1


def _print_above_bar(line: str) -> None:
    """click.echo would write into the line that a live bar stands in: it goes around what replaces sys.stdout."""
    sys.stdout.write(f"{line}\n")
    sys.stdout.flush()


def _write(asked: dict[str, Any], figures: Any, text: Sequence[str]) -> None:
    from simpletune.files import write_json

    click.echo(json.dumps(figures, indent=2) if asked["as_json"] else "\n".join(text))
    path = asked["output"]
    if path is None:
        return
    try:
        write_json(path, figures)
    except OSError as error:
        raise _unwritable(path, in_words(error)) from error
    if not asked["as_json"]:
        click.echo(f"\nall figures: {shown(display(path))}")


def _check_output(path: Path | None) -> None:
    """Measuring takes minutes: what can be known of the file is said before."""
    if path is None:
        return
    folder = path.absolute().parent
    if not folder.is_dir():
        raise UsageError(f"--output: {shown(str(folder))} is not a folder", "create it first")
    if path.is_dir():
        raise _unwritable(path, "it is a folder")
    try:
        with tempfile.TemporaryFile(dir=folder):
            pass
    except OSError as error:
        raise _unwritable(path, in_words(error)) from error


def _unwritable(path: Path, reason: str) -> UsageError:
    return UsageError(
        f"--output: {shown(str(path))} can't be written: {reason}", "name a file in a folder you may write to"
    )


def _painted(text: str) -> str:
    """A block's name in colour, on a terminal that wants it."""
    from simpletune.bench.table import name_of

    name = name_of(text)
    if name is None or not wants_colour(sys.stdout):
        return text
    return click.style(name, fg="cyan", bold=True) + text[len(name) :]
