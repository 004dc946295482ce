"""How far a piece of work is, how fast it goes, and that in words."""

from __future__ import annotations

import threading
import time
from collections import deque
from collections.abc import Callable

from simpletune.progress.words import byte_size, duration, plural
from simpletune.progress.words import rate as rate_text

Clock = Callable[[], float]

_RATE_WINDOW_SECONDS = 60.0
_SLOW_START = 2.0  # times as fast as with the first one counted: that one did something else besides
_FIRST_LINES = 12  # plain lines of a phase that come every 10 seconds, before they come every minute


class Meter:
    """Of one phase in one unit. Threads may advance it together."""

    def __init__(self, title: str, total: float | None, unit: str, done: float, clock: Clock = time.monotonic) -> None:
        self.title = title
        self.total = total
        self.done = done
        self.shown: dict[str, str] = {}
        self._unit = unit
        self._clock = clock
        self._began = clock()
        self._done_before = done
        self._first: tuple[float, float] | None = None  # when the first of them was done, which may include a start-up
        self._history: deque[tuple[float, float]] = deque([(self._began, done)])
        self._lock = threading.Lock()

    def advance(self, amount: float, shown: dict[str, str]) -> None:
        with self._lock:
            self.done += amount
            self.shown = {**self.shown, **shown}
            now = self._clock()
            if self._first is None:
                self._first = (now, self.done)
            if now - self._history[-1][0] >= 0.5:
                self._history.append((now, self.done))
            while len(self._history) > 2 and now - self._history[0][0] > _RATE_WINDOW_SECONDS:
                self._history.popleft()

    @property
    def complete(self) -> bool:
        return self.total is not None and self.done >= self.total

    @property
    def share(self) -> float | None:
        """Of the whole, 0 to 1; None where nobody knows how much there is."""
        return min(1.0, self.done / self.total) if self.total else None

    def start_line(self) -> str:
        if self.total is None:
            return f"{self.title} ..."
        already = f", {self._amount(self.done)} already done" if self.done else ""
        return f"{self.title}: {self._amount(self.total)}{already}"

    def line(self) -> str:
        return f"{self.title}: {', '.join(self.figures() + ([self.shown_text()] if self.shown else []))}"

    def end_line(self, outcome: str) -> str:
        """The phase in one line: what was done in which time, at which overall rate."""
        seconds = self._clock() - self._began
        worked = self.done - self._done_before
        amount = self._amount(worked) if outcome == "done" else f"at {self._progress()}"
        rate = f" ({self._rate_text(worked / seconds)})" if worked > 0 and seconds >= 0.1 else ""
        shown = f", {self.shown_text()}" if self.shown else ""
        return f"{self.title}: {outcome}, {amount} in {duration(seconds)}{rate}{shown}"

    def figures(self) -> list[str]:
        """Done of total, rate, time left; the latter two once they are known."""
        rate = self._rate()
        parts = [self._progress()]
        if rate > 0:
            parts.append(self._rate_text(rate))
            if self.total is not None and not self.complete:
                parts.append(f"{duration((self.total - self.done) / rate)} left")
        return parts

    def shown_text(self) -> str:
        return ", ".join(f"{name} {value}" for name, value in self.shown.items())

    def _rate(self) -> float:
        """Units a second over the last minute; without the first one where that took much longer than the others."""
        with self._lock:
            now, since_first = self._clock(), self._first or self._history[0]
            began, before = self._history[0]
            rate = (self.done - before) / (now - began) if now > began else 0.0
            after = (self.done - since_first[1]) / (now - since_first[0]) if now > since_first[0] else 0.0
            return after if began == self._began and after > _SLOW_START * rate else rate

    def _progress(self) -> str:
        if self.total is None:
            return self._amount(self.done)
        if self._unit == "B":
            return f"{byte_size(self.done)} of {byte_size(self.total)}"
        return f"{self.done:.10g}/{self._amount(self.total)}"

    def _amount(self, value: float) -> str:
        if self._unit == "B":
            return byte_size(value)
        return f"{value:.10g} {self._unit if value == 1 else plural(self._unit)}"

    def _rate_text(self, rate: float) -> str:
        return f"{byte_size(rate)}/s" if self._unit == "B" else rate_text(rate, self._unit)


class Cadence:
    """When a plain line is due: every 10 seconds or tenth, whichever is first, but not within a second of the last;
    after two minutes of that one a minute."""

    def __init__(self, clock: Clock, share: float | None) -> None:
        self._clock = clock
        self._last_time = clock()
        self._last_tenth = _tenth(share)
        self._lines = 0

    def due(self, share: float | None) -> bool:
        """Whether to write a line now, which is then taken as written. share: as `Meter.share`."""
        since = self._clock() - self._last_time
        interval = 10 if self._lines < _FIRST_LINES else 60
        early = self._lines < _FIRST_LINES and since >= 1 and _tenth(share) > self._last_tenth
        if since < interval and not early:
            return False
        self._last_time, self._last_tenth = self._clock(), _tenth(share)
        self._lines += 1
        return True


def _tenth(share: float | None) -> int:
    return int(10 * share) if share else 0
