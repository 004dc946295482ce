"""`simpletune schema [NAME] [--write DIR]`: what an editor needs to complete and check the two files."""

from __future__ import annotations

import json
import os
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import click

from simpletune.config import jsonfile
from simpletune.config.document import display
from simpletune.config.editor_files import (
    SCHEMA_KEY,
    data_file_name,
    schema_copies,
    schema_reference,
    vscode_settings,
    vscode_settings_path,
)
from simpletune.config.journal import write_together
from simpletune.config.problems import shown
from simpletune.config.schema import CONFIG, DATA, config_keys, schema_path
from simpletune.errors import EnvironmentNotReady, UsageError

NAMES = (CONFIG, DATA)


@click.command()
@click.argument("name", type=click.Choice(NAMES), default=CONFIG, metavar="[NAME]")
@click.option(
    "--write",
    "folder",
    type=click.Path(path_type=Path, file_okay=False),
    metavar="DIR",
    help="Write both schemas for the config.json in DIR, and name them in VS Code's settings there.",
)
def schema(name: str, folder: Path | None) -> None:
    """Print the JSON Schema NAME, `config` (the default) or `multidatabackend`; or write both for an editor."""
    if folder is None:
        click.echo(schema_path(name).read_text(encoding="utf-8"), nl=False)
        return
    folder = Path(os.path.abspath(folder))  # noqa: PTH100
    config = jsonfile.read(folder / "config.json").value
    named = config if isinstance(config, dict) else {}
    copies = schema_copies(folder)
    refusal = None
    try:
        settings = _settings(folder, named)
    except UsageError as error:
        settings, refusal = {}, error
    backups = write_together(folder / "config.json", {**copies, **settings})
    for path in (*copies, *settings):
        click.echo(f"written: {shown(display(path))}")
    for path in backups:
        click.echo(f"kept as it was: {shown(display(path))}")
    if SCHEMA_KEY not in named:
        click.echo(f'to use it, put this first into config.json: "{SCHEMA_KEY}": {json.dumps(schema_reference())},')
    if refusal is not None:
        raise refusal


def _settings(folder: Path, config: Mapping[str, Any]) -> dict[Path, bytes]:
    """VS Code's settings of the folder, with the data file that config.json names."""
    path = vscode_settings_path(folder)
    try:
        existing = path.read_bytes() if path.exists() else None
    except OSError as error:
        raise EnvironmentNotReady(f"{path} can't be read: {error.strerror}", "allow reading it") from error
    named = config.get("data_backend_config")
    data = named if isinstance(named, str) else config_keys()["data_backend_config"]["default"]
    resolved = Path(os.path.normpath(folder / os.path.expanduser(data)))  # noqa: PTH111
    return vscode_settings(folder, data_file_name(folder, resolved), existing)
