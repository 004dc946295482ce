"""Where pictures are, as a person types it and as an entry has it: a folder, a bucket, a data set of the hub."""

from __future__ import annotations

import re
from collections.abc import Mapping
from typing import Any

from simpletune.config.rules import exists
from simpletune.config.rules_sources import is_hub_data_set
from simpletune.data.survey import Place
from simpletune.wizard.question import NotUnderstood
from simpletune.wizard.questions.common import refuse_token, typed_path
from simpletune.wizard.state import State

FORMS = "a folder, s3://bucket/folder, or hf://owner/name for a data set of the Hugging Face hub"
KEY_OF_TYPE = {
    "local": "instance_data_dir", "webdataset": "instance_data_dir", "s3": "s3_url", "huggingface": "dataset_name",
}  # fmt: skip
SOURCE_KEYS = (
    "instance_data_dir", "s3_url", "s3_endpoint", "dataset_name", "dataset_config", "dataset_split",
    "dataset_revision", "dataset_filter", "image_column", "streaming", "cache_dir_pictures",
)  # fmt: skip
"""Keys that say where pictures are; with another place all of them are said anew."""

S3, HUB = "s3://", "hf://"
_PASTED = re.compile(r"^https?://[^/]+/datasets/([^/?#]+/[^/?#]+)")
_BUCKET = re.compile(r"^s3://[^/\s@]+(/.*)?$")


def typed_place(text: str) -> str:
    """A place as it was typed or pasted: an absolute path, s3://bucket/folder or hf://owner/name."""
    clean = text.strip().strip("'\"")
    if "://" not in clean:
        return typed_path(text)
    refuse_token(clean)
    if pasted := _PASTED.match(clean):
        return HUB + _hub_name(pasted[1])
    if clean.lower().startswith(HUB):
        return HUB + _hub_name(clean[len(HUB) :].removeprefix("datasets/").strip("/"))
    if clean.lower().startswith(S3):
        url = S3 + clean[len(S3) :].rstrip("/")
        if not _BUCKET.match(url):
            raise NotUnderstood(f'"{clean}" is no bucket: write s3://bucket/folder, without a name or password')
        return url
    raise NotUnderstood(f'"{clean}" is an address that pictures aren\'t read from; give {FORMS}')


def _hub_name(text: str) -> str:
    if not is_hub_data_set(text):
        raise NotUnderstood(f'"{text}" is no name of a data set: write hf://owner/name')
    return text


def place_of(state: State, index: int, value: str) -> Place:
    """The place that an answer names. A path's type is found out, unless the entry says it of this path."""
    if value.startswith(S3):
        endpoint = _given(state, index).get("s3_endpoint")
        return Place(value, "s3", (("s3_endpoint", endpoint),) if endpoint else ())
    if value.startswith(HUB):
        return Place(value[len(HUB) :], "huggingface")
    if index < len(state.images) and value == value_of(state, state.images[index]):
        return state.place(index)
    entry = state.images[index] if index < len(state.images) else None
    return Place(str(state.resolve_pictures(value, entry)), state.base.sets_of(index).get("type"))


def value_of(state: State, entry: Mapping[str, Any]) -> str | None:
    """A place as `typed_place` gives it, of a data set's entry; None when it names none."""
    kind = str(entry.get("type", "local"))
    named = entry.get(KEY_OF_TYPE.get(kind, ""))
    if not isinstance(named, str):
        return None
    if kind == "s3":
        return named.rstrip("/")
    path = state.resolve_pictures(named, entry)
    return HUB + named if kind == "huggingface" and is_hub_data_set(named) and not exists(path) else str(path)


def _given(state: State, index: int) -> Mapping[str, Any]:
    return state.images[index] if index < len(state.images) else state.base.sets_of(index)
