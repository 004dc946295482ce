"""What is known of a training while it goes on: its numbers as they come, how fast it is, when it will be done."""

from __future__ import annotations

import statistics
import threading
import time
from collections import deque
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field

from simpletune.progress.meter import Clock
from simpletune.progress.smoothing import Smoothed, smoothing_span
from simpletune.progress.sparkline import History

TRAINING = "Training"
_WINDOW = 100  # steps that the rate is of
_UNUSUAL = 4.0  # times the median: a step that compiled something, or waited for a disk


@dataclass(frozen=True)
class StepNumbers:
    """What a step left. images: of all processes; seconds: from the step before to this one; memory_gib: at most so
    far, or now where nothing counts the peak."""

    step: int
    loss: float
    learning_rate: float
    grad_norm: float
    images: int
    seconds: float
    memory_gib: float


@dataclass(frozen=True)
class TrainingPlan:
    """total: steps in all. asides: what interrupts the steps, by its title, every so many steps and after the last.
    usable_gib: memory there is, None where nobody knows. earlier_losses: of the steps already done, oldest first."""

    total: int
    done: int = 0
    asides: Mapping[str, int] = field(default_factory=dict)
    usable_gib: float | None = None
    earlier_losses: Sequence[float] = ()


@dataclass(frozen=True)
class Facts:
    """A training at one moment. `last` is None before the first step; loss: smoothed, as the curve `losses`;
    steps_a_second: 0 while unknown; seconds_left: None while unknown, asides included; samples: where the last ones
    are."""

    doing: str
    step: int
    total: int
    last: StepNumbers | None
    loss: float
    losses: Sequence[float]
    steps_a_second: float
    images_a_second: float
    usable_gib: float | None
    seconds_left: float | None
    samples: str | None
    stopping: bool

    @property
    def share(self) -> float:
        return min(1.0, self.step / self.total) if self.total else 0.0


class TrainingMeter:
    """Collects a training's numbers. Threads may read it while steps come in."""

    def __init__(self, plan: TrainingPlan, clock: Clock = time.monotonic) -> None:
        self.began = clock()
        self.stopping = False  # written by a signal's handler, which can't wait for a lock
        self._plan = plan
        self._clock = clock
        self._lock = threading.Lock()
        self._step = plan.done
        self._last: StepNumbers | None = None
        self._smoothed = Smoothed(smoothing_span(plan.total))
        self._losses = History()
        for loss in plan.earlier_losses:
            self._add_loss(loss)
        self._recent: deque[tuple[float, int]] = deque(maxlen=_WINDOW)
        self._asides = _Asides(plan, clock)
        self._samples: str | None = None

    def take(self, numbers: StepNumbers) -> None:
        with self._lock:
            self._step, self._last = numbers.step, numbers
            self._add_loss(numbers.loss)
            self._recent.append((numbers.seconds, numbers.images))

    @contextmanager
    def aside(self, title: str) -> Iterator[None]:
        """The steps wait for something: a validation, a checkpoint."""
        with self._lock:
            self._asides.begin(title)
        try:
            yield
        finally:
            with self._lock:
                self._asides.end(self._step)

    def sampled(self, where: str) -> None:
        with self._lock:
            self._samples = where

    def facts(self) -> Facts:
        with self._lock:
            seconds, images = typical(self._recent)
            return Facts(
                doing=self._asides.title or TRAINING,
                step=self._step,
                total=self._plan.total,
                last=self._last,
                loss=self._smoothed.value,
                losses=self._losses.points(),
                steps_a_second=1 / seconds if seconds else 0.0,
                images_a_second=images / seconds if seconds else 0.0,
                usable_gib=self._plan.usable_gib,
                seconds_left=self._seconds_left(seconds),
                samples=self._samples,
                stopping=self.stopping,
            )

    def _add_loss(self, loss: float) -> None:
        self._smoothed.add(loss)
        self._losses.add(self._smoothed.value)

    def _seconds_left(self, of_a_step: float) -> float | None:
        left = self._plan.total - self._step
        if not of_a_step and left > 0:
            return None
        return max(0, left) * of_a_step + self._asides.seconds_left(self._step)


class _Asides:
    """How long what interrupts the steps takes, and how often it is still to come."""

    def __init__(self, plan: TrainingPlan, clock: Clock) -> None:
        self._plan = plan
        self._clock = clock
        self.title: str | None = None
        self._since = 0.0
        self._seconds: dict[str, float] = {}  # of the last one
        self._done_at: dict[str, int] = {}

    def begin(self, title: str) -> None:
        self.title, self._since = title, self._clock()

    def end(self, step: int) -> None:
        if self.title is not None:
            self._seconds[self.title] = self._clock() - self._since
            self._done_at[self.title] = step
        self.title = None

    def seconds_left(self, step: int) -> float:
        left = sum(self._seconds.get(title, 0.0) * self._to_come(title, step) for title in self._plan.asides)
        if self.title is None:
            return left
        return left + max(0.0, self._seconds.get(self.title, 0.0) - (self._clock() - self._since))

    def _to_come(self, title: str, step: int) -> int:
        """After `step`, without the one that is going on: at every multiple of its interval, and after the last."""
        if step >= self._plan.total:
            return int(title != self.title and self._done_at.get(title) != step)
        every = self._plan.asides[title]
        return (self._plan.total - 1) // every - step // every + 1


def typical(recent: Sequence[tuple[float, int]]) -> tuple[float, float]:
    """Mean seconds and images of steps, those left out that took much longer than the others; (0, 0) of none."""
    if not recent:
        return 0.0, 0.0
    limit = _UNUSUAL * statistics.median(seconds for seconds, _ in recent)
    usual = [one for one in recent if one[0] <= limit]
    return statistics.fmean(one[0] for one in usual), statistics.fmean(one[1] for one in usual)
