"""Who uses a cache's folder: a note that each run leaves there, with the entries it needed.

Several configs may share a folder. The notes tell `simpletune cache` which entries belong to another config whose file
is still there, so that nobody's are taken for orphans. Imports no torch.
"""

from __future__ import annotations

import hashlib
import json
import re
from collections.abc import Collection
from contextlib import suppress
from dataclasses import dataclass
from datetime import date
from pathlib import Path

from simpletune import files, outside

LATENTS, CAPTIONS = "latents", "captions"
"""The kinds of entries that a folder may hold."""

_FOLDER = "users"
_NOTE = re.compile(r"[a-z]+-[0-9a-f]{16}\.json")
_DIGITS = 16
_LARGEST_NOTE = 512 << 20  # it names every entry
"""So much of a key is noted: as good as all 64 digits to tell entries apart, and a quarter of the size."""


@dataclass(frozen=True)
class Note:
    """What a config's last run needed here. `keys` are shortened; `used` is the day, as 2026-11-23.

    It is not `complete` while that run is still encoding, or when it was ended before it was done.
    """

    config: Path
    kind: str
    used: str
    keys: frozenset[str]
    complete: bool

    def needs(self, key: str) -> bool:
        return key[:_DIGITS] in self.keys


def leave_note(folder: Path, kind: str, config: Path, keys: Collection[str], *, complete: bool = True) -> None:
    """Note in a cache's folder that `config` needs these entries; where that can't be written, nothing is noted."""
    note = {
        "config": str(config),
        "kind": kind,
        "used": date.today().isoformat(),
        "complete": complete,
        "keys": sorted({key[:_DIGITS] for key in keys}),
    }
    text = json.dumps(note) + "\n"
    path = _path(folder, kind, config)
    with suppress(OSError):
        if path.is_file() and path.read_text(encoding="utf-8") == text:
            return
        path.parent.mkdir(parents=True, exist_ok=True)
        files.write_text(path, text)


def notes(folder: Path) -> list[Note]:
    """Every note in a cache's folder, by config.

    One that can't be read stands for itself, as of a run that didn't come to an end: whose it is, and what that needs,
    isn't known.
    """
    found = [_read(folder, path) for path in sorted((folder / _FOLDER).glob("*.json"))]
    return sorted((note for note in found if note is not None), key=lambda note: (str(note.config), note.kind))


def _read(folder: Path, path: Path) -> Note | None:
    """A note; None for a file of another name than notes have."""
    if not _NOTE.fullmatch(path.name):
        return None
    try:
        value = outside.read_json(path, _LARGEST_NOTE)
        keys = frozenset(map(str, value["keys"]))
        note = Note(Path(value["config"]), value["kind"], value["used"], keys, value["complete"])
        if path == _path(folder, note.kind, note.config):
            return note
    except (OSError, ValueError, KeyError, TypeError):
        pass
    return Note(path, path.name.partition("-")[0], "", frozenset(), complete=False)


def remove_note(folder: Path, note: Note) -> None:
    files.remove(_path(folder, note.kind, note.config))


def _path(folder: Path, kind: str, config: Path) -> Path:
    name = hashlib.sha256(str(config).encode("utf-8", "surrogateescape")).hexdigest()[:16]
    return folder / _FOLDER / f"{kind}-{name}.json"
