"""What of a run goes to the hub: the final adapter, its card and pictures, and the settings without anything private.

No checkpoint, no picture or caption that was trained on, no name of one, and no path.
"""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from simpletune.config.load import LYCORIS_FILE
from simpletune.config.rules import looks_like_hub_id
from simpletune.config.schema import config_keys, entry_keys
from simpletune.redact import redact
from simpletune.results.card import FILE as CARD_FILE
from simpletune.results.card.facts import Facts
from simpletune.results.card.gallery import FOLDER as PICTURES
from simpletune.results.card.licence import licence_of, notice_of
from simpletune.results.report.run import Run, Setting
from simpletune.results.run_folder import ADAPTER_FILE

SETTINGS = "simpletune"
"""The folder of the settings in the repository; a config.json at its top would be taken for a model's."""
OURS = (f"{PICTURES}/", "ema/", f"{SETTINGS}/")
"""Folders of the repository that hold nothing but what is uploaded here."""

_HERE_ONLY = frozenset(
    {"device", "device_memory_gb", "hf_endpoint", "report_to", "resume_from_checkpoint", "push_to_hub", "hub_model_id"}
)
_PLACES = {
    "instance_data_dir": "path/to/pictures",
    "mask_data_dir": "path/to/masks",
    "metadata_path": "path/to/captions",
    "s3_url": "s3://bucket/pictures",
    "dataset_name": "OWNER/NAME",
}
_NOT_OF_A_SET = frozenset({"s3_endpoint", "dataset_revision", "dataset_config", "text_embeds"})


@dataclass(frozen=True)
class Item:
    """One file of the repository, and what is in it: a file here, or bytes."""

    name: str
    content: Path | bytes

    @property
    def size(self) -> int:
        return self.content.stat().st_size if isinstance(self.content, Path) else len(self.content)


def items(facts: Facts, pictures: tuple[str, ...]) -> list[Item]:
    """Everything that is uploaded; `pictures` are the card's, relative to the run's folder."""
    folder = facts.run.folder
    found = [Item(CARD_FILE, folder / CARD_FILE), Item(ADAPTER_FILE, folder / ADAPTER_FILE)]
    if facts.averaged:
        found.append(Item(f"ema/{ADAPTER_FILE}", folder / "ema" / ADAPTER_FILE))
    found += [Item(name, folder / name) for name in pictures]
    if (notice := notice_of(licence_of(facts.base))) is not None:
        found.append(Item("NOTICE", f"{notice}\n".encode()))
    shared = {
        "config.json": shared_config(facts),
        "multidatabackend.json": shared_data_sets(facts.run),
        "validation_prompts.json": dict(facts.prompts) or None,
        LYCORIS_FILE: facts.value("lycoris_config"),
    }
    return found + [Item(f"{SETTINGS}/{name}", _json(value)) for name, value in shared.items() if value]


def shared_config(facts: Facts) -> dict[str, Any]:
    """The run's config.json, without places and without what is this machine's own."""
    keys = config_keys()
    shared = {
        key: setting.value
        for key, setting in facts.run.config.items()
        if key in keys and "x-path" not in keys[key] and key not in _HERE_ONLY and not key.startswith("tracker_")
    }
    named = shared.pop("pretrained_model_name_or_path", None)
    if isinstance(named, str) and looks_like_hub_id(named) and not facts.base.is_copy:
        shared["pretrained_model_name_or_path"] = named
    shared.pop("validation_prompt", None)  # it is among those of the file
    shared["data_backend_config"] = "multidatabackend.json"
    if facts.prompts:
        shared["validation_prompts_file"] = "validation_prompts.json"
    if facts.value("lycoris_config"):
        shared["lycoris_config"] = LYCORIS_FILE
    return shared


def shared_data_sets(run: Run) -> list[dict[str, Any]]:
    """The run's data sets by number, with words in place of their places."""
    return [_data_set(number, one) for number, one in enumerate(run.data_sets, start=1)]


def _data_set(number: int, described: Mapping[str, Setting]) -> dict[str, Any]:
    keys = entry_keys("image")
    shared: dict[str, Any] = {}
    for key, setting in described.items():
        if key not in keys or key in _NOT_OF_A_SET or setting.value is None:
            continue
        if key in _PLACES:
            shared[key] = _PLACES[key] + _ending(setting.value)
        elif "x-path" not in keys[key] and not key.startswith("cache_dir"):
            shared[key] = setting.value
    return {**shared, "id": f"set-{number}"}


def _ending(value: Any) -> str:
    """The ending of a file's name, which says how it is read."""
    ending = Path(str(value)).suffix
    return ending if ending in {".csv", ".jsonl", ".parquet"} else ""


def _json(value: Any) -> bytes:
    return (redact(json.dumps(value, indent=2, ensure_ascii=False)) + "\n").encode("utf-8", "replace")
