"""Locks between processes: a file that the operating system says is held, and by whom in words."""

from __future__ import annotations

import json
import os
import socket
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import IO, Any

from simpletune.errors import SimpletuneError

_PAUSE_SECONDS = 0.05


@contextmanager
def hold(path: Path, busy: Callable[[str], SimpletuneError], patience: float = 0.0) -> Iterator[None]:
    """Hold the lock file `path` for this process while the block runs; the file is gone afterwards.

    The operating system holds the lock (flock), so that of a killed process is gone with it: a file it left is taken
    over without asking. `busy` makes the error from the holder's name ("process 4711"); it is raised when the lock is
    still taken after `patience` seconds. OSError when the file can't be made.
    """
    file = _acquire(path, busy, time.monotonic() + patience)
    try:
        yield
    finally:
        # Removed while held where the system allows it: whoever opened it meanwhile sees that its file is gone.
        if os.name != "nt":
            _discard(path)
        file.close()
        if os.name == "nt":
            _discard(path)  # refused when somebody else has it open by now, which is right


def _acquire(path: Path, busy: Callable[[str], SimpletuneError], deadline: float) -> IO[bytes]:
    while True:
        # Written in place, unlike every other file: the lock belongs to this very file.
        file = path.open("a+b", buffering=0)
        try:
            if not _try_lock(file):
                if time.monotonic() >= deadline:
                    raise busy(_holder(path))
            elif _is_at(file, path):
                _sign(file)
                return file
        except BaseException:
            file.close()
            raise
        file.close()
        time.sleep(_PAUSE_SECONDS)


def _is_at(file: IO[bytes], path: Path) -> bool:
    """Whether the file that was locked still has its name; the holder before may have removed it."""
    try:
        return os.path.samestat(os.fstat(file.fileno()), path.stat())
    except FileNotFoundError:
        return False


def _discard(path: Path) -> None:
    with suppress(OSError):
        path.unlink()


def _sign(file: IO[bytes]) -> None:
    """Say whose lock it is; on a full disk it is nobody's in words, but held all the same."""
    with suppress(OSError):
        file.truncate(0)
        file.write(json.dumps({"pid": os.getpid(), "host": socket.gethostname()}).encode())


def _holder(path: Path) -> str:
    """Who wrote the lock file, in words."""
    try:
        written: dict[str, Any] = json.loads(path.read_text(encoding="utf-8"))
        here = written["host"] == socket.gethostname()
        return f"process {written['pid']}" + ("" if here else f" on {written['host']}")
    except (OSError, ValueError, KeyError, TypeError):
        return "process unknown"  # it has just started, or just ends


def _try_lock(file: IO[bytes]) -> bool:
    """Take the lock without waiting; closing the file gives it back."""
    if os.name == "nt":
        return _try_lock_windows(file)
    import fcntl

    try:
        fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except BlockingIOError:
        return False
    return True


def _try_lock_windows(file: IO[bytes]) -> bool:
    import importlib

    msvcrt = importlib.import_module("msvcrt")
    far_behind_the_text = 1 << 20  # Windows locks bytes against reading; the holder's name must stay readable
    file.seek(far_behind_the_text)
    try:
        msvcrt.locking(file.fileno(), msvcrt.LK_NBLCK, 1)
    except OSError:
        return False
    return True
