"""`simpletune import PATH...`: SimpleTuner's files as ours, with a report of what became of every key."""

from __future__ import annotations

import json
import os
import sys
from pathlib import Path
from typing import Any

import click

from simpletune.cli.display import problem_text
from simpletune.config.document import display
from simpletune.config.journal import OWN_FOLDER, write_together
from simpletune.config.problems import errors, shown
from simpletune.config.simpletuner import Imported, import_files
from simpletune.config.simpletuner_report import summary, text
from simpletune.config.validate import exit_code
from simpletune.errors import UsageError
from simpletune.redact import redact


@click.command("import")
@click.argument("paths", nargs=-1, required=True, type=click.Path(path_type=Path), metavar="PATH...")
@click.option(
    "--output", default="simpletune-config", type=click.Path(path_type=Path), metavar="DIR", show_default=True,
    help="Where to write.",
)  # fmt: skip
@click.option(
    "--root", type=click.Path(path_type=Path), metavar="DIR",
    help="The folder SimpleTuner was started in, which its relative paths mean.",
)  # fmt: skip
@click.option("--lora-type", type=click.Choice(["standard"]), help="Train this kind of LoRA instead of a LyCORIS.")
@click.option("--dry-run", is_flag=True, help="Report only, write nothing.")
@click.option("--force", is_flag=True, help="Replace files that are in DIR; they are kept as .bak.")
@click.option("--json", "as_json", is_flag=True, help="Print the report as JSON.")
def import_(
    paths: tuple[Path, ...], output: Path, root: Path | None, lora_type: str | None, dry_run: bool, force: bool,
    as_json: bool,
) -> int:  # fmt: skip
    """Turn a configuration of SimpleTuner into one of simpletune.

    PATH is the folder it is in, its config.json (or .toml, .env), and the data file if that is elsewhere. SimpleTuner's
    files stay as they are. Exits as `simpletune validate` would on the result; with 2 and nothing written when the
    configuration can't be imported.
    """
    result = import_files(paths, output, root=root, lora_type=lora_type)
    _refuse_overwriting(result, force)
    if not dry_run:
        write_together(next(iter(result.contents)), result.contents)
    if as_json:
        click.echo(json.dumps(_as_json(result, dry_run), indent=2, ensure_ascii=False))
    else:
        _tell(result, dry_run)
    return exit_code(result.problems)


def _refuse_overwriting(result: Imported, force: bool) -> None:
    sources = {os.path.realpath(path) for path in result.sources}
    for path, content in result.contents.items():
        if os.path.realpath(path) in sources:
            message = f"{display(path)} is one of the files being imported, and those are never written to"
            raise UsageError(message, "choose another folder with --output")
        if path.exists() and not force and path.parent.name != OWN_FOLDER and path.read_bytes() != content:
            hint = "choose another folder with --output, or --force to replace it (a copy is kept as .bak)"
            raise UsageError(f"{display(path)} exists already", hint)


def _tell(result: Imported, dry_run: bool) -> None:
    for path in result.sources:
        click.echo(f"read {_shown(display(path))}")
    click.echo(f"relative paths there are meant from {_shown(result.root)}")
    click.echo(f"  ({_shown(result.why_root)}; --root DIR says otherwise)\n")
    click.echo(text(result.lines))
    click.echo(f"\n{summary(result.lines)}")
    written = [_shown(display(path)) for path in result.contents if path.parent.name != OWN_FOLDER]
    for name in written:
        click.echo(f"{'would write' if dry_run else 'wrote'} {name}")
    found = errors(result.problems)
    remarks = [problem for problem in result.problems if problem not in found]
    for heading, problems in (("to know:", remarks), ("left to do before it can train:", found)):
        if problems:
            click.echo(f"\n{heading}\n{problem_text(problems, sys.stdout)}")
    if not found and not dry_run:
        click.echo(f"next: simpletune train {written[0]} --dry-run")


def _shown(value: object) -> str:
    return shown(redact(str(value)))


def _as_json(result: Imported, dry_run: bool) -> dict[str, Any]:
    return {
        "root": _shown(result.root),
        "sources": [_shown(path) for path in result.sources],
        "written": [] if dry_run else [_shown(path) for path in result.contents],
        "lines": [line.as_json() for line in result.lines],
        "problems": [problem.as_json() for problem in result.problems],
    }
