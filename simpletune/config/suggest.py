"""What to say about a name that is not ours: what was meant, or that this version does not have it."""

from __future__ import annotations

import difflib
import re
from collections.abc import Collection, Mapping
from dataclasses import dataclass
from itertools import pairwise
from types import MappingProxyType
from typing import Any

from simpletune.config.aliases import (
    CONFIG_ALIASES,
    CONFIG_UNSUPPORTED,
    VALUE_ALIASES,
    VALUE_UNSUPPORTED,
    WITHHELD_ARGUMENTS,
)
from simpletune.config.aliases_data import DATA_ALIASES, DATA_FORMS, DATA_NESTED, DATA_UNSUPPORTED
from simpletune.config.problems import quoted
from simpletune.config.schema import config_keys, entry_keys
from simpletune.config.simpletuner_keys import DATA_DROPPED, DROPPED, why_dropped

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


LONGEST_NAME = 80
"""Of names that are worth a guess, or worth being shown whole."""


@dataclass(frozen=True)
class _Place:
    """What a name that is unknown in one place may have meant there."""

    ours: Collection[str]
    aliases: Mapping[str, str]
    unsupported: Mapping[str, str | None]
    other_file: Collection[str]
    dropped: Collection[str]
    missing: Collection[str] = ()

    def meant(self, key: str) -> str | None:
        """The key of ours that `key` stands for, or None: another program's, another file's, or nobody's."""
        plain = _fold(key)
        if plain in self.unsupported:
            return None
        meant = plain if plain in self.ours else self.aliases.get(plain)
        if meant in self.ours:
            return meant
        if plain in self.other_file or plain in self.dropped:
            return None
        # A key that has to be there and isn't is the likeliest to be meant.
        return close(key, self.missing) or close(key, self.ours)


def _config_place() -> _Place:
    return _Place(config_keys(), CONFIG_ALIASES, CONFIG_UNSUPPORTED, entry_keys("image"), DROPPED)


def _entry_place(kind: str, entry: Mapping[str, Any]) -> _Place:
    needed = {"id"} if kind == "text_embeds" else {"id", NEEDED.get(str(entry.get("type", "local")), "id")}
    return _Place(entry_keys(kind), DATA_ALIASES, DATA_UNSUPPORTED, config_keys(), DATA_DROPPED, needed - set(entry))


def meant_config_key(key: str) -> str | None:
    """The key of config.json that a name which is none was meant for."""
    return _config_place().meant(key)


def meant_entry_key(key: str, kind: str, entry: Mapping[str, Any]) -> str | None:
    """The key that a name which is none was meant for, in an entry of the data file."""
    return None if _fold(key) in DATA_NESTED else _entry_place(kind, entry).meant(key)


def unknown_config_key(key: str) -> Said:
    elsewhere = f'"{_cut(key)}" belongs in an entry of the data file, see data_backend_config'
    return _unknown_key(key, _config_place(), elsewhere)


def unknown_entry_key(key: str, kind: str, entry: Mapping[str, Any] = MappingProxyType({})) -> Said:
    """What to say of a key that `entry`, of the data file, has and must not have."""
    other = "text_embeds" if kind == "image" else "image"
    if key in entry_keys(other) and key not in DATA_ALIASES:
        return f'"{key}" has no meaning in an entry of dataset_type {kind}', f"it belongs to dataset_type {other}"
    if kind == "image" and (parts := DATA_NESTED.get(_fold(key))):
        return f'unknown key "{key}": its parts are keys of the entry itself here', parts
    place = _entry_place(kind, entry)
    message, hint = _unknown_key(key, place, f'"{_cut(key)}" belongs in config.json')
    return message, hint or (DATA_FORMS.get(_fold(key)) if DATA_ALIASES.get(_fold(key)) in place.ours else None)


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
    hint = _one_of(choices)
    if key == "lora_target" and isinstance(value, str) and value and meant is None:
        hint += f"; names of layers and patterns stand in a list: [{quoted(value)}]"
    return f"{label} can't be {quoted(value)}{did_you_mean(meant)}", hint


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
    """The one of `names` that `name` is most likely a misspelling of, or None.

    Slips of the fingers come first, by what each costs; then names that share most of their letters.
    """
    written = _fold(name)
    if len(written) > LONGEST_NAME:
        return None
    folded = {_fold(known): known for known in names}
    costs = {known: _slips(written, known) for known in folded if abs(len(known) - len(written)) <= 3}
    best = min(costs, key=lambda known: (costs[known], -_beginning(known, written)), default=None)
    if best is not None and costs[best] <= max(_ONE_SLIP, len(best) / 4) and costs[best] < len(best) / 2:
        return folded[best]
    found = difflib.get_close_matches(written, folded, n=1, cutoff=0.75)
    return folded[found[0]] if found else None


def _beginning(one: str, other: str) -> int:
    """How many first letters two names share."""
    return next((at for at, (a, b) in enumerate(zip(one, other, strict=False)) if a != b), min(len(one), len(other)))


_ONE_SLIP = 0.9
_ROWS = ("1234567890-", "qwertyuiop", "asdfghjkl", "zxcvbnm")
_NEIGHBOURS = {pair for row in _ROWS for one, two in pairwise(row) for pair in ((one, two), (two, one))}


def _slips(written: str, known: str) -> float:
    """What it takes to mistype `known` as `written`: letters too many, too few, wrong or in turn (edit distance).

    A neighbouring key, a doubled letter, two letters in turn, and an underscore cost less than others.
    """
    before: list[float] = []
    row = [0.0]
    for letter in known:
        row.append(row[-1] + _missing(letter))
    for at, letter in enumerate(written):
        doubled = at > 0 and written[at - 1] == letter
        below = [row[0] + _missing(letter)]
        for to, meant in enumerate(known):
            wrong = 0 if letter == meant else 0.7 if (letter, meant) in _NEIGHBOURS else 1
            cost = min(
                row[to] + wrong, below[to] + _missing(meant), row[to + 1] + (0.6 if doubled else _missing(letter))
            )
            if at and to and letter == known[to - 1] and written[at - 1] == meant:
                cost = min(cost, before[to - 1] + 0.8)
            below.append(cost)
        before, row = row, below
    return row[-1]


def _missing(letter: str) -> float:
    return 0.4 if letter in "_-" else 0.9


def _unknown_key(key: str, place: _Place, elsewhere: str) -> Said:
    plain, name = _fold(key), _cut(key)
    if plain in place.unsupported:
        return f'"{name}" is not supported by this version of simpletune', place.unsupported[plain] or "remove it"
    meant = place.meant(key)
    if meant is None and plain in place.other_file:
        return f'unknown key "{name}"', elsewhere
    if meant is None and (why := why_dropped(plain, data=place.aliases is DATA_ALIASES)):
        return f'"{name}" is not supported by this version of simpletune', why
    return f'unknown key "{name}"{did_you_mean(meant)}', None if meant else REFERENCE


def _fold(name: str) -> str:
    """A name as ours are written: "--loraRank" and "LoRA rank" too."""
    parted = re.sub(r"(?<=[a-z0-9])(?=[A-Z])", "_", name.lstrip("-").strip())
    return parted.lower().replace("-", "_").replace(" ", "_")


def _cut(name: str) -> str:
    return name if len(name) <= LONGEST_NAME else f"{name[: LONGEST_NAME - 3]}..."


def _one_of(choices: Collection[object]) -> str:
    return "choose one of " + ", ".join(str(choice) for choice in choices)
