"""Several files written together or not at all, whatever kills the process.

A rename is atomic, two are not. So the new contents are first written beside their targets, then the renames follow,
and a small journal beside config.json (`.config.json.journal`) says from before the first byte to after the last
rename what is going on. Whoever comes next (`configure`, `validate`, `train`) calls `recover`:

    every new content is whole, beside its target or already in its place   -> the renames are completed
    else nothing was renamed yet, or old contents are put back              -> all is as it was

What is replaced stays beside it as `config.json.bak`; if there is an older one, `config.json.bak2`, and so on. The
program's own folder `.simpletune` has no backups: the program makes what is in it.
"""

from __future__ import annotations

import errno
import hashlib
import json
import os
import re
import secrets
from collections.abc import Iterator, Mapping
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from simpletune import files, locks, outside
from simpletune.errors import EnvironmentNotReady, SimpletuneError, UsageError

OWN_FOLDER = ".simpletune"
PATIENCE_SECONDS = 5.0  # a live writer needs milliseconds, a slow network folder perhaps a second
_FORMAT = 1


@dataclass(frozen=True)
class Step:
    """One file of a write. Contents are named by their SHA-256; `old` is None where there was no file."""

    target: Path
    token: str
    new: str
    old: str | None
    backup: str | None  # the name that the old content keeps, if it is kept
    removable: bool = True  # whether a target that was new may be removed again

    @property
    def temporary(self) -> Path:
        """Where the new content is until the rename."""
        return self.target.with_name(f".{self.target.name}.{self.token}.new")

    @property
    def saved(self) -> Path:
        """Where the old content is from before the rename."""
        return self.target.with_name(self.backup or f".{self.target.name}.{self.token}.old")


def write_together(
    config_path: Path,
    contents: Mapping[Path, bytes],
    *,
    backup: bool = True,
    expected: Mapping[Path, bytes | None] | None = None,
) -> tuple[Path, ...]:
    """Write every file of `contents`, or none; returns the backups that were made.

    The journal and the lock stand beside `config_path`, which need not be among the files. Folders are made. A link is
    kept and its target written; a file keeps its mode. A file that has the content already isn't touched.

    `expected` is what the files held when `contents` were made of them (None: there was none), so that nobody's change
    in between is lost.

    Raises UsageError when a target is a folder, is named twice, isn't as expected any more or another process is
    writing, EnvironmentNotReady when a folder is read-only or the disk is full. Then nothing was changed.
    """
    config = _real(config_path)
    made: list[Path] = []
    try:
        with _translated(config):
            _make_folder(config.parent, made)
            with _locked(config):
                _settle(config)
                _unchanged(expected or {})
                data = _targets(contents)
                steps = _plan(data, backup)
                for step in steps:
                    _make_folder(step.target.parent, made)
                if steps:
                    _write(config, steps, data)
    except BaseException:
        for folder in reversed(made):
            with suppress(OSError):
                folder.rmdir()
        raise
    return tuple(step.saved for step in steps if step.old is not None and step.backup)


def recover(config_path: Path) -> str | None:
    """Complete or undo a write that was killed; a sentence on what was done, None when there was nothing to do.

    A writer that is alive is waited for. Raises UsageError when it doesn't end, SimpletuneError when the folder can't
    be written or the journal doesn't fit what is there.
    """
    try:
        config = _real(config_path)
        if not (_journal(config).exists() or _unfinished(config).exists()):
            return None
    except (OSError, SimpletuneError):
        return None  # what can't be looked at holds no journal of ours; reading the file says what is wrong with it
    with _translated(config), _locked(config):
        return _settle(config)


def _unchanged(expected: Mapping[Path, bytes | None]) -> None:
    for path, before in expected.items():
        if (path.read_bytes() if path.is_file() else None) != before:
            hint = "start again: it begins with that change"
            raise UsageError(f"{path} was changed meanwhile, by another hand; nothing was written", hint)


# --- writing


def _write(config: Path, steps: tuple[Step, ...], data: Mapping[Path, bytes]) -> None:
    try:
        _write_journal(config, steps)
        for step in steps:
            if step.old is not None:
                files.write_new(step.saved, step.target.read_bytes(), like=step.target)
            files.write_new(step.temporary, data[step.target], like=step.target if step.old is not None else None)
        for folder in {step.target.parent for step in steps}:
            files.sync_folder(folder)
        for step in steps:
            files.rename(step.temporary, step.target)
    except BaseException:
        _undo(config, steps)
        raise
    _finish(config, steps)


def _targets(contents: Mapping[Path, bytes]) -> dict[Path, bytes]:
    """The files that are meant, links followed, with their new contents."""
    data: dict[Path, bytes] = {}
    for path, content in contents.items():
        target = _real(path)
        if data.get(target, content) != content:
            raise UsageError(f"{path} and another file to be written are one and the same", "give them two names")
        if target.exists() and not target.is_file():
            what = "a folder" if target.is_dir() else "not an ordinary file"
            raise UsageError(f"{path} can't be written: it is {what}", "choose another name, or move it away")
        if target.exists() and not os.access(target, os.W_OK):
            raise EnvironmentNotReady(f"{path} is write-protected", "allow writing to it, or choose another file")
        data[target] = content
    return data


def _plan(data: Mapping[Path, bytes], backup: bool) -> tuple[Step, ...]:
    token = secrets.token_hex(4)
    steps = []
    for target, content in data.items():
        old, new = _sha(target), hashlib.sha256(content).hexdigest()
        kept = _backup_name(target) if backup and old and target.parent.name != OWN_FOLDER else None
        if old != new:
            steps.append(Step(target, token, new, old, kept))
    return tuple(steps)


def _backup_name(target: Path) -> str:
    number = 1
    while os.path.lexists(path := target.with_name(f"{target.name}.bak{number if number > 1 else ''}")):
        number += 1
    return path.name


def _make_folder(folder: Path, made: list[Path]) -> None:
    """Make a folder and those above it, noting which were new, the outermost first."""
    missing = [one for one in (folder, *folder.parents) if not one.exists()]
    for one in reversed(missing):
        one.mkdir(exist_ok=True)
        made.append(one)


# --- after an interruption


def _settle(config: Path) -> str | None:
    """Complete or undo what the journal says; the lock is held."""
    if _unfinished(config).exists():  # killed while writing the journal itself, so before anything else
        files.remove(_unfinished(config))
    if not _journal(config).exists():
        return None  # its writer ended well meanwhile
    steps = _read_journal(config)
    names = _listed([step.target.name for step in steps])
    if not _can_complete(steps):
        left = _undo(config, steps)
        note = f"; but {_listed(left)} was new and is left" if left else ""
        return f"writing {names} had been interrupted; it was undone{note}"
    kept = [_keep(step.target) for step in steps if _sha(step.target) not in (step.old, step.new, None)]
    for step in steps:
        if _sha(step.target) != step.new:
            files.rename(step.temporary, step.target)
    _finish(config, steps)
    note = f"; what was there meanwhile is kept as {_listed(kept)}" if kept else ""
    return f"writing {names} had been interrupted; it was completed{note}"


def _can_complete(steps: tuple[Step, ...]) -> bool:
    """Whether all new contents are there; but if a hand changed a file before the first rename, its work stays."""
    now = {step: _sha(step.target) for step in steps}
    whole = all(now[step] == step.new or _sha(step.temporary) == step.new for step in steps)
    begun = any(now[step] == step.new for step in steps)
    untouched = all(now[step] in (step.old, step.new) for step in steps)
    return whole and (begun or untouched)


def _keep(target: Path) -> str:
    """Save what somebody wrote over a target since the interruption."""
    path = target.with_name(_backup_name(target))
    files.write_new(path, target.read_bytes(), like=target)
    return path.name


def _undo(config: Path, steps: tuple[Step, ...]) -> list[str]:
    """Put everything back; the names of new files that had to be left.

    The temporaries go first: from then on completing is out of the question, whoever goes on with this.
    """
    for step in steps:
        files.remove(step.temporary)
    for step in steps:
        _restore(step, config)
    for journal in (_unfinished(config), _journal(config)):
        files.remove(journal)
    return [str(step.target) for step in steps if step.old is None and _sha(step.target) == step.new]


def _restore(step: Step, config: Path) -> None:
    now, saved = _sha(step.target), _sha(step.saved) if step.old is not None else None
    if step.old is None:
        if now == step.new and step.removable:
            files.remove(step.target)
    elif now not in (step.new, None):
        # The old content, or somebody's since. The copy goes if it, or the part of it that was written, is still there.
        if saved is not None and step.target.read_bytes().startswith(step.saved.read_bytes()):
            files.remove(step.saved)
    elif saved == step.old:
        files.rename(step.saved, step.target)
    else:
        raise SimpletuneError(
            f"writing {step.target.name} was interrupted, and its old content is no longer in {step.saved}",
            f"see that {step.target} is as you want it, then delete {_journal(config)}",
        )


def _finish(config: Path, steps: tuple[Step, ...]) -> None:
    for step in steps:
        files.remove(step.temporary)  # only there if somebody else had put the new content in place
        if step.backup is None and step.old is not None:
            files.remove(step.saved)
    files.remove(_journal(config))


# --- the journal


def _journal(config: Path) -> Path:
    return config.with_name(f".{config.name}.journal")


def _unfinished(config: Path) -> Path:
    return config.with_name(f".{config.name}.journal.new")


def _write_journal(config: Path, steps: tuple[Step, ...]) -> None:
    """Targets below config.json's folder by their relative path: the folder may be another's mount, or be moved."""
    entries = []
    for step in steps:
        inside = step.target.is_relative_to(config.parent)
        target = step.target.relative_to(config.parent).as_posix() if inside else str(step.target)
        entries.append({"target": target, "new": step.new, "old": step.old, "backup": step.backup})
    value = {"format": _FORMAT, "token": steps[0].token, "files": entries}
    files.write_new(_unfinished(config), (json.dumps(value, indent=2) + "\n").encode())
    files.rename(_unfinished(config), _journal(config))


def _read_journal(config: Path) -> tuple[Step, ...]:
    """Raises SimpletuneError when the journal is none of ours: its names decide what is renamed and removed."""
    journal = _journal(config)
    try:
        value = outside.read_json(journal)
        if value["format"] != _FORMAT or not re.fullmatch("[0-9a-f]{8}", value["token"]):
            raise ValueError
        return tuple(_step(config.parent, value["token"], entry) for entry in value["files"])
    except (ValueError, KeyError, TypeError) as error:
        raise SimpletuneError(
            f"{journal} does not read as the journal of an interrupted write",
            "see that config.json and the data file are as you want them, then delete it",
        ) from error


def _step(folder: Path, token: str, entry: Mapping[str, Any]) -> Step:
    target = _real(folder / entry["target"])
    backup = entry["backup"]
    if backup is not None and not re.fullmatch(re.escape(target.name) + r"\.bak\d*", backup):
        raise ValueError(backup)
    # A journal that came with somebody's folder must not be able to remove files elsewhere.
    return Step(target, token, entry["new"], entry["old"], backup, removable=target.is_relative_to(folder))


# --- what all of them need


@contextmanager
def _locked(config: Path) -> Iterator[None]:
    def busy(holder: str) -> UsageError:
        return UsageError(f"{config} is being written by another {holder}", "try again when it has ended")

    with locks.hold(config.with_name(f".{config.name}.lock"), busy, PATIENCE_SECONDS):
        yield


def _real(path: Path) -> Path:
    """The absolute path of the file itself, links followed: the link stays, and two names for a file are one file."""
    try:
        return Path(os.path.abspath(path)).resolve()  # noqa: PTH100
    except (OSError, ValueError, RuntimeError) as error:  # a loop of links is a RuntimeError before Python 3.13
        raise UsageError(f"{str(path)!r} is no usable path: {error}", "choose another path") from error


def _sha(path: Path) -> str | None:
    """SHA-256 of a file's content; None where there is no file."""
    try:
        return files.sha256(path)
    except FileNotFoundError:
        return None


def _listed(names: list[str]) -> str:
    return " and ".join([", ".join(names[:-1]), names[-1]] if len(names) > 1 else names)


_FULL = (errno.ENOSPC, getattr(errno, "EDQUOT", errno.ENOSPC), errno.EFBIG)
_FORBIDDEN = (errno.EACCES, errno.EPERM, errno.EROFS)


@contextmanager
def _translated(config: Path) -> Iterator[None]:
    """An error of the operating system as a sentence that says what it means for the files."""
    try:
        yield
    except OSError as error:
        pending = os.path.lexists(_journal(config))
        state = "an interrupted write is still to be completed or undone" if pending else "nothing was changed"
        where = error.filename or "the folder"
        if error.errno in _FULL:
            raise EnvironmentNotReady(f"there is no room to write {where}; {state}", "free some disk space") from error
        if error.errno in _FORBIDDEN:
            hint = "allow writing to the folder, or choose another one"
            raise EnvironmentNotReady(f"{where} can't be written: {error.strerror}; {state}", hint) from error
        hint = "see that the path is right, or choose another one"
        raise EnvironmentNotReady(f"{where} can't be written: {error.strerror or error}; {state}", hint) from error
