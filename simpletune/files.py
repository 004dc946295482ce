"""The one way files are written: whole or not at all, also when the machine dies in between.

A writer that is killed leaves the old file, or the new one, never half of one. The recipe is the one
databases use: write a temporary file in the same folder, fsync it, rename it over the target, fsync the folder.
"""

from __future__ import annotations

import errno
import hashlib
import json
import os
import secrets
import shutil
import stat
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import Any

_REFUSED = ("ENOSPC", "EDQUOT", "EROFS", "EFBIG", "EIO", "EACCES", "EPERM", "ENODEV", "ENXIO", "ESTALE", "ENOTCONN")
_NOT_FOR_FOLDERS = frozenset({errno.EINVAL, errno.EBADF})  # some mounts take no fsync of a folder, as they need none
_ASKING_UMASK = threading.Lock()
_TRIES = 2
_unfinished: set[Path] = set()
"""Temporary files and folders that are being written. Adding and discarding are atomic without a lock, which a signal's
handler could not wait for."""


def write_bytes(path: Path, data: bytes) -> None:
    """Replace `path` with `data` atomically; its folder must exist."""

    def fill(temporary: Path) -> None:
        temporary.write_bytes(data)

    write_with(path, fill)


def write_private(path: Path, text: str) -> None:
    """Replace `path` with UTF-8 `text` atomically; nobody but the owner may read it, at any moment."""

    def fill(temporary: Path) -> None:
        temporary.write_text(text, encoding="utf-8")

    write_with(path, fill, mode=0o600)


def write_text(path: Path, text: str) -> None:
    """Replace `path` with UTF-8 `text` atomically."""
    write_bytes(path, text.encode("utf-8"))


def write_json(path: Path, value: Any) -> None:
    """Replace `path` with indented JSON ending in a newline; NaN and infinities are a ValueError."""
    write_text(path, json.dumps(value, indent=2, ensure_ascii=False, allow_nan=False) + "\n")


def write_with(path: Path, fill: Callable[[Path], None], mode: int | None = None) -> None:
    """Let `fill` write a temporary file beside `path`, then rename it over `path`.

    For libraries that insist on writing to a path themselves (safetensors, Pillow, matplotlib). The file gets `mode`,
    else that of any new file.
    """
    temporary = path.with_name(f".{path.name}.{secrets.token_hex(4)}.tmp{path.suffix}")
    try:
        _unfinished.add(temporary)  # before it is there, so that it can't be missed
        os.close(os.open(temporary, os.O_CREAT | os.O_EXCL | os.O_WRONLY, 0o600))
        fill(temporary)
        # It is 0600 so far, and safetensors makes it so again.
        temporary.chmod(0o666 & ~_umask() if mode is None else mode)
        _sync(temporary)
        temporary.replace(path)
        _sync(path.parent)
    except BaseException:
        with suppress(OSError):  # on a disk that is gone, that is said by the error under way
            temporary.unlink(missing_ok=True)
        raise
    finally:
        _unfinished.discard(temporary)


def write_new(path: Path, data: bytes, like: Path | None = None) -> None:
    """Create `path` with `data`, on the disk when this returns; with the mode and owner of `like` if given.

    For a caller that renames it later and clears it away itself when that fails. Raises FileExistsError.
    """
    flags = os.O_WRONLY | os.O_CREAT | os.O_EXCL | getattr(os, "O_BINARY", 0)
    try:
        with os.fdopen(os.open(path, flags, 0o666 if like is None else 0o600), "wb", buffering=0) as file:
            _write_all(file, data)
            os.fsync(file.fileno())
    except OSError as error:
        error.filename = error.filename or str(path)  # a full disk doesn't say for which file
        raise
    if like is not None:
        _look_like(path, like.stat())


def rename(source: Path, target: Path) -> None:
    """Move a written and synced file over `target` in the same folder, for good."""
    source.replace(target)
    _sync(target.parent)


def remove(path: Path) -> None:
    """Remove a file for good; one that is not there is fine."""
    try:
        path.unlink()
    except FileNotFoundError:
        return
    _sync(path.parent)


def sync_folder(folder: Path) -> None:
    """Make the names in a folder last, as `write_new` leaves that to its caller."""
    _sync(folder)


@contextmanager
def new_folder(path: Path) -> Iterator[Path]:
    """Yield a temporary folder that becomes `path` when the block ends well, and vanishes when it does not.

    Raises FileExistsError when `path` exists: a finished folder is never overwritten.
    """
    if path.exists():
        raise FileExistsError(errno.EEXIST, os.strerror(errno.EEXIST), str(path))
    temporary = path.with_name(f".{path.name}.{secrets.token_hex(4)}.tmp")
    try:
        _unfinished.add(temporary)
        temporary.mkdir(mode=0o700)
        yield temporary
        for file in sorted(temporary.rglob("*")):
            _sync(file)
        _sync(temporary)
        temporary.chmod(0o777 & ~_umask())
        temporary.replace(path)
        _sync(path.parent)
    except BaseException:
        shutil.rmtree(temporary, ignore_errors=True)
        raise
    finally:
        _unfinished.discard(temporary)


def is_refused(error: OSError) -> bool:
    """Whether it is the disk that doesn't take a file, or is gone: full, read-only, unplugged, not ours to write to."""
    return error.errno in {getattr(errno, name, None) for name in _REFUSED}


def abandon() -> None:
    """Remove what is being written at this moment, in whatever thread: for a process that ends without waiting."""
    for temporary in list(_unfinished):
        with suppress(OSError):
            temporary.unlink()
        for _ in range(_TRIES):  # a thread may be adding files to it
            shutil.rmtree(temporary, ignore_errors=True)


def sha256(path: Path) -> str:
    """Hex SHA-256 of a file's bytes, read in pieces."""
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest() if hasattr(hashlib, "file_digest") else _digest(file)


def _digest(file: Any) -> str:
    digest = hashlib.sha256()
    while piece := file.read(1 << 20):
        digest.update(piece)
    return digest.hexdigest()


def _sync(path: Path) -> None:
    if path.is_dir() and os.name == "nt":
        return  # Windows can't open a folder to sync it; its rename is journalled by NTFS.
    descriptor = os.open(path, os.O_RDWR if os.name == "nt" else os.O_RDONLY)  # Windows flushes for writers only
    try:
        os.fsync(descriptor)
    except OSError as error:
        if error.errno not in _NOT_FOR_FOLDERS or not path.is_dir():
            raise
    finally:
        os.close(descriptor)


def _write_all(file: Any, data: bytes) -> None:
    """Write to an unbuffered file, which may take less than it is given at a time."""
    left = memoryview(data)
    while left:
        left = left[file.write(left) :]


def _look_like(path: Path, status: os.stat_result) -> None:
    if hasattr(os, "chown"):
        # Only root may give files away; that somebody else's edited file is then ours is how editors do it too.
        with suppress(OSError):
            os.chown(path, status.st_uid, status.st_gid)
    path.chmod(stat.S_IMODE(status.st_mode))


def _umask() -> int:
    with _ASKING_UMASK:  # a thread between the two calls would take 0 for the mask, and leave it so
        mask = os.umask(0)
        os.umask(mask)
    return mask
