"""`simpletune data [CONFIG]`: what is in the data sets and what will happen to it, in lines, as JSON or as a page."""

from __future__ import annotations

import json
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING

import click

from simpletune.cli.display import find_config, problem_text
from simpletune.cli.keys import KeyValue
from simpletune.config.journal import recover
from simpletune.config.load import load_for_elsewhere
from simpletune.config.problems import errors, shown, tidy
from simpletune.errors import DataError, EnvironmentNotReady, UsageError

if TYPE_CHECKING:
    from simpletune.config.settings import Settings
    from simpletune.data.caches.verify import Verified
    from simpletune.data.preflight import Preflight
    from simpletune.data.report import DataReport
    from simpletune.progress import Reporter

_COMPARED_UNASKED = 2_000


@click.command()
@click.argument("config", required=False, type=click.Path(path_type=Path))
@click.option(
    "--set",
    "overrides",
    type=KeyValue(),
    metavar="KEY=VALUE",
    multiple=True,
    help="Look with this value; may be repeated.",
)
@click.option(
    "--html", type=click.Path(path_type=Path), metavar="FILE", help="Write a page with the pictures and crops."
)
@click.option("--open", "open_it", is_flag=True, help="Open the page (data.html if --html names none).")
@click.option("--json", "as_json", is_flag=True, help="Print everything as JSON.")
@click.option("--all", "everything", is_flag=True, help="Name every excluded picture and every duplicate.")
@click.option(
    "--duplicates/--no-duplicates",
    default=None,
    help=f"Look for pictures that look alike; by default among up to {_COMPARED_UNASKED:,}.",
)
@click.option(
    "--verify", is_flag=True, help="Trust nothing: hash every picture again, and read every entry of the caches."
)
def data(
    config: Path | None,
    overrides: tuple[str, ...],
    html: Path | None,
    open_it: bool,
    as_json: bool,
    everything: bool,
    duplicates: bool | None,
    verify: bool,
) -> int:
    """Say what is in the data sets of CONFIG (default: config.json here, else config/config.json) and what training
    will make of them: counts, the reason for every exclusion, buckets and crops, captions, duplicates, disk.

    The pictures are only read. Exits with 0 when they can be trained on, else with 2.
    """
    path = find_config(config)
    if note := recover(path):
        click.echo(f"note: {shown(note)}", err=True)
    from simpletune.progress import terminal_reporter

    reporter = terminal_reporter()
    settings, looked, verified = _look(path, overrides, reporter, verify)
    report = _report(settings, looked, reporter, duplicates)
    if as_json:
        from simpletune.data.report import as_json as told

        further = {} if verified is None else {"verified": verified.as_json()}
        click.echo(json.dumps({**told(report), **further}, indent=2, ensure_ascii=False))
    else:
        _print(report, everything, verified)
    if html or open_it:
        _write_page(report, html or Path("data.html"), reporter, open_it)
    return UsageError.exit_code if errors(looked.problems) else 0


def _look(
    path: Path, overrides: Sequence[str], reporter: Reporter, verify: bool
) -> tuple[Settings, Preflight, Verified | None]:
    """The settings, what a look at the pictures found, and with `verify` what hashing all of them did."""
    from simpletune.data.index import Index, index_path
    from simpletune.data.preflight import preflight

    settings, _ = load_for_elsewhere(path, overrides)
    known = {image_set.id: Index.load(index_path(image_set)) for image_set in settings.image_sets} if verify else {}
    looked = preflight(settings, reporter=reporter, verify=verify)
    verified = None
    if verify:
        from simpletune.data.caches.verify import verify as check

        verified = check(settings, looked, known, reporter)
    try:
        looked.save_indexes()
    except DataError as error:  # a full disk is no reason to say nothing
        reporter.warn(f"{error.message}; the next look takes as long as this one")
    return settings, looked, verified


def _report(settings: Settings, looked: Preflight, reporter: Reporter, wanted: bool | None) -> DataReport:
    from simpletune.data.report import gather
    from simpletune.data.report.duplicates import INSTALL, can_find_near

    near = wanted if wanted is not None else can_find_near() and looked.used <= _COMPARED_UNASKED
    if near and not can_find_near():
        raise EnvironmentNotReady("pictures that look alike are found by ImageHash, which is not installed", INSTALL)
    return gather(settings, looked, reporter, near=near)


def _print(report: DataReport, everything: bool, verified: Verified | None) -> None:
    from simpletune.data.report.lines import lines

    for line in (*lines(report, everything=everything), *(verified.lines() if verified else ())):
        click.echo(shown(line))
    problems = [tidy(problem) for problem in report.further_problems]
    if problems:
        click.echo(problem_text(problems, sys.stdout))


def _write_page(report: DataReport, path: Path, reporter: Reporter, open_it: bool) -> None:
    from simpletune import files
    from simpletune.data.report.page import page

    try:
        files.write_text(path, page(report, reporter))
    except OSError as error:
        raise UsageError(f"{path} can't be written: {error.strerror}", "name another file with --html") from error
    reporter.note(f"the page: {path}")
    if open_it:
        click.launch(str(path))
