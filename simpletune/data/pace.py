"""What the time of going through many files goes into: Python's work, which threads only slow down, or waiting for a
drive, which they share.
"""

from __future__ import annotations

import gc
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from statistics import median

THREADS_WHEN_WAITING = 16

_WAITING_SECONDS = 0.0003


def is_waiting(seconds: Sequence[float]) -> bool:
    """Judge by how long some files took each.

    The middle one counts: on a busy computer a few take long as something else had the processor. Measured on two
    processors: files that the system has in memory take 0.04 to 0.1 ms each, and threads take two to four times as long
    for them as one; from a disk they take 0.4 ms, and threads see 2.4 times as many; a network folder takes
    milliseconds.
    """
    return bool(seconds) and median(seconds) > _WAITING_SECONDS


def waits() -> int | None:
    """How often this process has let go of the processor to wait for something; None where that isn't counted.

    On a busy computer files take long without any waiting, as something else has the processor.
    """
    try:
        import resource
    except ImportError:  # Windows
        return None
    return resource.getrusage(resource.RUSAGE_SELF).ru_nvcsw


@contextmanager
def many_small_objects() -> Iterator[None]:
    """For making hundreds of thousands of tuples that all stay, and no cycles of objects.

    Python would search them for cycles again and again as they grow in number: a fifth of a warm scan's time.
    """
    searches = gc.isenabled()
    gc.disable()
    try:
        yield
    finally:
        if searches:
            gc.enable()
