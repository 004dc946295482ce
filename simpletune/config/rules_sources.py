"""Rules of where a data set's pictures are: what each type needs, and which keys belong to another one."""

from __future__ import annotations

import os
from collections.abc import Iterator
from pathlib import Path

from simpletune.config.document import Keys
from simpletune.config.problems import Problem, quoted_path
from simpletune.config.rules import differs, exists, looks_like_hub_id, path_problems
from simpletune.config.suggest import NEEDED, missing_hint

FOLDER_TYPES = ("local", "webdataset")
# Key -> the types it has an effect with.
_BELONGS = {
    "instance_data_dir": FOLDER_TYPES,
    "s3_url": ("s3",),
    "s3_endpoint": ("s3",),
    **dict.fromkeys(
        (
            "dataset_name",
            "dataset_config",
            "dataset_split",
            "dataset_revision",
            "dataset_filter",
            "image_column",
            "streaming",
            "cache_dir_pictures",
        ),
        ("huggingface",),
    ),
}
_NAMED_FILES = (".parquet", ".csv", ".json", ".jsonl", ".zip", ".tar", ".arrow", ".py")


def source_problems(entry: Keys) -> Iterator[Problem]:
    """Everything about `type` and the keys that belong to one type only."""
    if not entry.fine("type"):
        return
    kind = entry["type"]
    needed = NEEDED[kind]
    if needed in entry.values and entry.fine(needed) and entry[needed] is None:
        yield entry.error(needed, f'"{needed}" must not be null with "type" {kind}', missing_hint(needed, entry.values))
    if not entry.fine(needed):
        return  # the type itself may be what is wrong
    yield from _of_another_type(entry, kind)
    if kind in FOLDER_TYPES:
        yield from _picture_folder(entry, kind)
    elif kind == "huggingface":
        yield from _data_set(entry)
    elif kind == "s3":
        yield from _without_credentials(entry)


def is_hub_data_set(text: str) -> bool:
    """Whether a data set's name is meant for the hub rather than for a folder or file."""
    return looks_like_hub_id(text) and not text.lower().endswith(_NAMED_FILES)


def fetches_pictures(entry: Keys) -> bool:
    """Whether a data set fills cache_dir_pictures."""
    return bool(entry["type"] == "huggingface") and local_data_set(entry) is None


def local_data_set(entry: Keys) -> Path | None:
    """The folder or file that `dataset_name` names on this machine; None for one of the hub, or another type."""
    if entry["type"] != "huggingface" or not entry["dataset_name"]:
        return None
    path = entry.resolve("dataset_name", entry["dataset_name"])
    return path if exists(path) or not is_hub_data_set(entry["dataset_name"]) else None


def _of_another_type(entry: Keys, kind: str) -> Iterator[Problem]:
    for key, kinds in _BELONGS.items():
        if kind not in kinds and differs(entry, key):
            yield entry.useless(key, f'while "type" is {kind}; it is for {" and ".join(kinds)}')


def _picture_folder(entry: Keys, kind: str) -> Iterator[Problem]:
    key = "instance_data_dir"
    path = entry.path(key)
    if kind == "webdataset" and path is not None and _is_shard(path):
        return
    found = list(path_problems(entry, key))
    yield from found
    if found or path is None:
        return
    try:
        if kind == "webdataset" and not any(name.lower().endswith(".tar") for name in any_file(path)):
            hint = 'put the shards there; for a folder of pictures, leave "type" out'
            yield entry.error(key, f'"{key}": {quoted_path(path)} holds no .tar files', hint)
        elif next(any_file(path), None) is None:
            yield entry.error(key, f'"{key}": {quoted_path(path)} is empty', "put your pictures there")
    except OSError as error:
        yield entry.error(key, f'"{key}": {quoted_path(path)} can\'t be read: {error.strerror}')


def _is_shard(path: Path) -> bool:
    try:
        return path.suffix.lower() == ".tar" and path.is_file() and os.access(path, os.R_OK)
    except (OSError, ValueError):
        return False


def any_file(folder: Path) -> Iterator[str]:
    """The files below a folder; raises OSError when the folder itself can't be listed."""
    with os.scandir(folder):
        pass
    for where, folders, files in os.walk(folder):
        folders[:] = [name for name in folders if not name.startswith(".")]
        yield from (f"{where}/{name}" for name in files if not name.startswith("."))


def _data_set(entry: Keys) -> Iterator[Problem]:
    key, named = "dataset_name", str(entry["dataset_name"])
    if "://" in named:
        name = named.partition("/datasets/")[2].strip("/")
        hint = f'write "{name}"' if looks_like_hub_id(name) else 'write a name such as "owner/name"'
        yield entry.error(key, f'"{key}" must be a name, not an address', hint)
        return
    path = local_data_set(entry)
    if path is None:
        return
    if wrong := _wrong_with(path):
        hint = 'give a name on the hub such as "owner/name", a folder, or a .parquet file'
        yield entry.error(key, f'"{key}": {quoted_path(path)} {wrong}', hint)
        return
    for key in ("dataset_revision", "streaming"):
        if differs(entry, key):
            yield entry.useless(key, 'while "dataset_name" is on this machine')


def _wrong_with(path: Path) -> str | None:
    """What is wrong with a folder or file as a data set in the hub's layout."""
    if path.suffix.lower() == ".py":
        return "is a program, and loading scripts are never run"
    try:
        if not path.exists():
            return "does not exist"
        if path.is_dir():
            return None if next(any_file(path), None) is not None else "is empty"
        return None if path.suffix.lower() == ".parquet" else "is neither a folder nor a .parquet file"
    except (OSError, ValueError) as error:
        return f"can't be read: {getattr(error, 'strerror', None) or error}"


def _without_credentials(entry: Keys) -> Iterator[Problem]:
    for key in ("s3_url", "s3_endpoint"):
        if entry.given(key) and entry[key] and "@" in entry[key].partition("://")[2].partition("/")[0]:
            hint = "set AWS_ACCESS_KEY_ID and AWS_SECRET_ACCESS_KEY, or use the AWS configuration files"
            yield entry.error(key, f'"{key}" holds a name or password before the @', hint)
