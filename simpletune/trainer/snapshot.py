"""A training's state, copied to the host in one short pause, so that it can be written while the training goes on."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import dataclass, replace
from typing import Any

import torch
from torch import Tensor

from simpletune.models.host_memory import HostMemory

_ALIGNED = 64  # bytes; any dtype may begin there


@dataclass(frozen=True)
class Contents:
    """What a checkpoint is to hold. `optimizer_json`, `state` and `metadata` are plain values already.

    `ema` is the adapter with the averaged weights in place of the trained ones; None where no average is kept.
    """

    step: int
    adapter: Mapping[str, Tensor]
    metadata: Mapping[str, str]
    optimizer_tensors: Mapping[str, Tensor]
    optimizer_json: Mapping[str, Any]
    ema: Mapping[str, Tensor] | None
    state: Mapping[str, Any]

    def tensors(self) -> Iterator[Tensor]:
        yield from self.adapter.values()
        yield from self.optimizer_tensors.values()
        yield from (self.ema or {}).values()

    @property
    def bytes(self) -> int:
        """Of all tensors."""
        return sum(tensor.nbytes for tensor in self.tensors())


class Snapshots:
    """Takes one snapshot at a time into memory that is kept for the next: the last one is overwritten by it.

    On a CUDA device the memory is pinned where the system lets us, and copies run at the link's speed.
    """

    def __init__(self, device: torch.device) -> None:
        self._device = device
        self._memory = HostMemory(0, device)
        self._taken = 0

    def make_room(self, contents: Contents) -> None:
        """Get the memory for such contents now, which takes longer than filling it."""
        size = sum(_room(tensor) for tensor in contents.tensors())
        if self._memory.bytes.numel() < size:
            self._memory = HostMemory(size, self._device)

    def take(self, contents: Contents) -> Contents:
        """The contents on the host. The copies are under way when this returns: `wait` before reading them.

        They are queued behind the work that the device has already been given, and before what it is given next.
        """
        self.make_room(contents)
        self._taken = 0
        return replace(
            contents,
            adapter=self._copies(contents.adapter),
            optimizer_tensors=self._copies(contents.optimizer_tensors),
            ema=None if contents.ema is None else self._copies(contents.ema),
        )

    def wait(self) -> None:
        """Return once the device has copied everything. Only for the thread that gives the device its work: while that
        captures a graph, a question from another thread would spoil it."""
        if self._device.type == "cuda":
            event = torch.cuda.Event()
            event.record()
            event.synchronize()

    def _copies(self, tensors: Mapping[str, Tensor]) -> dict[str, Tensor]:
        return {name: self._copy(tensor.detach()) for name, tensor in tensors.items()}

    def _copy(self, tensor: Tensor) -> Tensor:
        piece = self._memory.bytes[self._taken : self._taken + tensor.nbytes]
        self._taken += _room(tensor)
        return piece.view(tensor.dtype).view(tensor.shape).copy_(tensor, non_blocking=self._memory.is_pinned)


def _room(tensor: Tensor) -> int:
    return -(-tensor.nbytes // _ALIGNED) * _ALIGNED
