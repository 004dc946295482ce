"""The file of a sweep: which config, which keys take which values, and whether each run is evaluated.

    {
      "config": "config.json",
      "output_dir": "sweep",
      "axes": {
        "lora_rank": [4, 16],
        "adapter": {"plain": {}, "dora": {"use_dora": true}}
      },
      "evaluate": ["--seeds", "4"]
    }

An axis is a key with a list of values, or a name of one's own with named sets of keys. Keys of data sets are written as
for --set: "dataset.0.repeats".
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from simpletune.config.check import label
from simpletune.config.document import Document
from simpletune.config.jsonfile import JsonPath
from simpletune.config.problems import Problem, errors, quoted
from simpletune.config.schema import config_keys
from simpletune.errors import ConfigError

CONFIG, OUTPUT, AXES, EVALUATE = "config", "output_dir", "axes", "evaluate"
_OWN = frozenset({"$schema", "output_dir", "data_backend_config", "resume_from_checkpoint"})
"""Keys that say what a run is, not what is learned: the sweep sets them itself, or they can't differ."""
LARGEST = 10_000
"""Combinations: more of them are a mistake."""


@dataclass(frozen=True)
class Choice:
    """One value of an axis: its name in tables, what it sets, and where it stands in the file."""

    name: str
    keys: Mapping[str, Any]
    place: JsonPath


@dataclass(frozen=True)
class Axis:
    name: str
    choices: tuple[Choice, ...]


@dataclass(frozen=True)
class SweepFile:
    """What a sweep's file says; paths are absolute. `evaluate`: the words after `simpletune evaluate CONFIG`, None
    where nothing is evaluated."""

    document: Document
    config: Path
    output_dir: Path
    axes: tuple[Axis, ...]
    evaluate: tuple[str, ...] | None


def read(path: Path) -> SweepFile:
    """Read and check a sweep's file, without looking at what its combinations come to.

    Raises ConfigError with every problem and where it stands.
    """
    document = Document.open(path)
    problems = [*document.syntax_problems(), *_problems(document)]
    if found := errors(problems):
        many = f"{len(found)} errors" if len(found) > 1 else "an error"
        raise ConfigError(f"{many} in {document.name}", "correct the file and try again", problems)
    value, folder = document.value, Path.cwd() / path.parent
    evaluate = value.get(EVALUATE, False)
    words = None if evaluate is False else () if evaluate is True else tuple(evaluate)
    return SweepFile(
        document,
        folder / Path(value.get(CONFIG, "config.json")).expanduser(),
        folder / Path(value.get(OUTPUT, path.stem)).expanduser(),
        tuple(_axis(name, given) for name, given in value[AXES].items()),
        words,
    )


def _axis(name: str, given: Any) -> Axis:
    if isinstance(given, dict):
        return Axis(name, tuple(Choice(one, keys, (AXES, name, one)) for one, keys in given.items()))
    return Axis(name, tuple(Choice(_said(one), {name: one}, (AXES, name, i)) for i, one in enumerate(given)))


def _said(value: Any) -> str:
    return value if isinstance(value, str) else quoted(value)


def _problems(document: Document) -> Iterator[Problem]:
    value = document.value
    if not isinstance(value, dict):
        if not document.file.problems:
            yield document.problem((), "the file must hold an object", 'such as {"axes": {"lora_rank": [4, 16]}}')
        return
    known = (CONFIG, OUTPUT, AXES, EVALUATE, "$schema")
    for key in value:
        if key not in known:
            hint = f"it goes into {quoted(AXES)}" if key in config_keys() else f"known are {', '.join(known[:-1])}"
            yield document.problem((key,), f"unknown key {quoted(key)}", hint, on_key=True)
    for key in (CONFIG, OUTPUT):
        if key in value and not (isinstance(value[key], str) and value[key]):
            yield document.problem((key,), f"{label((key,))} must be a path in quotes, not {quoted(value[key])}")
    evaluate = value.get(EVALUATE, False)
    listed = isinstance(evaluate, list) and all(isinstance(word, str) for word in evaluate)
    if not listed and not isinstance(evaluate, bool):
        hint = f'write "{EVALUATE}": ["--seeds", "4"]; true for no options'
        yield document.problem((EVALUATE,), f'"{EVALUATE}" must be true, false, or options in a list', hint)
    if not isinstance(value.get(AXES), dict) or not value[AXES]:
        hint = f'write "{AXES}": {{"lora_rank": [4, 16]}}'
        yield document.problem((AXES,), f'"{AXES}" must be an object with the keys that vary', hint)
        return
    for name, given in value[AXES].items():
        yield from _axis_problems(document, name, given)
    if not document.bad:
        yield from _twice(document)


def _axis_problems(document: Document, name: str, given: Any) -> Iterator[Problem]:
    place: JsonPath = (AXES, name)
    if isinstance(given, list):
        yield from _key_problem(document, place, name)
        if not given:
            yield document.problem(place, f"{quoted(name)} has no values")
        for index, value in enumerate(given):
            if any(type(value) is type(earlier) and value == earlier for earlier in given[:index]):
                yield document.problem((*place, index), f"{quoted(value)} stands twice in {quoted(name)}")
    elif isinstance(given, dict):
        if not given:
            yield document.problem(place, f"{quoted(name)} has no values")
        for one, keys in given.items():
            if not isinstance(keys, dict):
                message = f"{quoted(one)} must be an object with keys of config.json, not {quoted(keys)}"
                yield document.problem((*place, one), message, "{} sets nothing")
                continue
            for key in keys:
                yield from _key_problem(document, (*place, one, key), key)
    else:
        hint = f'write "{name}": [{quoted(given)}]'
        yield document.problem(place, f"{quoted(name)} must be a list of values, or an object with named ones", hint)


def _key_problem(document: Document, place: JsonPath, key: str) -> Iterator[Problem]:
    """Whether it is a key at all is found where combinations are checked, as for --set."""
    if key in _OWN or not key or "=" in key:
        yield document.problem(place, f"{quoted(key)} can't vary", "every run has a folder of its own", on_key=True)


def _twice(document: Document) -> Iterator[Problem]:
    """A key that two axes set: one of them would be without effect."""
    owner: dict[str, str] = {}
    for name, given in document.value[AXES].items():
        sets = given.values() if isinstance(given, dict) else [{name: None}]
        for key in dict.fromkeys(key for keys in sets for key in keys):
            if key in owner:
                message = f"{quoted(key)} is set by two axes, {quoted(owner[key])} and {quoted(name)}"
                yield document.problem((AXES, name), message, on_key=True)
            owner.setdefault(key, name)
