"""What a value of the two files means, written down apart from the program: from JSON to a field of the settings."""

from __future__ import annotations

import json
import os
import re
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

from simpletune.config.schema import config_keys, entry_keys
from simpletune.config.settings import ImageSet, Settings, TextEmbeds

NO_FIELD = {"$schema", "validation_prompts_file", "disabled", "dataset_type", "type"}
# What null stands for follows from other keys; tests/config/test_config_load.py says from which.
FOLLOWS = {"lora_alpha", "resolution", "aspect_bucket_alignment", "tokenizer_max_length", "max_train_steps",
           "tracker_run_name", "validation_resolution", "pretrained_model_name_or_path", "text_embeds"}  # fmt: skip
HUB_ID = re.compile(r"[A-Za-z0-9_-][A-Za-z0-9_.-]*/[A-Za-z0-9_-][A-Za-z0-9_.-]*")


def differences(settings: Settings, config: str, data: str) -> list[str]:
    """Where the settings are not what the two texts say, type by type; nothing for a right reading."""
    folder = settings.config_path.parent
    names = {"model_family": settings.model_family, "output_dir": str(settings.output_dir)}
    written = json.loads(config)
    step = written.get("aspect_bucket_alignment") or (16 if written.get("model_flavour") == "tiny" else 64)
    found = list(_unlike(settings, written, config_keys(), folder, names))
    entries = [entry for entry in json.loads(data) if not entry.get("disabled", False)]
    images = [entry for entry in entries if entry.get("dataset_type") != "text_embeds"]
    texts = [entry for entry in entries if entry.get("dataset_type") == "text_embeds"]
    for entry, image_set in zip(images, settings.image_sets, strict=True):
        found += _unlike(image_set, entry, entry_keys("image"), folder, {**names, "id": entry["id"], "step": step})
    for entry, one in zip(texts, settings.text_embeds, strict=False):
        found += _unlike(one, entry, entry_keys("text_embeds"), folder, {**names, "id": entry["id"]})
    return found


def _unlike(
    got: Settings | ImageSet | TextEmbeds, written: Mapping[str, Any], keys: Mapping[str, Any], folder: Path, names: Any
) -> Iterator[str]:
    for key, value in written.items():
        if (
            key in NO_FIELD
            or (value in (None, "") and key in FOLLOWS)
            or (isinstance(got, TextEmbeds) and key == "default")
        ):
            continue
        meant = _meant(key, value, keys[key], folder, names, written)
        field = getattr(got, key)
        if not _alike(field, meant):
            yield f"{key}: {json.dumps(value)} became {field!r}, not {meant!r}"


def _meant(key: str, value: Any, schema: Mapping[str, Any], folder: Path, names: Any, beside: Mapping[str, Any]) -> Any:
    if value is None or (key == "lycoris_config" and beside.get("lora_type") != "lycoris"):  # a warning says so
        return None
    if key == "validation_resolution":
        sides = re.findall("[0-9]+", str(value)) * (2 if isinstance(value, int) else 1)
        return tuple((int(width), int(height)) for width, height in zip(sides[::2], sides[1::2], strict=True))
    if key == "resolution" and beside.get("resolution_type") == "area":
        return max(names["step"], names["step"] * round(1000 * value**0.5 / names["step"]))
    if key == "resolution_type" and value == "area":
        return "pixel_area"
    if key == "resolution":
        return value
    if "x-path" in schema or (key == "resume_from_checkpoint" and value not in ("latest", "none")):
        return _path(value, folder, names, str if key == "resume_from_checkpoint" else Path)
    if key in ("pretrained_model_name_or_path", "dataset_name"):
        on_the_hub = HUB_ID.fullmatch(value) and not (folder / value).exists()
        of_another_type = key == "dataset_name" and beside.get("type") != "huggingface"
        return value if on_the_hub or of_another_type else _path(value, folder, names, str)
    if "number" in schema["type"]:
        return float(value)
    return tuple(value) if isinstance(value, list) else value


def _path(text: str, folder: Path, names: Mapping[str, str], kind: Any) -> Any:
    for name, value in names.items():
        text = text.replace(f"{{{name}}}", str(value))
    return kind(os.path.normpath(folder / Path(text).expanduser()))


def _alike(one: Any, other: Any) -> bool:
    """Equal, and of one type all the way down: 1 is neither 1.0 nor True."""
    if isinstance(one, Mapping) and isinstance(other, Mapping):
        return one.keys() == other.keys() and all(_alike(one[key], other[key]) for key in one)
    if isinstance(one, (list, tuple)) and type(one) is type(other):
        return len(one) == len(other) and all(map(_alike, one, other))
    return repr(one) == repr(other)
