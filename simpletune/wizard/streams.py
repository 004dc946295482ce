"""Terminals that are none, and terminals that go away while somebody is asked."""

from __future__ import annotations

import errno
import signal
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from types import FrameType
from typing import TextIO

_GONE = {errno.EIO, errno.EBADF, errno.EPIPE}


def is_terminal(stream: TextIO | None) -> bool:
    """Whether `stream` is an open terminal; sys.stdin is None under pythonw and may be closed elsewhere."""
    try:
        return stream is not None and stream.isatty()
    except ValueError:
        return False


@contextmanager
def lost_is_end_of_file() -> Iterator[None]:
    """A terminal that went away reads and writes as an input/output error; make it EOFError."""
    try:
        yield
    except OSError as error:
        if error.errno in _GONE:
            raise EOFError from error
        raise


@contextmanager
def hangup_is_end_of_file() -> Iterator[None]:
    """A closed terminal window or connection (SIGHUP) raises EOFError instead of ending the process at once.

    It does nothing where there is no such signal (Windows) or outside the main thread.
    """
    if not hasattr(signal, "SIGHUP") or threading.current_thread() is not threading.main_thread():
        yield
        return

    def hung_up(_number: int, _frame: FrameType | None) -> None:
        raise EOFError

    before = signal.signal(signal.SIGHUP, hung_up)
    try:
        yield
    finally:
        signal.signal(signal.SIGHUP, before)
