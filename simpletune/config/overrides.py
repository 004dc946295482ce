"""`--set key=value`: values for one run, typed by the schema like those of the files."""

from __future__ import annotations

import copy
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from simpletune.config import jsonfile
from simpletune.config.check import entry_kind
from simpletune.config.document import Document
from simpletune.config.jsonfile import JsonPath
from simpletune.config.problems import Problem, quoted, tidy
from simpletune.config.schema import config_keys, entry_keys, optimizer_arguments, types_of

DATASET = "dataset"


def is_for_data(text: str) -> bool:
    """Whether an override sets a key of the data file: `dataset.0.repeats=2`."""
    return text.partition("=")[0].partition(".")[0] == DATASET


def apply_to_config(document: Document, overrides: Sequence[str]) -> list[Problem]:
    """Put `key=value` and `optimizer_config.argument=value` over config.json."""
    problems: list[Problem] = []
    for text in overrides:
        name, equals, raw = text.partition("=")
        parts = name.split(".")
        if not equals or not parts[0] or not _is_text(text):
            problems.append(_malformed(text))
        elif not isinstance(document.value, dict):
            continue
        elif len(parts) == 2 and parts[0] == "optimizer_config":
            optimizer = document.value.get("optimizer", "adamw")
            schema = _argument_schema(optimizer, parts[1])
            given = document.value.get("optimizer_config")
            arguments = dict(given) if isinstance(given, dict) else {}
            document.value["optimizer_config"] = {**arguments, parts[1]: typed(raw, schema)}
            _replaced(document, (parts[0], parts[1]), name)
        else:
            document.value[name] = typed(raw, config_keys().get(name))
            _replaced(document, (name,), name)
    return problems


def apply_to_data(document: Document, overrides: Sequence[str]) -> list[Problem]:
    """Put `dataset.INDEX.key=value` over the data file."""
    problems: list[Problem] = []
    for text in overrides:
        name, equals, raw = text.partition("=")
        parts = name.split(".", 2)
        entries = document.value if isinstance(document.value, list) else []
        if not _is_text(text) or not equals or len(parts) != 3 or not parts[1].isdecimal() or not parts[2]:
            problems.append(_malformed(text))
            continue
        index, key = int(parts[1]), parts[2]
        if index >= len(entries) or not isinstance(entries[index], dict):
            message = f"there is no data set {index}: {document.name} has {len(entries)}, counted from 0"
            problems.append(tidy(Problem(f"--set {name}", 0, 0, f"{index}.{key}", message)))
            continue
        entries[index][key] = typed(raw, entry_keys(entry_kind(entries[index])).get(key))
        _replaced(document, (index, key), name)
    return problems


def typed(raw: str, schema: Mapping[str, Any] | None) -> Any:
    """The value that `raw` means for a key: JSON where the key takes what it says, else the text as it is."""
    value = _json(raw)
    if schema is None:
        return raw if value is _NOTHING else value
    if value is not _NOTHING and ("string" not in types_of(schema) or _fits(value, types_of(schema))):
        return value
    return raw


_NOTHING = object()
_TYPES: Mapping[str, tuple[type, ...]] = {
    "integer": (int, float),
    "number": (int, float),
    "boolean": (bool,),
    "string": (str,),
    "array": (list,),
    "object": (dict,),
    "null": (type(None),),
}


def _fits(value: Any, types: Sequence[str]) -> bool:
    if isinstance(value, bool):
        return "boolean" in types
    return any(isinstance(value, _TYPES[name]) for name in types)


def _json(raw: str) -> Any:
    read = jsonfile.parse(_PATH, raw.encode("utf-8", "replace"))
    return _NOTHING if read.problems else copy.deepcopy(read.value)


_PATH = Path("--set")


def _argument_schema(optimizer: Any, argument: str) -> Mapping[str, Any] | None:
    try:
        schema: Mapping[str, Any] = optimizer_arguments(optimizer)[argument]
    except (KeyError, TypeError):
        return None
    return schema


def _replaced(document: Document, path: JsonPath, name: str) -> None:
    document.overridden[path] = f"--set {name}"
    document.bad = {bad for bad in document.bad if bad[: len(path)] != path}


def _is_text(text: str) -> bool:
    """False when the shell passed bytes that are not UTF-8: they could not be saved with the run."""
    return not any("\ud800" <= character <= "\udfff" for character in text)


def _malformed(text: str) -> Problem:
    if not _is_text(text):
        return tidy(Problem("--set", 0, 0, "", f"{quoted(text)} is not UTF-8"))
    hint = "write --set learning_rate=5e-5, or --set dataset.0.repeats=2 for the first data set"
    return tidy(Problem("--set", 0, 0, "", f"{quoted(text)} is not of the form key=value", hint))
