"""What to say about a name that is not ours: what was meant, or that this version does not have it."""

from __future__ import annotations

import difflib
from collections.abc import Collection, Mapping

from simpletune.config.aliases import (
    CONFIG_ALIASES,
    CONFIG_UNSUPPORTED,
    DATA_ALIASES,
    DATA_UNSUPPORTED,
    VALUE_ALIASES,
    VALUE_UNSUPPORTED,
    WITHHELD_ARGUMENTS,
)
from simpletune.config.problems import quoted
from simpletune.config.schema import config_keys, entry_keys

REFERENCE = "docs/config-reference.md lists every key"
Said = tuple[str, str | None]


def unknown_config_key(key: str) -> Said:
    elsewhere = f'"{key}" belongs in an entry of the data file, see data_backend_config'
    return _unknown_key(key, config_keys(), CONFIG_ALIASES, CONFIG_UNSUPPORTED, entry_keys("image"), elsewhere)


def unknown_entry_key(key: str, kind: str) -> Said:
    elsewhere = f'"{key}" belongs in config.json'
    ours = entry_keys(kind)
    other = "text_embeds" if kind == "image" else "image"
    if key in entry_keys(other) and key not in DATA_ALIASES:
        return f'"{key}" has no meaning in an entry of dataset_type {kind}', f"it belongs to dataset_type {other}"
    return _unknown_key(key, ours, DATA_ALIASES, DATA_UNSUPPORTED, config_keys(), elsewhere)


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
    meant = VALUE_ALIASES.get((key, value.lower())) or close(value, names) if isinstance(value, str) else None
    return f"{label} can't be {quoted(value)}{did_you_mean(meant)}", _one_of(choices)


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
