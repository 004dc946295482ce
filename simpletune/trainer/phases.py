"""How long each phase of a run took, and the most memory it held: what the next run's settings are chosen by."""

from __future__ import annotations

import time
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any

import psutil
import torch

_GIB = 2**30


@dataclass
class Phase:
    """Time and peaks of one phase, those of phases inside it left out.

    On a GPU the peaks are what torch allocated and reserved there; elsewhere `allocated_gib` is the largest resident
    memory of the process seen at the phase's ends, and `reserved_gib` is 0.
    """

    name: str
    seconds: float = 0.0
    allocated_gib: float = 0.0
    reserved_gib: float = 0.0


class PhaseLog:
    """Measures named phases, which may nest and may come back."""

    def __init__(self, device: torch.device) -> None:
        self._device = device
        self._phases: dict[str, Phase] = {}
        self._open: list[Phase] = []
        self._since = time.perf_counter()
        self.failed: str | None = None
        """The innermost phase that an error ended."""

    @contextmanager
    def measure(self, name: str) -> Iterator[None]:
        """Count the block to phase `name` instead of the phase around it."""
        self._settle()
        self._open.append(self._phases.setdefault(name, Phase(name)))
        try:
            yield
        except BaseException:
            self.failed = self.failed or name
            raise
        finally:
            self._settle()
            self._open.pop()

    def rows(self) -> list[Phase]:
        """Every phase, in the order of their first beginnings."""
        return list(self._phases.values())

    def as_json(self) -> list[dict[str, Any]]:
        return [
            {
                "phase": phase.name,
                "seconds": round(phase.seconds, 2),
                "peak_allocated_gib": round(phase.allocated_gib, 3),
                "peak_reserved_gib": round(phase.reserved_gib, 3),
            }
            for phase in self.rows()
        ]

    def _settle(self) -> None:
        """Give what happened since the last call to the innermost open phase, and start afresh."""
        now = time.perf_counter()
        allocated, reserved = self._peaks()
        if self._open:
            phase = self._open[-1]
            phase.seconds += now - self._since
            phase.allocated_gib = max(phase.allocated_gib, allocated)
            phase.reserved_gib = max(phase.reserved_gib, reserved)
        self._since = now

    def _peaks(self) -> tuple[float, float]:
        if self._device.type != "cuda":
            return psutil.Process().memory_info().rss / _GIB, 0.0
        allocated = torch.cuda.max_memory_allocated(self._device) / _GIB
        reserved = torch.cuda.max_memory_reserved(self._device) / _GIB
        torch.cuda.empty_cache()  # what the last phase kept for reuse is not what the next one needs
        torch.cuda.reset_peak_memory_stats(self._device)
        return allocated, reserved
