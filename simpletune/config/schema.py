"""The schemas of the two files: the only place where keys, defaults, bounds and help are written."""

from __future__ import annotations

import json
from collections.abc import Mapping
from functools import cache
from pathlib import Path
from typing import Any

PACKAGE = Path(__file__).resolve().parents[1]
CONFIG, DATA = "config", "multidatabackend"


@cache
def load_schema(name: str) -> Mapping[str, Any]:
    """The schema "config" or "multidatabackend"."""
    schema: Mapping[str, Any] = json.loads(schema_path(name).read_text(encoding="utf-8"))
    return schema


def schema_path(name: str) -> Path:
    """The file of a schema: shipped in the wheel, beside the package in a checkout."""
    file = f"{name}.schema.json"
    for folder in (PACKAGE / "schemas", PACKAGE.parent / "schemas"):
        if (folder / file).is_file():
            return folder / file
    raise FileNotFoundError(f"{file} is missing from this installation of simpletune; install it again")


def config_keys() -> Mapping[str, Any]:
    """Every key of config.json with its schema."""
    keys: Mapping[str, Any] = load_schema(CONFIG)["properties"]
    return keys


def entry_schema(kind: str) -> Mapping[str, Any]:
    """The schema of one entry of the data file: "image" or "text_embeds"."""
    schema: Mapping[str, Any] = load_schema(DATA)["$defs"][kind]
    return schema


def entry_keys(kind: str) -> Mapping[str, Any]:
    keys: Mapping[str, Any] = entry_schema(kind)["properties"]
    return keys


def optimizer_arguments(optimizer: str) -> Mapping[str, Any]:
    """Every argument `optimizer_config` may hold for an optimizer, with its schema."""
    keys: Mapping[str, Any] = load_schema(CONFIG)["$defs"]["optimizers"][optimizer]["properties"]
    return keys


def defaults(keys: Mapping[str, Any]) -> dict[str, Any]:
    """The default of every key that has one."""
    return {key: schema["default"] for key, schema in keys.items() if "default" in schema}


def types_of(schema: Mapping[str, Any]) -> tuple[str, ...]:
    """The JSON types a key's schema allows."""
    types = schema["type"]
    return (types,) if isinstance(types, str) else tuple(types)
