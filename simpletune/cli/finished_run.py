"""Which run a command is about: its output folder, or the config.json that was trained."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING

from simpletune.cli.display import find_config
from simpletune.errors import UsageError

if TYPE_CHECKING:
    from simpletune.config.settings import Settings


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
