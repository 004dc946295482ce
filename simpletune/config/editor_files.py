"""Files that give an editor completion and checks: copies of the schemas, and VS Code's settings naming one.

The copies stand in `.simpletune` beside config.json: they work offline and with the version that wrote them, one
hidden folder keeps them apart from the user's own files (and the wizard from making backups of them), and a relative
`$schema` survives moving the folder. config.json names its schema itself; multidatabackend.json is a list and can't, so
VS Code's settings of the folder do. The functions return contents and write nothing: `journal.write_together` does.
"""

from __future__ import annotations

import json
import re
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from simpletune.config import layout
from simpletune.config.edited import edited
from simpletune.config.journal import OWN_FOLDER
from simpletune.config.layout import Node
from simpletune.config.schema import CONFIG, DATA, schema_path
from simpletune.errors import UsageError

SCHEMA_KEY = "$schema"
_ENTRIES = "json.schemas"
_PATTERN = re.compile(r"[*?\[\]{}!\\]")


def schema_reference(name: str = CONFIG) -> str:
    """What names a schema's copy from config.json's folder: the value of `$schema`."""
    return f"{OWN_FOLDER}/{name}.schema.json"


def schema_copies(folder: Path) -> dict[Path, bytes]:
    """The copies of both schemas for a config.json in `folder`."""
    return {folder / schema_reference(name): schema_path(name).read_bytes() for name in (CONFIG, DATA)}


def data_file_name(folder: Path, data_path: Path) -> str:
    """How VS Code's settings of `folder` name a data file: its path from there, else its name.

    What would be a pattern there (`*`, `[`, ...) becomes `?`, any one character.
    """
    inside = data_path.is_relative_to(folder)
    name = data_path.relative_to(folder).as_posix() if inside else data_path.name
    return _PATTERN.sub("?", name)


def vscode_settings_path(folder: Path) -> Path:
    return folder / ".vscode" / "settings.json"


def vscode_settings(folder: Path, data_file: str, existing: bytes | None) -> dict[Path, bytes]:
    """VS Code's settings for `folder`, with an entry that gives `data_file` its schema; {} when they have it already.

    `data_file` is what `data_file_name` gave. `existing` is the content of settings.json, None
    when there is none; comments in it and its order stay. Raises UsageError, with the lines to paste, when it is
    written in a way that can't be changed safely.
    """
    path = vscode_settings_path(folder)
    entry = {"fileMatch": [data_file], "url": f"./{schema_reference(DATA)}"}
    if existing is None or not existing.strip():
        return {path: edited(None, {_ENTRIES: [entry]}).encode()}
    try:
        text = existing.decode("utf-8")
        changed = _with_entry(text, entry)
    except ValueError as error:
        raise UsageError(f"{path} can't be changed safely: {error}", _by_hand(entry)) from error
    return {} if changed == text else {path: changed.encode()}


def _by_hand(entry: Mapping[str, Any]) -> str:
    return f'put this between its outer braces yourself: "{_ENTRIES}": {json.dumps([entry], ensure_ascii=False)}'


def _with_entry(text: str, entry: dict[str, Any]) -> str:
    """`text` with the entry in its list of schemas. Raises ValueError when there is doubt about where."""
    root = layout.scan(text)
    if not isinstance(root.value, dict):
        raise ValueError("it holds no object")
    found = [member.node for member in root.members if member.key == _ENTRIES]
    if len(found) > 1 or (found and not isinstance(found[0].value, list)):
        raise ValueError(f'"{_ENTRIES}" is set twice, or is no list')
    if found and any(_serves(known, entry) for known in found[0].value):
        return text
    if found:
        changed = _appended(text, root, found[0], None, entry)
    else:
        changed = _appended(text, root, root, _ENTRIES, [entry])
    expected = {**root.value, _ENTRIES: [*(found[0].value if found else []), entry]}
    if layout.scan(changed).value != expected:
        raise ValueError("the entry would not read as meant")
    return changed


def _serves(known: Any, entry: Mapping[str, Any]) -> bool:
    """Whether an entry that is there already gives our file a schema of this name, wherever it lies."""
    if not isinstance(known, dict) or not isinstance(known.get("fileMatch"), list):
        return False
    same_name = str(known.get("url", "")).rsplit("/", 1)[-1] == entry["url"].rsplit("/", 1)[-1]
    return same_name and entry["fileMatch"][0] in known["fileMatch"]


def _appended(text: str, root: Node, node: Node, key: str | None, value: Any) -> str:
    """`text` with a member added behind the last one of `node`, and behind the comments after that."""
    line_end, unit = layout.line_end(text), layout.unit(text, root)
    outer = layout.indentation(text, node.start)
    inner = layout.indentation(text, node.members[-1].start) if node.members else outer
    if len(inner) <= len(outer):
        inner = outer + unit
    body = edited(None, value if key is None else {key: value}).rstrip("\n")
    lines = body.split("\n") if key is None else [line[2:] for line in body.split("\n")[1:-1]]
    member = f"{line_end}{inner}".join(_indented(line, unit) for line in lines)
    last = node.members[-1].end if node.members else node.start + 1
    comma = "," if node.members and node.comma is None else ""
    tail = text[last : node.end - 1].rstrip(" \t\r\n")
    return f"{text[:last]}{comma}{tail}{line_end}{inner}{member}{line_end}{outer}{text[node.end - 1 :]}"


def _indented(line: str, unit: str) -> str:
    """A line of our two-space layout in the file's own."""
    stripped = line.lstrip(" ")
    return unit * ((len(line) - len(stripped)) // 2) + stripped
