"""What the wizard knows while it asks: the files it started from, the answers so far, and the files they make.

A `State` is made anew from the answers for each question (see walk.py), so nothing in it can be stale: an answer that
was changed changes everything that follows from it.
"""

from __future__ import annotations

import copy
import os
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from functools import lru_cache
from pathlib import Path
from typing import Any

from simpletune.config.families import FAMILIES, Flavour
from simpletune.config.jsonfile import JsonFile
from simpletune.config.rules import exists
from simpletune.config.rules_sources import is_hub_data_set
from simpletune.config.schema import config_keys, entry_keys
from simpletune.data.survey import Place
from simpletune.wizard.facts import Facts


class _Missing:
    """Stands for an answer that isn't there; null is one that is."""

    def __repr__(self) -> str:
        return "MISSING"


MISSING: Any = _Missing()
CONFIG_FILE, DATA_FILE = "config.json", "multidatabackend.json"
PROMPTS_FILE = "validation_prompts.json"
LYCORIS_FILE = "lycoris_config.json"
TEXT_EMBEDS = "text_embeds"
_LENGTHS = ("max_train_steps", "num_train_epochs")  # either can be given, not both
_ARGUMENTS = "optimizer_config"
_DATA_SET_KEYS = (
    "dataset_config", "dataset_split", "dataset_revision", "dataset_filter", "image_column", "caption_column",
    "streaming", "max_num_samples",
)  # fmt: skip
REMOVED = "data.removed"  # an answer no question asks for: the ids of data sets taken out of the files


@dataclass(frozen=True)
class Answer:
    """An answer; `followed` when it was the recommended one, which is asked again when the recommendation changes."""

    value: Any
    followed: bool = False


@dataclass(frozen=True)
class Base:
    """The files the wizard started from: the two, those of the prompts and of a LyCORIS; or fresh beginnings. `sets`
    are `--set` values by path: ("lora_rank",) or ("dataset", 0, "repeats"), entries of the data file counted.
    `refit`: what the files say of precision, batch and the like is to be made to fit the machine that is answered."""

    config_path: Path
    config_file: JsonFile | None = None
    data_file: JsonFile | None = None
    prompts_file: JsonFile | None = None
    sets: Mapping[tuple[str | int, ...], Any] = field(default_factory=dict)
    refit: bool = False
    lycoris_file: JsonFile | None = None

    @property
    def exists(self) -> bool:
        return self.config_file is not None

    @property
    def data_name(self) -> str:
        """What a fresh config.json's data file is called; that of another config in the same folder has its name."""
        return DATA_FILE if self.config_path.name == CONFIG_FILE else f"{self.config_path.stem}-{DATA_FILE}"

    @property
    def prompts_name(self) -> str:
        return PROMPTS_FILE if self.config_path.name == CONFIG_FILE else f"{self.config_path.stem}-{PROMPTS_FILE}"

    @property
    def lycoris_name(self) -> str:
        return LYCORIS_FILE if self.config_path.name == CONFIG_FILE else f"{self.config_path.stem}-{LYCORIS_FILE}"

    @property
    def lycoris(self) -> Any:
        """What the file holds that config.json names as its LyCORIS config; None without one."""
        return copy.deepcopy(self.lycoris_file.value) if self.lycoris_file is not None else None

    @property
    def prompts(self) -> dict[str, str]:
        """The prompts of the file that config.json names, by name."""
        value = self.prompts_file.value if self.prompts_file is not None else None
        return {key: str(prompt) for key, prompt in value.items()} if isinstance(value, dict) else {}

    @property
    def config(self) -> dict[str, Any]:
        """config.json's value; the keys of `--set` over it."""
        fresh = {} if self.data_name == DATA_FILE else {"data_backend_config": self.data_name}
        value = copy.deepcopy(self.config_file.value) if self.config_file is not None else fresh
        for one, other in (_LENGTHS, _LENGTHS[::-1]):
            if one in self.config_sets and other not in self.config_sets:
                value.pop(other, None)
        return {**value, **self.config_sets}

    def sets_any(self, question_id: str, keys: Sequence[str]) -> bool:
        """Whether `--set` gives one of a question's keys: what somebody says in so many words is never replaced."""
        parts = question_id.split(".")
        place: tuple[str | int, ...] = ("dataset", self.entry_of(int(parts[1]))) if parts[0] == "data" else ()
        return any((*place, key) in self.sets for key in keys)

    @property
    def config_sets(self) -> dict[str, Any]:
        """What `--set key=value` gives; `--set optimizer_config.eps=value` adds to what the file has."""
        given = {str(path[0]): copy.deepcopy(value) for path, value in self.sets.items() if len(path) == 1}
        arguments = {
            str(path[1]): value for path, value in self.sets.items() if path[0] == _ARGUMENTS and len(path) == 2
        }
        if arguments:
            there = self.config_file.value.get(_ARGUMENTS, {}) if self.config_file is not None else {}
            given[_ARGUMENTS] = {**there, **given.get(_ARGUMENTS, {}), **arguments}
        return given

    @property
    def entries(self) -> list[dict[str, Any]]:
        """The data file's entries; the keys of `--set` over those that are there."""
        entries: list[dict[str, Any]] = copy.deepcopy(self.data_file.value) if self.data_file is not None else []
        for index, entry in enumerate(entries):
            entry.update(self._sets_at(index))
        return entries

    @property
    def images(self) -> list[dict[str, Any]]:
        """The entries that are data sets."""
        return images_of(self.entries)

    def sets_of(self, image: int) -> dict[str, Any]:
        """What `--set dataset.N.key=value` gives for a data set, counted from 0."""
        return self._sets_at(self.entry_of(image))

    def entry_of(self, image: int) -> int:
        """Where a data set stands among all entries, as `train --set` counts them; a new one comes after them."""
        entries = self.data_file.value if self.data_file is not None else []
        places = [place for place, entry in enumerate(entries) if images_of([entry])]
        return places[image] if image < len(places) else len(entries) + image - len(places)

    def _sets_at(self, index: int) -> dict[str, Any]:
        return {
            str(path[2]): copy.deepcopy(value) for path, value in self.sets.items() if path[:2] == ("dataset", index)
        }


def images_of(entries: list[dict[str, Any]]) -> list[dict[str, Any]]:
    """The entries that are sets of pictures to train on, in order."""
    return [entry for entry in entries if entry.get("dataset_type") != TEXT_EMBEDS and not entry.get("disabled")]


@lru_cache(maxsize=1024)
def _absolute(folder: Path, text: str) -> Path:
    return Path(os.path.normpath(folder / text))


class State:
    """The files as the answers so far make them, and everything a question may want to know."""

    def __init__(self, facts: Facts, base: Base, answers: Mapping[str, Answer]) -> None:
        self.facts = facts
        self.base = base
        self.folder = Path(os.path.abspath(base.config_path)).parent  # noqa: PTH100
        """The folder of config.json, which relative paths are meant from."""
        self.answers = answers
        self.config = base.config
        removed = answers[REMOVED].value if REMOVED in answers else []
        self.entries = [entry for entry in base.entries if entry.get("id") not in removed]
        self.base_images = images_of(copy.deepcopy(self.entries))
        """The data sets that stood in the files at the start and were not taken out."""
        self.prompts: dict[str, str] | None = None  # what validation_prompts.json is to hold; None leaves it alone
        self.lycoris: Any = base.lycoris  # what lycoris_config.json is to hold
        self.editor = False
        self.ahead: State | None = None  # with what is proposed for all that is open, for the figures on screen
        self.values: dict[str, Any] = {}  # of the questions answered so far, by id

    @property
    def flavour(self) -> Flavour:
        return FAMILIES["sd3"].flavours[self.value("model_flavour")]

    @property
    def images(self) -> list[dict[str, Any]]:
        return images_of(self.entries)

    def is_void(self, fitted: str) -> bool:
        """Whether what the files say is void for an answer that is `fitted` to the machine or to the model: there is
        another model now, or, where fitting to the machine was asked for, another machine. The model itself is void
        ("card") where files that train the built-in one are to fit a card."""
        if self.base.config_file is None or not fitted:
            return False
        if fitted == "card":
            return self.base.refit and self.flavour.hub_id is None and self.value("device") != "cpu"
        other_machine = self._differs("device") or self._differs("device_memory_gb")
        return self._differs("model_flavour") or (fitted == "machine" and self.base.refit and other_machine)

    def _differs(self, key: str) -> bool:
        """Whether a key is another than in the files."""
        assert self.base.config_file is not None
        return bool(self.value(key) != self.base.config_file.value.get(key, config_keys()[key].get("default")))

    def value(self, key: str) -> Any:
        """A key's value, its default when it is not given."""
        return self.config.get(key, config_keys()[key].get("default"))

    def entry_value(self, index: int, key: str) -> Any:
        return self.images[index].get(key, entry_keys("image")[key].get("default"))

    def image(self, index: int) -> dict[str, Any]:
        """The entry of data set `index`; made when there is none."""
        while len(self.images) <= index:
            entry = {"id": "", **self._text_cache(), **self.base.sets_of(len(self.images))}
            texts = [place for place, other in enumerate(self.entries) if other.get("dataset_type") == TEXT_EMBEDS]
            self.entries.insert(texts[0] if texts else len(self.entries), entry)
        return self.images[index]

    def _text_cache(self) -> dict[str, str]:
        """The text cache that a new data set has to name: one of several, if none of them is the default."""
        texts = [entry for entry in self.entries if entry.get("dataset_type") == TEXT_EMBEDS]
        caches = [entry for entry in texts if not entry.get("disabled")]
        has_one = len(caches) < 2 or any(entry.get("default") for entry in caches)
        return {} if has_one else {"text_embeds": caches[0]["id"]}

    @property
    def data_path(self) -> Path:
        """Where the data file is, or will be."""
        return self.resolve(str(self.config.get("data_backend_config", DATA_FILE)))

    def resolve(self, text: str, folder: Path | None = None) -> Path:
        """A path of config.json, or of the file in `folder`."""
        filled = text.replace("{model_family}", str(self.value("model_family"))) if "{" in text else text
        return _absolute(folder or self.folder, os.path.expanduser(filled))  # noqa: PTH111

    def stored(self, path: Path, folder: Path | None = None) -> str:
        """A path as config.json, or the file in `folder`, holds it: relative where it lies in that folder or beside it,
        so that a project can move."""
        here, absolute = folder or self.folder, Path(os.path.abspath(path))  # noqa: PTH100
        near = absolute.is_relative_to(here.parent) and here.parent != Path(here.anchor)
        return Path(os.path.relpath(absolute, here)).as_posix() if near else str(absolute)

    def resolve_pictures(self, text: str, entry: Mapping[str, Any] | None = None) -> Path:
        """A path of the data file; what its entry's other values stand for is filled in."""
        if "{output_dir}" in text:
            text = text.replace("{output_dir}", str(self.resolve(str(self.value("output_dir")))))
        filled = text.replace("{id}", str(entry["id"])) if entry and "id" in entry else text
        return self.resolve(filled, self.data_path.parent)

    def place(self, index: int) -> Place:
        """Where a data set's pictures are."""
        entry = self.images[index]
        kind = str(entry.get("type", "local"))
        if kind == "s3":
            keys = {"s3_endpoint": entry["s3_endpoint"]} if entry.get("s3_endpoint") else {}
            return Place(str(entry.get("s3_url", "")), kind, tuple(keys.items()))
        if kind == "huggingface":
            return self._data_set(entry)
        return Place(str(self.resolve_pictures(str(entry.get("instance_data_dir", "")), entry)), kind)

    def _data_set(self, entry: Mapping[str, Any]) -> Place:
        named = str(entry.get("dataset_name", ""))
        path = self.resolve_pictures(named)
        keys = {key: entry[key] for key in _DATA_SET_KEYS if entry.get(key)}
        keys = {key: _fixed(value) for key, value in keys.items()}
        if exists(path) or not is_hub_data_set(named):
            return Place(str(path), "huggingface", tuple(keys.items()))
        cache = str(entry.get("cache_dir_pictures", entry_keys("image")["cache_dir_pictures"]["default"]))
        keys["cache_dir_pictures"] = self.resolve_pictures(cache, entry)
        return Place(named, "huggingface", tuple(keys.items()), self.value("hf_endpoint"))


def _fixed(value: Any) -> Any:
    """A value of the data file as a Place can have it: lists as tuples, objects as pairs."""
    if isinstance(value, dict):
        return tuple((key, _fixed(inner)) for key, inner in value.items())
    return tuple(value) if isinstance(value, list) else value
