"""How long work is shown: a live bar with rate and time left on a terminal, plain lines everywhere else.

Everything that takes time asks its `Reporter` for a `Phase` and advances it; what it looks like is decided here once.

All of it goes to stderr, in one stream so that lines stay in order; stdout is left to what a command was asked for.
Whatever is shown is text, never markup, and passes `redact`.
"""

from __future__ import annotations

import os
import sys
import textwrap
import threading
import time
from collections import deque
from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager, contextmanager
from typing import TYPE_CHECKING, Any, Protocol, TextIO

from simpletune.redact import redact

if TYPE_CHECKING:
    from rich.console import Console, RenderableType

Clock = Callable[[], float]

_WIDTH = 80
_RATE_WINDOW_SECONDS = 60.0
_SLOW_START = 2.0  # times as fast as with the first one counted: that one did something else besides
_FIRST_LINES = 12  # plain lines of a phase that come every 10 seconds, before they come every minute
_PLURALS = {"entry": "entries"}


class Phase(Protocol):
    """One piece of long work, measured in its own unit."""

    def advance(self, amount: float = 1, **shown: str) -> None:
        """`amount` more is done; `shown` are named values to stand beside the bar, such as loss="0.213"."""
        ...


class Reporter(Protocol):
    def phase(self, title: str, total: float | None, unit: str, done: float = 0) -> AbstractContextManager[Phase]:
        """Start showing work of `total` units ("image", "caption", "step", "B" for bytes), `done` of them already."""
        ...

    def note(self, text: str) -> None:
        """A line that stays on the screen: a decision, a result, a path."""
        ...

    def warn(self, text: str) -> None:
        """A line that stays and stands out."""
        ...


def terminal_reporter(stream: TextIO | None = None) -> Reporter:
    """Live bars when `stream` (stderr) is a terminal that can move its cursor, plain lines otherwise."""
    stream = stream or sys.stderr
    if stream.isatty() and os.environ.get("TERM", "") not in {"dumb", "unknown"}:
        from rich.console import Console

        return RichReporter(Console(file=stream, highlight=False, markup=False, emoji=False))
    return PlainReporter(stream)


class SilentReporter:
    """Shows nothing; for tests and for callers that show progress in their own way."""

    @contextmanager
    def phase(self, title: str, total: float | None, unit: str, done: float = 0) -> Iterator[Phase]:  # noqa: ARG002
        yield _SilentPhase()

    def note(self, text: str) -> None:
        pass

    def warn(self, text: str) -> None:
        pass


class _SilentPhase:
    def advance(self, amount: float = 1, **shown: str) -> None:
        pass


class PlainReporter:
    """Lines for logs and pipes: one when a phase starts, some on the way, one when it ends; no control characters.

    On the way a line comes every 10 seconds or 10 percent, whichever is first, but not within a second of the last;
    after two minutes one a minute.
    """

    def __init__(self, stream: TextIO, clock: Clock = time.monotonic) -> None:
        self._stream = stream
        self._clock = clock
        self._lock = threading.Lock()

    @contextmanager
    def phase(self, title: str, total: float | None, unit: str, done: float = 0) -> Iterator[Phase]:
        meter = _Meter(title, total, unit, done, self._clock)
        self._write_figures(meter.start_line())
        try:
            yield _PlainPhase(meter, self._write_figures, self._clock)
        except BaseException:
            self._write_figures(meter.end_line("stopped"))
            raise
        self._write_figures(meter.end_line("done"))

    def note(self, text: str) -> None:
        self._write_wrapped(text)

    def warn(self, text: str) -> None:
        self._write_wrapped(f"warning: {text}")

    def _write_figures(self, text: str) -> None:
        text = _plain(text)
        self._write(text if len(text) <= _WIDTH else text[: _WIDTH - 3] + "...")

    def _write_wrapped(self, text: str) -> None:
        for line in text.splitlines() or [""]:
            line = _plain(line)
            wrapped = textwrap.wrap(line, _WIDTH, break_long_words=False, break_on_hyphens=False)
            self._write("\n".join(wrapped) if len(line) > _WIDTH else line)

    def _write(self, text: str) -> None:
        with self._lock:
            self._stream.write(text + "\n")
            self._stream.flush()


class _PlainPhase:
    def __init__(self, meter: _Meter, write: Callable[[str], None], clock: Clock) -> None:
        self._meter = meter
        self._write = write
        self._clock = clock
        self._last_time = clock()
        self._last_tenth = meter.tenths
        self._lines = 0

    def advance(self, amount: float = 1, **shown: str) -> None:
        self._meter.advance(amount, shown)
        since = self._clock() - self._last_time
        interval = 10 if self._lines < _FIRST_LINES else 60
        early = self._lines < _FIRST_LINES and since >= 1 and self._meter.tenths > self._last_tenth
        if (since >= interval or early) and not self._meter.complete:
            self._last_time, self._last_tenth = self._clock(), self._meter.tenths
            self._lines += 1
            self._write(self._meter.line())


class RichReporter:
    """Live bars at the bottom of a terminal, one a running phase; notes and the summary of each phase scroll above."""

    def __init__(self, console: Console, clock: Clock = time.monotonic, refresh_per_second: float = 8) -> None:
        from rich.live import Live

        self._console = console
        self._clock = clock
        self._running: list[_Meter] = []
        self._live = Live(
            console=console,
            get_renderable=self._render,
            refresh_per_second=refresh_per_second,
            transient=True,
            redirect_stdout=sys.stdout.isatty(),  # a piped stdout belongs to whoever reads it
        )

    @contextmanager
    def phase(self, title: str, total: float | None, unit: str, done: float = 0) -> Iterator[Phase]:
        meter = _Meter(title, total, unit, done, self._clock)
        self._running.append(meter)
        if len(self._running) == 1:
            self._live.start()
        outcome = "stopped"
        try:
            yield _RichPhase(meter)
            outcome = "done"
        finally:
            self._running.remove(meter)
            if not self._running:
                self._live.stop()
            self._print(meter.end_line(outcome), "dim" if outcome == "done" else "yellow")

    def note(self, text: str) -> None:
        self._print(text, "")

    def warn(self, text: str) -> None:
        self._print(f"warning: {text}", "bold yellow")

    def _print(self, text: str, style: str) -> None:
        from rich.text import Text

        for line in text.splitlines() or [""]:
            self._console.print(Text(_plain(line), style), soft_wrap=True)

    def _render(self) -> RenderableType:
        from rich.console import Group
        from rich.progress_bar import ProgressBar
        from rich.table import Table
        from rich.text import Text

        rows: list[RenderableType] = []
        for meter in list(self._running):
            grid = Table.grid(padding=(0, 1))
            for ratio, justify in ((None, "left"), (1, "left"), (None, "right")):
                grid.add_column(ratio=ratio, justify=justify, no_wrap=True)  # type: ignore[arg-type]
            grid.expand = True
            bar = ProgressBar(total=meter.total, completed=meter.done, pulse=meter.total is None)
            title = Text(_plain(meter.title), "bold")
            title.truncate(28, overflow="ellipsis")
            grid.add_row(title, bar, Text(_plain(", ".join(meter.figures()))))
            rows.append(grid)
            if meter.shown:
                rows.append(Text("  " + _plain(meter.shown_text()), "cyan", no_wrap=True, overflow="ellipsis"))
        return Group(*rows)


class _RichPhase:
    def __init__(self, meter: _Meter) -> None:
        self._meter = meter

    def advance(self, amount: float = 1, **shown: str) -> None:
        self._meter.advance(amount, shown)


class _Meter:
    """How far a phase is, how fast it goes, and that in words. Threads may advance it together."""

    def __init__(self, title: str, total: float | None, unit: str, done: float, clock: Clock) -> None:
        self.title = title
        self.total = total
        self.done = done
        self.shown: dict[str, str] = {}
        self._unit, self._units = unit, _PLURALS.get(unit, f"{unit}s")
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
    def tenths(self) -> int:
        return int(10 * self.done / self.total) if self.total else 0

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
        return f"{self.title}: {outcome}, {amount} in {_duration(seconds)}{rate}{shown}"

    def figures(self) -> list[str]:
        """Done of total, rate, time left; the latter two once they are known."""
        rate = self._rate()
        parts = [self._progress()]
        if rate > 0:
            parts.append(self._rate_text(rate))
            if self.total is not None and not self.complete:
                parts.append(f"{_duration((self.total - self.done) / rate)} left")
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
            return f"{_bytes(self.done)} of {_bytes(self.total)}"
        return f"{self.done:.10g}/{self._amount(self.total)}"

    def _amount(self, value: float) -> str:
        if self._unit == "B":
            return _bytes(value)
        return f"{value:.10g} {self._unit if value == 1 else self._units}"

    def _rate_text(self, rate: float) -> str:
        if self._unit == "B":
            return f"{_bytes(rate)}/s"
        if rate < 1:
            return f"{1 / rate:.3g} s/{self._unit}"
        return f"{rate:.0f} {self._units}/s" if rate >= 100 else f"{rate:.3g} {self._units}/s"


def _duration(seconds: float) -> str:
    """0.42 s, 12 s, 3:05, 2:03:05, 1 d 2 h."""
    if seconds < 10:
        return f"{seconds:.2g} s"
    whole = round(seconds)
    if whole < 60:
        return f"{whole} s"
    minutes, whole = divmod(whole, 60)
    hours, minutes = divmod(minutes, 60)
    if hours >= 24:
        return f"{hours // 24} d {hours % 24} h"
    return f"{hours}:{minutes:02}:{whole:02}" if hours else f"{minutes}:{whole:02}"


def _bytes(value: float) -> str:
    for unit in ("B", "KiB", "MiB", "GiB"):
        if abs(value) < 1024 or unit == "GiB":
            break
        value /= 1024
    return f"{value:.0f} B" if unit == "B" else f"{value:.1f} {unit}"


def _plain(text: Any) -> str:
    """One line of printable text without tokens; a control character in a file name must not steer the terminal."""
    return "".join(c if c.isprintable() else "?" for c in redact(str(text)).replace("\t", "    "))
