"""`simpletune sweep FILE`: the same training with other values of some keys, every combination."""

from __future__ import annotations

import sys
from pathlib import Path
from typing import TYPE_CHECKING

import click

from simpletune.config.document import display
from simpletune.config.problems import shown
from simpletune.errors import SimpletuneError, UsageError
from simpletune.progress import terminal_reporter
from simpletune.redact import redact

if TYPE_CHECKING:
    from collections.abc import Sequence

    from simpletune.progress import Reporter
    from simpletune.sweep.file import SweepFile
    from simpletune.sweep.plan import Planned
    from simpletune.sweep.record import Record
    from simpletune.sweep.run import Places


@click.command()
@click.argument("file", type=click.Path(path_type=Path))
@click.option("--jobs", type=click.IntRange(1, 256), metavar="N", help="So many runs at a time, on one device. [1]")
@click.option("--devices", metavar="0,1,...", help="A run at a time on each of these GPUs, as nvidia-smi counts.")
@click.option("--dry-run", is_flag=True, help="Check every combination and name them; train nothing.")
def sweep(file: Path, jobs: int | None, devices: str | None, dry_run: bool) -> None:
    """Train every combination that FILE asks for, evaluate each where it says so, and compare them on one page.

    All combinations are checked before the first one starts. Ctrl-C saves; the same command goes on, and skips what is
    done. What came of the runs is printed, and kept as sweep.csv and comparison.html in the sweep's folder.
    """
    from simpletune.sweep.file import read
    from simpletune.sweep.plan import describe, plan
    from simpletune.sweep.run import run_sweep

    places = _places(jobs, devices)
    reporter = terminal_reporter()
    asked = read(file)
    _check_options(asked)
    planned = plan(asked)
    for line in describe(asked, planned):
        reporter.note(line)
    if dry_run:
        for run in planned:
            click.echo(shown(run.name))
        return
    try:
        record = run_sweep(asked, planned, places, reporter)
    except SimpletuneError:
        from simpletune.sweep.record import Record

        _show(asked, planned, Record.open(asked.output_dir), reporter)
        raise
    _show(asked, planned, record, reporter)


def _places(jobs: int | None, devices: str | None) -> Places:
    from simpletune.sweep.run import Places

    if devices is None:
        count = jobs or 1
        return Places((None,) * count, shown=count == 1 and sys.stderr.isatty())
    if jobs is not None:
        raise UsageError("--jobs and --devices are given", "give either one")
    cards = tuple(card.strip() for card in devices.split(","))
    if not all(card.isdecimal() for card in cards) or len(set(cards)) != len(cards):
        raise UsageError(f"--devices: {shown(devices)} isn't a list of numbers", "write --devices 0,1")
    _check_cards(cards)
    return Places(cards)


def _check_cards(cards: Sequence[str]) -> None:
    """Raises UsageError for a GPU that isn't there: what is given none of the cards would train on the processor."""
    from simpletune.machine.gpus import amd_gpus, nvidia_gpus

    there = sorted({gpu.index for gpu in nvidia_gpus().gpus or amd_gpus()})
    missing = next((card for card in cards if int(card) not in there), None)
    if missing is not None:
        none = "no GPU is found here, see `simpletune doctor`; --jobs N runs several at a time without one"
        hint = f"the numbers here are {', '.join(map(str, there))}" if there else none
        raise UsageError(f"--devices: there is no GPU {missing}", hint)


def _check_options(asked: SweepFile) -> None:
    """Raises ConfigError for options that `simpletune evaluate` doesn't know, before hours of training."""
    if asked.evaluate is None:
        return
    from simpletune.cli.evaluate import evaluate
    from simpletune.errors import ConfigError
    from simpletune.sweep.file import EVALUATE

    try:
        evaluate.make_context("evaluate", [str(asked.config), *asked.evaluate])
    except click.exceptions.Exit:
        message = "--help is no option of an evaluation"
    except click.ClickException as error:
        message = error.format_message()
    else:
        return
    problem = asked.document.problem((EVALUATE,), message, "`simpletune evaluate --help` lists them")
    raise ConfigError(f"an error in {asked.document.name}", "correct the file and try again", [problem])


def _show(asked: SweepFile, planned: Sequence[Planned], record: Record, reporter: Reporter) -> None:
    """The table, its file, and the page."""
    from simpletune.cli.report import measures
    from simpletune.results.report.write import COMPARISON_FILE, Page
    from simpletune.sweep.table import lines, rows, write

    found = rows(planned, record)
    if not found:
        return
    for line in lines(found):
        click.echo(shown(redact(line)))
    click.echo(f"all figures: {shown(display(write(asked.output_dir, found)))}")
    folders = [run.folder for run in planned if record.is_trained(run)]
    try:
        page = Page(folders, asked.output_dir / COMPARISON_FILE if len(folders) > 1 else None, measures).write()
    except UsageError as error:  # the runs are there, whatever is wrong with a page about them
        reporter.warn(f"no comparison: {error.message}")
        return
    click.echo(f"compared: {shown(display(page))}")
