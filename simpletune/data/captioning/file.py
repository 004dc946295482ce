"""captions/ID.jsonl while a model writes it: a line a picture, {"file_name": ..., "text": ...}.

Lines are appended as they are made, so that whatever kills the program loses at most the captions of one batch; in the
end the file is written anew, sorted by name. What stands in it is never changed or dropped: lines that a person wrote
or edited stay, with all their columns. A last line that was cut off is taken away.

With `overwrite` the new captions go into a file beside it until all are there, so that the old ones are whole until
then and a stopped run goes on where it was.
"""

from __future__ import annotations

import json
import os
from collections.abc import Iterable, Iterator, Mapping
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, BinaryIO

from simpletune import files, locks, outside
from simpletune.data.captions.table_columns import CAPTION_COLUMNS, FILE_COLUMNS
from simpletune.data.sources import shown
from simpletune.errors import UsageError

NAME, TEXT = "file_name", "text"

Entry = dict[str, Any]


@dataclass
class CaptionFile:
    """The captions of one data set, being added to. Made by `opened`, which holds the file's lock."""

    path: Path
    partial: Path | None  # with overwriting: where the new ones are until all are there
    known: set[str]  # the names of pictures that need no caption any more
    _file: BinaryIO = field(repr=False)

    def has(self, name: str) -> bool:
        """Whether a picture has its caption."""
        return name in self.known

    def add(self, captions: Iterable[tuple[str, str]]) -> None:
        """Append (name, caption) pairs; they are on the disk when this returns."""
        for name, text in captions:
            self._file.write(_encoded({NAME: name, TEXT: text}))
            self.known.add(name)
        self._file.flush()
        os.fsync(self._file.fileno())

    def pause(self) -> None:
        """Leave the file in order, to go on with later; with overwriting the old captions stay in place."""
        self._file.flush()
        if self.partial is None:
            self.finish()

    def finish(self) -> None:
        """Write the file anew, sorted by name; with overwriting, the new captions take the old ones' place."""
        self._file.flush()
        entries = _read(self.path) if self.path.exists() else []
        if self.partial is not None:
            entries = _replaced(entries, _read(self.partial))
        _write(self.path, _sorted(entries))
        if self.partial is not None:
            self._file.close()
            _discard_partials(self.path)


@contextmanager
def opened(path: Path, overwrite: str | None = None) -> Iterator[CaptionFile]:
    """The captions in `path`, which need not exist yet, for adding to; its folder is made.

    `overwrite` names the options of a run that makes all captions anew (None: one that only adds): a stopped one of the
    same options goes on, one of others begins again. Raises UsageError when another process is adding to the file, when
    a line of it can't be read, or when it can't be written.
    """
    with ExitStack() as stack:
        try:
            path.parent.mkdir(parents=True, exist_ok=True)
            stack.enter_context(locks.hold(path.with_name(f".{path.name}.lock"), lambda holder: _busy(path, holder)))
            partial = None if overwrite is None else path.with_name(f".{path.name}.{overwrite}.new")
            if partial is not None:
                _discard_partials(path, keep=partial)
            known = repaired(path)
            target = path
            if partial is not None:
                known, target = repaired(partial), partial
            file = stack.enter_context(target.open("ab"))
        except OSError as error:
            message = f"{shown(str(path))} can't be written: {error.strerror}"
            raise UsageError(message, "name another file with --output, or mend the folder's permissions") from error
        yield CaptionFile(path, partial, known, file)


def repaired(path: Path) -> set[str]:
    """The names that have a caption in `path`, whose last line is made whole or, if it was cut off, taken away."""
    if not path.exists():
        return set()
    data = path.read_bytes()
    kept = data if data.endswith(b"\n") or not data else _mended(data)
    if kept != data:
        files.write_bytes(path, kept)
    return {name for entry in _read(path) if (name := name_of(entry)) is not None and text_of(entry)}


def name_of(entry: Mapping[str, Any]) -> str | None:
    """The picture that a line is about; None when it names none."""
    return next((entry[key] for key in FILE_COLUMNS if isinstance(entry.get(key), str)), None)


def text_of(entry: Mapping[str, Any]) -> Any:
    """A line's caption, or several in a list; None or something empty where it has none."""
    return next((entry[key] for key in CAPTION_COLUMNS if entry.get(key)), None)


def _mended(data: bytes) -> bytes:
    """`data` with its last line ended, or without that line if it is no whole one."""
    whole, _, last = data.rpartition(b"\n")
    try:
        outside.parse_json(last.decode("utf-8-sig"))
    except ValueError:
        return whole + b"\n" if whole else b""
    return data + b"\n"


def _read(path: Path) -> list[Entry]:
    entries = []
    for number, line in enumerate(path.read_bytes().split(b"\n"), 1):
        if not line.strip():
            continue
        try:
            entry = json.loads(line.decode("utf-8-sig"))
            if not isinstance(entry, dict):
                raise ValueError("not an object")
        except (ValueError, RecursionError) as error:
            message = f"{shown(str(path))}, line {number}, is not a JSON object: {error}"
            raise UsageError(message, "correct that line or remove it; nothing was changed") from error
        entries.append(entry)
    return entries


def _sorted(entries: list[Entry]) -> list[Entry]:
    """By name, in the order they stood within one; a line without a caption goes where another has one."""
    captioned = {name_of(entry) for entry in entries if text_of(entry)}
    kept = [entry for entry in entries if text_of(entry) or name_of(entry) not in captioned - {None}]
    return sorted(kept, key=lambda entry: name_of(entry) or "")


def _replaced(old: list[Entry], new: list[Entry]) -> list[Entry]:
    """The new lines, and the old ones of pictures that have none; other columns of a replaced line stay."""
    fresh = {name_of(entry): entry for entry in new}
    columns = {name_of(entry): _without_text(entry) for entry in reversed(old)}
    kept = [entry for entry in old if name_of(entry) not in fresh]
    return kept + [{**entry, **_others(columns.get(name, {}))} for name, entry in fresh.items()]


def _without_text(entry: Entry) -> Entry:
    return {key: value for key, value in entry.items() if key not in CAPTION_COLUMNS}


def _others(entry: Entry) -> Entry:
    return {key: value for key, value in entry.items() if key not in FILE_COLUMNS}


def _write(path: Path, entries: Iterable[Entry]) -> None:
    content = b"".join(_encoded(entry) for entry in entries)
    if not path.exists() or path.read_bytes() != content:
        files.write_bytes(path, content)


def _encoded(entry: Entry) -> bytes:
    """A line. A name that isn't valid UTF-8 is written with escapes, which read as that very name."""
    try:
        return (json.dumps(entry, ensure_ascii=False) + "\n").encode()
    except UnicodeEncodeError:
        return (json.dumps(entry) + "\n").encode()


def _discard_partials(path: Path, keep: Path | None = None) -> None:
    prefix = f".{path.name}."
    for found in path.parent.iterdir():
        if found.name.startswith(prefix) and found.suffix == ".new" and found != keep:
            files.remove(found)


def _busy(path: Path, holder: str) -> UsageError:
    return UsageError(f"{shown(str(path))} is being written by another run ({holder})", "wait for it to end")
