"""Whether reading files is work for Python, which threads only slow down, or waiting for a drive, which they share."""

from __future__ import annotations

from collections.abc import Sequence
from statistics import median

THREADS_WHEN_WAITING = 16

_WAITING_SECONDS = 0.001


def is_waiting(seconds: Sequence[float]) -> bool:
    """Judge by how long each of the first files took.

    The middle one counts: on a busy computer a few take long as something else had the processor. Threads took 3 times
    as long as one, measured on a local disk, where a file takes 0.02 to 0.2 ms; a network folder takes some
    milliseconds.
    """
    return bool(seconds) and median(seconds) > _WAITING_SECONDS
