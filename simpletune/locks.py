"""Locks between processes: a file that the operating system says is held, and by whom in words.

Where the file system knows no locks, as some that are mounted from elsewhere, the file itself is the lock: it is made
by one process only, and taken over when the process that signed it runs no more.
"""

from __future__ import annotations

import errno
import os
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import IO

from simpletune.errors import SimpletuneError
from simpletune.lock_holder import Holder, read_holder, signature

_PAUSE_SECONDS = 0.05
_UNSIGNED_SECONDS = 2.0  # that a process may take from making a file to signing it
_NO_LOCKS = frozenset({errno.ENOSYS, errno.ENOLCK, errno.EOPNOTSUPP, errno.ENOTSUP, errno.EINVAL})

_held: set[Path] = set()

Busy = Callable[[str], SimpletuneError]


@contextmanager
def hold(path: Path, busy: Busy, patience: float = 0.0) -> Iterator[None]:
    """Hold the lock file `path` for this process while the block runs; the file is gone afterwards.

    The operating system holds the lock (flock), so that of a killed process is gone with it: a file it left is taken
    over without asking. `busy` makes the error from the holder's name ("process 4711"); it is raised when the lock is
    still taken after `patience` seconds. OSError when the file can't be made.
    """
    file = _acquire(path, busy, time.monotonic() + patience)
    try:
        _held.add(path)
        yield
    finally:
        # Removed while held where the system allows it: whoever opened it meanwhile sees that its file is gone.
        if os.name != "nt":
            _discard(path)
        file.close()
        if os.name == "nt":
            _discard(path)  # refused when somebody else has it open by now, which is right
        _held.discard(path)


def abandon() -> None:
    """Remove the files of all locks that are held: for a process that ends without waiting, and them with it."""
    for path in list(_held):
        _discard(path)


def _acquire(path: Path, busy: Busy, deadline: float) -> IO[bytes]:
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
        except OSError as error:
            file.close()
            if error.errno not in _NO_LOCKS:
                raise
            return _acquire_by_name(path, busy, deadline)
        except BaseException:
            file.close()
            raise
        file.close()
        time.sleep(_PAUSE_SECONDS)


def _acquire_by_name(path: Path, busy: Busy, deadline: float) -> IO[bytes]:
    """The lock where there is no flock: whoever makes the file has it."""
    while True:
        with suppress(FileExistsError):
            file = path.open("xb", buffering=0)
            _sign(file)
            return file
        holder = read_holder(path)
        if _is_left_behind(path, holder):
            _take_away(path, holder)
            continue
        if holder is not None and time.monotonic() >= deadline:
            raise busy(str(holder))
        time.sleep(_PAUSE_SECONDS)


def _take_away(path: Path, holder: Holder | None) -> None:
    """Renamed first: of two that take a lock over, one finds nothing to rename, or another's new lock."""
    aside = path.with_name(f"{path.name}.{os.getpid()}")
    with suppress(FileNotFoundError):
        path.rename(aside)
        if read_holder(aside) == holder:
            aside.unlink()
        else:
            aside.rename(path)


def _is_left_behind(path: Path, holder: Holder | None) -> bool:
    if holder is not None:
        return not holder.is_alive
    try:
        unsigned_since = path.stat().st_mtime
    except FileNotFoundError:
        return False
    return abs(time.time() - unsigned_since) > _UNSIGNED_SECONDS


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
        file.write(signature())


def _holder(path: Path) -> str:
    """Who wrote the lock file, in words."""
    holder = read_holder(path)
    return "process unknown" if holder is None else str(holder)  # unknown: it has just started, or just ends


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
