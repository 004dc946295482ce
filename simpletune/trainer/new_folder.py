"""`simpletune train --new-folder`: a run beside the one that is there, in a folder with the next number."""

from __future__ import annotations

import os
import re
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from simpletune import files
from simpletune.config.document import display
from simpletune.config.settings import Settings
from simpletune.errors import ConfigError, UsageError
from simpletune.results.run_folder import list_checkpoints
from simpletune.trainer.asked import Asked

NOTE_FILE = "started-beside.json"
_NUMBERED = re.compile(r"(.+)-(\d+)")
_MOST = 10_000


def first_free(folder: Path) -> Path:
    """`folder` itself while nothing is in it; else output-2, output-3, ... whichever has nothing in it.

    Of a folder that has a number already, and stands beside the one without, the numbers go on.
    """
    return next(path for path in _candidates(folder) if is_free(path))


def beside(folder: Path) -> list[Path]:
    """The numbered folders beside a run's that hold something, the newest number first."""
    found = [path for path in _candidates(folder, most=100) if path != folder and not is_free(path)]
    return found[::-1]


def into_new_folder(settings: Settings, asked: Asked) -> Asked:
    """The same start in the first free folder. Raises UsageError where several processes would each look for one."""
    folder = first_free(settings.output_dir)
    if folder == settings.output_dir:
        return asked
    there = asked.having({"output_dir": display(folder)})
    if "RANK" in os.environ:
        raise UsageError("--new-folder isn't for several processes, which would each look for one", there.command())
    return there


def is_free(path: Path) -> bool:
    """Whether nothing is there but, at most, the note of a start that came to nothing."""
    try:
        return {entry.name for entry in path.iterdir()} <= {NOTE_FILE}
    except FileNotFoundError:
        return True
    except OSError:
        return False


def leave_note(folder: Path, instead_of: Path) -> None:
    """Keep in a new run's folder beside which one it was started. Raises ConfigError when that can't be written."""
    steps = max((step for step, _ in list_checkpoints(instead_of)), default=0)
    note: dict[str, Any] = {"started_beside": instead_of.name, "which_had_steps": steps}
    try:
        folder.mkdir(parents=True, exist_ok=True)
        files.write_json(folder / NOTE_FILE, note)
    except OSError as error:
        message = f"output_dir: {display(folder)} can't be written to: {error.strerror}"
        raise ConfigError(message, "make room there, or name another folder") from error


def said(folder: Path, instead_of: Path, asked: Asked) -> list[str]:
    """What somebody has to know of it at the start. asked: what continues the new run."""
    return [
        f"a new run in {display(folder)}; what is in {display(instead_of)} stays as it is",
        f"to continue this one later:\n    {asked.command()}",
    ]


def _candidates(folder: Path, most: int = _MOST) -> Iterator[Path]:
    yield folder
    stem, number = folder.name, 1
    match = _NUMBERED.fullmatch(folder.name)
    if match and folder.with_name(match[1]).is_dir():
        stem, number = match[1], int(match[2])
    yield from (folder.with_name(f"{stem}-{n}") for n in range(number + 1, number + most))
