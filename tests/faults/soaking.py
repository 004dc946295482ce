"""A long run watched from within: memory, descriptors and threads, every so many steps."""

from __future__ import annotations

import ctypes
import gc
import json
import os
import re
import statistics
import threading
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

EVERY = 10
"""Steps between two samples."""
_WARMING = 0.3
"""The share of a run in which caches fill and the allocator finds its size."""
_BLOCKS = 10
_GRAIN_KIB = 1024
"""Less than that is no growth: 7 validations leave 160 KiB in safetensors, and pages are given back in pieces."""
_ANONYMOUS = re.compile(r"^RssAnon:\s+(\d+) kB", re.MULTILINE)

Sample = dict[str, int]


def watch(to: Path) -> None:
    """Sample before every so many steps, into a line of `to` each: what is kept in memory would be found as a leak."""
    from simpletune.trainer.session import Session

    advance, file = Session.advance, os.open(to, os.O_WRONLY | os.O_CREAT | os.O_TRUNC)
    gc.freeze()  # what is here already need not be looked at by each collection: 0.2 s

    def sampled(self: Any, batch: Any) -> Any:
        if self.step % EVERY == 0:
            give_back()
            os.write(file, (json.dumps({"step": self.step, **state()}) + "\n").encode())
        return advance(self, batch)

    Session.advance = sampled  # type: ignore[method-assign]


def give_back() -> None:
    """What is free goes back to the system, so that a sample tells what is held.

    How much the allocator keeps of what was freed depends on which thread was given which of its arenas, and when.
    Without this a run on a busy machine rose by 2 MiB in 700 steps; where the bytes in use were counted, by 20 KiB.
    """
    gc.collect()
    ctypes.CDLL(None).malloc_trim(0)


def state() -> Sample:
    """KiB of memory that no file is behind, open descriptors and threads."""
    found = _ANONYMOUS.search(Path("/proc/self/status").read_text())
    assert found is not None
    return {
        "anonymous_kib": int(found[1]),
        "descriptors": len(os.listdir("/proc/self/fd")),  # noqa: PTH208
        "threads": threading.active_count(),
    }


def read(path: Path) -> list[Sample]:
    return [json.loads(line) for line in path.read_text().splitlines()]


@dataclass(frozen=True)
class Growth:
    """Of memory over the samples that count: by a line through the least of each of ten blocks in a row.

    A step's own memory, a validation's and a save's come and go; what stays lifts the least. noise_kib: how far the
    blocks lie from the line (standard deviation).
    """

    kib: float
    noise_kib: float
    steps: int

    @property
    def flat(self) -> bool:
        """Whether the line rises no more than the noise explains."""
        return self.kib <= max(3 * self.noise_kib, _GRAIN_KIB)


def growth(samples: Sequence[Sample]) -> Growth:
    counted = samples[int(len(samples) * _WARMING) :]
    size = len(counted) // _BLOCKS
    blocks = [counted[start : start + size] for start in range(0, size * _BLOCKS, size)]
    least = [min(sample["anonymous_kib"] for sample in block) for block in blocks]
    slope, base = statistics.linear_regression(range(_BLOCKS), least)
    noise = statistics.stdev(value - base - slope * at for at, value in enumerate(least))
    return Growth(slope * (_BLOCKS - 1), noise, counted[-1]["step"] - counted[0]["step"])


def grown(samples: Sequence[Sample], what: str) -> int:
    """By how much the least of the second half is above the least of the first, the first third left out: what is open
    only while a checkpoint is written is in some samples and not in others."""
    settled = samples[len(samples) // 3 :]
    half = len(settled) // 2
    return min(sample[what] for sample in settled[half:]) - min(sample[what] for sample in settled[:half])
