"""SimpleTuner's multidatabackend.json -> ours: units, kinds of entry, folders that each need one of their own."""

from __future__ import annotations

import math
import re
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from simpletune.config.aliases import VALUE_ALIASES, VALUE_UNSUPPORTED
from simpletune.config.check import entry_kind
from simpletune.config.jsonfile import JsonPath
from simpletune.config.problems import quoted
from simpletune.config.schema import entry_keys
from simpletune.config.simpletuner_conversion import Conversion, Given, canonical
from simpletune.config.simpletuner_files import Source
from simpletune.config.simpletuner_keys import PIXEL_AREAS, SET_DEFAULTS_THERE, VALUES
from simpletune.config.simpletuner_paths import Paths
from simpletune.config.simpletuner_report import DROPPED, Line
from simpletune.config.simpletuner_sources import (
    LEFT_OUT_TYPES,
    convert_filter,
    convert_role,
    convert_shuffle,
    convert_source,
    convert_table,
    kind_of,
    strategy_of,
)
from simpletune.config.simpletuner_values import is_not_set, is_off, number, truth

_SIZE_KEYS = ("minimum_image_size", "maximum_image_size", "target_downsample_size")
_MASKS = 'masks: set "mask_source" to "folder" and "mask_data_dir" to its folder, in the data set it belongs to'
_OTHER_KINDS = {
    "conditioning": _MASKS,
    "video": "SD3 makes pictures",
    "audio": "SD3 makes pictures",
    "image_embeds": VALUE_UNSUPPORTED["dataset_type", "image_embeds"],
}
_CACHES = {"image": "cache_dir_vae", "text_embeds": "cache_dir"}


@dataclass(frozen=True)
class Sets:
    """The entries of the data file in their order: on the way to ours, or the line that says why one is left out."""

    parts: list[Conversion | Line]

    @property
    def conversions(self) -> list[Conversion]:
        return [part for part in self.parts if isinstance(part, Conversion)]

    @property
    def lines(self) -> tuple[Line, ...]:
        return tuple(line for part in self.parts for line in (part.lines if isinstance(part, Conversion) else [part]))


def convert_sets(source: Source, paths: Paths, for_all: Mapping[str, tuple[Any, Given]], *, native: bool) -> Sets:
    """Convert every entry; `for_all` are the defaults that stand in SimpleTuner's config.json."""
    sets = Sets([])
    for index, entry in enumerate(source.value):
        path: JsonPath = (*source.inside, index)
        if not isinstance(entry, dict):
            sets.parts.append(Line(source.name, f"entry {index}", DROPPED, note="it is no object {...}"))
            continue
        kind = entry_kind({canonical(name): value for name, value in entry.items()})
        where = f"{source.name}, {_name_of(entry, index)}"
        reason = None if native else _left_out({canonical(name): value for name, value in entry.items()}, kind)
        if reason is not None:
            sets.parts.append(Line(where, f"the whole entry ({len(entry)} keys)", DROPPED, note=reason))
            continue
        one = Conversion(where, source, path, entry, entry_keys(kind), paths, data=True, native=native)
        if not native:
            _entry(one, kind, for_all)
        one.finish()
        if not native and kind == "image":
            _set_defaults(one, for_all)
        sets.parts.append(one)
    if not native:
        _filters(sets)
        _names(sets)
        _folders_apart(sets)
    return sets


def _name_of(entry: Mapping[str, Any], index: int) -> str:
    name = entry.get("id")
    return name if isinstance(name, str) and name else f"entry {index}"


def _left_out(entry: Mapping[str, Any], kind: str) -> str | None:
    """Why an entry has no place in ours: not pictures, or pictures that aren't in a folder."""
    dataset_type = str(entry.get("dataset_type") or "image").lower()
    if dataset_type in _OTHER_KINDS or dataset_type.startswith(("conditioning", "distillation", "caption")):
        reason = _OTHER_KINDS.get(dataset_type)
        return f"dataset_type {dataset_type}: {reason or 'it has no part in training a LoRA on pictures'}"
    if kind != "image":
        return None
    where = kind_of(entry)
    if where in LEFT_OUT_TYPES:
        return f"type {where}: {LEFT_OUT_TYPES[where]}"
    needed = {"s3": "aws_bucket_name", "huggingface": "dataset_name"}.get(where)
    if needed is not None and is_not_set(entry.get(needed)):
        return f"type {where}: it has no {needed}"
    if needed is None and "instance_data_dir" not in entry and dataset_type == "image" and "cache_dir" in entry:
        return "it names no folder of pictures"
    return None


def _entry(c: Conversion, kind: str, for_all: Mapping[str, tuple[Any, Given]]) -> None:
    for given in c.taken("id"):
        _id(c, given)
    if kind == "text_embeds":
        _text_cache(c)
        return
    where = kind_of({"type": c.value("type")})
    convert_role(c)
    _captions(c, for_all, where)
    convert_source(c, where)
    _sizes(c, for_all)
    _crop(c)
    for given in c.taken("minimum_aspect_ratio", "maximum_aspect_ratio", "max_num_samples"):
        if number(given.value) == 0:
            c.drop(given, "0 is no limit")
        else:
            c.put(given, given.key, given.value)


def _text_cache(c: Conversion) -> None:
    for given in c.taken("type"):
        elsewhere = given.value != "local"
        c.put(given, "type", "local", "captions are cached in a folder" if elsewhere else None)
    for given in c.taken(*c.open_keys("aws_", "memory_filesystem_")):
        c.drop(given, "captions are cached in a folder")
    convert_filter(c)


def _id(c: Conversion, given: Given) -> None:
    """An id names folders here, so it holds no slashes and begins with no dot."""
    text = str(given.value)
    clean = re.sub(r"[/\\\x00-\x1f]+", "-", text).lstrip(". \t")[:100]
    if clean and clean != text:
        c.put(given, "id", clean, "it names folders here")
    else:
        c.put(given, "id", given.value)


def _captions(c: Conversion, for_all: Mapping[str, tuple[Any, Given]], where: str) -> None:
    wanted = c.value("caption_strategy") or _strategy_for_all(for_all)
    convert_table(c, wanted)
    for given in c.taken("caption_strategy"):
        c.put(given, given.key, *strategy_of(c, given.value, where))
    convert_shuffle(c)
    own = c.peek("instance_prompt")
    if is_not_set(own.value) if own is not None else "instance_prompt" not in for_all:
        for given in c.taken("prepend_instance_prompt", "only_instance_prompt"):
            c.drop(given, "off there" if is_off(given.value) else "there is no instance_prompt")


def _strategy_for_all(for_all: Mapping[str, tuple[Any, Given]]) -> Any:
    value = for_all["caption_strategy"][0] if "caption_strategy" in for_all else None
    return SET_DEFAULTS_THERE["caption_strategy"] if is_not_set(value) else value


def _sizes(c: Conversion, for_all: Mapping[str, tuple[Any, Given]]) -> None:
    own = c.value("resolution_type")
    kind = str(own or (for_all["resolution_type"][0] if "resolution_type" in for_all else "pixel_area")).lower()
    for given in c.taken("resolution_type"):
        if kind == "area":
            c.put(given, given.key, "pixel_area", "megapixels are turned into pixels")
        else:
            c.put(given, given.key, given.value)
    for given in c.taken("resolution"):
        value = number(given.value)
        if kind == "area" and isinstance(value, int | float):
            c.put(given, given.key, pixel_edge(value), f"{_megapixels(value)} as the edge of a square", converted=True)
        else:
            c.put(given, given.key, round(value) if isinstance(value, float) and value >= 16 else value)
    for given in c.taken(*_SIZE_KEYS):
        _size_limit(c, given, kind)


def _size_limit(c: Conversion, given: Given, kind: str) -> None:
    value = number(given.value)
    if not isinstance(value, int | float) or isinstance(value, bool):
        c.put(given, given.key, given.value)
    elif value <= 0:
        c.drop(given, "0 is no limit")
    else:
        pixels, note = size_limit(value, kind)
        c.put(given, given.key, pixels, note)


def size_limit(value: float, kind: str) -> tuple[int, str | None]:
    """A limit of a picture's size in pixels of its shorter edge, and what is different; up to 10 it is megapixels."""
    if kind == "area" or (kind == "pixel_area" and value <= 10):
        return max(1, round(math.sqrt(value * 1e6))), f"{_megapixels(value)} of area there, the shorter edge here"
    return max(1, round(value)), "the shorter edge here, the area there" if kind == "pixel_area" else None


def pixel_edge(megapixels: float) -> int:
    """The edge in pixels that SimpleTuner trains at for a resolution in megapixels, in steps of 64."""
    for common, edge in PIXEL_AREAS.items():
        if abs(megapixels - common) < 0.05:
            return edge
    return max(64, 64 * round(math.sqrt(megapixels * 1e6) / 64))


def _megapixels(value: float) -> str:
    return f"{value:g} megapixel{'s' * (value != 1)}"


def _crop(c: Conversion) -> None:
    for given in c.taken("crop"):
        note = None
        if isinstance(given.value, str) and truth(given.value) is False:
            note = "as it says; there any text counts as true"
        c.put(given, given.key, given.value, note)
    for given in c.taken("crop_style", "crop_aspect"):
        name = str(given.value).lower()
        known = VALUES.get((given.key, name)) or (VALUE_ALIASES.get((given.key, name), given.value), None)
        c.put(given, given.key, known[0], known[1])
    for given in c.taken("crop_aspect_buckets"):
        weighted = isinstance(given.value, list) and any(isinstance(item, dict) for item in given.value)
        value = given.value
        if isinstance(value, list):
            shapes = (
                item.get("aspect", item.get("aspect_ratio")) if isinstance(item, dict) else item for item in value
            )
            value = list(dict.fromkeys(map(_hashable, shapes)))
        c.put(given, given.key, value, "weights are left out" if weighted else None)


def _hashable(value: Any) -> Any:
    value = number(value)
    return value if isinstance(value, int | float | str) else str(value)


def _set_defaults(c: Conversion, for_all: Mapping[str, tuple[Any, Given]]) -> None:
    """What a set takes from config.json there, and from SimpleTuner itself, when it doesn't say it."""
    kind = str(for_all["resolution_type"][0]) if "resolution_type" in for_all else "pixel_area"
    for key, (value, given) in for_all.items():
        if key in c.out or is_not_set(value):
            continue
        new, note = strategy_of(c, value, _where(c)) if key == "caption_strategy" else _for_set(key, value, kind)
        if new is not None:
            c.default(key, new, note or f"{given.written} of its configuration")
    for key, value in SET_DEFAULTS_THERE.items():
        if key not in c.out:
            c.default(key, *strategy_of(c, value, _where(c)) if key == "caption_strategy" else (value, None))


def _where(c: Conversion) -> str:
    return str(c.out.get("type", "local"))


def _for_set(key: str, value: Any, kind: str) -> tuple[Any, str | None]:
    """A default of config.json there in the units of our data sets; None when it limits nothing."""
    if key == "resolution_type" and kind == "area":
        return "pixel_area", None
    if key == "resolution":
        edge = number(value)
        return (pixel_edge(edge) if isinstance(edge, int | float) else value), None
    if key in _SIZE_KEYS:
        size = number(value)
        return (None, None) if not isinstance(size, int | float) or size <= 0 else size_limit(size, kind)
    if key in {"crop", "prepend_instance_prompt", "only_instance_prompt"}:
        return truth(value), None
    return VALUES.get((key, str(value))) or (number(value) if key == "max_upscale_threshold" else value, None)


def _filters(sets: Sets) -> None:
    """What a text cache removes from captions there, in the data sets that use the cache here."""
    texts = [one for one in sets.conversions if "default" in one.schema]
    for text in (one for one in texts if one.caption_filter):
        others = [one for one in sets.conversions if "default" not in one.schema]
        is_default = truth(text.out.get("default")) is True or len(texts) == 1
        for one in others:
            if one.out.get("text_embeds") == text.given_id or ("text_embeds" not in one.out and is_default):
                one.default("caption_filter", text.caption_filter, f"caption_filter_list of {text.given_id}")


def _names(sets: Sets) -> None:
    """References to text caches that were left out or renamed."""
    texts = [one for one in sets.conversions if "default" in one.schema]
    renamed = {str(one.given_id): one.out.get("id") for one in texts}
    for one in sets.conversions:
        wanted = one.out.get("text_embeds")
        if not isinstance(wanted, str):
            continue
        if wanted not in renamed:
            one.without_effect("text_embeds", f"there is no text_embeds entry {quoted(wanted)}")
        elif renamed[wanted] != wanted:
            one.remark("text_embeds", renamed[wanted], "as that entry is called now")


def _folders_apart(sets: Sets) -> None:
    """A cache folder serves one entry here, and is never inside a folder of pictures."""
    pictures = [str(one.out["instance_data_dir"]) for one in sets.conversions if "instance_data_dir" in one.out]
    seen: set[str] = set()
    for one in sets.conversions:
        key = _CACHES["text_embeds" if "default" in one.schema else "image"]
        folder = one.out.get(key)
        if not isinstance(folder, str):
            continue
        if any(folder == other or folder.startswith(other.rstrip("/") + "/") for other in pictures):
            one.without_effect(key, "it is inside a folder of pictures, which is only read here")
        elif folder in seen and "{id}" not in folder:
            one.out[key] = f"{folder.rstrip('/')}/{{id}}"
            one.remark(key, one.out[key], "each entry has a folder of its own here")
        else:
            seen.add(folder)
