"""Reporters that show nothing, or only what must be known, or that remember what was said."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import AbstractContextManager, contextmanager
from typing import TextIO

from simpletune.progress.plain import PlainReporter
from simpletune.progress.reporter import Phase, Reporter, TrainingPhase
from simpletune.progress.training import StepNumbers, TrainingPlan


class SilentReporter:
    """Shows nothing; for tests and for callers that show progress in their own way."""

    @contextmanager
    def phase(self, title: str, total: float | None, unit: str, done: float = 0) -> Iterator[Phase]:  # noqa: ARG002
        yield _SilentPhase()

    @contextmanager
    def training(self, plan: TrainingPlan) -> Iterator[TrainingPhase]:  # noqa: ARG002
        yield SilentTraining()

    def note(self, text: str) -> None:
        pass

    def warn(self, text: str) -> None:
        pass


class _SilentPhase:
    def advance(self, amount: float = 1, **shown: str) -> None:
        pass


class SilentTraining:
    """A training that nobody watches."""

    def step(self, numbers: StepNumbers) -> None:
        pass

    @contextmanager
    def aside(self, title: str) -> Iterator[None]:  # noqa: ARG002
        yield

    def sampled(self, where: str) -> None:
        pass

    def stopping(self) -> bool:
        return False


class QuietReporter(SilentReporter):
    """Warnings alone, as plain lines."""

    def __init__(self, stream: TextIO) -> None:
        self._plain = PlainReporter(stream)

    def warn(self, text: str) -> None:
        self._plain.warn(text)


class WarningsKept:
    """Passes everything on to another reporter; `warnings` are those that came up so far, each once."""

    def __init__(self, reporter: Reporter) -> None:
        self._reporter = reporter
        self.warnings: list[str] = []

    def phase(self, title: str, total: float | None, unit: str, done: float = 0) -> AbstractContextManager[Phase]:
        return self._reporter.phase(title, total, unit, done)

    def training(self, plan: TrainingPlan) -> AbstractContextManager[TrainingPhase]:
        return self._reporter.training(plan)

    def note(self, text: str) -> None:
        self._reporter.note(text)

    def warn(self, text: str) -> None:
        if text not in self.warnings:
            self.warnings.append(text)
        self._reporter.warn(text)
