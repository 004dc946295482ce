"""Ctrl-C and SIGTERM while training: finish the step, save, then end. A second one ends at once, but not mid-save."""

from __future__ import annotations

import os
import signal
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from types import FrameType

_TOLD = b"\nstopping: the step is finished and saved first; again to end without saving\n"


class StopRequest:
    """Which signal, if any, asked the run to stop; 0 for none."""

    def __init__(self, tell: Callable[[], bool] = lambda: False) -> None:
        """tell: called in the signal's handler; whether it tells people what happens now."""
        self.signal = 0
        self._saving = False
        self._tell = tell

    @property
    def requested(self) -> bool:
        return self.signal != 0

    @contextmanager
    def saving(self) -> Iterator[None]:
        """Inside, a further signal waits for nobody and changes nothing: what is being written is written whole."""
        self._saving = True
        try:
            yield
        finally:
            self._saving = False

    def handle(self, number: int, _frame: FrameType | None) -> None:
        if self._saving and self.signal:
            return
        if self.signal:
            raise KeyboardInterrupt
        self.signal = number
        if not self._tell():
            os.write(2, _TOLD)  # print is not safe inside a signal handler


@contextmanager
def stop_requests(tell: Callable[[], bool] = lambda: False) -> Iterator[StopRequest]:
    """Catch SIGINT and SIGTERM inside the block; outside the main thread nothing can be caught, so nothing is.

    tell: as `StopRequest` takes it.
    """
    request = StopRequest(tell)
    if threading.current_thread() is not threading.main_thread():
        yield request
        return
    before = {number: signal.signal(number, request.handle) for number in (signal.SIGINT, signal.SIGTERM)}
    try:
        yield request
    finally:
        for number, handler in before.items():
            signal.signal(number, handler)
