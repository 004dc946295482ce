"""Blocks of a transformer whose frozen weights lie in host memory, and are copied to the device just before they run.

A block's weights are one piece of memory on both sides, so that a block is one copy. The device has two places, which
take turns: while a block computes in one, the next is copied into the other, on a stream of its own. What is needed
when is known before a pass begins: the blocks in their order and, where gradients are wanted, back again. Nothing that
is kept for a backward pass may point into a place, because the next block overwrites it (`recompute.py`).

In a CUDA graph the copies become its nodes. Every pass begins with empty places and waits for each copy that it
started, so that the copying stream comes from the captured one and goes back to it, whatever ran before.
"""

from __future__ import annotations

import weakref
from collections import deque
from collections.abc import Callable, Iterable, Iterator, Sequence
from contextlib import contextmanager
from typing import Any, NamedTuple, TypeVar

import torch
from torch import Tensor, nn

from simpletune.config.offload import STAGED
from simpletune.models.family import UnsupportedModel
from simpletune.models.host_memory import HostMemory

ALIGNED = 256  # bytes: where a tensor's memory begins; kernels read 16 at a time
_ATTRIBUTE = "simpletune_offload"
Made = TypeVar("Made")


class _Place(NamedTuple):
    """Where a module's tensor lies in the module's piece of memory: what it came from, which other tensors may share,
    begins there at byte `start`; in that it lies as it did, `offset` numbers behind."""

    owner: nn.Module
    name: str
    is_parameter: bool
    start: int
    dtype: torch.dtype
    shape: torch.Size
    stride: tuple[int, ...]
    offset: int

    def view(self, memory: Tensor) -> Tensor:
        offset = (memory.storage_offset() + self.start) // self.dtype.itemsize + self.offset
        # Not a view for autograd and the compiler, who would look after the memory as a whole.
        tensor = torch.empty(0, dtype=self.dtype, device=memory.device)
        tensor.set_(memory.untyped_storage(), offset, self.shape, self.stride)
        return nn.Parameter(tensor, requires_grad=False) if self.is_parameter else tensor

    def put(self, tensor: Tensor) -> None:
        (self.owner._parameters if self.is_parameter else self.owner._buffers)[self.name] = tensor


class Packed:
    """A module's tensors, moved into one piece of host memory; the module's own are views of it from then on.

    Tensors that lay in one piece of memory lie in it as they did. Those whose name begins with one of `at_end` come
    last: `core` are the bytes without them.
    """

    def __init__(self, module: nn.Module, device: torch.device, at_end: Sequence[str] = ()) -> None:
        self.module = module
        owners = sorted(module.named_modules(), key=lambda named: named[0].startswith(tuple(at_end)))
        self._places: list[_Place] = []
        starts: dict[int, int] = {}
        storages: list[tuple[int, Tensor]] = []
        self.bytes = self.core = 0
        for name, owner in owners:
            for key, tensor, is_parameter in _own_tensors(owner):
                storage = tensor.untyped_storage()
                start = starts.setdefault(storage.data_ptr(), self.bytes)
                if start == self.bytes:
                    storages.append((start, torch.empty(0, dtype=torch.uint8, device=tensor.device).set_(storage)))
                    self.bytes += -(-storage.nbytes() // ALIGNED) * ALIGNED
                about = tensor.dtype, tensor.shape, tensor.stride(), tensor.storage_offset()
                self._places.append(_Place(owner, key, is_parameter, start, *about))
            if not name.startswith(tuple(at_end)):
                self.core = self.bytes
        self.memory = HostMemory(self.bytes, device)
        for start, content in storages:
            self.memory.bytes[start : start + content.numel()].copy_(content)
        self._at_home = self.views(self.memory.bytes)
        self.bind(self._at_home)

    def views(self, memory: Tensor) -> list[Tensor]:
        """The module's tensors as they lie in a copy of its memory, to be bound."""
        return [place.view(memory) for place in self._places]

    def bind(self, tensors: Iterable[Tensor]) -> None:
        """Make these the module's tensors."""
        for place, tensor in zip(self._places, tensors, strict=True):
            place.put(tensor)

    @contextmanager
    def bound(self, tensors: Iterable[Tensor]) -> Iterator[nn.Module]:
        """The module with these tensors."""
        self.bind(tensors)
        try:
            yield self.module
        finally:
            self.bind(self._at_home)


def _own_tensors(module: nn.Module) -> Iterator[tuple[str, Tensor, bool]]:
    for name, parameter in module._parameters.items():
        if parameter is not None:
            yield name, parameter.detach(), True
    for name, buffer in module._buffers.items():
        if buffer is not None:
            yield name, buffer, False


class _Need(NamedTuple):
    """A block that will be computed; `whole`: with all of its weights, not the core alone."""

    number: int
    whole: bool


class Offload:
    """A transformer's offloaded blocks. `at_end`: what the backward pass does without, by the beginning of its name."""

    def __init__(self, device: torch.device, at_end: Sequence[str] = ()) -> None:
        self.device = device
        self._at_end = tuple(at_end)
        self._packed: dict[int, Packed] = {}
        self._places: list[Tensor] = []
        self._views: dict[int, list[list[Tensor]]] = {}  # of each block in each place
        self._held: list[_Need | None] = []
        self._arrived: list[Any] = []  # the event of each place's last copy
        self._plan: deque[_Need] = deque()
        self._stream = torch.cuda.Stream(device) if device.type == "cuda" else None

    @property
    def numbers(self) -> tuple[int, ...]:
        """The offloaded blocks, in order."""
        return tuple(sorted(self._packed))

    @property
    def host_bytes(self) -> int:
        return sum(packed.bytes for packed in self._packed.values())

    @property
    def is_pinned(self) -> bool:
        """Whether all of it is host memory that copies needn't wait for."""
        return all(packed.memory.is_pinned for packed in self._packed.values())

    def add(self, number: int, block: nn.Module) -> None:
        """Move a block's tensors, all frozen, to host memory. A LoRA is put on afterwards."""
        self._packed[number] = Packed(block, self.device, self._at_end)

    def attach(self, transformer: nn.Module) -> None:
        """Make the places, once all blocks are added, and have the transformer's own forward pass use them."""
        size = max(packed.bytes for packed in self._packed.values())
        for _ in range(min(STAGED, len(self._packed))):
            self._places.append(torch.empty(size, dtype=torch.uint8, device=self.device))
        self._held, self._arrived = [None] * len(self._places), [None] * len(self._places)
        for number, packed in self._packed.items():
            self._views[number] = [packed.views(place) for place in self._places]
        setattr(transformer, _ATTRIBUTE, self)
        _hook(transformer, self)

    def in_each_place(self, number: int, make: Callable[[nn.Module], Made]) -> list[Made]:
        """What `make` makes of the block, for each place that it may be in."""
        made = []
        for views in self._views[number]:
            with self._packed[number].bound(views) as block:
                made.append(make(block))
        return made

    def begin(self, numbers: Iterable[int], back: Iterable[int] = ()) -> None:
        """A pass begins, which needs these blocks in this order, and then the cores of those of `back`."""
        self._held = [None] * len(self._places)
        self._plan = deque([*(_Need(number, True) for number in numbers), *(_Need(number, False) for number in back)])
        self._look_ahead()

    @contextmanager
    def held(self, number: int, *, whole: bool = True) -> Iterator[int]:
        """The place where the block's weights are while inside; at the end the next ones may begin to come."""
        place = self._arrive(_Need(number, whole))
        try:
            yield place
        finally:
            self._look_ahead()

    @contextmanager
    def bound(self, number: int) -> Iterator[nn.Module]:
        """The block itself, with its weights on the device while inside."""
        with self.held(number) as place, self._packed[number].bound(self._views[number][place]) as block:
            yield block

    def _arrive(self, need: _Need) -> int:
        if self._plan and self._plan[0] == need:
            self._plan.popleft()
        place = self._place_of(need)
        if place is None:  # not as planned: it is copied now, and waited for
            place = 0
            self._copy(need, place)
        if self._arrived[place] is not None:
            torch.cuda.current_stream(self.device).wait_event(self._arrived[place])
        return place

    def _place_of(self, need: _Need) -> int | None:
        return next((index for index, held in enumerate(self._held) if _serves(held, need)), None)

    def _look_ahead(self) -> None:
        """Begin to copy what comes next, as far as there are places that nothing needs before."""
        wanted: list[_Need] = []
        for need in self._plan:
            if len(wanted) < len(self._places) and need.number not in [other.number for other in wanted]:
                wanted.append(need)
            if len(wanted) == len(self._places):
                break
        taken = {self._place_of(need) for need in wanted}
        free = [index for index in range(len(self._places)) if index not in taken]
        for need in wanted:
            if self._place_of(need) is None:
                self._copy(need, free.pop())

    def _copy(self, need: _Need, place: int) -> None:
        packed = self._packed[need.number]
        size = packed.bytes if need.whole else packed.core
        target, source = self._places[place][:size], packed.memory.bytes[:size]
        self._held[place] = need
        if self._stream is None:
            target.copy_(source)
            return
        # All that was in this place has been computed with by what the device has been told up to now.
        self._stream.wait_event(torch.cuda.current_stream(self.device).record_event())
        with torch.cuda.stream(self._stream):
            target.copy_(source, non_blocking=True)
            self._arrived[place] = self._stream.record_event()


def _serves(held: _Need | None, need: _Need) -> bool:
    return held is not None and held.number == need.number and (held.whole or not need.whole)


def offload_of(transformer: nn.Module) -> Offload | None:
    """A transformer's offloaded blocks; None when all its weights are on the device."""
    return getattr(transformer, _ATTRIBUTE, None)


def _hook(transformer: Any, offload: Offload) -> None:
    """Let the modules' own forward pass fetch the weights of each block. It can't be differentiated."""
    transformer.register_forward_pre_hook(_begin, with_kwargs=True)
    # Not the object itself: block and offload would keep each other, and the places, until garbage is collected.
    reference = weakref.ref(offload)
    for number in offload.numbers:
        _hook_block(transformer.transformer_blocks[number], number, reference)


def _begin(transformer: nn.Module, _args: Any, kwargs: dict[str, Any]) -> None:
    offload = offload_of(transformer)
    assert offload is not None
    if torch.is_grad_enabled() and any(parameter.requires_grad for parameter in transformer.parameters()):
        raise UnsupportedModel("weights in host memory give no gradients through the model's own modules")
    skipped = kwargs.get("skip_layers") or ()
    offload.begin(number for number in offload.numbers if number not in skipped)


def _hook_block(block: nn.Module, number: int, reference: weakref.ref[Offload]) -> None:
    inside: list[Any] = []

    def enter(_module: nn.Module, _args: Any) -> None:
        offload = reference()
        assert offload is not None  # the transformer has it
        inside.append(offload.bound(number))
        inside[-1].__enter__()

    def leave(_module: nn.Module, _args: Any, _result: Any) -> None:
        inside.pop().__exit__(None, None, None)

    block.register_forward_pre_hook(enter)
    block.register_forward_hook(leave, always_call=True)
