"""Runs something in a fork of this process with little memory and time to spare, and says how it ended."""

from __future__ import annotations

import json
import os
import signal
import sys
import time
import warnings
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

import pytest

from simpletune.errors import SimpletuneError

needs_fork = pytest.mark.skipif(not hasattr(os, "fork") or sys.platform == "darwin", reason="limits are Linux's")


@dataclass(frozen=True)
class Ending:
    """`said`: what was returned, or the message of an error of ours; `crash`: another error, or "killed by ..."."""

    said: str
    crash: str | None
    seconds: float


def bounded(act: Callable[[], object], memory_mib: int = 768, seconds: int = 30) -> Ending:
    """What `act` returns or raises with `memory_mib` of address space beyond what is in use, within `seconds`."""
    reading, writing = os.pipe()
    began = time.monotonic()
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", DeprecationWarning)  # of forking beside threads
        child = os.fork()
    if child == 0:
        os.close(reading)
        _in_child(act, writing, memory_mib, seconds)
    os.close(writing)
    with os.fdopen(reading, "rb") as pipe:
        said = pipe.read()
    _, status = os.waitpid(child, 0)
    took = time.monotonic() - began
    if os.WIFSIGNALED(status):
        return Ending("", f"killed by {signal.Signals(os.WTERMSIG(status)).name}", took)
    return Ending(*json.loads(said or b'["", "nothing said"]'), took)


def _in_child(act: Callable[[], object], pipe: int, memory_mib: int, seconds: int) -> None:
    import resource

    try:
        in_use = int(Path("/proc/self/statm").read_text().split()[0]) * os.sysconf("SC_PAGE_SIZE")
        limit = in_use + (memory_mib << 20)
        resource.setrlimit(resource.RLIMIT_AS, (limit, limit))
        signal.signal(signal.SIGALRM, signal.SIG_DFL)
        signal.alarm(seconds)
        ending: tuple[str, str | None] = (str(act()), None)
    except SimpletuneError as error:
        ending = (f"{error.message} {error.hint or ''}", None)
    except BaseException as error:
        ending = ("", f"{type(error).__name__}: {error}")
    os.write(pipe, json.dumps((ending[0][:20_000], ending[1] and ending[1][:2000])).encode())
    os._exit(0)
