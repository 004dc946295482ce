"""Functions of tensors, captured in CUDA graphs: launched as a whole instead of kernel by kernel.

At batch 1 the host's time to launch some thousands of kernels is most of a training step's. A graph is made for each
set of input shapes, the third time they come: the first two runs are ordinary ones, in which kernels are compiled and
libraries make their plans, and which are as good as the others, so that nothing is computed for warming up. What comes
rarely is therefore never captured.

All graphs share one pool of memory, as they never run at the same time: it grows to what the largest needs.
"""

from __future__ import annotations

import gc
from collections import Counter
from collections.abc import Callable, Sequence
from contextlib import suppress
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

Function = Callable[..., tuple[Tensor, ...]]

WARM_UP = 2
"""Runs of a shape before it is captured."""


@dataclass(frozen=True)
class _Captured:
    graph: Any
    inputs: tuple[Tensor | None, ...]
    outputs: tuple[Tensor, ...]

    def replay(self, inputs: Sequence[Tensor | None]) -> tuple[Tensor, ...]:
        for static, given in zip(self.inputs, inputs, strict=True):
            if static is not None and given is not None:
                static.copy_(given, non_blocking=True)
        self.graph.replay()
        return self.outputs


class Graphs:
    """Runs named functions, from a graph where there is one.

    A function must compute on the device alone, with inputs, shapes and what it closes over deciding the rest; whatever
    it changes lives outside. Its outputs are the same tensors at every replay: copy what has to last. `say` is told,
    once, when a function can't be captured; it then runs uncaptured.
    """

    def __init__(self, device: torch.device, say: Callable[[str], None]) -> None:
        self._device = device
        self._say = say
        self._seen: Counter[tuple[Any, ...]] = Counter()
        self._captured: dict[tuple[Any, ...], _Captured] = {}
        self._refused: set[str] = set()
        self._failed: list[Any] = []
        self._pool: Any = None

    @property
    def count(self) -> int:
        """How many graphs there are."""
        return len(self._captured)

    def release(self) -> None:
        """Give the graphs' memory back, for a phase between steps; each is captured anew when it is needed again."""
        if torch.cuda.is_initialized():
            torch.cuda.synchronize(self._device)  # replays under way are still using that memory
        self._captured.clear()
        self._pool = None
        gc.collect()
        torch.cuda.empty_cache()

    def run(
        self, name: str, function: Function, inputs: Sequence[Tensor | None], *, again: bool = True
    ) -> tuple[Tensor, ...]:
        """function(*inputs), or its replay.

        `again`: where it finds no memory beside the graphs, they go and it is run once more. It must have changed
        nothing by then: what it changes comes after all that takes memory.
        """
        key = (name, *(None if tensor is None else (tensor.shape, tensor.dtype) for tensor in inputs))
        captured = self._captured.get(key)
        if captured is None and self._seen[key] >= WARM_UP and name not in self._refused:
            captured = self._try_to_capture(name, key, function, inputs)
        if captured is not None:
            return captured.replay(inputs)
        self._seen[key] += 1
        return self._uncaptured(name, function, inputs, again)

    def _try_to_capture(
        self, name: str, key: tuple[Any, ...], function: Function, inputs: Sequence[Tensor | None]
    ) -> _Captured | None:
        try:
            captured = self._captured[key] = self._capture(function, inputs)
        except RuntimeError as error:
            reason = _reason(error)
        else:
            return captured
        # Not above: the error holds on to every tensor that was made on the way to it.
        self._refused.add(name)
        self.release()
        self._say(f"execution: the {name} can't be captured, it runs kernel by kernel: {reason}")
        return None

    def _uncaptured(
        self, name: str, function: Function, inputs: Sequence[Tensor | None], again: bool
    ) -> tuple[Tensor, ...]:
        try:
            outputs = function(*inputs)
        except torch.OutOfMemoryError:
            if not (again and self._captured):
                raise
        else:
            if self._captured and name not in self._refused:
                torch.cuda.empty_cache()  # what it took of its own, beside the graphs' pool, nothing else could use
            return outputs
        self.release()  # a shape that comes rarely, and no room for it beside the graphs of the others
        return function(*inputs)

    def _capture(self, function: Function, inputs: Sequence[Tensor | None]) -> _Captured:
        static = tuple(None if tensor is None else tensor.clone() for tensor in inputs)
        gc.collect()
        torch.cuda.synchronize(self._device)
        torch.cuda.empty_cache()  # the graph has memory of its own: what earlier runs left would stay beside it
        if self._pool is None:
            self._pool = torch.cuda.graph_pool_handle()
        graph, stream = torch.cuda.CUDAGraph(), torch.cuda.current_stream(self._device)
        try:
            # The data loader's threads pin memory meanwhile, which is none of the graph's business.
            with torch.cuda.graph(graph, pool=self._pool, capture_error_mode="thread_local"):
                outputs = function(*static)
        except BaseException:
            self._abandon(graph, stream)
            raise
        return _Captured(graph, static, outputs)

    def _abandon(self, graph: Any, stream: Any) -> None:
        """Undo what torch leaves undone of a capture whose end fails as well.

        The stream is still the capture's, memory is still given out for it, and the random generator still believes
        that it is being captured, and would refuse to draw.
        """
        torch.cuda.set_stream(stream)
        device = torch.cuda.current_device()
        with suppress(RuntimeError):  # it did end: then all of this is done
            torch._C._cuda_endAllocateToPool(device, self._pool)
            torch._C._cuda_releasePool(device, self._pool)
        graph.reset()
        self._failed.append(graph)  # the allocator of pinned memory goes on asking it
        generator = torch.cuda.default_generators[device]
        generator.graphsafe_set_state(generator.clone_state())


def _reason(error: RuntimeError) -> str:
    """The first line of what went wrong first: the end of a failed capture only says that something did."""
    first = error.__context__ if isinstance(error.__context__, RuntimeError) else error
    return (str(first).strip().splitlines() or [type(first).__name__])[0]
