"""What to say about a name that is not ours: what was meant, or that this version does not have it."""

from __future__ import annotations

import difflib
from collections.abc import Collection, Mapping
from typing import Any

from simpletune.config.aliases import (
    CONFIG_ALIASES,
    CONFIG_UNSUPPORTED,
    DATA_ALIASES,
    DATA_FORMS,
    DATA_NESTED,
    DATA_UNSUPPORTED,
    VALUE_ALIASES,
    VALUE_UNSUPPORTED,
    WITHHELD_ARGUMENTS,
)
from simpletune.config.problems import quoted
from simpletune.config.schema import config_keys, entry_keys

REFERENCE = "docs/config-reference.md lists every key"
Said = tuple[str, str | None]

NEEDED: Mapping[str, str] = {
    "local": "instance_data_dir",
    "webdataset": "instance_data_dir",
    "s3": "s3_url",
    "huggingface": "dataset_name",
}
"""What says where the pictures of a data set are, by its type."""
_EXAMPLES: Mapping[str, str] = {
    "id": '"id": "my-pictures"',
    "instance_data_dir": '"instance_data_dir": "pictures"',
    "s3_url": '"s3_url": "s3://my-bucket/pictures"',
    "dataset_name": '"dataset_name": "owner/name"',
}


def unknown_config_key(key: str) -> Said:
    elsewhere = f'"{key}" belongs in an entry of the data file, see data_backend_config'
    return _unknown_key(key, config_keys(), CONFIG_ALIASES, CONFIG_UNSUPPORTED, entry_keys("image"), elsewhere)


def unknown_entry_key(key: str, kind: str) -> Said:
    elsewhere = f'"{key}" belongs in config.json'
    ours = entry_keys(kind)
    other = "text_embeds" if kind == "image" else "image"
    if key in entry_keys(other) and key not in DATA_ALIASES:
        return f'"{key}" has no meaning in an entry of dataset_type {kind}', f"it belongs to dataset_type {other}"
    if kind == "image" and (parts := DATA_NESTED.get(_fold(key))):
        return f'unknown key "{key}": its parts are keys of the entry itself here', parts
    message, hint = _unknown_key(key, ours, DATA_ALIASES, DATA_UNSUPPORTED, config_keys(), elsewhere)
    return message, hint or (DATA_FORMS.get(_fold(key)) if DATA_ALIASES.get(_fold(key)) in ours else None)


def unknown_argument(key: str, optimizer: str, arguments: Collection[str]) -> Said:
    if key in WITHHELD_ARGUMENTS:
        return f'"{key}" can\'t be set for {optimizer}', WITHHELD_ARGUMENTS[key]
    message = f'{optimizer} has no argument "{key}"' + did_you_mean(close(key, arguments))
    return message, f"it takes {', '.join(arguments)}"


def unknown_value(label: str, key: str, value: object, choices: Collection[object]) -> Said:
    if isinstance(value, str) and (key, value.lower()) in VALUE_UNSUPPORTED:
        hint = VALUE_UNSUPPORTED[key, value.lower()]
        return f'{label}: "{value}" is not supported by this version of simpletune', hint or _one_of(choices)
    names = [choice for choice in choices if isinstance(choice, str)]
    meant = VALUE_ALIASES.get((key, value.lower())) if isinstance(value, str) else None
    if isinstance(value, str) and meant not in names:
        meant = close(value, names)
    return f"{label} can't be {quoted(value)}{did_you_mean(meant)}", _one_of(choices)


def missing_hint(key: str, entry: Mapping[str, Any]) -> str:
    """What to do about a key that an entry of the data file needs and doesn't have."""
    add = f"add {_EXAMPLES.get(key, quoted(key))}"
    if key not in NEEDED.values():
        return add
    other = next((kind for kind, needed in NEEDED.items() if needed != key and entry.get(needed)), None)
    return add if other is None else f'set "type" to "{other}", which has "{NEEDED[other]}"; or {add}'


def did_you_mean(name: str | None) -> str:
    return f'; did you mean "{name}"?' if name else ""


def close(name: str, names: Collection[str]) -> str | None:
    """The one of `names` that `name` is most likely a misspelling of, or None."""
    folded = {_fold(known): known for known in names}
    found = difflib.get_close_matches(_fold(name), folded, n=1, cutoff=0.75)
    return folded[found[0]] if found else None


def _unknown_key(
    key: str,
    ours: Collection[str],
    aliases: Mapping[str, str],
    unsupported: Mapping[str, str | None],
    other_file: Collection[str],
    elsewhere: str,
) -> Said:
    plain = _fold(key)
    if plain in unsupported:
        return f'"{key}" is not supported by this version of simpletune', unsupported[plain] or "remove it"
    meant = plain if plain in ours else aliases.get(plain)
    if meant in ours:
        return f'unknown key "{key}"{did_you_mean(meant)}', None
    if plain in other_file:
        return f'unknown key "{key}"', elsewhere
    meant = close(key, ours)
    return f'unknown key "{key}"{did_you_mean(meant)}', None if meant else REFERENCE


def _fold(name: str) -> str:
    return name.lstrip("-").strip().lower().replace("-", "_").replace(" ", "_")


def _one_of(choices: Collection[object]) -> str:
    return "choose one of " + ", ".join(str(choice) for choice in choices)
