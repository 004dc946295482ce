"""Whose lock it is: what a lock file says of the process that wrote it, and whether that one still lives."""

from __future__ import annotations

import json
import os
import socket
import sys
import time
from contextlib import suppress
from dataclasses import asdict, dataclass
from datetime import datetime
from pathlib import Path
from typing import Any

from simpletune import outside
from simpletune.redact import redact

_LONGEST_COMMAND = 200
_LONGEST = 1 << 16  # bytes of a lock file; a signature has some hundred


@dataclass(frozen=True)
class Holder:
    """A process, as it signs its lock file. birth: tells it from another one that was given the same pid later, None
    where nothing tells. since: when it took the lock, in seconds since 1970."""

    pid: int
    host: str
    birth: str | None = None
    since: float | None = None
    command: str = ""

    @property
    def is_here(self) -> bool:
        return self.host == socket.gethostname()

    @property
    def is_alive(self) -> bool:
        """Whether the process runs; one on another host is believed to."""
        if not self.is_here:
            return True
        birth = _birth(self.pid)
        return birth is not None and self.birth in (None, birth)

    def __str__(self) -> str:
        return f"process {self.pid}" + ("" if self.is_here else f" on {self.host}")

    def described(self) -> str:
        """With host, time and command, as far as they are known."""
        words = f"process {self.pid} on {self.host}"
        if self.since is not None:
            words += f", since {datetime.fromtimestamp(self.since).astimezone():%Y-%m-%d %H:%M}"
        return words + (f": {self.command}" if self.command else "")


def this_process() -> Holder:
    command = redact(" ".join([Path(sys.argv[0]).name, *sys.argv[1:]]))[:_LONGEST_COMMAND]
    return Holder(os.getpid(), socket.gethostname(), _birth(os.getpid()), time.time(), command)


def signature() -> bytes:
    """What this process writes into a lock file."""
    return json.dumps(asdict(this_process())).encode()


def read_holder(path: Path) -> Holder | None:
    """Who wrote the lock file; None where it doesn't say, as while its process starts or ends."""
    try:
        written: dict[str, Any] = outside.read_json(path, _LONGEST)
        birth, since = written.get("birth"), written.get("since")
        return Holder(
            int(written["pid"]),
            str(written["host"]),
            birth if isinstance(birth, str) else None,
            float(since) if isinstance(since, int | float) else None,
            str(written.get("command", "")),
        )
    except (OSError, ValueError, KeyError, TypeError, AttributeError, OverflowError):
        return None


def is_held(path: Path) -> bool:
    """Whether a living process says in a lock file that it holds it; the lock itself isn't touched.

    One that nobody has signed yet counts as held, and so does one of another machine.
    """
    holder = read_holder(path)
    return path.exists() and (holder is None or holder.is_alive)


def _birth(pid: int) -> str | None:
    """When a process of this machine started, in a form that compares; None where there is no such process."""
    with suppress(OSError, IndexError):
        boot = Path("/proc/sys/kernel/random/boot_id").read_text(encoding="ascii").strip()
        # The name in parentheses may hold anything; of the rest the 20th field is the start, in ticks since the boot.
        behind_name = Path(f"/proc/{pid}/stat").read_text(encoding="utf-8", errors="replace").rpartition(")")[2].split()
        return None if behind_name[0] in ("Z", "X") else f"{boot} {behind_name[19]}"
    return _birth_by_psutil(pid)


def _birth_by_psutil(pid: int) -> str | None:
    import psutil

    try:
        return f"{psutil.Process(pid).create_time():.0f}"
    except psutil.Error:
        return None
