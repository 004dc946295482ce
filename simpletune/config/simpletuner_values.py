"""Values as SimpleTuner's files write them, in the types of ours: "true", "1e-4", 0 for false, "[7, 8, 9]"."""

from __future__ import annotations

import json
import math
from collections.abc import Mapping
from typing import Any

from simpletune.config.schema import types_of

_TRUE, _FALSE = {"true", "1", "yes", "y", "on"}, {"false", "0", "no", "n", "off"}
_NOT_SET = {"", "none", "null"}


def is_not_set(value: Any) -> bool:
    """Whether SimpleTuner takes a key with this value for absent: null, or text that is empty or says none."""
    return value is None or (isinstance(value, str) and value.strip().lower() in _NOT_SET)


def is_off(value: Any) -> bool:
    """Whether a value switches something off: not set, false, 0, "false", an empty list."""
    if isinstance(value, str):
        return value.strip().lower() in _NOT_SET | _FALSE
    return not value


def truth(value: Any) -> Any:
    """true or false where that is what the value means, else the value itself."""
    if isinstance(value, str):
        word = value.strip().lower()
        return True if word in _TRUE else False if word in _FALSE else value
    if isinstance(value, int | float) and value in (0, 1):
        return bool(value)
    return value


def number(value: Any) -> Any:
    """The number a value means, whole where it is, else the value itself. Infinities and NaN are left as text."""
    if isinstance(value, str):
        try:
            found = float(value.strip())
        except ValueError:
            return value
        if not math.isfinite(found):
            return value
        value = found if any(mark in value.lower() for mark in ".e") or abs(found) >= 1e15 else int(found)
    if isinstance(value, float) and value.is_integer() and abs(value) < 1e15:
        return int(value)
    return value


def fitted(value: Any, schema: Mapping[str, Any]) -> tuple[Any, str | None]:
    """`value` in a type that `schema` allows, and what was changed for that in words; unchanged when it can't be."""
    types = types_of(schema)
    if is_not_set(value) and "null" in types:
        return None, None if value is None else "the text stood for null"
    if "boolean" in types and not isinstance(value, bool):
        return _changed(value, truth(value), "true or false")
    if isinstance(value, str) and "array" in types and value.strip().startswith("["):
        return _changed(value, _listed(value), "a list")
    if isinstance(value, str) and "string" not in types:
        if "array" in types:
            return _changed(value, _listed(value), "a list")
        return _changed(value, number(value), "a number")
    if isinstance(value, float) and "integer" in types and "number" not in types:
        return number(value), None
    if isinstance(value, list) and "integer" in types_of(schema.get("items", {"type": "null"})):
        return [number(item) for item in value], None
    return value, None


def _changed(value: Any, result: Any, what: str) -> tuple[Any, str | None]:
    if result is value:
        return value, None
    return result, f"was {'text' if isinstance(value, str) else 'a number'}, is {what}"


def _listed(value: str) -> Any:
    """The list that a text holds: as JSON, or numbers between commas."""
    try:
        found = json.loads(value)
    except (ValueError, RecursionError):
        parts = [number(part) for part in value.split(",")]
        return parts if all(isinstance(part, int | float) for part in parts) else value
    return found if isinstance(found, list) else [found]
