"""`simpletune doctor [CONFIG]`: whether this machine, the model and the two files are ready for training."""

from __future__ import annotations

import json
import shutil
import sys
from collections.abc import Iterator
from dataclasses import asdict
from pathlib import Path
from typing import TextIO

import click

from simpletune.cli.display import PLACES, named_config, wants_colour
from simpletune.config.journal import recover
from simpletune.config.problems import shown
from simpletune.errors import EnvironmentNotReady
from simpletune.wizard.checks import FAILED, OK, SKIPPED, WARNING, Check, checks, ready
from simpletune.wizard.text import padded, width, wrap

MARKS = {OK: "✓", WARNING: "!", FAILED: "✗", SKIPPED: "-"}
_PLAIN_MARKS = {OK: "+", WARNING: "!", FAILED: "x", SKIPPED: "-"}
_COLOURS = {OK: "green", WARNING: "yellow", FAILED: "red", SKIPPED: None}
_NAMES = 17  # columns of the longest name, and a space
_NARROW, _WIDE = 60, 100


@click.command()
@click.argument("config", required=False, type=click.Path(path_type=Path))
@click.option("--json", "as_json", is_flag=True, help="Print an array of {name, status, detail, next_step}.")
@click.option("--deep", is_flag=True, help="Also load PyTorch and compute something on the device.")
@click.option("--offline", is_flag=True, help="Ask neither the hub nor the package index.")
def doctor(config: Path | None, as_json: bool, deep: bool, offline: bool) -> int:
    """Check this machine, the model and the package index; and CONFIG (default: config.json here, else
    config/config.json), its data sets, and whether they fit.

    Exits with 0 when training can start, 3 when something is missing: what to do stands below it.
    """
    path = named_config(config) if config else next((place for place in PLACES if place.is_file()), None)
    if path is not None and (note := recover(path)):
        click.echo(f"note: {shown(note)}", err=True)
    found = []
    for check in checks(path, online=not offline, deep=deep):
        found.append(check)
        if not as_json:
            click.echo("\n".join(check_lines(check, sys.stdout)))
    if as_json:
        click.echo(json.dumps([asdict(check) for check in found], indent=2, ensure_ascii=False))
    else:
        click.echo("\n".join(["", *wrap(verdict(found), _columns())]))
    return 0 if ready(found) else EnvironmentNotReady.exit_code


def check_lines(check: Check, stream: TextIO, columns: int | None = None) -> Iterator[str]:
    """A mark, what was looked at and what was found; below it what to do. Narrow terminals get the name by itself."""
    columns = columns or _columns()
    marks = MARKS if _has(stream, "".join(MARKS.values())) else _PLAIN_MARKS
    mark = marks[check.status]
    if columns < _NARROW:
        first, rest = f"{mark} {check.name}: ", "  "
    else:
        first, rest = f"{mark} {padded(check.name, _NAMES)}", " " * (_NAMES + 2)
    lines = wrap(check.detail, columns, first, rest)
    if wants_colour(stream):
        lines[0] = click.style(mark, fg=_COLOURS[check.status], bold=True) + lines[0][width(mark) :]
    yield from lines
    if check.next_step:
        arrow = "→ " if _has(stream, "→") else "> "
        step = wrap(check.next_step, columns, rest + arrow, rest + "  ", break_words=False)
        yield from [click.style(line, fg="cyan") for line in step] if wants_colour(stream) else step


def verdict(found: list[Check]) -> str:
    """The last line."""
    failed = sum(check.status == FAILED for check in found)
    warned = sum(check.status == WARNING for check in found)
    also = f", with {_count(warned, 'warning')}" if warned else ""
    if failed:
        return f"not ready: {_count(failed, 'thing')} to do first{also}"
    about_files = any(check.name == "data sets" for check in found)
    return f"ready to train{also}" if about_files else f"nothing failed{also}; next: simpletune configure"


def _count(number: int, what: str) -> str:
    return f"{number} {what}{'s' * (number != 1)}"


def _columns() -> int:
    return min(_WIDE, shutil.get_terminal_size((80, 24)).columns)


def _has(stream: TextIO, characters: str) -> bool:
    """Whether the encoding of `stream` has the characters."""
    try:
        characters.encode(stream.encoding or "ascii")
    except (UnicodeEncodeError, LookupError):
        return False
    return True
