"""What the wizard starts from: the files that are there, if they can be read, and values given on the command line."""

from __future__ import annotations

import os
from collections.abc import Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

from simpletune.config import jsonfile
from simpletune.config.document import Document
from simpletune.config.families import FAMILIES
from simpletune.config.jsonfile import JsonFile
from simpletune.config.problems import Problem, errors
from simpletune.config.schema import config_keys, entry_keys
from simpletune.config.suggest import unknown_config_key, unknown_entry_key
from simpletune.errors import ConfigError, UsageError
from simpletune.redact import looks_like_token
from simpletune.wizard.state import DATA_FILE, TEXT_EMBEDS, Base, State

Sets = Mapping[tuple[str | int, ...], Any]
DATASET = "dataset"
_BY_HAND = ("disabled",)
_ANY = {"id": "any", "instance_data_dir": "any", "s3_url": "s3://any", "dataset_name": "any/any"}
_MOST_DIGITS = 6


def read_base(config_path: Path, sets: Sets | None = None, *, refit: bool = False) -> Base:
    """The files at `config_path` as a beginning; a fresh one where there is no config.json. Raises nothing."""
    config = _read(config_path)
    if config is None:  # a data file made by hand is a beginning too
        fresh = Base(config_path, sets=sets or {})
        return replace(fresh, data_file=_read(_beside(config_path, fresh.data_name)))
    value = config.value if isinstance(config.value, dict) else {}
    data = _read(_beside(config_path, value.get("data_backend_config", DATA_FILE)))
    prompts = _read(_beside(config_path, value.get("validation_prompts_file")))
    lycoris = _read(_beside(config_path, value.get("lycoris_config")))
    return Base(config_path, config, data, prompts, sets or {}, refit, lycoris)


def _read(path: Path | None) -> JsonFile | None:
    """The file; None when there is none. One that can't be read has a problem that says so."""
    return jsonfile.read(path) if path is not None and os.path.exists(path) else None  # noqa: PTH110 - never raises


def _beside(config_path: Path, name: Any) -> Path | None:
    """The file that config.json names so."""
    if not isinstance(name, str):
        return None
    filled = name.replace("{model_family}", next(iter(FAMILIES)))
    return config_path.parent / os.path.expanduser(filled)  # noqa: PTH111


def broken(base: Base) -> list[Problem]:
    """What keeps the files from being a beginning: text that is no JSON, keys and values that the schemas refuse.

    Folders that aren't there and the like are no obstacle: they are asked for again.
    """
    from simpletune.config.check import check_config, check_data  # with jsonschema, which a fresh start doesn't need

    problems: list[Problem] = []
    for file, check in ((base.config_file, check_config), (base.data_file, check_data)):
        if file is not None:
            document = Document(file, file.value, bad=set(file.unreadable))
            problems += [*document.syntax_problems(), *check(document)]
    return errors(problems)


def parse_sets(texts: Sequence[str]) -> dict[tuple[str | int, ...], Any]:
    """The values of `--set key=value` and `--set dataset.0.key=value`, typed by the schemas.

    Raises UsageError for what is no such text or names no key, ConfigError for values that the schemas refuse.
    """
    values = dict(_parse_set(text) for text in texts)
    if problems := [problem for path, value in values.items() for problem in _refused(path, value)]:
        raise ConfigError("--set gives what can't be", "`simpletune explain KEY` says what a key takes", problems)
    return values


def _parse_set(text: str) -> tuple[tuple[str | int, ...], Any]:
    from simpletune.config.overrides import typed

    name, equals, raw = text.partition("=")
    if not equals or not name:
        hint = "write --set learning_rate=5e-5, or --set dataset.0.repeats=2 for the first data set"
        raise UsageError(f"--set {text!r} is not of the form key=value", hint)
    if looks_like_token(raw):
        raise UsageError(f"--set {name} holds something that looks like an access token", "run `hf auth login` instead")
    if name.partition(".")[0] == DATASET:
        path = _data_path(name)
        if path[2] == "dataset_type" and raw == TEXT_EMBEDS:
            raise UsageError(
                f"--set {name}: a set of pictures can't be a cache", "image, or eval to only measure on it"
            )
        return path, typed(raw, entry_keys("image")[path[2]])
    if name.startswith("optimizer_config."):
        return ("optimizer_config", name.partition(".")[2]), typed(
            raw, {"type": ["number", "boolean", "string", "array"]}
        )
    if name not in config_keys():
        message, hint_ = unknown_config_key(name)
        raise UsageError(f"--set: {message}", hint_)
    return (name,), typed(raw, config_keys()[name])


def _data_path(name: str) -> tuple[str, int, str]:
    parts = name.split(".", 2)
    if len(parts) != 3 or not parts[1].isdecimal() or not parts[1].isascii() or len(parts[1]) > _MOST_DIGITS:
        raise UsageError(f"--set {name}: no such key", "write --set dataset.0.repeats=2 for the first data set")
    if parts[2] not in entry_keys("image"):
        message, hint = unknown_entry_key(parts[2], "image")
        raise UsageError(f"--set: {message}", hint)
    if parts[2] in _BY_HAND:
        raise UsageError(f"--set {name}: that decides whether it is a data set at all", "edit the data file by hand")
    return parts[0], int(parts[1]), parts[2]


def _refused(path: tuple[str | int, ...], value: Any) -> list[Problem]:
    """What the schema says against a value, as problems of the flag."""
    from simpletune.config.check import check_config, check_data

    if path[0] == "optimizer_config" and len(path) == 2:
        return []  # checked with the optimizer that the files name
    flag = f"--set {'.'.join(map(str, path))}"
    entry = {**_ANY, str(path[-1]): value}
    document = Document(JsonFile(Path(flag), None, ()), {path[0]: value} if len(path) == 1 else [entry])
    document.overridden[(path[0],) if len(path) == 1 else (0, str(path[-1]))] = flag
    return errors([*(check_config(document) if len(path) == 1 else check_data(document))])


def unused_sets(state: State) -> list[str]:
    """A sentence for each `--set` for a data set that there isn't."""
    base = state.base
    there = len(base.data_file.value) if base.data_file is not None else 0
    count = max(there, base.entry_of(len(state.images) - 1) + 1) if state.images else there
    return [
        f"--set {'.'.join(map(str, path))}: there is no data set {path[1]}; there {_are(count)}, counted from 0"
        for path in state.base.sets
        if path[0] == DATASET and int(path[1]) >= count
    ]


def _are(count: int) -> str:
    return "is one" if count == 1 else f"are {count}"
