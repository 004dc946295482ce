"""Ctrl-C, SIGTERM and a closed terminal: one request to stop, honoured where nothing is lost by it.

the first signal   raises Stopped where the program is; inside `deferred` it is noted, for those who ask
Ctrl-C again       ends the process at once, and what is half-written is removed
others again       change nothing: launchers and closing terminals send them twice
"""

from __future__ import annotations

import os
import select
import signal
import sys
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from types import FrameType
from typing import NoReturn

from simpletune import files, locks
from simpletune.errors import HungUp, Interrupted, SimpletuneError, Terminated

HANG_UP: int = getattr(signal, "SIGHUP", 1)  # Windows has none
CAUGHT: tuple[int, ...] = (signal.SIGINT, signal.SIGTERM, HANG_UP)
_ERRORS: dict[int, type[SimpletuneError]] = {
    signal.SIGINT: Interrupted,
    signal.SIGTERM: Terminated,
    HANG_UP: HungUp,
}
_TOLD = b"\nstopping: the step is finished and saved first; again to end without saving\n"
_LEFT = b"\nended at once\n"
_SHOW_CURSOR = b"\x1b[?25h"
_ONE_WISH_SECONDS = 2.0


class Stopped(KeyboardInterrupt):
    """A signal has asked to stop. What cleans up after Ctrl-C does so for this, and nothing takes it for an error."""

    def __init__(self, number: int) -> None:
        super().__init__(number)
        self.signal = number


def ended(number: int, message: str, hint: str | None = None) -> SimpletuneError:
    """The error that ends a run which signal `number` stopped, with its exit code."""
    let_go_of_the_gone()
    return _ERRORS.get(number, Interrupted)(message, hint)


def leave(code: int) -> NoReturn:
    """End the process now. Nothing half-written stays, and no lock file."""
    files.abandon()
    locks.abandon()
    with suppress(OSError):
        os.write(2, (_SHOW_CURSOR if os.isatty(2) else b"") + _LEFT)
    os._exit(code)


class StopRequest:
    """Which signal, if any, asked the run to stop; 0 for none."""

    def __init__(self, *, launched: bool = False, leave: Callable[[int], NoReturn] = leave) -> None:
        """launched: one of several processes, whose launcher passes on a Ctrl-C that the terminal has sent to all.
        leave: ends the process, given its exit code."""
        self.signal = 0
        self.saved = False
        """Whether the steps of this start have ended, all or by a stop, and their state is saved."""
        self._deferred = False
        self._tell: Callable[[], bool] = lambda: False
        self._since = 0.0
        self._launched = launched
        self._leave = leave

    @property
    def requested(self) -> bool:
        return self.signal != 0

    def check(self) -> None:
        """Raise Stopped if that has been asked for."""
        if self.signal:
            raise Stopped(self.signal)

    @contextmanager
    def deferred(self, tell: Callable[[], bool] = lambda: False) -> Iterator[None]:
        """Inside, a signal is only noted; a request that nobody has honoured by the end of the block is raised there.

        tell: called in the signal's handler; whether it tells people what happens now.
        """
        self._tell = tell
        self._deferred = True
        try:
            self.check()
            yield
        finally:
            self._deferred = False
        self.check()

    def handle(self, number: int, _frame: FrameType | None) -> None:
        let_go_of_the_gone()
        if self.signal:
            if number == signal.SIGINT and not self._passed_on():
                self._leave(128 + number)
            return
        self.signal, self._since = number, time.monotonic()
        if not self._deferred:
            raise Stopped(number)
        if not self._tell():
            with suppress(OSError):
                os.write(2, _TOLD)  # print is not safe inside a signal handler

    def _passed_on(self) -> bool:
        """Whether this is the same Ctrl-C once more."""
        return self._launched and time.monotonic() - self._since < _ONE_WISH_SECONDS


@contextmanager
def stop_requests(request: StopRequest | None = None) -> Iterator[StopRequest]:
    """Catch SIGINT, SIGTERM and SIGHUP inside the block; outside the main thread nothing can be caught, so nothing is.

    One that is ignored already stays ignored: SIGHUP under nohup, SIGINT of what a script starts in the background.
    """
    request = request or StopRequest(launched=int(os.environ.get("WORLD_SIZE", "1")) > 1)
    if threading.current_thread() is not threading.main_thread():
        yield request
        return
    before = {number: signal.signal(number, request.handle) for number in caught_here()}
    try:
        yield request
    finally:
        for number, handler in before.items():
            signal.signal(number, handler or signal.SIG_DFL)  # None: what a library in C has put there


def caught_here() -> list[int]:
    """The signals to catch in this process: those that whoever started it didn't have it ignore."""
    there = CAUGHT if hasattr(signal, "SIGHUP") else (signal.SIGINT, signal.SIGTERM)
    return [number for number in there if signal.getsignal(number) != signal.SIG_IGN]


def let_go_of_the_gone() -> None:
    """What is said to a terminal that was closed, or through a pipe whose reader got the same Ctrl-C and ended, is an
    error: neither saving nor the exit code may suffer from it."""
    for descriptor in (1, 2):
        with suppress(OSError):
            if _is_gone(descriptor):
                nowhere = os.open(os.devnull, os.O_RDWR)
                os.dup2(nowhere, descriptor)
                os.close(nowhere)


def _is_gone(descriptor: int) -> bool:
    """Whether nobody can read any more what is written there."""
    if sys.platform == "win32":
        return False
    poll = select.poll()
    poll.register(descriptor, select.POLLOUT)
    return any(happened & (select.POLLERR | select.POLLHUP) for _, happened in poll.poll(0))
