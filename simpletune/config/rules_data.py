"""What a schema can't say of the data file: rules within an entry and across entries."""

from __future__ import annotations

import os
from collections.abc import Iterator, Sequence
from pathlib import Path

from simpletune.config.document import Document, Keys
from simpletune.config.problems import Problem, quoted, quoted_path
from simpletune.config.rules import off_step, path_problems
from simpletune.config.suggest import close, did_you_mean
from simpletune.config.view import View


def data_problems(whole: View) -> Iterator[Problem]:
    if whole.data is None:
        return
    yield from _sets_there(whole, whole.data)
    yield from _unique_ids([*whole.images, *whole.texts])
    yield from _text_caches(whole)
    for entry in whole.images:
        yield from _prompt(entry)
        yield from _sizes(entry, whole)
        yield from _crop(entry)
        yield from _picture_folder(entry)
    for entry in (*whole.images, *whole.texts):
        for key in entry.path_keys():
            if entry.fine(key) and key != "instance_data_dir":
                yield from path_problems(entry, key)
    yield from _folders_apart(whole)


def _sets_there(whole: View, data: Document) -> Iterator[Problem]:
    if whole.images or not isinstance(data.value, list) or () in data.bad:
        return
    entries = [entry for entry in data.value if isinstance(entry, dict)]
    pictures = [entry for entry in entries if entry.get("dataset_type", "image") == "image"]
    if any(index in {bad[0] for bad in data.bad if bad} for index in range(len(data.value))):
        return  # an entry that can't be read may be the one
    message = "every data set with pictures is disabled" if pictures else "there is no data set with pictures"
    hint = 'add an entry such as {"id": "my-pictures", "instance_data_dir": "pictures"}'
    yield data.problem((), message, 'set "disabled" to false in one of them' if pictures else hint)


def _unique_ids(entries: Sequence[Keys]) -> Iterator[Problem]:
    seen: dict[str, Keys] = {}
    for entry in sorted((entry for entry in entries if entry.given("id")), key=lambda entry: entry.prefix):
        first = seen.setdefault(entry["id"], entry)
        if first is not entry:
            where = _line_of(first, "id")
            yield entry.error(
                "id", f"the id {quoted(entry['id'])} is used twice, first in {where}", "rename one of the two"
            )


def _line_of(entry: Keys, key: str) -> str:
    position = entry.document.file.place((*entry.prefix, key))
    return f"line {position.line}" if position else f"data set {entry.prefix[0]}"


def _text_caches(whole: View) -> Iterator[Problem]:
    marked = [entry for entry in whole.texts if entry["default"]]
    for entry in marked[1:]:
        message = f"two text_embeds entries are marked default, the first on {_line_of(marked[0], 'default')}"
        yield entry.error("default", message, "keep one of the two")
    ids = [entry["id"] for entry in whole.texts if entry.given("id")]
    for entry in whole.images:
        wanted = entry["text_embeds"]
        if not entry.fine("text_embeds"):
            continue
        if wanted is not None and wanted not in ids:
            message = f'"text_embeds": there is no text_embeds entry {quoted(wanted)}{did_you_mean(close(wanted, ids))}'
            yield entry.error("text_embeds", message, _entries_hint(ids))
        elif wanted is None and len(whole.texts) > 1 and not marked:
            message = "there are several text_embeds entries and none is marked default"
            yield entry.error("text_embeds", message, 'set "default": true in one, or name one here with "text_embeds"')


def _entries_hint(ids: Sequence[str]) -> str:
    return f"there is {', '.join(ids)}" if ids else "leave the key out: a cache is made"


def _prompt(entry: Keys) -> Iterator[Problem]:
    keys = ("caption_strategy", "instance_prompt", "prepend_instance_prompt", "only_instance_prompt")
    if not entry.fine(*keys):
        return
    strategy, prompt = entry["caption_strategy"], entry["instance_prompt"]
    users = [key for key in keys[2:] if entry[key]]
    if prompt is None or not prompt.strip():
        if strategy == "instanceprompt":
            message = '"caption_strategy" instanceprompt needs "instance_prompt"'
            yield entry.error("caption_strategy", message, 'add "instance_prompt": "a photo of ..."')
        for key in users:
            yield entry.error(key, f'"{key}" needs "instance_prompt"', 'add "instance_prompt": "a photo of ..."')
    elif strategy != "instanceprompt" and not users:
        yield entry.useless("instance_prompt", f'while "caption_strategy" is {strategy}; see prepend_instance_prompt')


def _sizes(entry: Keys, whole: View) -> Iterator[Problem]:
    if entry.given("resolution") and entry.fine("resolution_type") and entry["resolution"] is not None:
        yield from _resolution(entry, whole)
    for low, high in (
        ("minimum_image_size", "maximum_image_size"),
        ("minimum_aspect_ratio", "maximum_aspect_ratio"),
        ("target_downsample_size", "maximum_image_size"),
    ):
        if entry.fine(low, high) and None not in (entry[low], entry[high]) and entry[low] > entry[high]:
            yield entry.error(low, f'"{low}" {entry[low]} is above "{high}" {entry[high]}')
    downsample = "target_downsample_size"
    if entry.fine(downsample, "maximum_image_size") and entry[downsample] and entry["maximum_image_size"] is None:
        yield entry.useless(downsample, 'without "maximum_image_size"')


def _resolution(entry: Keys, whole: View) -> Iterator[Problem]:
    value, kind = entry["resolution"], entry["resolution_type"]
    if kind == "area":
        if value > 64:
            message = f'"resolution" is in megapixels when "resolution_type" is area, and {value} is more than 64'
            yield entry.error("resolution", message, 'write for instance 1.0, or use "resolution_type" pixel_area')
    elif isinstance(value, float):
        message = f'"resolution" must be a whole number of pixels, not {value}'
        hint = f"write {int(value)}" if value.is_integer() and value >= 16 else 'megapixels need "resolution_type" area'
        yield entry.error("resolution", message, hint)
    elif value < 16:
        message = f'"resolution" must be at least 16 pixels, not {value}'
        yield entry.error("resolution", message, 'megapixels need "resolution_type" area')
    elif whole.config.fine("aspect_bucket_alignment", "model_flavour"):
        yield from off_step(entry, value, whole.alignment)


def _crop(entry: Keys) -> Iterator[Problem]:
    if not entry.fine("crop", "crop_aspect", "crop_aspect_buckets"):
        return
    for key in ("crop_style", "crop_aspect"):
        if not entry["crop"] and entry.given(key) and entry[key] != entry.schema[key]["default"]:
            yield entry.useless(key, 'while "crop" is false')
    if entry["crop"] and entry["crop_aspect"] == "closest" and not entry["crop_aspect_buckets"]:
        message = '"crop_aspect" closest needs "crop_aspect_buckets"'
        yield entry.error("crop_aspect", message, 'add for instance "crop_aspect_buckets": [1.0, 0.75, 1.5]')
    if entry["crop_aspect_buckets"] and not (entry["crop"] and entry["crop_aspect"] == "closest"):
        yield entry.useless("crop_aspect_buckets", 'unless "crop" is true and "crop_aspect" is closest')


def _picture_folder(entry: Keys) -> Iterator[Problem]:
    key = "instance_data_dir"
    if not entry.given(key):
        return
    found = list(path_problems(entry, key))
    yield from found
    path = entry.path(key)
    if found or path is None:
        return
    try:
        if next(_any_file(path), None) is None:
            yield entry.error(key, f'"{key}": {quoted_path(path)} is empty', "put your pictures there")
    except OSError as error:
        yield entry.error(key, f'"{key}": {quoted_path(path)} can\'t be read: {error.strerror}')


def _any_file(folder: Path) -> Iterator[str]:
    """The files below a folder; raises OSError when the folder itself can't be listed."""
    with os.scandir(folder):
        pass
    for where, folders, files in os.walk(folder):
        folders[:] = [name for name in folders if not name.startswith(".")]
        yield from (f"{where}/{name}" for name in files if not name.startswith("."))


def _folders_apart(whole: View) -> Iterator[Problem]:
    """No cache folder is used twice, and nothing is written into a folder of pictures."""
    caches = [(entry, key) for entry in whole.images for key in ["cache_dir_vae"]]
    caches += [(entry, key) for entry in whole.texts for key in ["cache_dir"]]
    seen: dict[str, Keys] = {}
    for entry, key in sorted(caches, key=lambda cache: cache[0].prefix):
        path = entry.path(key)
        if path is None or not entry.fine(key) or not entry.given("id"):
            continue
        first = seen.setdefault(_identity(path), entry)
        if first is not entry:
            message = f"the cache folder {quoted_path(path)} is used twice, first by {quoted(first['id'])}"
            yield entry.error(key, message, "give each data set a folder of its own; {id} in the path does it")
        yield from _outside_pictures(entry, key, path, whole)
    output = whole.config.path("output_dir")
    if output is not None and whole.config.fine("output_dir"):
        yield from _outside_pictures(whole.config, "output_dir", output, whole)


def _outside_pictures(keys: Keys, key: str, path: Path, whole: View) -> Iterator[Problem]:
    for entry in whole.images:
        pictures = entry.path("instance_data_dir") if entry.given("instance_data_dir") else None
        if pictures is not None and Path(_identity(path)).is_relative_to(_identity(pictures)):
            message = f'"{key}": {quoted_path(path)} is inside the picture folder of {quoted(entry["id"])}'
            yield keys.error(key, message, "picture folders are only read; choose a folder outside")
            return


def _identity(path: Path) -> str:
    try:
        return os.path.normcase(path.resolve())
    except (OSError, ValueError, RuntimeError):
        return os.path.normcase(path)
