"""Every call by which a process changes files below a folder: counted, and killed or failed at one of them.

Nothing in the package is named here, so that a new place where it writes is found by itself. Python tells of most calls
(audit events); fsync, writes to files and the writer of safetensors, which it doesn't tell of, are wrapped. Only for
processes that are thrown away afterwards: an audit hook stays.

A point is (what is done, how many times it was done before), such as ("rename output/checkpoint-3", 0): the order of
calls by several threads may differ from run to run, their names don't.
"""

from __future__ import annotations

import builtins
import errno
import io
import os
import re
import signal
import sys
import threading
import time
from collections import Counter
from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

WRITING = os.O_WRONLY | os.O_RDWR | os.O_CREAT | os.O_TRUNC
# Names that tempfile makes up, and hashes of where a project lies: other ones in every run.
_RANDOM = re.compile(r"\.[a-z0-9_]{8}\.tmp|-[0-9a-f]{16}(?=\.json)")
_CHANGES = frozenset(
    {"create", "overwrite", "write", "mkdir", "rename", "remove", "rmdir", "chmod", "truncate", "fsync"}
)
_TAKES_ROOM = frozenset({"create", "write", "mkdir", "fsync"})
FAILS = {
    errno.ENOSPC: _TAKES_ROOM,
    errno.EDQUOT: _TAKES_ROOM,
    errno.EROFS: _CHANGES,
    errno.EACCES: _CHANGES - {"write", "fsync", "truncate"},
    errno.EIO: _CHANGES,
}
"""Which calls an error of the disk can come from. Full, read-only and forbidden stay; EIO comes once."""
SLOW = 0.05
"""Seconds. A checkpoint has seven calls of fsync, and a step of the tiny model takes less than one of them."""
_LASTING = frozenset(FAILS) - {errno.EIO}

Point = tuple[str, int]


class Short(Exception):
    """Half of the bytes were written: a disk takes what it has room for, and says no only to the next write."""


@dataclass
class Points:
    """Watches the calls below `folder`. do: "record" into `seen`; "kill", "half" (killed in the middle of the write)
    or "fail" at `at`; "slow" makes every fsync take SLOW seconds."""

    folder: Path
    do: str
    at: Point | None = None
    error: int = 0
    seen: list[Point] = field(default_factory=list)
    reached: bool = False
    _counts: Counter[str] = field(default_factory=Counter)
    _lock: Any = field(default_factory=threading.RLock)
    _busy: Any = field(default_factory=threading.local)

    def call(self, kind: str, path: str, half: Callable[[], None] = lambda: None) -> None:
        """`kind` is about to be done to `path`. half: does half of it."""
        if getattr(self._busy, "now", False) or not path.startswith(f"{self.folder}/"):
            return
        name = f"{kind} {_RANDOM.sub('*', path[len(str(self.folder)) + 1 :])}"
        with self._lock:
            point = (name, self._counts[name])
            self._counts[name] += 1
            self.seen.append(point)
            here = point == self.at
            again = self.reached and self.error in _LASTING
            self.reached = self.reached or here
        if self.do == "slow" and kind == "fsync":
            time.sleep(SLOW)
        if here or (again and self.do == "fail"):
            self._act(kind, path, half, again)

    def _act(self, kind: str, path: str, half: Callable[[], None], again: bool) -> None:
        if self.do == "kill":
            os.kill(os.getpid(), signal.SIGKILL)
        elif self.do == "half":
            self._quietly(half)
            os.kill(os.getpid(), signal.SIGKILL)
        elif self.do == "fail" and kind in FAILS[self.error]:
            if kind == "write" and not again and self.error in _LASTING:
                self._quietly(half)
                raise Short
            raise OSError(self.error, os.strerror(self.error), *([] if kind in ("write", "fsync") else [path]))

    def _quietly(self, half: Callable[[], None]) -> None:
        self._busy.now = True
        try:
            half()
        finally:
            self._busy.now = False


def watch(points: Points) -> None:
    """From now on, for the rest of this process."""
    sys.addaudithook(lambda event, arguments: _audit(points, event, arguments))
    _wrap_fsync(points)
    _wrap_open(points)
    _wrap_safetensors(points)


_EVENTS = {
    "os.mkdir": "mkdir",
    "os.remove": "remove",
    "os.rmdir": "rmdir",
    "os.chmod": "chmod",
    "os.truncate": "truncate",
    "os.link": "create",
    "os.symlink": "create",
}


def _audit(points: Points, event: str, arguments: tuple[Any, ...]) -> None:
    if event == "open":
        path, _, flags = arguments
        if not isinstance(path, int) and flags & WRITING:
            where = _where(path)
            points.call("overwrite" if Path(where).exists() else "create", where)
    elif event == "os.rename":
        points.call("rename", _where(arguments[1], arguments[3]))
    elif event in _EVENTS:
        folder = arguments[-1] if event != "os.truncate" else -1
        points.call(_EVENTS[event], _where(arguments[0], folder if isinstance(folder, int) else -1))


def _where(path: Any, folder: int = -1) -> str:
    """The absolute path of what a call names: by a path, by a descriptor, or by a name in an open folder."""
    if isinstance(path, int):
        return _of_descriptor(path)
    path = os.fsdecode(path)
    return os.path.join(_of_descriptor(folder) if folder >= 0 else os.getcwd(), path)  # noqa: PTH118, PTH109


def _of_descriptor(number: int) -> str:
    return str(Path(f"/proc/self/fd/{number}").readlink())


def _wrap_fsync(points: Points) -> None:
    def wrapped(real: Callable[[Any], None]) -> Callable[[Any], None]:
        def fsync(file: Any) -> None:
            points.call("fsync", _of_descriptor(file if isinstance(file, int) else file.fileno()))
            real(file)

        return fsync

    os.fsync, os.fdatasync = wrapped(os.fsync), wrapped(os.fdatasync)


def _wrap_open(points: Points) -> None:
    """Files that are opened for writing tell of each write to the system."""
    real = io.open

    class Watched(io.FileIO):
        def write(self, data: Any) -> int:
            plain = bytes(data)
            half = plain[: len(plain) // 2]
            try:
                points.call("write", _of_descriptor(self.fileno()), lambda: self._half(half))
            except Short:
                return len(half)
            return super().write(plain) or 0

        def _half(self, half: bytes) -> None:
            io.FileIO.write(self, half)

    def opened(file: Any, mode: str = "r", buffering: int = -1, encoding: Any = None, errors: Any = None,
               newline: Any = None, closefd: bool = True, opener: Any = None) -> Any:  # fmt: skip
        if not set(mode) & set("wax+") or getattr(points._busy, "now", False):
            return real(file, mode, buffering, encoding, errors, newline, closefd, opener)
        raw = Watched(file, mode.replace("b", "").replace("t", ""), closefd, opener)
        if buffering == 0:
            return raw
        buffered = io.BufferedRandom(raw) if "+" in mode else io.BufferedWriter(raw)
        return buffered if "b" in mode else io.TextIOWrapper(buffered, encoding or "utf-8", errors, newline)

    io.open = builtins.open = opened  # type: ignore[assignment]


def _wrap_safetensors(points: Points) -> None:
    """Its writer is no Python: the whole file is one write, and its errors are of its own kind."""
    import safetensors
    import safetensors.torch as subject

    real = subject.serialize_file

    def serialize_file(tensors: Any, filename: Any, metadata: Any = None) -> None:
        path = _where(filename)

        def half() -> None:
            real(tensors, filename, metadata)
            os.truncate(filename, Path(filename).stat().st_size // 2)

        try:
            points.call("write", path, half)
        except Short:
            error = OSError(points.error, os.strerror(points.error))
        except OSError as refused:
            error = refused
        else:
            real(tensors, filename, metadata)
            return
        told = f"Error while serializing: I/O error: {error.strerror} (os error {error.errno})"
        raise safetensors.SafetensorError(told)

    subject.serialize_file = serialize_file
