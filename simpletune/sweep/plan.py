"""The runs of a sweep: every combination, named, and checked before the first one starts."""

from __future__ import annotations

import hashlib
import json
import math
import re
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from itertools import product
from pathlib import Path
from typing import Any

from simpletune.config.load import load, resolved
from simpletune.config.problems import Problem, errors, quoted
from simpletune.config.settings import Settings
from simpletune.errors import ConfigError
from simpletune.sweep.file import AXES, LARGEST, Choice, SweepFile

_UNFIT = re.compile(r"[^A-Za-z0-9._=+-]+")
_LONGEST_NAME = 120  # characters of a folder's name; file systems take 255 bytes
_SHOWN = 20  # problems of combinations


@dataclass(frozen=True)
class Planned:
    """One run. `values`: the names of its choices by axis; `overrides`: "key=value" as for --set; `digest` of all its
    settings: another one is another run."""

    name: str
    values: Mapping[str, str]
    overrides: tuple[str, ...]
    settings: Settings
    digest: str

    @property
    def folder(self) -> Path:
        return self.settings.output_dir


def plan(sweep: SweepFile) -> list[Planned]:
    """Every combination, the last axis changing fastest.

    Raises ConfigError with the problems of all combinations, placed in the sweep's file where they come from it, and
    what `load` raises for a machine or a model that isn't ready.
    """
    count = math.prod(len(axis.choices) for axis in sweep.axes)
    if count > LARGEST:
        problem = sweep.document.problem((AXES,), f"these are {count:,} combinations, {LARGEST:,} are the most")
        raise ConfigError(f"{sweep.document.name} asks for too much", "leave values out", [problem])
    if not sweep.config.is_file():
        raise ConfigError(f"there is no {sweep.config}", f'name it by "config" in {sweep.document.name}')
    planned: list[Planned] = []
    problems: dict[Problem, int] = {}
    for choices in product(*(axis.choices for axis in sweep.axes)):
        try:
            planned.append(_planned(sweep, choices))
        except ConfigError as error:
            for problem in errors(error.problems) or [Problem(sweep.document.name, 0, 0, "", error.message)]:
                found = _in_the_file(sweep, choices, problem)
                problems[found] = problems.get(found, 0) + 1
    if problems:
        told = [_counted(problem, times, count) for problem, times in problems.items()]
        many = f"{len(told)} errors" if len(told) > 1 else "an error"
        where = "the one combination" if count == 1 else f"the {count:,} combinations"
        message = f"{many} in {where} of {sweep.document.name}; nothing was started"
        raise ConfigError(message, "correct the file and try again", told[:_SHOWN])
    return planned


def _planned(sweep: SweepFile, choices: Sequence[Choice]) -> Planned:
    values = {axis.name: choice.name for axis, choice in zip(sweep.axes, choices, strict=True)}
    name = folder_name(values)
    keys = {key: value for choice in choices for key, value in choice.keys.items()}
    # As JSON, so that "4" in quotes stays the text that it is.
    overrides = (
        *(f"{key}={json.dumps(value)}" for key, value in keys.items()),
        f"output_dir={sweep.output_dir / name}",
    )
    settings = load(sweep.config, overrides)[0]
    return Planned(name, values, overrides, settings, _digest(settings))


def folder_name(values: Mapping[str, str]) -> str:
    """A folder's name that says the combination: "lora_rank=4,adapter=dora". Combinations that are too long, or hold
    what no folder's name may, end with a part of their SHA-256."""
    exact = ",".join(f"{axis}={value}" for axis, value in values.items())
    name = ",".join(_UNFIT.sub("-", f"{axis}={value}") for axis, value in values.items())
    if name == exact and len(name) <= _LONGEST_NAME:
        return name
    return f"{name[:_LONGEST_NAME]}-{hashlib.sha256(exact.encode()).hexdigest()[:8]}"


def _digest(settings: Settings) -> str:
    return hashlib.sha256(json.dumps(_values(resolved(settings)), sort_keys=True).encode()).hexdigest()


def _values(described: Any) -> Any:
    """What was resolved without where it came from: a line that moved in a file makes no other run."""
    if isinstance(described, Mapping):
        return {key: _values(entry) for key, entry in described.items() if key != "origin"}
    return [_values(entry) for entry in described] if isinstance(described, list) else described


def _in_the_file(sweep: SweepFile, choices: Sequence[Choice], problem: Problem) -> Problem:
    """The problem where the sweep's file sets the key that it is about; as it is where the file doesn't."""
    name = problem.file.removeprefix("--set ")
    for choice in choices if problem.file.startswith("--set ") else ():
        if name in choice.keys:
            listed = isinstance(choice.place[-1], int)
            place = choice.place if listed else (*choice.place, name)
            unknown = problem.message.startswith("unknown key")
            path = choice.place[:-1] if listed and unknown else place
            return sweep.document.problem(path, problem.message, problem.hint, on_key=unknown)
    return problem


def _counted(problem: Problem, times: int, all_of_them: int) -> Problem:
    """With how many combinations have it; what all of them have is the config's own."""
    if times == all_of_them:
        return problem
    return replace(problem, message=f"{problem.message} (in {times:,} of {all_of_them:,} combinations)")


def describe(sweep: SweepFile, planned: Sequence[Planned]) -> Iterator[str]:
    """What a sweep will do, in lines."""
    axes = " x ".join(f"{len(axis.choices)} {axis.name}" for axis in sweep.axes)
    yield f"{len(planned):,} run{'s' * (len(planned) != 1)}: {axes}, of {quoted(str(sweep.config))}"
