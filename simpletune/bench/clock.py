"""Time and memory of what runs on a device, and how fast the device multiplies matrices."""

from __future__ import annotations

import statistics
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from itertools import pairwise
from typing import Any

import psutil
import torch

from simpletune.bench.report import Memory, Timing
from simpletune.models.memory import release

_GIB = 2**30
_MATMUL_SIDE = {"cuda": 8192, "mps": 4096, "cpu": 1024}
_MATMUL_CALLS = 20


def synchronize(device: torch.device) -> None:
    """Wait until the device has done all it was given."""
    if device.type == "cuda":
        torch.cuda.synchronize(device)
    elif device.type == "mps":
        torch.mps.synchronize()


def time_stream(device: torch.device, work: Callable[[int], Any], calls: int, warm_up: int) -> Timing:
    """Seconds of each call of `work(0)`, `work(1)`, ... after the first `warm_up`, as the device sees them.

    On CUDA the host is never made to wait between calls, as in a run: the device marks the end of each. Elsewhere the
    host waits for each and reads its clock.
    """
    for index in range(warm_up):
        work(index)
    synchronize(device)
    if device.type != "cuda":
        return time_calls(device, lambda index: work(warm_up + index), calls, 0)
    marks = [torch.cuda.Event(enable_timing=True) for _ in range(calls + 1)]
    marks[0].record()
    for index in range(calls):
        work(warm_up + index)
        marks[index + 1].record()
    synchronize(device)
    return timing([before.elapsed_time(after) / 1000 for before, after in pairwise(marks)])


def time_calls(device: torch.device, work: Callable[[int], Any], calls: int, warm_up: int) -> Timing:
    """Seconds of each call after the first `warm_up`, waiting for the device after every one."""
    seconds = []
    for index in range(warm_up + calls):
        synchronize(device)
        began = time.perf_counter()
        work(index)
        synchronize(device)
        seconds.append(time.perf_counter() - began)
    return timing(seconds[warm_up:])


def timing(seconds: Sequence[float]) -> Timing:
    return Timing(statistics.median(seconds), min(seconds), max(seconds), len(seconds))


@contextmanager
def fresh_memory(device: torch.device) -> Iterator[Callable[[], Memory]]:
    """Start the peaks anew; what is yielded says them, from then on."""
    release(device)
    if device.type == "cuda":
        torch.cuda.reset_peak_memory_stats(device)
    yield lambda: peaks(device)


def peaks(device: torch.device) -> Memory:
    """The peaks since they were started anew; on a processor what the process holds now."""
    if device.type == "cuda":
        allocated, reserved = torch.cuda.max_memory_allocated(device), torch.cuda.max_memory_reserved(device)
        return Memory(allocated / _GIB, reserved / _GIB, None)
    if device.type == "mps":
        return Memory(torch.mps.current_allocated_memory() / _GIB, torch.mps.driver_allocated_memory() / _GIB, None)
    return Memory(None, None, psutil.Process().memory_info().rss / _GIB)


def matmul_tflops(device: torch.device, dtype: torch.dtype) -> float:
    """10^12 operations a second of a large square product, the median of several: what the device reaches at best."""
    side = _MATMUL_SIDE.get(device.type, 1024)
    a = torch.randn(side, side, device=device, dtype=dtype)
    b = torch.randn(side, side, device=device, dtype=dtype)
    out = torch.empty_like(a)
    taken = time_stream(device, lambda _: torch.mm(a, b, out=out), _MATMUL_CALLS, 5)
    return 2 * side**3 / taken.median / 1e12
