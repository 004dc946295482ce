"""What a key means, what it may be, what it costs, and where it is set now: from the schemas and the files."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from simpletune.config.check import bounds, entry_kind, type_words
from simpletune.config.document import Document, Keys
from simpletune.config.load import resolved
from simpletune.config.overrides import DATASET
from simpletune.config.problems import quoted, shown
from simpletune.config.schema import config_keys, entry_keys, optimizer_arguments
from simpletune.config.settings import Settings
from simpletune.config.suggest import unknown_argument, unknown_config_key, unknown_entry_key
from simpletune.config.view import View
from simpletune.errors import UsageError

ARGUMENTS = "optimizer_config"


@dataclass(frozen=True)
class Setting:
    """A value as it is now: of what ("dataset.0 pics" or ""), the value as JSON, and where it comes from."""

    of: str
    value: str
    origin: str


@dataclass(frozen=True)
class Explanation:
    """Everything there is to say about a key; `now` is empty without files, `cost` where there is none."""

    name: str
    title: str
    place: str
    meaning: str
    values: str
    default: str | None
    cost: str | None
    now: tuple[Setting, ...]


def explain(name: str, whole: View | None = None, settings: Settings | None = None) -> Explanation:
    """What there is to say about `lora_rank`, `dataset.repeats`, `dataset.0.repeats` or `optimizer_config.eps`.

    `whole` are the files, if there are any; `settings` what follows from them, if they have no errors. Raises
    UsageError with the validator's suggestion for a name that is none, and for a data set that isn't there.
    """
    name = _meant(name)
    first, _, rest = name.partition(".")
    if first == DATASET and rest:
        return _of_entry(name, rest, whole)
    if first == ARGUMENTS and rest:
        return _of_argument(name, rest, whole)
    keys = config_keys()
    if name not in keys:
        message, hint = unknown_config_key(name)
        if name in (*entry_keys("image"), *entry_keys("text_embeds")):
            hint = f"it belongs to a data set: simpletune explain {DATASET}.{name}"
        raise UsageError(shown(message), hint and shown(hint))
    now = () if whole is None else (_now(whole.config, name, settings),)
    return _explanation(name, keys[name], f"config.json, {keys[name]['x-group']}", now)


def _meant(name: str) -> str:
    """The key that is meant: lora_rank by `--lora_rank` or LORA_RANK, dataset.repeats by `repeats` alone."""
    folded = name.lstrip("-").lower().replace("-", "_") if name not in config_keys() else name
    known = folded if folded in config_keys() else name
    alone = folded in entry_keys("image") and folded not in (*config_keys(), *entry_keys("text_embeds"))
    return f"{DATASET}.{folded}" if alone else known


def _of_entry(name: str, rest: str, whole: View | None) -> Explanation:
    index, _, key = rest.rpartition(".")
    if index and not index.isdecimal():
        raise UsageError(f"{quoted(name)} is no name of a key", f"write {DATASET}.repeats, or {DATASET}.0.repeats")
    entries = _entries(whole.data if whole is not None else None)
    if index:
        if int(index) >= len(entries):
            there = f"there are {len(entries)}, counted from 0" if whole is not None else "there is no config.json here"
            raise UsageError(f"there is no data set {index}: {there}", f"write {DATASET}.{key} for all")
        entries = [entries[int(index)]]
    kind = entry_kind(entries[0].values) if index else "image" if key in entry_keys("image") else "text_embeds"
    keys = entry_keys(kind)
    if key not in keys:
        message, hint = unknown_entry_key(key, "image" if not index else kind)
        raise UsageError(shown(message), hint and shown(hint))
    now = tuple(_now(entry, key) for entry in entries if key in entry.schema)
    place = (
        "an entry of the data file" if kind == "image" else "an entry of the data file with dataset_type text_embeds"
    )
    return _explanation(name, keys[key], place, now)


def _entries(data: Document | None) -> list[Keys]:
    """The data file's entries, counted as `--set dataset.0.key=value` does."""
    values = data.value if data is not None and isinstance(data.value, list) else []
    return [
        Keys(data, (index,), entry_keys(entry_kind(value)), value)
        for index, value in enumerate(values)
        if data is not None and isinstance(value, dict)
    ]


def _of_argument(name: str, argument: str, whole: View | None) -> Explanation:
    optimizer = whole.config["optimizer"] if whole is not None else config_keys()["optimizer"]["default"]
    arguments = optimizer_arguments(optimizer)
    if argument not in arguments:
        message, hint = unknown_argument(argument, optimizer, list(arguments))
        raise UsageError(shown(message), hint and shown(hint))
    now: tuple[Setting, ...] = ()
    if whole is not None:
        given = whole.config[ARGUMENTS]
        is_set = isinstance(given, dict) and argument in given
        value = given[argument] if is_set else arguments[argument].get("default")
        origin = whole.config.document.origin((ARGUMENTS, argument)) if is_set else "default"
        now = (Setting("", quoted(value), origin),)
    return _explanation(name, arguments[argument], f"config.json, arguments of {optimizer}", now)


def _now(keys: Keys, key: str, settings: Settings | None = None) -> Setting:
    """The value of a key in the files, or what it comes to there if that is another."""
    of = f"{DATASET}.{keys.prefix[0]} {quoted(keys['id'])}" if keys.prefix else ""
    value, origin = keys[key], keys.origin(key)
    chosen = resolved(settings)["config"].get(key) if settings is not None and not keys.prefix else None
    if chosen is not None and (value is None or chosen["origin"].startswith("environment")):
        value, origin = chosen["value"], chosen["origin"]
        origin = origin if origin == "default" or chosen["value"] is None else f"from {origin}"
    return Setting(of, shown(quoted(value)), shown(origin))


def _explanation(name: str, schema: Mapping[str, Any], place: str, now: tuple[Setting, ...]) -> Explanation:
    return Explanation(
        name=name,
        title=schema.get("title", name.rpartition(".")[2]),
        place=place,
        meaning=schema["description"],
        values=_values(schema),
        default=quoted(schema["default"]) if "default" in schema else None,
        cost=schema.get("x-cost"),
        now=now,
    )


def _values(schema: Mapping[str, Any]) -> str:
    choices = schema.get("enum") or schema.get("then", {}).get("enum")
    if choices:
        listed = ", ".join(str(choice) for choice in choices)
        return f"{listed}, or a list" if "then" in schema else listed
    limits = bounds(schema) or bounds(schema.get("items", {}))
    return f"{type_words(schema)}, {limits}" if limits else type_words(schema)
