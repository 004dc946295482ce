"""A tracker on a thread of its own: training hands over and goes on, whatever the tracker does.

What is handed over waits in a queue of bounded length. Where it is full, the newest is left out and counted; where the
tracker raises, it is given up. Both are said once, by the thread that trains. A tracker that hangs keeps its thread,
which ends with the process.
"""

from __future__ import annotations

import queue
import threading
import time
from collections.abc import Callable, Mapping, Sequence

from simpletune.config.problems import shown
from simpletune.redact import redact
from simpletune.trainer.tracking.tracker import Picture, Tracker

WAITING = 4096
"""Calls that may wait for a tracker: minutes of training, a few MB."""
_LONGEST_MESSAGE = 200
_SECONDS_MORE_TO_OPEN = 5.0
_Call = Callable[[Tracker], None]


class Worker:
    """The thread of one tracker, which opens it first."""

    def __init__(self, name: str, opening: Callable[[], Tracker], waiting: int = WAITING) -> None:
        """`name`: what people call the tracker. `opening`: opens it; it runs on the thread."""
        self.name = name
        self._opening = opening
        self._queue: queue.Queue[_Call | None] = queue.Queue(waiting)
        self._news: queue.SimpleQueue[str] = queue.SimpleQueue()
        self._opened = threading.Event()
        self._ended = threading.Event()
        self.failed = False
        """Whether the tracker raised and was given up; that is among the news then."""
        self._left_out = 0
        self._thread = threading.Thread(target=self._work, name=f"tracker {name}", daemon=True)
        self._thread.start()

    def scalars(self, step: int, values: Mapping[str, float]) -> None:
        self._hand_over(lambda tracker: tracker.scalars(step, values))

    def pictures(self, step: int, pictures: Sequence[Picture]) -> None:
        self._hand_over(lambda tracker: tracker.pictures(step, pictures))

    def wait_opened(self, seconds: float) -> None:
        """Return once the tracker is open or given up, or after `seconds`."""
        self._opened.wait(seconds)

    def news(self) -> list[str]:
        """What people should know since the last call, a line each."""
        lines = []
        while not self._news.empty():
            lines.append(self._news.get())
        return lines

    def finish(self, exit_code: int, seconds: float) -> None:
        """Let it write what waits and end; after `seconds` it is left behind, and said so. One that did not even open
        in all the time of the run gets little more."""
        if not self.failed and not self._ended.is_set():
            seconds = seconds if self._opened.is_set() else min(seconds, _SECONDS_MORE_TO_OPEN)
            deadline = time.monotonic() + seconds
            try:
                self._queue.put(lambda tracker: tracker.finish(exit_code), timeout=seconds)
                self._queue.put(None, timeout=max(0.0, deadline - time.monotonic()))
                self._ended.wait(max(0.0, deadline - time.monotonic()))
            except queue.Full:
                pass
            if not self._ended.is_set():
                self._say(f"{self.name} did not finish within {seconds:.0f} s and is left behind")
        if self._left_out:
            self._say(
                f"{self.name} could not keep up: {self._left_out} entries are missing there, not in metrics.jsonl"
            )
            self._left_out = 0

    def _hand_over(self, call: _Call) -> None:
        if self.failed or self._ended.is_set():
            return
        try:
            self._queue.put_nowait(call)
        except queue.Full:
            if not self._left_out:
                self._say(f"{self.name} can't keep up: what it has no room for is left out there")
            self._left_out += 1

    def _work(self) -> None:
        try:
            tracker = self._opening()
            self._say(f"{self.name}: {tracker.where}")
            self._opened.set()
            while (call := self._queue.get()) is not None:
                call(tracker)
        except BaseException as error:  # libraries end the process, too
            self._say(f"{self.name} failed, and training goes on without it: {_described(error)}")
            self.failed = True
        finally:
            self._opened.set()
            self._ended.set()

    def _say(self, line: str) -> None:
        self._news.put(redact(shown(line)))


def _described(error: BaseException) -> str:
    lines = str(error).strip().splitlines() or [""]
    return f"{type(error).__name__}: {lines[0][:_LONGEST_MESSAGE]}".rstrip(": ")
