"""What a schema can't say of the data file: rules within an entry and across entries.

Here are ids, text caches, sizes and crops; the rest is by topic: rules_sources (where pictures are), rules_captions,
rules_roles (training, evaluation, masks, when), rules_folders (what may be written where).
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence

from simpletune.config.document import Keys
from simpletune.config.problems import Problem, quoted
from simpletune.config.rules import differs, path_problems
from simpletune.config.rules_captions import caption_problems, reads_table
from simpletune.config.rules_folders import folder_problems
from simpletune.config.rules_roles import held_apart, role_problems
from simpletune.config.rules_sizes import beyond_positions, off_step
from simpletune.config.rules_sources import fetches_pictures, source_problems
from simpletune.config.suggest import close, did_you_mean
from simpletune.config.view import View, resolution_of


def data_problems(whole: View) -> Iterator[Problem]:
    if whole.data is None:
        return
    yield from _unique_ids([*whole.images, *whole.texts])
    yield from _text_caches(whole)
    for entry in whole.images:
        yield from source_problems(entry)
        yield from caption_problems(entry)
        yield from _sizes(entry, whole)
        yield from _crop(entry)
    yield from role_problems(whole, whole.data)
    for entry in (*whole.images, *whole.texts):
        for key in _paths_in_use(entry):
            if entry.fine(key):
                yield from path_problems(entry, key)
    yield from folder_problems(whole)
    yield from held_apart(whole)


def _paths_in_use(entry: Keys) -> Iterator[str]:
    """The keys whose path counts for an entry; those of pictures and masks have been looked at already."""
    for key in entry.path_keys():
        used = {
            "instance_data_dir": False,
            "mask_data_dir": False,
            "metadata_path": "metadata_path" in entry.schema and reads_table(entry),
            "cache_dir_pictures": "streaming" in entry.schema and fetches_pictures(entry),
        }
        if used.get(key, True):
            yield key


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
    assert whole.data is not None
    # An entry whose id or kind can't be told may be the one that is wanted.
    unsure = any(len(bad) == 1 or bad[1:] in {("id",), ("dataset_type",)} for bad in whole.data.bad if bad)
    for entry in whole.images:
        wanted = entry["text_embeds"]
        if not entry.fine("text_embeds"):
            continue
        if wanted is not None and wanted not in ids and not unsure:
            message = f'"text_embeds": there is no text_embeds entry {quoted(wanted)}{did_you_mean(close(wanted, ids))}'
            yield entry.error("text_embeds", message, _entries_hint(ids))
        elif wanted is None and len(whole.texts) > 1 and not marked and all(t.fine("default") for t in whole.texts):
            message = "there are several text_embeds entries and none is marked default"
            yield entry.error("text_embeds", message, 'set "default": true in one, or name one here with "text_embeds"')


def _entries_hint(ids: Sequence[str]) -> str:
    return f"there is {', '.join(ids)}" if ids else "leave the key out: a cache is made"


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
    if kind == "area" and value > 64:
        message = f'"resolution" is in megapixels when "resolution_type" is area, and {value} is more than 64'
        yield entry.error("resolution", message, 'write for instance 1.0, or use "resolution_type" pixel_area')
    elif kind != "area" and isinstance(value, float):
        message = f'"resolution" must be a whole number of pixels, not {value}'
        hint = f"write {int(value)}" if value.is_integer() and value >= 16 else 'megapixels need "resolution_type" area'
        yield entry.error("resolution", message, hint)
    elif kind != "area" and value < 16:
        message = f'"resolution" must be at least 16 pixels, not {value}'
        yield entry.error("resolution", message, 'megapixels need "resolution_type" area')
    elif whole.config.fine("aspect_bucket_alignment", "model_flavour", "pretrained_model_name_or_path"):
        if kind != "area":
            yield from off_step(entry, value, whole.alignment)
        side = resolution_of(entry, whole)[0]
        yield from beyond_positions(entry, "resolution", side, whole, megapixels=kind == "area")


def _crop(entry: Keys) -> Iterator[Problem]:
    if not entry.fine("crop", "crop_aspect", "crop_aspect_buckets"):
        return
    for key in ("crop_style", "crop_aspect"):
        if not entry["crop"] and differs(entry, key):
            yield entry.useless(key, 'while "crop" is false')
    random = entry["crop"] and (entry["crop_style"] == "random" or not entry.fine("crop_style"))
    if differs(entry, "crop_variants") and not random:
        yield entry.useless("crop_variants", 'unless "crop" is true and "crop_style" is random')
    if entry["crop"] and entry["crop_aspect"] == "closest" and not entry["crop_aspect_buckets"]:
        message = '"crop_aspect" closest needs "crop_aspect_buckets"'
        yield entry.error("crop_aspect", message, 'add for instance "crop_aspect_buckets": [1.0, 0.75, 1.5]')
    if entry["crop_aspect_buckets"] and not (entry["crop"] and entry["crop_aspect"] == "closest"):
        yield entry.useless("crop_aspect_buckets", 'unless "crop" is true and "crop_aspect" is closest')
