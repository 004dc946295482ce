"""Terminals that are none, and terminals that go away while somebody is asked."""

from __future__ import annotations

import errno
import signal
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
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
def on_hangup(action: Callable[[], None]) -> Iterator[None]:
    """Call `action` when the terminal's window or connection is closed (SIGHUP), instead of ending at once.

    It does nothing where there is no such signal (Windows), outside the main thread, or where the signal is ignored, as
    under nohup: then the terminal's end is seen when it is read from or written to.
    """
    if not _hangup_can_be_caught():
        yield
        return
    before = signal.signal(signal.SIGHUP, lambda *_: action())
    try:
        yield
    finally:
        signal.signal(signal.SIGHUP, before)


def _hangup_can_be_caught() -> bool:
    if not hasattr(signal, "SIGHUP") or threading.current_thread() is not threading.main_thread():
        return False
    return signal.getsignal(signal.SIGHUP) != signal.SIG_IGN


@contextmanager
def hangup_is_end_of_file() -> Iterator[None]:
    """A closed terminal raises EOFError wherever the program is, so that a draft can be kept."""

    def lost() -> None:
        raise EOFError

    with on_hangup(lost):
        yield


@contextmanager
def keys_ignored(stream: TextIO | None) -> Iterator[None]:
    """Neither show nor keep what is typed while nothing is asked: an impatient Enter must not answer what comes next.

    Ctrl-C works as ever. Without a terminal, or on Windows, where nothing is shown meanwhile, it does nothing.
    """
    try:
        import termios
    except ImportError:
        yield
        return
    if stream is None or not is_terminal(stream):
        yield
        return
    before = termios.tcgetattr(stream)
    silent = [*before]
    silent[3] &= ~termios.ECHO
    termios.tcsetattr(stream, termios.TCSANOW, silent)
    try:
        yield
    finally:
        with suppress(termios.error):  # a terminal that went away has no settings
            termios.tcsetattr(stream, termios.TCSAFLUSH, before)
