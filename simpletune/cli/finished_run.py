"""Which run a command is about: its output folder, or the config.json that was trained; and from one to the other."""

from __future__ import annotations

import json
import os
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from simpletune.cli.display import find_config
from simpletune.errors import ConfigError, UsageError

if TYPE_CHECKING:
    from simpletune.config.settings import Settings

_ABOVE = 3  # folders above a run's in which its config.json is looked for


def find_run(named: Path | None) -> tuple[Path, Settings | None]:
    """The run's folder, and what its config.json says now where that was named (or found here).

    Raises UsageError when there is none, ConfigError for a config with errors.
    """
    from simpletune.config.load import load_for_elsewhere
    from simpletune.results.report.run import is_run

    folder = named.expanduser() if named is not None else None
    if folder is not None and folder.is_dir() and (is_run(folder) or not (folder / "config.json").is_file()):
        return folder, None  # reading one that is no run says so
    config = find_config(folder)
    if not config.is_file():
        raise UsageError(f"there is no {config}", "name the output folder of a run, or its config.json")
    settings = load_for_elsewhere(config)[0]
    return settings.output_dir, settings


def config_of_run(folder: Path) -> Path:
    """The config.json near a run's output folder that names it as its output_dir.

    Raises UsageError where there is none, with the command for one that was trained there with --set.
    """
    from simpletune.config.document import display

    run = Path(os.path.abspath(folder))  # noqa: PTH100
    described = _described(run)
    near = [(config, output) for config in _configs(run, described) if (output := _output_of(config)) is not None]
    for config, output in near:
        if output == run:
            return config
    context = click.get_current_context(silent=True)
    command = context.command_path if context is not None else "simpletune"
    hint = f"name the config.json that it was trained with: {command} path/to/config.json"
    if near and (over := _put_over(described)):
        from simpletune.trainer.asked import named, quoted

        hint = f"if it was trained with {display(near[0][0])}:\n    "
        hint += quoted([*command.split(), named(near[0][0]), *over])
    raise UsageError(
        f"{display(folder)} is a run's output folder, and no config.json around it has it as its output_dir", hint
    )


def _described(run: Path) -> Mapping[str, Mapping[str, Any]]:
    """What run.json says of each key of the config; nothing where it can't be read."""
    from simpletune import outside
    from simpletune.results.run_folder import RUN_FILE

    try:
        config = outside.read_json(run / RUN_FILE)["config"]
        return {str(key): entry for key, entry in config.items() if "value" in entry and "origin" in entry}
    except (OSError, ValueError, KeyError, TypeError, AttributeError):
        return {}


def _configs(run: Path, described: Mapping[str, Mapping[str, Any]]) -> Iterator[Path]:
    """Files around a run that may be its config, the nearest first."""
    origins = [str(entry["origin"]).partition(":") for entry in described.values()]
    names = dict.fromkeys([*(name for name, colon, _ in origins if colon and name == Path(name).name), "config.json"])
    for above in run.parents[:_ABOVE]:
        for place in (above, above / "config"):
            yield from (place / name for name in names if (place / name).is_file())


def _output_of(config: Path) -> Path | None:
    from simpletune.config.load import load_for_elsewhere

    try:
        return load_for_elsewhere(config)[0].output_dir
    except ConfigError:
        return None


def _put_over(described: Mapping[str, Mapping[str, Any]]) -> list[str]:
    """The --set that a run was started with, where output_dir was among them."""
    from simpletune.config.document import display

    values = {key: entry["value"] for key, entry in described.items() if entry["origin"] == "--set"}
    if not isinstance(values.get("output_dir"), str):
        return []
    values["output_dir"] = display(Path(values["output_dir"]))
    typed = {key: value if isinstance(value, str) else json.dumps(value) for key, value in values.items()}
    return [word for key, value in typed.items() for word in ("--set", f"{key}={value}")]
