"""Threads that read ahead and keep nobody: a program that has nothing else to do ends, whatever they wait for.

concurrent.futures waits for its threads when Python ends, without end where a disk doesn't answer any more.
"""

from __future__ import annotations

import time
from collections.abc import Callable
from concurrent.futures import Future
from queue import Empty, SimpleQueue
from threading import Thread
from typing import Any

_PATIENCE_SECONDS = 2.0
_Work = tuple[Future[Any], Callable[[], Any]]


class Readers:
    """`count` threads that do what they are given, in its order."""

    def __init__(self, count: int, name: str) -> None:
        self._work: SimpleQueue[_Work | None] = SimpleQueue()
        self._threads = [
            Thread(target=_serve, args=(self._work,), name=f"{name}_{number}", daemon=True) for number in range(count)
        ]
        for thread in self._threads:
            thread.start()

    def submit(self, work: Callable[[], Any]) -> Future[Any]:
        """What `work` returns or raises, once a thread has come to it."""
        future: Future[Any] = Future()
        self._work.put((future, work))
        return future

    def close(self) -> None:
        """Begin nothing more, and wait for what is under way as long as a disk takes that answers."""
        try:
            while (left := self._work.get_nowait()) is not None:
                left[0].cancel()
        except Empty:
            pass
        for _ in self._threads:
            self._work.put(None)
        deadline = time.monotonic() + _PATIENCE_SECONDS
        for thread in self._threads:
            thread.join(max(0.0, deadline - time.monotonic()))


def _serve(queue: SimpleQueue[_Work | None]) -> None:
    while (given := queue.get()) is not None:
        future, work = given
        if not future.set_running_or_notify_cancel():
            continue
        try:
            future.set_result(work())
        except BaseException as error:
            future.set_exception(error)
        del given, future, work  # a batch is large, and the next one may be long in coming
