"""The moving parts of encoding: batches that shrink to fit, files read ahead in threads, entries written behind."""

from __future__ import annotations

import gc
import os
from collections import deque
from collections.abc import Callable, Iterable, Iterator, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from contextlib import contextmanager
from typing import TYPE_CHECKING, TypeVar

import torch
from torch import Tensor

from simpletune.data.cache import Stored
from simpletune.errors import DataError, OutOfMemory

if TYPE_CHECKING:
    from simpletune.progress import Reporter

_PENDING_WRITES = 16

T = TypeVar("T")
R = TypeVar("R")


class Halving:
    """Runs an encoder over batches whose size is halved, for good, each time one doesn't fit into memory."""

    def __init__(self, size: int, key: str, reporter: Reporter) -> None:
        self._size = size
        self._key = key
        self._reporter = reporter

    def run(self, items: Sequence[T], encode: Callable[[Sequence[T]], R]) -> Iterator[tuple[Sequence[T], R]]:
        """(batch, its encoding), over all items in order."""
        position = 0
        while position < len(items):
            batch = items[position : position + self._size]
            try:
                result = encode(batch)
            except torch.OutOfMemoryError as error:
                problem = str(error).splitlines()[0]
            else:
                yield batch, result
                position += len(batch)
                continue
            self._halve(len(batch), problem)  # out of the handler, which keeps the failed batch's tensors alive

    def _halve(self, tried: int, problem: str) -> None:
        if tried == 1:
            hint = "close what else uses the device, lower the resolution, or set device to cpu"
            raise OutOfMemory(f"out of memory while encoding with {self._key} 1 ({problem})", hint)
        self._size = tried // 2
        release(torch.device("cuda" if torch.cuda.is_available() else "cpu"))
        self._reporter.note(f"out of memory with a batch of {tried}: going on with {self._key} {self._size}")


class Writer:
    """Writes entries in threads; `put` waits while too many are pending."""

    def __init__(self, pool: ThreadPoolExecutor) -> None:
        self._pool = pool
        self._pending: deque[Future[None]] = deque()

    def put(self, stored: Stored, tensors: dict[str, Tensor], what: str) -> None:
        self._pending.append(self._pool.submit(_write, stored, tensors, what))
        self.wait(_PENDING_WRITES)

    def wait(self, at_most: int) -> None:
        """Until at most so many writes are pending. Raises what a write raised."""
        while len(self._pending) > at_most:
            self._pending.popleft().result()


@contextmanager
def writing() -> Iterator[Writer]:
    """A writer whose entries are all on disk when the block ends well."""
    with ThreadPoolExecutor(2, "write-cache") as pool:
        writer = Writer(pool)
        yield writer
        writer.wait(0)


def _write(stored: Stored, tensors: dict[str, Tensor], what: str) -> None:
    if not all(torch.isfinite(tensor).all() for tensor in tensors.values()):
        hint = "with mixed_precision fp16, use bf16 or no; otherwise the model's files may be damaged"
        raise DataError(f"encoding {what} gave numbers that aren't finite", hint)
    stored.cache.put(stored.key, tensors)


def read_ahead(
    pool: ThreadPoolExecutor, function: Callable[[T], R], items: Iterable[T], ahead: int
) -> Iterator[tuple[T, R]]:
    """(item, function(item)) in order, computed in threads at most `ahead` items before they are asked for."""
    waiting: deque[tuple[T, Future[R]]] = deque()
    for item in items:
        waiting.append((item, pool.submit(function, item)))
        if len(waiting) > ahead:
            first, future = waiting.popleft()
            yield first, future.result()
    for first, future in waiting:
        yield first, future.result()


def threads() -> ThreadPoolExecutor:
    """For reading and decoding pictures, which release the interpreter's lock."""
    return ThreadPoolExecutor(min(8, os.cpu_count() or 1), "pictures")


def release(device: torch.device) -> None:
    """Give back the memory of what was dropped just before."""
    gc.collect()
    if device.type == "cuda":
        torch.cuda.empty_cache()
