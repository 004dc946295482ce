"""What the commands share: finding config.json, and how problems look (in colour only on a terminal that wants it)."""

from __future__ import annotations

import os
from collections.abc import Sequence
from pathlib import Path
from typing import TextIO

import click

from simpletune.config.problems import Problem, render
from simpletune.errors import UsageError

PLACES = (Path("config.json"), Path("config/config.json"))
_COLOURS = {"error": "red", "warning": "yellow"}


def find_config(named: Path | None) -> Path:
    """The config.json a command is about: the one named, or a named folder's; else the one here or in config/.

    Raises UsageError when none is named and there is none.
    """
    found = named_config(named) if named else next((place for place in PLACES if place.is_file()), None)
    if found is None:
        raise UsageError(
            "there is no config.json here, and none in config/",
            "`simpletune configure` makes one; or name it: path/to/config.json",
        )
    return found


def named_config(named: Path) -> Path:
    """What a name on the command line means: `~` understood, and of a folder the config.json in it."""
    path = Path(os.path.expanduser(named))  # noqa: PTH111
    return path / "config.json" if os.path.isdir(path) else path  # noqa: PTH112 - it never raises


def wants_colour(stream: TextIO) -> bool:
    """Whether colour is welcome: a terminal, no NO_COLOR, and not a dumb one."""
    return stream.isatty() and not os.environ.get("NO_COLOR") and os.environ.get("TERM") != "dumb"


def problem_text(problems: Sequence[Problem], stream: TextIO) -> str:
    """All problems as text for `stream`."""
    return "\n".join(_painted(problem) if wants_colour(stream) else render(problem) for problem in problems)


def _painted(problem: Problem) -> str:
    word = f" {problem.severity}: "
    colour = _COLOURS[problem.severity]
    head, _, rest = render(problem).partition("\n")
    place, _, message = head.partition(word)
    painted = f"{place}{click.style(word, fg=colour, bold=True)}{click.style(message, bold=True)}"
    lines = [click.style(line, fg="cyan") if line.startswith("hint: ") else line for line in rest.split("\n") if line]
    return "\n".join([painted, *lines])
