"""The moving parts of encoding: batches that shrink to fit, pictures made ready ahead, entries written behind.

On a GPU nothing here waits for the device: a batch is launched while the one before is on its way to the disk.
"""

from __future__ import annotations

import os
import threading
import time
from collections import deque
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from contextlib import contextmanager
from typing import TYPE_CHECKING, Any, TypeVar

import numpy as np
import torch
from torch import Tensor

from simpletune.data.caches.cache import Stored
from simpletune.data.caches.entries import listed
from simpletune.errors import DataError, OutOfMemory
from simpletune.models.memory import ran_out, release

if TYPE_CHECKING:
    from simpletune.progress import Reporter

_PENDING_WRITES = 64
_WRITER = "write-cache"
_WRITERS = 8  # a writer mostly waits for the disk

T = TypeVar("T")
R = TypeVar("R")


class Halving:
    """Runs an encoder over batches whose size is halved, for good, each time one doesn't fit into memory.

    Nothing is encoded twice: what is done when memory runs out stays done. Numbers differ in their last bits with a
    batch's shape. So that a run which goes on after a kill gives what one that was left alone would have, a batch is
    filled up with copies of its last item.
    """

    def __init__(self, size: int, key: str, device: torch.device, reporter: Reporter) -> None:
        self._size = size
        self._key = key
        self._device = device
        self._reporter = reporter
        self._too_large: int | None = None  # the size that memory first ran out with, until it has been told

    def run(self, items: Sequence[T], encode: Callable[[Sequence[T]], R], of: int) -> Iterator[tuple[Sequence[T], R]]:
        """(batch, its encoding), over all items in order; the encoding may have more rows than the batch.

        of: how many items of this shape there are in all, those that are cached counted; no batch is filled beyond.
        Raises OutOfMemory, caused by what the device said, when one item alone doesn't fit.
        """
        return self.run_together(items, lambda batches: map(encode, batches), of)

    def run_together(
        self, items: Sequence[T], encode: Callable[[Sequence[Sequence[T]]], Iterator[R]], of: int
    ) -> Iterator[tuple[Sequence[T], R]]:
        """`run` with what encodes many batches better than one: given all that are left, it gives what each becomes."""
        position = 0
        while position < len(items):
            batches = [items[start : start + self._size] for start in range(position, len(items), self._size)]
            filled = [[*batch, *[batch[-1]] * (min(self._size, of) - len(batch))] for batch in batches]
            encoded = encode(filled)
            for batch in batches:
                try:
                    result = next(encoded)
                except RuntimeError as error:
                    if not ran_out(error):
                        raise
                    full = error.with_traceback(None)  # which keeps the failed batch's tensors alive
                    break
                self._tell()
                yield batch, result
                position += len(batch)
            else:
                return
            self._halve(len(filled[0]), full)

    def _halve(self, tried: int, full: RuntimeError) -> None:
        if tried == 1:
            message = f"out of memory while encoding with {self._key} 1"
            raise OutOfMemory(message, 'close what else uses the device, or set "device" to "cpu"') from full
        self._too_large = self._too_large or tried
        self._size = tried // 2
        release(self._device)

    def _tell(self) -> None:
        """Say, once the size that fits is found, what it is and how to begin with it."""
        if self._too_large is not None:
            self._reporter.note(
                f"out of memory with a batch of {self._too_large}: going on with {self._size}, and nothing is lost; "
                f'to begin with that, set "{self._key}" to {self._size}'
            )
            self._too_large = None


class Writer:
    """Writes entries in threads; `put` waits while too many are pending."""

    def __init__(self, pool: ThreadPoolExecutor) -> None:
        self._pool = pool
        self._pending: deque[Future[None]] = deque()

    def put(self, stored: Stored, tensors: Callable[[], dict[str, Tensor]], what: str) -> None:
        """Write what `tensors` gives, which is called in the writing thread and may wait; `what` names it."""
        self._pending.append(self._pool.submit(_write, stored, tensors, what))
        self.wait(_PENDING_WRITES)

    def wait(self, at_most: int) -> None:
        """Until at most so many writes are pending. Raises what a write raised."""
        while len(self._pending) > at_most:
            self._pending.popleft().result()


@contextmanager
def writing() -> Iterator[Writer]:
    """A writer whose entries are all on disk when the block ends well."""
    pool = ThreadPoolExecutor(_WRITERS, _WRITER)
    try:
        writer = Writer(pool)
        yield writer
        writer.wait(0)
    finally:
        pool.shutdown(cancel_futures=True)
        # A pool doesn't know the thread that it was starting when Ctrl-C came.
        for thread in threading.enumerate():
            if thread.name.startswith(_WRITER):
                _join(thread)


def _join(thread: threading.Thread) -> None:
    """Wait for its end; also where Ctrl-C came in the middle of its start. One that doesn't start within a second was
    cut off before it could."""
    for _ in range(1000):
        try:
            thread.join()
        except RuntimeError:  # not started yet
            time.sleep(0.001)
        else:
            return


def _write(stored: Stored, give: Callable[[], dict[str, Tensor]], what: str) -> None:
    tensors = give()
    if not all(torch.isfinite(tensor).all() for tensor in tensors.values()):
        hint = "with mixed_precision fp16, use bf16 or no; otherwise the model's files may be damaged"
        raise DataError(f"encoding {what} gave numbers that aren't finite", hint)
    stored.cache.put(stored.key, tensors)


def threads() -> ThreadPoolExecutor:
    """For work that waits for the disk or releases the interpreter's lock."""
    return ThreadPoolExecutor(min(8, os.cpu_count() or 1), "pictures")


def to_host(tensor: Tensor) -> Callable[[], Tensor]:
    """Start copying a tensor to the CPU; what is returned waits until it is there."""
    if tensor.device.type != "cuda":
        copied = tensor.cpu()
        return lambda: copied
    host = torch.empty(tensor.shape, dtype=tensor.dtype, pin_memory=True)
    host.copy_(tensor, non_blocking=True)
    arrived = torch.cuda.Event()
    arrived.record()

    def wait() -> Tensor:
        arrived.synchronize()
        return host

    return wait


def stacked(pictures: Sequence[np.ndarray[Any, Any]], device: torch.device) -> np.ndarray[Any, Any]:
    """The pictures (H, W, 3) as one batch (B, H, W, 3), in pinned memory where the device is a CUDA one."""
    shape = (len(pictures), *pictures[0].shape)
    batch = torch.empty(shape, dtype=torch.uint8, pin_memory=device.type == "cuda")
    together: np.ndarray[Any, Any] = batch.numpy()
    np.stack(pictures, out=together)
    return together


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


def absent(stored: Mapping[T, Stored], what: str, reporter: Reporter, verify: bool) -> list[T]:
    """The items whose entry isn't there, in order; with `verify` also those whose entry is damaged, which is said."""
    there = {folder: listed(folder) for folder in {entry.cache.folder for entry in stored.values()}}
    missing = {item for item, entry in stored.items() if entry.key not in there[entry.cache.folder]}
    if verify:
        missing |= set(damaged({item: entry for item, entry in stored.items() if item not in missing}, what, reporter))
    return [item for item in stored if item in missing]


def damaged(stored: Mapping[T, Stored], what: str, reporter: Reporter) -> list[T]:
    """The items whose entry is there but can't be used, in order; says how many. Reads all of them."""
    items = list(stored)
    pool, found = threads(), []
    try:
        with reporter.phase(f"Checking cached {what}s", len(items), what) as phase:
            for item, sound in zip(items, pool.map(lambda item: stored[item].sound(), items), strict=True):
                if not sound:
                    found.append(item)
                phase.advance()
    finally:
        pool.shutdown(cancel_futures=True)
    if found:
        named = "1 damaged cache entry is" if len(found) == 1 else f"{len(found)} damaged cache entries are"
        reporter.warn(f"{named} encoded again ({what}s)")
    return found
