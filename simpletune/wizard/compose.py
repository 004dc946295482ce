"""From answers to files: what would be written, checked as if it stood there, and shown as a diff.

Contents depend on the answers and the files that are there, on nothing else: the same answers give the same bytes,
however they were asked for.
"""

from __future__ import annotations

import codecs
import difflib
import os
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any

from simpletune.config import jsonfile
from simpletune.config.edited import edited
from simpletune.config.editor_files import (
    SCHEMA_KEY,
    data_file_name,
    schema_copies,
    schema_reference,
    vscode_settings,
    vscode_settings_path,
)
from simpletune.config.schema import config_keys, entry_keys
from simpletune.wizard.state import DATA_FILE, TEXT_EMBEDS, State

if TYPE_CHECKING:
    from simpletune.config.validate import Checked


def contents(state: State) -> dict[Path, bytes]:
    """Every file the answers make, by absolute path: the two files, and what belongs to them."""
    config_path = Path(os.path.abspath(state.base.config_path))  # noqa: PTH100
    config = _config(state)
    made = {
        config_path: _content(state.base.config_file, config),
        state.data_path: _content(state.base.data_file, _entries(state)),
    }
    if state.prompts is not None:
        path = state.resolve(state.config["validation_prompts_file"])
        made[path] = _content(state.base.prompts_file, state.prompts)
    if state.lycoris != state.base.lycoris:
        path = state.resolve(state.config["lycoris_config"])
        made[path] = _content(state.base.lycoris_file, state.lycoris)
    if config.get(SCHEMA_KEY) == schema_reference():
        made.update(schema_copies(state.folder))
    if state.editor:
        made.update(schema_copies(state.folder))
        made.update(editor_settings(state))
    return made


def _content(file: jsonfile.JsonFile | None, value: Any) -> bytes:
    """`value` as a change of `file`; the file's own bytes where nothing changes, a byte order mark included."""
    text = edited(file, value)
    same = file is not None and text == file.text
    marked = same and file is not None and (_bytes_of(file.path) or b"").startswith(codecs.BOM_UTF8)
    return (codecs.BOM_UTF8 if marked else b"") + text.encode()


def _bytes_of(path: Path) -> bytes | None:
    """A file's content; None when there is none to read."""
    try:
        return path.read_bytes()
    except (OSError, ValueError):
        return None


def checked(state: State) -> Checked:
    """What `validate` would say of the files, were they written."""
    from simpletune.config.validate import check  # with jsonschema, which no question needs

    return check(state.base.config_path, planned=contents(state))


def _config(state: State) -> dict[str, Any]:
    """config.json in the order it has; what is new follows in the schema's order."""
    value = dict(state.config)
    if not state.base.exists:
        value = {
            SCHEMA_KEY: schema_reference(),
            **value,
            "data_backend_config": value.get("data_backend_config", DATA_FILE),
        }
    return _in_order(value, state.base.config_file, list(config_keys()))


def _entries(state: State) -> list[dict[str, Any]]:
    keys = list(entry_keys("image"))
    old = state.base_images
    return [
        entry if entry.get("dataset_type") == TEXT_EMBEDS else _entry_in_order(entry, old, keys)
        for entry in state.entries
    ]


def _entry_in_order(entry: dict[str, Any], old: list[dict[str, Any]], keys: list[str]) -> dict[str, Any]:
    before = next((one for one in old if one.get("id") == entry.get("id")), {})
    first = [key for key in before if key in entry]
    rest = sorted((key for key in entry if key not in before), key=lambda key: _rank(keys, key))
    return {key: entry[key] for key in (*first, *rest)}


def _in_order(value: dict[str, Any], file: jsonfile.JsonFile | None, keys: list[str]) -> dict[str, Any]:
    there = [key for key in (file.value if file is not None else {}) if key in value]
    rest = sorted((key for key in value if key not in there), key=lambda key: _rank(keys, key))
    return {key: value[key] for key in (*there, *rest)}


def _rank(keys: list[str], key: str) -> int:
    return keys.index(key) if key in keys else len(keys)


def editor_settings(state: State) -> Mapping[Path, bytes]:
    """VS Code's settings with the entry that lets it complete and check the data file; {} when they have it.

    Raises UsageError when they are written in a way that can't be changed safely.
    """
    path = vscode_settings_path(state.folder)
    existing = path.read_bytes() if path.is_file() else None
    return vscode_settings(state.folder, data_file_name(state.folder, state.data_path), existing)


def changes(made: Mapping[Path, bytes]) -> dict[Path, tuple[str, str]]:
    """The files that would change, with their text before ("" for a new one) and after."""
    found = {}
    for path, content in made.items():
        before = _bytes_of(path) or b""
        if before != content:
            found[path] = (before.decode("utf-8", "replace"), content.decode("utf-8"))
    return found


def diff(made: Mapping[Path, bytes], folder: Path, *, own: bool = False) -> Iterator[str]:
    """Unified diffs of the files that would change, without those of the program's own folder unless `own`."""
    for path, (before, after) in changes(made).items():
        if not own and path.parent.name == ".simpletune":
            continue
        name = os.path.relpath(path, folder)
        old = "/dev/null" if not before else name
        yield from difflib.unified_diff(before.splitlines(), after.splitlines(), old, name, lineterm="")
