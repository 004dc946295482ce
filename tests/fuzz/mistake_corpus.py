"""Single mistakes in valid files, each with the line and column that must be named, and the key that should be.

Drawn once from a fixed seed: from both schemas (slips of the fingers, wrong types, out of bounds, keys at the wrong
place), and from the lists of written_mistakes.py. Half of it is held out: it was counted, and not looked at, while
messages were improved (`held_out`).
"""

from __future__ import annotations

import json
import random
import zlib
from collections.abc import Iterator, Mapping
from copy import deepcopy
from dataclasses import dataclass
from typing import Any

from typing_slips import SLIPS
from valid_files import PAIRS, Pair, as_file
from written_mistakes import DIFFUSERS, KOHYA, NESTING, ONETRAINER, SIMPLETUNER, UNITS

from simpletune.config.aliases import CONFIG_ALIASES, CONFIG_UNSUPPORTED
from simpletune.config.aliases_data import DATA_ALIASES, DATA_UNSUPPORTED
from simpletune.config.schema import config_keys, entry_keys, optimizer_arguments, types_of

SEED = 20261123
SENTINEL = "here it is"
Path = tuple[str | int, ...]


@dataclass(frozen=True)
class Mistake:
    """Two texts of which one has a mistake at `line`, `column` (from 1); `named` is the key to be suggested."""

    kind: str
    name: str
    in_data: bool
    config: str
    data: str
    line: int
    column: int
    named: str | None = None

    @property
    def held_out(self) -> bool:
        return zlib.crc32(self.name.encode()) % 2 == 1


def corpus() -> list[Mistake]:
    """All of it, the same each time."""
    draw = random.Random(SEED)
    found = [*_slips(draw), *_value_slips(draw), *_types(draw), *_bounds(), *_stale(), *_units(), *_nesting()]
    return list({mistake.name: mistake for mistake in found}.values())


# --- putting a mistake into a pair of files


def _located(text: str) -> tuple[int, int]:
    before = text[: text.index(json.dumps(SENTINEL))]
    return before.count("\n") + 1, len(before) - before.rfind("\n")


def _put(pair: Pair, path: Path, change: Any) -> tuple[Pair, Any]:
    """A copy of `pair` in which `change(parent, last)` was done at a path; "config" or "data" comes first."""
    pair = deepcopy(pair)
    parent: Any = getattr(pair, str(path[0]))
    for part in path[1:-1]:
        parent = parent.setdefault(part, {}) if isinstance(parent, dict) else parent[part]
    change(parent, path[-1])
    return pair, parent


def _mistake(kind: str, name: str, pair: Pair, file: object, instead: str, named: str | None = None) -> Mistake:
    texts = list(pair.text())
    in_data = file == "data"
    line, column = _located(texts[in_data])
    texts[in_data] = texts[in_data].replace(json.dumps(SENTINEL), instead)
    return Mistake(kind, name, in_data, texts[0], texts[1], line, column, named)


def misnamed(kind: str, pair: Pair, path: Path, wrong: str, named: str | None) -> Mistake:
    """The key at `path` is called `wrong`."""

    def rename(parent: dict[str, Any], key: str) -> None:
        items = [(SENTINEL if name == key else name, value) for name, value in parent.items()]
        parent.clear()
        parent.update(items)

    changed, _ = _put(pair, path, rename)
    where = ".".join(map(str, path))
    return _mistake(kind, f"{kind}: {where} as {wrong}", changed, path[0], json.dumps(wrong), named)


def misvalued(kind: str, pair: Pair, path: Path, value: Any, named: str | None = None) -> Mistake:
    """The key at `path` has the value `value`."""
    changed, _ = _put(pair, path, lambda parent, key: parent.__setitem__(key, SENTINEL))
    where = ".".join(map(str, path))
    instead = json.dumps(value, ensure_ascii=False)
    return _mistake(kind, f"{kind}: {where} = {instead}", changed, path[0], instead, named)


def added(kind: str, pair: Pair, path: Path, value: Any, named: str | None = None) -> Mistake:
    """A key that does not belong there stands at the end."""
    changed, _ = _put(pair, path, lambda parent, _key: parent.__setitem__(SENTINEL, value))
    where = ".".join(map(str, path))
    return _mistake(kind, f"{kind}: {where} = {json.dumps(value)}", changed, path[0], json.dumps(path[-1]), named)


# --- where each key stands


def places() -> Iterator[tuple[Pair, Path, Mapping[str, Any]]]:
    """Every key of both files in a pair that is valid with it, and its schema."""
    full = PAIRS["full"]
    for key, schema in config_keys().items():
        if key != "$schema":
            pair = next((pair for pair in PAIRS.values() if key in pair.config), full)
            yield _with(pair, ("config", key), schema), ("config", key), schema
    for kind in ("image", "text_embeds"):
        for key, schema in entry_keys(kind).items():
            entries = [(at, entry) for at, entry in enumerate(full.data) if _kind(entry) == kind]
            at = next((at for at, entry in entries if key in entry), entries[0][0])
            yield _with(full, ("data", at, key), schema), ("data", at, key), schema


def arguments() -> Iterator[tuple[Pair, Path, Mapping[str, Any]]]:
    """Every argument of the optimizers that a pair has."""
    for pair in PAIRS.values():
        if "optimizer" in pair.config:
            for key, schema in optimizer_arguments(pair.config["optimizer"]).items():
                path = ("config", "optimizer_config", key)
                yield _with(pair, path, schema), path, schema


def _with(pair: Pair, path: Path, schema: Mapping[str, Any]) -> Pair:
    """The pair with a key, at its default where it does not stand there."""
    changed, _ = _put(pair, path, lambda parent, key: parent.setdefault(key, schema.get("default", "x")))
    return changed


def _kind(entry: Mapping[str, Any]) -> str:
    return "text_embeds" if entry.get("dataset_type") == "text_embeds" else "image"


# --- the kinds of mistakes


def _slips(draw: random.Random) -> Iterator[Mistake]:
    """Each key with one slip of each sort; what is a name of ours or of another program is no slip."""
    elsewhere = {*CONFIG_ALIASES, *CONFIG_UNSUPPORTED, *DATA_ALIASES, *DATA_UNSUPPORTED}
    ours = {*config_keys(), *entry_keys("image"), *entry_keys("text_embeds")}
    for pair, path, _ in [*places(), *arguments()]:
        key = str(path[-1])
        for slip in SLIPS.values():
            wrong = slip(key, draw)
            if wrong is not None and wrong.lower() not in ours | elsewhere and wrong not in _beside(pair, path):
                yield misnamed(f"typo, {slip.__name__}", pair, path, wrong, key)


def _beside(pair: Pair, path: Path) -> set[str]:
    """The names that exist beside an argument of an optimizer."""
    return set(optimizer_arguments(pair.config["optimizer"])) if path[1] == "optimizer_config" else set()


def _value_slips(draw: random.Random) -> Iterator[Mistake]:
    for pair, path, schema in places():
        for choice in schema.get("enum", ()):
            slip = draw.choice([name for name in SLIPS if name not in ("joined", "hyphens", "camel_case")])
            wrong = SLIPS[slip](choice, draw) if isinstance(choice, str) and len(choice) > 3 else None
            if wrong is not None and wrong not in schema["enum"]:
                yield misvalued(f"typo of a value, {slip}", pair, path, wrong, choice)


_SAMPLES: tuple[Any, ...] = (None, True, 3, 16.0, 0.5, "16", "true", "1e-4", "x y", [3], ["a"], {"value": 3})


def _types(draw: random.Random) -> Iterator[Mistake]:
    for pair, path, schema in [*places(), *arguments()]:
        wrong = [value for value in _SAMPLES if not _has_type(value, types_of(schema))]
        for value in draw.sample(wrong, 4):
            yield misvalued("wrong type", pair, path, value)


def _has_type(value: Any, types: tuple[str, ...]) -> bool:
    name = {type(None): "null", bool: "boolean", int: "integer", float: "number", str: "string", list: "array",
            dict: "object"}[type(value)]  # fmt: skip
    return name in types or (name == "integer" and "number" in types)


def _bounds() -> Iterator[Mistake]:
    for pair, path, schema in [*places(), *arguments()]:
        whole = "number" not in types_of(schema)
        small = 1 if whole else 1e-3
        for word, step in (("minimum", -small), ("maximum", small), ("exclusiveMinimum", 0), ("exclusiveMaximum", 0)):
            if word in schema:
                yield misvalued("out of range", pair, path, schema[word] + step)
        for item, bound in _items(schema):
            yield (
                misvalued("out of range", pair, path, item)
                if bound is None
                else _bad_item("out of range", pair, path, item, bound)
            )


def _items(schema: Mapping[str, Any]) -> Iterator[tuple[Any, int | None]]:
    """Lists that are too short, and lists of which one item is wrong."""
    if schema.get("minItems"):
        yield [], None
    items = schema.get("items", {})
    if "maximum" in items:
        yield [items.get("minimum", 0.5), items["maximum"] + 1], 1


def _bad_item(kind: str, pair: Pair, path: Path, value: list[Any], index: int) -> Mistake:
    def put(parent: Any, key: Any) -> None:
        parent[key] = [SENTINEL if at == index else item for at, item in enumerate(value)]

    changed, _ = _put(pair, path, put)
    where = ".".join(map(str, path))
    name = f"{kind}: {where}[{index}] = {json.dumps(value[index])}"
    return _mistake(kind, name, changed, path[0], json.dumps(value[index]))


def _stale() -> Iterator[Mistake]:
    lists = {"kohya": KOHYA, "diffusers": DIFFUSERS, "OneTrainer": ONETRAINER, "SimpleTuner": SIMPLETUNER}
    for program, names in lists.items():
        for place, key, value, named in names:
            yield added(
                f"stale name, {program}", _without(PAIRS["full"], place, named), _path(place, key), value, named
            )


def _without(pair: Pair, place: str | int, key: str | None) -> Pair:
    """The pair without our key, whose place another program's name takes; a key that must be there stays."""
    if key is None or key in ("id", "instance_data_dir", "dataset_type") or place != "config":
        return pair
    config = {name: value for name, value in pair.config.items() if name != key}
    return Pair(config, pair.data)


def _path(place: str | int, key: str) -> Path:
    return ("config", key) if place == "config" else ("data", place, key)


def _units() -> Iterator[Mistake]:
    for place, key, value in UNITS:
        keys = config_keys() if place == "config" else entry_keys("image")
        if isinstance(value, list) and "array" in types_of(keys[key]):
            yield _bad_item("wrong unit or form", PAIRS["full"], _path(place, key), value, 0)
        else:
            yield misvalued("wrong unit or form", PAIRS["full"], _path(place, key), value)


def _nesting() -> Iterator[Mistake]:
    full = PAIRS["full"]
    for place, key, value in NESTING:
        known = config_keys() if place == "config" else entry_keys("image")
        if key not in known:
            yield added("wrong nesting", full, _path(place, key), value)
        elif key == "optimizer_config" and isinstance(value, dict):
            (inner, deeper), *_ = value.items()
            yield added("wrong nesting", full, ("config", key, inner), deeper)
        elif isinstance(value, list) and isinstance(value[0], list):
            yield _bad_item("wrong nesting", full, _path(place, key), value, 0)
        else:
            yield misvalued("wrong nesting", full, _path(place, key), value)
    for key in entry_keys("image"):
        if key not in config_keys():
            yield added("wrong nesting", full, ("config", key), full.data[0].get(key, "x"))
    for key in config_keys():
        if key not in entry_keys("image") and key != "$schema":
            yield added("wrong nesting", full, ("data", 0, key), full.config.get(key, "x"))
    for argument in optimizer_arguments("adamw"):
        yield added("wrong nesting", full, ("config", argument), 0.5)
    for whole, name in ((full.config, "config"), (full.data, "data")):
        yield _whole(name, "[" if name == "config" else '{"datasets":', whole)


def _whole(name: str, opening: str, value: Any) -> Mistake:
    """The whole file one level too deep."""
    text = opening + as_file(value) + ("]" if opening == "[" else "}")
    config, data = PAIRS["full"].text()
    config, data = (text, data) if name == "config" else (config, text)
    return Mistake("wrong nesting", f"wrong nesting: all of {name}", name == "data", config, data, 1, 1)
