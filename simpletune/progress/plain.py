"""Lines for logs and pipes."""

from __future__ import annotations

import threading
import time
from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager, contextmanager, suppress
from typing import TextIO

from simpletune.progress.meter import Cadence, Clock, Meter
from simpletune.progress.reporter import Phase, TrainingPhase
from simpletune.progress.training import TRAINING, Facts, StepNumbers, TrainingMeter, TrainingPlan
from simpletune.progress.words import duration, learning_rate, number, plain_text, rate, time_left, wrapped

_WIDTH = 80


class PlainReporter:
    """One line when a phase starts, some on the way (see `Cadence`), one when it ends; no control characters."""

    def __init__(self, stream: TextIO, clock: Clock = time.monotonic) -> None:
        self._stream = stream
        self._clock = clock
        self._lock = threading.Lock()

    @contextmanager
    def phase(self, title: str, total: float | None, unit: str, done: float = 0) -> Iterator[Phase]:
        meter = Meter(title, total, unit, done, self._clock)
        self._write_figures(meter.start_line())
        try:
            yield _PlainPhase(meter, self._write_figures, self._clock)
        except BaseException:
            self._write_figures(meter.end_line("stopped"))
            raise
        self._write_figures(meter.end_line("done"))

    @contextmanager
    def training(self, plan: TrainingPlan) -> Iterator[TrainingPhase]:
        meter = TrainingMeter(plan, self._clock)
        already = f", {plan.done:,} already done" if plan.done else ""
        usable = f", {plan.usable_gib:.1f} GiB of memory usable" if plan.usable_gib else ""
        self._write_figures(f"{TRAINING}: {plan.total:,} step{'s' * (plan.total != 1)}{already}{usable}")
        try:
            yield _PlainTraining(meter, self._write_record, self._clock)
        except BaseException:
            self._write_figures(stopped_line(meter, self._clock))
            raise

    def note(self, text: str) -> None:
        self._write_wrapped(text)

    def warn(self, text: str) -> None:
        self._write_wrapped(f"warning: {text}")

    def _write_figures(self, text: str) -> None:
        text = plain_text(text)
        self._write(text if len(text) <= _WIDTH else text[: _WIDTH - 3] + "...")

    def _write_record(self, text: str) -> None:
        """Whole: a log is searched by its lines."""
        self._write(plain_text(text))

    def _write_wrapped(self, text: str) -> None:
        for line in text.splitlines() or [""]:
            self._write("\n".join(wrapped(plain_text(line), _WIDTH)))

    def _write(self, text: str) -> None:
        with self._lock, suppress(OSError):  # whoever read it is gone (`| tee` after Ctrl-C): the work goes on
            self._stream.write(text + "\n")
            self._stream.flush()


class _PlainPhase:
    def __init__(self, meter: Meter, write: Callable[[str], None], clock: Clock) -> None:
        self._meter = meter
        self._write = write
        self._cadence = Cadence(clock, meter.share)

    def advance(self, amount: float = 1, **shown: str) -> None:
        self._meter.advance(amount, shown)
        if not self._meter.complete and self._cadence.due(self._meter.share):
            self._write(self._meter.line())


class _PlainTraining:
    def __init__(self, meter: TrainingMeter, write: Callable[[str], None], clock: Clock) -> None:
        self._meter = meter
        self._write = write
        self._total = meter.facts().total
        self._cadence = Cadence(clock, meter.facts().share)

    def step(self, numbers: StepNumbers) -> None:
        self._meter.take(numbers)
        if numbers.step >= self._total or self._cadence.due(numbers.step / self._total):
            self._write(training_line(self._meter.facts()))

    def aside(self, title: str) -> AbstractContextManager[None]:
        return self._meter.aside(title)

    def sampled(self, where: str) -> None:
        self._write(f"samples: {where}")

    def stopping(self) -> bool:
        return False


def training_line(facts: Facts) -> str:
    """The facts in words; within 80 columns for most runs."""
    parts = [f"step {facts.step:,}/{facts.total:,}"]
    if facts.last is not None:
        parts += [
            f"loss {number(facts.loss, 4)}",
            f"lr {learning_rate(facts.last.learning_rate)}",
            f"norm {number(facts.last.grad_norm, 2)}",
        ]
    if facts.images_a_second:
        parts.append(rate(facts.images_a_second, "image"))
    if facts.last is not None:
        parts.append(f"{facts.last.memory_gib:.1f} GiB")
    if facts.seconds_left is not None:
        parts.append(f"{time_left(facts.seconds_left)} left")
    return ", ".join(parts)


def stopped_line(meter: TrainingMeter, clock: Clock) -> str:
    facts = meter.facts()
    return f"{TRAINING}: stopped, at step {facts.step:,}/{facts.total:,} after {duration(clock() - meter.began)}"
