"""`simpletune validate [CONFIG]`: every problem of the two files and of the pictures, before anything loads."""

from __future__ import annotations

import json
import sys
from collections.abc import Sequence
from pathlib import Path

import click

from simpletune.cli.display import find_config, problem_text
from simpletune.cli.keys import KeyValue
from simpletune.config.journal import recover
from simpletune.config.load import settings_of
from simpletune.config.problems import Problem, errors, shown, tidy
from simpletune.config.validate import check, exit_code
from simpletune.errors import UsageError


@click.command()
@click.argument("config", required=False, type=click.Path(path_type=Path))
@click.option(
    "--set",
    "overrides",
    type=KeyValue(),
    metavar="KEY=VALUE",
    multiple=True,
    help="Check with this value; may be repeated.",
)
@click.option("--json", "as_json", is_flag=True, help="Print the problems as a JSON array.")
def validate(config: Path | None, overrides: tuple[str, ...], as_json: bool) -> int:
    """Check CONFIG (default: config.json here, else config/config.json), the data file it names, and the pictures.

    Exits with 0 when training can start, 2 when a file has to be changed, 3 when this machine lacks something.
    """
    path = find_config(config)
    if note := recover(path):
        click.echo(f"note: {shown(note)}", err=True)
    problems, summary = _examine(path, overrides)
    if as_json:
        click.echo(json.dumps([problem.as_json() for problem in problems], indent=2))
        return exit_code(problems)
    if problems:
        click.echo(problem_text(problems, sys.stdout))
    click.echo(_count(problems) if errors(problems) else summary)
    return exit_code(problems)


def _examine(path: Path, overrides: Sequence[str]) -> tuple[list[Problem], str]:
    """All problems, and the line that is shown when none is an error."""
    checked = check(path, overrides)
    problems = list(checked.problems)
    if exit_code(problems) == UsageError.exit_code:
        return problems, ""  # pictures can be looked at only when the files are right
    from simpletune.data.preflight import preflight

    settings = settings_of(path, checked.view)
    looked = preflight(settings)
    problems += [tidy(problem) for problem in looked.problems]
    names = f"{path.name} and {settings.data_backend_config.name}"
    return problems, shown(f"{names} are valid: {looked.summary()}")


def _count(problems: Sequence[Problem]) -> str:
    wrong = len(errors(problems))
    warned = len(problems) - wrong
    text = f"{wrong} error{'s' * (wrong != 1)}"
    return f"{text}, {warned} warning{'s' * (warned != 1)}" if warned else text
