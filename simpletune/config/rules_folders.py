"""Rules across folders: nothing is written where a person's own files are, and no two caches share a place."""

from __future__ import annotations

import os
from collections.abc import Iterator, Sequence
from pathlib import Path

from simpletune.config.document import Keys
from simpletune.config.problems import Problem, quoted, quoted_path
from simpletune.config.rules_sources import FOLDER_TYPES, fetches_pictures, local_data_set
from simpletune.config.view import View


def folder_problems(whole: View) -> Iterator[Problem]:
    """No cache folder is used twice, and nothing is written into a folder that is only to be read."""
    caches = [(entry, "cache_dir_vae") for entry in whole.images]
    caches += [(entry, "cache_dir_pictures") for entry in whole.images if fetches_pictures(entry)]
    caches += [(entry, "cache_dir") for entry in whole.texts]
    read = [(what, entry, Path(_identity(folder))) for entry in whole.images for what, folder in _only_read(entry)]
    seen: dict[str, tuple[Keys, str]] = {}
    for entry, key in sorted(caches, key=lambda cache: cache[0].prefix):
        path = entry.path(key)
        if path is None or not entry.fine(key) or not entry.given("id"):
            continue
        first, first_key = seen.setdefault(_identity(path), (entry, key))
        if (first.prefix, first_key) != (entry.prefix, key):
            message = f"the cache folder {quoted_path(path)} is used twice, first by {quoted(first['id'])}"
            yield entry.error(key, message, "give each data set a folder of its own; {id} in the path does it")
        yield from _outside_pictures(entry, key, path, read)
    yield from _fetched_apart(whole, caches)
    output = whole.config.path("output_dir")
    if output is not None and whole.config.fine("output_dir"):
        yield from _outside_pictures(whole.config, "output_dir", output, read)


def _fetched_apart(whole: View, caches: list[tuple[Keys, str]]) -> Iterator[Problem]:
    """A folder of fetched pictures is read as a data set, so nothing else may be written below it, nor it below."""
    written = [*caches, (whole.config, "output_dir")]
    for entry, key in caches:
        fetched = entry.path(key) if key == "cache_dir_pictures" and entry.fine(key) else None
        for keys, other in written if fetched is not None else []:
            path = keys.path(other) if keys.fine(other) else None
            if path is None or fetched is None or (keys is entry and other == key):
                continue
            if _inside(path, fetched) or (other != "output_dir" and _inside(fetched, path)):
                message = f'"{key}" {quoted_path(fetched)} and "{other}" {quoted_path(path)} lie in one another'
                yield entry.error(key, message, "give each a folder of its own")
                break


def _outside_pictures(keys: Keys, key: str, path: Path, read: Sequence[tuple[str, Keys, Path]]) -> Iterator[Problem]:
    written = Path(_identity(path))
    above = {written, *written.parents}
    for what, entry, folder in read:
        if folder in above:
            message = f'"{key}": {quoted_path(path)} is inside the {what} of {quoted(entry["id"])}'
            yield keys.error(key, message, f"{what}s are only read; choose a folder outside")
            return


def _only_read(entry: Keys) -> Iterator[tuple[str, Path]]:
    """The folders of a data set that are a person's own, and what each is called."""
    if entry["type"] in FOLDER_TYPES and entry.given("instance_data_dir"):
        pictures = entry.path("instance_data_dir")
        if pictures is not None:
            yield "picture folder", pictures
    if entry["mask_source"] == "folder" and entry.given("mask_data_dir"):
        masks = entry.path("mask_data_dir")
        if masks is not None:
            yield "mask folder", masks
    data_set = local_data_set(entry) if entry.fine("dataset_name") else None
    if data_set is not None:
        yield "data set folder", data_set


def _inside(path: Path, folder: Path) -> bool:
    """Whether `path` is in `folder` but isn't it."""
    inner, outer = Path(_identity(path)), Path(_identity(folder))
    return inner != outer and inner.is_relative_to(outer)


def _identity(path: Path) -> str:
    try:
        return os.path.normcase(path.resolve())
    except (OSError, ValueError, RuntimeError):
        return os.path.normcase(path)
