"""How a start was asked for, and the command lines that are proposed to somebody whose start can't be."""

from __future__ import annotations

import itertools
import os
import shlex
import subprocess
from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path

from simpletune.config.document import display
from simpletune.config.problems import errors
from simpletune.errors import ConfigError


@dataclass(frozen=True)
class Asked:
    """The file and the "key=value" of a start. new_folder: beside a run that is there. accept_data_change: a changed
    data set was said to be meant."""

    config: Path
    overrides: tuple[str, ...] = ()
    new_folder: bool = False
    accept_data_change: bool = False

    def having(self, values: Mapping[str, str]) -> Asked:
        """With other overrides for these keys, and for what is in them (`optimizer_config.eps`)."""
        return replace(self, overrides=(*self.without(values).overrides, *(f"{k}={v}" for k, v in values.items())))

    def without(self, keys: Collection[str]) -> Asked:
        """Without overrides for these keys."""
        kept = (one for one in self.overrides if one.partition("=")[0].partition(".")[0] not in keys)
        return replace(self, overrides=tuple(kept))

    def continuing(self, wish: str) -> Asked:
        """What goes on with the run once it is under way. wish: what `resume_from_checkpoint` is now."""
        return self if wish == "latest" else self.having({"resume_from_checkpoint": "latest"})

    def command(self, *flags: str) -> str:
        """The command line that starts it, with `flags` at its end, for the shell of this system."""
        settings = [word for one in self.overrides for word in ("--set", one)]
        return quoted([*_program(), named(self.config), *settings, *flags])

    def aside(self, folder: Path) -> str:
        """The command line that gives a run's folder another name, and starts."""
        move = "move" if os.name == "nt" else "mv"
        return f"{quoted([move, named(folder), named(discarded(folder))])} && {self.command()}"


def blamed(error: ConfigError) -> ConfigError:
    """The error of settings that can't be read, with a hint at --set where that alone is wrong."""
    wrong = errors(error.problems)
    if wrong and all(problem.file.startswith("--set") for problem in wrong):
        error.hint = "correct what was given with --set and try again"
    return error


def quoted(words: Sequence[str]) -> str:
    """Words as the shell of this system takes them for the same words."""
    return subprocess.list2cmdline(words) if os.name == "nt" else shlex.join(words)


def named(path: Path) -> str:
    """A path as it is typed here, and never like an option."""
    text = display(path)
    return f".{os.sep}{text}" if text.startswith("-") else text


def discarded(folder: Path) -> Path:
    """Where a run's folder goes that nobody wants any more: beside it, under a name that is free."""
    names = (f"{folder.name}-discarded{'' if n == 1 else f'-{n}'}" for n in itertools.count(1))
    return next(path for name in names if not (path := folder.with_name(name)).exists())


def _program() -> list[str]:
    """What starts a training: under a launcher that launcher, which is taken for torchrun."""
    processes = os.environ.get("LOCAL_WORLD_SIZE")
    if "RANK" not in os.environ or processes is None:
        return ["simpletune", "train"]
    return ["torchrun", "--nproc-per-node", processes, "-m", "simpletune.trainer"]
