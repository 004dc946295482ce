"""How long work is shown: a live display with rate and time left on a terminal, plain lines everywhere else.

Everything that takes time asks its `Reporter` for a `Phase` and advances it; what it looks like is decided here once.

All of it goes to stderr, in one stream so that lines stay in order; stdout is left to what a command was asked for.
Whatever is shown is text, never markup, and passes `redact`.
"""

from __future__ import annotations

import os
import sys
from typing import Literal, TextIO

from simpletune.progress.live import RichReporter
from simpletune.progress.plain import PlainReporter
from simpletune.progress.reporter import Phase, Reporter, TrainingPhase
from simpletune.progress.silent import QuietReporter, SilentReporter, SilentTraining, WarningsKept
from simpletune.progress.training import StepNumbers, TrainingPlan

__all__ = [
    "Look",
    "Phase",
    "PlainReporter",
    "QuietReporter",
    "Reporter",
    "RichReporter",
    "SilentReporter",
    "SilentTraining",
    "StepNumbers",
    "TrainingPhase",
    "TrainingPlan",
    "WarningsKept",
    "terminal_reporter",
]

Look = Literal["auto", "plain", "quiet"]


def terminal_reporter(stream: TextIO | None = None, look: Look = "auto") -> Reporter:
    """Where `stream` (stderr) is a terminal that can move its cursor a live display, else plain lines.

    look: "plain" lines in any case, "quiet" for warnings alone.
    """
    stream = stream or sys.stderr
    if look == "quiet":
        return QuietReporter(stream)
    if look == "plain" or not stream.isatty() or os.environ.get("TERM", "") in {"dumb", "unknown"}:
        return PlainReporter(stream)
    from rich.console import Console

    return RichReporter(Console(file=stream, highlight=False, markup=False, emoji=False))
