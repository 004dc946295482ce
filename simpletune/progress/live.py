"""A live display at the bottom of a terminal; notes, warnings and the outcome of each phase scroll above it."""

from __future__ import annotations

import sys
import time
from collections.abc import Iterator
from contextlib import AbstractContextManager, contextmanager
from typing import TYPE_CHECKING

from simpletune.progress.meter import Clock, Meter
from simpletune.progress.plain import stopped_line
from simpletune.progress.reporter import Phase, TrainingPhase
from simpletune.progress.rows import meter_rows, signs_for, training_rows
from simpletune.progress.training import StepNumbers, TrainingMeter, TrainingPlan
from simpletune.progress.words import plain_text, wrapped

if TYPE_CHECKING:
    from rich.console import Console, RenderableType


class RichReporter:
    """A few lines for each running phase. They are drawn by a thread of their own, and whole in one write."""

    def __init__(self, console: Console, clock: Clock = time.monotonic, refresh_per_second: float = 2) -> None:
        from rich.live import Live

        self._console = console
        self._clock = clock
        self._signs = signs_for(console.encoding)
        self._running: list[Meter | TrainingMeter] = []
        self._live = Live(
            console=console,
            get_renderable=self._render,
            refresh_per_second=refresh_per_second,
            transient=True,
            redirect_stdout=sys.stdout.isatty(),  # a piped stdout belongs to whoever reads it
            vertical_overflow="crop",
        )

    @contextmanager
    def phase(self, title: str, total: float | None, unit: str, done: float = 0) -> Iterator[Phase]:
        meter = Meter(title, total, unit, done, self._clock)
        outcome = "stopped"
        try:
            with self._shown(meter):
                yield _RichPhase(meter)
            outcome = "done"
        finally:
            self._print(meter.end_line(outcome), "dim" if outcome == "done" else "yellow")

    @contextmanager
    def training(self, plan: TrainingPlan) -> Iterator[TrainingPhase]:
        meter = TrainingMeter(plan, self._clock)
        try:
            with self._shown(meter):
                yield _RichTraining(meter)
        except BaseException:
            self._print(stopped_line(meter, self._clock), "yellow")
            raise

    def note(self, text: str) -> None:
        self._print(text, "")

    def warn(self, text: str) -> None:
        self._print(f"warning: {text}", "bold yellow")

    @contextmanager
    def _shown(self, meter: Meter | TrainingMeter) -> Iterator[None]:
        self._running.append(meter)
        if len(self._running) == 1:
            self._live.start()
        try:
            yield
        finally:
            self._running.remove(meter)
            if not self._running:
                self._live.stop()

    def _print(self, text: str, style: str) -> None:
        from rich.text import Text

        for line in text.splitlines() or [""]:
            for part in wrapped(plain_text(line), self._console.width):
                self._console.print(Text(part, style), soft_wrap=True)

    def _render(self) -> RenderableType:
        from rich.text import Text

        # A line as wide as the terminal would make some of them begin the next one.
        width = max(1, self._console.width - 1)
        lines = []
        for meter in list(self._running):
            if isinstance(meter, TrainingMeter):
                rows = training_rows(meter.facts(), width, self._signs)
            else:
                rows = meter_rows(meter, width, self._signs)
            for row in rows:
                cells = [part for cell in row for part in (("  ", ""), (cell.text, cell.style))]
                lines.append(Text.assemble(*cells[1:]))
        return Text("\n", no_wrap=True, overflow="crop").join(lines)


class _RichPhase:
    def __init__(self, meter: Meter) -> None:
        self._meter = meter

    def advance(self, amount: float = 1, **shown: str) -> None:
        self._meter.advance(amount, shown)


class _RichTraining:
    def __init__(self, meter: TrainingMeter) -> None:
        self._meter = meter

    def step(self, numbers: StepNumbers) -> None:
        self._meter.take(numbers)

    def aside(self, title: str) -> AbstractContextManager[None]:
        return self._meter.aside(title)

    def sampled(self, where: str) -> None:
        self._meter.sampled(where)

    def stopping(self) -> bool:
        self._meter.stopping = True
        return True
