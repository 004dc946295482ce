"""`simpletune report RUN...`: a page about a run, or several compared; plots as files."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING

import click

from simpletune.config.problems import shown
from simpletune.errors import UsageError
from simpletune.redact import redact

if TYPE_CHECKING:
    from simpletune.progress import Reporter
    from simpletune.results.report.measures import Measures
    from simpletune.results.report.run import Run
    from simpletune.results.report.write import Page

_PAUSE = 5
_NO_CONFIGS = {".html", ".safetensors", ".jsonl", ".png"}  # what a run's folder holds, and is named by mistake


@click.command()
@click.argument("runs", nargs=-1, type=click.Path(path_type=Path), metavar="RUN...")
@click.option("--open", "open_it", is_flag=True, help="Open the page.")
@click.option(
    "--output",
    type=click.Path(path_type=Path),
    metavar="FILE",
    help="Where the page goes; by default report.html in the run's folder, comparison.html here for several.",
)
@click.option(
    "--plots", type=click.Path(path_type=Path), metavar="FOLDER", help="Also draw each plot there, as PNG and SVG."
)
@click.option("--watch", is_flag=True, help="Write the page again and again until the run ends; it reloads itself.")
def report(runs: tuple[Path, ...], open_it: bool, output: Path | None, plots: Path | None, watch: bool) -> None:
    """Write one page about RUN, a config.json that was trained or its output folder: samples base beside fine-tuned,
    plots, metrics, data, settings, and how to use the adapter. Of several RUNs the page compares them.

    Without RUN: config.json here, else config/config.json. The page needs no network and no other file.
    """
    from simpletune.progress import terminal_reporter
    from simpletune.results.report.write import Page, write_plots

    reporter = terminal_reporter()
    page = Page(_folders(runs), output, measures)
    for folder in page.twice:
        reporter.note(f"{shown(str(folder))} was named twice; it is shown once")
    path = page.write(refresh=_PAUSE if watch else None)
    size = path.stat().st_size / 1e6
    reporter.note(f"the page: {shown(str(path))} ({size:.1f} MB)")
    if plots is not None:
        drawn = write_plots(page.read(), plots)
        reporter.note(f"{len(drawn)} plots in {shown(str(plots))}")
    if open_it:
        click.launch(str(path))
    if watch:
        _watch(page, reporter)


def _folders(runs: tuple[Path, ...]) -> list[Path]:
    """The runs' output folders. Raises UsageError for what is none, ConfigError for a config with errors."""
    from simpletune.cli.display import find_config
    from simpletune.results.report.run import is_run

    if not runs:
        return [_output_of(find_config(None))]
    found = []
    for run in runs:
        path = run.expanduser()
        if path.is_dir() and not is_run(path) and not (path / "config.json").is_file():
            found.append(path)  # reading it says what is wrong
        else:
            found.append(path if path.is_dir() and is_run(path) else _output_of(find_config(path)))
    return found


def _output_of(config: Path) -> Path:
    from simpletune.config.load import load_for_elsewhere
    from simpletune.results.report.run import is_run

    if not config.is_file():
        raise UsageError(f"there is no {config}", "name a config.json that was trained, or its output folder")
    if config.suffix.lower() in _NO_CONFIGS:
        raise UsageError(f"{config} is no config.json", f"name the output folder, such as {config.parent}")
    folder = load_for_elsewhere(config)[0].output_dir
    if not is_run(folder):
        raise UsageError(
            f"{config} has not been trained: there is no run in {folder}",
            f"`simpletune train {config}` first, or name the output folder of a run",
        )
    return folder


def measures(run: Run) -> Measures | None:
    """The run's evaluation; a damaged one is told, and is no reason to have no page."""
    from simpletune.evaluate.for_page import measures_of

    try:
        return measures_of(run)
    except UsageError as error:
        click.echo(f"warning: {shown(redact(error.message))}; {error.hint}", err=True)
        return None


def _watch(page: Page, reporter: Reporter) -> None:
    """Write the page again while a run goes on. Ctrl-C leaves a page that no longer reloads itself."""
    if not page.going:
        reporter.note("nothing is training there now: there is nothing to watch")
        return
    reporter.note("the page is written again while the run goes on; Ctrl-C stops that, not the run")
    try:
        page.keep_writing(_PAUSE)
    except KeyboardInterrupt:
        page.write()
    else:
        page.write()
        reporter.note("the run has ended; the page shows its end")
