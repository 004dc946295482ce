"""One run at a time in an output folder."""

from __future__ import annotations

import json
import os
import socket
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import IO, Any

from simpletune.errors import UsageError

LOCK_NAME = ".run.lock"


@contextmanager
def run_lock(output_dir: Path) -> Iterator[None]:
    """Hold the folder for this process while the block runs.

    The operating system holds the lock (flock), so that of a killed process is gone with it: a stale file is taken
    over without asking. The file stays afterwards, empty: removing it could remove the next run's lock.

    Raises UsageError, naming the other process, when a run holds the folder.
    """
    path = output_dir / LOCK_NAME
    # Written in place, unlike every other file: the lock belongs to this very file.
    with path.open("a+", encoding="utf-8") as file:
        if not _try_lock(file):
            raise UsageError(
                f"{output_dir} is in use by another run ({_holder(path)})",
                hint="Wait for it to end or stop it, or set another output_dir.",
            )
        _rewrite(file, json.dumps({"pid": os.getpid(), "host": socket.gethostname()}))
        try:
            yield
        finally:
            _rewrite(file, "")


def _rewrite(file: IO[str], text: str) -> None:
    file.seek(0)
    file.truncate()
    file.write(text)
    file.flush()


def _holder(path: Path) -> str:
    """Who wrote the lock file, in words."""
    try:
        written: dict[str, Any] = json.loads(path.read_text(encoding="utf-8"))
        here = written["host"] == socket.gethostname()
        return f"process {written['pid']}" + ("" if here else f" on {written['host']}")
    except (OSError, ValueError, KeyError, TypeError):
        return "process unknown"  # it has just started, or just ends


def _try_lock(file: IO[str]) -> bool:
    """Take the lock without waiting; closing the file gives it back."""
    if os.name == "nt":
        return _try_lock_windows(file)
    import fcntl

    try:
        fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except BlockingIOError:
        return False
    return True


def _try_lock_windows(file: IO[str]) -> bool:
    import importlib

    msvcrt = importlib.import_module("msvcrt")
    far_behind_the_text = 1 << 20  # Windows locks bytes against reading; the holder's name must stay readable
    file.seek(far_behind_the_text)
    try:
        msvcrt.locking(file.fileno(), msvcrt.LK_NBLCK, 1)
    except OSError:
        return False
    return True
