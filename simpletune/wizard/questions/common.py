"""Small parts that questions are made of: reading and writing one key, and understanding what was typed."""

from __future__ import annotations

import os
import re
from collections.abc import Callable, Collection
from pathlib import Path
from typing import Any
from unicodedata import category

from simpletune.config.document import PLACEHOLDER
from simpletune.config.schema import config_keys
from simpletune.data.survey import folder_typed
from simpletune.redact import looks_like_token
from simpletune.wizard.question import NotUnderstood
from simpletune.wizard.state import MISSING, State

_UNFIT = ("Cc", "Cs", "Zl", "Zp")  # control characters, halves of characters, line ends; joined emoji are fine


def read_key(key: str) -> Callable[[State], Any]:
    """What the files have for a key; in files that leave it out, its default is in effect."""

    def read(state: State) -> Any:
        if key in state.config:
            return state.config[key]
        return config_keys()[key].get("default") if state.base.exists else MISSING

    return read


def write_key(key: str, *, leave_default: bool = False) -> Callable[[State, Any], None]:
    """Put a value into config.json; with `leave_default` the default is not written where the key isn't there yet."""

    def write(state: State, value: Any) -> None:
        is_default = value == config_keys()[key].get("default")
        if leave_default and is_default and key not in state.config:
            return
        state.config[key] = value

    return write


def whole_number(key: str) -> Callable[[str], Any]:
    """Understands a whole number within the bounds of the key's schema."""
    schema = config_keys()[key]
    low, high = schema.get("minimum", 1), schema.get("maximum", 10**9)

    def parse(text: str) -> int:
        try:
            value = int(re.sub(r"(?<=\d),(?=\d{3}(,|$))", "", text.strip()))
        except ValueError:
            raise NotUnderstood(f'"{text}" is not a whole number') from None
        if not low <= value <= high:
            raise NotUnderstood(f"{value} is not between {low} and {high}")
        return value

    return parse


def number(low: float, high: float) -> Callable[[str], Any]:
    """Understands a number above `low` and up to `high`."""

    def parse(text: str) -> float | int:
        try:
            value = float(text.strip())
        except ValueError:
            raise NotUnderstood(f'"{text}" is not a number; write for instance 8 or 1e-4') from None
        if not low < value <= high:
            raise NotUnderstood(f"{value:g} is not above {low:g} and up to {high:g}")
        return int(value) if value.is_integer() and value >= 1 else value

    return parse


def within_schema(key: str) -> Callable[[State, Any], str | None]:
    """An objection to a value that the key's schema would refuse, for answers that came from a file."""

    def check(_state: State, value: Any) -> str | None:
        schema = config_keys()[key]
        if isinstance(value, bool) or not isinstance(value, int | float):
            return f"{value!r} is not a number"
        if "integer" in _types(schema) and "number" not in _types(schema) and not isinstance(value, int):
            return f"{value!r} is not a whole number"
        low, high = (
            schema.get("minimum", schema.get("exclusiveMinimum")),
            schema.get("maximum", schema.get("exclusiveMaximum")),
        )
        too_low = low is not None and (value < low or ("exclusiveMinimum" in schema and value == low))
        too_high = high is not None and (value > high or ("exclusiveMaximum" in schema and value == high))
        if too_low or too_high:
            return f"{value:g} is out of range ({_range(low, high)})"
        return None

    return check


def _types(schema: Any) -> tuple[str, ...]:
    return (schema["type"],) if isinstance(schema["type"], str) else tuple(schema["type"])


def _range(low: float | None, high: float | None) -> str:
    return (
        f"{low:g} to {high:g}" if low is not None and high is not None else f"from {low:g}" if low is not None else ""
    )


def some_text(text: str) -> str:
    """Understands any text but none at all, one that can't be saved, or an access token."""
    clean = text.strip()
    if not clean:
        raise NotUnderstood("an answer is needed here")
    refuse_token(clean)
    return clean


def refuse_token(text: str) -> None:
    if looks_like_token(text):
        raise NotUnderstood("that looks like an access token: run `hf auth login` instead, it never stands in files")
    if any(category(character) in _UNFIT for character in text):
        raise NotUnderstood("that holds characters that can't be saved")


def understood_by(parse: Callable[[str], Any]) -> Callable[[State, Any], str | None]:
    """An objection to an answer that couldn't have been typed, for answers that came from a file."""

    def check(_state: State, value: Any) -> str | None:
        if not isinstance(value, str):
            return f"{value!r} is not a text"
        try:
            parse(value)
        except NotUnderstood as error:
            return str(error)
        return None

    return check


def is_folder(path: Path) -> bool:
    """Whether a folder is there; False for what can't be a path or may not be looked at."""
    return os.path.isdir(path)  # noqa: PTH112 - Path.is_dir raises for some of these


def is_file(path: Path) -> bool:
    return os.path.isfile(path)  # noqa: PTH113


def not_a_folder(path: Path) -> str | None:
    """What is wrong with a path that should be a folder's."""
    if is_folder(path):
        return None
    return f"{path} is a file, not a folder" if is_file(path) else f"there is no folder {path}"


def not_a_file(path: Path) -> str | None:
    if is_file(path):
        return None
    return f"{path} is a folder, not a file" if is_folder(path) else f"there is no file {path}"


def unfillable(stored: str, known: Collection[str] = ("model_family",)) -> str | None:
    """Why a path can't stand in the files: {words} in it would be filled in, and there is nothing to fill in."""
    strange = next((name for name in PLACEHOLDER.findall(stored) if name not in known), None)
    if strange is None:
        return None
    return f"{{{strange}}} in a path means something to fill in here, and there is no such thing: rename the folder"


def typed_path(text: str) -> str:
    """A path as it was typed or dragged into the terminal, meant from the current folder; absolute from here on."""
    clean = text.strip()
    if not clean.strip("'\""):
        raise NotUnderstood("a path is needed here")
    if "\0" in clean:
        raise NotUnderstood("that can't be a path")
    refuse_token(clean)
    return str(folder_typed(clean, Path.cwd()))
